"""SpikeSim-class tiles of analog crossbars: recorded spikes, or what SpikeSim's ELA script estimates.

Source: SpikeSim (A. Moitra et al., arXiv 2210.12899) and its tool (MIT). The counts of both fidelities, the quirks of the
tool and every choice are in docs/models/spikesim.md.
"""

from __future__ import annotations

import math
from collections import abc
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Unpack, final

import numpy as np

from spikeloom.core.arch import LayerMapping, Mapping
from spikeloom.core.counts import Counts
from spikeloom.core.trace import Levels, Spikes
from spikeloom.core.workload import WEIGHTED, Layer, Workload
from spikeloom.errors import MappingError
from spikeloom.hw.base import (
    FORM_LEVELS,
    AbstractMachine,
    Effort,
    check_joins,
    refuse_layer,
    refuse_shapes_only,
    without,
)
from spikeloom.hw.spikesim_arch import PHASES, SpikesimArch
from spikeloom.hw.spikesim_tool import (
    tool_counts,
    tool_kernel,
    tool_layers,
    tool_pes,
    tool_stops,
    tool_warnings,
    tool_words,
)


@dataclass(frozen=True)
class Grid:
    """Where a layer's weights lie.

    A row group is up to ``size`` channels of one kernel position: the rows of one crossbar. ``crossbars`` of them, in the order
    (block of channels, kernel row, kernel column), are the chunk of a PE; a PE serves one column block of ``size`` columns.
    Small groups of a convolution lie along the diagonal of the same crossbars while rows and columns last.

    groups: of ``channels`` inputs each; the last may have fewer.
    """

    groups: int
    channels: int
    blocks: int
    positions: int
    chunks: int
    col_blocks: int

    @property
    def pes(self) -> int:
        return self.groups * self.chunks * self.col_blocks

    @property
    def used_crossbars(self) -> int:
        return self.groups * self.blocks * self.positions * self.col_blocks

    def pe(self, group: int, chunk: int, col_block: int) -> int:
        """Number of a PE within its layer."""
        return (group * self.chunks + chunk) * self.col_blocks + col_block


def grid_of(layer: Layer, arch: SpikesimArch) -> Grid:
    """The crossbars of one layer; none for a sum."""
    if layer.kind == "add":
        return Grid(1, layer.C, 0, 0, 0, -(-layer.K // arch.size))
    rows, columns = layer.C // layer.groups, layer.K // layer.groups * _slices(layer, arch)
    together = max(1, min(arch.size // rows, arch.size // columns, layer.groups))
    groups, channels = -(-layer.groups // together), rows * together
    blocks, positions = -(-channels // arch.size), layer.R * layer.S
    chunks = -(-blocks * positions // arch.crossbars)
    return Grid(groups, channels, blocks, positions, chunks, -(-columns * together // arch.size))


def _slices(layer: Layer, arch: SpikesimArch) -> int:
    return -(-layer.weight_bits // arch.cell_bit)


@final
class Spikesim(AbstractMachine[SpikesimArch]):
    """Counts SpikesimArch machines."""

    arch_type = SpikesimArch
    presets: ClassVar[abc.Mapping[str, abc.Mapping[str, Any]]] = {"spikesim": {}, "spikesim-tool": {"fidelity": "tool"}}

    def runs(self, workload: Workload, arch: SpikesimArch) -> Workload:
        """Without the pools, which form levels (or an OR) at the neurons' outputs; the tool has no sums either."""
        if arch.tool:
            return tool_layers(workload)
        left = [layer.name for layer in workload.layers if _free_pool(layer)]
        return without(workload, left, FORM_LEVELS.format(", ".join(left)))

    def map(self, workload: Workload, arch: SpikesimArch) -> Mapping:
        """Refuse what crossbars cannot run, or what does not fit the tiles of the chip."""
        layers = self.runs(workload, arch).layers
        if not layers:
            name = workload.layers[0].name if workload.layers else ""
            raise MappingError(f"layer '{name}': spikesim found nothing but pools in this workload")
        if not arch.tool:
            refuse_shapes_only(workload, "set fidelity = 'tool'")
            _refuse_joins(layers)
        for layer in layers:
            _refuse_unsupported(layer)
        if arch.tool and arch.stops:
            for name, why in tool_stops(layers, arch):
                raise MappingError(f"layer '{name}': {why}; stops = false goes on with its formulas")
        self.sized(workload, arch)
        return Mapping("spikesim", {layer.name: LayerMapping() for layer in layers})

    def sized(self, workload: Workload, arch: SpikesimArch) -> SpikesimArch:
        """As many tiles and words of memory as the network needs, where the machine leaves them open."""
        layers = self.runs(workload, arch).layers
        if arch.tool:
            pes, crossbars, shared = tool_pes(layers, arch), tool_kernel(layers) ** 2, arch.tiles_shared
            words, membranes = tool_words(workload, layers, arch)
        else:
            pes, crossbars, shared = [grid_of(layer, arch).pes for layer in layers], arch.crossbars, arch.share_tiles
            words = sum(layer.C * layer.H * layer.W for layer in layers)
            membranes = sum(layer.K * layer.P * layer.Q for layer in layers if not layer.joins)
        needs = {"tiles": sum(_first_tiles(pes, arch.pes_per_tile, shared)[1]), "words": words, "membranes": membranes}
        for name, needed in needs.items():
            if 0 < getattr(arch, name) < needed:
                raise MappingError(
                    f"{name}: the network needs {needed}, the machine has {getattr(arch, name)}; give it more, or 0 for as needed"
                )
        return replace(
            arch,
            crossbars=crossbars,
            tiles=arch.tiles or needs["tiles"],
            words=arch.words or words,
            membranes=arch.membranes or membranes,
        )

    def count(self, workload: Workload, arch: SpikesimArch, mapping: Mapping, **effort: Unpack[Effort]) -> Counts:
        """Count every layer of every sample; samples follow one another. Neither threads nor the cache change anything."""
        run = self.runs(workload, arch)
        if arch.tool:
            return Counts(warnings=(*run.warnings, *tool_warnings(run.layers, arch))).then(
                tool_counts(workload, run.layers, arch)
            )
        sources = _sources(workload, run)
        tallies = {layer.name: _tally(layer, arch) for layer in run.layers}
        hops = _bit_hops(run, arch, tallies, sources)
        total = Counts(warnings=(*run.warnings, *_warnings(run)))
        for layer in run.layers:
            total = total.then(_layer_counts(layer, arch, tallies, hops[layer.name]))
        ends = _makespan(run, arch, tallies, sources)
        return replace(total, cycles=sum(ends), sample_cycles=ends)

    def utilisation(self, counts: Counts, arch: SpikesimArch, layer: str) -> dict[str, float]:
        """row_use, column_use, weight_use: rows, columns and cells of the crossbars that hold weights; pe_use: crossbars of the
        layer's PEs that do; read_use: reads that were not skipped."""
        stat = {name: value for (where, name), value in counts.statistics.items() if where == layer}
        names = {
            "row_use": "rows", "column_use": "columns", "weight_use": "weights", "pe_use": "crossbars", "read_use": "reads",
        }  # fmt: skip
        return {use: stat[key] / stat[f"{key}_of"] for use, key in names.items() if stat.get(f"{key}_of")}


def _free_pool(layer: Layer) -> bool:
    if layer.neuron.kind != "none" or layer.joins:
        return False
    return layer.kind in ("sumpool2d", "avgpool2d") or (layer.kind == "maxpool2d" and isinstance(layer.arrival, Spikes))


def _refuse_unsupported(layer: Layer) -> None:
    kinds = (*WEIGHTED, "add")
    refuse_layer(
        layer,
        kinds,
        f"spikesim cannot run a {layer.kind} layer here, only {', '.join(kinds)} and pools without neurons of their own (a maximum "
        "of spikes only)",
        "spikesim pipelines layers and cannot run a recurrent one",
        "spikesim neurons hold one state (IF, LIF, LI), a CubaLIF also needs a synaptic current",
    )


def _refuse_joins(layers: abc.Iterable[Layer]) -> None:
    check_joins(layers)
    for owner in layers:
        for branch in owner.branches:
            for name, kind in ((branch.name, branch.kind), (owner.name, owner.kind)):
                if kind not in WEIGHTED:
                    raise MappingError(
                        f"layer '{name}': sums of '{branch.name}' meet in the neurons of '{owner.name}', and spikesim has no tile of a "
                        f"{kind} layer that they could leave or reach; replace it by a convolution, or choose another machine"
                    )


def _warnings(workload: Workload) -> abc.Iterator[str]:
    levels = [x.name for x in workload.layers if isinstance(x.arrival, Levels) and x.kind != "add"]
    if levels:
        yield f"the levels of {', '.join(levels)} are applied bit-serially, one read a bit plane (and sign)"


def _first_tiles(pes: abc.Sequence[int], per_tile: int, shared: bool) -> tuple[list[tuple[int, int]], list[int]]:
    """Per layer (first tile, PEs in it that are taken already), and tiles that each layer adds."""
    first, added, used = [], [], 0
    for count in pes:
        first.append((used // per_tile, used % per_tile))
        end = used + count if shared else used + -(-count // per_tile) * per_tile
        added.append(-(-end // per_tile) - -(-used // per_tile))
        used = end
    return first, added


# --- what the spikes make the crossbars do ------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Tally:
    """One layer over its samples.

    reads: (position, step, bit plane, row group) whose input vector is read. pe_cycles: (position, step, bit plane) in which a
    chunk has anything to read; int64 (groups, chunks). vectors: input vectors that arrive, per channel block, before they are
    read at several kernel positions; int64 (groups, blocks). worked: (position, step) in which any PE works, packed over time; uint8
    (ceil(T/8), N, P, Q). steps_NT: PE cycles one after the other; int64 (N, T).
    """

    reads: int
    pe_cycles: np.ndarray
    vectors: np.ndarray
    worked: np.ndarray
    steps_NT: np.ndarray


def _planes(layer: Layer) -> abc.Iterator[np.ndarray]:
    """Bit planes of the input, packed over time; uint8 (ceil(T/8), N, C, H, W). Negative levels in planes of their own."""
    arrival = layer.arrival
    if isinstance(arrival, Spikes):
        yield arrival.packed
        return
    signed = arrival.values.astype(np.int32)
    for part in (signed, -signed) if arrival.signed else (signed,):
        magnitude = np.maximum(part, 0)
        for bit in range(arrival.bits):
            yield Spikes.pack((magnitude >> bit) & 1).packed


def _popcount(packed: np.ndarray) -> int:
    return int(np.bitwise_count(packed).sum(dtype=np.int64))


def _always_updates(layer: Layer) -> bool:
    """Whether the neurons also work where nothing arrived: a leak, a bias, a residue that may fire, a sum."""
    residue = layer.neuron.kind in ("if", "lif") and layer.neuron.reset != "hard"
    return layer.neuron.leaky or layer.biased or residue or layer.kind == "add"


def _updates(layer: Layer, tallies: abc.Mapping[str, Tally]) -> int:
    """(Position, step) in which neurons of the layer work: where a PE of it or of a branch does; a branch has none."""
    if layer.joins:
        return 0
    if _always_updates(layer):
        return layer.num_samples * layer.num_steps * layer.P * layer.Q
    return _popcount(np.bitwise_or.reduce([tallies[part.name].worked for part in (layer, *layer.branches)]))


def _tally(layer: Layer, arch: SpikesimArch) -> Tally:
    grid = grid_of(layer, arch)
    T, N, P, Q = layer.num_steps, layer.num_samples, layer.P, layer.Q
    if layer.kind == "add":
        empty = np.zeros((1, 0), np.int64)
        return Tally(0, empty, empty, np.zeros((-(-T // 8), N, P, Q), np.uint8), np.zeros((N, T), np.int64))
    reads = 0
    pe_cycles = np.zeros((grid.groups, grid.chunks), np.int64)
    vectors = np.zeros((grid.groups, grid.blocks), np.int64)
    steps_NT = np.zeros((N, T), np.int64)
    ever = np.zeros((-(-T // 8), N, P, Q), np.uint8)
    starts = np.arange(0, grid.channels, arch.size)
    firsts = range(grid.channels, layer.C, grid.channels)
    every = Spikes.pack(np.ones((T, 1), bool)).packed.reshape(-1, 1, 1, 1)
    (p, q), (u, v), (a, b) = layer.padding, layer.stride, layer.dilation
    far = tuple(n - inner - pad for n, inner, pad in zip(layer.framed_extent, (layer.H, layer.W), (p, q), strict=True))
    for plane in _planes(layer):
        any_pe = np.zeros_like(ever)
        for g, channels in enumerate(np.split(plane, firsts, axis=2)):
            occupied = np.bitwise_or.reduceat(channels, starts, axis=2)
            vectors[g] += np.bitwise_count(occupied).sum(axis=(0, 1, 3, 4), dtype=np.int64)
            padded = np.pad(occupied, ((0, 0), (0, 0), (0, 0), (p, far[0]), (q, far[1])))
            chunk = np.zeros_like(ever)
            last = grid.blocks * grid.positions - 1
            for index in range(last + 1):
                block, position = divmod(index, grid.positions)
                r, s = divmod(position, layer.S)
                seen = padded[:, :, block, r * a :: u, s * b :: v][:, :, :P, :Q]
                if not arch.skip:
                    seen = np.broadcast_to(every, chunk.shape)
                reads += _popcount(seen)
                chunk |= seen
                if index == last or (index + 1) % arch.crossbars == 0:
                    pe_cycles[g, index // arch.crossbars] += _popcount(chunk)
                    any_pe |= chunk
                    chunk = np.zeros_like(ever)
        for n in range(N):
            steps_NT[n] += np.unpackbits(any_pe[:, n], axis=0, count=T, bitorder="little").sum(
                axis=(1, 2), dtype=np.int64
            )
        ever |= any_pe
    return Tally(reads, pe_cycles, vectors, ever, steps_NT)


def _num_planes(layer: Layer) -> int:
    arrival = layer.arrival
    return 1 if isinstance(arrival, Spikes) else arrival.bits * (2 if arrival.signed else 1)


def _layer_counts(layer: Layer, arch: SpikesimArch, tallies: abc.Mapping[str, Tally], bit_hops: int) -> Counts:
    grid, tally = grid_of(layer, arch), tallies[layer.name]
    pe_cycles = int(tally.pe_cycles.sum()) * grid.col_blocks
    cycles = int(tally.steps_NT.sum()) * arch.pe_clocks
    updates = _updates(layer, tallies) * grid.col_blocks * grid.groups
    reads = tally.reads * grid.col_blocks
    actions = {
        ("crossbar", "synop"): layer.synops if layer.kind != "add" else 0,
        ("crossbar", "read"): reads * PHASES,
        ("adc", "convert"): pe_cycles * arch.size,
        ("mux", "select"): pe_cycles * arch.size,
        ("subtractor", "subtract"): pe_cycles * 2 * arch.size,
        ("temp_buffer", "access"): pe_cycles * arch.adcs,
        ("tile_buffer", "read"): pe_cycles,
        ("htree", "transfer"): pe_cycles,
        ("memory", "fetch"): updates,
        ("neuron", "update"): updates,
        ("mesh", "bit_hop"): bit_hops,
    }
    if layer.branches:
        actions["neuron", "join"] = sum(branch.K * _popcount(tallies[branch.name].worked) for branch in layer.branches)
    statistics: dict[str, int] = {}
    if layer.kind != "add":
        dense = layer.P * layer.Q * layer.num_steps * layer.num_samples * _num_planes(layer)
        statistics = {
            "rows": layer.C,
            "rows_of": grid.groups * grid.blocks * arch.size,
            "columns": layer.K * _slices(layer, arch),
            "columns_of": grid.groups * grid.col_blocks * arch.size,
            "weights": layer.num_weights * _slices(layer, arch),
            "weights_of": grid.used_crossbars * arch.size**2,
            "crossbars": grid.used_crossbars,
            "crossbars_of": grid.pes * arch.crossbars,
            "reads": reads,
            "reads_of": dense * grid.used_crossbars,
        }
    return Counts.of_layer(layer.name, actions, cycles, **statistics)


# --- tiles side by side -------------------------------------------------------------------------------------------


def _sources(workload: Workload, run: Workload) -> dict[str, tuple[str, ...]]:
    """The layers of ``run`` that each layer of it hears, through pools that are left out."""
    kept = {layer.name for layer in run.layers}
    inputs = {layer.name: layer.inputs for layer in workload.layers}

    def heard(name: str) -> abc.Iterator[str]:
        for source in inputs.get(name, ()):
            if source in kept:
                yield source
            elif source in inputs:
                yield from heard(source)

    return {layer.name: tuple(dict.fromkeys(heard(layer.name))) for layer in run.layers}


def _makespan(
    run: Workload, arch: SpikesimArch, tallies: abc.Mapping[str, Tally], sources: abc.Mapping[str, tuple[str, ...]]
) -> tuple[int, ...]:
    """Clock cycles of each sample, one sample after the other, layers overlapping.

    Step t of a layer begins when its step t - 1 has ended and ``handover`` percent of step t of every layer it hears have
    passed; it does not end before they do, nor before the branches whose sums its neurons take. A layer with another number of
    steps waits for the last one.
    """
    begin: dict[str, np.ndarray] = {}
    span: dict[str, np.ndarray] = {}
    end: dict[str, np.ndarray] = {}
    for layer in run.layers:
        name = layer.name
        span[name] = tallies[name].steps_NT * arch.pe_clocks
        begin[name], end[name] = np.zeros_like(span[name]), np.zeros_like(span[name])
        free = np.zeros(layer.num_samples, np.int64)
        for t in range(layer.num_steps):
            ready, floor = free, free
            for source in sources[name]:
                same = end[source].shape == end[name].shape
                at = t if same else -1
                early = begin[source][:, at] + -(-span[source][:, at] * arch.handover // 100)
                ready = np.maximum(ready, early if same else end[source][:, at])
                floor = np.maximum(floor, end[source][:, at])
            for branch in layer.branches:
                floor = np.maximum(floor, end[branch.name][:, t])
            begin[name][:, t] = ready
            end[name][:, t] = free = np.maximum(ready + span[name][:, t], floor)
    last = np.max([times[:, -1] for times in end.values()], axis=0)
    return tuple(last.tolist())


def _bit_hops(
    run: Workload, arch: SpikesimArch, tallies: abc.Mapping[str, Tally], sources: abc.Mapping[str, tuple[str, ...]]
) -> dict[str, int]:
    """Bits times hops on the mesh that a layer causes: its input vectors to its tiles, its partial sums to their sum, and a branch's
    sums to the tiles of its owner.

    Tiles lie row by row on the smallest square, in the order of layers; the input of the network enters at tile 0, and what
    channel c of C comes from the same part of the columns of the layer before, at its first chunk.
    """
    pes = [grid_of(layer, arch).pes for layer in run.layers]
    first, added = _first_tiles(pes, arch.pes_per_tile, arch.share_tiles)
    side = math.isqrt(max(1, sum(added)) - 1) + 1
    place = {layer.name: at for layer, at in zip(run.layers, first, strict=True)}
    grids = {layer.name: grid_of(layer, arch) for layer in run.layers}

    def tile(name: str, pe: int) -> int:
        start, taken = place[name]
        return start + (taken + pe) // arch.pes_per_tile

    def distance(one: int, other: int) -> int:
        return abs(one % side - other % side) + abs(one // side - other // side)

    def sender(name: str, part: tuple[int, int]) -> int:
        """Tile of the columns ``part`` = (k, K) of a layer."""
        grid = grids[name]
        group, within = divmod(part[0] * grid.groups * grid.col_blocks // part[1], grid.col_blocks)
        return tile(name, grid.pe(group, 0, within))

    def origins(name: str, part: tuple[int, int]) -> list[int]:
        """Tiles of the columns ``part`` = (c, C) in what ``name`` hears; through sums."""
        found = []
        for source in sources[name]:
            found += [sender(source, part)] if grids[source].chunks else origins(source, part)
        return found or [0]

    hops = {}
    for layer in run.layers:
        name, grid, tally, total = layer.name, grids[layer.name], tallies[layer.name], 0
        inner = grid.channels
        for g in range(grid.groups if grid.chunks else 0):
            for block in range(grid.blocks):
                channel = g * inner + block * arch.size
                bits = min(arch.size, (g + 1) * inner - channel, layer.C - channel) * int(tally.vectors[g, block])
                low, high = block * grid.positions, (block + 1) * grid.positions - 1
                chunks = range(low // arch.crossbars, high // arch.crossbars + 1)
                to = {tile(name, grid.pe(g, x, col)) for x in chunks for col in range(grid.col_blocks)}
                for origin in origins(name, (channel, layer.C)):
                    total += bits * sum(distance(origin, each) for each in to)
            for chunk in range(1, grid.chunks):
                bits = int(tally.pe_cycles[g, chunk]) * arch.size * arch.psum_bit
                total += bits * sum(
                    distance(tile(name, grid.pe(g, chunk, col)), tile(name, grid.pe(g, 0, col)))
                    for col in range(grid.col_blocks)
                )
        if layer.joins:
            apart = sum(
                distance(sender(name, part), sender(layer.joins, part))
                for part in ((k, layer.K) for k in range(layer.K))
            )
            total += arch.psum_bit * _popcount(tally.worked) * apart
        hops[name] = total
    return hops
