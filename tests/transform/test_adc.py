"""Crossbars with ADCs against nested loops in whole numbers, and the straight-through gradient."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from spikeloom.errors import NetworkError
from spikeloom.transform import adc as module
from spikeloom.transform.adc import Adc, adc_conv2d, laid_out
from tests.reference import adc as reference

ONE_TWO = st.integers(1, 2)


def whole(seed: int, low: int, high: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(low, high + 1, shape)).float()


@st.composite
def layers(draw: st.DrawFn) -> dict[str, object]:
    groups, kernel = draw(ONE_TWO), (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    return {
        "groups": groups,
        "kernel": kernel,
        "N": draw(ONE_TWO),
        "K": groups * draw(st.integers(1, 3)),
        "C": draw(st.integers(1, 5)),
        "rows": draw(st.integers(1, 4)),
        "factors": draw(st.lists(st.integers(-4, 4), min_size=1, max_size=3)),
        "levels": draw(st.sampled_from([1, 5])),
        "step": draw(st.sampled_from([Fraction(1, 2), Fraction(1), Fraction(2), Fraction(4)])),
        "low": draw(st.sampled_from([0, -3, -8])),
        "high": draw(st.sampled_from([1, 3, 15])),
        "stride": (draw(ONE_TWO), draw(ONE_TWO)),
        "padding": (draw(st.integers(0, 2)), draw(st.integers(0, 2))),
        "dilation": (draw(ONE_TWO), draw(ONE_TWO)),
        "size": (draw(st.integers(5, 6)), draw(st.integers(5, 6))),
        "seed": draw(st.integers(0, 999)),
        "tuning": {
            "_CHUNK": draw(st.sampled_from([1, 20, 1 << 16])),
            "_TILE": draw(st.sampled_from([1, 2, 256])),
            "_SPARSE": draw(st.sampled_from([0.0, 2.0])),  # matrix products, or events
        },
    }


@settings(max_examples=80, deadline=None)
@given(layers())
def test_equals_nested_loops(layer: dict) -> None:
    x = whole(layer["seed"], 0, layer["levels"], layer["N"], layer["C"] * layer["groups"], *layer["size"])
    weights = whole(layer["seed"] + 1, -3, 3, len(layer["factors"]), layer["K"], layer["C"], *layer["kernel"])
    place = {name: layer[name] for name in ("stride", "padding", "dilation", "groups")}
    codes = (layer["step"], layer["low"], layer["high"])
    wanted = reference.conv2d(x.numpy(), weights.numpy(), layer["factors"], layer["rows"], *codes, **place)
    adc = Adc(step=float(layer["step"]), low=layer["low"], high=layer["high"])
    with pytest.MonkeyPatch.context() as patch:
        for name, value in layer["tuning"].items():
            patch.setattr(module, name, value)
        found = adc_conv2d(x, weights, layer["factors"], rows=layer["rows"], adc=adc, **place)
    assert np.array_equal(found.numpy(), np.array(wanted) * float(layer["step"]))


def test_wide_converter_is_the_plain_convolution() -> None:
    """Codes of one level that never clamp lose nothing of whole numbers."""
    x, weights = whole(1, 0, 1, 2, 70, 6, 6), whole(2, 0, 3, 4, 5, 70, 3, 3)
    factors = [1, 4, -1, -4]
    through = adc_conv2d(x, weights, factors, rows=64, adc=Adc(step=1.0, low=0, high=255), padding=(1, 1))
    plain = adc_conv2d(x, weights, factors, rows=64, adc=None, padding=(1, 1))
    summed = weights[0] + 4 * weights[1] - weights[2] - 4 * weights[3]
    assert torch.equal(plain, functional.conv2d(x, summed, padding=1)) and torch.equal(through, plain)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_and_memory_layout_change_nothing(threads: int) -> None:
    x, weights = whole(8, 0, 1, 3, 20, 7, 7), whole(9, -3, 3, 2, 9, 20, 3, 3)
    call = {"rows": 8, "adc": Adc(step=2.0, low=-3, high=3)}
    wanted = adc_conv2d(x, weights, [1, 2], **call)
    stored = laid_out(weights)
    assert torch.equal(stored, weights) and stored.permute(0, 3, 4, 2, 1).is_contiguous()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with pytest.MonkeyPatch.context() as patch:
            for sparse in (0.0, 2.0):
                patch.setattr(module, "_SPARSE", sparse)
                assert torch.equal(adc_conv2d(x, stored, [1, 2], **call), wanted)
    finally:
        torch.set_num_threads(before)


def test_linear_is_one_pixel() -> None:
    x, weights, adc = whole(3, 0, 1, 4, 130), whole(4, 0, 7, 2, 6, 130), Adc.unipolar(5, 31.0)
    call = (x[:, :, None, None], weights[..., None, None], [1, -1])
    found = adc_conv2d(*call, rows=64, adc=adc)
    codes = (Fraction(1), 0, 31)
    pixel = (x[:, :, None, None].numpy(), weights[..., None, None].numpy())
    wanted = reference.conv2d(*pixel, [1, -1], 64, *codes, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1)
    assert np.array_equal(found.numpy(), np.array(wanted))
    plain = adc_conv2d(*call, rows=64, adc=None)[:, :, 0, 0]
    assert torch.equal(plain, functional.linear(x, weights[0] - weights[1]))


def test_ranges_of_converters() -> None:
    assert Adc.unipolar(4, 7.5) == Adc(step=0.5, low=0, high=15)
    assert Adc.bipolar(4, 3.5) == Adc(step=0.5, low=-7, high=7)


@pytest.mark.parametrize("groups", [1, 2])
def test_gradient_goes_straight_through(groups: int) -> None:
    x = whole(5, 0, 1, 2, 4, 5, 5).requires_grad_()
    weights = whole(6, -2, 2, 2, 4, 4 // groups, 3, 3).requires_grad_()
    place = {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2), "groups": groups}
    found = adc_conv2d(x, weights, [1, -3], rows=2, adc=Adc(step=2.0, low=-1, high=1), **place)
    weighed = whole(7, -3, 3, *found.shape)
    straight = torch.autograd.grad((found * weighed).sum(), (x, weights))
    plain = functional.conv2d(x, weights[0] - 3 * weights[1], None, *place.values())
    for ours, wanted in zip(straight, torch.autograd.grad((plain * weighed).sum(), (x, weights)), strict=True):
        assert ours.abs().max() > 0
        torch.testing.assert_close(ours, wanted)
    assert not torch.equal(found, plain)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"factors": [1.0]}, "factors"),
        ({"rows": 0}, "rows"),
        ({"groups": 3}, "groups"),
        ({"x": torch.zeros(2, 4, 5)}, "expected \\(N, C, H, W\\)"),
        ({"x": torch.zeros(2, 4, 5, 5, dtype=torch.float64)}, "float32"),
        ({"x": torch.zeros(2, 4, 2, 5)}, "kernel"),
    ],
)
def test_refusals(change: dict, message: str) -> None:
    call = {"x": torch.zeros(2, 4, 5, 5), "factors": [1.0, 2.0], "rows": 2, "groups": 1} | change
    weights, adc = torch.zeros(2, 4, 4, 3, 3), Adc(step=1.0, low=0, high=3)
    with pytest.raises(NetworkError, match=message):
        adc_conv2d(call["x"], weights, call["factors"], rows=call["rows"], adc=adc, groups=call["groups"])


@pytest.mark.parametrize("codes", [{"step": 0.0}, {"low": 1}, {"high": 0}, {"high": 2**22}])
def test_converters_refused(codes: dict) -> None:
    with pytest.raises(NetworkError, match="adc"):
        Adc(**({"step": 1.0, "low": 0, "high": 3} | codes))
