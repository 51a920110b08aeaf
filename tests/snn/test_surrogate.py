"""Surrogate gradients: unit height, the same in torch and in the kernel."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spikeloom.errors import NetworkError
from spikeloom.snn.fused import fill_density
from spikeloom.snn.surrogate import SURROGATES, SurrogateStep, surrogate


@pytest.mark.parametrize("name", SURROGATES)
@pytest.mark.parametrize("sharpness", [0.5, 2.0, 7.0])
def test_density_integrates_to_one(name: str, sharpness: float) -> None:
    x = torch.linspace(-1000, 1000, 1_000_001, dtype=torch.float64)
    total = float(torch.trapezoid(SURROGATES[name].density(x, sharpness), x))
    assert total == pytest.approx(1, abs=7e-3)  # long tails, and a rectangle on a grid


@pytest.mark.parametrize("name", SURROGATES)
def test_kernel_and_torch_agree(name: str) -> None:
    x = np.random.default_rng(0).normal(0, 1, 5000).astype(np.float32)
    slope = np.empty_like(x)
    fill_density(SURROGATES[name].code, np.float32(1.7), x, slope)
    np.testing.assert_allclose(slope, SURROGATES[name].density(torch.from_numpy(x), 1.7).numpy(), rtol=1e-5, atol=1e-7)


def test_codes_are_distinct() -> None:
    assert len({kind.code for kind in SURROGATES.values()}) == len(SURROGATES)
    assert all(kind.name == name for name, kind in SURROGATES.items())


@pytest.mark.parametrize(("strict", "expected"), [(False, [0, 1, 1]), (True, [0, 0, 1])])
def test_step_fires_at_or_above_the_threshold(strict: bool, expected: list[int]) -> None:
    v = torch.tensor([0.5, 2.0, 2.5], requires_grad=True)
    spikes = SurrogateStep.apply(v, 2.0, strict, SURROGATES["triangle"])
    assert spikes.tolist() == expected
    spikes.sum().backward()
    # Sharpness 1 is that of threshold 1: at threshold 2 the triangle is twice as wide and half as high.
    assert v.grad is not None
    assert v.grad.tolist() == pytest.approx([0.125, 0.5, 0.375])


def test_another_sharpness() -> None:
    assert surrogate("atan", 5).sharpness == 5
    assert surrogate("atan") is SURROGATES["atan"]


@pytest.mark.parametrize(
    ("name", "sharpness", "words"), [("sigmoid", None, "expected one of atan"), ("atan", 0, "positive")]
)
def test_what_is_refused(name: str, sharpness: float | None, words: str) -> None:
    with pytest.raises(NetworkError, match=words):
        surrogate(name, sharpness)
