"""The slow SpikeX reference against the closed form, hand-worked examples, physical facts and the NumPy version."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from .cases import knob_sets, layer_cases, membrane_cases
from .spikex import COUNT_KEYS, Knobs, LayerCase, Levels, TileRun, count, simulate

cases = layer_cases() | layer_cases() | membrane_cases()
fuzz = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def linear(features: list[list[int]], out_channels: int = 1, **fields: Any) -> LayerCase:
    """Build a linear layer from the levels of each input feature over time."""
    steps = len(features[0])
    levels = [[[[feature[t]]] for feature in features] for t in range(steps)]
    return dataclasses.replace(LayerCase(levels, out_channels, (1, 1), (1, 1), (0, 0)), **fields)


def pointwise(positions: list[list[int]], out_channels: int = 1, **fields: Any) -> LayerCase:
    """Build a 1x1 convolution over one channel and one row of positions, from the levels of each position over time."""
    steps = len(positions[0])
    levels = [[[[position[t] for position in positions]]] for t in range(steps)]
    return dataclasses.replace(LayerCase(levels, out_channels, (1, 1), (1, 1), (0, 0)), **fields)


def starts(case: LayerCase, knobs: Knobs) -> list[int]:
    return [run.start for run in simulate(case, knobs)[0]]


def columns(case: LayerCase, knobs: Knobs) -> list[tuple[str, tuple[tuple[int, int], ...]]]:
    return [(run.tile.mode, run.tile.columns) for run in simulate(case, knobs)[0] if run.group == 0]


# ---- closed form and the empty case


@settings(max_examples=60, deadline=None)
@given(
    out_channels=st.integers(1, 9),
    channels=st.integers(1, 3),
    height=st.integers(1, 3),
    width=st.integers(1, 3),
    side=st.integers(1, 2),
    rows=st.integers(1, 4),
    cols=st.integers(1, 5),
    window=st.integers(1, 4),
    chunks=st.integers(1, 3),
    tag_width=st.sampled_from((1, 64)),
)
def test_closed_form(
    out_channels: int,
    channels: int,
    height: int,
    width: int,
    side: int,
    rows: int,
    cols: int,
    window: int,
    chunks: int,
    tag_width: int,
) -> None:
    height, width = max(height, side), max(width, side)
    fan_in = channels * side * side
    assume(fan_in * window >= cols - 1)
    steps = cols * window * chunks
    levels = [[[[1] * width for _ in range(height)] for _ in range(channels)] for _ in range(steps)]
    case = LayerCase(levels, out_channels, (side, side), (1, 1), (0, 0))
    knobs = Knobs(rows=rows, cols=cols, window=window, decay="free", tag_width=tag_width)
    positions = (height - side + 1) * (width - side + 1)
    groups = -(-out_channels // rows)
    rows_last = out_channels - rows * (groups - 1)
    tile = fan_in * window + cols * window - (cols - 1)
    # the form takes the last filter group as the last to end: the rows it lacks are made up by its tiles
    assume(groups == 1 or positions * chunks * tile >= rows - rows_last)
    expected = groups * positions * chunks * tile + (rows_last - 1) + (cols - 1)
    assert count(case, knobs)["array.cycles"] == expected


@fuzz
@given(cases, knob_sets())
def test_silence_has_no_tile_except_for_dense(case: LayerCase, knobs: Knobs) -> None:
    silent = dataclasses.replace(
        case,
        levels=[[[[0 for _ in row] for row in plane] for plane in step] for step in case.levels],
        has_bias=False,
        reset="hard",
    )
    n = count(silent, knobs)
    assert n["pe.add"] == 0
    assert n["tile.tags"] == 0
    if knobs.dispatch == "dense":
        assert n["tile.count"] > 0
        assert n["array.cycles"] > 0
    else:
        for key in ("array.cycles", "tile.count", "pe.update", "lbuf_weight.read", "lbuf_act.read", "vmem.read"):
            assert n[key] == 0
        assert n["glb_act.read"] > 0


# ---- facts that no knob changes


@fuzz
@given(cases, knob_sets(), knob_sets())
def test_additions_do_not_depend_on_the_machine(case: LayerCase, one: Knobs, other: Knobs) -> None:
    assert count(case, one)["pe.add"] == count(case, other)["pe.add"] == direct_additions(case)


def direct_additions(case: LayerCase) -> int:
    """Sum the bits of the input over time times the non-zero weights that read them."""
    channels, height, width = len(case.levels[0]), len(case.levels[0][0]), len(case.levels[0][0][0])
    c_each, k_each = channels // case.groups, case.out_channels // case.groups
    (r_size, s_size), (dr, ds) = case.kernel, case.dilation
    p_size = (height + 2 * case.padding[0] - dr * (r_size - 1) - 1) // case.stride[0] + 1
    q_size = (width + 2 * case.padding[1] - ds * (s_size - 1) - 1) // case.stride[1] + 1
    total = 0
    for k in range(case.out_channels):
        for c in range(c_each):
            for r in range(r_size):
                for s in range(s_size):
                    if case.weights is not None and case.weights[k][c][r][s] == 0:
                        continue
                    for p in range(p_size):
                        for q in range(q_size):
                            h = p * case.stride[0] + r * dr - case.padding[0]
                            w = q * case.stride[1] + s * ds - case.padding[1]
                            if 0 <= h < height and 0 <= w < width:
                                for step in case.levels:
                                    total += abs(step[k // k_each * c_each + c][h][w]).bit_count()
    return total


@fuzz
@given(cases, knob_sets())
def test_counts_are_consistent(case: LayerCase, knobs: Knobs) -> None:
    n = count(case, knobs)
    assert tuple(sorted(n)) == tuple(sorted(COUNT_KEYS))
    assert all(type(value) is int and value >= 0 for value in n.values())
    assert n["tile.tags"] <= n["tile.slots"]
    assert n["tile.steps"] <= n["tile.synapses"] <= n["tile.steps"] * knobs.merge
    assert n["cycles"] >= max(n["array.cycles"], n["dram.cycles"])
    assert n["glb_weight.write"] == n["dram_weight.read"]
    assert n["glb_act.write"] == n["dram_act.read"]
    assert n["lbuf_weight.write"] == n["glb_weight.read"]
    assert n["lbuf_act.write"] == n["glb_act.read"]
    if case.groups == 1:
        assert n["cycles"] == max(n["array.cycles"], n["dram.cycles"])
        dram_bits = n["dram_weight.read"] + n["dram_act.read"] + n["dram_out.write"]
        seconds = Fraction(dram_bits) / (8 * Fraction(str(knobs.dram_bandwidth_gb_s)) * 10**9)
        cycles = seconds * Fraction(str(knobs.clock_mhz)) * 10**6
        assert n["dram.cycles"] - 1 < cycles <= n["dram.cycles"]


@fuzz
@given(cases, knob_sets())
def test_every_window_is_updated_at_most_once(case: LayerCase, knobs: Knobs) -> None:
    dense = count(case, dataclasses.replace(knobs, dispatch="dense", step="serial"))
    skipped = count(case, dataclasses.replace(knobs, decay="free"))
    assert skipped["pe.update"] <= dense["pe.update"]
    assert skipped["pe.leak"] == 0
    every = dataclasses.replace(case, has_bias=True)
    assert count(every, knobs)["pe.update"] == dense["pe.update"]
    assert count(every, knobs)["pe.leak"] == 0


@fuzz
@given(cases, knob_sets())
def test_what_the_order_does_not_change(case: LayerCase, knobs: Knobs) -> None:
    timing = {"array.cycles", "cycles"}
    raster = count(case, dataclasses.replace(knobs, order="raster"))
    interleave = count(case, dataclasses.replace(knobs, order="interleave"))
    assert {k: v for k, v in raster.items() if k not in timing} == {
        k: v for k, v in interleave.items() if k not in timing
    }


@fuzz
@given(cases, knob_sets())
def test_groups_add_up(case: LayerCase, knobs: Knobs) -> None:
    channels, k_each = len(case.levels[0]) // case.groups, case.out_channels // case.groups
    total = dict.fromkeys(COUNT_KEYS, 0)
    for g in range(case.groups):
        part = dataclasses.replace(
            case,
            groups=1,
            out_channels=k_each,
            levels=[step[g * channels : (g + 1) * channels] for step in case.levels],
            weights=case.weights and case.weights[g * k_each : (g + 1) * k_each],
            out=case.out and [step[g * k_each : (g + 1) * k_each] for step in case.out],
        )
        for key, value in count(part, knobs).items():
            total[key] += value
    assert total == count(case, knobs)


# ---- the cycle law is a machine that can exist


@fuzz
@given(cases, knob_sets())
def test_no_pe_does_two_things_at_once(case: LayerCase, knobs: Knobs) -> None:
    for runs in simulate(case, knobs):
        free_from: dict[tuple[int, int], int] = {}
        for run in runs:
            for row in range(run.rows):
                for j in range(len(run.tile.columns)):
                    begin = run.start + row + j
                    integrated = begin + run.integrate_cycles
                    update = run.start + row + run.update_offsets[j]
                    assert begin >= free_from.get((row, j), 0)
                    assert update >= integrated
                    free_from[row, j] = run.update_end(j) + row


@fuzz
@given(cases, knob_sets())
def test_each_membrane_advances_in_window_order(case: LayerCase, knobs: Knobs) -> None:
    for runs in simulate(case, knobs):
        last: dict[tuple[int, int], tuple[int, int]] = {}
        for run in runs:
            for j, (x, o) in enumerate(run.tile.columns):
                before, final = last.get((run.group, x), (-1, 0))
                assert o > before
                assert run.start + run.update_offsets[j] >= final
                last[run.group, x] = (o, run.update_end(j))


@fuzz
@given(cases, knob_sets())
def test_filter_groups_share_the_schedule(case: LayerCase, knobs: Knobs) -> None:
    def shape(run: TileRun) -> tuple[object, ...]:
        return run.tile, run.steps, run.step_costs, run.leaks

    if knobs.weight_skip == "off":
        for runs in simulate(case, knobs):
            groups = {run.group for run in runs}
            first = [shape(run) for run in runs if run.group == 0]
            for group in groups:
                assert [shape(run) for run in runs if run.group == group] == first


# ---- worked by hand


def test_merge_is_first_fit() -> None:
    # tag vectors over the three windows: 100, 010, 110, 001
    case = linear([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1]])
    knobs = Knobs(cols=3, window=1)
    steps = {merge: simulate(case, dataclasses.replace(knobs, merge=merge))[0][0].steps for merge in (1, 2, 3)}
    assert steps == {1: ((0,), (1,), (2,), (3,)), 2: ((0, 1), (2, 3)), 3: ((0, 1, 3), (2,))}
    n = count(case, dataclasses.replace(knobs, merge=2))
    assert n["array.cycles"] == 2 + 3  # two steps, then three updates hop along the row
    assert n["lbuf_weight.read"] == 4 * 8
    assert n["lbuf_act.read"] == 2 * 3
    assert n["pe.add"] == 5
    assert (n["tile.tags"], n["tile.slots"]) == (5, 12)
    assert (n["vmem.read"], n["vmem.write"]) == (16, 16)


def test_ready_waits_for_the_membrane() -> None:
    # T_int = 1, three updates of one cycle: b = 1, 2, 3, end 4, advance 2; the next tile of x may update from 4: s = 3
    knobs = Knobs(cols=3, window=1)
    case = pointwise([[1] * 6])
    assert starts(case, knobs) == [0, 3]
    assert count(case, knobs)["array.cycles"] == 7


def test_interleave_hides_the_membrane() -> None:
    case = pointwise([[1] * 6, [1] * 6])
    raster, interleave = Knobs(cols=3, window=1), Knobs(cols=3, window=1, order="interleave")
    assert [c[0][0] for _, c in columns(case, raster)] == [0, 0, 1, 1]
    assert starts(case, raster) == [0, 3, 5, 8]
    assert count(case, raster)["array.cycles"] == 12
    assert [c[0][0] for _, c in columns(case, interleave)] == [0, 1, 0, 1]
    assert starts(case, interleave) == [0, 2, 4, 6]
    assert count(case, interleave)["array.cycles"] == 10


def test_interleave_ranks_tiles_not_windows() -> None:
    # ptb: position 0 has its first active group late, yet it is its tile of rank 0
    case = pointwise([[0, 0, 1, 0], [1, 0, 1, 0]])
    knobs = Knobs(cols=2, window=1, dispatch="ptb", order="interleave")
    assert columns(case, knobs) == [("A", ((0, 2), (0, 3))), ("A", ((1, 0), (1, 1))), ("A", ((1, 2), (1, 3)))]


def test_waves_of_mode_b() -> None:
    case = pointwise([[1, 1, 1], [0, 0, 1], [1, 0, 0]], out_channels=3)
    knobs = Knobs(rows=2, cols=2, window=1)
    assert columns(case, knobs) == [("A", ((0, 0), (0, 1))), ("B", ((0, 2), (1, 2))), ("B", ((2, 0),))]
    # group 0: A ends at 3, advance 2; B at 2 (its membrane is final at 3 = 2 + b), advance 2; B at 4, advance 2
    assert starts(case, knobs) == [0, 2, 4, 6, 8, 10]
    n = count(case, knobs)
    assert n["array.cycles"] == 12  # group 1 has one row: 10 + 2
    assert n["vmem.read"] == (1 + 2 + 1) * 3 * 16
    assert n["pe.update"] == 5 * 3
    assert n["pe.add"] == 5 * 3
    assert n["pe.leak"] == 0


def test_two_waves_wait_for_each_other() -> None:
    # two windows are left over at position 0, one at position 1
    case = pointwise([[1, 1, 1, 1], [0, 0, 1, 1]])
    knobs = Knobs(cols=3, window=2)
    assert columns(case, knobs) == [("B", ((0, 0), (1, 1))), ("B", ((0, 1),))]
    # wave 0: T_int 2, b = 2, 3, ends 4, 5, advance 4; wave 1: ready = 4 - 2 = 2 < 4
    assert starts(case, knobs) == [0, 4]
    assert count(case, knobs)["array.cycles"] == 8


def test_wave_waits_for_an_a_tile() -> None:
    # A: T_int 1, b = 1 .. 4, end 5, advance 1 + 4 - 3 = 2; the leftover window updates from its b = 1: ready = 5 - 1
    case = pointwise([[1] * 5])
    assert columns(case, Knobs(cols=4, window=1))[1] == ("B", ((0, 4),))
    assert starts(case, Knobs(cols=4, window=1)) == [0, 4]


def test_wave_waits_when_the_neuron_changes_column() -> None:
    # wave 0 holds position 2 in column 2, which ends at 1 + 2 + 1 = 4; in wave 1 its b is 1: ready 3, advance only 2
    case = pointwise([[1, 0], [1, 0], [1, 1]])
    knobs = Knobs(cols=4, window=1)
    assert columns(case, knobs) == [("B", ((0, 0), (1, 0), (2, 0))), ("B", ((2, 1),))]
    assert starts(case, knobs) == [0, 3]
    # wave 1 with an earlier column of the same tile waiting less: the latest counts
    both = pointwise([[1, 1], [1, 0], [1, 1]])
    assert columns(both, knobs)[1] == ("B", ((0, 1), (2, 1)))
    assert starts(both, knobs) == [0, 2]  # position 0: 2 - 1, position 2: 4 - 2


def test_scan_of_the_tags() -> None:
    case = linear([[1, 1]] + [[0, 0]] * 5)  # two waves of one column: T_int 1, D 1, advance 2
    assert starts(case, Knobs(cols=3, window=1, tag_width=64)) == [0, 2]
    assert starts(case, Knobs(cols=3, window=1, tag_width=2)) == [0, 3]
    assert starts(case, Knobs(cols=3, window=1, tag_width=1)) == [0, 6]
    two_groups = dataclasses.replace(case, out_channels=2)
    assert starts(two_groups, Knobs(rows=1, cols=3, window=1, tag_width=1)) == [0, 6, 12, 18]


@pytest.mark.parametrize(("decay", "leak"), [("step", 4), ("table", 1), ("free", 0)])
def test_leak_of_a_gap(decay: str, leak: int) -> None:
    case = linear([[0, 0, 1, 0, 0, 0, 0, 0, 1]], out_channels=3)  # windows of two: 1 and 4 are active, 4 is short
    run = simulate(case, Knobs(cols=2, window=2, decay=decay))[0][0]
    assert run.tile.columns == ((0, 1), (0, 4))
    assert run.leaks == (0, leak)
    assert run.update_steps == (2, 1)
    assert run.update_offsets == (2, 4)
    n = count(case, Knobs(cols=2, window=2, decay=decay))
    assert n["array.cycles"] == 4 + 1 + leak + 2  # two more rows
    assert n["pe.leak"] == 3 * leak
    assert n["pe.update"] == 3 * 3


def test_dispatch_schedules() -> None:
    case = linear([[1, 0, 0, 0, 0, 0, 1, 1]])
    for dispatch, expected in {
        "agile": [("A", (0, 6)), ("B", (7,))],
        "temporal": [("A", (0, 6)), ("A", (7,))],
        "ptb": [("A", (0, 1)), ("A", (6, 7))],
        "dense": [("A", (0, 1)), ("A", (2, 3)), ("A", (4, 5)), ("A", (6, 7))],
    }.items():
        found = columns(case, Knobs(cols=2, window=1, dispatch=dispatch))
        assert [(mode, tuple(o for _, o in c)) for mode, c in found] == expected
    # ptb: windows 2..5 are skipped, 1 was processed although silent
    assert [run.leaks for run in simulate(case, Knobs(cols=2, window=1, dispatch="ptb"))[0]] == [(0, 0), (4, 0)]


def test_levels_and_step_cost() -> None:
    # one window of two levels of three bits: 5 = 101, 3 = 011; a second feature holds 4 = 100
    case = linear([[5, -3], [0, 4]], level_bits=3)
    for adders, step, cost in [
        (1, "serial", (6, 6)),
        (4, "serial", (2, 2)),
        (1, "zskip", (4, 1)),
        (3, "zskip", (2, 1)),
    ]:
        run = simulate(case, Knobs(window=2, adders=adders, step=step))[0][0]
        assert run.step_costs == cost
    n = count(case, Knobs(window=2))
    assert n["pe.add"] == 5
    assert n["lbuf_act.read"] == 2 * 2 * 3
    assert n["glb_act.read"] == 2 + 2 * 2 * 3
    assert count(case, Knobs(window=2, dispatch="dense"))["glb_act.read"] == 2 * 2 * 3


def test_zskip_of_merged_words_takes_the_fullest_column() -> None:
    case = linear([[1, 1, 0, 0], [0, 0, 1, 0]])
    run = simulate(case, Knobs(cols=2, window=2, merge=2, step="zskip"))[0][0]
    assert run.steps == ((0, 1),)
    assert run.step_costs == (2,)


def test_soft_reset_keeps_windows_that_fire() -> None:
    out: Levels = [[[[0]]], [[[0]]], [[[1]]], [[[0]]]]
    features = [[1, 0, 0, 0]]
    knobs = Knobs(cols=1, window=1)

    def windows(**fields: Any) -> list[int]:
        return [c[0][1] for _, c in columns(linear(features, **fields), knobs)]

    assert windows() == [0]
    assert windows(out=out) == [0]
    assert windows(reset="soft", out=out) == [0, 2]
    assert windows(reset="soft") == [0, 1, 2, 3]
    assert windows(has_bias=True, out=out) == [0, 1, 2, 3]
    assert windows(reset="none") == [0]
    silent = simulate(linear(features, reset="soft", out=out), knobs)[0][1]
    assert silent.synapses == ()
    assert silent.integrate_cycles == 0
    assert silent.leaks == (1,)


def test_constant_analog_input() -> None:
    case = linear([[200], [0]], level_bits=8, constant_steps=5)
    n = count(case, Knobs(window=4))
    assert n["array.cycles"] == 8 + 5
    assert n["pe.update"] == 5
    assert n["pe.add"] == 3
    assert n["lbuf_act.read"] == 8
    assert n["dram_act.read"] == 2 + 4 * 8  # one window, one filled word of L levels
    assert n["dram_out.write"] == 5
    out: Levels = [[[[int(t == 4)]]] for t in range(5)]
    assert count(dataclasses.replace(case, out=out), Knobs(window=4))["dram_out.write"] == 2 + 4


def test_weight_skip_drops_synapses_of_a_filter_group() -> None:
    weights: Levels = [[[[1]], [[0]], [[0]]], [[[0]], [[0]], [[2]]], [[[3]], [[0]], [[0]]]]
    case = linear([[1], [1], [1]], out_channels=3, weights=weights)
    off, group = Knobs(rows=2, window=1), Knobs(rows=2, window=1, weight_skip="group")
    assert [run.synapses for run in simulate(case, off)[0]] == [(0, 1, 2), (0, 1, 2)]
    assert [run.synapses for run in simulate(case, group)[0]] == [(0, 2), (0,)]
    for knobs in (off, group):
        assert count(case, knobs)["pe.add"] == 3
    n = count(case, group)
    assert n["lbuf_weight.read"] == 2 * 2 * 8 + 8
    # group 0: 6 + 2 * 8 = 22 bits as bitmask, 2 * 12 as run-length; group 1: 3 + 8 = 11, 12
    assert n["glb_weight.read"] == 22 + 11
    # 0.01 KiB: 20.48 bits hold group 1 only
    small = dataclasses.replace(group, lbuf_kib=0.01)
    assert count(case, small)["glb_weight.read"] == 32 + 11
    # a silent channel is tailored away from the traffic, not from the test of the buffer
    silent = linear([[1], [0], [1]], out_channels=3, weights=weights)
    assert count(silent, group)["glb_weight.read"] == (4 + 16) + (2 + 8)
    assert count(silent, dataclasses.replace(group, tailoring=False))["glb_weight.read"] == 22 + 11


def test_run_length_code() -> None:
    values = [0] * 40 + [7] + [0] * 33  # floor(40 / 16) = 2 padding entries, trailing zeros are free
    weights: Levels = [[[[v]] for v in values]]
    case = linear([[1]] * len(values), weights=weights)
    assert count(case, Knobs(weight_skip="group"))["glb_weight.read"] == 3 * 12
    assert count(case, Knobs(weight_skip="group", glb_kib=0.017))["dram_weight.read"] == 8  # 34.8 bits: as lbuf reads
    # 16 zeros cost a padding entry, 15 do not, and each row starts again
    rows: Levels = [[[[int(c == 16)]] for c in range(40)], [[[int(c == 15)]] for c in range(40)]]
    two = linear([[1]] * 40, out_channels=2, weights=rows)
    assert count(two, Knobs(weight_skip="group"))["glb_weight.read"] == 3 * 12


def test_buffers_and_dram_bound() -> None:
    case = linear([[1, 0, 1], [0, 0, 0]], out_channels=3)
    n = count(case, Knobs(rows=2, cols=1, window=2))
    # words: (1, 0), (1, -) of feature 0, tags of both features
    assert n["glb_act.read"] == 2 * (4 + 2 * 2)
    assert n["dram_act.read"] == 4 + 2 * 2
    assert n["glb_weight.read"] == n["dram_weight.read"] == 8 * 1 * 3
    assert n["dram_out.write"] == 9
    assert n["dram.cycles"] == 1  # 41 bits at 480 bits a cycle
    slow = count(case, Knobs(rows=2, cols=1, window=2, dram_bandwidth_gb_s=0.1, clock_mhz=500))
    assert slow["dram.cycles"] == 26  # 41 / 1.6 = 25.625
    assert slow["cycles"] == max(26, slow["array.cycles"])
    tight = count(case, Knobs(rows=2, cols=1, window=2, lbuf_kib=0.015, glb_kib=0.0035))  # 30.72 and 7.168 bits
    assert tight["glb_weight.read"] == tight["dram_weight.read"] == tight["lbuf_weight.read"] == 2 * 3 * 8
    assert tight["dram_act.read"] == 2 * 8
    exact = count(case, Knobs(rows=2, cols=1, window=2, lbuf_kib=0.015625, glb_kib=0.00390625))  # 32 and 8 bits fit
    assert exact["glb_weight.read"] == 24
    assert exact["dram_act.read"] == 8


def test_dram_cycles_are_exact_at_the_edge() -> None:
    # 4 bits at 0.3 GB/s and 600 MHz are one cycle exactly
    case = linear([[0, 0, 0]])
    n = count(case, Knobs(window=3, dram_bandwidth_gb_s=0.3, clock_mhz=600))
    assert n["dram_act.read"] + n["dram_out.write"] + n["dram_weight.read"] == 4
    assert n["dram.cycles"] == 1
    assert count(case, Knobs(window=3, dram_bandwidth_gb_s=0.2999, clock_mhz=600))["dram.cycles"] == 2


# ---- the NumPy version


def _count_layer() -> Callable[..., dict[str, int]]:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "clear_numpy.py"
    spec = importlib.util.spec_from_file_location("clear_numpy", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function: Callable[..., dict[str, int]] = module.count_layer
    return function


count_layer = _count_layer()


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(layer_cases(binary=True, grouped=False) | membrane_cases(), knob_sets(dispatches=("agile", "ptb")))
def test_numpy_version_agrees(case: LayerCase, knobs: Knobs) -> None:
    knobs = dataclasses.replace(knobs, step="serial", weight_skip="off")
    fields = {
        k: v for k, v in dataclasses.asdict(knobs).items() if k not in ("step", "weight_skip", "psum_bit", "join")
    }
    found = count_layer(
        np.array(case.levels),
        case.out_channels,
        case.kernel,
        case.stride,
        case.padding,
        dilation=case.dilation,
        weight_bits=case.weight_bits,
        reset=case.reset,
        has_bias=case.has_bias,
        weights=None if case.weights is None else np.array(case.weights),
        out_spikes=None if case.out is None else np.array(case.out),
        **fields,
    )
    assert found == count(case, knobs)
    assert all(type(value) is int for value in found.values())
