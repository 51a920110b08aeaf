"""The whole way in one run: train a small spiking network, record its spikes, price them on three machines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spikeloom.core.report import Report
from spikeloom.evaluate import evaluate, load_machine
from spikeloom.files.network import write_network
from spikeloom.files.results import write_reports
from spikeloom.files.store import write_trace
from spikeloom.lower import lower
from spikeloom.report import summary_sentence
from spikeloom.studies.experiment import read_experiment, record_network, train_experiment

if TYPE_CHECKING:
    from spikeloom.snn.execute import Progress

MACHINES = ("spikex", "ptb", "snn-dense")


@dataclass(frozen=True)
class Demo:
    """What a demo run came to."""

    accuracy: float
    reports: tuple[Report, ...]
    sentence: str


def run_demo(
    folder: Path,
    *,
    machines: Sequence[str] = MACHINES,
    progress: Progress | None = None,
    stage: Callable[[str], None] = lambda text: None,
) -> Demo:
    """Train on digits, quantise to 8 bits, record the test set, evaluate.

    Writes network.npz (in floats), quantized.npz, trace.npz and report.json into ``folder``.
    """
    from spikeloom.transform.quantize import Widths, quantize

    experiment = read_experiment("digits")
    stage(f"training {experiment.network} on {experiment.data}, T = {experiment.num_steps}")
    network, _ = train_experiment(experiment, folder, resume=False, progress=progress)
    stage("quantising weights to 8 bits")
    network = quantize(network, Widths(weight_bits=8))
    write_network(folder / "quantized.npz", network)
    stage("recording every spike of the test set")
    trace = record_network(network, experiment, progress=progress)
    write_trace(folder / "trace.npz", network, trace, weights=True)  # some are zero, and no operations
    stage(f"counting on {', '.join(machines)}")
    workload = lower(network, trace)
    reports = tuple(evaluate(workload, arch, label=label) for label, arch in map(load_machine, machines))
    write_reports(folder / "report.json", reports)
    return Demo(trace.accuracy or 0.0, reports, summary_sentence(reports))
