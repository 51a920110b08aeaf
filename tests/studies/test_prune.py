"""Gradual pruning: the schedule, zeros that stay, stages that survive an interrupt, and figures that say what changed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spikeloom.core.network import Network
from spikeloom.core.nodes import BatchNorm, Synapse
from spikeloom.errors import ConfigError, FileError, NetworkError, NetworkFileError
from spikeloom.files.network import read_network, write_network
from spikeloom.files.store import read_trace, write_trace
from spikeloom.lower import lower
from spikeloom.snn import Execution, TrainConfig, build, evaluate, record, train
from spikeloom.studies.experiment import Experiment
from spikeloom.studies.prune import (
    Pruning,
    prune_gradually,
    prune_network,
    shows_zeros,
    sparsity_at,
    stored_layers,
    zero_fraction,
)
from tests.cli.conftest import small_network
from tests.snn.toys import stripes, tiny_cnn

CONFIG = TrainConfig(num_steps=4, batch_size=16, learning_rate=5e-3)
DIGITS = Experiment("digits", "lenet", {"num_steps": 3, "batch_size": 64}, name="digits")


@pytest.fixture(scope="module")
def trained() -> Network:
    return train(tiny_cnn(norm=False), stripes(96), replace(CONFIG, epochs=4, learning_rate=1e-2)).network


def test_the_schedule_is_cubic_and_ends_where_it_should() -> None:
    # Zhu & Gupta 2017, equation 1, by hand: 0.8 - 0.8 (1 - t/4)^3
    found = [sparsity_at(t, 4, 0.0, 0.8) for t in range(5)]
    np.testing.assert_allclose(found, [0.0, 0.4625, 0.7, 0.7875, 0.8], rtol=0, atol=1e-12)
    assert sparsity_at(3, 3, 0.1, 0.7) == 0.7
    assert sparsity_at(1, 2, 0.4, 0.8) == pytest.approx(0.75)


def test_stages_prune_more_and_more_and_fine_tuning_keeps_zeros(trained: Network, tmp_path: Path) -> None:
    plan = Pruning(0.8, stages=3, epochs=2, keep=("fc",))
    told: list[tuple[str, int]] = []

    def progress(stage: str, done: int, total: int, figures: Any) -> None:
        told.append((stage, done))
        if stage == "stage":
            now = read_network(tmp_path / f"stage-{done}.npz")
            assert zero_fraction(now, ("fc",)) == pytest.approx(figures["sparsity"], abs=1 / 200)

    pruned, stages = prune_gradually(trained, plan, stripes(96), CONFIG, tmp_path, progress=progress)
    assert [stage.number for stage in stages] == [1, 2, 3]
    assert [at for at in told if at[0] == "stage"] == [("stage", 1), ("stage", 2), ("stage", 3)]
    free = [n for name, n in pruned.nodes.items() if isinstance(n, Synapse) and name != "fc" and n.weight is not None]
    assert sum((n.weight == 0).sum() for n in free) == sum(n.weight.size for n in free) * 8 // 10  # type: ignore[union-attr]
    before, after = trained.nodes["fc"], pruned.nodes["fc"]
    assert isinstance(before, Synapse) and isinstance(after, Synapse)
    assert after.weight is not None and before.weight is not None
    assert (after.weight != before.weight).any() and (after.weight == 0).mean() < 0.1  # tuned, not pruned
    assert "pruning_run" not in pruned.metadata
    once = plan.cut(trained, 0.8, trained)
    test = stripes(60, seed=9)
    gradual, single = (evaluate(network, test, Execution(4)) for network in (pruned, once))
    assert gradual >= 0.9 and gradual >= single


def test_channels_go_by_and_by_too(trained: Network, tmp_path: Path) -> None:
    plan = Pruning(0.5, channels=True, stages=2, epochs=1)
    pruned, _ = prune_gradually(trained, plan, stripes(32), CONFIG, tmp_path)
    assert [pruned.shapes()[name][0] for name in ("conv1", "conv2", "fc")] == [2, 3, 2]


class Stop(Exception):
    """Stands for whatever ends a process."""


@pytest.mark.parametrize(("at", "files"), [
    (("epoch", 1, 1), {"stage-1.pt"}),
    (("stage", 1, 1), {"stage-1.npz"}),
    (("epoch", 1, 2), {"stage-1.npz", "stage-2.pt"}),
    (("stage", 2, 1), {"stage-1.npz", "stage-2.npz"}),
])  # fmt: skip
def test_interrupted_and_resumed_it_ends_with_the_same_weights(
    trained: Network, tmp_path: Path, at: tuple[str, int, int], files: set[str]
) -> None:
    plan = Pruning(0.7, stages=2, epochs=2)
    whole, stages = prune_gradually(trained, plan, stripes(32), CONFIG, tmp_path / "whole")
    seen: list[tuple[str, int]] = []

    def stop(stage: str, done: int, total: int, figures: Any) -> None:
        seen.append((stage, done))
        if (stage, done) == at[:2] and seen.count((stage, done)) == at[2]:
            raise Stop

    halves = tmp_path / "halves"
    with pytest.raises(Stop):
        prune_gradually(trained, plan, stripes(32), CONFIG, halves, progress=stop)
    assert {path.name for path in halves.iterdir()} == files
    again: list[str] = []
    resumed, history = prune_gradually(
        trained, plan, stripes(32), CONFIG, halves, progress=lambda stage, *_: again.append(stage)
    )
    assert resumed.id == whole.id
    assert history == stages
    finished = sum(name.endswith(".npz") for name in files)
    assert again.count("stage") == 2 - finished, "a finished stage was run again"


def test_stages_of_another_pruning_are_not_taken_for_ones_own(trained: Network, tmp_path: Path) -> None:
    plan = Pruning(0.5, epochs=1)
    prune_gradually(trained, plan, stripes(32), CONFIG, tmp_path)
    for other in (replace(plan, sparsity=0.6), replace(plan, keep=("fc",))):
        with pytest.raises(NetworkFileError, match=r"stage-1.npz was made by another .*--fresh"):
            prune_gradually(trained, other, stripes(32), CONFIG, tmp_path)
    prune_gradually(trained, replace(plan, sparsity=0.6), stripes(32), CONFIG, tmp_path, resume=False)


def test_a_pruned_network_says_where_it_comes_from_and_what_changed(tmp_path: Path) -> None:
    network, out = small_network(), tmp_path / "p.npz"
    pruned = prune_network(network, Pruning(0.5, scope="layer", keep=("conv",)), out, experiment=DIGITS)
    written = read_network(out)
    assert written.id == pruned.network.id
    assert written.metadata["parent"] == network.id
    told = written.metadata["pruning"]
    assert (told["sparsity"], told["scope"], told["keep"], told["channels"]) == (0.5, "layer", ["conv"], False)
    assert told["accuracy_before"] == pruned.before.accuracy and told["samples"] == 450
    assert written.metadata["test_accuracy"] == told["accuracy"] == pruned.after.accuracy
    assert pruned.after.zeros == 360 / 738
    assert pruned.after.synops is not None and pruned.before.synops is not None
    assert pruned.after.synops < pruned.before.synops
    assert [path.name for path in tmp_path.iterdir()] == ["p.npz"]


def test_measured_on_a_part_it_does_not_pass_for_the_test_accuracy(tmp_path: Path) -> None:
    network = replace(small_network(), metadata={"test_accuracy": 0.5, "history": [], "seconds": 1.5})
    pruned = prune_network(network, Pruning(0.5), tmp_path / "p.npz", experiment=DIGITS, limit=10)
    assert pruned.network.metadata.keys() == {"parent", "pruning"}  # nor for the parent's training
    assert pruned.network.metadata["pruning"]["samples"] == 10


def test_without_data_only_sizes_are_compared(tmp_path: Path) -> None:
    pruned = prune_network(small_network(), Pruning(0.5), tmp_path / "p.npz")
    assert pruned.after.accuracy is None and pruned.after.zeros == 0.5
    with pytest.raises(ConfigError, match="--experiment"):
        prune_network(small_network(), Pruning(0.5, epochs=1), tmp_path / "p.npz")


def test_a_normalisation_is_folded_and_integers_are_not_fine_tuned(tmp_path: Path) -> None:
    network = build(tiny_cnn()).to_network()
    pruned = prune_network(network, Pruning(0.5), tmp_path / "p.npz")
    assert not any(isinstance(node, BatchNorm) for node in pruned.network.nodes.values())
    nodes = {
        name: replace(node, weight=np.ones(node.weight.shape, np.int8))
        if isinstance(node, Synapse) and node.weight is not None
        else node
        for name, node in small_network().nodes.items()
    }
    with pytest.raises(NetworkError, match=r"integer weights.*before quantising"):
        prune_network(
            replace(small_network(), nodes=nodes), Pruning(0.5, epochs=1), tmp_path / "p.npz", experiment=DIGITS
        )


def test_somebody_elses_files_beside_the_stages_stay(trained: Network, tmp_path: Path) -> None:
    folder = tmp_path / "p.npz.stages"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    prune_network(small_network(), Pruning(0.5, epochs=1), tmp_path / "p.npz", experiment=DIGITS, limit=20)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_stored_sizes_by_hand() -> None:
    network = small_network()
    sizes = {layer.name: layer for layer in stored_layers(network)}
    assert (sizes["fc"].weights, sizes["fc"].plain, sizes["fc"].bitmask) == (720, 720 * 32, 720 * 33)
    assert sizes["fc"].code == "plain"
    pruned = {layer.name: layer for layer in stored_layers(Pruning(0.5, scope="layer").cut(network, 0.5, network))}
    assert pruned["fc"].bitmask == 720 + 360 * 32 < 360 * (32 + 4) <= pruned["fc"].run_length
    assert pruned["fc"].code == "bitmask" and pruned["fc"].smallest == pruned["fc"].bitmask
    empty = {layer.name: layer for layer in stored_layers(Pruning(1.0).cut(network, 1.0, network))}
    assert (empty["fc"].run_length, empty["fc"].code) == (0, "run length")
    one = Pruning(0.002).cut(network, 0.002, network)
    assert zero_fraction(one) < 0.01 and shows_zeros(one) and not shows_zeros(network)  # each is an operation less


def test_zeros_reach_a_machine_through_a_trace(tmp_path: Path) -> None:
    network = Pruning(0.8).cut(small_network(), 0.8, small_network())
    write_network(tmp_path / "n.npz", network)
    network = read_network(tmp_path / "n.npz")
    pixels = stripes(4)
    images = np.zeros((4, 1, 8, 8), np.uint8)
    images[:, :, :6, :6] = pixels.samples
    trace = record(network, replace(pixels, samples=images), Execution(3))
    write_trace(tmp_path / "t.npz", network, trace, weights=True)
    layer = lower(*read_trace(tmp_path / "t.npz"))["fc"]
    before = network.nodes["fc"]
    assert isinstance(before, Synapse) and before.weight is not None and layer.weight is not None
    np.testing.assert_array_equal(layer.weight.reshape(before.weight.shape) == 0, before.weight == 0)


@pytest.mark.parametrize("changes", [{"sparsity": 1.1}, {"stages": 0}, {"epochs": -1}, {"sparsity": float("nan")}])
def test_impossible_plans_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        Pruning(**{"sparsity": 0.5, **changes})


def test_stages_without_fine_tuning_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"3 stages without fine-tuning.*--fine-tune"):
        Pruning(0.5, stages=3)
    assert Pruning(0.5, stages=3, epochs=1).stages == 3


@pytest.mark.parametrize("out", [".", "/", "", ".."])
def test_a_folder_to_write_to_is_found_out_before_the_work(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spikeloom.studies.prune.Bench", lambda *_, **__: pytest.fail("data were read first"))
    with pytest.raises(FileError, match="is a folder, expected a file"):
        prune_network(small_network(), Pruning(0.5), Path(out), experiment=DIGITS)


def test_metadata_are_plain_json(tmp_path: Path) -> None:
    pruned = prune_network(
        small_network(), Pruning(0.5, channels=True, epochs=1), tmp_path / "p.npz", experiment=DIGITS, limit=20
    )
    assert json.loads(json.dumps(dict(pruned.network.metadata))) == dict(pruned.network.metadata)
    assert pruned.left_alone == {"fc": "the network's output"}
    assert pruned.network.metadata["pruning"]["fine_tuning"][0]["accuracy"] == pruned.stages[0].accuracy


def lopsided() -> Network:
    """A network whose convolution is a thousand times smaller than its read-out."""
    nodes = dict(small_network().nodes)
    conv = nodes["conv"]
    assert isinstance(conv, Synapse) and conv.weight is not None
    nodes["conv"] = replace(conv, weight=conv.weight / 1000)
    return replace(small_network(), nodes=nodes)


def test_a_layer_is_emptied_only_where_it_is_named(tmp_path: Path) -> None:
    out = tmp_path / "p.npz"
    with pytest.raises(NetworkError, match=r"every weight of layer 'conv' goes.*--allow-empty conv"):
        prune_network(lopsided(), Pruning(0.5), out)
    with pytest.raises(NetworkError, match=r"allow_empty names \['if'\], expected layers among \['conv', 'fc'\]"):
        prune_network(lopsided(), Pruning(0.5, allow_empty=("if",)), out)
    with pytest.raises(NetworkError, match=r"'conv', 'fc'"):
        prune_network(small_network(), Pruning(1.0), out)
    assert not out.exists()
    pruned = prune_network(lopsided(), Pruning(0.5, allow_empty=("conv",)), out)
    assert pruned.left == {"conv": (0, 18), "fc": (369, 720)}
    assert pruned.network.metadata["pruning"]["weights_left"] == {"conv": 0, "fc": 369}
    again = prune_network(pruned.network, Pruning(0.6), out)  # what was empty before is no news
    assert again.left["conv"] == (0, 0)


def test_no_stage_of_a_gradual_pruning_empties_a_layer(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=r"at a sparsity of 0\.4375 every weight of layer 'conv' goes"):
        prune_network(lopsided(), Pruning(0.5, stages=2, epochs=1), tmp_path / "p.npz", experiment=DIGITS)
