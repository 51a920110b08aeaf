"""The installed script: exit codes, one line on standard error, results alone on standard output."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import spikeloom

SCRIPT = Path(sys.executable).with_name("spikeloom")


def script(*words: object, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    assert SCRIPT.exists(), f"{SCRIPT} is missing; install the package: pip install -e ."
    return subprocess.run(
        [SCRIPT, *map(str, words)], capture_output=True, text=True, cwd=folder, timeout=120, check=False
    )


def test_json_alone_on_standard_output(files: Path) -> None:
    run = script("eval", files / "trace.npz", "spikex", "ptb", "--json", "-")
    assert (run.returncode, run.stderr) == (0, "")
    assert [machine["label"] for machine in json.loads(run.stdout)["machines"]] == ["spikex", "ptb"]


def test_bad_input_is_code_1_and_one_line(files: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.npz").write_bytes((files / "trace.npz").read_bytes()[:-30])
    for words in (("eval", "bad.npz", "spikex"), ("record", "bad.npz"), ("check", "bad.npz")):
        run = script(*words, folder=tmp_path)
        assert (run.returncode, run.stdout) == (1, "")
        assert len(run.stderr.splitlines()) == 1
        assert run.stderr.startswith("error: bad.npz: ")


def test_complaints_in_the_middle_of_the_work_are_one_line_too(files: Path, tmp_path: Path) -> None:
    run = script(
        "record", files / "network.npz", "--experiment", files / "experiment.toml", "--out", tmp_path / "t.npz"
    )
    assert (run.returncode, run.stdout) == (1, "")
    assert len(run.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_wrong_usage_is_code_2_and_nothing_on_standard_output() -> None:
    run = script("evaluate")
    assert (run.returncode, run.stdout) == (2, "")
    assert "No such command" in run.stderr


def test_the_version_is_that_of_the_package() -> None:
    run = script("--version")
    assert (run.returncode, run.stdout, run.stderr) == (0, f"spikeloom {spikeloom.__version__}\n", "")


@pytest.mark.parametrize("verb", ["train", "record", "eval", "show", "check", "demo"])
def test_every_verb_explains_itself(verb: str) -> None:
    from tests.cli.command import spikeloom as inside

    run = inside(verb, "--help")
    assert (run.code, run.err) == (0, "")
    assert "Usage:" in run.out and "--help" in run.out


def test_evaluating_a_trace_does_not_import_torch(files: Path) -> None:
    code = (
        "import sys; from spikeloom.cli import app; "
        f"app(['eval', {str(files / 'trace.npz')!r}, 'spikex', '--json', '-'], standalone_mode=False); "
        "assert 'torch' not in sys.modules and 'sklearn' not in sys.modules"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (run.returncode, run.stderr) == (0, "")
