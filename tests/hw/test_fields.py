"""Whatever a layer or a neuron can carry is read by every machine, or stands here with the reason why it does not matter to it."""

from __future__ import annotations

import sys
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from spikeloom.core import nodes as n
from spikeloom.core.network import Network, chain
from spikeloom.core.trace import Arrival, Levels, Spikes, SpikeTrace
from spikeloom.core.workload import Layer, NeuronRule, Workload
from spikeloom.errors import MappingError
from spikeloom.evaluate import PRESET_MODELS, evaluate, load_machine
from spikeloom.lower import lower

T, N = 4, 2


def joined() -> Workload:
    """Pool, groups, bias, leak, soft reset, levels, sums that meet, updates, a read-out."""
    rng = np.random.default_rng(0)
    weight = rng.integers(-3, 4, (4, 2, 3, 3)).astype(np.int8)
    network_nodes: dict[str, n.Node] = {
        "in": n.Input((2, 8, 8)), "c1": n.Conv2d(2, 4, (3, 3), padding=(1, 1), has_bias=True, weight=weight, bias=np.arange(4.0)),
        "n1": n.LIF(n.Leak(shift=2)), "pool": n.AvgPool2d((2, 2), (2, 2)), "c2": n.Conv2d(4, 4, (3, 3), padding=(1, 1), groups=2, weight=weight),
        "short": n.Conv2d(2, 4, (1, 1), stride=(2, 2)), "n2": n.IF(reset="soft"), "flat": n.Flatten(), "fc": n.Linear(64, 3), "li": n.LI(),
        "out": n.Output((3,)),
    }  # fmt: skip
    edges = (
        ("in", "c1"), ("c1", "n1"), ("n1", "pool"), ("pool", "c2"), ("c2", "n2"), ("in", "short"), ("short", "n2"), ("n2", "flat"),
        ("flat", "fc"), ("fc", "li"), ("li", "out"),
    )  # fmt: skip

    def spikes(*shape: int) -> Spikes:
        return Spikes.pack(rng.random((T, N, *shape)) < 0.3)

    image = spikes(2, 8, 8)
    pooled = Levels(rng.integers(0, 5, (T, N, 4, 4, 4)).astype(np.uint8), 3)
    arrivals: dict[str, Arrival] = {
        "c1": image,
        "short": image,
        "pool": spikes(4, 8, 8),
        "c2": pooled,
        "fc": spikes(64),
    }
    return lower(Network(network_nodes, edges), SpikeTrace(T, N, arrivals, updates={"c1": spikes(4, 8, 8)}, dt_s=1e-3))


def row(analog: bool = False) -> Workload:
    """Two convolutions of one square kernel in a row, pixels or spikes in front: what the tools know."""
    rng = np.random.default_rng(1)
    made: dict[str, n.Node] = {
        "in": n.Input((2, 8, 8), "analog" if analog else "spikes"), "a": n.Conv2d(2, 4, (3, 3), padding=(1, 1)), "na": n.LIF(n.Leak(shift=1)),
        "b": n.Conv2d(4, 4, (3, 3), padding=(1, 1)), "nb": n.LIF(n.Leak(shift=1)),
    }  # fmt: skip
    pixels = Levels(
        np.broadcast_to(rng.integers(0, 256, (1, N, 2, 8, 8)), (T, N, 2, 8, 8)).astype(np.uint8), 8, analog=True
    )
    first: Arrival = pixels if analog else Spikes.pack(rng.random((T, N, 2, 8, 8)) < 0.3)
    return lower(
        chain("row", made), SpikeTrace(T, N, {"a": first, "b": Spikes.pack(rng.random((T, N, 4, 8, 8)) < 0.3)})
    )


#: Field of a layer, a neuron or a workload -> model -> why it changes none of the counts of that machine ("" of all: of every machine).
UNREAD: dict[str, dict[str, str]] = {
    "Workload.source": {"": "words"},
    "Workload.delay": dict.fromkeys(
        ("spikex", "sata", "sata-training", "systolic", "spikesim", "edge"), "a step later is the same work"
    ),
    "Workload.drawn": dict.fromkeys(
        ("spikex", "sata", "sata-training", "systolic", "spikesim", "edge"), "who feeds whom is not asked where no layer says so"
    ),
    "Workload.shapes_only": {"edge": "spikes do not matter"},
    "Layer.bias": dict.fromkeys(
        ("spikex", "sata", "sata-training", "systolic", "spikesim", "edge"), "that there is a bias counts, its values do not"
    ),
    "Layer.has_bias": {"systolic": "biases are not moved (a reading of its card)"},
    "Layer.branches": {
        "edge": "counts layer by layer, found by `joins`",
        "loihi": "branches and owner are one group, found by `joins`",
        "sata-training": "keeps what the tool prints, with a note",
    },
    "Layer.dilation": {"edge": "counts outputs"},
    "Layer.padding": {"edge": "counts outputs"},
    "Layer.stride": {"edge": "counts outputs"},
    "Layer.recurrent": {"loihi": "a loop is a layer like any other"},
    "Layer.updates": dict.fromkeys(
        ("spikex", "sata", "sata-training", "systolic", "spikesim", "edge"), "neurons update by a rule of the card, not by what the network did"
    ),
    "Layer.out": {
        "sata": "writes whole maps, a bit a neuron", "sata-training": "writes whole maps", "systolic": "writes whole maps",
        "spikesim": "sends what the next layer hears", "edge": "writes whole maps",
    },
    "Layer.stored_kernel": {
        "spikesim": "no pool is folded", "edge": "no pool is folded", "sata-training": "no pool is folded",
    },
    "Layer.weight": {
        "spikesim": "a zero is programmed and read like any weight", "edge": "dense",
    },
    "Layer.weight_bits": {"edge": "fp16", "sata-training": "the tool's own widths"},
    "Layer.whole_arrival": dict.fromkeys(
        ("spikex", "sata", "sata-training", "systolic", "spikesim", "edge"), "no neuron stands for the input"
    ),
    "NeuronRule.kind": {"edge": "runs the ANN"},
    "NeuronRule.leak": {
        "systolic": "one update whether it leaks or not", "sata-training": "the tool's neuron leaks always", "edge": "runs the ANN",
        "loihi": "a leaking membrane is in `updates`",
    },
    "NeuronRule.reset": {
        "sata": "every neuron updates in every step", "systolic": "every neuron updates in every step",
        "sata-training": "every neuron updates in every step", "edge": "runs the ANN", "loihi": "a residue is in `updates`",
    },
}  # fmt: skip


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of the fields that machines read, content ids aside."""
    found: set[str] = set()

    def spy(cls: type) -> None:
        names = {item.name for item in fields(cls)}  # type: ignore[arg-type]  # dataclasses

        def reading(self: Any, name: str) -> Any:
            if name in names:
                frame: Any = sys._getframe(1)
                rooms = ("/spikeloom/hw/", "/spikeloom/evaluate.py")
                while frame is not None and frame.f_code.co_filename.endswith(("core/workload.py", __file__)):
                    if frame.f_code.co_name == "id":
                        return object.__getattribute__(self, name)
                    frame, rooms = frame.f_back, rooms[:1]  # a property: does a machine ask for it?
                if frame is not None and any(room in frame.f_code.co_filename for room in rooms):
                    found.add(f"{cls.__name__}.{name}")
            return object.__getattribute__(self, name)

        monkeypatch.setattr(cls, "__getattribute__", reading)

    for cls in (Layer, NeuronRule, Workload):
        spy(cls)
    return found


@pytest.mark.parametrize("model", sorted(set(PRESET_MODELS.values())))
def test_what_a_layer_carries_is_read_or_excused(model: str, read: set[str]) -> None:
    works = [joined(), row(), row(analog=True)]
    read.clear()
    ran = 0
    for preset in (name for name, of in PRESET_MODELS.items() if of == model):
        for work in works:
            try:
                evaluate(work, load_machine(preset)[1], threads=1)
                ran += 1
            except MappingError:
                continue
    carried = {f"{cls.__name__}.{item.name}" for cls in (Layer, NeuronRule, Workload) for item in fields(cls)}
    assert ran >= 2
    excused = {name for name, models in UNREAD.items() if model in models or "" in models}
    assert carried - read == excused


#: Node -> field -> what becomes of it. Fields not listed here reach the layer or its neurons, which is tried.
OUTSIDE = {
    "threshold, start and rounding decide the spikes, which the trace holds": (
        "v_threshold", "strict", "late_reset", "syn_leak", "ceiling",
    ),
    "levels arrive as they are recorded": ("max_level", "signed", "levels"),
    "what is computed beyond a word is computed when the spikes are recorded": ("overflow",),
}  # fmt: skip
#: Field -> (node, another value): each must change what `lower` says of the layer.
REACHES: dict[str, tuple[n.Node, n.Node]] = {
    "leak": (n.LIF(n.Leak(shift=2)), n.LIF(n.Leak(shift=3))),
    "reset": (n.IF(), n.IF(reset="soft")),
    "v_reset": (n.IF(), n.IF(v_reset=2.0)),
    "v_init": (n.IF(), n.IF(v_init=2.0)),
    "membrane_bits": (n.IF(), n.IF(membrane_bits=24)),
}


def test_every_field_of_a_neuron_reaches_the_layer_or_decides_the_spikes() -> None:
    listed = {name for names in OUTSIDE.values() for name in names} | set(REACHES)
    assert listed == {item.name for cls in n.NEURONS for item in fields(cls)}
    trace = SpikeTrace(T, 1, {"fc": Spikes.pack(np.ones((T, 1, 4)))})
    for name, pair in REACHES.items():
        one, other = (
            lower(chain("c", {"in": n.Input((4,)), "fc": n.Linear(4, 3), "n": node}), trace).layers[0] for node in pair
        )
        assert one.neuron != other.neuron, name
