"""``spikeloom search``"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.command import spikeloom

SEARCH = """
machine = "spikex"
[search]
objectives = ["edp"]
sampler = "random"
trials = 3
[space]
arch.rows = [2, 4, 8]
arch.tag_width = "default"
[baselines]
machines = ["ptb"]
windows = [1, 4]
"""


@pytest.fixture
def search_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "rows.toml"
    path.write_text(SEARCH)
    return path


def test_from_a_trace_to_a_front_to_a_machine_that_evaluates_again(
    search_file: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = spikeloom("search", search_file, "--trace", files / "trace.npz", "--export", 1)
    assert run.code == 0, run.complaint
    assert "3 trials of 9 points, 3 computed now; 2 on the front" in run.out
    assert "wrote runs/search-rows/results.jsonl" in run.out
    (design,) = (tmp_path / "runs" / "search-rows" / "designs").iterdir()
    assert sorted(path.name for path in design.iterdir()) == ["arch.toml", "design.json", "report.json", "trace.npz"]
    assert json.loads((design / "design.json").read_text())["id"] == design.name
    monkeypatch.chdir(design)
    again = spikeloom("eval", "trace.npz", "arch.toml", "--json", "again.json")
    assert again.code == 0 and Path("again.json").read_bytes() == Path("report.json").read_bytes()


def test_going_on_and_refusing_to(search_file: Path, files: Path) -> None:
    words = ("search", search_file, "--trace", files / "trace.npz", "--out", "study")
    assert "3 computed now" in spikeloom(*words).out
    assert "3 trials of 9 points, 0 computed now" in spikeloom(*words).out
    assert "5 trials of 9 points, 1 computed now" in spikeloom(*words, "--trials", 5).out  # one is drawn twice
    assert "holds a study already" in str(spikeloom(*words, "--new").complaint)
    assert "'settings.seed': 0 there, 7 here" in str(spikeloom(*words, "--seed", 7).complaint)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("rows.toml",), "names no spikes to search with"),
        (("none.toml",), "none.toml: no such file"),
        (("digitz",), "no such search (did you mean 'digits'?)"),
        (("rows.toml", "--trace", "none.npz"), "none.npz"),
        (("rows.toml", "--trace", "TRACE", "--export", "9"), "give 1..2 for a row of the front"),
        (("rows.toml", "--trace", "TRACE", "--workers", "2", "--cluster", "tcp://127.0.0.1:1"), "both are given"),
        (("rows.toml", "--trace", "TRACE", "--storage", "postgres"), "storage: expected a URL"),
        (("rows.toml", "--trace", "TRACE", "--figure", "."), "is a folder"),
        (("rows.toml", "--trace", "TRACE", "--out", "rows.toml"), "rows.toml: cannot be created"),
    ],
)
def test_what_cannot_be(search_file: Path, files: Path, words: tuple[str, ...], message: str) -> None:
    run = spikeloom("search", *(str(files / "trace.npz") if word == "TRACE" else word for word in words))
    assert message in str(run.complaint) and run.code == 1


def test_searching_a_machine_for_a_trace_does_not_import_torch(search_file: Path, files: Path) -> None:
    code = (
        "import sys; from spikeloom.cli import app; "
        f"app(['search', 'rows.toml', '--trace', {str(files / 'trace.npz')!r}], standalone_mode=False); "
        "assert 'torch' not in sys.modules and 'sklearn' not in sys.modules"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert (run.returncode, run.stderr) == (0, "")


def test_search_files_are_checked(search_file: Path, files: Path, tmp_path: Path) -> None:
    assert "search of 9 points for edp on a trace to be named" in spikeloom("check", search_file).out
    named = tmp_path / "named.toml"
    named.write_text(f"trace = {str(files / 'trace.npz')!r}\n{SEARCH}")
    assert "search of 9 points for edp on " in spikeloom("check", named).out
    named.write_text(SEARCH.replace("arch.rows", "arch.rosw"))
    run = spikeloom("check", named)
    assert run.code == 1 and "did you mean 'rows'" in run.err
