"""MNIST from .npz and from the original files, and everything that may be wrong with them."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import numpy as np
import pytest

from spikeloom.data import load
from spikeloom.data.mnist import read_idx
from spikeloom.errors import DataError

from .folders import idx, write_mnist_idx, write_mnist_npz


@pytest.mark.parametrize("packed", [False, True])
def test_original_files(tmp_path: Path, packed: bool) -> None:
    pixels, labels = write_mnist_idx(tmp_path, packed=packed)
    samples = load("mnist", "test", data_dir=tmp_path)
    assert np.array_equal(samples.batch(range(12))[:, 0], pixels)
    assert np.array_equal(samples.labels, labels)
    with pytest.raises(DataError, match=r"neither mnist.npz nor train-images"):
        load("mnist", "train", data_dir=tmp_path)


def test_npz(tmp_path: Path) -> None:
    path = write_mnist_npz(tmp_path)
    with np.load(path) as arrays:
        assert np.array_equal(load("mnist", "train", data_dir=tmp_path).batch([3])[0, 0], arrays["x_train"][3])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x_test": np.zeros((10, 28 * 28), np.uint8)}, "'x_test' has shape"),
        ({"x_test": np.zeros((10, 28, 28), np.float32)}, "images are float32"),
        ({"y_test": np.zeros(9, np.uint8)}, r"labels \[9\]"),
        ({"y_test": np.full(10, 10, np.uint8)}, "labels are uint8 from 10 to 10"),
        ({"y_test": np.zeros(10, np.float32)}, "labels are float32"),
        ({"x_test": np.zeros((0, 28, 28), np.uint8), "y_test": np.zeros(0, np.uint8)}, "holds no sample"),
        ({"x_test": np.array([[[None]]])}, "cannot be read as .npz"),
    ],
)
def test_wrong_arrays(tmp_path: Path, changes: dict[str, np.ndarray], words: str) -> None:
    write_mnist_npz(tmp_path, **changes)
    with pytest.raises(DataError, match=words) as caught:
        load("mnist", "test", data_dir=tmp_path)
    assert "\n" not in str(caught.value)


def test_damaged_npz(tmp_path: Path) -> None:
    path = write_mnist_npz(tmp_path)
    whole = path.read_bytes()
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    npy = buffer.getvalue()
    for raw in (whole[: len(whole) // 2], b"", b"hello", npy):
        path.write_bytes(raw)
        with pytest.raises(DataError, match=r"cannot be read as .npz"):
            load("mnist", "test", data_dir=tmp_path)
    np.savez(path, x_train=np.zeros(3))
    with pytest.raises(DataError, match="no key x_test, y_test; it holds x_train"):
        load("mnist", "test", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "begins with nothing"),
        (b"\x00\x00\x0d\x01", "no IDX file"),
        (b"\x00\x00\x08\x03\x00\x00", "no IDX file"),
        (idx(np.zeros((4, 3), np.uint8))[:-1], r"11 values, its header promises \[4, 3\]"),
    ],
)
def test_damaged_idx(tmp_path: Path, raw: bytes, words: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(raw)
    with pytest.raises(DataError, match=words):
        read_idx(path)


def test_damaged_gzip(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    for raw in (b"no gzip", gzip.compress(idx(np.zeros((40, 30), np.uint8)))[:-12]):
        path.write_bytes(raw)
        with pytest.raises(DataError, match="cannot be read"):
            read_idx(path)
