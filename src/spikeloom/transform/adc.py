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

Speed: where few inputs are not zero (spikes), their weights are added up pixel by pixel in the cache. Otherwise pixels are taken in
chunks whose partial sums stay there: one matrix product into a reused buffer for each crossbar and slice. Either way one pass scales,
clamps, rounds and adds. On whole numbers both agree to the bit; else sums of float32 may round differently.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
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
#: Stride, padding, dilation and groups.
Place = tuple[Pair, Pair, Pair, int]
Floats = NDArray[np.float32]
#: 1 / step, lowest and highest code.
Limits = tuple[np.float32, np.float32, np.float32]

#: Adding and subtracting 3 * 2^22 rounds a float32 below 2^22 to the nearest whole number, halves to even.
_ROUNDS = np.float32(3 * 2**22)
#: Partial sums in flight (a megabyte), and columns of one matrix product at most.
_CHUNK = 1 << 18
_TILE = 256
#: Inputs of which a smaller part is not zero are cheaper event by event.
_SPARSE = 0.3


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
        weight_MKCRS: effective weights of M slices; C counts the channels of one group. Stored as by `laid_out` they are not copied.
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


class _ThroughAdcs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input_NCHW: Tensor, weight_MKCRS: Tensor, factors: Sequence[float], rows: int, adc: Adc, place: Place
    ) -> Tensor:
        ctx.save_for_backward(input_NCHW, weight_MKCRS)
        ctx.factors, ctx.place = factors, place
        return _convert_conv2d(input_NCHW, weight_MKCRS, factors, rows, adc, place)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        input_NCHW, weight_MKCRS = ctx.saved_tensors
        weight, wanted = _summed(weight_MKCRS, ctx.factors), (*ctx.needs_input_grad[:2], False)
        *place, groups = ctx.place
        grad_input, grad_weight, _ = torch.ops.aten.convolution_backward(
            grads[0], input_NCHW, weight, None, *place, False, (0, 0), groups, wanted
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


def laid_out(weight_MKCRS: Tensor) -> Tensor:
    """The same weights stored in the order in which they are used, so that repeated calls need not copy them."""
    return weight_MKCRS.permute(0, 3, 4, 2, 1).contiguous().permute(0, 4, 3, 1, 2)


def _convert_conv2d(
    input_NCHW: Tensor, weight_MKCRS: Tensor, factors: Sequence[float], rows: int, adc: Adc, place: Place
) -> Tensor:
    """The forward pass: inputs of which few are not zero event by event, others by matrix products."""
    stride, padding, dilation, groups = place
    columns = weight_MKCRS.permute(0, 3, 4, 2, 1).contiguous()  # (M, R, S, C, K): columns of the crossbars
    input_NHWC = input_NCHW.permute(0, 2, 3, 1).contiguous()
    (N, H, W, _), (_, R, S, _, K) = input_NHWC.shape, columns.shape
    P = (H + 2 * padding[0] - dilation[0] * (R - 1) - 1) // stride[0] + 1
    Q = (W + 2 * padding[1] - dilation[1] * (S - 1) - 1) // stride[1] + 1
    if P < 1 or Q < 1:
        raise NetworkError(
            f"adc: a kernel of {R}x{S} on an input of {H}x{W}, padding {padding}; expected one that fits"
        )
    scale = np.asarray(factors, np.float32)
    limits = (np.float32(1 / adc.step), np.float32(adc.low), np.float32(adc.high))
    out = torch.zeros(N * P, Q, K)
    by_events = np.count_nonzero(input_NHWC.numpy() != 0) < _SPARSE * input_NHWC.numel()
    through = _by_events if by_events else _by_products
    through(input_NHWC, columns, scale, limits, rows, (stride, padding, dilation, groups), out.view(N, P, Q, K))
    out *= adc.step
    return out.view(N, P, Q, K).permute(0, 3, 1, 2)


def _by_products(
    input_NHWC: Tensor, columns: Tensor, scale: Floats, limits: Limits, rows: int, place: Place, out_NPQK: Tensor
) -> None:
    """One matrix product and one pass per crossbar and slice, over chunks of output lines."""
    (stride_h, stride_w), padding, (dilation_h, dilation_w), groups = place
    (N, P, Q, K), (M, R, S, C, _) = out_NPQK.shape, columns.shape
    padded_NHWC = functional.pad(input_NHWC, (0, 0, padding[1], padding[1], padding[0], padding[0]))
    tile = min(K // groups, _TILE)
    # of a chunk: images, lines of each
    images, high = max(1, _CHUNK // (P * Q * tile)), min(P, max(1, _CHUNK // (Q * tile)))
    for n, p in itertools.product(range(0, N, images), range(0, P, high)):
        lines_NPQK = out_NPQK[n : n + images, p : p + high]
        sums_PK = lines_NPQK.view(-1, K)
        partial = torch.empty(len(sums_PK) * tile)
        for r, s in itertools.product(range(R), range(S)):
            top, left = p * stride_h + r * dilation_h, s * dilation_w
            down = slice(top, top + (lines_NPQK.shape[1] - 1) * stride_h + 1, stride_h)
            across = slice(left, left + (Q - 1) * stride_w + 1, stride_w)
            taken_PC = padded_NHWC[n : n + images, down, across].reshape(-1, groups * C)
            for g, first in itertools.product(range(groups), range(0, C, rows)):
                last, end = min(first + rows, C), (g + 1) * K // groups
                inputs = taken_PC[:, g * C + first : g * C + last]
                for k in range(g * K // groups, end, tile):
                    upto = min(k + tile, end)
                    part = partial[: len(sums_PK) * (upto - k)].view(-1, upto - k)
                    line = (1, -1) if upto - k == K else (len(sums_PK), -1)  # all columns: one long line
                    codes, sums = part.view(line).numpy(), sums_PK.view(line).numpy()
                    for m in range(M):
                        torch.mm(inputs, columns[m, r, s, first:last, k:upto], out=part)
                        _convert(codes, scale[m], limits, sums, k)


def _by_events(
    input_NHWC: Tensor, columns: Tensor, scale: Floats, limits: Limits, rows: int, place: Place, out_NPQK: Tensor
) -> None:
    """Only what is not zero: its weights are added up in the cache, threads sharing the output lines."""
    (N, P, Q, K), (H, W) = out_NPQK.shape, input_NHWC.shape[1:3]
    pixels_PGC = input_NHWC.numpy().reshape(-1, place[3], columns.shape[3])
    events = _events(pixels_PGC, rows)
    lines_LQK = out_NPQK.view(N * P, Q, K).numpy()
    threads = torch.get_num_threads()
    each = max(1, min(_CHUNK // (Q * K), -(-N * P // threads)))
    sizes = (H, W, P, *place[0], *place[1], *place[2])

    def convert(start: int) -> None:
        lines = lines_LQK[start : start + each]
        _convert_events(
            *events, columns.numpy(), scale, limits, sizes, start, lines, np.empty(K // place[3], np.float32)
        )

    starts = range(0, N * P, each)
    if threads == 1 or len(starts) == 1:
        for start in starts:
            convert(start)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(convert, starts))


@njit(cache=True, nogil=True, error_model="numpy")
def _events(pixels_PGC: Floats, rows: int) -> tuple[NDArray[np.int64], NDArray[np.int32], Floats]:
    """Channels and values that are not zero, and where those of each (pixel, group, block) begin; one more block ends the last."""
    pixels, groups, C = pixels_PGC.shape
    begin = np.empty((pixels, groups, -(-C // rows) + 1), np.int64)
    channel, value = np.empty(pixels_PGC.size + 1, np.int32), np.empty(pixels_PGC.size + 1, np.float32)
    seen = 0
    for p in range(pixels):
        for g in range(groups):
            for block in range(begin.shape[2] - 1):
                begin[p, g, block] = seen
                for c in range(block * rows, min(block * rows + rows, C)):
                    channel[seen], value[seen] = c, pixels_PGC[p, g, c]  # overwritten by the next one if zero
                    seen += pixels_PGC[p, g, c] != 0
            begin[p, g, -1] = seen
    return begin, channel, value


@njit(cache=True, nogil=True, error_model="numpy")
def _convert_events(
    begin: NDArray[np.int64],
    channel: NDArray[np.int32],
    value: Floats,
    columns_MRSCK: Floats,
    scale: Floats,
    limits: Limits,
    sizes: tuple[int, ...],
    start: int,
    lines_LQK: Floats,
    partial_K: Floats,
) -> None:
    """Output lines from ``start`` on. A crossbar without an event reads 0 and is passed over."""
    H, W, P, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w = sizes
    M, R, S, _, K = columns_MRSCK.shape
    _, groups, ends = begin.shape
    each = K // groups
    for crossbar in range(M * R * S * groups * (ends - 1)):
        rest, block = divmod(crossbar, ends - 1)
        rest, g = divmod(rest, groups)
        rest, s = divmod(rest, S)
        m, r = divmod(rest, R)
        weights_CK = columns_MRSCK[m, r, s]
        for line in range(len(lines_LQK)):
            n, p = divmod(start + line, P)
            h = p * stride_h + r * dilation_h - padding_h
            if h < 0 or h >= H:
                continue
            for q in range(lines_LQK.shape[1]):
                w = q * stride_w + s * dilation_w - padding_w
                if w < 0 or w >= W:
                    continue
                pixel = (n * H + h) * W + w
                first, last = begin[pixel, g, block], begin[pixel, g, block + 1]
                if first < last:
                    _add_up(channel[first:last], value[first:last], weights_CK, g * each, partial_K)
                    _convert_line(partial_K, scale[m], limits, lines_LQK[line, q, g * each : (g + 1) * each])


@njit(cache=True, nogil=True, error_model="numpy")
def _add_up(channel: NDArray[np.int32], value: Floats, weights_CK: Floats, k0: int, partial_K: Floats) -> None:
    """The weighted sum of some rows, in their order; four at a time to spare the partial sums."""
    K = len(partial_K)
    odd = len(channel) % 4
    for k in range(K):
        partial_K[k] = 0
    for e in range(odd):
        a, line = value[e], weights_CK[channel[e], k0 : k0 + K]
        for k in range(K):
            partial_K[k] += a * line[k]
    for e in range(odd, len(channel), 4):
        a, b, c, d = value[e], value[e + 1], value[e + 2], value[e + 3]
        line_a, line_b = weights_CK[channel[e], k0 : k0 + K], weights_CK[channel[e + 1], k0 : k0 + K]
        line_c, line_d = weights_CK[channel[e + 2], k0 : k0 + K], weights_CK[channel[e + 3], k0 : k0 + K]
        for k in range(K):
            partial_K[k] = (((partial_K[k] + a * line_a[k]) + b * line_b[k]) + c * line_c[k]) + d * line_d[k]


@njit(cache=True, nogil=True, error_model="numpy")
def _convert_line(partial_K: Floats, factor: np.float32, limits: Limits, sums_K: Floats) -> None:
    """Add the codes of one pixel times their factor."""
    inverse, low, high = limits
    for k in range(len(sums_K)):
        level = min(max(partial_K[k] * inverse, low), high)
        sums_K[k] += factor * ((level + _ROUNDS) - _ROUNDS)


@njit(cache=True, nogil=True, error_model="numpy")
def _convert(partial_PK: Floats, factor: np.float32, limits: Limits, sums_PK: Floats, k: int) -> None:
    """Add the codes of one crossbar's columns, the k-th and on, times their factor."""
    for p in range(len(sums_PK)):
        _convert_line(partial_PK[p], factor, limits, sums_PK[p, k : k + partial_PK.shape[1]])
