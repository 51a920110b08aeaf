"""One small torch module per node type: what each node makes of frames with T folded into the batch.

Letters: T time steps, N samples, C H W map.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spikeloom.core.network import (
    IF,
    LI,
    LIF,
    Add,
    AvgPool2d,
    BatchNorm,
    ClippedReLU,
    Conv1d,
    Conv2d,
    CubaLIF,
    Delay,
    Flatten,
    Input,
    Linear,
    MaxPool2d,
    Node,
    Output,
    ReLU,
    Scale,
    SumPool2d,
)
from spikeloom.errors import NetworkError
from spikeloom.snn.fused import spikes_of
from spikeloom.snn.neurons import Dynamics, kept_of, leaky_sum
from spikeloom.snn.surrogate import Surrogate


@dataclass(frozen=True, eq=False)
class Frames:
    """Maps over time on their way from node to node.

    values: shape (T*N, *shape) with T the slow index, or (N, *shape) when ``constant``: the same at every step.
    """

    values: Tensor
    num_steps: int
    constant: bool

    def over_time(self) -> Tensor:
        """A view of shape (T, N, *shape)."""
        if self.constant:
            return self.values.expand(self.num_steps, *self.values.shape)
        return self.values.reshape(self.num_steps, -1, *self.values.shape[1:])

    def unfolded(self) -> Tensor:
        """Every step, shape (T*N, *shape)."""
        return self.over_time().flatten(0, 1) if self.constant else self.values

    def with_values(self, values: Tensor) -> Frames:
        """Other maps, as many frames."""
        return Frames(values, self.num_steps, self.constant)

    def at_every_step(self, values: Tensor) -> Frames:
        """Maps that differ from step to step, shape (T*N, *shape)."""
        return Frames(values, self.num_steps, False)

    @staticmethod
    def summed(frames: list[Frames]) -> Frames:
        """Several edges into one node add up."""
        first = frames[0]
        if len(frames) == 1:
            return first
        if all(f.constant == first.constant for f in frames):
            return first.with_values(sum((f.values for f in frames[1:]), first.values))
        return first.at_every_step(sum((f.unfolded() for f in frames[1:]), first.unfolded()))


class NodeModule(nn.Module, ABC):
    """Abstract: one node. Subclasses implement ``forward`` and, if they learn, ``arrays``."""

    @abstractmethod
    def forward(self, arrived: Frames) -> Frames:
        """What the node sends when ``arrived`` arrives."""

    def arrays(self) -> dict[str, np.ndarray]:
        """The node's fields that are arrays, as they are now."""
        return {}


class SynapseModule(NodeModule):
    """Conv1d, Conv2d or Linear."""

    def __init__(self, node: Conv1d | Conv2d | Linear) -> None:
        super().__init__()
        assert node.weight is not None
        self.node = node
        self.weight = nn.Parameter(torch.tensor(node.weight, dtype=torch.float32))
        self.bias = nn.Parameter(torch.tensor(node.bias, dtype=torch.float32)) if node.has_bias else None

    def forward(self, arrived: Frames) -> Frames:
        node, x = self.node, arrived.values
        if isinstance(node, Linear):
            return arrived.with_values(F.linear(x, self.weight, self.bias))
        conv: Callable[..., Tensor] = F.conv2d if isinstance(node, Conv2d) else F.conv1d
        psum = conv(x, self.weight, self.bias, node.stride, node.padding, node.dilation, node.groups)
        return arrived.with_values(psum)

    def arrays(self) -> dict[str, np.ndarray]:
        found = {"weight": _array(self.weight)}
        return found if self.bias is None else {**found, "bias": _array(self.bias)}


class BatchNormModule(NodeModule):
    """Statistics over T, N and the map in training, running averages (momentum 0.1) otherwise."""

    def __init__(self, node: BatchNorm) -> None:
        super().__init__()
        self.eps = node.eps
        self.gamma = nn.Parameter(torch.tensor(node.gamma, dtype=torch.float32))
        self.beta = nn.Parameter(torch.tensor(node.beta, dtype=torch.float32))
        self.mean: Tensor
        self.var: Tensor
        self.register_buffer("mean", torch.tensor(node.mean, dtype=torch.float32))
        self.register_buffer("var", torch.tensor(node.var, dtype=torch.float32))

    def forward(self, arrived: Frames) -> Frames:
        return arrived.with_values(
            F.batch_norm(arrived.values, self.mean, self.var, self.gamma, self.beta, self.training, 0.1, self.eps)
        )

    def arrays(self) -> dict[str, np.ndarray]:
        return {key: _array(getattr(self, key)) for key in ("gamma", "beta", "mean", "var")}


class SpikingNeuron(NodeModule):
    """IF, LIF or CubaLIF, all steps in one pass."""

    def __init__(self, dynamics: Dynamics, kind: Surrogate, syn_kept: float | None) -> None:
        super().__init__()
        self.dynamics, self.kind, self.syn_kept = dynamics, kind, syn_kept

    def forward(self, arrived: Frames) -> Frames:
        if self.syn_kept is not None:
            arrived = arrived.at_every_step(leaky_sum(arrived.over_time(), self.syn_kept).flatten(0, 1))
        spikes = spikes_of(arrived.values, arrived.num_steps, arrived.constant, self.dynamics, self.kind)
        return arrived.at_every_step(spikes)

    def rate(self, psum_TN: Tensor) -> float:
        """Spikes per neuron and step for given sums, shape (T, N, *shape)."""
        arrived = Frames(psum_TN.flatten(0, 1), psum_TN.shape[0], False)
        return float(self(arrived).values.mean())


class Integrator(NodeModule):
    """LI read-out: membranes in float32, no spikes."""

    def __init__(self, node: LI) -> None:
        super().__init__()
        self.kept = 1.0 if node.leak is None else node.leak.kept

    def forward(self, arrived: Frames) -> Frames:
        return arrived.at_every_step(leaky_sum(arrived.over_time(), self.kept).flatten(0, 1))


class DelayModule(NodeModule):
    """Shift by whole steps; zeros come first."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.num_delay = steps

    def forward(self, arrived: Frames) -> Frames:
        x_TN = arrived.over_time()
        kept = max(0, arrived.num_steps - self.num_delay)
        late = torch.cat([torch.zeros_like(x_TN[kept:]), x_TN[:kept]])
        return arrived.at_every_step(late.flatten(0, 1))


class ScaleModule(NodeModule):
    """Element-wise factor."""

    def __init__(self, node: Scale) -> None:
        super().__init__()
        self.scale: Tensor
        self.register_buffer("scale", torch.tensor(node.scale, dtype=torch.float32))

    def forward(self, arrived: Frames) -> Frames:
        return arrived.with_values(arrived.values * self.scale)


class FrameByFrame(NodeModule):
    """Pools, activations, flatten: a function of each frame alone, without parameters."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, arrived: Frames) -> Frames:
        return arrived.with_values(self.function(arrived.values))


def staircase(x: Tensor, ceiling: float, levels: int | None) -> Tensor:
    """``clip(x, 0, ceiling)``, in ``levels`` steps ``ceiling * clip(floor(x*L/ceiling + 1/2)/L, 0, 1)`` (QCFS, Bu et al., ICLR 2022).

    The gradient is that of the clipped ramp (straight through the floor).
    """
    if levels is None:
        return x.clamp(0, ceiling)
    ramp = (x / ceiling).clamp(0, 1)
    steps = (ramp.detach() * levels + 0.5).floor() / levels
    return (ramp + (steps - ramp).detach()) * ceiling


def node_module(name: str, node: Node, kind: Surrogate, detach_reset: bool) -> NodeModule | None:
    """The module of ``node``, whose arrays are all present; None for nodes that pass on what they get.

    Raises:
        NetworkError: a node type that cannot be executed.
    """
    match node:
        case Input() | Output() | Add():
            return None  # several edges into a node add up before the node sees them
        case Conv1d() | Conv2d() | Linear():
            return SynapseModule(node)
        case BatchNorm():
            return BatchNormModule(node)
        case IF() | LIF():
            return SpikingNeuron(Dynamics.of(name, node, detach_reset=detach_reset), kind, None)
        case CubaLIF():
            return SpikingNeuron(Dynamics.of(name, node, detach_reset=detach_reset), kind, kept_of(name, node.syn_leak))
        case LI():
            return Integrator(node)
        case Delay():
            return DelayModule(node.steps)
        case Scale():
            return ScaleModule(node)
        case Flatten():
            return FrameByFrame(lambda x: x.flatten(1))
        case SumPool2d():
            return FrameByFrame(lambda x: F.avg_pool2d(x, node.kernel, node.stride, node.padding, divisor_override=1))
        case AvgPool2d():
            return FrameByFrame(lambda x: F.avg_pool2d(x, node.kernel, node.stride, node.padding))
        case MaxPool2d():
            return FrameByFrame(lambda x: F.max_pool2d(x, node.kernel, node.stride, node.padding))
        case ReLU():
            return FrameByFrame(F.relu)
        case ClippedReLU():
            return FrameByFrame(lambda x: staircase(x, node.ceiling, node.levels))
    raise NetworkError(f"node '{name}' ({type(node).__name__}) cannot be executed")


def _array(value: Tensor) -> np.ndarray:
    array: np.ndarray = value.detach().cpu().float().contiguous().numpy().copy()
    return array
