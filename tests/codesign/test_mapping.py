"""The best mapping against every mapping, each evaluated."""

from __future__ import annotations

import dataclasses
import itertools
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloom.codesign.mapping import (
    MappingChoices,
    Objective,
    best_global_window,
    best_mapping,
    mapped,
)
from spikeloom.codesign.schedules import ScheduleCache
from spikeloom.core.arch import LayerMapping
from spikeloom.core.report import Report
from spikeloom.core.workload import Workload
from spikeloom.errors import ConfigError, MappingError
from spikeloom.evaluate import evaluate, load_machine
from spikeloom.files.config import machine_keys
from spikeloom.files.schema import toml_value
from spikeloom.hw.spikex import SpikexArch
from tests.codesign.cases import joined_workloads, tiny_workload, workloads
from tests.hw.test_spikex_joins import pair

FEW = MappingChoices((1, 2, 5), ("agile", "ptb"), ("raster",), (1, 2))


@st.composite
def choices(draw: st.DrawFn) -> MappingChoices:
    """Few enough to try every combination of two or three layers."""
    windows = draw(st.lists(st.sampled_from((1, 2, 3, 4, 8, 18)), min_size=1, max_size=3))
    dispatches = draw(st.lists(st.sampled_from(("agile", "temporal", "ptb", "dense")), min_size=1, max_size=2))
    orders = draw(st.lists(st.sampled_from(("raster", "interleave")), min_size=1, max_size=2))
    merges = draw(st.lists(st.sampled_from((1, 2, 3)), min_size=1, max_size=2))
    found = MappingChoices(tuple(windows), tuple(dispatches), tuple(orders), tuple(merges))
    while len(found.options()) > 8:
        windows.pop() if len(windows) > 1 else dispatches.pop() if len(dispatches) > 1 else merges.pop()
        found = MappingChoices(tuple(windows), tuple(dispatches), tuple(orders), tuple(merges))
    return found


@st.composite
def machines(draw: st.DrawFn, table: str) -> SpikexArch:
    """Arrays small enough to have several filter groups, buffers that fit or do not, tables with and without leakage."""
    return SpikexArch(
        rows=draw(st.sampled_from((1, 2, 3, 8))),
        cols=draw(st.sampled_from((1, 2, 3, 8))),
        adders=draw(st.integers(1, 2)),
        lbuf=draw(st.sampled_from((2.0, 2.5, 16.0))) * 8192,
        glb=draw(st.sampled_from((2.0, 54.0))) * 8192,
        dram_bandwidth=draw(st.sampled_from((2.4e11, 5e9, 1e8))),
        clock=draw(st.sampled_from((5e8, 1e6))),
        weight_skip=draw(st.sampled_from(("off", "group"))),
        table=draw(st.sampled_from(("cacti32-hp", "cacti32", table))),
    )


def value(report: Report, objective: Objective) -> float:
    return {
        "edp": report.edp_js, "energy": report.energy_per_inference_j, "latency": report.latency_per_inference_s
    }[objective]  # fmt: skip


def every_report(workload: Workload, arch: SpikexArch, found: MappingChoices, cache: ScheduleCache) -> list[Report]:
    names = [layer.name for layer in workload.layers]
    picks = itertools.product(found.options(), repeat=len(names))
    return [evaluate(workload, mapped(arch, dict(zip(names, pick, strict=True))), cache=cache) for pick in picks]


@settings(max_examples=25, deadline=None)
@given(workload=workloads(max_layers=2) | joined_workloads(), found=choices(), data=st.data())
def test_nothing_is_better_than_the_best_mapping(
    workload: Workload, found: MappingChoices, data: st.DataObject, leaky_table: str
) -> None:
    arch, cache = data.draw(machines(leaky_table)), ScheduleCache()
    reports = every_report(workload, arch, found, cache)
    objectives: tuple[Objective, ...] = ("edp", "energy", "latency")
    for objective in objectives:
        best = best_mapping(workload, arch, found, objective=objective, cache=cache)
        assert value(best.report, objective) == pytest.approx(
            min(value(x, objective) for x in reports), rel=1e-12, abs=0
        )
        assert best.counted == len(workload.layers) * len(found.options())
        assert best.report == evaluate(workload, best.arch)
        assert best.edp_js == best.energy_j * best.latency_s


def test_windows_that_are_shared_cannot_be_chosen_one_by_one() -> None:
    """One window for all layers is another matter: both have it."""
    best_mapping(tiny_workload(), SpikexArch(join="tile"), FEW)
    with pytest.raises(MappingError, match=r"join = 'tile' binds the windows of side.* takes join = 'layer' only"):
        best_mapping(pair(), SpikexArch(join="tile"), FEW)
    assert best_global_window(pair(), SpikexArch(join="tile")).report.edp_js > 0


@settings(max_examples=15, deadline=None)
@given(workload=workloads(max_layers=2), found=choices(), data=st.data())
def test_the_front_is_what_no_mapping_beats(
    workload: Workload, found: MappingChoices, data: st.DataObject, leaky_table: str
) -> None:
    arch, cache = data.draw(machines(leaky_table)), ScheduleCache()
    front = best_mapping(workload, arch, found, front=True, cache=cache).front
    pairs = [(x.energy_per_inference_j, x.latency_per_inference_s) for x in every_report(workload, arch, found, cache)]
    for point in front:
        report = evaluate(workload, mapped(arch, point.layers), cache=cache)
        assert point.energy_j == pytest.approx(report.energy_per_inference_j, rel=1e-12)
        assert point.latency_s == pytest.approx(report.latency_per_inference_s, rel=1e-12)
        assert not any(e < point.energy_j * (1 - 1e-12) and d < point.latency_s * (1 - 1e-12) for e, d in pairs)
    for e, d in pairs:
        assert any(x.energy_j <= e * (1 + 1e-12) and x.latency_s <= d * (1 + 1e-12) for x in front)
    assert [x.latency_s for x in front] == sorted(x.latency_s for x in front)


@settings(max_examples=15, deadline=None)
@given(workload=workloads(), seed=st.integers(0, 2**16), data=st.data())
def test_the_order_of_the_choices_does_not_matter(
    workload: Workload, seed: int, data: st.DataObject, leaky_table: str
) -> None:
    rng, arch, cache = random.Random(seed), data.draw(machines(leaky_table)), ScheduleCache()

    def shuffled(values: tuple[object, ...]) -> tuple[object, ...]:
        return tuple(rng.sample(values, len(values)))

    ordered = MappingChoices((1, 2, 4), ("agile", "ptb", "dense"), ("raster", "interleave"), (1, 2))
    fields = {field.name: shuffled(getattr(ordered, field.name)) for field in dataclasses.fields(ordered)}
    other = MappingChoices(**fields)  # type: ignore[arg-type]
    assert other.options() == ordered.options()
    assert best_mapping(workload, arch, other, cache=cache) == best_mapping(workload, arch, ordered, cache=cache)


def test_a_large_window_pays_for_registers_that_leak(leaky_table: str) -> None:
    workload, cache = tiny_workload(1), ScheduleCache()
    arch = SpikexArch(table=leaky_table)
    windows = MappingChoices((1, 4, 16), ("agile",), ("raster",), (1,))
    best = best_mapping(workload, arch, windows, objective="energy", cache=cache)
    reports = every_report(workload, arch, windows, cache)
    assert best.energy_j == pytest.approx(min(x.energy_per_inference_j for x in reports), rel=1e-12)
    free = best_mapping(workload, SpikexArch(), windows, objective="energy", cache=cache).arch
    assert free.window == {"conv1": 4, "fc1": 1}
    assert best.arch.window == 1
    free_windows = evaluate(workload, dataclasses.replace(free, table=leaky_table), cache=cache)
    assert best.energy_j < free_windows.energy_per_inference_j * 0.99


def test_a_machine_file_gives_the_same_figures_to_the_digit(tmp_path: Path) -> None:
    workload = tiny_workload()
    best = best_mapping(workload, SpikexArch(rows=3))
    text = "\n".join(f"{key} = {toml_value(item)}" for key, item in machine_keys(best.arch).items())
    path = tmp_path / "arch.toml"
    path.write_text(text, encoding="utf-8")
    again = evaluate(workload, load_machine(str(path))[1])
    assert (again.energy_per_inference_j, again.latency_per_inference_s, again.edp_js) == (
        best.energy_j, best.latency_s, best.edp_js
    )  # fmt: skip


def test_the_machines_own_mapping_does_not_matter() -> None:
    workload, cache = tiny_workload(), ScheduleCache()
    one = best_mapping(workload, SpikexArch(), FEW, cache=cache)
    tables = SpikexArch(window={"elsewhere": 3}, dispatch="ptb", order="interleave", merge=4)
    assert best_mapping(workload, tables, FEW, cache=cache) == one


def test_layers_that_agree_share_one_value() -> None:
    same = {"a": LayerMapping(2, "ptb", "raster", 2), "b": LayerMapping(2, "agile", "raster", 2)}
    assert mapped(SpikexArch(), same) == SpikexArch(window=2, dispatch={"a": "ptb", "b": "agile"}, merge=2)


def test_the_best_global_window_is_the_best_of_all() -> None:
    workload, cache = tiny_workload(), ScheduleCache()
    arch = SpikexArch(dispatch="ptb", merge=2)
    objectives: tuple[Objective, ...] = ("edp", "energy", "latency")
    for objective in objectives:
        best = best_global_window(workload, arch, (8, 1, 2), objective=objective, cache=cache)
        tried = [evaluate(workload, dataclasses.replace(arch, window=w)) for w in (1, 2, 8)]
        assert value(best.report, objective) == min(value(x, objective) for x in tried)
        assert best.report == evaluate(workload, best.arch)
        assert (best.arch.dispatch, best.arch.merge, best.counted) == ("ptb", 2, 6)
        assert best_mapping(workload, arch, MappingChoices((1, 2, 8)), cache=cache).edp_js <= best.edp_js


@pytest.mark.parametrize(
    ("fields", "complains"),
    [
        ({"windows": ()}, "window: got no value"),
        ({"windows": (0,)}, "window: got 0"),
        ({"dispatches": ("agle",)}, "dispatch: got 'agle', expected one of agile"),
        ({"orders": (3,)}, "order: got 3"),
        ({"merges": (65,)}, "merge: got 65"),
    ],
)
def test_impossible_choices_are_refused(fields: dict[str, tuple[object, ...]], complains: str) -> None:
    with pytest.raises(ConfigError, match=complains):
        MappingChoices(**fields)  # type: ignore[arg-type]


def test_what_does_not_go_together_is_refused_before_counting() -> None:
    workload = tiny_workload()
    with pytest.raises(ConfigError, match="zskip"):
        best_mapping(workload, SpikexArch(step="zskip"), MappingChoices(dispatches=("agile", "dense")))
    with pytest.raises(ConfigError, match="objective: got 'area'"):
        best_mapping(workload, SpikexArch(), objective="area")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="windows: got none"):
        best_global_window(workload, SpikexArch(), ())
    pool = dataclasses.replace(workload.layers[0], kind="maxpool2d")
    with pytest.raises(MappingError, match="maxpool2d"):
        best_mapping(dataclasses.replace(workload, layers=(pool,)), SpikexArch())
