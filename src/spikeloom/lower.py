"""(Network, SpikeTrace) -> Workload: the geometry of the one and the spikes of the other, per layer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from spikeloom.core.network import Network
from spikeloom.core.nodes import (
    LAYERS,
    NEURONS,
    SPIKING,
    Add,
    AvgPool2d,
    Conv1d,
    Conv2d,
    Flatten,
    Input,
    Linear,
    MaxPool2d,
    Node,
    Shape,
    SumPool2d,
)
from spikeloom.core.trace import Arrival, Levels, Spikes, SpikeTrace
from spikeloom.core.widths import told_width, width_of
from spikeloom.core.workload import Layer, NeuronRule, RateLayer, RateWorkload, Workload, neuron_rule
from spikeloom.errors import NetworkError, TraceError


def lower(network: Network, trace: SpikeTrace) -> Workload:
    """Join geometry and spikes. Raises TraceError naming a layer whose arrival is missing or has the wrong shape."""
    shapes = network.shapes()
    layers = []
    for name in network.layers():
        arrival = trace.arrival(name)
        sources = [shapes[source] for source in network.inputs_of(name) if source != name]
        if not sources or int(np.prod(arrival.shape)) != int(np.prod(sources[0])):
            raise TraceError(
                f"layer '{name}': the trace holds a map of shape {list(arrival.shape)}, the network {sources}"
            )
        if arrival.num_samples != trace.num_samples:
            raise TraceError(
                f"layer '{name}': the trace holds {arrival.num_samples} samples of it, expected {trace.num_samples}"
            )
        if isinstance(arrival, Levels):
            _check_levels(name, arrival)
        for what, records in (("output spikes", trace.outputs), ("updates", trace.updates)):
            if name in records:
                _check_record(name, what, records[name], arrival, shapes[name])
        layers.append(_layer(network, trace, name, arrival, sources[0], shapes[name]))
    return Workload(
        tuple(layers), trace.num_steps, trace.num_samples, trace.source, trace.notes, delay=trace.delay, dt_s=trace.dt_s,
        width=width_of(network),
    )  # fmt: skip


def _heard(network: Network, name: str) -> tuple[str, ...]:
    """Layers whose outputs reach ``name``; of those whose sums meet in a neuron between the one that has it."""
    sums: set[str] = set()  # heard without a neuron between
    waiting = list(network.inputs_of(name))
    while waiting:
        node = waiting.pop()
        if node not in sums and not isinstance(network.nodes[node], NEURONS):
            sums.add(node)
            waiting += network.inputs_of(node) if not isinstance(network.nodes[node], LAYERS) else ()
    return tuple(source for source in network.layer_inputs(name) if source in sums or not network.joins(source))


def _check_levels(name: str, levels: Levels) -> None:
    lowest, highest = int(levels.values.min(initial=0)), int(levels.values.max(initial=0))
    if max(-lowest, highest) >= 2**levels.bits or (lowest < 0 and not levels.signed):
        sign = "signed" if levels.signed else "unsigned"
        raise TraceError(f"layer '{name}': got levels {lowest}..{highest}, expected {sign} ones of {levels.bits} bits")


def _check_record(name: str, what: str, spikes: Spikes, arrival: Arrival, shape: Shape) -> None:
    """Kernels index by these extents without looking twice, so a record must have exactly those of its layer."""
    got = (spikes.num_steps, spikes.num_samples, int(np.prod(spikes.shape)))
    expected = (arrival.num_steps, arrival.num_samples, int(np.prod(shape)))
    if got != expected:
        raise TraceError(
            f"layer '{name}': its {what} have (steps, samples, neurons) = {got}, expected {expected}, those of the layer"
        )


def output_spikes(network: Network, trace: SpikeTrace, name: str, shape: Shape) -> Spikes | None:
    """Output spikes of a layer: its own record, or what arrived at a layer that it alone feeds, one to one."""
    if name in trace.outputs:
        return trace.outputs[name]
    neuron = network.layer_neuron(name)
    if neuron is None or not isinstance(network.nodes[neuron], SPIKING):
        return None
    for consumer in network.layers():
        arrival = trace.arrivals.get(consumer)
        direct = _heard(network, consumer) == (name,) and consumer != name and _hands_on(network, neuron, consumer)
        if not direct or not isinstance(arrival, Spikes) or arrival.num_steps != trace.arrivals[name].num_steps:
            continue
        if int(np.prod(arrival.shape)) == int(np.prod(shape)):
            return arrival
    return None


def _hands_on(network: Network, neuron: str, consumer: str) -> bool:
    """True when what arrives at ``consumer`` is what ``neuron`` sends, at its own step: nothing but a Flatten between."""
    sources = network.inputs_of(consumer)
    while len(sources) == 1 and isinstance(network.nodes[sources[0]], Flatten):
        sources = network.inputs_of(sources[0])
    return sources == (neuron,)


def _layer(network: Network, trace: SpikeTrace, name: str, arrival: Arrival, source: Shape, shape: Shape) -> Layer:
    node = network.nodes[name]
    C, H, W = _extents(source, node)
    K, P, Q = _extents(shape, node)
    geometry: dict[str, Any] = dict(C=C, H=H, W=W, K=K, P=P, Q=Q, R=1, S=1)
    if isinstance(node, Conv2d):
        geometry |= dict(R=node.kernel[0], S=node.kernel[1], stride=node.stride, padding=node.padding)
        geometry |= dict(dilation=node.dilation, groups=node.groups)
    elif isinstance(node, Conv1d):
        geometry |= dict(S=node.kernel, stride=(1, node.stride), padding=(0, node.padding))
        geometry |= dict(dilation=(1, node.dilation), groups=node.groups)
    elif isinstance(node, SumPool2d | AvgPool2d | MaxPool2d):
        geometry |= dict(R=node.kernel[0], S=node.kernel[1], stride=node.stride, padding=node.padding, groups=C)
    elif isinstance(node, Add):
        geometry |= dict(groups=C)
    if isinstance(node, Conv1d | Conv2d | Linear):
        geometry |= dict(weight_bits=node.weight_bits, has_bias=node.has_bias)
        if node.weight is not None:
            geometry["weight"] = node.weight.reshape(K, C // geometry.get("groups", 1), geometry["R"], geometry["S"])
        if node.has_bias and node.bias is not None:
            geometry["bias"] = node.bias.reshape((K, P, Q) if node.bias.ndim > 1 else (K, 1, 1))
    outputs = output_spikes(network, trace, name, shape)
    updates = trace.updates.get(name)
    inputs = _heard(network, name)
    return Layer(
        name,
        type(node).__name__.lower(),
        arrival=arrival.reshape((C, H, W)),
        neuron=neuron_rule(network, name),
        recurrent=network.recurs(name),
        inputs=inputs,
        out=None if outputs is None else outputs.reshape((K, P, Q)),
        updates=None if updates is None else updates.reshape((K, P, Q)),
        joins=network.joins(name),
        **geometry,
    )


def _extents(shape: Shape, node: Node) -> tuple[int, int, int]:
    if len(shape) == 3:
        return shape[0], shape[1], shape[2]
    if len(shape) == 2:
        return shape[0], 1, shape[1]
    if len(shape) == 1:
        return shape[0], 1, 1
    raise NetworkError(
        f"a {type(node).__name__} layer cannot take a map of shape {list(shape)}, expected 1 to 3 extents"
    )


SYNTHETIC = "synthetic trace: Bernoulli spikes drawn from firing rates, not recorded from a network"


def draw(rates: RateWorkload) -> Workload:
    """A Bernoulli trace for machines that need spikes, the same for the same seed; the workload says it is synthetic.

    Each layer has a generator of its own, seeded with (seed, layer index), so that a change in one layer does not
    redraw the others.
    """
    layers = []
    for index, rate in enumerate(rates.layers):
        generator = np.random.default_rng([rates.seed, index])
        node = _rate_node(rate)
        network = Network(
            {f"{rate.name}.input": Input(rate.in_shape), rate.name: node}, ((f"{rate.name}.input", rate.name),)
        )
        draws = generator.random((rates.num_steps, rates.num_samples, *rate.in_shape), dtype=np.float32)
        arrival = Spikes.pack(
            draws < np.float32(rate.firing_rate) if rate.firing_rate < 1 else np.ones(draws.shape, bool)
        )
        trace = SpikeTrace(rates.num_steps, rates.num_samples, {rate.name: arrival})
        layer = lower(network, trace).layers[0]
        if rate.overhang:
            rows, cols = (n - k for n, k in zip(layer.framed_extent, rate.kernel, strict=True))
            layer = replace(layer, P=-(-rows // rate.stride[0]) + 1, Q=-(-cols // rate.stride[1]) + 1)
        if rate.weight_density is not None:
            shape = (layer.K, layer.C // layer.groups, layer.R, layer.S)
            kept = (generator.random(shape) < rate.weight_density).astype(np.int8)
            layer = replace(layer, weight=kept)
        layers.append(replace(layer, neuron=NeuronRule("if")))
    width = told_width(
        {rate.name: rate.weight_bits for rate in rates.layers if rate.name in rates.silent}, "", rates.asked
    )
    return Workload(
        tuple(layers), rates.num_steps, rates.num_samples, rates.source, (SYNTHETIC,), drawn=True, width=width
    )


def _rate_node(rate: RateLayer) -> Node:
    if rate.kind == "linear":
        return Linear(rate.in_shape[0], rate.out_channels, weight_bits=rate.weight_bits)
    if rate.kind == "conv1d":
        return Conv1d(
            rate.in_shape[0], rate.out_channels, rate.kernel[1], rate.stride[1], rate.padding[1], 1, rate.groups,
            weight_bits=rate.weight_bits,
        )  # fmt: skip
    return Conv2d(
        rate.in_shape[0], rate.out_channels, rate.kernel, rate.stride, rate.padding, (1, 1), rate.groups,
        weight_bits=rate.weight_bits,
    )  # fmt: skip
