"""The residual block with a projection shortcut whose right counts the specification of sums that meet states, machine by machine."""

from __future__ import annotations

import numpy as np
import pytest

from spikeloom.core.workload import Workload
from spikeloom.lower import lower

T = 8


class Recordings:
    """Frames (T, N, C, H, W) with labels that nobody asks for."""

    def __init__(self, frames: np.ndarray) -> None:
        self.frames, self.labels = frames, np.zeros(frames.shape[1], np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: np.ndarray) -> np.ndarray:
        return self.frames[:, indices]


def projection() -> Workload:
    """Conv 2-8, then a block in which the sums of `2.d` (1x1) meet those of `2.b` (3x3) behind `2.a`, 8x12x12, T = 8, one sample."""
    torch = pytest.importorskip("torch")
    layer = pytest.importorskip("spikingjelly.activation_based.layer")
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    from spikeloom.snn.execute import Execution
    from spikeloom.snn.importers import import_module
    from spikeloom.snn.record import record
    from spikeloom.transform.fold import fold

    def conv(channels: int, filters: int, kernel: int, padding: int) -> object:
        return layer.Conv2d(channels, filters, kernel, padding=padding, bias=False, step_mode="m")

    class Block(torch.nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.a, self.l, self.b = conv(8, 8, 3, 1), neuron.LIFNode(step_mode="m"), conv(8, 8, 3, 1)
            self.d, self.k = conv(8, 8, 1, 0), neuron.LIFNode(step_mode="m")

        def forward(self, x: object) -> object:
            return self.k(self.d(x) + self.b(self.l(self.a(x))))

    head = layer.Linear(8 * 144, 10, step_mode="m")
    module = torch.nn.Sequential(
        conv(2, 8, 3, 1), neuron.LIFNode(step_mode="m"), Block(), layer.Flatten(step_mode="m"), head
    ).eval()
    torch.manual_seed(1)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape) * 0.5
    network = fold(import_module(module, (2, 12, 12)))
    frames = (np.random.default_rng(0).random((T, 1, 2, 12, 12)) < 0.3).astype(np.uint8)
    return lower(network, record(network, Recordings(frames), Execution(T, "events")))
