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
        ({"test_t_us": np.arange(260) - 50_000}, "no event lies in a frame: 260 before the first of 30 frames"),
        ({"test_t_us": np.arange(260) / 1000}, "multiply times in seconds"),
        ({"test_offset": np.array([0, 50, 30, 152, 206, 260], np.uint32)}, "offsets do not cut"),
        ({"test_offset": np.array([0, 50.5, 101, 153, 206, 260])}, "offsets are no whole numbers"),
        ({"test_p": np.zeros(260, bool)}, "p is bool, expected integers"),
        ({"test_x": np.zeros(260)}, "x is float64, expected integers"),
    ],
)
def test_wrong_arrays(tmp_path: Path, changes: dict[str, np.ndarray], words: str) -> None:
    write_nmnist_npz(tmp_path, **changes)
    with pytest.raises(DataError, match=words):
        load("nmnist", "test", data_dir=tmp_path)


def test_a_clock_that_starts_late(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Five recordings, a minute between them, the first event of each 1 ms behind its start."""
    arrays = nmnist_arrays("test", 5)
    offset, t_us = arrays["test_offset"], arrays["test_t_us"].astype(np.int64)
    starts = np.array([int(t_us[at]) for at in offset[:-1]])
    late = t_us + np.repeat(60_000_000 * (1 + np.arange(5)), np.diff(offset))
    write_nmnist_npz(tmp_path / "late", test_t_us=late)
    with pytest.raises(DataError, match=r"260 behind the last of 30 frames of 10000 us.*origin = 'first-event'"):
        load("nmnist", "test", data_dir=tmp_path / "late")
    counted = load("nmnist", "test", data_dir=tmp_path / "late", origin="first-event")
    write_nmnist_npz(tmp_path / "good", test_t_us=t_us - np.repeat(starts, np.diff(offset)))
    good = load("nmnist", "test", data_dir=tmp_path / "good")
    assert np.array_equal(counted.batch(range(5)), good.batch(range(5)))
    assert good.batch(range(5)).any(axis=(0, 2, 3, 4)).all()
    caplog.clear()
    mixed = late.copy()
    mixed[: offset[1]] -= 60_000_000 + 20_000
    write_nmnist_npz(tmp_path / "mixed", test_t_us=mixed)
    load("nmnist", "test", data_dir=tmp_path / "mixed")
    early = int((mixed[: offset[1]] < 0).sum())
    assert early
    assert [record.getMessage() for record in caplog.records] == [
        f"nmnist/test: of 260 events {early} before the first and 210 behind the last of 30 frames of 10000 us from time 0 "
        "are left out; 4 of 5 recordings have no event in a frame"
    ]


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
