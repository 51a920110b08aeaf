"""StSAP merging (numba): synapses whose columns do not meet share a step, first fit in index order.

A synapse's *column tags* have bit j set where column j has spikes for it. Two synapses may share a step when their tags
are disjoint; a synapse goes into the first open step that it fits, every step stays open, and no more than ``merge``
synapses share one.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from spikeloom.hw.bits import popcount64, trailing_zeros64


def _compatible_classes() -> np.ndarray:
    """Row t: the set of tag vectors (8 bits) disjoint from t, as a 256-bit set in four words."""
    disjoint = (np.arange(256)[:, None] & np.arange(256)[None, :]) == 0
    return np.packbits(disjoint, axis=1, bitorder="little").view(np.uint64)


COMPATIBLE = _compatible_classes()


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
def steps_of_two_columns(words: np.ndarray) -> int:
    """Steps after merging over two columns: the synapses both use, and the more of those one uses alone."""
    left = 0
    right = 0
    for e in range(words.shape[0]):
        for w in range(words.shape[1]):
            left += popcount64(words[e, w, 0])
            right += popcount64(words[e, w, 1])
    return max(left, right)


@njit(cache=True, nogil=True)
def merge_by_class(
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
def merge_by_scan(
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
def tags_by_byte(
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
def tags_by_group(group_tags: np.ndarray, group: int, pixel: int, offsets: np.ndarray, synapse_tags: np.ndarray) -> int:
    """As tags_by_byte for a tile of consecutive windows of one position whose tags lie side by side already."""
    num = 0
    for c in range(group_tags.shape[1]):
        for e in range(offsets.shape[0]):
            tag = group_tags[group, c, pixel + offsets[e]]
            synapse_tags[num] = tag
            num += tag != 0
    return num


@njit(cache=True, nogil=True)
def tags_by_bit(
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
    """As tags_by_byte for any number of columns, with the most ones any column adds where ``pops`` is known."""
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
