"""What holds for every data set: one interface, splits that differ, clear refusals, real files where they are at hand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spikeloom.data import DATA_VARIABLE, DATASETS, Recordings, load
from spikeloom.errors import DataError

from .folders import write_cifar10, write_mnist_npz, write_nmnist_npz

real_data = pytest.mark.skipif(
    not os.environ.get(DATA_VARIABLE), reason=f"{DATA_VARIABLE} names no folder with the real data sets"
)
IN_MEMORY = ("digits", "moving-bar")


def check(samples: Any) -> None:
    assert len(samples) == len(samples.labels) == len(samples.ids)
    assert samples.labels.dtype == samples.ids.dtype == np.int64
    assert set(np.unique(samples.labels)) <= set(range(samples.num_classes))
    assert len(np.unique(samples.ids)) == len(samples)
    chosen = [2, 0, 1]
    batch = samples.batch(chosen)
    assert batch.dtype == np.uint8
    axis = 1 if isinstance(samples, Recordings) else 0
    steps = (samples.num_steps,) if isinstance(samples, Recordings) else ()
    assert batch.shape == (*steps, 3, *samples.in_shape)
    if axis:
        assert batch.max() == 1
    part = samples.take(chosen)
    assert np.array_equal(part.batch([0, 1, 2]), batch)
    assert np.array_equal(part.labels, samples.labels[chosen])
    assert np.array_equal(part.ids, samples.ids[chosen])
    assert np.array_equal(part.take([1]).batch([0]), np.take(batch, [1], axis))


@pytest.mark.parametrize("name", IN_MEMORY)
@pytest.mark.parametrize("split", ["train", "test"])
def test_sets_that_need_no_folder(name: str, split: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    check(load(name, split))
    assert np.array_equal(load(name, split).batch([0, 5]), load(name, split).batch([0, 5]))


@pytest.mark.parametrize("name", sorted(set(DATASETS) - set(IN_MEMORY)))
def test_sets_of_a_folder_say_what_to_set(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    with pytest.raises(DataError, match=f"'{name}' needs a folder: set the environment variable SPIKELOOM_DATA"):
        load(name, "test")
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    with pytest.raises(DataError, match=f"no folder {tmp_path / name}"):
        load(name, "test")
    (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=f"{tmp_path / name} holds n"):
        load(name, "test")


def test_the_argument_goes_before_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_mnist_npz(tmp_path)
    monkeypatch.setenv(DATA_VARIABLE, "/nowhere")
    check(load("mnist", "test", data_dir=str(tmp_path)))
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    check(load("mnist", "train"))


@pytest.mark.parametrize("name", DATASETS)
def test_unknown_split_and_option(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"'{name}' has no split 'validation', expected one of train, test"):
        load(name, "validation", data_dir=tmp_path)
    with pytest.raises(DataError, match=f"'{name}' has no option bins"):
        load(name, "test", data_dir=tmp_path, bins=3)


def test_unknown_name() -> None:
    with pytest.raises(DataError, match="unknown data set 'imagenet', expected one of cifar10, digits"):
        load("imagenet", "test")


def test_made_up_folders(tmp_path: Path) -> None:
    write_mnist_npz(tmp_path)
    write_nmnist_npz(tmp_path)
    write_cifar10(tmp_path, "tar.gz")
    for name in DATASETS:
        check(load(name, "test", data_dir=tmp_path))


def test_importing_data_imports_neither_torch_nor_sklearn_nor_pillow() -> None:
    code = "import sys, spikeloom.data, spikeloom.nets; sys.exit(any(m in sys.modules for m in ('torch', 'sklearn', 'PIL')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@real_data
@pytest.mark.parametrize(
    ("name", "options", "sizes"),
    [
        ("mnist", {}, (60_000, 10_000)),
        ("nmnist", {"num_steps": 30, "dt_us": 10_000}, (800, 100)),
        ("nmnist", {"num_steps": 300, "dt_us": 1_000}, (800, 100)),
    ],
)
def test_real_files(name: str, options: dict[str, Any], sizes: tuple[int, int]) -> None:
    train, test = load(name, "train", **options), load(name, "test", **options)
    assert (len(train), len(test)) == sizes
    check(train)
    check(test)
    assert len(np.unique(test.labels)) == 10


@real_data
def test_real_cifar10() -> None:
    samples = load("cifar10", "test", limit=40)
    check(samples)
    assert np.bincount(samples.labels).tolist() == [4] * 10
    assert samples.batch(range(40)).std() > 40


@real_data
def test_real_nmnist_is_mnist() -> None:
    """Test recording i is test digit i - 60001 of MNIST: same labels, and the digit's place is where events are."""
    recordings, images = load("nmnist", "test", num_steps=1, dt_us=None), load("mnist", "test")
    numbers = recordings.ids - 60_001
    assert np.array_equal(recordings.labels, images.labels[numbers])
    fired = recordings.batch(range(100))[0].any(axis=1).mean(axis=0)
    assert fired[10:24, 10:24].mean() > 3 * fired[:3].mean()


@real_data
def test_real_nmnist_reports_what_it_drops() -> None:
    samples = load("nmnist", "test", num_steps=300, dt_us=1_000)
    assert isinstance(samples, Recordings)
    assert 0 < samples.dropped == int((samples.t_us >= 300_000).sum()) < 0.01 * len(samples.t_us)
