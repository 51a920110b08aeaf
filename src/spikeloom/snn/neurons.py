"""Spiking neurons over time: the equation once, as a readable loop that is the reference for the fused kernel.

Dimension letters: T time steps, N samples. ``psum`` is what a synapse delivers, ``u`` the membrane a step leaves behind,
``v`` the membrane before the spike is decided::

    v[t] = kept * u[t-1] + psum[t]          u[-1] = v_init, kept = 1 (IF) or 1 - 2**-shift (LIF)
    s[t] = v[t] >= v_threshold              strict: >
    u[t] = 0 if s[t] else v[t]              hard reset
           v[t] - v_threshold * s[t]        soft reset
           v[t]                             no reset

The membrane is always float32, whatever the precision of ``psum``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spikeloom.core.network import IF, LIF, CubaLIF, Leak, Reset
from spikeloom.errors import NetworkError
from spikeloom.snn.surrogate import Surrogate, SurrogateStep


@dataclass(frozen=True)
class Dynamics:
    """What a neuron does with its membrane, as plain numbers.

    kept: fraction of the membrane that is left after one step.
    detach_reset: keep the gradient out of the reset (the spike decides, but is not to blame for what it wiped out).
    """

    kept: float = 1.0
    v_threshold: float = 1.0
    reset: Reset = "hard"
    strict: bool = False
    v_init: float = 0.0
    detach_reset: bool = False

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
        if not node.v_threshold > 0:
            raise NetworkError(f"node '{name}' got threshold {node.v_threshold}, expected a positive one")
        v_init = 0.0 if isinstance(node, CubaLIF) else node.v_init
        kept = 1.0 if isinstance(node, IF) else kept_of(name, node.leak)
        return Dynamics(kept, node.v_threshold, node.reset, node.strict, v_init, detach_reset)


def kept_of(name: str, leak: Leak | None) -> float:
    """Fraction kept in one step by the leak of node ``name``.

    Raises:
        NetworkError: the leak is unknown.
    """
    if leak is None:
        raise NetworkError(f"node '{name}' does not state its leak; it cannot be executed, set one")
    return leak.kept


def after_reset(v: Tensor, spikes: Tensor, dynamics: Dynamics) -> Tensor:
    """The membrane ``u`` that a step leaves behind; shapes equal."""
    if dynamics.detach_reset:
        spikes = spikes.detach()
    if dynamics.reset == "hard":
        return v * (1 - spikes)
    if dynamics.reset == "soft":
        return v - dynamics.v_threshold * spikes
    return v


def spike_loop(psum_TN: Tensor, dynamics: Dynamics, kind: Surrogate) -> Tensor:
    """Reference: one step after the other, gradients by autograd (BPTT, through the reset unless detached).

    Args:
        psum_TN: any float dtype; shape (T, N, *shape).
        dynamics: the neuron.
        kind: surrogate gradient.

    Returns:
        Spikes 0/1 in the dtype and shape of ``psum_TN``.
    """
    u = torch.full_like(psum_TN[0], dynamics.v_init, dtype=torch.float32)
    spikes = []
    for psum in psum_TN.float().unbind(0):
        v = u * dynamics.kept + psum
        fired = SurrogateStep.apply(v, dynamics.v_threshold, dynamics.strict, kind)  # type: ignore[no-untyped-call]
        u = after_reset(v, fired, dynamics)
        spikes.append(fired.to(psum_TN.dtype))
    return torch.stack(spikes)


def touched(psum_TN: Tensor, dynamics: Dynamics) -> Tensor:
    """True where a membrane is not 0 before the leak of a step, ``u[t-1] != 0``; bool, shape (T, N, *shape), no gradient."""
    u = torch.full_like(psum_TN[0], dynamics.v_init, dtype=torch.float32)
    alive = torch.empty(psum_TN.shape, dtype=torch.bool, device=psum_TN.device)
    for t, psum in enumerate(psum_TN.float().unbind(0)):
        alive[t] = u != 0
        v = u * dynamics.kept + psum
        fired = v > dynamics.v_threshold if dynamics.strict else v >= dynamics.v_threshold
        u = after_reset(v, fired.float(), dynamics)
    return alive


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
