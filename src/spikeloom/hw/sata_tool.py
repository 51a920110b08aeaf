"""SATA_Sim's inference estimator in closed form: what the tool counts for a layer list, quirk by quirk.

Source: SATA_Sim (R. Yin et al., arXiv 2204.05422), directory inference-energy-cal at its head, and SCALE-Sim v2, which it
runs twice per layer: an output-stationary pass for inputs, outputs and the cycles of a time step, a weight-stationary
pass for the weights and the cycles of loading them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from spikeloom.core.counts import Counts
from spikeloom.core.trace import Spikes
from spikeloom.core.workload import Layer, NeuronRule, Workload
from spikeloom.errors import ConfigError, MappingError
from spikeloom.hw.base import SHAPES_ONLY, without
from spikeloom.hw.sata_arch import SataArch
from spikeloom.hw.sata_kernels import Walk, fetched_words, last_read_cycle


@dataclass(frozen=True)
class ToolLayer:
    """A line of the tool's workload file. The tool tells a convolution from a linear layer by "Conv" or "FC" in its name."""

    name: str
    H: int
    W: int
    kernel_h: int
    kernel_w: int
    channels: int
    filters: int
    stride: int = 1


@dataclass(frozen=True)
class LayerTraffic:
    """One layer in the tool's words: accesses (words) and cycles of one inference; its time step where the tool has one.

    filter_cycles: of the weight-stationary pass. ifmap_cycles, ofmap_cycles, start_cycle: of the output-stationary pass
    of one step, whose last output leaves in cycle start_cycle + ofmap_cycles.
    """

    dram_filter_reads: int
    dram_ifmap_reads: int
    dram_ofmap_writes: int
    sram_filter_reads: int
    sram_ifmap_reads: int
    sram_ofmap_writes: int
    filter_cycles: int
    ifmap_cycles: int
    ofmap_cycles: int
    start_cycle: int


def tool_workload(layers: Iterable[ToolLayer | Sequence[object]], num_steps: int) -> Workload:
    """A layer list of the tool as a workload without spikes; its machine must state a sparsity.

    layers: `ToolLayer` or (name, H, W, kernel height, kernel width, channels, filters, stride).

    Raises:
        MappingError: a name holds neither "Conv" nor "FC"; the tool would price its traffic and no work of it.
    """
    lowered = []
    for each in layers:
        one = each if isinstance(each, ToolLayer) else ToolLayer(*each)  # type: ignore[arg-type]
        if "Conv" not in one.name and "FC" not in one.name:
            raise MappingError(f"layer '{one.name}': the tool tells layers by 'Conv' or 'FC' in the name; rename it")
        silent = np.zeros((-(-num_steps // 8), 1, one.channels, one.H, one.W), np.uint8)
        layer = Layer(
            one.name, "conv2d" if "Conv" in one.name else "linear", C=one.channels, K=one.filters, H=one.H, W=one.W,
            R=one.kernel_h, S=one.kernel_w, P=1, Q=1, arrival=Spikes(silent, num_steps), stride=(one.stride, one.stride),
            padding=(1, 1), neuron=NeuronRule("lif"),
        )  # fmt: skip
        rows, cols = padded_extent(layer)
        lowered.append(replace(layer, P=rows, Q=cols))
    return Workload(tuple(lowered), num_steps, 1, "layer list of SATA_Sim", (SHAPES_ONLY,), shapes_only=True)


def padded_extent(layer: Layer) -> tuple[int, int]:
    """Output map that the tool counts work for: always with a padding of 1."""
    stride = layer.stride[0]
    return (layer.H + 2 - layer.R) // stride + 1, (layer.W + 2 - layer.S) // stride + 1


def tool_walk(layer: Layer, arch: SataArch) -> Walk:
    """The walk over the map that the tool runs SCALE-Sim on: without padding, unless that is corrected."""
    stride = layer.stride[0]
    if arch.unpadded_maps or layer.kind == "linear":
        padding = (0, 0)
        P, Q = -(-(layer.H - layer.R + stride) // stride), -(-(layer.W - layer.S + stride) // stride)
    else:
        padding = (1, 1)
        P, Q = padded_extent(layer)
    return Walk(
        layer.H, layer.W, layer.R, layer.S, layer.C, layer.K, P, Q, layer.stride, padding, (1, 1), arch.rows, arch.cols
    )


def layer_traffic(layer: Layer, arch: SataArch) -> LayerTraffic:
    """What the two passes of SCALE-Sim report for one layer, in closed form but for the input buffer.

    With P positions, V synapses, K filters on R x C elements: folds f_r = ceil(P / R), f_c = ceil(K / C); the last output
    leaves in cycle f_r f_c (V + R + C - 2) - 1 - (-K mod C); the buffer holds 50 floor(bytes / 100) words. The
    weight-stationary pass takes (ceil(V / R) ceil(K / C) - 1)(2 R + C + P - 2) + R - 1 cycles.
    """
    walk = tool_walk(layer, arch)
    P, V, K, R, C = walk.positions, walk.synapses, walk.K, arch.rows, arch.cols
    folds = walk.row_folds * walk.col_folds
    words = 50 * (int(arch.glb_ifmap / 8) // 100)
    if not arch.byte_spikes:
        words = words * 8 // arch.act_bits
    start = V - 1 + max(0, R - P)
    over = folds * (R + C) if arch.over_count else 0
    tail = C - 1 if arch.over_count and arch.glb_ofmap / 16 < P * K else 0
    loads = -(-V // R) * walk.col_folds
    return LayerTraffic(
        dram_filter_reads=V * K,
        dram_ifmap_reads=fetched_words(walk, words),
        dram_ofmap_writes=P * K + tail,
        sram_filter_reads=V * K,
        sram_ifmap_reads=walk.col_folds * P * V,
        sram_ofmap_writes=P * K + over,
        filter_cycles=(loads - 1) * (2 * R + C + P - 2) + R - 1 if arch.filter_pass else 0,
        ifmap_cycles=last_read_cycle(walk),
        ofmap_cycles=folds * walk.fold_cycles - 1 - (-K % C) - start,
        start_cycle=start,
    )


def measured_density(layers: Sequence[Layer]) -> float:
    """Share of (step, sample, neuron) with a non-zero level, over the inputs of all ``layers``."""
    events = sum(int(layer.arrival.events().sum()) for layer in layers)
    slots = sum(layer.num_steps * layer.num_samples * layer.C * layer.H * layer.W for layer in layers)
    return events / max(1, slots)


def tool_counts(layers: Sequence[Layer], arch: SataArch) -> Counts:
    """Counts of the tool, times the samples: bits moved, operations, PE cycles. Expected values, cut to whole numbers.

    MAC = K E^2 V T (1 - s), LIF = K E^2 T with the map E^2 of a padding of 1; a linear layer K C T (1 - s) and K T,
    unless its rule is that of the archived results, which pad it to E = 3. As in the tool the sum of all layers is cut
    to a whole number; a layer's MACs are what the running sum, cut, grows by.
    """
    if not arch.one_sparsity and arch.sparsity >= 0:
        raise ConfigError("one_sparsity = false measures the sparsity of each layer; leave sparsity at -1")
    _check_names(layers)
    overall = 1 - measured_density(layers) if arch.sparsity < 0 else arch.sparsity
    total = Counts(expected=True)
    macs = 0.0
    for layer in layers:
        sparsity = overall if arch.one_sparsity else 1 - layer.arrival.density()
        T, V = layer.num_steps, layer.R * layer.S * layer.C
        positions = 1
        if layer.kind != "linear" or arch.fc_padded:
            height, width = padded_extent(layer)
            positions = height * width
        before, macs = macs, macs + layer.K * positions * V * T * (1 - sparsity)
        total = total.then(_layer_counts(layer, arch, int(macs) - int(before), layer.K * positions * T))
    return total


def _layer_counts(layer: Layer, arch: SataArch, macs: int, updates: int) -> Counts:
    found, T = layer_traffic(layer, arch), layer.num_steps
    cycles = (found.start_cycle + found.ofmap_cycles) * T + found.filter_cycles
    ifmap_steps = 1 if arch.ifmap_once else T
    clock = cycles * arch.rows * arch.cols
    actions = {
        ("mac", "add"): macs,
        ("mac", "clock"): clock,
        ("spad", "access"): macs,
        ("spad", "clock"): clock,
        ("lif", "update"): updates,
        ("lif", "clock"): clock,
        ("lif", "decay"): 0 if arch.no_decay else updates,
        ("glb_ifmap", "read"): found.sram_ifmap_reads * arch.act_bits * ifmap_steps,
        ("glb_weight", "read"): found.sram_filter_reads * arch.weight_bits,
        ("glb_ofmap", "write"): found.sram_ofmap_writes * arch.out_bits * (T if arch.ofmap_every_step else 1),
        ("dram_ifmap", "read"): found.dram_ifmap_reads * arch.act_bits * ifmap_steps,
        ("dram_weight", "read"): found.dram_filter_reads * arch.weight_bits,
        ("dram_ofmap", "write"): found.dram_ofmap_writes * arch.out_bits * (1 if arch.ofmap_dram_once else T),
    }
    N = layer.num_samples
    return Counts.of_layer(layer.name, {key: n * N for key, n in actions.items()}, cycles * N)


def tool_layers(workload: Workload) -> Workload:
    """The layers that the tool knows: pools and sums are left out with a warning.

    Raises:
        MappingError: nothing is left; names the first layer that was left out.
    """
    left = [layer.name for layer in workload.layers if layer.kind.endswith("pool2d") or layer.kind == "add"]
    if left and len(left) == len(workload.layers):
        raise MappingError(f"layer '{left[0]}': SATA_Sim knows no pools and no sums, and nothing else is here to run")
    return without(workload, left, f"SATA_Sim has no pools and no sums: {', '.join(left)} cost nothing")


def refuse_unknown_to_tool(layer: Layer) -> None:
    """Raises MappingError where the tool has no word for a layer."""
    square = layer.stride[0] == layer.stride[1] or layer.kind == "linear"
    plain = layer.kind in ("conv2d", "linear") and layer.groups == 1 and layer.dilation == (1, 1) and square
    if not plain:
        raise MappingError(
            f"layer '{layer.name}': SATA_Sim knows convolutions with one group, one stride and no dilation, and linear "
            f"layers, not this {layer.kind}; use fidelity = 'trace'"
        )
    if layer.kind == "conv2d" and (layer.R > layer.H or layer.S > layer.W):
        raise MappingError(
            f"layer '{layer.name}': SATA_Sim runs the map without padding, and a kernel of {layer.R}x{layer.S} does not "
            f"fit {layer.H}x{layer.W}; use fidelity = 'trace'"
        )


def _check_names(layers: Sequence[Layer]) -> None:
    names = [layer.name for layer in layers]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise MappingError(f"layer '{twice[0]}' is named twice; counts are kept by name, so give every layer its own")
