"""Sums read from crossbars while a network runs: effective weights, converters at the columns, digital scale and shift behind them.

Letters: T time steps, N samples, K C output and input channels, X size of a crossbar.

An input of more than one bit arrives bit by bit. Each crossbar (one kernel position, X input channels) drives its columns, a converter
clamps and rounds every sum, and what it says is added up in digital: over bits, slices, crossbars.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spikeloom.core.nodes import Conv1d, Linear, Synapse
from spikeloom.core.signals import Signal, received_signals
from spikeloom.errors import NetworkError
from spikeloom.snn.build import SpikingModule
from spikeloom.snn.modules import SynapseModule
from spikeloom.transform.adc import Adc, adc_conv2d
from spikeloom.transform.crossbar import Crossbars, Programmed, on_levels, program


class Reading:
    """How one synapse adds up on crossbars; a ``SynapseModule.reading``.

    crossbars: where its weights are. signal: what arrives. step: value of a level of the weights, (K, 1, ...).
    rng: draws another chip for every ``every`` batches that want gradients, which pass straight through to the weights; None keeps the
        chip.
    programmed: the chip; None until one is drawn.
    full_scale: levels at full scale of the converter; None until known.
    scale, shift: of each output channel, in digital; None for none.
    """

    def __init__(
        self,
        crossbars: Crossbars,
        signal: Signal,
        step: np.ndarray,
        programmed: Programmed | None,
        rng: np.random.Generator | None = None,
        every: int = 1,
    ) -> None:
        self.crossbars, self.signal, self.rng, self.every = crossbars, signal, rng, every
        self.batches = 0
        self.step = torch.from_numpy(step)
        self.full_scale = crossbars.adc_range
        self.scale: Tensor | None = None
        self.shift: Tensor | None = None
        self.wanted: Moments | None = None
        self.measuring = False
        self.write(programmed)

    def write(self, programmed: Programmed | None) -> None:
        """Use this chip from now on."""
        self.programmed = programmed
        if programmed is not None:
            error = programmed.error
            self._error = (self.step * torch.from_numpy(error)).float() if error.any() else None

    def __call__(self, synapse: SynapseModule, x: Tensor) -> Tensor:
        """The sums, without bias; shape (frames, K, ...)."""
        weight = synapse.used_weight()
        if self.rng is not None:
            if self.programmed is None or (torch.is_grad_enabled() and self.batches % self.every == 0):
                levels = (weight.detach().double() / self.step).round().numpy()
                node = synapse.node
                groups = 1 if isinstance(node, Linear) else node.groups
                self.write(program(levels, node.weight_bits, self.crossbars, self.rng, groups))
            self.batches += torch.is_grad_enabled()
        psum = synapse.sums(x, weight if self._error is None else weight + self._error)
        if self.crossbars.adc_bits is not None:
            with torch.no_grad():
                read = self._converted(synapse, x)
            psum = psum + (read - psum).detach() if psum.requires_grad else read
        if self.wanted is not None:
            self._adapt(psum)
        if self.scale is not None and self.shift is not None:
            psum = psum * _per_channel(self.scale, psum) + _per_channel(self.shift, psum)
        return psum

    def _adapt(self, psum: Tensor) -> None:
        """Choose scale and shift that give every channel the moments that are wanted."""
        assert self.wanted is not None
        found = Moments.of(psum)
        safe = torch.where(found.std > 0, found.std, torch.ones_like(found.std))
        scale = torch.where(found.std > 0, self.wanted.std / safe, torch.ones_like(found.std))
        self.scale, self.shift = scale.float(), (self.wanted.mean - scale * found.mean).float()
        self.wanted = None

    def _converted(self, synapse: SynapseModule, x: Tensor) -> Tensor:
        """Sums of what converters say; while measuring, those of ideal ones, and the largest becomes the full scale."""
        assert self.programmed is not None and self.crossbars.adc_bits is not None
        levels = torch.round(x / self.signal.unit)
        factors = [factor for factor, _ in self.programmed.slices]
        slices = torch.from_numpy(np.stack([part for _, part in self.programmed.slices])).float()
        maps, weight_MKCRS, geometry = as_maps(synapse.node, levels, slices)
        size, adc = self.crossbars.size, None
        if self.measuring:
            sums = (
                part
                for _, plane in bit_planes(maps, self.signal)
                for part in partial_sums(plane, weight_MKCRS, size, geometry)
            )
            self.full_scale = max((float(part.abs().max()) for part in sums), default=0.0)
        else:
            # a layer in which calibration met no spike has a scale all the same
            scale, bits = self.full_scale or float(slices.abs().sum(2).max()) or 1.0, self.crossbars.adc_bits
            signed = self.crossbars.pairs == "differential" or self.signal.signed
            adc = Adc.bipolar(bits, scale) if signed else Adc.unipolar(bits, scale)
        total = torch.zeros(())
        for worth, plane in bit_planes(maps, self.signal):
            total = total + worth * adc_conv2d(plane, weight_MKCRS, factors, rows=size, adc=adc, **geometry)
        psum = total.reshape(len(x), len(weight_MKCRS[0]), *total.shape[2 + 4 - x.dim() :])
        if self.programmed.correction is not None:
            psum = psum + synapse.sums(levels, torch.from_numpy(self.programmed.correction).float())
        return psum * _per_channel(self.step.flatten().float() * self.signal.unit, psum)


def as_maps(node: Synapse, x: Tensor, weight_M: Tensor) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """A linear layer or a conv1d as a conv2d: maps (frames, C, H, W), weights (M, K, C/groups, R, S), and the geometry."""
    if isinstance(node, Linear):
        return x[:, :, None, None], weight_M[..., None, None], {}
    if isinstance(node, Conv1d):
        pairs = {"stride": (1, node.stride), "padding": (0, node.padding), "dilation": (1, node.dilation)}
        return x[:, :, None], weight_M[:, :, :, None], {**pairs, "groups": node.groups}
    geometry = {key: getattr(node, key) for key in ("stride", "padding", "dilation", "groups")}
    return x, weight_M, geometry


def bit_planes(levels: Tensor, signal: Signal) -> Iterator[tuple[int, Tensor]]:
    """(worth, 0/1 plane, -1 where the level is negative) of each bit of whole numbers."""
    if signal.max_level == 1:
        yield 1, levels
        return
    size, sign = levels.abs().int(), levels.sign()
    for bit in range(signal.bits):
        yield 1 << bit, (size >> bit & 1).to(levels.dtype) * sign


def partial_sums(x: Tensor, weight_MKCRS: Tensor, size: int, geometry: Mapping[str, Any]) -> Iterator[Tensor]:
    """What the columns of each crossbar carry, (frames, K, P, Q) for each slice, kernel position and ``size`` inputs of a group."""
    (down, across), (top, left) = geometry.get("stride", (1, 1)), geometry.get("padding", (0, 0))
    dilation, groups = geometry.get("dilation", (1, 1)), geometry.get("groups", 1)
    _, _, channels, high, wide = weight_MKCRS.shape
    padded = F.pad(x, (left, left, top, top))
    tall = padded.shape[2] - dilation[0] * (high - 1)
    broad = padded.shape[3] - dilation[1] * (wide - 1)
    for weight, r, s, start in product(weight_MKCRS, range(high), range(wide), range(0, channels, size)):
        i, j, some = r * dilation[0], s * dilation[1], slice(start, start + size)
        seen = padded[:, :, i : i + tall : down, j : j + broad : across]
        maps = seen.reshape(len(x), groups, channels, *seen.shape[2:])[:, :, some].flatten(1, 2)
        yield F.conv2d(maps, weight[:, some, r : r + 1, s : s + 1], groups=groups)


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and standard deviation of every channel over frames and map; float64, shape (K,)."""

    mean: Tensor
    std: Tensor

    @staticmethod
    def of(psum: Tensor) -> Moments:
        """Of sums of shape (frames, K, ...)."""
        rows = psum.detach().double().transpose(0, 1).flatten(1)
        return Moments(rows.mean(1), rows.std(1, correction=0))


def _per_channel(value: Tensor, psum: Tensor) -> Tensor:
    return value.reshape(-1, *([1] * (psum.dim() - 2)))


def synapses(module: SpikingModule) -> dict[str, SynapseModule]:
    """The synapses of a module by name."""
    found = {name: module.module_of(name) for name in module.network.nodes}
    return {name: synapse for name, synapse in found.items() if isinstance(synapse, SynapseModule)}


def install(
    module: SpikingModule,
    crossbars: Crossbars,
    rng: np.random.Generator,
    *,
    steps: Mapping[str, np.ndarray] | None = None,
    every: int = 1,
) -> dict[str, Reading]:
    """Let every synapse of ``module`` add up on crossbars.

    Args:
        module: weights on a grid, or with a rule that keeps them on one.
        crossbars: where its weights go.
        rng: draws the chip.
        steps: value of a level of each synapse's weights; then what learns meets chip after chip. None draws one chip.
        every: batches that share a chip.

    Returns:
        The readings by synapse.

    Raises:
        NetworkError: weights off the grid; steps of a network with a loop; with an ADC, an input that is neither spikes nor levels.
    """
    if steps is not None:
        _check_order(module)
    received = received_signals(module.network)
    readings = {}
    for name, synapse in synapses(module).items():
        signal, node = received[name], synapse.node
        if crossbars.adc_bits is not None and signal.kind == "real":
            raise NetworkError(
                f"layer '{name}' gets real values, which cannot drive a crossbar bit by bit; put it behind a spiking neuron, or leave "
                f"adc_bits out"
            )
        if steps is None:
            levels, step = on_levels(name, node, crossbars.pairs)
            groups = 1 if isinstance(node, Linear) else node.groups
            chip = program(levels, node.weight_bits, crossbars, rng, groups)
            readings[name] = Reading(crossbars, signal, step, chip)
        else:
            readings[name] = Reading(crossbars, signal, steps[name], None, rng, every)
        synapse.reading = readings[name]
    return readings


def _check_order(module: SpikingModule) -> None:
    """Raise NetworkError for a network whose synapses do not see all steps at once."""
    if module.network.recurrent:
        raise NetworkError(
            f"network '{module.network.name}' has a loop; converters without adc_range, adaptation and fine-tuning on crossbars need one "
            f"without"
        )


def find_full_scales(
    module: SpikingModule, readings: Mapping[str, Reading], frames: Tensor, num_steps: int, constant: bool
) -> None:
    """Set every converter whose range is not given to the largest sum that the frames, as `SpikingModule` takes them, bring about."""
    measured = [
        reading
        for reading in readings.values()
        if reading.crossbars.adc_bits is not None and reading.crossbars.adc_range is None
    ]
    if not measured:
        return
    _check_order(module)
    for reading in measured:
        reading.measuring = True
    with torch.no_grad():
        module(frames, num_steps, constant)
    for reading in measured:
        reading.measuring = False


def adapt(
    module: SpikingModule,
    readings: Mapping[str, Reading],
    ideal: SpikingModule,
    frames: Tensor,
    num_steps: int,
    constant: bool,
) -> None:
    """Give the sums of every channel the mean and the deviation that they have without crossbars, by a digital scale and shift.

    What estimating the statistics of BatchNorm anew does to a network that still has it: (s - mean) / std gamma + beta. Layer follows
    layer, each on what the adapted ones before it send.

    Args:
        module: with ``readings``. ideal: the same network without. frames, num_steps, constant: calibration samples.
    """
    _check_order(module)
    wanted: dict[str, Moments] = {}

    def watch(name: str, arrived: Tensor, sent: Tensor) -> None:
        synapse = ideal.module_of(name)
        if name in readings and isinstance(synapse, SynapseModule):
            moments, bias = Moments.of(sent.flatten(0, 1)), synapse.bias
            if bias is not None:
                each = bias.flatten(1).mean(1) if bias.dim() > 1 else bias
                moments = Moments(moments.mean - each.detach(), moments.std)
            wanted[name] = moments

    with torch.no_grad():
        ideal(frames, num_steps, constant, watch)
        for name, reading in readings.items():
            reading.scale = reading.shift = None
            reading.wanted = wanted[name]
        module(frames, num_steps, constant)
