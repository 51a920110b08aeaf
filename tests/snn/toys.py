"""Small networks and sources that the tests of this room share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from spikeloom.core.network import Network, chain
from spikeloom.core.nodes import (
    LI,
    LIF,
    AvgPool2d,
    BatchNorm,
    Conv2d,
    Flatten,
    Input,
    Leak,
    Linear,
    Output,
)


@dataclass(frozen=True, eq=False)
class Pixels:
    """The smallest possible source: samples (N first) or frames (N second), and labels."""

    samples: np.ndarray
    labels: np.ndarray
    sample_axis: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Any) -> np.ndarray:
        return np.take(self.samples, indices, axis=self.sample_axis)


def stripes(number: int, seed: int = 0) -> Pixels:
    """1 x 6 x 6 images of noisy vertical (0) or horizontal (1) stripes: two classes a tiny network learns."""
    generator = np.random.default_rng(seed)
    labels = np.arange(number, dtype=np.int64) % 2
    pattern = np.tile(np.array([230, 20], np.float64), 3)
    images = np.where(labels[:, None, None] == 0, pattern[None, None, :], pattern[None, :, None])
    noisy = np.clip(np.broadcast_to(images, (number, 6, 6)) + generator.normal(0, 40, (number, 6, 6)), 0, 255)
    return Pixels(noisy.astype(np.uint8)[:, None], labels)


def tiny_cnn(encoding: Any = "analog", *, norm: bool = True, pool: type = AvgPool2d) -> Network:
    """conv 3x3 (4), neuron, pool 2, conv 3x3 (6), neuron, fc 2, LI on 1 x 6 x 6."""
    neuron = LIF(Leak(shift=2))
    nodes: dict[str, Any] = {"input": Input((1, 6, 6), encoding), "conv1": Conv2d(1, 4, (3, 3), padding=(1, 1))}
    if norm:
        nodes["norm1"] = BatchNorm(4)
    nodes |= {"neuron1": neuron, "pool1": pool((2, 2), (2, 2)), "conv2": Conv2d(4, 6, (3, 3), padding=(1, 1))}
    if norm:
        nodes["norm2"] = BatchNorm(6)
    nodes |= {"neuron2": neuron, "flatten": Flatten(), "fc": Linear(54, 2), "readout": LI(), "output": Output((2,))}
    return chain("tiny", nodes)


def spiking_frames(num_steps: int, number: int, shape: tuple[int, ...], rate: float, seed: int = 0) -> np.ndarray:
    """Bernoulli 0/1 frames, uint8, shape (T, N, *shape)."""
    return (np.random.default_rng(seed).random((num_steps, number, *shape)) < rate).astype(np.uint8)
