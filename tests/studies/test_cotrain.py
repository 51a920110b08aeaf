"""Both stages of hardware-aware training on made-up recordings; interruption, resumption, bad files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spikeloom.core.network import chain
from spikeloom.core.nodes import CubaLIF, Flatten, Input, Leak, Linear
from spikeloom.core.trace import Levels, Spikes
from spikeloom.errors import ConfigError, NetworkFileError
from spikeloom.evaluate import evaluate, load_machine
from spikeloom.files.network import read_network, write_network
from spikeloom.files.results import read_trials
from spikeloom.studies.cotrain import CotrainOptions, Prediction, recorded
from spikeloom.studies.cotrain_sweep import Row, correlation, read_sweep, run_sweep
from spikeloom.studies.experiment import samples, training_samples

FILE = """
data = "moving-bar"
network = "lenet"
validation = 0.25
[data_options]
num_samples = 40
[network_options]
batch_norm = false
[train]
num_steps = 6
encoding = "events"
epochs = 2
learning_rate = 1e-2
initial_rate = 0.1
[cotrain]
betas = [0.5, 2.0]
epochs = 2
samples = 8
windows = [1, 2, 4]
dispatches = ["agile", "ptb"]
orders = ["raster"]
merges = [1, 2]
refresh = 1
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "bar.toml"
    path.write_text(FILE, encoding="utf-8")
    return path


def test_a_sweep_makes_networks_and_machines_that_evaluate_to_what_it_says(file: Path, tmp_path: Path) -> None:
    experiment, sweep = read_sweep(file)
    folder = tmp_path / "sweep"
    rows = run_sweep(experiment, sweep, folder)
    assert [row.what for row in rows] == ["baseline", "baseline", "mapping", "cotrained", "cotrained"]
    _, held = training_samples(experiment)
    assert held is not None and rows[0].report.num_samples == len(held) == 10
    assert rows[2].report.edp_js <= rows[0].report.edp_js * 1.2  # mappings are chosen on other recordings than these
    for row in rows[3:]:
        network = read_network(folder / f"beta-{row.beta:g}" / "network.npz")
        arch = load_machine(str(folder / f"beta-{row.beta:g}" / "machine.toml"))[1]
        again = evaluate(recorded(network, experiment, held), arch)
        assert again.energy_j == row.report.energy_j
        assert again.latency_s == row.report.latency_s
        assert row.first is not None
        exact = evaluate(recorded(network, experiment, held), arch)
        assert row.report.edp_js == exact.edp_js
    trials = read_trials(folder / "results.jsonl").trials
    assert [trial.report.edp_js for trial in trials if trial.report] == [row.report.edp_js for row in rows]
    assert rows[4].report.edp_js < rows[2].report.edp_js


def test_baselines_are_priced_at_the_table_and_clock_of_the_machine(file: Path, tmp_path: Path) -> None:
    file.write_text(FILE.replace("[cotrain]", '[cotrain]\nmachine = "spikex:table=cacti32,clock_mhz=250"'))
    experiment, sweep = read_sweep(file)
    rows = run_sweep(experiment, replace(sweep, betas=(1.0,)), tmp_path / "sweep")
    network = read_network(tmp_path / "sweep" / "start" / "network.npz")
    _, held = training_samples(experiment)
    assert held is not None
    for row, name in zip(rows[:2], ("ptb", "snn-dense"), strict=True):
        window = row.report.arch["window"]
        arch = load_machine(f"{name}:table=cacti32,clock_mhz=250,window={window}")[1]
        assert row.report.edp_js == evaluate(recorded(network, experiment, held), arch).edp_js


def test_the_test_set_is_measured_only_where_asked(file: Path, tmp_path: Path) -> None:
    experiment, sweep = read_sweep(file)
    sweep = replace(sweep, betas=(1.0,))
    folder = tmp_path / "sweep"
    run_sweep(experiment, sweep, folder)
    stamp = (folder / "beta-1" / "network.npz").read_bytes()
    rows = run_sweep(experiment, sweep, folder, test=True)
    assert rows[0].report.num_samples == len(samples(experiment, "test"))
    network = read_network(folder / "beta-1" / "network.npz")
    assert (folder / "beta-1" / "network.npz").read_bytes() == stamp or network.id  # nothing was trained again
    assert (folder / "test.jsonl").exists()


def test_an_interrupted_sweep_ends_as_one_that_was_not(file: Path, tmp_path: Path) -> None:
    experiment, sweep = read_sweep(file)
    sweep = replace(sweep, betas=(2.0,))
    whole = run_sweep(experiment, sweep, tmp_path / "whole")
    seen: list[str] = []

    def stop(stage: str, done: int, total: int, figures: Mapping[str, float]) -> None:
        if stage == "epoch":
            seen.append(stage)
            if len(seen) == 3:  # after the first epoch of the second stage
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sweep(experiment, sweep, tmp_path / "stopped", progress=stop)
    resumed = run_sweep(experiment, sweep, tmp_path / "stopped")
    assert resumed[-1].report.edp_js == whole[-1].report.edp_js
    assert resumed[-1].last is not None and whole[-1].last is not None
    assert resumed[-1].last.predicted == whole[-1].last.predicted


def test_a_folder_belongs_to_one_sweep(file: Path, tmp_path: Path) -> None:
    experiment, sweep = read_sweep(file)
    folder = tmp_path / "sweep"
    run_sweep(experiment, replace(sweep, betas=(1.0,)), folder)
    other = replace(sweep, betas=(1.0,), options=replace(sweep.options, refresh=0))
    with pytest.raises(ConfigError, match="holds another sweep"):
        run_sweep(experiment, other, folder)
    assert len(run_sweep(experiment, other, folder, resume=False)) == 4


def test_without_refresh_the_first_tables_stay(file: Path, tmp_path: Path) -> None:
    experiment, sweep = read_sweep(file)
    sweep = replace(sweep, betas=(1.0,), options=replace(sweep.options, refresh=0))
    row = run_sweep(experiment, sweep, tmp_path / "sweep")[-1]
    assert row.first is not None and row.last is not None
    assert row.first.predicted == row.last.predicted


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[cotrain]", "[cotrian]", "cotrain: got None, expected a table"),
        ("betas = [0.5, 2.0]", "betas = []", "betas"),
        ("betas = [0.5, 2.0]", "betas = [1.0, 1.0]", "betas"),
        ("betas = [0.5, 2.0]", "betas = [0.3, 0.30000001]", "differ in the first six digits"),
        ("betas = [0.5, 2.0]", "betas = [0.5, -1.0]", "betas: got -1.0"),
        ("betas = [0.5, 2.0]", "betas = [nan]", "betas: got nan"),
        ("refresh = 1", "weight_decay = nan", "weight_decay: got nan"),
        ("refresh = 1", "learning_rate = -1.0", "learning_rate: got -1.0"),
        ("refresh = 1", 'start = "nowhere.npz"', "nowhere.npz: no such file"),
        ("refresh = 1", 'warm = "nowhere.npz"', "nowhere.npz: no such file"),
        ("refresh = 1", "refersh = 1", "refersh: unknown key"),
        ("refresh = 1", "refresh = -1", "refresh: got -1"),
        ("refresh = 1", 'machine = "spikx"', "spikx: no such machine"),
        ("windows = [1, 2, 4]", "windows = [0]", "window"),
        ("windows = [1, 2, 4]", "windows = []", "window"),
        ('dispatches = ["agile", "ptb"]', 'dispatches = ["agil"]', "dispatch"),
        ("refresh = 1", 'machine = "spikex:window={convv1=4}"', "unknown \\['convv1'\\]"),
        ("samples = 8", "samples = 0", "samples: got 0"),
        ("samples = 8", 'thinning = "all"', "thinning"),
        ("validation = 0.25", "validation = 0.0", "validation is 0"),
    ],
)
def test_a_bad_file_is_one_line(file: Path, tmp_path: Path, old: str, new: str, words: str) -> None:
    file.write_text(FILE.replace(old, new), encoding="utf-8")
    with pytest.raises((ConfigError, NetworkFileError), match=words) as caught:
        run_sweep(*read_sweep(file), tmp_path / "sweep")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "sweep").exists()  # or the mended file would be refused there


def test_a_start_that_the_machine_cannot_run_is_refused_before_the_folder_is_claimed(
    file: Path, tmp_path: Path
) -> None:
    nodes = {"in": Input((2, 8, 8)), "flat": Flatten(), "fc": Linear(128, 4, weight=np.ones((4, 128))),
             "n": CubaLIF(Leak(shift=1), Leak(shift=2))}  # fmt: skip
    write_network(tmp_path / "start.npz", chain("start", nodes))
    experiment, sweep = read_sweep(file)
    with pytest.raises(ConfigError, match="spikex: layer 'fc': spikex neurons hold one state"):
        run_sweep(experiment, replace(sweep, start=str(tmp_path / "start.npz")), tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


def test_rank_correlation_and_median_error() -> None:
    report = evaluate(_silent(), load_machine("spikex")[1])

    def row(predicted: float, exact: float) -> Row:
        prediction = Prediction((predicted, 1.0), (exact, 1.0))
        return Row("x", "cotrained", 1.0, 1.0, report, None, prediction, None)

    assert correlation([row(1.1, 1.0), row(2.0, 2.0), row(3.0, 4.0)], "first") == pytest.approx((1.0, 0.1))
    assert correlation([row(3.0, 1.0), row(2.0, 2.0), row(1.0, 3.0)], "first") == pytest.approx((-1.0, 2 / 3))
    assert correlation([row(1.0, 1.0)] * 2, "first") is None
    assert correlation([row(1.0, 1.0)] * 3, "last") is None


def _silent() -> object:
    from tests.codesign.spiking import event_net, events, spikes_of

    return spikes_of(event_net(), events(2))


def test_a_batch_as_a_penalty_sees_it_is_the_recorded_workload() -> None:
    import torch

    from spikeloom.studies.cotrain import _workload
    from tests.codesign.spiking import T, event_net, events, spikes_of

    network = event_net()
    expected = spikes_of(network, events(5))
    shapes = network.shapes()
    arrived = {}
    for layer in expected.layers:
        values = layer.arrival.unpack() if isinstance(layer.arrival, Spikes) else layer.arrival.values
        shape = shapes[network.inputs_of(layer.name)[0]]
        arrived[layer.name] = torch.tensor(values.astype(np.float32)).reshape(*values.shape[:2], *shape)
    found = _workload(network, T, arrived)
    arch = load_machine("spikex")[1]
    assert evaluate(found, arch).energy_j == evaluate(expected, arch).energy_j
    levels = [layer.arrival.bits for layer in found.layers if isinstance(layer.arrival, Levels)]
    assert levels == [layer.arrival.bits for layer in expected.layers if isinstance(layer.arrival, Levels)]


def test_options_are_checked() -> None:
    with pytest.raises(ConfigError, match="beta: got -1"):
        CotrainOptions(beta=-1)


def test_two_runs_do_not_share_a_folder(file: Path, tmp_path: Path) -> None:
    from spikeloom.codesign.storage import locked

    experiment, sweep = read_sweep(file)
    folder = tmp_path / "sweep"
    folder.mkdir()
    with locked(folder / "sweep.lock", wait=False) as held:
        assert held
        with pytest.raises(ConfigError, match="another run is going on in this folder"):
            run_sweep(experiment, sweep, folder)
    assert list(folder.iterdir()) == []
