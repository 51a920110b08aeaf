"""A trained ANN on a machine of spiking neurons: the plain conversion, what each technique brings alone, and the cheapest set of them
within an accuracy loss.

The question is that of Chandarana et al., "Energy-Efficient Deployment of Machine Learning Workloads on Neuromorphic Hardware" (arXiv
2210.05006). Settings are chosen on held-out samples; the test set only confirms.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spikeloom.core.arch import AbstractArch
from spikeloom.core.deployment import Bill, Deployed, Deployment, Rival
from spikeloom.core.network import Network
from spikeloom.core.report import Report
from spikeloom.data import first
from spikeloom.errors import ConfigError, SpikeloomError
from spikeloom.evaluate import evaluate, load_machine
from spikeloom.files.atomic import make_folder, write_text
from spikeloom.files.config import machine_keys, write_machine
from spikeloom.files.network import write_network
from spikeloom.files.placement import write_placement
from spikeloom.files.results import write_reports
from spikeloom.files.store import write_trace
from spikeloom.hw.edge import fixed
from spikeloom.lower import lower
from spikeloom.report import caveats
from spikeloom.studies.convert import Splits, ann_accuracy, splits
from spikeloom.studies.deploy_bench import FIRST_STEPS, ROWS, VERSION, Bench, DeployOptions, Fit, read_out, standby
from spikeloom.studies.experiment import Experiment, for_steps, samples
from spikeloom.studies.techniques import ALIGNED, TECHNIQUES, Kit, Setting, Technique, fine_tuned, names_of

if TYPE_CHECKING:
    from spikeloom.snn.execute import Progress

DEPLOYMENT_FORMAT = "spikeloom-deployment"
PLACEMENT = "placement.toml"
#: What a study writes into its folder.
WRITTEN = (
    "network.npz", "trace.npz", "machine.toml", PLACEMENT, "report.json", "deployment.json", "tuned.npz", ROWS,
)  # fmt: skip
#: Models of machines on which no spiking network runs as such: what they do instead.
NOT_SPIKING = {
    "edge": "runs the ANN, whatever the spikes",
    "systolic": "computes every product, whatever the spikes",
    "sata-training": "prices training steps",
}
#: Times that every group of techniques is gone through.
SWEEPS = 2


def deploy(
    ann: Network,
    experiment: Experiment,
    options: DeployOptions,
    folder: Path,
    *,
    against: str | None = None,
    data_dir: Path | None = None,
    progress: Progress | None = None,
) -> Deployment:
    """The study. Writes the chosen network, its trace, machine and bill, and keeps every row in ``folder``, where it goes on.

    Raises:
        ConfigError: no setting is good enough; recordings; a machine or a network that this study is not for.
        MappingError: ``against`` cannot run the ANN.
    """
    from spikeloom.snn.execute import Execution

    if experiment.encoding != "direct":
        raise ConfigError(
            f"experiment '{experiment.name}' shows '{experiment.encoding}', expected images as the input of an ANN"
        )
    _, arch = load_machine(options.machine)
    if arch.model in NOT_SPIKING:
        raise ConfigError(
            f"{options.machine} {NOT_SPIKING[arch.model]}; expected a machine of spiking neurons such as loihi "
            "(--against takes others)"
        )
    rival_arch = None if against is None else load_machine(against)[1]
    make_folder(folder / ROWS)
    parts = splits(experiment, options.samples, options.limit, data_dir)
    execution = Execution(1, experiment.encoding)
    kit = Kit(ann, None, parts, execution)
    check_network(kit)
    held, tested = (ann_accuracy(ann, source, execution) for source in (parts.choosing, parts.test))
    rival = theirs = None  # before the work: what it cannot run is found out now
    if against is not None and rival_arch is not None:
        rival, theirs = rival_of(ann, parts, options.counted, against, rival_arch, tested)
    if options.tune:
        file = folder / "tuned.npz"
        tuned = fine_tuned(ann, experiment, parts, execution, options.tune, file, data_dir=data_dir, progress=progress)
        kit = Kit(ann, tuned, parts, execution)
    bench = Bench(kit, parts, arch, options, folder, held, progress)
    rows = list(alone(bench, progress))
    setting, fit = together(bench, progress)
    chosen = bench.row("together", setting, fit)
    no_exit = None
    if setting.exits:
        patient = replace(setting, exits=False)
        no_exit = bench.row("together, no exit", patient, bench.fit(patient, fit.made_for))
    report = write_chosen(bench, setting, fit, experiment)
    confirmed = None
    if options.confirm:
        confirmed = bench.confirm(setting, fit, samples(experiment, "test", data_dir), ann)
    done = Deployment(
        options.machine,
        options.objective,
        options.max_loss,
        tested,
        held,
        len(parts.test),
        min(options.counted, len(parts.test)),
        tuple(rows),
        chosen,
        rival,
        (*usable(bench)[1], *report.warnings),
        confirmed,
        no_exit,
        Bill(report.energy_per_inference_j, report.latency_per_inference_s),
        len(parts.choosing),
        names_of(setting),
        ()
        if theirs is None
        else caveats([replace(one, workload_id="") for one in (report, theirs)], (options.machine, str(against))),
    )
    write_json(folder / "deployment.json", done)
    return done


def check_network(kit: Kit) -> None:
    """Find out before the work whether the ANN, converted, runs as the study needs it.

    Raises:
        ConfigError: one class; no fully connected read-out.
        NetworkError: nodes that get what no machine of spiking neurons sends, as the sum of a residual network.
    """
    network = kit.network(Setting(), FIRST_STEPS)
    (classes,) = read_out(network, kit.parts.choosing.take(np.arange(1)), 1, 0).shape[2:]
    if classes < 2:
        raise ConfigError(
            f"network '{network.name}' has {classes} output, expected one for each of two or more classes"
        )


def alone(bench: Bench, progress: Progress | None = None) -> Iterator[Deployed]:
    """Plain conversion at a round T, at the fewest steps, and with each technique alone."""
    plain = Setting()
    fit = bench.fit(plain)
    yield bench.row("plain", plain, fit, fit.made_for)
    yield bench.row("fewest steps", plain, fit)
    tried = usable(bench)[0] if bench.options.alone else ()
    for number, technique in enumerate(tried):
        setting = technique.of(plain)
        found = bench.fit(setting, 2 * fit.made_for)
        if not found.within:  # nothing to choose: shown at the T of the plain conversion
            found = replace(found, made_for=fit.made_for, num_steps=fit.made_for)
        yield bench.row(technique.name, setting, found)
        if progress is not None:
            progress("alone", number + 1, len(tried), {})


def usable(bench: Bench) -> tuple[tuple[Technique, ...], tuple[str, ...]]:
    """Techniques that this machine, these options and this network know; and why others are left out."""
    found, left_out = [], []
    for one in TECHNIQUES:
        if one.changes.get("tuned") and bench.kit.tuned is None:
            continue
        if (one.group == "cores" and not hasattr(bench.arch, "cores")) or (one.name == ALIGNED and not bench.delay):
            continue
        try:
            bench.kit.network(one.of(Setting()), FIRST_STEPS)
        except SpikeloomError as error:
            left_out.append(f"{one.name} left out: {error}")
        else:
            found.append(one)
    return tuple(found), tuple(left_out)


def together(bench: Bench, progress: Progress | None = None) -> tuple[Setting, Fit]:
    """The cheapest setting found by changing one group of techniques after the other, twice; cores are mapped for what comes out.

    Raises:
        ConfigError: none is good enough.
    """
    objective = bench.options.objective
    tried, _ = usable(bench)
    names = [name for name in dict.fromkeys(one.group for one in tried) if name != "cores"]
    setting, fit = Setting(), bench.fit(Setting())
    for sweep in range(SWEEPS):
        before = setting
        for number, group in enumerate(names):
            setting, fit = best_of_group(bench, [one for one in tried if one.group == group], setting, fit)
            if progress is not None:
                figures = {str(objective): fit.cost(objective)[0]} if fit.within else {}
                progress("together", sweep * len(names) + number + 1, SWEEPS * len(names), figures)
        if setting == before:
            break
    if not fit.within:
        raise ConfigError(
            f"no setting loses at most {bench.options.max_loss} points in {bench.options.most_steps} steps; allow more with --max-loss or "
            "--most-steps"
        )
    return best_of_group(bench, [one for one in tried if one.group == "cores"], setting, fit)


def best_of_group(bench: Bench, members: list[Technique], setting: Setting, fit: Fit) -> tuple[Setting, Fit]:
    """The cheapest of ``setting`` with one of the techniques, with none of them, and as it is."""
    back = {key: getattr(Setting(), key) for one in members for key in one.changes}
    known = setting
    for changes in (back, *(one.changes for one in members)):
        candidate = replace(known, **changes)
        if candidate == setting:
            continue
        other = bench.fit(candidate, fit.made_for if fit.within else None)
        if other.cost(bench.options.objective) < fit.cost(bench.options.objective):
            setting, fit = candidate, other
    return setting, fit


def write_chosen(bench: Bench, setting: Setting, fit: Fit, experiment: Experiment) -> Report:
    """Write the network, the trace of the counted test samples and the machine as it is used; the bill of all steps of that trace.

    ``spikeloom eval trace.npz machine.toml`` in the folder says the same again.
    """
    network = bench.kit.network(setting, fit.made_for)
    shown = for_steps(experiment, fit.num_steps)
    metadata = {**network.metadata, "experiment": shown.told, "num_steps": fit.num_steps, "deployed": asdict(setting)}
    network = replace(network, metadata=metadata)
    trace = bench.recorded(network, bench.parts.test, fit.num_steps)
    workload = lower(network, trace)
    write_network(bench.folder / "network.npz", network)
    write_trace(bench.folder / "trace.npz", network, trace, weights=True)
    mapping, arch = bench.mapping(setting, workload), bench.arch
    if mapping is not None and mapping.placement is not None:
        write_placement(bench.folder / PLACEMENT, mapping.placement)
        arch = replace(arch, placement=PLACEMENT)  # type: ignore[type-var]
    write_machine(bench.folder / "machine.toml", arch)
    report = evaluate(workload, load_machine(str(bench.folder / "machine.toml"))[1], label="machine.toml")
    report = replace(report, arch=machine_keys(arch))  # as from within the folder
    write_reports(bench.folder / "report.json", (report,))
    return report


def rival_of(
    ann: Network, parts: Splits, counted: int, machine: str, arch: AbstractArch, accuracy: float
) -> tuple[Rival, Report]:
    """The ANN on another machine, one pass an inference, activations of 8 bits (of which a measured device takes no notice); its report."""
    from spikeloom.snn.execute import Execution
    from spikeloom.snn.record import record
    from spikeloom.transform.prepare import prepare
    from spikeloom.transform.qcfs import staircase
    from spikeloom.transform.thresholds import choose, collect

    ready, execution = prepare(ann), Execution(1)
    values = collect(ready, parts.calibration, execution, np.random.default_rng(0))
    rounded = staircase(ready, choose(ready, values, "max"), 255)
    shown = first(parts.test, counted)
    report = evaluate(lower(rounded, record(rounded, shown, execution)), arch, label=machine)
    energy, latency = report.energy_per_inference_j, report.latency_per_inference_s
    bills = {"given": Bill(energy, latency), "dynamic": Bill(energy - standby(report) / report.num_samples, latency)}
    overhead: dict[str, Bill] = {}
    if report.whole:
        seconds, above, joules = fixed(report)
        bills["board"] = bills["given"]
        overhead = {"dynamic": Bill(above, seconds), "board": Bill(joules, seconds)}
    return Rival(machine, accuracy, bills, report.warnings, overhead), report


def write_json(path: Path, done: Deployment) -> None:
    """Everything; quantities are SI."""
    content: dict[str, Any] = {"format": DEPLOYMENT_FORMAT, "version": VERSION, **asdict(done)}
    more = [content[key] for key in ("no_exit", "rival") if content[key] is not None]
    for row in (*content["rows"], content["chosen"], *more):
        for bill in (*row["bills"].values(), *row.get("fixed", {}).values()):
            bill |= {"power_w": Bill(**bill).power_w, "edp_js": Bill(**bill).edp_js}
    write_text(path, json.dumps(content, indent=1) + "\n")
