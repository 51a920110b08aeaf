"""Co-design table: a small searched network and array against the plainly trained network of T = 300 on ``ptb``.

    SPIKELOOM_DATA=... python -m benchmarks.codesign_joint --design benchmarks/codesign/design.toml [--test]

Every row changes one thing more than the row above: time steps; width, pruning and bits; the price of spikes in training; mapping;
array shape and buffers (no larger in area). Networks are made by the recipe of a search file whose ``[space]`` names one design and
the seeds (``train.seed``); they are kept in ``--out``. The baseline networks are those of ``benchmarks.codesign_strict``. With
``--fixed`` the design keeps T = 300: networks of half the width, trained by ``benchmarks.codesign_strict --half``.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.codesign_strict import CHOICES, WINDOWS, rate_of, sweep_of
from spikeloom.codesign.mapping import best_global_window, best_mapping, time_batched
from spikeloom.core.network import Network
from spikeloom.core.nodes import ClippedReLU, ReLU
from spikeloom.core.report import Report
from spikeloom.core.workload import Workload
from spikeloom.data import Samples
from spikeloom.evaluate import evaluate, load_machine
from spikeloom.files.network import read_network
from spikeloom.files.nir import read_nir
from spikeloom.hw.spikex import SpikexArch
from spikeloom.nets import create
from spikeloom.snn.execute import evaluate as accuracy_of
from spikeloom.snn.train import train
from spikeloom.studies.cotrain import recorded
from spikeloom.studies.experiment import (
    Experiment,
    augmentation,
    execution_of,
    samples,
    train_config,
    training_samples,
)
from spikeloom.studies.search_file import plan_search, read_search
from spikeloom.studies.train_search import TrainObjective
from spikeloom.transform.fold import fold

#: Samples on which windows and mappings are chosen.
SOME = 48
#: Levels of the ANN's activations: 4 bits.
ANN_LEVELS = 15


@dataclass(frozen=True)
class Line:
    """One row, of one seed."""

    name: str
    accuracy: float
    report: Report
    rate: float


def line(
    name: str, network: Network, experiment: Experiment, parts: tuple[Samples, Samples], arch: SpikexArch, how: str
) -> Line:
    """``network`` on ``arch``, its window ("window") or its mapping ("mapping") chosen on training recordings."""
    fit, shown = parts
    chosen_on: Workload = recorded(network, experiment, fit, SOME)
    best = best_global_window(chosen_on, arch, WINDOWS) if how == "window" else best_mapping(chosen_on, arch, CHOICES)
    workload = recorded(network, experiment, shown)
    accuracy = accuracy_of(network, shown, execution_of(experiment))
    return Line(name, accuracy, evaluate(workload, best.arch), rate_of(workload))


def baselines(seed: int, strict: Path, data: Path, test: bool) -> list[Line]:
    """The plain network of T = 300 and the outside one, on ``ptb`` at its best window."""
    experiment, _, folder = sweep_of(300, seed, strict)
    fit, held = training_samples(experiment, data)
    assert held is not None
    shown = samples(experiment, "test", data) if test else held
    ptb = time_batched(load_machine("ptb")[1])
    plain = read_network(folder / "start" / "network.npz")
    outside = fold(read_nir(data / "nets" / "cnn_sinabs.nir"))
    return [
        line("plain, T = 300, ptb", plain, experiment, (fit, shown), ptb, "window"),
        line("cnn_sinabs.nir, T = 300, ptb", outside, experiment, (fit, shown), ptb, "window"),
    ]


def ann(seed: int, experiment: Experiment, parts: tuple[Samples, Samples], arch: SpikexArch) -> Line:
    """The matched ANN: the same topology at T = 1 with activations of 4 bits (QCFS staircases), 8-bit weights, on the same array.

    It sees each recording as one frame; its levels are added bit-serially, as every graded input of this machine.
    """
    fit, _ = parts
    options = {"encoding": "spikes", **experiment.network_options, "neuron": "relu"}
    network = create(experiment.network, fit.in_shape, fit.num_classes, **options)
    nodes = {
        name: ClippedReLU(1.0, ANN_LEVELS) if isinstance(node, ReLU) else node for name, node in network.nodes.items()
    }
    config = replace(train_config(experiment), num_steps=1, seed=seed)
    trained = train(replace(network, nodes=nodes), fit, config, augment=augmentation(experiment)).network
    return line(f"ANN, T = 1, {ANN_LEVELS} levels, ours", fold(trained), experiment, parts, arch, "mapping")


def ladder(design: Path, seed: int, out: Path, data: Path, test: bool) -> list[Line]:
    """The searched design, one change at a time."""
    file, name = read_search(design, changes={"seed": seed})
    plan = plan_search(file, name, out, data_dir=data)
    objective = plan.objective
    assert isinstance(objective, TrainObjective)
    params: dict[str, Any] = {choice.name: choice.values[0] for choice in plan.space.choices} | {"train.seed": seed}
    out.mkdir(parents=True, exist_ok=True)
    ptb, ours = (time_batched(load_machine(spec)[1]) for spec in ("ptb", "spikex"))
    searched = time_batched(objective.family.at(params))
    plain_net = {k: v for k, v in params.items() if k.startswith(("train.", "net.leak"))}
    steps = [
        ("fewer steps", plain_net, False, False),
        ("+ width, pruning, bits", {k: v for k, v in params.items() if not k.startswith("cotrain")}, True, False),
        ("+ price of spikes", params, True, True),
    ]
    found, networks = [], []
    for label, some, compressed, priced in steps:
        recipe = replace(
            objective.recipe,
            cotrain=objective.recipe.cotrain if priced else None,
            prune=objective.recipe.prune if compressed else None,
            quantize=objective.recipe.quantize if compressed else None,
        )
        own = replace(objective, recipe=recipe)
        network = own.network(some)
        networks.append(network)
        experiment = recipe.at(some).experiment
        fit, held = own.split(some)
        shown = samples(experiment, "test", data) if test else held
        found.append(line(label, network, experiment, (fit, shown), ptb, "window"))
    found.append(line("+ mapping", network, experiment, (fit, shown), ours, "mapping"))
    free = replace(searched, window=1, dispatch="agile", order="raster", merge=1)
    found.append(line("+ array, buffers", network, experiment, (fit, shown), free, "mapping"))
    found.append(line("the same without price", networks[1], experiment, (fit, shown), free, "mapping"))
    frame = replace(objective.recipe.experiment, train={**objective.recipe.experiment.train, "num_steps": 1})
    fit, held = replace(objective, recipe=replace(objective.recipe, experiment=frame)).split({})
    shown = samples(frame, "test", data) if test else held
    found.append(ann(seed, frame, (fit, shown), ours))
    return found


def table(title: str, by_seed: Sequence[Sequence[Line]]) -> Table:
    """Mean and spread over the seeds; ratios are paired by seed, to the first row and to the row above."""
    shown = Table(title=title)
    for heading in (
        "",
        "right %",
        "hidden rate %",
        "energy uJ",
        "latency us",
        "EDP nJs",
        "mm2",
        "first / this",
        "row above / this",
    ):
        shown.add_column(heading, justify="right" if heading else "left")
    for k, first in enumerate(by_seed[0]):
        each = [lines[k] for lines in by_seed]
        above = [lines[max(0, k - 1)] for lines in by_seed]

        def cell(values: Sequence[float], digits: int) -> str:
            return f"{np.mean(values):.{digits}f} +- {np.std(values, ddof=1 if len(values) > 1 else 0):.{digits}f}"

        edp = np.array([x.report.edp_js for x in each])
        shown.add_row(
            first.name,
            cell([100 * x.accuracy for x in each], 2),
            cell([100 * x.rate for x in each], 2),
            cell([1e6 * x.report.energy_per_inference_j for x in each], 3),
            cell([1e6 * x.report.latency_per_inference_s for x in each], 1),
            cell(list(1e9 * edp), 4),
            f"{1e6 * (each[0].report.area_m2 or float('nan')):.3f}",
            cell([lines[0].report.edp_js for lines in by_seed] / edp, 1),
            cell([x.report.edp_js for x in above] / edp, 2),
        )
    return shown


def main(words: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--design", type=Path, default=Path(__file__).parent / "codesign" / "design.toml")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument(
        "--strict", type=Path, default=Path("runs/codesign"), help="folder of benchmarks.codesign_strict"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/codesign/design"))
    parser.add_argument("--test", action="store_true", help="open the test recordings for the final figures")
    options = parser.parse_args(words)
    data = Path(environment["SPIKELOOM_DATA"])
    by_seed = []
    for seed in (int(word) for word in options.seeds.split(",")):
        rows = baselines(seed, options.strict, data, options.test)
        by_seed.append(rows + ladder(options.design, seed, options.out, data, options.test))
    where = "test" if options.test else "held-out"
    Console(width=170, highlight=False).print(table(f"N-MNIST, {where} recordings, {len(by_seed)} seeds", by_seed))


if __name__ == "__main__":
    main()
