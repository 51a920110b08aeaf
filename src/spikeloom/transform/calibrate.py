"""Calibration of a converted SNN against its ANN, without labels (Li et al., ICML 2021 and IJCV 2024).

Bias: what a channel of the SNN says too little or too much, on average over samples, positions and time, is added to its bias,
layer after layer, so that a layer sees what the layers before it really send. Weights: then the synapse in front of each neuron
is tuned so that constant drive with the mean input the SNN really delivers says what the ANN says. Letters: T N C H W K.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spikeloom.core.nodes import LI, Conv1d, Conv2d, Linear, Synapse
from spikeloom.errors import NetworkError
from spikeloom.snn.build import input_frames
from spikeloom.snn.encode import Encoded
from spikeloom.snn.execute import Execution, Progress, Source, encoded_batches, runnable
from spikeloom.transform.convert import Converted
from spikeloom.transform.prepare import activations, feeding
from spikeloom.transform.thresholds import run_ann

Effort = Literal["none", "bias", "weights"]

_TUNING_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """Weight calibration: Adam, ``updates`` per layer at ``step`` times the root mean square of the layer's weights, falling to 0."""

    updates: int = 300
    step: float = 2e-3
    seed: int = 0


def calibrate(
    converted: Converted,
    source: Source,
    execution: Execution,
    effort: Effort = "bias",
    *,
    tuning: Tuning | None = None,
    progress: Progress | None = None,
) -> Converted:
    """The SNN with calibrated biases, and weights where ``effort`` says so, for ``execution.num_steps`` steps.

    Args:
        converted: from `convert`.
        source: calibration samples; no labels are used. All are held in memory, some hundred are enough.
        execution: T and how samples are shown.
        effort: "none", "bias", or "weights" (biases first, then weights).
        tuning: of the weights.
        progress: told after every layer.

    Raises:
        NetworkError: unknown effort, or biases that were put into the initial membrane.
    """
    if effort not in ("none", "bias", "weights"):
        raise NetworkError(f"calibration must be none, bias or weights, got '{effort}'")
    if effort == "none":
        return converted
    if converted.conversion.bias == "start":
        raise NetworkError(
            "calibration adds biases at every step; convert with bias 'steps', put them to the start afterwards"
        )
    work = _Calibration(converted, source, execution)
    ends = (*activations(converted.ann), work.read_out)
    for number, end in enumerate(ends, start=1):
        if effort == "weights" and end != work.read_out:
            work.tune(end, tuning or Tuning())
        work.shift(end)
        if progress is not None:
            progress("calibrate", number, len(ends), {})
    return replace(converted, network=work.network)


class _Calibration:
    """The SNN on its way, and what the ANN says on every calibration sample."""

    def __init__(self, converted: Converted, source: Source, execution: Execution) -> None:
        self.converted, self.network, self.num_steps = converted, converted.network, execution.num_steps
        self.read_out = next(name for name, node in converted.ann.nodes.items() if isinstance(node, LI))
        ann = runnable(converted.ann)
        self.batches: list[Encoded] = [encoded for _, encoded in encoded_batches(source, execution, ann.input_node)]
        self.wanted: dict[str, list[Tensor]] = {}
        ends = {*activations(converted.ann), self.read_out}

        def keep(name: str, _: Tensor, sent: Tensor) -> None:
            if name in ends:
                said = sent[-1] / len(sent) if name == self.read_out else sent.mean(0)
                self.wanted.setdefault(name, []).append(said)

        with torch.no_grad():
            for encoded in self.batches:
                run_ann(ann, encoded, converted.conversion.ann_frames, keep)

    def said(self, end: str, arriving: Sequence[str] = ()) -> tuple[list[Tensor], dict[str, list[Tensor]]]:
        """What ``end`` says on average over T in every batch, in units of the ANN, and the mean of what arrives at some nodes."""
        module = runnable(self.network)
        found: list[Tensor] = []
        mean_input: dict[str, list[Tensor]] = {name: [] for name in arriving}
        size = self._size(end)

        def keep(name: str, arrived: Tensor, sent: Tensor) -> None:
            if name in mean_input:
                mean_input[name].append(arrived.mean(0))
            if name == end:
                said = sent[-1] / self.num_steps if end == self.read_out else sent.mean(0)
                found.append(said * size.reshape(-1, *([1] * (said.dim() - 2))))

        with torch.no_grad():
            for encoded in self.batches:
                module(input_frames(module, encoded), self.num_steps, encoded.constant, keep)
        return found, mean_input

    def _size(self, end: str) -> Tensor:
        """What one spike of ``end`` stands for, by channel."""
        return torch.tensor(self.converted.thresholds.get(end, np.ones(1)), dtype=torch.float32)

    def shift(self, end: str) -> None:
        """Add the mean error of every channel of ``end`` to the bias in front of it."""
        said, _ = self.said(end)
        missing = torch.cat([want - have for want, have in zip(self.wanted[end], said, strict=True)])
        by_channel = missing.transpose(0, 1).flatten(1).mean(1) / self._size(end)
        synapse = next(iter(feeding(self.network, end)))
        self._replace(synapse, _with_bias(self.network.nodes[synapse], by_channel.numpy()))

    def tune(self, end: str, tuning: Tuning) -> None:
        """Tune the synapse directly in front of neuron ``end``; one among several is left as it is."""
        synapse = self.network.inputs_of(end)[0]
        node = self.network.nodes[synapse]
        if self.network.inputs_of(end) != (synapse,) or not isinstance(node, Synapse) or node.weight is None:
            return
        _, inputs = self.said(end, [synapse])
        size = self._size(end)
        x = torch.cat(inputs[synapse])
        wanted = torch.cat(self.wanted[end])
        wanted = (wanted / size.reshape(-1, *([1] * (wanted.dim() - 2)))).clamp(0, self.converted.conversion.max_level)
        weight = torch.tensor(node.weight, requires_grad=True)
        start = torch.zeros(len(node.weight)) if node.bias is None else torch.tensor(node.bias)
        bias = start.clone().requires_grad_()
        optimiser = torch.optim.Adam([weight, bias], lr=tuning.step * float(weight.detach().square().mean().sqrt()))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, tuning.updates)
        generator = torch.Generator().manual_seed(tuning.seed)
        for _ in range(tuning.updates):
            chosen = torch.randint(len(x), (min(_TUNING_BATCH, len(x)),), generator=generator)
            psum = _psum(node, x[chosen], weight, bias)
            loss = (self._constant_drive(psum) - wanted[chosen]).square().mean()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        tuned: Any = replace(node, weight=weight.detach().numpy().copy())
        self._replace(synapse, _with_bias(tuned, (bias.detach() - start).numpy()))

    def _constant_drive(self, psum: Tensor) -> Tensor:
        """``clip(floor(x*T + v_init), 0, T*max_level) / T``, straight through the floor."""
        conversion = self.converted.conversion
        ramp = psum.clamp(0, conversion.max_level)
        levels = (ramp.detach() * self.num_steps + conversion.v_init).floor() / self.num_steps
        return ramp + (levels - ramp).detach()

    def _replace(self, name: str, node: Any) -> None:
        self.network = replace(self.network, nodes={**self.network.nodes, name: node})


def _psum(node: Conv1d | Conv2d | Linear, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    each = bias if bias.dim() > 1 else None
    shared = bias if each is None else None
    if isinstance(node, Linear):
        return F.linear(x, weight, shared)
    convolution: Any = F.conv2d if isinstance(node, Conv2d) else F.conv1d
    psum: Tensor = convolution(x, weight, shared, node.stride, node.padding, node.dilation, node.groups)
    return psum if each is None else psum + each


def _with_bias(node: Any, added: np.ndarray) -> Any:
    """``node`` with ``added`` on its bias, by channel or in its bias's shape."""
    bias = np.zeros(len(node.weight), np.float32) if node.bias is None else node.bias
    extra = added if added.ndim == bias.ndim else added.reshape(-1, *([1] * (bias.ndim - 1)))
    return replace(node, bias=(bias + extra).astype(np.float32), has_bias=True)
