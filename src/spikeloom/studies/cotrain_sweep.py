"""A sweep of hardware-aware training: both stages for every beta, beside the baselines, in a folder of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spikeloom.codesign.inner import priced_as
from spikeloom.codesign.mapping import best_global_window, best_mapping, time_batched
from spikeloom.codesign.storage import locked
from spikeloom.core.arch import AbstractArch
from spikeloom.core.network import Network
from spikeloom.core.report import Report, Trial
from spikeloom.core.trace import Arrival, Spikes, SpikeTrace
from spikeloom.data import Samples
from spikeloom.errors import ConfigError, MappingError
from spikeloom.evaluate import evaluate, load_machine
from spikeloom.files.atomic import make_folder
from spikeloom.files.config import write_machine
from spikeloom.files.network import read_network, write_network
from spikeloom.files.results import append_trial
from spikeloom.files.schema import dataclass_from, read_toml
from spikeloom.hw import HARDWARE
from spikeloom.lower import lower
from spikeloom.studies.cotrain import (
    CotrainOptions,
    Prediction,
    Tables,
    check_float,
    cotrain_network,
    predict_cost,
    recorded,
    tables_for,
)
from spikeloom.studies.experiment import (
    CHECKPOINT,
    Experiment,
    execution_of,
    fit_experiment,
    network_to_train,
    read_experiment,
    samples,
    train_config,
    training_samples,
    with_weights,
)
from spikeloom.studies.search import hidden_rate
from spikeloom.transform.fold import fold

if TYPE_CHECKING:
    from spikeloom.snn.execute import Progress


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The ``[cotrain]`` table of an experiment file.

    start: network to go on from; without one the experiment is trained plainly first.
    warm: network whose weights the second stages begin with instead, e.g. one co-trained at fewer steps.
    betas: one second stage each, from the same start. chain: each from the network of the beta before it instead. baselines: presets or machine files that the start runs on, each with its
        best window for the whole network.
    options: what all second stages share.
    """

    start: str | None = None
    warm: str | None = None
    betas: tuple[float, ...] = (0.3, 1.0, 3.0)
    chain: bool = False
    baselines: tuple[str, ...] = ("ptb", "snn-dense")
    options: CotrainOptions = field(default_factory=CotrainOptions)

    def __post_init__(self) -> None:
        for beta in self.betas:
            if not 0 <= beta < float("inf"):
                raise ConfigError(f"betas: got {beta}, expected weights of 0 or more")
        if not self.betas or len({f"{beta:g}" for beta in self.betas}) < len(self.betas):
            raise ConfigError(
                f"betas: got {list(self.betas)}, expected one or more that differ in the first six digits"
            )


@dataclass(frozen=True, eq=False)
class Row:
    """One network on one machine, on recordings that nothing was trained on.

    what: "baseline", "mapping" (the start on the machine, mapping free), or "cotrained". hidden_rate: of
    `spikeloom.studies.search`. first, last: the tables' predictions, of a co-trained network.
    """

    name: str
    what: str
    beta: float
    accuracy: float
    report: Report
    hidden_rate: float | None
    first: Prediction | None = None
    last: Prediction | None = None


def read_sweep(path: str | Path, changes: Mapping[str, Any] | None = None) -> tuple[Experiment, Sweep]:
    """An experiment file with a ``[cotrain]`` table. Raises ConfigError naming file and key.

    changes: fields of ``[train]`` that replace those of the file.
    """
    raw = read_toml(path)
    table = raw.pop("cotrain", None)
    if not isinstance(table, Mapping):
        raise ConfigError(f"{path}: cotrain: got {table!r}, expected a table [cotrain]; see docs/guide/cotrain.md")
    experiment = read_experiment(path, changes, without=("cotrain",))
    own = {item for item in Sweep.__dataclass_fields__ if item != "options"}
    where = f"{path}: cotrain"
    options = dataclass_from(CotrainOptions, {k: v for k, v in table.items() if k not in own}, where)
    sweep = dataclass_from(Sweep, {k: v for k, v in table.items() if k in own}, where)
    for spec in (options.machine, *sweep.baselines):
        time_batched(load_machine(spec)[1])
    return experiment, replace(sweep, options=options)


def run_sweep(
    experiment: Experiment,
    sweep: Sweep,
    folder: Path,
    *,
    data_dir: Path | None = None,
    resume: bool = True,
    test: bool = False,
    progress: Progress | None = None,
) -> tuple[Row, ...]:
    """Both stages for every beta; what each network costs on held-out recordings, beside the baselines.

    Writes into ``folder``: ``start/network.npz``, ``beta-B/network.npz`` and ``machine.toml``, and a line of ``results.jsonl`` for every
    row. What is there is not done again; an interrupted stage goes on after its last finished epoch.

    Args:
        experiment: with ``validation``, the fraction of the training set that is held out.
        sweep: see `Sweep`.
        folder: of this sweep alone.
        data_dir: folder of data sets.
        resume: False starts over.
        test: measure on the test set instead of the held-out recordings.
        progress: told after every batch and epoch.

    Raises:
        ConfigError: nothing held out, a folder of another sweep, or one in which another run is going on.
    """
    fit, held = training_samples(experiment, data_dir)
    if held is None:
        raise ConfigError(
            f"experiment '{experiment.name}': validation is 0, so no recording is left to measure on; "
            "hold out a part of the training set, e.g. validation = 0.1"
        )
    for file in (sweep.start, sweep.warm):
        if file is not None:
            # before the folder is this sweep's, or the mended file would be refused there
            check_float(read_network(file))
    network = network_to_train(experiment, fit) if sweep.start is None else read_network(sweep.start)
    for spec in (sweep.options.machine, *sweep.baselines):
        _check_machine(network, time_batched(load_machine(spec)[1]), spec)
    make_folder(folder)
    with locked(folder / "sweep.lock", wait=False) as alone:
        if not alone:
            raise ConfigError(
                f"{folder}: another run is going on in this folder; wait for it, or name another with --out"
            )
        _claim(folder, experiment, sweep, resume)
        parts = (fit, held, samples(experiment, "test", data_dir) if test else held)
        rows = _measured(experiment, sweep, parts, folder, resume, progress)
        _write_rows(folder / ("test.jsonl" if test else "results.jsonl"), experiment, sweep, rows)
    return rows


def _check_machine(network: Network, arch: AbstractArch, spec: str) -> None:
    """Raise ConfigError unless the machine can run every layer of ``network``."""
    shapes = network.shapes()
    silence: dict[str, Arrival] = {
        name: Spikes.pack(np.zeros((1, 1, *shapes[network.inputs_of(name)[0]]))) for name in network.layers()
    }
    try:
        HARDWARE[arch.model].map(lower(network, SpikeTrace(1, 1, silence)), arch)
    except MappingError as error:
        raise ConfigError(f"{spec}: {error}") from None


def _measured(
    experiment: Experiment,
    sweep: Sweep,
    parts: tuple[Samples, Samples, Samples],
    folder: Path,
    resume: bool,
    progress: Progress | None,
) -> tuple[Row, ...]:
    """Every row; ``parts``: what is trained on, held out, and shown."""
    fit, held, shown = parts
    start = _start(experiment, sweep, fit, held, folder / "start", resume, progress)
    baselines = _baselines(start, experiment, sweep, fit, shown)
    rows = [*baselines]
    begun = start if sweep.warm is None else with_weights(start, fold(read_network(sweep.warm)), sweep.warm)
    arch = time_batched(load_machine(sweep.options.machine)[1])
    tables = tables_for(recorded(begun, experiment, fit, sweep.options.samples), arch, sweep.options)
    for beta in sweep.betas:
        row, trained = _second_stage(begun, experiment, sweep, beta, parts, tables, folder, resume, progress)
        rows.append(row)
        begun = trained if sweep.chain else begun
    return tuple(rows)


def _write_rows(log: Path, experiment: Experiment, sweep: Sweep, rows: Sequence[Row]) -> None:
    """A line for each row, in the place of what was there."""
    log.unlink(missing_ok=True)
    seed = train_config(experiment).seed
    for row in rows:
        config = {"experiment": asdict(experiment), "sweep": asdict(sweep), "beta": row.beta, "row": row.name}
        append_trial(log, Trial(config, row.report.arch, seed, row.report.workload_id, row.accuracy, row.report))


def correlation(rows: Sequence[Row], tables: str) -> tuple[float, float] | None:
    """(Spearman rank correlation, median size of the relative error) of predicted EDP over the co-trained rows; None for fewer than 3.

    tables: "first" or "last".
    """
    found = [p for row in rows if (p := row.first if tables == "first" else row.last) is not None]
    if len(found) < 3:
        return None
    guess = np.array([p.predicted[0] * p.predicted[1] for p in found])
    exact = np.array([p.exact[0] * p.exact[1] for p in found])
    ranks = [np.argsort(np.argsort(x)).astype(np.float64) for x in (guess, exact)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1]), float(np.median(np.abs(guess / exact - 1)))


def _claim(folder: Path, experiment: Experiment, sweep: Sweep, resume: bool) -> None:
    """The folder is this sweep's: betas may be added, all else must be as it was."""
    identity = json.dumps([asdict(experiment), asdict(replace(sweep, betas=(0.0,)))], sort_keys=True, default=list)
    place = folder / "sweep.json"
    if resume and place.exists() and place.read_text(encoding="utf-8") != identity:
        raise ConfigError(f"{folder}: holds another sweep; name another folder, or start over with --fresh")
    place.write_text(identity, encoding="utf-8")


def _start(
    experiment: Experiment,
    sweep: Sweep,
    fit: Samples,
    held: Samples,
    folder: Path,
    resume: bool,
    progress: Progress | None,
) -> Network:
    """The network of the first stage."""
    if sweep.start is not None:
        return fold(read_network(sweep.start))
    done = folder / "network.npz"
    if not (resume and done.exists()):
        network, _ = fit_experiment(experiment, fit, held, folder, resume=resume, progress=progress)
        write_network(done, network)
        (folder / CHECKPOINT).unlink(missing_ok=True)
    return read_network(done)


def _baselines(start: Network, experiment: Experiment, sweep: Sweep, fit: Samples, shown: Samples) -> tuple[Row, ...]:
    """The start on the baselines at their best window, and on the machine with its mapping free; chosen on training recordings."""
    options = sweep.options
    training = recorded(start, experiment, fit, options.samples)
    workload = recorded(start, experiment, shown)
    accuracy = _accuracy(start, experiment, shown)
    rows, machine = [], time_batched(load_machine(options.machine)[1])
    for spec in sweep.baselines:
        baseline = priced_as(load_machine(spec)[1], machine)
        arch = best_global_window(training, baseline, options.windows).arch
        label = f"{spec} L={arch.window}"
        rows.append(Row(label, "baseline", 0.0, accuracy, evaluate(workload, arch, label=label), hidden_rate(workload)))
    arch = best_mapping(training, machine, options.choices).arch
    label = f"{options.machine} mapped"
    rows.append(Row(label, "mapping", 0.0, accuracy, evaluate(workload, arch, label=label), hidden_rate(workload)))
    return tuple(rows)


def _second_stage(
    start: Network,
    experiment: Experiment,
    sweep: Sweep,
    beta: float,
    parts: tuple[Samples, Samples, Samples],
    tables: Tables,
    folder: Path,
    resume: bool,
    progress: Progress | None,
) -> tuple[Row, Network]:
    """Train with one beta, unless that is done, and measure; ``tables``: those drawn before any second stage."""
    fit, held, shown = parts
    own = folder / f"beta-{beta:g}"
    make_folder(own)
    options = replace(sweep.options, beta=beta)
    checkpoint = own / CHECKPOINT
    done = cotrain_network(
        start, experiment, options, fit, held, checkpoint=checkpoint, resume=resume, progress=progress
    )
    write_network(own / "network.npz", done.network)
    write_machine(own / "machine.toml", done.arch)
    workload = recorded(done.network, experiment, shown)
    label = f"{options.machine} beta={beta:g}"
    row = Row(
        label,
        "cotrained",
        beta,
        _accuracy(done.network, experiment, shown),
        evaluate(workload, done.arch, label=label),
        hidden_rate(workload),
        predict_cost(tables, workload),
        predict_cost(done.tables, workload),
    )
    return row, done.network


def _accuracy(network: Network, experiment: Experiment, source: Samples) -> float:
    from spikeloom.snn.execute import evaluate as scored

    return scored(network, source, execution_of(experiment))
