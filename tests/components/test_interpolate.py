"""Interpolation: exact on points, bounded by neighbours, and equal to the closed form it states."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikeloom.components.interpolate import linear, log_log, log_log_grid, proportional

_positive = st.floats(1e-15, 1e15)


@st.composite
def _curve(draw: st.DrawFn) -> tuple[list[float], list[float], float]:
    xs = sorted(draw(st.lists(st.integers(1, 10**6), min_size=2, max_size=6, unique=True)))
    ys = draw(st.lists(_positive, min_size=len(xs), max_size=len(xs)))
    x = draw(st.floats(xs[0], xs[-1]))
    return [float(each) for each in xs], ys, x


@given(_curve())
def test_interpolation_is_exact_on_points_and_between_its_neighbours(
    curve: tuple[list[float], list[float], float],
) -> None:
    xs, ys, x = curve
    for rule in (linear, log_log):
        assert [rule(each, xs, ys) for each in xs] == ys
        i = max(k for k, each in enumerate(xs) if each <= x)
        near = ys[i : i + 2]
        assert min(near) * (1 - 1e-9) <= rule(x, xs, ys) <= max(near) * (1 + 1e-9)


@given(st.floats(-3, 3), _positive, st.floats(2, 54))
def test_log_log_reproduces_a_power_law(exponent: float, scale: float, x: float) -> None:
    xs = [2.0, 8.0, 54.0]
    ys = [scale * each**exponent for each in xs]
    assert log_log(x, xs, ys) == pytest.approx(scale * x**exponent, rel=1e-9)


@given(st.floats(4, 32))
def test_linear_reproduces_a_line(x: float) -> None:
    assert linear(x, [4, 8, 32], [4 * 0.5 + 1, 8 * 0.5 + 1, 32 * 0.5 + 1]) == pytest.approx(0.5 * x + 1)


@given(st.floats(1, 64), st.floats(8, 128))
def test_grid_reproduces_a_product_of_powers(x: float, z: float) -> None:
    xs = [1.0, 4.0, 64.0]
    curves = {w: (xs, [3 * each**0.6 * w**0.4 for each in xs]) for w in (8.0, 32.0, 128.0)}
    assert log_log_grid(x, z, curves) == pytest.approx(3 * x**0.6 * z**0.4, rel=1e-9)


def test_proportional_is_per_unit() -> None:
    assert proportional(64, 1, 12.45) == 64 * 12.45
    assert proportional(1, 1, 0.1) == 0.1


def test_geometric_mean_at_the_geometric_middle() -> None:
    assert log_log(4.0, [2.0, 8.0], [1.0, 9.0]) == pytest.approx(3.0)
    assert math.isclose(log_log(2.0, [2.0, 8.0], [1.0, 9.0]), 1.0, rel_tol=0)


@pytest.mark.parametrize("x", [1.9, 8.1, math.nan])
def test_outside_the_points_is_a_broken_invariant(x: float) -> None:
    with pytest.raises(AssertionError):
        log_log(x, [2.0, 8.0], [1.0, 9.0])
