"""A network step by step in nested loops over Python's unbounded integers: the slow reference of integer networks.

Written from the docstrings of `spikeloom.core.nodes` alone. It knows no torch, no order of execution and no batch: a node's map at
step t is asked for, and asks for what it needs, so that a loop ends where a delay reaches back before step 0. One sample; every
map is a NumPy array of Python numbers. A neuron without ``membrane_bits`` computes with real numbers (Python's floats).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from spikeloom.core.network import Network
from spikeloom.core.nodes import (
    IF,
    LI,
    LIF,
    Add,
    Conv1d,
    Conv2d,
    CubaLIF,
    Delay,
    Firing,
    Flatten,
    Input,
    Leak,
    Linear,
    MaxPool2d,
    Output,
    Shape,
    SumPool2d,
    window_out,
)

Place = tuple[int, ...]


def word(v: Any, bits: int | None, overflow: str) -> Any:
    """What a two's-complement word of ``bits`` holds of ``v``."""
    if bits is None:
        return v
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    if overflow == "saturate":
        return low if v < low else high if v > high else v
    return (v - low) % 2**bits + low


def at(value: Any, shape: Shape, place: Place, whole: bool) -> Any:
    """One neuron's own number of a number for all, or of an array that broadcasts to the map."""
    number = np.broadcast_to(np.asarray(value), shape)[place]
    return int(number) if whole else float(number)


@dataclass
class Cell:
    """One neuron of ``node`` at ``place`` of a map of ``shape``."""

    node: Any
    shape: Shape
    place: Place
    u: Any = 0
    current: Any = 0
    last: int = 0  # level of the step before
    sent: int = 0  # sum of all levels

    def __post_init__(self) -> None:
        self.whole = self.node.membrane_bits is not None
        self.u = self.own("v_init") if isinstance(self.node, Firing) else 0

    def own(self, key: str) -> Any:
        """A field of the node for this neuron."""
        return at(getattr(self.node, key), self.shape, self.place, self.whole)

    def word(self, v: Any) -> Any:
        """``v`` as this neuron keeps it."""
        return word(v, self.node.membrane_bits, self.node.overflow)

    def leaked(self, u: Any, leak: Leak | None) -> Any:
        """``u - (u >> shift)`` or ``(round(4096 factor) * u) >> 12``, of real numbers the fraction kept."""
        if leak is None:
            return u
        if not self.whole:
            return u * at(leak.kept, self.shape, self.place, False)
        if leak.shift is not None:
            return u - u // 2**leak.shift
        return round(4096 * at(leak.factor, self.shape, self.place, False)) * u // 4096

    def level(self, v: Any) -> int:
        """How often the threshold fits into ``v``, within what the node may send."""
        node, theta = self.node, self.own("v_threshold")
        size = 0
        while size < node.max_level and (
            abs(v) > (size + 1) * theta if node.strict else abs(v) >= (size + 1) * theta
        ):  # fmt: skip
            size += 1
        if v >= 0:
            return size
        return -min(size, self.sent) if node.signed else 0

    def reset(self, v: Any, level: int) -> Any:
        """The membrane that ``level`` leaves of ``v``."""
        if self.node.reset == "none" or level == 0:
            return v
        return self.own("v_reset") if self.node.reset == "hard" else v - level * self.own("v_threshold")

    def step(self, psum: Any) -> Any:
        """What the neuron sends: its level, or the membrane of an LI."""
        node = self.node
        if isinstance(node, CubaLIF):
            psum = self.current = self.word(self.leaked(self.current, node.syn_leak) + psum)
        v = self.word(self.leaked(self.u, None if isinstance(node, IF) else node.leak) + psum)
        if isinstance(node, LI):
            self.u = v
            return v
        if node.late_reset:
            v = self.word(self.reset(v, self.last))
            level = self.level(v)
            self.u = v
        else:
            level = self.level(v)
            self.u = self.word(self.reset(v, level))
        self.last = level
        self.sent += level
        return level


def empty(shape: Shape) -> np.ndarray:
    """A map of Python zeros."""
    return np.full(shape, 0, object)


def synapse(node: Any, x: np.ndarray) -> np.ndarray:
    """Sums of a Conv1d, Conv2d or Linear, product by product."""
    assert node.weight is not None
    if isinstance(node, Linear):
        psum = empty((node.out_features,))
        for k, c in np.ndindex(node.out_features, node.in_features):
            psum[k] += node.weight[k, c].item() * x[c]
    elif isinstance(node, Conv1d):
        wide = Conv2d(
            node.in_channels, node.out_channels, (1, node.kernel), (1, node.stride), (0, node.padding), (1, node.dilation),
            node.groups, weight=node.weight[:, :, None],
        )  # fmt: skip
        psum = synapse(wide, x[:, None])[:, 0]
    else:
        P, Q = (
            window_out(x.shape[1 + a], node.kernel[a], node.stride[a], node.padding[a], node.dilation[a])
            for a in (0, 1)
        )
        psum = empty((node.out_channels, P, Q))
        C, K = node.in_channels // node.groups, node.out_channels // node.groups
        for k, p, q, c, r, s in np.ndindex(node.out_channels, P, Q, C, *node.kernel):
            h = p * node.stride[0] + r * node.dilation[0] - node.padding[0]
            w = q * node.stride[1] + s * node.dilation[1] - node.padding[1]
            if 0 <= h < x.shape[1] and 0 <= w < x.shape[2]:
                psum[k, p, q] += node.weight[k, c, r, s].item() * x[k // K * C + c, h, w]
    if node.has_bias:
        assert node.bias is not None
        for place in np.ndindex(psum.shape):
            psum[place] += node.bias[place[: node.bias.ndim]].item()
    return psum


def pool(node: Any, x: np.ndarray) -> np.ndarray:
    """Sum or maximum of every window; padding holds nothing."""
    out = tuple(window_out(x.shape[1 + a], node.kernel[a], node.stride[a], node.padding[a]) for a in (0, 1))
    pooled = empty((len(x), *out))
    for c, p, q in np.ndindex(pooled.shape):
        window = []
        for r, s in np.ndindex(*node.kernel):
            h, w = p * node.stride[0] + r - node.padding[0], q * node.stride[1] + s - node.padding[1]
            if 0 <= h < x.shape[1] and 0 <= w < x.shape[2]:
                window.append(x[c, h, w])
        pooled[c, p, q] = sum(window) if isinstance(node, SumPool2d) else max(window)
    return pooled


class Run:
    """One sample on its way through a network; frames: what arrives at the input, shape (T, *shape)."""

    def __init__(self, network: Network, frames: np.ndarray) -> None:
        self.network, self.frames = network, frames
        self.shapes = network.shapes()
        self.cells: dict[str, dict[Place, Cell]] = {}
        self.known: dict[tuple[str, int], np.ndarray] = {}

    def sent(self, name: str, t: int) -> np.ndarray:
        """The map that node ``name`` sends at step t; to be asked for in the order of steps."""
        if t < 0:
            return empty(self.shapes[name])
        if (name, t) not in self.known:
            self.known[name, t] = self._sent(name, t)
        return self.known[name, t]

    def _sent(self, name: str, t: int) -> np.ndarray:
        node = self.network.nodes[name]
        if isinstance(node, Input):
            frame = empty(node.shape)
            for place in np.ndindex(node.shape):
                frame[place] = self.frames[t][place].item()
            return frame
        then = t - node.steps if isinstance(node, Delay) else t
        sources = self.network.inputs_of(name)
        x = sum((self.sent(source, then) for source in sources[1:]), self.sent(sources[0], then))
        match node:
            case Conv1d() | Conv2d() | Linear():
                return synapse(node, x)
            case SumPool2d() | MaxPool2d():
                return pool(node, x)
            case Flatten():
                return x.reshape(-1)
            case Add() | Delay() | Output():
                return x
            case IF() | LIF() | CubaLIF() | LI():
                if name not in self.cells:
                    self.cells[name] = {place: Cell(node, x.shape, place) for place in np.ndindex(x.shape)}
                level = empty(x.shape)
                for place, cell in self.cells[name].items():
                    level[place] = cell.step(x[place])
                return level
        raise AssertionError(f"the reference does not know {node}")


def run(network: Network, frames: np.ndarray) -> dict[str, np.ndarray]:
    """What every node sends at every step when ``frames``, (T, *shape), arrive; shape (T, *shape), Python's numbers."""
    sample = Run(network, frames)
    steps = [{name: sample.sent(name, t) for name in network.nodes} for t in range(len(frames))]
    return {name: np.array([step[name] for step in steps], object) for name in network.nodes}
