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
from tests.snn.importers.runs import installed

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


@settings(max_examples=25, deadline=None)
@given(layer_cases(), knob_sets(dispatches=SKIPPING))
def test_a_branch_that_hears_what_its_owner_hears_adds_its_sums_alone(case: slow.LayerCase, knobs: slow.Knobs) -> None:
    """Law (b): the owner works wherever the branch's field does."""
    branch = dataclasses.replace(case, joined=True, has_bias=False, out=None, reset="none", weights=None)
    check_alone_but_for_joins(dataclasses.replace(case, branches=(branch,)), knobs)


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


@settings(max_examples=25, deadline=None)
@given(st.sampled_from((1, 2, 3, 6)), st.sampled_from((1, 2, 3, 6)), st.sampled_from(SKIPPING), st.integers(0, 2**16))
def test_a_group_hears_the_groups_of_a_branch_that_share_a_filter_with_it(
    groups: int, branch_groups: int, dispatch: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)

    def case(number: int, density: float, **fields: Any) -> slow.LayerCase:
        levels = (rng.random((5, 6, 1, 4)) < density).astype(int).tolist()
        return slow.LayerCase(levels, 6, (1, 1), (1, 1), (0, 0), groups=number, **fields)

    owner = case(groups, 0.05, branches=(case(branch_groups, 0.06, joined=True, reset="none"),))
    knobs = slow.Knobs(rows=2, cols=3, window=2, dispatch=dispatch)
    found = flat(counted(workload_of(owner), arch_of(knobs)), "owner")
    assert found == without_tiles(slow.count(owner, knobs))


def pair(branch: dict[str, Any] | None = None, owner: dict[str, Any] | None = None) -> Workload:
    """A branch and an owner with 3 x 4 x 4 sums in 4 steps."""
    shape = ("conv2d", 2, 3, 6, 6, 3, 3, 4, 4)
    one = Layer("side", *shape, Spikes.pack(np.ones((4, 1, 2, 6, 6))), neuron=NONE, joins="main")  # type: ignore[arg-type]
    one = dataclasses.replace(one, **(branch or {}))
    other = Layer("main", *shape, Spikes.pack(np.zeros((4, 1, 2, 6, 6))), branches=(one,))  # type: ignore[arg-type]
    return Workload((one, dataclasses.replace(other, **(owner or {}))), 4, 1)


def test_sums_wait_in_the_buffer_if_just_as_many_fit() -> None:
    """16 bits of 3 x 4 x 4 sums: 3,072 of four steps, 1,536 of a window of two."""
    for join, kept in (("layer", 3072), ("tile", 1536)):
        arch = SpikexArch(window=2, join=join, glb=4.0 * kept)
        enough = counted(pair(), arch)
        assert (enough.total("glb_psum", "write"), enough.total("dram_psum", "write")) == (3072, 0)
        assert not any("wait in DRAM" in text for text in enough.warnings)
        short = counted(pair(), dataclasses.replace(arch, glb=4.0 * kept - 1))
        assert f"sums of side do not fit the global buffer (join = '{join}'): they wait in DRAM" in short.warnings
        assert short.of("side")["glb_psum.read"] == short.of("side")["dram_psum.write"] == 3072
        assert short.of("main")["glb_psum.write"] == short.of("main")["dram_psum.read"] == 3072
        assert short.of("main")["glb_psum.read"] == short.of("side")["glb_psum.write"] == 3072
        assert counted(pair(), dataclasses.replace(arch, window=64)).total("dram_psum", "read") == 3072 * (
            join == "tile"
        )  # no more steps than there are


def test_only_layers_whose_sums_meet_have_their_actions() -> None:
    counts = counted(pair(), SpikexArch())
    assert {key for key in counts.of("side") if key in slow.JOIN_KEYS} == {"glb_psum.write"}
    assert {key for key in counts.of("main") if key in slow.JOIN_KEYS} == {"pe.join", "glb_psum.read"}
    alone = dataclasses.replace(pair().layers[1], branches=())
    assert not set(counted(Workload((alone,), 4, 1), SpikexArch()).of("main")) & set(slow.JOIN_KEYS)


def test_the_owner_works_where_the_branch_hears_something() -> None:
    """It hears nothing itself: tiles of such columns alone integrate nothing."""
    counts = counted(pair(), SpikexArch())
    assert counts.of("main")["pe.update"] == 3 * 16 * 4
    assert counts.of("main")["pe.add"] == counts.of("main")["lbuf_weight.read"] == 0
    assert counts.of("side")["pe.update"] == counts.of("side")["vmem.read"] == counts.of("side")["dram_out.write"] == 0


@pytest.mark.parametrize(
    ("branch", "word"),
    [
        ({"K": 2}, r"side.*'K': 2.*'main'.*'K': 3"),
        ({"P": 3}, r"side.*'P': 3.*'main'.*'P': 4"),
        ({"Q": 3}, r"side.*'Q': 3.*'main'.*'Q': 4"),
        ({"arrival": Spikes.pack(np.ones((3, 1, 2, 6, 6)))}, r"side.*'T': 3.*'main'.*'T': 4"),
        ({"recurrent": True}, r"'side'.*recurrent"),
        ({"kind": "sumpool2d"}, r"'side'.*sumpool2d layer whose sums meet in the neurons of 'main'"),
        ({"kind": "avgpool2d"}, r"'side'.*avgpool2d layer whose sums meet in the neurons of 'main'"),
        ({"kind": "add"}, r"'side'.*add layer whose sums meet in the neurons of 'main'"),
    ],
)
def test_what_cannot_meet_is_refused_by_name(branch: dict[str, Any], word: str) -> None:
    workload = pair(branch)
    workload = dataclasses.replace(
        workload, layers=(workload.layers[0], dataclasses.replace(workload.layers[1], branches=workload.layers[:1]))
    )
    for fold_pool in (True, False):
        with pytest.raises(MappingError, match=word):
            evaluate(workload, SpikexArch(fold_pool=fold_pool))


def test_a_recurrent_owner_is_refused() -> None:
    with pytest.raises(MappingError, match=r"'main'.*recurrent"):
        evaluate(pair(owner={"inputs": ("main",)}), SpikexArch())


def test_sums_of_a_window_meet_in_the_same_window() -> None:
    tables = {"window": {"side": 2, "main": 4}, "join": "tile"}
    with pytest.raises(MappingError, match=r"'side'.*'main'.*join = 'tile'.* 2 and 4; .*join = 'layer'"):
        evaluate(pair(), SpikexArch(**tables))  # type: ignore[arg-type]
    evaluate(pair(), SpikexArch(window={"side": 2, "main": 4}))
    evaluate(pair(), SpikexArch(window={"side": 4, "main": 4}, dispatch={"side": "ptb", "main": "dense"}, join="tile"))


def test_a_bias_of_a_branch_keeps_its_owner_awake_and_not_the_branch() -> None:
    quiet = {"arrival": Spikes.pack(np.zeros((4, 1, 2, 6, 6))), "has_bias": True}
    workload = pair(quiet)
    counts = counted(workload, SpikexArch())
    assert counts.statistics["side", "tiles"] == counts.of("side")["array.cycles"] == 0
    assert counts.of("main")["pe.update"] == 3 * 16 * 4
    assert counts.of("side")["glb_psum.write"] == counts.of("main")["glb_psum.read"] == 16 * 3 * 16 * 4
    assert "no silent window is skipped in main: a bias acts in every step" in counts.warnings


def test_narrow_sums_are_those_of_owner_and_branches_together() -> None:
    """18 synapses of 8 bits each reach 2,304 and take 13 bits; 36 reach 4,608 and take 14."""
    alone = dataclasses.replace(pair().layers[1], branches=())
    text = "psum_bit = 13 saturates in the worst case of main (14 bits would not)"
    assert text in counted(pair(), SpikexArch(psum_bit=13)).warnings
    assert not any("saturates" in each for each in counted(Workload((alone,), 4, 1), SpikexArch(psum_bit=13)).warnings)
    levels = {"arrival": Levels(np.ones((4, 1, 2, 6, 6), np.uint8), 2)}  # three of each level: 2,304 x 4
    assert "saturates in the worst case of main (15 bits" in " ".join(
        counted(pair(levels), SpikexArch(psum_bit=14)).warnings
    )


def test_every_action_is_priced_and_has_a_purpose() -> None:
    report = evaluate(pair(), SpikexArch(glb=8192.0, table="cacti32"))  # 2,048 usable bits: through DRAM
    spent = report.by("action")
    assert set(slow.JOIN_KEYS) <= set(spent)
    prices = {key: spent[key] / sum(layer.counts.get(key, 0) for layer in report.layers) for key in slow.JOIN_KEYS}
    like = {"glb_psum.read": "glb_act.read", "glb_psum.write": "glb_act.write", "dram_psum.read": "dram_act.read",
            "dram_psum.write": "dram_out.write", "pe.join": "pe.leak"}  # fmt: skip
    for key, other in like.items():  # adders of sums and membranes are equally wide here
        each = spent[other] / sum(layer.counts[other] for layer in report.layers) if spent[other] else None
        assert each is None or prices[key] == pytest.approx(each, rel=1e-12)
    assert sum(shares(report).values()) == pytest.approx(1)
    assert [share_of("spikex", key) for key in slow.JOIN_KEYS] == ["compute", "sram", "sram", "dram", "dram"]


def joined_network(side: str) -> Network:
    """Spikes in, a 1x1 convolution of stride 2, and beside it a pool with a 1x1 convolution behind it or not."""
    rng = np.random.default_rng(3)
    weight = rng.integers(-5, 6, (2, 2, 1, 1)).astype(np.float32)
    nodes: dict[str, Any] = {"in": Input((2, 8, 8)), "pool": SumPool2d((2, 2), (2, 2))}
    edges = [("in", "pool")]
    if side != "pool":
        nodes["side"] = Conv2d(2, 2, (1, 1), weight=np.ones((2, 2, 1, 1), np.float32))
        edges.append(("pool", "side"))
    nodes |= {"main": Conv2d(2, 2, (1, 1), (2, 2), weight=weight), "fire": IF(), "out": Output((2, 4, 4))}
    edges += [("in", "main"), (side, "fire"), ("main", "fire"), ("fire", "out")]
    return Network(nodes, tuple(edges))


def joined_workload(side: str) -> Workload:
    rng = np.random.default_rng(5)
    frames = rng.random((6, 2, 2, 8, 8)) < 0.03
    pooled = frames.reshape(6, 2, 2, 4, 2, 4, 2).sum(axis=(4, 6)).astype(np.uint8)
    arrivals: dict[str, Any] = {name: Spikes.pack(frames) for name in ("pool", "main")}
    if side != "pool":
        arrivals["side"] = Levels(pooled, 3)
    return lower(joined_network(side), SpikeTrace(6, 2, arrivals))


def test_a_folded_branch_is_heard_like_one_behind_its_pool() -> None:
    workload = joined_workload("side")
    folded, plain = (evaluate(workload, SpikexArch(fold_pool=fold)) for fold in (True, False))
    counts = [{layer.name: layer.counts for layer in report.layers} for report in (folded, plain)]
    assert [list(each) for each in counts] == [["side", "main"]] * 2
    assert counts[0]["main"] == counts[1]["main"]
    alone = dataclasses.replace(workload["main"], branches=())
    lonely = evaluate(Workload((alone,), 6, 2), SpikexArch()).layers[0].counts
    assert counts[0]["main"]["pe.update"] > lonely["pe.update"]


@pytest.mark.parametrize("fold_pool", [True, False])
def test_a_pool_as_a_branch_is_refused_and_not_left_out(fold_pool: bool) -> None:
    with pytest.raises(MappingError, match=r"'pool'.*sumpool2d layer whose sums meet in the neurons of 'main'"):
        evaluate(joined_workload("pool"), SpikexArch(fold_pool=fold_pool))


# ---- a residual block of SpikingJelly


@pytest.fixture(scope="module")
def projection() -> Workload:
    """A block with a 1x1 projection shortcut '2.d' beside its second convolution '2.b', on the framework's own module."""
    torch = pytest.importorskip("torch")
    neuron = installed("spikingjelly.activation_based.neuron")
    layer = installed("spikingjelly.activation_based.layer")
    from spikeloom.snn.execute import Execution
    from spikeloom.snn.importers import import_module
    from spikeloom.snn.record import record
    from spikeloom.transform.fold import fold
    from tests.snn.toys import Pixels

    def conv(inner: int, outer: int, kernel: int = 3) -> Any:
        return layer.Conv2d(inner, outer, kernel, padding=kernel // 2, bias=False, step_mode="m")

    class Block(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.a, self.l, self.b = conv(8, 8), neuron.LIFNode(step_mode="m"), conv(8, 8)
            self.d, self.k = conv(8, 8, 1), neuron.LIFNode(step_mode="m")

        def forward(self, x: Any) -> Any:
            return self.k(self.d(x) + self.b(self.l(self.a(x))))

    module = torch.nn.Sequential(
        conv(2, 8), neuron.LIFNode(step_mode="m"), Block(),
        layer.Flatten(step_mode="m"), layer.Linear(8 * 144, 10, step_mode="m"),
    ).eval()  # fmt: skip
    torch.manual_seed(1)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape) * 0.5
    network = fold(import_module(module, (2, 12, 12)))
    frames = (np.random.default_rng(0).random((8, 1, 2, 12, 12)) < 0.3).astype(np.uint8)
    source = Pixels(frames, np.zeros(1, np.int64), sample_axis=1)
    return lower(network, record(network, source, Execution(8, "events")))


@pytest.mark.parametrize(
    ("preset", "updates", "alone", "cycles", "branch_cycles", "kept"),
    [
        ("spikex", 8992, (8832, 4819), 4787, 661, 73728),
        ("ptb", 9216, (9152, None), 5276, 2032, 73728),
        ("snn-dense", 9216, (9216, None), 10526, 1310, 18432),
    ],
)
def test_a_projection_shortcut(
    projection: Workload,
    preset: str,
    updates: int,
    alone: tuple[int, int | None],
    cycles: int,
    branch_cycles: int,
    kept: int,
) -> None:
    """Values worked out from specs/modern_networks.md, section 1, by its author: 9,216 sums of 16 bits."""
    arch = load_machine(preset)[1]
    assert isinstance(arch, SpikexArch)
    bits = 147456
    counts = counted(projection, arch)
    owner, branch = counts.of("2.b"), counts.of("2.d")
    assert (owner["pe.update"], owner["array.cycles"], branch["array.cycles"]) == (updates, cycles, branch_cycles)
    assert owner["pe.join"] == 9216
    assert owner["glb_psum.read"] == owner["glb_psum.write"] == owner["dram_psum.read"] == bits > arch.usable_glb
    assert branch["glb_psum.read"] == branch["glb_psum.write"] == branch["dram_psum.write"] == bits
    nothing = ("pe.update", "pe.leak", "vmem.read", "vmem.write", "dram_out.write")
    assert not any(branch[key] for key in nothing)
    by_window = dataclasses.replace(arch, join="tile")
    assert counted(projection, by_window).total("dram_psum", "write") == 0
    for glb, parked in ((4.0 * kept, 0), (4.0 * kept - 4, bits)):
        counts = counted(projection, dataclasses.replace(by_window, glb=glb))
        assert counts.total("dram_psum", "write") == counts.total("dram_psum", "read") == parked
    lonely = dataclasses.replace(projection["2.b"], branches=())
    single = counted(Workload((lonely,), 8, 1), arch).of("2.b")
    assert single["pe.update"] == alone[0]
    assert alone[1] in (None, single["array.cycles"])
