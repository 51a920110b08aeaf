"""Sums that meet in the neurons of another layer on the time-batched array: the slow reference, laws, and a network of a framework."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from spikeloom.codesign.schedules import ScheduleCache
from spikeloom.core.counts import Counts
from spikeloom.core.network import Network
from spikeloom.core.nodes import IF, Conv2d, Input, Output, SumPool2d
from spikeloom.core.trace import Levels, Spikes, SpikeTrace
from spikeloom.core.workload import Layer, NeuronRule, Workload
from spikeloom.errors import MappingError
from spikeloom.evaluate import evaluate, load_machine
from spikeloom.hw.spikex import Spikex, SpikexArch
from spikeloom.lower import lower
from spikeloom.studies.shares import share_of, shares
from tests.hw.test_spikex import arch_of, layer_of
from tests.reference import spikex as slow
from tests.reference.cases import joined_cases, knob_sets, layer_cases

thorough = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
SKIPPING = ("agile", "temporal", "ptb")
NONE = NeuronRule("none", None, "none")


def layers_of(owners: Sequence[slow.LayerCase]) -> tuple[Layer, ...]:
    """The branches, named branch0 and branch1, and their owner, whose samples are the given cases."""
    branches = tuple(
        dataclasses.replace(layer_of(list(cases)), name=f"branch{k}", neuron=NONE, joins="owner")
        for k, cases in enumerate(zip(*(owner.branches for owner in owners), strict=True))
    )
    return (*branches, dataclasses.replace(layer_of(list(owners)), name="owner", branches=branches))


def workload_of(*owners: slow.LayerCase) -> Workload:
    layers = layers_of(owners)
    return Workload(layers, layers[0].num_steps, layers[0].num_samples)


def counted(workload: Workload, arch: SpikexArch) -> Counts:
    return Spikex().count(workload, arch, Spikex().map(workload, arch), threads=1)


def flat(counts: Counts, layer: str) -> dict[str, int]:
    return {**counts.of(layer), "cycles": counts.layer_cycles[layer]}


def without_tiles(counts: dict[str, int]) -> dict[str, int]:
    return {key: value for key, value in counts.items() if not key.startswith("tile.")}


@st.composite
def machines(draw: st.DrawFn, number: int) -> list[slow.Knobs]:
    """The same machine for ``number`` layers, each with a mapping of its own; with ``join = "tile"`` they share the window."""
    first = draw(knob_sets())
    first = dataclasses.replace(
        first, psum_bit=draw(st.sampled_from((16, 12, 5))), join=draw(st.sampled_from(("layer", "layer", "tile")))
    )
    found = [first]
    for _ in range(number - 1):
        other = draw(knob_sets(dispatches=SKIPPING if first.step == "zskip" else (*SKIPPING, "dense")))
        window = first.window if first.join == "tile" else other.window
        found.append(
            dataclasses.replace(first, window=window, dispatch=other.dispatch, order=other.order, merge=other.merge)
        )
    if first.dispatch != "dense" and any(knobs.dispatch == "dense" for knobs in found):
        found = [dataclasses.replace(knobs, step="serial") for knobs in found]
    return found


def together(knobs: Sequence[slow.Knobs], layers: Sequence[Layer]) -> SpikexArch:
    """One machine with a mapping for every layer."""
    fields: dict[str, Any] = {
        name: {layer.name: getattr(each, name) for layer, each in zip(layers, knobs, strict=True)}
        for name in ("window", "dispatch", "order", "merge")
    }
    return dataclasses.replace(arch_of(knobs[0]), **fields)


@thorough
@given(joined_cases(), st.data())
def test_every_count_equals_the_nested_loops(owner: slow.LayerCase, data: st.DataObject) -> None:
    workload = workload_of(owner)
    knobs = data.draw(machines(len(workload.layers)))
    counts = counted(workload, together(knobs, workload.layers))
    for layer, case, each in zip(workload.layers, (*owner.branches, owner), knobs, strict=True):
        expected = slow.count(case, each)
        tile = {key: expected.pop(f"tile.{key}") for key in ("count", "synapses", "steps", "tags", "slots")}
        assert flat(counts, layer.name) == expected
        found = {name: value for (where, name), value in counts.statistics.items() if where == layer.name}
        assert tile == {
            "count": found["tiles"],
            **{key: found[key] for key in ("synapses", "steps", "tags", "slots")},
        }


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(joined_cases(constant=False), knob_sets(), st.integers(2, 3))
def test_samples_add_in_any_order(owner: slow.LayerCase, knobs: slow.Knobs, samples: int) -> None:
    def turned(case: slow.LayerCase, k: int) -> slow.LayerCase:
        at = k % len(case.levels) if case.constant_steps is None else 0
        return dataclasses.replace(case, levels=case.levels[at:] + case.levels[:at])

    owners = [
        dataclasses.replace(turned(owner, k), branches=tuple(turned(branch, k + 1) for branch in owner.branches))
        for k in range(samples)
    ]
    arch = arch_of(knobs)
    counts = counted(workload_of(*owners), arch)
    single = [counted(workload_of(one), arch) for one in owners]
    for layer in counts.layers():
        for key, value in flat(counts, layer).items():
            assert value == sum(flat(one, layer)[key] for one in single)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(joined_cases(), joined_cases(), knob_sets())
def test_kept_schedules_know_the_branches(owner: slow.LayerCase, other: slow.LayerCase, knobs: slow.Knobs) -> None:
    """A schedule of the layer alone, or with another branch, is not taken for its own."""
    arch, cache = arch_of(knobs), ScheduleCache()
    cases = [
        owner,
        dataclasses.replace(owner, branches=()),
        other,
        dataclasses.replace(owner, branches=owner.branches[:1]),
    ]
    for case in cases:
        workload = workload_of(case)
        kept = Spikex().count(workload, arch, Spikex().map(workload, arch), threads=1, cache=cache)
        assert kept == counted(workload, arch)


# ---- laws


def owner_alone(owner: slow.LayerCase) -> slow.LayerCase:
    return dataclasses.replace(owner, branches=())


def silent(case: slow.LayerCase) -> slow.LayerCase:
    zeros = np.zeros(np.shape(case.levels), int).tolist()
    return dataclasses.replace(case, levels=zeros, has_bias=False)


def joins_of(owner: slow.LayerCase, knobs: slow.Knobs) -> dict[str, int]:
    """What an owner does besides where its branches change nothing else: b n read and n joins a branch, and DRAM where too few fit."""
    layer = layers_of([owner])[-1]
    sums = layer.K * layer.P * layer.Q * layer.num_steps * len(owner.branches)
    kept = knobs.psum_bit * layer.K * layer.P * layer.Q * layer.num_steps
    found = {"pe.join": sums, "glb_psum.read": knobs.psum_bit * sums}
    if kept > arch_of(knobs).glb / 4:
        found |= {"dram_psum.read": knobs.psum_bit * sums, "glb_psum.write": knobs.psum_bit * sums}
    return found


def check_alone_but_for_joins(owner: slow.LayerCase, knobs: slow.Knobs) -> None:
    found = flat(counted(workload_of(owner), arch_of(knobs)), "owner")
    expected = flat(counted(workload_of(owner_alone(owner)), arch_of(knobs)), "owner")
    for counts in (found, expected):  # bits on the DRAM bus take their cycles
        del counts["dram.cycles"], counts["cycles"]
    assert found == expected | joins_of(owner, knobs)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(joined_cases(), knob_sets())
def test_a_branch_without_spikes_or_bias_adds_its_sums_and_nothing_else(
    owner: slow.LayerCase, knobs: slow.Knobs
) -> None:
    """Law (a)."""
    quiet = dataclasses.replace(owner, branches=tuple(silent(branch) for branch in owner.branches))
    check_alone_but_for_joins(quiet, knobs)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(joined_cases(), knob_sets(dispatches=("dense",)))
def test_without_skipping_no_branch_changes_when_its_owner_works(owner: slow.LayerCase, knobs: slow.Knobs) -> None:
    """Law (b), whatever the weights."""
    check_alone_but_for_joins(owner, knobs)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(joined_cases(), knob_sets(dispatches=SKIPPING), st.sampled_from((0, 1)))
def test_where_silence_is_skipped_weights_do_not_matter(owner: slow.LayerCase, knobs: slow.Knobs, value: int) -> None:
    """Law (b) elsewhere: the owner works wherever the branch's field does."""

    def weighing(branch: slow.LayerCase) -> slow.LayerCase:
        shape = (branch.out_channels, len(branch.levels[0]) // branch.groups, *branch.kernel)
        return dataclasses.replace(branch, weights=np.full(shape, value).tolist())

    same = dataclasses.replace(owner, branches=tuple(weighing(branch) for branch in owner.branches))
    arch = arch_of(knobs)
    assert flat(counted(workload_of(same), arch), "owner") == flat(counted(workload_of(owner), arch), "owner")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(layer_cases(grouped=False), knob_sets(), st.integers(1, 5))
def test_a_convolution_split_over_its_channels_works_as_often(
    case: slow.LayerCase, knobs: slow.Knobs, first: int
) -> None:
    """Law (c): same adds, updates and tiles."""
    channels = len(case.levels[0])
    assume(first < channels)

    def part(chosen: slice, **fields: Any) -> slow.LayerCase:
        weights = None if case.weights is None else [filters[chosen] for filters in case.weights]
        return dataclasses.replace(case, levels=[step[chosen] for step in case.levels], weights=weights, **fields)

    branch = part(slice(0, first), joined=True, has_bias=False, out=None, reset="none")
    owner = part(slice(first, channels), branches=(branch,))
    arch = arch_of(knobs)
    split, whole = counted(workload_of(owner), arch), counted(workload_of(case), arch)
    for action in (("pe", "add"), ("pe", "update")):
        assert split.total(*action) == whole.total(*action)
    assert split.statistics["owner", "tiles"] == whole.statistics["owner", "tiles"]
    assert split.total("dram_out", "write") == whole.total("dram_out", "write")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(joined_cases(), st.data())
def test_what_is_written_is_read(owner: slow.LayerCase, data: st.DataObject) -> None:
    """Law (d), in either memory."""
    workload = workload_of(owner)
    counts = counted(workload, together(data.draw(machines(len(workload.layers))), workload.layers))
    for memory in ("glb_psum", "dram_psum"):
        assert counts.total(memory, "write") == counts.total(memory, "read")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(joined_cases(), st.integers(1, 6), st.sampled_from(("hard", "soft")), st.integers(0, 3), st.integers(1, 40))
def test_updating_only_where_a_field_holds_a_level_gives_the_spikes_of_the_network(
    owner: slow.LayerCase, window: int, reset: str, shift: int, threshold: int
) -> None:
    """Law (e), in integers: v = u - (u >> k) + sum in every step, or in those of active windows and the leak alone in others."""
    rng = np.random.default_rng(threshold)
    parts = [owner, *owner.branches]
    weights = [rng.integers(-9, 10, (p.out_channels, len(p.levels[0]) // p.groups, *p.kernel)) for p in parts]
    sums_TKPQ = sum((sums_of(part, weight) for part, weight in zip(parts, weights, strict=True)), np.int64(0))
    biased = any(part.has_bias for part in parts)
    sums_TKPQ = sums_TKPQ + 3 * biased

    def spikes(works_TKPQ: np.ndarray) -> np.ndarray:
        u = np.zeros(sums_TKPQ.shape[1:], np.int64)
        fired = np.zeros(sums_TKPQ.shape, bool)
        for t, sums in enumerate(sums_TKPQ):
            v = u - ((u >> shift) if shift else 0) + np.where(works_TKPQ[t], sums, 0)
            fired[t] = (v >= threshold) & works_TKPQ[t]
            u = np.where(fired[t], v - threshold if reset == "soft" else 0, v)
        return fired

    whole = spikes(np.ones(sums_TKPQ.shape, bool))
    known = dataclasses.replace(owner, reset=reset, out=whole.astype(int).tolist(), weights=weights[0].tolist())
    works = np.zeros(sums_TKPQ.shape, bool)
    each = owner.out_channels // owner.groups
    for g, part in enumerate(slow._convolutions(known, slow.Knobs(window=window))):
        for x, of_position in enumerate(part.active):
            p, q = divmod(x, part.Q)
            for o, active in enumerate(of_position):
                works[part.output_steps(o), g * each : (g + 1) * each, p, q] = active
    assert np.array_equal(spikes(works), whole)


def sums_of(case: slow.LayerCase, weights: np.ndarray) -> np.ndarray:
    """Partial sums by nested loops; int64, (T, K, P, Q)."""
    levels = np.array(case.levels)
    if case.constant_steps is not None:
        levels = np.repeat(levels, case.constant_steps, axis=0)
    _, C, H, W = levels.shape
    P, Q = (
        ((H, W)[a] + 2 * case.padding[a] - case.dilation[a] * (case.kernel[a] - 1) - 1) // case.stride[a] + 1
        for a in (0, 1)
    )
    c_each, k_each = C // case.groups, case.out_channels // case.groups
    found = np.zeros((len(levels), case.out_channels, P, Q), np.int64)
    for k, c, r, s in np.ndindex(weights.shape):
        channel = k // k_each * c_each + c
        for p in range(P):
            for q in range(Q):
                h = p * case.stride[0] - case.padding[0] + r * case.dilation[0]
                w = q * case.stride[1] - case.padding[1] + s * case.dilation[1]
                if 0 <= h < H and 0 <= w < W:
                    found[:, k, p, q] += levels[:, channel, h, w] * weights[k, c, r, s]
    return found
