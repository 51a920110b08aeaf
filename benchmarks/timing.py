"""CPU time of a piece of work, and of a network's forward pass as recording runs it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from spikeloom.snn.build import SpikingModule


def cpu_seconds(work: Callable[[], object], repeats: int) -> list[float]:
    """CPU seconds of ``work``, measured ``repeats`` times."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return times


def forward_seconds(module: SpikingModule, images: int, num_steps: int) -> float:
    """CPU seconds per image of 3 x 32 x 32 random pixels, a batch of ``images``: float32, one thread, the median of five."""
    import torch

    from spikeloom.snn.execute import Execution, predict

    class Pixels:
        labels = np.zeros(images, np.int64)

        def __len__(self) -> int:
            return images

        def batch(self, indices: np.ndarray) -> np.ndarray:
            return np.random.default_rng(0).integers(0, 256, (len(indices), 3, 32, 32), np.uint8)

    torch.set_num_threads(1)
    execution = Execution(num_steps, batch_size=images)
    predict(module, Pixels(), execution, None)
    return statistics.median(cpu_seconds(lambda: predict(module, Pixels(), execution, None), 5)) / images
