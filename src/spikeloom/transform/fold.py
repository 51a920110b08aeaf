"""Fold normalisation and scaling into synapses: the same function with fewer nodes, exact up to the last bits of a float32.

A BatchNorm is ``y = g * x + h`` per channel with ``g = gamma / sqrt(var + eps)`` and ``h = beta - g * mean``; a Scale is the same with
``h = 0``. It goes, in this order, into

1. the synapses before it, through pools without padding, Flatten and Add: ``W <- g*W, b <- g*b + h``;
2. the synapses behind it, through the same nodes: ``W <- W*g`` by input channel, ``b <- b + W h``. Behind a padded convolution that
   sum differs at the border, since the padding is zero and not h, so the bias becomes one for each neuron (K, P, Q);
3. a synapse of its own, one weight and one bias for each channel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from spikeloom.core.network import Network
from spikeloom.core.nodes import (
    Add,
    AvgPool2d,
    BatchNorm,
    Conv1d,
    Conv2d,
    Flatten,
    Linear,
    Node,
    Scale,
    Shape,
    SumPool2d,
    Synapse,
)
from spikeloom.errors import NetworkError

#: (factor, shift) by channel, by the name of a node.
_Plan = dict[str, tuple[np.ndarray, np.ndarray]]


def fold(network: Network) -> Network:
    """The same function without BatchNorm nodes, and without Scale nodes that act by channel.

    Computed in float64, stored in float32. A synapse gets a bias only if one of its channels needs it, for a bias acts at every
    step and a machine then has no silent window to skip. Networks without such nodes come back as they are.

    Raises:
        NetworkError: weights or statistics that are absent.
    """
    folding = Folding(network)
    waiting: _Plan = {}
    for name, node in network.nodes.items():
        if isinstance(node, BatchNorm):
            waiting[name] = _norm(name, node)
        elif isinstance(node, Scale):
            factor = _by_channel(node.scale, folding.shapes[name])
            if factor is not None:
                waiting[name] = factor, np.zeros_like(factor)
    while waiting:
        gone = [name for name, affine in waiting.items() if folding.remove(name, *affine)]
        if not gone:  # only now, for behind another one a node may find a synapse once that one is gone
            gone = [next(iter(waiting))]
            folding.make_synapse(gone[0], *waiting[gone[0]])
        waiting = {name: affine for name, affine in waiting.items() if name not in gone}
    return folding.network if folding.changed else network


def _norm(name: str, node: BatchNorm) -> tuple[np.ndarray, np.ndarray]:
    """(factor, shift) of a BatchNorm; float64, shape (C,)."""
    if node.gamma is None or node.beta is None or node.mean is None or node.var is None:
        raise NetworkError(f"BatchNorm '{name}' has no statistics; train the network before folding it")
    factor = node.gamma.astype(np.float64) / np.sqrt(node.var.astype(np.float64) + node.eps)
    return factor, node.beta - factor * node.mean


def _by_channel(scale: np.ndarray, shape: Shape) -> np.ndarray | None:
    """``scale`` as one factor for each channel, shape (C,), or None where it differs inside a map."""
    full = np.broadcast_to(np.asarray(scale, np.float64), shape).reshape(shape[0], -1)
    factor: np.ndarray = full[:, 0].copy()
    return factor if (full == factor[:, None]).all() else None


class Folding:
    """A network whose affine nodes are taken out one after the other."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.shapes = network.shapes()
        self.changed = False

    def remove(self, name: str, factor: np.ndarray, shift: np.ndarray) -> bool:
        """Fold node ``name``, which computes ``factor * x + shift`` by channel, both of shape (C,); False where no synapse can take it."""
        nodes = dict(self.network.nodes)
        before: _Plan = {}
        behind: _Plan = {}
        if self._into_sources(name, factor, shift, before):
            for synapse, (g, h) in before.items():
                nodes[synapse] = scaled_outputs(nodes[synapse], synapse, name, g, h)
        elif self._into_followers(name, factor, shift, behind):
            for synapse, (g, h) in behind.items():
                nodes[synapse] = scaled_inputs(nodes[synapse], synapse, name, g, h, self._arriving(synapse))
        else:
            return False
        sources = self.network.inputs_of(name)
        edges = []
        for src, dst in self.network.edges:
            if src == name:
                edges += [(source, dst) for source in sources]
            elif dst != name:
                edges.append((src, dst))
        del nodes[name]
        self._replace(nodes, edges)
        return True

    def make_synapse(self, name: str, factor: np.ndarray, shift: np.ndarray) -> None:
        """Put a synapse in the place of node ``name``."""
        self._replace({**self.network.nodes, name: by_channel(self.shapes[name], factor, shift)}, self.network.edges)

    def _replace(self, nodes: Mapping[str, Node], edges: Iterable[tuple[str, str]]) -> None:
        self.network = replace(self.network, nodes=dict(nodes), edges=tuple(edges))
        self.changed = True

    def _arriving(self, name: str) -> Shape:
        return self.shapes[self.network.inputs_of(name)[0]]

    def _into_sources(self, name: str, factor: np.ndarray, shift: np.ndarray, plan: _Plan) -> bool:
        """Plan to change all synapses whose sums reach ``name``; False when one of them also goes elsewhere."""
        sources = self.network.inputs_of(name)
        for number, source in enumerate(sources):
            if self.network.outputs_of(source) != (name,):
                return False
            h = shift if number == 0 else np.zeros_like(shift)  # a sum is shifted once
            node = self.network.nodes[source]
            if isinstance(node, Synapse):
                plan[source] = factor, h
                continue
            arriving = self.shapes[self.network.inputs_of(source)[0]] if self.network.inputs_of(source) else ()
            passed = _through_backward(node, factor, h, arriving)
            if passed is None or not self._into_sources(source, *passed, plan):
                return False
        return bool(sources)

    def _into_followers(self, name: str, factor: np.ndarray, shift: np.ndarray, plan: _Plan) -> bool:
        """Plan to change all synapses that ``name`` reaches; False when something else gets it, or gets more than it."""
        followers = self.network.outputs_of(name)
        for follower in followers:
            node = self.network.nodes[follower]
            if self.network.inputs_of(follower) != (name,):
                return False
            if isinstance(node, Synapse):
                plan[follower] = factor, shift
                continue
            passed = _through_forward(node, factor, shift, self.shapes[name])
            if passed is None or not self._into_followers(follower, *passed, plan):
                return False
        return bool(followers)


def _through_backward(
    node: Node, factor: np.ndarray, shift: np.ndarray, shape: Shape
) -> tuple[np.ndarray, np.ndarray] | None:
    """(factor, shift) before ``node``, which gets maps of ``shape``, of one behind it; None where the two do not commute."""
    if isinstance(node, Add):
        return factor, shift
    if isinstance(node, AvgPool2d | SumPool2d) and node.padding == (0, 0):
        return factor, shift / np.prod(node.kernel) if isinstance(node, SumPool2d) else shift
    if isinstance(node, Flatten):
        split_factor, split_shift = factor.reshape(shape[0], -1), shift.reshape(shape[0], -1)
        same = (split_factor == split_factor[:, :1]).all() and (split_shift == split_shift[:, :1]).all()
        return (split_factor[:, 0], split_shift[:, 0]) if same else None
    return None


def _through_forward(
    node: Node, factor: np.ndarray, shift: np.ndarray, shape: Shape
) -> tuple[np.ndarray, np.ndarray] | None:
    """(factor, shift) behind ``node``, which gets maps of ``shape``, of one before it; None where the two do not commute."""
    if isinstance(node, AvgPool2d | SumPool2d) and node.padding == (0, 0):
        return factor, shift * np.prod(node.kernel) if isinstance(node, SumPool2d) else shift
    if isinstance(node, Flatten):
        size = int(np.prod(shape[1:]))
        return np.repeat(factor, size), np.repeat(shift, size)
    return None


def scaled_outputs(node: Any, name: str, why: str, factor: np.ndarray, shift: np.ndarray) -> Any:
    """Synapse ``name`` with ``factor * psum + shift`` by output channel; ``why`` is the node this comes from."""
    weight, bias = _weights(node, name, why)
    bias = bias * _along(factor, bias.ndim) + _along(shift, bias.ndim)
    return _with(node, weight * _along(factor, weight.ndim), bias)


def scaled_inputs(node: Any, name: str, why: str, factor: np.ndarray, shift: np.ndarray, shape: Shape) -> Any:
    """Synapse ``name``, which gets maps of ``shape``, with ``factor * x + shift`` by input channel in its weights."""
    weight, bias = _weights(node, name, why)
    if isinstance(node, Linear):
        return _with(node, weight * factor, bias + weight @ shift)
    groups = node.groups
    by_group = factor.reshape(groups, 1, -1)
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    scaled = grouped * by_group.reshape(*by_group.shape, *([1] * (weight.ndim - 2)))
    if np.any(shift != 0):
        added = _convolved(node, weight, np.broadcast_to(_along(shift, len(shape)), shape))
        inside = added.reshape(len(added), -1)
        # against the size of the summands: sums that cancel are rounded as coarsely as they are, on every processor otherwise
        size = np.abs(weight).reshape(len(weight), -1).sum(1, keepdims=True) * np.abs(shift).max()
        even = bool((np.abs(inside - inside[:, :1]) <= 1e-12 * size).all())
        bias = bias + inside[:, 0] if even and bias.ndim == 1 else _along(bias, added.ndim) + added
    return _with(node, scaled.reshape(weight.shape), bias)


def _convolved(node: Any, weight: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The convolution of one map, float64."""
    convolution = F.conv2d if isinstance(node, Conv2d) else F.conv1d
    arrays = torch.from_numpy(x.copy())[None], torch.from_numpy(weight)
    found: np.ndarray = convolution(*arrays, None, node.stride, node.padding, node.dilation, node.groups)[0].numpy()
    return found


def by_channel(shape: Shape, factor: np.ndarray, shift: np.ndarray) -> Conv1d | Conv2d | Linear:
    """A synapse that computes ``factor * x + shift`` by channel of a map of ``shape``."""
    channels = len(factor)
    bias = shift.astype(np.float32) if np.any(shift != 0) else None
    weight = factor.astype(np.float32)
    has_bias = bias is not None
    if len(shape) == 3:
        weight = weight.reshape(-1, 1, 1, 1)
        return Conv2d(channels, channels, (1, 1), groups=channels, has_bias=has_bias, weight=weight, bias=bias)
    if len(shape) == 2:
        weight = weight.reshape(-1, 1, 1)
        return Conv1d(channels, channels, 1, groups=channels, has_bias=has_bias, weight=weight, bias=bias)
    return Linear(channels, channels, has_bias=has_bias, weight=np.diag(weight), bias=bias)


def _weights(node: Any, name: str, why: str) -> tuple[np.ndarray, np.ndarray]:
    """Weights and bias (zeros where there is none) in float64."""
    if node.weight is None:
        raise NetworkError(f"layer '{name}' has no weights; '{why}' cannot be folded into it, train first")
    bias = np.zeros(len(node.weight)) if node.bias is None else node.bias.astype(np.float64)
    return node.weight.astype(np.float64), bias


def _along(values: np.ndarray, ndim: int) -> np.ndarray:
    """One value for each channel as an array that broadcasts along the first of ``ndim`` axes."""
    return values.reshape(*values.shape, *([1] * (ndim - values.ndim)))


def _with(node: Any, weight: np.ndarray, bias: np.ndarray) -> Any:
    has_bias = bool(np.any(bias != 0))
    return replace(
        node,
        weight=weight.astype(np.float32),
        bias=bias.astype(np.float32) if has_bias else None,
        has_bias=has_bias,
    )
