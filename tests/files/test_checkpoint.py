"""Checkpoints: exact round trips, never half a file, never code."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from spikeloom.errors import NetworkFileError
from spikeloom.files.checkpoint import read_checkpoint, write_checkpoint

STATE: dict[str, Any] = {"epoch": 3, "lr": 0.1, "names": ["a", "b"], "weights": {"w": torch.arange(6).float() / 7}}


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    write_checkpoint(path, STATE)
    state = read_checkpoint(str(path))
    assert torch.equal(state["weights"]["w"], STATE["weights"]["w"])
    assert {key: state[key] for key in ("epoch", "lr", "names")} == {"epoch": 3, "lr": 0.1, "names": ["a", "b"]}
    assert (state["format"], state["version"]) == ("spikeloom-checkpoint", 1)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_write_leaves_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    path = tmp_path / "c.pt"
    write_checkpoint(path, STATE)

    def stopped(*args: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stopped)
        with pytest.raises(NetworkFileError if error is OSError else error):
            write_checkpoint(path, {"epoch": 4})
    assert read_checkpoint(path)["epoch"] == 3
    assert list(tmp_path.iterdir()) == [path]


class Code:
    """Pickles as a call."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.getcwd, ())


def damaged(kind: str, path: Path) -> None:
    write_checkpoint(path, STATE)
    whole = path.read_bytes()
    match kind:
        case "missing":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case "truncated":
            path.write_bytes(whole[: len(whole) // 2])
        case "text":
            path.write_text("no checkpoint at all")
        case "code":
            torch.save({"format": "spikeloom-checkpoint", "version": 1, "x": Code()}, path)
        case "foreign":
            torch.save({"state_dict": {}}, path)
        case "tensor":
            torch.save(torch.zeros(3), path)
        case "future":
            torch.save({"format": "spikeloom-checkpoint", "version": 2}, path)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "no checkpoint at"),
        ("empty", "truncated or no torch file"),
        ("truncated", "truncated or no torch file"),
        ("text", "pickled code or is damaged"),
        ("code", "pickled code"),
        ("foreign", "no Spikeloom checkpoint"),
        ("tensor", "no Spikeloom checkpoint"),
        ("future", "version 2, expected 1"),
    ],
)
def test_a_bad_file_is_one_clear_line(tmp_path: Path, kind: str, words: str) -> None:
    path = tmp_path / "c.pt"
    damaged(kind, path)
    with pytest.raises(NetworkFileError, match=words) as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_quantised_tensors_are_refused_without_a_warning(tmp_path: Path) -> None:
    code = (
        "import sys, warnings, torch\n"
        "from spikeloom.errors import NetworkFileError\n"
        "from spikeloom.files.checkpoint import read_state_dict\n"
        "try:\n    read_state_dict(sys.argv[1])\nexcept NetworkFileError as error:\n    print(error)\n"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save({"w": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}, tmp_path / "q.pth")
    run = subprocess.run([sys.executable, "-c", code, tmp_path / "q.pth"], check=True, capture_output=True, text=True)
    assert "'w' is no dense real tensor" in run.stdout and run.stderr == ""  # torch warns once a process


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(NetworkFileError, match="does the folder exist"):
        write_checkpoint(tmp_path / "no" / "c.pt", STATE)


def test_importing_it_does_not_import_torch() -> None:
    code = "import sys, spikeloom.files.checkpoint; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
