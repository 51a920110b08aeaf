"""Shared bit-array kernels (numba): population count, trailing zeros, and the scatter of packed spikes into tag maps.

A *tag map* holds one bit per (window o, pixel, channel): is any level of this word non-zero. Channels lie side by
side in 64-bit words, so the union over columns of an array is an OR and its size a population count:

    tags[o, c >> 6, pixel] bit (c & 63), pixel = (h + padding) * padded_width + (w + padding); the halo stays zero.

Pixels of a row lie side by side, so that writing the map is one vector operation per row, channel and window.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic


@intrinsic
def _popcount64(typingctx: Any, word: Any) -> Any:
    """Number of ones in a uint64."""
    signature = types.int64(types.uint64)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return signature, codegen


@intrinsic
def _trailing_zeros64(typingctx: Any, word: Any) -> Any:
    """Index of the lowest one of a uint64 that is not zero."""
    signature = types.int64(types.uint64)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return signature, codegen


# mypy reads the intrinsics' typing-time signatures; kernels call them with the word alone
popcount64 = cast(Callable[[Any], int], _popcount64)
trailing_zeros64 = cast(Callable[[Any], int], _trailing_zeros64)


@njit(cache=True, nogil=True)
def tag_spikes(
    packed: np.ndarray,  # uint8 (ceil(T/8), C*H*W), one sample
    num_steps: int,
    window: int,
    height: int,
    width: int,
    first_pixel: int,  # padded pixel of (0, 0)
    padded_width: int,
    tags: np.ndarray,  # uint64 (N, words, pixels), zeroed by the caller
) -> int:
    """Write the tag map of one sample; returns the number of channels with any spike.

    No branch depends on a spike: the cost is that of the map, whatever the firing rate.
    """
    num_hw = height * width
    active_channels = 0
    for c in range(packed.shape[1] // num_hw):
        word = c >> 6
        shift = np.uint64(c & 63)
        seen = np.uint8(0)
        for b in range(packed.shape[0]):
            for i in range(c * num_hw, (c + 1) * num_hw):
                seen |= packed[b, i]
        if seen == 0:
            continue
        active_channels += 1
        for o in range(tags.shape[0]):
            start = o * window
            stop = min(start + window, num_steps)
            for b in range(start >> 3, ((stop - 1) >> 3) + 1):
                low = max(start - 8 * b, 0)
                high = min(stop - 8 * b, 8)
                mask = np.uint8((1 << high) - (1 << low))
                for h in range(height):
                    source = c * num_hw + h * width
                    target = first_pixel + h * padded_width
                    for w in range(width):
                        tags[o, word, target + w] |= np.uint64((packed[b, source + w] & mask) != 0) << shift
    return active_channels


@njit(cache=True, nogil=True)
def tag_levels(
    values: np.ndarray,  # int32 (T, C*H*W), one sample
    window: int,
    height: int,
    width: int,
    first_pixel: int,
    padded_width: int,
    tags: np.ndarray,
) -> int:
    """As tag_spikes for integer levels."""
    num_hw = height * width
    active_channels = 0
    for c in range(values.shape[1] // num_hw):
        shift = np.uint64(c & 63)
        seen = False
        for t in range(values.shape[0]):
            for h in range(height):
                source = c * num_hw + h * width
                target = first_pixel + h * padded_width
                for w in range(width):
                    filled = values[t, source + w] != 0
                    seen |= filled
                    tags[t // window, c >> 6, target + w] |= np.uint64(filled) << shift
        active_channels += seen
    return active_channels


@njit(cache=True, nogil=True)
def tag_groups(
    tags: np.ndarray,  # uint64 (N, words, pixels)
    cols: int,
    groups: np.ndarray,  # uint8 (ceil(N/cols), C, pixels), zeroed by the caller; cols <= 8
) -> None:
    """The tags of ``cols`` consecutive windows side by side: bit j of ``groups[g, c, pixel]`` is window g * cols + j."""
    for o in range(tags.shape[0]):
        g = o // cols
        place = np.uint8(o % cols)
        for c in range(groups.shape[1]):
            shift = np.uint64(c & 63)
            for pixel in range(tags.shape[2]):
                found = np.uint8((tags[o, c >> 6, pixel] >> shift) & np.uint64(1))
                groups[g, c, pixel] |= found << place


@njit(cache=True, nogil=True)
def summarise_tags(tags: np.ndarray, any_tag: np.ndarray) -> int:
    """Set bit o of ``any_tag[pixel, o >> 6]`` where a word of window o is non-zero; returns how many words are."""
    filled = 0
    for o in range(tags.shape[0]):
        bit = np.uint64(1) << np.uint64(o & 63)
        for word in range(tags.shape[1]):
            for pixel in range(tags.shape[2]):
                found = tags[o, word, pixel]
                filled += popcount64(found)
                if found:
                    any_tag[pixel, o >> 6] |= bit
    return filled


@njit(cache=True, nogil=True)
def count_ones(
    packed: np.ndarray,  # uint8 (ceil(T/8), C*H*W), one sample, or size 0
    values: np.ndarray,  # int32 (T, C*H*W), one sample, or size 0
    window: int,
    height: int,
    width: int,
    first_pixel: int,
    padded_width: int,
    ones: np.ndarray,  # uint16 (N, pixels, C), zeroed by the caller
) -> None:
    """Ones in every word: spikes, or ones of the levels' magnitudes."""
    num_hw = height * width
    if packed.size:
        for b in range(packed.shape[0]):
            for i in range(packed.shape[1]):
                byte = np.uint64(packed[b, i])
                pixel = first_pixel + (i % num_hw) // width * padded_width + i % width
                while byte:
                    ones[(b * 8 + trailing_zeros64(byte)) // window, pixel, i // num_hw] += np.uint16(1)
                    byte &= byte - np.uint64(1)
        return
    for t in range(values.shape[0]):
        for i in range(values.shape[1]):
            if values[t, i]:
                pixel = first_pixel + (i % num_hw) // width * padded_width + i % width
                ones[t // window, pixel, i // num_hw] += np.uint16(popcount64(np.uint64(abs(values[t, i]))))


@njit(cache=True, nogil=True)
def filled_words(packed: np.ndarray, window: int, last: np.ndarray) -> int:
    """Number of (neuron, window) words with at least one spike.

    packed: uint8 (ceil(T/8), neurons), one sample. last: int64 (neurons), scratch.
    """
    last[:] = -1
    filled = 0
    for b in range(packed.shape[0]):
        for i in range(packed.shape[1]):
            byte = np.uint64(packed[b, i])
            while byte:
                o = (b * 8 + trailing_zeros64(byte)) // window
                byte &= byte - np.uint64(1)
                if last[i] != o:
                    last[i] = o
                    filled += 1
    return filled


@njit(cache=True, nogil=True)
def fired_windows(
    packed: np.ndarray,  # uint8 (ceil(T/8), K*X), one sample
    num_positions: int,
    window: int,
    fired: np.ndarray,  # uint64 (X, ceil(N/64))
) -> None:
    """Set bit o of ``fired[x]`` where any channel at position x fires in window o."""
    for b in range(packed.shape[0]):
        for i in range(packed.shape[1]):
            byte = np.uint64(packed[b, i])
            while byte:
                o = (b * 8 + trailing_zeros64(byte)) // window
                byte &= byte - np.uint64(1)
                fired[i % num_positions, o >> 6] |= np.uint64(1) << np.uint64(o & 63)
