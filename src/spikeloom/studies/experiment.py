"""An experiment: a data set, a network and how it is trained; from its file to a trained network and a trace."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spikeloom.core.network import Network
from spikeloom.core.nodes import Conv1d, Conv2d, Linear
from spikeloom.core.trace import SpikeTrace
from spikeloom.data import (
    DATASETS,
    Augmentation,
    Recordings,
    Samples,
    check_options,
    first,
    load,
    random_flip,
    random_shift,
)
from spikeloom.errors import ConfigError, DataError, NetworkError
from spikeloom.files.atomic import make_folder
from spikeloom.files.network import read_network, write_network
from spikeloom.files.schema import dataclass_from, nearest, read_toml
from spikeloom.nets import NETWORKS, NetOptions, create

if TYPE_CHECKING:
    from spikeloom.snn.execute import Execution, Progress
    from spikeloom.snn.train import Epoch, TrainConfig

#: Experiments that ship with the package.
EXPERIMENTS = ("digits", "mnist", "mnist-ann", "nmnist", "nmnist-300", "cifar10", "cifar10-ann")

#: State of an unfinished training run in its folder.
CHECKPOINT = "checkpoint.pt"
#: Fine-tuning starts at this part of the learning rate that the network was trained with.
GENTLE = 0.1


@dataclass(frozen=True)
class Experiment:
    """What a training file says.

    data, network: keys of DATASETS and NETWORKS. data_options, network_options: what these take.
    train: fields of ``snn.train.TrainConfig``. start: network file whose weights training starts from.
    validation: fraction of the training set held out and scored after every epoch. split_seed: of what is held out, the training's
        seed where absent; runs of several seeds that are compared should hold out the same.
    shift: largest random shift of training maps in pixels, 0 for none. flip: mirror half of them left to right.
    """

    data: str
    network: str
    train: Mapping[str, Any]
    data_options: Mapping[str, Any] = field(default_factory=dict)
    network_options: Mapping[str, Any] = field(default_factory=dict)
    start: str | None = None
    validation: float = 0.0
    split_seed: int | None = None
    shift: int = 0
    flip: bool = False
    name: str = ""

    @property
    def told(self) -> dict[str, Any]:
        """As a network's metadata hold it."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    @property
    def num_steps(self) -> int:
        """T."""
        return int(self.train["num_steps"])

    @property
    def encoding(self) -> str:
        """Key of ENCODINGS."""
        return str(self.train.get("encoding", "direct"))


def experiment_title(name: str) -> str:
    """The comment line at the top of a shipped experiment."""
    text = (resources.files(__package__) / "experiments" / f"{name}.toml").read_text(encoding="utf-8")
    return text.splitlines()[0].removeprefix("# ")


def read_experiment(
    name_or_path: str | Path, changes: Mapping[str, Any] | None = None, *, without: Collection[str] = ()
) -> Experiment:
    """Read a shipped experiment by name or an experiment file.

    changes: fields of ``[train]`` that replace those of the file. without: keys of the file that are somebody else's.
    Raises ConfigError naming file and key.
    """
    text = str(name_or_path)
    if text in EXPERIMENTS:
        with resources.as_file(resources.files(__package__) / "experiments" / f"{text}.toml") as path:
            raw = read_toml(path)
    elif Path(text).suffix == ".toml" or os.path.exists(text):
        raw = read_toml(text)
    else:
        raise ConfigError(
            f"{text}: no such experiment{nearest(text, EXPERIMENTS)}; expected {', '.join(EXPERIMENTS)} or a .toml file"
        )
    train = raw.get("train", {})
    if not isinstance(train, Mapping):
        raise ConfigError(f"{text}: train: got {train!r}, expected a table of fields of the training")
    raw = {key: value for key, value in raw.items() if key not in without} | {"train": {**train, **(changes or {})}}
    return replace(_experiment_from(raw, text), name=Path(text).stem)


def _experiment_from(raw: Mapping[str, Any], where: str) -> Experiment:
    """An experiment from its keys, every value checked. Raises ConfigError naming file and key."""
    experiment = dataclass_from(Experiment, raw, where)
    for key, got, known in (("data", experiment.data, DATASETS), ("network", experiment.network, NETWORKS)):
        if got not in known:
            raise ConfigError(f"{where}: {key}: got '{got}'{nearest(got, known)}, expected one of {', '.join(known)}")
    if not 0 <= experiment.validation < 1:
        raise ConfigError(f"{where}: validation: got {experiment.validation}, expected 0 up to 1")
    if experiment.split_seed is not None and experiment.split_seed < 0:
        raise ConfigError(f"{where}: split_seed: got {experiment.split_seed}, expected 0 or more")
    if experiment.shift < 0:
        raise ConfigError(f"{where}: shift: got {experiment.shift}, expected 0 or more pixels")
    train_config(experiment, where)
    try:
        check_options(experiment.data, experiment.data_options)
    except DataError as error:
        raise ConfigError(f"{where}: data_options: {error}") from None
    try:
        execution_of(experiment)
    except NetworkError as error:
        raise ConfigError(f"{where}: train: {error}") from None
    dataclass_from(NetOptions, dict(experiment.network_options), f"{where}: network_options")
    return experiment


def train_config(experiment: Experiment, where: str = "experiment") -> TrainConfig:
    """The training part, checked."""
    from spikeloom.snn.train import TrainConfig

    return dataclass_from(TrainConfig, dict(experiment.train), f"{where}: train")


def tuning_config(experiment: Experiment, epochs: int, learning_rate: float | None, **changes: Any) -> TrainConfig:
    """Training that goes on from a trained network; its peak learning rate, None for GENTLE times the experiment's."""
    config = train_config(experiment)
    rate = GENTLE * config.learning_rate if learning_rate is None else learning_rate
    return replace(config, epochs=epochs, learning_rate=rate, initial_rate=None, **changes)


def samples(experiment: Experiment, split: str, data_dir: Path | None = None, limit: int | None = None) -> Samples:
    """The first ``limit`` samples of a split of the experiment's data; recordings are cut into as many frames as there are steps."""
    options = dict(experiment.data_options)
    if experiment.encoding == "events":
        options.setdefault("num_steps", experiment.num_steps)
        # TOML has no null: 0 asks for frames of an equal number per recording
        options = {key: None if key == "dt_us" and value == 0 else value for key, value in options.items()}
    return first(load(experiment.data, split, data_dir=data_dir, **options), limit)


def train_experiment(
    experiment: Experiment,
    folder: Path,
    *,
    data_dir: Path | None = None,
    resume: bool = True,
    progress: Progress | None = None,
) -> tuple[Network, tuple[Epoch, ...]]:
    """Train, fold normalisation, score the test set once, and write ``network.npz`` into ``folder``.

    A checkpoint in the folder is continued, and removed when the network is written. Returns (network, history).
    """
    from spikeloom.snn.execute import evaluate

    folded, history = fit_experiment(
        experiment, *training_samples(experiment, data_dir), folder, resume=resume, progress=progress
    )
    accuracy = evaluate(folded, samples(experiment, "test", data_dir), execution_of(experiment), progress)
    done = replace(folded, metadata={**folded.metadata, "test_accuracy": accuracy})
    write_network(folder / "network.npz", done)
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return done, history


def training_samples(experiment: Experiment, data_dir: Path | None = None) -> tuple[Samples, Samples | None]:
    """The training set as (what is trained on, what is held out)."""
    everything = samples(experiment, "train", data_dir)
    seed = train_config(experiment).seed if experiment.split_seed is None else experiment.split_seed
    return split(everything, experiment.validation, seed)


def fit_experiment(
    experiment: Experiment,
    fit: Samples,
    held: Samples | None,
    folder: Path,
    *,
    resume: bool = True,
    progress: Progress | None = None,
) -> tuple[Network, tuple[Epoch, ...]]:
    """Train on ``fit`` and fold normalisation; the test set stays closed. The checkpoint stays in ``folder``."""
    from spikeloom.snn.train import train
    from spikeloom.transform import fold

    network = network_to_train(experiment, fit)
    make_folder(folder)
    trained = train(
        network,
        fit,
        train_config(experiment),
        validation=held,
        augment=augmentation(experiment),
        checkpoint=folder / CHECKPOINT,
        resume=resume,
        progress=progress,
    )
    metadata = {
        "experiment": experiment.told,
        "seconds": sum(epoch.seconds for epoch in trained.history),
        "history": [asdict(epoch) for epoch in trained.history],
    }
    return replace(fold(trained.network), metadata=metadata), trained.history


def network_to_train(experiment: Experiment, fit: Samples) -> Network:
    """The network as training finds it: shaped for the samples, with the weights of ``start`` where the file names one."""
    encoding = "analog" if experiment.encoding == "direct" else "spikes"
    dt_s = fit.dt_s if isinstance(fit, Recordings) else None
    options = {"encoding": encoding, "dt_s": dt_s, **experiment.network_options}
    network = create(experiment.network, fit.in_shape, fit.num_classes, **options)
    if experiment.start is not None:
        network = with_weights(network, read_network(experiment.start), experiment.start)
    return network


def experiment_of(network: Network, where: str) -> Experiment:
    """The experiment a trained network came from. Raises ConfigError when its file does not say."""
    raw = network.metadata.get("experiment")
    if not isinstance(raw, dict):
        raise ConfigError(
            f"{where}: the network does not say what it was trained on; name an experiment with --experiment"
        )
    return _experiment_from(raw, f"{where}: metadata.experiment")


def for_steps(experiment: Experiment, num_steps: int) -> Experiment:
    """The experiment with T = ``num_steps``; frames of a recording become longer or shorter, so that they show the same time."""
    options = dict(experiment.data_options)
    if options.get("dt_us"):
        options["dt_us"] = max(1, round(options["dt_us"] * experiment.num_steps / num_steps))
    options |= {"num_steps": num_steps} if "num_steps" in options else {}
    return replace(experiment, data_options=options, train={**experiment.train, "num_steps": num_steps})


def shown_to(
    network: Network, where: str, named: str | None = None, steps: int | None = None
) -> tuple[Network, Experiment, str]:
    """What a network is shown at its own T: (network, experiment, a line that says T and whose it is).

    T is ``steps``, which the network then remembers, else the network's own (it was trained, converted or imported with), else that of the
    experiment ``named``, by default the one that the network came from. Recordings show the same time whatever T is.

    Raises:
        ConfigError: no experiment is named, and the network does not say what it was trained on.
    """
    experiment = read_experiment(named) if named else experiment_of(network, where)
    told = network.metadata.get("experiment")
    train = told.get("train") if isinstance(told, dict) else None
    own = network.metadata.get("num_steps", train.get("num_steps") if isinstance(train, dict) else None)
    own = own if isinstance(own, int) and own > 0 else None
    shown = for_steps(experiment, steps or own or experiment.num_steps)
    if steps:
        network = replace(network, metadata={**network.metadata, "num_steps": steps})
    whose = (
        "--steps" if steps else "the network's own" if own else f"of experiment {experiment.name}; --steps sets another"
    )
    return network, shown, f"T = {shown.num_steps}: {whose}"


def record_network(
    network: Network,
    experiment: Experiment,
    *,
    split: str = "test",
    limit: int | None = None,
    updates: bool = False,
    data_dir: Path | None = None,
    progress: Progress | None = None,
) -> SpikeTrace:
    """Run a split through the network and keep every spike."""
    from spikeloom.snn.record import record

    chosen = samples(experiment, split, data_dir, limit)
    origin = f"{experiment.data}/{split}, T={experiment.num_steps}, {experiment.encoding} coding"
    return record(
        network,
        chosen,
        execution_of(experiment),
        updates=updates,
        origin=origin,
        sample_ids=chosen.ids,
        progress=progress,
    )


def execution_of(experiment: Experiment) -> Execution:
    """How its samples are shown to a network."""
    from spikeloom.snn.execute import Execution

    return Execution(experiment.num_steps, experiment.encoding, seed=int(experiment.train.get("seed", 0)))


def augmentation(experiment: Experiment) -> Augmentation | None:
    steps = [random_shift(experiment.shift)] if experiment.shift else []
    steps += [random_flip] if experiment.flip else []

    def augment(batch: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        for step in steps:
            batch = step(batch, generator)
        return batch

    return augment if steps else None


def split(everything: Samples, fraction: float, seed: int) -> tuple[Samples, Samples | None]:
    if not fraction:
        return everything, None
    order = np.random.default_rng(seed).permutation(len(everything))
    held = round(fraction * len(everything))
    return everything.take(np.sort(order[held:])), everything.take(np.sort(order[:held]))


def with_weights(network: Network, start: Network, where: str) -> Network:
    """``network`` with the weights of ``start``, node by node."""
    nodes = dict(network.nodes)
    for name, node in network.nodes.items():
        if not isinstance(node, Conv1d | Conv2d | Linear):
            continue
        other = start.nodes.get(name)
        if not isinstance(other, type(node)) or _shape(other) != _shape(node):
            raise ConfigError(f"{where}: node '{name}' does not match the network to train; start from the same shape")
        nodes[name] = replace(node, weight=other.weight, bias=other.bias)
    return replace(network, nodes=nodes)


def _shape(node: Any) -> dict[str, Any]:
    return {item.name: getattr(node, item.name) for item in fields(node) if item.name not in ("weight", "bias")}
