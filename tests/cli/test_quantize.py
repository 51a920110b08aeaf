"""``spikeloom quantize``: from a network file to one of integers, with what changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spikeloom.core.network import Network
from spikeloom.files.network import read_network, write_network
from tests.cli.command import spikeloom
from tests.cli.conftest import small_network


@pytest.fixture
def network(files: Path, tmp_path: Path) -> Path:
    """A network file in a folder of its own, on digits."""
    path = tmp_path / "network.npz"
    path.write_bytes((files / "network.npz").read_bytes())
    return path


def test_from_a_file_to_integers_to_a_trace_to_a_bill(network: Path) -> None:
    run = spikeloom("quantize", network, "--bits", 5, "--limit", 10, "--membrane-bits", 20, "--overflow", "wrap")
    assert run.code == 0
    said = " ".join(run.out.split())
    assert "float float32" in said and "5 bit integer" in said
    assert "5 bit: membranes of 20 bits, none overflows" in said
    assert "note: 'fc': one step for the whole tensor" in said
    target = network.with_name("quantized.npz")
    assert f"wrote {target}" in run.out.replace("\n", "")
    integers = read_network(target)
    told = integers.metadata["quantized"]
    assert told["parent"] == read_network(network).id
    assert (told["widths"]["weight_bits"], told["widths"]["overflow"]) == (5, "wrap")
    trace = network.with_name("trace.npz")
    assert spikeloom("record", target, "--limit", 4, "--weights").code == 0
    assert spikeloom("check", trace).code == 0
    assert spikeloom("eval", trace, "spikex").code == 0


def test_the_same_words_write_the_same_integers(network: Path, tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        words = ("--ternary", "--per", "tensor", "--limit", 2, "--out", tmp_path / name)
        assert spikeloom("quantize", network, *words).code == 0
    one, other = read_network(tmp_path / "a.npz"), read_network(tmp_path / "b.npz")
    assert one.id == other.id
    conv: Any = one.nodes["conv"]
    assert set(np.unique(conv.weight).tolist()) <= {-1, 0, 1}


def test_the_table_writes_nothing(network: Path) -> None:
    run = spikeloom("quantize", network, "--table", "--limit", 5)
    assert run.code == 0
    said = " ".join(run.out.split())
    for name in ("float", "8 bit", "6 bit", "4 bit", "3 bit", "2 bit"):
        assert f"{name} " in said
    assert "wrote" not in said
    assert [path.name for path in network.parent.iterdir()] == ["network.npz"]


def test_fine_tuning_from_the_command_line(files: Path, tmp_path: Path) -> None:
    assert spikeloom("train", files / "experiment.toml", "--out", tmp_path).code == 0
    words = ("--bits", 3, "--fine-tune", 1, "--learning-rate", "1e-3")
    run = spikeloom("quantize", tmp_path / "network.npz", *words)
    assert run.code == 0
    assert "3 bit*" in " ".join(run.out.split()) and "3 bit " in run.out
    integers = read_network(tmp_path / "quantized.npz")
    assert integers.metadata["quantized"]["fine_tuning"] == {"epochs": 1, "learning_rate": 1e-3}
    assert 0 <= integers.metadata["test_accuracy"] <= 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["network.npz", "quantized.npz"]


def test_a_network_of_unknown_origin_is_quantized_but_not_measured(network: Path) -> None:
    write_network(network, replace(small_network(), metadata={}))
    run = spikeloom("quantize", network)
    assert run.code == 0
    assert "no accuracy" in run.out and network.with_name("quantized.npz").exists()
    assert spikeloom("quantize", network, "--experiment", "digits", "--limit", 3).code == 0


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("none.npz",), 1),
        (("trace.npz",), 1),
        (("network.npz", "--experiment", "digit"), 1),
        (("network.npz", "--membrane-bits", "4", "--limit", "2", "--out", "never.npz"), 1),
        (("network.npz", "--out", "network.npz"), 1),
        ((), 2),
        (("network.npz", "--bits", "9"), 2),
        (("network.npz", "--per", "row"), 2),
        (("network.npz", "--overflow", "trap"), 2),
    ],
)
def test_bad_input_is_one_line_and_bad_usage_is_code_2(
    files: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], code: int
) -> None:
    monkeypatch.chdir(files)
    run = spikeloom("quantize", *words)
    assert (run.code, run.out) == (code, "")
    assert (run.complaint is None) == (code == 2)
    assert not (files / "quantized.npz").exists() and not (files / "never.npz").exists()


def renamed(network: Network) -> Network:
    """The same network, its nodes named as a console would read colours."""
    names = {"conv": "[red]conv", "if": "[/if]", "fc": "[bold]fc"}
    nodes = {names.get(name, name): node for name, node in network.nodes.items()}
    edges = tuple((names.get(src, src), names.get(dst, dst)) for src, dst in network.edges)
    return replace(network, nodes=nodes, edges=edges)


def test_names_are_printed_as_they_are(network: Path) -> None:
    write_network(network, renamed(small_network()))
    run = spikeloom("quantize", network, "--limit", 5, "--membrane-bits", 15)
    assert run.code == 0
    said = " ".join(run.out.split())
    assert "saturate per sample: [/if] " in said and "note: '[bold]fc': one step" in said


@pytest.mark.parametrize("out", [".", "/", "", "network.npz/q.npz", "a" * 300])
@pytest.mark.parametrize("more", [(), ("--fine-tune", "1")])
def test_a_target_that_cannot_be_written_is_found_out_before_the_work(
    network: Path, monkeypatch: pytest.MonkeyPatch, out: str, more: tuple[str, ...]
) -> None:
    monkeypatch.setattr("spikeloom.studies.quantize.samples", lambda *_: pytest.fail("data were read first"))
    monkeypatch.chdir(network.parent)
    run = spikeloom("quantize", network, "--out", out, *more)
    assert run.code == 1 and run.complaint is not None
    assert "is a folder" in run.complaint or "cannot be written" in run.complaint
    assert [path.name for path in network.parent.iterdir()] == ["network.npz"]


def test_a_table_and_a_file_are_not_asked_for_together(network: Path) -> None:
    run = spikeloom("quantize", network, "--table", "--out", "q.npz", "--limit", 2)
    assert run.code == 1 and run.complaint == "--table writes no network, but --out names q.npz; give one of the two"


def test_integers_are_not_quantized_again(network: Path) -> None:
    assert spikeloom("quantize", network, "--limit", 2).code == 0
    run = spikeloom("quantize", network.with_name("quantized.npz"), "--out", network.with_name("twice.npz"))
    assert run.code == 1
    assert run.complaint is not None and "integers already" in run.complaint
