"""Pruning removes exactly what it says; a network without channels computes what one with silent channels does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloom.core.network import Network, chain
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
    Leak,
    Linear,
    MaxPool2d,
    Node,
    Output,
    Scale,
    SumPool2d,
    Synapse,
)
from spikeloom.errors import NetworkError
from spikeloom.snn import TrainConfig, build, train
from spikeloom.transform.prune import left_alone, mask_rule, part, prune_channels, prune_magnitude
from tests.snn.toys import stripes, tiny_cnn

T, N = 5, 3


def whole(rng: np.random.Generator, *shape: int, low: int = -3, high: int = 3) -> np.ndarray:
    """Small whole numbers, so that float sums are exact in any order; none is zero."""
    drawn = rng.integers(low, high, shape, endpoint=True)
    return np.where(drawn == 0, 1, drawn).astype(np.float32)


def names(rng: np.random.Generator, K: int, *extent: int) -> np.ndarray:
    """A bias by which each channel is known again: all different."""
    bias = rng.permutation(K).astype(np.float32) - K // 2
    return np.broadcast_to(bias.reshape(K, *[1] * len(extent)), (K, *extent)).copy()


def conv(rng: np.random.Generator, C: int, K: int, groups: int = 1, extent: tuple[int, ...] = ()) -> Conv2d:
    weight = whole(rng, K, C // groups, 3, 3)
    bias = names(rng, K, *extent)
    return Conv2d(C, K, (3, 3), padding=(1, 1), groups=groups, has_bias=True, weight=weight, bias=bias)


def linear(rng: np.random.Generator, C: int, K: int) -> Linear:
    return Linear(C, K, has_bias=True, weight=whole(rng, K, C), bias=names(rng, K))


def line(rng: np.random.Generator, C: int, K: int, kernel: int, groups: int = 1) -> Conv1d:
    weight = whole(rng, K, C // groups, kernel)
    return Conv1d(C, K, kernel, groups=groups, has_bias=True, weight=weight, bias=names(rng, K))


def norm(rng: np.random.Generator, K: int) -> BatchNorm:
    """Exact in float32: eps 0, variance 4."""
    four = np.full(K, 4, np.float32)
    return BatchNorm(K, 0.0, whole(rng, K), whole(rng, K), whole(rng, K), four)


def straight(seed: int) -> Network:
    """Every value that a neuron may have per channel or per neuron; pools; a flattened map."""
    rng = np.random.default_rng(seed)
    shared = Leak(factor=np.array([0.5, 0.25, 1.0, 0.5, 0.0, 1.0]).reshape(6, 1, 1))
    nodes: dict[str, Node] = {
        "in": Input((2, 4, 4)),
        "conv1": conv(rng, 2, 6),
        "norm1": norm(rng, 6),
        "lif1": LIF(shared, whole(rng, 6, 4, 4, low=1), "soft", v_init=whole(rng, 6, 1, 1, low=-4, high=-1)),
        "pool1": SumPool2d((2, 2), (2, 2)),
        "scale": Scale(whole(rng, 6, 1, 1)),
        "conv2": conv(rng, 6, 5, extent=(2, 2)),
        "if2": IF(whole(rng, 5, 1, 1, low=2), "hard", v_reset=whole(rng, 1, 2, 2, low=-2, high=-1)),
        "pool2": MaxPool2d((2, 2), (1, 1)),
        "delay": Delay(1),
        "flatten": Flatten(),
        "fc1": linear(rng, 5, 7),
        "cuba": CubaLIF(Leak(factor=0.5), Leak(factor=np.tile([0.5, 1.0], 4)[:7]), whole(rng, 7, low=1)),
        "fc2": linear(rng, 7, 3),
        "readout": LI(),
        "out": Output((3,)),
    }
    return chain("straight", nodes)


def residual(seed: int) -> Network:
    """conv1 and conv2 meet in an Add, a depthwise convolution follows, then two layers that meet at a neuron."""
    rng = np.random.default_rng(seed)
    nodes: dict[str, Node] = {
        "in": Input((2, 4, 4)),
        "conv1": conv(rng, 2, 5),
        "if1": IF(2.0),
        "conv2": conv(rng, 5, 5),
        "if2": IF(2.0, "soft"),
        "add": Add(),
        "depth": conv(rng, 5, 10, groups=5),
        "if3": IF(3.0),
        "flatten": Flatten(),
        "fa": linear(rng, 160, 4),
        "fb": linear(rng, 160, 4),
        "if4": IF(2.0, "soft"),
        "fc": linear(rng, 4, 3),
        "out": Output((3,)),
    }
    edges = [("in", "conv1"), ("conv1", "if1"), ("if1", "conv2"), ("conv2", "if2"), ("if1", "add"), ("if2", "add")]
    edges += [("add", "depth"), ("depth", "if3"), ("if3", "flatten"), ("flatten", "fa"), ("flatten", "fb")]
    edges += [("fa", "if4"), ("fb", "if4"), ("if4", "fc"), ("fc", "out")]
    return Network(nodes, tuple(edges), "residual")


def looped(seed: int) -> Network:
    """A hidden layer that feeds itself one step later."""
    rng = np.random.default_rng(seed)
    nodes: dict[str, Node] = {
        "in": Input((4,)),
        "fc1": linear(rng, 4, 6),
        "if1": IF(2.0),
        "back": Delay(1),
        "rec": linear(rng, 6, 6),
        "fc2": linear(rng, 6, 2),
        "out": Output((2,)),
    }
    edges = [("in", "fc1"), ("fc1", "if1"), ("if1", "back"), ("back", "rec"), ("rec", "if1")]
    return Network(nodes, (*edges, ("if1", "fc2"), ("fc2", "out")), "looped")


def one_dimensional(seed: int) -> Network:
    rng = np.random.default_rng(seed)
    nodes: dict[str, Node] = {
        "in": Input((2, 6)),
        "conv1": line(rng, 2, 4, 3),
        "if1": IF(2.0),
        "conv2": line(rng, 4, 4, 2, groups=4),
        "flatten": Flatten(),
        "fc": linear(rng, 12, 3),
        "out": Output((3,)),
    }
    return chain("line", nodes)


BUILDERS = {"straight": straight, "residual": residual, "looped": looped, "line": one_dimensional}


def trajectory(network: Network, frames: np.ndarray) -> np.ndarray:
    """What leaves the network at every step."""
    with torch.no_grad():
        found: np.ndarray = build(network).eval()(torch.from_numpy(frames).flatten(0, 1), len(frames)).numpy()
    return found


def surviving(before: Network, after: Network) -> dict[str, np.ndarray]:
    """Which channels of each layer are left, known by their biases."""
    kept = {}
    for name, node in before.nodes.items():
        cut = after.nodes[name]
        if isinstance(node, Synapse) and isinstance(cut, Synapse) and node.bias is not None and cut.bias is not None:
            mine, left = (bias.reshape(len(bias), -1)[:, 0] for bias in (node.bias, cut.bias))
            kept[name] = np.isin(mine, left)
            np.testing.assert_array_equal(node.bias[kept[name]], cut.bias)
    return kept


def silenced(network: Network, kept: dict[str, np.ndarray]) -> Network:
    """``network`` whose channels that are not in ``kept`` have zero weights, biases and norms: neurons there stay silent."""
    nodes = dict(network.nodes)
    layer = ""
    for name, node in network.nodes.items():
        if isinstance(node, Synapse) and node.weight is not None:
            layer = name
            gone = ~kept[name]
            weight, bias = node.weight.copy(), None if node.bias is None else node.bias.copy()
            for array in (weight, bias):
                if array is not None:
                    array[gone] = 0
            nodes[name] = replace(node, weight=weight, bias=bias)
        elif isinstance(node, BatchNorm) and node.gamma is not None and node.beta is not None:
            mask = kept[layer].astype(np.float32)
            nodes[name] = replace(node, gamma=node.gamma * mask, beta=node.beta * mask)
    return replace(network, nodes=nodes)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(BUILDERS)), st.integers(0, 2**16), st.floats(0, 1), st.sampled_from(("l1", "l2")))
def test_without_the_channels_it_computes_what_silent_channels_compute(
    builder: str, seed: int, fraction: float, criterion: Any
) -> None:
    network = BUILDERS[builder](seed)
    pruned = prune_channels(network, fraction, criterion=criterion)
    kept = surviving(network, pruned)
    assert len(kept) == sum(isinstance(node, Synapse) for node in network.nodes.values())
    shape = next(node.shape for node in network.nodes.values() if isinstance(node, Input))
    frames = (np.random.default_rng(seed + 1).random((T, N, *shape)) < 0.5).astype(np.float32)
    expected = trajectory(silenced(network, kept), frames)
    np.testing.assert_array_equal(trajectory(pruned, frames), expected)
    assert pruned.shapes()["out"] == network.shapes()["out"]


@pytest.mark.parametrize(("fraction", "left"), [(0.0, 6), (0.1, 6), (0.5, 3), (0.99, 1), (1.0, 1)])
def test_the_channels_of_smallest_norm_leave_and_one_stays(fraction: float, left: int) -> None:
    network = straight(3)
    pruned = prune_channels(network, fraction)
    weight, cut = (n.nodes["conv1"].weight for n in (network, pruned))  # type: ignore[union-attr]
    norms = np.abs(weight).reshape(6, -1).sum(axis=1)
    expected = np.sort(np.argsort(norms, kind="stable")[6 - left :])
    np.testing.assert_array_equal(cut, weight[expected])
    assert pruned.nodes["fc2"].out_features == 3  # type: ignore[union-attr]
    assert pruned.shapes()["pool1"] == (left, 2, 2)


def test_the_two_criteria_differ() -> None:
    weight = np.array([[3, 0, 0], [2, 2, 1]], np.float32)  # l1: 3 < 5; l2: 3 > 2.99..
    weight[1] = [1.7, 1.7, 1.7]
    nodes = {"in": Input((3,)), "a": Linear(3, 2, weight=weight), "n": IF(), "b": Linear(2, 1, weight=np.ones((1, 2)))}
    network = chain("net", {**nodes, "out": Output((1,))})  # type: ignore[dict-item]
    rows = [prune_channels(network, 0.5, criterion=c).nodes["a"].weight for c in ("l1", "l2")]  # type: ignore[arg-type, union-attr]
    np.testing.assert_array_equal(rows[0], weight[1:])
    np.testing.assert_array_equal(rows[1], weight[:1])


def test_what_meets_in_an_add_or_goes_through_a_depthwise_convolution_leaves_together() -> None:
    pruned = prune_channels(residual(0), 0.4)
    nodes: dict[str, Any] = dict(pruned.nodes)
    assert [nodes[name].out_channels for name in ("conv1", "conv2", "depth")] == [3, 3, 6]
    assert (nodes["depth"].groups, nodes["depth"].in_channels) == (3, 3)
    assert nodes["fa"].in_features == nodes["fb"].in_features == 6 * 16
    assert nodes["fa"].out_features == nodes["fb"].out_features == nodes["fc"].in_features == 3
    assert pruned.metadata["channels_left_alone"] == {"fc": "the network's output"}


def test_what_must_stay_is_left_alone_and_named() -> None:
    rng = np.random.default_rng(0)
    nodes: dict[str, Node] = {
        "in": Input((4, 4, 4)),
        "first": conv(rng, 4, 4),
        "if0": IF(),
        "grouped": conv(rng, 4, 6, groups=2),
        "if1": IF(),
        "free": conv(rng, 6, 6),
        "if2": IF(),
        "kept": conv(rng, 6, 6),
        "add": Add(),
        "if3": IF(),
        "last": conv(rng, 6, 4),
        "sum": Add(),
        "out": Output((4, 4, 4)),
    }
    network = chain("net", nodes)
    network = replace(network, edges=(*network.edges, ("in", "sum")))
    reasons = left_alone(network, keep=("kept",))
    assert reasons == {
        "first": "the groups of 'grouped'",
        "grouped": "the groups of 'grouped'",
        "kept": "kept on request",
        "last": "tied to the network's input",
    }
    pruned = prune_channels(network, 0.5, keep=("kept",))
    assert pruned.metadata["channels_left_alone"] == reasons
    sizes = {name: node.out_channels for name, node in pruned.nodes.items() if isinstance(node, Conv2d)}
    assert sizes == {"first": 4, "grouped": 6, "free": 3, "kept": 6, "last": 4}


def test_the_ceilings_of_an_ann_leave_with_their_channels() -> None:
    rng = np.random.default_rng(4)
    ceiling = np.arange(1, 7, dtype=np.float64).reshape(6, 1, 1)
    nodes: dict[str, Node] = {"in": Input((2, 4, 4)), "conv1": conv(rng, 2, 6), "relu": ClippedReLU(ceiling, levels=4)}
    network = chain("ann", {**nodes, "conv2": conv(rng, 6, 2), "out": Output((2, 4, 4))})
    pruned = prune_channels(network, 0.5)
    kept = surviving(network, pruned)
    assert kept["conv1"].sum() == 3
    np.testing.assert_array_equal(pruned.nodes["relu"].ceiling, ceiling[kept["conv1"]])  # type: ignore[union-attr]
    frames = rng.random((1, N, 2, 4, 4)).astype(np.float32)
    np.testing.assert_allclose(trajectory(pruned, frames), trajectory(silenced(network, kept), frames), rtol=1e-6)


def test_what_the_weights_of_the_parent_earned_is_not_said_of_others() -> None:
    network = replace(straight(0), metadata={"test_accuracy": 0.9, "history": [1], "seconds": 2.0, "seed": 3})
    assert prune_magnitude(network, 0.5).metadata == {"seed": 3}
    assert prune_channels(network, 0.5).metadata.keys() == {"seed", "channels_left_alone"}


def test_by_and_by_comes_to_the_same_number_of_channels() -> None:
    network = straight(1)
    stepwise = network
    for fraction in (0.2, 0.3, 0.5):
        stepwise = prune_channels(stepwise, fraction, of=network)
        at_once = prune_channels(network, fraction)
        assert stepwise.shapes() == at_once.shapes()
    assert prune_channels(stepwise, 0.2, of=network).shapes() == stepwise.shapes()


# ---- single weights


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(-4, 4), min_size=1, max_size=12), min_size=1, max_size=3),
    st.integers(0, 100),
    st.sampled_from(("global", "layer")),
    st.booleans(),
)
def test_exactly_the_smallest_weights_become_zero(
    layers: list[list[int]], percent: int, scope: Any, integer: bool
) -> None:
    """Against one weight at a time: the next to go is the first of the smallest that is left."""
    nodes: dict[str, Node] = {"in": Input((len(layers[0]),))}
    edges = []
    for i, row in enumerate(layers):
        dtype = np.int8 if integer else np.float32
        nodes[f"in{i}"] = Input((len(row),))
        nodes[f"fc{i}"] = Linear(len(row), 1, weight=np.array([row], dtype))
        edges.append((f"in{i}", f"fc{i}"))
    network = Network(nodes, tuple(edges))
    pruned = prune_magnitude(network, percent / 100, scope=scope)
    expected = [list(row) for row in layers]
    for group in [expected] if scope == "global" else [[row] for row in expected]:
        gone: set[tuple[int, int]] = set()
        for _ in range(percent * sum(map(len, group)) // 100):
            places = [(abs(v), i, k) for i, row in enumerate(group) for k, v in enumerate(row) if (i, k) not in gone]
            _, i, k = min(places)
            gone.add((i, k))
        for i, k in gone:
            group[i][k] = 0
    for i, row in enumerate(expected):
        node, before = pruned.nodes[f"fc{i}"], network.nodes[f"fc{i}"]
        assert isinstance(node, Linear) and isinstance(before, Linear)
        assert node.weight is not None and before.weight is not None
        assert node.weight.tolist() == [row]
        assert node.weight.dtype == before.weight.dtype
        assert before.weight.tolist() == [layers[i]], "the network that was given is changed"


def test_the_number_of_zeros_is_exact_in_decimals() -> None:
    assert [part(0.29, 100), part(0.1 + 0.2, 10), part(1.0, 7), part(0, 7), part(0.8, 10)] == [29, 3, 7, 0, 8]


def test_layers_to_keep_are_neither_pruned_nor_counted() -> None:
    network = straight(2)
    pruned = prune_magnitude(network, 0.5, keep=("conv1", "fc2"))
    free = [name for name, node in network.nodes.items() if isinstance(node, Synapse) and name not in ("conv1", "fc2")]
    for name in ("conv1", "fc2"):
        assert pruned.nodes[name] is network.nodes[name]
    arrays = [pruned.nodes[name].weight for name in free]  # type: ignore[union-attr]
    assert sum((a == 0).sum() for a in arrays) == sum(a.size for a in arrays) // 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda n: prune_magnitude(n, 1.5), "sparsity: got 1.5"),
        (lambda n: prune_magnitude(n, float("nan")), "sparsity: got nan"),
        (lambda n: prune_magnitude(n, 0.5, scope="row"), "scope: got 'row', expected global or layer"),
        (lambda n: prune_magnitude(n, 0.5, keep=("conv9",)), r"cannot keep \['conv9'\].*conv1"),
        (lambda n: prune_magnitude(tiny_cnn(), 0.5), "layer 'conv1' of network 'tiny' has no weights"),
        (lambda n: prune_channels(n, -0.1), "fraction: got -0.1"),
        (lambda n: prune_channels(n, 0.5, criterion="l3"), "criterion: got 'l3', expected l1 or l2"),
        (lambda n: prune_channels(n, 0.5, keep=("if2",)), r"cannot keep \['if2'\]"),
        (lambda n: prune_channels(tiny_cnn(), 0.5), "layer 'conv1' of network 'tiny' has no weights"),
    ],
)
def test_what_cannot_be_pruned_is_refused_by_name(change: Any, words: str) -> None:
    with pytest.raises(NetworkError, match=words):
        change(straight(0))


def test_zeros_stay_zero_while_the_rest_learns() -> None:
    drawn = build(tiny_cnn(norm=False), seed=1).to_network()
    pruned = prune_magnitude(drawn, 0.6)
    config = TrainConfig(num_steps=4, epochs=3, batch_size=16, learning_rate=1e-2, weight_decay=0.5)
    tuned = train(pruned, stripes(48), config, weight_rule=mask_rule(pruned)).network
    loose = train(pruned, stripes(48), config).network
    revived = changed = 0
    for name, node in pruned.nodes.items():
        if isinstance(node, Synapse):
            zero = node.weight == 0
            after: Any = tuned.nodes[name]
            assert not after.weight[zero].any()
            changed += int((after.weight != node.weight).sum())
            free: Any = loose.nodes[name]
            revived += int((free.weight[zero] != 0).sum())
    assert changed and revived  # without the rule the same training does revive them


def test_an_average_pool_and_integers_keep_their_dtype() -> None:
    nodes: dict[str, Node] = {
        "in": Input((1, 4, 4)),
        "conv": Conv2d(1, 3, (1, 1), weight=np.array([2, -128, 5], np.int8).reshape(3, 1, 1, 1)),
        "if": IF(3.0, membrane_bits=16),
        "pool": AvgPool2d((2, 2), (2, 2)),
        "flatten": Flatten(),
        "fc": Linear(12, 2, weight=np.arange(24, dtype=np.int8).reshape(2, 12)),
        "out": Output((2,)),
    }
    pruned = prune_channels(chain("net", nodes), 0.5)
    conv, fc = pruned.nodes["conv"], pruned.nodes["fc"]
    assert isinstance(conv, Conv2d) and conv.weight is not None and conv.weight.ravel().tolist() == [-128, 5]
    assert isinstance(fc, Linear) and fc.weight is not None and fc.weight.dtype == np.int8
    np.testing.assert_array_equal(fc.weight, np.arange(24).reshape(2, 12)[:, 4:])
