"""``spikeloom deploy``: tables, the comparison, what is written, going on, and one line for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from spikeloom.studies import deploy as study
from spikeloom.studies.techniques import TECHNIQUES
from tests.cli.command import Run, spikeloom

EXPERIMENT = """
data = "digits"
network = "lenet"
validation = 0.2
[network_options]
neuron = "relu"
width = 0.5
[train]
num_steps = 1
epochs = 6
learning_rate = 1e-2
batch_size = 64
"""
FEW: tuple[Any, ...] = ("--limit", 40, "--samples", 32, "--counted", 4, "--most-steps", 64, "--max-loss", 10)
KEPT = ("v0 = theta/2", "ternary weights", "early exit")


@pytest.fixture(scope="module")
def ann(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ANN from ``train``."""
    folder = tmp_path_factory.mktemp("ann")
    (folder / "digits-ann.toml").write_text(EXPERIMENT)
    assert spikeloom("train", folder / "digits-ann.toml", "--out", folder).code == 0
    return folder / "network.npz"


def words(run: Run) -> str:
    return " ".join(run.out.split())


def test_tables_and_files(ann: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "TECHNIQUES", tuple(one for one in TECHNIQUES if one.name in KEPT))
    command = ("deploy", ann, "--against", "ncs2", "--tune", 0, "--confirm", "--out", tmp_path / "out", *FEW)
    run = spikeloom(*command, "--json", tmp_path / "made" / "all.json")
    assert run.code == 0, run.complaint
    said = words(run)
    for part in ("plain", "fewest steps", *KEPT, "together", "One inference on loihi", "Against ncs2", "whole boards:"):
        assert part in said
    assert "times less power" in said and "arXiv 2210.05006" in said
    assert "fixed overhead 1.86 ms" in said and "caution: ncs2: 1.86 ms of " in said
    assert "caution: loihi: counted events explain 1.6 % of the energy of a measured Loihi keyword network" in said
    assert "ternary weights *" in said and "up to twice the T of plain" in said
    content = json.loads((tmp_path / "made" / "all.json").read_text())
    assert (
        content["confirmed"]["tested"] > 40
        and f"on all {content['confirmed']['tested']} test samples together gets" in said
    )
    assert content["format"] == "spikeloom-deployment" and len(content["rows"]) == 5
    assert spikeloom(*command).out == run.out  # from the kept rows, to the letter
    again = spikeloom(
        "eval", tmp_path / "out" / "trace.npz", tmp_path / "out" / "machine.toml", "--json", tmp_path / "r.json"
    )
    assert again.code == 0
    total = json.loads((tmp_path / "r.json").read_text())["machines"][0]["total"]["per_inference"]
    assert total["energy_j"] == content["written"]["energy_j"]
    assert total["latency_s"] == content["written"]["latency_s"]
    named = said.split("together: ")[1].split(", at its smallest T")[0].split(", ")
    assert named == content["techniques"] and set(named) <= set(KEPT)
    assert ("together, no exit" in said) == ("early exit" in named) == (content["no_exit"] is not None)
    assert f"on {content['held_samples']} held-out samples" in said and "placement.toml" in said


def test_nothing_that_is_read_is_replaced(ann: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found out before the work, as is what cannot be written."""

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("worked")

    monkeypatch.setattr(study, "splits", never)
    own, out = ann.with_name("digits-ann.toml"), tmp_path / "out"
    out.mkdir()
    machine = out / "machine.toml"
    machine.write_text('model = "loihi"\nplacement = "placement.toml"\n')
    (out / "placement.toml").write_text('[[place]]\nlayer = "fc1"\ntile = 0\ncore = 0\nneurons = [0, 6]\n')
    before = {path: path.read_bytes() for path in (ann, own, machine)}
    replaced = "is read here and would be replaced"
    itself = "the study itself writes there; name another file with --json"
    (tmp_path / "file").write_text("")
    (tmp_path / "odd" / "trace.npz").mkdir(parents=True)
    for words, complaint in (
        (("--out", ann.parent), replaced),
        (("--json", ann, "--out", tmp_path / "new"), replaced),
        (("--json", own, "--experiment", own, "--out", tmp_path / "new"), replaced),
        (("--machine", machine, "--out", out), replaced),
        (("--machine", machine, "--json", out / "placement.toml", "--out", tmp_path / "new"), replaced),
        (("--against", machine, "--json", machine, "--out", tmp_path / "new"), replaced),
        (("--json", tmp_path, "--out", tmp_path / "new"), "is a folder, expected a file to write"),
        (("--json", tmp_path / "file" / "a.json"), "cannot be written"),
        (("--json", tmp_path / "new" / "deployment.json", "--out", tmp_path / "new"), itself),
        (("--json", tmp_path / "new", "--out", tmp_path / "new"), itself),
        (("--json", tmp_path / "new" / "rows" / "a.json", "--out", tmp_path / "new"), itself),
        (("--out", tmp_path / "odd"), "is a folder, expected a file to write"),
    ):
        assert complaint in str(spikeloom("deploy", ann, *FEW, *words).complaint), words
    assert before == {path: path.read_bytes() for path in before}


def test_what_is_wrong_is_said_in_one_line(ann: Path, tmp_path: Path) -> None:
    assert "no such machine" in str(spikeloom("deploy", ann, "--machine", "lohi").complaint)
    assert "no such machine" in str(spikeloom("deploy", ann, "--against", "ncs3").complaint)
    assert "expected 0 or more percentage points" in str(spikeloom("deploy", ann, "--max-loss", -1).complaint)
    refused = spikeloom("deploy", ann, "--tune", 0, "--max-loss", 0, "--most-steps", 1, "--out", tmp_path, "--no-alone")
    assert "allow more with --max-loss or --most-steps" in str(refused.complaint)
