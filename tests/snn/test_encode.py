"""Codes: what each sends for a pixel, and what does not fit is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from spikeloom.core.nodes import Input
from spikeloom.errors import NetworkError
from spikeloom.snn.encode import ENCODINGS, encode

PIXELS = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
ANALOG, SPIKES = Input((1, 16, 16), "analog"), Input((1, 16, 16), "spikes")


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def test_direct_is_the_pixels_at_every_step() -> None:
    encoded = encode("direct", PIXELS, 4, generator(), ANALOG)
    assert encoded.constant
    assert encoded.kind == "analog"
    assert np.array_equal(encoded.values, PIXELS)
    assert encode("direct", PIXELS, 4, generator(), Input((1, 16, 16), "levels")).kind == "levels"


def test_rate_has_the_probability_of_the_pixel() -> None:
    spikes = encode("rate", PIXELS, 4000, generator(), SPIKES).values
    assert set(np.unique(spikes)) == {0, 1}
    np.testing.assert_allclose(spikes.mean(0), PIXELS / 255, atol=0.04)
    assert spikes[..., 0, 0].sum() == 0
    assert spikes[..., 15, 15].all()


def test_rate_does_not_depend_on_the_batches() -> None:
    many = np.repeat(PIXELS, 5, axis=0)
    whole = encode("rate", many, 7, generator(), SPIKES).values
    stream = generator()
    parts = [encode("rate", many[i : i + 2], 7, stream, SPIKES).values for i in (0, 2, 4)]
    assert np.array_equal(whole, np.concatenate(parts, axis=1))


@pytest.mark.parametrize("num_steps", [1, 4, 255, 300])
def test_latency_is_one_spike_brighter_is_earlier(num_steps: int) -> None:
    spikes = encode("latency", PIXELS, num_steps, generator(), SPIKES).values
    flat = spikes.reshape(num_steps, 256)
    assert flat[:, 0].sum() == 0
    assert (flat[:, 1:].sum(0) == 1).all()
    steps = flat[:, 1:].argmax(0)
    assert (np.diff(steps) <= 0).all()
    assert steps[-1] == 0


def test_events_pass_through() -> None:
    frames = (np.arange(2 * 3 * 256) % 2).astype(np.uint8).reshape(2, 3, 1, 16, 16)
    encoded = encode("events", frames, 2, generator(), SPIKES)
    assert encoded.values is frames
    assert not encoded.constant


@pytest.mark.parametrize(
    ("name", "samples", "num_steps", "node", "words"),
    [
        ("poisson", PIXELS, 4, SPIKES, "unknown encoding 'poisson'"),
        ("rate", PIXELS, 0, SPIKES, "at least 1"),
        ("rate", PIXELS, 4, ANALOG, "does not fit the network's input, which expects analog"),
        ("direct", PIXELS, 4, SPIKES, "use rate, latency or events"),
        ("direct", PIXELS.astype(np.float32), 4, ANALOG, "float32 samples, expected uint8"),
        ("direct", PIXELS[:, :, :8], 4, ANALOG, "expected the network's input shape"),
        ("rate", PIXELS[None], 1, SPIKES, "with a time axis"),
        ("events", PIXELS, 4, SPIKES, "bin the recordings"),
        ("events", PIXELS[None] * 2, 1, SPIKES, "expected only 0 and 1"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, samples: Any, num_steps: int, node: Input, words: str) -> None:
    with pytest.raises(NetworkError, match=words):
        encode(name, samples, num_steps, generator(), node)


def test_the_registry_is_complete() -> None:
    assert set(ENCODINGS) == {"direct", "rate", "latency", "events"}
