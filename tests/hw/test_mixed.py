"""Mixed networks, an ANN's activation behind spiking neurons: every machine refuses them, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloom.codesign.curves import draw_curves
from spikeloom.codesign.design_points import design_tables
from spikeloom.codesign.mapping import MappingChoices, best_mapping
from spikeloom.core.network import Network, chain
from spikeloom.core.nodes import (
    IF,
    LI,
    LIF,
    Add,
    AvgPool2d,
    ClippedReLU,
    Conv2d,
    Flatten,
    Input,
    Leak,
    Linear,
    Node,
    Output,
    ReLU,
)
from spikeloom.core.trace import Levels, Spikes, SpikeTrace
from spikeloom.core.workload import Layer, NeuronRule, Workload
from spikeloom.data.base import Images
from spikeloom.errors import MappingError, NetworkError
from spikeloom.evaluate import PRESET_MODELS, evaluate, load_machine
from spikeloom.files.store import read_trace, write_trace
from spikeloom.hw import HARDWARE
from spikeloom.hw.spikex import SpikexArch
from spikeloom.lower import lower
from spikeloom.snn.execute import Execution
from spikeloom.snn.record import record

STAIRS = ClippedReLU(1.0, levels=4)
rng = np.random.default_rng(5)


def weight(*shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


def three(first: Node, second: Node) -> Network:
    """conv, pool, conv, read-out: neurons ``first`` and ``second`` behind the convolutions."""
    nodes: dict[str, Node] = {
        "in": Input((2, 6, 6)),
        "conv1": Conv2d(2, 3, (3, 3), weight=weight(3, 2, 3, 3)),
        "act1": first,
        "pool": AvgPool2d((2, 2), (2, 2)),
        "conv2": Conv2d(3, 4, (1, 1), weight=weight(4, 3, 1, 1)),
        "act2": second,
        "flat": Flatten(),
        "fc": Linear(16, 3, weight=weight(3, 16)),
        "li": LI(),
        "out": Output((3,)),
    }
    return chain("three", nodes)


def samples(count: int = 3) -> Images:
    pixels = rng.integers(0, 256, (count, 2, 6, 6)).astype(np.uint8)
    return Images("noise", "test", pixels, np.zeros(count, np.int64), np.arange(count), 3)


def traced(network: Network) -> SpikeTrace:
    return record(network, samples(), Execution(4, "rate"))


@pytest.mark.parametrize("preset", PRESET_MODELS)
def test_every_machine_refuses_it_by_name_live_and_from_a_file(preset: str, tmp_path: Path) -> None:
    network = three(LIF(Leak(shift=1)), STAIRS)
    trace = traced(network)
    write_trace(tmp_path / "t.npz", network, trace)
    arch = load_machine(preset)[1]
    machine = HARDWARE[arch.model]
    for workload in (lower(network, trace), lower(*read_trace(tmp_path / "t.npz"))):
        for priced in (evaluate, machine.map, machine.runs):
            with pytest.raises(MappingError, match=r"'conv2' .*'conv1'.*mixed"):
                priced(workload, arch)


@pytest.mark.parametrize(
    ("first", "second"), [(STAIRS, IF()), (STAIRS, STAIRS), (IF(), IF()), (IF(max_level=3), LIF(Leak(shift=1)))]
)
@pytest.mark.parametrize("preset", ["spikex", "sata", "systolic", "ncs2"])
def test_anns_graded_spikes_and_an_ann_in_front_stay(preset: str, first: Node, second: Node) -> None:
    network = three(first, second)
    assert evaluate(lower(network, traced(network)), load_machine(preset)[1]).energy_j > 0


def test_searches_of_mappings_and_tables_of_prices_refuse_it_too() -> None:
    network = three(IF(), STAIRS)
    workload = lower(network, traced(network))
    for asked in (
        lambda: best_mapping(workload, SpikexArch(), MappingChoices(windows=(1, 2))),
        lambda: design_tables(workload, SpikexArch(), MappingChoices(windows=(1, 2)).options()),
        lambda: draw_curves(workload, SpikexArch()),
    ):
        with pytest.raises(MappingError, match="mixed network"):
            asked()


def test_two_activations_in_a_row_cannot_be_recorded() -> None:
    network = chain(
        "row",
        {
            "in": Input((2, 6, 6)),
            "flat": Flatten(),
            "fc": Linear(72, 3, weight=weight(3, 72)),
            "spiking": IF(),
            "flat2": Flatten(),
            "stairs": STAIRS,
            "out": Output((3,)),
        },
    )
    with pytest.raises(NetworkError, match=r"'stairs' .*'spiking'.*mixed network"):
        traced(network)


@pytest.mark.parametrize(("front", "between"), [((), (LI(),)), ((IF(),), ()), ((LIF(Leak(shift=1)),), (LI(),))])
def test_an_activation_that_no_layer_of_the_trace_has_makes_it_mixed_too(
    front: tuple[Node, ...], between: tuple[Node, ...]
) -> None:
    """Neurons right behind the input, or a staircase behind a read-out's neurons: a trace knows one activation a layer."""
    nodes: dict[str, Node] = {
        "in": Input((2, 6, 6)),
        **{f"front{k}": node for k, node in enumerate(front)},
        "flat": Flatten(),
    }
    nodes |= {} if front else {"fc0": Linear(72, 72, weight=weight(72, 72)), "front0": IF()}
    nodes |= {"fc1": Linear(72, 5, weight=weight(5, 72)), **{f"li{k}": node for k, node in enumerate(between)}}
    nodes |= {"stairs": STAIRS, "fc2": Linear(5, 3, weight=weight(3, 5)), "out": Output((3,))}
    with pytest.raises(NetworkError, match=r"'stairs' .*'front0'.*mixed network"):
        traced(chain("hidden", nodes))
    alone = {name: node for name, node in nodes.items() if not name.startswith(("front", "fc0"))}
    network = chain("ann", alone)
    assert evaluate(lower(network, traced(network)), SpikexArch()).energy_j > 0


def test_stairs_behind_a_pool_are_mixed_from_a_file_too(tmp_path: Path) -> None:
    network = three(IF(), IF())
    edges = [edge for edge in network.edges if edge != ("pool", "conv2")] + [("pool", "stairs"), ("stairs", "conv2")]
    network = Network({**network.nodes, "stairs": STAIRS}, tuple(edges), "pooled")
    trace = traced(network)
    write_trace(tmp_path / "t.npz", network, trace)
    for workload in (lower(network, trace), lower(*read_trace(tmp_path / "t.npz"))):
        assert workload.mixed == ("conv1", "pool")


def test_sums_that_join_hear_what_their_branches_hear() -> None:
    """The branch of a join hears the spikes, the owner of the ReLUs does not."""
    silence = Spikes.pack(np.zeros((2, 1, 4, 1, 1), bool))
    size = dict(C=4, K=4, H=1, W=1, R=1, S=1, P=1, Q=1, arrival=silence)

    def layer(name: str, kind: str, **rest: object) -> Layer:
        return Layer(name, "linear", neuron=NeuronRule(kind), **size, **rest)  # type: ignore[arg-type]

    layers = (layer("a", "if"), layer("branch", "none", inputs=("a",), joins="owner"), layer("owner", "relu"))
    workload = Workload(layers, 2, 1)
    assert workload.mixed == ("a", "owner")
    apart = Workload((layers[0], layer("branch", "none", inputs=("a",)), layers[2]), 2, 1)
    assert apart.mixed is None


KINDS: dict[str, type] = {"if": IF, "relu": ReLU, "li": LI}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_mixed_is_what_a_walk_over_all_paths_of_the_network_finds(data: st.DataObject) -> None:
    """Random graphs of layers, sums and neurons, against a recursion over the nodes of the network."""
    nodes: dict[str, Node] = {"in": Input((2,))}
    edges: list[tuple[str, str]] = []
    ends = ["in"]
    for k in range(data.draw(st.integers(1, 6))):
        sources = data.draw(st.lists(st.sampled_from(ends), min_size=1, max_size=2, unique=True))
        name = f"l{k}"
        nodes[name] = Add() if len(sources) > 1 else Linear(2, 2)
        edges += [(source, name) for source in sources]
        kind = data.draw(st.sampled_from([*KINDS, "none"]))
        if kind != "none":
            nodes[f"{name}.n"] = KINDS[kind]()
            edges.append((name, f"{name}.n"))
        ends.append(f"{name}.n" if kind != "none" else name)
    nodes["out"] = Output((2,))
    edges.append((ends[-1], "out"))
    network = Network(nodes, tuple(edges))
    arrivals = {name: Levels(np.zeros((1, 1, 2), np.uint8), 8) for name in network.layers()}

    def behind_spikes(name: str) -> bool:
        return any(isinstance(nodes[s], IF) or behind_spikes(s) for s in (a for a, b in edges if b == name))

    expected = any(isinstance(node, ReLU) and behind_spikes(name) for name, node in nodes.items())
    workload = lower(network, SpikeTrace(1, 1, arrivals))
    assert (workload.mixed is not None) == expected
    assert json.dumps(workload.mixed)  # names, nothing else
