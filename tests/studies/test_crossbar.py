"""A network on crossbars with samples at hand: the table, its mitigations, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spikeloom.core.figures import Spread
from spikeloom.core.network import Network
from spikeloom.core.nodes import Synapse
from spikeloom.errors import ConfigError
from spikeloom.nets import create
from spikeloom.snn.train import train
from spikeloom.studies.crossbar import (
    ALL,
    STUDIED,
    CrossbarBench,
    Study,
    one_chip,
    read_crossbars,
    rounded,
    study_crossbars,
)
from spikeloom.studies.experiment import Experiment, samples, train_config
from spikeloom.transform.crossbar import NON_IDEALITIES, Crossbars, on_levels, only
from spikeloom.transform.quantize import Widths, quantize

EXPERIMENT = Experiment(
    "moving-bar", "mlp", {"num_steps": 6, "encoding": "events", "epochs": 6}, {"num_samples": 120}, name="bars"
)


@cache
def bars() -> Network:
    """A small network that has learned which way a bar moves."""
    fit = samples(EXPERIMENT, "train")
    network = create("mlp", fit.in_shape, fit.num_classes, encoding="spikes", batch_norm=False, width=0.1)
    return train(network, fit, replace(train_config(EXPERIMENT), initial_rate=0.1)).network


def bench(**options: Any) -> CrossbarBench:
    return CrossbarBench(EXPERIMENT, Study(**{"calibration": 40, "seeds": 2, "limit": 60, **options}))


def test_the_table_has_every_non_ideality_alone_and_all_together_at_every_size() -> None:
    told = []
    measured = bench(sizes=(16, 32))
    measured.progress = lambda stage, done, total, figures: told.append((stage, done, total))  # type: ignore[assignment]
    result = study_crossbars(bars(), STUDIED, measured)
    assert [(row.size, row.name) for row in result.rows] == [
        (size, name) for size in (16, 32) for name in (*NON_IDEALITIES, ALL)
    ]
    for row in result.rows:
        chips = 2 if row.name in ("variation", "stuck cells", ALL) else 1
        assert len(row.plain.accuracies) == len(row.adapted.accuracies) == chips
        assert row.tuned is row.both is None
        assert row.crossbars > 0 and row.seconds > 0
    assert result.reference > 0.8 and result.ideal > 0.7
    assert ("32 all together", 2, 2) in told
    content = json.loads(result.to_json())
    assert content["rows"][0]["plain"] == list(result.rows[0].plain.accuracies)
    assert content["crossbars"]["adc_bits"] == 4 and content["samples"] == len(measured.test)
    again = study_crossbars(bars(), STUDIED, bench(sizes=(16,)))
    assert [row.plain for row in again.rows] == [row.plain for row in result.rows[:6]]


def test_adaptation_mends_what_wires_take() -> None:
    wired = Crossbars(row_wire_ohm=20.0, column_wire_ohm=20.0, driver_ohm=50.0)
    (row,) = study_crossbars(bars(), wired, bench(sizes=(64,))).rows
    assert row.name == "wire resistance"
    assert row.adapted.mean >= row.plain.mean + 0.1


def test_training_that_knows_of_the_chips_helps_and_ends_on_the_grid() -> None:
    wired = Crossbars(row_wire_ohm=40.0, column_wire_ohm=40.0, driver_ohm=50.0)
    measured = bench(sizes=(64,), epochs=12, learning_rate=5e-3)
    row = study_crossbars(bars(), wired, measured).rows[-1]
    assert row.tuned is not None and row.both is not None
    assert row.tuned.mean > row.plain.mean + 0.05
    varied = Crossbars(variation=0.5, stuck_off=0.1)
    tuned = measured.tuned(bars(), varied)
    for name, node in tuned.nodes.items():
        if isinstance(node, Synapse):
            levels, _ = on_levels(name, node)
            assert np.abs(levels).max() <= 7
    assert measured.tuned(bars(), varied).id == tuned.id != measured.tuned(bars(), None).id


def test_integers_are_measured_as_they_are_but_not_trained() -> None:
    integers = quantize(bars(), Widths(weight_bits=4))
    varied = only(STUDIED, "variation")
    result = study_crossbars(integers, varied, bench())
    assert result.ideal == pytest.approx(result.reference, abs=0.03)
    with pytest.raises(ConfigError, match="fine-tuning needs the float network"):
        study_crossbars(integers, varied, bench(epochs=1))


def test_what_is_measured_is_in_range() -> None:
    for key, value in (
        ("seeds", 0),
        ("limit", 0),
        ("calibration", -1),
        ("tuning_samples", 0),
        ("epochs", -1),
        ("seed", -1),
    ):
        with pytest.raises(ConfigError, match=f"^{key} must be at least [01], got {value}"):
            Study(**{key: value})  # type: ignore[arg-type]


def test_rounding_is_that_of_quantize() -> None:
    floats, integers = rounded(bars(), 4), quantize(bars(), Widths(weight_bits=4))
    for name, node in integers.nodes.items():
        if isinstance(node, Synapse):
            after: Any = floats.nodes[name]
            on_levels(name, after)  # would refuse what is on no grid
            assert node.weight is not None
            assert after.weight_bits == 4
            ratio = after.weight / np.where(node.weight == 0, 1, node.weight)
            assert ((after.weight == 0) == (node.weight == 0)).all()
            assert np.ptp(np.where(node.weight == 0, ratio.max(1, keepdims=True), ratio), axis=1) == pytest.approx(
                0, abs=1e-5
            )


def test_one_chip_is_the_first_of_the_table() -> None:
    varied = only(STUDIED, "variation", "wire resistance")
    measured = bench(seeds=1)
    result = study_crossbars(bars(), varied, measured)
    from spikeloom.snn.execute import runnable

    assert measured.accuracy(runnable(one_chip(result))) == result.rows[-1].plain.accuracies[0]


def test_a_spread_is_mean_and_deviation() -> None:
    assert Spread((0.5, 0.7)).mean == pytest.approx(0.6)
    assert Spread((0.5, 0.7)).deviation == pytest.approx(np.std([0.5, 0.7], ddof=1))
    assert Spread((0.5,)).deviation == 0


def test_files_of_crossbars(tmp_path: Path) -> None:
    path = tmp_path / "chips.toml"
    path.write_text('size = 32\nvariation = 0.2\npairs = "offset"\noff_ohm = 2e5\n')
    assert read_crossbars(path) == Crossbars(size=32, variation=0.2, pairs="offset", off_ohm=2e5)
    path.write_text("size = 32\nvariatoin = 0.2\n")
    with pytest.raises(ConfigError, match="did you mean 'variation'"):
        read_crossbars(path)
    path.write_text("variation = -1.0\n")
    with pytest.raises(ConfigError, match=r"chips\.toml: variation must be 0 or more"):
        read_crossbars(path)
    with pytest.raises(ConfigError, match="all crossbars are ideal"):
        study_crossbars(bars(), Crossbars(), bench())
