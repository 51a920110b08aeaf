"""Convolutions and linear layers read through ADCs, one conversion per column of every crossbar.

Mapping: one crossbar for each kernel position (r, s) and each block of ``rows`` input channels of a group (the last may be
partial); its columns are the output channels of every slice m (a bit slice, or one sign of one). With the effective weights W_m, in the
units of the output, and the factors f_m::

    partial[m, b, r, s] = sum over c in block b of W_m[k, c, r, s] * x[c, p * stride + r * dilation - padding, ...]
    code = round(min(max(partial / step, low), high))                  halves to even
    out[k, p, q] = step * sum over m of f_m * sum over b, r, s of code

``partial`` and ``partial * (1 / step)`` are float32; codes and their sums are whole (exact below 2^24). Without an ADC this is the
plain convolution with the weights sum over m of f_m W_m.

The gradient goes straight through the ADCs: it is that of the plain convolution.

Speed: pixels are taken in chunks whose partial sums stay in the cache; per kernel position one copy, then for each block one
matrix product into a reused buffer and one pass that scales, clamps, rounds and adds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from spikeloom.errors import NetworkError

Pair = tuple[int, int]

#: Adding and subtracting 3 * 2^22 rounds a float32 below 2^22 to the nearest whole number, halves to even.
_ROUNDS = np.float32(3 * 2**22)
#: Partial sums in flight: half a megabyte of float32.
_CHUNK = 1 << 17


@dataclass(frozen=True, kw_only=True)
class Adc:
    """A converter: codes low..high, each ``step`` wide in the units of the partial sum.

    Raises:
        NetworkError: a step that is not above 0, no codes, or codes of 2^22 and more.
    """

    step: float
    low: int
    high: int

    def __post_init__(self) -> None:
        if not (0 < self.step < float("inf")):
            raise NetworkError(f"adc: a step of {self.step}; expected a finite number above 0")
        if not -(2**22) < self.low <= 0 < self.high < 2**22:
            raise NetworkError(f"adc: codes {self.low}..{self.high}; expected low <= 0 < high, below 2^22 in size")

    @classmethod
    def unipolar(cls, bits: int, full_scale: float) -> Adc:
        """Codes 0..2^bits - 1 over 0..full_scale."""
        return cls(step=full_scale / (2**bits - 1), low=0, high=2**bits - 1)

    @classmethod
    def bipolar(cls, bits: int, full_scale: float) -> Adc:
        """Codes -(2^(bits-1) - 1)..2^(bits-1) - 1 over -full_scale..full_scale, for the difference of a pair; bits >= 2."""
        most = 2 ** (bits - 1) - 1
        return cls(step=full_scale / max(most, 1), low=-most, high=most)


def adc_conv2d(
    input_NCHW: Tensor,
    weight_MKCRS: Tensor,
    factors: Sequence[float],
    *,
    rows: int,
    adc: Adc | None,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> Tensor:
    """A convolution on crossbars of ``rows`` rows, by the equations of the module's text; float32, on the CPU.

    Args:
        input_NCHW: spikes, levels or other values on the rows.
        weight_MKCRS: effective weights of M slices; C counts the channels of one group.
        factors: the weight of each slice in the sum, M numbers (such as 1, 2, 4 and -1, -2, -4).
        rows: of one crossbar.
        adc: None for no conversion.
        stride, padding, dilation, groups: as in torch's conv2d.

    Returns:
        (N, K, P, Q), without a bias.

    Raises:
        NetworkError: shapes that do not fit together.
    """
    _check(input_NCHW, weight_MKCRS, factors, rows, groups)
    place = (stride, padding, dilation, groups)
    if adc is None:
        return functional.conv2d(input_NCHW, _summed(weight_MKCRS, factors), None, *place)
    through: Tensor = _ThroughAdcs.apply(input_NCHW, weight_MKCRS, tuple(factors), rows, adc, place)  # type: ignore[no-untyped-call]
    return through


def adc_linear(input_NC: Tensor, weight_MKC: Tensor, factors: Sequence[float], *, rows: int, adc: Adc | None) -> Tensor:
    """A linear layer on crossbars, (N, C) to (N, K): `adc_conv2d` of one pixel."""
    if weight_MKC.ndim != 3 or input_NC.ndim != 2:
        raise NetworkError(
            f"adc: an input of shape {tuple(input_NC.shape)} and weights {tuple(weight_MKC.shape)}; expected (N, C) and (M, K, C)"
        )
    if adc is None:
        _check(input_NC[:, :, None, None], weight_MKC[..., None, None], factors, rows, 1)
        return functional.linear(input_NC, _summed(weight_MKC, factors))
    pixel = adc_conv2d(input_NC[:, :, None, None], weight_MKC[..., None, None], factors, rows=rows, adc=adc)
    return pixel[:, :, 0, 0]


class _ThroughAdcs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input_NCHW: Tensor,
        weight_MKCRS: Tensor,
        factors: tuple[float, ...],
        rows: int,
        adc: Adc,
        place: tuple[Pair, Pair, Pair, int],
    ) -> Tensor:
        ctx.save_for_backward(input_NCHW, weight_MKCRS)
        ctx.factors, ctx.place = factors, place
        return _convert_conv2d(input_NCHW, weight_MKCRS, factors, rows, adc, place)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        input_NCHW, weight_MKCRS = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.place
        grad_input, grad_weight, _ = torch.ops.aten.convolution_backward(
            grads[0],
            input_NCHW,
            _summed(weight_MKCRS, ctx.factors),
            None,
            stride,
            padding,
            dilation,
            False,
            (0, 0),
            groups,
            (ctx.needs_input_grad[0], ctx.needs_input_grad[1], False),
        )
        if grad_weight is not None:
            grad_weight = torch.stack([factor * grad_weight for factor in ctx.factors])
        return grad_input, grad_weight, None, None, None, None


def _summed(weight_M: Tensor, factors: Sequence[float]) -> Tensor:
    """The weights that all slices make together."""
    whole = factors[0] * weight_M[0]
    for factor, weight in zip(factors[1:], weight_M[1:], strict=True):
        whole = whole + factor * weight
    return whole


def _check(input_NCHW: Tensor, weight_MKCRS: Tensor, factors: Sequence[float], rows: int, groups: int) -> None:
    shapes = f"an input of shape {tuple(input_NCHW.shape)} and weights {tuple(weight_MKCRS.shape)}"
    if input_NCHW.ndim != 4 or weight_MKCRS.ndim != 5:
        raise NetworkError(f"adc: {shapes}; expected (N, C, H, W) and (M, K, C, R, S)")
    M, K, C = weight_MKCRS.shape[:3]
    if groups < 1 or input_NCHW.shape[1] != C * groups or K % groups:
        raise NetworkError(
            f"adc: {shapes} in {groups} groups do not fit together; expected channels C * groups, K a multiple"
        )
    if len(factors) != M or M == 0:
        raise NetworkError(f"adc: {len(factors)} factors of {M} slices; expected one each, at least one")
    if rows < 1:
        raise NetworkError(f"adc: crossbars of {rows} rows; expected 1 or more")
    if any(part.dtype != torch.float32 or part.device.type != "cpu" for part in (input_NCHW, weight_MKCRS)):
        raise NetworkError(
            f"adc: {input_NCHW.dtype} on {input_NCHW.device}, weights {weight_MKCRS.dtype}; expected float32 on the CPU"
        )


def _convert_conv2d(
    input_NCHW: Tensor,
    weight_MKCRS: Tensor,
    factors: tuple[float, ...],
    rows: int,
    adc: Adc,
    place: tuple[Pair, Pair, Pair, int],
) -> Tensor:
    """The forward pass, group by group."""
    stride, padding, dilation, groups = place
    M, K, C, R, S = weight_MKCRS.shape
    padded_NHWC = functional.pad(
        input_NCHW.permute(0, 2, 3, 1), (0, 0, padding[1], padding[1], padding[0], padding[0])
    ).contiguous()
    N, H, W, _ = padded_NHWC.shape
    P = (H - dilation[0] * (R - 1) - 1) // stride[0] + 1
    Q = (W - dilation[1] * (S - 1) - 1) // stride[1] + 1
    if P < 1 or Q < 1:
        raise NetworkError(
            f"adc: a kernel of {R}x{S} on a padded input of {H}x{W}; expected one no larger than its input"
        )
    # (R, S, groups, C, M * K of the group): columns of the crossbars side by side
    columns = weight_MKCRS.reshape(M, groups, K // groups, C, R, S).permute(4, 5, 1, 3, 0, 2)
    columns = columns.reshape(R, S, groups, C, M * (K // groups)).contiguous()
    out = torch.zeros(N * P, Q, groups, K // groups)
    scale = np.asarray(factors, np.float32)
    inverse, low, high = np.float32(1 / adc.step), np.float32(adc.low), np.float32(adc.high)
    for lines in _chunks(N * P, Q * M * (K // groups)):
        sums = torch.zeros(groups, len(lines) * Q, K // groups)
        partial = torch.empty(len(lines) * Q, M * (K // groups))
        taken = torch.empty(len(lines), Q, padded_NHWC.shape[3])
        image = torch.tensor([line // P for line in lines])
        top = torch.tensor([line % P * stride[0] for line in lines])
        for r in range(R):
            window = padded_NHWC[image, top + r * dilation[0]]
            for s in range(S):
                start = s * dilation[1]
                taken.copy_(window[:, start : start + (Q - 1) * stride[1] + 1 : stride[1]])
                rows_PC = taken.view(len(lines) * Q, -1)
                for g in range(groups):
                    for first in range(0, C, rows):
                        last = min(first + rows, C)
                        torch.mm(rows_PC[:, g * C + first : g * C + last], columns[r, s, g, first:last], out=partial)
                        _convert(partial.numpy(), scale, inverse, low, high, sums[g].numpy())
        out[lines.start : lines.stop] = sums.view(groups, len(lines), Q, K // groups).permute(1, 2, 0, 3)
    return (out.view(N, P, Q, K) * adc.step).permute(0, 3, 1, 2).contiguous()


def _chunks(lines: int, numbers: int) -> Iterator[range]:
    """Ranges of output lines of ``numbers`` partial sums each that fit the cache, at least one line each."""
    each = max(1, _CHUNK // numbers)
    for start in range(0, lines, each):
        yield range(start, min(start + each, lines))


@njit(cache=True, nogil=True, error_model="numpy")
def _convert(
    partial_PMK: NDArray[np.float32],
    factors: NDArray[np.float32],
    inverse: np.float32,
    low: np.float32,
    high: np.float32,
    sums_PK: NDArray[np.float32],
) -> None:
    """Add the codes of one crossbar's columns times their factors."""
    P, K = sums_PK.shape
    for p in range(P):
        line = sums_PK[p]
        for m in range(len(factors)):
            factor = factors[m]
            partial = partial_PMK[p, m * K : (m + 1) * K]
            for k in range(K):
                value = min(max(partial[k] * inverse, low), high)
                line[k] += factor * ((value + _ROUNDS) - _ROUNDS)
