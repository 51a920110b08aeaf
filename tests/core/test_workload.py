"""Synaptic operations are those of the nested loops, and an id changes with everything it names."""

from __future__ import annotations

import itertools
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloom.core.nodes import Leak, window_out
from spikeloom.core.trace import Levels, Spikes
from spikeloom.core.workload import Layer, NeuronRule, Workload


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    """A convolution of any geometry with spikes or levels, with or without weights."""
    groups = draw(st.sampled_from((1, 1, 2)))
    C, K = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    kernel = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    stride = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    padding = (draw(st.integers(0, 3)), draw(st.integers(0, 3)))
    dilation = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    H, W = (max(1, (kernel[a] - 1) * dilation[a] + 1 - 2 * padding[a] + draw(st.integers(0, 3))) for a in range(2))
    P, Q = (window_out((H, W)[a], kernel[a], stride[a], padding[a], dilation[a]) for a in range(2))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    shape = (draw(st.integers(1, 9)), draw(st.integers(1, 2)), C, H, W)
    values = rng.integers(0, 4, shape).astype(np.uint8) * (rng.random(shape) < draw(st.sampled_from((0.0, 0.3, 1.0))))
    arrival = Levels(values.astype(np.uint8), 2) if draw(st.booleans()) else Spikes.pack(values)
    weight = None
    if draw(st.booleans()):
        weight = rng.integers(-1, 2, (K, C // groups, *kernel))
    return Layer(
        "layer", "conv2d", C, K, H, W, *kernel, P, Q, arrival, stride, padding, dilation, groups, weight=weight
    )  # fmt: skip


def met_by_loops(layer: Layer, events_CHW: np.ndarray) -> int:
    """One for every output, synapse with a non-zero weight and event that meet."""
    met = 0
    inner, outer = layer.C // layer.groups, layer.K // layer.groups
    for k, c, r, s in itertools.product(range(layer.K), range(inner), range(layer.R), range(layer.S)):
        if layer.weight is not None and layer.weight[k, c, r, s] == 0:
            continue
        for p, q in itertools.product(range(layer.P), range(layer.Q)):
            h = p * layer.stride[0] + r * layer.dilation[0] - layer.padding[0]
            w = q * layer.stride[1] + s * layer.dilation[1] - layer.padding[1]
            if 0 <= h < layer.H and 0 <= w < layer.W:
                met += int(events_CHW[k // outer * inner + c, h, w])
    return met


@settings(max_examples=60, deadline=None)
@given(layers())
def test_synops_are_those_of_the_nested_loops(layer: Layer) -> None:
    values = layer.arrival.unpack() if isinstance(layer.arrival, Spikes) else layer.arrival.values
    assert layer.synops == met_by_loops(layer, np.count_nonzero(values, axis=(0, 1)))


@settings(max_examples=40, deadline=None)
@given(layers())
def test_dense_synops_are_those_of_an_input_that_always_fires(layer: Layer) -> None:
    every = met_by_loops(replace(layer, weight=None), np.ones((layer.C, layer.H, layer.W), int))
    assert layer.dense_synops() == every * layer.num_steps
    assert layer.num_weights == layer.fanout_CRS().size // layer.groups * layer.K or layer.weight is not None


def layer(**changes: Any) -> Layer:
    base = Layer("conv", "conv2d", 2, 4, 5, 5, 3, 3, 3, 3, Spikes.pack(np.zeros((4, 1, 2, 5, 5))))
    return replace(base, **changes)


LEVELS = np.zeros((4, 1, 2, 5, 5), np.uint8)
CHANGES: list[dict[str, Any]] = [
    {"name": "other"}, {"kind": "linear"}, {"C": 3}, {"K": 5}, {"H": 6}, {"W": 6}, {"R": 2}, {"S": 2}, {"P": 2}, {"Q": 2},
    {"arrival": Spikes.pack(np.ones((4, 1, 2, 5, 5)))}, {"arrival": Spikes.pack(np.zeros((5, 1, 2, 5, 5)))},
    {"arrival": Levels(LEVELS, 2)}, {"stride": (2, 1)}, {"padding": (1, 0)}, {"dilation": (2, 1)}, {"groups": 2},
    {"weight_bits": 4}, {"has_bias": True}, {"neuron": NeuronRule("lif")}, {"neuron": NeuronRule("if", None, "soft")},
    {"neuron": NeuronRule("lif", Leak(shift=2))}, {"neuron": NeuronRule("lif", Leak(factor=0.75))}, {"recurrent": True},
    {"inputs": ("conv0",)}, {"out": Spikes.pack(np.zeros((4, 1, 4, 3, 3)))},
    {"out": Spikes.pack(np.ones((4, 1, 4, 3, 3)))}, {"updates": Spikes.pack(np.zeros((4, 1, 4, 3, 3)))},
    {"weight": np.zeros((4, 2, 3, 3))}, {"weight": np.zeros((4, 2, 3, 3), np.int8)}, {"stored_kernel": (3, 3)}, {"joins": "conv0"},
    {"bias": np.array([1.0, 0.0, 2.0, 2.0])}, {"bias": np.array([1.0, 2.0, 0.0, 2.0])},
    {"whole_arrival": Spikes.pack(np.zeros((4, 1, 2, 6, 6)))}, {"branches": (layer(),)}, {"branches": (layer(C=3),)},
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: "-".join(change))
def test_a_layer_id_changes_with_every_field(change: dict[str, Any]) -> None:
    assert layer(**change).id != layer().id


def test_every_field_of_a_layer_is_among_the_changes() -> None:
    assert {key for change in CHANGES for key in change} == {item.name for item in fields(Layer)}
    assert len({layer(**change).id for change in CHANGES}) == len(CHANGES)


@pytest.mark.parametrize("levels", [Levels(LEVELS, 3), Levels(LEVELS, 2, signed=True), Levels(LEVELS, 2, analog=True)])
def test_a_layer_id_changes_with_what_levels_mean(levels: Levels) -> None:
    assert layer(arrival=levels).id != layer(arrival=Levels(LEVELS, 2)).id


def test_a_layer_id_says_where_a_bias_acts() -> None:
    bias = np.array([1.0, 0.0, 2.0, 2.0])
    assert layer(bias=bias).id == layer(bias=3 * bias).id
    assert layer(bias=np.ones(4)).id == layer().id


def test_a_layer_id_is_that_of_an_equal_layer_in_another_memory_order() -> None:
    weight = np.arange(72.0).reshape(4, 2, 3, 3)
    assert layer(weight=np.asfortranarray(weight)).id == layer(weight=weight).id


def test_a_workload_id_depends_on_its_layers_and_their_order() -> None:
    one, two = layer(), layer(name="other")
    ids = {Workload(chosen, 4, 1).id for chosen in ((one,), (two,), (one, two), (two, one))}
    assert len(ids) == 4
    assert Workload((one,), 4, 1, "somewhere else").id == Workload((one,), 4, 1).id


def test_a_workload_gives_its_layers_by_name() -> None:
    one, two = layer(), layer(name="other")
    assert Workload((one, two), 4, 1)["other"] is two
    with pytest.raises(KeyError):
        Workload((one,), 4, 1)["other"]


@pytest.mark.parametrize(
    ("rule", "leaky"),
    [
        (NeuronRule("if"), False),
        (NeuronRule("lif"), True),
        (NeuronRule("cubalif"), True),
        (NeuronRule("li", Leak(shift=1)), True),
        (NeuronRule("li"), False),
    ],
)
def test_a_neuron_is_leaky_by_its_leak_or_its_kind(rule: NeuronRule, leaky: bool) -> None:
    assert rule.leaky is leaky
