"""Shared bit-array kernels (numba): population count, trailing zeros, and the scatter of packed spikes into tag maps.

A *tag map* holds one bit per (window o, pixel, channel): is any level of this word non-zero. Channels lie side by
side in 64-bit words, so the union over columns of an array is an OR and its size a population count:

    tags[o, pixel, c >> 6] bit (c & 63), pixel = (h + padding) * padded_width + (w + padding); the halo stays zero.
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
def scatter_spikes(
    packed: np.ndarray,  # uint8 (ceil(T/8), C*H*W), one sample
    window_of_step: np.ndarray,  # int64 (T rounded up to 8)
    pixel_of_hw: np.ndarray,  # int64 (H*W), padded pixel index
    tags: np.ndarray,  # uint64 (N, pixels, words), zeroed by the caller
    any_tag: np.ndarray,  # uint64 (pixels, ceil(N/64)), zeroed by the caller
    pops: np.ndarray,  # uint16 (N, pixels, C) or size 0; zeroed by the caller
) -> tuple[int, int]:
    """Write the tag map of one sample; returns (number of non-zero words, number of channels with any spike)."""
    num_hw = pixel_of_hw.shape[0]
    num_channels = packed.shape[1] // num_hw
    want_pops = pops.size > 0
    filled = 0
    active_channels = 0
    for c in range(num_channels):
        word = c >> 6
        bit = np.uint64(1) << np.uint64(c & 63)
        seen = False
        base = c * num_hw
        for b in range(packed.shape[0]):
            for i in range(num_hw):
                byte = np.uint64(packed[b, base + i])
                if byte == 0:
                    continue
                seen = True
                pixel = pixel_of_hw[i]
                while byte:
                    o = window_of_step[b * 8 + trailing_zeros64(byte)]
                    byte &= byte - np.uint64(1)
                    old = tags[o, pixel, word]
                    if not old & bit:
                        tags[o, pixel, word] = old | bit
                        any_tag[pixel, o >> 6] |= np.uint64(1) << np.uint64(o & 63)
                        filled += 1
                    if want_pops:
                        pops[o, pixel, c] += np.uint16(1)
        if seen:
            active_channels += 1
    return filled, active_channels


@njit(cache=True, nogil=True)
def scatter_levels(
    values: np.ndarray,  # int32 (T, C*H*W), one sample
    window_of_step: np.ndarray,
    pixel_of_hw: np.ndarray,
    tags: np.ndarray,
    any_tag: np.ndarray,
    pops: np.ndarray,
) -> tuple[int, int]:
    """As scatter_spikes for integer levels; ``pops`` collects the ones of the magnitude."""
    num_hw = pixel_of_hw.shape[0]
    num_channels = values.shape[1] // num_hw
    want_pops = pops.size > 0
    filled = 0
    active_channels = 0
    for c in range(num_channels):
        word = c >> 6
        bit = np.uint64(1) << np.uint64(c & 63)
        seen = False
        for t in range(values.shape[0]):
            o = window_of_step[t]
            for i in range(num_hw):
                level = values[t, c * num_hw + i]
                if level == 0:
                    continue
                seen = True
                pixel = pixel_of_hw[i]
                old = tags[o, pixel, word]
                if not old & bit:
                    tags[o, pixel, word] = old | bit
                    any_tag[pixel, o >> 6] |= np.uint64(1) << np.uint64(o & 63)
                    filled += 1
                if want_pops:
                    pops[o, pixel, c] += np.uint16(popcount64(np.uint64(abs(level))))
        if seen:
            active_channels += 1
    return filled, active_channels


@njit(cache=True, nogil=True)
def filled_words(packed: np.ndarray, window_of_step: np.ndarray, last: np.ndarray) -> int:
    """Number of (neuron, window) words with at least one spike.

    packed: uint8 (ceil(T/8), neurons), one sample. last: int64 (neurons), scratch.
    """
    last[:] = -1
    filled = 0
    for b in range(packed.shape[0]):
        for i in range(packed.shape[1]):
            byte = np.uint64(packed[b, i])
            while byte:
                o = window_of_step[b * 8 + trailing_zeros64(byte)]
                byte &= byte - np.uint64(1)
                if last[i] != o:
                    last[i] = o
                    filled += 1
    return filled


@njit(cache=True, nogil=True)
def fired_windows(
    packed: np.ndarray,  # uint8 (ceil(T/8), K*X), one sample
    num_positions: int,
    window_of_step: np.ndarray,
    fired: np.ndarray,  # uint64 (X, ceil(N/64))
) -> None:
    """Set bit o of ``fired[x]`` where any channel at position x fires in window o."""
    for b in range(packed.shape[0]):
        for i in range(packed.shape[1]):
            byte = np.uint64(packed[b, i])
            while byte:
                o = window_of_step[b * 8 + trailing_zeros64(byte)]
                byte &= byte - np.uint64(1)
                fired[i % num_positions, o >> 6] |= np.uint64(1) << np.uint64(o & 63)
