"""Pruning a trained network: at once or by and by with fine-tuning, what it changes, and what the zeros save in storage.

Gradual pruning raises the sparsity by the cubic schedule of Zhu & Gupta (2017, arXiv 1710.01878, eq. 1),
``s_t = s_f + (s_0 - s_f) (1 - t/n)^3``: much is cut while much is superfluous, little at the end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from spikeloom.core.figures import Figures
from spikeloom.core.network import Network
from spikeloom.core.nodes import Synapse
from spikeloom.core.ranges import check_range
from spikeloom.errors import ConfigError, NetworkError, NetworkFileError
from spikeloom.files.atomic import check_target, make_folder
from spikeloom.files.network import read_network, write_network
from spikeloom.hw.memory import code_bits
from spikeloom.studies.experiment import Experiment, augmentation, training_samples, tuning_config
from spikeloom.studies.quantize import Bench
from spikeloom.transform.fold import fold
from spikeloom.transform.prune import Criterion, Scope, mask_rule, prune_channels, prune_magnitude

if TYPE_CHECKING:
    from spikeloom.data import Augmentation
    from spikeloom.snn.execute import Progress, Source
    from spikeloom.snn.train import TrainConfig


@dataclass(frozen=True)
class Pruning:
    """What to prune and how.

    sparsity: fraction of weights (or of each layer's channels) that is gone at the end, 0..1.
    channels: remove whole channels by ``criterion`` instead of single weights over ``scope``.
    keep: layers that are left as they are. allow_empty: layers that may lose every weight.
    stages: steps of the cubic schedule; more than one needs epochs. epochs: of fine-tuning after each.
    """

    sparsity: float
    channels: bool = False
    scope: Scope = "global"
    criterion: Criterion = "l1"
    keep: tuple[str, ...] = ()
    stages: int = 1
    epochs: int = 0
    allow_empty: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity <= 1:
            raise ConfigError(f"sparsity: got {self.sparsity}, expected a fraction of 0..1")
        if self.stages < 1 or self.epochs < 0:
            raise ConfigError(f"stages and epochs: got {self.stages} and {self.epochs}, expected at least 1 and 0")
        if self.stages > 1 and not self.epochs:
            raise ConfigError(
                f"{self.stages} stages without fine-tuning prune what one does; give --fine-tune, or leave --stages out"
            )

    def cut(self, network: Network, sparsity: float, of: Network) -> Network:
        """``network`` pruned to ``sparsity``, which for channels is a fraction of those of ``of``."""
        if self.channels:
            return prune_channels(network, sparsity, criterion=self.criterion, keep=self.keep, of=of)
        return prune_magnitude(network, sparsity, scope=self.scope, keep=self.keep)

    def applied(self, network: Network, sparsity: float, of: Network) -> Network:
        """As `cut`. Raises NetworkError naming layers that would lose their last weight, unless ``allow_empty`` names them."""
        if unknown := [name for name in self.allow_empty if not isinstance(network.nodes.get(name), Synapse)]:
            raise NetworkError(f"allow_empty names {unknown}, expected layers among {list(weights_left(network))}")
        cut = self.cut(network, sparsity, of)
        before, left = weights_left(network), weights_left(cut)
        empty = [name for name in left if before[name] and not left[name] and name not in self.allow_empty]
        if empty:
            raise NetworkError(
                f"at a sparsity of {sparsity:g} every weight of layer {_listed(empty)} goes, and nothing passes it any more; prune "
                f"less, compare within layers (--scope layer), keep it (--keep), or allow it by name (--allow-empty {empty[0]})"
            )
        return cut

    def begins(self, network: Network) -> float:
        """Sparsity before the first stage: the share of zeros among the weights to prune, or no channel."""
        return 0.0 if self.channels else zero_fraction(network, self.keep)


@dataclass(frozen=True)
class Stage:
    """One stage of gradual pruning; loss and accuracy are those of the last epoch on the training set, None without."""

    number: int
    sparsity: float
    loss: float | None = None
    accuracy: float | None = None


@dataclass(frozen=True)
class StoredLayer:
    """Bits that a layer's weights take, each code counted over the whole layer (see ``hw.memory.code_bits``)."""

    name: str
    weights: int
    zeros: int
    plain: int
    bitmask: int
    run_length: int

    @property
    def code(self) -> Literal["plain", "bitmask", "run length"]:
        """What is smallest."""
        if self.plain <= min(self.bitmask, self.run_length):
            return "plain"
        return "bitmask" if self.bitmask <= self.run_length else "run length"

    @property
    def smallest(self) -> int:
        """Bits in that code."""
        return min(self.plain, self.bitmask, self.run_length)


@dataclass(frozen=True, eq=False)
class Pruned:
    """A pruned network, what it was and what it is.

    stored: of the pruned network, by layer. left: weights of each layer that are not 0, and how many these were before.
    """

    network: Network
    before: Figures
    after: Figures
    stages: tuple[Stage, ...]
    stored: tuple[StoredLayer, ...]
    left_alone: Mapping[str, str]
    left: Mapping[str, tuple[int, int]]


def sparsity_at(stage: int, stages: int, start: float, end: float) -> float:
    """``end + (start - end) (1 - stage/stages)^3``; exactly ``end`` at the last stage."""
    return end if stage == stages else end + (start - end) * (1 - stage / stages) ** 3


def zero_fraction(network: Network, keep: tuple[str, ...] = ()) -> float:
    """Fraction of weights that are 0, over the layers that have weights and are not in ``keep``."""
    nodes = [n for name, n in network.nodes.items() if isinstance(n, Synapse) and name not in keep]
    arrays = [n.weight for n in nodes if n.weight is not None]
    return sum(int((a == 0).sum()) for a in arrays) / max(1, sum(a.size for a in arrays))


def weights_left(network: Network) -> dict[str, int]:
    """Weights that are not 0, by layer; of layers that have weights."""
    layers = {name: node for name, node in network.nodes.items() if isinstance(node, Synapse)}
    return {name: int(np.count_nonzero(node.weight)) for name, node in layers.items() if node.weight is not None}


def shows_zeros(network: Network) -> bool:
    """True when a weight is zero, so that a trace of the network should hold them: without, every synapse counts as an operation."""
    return zero_fraction(network) > 0


def stored_layers(network: Network) -> tuple[StoredLayer, ...]:
    """What the weights of each layer take in storage; float weights at 32 bits."""
    found = []
    for name, node in network.nodes.items():
        if not isinstance(node, Synapse) or node.weight is None:
            continue
        bits = 32 if network.arithmetic == "float32" else node.weight_bits
        bitmask, run_length = code_bits(node.weight, bits, len(node.weight))
        zeros = int((node.weight == 0).sum())
        size = node.weight.size
        found.append(StoredLayer(name, size, zeros, size * bits, int(bitmask.sum()), int(run_length.sum())))
    return tuple(found)


def prune_gradually(
    network: Network,
    plan: Pruning,
    source: Source,
    config: TrainConfig,
    folder: Path,
    *,
    augment: Augmentation | None = None,
    resume: bool = True,
    progress: Progress | None = None,
) -> tuple[Network, tuple[Stage, ...]]:
    """Prune in stages and fine-tune after each; zeros stay zero.

    Every finished stage is a network in ``folder``, the one under way a checkpoint beside them, so that an interrupted run
    goes on where it stopped and ends with the same weights.

    Args:
        network: float, without BatchNorm.
        plan: with at least one epoch.
        source: training samples.
        config: of the fine-tuning; its epochs and seed give way to those of the stage.
        folder: of this run alone.
        augment: random change of every batch.
        resume: False drops what the folder holds.
        progress: told after every batch and stage.

    Raises:
        NetworkFileError: the folder holds stages of another pruning.
    """
    from spikeloom.snn.train import train

    make_folder(folder)
    if not resume:
        _forget(folder)
    config = replace(config, epochs=plan.epochs, initial_rate=None)
    identity = json.dumps({"network": network.id, **asdict(plan), **asdict(config)}, sort_keys=True)
    original, start = network, plan.begins(network)
    done, network, stages = _resumed(folder, network, plan.stages, identity)
    for number in range(done + 1, plan.stages + 1):
        sparsity = sparsity_at(number, plan.stages, start, plan.sparsity)
        cut = plan.applied(network, sparsity, original)
        checkpoint = folder / f"stage-{number}.pt"
        trained = train(
            cut,
            source,
            replace(config, seed=config.seed + number),
            augment=augment,
            weight_rule=mask_rule(cut),
            checkpoint=checkpoint,
            progress=progress,
        )
        last = trained.history[-1]
        stages = (*stages, Stage(number, sparsity, last.loss, last.accuracy))
        told = {"pruning_run": {"identity": identity, "stages": [asdict(stage) for stage in stages]}}
        network = replace(trained.network, metadata={**trained.network.metadata, **told})
        write_network(_stage_file(folder, number), network)
        checkpoint.unlink(missing_ok=True)
        if progress is not None:
            progress("stage", number, plan.stages, {"sparsity": sparsity, "accuracy": last.accuracy})
    return replace(network, metadata=_without(network.metadata, "pruning_run")), stages


def prune_network(
    network: Network,
    plan: Pruning,
    out: Path,
    *,
    experiment: Experiment | None = None,
    learning_rate: float | None = None,
    limit: int | None = None,
    data_dir: Path | None = None,
    resume: bool = True,
    progress: Progress | None = None,
) -> Pruned:
    """Prune, fine-tune, measure before and after on the test set, and write the result to ``out``.

    BatchNorm is folded first. Stages of a run with fine-tuning lie in ``out`` + ".stages" until the result is written.

    Args:
        network: trained.
        plan: what to prune.
        out: network file to write; its metadata name the parent's id, the plan and the accuracy.
        experiment: whose data measure and fine-tune; None only compares sizes.
        learning_rate: peak of the fine-tuning; None for GENTLE times the experiment's.
        limit: measure on the first test samples only.

    Raises:
        ConfigError: fine-tuning without an experiment. NetworkError: fine-tuning of integer weights.
        FileError: ``out`` cannot be written, found out before the work.
    """
    check_target(out)
    check_range(ConfigError, "positive and finite", learning_rate=learning_rate)
    parent, folder = fold(network), out.with_name(out.name + ".stages")
    if plan.epochs and experiment is None:
        raise ConfigError("fine-tuning needs the data the network was trained on; name an experiment with --experiment")
    if plan.epochs and parent.arithmetic == "integer":
        raise NetworkError(
            f"network '{parent.name}' has integer weights, which gradients cannot fine-tune; prune before quantising"
        )
    bench = Bench(experiment, limit=limit, data_dir=data_dir, progress=progress)
    stages: tuple[Stage, ...] = ()
    if plan.epochs:
        assert experiment is not None
        fit, _ = training_samples(experiment, data_dir)
        config, augment = tuning_config(experiment, plan.epochs, learning_rate), augmentation(experiment)
        pruned, stages = prune_gradually(
            parent, plan, fit, config, folder, augment=augment, resume=resume, progress=progress
        )
    else:
        pruned = plan.applied(parent, plan.sparsity, parent)
    before, after = bench.measure("before", parent), bench.measure("after", pruned)
    at_first = weights_left(parent)
    left = {name: (number, at_first[name]) for name, number in weights_left(pruned).items()}
    left_alone = dict(said) if isinstance(said := pruned.metadata.get("channels_left_alone"), dict) else {}
    metadata = _without(pruned.metadata, "test_accuracy", "channels_left_alone") | {
        "parent": network.id,
        "pruning": {
            **asdict(plan),
            "keep": list(plan.keep),
            "allow_empty": list(plan.allow_empty),
            "weights_left": {name: left for name, (left, _) in left.items()},
            "channels_left_alone": left_alone,
            "fine_tuning": [asdict(stage) for stage in stages],
            "accuracy_before": before.accuracy,
            "accuracy": after.accuracy,
            "samples": None if bench.test is None else len(bench.test),
        },
    }
    if limit is None and after.accuracy is not None:
        metadata["test_accuracy"] = after.accuracy
    done = replace(pruned, metadata=metadata)
    write_network(out, done)
    if plan.epochs:
        _forget(folder)
        with suppress(OSError):  # somebody else's files lie there
            folder.rmdir()
    return Pruned(done, before, after, stages, stored_layers(done), left_alone, left)


def _stage_file(folder: Path, number: int) -> Path:
    return folder / f"stage-{number}.npz"


def _forget(folder: Path) -> None:
    """Remove the files of all stages."""
    for path in folder.glob("stage-*"):
        path.unlink(missing_ok=True)


def _resumed(folder: Path, network: Network, stages: int, identity: str) -> tuple[int, Network, tuple[Stage, ...]]:
    """The last finished stage in ``folder``: its number, its network, its history; (0, ``network``, ()) at the start."""
    for number in range(stages, 0, -1):
        path = _stage_file(folder, number)
        if path.exists():
            found = read_network(path)
            run = found.metadata.get("pruning_run")
            if not isinstance(run, dict) or run.get("identity") != identity:
                raise NetworkFileError(
                    f"{path} was made by another network, pruning or training; name another --out, or pass --fresh to start "
                    f"over"
                )
            return number, found, tuple(Stage(**stage) for stage in run["stages"])
    return 0, network, ()


def _listed(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _without(metadata: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in metadata.items() if key not in keys}
