"""Schedules are counted once and kept; what comes out of a cache is what would have been counted."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloom.codesign.schedules import ScheduleCache
from spikeloom.core.workload import Workload
from spikeloom.errors import FileError
from spikeloom.evaluate import evaluate
from spikeloom.hw.spikex import Spikex, SpikexArch
from tests.codesign.cases import arch_of, tiny_workload, workloads
from tests.reference import spikex as slow
from tests.reference.cases import knob_sets


@settings(max_examples=60, deadline=None)
@given(workloads(), knob_sets(), knob_sets())
def test_counts_are_the_same_with_and_without_a_cache(workload: Workload, a: slow.Knobs, b: slow.Knobs) -> None:
    machine, cache = Spikex(), ScheduleCache()
    for arch in (arch_of(a), arch_of(b), arch_of(a)):
        mapping = machine.map(workload, arch)
        plain = machine.count(workload, arch, mapping, threads=1)
        assert machine.count(workload, arch, mapping, threads=1, cache=cache) == plain


def test_what_follows_in_closed_form_is_not_counted_again() -> None:
    workload, cache = tiny_workload(), ScheduleCache()
    arch = SpikexArch()
    first = evaluate(workload, arch, cache=cache)
    assert cache.counted == len(cache) == 2
    for change in ({"rows": 3}, {"lbuf": 4 * 8192.0}, {"glb": 16 * 8192.0}, {"clock": 1e9}, {"dram_bandwidth": 1e9},
                   {"psum_bit": 12}, {"membrane_bit": 12}, {"table": "cacti32"}, {"tailoring": False}):  # fmt: skip
        changed = dataclasses.replace(arch, **change)
        assert evaluate(workload, changed, cache=cache) == evaluate(workload, changed) != first
    assert cache.counted == 2
    for change in ({"cols": 4}, {"window": 2}, {"dispatch": "ptb"}, {"order": "interleave"}, {"merge": 2}, {"step": "zskip"},
                   {"adders": 2}, {"decay": "table"}, {"tag_width": 4}):  # fmt: skip
        before = cache.counted
        evaluate(workload, dataclasses.replace(arch, **change), cache=cache)
        assert cache.counted > before


def test_skipped_weights_make_schedules_depend_on_the_rows() -> None:
    workload, cache = tiny_workload(), ScheduleCache()
    for rows in (2, 3, 2):
        arch = SpikexArch(rows=rows, weight_skip="group")
        assert evaluate(workload, arch, cache=cache) == evaluate(workload, arch)
    assert cache.counted == 4


def test_a_plain_dict_will_do() -> None:
    workload, cache = tiny_workload(), {}  # type: ignore[var-annotated]
    assert evaluate(workload, SpikexArch(), cache=cache) == evaluate(workload, SpikexArch())
    assert len(cache) == 2


@pytest.mark.parametrize("weight_skip", ["off", "group"])
def test_a_folder_outlives_the_process(tmp_path: Path, weight_skip: str) -> None:
    workload, arch = tiny_workload(), SpikexArch(weight_skip=weight_skip)
    report = evaluate(workload, arch, cache=ScheduleCache(tmp_path))
    again = ScheduleCache(tmp_path)
    assert evaluate(tiny_workload(), arch, cache=again) == report
    assert (again.counted, again.damaged) == (0, [])
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".npz", ".npz"]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_files_are_counted_again_and_replaced(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("kept")
    workload, arch = tiny_workload(), SpikexArch()
    report = evaluate(workload, arch, cache=ScheduleCache(folder))
    path = data.draw(st.sampled_from(sorted(folder.iterdir())))
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    cache = ScheduleCache(folder)
    assert evaluate(workload, arch, cache=cache) == report
    assert all("\n" not in text and path.name in text for text in cache.damaged)
    assert cache.counted == len(cache.damaged)
    again = ScheduleCache(folder)
    evaluate(workload, arch, cache=again)
    assert again.counted == 0


def test_a_file_under_another_name_is_not_taken(tmp_path: Path) -> None:
    workload, arch = tiny_workload(), SpikexArch()
    report = evaluate(workload, arch, cache=ScheduleCache(tmp_path))
    one, other = sorted(tmp_path.iterdir())
    one.write_bytes(other.read_bytes())
    cache = ScheduleCache(tmp_path)
    assert evaluate(workload, arch, cache=cache) == report
    assert cache.counted == 1
    assert "is another schedule's" in cache.damaged[0]


def test_a_folder_that_cannot_be_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileError, match="cannot be created"):
        ScheduleCache(tmp_path / "file" / "kept")


def test_kept_arrays_are_the_counted_ones(tmp_path: Path) -> None:
    workload, arch = tiny_workload(), SpikexArch(weight_skip="group")
    fresh, machine = ScheduleCache(tmp_path), Spikex()
    for layer in machine.runs(workload, arch).layers:
        choice = machine.map(workload, arch).layers[layer.name]
        counted = machine.scheduled(layer, arch, (choice,), cache=fresh)[0].found[0]
        kept = machine.scheduled(layer, arch, (choice,), cache=ScheduleCache(tmp_path))[0].found[0]
        for name in ("totals", "filled", "channels"):
            np.testing.assert_array_equal(getattr(kept, name), getattr(counted, name))
        assert (kept.steps, kept.level_bits, kept.additions) == (counted.steps, counted.level_bits, counted.additions)
