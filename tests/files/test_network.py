"""Network files: every field of every node survives, and a malformed one is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from spikeloom.core.network import Network, chain
from spikeloom.core.nodes import (
    IF,
    LI,
    LIF,
    NODE_TYPES,
    Add,
    AvgPool2d,
    BatchNorm,
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
from spikeloom.core.trace import SpikeTrace
from spikeloom.errors import FileError, NetworkFileError
from spikeloom.files.network import read_network, write_network
from spikeloom.files.store import read_trace
from tests.files.cases import complaint, recordings

DEFAULTS: dict[str, Node] = {
    "input": Input((2, 4, 4)), "conv1d": Conv1d(2, 2, 3), "conv": Conv2d(2, 2, (3, 3)), "fc": Linear(4, 2),
    "scale": Scale(np.array([1.5], np.float32)), "norm": BatchNorm(2), "if": IF(), "lif": LIF(Leak(shift=2)),
    "cuba": CubaLIF(Leak(shift=2), Leak(factor=0.5)), "li": LI(), "relu": ReLU(), "clip": ClippedReLU(1.0),
    "sum": SumPool2d((2, 2), (2, 2)), "avg": AvgPool2d((2, 2), (2, 2)), "max": MaxPool2d((2, 2), (2, 2)),
    "flatten": Flatten(), "delay": Delay(), "add": Add(), "output": Output((2,)),
}  # fmt: skip
FULL: dict[str, Node] = {
    "input/ä": Input((2, 4, 4), "analog"),
    "conv1d": Conv1d(2, 4, 3, 2, 1, 2, 2, True, 4, np.ones((4, 1, 3), np.int8), np.zeros(4, np.int32), 24),
    "conv.a": Conv2d(2, 4, (3, 2), (2, 1), (0, 1), (1, 2), 2, True, 16, np.ones((4, 1, 3, 2)), np.ones(4), 16),
    "conv map": Conv2d(1, 2, (2, 2), has_bias=True, bias=np.arange(12.0).reshape(2, 3, 2)),
    "fc": Linear(4, 2, True, 1, np.eye(2, 4, dtype=np.float32), np.ones(2, np.float32), 8),
    "scale": Scale(np.ones((2, 1, 1), np.float16)),
    "norm": BatchNorm(2, 1e-3, np.ones(2), np.zeros(2), np.zeros(2), np.ones(2)),
    "if": IF(0.75, "soft", True, 0.5),
    "if none": IF(None, "none"),
    "lif": LIF(Leak(factor=0.9), 0.3, "soft", True, -0.25),
    "lif none": LIF(None, None),
    "lif map": LIF(
        Leak(factor=np.array([[0.5], [0.25]], np.float32)),
        np.array([1.0, 2.0]),
        v_init=np.ones((2, 1)),
        v_reset=np.array([-1, 1], np.int16),
    ),
    "cuba": CubaLIF(Leak(shift=31), None, None, "none", True, late_reset=True, signed=True),
    "cuba none": CubaLIF(None, Leak(factor=0.0), 2.0, v_init=0.5, v_reset=-0.5),
    "cuba map": CubaLIF(Leak(factor=np.array([0.5])), Leak(factor=np.array([0.25, 1.0])), np.array([1, 2], np.int32)),
    "li": LI(Leak(factor=1.0)),
    "li map": LI(Leak(factor=np.array([0.5, 0.125]))),
    "clip": ClippedReLU(2.5, 8),
    "sum": SumPool2d((3, 2), (2, 1), (1, 0)),
    "avg": AvgPool2d((3, 2), (2, 1), (1, 0)),
    "max": MaxPool2d((3, 2), (2, 1), (1, 0)),
    "delay": Delay(3),
}

INTEGERS: dict[str, Node] = {
    "fc": Linear(2, 2, weight=np.eye(2, dtype=np.int8)),
    **{
        f"{kind.__name__} of integers": kind(
            **leaks,
            v_threshold=3.0,
            v_init=1.0,
            v_reset=-1.0,
            late_reset=True,
            max_level=7,
            signed=True,
            membrane_bits=12,
            overflow="wrap",
        )
        for kind, leaks in (
            (IF, {}),
            (LIF, {"leak": Leak(shift=3)}),
            (CubaLIF, {"leak": Leak(shift=1), "syn_leak": Leak(shift=2)}),
        )
    },
    "li of integers": LI(Leak(shift=4), membrane_bits=24, overflow="wrap"),
}


def alone(nodes: dict[str, Node]) -> Network:
    """Every node behind an input of its own that fits it, the last two in a row."""
    inputs: dict[str, Node] = {}
    for name, node in nodes.items():
        if not isinstance(node, Input):
            inputs[f"into {name}"] = Input(_arriving(node))
    edges = [(source, source.removeprefix("into ")) for source in inputs]
    metadata = {"experiment": {"train": {"epochs": 2}}, "history": [{"loss": 0.125}], "x": None}
    return Network({**nodes, **inputs}, (*edges, ("fc", "fc")), "a name", 1e-3, metadata)


def _arriving(node: Node) -> tuple[int, ...]:
    match node:
        case Conv2d(kernel=kernel) if isinstance(node.bias, np.ndarray) and node.bias.ndim > 1:
            return (node.in_channels, node.bias.shape[1] + kernel[0] - 1, node.bias.shape[2] + kernel[1] - 1)
        case Conv2d():
            return (node.in_channels, 9, 9)
        case Conv1d():
            return (node.in_channels, 9)
        case Linear():
            return (node.in_features,)
        case SumPool2d() | AvgPool2d() | MaxPool2d():
            return (2, 4, 4)
        case Output(shape=shape):
            return shape
        case Scale() | BatchNorm():
            return (2, 4, 4)
    return (2, 2)


def equal(one: Any, two: Any) -> bool:
    """Same type and value, for arrays also the same dtype."""
    if isinstance(one, np.ndarray):
        return isinstance(two, np.ndarray) and one.dtype == two.dtype and np.array_equal(one, two)
    return type(one) is type(two) and one == two


@pytest.mark.parametrize("nodes", [DEFAULTS, FULL, INTEGERS], ids=["defaults", "every field", "integers"])
def test_every_field_of_every_node_round_trips(tmp_path: Path, nodes: dict[str, Node]) -> None:
    network = alone(nodes)
    write_network(tmp_path / "n.npz", network)
    read = read_network(tmp_path / "n.npz")
    assert list(read.nodes) == list(network.nodes)
    for name, node in nodes.items():
        assert type(read.nodes[name]) is type(node)
        for item in fields(node):
            assert equal(getattr(node, item.name), getattr(read.nodes[name], item.name)), (name, item.name)
    assert (read.edges, read.name, read.dt_s, read.metadata) == (network.edges, "a name", 1e-3, network.metadata)
    assert read.id == network.id


@pytest.mark.parametrize("number", [int, np.int64, np.float32, np.float64])
def test_a_number_of_another_type_is_the_same_number(tmp_path: Path, number: Any) -> None:
    def made(number: Any) -> Network:
        neuron = LIF(Leak(factor=number(1)), number(3), v_init=number(1), v_reset=number(-1), membrane_bits=8)
        return chain("n", {"in": Input((3,)), "if": neuron, "act": ClippedReLU(number(2))})

    write_network(tmp_path / "n.npz", made(number))
    assert read_network(tmp_path / "n.npz").id == made(number).id == made(float).id


def test_the_two_networks_hold_every_kind_and_no_field_only_at_its_default() -> None:
    assert {type(node) for node in DEFAULTS.values()} == set(NODE_TYPES.values())
    for kind in NODE_TYPES.values():
        nodes = [node for node in (*DEFAULTS.values(), *FULL.values(), *INTEGERS.values()) if type(node) is kind]
        for item in fields(kind):
            if item.default is not MISSING:
                assert any(not equal(getattr(node, item.name), item.default) for node in nodes), (kind, item.name)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(recordings())
def test_a_network_of_any_shape_round_trips(tmp_path: Path, recording: tuple[Network, SpikeTrace]) -> None:
    network, _ = recording
    write_network(tmp_path / "n.npz", network)
    assert read_network(tmp_path / "n.npz").id == network.id


# --- bad files ---------------------------------------------------------------------------------------------------

Spoil = Callable[[dict[str, Any], dict[str, Any]], object]


def node(index: int, **changes: Any) -> Spoil:
    return lambda meta, arrays: meta["nodes"][index].update(changes)


def beside(factors: list[Any], **header: Any) -> Spoil:
    """Leaks of the node 'lif' as an array, and what the header says of them."""

    def spoil(meta: dict[str, Any], arrays: dict[str, Any]) -> None:
        meta["nodes"][2]["leak"] = {"shift": None, "factor": None} | header
        arrays["lif/leak.factor"] = np.array(factors)

    return spoil


SPOILS: dict[str, tuple[str, Spoil]] = {
    "wrong format": ("meta.format", lambda m, a: m.update(format="spikeloom-trace")),
    "version 2": ("meta.version", lambda m, a: m.update(version=2)),
    "version true": ("meta.version", lambda m, a: m.update(version=True)),
    "no nodes": ("meta: malformed network description (KeyError('nodes'))", lambda m, a: m.pop("nodes")),
    "nodes no list": ("meta: malformed", lambda m, a: m.update(nodes=3)),
    "no edges": ("meta: malformed network description (KeyError('edges'))", lambda m, a: m.pop("edges")),
    "edge of three": ("meta: malformed", lambda m, a: m.update(edges=[["in", "conv", "if"]])),
    "edge to nowhere": ("meta: edge in -> out names 'out', which is no node", lambda m, a: m.update(edges=[["in", "out"]])),
    "metadata word": ("meta.metadata: got a JSON str, expected an object", lambda m, a: m.update(metadata="x")),
    "metadata list": ("meta.metadata: got a JSON list, expected an object", lambda m, a: m.update(metadata=[1])),
    "metadata null": ("meta.metadata: got a JSON NoneType, expected an object", lambda m, a: m.update(metadata=None)),
    "dt negative": ("meta: network 'n' has a dt_s of -0.5", lambda m, a: m.update(dt_s=-0.5)),
    "dt NaN": ("meta: network 'n' has a dt_s of nan", lambda m, a: m.update(dt_s=float("nan"))),
    "dt word": ("meta: malformed", lambda m, a: m.update(dt_s="fast")),
    "threshold 0": ("node 'lif' (LIF) has a v_threshold of 0.0, expected numbers above 0", node(2, v_threshold=0.0)),
    "threshold infinite": ("node 'lif' (LIF) has a v_threshold of inf, expected finite", node(2, v_threshold=float("inf"))),
    "start NaN": ("node 'lif' (LIF) has a v_init of nan, expected finite", node(2, v_init=float("nan"))),
    "words among real weights": ("node 'lif' (LIF) has membrane_bits 8, but weights are no integers", node(2, membrane_bits=8)),
    "weights of another shape": ("node 'conv' (Conv2d) has a weight of shape [1]", lambda m, a: a.update({"conv/weight": np.ones(1)})),
    "shapes that do not fit": ("node 'conv' (Conv2d) got an input of shape [3, 4, 4], expected [2, H, W]", node(0, shape=[3, 4, 4])),
    "a loop": ("network 'n' has a loop without a delay", lambda m, a: m.update(edges=[["in", "conv"], ["conv", "lif"], ["lif", "conv"]])),
    "same names": ("meta.nodes: got the name 'in'", node(1, name="in")),
    "name no word": ("meta.nodes: got the name 3", node(1, name=3)),
    "no type": ("meta: malformed network description (KeyError('type'))", lambda m, a: m["nodes"][1].pop("type")),
    "unknown type": ("node 'conv': unknown type 'Conv3d'", node(1, type="Conv3d")),
    "type no word": ("meta: malformed", node(1, type=["Conv2d"])),
    "unknown field": ("node 'conv': unknown field 'strides'", node(1, strides=[1, 1])),
    "missing field": ("meta: malformed", lambda m, a: m["nodes"][1].pop("kernel")),
    "kernel word": ("node 'conv': kernel", node(1, kernel="3x3")),
    "kernel of one": ("node 'conv': kernel", node(1, kernel=[3])),
    "kernel fraction": ("node 'conv': kernel", node(1, kernel=[3, 2.5])),
    "groups word": ("node 'conv': groups", node(1, groups="2")),
    "bias number": ("node 'conv': has_bias", node(1, has_bias=1)),
    "weights in the header": ("node 'conv': weight", node(1, weight=[[1.0]])),
    "shape word": ("node 'in': shape", node(0, shape="2x4x4")),
    "unknown encoding": ("node 'in': encoding", node(0, encoding="events")),
    "unknown reset": ("node 'lif': reset", node(2, reset="zero")),
    "leak number": ("node 'lif': leak", node(2, leak=0.9)),
    "leak of both": ("node 'lif': leak", node(2, leak={"shift": 2, "factor": 0.5})),
    "leak out of range": ("node 'lif': leak", node(2, leak={"shift": 40, "factor": None})),
    "leak of something": ("node 'lif': leak", node(2, leak={"tau": 3})),
    "leak of neither": ("node 'lif': leak: leak needs exactly one", node(2, leak={"shift": None, "factor": None})),
    "leaks out of range": ("node 'lif': leak: leak factor must be 0..1, got 0.5..2.0", beside([0.5, 2.0])),
    "leaks of words": ("lif/leak.factor: got dtype <U1, expected integers or floats", beside(["a", "b"])),
    "leaks not a number": ("lif/leak.factor: holds NaN", beside([np.nan])),
    "a shift and leaks": ("node 'lif': leak: leak needs exactly one", beside([0.5], shift=2)),
    "a leak and leaks": ("lif/leak.factor: stands beside the factor 0.5", beside([0.5], factor=0.5)),
    "thresholds of words": ("lif/v_threshold: got dtype <U4", lambda m, a: a.update({"lif/v_threshold": np.array(["high"])})),
    "complex weights": ("conv/weight: got dtype complex64", lambda m, a: a.update({"conv/weight": np.ones(3, np.complex64)})),
    "a reset as an array": ("lif/reset: stands beside the header", lambda m, a: a.update({"lif/reset": np.ones(1)})),
    "a shape as an array": ("in/shape: stands beside the header", lambda m, a: a.update({"in/shape": np.ones(3, int)})),
    "membrane bits fraction": ("node 'lif': membrane_bits", node(2, membrane_bits=8.5)),
    "overflow word": ("node 'lif': overflow", node(2, overflow="clip")),
    "level word": ("node 'lif': max_level", node(2, max_level="2")),
    "signed number": ("node 'lif': signed", node(2, signed=1)),
    "late reset number": ("node 'lif': late_reset", node(2, late_reset=0)),
    "v_reset list": ("node 'lif': v_reset", node(2, v_reset=[0.0])),
    "bias bits word": ("node 'conv': bias_bits", node(1, bias_bits="8")),
    "threshold word": ("node 'lif': v_threshold", node(2, v_threshold="high")),
    "weights not a number": ("conv/weight: holds NaN", lambda m, a: a.update({"conv/weight": np.array([np.nan])})),
    "weights of objects": ("conv/weight: unreadable", lambda m, a: a.update({"conv/weight": np.array([{}], object)})),
}  # fmt: skip


@pytest.mark.parametrize("case", SPOILS)
def test_a_bad_file_is_refused_by_file_and_key(tmp_path: Path, case: str) -> None:
    meta = {
        "format": "spikeloom-network", "version": 1, "name": "n", "dt_s": None, "metadata": {},
        "nodes": [
            {"name": "in", "type": "Input", "shape": [2, 4, 4]},
            {"name": "conv", "type": "Conv2d", "in_channels": 2, "out_channels": 3, "kernel": [3, 3]},
            {"name": "lif", "type": "LIF", "leak": {"shift": 2, "factor": None}},
        ],
        "edges": [["in", "conv"], ["conv", "lif"]],
    }  # fmt: skip
    arrays: dict[str, Any] = {"conv/weight": np.ones((3, 2, 3, 3))}
    path = tmp_path / "n.npz"
    np.savez(path, meta=np.array(json.dumps(meta)), **arrays)
    assert read_network(path).shapes()["lif"] == (3, 2, 2)
    text, spoil = SPOILS[case]
    spoil(meta, arrays)
    np.savez(path, meta=np.array(json.dumps(meta)), **arrays)
    assert complaint(path, read_network, NetworkFileError).startswith(f": {text}")


def test_what_is_no_network_file(tmp_path: Path) -> None:
    assert "no such file" in complaint(tmp_path / "n.npz", read_network, NetworkFileError)
    assert "is a folder" in complaint(tmp_path, read_network, NetworkFileError)
    (tmp_path / "n.npz").write_bytes(b"PK\x03\x04 and then nothing")
    assert "truncated" in complaint(tmp_path / "n.npz", read_network, NetworkFileError)


def test_traces_and_networks_are_not_taken_for_one_another(tmp_path: Path) -> None:
    path = tmp_path / "n.npz"
    write_network(path, chain("n", {"in": Input((3,)), "fc": Linear(3, 2)}))
    with pytest.raises(FileError, match="got 'spikeloom-network', expected 'spikeloom-trace'"):
        read_trace(path)


def test_an_existing_network_stays_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "n.npz"
    network = chain("n", {"in": Input((3,)), "fc": Linear(3, 2)})
    write_network(path, network)
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        write_network(path, replace(network, nodes={"scale": Scale(np.array([{}], object))}, edges=()))
    assert [file.name for file in tmp_path.iterdir()] == ["n.npz"]
    assert read_network(path).id == network.id
