"""Networks: shapes known from their papers, and every option in every network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from spikeloom.core.network import Network
from spikeloom.core.nodes import IF, LI, LIF, AvgPool2d, BatchNorm, Conv2d, Linear, Output, SumPool2d
from spikeloom.errors import NetworkError
from spikeloom.nets import NETWORKS, NetOptions, create

SHAPES = {"mlp": (1, 28, 28), "lenet": (1, 28, 28), "nmnist-cnn": (2, 34, 34), "vgg9": (3, 32, 32)}


def parameters(network: Network) -> int:
    total = 0
    for node in network.nodes.values():
        if isinstance(node, Conv2d):
            total += node.out_channels * node.in_channels * int(np.prod(node.kernel))
        elif isinstance(node, Linear):
            total += node.in_features * node.out_features
    return total


def test_every_network_has_a_shape_here() -> None:
    assert set(SHAPES) == set(NETWORKS)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize(("neuron", "reset"), [("if", "soft"), ("lif", "hard")])
def test_options_reach_every_node(name: str, batch_norm: bool, neuron: Any, reset: Any) -> None:
    network = create(
        name, SHAPES[name], 7, neuron=neuron, leak_shift=3, reset=reset, v_threshold=2.0, strict=True,
        batch_norm=batch_norm, encoding="spikes", weight_bits=4, dt_s=1e-3,
    )  # fmt: skip
    nodes = list(network.nodes.values())
    neurons: list[Any] = [n for n in nodes if isinstance(n, IF | LIF)]
    synapses: list[Any] = [n for n in nodes if isinstance(n, Conv2d | Linear)]
    assert len(neurons) == len(synapses) - 1
    for node in neurons:
        assert isinstance(node, IF if neuron == "if" else LIF)
        assert (node.reset, node.v_threshold, node.strict) == (reset, 2.0, True)
        assert neuron == "if" or node.leak.shift == 3
    assert all(n.weight is None and not n.has_bias and n.weight_bits == 4 for n in synapses)
    assert sum(isinstance(n, BatchNorm) for n in nodes) == (len(neurons) if batch_norm else 0)
    assert all(n.kernel == n.stride == (2, 2) for n in nodes if isinstance(n, AvgPool2d | SumPool2d))
    assert isinstance(nodes[-2], LI)
    assert nodes[-1] == nodes[-1] and isinstance(nodes[-1], Output)
    assert network.shapes()["output"] == (7,)
    assert network.dt_s == 1e-3
    assert network.nodes["input"].encoding == "spikes"  # type: ignore[union-attr]


@pytest.mark.parametrize("name", NETWORKS)
def test_width_scales_hidden_layers(name: str) -> None:
    narrow, wide = (create(name, SHAPES[name], 10, width=w) for w in (0.5, 2.0))
    assert 3 < parameters(wide) / parameters(narrow) < 17
    assert wide.shapes()["output"] == narrow.shapes()["output"] == (10,)
    create(name, SHAPES[name], 10, width=0.001).shapes()


def test_lenet_is_lenet_5_on_mnist_and_fits_digits() -> None:
    shapes = create("lenet", (1, 28, 28), 10).shapes()
    assert [shapes[n] for n in ("conv1", "pool1", "conv2", "pool2", "flatten", "fc1", "fc2")] == [
        (6, 28, 28), (6, 14, 14), (16, 10, 10), (16, 5, 5), (400,), (120,), (84,),
    ]  # fmt: skip
    shapes = create("lenet", (1, 8, 8), 10).shapes()
    assert [shapes[n] for n in ("pool1", "conv2", "pool2", "flatten")] == [(6, 4, 4), (16, 4, 4), (16, 2, 2), (64,)]


def test_nmnist_cnn_shapes() -> None:
    network = create("nmnist-cnn", (2, 34, 34), 10)
    shapes = network.shapes()
    assert [shapes[n] for n in ("conv1", "conv2", "pool1", "conv3", "pool2", "flatten", "fc1")] == [
        (16, 16, 16), (16, 16, 16), (16, 8, 8), (8, 8, 8), (8, 4, 4), (128,), (256,),
    ]  # fmt: skip
    assert isinstance(network.nodes["pool1"], SumPool2d)
    assert parameters(network) == 2 * 16 * 25 + 16 * 16 * 9 + 16 * 8 * 9 + 128 * 256 + 256 * 10


def test_vgg9_shapes() -> None:
    shapes = create("vgg9", (3, 32, 32), 10).shapes()
    assert shapes["conv6"] == (256, 8, 8)
    assert shapes["flatten"] == (4096,)
    assert (shapes["fc1"], shapes["fc2"], shapes["fc3"]) == ((1024,), (1024,), (10,))


def test_mlp_takes_flat_inputs() -> None:
    assert "flatten" not in create("mlp", (12,), 3).nodes
    assert create("mlp", (12,), 3).shapes()["fc1"] == (512,)


@pytest.mark.parametrize(
    ("name", "shape", "options", "words"),
    [
        ("resnet", (1, 8, 8), {}, "unknown network 'resnet', expected one of lenet, mlp"),
        ("mlp", (8,), {"leek_shift": 2}, "unknown option leek_shift of network 'mlp'"),
        ("mlp", (8,), {"neuron": "izhikevich"}, "unknown neuron 'izhikevich'"),
        ("mlp", (8,), {"leak_shift": 0}, "shift must be 1..31"),
        ("mlp", (8,), {"width": 0}, "width must be positive"),
        ("mlp", (8,), {"width": float("inf")}, "width must be positive and finite"),
        ("mlp", (8,), {"v_threshold": -1.0}, "v_threshold must be positive"),
        ("mlp", (8,), {"dt_s": 0.0}, "dt_s must be positive"),
        ("lenet", (8,), {}, "'conv1'.*expected \\[C, H, W\\]"),
        ("vgg9", (3, 4, 4), {}, "'pool3'.*at least the kernel"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, shape: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(NetworkError, match=words):
        create(name, shape, 10, **options)


def test_default_options() -> None:
    assert NetOptions() == NetOptions(
        neuron="lif", leak_shift=2, reset="hard", v_threshold=1.0, batch_norm=True, width=1.0
    )
