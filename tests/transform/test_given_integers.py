"""Weights that are integers times a step keep every integer, or the notes name the layer that could not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloom.core.network import Network, chain
from spikeloom.core.nodes import IF, LI, Conv2d, Flatten, Input, Linear, Node, Output, Synapse
from spikeloom.errors import NetworkError
from spikeloom.snn.fake_quant import chosen_step, deepest, grid_levels
from spikeloom.transform.crossbar import Crossbars, crossbar
from spikeloom.transform.quantize import Widths, on_grid, quantize

seeds = st.integers(0, 2**32 - 1)


def given_network(
    conv: np.ndarray, readout: np.ndarray, threshold: Any = 1.0, bias: np.ndarray | None = None
) -> Network:
    """A convolution of (K, 2, 3, 3) weights with neurons, and a read-out of (3, 4 K)."""
    K = len(conv)
    nodes: dict[str, Node] = {
        "in": Input((2, 4, 4)),
        "conv": Conv2d(2, K, (3, 3), weight=conv, has_bias=bias is not None, bias=bias),
        "if": IF(threshold, "soft"),
        "flat": Flatten(),
        "fc": Linear(4 * K, 3, weight=readout),
        "li": LI(),
        "out": Output((3,)),
    }
    return chain("given", nodes)


def stored(network: Network, name: str) -> np.ndarray:
    node = network.nodes[name]
    assert isinstance(node, Synapse) and node.weight is not None
    return node.weight.astype(np.int64)


def multiples(found: np.ndarray, meant: np.ndarray) -> bool:
    """True if each channel of ``found`` is one whole multiple of ``meant`` or ``meant`` one of it (all integers, exact)."""
    for a, b in zip(found.reshape(len(found), -1).tolist(), meant.reshape(len(meant), -1).tolist(), strict=True):
        at = next((k for k, value in enumerate(b) if value), None)
        if at is None:
            if any(a):
                return False
        elif not a[at] * b[at] > 0 or any(x * b[at] != y * a[at] for x, y in zip(a, b, strict=True)):
            return False
    return True


@settings(max_examples=60, deadline=None)
@given(
    seeds,
    st.sampled_from([2, 3, 4, 8]),
    st.sampled_from(["max", "mse"]),
    st.sampled_from([np.float32, np.float64]),
    st.sampled_from(["channel", "tensor"]),
    st.integers(0, 7),
)
def test_every_integer_of_twos_complement_is_kept(
    seed: int, bits: int, scale: Any, kind: Any, per: Any, narrower: int
) -> None:
    generator = np.random.default_rng(seed)
    most = max(1, 2 ** (bits - 1) >> narrower)  # narrower: far from the ends of the range
    conv = generator.integers(-most, max(most, 2), (5, 2, 3, 3))
    conv[0] = generator.integers(-most, 1, conv[0].shape)  # nothing above zero
    readout = generator.integers(-most, max(most, 2), (3, 20))
    steps = generator.uniform(1e-4, 3, (5, 1, 1, 1)).astype(kind)
    if per == "tensor":
        steps[:] = steps[0]
    network = given_network((conv * steps).astype(np.float32), (readout * kind(0.0371)).astype(np.float32))
    done = quantize(network, Widths(weight_bits=bits, scale=scale, per=per))
    for name, meant in (("conv", conv), ("fc", readout)):
        found = stored(done, name)
        assert found.min() >= -(2 ** (bits - 1)) and found.max() < 2 ** (bits - 1)
        assert multiples(found, meant)
        if np.abs(meant).max() > 2 ** (bits - 2) and per == "tensor":
            assert np.array_equal(found, meant)  # no finer grid has room
    assert not [note for note in done.metadata["quantized"]["notes"] if "left it" in note]


@settings(max_examples=30, deadline=None)
@given(seeds, st.sampled_from([4, 8]))
def test_thresholds_and_biases_behind_them_stay_whole(seed: int, bits: int) -> None:
    """Full range, so the steps are those given: biases and thresholds are the integers that they were."""
    generator = np.random.default_rng(seed)
    half = 2 ** (bits - 1)
    conv = generator.integers(-half, half, (6, 2, 3, 3))
    conv[:, 0, 0, 0] = -half
    conv[:, 0, 0, 1] = half - 1
    steps = generator.uniform(1e-3, 1, 6).astype(np.float32)
    thresholds, biases = generator.integers(1, 4 * half, 6), generator.integers(-half, half, 6)
    network = given_network(
        (conv * steps[:, None, None, None]).astype(np.float32),
        generator.normal(size=(3, 24)).astype(np.float32),
        (thresholds * steps.astype(np.float64)).reshape(6, 1, 1),
        (biases * steps).astype(np.float32),
    )
    done = quantize(network, Widths(weight_bits=bits))
    assert np.array_equal(stored(done, "conv"), conv)
    node, neuron = done.nodes["conv"], done.nodes["if"]
    assert isinstance(node, Conv2d) and node.bias is not None and isinstance(neuron, IF)
    assert np.array_equal(node.bias, biases)
    assert np.array_equal(np.broadcast_to(np.asarray(neuron.v_threshold), (6, 1, 1)).ravel(), thresholds)


@pytest.mark.parametrize("per_channel", [True, False])
def test_what_torch_quantised_comes_back(per_channel: bool) -> None:
    weight = torch.randn(8, 2, 3, 3, generator=torch.Generator().manual_seed(3))
    if per_channel:
        scales, none = weight.abs().flatten(1).amax(1) / 128, torch.zeros(8, dtype=torch.int32)
        made = torch.fake_quantize_per_channel_affine(weight, scales, none, 0, -128, 127)
        integers = (made / scales.reshape(8, 1, 1, 1)).round()
    else:
        scale = float(weight.abs().max() / 128)
        made = torch.fake_quantize_per_tensor_affine(weight, scale, 0, -128, 127)
        integers = (made / scale).round()
    assert integers.min() == -128
    network = given_network(made.numpy(), np.eye(3, 32, dtype=np.float32))
    assert multiples(stored(quantize(network), "conv"), integers.numpy().astype(np.int64))


def test_what_cannot_be_kept_is_named() -> None:
    """All scores count in one step, so a read-out with a grid for each class cannot keep them; ternary weights have no -2."""
    generator = np.random.default_rng(0)
    conv, readout = generator.integers(-128, 128, (5, 2, 3, 3)), generator.integers(-128, 128, (3, 20))
    apart = (readout * np.array([[0.01], [0.0123], [0.0377]])).astype(np.float32)
    notes = quantize(given_network(conv.astype(np.float32), apart)).metadata["quantized"]["notes"]
    assert [note for note in notes if note.startswith("2 of 3 channels of 'fc' lay on a grid") or "3 of 3" in note]
    assert not [note for note in notes if "'conv'" in note and "left it" in note]
    two = generator.integers(-2, 2, (5, 2, 3, 3)).astype(np.float32)
    plain = given_network(two, generator.normal(size=(3, 20)).astype(np.float32))
    assert stored(quantize(plain, Widths(weight_bits=2)), "conv").min() == -2
    assert stored(quantize(plain, Widths(ternary=True)), "conv").min() == -1


def test_random_floats_are_on_no_grid() -> None:
    generator = np.random.default_rng(1)
    done = quantize(given_network(*(generator.normal(size=s).astype(np.float32) for s in ((5, 2, 3, 3), (3, 20)))))
    assert not [note for note in done.metadata["quantized"]["notes"] if "left it" in note]
    assert stored(done, "conv").min() >= -127


def test_fine_tuning_stays_on_the_given_grid() -> None:
    conv = np.random.default_rng(2).integers(-128, 128, (5, 2, 3, 3)).astype(np.float32)
    conv[:, 0, 0, 0] = -128
    network = given_network(conv, np.ones((3, 20), np.float32))
    _, rule = on_grid(network, Widths())
    assert torch.equal(rule("conv", torch.from_numpy(conv)), torch.from_numpy(conv))
    assert rule("conv", torch.full((5, 2, 3, 3), -1e6)).unique().tolist() == [-128.0]
    assert rule("conv", torch.full((5, 2, 3, 3), 1e6)).unique().tolist() == [127.0]
    assert rule("fc", torch.full((3, 20), -1e6)).unique().tolist() == [-1.0]


def test_only_rows_on_their_grid_reach_below_the_symmetric_levels() -> None:
    weights = np.array([[-8.0, 7.0, 3.0], [-8.0, 7.3, 3.0], [8.0, -7.0, 3.0]])
    step = chosen_step(weights, 7, "max")
    assert step[0] == 1.0
    assert deepest(weights, step[:, None], 7).ravel().tolist() == [-8.0, -7.0, -7.0]
    assert grid_levels(weights, step[:, None], 7, deepest(weights, step[:, None], 7))[0].tolist() == [-8, 7, 3]


def test_a_crossbar_holds_the_lowest_level_or_says_that_it_cannot() -> None:
    conv = np.random.default_rng(2).integers(-8, 8, (5, 2, 3, 3)).astype(np.float32)
    conv[:, 0, 0, :2] = -8, 7
    done = quantize(given_network(conv, np.ones((3, 20), np.float32)), Widths(weight_bits=4))
    rng = np.random.default_rng(0)
    assert crossbar(done, Crossbars(pairs="offset"), rng) is done
    with pytest.raises(NetworkError, match=r"'conv' has weights of -8.*differential"):
        crossbar(done, Crossbars(pairs="differential"), rng)
