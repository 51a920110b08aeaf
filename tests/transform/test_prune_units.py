"""Weights are ranked in one unit: what a layer is scaled by, together with its thresholds, does not change what is pruned."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloom.core.network import Network, chain
from spikeloom.core.nodes import (
    IF,
    LI,
    LIF,
    AvgPool2d,
    ClippedReLU,
    Conv2d,
    Flatten,
    Input,
    Leak,
    Linear,
    Node,
    Output,
    ReLU,
    Scale,
    SumPool2d,
    Synapse,
)
from spikeloom.snn import Execution
from spikeloom.transform.convert import Conversion, convert
from spikeloom.transform.prune import comparable, prune_channels, prune_magnitude
from spikeloom.transform.qcfs import staircase
from spikeloom.transform.quantize import Widths, quantize
from tests.snn.toys import Pixels

seeds = st.integers(0, 2**32 - 1)


def weights(network: Network) -> dict[str, np.ndarray]:
    nodes = {name: node for name, node in network.nodes.items() if isinstance(node, Synapse)}
    return {name: node.weight for name, node in nodes.items() if node.weight is not None}


def zeros(network: Network) -> dict[str, list[Any]]:
    return {name: (weight == 0).tolist() for name, weight in weights(network).items()}


def spiking(seed: int, groups: int = 1) -> Network:
    """Two convolutions, a pool and a read-out, with powers of two as thresholds; no two weights are of one size."""
    rng = np.random.default_rng(seed)

    def drawn(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    nodes: dict[str, Node] = {
        "in": Input((2, 6, 6)),
        "conv1": Conv2d(2, 4, (3, 3), weight=drawn(4, 2, 3, 3), has_bias=True, bias=drawn(4)),
        "if1": IF(1.0, "soft"),
        "pool": AvgPool2d((2, 2), (2, 2)),
        "conv2": Conv2d(4, 4, (1, 1), groups=groups, weight=drawn(4, 4 // groups, 1, 1)),
        "if2": LIF(Leak(shift=1), 2.0, v_reset=0.5),
        "flat": Flatten(),
        "fc": Linear(16, 3, weight=drawn(3, 16)),
        "li": LI(),
        "out": Output((3,)),
    }
    return chain("spiking", nodes)


def rescaled(network: Network, layer: str, neuron: str, factor: np.ndarray) -> Network:
    """A layer and all that its neurons compare its sums with, times one factor for each channel."""
    node, at = network.nodes[layer], network.nodes[neuron]
    assert isinstance(node, Conv2d) and node.weight is not None and isinstance(at, IF | LIF)
    column = factor.reshape(-1, 1, 1)
    bias = None if node.bias is None else (node.bias * factor).astype(np.float32)
    nodes = dict(network.nodes)
    nodes[layer] = replace(node, weight=(node.weight * column[..., None]).astype(np.float32), bias=bias)
    assert at.v_threshold is not None
    nodes[neuron] = replace(at, v_threshold=at.v_threshold * column, v_reset=at.v_reset * column)
    return replace(network, nodes=nodes)


@settings(max_examples=40, deadline=None)
@given(seeds, st.sampled_from([1, 2]), st.floats(0, 0.9), st.sampled_from(["global", "layer"]))
def test_a_layer_scaled_together_with_its_thresholds_loses_the_same_weights(
    seed: int, groups: int, sparsity: float, scope: Any
) -> None:
    network = spiking(seed, groups)
    factors = 2.0 ** np.random.default_rng(seed).integers(-12, 12, (2, 4))
    scaled = rescaled(rescaled(network, "conv1", "if1", factors[0]), "conv2", "if2", factors[1])
    assert zeros(prune_magnitude(scaled, sparsity, scope=scope)) == zeros(
        prune_magnitude(network, sparsity, scope=scope)
    )
    one, other = (prune_channels(each, sparsity) for each in (network, scaled))
    assert one.shapes() == other.shapes()
    for name, kept in weights(one).items():  # the channels that are left are the same ones
        row = {tuple(np.sign(r).ravel()) for r in kept}
        assert row == {tuple(np.sign(r).ravel()) for r in weights(other)[name]}


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_a_mean_is_a_sum_with_smaller_weights_behind_and_a_factor_belongs_to_them(seed: int) -> None:
    network = spiking(seed)
    conv2 = network.nodes["conv2"]
    assert isinstance(conv2, Conv2d) and conv2.weight is not None
    summed = replace(
        network,
        nodes={**network.nodes, "pool": SumPool2d((2, 2), (2, 2)), "conv2": replace(conv2, weight=conv2.weight / 4)},
    )
    factor = chain("f", {k: v for n, node in network.nodes.items() for k, v in (
        ((n, replace(conv2, weight=conv2.weight * 8)), ("by", Scale(np.full((4, 1, 1), 0.125)))) if n == "conv2" else ((n, node),)
    )})  # fmt: skip
    for same in (summed, factor):
        assert zeros(prune_magnitude(same, 0.6)) == zeros(prune_magnitude(network, 0.6))


def ann(seed: int) -> Network:
    rng = np.random.default_rng(seed)
    nodes: dict[str, Node] = {
        "in": Input((2, 6, 6), "analog"),
        "conv": Conv2d(2, 4, (3, 3), weight=rng.normal(size=(4, 2, 3, 3)).astype(np.float32)),
        "relu1": ReLU(),
        "pool": AvgPool2d((2, 2), (2, 2)),
        "flat": Flatten(),
        "fc1": Linear(16, 7, weight=rng.normal(size=(7, 16)).astype(np.float32)),
        "relu2": ReLU(),
        "fc2": Linear(7, 3, weight=rng.normal(size=(3, 7)).astype(np.float32)),
        "out": Output((3,)),
    }
    return chain("ann", nodes)


@pytest.mark.parametrize("options", [
    {}, {"max_level": 15}, {"by_channel": True}, {"reset": "hard", "threshold_to_input": 8.0}, {"max_level": 255, "by_channel": True},
])  # fmt: skip
@pytest.mark.parametrize("then", ["", "quantized"])
def test_a_converted_network_is_ranked_as_its_normalised_ann(options: dict[str, Any], then: str) -> None:
    """W * (activation that arrives) / (activation of its neurons), by loops over the ANN's own weights."""
    network = ann(3)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 2, 6, 6)).astype(np.uint8)
    calibration = Pixels(pixels, np.zeros(40, np.int64))
    made = convert(network, calibration, Execution(4, "direct"), Conversion(method="max", num_steps=8, **options))
    first, second = made.thresholds.values()
    most = options.get("max_level", 1) / options.get("threshold_to_input", 1.0)
    first, second = first * most, second * most  # of one level, or 8 times as high -> the activation
    sizes: dict[str, np.ndarray] = {}
    for name, weight in weights(network).items():
        size = np.zeros(weight.shape)
        for index in np.ndindex(*weight.shape):
            k, c = index[:2]
            arriving = 1.0 if name == "conv" else first[c // 4] if name == "fc1" else second[c]
            behind = first[k] if name == "conv" else second[k] if name == "fc1" else 1.0
            size[index] = abs(float(weight[index])) * arriving / behind
        sizes[name] = size
    converted = quantize(made.network, Widths(weight_bits=8)) if then else made.network
    found = comparable(converted, weights(converted))
    for name, size in sizes.items():
        near = {"rtol": 1e-5} if not then else {"rtol": 0.02, "atol": size.max() / 100}
        np.testing.assert_allclose(found[name], size, **near)  # type: ignore[call-overload]


def test_an_ann_with_ceilings_is_ranked_as_what_it_converts_to() -> None:
    network = ann(4)
    stairs = staircase(network, {"relu1": np.full(4, 3.0), "relu2": np.full(7, 0.125)}, 8)
    assert isinstance(stairs.nodes["relu1"], ClippedReLU)
    calibration = Pixels(np.zeros((8, 2, 6, 6), np.uint8) + 99, np.zeros(8, np.int64))
    made = convert(stairs, calibration, Execution(4, "direct"), Conversion(num_steps=8))
    for sparsity in (0.3, 0.7):
        assert zeros(prune_magnitude(stairs, sparsity)) == zeros(prune_magnitude(made.network, sparsity))


def test_thresholds_of_one_and_relus_are_ranked_by_their_weights_alone() -> None:
    plain = spiking(1)
    nodes = {**plain.nodes, "if2": LIF(Leak(shift=1), 1.0)}
    for network in (replace(plain, nodes=nodes), ann(1)):
        for name, size in comparable(network, weights(network)).items():
            assert np.array_equal(size, np.abs(weights(network)[name].astype(np.float64)))


@pytest.mark.parametrize(
    "told", [{"conversion": 7}, {"conversion": {"threshold_to_input": "x"}}, {"quantized": {"readout_steps": [1]}}]
)
def test_what_metadata_say_beside_the_point_is_passed_over(told: dict[str, Any]) -> None:
    network = replace(spiking(2), metadata=told)
    assert zeros(prune_magnitude(network, 0.5)) == zeros(prune_magnitude(spiking(2), 0.5))
