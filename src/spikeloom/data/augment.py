"""Random changes of training batches. Each takes a batch and a generator and returns a batch of the same shape and dtype."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

#: (batch (..., N, C, H, W), generator) -> batch.
Augmentation = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def random_shift(max_pixels: int) -> Augmentation:
    """Move every sample by up to ``max_pixels`` up, down, left or right; what leaves the map is lost, zeros move in."""

    def shift(batch: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        shifted = np.zeros_like(batch)
        height, width = batch.shape[-2:]
        samples = batch.shape[-4]
        for n, (down, right) in enumerate(generator.integers(-max_pixels, max_pixels + 1, (samples, 2))):
            rows, columns = _overlap(int(down), height), _overlap(int(right), width)
            shifted[..., n, :, rows[0], columns[0]] = batch[..., n, :, rows[1], columns[1]]
        return shifted

    return shift


def random_flip(batch: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Mirror half of the samples left to right."""
    mirrored = generator.random((batch.shape[-4], 1, 1, 1)) < 0.5
    return np.where(mirrored, batch[..., ::-1], batch)


def _overlap(move: int, size: int) -> tuple[slice, slice]:
    """(where to, where from) along one axis."""
    return slice(max(0, move), size + min(0, move)), slice(max(0, -move), size - max(0, move))
