"""What one integer is worth on every edge of a network that is to be one of integers, and which synapses must share a step.

An edge carries levels (spikes, pixels, pooled spikes), each of one value, or sums that count in the steps of the synapses they
come from. A mean over R*S is a sum whose 1 is worth 1/(R*S), a Scale of one number changes what 1 is worth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from spikeloom.core.network import Network
from spikeloom.core.nodes import SPIKING, SYNAPSES, AvgPool2d, Input, Node, Scale
from spikeloom.core.signals import LEVEL_MAX
from spikeloom.errors import NetworkError


@dataclass(frozen=True)
class Flow:
    """What travels along an edge: levels of one value (``unit``), or sums, and then the value of 1 from each synapse in its step."""

    unit: float = 1.0
    sums: Mapping[str, float] | None = None

    def times(self, factor: float) -> Flow:
        if self.sums is None:
            return Flow(self.unit * factor)
        return Flow(sums={name: value * factor for name, value in self.sums.items()})


def flows(network: Network) -> dict[str, Flow]:
    """What arrives at every node; at the Input what it sends. Raises NetworkError where kinds meet that cannot be added."""
    arriving: dict[str, Flow] = {}
    sent: dict[str, Flow] = {}
    while True:  # once, and again for what loops bring back
        before = dict(arriving)
        for name in network.order():
            node = network.nodes[name]
            sources = [source for source in network.inputs_of(name) if source in sent]
            if isinstance(node, Input):
                arriving[name] = Flow(1 / LEVEL_MAX if node.encoding == "analog" else 1.0)
            elif sources:
                arriving[name] = _met(network, name, {source: sent[source] for source in sources})
            else:
                continue  # a delay in a loop, seen before what feeds it
            sent[name] = _sent(name, node, arriving[name])
        if arriving == before:
            return arriving


def _sent(name: str, node: Node, flow: Flow) -> Flow:
    """What ``node`` makes of what arrives."""
    if isinstance(node, SPIKING):
        return Flow()
    if isinstance(node, SYNAPSES):
        if flow.sums is not None:
            raise NetworkError(
                f"layer '{name}' gets the sums of {', '.join(flow.sums)} as they are; integers need a spiking neuron in between"
            )
        return Flow(sums={name: 1.0})
    if isinstance(node, AvgPool2d):
        return flow.times(1 / math.prod(node.kernel))
    if isinstance(node, Scale):
        return flow.times(float(node.scale.flat[0]))
    return flow


def _met(network: Network, name: str, flows: Mapping[str, Flow]) -> Flow:
    """Several edges into ``name``."""
    first, *others = flows.values()
    levels = [source for source, flow in flows.items() if flow.sums is None]
    where = f"node '{name}' ({type(network.nodes[name]).__name__})"
    if levels and len(levels) < len(flows):
        raise NetworkError(
            f"{where} adds levels from '{levels[0]}' to the sums of a synapse, and the two have no common step; put a synapse behind "
            f"'{levels[0]}' (an identity; spikeloom.transform.convert inserts one)"
        )
    if levels:
        if any(not math.isclose(flow.unit, first.unit) for flow in others):
            raise NetworkError(
                f"{where} adds levels of different value from {', '.join(levels)}; put a synapse behind each"
            )
        return first
    sums: dict[str, float] = {}
    for flow in flows.values():
        for synapse, factor in (flow.sums or {}).items():
            if not math.isclose(sums.setdefault(synapse, factor), factor):
                raise NetworkError(
                    f"{where} gets the sums of '{synapse}' twice, in different units; no one step fits both"
                )
    return Flow(sums=sums)


def step_groups(network: Network, arriving: Mapping[str, Flow]) -> list[dict[str, float]]:
    """Synapses that share a step; in each group the step of a synapse over that of the first."""
    beside: dict[str, list[tuple[str, float]]] = {
        name: [] for name in network.order() if isinstance(network.nodes[name], SYNAPSES)
    }
    for flow in arriving.values():
        met = list((flow.sums or {}).items())
        for (one, here), (other, there) in zip(met, met[1:], strict=False):
            beside[one].append((other, here / there))
            beside[other].append((one, there / here))
    groups: list[dict[str, float]] = []
    for start in beside:
        if any(start in group for group in groups):
            continue
        group, waiting = {start: 1.0}, [start]
        while waiting:
            one = waiting.pop()
            for other, factor in beside[one]:
                if other not in group:
                    waiting.append(other)
                if not math.isclose(group.setdefault(other, group[one] * factor), group[one] * factor):
                    raise NetworkError(
                        f"layers '{one}' and '{other}' meet twice, in different units; no one step fits both"
                    )
        groups.append(group)
    return groups


def edges_without_scales(network: Network) -> tuple[tuple[str, str], ...]:
    """The edges, past every Scale."""

    def before(name: str) -> list[str]:
        if not isinstance(network.nodes[name], Scale):
            return [name]
        return [far for source in network.inputs_of(name) for far in before(source)]

    return tuple(
        (far, dst) for src, dst in network.edges if not isinstance(network.nodes[dst], Scale) for far in before(src)
    )
