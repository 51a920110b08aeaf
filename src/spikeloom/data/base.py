"""Samples: images, or recordings of event cameras, behind one interface.

Letters: T time steps, N samples, C channels, H W map. An image is uint8 pixels; a recording is a list of events (x, y, polarity,
time) that is made into 0/1 frames only for the batch at hand, so that long recordings never lie in memory unpacked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np

from spikeloom.core.nodes import Shape
from spikeloom.errors import DataError
from spikeloom.files.schema import nearest

Split = str
SPLITS = ("train", "test")
#: What the frames of a recording are counted from: time 0 of its clock, or its earliest event.
ORIGINS = ("zero", "first-event")
#: Longest time in microseconds, 142 years either way: more is no time, and frames of it could not be counted.
_LONGEST_US = 2**52
#: Recordings shorter than this (1 ms) are none where their times have fractions of a microsecond: those are seconds.
_SHORTEST_US = 1000


@dataclass(frozen=True, eq=False)
class Images:
    """Static images.

    pixels: uint8, shape (N, C, H, W). labels: int64, shape (N,). ids: int64, shape (N,), unique within data set and split.
    """

    name: str
    split: str
    pixels: np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    num_classes: int

    def __post_init__(self) -> None:
        assert self.pixels.dtype == np.uint8 and self.pixels.ndim == 4
        assert self.labels.dtype == self.ids.dtype == np.int64
        assert len(self.pixels) == len(self.labels) == len(self.ids)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def in_shape(self) -> Shape:
        """[C, H, W] of one image."""
        return tuple(self.pixels.shape[1:])

    def batch(self, indices: np.ndarray | Sequence[int]) -> np.ndarray:
        """Images ``indices``; uint8, shape (len(indices), C, H, W)."""
        pixels: np.ndarray = self.pixels[np.asarray(indices)]
        return pixels

    def take(self, indices: np.ndarray | Sequence[int]) -> Images:
        """The images ``indices`` as a set of their own."""
        chosen = np.asarray(indices)
        return replace(self, pixels=self.pixels[chosen], labels=self.labels[chosen], ids=self.ids[chosen])


@dataclass(frozen=True, eq=False)
class Recordings:
    """Event recordings and how they are cut into frames.

    Frame k of a recording shows the events with ``t_us // dt_us == k``; with dt_us None those with
    ``(t_us - first) * num_steps // (last - first + 1) == k``, so that every recording fills its frames whatever its length.
    A pixel of a frame is 1 if it saw at least one event of that polarity (several count once). Channel 0 is polarity 0
    (darker), channel 1 polarity 1 (brighter). Events before 0 or at and after num_steps * dt_us are in no frame; `outside`
    counts them.

    x, y: uint16, p: uint8, t_us: int64, all of shape (E,); recording i is events offset[i]:offset[i+1].
    offset: int64, shape (N + 1,). labels, ids: int64, shape (N,).
    in_shape: [2, H, W]. num_steps: T. dt_us: length of a frame in microseconds, or None.
    """

    name: str
    split: str
    x: np.ndarray
    y: np.ndarray
    p: np.ndarray
    t_us: np.ndarray
    offset: np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    in_shape: Shape
    num_classes: int
    num_steps: int
    dt_us: int | None

    def __post_init__(self) -> None:
        assert len(self.offset) == len(self.labels) + 1 == len(self.ids) + 1
        if self.num_steps < 1 or (self.dt_us is not None and self.dt_us < 1):
            raise DataError(
                f"data set '{self.name}' got num_steps={self.num_steps} dt_us={self.dt_us}, expected at least 1"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def dt_s(self) -> float | None:
        """Length of a step in seconds, if all recordings have the same."""
        return None if self.dt_us is None else self.dt_us / 1_000_000

    @cached_property
    def outside(self) -> tuple[int, int, int]:
        """Events of all recordings before the first frame and behind the last, and recordings without any in a frame."""
        before = behind = silent = 0
        for start, stop in pairwise(self.offset.tolist()):
            step = self._step(self.t_us[start:stop])
            early, late = int((step < 0).sum()), int((step >= self.num_steps).sum())
            before, behind, silent = before + early, behind + late, silent + (early + late == len(step))
        return before, behind, silent

    @property
    def dropped(self) -> int:
        """Events of all recordings that are in no frame."""
        return sum(self.outside[:2])

    def note(self) -> str:
        """What the frames leave out, in one line, or nothing. Raises DataError where they leave out every event."""
        name, events, (before, behind, silent) = f"{self.name}/{self.split}", len(self.t_us), self.outside
        frames = f"{self.num_steps} frames of {self.dt_us} us from time 0"
        sides = [f"{n:,} before the first" for n in (before,) if n] + [f"{n:,} behind the last" for n in (behind,) if n]
        if events and before + behind == events:
            raise DataError(
                f"{name}: no event lies in a frame: {' and '.join(sides)} of {frames}, times run from {self.t_us.min()} to "
                f"{self.t_us.max()} us; origin = 'first-event' ([data_options]) counts frames from the first event of each recording"
            )
        if sides:
            lost = f"; {silent:,} of {len(self):,} recordings have no event in a frame" if silent else ""
            return f"{name}: of {events:,} events {' and '.join(sides)} of {frames} are left out{lost}"
        if events and self.dt_us is not None and self.num_steps > 1 and self.t_us.max() < self.dt_us:
            return f"{name}: every event lies in the first of {frames}; times are read as microseconds"
        return ""

    def batch(self, indices: np.ndarray | Sequence[int]) -> np.ndarray:
        """Recordings ``indices`` as 0/1 frames; uint8, shape (T, len(indices), 2, H, W)."""
        chosen = np.asarray(indices)
        frames = np.zeros((self.num_steps, len(chosen), *self.in_shape), np.uint8)
        for n, index in enumerate(chosen):
            span = slice(int(self.offset[index]), int(self.offset[index + 1]))
            step = self._step(self.t_us[span])
            inside = (step >= 0) & (step < self.num_steps)
            frames[step[inside], n, self.p[span][inside], self.y[span][inside], self.x[span][inside]] = 1
        return frames

    def take(self, indices: np.ndarray | Sequence[int]) -> Recordings:
        """The recordings ``indices`` as a set of their own."""
        chosen = np.asarray(indices)
        lengths = (self.offset[1:] - self.offset[:-1])[chosen]
        offset = np.concatenate([[0], np.cumsum(lengths)])
        events = np.repeat(self.offset[:-1][chosen] - offset[:-1], lengths) + np.arange(offset[-1])
        return replace(
            self,
            x=self.x[events],
            y=self.y[events],
            p=self.p[events],
            t_us=self.t_us[events],
            offset=offset,
            labels=self.labels[chosen],
            ids=self.ids[chosen],
        )

    def _step(self, t_us: np.ndarray) -> np.ndarray:
        if self.dt_us is not None:
            return t_us // self.dt_us
        if t_us.size == 0:
            return t_us
        first, last = int(t_us.min()), int(t_us.max())
        return (t_us - first) * self.num_steps // (last - first + 1)


Samples = Images | Recordings


def first(source: Samples, number: int | None) -> Samples:
    """The first ``number`` samples, all where that is None or more than there are."""
    return source if number is None or number >= len(source) else source.take(np.arange(number))


def times_us(where: str, times: np.ndarray, offset: np.ndarray, origin: str) -> np.ndarray:
    """Times of events as whole microseconds from ``origin``; int64. offset: as in `Recordings`.

    Raises:
        DataError: an unknown origin, or what cannot be a time in microseconds.
    """
    if origin not in ORIGINS:
        raise DataError(f"{where}: origin: got '{origin}'{nearest(origin, ORIGINS)}, expected {' or '.join(ORIGINS)}")
    if times.dtype.kind not in "iuf":
        raise DataError(f"{where}: times are {times.dtype}, expected whole microseconds")
    whole = np.floor(times) if times.dtype.kind == "f" else times
    span = [times[start:stop] for start, stop in pairwise(offset.tolist()) if stop > start]
    if not np.isfinite(times).all():
        raise DataError(f"{where}: {int((~np.isfinite(times)).sum()):,} of {len(times):,} times are not finite")
    if (whole != times).any() and all(np.ptp(each) < _SHORTEST_US for each in span):
        raise DataError(
            f"{where}: times run from {times.min():g} to {times.max():g} in fractions, and no recording lasts {_SHORTEST_US}; expected "
            "microseconds: multiply times in seconds by 1e6"
        )
    if times.size and not -_LONGEST_US <= int(times.min()) <= int(times.max()) <= _LONGEST_US:
        raise DataError(f"{where}: times run from {times.min()} to {times.max()}, expected at most {_LONGEST_US} us")
    found: np.ndarray = whole.astype(np.int64)
    if origin == "first-event":
        for start, stop in pairwise(offset.tolist()):
            found[start:stop] -= found[start:stop].min(initial=_LONGEST_US)
    return found


def check_split(name: str, split: str) -> None:
    """Raise DataError unless ``split`` is "train" or "test"."""
    if split not in SPLITS:
        raise DataError(f"data set '{name}' has no split '{split}', expected one of {', '.join(SPLITS)}")


def stratified(labels: np.ndarray, limit: int) -> np.ndarray:
    """Indices of the first samples of every class in turn, ``limit`` in all, ascending."""
    rank = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        rank[members] = np.arange(len(members))
    return np.sort(np.lexsort((labels, rank))[:limit])
