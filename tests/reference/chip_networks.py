"""Groups of neurons with lists of edges, as SANA-FE describes a chip, as networks, traces and placements of this package.

The input is a line that never spikes; every group has a layer of weights 0 from it, which with ``zero_weights = "skipped"`` are no
synapses and hold the biases, and one layer for each list of edges that leads to it. An edge that goes back gets a Delay, which is what
chip time does anyway. At the end the other way round: the synapses of a network of convolutions, one by one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from spikeloom.core.network import Network
from spikeloom.core.nodes import IF, LIF, Conv2d, Delay, Flatten, Input, Leak, Linear, Node, SumPool2d
from spikeloom.core.placement import Place, Placement
from spikeloom.core.trace import Spikes, SpikeTrace
from spikeloom.emulate import emulate

#: Attributes of a neuron group that are understood, with what is meant where they are absent.
DEFAULTS: dict[str, Any] = {
    "bias": 0.0,
    "threshold": 1.0,
    "leak_decay": 1.0,
    "reset": 0.0,
    "reset_mode": "hard",
    "force_update": False,
}
GRID = 64


@dataclass(frozen=True)
class ChipGroup:
    """``size`` neurons alike, shared out evenly over ``places`` [tile, core in the tile]; the last takes the rest. bias: one, or each."""

    name: str
    size: int
    attributes: dict[str, Any]
    places: list[tuple[int, int]]

    def __getitem__(self, key: str) -> Any:
        return self.attributes.get(key, DEFAULTS[key])

    def __post_init__(self) -> None:
        unknown = set(self.attributes) - set(DEFAULTS)
        assert not unknown, f"group '{self.name}': attributes {sorted(unknown)} are not understood"
        assert self["reset_mode"] in ("hard", "soft")

    @property
    def biases(self) -> np.ndarray:
        return np.broadcast_to(np.asarray(self["bias"], np.float32), (self.size,))

    def runs(self) -> list[tuple[int, int, int, int]]:
        """(tile, core, first, last) of each place."""
        each = self.size // len(self.places)
        ends = [*(each * (n + 1) for n in range(len(self.places) - 1)), self.size]
        starts = [0, *ends[:-1]]
        return [
            (tile, core, first, last)
            for (tile, core), first, last in zip(self.places, starts, ends, strict=True)
            if last > first
        ]


@dataclass(frozen=True)
class ChipEdges:
    """Edges (i, j, weight) between two groups, parallel ones among them. inputs: the source is the line from outside."""

    source: str
    target: str
    edges: list[tuple[int, int, float]]


@dataclass(frozen=True)
class ChipCase:
    """A chip to run. spikes: what comes from outside, (T, lines), as the source "input"; None: nothing."""

    groups: list[ChipGroup]
    edges: list[ChipEdges]
    num_steps: int
    spikes: np.ndarray | None = None
    classes: dict[str, str] = field(default_factory=dict)

    @property
    def frames(self) -> np.ndarray:
        """(T, 1, lines)"""
        spikes = np.zeros((self.num_steps, 1), np.uint8) if self.spikes is None else self.spikes
        return spikes[:, None]

    def network(self) -> Network:
        """One node of neurons for each group, by its name, and a layer for what leads to it."""
        lines = self.frames.shape[2]
        nodes: dict[str, Node] = {"input": Input((lines,))}
        links: list[tuple[str, str]] = []
        order = {group.name: n for n, group in enumerate(self.groups)}
        for group in self.groups:
            drive = f"{group.name}.drive"
            nodes[drive] = Linear(
                lines, group.size, True, weight=np.zeros((group.size, lines), np.float32), bias=group.biases.copy()
            )
            nodes[group.name] = LIF(
                Leak(factor=group["leak_decay"]),
                v_threshold=group["threshold"],
                strict=True,
                reset=group["reset_mode"],
                v_reset=group["reset"],
            )
            links += [("input", drive), (drive, group.name)]
        sizes = {"input": lines} | {group.name: group.size for group in self.groups}
        for n, link in enumerate(self.edges):
            source = link.source
            if source != "input" and order[source] >= order[link.target]:
                source = f"late{n}"
                nodes[source] = Delay(1)
                links.append((link.source, source))
            for layer, weight in enumerate(_matrices(link.edges, sizes[link.source], sizes[link.target])):
                name = f"edges{n}.{layer}"
                nodes[name] = Linear(sizes[link.source], sizes[link.target], weight=weight)
                links += [(source, name), (name, link.target)]
        return Network(nodes, tuple(links), "chip")

    def layer_of(self, network: Network, group: str) -> str:
        """The layer that has the neurons of a group, after which a machine names them."""
        (layer,) = (name for name in network.layers() if network.layer_neuron(name) == group)
        return layer

    def placement(self, network: Network) -> Placement:
        """Where the neurons are."""
        return Placement(
            tuple(
                Place(self.layer_of(network, group.name), tile, core, neurons=(first, last))
                for group in self.groups
                for tile, core, first, last in group.runs()
            )
        )

    def trace(self, network: Network) -> SpikeTrace:
        """What the chip does in chip time; neurons that are forced to update have work in every step."""
        trace = emulate(network, self.frames, self.num_steps, leak_grid=GRID, zero_weights="skipped")
        updates = dict(trace.updates)
        for group in self.groups:
            if group["force_update"]:
                layer = self.layer_of(network, group.name)
                updates[layer] = Spikes.pack(np.ones((self.num_steps, 1, group.size), bool))
        return replace(trace, updates=updates)


def _matrices(edges: list[tuple[int, int, float]], sources: int, targets: int) -> list[np.ndarray]:
    """As few weight matrices as hold all edges, parallel ones in different matrices; a weight of 0 cannot be held."""
    found: list[np.ndarray] = []
    for i, j, weight in edges:
        assert weight != 0, "an edge of weight 0 beside absent ones: a matrix cannot tell them apart"
        free = next((matrix for matrix in found if matrix[j, i] == 0), None)
        if free is None:
            free = np.zeros((targets, sources), np.float32)
            found.append(free)
        free[j, i] = weight
    return found


def _windows(node: Any, shape: tuple[int, ...], out: tuple[int, ...]) -> list[tuple[int, int, tuple[int, ...]]]:
    """(output, input, weight's place) of every product of a synapse, or of every summand of a pool, by flat numbers of the maps."""
    if isinstance(node, Linear):
        return [(k, c, (k, c)) for k in range(out[0]) for c in range(shape[0])]
    found = []
    (C, H, W), (K, P, Q) = shape, out
    dilation, groups = (node.dilation, node.groups) if isinstance(node, Conv2d) else ((1, 1), C)
    for k, p, q, c, r, s in np.ndindex(K, P, Q, C // groups, *node.kernel):
        h = p * node.stride[0] + r * dilation[0] - node.padding[0]
        w = q * node.stride[1] + s * dilation[1] - node.padding[1]
        if 0 <= h < H and 0 <= w < W:
            channel = k // (K // groups) * (C // groups) + c
            found.append(((k * P + p) * Q + q, (channel * H + h) * W + w, (k, c, r, s)))
    return found


def senders(network: Network, name: str) -> list[list[tuple[str, int]]]:
    """Who sends to each place of what node ``name`` passes on: neurons of a node, or lines of the input."""
    node, shapes = network.nodes[name], network.shapes()
    if isinstance(node, Input | LIF | IF):
        return [[(name, i)] for i in range(int(np.prod(shapes[name])))]
    (source,) = network.inputs_of(name)
    before = senders(network, source)
    if isinstance(node, SumPool2d):
        after: list[list[tuple[str, int]]] = [[] for _ in range(int(np.prod(shapes[name])))]
        for there, here, _ in _windows(node, shapes[source], shapes[name]):
            after[there] += before[here]
        return after
    assert isinstance(node, Flatten | Delay)
    return before


def edges_into(network: Network, neuron: str, *, skip: bool) -> list[tuple[str, int, int, float]]:
    """Every synapse that leads to the neurons of a node: (sender, its number, neuron, weight); pixels make none."""
    shapes, found = network.shapes(), []
    for layer in network.inputs_of(neuron):
        node: Any = network.nodes[layer]
        (source,) = network.inputs_of(layer)
        start = network.nodes[source]
        if isinstance(start, Input) and start.encoding == "analog":
            continue
        before = senders(network, source)
        for there, here, place in _windows(node, shapes[source], shapes[layer]):
            weight = float(node.weight[place])
            if not (skip and weight == 0):
                found += [(sender, i, there, weight) for sender, i in before[here]]
    return found
