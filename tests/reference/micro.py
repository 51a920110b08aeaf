"""A small event simulator of the micro cases: what every core does in every step, one neuron and one message after the other.

A case is {"T", "groups": [[name, n, attributes, places]], "edges": [[source, target, pairs]]}: pairs are "all", a list of
[i, j], or a rule {"fan", "stride", "step"}: neuron i reaches (i * stride + k * step) mod n for k = 0 .. fan - 1. A place is [tile,
core in tile]; neurons are split evenly over the places, the last takes the rest. Every weight is 1. Times are ticks of 0.1 ns.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np

from spikeloom.hw.traffic import Traffic
from tests.reference.chip_networks import ChipCase, ChipEdges, ChipGroup

#: Unit table loihi-sanafe, ticks of 0.1 ns (docs/models/loihi.md).
ACCESS, UPDATE, SPIKE_OUT, AXON_OUT, AXON_IN, SYNAPSE = 60, 37, 300, 51, 160, 38
#: Ticks of the barrier by tiles with a neuron: at least so many tiles, so many ticks.
BARRIER = ((1, 6000), (2, 10000), (4, 14000), (29, 18000))
CORES_PER_TILE = 4


@dataclass(frozen=True)
class Micro:
    """Traffic of a case with its totals: synapse events, messages, updated and fired neurons, and the barrier of a step in ticks."""

    traffic: Traffic
    events: int
    messages: int
    updated: int
    fired: int
    barrier: int


def _pairs(rule: Any, num_sources: int, num_targets: int) -> list[tuple[int, int]]:
    if rule == "all":
        return [(i, j) for i in range(num_sources) for j in range(num_targets)]
    if isinstance(rule, dict):
        return [
            (i, (i * rule["stride"] + k * rule["step"]) % num_targets)
            for i in range(num_sources)
            for k in range(rule["fan"])
        ]
    return [(i, j) for i, j, *_ in rule]


def _edges(case: dict[str, Any]) -> list[Any]:
    if "edges" in case:
        return list(case["edges"])
    names = [group[0] for group in case["groups"]]
    return [[names[0], names[1], "all"]] if case["n_edges"] else []


def simulate(case: dict[str, Any]) -> Micro:
    """Play every step of a case: v = trunc(leak v, on a grid of 1/64) + arrived + bias; fire if v > threshold; then v = reset.

    A spike is paid for in its own step and arrives in the next. One message per firing neuron and core that holds a target.
    """
    first: dict[str, int] = {}
    core: list[int] = []
    attributes: list[dict[str, Any]] = []
    group: list[int] = []
    for number, (name, n, values, places) in enumerate(case["groups"]):
        first[name] = len(core)
        size = n // len(places)
        for i in range(n):
            tile, offset = places[min(i // size, len(places) - 1)]
            core.append(tile * CORES_PER_TILE + offset)
            attributes.append(values)
            group.append(number)
    sizes = {group[0]: group[1] for group in case["groups"]}
    fan: list[dict[int, int]] = [defaultdict(int) for _ in core]  # of a neuron: synapses on each core
    targets: list[list[int]] = [[] for _ in core]
    for a, b, rule in _edges(case):
        for i, j in _pairs(rule, sizes[a], sizes[b]):
            source, target = first[a] + i, first[b] + j
            fan[source][core[target]] += 1
            targets[source].append(target)

    used = sorted(set(core))
    flows = sorted({(core[i], m) for i in range(len(core)) for m in fan[i]})
    steps = case["T"]
    generate: Counter[tuple[int, int]] = Counter()
    by_group: Counter[tuple[int, int, int]] = Counter()  # generating ticks of step, core and group
    sending: set[tuple[int, int, int]] = set()
    receive: Counter[tuple[int, int]] = Counter()
    updated: Counter[tuple[int, int]] = Counter()
    fired: Counter[tuple[int, int]] = Counter()
    messages: Counter[tuple[int, tuple[int, int]]] = Counter()
    work: Counter[tuple[int, tuple[int, int]]] = Counter()
    events = 0
    v = [0.0] * len(core)
    arrived = [0] * len(core)
    for t in range(steps):
        sent = [0] * len(core)
        for i, m in enumerate(core):
            own = attributes[i]
            bias, leak = own.get("bias", 0.0), own.get("leak_decay", 1.0)
            active = v[i] != 0 or arrived[i] > 0 or bias != 0 or own.get("force_update", False)
            v[i] = math.trunc(leak * v[i] * 64) / 64 + arrived[i] + float(np.float32(bias))
            fires = v[i] > own["threshold"]
            updated[t, m] += active or fires
            fired[t, m] += fires
            ticks = ACCESS + (active or fires) * UPDATE + fires * (SPIKE_OUT + len(fan[i]) * AXON_OUT)
            generate[t, m] += ticks
            by_group[t, m, group[i]] += ticks
            if not fires:
                continue
            v[i] = own.get("reset", 0.0)
            if fan[i]:
                sending.add((t, m, group[i]))
            for target in targets[i]:
                sent[target] += 1
            for target_core, synapses in fan[i].items():
                ticks = AXON_IN + synapses * SYNAPSE
                receive[t, target_core] += ticks
                messages[t, (m, target_core)] += 1
                work[t, (m, target_core)] += ticks
                events += synapses
        arrived = sent

    before: Counter[tuple[int, int]] = Counter()
    behind: Counter[tuple[int, int]] = Counter()
    for (t, m, g), ticks in by_group.items():
        senders = [other for other in range(len(case["groups"])) if (t, m, other) in sending]
        if senders and g < senders[0]:
            before[t, m] += ticks
        if senders and g > senders[-1]:
            behind[t, m] += ticks

    def table(counts: Counter[Any], columns: list[Any]) -> np.ndarray:
        return np.array([[counts[t, c] for c in columns] for t in range(steps)], np.int64).reshape(steps, len(columns))

    held = Counter(core)
    tiles = len({m // CORES_PER_TILE for m in used})
    traffic = Traffic(
        cores_M=np.array(used, np.int32),
        generate_TM=table(generate, used),
        receive_TM=table(receive, used),
        flow_source_F=np.array([a for a, _ in flows], np.int32),
        flow_target_F=np.array([b for _, b in flows], np.int32),
        messages_TF=table(messages, flows),
        receive_TF=table(work, flows),
        updated_TM=table(updated, used),
        fired_TM=table(fired, used),
        neurons_M=np.array([held[m] for m in used], np.int64),
        before_TM=table(before, used),
        behind_TM=table(behind, used),
    )
    barrier = max(ticks for least, ticks in BARRIER if tiles >= least)
    return Micro(traffic, events, sum(messages.values()), sum(updated.values()), sum(fired.values()), barrier)


def chip_of(case: dict[str, Any]) -> ChipCase:
    """The case as a network, a trace and a placement of this package."""
    sizes = {group[0]: group[1] for group in case["groups"]}
    return ChipCase(
        [ChipGroup(name, n, own, [tuple(place) for place in places]) for name, n, own, places in case["groups"]],
        [ChipEdges(a, b, [(i, j, 1.0) for i, j in _pairs(rule, sizes[a], sizes[b])]) for a, b, rule in _edges(case)],
        case["T"],
    )
