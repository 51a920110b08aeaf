"""Hardware-aware training: a trained network goes on learning while its spikes cost what the machine would charge for them.

Two stages, as published (SpikeX, arXiv:2505.12292): plain training to the best accuracy, then training with
``task + beta * log(EDP / EDP_0)``. Between updates the exact model is asked again, every ``refresh`` epochs: the best mapping for
the spikes of the batch at hand, and new tables for it. That alternation is first-order bi-level: weights move by gradient, the
architecture by exact optimum.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spikeloom.codesign.curves import Curve, Thinning, draw_curves, fills, predicted
from spikeloom.codesign.mapping import MappingChoices, best_global_window, best_mapping, time_batched
from spikeloom.core.arch import AbstractArch
from spikeloom.core.network import Network
from spikeloom.core.report import Report, Trial
from spikeloom.core.trace import Levels, Spikes, SpikeTrace
from spikeloom.core.workload import Workload
from spikeloom.data import Samples
from spikeloom.errors import ConfigError
from spikeloom.evaluate import ARCH_TYPES, PRESETS, evaluate, load_machine
from spikeloom.files.atomic import make_folder
from spikeloom.files.config import machine_from, machine_keys, write_machine
from spikeloom.files.network import read_network, write_network
from spikeloom.files.results import append_trial
from spikeloom.files.schema import dataclass_from, read_toml
from spikeloom.hw.spikex import SpikexArch
from spikeloom.lower import lower
from spikeloom.studies.experiment import (
    CHECKPOINT,
    Experiment,
    augmentation,
    execution_of,
    fit_experiment,
    read_experiment,
    samples,
    train_config,
    training_samples,
    with_weights,
)
from spikeloom.transform.fold import fold

if TYPE_CHECKING:
    from torch import Tensor

    from spikeloom.snn.execute import Progress
    from spikeloom.snn.train import Epoch


#: A machine with its mapping, and the curves of its layers under it.
Tables = tuple[AbstractArch, Mapping[str, Curve]]


@dataclass(frozen=True, kw_only=True)
class CotrainOptions:
    """What hardware-aware training needs beside the experiment.

    machine: preset, machine file, or either with changed fields (``spikex:rows=4``).
    beta: weight of log(EDP / EDP_0). rate: of the mean firing rate. bit_synops: of the Bit-SynOps relative to the start.
    epochs, learning_rate, weight_decay: of the second stage; None for the experiment's. Weight decay keeps membranes near the
        threshold, where the surrogate gradient can still take a spike away.
    refresh: epochs between two drawings of the tables (and searches of the mapping); 0 keeps the first ones.
    windows, dispatches, orders, merges: among which each layer's mapping is chosen.
    samples: recordings from which tables and mapping are drawn at the start; later those of one batch.
    thinning: see `spikeloom.codesign.curves.Thinning`.
    """

    machine: str = "spikex"
    beta: float = 1.0
    rate: float = 0.0
    bit_synops: float = 0.0
    epochs: int = 30
    learning_rate: float | None = None
    weight_decay: float | None = None
    refresh: int = 2
    windows: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    dispatches: tuple[str, ...] = ("agile", "temporal", "ptb")
    orders: tuple[str, ...] = ("raster", "interleave")
    merges: tuple[int, ...] = (1, 2, 8)
    samples: int = 32
    thinning: Thinning = "spike"

    def __post_init__(self) -> None:
        for name in ("beta", "rate", "bit_synops"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name}: got {getattr(self, name)}, expected a weight of 0 or more")
        if self.learning_rate is not None and not 0 < self.learning_rate < float("inf"):
            raise ConfigError(f"learning_rate: got {self.learning_rate}, expected a rate above 0")
        if self.weight_decay is not None and not 0 <= self.weight_decay < float("inf"):
            raise ConfigError(f"weight_decay: got {self.weight_decay}, expected a weight of 0 or more")
        for name, low in (("epochs", 1), ("samples", 1), ("refresh", 0)):
            if getattr(self, name) < low:
                raise ConfigError(f"{name}: got {getattr(self, name)}, expected at least {low}")
        _ = self.choices  # refused now, not after the first stage

    @property
    def choices(self) -> MappingChoices:
        """What a layer's mapping may be."""
        return MappingChoices(self.windows, self.dispatches, self.orders, self.merges)


@dataclass(frozen=True, eq=False)
class Prediction:
    """Tables held against the exact model, on recordings that were used neither for training nor for the tables.

    predicted, exact: (energy_j, latency_s) per inference under the tables' own mapping.
    """

    predicted: tuple[float, float]
    exact: tuple[float, float]

    @property
    def edp_error(self) -> float:
        """Predicted over exact EDP, less 1."""
        return self.predicted[0] * self.predicted[1] / (self.exact[0] * self.exact[1]) - 1


@dataclass(frozen=True, eq=False)
class Cotrained:
    """A network and the machine it was trained for.

    network: normalisation folded. arch: the best mapping on training recordings. tables: (machine, curves) in use at the end.
    """

    network: Network
    arch: AbstractArch
    history: tuple[Epoch, ...]
    tables: Tables


def cotrain_network(
    network: Network,
    experiment: Experiment,
    options: CotrainOptions,
    fit: Samples,
    held: Samples | None = None,
    *,
    seed: int | None = None,
    checkpoint: Path | None = None,
    resume: bool = True,
    progress: Progress | None = None,
) -> Cotrained:
    """Train ``network`` on with the price of its spikes in the loss.

    Args:
        network: trained plainly, with weights.
        experiment: data, encoding and training of the first stage; epochs and peak rate come from ``options``.
        options: see `CotrainOptions`.
        fit: what is trained on and what tables and mappings are drawn from.
        held: scored after every epoch.
        seed: instead of the experiment's.
        checkpoint: state after the last finished epoch.
        resume: go on from ``checkpoint`` if it is there.
        progress: told after every batch and epoch.

    Raises:
        ConfigError: options or machine that cannot be.
        MappingError: a layer that the machine cannot run.
        NetworkError, NetworkFileError: as `spikeloom.snn.train.train`.
    """
    from spikeloom.codesign.penalty import HardwarePenalty
    from spikeloom.snn.train import train

    arch = time_batched(load_machine(options.machine)[1])
    _check_float(network)
    changes: dict[str, Any] = {"epochs": options.epochs, "initial_rate": None}
    for key in ("learning_rate", "weight_decay"):
        if getattr(options, key) is not None:
            changes[key] = getattr(options, key)
    if seed is not None:
        changes["seed"] = seed
    config = replace(train_config(experiment), **changes)
    start = recorded(network, experiment, fit, options.samples)
    tables = _tables(start, arch, options)

    def redraw(arrived: Mapping[str, Tensor]) -> tuple[dict[str, Any], Mapping[str, Curve]]:
        chosen, curves = _tables(_workload(network, experiment.num_steps, arrived), arch, options)
        return machine_keys(chosen), curves

    updates = -(-len(fit) // config.batch_size)
    penalty = HardwarePenalty(
        tables[1],
        beta=options.beta,
        machine=machine_keys(tables[0]),
        rate=options.rate,
        bit_synops=options.bit_synops,
        fanout=_fanout(start, network) if options.bit_synops else None,
        redraw=redraw if options.refresh else None,
        refresh=options.refresh * updates,
    )
    trained = train(
        network,
        fit,
        config,
        validation=held,
        penalty=penalty,
        augment=augmentation(experiment),
        checkpoint=checkpoint,
        resume=resume,
        progress=progress,
    )
    folded = fold(trained.network)
    done = recorded(folded, experiment, fit, options.samples)
    return Cotrained(
        folded,
        best_mapping(done, arch, options.choices).arch,
        trained.history,
        (machine_from(penalty.machine, ARCH_TYPES, PRESETS, "checkpoint"), penalty.curves),
    )


def _check_float(network: Network) -> None:
    if network.arithmetic == "integer":
        raise ConfigError(
            f"network '{network.name}' computes with integers, which have no gradients; start from the float one"
        )


def predict_cost(tables: Tables, workload: Workload) -> Prediction:
    """What tables say about spikes they were not drawn from, and the exact cost on the same mapping."""
    arch, curves = tables
    report = evaluate(workload, arch)
    exact = (report.energy_per_inference_j, report.latency_per_inference_s)
    return Prediction(predicted(curves, fills(workload, arch, curves)), exact)


def recorded(network: Network, experiment: Experiment, source: Samples, limit: int | None = None) -> Workload:
    """The spikes of ``network`` on the first ``limit`` samples of ``source``, as a workload."""
    from spikeloom.snn.record import record

    some = source if limit is None or limit >= len(source) else source.take(np.arange(limit))
    return lower(network, record(network, some, execution_of(experiment)))


def _tables(workload: Workload, arch: SpikexArch, options: CotrainOptions) -> Tables:
    """The machine with its best mapping for these spikes, and the curves under it."""
    chosen = best_mapping(workload, arch, options.choices).arch
    return chosen, draw_curves(workload, chosen, thinning=options.thinning)


def _workload(network: Network, num_steps: int, arrived: Mapping[str, Tensor]) -> Workload:
    """A batch's arrivals, as they come to a penalty, as a workload."""
    from spikeloom.snn.arrivals import received_signals

    signals = received_signals(network)
    arrivals: dict[str, Spikes | Levels] = {}
    num_samples = 0
    for name, x in arrived.items():
        values = x.detach().float().round().to("cpu").numpy()
        num_samples = values.shape[1]
        signal = signals[name]
        if signal.kind == "spikes":
            arrivals[name] = Spikes.pack(values != 0)
        else:
            kind = np.int16 if signal.signed else np.uint16
            arrivals[name] = Levels(
                values.astype(kind), max(1, int(signal.max_level).bit_length()), signal.signed, signal.kind == "analog"
            )
    return lower(network, SpikeTrace(num_steps, num_samples, arrivals))


def _fanout(workload: Workload, network: Network) -> dict[str, np.ndarray]:
    """Bit-SynOps of one spike: (output, weight) pairs it meets times the bits of the weight; by synapse, the shape of its input."""
    shapes = network.shapes()
    found = {}
    for layer in workload.layers:
        if layer.inputs and layer.kind in ("conv1d", "conv2d", "linear"):
            shape = shapes[network.inputs_of(layer.name)[0]]
            found[layer.name] = (layer.fanout_CHW() * layer.weight_bits).reshape(shape)
    return found


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
        if not self.betas or len(set(self.betas)) < len(self.betas):
            raise ConfigError(f"betas: got {list(self.betas)}, expected at least one and none twice")
        for beta in self.betas:
            if not 0 <= beta < float("inf"):
                raise ConfigError(f"betas: got {beta}, expected weights of 0 or more")
        if len({f"{beta:g}" for beta in self.betas}) < len(self.betas):
            raise ConfigError(f"betas: got {list(self.betas)}, expected weights that differ in the first six digits")


@dataclass(frozen=True, eq=False)
class Row:
    """One network on one machine, on recordings that nothing was trained on.

    what: "baseline", "mapping" (the start on the machine, mapping free), or "cotrained". rates: firing rate of what arrives at each
    layer behind the first. first, last: the tables' predictions, of a co-trained network.
    """

    name: str
    what: str
    beta: float
    accuracy: float
    report: Report
    rates: Mapping[str, float]
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
        ConfigError: nothing held out, or a folder of another sweep.
    """
    fit, held = training_samples(experiment, data_dir)
    if held is None:
        raise ConfigError(
            f"experiment '{experiment.name}': validation is 0, so no recording is left to measure on; "
            "hold out a part of the training set, e.g. validation = 0.1"
        )
    for file in (sweep.start, sweep.warm):
        if file is not None:
            _check_float(
                read_network(file)
            )  # before the folder is this sweep's, or the mended file would be refused there
    make_folder(folder)
    _claim(folder, experiment, sweep, resume)
    start = _start(experiment, sweep, fit, held, folder / "start", resume, progress)
    shown = samples(experiment, "test", data_dir) if test else held
    baselines = _baselines(start, experiment, sweep, fit, shown)
    rows = [*baselines]
    begun = start if sweep.warm is None else with_weights(start, fold(read_network(sweep.warm)), sweep.warm)
    arch = time_batched(load_machine(sweep.options.machine)[1])
    tables = _tables(recorded(begun, experiment, fit, sweep.options.samples), arch, sweep.options)
    for beta in sweep.betas:
        row, trained = _second_stage(
            begun, experiment, sweep, beta, (fit, held, shown), tables, folder, resume, progress
        )
        rows.append(row)
        begun = trained if sweep.chain else begun
    log = folder / ("test.jsonl" if test else "results.jsonl")
    log.unlink(missing_ok=True)
    for row in rows:
        config = {"experiment": asdict(experiment), "sweep": asdict(sweep), "beta": row.beta, "row": row.name}
        seed = train_config(experiment).seed
        append_trial(log, Trial(config, row.report.arch, seed, row.report.workload_id, row.accuracy, row.report))
    return tuple(rows)


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
    rows = []
    for spec in sweep.baselines:
        arch = best_global_window(training, time_batched(load_machine(spec)[1]), options.windows).arch
        label = f"{spec} L={arch.window}"
        rows.append(Row(label, "baseline", 0.0, accuracy, evaluate(workload, arch, label=label), _rates(workload)))
    arch = best_mapping(training, time_batched(load_machine(options.machine)[1]), options.choices).arch
    label = f"{options.machine} mapped"
    rows.append(Row(label, "mapping", 0.0, accuracy, evaluate(workload, arch, label=label), _rates(workload)))
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
        _rates(workload),
        predict_cost(tables, workload),
        predict_cost(done.tables, workload),
    )
    return row, done.network


def _accuracy(network: Network, experiment: Experiment, source: Samples) -> float:
    from spikeloom.snn.execute import evaluate as scored

    return scored(network, source, execution_of(experiment))


def _rates(workload: Workload) -> dict[str, float]:
    """Firing rate of what arrives at each layer behind the first; pools hand on what they get."""
    return {
        layer.name: layer.arrival.density()
        for layer in workload.layers
        if layer.inputs and isinstance(layer.arrival, Spikes)
    }
