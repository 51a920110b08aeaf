"""The price of spikes inside the training loss: beta * log(EDP / EDP_0) from tables of the exact model (torch).

tag~ = 1 - prod over the window of (1 - S[t]) is 1 where a word has any spike, exactly, and passes the gradient to every step of
a silent word and to the only spike of a word with one: the steps that alone decide the tag. The fill F_l = mean tag~ goes
through the tables E_l(F), D_l(F) of `spikeloom.codesign.curves`, whose slopes are the gradient. Whether a channel spikes at all in a
sample counts exactly, and passes no gradient: to push nearly silent channels over the edge moved spikes to where they cost more.

    loss = task + beta * (log(sum E_l / E_0) + log(sum D_l / D_0))
           + rate * mean firing rate + bit_synops * (Bit-SynOps / Bit-SynOps of the first batch)

Bit-SynOps (LitE-SNN, arXiv:2401.14652) weigh every synaptic operation by the width of its weight and of its input level.
Letters: T time steps, N samples.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor, nn

from spikeloom.codesign.curves import Curve, segment

#: Arrivals of one batch, (T, N, *shape) by node -> the machine they were drawn for, as a machine file says it, and new curves.
Redraw = Callable[[Mapping[str, Tensor]], tuple[Mapping[str, Any], Mapping[str, Curve]]]

#: Neurons looked at together: their spikes over some hundred steps stay in the second-level cache.
_CHUNK = 256


@njit(cache=True, nogil=True, error_model="numpy")
def _spikes_in(spikes_TM: np.ndarray, start: int, stop: int, first: int, number: np.ndarray) -> None:
    """Spikes of steps start..stop of ``number.size`` neurons from ``first`` on; slices, so that the loop becomes SIMD code."""
    number[:] = 0
    for t in range(start, stop):
        row = spikes_TM[t, first : first + number.size]
        for i in range(number.size):
            number[i] += np.float32(1) if row[i] != 0 else np.float32(0)


@njit(cache=True, nogil=True, error_model="numpy")
def _count_filled(spikes_TM: np.ndarray, windows: np.ndarray, filled: np.ndarray, number_M: np.ndarray) -> None:
    """Words with any spike, added to ``filled`` for each length in ``windows``; spikes of each neuron into ``number_M``."""
    num_steps, num = spikes_TM.shape
    number_all = np.empty(_CHUNK, np.float32)
    for first in range(0, num, _CHUNK):
        number = number_all[: min(_CHUNK, num - first)]
        _spikes_in(spikes_TM, 0, num_steps, first, number_M[first : first + number.size])
        for k in range(windows.size):
            for start in range(0, num_steps, windows[k]):
                _spikes_in(spikes_TM, start, min(start + windows[k], num_steps), first, number)
                total = np.float32(0)
                for i in range(number.size):
                    total += min(number[i], np.float32(1))
                filled[k] += np.int64(total)


@njit(cache=True, nogil=True, error_model="numpy")
def _slopes(spikes_TM: np.ndarray, windows: np.ndarray, slopes: np.ndarray, grad_TM: np.ndarray) -> None:
    """For each length, ``slopes`` at the steps whose word has no spike at another step, added up."""
    num_steps, num = spikes_TM.shape
    number_all = np.empty(_CHUNK, np.float32)
    for first in range(0, num, _CHUNK):
        number = number_all[: min(_CHUNK, num - first)]
        for t in range(num_steps):
            grad_TM[t, first : first + number.size] = 0
        for k in range(windows.size):
            slope = slopes[k]
            for start in range(0, num_steps, windows[k]):
                stop = min(start + windows[k], num_steps)
                _spikes_in(spikes_TM, start, stop, first, number)
                for t in range(start, stop):
                    row = spikes_TM[t, first : first + number.size]
                    grad = grad_TM[t, first : first + number.size]
                    for i in range(number.size):
                        alone = number[i] == (np.float32(1) if row[i] != 0 else np.float32(0))
                        grad[i] += slope if alone else np.float32(0)


class _Fills(torch.autograd.Function):
    """Fills of words of several lengths, and the fraction of (sample, channel) with any spike, in one pass each way."""

    @staticmethod
    def forward(ctx: Any, spikes_TN: Tensor, windows: tuple[int, ...]) -> Tensor:
        """(len(windows) + 1,) float32: a fill for each length, then the channels."""
        ctx.save_for_backward(spikes_TN)
        spikes_TM = _rows(spikes_TN)
        ctx.windows = np.array(windows, np.int64)
        ctx.words = -(-spikes_TM.shape[0] // ctx.windows) * spikes_TM.shape[1]
        filled = np.zeros(len(windows), np.int64)
        number_M = np.empty(spikes_TM.shape[1], np.float32)
        _count_filled(spikes_TM.numpy(), ctx.windows, filled, number_M)
        active = float((_per_channel(torch.from_numpy(number_M), spikes_TN) > 0).float().mean())
        return torch.tensor([*(filled / ctx.words), active], dtype=torch.float32, device=spikes_TN.device)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """See the docstring of the module."""
        (spikes_TN,) = ctx.saved_tensors
        spikes_TM = _rows(spikes_TN)
        grad_TM = torch.empty_like(spikes_TM)
        slopes = (grads[0][:-1].to("cpu", torch.float32).numpy() / ctx.words).astype(np.float32)
        _slopes(spikes_TM.numpy(), ctx.windows, slopes, grad_TM.numpy())
        found = grad_TM.reshape(_physical(spikes_TN).shape)
        if _last(spikes_TN):
            found = found.permute(0, 1, 4, 2, 3)
        return found.to(spikes_TN.device, spikes_TN.dtype), None


def _per_channel(number_M: Tensor, like: Tensor) -> Tensor:
    """Sum over the map; neurons in the order of memory of ``like``, (N, C)."""
    num_samples, channels = like.shape[1:3]
    if _last(like):
        return number_M.reshape(num_samples, -1, channels).sum(1)
    return number_M.reshape(num_samples, channels, -1).sum(2)


def _last(spikes_TN: Tensor) -> bool:
    """True where channels are last in memory."""
    return spikes_TN.dim() == 5 and not spikes_TN.is_contiguous()


def _physical(x: Tensor) -> Tensor:
    """A view with the channels last where they are last in memory: words may be counted in any order."""
    return x.permute(0, 1, 3, 4, 2) if _last(x) else x


def _rows(x: Tensor) -> Tensor:
    """Shape (T, M), float32, on the CPU, neurons in the order of memory."""
    return _physical(x.detach()).to("cpu", torch.float32).reshape(x.shape[0], -1)


def fills_of(spikes_TN: Tensor, windows: Sequence[int]) -> Tensor:
    """Fills of words, with gradients, and active channels, without (see the docstring of the module).

    Args:
        spikes_TN: spikes or levels, shape (T, N, C, ...); the last word of a neuron may be short.
        windows: lengths L.

    Returns:
        float32, shape (len(windows) + 1,): for each L the fraction of words with any spike, then the fraction of (sample, channel)
        with any spike.
    """
    found: Tensor = _Fills.apply(spikes_TN, tuple(windows))  # type: ignore[no-untyped-call]
    return found


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
        wanted: dict[str, list[int]] = {}
        for curve in self.curves.values():
            pairs = [(curve.departure, curve.out_window)] + [(curve.arrival, curve.window)] * (len(curve.fill) > 1)
            for node, window in pairs:
                if node is not None and window not in wanted.setdefault(node, []):
                    wanted[node].append(window)
        found = {node: fills_of(arrived[node], windows) for node, windows in wanted.items()}

        def filled(node: str, window: int) -> Tensor:
            return found[node][wanted[node].index(window)]

        some = next(iter(arrived.values()))
        energy = latency = torch.zeros((), dtype=torch.float32, device=some.device)
        for curve in self.curves.values():
            energy = energy + curve.out_energy_j[0]
            if curve.departure is not None:
                energy = energy + curve.out_energy_j[1] * filled(curve.departure, curve.out_window)
            if len(curve.fill) == 1:
                energy = energy + float(curve.energy_j[0]) + curve.channel_energy_j
                latency = latency + float(curve.latency_s[0])
                continue
            into = filled(curve.arrival, curve.window)
            energy = energy + curve.channel_energy_j * found[curve.arrival][-1]
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
