"""Recording: what arrived, against the module's own maps and against brute force."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

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
    Output,
    ReLU,
    SumPool2d,
)
from spikeloom.core.trace import Levels, Spikes, SpikeTrace
from spikeloom.errors import NetworkError
from spikeloom.snn import Execution, build, evaluate, record
from spikeloom.snn.record import reached
from spikeloom.transform import fold

from .toys import Pixels, spiking_frames, stripes, tiny_cnn


def with_weights(network: Network, seed: int = 0) -> Network:
    return fold(build(network, seed=seed).to_network())


def maps(network: Network, source: Pixels, num_steps: int, constant: bool) -> dict[str, np.ndarray]:
    """Everything that arrives anywhere, unpacked, straight from the module."""
    seen: dict[str, np.ndarray] = {}
    module = build(network).eval()
    frames = torch.from_numpy(source.batch(range(len(source)))).float()
    frames = frames / 255 if constant else frames.flatten(0, 1)
    with torch.no_grad():
        module(frames, num_steps, constant, lambda name, x, _: seen.__setitem__(name, x.numpy().copy()))
    return seen


@pytest.mark.parametrize("pool", [AvgPool2d, SumPool2d])
@pytest.mark.parametrize("num_steps", [4, 11])
def test_arrivals_are_what_the_module_computes(pool: type, num_steps: int) -> None:
    network, source = with_weights(tiny_cnn(pool=pool)), stripes(13)
    trace = record(network, source, Execution(num_steps, batch_size=5), origin="stripes/test", sample_ids=range(13))
    seen = maps(network, source, num_steps, True)
    assert list(trace.arrivals) == ["conv1", "pool1", "conv2", "fc"]
    pixels, spikes, sums, flat = (trace.arrivals[name] for name in trace.arrivals)
    assert isinstance(pixels, Levels) and isinstance(sums, Levels)
    assert isinstance(spikes, Spikes) and isinstance(flat, Spikes)
    assert (pixels.bits, pixels.analog, pixels.constant()) == (8, True, True)
    assert pixels.values.shape == (num_steps, 13, 1, 6, 6)
    assert np.array_equal(pixels.values[0], source.samples)
    assert (sums.bits, sums.analog, sums.values.dtype) == (3, False, np.uint8)
    assert np.array_equal(sums.values, seen["conv2"] * (4 if pool is AvgPool2d else 1))
    assert sums.values.max() > 1
    assert np.array_equal(spikes.unpack(), seen["pool1"] != 0)
    assert np.array_equal(flat.unpack(), seen["fc"] != 0)
    assert flat.shape == (54,)
    assert 0 < flat.density() < 1
    assert (trace.num_steps, trace.num_samples, trace.source) == (num_steps, 13, "stripes/test")
    assert trace.extra == {"meta": {"arithmetic": "float32", "sample_ids": list(range(13))}}
    assert trace.labels is not None
    assert np.array_equal(trace.labels, source.labels)
    assert trace.accuracy == evaluate(network, source, Execution(num_steps))
    assert not trace.outputs and not trace.updates


def same(first: SpikeTrace, second: SpikeTrace) -> None:
    for group in ("arrivals", "outputs", "updates"):
        mine, other = getattr(first, group), getattr(second, group)
        assert mine.keys() == other.keys()
        for name, arrival in mine.items():
            values = "packed" if isinstance(arrival, Spikes) else "values"
            assert np.array_equal(getattr(arrival, values), getattr(other[name], values)), name
    assert np.array_equal(first.predictions, second.predictions)  # type: ignore[arg-type]


@pytest.mark.parametrize("encoding", ["rate", "latency"])
def test_the_size_of_batches_does_not_matter(encoding: str) -> None:
    network, source = with_weights(tiny_cnn("spikes")), stripes(12)
    traces = [record(network, source, Execution(9, encoding, batch_size=b, seed=4), updates=True) for b in (1, 5, None)]
    assert isinstance(traces[0].arrivals["conv1"], Spikes)
    same(traces[0], traces[1])
    same(traces[0], traces[2])


def brute_force_updates(network: Network, layer: str, neuron: str, seen: dict[str, np.ndarray]) -> np.ndarray:
    """Neuron by neuron and step by step."""
    node: Any = network.nodes[layer]
    cell: Any = network.nodes[neuron]
    x, psum = seen[layer], seen[neuron]
    touched = np.zeros(psum.shape, bool)
    for place in np.ndindex(psum.shape[1:]):
        n, k = place[0], place[1]
        u = np.float32(0)
        for t in range(psum.shape[0]):
            if isinstance(node, Conv2d):
                p, q = place[2], place[3]
                group = k // (node.out_channels // node.groups)
                size = node.in_channels // node.groups
                hit = False
                for r, s in np.ndindex(*node.kernel):
                    h = p * node.stride[0] + r * node.dilation[0] - node.padding[0]
                    w = q * node.stride[1] + s * node.dilation[1] - node.padding[1]
                    if 0 <= h < x.shape[3] and 0 <= w < x.shape[4]:
                        hit |= bool(x[t, n, group * size : (group + 1) * size, h, w].any())
            else:
                hit = bool(x[t, n].any())
            bias = node.bias is not None and node.bias[place[1 : 1 + node.bias.ndim]] != 0
            touched[(t, *place)] = hit or u != 0 or bias
            v = u * np.float32(1 if isinstance(cell, IF) or getattr(cell, "leak", None) is None else cell.leak.kept)
            v = v + psum[(t, *place)]
            u = v
            if not isinstance(cell, LI) and v >= cell.v_threshold:
                u = np.float32(0) if cell.reset == "hard" else v - np.float32(cell.v_threshold)
    return touched


@pytest.mark.parametrize("neuron", [IF(0.8, "soft"), LIF(Leak(shift=1), 0.8)])
@pytest.mark.parametrize("biased", ["nowhere", "channels", "neurons"])
def test_updates_equal_brute_force(neuron: Any, biased: str) -> None:
    nodes = {
        "in": Input((2, 6, 5)),
        "conv": Conv2d(2, 4, (3, 2), (2, 1), (1, 2), (1, 2), 2, has_bias=biased != "nowhere"),
        "n1": neuron,
        "pool": SumPool2d((2, 2), (2, 2)),
        "conv2": Conv2d(4, 3, (1, 1)),
        "n2": neuron,
        "flat": Flatten(),
        "fc": Linear(9, 2),
        "li": LI(),
        "out": Output((2,)),
    }
    network = build(chain("updates", nodes)).to_network()
    if biased != "nowhere":
        conv: Any = network.nodes["conv"]
        bias = np.array([0, 0.1, 0, -0.2], np.float32)
        if biased == "neurons":
            bias = bias[np.arange(4 * 3 * 7) % 3].reshape(4, 3, 7)
        network = Network({**network.nodes, "conv": replace(conv, bias=bias)}, network.edges)
    source = Pixels(spiking_frames(7, 3, (2, 6, 5), 0.05), np.zeros(3, np.int64), sample_axis=1)
    trace = record(network, source, Execution(7, "events", batch_size=2), updates=True)
    seen = maps(network, source, 7, False)
    assert list(trace.updates) == ["conv", "conv2", "fc"]
    for layer, cell in (("conv", "n1"), ("conv2", "n2"), ("fc", "li")):
        found = trace.updates[layer].unpack()
        assert np.array_equal(found, brute_force_updates(network, layer, cell, seen)), layer
        assert not found.all()


def test_a_synaptic_current_is_work_too() -> None:
    one = np.full((1, 1), 0.5, np.float32)
    nodes = {
        "in": Input((1,)),
        "fc": Linear(1, 1, weight=one),
        "n": CubaLIF(Leak(factor=0.0), Leak(factor=0.5)),
        "out": Output((1,)),
    }
    frames = np.zeros((4, 1, 1), np.uint8)
    frames[1] = 1
    source = Pixels(frames, np.zeros(1, np.int64), sample_axis=1)
    trace = record(chain("cuba", nodes), source, Execution(4, "events"), updates=True)
    assert trace.updates["fc"].unpack()[:, 0, 0].tolist() == [False, True, True, True]


def test_conv1d_receptive_field() -> None:
    network = chain("line", {"in": Input((1, 6)), "c": Conv1d(1, 2, 3, stride=2, padding=1)})
    arrived = torch.zeros(1, 1, 1, 6, dtype=torch.bool)
    arrived[..., 5] = True
    assert reached(network, "c", arrived).expand(1, 1, 2, 3)[0, 0].tolist() == [[False, False, True]] * 2


def test_spikes_that_reach_no_layer_are_outputs() -> None:
    first = np.linspace(0.1, 0.6, 12, dtype=np.float32).reshape(4, 3)
    second = np.linspace(-0.5, 0.5, 8, dtype=np.float32).reshape(2, 4)
    nodes = {
        "in": Input((3,)), "a": Linear(3, 4, weight=first), "na": IF(0.5), "b": Linear(4, 2, weight=second),
        "nb": IF(0.2), "out": Output((2,)),
    }  # fmt: skip
    network = chain("classes", nodes)
    source = Pixels(spiking_frames(9, 5, (3,), 0.5), np.zeros(5, np.int64), sample_axis=1)
    trace = record(network, source, Execution(9, "events", batch_size=2))
    assert list(trace.outputs) == ["b"]
    counts = trace.outputs["b"].unpack().sum(0)
    assert counts.sum() > 0
    assert trace.predictions is not None
    assert np.array_equal(trace.predictions, counts.argmax(1))


def test_residual_and_delayed_spikes() -> None:
    one = np.ones((1, 1), np.float32)
    nodes = {
        "in": Input((1,)), "a": Linear(1, 1, weight=one), "na": IF(), "late": Delay(1), "add": Add(),
        "b": Linear(1, 1, weight=one), "li": LI(), "out": Output((1,)),
    }  # fmt: skip
    edges = (
        ("in", "a"),
        ("a", "na"),
        ("na", "late"),
        ("late", "add"),
        ("na", "add"),
        ("add", "b"),
        ("b", "li"),
        ("li", "out"),
    )
    frames = np.array([1, 1, 0, 0], np.uint8).reshape(4, 1, 1)
    trace = record(
        Network(nodes, edges), Pixels(frames, np.zeros(1, np.int64), 1), Execution(4, "events"), updates=True
    )
    added = trace.arrivals["add"]
    assert isinstance(added, Levels)
    assert added.values[:, 0, 0].tolist() == [1, 2, 1, 0]
    assert added.bits == 2
    assert trace.outputs["a"].unpack()[:, 0, 0].tolist() == [True, True, False, False]


def test_a_quantised_ann_is_recorded_as_levels() -> None:
    nodes = {
        "in": Input((1, 6, 6), "analog"), "conv": Conv2d(1, 3, (3, 3)), "act": ClippedReLU(1.5, 15),
        "flat": Flatten(), "fc": Linear(48, 2), "out": Output((2,)),
    }  # fmt: skip
    network = build(chain("ann", nodes), seed=2).to_network()
    source = stripes(6)
    trace = record(network, source, Execution(1))
    levels = trace.arrivals["fc"]
    assert isinstance(levels, Levels)
    assert levels.bits == 4
    np.testing.assert_allclose(levels.values * (1.5 / 15), maps(network, source, 1, True)["fc"], atol=1e-6)
    assert len(np.unique(levels.values)) > 5


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (build(tiny_cnn()).to_network(), r"BatchNorm nodes \['norm1', 'norm2'\].*fold"),
        (tiny_cnn(norm=False), "layer 'conv1'.*no weights"),
        (
            with_weights(
                Network({**tiny_cnn(norm=False).nodes, "neuron1": ReLU()}, tiny_cnn(norm=False).edges, "half-converted")
            ),
            "layer 'pool1'.*real values",
        ),
    ],
)
def test_what_cannot_be_recorded_is_refused_by_name(network: Network, words: str) -> None:
    with pytest.raises(NetworkError, match=words):
        record(network, stripes(4), Execution(2))


def test_levels_wider_than_a_trace_are_refused() -> None:
    nodes = {
        "in": Input((1, 512, 512)), "pool": SumPool2d((512, 512), (512, 512)), "flat": Flatten(),
        "fc": Linear(1, 1), "out": Output((1,)),
    }  # fmt: skip
    with pytest.raises(NetworkError, match="layer 'fc' gets levels of 19 bits"):
        record(with_weights(chain("wide", nodes)), stripes(4), Execution(1, "rate"))


def test_updates_need_a_layer_before_each_neuron() -> None:
    nodes = {"in": Input((1,)), "a": Linear(1, 1), "n1": IF(), "n2": IF(), "out": Output((1,))}
    network = with_weights(chain("twice", nodes))
    source = Pixels(spiking_frames(2, 1, (1,), 0.5), np.zeros(1, np.int64), 1)
    record(network, source, Execution(2, "events"), updates=True)  # n2 is fed by a neuron: no layer has it
    two = Network(
        {"in": Input((1,)), "a": Linear(1, 1), "b": Linear(1, 1), "n": IF(), "out": Output((1,))},
        (("in", "a"), ("in", "b"), ("a", "n"), ("b", "n"), ("n", "out")),
    )
    with pytest.raises(NetworkError, match="neurons of 'n'"):
        record(with_weights(two), source, Execution(2, "events"), updates=True)


def test_progress_is_told() -> None:
    told: list[tuple[str, int, int]] = []
    network = with_weights(tiny_cnn())
    record(network, stripes(7), Execution(2, batch_size=3), progress=lambda s, d, n, f: told.append((s, d, n)))
    assert told == [("record", 3, 7), ("record", 6, 7), ("record", 7, 7)]


def test_an_empty_source() -> None:
    with pytest.raises(NetworkError, match="no sample"):
        record(with_weights(tiny_cnn()), Pixels(np.zeros((0, 1, 6, 6), np.uint8), np.zeros(0, np.int64)), Execution(2))


def test_what_is_in_no_layer_is_said_in_the_trace() -> None:
    """A spiking neuron at the input and one behind another have no layer of their own, a long delay no memory in any bill."""
    nodes: dict[str, Any] = {
        "in": Input((2,)), "first": IF(), "fc": Linear(2, 2, weight=np.ones((2, 2), np.float32)), "own": IF(), "second": IF(),
        "late": Delay(3), "fc2": Linear(2, 2, weight=np.ones((2, 2), np.float32)), "li": LI(), "out": Output((2,)),
    }  # fmt: skip
    source = Pixels(np.ones((4, 1, 2), np.uint8), np.zeros(1, np.int64), 1)
    said = record(chain("n", nodes, metadata={"notes": ["read as exact"]}), source, Execution(4, "events")).notes
    assert said == (
        "read as exact",
        "the neurons of first, second have no layer of their own: no machine bills them",
        "delays of several steps (late) hold spikes in memory that no machine bills",
    )
    plain = {name: nodes[name] for name in ("in", "fc", "own", "fc2", "li", "out")}
    assert record(chain("p", plain), source, Execution(4, "events")).notes == ()
