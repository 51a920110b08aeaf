"""Losses against their formula."""

from __future__ import annotations

import math

import pytest
import torch

from spikeloom.errors import NetworkError
from spikeloom.snn.loss import LOSSES, loss_named

TRAJECTORY = torch.tensor([[[1.0, 0.0]], [[2.0, 0.0]]])  # T=2, N=1, K=2
LABELS = torch.tensor([0])


def cross_entropy(margin: float) -> float:
    return math.log(1 + math.exp(-margin))


def test_final_looks_at_the_mean_drive() -> None:
    assert float(LOSSES["final"](TRAJECTORY[-1], TRAJECTORY, LABELS, 0.0)) == pytest.approx(cross_entropy(1.0))


def test_running_looks_at_every_step() -> None:
    late = torch.tensor([[[0.0, 0.0]], [[2.0, 0.0]]])
    expected = (cross_entropy(0.0) + cross_entropy(1.0)) / 2
    assert float(LOSSES["running"](late[-1], late, LABELS, 0.0)) == pytest.approx(expected)


def test_unknown_name() -> None:
    with pytest.raises(NetworkError, match="unknown loss 'mse'"):
        loss_named("mse")
