"""T of a network: the user's --steps, else its own, else the experiment's; every verb that shows it data says which."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spikeloom.core.network import Network
from spikeloom.errors import ConfigError
from spikeloom.files.network import read_network, write_network
from spikeloom.files.nir import write_nir
from spikeloom.files.store import read_trace
from spikeloom.snn.execute import Execution, evaluate
from spikeloom.studies.experiment import read_experiment, samples, shown_to, train_experiment
from tests.cli.command import spikeloom
from tests.cli.conftest import small_network

SEVEN = 'data = "digits"\nnetwork = "mlp"\n[network_options]\nwidth = 0.1\n[train]\nnum_steps = 7\nepochs = 1\n'


@pytest.fixture
def seven(tmp_path: Path) -> Path:
    """An experiment on digits with T = 7; the network's own is 3."""
    path = tmp_path / "seven.toml"
    path.write_text(SEVEN)
    return path


def outsider(path: Path) -> Path:
    """A network that says nothing of data or T."""
    write_network(path, replace(small_network(), metadata={}))
    return path


def own(path: Path) -> Path:
    write_network(path, small_network())
    return path


VERBS: dict[str, tuple[Any, ...]] = {
    "record": ("--limit", 5, "--out"),
    "prune": ("--sparsity", 0.2, "--limit", 5, "--out"),
    "quantize": ("--limit", 5, "--out"),
    "crossbar": ("--seeds", 1, "--limit", 5, "--calibration", 8, "--out"),
}


@pytest.mark.parametrize("verb", VERBS)
def test_the_user_then_the_network_then_the_experiment(verb: str, tmp_path: Path, seven: Path) -> None:
    theirs, ours = outsider(tmp_path / "outsider.npz"), own(tmp_path / "own.npz")
    words = (*VERBS[verb], tmp_path / "out.npz")
    for network, more, T, whose in (
        (theirs, ("--experiment", seven), 7, "of experiment seven; --steps sets another"),
        (theirs, ("--experiment", seven, "--steps", 2), 2, "--steps"),
        (ours, (), 3, "the network's own"),
        (ours, ("--experiment", seven), 3, "the network's own"),
        (ours, ("--steps", 5), 5, "--steps"),
    ):
        run = spikeloom(verb, network, *words, *more)
        assert run.code == 0, run.complaint
        assert f"note: T = {T}: {whose}" in run.err
        if verb == "record":
            assert read_trace(tmp_path / "out.npz")[1].num_steps == T
        elif verb in ("prune", "quantize"):
            rows = [line.split() for line in run.out.splitlines()]
            assert str(T) in next(row for row in rows if row[:1] in (["before"], ["float"]))
            if "--steps" in more:  # who asked for a T finds it again
                again = spikeloom(
                    "record", tmp_path / "out.npz", "--experiment", seven, "--limit", 2, "--out", tmp_path / "t.npz"
                )
                assert f"T = {T}: the network's own" in again.err
    assert spikeloom(verb, theirs, *words, "--steps", 2).code == 1


def test_crossbar_tells_its_json_too(tmp_path: Path) -> None:
    run = spikeloom(
        "crossbar", own(tmp_path / "n.npz"), "--seeds", 1, "--limit", 5, "--calibration", 8, "--steps", 6, "--json", "-"
    )
    assert json.loads(run.out)["num_steps"] == 6


def test_the_accuracy_is_that_at_this_t(tmp_path: Path, seven: Path) -> None:
    test = samples(read_experiment(seven), "test")
    for steps in (1, 9):
        run = spikeloom(
            "record", outsider(tmp_path / "n.npz"), "--experiment", seven, "--steps", steps, "--out", tmp_path / "t.npz"
        )
        assert run.code == 0
        assert read_trace(tmp_path / "t.npz")[1].accuracy == evaluate(small_network(), test, Execution(steps, "direct"))


def test_import_remembers_it(tmp_path: Path, seven: Path) -> None:
    write_nir(tmp_path / "n.nir", replace(small_network(), metadata={}))
    for more, T in (((), 7), (("--steps", 4), 4)):
        run = spikeloom(
            "import", tmp_path / "n.nir", "--experiment", seven, "--limit", 5, "--out", tmp_path / "n.npz", *more
        )
        assert run.code == 0 and f"note: T = {T}: " in run.err
        assert read_network(tmp_path / "n.npz").metadata["experiment"]["train"]["num_steps"] == T
        run = spikeloom("record", tmp_path / "n.npz", "--limit", 2, "--out", tmp_path / "t.npz")
        assert f"T = {T}: the network's own" in run.err
    assert spikeloom("import", tmp_path / "n.nir", "--steps", 6, "--out", tmp_path / "n.npz").code == 0
    assert read_network(tmp_path / "n.npz").metadata["num_steps"] == 6


def test_a_study_of_a_network_takes_it_and_a_trace_has_its_own(tmp_path: Path) -> None:
    words = ("--json", "-", "--limit", 3)
    network = own(tmp_path / "n.npz")
    run = spikeloom("study", "truly-efficient", network, "--machines", "spikex", "--steps", 5, *words)
    assert run.code == 0 and "T=5" in run.out
    assert spikeloom("record", network, "--limit", 3, "--out", tmp_path / "t.npz").code == 0
    run = spikeloom("study", "truly-efficient", tmp_path / "t.npz", "--machines", "spikex", "--steps", 5, *words)
    assert run.code == 1 and "leave out --steps 5" in run.complaint


def test_what_is_trained_here_carries_its_t(tmp_path: Path, seven: Path) -> None:
    train_experiment(read_experiment(seven), tmp_path)
    network, shown, said = shown_to(read_network(tmp_path / "network.npz"), "n", "digits")
    assert (shown.num_steps, said) == (7, "T = 7: the network's own")
    network, shown, _ = shown_to(network, "n", "digits", 9)
    assert shown.num_steps == 9 and network.metadata["num_steps"] == 9


def test_recordings_show_the_same_time_at_every_t() -> None:
    base = read_experiment("nmnist-300")
    _, shown, _ = shown_to(Network({}, ()), "n", "nmnist-300", 30)
    assert shown.num_steps * shown.data_options["dt_us"] == base.num_steps * base.data_options["dt_us"]


@pytest.mark.parametrize(
    "told", [{"num_steps": "x"}, {"num_steps": -1}, {"experiment": {"train": 3}}, {"experiment": 5}]
)
def test_metadata_that_say_no_t_are_passed_over(told: dict[str, Any]) -> None:
    _, shown, said = shown_to(replace(small_network(), metadata=told), "n", "digits")
    assert said.startswith(f"T = {shown.num_steps}: of experiment digits")
    with pytest.raises(ConfigError, match="--experiment"):
        shown_to(replace(small_network(), metadata={}), "n", None, 3)
