"""Core `Network` to a torch module and back.

Letters: T time steps, N samples, C H W map. T is folded into the batch: every synapse sees T*N frames at once, and only
neurons, integrators and delays know that frames follow one another. A direct-coded input is the same at every step, so
everything up to the first neuron is computed once, on N frames (``constant``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from spikeloom.core.network import Network
from spikeloom.core.nodes import (
    IF,
    LI,
    LIF,
    Add,
    BatchNorm,
    CubaLIF,
    Delay,
    Firing,
    Flatten,
    Input,
    Linear,
    MaxPool2d,
    Membrane,
    Node,
    Output,
    ReLU,
    SumPool2d,
    Synapse,
)
from spikeloom.core.signals import LEVEL_MAX, received_signals, sent_signals
from spikeloom.errors import NetworkError
from spikeloom.snn.encode import Encoded
from spikeloom.snn.modules import Frames, NodeModule, node_module
from spikeloom.snn.surrogate import surrogate

#: Called with a node's name, what arrived there and what it sends, (T, N, *shape), as the frames pass by.
Watch = Callable[[str, Tensor, Tensor], None]

_AnyNode = TypeVar("_AnyNode", bound=Node)


class SpikingModule(nn.Module):
    """A network that runs and learns. Made by `build`; read back by `to_network`.

    network: the structure; its arrays are the initial values only.
    """

    def __init__(self, network: Network, modules: dict[str, NodeModule]) -> None:
        super().__init__()
        self.network = network
        self.steps = nn.ModuleDict({_key(name): module for name, module in modules.items()})
        self._order = network.order()
        self.dtype = _dtype(network)
        self.to(self.dtype)
        self._input, self._output = _ends(network)

    @property
    def input_node(self) -> Input:
        """What the network expects at its input."""
        node = self.network.nodes[self._input]
        assert isinstance(node, Input)
        return node

    def arranged(self, device: torch.device, channels_last: bool) -> SpikingModule:
        """This module on ``device``, its kernels in the memory order that a convolution then brings its maps into."""
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.to(device)
        for parameter in self.parameters():
            if parameter.dim() == 4:
                parameter.data = parameter.data.contiguous(memory_format=layout)
        return self

    def forward(self, frames: Tensor, num_steps: int, constant: bool = False, watch: Watch | None = None) -> Tensor:
        """Run T steps.

        Args:
            frames: from `input_frames`; shape (T*N, *in_shape) with T the slow index, or (N, *in_shape) when ``constant``.
            num_steps: T.
            constant: the input is the same at every step.
            watch: sees what each node gets and sends; tensors carry gradients and are dropped once their last reader ran.

        Returns:
            What reaches the output at every step; shape (T, N, *out_shape), float32 membranes behind an LI.
        """
        if self.network.recurrent:
            return self._step_by_step(Frames(frames, num_steps, constant).over_time(), watch)
        alive = {self._input: Frames(frames, num_steps, constant)}
        readers = {name: len(self.network.outputs_of(name)) for name in self._order}
        for name in self._order:
            if name == self._input:
                continue
            sources = self.network.inputs_of(name)
            arrived = Frames.summed([alive[s] for s in sources])
            for source in sources:
                readers[source] -= 1
                if readers[source] == 0:
                    del alive[source]
            module = self.module_of(name)
            alive[name] = arrived if module is None else module(arrived)
            if watch is not None:
                watch(name, arrived.over_time(), alive[name].over_time())
        return alive[self._output].over_time()

    def _step_by_step(self, frames_TN: Tensor, watch: Watch | None) -> Tensor:
        """As `forward` for a network with loops: every node takes one step before any takes the next."""
        nodes, shapes = self.network.nodes, self.network.shapes()
        delays = [name for name in self._order if isinstance(nodes[name], Delay)]
        silence = {name: frames_TN.new_zeros(frames_TN.shape[1], *shapes[name]) for name in delays}
        arrived: dict[str, list[Tensor]] = {name: [] for name in self._order}
        sent: dict[str, list[Tensor]] = {name: [] for name in self._order}
        steps: dict[str, Callable[[Tensor], Tensor]] = {}
        for t, frame in enumerate(frames_TN.unbind(0)):
            for name in self._order:
                node, module = nodes[name], self.module_of(name)
                # a delay sends what came steps ago, so it can run before what feeds it
                at = t - node.steps if isinstance(node, Delay) else t
                sources = [sent[source][at] for source in self.network.inputs_of(name)] if at >= 0 else [silence[name]]
                x = frame if name == self._input else sum(sources[1:], sources[0])
                if isinstance(node, Delay):
                    sent[name].append(x)
                    continue
                if isinstance(module, NodeModule) and name not in steps:
                    steps[name] = module.stepping(x)
                arrived[name].append(x)
                sent[name].append(steps[name](x) if name in steps else x)
        if watch is not None:
            for name in delays:
                coming = (sent[source] for source in self.network.inputs_of(name))
                arrived[name] = [sum(maps[1:], maps[0]) for maps in zip(*coming, strict=True)]
            for name in self._order:
                if name != self._input:
                    watch(name, torch.stack(arrived[name]), torch.stack(sent[name]))
        return torch.stack(sent[self._output])

    def scores(self, trajectory: Tensor) -> Tensor:
        """One figure per class, shape (N, K): the last membrane of an LI read-out, else the sum over steps (spike counts)."""
        readout = self.network.nodes[self.network.inputs_of(self._output)[0]]
        return trajectory[-1] if isinstance(readout, LI) else trajectory.float().sum(0)

    def module_of(self, name: str) -> nn.Module | None:
        """The module of node ``name``, or None for a node that only passes on what it gets."""
        found = self.steps[_key(name)] if _key(name) in self.steps else None  # noqa: SIM401 (ModuleDict has no get)
        return found

    def to_network(self, **metadata: Any) -> Network:
        """The network with the weights as they are now (NumPy copies); ``metadata`` is added to its own.

        They are float32; integers of an integer network come back in their own dtype.
        """
        nodes: dict[str, Node] = {}
        for name, node in self.network.nodes.items():
            module = self.module_of(name)
            arrays = module.arrays() if isinstance(module, NodeModule) else {}
            if self.network.arithmetic == "integer":
                arrays = {key: _as_before(array, getattr(node, key)) for key, array in arrays.items()}
            nodes[name] = _with(node, arrays)
        net = self.network
        return Network(nodes, net.edges, net.name, net.dt_s, {**net.metadata, **metadata})


def build(
    network: Network,
    *,
    surrogate_name: str = "atan",
    sharpness: float | None = None,
    detach_reset: bool = False,
    seed: int = 0,
) -> SpikingModule:
    """A torch module that computes what ``network`` says.

    Absent weights are drawn from N(0, 2/fan_in) (He et al., ICCV 2015), absent biases are 0, an absent normalisation starts as
    the identity times the threshold behind it (Zheng et al., AAAI 2021), so that one unit of its output is one threshold.

    Args:
        network: every node type of `spikeloom.core.nodes`; one input, one output; loops through a Delay.
        surrogate_name: a key of SURROGATES.
        sharpness: of the surrogate, 1 / threshold; None for its own.
        detach_reset: keep the gradient out of the reset.
        seed: of the initial weights.

    Raises:
        NetworkError: shapes that do not fit, a loop without a delay, a threshold that is absent, an unknown surrogate, integers too
            large to be computed exactly.
    """
    network.shapes()
    kind = surrogate(surrogate_name, sharpness)
    generator = torch.Generator().manual_seed(seed)
    modules: dict[str, NodeModule] = {}
    for name in network.order():
        node = network.nodes[name]
        if name in network.inputs_of(name):
            raise NetworkError(f"node '{name}' feeds itself without a delay; put a Delay into the loop")
        if isinstance(node, Synapse | BatchNorm):
            node = _initialised(network, name, node, generator)
        module = node_module(name, node, kind, detach_reset)
        if module is not None:
            modules[name] = module
    return SpikingModule(network, modules)


def input_frames(module: SpikingModule, encoded: Encoded, device: torch.device | str = "cpu") -> Tensor:
    """Frames as `SpikingModule.forward` takes them; a pixel p becomes p / 255, in an integer network it stays p."""
    frames = torch.from_numpy(np.ascontiguousarray(encoded.values)).to(device).to(module.dtype)
    if encoded.kind == "analog" and module.network.arithmetic == "float32":
        frames = frames / LEVEL_MAX
    return frames if encoded.constant else frames.flatten(0, 1)


def _dtype(network: Network) -> torch.dtype:
    """The float type in which a network is computed: for integers one that holds every sum exactly, whatever its order.

    Raises:
        NetworkError: sums of an integer network beyond 2**53, real values that reach its synapses or integer membranes, or
            integer membranes in a network of real weights.
    """
    kept = {name: node.membrane_bits for name, node in network.nodes.items() if isinstance(node, Membrane)}
    words = {name: bits for name, bits in kept.items() if bits is not None}
    if network.arithmetic == "float32":
        for name, bits in words.items():
            raise NetworkError(
                f"node '{name}' has integer membranes of {bits} bits, but the weights of network '{network.name}' are absent "
                f"or no integers; quantise it, or leave membrane_bits out"
            )
        return torch.float32
    bounds = _bounds(network)
    largest = max(bounds.values(), default=0)
    for name, node in network.nodes.items():
        total = 0.0
        for source, times in _summands(network, name) if isinstance(node, Membrane) else ():
            if name in words and times < math.inf and source not in bounds:
                raise NetworkError(
                    f"node '{name}' has integer membranes but gets real values from '{source}' "
                    f"({type(network.nodes[source]).__name__}); expected sums of integers"
                )
            total += times if times == math.inf else times * bounds.get(source, 0)
        largest = max(largest, total)
    if largest >= 2**53:
        raise NetworkError(
            f"network '{network.name}' has sums of up to {largest:.3g}, integers are exact up to 2**53; use fewer bits"
        )
    return torch.float32 if largest < 2**24 else torch.float64


def _bounds(network: Network) -> dict[str, float]:
    """Largest magnitude of all that sends integers: the input, neurons, and synapses of integers."""
    sent, received = sent_signals(network), received_signals(network)
    bounds: dict[str, float] = {}
    for name, node in network.nodes.items():
        if isinstance(node, Input | Firing):
            bounds[name] = sent[name].max_level
        elif isinstance(node, LI) and node.membrane_bits is not None:
            bounds[name] = 2.0 ** (node.membrane_bits - 1)
        elif isinstance(node, Synapse) and node.weight is not None:
            if received[name].kind == "real":
                raise NetworkError(
                    f"layer '{name}' has integer weights but gets real values; put it behind a spiking neuron"
                )
            bias = np.zeros(1) if node.bias is None else node.bias.astype(np.float64)
            sums = np.abs(node.weight.astype(np.float64)).reshape(len(node.weight), -1).sum(1)
            if received[name].unit == 1 and (bias == np.rint(bias)).all():
                largest = sums.max(initial=0) * received[name].max_level + np.abs(bias).max(initial=0)
                bounds[name] = float(largest)
    return bounds


def _summands(network: Network, name: str, times: float = 1, seen: tuple[str, ...] = ()) -> Iterator[tuple[str, float]]:
    """What adds up to that which reaches ``name``, and how often: pools and sums between are taken apart."""
    for source in network.inputs_of(name):
        node = network.nodes[source]
        if source in seen:  # a loop that no neuron interrupts adds up without end
            yield source, math.inf
        elif isinstance(node, Add | Delay | Flatten | MaxPool2d | ReLU | SumPool2d):
            area = math.prod(node.kernel) if isinstance(node, SumPool2d) else 1
            yield from _summands(network, source, times * area, (*seen, source))
        else:
            yield source, times


def _as_before(array: np.ndarray, before: np.ndarray | None) -> np.ndarray:
    """Whole numbers in the integer dtype they had ``before``."""
    whole = before is not None and np.issubdtype(before.dtype, np.integer) and (array == np.rint(array)).all()
    return array.astype(before.dtype) if before is not None and whole else array


def _key(name: str) -> str:
    """A submodule's name for a node's name: without dots, and never the name of a method of torch."""
    return f"<{name.replace('%', '%25').replace('.', '%2e')}>"


def _ends(network: Network) -> tuple[str, str]:
    """Names of the one input and the one output node."""
    found = []
    for kind in (Input, Output):
        names = [name for name, node in network.nodes.items() if isinstance(node, kind)]
        if len(names) != 1:
            raise NetworkError(f"network '{network.name}' has {len(names)} {kind.__name__} nodes {names}, expected one")
        found.append(names[0])
    return found[0], found[1]


def _threshold_behind(network: Network, name: str) -> float:
    """Threshold (of many the mean) of the first neuron behind ``name``; 1 where there is none."""
    seen: list[str] = []
    while (outputs := network.outputs_of(name)) and name not in seen:
        seen.append(name)
        name = outputs[0]
        node = network.nodes[name]
        if isinstance(node, IF | LIF | CubaLIF) and node.v_threshold is not None:
            return float(np.mean(node.v_threshold))
    return 1.0


def _initialised(
    network: Network, name: str, node: Synapse | BatchNorm, generator: torch.Generator
) -> Synapse | BatchNorm:
    """``node`` with every absent array drawn or set."""
    if isinstance(node, BatchNorm):
        ones = np.ones(node.num_features, np.float32)
        start = {"gamma": ones * _threshold_behind(network, name), "beta": ones * 0, "mean": ones * 0, "var": ones}
    else:
        shape = synapse_shape(node)
        drawn = torch.randn(shape, generator=generator) * math.sqrt(2 / math.prod(shape[1:]))
        start = {"weight": drawn.numpy()}
        if node.has_bias:
            start["bias"] = np.zeros(shape[0], np.float32)
    return _with(node, {key: value for key, value in start.items() if getattr(node, key) is None})


def _with(node: _AnyNode, arrays: Mapping[str, Any]) -> _AnyNode:
    """``node`` with other arrays; itself where there are none."""
    return replace(node, **arrays) if arrays else node


def synapse_shape(node: Synapse) -> tuple[int, ...]:
    """Shape of a synapse's weights: (K, C/groups, R, S), (K, C/groups, S) or (K, C)."""
    if isinstance(node, Linear):
        return (node.out_features, node.in_features)
    kernel = node.kernel if isinstance(node.kernel, tuple) else (node.kernel,)
    return (node.out_channels, node.in_channels // node.groups, *kernel)
