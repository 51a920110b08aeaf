"""ANN to SNN on CIFAR-10: Spikeloom's conversion beside SpikingJelly's ann2snn, same ANN, same images, same T.

    SPIKELOOM_DATA=... python -m benchmarks.cifar10_conversion [NETWORK.npz] [--images N] [--methods A,B] [--steps 4,8]

NETWORK.npz comes from ``spikeloom train cifar10-ann`` [runs/cifar10-ann/network.npz]. What each method predicts for each image is
kept in the folder --out, so a run that was interrupted goes on; the tables come from these files. Methods:

    spikeloom           thresholds by least squared error per channel, biases calibrated; converted for each T
    spikeloom-weights   the same and weights calibrated too
    spikeloom-once-K    the first, converted for T = K only and run at every T
    spikeloom-qcfs-L    the first, of the ANN fine-tuned with staircases of L levels (minutes per epoch; the only one with training)
    sj-rate-MODE        SpikingJelly's RateCodingRecipe, one threshold per layer; MODE: max, 99.9, 99.99
    sj-channel-MODE     the same with one threshold per channel; MODE-half: membranes start at half a threshold
    sj-ltb              SpikingJelly's LocalThresholdBalancingRecipe, whose thresholds grow from 0 with every batch

All are calibrated on the same images, which the ANN was not trained on. Behind a SpikingJelly method ``@train`` gives it the whole
training set instead, ``@20`` the calibration images 20 times, and ``+delay`` reads out from the step that its
``estimate_delay_start`` says.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from spikeloom.core.network import Network
from spikeloom.core.nodes import LI, AvgPool2d, Conv2d, Flatten, Input, Linear, Output, ReLU
from spikeloom.data import Samples
from spikeloom.errors import SpikeloomError
from spikeloom.files.atomic import make_folder, replacing
from spikeloom.files.network import read_network, write_network
from spikeloom.snn.execute import Execution, predict, runnable
from spikeloom.studies.convert import HELD_OUT, Splits, converted_at, fine_tune_qcfs, splits
from spikeloom.studies.experiment import Experiment, experiment_of, samples, split
from spikeloom.transform.calibrate import Effort
from spikeloom.transform.convert import Conversion

STEPS = "1,2,4,8,16,32"
METHODS = (
    "spikeloom",
    "spikeloom-once-8",
    "spikeloom-weights",
    "spikeloom-qcfs-4",
    "sj-rate-99.9",
    "sj-channel-99.9-half",
    "sj-channel-99.9-half+delay",
    "sj-ltb@10",
    "sj-ltb@10+delay",
    "sj-ltb@20",
    "sj-ltb@20+delay",
)
#: Images that every method is calibrated on, and the batch of them that SpikingJelly gets.
CALIBRATION, BATCH = 256, 64
QCFS_EPOCHS, QCFS_RATE = 2, 1e-3
MISSING = (
    "SpikingJelly's ann2snn is missing ({}); install it with scripts/frameworks, or name only methods of spikeloom"
)


@dataclass(frozen=True)
class Bench:
    """One ANN and the images that all methods see."""

    ann: Network
    experiment: Experiment
    parts: Splits
    shown: Samples
    steps: Sequence[int]
    folder: Path
    key: str

    def file(self, method: str, num_steps: int) -> Path:
        return self.folder / f"{self.key}-{len(self.shown)}" / f"{method}-T{num_steps}.npz"

    def known(self, method: str, num_steps: int) -> np.ndarray | None:
        """Predictions of an earlier run, of these images or of more, shape (N,)."""
        places = {image: place for place, image in enumerate(self.shown.ids)}
        for path in sorted(self.folder.glob(f"{self.key}-*/{self.file(method, num_steps).name}")):
            with np.load(path) as kept:
                found = {int(image): int(said) for image, said in zip(kept["ids"], kept["predictions"], strict=True)}
            if places.keys() <= found.keys():
                return np.array([found[int(image)] for image in places], np.int64)
        return None

    def keep(self, method: str, num_steps: int, predictions: np.ndarray) -> None:
        with replacing(self.file(method, num_steps)) as temporary, temporary.open("wb") as stream:
            np.savez(stream, predictions=predictions.astype(np.int16), labels=self.shown.labels, ids=self.shown.ids)
        right = 100 * np.mean(predictions == self.shown.labels)
        print(f"{time.strftime('%H:%M:%S')} {method} T = {num_steps}: {right:.2f} %", file=sys.stderr, flush=True)


def sequential(ann: Network) -> nn.Sequential:
    """A folded chain of convolutions, linear layers, ReLU and average pools as torch modules with the same weights."""
    modules: list[nn.Module] = []
    for name in ann.order():
        node = ann.nodes[name]
        if isinstance(node, Conv2d):
            layer: Any = nn.Conv2d(
                node.in_channels,
                node.out_channels,
                node.kernel,
                node.stride,
                node.padding,
                node.dilation,
                node.groups,
                bias=node.has_bias,
            )
        elif isinstance(node, Linear):
            layer = nn.Linear(node.in_features, node.out_features, bias=node.has_bias)
        elif isinstance(node, AvgPool2d):
            layer = nn.AvgPool2d(node.kernel, node.stride, node.padding)
        elif isinstance(node, ReLU):
            layer = nn.ReLU()
        elif isinstance(node, Flatten):
            layer = nn.Flatten()
        elif isinstance(node, Input | Output | LI):
            continue
        else:
            sys.exit(f"layer '{name}' ({type(node).__name__}) has no place in this benchmark; train cifar10-ann")
        if isinstance(node, Conv2d | Linear):
            with torch.no_grad():
                layer.weight.copy_(torch.tensor(node.weight))
                if node.bias is not None:
                    layer.bias.copy_(torch.tensor(node.bias))
        modules.append(layer)
    return nn.Sequential(*modules).eval()


def images(source: Samples, start: int, number: int) -> Tensor:
    """Pixels / 255 of some samples, as direct coding shows them."""
    return torch.from_numpy(source.batch(np.arange(start, min(start + number, len(source))))).float() / 255


def ours(bench: Bench, method: str) -> None:
    """Convert and run for every T that is not known."""
    ann = bench.ann
    words = method.split("-")
    converted: dict[int, Network] = {}  # by the T that it is made for
    for num_steps in bench.steps:
        if bench.known(method, num_steps) is not None:
            continue
        if "qcfs" in words and ann is bench.ann:
            ann = fine_tuned(bench, int(words[-1]))
        made_for = int(words[-1]) if "once" in words else num_steps
        if made_for not in converted:
            effort: Effort = "weights" if "weights" in words else "bias"
            made = converted_at(ann, made_for, Execution, bench.parts.calibration, Conversion(), effort)
            converted[made_for] = made.network
        bench.keep(method, num_steps, predict(runnable(converted[made_for]), bench.shown, Execution(num_steps)))


def fine_tuned(bench: Bench, levels: int) -> Network:
    """The ANN fine-tuned with staircases of ``levels`` steps; made once."""
    path = bench.folder / f"qcfs-{levels}-{QCFS_EPOCHS}-{QCFS_RATE:g}-{bench.ann.id[:12]}.npz"
    if path.exists():
        return read_network(path)
    started = [time.monotonic()]

    def progress(stage: str, done: int, total: int, figures: Mapping[str, float]) -> None:
        if done == total or time.monotonic() - started[0] > 30:
            started[0] = time.monotonic()
            told = ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
            print(f"{time.strftime('%H:%M:%S')} QCFS {stage} {done}/{total} {told}", file=sys.stderr, flush=True)

    tuned = fine_tune_qcfs(
        bench.ann,
        bench.experiment,
        bench.parts,
        Execution(1),
        Conversion(),
        levels,
        QCFS_EPOCHS,
        QCFS_RATE,
        path.with_suffix(".checkpoint.pt"),
        progress=progress,
    )
    write_network(path, tuned)
    return tuned


def spikingjelly() -> Any:
    """Its ann2snn."""
    try:
        from spikingjelly.activation_based import ann2snn
    except ImportError as error:
        sys.exit(MISSING.format(error))
    return ann2snn


def theirs(bench: Bench, name: str, methods: Sequence[str]) -> None:
    """Convert once and run the largest T; the outputs summed up to T, as its examples do, are those of a run of T steps.

    methods: ``name``, ``name+delay`` or both.
    """
    if all(bench.known(method, num_steps) is not None for method in methods for num_steps in bench.steps):
        return
    loader = batches(bench, name.partition("@")[2])
    snn = converted_by_spikingjelly(bench, name.partition("@")[0], loader)
    first: dict[tuple[str, int], int] = {}  # the first step that is read out
    for method, num_steps in product(methods, bench.steps):
        delayed = method.endswith("+delay")
        first[method, num_steps] = spikingjelly().estimate_delay_start(snn, loader, "cpu", num_steps) if delayed else 0
    predictions = {key: np.empty(len(bench.shown), np.int64) for key in first}
    for start in range(0, len(bench.shown), BATCH):
        said = outputs(snn, images(bench.shown, start, BATCH), max(bench.steps))
        for key, step in first.items():
            predictions[key][start : start + BATCH] = said[step : key[1]].sum(0).argmax(1).numpy()
    for (method, num_steps), found in predictions.items():
        bench.keep(method, num_steps, found)


def batches(bench: Bench, calibrated_on: str) -> list[Tensor]:
    """What SpikingJelly is calibrated on."""
    source, passes = bench.parts.calibration, 1
    if calibrated_on == "train":
        experiment = bench.experiment
        everything = samples(experiment, "train")
        source, _ = split(everything, experiment.validation or HELD_OUT, int(experiment.train.get("seed", 0)))
        source = source.take(np.random.default_rng(0).permutation(len(source)))
    elif calibrated_on:
        passes = int(calibrated_on)
    return [images(source, start, BATCH) for start in range(0, len(source), BATCH)] * passes


def converted_by_spikingjelly(bench: Bench, name: str, loader: Sequence[Tensor]) -> nn.Module:
    """The SNN of one of its recipes."""
    ann2snn = spikingjelly()
    words = name.split("-")[1:]
    if words == ["ltb"]:
        recipe = ann2snn.LocalThresholdBalancingRecipe(dataloader=loader)
    elif words[0] in ("rate", "channel"):
        recipe = ann2snn.RateCodingRecipe(
            dataloader=loader,
            mode=words[1] if words[1] == "max" else f"{words[1]}%",
            channel_wise=words[0] == "channel",
            half_threshold="half" in words,
        )
    else:
        sys.exit(f"--methods: got '{name}', expected one of {', '.join(METHODS)}")
    snn: nn.Module = ann2snn.Converter(recipe=recipe, device="cpu").convert(sequential(bench.ann))
    return snn.eval()


def outputs(snn: nn.Module, shown: Tensor, num_steps: int) -> Tensor:
    """What it says at every step of the same images, shape (T, N, classes)."""
    from spikingjelly.activation_based import functional

    functional.reset_net(snn)
    with torch.no_grad():
        return torch.stack([snn(shown) for _ in range(num_steps)])


def checked(bench: Bench) -> float:
    """Accuracy of the ANN; stops where torch's says something else than Spikeloom's."""
    predictions = predict(runnable(bench.ann), bench.shown, Execution(1))
    module = sequential(bench.ann)
    with torch.no_grad():
        found = [module(images(bench.shown, at, BATCH)).argmax(1) for at in range(0, len(bench.shown), BATCH)]
    differing = int((torch.cat(found).numpy() != predictions).sum())
    if differing > len(predictions) / 1000:
        sys.exit(f"the ANN in torch modules says something else for {differing} of {len(predictions)} images")
    return float(np.mean(predictions == bench.shown.labels))


def paired(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """(mean difference, its standard error) of two rows of right and wrong, in points."""
    difference = first.astype(float) - second
    return 100 * float(difference.mean()), 100 * float(difference.std(ddof=1) / np.sqrt(len(difference)))


def show(bench: Bench, methods: Sequence[str], accuracy: float) -> None:
    """The tables of what is known."""
    console = Console(highlight=False, width=110)
    right = {}
    table = Table(title=f"{bench.key}, {len(bench.shown)} images: % right, ANN {100 * accuracy:.2f} %")
    for head in ("method", *(f"T = {num_steps}" for num_steps in bench.steps)):
        table.add_column(head, justify="left" if head == "method" else "right")
    for method in methods:
        cells = []
        for num_steps in bench.steps:
            predictions = bench.known(method, num_steps)
            if predictions is not None:
                right[method, num_steps] = predictions == bench.shown.labels
            cells.append("" if predictions is None else f"{100 * right[method, num_steps].mean():.2f}")
        table.add_row(method, *cells)
    console.print(table)
    table = Table(title="points ahead of SpikingJelly's best at that T, paired, +- standard error")
    for head in ("method", *(f"T = {num_steps}" for num_steps in bench.steps)):
        table.add_column(head, justify="left" if head == "method" else "right")
    best = {}
    for num_steps in bench.steps:
        rivals = [m for m in methods if m.startswith("sj-") and (m, num_steps) in right]
        if rivals:
            scores = [float(right[method, num_steps].mean()) for method in rivals]
            best[num_steps] = rivals[int(np.argmax(scores))]
    table.add_row("SpikingJelly's best", *(best.get(num_steps, "") for num_steps in bench.steps))
    for method in (m for m in methods if not m.startswith("sj-")):
        cells = []
        for num_steps in bench.steps:
            if num_steps in best and (method, num_steps) in right:
                mean, error = paired(right[method, num_steps], right[best[num_steps], num_steps])
                cells.append(f"{mean:+.2f} +- {error:.2f}")
            else:
                cells.append("")
        table.add_row(method, *cells)
    console.print(table)


def prepared(options: argparse.Namespace) -> Bench:
    """The ANN and its images."""
    if not Path(options.network).exists():
        sys.exit(f"{options.network}: no such file; run 'spikeloom train cifar10-ann' first")
    ann = read_network(options.network)
    experiment = experiment_of(ann, options.network)
    parts = splits(experiment, options.calibration)
    source, name = (parts.choosing, "held-out") if options.held_out else (parts.test, "test")
    if options.images is not None and options.images < len(source):
        drawn = np.random.default_rng(0).permutation(len(source))[: options.images]  # they are sorted by class
        source = source.take(np.sort(drawn))
    key = f"{ann.id[:12]}-calibration-{len(parts.calibration)}-{name}"
    make_folder(options.out / f"{key}-{len(source)}")
    steps = sorted({int(number) for number in options.steps.split(",")})
    return Bench(ann, experiment, parts, source, steps, options.out, key)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", nargs="?", default="runs/cifar10-ann/network.npz")
    parser.add_argument("--methods", default=",".join(METHODS), help=f"[{','.join(METHODS)}]")
    parser.add_argument("--steps", default=STEPS, help=f"T [{STEPS}]")
    parser.add_argument("--images", type=int, help="only so many of the test images, drawn with seed 0")
    parser.add_argument("--held-out", action="store_true", help="images held out of the training set, not the test set")
    parser.add_argument("--calibration", type=int, default=CALIBRATION, help=f"calibration images [{CALIBRATION}]")
    parser.add_argument("--out", type=Path, default=Path("runs/cifar10-conversion"))
    options = parser.parse_args()
    try:
        bench = prepared(options)
        accuracy = checked(bench)
        methods = options.methods.split(",")
        for name in dict.fromkeys(method.partition("+")[0] for method in methods):
            asked = [method for method in methods if method.partition("+")[0] == name]
            if name.startswith("sj-"):
                theirs(bench, name, asked)
            else:
                ours(bench, name)
    except SpikeloomError as error:
        sys.exit(str(error))
    show(bench, methods, accuracy)


if __name__ == "__main__":
    main()
