"""Loihi as measured: the averages, the fit, what it predicts, what events can explain of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from spikeloom.components import Quote, load_table
from spikeloom.hw.loihi_arch import EXPLAINED, LOIHI_PRESETS, LoihiArch
from spikeloom.studies import measured
from spikeloom.studies.agreement import Figure, published
from spikeloom.studies.validate_measured import measured_sections
from tests.reference.folder import reference_file

RUNS = reference_file("loihi_measured.json")


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


@pytest.mark.skipif(
    not RUNS.is_file(), reason="needs the reference folder (SPIKELOOM_REFERENCE, or beside SPIKELOOM_DATA)"
)
def test_the_averages_are_those_of_the_runs() -> None:
    runs: list[dict[str, Any]] = json.loads(RUNS.read_text(encoding="utf-8"))["runs"]
    said = published("loihi_measured.json")
    groups = {row["copies"]: row for row in said["scaled"]} | {"keyword": said["keyword"]}
    assert sum(row["runs"] for row in groups.values()) == len(runs)
    for which, row in groups.items():
        same: Callable[[dict[str, Any]], bool] = lambda run, which=which: (  # noqa: E731
            run["layers"] is None if which == "keyword" else run["layers"] is not None and run["copies"] == which
        )
        mine = [run for run in runs if same(run)]
        assert len(mine) == row["runs"]
        for ours, theirs in (
            ("inferences_per_s", "ips"), ("idle_w", "idle"), ("running_w", "run_W"), ("dynamic_mj", "dyn_mJ_inf"),
            ("total_mj", "tot_mJ_inf"),
        ):  # fmt: skip
            assert row[ours] == pytest.approx(mean([run[theirs] for run in mine]), rel=1e-6), (which, ours)


def test_energies_are_power_over_rate() -> None:
    for run in (*measured.scaled().values(), measured.keyword()):
        assert run.total_j == pytest.approx(run.running_w / run.rate, rel=1e-4)
        assert run.dynamic_j == pytest.approx((run.running_w - run.idle_w) / run.rate, rel=1e-4)


def test_copies_that_were_not_fitted_are_predicted_within_a_percent() -> None:
    """Asked for are 3 %. The network without copies, of another rate, is 2.4 % off."""
    found = {(what, copies): ours / theirs - 1 for what, copies, theirs, ours in measured.errors()}
    assert len(found) == 21
    assert max(abs(error) for (_, copies), error in found.items() if copies in (2, 6, 10)) < 0.007
    assert max(abs(error) for (_, copies), error in found.items() if copies in measured.FITTED) < 0.002
    assert found["dynamic energy", 0] == pytest.approx(-0.0236, abs=1e-4)
    assert set(measured.FITTED).isdisjoint({2, 6, 10})


def test_the_fit_is_its_normal_equations() -> None:
    """The straight line of three points, by the textbook's sums."""
    runs = [measured.scaled()[copies] for copies in measured.FITTED]
    x = [run.copies * run.rate for run in runs]
    y = [run.running_w - run.idle_w for run in runs]
    slope = sum((a - mean(x)) * (b - mean(y)) for a, b in zip(x, y, strict=True)) / sum((a - mean(x)) ** 2 for a in x)
    found = measured.fit()
    assert found.copy_j == pytest.approx(slope, rel=1e-9) == pytest.approx(16.64e-6, rel=1e-3)
    assert found.host_w == pytest.approx(mean(y) - slope * mean(x), rel=1e-9)
    assert measured.energy_line() == pytest.approx((0.667e-3, 16.9e-6), rel=2e-3)


def test_the_switches_of_the_machine_are_the_fit() -> None:
    arch = LoihiArch(static="blouw2018", host="blouw2018")
    table, found = load_table(arch.table), measured.fit()
    watts = {part.instance: table.leakage(part.component) for part in arch.inventory()}
    for instance, ours in (("chip", found.static_w), ("host", found.host_w)):
        quote = watts[instance]
        assert isinstance(quote, Quote)
        assert quote.value == pytest.approx(float(f"{ours:.3g}"), rel=1e-12)


@pytest.mark.parametrize(("preset", "access", "update", "spike", "message", "event", "rate"), [
    ("loihi", 51.2, 21.6, 69.3, 111, 35.5, 0.0635), ("loihi-davies2018", 52, 29, 0, 1.7, 23.6, 0.0960),
])  # fmt: skip
def test_what_events_explain(
    preset: str, access: float, update: float, spike: float, message: float, event: float, rate: float
) -> None:
    copy, word = measured.copy_events(preset), measured.keyword_events(preset)
    assert copy.fixed == pytest.approx(2560 * 10 * (access + update) * 1e-12)
    assert copy.at_rate_1 == pytest.approx((2560 * (spike + message) + 2560 * 256 * event) * 10e-12)
    assert word.fixed == pytest.approx(541 * 10 * (access + update) * 1e-12)
    assert word.at_rate_1 == pytest.approx((541 * (spike + message) + 172_800 * event) * 10e-12)
    assert copy.rate_of(16.926e-6) == pytest.approx(rate, abs=1e-4)
    assert copy.at(copy.rate_of(16.9e-6)) == pytest.approx(16.9e-6)
    assert word.at(rate) / measured.keyword().dynamic_j == pytest.approx(0.0160, abs=1e-4)
    assert preset in LOIHI_PRESETS
    assert round(word.at(copy.rate_of(16.926e-6)) / measured.keyword().dynamic_j, 3) == EXPLAINED  # what reports say


def test_events_cannot_be_the_measured_energy() -> None:
    """Even if every neuron fired in every step: a quarter of the keyword network at most, a tenth of the intercept."""
    intercept, _ = measured.energy_line()
    shares = [measured.keyword_events(units).at(1) / measured.keyword().dynamic_j for units in LOIHI_PRESETS]
    assert shares == pytest.approx([0.231, 0.152], abs=1e-3)
    shares = [measured.keyword_events(units).at(1) / intercept for units in LOIHI_PRESETS]
    assert shares == pytest.approx([0.094, 0.062], abs=1e-3)


def test_what_validation_shows() -> None:
    figures: dict[str, tuple[Figure, ...]] = dict(measured_sections())
    assert [len(rows) for rows in figures.values()] == [24, 8, 11, 14]
    for title, rows in figures.items():
        assert title and all(row.why for row in rows if row.verdict != "equal"), title
