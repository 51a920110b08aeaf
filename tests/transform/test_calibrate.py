"""Calibration brings the SNN closer to its ANN, without labels and always the same way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from spikeloom.core.network import Network, chain
from spikeloom.core.nodes import Add, Conv1d, Flatten, Input, Linear, Output, ReLU
from spikeloom.errors import NetworkError
from spikeloom.snn.execute import Execution, runnable
from spikeloom.transform.calibrate import Tuning, _Calibration, calibrate
from spikeloom.transform.convert import Conversion, Converted, convert
from spikeloom.transform.thresholds import constant_drive
from tests.snn.toys import Pixels, spiking_frames
from tests.transform.test_convert import IMAGES, deep, mean_output, rates
from tests.transform.test_fold import norm, with_weights
from tests.transform.test_prepare import block
from tests.transform.test_prepare import images as block_images


def made(ann: Network, num_steps: int = 4, source: Any = IMAGES, **options: Any) -> Converted:
    return convert(ann, source, Execution(num_steps), Conversion(num_steps=num_steps, **options))


def mean_error(converted: Converted, name: str, num_steps: int) -> np.ndarray:
    """What a channel of ``name`` says too much on average over the calibration images, relative to the size of its spikes."""
    size = converted.thresholds[name].reshape(-1, *([1] * (rates(converted.network, name, num_steps).ndim - 2)))
    said = rates(converted.network, name, num_steps) * size
    wanted = rates(converted.ann, name, 1)
    error = ((said - wanted) / size).swapaxes(0, 1)
    found: np.ndarray = error.reshape(len(error), -1).mean(1)
    return found


def mse(converted: Converted, num_steps: int) -> float:
    return float(np.mean((mean_output(converted.network, num_steps) - mean_output(converted.ann, 1)) ** 2))


@pytest.mark.parametrize("num_steps", [4, 16])
def test_biases_remove_the_mean_error_of_every_channel(num_steps: int) -> None:
    """Of the read-out all of it: it adds up. Of neurons most: what a changed bias does is rounded to whole spikes and clipped."""
    # without a half threshold at the start rates are half a level too low
    before = made(deep(), num_steps, v_init=0.0, method="max")
    after = calibrate(before, IMAGES, Execution(num_steps), "bias")
    for name in ("a", "b", "c"):
        errors = [np.abs(mean_error(one, name, num_steps)) for one in (before, after)]
        assert errors[1].mean() < 0.5 * errors[0].mean(), name
        assert errors[1].mean() < 0.3 / num_steps
    read_out = mean_output(after.network, num_steps) - mean_output(after.ann, 1)
    np.testing.assert_allclose(read_out.mean(0), 0, atol=1e-5)
    assert before.network.id != after.network.id


@pytest.mark.parametrize(
    "options",
    [{}, {"v_init": 0.0}, {"method": "max"}, {"reset": "hard"}, {"by_channel": False}],
    ids=str,
)
@pytest.mark.parametrize("num_steps", [2, 8])
def test_outputs_get_closer_to_those_of_the_ann(num_steps: int, options: Any) -> None:
    before = made(deep(), num_steps, **options)
    after = calibrate(before, IMAGES, Execution(num_steps), "bias")
    assert mse(after, num_steps) <= mse(before, num_steps)


def constant_loss(work: _Calibration, end: str, synapse: str, max_level: int = 1) -> float:
    """Squared error, in levels, of what ``end`` would say at constant drive with the mean input that the SNN really delivers."""
    _, inputs = work.said(end, [synapse])
    nodes: dict[str, Any] = {"in": Input(tuple(inputs[synapse][0].shape[1:])), "s": work.network.nodes[synapse]}
    layer = chain("one", {**nodes, "out": Output(chain("one", nodes).shapes()["s"])})
    with torch.no_grad():
        psum = runnable(layer)(torch.cat(inputs[synapse]), 1)[0].numpy().astype(np.float64)
    size = work.converted.thresholds[end].reshape(-1, *([1] * (psum.ndim - 2)))
    wanted = np.clip(torch.cat(work.wanted[end]).numpy() / size, 0, max_level)
    said = constant_drive(psum, 1.0, work.num_steps, work.converted.conversion.v_init, max_level)
    return float(np.mean((said - wanted) ** 2))


@pytest.mark.parametrize(("max_level", "num_steps"), [(1, 4), (1, 16), (3, 2)])
def test_weights_lower_the_error_of_a_layer_at_the_inputs_it_really_gets(max_level: int, num_steps: int) -> None:
    before = made(deep(), num_steps, method="percentile", percentile=70.0, max_level=max_level)
    work = _Calibration(before, IMAGES, Execution(num_steps))
    start: Any = before.network.nodes["conv2"]
    loss = constant_loss(work, "b", "conv2", max_level)
    work.tune("b", Tuning(updates=300, step=1e-2))
    assert constant_loss(work, "b", "conv2", max_level) < 0.8 * loss
    tuned: Any = work.network.nodes["conv2"]
    assert not np.array_equal(tuned.weight, start.weight) and not np.array_equal(tuned.bias, start.bias)
    assert tuned.weight.dtype == tuned.bias.dtype == np.float32


def test_weights_are_tuned_beyond_biases() -> None:
    before = made(deep(), 2)
    bias = calibrate(before, IMAGES, Execution(2), "bias")
    weights = calibrate(before, IMAGES, Execution(2), "weights", tuning=Tuning(updates=200, step=1e-2))
    assert mse(weights, 2) < mse(bias, 2) < mse(before, 2)
    for name in ("conv", "conv2", "fc"):
        layers: list[Any] = [one.network.nodes[name] for one in (before, bias, weights)]
        assert np.array_equal(layers[0].weight, layers[1].weight) and not np.array_equal(
            layers[0].weight, layers[2].weight
        )
    assert np.array_equal(weights.network.nodes["fc2"].weight, before.network.nodes["fc2"].weight)  # type: ignore[union-attr]


@pytest.mark.parametrize("effort", ["bias", "weights"])
def test_the_same_call_makes_the_same_network_and_changes_no_other(effort: Any) -> None:
    before = made(deep(), 4)
    ids = before.network.id, before.ann.id
    state = torch.random.get_rng_state()
    one, other = (calibrate(before, IMAGES, Execution(4), effort, tuning=Tuning(updates=20)) for _ in range(2))
    assert one.network.id == other.network.id != before.network.id
    assert (before.network.id, before.ann.id) == ids and one.ann is before.ann
    assert torch.equal(torch.random.get_rng_state(), state)
    seeded = calibrate(before, IMAGES, Execution(4), effort, tuning=Tuning(updates=20, seed=1))
    assert (seeded.network.id == one.network.id) == (effort == "bias")


def test_no_effort_changes_nothing() -> None:
    before = made(deep(), 4)
    assert calibrate(before, IMAGES, Execution(4), "none") is before


def test_progress_is_told_after_every_layer() -> None:
    told: list[Any] = []
    calibrate(made(deep(), 2), IMAGES, Execution(2), progress=lambda *step: told.append(step))
    assert told == [("calibrate", n, 4, {}) for n in (1, 2, 3, 4)]


@pytest.mark.parametrize("effort", ["bias", "weights"])
@pytest.mark.parametrize("shortcut", ["identity", "projection"])
def test_residual_networks(shortcut: str, effort: Any) -> None:
    """Of several layers in front of a sum one gets the bias; weights there stay."""
    source = block_images()
    before = made(block(shortcut), 4, source)
    after = calibrate(before, source, Execution(4), effort, tuning=Tuning(updates=20))
    x = torch.from_numpy(source.samples).float() / 255
    errors = [np.mean((mean_output(one.network, 4, x) - mean_output(one.ann, 1, x)) ** 2) for one in (before, after)]
    assert errors[1] < errors[0]
    for name in ("conv2", *(["down"] if shortcut == "projection" else ["add.from.relu0"])):
        layers: list[Any] = [one.network.nodes[name] for one in (before, after)]
        assert np.array_equal(layers[0].weight, layers[1].weight)


@pytest.mark.parametrize("effort", ["bias", "weights"])
def test_biases_of_one_for_each_neuron_and_one_dimensional_layers(effort: Any) -> None:
    nodes: dict[str, Any] = {
        "in": Input((2, 9), "analog"), "norm": norm(2), "conv": Conv1d(2, 4, 3, padding=1), "a": ReLU(), "flatten": Flatten(),
        "fc": Linear(36, 5), "b": ReLU(), "fc2": Linear(5, 2), "out": Output((2,)),
    }  # fmt: skip
    source = Pixels(np.random.default_rng(1).integers(0, 256, (20, 2, 9)).astype(np.uint8), np.zeros(20, np.int64))
    before = made(with_weights(chain("net", nodes)), 4, source)
    after = calibrate(before, source, Execution(4), effort, tuning=Tuning(updates=30))
    assert after.network.nodes["conv"].bias.shape == (4, 9)  # type: ignore[union-attr]
    x = torch.from_numpy(source.samples).float() / 255
    errors = [np.mean((mean_output(one.network, 4, x) - mean_output(one.ann, 1, x)) ** 2) for one in (before, after)]
    assert errors[1] <= errors[0]


def test_recordings() -> None:
    nodes: dict[str, Any] = {
        "in": Input((6,)),
        "fc": Linear(6, 8, True),
        "a": ReLU(),
        "fc2": Linear(8, 2),
        "out": Output((2,)),
    }
    source = Pixels(spiking_frames(8, 30, (6,), 0.4), np.zeros(30, np.int64), sample_axis=1)
    execution = Execution(8, "events")
    before = convert(with_weights(chain("net", nodes)), source, execution, Conversion(num_steps=8, v_init=0.0))
    after = calibrate(before, source, execution)
    work = _Calibration(after, source, execution)
    said, _ = work.said("readout")
    missing = torch.cat([want - have for want, have in zip(work.wanted["readout"], said, strict=True)])
    assert missing.mean(0).abs().max() < 1e-5


def test_what_cannot_be_calibrated_is_named() -> None:
    with pytest.raises(NetworkError, match=r"^calibration must be none, bias or weights, got 'all'"):
        calibrate(made(deep()), IMAGES, Execution(4), "all")  # type: ignore[arg-type]
    start = made(deep(), 4, bias="start")
    with pytest.raises(NetworkError, match=r"^calibration adds biases at every step; convert with bias 'steps'"):
        calibrate(start, IMAGES, Execution(4))
    assert calibrate(start, IMAGES, Execution(4), "none") is start
    with pytest.raises(NetworkError, match="holds no sample"):
        calibrate(made(deep()), replace(IMAGES, samples=IMAGES.samples[:0], labels=IMAGES.labels[:0]), Execution(4))


def test_an_output_without_a_layer_in_front_is_calibrated_at_the_one_that_is_inserted() -> None:
    """Two activations added up at the output."""
    nodes: dict[str, Any] = {
        "in": Input((2, 6, 6), "analog"), "flatten": Flatten(), "fa": Linear(72, 4, True), "fb": Linear(72, 4, True), "a": ReLU(),
        "b": ReLU(), "add": Add(), "out": Output((4,)),
    }  # fmt: skip
    edges = [
        ("in", "flatten"),
        ("flatten", "fa"),
        ("flatten", "fb"),
        ("fa", "a"),
        ("fb", "b"),
        ("a", "add"),
        ("b", "add"),
        ("add", "out"),
    ]
    before = made(with_weights(Network(nodes, tuple(edges))), 4)
    after = calibrate(before, IMAGES, Execution(4))
    error = mean_output(after.network, 4) - mean_output(after.ann, 1)
    np.testing.assert_allclose(error.mean(0), 0, atol=1e-5)
