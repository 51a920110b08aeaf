"""Folding is exact: the same outputs without BatchNorm, whatever stands before and behind it."""

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
    Delay,
    Flatten,
    Input,
    Leak,
    Linear,
    MaxPool2d,
    Node,
    Output,
    ReLU,
    Scale,
    SumPool2d,
    Synapse,
    node_out_shape,
)
from spikeloom.errors import NetworkError
from spikeloom.snn import build
from spikeloom.transform import TRANSFORMS, fold


def norm(channels: int, seed: int = 0, *, shift: bool = True) -> BatchNorm:
    """Statistics that are far from doing nothing; factors of both signs."""
    generator = np.random.default_rng([channels, seed])

    def draw(low: float, high: float) -> np.ndarray:
        return generator.uniform(low, high, channels).astype(np.float32)

    gamma, var = draw(0.3, 2) * np.where(generator.random(channels) < 0.5, -1, 1).astype(np.float32), draw(0.1, 3)
    zero = np.zeros(channels, np.float32)
    return BatchNorm(channels, 1e-3, gamma, draw(-1, 1) if shift else zero, draw(-1, 1) if shift else zero, var)


def scale(shape: tuple[int, ...]) -> Scale:
    return Scale(np.random.default_rng(5).uniform(0.5, 2, shape).astype(np.float32))


def with_weights(network: Network, seed: int = 1) -> Network:
    """Drawn weights and, where a layer has one, biases."""
    generator = np.random.default_rng(seed)
    nodes: dict[str, Node] = {}
    for name, node in network.nodes.items():
        nodes[name] = node
        if isinstance(node, Synapse) and node.weight is None:
            if isinstance(node, Linear):
                shape: tuple[int, ...] = (node.out_features, node.in_features)
            else:
                kernel = node.kernel if isinstance(node, Conv2d) else (node.kernel,)
                shape = (node.out_channels, node.in_channels // node.groups, *kernel)
            weight = generator.normal(0, 0.4, shape).astype(np.float32)
            bias = generator.normal(0, 0.5, shape[0]).astype(np.float32) if node.has_bias else None
            nodes[name] = replace(node, weight=weight, bias=bias)
    return replace(network, nodes=nodes)


def made(nodes: dict[str, Any], edges: Any = None) -> Network:
    """A graph with weights; without edges a chain, to which an output is added."""
    if edges is None:
        open_end = chain("net", nodes)
        out = open_end.shapes()[list(nodes)[-1]]
        return with_weights(chain("net", {**nodes, "out": Output(out)}))
    end = next(dst for _, dst in edges if dst == "out")
    without = Network(nodes, tuple(e for e in edges if e[1] != end))
    out = without.shapes()[next(src for src, dst in edges if dst == end)]
    return with_weights(Network({**nodes, "out": Output(out)}, tuple(edges)))


def outputs(network: Network, x: torch.Tensor, num_steps: int = 1) -> np.ndarray:
    with torch.no_grad():
        found: np.ndarray = build(network).eval()(x, num_steps, True)[-1].numpy()
    return found


def frames(network: Network, number: int = 5) -> torch.Tensor:
    shape = next(node.shape for node in network.nodes.values() if isinstance(node, Input))
    return torch.randn(number, *shape, generator=torch.Generator().manual_seed(0))


def same_function(network: Network) -> Network:
    """Fold, and compare what comes out; no BatchNorm is left."""
    folded = fold(network)
    assert not any(isinstance(node, BatchNorm) for node in folded.nodes.values())
    x = frames(network)
    expected = outputs(network, x)
    assert expected.std() > 1e-3
    np.testing.assert_allclose(outputs(folded, x), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    return folded


CONVOLUTIONS: dict[str, tuple[tuple[int, ...], Any]] = {
    "plain": ((4, 7, 6), {"kernel": (3, 3)}),
    "padded": ((4, 7, 6), {"kernel": (3, 3), "padding": (1, 1)}),
    "strided": ((4, 7, 6), {"kernel": (3, 2), "stride": (2, 1), "padding": (1, 0)}),
    "dilated": ((4, 7, 8), {"kernel": (3, 2), "dilation": (2, 3), "padding": (2, 1)}),
    "grouped": ((4, 7, 6), {"kernel": (3, 3), "groups": 2, "padding": (1, 1)}),
    "depthwise": ((6, 5, 5), {"kernel": (3, 3), "groups": 6}),
    "all": ((4, 9, 8), {"kernel": (3, 2), "stride": (2, 1), "padding": (1, 2), "dilation": (1, 2), "groups": 2}),
    "1d": ((4, 9), {"kernel": 3}),
    "1d all": ((4, 11), {"kernel": 3, "stride": 2, "padding": 2, "dilation": 2, "groups": 2}),
    "linear": ((4,), {}),
}


def synapse(case: str, has_bias: bool) -> tuple[tuple[int, ...], Any]:
    shape, options = CONVOLUTIONS[case]
    kind = {1: Linear, 2: Conv1d, 3: Conv2d}[len(shape)]
    return shape, kind(shape[0], 6, **options, has_bias=has_bias)


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_a_norm_behind_a_layer_goes_into_it(case: str, has_bias: bool) -> None:
    shape, layer = synapse(case, has_bias)
    folded = same_function(made({"in": Input(shape), "syn": layer, "norm": norm(6)}))
    assert folded.edges == (("in", "syn"), ("syn", "out"))
    node: Any = folded.nodes["syn"]
    assert node.has_bias and node.bias.shape == (6,) and node.weight.dtype == node.bias.dtype == np.float32


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_a_norm_before_a_layer_goes_into_it(case: str, has_bias: bool) -> None:
    """Zero padding is not the shift of the norm: behind a padded layer the bias differs at the border."""
    shape, layer = synapse(case, has_bias)
    network = made({"in": Input(shape), "norm": norm(shape[0]), "syn": layer})
    folded = same_function(network)
    assert folded.edges == (("in", "syn"), ("syn", "out"))
    node: Any = folded.nodes["syn"]
    padded = np.any(np.asarray(getattr(layer, "padding", 0)) != 0)
    assert node.bias.shape == (network.shapes()["syn"] if padded else (6,))
    assert not padded or np.ptp(node.bias.reshape(6, -1), axis=1).max() > 0.01


def test_a_norm_behind_a_bias_of_its_own_for_each_neuron() -> None:
    """Two norms around a padded convolution: the first makes a bias map, the second scales it."""
    folded = same_function(
        made({"in": Input((2, 5, 5)), "one": norm(2), "syn": Conv2d(2, 3, (3, 3), padding=(1, 1)), "two": norm(3)})
    )
    assert list(folded.nodes) == ["in", "syn", "out"]
    assert folded.nodes["syn"].bias.shape == (3, 5, 5)  # type: ignore[union-attr]


POOLS: dict[str, Any] = {"avg": AvgPool2d((2, 2), (2, 2)), "sum": SumPool2d((2, 3), (1, 2)), "flatten": Flatten()}


@pytest.mark.parametrize("pool", POOLS)
def test_through_pools_towards_the_layer_before(pool: str) -> None:
    """Behind a Flatten only a norm that treats all positions of a map alike fits; else it becomes a layer."""
    nodes: dict[str, Any] = {"in": Input((3, 6, 6)), "syn": Conv2d(3, 4, (3, 3), padding=(1, 1)), "pool": POOLS[pool]}
    if pool != "flatten":
        folded = same_function(made({**nodes, "norm": norm(4)}))
        assert list(folded.nodes) == ["in", "syn", "pool", "out"]
        return
    folded = same_function(made({**nodes, "norm": norm(144)}))
    assert isinstance(folded.nodes["norm"], Linear)
    even = norm(4)
    repeated = {key: np.repeat(getattr(even, key), 36) for key in ("gamma", "beta", "mean", "var")}
    folded = same_function(made({**nodes, "norm": BatchNorm(144, even.eps, **repeated)}))
    assert list(folded.nodes) == ["in", "syn", "pool", "out"]


@pytest.mark.parametrize("pool", POOLS)
def test_through_pools_towards_the_layer_behind(pool: str) -> None:
    nodes: dict[str, Any] = {"in": Input((3, 6, 6)), "relu": ReLU(), "norm": norm(3), "pool": POOLS[pool]}
    size = chain("net", nodes).shapes()["pool"]
    layer: Any = Linear(size[0], 5) if len(size) == 1 else Conv2d(3, 5, (2, 2))
    folded = same_function(made({**nodes, "syn": layer}))
    assert list(folded.nodes) == ["in", "relu", "pool", "syn", "out"]


@pytest.mark.parametrize("pool", [AvgPool2d((2, 2), (2, 2), (1, 1)), MaxPool2d((2, 2), (2, 2))])
def test_padded_and_max_pools_are_not_passed(pool: Any) -> None:
    """Zeros of the padding are no shift, and a maximum is no sum: the norm becomes a layer."""
    before = made({"in": Input((3, 6, 6)), "syn": Conv2d(3, 3, (1, 1)), "pool": pool, "norm": norm(3)})
    behind = made({"in": Input((3, 6, 6)), "norm": norm(3), "pool": pool, "syn": Conv2d(3, 3, (1, 1))})
    for network in (before, behind):
        folded = same_function(network)
        assert isinstance(folded.nodes["norm"], Conv2d) and folded.nodes["norm"].groups == 3


def residual(second: bool) -> Network:
    """A norm behind the sum of two convolutions, or of one and the input."""
    nodes: dict[str, Any] = {"in": Input((3, 5, 5)), "a": Conv2d(3, 3, (3, 3), padding=(1, 1), has_bias=True)}
    nodes |= {"b": Conv2d(3, 3, (1, 1), has_bias=True)} if second else {}
    nodes |= {"add": Add(), "norm": norm(3), "relu": ReLU()}
    other = [("in", "b"), ("b", "add")] if second else [("in", "add")]
    edges = [("in", "a"), ("a", "add"), *other, ("add", "norm"), ("norm", "relu"), ("relu", "out")]
    return made(nodes, edges)


def test_behind_the_sum_of_two_layers_both_are_scaled_and_one_is_shifted() -> None:
    folded = same_function(residual(second=True))
    assert list(folded.nodes) == ["in", "a", "b", "add", "relu", "out"]


def test_behind_a_sum_with_an_identity_the_norm_becomes_a_layer() -> None:
    folded = same_function(residual(second=False))
    node = folded.nodes["norm"]
    assert isinstance(node, Conv2d) and node.groups == 3 and node.kernel == (1, 1)


def test_nested_sums_are_shifted_once() -> None:
    nodes: dict[str, Any] = {"in": Input((3,))} | {n: Linear(3, 3, has_bias=True) for n in "abc"}
    nodes |= {"inner": Add(), "outer": Add(), "norm": norm(3)}
    edges = [("in", n) for n in "abc"] + [("a", "inner"), ("b", "inner"), ("inner", "outer"), ("c", "outer")]
    folded = same_function(made(nodes, [*edges, ("outer", "norm"), ("norm", "out")]))
    assert "norm" not in folded.nodes


@pytest.mark.parametrize("shape", [(4,), (4, 5), (4, 5, 6)])
def test_where_no_layer_is_near_the_norm_becomes_one(shape: tuple[int, ...]) -> None:
    """Between input and ReLU, and several in a row."""
    folded = same_function(made({"in": Input(shape), "one": norm(4), "two": norm(4, 1), "relu": ReLU()}))
    assert list(folded.nodes) == ["in", "one", "relu", "out"]
    assert isinstance(folded.nodes["one"], {1: Linear, 2: Conv1d, 3: Conv2d}[len(shape)])
    weights = folded.nodes["one"].weight  # type: ignore[union-attr]
    assert np.count_nonzero(weights) == 4


def test_two_norms_in_a_row() -> None:
    folded = same_function(made({"in": Input((5,)), "fc": Linear(5, 4), "one": norm(4), "two": norm(4, 1)}))
    assert list(folded.nodes) == ["in", "fc", "out"]


def test_two_in_a_row_behind_an_activation_both_go_into_the_layer_behind() -> None:
    """The first finds no layer as long as the second stands in its way."""
    nodes: dict[str, Any] = {
        "in": Input((3, 4, 4)),
        "relu": ReLU(),
        "scale": scale((3, 1, 1)),
        "one": norm(3),
        "two": norm(3, 1),
    }
    folded = same_function(made({**nodes, "conv": Conv2d(3, 2, (3, 3), padding=(1, 1))}))
    assert list(folded.nodes) == ["in", "relu", "conv", "out"]


def test_two_consumers() -> None:
    """Behind a layer the norm goes into it for both; behind an activation into both consumers, or, for a sum, into none."""
    nodes: dict[str, Any] = {"in": Input((4,)), "fc": Linear(4, 4), "norm": norm(4), "relu": ReLU(), "add": Add()}
    edges = [("in", "fc"), ("fc", "norm"), ("norm", "relu"), ("relu", "add"), ("norm", "add"), ("add", "out")]
    folded = same_function(made(nodes, edges))
    assert set(folded.edges) == {("in", "fc"), ("fc", "relu"), ("relu", "add"), ("fc", "add"), ("add", "out")}
    nodes = {"in": Input((4,)), "relu": ReLU(), "norm": norm(4), "a": Linear(4, 3), "b": Linear(4, 3), "add": Add()}
    edges = [("in", "relu"), ("relu", "norm"), ("norm", "a"), ("norm", "b"), ("a", "add"), ("b", "add"), ("add", "out")]
    folded = same_function(made(nodes, edges))
    assert "norm" not in folded.nodes
    nodes = {"in": Input((4,)), "relu": ReLU(), "norm": norm(4), "a": Linear(4, 4), "add": Add()}
    edges = [("in", "relu"), ("relu", "norm"), ("norm", "a"), ("norm", "add"), ("a", "add"), ("add", "out")]
    folded = same_function(made(nodes, edges))
    assert isinstance(folded.nodes["norm"], Linear)


def test_a_layer_that_also_feeds_something_else_is_left_alone() -> None:
    nodes: dict[str, Any] = {"in": Input((4,)), "fc": Linear(4, 4), "norm": norm(4), "add": Add()}
    edges = [("in", "fc"), ("fc", "norm"), ("norm", "add"), ("fc", "add"), ("add", "out")]
    network = made(nodes, edges)
    folded = same_function(network)
    assert np.array_equal(folded.nodes["fc"].weight, network.nodes["fc"].weight)  # type: ignore[union-attr]
    assert isinstance(folded.nodes["norm"], Linear)


@pytest.mark.parametrize("factor", [np.float32(0.5), "channel"])
def test_scales_by_channel_go_too(factor: Any) -> None:
    node = Scale(np.asarray(factor)) if factor != "channel" else scale((3, 1, 1))
    folded = same_function(made({"in": Input((2, 4, 4)), "syn": Conv2d(2, 3, (3, 3), has_bias=True), "scale": node}))
    assert list(folded.nodes) == ["in", "syn", "out"]
    folded = same_function(made({"in": Input((3, 4, 4)), "scale": node, "syn": Conv2d(3, 3, (3, 3), padding=(1, 1))}))
    assert list(folded.nodes) == ["in", "syn", "out"] and not folded.nodes["syn"].has_bias  # type: ignore[union-attr]


def test_a_scale_of_one_value_for_each_neuron_stays() -> None:
    network = made({"in": Input((2, 4, 4)), "syn": Conv2d(2, 3, (3, 3)), "scale": scale((3, 2, 2))})
    assert fold(network) is network


@pytest.mark.parametrize("neuron", [IF(0.7, "soft"), LIF(Leak(shift=2), 0.5), IF(1.0, "hard", max_level=3)])
def test_spiking_networks_send_the_same_spikes(neuron: Any) -> None:
    """Over time, with norms behind a layer, behind a pool of spikes, and between neuron and padded layer."""
    nodes: dict[str, Any] = {
        "in": Input((2, 6, 6)), "conv1": Conv2d(2, 4, (3, 3), padding=(1, 1)), "norm1": norm(4), "n1": neuron,
        "norm2": norm(4, 1), "conv2": Conv2d(4, 4, (3, 3), padding=(1, 1), has_bias=True), "n2": neuron,
        "pool": AvgPool2d((2, 2), (2, 2)), "norm3": norm(4, 2), "flatten": Flatten(), "fc": Linear(36, 3), "li": LI(),
    }  # fmt: skip
    network = made(nodes)
    folded = fold(network)
    assert not any(isinstance(node, BatchNorm) for node in folded.nodes.values()) and len(folded.nodes) == 10
    x = frames(network, 8)
    np.testing.assert_allclose(outputs(folded, x, 6), outputs(network, x, 6), rtol=1e-3, atol=1e-3)


def test_a_loop_is_folded_too() -> None:
    nodes: dict[str, Any] = {
        "in": Input((4,)), "fc": Linear(4, 4), "add": Add(), "n": IF(0.6, "soft"), "delay": Delay(1),
        "back": Linear(4, 4), "norm": norm(4, 3),
    }  # fmt: skip
    edges = [("in", "fc"), ("fc", "add"), ("add", "n"), ("n", "delay"), ("delay", "back"), ("back", "norm"),
             ("norm", "add"), ("n", "out")]  # fmt: skip
    network = made(nodes, edges)
    folded = fold(network)
    assert "norm" not in folded.nodes and ("back", "add") in folded.edges
    x = frames(network, 6)
    np.testing.assert_array_equal(outputs(folded, x, 5), outputs(network, x, 5))


def test_no_bias_where_none_is_needed() -> None:
    """A bias acts at every step, and a machine then has no silent window to skip."""
    behind = made({"in": Input((5,)), "fc": Linear(5, 6), "norm": norm(6, shift=False)})
    before = made({"in": Input((5,)), "norm": norm(5, shift=False), "fc": Linear(5, 6)})
    alone = made({"in": Input((5,)), "fc": norm(5, shift=False), "relu": ReLU()})
    for network in (behind, before, alone):
        fc: Any = same_function(network).nodes["fc"]
        assert fc.has_bias is False and fc.bias is None


def test_a_bias_is_by_channel_unless_padding_makes_it_differ() -> None:
    """Sums that cancel: rounding must not look like a border."""
    generator = np.random.default_rng(2)
    weight = generator.normal(size=(16, 8, 3, 3))
    weight[:, :, 2, 2] -= weight.sum((2, 3))  # every sum over a kernel is 0 up to rounding
    nodes: dict[str, Any] = {
        "in": Input((8, 11, 13)), "norm": norm(8), "syn": Conv2d(8, 16, (3, 3), weight=weight.astype(np.float32)),
    }  # fmt: skip
    assert same_function(made(nodes)).nodes["syn"].bias.shape == (16,)  # type: ignore[union-attr]


def test_a_network_without_norms_comes_back_itself() -> None:
    network = chain("net", {"in": Input((5,)), "fc": Linear(5, 6), "out": Output((6,))})
    assert fold(network) is network
    assert TRANSFORMS["fold"] is fold


def test_the_network_that_is_folded_stays_as_it_is() -> None:
    network = made({"in": Input((5,)), "fc": Linear(5, 6, has_bias=True), "norm": norm(6)})
    before = network.id
    fold(network)
    assert network.id == before


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ({"in": Input((2,)), "fc": Linear(2, 2), "bad": norm(2)}, "layer 'fc' has no weights; 'bad' cannot be folded"),
        ({"in": Input((2,)), "bad": norm(2), "fc": Linear(2, 2)}, "layer 'fc' has no weights; 'bad' cannot be folded"),
        ({"in": Input((2,)), "bad": BatchNorm(2), "fc": Linear(2, 2)}, "BatchNorm 'bad' has no statistics"),
        ({"in": Input((2,)), "bad": replace(norm(2), var=None)}, "BatchNorm 'bad' has no statistics"),
    ],
)
def test_absent_weights_and_statistics_are_named(nodes: Any, words: str) -> None:
    with pytest.raises(NetworkError, match=words):
        fold(chain("net", nodes))


@st.composite
def graphs(draw: st.DrawFn) -> Network:
    """A row of random nodes with residual branches, ending flat or not."""
    shape: tuple[int, ...] = (draw(st.integers(1, 4)), draw(st.integers(3, 7)), draw(st.integers(3, 7)))
    nodes: dict[str, Any] = {"in": Input(shape)}
    edges: list[tuple[str, str]] = []
    last = "in"

    def then(node: Any, *sources: str) -> None:
        nonlocal last, shape
        name = f"{type(node).__name__}{len(nodes)}"
        nodes[name] = node
        edges.extend((source, name) for source in (sources or (last,)))
        last, shape = name, node_out_shape(name, node, shape)

    for _ in range(draw(st.integers(1, 7))):
        channels, has_bias, seed = shape[0], draw(st.booleans()), draw(st.integers(0, 99))
        kinds = ["norm", "norm", "syn", "syn", "relu", "scale", "branch"]
        kinds += ["avg", "sum", "flatten", "max"] if len(shape) == 3 and min(shape[1:]) >= 2 else []
        kind, start = draw(st.sampled_from(kinds)), last
        match kind:
            case "norm":
                then(norm(channels, seed, shift=draw(st.booleans())))
            case "relu":
                then(draw(st.sampled_from([ReLU(), ClippedReLU(1.0)])))
            case "scale":
                then(Scale(np.random.default_rng(seed).uniform(0.5, 2, (channels,) + (1,) * (len(shape) - 1))))
            case "flatten":
                then(Flatten())
            case "avg" | "sum" | "max":
                pad = draw(st.integers(0, 1))
                then({"avg": AvgPool2d, "sum": SumPool2d, "max": MaxPool2d}[kind]((2, 2), (2, 1), (pad, pad)))
            case "syn" if len(shape) == 1:
                then(Linear(channels, draw(st.integers(1, 5)), has_bias))
            case "syn":
                groups, pad = draw(st.sampled_from([g for g in (1, 2, channels) if channels % g == 0])), 1
                stride = draw(st.integers(1, 2))
                then(Conv2d(channels, 2 * groups, (2, 3), (stride, 1), (pad, pad), groups=groups, has_bias=has_bias))
            case _:
                same: Any = (
                    Linear(channels, channels, has_bias) if len(shape) == 1 else Conv2d(channels, channels, (1, 1))
                )
                then(same)
                if draw(st.booleans()):
                    then(norm(channels, seed))
                then(Add(), last, start)
    if draw(st.booleans()):
        then(norm(shape[0], 7))
    return made(nodes, [*edges, (last, "out")])


@given(graphs())
@settings(max_examples=120, deadline=None)
def test_random_graphs_compute_the_same(network: Network) -> None:
    folded = fold(network)
    assert not any(isinstance(node, BatchNorm | Scale) for node in folded.nodes.values())
    x = frames(network, 3)
    expected = outputs(network, x)
    np.testing.assert_allclose(outputs(folded, x), expected, rtol=1e-3, atol=1e-4 * max(1, np.abs(expected).max()))
    assert fold(folded) is folded
