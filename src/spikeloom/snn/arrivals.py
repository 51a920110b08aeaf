"""What can arrive at each node of a network, found from its structure alone: spikes, levels, pixels or real values.

A trace holds integers, the network computes with real values: ``value = level * unit``. Spikes have unit 1, a mean over a
window of R*S spikes has unit 1/(R*S) and is recorded as the sum, a pixel has unit 1/255, a QCFS activation ceiling/levels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from spikeloom.core.network import (
    LAYERS,
    SPIKING,
    Add,
    AvgPool2d,
    ClippedReLU,
    Delay,
    Flatten,
    Input,
    MaxPool2d,
    Network,
    Node,
    Output,
    SumPool2d,
)
from spikeloom.snn.encode import LEVEL_MAX


@dataclass(frozen=True)
class Signal:
    """What travels along an edge.

    kind: "spikes" are 0/1; "levels" integers 0..max_level; "analog" pixels, also 0..max_level; "real" sums and membranes.
    unit: value of one level.
    """

    kind: Literal["spikes", "levels", "analog", "real"]
    max_level: int = 1
    unit: float = 1.0

    @property
    def bits(self) -> int:
        """Bits of one level: the fewest that hold ``max_level``."""
        return max(1, self.max_level.bit_length())


REAL = Signal("real")
_INPUTS = {
    "spikes": Signal("spikes"),
    "levels": Signal("levels", LEVEL_MAX),  # a level's own size is not known here; 8 bits hold what a data set gives
    "analog": Signal("analog", LEVEL_MAX, 1 / LEVEL_MAX),
}


def sent_signals(network: Network) -> dict[str, Signal]:
    """The signal behind every node, by its name."""
    sent: dict[str, Signal] = {}
    for name in network.order():
        node = network.nodes[name]
        sources = [sent[s] for s in network.inputs_of(name) if s in sent]
        sent[name] = _INPUTS[node.encoding] if isinstance(node, Input) else _passed(node, _summed(sources))
    return sent


def received_signals(network: Network) -> dict[str, Signal]:
    """The signal arriving at every synapse, pool and add node, by its name."""
    sent = sent_signals(network)
    return {
        name: _summed([sent[s] for s in network.inputs_of(name)])
        for name, node in network.nodes.items()
        if isinstance(node, LAYERS)
    }


def _summed(arriving: list[Signal]) -> Signal:
    """Several edges into one node add up; integers only if they count in the same unit."""
    if len(arriving) == 1:
        return arriving[0]
    if not arriving or any(s.kind in ("real", "analog") or s.unit != arriving[0].unit for s in arriving):
        return REAL
    return Signal("levels", sum(s.max_level for s in arriving), arriving[0].unit)


def _passed(node: Node, signal: Signal) -> Signal:
    """What ``node`` makes of ``signal``."""
    if isinstance(node, SPIKING):
        return Signal("spikes")
    if isinstance(node, ClippedReLU) and node.levels is not None:
        return Signal("levels", node.levels, node.ceiling / node.levels)
    if signal.kind == "real":
        return REAL
    if isinstance(node, (Delay, Flatten, MaxPool2d, Add, Output)):
        return signal
    if isinstance(node, (SumPool2d, AvgPool2d)):
        area = math.prod(node.kernel)
        unit = signal.unit / area if isinstance(node, AvgPool2d) else signal.unit
        return Signal("analog" if signal.kind == "analog" else "levels", signal.max_level * area, unit)
    return REAL
