"""Folding is exact for Conv-BN and Linear-BN and refuses everything else by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from spikeloom.core.network import (
    IF,
    Add,
    AvgPool2d,
    BatchNorm,
    Conv1d,
    Conv2d,
    Flatten,
    Input,
    Linear,
    Network,
    Output,
    chain,
)
from spikeloom.errors import NetworkError
from spikeloom.snn import build
from spikeloom.transform import TRANSFORMS, fold


def norm(channels: int, seed: int = 0, *, shift: bool = True) -> BatchNorm:
    generator = np.random.default_rng(seed)

    def draw(low: float, high: float) -> np.ndarray:
        return generator.uniform(low, high, channels).astype(np.float32)

    zero = np.zeros(channels, np.float32)
    return BatchNorm(
        channels, 1e-3, draw(-2, 2), draw(-1, 1) if shift else zero, draw(-1, 1) if shift else zero, draw(0.1, 3)
    )


def outputs(network: Network, x: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        found: np.ndarray = build(network).eval()(x, 1)[0].numpy()
    return found


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize(
    ("shape", "synapse"),
    [
        ((4, 7, 6), lambda b: Conv2d(4, 6, (3, 2), (2, 1), (1, 1), (1, 2), 2, has_bias=b)),
        ((3, 9), lambda b: Conv1d(3, 6, 3, 2, 1, has_bias=b)),
        ((5,), lambda b: Linear(5, 6, has_bias=b)),
    ],
)
def test_folded_computes_the_same(shape: tuple[int, ...], synapse: Any, has_bias: bool) -> None:
    nodes: dict[str, Any] = {"in": Input(shape), "syn": synapse(has_bias), "norm": norm(6)}
    out = Network(nodes, (("in", "syn"), ("syn", "norm"))).shapes()["norm"]
    network = build(chain("net", {**nodes, "out": Output(out)}), seed=1).to_network()
    if has_bias:
        syn: Any = network.nodes["syn"]
        syn.bias[:] = np.random.default_rng(3).normal(size=6)
    folded = fold(network)
    assert list(folded.nodes) == ["in", "syn", "out"]
    assert folded.edges == (("in", "syn"), ("syn", "out"))
    x = torch.randn(5, *shape, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(outputs(folded, x), outputs(network, x), rtol=1e-4, atol=1e-5)


def test_no_bias_where_none_is_needed() -> None:
    nodes = {"in": Input((5,)), "fc": Linear(5, 6), "norm": norm(6, shift=False), "out": Output((6,))}
    fc: Any = fold(build(chain("net", nodes)).to_network()).nodes["fc"]
    assert fc.has_bias is False
    assert fc.bias is None


def test_a_network_without_norms_comes_back_itself() -> None:
    network = chain("net", {"in": Input((5,)), "fc": Linear(5, 6), "out": Output((6,))})
    assert fold(network) is network
    assert TRANSFORMS["fold"] is fold


def test_edges_to_several_followers_are_kept() -> None:
    nodes = {"in": Input((6,)), "fc": Linear(6, 6), "norm": norm(6), "n": IF(), "add": Add(), "out": Output((6,))}
    edges = (("in", "fc"), ("fc", "norm"), ("norm", "n"), ("n", "add"), ("norm", "add"), ("add", "out"))
    folded = fold(build(Network(nodes, edges)).to_network())
    assert folded.edges == (("in", "fc"), ("fc", "n"), ("n", "add"), ("fc", "add"), ("add", "out"))


SHAPE = (2, 4, 4)
CONV = Conv2d(2, 2, (1, 1), weight=np.ones((2, 2, 1, 1), np.float32))


@pytest.mark.parametrize(
    ("nodes", "edges", "words"),
    [
        ({"in": Input(SHAPE), "bad": norm(2), "c": CONV}, None, "'bad' follows in \\(Input\\)"),
        (
            {"in": Input(SHAPE), "c": CONV, "p": AvgPool2d((2, 2), (2, 2)), "bad": norm(2)},
            None,
            "'bad' follows p \\(AvgPool2d\\)",
        ),
        ({"in": Input(SHAPE), "c": CONV, "f": Flatten(), "bad": norm(32)}, None, "'bad' follows f \\(Flatten\\)"),
        (
            {"in": Input(SHAPE), "c": CONV, "bad": norm(2), "n": IF()},
            (("in", "c"), ("c", "bad"), ("c", "n")),
            "'c' also feeds \\['n'\\]",
        ),
        (
            {"in": Input(SHAPE), "a": CONV, "b": CONV, "bad": norm(2)},
            (("in", "a"), ("in", "b"), ("a", "bad"), ("b", "bad")),
            "'bad' follows a \\(Conv2d\\), b \\(Conv2d\\)",
        ),
        ({"in": Input(SHAPE), "c": Conv2d(2, 2, (1, 1)), "bad": norm(2)}, None, "'c' has no weights"),
        ({"in": Input(SHAPE), "c": CONV, "bad": BatchNorm(2)}, None, "'bad' has no statistics"),
    ],
)
def test_what_cannot_be_folded_is_refused_by_name(nodes: Any, edges: Any, words: str) -> None:
    network = chain("net", nodes) if edges is None else Network(nodes, edges)
    with pytest.raises(NetworkError, match=words):
        fold(network)
