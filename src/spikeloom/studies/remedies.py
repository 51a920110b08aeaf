"""What each published remedy would save on a machine: a changed trace, workload or machine counted and priced again.

Remedies after Yin et al., arXiv 2309.03388: batching time steps, sharing neuron modules, leaving early, fewer steps, narrow weights.
Letters: T time steps, N samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from spikeloom.core.arch import AbstractArch
from spikeloom.core.efficiency import REMEDIES, Exits, Saving
from spikeloom.core.network import Network
from spikeloom.core.report import Report
from spikeloom.core.trace import SpikeTrace
from spikeloom.core.workload import WEIGHTED, Workload
from spikeloom.errors import ConfigError, SpikeloomError
from spikeloom.hw import HARDWARE
from spikeloom.lower import lower
from spikeloom.studies.ann import taken
from spikeloom.studies.shares import BATCHES_STEPS, neuron_logic, weight_energy
from spikeloom.studies.thinning import first_steps

if TYPE_CHECKING:
    from spikeloom.data import Samples
    from spikeloom.snn.execute import Execution

SHARED_BY = 4
_MOST_GROUPS = 8
_MARGINS = 64

Evaluate = Callable[[Workload, AbstractArch], Report]


def exits_of(network: Network, source: Samples, execution: Execution, recorded: int) -> Exits:
    """The earliest exit that is right at least as often as all T steps.

    A sample stops when its best class leads by a margin: of ``score / steps`` in membranes, or spikes of the read-out. The margin is
    the smallest of 64 quantiles that loses nothing on the second half of ``source``; mean and accuracy are those of the first half.

    Args:
        network: with weights.
        source: samples whose first ``recorded`` are those of the trace.
        execution: T and encoding.
        recorded: N of the trace.
    """
    import torch

    from spikeloom.core.nodes import LI
    from spikeloom.snn.build import input_frames
    from spikeloom.snn.execute import encoded_batches, runnable

    module = runnable(network)
    output = next(name for name in reversed(network.order()) if not network.outputs_of(name))
    adds_up = isinstance(network.nodes[network.inputs_of(output)[0]], LI)
    leads, right = [], []
    with torch.no_grad():
        for indices, encoded in encoded_batches(source, execution, module.input_node):
            said = module(input_frames(module, encoded), execution.num_steps, encoded.constant).float()
            scores = said if adds_up else said.cumsum(0)
            best = (scores / torch.arange(1, len(scores) + 1).reshape(-1, 1, 1)).topk(2, dim=2)
            leads.append((best.values[..., 0] - best.values[..., 1]).numpy())
            right.append(best.indices[..., 0].numpy() == source.labels[indices])
    lead_TN, right_TN = np.concatenate(leads, axis=1), np.concatenate(right, axis=1)
    half = lead_TN.shape[1] // 2

    def stopped(margin: float) -> tuple[np.ndarray, np.ndarray]:
        """(index of its last step, whether it is right then) of every sample."""
        sure = lead_TN >= margin
        sure[-1] = True
        at = sure.argmax(axis=0)
        return at, right_TN[at, np.arange(len(at))]

    for margin in [*np.quantile(lead_TN[:, half:], np.linspace(0, 1, _MARGINS)), np.inf]:
        at, right_then = stopped(margin)
        if right_then[half:].mean() >= right_TN[-1, half:].mean():
            tested = half or 1
            accuracy = (float(right_TN[-1, :tested].mean()), float(right_then[:tested].mean()))
            return Exits(at[:recorded].astype(np.int64) + 1, float(at[:tested].mean()) + 1, accuracy, tested)
    raise AssertionError("at an infinite margin no sample stops early")


@dataclass(frozen=True, eq=False)
class Subject:
    """An SNN on a machine, and its report. exits: None where nothing says when a sample may stop."""

    network: Network
    trace: SpikeTrace
    workload: Workload
    arch: AbstractArch
    report: Report
    evaluate: Evaluate
    exits: Exits | None = None


def savings(subject: Subject) -> tuple[Saving, ...]:
    """Every remedy of `REMEDIES` on one machine."""
    tried: dict[str, Callable[[], Saving]] = {
        "batching": lambda: _batching(subject),
        "sharing": lambda: _sharing(subject),
        "early exit": lambda: _early_exit(subject),
        "half steps": lambda: _half_steps(subject),
        "4 bit": lambda: _narrow(subject, 4),
        "2 bit": lambda: _narrow(subject, 2),
    }
    assert list(tried) == list(REMEDIES)
    found = []
    for name, remedy in tried.items():
        try:
            found.append(replace(remedy(), remedy=name))
        except SpikeloomError as error:
            found.append(Saving(name, refused=str(error)))
    return tuple(found)


def _saved(before: Report, energy: float, latency: float, how: str = "counted") -> Saving:
    """Joules and seconds of one inference against those of ``before``."""
    old, edp = before.energy_per_inference_j, before.edp_js
    return Saving("", how, 1 - energy / old if old else 0.0, 1 - energy * latency / edp if edp else 0.0)


def _counted(subject: Subject, workload: Workload, arch: AbstractArch) -> Saving:
    after = subject.evaluate(workload, arch)
    return _saved(subject.report, after.energy_per_inference_j, after.latency_per_inference_s)


def _batching(subject: Subject) -> Saving:
    """A machine with a window of time steps is given one of T; elsewhere every weight is moved as often as in the first step."""
    arch, steps = subject.arch, subject.trace.num_steps
    if steps == 1:
        raise ConfigError("there is one time step only")
    if arch.model in BATCHES_STEPS:
        raise ConfigError("this machine moves no weight twice for one inference already")
    window = next((item for item in fields(arch) if item.name == "window"), None)  # type: ignore[arg-type]
    if window is not None:
        longest: dict[str, Any] = {"window": min(steps, int(window.metadata["high"]))}
        return _counted(subject, subject.workload, replace(arch, **longest))  # type: ignore[type-var]
    first = subject.evaluate(lower(subject.network, first_steps(subject.trace, 1)), arch)
    again = max(0.0, weight_energy(subject.report) - weight_energy(first))
    return _saved(
        subject.report,
        subject.report.energy_per_inference_j - again,
        subject.report.latency_per_inference_s,
        "bound",
    )


def _sharing(subject: Subject) -> Saving:
    """What neuron logic that ``SHARED_BY`` neurons share saves: leakage, clocking, area; the work of an update stays."""
    arch = HARDWARE[subject.arch.model].sized(subject.workload, subject.arch)
    idle, area = neuron_logic(arch, subject.report)
    if not idle and not area:
        raise ConfigError("the neuron logic of this machine has neither leakage nor area of its own")
    part = 1 - 1 / SHARED_BY
    latency, whole = subject.report.latency_per_inference_s, subject.report.area_m2
    saved = _saved(subject.report, subject.report.energy_per_inference_j - idle * part, latency, "bound")
    return replace(saved, area=area * part / whole if whole else None)


def _early_exit(subject: Subject) -> Saving:
    """Each sample counted up to the step at which it stops; more than 8 different steps are grouped, each rounded up."""
    if subject.exits is None:
        raise ConfigError("a trace does not say when its classes are sure; give the network")
    steps, whole = subject.exits.steps, subject.trace.num_steps
    ends = np.unique(steps)
    if len(ends) > _MOST_GROUPS:
        ends = np.unique(np.quantile(steps, np.linspace(0, 1, _MOST_GROUPS + 1)[1:], method="higher"))
    group = ends[np.searchsorted(ends, steps)]
    energy = latency = 0.0
    for end in np.unique(group):
        part = taken(subject.trace, np.flatnonzero(group == end))
        report = subject.evaluate(lower(subject.network, first_steps(part, min(int(end), whole))), subject.arch)
        energy, latency = energy + report.energy_j, latency + report.latency_s
    return _saved(subject.report, energy / len(steps), latency / len(steps))


def _half_steps(subject: Subject) -> Saving:
    if subject.trace.num_steps == 1:
        raise ConfigError("there is one time step only")
    shorter = first_steps(subject.trace, -(-subject.trace.num_steps // 2))
    return _counted(subject, lower(subject.network, shorter), subject.arch)


def _narrow(subject: Subject, bits: int) -> Saving:
    synapses = [layer for layer in subject.workload.layers if layer.kind in WEIGHTED]
    if all(layer.weight_bits <= bits for layer in synapses):
        raise ConfigError(f"weights have no more than {bits} bits already")
    layers = tuple(replace(layer, weight_bits=min(bits, layer.weight_bits)) for layer in subject.workload.layers)
    return _counted(subject, replace(subject.workload, layers=layers), subject.arch)
