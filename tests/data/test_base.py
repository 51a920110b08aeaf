"""Binning of events, subsets, and the augmentation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from spikeloom.data import random_shift
from spikeloom.data.base import Recordings, stratified
from spikeloom.errors import DataError


def two_recordings(**changes: Any) -> Recordings:
    """Recording 0: five events of one pixel and one elsewhere; recording 1: two events, the last one late."""
    recordings = Recordings(
        "made", "test",
        x=np.array([1, 1, 1, 1, 1, 2, 0, 3], np.uint8), y=np.array([0, 0, 0, 0, 0, 1, 0, 1], np.uint8),
        p=np.array([1, 1, 0, 1, 1, 0, 0, 1], np.uint8), t_us=np.array([0, 9, 9, 10, 29, 30, 5, 99], np.int64),
        offset=np.array([0, 6, 8]), labels=np.array([0, 1]), ids=np.array([7, 8]), in_shape=(2, 2, 4), num_classes=2,
        num_steps=4, dt_us=10,
    )  # fmt: skip
    return replace(recordings, **changes)


def where(frames: np.ndarray) -> list[tuple[int, ...]]:
    return [tuple(int(i) for i in place) for place in np.argwhere(frames)]


def test_events_fall_into_their_step_polarity_and_pixel_once() -> None:
    frames = two_recordings().batch([0])
    assert where(frames[:, 0]) == [(0, 0, 0, 1), (0, 1, 0, 1), (1, 1, 0, 1), (2, 1, 0, 1), (3, 0, 1, 2)]
    assert frames.max() == 1


def test_events_behind_the_last_step_are_dropped_and_counted() -> None:
    recordings = two_recordings()
    assert where(recordings.batch([1])[:, 0]) == [(0, 0, 0, 0)]
    assert recordings.dropped == 1
    assert two_recordings(num_steps=10).dropped == 0
    assert two_recordings(dt_us=None).dropped == 0


def test_a_number_of_frames_stretches_every_recording() -> None:
    recordings = two_recordings(dt_us=None, num_steps=3)
    assert where(recordings.batch([1])[:, 0]) == [(0, 0, 0, 0), (2, 1, 1, 3)]
    # Recording 0 lasts 31 us: steps end at 10.3 and 20.7.
    assert where(recordings.batch([0])[:, 0]) == [(0, 0, 0, 1), (0, 1, 0, 1), (2, 0, 1, 2), (2, 1, 0, 1)]


@pytest.mark.parametrize("dt_us", [10, None])
def test_order_repeats_and_subsets(dt_us: int | None) -> None:
    recordings = two_recordings(dt_us=dt_us)
    batch = recordings.batch([1, 0, 1])
    assert np.array_equal(batch[:, 0], batch[:, 2])
    assert np.array_equal(batch[:, 1], recordings.batch(np.array([0]))[:, 0])
    swapped = recordings.take([1, 0])
    assert np.array_equal(swapped.batch([0, 1]), batch[:, :2])
    assert swapped.ids.tolist() == [8, 7]


@pytest.mark.parametrize("dt_us", [10, None])
def test_a_recording_without_events(dt_us: int | None) -> None:
    empty = two_recordings(dt_us=dt_us, offset=np.array([0, 0, 8]))
    assert not empty.batch([0]).any()
    assert len(empty.take([0]).x) == 0


def test_step_length_in_seconds() -> None:
    assert two_recordings().dt_s == 1e-5
    assert two_recordings(dt_us=None).dt_s is None


@pytest.mark.parametrize("changes", [{"num_steps": 0}, {"dt_us": 0}])
def test_impossible_frames(changes: dict[str, int]) -> None:
    with pytest.raises(DataError, match="expected at least 1"):
        two_recordings(**changes)


def test_stratified_takes_classes_in_turn() -> None:
    labels = np.array([2, 2, 2, 0, 0, 1])
    assert stratified(labels, 3).tolist() == [0, 3, 5]
    assert stratified(labels, 5).tolist() == [0, 1, 3, 4, 5]
    assert stratified(labels, 99).tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("shape", [(5, 1, 6, 7), (3, 5, 2, 6, 7)])
def test_shift_moves_whole_samples(shape: tuple[int, ...]) -> None:
    batch = np.zeros(shape, np.uint8)
    batch[..., 3, 3] = 1
    moved = random_shift(2)(batch, np.random.default_rng(0))
    assert moved.sum() == batch.sum()  # nothing near the border, nothing lost
    samples = np.moveaxis(moved, -4, 0)
    places = {tuple(np.argwhere(s.any(axis=tuple(range(s.ndim - 2))))[0]) for s in samples}
    assert len(places) > 1
    assert all(abs(y - 3) <= 2 and abs(x - 3) <= 2 for y, x in places)
    for sample in samples:  # every step and channel of a sample moves alike
        assert (sample.reshape(-1, 6, 7).sum(0) > 0).sum() == 1
    assert np.array_equal(random_shift(0)(batch, np.random.default_rng(0)), batch)


def test_shift_loses_what_leaves() -> None:
    batch = np.ones((50, 1, 4, 4), np.uint8)
    moved = random_shift(1)(batch, np.random.default_rng(0))
    assert set(np.unique(moved.sum(axis=(1, 2, 3)))) == {9, 12, 16}
