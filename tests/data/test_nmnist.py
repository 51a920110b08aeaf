"""N-MNIST from .npz and from the original files, and everything that may be wrong with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spikeloom.data import Recordings, load
from spikeloom.data.nmnist import read_bin
from spikeloom.errors import DataError

from .folders import events, five_bytes, nmnist_arrays, write_nmnist_bins, write_nmnist_npz


def test_original_layout_equals_the_archive(tmp_path: Path) -> None:
    write_nmnist_npz(tmp_path / "npz")
    write_nmnist_bins(tmp_path / "bin")
    archive, folders = (load("nmnist", "train", data_dir=tmp_path / kind) for kind in ("npz", "bin"))
    assert folders.labels.tolist() == sorted(archive.labels)
    place = {int(i): n for n, i in enumerate(folders.ids)}
    chosen = [place[int(i)] for i in archive.ids]
    assert np.array_equal(folders.labels[chosen], archive.labels)
    assert np.array_equal(folders.batch(chosen), archive.batch(range(len(archive))))


def test_five_bytes_an_event(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(bytes([3, 33, 0x80 | 0x04, 0x93, 0xE0, 0, 1, 0, 0, 9]))
    assert read_bin(path).T.tolist() == [[3, 33, 1, 300_000], [0, 1, 0, 9]]
    found = events(500)
    path.write_bytes(five_bytes(found))
    assert np.array_equal(read_bin(path), found)


def test_frames(tmp_path: Path) -> None:
    write_nmnist_npz(tmp_path)
    samples = load("nmnist", "test", data_dir=tmp_path, num_steps=300, dt_us=1000)
    assert isinstance(samples, Recordings)
    frames = samples.batch([2])[:, 0]
    expected = np.zeros((310, 2, 34, 34), np.uint8)
    x, y, p, t = events(52, 2)
    expected[t // 1000, p, y, x] = 1
    assert np.array_equal(frames, expected[:300])
    assert samples.dropped == sum(int((events(50 + i, i)[3] >= 300_000).sum()) for i in range(5))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"test_x": np.full(len(nmnist_arrays("test", 5)["test_x"]), 34, np.uint8)}, r"x runs from 34 to 34"),
        ({"test_p": np.full(len(nmnist_arrays("test", 5)["test_x"]), 2, np.uint8)}, r"p runs from 2 to 2"),
        ({"test_y": np.zeros(3, np.uint8)}, "expected equal numbers"),
        ({"test_offset": np.array([0, 5, 3, 9, 9, 260])}, "offsets do not cut 260 events into 5"),
        ({"test_offset": np.array([0, 260])}, "offsets do not cut"),
        ({"test_label": np.arange(5) + 7}, "labels are int64 from 7 to 11"),
        ({"test_id": np.arange(4)}, "4 ids for 5 labels"),
        ({"test_t_us": np.zeros((2, 130))}, "'test_t_us' has shape"),
    ],
)
def test_wrong_arrays(tmp_path: Path, changes: dict[str, np.ndarray], words: str) -> None:
    write_nmnist_npz(tmp_path, **changes)
    with pytest.raises(DataError, match=words):
        load("nmnist", "test", data_dir=tmp_path)


def test_missing_keys(tmp_path: Path) -> None:
    folder = tmp_path / "nmnist"
    folder.mkdir()
    np.savez(folder / "nmnist_800_100.npz", **nmnist_arrays("train", 3))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no key test_x, test_y"):
        load("nmnist", "test", data_dir=tmp_path)


def test_wrong_original_files(tmp_path: Path) -> None:
    write_nmnist_bins(tmp_path)
    with pytest.raises(DataError, match="nor a folder 'Test'"):
        load("nmnist", "test", data_dir=tmp_path)
    path = tmp_path / "nmnist" / "Train" / "0" / "00001.bin"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(DataError, match=r"00001.bin is 248 bytes long, no multiple of 5"):
        load("nmnist", "train", data_dir=tmp_path)
    path.write_bytes(bytes([40, 0, 0, 0, 0]))
    with pytest.raises(DataError, match="x runs from 0 to 40"):
        load("nmnist", "train", data_dir=tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        read_bin(tmp_path / "none.bin")
    (tmp_path / "nmnist" / "Test").mkdir()
    with pytest.raises(DataError, match="holds no <digit>"):
        load("nmnist", "test", data_dir=tmp_path)
