"""NIR files: what exporters really write is read, equations hold, what cannot be said is refused, and a round trip keeps all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from spikeloom.core.network import Network, chain
from spikeloom.core.nodes import (
    IF,
    LI,
    LIF,
    Add,
    AvgPool2d,
    BatchNorm,
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
from spikeloom.errors import FileError, NetworkFileError
from spikeloom.files.network import read_network, write_network
from spikeloom.files.nir import read_nir, write_nir
from tests.files.cases import complaint
from tests.files.nir_cases import (
    DT_S,
    affine,
    conv2d,
    cuba,
    lif,
    networks,
    nodes_equal,
    raw_chain,
    recurrent,
    write_raw,
)

NETS = Path(os.environ.get("SPIKELOOM_DATA", "absent")) / "nets"
needs_nets = pytest.mark.skipif(not NETS.is_dir(), reason="needs SPIKELOOM_DATA with nets/")
LOOP = [("lif", "w_rec"), ("w_rec", "lif")]
CELL = {"lif": lif(), "w_rec": affine([[0, 1], [1, 0]])}


# Real files


@needs_nets
def test_the_network_of_sinabs() -> None:
    network = read_nir(NETS / "cnn_sinabs.nir", reset="soft", strict=True)
    kinds = [Input, Conv2d, IF, Conv2d, IF, SumPool2d, Conv2d, IF, SumPool2d, Flatten, Linear, IF, Linear, IF, Output]
    assert [type(node) for node in network.nodes.values()] == kinds
    assert list(network.nodes) == ["input", *map(str, range(13)), "output"]
    shapes = network.shapes()
    assert (shapes["0"], shapes["8"], shapes["output"]) == ((16, 16, 16), (128,), (10,))
    assert not any(node.has_bias for node in network.nodes.values() if isinstance(node, Conv2d | Linear))
    neuron = network.nodes["12"]
    assert isinstance(neuron, IF)
    assert (neuron.v_threshold, neuron.v_reset, neuron.reset, neuron.strict) == (1.0, 0.0, "soft", True)
    record = network.metadata["nir"]
    assert (record["file"], record["version"], record["reset"], record["strict"]) == (
        "cnn_sinabs.nir",
        "0.2.0",
        "soft",
        True,
    )
    assert network.dt_s is None and record["notes"] == []


@needs_nets
def test_the_neuron_of_norse() -> None:
    network = read_nir(NETS / "lif_norse.nir", dt_s=1e-3)
    neuron = network.nodes["1"]
    assert isinstance(neuron, LIF) and neuron.leak is not None
    assert neuron.leak.kept == pytest.approx(1 - 1e-3 / 2.5e-3, rel=1e-6)
    assert neuron.v_threshold == pytest.approx(0.1 / (1e-3 / 2.5e-3), rel=1e-6)
    assert network.dt_s == 1e-3
    with pytest.raises(NetworkFileError, match=r"node '1' \(LIF\): holds times in seconds .* dt_s"):
        read_nir(NETS / "lif_norse.nir")


@needs_nets
@pytest.mark.parametrize("reset", ["soft", "hard"])
def test_the_network_of_sinabs_sees_digits(reset: Any) -> None:
    pytest.importorskip("torch")
    from spikeloom.data.nmnist import nmnist
    from spikeloom.snn.execute import Execution, evaluate

    class First:
        def __init__(self, source: Any, number: int) -> None:
            self.labels, self.batch, self.number = source.labels[:number], source.batch, number

        def __len__(self) -> int:
            return self.number

    recordings = First(nmnist("test", NETS.parent, num_steps=300, dt_us=1000), 20)
    network = read_nir(NETS / "cnn_sinabs.nir", reset=reset)
    assert evaluate(network, recordings, Execution(300, "events")) >= 0.95


# Equations


def _run(network: Network, psums_TN: np.ndarray) -> np.ndarray:
    torch = pytest.importorskip("torch")
    from spikeloom.snn.build import build

    module = build(network).eval()
    with torch.no_grad():
        sent = module(torch.from_numpy(psums_TN).flatten(0, 1), len(psums_TN))
    return np.asarray(sent)


def _in_volts(node: Mapping[str, Any], currents: np.ndarray, reset: str, share: Any) -> np.ndarray:
    """NIR's own equations step by step, in its own units; shape (T, N, C)."""
    v = np.zeros_like(currents[0]) + node["v_leak"]
    current = np.zeros_like(v)
    spikes = np.zeros_like(currents)
    for t, arriving in enumerate(currents):
        if node["type"] == "CubaLIF":
            current = arriving = current + share(node["tau_syn"]) * (node["w_in"] * arriving - current)
        v = v + share(node.get("tau", node.get("tau_mem"))) * (node["v_leak"] - v + node["r"] * arriving)
        spikes[t] = v >= node["v_threshold"]
        v = np.where(spikes[t] == 1, node["v_reset"] if reset == "hard" else v - node["v_threshold"], v)
    return spikes


@pytest.mark.parametrize("discretisation", ["euler", "exponential"])
@pytest.mark.parametrize("reset", ["hard", "soft"])
@pytest.mark.parametrize("kind", ["LIF", "CubaLIF"])
def test_neurons_do_what_the_equations_of_nir_say(tmp_path: Path, kind: str, reset: Any, discretisation: Any) -> None:
    rng = np.random.default_rng(5)
    v_leak = 0.25 if reset == "hard" else 0.0  # what a soft reset subtracts is measured from 0
    own = {
        "r": rng.uniform(0.5, 3, 4),
        "v_leak": np.full(4, v_leak),
        "v_threshold": rng.uniform(0.5, 1, 4),
        "v_reset": rng.uniform(-1, 0, 4),
    }
    own |= (
        {"tau": rng.uniform(1.5e-3, 9e-3, 4)}
        if kind == "LIF"
        else {"tau_mem": np.full(4, 5e-3), "tau_syn": rng.uniform(2e-3, 4e-3, 4)}
    )
    node = {"type": kind, **own} | ({"w_in": rng.uniform(1, 2, 4)} if kind == "CubaLIF" else {})
    network = read_nir(
        raw_chain(tmp_path / "n.nir", node, shape=(4,)), dt_s=DT_S, reset=reset, discretisation=discretisation
    )

    def share(tau: np.ndarray) -> np.ndarray:
        return DT_S / tau if discretisation == "euler" else 1 - np.exp(-DT_S / tau)

    currents = rng.normal(0.8, 1.5, (60, 3, 4)).astype(np.float32)
    expected = _in_volts(node, currents, reset, share)
    assert 0.02 < expected.mean() < 0.9
    assert np.array_equal(_run(network, currents), expected)


def test_gain_goes_into_the_unit_of_the_membrane(tmp_path: Path) -> None:
    node = read_nir(raw_chain(tmp_path / "n.nir", lif(r=2.0, v_leak=0.5, v_reset=0.25)), dt_s=DT_S).nodes["0"]
    assert isinstance(node, LIF) and node.leak == Leak(factor=0.75)
    assert (node.v_threshold, node.v_reset) == (0.5 / 0.5, -0.25 / 0.5)
    node = read_nir(raw_chain(tmp_path / "n.nir", cuba(r=2.0, w_in=4.0)), dt_s=DT_S).nodes["0"]
    assert isinstance(node, CubaLIF) and (node.leak, node.syn_leak) == (Leak(factor=0.75), Leak(factor=0.5))
    assert node.v_threshold == 1 / (4 * 0.5 * 2 * 0.25)


def test_arrays_of_different_values_stay_arrays(tmp_path: Path) -> None:
    path = raw_chain(tmp_path / "n.nir", lif(tau=np.array([0.004, 0.002]), v_threshold=np.array([1.0, 2.0])))
    node = read_nir(path, dt_s=DT_S).nodes["0"]
    assert isinstance(node, LIF) and node.leak is not None
    np.testing.assert_array_equal(node.leak.kept, [0.75, 0.5])
    np.testing.assert_array_equal(node.v_threshold, [1.0, 1.0])
    assert node.v_reset == 0.0


def test_integrators_have_their_gain_before_them(tmp_path: Path) -> None:
    li = {"type": "LI", "tau": 0.004, "r": 1.0, "v_leak": 0.0}
    network = read_nir(raw_chain(tmp_path / "n.nir", li, {"type": "I", "r": 1.0}, {**li, "r": 4.0}), dt_s=DT_S)
    assert list(network.nodes) == ["input", "0.scale", "0", "1", "2", "output"]
    scale, leaky, plain = (network.nodes[name] for name in ("0.scale", "0", "1"))
    assert isinstance(scale, Scale) and scale.scale == 0.25
    assert isinstance(leaky, LI) and leaky.leak == Leak(factor=0.75)
    assert isinstance(plain, LI) and plain.leak is None
    ones = np.ones((3, 1, 2), np.float32)
    # 0.25, 0.4375, 0.578125; summed; then leaked by 0.75
    summed = np.cumsum([0.25, 0.4375, 0.578125])
    assert _run(network, ones)[:, 0, 0] == pytest.approx(
        [summed[0], 0.75 * summed[0] + summed[1], 0.75 * (0.75 * summed[0] + summed[1]) + summed[2]]
    )


@pytest.mark.parametrize(
    ("r", "options", "threshold"),
    [
        (1.0, {}, 2.0),
        (1.0, {"dt_s": 1e-3}, 2.0),
        (1000.0, {"dt_s": 1e-3}, 2.0),
        (np.float32(1e4), {"dt_s": 1e-4}, 2.0),
        (4.0, {"if_gain": "per_step"}, 0.5),
        (1000.0, {"if_gain": "per_step", "dt_s": 1e-3}, 0.002),
        (500.0, {"if_gain": "per_second", "dt_s": 1e-3}, 4.0),
    ],
)
def test_the_two_meanings_of_r_of_an_if(tmp_path: Path, r: float, options: dict[str, Any], threshold: float) -> None:
    node = read_nir(raw_chain(tmp_path / "n.nir", {"type": "IF", "r": r, "v_threshold": 2.0}), **options).nodes["0"]
    assert isinstance(node, IF) and node.v_threshold == pytest.approx(threshold, rel=1e-12)


# What exporters write


def test_a_file_of_nir_108_with_scalars(tmp_path: Path) -> None:
    """nir's own reader refuses this one: it checks types by the shape of r."""
    nodes = {
        "in": {"type": "Input", "shape": [2]},
        "0": affine(np.eye(2), [1, 2]),
        "1": lif(),
        "out": {"type": "Output", "shape": [2]},
    }
    path = write_raw(tmp_path / "n.nir", nodes, [("in", "0"), ("0", "1"), ("1", "out")], version="1.0.8")
    with pytest.raises(ValueError, match="type mismatch"):
        nir.read(path)
    network = read_nir(path, dt_s=DT_S)
    assert isinstance(network.nodes["1"], LIF) and network.nodes["1"].v_threshold == 1.0
    assert network.metadata["nir"]["version"] == "1.0.8"


@pytest.mark.parametrize(
    "node", [lif(v_reset=None), cuba(v_reset=None), cuba(w_in=None, r=8.0)], ids=["lif", "cuba", "w_in"]
)
def test_a_file_of_nir_104_without_v_reset(tmp_path: Path, node: dict[str, Any]) -> None:
    read = read_nir(raw_chain(tmp_path / "n.nir", {k: v for k, v in node.items() if v is not None}), dt_s=DT_S).nodes[
        "0"
    ]
    assert isinstance(read, LIF | CubaLIF) and (read.v_threshold, read.v_reset) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("fields", "note"),
    [
        ({"start_dim": 0, "end_dim": -1, "input_type": [2, 3, 4]}, False),
        ({"start_dim": 0, "end_dim": 2}, False),
        ({"start_dim": -3, "end_dim": -1, "input_type": None}, False),
        ({"start_dim": 1, "end_dim": -1, "input_type": [1, 2, 3, 4]}, True),
        ({"start_dim": 1, "end_dim": 3}, True),
        ({}, True),
    ],
)
def test_flatten_in_all_its_spellings(tmp_path: Path, fields: dict[str, Any], note: bool) -> None:
    path = raw_chain(tmp_path / "n.nir", {"type": "Flatten", **fields}, affine(np.ones((2, 24))), shape=(2, 3, 4))
    network = read_nir(path)
    assert isinstance(network.nodes["0"], Flatten) and network.shapes()["output"] == (2,)
    assert bool(network.metadata["nir"]["notes"]) == note


def test_a_batch_axis_in_the_input_is_dropped(tmp_path: Path) -> None:
    network = read_nir(raw_chain(tmp_path / "n.nir", affine(np.ones((3, 64))), shape=(1, 64)))
    assert network.shapes()["input"] == (64,)
    assert "[1, 64]" in network.metadata["nir"]["notes"][0]
    assert read_nir(raw_chain(tmp_path / "n.nir", conv2d(), shape=(1, 2, 5, 5))).shapes()["output"] == (3, 5, 5)
    ones = read_nir(raw_chain(tmp_path / "n.nir", conv2d(weight=np.ones((3, 1, 3, 3))), shape=(1, 5, 5)))
    assert ones.shapes()["input"] == (1, 5, 5) and ones.metadata["nir"]["notes"] == []


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"padding": "valid"}, "padding", (0, 0)),
        ({"padding": "same", "dilation": 2}, "padding", (2, 2)),
        ({"padding": 1, "stride": np.array([2, 1])}, "stride", (2, 1)),
        ({"padding": np.array([2]), "stride": 3}, "padding", (2, 2)),
        ({"bias": None}, "has_bias", False),
        ({"bias": np.array([0.0, 1.0, 0.0])}, "has_bias", True),
        ({"weight": np.ones((4, 1, 3, 3), np.int64), "groups": 2, "bias": np.zeros(4)}, "in_channels", 2),
    ],
)
def test_convolutions_in_all_their_spellings(tmp_path: Path, changes: dict[str, Any], field: str, value: Any) -> None:
    network = read_nir(raw_chain(tmp_path / "n.nir", conv2d(**changes), shape=(2, 7, 7)))
    node = network.nodes["0"]
    assert isinstance(node, Conv2d) and getattr(node, field) == value
    assert node.weight is not None and node.weight.dtype == np.float32  # whole numbers are no integer network
    network.shapes()


def test_a_conv1d_with_tuples_and_pools_with_single_numbers(tmp_path: Path) -> None:
    one = {"stride": (2,), "padding": (1,), "dilation": (1,), "groups": 1, "bias": np.zeros(3), "input_shape": None}
    node = read_nir(
        raw_chain(tmp_path / "n.nir", {"type": "Conv1d", "weight": np.ones((3, 2, 3)), **one}, shape=(2, 8))
    ).nodes["0"]
    assert isinstance(node, Conv1d) and (node.kernel, node.stride, node.padding) == (3, 2, 1)
    for kind in (SumPool2d, AvgPool2d):
        pool = {"type": kind.__name__, "kernel_size": 2, "stride": np.array([2, 1]), "padding": 0}
        read = read_nir(raw_chain(tmp_path / "n.nir", pool, shape=(2, 8, 8))).nodes["0"]
        assert type(read) is kind
        assert (read.kernel, read.stride, read.padding) == ((2, 2), (2, 1), (0, 0))


def test_what_says_nothing_is_passed_over(tmp_path: Path) -> None:
    noted = {**lif(), "metadata": {"author": "someone", "deep": {"er": 3}}, "input_type": [2], "name": "first"}
    network = read_nir(raw_chain(tmp_path / "n.nir", noted, metadata={"tool": "x"}), dt_s=DT_S)
    assert isinstance(network.nodes["0"], LIF) and network.name == "n"


def test_edges_written_twice_count_once_and_a_missing_output_is_added(tmp_path: Path) -> None:
    nodes = {"in": {"type": "Input", "shape": [2]}, "fc": affine(np.ones((3, 2)))}
    network = read_nir(write_raw(tmp_path / "n.nir", nodes, [("in", "fc"), ("in", "fc")]))
    assert network.edges == (("in", "fc"), ("fc", "output")) and network.shapes()["output"] == (3,)


def test_edges_that_meet_add_up(tmp_path: Path) -> None:
    nodes = {
        "in": {"type": "Input", "shape": [2]},
        "a": affine(np.eye(2)),
        "b": affine(2 * np.eye(2)),
        "out": {"type": "Output"},
    }
    network = read_nir(write_raw(tmp_path / "n.nir", nodes, [("in", "a"), ("in", "b"), ("a", "out"), ("b", "out")]))
    assert _run(network, np.ones((1, 1, 2), np.float32)).tolist() == [[[3.0, 3.0]]]


@pytest.mark.parametrize("delay", ["0.002", "0.0"])
def test_delays_become_whole_steps(tmp_path: Path, delay: str) -> None:
    path = raw_chain(tmp_path / "n.nir", {"type": "Delay", "delay": np.full(2, float(delay), np.float32)})
    node = read_nir(path, dt_s=DT_S).nodes["0"]
    assert isinstance(node, Delay) and node.steps == round(float(delay) / DT_S)


# Graphs within graphs, loops


def test_a_recurrent_cell_is_laid_flat_with_a_delay_behind_its_neuron(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "n.nir", recurrent(LOOP, **CELL), [("input", "rnn"), ("rnn", "output")])
    with pytest.raises(
        NetworkFileError, match=r"the nodes rnn.lif -> rnn.w_rec -> rnn.lif form a loop .* --loop-delay 1"
    ):
        read_nir(path, dt_s=DT_S)
    network = read_nir(path, dt_s=DT_S, loop_delay=1)
    expected = {
        ("input", "rnn.lif"), ("rnn.lif", "rnn.lif.delay"), ("rnn.lif.delay", "rnn.w_rec"), ("rnn.w_rec", "rnn.lif"), ("rnn.lif", "output"),
    }  # fmt: skip
    assert set(network.edges) == expected and network.recurrent
    assert network.metadata["nir"]["loop_delays"] == ["rnn.lif.delay"]
    delay = read_nir(path, dt_s=DT_S, loop_delay=3).nodes["rnn.lif.delay"]
    assert isinstance(delay, Delay) and delay.steps == 3


def test_a_loop_sends_back_what_it_sent_a_step_ago(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "n.nir", recurrent(LOOP, **CELL), [("input", "rnn"), ("rnn", "output")])
    network = read_nir(path, dt_s=DT_S, loop_delay=1)
    first = np.zeros((4, 1, 2), np.float32)
    first[0, 0, 0] = 1  # the loop swaps the two neurons
    assert _run(network, first)[:, 0].tolist() == [[1, 0], [0, 1], [1, 0], [0, 1]]


def test_a_self_edge_and_a_feedback_over_layers(tmp_path: Path) -> None:
    network = read_nir(
        write_raw(tmp_path / "n.nir", recurrent([("lif", "lif")], lif=lif()), [("input", "rnn"), ("rnn", "output")]),
        dt_s=DT_S, loop_delay=1,
    )  # fmt: skip
    assert ("rnn.lif.delay", "rnn.lif") in network.edges and ("rnn.lif", "rnn.lif") not in network.edges
    nodes = {"in": {"type": "Input", "shape": [2]}, "out": {"type": "Output", "shape": [2]}, "a": lif(), "b": lif()}
    nodes |= {"fc": affine(np.eye(2)), "back": affine(np.eye(2))}
    edges = [("in", "a"), ("a", "fc"), ("fc", "b"), ("b", "out"), ("b", "back"), ("back", "a"), ("b", "b")]
    network = read_nir(write_raw(tmp_path / "n.nir", nodes, edges), dt_s=DT_S, loop_delay=1)
    assert {e for e in network.edges if "b.delay" in e} == {("b", "b.delay"), ("b.delay", "back"), ("b.delay", "b")}
    assert ("a", "fc") in network.edges and network.metadata["nir"]["loop_delays"] == ["b.delay"]


def test_a_loop_with_a_delay_is_left_alone(tmp_path: Path) -> None:
    cell = {**CELL, "late": {"type": "Delay", "delay": 0.002}}
    loop = [("lif", "late"), ("late", "w_rec"), ("w_rec", "lif")]
    network = read_nir(
        write_raw(tmp_path / "n.nir", recurrent(loop, **cell), [("input", "rnn"), ("rnn", "output")]), dt_s=DT_S
    )
    assert network.recurrent and network.metadata["nir"]["loop_delays"] == []


def test_a_recurrent_network_survives_the_round_trip(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "n.nir", recurrent(LOOP, **CELL), [("input", "rnn"), ("rnn", "output")])
    network = read_nir(path, dt_s=DT_S, loop_delay=1)
    write_nir(tmp_path / "again.nir", network)
    again = read_nir(tmp_path / "again.nir")  # the delay is a node of the file now, the step stated
    assert set(again.edges) == set(network.edges) and again.dt_s == DT_S
    currents = np.random.default_rng(1).normal(0.4, 1, (30, 2, 2)).astype(np.float32)
    assert np.array_equal(_run(again, currents), _run(network, currents))


# Refusals

UNKNOWN = {"type": "SpikingDense", "weight": np.eye(2)}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown type": (UNKNOWN, "node '0' (SpikingDense): this type is not read"),
    "threshold": ({"type": "Threshold", "threshold": np.ones(2)}, "node '0' (Threshold): this type is not read"),
    "cubali": ({"type": "CubaLI", "tau_syn": 1.0}, "node '0' (CubaLI): this type is not read"),
    "missing": (lif(tau=None), "node '0' (LIF): has no tau"),
    "empty": (lif() | {"tau": None}, "node '0' (LIF): has no tau"),
    "no element": (lif(tau=np.zeros(0)), "node '0' (LIF): tau is empty"),
    "unknown field": (lif(refractory=0.1), "node '0' (LIF): has the unknown field 'refractory'"),
    "nan": (lif(r=np.nan), "node '0' (LIF): r holds NaN or infinity"),
    "inf": (lif(tau=np.inf), "node '0' (LIF): tau holds NaN or infinity"),
    "word": (lif(tau="long"), "node '0' (LIF): got 'long' for tau"),
    "complex": (lif(tau=1j), "node '0' (LIF): tau holds complex128"),
    "negative tau": (lif(tau=-0.1), "node '0' (LIF): got tau -0.1, expected positive"),
    "no resistance": (lif(r=0.0), "node '0' (LIF): got r 0"),
    "low threshold": (lif(v_threshold=0.1, v_leak=0.3), "node '0' (LIF): its v_threshold lies -0.2 above"),
    "far reset": (lif(r=1e-300, v_reset=1e20), "node '0' (LIF): its v_"),
    "short tau": (lif(tau=0.0005), "node '0' (LIF): a step of 0.001 s is longer than tau 0.0005 s"),
    "shape": (lif(tau=np.full(3, 0.004)), "node '0' (LIF): got tau of shape [3]"),
    "mixed shapes": (lif(tau=np.full(3, 0.004), r=np.full(2, 4.0)), "node '0' (LIF): has values of different shapes"),
    "leaky read-out": ({"type": "LI", "tau": 1.0, "r": 1.0, "v_leak": 0.5}, "node '0' (LI): has a v_leak other than 0"),
    "r of if": ({"type": "IF", "r": 3.0, "v_threshold": 1.0}, "node '0' (IF): got r 3 and the step is 0.001 s"),
    "r of i": ({"type": "I", "r": 3.0}, "node '0' (I): got r 3 and the step is 0.001 s"),
    "uneven delay": ({"type": "Delay", "delay": [0.001, 0.002]}, "node '0' (Delay): delays of 0.001 to 0.002 s differ"),
    "half a step": ({"type": "Delay", "delay": 0.0015}, "node '0' (Delay): a delay of 0.0015 s is 1.5 steps"),
    "into the past": ({"type": "Delay", "delay": -0.001}, "node '0' (Delay): a delay of -0.001 s"),
    "wide scale": ({"type": "Scale", "scale": np.ones(3)}, "node '0' (Scale) has a scale of shape [3]"),
    "weight rank": (affine(np.ones((1, 2, 2))), "node '0' (Linear): got a weight of shape [1, 2, 2]"),
    "weight word": ({"type": "Linear", "weight": "x"}, "node '0' (Linear): got 'x' for weight"),
    "bias length": (affine(np.ones((3, 2)), np.ones(2)), "node '0' (Affine): got a bias of shape [2], expected [3]"),
    "features": (affine(np.ones((3, 4))), "node '0' (Linear) got an input of shape [2], expected [4]"),
    "map too flat": (conv2d(), "node '0' (Conv2d) got an input of shape [2]"),
    "output shape": ({"type": "Output", "shape": [2]}, "has 2 Output nodes"),
    "second input": ({"type": "Input", "shape": [2]}, "has 2 Input nodes"),
}
REFUSED_MAPS: dict[str, tuple[dict[str, Any], str]] = {
    "negative stride": (conv2d(stride=(-1, 1)), "node '0' (Conv2d): got stride [-1, 1]"),
    "huge padding": (conv2d(padding=10**9), "node '0' (Conv2d): got padding [1000000000]"),
    "half a stride": (conv2d(stride=1.5), "node '0' (Conv2d): got stride [1.5]"),
    "three strides": (conv2d(stride=(1, 1, 1)), "node '0' (Conv2d): got stride [1, 1, 1], expected 2 whole numbers"),
    "no groups": (conv2d(groups=0), "node '0' (Conv2d): got groups [0]"),
    "same with stride": (conv2d(padding="same", stride=2), "node '0' (Conv2d): got padding 'same'"),
    "same and even": (conv2d(padding="same", weight=np.ones((3, 2, 2, 2))), "node '0' (Conv2d): got padding 'same'"),
    "padding word": (conv2d(padding="circular"), "node '0' (Conv2d): got padding 'circular'"),
    "rank": (conv2d(weight=np.ones((3, 2, 3))), "node '0' (Conv2d): got a weight of shape [3, 2, 3]"),
    "no weight": (conv2d(weight=np.ones((3, 0, 3, 3))), "node '0' (Conv2d): got a weight of shape [3, 0, 3, 3]"),
    "channels": (conv2d(weight=np.ones((3, 5, 3, 3))), "node '0' (Conv2d) got an input of shape [2, 6, 6]"),
    "big map": (conv2d(padding=2**19), "node '0' (Conv2d) has a map of"),
    "partly flat": ({"type": "Flatten", "start_dim": 0, "end_dim": 1}, "node '0' (Flatten): flattens axes 0 to 1"),
    "late flat": ({"type": "Flatten", "start_dim": 2, "end_dim": -1}, "node '0' (Flatten): flattens axes 2 to -1"),
    "channels flat": ({"type": "Flatten", "start_dim": "all"}, "node '0' (Flatten): got start_dim 'all'"),
    "pool padding": ({"type": "SumPool2d", "kernel_size": 2, "stride": 2, "padding": 2}, "node '0' (SumPool2d): got padding [2, 2]"),
    "pool stride": ({"type": "AvgPool2d", "kernel_size": 2, "stride": 0, "padding": 0}, "node '0' (AvgPool2d): got stride [0]"),
    "per channel by accident": (lif(tau=np.full(6, 0.004)), "node '0' (LIF): got tau of shape [6]"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_understood_is_refused_by_name(tmp_path: Path, case: str) -> None:
    node, text = REFUSED[case]
    path = raw_chain(tmp_path / "n.nir", node)
    assert text in complaint(path, lambda p: read_nir(p, dt_s=DT_S), NetworkFileError)


@pytest.mark.parametrize("case", REFUSED_MAPS)
def test_what_does_not_fit_a_map_is_refused_by_name(tmp_path: Path, case: str) -> None:
    node, text = REFUSED_MAPS[case]
    path = raw_chain(tmp_path / "n.nir", node, shape=(2, 6, 6))
    assert text in complaint(path, lambda p: read_nir(p, dt_s=DT_S), NetworkFileError)


def test_partial_flattening_meant_by_start_dim_1_is_named(tmp_path: Path) -> None:
    path = raw_chain(tmp_path / "n.nir", {"type": "Flatten"}, affine(np.ones((2, 12))), shape=(2, 3, 4))
    assert "(Flatten 0 was taken to flatten the whole map)" in complaint(path, read_nir, NetworkFileError)


def test_a_soft_reset_with_a_leak_potential_is_refused(tmp_path: Path) -> None:
    path = raw_chain(tmp_path / "n.nir", lif(v_leak=0.1))
    with pytest.raises(NetworkFileError, match=r"node '0' \(LIF\): has a v_leak other than 0; a soft reset"):
        read_nir(path, dt_s=DT_S, reset="soft")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"dt_s": 0.0}, "dt_s got 0.0"),
        ({"dt_s": float("nan")}, "dt_s got nan"),
        ({"loop_delay": 0}, "loop_delay got 0"),
        ({"reset": "gentle"}, "reset got 'gentle'"),
        ({"discretisation": "bilinear"}, "discretisation got 'bilinear'"),
        ({"encoding": "words"}, "encoding got 'words'"),
        ({"if_gain": "none"}, "if_gain got 'none'"),
        ({"dt_s": None}, "give one: dt_s"),
        ({"dt_s": 1.0}, "a step of 1 s is longer than tau 0.004 s"),
    ],
)
def test_options_without_sense_are_refused(tmp_path: Path, options: dict[str, Any], text: str) -> None:
    path = raw_chain(tmp_path / "n.nir", lif())
    with pytest.raises(NetworkFileError) as caught:
        read_nir(path, **({"dt_s": DT_S} | options))
    assert text in str(caught.value)


def test_any_step_will_do_for_exponential_decay(tmp_path: Path) -> None:
    node = read_nir(raw_chain(tmp_path / "n.nir", lif()), dt_s=1.0, discretisation="exponential").nodes["0"]
    assert isinstance(node, LIF) and node.leak is not None and 0 <= node.leak.kept < 1e-100


GRAPHS: dict[str, tuple[dict[str, Any], list[tuple[str, str]], str]] = {
    "nothing": ({}, [], "has no node"),
    "no input": ({"fc": affine(np.eye(2)), "out": {"type": "Output"}}, [("fc", "out")], "has 0 Input nodes"),
    "absent node": ({"in": {"type": "Input", "shape": [2]}}, [("in", "fc")], "names 'fc', which is no node; nodes are in"),
    "unfed": (
        {"in": {"type": "Input", "shape": [2]}, "fc": affine(np.eye(2)), "out": {"type": "Output"}},
        [("in", "out")], "node 'fc' (Linear) has no input",
    ),
    "unfed output": ({"in": {"type": "Input", "shape": [2]}, "out": {"type": "Output"}}, [], "node 'out' (Output) gets []"),
    "two ends": (
        {"in": {"type": "Input", "shape": [2]}, "a": affine(np.eye(2)), "b": affine(np.eye(2))},
        [("in", "a"), ("in", "b")], "has no Output node and 2 nodes that feed none",
    ),
    "behind the output": (
        {"in": {"type": "Input", "shape": [2]}, "out": {"type": "Output"}}, [("in", "out"), ("out", "in")], "leaves the Output",
    ),
    "other output": (
        {"in": {"type": "Input", "shape": [2]}, "out": {"type": "Output", "shape": [3]}},
        [("in", "out")], "node 'out' (Output) states the shape [3], but [2] arrives",
    ),
    "uneven sum": (
        {"in": {"type": "Input", "shape": [2]}, "fc": affine(np.ones((3, 2))), "out": {"type": "Output"}},
        [("in", "out"), ("in", "fc"), ("fc", "out")], "expected one shape",
    ),
    "shape zero": ({"in": {"type": "Input", "shape": [0]}, "out": {"type": "Output"}}, [("in", "out")], "got shape [0]"),
    "shape word": ({"in": {"type": "Input", "shape": "big"}, "out": {"type": "Output"}}, [("in", "out")], "got shape 'big'"),
    "huge shape": (
        {"in": {"type": "Input", "shape": [2**40, 2**40, 2]}, "out": {"type": "Output"}}, [("in", "out")], "has a map of",
    ),
    "empty cell": (
        {"in": {"type": "Input", "shape": [2]}, "g": {"type": "NIRGraph", "nodes": {}, "edges": []}, "out": {"type": "Output"}},
        [("in", "g"), ("g", "out")], "node 'g' (NIRGraph): has 0 Input nodes",
    ),
    "two of a name": (
        {**recurrent(LOOP, **CELL), "rnn.lif": lif()}, [("input", "rnn"), ("rnn", "output")], "node 'rnn.lif': there is another",
    ),
    "unreached loop": (
        {"in": {"type": "Input", "shape": [2]}, "a": lif(), "b": affine(np.eye(2)), "out": {"type": "Output"}},
        [("in", "out"), ("a", "b"), ("b", "a")], "loop",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", GRAPHS)
def test_graphs_that_do_not_hold_together_are_refused(tmp_path: Path, case: str) -> None:
    nodes, edges, text = GRAPHS[case]
    path = write_raw(tmp_path / "n.nir", nodes, edges)
    assert text in complaint(path, lambda p: read_nir(p, dt_s=DT_S, loop_delay=1), NetworkFileError)


def _ruined(path: Path, how: str) -> None:
    if how in ("text", "nothing"):
        path.write_bytes(b"hello" if how == "text" else b"")
        return
    if how == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        return
    with h5py.File(path, "r+") as file:
        node = file["node/nodes/0"]
        if how == "no graph":
            del file["node"]
        elif how == "single node":
            del file["node/type"]
            file["node/type"] = "LIF"
        elif how == "type is a number":
            del node["type"]
            node["type"] = 3
        elif how == "no nodes":
            del file["node/nodes"]
        elif how == "edges of numbers":
            del file["node/edges"]
            file["node/edges"] = np.ones((2, 2))
        elif how == "edges of three":
            del file["node/edges"]
            file["node/edges"] = np.array([["a", "b", "c"]], h5py.string_dtype())
        elif how == "group for data":
            del node["tau"]
            node.create_group("tau")
        elif how == "soft link":
            del node["tau"]
            node["tau"] = h5py.SoftLink("/node/nodes/0/r")
        elif how == "external link":
            del node["tau"]
            node["tau"] = h5py.ExternalLink("/etc/passwd", "x")
        elif how == "bomb":
            del node["tau"]
            node.create_dataset("tau", (2**40,), "f8", chunks=True, compression="gzip")
        elif how == "in itself":
            graph = file["node"]
            file["node/nodes/again"] = graph
        elif how == "statement":
            node.create_group("metadata")["spikeloom"] = "{'a'"
        elif how == "statement of a list":
            node.create_group("metadata")["spikeloom"] = "[1]"


RUINED = {
    "text": "is no readable NIR file", "nothing": "is no readable NIR file", "cut": "is no readable NIR file",
    "no graph": "the file has nothing named 'node'", "single node": "holds a single LIF, expected a graph",
    "type is a number": "node '0': type is", "no nodes": "the graph has nothing named 'nodes'",
    "edges of numbers": "the graph has edges of shape [2, 2]", "edges of three": "the graph has edges of shape [1, 3]",
    "group for data": "node '0' (LIF) has something else named 'tau'", "soft link": "'tau' is a link to another place",
    "external link": "'tau' is a link to another place", "bomb": "node '0' (LIF): tau has the shape [1099511627776]",
    "in itself": "graphs lie more than 16 deep", "statement": "metadata 'spikeloom' is not JSON",
    "statement of a list": "metadata 'spikeloom' is a JSON list",
}  # fmt: skip


@pytest.mark.parametrize("how", RUINED)
def test_hostile_files_are_refused_in_one_line(tmp_path: Path, how: str) -> None:
    path = raw_chain(tmp_path / "n.nir", lif())
    _ruined(path, how)
    assert RUINED[how] in complaint(path, lambda p: read_nir(p, dt_s=DT_S), NetworkFileError)


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    assert "no such file" in complaint(tmp_path / "none.nir", read_nir, NetworkFileError)
    assert "no regular file" in complaint(tmp_path, read_nir, NetworkFileError)


def test_every_truncation_is_refused_or_harmless(tmp_path: Path) -> None:
    whole = raw_chain(tmp_path / "n.nir", affine(np.eye(2)), lif()).read_bytes()
    path, refused = tmp_path / "cut.nir", 0
    for end in range(0, len(whole), max(1, len(whole) // 60)):
        path.write_bytes(whole[:end])
        try:
            read_nir(path, dt_s=DT_S)
        except NetworkFileError:
            refused += 1
    assert refused > 30


@pytest.mark.parametrize(
    ("stated", "text"),
    [
        ('{"reset": "gentle"}', "states reset 'gentle'"),
        ('{"reset": ["hard"]}', "states reset ['hard']"),
        ('{"strict": 1}', "states strict 1"),
        ('{"v_init": "low"}', "v_init 'low'"),
        ('{"v_init": NaN}', "is not JSON"),
        ('{"leak": {"shift": 0}}', "states the leak {'shift': 0}"),
        ('{"leak": {"factor": 2}}', "states the leak"),
        ('{"leak": 3}', "states the leak 3"),
    ],
)
def test_statements_of_our_own_are_checked(tmp_path: Path, stated: str, text: str) -> None:
    path = raw_chain(tmp_path / "n.nir", {**lif(), "metadata": {"spikeloom": stated}})
    assert text in complaint(path, lambda p: read_nir(p, dt_s=DT_S), NetworkFileError)


def test_a_stated_step_is_checked_and_a_name_of_ours_may_be_taken(tmp_path: Path) -> None:
    path = raw_chain(tmp_path / "n.nir", lif(), metadata={"spikeloom": '{"dt_s": "short"}'})
    assert "states the time step 'short'" in complaint(path, read_nir, NetworkFileError)
    li = {"type": "LI", "tau": 0.004, "r": 1.0, "v_leak": 0.0}
    nodes = {"in": {"type": "Input", "shape": [2]}, "a": li, "a.scale": affine(np.eye(2)), "out": {"type": "Output"}}
    path = write_raw(tmp_path / "n.nir", nodes, [("in", "a"), ("a", "a.scale"), ("a.scale", "out")])
    text = complaint(path, lambda p: read_nir(p, dt_s=DT_S), NetworkFileError)
    assert "node 'a' (LI): needs a node 'a.scale' of its own" in text


# Writing

WRITTEN = chain(
    "all",
    {
        "in": Input((2, 6, 6), "analog"), "conv": Conv2d(2, 3, (3, 3), padding=(1, 1), weight=np.ones((3, 2, 3, 3), np.float32)),
        "if": IF(0.5, "soft", True, 0.25), "avg": AvgPool2d((2, 2), (2, 2)), "late": Delay(2),
        "flat": Flatten(), "fc": Linear(27, 4, True, 4, np.ones((4, 27), np.float32), np.ones(4, np.float32)),
        "cuba": CubaLIF(Leak(shift=3), Leak(factor=0.5), np.arange(1.0, 5), v_reset=-0.5),
        "scale": Scale(np.arange(1.0, 5)), "li": LI(Leak(factor=0.9)), "sum": LI(), "out": Output((4,)),
    },
    dt_s=DT_S,
    metadata={"seed": 1},
)  # fmt: skip


def test_what_is_written_passes_the_checks_of_nir(tmp_path: Path) -> None:
    path = tmp_path / "n.nir"
    write_nir(path, WRITTEN)
    graph = nir.read(path, type_check=True)
    assert set(graph.nodes) == set(WRITTEN.nodes)
    cuba_lif, conv = graph.nodes["cuba"], graph.nodes["conv"]
    np.testing.assert_allclose(cuba_lif.tau_mem, DT_S * 8)
    np.testing.assert_allclose(cuba_lif.w_in, 2)
    assert cuba_lif.v_reset.tolist() == [-0.5] * 4
    assert tuple(conv.input_shape) == (6, 6) and conv.bias.tolist() == [0, 0, 0]
    assert graph.nodes["if"].r.shape == (3, 6, 6) and (graph.nodes["if"].r == 1).all()
    assert graph.nodes["flat"].input_type["input"].tolist() == [3, 3, 3]
    assert graph.nodes["late"].delay.flat[0] == pytest.approx(2 * DT_S)


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    write_nir(tmp_path / "n.nir", WRITTEN)
    again = read_nir(tmp_path / "n.nir", reset="none", encoding="spikes")  # the file's own statements go first
    shapes = WRITTEN.shapes()
    assert (again.edges, again.name, again.dt_s, again.metadata["seed"]) == (WRITTEN.edges, "all", DT_S, 1)
    for name, node in WRITTEN.nodes.items():
        assert nodes_equal(again.nodes[name], node, shapes[name]), name


def test_another_step_changes_the_decay_per_step(tmp_path: Path) -> None:
    write_nir(tmp_path / "n.nir", WRITTEN)
    node = read_nir(tmp_path / "n.nir", dt_s=DT_S / 2).nodes["li"]
    assert isinstance(node, LI) and node.leak is not None and node.leak.kept == pytest.approx(0.95)


def test_r_of_an_if_for_spikingjelly(tmp_path: Path) -> None:
    network = chain("if", {"in": Input((2,)), "if": IF(0.5), "out": Output((2,))})
    write_nir(tmp_path / "n.nir", network, dt_s=1e-4, if_gain="per_second")
    assert nir.read(tmp_path / "n.nir").nodes["if"].r == pytest.approx([1e4, 1e4])
    node = read_nir(tmp_path / "n.nir").nodes["if"]
    assert isinstance(node, IF) and node.v_threshold == 0.5


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(networks())
def test_random_networks_survive_the_round_trip(tmp_path: Path, network: Network) -> None:
    write_nir(tmp_path / "n.nir", network)
    again = read_nir(tmp_path / "n.nir")
    shapes = network.shapes()
    assert (again.edges, list(again.nodes), again.shapes()) == (network.edges, list(network.nodes), shapes)
    for name, node in network.nodes.items():
        assert nodes_equal(again.nodes[name], node, shapes[name]), (name, node, again.nodes[name])
    write_network(tmp_path / "n.npz", again)  # what was chosen travels as plain JSON
    assert read_network(tmp_path / "n.npz").metadata["nir"] == again.metadata["nir"]
    graph = nir.read(tmp_path / "n.nir", type_check=False)
    assert set(graph.nodes) == set(network.nodes)


def test_an_add_is_written_as_edges(tmp_path: Path) -> None:
    nodes: dict[str, Node] = {"in": Input((2,)), "a": IF(), "b": IF(0.5), "add": Add(), "out": Output((2,))}
    edges = (("in", "a"), ("in", "b"), ("a", "add"), ("b", "add"), ("add", "out"))
    write_nir(tmp_path / "n.nir", Network(nodes, edges))
    assert set(read_nir(tmp_path / "n.nir").edges) == {("in", "a"), ("in", "b"), ("a", "out"), ("b", "out")}
    doubled = Network(nodes, (*edges, ("a", "out")))
    with pytest.raises(NetworkFileError, match="two edges lead from 'a' to 'out'"):
        write_nir(tmp_path / "n.nir", doubled)


UNSAYABLE: dict[str, tuple[Node, str]] = {
    "batch norm": (BatchNorm(2), "node 'x' (BatchNorm): NIR has no such node"),
    "max pool": (MaxPool2d((2, 2), (2, 2)), "node 'x' (MaxPool2d): NIR has no such node"),
    "relu": (ReLU(), "node 'x' (ReLU): NIR has no such node"),
    "late": (IF(late_reset=True), "node 'x' (IF): has late resets"),
    "graded": (IF(max_level=3), "node 'x' (IF): has late resets, signed or graded"),
    "signed": (IF(signed=True), "node 'x' (IF): has late resets, signed"),
    "integer": (LIF(Leak(shift=2), membrane_bits=12), "node 'x' (LIF): has integer membranes"),
    "integer read-out": (LI(membrane_bits=12), "node 'x' (LI): has integer membranes"),
    "no threshold": (IF(None), "node 'x' (IF): has no threshold"),
    "no leak": (LIF(None), "node 'x' (LIF): does not state its leak"),
    "endless": (LIF(Leak(factor=1.0)), "node 'x' (LIF): has neurons that do not leak"),
    "nan": (IF(float("nan")), "node 'x' (IF) has a v_threshold of nan"),
    "absent": (Conv2d(2, 2, (1, 1)), "node 'x' (Conv2d): has no weights"),
    "absent bias": (Conv2d(2, 2, (1, 1), has_bias=True, weight=np.ones((2, 2, 1, 1))), "node 'x' (Conv2d): has no weights"),
    "integer weights": (Conv2d(2, 2, (1, 1), weight=np.ones((2, 2, 1, 1), np.int8)), "node 'x' (Conv2d): holds int8 weights"),
    "bias map": (
        Conv2d(2, 2, (1, 1), has_bias=True, weight=np.ones((2, 2, 1, 1)), bias=np.ones((2, 4, 4))),
        "node 'x' (Conv2d): has a bias of shape [2, 4, 4]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", UNSAYABLE)
def test_what_nir_cannot_say_is_refused_and_nothing_written(tmp_path: Path, case: str) -> None:
    node, text = UNSAYABLE[case]
    shape = (2, 2, 2) if isinstance(node, MaxPool2d) else (2, 4, 4)
    network = chain("n", {"in": Input((2, 4, 4)), "x": node, "out": Output(shape)}, dt_s=DT_S)
    assert text in complaint(tmp_path / "n.nir", lambda p: write_nir(p, network), NetworkFileError)
    assert list(tmp_path.iterdir()) == []


def test_writing_needs_a_step_only_for_times_and_names_that_hdf5_can_hold(tmp_path: Path) -> None:
    def network(name: str, node: Node) -> Network:
        return chain("n", {"in": Input((2,)), name: node, "out": Output((2,))})

    write_nir(tmp_path / "n.nir", network("x", IF()))
    for node in (LIF(Leak(shift=1)), LI(Leak(shift=1)), Delay(1), CubaLIF(Leak(shift=1), Leak(shift=1))):
        with pytest.raises(NetworkFileError, match=r"node 'x' \(\w+\): NIR states times in seconds"):
            write_nir(tmp_path / "n.nir", network("x", node))
        write_nir(tmp_path / "n.nir", network("x", node), dt_s=0.5)
        assert read_nir(tmp_path / "n.nir").dt_s == 0.5
    with pytest.raises(NetworkFileError, match="HDF5 cannot hold this name"):
        write_nir(tmp_path / "n.nir", network("a/b", IF()))
    for options in ({"dt_s": 0.0}, {"if_gain": "auto"}):
        with pytest.raises(NetworkFileError, match=next(iter(options))):
            write_nir(tmp_path / "n.nir", network("x", IF()), **options)  # type: ignore[arg-type]
    with pytest.raises(NetworkFileError, match="0 Output nodes"):
        write_nir(tmp_path / "n.nir", Network({"in": Input((2,))}, ()))
    with pytest.raises(FileError, match="is a folder"):
        write_nir(tmp_path, network("x", IF()))


def test_a_time_constant_changed_by_others_goes_before_what_was_stated(tmp_path: Path) -> None:
    write_nir(tmp_path / "n.nir", replace(WRITTEN, metadata={}))
    with h5py.File(tmp_path / "n.nir", "r+") as file:
        file["node/nodes/cuba/tau_mem"][...] = 0.002
    node = read_nir(tmp_path / "n.nir").nodes["cuba"]
    assert isinstance(node, CubaLIF) and (node.leak, node.syn_leak) == (Leak(factor=0.5), Leak(factor=0.5))
    assert np.asarray(node.v_threshold) == pytest.approx(np.arange(1.0, 5) / 4)


def test_the_drawn_networks_hold_every_node_of_nir() -> None:
    """The round trip above would say little if a type were never drawn."""
    seen: set[type] = set()

    @settings(max_examples=300, derandomize=True, database=None, deadline=None)
    @given(networks())
    def look(network: Network) -> None:
        seen.update(map(type, network.nodes.values()))

    look()
    assert seen >= {Conv1d, Conv2d, Linear, Scale, IF, LIF, CubaLIF, LI, SumPool2d, AvgPool2d, Flatten, Delay}
