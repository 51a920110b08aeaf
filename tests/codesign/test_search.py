"""The loop in one process: what is asked, told, kept, refused."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from spikeloom.codesign.metrics import Constraint, pareto_front
from spikeloom.codesign.search import SearchResult, SearchSettings, search
from spikeloom.codesign.space import Choice, Params, Space
from spikeloom.codesign.workers import CheckpointReport
from spikeloom.core.report import Trial
from spikeloom.errors import CostError, SearchError
from spikeloom.files.results import append_trial, read_trials
from tests.codesign.toys import SETTINGS, SPACE, Toy, check_undisturbed, noted


def run(folder: Path, settings: SearchSettings, toy: Any = None, **options: Any) -> SearchResult:
    """Without a database, which takes a second to make, unless one is asked for."""
    options = {"storage": "memory"} | options
    return search(SPACE, toy or Toy(folder / "diary"), settings, folder / "study", **options)


def ids(result: SearchResult) -> list[str]:
    return [trial.id for trial in result.front]


def test_exhaustive_finds_the_true_front(tmp_path: Path) -> None:
    settings = SearchSettings(("energy", "latency"), trials=None, sampler="exhaustive")
    result = run(tmp_path, settings)
    assert [one.params for one in result.outcomes] == list(SPACE.grid())
    assert len(result.trials) == 126 - 21 and sum(one.state == "unfit" for one in result.outcomes) == 21
    toy = Toy(tmp_path / "again")
    every = [toy(point, None) for point in SPACE.grid() if point["arch.rows"] != 32]
    assert ids(result) == [trial.id for trial in pareto_front([t for t in every if t], ("energy", "latency"))]
    assert 5 < len(result.front) < 60
    assert result.computed == 126


def test_a_budget_too_small_for_every_point_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match="126 points, the budget 100 trials"):
        run(tmp_path, SearchSettings(("energy", "latency"), trials=100, sampler="exhaustive"))
    assert not (tmp_path / "study").exists()


def test_results_hold_every_trial_and_unfit_ones_without_a_report(tmp_path: Path) -> None:
    result = run(tmp_path, SETTINGS["nsga2"])
    log = read_trials(tmp_path / "study" / "results.jsonl")
    assert {trial.id for trial in log.trials} == {one.trial.id for one in result.outcomes if one.trial}
    unfit = [one for one in result.outcomes if one.state == "unfit"]
    assert unfit and all(one.trial is not None and one.trial.report is None for one in unfit)
    assert "there is room for 16" in unfit[0].reason


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp", "nsga2", "grid"])
def test_as_many_trials_as_points_find_the_exhaustive_front(tmp_path: Path, sampler: Any) -> None:
    if sampler == "gp":
        pytest.importorskip("torch", reason="the sampler gp needs torch")
    settings = SearchSettings(("energy", "latency"), trials=126, sampler=sampler, population=10)
    if sampler == "gp":  # its fits take long: most of the space is drawn at random
        settings = replace(settings, population=120)
    result = run(tmp_path, settings)
    toy = Toy(tmp_path / "again")
    every = [trial for point in SPACE.grid() if point["arch.rows"] != 32 and (trial := toy(point, None))]
    assert set(ids(result)) == {trial.id for trial in pareto_front(every, ("energy", "latency"))}
    assert {json.dumps(one.params) for one in result.outcomes} == {json.dumps(point) for point in SPACE.grid()}
    assert (result.computed, result.untried) == (126, 0)


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2"])
@pytest.mark.parametrize("storage", [None, "memory"])
def test_no_design_is_asked_twice_however_often_the_search_is_stopped(
    tmp_path: Path, sampler: Any, storage: str | None
) -> None:
    settings = SearchSettings(("energy", "latency"), trials=100, sampler=sampler, population=10)
    toy = Counting(Toy(tmp_path / "diary"), 10**9)
    for trials in (20, 55, 100):
        toy.left = trials // 3
        with contextlib.suppress(Stopped):
            run(tmp_path, replace(settings, trials=trials), toy, storage=storage)
        toy.left = 10**9
        result = run(tmp_path, replace(settings, trials=trials), toy, storage=storage)
        points = [json.dumps(one.params) for one in result.outcomes]
        assert len(set(points)) == len(points) == trials and result.untried == 126 - trials
    assert set(noted(tmp_path / "diary", "finish").values()) == {1}


def test_a_budget_beyond_the_space_ends_with_the_space(tmp_path: Path) -> None:
    result = run(tmp_path, SearchSettings(("energy", "latency"), trials=500, sampler="random"))
    assert len(result.outcomes) == result.computed == 126


def test_repeats_of_an_older_study_stay_and_the_rest_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A study whose sampler was not kept from repeats (before 0.1.0) goes on without any more of them."""
    settings = replace(SETTINGS["random"], trials=60)
    with monkeypatch.context() as old:
        old.setattr("spikeloom.codesign.samplers.Fresh._open", lambda *_: True)
        before = run(tmp_path, settings, storage=None)
    distinct = {json.dumps(one.params) for one in before.outcomes}
    assert len(distinct) < 60
    after = run(tmp_path, replace(settings, trials=500), storage=None)
    assert len(after.outcomes) == 60 + 126 - len(distinct) and after.untried == 0


def test_designs_that_are_the_same_trial_are_computed_once_and_told_twice(tmp_path: Path) -> None:
    class Blind(Counting):
        """Knows nothing of the split."""

        def identity(self, params: Params) -> Trial:
            return self.toy.identity({**params, "arch.split": 0.5})

        def __call__(self, params: Params, checkpoint_report: CheckpointReport | None) -> Trial | None:
            return self.toy({**params, "arch.split": 0.5}, checkpoint_report)

    result = run(tmp_path, replace(SETTINGS["random"], trials=126), Blind(Toy(tmp_path / "diary"), 1))
    assert len(result.outcomes) == 126 and result.computed == 42 == len(noted(tmp_path / "diary", "start"))
    assert max(noted(tmp_path / "diary", "start").values()) == 1


class Stopped(BaseException):
    """As Ctrl-C would, wherever it strikes."""


@pytest.mark.parametrize("name", ["nsga2", "grid", "random"])
@pytest.mark.parametrize("storage", [None, "memory", "log.journal"])
def test_a_search_stopped_anywhere_goes_on_as_if_it_had_not(tmp_path: Path, name: str, storage: str | None) -> None:
    where = str(tmp_path / storage) if storage and storage.endswith("journal") else storage
    for limit in (3, 8, 13, 10**9):
        toy = Counting(Toy(tmp_path / "diary"), limit)
        try:
            result = run(tmp_path, SETTINGS[name], toy, storage=where)
            break
        except Stopped:
            continue
    check_undisturbed(name, result, tmp_path / "diary")


class Counting:
    """A toy that is stopped in the middle of its n-th trial."""

    def __init__(self, toy: Toy, limit: int) -> None:
        self.toy, self.left = toy, limit

    def identity(self, params: Params) -> Trial:
        return self.toy.identity(params)

    def __call__(self, params: Params, checkpoint_report: CheckpointReport | None) -> Trial | None:
        self.left -= 1
        if self.left == 0:
            raise Stopped
        return self.toy(params, checkpoint_report)


def test_results_outlive_their_optuna_storage(tmp_path: Path) -> None:
    first = run(tmp_path, SETTINGS["nsga2"], storage=None)
    (tmp_path / "study" / "study.db").unlink()
    again = run(tmp_path, SETTINGS["nsga2"], storage=None)
    assert ids(again) == ids(first) and again.computed == 0


def test_a_larger_budget_continues(tmp_path: Path) -> None:
    first = run(tmp_path, SETTINGS["nsga2"], storage=None)
    more = run(tmp_path, replace(SETTINGS["nsga2"], trials=36), storage=None)
    assert more.outcomes[:24] == tuple(replace(one, reason="") for one in first.outcomes)
    assert len(more.outcomes) == 36 and 0 < more.computed <= 12


def test_constraints_are_met_by_the_front(tmp_path: Path) -> None:
    settings = replace(
        SETTINGS["nsga2"],
        trials=60,
        constraints=(Constraint("area", at_most=4.0), Constraint("accuracy", at_least=0.52)),
    )
    result = run(tmp_path, settings)
    assert {trial.arch["rows"] for trial in result.front} <= {2, 4}
    states = {one.params["arch.rows"]: one.state for one in result.outcomes}
    assert states[1] == states[8] == states[16] == "infeasible" and states[4] == "complete" and states[32] == "unfit"
    late = [one.state for one in result.outcomes[30:]]
    assert late.count("complete") >= 0.5 * len(late), "a third of the space is feasible; the search learns where"


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_optunas_samplers_take_unfit_and_infeasible_trials(tmp_path: Path, sampler: str) -> None:
    if sampler == "gp":
        pytest.importorskip("torch", reason="the sampler gp needs torch")
    settings = SearchSettings(
        ("energy", "latency"),
        trials=8,
        sampler=sampler,
        population=6,
        constraints=(Constraint("area", at_most=4.0),),  # type: ignore[arg-type]
    )
    result = run(tmp_path, settings, Toy(tmp_path / "diary"))
    assert len(result.outcomes) == 8 and {"complete", "infeasible"} <= {one.state for one in result.outcomes}


@pytest.mark.parametrize("pruner", ["median", "halving"])
def test_bad_trials_are_pruned_and_not_recorded(tmp_path: Path, pruner: str) -> None:
    settings = SearchSettings(("accuracy",), trials=40, sampler="random", seed=1, pruner=pruner)  # type: ignore[arg-type]
    toy = Toy(tmp_path / "diary", epochs=6)
    result = run(tmp_path, settings, toy, storage=None)
    pruned = [one for one in result.outcomes if one.state == "pruned"]
    assert pruned and len(noted(tmp_path / "diary", "pruned")) <= len(pruned) < 30
    finished = {trial.id for trial in read_trials(tmp_path / "study" / "results.jsonl").trials}
    assert not finished & set(noted(tmp_path / "diary", "pruned")) - set(noted(tmp_path / "diary", "finish"))
    again = run(tmp_path, replace(settings, trials=41), toy, storage=None)
    assert again.outcomes[:40] == tuple(replace(one, reason="") for one in result.outcomes)


def test_pruning_by_another_metric_turns_its_sign(tmp_path: Path) -> None:
    settings = SearchSettings(("edp",), trials=30, sampler="random", seed=1, pruner="median", prune_by="accuracy")
    result = run(tmp_path, settings, Toy(tmp_path / "diary", epochs=6))
    mean = {
        state: sum(rows) / len(rows)
        for state in ("pruned", "complete")
        if (rows := [float(one.params["arch.rows"]) for one in result.outcomes if one.state == state])
    }
    assert mean["pruned"] < mean["complete"], "accuracy rises with the rows, so few rows are pruned"


def test_a_pruner_needs_one_objective_and_its_metric(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match="works with one objective, 2 are given"):
        SearchSettings(("edp", "accuracy"), pruner="median")
    with pytest.raises(SearchError, match="trial 0 reports accuracy, not 'edp'; set prune_by"):
        run(tmp_path, SearchSettings(("edp",), pruner="halving", seed=2), Toy(tmp_path / "diary", epochs=2))


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"seed": 4}, "'settings.seed': 3 there, 4 here"),
        ({"sampler": "random"}, '\'settings.sampler\': "nsga2" there, "random" here'),
        ({"population": 8}, "'settings.population': 6 there, 8 here"),
        ({"objectives": ("edp",)}, "'settings.objectives'"),
        ({"constraints": (Constraint("area", at_most=1.0),)}, "'settings.constraints.area': none there"),
    ],
)
def test_a_folder_with_another_study_is_refused(tmp_path: Path, changed: dict[str, Any], what: str) -> None:
    settings = replace(SETTINGS["nsga2"], trials=2)
    run(tmp_path, settings)
    with pytest.raises(SearchError, match=what.replace("(", r"\(")):
        run(tmp_path, replace(settings, **changed))


def test_another_space_objective_or_no_resumption_is_refused(tmp_path: Path) -> None:
    settings = replace(SETTINGS["random"], trials=2)
    run(tmp_path, settings)
    wider = Space((replace(SPACE.choices[0], values=(1, 2)), *SPACE.choices[1:]))
    with pytest.raises(SearchError, match=r"'space.arch.rows.values': \[1, 2, 4, 8, 16, 32\] there, \[1, 2\] here"):
        search(wider, Toy(tmp_path / "diary"), settings, tmp_path / "study")
    with pytest.raises(SearchError, match=r"'objective'"):
        run(tmp_path, settings, Toy(tmp_path / "diary", seed=1))
    with pytest.raises(SearchError, match="holds a study already"):
        run(tmp_path, settings, resume=False)


def test_odd_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "results.jsonl").touch()
    with pytest.raises(SearchError, match=r"holds results.jsonl but no study.json"):
        run(tmp_path, SETTINGS["random"])
    for text in ("nonsense", "[]", json.dumps({"format": "else"})):
        (tmp_path / "study" / "study.json").write_text(text)
        with pytest.raises(SearchError, match=r"cannot read the study|is no study"):
            run(tmp_path, SETTINGS["random"])


def test_a_missing_result_is_not_glossed_over(tmp_path: Path) -> None:
    run(tmp_path, SETTINGS["random"], storage=None)
    results = tmp_path / "study" / "results.jsonl"
    results.write_text("".join(results.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(SearchError, match="was told and its result is missing"):
        run(tmp_path, SETTINGS["random"], storage=None)


def test_two_searches_do_not_share_a_folder(tmp_path: Path) -> None:
    class Nosy(Counting):
        def __call__(self, params: Params, checkpoint_report: CheckpointReport | None) -> Trial | None:
            with pytest.raises(SearchError, match="another search is running in this folder"):
                run(tmp_path, SETTINGS["random"], self.toy)
            return super().__call__(params, checkpoint_report)

    assert run(tmp_path, SETTINGS["random"], Nosy(Toy(tmp_path / "diary"), 10**9)).computed > 0


def test_errors_of_the_objective_name_the_design(tmp_path: Path) -> None:
    class Priceless(Counting):
        def __call__(self, params: Params, checkpoint_report: CheckpointReport | None) -> Trial | None:
            raise CostError("no price")

    with pytest.raises(CostError, match=r"trial 0 \(arch.rows=1, .*\): no price"):
        run(tmp_path, SETTINGS["grid"], Priceless(Toy(tmp_path / "diary"), 1))

    class Fickle(Counting):
        def __call__(self, params: Params, checkpoint_report: CheckpointReport | None) -> Trial | None:
            return replace(self.toy.identity(params), seed=99)

    with pytest.raises(SearchError, match="the objective returned a trial with the id"):
        run(tmp_path, SETTINGS["grid"], Fickle(Toy(tmp_path / "diary"), 1))


def test_settings_are_checked() -> None:
    for options, words in (
        ({"objectives": ()}, "objectives: none given"),
        ({"objectives": ("edp", "edp")}, "one stands twice"),
        ({"objectives": ("speed",)}, "metric 'speed': unknown"),
        ({"sampler": "nsga3"}, r"sampler 'nsga3': unknown .did you mean 'nsga2'"),
        ({"trials": 0}, "trials: got 0, expected at least 1"),
        ({"trials": None}, "needs a budget"),
        ({"population": 1}, "population: got 1"),
        ({"pruner": "mean"}, "pruner 'mean': unknown"),
        ({"constraints": (Constraint("area", 1.0), Constraint("area", 2.0))}, "a metric stands twice"),
    ):
        with pytest.raises(SearchError, match=words):
            SearchSettings(**{"objectives": ("edp",), **options})


def test_places_and_storages_are_checked(tmp_path: Path) -> None:
    for options, words in (
        ({"workers": 2, "cluster": "tcp://127.0.0.1:1"}, "both are given"),
        ({"workers": 0}, "workers: got 0"),
        ({"storage": "what is this"}, "storage: expected a URL"),
        ({"storage": "postgresql://me:secret@127.0.0.1:1/none"}, r"me:\*\*\*@127.0.0.1:1/none: cannot be opened"),
        ({"storage": "oracle://host/name"}, "driver is missing|cannot be opened"),
    ):
        with pytest.raises(SearchError, match=words) as caught:
            run(tmp_path, SETTINGS["random"], **options)
        assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


def test_progress_counts_trials_and_shows_the_best(tmp_path: Path) -> None:
    told: list[tuple[str, int, int, dict[str, float]]] = []
    result = run(
        tmp_path,
        SETTINGS["nsga2"],
        progress=lambda stage, done, total, figures: told.append((stage, done, total, dict(figures))),
    )
    assert [done for _, done, _, _ in told] == list(range(25)) and {total for _, _, total, _ in told} == {24}
    assert told[-1][3]["energy"] == min(trial.report.energy_per_inference_j for trial in result.front if trial.report)


def test_a_trial_recorded_elsewhere_is_read_not_computed(tmp_path: Path) -> None:
    run(tmp_path, replace(SETTINGS["random"], trials=1))
    toy = Toy(tmp_path / "elsewhere")
    for point in SPACE.grid():
        if point["arch.rows"] != 32:
            made = toy(point, None)
            assert made is not None
            append_trial(tmp_path / "study" / "results.jsonl", made)
    assert run(tmp_path, SETTINGS["random"]).computed <= sum(
        one.params["arch.rows"] == 32 for one in run(tmp_path, SETTINGS["random"]).outcomes
    )


def test_optunas_log_level_is_put_back(tmp_path: Path) -> None:
    before = optuna.logging.get_verbosity()
    run(tmp_path, SETTINGS["random"])
    assert optuna.logging.get_verbosity() == before


def test_choices_of_every_kind_come_back_from_the_storage(tmp_path: Path) -> None:
    space = Space(
        (Choice("a", (True, False)), Choice("b", ("x", "y", "z")), Choice("c", (0.5,)), Choice("arch.rows", (4, 2, 1)))
    )

    class Echo(Counting):
        def __call__(self, params: Params, checkpoint_report: CheckpointReport | None) -> Trial | None:
            return replace(self.identity(params), accuracy=0.5)

    settings = SearchSettings(("accuracy",), trials=10, sampler="random")
    echo = Echo(Toy(tmp_path / "diary"), 1)
    first = search(space, echo, settings, tmp_path / "study")
    assert search(space, echo, settings, tmp_path / "study").outcomes == first.outcomes
    for one in first.outcomes:
        space.check(one.params)


def test_optunas_database_names_objectives_and_says_what_was_chosen(tmp_path: Path) -> None:
    result = run(tmp_path, SETTINGS["nsga2"], storage=None)
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{tmp_path / 'study' / 'study.db'}")
    assert study.metric_names == ["energy", "latency"]
    assert [trial.user_attrs["chosen"] for trial in study.trials] == [one.params for one in result.outcomes]
