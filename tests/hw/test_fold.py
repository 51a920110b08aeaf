"""Folding a pool into the layer behind it changes no sum and no addition, and stores no weight twice."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloom.core.counts import Counts
from spikeloom.core.network import Network, chain
from spikeloom.core.nodes import (
    IF,
    AvgPool2d,
    Conv2d,
    Flatten,
    Input,
    Linear,
    MaxPool2d,
    Node,
    SumPool2d,
)
from spikeloom.core.trace import Arrival, Levels, Spikes, SpikeTrace
from spikeloom.core.workload import Layer, NeuronRule, Workload
from spikeloom.errors import MappingError
from spikeloom.hw.base import fold_pools, why_kept
from spikeloom.hw.spikex import Spikex, SpikexArch
from spikeloom.lower import lower


def pooled(values: np.ndarray, a: int, b: int) -> np.ndarray:
    """Sums over a x b windows of T N C H W; rows and columns that fill no window are left out."""
    P, Q = values.shape[3] // a, values.shape[4] // b
    out = np.zeros((*values.shape[:3], P, Q), np.int64)
    for p in range(P):
        for q in range(Q):
            out[..., p, q] = values[..., p * a : (p + 1) * a, q * b : (q + 1) * b].sum(axis=(3, 4))
    return out


def met(layer: Layer, values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Sum over the synapses of each output of weight times value, by loops; int64, shape T N K P Q."""
    inner, outer = layer.C // layer.groups, layer.K // layer.groups
    sums = np.zeros((*values.shape[:2], layer.K, layer.P, layer.Q), np.int64)
    for k in range(layer.K):
        channels = slice(k // outer * inner, (k // outer + 1) * inner)
        for p in range(layer.P):
            for q in range(layer.Q):
                for r in range(layer.R):
                    for s in range(layer.S):
                        h = p * layer.stride[0] + r * layer.dilation[0] - layer.padding[0]
                        w = q * layer.stride[1] + s * layer.dilation[1] - layer.padding[1]
                        if 0 <= h < layer.H and 0 <= w < layer.W:
                            sums[:, :, k, p, q] += values[:, :, channels, h, w] @ weight[k, :, r, s].astype(np.int64)
    return sums


def values_of(arrival: Arrival) -> np.ndarray:
    return arrival.unpack().astype(np.int64) if isinstance(arrival, Spikes) else arrival.values.astype(np.int64)


@dataclass(frozen=True)
class Case:
    """A pool and the layer behind it, lowered, with the weights of that layer."""

    workload: Workload
    pool_size: tuple[int, int]

    @property
    def pool(self) -> Layer:
        return self.workload["pool"]

    @property
    def layer(self) -> Layer:
        return self.workload["layer"]


def levels_behind(spikes: np.ndarray, size: tuple[int, int]) -> Levels:
    sums = pooled(spikes, *size)
    return Levels(sums.astype(np.uint8), max(1, int(size[0] * size[1]).bit_length()))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """conv -> pool -> conv, or conv -> pool -> flatten -> linear; maps that the pool does not divide, padded convolutions."""
    a, b = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    groups = draw(st.sampled_from((1, 1, 2)))
    C, K = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    P, Q = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    H, W = P * a + draw(st.integers(0, a - 1)), Q * b + draw(st.integers(0, b - 1))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    steps, samples = draw(st.integers(1, 9)), draw(st.integers(1, 2))
    spikes = rng.random((steps, samples, C, H, W)) < draw(st.sampled_from((0.0, 0.2, 0.6, 1.0)))
    kind: Any = draw(st.sampled_from((SumPool2d, AvgPool2d)))
    nodes: dict[str, Node] = {
        "in": Input((1, H, W)), "conv": Conv2d(1, C, (1, 1)), "if": IF(), "pool": kind((a, b), (a, b))
    }  # fmt: skip
    levels = levels_behind(spikes, (a, b))
    kept = draw(st.sampled_from((0.3, 1.0)))

    def weights(*shape: int) -> np.ndarray:
        return rng.integers(-9, 10, shape) * (rng.random(shape) < kept)

    if draw(st.booleans()):
        padding = (draw(st.integers(0, 2)), draw(st.integers(0, 2)))
        kernel = (draw(st.integers(1, min(3, P + 2 * padding[0]))), draw(st.integers(1, min(3, Q + 2 * padding[1]))))
        stride = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
        nodes["layer"] = Conv2d(C, K, kernel, stride, padding, (1, 1), groups, weight=weights(K, C // groups, *kernel))
    else:
        nodes |= {"flatten": Flatten(), "layer": Linear(C * P * Q, K, weight=weights(K, C * P * Q))}
        levels = levels.reshape((C * P * Q,))
    arrivals: dict[str, Arrival] = {
        "conv": Spikes.pack(spikes[:, :, :1]), "pool": Spikes.pack(spikes), "layer": levels
    }  # fmt: skip
    return Case(lower(chain("n", nodes), SpikeTrace(steps, samples, arrivals)), (a, b))


@settings(max_examples=60, deadline=None)
@given(cases())
def test_the_folded_layer_computes_the_same_sums(case: Case) -> None:
    folded = fold_pools(case.workload)
    assert [layer.name for layer in folded.layers] == ["conv", "layer"]
    one, two = case.layer, folded["layer"]
    assert one.weight is not None and two.weight is not None
    assert isinstance(two.arrival, Spikes)
    expected = met(one, values_of(one.arrival), one.weight)
    assert np.array_equal(met(two, values_of(two.arrival), two.weight), expected)
    assert (two.K, two.P, two.Q, two.inputs) == (one.K, one.P, one.Q, ("conv",))
    assert two.arrival.shape == (two.C, two.H, two.W)
    assert two.weight.shape == (two.K, two.C // two.groups, two.R, two.S)


@settings(max_examples=30, deadline=None)
@given(cases())
def test_the_folded_weights_are_the_stored_ones_repeated_by_index(case: Case) -> None:
    a, b = case.pool_size
    one, two = case.layer, fold_pools(case.workload)["layer"]
    assert two.stored_kernel == (two.R // a, two.S // b) == two.stored_extent
    assert one.weight is not None and two.weight is not None
    stored = one.weight.reshape(two.K, -1, *two.stored_extent)
    for r in range(two.R):
        for s in range(two.S):
            assert np.array_equal(two.weight[:, :, r, s], stored[:, :, r // a, s // b])


def counted(workload: Workload, arch: SpikexArch) -> Counts:
    machine = Spikex()
    return machine.count(workload, arch, machine.map(workload, arch), threads=1)


ARCHS = (
    dict(window=1), dict(window=3, step="zskip"), dict(dispatch="ptb", merge=2, window=2), dict(dispatch="dense", window=4)
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(cases(), st.sampled_from(ARCHS))
def test_every_addition_is_counted_once_with_and_without_folding(case: Case, knobs: dict[str, Any]) -> None:
    """Folded, one for every spike and non-zero weight that meet; as levels, one for every bit that is set."""
    folded = fold_pools(case.workload)["layer"]
    for fold, layer in ((True, folded), (False, case.layer)):
        counts = counted(case.workload, SpikexArch(**knobs, fold_pool=fold))
        assert counts.layers() == ("conv", "layer")
        assert layer.weight is not None
        adds = met(layer, np.bitwise_count(values_of(layer.arrival)), (layer.weight != 0).astype(np.int64)).sum()
        assert counts.of("layer")["pe.add"] == adds
    assert counted(case.workload, SpikexArch(**knobs)).of("layer")["pe.add"] == folded.synops


@settings(max_examples=30, deadline=None)
@given(cases())
def test_the_weights_that_travel_are_those_of_the_unrepeated_kernel(case: Case) -> None:
    """All of them, since these kernels fit the buffers: bits * R * S * C * K, with or without folding."""
    big: dict[str, Any] = dict(lbuf=1e9, glb=1e9, tailoring=False)
    layer = case.layer
    expected = layer.num_weights * layer.weight_bits * layer.num_samples
    for arch in (SpikexArch(**big), SpikexArch(**big, fold_pool=False)):
        found = counted(case.workload, arch).of("layer")
        assert found["dram_weight.read"] == found["glb_weight.read"] == expected


@settings(max_examples=30, deadline=None)
@given(cases())
def test_the_code_of_pruned_weights_is_that_of_the_unrepeated_kernel(case: Case) -> None:
    big: dict[str, Any] = dict(lbuf=1e9, glb=1e9, tailoring=False, weight_skip="group")
    found = counted(case.workload, SpikexArch(**big)).of("layer")["dram_weight.read"]
    assert found == counted(case.workload, SpikexArch(**big, fold_pool=False)).of("layer")["dram_weight.read"]


def test_whether_weights_fit_is_decided_by_what_is_stored() -> None:
    """8 rows * 4 * 3 * 3 * 8 bits = 2304 of 4096 usable bits; repeated 2 x 2 they would not fit."""
    rng = np.random.default_rng(0)
    spikes = rng.random((6, 1, 4, 8, 8)) < 0.5
    nodes: dict[str, Node] = {
        "in": Input((4, 8, 8)), "pool": SumPool2d((2, 2), (2, 2)), "layer": Conv2d(4, 8, (3, 3))
    }  # fmt: skip
    arrivals: dict[str, Arrival] = {"pool": Spikes.pack(spikes), "layer": levels_behind(spikes, (2, 2))}
    workload = lower(chain("n", nodes), SpikeTrace(6, 1, arrivals))
    assert counted(workload, SpikexArch()).of("layer")["glb_weight.read"] == 8 * 4 * 3 * 3 * 8
    unstored = replace(fold_pools(workload)["layer"], stored_kernel=None)
    again = counted(Workload((unstored,), 6, 1), SpikexArch()).of("layer")
    assert again["glb_weight.read"] == again["lbuf_weight.read"] > 8 * 4 * 6 * 6 * 8


# --- pools that stay ---------------------------------------------------------------------------------------------


def network(pool: Node, layer: Node, *behind_pool: Node) -> tuple[Workload, np.ndarray]:
    """conv -> if -> pool -> layer on 5x5 maps of two channels."""
    rng = np.random.default_rng(1)
    spikes = rng.random((4, 1, 2, 5, 5)) < 0.5
    nodes: dict[str, Node] = {"in": Input((1, 5, 5)), "conv": Conv2d(1, 2, (1, 1)), "if": IF(), "pool": pool}
    nodes |= {f"behind{k}": node for k, node in enumerate(behind_pool)}
    built = chain("n", {**nodes, "layer": layer})
    shape = built.shapes()[built.inputs_of("layer")[0]]
    arrivals: dict[str, Arrival] = {
        "conv": Spikes.pack(spikes[:, :, :1]),
        "pool": Spikes.pack(spikes),
        "layer": Levels(rng.integers(0, 4, (4, 1, *shape)).astype(np.uint8), 3),
    }
    return lower(built, SpikeTrace(4, 1, arrivals)), spikes


STAY = {
    "overlapping": network(SumPool2d((3, 3), (2, 2)), Conv2d(2, 1, (2, 2))),
    "gaps": network(SumPool2d((2, 2), (3, 3)), Conv2d(2, 1, (2, 2))),
    "padded": network(AvgPool2d((2, 2), (2, 2), (1, 1)), Conv2d(2, 1, (2, 2))),
    "dilated behind": network(SumPool2d((2, 2), (2, 2)), Conv2d(2, 1, (1, 1), dilation=(2, 2))),
    "neurons behind": network(SumPool2d((2, 2), (2, 2)), Conv2d(2, 1, (2, 2)), IF()),
}


WHY = {
    "overlapping": "its windows overlap: kernel [3, 3], stride [2, 2]",
    "gaps": "its windows leave gaps: kernel [2, 2], stride [3, 3]",
    "padded": "it is padded by [1, 1]",
    "dilated behind": "the convolution 'layer' behind it is dilated by [2, 2]",
}


@pytest.mark.parametrize("name", STAY)
def test_pools_that_cannot_be_folded_stay_and_leave_levels(name: str) -> None:
    workload, _ = STAY[name]
    assert [layer.name for layer in fold_pools(workload).layers] == ["conv", "pool", "layer"]
    assert fold_pools(workload).id == workload.id
    if name == "neurons behind":  # membranes of its own: no wiring, and nothing the array can run
        with pytest.raises(MappingError, match="layer 'pool': spikex cannot run a sumpool2d layer"):
            Spikex().map(workload, SpikexArch())
        return
    assert WHY[name] in why_kept(fold_pools(workload)["pool"], fold_pools(workload))
    run = Spikex().runs(workload, SpikexArch())
    assert [layer.name for layer in run.layers] == ["conv", "layer"]
    assert run["layer"].id == workload["layer"].id
    assert any("pool" in warning and "levels" in warning for warning in run.warnings)
    assert any("pool" in warning for warning in counted(workload, SpikexArch()).warnings)


def test_the_pool_of_the_cases_above_does_fold() -> None:
    workload, _ = network(SumPool2d((2, 2), (2, 2)), Conv2d(2, 1, (2, 2)))
    assert [layer.name for layer in fold_pools(workload).layers] == ["conv", "layer"]
    assert not counted(workload, SpikexArch()).warnings


def test_a_maximum_is_no_sum() -> None:
    workload, _ = network(MaxPool2d((2, 2), (2, 2)), Conv2d(2, 1, (2, 2)))
    assert [layer.name for layer in fold_pools(workload).layers] == ["conv", "pool", "layer"]
    with pytest.raises(MappingError, match="layer 'pool': spikex cannot run a maxpool2d layer"):
        Spikex().map(workload, SpikexArch())


def test_a_pool_of_other_steps_stays() -> None:
    workload, _ = network(SumPool2d((2, 2), (2, 2)), Conv2d(2, 1, (2, 2)))
    late = replace(workload["layer"], arrival=Levels(np.ones((1, 1, 2, 2, 2), np.uint8), 3))
    changed = replace(workload, layers=(*workload.layers[:2], late))
    assert [layer.name for layer in fold_pools(changed).layers] == ["conv", "pool", "layer"]


def forked(right: Node) -> Workload:
    """A pool that feeds a convolution and ``right``."""
    spikes = np.random.default_rng(2).random((4, 1, 2, 4, 4)) < 0.5
    nodes: dict[str, Node] = {
        "in": Input((2, 4, 4)), "pool": SumPool2d((2, 2), (2, 2)), "left": Conv2d(2, 1, (2, 2)), "right": right
    }  # fmt: skip
    levels = levels_behind(spikes, (2, 2))
    built = Network(nodes, (("in", "pool"), ("pool", "left"), ("pool", "right")))
    return lower(built, SpikeTrace(4, 1, {"pool": Spikes.pack(spikes), "left": levels, "right": levels}))


def test_a_pool_is_gone_when_all_its_consumers_took_it_in_and_stays_for_the_one_that_cannot() -> None:
    both = fold_pools(forked(Conv2d(2, 3, (1, 1))))
    assert [(layer.name, layer.R) for layer in both.layers] == [("left", 4), ("right", 2)]
    one = fold_pools(forked(MaxPool2d((2, 2), (2, 2))))
    assert [(layer.name, layer.R) for layer in one.layers] == [("pool", 2), ("left", 4), ("right", 2)]
    assert isinstance(one["right"].arrival, Levels) and isinstance(one["left"].arrival, Spikes)


def test_of_two_pools_in_a_row_the_second_is_folded_and_its_levels_are_exact() -> None:
    spikes = np.random.default_rng(3).random((4, 1, 2, 8, 8)) < 0.5
    nodes: dict[str, Node] = {
        "in": Input((2, 8, 8)), "pool1": SumPool2d((2, 2), (2, 2)), "pool2": SumPool2d((2, 2), (2, 2)),
        "layer": Conv2d(2, 3, (2, 2), weight=np.arange(24).reshape(3, 2, 2, 2)),
    }  # fmt: skip
    once, twice = pooled(spikes, 2, 2), pooled(spikes, 4, 4)
    arrivals: dict[str, Arrival] = {
        "pool1": Spikes.pack(spikes), "pool2": Levels(once.astype(np.uint8), 3), "layer": Levels(twice.astype(np.uint8), 5)
    }  # fmt: skip
    workload = lower(chain("n", nodes), SpikeTrace(4, 1, arrivals))
    folded = fold_pools(workload)
    assert [layer.name for layer in folded.layers] == ["pool1", "layer"]
    one, two = workload["layer"], folded["layer"]
    assert one.weight is not None and two.weight is not None
    assert np.array_equal(
        met(two, values_of(two.arrival), two.weight), met(one, values_of(one.arrival), one.weight)
    )  # fmt: skip


def test_neurons_bias_and_outputs_of_the_folded_layer_are_its_own() -> None:
    workload, _ = network(SumPool2d((2, 2), (2, 2)), Conv2d(2, 1, (2, 2), has_bias=True, weight_bits=4))
    out = Spikes.pack(np.ones((4, 1, 1, 1, 1)))
    layers = (*workload.layers[:2], replace(workload["layer"], out=out, neuron=NeuronRule("lif", None, "soft")))
    folded = fold_pools(replace(workload, layers=layers))["layer"]
    assert (folded.out, folded.neuron.reset, folded.has_bias, folded.weight_bits) == (out, "soft", True, 4)
