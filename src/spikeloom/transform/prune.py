"""Pruning: the smallest weights become zero, or whole channels leave the network.

Magnitude: Han et al., NeurIPS 2015 (1506.02626). Channels by the norm of their filters: Li et al., ICLR 2017 (1608.08710). Both rank
sizes in one unit (`comparable`): a layer that is scaled together with its thresholds, or whose spikes are, loses the same weights.
Letters: K output channels, C input channels, H W map.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from spikeloom.core.network import Network
from spikeloom.core.nodes import (
    IF,
    LIF,
    Add,
    AvgPool2d,
    BatchNorm,
    ClippedReLU,
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
    Node,
    Output,
    Scale,
    Shape,
    SumPool2d,
    Synapse,
    Value,
)
from spikeloom.core.signals import LEVEL_MAX
from spikeloom.errors import NetworkError

if TYPE_CHECKING:
    from torch import Tensor

    from spikeloom.snn.train import WeightRule

Scope = Literal["global", "layer"]
Criterion = Literal["l1", "l2"]

#: Nodes that pass on what arrives, as it is or times a factor.
PASSING = (Add, AvgPool2d, Delay, Flatten, MaxPool2d, Scale, SumPool2d)
#: Metadata that a network's own weights earned, not those made from it.
OF_PARENT = ("test_accuracy", "validation_accuracy", "history", "seconds")


def prune_magnitude(
    network: Network, sparsity: float, *, scope: Scope = "global", keep: Collection[str] = ()
) -> Network:
    """Zero the weights of smallest magnitude, in the units of `comparable`: exactly floor(sparsity * number) of them, ties by index,
    zeros included.

    Args:
        network: with weights, float or integer.
        sparsity: fraction of the weights that may be pruned, 0..1.
        scope: "global" compares the weights of all layers with one another, "layer" those of each layer alone.
        keep: layers that are never pruned and not counted.

    Raises:
        NetworkError: a sparsity outside 0..1, a layer without weights, an unknown scope or name.
    """
    _check_fraction("sparsity", sparsity)
    _check_choice("scope", scope, ("global", "layer"))
    weights = _weights(network, keep)
    sized = comparable(network, weights)
    nodes = dict(network.nodes)
    for names in [list(weights)] if scope == "global" else [[name] for name in weights]:
        sizes = np.concatenate([sized[name].ravel() for name in names] or [np.empty(0)])
        pruned = np.zeros(sizes.size, bool)
        pruned[np.argsort(sizes, kind="stable")[: part(sparsity, sizes.size)]] = True
        start = 0
        for name in names:
            weight = weights[name].copy()
            weight[pruned[start : start + weight.size].reshape(weight.shape)] = 0
            start += weight.size
            node = nodes[name]
            assert isinstance(node, Synapse)
            nodes[name] = replace(node, weight=weight)
    return replace(network, nodes=nodes, metadata=still_true(network))


def mask_rule(network: Network) -> WeightRule:
    """Keeps the zero weights of ``network`` zero through ``snn.train.train(weight_rule=...)``.

    Weights are multiplied by 0 or 1 before they are used, so neither gradients nor weight decay nor momentum revive them
    in the result.
    """
    import torch

    masks = {
        name: torch.from_numpy((node.weight != 0).astype(np.float32))
        for name, node in network.nodes.items()
        if isinstance(node, Synapse) and node.weight is not None
    }

    def rule(name: str, weight: Tensor) -> Tensor:
        return weight * masks[name].to(weight.device, weight.dtype)

    return rule


def prune_channels(
    network: Network,
    fraction: float,
    *,
    criterion: Criterion = "l1",
    keep: Collection[str] = (),
    of: Network | None = None,
) -> Network:
    """Remove the output channels (or features) of smallest norm, and everything behind them that belongs to them.

    floor(fraction * K) channels leave each layer, one at least stays. Channels that an Add or a depthwise convolution ties
    together leave together, judged by the norm of all their weights. Layers in `left_alone` keep theirs; the metadata
    of the result name them under ``channels_left_alone``.

    Args:
        network: with weights, float or integer; with BatchNorm the norms are those before it, so fold it first.
        fraction: of the channels, 0..1.
        criterion: "l1" is the sum of magnitudes, "l2" the root of the sum of squares.
        keep: layers that keep their channels.
        of: the network whose numbers of channels the fraction is of, for pruning by and by; None for ``network``.

    Raises:
        NetworkError: a fraction outside 0..1, a layer without weights, an unknown criterion or name.
    """
    _check_fraction("fraction", fraction)
    _check_choice("criterion", criterion, ("l1", "l2"))
    sized = comparable(network, _weights(network, keep))
    ties, whole = _Ties(network, keep), _Ties(of or network, keep)
    removed: list[int] = []
    for layers in ties.layers_together():
        norms = ties.norms(layers, sized, criterion)
        number = part(fraction, whole.num_sets(layers)) - (whole.num_sets(layers) - len(norms))
        left = {name: ties.num_sets([name]) for name in layers}
        for found in sorted(norms, key=lambda found: norms[found]):  # stable: ties by index
            touched = [name for name in layers if found in ties.of[name]]
            if number <= 0:
                break
            if found not in ties.fixed and all(left[name] > 1 for name in touched):
                removed.append(found)
                number -= 1
                for name in touched:
                    left[name] -= 1
    kept = {name: ~np.isin(ties.of[name], removed) for name in network.nodes}
    metadata = still_true(network) | {"channels_left_alone": left_alone(network, keep)}
    return replace(remove_channels(network, kept), metadata=metadata)


def comparable(network: Network, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Sizes of weights in one unit for all layers: what the most that can arrive adds, over the sum at which the neurons say their most.

    The most is 1 for a spike or pixel, ``max_level`` for a graded spike, the ceiling of a ClippedReLU; a neuron says it at
    ``max_level * v_threshold``. That makes a converted network what data-based normalisation (Diehl et al., IJCNN 2015) makes of
    its ANN, whatever its spikes stand for. ReLUs and read-outs have no such sum; their weights count as they are, those of a read-out of
    integers in the step that `quantize` wrote down.

    Returns:
        By layer, float64, the shape of its weights.
    """
    shapes, spike = network.shapes(), 1 / _told(network.metadata.get("conversion"), "threshold_to_input")
    quantized = network.metadata.get("quantized")
    steps = quantized.get("readout_steps") if isinstance(quantized, Mapping) else None
    most: dict[str, np.ndarray] = {}
    for name in (*network.order(), *network.order()):  # twice, for what loops bring back
        arriving = [most[source] for source in network.inputs_of(name) if source in most and source != name]
        most[name] = _most(network, name, shapes[name], np.sum(arriving, axis=0) if arriving else None, spike)
    found = {}
    for name, weight in weights.items():
        arrived = np.sum([most[source] for source in network.inputs_of(name) if source != name], axis=0)
        groups = getattr(network.nodes[name], "groups", 1)
        columns = np.repeat(arrived.reshape(groups, -1), len(weight) // groups, axis=0)
        size = np.abs(weight.astype(np.float64)) * columns.reshape(*columns.shape, *[1] * (weight.ndim - 2))
        need = _need(network, name, shapes, spike)
        rows = np.array([1 / _told(steps, name)]) if need is None else need
        found[name] = size / rows.reshape(-1, *[1] * (weight.ndim - 1))
    return found


def _told(metadata: Any, key: str) -> float:
    """The positive number that metadata hold under ``key``; 1 where there is none."""
    value = metadata.get(key) if isinstance(metadata, Mapping) else None
    return float(value) if isinstance(value, int | float) and 0 < value < math.inf else 1.0


def _most(network: Network, name: str, shape: Shape, arriving: np.ndarray | None, spike: float) -> np.ndarray:
    """The largest value that a node sends, by channel; 1 where nothing bounds it."""
    node = network.nodes[name]
    if isinstance(node, Firing):
        return np.full(shape[0], node.max_level * spike)
    if isinstance(node, ClippedReLU):
        return _by_channel(node.ceiling, shape)
    if isinstance(node, Input) and node.encoding == "analog" and network.arithmetic == "integer":
        return np.full(shape[0], float(LEVEL_MAX))
    if arriving is None or not isinstance(node, PASSING):
        return np.ones(shape[0])
    if isinstance(node, Flatten):
        return np.repeat(arriving, shape[0] // len(arriving))
    return np.asarray(arriving * _gain(node, shape))


def _need(network: Network, name: str, shapes: Mapping[str, Shape], spike: float) -> np.ndarray | None:
    """The sum of a node's channels at which the neurons behind say their most, (K,); None where none of them has one."""
    found = []
    for follower in network.outputs_of(name):
        node, shape = network.nodes[follower], shapes[follower]
        if isinstance(node, IF | LIF | CubaLIF) and node.v_threshold is not None:
            found.append(_by_channel(node.v_threshold, shape) * node.max_level * spike)
        elif isinstance(node, ClippedReLU):
            found.append(_by_channel(node.ceiling, shape))
        elif (
            isinstance(node, PASSING)
            and not isinstance(node, Delay)
            and (inner := _need(network, follower, shapes, spike)) is not None
        ):
            gained = inner / _gain(node, shape)
            found.append(gained.reshape(shapes[name][0], -1).mean(1))
    return np.asarray(np.min(found, axis=0)) if found else None


def _gain(node: Node, shape: Shape) -> Any:
    """The factor by which a node makes its largest input larger, a number or (K,)."""
    if isinstance(node, Scale):
        return np.maximum(_by_channel(np.abs(node.scale), shape), np.finfo(np.float64).tiny)
    return math.prod(node.kernel) if isinstance(node, SumPool2d) else 1


def _by_channel(value: Value, shape: Shape) -> np.ndarray:
    """A value for a map of ``shape`` as one number for each channel: the mean of its neurons'; float64, (K,)."""
    every = np.broadcast_to(np.asarray(value, np.float64), shape)
    return np.asarray(every.reshape(shape[0], -1).mean(1))


def left_alone(network: Network, keep: Collection[str] = ()) -> dict[str, str]:
    """The layers whose channels `prune_channels` does not remove, and why: layer name -> reason."""
    ties = _Ties(network, keep)
    found: dict[str, str] = {}
    for name, node in network.nodes.items():
        reasons = [ties.fixed[label] for label in ties.of[name].tolist() if label in ties.fixed]
        if isinstance(node, Synapse) and len(reasons) == len(ties.of[name]):
            found[name] = reasons[0]
    return found


def remove_channels(network: Network, kept: Mapping[str, np.ndarray]) -> Network:
    """``network`` without some channels, its weights and values per channel cut to match.

    Args:
        network: with weights.
        kept: of every node, which channels (or features) of its output stay; bool (K,). Must be consistent along edges.
    """
    shapes = network.shapes()
    nodes: dict[str, Node] = {}
    for name, node in network.nodes.items():
        sources = [source for source in network.inputs_of(name) if source != name]
        arriving = kept[sources[0]] if sources else kept[name]
        if isinstance(node, Synapse):
            nodes[name] = _cut_synapse(node, kept[name], arriving)
        elif isinstance(node, BatchNorm):
            arrays = {key: getattr(node, key) for key in ("gamma", "beta", "mean", "var")}
            cut: dict[str, Any] = {k: None if array is None else array[kept[name]] for k, array in arrays.items()}
            nodes[name] = replace(node, num_features=int(kept[name].sum()), **cut)
        else:
            nodes[name] = _cut_values(node, kept[name], shapes[name])
    return replace(network, nodes=nodes)


def still_true(network: Network) -> dict[str, Any]:
    """The metadata of ``network`` that also hold once its weights are changed: all but `OF_PARENT`."""
    return {key: value for key, value in network.metadata.items() if key not in OF_PARENT}


def part(fraction: float, number: int) -> int:
    """floor(fraction * number), exact in the decimals of ``fraction``: 0.29 of 100 is 29."""
    return math.floor(Fraction(str(float(fraction))) * number)


class _Ties:
    """Which channels stand or fall together.

    of: of every node, the set to which each channel (or feature) of its output belongs; int64 (channels,), numbered by the
        first channel in node order. fixed: sets that must stay -> why.
    """

    def __init__(self, network: Network, keep: Collection[str]) -> None:
        self.network = network
        shapes = network.shapes()
        starts = np.cumsum([0, *(shapes[name][0] for name in network.nodes)])
        each = {name: np.arange(a, b) for name, a, b in zip(network.nodes, starts, starts[1:], strict=False)}
        pairs: list[tuple[np.ndarray, np.ndarray]] = []
        fixed: list[tuple[np.ndarray, str]] = []
        for name, node in network.nodes.items():
            sources = [source for source in network.inputs_of(name) if source != name]
            pairs += [(each[sources[0]], each[source]) for source in sources[1:]]
            if isinstance(node, Input):
                fixed.append((each[name], "tied to the network's input"))
            if isinstance(node, Output):
                fixed.append((each[name], "the network's output"))
            if name in keep:
                fixed.append((each[name], "kept on request"))
            if not sources:
                continue
            arriving = each[sources[0]]
            if isinstance(node, Conv1d | Conv2d) and 1 < node.groups == node.in_channels:  # depthwise
                pairs.append((each[name], np.repeat(arriving, node.out_channels // node.groups)))
            elif isinstance(node, Conv1d | Conv2d) and node.groups > 1:
                fixed += [(channels, f"the groups of '{name}'") for channels in (each[name], arriving)]
            elif isinstance(node, Flatten):
                pairs.append((each[name], np.repeat(arriving, len(each[name]) // len(arriving))))
            elif not isinstance(node, Synapse):
                pairs.append((each[name], arriving))
        labels = _connected(int(starts[-1]), pairs)
        self.of = {name: labels[channels] for name, channels in each.items()}
        self.fixed = {int(label): reason for channels, reason in reversed(fixed) for label in labels[channels]}

    def layers_together(self) -> list[list[str]]:
        """The synapses in node order, those with a set in common side by side."""
        found: list[tuple[set[int], list[str]]] = []
        for name, node in self.network.nodes.items():
            if not isinstance(node, Synapse):
                continue
            sets, names = set(self.of[name].tolist()), [name]
            apart = []
            for others, members in found:
                if others & sets:
                    sets, names = sets | others, members + names
                else:
                    apart.append((others, members))
            found = [*apart, (sets, names)]
        return [names for _, names in found]

    def num_sets(self, layers: Collection[str]) -> int:
        """Different sets among the channels of ``layers``."""
        return len(np.unique(np.concatenate([self.of[name] for name in layers])))

    def norms(self, layers: Collection[str], sized: Mapping[str, np.ndarray], criterion: Criterion) -> dict[int, float]:
        """Norm of the weights that make each set of channels, by ascending set; ``sized``: of `comparable`."""
        sums: dict[int, float] = dict.fromkeys(
            np.unique(np.concatenate([self.of[name] for name in layers])).tolist(), 0.0
        )
        for name in layers:
            if name not in sized:  # kept on request: its sets are fixed
                continue
            size = sized[name].reshape(len(sized[name]), -1)
            each = (size if criterion == "l1" else size**2).sum(axis=1)
            for label, norm in zip(self.of[name].tolist(), each.tolist(), strict=True):
                sums[label] += norm
        return sums if criterion == "l1" else {label: math.sqrt(total) for label, total in sums.items()}


def _connected(number: int, pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The smallest index that each of 0..number-1 is connected with; int64 (number,)."""
    labels = np.arange(number)
    if not pairs:
        return labels
    a, b = (np.concatenate(side) for side in zip(*pairs, strict=True))
    while True:
        before = labels.copy()
        low = np.minimum(labels[a], labels[b])
        for side in (labels[a], labels[b], a, b):
            np.minimum.at(labels, side, low)
        labels = labels[labels]
        if np.array_equal(labels, before):
            return labels


def _weights(network: Network, keep: Collection[str]) -> dict[str, np.ndarray]:
    """Weights of the layers that may be pruned, by name."""
    layers = {name: node for name, node in network.nodes.items() if isinstance(node, Synapse)}
    unknown = [name for name in keep if name not in layers]
    if unknown:
        raise NetworkError(f"cannot keep {unknown}: network '{network.name}' has the layers {list(layers)}")
    found = {}
    for name, node in layers.items():
        if node.weight is None:
            raise NetworkError(f"layer '{name}' of network '{network.name}' has no weights to prune; train it first")
        if name not in keep:
            found[name] = node.weight
    return found


def _cut_synapse(node: Synapse, kept: np.ndarray, arriving: np.ndarray) -> Synapse:
    bias = None if node.bias is None else node.bias[kept]
    assert node.weight is not None
    if isinstance(node, Linear):
        weight = node.weight[kept][:, arriving]
        return replace(node, in_features=weight.shape[1], out_features=weight.shape[0], weight=weight, bias=bias)
    weight = node.weight[kept]
    sizes: dict[str, Any] = {"in_channels": int(arriving.sum()), "out_channels": len(weight)}
    if node.groups == 1:
        weight = weight[:, arriving]
    elif node.groups == node.in_channels:
        sizes["groups"] = sizes["in_channels"]
    return replace(node, weight=weight, bias=bias, **sizes)


def _cut_values(node: Node, kept: np.ndarray, shape: Shape) -> Node:
    """A node with its values per channel (thresholds, leaks, scales, ceilings) cut; ``shape``: of its map before."""

    def cut(value: np.ndarray) -> np.ndarray:
        axis = value.ndim - len(shape)  # arrays broadcast to the map, aligned at its end
        return value if axis < 0 or value.shape[axis] == 1 else np.compress(kept, value, axis=axis)

    changes: dict[str, Any] = {}
    for key in ("scale", "ceiling", "v_threshold", "v_init", "v_reset", "leak", "syn_leak"):
        value = getattr(node, key, None)
        if isinstance(value, np.ndarray):
            changes[key] = cut(value)
        elif isinstance(value, Leak) and isinstance(value.factor, np.ndarray):
            changes[key] = Leak(factor=cut(value.factor))
    return replace(node, **changes) if changes else node


def _check_fraction(what: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise NetworkError(f"{what}: got {value}, expected a fraction of 0..1")


def _check_choice(what: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise NetworkError(f"{what}: got '{value}', expected {' or '.join(choices)}")
