"""What weights occupy and which of them a sample needs; shared by machines that store pruned weights in code."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from spikeloom.core.trace import Spikes
from spikeloom.core.workload import Layer

RUN_BITS = (
    4  # run-length code of pruned weights: zeros before an entry, 0..15; sixteen zeros take an entry of their own
)
#: Share of zero weights from which a layer counts as pruned.
PRUNED = 0.1


def code_bits(weight: np.ndarray, weight_bits: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Bits of both codes for each filter group of ``rows`` filters: (bitmask, run-length), int64 (groups,).

    bitmask: one bit per weight position, then the non-zero weights. run-length: entries (zeros before, weight) of
    RUN_BITS + weight_bits, an entry of padding per sixteen zeros, each filter on its own, trailing zeros free.
    ``weight``: shape (K, ...), the filters in the order in which they are stored.
    """
    filled_KI = weight.reshape(len(weight), -1) != 0
    k, at = np.nonzero(filled_KI)
    gaps = np.diff(at, prepend=-1) - 1
    first = np.diff(k, prepend=-1) != 0
    gaps[first] = at[first]
    nonzero_K = np.bincount(k, minlength=len(filled_KI))
    padding_K = np.zeros_like(nonzero_K)
    np.add.at(padding_K, k, gaps // 2**RUN_BITS)
    sums = np.arange(0, len(filled_KI), rows)
    bitmask = np.add.reduceat(filled_KI.shape[1] + nonzero_K * weight_bits, sums)
    run_length = np.add.reduceat(nonzero_K + padding_K, sums) * (weight_bits + RUN_BITS)
    return bitmask.astype(np.int64), run_length.astype(np.int64)


def _stored(layer: Layer) -> np.ndarray:
    """The weights as stored, without the repeats of a folded pool; shape (K, C, R, S)."""
    assert layer.weight is not None
    a, b = layer.R // layer.stored_extent[0], layer.S // layer.stored_extent[1]
    return np.asarray(layer.weight[:, :, ::a, ::b])


def stored_weight_bits(layer: Layer, rows: int, channels: np.ndarray | None = None) -> np.ndarray:
    """Bits to store each filter group's weights: the smaller of bitmask and run-length code; int64 (groups,).

    channels: only the weights of these input channels, bool (C,); None for all.
    """
    weight_KCRS = _stored(layer)
    if channels is not None:
        weight_KCRS = weight_KCRS[:, channels]
    return np.asarray(np.minimum(*code_bits(weight_KCRS, layer.weight_bits, rows)))


def storage_note(parts: Iterable[Layer], rows: int) -> str:
    """Which code stores the pruned weights of each layer, in words; groups of a convolution are parts of one name."""
    groups: dict[str, list[int]] = {}
    for part in parts:
        bitmask, run_length = code_bits(_stored(part), part.weight_bits, rows)
        count = groups.setdefault(part.name, [0, 0])
        count[0] += int((bitmask <= run_length).sum())
        count[1] += int((bitmask > run_length).sum())
    words = []
    for name, (masks, runs) in groups.items():
        if masks and runs:
            words.append(f"{name} as bitmask in {masks} of {masks + runs} filter groups, run length in {runs}")
        else:
            words.append(f"{name} as {'bitmask' if masks else 'run length'}")
    return f"weights stored: {'; '.join(words)}"


def zero_share(layer: Layer) -> float:
    """Fraction of a layer's weights that are 0; none where they are not known."""
    return 0.0 if layer.weight is None else float(np.mean(layer.weight == 0))


def active_channels(layer: Layer) -> np.ndarray:
    """Input channels with any spike, per sample; bool (N, C)."""
    data = layer.arrival.packed if isinstance(layer.arrival, Spikes) else layer.arrival.values
    return np.asarray((data != 0).any(axis=(0, 3, 4)))
