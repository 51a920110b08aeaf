"""Small workloads and machines of the co-design tests."""

from __future__ import annotations

import dataclasses
import random
import re
from importlib import resources
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from spikeloom.core.nodes import Leak
from spikeloom.core.trace import Spikes
from spikeloom.core.workload import Layer, NeuronRule, Workload
from tests.hw.test_spikex import arch_of, layer_of
from tests.hw.test_spikex_joins import workload_of
from tests.reference import spikex as slow
from tests.reference.cases import joined_cases, layer_cases, membrane_cases

__all__ = ["arch_of", "joined_workloads", "leaking_registers", "shuffled", "tiny_workload", "workloads"]


def shuffled(case: slow.LayerCase, seed: int) -> slow.LayerCase:
    """Another sample of the same layer: its steps in another order."""
    rng = random.Random(seed)
    levels = list(case.levels)
    rng.shuffle(levels)
    return dataclasses.replace(case, levels=levels)


@st.composite
def workloads(draw: st.DrawFn, *, max_layers: int = 3) -> Workload:
    """Up to three layers on one to three samples: grouped, graded, constant, biased, with and without known outputs."""
    samples = draw(st.integers(1, 3))
    layers = []
    for k in range(draw(st.integers(1, max_layers))):
        case = draw(layer_cases() | membrane_cases())
        cases = [shuffled(case, seed) for seed in range(samples)]
        layers.append(dataclasses.replace(layer_of(cases), name=f"layer{k}"))
    return Workload(tuple(layers), max(layer.num_steps for layer in layers), samples)


@st.composite
def joined_workloads(draw: st.DrawFn) -> Workload:
    """One or two branches and the layer that has their neurons, on one or two samples."""
    owner = draw(joined_cases())
    seeds = range(draw(st.integers(1, 2)))
    return workload_of(
        *(
            dataclasses.replace(
                shuffled(owner, seed), branches=tuple(shuffled(branch, seed + 1) for branch in owner.branches)
            )
            for seed in seeds
        )
    )


def tiny_workload(seed: int = 0, *, samples: int = 2, steps: int = 12) -> Workload:
    """A convolution and a linear layer with leaky neurons and pruned weights; some channels and steps are silent."""
    rng = np.random.default_rng(seed)

    def spikes(*shape: int) -> Spikes:
        silent = rng.random((steps, samples, shape[0], 1, 1)) < 0.5
        return Spikes.pack((rng.random((steps, samples, *shape)) < 0.3) & ~silent)

    def weight(*shape: int) -> np.ndarray:
        return rng.integers(-7, 8, shape) * (rng.random(shape) < 0.4)

    hidden = spikes(5, 4, 4)
    neuron = NeuronRule("lif", Leak(shift=2), "hard")
    conv = Layer("conv1", "conv2d", 3, 5, 6, 6, 3, 3, 4, 4, spikes(3, 6, 6), neuron=neuron, out=hidden,
                 weight=weight(5, 3, 3, 3))  # fmt: skip
    flat = hidden.reshape((80, 1, 1))
    linear = Layer(
        "fc1", "linear", 80, 7, 1, 1, 1, 1, 1, 1, flat, neuron=neuron, inputs=("conv1",), weight=weight(7, 80, 1, 1)
    )
    return Workload((conv, linear), steps, samples)


def leaking_registers(folder: Path) -> str:
    """A component table like the default one whose registers leak a microwatt a bit; its path."""
    shipped = resources.files("spikeloom.components") / "tables"
    arithmetic, memories = (
        (shipped / f"{name}.toml").read_text(encoding="utf-8") for name in ("aladdin32", "cacti32-hp")
    )
    arithmetic, leaking = re.subn(
        r"(width_bit = (\d+), read_pj = \S+, write_pj = \S+ area_um2 = \S+) }", r"\1, leakage_uw = \2 }", arithmetic
    )
    arithmetic, excluded = re.subn(r'\[entry.excluded\]\nleakage = "the source states 0.*\n', "", arithmetic)
    assert leaking and excluded == 1
    path = folder / "leaking-registers.toml"
    path.write_text(
        memories.replace('"aladdin32", ', "") + "\n" + arithmetic[arithmetic.index("[[entry]]") :], encoding="utf-8"
    )
    return str(path)
