"""MNIST (LeCun, Cortes, Burges): 70,000 handwritten digits of 28x28 pixels."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

from spikeloom.data.base import Images, check_split
from spikeloom.data.files import check_labels, dataset_folder, read_arrays
from spikeloom.errors import DataError

_ARCHIVE = "mnist.npz"
_IDX_NAMES = {"train": "train", "test": "t10k"}


def mnist(split: str, data_dir: Path | None = None) -> Images:
    """1 x 28 x 28 images, 10 classes, 60,000 for training and 10,000 for testing.

    Read from ``mnist/mnist.npz`` (x_train, y_train, x_test, y_test) or from the four original IDX files, packed or not
    (``train-images-idx3-ubyte[.gz]``, ...).

    Raises:
        DataError: the files are absent, damaged or hold something else.
    """
    check_split("mnist", split)
    folder = dataset_folder(data_dir, "mnist")
    if (folder / _ARCHIVE).is_file():
        where = str(folder / _ARCHIVE)
        arrays = read_arrays(folder / _ARCHIVE, {f"x_{split}": 3, f"y_{split}": 1})
        pixels, labels = arrays[f"x_{split}"], arrays[f"y_{split}"]
    else:
        prefix = _IDX_NAMES[split]
        path = _idx_path(folder, f"{prefix}-images-idx3-ubyte")
        where = str(path)
        pixels = read_idx(path)
        labels = read_idx(_idx_path(folder, f"{prefix}-labels-idx1-ubyte"))
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or labels.ndim != 1 or len(pixels) != len(labels):
        raise DataError(
            f"{where}: images are {pixels.dtype} {list(pixels.shape)} with labels {list(labels.shape)}, "
            f"expected uint8 [N, 28, 28] with [N]"
        )
    ids = np.arange(len(labels), dtype=np.int64)
    return Images("mnist", split, pixels[:, None], check_labels(where, labels, 10), ids, 10)


def read_idx(path: Path) -> np.ndarray:
    """An array of unsigned bytes in the IDX format: 0x00 0x00 0x08 axes, the extents as big-endian uint32, the values.

    Raises:
        DataError: the file is damaged or no IDX file of bytes.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}; it may be truncated") from error
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08" or len(raw) < 4 + 4 * raw[3]:
        raise DataError(f"{path} is no IDX file of unsigned bytes: it begins with {raw[:4].hex() or 'nothing'}")
    num_axes = raw[3]
    shape = struct.unpack(f">{num_axes}I", raw[4 : 4 + 4 * num_axes])
    values = np.frombuffer(raw, np.uint8, offset=4 + 4 * num_axes)
    if values.size != int(np.prod(shape)):
        raise DataError(f"{path} holds {values.size} values, its header promises {list(shape)}; it may be truncated")
    return values.reshape(shape)


def _idx_path(folder: Path, stem: str) -> Path:
    for name in (stem, f"{stem}.gz"):
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{folder} holds neither {_ARCHIVE} nor {stem}[.gz]; put MNIST there")
