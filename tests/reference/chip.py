"""A network in the time of a chip, in nested loops over Python's numbers: the slow reference of `spikeloom.emulate`.

Written from the docstrings of `spikeloom.emulate`. As `integer`, whose neurons it takes, it asks each node for its map at a step. With
a delay of 1 what synapses make of step t reaches the neurons in step t + 1, while biases and pixels act at every step, and a Delay of d
steps takes d - 1. Besides what is sent it says which neurons had work.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from spikeloom.core.network import Network
from spikeloom.core.nodes import (
    IF,
    LAYERS,
    LI,
    LIF,
    Add,
    AvgPool2d,
    Conv1d,
    Conv2d,
    CubaLIF,
    Delay,
    Flatten,
    Input,
    Leak,
    Linear,
    MaxPool2d,
    Output,
    SumPool2d,
    window_out,
)

from .integer import Cell, Place, empty, pool, synapse

Synapse = Conv1d | Conv2d | Linear
Neuron = IF | LIF | CubaLIF | LI


@dataclass
class ChipCell(Cell):
    """A neuron that can lose what is below 1 / grid of the membrane it keeps."""

    grid: int | None = None

    def own(self, key: str) -> Any:
        return super().own(key) if self.whole else float(np.float32(super().own(key)))

    def leaked(self, u: Any, leak: Leak | None) -> Any:
        if leak is not None and not self.whole:
            leak = Leak(factor=np.asarray(leak.kept, np.float32))
        kept = super().leaked(u, leak)
        return kept if self.grid is None or leak is None else math.trunc(kept * self.grid) / self.grid


def touches(node: Any, x: np.ndarray, skip: bool) -> np.ndarray:
    """Where a spike arrives, product by product: through any weight, or with ``skip`` through those that are not 0."""
    if isinstance(node, Linear):
        hit = empty((node.out_features,))
        for k, c in np.ndindex(node.out_features, node.in_features):
            if x[c] != 0 and not (skip and node.weight[k, c] == 0):
                hit[k] = 1
        return hit
    if isinstance(node, Conv1d):
        wide = Conv2d(
            node.in_channels, node.out_channels, (1, node.kernel), (1, node.stride), (0, node.padding), (1, node.dilation),
            node.groups, weight=node.weight[:, :, None],
        )  # fmt: skip
        return touches(wide, x[:, None], skip)[:, 0]
    P, Q = (
        window_out(x.shape[1 + a], node.kernel[a], node.stride[a], node.padding[a], node.dilation[a]) for a in (0, 1)
    )
    hit = empty((node.out_channels, P, Q))
    C, K = node.in_channels // node.groups, node.out_channels // node.groups
    for k, p, q, c, r, s in np.ndindex(node.out_channels, P, Q, C, *node.kernel):
        h = p * node.stride[0] + r * node.dilation[0] - node.padding[0]
        w = q * node.stride[1] + s * node.dilation[1] - node.padding[1]
        inside = 0 <= h < x.shape[1] and 0 <= w < x.shape[2]
        if inside and x[k // K * C + c, h, w] != 0 and not (skip and node.weight[k, c, r, s] == 0):
            hit[k, p, q] = 1
    return hit


class ChipRun:
    """One sample on its way; frames: what arrives at the input, shape (T, *shape)."""

    def __init__(self, network: Network, frames: np.ndarray, delay: int, grid: int | None, skip: bool) -> None:
        self.network, self.frames, self.delay, self.grid, self.skip = network, frames, delay, grid, skip
        self.shapes = network.shapes()
        self.cells: dict[str, dict[Place, ChipCell]] = {}
        self.known: dict[tuple[str, int], np.ndarray] = {}
        self.work: dict[tuple[str, int], np.ndarray] = {}

    def pixels(self, name: str, seen: tuple[str, ...] = ()) -> bool:
        """True when only an analog input reaches node ``name``, through no neuron."""
        node = self.network.nodes[name]
        if isinstance(node, Input):
            return node.encoding == "analog"
        if isinstance(node, Neuron) or name in seen:
            return False
        return all(self.pixels(source, (*seen, name)) for source in self.network.inputs_of(name))

    def sent(self, name: str, t: int) -> np.ndarray:
        """The map that node ``name`` sends at step t; a synapse sends its sums without its bias."""
        if t < 0:
            return empty(self.shapes[name])
        if (name, t) not in self.known:
            self.known[name, t] = self._sent(name, t)
        return self.known[name, t]

    def arriving(self, name: str, t: int) -> np.ndarray:
        """The sum of what reaches a node that is no neuron."""
        sources = self.network.inputs_of(name)
        return sum((self.sent(source, t) for source in sources[1:]), self.sent(sources[0], t))

    def _sent(self, name: str, t: int) -> np.ndarray:
        node = self.network.nodes[name]
        match node:
            case Input():
                frame = empty(node.shape)
                real = node.encoding == "analog" and self.network.arithmetic == "float32"
                for place in np.ndindex(node.shape):
                    frame[place] = self.frames[t][place].item() / 255 if real else self.frames[t][place].item()
                return frame
            case Conv1d() | Conv2d() | Linear():
                return synapse(replace(node, has_bias=False), self.arriving(name, t))
            case AvgPool2d():
                total = pool(SumPool2d(node.kernel, node.stride, node.padding), self.arriving(name, t))
                return total / math.prod(node.kernel)
            case SumPool2d() | MaxPool2d():
                return pool(node, self.arriving(name, t))
            case Flatten():
                return self.arriving(name, t).reshape(-1)
            case Add() | Output():
                return self.arriving(name, t)
            case Delay():
                return self.arriving(name, t - max(0, node.steps - self.delay))
        return self._fired(name, t)

    def reached(self, name: str, t: int) -> np.ndarray:
        """Where anything of what ``name`` sends at step t arrives."""
        node = self.network.nodes[name]
        if t < 0:
            return empty(self.shapes[name])
        if isinstance(node, Conv1d | Conv2d | Linear):
            return touches(node, self.arriving(name, t), self.skip)
        if isinstance(node, SumPool2d | AvgPool2d | MaxPool2d):
            there = np.array(self.arriving(name, t) != 0, object) * 1
            return pool(MaxPool2d(node.kernel, node.stride, node.padding), there)
        if isinstance(node, Flatten):
            return self.reached(self.network.inputs_of(name)[0], t).reshape(-1)
        return np.array(self.sent(name, t) != 0, object) * 1

    def bias(self, name: str) -> np.ndarray:
        """The bias of every neuron behind a synapse, else 0."""
        node = self.network.nodes[name]
        found = empty(self.shapes[name])
        if isinstance(node, Flatten):
            return self.bias(self.network.inputs_of(name)[0]).reshape(-1)
        if isinstance(node, Conv1d | Conv2d | Linear) and node.has_bias:
            assert node.bias is not None
            for place in np.ndindex(found.shape):
                found[place] = node.bias[place[: node.bias.ndim]].item()
        return found

    def _fired(self, name: str, t: int) -> np.ndarray:
        """Step t of the neurons of a node."""
        node: Any = self.network.nodes[name]
        shape = self.shapes[name]
        if name not in self.cells:
            self.cells[name] = {
                place: ChipCell(node, shape, place, grid=self.grid if isinstance(node, LIF | LI) else None)
                for place in np.ndindex(shape)
            }
        arriving, hit, drive = empty(shape), empty(shape), empty(shape)
        for source in self.network.inputs_of(name):
            drive = drive + self.bias(source)
            if self.pixels(source):
                drive = drive + self.sent(source, t)
                if not self.delay:  # in the time of the recorder a pixel arrives like a spike
                    hit = hit + self.reached(source, t)
            else:
                arriving = arriving + self.sent(source, t - self.delay)
                hit = hit + self.reached(source, t - self.delay)
        level, work = empty(shape), empty(shape)
        for place, cell in self.cells[name].items():
            acts = drive[place] if cell.whole else float(np.float32(drive[place]))
            alive = cell.u != 0
            level[place] = cell.step(arriving[place] + acts)
            fired = level[place] != 0 and not isinstance(node, LI)
            work[place] = int(alive or hit[place] != 0 or acts != 0 or fired or cell.current != 0)
        self.work[name, t] = work
        return level


@dataclass
class ChipTrace:
    """What a run is to leave behind; shapes (T, *shape).

    arrivals: by layer, means as sums. sent, work: by node of neurons: their levels or membranes, and where they had work.
    """

    arrivals: dict[str, np.ndarray]
    sent: dict[str, np.ndarray]
    work: dict[str, np.ndarray]


def run(
    network: Network, frames: np.ndarray, *, delay: int = 1, grid: int | None = None, skip: bool = False
) -> ChipTrace:
    """One sample through the network; frames: (T, *shape)."""
    sample = ChipRun(network, frames, delay, grid, skip)
    units = dict.fromkeys(network.nodes, 1)
    for name in network.layers():
        units[name] = _unit(network, network.inputs_of(name)[0])
    trace = ChipTrace({}, {}, {})
    neurons = [name for name, node in network.nodes.items() if isinstance(node, Neuron)]
    steps = range(len(frames))
    for t in steps:
        for name in network.nodes:
            sample.sent(name, t)
    for name in network.layers():
        trace.arrivals[name] = np.array([sample.arriving(name, t) * units[name] for t in steps], object)
    for name in neurons:
        trace.sent[name] = np.array([sample.sent(name, t) for t in steps], object)
        trace.work[name] = np.array([sample.work[name, t] for t in steps], object)
    return trace


def _unit(network: Network, name: str) -> int:
    """How many levels make 1 of what a node sends: 255 of pixels of a real network, times the windows of means."""
    node = network.nodes[name]
    if isinstance(node, Input):
        return 255 if node.encoding == "analog" and network.arithmetic == "float32" else 1
    if isinstance(node, (Neuron, Delay)) or (
        isinstance(node, LAYERS) and not isinstance(node, AvgPool2d | SumPool2d | MaxPool2d | Add)
    ):
        return 1 if not isinstance(node, Delay) else _unit(network, network.inputs_of(name)[0])
    area = math.prod(node.kernel) if isinstance(node, AvgPool2d) else 1
    return area * _unit(network, network.inputs_of(name)[0])
