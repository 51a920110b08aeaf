"""The fan of a layer over cores is that of the synapse list, for every kind of layer, placement and both rules for zeros."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloom.core.network import chain
from spikeloom.core.nodes import IF, AvgPool2d, Conv2d, Flatten, Input, Linear, Node
from spikeloom.core.trace import Spikes, SpikeTrace
from spikeloom.core.workload import Layer
from spikeloom.errors import MappingError
from spikeloom.hw.base import fold_pools
from spikeloom.hw.fan import Fan, fan, source_owners
from spikeloom.lower import lower

from ..reference import fan as reference


def a_layer(name: str = "a", kind: str = "conv2d", *, weight: np.ndarray | None = None, **sizes: Any) -> Layer:
    """A layer of given extents on which nothing arrives; P and Q follow unless they are given."""
    geometry: dict[str, Any] = dict(H=1, W=1, R=1, S=1, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1)
    geometry |= sizes
    for out, size, kernel, d in (("P", "H", "R", 0), ("Q", "W", "S", 1)):
        span = geometry["dilation"][d] * (geometry[kernel] - 1) + 1
        geometry.setdefault(out, (geometry[size] + 2 * geometry["padding"][d] - span) // geometry["stride"][d] + 1)
    arrival = Spikes(np.zeros((1, 1, geometry["C"], geometry["H"], geometry["W"]), np.uint8), 1)
    return Layer(name, kind, arrival=arrival, weight=weight, **geometry)


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    groups, inner, outer = draw(st.sampled_from((1, 1, 2, 3))), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    kernel = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    padding = (draw(st.integers(0, 2)), draw(st.integers(0, 2)))
    dilation = (draw(st.integers(1, 2)), draw(st.integers(1, 3)))
    least = [max(1, dilation[d] * (kernel[d] - 1) + 1 - 2 * padding[d]) for d in range(2)]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    density = draw(st.sampled_from((0.0, 0.1, 0.5, 0.9, 1.0)))
    weight = rng.integers(1, 9, (groups * outer, inner, *kernel)) * (
        rng.random((groups * outer, inner, *kernel)) < density
    )
    return a_layer(
        C=groups * inner,
        K=groups * outer,
        H=least[0] + draw(st.integers(0, 4)),
        W=least[1] + draw(st.integers(0, 4)),
        R=kernel[0],
        S=kernel[1],
        stride=(draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        padding=padding,
        dilation=dilation,
        groups=groups,
        weight=weight.astype(np.int8),
    )


@st.composite
def owned(draw: st.DrawFn, layer: Layer) -> np.ndarray:
    """Cores of a layer's neurons: anywhere, in runs, or whole channels."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    cores = np.sort(rng.choice(40, draw(st.integers(1, 5)), replace=False)).astype(np.int32)
    shape = (layer.K, layer.P, layer.Q)
    how = draw(st.sampled_from(("anywhere", "runs", "channels")))
    if how == "anywhere":
        return rng.choice(cores, shape).astype(np.int32)
    if how == "channels":
        return np.broadcast_to(rng.choice(cores, (layer.K, 1, 1)), shape).astype(np.int32)
    return cores[np.sort(rng.integers(0, cores.size, layer.K * layer.P * layer.Q))].reshape(shape)


def listed(found: Fan) -> dict[tuple[int, int, int, int], int]:
    """A fan as its entries that are not 0."""
    per_MCHW = found.targets_MAHW[:, found.class_C]
    return {
        (int(found.cores_M[m]), int(c), int(y), int(x)): int(per_MCHW[m, c, y, x])
        for m, c, y, x in np.argwhere(per_MCHW)
    }


@settings(deadline=None, max_examples=150)
@given(st.data(), st.sampled_from(("stored", "skipped")))
def test_a_fan_is_that_of_the_synapse_list(data: st.DataObject, zero_weights: str) -> None:
    layer = data.draw(layers())
    owner_KPQ = data.draw(owned(layer))
    found = fan(layer, owner_KPQ, zero_weights=zero_weights)
    expected = reference.targets(layer, owner_KPQ, zero_weights)
    assert listed(found) == expected
    assert (found.cores_M.dtype, found.class_C.dtype, found.targets_MAHW.dtype) == (np.int32,) * 3
    assert found.cores_M.tolist() == sorted(set(owner_KPQ.ravel().tolist()))
    for index in np.ndindex((layer.C, layer.H, layer.W)):
        cores = [core for core, *source in expected if tuple(source) == index]
        assert found.destinations_CHW()[index] == len(cores)
    for m, core in enumerate(found.cores_M.tolist()):
        here = {key: number for key, number in expected.items() if key[0] == core}
        assert (found.inputs_M[m], found.synapses_M[m]) == (len(here), sum(here.values()))


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_no_zero_weight_makes_no_difference(data: st.DataObject) -> None:
    layer = data.draw(layers())
    assert layer.weight is not None
    layer = replace(layer, weight=np.ones_like(layer.weight))
    owner_KPQ = data.draw(owned(layer))
    stored, skipped = (fan(layer, owner_KPQ, zero_weights=how) for how in ("stored", "skipped"))
    assert listed(stored) == listed(skipped)
    assert stored.class_C.tolist() == skipped.class_C.tolist()


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 2), st.integers(1, 3), st.booleans(), st.integers(0, 2**32 - 1))
def test_folded_pools_repeat_synapses(a: int, b: int, linear: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = 4 * a + int(rng.integers(0, a)), 3 * b + int(rng.integers(0, b))
    nodes: dict[str, Node] = {"pool": AvgPool2d((a, b), (a, b))}
    weight = rng.integers(-1, 2, (3, 2, 3, 2)).astype(np.int8)
    if linear:
        nodes |= {"flatten": Flatten(), "a": Linear(24, 3, weight=rng.integers(-1, 2, (3, 24)).astype(np.int8))}
    else:
        nodes["a"] = Conv2d(2, 3, (3, 2), padding=(1, 0), stride=(1, 1), weight=weight)
    network = chain("n", {"in": Input((2, height, width))} | nodes | {"if": IF()})
    quiet = Spikes(np.zeros((1, 1, 2, height, width), np.uint8), 1)
    pooled = Spikes(np.zeros((1, 1, *((24,) if linear else (2, 4, 3))), np.uint8), 1)
    workload = fold_pools(lower(network, SpikeTrace(1, 1, {"pool": quiet, "a": pooled})))
    layer = workload["a"]
    assert layer.stored_kernel is not None
    owner_KPQ = rng.integers(0, 4, (layer.K, layer.P, layer.Q)).astype(np.int32)
    for zero_weights in ("stored", "skipped"):
        found = fan(layer, owner_KPQ, zero_weights=zero_weights)
        assert listed(found) == reference.targets(layer, owner_KPQ, zero_weights)
    in_front = rng.integers(0, 9, (2, height, width)).astype(np.int32)
    assert (source_owners(layer, in_front) == in_front[:, : 4 * a, : 3 * b]).all()


def test_a_wide_linear_layer_on_many_cores_is_one_class() -> None:
    layer = a_layer(kind="linear", C=5000, K=300)
    found = fan(layer, (np.arange(300, dtype=np.int32) // 30)[:, None, None], zero_weights="stored")
    assert found.targets_MAHW.ravel().tolist() == [30] * 10 and not found.class_C.any()
    assert (found.destinations_CHW() == 10).all()


def test_pools_have_synapses_without_weights() -> None:
    layer = a_layer(kind="maxpool2d", C=2, K=2, H=4, W=4, R=2, S=2, stride=(2, 2), groups=2)
    owner_KPQ = np.arange(8, dtype=np.int32).reshape(2, 2, 2)
    found = fan(layer, owner_KPQ, zero_weights="skipped")
    assert listed(found) == reference.targets(layer, owner_KPQ, "stored")


def test_what_cannot_be_counted_is_refused_in_one_line() -> None:
    layer = a_layer(C=1, K=2, H=3, W=3)
    with pytest.raises(MappingError, match=r"layer 'a': got cores for a map of \(2, 3, 2\), expected \(2, 3, 3\)"):
        fan(layer, np.zeros((2, 3, 2), np.int32), zero_weights="stored")
    with pytest.raises(MappingError, match="layer 'a': zero_weights = 'skipped' needs its weights"):
        fan(layer, np.zeros((2, 3, 3), np.int32), zero_weights="skipped")
    with pytest.raises(MappingError, match="takes a map of 1 x 3 x 3, the layer in front of it has 2 x 3 x 3"):
        source_owners(layer, np.zeros((2, 3, 3), np.int32))
    flat = source_owners(replace(layer, C=18, H=1, W=1), np.arange(18, dtype=np.int32).reshape(2, 3, 3))
    assert flat.ravel().tolist() == list(range(18))
