"""Co-design, strict table: N-MNIST at T = 30 (10 ms) and T = 300 (1 ms), the same network and array on both sides.

    SPIKELOOM_DATA=... python -m benchmarks.codesign_strict --steps 30 --seeds 0,1,2 [--test]

Same topology, T, weight bits, 8x8 array and memories; only training, window, dispatch, order and merging differ. Everything is
trained and chosen on the training recordings, a tenth of them held out; ``--test`` opens the test recordings, once, for the
final figures. T = 300 goes on from the networks of T = 30 (run that first). Folders are kept in ``--out``, so that an interrupted
run goes on. About a quarter of an hour per seed and T on one core.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from spikeloom.codesign.mapping import MappingChoices, best_global_window, best_mapping, time_batched
from spikeloom.core.report import Report
from spikeloom.core.trace import Spikes
from spikeloom.core.workload import Layer, Workload
from spikeloom.evaluate import evaluate, load_machine
from spikeloom.files.network import read_network
from spikeloom.files.nir import read_nir
from spikeloom.snn.execute import evaluate as accuracy_of
from spikeloom.studies.cotrain import recorded
from spikeloom.studies.cotrain_sweep import Row, Sweep, correlation, read_sweep, run_sweep
from spikeloom.studies.experiment import Experiment, execution_of, samples, training_samples
from spikeloom.transform.fold import fold

HERE = Path(__file__).parent / "codesign"
WINDOWS = (1, 2, 4, 8, 16, 32, 64)
#: The final mapping may be anything; the training looks at fewer.
CHOICES = MappingChoices(WINDOWS, ("agile", "temporal", "ptb"), ("raster", "interleave"), (1, 2, 8))
NARROW = MappingChoices(WINDOWS, ("agile", "temporal", "ptb"), ("raster", "interleave"), (1, 2))


@dataclass(frozen=True)
class Line:
    """One line of the table, of one seed."""

    name: str
    accuracy: float
    report: Report
    rate: float


def sweep_of(steps: int, seed: int, out: Path) -> tuple[Experiment, Sweep, Path]:
    """The experiment and sweep of one seed, and its folder."""
    experiment, sweep = read_sweep(HERE / f"t{steps}.toml", {"seed": seed})
    folder = out / f"t{steps}-s{seed}"
    if steps == 300:
        first = out / f"t30-s{seed}"
        experiment = replace(experiment, start=str(first / "start" / "network.npz"))
        sweep = replace(sweep, warm=str(first / "beta-2.5" / "network.npz"))
    return experiment, sweep, folder


def hidden_silent(workload: Workload) -> Workload:
    """The same input, and not a spike behind it: what no training can go below."""

    def silent(layer: Layer) -> Layer:
        out = None if layer.out is None else Spikes(np.zeros_like(layer.out.packed), layer.out.num_steps)
        if not layer.inputs:
            return replace(layer, out=out)
        arrival = layer.arrival
        if isinstance(arrival, Spikes):
            return replace(layer, out=out, arrival=Spikes(np.zeros_like(arrival.packed), arrival.num_steps))
        return replace(layer, out=out, arrival=replace(arrival, values=np.zeros_like(arrival.values)))

    return replace(workload, layers=tuple(silent(layer) for layer in workload.layers))


def rate_of(workload: Workload) -> float:
    """Mean firing rate of what arrives at the layers behind the first; of an ANN, the fraction of activations that are not 0."""
    hidden = [layer.arrival for layer in workload.layers if layer.inputs]
    spikes = [arrival for arrival in hidden if isinstance(arrival, Spikes)]
    return float(np.mean([arrival.density() for arrival in spikes or hidden]))


def lines_of(experiment: Experiment, sweep: Sweep, folder: Path, data: Path, test: bool) -> list[Line]:
    """Every line for one seed: mappings are chosen on training recordings, figures are those of the recordings shown."""
    fit, held = training_samples(experiment, data)
    assert held is not None
    shown = samples(experiment, "test", data) if test else held
    some = sweep.options.samples
    ours = time_batched(load_machine("spikex")[1])
    lines = []

    def add(name: str, network_accuracy: float, workload: Workload, report: Report) -> None:
        lines.append(Line(name, network_accuracy, report, rate_of(workload)))

    start = read_network(folder / "start" / "network.npz")
    plain_fit, plain = recorded(start, experiment, fit, some), recorded(start, experiment, shown)
    right = accuracy_of(start, shown, execution_of(experiment))
    for spec in ("snn-dense", "ptb"):
        arch = best_global_window(plain_fit, time_batched(load_machine(spec)[1]), WINDOWS).arch
        add(f"plain, {spec}", right, plain, evaluate(plain, arch, label=f"L={arch.window}"))
    add("plain, ours, merge <= 2", right, plain, evaluate(plain, best_mapping(plain_fit, ours, NARROW).arch))
    add("plain, ours", right, plain, evaluate(plain, best_mapping(plain_fit, ours, CHOICES).arch))
    for beta in sweep.betas:
        network = read_network(folder / f"beta-{beta:g}" / "network.npz")
        trained_fit, trained = recorded(network, experiment, fit, some), recorded(network, experiment, shown)
        score = accuracy_of(network, shown, execution_of(experiment))
        ptb = best_global_window(trained_fit, time_batched(load_machine("ptb")[1]), WINDOWS).arch
        add(f"beta {beta:g}, ptb", score, trained, evaluate(trained, ptb))
        narrow = best_mapping(trained_fit, ours, NARROW).arch
        add(f"beta {beta:g}, ours, merge <= 2", score, trained, evaluate(trained, narrow))
        add(f"beta {beta:g}, ours", score, trained, evaluate(trained, best_mapping(trained_fit, ours, CHOICES).arch))
    if experiment.num_steps == 300:
        outside = fold(read_nir(data / "nets" / "cnn_sinabs.nir"))
        other_fit, other = recorded(outside, experiment, fit, some), recorded(outside, experiment, shown)
        score = accuracy_of(outside, shown, execution_of(experiment))
        ptb = best_global_window(other_fit, time_batched(load_machine("ptb")[1]), WINDOWS).arch
        add("cnn_sinabs.nir, ptb", score, other, evaluate(other, ptb))
        add("cnn_sinabs.nir, ours", score, other, evaluate(other, best_mapping(other_fit, ours, CHOICES).arch))
    silent = hidden_silent(plain)
    add("ceiling: hidden layers silent", float("nan"), silent, best_mapping(silent, ours, CHOICES).report)
    return lines


def table(title: str, by_seed: Sequence[Sequence[Line]]) -> Table:
    """Mean and spread (standard deviation over the seeds); ratios are paired by seed."""
    found = Table(title=title)
    for heading in ("network, machine", "right %", "hidden rate %", "energy uJ", "latency us", "EDP nJs", "ptb / this"):
        found.add_column(heading, justify="left" if heading.startswith("network") else "right")
    for k, first in enumerate(by_seed[0]):
        each = [lines[k] for lines in by_seed]
        base = [next(x for x in lines if x.name == "plain, ptb").report.edp_js for lines in by_seed]

        def cell(values: Sequence[float], digits: int = 2) -> str:
            return f"{np.mean(values):.{digits}f} +- {np.std(values, ddof=1 if len(values) > 1 else 0):.{digits}f}"

        found.add_row(
            first.name,
            cell([100 * x.accuracy for x in each]),
            cell([100 * x.rate for x in each]),
            cell([1e6 * x.report.energy_per_inference_j for x in each]),
            cell([1e6 * x.report.latency_per_inference_s for x in each], 1),
            cell([1e9 * x.report.edp_js for x in each], 3),
            cell([b / x.report.edp_js for b, x in zip(base, each, strict=True)]),
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, choices=(30, 300), default=30)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--out", type=Path, default=Path("runs/codesign"))
    parser.add_argument("--test", action="store_true", help="open the test recordings for the final figures")
    options = parser.parse_args()
    data = Path(os.environ["SPIKELOOM_DATA"])
    console = Console(width=140, highlight=False)
    rows: list[Row] = []
    by_seed = []
    with Progress(console=Console(stderr=True), transient=True) as bar:
        told = _told(bar)
        for seed in (int(word) for word in options.seeds.split(",")):
            experiment, sweep, folder = sweep_of(options.steps, seed, options.out)
            rows += run_sweep(experiment, sweep, folder, data_dir=data, test=options.test, progress=told)
            by_seed.append(lines_of(experiment, sweep, folder, data, options.test))
    where = "test" if options.test else "held-out"
    console.print(table(f"N-MNIST, T = {options.steps}, {where} recordings, {len(by_seed)} seeds", by_seed))
    for tables in ("first", "last"):
        found = correlation(rows, tables)
        if found is not None:
            console.print(f"{tables} tables: rank correlation {found[0]:.3f}, median EDP error {found[1]:.1%}")


def _told(bar: Progress) -> Callable[..., None]:
    tasks: dict[str, int] = {}

    def told(stage: str, done: int, total: int, figures: object) -> None:
        if stage not in tasks:
            tasks[stage] = bar.add_task(stage, total=total)
        bar.update(tasks[stage], completed=done, total=total)  # type: ignore[arg-type]

    return told


if __name__ == "__main__":
    main()
