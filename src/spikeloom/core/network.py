"""Network: named nodes in NIR's words, the edges between them, and every choice that changes what is computed.

Dimension letters: T time steps, N samples, C input channels, K output channels, H W input map, P Q output map,
R S kernel. Shapes never hold T or N. Weights may be absent (a network read from a bare trace has none).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np

from spikeloom.errors import NetworkError

Reset = Literal["hard", "soft", "none"]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Leak:
    """What is lost of the membrane in one step, exactly one of two forms.

    shift: ``v <- v - (v >> shift)`` (integers, arithmetic shift) or ``v <- v * (1 - 2**-shift)`` (floats).
    factor: ``v <- factor * v``.
    """

    shift: int | None = None
    factor: float | None = None

    def __post_init__(self) -> None:
        if (self.shift is None) == (self.factor is None):
            raise NetworkError(
                f"leak needs exactly one of shift and factor, got shift={self.shift} factor={self.factor}"
            )
        if self.shift is not None and not 1 <= self.shift <= 31:
            raise NetworkError(f"leak shift must be 1..31, got {self.shift}")
        if self.factor is not None and not 0 <= self.factor <= 1:
            raise NetworkError(f"leak factor must be 0..1, got {self.factor}")

    @property
    def kept(self) -> float:
        """Fraction of the membrane that is left after one step."""
        return 1 - 2.0**-self.shift if self.shift is not None else float(self.factor or 0.0)


@dataclass(frozen=True, eq=False)
class Input:
    """The network's input map, ``shape`` = [C, H, W] or [C]; ``encoding`` says what arrives there."""

    shape: Shape
    encoding: Literal["spikes", "levels", "analog"] = "spikes"


@dataclass(frozen=True, eq=False)
class Output:
    """The network's output."""

    shape: Shape


@dataclass(frozen=True, eq=False)
class Conv2d:
    """``psum[k,p,q] = sum_crs W[k,c,r,s] * x[c, p*stride+r*dilation-padding, ...] (+ bias[k])``; a conv1d has H = R = 1."""

    in_channels: int
    out_channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    has_bias: bool = False
    weight_bits: int = 8
    weight: np.ndarray | None = None  # K C/groups R S
    bias: np.ndarray | None = None  # K


@dataclass(frozen=True, eq=False)
class Conv1d:
    """``psum[k,q] = sum_cs W[k,c,s] * x[c, q*stride+s*dilation-padding] (+ bias[k])``."""

    in_channels: int
    out_channels: int
    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1
    has_bias: bool = False
    weight_bits: int = 8
    weight: np.ndarray | None = None  # K C/groups S
    bias: np.ndarray | None = None  # K


@dataclass(frozen=True, eq=False)
class Linear:
    """``psum[k] = sum_c W[k,c] * x[c] (+ bias[k])``; NIR's Linear without bias, NIR's Affine with one."""

    in_features: int
    out_features: int
    has_bias: bool = False
    weight_bits: int = 8
    weight: np.ndarray | None = None  # K C
    bias: np.ndarray | None = None  # K


@dataclass(frozen=True, eq=False)
class Scale:
    """``y = scale * x`` element by element (broadcast over the map)."""

    scale: np.ndarray


@dataclass(frozen=True, eq=False)
class BatchNorm:
    """``y = gamma * (x - mean) / sqrt(var + eps) + beta`` per channel; folded away before recording."""

    num_features: int
    eps: float = 1e-5
    gamma: np.ndarray | None = None
    beta: np.ndarray | None = None
    mean: np.ndarray | None = None
    var: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class IF:
    """``v = u + psum; spike = v >= v_threshold (strict: >); u = 0 (hard), v - v_threshold*spike (soft), v (none)``."""

    v_threshold: float | None = 1.0
    reset: Reset = "hard"
    strict: bool = False
    v_init: float = 0.0


@dataclass(frozen=True, eq=False)
class LIF:
    """As IF with ``v = leaked(u) + psum``: the leak acts on the kept membrane, before the sum of the step arrives.

    leak: None only in a network read from a trace that does not state it.
    """

    leak: Leak | None
    v_threshold: float | None = 1.0
    reset: Reset = "hard"
    strict: bool = False
    v_init: float = 0.0


@dataclass(frozen=True, eq=False)
class CubaLIF:
    """LIF behind a leaky synaptic current: ``i = syn_leaked(i) + psum; v = leaked(u) + i``."""

    leak: Leak | None
    syn_leak: Leak | None
    v_threshold: float | None = 1.0
    reset: Reset = "hard"
    strict: bool = False


@dataclass(frozen=True, eq=False)
class LI:
    """Leaky integrator read-out without spikes: ``v = leaked(u) + psum`` (leak None: a plain accumulator)."""

    leak: Leak | None = None


@dataclass(frozen=True, eq=False)
class ReLU:
    """``y = max(x, 0)``: an ANN's activation."""


@dataclass(frozen=True, eq=False)
class ClippedReLU:
    """``y = clip(x, 0, ceiling)``; with ``levels`` the QCFS staircase of that many steps."""

    ceiling: float
    levels: int | None = None


@dataclass(frozen=True, eq=False)
class SumPool2d:
    """Sum over a kernel window of each channel."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)


@dataclass(frozen=True, eq=False)
class AvgPool2d:
    """Mean over a kernel window of each channel; a trace records it as the sum, the factor 1/(R*S) goes to the weights."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)


@dataclass(frozen=True, eq=False)
class MaxPool2d:
    """Maximum over a kernel window of each channel (on spikes: OR)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)


@dataclass(frozen=True, eq=False)
class Flatten:
    """[C, H, W] -> [C*H*W], row-major."""


@dataclass(frozen=True, eq=False)
class Delay:
    """Shift by whole time steps."""

    steps: int = 1


@dataclass(frozen=True, eq=False)
class Add:
    """Sum of several inputs of one shape (residual connection)."""


Node = (
    Input
    | Output
    | Conv1d
    | Conv2d
    | Linear
    | Scale
    | BatchNorm
    | IF
    | LIF
    | CubaLIF
    | LI
    | ReLU
    | ClippedReLU
    | SumPool2d
    | AvgPool2d
    | MaxPool2d
    | Flatten
    | Delay
    | Add
)
Synapse = Conv1d | Conv2d | Linear
Neuron = IF | LIF | CubaLIF | LI | ReLU | ClippedReLU
Pool = SumPool2d | AvgPool2d | MaxPool2d
SYNAPSES: tuple[type, ...] = (Conv1d, Conv2d, Linear)
NEURONS: tuple[type, ...] = (IF, LIF, CubaLIF, LI, ReLU, ClippedReLU)
SPIKING: tuple[type, ...] = (IF, LIF, CubaLIF)
POOLS: tuple[type, ...] = (SumPool2d, AvgPool2d, MaxPool2d)
#: Nodes at which a trace records what arrived: the layers of a workload.
LAYERS: tuple[type, ...] = (*SYNAPSES, *POOLS, Add)
#: Every node class by its name, the word a file uses.
NODE_TYPES: dict[str, type] = {
    cls.__name__: cls for cls in (Input, Output, *SYNAPSES, Scale, BatchNorm, *NEURONS, *POOLS, Flatten, Delay, Add)
}


def window_out(size: int, kernel: int, stride: int, padding: int, dilation: int = 1) -> int:
    """Output extent of a sliding window: ``floor((size + 2*padding - dilation*(kernel-1) - 1) / stride) + 1``."""
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def _check_sizes(name: str, node: Node, sizes: tuple[int, ...]) -> None:
    if min(sizes, default=1) < 1:
        raise NetworkError(
            f"node '{name}' ({type(node).__name__}) has sizes {list(sizes)}, expected kernel, stride, dilation and groups "
            "of at least 1"
        )


def _check_synapse(name: str, node: Conv1d | Conv2d | Linear, sizes: tuple[int, ...]) -> None:
    """Sizes of at least 1, and weights and bias, where there are any, of the shape they give."""
    _check_sizes(name, node, sizes)
    if isinstance(node, Linear):
        shape: Shape = (node.out_features, node.in_features)
    else:
        kernel = node.kernel if isinstance(node, Conv2d) else (node.kernel,)
        shape = (node.out_channels, node.in_channels // node.groups, *kernel)
    for what, array, expected in (("weight", node.weight, shape), ("bias", node.bias, shape[:1])):
        if array is not None and array.shape != expected:
            raise NetworkError(
                f"node '{name}' ({type(node).__name__}) has a {what} of shape {list(array.shape)}, expected {list(expected)}"
            )


def node_out_shape(name: str, node: Node, shape: Shape) -> Shape:
    """Shape behind ``node`` when ``shape`` arrives. Raises NetworkError naming the node when they do not fit."""

    def need(ok: bool, expected: str) -> None:
        if not ok:
            raise NetworkError(
                f"node '{name}' ({type(node).__name__}) got an input of shape {list(shape)}, expected {expected}"
            )

    match node:
        case Input() | Output():
            need(shape == node.shape, f"{list(node.shape)}")
            return shape
        case Conv2d():
            _check_synapse(name, node, (*node.kernel, *node.stride, *node.dilation, node.groups))
            need(len(shape) == 3 and shape[0] == node.in_channels, f"[{node.in_channels}, H, W]")
            need(
                node.in_channels % node.groups == 0 and node.out_channels % node.groups == 0,
                f"channels divisible by groups={node.groups}",
            )
            out = tuple(
                window_out(shape[a + 1], node.kernel[a], node.stride[a], node.padding[a], node.dilation[a])
                for a in (0, 1)
            )
            need(min(out) >= 1, f"a map of at least the kernel {list(node.kernel)}")
            return (node.out_channels, *out)
        case Conv1d():
            _check_synapse(name, node, (node.kernel, node.stride, node.dilation, node.groups))
            need(len(shape) == 2 and shape[0] == node.in_channels, f"[{node.in_channels}, W]")
            out_w = window_out(shape[1], node.kernel, node.stride, node.padding, node.dilation)
            need(out_w >= 1, f"at least {node.kernel} positions")
            return (node.out_channels, out_w)
        case Linear():
            _check_synapse(name, node, ())
            need(shape == (node.in_features,), f"[{node.in_features}]")
            return (node.out_features,)
        case BatchNorm():
            need(len(shape) >= 1 and shape[0] == node.num_features, f"{node.num_features} channels")
            return shape
        case SumPool2d() | AvgPool2d() | MaxPool2d():
            _check_sizes(name, node, (*node.kernel, *node.stride))
            need(len(shape) == 3, "[C, H, W]")
            out = tuple(window_out(shape[a + 1], node.kernel[a], node.stride[a], node.padding[a]) for a in (0, 1))
            need(min(out) >= 1, f"a map of at least the kernel {list(node.kernel)}")
            return (shape[0], *out)
        case Flatten():
            return (int(np.prod(shape)),)
        case _:
            return shape


@dataclass(frozen=True, eq=False)
class Network:
    """A directed graph of nodes; ``nodes`` keeps its order, edges are (source, destination) names.

    metadata holds plain JSON values that travel with the network (data set, encoding, accuracy, seed).
    """

    nodes: Mapping[str, Node]
    edges: tuple[tuple[str, str], ...]
    name: str = "network"
    dt_s: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for src, dst in self.edges:
            for end in (src, dst):
                if end not in self.nodes:
                    raise NetworkError(f"edge {src} -> {dst} names '{end}', which is no node of network '{self.name}'")

    def inputs_of(self, name: str) -> tuple[str, ...]:
        """Names of the nodes whose outputs feed ``name``, in edge order."""
        return tuple(src for src, dst in self.edges if dst == name)

    def outputs_of(self, name: str) -> tuple[str, ...]:
        """Names of the nodes fed by ``name``, in edge order."""
        return tuple(dst for src, dst in self.edges if src == name)

    def order(self) -> tuple[str, ...]:
        """Node names in execution order (Kahn; ties by node order). A cycle is an error that names its nodes."""
        waiting = {name: {s for s in self.inputs_of(name) if s != name} for name in self.nodes}
        done: list[str] = []
        while waiting:
            ready = next((name for name, needs in waiting.items() if not needs), None)
            if ready is None:
                raise NetworkError(
                    f"network '{self.name}' has a cycle through {sorted(waiting)}; only self-loops are understood"
                )
            del waiting[ready]
            done.append(ready)
            for needs in waiting.values():
                needs.discard(ready)
        return tuple(done)

    def shapes(self) -> dict[str, Shape]:
        """Output shape of every node, by our own inference. Raises NetworkError where shapes do not fit."""
        found: dict[str, Shape] = {}
        for name in self.order():
            node = self.nodes[name]
            if isinstance(node, Input):
                found[name] = node.shape
                continue
            sources = [found[s] for s in self.inputs_of(name) if s != name]
            if not sources:
                raise NetworkError(f"node '{name}' ({type(node).__name__}) has no input")
            if any(s != sources[0] for s in sources):
                raise NetworkError(f"node '{name}' gets inputs of different shapes {[list(s) for s in sources]}")
            found[name] = node_out_shape(name, node, sources[0])
        return found

    def layers(self) -> tuple[str, ...]:
        """Names of the synapse, pool and add nodes in execution order."""
        return tuple(name for name in self.order() if isinstance(self.nodes[name], LAYERS))

    def layer_inputs(self, name: str) -> tuple[str, ...]:
        """Layers whose outputs reach ``name`` without another layer between; the network's input is none."""
        found: list[str] = []
        waiting = list(self.inputs_of(name))
        seen: set[str] = set()
        while waiting:
            source = waiting.pop(0)
            if source in seen:
                continue
            seen.add(source)
            if isinstance(self.nodes[source], LAYERS):
                found.append(source)
            else:
                waiting = [*self.inputs_of(source), *waiting]
        return tuple(dict.fromkeys(found))

    def layer_neuron(self, name: str) -> str | None:
        """The neuron node behind a layer, or None when another layer or the output follows first."""
        waiting = [dst for dst in self.outputs_of(name) if dst != name]
        seen: set[str] = set()
        while waiting:
            follower = waiting.pop(0)
            if follower in seen:
                continue
            seen.add(follower)
            if isinstance(self.nodes[follower], NEURONS):
                return follower
            if not isinstance(self.nodes[follower], (*LAYERS, Output)):
                waiting.extend(self.outputs_of(follower))
        return None

    @property
    def id(self) -> str:
        """SHA-256 over everything that affects what the network computes."""
        digest = hashlib.sha256()
        for name, node in self.nodes.items():
            digest.update(f"{name}:{type(node).__name__}".encode())
            for item in fields(node):
                value = getattr(node, item.name)
                if isinstance(value, np.ndarray):
                    digest.update(f"{item.name}{value.dtype}{value.shape}".encode())
                    digest.update(np.ascontiguousarray(value).tobytes())
                else:
                    digest.update(f"{item.name}={value!r}".encode())
        digest.update(json.dumps([list(e) for e in self.edges]).encode())
        digest.update(repr(self.dt_s).encode())
        return digest.hexdigest()


def chain(
    name: str, nodes: Mapping[str, Node], *, dt_s: float | None = None, metadata: Mapping[str, Any] | None = None
) -> Network:
    """A network whose nodes follow one another in the order given."""
    names = list(nodes)
    return Network(dict(nodes), tuple(zip(names, names[1:], strict=False)), name, dt_s, dict(metadata or {}))
