"""Laws that every machine obeys, over every entry of HARDWARE and every preset: a new machine is tested as it is listed."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from spikeloom.components import load_table
from spikeloom.core.arch import AbstractArch
from spikeloom.core.counts import Counts
from spikeloom.core.network import Network, chain
from spikeloom.core.nodes import (
    IF,
    LI,
    LIF,
    Add,
    AvgPool2d,
    Conv1d,
    Conv2d,
    CubaLIF,
    Flatten,
    Input,
    Leak,
    Linear,
    MaxPool2d,
    Node,
    Output,
    SumPool2d,
)
from spikeloom.core.report import Report
from spikeloom.core.trace import Arrival, Levels, Spikes, SpikeTrace
from spikeloom.core.workload import Layer, RateLayer, RateWorkload, Workload
from spikeloom.cost import price
from spikeloom.errors import MappingError
from spikeloom.evaluate import ARCH_TYPES, PRESETS, evaluate, load_machine, load_workload
from spikeloom.files.config import machine_from, machine_keys
from spikeloom.files.results import read_reports, reports_to_json, write_reports
from spikeloom.files.store import write_trace
from spikeloom.hw import HARDWARE
from spikeloom.hw.spikex import SpikexArch
from spikeloom.lower import draw, lower

CARDS = Path(__file__).parents[2] / "docs" / "models"
MACHINES = [(model, preset) for model, machine in HARDWARE.items() for preset in machine.presets]
T, N = 11, 3
#: What a synaptic operation is called; a machine counts one of these, or says in its model card what else it counts.
SYNAPTIC = ("add", "mac", "ac", "synop", "event")
#: Machines that run the ANN of the same layers once, whatever spikes and steps the trace has: there silence costs what noise costs.
RUNS_THE_ANN = ("edge",)


@pytest.fixture(params=MACHINES, ids=lambda pair: "-".join(dict.fromkeys(pair)))
def arch(request: pytest.FixtureRequest) -> AbstractArch:
    """Every preset of every machine."""
    model, preset = request.param
    return machine_from({"model": model, "preset": preset}, ARCH_TYPES, PRESETS, "test")


@functools.cache
def network() -> Network:
    """Two convolutions and a read-out with integer weights, none of them zero: what every machine can be expected to run."""
    rng = np.random.default_rng(0)

    def weight(*shape: int) -> np.ndarray:
        signed: np.ndarray = rng.integers(1, 100, shape) * rng.choice([-1, 1], shape)
        return signed

    nodes: dict[str, Node] = {
        "in": Input((2, 6, 6)),
        "conv1": Conv2d(2, 5, (3, 3), padding=(1, 1), weight=weight(5, 2, 3, 3)),
        "lif1": LIF(Leak(shift=2)),
        "conv2": Conv2d(5, 4, (3, 3), (2, 2), weight=weight(4, 5, 3, 3)),
        "if2": IF(),
        "flatten": Flatten(),
        "fc": Linear(16, 10, weight=weight(10, 16)),
        "readout": LI(),
    }
    return chain("net", nodes)


@functools.cache
def workload(density: float, seed: int = 1) -> Workload:
    """The network with spikes of a density everywhere."""
    rng = np.random.default_rng(seed)
    shapes = {"conv1": (2, 6, 6), "conv2": (5, 6, 6), "fc": (16,)}
    arrivals: dict[str, Arrival] = {
        name: Spikes.pack(rng.random((T, N, *shape)) < density) for name, shape in shapes.items()
    }
    return lower(network(), SpikeTrace(T, N, arrivals))


def counted(work: Workload, arch: AbstractArch, threads: int = 1) -> Counts:
    machine = HARDWARE[arch.model]
    return machine.count(work, arch, machine.map(work, arch), threads=threads)


def synaptic(counts: Counts) -> int:
    return sum(n for (_, _, action), n in counts.actions.items() if action in SYNAPTIC)


def dynamic(report: Report) -> dict[str, float]:
    return {key: joules for key, joules in report.by("action").items() if not key.endswith(".leakage")}


@pytest.mark.parametrize("model", HARDWARE)
def test_every_machine_has_a_model_card(model: str) -> None:
    card = CARDS / f"{model}.md"
    assert card.is_file(), (
        f"write {card.relative_to(CARDS.parents[1])}: what is modelled, from which source, what is chosen"
    )
    text = card.read_text(encoding="utf-8")
    assert all(f"`{preset}`" in text for preset in HARDWARE[model].presets)


def test_silence_costs_no_synaptic_operation(arch: AbstractArch) -> None:
    silent, loud = (counted(workload(density), arch) for density in (0.0, 1.0))
    if arch.model in RUNS_THE_ANN:
        assert silent == loud
    else:
        assert synaptic(silent) == 0 < synaptic(loud)
    assert evaluate(workload(0.0), arch).synops == 0


def test_saturation_is_the_dense_closed_form(arch: AbstractArch) -> None:
    """Every input fires in every step and no weight is zero, so every synapse within the map is used in every step."""
    dense = sum(layer.dense_synops() for layer in workload(1.0).layers) * N
    assert evaluate(workload(1.0), arch).synops == dense
    counts = counted(workload(1.0), arch)
    if arch.model in RUNS_THE_ANN:  # one pass, and padding is multiplied too
        dense = sum(layer.num_weights * layer.P * layer.Q for layer in workload(1.0).layers) * N
    # a tool that counts expected values may take more for work than there is, such as the padding around a map
    assert synaptic(counts) >= dense if counts.expected else synaptic(counts) == dense


@pytest.mark.parametrize("density", [0.0, 0.1, 1.0])
def test_counts_and_energies_add_up_whichever_way(arch: AbstractArch, density: float) -> None:
    counts, report = counted(workload(density), arch), evaluate(workload(density), arch)
    assert [layer.name for layer in report.layers] == list(counts.layers())
    for instance, action in {key[1:] for key in counts.actions}:
        key = f"{instance}.{action}"
        assert sum(layer.counts.get(key, 0) for layer in report.layers) == counts.total(instance, action)
    assert sum(counts.layer_cycles.values()) >= counts.cycles == report.cycles
    total = math.fsum(joules for layer in report.layers for joules in layer.energy.values())
    assert report.energy_j == pytest.approx(total, rel=1e-12)
    groupings: tuple[Literal["layer", "component", "action"], ...] = ("layer", "component", "action")
    for what in groupings:
        assert math.fsum(report.by(what).values()) == pytest.approx(total, rel=1e-12)
    assert report.latency_s == pytest.approx(report.cycles / arch.clock)


def test_every_joule_and_every_part_has_a_source(arch: AbstractArch) -> None:
    report = evaluate(workload(0.3), arch)
    for layer in report.layers:
        assert all(report.sources[key].strip() for key in layer.energy)
        assert all(np.isfinite(list(layer.energy.values())))
        assert set(layer.counts) <= set(report.sources)
    for instance in report.area or {}:
        assert report.sources[f"{instance}.area"].strip()


def test_latency_meets_the_rooflines(arch: AbstractArch) -> None:
    """No unit is busy for more cycles than there are, and no memory moves more bits than its bandwidth allows."""
    for density in (0.0, 0.2, 1.0):
        counts = counted(workload(density), arch)
        for (_, instance, action), _n in counts.actions.items():
            if action == "cycles":
                assert counts.total(instance, action) <= counts.cycles
        if hasattr(arch, "dram_bandwidth"):
            bits = sum(n for (_, instance, action), n in counts.actions.items()
                       if instance.startswith("dram") and action in ("read", "write"))  # fmt: skip
            assert counts.cycles >= bits * arch.clock / arch.dram_bandwidth * (1 - 1e-12)
        if hasattr(arch, "rows") and hasattr(arch, "cols"):
            lanes = arch.rows * arch.cols * getattr(arch, "adders", 1)
            assert counts.cycles * lanes >= synaptic(counts)


@pytest.mark.parametrize("factor", [0.25, 3.0])
def test_a_table_times_k_scales_dynamic_energy_by_k_and_nothing_else(arch: AbstractArch, factor: float) -> None:
    machine, work = HARDWARE[arch.model], workload(0.3)
    counts, run = counted(work, arch), machine.runs(work, arch)
    synops = {layer.name: layer.synops for layer in run.layers}
    one, scaled = (
        price(counts, arch, table, num_samples=N, arch_fields={}, layer_synops=synops)
        for table in (load_table(arch.table), load_table(arch.table).scaled(factor))
    )
    assert dynamic(scaled) == pytest.approx({key: joules * factor for key, joules in dynamic(one).items()}, rel=1e-12)
    assert sum(dynamic(one).values()) > 0
    leakage = [report.energy_j - sum(dynamic(report).values()) for report in (one, scaled)]
    assert leakage[1] == pytest.approx(leakage[0], rel=1e-6)
    assert (one.cycles, one.area) == (scaled.cycles, scaled.area)


def reordered(work: Workload, order: list[int]) -> Workload:
    def turned(layer: Layer) -> Layer:
        assert isinstance(layer.arrival, Spikes)
        out = None if layer.out is None else replace(layer.out, packed=layer.out.packed[:, order])
        return replace(layer, arrival=replace(layer.arrival, packed=layer.arrival.packed[:, order]), out=out)

    return replace(work, layers=tuple(map(turned, work.layers)))


@pytest.mark.parametrize("density", [0.05, 0.5])
def test_neither_the_order_of_samples_nor_the_threads_matter(arch: AbstractArch, density: float) -> None:
    work = workload(density)
    assert len({replace(work, layers=(layer,)).id for layer in work.layers}) == 3
    counts = counted(work, arch)
    turned = reordered(work, [2, 0, 1])
    assert turned.id != work.id
    assert counted(turned, arch, threads=2) == counts == counted(work, arch, threads=N)


def test_the_means_of_the_same_samples_twice_are_the_same(arch: AbstractArch) -> None:
    work = workload(0.2)
    twice = replace(reordered(work, [0, 1, 2, 0, 1, 2]), num_samples=2 * N)
    once, doubled = counted(work, arch), counted(twice, arch)
    assert doubled.cycles == 2 * once.cycles
    assert doubled.layer_cycles == {name: 2 * n for name, n in once.layer_cycles.items()}
    assert doubled.actions == {key: 2 * n for key, n in once.actions.items()}
    assert evaluate(twice, arch).energy_j == pytest.approx(2 * evaluate(work, arch).energy_j, rel=1e-12)


def test_counting_twice_and_on_an_equal_machine_is_the_same(arch: AbstractArch) -> None:
    again = machine_from(machine_keys(arch), ARCH_TYPES, PRESETS, "test")
    assert evaluate(workload(0.2), again) == evaluate(workload(0.2), arch)


def test_counts_are_whole_numbers_of_python(arch: AbstractArch) -> None:
    """Or fractions, where a model says that it gives expected values; NumPy's would overflow or not be JSON."""
    counts = counted(workload(0.3), arch)
    kinds = {float, int} if counts.expected else {int}
    for found in (counts.actions, counts.layer_cycles, counts.statistics):
        assert {type(n) for n in found.values()} <= kinds
    assert type(counts.cycles) in kinds
    assert all(n >= 0 for n in counts.actions.values())


def test_shares_of_use_are_shares(arch: AbstractArch) -> None:
    for density in (0.0, 0.3, 1.0):
        for layer in evaluate(workload(density), arch).layers:
            assert all(0 <= share <= 1 for share in layer.utilisation.values()), (layer.name, layer.utilisation)


def test_a_report_round_trips_as_json(arch: AbstractArch, tmp_path: Path) -> None:
    reports = [evaluate(workload(density), arch, label=f"at {density}") for density in (0.0, 0.3)]
    write_reports(tmp_path / "report.json", reports)
    assert list(read_reports(tmp_path / "report.json")) == reports


def test_the_json_of_a_report_says_what_the_format_promises(arch: AbstractArch) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(word)

    document = json.loads(reports_to_json([evaluate(workload(0.3), arch)]), parse_constant=refuse)
    assert (document["format"], document["version"]) == ("spikeloom-report", 1)
    (machine,) = document["machines"]
    assert {"model", "arch", "num_samples", "total", "layers", "sources", "warnings"} <= machine.keys()
    total = machine["total"]
    assert {"cycles", "latency_s", "energy_j", "area_mm2", "synops", "per_inference"} <= total.keys()
    assert {"latency_s", "energy_j", "edp_js"} <= total["per_inference"].keys()
    for layer in machine["layers"]:
        assert {"name", "cycles", "latency_s", "energy_j", "counts", "energy"} <= layer.keys()
        assert layer["counts"].keys() <= layer["energy"].keys()
    in_layers = {key: sum(layer[key] for layer in machine["layers"]) for key in ("energy_j", "latency_s", "cycles")}
    assert total["energy_j"] == pytest.approx(in_layers["energy_j"])
    # layers that overlap in time take less together than one after the other
    assert total["latency_s"] == pytest.approx(in_layers["latency_s"] * total["cycles"] / in_layers["cycles"])
    for key in ("energy_j", "latency_s"):
        assert total["per_inference"][key] * N == pytest.approx(total[key])
    assert total["per_inference"]["edp_js"] == pytest.approx(total["energy_j"] * total["latency_s"] / N**2)
    assert machine_from(machine["arch"], ARCH_TYPES, PRESETS, "report") == arch


# --- any layer is run or refused by name -------------------------------------------------------------------------

SHAPE = (4, 6, 6)
ODD: dict[str, tuple[Node, tuple[int, ...], Node]] = {
    "conv1d": (Conv1d(4, 3, 3), (4, 6), IF()),
    "grouped": (Conv2d(4, 4, (3, 3), groups=2), SHAPE, IF()),
    "depthwise": (Conv2d(4, 4, (3, 3), groups=4), SHAPE, IF()),
    "dilated": (Conv2d(4, 3, (2, 2), dilation=(2, 2)), SHAPE, IF()),
    "wide padding": (Conv2d(4, 3, (3, 3), padding=(4, 4)), SHAPE, IF()),
    "stride beyond kernel": (Conv2d(4, 3, (1, 1), (3, 3)), SHAPE, IF()),
    "bias": (Conv2d(4, 3, (3, 3), has_bias=True), SHAPE, IF()),
    "soft reset": (Conv2d(4, 3, (3, 3)), SHAPE, IF(1.0, "soft")),
    "no reset": (Conv2d(4, 3, (3, 3)), SHAPE, LIF(Leak(shift=1), 1.0, "none")),
    "leak by factor": (Conv2d(4, 3, (3, 3)), SHAPE, LIF(Leak(factor=0.9))),
    "synaptic current": (Conv2d(4, 3, (3, 3)), SHAPE, CubaLIF(Leak(shift=1), Leak(shift=2))),
    "one bit weights": (Conv2d(4, 3, (3, 3), weight_bits=1), SHAPE, IF()),
    "wide weights": (Conv2d(4, 3, (3, 3), weight_bits=64), SHAPE, IF()),
    "one neuron": (Linear(1, 1), (1,), IF()),
    "many outputs": (Linear(3, 700), (3,), IF()),
    "sum pool": (SumPool2d((2, 2), (2, 2)), SHAPE, LI()),
    "mean pool": (AvgPool2d((3, 3), (2, 2), (1, 1)), SHAPE, LI()),
    "max pool": (MaxPool2d((2, 2), (2, 2)), SHAPE, LI()),
    "sum": (Add(), SHAPE, IF()),
}  # fmt: skip


def runs_or_refuses(layer: Layer, arch: AbstractArch) -> None:
    work = Workload((layer,), layer.num_steps, layer.num_samples)
    try:
        report = evaluate(work, arch)
    except MappingError as error:
        refusal: str | None = str(error)
    else:
        refusal = None
        assert np.isfinite(report.energy_j) and report.energy_j >= 0
        assert report.layers or layer.kind.endswith("pool2d")
        assert reports_to_json([report])
    assert refusal is None or ("'odd'" in refusal and "\n" not in refusal)


@pytest.mark.parametrize("name", ODD)
def test_an_odd_layer_is_run_or_refused_by_name(arch: AbstractArch, name: str) -> None:
    node, shape, neuron = ODD[name]
    spikes = Spikes.pack(np.random.default_rng(3).random((T, N, *shape)) < 0.3)
    layer = lower(chain("n", {"in": Input(shape), "odd": node, "neuron": neuron}), SpikeTrace(T, N, {"odd": spikes}))
    runs_or_refuses(layer.layers[0], arch)


@pytest.mark.parametrize(
    "arrival",
    [
        Levels(np.full((T, N, 4, 6, 6), 7, np.uint8), 3),
        Levels(np.full((T, N, 4, 6, 6), -7, np.int16), 3, signed=True),
        Levels(np.full((T, N, 4, 6, 6), 200, np.uint8), 8, analog=True),
        Levels(np.arange(T * N * 144, dtype=np.uint16).reshape(T, N, 4, 6, 6), 16, analog=True),
        Spikes.pack(np.ones((1, 1, 4, 6, 6))),
        Spikes.pack(np.ones((70, 1, 4, 6, 6))),
    ],
    ids=["levels", "signed levels", "constant pixels", "changing pixels", "one step", "many steps"],
)  # fmt: skip
def test_any_arrival_is_run_or_refused_by_name(arch: AbstractArch, arrival: Arrival) -> None:
    nodes: dict[str, Node] = {"in": Input(SHAPE), "odd": Conv2d(4, 3, (3, 3)), "neuron": IF()}
    trace = SpikeTrace(arrival.num_steps, arrival.num_samples, {"odd": arrival})
    runs_or_refuses(lower(chain("n", nodes), trace).layers[0], arch)


def uneven() -> Workload:
    """Samples of very different densities, 1 ms a step."""
    rng, shapes = np.random.default_rng(4), {"conv1": (2, 6, 6), "conv2": (5, 6, 6), "fc": (16,)}
    density = np.array([0.0, 0.9, 0.1])
    arrivals: dict[str, Arrival] = {
        name: Spikes.pack(rng.random((T, N, *shape)) < density.reshape(1, N, *[1] * len(shape)))
        for name, shape in shapes.items()
    }
    return lower(network(), SpikeTrace(T, N, arrivals, dt_s=0.001))


def alone(work: Workload, n: int) -> Workload:
    """One sample of a workload of spikes without records of outputs."""
    layers = []
    for layer in work.layers:
        assert isinstance(layer.arrival, Spikes)
        out = None if layer.out is None else replace(layer.out, packed=layer.out.packed[:, n : n + 1])
        layers.append(
            replace(layer, arrival=replace(layer.arrival, packed=layer.arrival.packed[:, n : n + 1]), out=out)
        )
    return replace(work, layers=tuple(layers), num_samples=1)


def test_cycles_of_a_sample_are_those_of_the_sample_alone(arch: AbstractArch) -> None:
    found = counted(uneven(), arch).by_sample(N)
    assert sum(found) == counted(uneven(), arch).cycles
    if getattr(arch, "fidelity", "trace") == "trace":  # a tool takes one sparsity for all samples
        assert found == tuple(counted(alone(uneven(), n), arch).cycles for n in range(N))


def test_in_real_time_each_sample_lasts_its_frames_at_least_and_leakage_as_long(arch: AbstractArch) -> None:
    """Against one bill for each sample alone; the frames end between the shortest sample and the longest."""
    bills = [evaluate(alone(uneven(), n), arch) for n in range(N)]
    latencies = [bill.latency_s for bill in bills]
    for sample_s in ((min(latencies) + max(latencies)) / 2, 10 * max(latencies), min(latencies) / 10):
        work = replace(uneven(), dt_s=sample_s / T)
        plain, report = evaluate(work, arch), evaluate(work, arch, real_time=True)
        leaked = sum(joules for key, joules in plain.by("action").items() if key.endswith(".leakage"))
        note = [line for line in plain.warnings if "--real-time" in line]
        assert plain.real_time is None and (report.energy_j, report.latency_s) == (plain.energy_j, plain.latency_s)
        if not any(key.endswith(".leakage") for layer in plain.layers for key in layer.energy):
            assert report.real_time is None and not note
            assert any("no bill in real time" in line for line in report.warnings)
            continue
        assert len(note) == 1 and report.real_time is not None
        if getattr(arch, "fidelity", "trace") == "trace":
            expected_s = sum(max(latency, sample_s) for latency in latencies)
            power = leaked / plain.latency_s
            assert report.real_time.latency_s == pytest.approx(expected_s, rel=1e-12)
            assert report.real_time.energy_j == pytest.approx(plain.energy_j - leaked + power * expected_s, rel=1e-9)


#: What carries the input map itself, and what is bounded by it.
MAP_TRAFFIC = {f"{part}_{what}" for part in ("dram", "glb", "lbuf") for what in ("act", "ifmap")} | {"dram"}


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "groups"),
    [((20, 19), (3, 3), (2, 2), 1), ((9, 11), (3, 2), (4, 3), 2), ((8, 7), (1, 1), (3, 2), 4), ((6, 6), (2, 3), (5, 2), 1)],
)  # fmt: skip
def test_windows_that_hang_over_the_border_do_as_on_a_map_with_silent_rows_behind(
    arch: AbstractArch, size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], groups: int
) -> None:
    """But for moving the map, which has no such rows. The third case has windows that lie outside altogether."""
    if getattr(arch, "fidelity", "trace") == "tool" or arch.model == "sata-training":
        return  # tools take the size of the output from that of the map
    layer = RateLayer("a", "conv2d", (4, *size), 8, 0.4, kernel, stride, groups=groups, overhang=True)
    work = draw(RateWorkload((layer,), T, N))
    made = work.layers[0]
    reached = [(out - 1) * stride[d] + kernel[d] for d, out in enumerate((made.P, made.Q))]
    assert tuple(math.ceil((size[d] - kernel[d] + stride[d]) / stride[d]) for d in range(2)) == (made.P, made.Q)
    rows, cols = (max(size[d], reached[d]) for d in range(2))
    assert (rows, cols) != size
    levels = np.zeros((T, N, 4, rows, cols), bool)
    levels[..., : size[0], : size[1]] = made.arrival.unpack()  # type: ignore[union-attr]
    whole = replace(made, H=rows, W=cols, arrival=Spikes.pack(levels))
    hanging, silent = (counted(replace(work, layers=(each,)), arch) for each in (made, whole))
    for key, n in silent.actions.items():
        if arch.model not in RUNS_THE_ANN or key[2] == "mac":
            assert hanging.actions[key] == n or (key[1] in MAP_TRAFFIC and hanging.actions[key] < n)
    if arch.model not in RUNS_THE_ANN:  # its time is that of moving maps
        assert (hanging.cycles, hanging.statistics) == (silent.cycles, silent.statistics)


def test_a_recurrent_layer_is_run_or_refused_by_name(arch: AbstractArch) -> None:
    nodes: dict[str, Node] = {"in": Input((4,)), "odd": Linear(4, 4), "neuron": IF()}
    edges = (("in", "odd"), ("odd", "odd"), ("odd", "neuron"))
    spikes: dict[str, Any] = {"odd": Spikes.pack(np.ones((T, N, 4)))}
    runs_or_refuses(lower(Network(nodes, edges), SpikeTrace(T, N, spikes)).layers[0], arch)


def test_membranes_wider_than_the_machine_s_are_named_also_from_a_file(tmp_path: Path) -> None:
    nodes: dict[str, Node] = {
        "in": Input((4,)), "fc": Linear(4, 3, weight=np.ones((3, 4), np.int8)), "if": IF(2.0, membrane_bits=24), "out": Output((3,))
    }  # fmt: skip
    network = chain("n", nodes)
    trace = SpikeTrace(2, 1, {"fc": Spikes.pack(np.ones((2, 1, 4)))})
    write_trace(tmp_path / "t.npz", network, trace)
    for work in (lower(network, trace), load_workload(tmp_path / "t.npz")):
        said = {bits: evaluate(work, SpikexArch(membrane_bit=bits)).warnings for bits in (16, 24)}
        assert "membranes of fc have 24 bits in the network and membrane_bit = 16 here" in said[16]
        assert not any("membrane_bit" in words for words in said[24])
        assert not any("membrane_bit" in words for words in evaluate(work, load_machine("sata")[1]).warnings)
