"""What can arrive at each node of a network, found from its structure alone: spikes, levels, pixels or real values.

A trace holds integers, the network computes with real values: ``value = level * unit``. Spikes have unit 1, a mean over a
window of R*S spikes has unit 1/(R*S) and is recorded as the sum, a pixel has unit 1/255, a QCFS activation ceiling/levels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from spikeloom.core.network import Network
from spikeloom.core.nodes import (
    LAYERS,
    Add,
    AvgPool2d,
    ClippedReLU,
    Delay,
    Firing,
    Flatten,
    Input,
    MaxPool2d,
    Node,
    Output,
    SumPool2d,
)

#: Largest pixel; a direct-coded level L arrives as L / 255.
LEVEL_MAX = 255


@dataclass(frozen=True)
class Signal:
    """What travels along an edge.

    kind: "spikes" are 0/1; "levels" integers 0..max_level; "analog" pixels, also 0..max_level; "real" sums and membranes.
    unit: value of one level. signed: levels go down to -max_level.
    """

    kind: Literal["spikes", "levels", "analog", "real"]
    max_level: int = 1
    unit: float = 1.0
    signed: bool = False

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
    """The signal behind every node, by its name.

    A loop is walked again until nothing changes. Every walk leads past one more delay; what still grows when all are passed, in a
    loop that no neuron interrupts, has no largest level and is real.
    """
    order = network.order()
    walks = 2 + sum(isinstance(network.nodes[name], Delay) for name in order)
    sent: dict[str, Signal] = {}
    before: dict[str, Signal] | None = None
    while sent != before:
        before = dict(sent)
        walks -= 1
        for name in order:
            node = network.nodes[name]
            sources = [sent[s] for s in network.inputs_of(name) if s in sent]
            if isinstance(node, Input):
                found = _INPUTS[node.encoding]
                if network.arithmetic == "integer":
                    found = replace(found, unit=1.0)  # a pixel is taken as the integer it is
            elif not sources and any(s != name for s in network.inputs_of(name)):
                continue  # behind a delay that is not reached yet
            else:
                found = _passed(node, _summed(sources))
            sent[name] = found if walks >= 0 or before.get(name) == found else REAL
    return sent


def received_signals(network: Network) -> dict[str, Signal]:
    """The signal arriving at every synapse, pool and add node, by its name."""
    sent = sent_signals(network)
    return {
        name: _summed([sent.get(s, REAL) for s in network.inputs_of(name)])
        for name, node in network.nodes.items()
        if isinstance(node, LAYERS)
    }


def _summed(arriving: list[Signal]) -> Signal:
    """Several edges into one node add up; integers only if they count in the same unit."""
    if len(arriving) == 1:
        return arriving[0]
    if not arriving or any(s.kind in ("real", "analog") or s.unit != arriving[0].unit for s in arriving):
        return REAL
    signed = any(s.signed for s in arriving)
    return Signal("levels", sum(s.max_level for s in arriving), arriving[0].unit, signed)


def _passed(node: Node, signal: Signal) -> Signal:
    """What ``node`` makes of ``signal``."""
    if isinstance(node, Firing):
        graded = node.signed or node.max_level > 1
        return Signal("levels", node.max_level, signed=node.signed) if graded else Signal("spikes")
    if isinstance(node, ClippedReLU) and node.levels is not None and not isinstance(node.ceiling, np.ndarray):
        return Signal("levels", node.levels, node.ceiling / node.levels)
    if signal.kind == "real":
        return REAL
    if isinstance(node, (Delay, Flatten, MaxPool2d, Add, Output)):
        return signal
    if isinstance(node, (SumPool2d, AvgPool2d)):
        area = math.prod(node.kernel)
        unit = signal.unit / area if isinstance(node, AvgPool2d) else signal.unit
        return Signal("analog" if signal.kind == "analog" else "levels", signal.max_level * area, unit, signal.signed)
    return REAL


def spikes_unseen(network: Network, name: str) -> bool:
    """True for a spiking layer whose spikes are not, one to one and at their own step, the arrival of another layer."""
    neuron = network.layer_neuron(name)
    node = None if neuron is None else network.nodes[neuron]
    if not isinstance(node, Firing) or node.signed or node.max_level > 1:
        return False
    if any(isinstance(node, Delay) for node in network.nodes.values()):
        return True
    return not any(network.layer_inputs(c) == (name,) for c in network.layers() if c != name)
