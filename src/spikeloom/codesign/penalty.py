"""The price of spikes inside the training loss: beta * log(EDP / EDP_0) from tables of the exact model (torch).

tag~ = 1 - prod over the window of (1 - S[t]) is 1 where a word has any spike, exactly, and passes the gradient to every step of
a silent word and to the only spike of a word with one: the steps that alone decide the tag. The fill F_l = mean tag~ goes
through the tables E_l(F), D_l(F) of `spikeloom.codesign.curves`, whose slopes are the gradient. Whether a channel spikes at all in a
sample is exact too; its gradient is that of ``1 - exp(-n / n_0)`` in the number n of its spikes, n_0 the mean number: what nearly
falls silent is pushed over the edge.

    loss = task + beta * (log(sum E_l / E_0) + log(sum D_l / D_0))
           + rate * mean firing rate + bit_synops * (Bit-SynOps / Bit-SynOps of the first batch)

Bit-SynOps (LitE-SNN, arXiv:2401.14652) weigh every synaptic operation by the width of its weight and of its input level.
Letters: T time steps, N samples.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spikeloom.codesign.curves import Curve, segment

#: Arrivals of one batch, (T, N, *shape) by node -> the machine they were drawn for, as a machine file says it, and new curves.
Redraw = Callable[[Mapping[str, Tensor]], tuple[Mapping[str, Any], Mapping[str, Curve]]]


class _Tags(torch.autograd.Function):
    """Any spike in each window, and the gradient of 1 - prod(1 - S)."""

    @staticmethod
    def forward(ctx: Any, spikes_TM: Tensor, window: int) -> Tensor:
        """``spikes_TM`` (T, M) of spikes or levels -> tags (ceil(T/L), M) in its dtype."""
        filled = (spikes_TM != 0).to(spikes_TM.dtype)
        ctx.window = window
        if window == 1:
            return filled
        number = _per_window(filled, window)
        ctx.save_for_backward(filled, number)
        return (number > 0).to(spikes_TM.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """The gradient reaches a step if no other step of its word has a spike."""
        if ctx.window == 1:
            return grads[0], None
        filled, number = ctx.saved_tensors
        num_steps = filled.shape[0]
        others = number.repeat_interleave(ctx.window, 0)[:num_steps] - filled
        return (others == 0) * grads[0].repeat_interleave(ctx.window, 0)[:num_steps], None


def _per_window(filled_TM: Tensor, window: int) -> Tensor:
    """Sum over each window; the last may be short."""
    whole = filled_TM.shape[0] // window * window
    parts = [filled_TM[:whole].reshape(-1, window, filled_TM.shape[1]).sum(1)]
    if whole < filled_TM.shape[0]:
        parts.append(filled_TM[whole:].sum(0, keepdim=True))
    return torch.cat(parts)


class _Active(torch.autograd.Function):
    """Which (sample, channel) have any spike, and the gradient of 1 - exp(-n / mean n)."""

    @staticmethod
    def forward(ctx: Any, number: Tensor) -> Tensor:
        """``number`` of spikes, any shape -> 1 where there are any."""
        ctx.save_for_backward(number)
        return (number > 0).to(number.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """Largest for channels that are nearly silent."""
        (number,) = ctx.saved_tensors
        mean = number.mean().clamp(min=1)
        grad: Tensor = torch.exp(-number / mean) / mean * grads[0]
        return grad


def tags(spikes_TN: Tensor, window: int) -> Tensor:
    """Tags (ceil(T/window), N, ...) of spikes or levels (T, N, ...), with the gradient of ``1 - prod(1 - S)``."""
    found: Tensor = _Tags.apply(spikes_TN.reshape(spikes_TN.shape[0], -1), window)  # type: ignore[no-untyped-call]
    return found.reshape(-1, *spikes_TN.shape[1:])


class HardwarePenalty(nn.Module):
    """A penalty for `spikeloom.snn.train.train`.

    beta: weight of log(EDP / EDP_0); 0 for none. rate: weight of the mean firing rate over the priced layers.
    bit_synops: weight of the Bit-SynOps relative to the first batch. fanout: Bit-SynOps of one spike by node, arrays that
    broadcast to the node's map. curves: tables to start with. machine: what they were drawn for, as a machine file says it. redraw,
    refresh: new tables every ``refresh`` calls, 0 for never.

    Its state (calls, reference values, curves) goes into a checkpoint, so that a resumed run equals one that was not stopped.
    """

    def __init__(
        self,
        curves: Mapping[str, Curve],
        *,
        beta: float,
        machine: Mapping[str, Any] | None = None,
        rate: float = 0.0,
        bit_synops: float = 0.0,
        fanout: Mapping[str, np.ndarray] | None = None,
        redraw: Redraw | None = None,
        refresh: int = 0,
    ) -> None:
        super().__init__()
        self.curves, self.machine = dict(curves), dict(machine or {})
        self.beta, self.rate, self.bit_synops = beta, rate, bit_synops
        self.fanout = {name: torch.from_numpy(np.asarray(v, np.float32)) for name, v in (fanout or {}).items()}
        self.redraw, self.refresh = redraw, refresh
        self.calls = 0
        self.reference: tuple[float, float] | None = None
        self.first_bit_synops = 0.0

    def forward(self, arrived: Mapping[str, Tensor]) -> Tensor:
        """What is added to the loss of a batch whose arrivals are ``arrived``: (T, N, *shape) by node."""
        if self.redraw is not None and self.refresh and self.calls and self.calls % self.refresh == 0:
            machine, curves = self.redraw(arrived)
            self.machine, self.curves = dict(machine), dict(curves)
        self.calls += 1
        some = next(iter(arrived.values()))
        loss = torch.zeros((), dtype=torch.float32, device=some.device)
        if self.beta:
            energy, latency = self.cost(arrived)
            if self.reference is None:
                self.reference = (float(energy.detach()), float(latency.detach()))
            loss = loss + self.beta * (torch.log(energy / self.reference[0]) + torch.log(latency / self.reference[1]))
        if self.rate:
            loss = loss + self.rate * self.firing_rate(arrived)
        if self.bit_synops:
            spent = self.spent_bit_synops(arrived)
            if not self.first_bit_synops:
                self.first_bit_synops = float(spent.detach()) or 1.0
            loss = loss + self.bit_synops * spent / self.first_bit_synops
        return loss

    def cost(self, arrived: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(joules, seconds) per inference by the tables, with gradients."""
        fills: dict[tuple[str, int], Tensor] = {}

        def fill(node: str, window: int) -> Tensor:
            if (node, window) not in fills:
                fills[node, window] = tags(arrived[node].float(), window).mean()
            return fills[node, window]

        some = next(iter(arrived.values()))
        energy = latency = torch.zeros((), dtype=torch.float32, device=some.device)
        for curve in self.curves.values():
            energy = energy + curve.out_energy_j[0]
            if curve.departure is not None:
                energy = energy + curve.out_energy_j[1] * fill(curve.departure, curve.out_window)
            if len(curve.fill) == 1:
                energy = energy + float(curve.energy_j[0]) + curve.channel_energy_j
                latency = latency + float(curve.latency_s[0])
                continue
            into = fill(curve.arrival, curve.window)
            if curve.channel_energy_j:
                x = arrived[curve.arrival].float()
                number = x.abs().sum(dim=(0, *range(3, x.dim())))
                active: Tensor = _Active.apply(number)  # type: ignore[no-untyped-call]
                energy = energy + curve.channel_energy_j * active.mean()
            energy = energy + _line(curve.fill, curve.energy_j, into)
            latency = latency + _line(curve.fill, curve.latency_s, into)
        return energy, latency

    def firing_rate(self, arrived: Mapping[str, Tensor]) -> Tensor:
        """Mean over the layers with a curve of the mean of what arrives."""
        moving = [curve.arrival for curve in self.curves.values() if len(curve.fill) > 1]
        return torch.stack([arrived[name].float().mean() for name in moving]).mean()

    def spent_bit_synops(self, arrived: Mapping[str, Tensor]) -> Tensor:
        """Bit-SynOps per inference: every spike times the fan-out and the bits it meets."""
        total = torch.zeros((), dtype=torch.float32)
        for name, each in self.fanout.items():
            x = arrived[name].float()
            total = total.to(x.device) + (x * each.to(x.device)).sum() / x.shape[1]
        return total

    def get_extra_state(self) -> dict[str, Any]:
        """Calls, reference values and tables, in plain types."""
        curves = {
            name: {
                "arrival": c.arrival, "departure": c.departure, "window": c.window, "out_window": c.out_window,
                "fill": c.fill.tolist(), "energy_j": c.energy_j.tolist(), "latency_s": c.latency_s.tolist(),
                "channel_energy_j": c.channel_energy_j, "out_energy_j": list(c.out_energy_j),
            }
            for name, c in self.curves.items()
        }  # fmt: skip
        return {
            "calls": self.calls,
            "reference": self.reference,
            "first_bit_synops": self.first_bit_synops,
            "machine": json.dumps(self.machine),
            "curves": curves,
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """The state that ``get_extra_state`` gave."""
        self.calls, self.first_bit_synops = int(state["calls"]), float(state["first_bit_synops"])
        self.machine = json.loads(state["machine"])
        self.reference = None if state["reference"] is None else (state["reference"][0], state["reference"][1])
        self.curves = {
            name: Curve(
                name,
                c["arrival"],
                c["departure"],
                c["window"],
                c["out_window"],
                np.array(c["fill"]),
                np.array(c["energy_j"]),
                np.array(c["latency_s"]),
                c["channel_energy_j"],
                (c["out_energy_j"][0], c["out_energy_j"][1]),
            )
            for name, c in state["curves"].items()
        }


def _line(at: np.ndarray, values: np.ndarray, x: Tensor) -> Tensor:
    """`spikeloom.codesign.curves.interpolated` with the slope as gradient."""
    k = segment(at, float(x.detach()))
    slope = float((values[k + 1] - values[k]) / (at[k + 1] - at[k]))
    return float(values[k]) + slope * (x - float(at[k]))
