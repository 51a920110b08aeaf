"""What a search compares designs by: named figures of a trial, bounds on them, and the exact Pareto front."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spikeloom.core.report import Report, Trial
from spikeloom.errors import SearchError
from spikeloom.files.schema import nearest
from spikeloom.units import format_si, from_si


@dataclass(frozen=True)
class Metric:
    """A figure of merit. unit: SI, empty for a fraction. maximise: whether more is better."""

    name: str
    unit: str
    maximise: bool
    read: Callable[[Trial], float | None]

    def shown(self, value: float) -> str:
        """For people: ``12.3 pJs``, ``0.12 mm2``, ``97.5 %``."""
        if self.unit == "m2":
            return f"{from_si(value, 'mm2'):.3g} mm2"
        return format_si(value, self.unit) if self.unit else f"{100 * value:.4g} %"


def _of_report(read: Callable[[Report], float | None]) -> Callable[[Trial], float | None]:
    return lambda trial: None if trial.report is None else read(trial.report)


#: Fields of a machine that say what its bill holds, not what it is.
BILLED = ("table", "fidelity", "static", "host")
#: Per inference, except the area.
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", "", True, lambda trial: trial.accuracy),
        Metric("energy", "J", False, _of_report(lambda report: report.energy_per_inference_j)),
        Metric("latency", "s", False, _of_report(lambda report: report.latency_per_inference_s)),
        Metric("area", "m2", False, _of_report(lambda report: report.area_m2)),
        Metric("edp", "Js", False, _of_report(lambda report: report.edp_js)),
    )
}


@dataclass(frozen=True)
class Constraint:
    """A bound on a metric: ``at_most``, ``at_least`` or both, in SI units."""

    metric: str
    at_most: float | None = None
    at_least: float | None = None

    def __post_init__(self) -> None:
        check_metrics((self.metric,))
        if self.at_most is None and self.at_least is None:
            raise SearchError(f"constraint on '{self.metric}': has no bound; give at_most or at_least")
        for side in ("at_most", "at_least"):
            bound = getattr(self, side)
            if bound is not None and not np.isfinite(bound):
                raise SearchError(f"constraint on '{self.metric}': {side}: got {bound}, expected a finite number")
            most = np.inf if METRICS[self.metric].unit else 1
            if bound is not None and not 0 <= bound <= most:
                words = f"0 or more {METRICS[self.metric].unit}" if np.isinf(most) else "a fraction of 0..1"
                raise SearchError(f"constraint on '{self.metric}': {side}: got {bound:g}, expected {words}")
        if self.at_most is not None and self.at_least is not None and self.at_most < self.at_least:
            raise SearchError(
                f"constraint on '{self.metric}': at_most {self.at_most:g} is below at_least {self.at_least:g}; "
                "no design can meet both"
            )

    def __str__(self) -> str:
        sides = (("at most", self.at_most), ("at least", self.at_least))
        shown = [f"{words} {METRICS[self.metric].shown(bound)}" for words, bound in sides if bound is not None]
        return f"{self.metric} of {' and '.join(shown)}"

    def beside(self, value: float) -> str:
        """A value for people, in all its digits where it looks like the bound and is outside."""
        shown, unit = METRICS[self.metric].shown(value), METRICS[self.metric].unit
        alike = self.violation(value) > 0 and f" {shown} " in f"{self} "
        return f"{value!r} {unit}" if alike else shown

    def violation(self, value: float) -> float:
        """How far ``value`` lies outside, in fractions of the bound; zero or negative where it is met."""
        outside = [-np.inf]
        if self.at_most is not None:
            outside.append((value - self.at_most) / (abs(self.at_most) or 1.0))
        if self.at_least is not None:
            outside.append((self.at_least - value) / (abs(self.at_least) or 1.0))
        return float(max(outside))


def check_metrics(names: Sequence[str]) -> None:
    """Raise SearchError unless every name is a metric and none stands twice."""
    for name in names:
        if name not in METRICS:
            raise SearchError(
                f"metric '{name}': unknown{nearest(name, METRICS)}; expected one of {', '.join(sorted(METRICS))}"
            )
    if len(set(names)) < len(names):
        raise SearchError(f"metrics {', '.join(names)}: one stands twice; name each once")


def metric_values(trial: Trial, names: Sequence[str]) -> tuple[float, ...]:
    """The named figures of a trial.

    Raises:
        SearchError: the trial lacks one, say the area of a machine whose table gives none.
    """
    values = []
    for name in names:
        value = METRICS[name].read(trial)
        if value is None:
            why = "its table gives no areas" if name == "area" and trial.report is not None else "it was not computed"
            raise SearchError(
                f"trial {trial.id[:12]}: has no '{name}', {why}; take '{name}' out of the objectives and constraints"
            )
        values.append(float(value))
    return tuple(values)


def non_dominated(costs: np.ndarray) -> np.ndarray:
    """Which rows of ``costs`` [N, M], each column to be minimised, no other row dominates; [N] of bool.

    A row dominates another when it is nowhere worse and somewhere better, so equal rows do not dominate each other.
    """
    num_points = len(costs)
    kept = np.ones(num_points, dtype=bool)
    order = np.lexsort(costs.T[::-1])  # a row can only be dominated by one that sorts before it
    ranked = costs[order]
    front: list[int] = []
    for i in range(num_points):
        if front:
            ahead = ranked[front]
            dominated = np.any(np.all(ahead <= ranked[i], axis=1) & np.any(ahead < ranked[i], axis=1))
            if dominated:
                kept[order[i]] = False
                continue
        front.append(i)
    return kept


def pareto_front(trials: Sequence[Trial], metrics: Sequence[str]) -> tuple[Trial, ...]:
    """The trials that no other one dominates in the named metrics, best first by the first metric, then the next.

    Trials with equal figures are all kept; a trial that stands twice is kept once.

    Raises:
        SearchError: an unknown metric, or a trial that lacks one.
    """
    check_metrics(metrics)
    distinct = list({trial.id: trial for trial in trials}.values())
    if not distinct:
        return ()
    signs = np.array([-1.0 if METRICS[name].maximise else 1.0 for name in metrics])
    costs = np.array([metric_values(trial, metrics) for trial in distinct]) * signs
    kept = [i for i in np.flatnonzero(non_dominated(costs))]
    kept.sort(key=lambda i: (*costs[i], distinct[i].id))
    return tuple(distinct[i] for i in kept)


def fronts(trials: Sequence[Trial], metrics: Sequence[str]) -> tuple[Trial, ...]:
    """The Pareto fronts of designs whose bills hold the same things, one after the other.

    What a table prices, or what a chip is billed with beside its counted work, is no merit of a design: the table that knows
    no leakage would always win. Such designs are not held against each other. Raises as `pareto_front`.
    """
    groups: dict[tuple[Any, ...], list[Trial]] = {}
    for trial in trials:
        groups.setdefault(tuple(trial.arch.get(field) for field in BILLED), []).append(trial)
    return tuple(trial for group in groups.values() for trial in pareto_front(group, metrics))


def shortfall(trials: Sequence[Trial], constraints: Sequence[Constraint]) -> str:
    """Why none of ``trials``, the designs that fit, meets all constraints: which do, and how near the nearest came."""
    values = {one: [metric_values(trial, (one.metric,))[0] for trial in trials] for one in constraints}
    alone = []
    for one, found in values.items():
        nearest_value = min(found, key=one.violation)
        if one.violation(nearest_value) > 0:
            alone.append(f"no design has {one}; the nearest has {one.beside(nearest_value)}")
    if alone:
        return ", and ".join(alone)
    k = min(range(len(trials)), key=lambda k: max(one.violation(found[k]) for one, found in values.items()))
    had = " and ".join(f"{one.metric} {one.beside(found[k])}" for one, found in values.items())
    return f"no design has {' and '.join(str(one) for one in constraints)} at once; the nearest has {had}"
