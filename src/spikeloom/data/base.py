"""Samples: images, or recordings of event cameras, behind one interface.

Letters: T time steps, N samples, C channels, H W map. An image is uint8 pixels; a recording is a list of events (x, y, polarity,
time) that is made into 0/1 frames only for the batch at hand, so that long recordings never lie in memory unpacked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from spikeloom.core.nodes import Shape
from spikeloom.errors import DataError

Split = str
SPLITS = ("train", "test")


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
    (darker), channel 1 polarity 1 (brighter). Events at or after num_steps * dt_us are dropped; `dropped` counts them.

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

    @property
    def dropped(self) -> int:
        """Events of all recordings that lie behind the last frame."""
        return 0 if self.dt_us is None else int((self.t_us >= self.num_steps * self.dt_us).sum())

    def batch(self, indices: np.ndarray | Sequence[int]) -> np.ndarray:
        """Recordings ``indices`` as 0/1 frames; uint8, shape (T, len(indices), 2, H, W)."""
        chosen = np.asarray(indices)
        frames = np.zeros((self.num_steps, len(chosen), *self.in_shape), np.uint8)
        for n, index in enumerate(chosen):
            span = slice(int(self.offset[index]), int(self.offset[index + 1]))
            step = self._step(self.t_us[span])
            inside = step < self.num_steps
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
