"""Samplers alone: told by hand, in several orders."""

from __future__ import annotations

import numpy as np
import optuna
import pytest

from spikeloom.codesign.samplers import (
    GenerationSampler,
    Suggester,
    crowding,
    grid_points,
    is_ordered,
    make_sampler,
)
from spikeloom.codesign.space import Choice, Space
from spikeloom.errors import SearchError
from tests.codesign.toys import SPACE

optuna.logging.set_verbosity(optuna.logging.ERROR)


def study_with(name: str, **changes: int) -> optuna.Study:
    options = {"seed": 5, "trials": 40, "population": 8, "first": 0} | changes
    return optuna.create_study(
        directions=["minimize", "minimize"], sampler=make_sampler(name, SPACE, noisy=False, **options)
    )


def worth(params: dict) -> list[float]:
    rows, merge = float(params["arch.rows"]), float(params.get("arch.merge", 8))
    return [rows + params["arch.split"], 32 / rows + merge]


def asked(study: optuna.Study, num: int) -> list[tuple[optuna.trial.Trial, dict]]:
    trials = [study.ask() for _ in range(num)]
    return [(trial, SPACE.suggest(Suggester(trial))) for trial in trials]


def run(study: optuna.Study, generations: int, order: np.random.Generator | None = None) -> list[dict]:
    """Ask whole generations; tell each in the order of numbers, or in any."""
    points: list[dict] = []
    for _ in range(generations):
        brood = asked(study, 8)
        points += [params for _, params in brood]
        for i in range(8) if order is None else order.permutation(8):
            trial, params = brood[i]
            study.tell(trial, worth(params))
    return points


def test_generations_are_a_function_of_seed_number_and_results() -> None:
    points = run(study_with("nsga2"), 4)
    assert points == run(study_with("nsga2"), 4, np.random.default_rng(0)), "the order of telling does not matter"
    assert points != run(study_with("nsga2", seed=6), 4)
    for point in points:
        SPACE.check(point)


def test_a_fresh_sampler_goes_on_where_another_stopped() -> None:
    whole = run(study_with("nsga2"), 4)
    study = study_with("nsga2")
    points = run(study, 2)
    half = asked(study, 3)
    study.sampler = make_sampler("nsga2", SPACE, seed=5, trials=40, population=8, first=19, noisy=False)
    rest = asked(study, 5)
    points += [params for _, params in half + rest]
    assert points == whole[:24]


def test_generations_do_not_repeat_a_design_and_get_better() -> None:
    points = run(study_with("nsga2"), 5)
    assert len({tuple(point.items()) for point in points}) == 40
    first, last = (np.array([worth(p) for p in points[part]]) for part in (slice(0, 8), slice(32, 40)))
    assert np.prod(last, axis=1).mean() < np.prod(first, axis=1).mean()


def test_a_space_smaller_than_the_budget_is_proposed_whole_and_then_again() -> None:
    space = Space((Choice("a", (1, 2, 3)), Choice("b", ("x", "y"))))
    study = optuna.create_study(sampler=GenerationSampler(space, 0, 4))
    points = []
    for _ in range(3):
        brood = [study.ask() for _ in range(4)]
        points += [space.suggest(Suggester(trial)) for trial in brood]
        for trial in brood:
            study.tell(trial, 1.0)
    assert len({tuple(point.items()) for point in points}) == 6


def test_infeasible_and_pruned_trials_do_not_become_parents() -> None:
    space = Space((Choice("a", tuple(range(40))),))
    study = optuna.create_study(sampler=GenerationSampler(space, 1, 6))
    good = set()
    for i in range(12):
        trial = study.ask()
        value = space.suggest(Suggester(trial))["a"]
        if i % 3 == 0:
            trial.report(-100.0, 0)
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            trial.set_constraint("fits", 1.0 if i % 3 == 1 else -1.0)
            study.tell(trial, -50.0 if i % 3 == 1 else float(value))
            if i % 3 == 2:
                good.add(value)
    trial = study.ask()
    space.suggest(Suggester(trial))
    sampler = study.sampler
    assert isinstance(sampler, GenerationSampler)
    parents = sampler._parents[2]
    assert {one.genome["a"] for one in parents[: len(good)]} == good
    assert all(one.violation > 0 for one in parents[len(good) :])


def test_the_first_generation_shows_every_value_about_equally_often() -> None:
    study = study_with("nsga2", population=36)
    counts = np.unique([params["arch.rows"] for _, params in asked(study, 36)], return_counts=True)[1]
    assert len(counts) == 6 and np.ptp(counts) <= 3  # twins are changed


def test_crowding_distance_by_hand() -> None:
    costs = np.array([[0.0, 4.0], [1.0, 2.0], [3.0, 1.0], [4.0, 0.0]])
    assert crowding(costs) == pytest.approx([np.inf, 3 / 4 + 3 / 4, 3 / 4 + 2 / 4, np.inf])


def test_random_depends_on_seed_and_number_alone() -> None:
    points = [params for _, params in asked(study_with("random"), 20)]
    assert points == [params for _, params in asked(study_with("random", first=7), 20)]
    assert points != [params for _, params in asked(study_with("random", seed=6), 20)]
    assert len({tuple(point.items()) for point in points}) > 10


def test_grids() -> None:
    assert SPACE.size == 6 * 3 * (2 * 3 + 1) == 126
    assert grid_points(SPACE, 126, whole=True) == list(SPACE.grid())
    coarse = grid_points(SPACE, 30, whole=False)
    assert 10 < len(coarse) <= 30
    assert {point["arch.rows"] for point in coarse} >= {1, 32}, "ends stay"
    assert {point["arch.dispatch"] for point in coarse} == {"agile", "ptb", "dense"}, "conditions stay"
    with pytest.raises(SearchError, match="even one value of each choice makes 3 points"):
        grid_points(SPACE, 2, whole=False)
    study = study_with("grid", trials=30)
    assert [params for _, params in asked(study, len(coarse))] == coarse


@pytest.mark.parametrize("name", ["tpe", "gp"])
def test_learning_samplers_come_close(name: str) -> None:
    if name == "gp":
        pytest.importorskip("torch", reason="the sampler gp needs torch")
        pytest.importorskip("scipy", reason="the sampler gp needs SciPy")
    study = optuna.create_study(
        sampler=make_sampler(name, SPACE, seed=1, trials=30, population=8, first=0, noisy=False)  # type: ignore[arg-type]
    )
    values = []
    for _ in range(24 if name == "tpe" else 14):
        trial = study.ask()
        params = SPACE.suggest(Suggester(trial))
        SPACE.check(params)
        values.append(float(np.prod(worth(params))))
        study.tell(trial, values[-1])
    assert (
        min(values) <= np.sort([np.prod(worth(point)) for point in SPACE.grid()])[12 if name == "tpe" else 25]
    )  # the best tenth, or fifth


def test_gp_without_torch_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SearchError, match=r"'gp': needs torch and SciPy; run: pip install 'spikeloom\[train\]'"):
        make_sampler("gp", SPACE, seed=0, trials=1, population=2, first=0, noisy=False)


def test_numbers_in_order_are_integers_to_optuna() -> None:
    assert is_ordered((1, 2, 4)) and is_ordered((0.5, 0.25, 0.0))
    assert not is_ordered((1, 4, 2)) and not is_ordered((1, 2)) and not is_ordered(("1x4", "2x2", "4x1"))
    assert not is_ordered((True, False, 2))
