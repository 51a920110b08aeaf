"""Binning of events, subsets, and the augmentation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikeloom.data import random_shift
from spikeloom.data.base import ORIGINS, Recordings, stratified, times_us
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


def test_what_lies_before_the_first_frame_is_in_no_frame() -> None:
    recordings = two_recordings(t_us=np.array([-1, 9, -10, 10, 29, 30, -5, 99], np.int64))
    assert where(recordings.batch([0])[:, 0]) == [(0, 1, 0, 1), (1, 1, 0, 1), (2, 1, 0, 1), (3, 0, 1, 2)]
    assert not recordings.batch([1]).any()
    assert recordings.outside == (3, 1, 1)
    assert recordings.note() == (
        "made/test: of 8 events 3 before the first and 1 behind the last of 4 frames of 10 us from time 0 are left out; "
        "1 of 2 recordings have no event in a frame"
    )
    assert two_recordings(num_steps=10).note() == ""


@pytest.mark.parametrize(
    ("shift", "words"), [(40, "8 behind the last of 4"), (-100, "8 before the first of 4"), (-110, "8 before")]
)
def test_a_set_without_any_event_in_a_frame_is_refused_by_side(shift: int, words: str) -> None:
    with pytest.raises(DataError, match=words):
        two_recordings(t_us=two_recordings().t_us + shift).note()


def test_times_that_never_leave_the_first_frame_are_said() -> None:
    assert "every event lies in the first of 4 frames" in two_recordings(dt_us=100).note()
    assert two_recordings(dt_us=100, num_steps=1).note() == ""


@given(
    times=st.lists(st.integers(-60, 60), min_size=1, max_size=12),
    cut=st.integers(0, 12),
    dt=st.integers(1, 25),
    num_steps=st.integers(1, 5),
    origin=st.sampled_from(ORIGINS),
)
def test_every_event_is_in_its_frame_or_counted_on_its_side(
    times: list[int], cut: int, dt: int, num_steps: int, origin: str
) -> None:
    """Against exact integers, event by event; one pixel for each of them."""
    cut = min(cut, len(times))
    offset, places = np.array([0, cut, len(times)]), np.arange(len(times), dtype=np.uint16)
    found = times_us("here", np.array(times), offset, origin)
    recordings = Recordings(
        "made", "test", places, np.zeros_like(places), np.zeros(len(times), np.uint8), found, offset,
        np.zeros(2, np.int64), np.arange(2), (2, 1, 12), 1, num_steps, dt,
    )  # fmt: skip
    seen, before, behind, silent = set(), 0, 0, 0
    for n, (start, stop) in enumerate(((0, cut), (cut, len(times)))):
        first = min(times[start:stop], default=0) if origin == "first-event" else 0
        inside = 0
        for i in range(start, stop):
            frame = (times[i] - first) // dt
            before, behind = before + (frame < 0), behind + (frame >= num_steps)
            if 0 <= frame < num_steps:
                seen.add((frame, n, i))
                inside += 1
        silent += inside == 0
    frames = recordings.batch([0, 1])
    assert {(t, n, x) for t, n, _, _, x in where(frames)} == seen
    assert recordings.outside == (before, behind, silent)


@pytest.mark.parametrize(
    ("times", "words"),
    [
        (np.array([0.0, np.nan, np.inf]), "2 of 3 times are not finite"),
        (np.array([0.0, 0.1, 0.3]), "multiply times in seconds by 1e6"),
        (np.array([1.7e9, 1.7e9 + 0.1, 1.7e9 + 0.3]), "multiply times in seconds by 1e6"),
        (np.array([0, 1, 2**63 - 1]), "expected at most 4503599627370496 us"),
        (np.array([0, 1, 2**64 - 1], np.uint64), "expected at most 4503599627370496 us"),
        (np.array([-(2**63), 1, 2]), "expected at most 4503599627370496 us"),
        (np.array(["0", "1", "2"]), "expected whole microseconds"),
        (np.array([True, False, True]), "times are bool"),
        (np.array([0, 1, 2], "datetime64[us]"), "expected whole microseconds"),
        (np.array([0, 1j, 2]), "expected whole microseconds"),
    ],
)
def test_what_cannot_be_a_time(times: np.ndarray, words: str) -> None:
    with pytest.raises(DataError, match=words):
        times_us("here", times, np.array([0, 2, 3]), "zero")


def test_times_of_any_number_type_and_order() -> None:
    offset = np.array([0, 2, 2, 4])
    for kind in (np.uint16, np.int64, np.uint64, np.float64):
        assert times_us("here", np.array([7, 5, 2000, 9], kind), offset, "zero").tolist() == [7, 5, 2000, 9]
        assert times_us("here", np.array([7, 5, 2000, 9], kind), offset, "first-event").tolist() == [2, 0, 1991, 0]
    assert times_us("here", np.array([7.5, -0.5, 2000.9, 9]), offset, "zero").tolist() == [7, -1, 2000, 9]
    with pytest.raises(DataError, match="did you mean 'first-event'"):
        times_us("here", np.array([1]), np.array([0, 1]), "first_event")


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
