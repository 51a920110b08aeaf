"""Tile schedules of a time-batched systolic array (numba): which columns run together, and when.

Vocabulary of the model card docs/models/spikex.md: a *tile* is a list of at most ``cols`` columns (position x,
window o); its step list U is the union over the columns of the synapses whose word is not zero. Mode A tiles hold
windows of one neuron, mode B tiles one window each of several positions.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from spikeloom.hw.bits import (
    count_ones,
    fired_windows,
    popcount64,
    summarise_tags,
    tag_groups,
    tag_levels,
    tag_spikes,
    trailing_zeros64,
)

AGILE, TEMPORAL, PTB, DENSE = 0, 1, 2, 3
DECAY_STEP, DECAY_TABLE, DECAY_FREE = 0, 1, 2

#: What ``run_tiles`` adds up, by index.
TILES, TILES_A, COLUMNS_B, SYNAPSES, STEPS, STEP_LEVELS, UPDATES, LEAKS, TAGS, SLOTS, BUSY, PERIOD, MAKESPAN = range(13)
NUM_TOTALS = 13


def _compatible_classes() -> np.ndarray:
    """Row t: the set of tag vectors (8 bits) disjoint from t, as a 256-bit set in four words."""
    disjoint = (np.arange(256)[:, None] & np.arange(256)[None, :]) == 0
    return np.packbits(disjoint, axis=1, bitorder="little").view(np.uint64)


COMPATIBLE = _compatible_classes()


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
    interleave: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Cut the active windows into tiles.

    Returns (column_x, column_o, tile_start, num_a): tile n holds columns tile_start[n]:tile_start[n+1]; the first
    num_a tiles are mode A, the rest mode B.
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
    if interleave and num_a > 0:
        column_x, column_o, tile_start = _interleaved(column_x, column_o, tile_start, tile_rank, num_a, n)
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
    return column_x[:n], column_o[:n], tile_start[: tiles + 1], num_a


@njit(cache=True, nogil=True)
def _interleaved(
    column_x: np.ndarray, column_o: np.ndarray, tile_start: np.ndarray, tile_rank: np.ndarray, num_a: int, num: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mode A tiles sorted by (rank among the tiles of their position, raster)."""
    new_x = np.empty_like(column_x)
    new_o = np.empty_like(column_o)
    new_start = np.zeros_like(tile_start)
    n = 0
    placed = 0
    rank = 0
    while placed < num_a:
        for tile in range(num_a):
            if tile_rank[tile] == rank:
                for j in range(tile_start[tile], tile_start[tile + 1]):
                    new_x[n] = column_x[j]
                    new_o[n] = column_o[j]
                    n += 1
                placed += 1
                new_start[placed] = n
        rank += 1
    return new_x, new_o, new_start


@njit(cache=True, nogil=True)
def _first_open_step(step_tags: np.ndarray, start: int, stop: int, tag: np.uint64) -> int:
    """Index of the first step in [start, stop) whose columns are disjoint from ``tag``, or stop."""
    at = start
    while at + 16 <= stop:  # a branch-free block is vectorised; only a block that holds a match is searched
        hit = False
        for k in range(16):
            hit |= (step_tags[at + k] & tag) == 0
        if hit:
            break
        at += 16
    while at < stop and step_tags[at] & tag:
        at += 1
    return at


@njit(cache=True, nogil=True)
def _steps_of_two_columns(words: np.ndarray) -> int:
    """Steps after merging over two columns: the synapses both use, and the more of those one uses alone."""
    left = 0
    right = 0
    for e in range(words.shape[0]):
        for w in range(words.shape[1]):
            left += popcount64(words[e, w, 0])
            right += popcount64(words[e, w, 1])
    return max(left, right)


@njit(cache=True, nogil=True)
def _merge_by_class(
    synapse_tags: np.ndarray,
    num: int,
    classes: int,
    compatible: np.ndarray,
    step_of: np.ndarray,
    open_classes: np.ndarray,
    scratch: np.ndarray,
) -> int:
    """First-fit merging of at most two synapses a step over at most eight columns; returns the number of steps.

    An open step holds one synapse, so steps with equal tags form a queue by age; the first fit is the oldest head
    among the queues of disjoint tags. Queues are linked through ``following`` so that no update needs a branch.
    open_classes: uint64 (4), the set of queues that are not empty. scratch: int64 (3, max(256, synapses) + 1): heads,
    tails, next step in the queue.
    """
    heads, tails, following = scratch[0], scratch[1], scratch[2]
    nowhere = scratch.shape[1] - 1
    words = (classes + 63) // 64
    for k in range(words):
        open_classes[k] = 0
    for v in range(classes):
        tails[v] = nowhere
    steps = 0
    for e in range(num):
        tag = synapse_tags[e]
        best = steps  # no open step is that young
        best_class = np.int64(tag)
        for k in range(words):
            found = open_classes[k] & compatible[tag, k]
            while found:
                other = np.int64(k * 64 + trailing_zeros64(found))
                found &= found - np.uint64(1)
                if heads[other] < best:
                    best = heads[other]
                    best_class = other
        step_of[e] = best
        at = best_class >> 6
        bit = np.uint64(1) << np.uint64(best_class & 63)
        if best < steps:
            emptied = np.uint64(heads[best_class] == tails[best_class])
            heads[best_class] = following[best]
            open_classes[at] ^= bit * emptied
        else:
            is_open = (open_classes[at] & bit) != 0
            following[tails[best_class] if is_open else nowhere] = steps
            heads[best_class] = heads[best_class] if is_open else steps
            tails[best_class] = steps
            open_classes[at] |= bit
            steps += 1
    return steps


@njit(cache=True, nogil=True)
def _merge_by_scan(
    synapse_tags: np.ndarray, num: int, merge: int, step_tags: np.ndarray, step_fill: np.ndarray, step_of: np.ndarray
) -> int:
    """First-fit merging of at most ``merge`` synapses a step; returns the number of steps."""
    everything = ~np.uint64(0)
    steps = 0
    start = 0
    for e in range(num):
        tag = synapse_tags[e]
        at = _first_open_step(step_tags, start, steps, tag)
        if at == steps:
            step_tags[at] = tag
            step_fill[at] = 1
            steps += 1
        else:
            step_tags[at] |= tag
            step_fill[at] += 1
        step_of[e] = at
        if step_fill[at] == merge:
            step_tags[at] = everything  # full: meets every tag, so never disjoint
        while start < steps and step_tags[start] == everything:
            start += 1
    return steps


@njit(cache=True, nogil=True)
def _transposed8(words: np.ndarray, e: int, w: int, num_rows: int, shift: np.uint64) -> np.uint64:
    """Eight bits of each row of ``words[e, w]``, from ``shift`` on, as an 8x8 bit matrix turned over: byte c holds bit c of every row."""
    x = np.uint64(0)
    for j in range(num_rows):
        x |= ((words[e, w, j] >> shift) & np.uint64(0xFF)) << np.uint64(8 * j)
    if x == 0:
        return x
    t = (x ^ (x >> np.uint64(7))) & np.uint64(0x00AA00AA00AA00AA)
    x ^= t ^ (t << np.uint64(7))
    t = (x ^ (x >> np.uint64(14))) & np.uint64(0x0000CCCC0000CCCC)
    x ^= t ^ (t << np.uint64(14))
    t = (x ^ (x >> np.uint64(28))) & np.uint64(0x00000000F0F0F0F0)
    x ^= t ^ (t << np.uint64(28))
    return x


@njit(cache=True, nogil=True)
def _tags_by_byte(
    words: np.ndarray, num_columns: int, union: np.ndarray, tag_bytes: np.ndarray, synapse_tags: np.ndarray
) -> int:
    """Column tags of the synapses of U in index order (c, r, s), for at most eight columns; returns |U|.

    words: uint64 (R*S, words, columns). union: uint64 (R*S, words). tag_bytes: uint8 scratch (64*R*S).
    """
    num_offsets, num_words = union.shape
    num = 0
    for w in range(num_words):
        for e in range(num_offsets):
            both = union[e, w]
            for b in range(8):
                turned = np.uint64(0)
                if (both >> np.uint64(8 * b)) & np.uint64(0xFF):
                    turned = _transposed8(words, e, w, num_columns, np.uint64(8 * b))
                for c in range(8):
                    tag_bytes[(8 * b + c) * num_offsets + e] = (turned >> np.uint64(8 * c)) & np.uint64(0xFF)
        for k in range(64 * num_offsets):  # branch-free compaction: the next write replaces a zero
            synapse_tags[num] = tag_bytes[k]
            num += tag_bytes[k] != 0
    return num


@njit(cache=True, nogil=True)
def _tags_by_group(
    group_tags: np.ndarray, group: int, pixel: int, offsets: np.ndarray, synapse_tags: np.ndarray
) -> int:
    """As _tags_by_byte for a tile of consecutive windows of one position whose tags lie side by side already."""
    num = 0
    for c in range(group_tags.shape[1]):
        for e in range(offsets.shape[0]):
            tag = group_tags[group, c, pixel + offsets[e]]
            synapse_tags[num] = tag
            num += tag != 0
    return num


@njit(cache=True, nogil=True)
def _tags_by_bit(
    words: np.ndarray,
    num_columns: int,
    union: np.ndarray,
    pops: np.ndarray,
    pixels: np.ndarray,
    windows: np.ndarray,
    offsets: np.ndarray,
    synapse_tags: np.ndarray,
    synapse_ones: np.ndarray,
) -> int:
    """As _tags_by_byte for any number of columns, with the most ones any column adds where ``pops`` is known."""
    want_ones = pops.size > 0
    num_offsets, num_words = union.shape
    num = 0
    for w in range(num_words):
        channels = np.uint64(0)
        for e in range(num_offsets):
            channels |= union[e, w]
        while channels:
            c = trailing_zeros64(channels)
            channels &= channels - np.uint64(1)
            shift = np.uint64(c)
            for e in range(num_offsets):
                if not (union[e, w] >> shift) & np.uint64(1):
                    continue
                tag = np.uint64(0)
                for j in range(num_columns):
                    tag |= ((words[e, w, j] >> shift) & np.uint64(1)) << np.uint64(j)
                synapse_tags[num] = tag
                if want_ones:
                    ones = np.uint16(0)
                    for j in range(num_columns):
                        ones = max(ones, pops[windows[j], pixels[j] + offsets[e], w * 64 + c])
                    synapse_ones[num] = ones
                num += 1
    return num


@njit(cache=True, nogil=True)
def run_tiles(
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
    merge: int,
    adders: int,
    level_bits: int,
    levels_of: np.ndarray,  # int64 (N): levels in window o (the last may be short)
    updates_of: np.ndarray,  # int64 (N): update cycles of window o without leak
    window: int,
    decay: int,
    scan: int,
    compatible: np.ndarray,
    totals: np.ndarray,  # int64 (NUM_TOTALS)
) -> None:
    """Run the tiles of one filter group at row 0 and add up what they do.

    totals[PERIOD] is the distance from the group's first tile to the next group's first, totals[MAKESPAN] the latest
    end of an update, both relative to the group's first tile and -1 without a tile.
    """
    num_offsets = offsets.shape[0]
    num_pixels, num_words = pixels_and_words
    everything = ~np.uint64(0)
    masked = mask.size > 0
    num_positions = first_pixel.shape[0]
    max_cols = 64
    pixels = np.empty(max_cols, np.int64)
    windows = np.empty(max_cols, np.int64)
    first_word = np.empty(max_cols, np.int64)
    begin = np.empty(max_cols, np.int64)
    lasts = np.empty(max_cols, np.int64)
    union = np.empty((num_offsets, num_words), np.uint64)
    zskip = pops.size > 0
    listed = (merge > 1 or zskip) and not dense
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
    processed = np.empty(num_positions, np.int64)  # last processed window of a position
    final = np.empty(num_positions, np.int64)  # absolute end of its last update
    for x in range(num_positions):
        processed[x] = -1
        final[x] = -1
    start = 0
    following = 0
    makespan = -1
    for tile in range(tile_start.shape[0] - 1):
        lo = tile_start[tile]
        m = tile_start[tile + 1] - lo
        is_a = tile < num_a
        sum_levels = 0
        max_levels = 0
        for j in range(m):
            windows[j] = column_o[lo + j]
            pixels[j] = first_pixel[column_x[lo + j]]
            sum_levels += levels_of[windows[j]]
            max_levels = max(max_levels, levels_of[windows[j]])
        # -- integration: |U|, steps, T_int
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
        steps = synapses
        serial_cost = (max_levels * level_bits + adders - 1) // adders
        if listed and not zskip and m == 2:
            # two columns: only (1, 0) merges with (0, 1), whatever the order
            steps = _steps_of_two_columns(words)
        elif listed and (zskip or m > 1):
            if group_tags.size:
                num = _tags_by_group(group_tags, windows[0] // cols, pixels[0], offsets, synapse_tags)
            elif m <= 8 and not zskip:
                num = _tags_by_byte(words, m, union, tag_bytes, synapse_tags)
            else:
                num = _tags_by_bit(words, m, union, pops, pixels, windows, offsets, synapse_tags, synapse_ones)
            if merge == 1 or m == 1:
                for e in range(num):
                    step_of[e] = e
            elif merge == 2 and m <= 8:
                steps = _merge_by_class(synapse_tags, num, 1 << m, compatible, step_of, open_classes, scratch)
            else:
                steps = _merge_by_scan(synapse_tags, num, merge, step_tags, step_fill, step_of)
        integration = steps * serial_cost
        if zskip:
            integration = 0
            for e in range(steps):
                step_fill[e] = 0
            for e in range(synapses):
                step_fill[step_of[e]] = max(step_fill[step_of[e]], np.int64(synapse_ones[e]))
            for e in range(steps):
                integration += (step_fill[e] + adders - 1) // adders
        # -- update: leak of the gap, then one cycle a step
        sum_update = 0
        max_update = 0
        end = 0
        for j in range(m):
            x = column_x[lo + j]
            o = windows[j]
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
        if tile > 0:
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
        totals[TILES] += 1
        if is_a:
            totals[TILES_A] += 1
        else:
            totals[COLUMNS_B] += m
        totals[SYNAPSES] += synapses
        totals[STEPS] += steps
        totals[STEP_LEVELS] += steps * sum_levels
        totals[TAGS] += shared
        totals[SLOTS] += m * synapses
        totals[BUSY] += m * integration
    totals[PERIOD] = following if makespan >= 0 else -1
    totals[MAKESPAN] = makespan


@njit(cache=True, nogil=True)
def schedule_sample(
    packed: np.ndarray,  # uint8 (ceil(T/8), C*H*W) spikes of one sample, or size 0
    values: np.ndarray,  # int32 (T, C*H*W) levels of one sample, or size 0
    out_packed: np.ndarray,  # uint8 (ceil(T/8), K*X) output spikes for the soft-reset rule, or size 0
    out_window: int,
    every_window: bool,
    num_steps: int,
    num_channels: int,
    height: int,
    width: int,
    corner: int,  # padded pixel of (0, 0)
    padded_width: int,
    first_pixel: np.ndarray,
    offsets: np.ndarray,
    tags: np.ndarray,  # uint64 (N, words, pixels), scratch
    tag_words: np.ndarray,  # the same memory in one row
    pops: np.ndarray,  # uint16 (N, pixels, C) for zskip, or size 0
    masks: np.ndarray,  # uint64 (groups, R*S, words) or size 0: one schedule serves all groups
    cols: int,
    dispatch: int,
    interleave: bool,
    num_synapses: int,
    merge: int,
    adders: int,
    level_bits: int,
    levels_of: np.ndarray,
    updates_of: np.ndarray,
    window: int,
    decay: int,
    scan: int,
    compatible: np.ndarray,
    totals: np.ndarray,  # int64 (schedules, NUM_TOTALS), zeroed by the caller
) -> tuple[int, int]:
    """Schedule one sample of one layer; returns (non-zero words, channels with any spike)."""
    num_windows = levels_of.shape[0]
    tag_words[:] = 0
    if packed.size:
        channels = tag_spikes(packed, num_steps, window, height, width, corner, padded_width, tags)
    else:
        channels = tag_levels(values, window, height, width, corner, padded_width, tags)
    if pops.size:
        pops[:] = 0
        count_ones(packed, values, window, height, width, corner, padded_width, pops)
    any_tag = np.zeros((tags.shape[2], (num_windows + 63) // 64), np.uint64)
    filled = summarise_tags(tags, any_tag)
    active = np.zeros((first_pixel.shape[0], any_tag.shape[1]), np.uint64)
    if every_window:
        for x in range(first_pixel.shape[0]):
            for o in range(num_windows):
                active[x, o >> 6] |= np.uint64(1) << np.uint64(o & 63)
    else:
        if out_packed.size:
            fired_windows(out_packed, first_pixel.shape[0], out_window, active)
        active_windows(any_tag, first_pixel, offsets, active)
    column_x, column_o, tile_start, num_a = list_tiles(active, num_windows, cols, dispatch, interleave)
    no_mask = np.empty((0, 0), np.uint64)
    grouped = dispatch == PTB and 2 < cols <= 8 and merge > 1 and pops.size == 0 and masks.size == 0
    group_tags = np.zeros(((num_windows + cols - 1) // cols if grouped else 0, num_channels, tags.shape[2]), np.uint8)
    if grouped:
        tag_groups(tags, cols, group_tags)
    for g in range(totals.shape[0]):
        kept = num_synapses
        if masks.size:
            kept = 0
            for e in range(masks.shape[1]):
                for w in range(masks.shape[2]):
                    kept += popcount64(masks[g, e, w])
        run_tiles(
            tag_words,
            (tags.shape[2], tags.shape[1]),
            pops,
            masks[g] if masks.size else no_mask,
            first_pixel,
            offsets,
            column_x,
            column_o,
            tile_start,
            num_a,
            kept,
            group_tags,
            cols,
            dispatch == DENSE,
            merge,
            adders,
            level_bits,
            levels_of,
            updates_of,
            window,
            decay,
            scan,
            compatible,
            totals[g],
        )
    return filled, channels
