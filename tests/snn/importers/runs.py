"""Frames, and runs of imported networks, that the tests of this room share."""

from __future__ import annotations

import warnings
from types import ModuleType

import pytest
import torch
from torch import Tensor

from spikeloom.core.network import Network
from spikeloom.snn.build import build


def installed(name: str) -> ModuleType:
    """The framework module ``name``; skips the tests of the file that asks where it is not installed."""
    with warnings.catch_warnings():  # Norse compiles parts of itself as it is imported
        warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated", category=DeprecationWarning)
        found: ModuleType = pytest.importorskip(name, reason=f"{name} is not installed; scripts/frameworks does it")
    return found


def currents(num_steps: int, number: int, shape: tuple[int, ...], seed: int) -> Tensor:
    """Real input currents around a third of a threshold of 1; shape (T, N, *shape)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_steps, number, *shape, generator=generator) * 0.5 + 0.35


def spikes(num_steps: int, number: int, shape: tuple[int, ...], seed: int, rate: float = 0.3) -> Tensor:
    """Bernoulli 0/1 frames, shape (T, N, *shape)."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(num_steps, number, *shape, generator=generator) < rate).float()


def ours(network: Network, frames_TN: Tensor) -> Tensor:
    """What reaches the output of an imported network, (T, N, *shape)."""
    module = build(network).eval()
    with torch.no_grad():
        sent: Tensor = module(frames_TN.flatten(0, 1), frames_TN.shape[0])
    return sent


def same_spikes(network: Network, frames_TN: Tensor, expected: Tensor) -> None:
    """Spike for spike, and neither silent nor always firing."""
    sent = ours(network, frames_TN)
    assert sent.shape == expected.shape
    assert 0.01 < float(expected.mean()) < 0.9, "a run that shows little"
    assert sent.numel() > 1000
    assert int((sent != expected).sum()) == 0
