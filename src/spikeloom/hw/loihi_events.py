"""Events of one sample on a many-core chip, step by step: what every group updates, fires and sends, and what arrives where."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from spikeloom.core.trace import Levels, Spikes
from spikeloom.core.workload import Layer
from spikeloom.hw.contention import contention
from spikeloom.hw.loihi_arch import LoihiArch
from spikeloom.hw.loihi_groups import INPUT_KIND, Chart, Group
from spikeloom.hw.loihi_kernels import (
    SPREAD,
    busiest,
    count_bits,
    last_bits,
    reach,
    reach_nonzero,
    send,
    send_by_core,
    shifted,
)
from spikeloom.hw.loihi_plan import Outgoing, Plan
from spikeloom.hw.mesh import PORT
from spikeloom.hw.traffic import Traffic


@dataclass(frozen=True, eq=False)
class GroupEvents:
    """One group in one sample; T the steps of the trace, S its cores, E its ends (a layer on a core).

    updated_TS, fired_TS, sent_TS: neurons and messages by core. arrived_TE, events_TE: messages and synapse events by end.
    paths: hops in x, hops in y and boundaries between chips. All int64.
    """

    updated_TS: np.ndarray
    fired_TS: np.ndarray
    sent_TS: np.ndarray
    arrived_TE: np.ndarray
    events_TE: np.ndarray
    paths: np.ndarray


@dataclass(frozen=True, eq=False)
class SampleCounts:
    """One sample, summed over its steps; int64.

    by_group_G6: updates, spikes, messages, hops in x, hops in y, boundaries between chips. arrived, events: messages and synapse
    events by end, for each group. busy: ticks of each core of each group on its neurons and messages. ticks_L: ticks of the
    steps that each layer bounds.
    """

    by_group_G6: np.ndarray
    arrived: tuple[np.ndarray, ...]
    events: tuple[np.ndarray, ...]
    busy: tuple[np.ndarray, ...]
    ticks_L: np.ndarray


class Counter:
    """Counts samples of one workload on one plan."""

    def __init__(self, chart: Chart, plan: Plan, arch: LoihiArch) -> None:
        self.chart, self.plan, self.arch = chart, plan, arch
        self.layers = {layer.name: layer for layer in chart.workload.layers}
        self.number = {name: i for i, name in enumerate(self.layers)}
        self.barrier = arch.barrier_ticks(plan.tiles)
        self.synapse_ticks = {name: arch.synapse_ticks(name) for _, name in chart.edges}

    def sample(self, n: int) -> SampleCounts:
        """All events of sample ``n``, and the ticks they take."""
        found = self.events(n)
        generated, received = self._generated_and_received(found)
        ticks_TS = np.ascontiguousarray(np.concatenate([*generated, received], axis=1))
        steps = self.chart.num_steps
        bound_T, slot_T = np.empty(steps, np.int64), np.zeros(steps, np.int64)
        busiest(ticks_TS, self._slots[1], self._slots[2], bound_T, slot_T)
        if self.arch.timing == "contention":
            bound_T = contention(self.traffic(n, found), self.arch.mesh, self.arch)
        ticks_L = np.zeros(len(self.layers), np.int64)
        np.add.at(ticks_L, self._slots[0][slot_T], bound_T + self.barrier)
        sums = [(g.updated_TS.sum(), g.fired_TS.sum(), g.sent_TS.sum(), *g.paths) for g in found]
        return SampleCounts(
            np.array(sums, np.int64),
            tuple(g.arrived_TE.sum(axis=0) for g in found),
            tuple(g.events_TE.sum(axis=0) for g in found),
            tuple(ticks_TC.sum(axis=0) for ticks_TC in generated),
            ticks_L,
        )

    def events(self, n: int) -> tuple[GroupEvents, ...]:
        """Events of sample ``n`` by group."""
        return tuple(self._group(g, group, n) for g, group in enumerate(self.chart.groups))

    # --- events -------------------------------------------------------------------------------------------------------

    def _group(self, g: int, group: Group, n: int) -> GroupEvents:
        stand, outgoing = self.plan.stands[g], self.plan.outgoing[g]
        num_steps, cores = self.chart.workload.num_steps, stand.cores_S.size
        updated_TS, fired_TS, sent_TS = (np.zeros((num_steps, cores), np.int64) for _ in range(3))
        ends = len(outgoing.ends) if outgoing else 0
        arrived_TE, events_TE = (np.zeros((num_steps, ends), np.int64) for _ in range(2))
        paths = np.zeros(3, np.int64)
        out_BN = None if group.out is None else _sample(group.out, n)
        if not group.port:
            updated_BN = out_BN if self.layers[group.name].kind == INPUT_KIND else self.updated(group, n)
            assert updated_BN is not None
            count_bits(updated_BN, stand.slot_N, SPREAD, updated_TS)
            if out_BN is not None:
                count_bits(out_BN, stand.slot_N, SPREAD, fired_TS)
        if outgoing and out_BN is not None:
            send(
                out_BN, outgoing.place_N, stand.slot_N, outgoing.paths_N, outgoing.messages_U, outgoing.arrives_UE,
                outgoing.synapses_UE, sent_TS, arrived_TE, events_TE, paths,
            )  # fmt: skip
        return GroupEvents(updated_TS, fired_TS, sent_TS, arrived_TE, events_TE, paths)

    def updated(self, group: Group, n: int) -> np.ndarray:
        """Neurons that are updated, as recorded or, at least, where something arrives; uint8 (B, N)."""
        recorded = self.layers[group.name].updates
        if recorded is not None:
            return _sample(recorded, n)
        num_steps = self.chart.workload.num_steps
        updated_BKPQ = np.zeros((-(-num_steps // 8), *group.shape_KPQ), np.uint8)
        if group.driven is not None:
            driven_KPQ = np.broadcast_to(group.driven, group.shape_KPQ)
            updated_BKPQ[:, driven_KPQ] = 255
            updated_BKPQ[-1, driven_KPQ] = last_bits(num_steps)
            if driven_KPQ.all():
                return updated_BKPQ.reshape(len(updated_BKPQ), -1)
        arrived_BKPQ = np.zeros_like(updated_BKPQ)
        for name in group.members:
            layer = self.layers[name]
            analog = isinstance(layer.arrival, Levels) and layer.arrival.analog
            self._reach(layer, n, updated_BKPQ if analog else arrived_BKPQ)
        arrived_BN = arrived_BKPQ.reshape(len(arrived_BKPQ), -1)
        if self.chart.workload.delay:  # a spike acts in the step behind the one it is sent in, a pixel at once
            arrived_BN = shifted(arrived_BN, num_steps)
        return updated_BKPQ.reshape(len(updated_BKPQ), -1) | arrived_BN

    def _reach(self, layer: Layer, n: int, reached_BKPQ: np.ndarray) -> None:
        arrival = layer.arrival
        if isinstance(arrival, Levels):
            arrival = Spikes.pack(arrival.values[:, n : n + 1] != 0)
            n = 0
        packed_BCHW = np.ascontiguousarray(arrival.packed[:, n])
        window = (layer.stride, layer.padding, layer.dilation)
        if self.arch.zero_weights == "skipped" and layer.weight is not None:
            nonzero = (layer.weight != 0).astype(np.uint8)
            reach_nonzero(packed_BCHW, nonzero, layer.groups, *window, reached_BKPQ)
        else:
            reach(packed_BCHW, layer.groups, (layer.R, layer.S), *window, reached_BKPQ)

    # --- time -----------------------------------------------------------------------------------------------------------

    @cached_property
    def _slots(self) -> tuple[np.ndarray, np.ndarray, int]:
        """Layer and key of every slot, and the number of keys: cores that generate, cores that receive, the port.

        A slot is a group on one of its cores, then a layer on one of the cores that receive for it.
        """
        M = self.plan.cores_M
        layers: list[int] = []
        keys: list[int] = []
        for group, stand in zip(self.chart.groups, self.plan.stands, strict=True):
            layers += [self.number[group.name]] * stand.cores_S.size
            keys += [2 * M.size] if group.port else np.searchsorted(M, stand.cores_S).tolist()
        for name, core in self._received_at:
            layers.append(self.number[name])
            keys.append(M.size + int(np.searchsorted(M, core)))
        return np.array(layers, np.int64), np.array(keys, np.int32), 2 * M.size + 1

    @cached_property
    def _received_at(self) -> tuple[tuple[str, int], ...]:
        """Every layer on every core that receives for it, from whichever group."""
        return tuple(dict.fromkeys(end for outgoing in self.plan.outgoing if outgoing for end in outgoing.ends))

    def _generated_and_received(self, found: tuple[GroupEvents, ...]) -> tuple[list[np.ndarray], np.ndarray]:
        """Ticks of every slot in every step of the chip; int64, (steps, S) for each group, then (steps, layers on cores)."""
        place = {end: i for i, end in enumerate(self._received_at)}
        received_RT = np.zeros((len(place), self.chart.num_steps), np.int64)
        for g, events in enumerate(found):
            outgoing = self.plan.outgoing[g]
            if outgoing:  # a layer may hear several groups, but one of them once only
                received_RT[[place[end] for end in outgoing.ends]] += self._at(g, self._received(outgoing, events)).T
        return [self._generated(g, events) for g, events in enumerate(found)], received_RT.T

    def _generated(self, g: int, events: GroupEvents) -> np.ndarray:
        """Ticks that the cores of a group spend on its neurons and messages; int64 (steps, S)."""
        ticks = self.arch.ticks
        sending = ticks["axon_out"] * events.sent_TS
        if self.chart.groups[g].port:
            return self._at(g, sending)
        working = ticks["update"] * events.updated_TS + ticks["spike_out"] * events.fired_TS + sending
        return np.asarray(ticks["access"] * self.plan.stands[g].neurons_S + self._at(g, working))

    def _received(self, outgoing: Outgoing, events: GroupEvents) -> np.ndarray:
        synapse_E = np.array([self.synapse_ticks[name] for name, _ in outgoing.ends], np.int64)
        return np.asarray(self.arch.ticks["axon_in"] * events.arrived_TE + synapse_E * events.events_TE)

    def _at(self, g: int, ticks_TX: np.ndarray) -> np.ndarray:
        """Steps of the trace as steps of the chip, in which a group works ``depth`` steps later."""
        depth, steps = self.chart.groups[g].depth, self.chart.num_steps
        if steps == ticks_TX.shape[0]:
            return ticks_TX
        late = np.zeros((steps, ticks_TX.shape[1]), np.int64)
        late[depth : depth + ticks_TX.shape[0]] = ticks_TX
        return late

    # --- traffic, for timing with contention ----------------------------------------------------------------------------

    def traffic(self, n: int, found: tuple[GroupEvents, ...]) -> Traffic:
        """Work of the cores and messages between them in sample ``n``, of which ``found`` are the events by group."""
        ported = any(group.port for group in self.chart.groups)
        cores_M = np.concatenate([np.array([PORT] * ported, np.int32), self.plan.cores_M])
        steps = self.chart.num_steps
        generate, updated, fired, receive, before, behind = (
            np.zeros((steps, cores_M.size), np.int64) for _ in range(6)
        )
        sending = np.zeros((steps, cores_M.size), bool)
        neurons_M = np.zeros(cores_M.size, np.int64)
        for g, events in enumerate(found):
            group, stand = self.chart.groups[g], self.plan.stands[g]
            where = np.searchsorted(cores_M, stand.cores_S)
            generated, sends = self._generated(g, events), self._at(g, events.sent_TS) > 0
            generate[:, where] += generated
            before[:, where] = np.where(sends & ~sending[:, where], behind[:, where], before[:, where])
            behind[:, where] = np.where(sends, 0, behind[:, where] + generated)
            sending[:, where] |= sends
            updated[:, where] += self._at(g, events.updated_TS)
            fired[:, where] += self._at(g, events.fired_TS)
            if not group.port:
                neurons_M[where] += stand.neurons_S
        source, target, messages, received = self._flows(n)
        np.add.at(receive.T, np.searchsorted(cores_M, target), received.T)
        behind[~sending] = 0
        return Traffic(
            cores_M, generate, receive, source, target, messages, received, updated, fired, neurons_M, before, behind
        )

    def _flows(self, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Source and target cores of all flows in ascending order, int32 (F,), their messages and the ticks of the targets, int64 (T, F)."""
        steps = self.chart.num_steps
        pairs, messages, received = [np.zeros((0, 2), np.int32)], [], []
        for g, group in enumerate(self.chart.groups):
            outgoing = self.plan.outgoing[g]
            if outgoing is None or group.out is None:
                continue
            arrived_TF, received_TF, pairs_F2 = self._group_flows(g, outgoing, _sample(group.out, n))
            pairs.append(pairs_F2)
            messages.append(self._at(g, arrived_TF))
            received.append(self._at(g, received_TF))
        # several groups, or layers, may share a pair of cores
        unique_F2, flow = np.unique(np.concatenate(pairs), axis=0, return_inverse=True)
        sums_FT, ticks_FT = (np.zeros((len(unique_F2), steps), np.int64) for _ in range(2))
        if messages:
            np.add.at(sums_FT, flow.ravel(), np.concatenate(messages, axis=1).T)
            np.add.at(ticks_FT, flow.ravel(), np.concatenate(received, axis=1).T)
        source_F, target_F = unique_F2.T.astype(np.int32)
        return source_F, target_F, np.ascontiguousarray(sums_FT.T), np.ascontiguousarray(ticks_FT.T)

    def _group_flows(self, g: int, outgoing: Outgoing, out_BN: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Messages, ticks of their targets and cores (F, 2) of what a group sends, where there is any; T steps of the trace."""
        stand = self.plan.stands[g]
        shape = (self.chart.workload.num_steps, stand.cores_S.size, len(outgoing.ends))
        arrived_TSE, events_TSE = np.zeros(shape), np.zeros(shape)
        send_by_core(
            out_BN, outgoing.place_N, *stand.by_core, outgoing.arrives_UE, outgoing.synapses_UE, arrived_TSE, events_TSE
        )
        # two layers on one core have an end each; the message is booked on one of them
        s, e = np.nonzero(events_TSE.any(axis=0))
        arrived_TF, events_TF = arrived_TSE[:, s, e].astype(np.int64), events_TSE[:, s, e].astype(np.int64)
        synapse_E = np.array([self.synapse_ticks[name] for name, _ in outgoing.ends], np.int64)
        core_E = np.array([core for _, core in outgoing.ends], np.int32)
        received_TF = self.arch.ticks["axon_in"] * arrived_TF + synapse_E[e] * events_TF
        return arrived_TF, received_TF, np.stack([stand.cores_S[s], core_E[e]], axis=1)


def _sample(spikes: Spikes, n: int) -> np.ndarray:
    """One sample as bytes over its neurons; uint8 (B, N), contiguous."""
    return np.ascontiguousarray(spikes.packed[:, n]).reshape(spikes.packed.shape[0], -1)
