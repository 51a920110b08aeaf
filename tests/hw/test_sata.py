"""The count of the sata array in trace fidelity equals nested loops; pools, sums, levels and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloom.core.counts import Counts
from spikeloom.core.network import Network, chain
from spikeloom.core.nodes import (
    IF,
    LI,
    Add,
    AvgPool2d,
    Conv1d,
    Conv2d,
    Flatten,
    Input,
    Linear,
    MaxPool2d,
    Node,
    SumPool2d,
)
from spikeloom.core.trace import Levels, Spikes, SpikeTrace
from spikeloom.core.workload import Layer, Workload
from spikeloom.errors import ConfigError, MappingError
from spikeloom.evaluate import evaluate, load_machine
from spikeloom.hw.sata import Sata
from spikeloom.hw.sata_arch import SataArch
from spikeloom.lower import lower
from tests.hw.test_spikex import layer_of
from tests.reference import sata as slow
from tests.reference.cases import layer_cases
from tests.reference.spikex import LayerCase

T = 5


@st.composite
def arrays(draw: st.DrawFn) -> slow.Array:
    """One small array; the buffer is drawn so small that it is emptied in some layers and not in others."""
    return slow.Array(
        draw(st.integers(1, 5) | st.just(16)),
        draw(st.integers(1, 4) | st.just(8)),
        draw(st.booleans()),
        draw(st.sampled_from((16.0, 60.0, 333.0, 1000.0, 32 * 8192.0))),
    )


def arch_of(array: slow.Array, **others: Any) -> SataArch:
    return SataArch(rows=array.rows, cols=array.cols, skip=array.skip, glb_ifmap=array.ifmap_bits, **others)


def counted(workload: Workload, arch: SataArch) -> Counts:
    machine = Sata()
    return machine.count(workload, arch, machine.map(workload, arch))


def flat(layer: Layer, arch: SataArch) -> dict[str, int]:
    counts = counted(Workload((layer,), layer.num_steps, layer.num_samples), arch)
    return {**counts.of(layer.name), "cycles": counts.layer_cycles[layer.name]}


@settings(max_examples=300, deadline=None)
@given(layer_cases(max_steps=10), arrays())
def test_every_count_equals_the_nested_loops(case: LayerCase, array: slow.Array) -> None:
    spiking = case.reset != "none"  # a read-out's outputs leave as the 16-bit accumulator
    assert flat(layer_of([case]), arch_of(array)) == slow.count(case, array, out_bits=1 if spiking else 16)


@settings(max_examples=15, deadline=None)
@given(layer_cases(constant=False), arrays(), st.integers(2, 4))
def test_samples_add_up(case: LayerCase, array: slow.Array, samples: int) -> None:
    cases = [replace(case, levels=case.levels[k % len(case.levels) :] + case.levels[: k % len(case.levels)])
             for k in range(samples)]  # fmt: skip
    single = [flat(layer_of([one]), arch_of(array)) for one in cases]
    assert flat(layer_of(cases), arch_of(array)) == {key: sum(one[key] for one in single) for key in single[0]}


def workload_of(nodes: dict[str, Node], arrivals: dict[str, np.ndarray | Levels]) -> Workload:
    spikes = {name: x if isinstance(x, Levels) else Spikes.pack(x) for name, x in arrivals.items()}
    return lower(chain("net", nodes), SpikeTrace(T, 1, spikes))


def drawn(*shape: int, seed: int = 0, density: float = 0.3) -> np.ndarray:
    found: np.ndarray = np.random.default_rng(seed).random((T, 1, *shape)) < density
    return found


@pytest.mark.parametrize(
    "pool", [SumPool2d((2, 2), (2, 2)), AvgPool2d((3, 3), (2, 2), (1, 1)), MaxPool2d((2, 2), (2, 2))]
)
def test_a_pool_that_is_run_is_a_depthwise_sum_without_stored_weights(pool: SumPool2d | AvgPool2d | MaxPool2d) -> None:
    spikes = drawn(3, 6, 6)
    work = workload_of({"in": Input((3, 6, 6)), "pool": pool, "neuron": IF()}, {"pool": spikes})
    case = LayerCase(
        spikes[:, 0].astype(int).tolist(), 3, pool.kernel, pool.stride, pool.padding, groups=3, weight_bits=0
    )
    array = slow.Array(4, 2, True, 8192.0)
    arch = arch_of(array, fold_pool=False)
    assert flat(work.layers[0], arch) == slow.count(case, array, weighted=False, leaky=False)


def test_a_residual_sum_adds_each_map_once() -> None:
    nodes: dict[str, Node] = {
        "in": Input((3, 4, 4)),
        "left": Conv2d(3, 3, (1, 1)),
        "one": IF(),
        "sum": Add(),
        "two": IF(),
    }
    edges = (("in", "left"), ("left", "one"), ("one", "sum"), ("in", "sum"), ("sum", "two"))
    levels = drawn(3, 4, 4).astype(np.uint8) + drawn(3, 4, 4, seed=1)
    arrivals = {"left": Spikes.pack(drawn(3, 4, 4)), "sum": Levels(levels.astype(np.uint8), 2)}
    counts = counted(lower(Network(nodes, edges), SpikeTrace(T, 1, arrivals)), SataArch())
    assert counts.actions["sum", "dram_weight", "read"] == counts.actions["sum", "glb_weight", "read"] == 0
    assert counts.actions["sum", "mac", "add"] == int(np.bitwise_count(levels).sum())
    assert counts.actions["sum", "lif", "update"] == 3 * 16 * T


def test_a_folded_pool_leaves_its_sum_to_the_next_layer_and_its_weights_are_stored_once() -> None:
    nodes: dict[str, Node] = {
        "in": Input((2, 4, 4)), "pool": SumPool2d((2, 2), (2, 2)), "flat": Flatten(), "fc": Linear(8, 6), "out": LI(),
    }  # fmt: skip
    spikes = drawn(2, 4, 4)
    sums = spikes.reshape(T, 1, 2, 2, 2, 2, 2).sum(axis=(4, 6)).astype(np.uint8).reshape(T, 1, 8)
    work = workload_of(nodes, {"pool": spikes, "fc": Levels(sums, 3)})
    folded, apart = counted(work, SataArch()), counted(work, SataArch(fold_pool=False))
    assert folded.layers() == ("fc",) and apart.layers() == ("pool", "fc")
    assert folded.actions["fc", "dram_weight", "read"] == 8 * 6 * 8 == apart.actions["fc", "dram_weight", "read"]
    assert folded.actions["fc", "mac", "add"] == int(spikes.sum()) * 6
    assert apart.actions["pool", "glb_ofmap", "write"] == 8 * T * 3  # sums of 3 bits, as the next layer reads them


def test_a_silent_step_costs_the_wave_through_the_array_and_no_weight() -> None:
    nodes: dict[str, Node] = {"in": Input((4, 6, 6)), "conv": Conv2d(4, 8, (3, 3)), "neuron": IF()}
    quiet = counted(workload_of(nodes, {"conv": np.zeros((T, 1, 4, 6, 6), bool)}), SataArch())
    assert quiet.cycles == T * (16 + 8 - 2) and quiet.actions["conv", "glb_weight", "read"] == 0
    one = drawn(4, 6, 6, density=1.0)
    assert counted(workload_of(nodes, {"conv": one}), SataArch()).cycles == T * (36 + 16 + 8 - 2)


def test_weights_are_paid_once_and_inputs_per_step() -> None:
    nodes: dict[str, Node] = {"in": Input((4, 6, 6)), "conv": Conv2d(4, 8, (3, 3)), "neuron": IF()}
    spikes = np.repeat(drawn(4, 6, 6)[:1], T, axis=0)
    all_steps = counted(workload_of(nodes, {"conv": spikes}), SataArch())
    network = chain("net", nodes)
    first = counted(lower(network, SpikeTrace(1, 1, {"conv": Spikes.pack(spikes[:1])})), SataArch())
    for instance, action in (("dram_weight", "read"), ("glb_weight", "read"), ("glb_weight", "write")):
        assert all_steps.total(instance, action) == first.total(instance, action) > 0
    for instance, action in (("dram_ifmap", "read"), ("glb_ifmap", "read"), ("mac", "add"), ("lif", "update")):
        assert all_steps.total(instance, action) == T * first.total(instance, action) > 0


def test_what_is_refused_is_named() -> None:
    levels = Levels(np.ones((T, 1, 3, 4, 4), np.uint8), 3)
    work = workload_of({"in": Input((3, 4, 4)), "pool": MaxPool2d((2, 2), (2, 2)), "n": IF()}, {"pool": levels})
    with pytest.raises(MappingError, match=r"'pool'.*maximum"):
        evaluate(work, SataArch())
    work = workload_of({"in": Input((4, 6)), "odd": Conv1d(4, 3, 3), "n": IF()}, {"odd": drawn(4, 6)})
    assert evaluate(work, SataArch()).synops > 0
    with pytest.raises(MappingError, match=r"'odd'.*fidelity = 'trace'"):
        evaluate(work, SataArch(fidelity="tool"))


@pytest.mark.parametrize("changed", ["sparsity=0.5", "rules='archived'", "wide_access=false", "pe='mac8'", "act_bit=8"])
def test_a_field_that_would_do_nothing_is_refused(changed: str) -> None:
    with pytest.raises(ConfigError, match=changed.split("=")[0]):
        load_machine(f"sata:{changed}")
    load_machine(f"sata-tool:{changed}")
    with pytest.raises(ConfigError, match="skip: acts in trace fidelity only"):
        load_machine("sata-tool:skip=false")


@pytest.mark.parametrize(("height", "filters"), [(6, 5), (4, 8), (9, 17)])
def test_the_corrected_tool_and_the_dense_array_agree_where_they_count_the_same(height: int, filters: int) -> None:
    nodes: dict[str, Node] = {
        "in": Input((4, height, 6)), "conv": Conv2d(4, filters, (3, 3), padding=(1, 1)), "neuron": IF(),
    }  # fmt: skip
    work = workload_of(nodes, {"conv": drawn(4, height, 6)})
    keys = ("unpadded_maps", "ifmap_once", "ofmap_dram_once", "over_count", "filter_pass", "byte_spikes")
    tool = counted(work, SataArch(fidelity="tool", **dict.fromkeys(keys, False)))
    dense = counted(work, SataArch(skip=False))
    for key in (("glb_ifmap", "read"), ("glb_ofmap", "write"), ("dram_weight", "read"), ("dram_ofmap", "write"),
                ("dram_ifmap", "read"), ("lif", "update")):  # fmt: skip
        assert tool.total(*key) == dense.total(*key) > 0, key
    assert dense.cycles - tool.cycles == T * (1 + -filters % 8)  # the tool stops with the last output of a step


def test_the_sparsity_of_the_tool_is_measured_over_all_layers_or_by_layer() -> None:
    nodes: dict[str, Node] = {
        "in": Input((4, 6, 6)), "one": Conv2d(4, 8, (3, 3), padding=(1, 1)), "n": IF(), "flat": Flatten(),
        "two": Linear(288, 10), "out": LI(),
    }  # fmt: skip
    first, second = np.zeros((T, 1, 4, 6, 6), bool), np.zeros((T, 1, 288), bool)
    first[:, :, :1], second[..., :144] = True, True  # densities 1/4 of 144 and 1/2 of 288 inputs: 5/12 of all
    work = workload_of(nodes, {"one": first, "two": second})
    macs = (8 * 36 * 36 * T, 10 * 288 * T)
    for by_layer, shares in ((False, (5 / 12, 5 / 12)), (True, (1 / 4, 1 / 2))):
        counts = counted(work, SataArch(fidelity="tool", one_sparsity=not by_layer))
        found = [counts.actions[name, "mac", "add"] for name in ("one", "two")]
        assert found == pytest.approx([n * share for n, share in zip(macs, shares, strict=True)], abs=1)
        assert counts.expected
