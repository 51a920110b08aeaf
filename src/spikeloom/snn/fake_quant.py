"""Weights on a grid, in NumPy and in torch: what an integer network stores and what fine-tuning for it multiplies with.

``q = clip(round(w / step), -largest, largest)``, rounded half to even in float64; the weight used is ``step * q`` in float32. Weights
that lie on a grid of two's complement already may hold one level more below zero (`deepest`).
In training the gradient passes straight through (Bengio et al., arXiv:1308.3432), to the weights beyond the grid too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from spikeloom.errors import NetworkError

Scaling = Literal["max", "mse"]

#: Steps have this many significant bits, so that a float network on the grid adds small multiples of them without rounding.
_STEP_BITS = 12
#: Largest distance from a whole number, in steps, of weights that lie on a grid.
_ON_GRID = 1e-4
#: Fractions of the largest weight among which the step with the least squared error is sought.
_CLIPS = np.linspace(1.0, 0.1, 91)
#: Weights looked at together.
_CACHED = 1 << 15


def grid_levels(
    weight: np.ndarray, step: np.ndarray, largest: int, lowest: np.ndarray | int | None = None
) -> np.ndarray:
    """The level of every weight, whole numbers ``lowest``..``largest``; float64, the shape of ``weight``.

    Args:
        weight: any float dtype.
        step: value of one level; positive, broadcasts to ``weight``.
        largest: largest level.
        lowest: lowest level, broadcasts to ``weight``; None for -largest.
    """
    lowest = -largest if lowest is None else lowest
    levels: np.ndarray = np.clip(np.rint(np.asarray(weight, np.float64) / step), lowest, largest)
    return levels


def deepest(weight: np.ndarray, step: np.ndarray, largest: int) -> np.ndarray:
    """Lowest level of each channel: -largest - 1 where its weights are whole steps and reach that far, else -largest.

    Args:
        weight: shape (K, ...). step: as `grid_levels`.

    Returns:
        Float64, shape (K, 1, ...).
    """
    exact = (np.asarray(weight, np.float64) / step).reshape(len(weight), -1)
    deep = is_whole(exact).all(1) & (np.rint(exact.min(1)) == -largest - 1) & (np.rint(exact.max(1)) <= largest)
    return np.asarray(-largest - deep, np.float64).reshape(-1, *([1] * (weight.ndim - 1)))


class _OnGrid(torch.autograd.Function):
    """``step * clip(round(w / step), lowest, largest)``, the gradient of the identity."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, step: Tensor, lowest: Tensor, largest: int) -> Tensor:
        return ((weight.double() / step).round().clamp(max=largest).maximum(lowest) * step).to(weight.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0], None, None, None


@dataclass(frozen=True, eq=False)
class FakeQuant:
    """A weight rule for `spikeloom.snn.train`: synapses compute with weights on a grid, training moves the floats behind them.

    Steps stay as they are during training, so that thresholds in whole steps (see ``transform.quantize.on_grid``) stay whole.

    steps: value of one level of each synapse's weights, by its name; float64, positive, broadcasts to them.
    largest: largest level of each. lowest: lowest, broadcasts to its weights; -largest where absent.
    """

    steps: Mapping[str, np.ndarray]
    largest: Mapping[str, int]
    lowest: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __call__(self, name: str, weight: Tensor) -> Tensor:
        """The weights of synapse ``name`` on its grid; the shape and dtype of ``weight``.

        Raises:
            NetworkError: a synapse without a step.
        """
        if name not in self.steps:
            raise NetworkError(f"no grid for the weights of '{name}'; expected one of {', '.join(self.steps)}")
        step = torch.from_numpy(np.asarray(self.steps[name], np.float64)).to(weight.device)
        lowest = torch.from_numpy(np.asarray(self.lowest.get(name, -self.largest[name]), np.float64)).to(weight.device)
        used: Tensor = _OnGrid.apply(weight, step, lowest, self.largest[name])  # type: ignore[no-untyped-call]
        return used


def chosen_step(
    weights: np.ndarray,
    largest: int,
    scale: Scaling,
    anchors: Sequence[Sequence[np.ndarray]] = ((),),
    least: np.ndarray | float = 0.0,
    ternary: bool = False,
) -> np.ndarray:
    """The step of every row of weights: their own where they lie on a grid, else by ``scale``.

    "max" is the largest size over the largest level; "mse" that times the factor of 0.1..1 with the least squared error, for the
    levels -1, 0, 1 the exact optimum, which the ternary networks of Li and Liu (arXiv:1605.04711) approximate.

    Args:
        weights: float64, shape (rows, n).
        largest: largest level.
        scale: "max" or "mse".
        anchors: what weights on a grid may have in whole steps too, arrays of shape (rows, any); lists tried one after the other.
        least: no finer than this, shape (rows,); but down to 3/4 of it for weights that already lie on such a grid (biases move in training).
        ternary: a grid may not hold the level -largest - 1.

    Returns:
        Positive float64, shape (rows,). Rows of zeros have the largest step of the others.
    """
    top = np.abs(weights).max(1)
    step = np.zeros(len(weights))
    for extra in anchors:
        step = np.where(step > 0, step, own_step(weights, extra, largest, least, ternary))
    rest = (step == 0) & (top > 0)
    if rest.any():
        if scale == "max":
            sought = top[rest] / largest
        elif largest == 1:
            sought = _ternary_step(weights[rest])
        else:
            sought = _least_squares_step(weights[rest], largest)
        step[rest] = _rounded_up(np.maximum(sought, np.broadcast_to(least, step.shape)[rest]))
    step[top == 0] = step.max(initial=0) or 1 / largest
    return np.where(top == 0, np.maximum(step, least), step)


def own_step(
    weights: np.ndarray, extra: Sequence[np.ndarray], largest: int, least: np.ndarray | float, ternary: bool = False
) -> np.ndarray:
    """The finest step with at most ``largest`` levels of which all weights of a row, and all of ``extra``, are multiples, else 0.

    Where there is none, and unless ``ternary``, that with the levels -largest - 1..largest of two's complement.
    """
    size = np.abs(weights)
    top = size.max(1)
    safe = np.where(top > 0, top, 1)[:, None]
    few = np.sort(size, 1)[:, -16:]  # enough to rule a step out; zeros would not
    probe = np.concatenate([few, *extra], 1) / safe
    step = np.zeros(len(weights))
    for level in range(largest, 0, -1):
        rows = np.flatnonzero(((step == 0) | (step < least)) & (top > 0) & is_whole(probe * level).all(1))
        rows = rows[is_whole(size[rows] / safe[rows] * level).all(1)]
        step[rows] = top[rows] / level
    if not ternary:
        deep = largest + 1.0
        rows = np.flatnonzero((step == 0) & (top > 0) & (np.rint(weights.max(1) / safe[:, 0] * deep) <= largest))
        rows = rows[is_whole(np.concatenate([size, *extra], 1)[rows] / safe[rows] * deep).all(1)]
        step[rows] = top[rows] / deep
    return np.where(step < 0.75 * np.asarray(least), 0.0, step)


def is_whole(steps: np.ndarray) -> np.ndarray:
    """True where a number of steps is whole but for what float32 loses."""
    found: np.ndarray = np.abs(steps - np.rint(steps)) <= _ON_GRID + 1e-6 * np.abs(steps)
    return found


def _least_squares_step(weights: np.ndarray, largest: int) -> np.ndarray:
    """The step among `_CLIPS` with the least squared error of each row; few rows at a time, for the sake of the cache."""
    rows = max(1, _CACHED // max(1, weights.shape[1]))
    return np.concatenate([_best_clip(weights[k : k + rows], largest) for k in range(0, len(weights), rows)])


def _best_clip(weights: np.ndarray, largest: int) -> np.ndarray:
    widest = np.abs(weights).max(1) / largest
    best, least = np.array(widest), np.full(len(weights), np.inf)
    for clip in _CLIPS:
        step = widest * clip
        error = ((weights - step[:, None] * grid_levels(weights, step[:, None], largest)) ** 2).sum(1)
        best, least = np.where(error < least, step, best), np.minimum(error, least)
    return best


def _ternary_step(weights: np.ndarray) -> np.ndarray:
    """The mean of the k largest sizes of each row, k that of the least squared error: the one with the greatest ``sum**2 / k``."""
    sums = np.cumsum(-np.sort(-np.abs(weights), 1), 1)
    number = np.arange(1, weights.shape[1] + 1)
    best = np.argmax(sums**2 / number, 1)
    return np.asarray(sums[np.arange(len(weights)), best] / number[best])


def _rounded_up(step: np.ndarray) -> np.ndarray:
    """The next number of `_STEP_BITS` significant bits."""
    mantissa, exponent = np.frexp(step)
    rounded: np.ndarray = np.ldexp(np.ceil(mantissa * 2**_STEP_BITS) / 2**_STEP_BITS, exponent)
    return rounded
