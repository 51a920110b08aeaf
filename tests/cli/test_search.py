"""``spikeloom search``"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from spikeloom.files.results import read_reports, read_trials
from spikeloom.units import format_si
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
    assert "3 trials of 9 points, 3 computed now, 6 never tried; 2 on the front" in run.out
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
    assert "5 trials of 9 points, 2 computed now, 4 never" in spikeloom(*words, "--trials", 5).out
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
    assert run.returncode == 0, run.stderr


def test_notes_are_those_of_eval(search_file: Path, tmp_path: Path) -> None:
    """A drawn workload says so, and so does what a bill leaves out; what `eval` prices otherwise stands beside the design."""
    (tmp_path / "drawn.toml").write_text(
        'num_steps = 4\n[[layer]]\nname = "fc"\nkind = "linear"\nin_shape = [64]\nout_channels = 16\nfiring_rate = 0.1\n'
    )
    run = spikeloom("search", search_file, "--trace", "drawn.toml", "--export", 1)
    told = spikeloom("eval", "drawn.toml", "spikex")
    notes = [line for line in told.err.splitlines() if line.startswith("note: ")]
    assert any("synthetic trace" in note for note in notes)
    assert any("`search` looks for the best window" in note for note in notes)
    for note in notes:
        assert note.split(": ", 1)[1] in run.err or "`search` looks" in note
    assert "`eval` prices a machine at the mapping of its fields" in run.err
    (design,) = (tmp_path / "runs" / "search-rows" / "designs").iterdir()
    exported = json.loads((design / "design.json").read_text())
    rows, width = (exported["params"][f"arch.{key}"] for key in ("rows", "tag_width"))
    spikeloom("eval", "drawn.toml", f"spikex:rows={rows},tag_width={width}", "--json", "plain.json")
    plain = read_reports(Path("plain.json"))[0].edp_js
    assert exported["plain"]["edp_js"] == plain
    assert f"at the mapping of its fields {format_si(plain, 'Js')} (" in run.out


def test_nothing_feasible_names_the_limit_and_the_nearest(search_file: Path, files: Path) -> None:
    search_file.write_text(SEARCH + "[constraints]\narea_mm2 = { at_most = 0.00013 }\n")
    run = spikeloom("search", search_file, "--trace", files / "trace.npz", "--trials", 9)
    trials = read_trials(Path("runs/search-rows/results.jsonl")).trials
    least = min(trial.report.area_m2 for trial in trials if trial.report and trial.report.area_m2)
    assert run.code == 1 and "0 on the front" in run.out
    assert run.err == f"error: no design has area of at most 0.00013 mm2; the nearest has {least * 1e6:.3g} mm2\n"


def test_search_files_are_checked(search_file: Path, files: Path, tmp_path: Path) -> None:
    assert "search of 9 points for edp on a trace to be named" in spikeloom("check", search_file).out
    named = tmp_path / "named.toml"
    named.write_text(f"trace = {str(files / 'trace.npz')!r}\n{SEARCH}")
    assert "search of 9 points for edp on " in spikeloom("check", named).out
    named.write_text(SEARCH.replace("arch.rows", "arch.rosw"))
    run = spikeloom("check", named)
    assert run.code == 1 and "did you mean 'rows'" in run.err
