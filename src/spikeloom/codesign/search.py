"""The search loop: ask a sampler for designs, have workers compute them, tell it what they are worth.

Only this process talks to Optuna; workers only compute (see ``spikeloom.codesign.workers``). A finished trial is a line of
``results.jsonl`` in the study's folder and is never computed again: parameters that make the same trial, by its content
id, are told from there, in this run or a later one. Trials that were asked for and never told, because the search was
stopped or killed, are asked again with the parameters they had.

Trials of ``nsga2`` are told in the order of their numbers and a generation is asked for when the one before is told, so
the outcome does not depend on which worker is faster, nor on what was killed.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from spikeloom.codesign.metrics import METRICS, Constraint, check_metrics, fronts, metric_values
from spikeloom.codesign.space import Params, Space
from spikeloom.codesign.storage import StudyFolder, open_folder, opened_storage, storage_errors
from spikeloom.codesign.workers import Answer, Job, Objective, Workers, opened
from spikeloom.core.report import Trial
from spikeloom.errors import MappingError, SearchError
from spikeloom.files.schema import nearest

if TYPE_CHECKING:
    from optuna import Study
    from optuna.pruners import BasePruner
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial
    from optuna.trial import Trial as OptunaTrial

    from spikeloom.codesign.samplers import Fresh

SamplerName = Literal["random", "grid", "exhaustive", "nsga2", "tpe", "gp"]
SAMPLERS: tuple[str, ...] = get_args(SamplerName)
PRUNERS = ("median", "halving")
STUDY_NAME = "spikeloom"

State = Literal["complete", "infeasible", "unfit", "pruned"]


class Progress(Protocol):
    """Called with the stage, trials done and in all, and figures worth showing."""

    def __call__(self, stage: str, done: int, total: int, figures: Mapping[str, float]) -> None: ...


@dataclass(frozen=True)
class SearchSettings:
    """What is searched for, and how.

    objectives: metrics of `METRICS`; accuracy is maximised, all others minimised.
    trials: the budget, finished ones of earlier runs included; None: all of the space (``exhaustive`` only).
    sampler: one of `SAMPLERS`.
    seed: of the sampler.
    population: a generation of ``nsga2``; trials at random before ``tpe`` and ``gp`` begin to learn.
    constraints: bounds on metrics, which need not be objectives.
    pruner: one of `PRUNERS`, which stops trials that look bad while they train; only with a single objective.
    prune_by: the metric in a trial's reports that the pruner compares; the objective by default.
    prune_after: reports before a trial may be pruned; and for ``halving`` those of its first rung.
    """

    objectives: tuple[str, ...]
    trials: int | None = 100
    sampler: SamplerName = "nsga2"
    seed: int = 0
    population: int = 20
    constraints: tuple[Constraint, ...] = ()
    pruner: Literal["median", "halving"] | None = None
    prune_by: str | None = None
    prune_after: int = 1

    def __post_init__(self) -> None:
        if not self.objectives:
            raise SearchError("objectives: none given; expected at least one metric, say 'edp'")
        check_metrics(self.objectives)
        _one_of("sampler", self.sampler, SAMPLERS)
        if self.trials is None and self.sampler != "exhaustive":
            raise SearchError(f"trials: none given; the sampler '{self.sampler}' needs a budget")
        for key, value, least in (
            ("trials", self.trials, 1),
            ("seed", self.seed, 0),
            ("population", self.population, 2),
            ("prune_after", self.prune_after, 1),
        ):
            if value is not None and value < least:
                raise SearchError(f"{key}: got {value}, expected at least {least}")
        if len({constraint.metric for constraint in self.constraints}) < len(self.constraints):
            raise SearchError("constraints: a metric stands twice; give both bounds in one")
        if self.pruner is not None:
            _one_of("pruner", self.pruner, PRUNERS)
            if len(self.objectives) > 1:
                raise SearchError(
                    f"pruner '{self.pruner}': works with one objective, {len(self.objectives)} are given; take it out, or "
                    "make the others constraints"
                )
        if self.prune_by is not None:
            check_metrics((self.prune_by,))

    def described(self) -> dict[str, Any]:
        """What a resumed study must have in common with the one in the folder, in JSON's types."""
        described: dict[str, Any] = {
            "objectives": list(self.objectives),
            "sampler": self.sampler,
            "seed": self.seed,
            "constraints": {one.metric: {"at_most": one.at_most, "at_least": one.at_least} for one in self.constraints},
            "pruner": self.pruner,
        }
        if self.sampler in ("nsga2", "tpe", "gp"):
            described["population"] = self.population
        if self.sampler == "grid":
            described["trials"] = self.trials  # decides which points the grid has
        if self.pruner is not None:
            described |= {"prune_by": self.prune_by or self.objectives[0], "prune_after": self.prune_after}
        return described


@dataclass(frozen=True)
class Outcome:
    """What became of one trial number.

    state: ``complete``; ``infeasible``: outside a constraint; ``unfit``: the machine cannot run it; ``pruned``.
    trial: None when pruned, and when not even its identity could be made.
    reason: why it does not fit, as far as this run knows.
    """

    number: int
    params: Params
    state: State
    trial: Trial | None
    reason: str = ""


@dataclass(frozen=True)
class SearchResult:
    """A finished search.

    outcomes: in the order of trial numbers. trials: the distinct complete ones, infeasible ones included.
    front: the feasible trials that no other of the same price table dominates in the objectives (see `fronts`).
    computed: trials computed in this run; all others were found finished. untried: points of the space without a trial.
    """

    outcomes: tuple[Outcome, ...]
    front: tuple[Trial, ...]
    computed: int
    folder: Path
    untried: int = 0

    @property
    def trials(self) -> tuple[Trial, ...]:
        complete = (one.trial for one in self.outcomes if one.state in ("complete", "infeasible"))
        return tuple({trial.id: trial for trial in complete if trial is not None}.values())


def search(
    space: Space,
    objective: Objective,
    settings: SearchSettings,
    folder: str | Path,
    *,
    workers: int | None = None,
    cluster: str | None = None,
    storage: str | None = None,
    resume: bool = True,
    progress: Progress | None = None,
) -> SearchResult:
    """Search a space, or go on where a search in the same folder stopped.

    Args:
        space: the designs.
        objective: what a design is worth.
        settings: of the search.
        folder: of the study; made where it is missing.
        workers: local processes; None or 1: this one.
        cluster: address of a running Dask scheduler, instead.
        storage: of Optuna, see `open_storage`; in the folder by default.
        resume: whether a study in the folder may be continued.
        progress: called after each trial.

    Raises:
        SearchError: the folder holds another study or is in use, storage or scheduler cannot be reached or are lost, a
            trial kills its worker again and again. Whatever was finished is kept.
        SpikeloomError: what the objective raised, with the parameters in front.
        KeyboardInterrupt: as it came; finished trials are kept.
    """
    _require_optuna()
    description = {
        "space": {choice["name"]: choice for choice in space.described()},
        "settings": settings.described(),
        "objective": _fingerprint(space, objective),
    }
    if settings.sampler == "exhaustive" and settings.trials is not None and space.size > settings.trials:
        raise SearchError(
            f"sampler 'exhaustive': the space has {space.size} points, the budget {settings.trials} trials; raise the budget "
            "or take 'grid' for a coarser one"
        )
    place = open_folder(folder, description, resume=resume)
    with place.sole(), _quiet_optuna(), storage_errors(), opened_storage(storage, place.path) as stored:
        loop = _Loop.opened(space, objective, settings, place, stored, progress)
        listened = settings.pruner is not None
        with opened(objective, place, workers=workers, cluster=cluster, listened=listened) as team:
            loop.run(team)
        return loop.result()


def _fingerprint(space: Space, objective: Objective) -> str:
    """The id of one trial: it changes with the network, the data, the machine, whatever a result depends on."""
    try:
        return objective.identity(next(space.grid())).id
    except MappingError:
        return ""


@dataclass
class _Loop:
    """One run of a search: what is asked, running, waiting to be told, told."""

    space: Space
    objective: Objective
    settings: SearchSettings
    place: StudyFolder
    study: Study
    sampler: Fresh
    budget: int
    progress: Progress | None
    known: dict[str, Trial]
    requeued: list[FrozenTrial]
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    held: dict[int, Outcome] = field(default_factory=dict)
    same: dict[str, list[tuple[int, Params]]] = field(default_factory=dict)
    asked: dict[int, OptunaTrial] = field(default_factory=dict)
    reported: set[tuple[int, int]] = field(default_factory=set)
    computed: int = 0

    @classmethod
    def opened(
        cls,
        space: Space,
        objective: Objective,
        settings: SearchSettings,
        place: StudyFolder,
        storage: BaseStorage,
        progress: Progress | None,
    ) -> _Loop:
        import optuna

        from spikeloom.codesign.samplers import Fresh, make_sampler

        budget = space.size if settings.trials is None else settings.trials
        study = optuna.create_study(
            storage=storage,
            study_name=f"{STUDY_NAME}-{place.uid}",
            directions=["maximize" if METRICS[name].maximise else "minimize" for name in settings.objectives],
            pruner=_pruner(settings),
            load_if_exists=True,
        )
        with warnings.catch_warnings(action="ignore"):  # of what Optuna calls experimental
            study.set_metric_names(list(settings.objectives))
        trials = study.get_trials(deepcopy=False)
        own = make_sampler(
            settings.sampler,
            space,
            seed=settings.seed,
            trials=budget,
            population=settings.population,
            first=len(trials),
            noisy="accuracy" in settings.objectives,
        )
        study.sampler = sampler = Fresh(own, space, settings.seed)
        if settings.sampler in ("grid", "exhaustive"):
            budget = len(own.points)  # type: ignore[attr-defined]
        known = place.finished()
        loop = cls(space, objective, settings, place, study, sampler, budget, progress, known, [])
        for frozen in trials:
            if frozen.state == optuna.trial.TrialState.RUNNING:
                loop.requeued.append(frozen)
                loop.reported |= {(frozen.number, step) for step in frozen.intermediate_values}
            else:
                loop.outcomes[frozen.number] = outcome = loop._remembered(frozen)
                sampler.take(outcome.params)
        loop.budget = min(budget, len(loop.outcomes) + sampler.untried)  # a design tried twice says nothing new
        return loop

    @property
    def ordered(self) -> bool:
        """Whether trials are told in order and asked for in whole generations."""
        return self.settings.sampler == "nsga2"

    def run(self, workers: Workers) -> None:
        """Ask, compute and tell until the budget is spent and nothing runs."""
        self._show()
        while True:
            while len(self.same) < workers.places() and (number := self._askable()) is not None:
                self._ask(number, workers)
            if not self.same:
                assert not self.held and self._askable() is None
                return
            job, answer = workers.finished(self._report)
            self._take(job, answer)

    def _askable(self) -> int | None:
        """The next number to ask for, if its turn has come."""
        if self.requeued:
            return self.requeued[0].number
        number = len(self.outcomes) + len(self.held) + sum(len(numbers) for numbers in self.same.values())
        if number >= self.budget:
            return None
        if self.ordered and len(self.outcomes) < number // self.settings.population * self.settings.population:
            return None
        return number

    def _ask(self, number: int, workers: Workers) -> None:
        """Get the parameters of a trial and have them computed, unless their trial is finished or running."""
        params = self._suggested(number)
        try:
            trial_id = self.objective.identity(params).id
        except MappingError as error:
            self._finish(Outcome(number, params, "unfit", None, str(error)))
            return
        if trial_id in self.known:
            self._finish(self._judged(number, params, self.known[trial_id]))
        elif trial_id in self.same:
            self.same[trial_id].append((number, params))
        else:
            self.same[trial_id] = [(number, params)]
            workers.start(Job(number, params, trial_id))

    def _suggested(self, number: int) -> Params:
        """The parameters of a trial: those it had, as far as it had any, and else the sampler's."""
        from optuna.trial import Trial as Asked

        from spikeloom.codesign.samplers import Suggester

        asked = Asked(self.study, self.requeued.pop(0)._trial_id) if self.requeued else self.study.ask()
        if asked.number != number:
            raise SearchError(
                f"storage: trial {asked.number} came where {number} was due; another search writes to the same study, "
                "stop it and resume"
            )
        self.asked[number] = asked
        with warnings.catch_warnings():  # gp clips the infinite costs of designs that do not fit, as it should
            warnings.filterwarnings("ignore", message="Clip non-finite values")
            params = self.space.suggest(Suggester(asked))
        self.sampler.take(params)
        asked.set_user_attr("chosen", params)  # Optuna's own parameters are places in lists of numbers
        return params

    def _take(self, job: Job, answer: Answer) -> None:
        """What a worker answered, for every number that asked for the same trial."""
        numbers = self.same.pop(job.trial_id)
        if answer.trial is not None:
            if not answer.recorded:
                self.place.append(answer.trial)
            self.known[answer.trial.id] = answer.trial
        self.computed += answer.computed
        for number, params in numbers:
            if answer.trial is None:
                self._finish(Outcome(number, params, "pruned", None))
            else:
                self._finish(self._judged(number, params, answer.trial, answer.reason))

    def _judged(self, number: int, params: Params, trial: Trial, reason: str = "") -> Outcome:
        if trial.report is None and trial.accuracy is None:
            return Outcome(number, params, "unfit", trial, reason)
        met = all(violation <= 0 for violation in self._violations(trial).values())
        return Outcome(number, params, "complete" if met else "infeasible", trial)

    def _violations(self, trial: Trial) -> dict[str, float]:
        return {one.metric: one.violation(metric_values(trial, (one.metric,))[0]) for one in self.settings.constraints}

    def _finish(self, outcome: Outcome) -> None:
        """Tell what is finished, in order where order matters."""
        if not self.ordered:
            self._tell(outcome)
            return
        self.held[outcome.number] = outcome
        while (number := len(self.outcomes)) in self.held:
            self._tell(self.held.pop(number))

    def _tell(self, outcome: Outcome) -> None:
        import optuna

        number = outcome.number
        asked = self.asked.pop(number)
        if outcome.state == "pruned":
            self.study.tell(number, state=optuna.trial.TrialState.PRUNED)
        else:
            for name, violation in self._constraints(outcome).items():
                if name not in asked.constraints:  # told in part before the search was stopped
                    asked.set_constraint(name, violation)
            self.study.tell(number, self._values(outcome))
        self.outcomes[number] = outcome
        self._show()

    def _constraints(self, outcome: Outcome) -> dict[str, float]:
        """Optuna's constraints, met at zero or below. What a design costs that does not fit is unknown: only 'fits' fails."""
        unfit = outcome.state == "unfit"
        if unfit or outcome.trial is None:
            bounds = dict.fromkeys((one.metric for one in self.settings.constraints), 0.0)
        else:
            bounds = self._violations(outcome.trial)
        return {"fits": 1.0 if unfit else -1.0, **bounds}

    def _values(self, outcome: Outcome) -> list[float]:
        if outcome.state == "unfit" or outcome.trial is None:
            return [-inf if METRICS[name].maximise else inf for name in self.settings.objectives]
        return list(metric_values(outcome.trial, self.settings.objectives))

    def _report(self, number: int, step: int, values: Mapping[str, float]) -> bool:
        """Pass a report of a running trial on to the pruner; whether it should stop."""
        if self.settings.pruner is None:
            return False
        name = self.settings.prune_by or self.settings.objectives[0]
        if name not in values:
            raise SearchError(
                f"pruner '{self.settings.pruner}': trial {number} reports {', '.join(sorted(values)) or 'nothing'}, not "
                f"'{name}'; set prune_by to one of them, or take the pruner out"
            )
        same_way = METRICS[name].maximise == METRICS[self.settings.objectives[0]].maximise
        if (number, step) not in self.reported:  # a requeued trial reports again
            self.asked[number].report(values[name] if same_way else -values[name], step)
            self.reported.add((number, step))
        return self.asked[number].should_prune()

    def _remembered(self, frozen: FrozenTrial) -> Outcome:
        """The outcome of a trial that an earlier run told."""
        import optuna

        from spikeloom.codesign.samplers import params_of

        params = params_of(self.space, frozen)
        if frozen.state == optuna.trial.TrialState.PRUNED:
            return Outcome(frozen.number, params, "pruned", None)
        try:
            trial = self.known.get(self.objective.identity(params).id)
        except MappingError as error:
            return Outcome(frozen.number, params, "unfit", None, str(error))
        if trial is None:
            raise SearchError(
                f"{self.place.results}: trial {frozen.number} was told and its result is missing; put the file back as it "
                "was or choose another folder"
            )
        return self._judged(frozen.number, params, trial)

    def _show(self) -> None:
        if self.progress is None:
            return
        figures: dict[str, float] = {}
        good = [one for one in self.outcomes.values() if one.state == "complete" and one.trial is not None]
        for name in self.settings.objectives:
            values = [metric_values(one.trial, (name,))[0] for one in good if one.trial is not None]
            if values:
                figures[name] = max(values) if METRICS[name].maximise else min(values)
        self.progress("search", min(len(self.outcomes), self.budget), self.budget, figures)

    def result(self) -> SearchResult:
        outcomes = tuple(self.outcomes[number] for number in sorted(self.outcomes))
        feasible = [one.trial for one in outcomes if one.state == "complete" and one.trial is not None]
        front = fronts(feasible, self.settings.objectives)
        return SearchResult(outcomes, front, self.computed, self.place.path, self.sampler.untried)


def _pruner(settings: SearchSettings) -> BasePruner:
    from optuna.pruners import MedianPruner, NopPruner, SuccessiveHalvingPruner

    if settings.pruner == "median":
        return MedianPruner(n_startup_trials=min(5, settings.population), n_warmup_steps=settings.prune_after)
    if settings.pruner == "halving":
        return SuccessiveHalvingPruner(min_resource=settings.prune_after)
    return NopPruner()


def _one_of(key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise SearchError(f"{key} '{value}': unknown{nearest(value, known)}; expected one of {', '.join(known)}")


def _require_optuna() -> None:
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise SearchError("search: Optuna is not installed; run: pip install 'spikeloom[search]'") from None


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Without a line on standard error for each trial."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
