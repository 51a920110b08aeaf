"""Kernels of the sata machine: the flush-when-full input buffer, and the im2col columns that hold a spike."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numba import njit

from spikeloom.core.workload import Layer


@dataclass(frozen=True)
class Walk:
    """How the output-stationary array walks over one group of a layer: a loop nest without its spikes.

    C, K: channels and filters of one group. rows, cols: of the array. A fold is ``rows`` positions times ``cols``
    filters; within it the V = R S C synapses stream in, row r one cycle behind row r - 1.
    """

    H: int
    W: int
    R: int
    S: int
    C: int
    K: int
    P: int
    Q: int
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    rows: int
    cols: int

    @property
    def synapses(self) -> int:
        """V, synapses of one output neuron."""
        return self.R * self.S * self.C

    @property
    def positions(self) -> int:
        """Output positions P Q."""
        return self.P * self.Q

    @property
    def row_folds(self) -> int:
        """ceil(P Q / rows)."""
        return -(-self.positions // self.rows)

    @property
    def col_folds(self) -> int:
        """ceil(K / cols)."""
        return -(-self.K // self.cols)

    @property
    def fold_cycles(self) -> int:
        """Cycles of one fold and step in which every synapse streams: V + rows + cols - 2."""
        return self.synapses + self.rows + self.cols - 2


def walk_of(layer: Layer, rows: int, cols: int) -> Walk:
    """The walk of one group of ``layer``, padding included."""
    return Walk(
        layer.H, layer.W, layer.R, layer.S, layer.C // layer.groups, layer.K // layer.groups, layer.P, layer.Q,
        layer.stride, layer.padding, layer.dilation, rows, cols,
    )  # fmt: skip


def _synapses(walk: Walk) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, column and channel of every synapse relative to its window, in the order (R, S, C); int64 (V,) each."""
    v = np.arange(walk.synapses)
    r, s, c = v // (walk.S * walk.C), v // walk.C % walk.S, v % walk.C
    return r * walk.dilation[0], s * walk.dilation[1], c


def _windows(walk: Walk) -> tuple[np.ndarray, np.ndarray]:
    """Upper left corner of the window of every output position in raster order; int64 (P Q,) each."""
    p = np.arange(walk.positions)
    return p // walk.Q * walk.stride[0] - walk.padding[0], p % walk.Q * walk.stride[1] - walk.padding[1]


@lru_cache(maxsize=512)
def fetched_words(walk: Walk, capacity: int) -> int:
    """Input words fetched by a buffer of ``capacity`` words that empties itself whenever it is full.

    The words of the group are asked for in the skewed order of the array, column folds outside, row folds inside; a
    word outside the map is not asked for. Every miss fetches one word.
    """
    return int(_fetched(*_windows(walk), *_synapses(walk), walk.H, walk.W, walk.C, walk.rows, walk.col_folds, capacity))


@njit(cache=True)
def _fetched(
    top: np.ndarray,
    left: np.ndarray,
    down: np.ndarray,
    right: np.ndarray,
    channel: np.ndarray,
    height: int,
    width: int,
    channels: int,
    rows: int,
    col_folds: int,
    capacity: int,
) -> int:
    positions, synapses = top.size, down.size
    held = np.zeros(height * width * channels, np.int32)  # generation in which a word entered the buffer
    offset = (down * width + right) * channels + channel
    generation, filled, misses = np.int32(1), 0, 0
    for fold in range(col_folds):
        for first in range(0, positions, rows):
            last = min(first + rows, positions)
            for t in range(synapses + last - first - 1):
                for position in range(max(first, first + t - synapses + 1), min(last, first + t + 1)):
                    v = t - (position - first)
                    y, x = top[position] + down[v], left[position] + right[v]
                    if y < 0 or x < 0 or y >= height or x >= width:
                        continue
                    word = (top[position] * width + left[position]) * channels + offset[v]
                    if held[word] != generation:
                        held[word] = generation
                        misses += 1
                        filled += 1
                        if filled >= capacity:
                            generation += np.int32(1)
                            filled = 0
        if fold == 0 and generation == 1:
            break  # everything stays in the buffer: later folds miss nothing
    return misses


def last_read_cycle(walk: Walk) -> int:
    """Cycle of the last word of the skewed stream that lies on the map; 0 where none does."""
    top, left = _windows(walk)
    down, right, _ = _synapses(walk)
    for fold in reversed(range(walk.row_folds)):
        rows = slice(fold * walk.rows, (fold + 1) * walk.rows)
        y, x = top[rows, None] + down, left[rows, None] + right
        row, v = np.nonzero((y >= 0) & (x >= 0) & (y < walk.H) & (x < walk.W))
        if v.size:
            before = (walk.col_folds - 1) * walk.row_folds + fold
            return before * walk.fold_cycles + int((row + v).max())
    return 0


@dataclass(frozen=True)
class Active:
    """Im2col columns that hold anything non-zero in some row of a fold, summed over the row folds of one sample.

    steps: one for every active (row fold, step, synapse). row_steps: the same times the rows of the fold.
    ever: one for every (row fold, synapse) active in any step.
    """

    steps: int
    row_steps: int
    ever: int


def active_columns(walk: Walk, packed_BCHW: np.ndarray) -> Active:
    """``packed_BCHW``: one sample of one group, bit-packed over time as in `Spikes`, non-zero where a level is."""
    found = _active(packed_BCHW, *_windows(walk), *_synapses(walk), walk.rows)
    return Active(*(int(count) for count in found))


def dense_columns(walk: Walk, num_steps: int) -> Active:
    """Every column in every step: an array that skips nothing."""
    return Active(
        walk.row_folds * walk.synapses * num_steps,
        walk.positions * walk.synapses * num_steps,
        walk.row_folds * walk.synapses,
    )


@njit(cache=True)
def _active(
    packed: np.ndarray,
    top: np.ndarray,
    left: np.ndarray,
    down: np.ndarray,
    right: np.ndarray,
    channel: np.ndarray,
    rows: int,
) -> tuple[int, int, int]:
    ones = np.zeros(256, np.int64)
    for byte in range(256):
        ones[byte] = ones[byte >> 1] + (byte & 1)
    num_bytes, _, height, width = packed.shape
    steps, row_steps, ever = 0, 0, 0
    for first in range(0, top.size, rows):
        last = min(first + rows, top.size)
        for v in range(down.size):
            active = 0
            for b in range(num_bytes):
                seen = np.uint8(0)
                for position in range(first, last):
                    y, x = top[position] + down[v], left[position] + right[v]
                    if y >= 0 and x >= 0 and y < height and x < width:
                        seen |= packed[b, channel[v], y, x]
                active += ones[seen]
            steps += active
            row_steps += active * (last - first)
            ever += active > 0
    return steps, row_steps, ever
