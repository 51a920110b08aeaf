"""Quantising with samples at hand: figures before and after, fine-tuning that goes on where it stopped, accuracy against bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spikeloom.core.network import Network
from spikeloom.core.nodes import Firing, Synapse
from spikeloom.errors import ConfigError, FileError, NetworkError
from spikeloom.files.network import read_network
from spikeloom.nets import create
from spikeloom.snn.train import train
from spikeloom.studies.experiment import Experiment, samples, train_config
from spikeloom.studies.quantize import (
    Bench,
    FineTuning,
    accuracy_against_bits,
    quantize_file,
    quantize_network,
)
from spikeloom.transform.quantize import Widths

EXPERIMENT = Experiment(
    "moving-bar", "mlp", {"num_steps": 6, "encoding": "events", "epochs": 6}, {"num_samples": 120}, name="bars"
)
TERNARY = Widths(ternary=True, per="tensor")


@cache
def bars() -> Network:
    """A small network that has learned which way a bar moves."""
    fit = samples(EXPERIMENT, "train")
    network = create("mlp", fit.in_shape, fit.num_classes, encoding="spikes", batch_norm=False, width=0.1)
    return train(network, fit, replace(train_config(EXPERIMENT), initial_rate=0.1)).network


def bench(**options: Any) -> Bench:
    return Bench(EXPERIMENT, **options)


def weights(network: Network) -> list[np.ndarray]:
    return [n.weight for n in network.nodes.values() if isinstance(n, Synapse) and n.weight is not None]


def test_figures_and_metadata_of_a_network_that_is_only_rounded() -> None:
    measured = bench()
    before = measured.measure("float", bars())
    result = quantize_network(bars(), measured, Widths())
    assert before.accuracy is not None and before.accuracy > 0.8
    assert result.after.accuracy is not None and result.after.accuracy == pytest.approx(before.accuracy, abs=0.05)
    assert result.rounded is None
    assert result.after.arithmetic == "integer"
    assert result.after.weight_kib == before.weight_kib / 4
    assert result.after.weights == before.weights
    assert result.after.spikes == pytest.approx(before.spikes, rel=0.1)
    assert result.network.metadata["test_accuracy"] == result.after.accuracy
    assert result.network.metadata["quantized"]["parent"] == bars().id
    assert not any(result.overflows.values()) and len(result.overflows) == 2


def test_overflows_are_found_and_change_what_is_computed() -> None:
    wide = quantize_network(bars(), bench(), Widths(weight_bits=4))
    firing: list[Any] = [n for n in wide.network.nodes.values() if isinstance(n, Firing)]
    needed = max(int(np.max(n.v_threshold)) for n in firing).bit_length() + 1
    narrow = quantize_network(bars(), bench(), Widths(weight_bits=4, membrane_bits=needed, overflow="wrap"))
    assert sum(narrow.overflows.values()) > 0 == sum(wide.overflows.values())
    assert narrow.after.spikes != wide.after.spikes
    with pytest.raises(NetworkError, match=f"at least {needed} bits"):
        quantize_network(bars(), bench(), Widths(weight_bits=4, membrane_bits=needed - 1))


def test_fine_tuning_wins_back_what_rounding_lost() -> None:
    digits = Experiment("digits", "mlp", {"num_steps": 4, "epochs": 6}, name="digits")
    fit = samples(digits, "train")
    start = create("mlp", fit.in_shape, fit.num_classes, batch_norm=False, width=0.1)
    network = train(start, fit, train_config(digits)).network
    result = quantize_network(network, Bench(digits), Widths(ternary=True), FineTuning(4, 5e-3))
    assert result.rounded is not None and result.rounded.accuracy is not None and result.after.accuracy is not None
    assert (result.rounded.name, result.after.name) == ("ternary", "ternary*")
    assert result.after.accuracy >= result.rounded.accuracy + 0.015
    told = result.network.metadata["quantized"]
    assert told["fine_tuning"] == {"epochs": 4, "learning_rate": 5e-3}
    assert told["parent"] == network.id
    assert {int(level) for weight in weights(result.network) for level in np.unique(weight)} == {-1, 0, 1}


def test_an_interrupted_fine_tuning_ends_with_the_same_integers(tmp_path: Path) -> None:
    tuning = FineTuning(2)
    whole = quantize_network(bars(), bench(), TERNARY, tuning)

    def interrupt(stage: str, done: int, total: int, figures: Mapping[str, float]) -> None:
        if (stage, done) == ("epoch", 1):
            raise KeyboardInterrupt

    out = tmp_path / "deep" / "q.npz"
    with pytest.raises(KeyboardInterrupt):
        quantize_file(bars(), bench(progress=interrupt), TERNARY, out, tuning)
    left = list(out.parent.iterdir())
    assert len(left) == 1 and left[0].suffix == ".pt"
    # other widths do not go on from there
    other = quantize_file(bars(), bench(), Widths(weight_bits=3), out.with_name("r.npz"), tuning)[1]
    assert np.abs(weights(other.network)[0]).max() == 3
    _, result = quantize_file(bars(), bench(), TERNARY, out, tuning)
    assert result.network.id == whole.network.id == read_network(out).id
    assert sorted(path.name for path in out.parent.iterdir()) == ["q.npz", "r.npz"]


@pytest.mark.parametrize("out", [".", "/", "", ".."])
def test_a_folder_to_write_to_is_found_out_before_the_work(out: str) -> None:
    def never(*_: Any) -> None:
        pytest.fail("something was measured or trained first")

    with pytest.raises(FileError, match="is a folder, expected a file"):
        quantize_file(bars(), bench(progress=never), TERNARY, Path(out), FineTuning(1))


def test_the_table_goes_down_in_size_and_keeps_no_checkpoint(tmp_path: Path) -> None:
    before, rows = accuracy_against_bits(
        bars(), bench(limit=20), Widths(), FineTuning(1), bits=(8, 4, 2), folder=tmp_path
    )
    assert [row.after.name for row in rows] == ["8 bit*", "4 bit*", "2 bit*"]
    assert [row.after.weight_kib for row in rows] == [before.weight_kib * b / 32 for b in (8, 4, 2)]
    assert all(row.rounded is not None and row.rounded.accuracy is not None for row in rows)
    assert "test_accuracy" not in rows[0].network.metadata  # of 20 samples only
    assert not list(tmp_path.iterdir())


def test_ternary_is_a_row_of_its_own_where_its_step_is_another() -> None:
    sizes = Bench(None)
    same = accuracy_against_bits(bars(), sizes, Widths(), bits=(2,))[1]
    other = accuracy_against_bits(bars(), sizes, Widths(scale="max"), bits=(2,))[1]
    assert [row.after.name for row in same] == ["2 bit"]
    assert [row.after.name for row in other] == ["2 bit", "ternary"]
    assert all(
        np.array_equal(one, two) for one, two in zip(weights(same[0].network), weights(other[1].network), strict=True)
    )
    assert not all(
        np.array_equal(one, two) for one, two in zip(weights(other[0].network), weights(other[1].network), strict=True)
    )


def test_without_an_experiment_only_sizes_are_told() -> None:
    result = quantize_network(bars(), Bench(None), Widths())
    assert result.after.accuracy is None and result.after.spikes is None and not result.overflows
    with pytest.raises(ConfigError, match="--experiment"):
        quantize_network(bars(), Bench(None), Widths(), FineTuning(1))
    with pytest.raises(ConfigError, match="at least 1 epoch, got 0"):
        FineTuning(0)
