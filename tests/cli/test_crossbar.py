"""``spikeloom crossbar``: from a network file to a table, a JSON file and the network of one chip."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spikeloom.files.network import read_network
from tests.cli.command import spikeloom

CHIPS = "size = 32\nvariation = 0.1\nrow_wire_ohm = 2.0\ncolumn_wire_ohm = 2.0\nadc_bits = 6\n"


@pytest.fixture
def network(files: Path, tmp_path: Path) -> Path:
    """A network file in a folder of its own, on digits."""
    path = tmp_path / "network.npz"
    path.write_bytes((files / "network.npz").read_bytes())
    return path


@pytest.fixture
def chips(tmp_path: Path) -> Path:
    path = tmp_path / "chips.toml"
    path.write_text(CHIPS)
    return path


def test_from_a_file_to_a_table_and_files(network: Path, chips: Path, tmp_path: Path) -> None:
    figures, one = tmp_path / "figures.json", tmp_path / "chip.npz"
    words = ("--config", chips, "--limit", 20, "--seeds", 2, "--calibration", 10, "--json", figures, "-o", one)
    run = spikeloom("crossbar", network, *words)
    assert run.code == 0
    said = " ".join(run.out.split())
    for name in ("variation", "wire resistance", "ADC", "all together", "plain adapted s"):
        assert name in said
    assert "off-state leakage" not in said and "tuned" not in said
    assert f"wrote {one}" in run.out and f"wrote {figures}" in run.out
    content = json.loads(figures.read_text())
    assert [row["size"] for row in content["rows"]] == [32] * 4
    chip = read_network(one)
    assert chip.metadata["crossbar"]["crossbars"]["variation"] == 0.1
    assert spikeloom("record", one, "--limit", 4, "--out", tmp_path / "trace.npz").code == 0


def test_json_on_standard_output_and_sizes(network: Path) -> None:
    words = ("--size", 8, "--size", 16, "--limit", 8, "--seeds", 1, "--calibration", 4, "--json", "-")
    run = spikeloom("crossbar", network, *words)
    assert run.code == 0
    rows = json.loads(run.out)["rows"]
    assert [row["size"] for row in rows] == [8] * 6 + [16] * 6


def test_what_is_wrong_is_one_line(network: Path, chips: Path, tmp_path: Path) -> None:
    chips.write_text("sice = 32\n")
    for words, said in (
        (("--config", chips), "did you mean 'size'?"),
        (("--config", tmp_path / "none.toml"), "no such file"),
        (("--size", 0), "size must be 1..4096, got 0"),
        (("-o", network), "is read here and would be replaced"),
        (("--experiment", "mnits"), "did you mean 'mnist'?"),
    ):
        run = spikeloom("crossbar", network, *words)
        assert run.code == 1 and said in str(run.complaint), words
