"""A trained network in integers: rounded as it is or fine-tuned on its grid first, what that changes, and accuracy against bits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikeloom.core.figures import Figures
from spikeloom.core.network import Network
from spikeloom.core.ranges import check_range
from spikeloom.data import Samples, first
from spikeloom.errors import ConfigError
from spikeloom.files.atomic import check_target, make_folder
from spikeloom.files.network import write_network
from spikeloom.studies.change import COUNTED_SAMPLES, figures
from spikeloom.studies.experiment import (
    Experiment,
    augmentation,
    execution_of,
    samples,
    training_samples,
    tuning_config,
)
from spikeloom.transform.quantize import Widths, on_grid, overflows, quantize

if TYPE_CHECKING:
    from spikeloom.snn.execute import Execution, Progress

#: Weight bits of the table; with steps by squared error, weights of 2 bits are the ternary ones.
BITS = (8, 6, 4, 3, 2)


@dataclass(frozen=True)
class FineTuning:
    """Training of the weights on their grid.

    epochs: over the experiment's training set, at least 1. learning_rate: its peak; None for GENTLE times the experiment's.
    """

    epochs: int
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ConfigError(f"fine-tuning takes at least 1 epoch, got {self.epochs}")
        check_range(ConfigError, "positive and finite", learning_rate=self.learning_rate)


@dataclass(frozen=True, eq=False)
class Quantized:
    """An integer network and what became of it.

    after: figures of it; the name of one that was fine-tuned ends with a star.
    rounded: those of the float network rounded as it is; None without fine-tuning, when ``after`` is just that.
    overflows: membranes beyond their word, per sample and node; empty without samples.
    notes: what `transform.quantize` has to say.
    """

    network: Network
    widths: Widths
    after: Figures
    rounded: Figures | None
    overflows: Mapping[str, float]
    notes: tuple[str, ...]


class Bench:
    """The samples of an experiment on which networks are measured and fine-tuned.

    experiment: None measures sizes only. limit: measure on the first test samples only.
    """

    def __init__(
        self,
        experiment: Experiment | None,
        *,
        limit: int | None = None,
        data_dir: Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.experiment, self.limit, self.data_dir, self.progress = experiment, limit, data_dir, progress
        self.test: Samples | None = None
        self.execution: Execution | None = None
        if experiment is not None:
            self.test = samples(experiment, "test", data_dir, limit)
            self.execution = execution_of(experiment)
        self._fit: Samples | None = None

    def measure(self, name: str, network: Network) -> Figures:
        """The figures of ``network``, on the test samples where there are any."""
        return figures(name, network, self.test, self.execution, self.progress)

    def overflows(self, network: Network) -> dict[str, float]:
        """Membranes beyond their word, per sample and node, over the first COUNTED_SAMPLES."""
        if self.test is None or self.execution is None:
            return {}
        return overflows(network, first(self.test, COUNTED_SAMPLES), self.execution)

    def fine_tuned(
        self, network: Network, widths: Widths, tuning: FineTuning, checkpoint: Path | None = None, resume: bool = True
    ) -> Network:
        """``network`` trained on the grid of ``widths``; float weights that are multiples of their steps.

        Without weight decay, in float32 whatever the experiment says, with its losses, surrogates and random changes of batches.

        Raises:
            ConfigError: there is no experiment.
        """
        from spikeloom.snn.train import train

        if self.experiment is None:
            raise ConfigError(
                "fine-tuning needs the data the network was trained on; name an experiment with --experiment"
            )
        if self._fit is None:
            self._fit, _ = training_samples(self.experiment, self.data_dir)
        start, rule = on_grid(network, widths)
        plain = {"weight_decay": 0.0, "precision": "fp32"}
        trained = train(
            start,
            self._fit,
            tuning_config(self.experiment, tuning.epochs, tuning.learning_rate, **plain),
            augment=augmentation(self.experiment),
            weight_rule=rule,
            checkpoint=checkpoint,
            resume=resume,
            progress=self.progress,
        )
        return trained.network


def quantize_network(
    network: Network,
    bench: Bench,
    widths: Widths,
    tuning: FineTuning | None = None,
    *,
    checkpoint: Path | None = None,
    resume: bool = True,
) -> Quantized:
    """Quantize, fine-tuned first where asked for, and measure.

    Args:
        network: trained, in floats.
        bench: samples.
        widths: of the integers.
        tuning: fine-tuning; None rounds the weights as they are.
        checkpoint: of the fine-tuning; left where it is, so that a table can be continued.
        resume: continue from ``checkpoint``.
    """
    rounded, plain, best = quantize(network, widths), None, network
    if tuning is not None:
        plain = bench.measure(widths.label, rounded)
        best = bench.fine_tuned(network, widths, tuning, checkpoint, resume)
    integers = rounded if tuning is None else quantize(best, widths)
    after = bench.measure(widths.label if tuning is None else f"{widths.label}*", integers)
    told: dict[str, Any] = {**integers.metadata["quantized"], "parent": network.id}
    if tuning is not None:
        told["fine_tuning"] = asdict(tuning)
    metadata = {**integers.metadata, "quantized": told}
    if bench.limit is None and after.accuracy is not None:
        metadata["test_accuracy"] = after.accuracy
    done = replace(integers, metadata=metadata)
    return Quantized(done, widths, after, plain, bench.overflows(done), tuple(told["notes"]))


def quantize_file(
    network: Network,
    bench: Bench,
    widths: Widths,
    out: Path,
    tuning: FineTuning | None = None,
    *,
    resume: bool = True,
) -> tuple[Figures, Quantized]:
    """As `quantize_network`, written to ``out``; (figures of the float network, result).

    Fine-tuning keeps a checkpoint beside ``out`` until the result is written, so that an interrupted run goes on.

    Raises:
        FileError: ``out`` cannot be written, found out before the work.
    """
    check_target(out)
    checkpoint = None
    if tuning is not None:
        make_folder(out.parent)
        checkpoint = out.with_name(f"{out.name}.{_tag(widths)}.pt")
    result = quantize_network(network, bench, widths, tuning, checkpoint=checkpoint, resume=resume)
    write_network(out, result.network)
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return bench.measure("float", network), result


def accuracy_against_bits(
    network: Network,
    bench: Bench,
    widths: Widths,
    tuning: FineTuning | None = None,
    *,
    bits: Sequence[int] = BITS,
    folder: Path | None = None,
    resume: bool = True,
) -> tuple[Figures, tuple[Quantized, ...]]:
    """The table: the float network, and its integers at each number of weight bits, then ternary where that is something else.

    Args:
        network: trained, in floats.
        bench: samples.
        widths: everything but the weight bits.
        tuning: fine-tune at every width, always from the float network.
        bits: weight bits, 2..8.
        folder: where checkpoints lie until the table is complete; None keeps none.
        resume: continue from them.
    """
    rows = [replace(widths, weight_bits=number, ternary=False) for number in bits]
    if widths.scale == "max":
        rows.append(replace(widths, ternary=True))
    paths: list[Path | None] = [None] * len(rows)
    if tuning is not None and folder is not None:
        make_folder(folder)
        paths = [folder / f"quantize-{_tag(row)}.pt" for row in rows]
    found = tuple(
        quantize_network(network, bench, row, tuning, checkpoint=path, resume=resume)
        for row, path in zip(rows, paths, strict=True)
    )
    for path in paths:
        if path is not None:
            path.unlink(missing_ok=True)
    return bench.measure("float", network), found


def _tag(widths: Widths) -> str:
    """A word for a file name, another for other widths: a checkpoint does not say which grid it was trained on."""
    text = json.dumps(asdict(widths), sort_keys=True)
    return f"{widths.label.replace(' ', '')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
