"""``spikeloom map``"""

from __future__ import annotations

from importlib import import_module, resources
from pathlib import Path

import pytest

from spikeloom.codesign import mapper
from spikeloom.evaluate import evaluate, load_machine, load_workload
from spikeloom.files.placement import read_placement
from tests.cli.command import spikeloom


def test_a_placement_that_eval_reads(files: Path, tmp_path: Path) -> None:
    target = tmp_path / "placement.toml"
    run = spikeloom("map", files / "trace.npz", "loihi", "--budget", 100, "--objective", "latency", "--out", target)
    assert run.code == 0, run
    assert "latency *" in run.out and "by neurons" in run.out and "mappings compared on 2 of 2 samples" in run.out
    assert f"wrote {target}" in run.err
    workload = load_workload(files / "trace.npz")
    reports = [evaluate(workload, load_machine(spec)[1]) for spec in ("loihi", f"loihi:placement={target}")]
    assert reports[1].latency_s < reports[0].latency_s
    again = spikeloom("map", files / "trace.npz", "loihi", "--budget", 100, "--objective", "latency", "--out", target)
    assert again.out == run.out
    assert spikeloom("check", target).code == 0


def test_no_line_is_wider_than_a_terminal(files: Path, tmp_path: Path) -> None:
    run = spikeloom("map", files / "trace.npz", "loihi", "--budget", 20, "--out", tmp_path / "p.toml")
    tables = run.out.split("mappings compared")[0]
    assert max(len(line) for line in tables.splitlines()) <= 80


def test_refusals(files: Path, tmp_path: Path) -> None:
    trace = files / "trace.npz"
    assert "no cores" in (spikeloom("map", trace, "spikex", "--out", tmp_path / "p.toml").complaint or "")
    assert "is read here" in (spikeloom("map", trace, "loihi", "--out", trace).complaint or "")
    tight = spikeloom("map", trace, "loihi:in_axons=3", "--budget", 20, "--out", tmp_path / "p.toml")
    assert "no mapping was found that fits" in (tight.complaint or "")
    assert not (tmp_path / "p.toml").exists()


def test_the_files_of_the_machine_are_kept(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine file, the placement and the table that it names, and a placement named behind a colon."""
    monkeypatch.chdir(tmp_path)
    trace = files / "trace.npz"
    assert spikeloom("map", trace, "loihi", "--budget", 1).code == 0
    machine, table = tmp_path / "machine.toml", tmp_path / "table.toml"
    source = resources.files("spikeloom.components") / "tables" / "loihi-sanafe.toml"
    table.write_text(source.read_text())
    machine.write_text('model = "loihi"\nplacement = "placement.toml"\ntable = "table.toml"\n')
    before = {path: path.read_text() for path in tmp_path.iterdir()}
    runs = [spikeloom("map", trace, "machine.toml")]
    runs += [spikeloom("map", trace, "machine.toml:cores=1", "--out", name) for name in ("machine.toml", "table.toml")]
    runs.append(spikeloom("map", trace, "loihi:placement=placement.toml"))
    for run in runs:
        assert run.code == 1 and "is read here and would be replaced" in (run.complaint or ""), run
    assert {path: path.read_text() for path in tmp_path.iterdir()} == before


def test_interrupted_it_writes_the_best_so_far(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*given: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(mapper, "settle", interrupted)
    monkeypatch.setattr(mapper, "options", interrupted)
    target = tmp_path / "p.toml"
    run = spikeloom("map", files / "trace.npz", "loihi", "--out", target)
    assert run.code == 130
    assert "interrupted; the best mapping so far is written" in run.err
    assert len(read_placement(target).layers) == 2


@pytest.mark.parametrize("inside", ["load", "count"])
def test_interrupted_before_any_mapping_it_writes_nothing(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: str
) -> None:
    def interrupted(*given: object, **more: object) -> None:
        raise KeyboardInterrupt

    if inside == "load":
        monkeypatch.setattr(import_module("spikeloom.evaluate"), "load_workload", interrupted)
    else:
        monkeypatch.setattr(mapper, "evaluate", interrupted)
    target = tmp_path / "p.toml"
    run = spikeloom("map", files / "trace.npz", "loihi", "--out", target)
    assert run.code == 130 and not target.exists()
    assert run.err == "error: interrupted before a mapping that fits was found; nothing is written\n"
