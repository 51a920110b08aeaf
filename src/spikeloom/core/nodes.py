"""The nodes of a network, in NIR's words and a few of ours, and the shape behind each.

Dimension letters: C input channels, K output channels, H W input map, P Q output map, R S kernel. Shapes never hold T or N.
Every choice that changes what is computed is a field of a node. A `Value` is one number for a whole map or an array that
broadcasts to it (per channel: shape (K, 1, 1)).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from spikeloom.errors import NetworkError

Reset = Literal["hard", "soft", "none"]
Overflow = Literal["saturate", "wrap"]
Shape = tuple[int, ...]
Value = float | np.ndarray


@dataclass(frozen=True, eq=False)
class Leak:
    """What is lost of the membrane in one step, exactly one of two forms.

    shift: ``v <- v - (v >> shift)`` (integers, arithmetic shift) or ``v <- v * (1 - 2**-shift)`` (floats).
    factor: ``v <- factor * v``, one for all neurons or an array of one each; on integers, with the 12-bit fixed-point
        ``f = round(factor * 4096)``, ``v <- (f * v) >> 12``.
    """

    shift: int | None = None
    factor: Value | None = None

    def __post_init__(self) -> None:
        if (self.shift is None) == (self.factor is None):
            raise NetworkError(
                f"leak needs exactly one of shift and factor, got shift={self.shift} factor={self.factor}"
            )
        if self.shift is not None and not 1 <= self.shift <= 31:
            raise NetworkError(f"leak shift must be 1..31, got {self.shift}")
        if self.factor is not None and not np.all((np.asarray(self.factor) >= 0) & (np.asarray(self.factor) <= 1)):
            raise NetworkError(f"leak factor must be 0..1, got {shown(self.factor)}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Leak) and self.shift == other.shift and np.array_equal(self.kept, other.kept)

    def __hash__(self) -> int:
        return hash((self.shift, (np.asarray(self.kept, np.float64) + 0.0).tobytes()))

    @property
    def kept(self) -> Value:
        """Fraction of the membrane that is left after one step."""
        if self.shift is not None:
            return 1 - 2.0**-self.shift
        assert self.factor is not None
        return self.factor


def shown(value: Value | None) -> str:
    """A value for an error message: the number, or the range of an array."""
    return f"{value.min()}..{value.max()}" if isinstance(value, np.ndarray) and value.size > 1 else str(value)


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
    bias: np.ndarray | None = None  # K, or one for each neuron: K P Q
    bias_bits: int | None = None


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
    bias_bits: int | None = None


@dataclass(frozen=True, eq=False)
class Linear:
    """``psum[k] = sum_c W[k,c] * x[c] (+ bias[k])``; NIR's Linear without bias, NIR's Affine with one."""

    in_features: int
    out_features: int
    has_bias: bool = False
    weight_bits: int = 8
    weight: np.ndarray | None = None  # K C
    bias: np.ndarray | None = None  # K
    bias_bits: int | None = None


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


@dataclass(frozen=True, eq=False, kw_only=True)
class Membrane:
    """What a node with a membrane says of its arithmetic.

    membrane_bits: of the two's-complement word that an integer network keeps a membrane in (the sign counts); None for floats.
    overflow: what happens beyond: "saturate" at the ends of the range, or "wrap" around.
    """

    membrane_bits: int | None = None
    overflow: Overflow = "saturate"


@dataclass(frozen=True, eq=False, kw_only=True)
class Firing(Membrane):
    """What spiking neurons have in common besides threshold and reset.

    v_reset: membrane after a hard reset.
    late_reset: a spike resets the membrane of the next step, after its leak and its input: ``v[t] = leaked(v[t-1]) + psum[t]``, then,
        if ``s[t-1]``, ``v[t] - v_threshold`` (soft) or ``v_reset`` (hard: the input of that step is lost). snnTorch does so.
    max_level: spikes are graded, ``level = clip(floor(v / v_threshold), 0, max_level)``; a soft reset subtracts ``level * v_threshold``.
    signed: ``v <= -v_threshold`` sends a negative level, as long as the levels sent so far sum to more than 0 (the sum never
        becomes negative).
    """

    v_reset: Value = 0.0
    late_reset: bool = False
    max_level: int = 1
    signed: bool = False


@dataclass(frozen=True, eq=False)
class IF(Firing):
    """``v = u + psum; spike = v >= v_threshold (strict: >); u = v_reset (hard), v - v_threshold*spike (soft), v (none)``."""

    v_threshold: Value | None = 1.0
    reset: Reset = "hard"
    strict: bool = False
    v_init: Value = 0.0


@dataclass(frozen=True, eq=False)
class LIF(Firing):
    """As IF with ``v = leaked(u) + psum``: the leak acts on the kept membrane, before the sum of the step arrives.

    leak: None only in a network read from a trace that does not state it.
    """

    leak: Leak | None
    v_threshold: Value | None = 1.0
    reset: Reset = "hard"
    strict: bool = False
    v_init: Value = 0.0


@dataclass(frozen=True, eq=False)
class CubaLIF(Firing):
    """LIF behind a leaky synaptic current: ``i = syn_leaked(i) + psum; v = leaked(u) + i``."""

    leak: Leak | None
    syn_leak: Leak | None
    v_threshold: Value | None = 1.0
    reset: Reset = "hard"
    strict: bool = False
    v_init: Value = 0.0


def kept_reset(neuron: IF | LIF | CubaLIF) -> Reset:
    """The reset as a machine must take it: "none" where a hard one, or the start, leaves a membrane that fires without input."""
    if neuron.reset != "hard" or neuron.v_threshold is None:
        return neuron.reset
    leak = getattr(neuron, "leak", None)
    left = np.maximum(neuron.v_reset, neuron.v_init) * (1.0 if leak is None else leak.kept)
    return "none" if np.any(left > neuron.v_threshold if neuron.strict else left >= neuron.v_threshold) else "hard"


@dataclass(frozen=True, eq=False)
class LI(Membrane):
    """Leaky integrator read-out without spikes: ``v = leaked(u) + psum`` (leak None: a plain accumulator)."""

    leak: Leak | None = None


@dataclass(frozen=True, eq=False)
class ReLU:
    """``y = max(x, 0)``: an ANN's activation."""


@dataclass(frozen=True, eq=False)
class ClippedReLU:
    """``y = clip(x, 0, ceiling)``; with ``levels`` the QCFS staircase of that many steps. One ceiling for all or, say, each channel."""

    ceiling: Value
    levels: int | None = None


@dataclass(frozen=True, eq=False)
class _Pool2d:
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)


@dataclass(frozen=True, eq=False)
class SumPool2d(_Pool2d):
    """Sum over a kernel window of each channel."""


@dataclass(frozen=True, eq=False)
class AvgPool2d(_Pool2d):
    """Mean over a kernel window of each channel; a trace records it as the sum, the factor 1/(R*S) goes to the weights."""


@dataclass(frozen=True, eq=False)
class MaxPool2d(_Pool2d):
    """Maximum over a kernel window of each channel (on spikes: OR)."""


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


Synapse = Conv1d | Conv2d | Linear
Neuron = IF | LIF | CubaLIF | LI | ReLU | ClippedReLU
Pool = SumPool2d | AvgPool2d | MaxPool2d
Node = Input | Output | Synapse | Scale | BatchNorm | Neuron | Pool | Flatten | Delay | Add
SYNAPSES: tuple[type, ...] = get_args(Synapse)
NEURONS: tuple[type, ...] = get_args(Neuron)
SPIKING: tuple[type, ...] = (IF, LIF, CubaLIF)
POOLS: tuple[type, ...] = get_args(Pool)
#: Nodes at which a trace records what arrived: the layers of a workload.
LAYERS: tuple[type, ...] = (*SYNAPSES, *POOLS, Add)
#: Every node class by its name, the word a file uses.
NODE_TYPES: dict[str, type] = {cls.__name__: cls for cls in get_args(Node)}


def window_out(size: int, kernel: int, stride: int, padding: int, dilation: int = 1) -> int:
    """Output extent of a sliding window: ``floor((size + 2*padding - dilation*(kernel-1) - 1) / stride) + 1``."""
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def _wrong(name: str, node: Node, what: str) -> NetworkError:
    return NetworkError(f"node '{name}' ({type(node).__name__}) {what}")


def _check_sizes(name: str, node: Node, sizes: tuple[int, ...]) -> None:
    if min(sizes, default=1) < 1:
        what = "kernel, stride, dilation and groups of at least 1"
        raise _wrong(name, node, f"has sizes {list(sizes)}, expected {what}")


def _check_weights(name: str, node: Conv1d | Conv2d | Linear, out: Shape) -> None:
    """Weights and bias, where there are any, have the shape that the sizes give."""
    if isinstance(node, Linear):
        shape: Shape = (node.out_features, node.in_features)
    else:
        kernel = node.kernel if isinstance(node, Conv2d) else (node.kernel,)
        shape = (node.out_channels, node.in_channels // node.groups, *kernel)
    for what, array, expected in (("weight", node.weight, (shape,)), ("bias", node.bias, (shape[:1], out))):
        if array is not None and array.shape not in expected:
            fit = " or ".join(str(list(shape)) for shape in dict.fromkeys(expected))
            raise _wrong(name, node, f"has a {what} of shape {list(array.shape)}, expected {fit}")
        _check_finite(name, node, what, array)


def _check_norm(name: str, node: BatchNorm) -> None:
    """Statistics, where there are any, are one finite number for each channel."""
    for key in ("gamma", "beta", "mean", "var"):
        array = getattr(node, key)
        if array is not None and array.shape != (node.num_features,):
            raise _wrong(name, node, f"has a {key} of shape {list(array.shape)}, expected [{node.num_features}]")
        _check_finite(name, node, key, array)


def _check_finite(name: str, node: Node, key: str, value: Value | None) -> None:
    if value is not None and not np.isfinite(np.asarray(value)).all():
        shape = f" of shape {list(value.shape)} with" if isinstance(value, np.ndarray) else ""
        got = f"{shape} NaN or infinity" if shape else f" of {value}"
        raise _wrong(name, node, f"has a {key}{got}, expected finite numbers")


def _check_values(name: str, node: Node, shape: Shape) -> None:
    """Numbers are finite and thresholds above 0; arrays of one value for each neuron fit the map."""
    threshold = getattr(node, "v_threshold", None)
    if threshold is not None and not (np.asarray(threshold) > 0).all():
        raise _wrong(name, node, f"has a v_threshold of {shown(threshold)}, expected numbers above 0")
    for key in ("scale", "ceiling", "v_threshold", "v_init", "v_reset", "leak", "syn_leak"):
        value = getattr(node, key, None)
        value = value.kept if isinstance(value, Leak) else value
        _check_finite(name, node, key, value)
        if isinstance(value, np.ndarray) and not _fits(value.shape, shape):
            fit = f"one that broadcasts to its map {list(shape)}"
            raise _wrong(name, node, f"has a {key} of shape {list(value.shape)}, expected {fit}")


def _fits(shape: Shape, onto: Shape) -> bool:
    return len(shape) <= len(onto) and all(a in (1, b) for a, b in zip(reversed(shape), reversed(onto), strict=False))


def node_out_shape(name: str, node: Node, shape: Shape) -> Shape:
    """Shape behind ``node`` when ``shape`` arrives. Raises NetworkError naming the node when they do not fit."""

    def need(ok: bool, expected: str) -> None:
        if not ok:
            raise _wrong(name, node, f"got an input of shape {list(shape)}, expected {expected}")

    match node:
        case Input() | Output():
            need(shape == node.shape, f"{list(node.shape)}")
            return shape
        case Conv2d():
            _check_sizes(name, node, (*node.kernel, *node.stride, *node.dilation, node.groups))
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
            _check_weights(name, node, (node.out_channels, *out))
            return (node.out_channels, *out)
        case Conv1d():
            _check_sizes(name, node, (node.kernel, node.stride, node.dilation, node.groups))
            need(len(shape) == 2 and shape[0] == node.in_channels, f"[{node.in_channels}, W]")
            out_w = window_out(shape[1], node.kernel, node.stride, node.padding, node.dilation)
            need(out_w >= 1, f"at least {node.kernel} positions")
            _check_weights(name, node, (node.out_channels, out_w))
            return (node.out_channels, out_w)
        case Linear():
            need(shape == (node.in_features,), f"[{node.in_features}]")
            _check_weights(name, node, (node.out_features,))
            return (node.out_features,)
        case BatchNorm():
            need(len(shape) >= 1 and shape[0] == node.num_features, f"{node.num_features} channels")
            _check_norm(name, node)
            return shape
        case SumPool2d() | AvgPool2d() | MaxPool2d():
            _check_sizes(name, node, (*node.kernel, *node.stride))
            need(len(shape) == 3, "[C, H, W]")
            out = tuple(window_out(shape[a + 1], node.kernel[a], node.stride[a], node.padding[a]) for a in (0, 1))
            need(min(out) >= 1, f"a map of at least the kernel {list(node.kernel)}")
            return (shape[0], *out)
        case Flatten():
            return (int(np.prod(shape)),)
        case Delay() if node.steps < 0:
            raise _wrong(name, node, f"has {node.steps} steps, expected at least 0")
        case _:
            _check_values(name, node, shape)
            return shape
