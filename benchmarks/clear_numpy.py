"""The SpikeX count of one layer and sample in plain vectorised NumPy: the slow path that benchmarks measure against.

Binary spikes, `agile` and `ptb` dispatch, any merge width, serial steps, groups = 1, no weight skipping. The schedule
and the union of tags of each tile are array operations on the tags gathered by index (im2col without the copy); only
the greedy merge and the chain of tile start times are Python loops.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

_BLOCK_ELEMENTS = 1 << 25  # tags gathered at a time


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def _tags(maps: npt.NDArray[np.generic], window: int) -> BoolArray:
    """OR a [T, ...] map over windows of time steps: [N, ...]."""
    result: BoolArray = np.logical_or.reduceat(maps != 0, np.arange(0, maps.shape[0], window), axis=0)
    return result


def _schedule(active: BoolArray, cols: int, dispatch: str, order: str) -> tuple[IntArray, IntArray, IntArray, int]:
    """Return (x, window) of every column in execution order, the first column of each tile, the number of A tiles."""
    num_windows = active.shape[1]
    if dispatch == "agile":
        rank = np.cumsum(active, axis=1) - 1
        for_a = active.sum(axis=1, keepdims=True) // cols * cols
        in_a = active & (rank < for_a)
        x, o = np.nonzero(in_a)
        tile = rank[x, o] // cols
        bx, bo = np.nonzero(active & ~in_a)
        wave = (rank - for_a)[bx, bo]
        by_wave = np.lexsort((bx, wave))
        bx, bo, wave = bx[by_wave], bo[by_wave], wave[by_wave]
        wave_first = np.searchsorted(wave, wave)  # index of the first column of its wave
        b_starts = np.flatnonzero((np.arange(wave.size) - wave_first) % cols == 0)
    elif dispatch == "ptb":
        alive = np.logical_or.reduceat(active, np.arange(0, num_windows, cols), axis=1)
        tile_rank = np.cumsum(alive, axis=1) - 1
        x, o = np.nonzero(np.repeat(alive, cols, axis=1)[:, :num_windows])
        tile = tile_rank[x, o // cols]
        bx = bo = b_starts = np.empty(0, dtype=np.int64)
    else:
        raise ValueError(f"unsupported dispatch {dispatch!r}")
    if order == "interleave":
        by_rank = np.lexsort((o, x, tile))
        x, o, tile = x[by_rank], o[by_rank], tile[by_rank]
    new_tile = np.ones(x.size, dtype=bool)
    new_tile[1:] = (np.diff(x) != 0) | (np.diff(tile) != 0)
    a_starts = np.flatnonzero(new_tile)
    return np.r_[x, bx], np.r_[o, bo], np.r_[a_starts, b_starts + x.size], a_starts.size


def _merged_steps(masks: list[int], width: int, all_columns: int) -> int:
    """Count the first-fit steps of column-tag vectors given as integers."""
    open_steps: list[list[int]] = []  # [columns taken, synapses held]; steps that can take no more are dropped
    steps = 0
    for mask in masks:
        for index, step in enumerate(open_steps):
            if not step[0] & mask:
                step[0] |= mask
                step[1] += 1
                if step[1] == width or step[0] == all_columns:
                    del open_steps[index]
                break
        else:
            steps += 1
            if mask != all_columns:
                open_steps.append([mask, 1])
    return steps


def _tile_unions(
    tags: npt.NDArray[np.bool_],
    base: IntArray,
    offset: IntArray,
    col_x: IntArray,
    col_o: IntArray,
    starts: IntArray,
    merge: int,
) -> tuple[IntArray, IntArray, int]:
    """Return |U| and the number of steps of every tile, and the number of set tags over all columns."""
    synapses = np.zeros(starts.size, dtype=np.int64)
    steps = np.zeros(starts.size, dtype=np.int64)
    set_tags = 0
    ends = np.r_[starts[1:], col_x.size]
    block_columns = max(1, _BLOCK_ELEMENTS // offset.size)
    first = 0
    while first < starts.size:
        last = max(first + 1, int(np.searchsorted(ends, starts[first] + block_columns, side="right")))
        columns = slice(starts[first], ends[last - 1])
        gathered = tags[col_o[columns, None], base[col_x[columns], None] + offset]
        set_tags += int(np.count_nonzero(gathered))
        union = np.logical_or.reduceat(gathered, starts[first:last] - starts[first], axis=0)
        synapses[first:last] = union.sum(axis=1)
        if merge == 1:
            steps[first:last] = synapses[first:last]
        else:
            for n in range(first, last):
                of_tile = gathered[starts[n] - starts[first] : ends[n] - starts[first]]
                bits = np.uint64(1) << np.arange(of_tile.shape[0], dtype=np.uint64)
                masks = bits @ of_tile.astype(np.uint64)
                steps[n] = _merged_steps(masks[masks != 0].tolist(), merge, int(bits.sum()))
        first = last
    return synapses, steps, set_tags


def _start_times(
    col_x: IntArray,
    starts: IntArray,
    num_a: int,
    t_int: IntArray,
    offset: IntArray,
    duration: IntArray,
    advance: IntArray,
    positions: int,
) -> IntArray:
    """Return the start of every tile relative to the first one of the filter group, with the membrane dependence."""
    ends = np.r_[starts[1:], col_x.size].tolist()
    final = [-(1 << 62)] * positions  # end of the latest update of each neuron
    begin = np.zeros(starts.size, dtype=np.int64)
    xs, firsts = col_x.tolist(), starts.tolist()
    until = (offset + duration).tolist()
    offsets, integrate, advances = offset.tolist(), t_int.tolist(), advance.tolist()
    earliest = 0
    for n, first in enumerate(firsts):
        last = ends[n]
        if n < num_a:
            s = max(earliest, final[xs[first]] - integrate[n])
            final[xs[first]] = s + until[last - 1]
        else:
            s = max(earliest, max(final[xs[j]] - offsets[j] for j in range(first, last)))
            for j in range(first, last):
                final[xs[j]] = s + until[j]
        begin[n] = s
        earliest = s + advances[n]
    return begin


def count_layer(
    spikes_TCHW: npt.NDArray[np.generic],
    out_channels: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    *,
    window: int,
    dispatch: str = "agile",
    merge: int = 1,
    rows: int = 8,
    cols: int = 8,
    dilation: tuple[int, int] = (1, 1),
    order: str = "raster",
    adders: int = 1,
    decay: str = "step",
    tag_width: int = 64,
    tailoring: bool = True,
    weight_bits: int = 8,
    membrane_bit: int = 16,
    lbuf_kib: float = 2,
    glb_kib: float = 54,
    dram_bandwidth_gb_s: float = 30.0,
    clock_mhz: float = 500.0,
    reset: str = "hard",
    has_bias: bool = False,
    weights: npt.NDArray[np.generic] | None = None,
    out_spikes: npt.NDArray[np.generic] | None = None,
) -> dict[str, int]:
    """Count cycles, operations and traffic of one sample; `weights` [K,C,R,S], `out_spikes` [T,K,P,Q] when known."""
    spikes = np.asarray(spikes_TCHW) != 0
    num_steps, channels, height, width = spikes.shape
    r, s = kernel
    p = (height + 2 * padding[0] - dilation[0] * (r - 1) - 1) // stride[0] + 1
    q = (width + 2 * padding[1] - dilation[1] * (s - 1) - 1) // stride[1] + 1
    positions, fan_in = p * q, channels * r * s
    num_windows = _ceil_div(num_steps, window)
    filter_groups = _ceil_div(out_channels, rows)
    window_steps = np.minimum(window, num_steps - window * np.arange(num_windows))

    # tags, and the index of word (i, x) in the flattened padded map
    tags = _tags(spikes, window)
    padded_tags = np.pad(tags, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
    padded_h, padded_w = padded_tags.shape[2:]
    flat_tags = padded_tags.reshape(num_windows, -1)
    base = (np.arange(p)[:, None] * stride[0] * padded_w + np.arange(q) * stride[1]).ravel()
    offset_in_map = (
        np.arange(channels)[:, None, None] * (padded_h * padded_w)
        + np.arange(r)[:, None] * (dilation[0] * padded_w)
        + np.arange(s) * dilation[1]
    ).ravel()

    # active windows of every position: the union over synapses
    over_channels = padded_tags.any(axis=1).reshape(num_windows, -1)
    in_plane = (np.arange(r)[:, None] * (dilation[0] * padded_w) + np.arange(s) * dilation[1]).ravel()
    active = np.zeros((positions, num_windows), dtype=bool)
    for step in in_plane:
        active |= over_channels[:, base + step].T
    out_tags = None if out_spikes is None else _tags(np.asarray(out_spikes), window)
    if has_bias or (reset == "soft" and out_tags is None):
        active[:] = True
    elif reset == "soft" and out_tags is not None:
        active |= out_tags.any(axis=1).reshape(num_windows, positions).T

    # schedule, tile unions, steps
    col_x, col_o, starts, num_a = _schedule(active, cols, dispatch, order)
    num_tiles = starts.size
    widths = np.diff(np.r_[starts, col_x.size])
    col_tile = np.repeat(np.arange(num_tiles), widths)
    synapses, steps, set_tags = _tile_unions(flat_tags, base, offset_in_map, col_x, col_o, starts, merge)

    # update of every column
    processed = np.zeros_like(active)
    processed[col_x, col_o] = True
    latest = np.maximum.accumulate(np.where(processed, np.arange(num_windows), -1), axis=1)
    previous = np.where(col_o > 0, latest[col_x, np.maximum(col_o - 1, 0)], -1)
    gap = np.where(previous >= 0, col_o - previous - 1, 0)
    leak = {"step": gap * window, "table": (gap > 0).astype(np.int64), "free": np.zeros_like(gap)}[decay]
    col_steps = window_steps[col_o]
    duration = col_steps + leak

    # cycle law
    array_cycles = 0
    steps_of_tile = np.zeros(0, dtype=np.int64)
    if num_tiles:
        t_int = steps * -(-np.maximum.reduceat(col_steps, starts) // adders)
        steps_of_tile = np.add.reduceat(col_steps, starts)
        total_duration = np.add.reduceat(duration, starts)
        before = np.cumsum(duration) - duration
        in_a = np.arange(num_tiles) < num_a
        hop = np.where(in_a[col_tile], before - before[starts][col_tile], np.arange(col_x.size) - starts[col_tile])
        offset = t_int[col_tile] + hop
        tile_advance = np.where(in_a, total_duration - (widths - 1), np.maximum.reduceat(duration, starts))
        advance = np.maximum(t_int + tile_advance, _ceil_div(fan_in, tag_width))
        begin = _start_times(col_x, starts, num_a, t_int, offset, duration, advance, positions)
        group_cycles = int(begin[-1] + advance[-1])  # first start to first start of the next filter group
        group_end = int((begin + np.maximum.reduceat(offset + duration, starts)).max())
        for group in range(filter_groups):
            group_rows = min(rows, out_channels - group * rows)
            array_cycles = max(array_cycles, group * group_cycles + group_rows - 1 + group_end)

    # operations: a spike is added once per position that reads it, in every row (with a non-zero weight)
    spike_counts = np.pad(spikes.sum(axis=0, dtype=np.int64), ((0, 0), (padding[0],) * 2, (padding[1],) * 2)).ravel()
    reads = np.array([spike_counts[base + i].sum() for i in offset_in_map])
    if weights is None:
        additions = int(reads.sum()) * out_channels
    else:
        additions = int(reads @ np.count_nonzero(np.asarray(weights).reshape(out_channels, fan_in), axis=0))
    total_synapses = int(synapses.sum())
    membranes = num_a + int(widths[num_a:].sum())

    # traffic
    lbuf_weight = total_synapses * out_channels * weight_bits
    active_channels = int(tags.any(axis=(0, 2, 3)).sum()) if tailoring else channels
    tailored = weight_bits * r * s * active_channels * out_channels
    lbuf_part = Fraction(str(lbuf_kib)) * 2048
    glb_part = Fraction(str(glb_kib)) * 2048
    filter_bits = rows * fan_in * weight_bits
    glb_weight = tailored if filter_bits <= lbuf_part else lbuf_weight
    dram_weight = tailored if filter_bits <= glb_part else lbuf_weight
    input_bits = tags.size + int(np.count_nonzero(tags)) * window
    glb_act = input_bits * filter_groups
    dram_act = input_bits if input_bits <= glb_part else glb_act
    if out_tags is None:
        dram_out = num_steps * out_channels * positions
    else:
        dram_out = out_tags.size + int(np.count_nonzero(out_tags)) * window
    bits_per_cycle = Fraction(str(dram_bandwidth_gb_s)) * 8000 / Fraction(str(clock_mhz))
    exact_cycles = (dram_weight + dram_act + dram_out) / bits_per_cycle
    dram_cycles = _ceil_div(exact_cycles.numerator, exact_cycles.denominator)
    return {
        "array.cycles": array_cycles,
        "dram.cycles": dram_cycles,
        "cycles": max(array_cycles, dram_cycles),
        "pe.add": additions,
        "pe.update": int(col_steps.sum()) * out_channels,
        "pe.leak": int(leak.sum()) * out_channels,
        "lbuf_weight.read": lbuf_weight,
        "lbuf_weight.write": glb_weight,
        "lbuf_act.read": int((steps * steps_of_tile).sum()) * filter_groups,
        "lbuf_act.write": glb_act,
        "vmem.read": membranes * out_channels * membrane_bit,
        "vmem.write": membranes * out_channels * membrane_bit,
        "glb_weight.read": glb_weight,
        "glb_weight.write": dram_weight,
        "glb_act.read": glb_act,
        "glb_act.write": dram_act,
        "dram_weight.read": dram_weight,
        "dram_act.read": dram_act,
        "dram_out.write": dram_out,
        "tile.count": num_tiles * filter_groups,
        "tile.synapses": total_synapses * filter_groups,
        "tile.steps": int(steps.sum()) * filter_groups,
        "tile.tags": set_tags * filter_groups,
        "tile.slots": int((synapses * widths).sum()) * filter_groups,
    }
