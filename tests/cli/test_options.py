"""One rule for all verbs: an option that does nothing in this call is refused, a number outside its range at the door."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from spikeloom.files.network import write_network
from tests.cli.command import spikeloom
from tests.cli.conftest import small_network

SEARCH = 'machine = "spikex"\n[search]\nobjectives = ["edp"]\nsampler = "exhaustive"\n[space]\narch.adders = [1, 2]\n'


@pytest.fixture
def folder(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own with good files, one of them a network that does not say what it was trained on."""
    pytest.importorskip("torch")
    for file in files.iterdir():
        shutil.copy(file, tmp_path)
    write_network(tmp_path / "untold.npz", replace(small_network(), metadata={}))
    (tmp_path / "search.toml").write_text(SEARCH)
    (tmp_path / "chips.toml").write_text("size = 32\nadc_bits = 6\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


IDLE = [
    ("eval trace.npz spikex", "--rate 0.1"),
    ("eval trace.npz spikex", "--steps 4"),
    ("eval workload.toml spikex", "--steps 4"),
    ("eval trace.npz spikex --json -", "--by layer"),
    ("show table cacti32", "--toml"),
    ("show hardware", "--toml"),
    ("show experiment digits", "--toml"),
    ("import state.pth --network d.toml", "--discretisation euler"),
    ("import state.pth --network d.toml", "--if-gain auto"),
    ("import graph.nir", "--data-dir ."),
    ("convert network.npz", "--percentile 99.9"),
    ("convert network.npz --method max", "--percentile 99.9"),
    ("convert network.npz", "--levels 8"),
    ("convert network.npz", "--learning-rate 1e-3"),
    ("convert network.npz", "--ann-frames 4"),
    ("ann network.npz", "--method max"),
    ("ann network.npz", "--samples 4"),
    ("ann trace.npz", "--percentile 99"),
    ("ann trace.npz", "--data-dir ."),
    ("study truly-efficient trace.npz", "--data-dir ."),
    ("quantize network.npz", "--learning-rate 1e-3"),
    ("quantize network.npz", "--fresh"),
    ("quantize network.npz --ternary", "--bits 4"),
    ("quantize network.npz --ternary", "--scale max"),
    ("quantize network.npz --table", "--bits 4"),
    ("quantize network.npz --table", "--ternary"),
    ("quantize untold.npz", "--limit 4"),
    ("prune network.npz --sparsity 0.5", "--learning-rate 1e-3"),
    ("prune network.npz --sparsity 0.5", "--fresh"),
    ("prune network.npz --sparsity 0.5", "--criterion l2"),
    ("prune network.npz --sparsity 0.5 --channels", "--scope layer"),
    ("prune network.npz --sparsity 0.5 --channels", "--allow-empty conv1"),
    ("prune untold.npz --sparsity 0.5", "--data-dir ."),
    ("crossbar network.npz", "--learning-rate 1e-3"),
    ("crossbar network.npz", "--tuning-samples 8"),
    ("crossbar network.npz --config chips.toml", "--seeds 2"),
    ("search search.toml --trace trace.npz", "--data-dir ."),
]


@pytest.mark.parametrize(("words", "option"), IDLE)
def test_an_option_without_effect_is_refused(folder: Path, words: str, option: str) -> None:
    before = sorted(folder.rglob("*"))
    run = spikeloom(*words.split(), *option.split())
    assert run.code == 1 and str(run.complaint).startswith(f"{option.split()[0]}: has no effect "), run.complaint
    assert str(run.complaint).endswith("; leave it out") and sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("convert network.npz --method percentile --percentile 0.999", "it is in percent, write 99.9"),
        ("convert network.npz --method percentile --percentile 100.5", "percentile must be above 0 and at most 100"),
        ("convert network.npz --exit-margin -1", "exit_margin must be positive and finite, got -1.0"),
        ("convert network.npz --qcfs 1 --learning-rate nan", "learning_rate must be positive and finite, got nan"),
        ("quantize network.npz --fine-tune 1 --learning-rate 0", "learning_rate must be positive and finite, got 0.0"),
        ("prune network.npz --sparsity 0.5 --fine-tune 1 --learning-rate -1", "learning_rate must be positive"),
        ("crossbar network.npz --fine-tune 1 --learning-rate inf", "learning_rate must be positive and finite"),
        ("eval topology.csv spikex --rate 1.5 --steps 4", "expected a rate of 0..1"),
    ],
)
def test_a_number_outside_its_range_is_refused_before_the_work(folder: Path, words: str, message: str) -> None:
    before = sorted(folder.rglob("*"))
    run = spikeloom(*words.split())
    assert run.code == 1 and message in str(run.complaint) and sorted(folder.rglob("*")) == before


def test_options_with_effect_stay(folder: Path) -> None:
    for words in (
        "eval topology.csv spikex --rate 0.1 --steps 4",
        "show search array --toml",
        "show hardware spikex --toml",
        "quantize network.npz --limit 4 --bits 4",
        "prune network.npz --sparsity 0.5 --channels --criterion l2 --limit 4",
        "prune network.npz --sparsity 0.5 --scope layer --limit 4",
        "search search.toml --trace trace.npz --seed 3",
    ):
        run = spikeloom(*words.split())
        assert run.code == 0, (words, run.complaint)
