"""Lowering: the geometry of every kind, output spikes only where they are known, and drawn traces that keep to their rates."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloom.core.network import Network, chain
from spikeloom.core.nodes import (
    IF,
    LI,
    LIF,
    Add,
    AvgPool2d,
    ClippedReLU,
    Conv1d,
    Conv2d,
    CubaLIF,
    Delay,
    Flatten,
    Input,
    Leak,
    Linear,
    MaxPool2d,
    Node,
    Output,
    ReLU,
    Scale,
    SumPool2d,
)
from spikeloom.core.trace import Arrival, Levels, Spikes, SpikeTrace
from spikeloom.core.workload import Layer, NeuronRule, RateLayer, RateWorkload, Workload
from spikeloom.emulate import emulate
from spikeloom.errors import NetworkError, TraceError
from spikeloom.lower import SYNTHETIC, draw, lower

T, N = 5, 2


def spikes(*shape: int, steps: int = T, samples: int = N) -> Spikes:
    return Spikes.pack(np.random.default_rng(0).random((steps, samples, *shape)) < 0.5)


def lowered(network: Network, arrivals: dict[str, Arrival], **more: Any) -> Workload:
    return lower(network, SpikeTrace(T, N, arrivals, source="here", **more))


def single(node: Node, shape: tuple[int, ...], *behind: Node) -> Layer:
    """A network of one layer."""
    nodes = {"in": Input(shape), "layer": node, **{f"behind{k}": each for k, each in enumerate(behind)}}
    return lowered(chain("n", nodes), {"layer": spikes(*shape)}).layers[0]


GEOMETRY: list[tuple[Node, tuple[int, ...], dict[str, Any]]] = [
    (
        Conv2d(4, 6, (3, 2), (2, 1), (1, 0), (1, 2), 2, True, 4),
        (4, 7, 5),
        dict(kind="conv2d", C=4, H=7, W=5, K=6, R=3, S=2, P=4, Q=3, stride=(2, 1), padding=(1, 0), dilation=(1, 2),
             groups=2, has_bias=True, weight_bits=4),
    ),
    (
        Conv1d(3, 2, 3, 2, 1, 2, 1, False, 16),
        (3, 9),
        dict(kind="conv1d", C=3, H=1, W=9, K=2, R=1, S=3, P=1, Q=4, stride=(1, 2), padding=(0, 1), dilation=(1, 2),
             weight_bits=16),
    ),
    (Linear(12, 3, True), (12,), dict(kind="linear", C=12, H=1, W=1, K=3, R=1, S=1, P=1, Q=1, has_bias=True)),
    (
        SumPool2d((3, 2), (2, 1), (1, 0)),
        (4, 7, 5),
        dict(kind="sumpool2d", C=4, H=7, W=5, K=4, R=3, S=2, P=4, Q=4, stride=(2, 1), padding=(1, 0), groups=4),
    ),
    (AvgPool2d((2, 2), (2, 2)), (4, 7, 5), dict(kind="avgpool2d", K=4, R=2, S=2, P=3, Q=2, stride=(2, 2), groups=4)),
    (MaxPool2d((2, 2), (2, 2)), (4, 7, 5), dict(kind="maxpool2d", K=4, R=2, S=2, P=3, Q=2, stride=(2, 2), groups=4)),
    (Add(), (4, 7, 5), dict(kind="add", C=4, H=7, W=5, K=4, R=1, S=1, P=7, Q=5, groups=4)),
    (Add(), (9,), dict(kind="add", C=9, H=1, W=1, K=9, R=1, S=1, P=1, Q=1, groups=9)),
]  # fmt: skip


@pytest.mark.parametrize(("node", "shape", "expected"), GEOMETRY, ids=lambda value: type(value).__name__)
def test_geometry_of_every_kind(node: Node, shape: tuple[int, ...], expected: dict[str, Any]) -> None:
    layer = single(node, shape)
    fixed = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1, "has_bias": False, "weight_bits": 8}
    assert {key: getattr(layer, key) for key in fixed | expected} == fixed | expected
    assert layer.arrival.shape == (layer.C, layer.H, layer.W)
    assert (layer.num_steps, layer.num_samples) == (T, N)


def test_each_spike_of_a_pool_or_a_sum_meets_its_own_channel_only() -> None:
    pool = single(SumPool2d((2, 2), (2, 2)), (3, 4, 4))
    assert pool.synops == pool.arrival.events().sum()
    add = single(Add(), (3, 4, 4))
    assert add.synops == add.arrival.events().sum()


def test_weights_get_the_four_extents_of_the_layer() -> None:
    conv1d = single(Conv1d(4, 6, 3, groups=2, weight=np.arange(36.0).reshape(6, 2, 3)), (4, 5))
    linear = single(Linear(4, 3, weight=np.arange(12.0).reshape(3, 4)), (4,))
    assert conv1d.weight is not None and linear.weight is not None
    assert (conv1d.weight.shape, linear.weight.shape) == ((6, 2, 1, 3), (3, 4, 1, 1))
    assert conv1d.weight[4, 1, 0, 2] == 4 * 6 + 1 * 3 + 2
    assert single(Linear(4, 3), (4,)).weight is None


def test_weights_of_another_shape_name_the_layer() -> None:
    with pytest.raises(
        NetworkError, match=r"node 'layer' \(Linear\) has a weight of shape \[4, 3\], expected \[3, 4\]"
    ):
        single(Linear(4, 3, weight=np.ones((4, 3))), (4,))


@pytest.mark.parametrize(
    ("neuron", "rule"),
    [
        (IF(0.5, "soft"), NeuronRule("if", None, "soft")),
        (LIF(Leak(shift=3), 1.0, "none"), NeuronRule("lif", Leak(shift=3), "none")),
        (LIF(None, None), NeuronRule("lif", None, "hard")),
        (CubaLIF(Leak(factor=0.5), Leak(shift=1)), NeuronRule("cubalif", Leak(factor=0.5), "hard")),
        (LI(Leak(shift=2)), NeuronRule("li", Leak(shift=2), "none")),
        (LI(), NeuronRule("li", None, "none")),
        (ReLU(), NeuronRule("relu", None, "none")),
        (ClippedReLU(1.0, 4), NeuronRule("relu", None, "none")),
        (None, NeuronRule("none", None, "none")),
    ],
)
def test_the_rule_of_the_neurons_behind_a_layer(neuron: Node | None, rule: NeuronRule) -> None:
    behind = [] if neuron is None else [Scale(np.ones(1)), neuron]
    assert single(Linear(4, 3), (4,), *behind, Output((3,))).neuron == rule


# --- output spikes -----------------------------------------------------------------------------------------------


def pair(*between: Node, second: Node | None = None, arrived: Arrival | None = None) -> tuple[Workload, Arrival]:
    """conv (2x4x4 -> 3x4x4) -> ``between`` -> second, and what arrives at the second."""
    shape: tuple[int, ...] = (3, 4, 4)
    flat = any(isinstance(node, Flatten) for node in between)
    second = second or (Linear(48, 5) if flat else Conv2d(3, 1, (3, 3)))
    nodes: dict[str, Node] = {"in": Input((2, 4, 4)), "conv": Conv2d(2, 3, (1, 1))}
    nodes |= {f"n{k}": node for k, node in enumerate(between)} | {"second": second}
    arrival = arrived or spikes(*((48,) if flat else shape))
    return lowered(chain("n", nodes), {"conv": spikes(2, 4, 4), "second": arrival}), arrival


@pytest.mark.parametrize(
    "between",
    [(IF(),), (LIF(Leak(shift=1)), Flatten()), (Scale(np.ones(1)), IF()), (CubaLIF(Leak(shift=1), None),)],
    ids=range(4),
)
def test_output_spikes_are_what_arrives_at_the_next_layer(between: tuple[Node, ...]) -> None:
    workload, arrival = pair(*between)
    out = workload["conv"].out
    assert out is not None and isinstance(arrival, Spikes)
    assert out.shape == (3, 4, 4)
    assert np.array_equal(out.packed.ravel(), arrival.packed.ravel())
    assert workload["second"].inputs == ("conv",)


@pytest.mark.parametrize("pool", [SumPool2d, MaxPool2d])
def test_output_spikes_of_a_layer_before_a_pool_arrive_at_the_pool(pool: Any) -> None:
    workload, arrival = pair(IF(), second=pool((2, 2), (2, 2)))
    assert workload["conv"].out is not None
    assert np.array_equal(workload["conv"].out.packed, arrival.packed)  # type: ignore[union-attr]
    assert workload["second"].out is None


@pytest.mark.parametrize(
    ("between", "arrived"),
    [
        ((), None),  # no neuron
        ((LI(),), None),  # no spikes
        ((ReLU(),), None),
        ((IF(), Delay(1)), None),  # another step
        ((IF(), IF()), None),  # other neurons' spikes
        ((IF(), Scale(np.ones(1))), None),
        ((IF(),), Levels(np.ones((T, N, 3, 4, 4), np.uint8), 1)),
        ((IF(),), spikes(3, 4, 4, steps=T + 1)),
    ],
    ids=range(8),
)
def test_output_spikes_are_unknown_where_something_else_arrives(
    between: tuple[Node, ...], arrived: Arrival | None
) -> None:
    assert pair(*between, arrived=arrived)[0]["conv"].out is None


def test_output_spikes_are_not_found_behind_a_pool_even_of_the_same_size() -> None:
    nodes: dict[str, Node] = {
        "in": Input((2, 4, 4)), "conv": Conv2d(2, 3, (1, 1)), "if": IF(), "pool": MaxPool2d((1, 1), (1, 1)),
        "next": Conv2d(3, 1, (3, 3)),
    }  # fmt: skip
    arrivals: dict[str, Arrival] = {
        "conv": spikes(2, 4, 4),
        "pool": Levels(np.ones((T, N, 3, 4, 4), np.uint8), 1),
        "next": spikes(3, 4, 4),
    }
    assert lowered(chain("n", nodes), arrivals)["conv"].out is None


def branched() -> tuple[Network, dict[str, Arrival]]:
    """conv feeds left, right and the sum of itself and left."""
    nodes: dict[str, Node] = {
        "in": Input((3, 4, 4)), "conv": Conv2d(3, 3, (1, 1)), "if": IF(), "left": Conv2d(3, 3, (1, 1)), "if left": IF(),
        "add": Add(), "right": MaxPool2d((2, 2), (2, 2)),
    }  # fmt: skip
    edges = (
        ("in", "conv"), ("conv", "if"), ("if", "left"), ("left", "if left"), ("if left", "add"), ("if", "add"),
        ("if", "right"),
    )  # fmt: skip
    conv = spikes(3, 4, 4)
    arrivals: dict[str, Arrival] = {
        "conv": spikes(3, 4, 4), "left": conv, "right": conv, "add": spikes(3, 4, 4)
    }  # fmt: skip
    return Network(nodes, edges), arrivals


def test_several_consumers_all_hold_the_output_and_a_sum_holds_none() -> None:
    network, arrivals = branched()
    workload = lowered(network, arrivals)
    out = workload["conv"].out
    assert out is not None and np.array_equal(out.packed, arrivals["left"].packed)  # type: ignore[union-attr]
    assert workload["left"].out is None  # a sum alone takes it in
    assert workload["add"].inputs == ("left", "conv")
    assert (workload["right"].inputs, workload["left"].inputs) == (("conv",), ("conv",))


def test_a_record_of_its_own_comes_before_what_arrives_elsewhere() -> None:
    network, arrivals = branched()
    own = spikes(3, 4, 4)
    workload = lowered(network, arrivals, outputs={"left": own, "conv": own}, updates={"left": own})
    for layer in (workload["left"], workload["conv"]):
        assert layer.out is not None and np.array_equal(layer.out.packed, own.packed)
    assert workload["left"].updates is not None and workload["conv"].updates is None


def test_a_recurrent_layer_does_not_take_its_own_arrival_for_its_output() -> None:
    nodes: dict[str, Node] = {"in": Input((3,)), "fc": Linear(3, 3), "if": IF()}
    layer = lowered(Network(nodes, (("in", "fc"), ("fc", "fc"), ("fc", "if"))), {"fc": spikes(3)}).layers[0]
    assert layer.recurrent and layer.inputs == ("fc",) and layer.out is None


# --- traces that do not fit --------------------------------------------------------------------------------------


def test_a_missing_layer_is_named_with_those_there_are() -> None:
    network = chain("n", {"in": Input((3,)), "fc1": Linear(3, 3), "if": IF(), "fc2": Linear(3, 3)})
    with pytest.raises(TraceError, match=r"layer 'fc2': the trace holds no spikes for it.*\['fc1'\]"):
        lowered(network, {"fc1": spikes(3)})


def test_a_map_of_another_size_or_of_other_samples_is_named() -> None:
    network = chain("n", {"in": Input((3,)), "fc": Linear(3, 3)})
    with pytest.raises(TraceError, match=r"layer 'fc': the trace holds a map of shape \[4\]"):
        lowered(network, {"fc": spikes(4)})
    with pytest.raises(TraceError, match=r"layer 'fc': the trace holds 3 samples of it, expected 2"):
        lowered(network, {"fc": spikes(3, samples=3)})


def test_a_map_may_arrive_flat_or_as_a_map() -> None:
    nodes: dict[str, Node] = {"in": Input((2, 3, 4)), "flatten": Flatten(), "fc": Linear(24, 3)}
    arrival = spikes(2, 3, 4)
    layers = [
        lowered(chain("n", nodes), {"fc": each}).layers[0] for each in (arrival, arrival.reshape((24,)))
    ]  # fmt: skip
    assert layers[0].id == layers[1].id
    assert layers[0].arrival.shape == (24, 1, 1)


def test_what_the_trace_says_is_what_the_workload_says() -> None:
    network = chain("n", {"in": Input((3,)), "fc": Linear(3, 3)})
    workload = lowered(network, {"fc": spikes(3, steps=2)})
    assert (workload.num_steps, workload.num_samples, workload.source, workload.warnings) == (T, N, "here", ())
    assert workload["fc"].num_steps == 2


# --- drawn traces ------------------------------------------------------------------------------------------------

RATES = st.floats(0, 1) | st.sampled_from((0.0, 1.0, 1e-30, 1 - 1e-12))


@st.composite
def rate_workloads(draw: st.DrawFn) -> RateWorkload:
    layers = []
    for k in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(("conv2d", "conv1d", "linear")))
        C, K = 2 * draw(st.integers(1, 2)), 2 * draw(st.integers(1, 2))
        more: dict[str, Any] = {} if kind == "linear" else dict(kernel=(1, 2), groups=draw(st.sampled_from((1, 2))))
        shape = {"conv2d": (C, 3, 4), "conv1d": (C, 4), "linear": (C,)}[kind]
        density = draw(st.none() | st.sampled_from((0.0, 0.5, 1.0)))
        layers.append(RateLayer(f"l{k}", kind, shape, K, draw(RATES), weight_density=density, **more))
    return RateWorkload(tuple(layers), draw(st.integers(1, 20)), draw(st.integers(1, 3)), draw(st.integers(0, 99)))


@settings(max_examples=40, deadline=None)
@given(rate_workloads())
def test_the_same_seed_draws_the_same_trace_and_another_seed_another(rates: RateWorkload) -> None:
    one = draw(rates)
    assert draw(rates).id == one.id
    other = draw(replace(rates, seed=rates.seed + 1))
    for layer, again in zip(one.layers, other.layers, strict=True):
        if (
            layer.arrival.events().size * layer.num_steps * layer.num_samples > 60
            and 0.2 < layer.arrival.density() < 0.8
        ):
            assert layer.id != again.id


@settings(max_examples=40, deadline=None)
@given(rate_workloads())
def test_a_drawn_trace_has_the_shapes_asked_for_and_says_it_is_synthetic(rates: RateWorkload) -> None:
    workload = draw(rates)
    assert workload.warnings == (SYNTHETIC,)
    assert "synthetic trace" in SYNTHETIC
    assert (workload.num_steps, workload.num_samples) == (rates.num_steps, rates.num_samples)
    for layer, rate in zip(workload.layers, rates.layers, strict=True):
        assert (layer.name, layer.kind, layer.K, layer.groups) == (rate.name, rate.kind, rate.out_channels, rate.groups)
        assert (layer.num_steps, layer.num_samples) == (rates.num_steps, rates.num_samples)
        assert np.prod(layer.arrival.shape) == np.prod(rate.in_shape)
        assert layer.neuron == NeuronRule("if")
        assert (layer.weight is None) == (rate.weight_density is None)
        if rate.weight_density in (0.0, 1.0):
            assert layer.weight is not None
            assert layer.weight.mean() == rate.weight_density
            assert layer.weight.size == layer.num_weights
        if rate.firing_rate in (0.0, 1.0):
            assert layer.arrival.density() == rate.firing_rate


@pytest.mark.parametrize("rate", [0.01, 0.3, 0.5, 0.99])
def test_the_density_of_a_drawn_trace_is_near_its_rate(rate: float) -> None:
    layer = draw(RateWorkload((RateLayer("a", "conv2d", (4, 20, 20), 1, rate, weight_density=rate),), 25, 4)).layers[0]
    spread = (rate * (1 - rate) / (25 * 4 * 1600)) ** 0.5
    assert abs(layer.arrival.density() - rate) < 5 * spread
    dense = draw(RateWorkload((RateLayer("a", "linear", (400,), 400, 0.1, weight_density=rate),), 1)).layers[0]
    assert dense.weight is not None
    assert abs(dense.weight.mean() - rate) < 5 * (rate * (1 - rate) / 160_000) ** 0.5


def test_layers_are_drawn_independently_of_one_another() -> None:
    a, b = RateLayer("a", "linear", (200,), 2, 0.5), RateLayer("b", "linear", (200,), 2, 0.5)
    drawn = [draw(RateWorkload(layers, 20)) for layers in ((a, b), (replace(a, firing_rate=0.1), b), (a, a))]
    arrivals = [[layer.arrival.unpack() for layer in each.layers] for each in drawn]  # type: ignore[union-attr]
    assert not np.array_equal(arrivals[0][0], arrivals[0][1])
    assert not np.array_equal(arrivals[0][0], arrivals[1][0])
    assert np.array_equal(arrivals[0][1], arrivals[1][1])
    assert abs(np.corrcoef(arrivals[0][0].ravel(), arrivals[0][1].ravel())[0, 1]) < 5 / 4000**0.5


def test_steps_and_samples_of_a_drawn_trace_differ() -> None:
    layer = draw(RateWorkload((RateLayer("a", "linear", (200,), 2, 0.5),), 3, 2)).layers[0]
    assert isinstance(layer.arrival, Spikes)
    frames = layer.arrival.unpack().reshape(6, -1)
    assert len({frame.tobytes() for frame in frames}) == 6


@pytest.mark.parametrize("each", [False, True])
def test_a_layer_carries_the_values_of_its_bias(each: bool) -> None:
    bias = np.arange(8.0).reshape(2, 2, 2) if each else np.array([0.0, 3.0])
    arrival = {"x": spikes(1, 3, 3)}
    for node, expected in (
        (Conv2d(1, 2, (2, 2), has_bias=True, bias=bias), bias.reshape((2, 2, 2) if each else (2, 1, 1))),
        (Conv2d(1, 2, (2, 2), has_bias=True), None),
        (Conv2d(1, 2, (2, 2)), None),
    ):
        found = lowered(chain("n", {"in": Input((1, 3, 3)), "x": node, "n": IF()}), arrival)["x"].bias
        assert found is None if expected is None else np.array_equal(found, expected)


def test_a_layer_without_neurons_says_whose_its_sums_reach() -> None:
    """Two layers into one neuron: the last to be executed has it, the other joins it; elsewhere nobody joins anybody."""
    nodes = {"in": Input((3,)), "a": Linear(3, 2), "b": Linear(3, 2), "n": IF(), "c": Linear(2, 1), "out": Output((1,))}
    edges = (("in", "a"), ("in", "b"), ("a", "n"), ("b", "n"), ("n", "c"), ("c", "out"))
    network = Network(nodes, edges)
    arrivals = {name: Spikes.pack(np.zeros((2, 1, size))) for name, size in (("a", 3), ("b", 3), ("c", 2))}
    workload = lower(network, SpikeTrace(2, 1, arrivals))
    assert {layer.name: (layer.joins, layer.neuron.kind) for layer in workload.layers} == {
        "a": ("b", "none"),
        "b": ("", "if"),
        "c": ("", "none"),
    }


def test_what_hears_a_joined_neuron_hears_the_layer_that_has_it() -> None:
    """Behind the neuron the owner alone is heard, it knows its branches, and its spikes are what arrives there."""
    nodes = {
        "in": Input((3,)),
        "a": Linear(3, 2, True),
        "b": Linear(3, 2),
        "n": IF(),
        "c": Linear(2, 1),
        "out": Output((1,)),
    }
    edges = (("in", "a"), ("in", "b"), ("a", "n"), ("b", "n"), ("n", "c"), ("c", "out"))
    sent = Spikes.pack(np.array([[[1, 0]], [[0, 1]]]))
    empty = Spikes.pack(np.zeros((2, 1, 3)))
    workload = lower(Network(nodes, edges), SpikeTrace(2, 1, {"a": empty, "b": empty, "c": sent}))
    branch, owner, reader = workload.layers
    assert [layer.inputs for layer in workload.layers] == [(), (), ("b",)]
    assert owner.branches == (branch,) and not branch.branches and branch.out is None
    assert owner.out is not None and np.array_equal(owner.out.unpack(), sent.unpack().reshape(2, 1, 2, 1, 1))
    assert (owner.biased, branch.biased, reader.biased) == (
        True,
        False,
        False,
    )  # the bias of a acts on the neurons of b


def test_a_drawn_workload_is_another_than_the_same_spikes_recorded() -> None:
    """A machine may chain the layers of the one and not of the other, so that their ids must differ."""
    drawn = draw(RateWorkload((RateLayer("fc", "linear", (20,), 10, 0.3),), 4))
    assert drawn.drawn and replace(drawn, drawn=False).id != drawn.id


@pytest.mark.parametrize(
    ("neuron", "restless"),
    [
        (IF(1.0, v_init=1.0), True), (IF(1.0, strict=True, v_init=1.0), False), (IF(1.0, v_reset=1.5), True), (IF(1.0, v_init=0.9), False),
        (LIF(Leak(factor=0.5), 1.0, v_init=1.5), False), (LIF(Leak(factor=0.5), 1.0, v_reset=2.0), True),
        (IF(np.array([1.0, 2.0]), v_init=1.5), True),
    ],
)  # fmt: skip
def test_neurons_that_fire_without_input_have_no_reset_for_a_machine(neuron: IF | LIF, restless: bool) -> None:
    """Held against the network's own spikes: of one sample nothing arrives at all, of the other nothing behind the first step."""
    weight = np.full((2, 2), 9, np.float32)
    nodes: dict[str, Node] = {"in": Input((2,)), "fc": Linear(2, 2, weight=weight), "n": neuron, "out": Output((2,))}
    network, frames = chain("n", nodes), np.zeros((4, 2, 2), np.uint8)
    frames[0, 1] = 1
    trace = emulate(network, frames, 4, delay=0)
    fired = trace.outputs["fc"].unpack()
    assert fired[0, 1].all() and (fired[:, 0].any() or fired[1:, 1].any()) == restless
    assert lower(network, trace).layers[0].neuron.reset == ("none" if restless else "hard")
