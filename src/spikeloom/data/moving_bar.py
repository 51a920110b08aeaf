"""Moving bar: made-up event recordings of a bar that crosses the map in one of four directions; for tests and quick trials."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spikeloom.data.base import Recordings, check_split
from spikeloom.errors import DataError

#: Class -> the way the bar goes.
DIRECTIONS = ("right", "left", "down", "up")
_SIDE = 16
_CROSSING_US = 100_000  # a crossing takes a tenth of a second
_SPLIT_SEEDS = {"train": 0, "test": 1}


def moving_bar(
    split: str,
    data_dir: Path | None = None,
    *,
    num_steps: int = 20,
    dt_us: int | None = 5_000,
    num_samples: int = 200,
    noise: float = 0.2,
    seed: int = 0,
) -> Recordings:
    """2 x 16 x 16 recordings of 100 ms, 4 classes; needs no folder.

    The front of the bar brightens pixels (polarity 1), its back darkens them (polarity 0), each with probability 0.9 and a
    jitter of a step of the bar; ``noise`` events per pixel and recording are scattered over everything.

    Args:
        split: "train" or "test", drawn from streams of their own.
        data_dir: not used.
        num_steps: frames of a recording.
        dt_us: length of a frame in microseconds, or None to spread every recording over all frames.
        num_samples: recordings, classes in turn.
        noise: mean number of noise events per pixel.
        seed: of everything that is drawn.

    Raises:
        DataError: unknown split, or numbers out of range.
    """
    check_split("moving-bar", split)
    if num_samples < 1 or noise < 0:
        raise DataError(f"data set 'moving-bar' got num_samples={num_samples} noise={noise}, expected at least 1 and 0")
    generator = np.random.default_rng([seed, _SPLIT_SEEDS[split]])
    labels = np.arange(num_samples, dtype=np.int64) % len(DIRECTIONS)
    recordings = [_crossing(int(label), noise, generator) for label in labels]
    offset = np.concatenate([[0], np.cumsum([r.shape[1] for r in recordings])])
    x, y, p, t_us = np.concatenate(recordings, axis=1)
    return Recordings(
        "moving-bar", split, x.astype(np.uint8), y.astype(np.uint8), p.astype(np.uint8), t_us, offset, labels,
        np.arange(num_samples, dtype=np.int64), (2, _SIDE, _SIDE), len(DIRECTIONS), num_steps, dt_us,
    )  # fmt: skip


def _crossing(label: int, noise: float, generator: np.random.Generator) -> np.ndarray:
    """Events of one recording in order of time; int64, shape (4, E): x, y, p, t_us."""
    length = int(generator.integers(_SIDE // 2, _SIDE + 1))
    first = int(generator.integers(0, _SIDE - length + 1))
    thickness = int(generator.integers(2, 5))
    pace_us = _CROSSING_US // (_SIDE + thickness)
    along, across = np.meshgrid(np.arange(_SIDE), np.arange(first, first + length), indexing="ij")
    parts = []
    for polarity, delay in ((1, 0), (0, thickness)):
        seen = generator.random(along.shape) < 0.9
        time = (along + delay) * pace_us + generator.integers(0, pace_us, along.shape)
        place = along if label % 2 == 0 else _SIDE - 1 - along
        column, row = (place, across) if label < 2 else (across, place)
        parts.append(np.stack([column[seen], row[seen], np.full(int(seen.sum()), polarity), time[seen]]))
    number = int(generator.poisson(noise * _SIDE * _SIDE))
    ends = np.array([_SIDE, _SIDE, 2, _CROSSING_US])[:, None]
    parts.append(generator.integers(0, ends, (4, number)))
    events = np.concatenate(parts, axis=1)
    ordered: np.ndarray = events[:, np.argsort(events[3], kind="stable")]
    return ordered
