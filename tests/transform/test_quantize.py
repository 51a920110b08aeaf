"""From floats to integers: lossless on a grid, exact about units, honest about widths, and refusing by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloom.core.network import Network, chain
from spikeloom.core.nodes import (
    IF,
    LI,
    LIF,
    Add,
    AvgPool2d,
    BatchNorm,
    ClippedReLU,
    Conv2d,
    CubaLIF,
    Delay,
    Firing,
    Flatten,
    Input,
    Leak,
    Linear,
    MaxPool2d,
    Output,
    ReLU,
    Scale,
    SumPool2d,
    Synapse,
)
from spikeloom.data import load
from spikeloom.errors import NetworkError
from spikeloom.evaluate import evaluate as bill
from spikeloom.evaluate import load_machine, load_workload
from spikeloom.files.network import read_network, write_network
from spikeloom.files.store import write_trace
from spikeloom.nets import create
from spikeloom.snn import Execution, TrainConfig, evaluate, input_frames, record, train
from spikeloom.snn.execute import encoded_batches, runnable
from spikeloom.transform.fold import fold
from spikeloom.transform.quantize import Widths, on_grid, overflows, quantize
from tests.snn.toys import Pixels, spiking_frames, stripes, tiny_cnn

SHAPE = (2, 6, 6)
T, N = 8, 3
EVENTS = Execution(T, "events")


def frames(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> Pixels:
    return Pixels(spiking_frames(T, N, shape, 0.3, seed), np.zeros(N, np.int64), 1)


def levels(generator: np.random.Generator, shape: tuple[int, ...], step: Any, most: int = 3) -> np.ndarray:
    """Weights on a grid; ``step`` broadcasts."""
    array: np.ndarray = (generator.integers(-most, most + 1, shape) * step).astype(np.float32)
    return array


def sent(network: Network, source: Pixels, execution: Execution = EVENTS) -> dict[str, np.ndarray]:
    """What every spiking neuron sends, (T, N, *shape), and the predictions."""
    module = runnable(network)
    parts: dict[str, list[np.ndarray]] = {}

    def watch(name: str, arrived: torch.Tensor, out: torch.Tensor) -> None:
        if isinstance(network.nodes[name], Firing):
            parts.setdefault(name, []).append(out.numpy().astype(np.int64))

    scores = []
    with torch.no_grad():
        for _, encoded in encoded_batches(source, execution, module.input_node):
            trajectory = module(input_frames(module, encoded), execution.num_steps, encoded.constant, watch)
            scores.append(module.scores(trajectory).argmax(1).numpy())
    return {name: np.concatenate(each, 1) for name, each in parts.items()} | {"predicted": np.concatenate(scores)}


def assert_same_spikes(one: Network, other: Network, source: Pixels, execution: Execution = EVENTS) -> None:
    first, second = sent(one, source, execution), sent(other, source, execution)
    assert first.keys() == second.keys()
    for name in first:
        assert np.array_equal(first[name], second[name]), name


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Two convolutions with pools at many places, and a read-out, all on grids of 8 steps a unit or a divisor of it."""
    generator = np.random.default_rng(draw(st.integers(0, 2**31)))
    steps = generator.choice([0.125, 0.25, 0.5], (4, 1, 1, 1))
    reset: Any = draw(st.sampled_from(["hard", "soft", "none"]))
    has_bias = draw(st.booleans())
    bias = levels(generator, (4,), steps.reshape(4)) if has_bias else None
    firing = IF(
        draw(st.sampled_from([0.5, 1.0, 1.5])),
        reset,
        draw(st.booleans()),
        draw(st.sampled_from([0.0, 0.5])),
        max_level=draw(st.sampled_from([1, 3])),
        late_reset=draw(st.booleans()),
    )
    pool = draw(st.sampled_from([AvgPool2d, SumPool2d, MaxPool2d]))((2, 2), (2, 2))
    nodes: dict[str, Any] = {
        "in": Input(SHAPE),
        "conv1": Conv2d(
            2, 4, (3, 3), padding=(1, 1), has_bias=has_bias, weight=levels(generator, (4, 2, 3, 3), steps), bias=bias
        ),
    }
    before = draw(st.booleans())
    if before:
        nodes["pool"] = pool
    if draw(st.booleans()):
        nodes["scale"] = Scale(np.array([2.0]))
    nodes["n1"] = firing
    if not before:
        nodes["pool"] = pool
    nodes |= {
        "conv2": Conv2d(4, 4, (2, 2), weight=levels(generator, (4, 4, 2, 2), steps)),
        "flat": Flatten(),
        "n2": replace(firing, v_threshold=generator.choice([0.5, 1.0], 16)),
        "fc": Linear(16, 3, weight=levels(generator, (3, 16), 0.25)),
        "li": LI(),
        "out": Output((3,)),
    }
    return chain("grid", nodes)


@settings(max_examples=60, deadline=None)
@given(networks(), st.sampled_from(["tensor", "channel"]), st.sampled_from(["max", "mse"]), st.integers(0, 99))
def test_weights_on_a_grid_lose_nothing(network: Network, per: Any, scale: Any, seed: int) -> None:
    integers = quantize(network, Widths(per=per, scale=scale))
    assert integers.arithmetic == "integer"
    assert_same_spikes(network, integers, frames(seed=seed))


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("reset", ["hard", "none"])
def test_a_threshold_between_two_sums_fires_at_the_same_ones(strict: bool, reset: Any) -> None:
    generator = np.random.default_rng(1)
    nodes: dict[str, Any] = {
        "in": Input((12,)),
        "fc": Linear(12, 20, weight=levels(generator, (20, 12), 0.25, 1)),
        "n": IF(0.6, reset, strict),  # 2.4 steps: rounded to 2 it would fire too early
        "out": Output((20,)),
    }
    integers = quantize(chain("net", nodes), Widths(weight_bits=2))
    neuron: Any = integers.nodes["n"]
    assert neuron.v_threshold == (2 if strict else 3)
    assert_same_spikes(chain("net", nodes), integers, frames((12,)))


def test_late_loops_and_currents_lose_nothing() -> None:
    """Leaks of exactly 0 and 1 have no rounding; a loop brings spikes back through a synapse of its own."""
    generator = np.random.default_rng(2)
    nodes: dict[str, Any] = {
        "in": Input((5,)),
        "fc": Linear(5, 6, weight=levels(generator, (6, 5), 0.25)),
        "n": CubaLIF(Leak(factor=1.0), Leak(factor=0.0), 1.0, "soft"),
        "delay": Delay(2),
        "back": Linear(6, 6, weight=levels(generator, (6, 6), 0.125)),
        "out": Output((6,)),
    }
    edges = (("in", "fc"), ("fc", "n"), ("n", "out"), ("n", "delay"), ("delay", "back"), ("back", "n"))
    network = Network(nodes, edges)
    integers = quantize(network)
    assert_same_spikes(network, integers, frames((5,)))
    assert "'fc', 'back' reach one neuron and share their step" in integers.metadata["quantized"]["notes"]


def residual(skip_pool: Any) -> Network:
    """Two paths of convolutions that meet in an Add, one of them through a pool."""
    generator = np.random.default_rng(3)
    steps = np.array([0.125, 0.25, 0.5]).reshape(3, 1, 1, 1)
    nodes: dict[str, Any] = {
        "in": Input(SHAPE),
        "a": Conv2d(2, 3, (3, 3), (2, 2), (1, 1), weight=levels(generator, (3, 2, 3, 3), steps)),
        "b": Conv2d(2, 3, (1, 1), weight=levels(generator, (3, 2, 1, 1), steps)),
        "pool": skip_pool,
        "add": Add(),
        "n": IF(1.0, "soft", v_init=0.5),
        "out": Output((3, 3, 3)),
    }
    edges = (("in", "a"), ("in", "b"), ("b", "pool"), ("a", "add"), ("pool", "add"), ("add", "n"), ("n", "out"))
    return Network(nodes, edges)


@pytest.mark.parametrize("pool", [AvgPool2d((2, 2), (2, 2)), SumPool2d((2, 2), (2, 2)), MaxPool2d((2, 2), (2, 2))])
def test_paths_that_meet_share_a_step_in_units_of_where_they_meet(pool: Any) -> None:
    network = residual(pool)
    integers = quantize(network)
    assert_same_spikes(network, integers, frames())
    steps = on_grid(network, Widths())[1].steps
    ratio = steps["b"].reshape(-1) / steps["a"].reshape(-1)
    np.testing.assert_allclose(ratio, 4 if isinstance(pool, AvgPool2d) else 1)


def test_units_of_pixels_and_means_go_into_the_weights() -> None:
    """Threshold over weight, in levels: 255 for a pixel, 4 for a mean of four, both for the mean of four pixels."""
    weight = np.array([[[[0.5]]]], np.float32)
    for between, factor in (({}, 255), ({"pool": AvgPool2d((2, 2), (2, 2))}, 4 * 255)):
        side = 2 if between else 4
        nodes: dict[str, Any] = {
            "in": Input((1, 4, 4), "analog"),
            **between,
            "conv": Conv2d(1, 1, (1, 1), weight=weight),
        }
        nodes |= {"n": IF(1.0), "out": Output((1, side, side))}
        integers = quantize(chain("net", nodes), Widths(scale="max"))
        conv, neuron = integers.nodes["conv"], integers.nodes["n"]
        assert isinstance(conv, Conv2d) and conv.weight is not None and conv.weight.flat[0] == 127
        assert isinstance(neuron, IF) and neuron.v_threshold == 2 * 127 * factor
        assert ("pool" not in integers.nodes) or isinstance(integers.nodes["pool"], SumPool2d)


@given(st.integers(0, 2**31), st.integers(2, 8), st.sampled_from(["max", "mse"]), st.booleans())
@settings(max_examples=40, deadline=None)
def test_weights_are_in_their_range_and_within_half_a_step(seed: int, bits: int, scale: Any, ternary: bool) -> None:
    generator = np.random.default_rng(seed)
    weight = generator.normal(0, 0.3, (5, 7)).astype(np.float32)
    nodes: dict[str, Any] = {"in": Input((7,)), "fc": Linear(7, 5, weight=weight), "n": IF(), "out": Output((5,))}
    widths = Widths(weight_bits=bits, scale=scale, ternary=ternary)
    network = chain("net", nodes)
    node = quantize(network, widths).nodes["fc"]
    assert isinstance(node, Linear) and node.weight is not None
    most = 1 if ternary else 2 ** (bits - 1) - 1
    assert node.weight.dtype == np.int8
    assert (np.abs(node.weight).max(1) == most).all()
    assert node.weight_bits == (2 if ternary else bits)
    step = on_grid(network, widths)[1].steps["fc"]
    inside = np.abs(node.weight) < most
    off = np.abs(weight - node.weight * step)
    assert (off <= step / 2 * (1 + 1e-6))[inside].all()
    if scale == "max" and not ternary:
        assert (off <= step / 2 * (1 + 1e-6)).all()


def test_one_channel_does_not_change_another_but_for_a_tensor() -> None:
    weight = np.random.default_rng(4).normal(size=(3, 8)).astype(np.float32)
    nodes: dict[str, Any] = {"in": Input((8,)), "fc": Linear(8, 3, weight=weight), "n": IF(), "out": Output((3,))}
    louder = {**nodes, "fc": Linear(8, 3, weight=weight * np.array([[1], [1], [50]], np.float32))}
    for per, same in (("channel", True), ("tensor", False)):
        widths = Widths(per=per)  # type: ignore[arg-type]
        one, other = (_weight(quantize(chain("net", each), widths), "fc") for each in (nodes, louder))
        assert np.array_equal(one[:2], other[:2]) is same


def test_layers_may_have_bits_of_their_own() -> None:
    network = fold(train(tiny_cnn(norm=False), stripes(32), TrainConfig(num_steps=4, epochs=1)).network)
    mixed = quantize(network, Widths(weight_bits=8, layer_bits={"conv2": 3}))
    for name, bits in (("conv1", 8), ("conv2", 3), ("fc", 8)):
        alone = quantize(network, Widths(weight_bits=bits)).nodes[name]
        node = mixed.nodes[name]
        assert isinstance(node, Synapse) and isinstance(alone, Synapse)
        assert node.weight_bits == bits and int(np.abs(_weight(mixed, name)).max()) <= 2 ** (bits - 1) - 1
        np.testing.assert_array_equal(node.weight, alone.weight)
    _, rule = on_grid(network, Widths(weight_bits=8, layer_bits={"conv2": 3}))
    assert rule.largest == {"conv1": 127, "conv2": 3, "fc": 127}
    with pytest.raises(NetworkError, match="layer_bits names 'conv3', expected one of conv1, conv2, fc"):
        quantize(network, Widths(layer_bits={"conv3": 4}))
    with pytest.raises(NetworkError, match="'conv2' must be"):
        Widths(layer_bits={"conv2": 9})
    assert Widths(layer_bits={"conv2": 3}).label == "8/3 bit"


def test_scores_at_the_output_have_one_unit() -> None:
    generator = np.random.default_rng(5)
    weight = (generator.normal(size=(4, 9)) * np.array([[0.1], [1], [1], [3]])).astype(np.float32)
    for end in ({"li": LI()}, {}):
        nodes: dict[str, Any] = {"in": Input((9,)), "fc": Linear(9, 4, weight=weight), **end, "out": Output((4,))}
        network = chain("net", nodes)
        integers = quantize(network)
        ratio = _weight(integers, "fc") / weight
        assert np.median(ratio[3]) == pytest.approx(np.median(ratio[1]), rel=0.05)
        assert "'fc': one step for the whole tensor" in integers.metadata["quantized"]["notes"][0]
        one, other = record(network, frames((9,)), EVENTS), record(integers, frames((9,)), EVENTS)
        assert np.array_equal(one.predictions, other.predictions)  # type: ignore[arg-type]


def test_what_the_integers_say_of_themselves() -> None:
    generator = np.random.default_rng(6)
    fc = Linear(6, 4, True, weight=generator.normal(size=(4, 6)).astype(np.float32), bias=np.ones(4, np.float32))
    nodes: dict[str, Any] = {"in": Input((6,)), "fc": fc, "n": LIF(Leak(shift=3), 1.0, v_reset=-0.25)}
    nodes |= {
        "fc2": Linear(4, 2, weight=generator.normal(size=(2, 4)).astype(np.float32)),
        "li": LI(),
        "out": Output((2,)),
    }
    parent = Network(
        chain("net", nodes).nodes, chain("net", nodes).edges, "net", 1e-3, {"test_accuracy": 0.9, "seed": 1}
    )
    widths = Widths(weight_bits=5, bias_bits=9, membrane_bits=12, readout_bits=20, overflow="wrap")
    network = quantize(parent, widths)
    assert (network.name, network.dt_s, network.arithmetic) == ("net", 1e-3, "integer")
    assert "test_accuracy" not in network.metadata and network.metadata["seed"] == 1
    told = network.metadata["quantized"]
    assert told["parent"] == parent.id and told["widths"]["bias_bits"] == 9
    synapse, neuron, li = (network.nodes[name] for name in ("fc", "n", "li"))
    assert isinstance(synapse, Linear) and isinstance(neuron, LIF) and isinstance(li, LI)
    assert (synapse.weight_bits, synapse.bias_bits, neuron.membrane_bits, li.membrane_bits) == (5, 9, 12, 20)
    assert neuron.overflow == li.overflow == "wrap"
    assert neuron.leak == Leak(shift=3)
    assert synapse.bias is not None and synapse.bias.dtype == np.int8
    assert np.all(np.asarray(neuron.v_reset) == np.rint(neuron.v_reset)) and np.all(np.asarray(neuron.v_reset) < 0)
    arithmetic = record(network, frames((6,)), EVENTS).extra["meta"]["arithmetic"]
    assert arithmetic == "integer: weights 5 bit, biases 9 bit, membranes 12/20 bit wrap"


def test_biases_beyond_their_word_saturate_and_are_told() -> None:
    bias = np.array([0.1, -90.0, 90.0], np.float32)
    weight = np.array([[1, 0.31, -0.77, 0.123]] * 3, np.float32)
    fc = Linear(4, 3, True, weight=weight, bias=bias)
    network = chain("net", {"in": Input((4,)), "fc": fc, "n": IF(), "out": Output((3,))})
    integers = quantize(network, Widths(bias_bits=8, scale="max"))
    node: Any = integers.nodes["fc"]
    assert node.bias[1:].tolist() == [-128, 127]
    assert integers.metadata["quantized"]["notes"] == [
        "2 of 3 biases of 'fc' saturate at 8 bits; 15 bits would hold all, or coarser steps (bias_fit)"
    ]
    fitted = quantize(network, Widths(bias_bits=8, bias_fit=True))
    node = fitted.nodes["fc"]
    assert node.bias[1:].tolist() == [-127, 127]
    assert node.weight[1].tolist() == [1, 0, -1, 0]  # what is left in steps of 90/127
    assert "saturate" not in " ".join(fitted.metadata["quantized"]["notes"])
    held: Any = quantize(network, Widths(bias_bits=15, scale="max")).nodes["fc"]
    assert np.abs(held.bias).max() == pytest.approx(90 * 127, rel=1e-3)


def test_thresholds_of_few_steps_are_told() -> None:
    weight = np.array([[0.7, -0.7, 0.0]], np.float32)
    network = chain(
        "net", {"in": Input((3,)), "fc": Linear(3, 1, weight=weight), "n": IF(1.0, "soft"), "out": Output((1,))}
    )
    notes = quantize(network, Widths(ternary=True)).metadata["quantized"]["notes"]
    assert notes == ["thresholds of 'n' are 1..1 steps, rounding moves them by up to 30 %"]


def recurrent(encoding: Any, back: float) -> Network:
    """Inputs and spikes of the neuron itself meet in it, the latter through weights ``back`` times as large."""
    generator = np.random.default_rng(7)
    weight = generator.normal(size=(6, 8)).astype(np.float32)
    rec = back * generator.normal(size=(6, 6)).astype(np.float32)
    nodes: dict[str, Any] = {"in": Input((8,), encoding), "fc": Linear(8, 6, weight=weight), "n": LIF(Leak(shift=3))}
    nodes |= {"delay": Delay(1), "rec": Linear(6, 6, weight=rec), "out": Output((6,))}
    edges = (("in", "fc"), ("fc", "n"), ("n", "out"), ("n", "delay"), ("delay", "rec"), ("rec", "n"))
    return Network(nodes, edges)


def test_layers_of_which_few_levels_are_left_are_told() -> None:
    """A pixel is worth 1/255 of a spike: in the step of a spike's weights little is left of a pixel's."""

    def notes(network: Network, **widths: Any) -> list[str]:
        told: list[str] = quantize(network, Widths(**widths)).metadata["quantized"]["notes"]
        return [note for note in told if "levels" in note or "become 0" in note]

    shared = "it shares its step with 'rec'"
    pixels = quantize(recurrent("analog", 0.3), Widths())
    left = int(np.abs(_weight(pixels, "fc")).max())
    assert 0 < left < 8
    assert notes(recurrent("analog", 0.3)) == [f"'fc' keeps only {left} of 127 levels: {shared}"]
    assert not _weight(quantize(recurrent("analog", 0.3), Widths(weight_bits=4)), "fc").any()
    gone = f"all weights of 'fc' become 0: {shared}; take more weight bits"
    assert notes(recurrent("analog", 0.3), weight_bits=4) == [gone]
    assert notes(recurrent("spikes", 1.0)) == []  # both use most of the levels
    assert notes(recurrent("spikes", 0.0)) == []  # zeros before are no loss

    weight = np.array([[1, 0.31, -0.77], [0.9, 0.123, 0.3], [0.001, 0.002, 0.0011]], np.float32)
    one = chain("net", {"in": Input((3,)), "fc": Linear(3, 3, weight=weight), "n": IF(), "out": Output((3,))})
    assert notes(one, weight_bits=4) == []
    dead = "1 of 3 channels of 'fc' become 0: one step counts for all channels"
    assert notes(one, weight_bits=4, per="tensor") == [dead]
    bias = np.array([0.0, 90.0, 0.0], np.float32)
    loud = replace(one, nodes={**one.nodes, "fc": Linear(3, 3, True, weight=weight, bias=bias)})
    assert notes(loud, bias_bits=8, bias_fit=True) == [
        "1 of 3 channels of 'fc' keep only 1 of 127 levels: steps are coarse enough for biases (bias_fit)"
    ]


def test_a_network_on_few_levels_keeps_them_without_a_note() -> None:
    weight = np.array([[1, -1, 0, 1]], np.float32)
    network = chain("net", {"in": Input((4,)), "fc": Linear(4, 1, weight=weight), "n": IF(), "out": Output((1,))})
    assert quantize(network).metadata["quantized"]["notes"] == []


@pytest.mark.parametrize("shape", [(1, 1, 1), (1,), (1, 3, 3)])
def test_one_channel_may_have_its_values_in_arrays(shape: tuple[int, ...]) -> None:
    weight = levels(np.random.default_rng(8), (1, 2, 4, 4), 0.25)
    neuron = IF(np.full(shape, 1.5), v_reset=np.full(shape, -0.5), v_init=np.full(shape, 0.25))
    nodes: dict[str, Any] = {"in": Input(SHAPE), "conv": Conv2d(2, 1, (4, 4), weight=weight), "n": neuron}
    network = chain("net", {**nodes, "out": Output((1, 3, 3))})
    assert_same_spikes(network, quantize(network), frames())


@pytest.mark.parametrize(
    ("weight", "bias", "threshold", "words"),
    [
        (1e-310, 0.0, 1.0, "v_threshold of node 'n' is 1.0, too far"),
        (1e-8, 0.0, 1e308, r"v_threshold of node 'n' is 1e\+308, too far"),
        (1e-310, 1.0, 1e-310, "bias of layer 'fc' is 0.0..1.0, too far"),
    ],
)
def test_values_too_far_apart_for_floats_are_refused_by_name(
    weight: float, bias: float, threshold: float, words: str
) -> None:
    fc = Linear(3, 2, True, weight=weight * np.array([[0.3, 0.11, 0.7], [1, 0.2, 0.33]]), bias=np.array([0, bias]))
    network = chain("net", {"in": Input((3,)), "fc": fc, "n": IF(threshold), "out": Output((2,))})
    with pytest.raises(NetworkError, match=words):
        quantize(network)


def test_membranes_beyond_their_word_are_counted() -> None:
    """One neuron, +100 a step, never fires: of a word of 9 bits (-256..255) six of eight steps are too much, wrapping five."""
    nodes: dict[str, Any] = {"in": Input((1,)), "fc": Linear(1, 1, weight=np.array([[100]], np.int8))}
    nodes |= {"n": IF(255.0, "none", True, membrane_bits=9), "out": Output((1,))}
    source = Pixels(np.ones((T, 2, 1), np.uint8), np.zeros(2, np.int64), 1)
    assert overflows(chain("net", nodes), source, EVENTS) == {"n": 6.0}
    nodes["n"] = replace(nodes["n"], overflow="wrap")
    # 100 200 [300=-212] -112 -12 88 188 [288=-224]
    assert overflows(chain("net", nodes), source, EVENTS) == {"n": 2.0}
    nodes["n"] = LI(membrane_bits=9)
    assert overflows(chain("net", nodes), source, EVENTS) == {"n": 6.0}
    assert overflows(residual(MaxPool2d((2, 2), (2, 2))), frames(), EVENTS) == {}


ONES = np.ones((3, 3), np.float32)
FC = Linear(3, 3, weight=ONES)
IN, OUT = Input((3,)), Output((3,))
SKIP = (("in", "a"), ("a", "n"), ("n", "b"), ("b", "m"), ("n", "m"), ("m", "out"))
CONV = Conv2d(2, 2, (1, 1), weight=np.ones((2, 2, 1, 1), np.float32))
TWICE = (("in", "a"), ("a", "p"), ("a", "add"), ("p", "add"), ("add", "n"), ("n", "out"))


@pytest.mark.parametrize(
    ("nodes", "edges", "words"),
    [
        ({"in": IN, "fc": FC, "n": ReLU(), "out": OUT}, None, "'n' is a ReLU.*convert the network"),
        ({"in": IN, "fc": FC, "n": ClippedReLU(1.0, 4), "out": OUT}, None, "'n' is a ClippedReLU.*convert"),
        ({"in": IN, "fc": FC, "bn": BatchNorm(3), "n": IF(), "out": OUT}, None, "'bn' is a BatchNorm; fold it first"),
        ({"in": IN, "fc": Linear(3, 3), "n": IF(), "out": OUT}, None, "'fc' has no weights"),
        ({"in": IN, "fc": Linear(3, 3, True, weight=ONES), "n": IF(), "out": OUT}, None, "'fc' has no bias"),
        ({"in": IN, "fc": Linear(3, 3, weight=ONES * np.nan), "n": IF(), "out": OUT}, None, "'fc' .*NaN or infinity"),
        ({"in": IN, "fc": FC, "n": IF(None), "out": OUT}, None, "'n' \\(IF\\) has no threshold"),
        ({"in": IN, "fc": FC, "s": Scale(np.array([1.0, 2, 3])), "n": IF(), "out": OUT}, None, "'s' is a Scale by 1.0..3.0"),
        ({"in": IN, "fc": FC, "s": Scale(np.array([-1.0])), "n": IF(), "out": OUT}, None, "'s' is a Scale.*positive"),
        ({"in": IN, "fc": Linear(3, 3, weight=ONES.astype(np.int8)), "n": IF(), "out": OUT}, None, "integers already"),
        ({"in": IN, "fc": FC, "fc2": FC, "n": IF(), "out": OUT}, None, "'fc2' gets the sums of fc"),
        ({"in": IN, "n": IF(1.5), "fc": FC, "m": IF(), "out": OUT}, None, "'n' gets levels without a synapse.* 1.5"),
        ({"in": IN, "a": FC, "n": IF(), "b": FC, "m": IF(), "out": OUT}, SKIP, "'m' \\(IF\\) adds levels from 'n'.*a synapse"),
        (
            {"in": Input((2, 4, 4)), "a": CONV, "p": AvgPool2d((3, 3), (1, 1), (1, 1)), "add": Add(), "n": IF(), "out": Output((2, 4, 4))},
            TWICE,
            "'add' \\(Add\\) gets the sums of 'a' twice",
        ),
        ({"in": IN, "fc": FC, "n": IF(5000.0), "out": OUT}, None, "'n' needs membranes of at least 21 bits.*635000 steps, got 16"),
    ],
)  # fmt: skip
def test_what_has_no_integer_form_is_refused_by_name(nodes: Any, edges: Any, words: str) -> None:
    network = chain("net", nodes) if edges is None else Network(nodes, edges)
    for refuses in (quantize, on_grid):
        with pytest.raises(NetworkError, match=words):
            refuses(network, Widths(membrane_bits=16))


@pytest.mark.parametrize(
    "words",
    [{"weight_bits": 9}, {"weight_bits": 1}, {"bias_bits": 1}, {"membrane_bits": 49}, {"per": "row"}, {"overflow": "trap"}, {"scale": "median"}],
)  # fmt: skip
def test_widths_out_of_range(words: Mapping[str, Any]) -> None:
    with pytest.raises(NetworkError, match=next(iter(words))):
        Widths(**words)


def test_spikes_that_reach_a_neuron_without_a_synapse_count_in_levels() -> None:
    nodes: dict[str, Any] = {"in": Input((1, 4, 4)), "pool": AvgPool2d((2, 2), (2, 2)), "n": IF(0.5, "soft")}
    fc = Linear(4, 2, weight=np.array([[1, 1, 0, 0], [0, 0, 1, 1]], np.float32))
    nodes |= {"flat": Flatten(), "fc": fc, "m": IF(), "out": Output((2,))}
    network = chain("net", nodes)
    integers = quantize(network)
    neuron = integers.nodes["n"]
    assert isinstance(neuron, IF) and neuron.v_threshold == 2
    assert_same_spikes(network, integers, frames((1, 4, 4)))


def _weight(network: Network, name: str) -> np.ndarray:
    weight = getattr(network.nodes[name], "weight", None)
    assert isinstance(weight, np.ndarray)
    return weight


@cache
def digits() -> Network:
    """A small network that has learned the digits."""
    network = create("mlp", (1, 8, 8), 10, batch_norm=False, width=0.5)
    return train(network, load("digits", "train"), TrainConfig(num_steps=4, epochs=10)).network


def test_eight_bits_keep_the_accuracy_and_a_file_keeps_the_integers(tmp_path: Path) -> None:
    network, test, execution = digits(), load("digits", "test"), Execution(4)
    before = evaluate(network, test, execution)
    assert before > 0.95
    integers = quantize(network)
    after = evaluate(integers, test, execution)
    assert abs(after - before) <= 0.005
    assert overflows(integers, test.take(np.arange(20)), execution) == dict.fromkeys(
        (name for name, node in integers.nodes.items() if isinstance(node, LIF | LI)), 0
    )
    write_network(tmp_path / "n.npz", integers)
    read = read_network(tmp_path / "n.npz")
    assert read.id == integers.id and read.metadata == integers.metadata
    rough = evaluate(quantize(network, Widths(ternary=True, per="tensor")), test, execution)
    assert rough < after  # or the bits do not matter at all


def test_pixels_means_leaks_and_biases_differ_from_floats_on_the_grid_only_by_rounding() -> None:
    network = fold(train(tiny_cnn(), stripes(96), TrainConfig(num_steps=6, epochs=2, learning_rate=1e-2)).network)
    prepared, rule = on_grid(network, Widths())
    nodes = dict(prepared.nodes)
    for name, node in prepared.nodes.items():
        if isinstance(node, Synapse):
            nodes[name] = replace(node, weight=rule(name, torch.from_numpy(_weight(network, name))).numpy())
            assert not np.array_equal(_weight(network, name), _weight(replace(prepared, nodes=nodes), name))
    floats = sent(replace(prepared, nodes=nodes), stripes(40, seed=5), Execution(6))
    integers = sent(quantize(network), stripes(40, seed=5), Execution(6))
    for name in ("neuron1", "neuron2"):
        assert 0.02 < floats[name].mean() < 0.9
        assert np.mean(floats[name] != integers[name]) < 0.01
    assert np.mean(floats["predicted"] != integers["predicted"]) <= 0.05


@pytest.mark.parametrize("bits", [2, 4])
def test_what_is_trained_on_the_grid_is_stored_as_it_was(bits: int) -> None:
    """Integrate-and-fire: floats on the grid and integers then do the same, spike by spike, but for sums of pixels in floats."""
    widths = Widths(weight_bits=bits)
    network = tiny_cnn("spikes", norm=False)
    network = replace(network, nodes={k: IF() if isinstance(n, LIF) else n for k, n in network.nodes.items()})
    config = TrainConfig(num_steps=6, encoding="rate", epochs=2, learning_rate=1e-2)
    start = train(network, stripes(96), replace(config, initial_rate=0.2)).network
    prepared, rule = on_grid(start, widths)
    tuned = train(prepared, stripes(96), config, weight_rule=rule).network
    integers = quantize(tuned, widths)
    changed = False
    for name, node in tuned.nodes.items():
        if isinstance(node, Synapse):
            stored: Any = integers.nodes[name]
            assert node.weight is not None
            step = on_grid(tuned, widths)[1].steps[name]
            assert np.array_equal((stored.weight * step).astype(np.float32), node.weight), name
            changed |= not np.array_equal(node.weight, rule(name, torch.from_numpy(_weight(start, name))).numpy())
    assert changed
    assert_same_spikes(tuned, integers, stripes(40, seed=5), Execution(6, "rate"))


def test_a_machine_is_fed_the_bits_of_the_network(tmp_path: Path) -> None:
    weight_energy = []
    for bits in (8, 4):
        integers = quantize(digits(), Widths(weight_bits=bits))
        trace = record(integers, load("digits", "test").take(np.arange(4)), Execution(4))
        assert f"weights {bits} bit" in trace.extra["meta"]["arithmetic"]
        write_trace(tmp_path / "t.npz", integers, trace, weights=True)
        workload = load_workload(tmp_path / "t.npz")
        assert {layer.weight_bits for layer in workload.layers} == {bits}
        for layer in workload.layers:
            assert layer.weight is not None and layer.weight.dtype == np.int8
            assert np.array_equal(layer.weight[:, :, 0, 0], _weight(integers, layer.name))
        report = bill(workload, load_machine("spikex")[1])
        weight_energy.append(report.by("component")["dram_weight"])
    assert weight_energy[1] == pytest.approx(weight_energy[0] / 2, rel=0.02)  # a few other spikes
