"""Joint search: every design is a network made by a recipe and the machine that runs it.

All choices are made on the training set: a part of it is held out, networks learn from the rest, and accuracy and spikes of a
design are those on the held-out part. The test set is never opened here.

Designs share what they have in common. A network is made stage by stage, each under a content id of all it depends on, in the
study's folder::

    networks/<id>.npz   a finished stage; networks/<id>/ its checkpoints while it is under way
    designs/<id>/network.npz   the network of a trial

so that a hundred machines for one network train it once, and an interrupted stage goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from spikeloom.codesign.inner import InnerSearch, prices_id, schedules
from spikeloom.codesign.machines import PREFIX, Family
from spikeloom.codesign.mapping import MappingChoices
from spikeloom.codesign.space import Choice, Params
from spikeloom.codesign.storage import StudyFolder
from spikeloom.codesign.workers import CheckpointReport
from spikeloom.core.arch import AbstractArch
from spikeloom.core.network import Network
from spikeloom.core.nodes import Synapse
from spikeloom.core.report import Trial
from spikeloom.core.trace import SpikeTrace
from spikeloom.data import Samples, first
from spikeloom.errors import ConfigError
from spikeloom.files.atomic import make_folder
from spikeloom.files.config import machine_keys, write_machine
from spikeloom.files.network import read_network, write_network
from spikeloom.lower import lower
from spikeloom.nets import create
from spikeloom.studies.experiment import (
    CHECKPOINT,
    Experiment,
    augmentation,
    execution_of,
    fit_experiment,
    samples,
    split,
    train_config,
)
from spikeloom.studies.prune import prune_gradually
from spikeloom.studies.recipe import PruningStage, QuantizingStage, Recipe
from spikeloom.transform.fold import fold


@dataclass(frozen=True)
class TrainObjective:
    """What a network made by a recipe and its machine are worth together, on held-out training samples.

    recipe: what is not chosen stays as it is here. family, inner: as in `spikeloom.codesign.trace_search.TraceObjective`.
    folder: of the study. held_out: fraction of the training set that is only scored.
    recorded: held-out samples whose spikes are counted; accuracy is that of all of them.
    """

    recipe: Recipe
    family: Family
    folder: Path
    inner: InnerSearch = field(default_factory=InnerSearch)
    held_out: float = 0.2
    recorded: int = 100
    data_dir: Path | None = None
    threads: int | None = 1

    def check(self, choice: Choice) -> None:
        """Raise SearchError unless ``choice`` is one of the machine's or the recipe's."""
        if choice.name.startswith(PREFIX):
            self.family.check(choice)
        else:
            self.recipe.check_choice(choice, self.family.layers)

    def identity(self, params: Params) -> Trial:
        """The trial without its outcome. Raises MappingError for chosen values that do not go together."""
        recipe, arch = self.recipe.at(params), self.family.at(params)
        data = samples_id(self.recipe.experiment, self.data_dir)
        started = None if recipe.network is None else _read(recipe.network).id
        config: dict[str, Any] = {
            "search": "train",
            "params": dict(params),
            **recipe.described(),
            "mapping": self.inner.described(self.inner.left(params, self.family)),
            "prices": prices_id(arch),
            "held_out": self.held_out,
            "split_seed": self._split_seed,
            "recorded": self.recorded,
            "network": started,
        }
        seed = train_config(recipe.experiment).seed
        source = hashlib.sha256(f"{data} {started}".encode()).hexdigest()
        return Trial(config, machine_keys(arch), seed, source, None, None)

    def __call__(self, params: Params, checkpoint_report: CheckpointReport | None = None) -> Trial | None:
        """Make the network, record its spikes, find the best mapping. None when a report was answered with a stop.

        Raises:
            MappingError: the machine cannot run the network.
        """
        known = self.identity(params)
        try:
            network = self.network(params, _Epochs(checkpoint_report))
        except _Stopped:
            return None
        accuracy, trace = self.tried(network, params)
        report = self.inner.report(
            lower(network, trace),
            self.family.at(params),
            self.inner.left(params, self.family),
            cache=schedules(None),
            threads=self.threads,
        )
        trial = Trial(known.config, known.arch, known.seed, known.workload_id, accuracy, report)
        if self.folder.is_dir():  # a worker may not see it; the network is then made again when it is exported
            write_network(network_file(self.folder, trial.id), network)
        return trial

    def network(self, params: Params, epochs: _Epochs | None = None) -> Network:
        """The network of a design, made stage by stage or found; its weights as the machine has them."""
        epochs = _Epochs(None) if epochs is None else epochs
        recipe = self.recipe.at(params)
        fit, held = self.split(params)
        make = _Stages(self.folder, recipe, fit, held, epochs)
        network, key = make.trained(self._split_seed, self.held_out, samples_id(self.recipe.experiment, self.data_dir))
        if recipe.cotrain is not None:
            left = self.inner.left(params, self.family) or MappingChoices()
            network, key = make.cotrained(network, key, self.family.at(params), left)
        if (cut := recipe.pruning()) is not None:
            network, key = make.pruned(network, key, cut)
        if (grid := recipe.quantizing()) is not None:
            network, key = make.quantized(network, key, grid)
        return network

    def tried(self, network: Network, params: Params) -> tuple[float, SpikeTrace]:
        """(accuracy on all held-out samples, spikes on the first of them)."""
        from spikeloom.snn.execute import evaluate
        from spikeloom.snn.record import record

        experiment = self.recipe.at(params).experiment
        _, held = self.split(params)
        some = first(held, self.recorded)
        execution = execution_of(experiment)
        origin = f"{experiment.data}/train held out, T={experiment.num_steps}, {experiment.encoding} coding"
        trace = record(network, some, execution, origin=origin, sample_ids=some.ids)
        accuracy = trace.accuracy if len(some) == len(held) else evaluate(network, held, execution)
        assert accuracy is not None
        return accuracy, trace

    def split(self, params: Params) -> tuple[Samples, Samples]:
        """(what is learned from, what is held out), the same recordings for every design."""
        everything = _training_set(self.recipe.at(params).experiment, self.data_dir)
        fit, held = split(everything, self.held_out, self._split_seed)
        if held is None or not len(held) or not len(fit):
            raise ConfigError(
                f"held_out: {self.held_out} of {len(everything)} training samples leaves none to score or none to learn "
                "from; choose another fraction"
            )
        return fit, held

    @property
    def _split_seed(self) -> int:
        return train_config(self.recipe.experiment).seed


def network_file(folder: Path, trial_id: str) -> Path:
    """Where the network of a trial lies in the study's folder."""
    return folder / "designs" / trial_id / "network.npz"


def synapses_of(recipe: Recipe, data_dir: Path | None = None) -> tuple[str, ...]:
    """Names of the layers with weights in the networks of a recipe."""
    if recipe.network is not None:
        network = _read(recipe.network)
    else:
        everything = _training_set(recipe.experiment, data_dir)
        options = dict(recipe.experiment.network_options)
        network = create(recipe.experiment.network, everything.in_shape, everything.num_classes, **options)
    return tuple(name for name, node in network.nodes.items() if isinstance(node, Synapse))


class _Stopped(Exception):
    """A report was answered with a stop."""


class _Epochs:
    """Tells the accuracy on the held-out samples after every epoch, through all stages."""

    def __init__(self, report: CheckpointReport | None) -> None:
        self.report, self.before = report, 0

    def progress(self, stage: str, done: int, total: int, figures: Mapping[str, float]) -> None:
        """As training tells it."""
        if stage == "epoch" and "validation" in figures:
            self._tell(done, figures["validation"])

    def passed(self, history: list[Mapping[str, Any]], found: bool) -> None:
        """A stage is over; one that was found finished is told now, so that it is judged like one that was trained."""
        scored = [epoch for epoch in history if epoch["validation_accuracy"] is not None]
        if found:
            for epoch in scored:
                self._tell(epoch["number"], epoch["validation_accuracy"])
        self.before += len(scored)

    def _tell(self, epoch: int, accuracy: float) -> None:
        if self.report is not None and self.report(self.before + epoch, {"accuracy": accuracy}):
            raise _Stopped


@dataclass(frozen=True)
class _Stages:
    """Makes the stages of a recipe, each once for all designs that have it in common."""

    folder: Path
    recipe: Recipe
    fit: Samples
    held: Samples
    epochs: _Epochs

    def trained(self, split_seed: int, held_out: float, data: str) -> tuple[Network, str]:
        """The first stage: trained from scratch, or the network that was given."""
        if self.recipe.network is not None:
            network = fold(_read(self.recipe.network))
            return network, network.id
        experiment = replace(self.recipe.experiment, validation=0.0, name="")
        what = {"train": asdict(experiment), "split_seed": split_seed, "held_out": held_out, "data": data}
        if experiment.start is not None:
            what["start"] = _read(experiment.start).id

        def make(folder: Path) -> Network:
            network, _ = fit_experiment(experiment, self.fit, self.held, folder, progress=self.epochs.progress)
            return network

        return self._made(what, make)

    def cotrained(self, network: Network, parent: str, arch: AbstractArch, left: MappingChoices) -> tuple[Network, str]:
        """Trained on with the price of its spikes on ``arch``."""
        from spikeloom.studies.cotrain import cotrain_network

        mapping = {name: list(values) for name, values in asdict(left).items()}
        options = self.recipe.cotraining("spikex", mapping)
        assert options is not None
        told = {**asdict(options), "machine": machine_keys(arch)}
        what = {"cotrain": told, "parent": parent, "experiment": asdict(replace(self.recipe.experiment, name=""))}

        def make(folder: Path) -> Network:
            machine = folder / "machine.toml"
            write_machine(machine, arch)
            done = cotrain_network(
                network,
                self.recipe.experiment,
                replace(options, machine=str(machine)),
                self.fit,
                self.held,
                checkpoint=folder / CHECKPOINT,
                progress=self.epochs.progress,
            )
            return _with_history(done.network, [asdict(epoch) for epoch in done.history])

        return self._made(what, make)

    def pruned(self, network: Network, parent: str, stage: PruningStage) -> tuple[Network, str]:
        """Cut, and trained on where the stage has epochs."""
        plan = stage.plan()
        if not plan.epochs:
            return plan.applied(network, plan.sparsity, network), _key({"prune": asdict(stage), "parent": parent})
        config = replace(train_config(self.recipe.experiment), learning_rate=self.recipe.tuning_rate(stage))

        def make(folder: Path) -> Network:
            augment = augmentation(self.recipe.experiment)
            cut, _ = prune_gradually(network, plan, self.fit, config, folder, augment=augment)
            return _with_history(cut, [])

        return self._made({"prune": asdict(stage), "training": asdict(config), "parent": parent}, make)

    def quantized(self, network: Network, parent: str, stage: QuantizingStage) -> tuple[Network, str]:
        """In integers, trained on their grid where the stage has epochs; weights that were pruned stay zero."""
        from spikeloom.snn.train import train
        from spikeloom.transform.prune import mask_rule
        from spikeloom.transform.quantize import on_grid, quantize

        widths = stage.widths()
        assert widths is not None
        if not stage.epochs:
            return quantize(network, widths), _key({"quantize": asdict(stage), "parent": parent})
        config = replace(
            train_config(self.recipe.experiment),
            epochs=stage.epochs,
            learning_rate=self.recipe.tuning_rate(stage),
            weight_decay=0.0,
            initial_rate=None,
            precision="fp32",
        )

        def make(folder: Path) -> Network:
            start, grid = on_grid(network, widths)
            mask = mask_rule(network)
            done = train(
                start,
                self.fit,
                config,
                validation=self.held,
                augment=augmentation(self.recipe.experiment),
                weight_rule=lambda name, weight: grid(name, mask(name, weight)),
                checkpoint=folder / CHECKPOINT,
                progress=self.epochs.progress,
            )
            return _with_history(quantize(done.network, widths), [asdict(epoch) for epoch in done.history])

        return self._made({"quantize": asdict(stage), "training": asdict(config), "parent": parent}, make)

    def _made(self, what: Mapping[str, Any], make: Callable[[Path], Network]) -> tuple[Network, str]:
        """The stage of this content id: found, waited for, or made."""
        key = _key(what)
        if not self.folder.is_dir():  # a worker that does not see the study's folder
            with tempfile.TemporaryDirectory(prefix="spikeloom-") as apart:
                return self._noted(make(Path(apart)), found=False), key
        make_folder(self.folder / "networks")
        path = self.folder / "networks" / f"{key}.npz"
        with StudyFolder(self.folder, "").claim(f"network-{key}"):
            if path.exists():
                return self._noted(read_network(path), found=True), key
            work = path.with_suffix("")
            make_folder(work)
            network = make(work)
            write_network(path, network)
            for left in work.iterdir():
                left.unlink()
            work.rmdir()
        return self._noted(network, found=False), key

    def _noted(self, network: Network, *, found: bool) -> Network:
        self.epochs.passed(network.metadata.get("history", []), found)
        return network


def samples_id(experiment: Experiment, data_dir: Path | None = None) -> str:
    """Content id of an experiment's training set: of every pixel, event and label."""
    return _content_id(_training_set(experiment, data_dir))


@lru_cache(maxsize=4)
def _content_id(found: Samples) -> str:
    digest = hashlib.sha256()
    for item in fields(found):
        value = getattr(found, item.name)
        shape = f"{value.dtype}{value.shape}" if isinstance(value, np.ndarray) else repr(value)
        digest.update(f"{item.name}={shape};".encode())
        if isinstance(value, np.ndarray):
            digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def _training_set(experiment: Experiment, data_dir: Path | None) -> Samples:
    steps = experiment.num_steps if experiment.encoding == "events" else 0
    return _loaded(experiment.data, json.dumps(dict(experiment.data_options)), experiment.encoding, steps, data_dir)


@lru_cache(maxsize=4)
def _loaded(data: str, options: str, encoding: str, num_steps: int, data_dir: Path | None) -> Samples:
    train = {"num_steps": num_steps, "encoding": encoding}
    return samples(Experiment(data, "", train, json.loads(options)), "train", data_dir)


def _read(network: str) -> Network:
    return _read_at(network, Path(network).stat().st_mtime_ns if Path(network).exists() else 0)


@lru_cache(maxsize=4)
def _read_at(network: str, written_ns: int) -> Network:
    return read_network(network)


def _key(what: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:32]


def _with_history(network: Network, history: list[dict[str, Any]]) -> Network:
    return replace(network, metadata={**network.metadata, "history": history})
