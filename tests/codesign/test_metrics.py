import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikeloom.codesign.metrics import Constraint, fronts, metric_values, non_dominated, pareto_front, shortfall
from spikeloom.core.report import Trial
from spikeloom.errors import SearchError
from tests.codesign.toys import toy_report


def design(energy: float, latency: float, accuracy: float | None = None, area: float | None = 1.0) -> Trial:
    config = {"energy": energy, "latency": latency, "accuracy": accuracy}
    return Trial(config, {}, 0, "toy", accuracy, toy_report(energy, latency, area))


@given(st.integers(1, 3).flatmap(lambda m: st.lists(st.tuples(*[st.integers(0, 4)] * m), min_size=1, max_size=30)))
def test_the_front_is_what_nothing_dominates(rows: list[tuple[int, ...]]) -> None:
    costs = np.array(rows, dtype=float).reshape(len(rows), -1)
    expected = [not any(all(a <= b for a, b in zip(p, q, strict=True)) and p != q for p in rows) for q in rows]
    assert list(non_dominated(costs)) == expected


def test_equal_designs_stay_and_accuracy_counts_upwards() -> None:
    best, twin = design(1, 1, 0.9, 1.0), Trial({"twin": 1}, {}, 0, "toy", 0.9, toy_report(1, 1, 1.0))
    cheap, worse = design(0.5, 2, 0.8), design(2, 2, 0.8)
    front = pareto_front([worse, best, cheap, twin, best], ("accuracy", "energy"))
    assert {trial.id for trial in front} == {best.id, twin.id, cheap.id}
    assert front[-1] == cheap and len(front) == 3


def test_values_are_per_inference_and_a_missing_one_is_named() -> None:
    trial = design(2.0, 3.0, 0.5, area=None)
    assert metric_values(trial, ("accuracy", "energy", "latency", "edp")) == (0.5, 2.0, 3.0, 6.0)
    with pytest.raises(SearchError, match="has no 'area', its table gives no areas"):
        metric_values(trial, ("area",))
    with pytest.raises(SearchError, match=r"'enrgy': unknown .did you mean 'energy'"):
        pareto_front([trial], ("enrgy",))


def test_constraints_measure_in_fractions_of_the_bound() -> None:
    assert Constraint("area", at_most=2.0).violation(3.0) == pytest.approx(0.5)
    assert Constraint("accuracy", at_least=0.8).violation(0.9) == pytest.approx(-0.125)
    assert Constraint("accuracy", at_least=0.8, at_most=0.9).violation(0.95) > 0
    with pytest.raises(SearchError, match="has no bound"):
        Constraint("area")
    with pytest.raises(SearchError, match="no design can meet both"):
        Constraint("area", at_most=1.0, at_least=2.0)
    with pytest.raises(SearchError, match="at_most: got nan, expected a finite number"):
        Constraint("area", at_most=float("nan"))


def test_designs_whose_bills_hold_other_things_have_fronts_of_their_own() -> None:
    def at(table: str, host: str, energy: float) -> Trial:
        return Trial({"energy": energy}, {"table": table, "host": host}, 0, "toy", None, toy_report(energy, 1.0, None))

    trials = [at("full", "none", 3.0), at("bare", "none", 1.0), at("full", "none", 2.0), at("full", "board", 5.0)]
    assert [trial.config["energy"] for trial in fronts(trials, ("energy",))] == [2.0, 1.0, 5.0]


def test_how_near_the_nearest_came() -> None:
    trials = [design(3e-6, 1e-3, 0.8), design(2e-6, 4e-3, 0.9)]
    low = Constraint("energy", at_most=1e-6)
    close = [design(3e-6, 1.0001e-3, 0.8)]  # looks like the bound
    assert shortfall(close, [Constraint("latency", at_most=1e-3)]).endswith("at most 1 ms; the nearest has 0.0010001 s")
    assert shortfall(trials, [low]) == "no design has energy of at most 1 uJ; the nearest has 2 uJ"
    right = Constraint("accuracy", at_least=0.95)
    assert shortfall(trials, [low, right]) == (
        "no design has energy of at most 1 uJ; the nearest has 2 uJ, and "
        "no design has accuracy of at least 95 %; the nearest has 90 %"
    )
    # each is met by one of the two designs, and by none both; 3 over 2.5 is nearer than 4 over 2
    both = [Constraint("energy", at_most=2.5e-6), Constraint("latency", at_most=2e-3)]
    assert shortfall(trials, both) == (
        "no design has energy of at most 2.5 uJ and latency of at most 2 ms at once; "
        "the nearest has energy 3 uJ and latency 1 ms"
    )
    for bound in (-1.0, 2.0):
        with pytest.raises(SearchError, match=r"expected a fraction of 0\.\.1"):
            Constraint("accuracy", at_least=bound)
