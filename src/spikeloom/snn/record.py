"""Recording: run a folded network over a data set and keep what arrived at every layer, bit-packed over time.

Batch by batch and layer by layer: a batch's maps are packed as they pass and then dropped, so that neither float membranes nor
the unpacked trace are ever held. Letters: T time steps, N samples, C H W input map, K P Q output map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spikeloom.core.network import Network, arithmetic_of, trace_notes
from spikeloom.core.nodes import (
    IF,
    LAYERS,
    LI,
    LIF,
    SPIKING,
    Add,
    BatchNorm,
    ClippedReLU,
    Conv1d,
    Conv2d,
    CubaLIF,
    Pool,
    ReLU,
    Scale,
    Synapse,
)
from spikeloom.core.signals import Signal, received_signals, spikes_unseen
from spikeloom.core.trace import Arrival, Levels, Spikes, SpikeTrace
from spikeloom.errors import NetworkError
from spikeloom.snn.build import input_frames
from spikeloom.snn.execute import Execution, Progress, Source, check_classes, encoded_batches, runnable
from spikeloom.snn.neurons import Dynamics, kept_of, touched
from spikeloom.snn.threads import threads, threads_for

_MAX_BITS = 16


def record(
    network: Network,
    source: Source,
    execution: Execution,
    *,
    updates: bool = False,
    origin: str = "",
    sample_ids: Sequence[int] | np.ndarray | None = None,
    progress: Progress | None = None,
) -> SpikeTrace:
    """Run ``network`` over all of ``source`` in float32 and record what arrives at each synapse, pool and add node.

    Spikes are bit-packed. Sums of pooled spikes are `Levels` of the fewest bits that hold them (a mean is recorded as the sum,
    its factor belongs to the weights). Direct-coded pixels are analog `Levels` of 8 bits, one frame seen T times. Keys are the
    names of the receiving nodes; behind a Flatten maps are flat.

    Args:
        network: with weights and without BatchNorm.
        source: the samples.
        execution: T, encoding, batch size, seed of random codes.
        updates: also record, by the name of the layer in front of each neuron, where a machine that touches only live neurons
            has work: the membrane before the leak is not 0, a non-zero input lies in the receptive field, or a bias acts.
        origin: what the trace says it comes from, e.g. "digits/test".
        sample_ids: kept in ``extra["meta"]["sample_ids"]``.
        progress: told after every batch.

    Raises:
        NetworkError: BatchNorm is left, weights are absent, or real values reach a layer.
    """
    signals = _recordable(network)
    check_classes(network, source)
    module = runnable(network)
    recorder = _Recorder(network, signals, updates)
    predictions = np.empty(len(source), np.int64)
    number = threads_for(network, execution.samples_at_once * execution.num_steps)
    with torch.no_grad(), threads(number):
        for indices, encoded in encoded_batches(source, execution, module.input_node):
            trajectory = module(input_frames(module, encoded), execution.num_steps, encoded.constant, recorder.see)
            predictions[indices] = module.scores(trajectory).argmax(1).numpy()
            recorder.end_batch()
            if progress is not None:
                progress("record", int(indices[-1]) + 1, len(source), {})
    meta: dict[str, Any] = {"arithmetic": arithmetic_of(network)}
    if sample_ids is not None:
        meta["sample_ids"] = [int(i) for i in sample_ids]
    return SpikeTrace(
        execution.num_steps,
        len(source),
        {name: _joined(parts, signals[name], execution.num_steps) for name, parts in recorder.arrivals.items()},
        {name: _spikes(parts, execution.num_steps) for name, parts in recorder.outputs.items()},
        {name: _spikes(parts, execution.num_steps) for name, parts in recorder.updates.items()},
        network.dt_s,
        origin,
        np.asarray(source.labels).astype(np.int64),
        predictions,
        {"meta": meta},
        notes=trace_notes(network),
    )


def _recordable(network: Network) -> dict[str, Signal]:
    """What arrives at each layer. Raises NetworkError when a trace of this network cannot be written."""
    unfolded = [name for name, node in network.nodes.items() if isinstance(node, BatchNorm)]
    if unfolded:
        raise NetworkError(
            f"network '{network.name}' still has BatchNorm nodes {unfolded}; fold them first (spikeloom.transform.fold)"
        )
    held = {network.layer_neuron(name) for name in network.layers()}
    relus = {name for name, node in network.nodes.items() if isinstance(node, ReLU | ClippedReLU)}
    for first in (name for name, node in network.nodes.items() if isinstance(node, SPIKING) and relus):
        near, behind = network.followers(first), [first]
        for name in behind:
            behind += [other for other in network.outputs_of(name) if other not in behind]
            if name in relus and (name in near or not {first, name} <= held):
                raise NetworkError(
                    f"node '{name}' stands behind the spiking neurons of '{first}': a mixed network, of which no trace holds both"
                )
    signals = received_signals(network)
    for name in network.layers():
        signal = signals[name]
        if signal.kind == "real":
            raise NetworkError(
                f"layer '{name}' ({type(network.nodes[name]).__name__}) gets real values, a trace holds spikes and levels; "
                f"put it behind a spiking neuron or a ClippedReLU with levels"
            )
        most = _MAX_BITS - signal.signed
        if signal.bits > most:
            raise NetworkError(f"layer '{name}' gets levels of {signal.bits} bits, a trace holds at most {most}")
    return {name: signals[name] for name in network.layers()}


class _Recorder:
    """Sees maps pass and keeps them packed, batch after batch."""

    def __init__(self, network: Network, signals: dict[str, Signal], updates: bool) -> None:
        self.network, self.signals = network, signals
        self.arrivals: dict[str, list[np.ndarray]] = {name: [] for name in signals}
        unseen = [name for name in signals if spikes_unseen(network, name)]
        self.outputs: dict[str, list[np.ndarray]] = {name: [] for name in unseen}
        self.senders: dict[str, list[str]] = {}
        for name in unseen:
            self.senders.setdefault(str(network.layer_neuron(name)), []).append(name)
        neurons = {name: network.layer_neuron(name) for name in signals} if updates else {}
        self.layer_of = {neuron: _source_layer(network, neuron) for neuron in neurons.values() if neuron is not None}
        self.updates: dict[str, list[np.ndarray]] = {name: [] for name in self.layer_of.values()}
        self.reached: dict[str, Tensor] = {}

    def see(self, name: str, arrived: Tensor, sent: Tensor) -> None:
        """Keep what arrives at a layer; of a neuron what it sends, if nothing else shows it, and where it has work."""
        for layer in self.senders.get(name, ()):
            self.outputs[layer].append(_packed(sent))
        if name in self.signals:
            signal = self.signals[name]
            self.arrivals[name].append(_packed(arrived) if signal.kind == "spikes" else _counted(arrived, signal))
            if self.updates:
                self.reached[name] = reached(self.network, name, arrived != 0)
        elif name in self.layer_of:
            layer = self.layer_of[name]
            self.updates[layer].append(_packed(self._busy(name, layer, arrived)))

    def end_batch(self) -> None:
        """Forget what only this batch needed."""
        self.reached.clear()

    def _busy(self, name: str, layer: str, psum: Tensor) -> Tensor:
        """Bool (T, N, *shape): the neurons of node ``name`` that a step has to touch."""
        node = self.network.nodes[name]
        busy = self.reached[layer].expand(psum.shape)
        if isinstance(node, IF | LIF | CubaLIF):
            return busy | touched(psum, Dynamics.of(name, node))
        if isinstance(node, LI):
            kept = 1.0 if node.leak is None else kept_of(name, node.leak)
            silent = Dynamics(
                kept, math.inf, "none", leak=node.leak, membrane_bits=node.membrane_bits, overflow=node.overflow
            )
            return busy | touched(psum, silent)
        return busy


def reached(network: Network, name: str, arrived: Tensor) -> Tensor:
    """Where the outputs of layer ``name`` get a non-zero input or a bias.

    Args:
        network: holds the layer.
        name: a synapse, pool or add node.
        arrived: bool, shape (T, N, *in_shape): where an input is not zero.

    Returns:
        Bool that broadcasts to (T, N, *out_shape).
    """
    node = network.nodes[name]
    frames = arrived.flatten(0, 1).float()
    if isinstance(node, Add):
        hit = arrived
    elif isinstance(node, Pool | Conv2d | Conv1d):
        hits = _receptive(node, frames)
        hit = hits.reshape(*arrived.shape[:2], *hits.shape[1:]) > 0
    else:
        hit = arrived.any(-1, keepdim=True)
    if isinstance(node, Synapse) and node.has_bias and node.bias is not None:
        bias = torch.from_numpy(node.bias != 0)
        hit = hit | (bias if bias.dim() > 1 else bias.view(-1, *([1] * (arrived.dim() - 3))))
    return hit


def _receptive(node: Pool | Conv2d | Conv1d, frames: Tensor) -> Tensor:
    """Non-zero where a window of ``node`` holds a non-zero input; (T*N, channels, ...), one channel a group broadcast to K."""
    if isinstance(node, Pool):
        return F.max_pool2d(frames, node.kernel, node.stride, node.padding)
    grouped = frames.reshape(len(frames), node.groups, -1, *frames.shape[2:]).amax(2)
    pool = F.max_pool2d if isinstance(node, Conv2d) else F.max_pool1d
    # Max pooling allows padding up to half a kernel, a convolution any.
    padding = node.padding if isinstance(node.padding, tuple) else (node.padding,)
    grouped = F.pad(grouped, [pad for side in reversed(padding) for pad in (side, side)])
    hit: Tensor = pool(grouped, node.kernel, node.stride, 0, node.dilation)
    return hit if node.groups == 1 else hit.repeat_interleave(node.out_channels // node.groups, 1)


def _source_layer(network: Network, neuron: str) -> str:
    """The layer whose sums reach ``neuron``. Raises NetworkError when something else than a Scale stands between."""
    name = neuron
    while True:
        sources = network.inputs_of(name)
        source = network.nodes[sources[0]]
        if len(sources) == 1 and isinstance(source, LAYERS):
            return sources[0]
        if len(sources) != 1 or not isinstance(source, Scale):
            raise NetworkError(
                f"cannot say when the neurons of '{neuron}' have work: they get {list(sources)}, expected one synapse, pool "
                f"or add node; record without updates"
            )
        name = sources[0]


def _packed(values: Tensor) -> np.ndarray:
    """Bits of a 0/1 map over time; uint8, shape (ceil(T/8), N, *shape)."""
    return Spikes.pack((values != 0).numpy()).packed


def _counted(values: Tensor, signal: Signal) -> np.ndarray:
    """Levels of a map over time, one frame only where all are the same memory; uint8 or uint16, shape (T or 1, N, *shape)."""
    if values.stride(0) == 0:
        values = values[:1]
    levels = values if signal.unit == 1 else (values / signal.unit).round()
    kind = np.int16 if signal.signed else np.uint8 if signal.bits <= 8 else np.uint16
    return np.asarray(levels.numpy().astype(kind))


def _spikes(parts: list[np.ndarray], num_steps: int) -> Spikes:
    """The packed batches of one map as one."""
    return Spikes(np.concatenate(parts, axis=1), num_steps)


def _joined(parts: list[np.ndarray], signal: Signal, num_steps: int) -> Arrival:
    """The batches of one layer as one arrival."""
    if signal.kind == "spikes":
        return _spikes(parts, num_steps)
    levels = np.concatenate(parts, axis=1)
    if len(levels) == 1:
        levels = np.broadcast_to(levels, (num_steps, *levels.shape[1:]))
    return Levels(levels, signal.bits, signed=signal.signed, analog=signal.kind == "analog")
