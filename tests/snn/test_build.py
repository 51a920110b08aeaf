"""Network to module and back: the folded run equals a plain loop over steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from spikeloom.core.network import Network, chain
from spikeloom.core.nodes import (
    IF,
    LI,
    LIF,
    Add,
    AvgPool2d,
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
    Output,
    ReLU,
    Scale,
    SumPool2d,
)
from spikeloom.errors import NetworkError
from spikeloom.snn.build import build, input_frames
from spikeloom.snn.encode import encode

from .toys import spiking_frames, stripes, tiny_cnn


def run(network: Network, frames_TN: Tensor, seed: int = 0) -> Tensor:
    module = build(network, seed=seed).eval()
    with torch.no_grad():
        trajectory: Tensor = module(frames_TN.flatten(0, 1), frames_TN.shape[0])
    return trajectory


def test_folded_time_equals_a_loop_over_steps() -> None:
    network = tiny_cnn("spikes", norm=False, pool=SumPool2d)
    module = build(network, seed=3).eval()
    weights = {name: getattr(node, "weight", None) for name, node in module.to_network().nodes.items()}
    w1, w2, w3 = (torch.from_numpy(weights[name]) for name in ("conv1", "conv2", "fc"))
    frames = torch.from_numpy(spiking_frames(6, 3, (1, 6, 6), 0.4)).float()
    u1, u2, readout = torch.zeros(3, 4, 6, 6), torch.zeros(3, 6, 3, 3), torch.zeros(3, 2)
    expected = []
    for frame in frames:
        v1 = u1 * 0.75 + F.conv2d(frame, w1, padding=1)
        s1 = (v1 >= 1).float()
        u1 = v1 * (1 - s1)
        v2 = u2 * 0.75 + F.conv2d(F.avg_pool2d(s1, 2) * 4, w2, padding=1)
        s2 = (v2 >= 1).float()
        u2 = v2 * (1 - s2)
        readout = readout + F.linear(s2.flatten(1), w3)
        expected.append(readout)
    with torch.no_grad():
        trajectory = module(frames.flatten(0, 1), 6)
    assert float(torch.stack(expected).abs().max()) > 0.5
    torch.testing.assert_close(trajectory, torch.stack(expected), rtol=1e-5, atol=1e-5)
    assert torch.equal(module.scores(trajectory), trajectory[-1])


@pytest.mark.parametrize("norm", [False, True])
def test_a_constant_input_is_the_same_as_its_copies(norm: bool) -> None:
    module = build(tiny_cnn(norm=norm)).eval()
    images = stripes(5)
    encoded = encode("direct", images.batch(range(5)), 4, np.random.default_rng(0), module.input_node)
    frames = input_frames(module, encoded)
    assert float(frames.max()) <= 1
    with torch.no_grad():
        once = module(frames, 4, True)
        copies = module(frames.expand(4, *frames.shape).flatten(0, 1), 4)
    torch.testing.assert_close(once, copies, rtol=1e-5, atol=1e-6)


def test_the_gradient_of_a_constant_input_layer_is_that_of_its_copies() -> None:
    frames = torch.rand(5, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    grads = []
    for constant in (True, False):
        module = build(tiny_cnn(norm=False), seed=1)
        x = frames if constant else frames.expand(4, *frames.shape).flatten(0, 1)
        module.scores(module(x, 4, constant)).square().sum().backward()
        grads.append(next(module.parameters()).grad)
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-5)


def test_round_trip_keeps_structure_and_weights() -> None:
    network = tiny_cnn()
    first = build(network, seed=5).to_network(accuracy=0.5)
    assert first.metadata["accuracy"] == 0.5
    assert first.edges == network.edges
    assert list(first.nodes) == list(network.nodes)
    again = build(first, seed=99).to_network()
    assert again.id == first.id
    assert build(network, seed=6).to_network().id != first.id
    assert first.nodes["conv1"].weight.dtype == np.float32


def test_absent_weights_are_he_normal_and_norms_start_at_the_threshold() -> None:
    nodes = {"in": Input((200,)), "fc": Linear(200, 300, has_bias=True), "n": IF(), "out": Output((300,))}
    node: Any = build(chain("wide", nodes)).to_network().nodes["fc"]
    assert float(node.weight.std()) == pytest.approx((2 / 200) ** 0.5, rel=0.02)
    assert not node.bias.any()
    network = tiny_cnn()
    nodes = {n: replace(node, v_threshold=3.0) if n == "neuron1" else node for n, node in network.nodes.items()}
    made: Any = build(Network(nodes, network.edges)).to_network().nodes
    assert (made["norm1"].gamma == 3).all()
    assert (made["norm2"].gamma == 1).all()


def test_names_with_dots() -> None:
    nodes = {"in": Input((3,)), "0.fc": Linear(3, 2), "0.n": IF(), "out": Output((2,))}
    assert run(chain("dots", nodes), torch.ones(2, 4, 3)).shape == (2, 4, 2)


def test_delay_add_scale_and_spike_count() -> None:
    one = np.ones((1, 1), np.float32)
    nodes = {
        "in": Input((1,)),
        "a": Linear(1, 1, weight=one),
        "late": Delay(2),
        "half": Scale(np.array([0.5], np.float32)),
        "add": Add(),
        "n": IF(),
        "out": Output((1,)),
    }
    edges = (("in", "a"), ("a", "add"), ("a", "late"), ("late", "half"), ("half", "add"), ("add", "n"), ("n", "out"))
    network = Network(nodes, edges)
    frames = torch.tensor([1.0, 0, 0, 0.5]).view(4, 1, 1)
    # add: 1, 0, 0.5, 0.5 -> spikes at 0 and 3
    trajectory = run(network, frames)
    assert trajectory[:, 0, 0].tolist() == [1, 0, 0, 1]
    assert build(network).scores(trajectory).tolist() == [[2]]


def test_a_constant_path_meets_one_that_changes() -> None:
    one = np.ones((1, 1), np.float32)
    nodes = {"in": Input((1,), "analog"), "a": Linear(1, 1, weight=one), "n": IF(), "add": Add(), "out": Output((1,))}
    network = Network(nodes, (("in", "a"), ("a", "n"), ("n", "add"), ("a", "add"), ("add", "out")))
    module = build(network).eval()
    with torch.no_grad():
        assert module(torch.tensor([[0.5]]), 4, True)[:, 0, 0].tolist() == [0.5, 1.5, 0.5, 1.5]


def test_cuba_lif_and_conv1d() -> None:
    nodes = {
        "in": Input((1, 3)),
        "a": Conv1d(1, 1, 2, weight=np.ones((1, 1, 2), np.float32)),
        "n": CubaLIF(Leak(factor=1.0), Leak(factor=0.5), v_threshold=2.0, reset="soft"),
        "out": Output((1, 2)),
    }
    frames = torch.zeros(4, 1, 1, 3)
    frames[0, 0, 0, 0] = 1.2
    # current 1.2, 0.6, 0.3, 0.15; membrane 1.2, 1.8, 2.1 fires, 0.1 + 0.15
    assert run(chain("cuba", nodes), frames)[:, 0, 0].tolist() == [[0, 0], [0, 0], [1, 0], [0, 0]]


def test_ann_nodes() -> None:
    nodes = {
        "in": Input((1, 2, 2), "analog"),
        "max": MaxPool2d((2, 2), (2, 2)),
        "flat": Flatten(),
        "fc": Linear(1, 5, weight=np.array([[-1], [0.2], [0.3], [0.9], [4]], np.float32)),
        "act": ClippedReLU(1.0, 4),
        "out": Output((5,)),
    }
    frames = torch.tensor([[0.0, 1.0], [0.5, 0.25]]).view(1, 1, 1, 2, 2)
    assert run(chain("qcfs", nodes), frames)[0, 0].tolist() == [0, 0.25, 0.25, 1, 1]
    plain = run(chain("clip", nodes | {"act": ClippedReLU(1.0)}), frames)[0, 0]
    torch.testing.assert_close(plain, torch.tensor([0, 0.2, 0.3, 0.9, 1.0]))
    relu = run(chain("relu", nodes | {"act": ReLU()}), frames)[0, 0]
    torch.testing.assert_close(relu, torch.tensor([0, 0.2, 0.3, 0.9, 4.0]))


def test_watch_sees_what_arrives_and_what_is_sent() -> None:
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    network = tiny_cnn()
    module = build(network).eval()
    with torch.no_grad():
        trajectory = module(torch.rand(3, 1, 6, 6), 4, True, lambda name, x, y: seen.update({name: (x, y)}))
    assert set(seen) == set(network.nodes) - {"input"}
    assert [tuple(x.shape) for x in seen["conv1"]] == [(4, 3, 1, 6, 6), (4, 3, 4, 6, 6)]
    assert [tuple(x.shape) for x in seen["fc"]] == [(4, 3, 54), (4, 3, 2)]
    for source, name in network.edges[1:]:
        assert torch.equal(seen[source][1], seen[name][0])
    assert torch.equal(seen["output"][1], trajectory)


@pytest.mark.parametrize(
    ("nodes", "edges", "words"),
    [
        ({"in": Input((2,)), "n": LIF(None), "out": Output((2,))}, None, "'n' does not state its leak"),
        ({"in": Input((2,)), "n": IF(None), "out": Output((2,))}, None, "'n'.*no threshold"),
        ({"in": Input((2,)), "fc": Linear(3, 2), "out": Output((2,))}, None, "'fc'.*expected \\[3\\]"),
        ({"in": Input((2,)), "fc": Linear(2, 2)}, None, "0 Output nodes"),
        (
            {"in": Input((2,)), "fc": Linear(2, 2), "li": LI(), "out": Output((2,))},
            (("in", "fc"), ("fc", "fc"), ("fc", "li"), ("li", "out")),
            "'fc' feeds itself",
        ),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(nodes: Any, edges: Any, words: str) -> None:
    network = chain("bad", nodes) if edges is None else Network(nodes, edges)
    with pytest.raises(NetworkError, match=words):
        build(network)


def test_unknown_surrogate() -> None:
    with pytest.raises(NetworkError, match="unknown surrogate"):
        build(tiny_cnn(), surrogate_name="relu")


@pytest.mark.parametrize(
    ("node", "shape"), [(Conv2d(2, 3, (2, 2), (1, 2)), (2, 4, 5)), (Conv1d(2, 3, 2), (2, 5))], ids=["conv2d", "conv1d"]
)
def test_a_bias_for_each_neuron(node: Any, shape: tuple[int, ...]) -> None:
    out = chain("shape", {"in": Input(shape), "conv": node}).shapes()["conv"]
    bias = np.arange(np.prod(out), dtype=np.float32).reshape(out)
    nodes = {"in": Input(shape), "conv": replace(node, has_bias=True, bias=bias), "out": Output(out)}
    network = build(chain("map", nodes), seed=1).to_network()
    plain = Network({**network.nodes, "conv": replace(network.nodes["conv"], has_bias=False, bias=None)}, network.edges)  # type: ignore[type-var]
    frames = torch.randn(4, 2, *shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(run(network, frames), run(plain, frames) + torch.from_numpy(bias))
    assert np.array_equal(network.nodes["conv"].bias, bias)  # type: ignore[union-attr]
    module = build(network)
    module(frames.flatten(0, 1), 4).sum().backward()
    grad = module.module_of("conv").bias.grad  # type: ignore[union-attr]
    assert torch.equal(grad, torch.full(out, 8.0))  # one for each sample and step


def test_a_norm_before_thresholds_of_their_own_starts_at_their_mean() -> None:
    network = tiny_cnn()
    threshold = np.array([1.0, 2.0, 3.0, 6.0]).reshape(4, 1, 1)
    nodes = {**network.nodes, "neuron1": LIF(Leak(shift=2), threshold)}
    made: Any = build(Network(nodes, network.edges)).to_network().nodes
    assert (made["norm1"].gamma == 3).all()


@pytest.mark.parametrize("pool", [SumPool2d, AvgPool2d, MaxPool2d])
def test_a_pool_padded_beyond_half_its_kernel_is_refused_by_name(pool: Any) -> None:
    nodes = {"in": Input((1, 4, 4)), "pool": pool((2, 3), (2, 2), (1, 2)), "out": Output((1, 3, 3))}
    with pytest.raises(
        NetworkError, match=r"node 'pool' \(\w+Pool2d\) has padding \[1, 2\], expected at most half its kernel"
    ):
        build(chain("pad", nodes))


def test_grouped_convolution_has_weights_of_its_groups() -> None:
    nodes = {"in": Input((4, 5, 5)), "c": Conv2d(4, 6, (3, 3), groups=2), "n": IF(), "out": Output((6, 3, 3))}
    made: Any = build(chain("groups", nodes)).to_network().nodes["c"]
    assert made.weight.shape == (6, 2, 3, 3)
