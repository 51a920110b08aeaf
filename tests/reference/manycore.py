"""A many-core chip neuron by neuron and synapse by synapse: the slow reference of the machine `loihi`.

Written from the rules that a chip of this class follows (the addendum of its specification), not from the machine. Nothing is fast
here: a step asks every synapse whether its source fired. Time is counted in ticks of 0.1 ns, so that every number is an integer.

Rules of a step, for every neuron:
    v = trunc(leak_decay * v) + (sum of weights that arrived) + bias      trunc: towards zero on a grid of 1/64
    fires if v > threshold; on fire v = reset, or v - threshold
    updated if v was not 0 before, or a spike arrived, or bias != 0, or it is forced to, or it fired
A spike is paid for in its own step and arrives in the next one. It is one message to every core that holds a target of it; the
message causes a synapse event for every synapse, also for parallel ones and those of weight 0.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from dataclasses import dataclass, field

#: Ticks of 0.1 ns.
ACCESS, UPDATE, SPIKE_OUT, AXON_OUT, AXON_IN = 60, 37, 300, 51, 160
SYNAPSE = {"dense": 38, "sparse": 47, "conv": 31}
ROWS, CORES_PER_TILE = 4, 4
GRID = 64

Core = tuple[int, int]  # tile, core in the tile
OUTSIDE: Core = (0, -1)  # the port through which spikes come from outside, at tile 0


def single(value: float) -> float:
    """The nearest number of single precision."""
    return float(struct.unpack("f", struct.pack("f", value))[0])


def barrier(tiles: int) -> int:
    """Ticks of the barrier by the number of tiles with a neuron."""
    if tiles == 1:
        return 6000
    if tiles <= 3:
        return 10000
    return 14000 if tiles <= 28 else 18000


@dataclass
class Group:
    """Neurons of one kind. cores: of each neuron. spikes: of an input, [step][neuron]; None for neurons that compute.

    An input group outside (its cores are `OUTSIDE`) has no soma; one on cores is accessed in every step and updated when it spikes.
    """

    name: str
    cores: list[Core]
    bias: list[float] = field(default_factory=list)
    threshold: float = 1.0
    leak_decay: float = 1.0
    reset: float = 0.0
    soft: bool = False
    force_update: bool = False
    synapse_class: str = "dense"
    spikes: list[list[bool]] | None = None


@dataclass
class Synapse:
    """From neuron ``i`` of group ``source`` to neuron ``j`` of group ``target``."""

    source: str
    i: int
    target: str
    j: int
    weight: float


@dataclass
class Bill:
    """What a run counts, by group: spikes, messages and hops at the sender, events at the receiver. ticks: of every step."""

    access: Counter[str] = field(default_factory=Counter)
    update: Counter[str] = field(default_factory=Counter)
    fired: Counter[str] = field(default_factory=Counter)
    messages: Counter[str] = field(default_factory=Counter)
    hops_x: Counter[str] = field(default_factory=Counter)
    hops_y: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    received: int = 0
    ticks: list[int] = field(default_factory=list)


class Chip:
    """Groups of neurons and their synapses, at rest until `step` is called."""

    def __init__(self, groups: list[Group], synapses: list[Synapse]) -> None:
        self.groups, self.synapses = {group.name: group for group in groups}, synapses
        self.v = {(group.name, i): 0.0 for group in groups for i in range(len(group.cores))}
        self.fired: set[tuple[str, int]] = set()
        self.t = 0
        self.bill = Bill()
        cores = {core for group in groups for core in group.cores if core != OUTSIDE}
        self.barrier = barrier(len({tile for tile, _ in cores}))

    def step(self) -> None:
        """One step: every neuron, then every message."""
        before, self.fired = self.fired, set()
        self.generate: Counter[Core] = Counter()
        self.receive: Counter[Core] = Counter()
        for name, group in self.groups.items():
            for i in range(len(group.cores)):
                self._neuron(group, name, i, before)
        for name, i in sorted(self.fired):
            self._messages(name, i)
        busiest = max([*self.generate.values(), *self.receive.values()])
        self.bill.ticks.append(busiest + self.barrier)
        self.t += 1

    def _neuron(self, group: Group, name: str, i: int, before: set[tuple[str, int]]) -> None:
        bill, core = self.bill, group.cores[i]
        if group.spikes is not None:
            fires = updated = bool(group.spikes[self.t][i])
            if core == OUTSIDE:
                if fires:
                    self.fired.add((name, i))
                return
        else:
            fires, updated = self._integrate(group, name, i, before)
        bill.access[name] += 1
        self.generate[core] += ACCESS
        if updated:
            bill.update[name] += 1
            self.generate[core] += UPDATE
        if fires:
            bill.fired[name] += 1
            self.generate[core] += SPIKE_OUT
            self.fired.add((name, i))

    def _integrate(self, group: Group, name: str, i: int, before: set[tuple[str, int]]) -> tuple[bool, bool]:
        """(fires, is updated) of a neuron that computes."""
        arrived, total = False, 0.0
        for synapse in self.synapses:
            if (synapse.target, synapse.j) == (name, i) and (synapse.source, synapse.i) in before:
                arrived = True
                total += single(synapse.weight)
        bias, v = single(group.bias[i]), self.v[name, i]
        updated = v != 0 or arrived or bias != 0 or group.force_update
        v = math.trunc(single(group.leak_decay) * v * GRID) / GRID + (total + bias)
        threshold = single(group.threshold)
        fires = v > threshold
        if fires:
            v = v - threshold if group.soft else single(group.reset)
        self.v[name, i] = v
        return fires, updated or fires

    def _messages(self, name: str, i: int) -> None:
        """What a spike costs on its way."""
        bill, core = self.bill, self.groups[name].cores[i]
        targets: dict[Core, list[str]] = {}
        for synapse in self.synapses:
            if (synapse.source, synapse.i) == (name, i):
                group = self.groups[synapse.target]
                targets.setdefault(group.cores[synapse.j], []).append(synapse.target)
        for target, events in targets.items():
            bill.messages[name] += 1
            self.generate[core] += AXON_OUT
            bill.hops_x[name] += abs(core[0] // ROWS - target[0] // ROWS)
            bill.hops_y[name] += abs(core[0] % ROWS - target[0] % ROWS)
            bill.received += 1
            self.receive[target] += AXON_IN
            for group_name in events:
                bill.events[group_name] += 1
                self.receive[target] += SYNAPSE[self.groups[group_name].synapse_class]


def run(groups: list[Group], synapses: list[Synapse], num_steps: int) -> Bill:
    """A sample of ``num_steps`` steps from rest."""
    chip = Chip(groups, synapses)
    for _ in range(num_steps):
        chip.step()
    return chip.bill
