"""N-MNIST (Orchard et al., Frontiers in Neuroscience 2015): MNIST seen by a moving event camera, 34x34 pixels, two polarities."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spikeloom.data.base import Recordings, check_split, times_us
from spikeloom.data.files import check_labels, dataset_folder, read_arrays
from spikeloom.errors import DataError

_ARCHIVE = "nmnist_800_100.npz"
_SIDE = 34
_EVENT_BYTES = 5
_FOLDERS = {"train": "Train", "test": "Test"}


def nmnist(
    split: str, data_dir: Path | None = None, *, num_steps: int = 30, dt_us: int | None = 10_000, origin: str = "zero"
) -> Recordings:
    """2 x 34 x 34 recordings of about 300 ms, 10 classes.

    Read from ``nmnist/nmnist_800_100.npz`` (800 and 100 recordings; keys ``{split}_{x,y,p,t_us,offset,label,id}``) or from the
    original folders ``nmnist/Train/<digit>/*.bin`` and ``nmnist/Test/...``.

    Args:
        split: "train" or "test".
        data_dir: folder that holds ``nmnist/``.
        num_steps: frames of a recording.
        dt_us: length of a frame in microseconds (events outside the frames are dropped and counted), or None to spread every
            recording over all frames.
        origin: what frames are counted from: "zero" of the clock, or the "first-event" of each recording.

    Raises:
        DataError: the files are absent, damaged or hold something else.
    """
    check_split("nmnist", split)
    folder = dataset_folder(data_dir, "nmnist")
    archive = folder / _ARCHIVE
    if archive.is_file():
        arrays = read_arrays(archive, {f"{split}_{key}": 1 for key in ("x", "y", "p", "t_us", "offset", "label", "id")})
        x, y, p, t_us, offset, labels, ids = arrays.values()
        where = f"{archive} ({split})"
    elif (folder / _FOLDERS[split]).is_dir():
        x, y, p, t_us, offset, labels, ids = _read_folders(folder / _FOLDERS[split])
        where = str(folder / _FOLDERS[split])
    else:
        raise DataError(f"{folder} holds neither {_ARCHIVE} nor a folder '{_FOLDERS[split]}'; put N-MNIST there")
    labels = check_labels(where, labels, 10)
    offset, stated = offset.astype(np.int64), offset
    if (offset != stated).any():
        raise DataError(f"{where}: offsets are no whole numbers")
    _check_events(where, x, y, p, t_us, offset, len(labels))
    if len(ids) != len(labels):
        raise DataError(f"{where}: {len(ids)} ids for {len(labels)} labels")
    return Recordings(
        "nmnist", split, x, y, p, times_us(where, t_us, offset, origin), offset, labels, ids.astype(np.int64),
        (2, _SIDE, _SIDE), 10, num_steps, dt_us,
    )  # fmt: skip


def read_bin(path: Path) -> np.ndarray:
    """Events of one original file; int64, shape (4, E): x, y, polarity, time in microseconds.

    An event is five bytes: x, y, then polarity in the top bit and 23 bits of time, big endian.

    Raises:
        DataError: the file is unreadable, or no whole number of events long.
    """
    try:
        raw = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if raw.size % _EVENT_BYTES:
        raise DataError(f"{path} is {raw.size} bytes long, no multiple of {_EVENT_BYTES}; it may be truncated")
    byte = raw.reshape(-1, _EVENT_BYTES).T.astype(np.int64)
    return np.stack([byte[0], byte[1], byte[2] >> 7, (byte[2] & 0x7F) << 16 | byte[3] << 8 | byte[4]])


def _read_folders(folder: Path) -> tuple[np.ndarray, ...]:
    """All recordings under ``folder``/<digit>/*.bin, digit by digit, in the order of their names (their numbers)."""
    paths = [(path, digit) for digit in range(10) for path in sorted((folder / str(digit)).glob("*.bin"))]
    if not paths:
        raise DataError(f"{folder} holds no <digit>/*.bin; expected the original N-MNIST folders 0 to 9")
    events = [read_bin(path) for path, _ in paths]
    offset = np.concatenate([[0], np.cumsum([e.shape[1] for e in events])])
    # One byte a coordinate and four a time keep the 60,000 recordings under 2 GB.
    x, y, p = (np.concatenate([e[row].astype(np.uint8) for e in events]) for row in range(3))
    t_us = np.concatenate([e[3] for e in events])
    ids = [int(path.stem) if path.stem.isdigit() else number for number, (path, _) in enumerate(paths)]
    return x, y, p, t_us, offset, np.array([digit for _, digit in paths]), np.array(ids)


def _check_events(
    where: str, x: np.ndarray, y: np.ndarray, p: np.ndarray, t_us: np.ndarray, offset: np.ndarray, num_samples: int
) -> None:
    if len(offset) != num_samples + 1 or offset[0] != 0 or offset[-1] != len(x) or (np.diff(offset) < 0).any():
        raise DataError(f"{where}: offsets do not cut {len(x)} events into {num_samples} recordings")
    if not len(x) == len(y) == len(p) == len(t_us):
        raise DataError(
            f"{where}: x, y, p, t_us have {len(x)}, {len(y)}, {len(p)}, {len(t_us)} events, expected equal numbers"
        )
    for name, values, end in (("x", x, _SIDE), ("y", y, _SIDE), ("p", p, 2)):
        if values.dtype.kind not in "iu":
            raise DataError(f"{where}: {name} is {values.dtype}, expected integers")
        if values.size and not (values.min() >= 0 and values.max() < end):
            raise DataError(f"{where}: {name} runs from {values.min()} to {values.max()}, expected 0..{end - 1}")
