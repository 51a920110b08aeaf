"""Tile schedules of a time-batched systolic array (numba): which columns run together, and when.

Vocabulary of the model card docs/models/spikex.md: a *tile* is a list of at most ``cols`` columns (position x,
window o); its step list U is the union over the columns of the synapses whose word is not zero. Mode A tiles hold
windows of one neuron, mode B tiles one window each of several positions.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from spikeloom.hw.bits import popcount64, trailing_zeros64
from spikeloom.hw.merge import (
    merge_by_class,
    merge_by_scan,
    steps_of_two_columns,
    tags_by_bit,
    tags_by_byte,
    tags_by_group,
)

AGILE, TEMPORAL, PTB, DENSE = 0, 1, 2, 3
DECAY_STEP, DECAY_TABLE, DECAY_FREE = 0, 1, 2

#: What ``run_tiles`` adds up, by index.
TILES, TILES_A, COLUMNS_B, SYNAPSES, STEPS, STEP_LEVELS, UPDATES, LEAKS, TAGS, SLOTS, BUSY, PERIOD, MAKESPAN = range(13)
NUM_TOTALS = 13


@njit(cache=True, nogil=True)
def active_windows(
    any_tag: np.ndarray,  # uint64 (pixels, ceil(N/64))
    first_pixel: np.ndarray,  # int64 (X), padded pixel under synapse (0, 0)
    offsets: np.ndarray,  # int64 (R*S), pixel distance of synapse (r, s)
    active: np.ndarray,  # uint64 (X, ceil(N/64)), may already hold windows that fire by themselves
) -> None:
    """Set bit o of ``active[x]`` where any synapse of position x has a non-zero word in window o."""
    for x in range(first_pixel.shape[0]):
        for e in range(offsets.shape[0]):
            pixel = first_pixel[x] + offsets[e]
            for k in range(any_tag.shape[1]):
                active[x, k] |= any_tag[pixel, k]


@njit(cache=True, nogil=True)
def list_tiles(
    active: np.ndarray,  # uint64 (X, ceil(N/64))
    num_windows: int,
    cols: int,
    dispatch: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Cut the active windows into tiles, in raster order.

    Returns (column_x, column_o, tile_start, rank): tile n holds columns tile_start[n]:tile_start[n+1]; the first tiles
    are mode A, each with its rank among those of its position, the rest are mode B.
    """
    num_positions = active.shape[0]
    count = np.zeros(num_positions, np.int64)
    num_active = 0
    for x in range(num_positions):
        for k in range(active.shape[1]):
            count[x] += popcount64(active[x, k])
        num_active += count[x]
    whole_groups = dispatch in (PTB, DENSE)
    capacity = num_positions * num_windows if whole_groups else num_active
    column_x = np.empty(capacity, np.int32)
    column_o = np.empty(capacity, np.int32)
    tile_start = np.zeros(capacity + 1, np.int64)
    tile_rank = np.empty(capacity, np.int64)
    tiles = 0
    n = 0
    # left-over windows of every position (agile only), at most cols - 1 each
    rest_o = np.empty((num_positions, cols), np.int32)
    rest = np.zeros(num_positions, np.int64)
    for x in range(num_positions):
        rank = 0
        if whole_groups:
            for start in range(0, num_windows, cols):
                stop = min(start + cols, num_windows)
                wanted = dispatch == DENSE
                for o in range(start, stop):
                    if (active[x, o >> 6] >> np.uint64(o & 63)) & np.uint64(1):
                        wanted = True
                if not wanted:
                    continue
                for o in range(start, stop):
                    column_x[n] = x
                    column_o[n] = o
                    n += 1
                tile_rank[tiles] = rank
                rank += 1
                tiles += 1
                tile_start[tiles] = n
            continue
        full = count[x] // cols * cols if dispatch == AGILE else count[x]
        taken = 0
        for k in range(active.shape[1]):
            word = active[x, k]
            while word:
                o = k * 64 + trailing_zeros64(word)
                word &= word - np.uint64(1)
                if taken < full:
                    column_x[n] = x
                    column_o[n] = o
                    n += 1
                    taken += 1
                    if taken % cols == 0 or taken == full:
                        tile_rank[tiles] = rank
                        rank += 1
                        tiles += 1
                        tile_start[tiles] = n
                else:
                    rest_o[x, rest[x]] = o
                    rest[x] += 1
    num_a = tiles
    for wave in range(cols):
        width = 0
        for x in range(num_positions):
            if rest[x] > wave:
                column_x[n] = x
                column_o[n] = rest_o[x, wave]
                n += 1
                width += 1
                if width == cols:
                    tiles += 1
                    tile_start[tiles] = n
                    width = 0
        if width:
            tiles += 1
            tile_start[tiles] = n
    return column_x[:n], column_o[:n], tile_start[: tiles + 1], tile_rank[:num_a]


@njit(cache=True, nogil=True)
def interleaved(rank: np.ndarray, num_tiles: int) -> np.ndarray:
    """Order of the tiles by (rank among the mode A tiles of a position, raster); mode B tiles follow as they are."""
    order = np.empty(num_tiles, np.int64)
    highest = 0
    for tile in range(rank.shape[0]):
        highest = max(highest, rank[tile])
    first = np.zeros(highest + 2, np.int64)
    for tile in range(rank.shape[0]):
        first[rank[tile] + 1] += 1
    for r in range(highest):
        first[r + 1] += first[r]
    for tile in range(rank.shape[0]):
        order[first[rank[tile]]] = tile
        first[rank[tile]] += 1
    for tile in range(rank.shape[0], num_tiles):
        order[tile] = tile
    return order


@njit(cache=True, nogil=True)
def integrate_tiles(
    tag_words: np.ndarray,  # uint64 (N * words * pixels), the tag map in one row
    pixels_and_words: tuple[int, int],
    pops: np.ndarray,  # uint16 (N, pixels, C) for zskip, else size 0
    mask: np.ndarray,  # uint64 (R*S, words): synapses a filter group keeps, or size 0
    first_pixel: np.ndarray,
    offsets: np.ndarray,
    column_x: np.ndarray,
    column_o: np.ndarray,
    tile_start: np.ndarray,
    num_a: int,
    num_synapses: int,
    group_tags: np.ndarray,  # uint8 (groups, C, pixels) for dispatch ptb with merging, or size 0
    cols: int,
    dense: bool,
    merges: np.ndarray,  # int64 (M): merge widths to run side by side
    adders: int,
    level_bits: int,
    levels_of: np.ndarray,  # int64 (N): levels in window o (the last may be short)
    compatible: np.ndarray,
    integration_of: np.ndarray,  # int64 (M, tiles): T_int of every tile
    totals: np.ndarray,  # int64 (M, NUM_TOTALS)
) -> None:
    """Integrate the tiles of one filter group, in any order, and add up what does not depend on it."""
    num_offsets = offsets.shape[0]
    num_pixels, num_words = pixels_and_words
    everything = ~np.uint64(0)
    masked = mask.size > 0
    max_cols = 64
    pixels = np.empty(max_cols, np.int64)
    windows = np.empty(max_cols, np.int64)
    first_word = np.empty(max_cols, np.int64)
    union = np.empty((num_offsets, num_words), np.uint64)
    zskip = pops.size > 0
    listed = (merges.max() > 1 or zskip) and not dense
    room = num_offsets * num_words * 64 if listed else 0
    words = np.zeros((num_offsets, num_words, max_cols) if listed else (0, 0, 0), np.uint64)
    tag_bytes = np.empty(num_offsets * 64 if listed else 0, np.uint8)
    synapse_tags = np.empty(room + 1, np.uint64)
    synapse_ones = np.zeros(room, np.uint16)
    step_of = np.empty(room, np.int64)
    step_tags = np.empty(room + 16, np.uint64)
    step_fill = np.empty(room, np.int64)
    scratch = np.empty((3, max(256, room) + 1), np.int64)
    open_classes = np.empty(4, np.uint64)
    for tile in range(tile_start.shape[0] - 1):
        lo = tile_start[tile]
        m = tile_start[tile + 1] - lo
        sum_levels = 0
        max_levels = 0
        for j in range(m):
            windows[j] = column_o[lo + j]
            pixels[j] = first_pixel[column_x[lo + j]]
            sum_levels += levels_of[windows[j]]
            max_levels = max(max_levels, levels_of[windows[j]])
        synapses = 0
        shared = 0
        for j in range(m):
            first_word[j] = windows[j] * num_words * num_pixels + pixels[j]
        for e in range(num_offsets):
            for w in range(num_words):
                at = w * num_pixels + offsets[e]
                keep = mask[e, w] if masked else everything
                both = np.uint64(0)
                for j in range(m):
                    word = tag_words[first_word[j] + at] & keep
                    if listed:
                        words[e, w, j] = word
                    both |= word
                    shared += popcount64(word)
                union[e, w] = both
                synapses += popcount64(both)
        if dense:
            synapses = num_synapses  # of this filter group, silent ones included
        serial_cost = (max_levels * level_bits + adders - 1) // adders
        by_synapse = listed and (zskip or m > 2)
        num = 0
        if by_synapse:
            if group_tags.size:
                num = tags_by_group(group_tags, windows[0] // cols, pixels[0], offsets, synapse_tags)
            elif m <= 8 and not zskip:
                num = tags_by_byte(words, m, union, tag_bytes, synapse_tags)
            else:
                num = tags_by_bit(words, m, union, pops, pixels, windows, offsets, synapse_tags, synapse_ones)
        for k in range(merges.shape[0]):
            merge = merges[k]
            steps = synapses
            if by_synapse:
                if merge == 1 or m == 1:
                    for e in range(num):
                        step_of[e] = e
                elif merge == 2 and m <= 8:
                    steps = merge_by_class(synapse_tags, num, 1 << m, compatible, step_of, open_classes, scratch)
                else:
                    steps = merge_by_scan(synapse_tags, num, merge, step_tags, step_fill, step_of)
            elif listed and m == 2 and merge > 1:
                # two columns: only (1, 0) merges with (0, 1), whatever the order
                steps = steps_of_two_columns(words)
            integration = steps * serial_cost
            if zskip:
                integration = 0
                for e in range(steps):
                    step_fill[e] = 0
                for e in range(synapses):
                    step_fill[step_of[e]] = max(step_fill[step_of[e]], np.int64(synapse_ones[e]))
                for e in range(steps):
                    integration += (step_fill[e] + adders - 1) // adders
            integration_of[k, tile] = integration
            total = totals[k]
            total[TILES] += 1
            if tile < num_a:
                total[TILES_A] += 1
            else:
                total[COLUMNS_B] += m
            total[SYNAPSES] += synapses
            total[STEPS] += steps
            total[STEP_LEVELS] += steps * sum_levels
            total[TAGS] += shared
            total[SLOTS] += m * synapses
            total[BUSY] += m * integration


@njit(cache=True, nogil=True)
def time_tiles(
    column_x: np.ndarray,
    column_o: np.ndarray,
    tile_start: np.ndarray,
    num_a: int,
    order: np.ndarray,  # int64 (tiles): which tile runs when, or size 0 for raster order
    num_positions: int,
    integration_of: np.ndarray,  # int64 (tiles)
    updates_of: np.ndarray,  # int64 (N): update cycles of window o without leak
    window: int,
    decay: int,
    scan: int,
    totals: np.ndarray,  # int64 (NUM_TOTALS)
) -> None:
    """When the tiles of one filter group run at row 0, one after another in the order given.

    totals[PERIOD] is the distance from the group's first tile to the next group's first, totals[MAKESPAN] the latest
    end of an update, both relative to the group's first tile and -1 without a tile.
    """
    max_cols = 64
    begin = np.empty(max_cols, np.int64)
    lasts = np.empty(max_cols, np.int64)
    processed = np.empty(num_positions, np.int64)  # last processed window of a position
    final = np.empty(num_positions, np.int64)  # absolute end of its last update
    for x in range(num_positions):
        processed[x] = -1
        final[x] = -1
    start = 0
    following = 0
    makespan = -1
    for turn in range(tile_start.shape[0] - 1):
        tile = order[turn] if order.size else turn
        lo = tile_start[tile]
        m = tile_start[tile + 1] - lo
        is_a = tile < num_a
        integration = integration_of[tile]
        # -- update: leak of the gap, then one cycle a step
        sum_update = 0
        max_update = 0
        end = 0
        for j in range(m):
            x = column_x[lo + j]
            o = column_o[lo + j]
            gap = o - processed[x] - 1 if processed[x] >= 0 else 0
            processed[x] = o
            leak = 0
            if decay == DECAY_STEP:
                leak = gap * window
            elif decay == DECAY_TABLE and gap > 0:
                leak = 1
            update = updates_of[o] + leak
            begin[j] = integration + (sum_update if is_a else j)
            lasts[j] = begin[j] + update
            end = max(end, lasts[j])
            sum_update += update
            max_update = max(max_update, update)
            totals[UPDATES] += updates_of[o]
            totals[LEAKS] += leak
        # -- start: behind the tile before, behind the tag scan, behind the neuron's own membrane
        if turn > 0:
            start = following
            if is_a:
                x = column_x[lo]
                if final[x] >= 0:
                    start = max(start, final[x] - begin[0])
            else:
                for j in range(m):
                    x = column_x[lo + j]
                    if final[x] >= 0:
                        start = max(start, final[x] - begin[j])
        for j in range(m):
            final[column_x[lo + j]] = start + lasts[j]
        advance = integration + (sum_update - (m - 1) if is_a else max_update)
        following = start + max(advance, scan)
        makespan = max(makespan, start + end)
    totals[PERIOD] = following if makespan >= 0 else -1
    totals[MAKESPAN] = makespan
