"""Emulation without torch: equal to nested loops in the time of the recorder, and to its own slow reference in chip time."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
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
    Conv2d,
    CubaLIF,
    Delay,
    Firing,
    Flatten,
    Input,
    Leak,
    Linear,
    Node,
    Output,
    ReLU,
    Scale,
)
from spikeloom.core.trace import Spikes, SpikeTrace
from spikeloom.emulate import emulate
from spikeloom.errors import NetworkError
from spikeloom.lower import lower
from tests.reference import chip, integer
from tests.reference.cases import NetworkCase, network_cases


def test_importing_it_does_not_import_torch() -> None:
    code = "import sys, spikeloom.emulate; assert 'torch' not in sys.modules; print(spikeloom.emulate.emulate.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "emulate\n"


def whole(values: Any) -> np.ndarray:
    """Python numbers, which must be whole, as int64."""
    found = np.asarray(values, np.float64)
    assert (found == np.rint(found)).all()
    return found.astype(np.int64)


def arrived(trace: SpikeTrace, name: str) -> np.ndarray:
    arrival = trace.arrivals[name]
    return (arrival.unpack() if isinstance(arrival, Spikes) else arrival.values).astype(np.int64)


def check(case: NetworkCase, trace: SpikeTrace, expected: list[chip.ChipTrace]) -> None:
    """A trace is what the slow reference says of each sample."""
    network = case.network
    for name in network.layers():
        neuron = network.layer_neuron(name)
        for n, sample in enumerate(expected):
            assert np.array_equal(arrived(trace, name)[:, n], whole(sample.arrivals[name])), name
            if neuron is not None:
                assert np.array_equal(trace.updates[name].unpack()[:, n], sample.work[neuron] != 0), name
                if name in trace.outputs:
                    assert np.array_equal(trace.outputs[name].unpack()[:, n], sample.sent[neuron] != 0), name
    (end,) = (name for name, node in network.nodes.items() if isinstance(node, Output))
    last = network.inputs_of(end)[0]
    scores = [s.sent[last][-1] if isinstance(network.nodes[last], LI) else s.sent[last].sum(0) for s in expected]
    assert trace.predictions is not None
    assert trace.predictions.tolist() == [int(np.argmax(score)) for score in scores]
    lower(network, trace)  # every record has the extents of its layer


@settings(max_examples=100, deadline=None)
@given(st.booleans().flatmap(lambda w: network_cases(whole=w)), st.sampled_from((0, 1)), st.booleans())
def test_every_layer_and_neuron_equals_nested_loops(case: NetworkCase, delay: int, skip: bool) -> None:
    trace = emulate(
        case.network, case.samples, case.num_steps, delay=delay, zero_weights="skipped" if skip else "stored"
    )
    assert trace.delay == delay
    samples = range(trace.num_samples)
    check(case, trace, [chip.run(case.network, case.frames(n), delay=delay, skip=skip) for n in samples])


@settings(max_examples=60, deadline=None)
@given(network_cases(whole=False))
def test_without_delay_real_networks_equal_the_recorder(case: NetworkCase) -> None:
    """Arrivals, outputs, predictions and updates."""
    pytest.importorskip("torch")
    from spikeloom.snn import Execution, record

    node = case.network.nodes["in"]
    assert isinstance(node, Input)
    if node.encoding == "levels":
        return  # the encodings of the recorder do not know levels over time
    trace = emulate(case.network, case.samples, case.num_steps, delay=0)
    source = Shown(case.samples, node.encoding)
    execution = Execution(case.num_steps, "events" if node.encoding == "spikes" else "direct")
    try:
        recorded = record(case.network, source, execution, updates=True)
    except NetworkError:  # it cannot say when neurons of several layers, or behind a Flatten, have work
        recorded = record(case.network, source, execution)
    for records in ("arrivals", "outputs"):
        got, expected = getattr(trace, records), getattr(recorded, records)
        assert list(got) == list(expected)
        for name, there in expected.items():
            assert type(got[name]) is type(there)
            if isinstance(there, Spikes):
                assert np.array_equal(got[name].packed, there.packed), name
            else:
                assert got[name].values.dtype == there.values.dtype
                assert (got[name].bits, got[name].signed, got[name].analog) == (there.bits, there.signed, there.analog)
                assert np.array_equal(got[name].values, there.values), name
    for name, there in recorded.updates.items():
        assert np.array_equal(trace.updates[name].packed, there.packed), name
    assert trace.predictions is not None and recorded.predictions is not None
    assert trace.predictions.tolist() == recorded.predictions.tolist()
    assert trace.extra == recorded.extra


@dataclass
class Shown:
    """Samples as `record` takes them."""

    samples: np.ndarray
    encoding: str

    @property
    def labels(self) -> np.ndarray:
        return np.zeros(len(self), np.int64)

    def __len__(self) -> int:
        return self.samples.shape[int(self.encoding == "spikes")]

    def batch(self, indices: np.ndarray) -> np.ndarray:
        return self.samples[:, indices] if self.encoding == "spikes" else self.samples[indices]


def test_pixels_that_add_up_to_nothing_are_work_in_the_time_of_the_recorder_only() -> None:
    """The second filter has a weight of 0, the third two that cancel: the recorder calls that work, a chip a bias of 0."""
    pytest.importorskip("torch")
    from spikeloom.snn import Execution, record

    weight = np.array([[1, 1], [0, 0], [1, -1]], np.int8).reshape(3, 2, 1, 1)
    first = Conv2d(2, 3, (1, 1), weight=weight)
    last = Linear(6, 2, weight=np.ones((2, 6), np.int8))
    network = small(first, IF(v_threshold=400, membrane_bits=16), Flatten(), last, shape=(2, 1, 2), encoding="analog")
    pixels = np.array([[200, 0], [200, 0]], np.uint8).reshape(1, 2, 1, 2)
    recorded = record(network, Shown(pixels, "analog"), Execution(5, "direct"), updates=True)
    at_once, late = (emulate(network, pixels, 5, delay=delay).updates["conv2d"] for delay in (0, 1))
    assert np.array_equal(at_once.packed, recorded.updates["conv2d"].packed)
    assert at_once.events().tolist() == [[[5, 0]], [[5, 0]], [[5, 0]]]
    assert late.events().tolist() == [[[5, 0]], [[0, 0]], [[0, 0]]]
    no_synapse = emulate(network, pixels, 5, delay=0, zero_weights="skipped").updates["conv2d"]
    assert no_synapse.events().tolist() == [[[5, 0]], [[0, 0]], [[5, 0]]]


@settings(max_examples=60, deadline=None)
@given(network_cases(whole=True))
def test_without_delay_integers_equal_the_reference_of_the_recorder(case: NetworkCase) -> None:
    trace = emulate(case.network, case.samples, case.num_steps, delay=0)
    for n in range(trace.num_samples):
        sent = integer.run(case.network, case.frames(n))
        for name in case.network.layers():
            arriving = sum(sent[source] for source in case.network.inputs_of(name))
            assert np.array_equal(arrived(trace, name)[:, n], whole(arriving)), name
            neuron = case.network.layer_neuron(name)
            if name in trace.outputs:
                assert neuron is not None and isinstance(case.network.nodes[neuron], Firing)
                assert np.array_equal(trace.outputs[name].unpack()[:, n], sent[neuron] != 0), name


def one_neuron_each(case: dict[str, Any]) -> Network:
    """The neurons of a case of SANA-FE, a node each; biases are those of layers that get a black pixel."""
    nodes: dict[str, Any] = {"pixel": Input((1,), "analog")}
    edges = []
    for i, (bias, threshold, kept, reset, mode) in enumerate(case["neurons"]):
        drive = Linear(1, 1, True, weight=np.zeros((1, 1), np.float32), bias=np.array([bias], np.float32))
        neuron = LIF(Leak(factor=kept), v_threshold=threshold, strict=True, reset=mode, v_reset=reset)
        nodes |= {f"drive{i}": drive, f"n{i}": neuron, f"late{i}": Delay(1)}
        edges += [("pixel", f"drive{i}"), (f"drive{i}", f"n{i}"), (f"n{i}", f"late{i}")]
    for i, j, weight in case["edges"]:
        nodes[f"edge{i}_{j}"] = Linear(1, 1, weight=np.array([[weight]], np.float32))
        edges += [(f"late{i}", f"edge{i}_{j}"), (f"edge{i}_{j}", f"n{j}")]
    return Network(nodes, tuple(edges))


def test_spikes_and_updates_equal_those_of_sanafe_under_leak_and_reset() -> None:
    """Partial leaks, soft and hard resets, biases below single precision, loops: cases made for this, with its outputs."""
    cases = json.loads((Path(__file__).parent / "reference" / "sanafe_neurons.json").read_text())["cases"]
    assert len(cases) == 40
    for case in cases:
        trace = emulate(one_neuron_each(case), np.zeros((1, 1)), case["steps"], leak_grid=64)
        found = {"fired": trace.outputs, "updated": trace.updates}
        for what, records in found.items():
            assert sum(int(spikes.events().sum()) for spikes in records.values()) == case[what], case


def small(*nodes: Node, shape: tuple[int, ...] = (2,), encoding: Any = "spikes") -> Network:
    """A chain of nodes named by their kinds, from an input of spikes to an output."""
    named = {"in": Input(shape, encoding)} | {type(node).__name__.lower(): node for node in nodes}
    bare = chain("small", named)
    return Network(
        {**named, "out": Output(bare.shapes()[list(named)[-1]])}, (*bare.edges, (list(named)[-1], "out")), "small"
    )


LINEAR = Linear(2, 2, weight=np.eye(2, dtype=np.float32))
BYTES = Linear(2, 2, weight=np.eye(2, dtype=np.int8))


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (small(LINEAR, Scale(np.ones(2)), IF()), "node 'scale' .Scale. is not emulated"),
        (small(LINEAR, ReLU()), "node 'relu' .ReLU. is not emulated"),
        (small(Linear(2, 2), IF()), "node 'linear' .Linear. has no weights"),
        (small(IF()), r"node 'if' .IF. has no layer of its own; put a synapse in front"),
        (small(LINEAR, IF(), LIF(Leak(shift=1))), "node 'lif' .LIF. has no layer of its own"),
        (small(LINEAR, Delay(), IF()), "node 'delay' .Delay. sends real values to 'if'; put it in front"),
        (small(LINEAR, Add(), IF()), "node 'add' .Add. gets real values"),
        (small(Delay(), LINEAR, IF(), encoding="analog"), "node 'delay' .Delay. delays pixels"),
        (small(LINEAR, LIF(None)), "node 'lif' does not state its leak"),
        (small(LINEAR, IF(v_threshold=None)), "node 'if' got v_threshold None"),
        (small(BYTES, IF(v_reset=1.5, membrane_bits=8)), "node 'if' has integer membranes and a v_reset of 1.5"),
        (small(BYTES, IF(v_threshold=1.5, membrane_bits=8)), "node 'if' has integer membranes and a v_threshold of 1.5"),
        (small(BYTES, IF(membrane_bits=60)), "node 'if' got membrane_bits 60, expected 2..48"),
        (
            small(Linear(2, 2, weight=np.full((2, 2), 2**52)), IF(membrane_bits=8)),
            r"node 'if' gets sums of up to 9.01e\+15, integers are exact up to 2\*\*53",
        ),
        (
            small(Linear(2, 2, True, weight=np.eye(2, dtype=np.int8), bias=np.array([0.5, 0])), IF(membrane_bits=8)),
            "node 'if' has integer membranes but the bias of 'linear' is not whole",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_emulated_is_refused_by_name(network: Network, words: str) -> None:
    shape = network.nodes["in"].shape  # type: ignore[union-attr]
    pixels = network.nodes["in"].encoding == "analog"  # type: ignore[union-attr]
    with pytest.raises(NetworkError, match=words):
        emulate(network, np.zeros((1, *shape) if pixels else (4, 1, *shape)), 4)


def test_delays_that_chip_time_cannot_tell_apart_are_refused() -> None:
    nodes = {"in": Input((2,)), "a": Delay(1), "flat": Flatten(), "b": Delay(2), "fc": LINEAR, "n": IF()}
    network = chain("two", nodes)
    emulate(network, np.zeros((3, 1, 2)), 3, delay=0)
    with pytest.raises(NetworkError, match=r"node 'b' .Delay. follows the Delay 'a' without a neuron"):
        emulate(network, np.zeros((3, 1, 2)), 3)


@pytest.mark.parametrize(
    ("encoding", "frames", "words"),
    [
        ("spikes", np.zeros((3, 1, 2)), r"got frames of shape \[3, 1, 2\], expected \[T=4, N, 2\]"),
        ("spikes", np.zeros((1, 2)), r"got frames of shape \[1, 2\], expected \[T=4, N, 2\]"),
        ("spikes", np.full((4, 1, 2), 2), r"got values 2..2, expected whole numbers 0..1"),
        ("analog", np.zeros((4, 1, 2)), r"got frames of shape \[4, 1, 2\], expected \[N, 2\]"),
        ("analog", np.full((1, 2), 0.5), r"got values 0.5..0.5, expected whole numbers 0..255"),
        ("analog", np.zeros((0, 2)), r"got frames of shape \[0, 2\], expected \[N, 2\]"),
        ("levels", np.full((1, 2), 256), r"got values 256..256, expected whole numbers 0..255"),
        ("analog", np.array([[np.nan, 1]]), r"got values nan..nan, expected whole numbers 0..255"),
        ("analog", np.array([[np.inf, 1]]), r"got values 1.0..inf, expected whole numbers 0..255"),
        ("analog", np.array([[1e300, -1]]), r"got values -1.0..1e\+300, expected whole numbers 0..255"),
        ("analog", np.full((1, 2), 2**32 + 1), r"got values 4294967297..4294967297, expected whole numbers 0..255"),
    ],
)
def test_frames_that_do_not_fit_are_refused(encoding: Any, frames: np.ndarray, words: str) -> None:
    with pytest.raises(NetworkError, match=f"input 'in' .{encoding}. {words}"):
        emulate(small(LINEAR, IF(), encoding=encoding), frames, 4)


@pytest.mark.parametrize(
    ("argument", "given", "words"),
    [
        *(("num_steps", given, "expected a whole number 1..16777216")
          for given in (0, -1, 2.5, 4.0, "3", None, float("nan"), True, 2**40, [4], np.zeros(2))),
        *(("delay", given, "expected 0 or 1") for given in (2, -1, True, False, 1.0, "1", None, np.zeros(2), np.True_)),
        *(("leak_grid", given, "expected None or a whole number 1..") for given in (0, 1.5, 64.0, True, "64", 2**60)),
        *(("zero_weights", given, "expected 'stored' or 'skipped'") for given in ("lost", None, 0, np.array(["stored"] * 2))),
        *(("origin", given, "expected a string") for given in (3, None, b"here")),
        ("network", "lenet", "got 'lenet', expected a Network"),
        *(("labels", given, r"got shape .*, expected \[1\]") for given in ([1, 2], [[1]], 3)),
        *(("labels", given, "got values of type .*, expected integers")
          for given in ([], [0.5], [1.0], [np.nan], ["a"], [True], [None], [2**70])),
        ("labels", [[1], [1, 2]], "got a list that is no array"),
        *(("frames", given, "of input 'in' .spikes.: got values of type .*, expected whole numbers")
          for given in ("x", b"x", None, np.zeros((4, 1, 2), object), np.zeros((4, 1, 2), complex),
                        np.zeros((4, 1, 2), "datetime64[s]"), np.full((4, 1, 2), "1"))),
        ("frames", [[1], [1, 2]], "of input 'in' .spikes.: got a list that is no array"),
    ],
)  # fmt: skip
def test_arguments_that_do_not_fit_are_refused_by_name_in_one_line(argument: str, given: Any, words: str) -> None:
    arguments = {"network": small(LINEAR, IF()), "frames": np.zeros((4, 1, 2)), "num_steps": 4, argument: given}
    with pytest.raises(NetworkError, match=f"^{argument}:? .*{words}|^{argument}:? {words}") as caught:
        emulate(**arguments)
    assert "\n" not in str(caught.value)


def test_whole_numbers_of_numpy_are_numbers() -> None:
    network, frames = small(LINEAR, LIF(Leak(factor=0.5))), np.zeros((4, 1, 2), bool)
    trace = emulate(
        network, frames, np.int64(4), delay=np.int8(0), leak_grid=np.uint8(64), labels=np.array([3], np.uint8)
    )  # type: ignore[arg-type]
    assert (type(trace.num_steps), type(trace.delay), trace.delay) == (int, int, 0)
    assert trace.labels is not None and trace.labels.tolist() == [3] and trace.labels.dtype == np.int64


def test_a_grid_is_a_rule_of_lif_and_li() -> None:
    with pytest.raises(NetworkError, match=r"node 'cubalif' .CubaLIF.: leak_grid is a rule of LIF and LI"):
        emulate(small(LINEAR, CubaLIF(Leak(shift=1), Leak(shift=1))), np.zeros((4, 1, 2)), 4, leak_grid=64)


def test_every_layer_adds_a_step_and_the_last_effect_is_lost() -> None:
    """A spike of step 0 is seen at the first layer in step 0, at the second in step 1; what would come in step T is lost."""
    nodes = {
        "in": Input((1,)),
        "a": Linear(1, 1, weight=np.ones((1, 1))),
        "n": IF(),
        "b": Linear(1, 1, weight=np.ones((1, 1))),
        "m": IF(),
    }
    network = chain("two", nodes)
    frames = np.zeros((3, 1, 1))
    frames[0] = 1
    late = emulate(network, frames, 3)
    assert late.arrivals["a"].unpack().ravel().tolist() == [True, False, False]  # type: ignore[union-attr]
    assert late.arrivals["b"].unpack().ravel().tolist() == [False, True, False]  # type: ignore[union-attr]
    assert late.outputs["b"].unpack().ravel().tolist() == [False, False, True]
    at_once = emulate(network, frames, 3, delay=0)
    assert at_once.outputs["b"].unpack().ravel().tolist() == [True, False, False]
    assert (late.delay, at_once.delay) == (1, 0)


def test_samples_do_not_depend_on_how_many_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    weight = rng.integers(-8, 9, (4, 3, 3, 3)) / 8
    network = small(Conv2d(3, 4, (3, 3), weight=weight), IF(), shape=(3, 5, 6), encoding="analog")
    pixels = rng.integers(0, 256, (5, 3, 5, 6))
    whole_run = emulate(network, pixels, 9, labels=np.arange(5))
    assert whole_run.labels is not None and whole_run.labels.tolist() == [0, 1, 2, 3, 4]
    monkeypatch.setattr("spikeloom.emulate.run._NEURONS_AT_ONCE", 1)
    one_by_one = emulate(network, pixels, 9)
    for records in ("outputs", "updates"):
        got, expected = (getattr(trace, records)["conv2d"].packed for trace in (one_by_one, whole_run))
        assert np.array_equal(got, expected)
