"""Integer networks: the torch executor equals nested loops over Python's integers, bit for bit, at every node and step."""

from __future__ import annotations

from dataclasses import replace
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
    Scale,
    Shape,
    SumPool2d,
)
from spikeloom.core.trace import Levels
from spikeloom.errors import NetworkError
from spikeloom.snn import Execution, build, input_frames, record
from spikeloom.snn.encode import encode
from tests.reference.integer import run
from tests.reference.sketch import Sketch

from .toys import Pixels

#: Largest weight -> largest membrane word: sums of 24 bits stay in float32, larger ones need float64.
MAGNITUDES = {2: 8, 60: 14, 2**20: 30, 2**28: 48}


class Builder(Sketch):
    """A random integer network in the making."""

    def __init__(self, draw: st.DrawFn, shape: Shape, encoding: Any) -> None:
        super().__init__(draw, shape, encoding)
        self.magnitude = draw(st.sampled_from(tuple(MAGNITUDES)))

    def numbers(self, lowest: int, highest: int, shape: Shape) -> Any:
        """One number, one for each channel, or one for each neuron."""
        extents = self.draw(st.sampled_from(((), (shape[0], *[1] * (len(shape) - 1)), shape)))
        found = self.rng.integers(lowest, highest + 1, extents)
        return found if extents else int(found)

    def leak(self, shape: Shape) -> Leak:
        if self.draw(st.booleans()):
            return Leak(shift=self.draw(st.sampled_from((1, 2, 5, 31))))
        return Leak(factor=self.numbers(0, 10, shape) / 10)

    def word(self) -> dict[str, Any]:
        bits = self.draw(st.integers(4, MAGNITUDES[self.magnitude]))
        return {"membrane_bits": bits, "overflow": self.draw(st.sampled_from(("saturate", "wrap")))}

    def neuron(self, shape: Shape) -> Node:
        """Any spiking neuron with any options; thresholds that a membrane can reach."""
        draw, word = self.draw, self.word()
        half = 2 ** (word["membrane_bits"] - 1)
        more: dict[str, Any] = word | {
            "v_threshold": self.numbers(1, max(1, half // draw(st.sampled_from((2, 16)))), shape),
            "reset": draw(st.sampled_from(("hard", "soft", "none"))),
            "strict": draw(st.booleans()),
            "v_init": self.numbers(-half, half - 1, shape) if draw(st.booleans()) else 0,
            "v_reset": self.numbers(-half, half - 1, shape) if draw(st.booleans()) else 0,
            "late_reset": draw(st.booleans()),
            "max_level": draw(st.sampled_from((1, 1, 2, 15))),
            "signed": draw(st.sampled_from((False, False, True))),
        }
        match draw(st.integers(0, 2)):
            case 0:
                return IF(**more)
            case 1:
                return LIF(self.leak(shape), **more)
        return CubaLIF(self.leak(shape), self.leak(shape), **more)

    def weights(self, shape: Shape, out: Shape) -> dict[str, Any]:
        """Weights, and perhaps biases of channels or of neurons, in the narrowest type or a wide one."""
        kind = self.draw(st.sampled_from((np.int64, np.int8 if self.magnitude < 128 else np.int32)))
        found: dict[str, Any] = {"weight": self.rng.integers(-self.magnitude, self.magnitude + 1, shape).astype(kind)}
        extents = self.draw(st.sampled_from((None, out[:1], out)))
        if extents is not None:
            bias = self.rng.integers(-4 * self.magnitude, 4 * self.magnitude + 1, extents)
            found |= {"has_bias": True, "bias": bias, "bias_bits": 32}
        return found

    def pool(self) -> None:
        kernel, stride = ((self.draw(st.integers(1, 2)), self.draw(st.integers(1, 2))) for _ in range(2))
        kernel = (min(kernel[0], self.shapes[self.last][1]), min(kernel[1], self.shapes[self.last][2]))
        padding = (kernel[0] // 2, self.draw(st.integers(0, kernel[1] // 2)))
        self.add(self.draw(st.sampled_from((SumPool2d, MaxPool2d)))(kernel, stride, padding))

    def block(self) -> None:
        """A synapse and its neuron, with what may come between and beside them."""
        draw, before = self.draw, self.last
        sums = [self.synapse(before)]
        if draw(st.sampled_from((False, False, True))):  # a second synapse into the same neuron
            first: Any = self.nodes[sums[0]]
            sums.append(self.add(replace(first, **self.weights(first.weight.shape, self.shapes[sums[0]])), before))
        if draw(st.sampled_from((False, False, True))):
            sums = [self.add(Add(), *sums)]
        self.last = sums[-1]
        if len(sums) == 1 and len(self.shapes[self.last]) == 3 and draw(st.sampled_from((False, False, True))):
            self.pool()
            sums = [self.last]
        neuron = self.add(self.neuron(self.shapes[sums[0]]), *sums)
        if draw(st.booleans()):  # its spikes come back to it
            late = self.add(Delay(draw(st.integers(1, 3))))
            self.edges.append((self.synapse(late, self.shapes[neuron]), neuron))
        self.last = neuron
        if self.shapes[neuron] == self.shapes[before] and before != "in" and draw(st.booleans()):
            self.add(Add(), neuron, before)
        if len(self.shapes[self.last]) == 3 and draw(st.sampled_from((False, False, True))):
            self.pool()
        if draw(st.sampled_from((False, False, False, True))):
            self.add(Delay(draw(st.integers(0, 2))))


@st.composite
def integer_networks(draw: st.DrawFn) -> tuple[Network, Any]:
    """A network and the samples it is shown: spikes (T, N, *shape), or pixels (N, *shape) at every step."""
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    encoding = draw(st.sampled_from(("spikes", "analog", "levels")))
    made = Builder(draw, shape, encoding)
    for _ in range(draw(st.integers(1, 3))):
        made.block()
    if len(made.shapes[made.last]) > 1:
        made.add(Flatten())
    made.synapse(made.last)
    made.add(LI(draw(st.none() | st.just(made.leak(made.shapes[made.last]))), **made.word()))
    made.add(Output(made.shapes[made.last]))
    number, rate = draw(st.integers(1, 2)), draw(st.sampled_from((0.2, 0.8)))
    if encoding == "spikes":
        samples = (made.rng.random((draw(st.integers(1, 6)), number, *shape)) < rate).astype(np.uint8)
    else:
        samples = made.rng.integers(0, 256, (number, *shape)).astype(np.uint8)
    return Network(made.nodes, tuple(made.edges), "integers"), samples


def executed(network: Network, samples: np.ndarray, num_steps: int) -> dict[str, np.ndarray]:
    """What every node sends, (T, N, *shape), and under "trajectory" what the module returns."""
    module, seen = build(network).eval(), {}
    node = module.input_node
    code = "events" if node.encoding == "spikes" else "direct"
    encoded = encode(code, samples, num_steps, np.random.default_rng(0), node)
    with torch.no_grad():
        trajectory = module(
            input_frames(module, encoded), num_steps, encoded.constant, lambda name, _, sent: seen.update({name: sent})
        )
    return {name: values.numpy() for name, values in (seen | {"trajectory": trajectory}).items()}


@settings(max_examples=120, deadline=None)
@given(integer_networks())
def test_every_node_equals_nested_loops_over_python_integers(case: tuple[Network, np.ndarray]) -> None:
    network, samples = case
    spiking = network.nodes["in"].encoding == "spikes"  # type: ignore[union-attr]
    num_steps = len(samples) if spiking else 4
    frames = samples if spiking else np.broadcast_to(samples, (num_steps, *samples.shape))
    found = executed(network, samples, num_steps)
    for n in range(frames.shape[1]):
        expected = run(network, frames[:, n])
        expected["trajectory"] = expected[list(network.nodes)[-1]]
        assert set(expected) - set(found) == {"in"}
        for name, sent in found.items():
            assert np.array_equal(sent[:, n].astype(np.int64), expected[name].astype(np.int64)), name


def whole(synapse: Any, neuron: Any = None, *between: Node, shape: Shape = (2,), encoding: Any = "spikes") -> Network:
    """One layer of integers and its neuron."""
    nodes: dict[str, Any] = {"in": Input(shape, encoding), "layer": synapse}
    nodes |= {f"between{k}": node for k, node in enumerate(between)}
    network = chain("whole", nodes | {"n": neuron or IF(4, membrane_bits=8)})
    behind = network.shapes()["n"]
    return Network({**network.nodes, "out": Output(behind)}, (*network.edges, ("n", "out")), "whole")


def ones(K: int, C: int, value: int = 1, kind: Any = np.int8, **more: Any) -> Linear:
    return Linear(C, K, weight=np.full((K, C), value, kind), **more)


MAP = Conv2d(1, 1, (1, 1), weight=np.ones((1, 1, 1, 1), np.int8))


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (whole(ones(1, 2, kind=np.float32)), "node 'n' has integer membranes of 8 bits, but the weights .* no integers"),
        (whole(Linear(2, 1)), "node 'n' has integer membranes of 8 bits, but the weights .* absent"),
        (whole(ones(1, 2), None, Scale(np.array([0.5]))), r"'n' .* gets real values from 'between0' \(Scale\)"),
        (whole(ones(1, 2), None, BatchNorm(1), Delay()), r"'n' .* gets real values from 'between0' \(BatchNorm\)"),
        (whole(MAP, None, AvgPool2d((2, 2), (2, 2)), shape=(1, 4, 4)), r"'n' .* real values from 'between0' \(AvgPool2d\)"),
        (whole(ones(1, 2, has_bias=True, bias=np.array([0.5]))), r"'n' .* gets real values from 'layer' \(Linear\)"),
        (whole(ones(1, 2), None, LI(), ones(1, 1)), "layer 'between1' has integer weights but gets real values"),
        (whole(ones(1, 2, 2**52, np.int64)), "sums of up to 9.01e.15, integers are exact up to 2..53; use fewer bits"),
        (whole(ones(1, 2, 2**46, np.int64), encoding="analog"), "sums of up to 3.59e.16"),
        (whole(ones(1, 2), LI(membrane_bits=1)), "node 'n' got membrane_bits 1, expected 2..48"),
        (whole(ones(1, 2), IF(0.5, membrane_bits=8)), "node 'n' has integer membranes, but got 0.5"),
    ],
)  # fmt: skip
def test_what_integers_cannot_say_is_refused_by_name(network: Network, words: str) -> None:
    with pytest.raises(NetworkError, match=words):
        build(network)


def test_a_mean_of_spikes_is_no_integer() -> None:
    nodes: dict[str, Any] = {
        "in": Input((1, 2, 2)), "pool": AvgPool2d((2, 2), (2, 2)), "conv": MAP, "n": IF(1, membrane_bits=8), "out": Output((1, 1, 1))
    }  # fmt: skip
    with pytest.raises(NetworkError, match=r"node 'n' .* gets real values from 'conv' \(Conv2d\)"):
        build(chain("mean", nodes))


@pytest.mark.parametrize(
    ("network", "dtype"),
    [
        (whole(ones(1, 2, 2**22, np.int32)), torch.float32),
        (whole(ones(1, 2, 2**23, np.int32)), torch.float64),
        (whole(ones(1, 2, 2**15, np.int32), encoding="analog"), torch.float32),
        (whole(ones(1, 2, 2**16, np.int32), encoding="levels"), torch.float64),
        (whole(ones(1, 2, has_bias=True, bias=np.array([-(2**24)]))), torch.float64),
        (whole(replace(MAP, weight=np.full((1, 1, 1, 1), 2**22)), None, SumPool2d((2, 2), (2, 2)), shape=(1, 2, 2)), torch.float64),
        (whole(ones(1, 2), IF(np.array([3.5]))), torch.float32),
    ],
)  # fmt: skip
def test_integers_are_computed_in_a_float_that_holds_their_sums(network: Network, dtype: torch.dtype) -> None:
    assert build(network).dtype == dtype


def test_sums_of_two_layers_are_held_as_well() -> None:
    layer = ones(1, 1, 2**23, np.int32)
    nodes: dict[str, Any] = {
        "in": Input((1,)),
        "a": layer,
        "b": layer,
        "n": IF(4, membrane_bits=8),
        "out": Output((1,)),
    }
    edges = (("in", "a"), ("in", "b"), ("a", "n"), ("b", "n"), ("n", "out"))
    assert build(Network(nodes, edges)).dtype == torch.float64
    loop = (("in", "a"), ("a", "add"), ("add", "late"), ("late", "add"), ("add", "n"), ("n", "out"))
    del nodes["b"]
    with pytest.raises(NetworkError, match="sums of up to inf"):
        build(Network({**nodes, "add": Add(), "late": Delay()}, loop))


def test_integers_come_back_as_they_were() -> None:
    weight = np.array([[2**31 - 1, -(2**31)], [2**24 + 1, 7]], np.int32)
    network = whole(Linear(2, 2, True, weight=weight, bias=np.array([2**30 + 1, -1]), bias_bits=32))
    again = build(network).to_network()
    assert again.id == network.id
    layer: Any = again.nodes["layer"]
    assert (layer.weight.dtype, layer.bias.dtype) == (np.int32, np.int64)


def test_signed_levels_and_pixels_are_recorded_as_integers() -> None:
    nodes: dict[str, Any] = {
        "in": Input((4,), "analog"), "a": Linear(4, 6, weight=np.random.default_rng(0).integers(-9, 10, (6, 4))),
        "n": IF(200, "soft", max_level=5, signed=True, membrane_bits=16), "late": Delay(), "back": ones(6, 6, -90),
        "b": ones(2, 6), "li": LI(membrane_bits=16), "out": Output((2,)),
    }  # fmt: skip
    edges = (
        ("in", "a"), ("a", "n"), ("n", "late"), ("late", "back"), ("back", "n"), ("n", "b"), ("b", "li"), ("li", "out"),
    )  # fmt: skip
    network = Network(nodes, edges)
    pixels = np.random.default_rng(1).integers(0, 256, (5, 4)).astype(np.uint8)
    trace = record(network, Pixels(pixels, np.zeros(5, np.int64)), Execution(7, batch_size=2))
    seen, heard, sent = (trace.arrivals[name] for name in ("a", "back", "b"))
    assert isinstance(seen, Levels) and isinstance(heard, Levels) and isinstance(sent, Levels)
    assert (seen.bits, seen.signed, seen.analog) == (8, False, True)
    assert np.array_equal(seen.values, np.broadcast_to(pixels, (7, 5, 4)))
    assert (sent.bits, sent.signed, sent.analog, sent.values.dtype) == (3, True, False, np.int16)
    assert np.array_equal(heard.values[1:], sent.values[:-1])
    for n in range(5):
        expected = run(network, np.broadcast_to(pixels[n], (7, 4)))
        assert np.array_equal(sent.values[:, n], expected["n"].astype(int))
        assert trace.predictions is not None
        assert trace.predictions[n] == np.argmax(expected["out"][-1].astype(int))
    assert sent.values.min() < 0 < sent.values.max() <= 5
    assert not trace.outputs
