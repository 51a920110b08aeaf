"""``spikeloom convert``: from a trained ANN to an SNN, its tables, and one line for everything that is wrong."""

from __future__ import annotations

import importlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spikeloom.core.network import Network, chain
from spikeloom.core.nodes import IF, Conv2d, Flatten, Input, Linear, MaxPool2d, Output, ReLU
from spikeloom.files.network import read_network, write_network
from spikeloom.snn import train as training
from tests.cli.command import Run, spikeloom

EXPERIMENT = """
data = "digits"
network = "mlp"
[network_options]
neuron = "relu"
width = 0.08
[train]
num_steps = 1
epochs = 3
learning_rate = 1e-2
batch_size = 64
"""


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ANN from ``train``; tests do not write beside it."""
    folder = tmp_path_factory.mktemp("ann")
    (folder / "digits-ann.toml").write_text(EXPERIMENT)
    assert spikeloom("train", folder / "digits-ann.toml", "--out", folder).code == 0
    return folder / "network.npz"


@pytest.fixture
def ann(trained: Path, tmp_path: Path) -> Path:
    """A copy in a folder of its own."""
    path = tmp_path / "network.npz"
    path.write_bytes(trained.read_bytes())
    return path


FEW: tuple[Any, ...] = ("--limit", 40, "--samples", 32)


def words(run: Run) -> str:
    return " ".join(run.out.split())


def test_from_an_ann_to_an_snn_to_a_trace_to_a_bill(ann: Path) -> None:
    run = spikeloom("convert", ann, "--steps", "2,8", *FEW)
    assert run.code == 0, run.complaint
    said = words(run)
    accuracy = re.search(r"Accuracy against T \(ANN (\d+\.\d\d) %\)", said)
    assert accuracy and float(accuracy[1]) > 80
    assert "T right loss spikes synops energy latency EDP" in said and "one inference on spikex" in said
    assert "layer clipping quantisation inherited unevenness total" in said and "kept T = 8" in said
    assert "largest error: layer neuron_fc1" in said
    target = ann.with_name("snn.npz")
    assert f"wrote {target}" in run.out.replace("\n", "")
    snn = read_network(target)
    assert any(isinstance(node, IF) for node in snn.nodes.values())
    assert snn.metadata["num_steps"] == 8 and snn.metadata["conversion"]["ann"]
    assert sorted(path.name for path in ann.parent.iterdir()) == ["network.npz", "snn.npz"]
    assert spikeloom("record", target, "--limit", 4, "--weights").code == 0
    assert spikeloom("check", ann.with_name("trace.npz")).code == 0
    assert spikeloom("eval", ann.with_name("trace.npz"), "spikex").code == 0
    assert spikeloom("quantize", target, "--limit", 4).code == 0


def test_the_smallest_t_within_a_loss_as_json_and_as_a_figure(ann: Path) -> None:
    pytest.importorskip("plotly", reason="plotly is not installed (extra 'figures')")
    folder = ann.parent
    files = (
        "--json",
        folder / "out" / "figures.json",
        "--figure",
        folder / "out" / "figure.html",
        "--out",
        folder / "out" / "small.npz",
    )
    run = spikeloom("convert", ann, "--steps", "1,4,16", "--max-loss", 4, "--exit-margin", 0.2, *files, *FEW)
    assert run.code == 0, run.complaint
    said = words(run)
    chosen = re.search(r"T = (\d+) with calibration '(none|bias)' is the smallest that loses at most 4.0 points", said)
    assert chosen and "early exit: " in said
    told = json.loads((folder / "out" / "figures.json").read_text())
    assert told["num_steps"] == int(chosen[1]) == read_network(folder / "out" / "small.npz").metadata["num_steps"]
    assert [point["num_steps"] for point in told["points"]] == [1, 4, 16] and told["early_exit"]["mean_steps"] <= int(
        chosen[1]
    )
    assert "Plotly" in (folder / "out" / "figure.html").read_text(encoding="utf-8")
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["figure.html", "figures.json", "small.npz"]


@pytest.mark.parametrize(
    "knobs",
    [
        ("--method", "max", "--per", "layer"),
        ("--method", "percentile", "--percentile", 99, "--calibrate", "none"),
        ("--calibrate", "weights"),
        ("--reset", "hard", "--threshold-to-input", 8),
        ("--signed", "--max-level", 3),
        ("--bias", "start"),
        ("--max-pool", "or"),
        ("--machine", "spikex:window=2"),
    ],
    ids=str,
)
def test_every_knob(ann: Path, knobs: tuple[Any, ...]) -> None:
    run = spikeloom("convert", ann, "--steps", "4", *knobs, *FEW)
    assert run.code == 0, run.complaint
    told = read_network(ann.with_name("snn.npz")).metadata["conversion"]
    names = {"--per": "by_channel", "--machine": None, "--calibrate": None, "--signed": "signed", "3": None}
    for knob, value in zip(knobs, knobs[1:], strict=False):
        key = names.get(str(knob), str(knob).lstrip("-").replace("-", "_"))
        if str(knob).startswith("--") and key is not None:
            expected = {"layer": False, "--max-level": True}.get(str(value), value)
            assert told[key] == expected


def test_the_same_words_write_the_same_network(ann: Path, tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        assert spikeloom("convert", ann, "--steps", "2", "--out", tmp_path / name, *FEW).code == 0
    assert read_network(tmp_path / "a.npz").id == read_network(tmp_path / "b.npz").id


def test_recordings_are_converted_from_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "bars.toml").write_text(
        'data = "moving-bar"\nnetwork = "mlp"\n[data_options]\nnum_samples = 60\n[network_options]\nneuron = "relu"\nwidth = 0.02\n'
        '[train]\nnum_steps = 6\nencoding = "events"\nepochs = 2\n'
    )
    assert spikeloom("train", tmp_path / "bars.toml", "--out", tmp_path).code == 0
    run = spikeloom("convert", tmp_path / "network.npz", "--steps", "3,6", "--ann-frames", 3, "--limit", 10)
    assert run.code == 0, run.complaint
    snn = read_network(tmp_path / "snn.npz")
    assert snn.metadata["conversion"]["ann_frames"] == 3 and snn.metadata["experiment"]["train"]["num_steps"] == 6
    assert spikeloom("record", tmp_path / "snn.npz", "--limit", 2).code == 0


def test_an_interrupted_fine_tuning_goes_on(ann: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second run starts at the second epoch and writes what a run without an interrupt writes."""
    command: tuple[Any, ...] = ("convert", ann, "--steps", "2", "--qcfs", 2, "--levels", 2, *FEW)
    assert spikeloom(*command, "--out", ann.with_name("whole.npz")).code == 0
    module = importlib.import_module(training.__module__)
    write = module.write_checkpoint

    def interrupted(path: Path, state: dict[str, Any]) -> None:
        write(path, state)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_checkpoint", interrupted)
    target = ann.with_name("snn.npz")
    assert spikeloom(*command).code == 130
    assert not target.exists() and ann.with_name("snn.checkpoint.pt").exists()
    epochs = 0

    def counted(path: Path, state: dict[str, Any]) -> None:
        nonlocal epochs
        epochs += 1
        write(path, state)

    monkeypatch.setattr(module, "write_checkpoint", counted)
    assert spikeloom(*command).code == 0 and epochs == 1
    assert read_network(target).id == read_network(ann.with_name("whole.npz")).id
    assert sorted(path.name for path in ann.parent.iterdir()) == ["network.npz", "snn.npz", "whole.npz"]


# what is wrong


def small(activation: Any, *, pool: bool = False, last: int = 10) -> Network:
    rng = np.random.default_rng(0)
    nodes: dict[str, Any] = {
        "in": Input((1, 8, 8), "analog"), "conv": Conv2d(1, 2, (3, 3), weight=rng.normal(size=(2, 1, 3, 3)).astype(np.float32)),
        "act": activation, **({"pool": MaxPool2d((2, 2), (2, 2))} if pool else {}), "flatten": Flatten(),
        "fc": Linear(18 if pool else 72, last, weight=rng.normal(size=(last, 18 if pool else 72)).astype(np.float32)),
        "out": Output((last,)),
    }  # fmt: skip
    experiment = {"data": "digits", "network": "lenet", "train": {"num_steps": 1}}
    return replace(chain("small", nodes), metadata={"experiment": experiment})


@pytest.fixture
def bad(ann: Path) -> Path:
    folder = ann.parent
    write_network(folder / "spiking.npz", small(IF(0.5)))
    write_network(folder / "max.npz", small(ReLU(), pool=True))
    write_network(folder / "linear.npz", replace(small(ReLU()), nodes={k: v for k, v in small(ReLU()).nodes.items() if k != "act"}, edges=(
        ("in", "conv"), ("conv", "flatten"), ("flatten", "fc"), ("fc", "out"))))  # fmt: skip
    write_network(folder / "unknown.npz", replace(small(ReLU()), metadata={}))
    empty = small(ReLU())
    write_network(folder / "empty.npz", replace(empty, nodes={**empty.nodes, "fc": Linear(72, 10)}))
    dead = small(ReLU())
    weight = -np.ones((2, 1, 3, 3), np.float32)
    write_network(folder / "dead.npz", replace(dead, nodes={**dead.nodes, "conv": Conv2d(1, 2, (3, 3), weight=weight)}))
    (folder / "text.npz").write_text("no network")
    return folder


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (("none.npz",), "none.npz"),
        (("text.npz",), "text.npz"),
        (("max.npz", "--max-pool", "or"), "spikex cannot run a maxpool2d layer"),
        (("spiking.npz",), "node 'act' (IF) cannot be converted"),
        (("max.npz",), "node 'pool' (MaxPool2d) has no exact counterpart on spikes"),
        (("linear.npz",), "has no ReLU or ClippedReLU; there is nothing to convert|gets the sums of"),
        (("unknown.npz",), "does not say what it was trained on; name an experiment with --experiment"),
        (("empty.npz",), "layer 'fc' of network 'small' has no weights"),
        (("dead.npz",), "activation 'act' is 0 for every calibration sample"),
        (("network.npz", "--steps", "0"), "--steps: got 0, expected at least one time step"),
        (("network.npz", "--steps", "a,b"), "--steps: got 'a,b', expected numbers of time steps"),
        (("network.npz", "--max-loss", "-1"), "--max-loss: got -1.0, expected 0 or more"),
        (("network.npz", "--max-loss", "nan"), "--max-loss: got nan"),
        (("network.npz", "--max-loss", "0", "--steps", "1", "--calibrate", "none", "--method", "percentile", "--percentile", "1"),
         "no T of 1 loses at most 0.0 points (the best loses"),
        (("network.npz", "--machine", "spikes"), "spikes"),
        (("network.npz", "--machine", "spikex:windw=2"), "windw"),
        (("network.npz", "--experiment", "digit"), "digit: no such experiment"),
        (("network.npz", "--experiment", "nmnist", "--data-dir", "nowhere"), "nowhere"),
        (("network.npz", "--percentile", "0"), "percentile must be above 0"),
        (("network.npz", "--threshold-to-input", "0"), "threshold_to_input must be positive"),
        (("network.npz", "--learning-rate", "-1", "--qcfs", "1"), "learning_rate must be positive"),
        (("network.npz", "--levels", "99999", "--qcfs", "1"), "levels must be 1..65535"),
        (("network.npz", "--bias", "start", "--calibrate", "bias"), "calibration adds biases at every step"),
        (("network.npz", "--max-level", "70000"), "a trace holds at most 16"),
        (("network.npz", "--out", "network.npz"), "is read here and would be replaced; name another file"),
        (("network.npz", "--out", "."), "is a folder"),
    ],
    ids=str,
)  # fmt: skip
def test_bad_input_is_one_line_and_leaves_nothing(
    bad: Path, monkeypatch: pytest.MonkeyPatch, line: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(bad)
    before = {path.name: path.read_bytes() for path in bad.iterdir()}
    extra = () if "--steps" in line else ("--steps", "2")
    run = spikeloom("convert", *line, *extra, *FEW)
    assert (run.code, run.out) == (1, "")
    assert run.complaint is not None and any(one in run.complaint for one in said.split("|")), run.complaint
    assert {path.name: path.read_bytes() for path in bad.iterdir()} == before


@pytest.mark.parametrize(
    "line",
    [(), ("network.npz", "--method", "best"), ("network.npz", "--max-level", "0"), ("network.npz", "--reset", "none")],
)
def test_bad_usage_is_code_2(bad: Path, monkeypatch: pytest.MonkeyPatch, line: tuple[str, ...]) -> None:
    monkeypatch.chdir(bad)
    run = spikeloom("convert", *line)
    assert (run.code, run.out, run.complaint) == (2, "", None)


def test_a_network_from_elsewhere_needs_an_experiment(bad: Path) -> None:
    run = spikeloom("convert", bad / "unknown.npz", "--experiment", "digits", "--steps", "2", *FEW)
    assert run.code == 0
    assert read_network(bad / "snn.npz").metadata["experiment"]["data"] == "digits"


def test_max_pools_by_name(bad: Path) -> None:
    for choice in ("average", "or"):
        run = spikeloom("convert", bad / "max.npz", "--max-pool", choice, "--steps", "4", "--machine", "none", *FEW)
        assert run.code == 0 and "inference on" not in run.out, run.complaint
        kinds = [type(node) for node in read_network(bad / "snn.npz").nodes.values()]
        assert (MaxPool2d in kinds) == (choice == "or")


def test_a_missing_plotly_is_missed_before_the_work(ann: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.import_module

    def absent(name: str, *more: Any) -> Any:
        if name == "plotly":
            raise ModuleNotFoundError("No module named 'plotly'", name="plotly")
        return find(name, *more)

    monkeypatch.setattr("spikeloom.cli.convert.importlib.import_module", absent)
    with pytest.raises(ModuleNotFoundError):
        spikeloom("convert", ann, "--figure", ann.with_name("f.html"))
    assert [path.name for path in ann.parent.iterdir()] == ["network.npz"]
