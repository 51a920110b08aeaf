import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikeloom.codesign.metrics import Constraint, metric_values, non_dominated, pareto_front
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
