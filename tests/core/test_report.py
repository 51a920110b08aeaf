"""Reports add up whichever way they are grouped; trials are known by everything that affects them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloom.core.report import LayerReport, Report, Trial

ENERGIES = st.dictionaries(
    st.tuples(st.sampled_from(("pe", "vmem", "dram_act")), st.sampled_from(("add", "read", "leakage"))).map(".".join),
    st.floats(0, 1e-3),
)


@st.composite
def reports(draw: st.DrawFn) -> Report:
    layers = tuple(
        LayerReport(f"layer{k}", draw(st.integers(0, 100)), 0.0, draw(st.integers(0, 100)), {}, draw(ENERGIES))
        for k in range(draw(st.integers(0, 3)))
    )
    return Report("m", {}, draw(st.integers(1, 5)), layers, 10, 1e-3, draw(st.none() | ENERGIES), {})


@settings(deadline=None)
@given(reports())
def test_every_grouping_adds_up_to_the_total(report: Report) -> None:
    total = sum(joules for layer in report.layers for joules in layer.energy.values())
    assert report.energy_j == pytest.approx(total)
    groupings: tuple[Literal["layer", "component", "action"], ...] = ("layer", "component", "action")
    for what in groupings:
        assert sum(report.by(what).values()) == pytest.approx(total)
    for layer in report.layers:
        assert report.by("layer").get(layer.name, 0.0) == pytest.approx(layer.energy_j)
    instances = (key.split(".") for key in report.by("action"))
    assert set(report.by("component")) == {
        f"{instance} leakage" if action == "leakage" else instance for instance, action in instances
    }


@settings(deadline=None)
@given(reports())
def test_per_inference_is_the_mean_over_samples(report: Report) -> None:
    assert report.energy_per_inference_j * report.num_samples == pytest.approx(report.energy_j)
    assert report.latency_per_inference_s * report.num_samples == pytest.approx(report.latency_s)
    assert report.edp_js == report.energy_per_inference_j * report.latency_per_inference_s
    assert report.synops == sum(layer.synops for layer in report.layers)
    assert report.area_m2 == (None if report.area is None else pytest.approx(sum(report.area.values())))


def trial(**changes: Any) -> Trial:
    base = Trial({"lr": 0.1, "beta": 1}, {"rows": 8}, 0, "w", 0.5, None)
    return replace(base, **changes)


@pytest.mark.parametrize(
    "change",
    [{"config": {"lr": 0.2, "beta": 1}}, {"config": {"lr": 0.1}}, {"arch": {"rows": 9}}, {"seed": 1},
     {"workload_id": "v"}],
)  # fmt: skip
def test_a_trial_id_changes_with_what_affects_it(change: dict[str, Any]) -> None:
    assert trial(**change).id != trial().id


def test_a_trial_id_depends_neither_on_the_outcome_nor_on_the_order_of_keys() -> None:
    report = Report("m", {}, 1, (), 0, 0.0, None, {})
    same = [trial(accuracy=0.9), trial(report=report), trial(config={"beta": 1, "lr": 0.1})]
    assert {other.id for other in same} == {trial().id}
    assert len(trial().id) == 64
