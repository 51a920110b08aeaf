"""A small event simulator of the micro cases: what every core does in every step, one neuron and one message after the other.

A case is {"T", "groups": [[name, n, attributes, places]], "edges": [[source, target, pairs]]}: pairs are "all", a list of
[i, j], or a rule {"fan", "stride", "step"}: neuron i reaches (i * stride + k * step) mod n for k = 0 .. fan - 1. A place is [tile,
core in tile]; neurons are split evenly over the places, the last takes the rest. Every weight is 1. Times are ticks of 0.1 ns.
"""

from __future__ import annotations

import math
from collections import Counter, abc, defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np

from spikeloom.core.network import Network
from spikeloom.core.nodes import LIF, Delay, Input, Leak, Linear, Node
from spikeloom.core.placement import Place, Placement, even_split
from spikeloom.hw.traffic import Traffic

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


def _weights(rule: Any, num_sources: int, num_targets: int) -> np.ndarray:
    """Weights (K, C) of 1 where there is a synapse, else 0."""
    weight = np.zeros((num_targets, num_sources), np.float32)
    for i, j in _pairs(rule, num_sources, num_targets):
        weight[j, i] += 1
    assert weight.max() <= 1, "a matrix cannot hold two synapses between the same neurons"
    return weight


def merged(case: dict[str, Any]) -> dict[str, Any]:
    """The case with groups that are alike and reach one and the same group, all of it, as one group: their spikes are one map."""
    edges = _edges(case)
    alike: dict[str, list[Any]] = defaultdict(list)
    for group in case["groups"]:
        out = [edge for edge in edges if edge[0] == group[0]]
        whole = (
            len(out) == 1 and out[0][2] == "all" and len(group[3]) == 1 and not any(b == group[0] for _, b, _ in edges)
        )
        alike[f"{group[1]} {group[2]} {out[0][1:]}" if whole else group[0]].append(group)
    groups = [
        [same[0][0], sum(group[1] for group in same), same[0][2], [place for group in same for place in group[3]]]
        for same in alike.values()
    ]
    kept = {group[0] for group in groups}
    return {"T": case["T"], "groups": groups, "edges": [edge for edge in edges if edge[0] in kept]}


def inbound(case: dict[str, Any], name: str) -> int:
    """Ways into a group: edges, and its bias."""
    own = next(values for other, _, values, _ in case["groups"] if other == name)
    return sum(edge[1] == name for edge in _edges(case)) + bool(own.get("bias", 0.0) or own.get("force_update"))


def network(case: dict[str, Any]) -> Network:
    """A case as a network: biases are those of layers that get a black pixel (a tiny one stands for a forced update). Every group
    has one way into it."""
    nodes: dict[str, Node] = {"pixel": Input((1,), "analog")}
    edges: list[tuple[str, str]] = []
    sizes = {group[0]: group[1] for group in case["groups"]}
    fed = set()
    for a, b, rule in _edges(case):
        late, synapses = f"{a}-late", f"{a}-{b}"
        if late not in nodes:
            nodes[late] = Delay(1)
            edges.append((a, late))
        nodes[synapses] = Linear(sizes[a], sizes[b], weight=_weights(rule, sizes[a], sizes[b]))
        edges += [(late, synapses), (synapses, b)]
        fed.add(b)
    for name, n, own, _ in case["groups"]:
        assert own.get("reset", 0.0) == 0 and inbound(case, name) <= 1
        if name not in fed:
            bias = np.full(n, own.get("bias", 0.0) or (2.0**-60 if own.get("force_update") else 0.0), np.float32)
            nodes[f"{name}-bias"] = Linear(1, n, True, weight=np.zeros((n, 1), np.float32), bias=bias)
            edges += [("pixel", f"{name}-bias"), (f"{name}-bias", name)]
        leak = Leak(factor=own.get("leak_decay", 1.0))
        nodes[name] = LIF(leak, v_threshold=own["threshold"], strict=True, reset="hard", v_reset=0.0)
    return Network(nodes, tuple(edges))


def placement(case: dict[str, Any], layers: abc.Iterable[str]) -> Placement:
    """Places of the neurons, by the layers that the machine says have them: of each group one."""
    places = []
    for name, n, _, cores in case["groups"]:
        (layer,) = (x for x in layers if x == f"{name}-bias" or x.endswith(f"-{name}"))
        runs = even_split(n, len(cores))
        places += [Place(layer, tile, core, neurons=run) for (tile, core), run in zip(cores, runs, strict=True)]
    return Placement(tuple(places))
