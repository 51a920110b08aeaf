"""A trace with fewer steps, or with spikes removed or added at random: what machines are asked to find where an SNN breaks even.

Draws belong to the neuron that sends, so that all who hear it lose the same spikes, and a stronger thinning removes what a weaker
one does and more. Letters: T time steps, N samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from spikeloom.core.efficiency import BreakEven
from spikeloom.core.network import Network
from spikeloom.core.nodes import POOLS, SPIKING, Add, AvgPool2d, Delay, Flatten, MaxPool2d, SumPool2d
from spikeloom.core.trace import Arrival, Levels, Spikes, SpikeTrace
from spikeloom.errors import ConfigError


def first_steps(trace: SpikeTrace, steps: int) -> SpikeTrace:
    """The first ``steps`` steps of a trace; exact, for what comes later cannot change them.

    Layers with a number of steps of their own (a read-out that runs once) stay as they are.
    """
    if not 1 <= steps <= trace.num_steps:
        raise ConfigError(f"got {steps} steps, expected 1..{trace.num_steps}, those of the trace")

    def cut(arrival: Arrival) -> Arrival:
        if isinstance(arrival, Spikes):
            return cut_spikes(arrival)
        return replace(arrival, values=arrival.values[:steps]) if arrival.num_steps == trace.num_steps else arrival

    def cut_spikes(spikes: Spikes) -> Spikes:
        return _cut(spikes, steps) if spikes.num_steps == trace.num_steps else spikes

    return replace(
        trace,
        num_steps=steps,
        arrivals={name: cut(arrival) for name, arrival in trace.arrivals.items()},
        outputs={name: cut_spikes(one) for name, one in trace.outputs.items()},
        updates={name: cut_spikes(one) for name, one in trace.updates.items()},
        extra={},
    )


def _cut(spikes: Spikes, steps: int) -> Spikes:
    packed = spikes.packed[: -(-steps // 8)].copy()
    if steps % 8:
        packed[-1] &= np.uint8((1 << steps % 8) - 1)
    return Spikes(packed, steps)


def sent_spikes(network: Network, trace: SpikeTrace) -> dict[str, Arrival]:
    """What neurons and inputs sent in spikes, graded ones too, each once, by the node that sends it.

    What a pool or several senders together hand on are no spikes of their own; levels of pixels are none at all.
    """
    found: dict[str, Arrival] = {network.layer_neuron(name) or name: one for name, one in trace.outputs.items()}
    for name, arrival in trace.arrivals.items():
        sender = _sender(network, name, (Flatten, Delay))
        node = network.nodes[sender]
        spikes = isinstance(arrival, Spikes) and sender != name and not isinstance(node, (*POOLS, Add))
        if spikes or isinstance(node, SPIKING):
            found.setdefault(sender, arrival)
    return found


def firing_rate(network: Network, trace: SpikeTrace) -> float:
    """Spikes per neuron and step over everything that sends spikes, inputs of spikes included."""
    seen = sent_spikes(network, trace).values()
    places = sum(one.num_steps * one.num_samples * math.prod(one.shape) for one in seen)
    return sum(int(one.events().sum()) for one in seen) / max(1, places)


def _sender(network: Network, layer: str, past: tuple[type, ...] = (Flatten,)) -> str:
    """The node whose spikes reach a layer, past nodes that only hand on; the layer's own name where there are several."""
    sources = [source for source in network.inputs_of(layer) if source != layer]
    while len(sources) == 1 and isinstance(network.nodes[sources[0]], past):
        sources = list(network.inputs_of(sources[0]))
    return sources[0] if len(sources) == 1 else layer


def resampled(network: Network, trace: SpikeTrace, strength: float, seed: int = 0) -> SpikeTrace:
    """The trace with each spike removed with probability ``-strength``, or one added to each silent place with ``strength``.

    Sums and maxima of pools are formed anew; other sums of spikes lose (never gain) their units one by one. Direct-coded pixels
    stay. The record of updates, which would no longer fit, is dropped.

    Args:
        network: of the trace.
        trace: real spikes.
        strength: -1 (silence) .. 0 (the trace) .. 1 (every neuron at every step).
        seed: of the draws.

    Raises:
        ConfigError: a strength outside -1..1.
    """
    if not -1 <= strength <= 1:
        raise ConfigError(f"strength of thinning: got {strength}, expected -1..1")
    order = {name: index for index, name in enumerate(network.nodes)}

    def drawn(sender: str, spikes: Spikes) -> Spikes:
        rng = np.random.default_rng([seed, order[sender]])
        sent = spikes.unpack()
        draws = rng.random((*sent.shape[:2], math.prod(spikes.shape)), np.float32).reshape(sent.shape)
        kept = sent & (draws >= np.float32(-strength)) if strength < 0 else sent | (draws < np.float32(strength))
        return Spikes.pack(kept)

    arrivals: dict[str, Arrival] = {}
    for name in network.layers():
        arrival, sender = trace.arrivals[name], _sender(network, name)
        node = network.nodes[sender]
        if isinstance(node, SumPool2d | AvgPool2d | MaxPool2d) and sender in arrivals:
            arrivals[name] = _pooled(node, arrivals[sender], arrival)
        elif isinstance(arrival, Spikes):
            arrivals[name] = drawn(sender, arrival)
        elif arrival.analog:
            arrivals[name] = arrival
        elif isinstance(node, Add) or not arrival.signed:
            arrivals[name] = _units(arrival, strength, np.random.default_rng([seed, order[sender]]))
        else:
            raise ConfigError(
                f"layer '{name}' gets signed levels, of which no spike can be removed; leave out the break-even"
            )
    outputs = {name: drawn(network.layer_neuron(name) or name, one) for name, one in trace.outputs.items()}
    return replace(trace, arrivals=arrivals, outputs=outputs, updates={}, extra={})


def _pooled(node: SumPool2d | AvgPool2d | MaxPool2d, before: Arrival, behind: Arrival) -> Arrival:
    """What a pool makes of new arrivals, in the form of what it made of the old ones."""
    maps = before.unpack().astype(np.int64) if isinstance(before, Spikes) else before.values.astype(np.int64)
    (a, b), (u, v), (p, q) = node.kernel, node.stride, node.padding
    maps = np.pad(maps, ((0, 0), (0, 0), (0, 0), (p, p), (q, q)))
    rows, cols = (maps.shape[3] - a) // u + 1, (maps.shape[4] - b) // v + 1
    windows = [
        maps[..., r : r + u * rows : u, s : s + v * cols : v][..., :rows, :cols] for r in range(a) for s in range(b)
    ]
    joined = np.maximum.reduce(windows) if isinstance(node, MaxPool2d) else np.add.reduce(windows)
    joined = joined.reshape(*joined.shape[:2], *behind.shape)
    return (
        Spikes.pack(joined)
        if isinstance(behind, Spikes)
        else replace(behind, values=joined.astype(behind.values.dtype))
    )


def _units(arrival: Levels, strength: float, rng: np.random.Generator) -> Levels:
    """Levels that lose each of their units with probability ``-strength``."""
    if strength >= 0:
        return arrival
    kept = np.zeros_like(arrival.values)
    for unit in range(int(arrival.values.max(initial=0))):
        kept += (arrival.values > unit) & (rng.random(arrival.values.shape, np.float32) >= np.float32(-strength))
    return replace(arrival, values=kept)


def break_even(energy_at: Callable[[float], float], rate_at: Callable[[float], float], target: float) -> BreakEven:
    """The largest strength at which the energy does not exceed ``target``, by bisection to 1/1024 of the way.

    energy_at, rate_at: energy and firing rate at a strength -1..1; energy grows with it.
    """
    wins = energy_at(0.0) <= target
    low, high = (0.0, 1.0) if wins else (-1.0, 0.0)
    if wins and energy_at(1.0) <= target:
        return BreakEven("always", None, None)
    if not wins and energy_at(-1.0) > target:
        return BreakEven("never", None, None)
    for _ in range(10):
        middle = (low + high) / 2
        low, high = (middle, high) if energy_at(middle) <= target else (low, middle)
    return BreakEven("denser" if wins else "thinned", rate_at(low), low)
