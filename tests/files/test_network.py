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

from spikeloom.core.network import (
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
    Network,
    Node,
    Output,
    ReLU,
    Scale,
    SumPool2d,
    chain,
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
    "conv1d": Conv1d(2, 4, 3, 2, 1, 2, 2, True, 4, np.ones((4, 1, 3), np.int8), np.zeros(4, np.int32)),
    "conv.a": Conv2d(2, 4, (3, 2), (2, 1), (0, 1), (1, 2), 2, True, 16, np.ones((4, 1, 3, 2)), np.ones(4)),
    "fc": Linear(4, 2, True, 1, np.eye(2, 4, dtype=np.float32), np.ones(2, np.float32)),
    "scale": Scale(np.ones((2, 1, 1), np.float16)),
    "norm": BatchNorm(2, 1e-3, np.ones(2), np.zeros(2), np.zeros(2), np.ones(2)),
    "if": IF(0.75, "soft", True, 0.5),
    "if none": IF(None, "none"),
    "lif": LIF(Leak(factor=0.9), 0.3, "soft", True, -0.25),
    "lif none": LIF(None, None),
    "cuba": CubaLIF(Leak(shift=31), None, None, "none", True),
    "cuba none": CubaLIF(None, Leak(factor=0.0), 2.0),
    "li": LI(Leak(factor=1.0)),
    "clip": ClippedReLU(2.5, 8),
    "sum": SumPool2d((3, 2), (2, 1), (1, 0)),
    "avg": AvgPool2d((3, 2), (2, 1), (1, 0)),
    "max": MaxPool2d((3, 2), (2, 1), (1, 0)),
    "delay": Delay(3),
}


def equal(one: Any, two: Any) -> bool:
    """Same type and value, for arrays also the same dtype."""
    if isinstance(one, np.ndarray):
        return isinstance(two, np.ndarray) and one.dtype == two.dtype and np.array_equal(one, two)
    return type(one) is type(two) and one == two


@pytest.mark.parametrize("nodes", [DEFAULTS, FULL], ids=["defaults", "every field"])
def test_every_field_of_every_node_round_trips(tmp_path: Path, nodes: dict[str, Node]) -> None:
    metadata = {"experiment": {"train": {"epochs": 2}}, "history": [{"loss": 0.125}], "x": None}
    network = Network(nodes, (("fc", "if"), ("fc", "fc")), "a name", 1e-3, metadata)
    write_network(tmp_path / "n.npz", network)
    read = read_network(tmp_path / "n.npz")
    assert list(read.nodes) == list(nodes)
    for name, node in nodes.items():
        assert type(read.nodes[name]) is type(node)
        for item in fields(node):
            assert equal(getattr(node, item.name), getattr(read.nodes[name], item.name)), (name, item.name)
    assert (read.edges, read.name, read.dt_s, read.metadata) == (network.edges, "a name", 1e-3, metadata)
    assert read.id == network.id


def test_the_two_networks_hold_every_kind_and_no_field_only_at_its_default() -> None:
    assert {type(node) for node in DEFAULTS.values()} == set(NODE_TYPES.values())
    for kind in NODE_TYPES.values():
        nodes = [node for node in (*DEFAULTS.values(), *FULL.values()) if type(node) is kind]
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


SPOILS: dict[str, tuple[str, Spoil]] = {
    "wrong format": ("meta.format", lambda m, a: m.update(format="spikeloom-trace")),
    "version 2": ("meta.version", lambda m, a: m.update(version=2)),
    "version true": ("meta.version", lambda m, a: m.update(version=True)),
    "no nodes": ("meta: malformed network description (KeyError('nodes'))", lambda m, a: m.pop("nodes")),
    "nodes no list": ("meta: malformed", lambda m, a: m.update(nodes=3)),
    "no edges": ("meta: malformed network description (KeyError('edges'))", lambda m, a: m.pop("edges")),
    "edge of three": ("meta: malformed", lambda m, a: m.update(edges=[["in", "conv", "if"]])),
    "edge to nowhere": ("meta: malformed", lambda m, a: m.update(edges=[["in", "out"]])),
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
