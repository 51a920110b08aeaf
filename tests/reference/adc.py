"""A convolution on crossbars with an ADC per column, pixel by pixel and row by row in whole numbers; shares nothing with the package."""

from __future__ import annotations

from fractions import Fraction

import numpy as np


def half_to_even(value: Fraction) -> int:
    below = value.numerator // value.denominator
    part = value - below
    if part == Fraction(1, 2):
        return below + below % 2
    return below + (part > Fraction(1, 2))


def conv2d(
    x: np.ndarray,
    weights: np.ndarray,
    factors: list[int],
    rows: int,
    step: Fraction,
    low: int,
    high: int,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> list[list[list[list[int]]]]:
    """The sums of codes [n][k][p][q] of integer inputs (N, C, H, W) and integer weights (M, K, C, R, S)."""
    N, _, H, W = x.shape
    M, K, C, R, S = weights.shape
    P = (H + 2 * padding[0] - dilation[0] * (R - 1) - 1) // stride[0] + 1
    Q = (W + 2 * padding[1] - dilation[1] * (S - 1) - 1) // stride[1] + 1
    out = [[[[0] * Q for _ in range(P)] for _ in range(K)] for _ in range(N)]
    for n in range(N):
        for k in range(K):
            group = k // (K // groups)
            for p in range(P):
                for q in range(Q):
                    for m in range(M):
                        for r in range(R):
                            for s in range(S):
                                h = p * stride[0] + r * dilation[0] - padding[0]
                                w = q * stride[1] + s * dilation[1] - padding[1]
                                for first in range(0, C, rows):
                                    current = 0
                                    for c in range(first, min(first + rows, C)):
                                        if 0 <= h < H and 0 <= w < W:
                                            current += int(weights[m, k, c, r, s]) * int(x[n, group * C + c, h, w])
                                    level = min(max(Fraction(current) / step, Fraction(low)), Fraction(high))
                                    out[n][k][p][q] += factors[m] * half_to_even(level)
    return out
