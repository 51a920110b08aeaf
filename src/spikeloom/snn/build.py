"""Core `Network` to a torch module and back.

Letters: T time steps, N samples, C H W map. T is folded into the batch: every synapse sees T*N frames at once, and only
neurons, integrators and delays know that frames follow one another. A direct-coded input is the same at every step, so
everything up to the first neuron is computed once, on N frames (``constant``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from spikeloom.core.network import IF, LI, LIF, BatchNorm, CubaLIF, Input, Linear, Network, Node, Output, Synapse
from spikeloom.errors import NetworkError
from spikeloom.snn.encode import LEVEL_MAX, Encoded
from spikeloom.snn.modules import Frames, NodeModule, node_module
from spikeloom.snn.neurons import Dynamics
from spikeloom.snn.surrogate import surrogate

#: Called with a node's name and what arrived there, (T, N, *shape), as the frames pass by.
Watch = Callable[[str, Tensor], None]

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
            frames: float; shape (T*N, *in_shape) with T the slow index, or (N, *in_shape) when ``constant``.
            num_steps: T.
            constant: the input is the same at every step.
            watch: sees what arrives at each node; tensors carry gradients and are dropped once their last reader ran.

        Returns:
            What reaches the output at every step; shape (T, N, *out_shape), float32 membranes behind an LI.
        """
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
            if watch is not None:
                watch(name, arrived.over_time())
            module = self.module_of(name)
            alive[name] = arrived if module is None else module(arrived)
        return alive[self._output].over_time()

    def scores(self, trajectory: Tensor) -> Tensor:
        """One figure per class, shape (N, K): the last membrane of an LI read-out, else the sum over steps (spike counts)."""
        readout = self.network.nodes[self.network.inputs_of(self._output)[0]]
        return trajectory[-1] if isinstance(readout, LI) else trajectory.float().sum(0)

    def module_of(self, name: str) -> nn.Module | None:
        """The module of node ``name``, or None for a node that only passes on what it gets."""
        found = self.steps[_key(name)] if _key(name) in self.steps else None  # noqa: SIM401 (ModuleDict has no get)
        return found

    def to_network(self, **metadata: Any) -> Network:
        """The network with the weights as they are now (float32 NumPy copies); ``metadata`` is added to its own."""
        nodes: dict[str, Node] = {}
        for name, node in self.network.nodes.items():
            module = self.module_of(name)
            arrays = module.arrays() if isinstance(module, NodeModule) else {}
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
        network: every node type of `spikeloom.core.network`; one input, one output, no cycle.
        surrogate_name: a key of SURROGATES.
        sharpness: of the surrogate, 1 / threshold; None for its own.
        detach_reset: keep the gradient out of the reset.
        seed: of the initial weights.

    Raises:
        NetworkError: shapes that do not fit, a recurrent edge, a threshold that is absent, an unknown surrogate.
    """
    network.shapes()
    kind = surrogate(surrogate_name, sharpness)
    generator = torch.Generator().manual_seed(seed)
    modules: dict[str, NodeModule] = {}
    for name in network.order():
        node = network.nodes[name]
        if name in network.inputs_of(name):
            raise NetworkError(f"node '{name}' feeds itself; recurrent networks cannot be executed here")
        if isinstance(node, Synapse | BatchNorm):
            node = _initialised(network, name, node, generator)
        module = node_module(name, node, kind, detach_reset)
        if module is not None:
            modules[name] = module
    return SpikingModule(network, modules)


def input_frames(encoded: Encoded, device: torch.device | str = "cpu") -> Tensor:
    """Float32 frames as `SpikingModule.forward` takes them; a pixel p becomes p / 255."""
    frames = torch.from_numpy(np.ascontiguousarray(encoded.values)).to(device).float()
    if encoded.kind == "analog":
        frames = frames / LEVEL_MAX
    return frames if encoded.constant else frames.flatten(0, 1)


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
    """Threshold of the first neuron behind ``name``; 1 where there is none."""
    while outputs := network.outputs_of(name):
        name = outputs[0]
        node = network.nodes[name]
        if isinstance(node, IF | LIF | CubaLIF):
            return Dynamics.of(name, node).v_threshold
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


def _with(node: _AnyNode, arrays: Mapping[str, np.ndarray]) -> _AnyNode:
    """``node`` with other arrays; itself where there are none."""
    return replace(node, **arrays) if arrays else node  # type: ignore[arg-type]


def synapse_shape(node: Synapse) -> tuple[int, ...]:
    """Shape of a synapse's weights: (K, C/groups, R, S), (K, C/groups, S) or (K, C)."""
    if isinstance(node, Linear):
        return (node.out_features, node.in_features)
    kernel = node.kernel if isinstance(node.kernel, tuple) else (node.kernel,)
    return (node.out_channels, node.in_channels // node.groups, *kernel)
