"""The made-up event set: seeded, and its classes can be told by the way the events move."""

from __future__ import annotations

import numpy as np
import pytest

from spikeloom.data import Recordings, load
from spikeloom.data.moving_bar import DIRECTIONS
from spikeloom.errors import DataError


def made(split: str = "train", **options: float) -> Recordings:
    samples = load("moving-bar", split, **options)
    assert isinstance(samples, Recordings)
    return samples


def test_the_bar_moves_as_labelled() -> None:
    samples = made(num_samples=80, noise=0.1)
    for n in range(80):
        span = slice(samples.offset[n], samples.offset[n + 1])
        front = samples.p[span] == 1
        time = samples.t_us[span][front].astype(float)
        along_x = np.corrcoef(time, samples.x[span][front])[0, 1]
        along_y = np.corrcoef(time, samples.y[span][front])[0, 1]
        found = [along_x, -along_x, along_y, -along_y]
        assert int(np.argmax(found)) == samples.labels[n], DIRECTIONS[samples.labels[n]]


def test_events_are_in_order_and_in_range() -> None:
    samples = made(num_samples=12)
    for n in range(12):
        assert (np.diff(samples.t_us[samples.offset[n] : samples.offset[n + 1]]) >= 0).all()
    assert samples.t_us.min() >= 0
    assert samples.dropped == 0
    assert samples.t_us.max() < 100_000
    assert np.bincount(samples.labels).tolist() == [3, 3, 3, 3]


def test_seed_split_and_noise() -> None:
    assert np.array_equal(made(seed=3).t_us, made(seed=3).t_us)
    assert not np.array_equal(made(seed=3).batch([0]), made(seed=4).batch([0]))
    assert not np.array_equal(made("train").batch([0]), made("test").batch([0]))
    assert len(made(noise=0.0).x) < len(made(noise=1.0).x) - 200 * 200


def test_bad_numbers() -> None:
    with pytest.raises(DataError, match="num_samples=0"):
        made(num_samples=0)
    with pytest.raises(DataError, match="noise=-1"):
        made(noise=-1)
