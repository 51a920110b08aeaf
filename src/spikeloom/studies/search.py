"""Search as a user runs it: the designs, what they are compared with, and the chosen ones as files to evaluate again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from spikeloom.codesign.inner import machine_of
from spikeloom.codesign.mapping import best_global_window
from spikeloom.codesign.search import Progress, SearchResult, search
from spikeloom.codesign.trace_search import TraceObjective, loaded
from spikeloom.core.arch import AbstractArch
from spikeloom.core.network import Network
from spikeloom.core.report import Report, Trial
from spikeloom.core.workload import Workload
from spikeloom.errors import FileError, MappingError, NetworkError, SearchError
from spikeloom.evaluate import evaluate, load_machine, load_workload
from spikeloom.files.atomic import make_folder, replacing
from spikeloom.files.config import machine_keys, write_machine
from spikeloom.files.network import read_network, write_network
from spikeloom.files.nir_write import write_nir
from spikeloom.files.results import write_reports
from spikeloom.files.store import read_trace, write_trace
from spikeloom.lower import lower
from spikeloom.studies.search_file import Plan


@dataclass(frozen=True)
class Compared:
    """A machine or a design beside others. hidden_rate: spikes per hidden neuron and step, None where no spike is known."""

    label: str
    accuracy: float | None
    hidden_rate: float | None
    report: Report


@dataclass(frozen=True)
class Searched:
    """What a search found. front: in the order of the result's; baselines: on the spikes they are compared on."""

    result: SearchResult
    front: tuple[Compared, ...]
    baselines: tuple[Compared, ...]


def run_search(
    plan: Plan,
    folder: Path,
    *,
    workers: int | None = None,
    cluster: str | None = None,
    storage: str | None = None,
    resume: bool = True,
    progress: Progress | None = None,
) -> Searched:
    """Search, or go on where a search in ``folder`` stopped; then bill the baselines.

    Baselines of a trace run the same trace. Those of a joint search run the network of the recipe as it stands in the file,
    trained plainly on the same samples and recorded on the same held-out ones, without any choice of the space.

    Raises:
        SearchError, SpikeloomError: as `spikeloom.codesign.search.search`.
    """
    result = search(
        plan.space,
        plan.objective,
        plan.settings,
        folder,
        workers=workers,
        cluster=cluster,
        storage=storage,
        resume=resume,
        progress=progress,
    )
    front = tuple(_compared(plan, trial, str(k + 1)) for k, trial in enumerate(result.front))
    return Searched(result, front, _baselines(plan))


def _compared(plan: Plan, trial: Trial, label: str) -> Compared:
    assert trial.report is not None
    if isinstance(plan.objective, TraceObjective):
        return Compared(label, trial.accuracy, hidden_rate(loaded(plan.objective.trace)[0]), trial.report)
    params = trial.config["params"]
    network = network_of(plan, trial)
    _, trace = plan.objective.tried(network, params)
    return Compared(label, trial.accuracy, hidden_rate(lower(network, trace)), trial.report)


def network_of(plan: Plan, trial: Trial) -> Network:
    """The network of a trial of a joint search: from the study's folder, made again where it is not there."""
    from spikeloom.studies.train_search import TrainObjective, network_file

    assert isinstance(plan.objective, TrainObjective)
    path = network_file(plan.objective.folder, trial.id)
    return read_network(path) if path.exists() else plan.objective.network(trial.config["params"])


def _baselines(plan: Plan) -> tuple[Compared, ...]:
    if not plan.baselines:
        return ()
    if isinstance(plan.objective, TraceObjective):
        workload, accuracy = loaded(plan.objective.trace)
    else:
        plain = replace(plan.objective, recipe=replace(plan.objective.recipe, cotrain=None, prune=None, quantize=None))
        network = plain.network({})
        found, trace = plain.tried(network, {})
        workload, accuracy = lower(network, trace), found
    rate = hidden_rate(workload)
    return tuple(
        Compared(label, accuracy, rate, _at_best_window(workload, arch, plan.windows)) for label, arch in plan.baselines
    )


def _at_best_window(workload: Workload, arch: AbstractArch, windows: Sequence[int]) -> Report:
    """On the machine as it is, its window excepted; a machine without windows as it is altogether."""
    try:
        return best_global_window(workload, arch, windows).report
    except MappingError:
        return evaluate(workload, arch)


def hidden_rate(workload: Workload) -> float | None:
    """Spikes per hidden neuron and step, over all samples; None where no layer's spikes are known."""
    known = [layer.out for layer in workload.layers if layer.out is not None]
    slots = [out.num_steps * out.num_samples * float(np.prod(out.shape)) for out in known]
    return sum(float(out.events().sum()) for out in known) / sum(slots) if known else None


def export_design(plan: Plan, trial: Trial, folder: Path) -> Path:
    """Write a design as files that stand for themselves; returns their folder, ``folder/designs/<id>``.

    ``arch.toml`` the machine with its mapping, ``trace.npz`` the spikes, ``report.json`` the bill: in that folder,
    ``spikeloom eval trace.npz arch.toml --json report.json`` writes the same file again. With a network of its own also
    ``network.npz`` and, where NIR has words for it, ``network.nir``. ``design.json`` says what was chosen.

    Raises:
        SearchError: the design was not computed, or its files would not give its figures again.
        FileError: the folder cannot be written.
    """
    if trial.report is None:
        raise SearchError(f"design {trial.id[:12]}: does not fit the machine and has no files; choose another")
    target = folder / "designs" / trial.id
    make_folder(target)
    left_out = ""
    if isinstance(plan.objective, TraceObjective):
        source = plan.objective.trace
        if source.suffix.lower() == ".npz":
            network, trace = read_trace(source)
            write_trace(target / "trace.npz", network, trace, weights=_has_weights(network))
            spikes = target / "trace.npz"
        else:
            spikes = target / f"trace{source.suffix.lower()}"
            shutil.copyfile(source, spikes)
    else:
        network = network_of(plan, trial)
        _, trace = plan.objective.tried(network, trial.config["params"])
        write_network(target / "network.npz", network)
        write_trace(target / "trace.npz", network, trace, weights=True)
        spikes = target / "trace.npz"
        left_out = _write_nir(target / "network.nir", network)
    report = _reproduced(trial, target, spikes)
    write_reports(target / "report.json", (report,))
    told = {"id": trial.id, "accuracy": trial.accuracy, "params": dict(trial.config["params"])}
    if left_out:
        told["no_nir"] = left_out
    with replacing(target / "design.json") as temporary:
        temporary.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return target


def _has_weights(network: Network) -> bool:
    weights = [getattr(node, "weight", None) for node in network.nodes.values() if hasattr(node, "weight")]
    return bool(weights) and all(weight is not None for weight in weights)


def _write_nir(path: Path, network: Network) -> str:
    """Why there is no NIR file, or nothing."""
    try:
        write_nir(path, network)
    except (NetworkError, FileError) as error:
        return str(error)
    return ""


def _reproduced(trial: Trial, folder: Path, spikes: Path) -> Report:
    """The bill of the written files, checked against the trial's."""
    assert trial.report is not None
    arch = machine_of(trial.report)
    table = Path(arch.table)
    if table.suffix == ".toml":  # a price table is found beside the machine file
        if table.resolve() != (folder / table.name).resolve():
            shutil.copyfile(table, folder / table.name)
        arch = replace(arch, table=table.name)  # type: ignore[type-var]  # final Archs are dataclasses
    write_machine(folder / "arch.toml", arch)
    report = evaluate(load_workload(spikes), load_machine(str(folder / "arch.toml"))[1], label="arch.toml")
    told = replace(trial.report, label="arch.toml", arch=machine_keys(arch))
    report = replace(report, arch=machine_keys(arch))
    if asdict(report) != asdict(told):
        key = next(key for key, value in asdict(told).items() if asdict(report)[key] != value)
        raise SearchError(
            f"{folder}: the files of design {trial.id[:12]} give another {key} than its trial has; the trace, the network or the "
            "data set changed since; search again in another folder"
        )
    return report


def chosen(result: SearchResult, words: Sequence[str]) -> tuple[Trial, ...]:
    """The trials that ``words`` name: the number of a row of the front, the beginning of an id, or "all" for the front.

    Raises:
        SearchError: nothing or several have that name.
    """
    found: list[Trial] = []
    for word in words:
        if word == "all":
            found += result.front
        elif word.isdecimal() and 1 <= int(word) <= len(result.front):
            found.append(result.front[int(word) - 1])
        else:
            named = [trial for trial in result.trials if trial.id.startswith(word)]
            if len(named) != 1:
                what = "no design has" if not named else f"{len(named)} designs have"
                raise SearchError(
                    f"design '{word}': {what} that name; give 1..{len(result.front)} for a row of the front, the beginning of "
                    "an id, or all"
                )
            found += named
    return tuple(found)
