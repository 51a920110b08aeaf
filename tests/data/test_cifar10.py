"""CIFAR-10 from folders and archives, and everything that may be wrong with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spikeloom.data import load
from spikeloom.errors import DataError

from .folders import CLASSES, cifar10_members, image_bytes, write_cifar10


@pytest.mark.parametrize(
    ("kind", "prefix"), [("folder", ""), ("tar.gz", ""), ("zip", ""), ("tar.gz", "CIFAR-10-images/"), ("zip", "x/y/")]
)
def test_classes_and_pixels(tmp_path: Path, kind: str, prefix: str) -> None:
    write_cifar10(tmp_path, kind, {prefix + name: raw for name, raw in cifar10_members().items()})
    samples = load("cifar10", "test", data_dir=tmp_path)
    assert len(samples) == 30
    assert len(set(samples.labels[:10].tolist())) > 4  # of every class, also among the first
    samples = samples.take(np.argsort(samples.ids))
    assert samples.ids.tolist() == [*range(30)] and samples.labels.tolist() == sorted([*range(10)] * 3)
    batch = samples.batch([4, 29])
    assert batch.shape == (2, 3, 32, 32)
    assert batch[0, :, 5, 5].tolist() == [20, 1, 7]
    assert batch[1, :, 31, 0].tolist() == [180, 2, 7]


def test_limit_is_balanced_and_memory_is_shared(tmp_path: Path) -> None:
    write_cifar10(tmp_path, "tar.gz")
    samples = load("cifar10", "test", data_dir=tmp_path, limit=13)
    assert np.bincount(samples.labels, minlength=10).tolist() == [2, 2, 2, *[1] * 7]
    again = load("cifar10", "test", data_dir=tmp_path, limit=13)
    assert samples.pixels is again.pixels  # type: ignore[union-attr]
    assert len(load("cifar10", "test", data_dir=tmp_path, limit=1000)) == 30
    with pytest.raises(ValueError, match="read-only"):
        samples.pixels[0] = 0  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["folder", "tar.gz", "zip"])
def test_what_is_no_image_or_of_another_size(tmp_path: Path, kind: str) -> None:
    members = cifar10_members()
    write_cifar10(tmp_path / "text", kind, members | {"test/cat/0001.png": b"not an image"})
    with pytest.raises(DataError, match=r"test/cat/0001.png is no readable image"):
        load("cifar10", "test", data_dir=tmp_path / "text")
    write_cifar10(tmp_path / "cut", kind, members | {"test/cat/0001.png": members["test/cat/0001.png"][:60]})
    with pytest.raises(DataError, match="no readable image"):
        load("cifar10", "test", data_dir=tmp_path / "cut")
    write_cifar10(tmp_path / "size", kind, members | {"test/dog/0000.png": image_bytes((0, 0, 0), (16, 32))})
    with pytest.raises(DataError, match=r"dog/0000.png is 16x32 pixels, expected 32x32"):
        load("cifar10", "test", data_dir=tmp_path / "size")


def test_a_class_that_is_missing(tmp_path: Path) -> None:
    write_cifar10(tmp_path, "zip", {n: raw for n, raw in cifar10_members().items() if "/ship/" not in n})
    with pytest.raises(DataError, match="no image of class 'ship' for split 'test'"):
        load("cifar10", "test", data_dir=tmp_path)
    with pytest.raises(DataError, match=f"no image of class '{CLASSES[0]}' for split 'train'"):
        load("cifar10", "train", data_dir=tmp_path)


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_a_truncated_archive(tmp_path: Path, kind: str) -> None:
    path = write_cifar10(tmp_path, kind)
    whole = path.read_bytes()
    for raw in (whole[: len(whole) // 2], b"", b"neither tar nor zip"):
        path.write_bytes(raw)
        with pytest.raises(DataError, match=r"truncated|holds no image"):
            load("cifar10", "test", data_dir=tmp_path)


def test_several_archives_and_bad_limit(tmp_path: Path) -> None:
    path = write_cifar10(tmp_path, "zip")
    (path.parent / "other.zip").write_bytes(path.read_bytes())
    with pytest.raises(DataError, match=r"not exactly one archive \(found: images.zip, other.zip\)"):
        load("cifar10", "test", data_dir=tmp_path)
    with pytest.raises(DataError, match="limit=0"):
        load("cifar10", "test", data_dir=tmp_path, limit=0)
