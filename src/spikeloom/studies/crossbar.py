"""What crossbars do to the accuracy of a trained network: every non-ideality alone and all together, before and after mitigation."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from spikeloom.core.figures import CrossbarRow, Spread
from spikeloom.core.network import Network
from spikeloom.core.nodes import Synapse
from spikeloom.core.ranges import check_range
from spikeloom.data import first
from spikeloom.errors import ConfigError
from spikeloom.files.schema import dataclass_from, read_toml
from spikeloom.snn.build import SpikingModule, input_frames
from spikeloom.snn.encode import encode
from spikeloom.snn.execute import predict, runnable
from spikeloom.snn.train import train
from spikeloom.studies.experiment import (
    Experiment,
    augmentation,
    execution_of,
    samples,
    training_samples,
    tuning_config,
)
from spikeloom.transform.crossbar import LSB_OHM, Crossbars, crossbar, in_floats, number_of_crossbars, only, present
from spikeloom.transform.quantize import Widths, on_grid
from spikeloom.transform.reading import adapt, find_full_scales, install

if TYPE_CHECKING:
    from spikeloom.snn.execute import Progress

#: Crossbars of a study that names no file: what the release of SpikeSim states (hw_inference.py: one level and off of its 1-bit cells, the
#: wire of a function it does not call, the smaller ADC); variation and stuck cells, which it lacks, are chosen.
STUDIED = Crossbars(
    lsb_ohm=LSB_OHM,
    off_ohm=200_000.0,
    variation=0.3,
    stuck_on=0.02,
    stuck_off=0.02,
    row_wire_ohm=5.0,
    column_wire_ohm=5.0,
    adc_bits=4,
)
#: Batches of fine-tuning that share a chip where wires have to be solved for it.
BATCHES_A_CHIP = 15
CROSSBAR_FORMAT = "spikeloom-crossbar"
#: First numbers of the seeds of chips: no chip that is measured is met in training.
_MEASURED, _TRAINED = 1, 2
#: The row of all non-idealities at once.
ALL = "all together"


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is measured, and how.

    sizes: of crossbars. bits: of a weight, for networks that are not on a grid yet. seeds: chips where chips differ.
    limit: first test samples only. calibration: training samples for ADC ranges and adaptation.
    epochs: of fine-tuning, 0 for none; the network that is compared has had as many without non-idealities. learning_rate: its peak, None
    for GENTLE times the experiment's. tuning_samples: first training samples only. seed: of the first chip.
    """

    sizes: tuple[int, ...] = (64,)
    bits: int = 4
    seeds: int = 3
    limit: int | None = None
    calibration: int = 256
    epochs: int = 0
    learning_rate: float | None = None
    tuning_samples: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_range(ConfigError, "positive and finite", learning_rate=self.learning_rate)
        counts = {key: getattr(self, key) for key in ("seeds", "limit", "calibration", "tuning_samples")}
        check_range(ConfigError, "at least 1", **counts)
        check_range(ConfigError, "at least 0", epochs=self.epochs, seed=self.seed)


@dataclass(frozen=True, eq=False)
class CrossbarResult:
    """reference: accuracy before any rounding. ideal: on ideal crossbars. rows: what became of it. samples: tested, at T = num_steps."""

    network: Network
    crossbars: Crossbars
    study: Study
    reference: float
    ideal: float
    rows: tuple[CrossbarRow, ...]
    samples: int
    seconds: float
    num_steps: int

    def to_json(self) -> str:
        """All figures as JSON."""
        rows = [
            {key: list(part["accuracies"]) if isinstance(part, dict) else part for key, part in asdict(row).items()}
            for row in self.rows
        ]
        strengths = {key: None if value == float("inf") else value for key, value in asdict(self.crossbars).items()}
        content = {
            "format": CROSSBAR_FORMAT,
            "version": 1,
            "crossbars": strengths,
            "study": asdict(self.study),
            "samples": self.samples,
            "num_steps": self.num_steps,
            "reference_accuracy": self.reference,
            "ideal_accuracy": self.ideal,
            "rows": rows,
            "seconds": self.seconds,
        }
        return json.dumps(content, indent=1) + "\n"


def read_crossbars(path: Path) -> Crossbars:
    """Crossbars from a TOML file of their fields. Raises ConfigError naming file and key."""
    return dataclass_from(Crossbars, read_toml(path), str(path))


class CrossbarBench:
    """The samples of an experiment on which chips are measured, calibrated and trained for."""

    def __init__(
        self, experiment: Experiment, study: Study, *, data_dir: Path | None = None, progress: Progress | None = None
    ) -> None:
        self.experiment, self.study, self.progress = experiment, study, progress
        self.test = samples(experiment, "test", data_dir, study.limit)
        self.fit, _ = training_samples(experiment, data_dir)
        self.execution = execution_of(experiment)

    def accuracy(self, module: SpikingModule) -> float:
        """Fraction of the test samples that are classified as labelled."""
        return float(np.mean(predict(module, self.test, self.execution) == self.test.labels))

    def calibration(self, module: SpikingModule) -> tuple[torch.Tensor, int, bool]:
        """(frames, T, constant) of the calibration samples, as `SpikingModule` takes them."""
        chosen = first(self.fit, self.study.calibration)
        rng = np.random.default_rng(self.execution.seed)
        batch = chosen.batch(np.arange(len(chosen)))
        encoded = encode(self.execution.encoding, batch, self.execution.num_steps, rng, module.input_node)
        return input_frames(module, encoded), self.execution.num_steps, encoded.constant

    def chips(self, network: Network, crossbars: Crossbars, told: str) -> tuple[Spread, Spread]:
        """Accuracy of ``network`` on chips of ``crossbars``: as programmed, and adapted."""
        plain, adapted = [], []
        ideal = runnable(network)
        frames = self.calibration(ideal)
        number = self.study.seeds if crossbars.random else 1
        for chip in range(number):
            module = runnable(network)
            rng = _drawn(_MEASURED, self.study.seed, chip)
            readings = install(module, crossbars, rng)
            find_full_scales(module, readings, *frames)
            plain.append(self.accuracy(module))
            adapt(module, readings, ideal, *frames)
            adapted.append(self.accuracy(module))
            if self.progress is not None:
                self.progress(told, chip + 1, number, {"right": plain[-1], "adapted": adapted[-1]})
        return Spread(tuple(plain)), Spread(tuple(adapted))

    def tuned(self, network: Network, crossbars: Crossbars | None) -> Network:
        """``network``, in floats, trained on the grid of the study, every batch (with wires: BATCHES_A_CHIP) on another chip of ``crossbars``, or on none.

        The sums of a batch are those of the chip, gradients are those of ideal ones (straight through).
        """
        study = self.study
        start, rule = on_grid(_with_bits(network, study.bits), Widths(weight_bits=study.bits))
        plain = {"weight_decay": 0.0, "precision": "fp32", "device": "cpu"}
        config = tuning_config(self.experiment, study.epochs, study.learning_rate, **plain)

        def prepare(module: SpikingModule) -> None:
            if crossbars is not None:
                rng = _drawn(_TRAINED, study.seed, config.seed)
                readings = install(
                    module, crossbars, rng, steps=rule.steps, every=BATCHES_A_CHIP if crossbars.wired else 1
                )
                find_full_scales(module, readings, *self.calibration(module))

        fit, augment = first(self.fit, study.tuning_samples), augmentation(self.experiment)
        trained = train(start, fit, config, augment=augment, weight_rule=rule, prepare=prepare, progress=self.progress)
        return _with_bits(trained.network, study.bits)


def study_crossbars(network: Network, crossbars: Crossbars, bench: CrossbarBench) -> CrossbarResult:
    """The table: each non-ideality that ``crossbars`` have, alone, then all, at every size.

    Args:
        network: trained; in floats, which are rounded to the study's grid (and trained on it, where fine-tuning is asked for), or of integers.
        crossbars: the strengths; their size is replaced by those of the study.
        bench: samples and study.

    Raises:
        ConfigError: nothing is wrong with the crossbars; fine-tuning of integers.
        NetworkError: a network that has no grid.
    """
    started, study = time.perf_counter(), bench.study
    names = present(crossbars)
    if not names:
        raise ConfigError(
            "all crossbars are ideal: nothing to measure; give off_ohm, variation, a stuck or wire value, or adc_bits"
        )
    if study.epochs and network.arithmetic == "integer":
        raise ConfigError(
            "fine-tuning needs the float network; name that (it is quantised here, see --bits), or leave --fine-tune out"
        )
    reference = bench.accuracy(runnable(network))
    if study.epochs:
        base = bench.tuned(network, None)
    else:
        base = in_floats(network) if network.arithmetic == "integer" else rounded(network, study.bits)
    ideal = bench.accuracy(runnable(base))
    rows = []
    cases = [(name, (name,)) for name in names] + ([(ALL, names)] if len(names) > 1 else [])
    for size in study.sizes:
        for name, parts in cases:
            clock = time.perf_counter()
            chips = only(replace(crossbars, size=size), *parts)
            told = f"{size} {name}"
            plain, adapted = bench.chips(base, chips, told)
            tuned = both = None
            if study.epochs:
                tuned, both = bench.chips(bench.tuned(network, chips), chips, f"{told}, tuned")
            count, seconds = number_of_crossbars(base, chips), time.perf_counter() - clock
            rows.append(CrossbarRow(size, name, count, plain, adapted, tuned, both, seconds))
    total = time.perf_counter() - started
    return CrossbarResult(
        base, crossbars, study, reference, ideal, tuple(rows), len(bench.test), total, bench.execution.num_steps
    )


def one_chip(result: CrossbarResult) -> Network:
    """The first chip of the study as a network, converters left out: what `transform.crossbar` makes of it at the first size."""
    chips = replace(result.crossbars, size=result.study.sizes[0], adc_bits=None, adc_range=None)
    return crossbar(result.network, chips, _drawn(_MEASURED, result.study.seed, 0))


def rounded(network: Network, bits: int) -> Network:
    """A float network whose weights are on the grid of ``bits`` bits, as `transform.quantize` chooses it; its thresholds are whole steps."""
    start, rule = on_grid(network, Widths(weight_bits=bits))
    nodes = dict(start.nodes)
    for name, node in start.nodes.items():
        if isinstance(node, Synapse):
            assert node.weight is not None
            weight = rule(name, torch.from_numpy(np.array(node.weight, np.float32))).numpy()
            nodes[name] = replace(node, weight=weight)
    return _with_bits(replace(start, nodes=nodes), bits)


def _with_bits(network: Network, bits: int) -> Network:
    """``network``, its weights said to be of ``bits`` bits."""
    nodes = {
        n: replace(node, weight_bits=bits) if isinstance(node, Synapse) else node for n, node in network.nodes.items()
    }
    return replace(network, nodes=nodes)


def _drawn(*key: int) -> np.random.Generator:
    """A generator of its own for each key of one length."""
    return np.random.default_rng(key)
