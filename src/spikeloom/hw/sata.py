"""SATA-class output-stationary array with AND-gated elements: spikes as they are, or as SATA_Sim estimates them.

Sources: SATA (R. Yin et al., arXiv 2204.05422; TCAD 2022) and its tool SATA_Sim (MIT). The counts of both fidelities, the
quirks of the tool and every choice are in docs/models/sata.md.
"""

from __future__ import annotations

import math
from collections import abc
from dataclasses import replace
from typing import Any, ClassVar, Unpack, final

import numpy as np

from spikeloom.core.arch import LayerMapping, Mapping
from spikeloom.core.counts import Counts
from spikeloom.core.trace import Arrival, Levels, Spikes
from spikeloom.core.workload import POOLS, WEIGHTED, Layer, Workload
from spikeloom.errors import MappingError
from spikeloom.hw.base import (
    AbstractMachine,
    Effort,
    check_joins,
    fold_pools,
    joined_notes,
    refuse_layer,
    refuse_shapes_only,
)
from spikeloom.hw.sata_arch import SataArch
from spikeloom.hw.sata_kernels import active_columns, dense_columns, fetched_words, walk_of
from spikeloom.hw.sata_tool import refuse_unknown_to_tool, tool_counts, tool_layers

#: Layers that run as depthwise sums (or ORs) with weights of one that are not stored.
UNWEIGHTED = ("add", *POOLS)
#: Width of a sum.
ACCUMULATOR_BIT = 16


@final
class Sata(AbstractMachine[SataArch]):
    """Counts SataArch machines."""

    arch_type = SataArch
    presets: ClassVar[abc.Mapping[str, abc.Mapping[str, Any]]] = {"sata": {}, "sata-tool": {"fidelity": "tool"}}

    def runs(self, workload: Workload, arch: SataArch) -> Workload:
        """Sum and average pools folded where they can be (trace), or left out with all pools and sums (tool)."""
        if arch.tool:
            return tool_layers(workload)
        return fold_pools(workload) if arch.fold_pool else workload

    def map(self, workload: Workload, arch: SataArch) -> Mapping:
        """Refuse what the array cannot run; there is nothing to choose."""
        layers = self.runs(workload, arch).layers
        if not layers:
            raise MappingError("sata found no layer to run in this workload")
        if arch.sparsity < 0:
            refuse_shapes_only(workload, "set fidelity = 'tool' and a sparsity")
        for layer in layers:
            _refuse_unsupported(layer)
            if arch.tool:
                refuse_unknown_to_tool(layer)
        if not arch.tool:
            check_joins(layers)
        return Mapping("sata", {layer.name: LayerMapping() for layer in layers})

    def count(self, workload: Workload, arch: SataArch, mapping: Mapping, **effort: Unpack[Effort]) -> Counts:
        """Count every layer of every sample, one after the other; neither threads nor the cache change anything."""
        run = self.runs(workload, arch)
        total = Counts(warnings=(*run.warnings, *_warnings(run, arch)))
        if arch.tool:
            return total.then(tool_counts(run.layers, arch))
        for layer in run.layers:
            total = total.then(_layer_counts(layer, arch, output_bits(layer, run)))
        return total

    def utilisation(self, counts: Counts, arch: SataArch, layer: str) -> dict[str, float]:
        """pe_use: additions per element and cycle; column_use: im2col columns that were not skipped. None in tool fidelity, which
        counts the work of a padded map over the cycles of one without."""
        if arch.tool:
            return {}
        slots = counts.layer_cycles[layer] * arch.rows * arch.cols
        found = {"pe_use": counts.actions[layer, "mac", "add"] / slots if slots else 0.0}
        columns = counts.statistics[layer, "columns"]
        return found | {"column_use": counts.statistics[layer, "active"] / columns if columns else 0.0}


def _refuse_unsupported(layer: Layer) -> None:
    kinds = (*WEIGHTED, *UNWEIGHTED)
    refuse_layer(
        layer,
        kinds,
        f"sata cannot run a {layer.kind} layer, only {', '.join(kinds)}",
        "all steps of a fold run before the next, so sata cannot run a recurrent layer",
        "sata neurons hold one state (IF, LIF, LI), a CubaLIF also needs a synaptic current",
    )
    if layer.kind == "maxpool2d" and isinstance(layer.arrival, Levels):
        raise MappingError(f"layer '{layer.name}': sata takes the maximum of spikes (an OR), not of levels")


def _warnings(workload: Workload, arch: SataArch) -> abc.Iterator[str]:
    levels = [layer.name for layer in workload.layers if isinstance(layer.arrival, Levels)]
    if levels and arch.tool:
        yield f"the tool knows spikes only: the levels of {', '.join(levels)} count as spikes where they are not zero"
    elif levels:
        yield f"the levels of {', '.join(levels)} are added bit-serially, one pass a bit"
    if arch.tool:
        yield from joined_notes(workload.layers)
    pools = [layer.name for layer in workload.layers if layer.kind == "avgpool2d"]
    if pools:
        yield f"average pools {', '.join(pools)} form sums; their division is taken into the next threshold"


def stored_bits(arrival: Arrival) -> int:
    """Bits of one level as stored and moved: 1 for spikes; a sign is one bit more."""
    return 1 if isinstance(arrival, Spikes) else arrival.bits + arrival.signed


def output_bits(layer: Layer, workload: Workload) -> int:
    """Bits in which an output leaves: 1 for spikes, else those of the layer that reads it, or of the accumulator.

    A sum that meets others in the neurons of another layer has the accumulator's, whatever reads those neurons.
    """
    if layer.joins:
        return ACCUMULATOR_BIT
    if layer.neuron.kind in ("if", "lif"):
        return 1
    readers = [stored_bits(reader.arrival) for reader in workload.layers if layer.name in reader.inputs]
    return max(readers, default=ACCUMULATOR_BIT)


def _active_bits(arrival: Arrival) -> np.ndarray:
    """Where a level is not zero, packed over time; uint8 (ceil(T/8), N, C, H, W)."""
    return arrival.packed if isinstance(arrival, Spikes) else Spikes.pack(arrival.values != 0).packed


def _layer_counts(layer: Layer, arch: SataArch, out_bits: int) -> Counts:
    """Counts of one layer over its samples, in trace fidelity."""
    walk = walk_of(layer, arch.rows, arch.cols)
    T, N, groups = layer.num_steps, layer.num_samples, layer.groups
    passes = 1 if isinstance(layer.arrival, Spikes) else layer.arrival.bits
    bits = stored_bits(layer.arrival)
    weight_bits = layer.weight_bits if layer.kind in WEIGHTED else 0
    steps_N, row_steps, ever = [0] * N, 0, 0
    packed = _active_bits(layer.arrival)
    for n in range(N):
        for g in range(groups):
            part = packed[:, n, g * walk.C : (g + 1) * walk.C]
            found = active_columns(walk, part) if arch.skip else dense_columns(walk, T)
            steps_N[n] += found.steps
            row_steps, ever = row_steps + found.row_steps, ever + found.ever
    filling = walk.row_folds * walk.col_folds * groups * T * (arch.rows + arch.cols - 2)
    columns = walk.row_folds * walk.synapses * T * groups * N
    cycles_N = tuple(walk.col_folds * steps * passes + filling for steps in steps_N)
    outputs = layer.K * layer.P * layer.Q * T * N
    kernel = math.prod(layer.stored_extent)
    weights = layer.K * (layer.C // groups) * kernel * weight_bits * N
    capacity = max(1, int(arch.glb_ifmap / 2) // (T * bits))
    inputs = fetched_words(walk, capacity) * groups * T * bits * N
    # every one among the bits of an input level, times the outputs it reaches, zero weights included
    adds = replace(layer, weight=None).met(layer.arrival.ones().sum(axis=0))
    neurons = layer.neuron.kind != "none"
    clock = sum(cycles_N) * arch.rows * arch.cols
    tags = walk.col_folds * columns if arch.skip else 0
    actions = {
        ("mac", "add"): adds,
        ("mac", "clock"): clock,
        ("spad", "access"): adds,
        ("spad", "clock"): clock,
        ("lif", "update"): outputs if neurons else 0,
        ("lif", "clock"): clock,
        ("lif", "decay"): outputs if layer.neuron.leaky else 0,
        ("lif", "bias"): outputs if layer.biased else 0,
        ("glb_ifmap", "read"): walk.col_folds * row_steps * bits + tags,
        ("glb_ifmap", "write"): inputs,
        ("glb_weight", "read"): ever * walk.K * weight_bits,
        ("glb_weight", "write"): weights,
        ("glb_ofmap", "read"): outputs * out_bits,
        ("glb_ofmap", "write"): outputs * out_bits,
        ("dram_ifmap", "read"): inputs,
        ("dram_weight", "read"): weights,
        ("dram_ofmap", "write"): outputs * out_bits,
    }
    if layer.branches:  # each map of sums comes from DRAM, where its branch left it, and is added to the layer's own
        sums = outputs * len(layer.branches)
        moved = (("dram_psum", "read"), ("glb_psum", "write"), ("glb_psum", "read"))
        actions |= {("mac", "join"): sums} | dict.fromkeys(moved, sums * ACCUMULATOR_BIT)
    return Counts.of_layer(layer.name, actions, cycles_N, active=sum(steps_N), columns=columns)
