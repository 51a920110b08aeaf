"""The best mapping against every mapping, each evaluated."""

from __future__ import annotations

import dataclasses
import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloom.codesign.mapping import (
    BestMapping,
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
from spikeloom.evaluate import ARCH_TYPES, PRESETS, evaluate
from spikeloom.files.config import machine_from, machine_keys
from spikeloom.files.schema import read_toml, toml_value
from spikeloom.hw.spikex import SpikexArch
from tests.codesign.cases import tiny_workload, workloads

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
def machines(draw: st.DrawFn) -> SpikexArch:
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
        table=draw(st.sampled_from(("cacti32-hp", "cacti32"))),
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
@given(workloads(max_layers=2), machines(), choices())
def test_nothing_is_better_than_the_best_mapping(workload: Workload, arch: SpikexArch, found: MappingChoices) -> None:
    cache = ScheduleCache()
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


@settings(max_examples=15, deadline=None)
@given(workloads(max_layers=2), machines(), choices())
def test_the_front_is_what_no_mapping_beats(workload: Workload, arch: SpikexArch, found: MappingChoices) -> None:
    cache = ScheduleCache()
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
@given(workloads(), machines(), st.integers(0, 2**16))
def test_the_order_of_the_choices_does_not_matter(workload: Workload, arch: SpikexArch, seed: int) -> None:
    rng, cache = random.Random(seed), ScheduleCache()

    def shuffled(values: tuple[object, ...]) -> tuple[object, ...]:
        return tuple(rng.sample(values, len(values)))

    ordered = MappingChoices((1, 2, 4), ("agile", "ptb", "dense"), ("raster", "interleave"), (1, 2))
    fields = {field.name: shuffled(getattr(ordered, field.name)) for field in dataclasses.fields(ordered)}
    other = MappingChoices(**fields)  # type: ignore[arg-type]
    assert other.options() == ordered.options()
    assert best_mapping(workload, arch, other, cache=cache) == best_mapping(workload, arch, ordered, cache=cache)


def test_a_large_window_pays_for_the_registers_of_all_layers() -> None:
    """With leaking registers and a slow clock the whole machine keeps to the small window that one layer alone would not."""
    workload, cache = tiny_workload(), ScheduleCache()
    both: list[BestMapping] = []
    for layer in (None, "conv1", "fc1"):
        part = workload if layer is None else dataclasses.replace(workload, layers=(workload[layer],))
        both.append(best_mapping(part, SpikexArch(clock=1e6), objective="energy", cache=cache))
    reports = every_report(workload, SpikexArch(clock=1e6), FEW, cache)
    best = best_mapping(workload, SpikexArch(clock=1e6), FEW, objective="energy", cache=cache)
    assert best.energy_j == pytest.approx(min(x.energy_per_inference_j for x in reports), rel=1e-12)
    assert max(w.arch.inventory()[2].copies for w in both[1:]) >= both[0].arch.inventory()[2].copies


def test_a_machine_file_gives_the_same_figures_to_the_digit(tmp_path: object) -> None:
    workload = tiny_workload()
    best = best_mapping(workload, SpikexArch(rows=3))
    text = "\n".join(f"{key} = {toml_value(item)}" for key, item in machine_keys(best.arch).items())
    path = f"{tmp_path}/arch.toml"
    with open(path, "w", encoding="utf-8") as stream:
        stream.write(text)
    again = evaluate(workload, machine_from(read_toml(path), ARCH_TYPES, PRESETS, path))
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
