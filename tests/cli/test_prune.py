"""``spikeloom prune``: from a network file to a smaller one, with what that changed."""

from __future__ import annotations

import importlib
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from spikeloom.cli.prune import _storage_table
from spikeloom.core.network import Network
from spikeloom.core.nodes import Synapse
from spikeloom.files.network import read_network, write_network
from spikeloom.studies import prune as study
from spikeloom.studies.prune import StoredLayer
from tests.cli.command import spikeloom
from tests.cli.conftest import small_network


@pytest.fixture
def network(files: Path, tmp_path: Path) -> Path:
    path = tmp_path / "network.npz"
    path.write_bytes((files / "network.npz").read_bytes())
    return path


def test_a_table_before_and_after_and_the_code_that_stores_each_layer(network: Path) -> None:
    run = spikeloom("prune", network, "--sparsity", 0.8, "--limit", 30)
    assert run.code == 0
    words = " ".join(run.out.split())
    assert "before float32 3" in words and "after float32 3" in words
    assert "0.0 %" in words and "79.9 %" in words
    assert "plain bitmask run length" in words
    (row,) = (line.split() for line in run.out.splitlines() if line.split()[:2] == ["fc", "720"])
    assert row[-2:] == ["run", "length"]  # 5.3 kbit as bitmask, 144 entries of 36 bit and few of padding
    assert f"wrote {network.with_name('pruned.npz')}" in run.out.replace("\n", "")
    pruned = read_network(network.with_name("pruned.npz"))
    assert study.zero_fraction(pruned) == 590 / 738
    assert pruned.metadata["parent"] == read_network(network).id
    assert all(len(line) <= 80 for line in run.out.splitlines()[:-1])


def test_channels_leave_and_those_that_stay_are_explained(network: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "c.npz"
    run = spikeloom("prune", network, "--sparsity", 0.5, "--channels", "--criterion", "l2", "--out", out, "--limit", 9)
    assert run.code == 0
    assert "fc keeps its channels: the network's output" in run.out
    assert read_network(out).shapes()["conv"] == (1, 6, 6)
    run = spikeloom("record", out, "--limit", 3)
    assert run.code == 0
    assert spikeloom("eval", out.with_name("trace.npz"), "spikex").code == 0


def test_the_scope_and_layers_to_keep(network: Path) -> None:
    words = ("--sparsity", 0.5, "--scope", "layer", "--keep", "conv", "--limit", 9)
    assert spikeloom("prune", network, *words).code == 0
    nodes = read_network(network.with_name("pruned.npz")).nodes
    conv, fc = nodes["conv"], nodes["fc"]
    assert isinstance(conv, Synapse) and conv.weight is not None and conv.weight.all()
    assert isinstance(fc, Synapse) and fc.weight is not None and (fc.weight == 0).sum() == 360


def test_an_interrupted_fine_tuning_goes_on_at_the_stage_it_reached(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("prune", network, "--sparsity", 0.8, "--stages", 2, "--fine-tune", 1, "--limit", 9, "--out")
    whole, halves = tmp_path / "whole.npz", tmp_path / "halves.npz"
    run = spikeloom(*words, whole)
    assert run.code == 0 and "stage 1: 70.0% pruned" in run.out and "stage 2: 80.0% pruned" in run.out
    training = importlib.import_module("spikeloom.snn.train")  # its package has a function of that name
    real, calls = training.train, []

    def second_time(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(training, "train", second_time)
        stopped = spikeloom(*words, halves)
    assert stopped.code == 130 and not halves.exists()
    assert [path.name for path in tmp_path.joinpath("halves.npz.stages").iterdir()] == ["stage-1.npz"]
    calls.clear()
    with monkeypatch.context() as patch:
        patch.setattr(training, "train", second_time)
        assert spikeloom(*words, halves).code == 0
    assert len(calls) == 1
    assert read_network(halves).id == read_network(whole).id
    assert not halves.with_name("halves.npz.stages").exists()


def test_a_network_of_unknown_data_is_pruned_without_accuracy(network: Path) -> None:
    pruned = small_network()
    write_network(network, type(pruned)(pruned.nodes, pruned.edges, "tiny"))
    run = spikeloom("prune", network, "--sparsity", 0.5)
    assert run.code == 0 and "no accuracy" in run.out
    run = spikeloom("prune", network, "--sparsity", 0.5, "--fine-tune", 1)
    assert run.code == 1 and run.complaint is not None and "--experiment" in run.complaint
    assert spikeloom("prune", network, "--sparsity", 0.5, "--limit", 9, "--experiment", "digits").code == 0


def renamed(network: Network) -> Network:
    """The same network, its nodes named as a console would read colours."""
    names = {"conv": "[red]conv", "if": "[/if]", "fc": "[bold]fc"}
    nodes = {names.get(name, name): node for name, node in network.nodes.items()}
    edges = tuple((names.get(src, src), names.get(dst, dst)) for src, dst in network.edges)
    return replace(network, nodes=nodes, edges=edges)


def test_names_are_printed_as_they_are(network: Path) -> None:
    write_network(network, renamed(small_network()))
    run = spikeloom("prune", network, "--sparsity", 0.5, "--channels", "--limit", 3)
    assert run.code == 0
    assert "[bold]fc keeps its channels" in run.out
    first = [line.split()[0] for line in run.out.splitlines() if line.strip()]
    assert "[red]conv" in first and first.count("[bold]fc") == 2


@pytest.mark.parametrize("out", [".", "/", "", "trace", "network.npz/p.npz"])
def test_a_target_that_cannot_be_written_is_found_out_before_the_work(
    network: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    monkeypatch.setattr(study, "Bench", lambda *_, **__: pytest.fail("data were read first"))
    monkeypatch.chdir(network.parent)
    Path("trace").mkdir()
    run = spikeloom("prune", network, "--sparsity", 0.5, "--out", out)
    assert run.code == 1 and run.complaint is not None
    assert "is a folder" in run.complaint or "cannot be written" in run.complaint
    assert {path.name for path in network.parent.iterdir()} == {"network.npz", "trace"}


def test_stages_need_epochs(network: Path) -> None:
    run = spikeloom("prune", network, "--sparsity", 0.5, "--stages", 3)
    assert run.code == 1 and run.complaint is not None and "--fine-tune" in run.complaint
    assert not network.with_name("pruned.npz").exists()


def test_the_table_of_a_large_network_keeps_its_layers_in_80_columns() -> None:
    layers = [StoredLayer("features_of_block3_conv1", 15_000_000, 1, 480_000_000, 495_000_000, 540_000_000)]
    layers.append(StoredLayer("fc", 1000, 0, 8_388_607, 8_388_608, 1))
    console = Console(width=80, file=io.StringIO())
    console.print(_storage_table(layers))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert all(len(line) <= 80 for line in lines)
    rows = [" ".join(line.split()) for line in lines]
    (row,) = (row for row in rows if "15000000 0.0% 57.22 MiB 59.01 MiB 64.37 MiB plain" in row)
    assert row.startswith("features_of_")
    assert "fc 1000 0.0% 1024 KiB 1 MiB 0.000 KiB run length" in rows


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("none.npz", "--sparsity", "0.5"), 1),
        (("trace.npz", "--sparsity", "0.5"), 1),
        (("network.npz", "--sparsity", "0.5", "--out", "network.npz"), 1),
        (("network.npz", "--sparsity", "0.5", "--out", "trace.npz/x.npz", "--limit", "2"), 1),
        (("network.npz", "--sparsity", "0.5", "--keep", "conv9", "--limit", "2"), 1),
        (("network.npz", "--sparsity", "0.5", "--experiment", "digit"), 1),
        (("network.npz", "--sparsity", "0.5", "--learning-rate", "-1", "--fine-tune", "1"), 1),
        (("network.npz",), 2),
        (("network.npz", "--sparsity", "1.5"), 2),
        (("network.npz", "--sparsity", "nan"), 2),
        (("network.npz", "--sparsity", "0.5", "--stages", "0"), 2),
        (("network.npz", "--sparsity", "0.5", "--scope", "row"), 2),
    ],
)
def test_bad_input_is_one_line_and_bad_usage_is_code_2(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], code: int
) -> None:
    for name in ("network.npz", "trace.npz"):
        (tmp_path / name).write_bytes((files / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    run = spikeloom("prune", *words)
    assert (run.code, run.out) == (code, "")
    assert (run.complaint is None) == (code == 2)
    assert {path.name for path in tmp_path.iterdir()} == {"network.npz", "trace.npz"}


def test_what_is_left_is_said_of_every_layer_and_none_is_emptied_unasked(network: Path) -> None:
    run = spikeloom("prune", network, "--sparsity", 0.8, "--limit", 9)
    assert run.code == 0 and "weights left: conv " in run.out and " of 18, fc " in run.out
    out = network.with_name("none.npz")
    run = spikeloom("prune", network, "--sparsity", 1, "--limit", 9, "--out", out)
    assert run.code == 1 and "every weight of layer 'conv', 'fc' goes" in run.complaint and not out.exists()
    words = ("--allow-empty", "conv", "--allow-empty", "fc")
    run = spikeloom("prune", network, "--sparsity", 1, "--limit", 9, "--out", out, *words)
    assert run.code == 0 and "weights left: conv 0 of 18, fc 0 of 720" in run.out
