"""Spikes and levels: packing over time loses nothing, and the sums over a map are those of the unpacked map."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloom.core.trace import Levels, Spikes, SpikeTrace
from spikeloom.errors import TraceError

SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)


@st.composite
def maps(draw: st.DrawFn) -> np.ndarray:
    """A bool array (T, N, *shape) of any density, in either memory order."""
    shape = (draw(st.integers(1, 20)), draw(st.integers(1, 3)), *draw(SHAPES))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    values = rng.random(shape) < draw(st.sampled_from((0.0, 0.1, 0.5, 1.0)))
    return np.asfortranarray(values) if draw(st.booleans()) else values


@settings(deadline=None)
@given(maps())
def test_packing_round_trips(values: np.ndarray) -> None:
    spikes = Spikes.pack(values)
    assert np.array_equal(spikes.unpack(), values)
    assert (spikes.num_steps, spikes.num_samples, spikes.shape) == (len(values), values.shape[1], values.shape[2:])


@settings(deadline=None)
@given(maps())
def test_packed_bits_are_those_of_numpy_little_end_first(values: np.ndarray) -> None:
    """Also says that the bits beyond T are zero, which packbits pads with."""
    assert np.array_equal(Spikes.pack(values).packed, np.packbits(values, axis=0, bitorder="little"))


@settings(deadline=None)
@given(maps(), st.sampled_from((np.uint8, np.int64, np.float32)))
def test_numbers_that_are_not_zero_are_spikes(values: np.ndarray, dtype: type) -> None:
    assert np.array_equal(Spikes.pack(values.astype(dtype) * dtype(3)).unpack(), values)


@settings(deadline=None)
@given(maps())
def test_events_and_density_are_those_of_the_unpacked_map(values: np.ndarray) -> None:
    spikes = Spikes.pack(values)
    assert np.array_equal(spikes.events(), values.sum(axis=(0, 1)))
    assert spikes.density() == pytest.approx(values.mean())


@settings(deadline=None)
@given(maps())
def test_reshape_is_row_major(values: np.ndarray) -> None:
    flat = (int(np.prod(values.shape[2:])),)
    assert np.array_equal(
        Spikes.pack(values).reshape(flat).unpack(), np.ascontiguousarray(values).reshape(*values.shape[:2], *flat)
    )


def test_spikes_of_another_length_are_refused() -> None:
    with pytest.raises(TraceError):
        Spikes(np.zeros((2, 1, 3), np.uint8), 8)
    with pytest.raises(TraceError):
        Spikes(np.zeros((1, 1, 3), np.int8), 8)
    with pytest.raises(TraceError, match="beyond step 9"):
        Spikes(np.full((2, 1, 3), 255, np.uint8), 9)


@settings(deadline=None)
@given(maps(), st.sampled_from((np.uint8, np.uint16, np.int16)), st.integers(0, 2**16))
def test_levels_know_their_map(values: np.ndarray, dtype: type, seed: int) -> None:
    drawn: np.ndarray = (values * np.random.default_rng(seed).integers(1, 100, values.shape)).astype(dtype)
    levels = Levels(drawn, 7)
    assert (levels.num_steps, levels.num_samples, levels.shape) == (len(values), values.shape[1], values.shape[2:])
    assert np.array_equal(levels.events(), values.sum(axis=(0, 1)))
    assert levels.density() == pytest.approx(values.mean())
    reshaped = Levels(drawn, 7, signed=True, analog=True).reshape((1, *values.shape[2:]))
    assert (reshaped.bits, reshaped.signed, reshaped.analog) == (7, True, True)
    assert np.array_equal(reshaped.values.reshape(drawn.shape), drawn)


def test_levels_are_constant_only_when_every_sample_repeats_itself() -> None:
    frame = np.arange(6, dtype=np.uint8).reshape(1, 2, 3)
    values = np.repeat(frame, 5, axis=0)
    assert Levels(values, 3).constant()
    values[4, 1, 2] += 1
    assert not Levels(values, 3).constant()


def test_levels_refuse_other_integers() -> None:
    with pytest.raises(TraceError):
        Levels(np.zeros((2, 1, 3), np.int64), 3)


def test_accuracy_needs_labels_and_predictions() -> None:
    labels, predictions = np.array([0, 1, 2, 3]), np.array([0, 1, 0, 0])
    assert SpikeTrace(1, 4, {}, labels=labels, predictions=predictions).accuracy == 0.5
    assert SpikeTrace(1, 4, {}, labels=labels).accuracy is None
    assert SpikeTrace(1, 4, {}, predictions=predictions).accuracy is None
