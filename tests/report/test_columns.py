"""Numbers of tables and JSON against counts of their definitions (docs/glossary.md), made here by loops over a float64 run of the
network: pools of every kind, several rates and widths, pruned weights, a read-out with neurons, several samples.
"""

from __future__ import annotations

import ast
import io
import json
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from spikeloom import report as columns
from spikeloom.components import load_table
from spikeloom.core.arch import Component
from spikeloom.core.deployment import Deployed
from spikeloom.core.efficiency import Estimate, OnMachine, TrulyEfficient
from spikeloom.core.figures import CrossbarRow, Figures
from spikeloom.core.figures import Point as PointAtT
from spikeloom.core.network import Network
from spikeloom.core.nodes import (
    IF,
    LI,
    AvgPool2d,
    Conv2d,
    Delay,
    Flatten,
    Input,
    Linear,
    MaxPool2d,
    Node,
    Output,
    SumPool2d,
)  # fmt: skip
from spikeloom.core.trace import Levels, Spikes, SpikeTrace
from spikeloom.core.workload import Workload
from spikeloom.evaluate import evaluate, load_machine, load_workload
from spikeloom.files.network import write_network
from spikeloom.files.results import reports_to_json
from spikeloom.files.store import write_trace
from spikeloom.lower import lower
from spikeloom.report.change import figures_table
from spikeloom.report.cotraining import cotraining_table
from spikeloom.report.terminal import breakdown_table, comparison_table
from spikeloom.studies.ann import matched_ann
from spikeloom.studies.check import describe_file
from spikeloom.studies.deploy_bench import events_of
from spikeloom.studies.prune import stored_layers
from spikeloom.studies.search import hidden_rate
from spikeloom.studies.thinning import firing_rate
from spikeloom.studies.truly_efficient import estimates, truly_efficient

T, N = 5, 3
POOLS = {"sum": SumPool2d, "avg": AvgPool2d, "max": MaxPool2d}


@dataclass(frozen=True)
class Case:
    """in (2, 8, 8) -> conv1 (3, 8, 8) -> pool1 -> conv2 (4, 4, 4) -> pool2 -> fc1 (6) -> fc2 (5), a neuron behind each with weights."""

    kinds: tuple[str, str]
    frames: np.ndarray  # T N C H W, spikes
    weights: dict[str, np.ndarray]
    bits: dict[str, int]


def case(seed: int, kinds: tuple[str, str] = ("max", "sum"), rate: float = 0.4) -> Case:
    rng = np.random.default_rng(seed)

    def drawn(*shape: int) -> np.ndarray:
        kept = rng.integers(-7, 12, shape) * (rng.random(shape) < 0.7)  # pruned to about 70 %
        return (kept / 16).astype(np.float32)  # exact in every float

    shapes = {"conv1": (3, 2, 3, 3), "conv2": (4, 3, 3, 3), "fc1": (6, 16), "fc2": (5, 6)}
    weights = {name: drawn(*shape) for name, shape in shapes.items()}
    return Case(kinds, rng.random((T, N, 2, 8, 8)) < rate, weights, {"conv1": 8, "conv2": 4, "fc1": 2, "fc2": 6})


def network_of(one: Case, output_neuron: Node | None = None) -> Network:
    def synapse(name: str) -> dict[str, Any]:
        return {"weight": one.weights[name], "weight_bits": one.bits[name]}

    first, second = (POOLS[kind]((2, 2), (2, 2)) for kind in one.kinds)
    nodes: dict[str, Node] = {
        "in": Input((2, 8, 8)), "conv1": Conv2d(2, 3, (3, 3), padding=(1, 1), **synapse("conv1")), "n1": IF(),
        "pool1": first, "conv2": Conv2d(3, 4, (3, 3), padding=(1, 1), **synapse("conv2")), "n2": IF(), "pool2": second,
        "flat": Flatten(), "fc1": Linear(16, 6, **synapse("fc1")), "n3": IF(), "fc2": Linear(6, 5, **synapse("fc2")),
        "n4": output_neuron or IF(), "out": Output((5,)),
    }  # fmt: skip
    names = list(nodes)
    return Network(nodes, tuple(zip(names, names[1:], strict=False)), "columns")


@dataclass(frozen=True)
class Seen:
    """arrived: levels at each layer, (T, N, *map); sent: spikes of each neuron."""

    arrived: dict[str, np.ndarray]
    sent: dict[str, np.ndarray]


def seen(one: Case) -> Seen:
    """The network in float64, neuron by neuron; a sum and a mean pool are recorded as the sum."""
    arrived: dict[str, np.ndarray] = {}
    sent: dict[str, np.ndarray] = {}
    x: np.ndarray = one.frames.astype(np.float64)
    unit = 1.0
    for number, layer in enumerate(("conv1", "conv2", "fc1", "fc2")):
        weight = one.weights[layer].astype(np.float64)
        arrived[layer] = x if weight.ndim == 4 else x.reshape(T, N, -1)
        psums = np.stack([np.stack([psum(arrived[layer][t, n] * unit, weight) for n in range(N)]) for t in range(T)])
        v = np.zeros(psums.shape[1:])
        fired = np.zeros(psums.shape)
        for t in range(T):
            v = v + psums[t]
            fired[t] = v >= 1
            v[v >= 1] = 0
        sent[f"n{number + 1}"] = x = fired
        unit = 1.0
        if number < 2:
            kind = one.kinds[number]
            arrived[f"pool{number + 1}"] = x
            windows = x.reshape(*x.shape[:3], x.shape[3] // 2, 2, x.shape[4] // 2, 2)
            x = windows.max(axis=(4, 6)) if kind == "max" else windows.sum(axis=(4, 6))
            unit = 0.25 if kind == "avg" else 1.0
    return Seen(arrived, sent)


def psum(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    if weight.ndim == 2:
        return np.asarray(weight @ x)
    K, _, R, S = weight.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    found = np.zeros((K, *x.shape[1:]))
    for r in range(R):
        for s in range(S):
            found += np.einsum("kc,chw->khw", weight[:, :, r, s], padded[:, r : r + x.shape[1], s : s + x.shape[2]])
    return found


def met(x: np.ndarray, weight: np.ndarray, *, units: bool = False, zeros: bool = False) -> int:
    """Nested loops: non-zero levels (units: every unit of one) times the non-zero weights (zeros: all weights) each meets."""
    total = 0
    every = x.reshape(-1, *x.shape[2:])
    for sample in every:
        for place in zip(*np.nonzero(sample), strict=True):
            times = int(sample[place]) if units else 1
            if weight.ndim == 2:
                total += times * (len(weight) if zeros else int((weight[:, place[0]] != 0).sum()))
                continue
            c, h, w = place
            for r in range(weight.shape[2]):
                for s in range(weight.shape[3]):
                    if 0 <= h + 1 - r < sample.shape[1] and 0 <= w + 1 - s < sample.shape[2]:
                        total += times * (len(weight) if zeros else int((weight[:, c, r, s] != 0).sum()))
    return total


def trace_of(one: Case, found: Seen) -> SpikeTrace:
    """As the format has it, made from the loops: nothing of the package's recorders."""
    arrivals: dict[str, Any] = {}
    for name, x in found.arrived.items():
        pool = {"conv2": 0, "fc1": 1}.get(name)
        levels = pool is not None and one.kinds[pool] != "max"
        arrivals[name] = Levels(x.astype(np.uint8), 3) if levels else Spikes.pack(x > 0)
    return SpikeTrace(T, N, arrivals, {"fc2": Spikes.pack(found.sent["n4"] > 0)})


def lowered(one: Case) -> tuple[Seen, Network, SpikeTrace, Workload]:
    found, network = seen(one), network_of(one)
    trace = trace_of(one, found)
    return found, network, trace, lower(network, trace)


KINDS = st.tuples(st.sampled_from(sorted(POOLS)), st.sampled_from(sorted(POOLS)))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), kinds=KINDS, rate=st.sampled_from([0.05, 0.4, 1.0]))
def test_rates_are_spikes_per_neuron_and_step(seed: int, kinds: tuple[str, str], rate: float) -> None:
    found, network, trace, work = lowered(case(seed, kinds, rate))
    everything = [found.arrived["conv1"], *found.sent.values()]
    assert firing_rate(network, trace) == sum(x.sum() for x in everything) / sum(x.size for x in everything)
    hidden = [found.sent[name] for name in ("n1", "n2", "n3")]  # n4 is the output
    # a neuron whose spikes go through no other node is known from the layer that hears it
    assert hidden_rate(work) == pytest.approx(sum(x.sum() for x in hidden) / sum(x.size for x in hidden), rel=1e-12)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), kinds=KINDS)
def test_synops_are_levels_that_meet_weights_and_pools_have_none(seed: int, kinds: tuple[str, str]) -> None:
    one = case(seed, kinds)
    found, _, _, work = lowered(one)
    synapses = {name: met(found.arrived[name], weight) for name, weight in one.weights.items()}
    assert work.synops == {**{pool: 0 for pool in ("pool1", "pool2")}, **synapses}
    report = evaluate(work, load_machine("ncs2")[1])  # runs every layer as it is
    assert {layer.name: layer.synops for layer in report.layers} == work.synops
    assert report.synops == sum(synapses.values()) == events_of(report)


@pytest.mark.parametrize(("machine", "folds"), [("spikex", True), ("ptb", True), ("sata", True), ("systolic", False)])
def test_synops_of_a_report_are_of_the_layers_as_the_machine_runs_them(machine: str, folds: bool) -> None:
    one = case(1, ("sum", "avg"))
    found, _, _, work = lowered(one)
    document = json.loads(reports_to_json([evaluate(work, load_machine(machine)[1])]))["machines"][0]
    got = {layer["name"]: layer["synops"] for layer in document["layers"]}
    expected = {name: met(found.arrived[name], weight) for name, weight in one.weights.items()}
    if folds:  # each spike in front of the pool meets what its sum would have met
        expected["conv2"] = met(found.arrived["conv2"], one.weights["conv2"], units=True)
        expected["fc1"] = met(found.arrived["fc1"], one.weights["fc1"], units=True)
    else:
        expected |= {"pool1": 0, "pool2": 0}
    assert got == expected and document["total"]["synops"] == sum(expected.values())
    total, per = document["total"], document["total"]["per_inference"]
    assert total["energy_j"] == pytest.approx(sum(sum(x["energy"].values()) for x in document["layers"]), rel=1e-12)
    assert total["cycles"] == sum(x["cycles"] for x in document["layers"])
    assert (per["energy_j"], per["latency_s"]) == (total["energy_j"] / N, total["latency_s"] / N)
    assert per["edp_js"] == per["energy_j"] * per["latency_s"]
    assert total["area_mm2"] == pytest.approx(1e6 * sum(document["area_m2"].values()), rel=1e-12)


def printed(table: Any) -> list[list[str]]:
    stream = io.StringIO()
    Console(file=stream, width=110).print(table)
    return [re.split(r"\s{2,}", line.strip()) for line in stream.getvalue().splitlines() if line.strip()]


def test_columns_of_the_comparison_and_the_breakdown() -> None:
    _, _, _, work = lowered(case(2, ("sum", "sum")))
    report = evaluate(work, load_machine("spikex")[1], label="spikex")
    rows = printed(comparison_table([report]))
    (row,) = [cells for cells in rows if cells[0] == "spikex"]
    heading = next(cells for cells in rows if cells[0] == "machine")
    shown = dict(zip(heading, row, strict=True))
    cycles = {layer.name: layer.cycles for layer in report.layers}

    def mean(use: str) -> float:
        return sum(layer.utilisation[use] * cycles[layer.name] for layer in report.layers) / sum(cycles.values())

    for column, use in (("sharing", "column_sharing"), ("slots", "spike_slot_use"), ("PEs", "pe_use")):
        assert float(shown[column].removesuffix(" %")) == pytest.approx(100 * mean(use), rel=0.05, abs=0.51)
    synops = next(cells[0] for cells in rows if cells[0].endswith("synops"))
    value, unit = synops.split()[0], synops.split()[1]
    assert float(value) * {"k": 1e3, "synops": 1, "M": 1e6}[unit] == pytest.approx(report.synops / N, rel=0.005)
    breakdown = printed(breakdown_table([report], by="layer"))
    for layer in report.layers:
        (cells,) = [line for line in breakdown if line[0] == layer.name]
        assert float(cells[2].removesuffix(" %")) == pytest.approx(100 * layer.energy_j / report.energy_j, abs=0.06)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), kinds=KINDS)
def test_operations_of_the_estimate(seed: int, kinds: tuple[str, str]) -> None:
    one = case(seed, kinds)
    found, _, _, work = lowered(one)
    fp32, int8 = estimates(work)
    # one addition for each spike and weight it meets, whether the spike comes through a sum or not
    additions = sum(met(found.arrived[name], weight, units=True) for name, weight in one.weights.items()) / N
    dense = {name: np.ones((1, 1, *found.arrived[name].shape[2:])) for name in one.weights}
    macs = sum(met(dense[name], weight, zeros=True) for name, weight in one.weights.items())
    assert fp32.additions == int8.additions == pytest.approx(additions, rel=1e-12)
    assert (fp32.snn_macs, fp32.ann_macs) == (0, macs)
    table = load_table("horowitz45")
    add = table.energy(Component("fp_adder", 32), "add").value
    multiply = table.energy(Component("fp_multiplier", 32), "multiply").value
    assert fp32.snn == pytest.approx(additions * add) and fp32.ann == pytest.approx(macs * (add + multiply))


def test_pixels_are_multiplied_once_where_they_stay_and_at_every_step_where_they_change() -> None:
    rng = np.random.default_rng(0)
    weight = rng.integers(-1, 2, (4, 9))
    nodes: dict[str, Node] = {
        "in": Input((9,), "analog"),
        "fc": Linear(9, 4, weight=weight),
        "n": LI(),
        "out": Output((4,)),
    }
    network = Network(nodes, (("in", "fc"), ("fc", "n"), ("n", "out")), "pixels")
    still = np.repeat(rng.integers(0, 256, (1, N, 9)), T, axis=0).astype(np.uint8)
    moving = rng.integers(0, 256, (T, N, 9)).astype(np.uint8)
    for pixels, times in ((still, 1), (moving, T)):
        (fp32, _) = estimates(lower(network, SpikeTrace(T, N, {"fc": Levels(pixels, 8, analog=True)})))
        assert (fp32.additions, fp32.snn_macs, fp32.ann_macs) == (0, 36 * times, 36)


def test_what_the_study_says_of_rates_and_zeros() -> None:
    one = case(3, ("max", "sum"))
    found, network, trace, _ = lowered(one)
    study = truly_efficient(network, trace, ["loihi-davies2018"], threads=1)
    everything = [found.arrived["conv1"], *found.sent.values()]
    assert study.rate == sum(x.sum() for x in everything) / sum(x.size for x in everything)
    # T + 1 values need so many bits
    assert study.ann_bits == int(np.ceil(np.log2(T + 1)))
    summed = {name: x.sum(axis=0) for name, x in found.arrived.items() if not name.startswith("pool")}
    zeros = sum(int((x == 0).sum()) for x in summed.values()) / sum(x.size for x in summed.values())
    assert study.ann_zeros == matched_ann(network, trace).zeros == pytest.approx(zeros, rel=1e-12)
    assert study.num_samples == N and study.num_steps == T


def test_check_says_the_rate_of_what_fires(tmp_path: Path) -> None:
    one = case(4, ("max", "avg"))
    found, network, trace, _ = lowered(one)
    write_trace(tmp_path / "t.npz", network, trace, weights=True)
    write_network(tmp_path / "n.npz", network)
    everything = [found.arrived["conv1"], *found.sent.values()]
    rate = sum(x.sum() for x in everything) / sum(x.size for x in everything)
    said = describe_file(tmp_path / "t.npz")
    assert f"trace of 6 layers, {N} samples, {T} steps, {100 * rate:.3g} % mean firing rate of 5 binary inputs" in said
    weights = sum(w.size for w in one.weights.values())
    assert f"{weights} float32 weights" in describe_file(tmp_path / "n.npz")
    again = load_workload(tmp_path / "t.npz")  # a file keeps what is counted
    assert again.synops == lower(network, trace).synops and hidden_rate(again) == hidden_rate(lower(network, trace))


@pytest.mark.parametrize("kinds", [("max", "sum"), ("avg", "max"), ("sum", "avg")])
def test_figures_of_a_network_with_pools(kinds: tuple[str, str]) -> None:
    pytest.importorskip("torch")
    from spikeloom.snn.execute import Execution
    from spikeloom.studies.change import figures
    from spikeloom.studies.convert import measure

    one = case(5, kinds)
    found, network = seen(one), network_of(one)

    class Frames:
        """The frames of the case as recordings."""

        labels = np.zeros(N, np.int64)
        num_classes, in_shape = 5, (2, 8, 8)

        def __len__(self) -> int:
            return N

        def batch(self, indices: np.ndarray) -> np.ndarray:
            return one.frames[:, indices].astype(np.uint8)

        def take(self, indices: np.ndarray) -> Frames:
            return self

    source: Any = Frames()
    execution = Execution(T, "events")
    figure = figures("f", network, source, execution)
    spikes = sum(x.sum() for x in found.sent.values()) / N
    synops = sum(met(found.arrived[name], weight) for name, weight in one.weights.items()) / N
    sizes = {name: weight.size for name, weight in one.weights.items()}
    zeros = sum(int((weight == 0).sum()) for weight in one.weights.values())
    assert (figure.spikes, figure.synops) == (spikes, synops)
    assert (figure.weights, figure.zeros) == (sum(sizes.values()), zeros / sum(sizes.values()))
    assert figure.weight_kib == sum(sizes.values()) * 32 / 8 / 1024 and figure.num_steps == T
    point = measure(network, source, execution)
    assert (point.spikes, point.synops, point.energy_j) == (spikes, synops, None)
    whole = replace(network, nodes={
        name: replace(node, weight=(node.weight * 16).astype(np.int8)) if isinstance(node, Conv2d | Linear) and node.weight is not None
        else replace(node, v_threshold=16.0, membrane_bits=16) if isinstance(node, IF) else node
        for name, node in network.nodes.items()
    })  # fmt: skip
    if "avg" not in kinds:
        integers = figures("i", whole, source, execution)
        assert integers.weight_kib == sum(sizes[name] * one.bits[name] for name in sizes) / 8 / 1024
        assert (integers.spikes, integers.synops) == (spikes, synops)
    (cells,) = [line for line in printed(figures_table([figure])) if line[0] == "f"]
    assert cells[1:3] == ["float32", str(T)] and cells[-2] == f"{100 * figure.zeros:.1f} %"


def test_stored_sizes_of_several_widths() -> None:
    one = case(6)
    for layer in stored_layers(network_of(one)):
        weight = one.weights[layer.name]
        zeros = int((weight == 0).sum())
        assert (layer.weights, layer.zeros, layer.plain) == (weight.size, zeros, weight.size * 32)
        assert layer.bitmask == weight.size + (weight.size - zeros) * 32  # a bit for each, and those that are there


def test_the_hidden_rate_and_the_gain_of_cotraining() -> None:
    @dataclass(frozen=True)
    class Row:
        name: str
        accuracy: float
        report: Any
        hidden_rate: float | None

    rows = []
    for name, seed in (("first", 7), ("second", 8)):
        _, _, _, work = lowered(case(seed, ("sum", "sum")))
        rows.append(Row(name, 0.5, evaluate(work, load_machine("spikex")[1]), hidden_rate(work)))
    shown = {cells[0]: cells for cells in printed(cotraining_table(rows, "here"))}
    for row in rows:
        assert row.hidden_rate is not None and shown[row.name][2] == f"{100 * row.hidden_rate:.2f} %"
        assert float(shown[row.name][-1]) == pytest.approx(rows[0].report.edp_js / row.report.edp_js, abs=0.006)


def test_spikes_of_a_deployment_are_those_that_neurons_send() -> None:
    from spikeloom.emulate import emulate

    for kinds in (("sum", "sum"), ("avg", "sum"), ("sum", "max")):
        one = case(9, kinds)
        found, network = seen(one), network_of(one)
        trace = emulate(network, one.frames.astype(np.uint8), T, delay=0)
        work = lower(network, trace)
        fired = sum(int(layer.out.events().sum()) for layer in work.layers if layer.out is not None)
        assert fired == sum(int(x.sum()) for x in found.sent.values())


def test_a_neuron_counts_once_however_many_hear_it() -> None:
    """One neuron layer heard by two layers and, a step late, by itself; graded spikes; a read-out of one step of its own."""
    rng = np.random.default_rng(10)

    def weight(*shape: int) -> np.ndarray:
        return np.asarray(rng.integers(-2, 3, shape))

    nodes: dict[str, Node] = {
        "in": Input((7,)), "a": Linear(7, 6, weight=weight(6, 7)), "n1": IF(max_level=3),
        "b": Linear(6, 4, weight=weight(4, 6)), "n2": IF(), "c": Linear(6, 3, weight=weight(3, 6)), "n3": IF(), "late": Delay(),
        "d": Linear(4, 5, weight=weight(5, 4)), "n4": IF(), "e": Linear(3, 2, weight=weight(2, 3)), "out": LI(),
        "f": Linear(4, 2, weight=weight(2, 4)),
    }  # fmt: skip
    edges = (
        "in a",
        "a n1",
        "n1 b",
        "b n2",
        "n1 c",
        "c n3",
        "n2 d",
        "d n4",
        "n3 e",
        "e out",
        "n2 late",
        "late f",
        "f out",
    )
    network = Network(nodes, tuple((edge.split()[0], edge.split()[1]) for edge in edges), "graph")
    inputs, n2, n3 = (rng.random((T, N, size)) < 0.5 for size in (7, 4, 3))
    n1 = rng.integers(0, 4, (T, N, 6)).astype(np.uint8)
    late = np.concatenate([np.zeros((1, N, 4), bool), n2[:-1]])
    summed = n3.sum(axis=0, keepdims=True).astype(np.uint8)  # once, at the end
    arrivals: dict[str, Any] = {
        "a": Spikes.pack(inputs), "b": Levels(n1, 2), "c": Levels(n1, 2), "d": Spikes.pack(n2), "e": Levels(summed, 3),
        "f": Spikes.pack(late),
    }  # fmt: skip
    n4 = rng.random((T, N, 5)) < 0.3
    outputs = {"b": Spikes.pack(n2), "c": Spikes.pack(n3), "d": Spikes.pack(n4)}
    trace = SpikeTrace(T, N, arrivals, outputs)
    sent = [inputs, n1, n2, n3, n4]  # a graded spike is one spike; what is delayed was sent once
    assert firing_rate(network, trace) == sum(np.count_nonzero(x) for x in sent) / sum(x.size for x in sent)
    work = lower(network, trace)
    held = {name: network.nodes[name].weight for name in "abcdef"}  # type: ignore[union-attr]
    arrived = {"a": inputs, "b": n1, "c": n1, "d": n2, "e": summed, "f": late}
    assert work.synops == {name: met(x.astype(int), held[name]) for name, x in arrived.items() if name in work.synops}
    assert len(work.synops) == 6
    hidden = [n2, n3]  # n1's levels are no spikes of a binary map, n4 is heard by nobody
    assert hidden_rate(work) == sum(x.sum() for x in hidden) / sum(x.size for x in hidden)
    fp32, _ = estimates(work)
    additions = sum(met(x.astype(int), held[name], units=True) for name, x in arrived.items())
    assert fp32.additions == pytest.approx(additions / N, rel=1e-12)
    assert fp32.ann_macs == sum(weight.size for weight in held.values())


def test_the_glossary_says_what_every_number_is() -> None:
    """Every key of the documents and every heading of the tables stands in the glossary."""
    text = (
        (Path(__file__).parents[2] / "docs" / "glossary.md").read_text(encoding="utf-8").split("## Columns and keys")[1]
    )
    results = (Path(__file__).parents[2] / "docs" / "guide" / "results.md").read_text(encoding="utf-8")
    kinds = (Figures, PointAtT, Deployed, Estimate, OnMachine, TrulyEfficient, CrossbarRow)
    own = {item.name for kind in kinds for item in fields(kind)}  # type: ignore[arg-type]  # dataclasses all
    words = set(re.findall(r"\w+", text))
    assert own - words - {"size", "seconds", "refused"} == set()
    report = evaluate(lowered(case(0, ("sum", "sum")))[3], load_machine("spikex")[1])
    document = json.loads(reports_to_json([report]))["machines"][0]
    keys = {
        *document,
        *document["total"],
        *document["total"]["per_inference"],
        *document["layers"][0],
        *document["weight_bits"],
    }
    assert {key for key in keys if key not in re.findall(r"\w+", results)} == set()
    headings: set[str] = set()
    for file in (Path(columns.__file__).parent).glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            match node:  # a table's figures, given at once, by name or one after the other
                case ast.Call(func=ast.Name(id="plain_table"), args=[_, _, *listed]):
                    pass
                case ast.For(target=ast.Name(id="heading"), iter=one):
                    listed = [one]
                case ast.Assign(targets=[ast.Name(id="headings")], value=one):
                    listed = [one]
                case ast.AugAssign(target=ast.Name(id="headings"), value=one):
                    listed = [one]
                case _:
                    continue
            words_of = (part for each in listed for part in ast.walk(each) if isinstance(part, ast.Constant))
            headings |= {part.value for part in words_of if isinstance(part.value, str)}
    assert len(headings) > 30
    known = {
        "given",
        "given (does not fit)",
        "mapped",
        "change",
        "size",
        "split",
        "layer",
        "which",
    }  # words, not numbers
    assert {heading for heading in headings - known if heading not in text} == set()
