"""Search as a user runs it: the designs, what they are compared with, and the chosen ones as files to evaluate again."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from spikeloom.codesign.inner import machine_of, priced_as
from spikeloom.codesign.mapping import best_global_window
from spikeloom.codesign.metrics import BILLED, METRICS, shortfall
from spikeloom.codesign.search import Progress, SearchResult, SearchSettings, search
from spikeloom.codesign.trace_search import TraceObjective, loaded
from spikeloom.core.arch import AbstractArch
from spikeloom.core.network import Network
from spikeloom.core.report import Report, Trial
from spikeloom.core.workload import Workload
from spikeloom.errors import CostError, MappingError, SearchError
from spikeloom.evaluate import evaluate
from spikeloom.files.network import read_network
from spikeloom.lower import lower
from spikeloom.report.front import Compared, Point, named, write_front_figure
from spikeloom.report.terminal import caveats
from spikeloom.studies.search_file import Plan


@dataclass(frozen=True)
class Searched:
    """What a search found.

    front: in the order of the result's. baselines: on the spikes they are compared on, at every table and clock of the front.
    """

    result: SearchResult
    front: tuple[Compared, ...]
    baselines: tuple[Compared, ...]

    def notes(self) -> list[tuple[str, tuple[str, ...]]]:
        """(design or baseline, what its bill warns of and what stands between it and the others), as of any comparison."""
        rows = [(f"design {row.label}", row.report) for row in self.front]
        rows += [(name, row.report) for name, row in named(self.baselines)]
        bills = [replace(report, workload_id="") for _, report in rows]  # joint searches run a network each
        said = list(caveats(bills, [name for name, _ in rows])) if rows else []
        if len({tuple(row.report.arch.get(field) for field in BILLED) for row in self.front}) > 1:
            said.append("unlike bills are not held against each other: each kind has its own front")
        if any(row.plain for row in self.front):
            said.append("designs have their best mapping; `eval` prices a machine at the mapping of its fields")
        return [(name, (*report.warnings, *said)) for name, report in rows]  # the width that is assumed comes first

    def shortfall(self, settings: SearchSettings) -> str:
        """Why there is no front: which limit no design keeps, and how near the nearest came."""
        found = self.result.outcomes
        fitting = [one.trial for one in found if one.state == "infeasible" and one.trial is not None]
        if fitting:
            return shortfall(fitting, settings.constraints)
        reasons = [one.reason for one in found if one.reason]
        return f"no design could be priced: {reasons[0] if reasons else 'none fits the machine, or all were pruned'}"


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
    front = tuple(compared(plan, trial, str(k + 1)) for k, trial in enumerate(result.front))
    return Searched(result, front, _baselines(plan, [row.report for row in front]))


def compared(plan: Plan, trial: Trial, label: str) -> Compared:
    """A design as a row of a table."""
    assert trial.report is not None
    params, objective = trial.config["params"], plan.objective
    if isinstance(plan.objective, TraceObjective):
        workload, _ = loaded(plan.objective.trace)
    else:
        network = network_of(plan, trial)
        workload = lower(network, plan.objective.tried(network, params)[1])
    plain = None
    if objective.inner.left(params, objective.family) is not None:
        with contextlib.suppress(MappingError):  # of its fields, which the search replaced
            plain = evaluate(workload, objective.family.at(params), threads=objective.threads)
    return Compared(label, trial.accuracy, hidden_rate(workload), trial.report, params, plain)


def network_of(plan: Plan, trial: Trial) -> Network:
    """The network of a trial of a joint search: from the study's folder, made again where it is not there."""
    from spikeloom.studies.train_search import TrainObjective, network_file

    assert isinstance(plan.objective, TrainObjective)
    path = network_file(plan.objective.folder, trial.id)
    return read_network(path) if path.exists() else plan.objective.network(trial.config["params"])


def _baselines(plan: Plan, front: Sequence[Report]) -> tuple[Compared, ...]:
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
    designs = [machine_of(report) for report in front] or [plan.objective.family.base]
    rows = [
        Compared(label, accuracy, rate, _at_best_window(workload, arch, design, plan.windows))
        for label, arch in plan.baselines
        for design in {(design.table, design.clock): design for design in designs}.values()
    ]
    return tuple({(row.label, row.pricing): row for row in rows}.values())


def _at_best_window(workload: Workload, arch: AbstractArch, design: AbstractArch, windows: Sequence[int]) -> Report:
    """On the machine as it is, at the table and clock of a design if it can have them and at its best window if it has any."""
    try:
        priced = priced_as(arch, design)
        try:
            return best_global_window(workload, priced, windows).report
        except MappingError:
            return evaluate(workload, priced)
    except CostError:  # the table does not know its parts
        return evaluate(workload, arch)


def hidden_rate(workload: Workload) -> float | None:
    """Spikes per hidden neuron and step, over all samples; None where no spikes of a layer that another one hears are known."""
    heard = {name for layer in workload.layers for name in layer.inputs if name != layer.name}
    known = [layer.out for layer in workload.layers if layer.out is not None and layer.name in heard]
    slots = [out.num_steps * out.num_samples * float(np.prod(out.shape)) for out in known]
    return sum(float(out.events().sum()) for out in known) / sum(slots) if known else None


def draw_front(plan: Plan, found: Searched, path: Path) -> None:
    """Write the figure of a front: accuracy over the first cost, two costs, or the single objective over the trials.

    Raises:
        FileError: the file cannot be written.
    """
    names = plan.settings.objectives
    costs = [name for name in names if name != "accuracy"] or ["edp"]
    if len(names) == 1 and costs == list(names):
        across, up = None, costs[0]
    elif "accuracy" in names:
        across, up = costs[0], "accuracy"
    else:
        across, up = costs[0], costs[1]
    on_front = {trial.id for trial in found.result.front}
    rows: list[tuple[int, float | None, Report, str, str]] = []
    for outcome in found.result.outcomes:
        trial = outcome.trial
        if trial is not None and trial.report is not None:
            text = "<br>".join(f"{key}={value}" for key, value in outcome.params.items())
            kind = "front" if trial.id in on_front else "design"
            rows.append((outcome.number, trial.accuracy, trial.report, f"trial {outcome.number}<br>{text}", kind))
    rows += [(0, row.accuracy, row.report, row.label, "baseline") for row in found.baselines]
    points = []
    for number, accuracy, report, text, kind in rows:
        x = float(number) if across is None else _figure(across, accuracy, report)
        y = _figure(up, accuracy, report)
        if x is not None and y is not None:
            points.append(Point(x, y, text, kind))
    write_front_figure(
        path,
        points,
        x="trial" if across is None else _axis(across),
        y=_axis(up),
        title=f"{plan.name}: {len(found.result.trials)} designs",
        log_x=across is not None,
        log_y=up != "accuracy",
    )


def _figure(metric: str, accuracy: float | None, report: Report) -> float | None:
    """A metric in what its axis says: percent, or SI."""
    value = METRICS[metric].read(Trial({}, {}, 0, "", accuracy, report))
    return None if value is None else 100 * value if metric == "accuracy" else value


def _axis(metric: str) -> str:
    what = "area" if metric == "area" else f"{metric.upper() if metric == 'edp' else metric} per inference"
    return "accuracy (%)" if metric == "accuracy" else f"{what} ({METRICS[metric].unit})"


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
