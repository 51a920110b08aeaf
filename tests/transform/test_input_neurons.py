"""Pixels as bias currents: the ANN computes what it did, and behind the first layer everything is a spike."""

from __future__ import annotations

import numpy as np
import pytest

from spikeloom.core.network import chain
from spikeloom.core.nodes import IF, LI, Conv2d, Flatten, Input, Linear, Output, ReLU
from spikeloom.core.trace import Levels, Spikes
from spikeloom.emulate import emulate
from spikeloom.errors import NetworkError
from spikeloom.snn.execute import Execution, predict, runnable
from spikeloom.transform.convert import Conversion, spiking
from spikeloom.transform.input_neurons import with_input_neurons
from tests.snn.toys import Pixels


def ann(shape: tuple[int, ...] = (2, 5, 5), name: str = "conv"):  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(3)
    return chain(
        "ann",
        {
            "in": Input(shape, "analog"),
            name: Conv2d(2, 3, (3, 3), weight=rng.normal(size=(3, 2, 3, 3)).astype(np.float32)),
            "relu": ReLU(),
            "flat": Flatten(),
            "fc": Linear(27, 4, weight=rng.normal(size=(4, 27)).astype(np.float32)),
            "readout": LI(),
            "out": Output((4,)),
        },
    )


def test_the_ann_computes_what_it_did() -> None:
    before = ann()
    after, pixels, neurons = with_input_neurons(before)
    assert (pixels, neurons) == ("pixels", "pixels.neurons")
    assert after.inputs_of("conv") == (neurons,) and after.inputs_of(pixels) == ("in",)
    images = np.random.default_rng(4).integers(0, 256, (20, 2, 5, 5)).astype(np.uint8)
    source = Pixels(images, np.zeros(20, np.int64))
    found = [predict(runnable(network), source, Execution(1)) for network in (before, after)]
    assert np.array_equal(*found)


def test_names_that_are_taken_get_a_number() -> None:
    after, pixels, _ = with_input_neurons(ann(name="pixels"))
    assert pixels == "pixels.2" and after.inputs_of("pixels") == ("pixels.neurons",)


def test_a_pixel_fires_at_its_rate_and_all_else_is_spikes() -> None:
    ready, pixels, neurons = with_input_neurons(ann())
    snn = spiking(ready, {neurons: np.ones(2), "relu": np.full(3, 2.0)}, Conversion(num_steps=51, v_init=0.0))
    assert isinstance(snn.nodes[neurons], IF)
    image = np.random.default_rng(5).integers(0, 256, (1, 2, 5, 5)).astype(np.uint8)
    trace = emulate(snn, image, 51, delay=0)
    first, second = trace.arrivals[pixels], trace.arrivals["conv"]
    assert isinstance(first, Levels) and first.analog and isinstance(second, Spikes)
    assert isinstance(trace.arrivals["fc"], Spikes)
    expected = np.floor(51 * image[0].astype(int) / 255 + 1e-4)  # what a constant drive sends from rest
    assert np.array_equal(second.events(), expected)


def test_refused_in_one_line() -> None:
    with pytest.raises(NetworkError, match="expected a map"):
        with_input_neurons(chain("flat", {"in": Input((4,), "analog"), "fc": Linear(4, 2), "relu": ReLU()}))
    with pytest.raises(NetworkError, match="gets spikes, expected pixels"):
        with_input_neurons(chain("spikes", {"in": Input((1, 4, 4)), "relu": ReLU()}))
