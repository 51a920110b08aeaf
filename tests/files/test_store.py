"""Trace files: nothing is lost on a round trip, and every bad file gets one line that names file and key."""

from __future__ import annotations

import copy
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spikeloom.core.network import Network, chain
from spikeloom.core.nodes import IF, LIF, AvgPool2d, Conv2d, Flatten, Leak, Linear, Node, SumPool2d
from spikeloom.core.nodes import Input as In
from spikeloom.core.trace import Arrival, Levels, Spikes, SpikeTrace
from spikeloom.errors import FileError, TraceError
from spikeloom.files.store import read_trace, write_trace
from spikeloom.lower import lower
from tests.files.cases import complaint, recordings

T, N = 10, 2


def contents(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header and arrays of a file."""
    with np.load(path) as archive:
        arrays = {key: archive[key] for key in archive.files}
    return json.loads(str(arrays.pop("meta"))), arrays


def same(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> bool:
    return one.keys() == two.keys() and all(
        one[key].dtype == two[key].dtype and np.array_equal(one[key], two[key]) for key in one
    )


def unpacked(spikes: Any) -> dict[str, np.ndarray]:
    return {name: value.unpack().reshape(len(value.unpack()), -1) for name, value in spikes.items()}


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(recordings())
def test_a_trace_round_trips(tmp_path: Path, recording: tuple[Network, SpikeTrace]) -> None:
    network, trace = recording
    path = tmp_path / "trace.npz"
    write_trace(path, network, trace, weights=True)
    again, read = read_trace(path)
    # geometry, neurons, neighbours, weights and every spike of every layer, as a machine sees them
    before, after = lower(network, trace), lower(again, read)
    assert before.id == after.id
    assert [layer.name for layer in before.layers] == [layer.name for layer in after.layers]
    for one, two in zip(before.layers, after.layers, strict=True):
        assert one.id == two.id, one.name
    for name in network.layers():
        bias, kept = (getattr(net.nodes[name], "bias", np.zeros(0)) for net in (network, again))
        assert np.array_equal(bias, kept) if bias is not None and kept is not None else bias is kept
    assert same(unpacked(trace.outputs), unpacked(read.outputs))
    assert same(unpacked(trace.updates), unpacked(read.updates))
    assert (read.num_steps, read.num_samples, read.dt_s, read.source) == (
        trace.num_steps, trace.num_samples, trace.dt_s, trace.source
    )  # fmt: skip
    for key in ("labels", "predictions"):
        one, two = getattr(trace, key), getattr(read, key)
        assert (one is None) == (two is None) and (one is None or np.array_equal(one, two))
    assert {k: v for k, v in read.extra.items() if k != "arrays"} == {
        k: v for k, v in trace.extra.items() if k != "arrays"
    }
    assert same(dict(trace.extra.get("arrays", {})), dict(read.extra.get("arrays", {})))
    # and writing what was read writes the same file
    write_trace(tmp_path / "again.npz", again, read, weights=True)
    meta, arrays = contents(path)
    meta_again, arrays_again = contents(tmp_path / "again.npz")
    assert meta_again == meta
    assert same(arrays, arrays_again)


def test_weights_are_written_on_request_only(tmp_path: Path) -> None:
    network = chain("n", {"in": In((3,)), "fc": Linear(3, 2, True, weight=np.ones((2, 3)), bias=np.ones(2))})
    trace = SpikeTrace(T, N, {"fc": Spikes.pack(np.zeros((T, N, 3)))})
    for weights, expected in ((False, set()), (True, {"weights/fc", "bias/fc"})):
        write_trace(tmp_path / "t.npz", network, trace, weights=weights)
        assert set(contents(tmp_path / "t.npz")[1]) == {"packed/fc"} | expected


def test_a_layer_without_arrival_cannot_be_written(tmp_path: Path) -> None:
    network = chain("n", {"in": In((3,)), "fc1": Linear(3, 2), "fc2": Linear(2, 2)})
    trace = SpikeTrace(T, N, {"fc1": Spikes.pack(np.zeros((T, N, 3)))})
    text = complaint(tmp_path / "t.npz", lambda path: write_trace(path, network, trace), TraceError)
    assert "'fc2'" in text and "fc1" in text


@pytest.mark.parametrize(
    ("key", "given"),
    [
        *(("meta.delay", given) for given in (2, True, 1.0, "1", None)),
        ("meta", np.int64(1)),
        *(("meta.source", given) for given in (3, None)),
        *(("labels", given) for given in (np.zeros(1, int), np.zeros((2, 2), int), np.array([0.5, 1]), np.array(["a", "b"]))),
        ("predictions", np.zeros(3, int)),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_not_written(tmp_path: Path, key: str, given: Any) -> None:
    network = chain("n", {"in": In((3,)), "fc": Linear(3, 2)})
    field = "delay" if key == "meta" else key.removeprefix("meta.")
    trace = SpikeTrace(T, N, {"fc": Spikes.pack(np.zeros((T, N, 3)))}, **{field: given})
    text = complaint(tmp_path / "t.npz", lambda path: write_trace(path, network, trace), TraceError)
    assert text.startswith(f": {key}: ") and "expected" in text
    assert not (tmp_path / "t.npz").exists()


# --- files written by hand ---------------------------------------------------------------------------------------


def written(path: Path, meta: Any, arrays: dict[str, Any]) -> Path:
    np.savez(path, meta=np.array(meta if isinstance(meta, str) else json.dumps(meta)), **arrays)
    return path


@pytest.fixture
def meta() -> dict[str, Any]:
    """conv (2x4x3 -> 3x3x2), pool (-> 3x1x1) with levels behind it, fc; every key that has no default and few others."""
    return {
        "format": "spikeloom-trace", "version": 1, "num_steps": T, "num_samples": N,
        "layers": [
            {"name": "conv", "kind": "conv2d", "in_shape": [2, 4, 3], "out_shape": [3, 3, 2], "kernel": [2, 2]},
            {"name": "pool", "kind": "sumpool2d", "in_shape": [3, 3, 2], "out_shape": [3, 1, 1], "kernel": [2, 2],
             "stride": [2, 2], "inputs": ["conv"]},
            {"name": "fc", "kind": "linear", "in_shape": [3], "out_shape": [4], "input": "levels", "level_bits": 3,
             "inputs": ["pool"]},
        ],
    }  # fmt: skip


@pytest.fixture
def arrays() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "spikes/conv": rng.random((T, N, 2, 4, 3)) < 0.3,
        "packed/pool": np.packbits(rng.random((T, N, 3, 3, 2)) < 0.5, axis=0, bitorder="little"),
        "levels/fc": rng.integers(0, 5, (T, N, 3)).astype(np.uint8),
        "weights/conv": rng.integers(-8, 8, (3, 2, 2, 2)),
        "weights/fc": rng.normal(size=(4, 3)),
        "bias/fc": rng.normal(size=4),
        "out/fc": rng.random((T, N, 4)) < 0.5,
        "updates/conv": rng.integers(0, 2, (T, N, 3, 3, 2)).astype(np.uint8),
        "labels": np.array([1, 0], np.uint8),
        "predictions": np.array([1, 1]),
    }


def test_a_file_written_by_hand_means_what_it_says(
    tmp_path: Path, meta: dict[str, Any], arrays: dict[str, Any]
) -> None:
    network, trace = read_trace(written(tmp_path / "t.npz", meta, arrays))
    conv, pool, fc = lower(network, trace).layers
    assert isinstance(conv.arrival, Spikes) and isinstance(pool.arrival, Spikes) and isinstance(fc.arrival, Levels)
    assert np.array_equal(conv.arrival.unpack(), arrays["spikes/conv"])
    assert np.array_equal(pool.arrival.packed, arrays["packed/pool"])
    assert np.array_equal(fc.arrival.values.reshape(T, N, 3), arrays["levels/fc"])
    assert (fc.arrival.bits, fc.arrival.signed, fc.arrival.analog) == (3, False, False)
    assert (conv.R, conv.S, conv.P, conv.Q, conv.weight_bits, conv.has_bias) == (2, 2, 3, 2, 8, False)
    assert (conv.neuron.kind, conv.neuron.leak, conv.neuron.reset) == ("if", None, "hard")
    assert pool.neuron.kind == "none"
    assert fc.has_bias and conv.weight is not None and np.array_equal(conv.weight, arrays["weights/conv"])
    assert conv.out is not None and np.array_equal(conv.out.packed, arrays["packed/pool"])
    assert conv.updates is not None and np.array_equal(conv.updates.unpack(), arrays["updates/conv"])
    assert [layer.inputs for layer in (conv, pool, fc)] == [(), ("conv",), ("pool",)]
    assert trace.accuracy == 0.5 and trace.labels is not None and trace.labels.dtype == np.int64
    assert (trace.dt_s, trace.source, dict(trace.extra)) == (None, "", {})


@pytest.mark.parametrize("form", [bool, np.uint8, "packed"])
def test_every_form_of_the_same_spikes_is_the_same_trace(
    tmp_path: Path, meta: dict[str, Any], arrays: dict[str, Any], form: Any
) -> None:
    expected = lower(*read_trace(written(tmp_path / "a.npz", meta, arrays))).id
    spikes = {"spikes/conv": arrays.pop("spikes/conv"), "updates/conv": arrays.pop("updates/conv")}
    for key, values in spikes.items():
        if form == "packed":
            key = {"spikes/conv": "packed/conv", "updates/conv": "updates_packed/conv"}[key]
            arrays[key] = np.packbits(values.astype(bool), axis=0, bitorder="little")
        else:
            arrays[key] = np.asfortranarray(values.astype(form))
    assert lower(*read_trace(written(tmp_path / "b.npz", meta, arrays))).id == expected


def test_maps_may_be_written_with_extents_of_one(tmp_path: Path, meta: dict[str, Any]) -> None:
    meta["layers"] = [
        {"name": "c", "kind": "conv1d", "in_shape": [2, 1, 6], "out_shape": [3, 1, 4], "kernel": [3]},
        {"name": "f", "kind": "linear", "in_shape": [3, 4], "out_shape": [5, 1, 1], "inputs": ["c"]},
    ]
    spikes = {"spikes/c": np.ones((T, N, 2, 1, 6), bool), "spikes/f": np.ones((T, N, 3, 4), bool)}
    out = {"out/c": np.ones((T, N, 3, 1, 4), bool), "updates/f": np.ones((T, N, 5, 1, 1), bool)}
    network, trace = read_trace(written(tmp_path / "a.npz", meta, spikes | out))
    write_trace(tmp_path / "b.npz", network, trace)
    one, two = lower(network, trace), lower(*read_trace(tmp_path / "b.npz"))
    assert one.id == two.id
    assert (one["c"].S, one["c"].Q, one["c"].inputs, one["f"].C) == (3, 4, (), 12)


@pytest.mark.parametrize("name", ["output", "conv.neuron", "conv.input", "fc.flatten"])
def test_layers_may_be_called_like_nodes_of_ours(
    tmp_path: Path, meta: dict[str, Any], arrays: dict[str, Any], name: str
) -> None:
    meta["layers"][1]["name"], meta["layers"][2]["inputs"] = name, [name]
    arrays[f"packed/{name}"] = arrays.pop("packed/pool")
    layers = lower(*read_trace(written(tmp_path / "t.npz", meta, arrays))).layers
    assert [layer.name for layer in layers] == ["conv", name, "fc"]
    assert [layer.kind for layer in layers] == ["conv2d", "sumpool2d", "linear"]
    assert layers[2].inputs == (name,)


def test_a_pool_has_neurons_where_the_file_says_so_and_spikes_leave_it(
    tmp_path: Path, meta: dict[str, Any], arrays: dict[str, Any]
) -> None:
    meta["layers"][1]["neuron"] = {"kind": "if"}
    assert lower(*read_trace(written(tmp_path / "levels.npz", meta, arrays)))["pool"].neuron.kind == "none"
    meta["layers"][2]["input"] = "spikes"
    arrays["spikes/fc"] = arrays.pop("levels/fc") > 1
    assert lower(*read_trace(written(tmp_path / "spikes.npz", meta, arrays)))["pool"].neuron.kind == "if"
    del meta["layers"][1]["neuron"]
    assert lower(*read_trace(written(tmp_path / "unsaid.npz", meta, arrays)))["pool"].neuron.kind == "none"


# --- bad files ---------------------------------------------------------------------------------------------------

Spoil = Callable[[dict[str, Any], dict[str, Any]], object]


def layer_key(index: int, **changes: Any) -> Spoil:
    return lambda meta, arrays: meta["layers"][index].update(changes)


def array_key(key: str, change: Callable[[np.ndarray], Any]) -> Spoil:
    def spoil(meta: dict[str, Any], arrays: dict[str, Any]) -> None:
        arrays[key] = change(arrays[key])

    return spoil


def put(array: np.ndarray, value: Any) -> np.ndarray:
    changed = array.copy()
    changed.flat[-1] = value
    return changed


def swapped(meta: dict[str, Any], arrays: dict[str, Any]) -> None:
    meta["layers"] = meta["layers"][::-1]


def recurring(meta: dict[str, Any], arrays: dict[str, Any]) -> None:
    meta["layers"].append(copy.deepcopy(meta["layers"][2]))


def bare_conv(**changes: Any) -> Spoil:
    """Changes to the first layer that its spikes follow, without the arrays that would give them away."""

    def spoil(meta: dict[str, Any], arrays: dict[str, Any]) -> None:
        meta["layers"][0].update(changes)
        del arrays["weights/conv"], arrays["updates/conv"]
        arrays["spikes/conv"] = arrays["spikes/conv"].reshape(T, N, *meta["layers"][0]["in_shape"])

    return spoil


def turned_pool(meta: dict[str, Any], arrays: dict[str, Any]) -> None:
    """A pool that takes in the map of the layer before it the other way round: as many pixels, but not the same."""
    meta["layers"][1].update(in_shape=[3, 2, 3])
    arrays["packed/pool"] = arrays["packed/pool"].reshape(2, N, 3, 2, 3)


SPOILS: dict[str, tuple[str, Spoil]] = {
    "wrong format": ("meta.format", lambda m, a: m.update(format="spikeloom-network")),
    "no format": ("meta.format", lambda m, a: m.pop("format")),
    "version 2": ("meta.version", lambda m, a: m.update(version=2)),
    "version 0": ("meta.version", lambda m, a: m.update(version=0)),
    "version word": ("meta.version", lambda m, a: m.update(version="1")),
    "version true": ("meta.version", lambda m, a: m.update(version=True)),
    "version 1.0": ("meta.version", lambda m, a: m.update(version=1.0)),
    "no version": ("meta.version", lambda m, a: m.pop("version")),
    "no steps": ("meta.num_steps", lambda m, a: m.pop("num_steps")),
    "zero steps": ("meta.num_steps", lambda m, a: m.update(num_steps=0)),
    "steps word": ("meta.num_steps", lambda m, a: m.update(num_steps="10")),
    "steps fraction": ("meta.num_steps", lambda m, a: m.update(num_steps=10.5)),
    "more steps": ("spikes/conv", lambda m, a: m.update(num_steps=T + 1)),
    "negative samples": ("meta.num_samples", lambda m, a: m.update(num_samples=-1)),
    "more samples": ("spikes/conv", lambda m, a: m.update(num_samples=N + 1)),
    "negative dt": ("meta.dt_s", lambda m, a: m.update(dt_s=-1e-3)),
    "infinite dt": ("meta.dt_s", lambda m, a: m.update(dt_s=float("inf"))),
    "dt not a number": ("meta.dt_s", lambda m, a: m.update(dt_s=float("nan"))),
    "source no text": ("meta.source", lambda m, a: m.update(source=3)),
    "no layers": ("meta.layers", lambda m, a: m.update(layers=[])),
    "layers no list": ("meta.layers", lambda m, a: m.update(layers={"name": "conv"})),
    "layer no object": ("meta.layers[1]", lambda m, a: m["layers"].insert(1, "conv")),
    "no name": ("meta.layers[0].name", lambda m, a: m["layers"][0].pop("name")),
    "empty name": ("meta.layers[0].name", layer_key(0, name="")),
    "same names": ("meta.layers[3].name", recurring),
    "unknown kind": ("meta.layers[0].kind", layer_key(0, kind="conv3d")),
    "negative size": ("meta.layers[0].in_shape[1]", layer_key(0, in_shape=[2, -4, 3])),
    "zero size": ("meta.layers[0].out_shape[0]", layer_key(0, out_shape=[0, 3, 2])),
    "four extents": ("meta.layers[0].in_shape", layer_key(0, in_shape=[2, 4, 3, 1])),
    "zero kernel": ("meta.layers[0].kernel[0]", layer_key(0, kernel=[0, 2])),
    "three strides": ("meta.layers[0].stride", layer_key(0, stride=[1, 1, 1])),
    "zero stride": ("meta.layers[0].stride[1]", layer_key(0, stride=[1, 0])),
    "negative padding": ("meta.layers[0].padding[0]", layer_key(0, padding=[-1, 0])),
    "zero groups": ("meta.layers[0].groups", layer_key(0, groups=0)),
    "groups of linear": ("meta.layers[2].groups", layer_key(2, groups=3)),
    "groups that do not divide": ("meta.layers[0].groups", layer_key(0, groups=2)),
    "no weight bits": ("meta.layers[0].weight_bits", layer_key(0, weight_bits=0)),
    "bias word": ("meta.layers[0].has_bias", layer_key(0, has_bias="no")),
    "bias number": ("meta.layers[0].has_bias", layer_key(0, has_bias=1)),
    "own steps zero": ("meta.layers[0].num_steps", layer_key(0, num_steps=0)),
    "own steps": ("spikes/conv", layer_key(0, num_steps=3)),
    "unknown neuron": ("meta.layers[0].neuron.kind", layer_key(0, neuron={"kind": "izhikevich"})),
    "unknown reset": ("meta.layers[0].neuron.reset", layer_key(0, neuron={"reset": "zero"})),
    "leak of nothing": ("meta.layers[0].neuron.leak", layer_key(0, neuron={"kind": "lif", "leak": {}})),
    "leak of both": ("meta.layers[0].neuron.leak", layer_key(0, neuron={"leak": {"shift": 2, "factor": 0.5}})),
    "leak shift": ("meta.layers[0].neuron.leak.shift", layer_key(0, neuron={"leak": {"shift": 0}})),
    "leak factor": ("meta.layers[0].neuron.leak.factor", layer_key(0, neuron={"leak": {"factor": 1.5}})),
    "unknown input": ("meta.layers[0].input", layer_key(0, input="currents")),
    "level bits": ("meta.layers[2].level_bits", layer_key(2, level_bits=17)),
    "inputs no list": ("meta.layers[1].inputs", layer_key(1, inputs="conv")),
    "inputs unknown": ("meta.layers[1].inputs", layer_key(1, inputs=["convv"])),
    "inputs later": ("meta.layers[0].inputs", swapped),
    "inputs of another size": ("meta.layers[2].inputs", layer_key(2, inputs=["conv"])),
    "joins nobody": ("meta.layers[1].joins", layer_key(1, joins="fcc")),
    "joins another map": ("meta.layers[1].joins", layer_key(1, joins="fc")),
    "joins with neurons": ("meta.layers[0].joins", layer_key(0, joins="fc")),
    "another out shape": ("meta.layers[0].out_shape", bare_conv(out_shape=[3, 2, 2])),
    "turned out shape": ("meta.layers[0].out_shape", bare_conv(out_shape=[3, 2, 3])),
    "flat out shape": ("meta.layers[0].out_shape", bare_conv(out_shape=[3, 6])),
    "out shape of a pool": ("meta.layers[1].out_shape", layer_key(1, out_shape=[3])),
    "kernel too large": ("meta.layers[0]", bare_conv(kernel=[5, 5])),
    "flat map": ("meta.layers[0]", bare_conv(in_shape=[24])),
    "map of another shape": ("meta.layers[1].inputs", turned_pool),
    "conv1d of a map": ("meta.layers[0].in_shape", bare_conv(kind="conv1d", kernel=[2])),
    "conv1d with two extents": ("meta.layers[0].kernel", bare_conv(kind="conv1d", in_shape=[24, 1], kernel=[2, 1])),
    "no spikes": ("spikes/conv", lambda m, a: a.pop("spikes/conv")),
    "no levels": ("levels/fc", lambda m, a: a.pop("levels/fc")),
    "spikes twice": ("spikes/conv", lambda m, a: a.update({"packed/conv": np.zeros((2, N, 2, 4, 3), np.uint8)})),
    "spikes turned": ("spikes/conv", array_key("spikes/conv", lambda a: a.swapaxes(0, 1))),
    "spikes flat": ("spikes/conv", array_key("spikes/conv", lambda a: a.reshape(T, N, -1))),
    "spikes of floats": ("spikes/conv", array_key("spikes/conv", lambda a: a.astype(float))),
    "spikes of 8-bit signs": ("spikes/conv", array_key("spikes/conv", lambda a: a.astype(np.int8))),
    "spikes not binary": ("spikes/conv", array_key("spikes/conv", lambda a: put(a.astype(np.uint8), 2))),
    "packed of bool": ("packed/pool", array_key("packed/pool", lambda a: a > 0)),
    "packed too short": ("packed/pool", array_key("packed/pool", lambda a: a[:1])),
    "packed beyond T": ("packed/pool", array_key("packed/pool", lambda a: put(a, 0b100))),
    "levels beyond bits": ("levels/fc", array_key("levels/fc", lambda a: put(a, 8))),
    "negative levels": ("levels/fc", array_key("levels/fc", lambda a: put(a.astype(np.int16), -1))),
    "wide levels": ("levels/fc", array_key("levels/fc", lambda a: a.astype(np.int32))),
    "levels flat": ("levels/fc", array_key("levels/fc", lambda a: a[:, :, 0])),
    "out of another shape": ("out/fc", array_key("out/fc", lambda a: a[:, :, :3])),
    "out not binary": ("out/fc", array_key("out/fc", lambda a: a.astype(np.uint8) + 1)),
    "updates too short": ("updates/conv", array_key("updates/conv", lambda a: a[1:])),
    "weights not a number": ("weights/fc", array_key("weights/fc", lambda a: put(a, np.nan))),
    "weights infinite": ("weights/fc", array_key("weights/fc", lambda a: put(a, -np.inf))),
    "weights turned": ("weights/fc", array_key("weights/fc", lambda a: a.T)),
    "weights of words": ("weights/fc", array_key("weights/fc", lambda a: a.astype(str))),
    "weights of objects": ("weights/fc", array_key("weights/fc", lambda a: a.astype(object))),
    "bias of words": ("bias/fc", array_key("bias/fc", lambda a: a.astype(str))),
    "bias too long": ("bias/fc", array_key("bias/fc", lambda a: np.append(a, 0))),
    "labels of reals": ("labels", array_key("labels", lambda a: a.astype(float))),
    "labels too many": ("labels", array_key("labels", lambda a: np.append(a, 0))),
    "predictions of objects": ("predictions", array_key("predictions", lambda a: a.astype(object))),
    "unknown objects": ("mine", lambda m, a: a.update(mine=np.array([{}], object))),
    "unknown not a number": ("mine", lambda m, a: a.update(mine=np.array(complex("nan")))),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning")  # NumPy's own about names used twice, where that is the point
@pytest.mark.parametrize("case", SPOILS)
def test_a_bad_file_is_refused_by_file_and_key(
    tmp_path: Path, meta: dict[str, Any], arrays: dict[str, Any], case: str
) -> None:
    key, spoil = SPOILS[case]
    spoil(meta, arrays)
    assert complaint(written(tmp_path / "bad.npz", meta, arrays), read_trace, TraceError).startswith(f": {key}")


def test_levels_may_be_negative_where_the_file_says_so(
    tmp_path: Path, meta: dict[str, Any], arrays: dict[str, Any]
) -> None:
    arrays["levels/fc"] = put(arrays["levels/fc"].astype(np.int16), -7)
    meta["layers"][2]["signed"] = True
    _, trace = read_trace(written(tmp_path / "t.npz", meta, arrays))
    arrival = trace.arrivals["fc"]
    assert isinstance(arrival, Levels) and arrival.signed and arrival.values.min() == -7
    arrays["levels/fc"] = put(arrays["levels/fc"], -8)
    assert complaint(written(tmp_path / "t.npz", meta, arrays), read_trace, TraceError).startswith(": levels/fc")


@pytest.mark.parametrize(
    "header",
    ["", "{", "[1]", "3", "null", "NaN", '{"format": ["spikeloom-trace"]}', "[" * 100_000, '{"a": ' + "1" * 5000 + "}"],
    ids=lambda text: text[:8],
)
def test_a_header_that_is_none(tmp_path: Path, header: str) -> None:
    assert complaint(written(tmp_path / "bad.npz", header, {}), read_trace, TraceError).startswith(": meta")


@pytest.mark.parametrize("header", [np.array(3), np.array(["{}", "{}"]), np.array(b"{}")])
def test_a_header_that_is_no_text(tmp_path: Path, header: np.ndarray) -> None:
    np.savez(tmp_path / "bad.npz", meta=header)
    assert complaint(tmp_path / "bad.npz", read_trace, TraceError).startswith(": meta: expected one JSON string")


def test_no_header(tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", x=np.zeros(2))
    assert complaint(tmp_path / "bad.npz", read_trace, TraceError).startswith(": meta: missing array")


def test_what_is_no_archive(tmp_path: Path) -> None:
    assert "no such file" in complaint(tmp_path / "missing.npz", read_trace, TraceError)
    assert "is a folder" in complaint(tmp_path, read_trace, TraceError)
    assert "cannot be read" in complaint(tmp_path / ("x" * 300), read_trace, TraceError)
    path = tmp_path / "bad.npz"
    for data in (b"", b"PK", b"PK\x03\x04", b"hello, world", b"\x80\x04N.", b"\x93NUMPY\x01\x00"):
        path.write_bytes(data)
        assert "not a readable .npz" in complaint(path, read_trace, TraceError)
    with path.open("wb") as stream:
        np.save(stream, np.zeros(3))
    assert "single array" in complaint(path, read_trace, TraceError)


def test_other_members_of_a_zip_are_named(tmp_path: Path, meta: dict[str, Any], arrays: dict[str, Any]) -> None:
    path = written(tmp_path / "t.npz", meta, arrays)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("read me.txt", "hello")
    assert complaint(path, read_trace, TraceError).startswith(": read me.txt: is no .npy array")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("meta", json.dumps(meta))
    assert complaint(path, read_trace, TraceError).startswith(": meta: is no .npy array")


@pytest.mark.parametrize("kept", [0.02, 0.3, 0.6, 0.9, 0.97, 0.999])
def test_a_file_cut_off_anywhere_is_refused(
    tmp_path: Path, meta: dict[str, Any], arrays: dict[str, Any], kept: float
) -> None:
    path = written(tmp_path / "t.npz", meta, arrays)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    assert "truncated" in complaint(path, read_trace, TraceError)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_bytes_are_refused_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "t.npz"
    network = chain("n", {"in": In((3,)), "fc": Linear(3, 2), "if": IF(None)})
    write_trace(path, network, SpikeTrace(3, 1, {"fc": Spikes.pack(np.eye(3)[:, None])}))
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(raw)
    try:
        arrival, said = read_trace(path)[1].arrivals["fc"], str(path)
    except TraceError as error:
        arrival, said = None, str(error)
    assert said.startswith(str(path)) and len(said.splitlines()) == 1
    assert arrival is None or (isinstance(arrival, Spikes) and np.array_equal(arrival.unpack()[:, 0], np.eye(3)))


HEADERS = (
    "{'descr': '|b1', 'fortran_order': False, 'shape': (10, 2, 2, 4, 3), }",
    "{'descr': '|b1', 'fortran_order': False, 'shape': (9999999999999,), }",
    "{'descr': '|b1', 'fortran_order': False, 'shape': (-1,), }",
    "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
    "{'descr': [('a', 'zz')], 'fortran_order': False, 'shape': (), }",
    "{'descr': 3, 'fortran_order': 5, 'shape': 7}",
    "{'descr': '|b1'",
    "((((((",
    "\n  indented\n unindented",
    "__import__('os')",
    "x" * 20000,
)


@pytest.mark.parametrize("header", HEADERS, ids=range(len(HEADERS)))
def test_damaged_array_headers_are_refused(
    tmp_path: Path, meta: dict[str, Any], arrays: dict[str, Any], header: str
) -> None:
    """Inside a zip whose checksums are right; the first header is a good one whose data is missing."""
    del arrays["spikes/conv"]
    path = written(tmp_path / "t.npz", meta, arrays)
    with zipfile.ZipFile(path, "a") as archive:
        text = header.encode()
        archive.writestr("spikes/conv.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)
    assert complaint(path, read_trace, TraceError).startswith(": spikes/conv: ")


# --- writing -----------------------------------------------------------------------------------------------------


@pytest.fixture
def small() -> tuple[Network, SpikeTrace]:
    network = chain(
        "n", {"in": In((1, 2, 2)), "conv": Conv2d(1, 1, (1, 1)), "if": IF(None), "fl": Flatten(), "fc": Linear(4, 2)}
    )
    return network, SpikeTrace(
        2, 1, {"conv": Spikes.pack(np.ones((2, 1, 1, 2, 2))), "fc": Spikes.pack(np.ones((2, 1, 4)))}
    )


def test_an_interrupted_write_leaves_what_was_there(
    tmp_path: Path, small: tuple[Network, SpikeTrace], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.npz"
    write_trace(path, *small)
    before = path.read_bytes()
    write_array: Any = np.lib.format.write_array

    def stops(causes: Iterator[BaseException]) -> Any:
        def write(stream: Any, array: np.ndarray, **options: Any) -> None:
            if array.dtype.kind != "U":
                raise next(causes)
            write_array(stream, array, **options)

        return write

    for target in (path, tmp_path / "other.npz"):
        monkeypatch.setattr(np.lib.format, "write_array", stops(iter((KeyboardInterrupt(), OSError(28, "disk full")))))
        with pytest.raises(KeyboardInterrupt):
            write_trace(target, *small)
        assert "disk full" in complaint(target, lambda path: write_trace(path, *small), FileError)
        assert [file.name for file in tmp_path.iterdir()] == ["t.npz"]
        assert path.read_bytes() == before


def test_where_nothing_can_be_written(tmp_path: Path, small: tuple[Network, SpikeTrace]) -> None:
    (tmp_path / "file").write_text("I am no folder")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "t.npz", tmp_path / "file" / "deep" / "t.npz", tmp_path / "folder", Path()):
        complaint(path, lambda path: write_trace(path, *small), FileError)
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["file", "folder"]


def test_missing_folders_are_made(tmp_path: Path, small: tuple[Network, SpikeTrace]) -> None:
    write_trace(tmp_path / "a" / "b" / "t.npz", *small)
    assert lower(*read_trace(tmp_path / "a" / "b" / "t.npz")).id == lower(*small).id


def test_neurons_behind_a_pool_survive(tmp_path: Path) -> None:
    nodes: dict[str, Node] = {
        "in": In((1, 4, 4)), "pool": SumPool2d((2, 2), (2, 2)), "lif": LIF(Leak(shift=3), None),
        "avg": AvgPool2d((2, 2), (2, 2)), "fl": Flatten(), "fc": Linear(1, 2),
    }  # fmt: skip
    network = chain("n", nodes)
    arrivals: dict[str, Arrival] = {
        "pool": Spikes.pack(np.ones((3, 1, 1, 4, 4))),
        "avg": Spikes.pack(np.ones((3, 1, 1, 2, 2))),
        "fc": Levels(np.ones((3, 1, 1), np.uint8), 3),
    }
    write_trace(tmp_path / "t.npz", network, SpikeTrace(3, 1, arrivals))
    read = lower(*read_trace(tmp_path / "t.npz"))
    assert read["pool"].neuron.leak == Leak(shift=3)
    assert read["avg"].neuron.kind == "none"


def test_the_delay_of_spikes_round_trips_and_changes_the_workload(tmp_path: Path) -> None:
    nodes: dict[str, Node] = {"in": In((3,)), "fc": Linear(3, 2), "if": IF()}
    network, spikes = chain("n", nodes), {"fc": Spikes.pack(np.ones((4, 1, 3)))}
    ids = []
    for delay in (0, 1):
        path = tmp_path / f"{delay}.npz"
        write_trace(path, network, SpikeTrace(4, 1, spikes, delay=delay))
        assert ("delay" in contents(path)[0]) == bool(delay)
        work = lower(*read_trace(path))
        assert work.delay == delay
        ids.append(work.id)
    assert ids[0] != ids[1]


def test_what_hears_a_joined_neuron_hears_it_alone_after_a_round_trip(tmp_path: Path) -> None:
    """A file names branch and owner as inputs: the graph has no edge past the neuron, and its spikes are what arrives behind."""
    nodes: dict[str, Node] = {
        "in": In((3, 4, 4)), "short": Conv2d(3, 2, (1, 1)), "main": Conv2d(3, 2, (3, 3), padding=(1, 1)), "if": IF(),
        "flat": Flatten(), "fc": Linear(32, 5),
    }  # fmt: skip
    edges = (("in", "short"), ("in", "main"), ("short", "if"), ("main", "if"), ("if", "flat"), ("flat", "fc"))
    rng = np.random.default_rng(0)
    arrivals: dict[str, Arrival] = {
        name: Spikes.pack(rng.random((T, N, *shape)) < 0.3)
        for name, shape in (("short", (3, 4, 4)), ("main", (3, 4, 4)), ("fc", (32,)))
    }
    network, trace = Network(nodes, edges), SpikeTrace(T, N, arrivals)
    path = tmp_path / "trace.npz"
    write_trace(path, network, trace)
    again, read = read_trace(path)
    assert contents(path)[0]["layers"][2]["inputs"] == ["short", "main"]  # the files stay as they were
    assert again.outputs_of("short") == ("main.neuron",) and again.layer_inputs("fc") == network.layer_inputs("fc")
    before, after = lower(network, trace), lower(again, read)
    assert before["main"].out is not None and before.id == after.id
    assert after["main"].branches[0].name == "short" and after["fc"].inputs == ("main",)
