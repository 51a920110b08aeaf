"""What weights occupy and which of them a sample needs; shared by machines that store pruned weights in code."""

from __future__ import annotations

import numpy as np

from spikeloom.core.trace import Spikes
from spikeloom.core.workload import Layer

RUN_BITS = (
    4  # run-length code of pruned weights: zeros before an entry, 0..15; sixteen zeros take an entry of their own
)


def stored_weight_bits(layer: Layer, rows: int, channels: np.ndarray | None) -> np.ndarray:
    """Bits to store each filter group's weights: the smaller of bitmask and run-length code; int64 (groups,).

    bitmask: one bit per weight position, then the non-zero weights. run-length: entries (zeros before, weight) of
    RUN_BITS + weight_bits, an entry of padding per sixteen zeros, each filter on its own, trailing zeros free.
    """
    assert layer.weight is not None
    a, b = layer.R // layer.stored_extent[0], layer.S // layer.stored_extent[1]
    weight_KCRS = layer.weight[:, :, ::a, ::b]
    if channels is not None:
        weight_KCRS = weight_KCRS[:, channels]
    filled_KI = weight_KCRS.reshape(layer.K, -1) != 0
    entries_K = np.zeros(layer.K, np.int64)
    for k, row in enumerate(filled_KI):
        at = np.flatnonzero(row)
        gaps = np.diff(at, prepend=-1) - 1
        entries_K[k] = len(at) + int((gaps // 2**RUN_BITS).sum())
    sums = np.arange(0, layer.K, rows)
    bitmask = np.add.reduceat(np.full(layer.K, filled_KI.shape[1]) + filled_KI.sum(axis=1) * layer.weight_bits, sums)
    run_length = np.add.reduceat(entries_K, sums) * (layer.weight_bits + RUN_BITS)
    smaller: np.ndarray = np.minimum(bitmask, run_length).astype(np.int64)
    return smaller


def active_channels(layer: Layer) -> np.ndarray:
    """Input channels with any spike, per sample; bool (N, C)."""
    data = layer.arrival.packed if isinstance(layer.arrival, Spikes) else layer.arrival.values
    seen: np.ndarray = (data != 0).any(axis=(0, 3, 4))
    return seen
