"""Surrogate gradients: what stands for the derivative of the spike, which has none.

Forward a neuron fires with ``spike = [v >= v_threshold]``; backward the step gets the slope of a smooth one,
``d spike / d v := density(v - v_threshold)``. Every density here integrates to 1, so the smooth step it belongs to has the
height of the real one, and ``sharpness`` (1 / unit of the membrane) says how narrow it is. Neurons divide the sharpness by
their threshold, which makes training independent of the scale of the membrane.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from spikeloom.errors import NetworkError

_HALF_PI = math.pi / 2


@dataclass(frozen=True)
class Surrogate:
    """One surrogate gradient.

    name: the word a configuration uses.
    code: number by which the compiled kernel knows it.
    sharpness: 1 / width of the density at threshold 1.
    density: (distance to the threshold, sharpness: a number, or a tensor of one for each neuron) -> slope; element by element.
    """

    name: str
    code: int
    sharpness: float
    density: Callable[[Tensor, Any], Tensor]


def atan(distance: Tensor, sharpness: float) -> Tensor:
    """``(a/2) / (1 + (pi/2 * a * x)**2)`` (Fang et al., ICCV 2021)."""
    scaled = distance * (_HALF_PI * sharpness)
    return (sharpness / 2) / (1 + scaled * scaled)


def fast_sigmoid(distance: Tensor, sharpness: float) -> Tensor:
    """``(a/2) / (1 + a*|x|)**2`` (Zenke and Ganguli, Neural Computation 2018), scaled to integrate to 1."""
    scaled = 1 + distance.abs() * sharpness
    return (sharpness / 2) / (scaled * scaled)


def triangle(distance: Tensor, sharpness: float) -> Tensor:
    """``a * max(0, 1 - a*|x|)`` (Esser et al., PNAS 2016)."""
    return (1 - distance.abs() * sharpness).clamp(min=0) * sharpness


def rectangle(distance: Tensor, sharpness: float) -> Tensor:
    """``a`` where ``|x| < 1/(2a)``, else 0 (Wu et al., Frontiers in Neuroscience 2018)."""
    return (distance.abs() * sharpness < 0.5).to(distance.dtype) * sharpness


#: Every surrogate by the name a configuration uses.
SURROGATES: Mapping[str, Surrogate] = {
    "atan": Surrogate("atan", 0, 2.0, atan),
    "fast_sigmoid": Surrogate("fast_sigmoid", 1, 2.0, fast_sigmoid),
    "triangle": Surrogate("triangle", 2, 1.0, triangle),
    "rectangle": Surrogate("rectangle", 3, 1.0, rectangle),
}


def surrogate(name: str, sharpness: float | None = None) -> Surrogate:
    """The surrogate called ``name``, with another ``sharpness`` if one is given.

    Raises:
        NetworkError: unknown name, or a sharpness that is not positive.
    """
    if name not in SURROGATES:
        raise NetworkError(f"unknown surrogate '{name}', expected one of {', '.join(SURROGATES)}")
    found = SURROGATES[name]
    if sharpness is None:
        return found
    if not sharpness > 0:
        raise NetworkError(f"surrogate '{name}' got sharpness {sharpness}, expected a positive number")
    return replace(found, sharpness=float(sharpness))


class SurrogateStep(torch.autograd.Function):
    """``[v >= v_threshold]`` (strict: ``>``) forward, the density times the incoming gradient backward."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, v_threshold: float | Tensor, strict: bool, kind: Surrogate) -> Tensor:
        """Spikes as 0.0 / 1.0 in the dtype and shape of ``v``."""
        ctx.save_for_backward(v)
        ctx.v_threshold, ctx.kind = v_threshold, kind
        fired = v > v_threshold if strict else v >= v_threshold
        return fired.to(v.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        """Gradient with respect to ``v``; the other arguments are constants."""
        (v,) = ctx.saved_tensors
        slope = ctx.kind.density(v - ctx.v_threshold, ctx.kind.sharpness / ctx.v_threshold)
        return grads[0] * slope, None, None, None
