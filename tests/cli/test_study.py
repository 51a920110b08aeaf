"""``spikeloom ann`` and ``spikeloom study`` on files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spikeloom.files.store import read_trace
from tests.cli.command import spikeloom


def test_a_trace_gets_its_ann_and_is_compared_with_it(files: Path, tmp_path: Path) -> None:
    run = spikeloom("ann", files / "trace.npz", "-o", tmp_path / "ann.npz")
    assert run.code == 0 and "T = 6: activations of 3 bits" in run.out
    assert read_trace(tmp_path / "ann.npz")[1].num_steps == 1
    run = spikeloom(
        "study", "truly-efficient", files / "trace.npz", "--machines", "spikex", "--machines", "sata",
        "--ann", tmp_path / "ann.npz", "--json", tmp_path / "study.json", "--threads", 1,
    )  # fmt: skip
    assert run.code == 0 and "Where the energy of the SNN goes" in run.out
    content = json.loads((tmp_path / "study.json").read_text())
    assert [one["label"] for one in content["machines"]] == ["spikex", "sata"]
    run = spikeloom(
        "study", "truly-efficient", files / "trace.npz", "--machines", "spikex", "--json", "-", "--limit", 1
    )
    assert json.loads(run.out)["num_samples"] == 1


def test_a_network_is_recorded_first_and_may_stop_early(files: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    run = spikeloom("ann", files / "network.npz", "--out", tmp_path / "ann.npz", "--limit", 3)
    assert run.code == 0 and "3 samples, T = 3" in run.out
    run = spikeloom(
        "study", "truly-efficient", files / "network.npz", "--machines", "spikex", "--limit", 2, "--json", "-"
    )
    content = json.loads(run.out)
    whole, early = content["exits"]["accuracy"]
    assert early >= whole - 0.02 and 1 <= content["exits"]["mean"] <= 3
    saved = {each["remedy"]: each["energy"] for each in content["machines"][0]["savings"]}
    assert saved["early exit"] is not None


def test_what_cannot_be_asked_is_said_in_a_line(files: Path, tmp_path: Path) -> None:
    trace = files / "trace.npz"
    run = spikeloom("study", "truly-efficient", trace, "--experiment", "digits")
    assert run.complaint is not None and "holds its spikes already" in run.complaint
    run = spikeloom("study", "truly-efficient", trace, "--machines", "spikx")
    assert run.complaint is not None and "spikex" in run.complaint
    run = spikeloom("ann", trace, "-o", trace)
    assert run.complaint is not None and "would be replaced" in run.complaint
    run = spikeloom("ann", trace, "-o", tmp_path / "x.npz", "--steps", 4)
    assert run.complaint is not None and "--steps 4 is for an ANN" in run.complaint
    assert not (tmp_path / "x.npz").exists()
    run = spikeloom("ann", files / "workload.toml", "-o", tmp_path / "x.npz")
    assert run.complaint is not None
