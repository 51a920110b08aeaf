"""Kernels of `spikeloom.emulate`: a step of synapses, pools and neurons, event by event.

Letters: N samples, M neurons of a map in row-major order, C H W input map, K P Q output map, R S kernel, X = P Q output positions,
G filter groups, J = K / G filters of one group. Membranes are int64 in integer networks, else float64; one source serves both.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

RESETS = {"hard": 0, "soft": 1, "none": 2}


class Geometry(NamedTuple):
    """Extents of a synapse or pool; a linear layer has H = W = R = S = P = Q = 1, a conv1d H = R = P = 1."""

    C: int
    H: int
    W: int
    K: int
    P: int
    Q: int
    R: int = 1
    S: int = 1
    groups: int = 1
    stride_h: int = 1
    stride_w: int = 1
    pad_h: int = 0
    pad_w: int = 0
    dilation_h: int = 1
    dilation_w: int = 1


class Rule(NamedTuple):
    """What the neurons of one node do; the words are those of `spikeloom.core.nodes.Firing`.

    theta_M, v_reset_M: of the dtype of the membranes. reset: a value of RESETS. max_level: 0 for neurons that never spike.
    current: sums reach a synaptic current first. low, high, bounded, wrap: the word of an integer membrane.
    """

    theta_M: np.ndarray
    v_reset_M: np.ndarray
    reset: int
    strict: bool
    late: bool
    max_level: int
    signed: bool
    current: bool
    bounded: bool
    wrap: bool
    low: int
    high: int


@njit(cache=True, nogil=True, error_model="numpy")
def scatter(
    levels_NM: np.ndarray, weight_CRSJ: np.ndarray, g: Geometry, skip: bool, sums_NXK: np.ndarray, hits_NXG: np.ndarray
) -> bool:
    """Add what non-zero inputs send through their weights to ``sums_NXK``; silent inputs cost a look. True if there was any.

    hits_NXG: set where a spike arrives, one flag for each group (all its filters are reached alike), or with ``skip``, where a
        weight of 0 is no synapse, one for each filter.
    """
    each, J = g.C // g.groups, g.K // g.groups
    any_sent = False
    for n in range(levels_NM.shape[0]):
        for c in range(g.C):
            group = c // each
            first = group * J
            for h in range(g.H):
                for w in range(g.W):
                    level = levels_NM[n, (c * g.H + h) * g.W + w]
                    if level == 0:
                        continue
                    any_sent = True
                    for r in range(g.R):
                        p = h + g.pad_h - r * g.dilation_h
                        if p < 0 or p % g.stride_h != 0 or p // g.stride_h >= g.P:
                            continue
                        for s in range(g.S):
                            q = w + g.pad_w - s * g.dilation_w
                            if q < 0 or q % g.stride_w != 0 or q // g.stride_w >= g.Q:
                                continue
                            x = p // g.stride_h * g.Q + q // g.stride_w
                            sums_K = sums_NXK[n, x]
                            weight_J = weight_CRSJ[c, r, s]
                            for j in range(J):
                                sums_K[first + j] += weight_J[j] * level
                            if not skip:
                                hits_NXG[n, x, group] = 1
                                continue
                            for j in range(J):
                                if weight_J[j] != 0:
                                    hits_NXG[n, x, first + j] = 1
    return any_sent


@njit(cache=True, nogil=True, error_model="numpy")
def deliver(sums_NXK: np.ndarray, hits_NXG: np.ndarray, unit: float, x_NM: np.ndarray, hit_NM: np.ndarray) -> None:
    """Add the sums of a synapse, times the size of one level, to what reaches the neurons."""
    N, X, K = sums_NXK.shape
    J = K // hits_NXG.shape[2]
    for n in range(N):
        for k in range(K):
            for x in range(X):
                x_NM[n, k * X + x] += sums_NXK[n, x, k] * unit
                hit_NM[n, k * X + x] |= hits_NXG[n, x, k // J]


@njit(cache=True, nogil=True, error_model="numpy")
def deliver_levels(
    levels_NM: np.ndarray, hits_NM: np.ndarray, unit: float, x_NM: np.ndarray, hit_NM: np.ndarray
) -> None:
    """Add the levels of a pool or a sum, which has no weights, to what reaches the neurons."""
    for n in range(levels_NM.shape[0]):
        for i in range(levels_NM.shape[1]):
            x_NM[n, i] += levels_NM[n, i] * unit
            hit_NM[n, i] |= hits_NM[n, i]


@njit(cache=True, nogil=True, error_model="numpy")
def pool(levels_NM: np.ndarray, g: Geometry, largest: bool, pooled_NM: np.ndarray, hits_NM: np.ndarray) -> None:
    """Sum or ``largest`` of every window, padding holds nothing; ``hits_NM`` says where a window holds anything."""
    for n in range(levels_NM.shape[0]):
        for c in range(g.C):
            for p in range(g.P):
                for q in range(g.Q):
                    total, most, hit = 0, -(2**31), 0
                    for r in range(g.R):
                        h = p * g.stride_h + r - g.pad_h
                        for s in range(g.S):
                            w = q * g.stride_w + s - g.pad_w
                            if 0 <= h < g.H and 0 <= w < g.W:
                                level = levels_NM[n, (c * g.H + h) * g.W + w]
                                total += level
                                most = max(most, level)
                                if level != 0:
                                    hit = 1
                    i = (c * g.P + p) * g.Q + q
                    pooled_NM[n, i] = most if largest else total
                    hits_NM[n, i] = hit


@njit(cache=True, nogil=True, error_model="numpy")
def leak_real(u_NM: np.ndarray, kept_M: np.ndarray, grid: float) -> None:
    """``u <- kept * u``, cut towards zero to multiples of 1 / grid unless that is 0."""
    for n in range(u_NM.shape[0]):
        for i in range(u_NM.shape[1]):
            kept = u_NM[n, i] * kept_M[i]
            u_NM[n, i] = kept if grid == 0 else np.trunc(kept * grid) / grid


@njit(cache=True, nogil=True, error_model="numpy")
def leak_whole(u_NM: np.ndarray, factor_M: np.ndarray, shift: int) -> None:
    """``u <- u - (u >> shift)``, or with a shift of 0 ``u <- (factor * u) >> 12``; rounds towards minus infinity."""
    for n in range(u_NM.shape[0]):
        for i in range(u_NM.shape[1]):
            u = u_NM[n, i]
            u_NM[n, i] = u - (u >> shift) if shift > 0 else (factor_M[i] * u) >> 12


@njit(cache=True, nogil=True, error_model="numpy")
def wake(u_NM: np.ndarray, hit_NM: np.ndarray) -> None:
    """Mark the neurons whose membrane is not 0."""
    for n in range(u_NM.shape[0]):
        for i in range(u_NM.shape[1]):
            if u_NM[n, i] != 0:
                hit_NM[n, i] = 1


@njit(inline="always")
def _word(v, rule):  # type: ignore[no-untyped-def]  # of either dtype
    """What the membrane's word holds of ``v``."""
    if not rule.bounded:
        return v
    if rule.wrap:
        return (v - rule.low) % (rule.high - rule.low + 1) + rule.low
    return min(max(v, rule.low), rule.high)


@njit(inline="always")
def _level(v, theta, sent, rule):  # type: ignore[no-untyped-def]
    """How often the threshold fits into ``v``, within what the neuron may send."""
    size = 0
    while size < rule.max_level:
        reach = (size + 1) * theta
        if abs(v) < reach or (rule.strict and abs(v) == reach):
            break
        size += 1
    if v >= 0:
        return size
    return -min(size, sent) if rule.signed else 0


@njit(inline="always")
def _reset(v, level, theta, v_reset, rule):  # type: ignore[no-untyped-def]
    """The membrane that ``level`` leaves of ``v``."""
    if level == 0 or rule.reset == 2:
        return v
    if rule.reset == 1:
        return v - level * theta
    return v_reset


@njit(cache=True, nogil=True, error_model="numpy")
def advance(
    u_NM: np.ndarray,
    current_NM: np.ndarray,
    sent_NM: np.ndarray,
    x_NM: np.ndarray,
    hit_NM: np.ndarray,
    drive_BM: np.ndarray,
    rule: Rule,
    levels_NM: np.ndarray,
    fired_NM: np.ndarray,
    busy_NM: np.ndarray,
    bit: int,
) -> None:
    """One step of the neurons of one node, whose membranes have leaked already.

    u_NM: membranes, taken on. current_NM: synaptic currents where the rule has them. sent_NM: levels sent so far, of signed rules.
    x_NM, hit_NM: what synapses deliver, and where anything arrived or the membrane was not 0. drive_BM: biases and pixels, which
    act at every step; B is N, or 1 for one row for all. levels_NM: in: what the last step sent; out: what this one sends.
    fired_NM, busy_NM: uint8; bit ``bit`` is set where a neuron fires, and where it had work.
    """
    mark = np.uint8(1 << bit)
    for n in range(u_NM.shape[0]):
        b = n if drive_BM.shape[0] > 1 else 0
        for i in range(u_NM.shape[1]):
            arriving = x_NM[n, i] + drive_BM[b, i]
            busy = hit_NM[n, i] != 0 or drive_BM[b, i] != 0
            if rule.current:
                current_NM[n, i] = _word(current_NM[n, i] + arriving, rule)
                arriving = current_NM[n, i]
                busy = busy or arriving != 0
            theta, v_reset = rule.theta_M[i], rule.v_reset_M[i]
            v = _word(u_NM[n, i] + arriving, rule)
            if rule.late:
                v = _word(_reset(v, levels_NM[n, i], theta, v_reset, rule), rule)
            level = _level(v, theta, sent_NM[n, i] if rule.signed else 0, rule)
            u_NM[n, i] = v if rule.late else _word(_reset(v, level, theta, v_reset, rule), rule)
            levels_NM[n, i] = level
            if rule.signed:
                sent_NM[n, i] += level
            if level != 0:
                fired_NM[n, i] |= mark
                busy = True
            if busy:
                busy_NM[n, i] |= mark


@njit(cache=True, nogil=True, error_model="numpy")
def pack(levels_NM: np.ndarray, packed_NM: np.ndarray, bit: int) -> None:
    """Set bit ``bit`` where there is a spike."""
    mark = np.uint8(1 << bit)
    for n in range(levels_NM.shape[0]):
        for i in range(levels_NM.shape[1]):
            if levels_NM[n, i] != 0:
                packed_NM[n, i] |= mark
