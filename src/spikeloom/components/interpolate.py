"""Interpolation between tabulated points. No function extrapolates."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from math import exp, log


def linear(x: float, xs: Sequence[float], ys: Sequence[float]) -> float:
    """y = y0 + (y1 - y0) (x - x0) / (x1 - x0) between the neighbouring points x0 <= x <= x1.

    Range: xs[0] <= x <= xs[-1], xs strictly ascending. A tabulated x returns its y unchanged.
    """
    i = _left(x, xs)
    if x == xs[i]:
        return ys[i]
    return ys[i] + (ys[i + 1] - ys[i]) * (x - xs[i]) / (xs[i + 1] - xs[i])


def log_log(x: float, xs: Sequence[float], ys: Sequence[float]) -> float:
    """y = y0 (x / x0)^b with b = ln(y1 / y0) / ln(x1 / x0): a power law between neighbouring points.

    Range: xs[0] <= x <= xs[-1], xs strictly ascending, all x and y positive. A tabulated x returns its y unchanged.
    """
    i = _left(x, xs)
    if x == xs[i]:
        return ys[i]
    exponent = log(ys[i + 1] / ys[i]) / log(xs[i + 1] / xs[i])
    return ys[i] * exp(exponent * log(x / xs[i]))


def log_log_grid(x: float, z: float, curves: Mapping[float, tuple[Sequence[float], Sequence[float]]]) -> float:
    """y_z = `log_log` over x on each tabulated curve z, then `log_log` over z between the neighbouring y_z.

    Range: min(curves) <= z <= max(curves), and x inside the points of the curves used.
    """
    zs = sorted(curves)
    i = _left(z, zs)
    near = zs[i : i + 1] if z == zs[i] else zs[i : i + 2]
    return log_log(z, near, [log_log(x, *curves[each]) for each in near])


def proportional(x: float, x0: float, y0: float) -> float:
    """y = y0 x / x0. Range: x > 0; for quantities that are per bit by definition."""
    return y0 if x == x0 else y0 * x / x0


def _left(x: float, xs: Sequence[float]) -> int:
    assert xs[0] <= x <= xs[-1], "the caller checks the range and says what to do"
    return bisect_right(xs, x) - 1
