"""Tabulated design points against ``evaluate``, one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloom.codesign.design_points import KNOBS, DesignTables, design_tables
from spikeloom.codesign.mapping import MappingChoices
from spikeloom.codesign.schedules import ScheduleCache
from spikeloom.core.arch import LayerMapping
from spikeloom.core.workload import Workload
from spikeloom.errors import ConfigError, CostError, MappingError
from spikeloom.evaluate import evaluate
from spikeloom.hw.spikex import SpikexArch
from tests.codesign.cases import joined_workloads, tiny_workload, workloads
from tests.hw.test_spikex_joins import pair

VALUES: dict[str, tuple[Any, ...]] = {
    "rows": (1, 2, 3, 5, 8),
    "cols": (1, 2, 3, 8),
    "lbuf": tuple(kib * 8192 for kib in (2.0, 2.5, 3.0, 16.0)),
    "glb": tuple(kib * 8192 for kib in (2.0, 4.0, 54.0)),
    "clock": (5e8, 3.333e8, 1e6, 123456789.123),
    "dram_bandwidth": (2.4e11, 5.6e9, 8e8, 987654321.321),
    "psum_bit": (16, 12, 8),
    "membrane_bit": (16, 12),
}


@st.composite
def values_of_knobs(draw: st.DrawFn) -> dict[str, tuple[Any, ...]]:
    """One or two values of some knobs."""
    return {
        name: tuple(draw(st.lists(st.sampled_from(values), min_size=1, max_size=2)))
        for name, values in VALUES.items()
        if draw(st.booleans())
    }


@st.composite
def machines(draw: st.DrawFn, table: str) -> SpikexArch:
    return SpikexArch(
        adders=draw(st.integers(1, 2)),
        decay=draw(st.sampled_from(("auto", "table"))),
        tailoring=draw(st.booleans()),
        weight_skip=draw(st.sampled_from(("off", "group"))),
        table=draw(st.sampled_from(("cacti32-hp", "cacti32", table))),
    )


@st.composite
def options(draw: st.DrawFn) -> list[LayerMapping]:
    every = MappingChoices((1, 2, 5, 16, 64), ("agile", "temporal", "ptb", "dense"), merges=(1, 2, 3)).options()
    return draw(st.lists(st.sampled_from(every), min_size=1, max_size=4))


def check(tables: DesignTables, workload: Workload, number: int, seed: int, cache: ScheduleCache) -> None:
    points = tables.random(number, np.random.default_rng(seed))
    figures = tables.evaluate(points)
    for k in range(number):
        report = evaluate(workload, tables.machine(points, k), cache=cache)
        assert figures.cycles[k] == report.cycles
        for found, expected in (
            (figures.energy_j[k], report.energy_per_inference_j),
            (figures.latency_s[k], report.latency_per_inference_s),
            (figures.edp_js[k], report.edp_js),
            (None if figures.area_m2 is None else figures.area_m2[k], report.area_m2),
        ):
            assert found == (expected if expected is None else pytest.approx(expected, rel=1e-12, abs=0))


@settings(max_examples=50, deadline=None)
@given(workload=workloads(), values=values_of_knobs(), chosen=options(), seed=st.integers(0, 2**16), data=st.data())
def test_every_point_equals_its_evaluation(
    workload: Workload,
    values: dict[str, tuple[Any, ...]],
    chosen: list[LayerMapping],
    seed: int,
    data: st.DataObject,
    leaky_table: str,
) -> None:
    arch, cache = data.draw(machines(leaky_table)), ScheduleCache()
    check(design_tables(workload, arch, chosen, values, cache=cache, threads=1), workload, 6, seed, cache)


@settings(max_examples=25, deadline=None)
@given(workload=joined_workloads(), values=values_of_knobs(), chosen=options(), seed=st.integers(0, 2**16))
def test_sums_that_meet_take_room_by_their_width(
    workload: Workload, values: dict[str, tuple[Any, ...]], chosen: list[LayerMapping], seed: int
) -> None:
    cache = ScheduleCache()
    sizes = {"glb": VALUES["glb"][:2], "psum_bit": (16, 5), **values}
    arch = SpikexArch(table="cacti32")
    check(design_tables(workload, arch, chosen, sizes, cache=cache, threads=1), workload, 6, seed, cache)


def test_windows_that_are_shared_cannot_be_chosen_one_by_one() -> None:
    workload, options = pair(), MappingChoices((1, 2)).options()
    design_tables(tiny_workload(), SpikexArch(join="tile"), options)
    with pytest.raises(MappingError, match=r"join = 'tile' binds the windows of side.* takes join = 'layer' only"):
        design_tables(workload, SpikexArch(join="tile"), options)


def test_all_values_at_once_equal_their_evaluations() -> None:
    workload, cache = tiny_workload(), ScheduleCache()
    options = MappingChoices((1, 3, 8), merges=(1, 2)).options()
    check(design_tables(workload, SpikexArch(), options, VALUES, cache=cache), workload, 60, 7, cache)


def test_points_are_named_by_their_values() -> None:
    workload = tiny_workload()
    tables = design_tables(
        workload, SpikexArch(), MappingChoices((1, 2)).options(), {"rows": (8, 4), "psum_bit": (12, 16)}
    )
    option = np.array([[0, 1], [2, 3], [1, 1]])
    points = tables.points(option, rows=[4, 8, 4], psum_bit=16)
    assert [tables.machine(points, k).rows for k in range(3)] == [4, 8, 4]
    assert [tables.machine(points, k).psum_bit for k in range(3)] == [16] * 3
    assert tables.machine(points, 0) == tables.machine(tables.points(option[:1], rows=4, psum_bit=16), 0)
    report = evaluate(workload, tables.machine(points, 1))
    assert tables.evaluate(points).energy_j[1] == pytest.approx(report.energy_per_inference_j, rel=1e-12)


def test_tables_need_no_cache() -> None:
    workload, options = tiny_workload(), MappingChoices((1, 2)).options()
    one = design_tables(workload, SpikexArch(), options, {"rows": (2, 8)})
    other = design_tables(workload, SpikexArch(), options, {"rows": (2, 8)}, cache=ScheduleCache())
    points = one.random(50, np.random.default_rng(0))
    np.testing.assert_array_equal(one.evaluate(points).energy_j, other.evaluate(points).energy_j)


@pytest.mark.parametrize(
    ("values", "error", "complains"),
    [
        ({"row": (1,)}, ConfigError, r"row: unknown knob \(did you mean 'rows'\?\)"),
        ({"rows": (0,)}, ConfigError, "rows: got 0"),
        ({"rows": ()}, ConfigError, "rows: got 0 values"),
        ({"psum_bit": (16, 3)}, ConfigError, "psum_bit: got 3"),
        ({"glb": (64 * 8192.0,)}, CostError, "sram"),
    ],
)
def test_impossible_values_are_refused(values: dict[str, Any], error: type[Exception], complains: str) -> None:
    with pytest.raises(error, match=complains):
        design_tables(tiny_workload(), SpikexArch(), MappingChoices((1,)).options(), values)


def test_points_outside_the_tables_are_refused() -> None:
    workload = tiny_workload()
    tables = design_tables(workload, SpikexArch(), MappingChoices((1,)).options(), {"rows": (2, 8)})
    option = np.zeros((3, 2), np.int16)
    with pytest.raises(ConfigError, match="rows: got 4, expected one of"):
        tables.points(option, rows=4)
    with pytest.raises(ConfigError, match="rovs: unknown knob"):
        tables.points(option, rovs=4)
    with pytest.raises(ConfigError, match="expected \\[points, 2 layers\\]"):
        tables.points(option[:, :1])
    with pytest.raises(ConfigError, match="option: got index"):
        tables.points(option + 1000)
    points = tables.points(option)
    points.knobs[1, KNOBS.index("cols")] = 1
    with pytest.raises(ConfigError, match=r"cols: got index 0\.\.1, expected 0\.\.0"):
        tables.evaluate(points)


def test_what_the_machine_refuses_is_refused() -> None:
    with pytest.raises(ConfigError, match="zskip"):
        design_tables(tiny_workload(), SpikexArch(step="zskip"), [LayerMapping(1, "dense")])
    with pytest.raises(ConfigError, match="options: got 0"):
        design_tables(tiny_workload(), SpikexArch(), [])
    with pytest.raises(MappingError, match="found no convolution"):
        design_tables(Workload((), 1, 1), SpikexArch(), MappingChoices((1,)).options())


def test_leaking_registers_make_the_largest_window_count(leaky_table: str) -> None:
    """The power of the whole machine follows the largest window of any layer."""
    workload = tiny_workload()
    arch = SpikexArch(table=leaky_table)
    tables = design_tables(workload, arch, [LayerMapping(w, "agile") for w in (1, 16)])
    figures = tables.evaluate(tables.points(np.array([[0, 0], [1, 0], [0, 1]])))
    for k, windows in enumerate((1, {"conv1": 16, "fc1": 1}, {"conv1": 1, "fc1": 16})):
        report = evaluate(workload, SpikexArch(table=arch.table, window=windows))  # type: ignore[arg-type]
        assert figures.energy_j[k] == pytest.approx(report.energy_per_inference_j, rel=1e-12)
