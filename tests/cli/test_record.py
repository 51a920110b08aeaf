"""``spikeloom train`` and ``record``: from an experiment to a network to a trace that can be evaluated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spikeloom.core.nodes import Linear
from spikeloom.files.network import read_network, write_network
from spikeloom.files.store import read_trace
from spikeloom.lower import lower
from spikeloom.snn import execute
from tests.cli.command import spikeloom
from tests.cli.conftest import small_network
from tests.data.folders import nmnist_arrays, write_nmnist_npz


@pytest.fixture
def network(files: Path, tmp_path: Path) -> Path:
    """A network file in a folder of its own, on digits."""
    path = tmp_path / "network.npz"
    path.write_bytes((files / "network.npz").read_bytes())
    return path


def test_a_recorded_trace_holds_the_samples_asked_for(network: Path) -> None:
    run = spikeloom("record", network, "--limit", 5)
    assert run.code == 0
    assert "5 samples of digits/test, 3 steps" in run.out
    assert f"wrote {network.with_name('trace.npz')}" in run.out.replace("\n", "")
    read, trace = read_trace(network.with_name("trace.npz"))
    assert (trace.num_samples, trace.num_steps) == (5, 3)
    assert list(trace.arrivals) == ["conv", "fc"]
    assert not trace.updates and trace.labels is not None and trace.predictions is not None
    assert lower(read, trace)["fc"].weight is None
    assert trace.extra["meta"]["sample_ids"]
    assert spikeloom("check", network.with_name("trace.npz")).code == 0
    assert spikeloom("eval", network.with_name("trace.npz"), "spikex", "ptb").code == 0


def test_weights_updates_and_the_other_split_on_request(network: Path, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "t.npz"
    words = ("--limit", 4, "--out", target, "--weights", "--updates", "--split", "train")
    run = spikeloom("record", network, *words)
    assert run.code == 0
    assert "digits/train" in run.out
    read, trace = read_trace(target)
    weight = lower(read, trace)["fc"].weight
    fc = small_network().nodes["fc"]
    assert isinstance(fc, Linear) and fc.weight is not None
    assert weight is not None and np.array_equal(weight.reshape(10, 72), fc.weight)
    assert set(trace.updates) == {"conv", "fc"}
    assert not network.with_name("trace.npz").exists()


def test_recording_twice_writes_the_same_spikes(network: Path, tmp_path: Path) -> None:
    ids = set()
    for name in ("a.npz", "b.npz"):
        assert spikeloom("record", network, "--limit", 3, "--out", tmp_path / name).code == 0
        ids.add(lower(*read_trace(tmp_path / name)).id)
    assert len(ids) == 1


def test_an_experiment_may_be_named_instead(network: Path, files: Path) -> None:
    write_network(network, replace(small_network(), metadata={}))
    run = spikeloom("record", network, "--limit", 2)
    assert run.code == 1
    assert run.complaint is not None and "--experiment" in run.complaint
    assert spikeloom("record", network, "--limit", 2, "--experiment", "digits").code == 0
    assert read_trace(network.with_name("trace.npz"))[1].num_steps == 4
    run = spikeloom("record", network, "--experiment", files / "experiment.toml")
    assert (run.code, run.out) == (1, "")  # recordings of another shape


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("none.npz",), 1),
        (("trace.npz",), 1),
        (("network.npz", "--experiment", "digit"), 1),
        (("network.npz", "--experiment", "none.toml"), 1),
        (("network.npz", "--limit", "2", "--out", "trace.npz/x.npz"), 1),
        ((), 2),
        (("network.npz", "--split", "validation"), 2),
        (("network.npz", "--limit", "0"), 2),
    ],
)
def test_bad_input_is_one_line_and_bad_usage_is_code_2(
    files: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], code: int
) -> None:
    monkeypatch.chdir(files)
    run = spikeloom("record", *words)
    assert (run.code, run.out) == (code, "")
    assert (run.complaint is None) == (code == 2)


def test_an_interrupted_training_goes_on_and_ends_with_the_same_weights(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted after both epochs, before the network is written."""
    experiment, whole, halves = files / "experiment.toml", tmp_path / "whole", tmp_path / "halves"
    run = spikeloom("train", experiment, "--out", whole)
    assert run.code == 0
    assert "after 2 epochs" in run.out and f"wrote {whole / 'network.npz'}" in run.out.replace("\n", "")

    def interrupt(*words: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(execute, "evaluate", interrupt)
        stopped = spikeloom("train", experiment, "--out", halves)
    assert stopped.code == 130
    assert len(stopped.err.splitlines()) == 1 and "interrupted" in stopped.err
    assert [path.name for path in halves.iterdir()] == ["checkpoint.pt"]
    assert spikeloom("train", experiment, "--out", halves).code == 0
    assert [path.name for path in halves.iterdir()] == ["network.npz"]
    assert read_network(halves / "network.npz").id == read_network(whole / "network.npz").id


def test_from_an_experiment_to_a_report(files: Path, tmp_path: Path) -> None:
    words = ("--out", tmp_path, "--epochs", 1, "--seed", 3)
    run = spikeloom("train", files / "experiment.toml", *words)
    assert run.code == 0
    assert "after 1 epochs" in run.out
    network = read_network(tmp_path / "network.npz")
    assert network.metadata["experiment"]["train"]["seed"] == 3
    assert len(network.metadata["history"]) == 1
    assert spikeloom("record", tmp_path / "network.npz", "--limit", 4).code == 0
    run = spikeloom("eval", tmp_path / "trace.npz", "spikex", "snn-dense", "--by", "component")
    assert run.code == 0
    assert "lowest EDP" in " ".join(run.out.split())


@pytest.mark.parametrize(
    ("words", "code"), [(("none.toml",), 1), (("digit",), 1), (("workload.toml",), 1), (("digits", "--epochs", "0"), 2)]
)
def test_what_cannot_be_trained(
    files: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], code: int
) -> None:
    monkeypatch.chdir(files)
    run = spikeloom("train", *words)
    assert (run.code, run.out) == (code, "")
    assert (run.complaint is None) == (code == 2)
    assert not (files / "runs").exists()


def test_the_network_itself_is_not_replaced_by_its_trace(network: Path) -> None:
    before = network.read_bytes()
    run = spikeloom("record", network, "--limit", 2, "--out", network)
    assert run.code == 1 and run.complaint is not None and "is read here and would be replaced" in run.complaint
    assert network.read_bytes() == before


def test_events_outside_the_frames_are_said_and_a_set_without_any_inside_is_refused(tmp_path: Path) -> None:
    t_us = nmnist_arrays("train", 11)["train_t_us"].astype(np.int64)
    shifted = {"train_t_us": t_us - 20_000, "test_t_us": nmnist_arrays("test", 5)["test_t_us"].astype(np.int64)}
    write_nmnist_npz(tmp_path / "trigger", **shifted)
    write_nmnist_npz(tmp_path / "late", **{key: times + 5_000_000 for key, times in shifted.items()})
    text = (
        'data = "nmnist"\nnetwork = "mlp"\n[network_options]\nwidth = 0.02\nbatch_norm = false\n'
        '[train]\nnum_steps = 3\nencoding = "events"\nepochs = 1\n'
    )
    (tmp_path / "e.toml").write_text(text)
    words = ("train", tmp_path / "e.toml", "--out", tmp_path / "run", "--data-dir")
    run = spikeloom(*words, tmp_path / "late")
    assert run.complaint is not None
    assert f"no event lies in a frame: {len(t_us)} behind the last of 3 frames" in run.complaint.replace(",", "")
    assert not (tmp_path / "run" / "network.npz").exists()
    run = spikeloom(*words, tmp_path / "trigger")
    early, late = int((t_us < 20_000).sum()), int((t_us >= 50_000).sum())
    assert (
        f"note: nmnist/train: of {len(t_us)} events {early} before the first and {late} behind the last of 3" in run.err
    )
    run = spikeloom("record", tmp_path / "run" / "network.npz", "--data-dir", tmp_path / "trigger")
    late = int((shifted["test_t_us"] >= 30_000).sum())
    assert run.code == 0
    assert f"note: nmnist/test: of 260 events {late} behind the last of 3" in run.err
    (tmp_path / "e.toml").write_text(text + '[data_options]\norigin = "first-event"\n')
    assert spikeloom(*words, tmp_path / "late", "--fresh").code == 0
