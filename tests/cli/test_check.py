"""``spikeloom check``: one line for each file, of whatever kind, good or bad."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.command import spikeloom

GOOD = {
    "trace.npz": "trace of 2 layers, 2 samples, 6 steps",
    "network.npz": "network 'tiny' of 7 nodes, 738 float32 weights, output [10]",
    "machine.toml": "machine of model 'spikex'",
    "workload.toml": "workload of 1 layers, 6 steps",
    "experiment.toml": "experiment: mlp on moving-bar, 5 steps",
    "table.toml": "component table 'table'",
    "topology.csv": "topology of 2 layers",
    "report.json": "report of 1 machine(s), 2 layers",
    "trials.jsonl": "1 trials",
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_file_is_one_line_that_says_what_it_holds(files: Path, name: str) -> None:
    run = spikeloom("check", files / name)
    assert (run.code, run.err) == (0, "")
    assert len(run.out.splitlines()) == 1
    assert run.out.startswith(f"ok: {files / name}: {GOOD[name]}")


def test_the_good_files_are_those_there_are(files: Path) -> None:
    assert {path.name for path in files.iterdir()} == set(GOOD)


def bad(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.npz", b""),
        ("a.npz", b"PK\x05\x06" + bytes(18)),
        ("a.npz", b"PK\x03\x04 no"),
        ("a.toml", b"a = "),
        ("a.toml", b"\xff"),
        ("a.toml", b""),
        ("a.toml", b"colour = 'red'"),
        ("a.toml", b"model = 'nope'"),
        ("a.toml", b"model = 'spikex'\nwindows = 3"),
        ("a.toml", b"model = 'spikex'\ntable = 'nope'"),
        ("a.toml", b"model = 'spikex'\npreset = [1]"),
        ("a.toml", b"num_steps = 4\nlayer = 3"),
        ("a.toml", b"num_steps = 4\n[[layer]]\nname = 'a'"),
        ("a.toml", b"title = 'x'\n[[entry]]\nkind = 'adder'"),
        ("a.toml", b"data = 'digits'\nnetwork = 'lenet'\ntrain = 5"),
        ("a.toml", b"data = 'digits'\nnetwork = 'lenet'"),
        ("a.toml", b"data = 'nope'\nnetwork = 'lenet'\n[train]\nnum_steps = 4"),
        ("a.toml", b"data = 'digits'\nnetwork = 'lenet'\nshift = -1\n[train]\nnum_steps = 4"),
        ("a.csv", b""),
        ("a.csv", b"\xff\xfe"),
        ("a.csv", b"name, H\nconv, 3"),
        ("a.json", b""),
        ("a.json", b"[]"),
        ("a.json", b'{"format": "spikeloom-report", "version": 2, "machines": []}'),
        ("a.jsonl", b"{}\n{}\n"),
        ("a.txt", b"hello"),
        ("noext", b""),
    ],
)
def test_a_bad_file_is_one_line_that_names_it(tmp_path: Path, name: str, content: bytes) -> None:
    path = bad(tmp_path, name, content)
    run = spikeloom("check", path)
    assert (run.code, run.out, run.complaint) == (1, "", None)
    assert len(run.err.splitlines()) == 1
    assert run.err.startswith(f"error: {path}")


@pytest.mark.parametrize("name", ["none.npz", "none.toml", "none.csv", "none.json", "none.jsonl", "x" * 300 + ".npz"])
def test_a_missing_file_is_one_line_that_names_it(tmp_path: Path, name: str) -> None:
    run = spikeloom("check", tmp_path / name)
    assert (run.code, run.out) == (1, "")
    assert len(run.err.splitlines()) == 1
    assert run.err.startswith(f"error: {tmp_path / name}")


@pytest.mark.parametrize("name", ["folder.npz", "folder.toml", "folder.csv", "folder.json", "folder.jsonl"])
def test_a_folder_is_no_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    run = spikeloom("check", tmp_path / name)
    assert (run.code, len(run.err.splitlines())) == (1, 1)


def test_a_bad_file_does_not_stop_the_others(files: Path, tmp_path: Path) -> None:
    run = spikeloom("check", files / "trace.npz", tmp_path / "none.npz", files / "machine.toml", tmp_path / "no.toml")
    assert run.code == 1
    assert [line.split(":")[0] for line in run.out.splitlines()] == ["ok", "ok"]
    assert [line.split(":")[0] for line in run.err.splitlines()] == ["error", "error"]


def test_a_table_beside_its_machine_is_found_from_anywhere(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.toml").write_text((files / "table.toml").read_text())
    machine = bad(tmp_path, "there/machine.toml", b"model = 'spikex'\ntable = 'mine.toml'")
    monkeypatch.chdir(files)
    assert spikeloom("check", machine).code == 0
    (tmp_path / "there" / "mine.toml").unlink()
    assert spikeloom("check", machine).err.startswith(f"error: {machine}: table: ")


def test_nothing_to_check_is_wrong_usage() -> None:
    assert spikeloom("check").code == 2
