"""One small torch module per node type: what each node makes of frames with T folded into the batch.

Letters: T time steps, N samples, C H W map.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from spikeloom.core.nodes import (
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
from spikeloom.snn.neurons import Accumulator, Dynamics, Membranes, checked_bits, integrated, leaky_sum, spike_loop
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

    def stepping(self, like: Tensor) -> Callable[[Tensor], Tensor]:
        """The node one step at a time, from its initial state: (N, *shape) of ``like`` to what it sends."""
        return lambda x: self(Frames(x, 1, False)).values

    def arrays(self) -> dict[str, Any]:
        """The node's fields that learn, as they are now."""
        return {}


class SynapseModule(NodeModule):
    """Conv1d, Conv2d or Linear.

    rule: what becomes of the weights before they are used (a mask, a grid); gradients pass through it. None leaves them.
    reading: forms the sums, without bias, in another way than by multiplying exactly: (this module, what arrived) -> sums.
    """

    def __init__(self, node: Conv1d | Conv2d | Linear) -> None:
        super().__init__()
        assert node.weight is not None
        self.node = node
        self.weight = _parameter(node.weight)
        self.bias = _parameter(node.bias) if node.has_bias else None
        self.rule: Callable[[Tensor], Tensor] | None = None
        self.reading: Callable[[SynapseModule, Tensor], Tensor] | None = None

    def used_weight(self) -> Tensor:
        """The weights that multiply."""
        return self.weight if self.rule is None else self.rule(self.weight)

    def forward(self, arrived: Frames) -> Frames:
        x, bias = arrived.values, self.bias
        if self.reading is not None:
            psum = self.reading(self, x)
            if bias is not None:
                psum = psum + (bias if bias.dim() > 1 else bias.reshape(-1, *([1] * (psum.dim() - 2))))
            return arrived.with_values(psum)
        each = bias if bias is not None and bias.dim() > 1 else None  # one for each neuron
        psum = self.sums(x, self.used_weight(), bias if each is None else None)
        return arrived.with_values(psum if each is None else psum + each)

    def sums(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """What reaches the neurons when maps ``x`` meet ``weight``; shape (frames, K, ...)."""
        node = self.node
        if isinstance(node, Linear):
            return F.linear(x, weight, bias)
        conv: Callable[..., Tensor] = F.conv2d if isinstance(node, Conv2d) else F.conv1d
        return conv(x, weight, bias, node.stride, node.padding, node.dilation, node.groups)

    def arrays(self) -> dict[str, Any]:
        found = {"weight": _array(self.used_weight())}
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

    def arrays(self) -> dict[str, Any]:
        return {key: _array(getattr(self, key)) for key in ("gamma", "beta", "mean", "var")}


class SpikingNeuron(NodeModule):
    """IF, LIF or CubaLIF, all steps in one pass where the compiled kernel knows the neuron."""

    def __init__(self, dynamics: Dynamics, kind: Surrogate) -> None:
        super().__init__()
        self.dynamics, self.kind = dynamics, kind

    def forward(self, arrived: Frames) -> Frames:
        if not self.dynamics.fusable:
            return arrived.at_every_step(spike_loop(arrived.over_time(), self.dynamics, self.kind).flatten(0, 1))
        dtype = arrived.values.dtype
        if self.dynamics.syn_kept is not None:
            assert isinstance(self.dynamics.syn_kept, float)
            arrived = arrived.at_every_step(leaky_sum(arrived.over_time(), self.dynamics.syn_kept).flatten(0, 1))
        direct = replace(self.dynamics, syn_kept=None)  # what arrives now is the current itself
        spikes = spikes_of(arrived.values, arrived.num_steps, arrived.constant, direct, self.kind)
        return arrived.at_every_step(spikes.to(dtype))

    def stepping(self, like: Tensor) -> Callable[[Tensor], Tensor]:
        return Membranes(like, self.dynamics, self.kind).step

    def rate(self, psum_TN: Tensor) -> float:
        """Spikes per neuron and step for given sums, shape (T, N, *shape)."""
        arrived = Frames(psum_TN.flatten(0, 1), psum_TN.shape[0], False)
        return float(self(arrived).values.mean())


class Integrator(NodeModule):
    """LI read-out: membranes in float32, no spikes."""

    def __init__(self, node: LI) -> None:
        super().__init__()
        self.node = node

    def forward(self, arrived: Frames) -> Frames:
        return arrived.at_every_step(integrated(arrived.over_time(), self.node).flatten(0, 1))

    def stepping(self, like: Tensor) -> Callable[[Tensor], Tensor]:
        return Accumulator(like, self.node).step


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

    def stepping(self, like: Tensor) -> Callable[[Tensor], Tensor]:
        raise AssertionError("a loop keeps what its delays hold itself")


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


class MeanOfWindows(torch.autograd.Function):
    """Average pool; ``divisor`` instead of the window's size makes it a sum.

    As `torch.nn.functional.avg_pool2d`, which keeps its whole input for a backward pass that needs no more than its shape. Maps of
    spikes before a pool are among the largest of a network and nobody else reads them.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, node: AvgPool2d | SumPool2d, divisor: int | None) -> Tensor:
        """``x`` (frames, C, H, W)."""
        ctx.shape, ctx.node, ctx.divisor = x.shape, node, divisor
        ctx.last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
        return F.avg_pool2d(x, node.kernel, node.stride, node.padding, divisor_override=divisor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """Gradient with respect to ``x``."""
        (grad,), node = grads, ctx.node
        # Only the shape and the memory order of what stands for x are read; its memory is never touched.
        layout = torch.channels_last if ctx.last else torch.contiguous_format
        like = torch.empty(ctx.shape, dtype=grad.dtype, device=grad.device, memory_format=layout)
        pooled = torch.ops.aten.avg_pool2d_backward.default
        return pooled(grad, like, node.kernel, node.stride, node.padding, False, True, ctx.divisor), None, None


def window_means(node: AvgPool2d | SumPool2d, divisor: int | None) -> FrameByFrame:
    """The module of an average pool, or with ``divisor`` 1 of a sum pool."""

    def pool(x: Tensor) -> Tensor:
        pooled: Tensor = MeanOfWindows.apply(x, node, divisor)  # type: ignore[no-untyped-call]
        return pooled

    return FrameByFrame(pool)


class ClippedReLUModule(NodeModule):
    """Clipped ramp or QCFS staircase; the ceiling of a staircase learns."""

    def __init__(self, node: ClippedReLU) -> None:
        super().__init__()
        self.levels = node.levels
        self.ceiling = nn.Parameter(
            torch.tensor(node.ceiling, dtype=torch.float32), requires_grad=node.levels is not None
        )

    def forward(self, arrived: Frames) -> Frames:
        return arrived.with_values(staircase(arrived.values, self.ceiling, self.levels))

    def arrays(self) -> dict[str, Any]:
        return {"ceiling": _array(self.ceiling) if self.ceiling.dim() else float(self.ceiling.detach())}


def staircase(x: Tensor, ceiling: float | Tensor, levels: int | None) -> Tensor:
    """``clip(x, 0, ceiling)``, in ``levels`` steps ``ceiling * clip(floor(x*L/ceiling + 1/2)/L, 0, 1)`` (QCFS, Bu et al., ICLR 2022).

    The gradient is that of the clipped ramp (straight through the floor); that of the ceiling is ``steps - x/ceiling`` below it, 1 above.
    """
    if levels is None:
        return x.clamp(0, ceiling) if isinstance(ceiling, float) else torch.minimum(x.clamp(min=0), ceiling)
    ramp = (x / ceiling).clamp(0, 1)
    steps = (ramp.detach() * levels + 0.5).floor() / levels
    return (ramp + (steps - ramp).detach()) * ceiling


def node_module(name: str, node: Node, kind: Surrogate, detach_reset: bool) -> NodeModule | None:
    """The module of ``node``, whose arrays are all present; None for nodes that pass on what they get.

    Raises:
        NetworkError: a node type or a padding that cannot be executed.
    """
    match node:
        case Input() | Output() | Add():
            return None  # several edges into a node add up before the node sees them
        case Conv1d() | Conv2d() | Linear():
            return SynapseModule(node)
        case BatchNorm():
            return BatchNormModule(node)
        case IF() | LIF() | CubaLIF():
            return SpikingNeuron(Dynamics.of(name, node, detach_reset=detach_reset), kind)
        case LI():
            checked_bits(name, node)
            return Integrator(node)
        case Delay():
            return DelayModule(node.steps)
        case Scale():
            return ScaleModule(node)
        case Flatten():
            return FrameByFrame(lambda x: x.flatten(1))
        case SumPool2d() | AvgPool2d() | MaxPool2d() if any(
            2 * p > k for p, k in zip(node.padding, node.kernel, strict=True)
        ):
            raise NetworkError(
                f"node '{name}' ({type(node).__name__}) has padding {list(node.padding)}, expected at most half its kernel "
                f"{list(node.kernel)}"
            )
        case SumPool2d():
            return window_means(node, 1)
        case AvgPool2d():
            return window_means(node, None)
        case MaxPool2d():
            return FrameByFrame(lambda x: F.max_pool2d(x, node.kernel, node.stride, node.padding))
        case ReLU():
            return FrameByFrame(F.relu)
        case ClippedReLU():
            return ClippedReLUModule(node)
    raise NetworkError(f"node '{name}' ({type(node).__name__}) cannot be executed")


def _parameter(array: np.ndarray | None) -> nn.Parameter:
    """float32, of integers float64, which holds them; `SpikingModule` then chooses what all are computed in."""
    assert array is not None
    whole = np.issubdtype(array.dtype, np.integer)
    return nn.Parameter(torch.tensor(array, dtype=torch.float64 if whole else torch.float32))


def _array(value: Tensor) -> np.ndarray:
    value = value.detach().cpu()
    array: np.ndarray = (value if value.dtype == torch.float64 else value.float()).contiguous().numpy().copy()
    return array
