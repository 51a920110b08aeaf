"""The loihi machine equals the slow reference of a many-core chip, event by event and tick by tick, on random tiny networks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloom.core.arch import Mapping
from spikeloom.core.counts import Counts
from spikeloom.core.network import Network
from spikeloom.core.nodes import IF, LIF, Conv2d, Delay, Flatten, Input, Leak, Linear, Node, SumPool2d, node_out_shape
from spikeloom.core.placement import Place, Placement
from spikeloom.emulate import emulate
from spikeloom.hw.loihi import Loihi
from spikeloom.hw.loihi_arch import LoihiArch
from spikeloom.lower import lower
from tests.reference import manycore
from tests.reference.chip_networks import ChipCase, ChipEdges, ChipGroup, edges_into
from tests.reference.manycore import OUTSIDE, Bill, Group, Synapse

CLASSES = ("dense", "sparse", "conv")


@st.composite
def chip_cases(draw: st.DrawFn) -> ChipCase:
    """A few groups, any edges between them (back, to themselves, parallel, from outside), on a few cores of a few tiles."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    tiles = draw(st.sampled_from(((0,), (0, 1), (0, 5, 31), tuple(range(32)))))
    cores = [(t, c) for t in tiles for c in draw(st.sampled_from(((0,), (0, 3), (0, 1, 2, 3))))]
    groups = []
    for n in range(draw(st.integers(1, 4))):
        size = draw(st.integers(1, 5))
        places = [cores[i] for i in rng.integers(0, len(cores), draw(st.integers(1, size)))]
        attributes: dict[str, Any] = {
            "bias": draw(st.sampled_from((0.0, 1.0, 0.3, -0.1))),
            "threshold": draw(st.sampled_from((0.5, 1.0, 0.7, 1e9))),
            "leak_decay": draw(st.sampled_from((1.0, 0.0, 0.9, 0.5))),
            "reset": draw(st.sampled_from((0.0, 0.0, 0.25, -1.0))),
            "reset_mode": draw(st.sampled_from(("hard", "soft"))),
            "force_update": draw(st.sampled_from((False, False, False, True))),
        }
        groups.append(ChipGroup(f"g{n}", size, attributes, places))
    num_steps, lines = draw(st.integers(1, 8)), draw(st.sampled_from((0, 0, 2)))
    sizes = {group.name: group.size for group in groups} | ({"input": lines} if lines else {})
    edges = []
    for _ in range(draw(st.integers(0, 4))):
        source, target = draw(st.sampled_from(sorted(sizes))), draw(st.sampled_from(groups)).name
        pairs = [
            (
                int(rng.integers(sizes[source])),
                int(rng.integers(sizes[target])),
                float(rng.choice((1.0, 0.25, -0.5, 0.1))),
            )
            for _ in range(draw(st.integers(1, 8)))
        ]
        edges.append(ChipEdges(source, target, pairs))
    spikes = (rng.random((num_steps, lines)) < 0.5).astype(np.uint8) if lines else None
    classes = {group.name: draw(st.sampled_from(CLASSES)) for group in groups} if draw(st.booleans()) else {}
    return ChipCase(groups, edges, num_steps, spikes, classes)


def as_reference(case: ChipCase, input_core: manycore.Core) -> tuple[list[Group], list[Synapse]]:
    """The case as the reference takes it; input_core: where the lines from outside stand."""
    groups = []
    if case.spikes is not None:
        lines = case.spikes.shape[1]
        groups.append(Group("input", [input_core] * lines, spikes=case.spikes.astype(bool).tolist()))
    for group in case.groups:
        cores = [(tile, core) for tile, core, first, last in group.runs() for _ in range(first, last)]
        groups.append(
            Group(
                group.name,
                cores,
                [float(bias) for bias in group.biases],
                group["threshold"],
                group["leak_decay"],
                group["reset"],
                group["reset_mode"] == "soft",
                group["force_update"],
                case.classes.get(group.name, "dense"),
            )
        )
    synapses = [Synapse(e.source, i, e.target, j, weight) for e in case.edges for i, j, weight in e.edges]
    return groups, synapses


def check(counts: Counts, bill: Bill, layers: dict[str, str], members: dict[str, set[str]], port: str) -> None:
    """Counts by group and the time of all steps.

    layers: group -> layer that has its neurons. members: that layer -> the layers that feed these. port: who is billed for the input.
    """
    for layer in {*layers.values(), port}:
        got = counts.of(layer)
        groups = [group for group, own in layers.items() if own == layer]
        senders = groups + (["input"] if layer == port and "input" not in layers else [])
        expected = {
            "soma.access": sum(bill.access[group] for group in groups),
            "soma.update": sum(bill.update[group] for group in groups),
            "soma.spike_out": sum(bill.fired[group] for group in groups),
            "axon.out": sum(bill.messages[group] for group in senders),
            "router.hop_x": sum(bill.hops_x[group] for group in senders),
            "router.hop_y": sum(bill.hops_y[group] for group in senders),
        }
        for action, number in expected.items():
            assert got.get(action, 0) == number, (layer, action)
    assert counts.total("axon", "in") == bill.received == sum(bill.messages.values())
    for group, layer in layers.items():
        feeding = (counts.of(name) for name in members[layer])
        events = sum(n for found in feeding for action, n in found.items() if action.endswith("event"))
        assert events == bill.events[group], group
    assert counts.cycles == sum(bill.ticks)


def _feeders(case: ChipCase, group: str) -> set[str]:
    return {f"{group}.drive"} | {
        f"edges{n}.{k}" for n, edge in enumerate(case.edges) if edge.target == group for k in range(len(edge.edges))
    }


@settings(max_examples=150, deadline=None)
@given(chip_cases())
def test_groups_and_lists_of_edges_equal_the_reference(case: ChipCase) -> None:
    network = case.network()
    workload = lower(network, case.trace(network))
    layers = {group.name: case.layer_of(network, group.name) for group in case.groups}
    classes: Any = "dense"
    if case.classes:
        classes = {
            layer.name: case.classes[next(g for g in layers if layer.name in {*_feeders(case, g), layers[g]})]
            for layer in workload.layers
        }
    arch = LoihiArch(zero_weights="skipped", limits="warn", synapse_class=classes)
    machine = Loihi()
    counts = machine.count(workload, arch, Mapping("loihi", {}, case.placement(network)), threads=1)
    bill = manycore.run(*as_reference(case, OUTSIDE), case.num_steps)
    members = {layer: _feeders(case, group) | {layer} for group, layer in layers.items()}
    check(counts, bill, layers, members, port=workload.layers[0].name)


@dataclass
class LayeredCase:
    """A network of convolutions with its input, and the core of every neuron, [tile, core], by layer."""

    network: Network
    frames: np.ndarray
    num_steps: int
    places: tuple[Place, ...]
    cores: dict[str, list[manycore.Core]]
    on_chip: bool
    skip: bool


def _weights(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Multiples of 1/8, a third of them 0."""
    return (rng.integers(-8, 13, shape) / 8 * (rng.random(shape) < 2 / 3)).astype(np.float32)


@st.composite
def layered_cases(draw: st.DrawFn) -> LayeredCase:
    """One to three layers behind spikes or a layer of pixels; pools that fold, spikes that come back, any placement."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    encoding: Any = draw(st.sampled_from(("spikes", "spikes", "analog")))
    shape: tuple[int, ...] = (draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    nodes: dict[str, Node] = {"input": Input(shape, encoding)}
    edges: list[tuple[str, str]] = []
    last, flat = "input", False
    for n in range(draw(st.integers(1, 3))):
        C = shape[0]
        if n == 0 and encoding == "analog":
            synapse: Any = Conv2d(C, C, (1, 1), groups=C, weight=_weights(rng, (C, 1, 1, 1)))
        else:
            if not flat and min(shape[1:]) >= 2 and draw(st.sampled_from((False, False, True))):
                nodes[f"pool{n}"] = SumPool2d((2, 2), (2, 2))
                edges.append((last, f"pool{n}"))
                last, shape = f"pool{n}", (C, shape[1] // 2, shape[2] // 2)
            if not flat and draw(st.sampled_from((False, False, True))):
                nodes[f"flat{n}"] = Flatten()
                edges.append((last, f"flat{n}"))
                last, shape, flat = f"flat{n}", (int(np.prod(shape)),), True
            synapse = _drawn_synapse(draw, rng, shape, pooled=f"pool{n}" in nodes)
        shape = node_out_shape("", synapse, shape)
        if draw(st.booleans()):
            synapse = replace(synapse, has_bias=True, bias=_weights(rng, shape[:1]))
        more: Any = {
            "strict": True,
            "reset": draw(st.sampled_from(("hard", "soft"))),
            "v_threshold": draw(st.sampled_from((0.5, 1.0))),
        }
        neuron: Node = draw(st.sampled_from((IF(**more), LIF(Leak(factor=0.5), **more), LIF(Leak(shift=2), **more))))
        nodes |= {f"layer{n}": synapse, f"n{n}": neuron}
        edges += [(last, f"layer{n}"), (f"layer{n}", f"n{n}")]
        last = f"n{n}"
        if draw(st.sampled_from((False, False, True))):
            size = shape[0]
            back: Node = Linear(size, size, weight=_weights(rng, (size, size))) if flat else Conv2d(
                size, size, (1, 1), weight=_weights(rng, (size, size, 1, 1))
            )  # fmt: skip
            nodes |= {f"late{n}": Delay(1), f"back{n}": back}
            edges += [(last, f"late{n}"), (f"late{n}", f"back{n}"), (f"back{n}", last)]
    num_steps = draw(st.integers(1, 6))
    first = nodes["input"].shape  # type: ignore[union-attr]
    if encoding == "analog":
        frames = 255 * rng.integers(0, 2, (1, *first))
    else:
        frames = (rng.random((num_steps, 1, *first)) < 0.4).astype(np.int64)
    network = Network(nodes, tuple(edges))
    on_chip = encoding == "spikes" and draw(st.booleans())
    named = {
        f"n{n}": next(x for x in network.layers() if network.layer_neuron(x) == f"n{n}")
        for n in range(3)
        if f"n{n}" in nodes
    }
    shapes = network.shapes()
    wanted = {neuron: (layer, shapes[neuron]) for neuron, layer in named.items()}
    if on_chip:
        heard_flat = network.inputs_of("flat0") == ("input",)  # then the trace holds the input as a vector
        wanted["input"] = ("input", (int(np.prod(first)),) if heard_flat else first)
    places: list[Place] = []
    cores: dict[str, list[manycore.Core]] = {}
    for name, (layer, extents) in wanted.items():
        found, cores[name] = _drawn_places(draw, rng, layer, (*extents, 1, 1)[:3])
        places += found
    return LayeredCase(network, frames, num_steps, tuple(places), cores, on_chip, draw(st.booleans()))


def _drawn_synapse(draw: st.DrawFn, rng: np.random.Generator, shape: tuple[int, ...], *, pooled: bool) -> Any:
    """A layer on a map of ``shape``."""
    if len(shape) == 1:
        K = draw(st.integers(1, 4))
        return Linear(shape[0], K, weight=_weights(rng, (K, shape[0])))
    C = shape[0]
    groups = draw(st.sampled_from([g for g in (1, C) if C % g == 0]))
    K = groups * draw(st.integers(1, 2))
    sides = []
    for extent in shape[1:]:
        kernel, dilation, padding = (
            draw(st.integers(1, 3)),
            1 if pooled else draw(st.integers(1, 2)),
            draw(st.integers(0, 1)),
        )
        if extent + 2 * padding < dilation * (kernel - 1) + 1:
            kernel, dilation, padding = 1, 1, 0
        sides.append((kernel, draw(st.integers(1, 2)), padding, dilation))
    kernel, stride, padding, dilation = zip(*sides, strict=True)
    return Conv2d(
        C, K, kernel, stride, padding, dilation, groups, weight=_weights(rng, (K, C // groups, *kernel))
    )  # fmt: skip


def _drawn_places(
    draw: st.DrawFn, rng: np.random.Generator, layer: str, shape: tuple[int, ...]
) -> tuple[list[Place], list[manycore.Core]]:
    """Runs of neurons, channel by channel or position by position, or rows, on any cores; and the core of every neuron."""
    K, P, Q = shape
    vector = layer == "input" and (P, Q) == (1, 1)  # its map may not be known
    kind = draw(st.sampled_from(("chw",) if vector else ("chw", "hwc", "rows")))
    size = P if kind == "rows" else K * P * Q
    cuts = sorted({0, size, *(int(cut) for cut in rng.integers(0, size, draw(st.integers(0, 3))))})
    places = []
    core_of = np.empty((K, P, Q), object)
    for first, last in zip(cuts, cuts[1:], strict=False):
        core = (int(rng.integers(32)), int(rng.integers(4)))
        chosen: Any = {"rows": (first, last)} if kind == "rows" else {"neurons": (first, last), "order": kind}
        places.append(Place(layer, *core, **chosen))
        for k, p, q in np.ndindex(K, P, Q):
            number = {"rows": p, "chw": (k * P + p) * Q + q, "hwc": (p * Q + q) * K + k}[kind]
            if first <= number < last:
                core_of[k, p, q] = core
    return places, list(core_of.ravel())


def layered_reference(case: LayeredCase) -> tuple[list[Group], list[Synapse]]:
    """The network neuron by neuron."""
    network, shapes = case.network, case.network.shapes()
    groups = []
    start = network.nodes["input"]
    assert isinstance(start, Input)
    if start.encoding == "spikes":
        lines = int(np.prod(start.shape))
        spikes = case.frames.reshape(case.num_steps, lines).astype(bool).tolist()
        groups.append(Group("input", case.cores["input"] if case.on_chip else [OUTSIDE] * lines, spikes=spikes))
    synapses = []
    for name in (name for name in network.nodes if name.startswith("n")):
        node: Any = network.nodes[name]
        bias = np.zeros(shapes[name])
        for layer in network.inputs_of(name):
            synapse: Any = network.nodes[layer]
            if synapse.has_bias:
                bias += synapse.bias.reshape(-1, *[1] * (bias.ndim - 1))
            if network.inputs_of(layer) == ("input",) and start.encoding == "analog":
                bias += case.frames[0] / 255 * synapse.weight[:, :, 0]
        kept = 1.0 if isinstance(node, IF) else float(node.leak.kept)
        soft = node.reset == "soft"
        groups.append(Group(name, case.cores[name], list(bias.ravel()), node.v_threshold, kept, 0.0, soft))
        synapses += [Synapse(a, i, name, j, w) for a, i, j, w in edges_into(network, name, skip=case.skip)]
    return groups, synapses


@settings(max_examples=80, deadline=None)
@given(layered_cases())
def test_convolutions_pools_and_loops_equal_the_reference(case: LayeredCase) -> None:
    network = case.network
    skipped: Any = "skipped" if case.skip else "stored"
    trace = emulate(network, case.frames, case.num_steps, leak_grid=64, zero_weights=skipped)
    workload = lower(network, trace)
    arch = LoihiArch(zero_weights=skipped, limits="warn", input_on_chip=case.on_chip)
    machine = Loihi()
    counts = machine.count(workload, arch, Mapping("loihi", {}, Placement(case.places)), threads=1)
    bill = manycore.run(*layered_reference(case), case.num_steps)
    layers = {
        name: next(x for x in network.layers() if network.layer_neuron(x) == name)
        for name in bill.access
        if name != "input"
    }
    if case.on_chip:
        layers["input"] = "input"
    folded = machine.runs(workload, arch)
    port = folded.layers[0].name
    members = {
        layer: {x.name for x in workload.layers if x.name == layer or x.joins == layer} for layer in layers.values()
    }
    check(counts, bill, layers, members, port)
