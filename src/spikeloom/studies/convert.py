"""What a conversion costs and why: accuracy, spikes, energy and latency against T, the smallest T that is good enough, and where
each layer's error comes from. Letters: T time steps, N samples, C channels.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spikeloom.core.figures import LayerError, Point
from spikeloom.core.network import Network
from spikeloom.core.ranges import check_range
from spikeloom.data import Recordings, Samples, first
from spikeloom.errors import ConfigError, FileError
from spikeloom.evaluate import evaluate as evaluate_machine
from spikeloom.evaluate import load_machine
from spikeloom.files.atomic import write_text
from spikeloom.files.network import write_network
from spikeloom.lower import lower
from spikeloom.studies.change import spikes_sent
from spikeloom.studies.experiment import Experiment, augmentation, for_steps, samples, training_samples

if TYPE_CHECKING:
    from spikeloom.snn.execute import Execution, Progress
    from spikeloom.transform.calibrate import Effort
    from spikeloom.transform.convert import Conversion, Converted

#: Samples whose every spike is counted for spikes, energy and latency; accuracy is measured on all.
COUNTED_SAMPLES = 20
CONVERSION_FORMAT = "spikeloom-conversion"
#: Frames into which a recording is cut for the ANN.
RECORDING_FRAMES = 10
#: Samples over which the error of each layer is split.
ERROR_SAMPLES = 200
#: Fraction of the training set that is held out where the experiment did not hold out any.
HELD_OUT = 0.1


@dataclass(frozen=True, eq=False)
class Splits:
    """calibration: thresholds and biases come from these. choosing: T and knobs are chosen on these. test: opened once."""

    calibration: Samples
    choosing: Samples
    test: Samples

    def at(self, num_steps: int) -> Splits:
        """The same samples for T = ``num_steps``: recordings are cut into as many frames over the same time."""
        return Splits(*(_cut(part, num_steps) for part in (self.calibration, self.choosing, self.test)))


def _cut(source: Samples, num_steps: int) -> Samples:
    if not isinstance(source, Recordings) or source.num_steps == num_steps:
        return source
    whole = None if source.dt_us is None else source.dt_us * source.num_steps
    return replace(source, num_steps=num_steps, dt_us=None if whole is None else max(1, round(whole / num_steps)))


@dataclass(frozen=True, eq=False)
class Conversions:
    """What `run_conversion` found; ``converted`` is for ``num_steps``, the other figures are in ``points``.

    chosen: how T was chosen, in a sentence. exit: (accuracy, mean steps) of early exit, or None.
    """

    experiment: Experiment
    converted: Converted
    num_steps: int
    ann_accuracy: float
    points: tuple[Point, ...]
    errors: tuple[LayerError, ...]
    chosen: str
    exit: tuple[float, float] | None = None
    machine: str | None = None

    def lines(self) -> list[str]:
        """What the tables do not say."""
        named = max(self.errors, key=lambda error: error.total)
        causes = ("clipping", "quantisation", "inherited", "unevenness")
        cause = max(causes, key=lambda part: getattr(named, part))
        found = [
            self.chosen,
            f"largest error: layer {named.name}, {named.total:.1f} % of its activations, mostly {cause}",
        ]
        if self.exit is not None:
            found.append(f"early exit: {100 * self.exit[0]:.2f} % right after {self.exit[1]:.2f} steps on average")
        return found

    def write_json(self, path: Path) -> None:
        """The figures as JSON."""
        content = {
            "format": CONVERSION_FORMAT,
            "version": 1,
            "ann_accuracy": self.ann_accuracy,
            "num_steps": self.num_steps,
            "machine": self.machine,
            "conversion": asdict(self.converted.conversion),
            "points": [asdict(point) for point in self.points],
            "errors_percent": [asdict(error) for error in self.errors],
            "early_exit": None if self.exit is None else {"accuracy": self.exit[0], "mean_steps": self.exit[1]},
        }
        write_text(path, json.dumps(content, indent=1) + "\n")


def read_conversion(path: Path) -> int | None:
    """How many numbers of time steps a conversion file holds; None for what is no such file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # left to the reader of reports, which says what is wrong
    if not isinstance(content, dict) or content.get("format") != CONVERSION_FORMAT:
        return None
    points = content.get("points")
    if content.get("version") != 1 or not isinstance(points, list):
        raise FileError(
            f"{path}: version: got {content.get('version')!r}, expected 1 and a list of points; update spikeloom or the file"
        )
    return len(points)


def step_numbers(text: str) -> list[int]:
    """``2,4,8`` -> [2, 4, 8]. Raises ConfigError."""
    try:
        numbers = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise ConfigError(f"--steps: got '{text}', expected numbers of time steps such as 2,4,8") from None
    if numbers[0] < 1:
        raise ConfigError(f"--steps: got {numbers[0]}, expected at least one time step")
    return numbers


def run_conversion(
    ann: Network,
    experiment: Experiment,
    conversion: Conversion,
    steps: Sequence[int],
    *,
    effort: Effort | None = None,
    max_loss: float | None = None,
    qcfs_epochs: int = 0,
    qcfs_levels: int = 8,
    learning_rate: float = 5e-4,
    exit_margin: float | None = None,
    machine: str | None = None,
    calibration: int = 256,
    limit: int | None = None,
    checkpoint: Path = Path("convert.checkpoint.pt"),
    data_dir: Path | None = None,
    progress: Progress | None = None,
) -> Conversions:
    """Convert ``ann`` for every T in ``steps`` and keep the smallest that loses at most ``max_loss`` points, or the last.

    effort: None calibrates biases for images, and nothing where biases act at the start only and for recordings, where a bias would
        act at every silent step.

    T and the calibration effort are chosen on samples held out of the training set; the table is of the test set.

    Raises:
        ConfigError: no T is good enough; the message says what the best one loses.
    """
    from spikeloom.snn.execute import Execution

    effort = effort or ("none" if experiment.encoding == "events" or conversion.bias == "start" else "bias")
    if max_loss is not None and not max_loss >= 0:
        raise ConfigError(f"--max-loss: got {max_loss}, expected 0 or more percentage points")
    check_range(ConfigError, "positive and finite", learning_rate=learning_rate, exit_margin=exit_margin)
    if machine is not None:
        load_machine(machine)  # a misspelt one is found before the work

    def execution(num_steps: int) -> Execution:
        return Execution(num_steps, experiment.encoding, seed=conversion.seed)

    parts = splits(experiment, calibration, limit, data_dir)
    reference = ann_accuracy(ann, parts.test, execution(experiment.num_steps), conversion.ann_frames)
    longest = parts.at(max(steps)).choosing
    # fine-tuning may lose some of it
    to_keep = ann_accuracy(ann, longest, execution(max(steps)), conversion.ann_frames)
    if qcfs_epochs:
        ann = fine_tune_qcfs(
            ann, experiment, parts, execution(1), conversion, qcfs_levels, qcfs_epochs, learning_rate, checkpoint,
            data_dir=data_dir, progress=progress,
        )  # fmt: skip
    kept: dict[int, tuple[Converted, str]] = {}
    if max_loss is None:
        num_steps, chosen = max(steps), f"kept T = {max(steps)}, the last of those asked for"
    else:
        efforts: tuple[Effort, ...] = ("none", "bias", "weights")
        allowed = efforts[: efforts.index(effort) + 1]
        found = smallest(ann, steps, allowed, max_loss, parts, execution, conversion, progress, to_keep)
        num_steps, kept[found[1]] = found[1], (found[0], found[2])
        chosen = f"T = {num_steps} with calibration '{found[2]}' is the smallest that loses at most {max_loss} points on held-out samples"
    points = []
    for number in steps:
        if number not in kept:
            kept[number] = (
                converted_at(ann, number, execution, parts.at(number).calibration, conversion, effort, progress),
                effort,
            )
        converted, used = kept[number]
        points.append(measure(converted.network, parts.at(number).test, execution(number), used, machine, progress))
        if number == num_steps and max_loss is not None:
            chosen += f"; on the test set it loses {100 * (reference - points[-1].accuracy):.2f}"
        if number != num_steps:
            del kept[number]
    converted, _ = kept[num_steps]
    parts = parts.at(num_steps)
    errors = layer_errors(converted, first(parts.choosing, ERROR_SAMPLES), execution(num_steps))
    exit = None if exit_margin is None else early_exit(converted.network, parts.test, execution(num_steps), exit_margin)
    return Conversions(experiment, converted, num_steps, reference, tuple(points), errors, chosen, exit, machine)


def write_conversion(path: Path, result: Conversions) -> None:
    """The SNN, with what it came to and the experiment that shows its data in as many steps as it is for."""
    network, shown = result.converted.network, for_steps(result.experiment, result.num_steps)
    point = next(point for point in result.points if point.num_steps == result.num_steps)
    metadata = {
        **network.metadata,
        "experiment": shown.told,
        "num_steps": result.num_steps,
        "test_accuracy": point.accuracy,
    }
    dt_us = shown.data_options.get("dt_us")
    write_network(path, replace(network, dt_s=dt_us / 1e6 if dt_us else network.dt_s, metadata=metadata))


def fit_and_held(experiment: Experiment, data_dir: Path | None = None) -> tuple[Samples, Samples]:
    """The training set as the training split it: (trained on, held out); a tenth is held out where nothing was."""
    fit, held = training_samples(replace(experiment, validation=experiment.validation or HELD_OUT), data_dir)
    assert held is not None
    return fit, held


def splits(experiment: Experiment, calibration: int, limit: int | None = None, data_dir: Path | None = None) -> Splits:
    """Calibration samples and choosing samples from what the ANN was not trained on (a tenth of the training set if it was trained
    on all), and the test set; ``limit`` shortens choosing and test set."""
    seed = int(experiment.train.get("seed", 0))
    _, held = fit_and_held(experiment, data_dir)
    if len(held) < 2:
        raise ConfigError(f"experiment '{experiment.name}' holds out {len(held)} samples, conversion needs at least 2")
    number = min(calibration, len(held) // 2)
    order = np.random.default_rng(seed).permutation(len(held))
    chosen = order[number:] if limit is None else order[number : number + limit]
    return Splits(
        held.take(np.sort(order[:number])),
        held.take(chosen),  # mixed, so that the first of them are of every class
        samples(experiment, "test", data_dir, limit),
    )


def ann_accuracy(ann: Network, source: Samples, execution: Execution, num_frames: int = 1) -> float:
    """Accuracy of an ANN; of recordings it sees ``num_frames`` means over time, and adds up what it says."""
    import torch

    from spikeloom.snn.execute import encoded_batches, runnable
    from spikeloom.transform.thresholds import run_ann

    module = runnable(ann)
    right = 0
    with torch.no_grad():
        for indices, encoded in encoded_batches(source, execution, module.input_node):
            predicted = module.scores(run_ann(module, encoded, num_frames)).argmax(1).numpy()
            right += int((predicted == source.labels[indices]).sum())
    return right / len(source)


def converted_at(
    ann: Network,
    num_steps: int,
    execution: Callable[[int], Execution],
    calibration: Samples,
    conversion: Conversion,
    effort: Effort = "bias",
    progress: Progress | None = None,
) -> Converted:
    """``ann`` converted and calibrated for ``num_steps``."""
    from spikeloom.transform.calibrate import calibrate
    from spikeloom.transform.convert import convert

    shown = execution(num_steps)
    converted = convert(ann, calibration, shown, replace(conversion, num_steps=num_steps))
    return calibrate(converted, calibration, shown, effort, progress=progress)


def measure(
    network: Network,
    source: Samples,
    execution: Execution,
    calibration: str = "",
    machine: str | None = None,
    progress: Progress | None = None,
) -> Point:
    """Accuracy on ``source``; spikes, synaptic operations and the bill of ``machine`` on its first samples."""
    from spikeloom.snn.execute import evaluate
    from spikeloom.snn.record import record

    accuracy = evaluate(network, source, execution, progress)
    counted = first(source, COUNTED_SAMPLES)
    workload = lower(network, record(network, counted, execution))
    energy = latency = None
    warnings: tuple[str, ...] = ()
    if machine is not None:
        report = evaluate_machine(workload, load_machine(machine)[1])
        energy, latency = report.energy_per_inference_j, report.latency_per_inference_s
        warnings = report.warnings
    return Point(
        execution.num_steps,
        calibration,
        accuracy,
        spikes_sent(network, counted, execution),
        sum(workload.synops.values()) / len(counted),
        energy,
        latency,
        warnings,
    )


def smallest(
    ann: Network,
    steps: Sequence[int],
    efforts: Sequence[Effort],
    max_loss: float,
    parts: Splits,
    execution: Callable[[int], Execution],
    conversion: Conversion,
    progress: Progress | None = None,
    best: float | None = None,
) -> tuple[Converted, int, Effort]:
    """The smallest T, and for it the least calibration effort, that loses at most ``max_loss`` points on the choosing split.

    best: the accuracy that the loss is counted from; None for that of ``ann``, which fine-tuning may have changed already.

    Returns:
        (converted, T, effort).

    Raises:
        ConfigError: no T in ``steps`` is good enough.
    """
    from spikeloom.snn.execute import evaluate

    least = math.inf
    if best is None:
        longest = max(steps)
        best = ann_accuracy(ann, parts.at(longest).choosing, execution(longest), conversion.ann_frames)
    for num_steps in sorted(steps):
        at = parts.at(num_steps)
        for effort in efforts:
            found = converted_at(ann, num_steps, execution, at.calibration, conversion, effort)
            accuracy = evaluate(found.network, at.choosing, execution(num_steps), progress)
            least = min(least, 100 * (best - accuracy))
            if 100 * (best - accuracy) <= max_loss + 1e-9:
                return found, num_steps, effort
    raise ConfigError(
        f"no T of {', '.join(map(str, steps))} loses at most {max_loss} points (the best loses {least:.2f}); allow more steps, more "
        f"calibration or QCFS fine-tuning"
    )


def early_exit(network: Network, source: Samples, execution: Execution, margin: float) -> tuple[float, float]:
    """Accuracy and mean number of steps when a sample stops as soon as its best class leads by ``margin`` per step.

    The score of a class after t steps is its read-out membrane divided by t.
    """
    import torch

    from spikeloom.snn.build import input_frames
    from spikeloom.snn.execute import encoded_batches, runnable

    module = runnable(network)
    right, steps = 0, 0
    with torch.no_grad():
        for indices, encoded in encoded_batches(source, execution, module.input_node):
            membranes = module(input_frames(module, encoded), execution.num_steps, encoded.constant)
            counts = torch.arange(1, execution.num_steps + 1).reshape(-1, 1, 1)
            scores = membranes / counts
            best = scores.topk(2, dim=2)
            sure = best.values[..., 0] - best.values[..., 1] >= margin
            sure[-1] = True
            at = sure.int().argmax(0)  # the first sure step
            said = best.indices[..., 0].gather(0, at[None])[0].numpy()
            right += int((said == source.labels[indices]).sum())
            steps += int((at + 1).sum())
    return right / len(source), steps / len(source)


def layer_errors(converted: Converted, source: Samples, execution: Execution) -> tuple[LayerError, ...]:
    """Where the error of every spiking layer comes from, over all of ``source``."""
    import torch
    from torch import Tensor

    from spikeloom.core.nodes import IF
    from spikeloom.snn.build import input_frames
    from spikeloom.snn.execute import encoded_batches, runnable
    from spikeloom.transform.thresholds import run_ann

    num_steps, level = execution.num_steps, converted.conversion.max_level
    ann, snn = runnable(converted.ann), runnable(converted.network)
    sums: dict[str, np.ndarray] = {name: np.zeros(6) for name in converted.thresholds}

    def said(x: Tensor, v_init: Tensor | float) -> Tensor:
        return (x * num_steps + v_init).floor().clamp(0, num_steps * level) / num_steps

    with torch.no_grad():
        for _, encoded in encoded_batches(source, execution, ann.input_node):
            wanted: dict[str, Tensor] = {}
            got: dict[str, tuple[Tensor, Tensor]] = {}
            run_ann(
                ann,
                encoded,
                converted.conversion.ann_frames,
                lambda n, _, sent, w=wanted: w.update({n: sent.mean(0)}),  # type: ignore[misc]
            )
            snn(
                input_frames(snn, encoded),
                num_steps,
                encoded.constant,
                lambda n, arrived, sent, g=got: g.update({n: (arrived.mean(0), sent.mean(0))}),
            )
            for name, threshold in converted.thresholds.items():
                size = torch.tensor(threshold, dtype=torch.float32)
                a = wanted[name] / size.reshape(-1, *([1] * (wanted[name].dim() - 2)))
                arrived, rate = got[name]
                node = converted.network.nodes[name]
                assert isinstance(node, IF)
                clipped, told = a.clamp(0, level), said(a, converted.conversion.v_init)
                steady = said(arrived, torch.as_tensor(node.v_init))
                parts = (clipped - a, told - clipped, steady - told, rate - steady, rate - a, a)
                sums[name] += [float(part.double().square().sum()) for part in parts]
    return tuple(
        LayerError(name, *(100 * float(np.sqrt(part / max(total[5], 1e-30))) for part in total[:5]))
        for name, total in sums.items()
    )


def fine_tune_qcfs(
    ann: Network,
    experiment: Experiment,
    parts: Splits,
    execution: Execution,
    conversion: Conversion,
    levels: int,
    epochs: int,
    learning_rate: float,
    checkpoint: Path,
    *,
    data_dir: Path | None = None,
    progress: Progress | None = None,
) -> Network:
    """``ann`` fine-tuned with staircases of ``levels`` steps on the experiment's training split; an interrupted run goes on."""
    from spikeloom.snn.train import train
    from spikeloom.studies.experiment import tuning_config
    from spikeloom.transform.prepare import prepare
    from spikeloom.transform.qcfs import staircase
    from spikeloom.transform.thresholds import choose, collect

    if execution.encoding != "direct":
        raise ConfigError(
            f"QCFS fine-tuning trains an ANN on images; experiment '{experiment.name}' shows '{execution.encoding}'"
        )
    ready = prepare(ann, conversion.max_pool)
    values = collect(ready, parts.calibration, execution, np.random.default_rng(conversion.seed))
    thresholds = choose(ready, values, "mse", num_steps=levels, by_channel=conversion.by_channel)
    config = tuning_config(experiment, epochs, learning_rate, num_steps=1)
    fit, _ = fit_and_held(experiment, data_dir)
    trained = train(
        staircase(ready, thresholds, levels),
        fit,
        config,
        augment=augmentation(experiment),
        checkpoint=checkpoint,
        progress=progress,
    )
    checkpoint.unlink(missing_ok=True)
    return replace(trained.network, metadata=ann.metadata)
