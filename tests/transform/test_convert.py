"""The converted network says what its ANN says: exactly where theory says so, and ever closer as T grows elsewhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from spikeloom.core.network import Network, chain
from spikeloom.core.nodes import (
    IF,
    LI,
    Add,
    AvgPool2d,
    ClippedReLU,
    Conv2d,
    Flatten,
    Input,
    Linear,
    Output,
    ReLU,
)
from spikeloom.core.trace import Levels
from spikeloom.errors import NetworkError
from spikeloom.evaluate import evaluate as price
from spikeloom.evaluate import load_machine
from spikeloom.lower import lower
from spikeloom.snn.execute import Execution, runnable
from spikeloom.snn.record import record
from spikeloom.transform.convert import Conversion, Converted, convert, spiking
from spikeloom.transform.prepare import prepare
from spikeloom.transform.thresholds import constant_drive
from tests.snn.toys import Pixels, spiking_frames
from tests.transform.test_fold import norm, with_weights

STEPS = (1, 2, 3, 4, 8, 16, 32)
IMAGES = Pixels(
    np.random.default_rng(0).integers(0, 256, (24, 2, 6, 6)).astype(np.uint8), np.arange(24, dtype=np.int64) % 3
)
X = torch.from_numpy(IMAGES.samples).float() / 255


def deep(activation: Any = None) -> Network:
    """conv, norm, pool, conv, fc, fc."""
    act = activation or ReLU()
    nodes: dict[str, Any] = {
        "in": Input((2, 6, 6), "analog"), "conv": Conv2d(2, 4, (3, 3), padding=(1, 1), has_bias=True), "norm": norm(4), "a": act,
        "pool": AvgPool2d((2, 2), (2, 2)), "conv2": Conv2d(4, 6, (2, 2), has_bias=True), "b": act, "flatten": Flatten(),
        "fc": Linear(24, 8, has_bias=True), "c": act, "fc2": Linear(8, 3, has_bias=True), "out": Output((3,)),
    }  # fmt: skip
    return with_weights(chain("deep", nodes), seed=2)


def mean_output(network: Network, num_steps: int, x: torch.Tensor = X) -> np.ndarray:
    with torch.no_grad():
        found: np.ndarray = runnable(network)(x, num_steps, True)[-1].numpy() / num_steps
    return found


def rates(network: Network, name: str, num_steps: int, x: torch.Tensor = X) -> np.ndarray:
    """Mean level of node ``name`` over time."""
    seen: dict[str, Any] = {}
    with torch.no_grad():
        runnable(network)(x, num_steps, True, lambda n, _, sent: seen.update({n: sent.mean(0).numpy()}))
    found: np.ndarray = seen[name]
    return found


def converted(ann: Network, num_steps: int, **options: Any) -> Converted:
    return convert(ann, IMAGES, Execution(num_steps), Conversion(num_steps=num_steps, **options))


def error(ann: Network, num_steps: int, **options: Any) -> float:
    """Relative rms error of the mean output."""
    expected = mean_output(ann, 1)
    found = mean_output(converted(ann, num_steps, **options).network, num_steps)
    return float(np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)))


# what theory says of the first layer


def exact_layer(num_steps: int, threshold: float) -> tuple[Network, np.ndarray, torch.Tensor]:
    """One hidden layer whose weights, biases and inputs are multiples of 1/64, so that all sums are exact in float32."""
    rng = np.random.default_rng(7)
    weight = (rng.integers(-48, 49, (40, 12)) / 64).astype(np.float32)
    bias = (rng.integers(-48, 49, 40) / 64).astype(np.float32)
    nodes: dict[str, Any] = {
        "in": Input((12,), "analog"), "fc": Linear(12, 40, True, weight=weight, bias=bias), "a": ReLU(),
        "fc2": Linear(40, 2, weight=np.ones((2, 40), np.float32)), "out": Output((2,)),
    }  # fmt: skip
    x = rng.integers(0, 65, (300, 12)) / 64
    psum = x @ weight.T.astype(np.float64) + bias
    return prepare(chain("exact", nodes)), psum, torch.from_numpy(x.astype(np.float32))


@pytest.mark.parametrize("v_init", [0.0, 0.5])
@pytest.mark.parametrize("threshold", [0.5, 2.0])
@pytest.mark.parametrize("num_steps", STEPS)
def test_first_layer_counts_are_the_closed_form_integer_for_integer(
    num_steps: int, threshold: float, v_init: float
) -> None:
    ready, psum, x = exact_layer(num_steps, threshold)
    snn = spiking(ready, {"a": np.full(40, threshold)}, Conversion(num_steps=num_steps, v_init=v_init))
    counts = rates(snn, "a", num_steps, x).astype(np.float64) * num_steps
    expected = np.clip(np.floor((psum * num_steps + v_init * threshold) / threshold), 0, num_steps)
    assert np.array_equal(np.rint(counts), expected) and 0 < expected.mean() < num_steps
    said = constant_drive(psum, threshold, num_steps, v_init)
    np.testing.assert_allclose(said, expected * threshold / num_steps, rtol=1e-12)


@pytest.mark.parametrize("max_level", [2, 5])
def test_graded_spikes_say_up_to_that_many_levels(max_level: int) -> None:
    ready, psum, x = exact_layer(4, 0.5)
    snn = spiking(ready, {"a": np.full(40, 0.5)}, Conversion(num_steps=4, max_level=max_level))
    found = 0.5 * rates(snn, "a", 4, x).astype(np.float64)
    np.testing.assert_allclose(found, constant_drive(psum, 0.5, 4, 0.5, max_level), rtol=1e-6)
    assert found.max() > 0.5


@pytest.mark.parametrize("levels", [1, 4, 8])
def test_at_t_equal_to_its_levels_a_staircase_is_the_first_spiking_layer(levels: int) -> None:
    ready, _, x = exact_layer(levels, 2.0)
    ann = replace(ready, nodes={**ready.nodes, "a": ClippedReLU(2.0, levels)})
    source = Pixels((x.numpy() * 255).astype(np.uint8), np.zeros(300, np.int64))
    snn = convert(ann, source, Execution(levels), Conversion(num_steps=levels, method="mse"))
    assert (snn.thresholds["a"] == 2).all()
    np.testing.assert_array_equal(2.0 * rates(snn.network, "a", levels, x), rates(ann, "a", 1, x))
    np.testing.assert_allclose(mean_output(snn.network, levels, x), mean_output(ann, 1, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_steps", [4, 8, 32])
def test_the_quantisation_error_is_that_of_the_formulas(num_steps: int) -> None:
    """a uniform in 0..threshold: with v_init 1/2 mean 0 and rms threshold/(T sqrt 12), with 0 mean -threshold/2T and rms threshold/(T sqrt 3)."""
    threshold, number = 1.7, 400_000
    a = (np.arange(number) + 0.5) / number * threshold
    half = constant_drive(a, threshold, num_steps, 0.5) - a
    assert abs(half.mean()) < 1e-3 * threshold / num_steps
    assert np.sqrt(np.mean(half**2)) == pytest.approx(threshold / (num_steps * np.sqrt(12)), rel=1e-3)
    none = constant_drive(a, threshold, num_steps, 0.0) - a
    assert none.mean() == pytest.approx(-threshold / (2 * num_steps), rel=1e-3)
    assert np.sqrt(np.mean(none**2)) == pytest.approx(threshold / (num_steps * np.sqrt(3)), rel=1e-3)


# whole networks


@pytest.mark.parametrize("activation", [ReLU(), ClippedReLU(0.8)])
@pytest.mark.parametrize("by_channel", [False, True])
@pytest.mark.parametrize("method", ["max", "percentile", "mse"])
def test_every_method_gets_close_as_t_grows(method: Any, by_channel: bool, activation: Any) -> None:
    ann = deep(activation)
    errors = [error(ann, t, method=method, by_channel=by_channel) for t in (4, 32, 256)]
    assert errors[0] > errors[2] < 0.02
    assert errors[1] < 0.12


def test_nodes_names_and_metadata() -> None:
    ann = deep()
    result = converted(replace(ann, metadata={"test_accuracy": 0.9, "seconds": 3}), 8, method="max", by_channel=False)
    snn = result.network
    neurons = {name: node for name, node in snn.nodes.items() if isinstance(node, IF)}
    assert list(neurons) == ["a", "b", "c"] and not any(isinstance(n, ReLU | ClippedReLU) for n in snn.nodes.values())
    for node in neurons.values():
        assert (node.v_threshold, node.reset, node.v_init, node.strict) == (1.0, "soft", 0.5, False)
    assert isinstance(snn.nodes["readout"], LI)
    made = snn.metadata["conversion"]
    assert made["ann"] == result.ann.id and made["method"] == "max" and set(made["thresholds"]) == {"a", "b", "c"}
    assert all(isinstance(value, float) for value in made["thresholds"].values())
    assert not {"test_accuracy", "seconds"} & set(snn.metadata)


def test_the_same_call_makes_the_same_network() -> None:
    assert converted(deep(), 8).network.id == converted(deep(), 8).network.id


@pytest.mark.parametrize("by_channel", [False, True])
def test_grouped_convolutions_and_biases_for_each_neuron(by_channel: bool) -> None:
    """A norm in front of a padded grouped convolution: bias maps are scaled with their channels."""
    nodes: dict[str, Any] = {
        "in": Input((2, 6, 6), "analog"), "c1": Conv2d(2, 4, (3, 3), has_bias=True), "a": ReLU(), "norm": norm(4),
        "c2": Conv2d(4, 6, (3, 3), (1, 1), (1, 1), (1, 1), 2, True), "b": ReLU(), "flatten": Flatten(), "fc": Linear(96, 3),
        "out": Output((3,)),
    }  # fmt: skip
    ann = with_weights(chain("grouped", nodes))
    snn = converted(ann, 8).network
    assert snn.nodes["c2"].bias.shape == (6, 4, 4)  # type: ignore[union-attr]
    assert error(ann, 256, by_channel=by_channel) < 0.02


def test_two_layers_flattened_and_added() -> None:
    """With one threshold a layer they are converted; with one a channel the flattened channels are not theirs, and it says so."""
    nodes: dict[str, Any] = {
        "in": Input((2, 6, 6), "analog"), "a": Conv2d(2, 3, (3, 3)), "b": Conv2d(2, 3, (3, 3)), "fa": Flatten(), "fb": Flatten(),
        "add": Add(), "relu": ReLU(), "fc": Linear(48, 3), "out": Output((3,)),
    }  # fmt: skip
    edges = [
        ("in", "a"),
        ("in", "b"),
        ("a", "fa"),
        ("b", "fb"),
        ("fa", "add"),
        ("fb", "add"),
        ("add", "relu"),
        ("relu", "fc"),
        ("fc", "out"),
    ]
    ann = with_weights(Network(nodes, tuple(edges)))
    assert error(ann, 256, by_channel=False, method="max") < 0.02
    with pytest.raises(
        NetworkError, match=r"^the sums of layer 'a' are flattened and added before they reach an activation"
    ):
        converted(ann, 4, by_channel=True)


def test_one_layer_in_front_of_two_activations_needs_one_threshold() -> None:
    nodes: dict[str, Any] = {
        "in": Input((2, 6, 6), "analog"), "conv": Conv2d(2, 3, (3, 3)), "a": ReLU(), "b": ClippedReLU(0.1), "ca": Conv2d(3, 2, (4, 4)),
        "cb": Conv2d(3, 2, (4, 4)), "add": Add(), "f": Flatten(), "out": Output((2,)),
    }  # fmt: skip
    edges = [
        ("in", "conv"),
        ("conv", "a"),
        ("conv", "b"),
        ("a", "ca"),
        ("b", "cb"),
        ("ca", "add"),
        ("cb", "add"),
        ("add", "f"),
        ("f", "out"),
    ]
    with pytest.raises(NetworkError, match=r"^the sums of layer 'conv' reach \['a', 'b'\] with different thresholds"):
        converted(with_weights(Network(nodes, tuple(edges))), 4)


# the knobs


def test_graded_and_signed_spikes_shrink_the_error() -> None:
    ann = deep()
    for method in ("max", "mse"):
        plain, graded = (error(ann, 4, method=method, max_level=level) for level in (1, 4))
        assert graded < 0.5 * plain, method
    plain, signed = (error(ann, 32, method="max", signed=one) for one in (False, True))
    assert signed < plain


def shallow() -> Network:
    """One hidden layer."""
    nodes: dict[str, Any] = {
        "in": Input((2, 6, 6), "analog"), "conv": Conv2d(2, 4, (3, 3), has_bias=True), "a": ReLU(), "flatten": Flatten(),
        "fc": Linear(64, 3), "out": Output((3,)),
    }  # fmt: skip
    return with_weights(chain("shallow", nodes))


def test_hard_reset_needs_thresholds_above_the_input() -> None:
    """What a spike leaves over is lost, however long it runs; less of it when the threshold is many inputs high."""
    for ann, limit in ((shallow(), 0.06), (deep(), 0.4)):
        coarse = [error(ann, t, reset="hard", method="max") for t in (64, 512)]
        fine = [error(ann, t, reset="hard", method="max", threshold_to_input=8) for t in (8, 512)]
        assert abs(coarse[0] - coarse[1]) < 0.05 and coarse[1] > 0.2
        assert fine[1] < limit and fine[1] < 0.7 * coarse[1]
        assert fine[0] > 0.5  # and it takes long


def test_threshold_to_input_scales_every_threshold_and_keeps_the_function() -> None:
    ann = deep()
    one, eight = (converted(ann, 16, threshold_to_input=factor) for factor in (1.0, 8.0))
    for name in one.thresholds:
        np.testing.assert_allclose(eight.thresholds[name], 8 * one.thresholds[name])
    counts = [rates(c.network, "a", 16).mean() for c in (one, eight)]
    assert counts[1] < 0.3 * counts[0]
    assert error(ann, 2048, threshold_to_input=8.0, method="max") < 0.02


@pytest.mark.parametrize("num_steps", [4, 16])
def test_biases_at_the_start_say_the_same_at_constant_drive(num_steps: int) -> None:
    """As long as nothing clips: thresholds twice the largest value, non-negative weights behind the bias."""
    ready, _, _ = exact_layer(num_steps, 8.0)
    fc: Any = ready.nodes["fc"]
    fc = replace(fc, weight=np.abs(fc.weight), bias=np.abs(fc.bias))
    ready = replace(ready, nodes={**ready.nodes, "fc": fc})
    x = torch.from_numpy((np.random.default_rng(3).integers(0, 65, (50, 12)) / 64).astype(np.float32))
    size = {"a": np.full(40, 16.0)}
    steps, start = (spiking(ready, size, Conversion(num_steps=num_steps, bias=bias)) for bias in ("steps", "start"))  # type: ignore[arg-type]
    assert not start.nodes["fc"].has_bias and start.nodes["a"].v_init.shape == (40,)  # type: ignore[union-attr]
    np.testing.assert_array_equal(rates(start, "a", num_steps, x), rates(steps, "a", num_steps, x))
    assert rates(steps, "a", num_steps, x).mean() > 0.1


def test_biases_at_the_start_of_maps() -> None:
    snn = converted(deep(), 8, bias="start").network
    assert snn.nodes["a"].v_init.shape == (4, 1, 1)  # type: ignore[union-attr]
    assert not any(snn.nodes[name].has_bias for name in ("conv", "conv2", "fc"))  # type: ignore[union-attr]
    assert snn.nodes["fc2"].has_bias  # type: ignore[union-attr]  # a read-out has no initial membrane
    plain, signed = (error(deep(), 64, bias="start", method="max", signed=one) for one in (False, True))
    assert signed < 0.6 * plain < 0.3  # what came too early, because a bias was there before its inputs, is taken back


def test_a_bias_that_passes_a_pool_stays_at_the_steps() -> None:
    nodes: dict[str, Any] = {
        "in": Input((2, 6, 6), "analog"), "conv": Conv2d(2, 3, (3, 3), has_bias=True), "pool": AvgPool2d((2, 2), (2, 2)), "a": ReLU(),
        "flatten": Flatten(), "fc": Linear(12, 3), "out": Output((3,)),
    }  # fmt: skip
    ann = with_weights(chain("net", nodes))
    with pytest.raises(
        NetworkError, match=r"^the bias of layer 'conv' reaches 'a' through other nodes; keep bias 'steps'"
    ):
        converted(ann, 4, bias="start")
    assert error(ann, 256) < 0.02


@pytest.mark.parametrize(
    "options",
    [{}, {"signed": True}, {"max_level": 3}, {"signed": True, "max_level": 7}, {"reset": "hard"}, {"bias": "start"}],
    ids=str,
)
def test_every_conversion_can_be_recorded_and_priced(options: Any) -> None:
    """Levels, negative ones too, are counted by their size."""
    snn = converted(deep(), 4, **options).network
    workload = lower(snn, record(snn, IMAGES, Execution(4)))
    report = price(workload, load_machine("spikex")[1])
    assert report.energy_per_inference_j > 0 and report.latency_per_inference_s > 0
    layer = workload["fc"]
    sent = rates(snn, "b", 4).reshape(24, -1)
    assert isinstance(layer.arrival, Levels) == bool(options.get("signed") or options.get("max_level"))
    if isinstance(layer.arrival, Levels):
        np.testing.assert_allclose(layer.arrival.values.mean(0).reshape(24, -1), sent, rtol=1e-6)
        assert layer.arrival.signed == bool(options.get("signed"))
    assert layer.synops >= 8 * np.count_nonzero(sent) > 0


def test_recordings_are_converted_too() -> None:
    nodes: dict[str, Any] = {
        "in": Input((2, 6, 6)), "conv": Conv2d(2, 4, (3, 3), has_bias=True), "a": ReLU(), "flatten": Flatten(), "fc": Linear(64, 3),
        "out": Output((3,)),
    }  # fmt: skip
    ann = with_weights(chain("events", nodes))
    frames = Pixels(spiking_frames(40, 10, (2, 6, 6), 0.3), np.zeros(10, np.int64), sample_axis=1)
    result = convert(ann, frames, Execution(40, "events"), Conversion(num_steps=40, method="max"))
    with torch.no_grad():
        found = runnable(result.network)(torch.from_numpy(frames.samples).float().flatten(0, 1), 40)[-1].numpy() / 40
        expected = runnable(result.ann)(torch.from_numpy(frames.samples).float().mean(0), 1)[-1].numpy()
    assert np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)) < 0.1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "best"}, "^method must be one of max, percentile, mse, got 'best'"),
        ({"reset": "none"}, "^reset must be one of soft, hard, got 'none'"),
        ({"max_pool": "keep"}, "^max_pool must be one of refuse, average, or, got 'keep'"),
        ({"bias": "never"}, "^bias must be one of steps, start"),
        ({"num_steps": 0}, "^num_steps must be at least 1, got 0"),
        ({"max_level": 0}, "^max_level must be at least 1, got 0"),
        ({"ann_frames": 0}, "^ann_frames must be at least 1, got 0"),
        ({"percentile": 0}, "^percentile must be above 0 and at most 100, got 0"),
        ({"percentile": 101}, "^percentile must be above 0"),
        ({"percentile": 0.999}, "^percentile must be above 0 and at most 100, got 0.999; it is in percent, write 99.9"),
        ({"percentile": float("nan")}, "^percentile must be above 0"),
        ({"threshold_to_input": 0}, "^threshold_to_input must be positive"),
        ({"threshold_to_input": float("inf")}, "^threshold_to_input must be positive"),
        ({"v_init": 1.0}, "^v_init must be from 0 up to 1"),
        ({"v_init": -0.1}, "^v_init must be from 0 up to 1"),
    ],
    ids=str,
)
def test_choices_out_of_range_are_named(options: Any, words: str) -> None:
    with pytest.raises(NetworkError, match=words):
        Conversion(**options)
