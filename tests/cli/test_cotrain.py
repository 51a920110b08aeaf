"""``spikeloom cotrain``: from an experiment file to networks, machines, a table and a figure."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.command import spikeloom

FILE = """
data = "moving-bar"
network = "mlp"
validation = 0.25
[data_options]
num_samples = 24
[network_options]
width = 0.05
batch_norm = false
[train]
num_steps = 4
encoding = "events"
epochs = 1
[cotrain]
betas = [0.5, 1.0, 2.0]
epochs = 1
samples = 4
windows = [1, 4]
dispatches = ["agile"]
orders = ["raster"]
merges = [1]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "bar.toml"
    path.write_text(FILE, encoding="utf-8")
    return path


def test_a_table_beside_baselines_and_the_quality_of_the_tables(file: Path, tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    out, figure = tmp_path / "sweep", tmp_path / "figure.html"
    run = spikeloom("cotrain", file, "--out", out, "--figure", figure)
    assert run.code == 0
    words = " ".join(run.out.split())
    assert "note: step cost: " in run.err
    assert "Hardware-aware training, 6 held-out samples of moving-bar" in words
    assert "ptb L=" in words and "snn-dense L=" in words and "spikex mapped" in words
    assert words.count("tables drawn") == 2
    assert "beta=1" in figure.read_text(encoding="utf-8")
    assert all(len(line) <= 80 for line in run.out.splitlines() if not line.startswith("wrote"))
    for beta in ("0.5", "1", "2"):
        run = spikeloom("check", out / f"beta-{beta}" / "machine.toml", out / f"beta-{beta}" / "network.npz")
        assert run.code == 0
    run = spikeloom("check", file)
    assert "co-training of mlp on moving-bar, 4 steps, beta 0.5, 1, 2" in " ".join(run.out.split())
    run = spikeloom("cotrain", file, "--out", out, "--test")
    assert run.code == 0
    assert "24 test samples" in " ".join(run.out.split())


def test_what_cannot_be_is_one_line(file: Path, tmp_path: Path) -> None:
    assert "see docs/guide/cotrain.md" in str(spikeloom("cotrain", _plain(tmp_path)).complaint)
    run = spikeloom("cotrain", file, "--figure", tmp_path)
    assert run.complaint is not None and "is a folder" in run.complaint
    assert not (tmp_path / "sweep").exists()
    missing = spikeloom("cotrain", tmp_path / "none.toml")
    assert missing.complaint is not None and "none.toml" in missing.complaint


def _plain(folder: Path) -> Path:
    path = folder / "plain.toml"
    path.write_text(FILE.split("[cotrain]")[0], encoding="utf-8")
    return path
