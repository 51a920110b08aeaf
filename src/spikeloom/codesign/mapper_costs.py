"""What a mapping costs on a many-core machine, exactly, put together from what single layers and pairs of layers cost.

Letters: T steps of all samples, M parts of a group, N its neurons, E cells of a layer's input (class of channels, row, column), S spikes.
What a core receives depends on the split of its own layer alone; what it sends on its split and those of the layers behind;
messages from core to core on the two splits. So each is counted once and thousands of mappings are put together from them. The
result is the machine's own count, which is asserted wherever both are known (`spikeloom.codesign.mapper`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, TypeVar

import numpy as np
from numba import njit

from spikeloom.codesign.mapper_divisions import Division, Shape
from spikeloom.hw.fan import Fan
from spikeloom.hw.loihi_kernels import SPREAD, count_bits
from spikeloom.hw.mesh import Mesh

V = TypeVar("V")
#: Source of what comes from outside: it enters the mesh at tile 0, sends as a core does and has no neurons.
PORT = -1


@dataclass(frozen=True, eq=False)
class Group:
    """The neurons of one layer on the machine.

    step_S, neuron_S: their spikes by step; int64. updated: packed over T (bit t & 7 of byte t >> 3 is step t) where a neuron is updated;
    uint8 (ceil(T/8), N).
    """

    name: str
    shape_KPQ: Shape
    step_S: np.ndarray
    neuron_S: np.ndarray
    updated: np.ndarray

    @property
    def size(self) -> int:
        """Neurons."""
        return int(np.prod(self.shape_KPQ))

    @cached_property
    def fired_N(self) -> np.ndarray:
        """Spikes of each neuron over all steps; int64."""
        return np.bincount(self.neuron_S, minlength=self.size).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Edge:
    """Synapses of one layer, from one group (or the `PORT`) to another or itself: the numbers of both.

    fired_N: spikes of each source neuron over all steps; int64. cell_N: cell of each source neuron, -1 where it feeds nothing.
    events_TE: spikes of a cell in a step; float64, whole numbers. fan: owner map (K, P, Q) of the target -> `Fan` of the layer.
    synapse_ticks: of one synapse event. twins: numbers of the edges in front of this one from the same source to the same target; a message
    for any of them carries what this one needs as well. own_E: where there are twins a cell is one of each of them; this is the layer's own
    one, -1 where it hears nothing.
    """

    layer: str
    source: int
    target: int
    fired_N: np.ndarray
    cell_N: np.ndarray
    events_TE: np.ndarray
    fan: Callable[[np.ndarray], Fan]
    synapse_ticks: int
    twins: tuple[int, ...] = ()
    own_E: np.ndarray | None = None

    def by_cell(self, targets_MAHW: np.ndarray) -> np.ndarray:
        """Synapses on each part of an input in each cell, from those of the layer's own input map; (M, E)."""
        targets_ME = targets_MAHW.reshape(len(targets_MAHW), -1)
        return targets_ME if self.own_E is None else np.where(self.own_E >= 0, targets_ME[:, self.own_E], 0)


@dataclass(frozen=True)
class Ticks:
    """Durations in ticks of the machine's clock. sync: of the barrier by number of tiles in use, from 0 on."""

    access: int
    update: int
    spike_out: int
    axon_out: int
    axon_in: int
    sync: tuple[int, ...]


@dataclass(frozen=True)
class Prices:
    """Joules. message: axon-out and axon-in. rest: of all that no mapping changes. watts: standing power, W. clock: Hz."""

    message: float
    hop_x: float
    hop_y: float
    link: float
    rest: float
    watts: float
    clock: float


@dataclass(frozen=True)
class Cost:
    """Of one mapping over all samples: integers, and what they cost."""

    messages: int
    hops_x: int
    hops_y: int
    crossings: int
    ticks: int
    cores: int
    tiles: int
    energy_j: float
    latency_s: float

    @property
    def edp_js(self) -> float:
        """Product of both sums."""
        return self.energy_j * self.latency_s

    def of(self, objective: str) -> tuple[float, float]:
        """What is to be least first, and what decides between equals."""
        if objective == "energy":
            return self.energy_j, self.latency_s
        if objective == "latency":
            return self.latency_s, self.energy_j
        return self.edp_js, self.latency_s


@dataclass(frozen=True, eq=False)
class Needs:
    """What each part of a group asks of its core: in-axons and synapses of its layer; int64, (M,)."""

    neurons_M: np.ndarray
    in_axons_M: np.ndarray
    synapse_bits_M: np.ndarray


@dataclass(frozen=True, eq=False)
class Problem:
    """A network on its spikes, as a mapping sees it; costs are kept by the splits they depend on.

    memory_bits: (owner map of a group, fans of its layers by name) -> bits of synapse memory on each part; int64, (M,).
    """

    groups: tuple[Group, ...]
    edges: tuple[Edge, ...]
    num_steps: int
    ticks: Ticks
    prices: Prices
    mesh: Mesh
    memory_bits: Callable[[np.ndarray, Mapping[str, Fan]], np.ndarray]
    _kept: _Kept = field(default_factory=lambda: _Kept(), repr=False)

    def cost(self, splits: Sequence[Division], slots_M: np.ndarray) -> Cost:
        """Of a mapping. slots_M: core of each part, group after group."""
        tile_M = self.mesh.tile(np.asarray(slots_M, np.int64))
        x_M, y_M, chip_M = self.mesh.x(slots_M), self.mesh.y(slots_M), self.mesh.chip(slots_M)
        first = np.cumsum([0, *(split.num_cores for split in splits)])
        hops_x = hops_y = crossings = messages = 0
        for edge in self.edges:
            flows_MM = self.flows(edge, splits)
            b = slice(first[edge.target], first[edge.target + 1])
            if edge.source == PORT:
                x_A = y_A = chip_A = np.zeros(1, np.int64)
            else:
                a = slice(first[edge.source], first[edge.source + 1])
                x_A, y_A, chip_A = x_M[a], y_M[a], chip_M[a]
            messages += int(flows_MM.sum())
            hops_x += int((flows_MM * np.abs(x_A[:, None] - x_M[None, b])).sum())
            hops_y += int((flows_MM * np.abs(y_A[:, None] - y_M[None, b])).sum())
            if self.mesh.chips > 1:
                crossings += int((flows_MM * np.abs(chip_A[:, None] - chip_M[None, b])).sum())
        tiles = int(np.unique(tile_M).size)
        ticks = int(self.busiest_T(splits).sum()) + self.num_steps * self.ticks.sync[tiles]
        p, latency = self.prices, ticks / self.prices.clock
        energy = p.rest + messages * p.message + hops_x * p.hop_x + hops_y * p.hop_y + crossings * p.link
        return Cost(messages, hops_x, hops_y, crossings, ticks, len(tile_M), tiles, energy + p.watts * latency, latency)

    def busiest_T(self, splits: Sequence[Division]) -> np.ndarray:
        """Ticks of the busiest core in each step, without the barrier; int64."""
        busiest = self._port_T(splits)
        for g in range(len(self.groups)):
            np.maximum(busiest, self._receive_max_T(g, splits[g]), out=busiest)
            np.maximum(busiest, self._generate_max_T(g, splits), out=busiest)
        return busiest

    def messages_MM(self, splits: Sequence[Division]) -> tuple[np.ndarray, np.ndarray]:
        """Messages of each (source part, target part), parts numbered group after group, and of the port to each; int64."""
        first = np.cumsum([0, *(split.num_cores for split in splits)])
        total, port_M = np.zeros((first[-1], first[-1]), np.int64), np.zeros(first[-1], np.int64)
        for edge in self.edges:
            b = slice(first[edge.target], first[edge.target + 1])
            if edge.source == PORT:
                port_M[b] += self.flows(edge, splits)[0]
            else:
                total[first[edge.source] : first[edge.source + 1], b] += self.flows(edge, splits)
        return total, port_M

    def messages(self, group: int, split: Division) -> int | None:
        """Messages that lead to a group where it is split so, however the others are; None where nothing leads to it."""
        edges = self._into(group)
        return sum(int(edge.fired_N @ self._reached_N(edge, split)) for edge in edges) if edges else None

    def flows(self, edge: Edge, splits: Sequence[Division]) -> np.ndarray:
        """Messages of each (source part, target part) of an edge; int64 (M of the source, M of the target); the port is one part."""
        source = Division("neurons") if edge.source == PORT else splits[edge.source]
        target = splits[edge.target]
        key = ("flows", self.edges.index(edge), source, target)
        return self._keep(key, lambda: self._count_flows(edge, source, target))

    def needs(self, group: int, split: Division) -> Needs:
        """What a layer's parts need whatever the other splits are."""

        def count() -> Needs:
            owner_KPQ = self._owner(group, split)
            neurons_M = np.bincount(owner_KPQ.reshape(-1), minlength=split.num_cores)
            inputs_M = np.zeros(split.num_cores, np.int64)
            fans = {}
            for edge in self._into(group):
                fans[edge.layer] = self._fan(edge, split)
                inputs_M += self._inputs_M(edge, split)
            return Needs(neurons_M, inputs_M, self.memory_bits(owner_KPQ, fans))

        return self._keep(("needs", group, split), count)

    def out_axons_M(self, group: int, splits: Sequence[Division]) -> np.ndarray:
        """(Neuron, target core) pairs of each part; int64."""
        edges = self._out_of(group)
        targets = tuple(splits[edge.target] for edge in edges)

        def count() -> np.ndarray:
            owner_N = self._owner(group, splits[group]).reshape(-1)
            reached = sum((self._reached_N(e, t) for e, t in zip(edges, targets, strict=True)), np.zeros(1, np.int64))
            weights_N = np.broadcast_to(reached, owner_N.shape).astype(np.float64)
            return np.bincount(owner_N, weights_N, splits[group].num_cores).astype(np.int64)

        return self._keep(("out", group, splits[group], targets), count)

    def load_KPQ(self, group: int, ticks_of_messages: float) -> tuple[np.ndarray, np.ndarray]:
        """Ticks that each neuron costs its core over all steps: those it generates, and its share of those received.

        ticks_of_messages: of each spike. Axon-in is shared by the neurons of a core and left out.
        """
        found, spent = self.groups[group], self.ticks
        generate_N = (
            np.bitwise_count(found.updated).sum(axis=0, dtype=np.int64) * spent.update + self.num_steps * spent.access
        )
        generate_N = generate_N + found.fired_N * (spent.spike_out + ticks_of_messages)
        receive_N = np.zeros(found.size)
        for edge in self._into(group):
            receive_N += self._received_N(edge) * edge.synapse_ticks
        return generate_N.reshape(found.shape_KPQ), receive_N.reshape(found.shape_KPQ)

    def profile(self, group: int, split: Division) -> tuple[float, ...]:
        """What a split costs by itself: cores, messages to it, ticks of its busiest core for what arrives, and for what its neurons do.

        The last with two messages a spike, as that depends on the splits of others.
        """

        def count() -> np.ndarray:
            found, owner_N = self.groups[group], self._owner(group, split).reshape(-1)
            generated = self._own_TM(group, split).copy()
            ticks_N = np.full(found.size, self.ticks.spike_out + 2 * self.ticks.axon_out, np.int64)
            _add_spikes(generated, found.step_S, found.neuron_S, owner_N, ticks_N)
            received = self._receive_max_T(group, split).sum()
            messages = self.messages(group, split) or 0
            return np.array([split.num_cores, messages, received, generated.max(axis=1).sum()], np.float64)

        return tuple(self._keep(("profile", group, split), count).tolist())

    # What depends on one split, or on two.

    def _receive_max_T(self, group: int, split: Division) -> np.ndarray:
        return self._keep(("receive", group, split), lambda: self.receive_TM(group, split).max(axis=1))

    def receive_TM(self, group: int, split: Division) -> np.ndarray:
        """Ticks that each part spends on what arrives in each step; int64."""
        received = np.zeros((self.num_steps, split.num_cores))
        for edge in self._into(group):
            targets_ME = edge.by_cell(self._fan(edge, split).targets_MAHW)
            ticks_ME = targets_ME * float(edge.synapse_ticks) + self._sent_ME(edge, split) * float(self.ticks.axon_in)
            received += edge.events_TE @ ticks_ME.T  # sums far below 2**53: exact
        return received.astype(np.int64)

    def _generate_max_T(self, group: int, splits: Sequence[Division]) -> np.ndarray:
        targets = tuple(splits[edge.target] for edge in self._out_of(group))
        key = ("generate", group, splits[group], targets)
        return self._keep(key, lambda: self.generate_TM(group, splits).max(axis=1))

    def generate_TM(self, group: int, splits: Sequence[Division]) -> np.ndarray:
        """Ticks that each part spends on its neurons and on sending in each step; int64."""
        found, split = self.groups[group], splits[group]
        owner_N = self._owner(group, split).reshape(-1)
        ticks_N = np.full(found.size, self.ticks.spike_out, np.int64)
        for edge in self._out_of(group):
            ticks_N += self.ticks.axon_out * self._reached_N(edge, splits[edge.target])
        generated = self._own_TM(group, split).copy()
        _add_spikes(generated, found.step_S, found.neuron_S, owner_N, ticks_N)
        return generated

    def _port_T(self, splits: Sequence[Division]) -> np.ndarray:
        """Ticks that the port spends on sending in each step; int64."""
        sent_T = np.zeros(self.num_steps, np.int64)
        for edge in self._out_of(PORT):
            split = splits[edge.target]
            key = ("port", self.edges.index(edge), split)
            sent_T += self._keep(key, partial(self._sent_T, edge, split))
        return sent_T * self.ticks.axon_out

    def _sent_T(self, edge: Edge, target: Division) -> np.ndarray:
        """Messages of an edge in each step; int64."""
        reached_E = self._destinations_E(edge, target).astype(np.float64)
        return np.asarray((edge.events_TE @ reached_E).astype(np.int64))

    def _own_TM(self, group: int, split: Division) -> np.ndarray:
        """Soma access and updates."""

        def count() -> np.ndarray:
            owner_N = self._owner(group, split).reshape(-1)
            neurons_M = np.bincount(owner_N, minlength=split.num_cores)
            updates_TM = np.zeros((self.num_steps, split.num_cores), np.int64)
            count_bits(self.groups[group].updated, owner_N, SPREAD, updates_TM)
            return neurons_M * self.ticks.access + updates_TM * self.ticks.update

        return self._keep(("own", group, split), count)

    def _count_flows(self, edge: Edge, source: Division, target: Division) -> np.ndarray:
        owner_N = np.zeros(len(edge.cell_N), np.int32)
        if edge.source != PORT:
            owner_N = self._owner(edge.source, source).reshape(-1)
        reached_ME = self._sent_ME(edge, target)
        feeds = edge.cell_N >= 0
        place = owner_N[feeds].astype(np.int64) * reached_ME.shape[1] + edge.cell_N[feeds]
        fired = edge.fired_N[feeds].astype(np.float64)
        fired_ME = np.bincount(place, fired, source.num_cores * reached_ME.shape[1]).reshape(source.num_cores, -1)
        return (fired_ME @ reached_ME.T.astype(np.float64)).astype(np.int64)

    def _reached_N(self, edge: Edge, target: Division) -> np.ndarray:
        """Cores that a spike of each source neuron reaches; int64."""

        def count() -> np.ndarray:
            reached_E = self._destinations_E(edge, target).astype(np.int64)
            return np.where(edge.cell_N >= 0, reached_E[edge.cell_N], 0)

        return self._keep(("reached", self.edges.index(edge), target), count)

    def _received_N(self, edge: Edge) -> np.ndarray:
        """Synapse events of each target neuron's row and column, shared evenly by the channels that are alike; float64.

        Exact where every weight is stored and channels are in one class; else by rows, which is what cuts go by.
        """
        shape = self.groups[edge.target].shape_KPQ
        K, P, Q = shape
        per_E = edge.events_TE.sum(axis=0)
        pixels = np.repeat(np.arange(P * Q).reshape(1, P, Q), K, axis=0).astype(np.int32)
        found = edge.fan(pixels)
        received_PQ = np.zeros(P * Q)
        received_PQ[found.cores_M] = edge.by_cell(found.targets_MAHW) @ per_E
        return np.tile(received_PQ / K, K)

    def _sent_ME(self, edge: Edge, target: Division) -> np.ndarray:
        """Whether an input in a cell costs a message to a part; not where one for a twin goes there anyway. Bool (M, E)."""
        sent_ME: np.ndarray = edge.by_cell(self._fan(edge, target).targets_MAHW) > 0
        for twin in (self.edges[number] for number in edge.twins):
            sent_ME &= twin.by_cell(self._fan(twin, target).targets_MAHW) == 0
        return sent_ME

    def _destinations_E(self, edge: Edge, target: Division) -> np.ndarray:
        """Messages that a spike in each cell costs."""
        if edge.own_E is None:
            return self._fan(edge, target).destinations_AHW.reshape(-1)
        return np.asarray(np.count_nonzero(self._sent_ME(edge, target), axis=0))

    def _inputs_M(self, edge: Edge, target: Division) -> np.ndarray:
        """Source neurons with a synapse on each part and none of a twin; int64."""
        if edge.own_E is None:
            return self._fan(edge, target).inputs_M
        neurons_E = np.bincount(edge.cell_N[edge.cell_N >= 0], minlength=len(edge.own_E))
        return np.asarray(self._sent_ME(edge, target) @ neurons_E)

    def _fan(self, edge: Edge, target: Division) -> Fan:
        return self._keep(("fan", self.edges.index(edge), target), lambda: edge.fan(self._owner(edge.target, target)))

    def _owner(self, group: int, split: Division) -> np.ndarray:
        return self._keep(("owner", group, split), lambda: split.owner(self.groups[group].shape_KPQ))

    def _into(self, group: int) -> list[Edge]:
        return [edge for edge in self.edges if edge.target == group]

    def _out_of(self, group: int) -> list[Edge]:
        return [edge for edge in self.edges if edge.source == group]

    def _keep(self, key: Any, count: Callable[[], V]) -> V:
        found: V | None = self._kept.get(key)
        if found is None:
            found = count()
            self._kept.put(key, found)
        return found


class _Kept:
    """What was counted last, as far as it fits in ``most`` bytes."""

    def __init__(self, most: int = 1 << 28) -> None:
        self.most, self.bytes = most, 0
        self.values: OrderedDict[Any, tuple[Any, int]] = OrderedDict()

    def get(self, key: Any) -> Any:
        if key not in self.values:
            return None
        self.values.move_to_end(key)
        return self.values[key][0]

    def put(self, key: Any, value: Any) -> None:
        arrays = (
            [value] if isinstance(value, np.ndarray) else [x for x in vars(value).values() if isinstance(x, np.ndarray)]
        )
        size = 512 + sum(array.nbytes for array in arrays)
        self.values[key] = value, size
        self.bytes += size
        while self.bytes > self.most and len(self.values) > 1:
            _, (_, freed) = self.values.popitem(last=False)
            self.bytes -= freed


@njit(cache=True)
def _add_spikes(
    ticks_TM: np.ndarray, step_S: np.ndarray, neuron_S: np.ndarray, owner_N: np.ndarray, ticks_N: np.ndarray
) -> None:
    for s in range(len(step_S)):
        n = neuron_S[s]
        ticks_TM[step_S[s], owner_N[n]] += ticks_N[n]
