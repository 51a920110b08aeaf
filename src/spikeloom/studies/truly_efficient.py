"""Is this spiking network truly cheaper than the ANN it could have been? Counted on every machine, beside the usual estimate.

The question is that of Yin et al., "Are SNNs truly energy-efficient? A hardware perspective" (arXiv 2309.03388); the ANN to compare
with, of ceil(log2(T+1)) bits, that of arXiv 2409.08290. Letters: T time steps, N samples.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from spikeloom.components import load_table
from spikeloom.core.arch import AbstractArch, Component
from spikeloom.core.efficiency import REMEDIES, Bill, Estimate, Exits, OnMachine, TrulyEfficient
from spikeloom.core.network import Network
from spikeloom.core.report import Report
from spikeloom.core.trace import Levels, Spikes, SpikeTrace
from spikeloom.core.workload import WEIGHTED, Workload
from spikeloom.errors import ConfigError, CostError, MappingError
from spikeloom.evaluate import PRESETS, evaluate, load_machine
from spikeloom.lower import lower
from spikeloom.report.terminal import kind
from spikeloom.studies.ann import Ann, matched_ann
from spikeloom.studies.remedies import Subject, savings
from spikeloom.studies.shares import PURPOSES, RUNS_THE_ANN, shares
from spikeloom.studies.thinning import break_even, firing_rate, first_steps, resampled

if TYPE_CHECKING:
    from spikeloom.snn.execute import Progress

STUDY_FORMAT = "spikeloom-study-truly-efficient"
#: Most lengths of the trace at which energy is counted.
_MOST_LENGTHS = 16


def every_machine() -> list[str]:
    """Presets of all machines of inference; by name only: what a tool prints, and where an SNN costs what its ANN does."""
    return [
        preset
        for model in PURPOSES
        if model not in RUNS_THE_ANN
        for preset, changed in PRESETS[model].items()
        if changed.get("fidelity", "trace") != "tool"
    ]


def to_json(study: TrulyEfficient) -> str:
    """Everything; quantities are SI."""
    content: dict[str, Any] = {"format": STUDY_FORMAT, "version": 1, **asdict(replace(study, exits=None))}
    content["remedies"] = dict(REMEDIES)
    content["estimates"] = [{**asdict(one), "ratio": one.ratio} for one in study.estimates]
    content["machines"] = [
        {**asdict(one), "ratio": one.ratio, "later_steps": one.later_steps} for one in study.machines
    ]
    if study.exits is not None:
        content["exits"] = {**vars(study.exits), "steps": study.exits.steps.tolist()}
    return json.dumps(content, indent=1) + "\n"


def estimates(workload: Workload) -> tuple[Estimate, ...]:
    """Energy from counts of operations: in 32-bit floats, as published estimates have it, and in 8-bit integers.

    ``E_snn = additions * E_add + macs_of_pixels * (E_add + E_multiply)``, ``E_ann = macs * (E_add + E_multiply)``.
    """
    additions = pixel_macs = macs = 0.0
    samples = workload.num_samples
    for layer in workload.layers:
        if layer.kind not in WEIGHTED:
            continue
        dense = layer.dense_synops() // layer.num_steps
        macs += dense
        if isinstance(layer.arrival, Spikes):
            additions += layer.synops / samples
        elif layer.arrival.analog:
            pixel_macs += dense if layer.arrival.constant() else dense * layer.num_steps
        else:
            units = np.abs(layer.arrival.values.astype(np.int64)).sum(axis=(0, 1))
            additions += layer.met(units) / samples
    table = load_table("horowitz45")
    found = []
    for prices, family, width in (("fp32", "fp", 32), ("int8", "int", 8)):
        add = table.energy(Component(f"{family}_adder", width), "add")
        mac = add.value + table.energy(Component(f"{family}_multiplier", width), "multiply").value
        snn, ann = additions * add.value + pixel_macs * mac, macs * mac
        found.append(Estimate(prices, additions, pixel_macs, macs, snn, ann, add.value, add.source))
    return tuple(found)


def truly_efficient(
    network: Network,
    trace: SpikeTrace,
    machines: Sequence[str],
    *,
    ann: Ann | tuple[Network, SpikeTrace] | None = None,
    exits: Exits | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
) -> TrulyEfficient:
    """Ask the question of one trace on many machines.

    Args:
        network: of the trace.
        trace: real spikes.
        machines: presets or machine files.
        ann: the ANN to compare with, or a trace of one; by default `matched_ann`.
        exits: when samples may stop, where the network is at hand.
        seed: of the spikes that are removed or added to find where costs are even.
        threads: samples counted in parallel; by default all cores.
        progress: told after every machine.

    Raises:
        ConfigError: no machine is named, or nothing spikes.
        NetworkError: no ANN runs the network in one step.
        CostError: an instance of a machine of which nothing says what it is for.
    """
    loaded = [load_machine(spec) for spec in machines]
    if not loaded:
        raise ConfigError("no machine is named; expected at least one")
    for label, arch in loaded:
        if arch.model not in PURPOSES:
            raise ConfigError(
                f"{label}: this study asks machines of inference, expected a model of {', '.join(PURPOSES)}"
            )
    if not any(isinstance(arrival, Spikes) for arrival in trace.arrivals.values()):
        raise ConfigError(
            f"{trace.source or network.name}: nothing in it spikes; expected the trace of a spiking network"
        )
    if ann is None:
        ann = matched_ann(network, trace)
    baseline = ann if isinstance(ann, Ann) else _given(*ann, trace.num_steps)
    workload, matched = lower(network, trace), lower(baseline.network, baseline.trace)
    _check_same_layers(workload, matched)

    def run(work: Workload, arch: AbstractArch) -> Report:
        return evaluate(work, arch, threads=threads)

    bills = [_bill(matched, arch, run) for _, arch in loaded]
    measured = any(theirs.whole for _, theirs in bills if theirs is not None)
    sample = _Resamples(network, trace, seed)
    found = []
    for index, (label, arch) in enumerate(loaded):
        bill, report = _bill(workload, arch, run)
        if report is None:
            found.append(OnMachine(label, arch.table, bill, bills[index][0]))
        else:
            rivals = [
                (rival.energy, name)
                for (rival, theirs), (name, other) in zip(bills, loaded, strict=True)
                if theirs is not None and kind(report) == kind(theirs) and _same_prices(arch.table, other.table)
                if arch.model not in RUNS_THE_ANN
            ]
            subject = Subject(network, trace, workload, arch, report, run, exits)
            one = _on_machine(label, subject, bill, bills[index][0], min(rivals, default=None), sample)
            limits = report.limits if measured else ()
            found.append(replace(one, warnings=(*one.warnings, *limits), kind=kind(report)))
        if progress is not None:
            progress("study", index + 1, len(loaded), {})
    return TrulyEfficient(
        trace.source or network.name,
        trace.num_steps,
        trace.num_samples,
        firing_rate(network, trace),
        baseline.bits,
        baseline.zeros,
        baseline.assumption,
        (trace.accuracy, baseline.trace.accuracy),
        tuple(_with_break_even(each, index, sample) for index, each in enumerate(estimates(workload))),
        tuple(found),
        exits,
    )


def _same_prices(one: str, other: str) -> bool:
    """Whether two component tables are the same or say the same of memory; arithmetic may differ."""
    priced = [[e for e in load_table(table).entries if e.kind in ("sram", "dram")] for table in (one, other)]
    return one == other or (priced[0] == priced[1] and bool(priced[0]))


def _given(network: Network, trace: SpikeTrace, steps: int) -> Ann:
    """An ANN from a file, which is one if it runs in one step."""
    if trace.num_steps != 1:
        raise ConfigError(f"the ANN's trace has {trace.num_steps} steps, expected 1; make it with 'spikeloom ann'")
    activations = [a for a in trace.arrivals.values() if not (isinstance(a, Levels) and a.analog)]
    matched = trace.extra.get("meta", {}).get("matched_steps", steps)
    if matched != steps:
        raise ConfigError(
            f"the ANN was matched to {matched} steps, the SNN has {steps}; make it with 'spikeloom ann --steps {steps}'"
        )
    bits = min((a.bits for a in activations if isinstance(a, Levels)), default=1)
    return Ann(network, trace, steps, bits, trace.source or "the ANN is the one given")


def _check_same_layers(snn: Workload, ann: Workload) -> None:
    """Raise ConfigError unless both have the same layers with weights, by name and shape."""

    def shapes(workload: Workload) -> dict[str, tuple[int, ...]]:
        return {x.name: (x.C, x.K, x.H, x.W, x.R, x.S) for x in workload.layers if x.kind in WEIGHTED}

    ours, theirs = shapes(snn), shapes(ann)
    odd = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    if odd:
        raise ConfigError(
            f"layer '{odd[0]}': the SNN has {ours.get(odd[0], 'no such layer')}, the ANN {theirs.get(odd[0], 'no such layer')} "
            "(C, K, H, W, R, S); expected the ANN of this network, as 'spikeloom ann' makes it"
        )


class _Resamples:
    """Workloads of the trace with spikes removed or added, the latest kept for the next machine."""

    def __init__(self, network: Network, trace: SpikeTrace, seed: int) -> None:
        self.network, self.trace, self.seed = network, trace, seed
        self.kept: dict[float, tuple[float, Workload]] = {}

    def at(self, strength: float) -> tuple[float, Workload]:
        """(firing rate, workload)."""
        if strength not in self.kept:
            drawn = resampled(self.network, self.trace, strength, self.seed)
            while len(self.kept) >= 8:  # the first few strengths are those that every machine asks for
                self.kept.popitem()
            self.kept[strength] = firing_rate(self.network, drawn), lower(self.network, drawn)
        return self.kept[strength]


def _bill(
    workload: Workload, arch: AbstractArch, run: Callable[[Workload, AbstractArch], Report]
) -> tuple[Bill, Report | None]:
    """What a workload costs on a machine; a machine that refuses it, or has no price for it, says why."""
    try:
        report = run(workload, arch)
    except (MappingError, CostError) as error:
        return Bill(refused=str(error)), None
    return Bill(report.energy_per_inference_j, report.latency_per_inference_s, shares(report)), report


def _on_machine(
    label: str, subject: Subject, bill: Bill, ann: Bill, cheapest: tuple[float, str] | None, sample: _Resamples
) -> OnMachine:
    """Everything about the SNN on one machine that runs it."""
    arch, run, steps = subject.arch, subject.evaluate, subject.trace.num_steps
    lengths = []
    for length in _lengths(steps):
        report = subject.report
        if length < steps:
            report = run(lower(subject.network, first_steps(subject.trace, length)), arch)
        lengths.append((length, report.energy_per_inference_j, report.latency_per_inference_s))

    @cache
    def energy_at(strength: float) -> float:
        return run(sample.at(strength)[1], arch).energy_per_inference_j if strength else bill.energy

    def rate_at(strength: float) -> float:
        return sample.at(strength)[0]

    same = None if ann.refused or arch.model in RUNS_THE_ANN else break_even(energy_at, rate_at, ann.energy)
    other = None
    if cheapest is not None:
        other = same if same is not None and cheapest[0] == ann.energy else break_even(energy_at, rate_at, cheapest[0])
    return OnMachine(
        label,
        arch.table,
        bill,
        ann,
        tuple(lengths),
        same,
        other,
        "" if cheapest is None else cheapest[1],
        savings(subject),
        subject.report.warnings,
    )


def _with_break_even(estimate: Estimate, index: int, sample: _Resamples) -> Estimate:
    """With the firing rate at which SNN and ANN cost the same, spikes removed or added as for the machines."""

    @cache
    def energy_at(strength: float) -> float:
        return estimates(sample.at(strength)[1])[index].snn if strength else estimate.snn

    return replace(estimate, same=break_even(energy_at, lambda strength: sample.at(strength)[0], estimate.ann))


def _lengths(steps: int) -> tuple[int, ...]:
    """1..T, or about 16 of them."""
    if steps <= _MOST_LENGTHS:
        return tuple(range(1, steps + 1))
    return tuple(sorted({int(n) for n in np.geomspace(1, steps, _MOST_LENGTHS).round()}))
