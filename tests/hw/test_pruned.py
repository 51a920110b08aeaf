"""Zero weights on the machine: not stored, not fetched, not added, and the report says in which code the rest is stored."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloom.core.trace import Levels, Spikes
from spikeloom.core.workload import Layer, Workload
from spikeloom.hw.memory import RUN_BITS, code_bits, storage_note, stored_weight_bits
from spikeloom.hw.spikex import SpikexArch
from tests.hw.test_spikex import arch_of, binary_layer, fast_counts, flat, layer_of
from tests.reference import spikex as slow
from tests.reference.cases import knob_sets, layer_cases

Weights = slow.Levels


def pruned_weights(rng: random.Random, shape: tuple[int, int, int, int], sparsity: float, pattern: str) -> Weights:
    """Weights [K][C][R][S] of which a share is zero: single ones, input channels, filters or kernel positions."""
    K, C, R, S = shape
    part = {"single": None, "channel": C, "filter": K, "position": R * S}[pattern]
    gone = set() if part is None else set(rng.sample(range(part), int(sparsity * part)))

    def zero(k: int, c: int, r: int, s: int) -> bool:
        return {
            "single": lambda: rng.random() < sparsity,
            "channel": lambda: c in gone,
            "filter": lambda: k in gone,
            "position": lambda: r * S + s in gone,
        }[pattern]()

    return [
        [[[0 if zero(k, c, r, s) else rng.choice((-3, 2)) for s in range(S)] for r in range(R)] for c in range(C)]
        for k in range(K)
    ]


@settings(max_examples=150, deadline=None)
@given(
    layer_cases(constant=False),
    knob_sets(),
    st.sampled_from((0.0, 0.8, 1.0)),
    st.sampled_from(("single", "channel", "filter", "position")),
    st.integers(0, 2**16),
)
def test_pruned_layers_equal_the_nested_loops(
    case: slow.LayerCase, knobs: slow.Knobs, sparsity: float, pattern: str, seed: int
) -> None:
    shape = (case.out_channels, len(case.levels[0]) // case.groups, *case.kernel)
    case = dataclasses.replace(case, weights=pruned_weights(random.Random(seed), shape, sparsity, pattern))
    knobs = dataclasses.replace(knobs, weight_skip="group")
    expected = {key: value for key, value in slow.count(case, knobs).items() if not key.startswith("tile.")}
    assert flat(fast_counts(layer_of([case]), arch_of(knobs))) == expected
    if sparsity == 1.0:
        nothing = ("pe.add", "lbuf_weight.read", "glb_weight.read", "dram_weight.read", "lbuf_act.read")
        assert not any(expected[key] for key in nothing)


@settings(max_examples=30, deadline=None)
@given(layer_cases(constant=False), st.integers(1, 5), st.integers(0, 2**16))
def test_samples_with_other_active_channels_add_up(case: slow.LayerCase, rows: int, seed: int) -> None:
    """Each sample fetches the code of its own channels."""
    shape = (case.out_channels, len(case.levels[0]) // case.groups, *case.kernel)
    case = dataclasses.replace(case, weights=pruned_weights(random.Random(seed), shape, 0.6, "single"))
    cases = []
    for n in range(4):
        silent = set(random.Random(seed + n).sample(range(len(case.levels[0])), len(case.levels[0]) // 2))
        levels = [[[[0 if c in silent else v for v in row] for row in plane] for c, plane in enumerate(step)] for step in case.levels]  # fmt: skip
        cases.append(dataclasses.replace(case, levels=levels))
    knobs = slow.Knobs(rows=rows, weight_skip="group")
    each = [slow.count(one, knobs) for one in cases]
    expected = {key: sum(counts[key] for counts in each) for key in each[0] if not key.startswith("tile.")}
    assert flat(fast_counts(layer_of(cases), arch_of(knobs), threads=2)) == expected


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 5), st.integers(1, 60), st.integers(1, 3), st.integers(1, 9), st.integers(0, 2**16), st.floats(0, 1)
)
def test_both_codes_equal_an_encoder_that_writes_them(
    K: int, number: int, rows: int, bits: int, seed: int, density: float
) -> None:
    """Every entry written out one by one."""
    weight = (np.random.default_rng(seed).random((K, number)) < density).astype(np.int64)
    bitmask, run_length = code_bits(weight, bits, rows)
    for g, start in enumerate(range(0, K, rows)):
        mask, entries = "", []
        for filter_ in weight[start : start + rows].tolist():
            run = 0
            for value in filter_:
                mask += "1" + "w" * bits if value else "0"
                run += 1
                if value:
                    entries += [15] * ((run - 1) // 16) + [(run - 1) % 16]
                    run = 0
        assert bitmask[g] == len(mask)
        assert run_length[g] == len(entries) * (bits + RUN_BITS)


def test_fewer_zeros_favour_the_bitmask_and_the_report_says_which_code_won() -> None:
    weight = np.zeros((6, 4, 3, 3), np.int64)
    weight[:2] = 1  # dense: one bit a weight is less than four
    weight[4:, 0, 0, 0] = 1  # two weights of 72: entries are less than a bit for every position
    layer = binary_layer(C=4, K=6, arrival=Spikes.pack(np.ones((4, 1, 4, 6, 6))), weight=weight)
    np.testing.assert_array_equal(stored_weight_bits(layer, 2), [2 * 36 * 9, 0, 2 * 12])
    assert storage_note([layer], 2) == "weights stored: conv1 as bitmask in 1 of 3 filter groups, run length in 2"
    assert storage_note([layer], 6) == "weights stored: conv1 as bitmask"
    assert storage_note([layer, dataclasses.replace(layer, name="conv2", weight=weight * 0)], 6).endswith(
        "conv1 as bitmask; conv2 as run length"
    )
    counts = fast_counts(dataclasses.replace(layer, name="layer"), SpikexArch(rows=2, weight_skip="group"))
    assert "weights stored: layer as bitmask in 1 of 3 filter groups, run length in 2" in counts.warnings


def test_filter_groups_of_a_grouped_convolution_are_stated_together() -> None:
    weight = np.ones((6, 1, 3, 3), np.int64)
    weight[3:] = 0
    layer = binary_layer(K=6, groups=2, weight=weight)
    counts = fast_counts(dataclasses.replace(layer, name="layer"), SpikexArch(rows=2, weight_skip="group"))
    assert "weights stored: layer as bitmask in 2 of 4 filter groups, run length in 2" in counts.warnings


@pytest.mark.parametrize(("zeros", "told"), [(1, False), (2, True)])
def test_zeros_that_are_not_skipped_are_named_with_the_knob_that_skips_them(zeros: int, told: bool) -> None:
    weight = np.ones((3, 2, 1, 3), np.int64)  # 18 weights; 2 of them are 11 %
    weight.reshape(-1)[:zeros] = 0
    layer = binary_layer(name="layer", R=1, weight=weight, P=6)
    warnings = fast_counts(layer, SpikexArch()).warnings
    found = [warning for warning in warnings if "weight_skip = 'group'" in warning]
    assert bool(found) == told
    assert all("layer (11%)" in warning for warning in found)
    assert not any(
        "zero weights" in warning for warning in fast_counts(layer, SpikexArch(weight_skip="group")).warnings
    )


def test_skipping_without_weights_is_said_to_do_nothing() -> None:
    layer = binary_layer(name="layer")
    counts = fast_counts(layer, SpikexArch(weight_skip="group"))
    assert "weight_skip = 'group' skips nothing in layer: the trace holds no weights" in counts.warnings
    assert flat(counts) == flat(fast_counts(layer, SpikexArch()))


def test_pruned_weights_cost_less_at_every_level() -> None:
    rng = np.random.default_rng(0)
    weight = np.where(rng.random((16, 8, 3, 3)) < 0.9, 0, 1)
    layer = Layer(
        "layer", "conv2d", 8, 16, 6, 6, 3, 3, 4, 4, Spikes.pack(rng.random((8, 2, 8, 6, 6)) < 0.3), weight=weight
    )  # fmt: skip
    off, group = (flat(fast_counts(layer, SpikexArch(weight_skip=skip))) for skip in ("off", "group"))
    for key in ("lbuf_weight.read", "glb_weight.read", "dram_weight.read", "array.cycles", "lbuf_act.read"):
        assert group[key] < off[key], key
    for key in ("pe.add", "pe.update", "dram_act.read", "dram_out.write"):
        assert group[key] == off[key], key


# ---- signed levels


@settings(max_examples=60, deadline=None)
@given(layer_cases(), knob_sets())
def test_a_sign_is_one_more_bit_to_move_and_changes_nothing_else(case: slow.LayerCase, knobs: slow.Knobs) -> None:
    """Signed levels against the same magnitudes without a sign."""
    plain = dataclasses.replace(
        case,
        signed=False,
        levels=[[[[abs(v) for v in row] for row in plane] for plane in step] for step in case.levels],
    )
    with_sign = dataclasses.replace(case, signed=True)
    arch = dataclasses.replace(arch_of(knobs), dram_bandwidth=1e13)
    unsigned, signed = (flat(fast_counts(layer_of([one]), arch)) for one in (plain, with_sign))
    moved = {
        "lbuf_act.read",
        "lbuf_act.write",
        "glb_act.read",
        "glb_act.write",
        "dram_act.read",
        "dram.cycles",
        "cycles",
    }
    assert {key for key in signed if signed[key] != unsigned[key]} <= moved
    assert signed["lbuf_act.read"] * case.level_bits == unsigned["lbuf_act.read"] * (case.level_bits + 1)


def test_levels_below_zero_are_counted_and_announced() -> None:
    """One synapse, one neuron, T = 4 in one window: levels -3, 0, 1, -2 have four ones; each level is two bits and a sign."""
    values = np.array([-3, 0, 1, -2], np.int16).reshape(4, 1, 1, 1, 1)
    layer = Layer("layer", "linear", 1, 1, 1, 1, 1, 1, 1, 1, Levels(values, 2, signed=True))
    counts = fast_counts(layer, SpikexArch(window=4))
    found = flat(counts)
    assert found["pe.add"] == 2 + 0 + 1 + 1
    assert found["lbuf_act.read"] == 4 * 3
    assert found["glb_act.read"] == 1 + 4 * 3  # a tag and one word
    assert any("signed levels reach layer" in warning for warning in counts.warnings)
    zskip = flat(fast_counts(layer, SpikexArch(window=4, step="zskip")))
    assert found["array.cycles"] - zskip["array.cycles"] == 4 * 2 - 4


def test_a_workload_of_signed_levels_runs_on_every_preset() -> None:
    values = np.random.default_rng(0).integers(-3, 4, (5, 2, 3, 4, 4)).astype(np.int16)
    layer = Layer("layer", "conv2d", 3, 2, 4, 4, 3, 3, 2, 2, Levels(values, 2, signed=True))
    assert (
        Workload((layer,), 5, 2).id != Workload((dataclasses.replace(layer, arrival=Levels(abs(values), 2)),), 5, 2).id
    )
    for arch in (SpikexArch(), SpikexArch(dispatch="ptb", merge=2), SpikexArch(dispatch="dense", window=1)):
        assert fast_counts(layer, arch).total("pe", "add") > 0
