"""The spiking neuron in one pass per layer: forward and backward walk T inside a compiled loop.

Equal to `spikeloom.snn.neurons.spike_loop` in spikes bit for bit and in gradients up to rounding, at a fraction of the time and
memory: nothing is kept for the backward pass but the incoming sums, from which the membrane is computed again (one read of
memory either way, and the membrane is exact although the sums may be bfloat16). The work is cut into chunks of neurons whose
membranes stay in the first-level cache. Letters: T time steps, M neurons times samples, in physical memory order.

bfloat16 reaches the kernels as its upper 16 bits of a float32 (uint16), since NumPy has no such type.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable

from spikeloom.snn.neurons import Dynamics, spike_loop
from spikeloom.snn.surrogate import Surrogate

_HALF_PI = math.pi / 2
_RESETS = {"hard": 0, "soft": 1, "none": 2}
_CHUNK = 2048  # neurons whose membranes (8 KiB) stay in the first-level cache
_CHUNK_STEPS = 32768  # chunk * T of the backward pass: 128 KiB of membranes stay in the second-level cache
_SLICE = 1 << 16  # below this many sums per thread, starting one costs more than it saves


@njit(cache=True, nogil=True, error_model="numpy")
def fill_density(code: int, sharpness: np.float32, distance: np.ndarray, slope: np.ndarray) -> None:
    """The densities of `spikeloom.snn.surrogate` by their code; one loop each so that each becomes SIMD code."""
    one = np.float32(1)
    half_peak = sharpness / np.float32(2)
    if code == 0:
        stretch = np.float32(_HALF_PI) * sharpness
        for i in range(distance.size):
            scaled = distance[i] * stretch
            slope[i] = half_peak / (one + scaled * scaled)
    elif code == 1:
        for i in range(distance.size):
            scaled = one + abs(distance[i]) * sharpness
            slope[i] = half_peak / (scaled * scaled)
    elif code == 2:
        for i in range(distance.size):
            slope[i] = max(one - abs(distance[i]) * sharpness, np.float32(0)) * sharpness
    else:
        for i in range(distance.size):
            slope[i] = sharpness if abs(distance[i]) * sharpness < np.float32(0.5) else np.float32(0)


@njit(cache=True, nogil=True, error_model="numpy")
def _load(source: np.ndarray, half: bool, row: np.ndarray, bits: np.ndarray) -> None:
    """Read the sums of one step of a chunk, all of shape (chunk,); ``bits`` is ``row`` seen as uint32."""
    if half:
        for i in range(row.size):
            bits[i] = np.uint32(source[i]) << np.uint32(16)
    else:
        for i in range(row.size):
            row[i] = source[i]


@njit(cache=True, nogil=True, error_model="numpy")
def _store(row: np.ndarray, bits: np.ndarray, half: bool, target: np.ndarray) -> None:
    """Write ``row`` to one step of a chunk, rounding to the nearest even bfloat16 when ``half``."""
    if half:
        for i in range(row.size):
            word = bits[i]
            rounded = (word + np.uint32(0x7FFF) + ((word >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
            # Rounding up the payload of a NaN could turn it into a number.
            target[i] = np.uint32(0x7FC0) if row[i] != row[i] else rounded
    else:
        for i in range(row.size):
            target[i] = row[i]


@njit(cache=True, nogil=True, error_model="numpy")
def _advance(
    u: np.ndarray, v: np.ndarray, x: np.ndarray, kept: np.float32, theta: np.float32, reset: int, strict: bool
) -> None:
    """``v = kept*u + x`` and the membrane after the reset into ``u``, for one chunk and step."""
    zero = np.float32(0)
    # v > theta is v >= the next float above theta, which keeps one loop below.
    theta_fire = np.nextafter(theta, np.float32(np.inf)) if strict else theta
    if reset == 0:
        for i in range(v.size):
            v[i] = kept * u[i] + x[i]
            u[i] = zero if v[i] >= theta_fire else v[i]
    elif reset == 1:
        for i in range(v.size):
            v[i] = kept * u[i] + x[i]
            u[i] = v[i] - theta if v[i] >= theta_fire else v[i]
    else:
        for i in range(v.size):
            v[i] = kept * u[i] + x[i]
            u[i] = v[i]


@njit(cache=True, nogil=True, error_model="numpy")
def _forward(
    x: np.ndarray,
    spikes: np.ndarray,
    start: int,
    stop: int,
    kept: np.float32,
    theta: np.float32,
    v_init: np.float32,
    reset: int,
    strict: bool,
    half: bool,
) -> None:
    """Spikes (T, M) of neurons start..stop from sums (T, M), or (1, M) when they are the same at every step."""
    num_steps = spikes.shape[0]
    constant = x.shape[0] == 1
    one = 0x3F80 if half else 1
    theta_fire = np.nextafter(theta, np.float32(np.inf)) if strict else theta
    u_all = np.empty(_CHUNK, np.float32)
    v_all = np.empty(_CHUNK, np.float32)
    bits_all = np.empty(_CHUNK, np.uint32)
    row_all = bits_all.view(np.float32)
    for first in range(start, stop, _CHUNK):
        size = min(_CHUNK, stop - first)
        u, v, row, bits = u_all[:size], v_all[:size], row_all[:size], bits_all[:size]
        u[:] = v_init
        for t in range(num_steps):
            if t == 0 or not constant:
                _load(x[t, first : first + size], half, row, bits)
            _advance(u, v, row, kept, theta, reset, strict)
            fired = spikes[t, first : first + size]
            for i in range(size):
                fired[i] = one if v[i] >= theta_fire else 0


@njit(cache=True, nogil=True, error_model="numpy")
def _backward(
    x: np.ndarray,
    grad_spikes: np.ndarray,
    grad_x: np.ndarray,
    start: int,
    stop: int,
    kept: np.float32,
    theta: np.float32,
    v_init: np.float32,
    reset: int,
    strict: bool,
    half: bool,
    code: int,
    sharpness: np.float32,
    detach_reset: bool,
) -> None:
    """Gradient of the sums, walking T backwards with the membranes recomputed.

    With gu = dL/du, gv = dL/dv, d = density(v - theta): gu[t] = kept * gv[t+1] and
    hard: gv = gu*(1-s) + (gs - gu*v)*d;  soft: gv = gu + (gs - theta*gu)*d;  none: gv = gu + gs*d;
    with a detached reset the bracket is gs alone. grad_x = gv, summed over T when the sums are constant.
    """
    num_steps = grad_spikes.shape[0]
    constant = x.shape[0] == 1
    zero = np.float32(0)
    theta_fire = np.nextafter(theta, np.float32(np.inf)) if strict else theta
    chunk = max(64, min(_CHUNK, _CHUNK_STEPS // num_steps))
    v_all = np.empty((num_steps, chunk), np.float32)
    scratch = np.empty((4, chunk), np.float32)
    u_all, gv_all, slope_all, total_all = scratch[0], scratch[1], scratch[2], scratch[3]
    bits_all = np.empty(chunk, np.uint32)
    row_all = bits_all.view(np.float32)
    for first in range(start, stop, chunk):
        size = min(chunk, stop - first)
        u, gv, slope, total = u_all[:size], gv_all[:size], slope_all[:size], total_all[:size]
        row, bits = row_all[:size], bits_all[:size]
        u[:] = v_init
        for t in range(num_steps):
            if t == 0 or not constant:
                _load(x[t, first : first + size], half, row, bits)
            _advance(u, v_all[t, :size], row, kept, theta, reset, strict)
        gv[:] = zero
        total[:] = zero
        for t in range(num_steps - 1, -1, -1):
            v = v_all[t, :size]
            _load(grad_spikes[t, first : first + size], half, row, bits)
            for i in range(size):
                u[i] = v[i] - theta
            fill_density(code, sharpness, u, slope)
            if reset == 0:
                for i in range(size):
                    gu = kept * gv[i]
                    blame = row[i] if detach_reset else row[i] - gu * v[i]
                    gv[i] = (zero if v[i] >= theta_fire else gu) + blame * slope[i]
            elif reset == 1:
                for i in range(size):
                    gu = kept * gv[i]
                    blame = row[i] if detach_reset else row[i] - gu * theta
                    gv[i] = gu + blame * slope[i]
            else:
                for i in range(size):
                    gv[i] = kept * gv[i] + row[i] * slope[i]
            if constant:
                for i in range(size):
                    total[i] += gv[i]
            else:
                for i in range(size):
                    row[i] = gv[i]
                _store(row, bits, half, grad_x[t, first : first + size])
        if constant:
            for i in range(size):
                row[i] = total[i]
            _store(row, bits, half, grad_x[0, first : first + size])


@lru_cache(maxsize=1)
def _threads(number: int) -> ThreadPoolExecutor:
    """Waiting threads for the kernels. Not numba's own: an OpenMP pool beside torch's spins on the cores torch needs."""
    return ThreadPoolExecutor(number, thread_name_prefix="spikeloom-neurons")


if sys.platform != "win32":
    # Threads do not survive a fork, but a child would believe it has them.
    os.register_at_fork(after_in_child=_threads.cache_clear)


def _in_slices(kernel: Any, num_neurons: int, num_steps: int, *args: Any) -> None:
    """Run ``kernel(*arrays, start, stop, *constants)`` over all neurons on as many threads as torch may use."""
    number = min(torch.get_num_threads(), max(1, num_neurons * num_steps // _SLICE))
    arrays = [a for a in args if isinstance(a, np.ndarray)]
    constants = [a for a in args if not isinstance(a, np.ndarray)]
    if number == 1:
        kernel(*arrays, 0, num_neurons, *constants)
        return
    # Slices begin at multiples of 64 elements so that two threads never write the same cache line.
    edges = [round(num_neurons * i / number / 64) * 64 for i in range(number)] + [num_neurons]
    submit: Callable[..., Future[None]] = _threads(torch.get_num_threads()).submit
    running = [submit(kernel, *arrays, edges[i], edges[i + 1], *constants) for i in range(number - 1)]
    kernel(*arrays, edges[-2], edges[-1], *constants)
    for job in running:
        job.result()


def _dense(x: Tensor) -> Tensor:
    """``x`` itself if its memory has no gaps in row-major or channels-last order, else a row-major copy."""
    if x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)):
        return x
    return x.contiguous()


def _rows(x: Tensor, num_rows: int) -> np.ndarray:
    """A (num_rows, M) array on the memory of a dense tensor, in physical order."""
    if not x.is_contiguous():
        x = x.permute(0, 2, 3, 1)
    if x.dtype == torch.bfloat16:
        x = x.view(torch.uint16)
    rows: np.ndarray = x.reshape(num_rows, -1).numpy()
    return rows


class FusedSpikes(torch.autograd.Function):
    """Spikes of a whole layer over all steps; see `spikes_of`."""

    @staticmethod
    def forward(ctx: Any, psum: Tensor, num_steps: int, constant: bool, dynamics: Dynamics, kind: Surrogate) -> Tensor:
        """``psum`` (T*N, *shape), or (N, *shape) when constant, to spikes (T*N, *shape) of the same dtype."""
        psum = _dense(psum)
        ctx.save_for_backward(psum)
        ctx.num_steps, ctx.constant, ctx.dynamics, ctx.kind = num_steps, constant, dynamics, kind
        num_frames = psum.shape[0] * num_steps if constant else psum.shape[0]
        layout = torch.contiguous_format if psum.is_contiguous() else torch.channels_last
        spikes = torch.empty((num_frames, *psum.shape[1:]), dtype=psum.dtype, memory_format=layout)
        spikes_TM = _rows(spikes, num_steps)
        _in_slices(
            _forward, spikes_TM.shape[1], num_steps, _rows(psum.detach(), 1 if constant else num_steps), spikes_TM,
            *_numbers(dynamics), psum.dtype == torch.bfloat16,
        )  # fmt: skip
        return spikes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient with respect to ``psum``."""
        (psum,) = ctx.saved_tensors
        layout = torch.contiguous_format if psum.is_contiguous() else torch.channels_last
        grad_spikes = grads[0].to(psum.dtype).contiguous(memory_format=layout)
        grad_psum = torch.empty_like(psum, memory_format=layout)
        num_rows = 1 if ctx.constant else ctx.num_steps
        grad_TM = _rows(grad_spikes, ctx.num_steps)
        sharpness = np.float32(ctx.kind.sharpness / ctx.dynamics.v_threshold)
        _in_slices(
            _backward, grad_TM.shape[1], ctx.num_steps, _rows(psum, num_rows), grad_TM, _rows(grad_psum, num_rows),
            *_numbers(ctx.dynamics), psum.dtype == torch.bfloat16, ctx.kind.code, sharpness, ctx.dynamics.detach_reset,
        )  # fmt: skip
        return grad_psum, None, None, None, None


def _numbers(dynamics: Dynamics) -> tuple[np.float32, np.float32, np.float32, int, bool]:
    """The dynamics as the kernels take them."""
    return (
        np.float32(dynamics.kept),
        np.float32(dynamics.v_threshold),
        np.float32(dynamics.v_init),
        _RESETS[dynamics.reset],
        dynamics.strict,
    )


def spikes_of(psum: Tensor, num_steps: int, constant: bool, dynamics: Dynamics, kind: Surrogate) -> Tensor:
    """Spikes of a layer: fused on the CPU in float32 and bfloat16, the reference loop elsewhere.

    Args:
        psum: shape (T*N, *shape) with T the slow index, or (N, *shape) when ``constant``: the same sums at every step.
        num_steps: T.
        constant: see ``psum``.
        dynamics: the neuron.
        kind: surrogate gradient.

    Returns:
        Spikes 0/1, shape (T*N, *shape), dtype and memory order of ``psum``.
    """
    if psum.device.type == "cpu" and psum.dtype in (torch.float32, torch.bfloat16) and psum.numel() > 0:
        spikes: Tensor = FusedSpikes.apply(psum, num_steps, constant, dynamics, kind)  # type: ignore[no-untyped-call]
        return spikes
    psum_TN = psum.expand(num_steps, *psum.shape) if constant else psum.reshape(num_steps, -1, *psum.shape[1:])
    return spike_loop(psum_TN, dynamics, kind).flatten(0, 1)
