"""Spiking neurons over time: the equation once, as a readable loop that is the reference for the fused kernel.

Dimension letters: T time steps, N samples. ``psum`` is what a synapse delivers, ``u`` the membrane a step leaves behind,
``v`` the membrane before the spike is decided::

    v[t] = kept * u[t-1] + psum[t]          u[-1] = v_init, kept = 1 (IF) or 1 - 2**-shift (LIF)
    s[t] = v[t] >= v_threshold              strict: >
    u[t] = v_reset if s[t] else v[t]        hard reset
           v[t] - v_threshold * s[t]        soft reset
           v[t]                             no reset

The membrane is always float32, whatever the precision of ``psum``; graded, signed and late-resetting neurons and those of integer
networks (int64 here, cut to the word they state) are variations that `spikeloom.core.nodes.Firing` and ``Membrane`` define.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spikeloom.core.nodes import IF, LI, LIF, CubaLIF, Leak, Membrane, Overflow, Reset, Value, shown
from spikeloom.errors import NetworkError
from spikeloom.snn.surrogate import SURROGATES, Surrogate, SurrogateStep

#: Fixed-point one of a leak factor in an integer network.
FACTOR_BITS = 12
#: One number for a whole map, or a tensor that broadcasts to it; whole numbers in an integer network.
Number = float | Tensor


@dataclass(frozen=True)
class Dynamics:
    """What a neuron does with its membrane, as plain numbers and tensors; the words are those of the nodes.

    kept: fraction of the membrane that is left after one step. leak, syn_leak: as the node has them, for integers.
    syn_kept: fraction of the synaptic current that is left after one step; None where sums reach the membrane directly.
    detach_reset: keep the gradient out of the reset (the spike decides, but is not to blame for what it wiped out).
    """

    kept: Number = 1.0
    v_threshold: Number = 1.0
    reset: Reset = "hard"
    strict: bool = False
    v_init: Number = 0.0
    detach_reset: bool = False
    v_reset: Number = 0.0
    late_reset: bool = False
    max_level: int = 1
    signed: bool = False
    membrane_bits: int | None = None
    overflow: Overflow = "saturate"
    syn_kept: Number | None = None
    leak: Leak | None = None
    syn_leak: Leak | None = None

    @staticmethod
    def of(name: str, node: IF | LIF | CubaLIF, *, detach_reset: bool = False) -> Dynamics:
        """The dynamics of node ``name``.

        Raises:
            NetworkError: the node has no leak or threshold, or a threshold that is not positive.
        """
        if node.v_threshold is None:
            raise NetworkError(
                f"node '{name}' ({type(node).__name__}) has no threshold; it cannot be executed, set one"
            )
        if not np.all(np.asarray(node.v_threshold) > 0):
            raise NetworkError(f"node '{name}' got threshold {shown(node.v_threshold)}, expected a positive one")
        if node.max_level < 1:
            raise NetworkError(f"node '{name}' got max_level {node.max_level}, expected at least 1")
        bits = checked_bits(name, node)
        number = _number if bits is None else partial(_whole, name)
        state = _number if bits is None else partial(_whole, name, bits=bits)
        return Dynamics(
            kept=1.0 if isinstance(node, IF) else kept_of(name, node.leak),
            v_threshold=number(node.v_threshold),
            reset=node.reset,
            strict=node.strict,
            v_init=state(node.v_init),
            detach_reset=detach_reset,
            v_reset=state(node.v_reset),
            late_reset=node.late_reset,
            max_level=node.max_level,
            signed=node.signed,
            membrane_bits=bits,
            overflow=node.overflow,
            syn_kept=kept_of(name, node.syn_leak) if isinstance(node, CubaLIF) else None,
            leak=None if isinstance(node, IF) else node.leak,
            syn_leak=node.syn_leak if isinstance(node, CubaLIF) else None,
        )

    @property
    def fusable(self) -> bool:
        """True for what the compiled kernel knows: numbers only, 0/1 spikes that reset their own step to 0, floats."""
        numbers = (self.kept, self.v_threshold, self.v_init, self.v_reset, self.syn_kept)
        return (
            not any(isinstance(value, Tensor) for value in numbers)
            and (self.v_reset == 0 or self.reset != "hard")
            and not (self.late_reset or self.signed)
            and self.max_level == 1
            and self.membrane_bits is None
        )

    def on(self, device: torch.device) -> Dynamics:
        """These dynamics with their tensors on ``device``."""
        tensors = {item.name: getattr(self, item.name) for item in fields(self)}
        moved: dict[str, Any] = {key: v.to(device) for key, v in tensors.items() if isinstance(v, Tensor)}
        return replace(self, **moved) if moved else self


def _number(value: Value) -> Number:
    """A float where all neurons share it, else a float32 tensor."""
    if not isinstance(value, np.ndarray):
        return float(value)
    if value.size and (value == value.flat[0]).all():
        return float(value.flat[0])
    return torch.tensor(value, dtype=torch.float32)


def checked_bits(name: str, node: Membrane) -> int | None:
    """The word of node ``name``'s membranes.

    Raises:
        NetworkError: its bits are not 2..48, beyond which an int64 would not hold a product of the leak.
    """
    if node.membrane_bits is not None and not 2 <= node.membrane_bits <= 48:
        raise NetworkError(f"node '{name}' got membrane_bits {node.membrane_bits}, expected 2..48")
    return node.membrane_bits


def _whole(name: str, value: Value, *, bits: int = 49) -> Number:
    """An int where all neurons share it, else an int64 tensor: what an integer network compares with and subtracts.

    bits: that have to hold it; a threshold may lie beyond every membrane and then never fires.
    """
    array = np.asarray(value)
    if not (array == np.rint(array)).all():
        raise NetworkError(
            f"node '{name}' has integer membranes, but got {shown(value)} where a whole number is expected"
        )
    if not ((array >= -(2 ** (bits - 1))) & (array < 2 ** (bits - 1))).all():
        raise NetworkError(
            f"node '{name}' got {shown(value)}, which its membranes cannot hold; expected {-(2 ** (bits - 1))}..{2 ** (bits - 1) - 1}"
        )
    if (array == array.flat[0]).all():
        return int(array.flat[0])
    return torch.tensor(array.astype(np.int64))


def kept_of(name: str, leak: Leak | None) -> Number:
    """Fraction kept in one step by the leak of node ``name``.

    Raises:
        NetworkError: the leak is unknown.
    """
    if leak is None:
        raise NetworkError(f"node '{name}' does not state its leak; it cannot be executed, set one")
    return _number(leak.kept)


class Membranes:
    """The membranes of one node between two steps; `step` takes one on. Gradients by autograd unless integers.

    u: what the last step left behind; shape (N, *shape), float32, or int64 in an integer network. v: on what it decided.
    """

    def __init__(self, like: Tensor, dynamics: Dynamics, kind: Surrogate) -> None:
        self.dynamics, self.kind = dynamics.on(like.device), kind
        dtype = torch.float32 if dynamics.membrane_bits is None else torch.int64
        self.u = self.v = (torch.zeros_like(like, dtype=dtype) + self.dynamics.v_init).to(dtype)
        self.current = torch.zeros_like(self.u)
        self.last = torch.zeros_like(self.u)  # what the last step sent, for a late reset
        self.sent = torch.zeros_like(self.u)  # sum of all levels sent, for signed spikes

    def step(self, psum: Tensor) -> Tensor:
        """Spikes or levels of one step; ``psum``, shape (N, *shape), of which they have the dtype."""
        rule, arriving = self.dynamics, psum.to(self.u.dtype)
        if rule.syn_kept is not None:
            arriving = self.current = self._bounded(self._leaked(self.current, rule.syn_kept, rule.syn_leak) + arriving)
        v = self._bounded(self._leaked(self.u, rule.kept, rule.leak) + arriving)
        if rule.late_reset:
            v = self._bounded(after_reset(v, self.last, rule))
        self.v, fired = v, self._fired(v)
        self.u = v if rule.late_reset else self._bounded(after_reset(v, fired, rule))
        self.last = fired
        if rule.signed:
            self.sent = self.sent + fired.detach()
        return fired.to(psum.dtype)

    def _fired(self, v: Tensor) -> Tensor:
        rule = self.dynamics
        if rule.max_level == 1 and not rule.signed:
            if self.u.dtype == torch.int64:
                return (v > rule.v_threshold if rule.strict else v >= rule.v_threshold).to(v.dtype)
            fired: Tensor = SurrogateStep.apply(v, rule.v_threshold, rule.strict, self.kind)  # type: ignore[no-untyped-call]
            return fired
        # signed levels never let the sum of all levels sent become negative
        lowest = -self.sent.clamp(max=rule.max_level) if rule.signed else torch.zeros_like(self.sent)
        if v.dtype == torch.int64:
            size = ((v.abs() - 1 if rule.strict else v.abs()) // rule.v_threshold).clamp(min=0)
            return torch.maximum((size * v.sign()).clamp(max=rule.max_level), lowest)
        ratio = v / rule.v_threshold
        size = (ratio.abs().ceil() - 1).clamp(min=0) if rule.strict else ratio.abs().floor()
        level = torch.maximum((size * ratio.sign()).clamp(max=rule.max_level), lowest)
        ramp = torch.maximum(ratio.clamp(max=rule.max_level), lowest)
        return ramp + (level - ramp).detach()  # straight through the floor

    def _leaked(self, u: Tensor, kept: Number, leak: Leak | None) -> Tensor:
        return integer_leak(u, leak) if u.dtype == torch.int64 else u * kept

    def _bounded(self, v: Tensor) -> Tensor:
        bits = self.dynamics.membrane_bits
        return v if bits is None else bounded(v, bits, self.dynamics.overflow)


def integer_leak(u: Tensor, leak: Leak | None) -> Tensor:
    """``u - (u >> shift)``, or ``(round(4096 * factor) * u) >> 12``; int64, rounding towards minus infinity."""
    if leak is None:
        return u
    if leak.shift is not None:
        return u - (u >> leak.shift)
    factor = torch.as_tensor(np.rint(np.asarray(leak.factor, np.float64) * 2**FACTOR_BITS).astype(np.int64))
    return (u * factor.to(u.device)) >> FACTOR_BITS


def bounded(v: Tensor, bits: int, overflow: Overflow) -> Tensor:
    """``v`` (int64) as a two's-complement word of ``bits`` holds it."""
    half = 1 << (bits - 1)
    return v.clamp(-half, half - 1) if overflow == "saturate" else (v + half) % (2 * half) - half


def after_reset(v: Tensor, spikes: Tensor, dynamics: Dynamics) -> Tensor:
    """The membrane that spikes (or levels) leave behind; shapes equal."""
    if dynamics.detach_reset:
        spikes = spikes.detach()
    if dynamics.reset == "soft":
        return v - (dynamics.v_threshold * spikes).to(v.dtype)
    if dynamics.reset == "none":
        return v
    if dynamics.max_level > 1 or dynamics.signed:
        spikes = (spikes != 0).to(v.dtype)
    left = v * (1 - spikes)
    return (
        left
        if isinstance(dynamics.v_reset, float) and dynamics.v_reset == 0
        else left + (dynamics.v_reset * spikes).to(v.dtype)
    )


def spike_loop(psum_TN: Tensor, dynamics: Dynamics, kind: Surrogate) -> Tensor:
    """Reference: one step after the other, gradients by autograd (BPTT, through the reset unless detached).

    Args:
        psum_TN: any float dtype; shape (T, N, *shape).
        dynamics: the neuron.
        kind: surrogate gradient.

    Returns:
        Spikes 0/1, or levels, in the dtype and shape of ``psum_TN``.
    """
    membranes = Membranes(psum_TN[0], dynamics, kind)
    return torch.stack([membranes.step(psum) for psum in psum_TN.unbind(0)])


def touched(psum_TN: Tensor, dynamics: Dynamics) -> Tensor:
    """True where a step finds a membrane (before its leak) or a synaptic current that is not 0; bool, shape (T, N, *shape)."""
    membranes = Membranes(psum_TN[0], dynamics, SURROGATES["atan"])
    alive = torch.empty(psum_TN.shape, dtype=torch.bool, device=psum_TN.device)
    with torch.no_grad():
        for t, psum in enumerate(psum_TN.unbind(0)):
            alive[t] = membranes.u != 0
            membranes.step(psum)
            alive[t] |= membranes.current != 0
    return alive


class Accumulator:
    """The membranes of an LI read-out between two steps."""

    def __init__(self, like: Tensor, node: LI) -> None:
        self.node = node
        kept = 1.0 if node.leak is None else _number(node.leak.kept)
        self.kept = kept.to(like.device) if isinstance(kept, Tensor) else kept
        self.v = torch.zeros_like(like, dtype=torch.float32 if node.membrane_bits is None else torch.int64)

    def step(self, psum: Tensor) -> Tensor:
        """``v = leaked(v) + psum``; shape (N, *shape), float32, of integers float64."""
        bits = self.node.membrane_bits
        if bits is None:
            self.v = self.v * self.kept + psum.float()
            return self.v
        self.v = bounded(integer_leak(self.v, self.node.leak) + psum.to(torch.int64), bits, self.node.overflow)
        return self.v.double()


def integrated(psum_TN: Tensor, node: LI) -> Tensor:
    """The membranes of an LI at every step, from 0; float32 (integers: float64), shape (T, N, *shape)."""
    if node.membrane_bits is None and (node.leak is None or not isinstance(node.leak.factor, np.ndarray)):
        return leaky_sum(psum_TN, 1.0 if node.leak is None else float(node.leak.kept))
    membranes = Accumulator(psum_TN[0], node)
    return torch.stack([membranes.step(psum) for psum in psum_TN.unbind(0)])


def leaky_sum(psum_TN: Tensor, kept: float) -> Tensor:
    """Leaky integrator ``v[t] = kept * v[t-1] + psum[t]`` from 0; float32, every step, shape (T, N, *shape)."""
    if kept == 1.0:
        return psum_TN.float().cumsum(0)
    v = torch.zeros_like(psum_TN[0], dtype=torch.float32)
    steps = []
    for psum in psum_TN.float().unbind(0):
        v = v * kept + psum
        steps.append(v)
    return torch.stack(steps)
