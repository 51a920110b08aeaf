"""Sums that meet in the neurons of another layer, on sata and systolic: equal to nested loops, and the laws of the specification."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloom.core.arch import AbstractArch
from spikeloom.core.counts import Counts
from spikeloom.core.network import Network
from spikeloom.core.nodes import (
    IF,
    LIF,
    Add,
    Conv2d,
    Delay,
    Flatten,
    Input,
    Leak,
    Linear,
    MaxPool2d,
    Node,
    Output,
    ReLU,
    SumPool2d,
)
from spikeloom.core.trace import Arrival, Levels, Spikes, SpikeTrace
from spikeloom.core.workload import Layer, NeuronRule, Workload
from spikeloom.errors import ConfigError, MappingError
from spikeloom.evaluate import evaluate, load_machine
from spikeloom.hw import HARDWARE
from spikeloom.hw.base import fold_pools
from spikeloom.hw.sata_arch import SataArch
from spikeloom.hw.systolic import SystolicArch
from spikeloom.lower import lower
from spikeloom.studies.shares import share_of, shares
from tests.hw import test_sata, test_systolic
from tests.hw.test_spikex import layer_of
from tests.reference import sata as slow_sata
from tests.reference import systolic as slow_systolic
from tests.reference.joined import Branch, extents, joined_cases
from tests.reference.spikex import LayerCase

T = 6
NEW = {"mac.join", "out.join", "glb_psum.read", "glb_psum.write", "dram_psum.read", "dram_psum.write"}


def counted(work: Workload, arch: AbstractArch) -> Counts:
    machine = HARDWARE[arch.model]
    return machine.count(work, arch, machine.map(work, arch))


def flat(counts: Counts, name: str) -> dict[str, int]:
    return {**counts.of(name), "cycles": counts.layer_cycles[name]}


def joined_workload(owner: Layer, branches: list[Branch], repeats: int = 1, reader: bool = False) -> Workload:
    """Branches, owner, and perhaps a layer that takes spikes from all of them, whatever they send."""
    made = [
        dataclasses.replace(
            layer_of([branch.case] * repeats), name=f"branch{k}", kind=branch.kind, neuron=NeuronRule("none"), joins="layer",
            inputs=("left", "right") if branch.kind == "add" else (),
            weight_bits=branch.case.weight_bits or 8,
        )
        for k, branch in enumerate(branches)
    ]  # fmt: skip
    owner = dataclasses.replace(owner, branches=tuple(made))
    layers = (*made, owner)
    if reader:
        spikes = Spikes.pack(np.zeros((owner.num_steps, repeats, owner.K, owner.P, owner.Q)))
        heard = tuple(layer.name for layer in layers)
        layers += (
            Layer("reader", "conv2d", owner.K, 2, owner.P, owner.Q, 1, 1, owner.P, owner.Q, spikes, inputs=heard),
        )
    return Workload(layers, owner.num_steps, repeats)


NEURONS = (NeuronRule("lif", Leak(shift=2)), NeuronRule("if"), NeuronRule("li"), NeuronRule("relu", None, "none"))


@settings(max_examples=200, deadline=None)
@given(joined_cases(), test_sata.arrays(), st.sampled_from(NEURONS), st.integers(1, 2), st.booleans())
def test_sata_equals_the_nested_loops(
    case: tuple[LayerCase, list[Branch]], array: slow_sata.Array, neuron: NeuronRule, repeats: int, reader: bool
) -> None:
    one, branches = case
    owner = dataclasses.replace(layer_of([one] * repeats), neuron=neuron)
    counts = counted(joined_workload(owner, branches, repeats, reader), test_sata.arch_of(array, fold_pool=False))
    bits = 1 if reader or neuron.kind in ("if", "lif") else 16
    expected = slow_sata.count_joined(
        one, [branch.case for branch in branches], array, leaky=neuron.leaky, out_bits=bits
    )
    for name, n in zip(("layer", *(f"branch{k}" for k in range(len(branches)))), expected, strict=True):
        assert flat(counts, name) == {key: repeats * value for key, value in n.items()}, name


@settings(max_examples=200, deadline=None)
@given(
    joined_cases(max_steps=3), test_systolic.knob_sets(), st.sampled_from(("layer", "tile")), st.integers(1, 2), st.booleans()
)  # fmt: skip
def test_systolic_equals_the_walk(
    case: tuple[LayerCase, list[Branch]], knobs: slow_systolic.Knobs, join: str, repeats: int, reader: bool
) -> None:
    one, branches = case
    knobs = dataclasses.replace(knobs, join=join, result_bit=1 if reader else knobs.result_bit)
    rule = NeuronRule("li" if knobs.stateful else "relu", None, "none")
    owner = dataclasses.replace(layer_of([one] * repeats), neuron=rule)
    work = joined_workload(owner, branches, repeats, reader)
    counts = counted(work, test_systolic.arch_of(knobs))

    def compare(layer: Layer, n: dict[str, int]) -> None:
        assert flat(counts, layer.name) == {key: repeats * value for key, value in n.items()}, layer.name

    def synapses(layer: Layer, case: LayerCase, **how: Any) -> None:
        n = slow_systolic.count(case, knobs, **how)
        n = test_systolic.expected_names(n, layer, case.level_bits + case.signed)
        n.pop("multiply", None)
        compare(layer, n)

    synapses(owner, one, branches=len(branches))
    for number, branch in enumerate(branches):
        layer, part = work[f"branch{number}"], branch.case
        if branch.kind == "conv2d":
            synapses(layer, part, is_branch=True)
            continue
        shape, bits = (layer.C, layer.H, layer.W), part.level_bits + part.signed
        maps = 2 if branch.kind == "add" else 1
        compare(
            layer,
            slow_systolic.vector(
                branch.kind, shape, part.kernel, part.stride, part.padding, layer.num_steps, maps, bits, knobs, is_branch=True
            ),
        )  # fmt: skip


# --- the laws

MACHINES = ("sata", "systolic", "systolic:dataflow=ws", "systolic:dataflow=is,join=tile")


def network(*branches: Node, owner: Node | None = None, neuron: Node | None = None) -> Network:
    """Input, a layer with neurons, another behind it with branches from the input, and a read-out."""
    nodes: dict[str, Node] = {
        "in": Input((4, 6, 6)),
        "one": Conv2d(4, 4, (3, 3), padding=(1, 1)),
        "lif": neuron if isinstance(neuron, ReLU) else LIF(Leak(shift=1)),  # an ANN is one all through
    }
    nodes |= {f"branch{k}": node for k, node in enumerate(branches)}
    nodes |= {"two": owner or Conv2d(4, 4, (3, 3), padding=(1, 1)), "meet": neuron or LIF(Leak(shift=2))}
    nodes |= {"flat": Flatten(), "fc": Linear(144, 5), "out": Output((5,))}
    edges = [
        ("in", "one"),
        ("one", "lif"),
        ("lif", "two"),
        ("two", "meet"),
        ("meet", "flat"),
        ("flat", "fc"),
        ("fc", "out"),
    ]
    for k in range(len(branches)):
        edges += [("in", f"branch{k}"), (f"branch{k}", "meet")]
    return Network(nodes, tuple(edges))


def trace_of(net: Network, density: float = 0.3, silent: tuple[str, ...] = (), N: int = 2) -> SpikeTrace:
    """Spikes at every layer, of which those that hear the same hear the same; silence where it is asked for."""
    shapes = {"in": (4, 6, 6), "lif": (4, 6, 6), "flat": (144,)}
    rng = np.random.default_rng(3)
    drawn = {source: rng.random((T, N, *shape)) < density for source, shape in shapes.items()}
    return SpikeTrace(
        T, N, {name: Spikes.pack(drawn[net.inputs_of(name)[0]] & (name not in silent)) for name in net.layers()}
    )


def worked(net: Network, **how: Any) -> Workload:
    return lower(net, trace_of(net, **how))


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("machine", MACHINES)
def test_an_owner_is_the_layer_alone_and_the_sums_of_its_branches(machine: str, number: int) -> None:
    """Laws (a), (b) and (d): whatever a branch's spikes and weights, its owner reads and adds its sums; none is written twice."""
    arch = load_machine(machine)[1]
    branches = (Conv2d(4, 4, (1, 1), weight=np.zeros((4, 4, 1, 1), np.float32)), SumPool2d((3, 3), (1, 1), (1, 1)))[
        :number
    ]
    b = 16 if arch.model == "sata" else 24
    n = 144 * T * 2
    alone = counted(worked(network()), arch).of("two")
    for silent in ((), ("branch0", "branch1")):
        counts = counted(worked(network(*branches), silent=silent), arch)
        owner = counts.of("two")
        more = {key: owner[key] - alone.get(key, 0) for key in owner if owner[key] != alone.get(key, 0)}
        expected = {
            "sata": dict.fromkeys(("dram_psum.read", "glb_psum.write", "glb_psum.read"), number * b * n) | {"mac.join": number * n},
            "systolic": {"glb_ofmap.read": number * b * n, "out.join": number * n},
        }[arch.model]  # fmt: skip
        assert more == expected
        assert counts.layer_cycles["two"] == counted(worked(network()), arch).layer_cycles["two"]
        for k in range(number):
            found = counts.of(f"branch{k}")
            assert not any(
                found.get(key) for key in ("lif.update", "lif.decay", "lif.bias", "out.quantise", "out.update")
            )
            written = found["dram_ofmap.write"] if arch.model == "sata" else found["glb_ofmap.write"]
            assert written == b * n


@pytest.mark.parametrize("machine", ["sata", "sata:skip=false", "systolic", "systolic:dataflow=ws"])
@settings(max_examples=15, deadline=None)
@given(split=st.integers(1, 5), seed=st.integers(0, 99))
def test_a_convolution_split_over_its_inputs_does_the_same_work(machine: str, split: int, seed: int) -> None:
    """Law (c): conv(concat) in two does as many additions and updates as in one."""
    arch = load_machine(machine)[1]
    spikes = np.random.default_rng(seed).random((T, 1, 6, 5, 5)) < 0.3

    def part(name: str, channels: slice, **more: Any) -> Layer:
        taken = Spikes.pack(spikes[:, :, channels])
        return Layer(name, "conv2d", taken.shape[0], 3, 5, 5, 3, 3, 5, 5, taken, padding=(1, 1), **more)

    whole = counted(Workload((part("whole", slice(0, 6)),), T, 1), arch)
    branch = part("branch", slice(0, split), neuron=NeuronRule("none"), joins="owner")
    owner = part("owner", slice(split, 6), branches=(branch,))
    both = counted(Workload((branch, owner), T, 1), arch)
    for key in (("mac", "add"), ("spad", "access"), ("lif", "update"), ("pe", "ac"), ("pe", "zero"), ("out", "update"), ("dram_weight", "read")):  # fmt: skip
        assert both.total(*key) == whole.total(*key), key


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("others", [(False,), (True,), (True, True), (False, True)])
def test_a_bias_belongs_to_the_layer_with_the_neurons_and_acts_once(own: bool, others: tuple[bool, ...]) -> None:
    net = network(
        *(Conv2d(4, 4, (1, 1), has_bias=x) for x in others), owner=Conv2d(4, 4, (3, 3), padding=(1, 1), has_bias=own)
    )
    counts = counted(worked(net), SataArch())
    assert counts.actions["two", "lif", "bias"] == (144 * T * 2 if own or any(others) else 0)
    assert not any(counts.actions[f"branch{k}", "lif", "bias"] for k in range(len(others)))


def test_networks_without_branches_have_none_of_the_new_counts() -> None:
    for machine in MACHINES:
        report = evaluate(worked(network()), load_machine(machine)[1])
        new = NEW - ({"dram_psum.read", "dram_psum.write"} if report.model == "systolic" else set())
        assert not new & {key for layer in report.layers for key in (*layer.counts, *layer.energy)}
        assert not new & set(report.sources)


# --- the projection shortcut of cases/networks/30


def projection() -> Workload:
    """2.d joins 2.b, 8x12x12, T = 8, one sample."""
    rng = np.random.default_rng(0)
    nodes: dict[str, Node] = {
        "in": Input((2, 12, 12)), "0": Conv2d(2, 8, (3, 3), padding=(1, 1)), "1": LIF(Leak(shift=1)), "2.d": Conv2d(8, 8, (1, 1)),
        "2.a": Conv2d(8, 8, (3, 3), padding=(1, 1)),
        "2.l": LIF(Leak(shift=1)), "2.b": Conv2d(8, 8, (3, 3), padding=(1, 1)), "2.k": LIF(Leak(shift=1)), "3": Flatten(),
        "4": Linear(1152, 10), "out": Output((10,)),
    }  # fmt: skip
    edges = (("in", "0"), ("0", "1"), ("1", "2.a"), ("2.a", "2.l"), ("2.l", "2.b"), ("1", "2.d"), ("2.b", "2.k"), ("2.d", "2.k"),
             ("2.k", "3"), ("3", "4"), ("4", "out"))  # fmt: skip
    shapes = {"0": (2, 12, 12), "2.a": (8, 12, 12), "2.b": (8, 12, 12), "4": (1152,)}
    arrivals: dict[str, Arrival] = {
        name: Spikes.pack(rng.random((8, 1, *shape)) < 0.3) for name, shape in shapes.items()
    }
    return lower(Network(nodes, edges), SpikeTrace(8, 1, arrivals | {"2.d": arrivals["2.a"]}))


def test_the_projection_shortcut_moves_its_sums_through_dram_on_sata() -> None:
    counts = counted(projection(), SataArch())
    branch, owner = counts.of("2.d"), counts.of("2.b")
    assert {key: branch[key] for key in ("glb_ofmap.write", "glb_ofmap.read", "dram_ofmap.write")} == dict.fromkeys(
        ("glb_ofmap.write", "glb_ofmap.read", "dram_ofmap.write"), 147_456
    )
    assert branch["lif.update"] == branch["lif.decay"] == branch["lif.bias"] == 0 < branch["lif.clock"]
    assert owner["dram_psum.read"] == owner["glb_psum.write"] == owner["glb_psum.read"] == 147_456
    assert owner["mac.join"] == owner["lif.update"] == owner["lif.decay"] == 9_216
    assert owner["dram_ofmap.write"] == 9_216


@pytest.mark.parametrize(("join", "away"), [("layer", 221_184), ("tile", 0)])
def test_the_projection_shortcut_waits_in_the_buffer_of_systolic_or_in_dram(join: str, away: int) -> None:
    """9,216 sums of 24 bits: 221,184 > 131,072 bits of half of the buffer; a step of them, 27,648, fits."""
    counts = counted(projection(), SystolicArch(join=join))
    branch, owner = counts.of("2.d"), counts.of("2.b")
    assert (branch["glb_ofmap.write"], branch["glb_ofmap.read"]) == (221_184, away)
    assert (branch["dram_psum.write"], branch["dram_psum.read"]) == (away, 0)
    assert branch["dram_ofmap.write"] == 0 and not {"out.quantise", "out.update", "out.join"} & set(branch)
    membranes = 1152 * 16 * 7
    assert owner["glb_ofmap.read"] == membranes + 9_216 + 221_184
    assert owner["glb_ofmap.write"] == membranes + 9_216 + away
    assert (owner["dram_psum.read"], owner["dram_psum.write"]) == (away, 0)
    assert owner["out.join"] == owner["out.update"] == 9_216
    assert counts.actions["2.b", "dram", "cycles"] == -(
        -sum(n for k, n in owner.items() if k.startswith("dram_")) // 600
    )


@pytest.mark.parametrize(("join", "bits"), [("layer", 221_184), ("tile", 27_648)])
def test_sums_that_just_fit_stay_and_a_bit_less_sends_them_away(join: str, bits: int) -> None:
    fits, spills = (counted(projection(), SystolicArch(join=join, ofmap=size)) for size in (2.0 * bits, 2.0 * bits - 1))
    assert fits.actions["2.d", "dram_psum", "write"] == 0
    assert spills.actions["2.d", "dram_psum", "write"] == spills.actions["2.b", "dram_psum", "read"] == 221_184


def test_every_new_action_is_charged_and_is_for_something() -> None:
    """16-bit additions of 0.09175 pJ on sata; a psum_bit add on systolic; buffers and DRAM as the other bits there."""
    sata, systolic = (evaluate(projection(), load_machine(name)[1]) for name in ("sata", "systolic"))
    owner = {layer.name: layer for layer in sata.layers}["2.b"]
    assert owner.energy["mac.join"] == pytest.approx(9_216 * 0.09175e-12, rel=1e-9)
    for action in ("read", "write"):
        per_bit = owner.energy[f"glb_ofmap.{action}"] / owner.counts[f"glb_ofmap.{action}"]
        assert owner.energy[f"glb_psum.{action}"] == pytest.approx(147_456 * per_bit, rel=1e-9)
    per_bit = owner.energy["dram_weight.read"] / owner.counts["dram_weight.read"]
    assert owner.energy["dram_psum.read"] == pytest.approx(147_456 * per_bit, rel=1e-9)
    owner, pool = {layer.name: layer for layer in systolic.layers}["2.b"], pooled()
    assert owner.energy["out.join"] / 9_216 == pytest.approx(
        pool.energy["vector.accumulate"] / pool.counts["vector.accumulate"]
    )
    for report in (sata, systolic):
        assert sum(shares(report).values()) == pytest.approx(1)
    assert [share_of("sata", key) for key in ("mac.join", "glb_psum.read", "dram_psum.read")] == [
        "compute",
        "sram",
        "dram",
    ]
    assert [share_of("systolic", key) for key in ("out.join", "out.update", "dram_psum.write")] == [
        "compute",
        "neuron",
        "dram",
    ]


def pooled() -> Any:
    return {x.name: x for x in evaluate(worked(network(SumPool2d((3, 3), (1, 1), (1, 1)))), SystolicArch()).layers}[
        "branch0"
    ]


# --- branches of other kinds, readers, refusals, notes


@pytest.mark.parametrize("pool", [SumPool2d((3, 3), (1, 1), (1, 1)), MaxPool2d((3, 3), (1, 1), (1, 1))])
def test_a_pool_as_a_branch_is_run(pool: Node) -> None:
    work = worked(network(pool))
    assert work["branch0"].joins == "two"
    sata, systolic = counted(work, SataArch()), counted(work, SystolicArch(fold_pool=True))
    spikes = work["branch0"].synops
    assert sata.actions["branch0", "mac", "add"] == spikes and sata.actions["branch0", "dram_weight", "read"] == 0
    operation = "compare" if isinstance(pool, MaxPool2d) else "accumulate"
    assert systolic.actions["branch0", "vector", operation] == 8 * 144 * T * 2
    for counts, b in ((sata, 16), (systolic, 24)):
        assert counts.actions["branch0", "glb_ofmap", "write"] == b * 144 * T * 2


def test_a_sum_of_maps_as_a_branch_is_run_and_one_behind_the_neuron_hears_one_map() -> None:
    base = network(Add())
    edges = (*base.edges, ("lif", "branch0"), ("meet", "sum"), ("in", "sum"))
    net = Network({**base.nodes, "sum": Add(), "end": Output((4, 6, 6))}, (*edges, ("sum", "end")))
    spikes = trace_of(base)
    levels = Levels(np.random.default_rng(1).integers(0, 3, (T, 2, 4, 6, 6)).astype(np.uint8), 2)
    work = lower(net, dataclasses.replace(spikes, arrivals={**spikes.arrivals, "branch0": levels, "sum": levels}))
    assert work["branch0"].joins == "two" and work["sum"].inputs == ("two",)
    sata, systolic = counted(work, SataArch()), counted(work, SystolicArch())
    n = 144 * T * 2
    ones = int(np.bitwise_count(levels.values).sum())
    assert sata.actions["branch0", "mac", "add"] == ones and sata.actions["branch0", "dram_ofmap", "write"] == 16 * n
    for name in ("branch0", "sum"):
        assert systolic.actions[name, "vector", "accumulate"] == n
        assert systolic.actions[name, "glb_ifmap", "read"] == 2 * 2 * n
    assert systolic.actions["branch0", "glb_ofmap", "write"] == 24 * n
    assert ("branch0", "out", "quantise") not in systolic.actions and systolic.actions["sum", "out", "quantise"] == n


def test_an_owner_that_is_a_pool_or_a_sum_reads_its_branches() -> None:
    for owner in (SumPool2d((3, 3), (1, 1), (1, 1)), Add()):
        net = network(Conv2d(4, 4, (1, 1), has_bias=True), owner=owner)
        joined, alone = worked(net), worked(network(owner=owner))
        assert joined["branch0"].joins == "two"
        sata, systolic = counted(joined, SataArch()), counted(joined, SystolicArch())
        n = 144 * T * 2
        assert (
            sata.actions["two", "mac", "join"]
            == sata.actions["two", "lif", "bias"]
            == systolic.actions["two", "out", "join"]
            == n
        )
        before = counted(alone, SystolicArch()).of("two")
        assert systolic.of("two") == before | {"glb_ofmap.read": before["glb_ofmap.read"] + 24 * n, "out.join": n}


def test_an_ann_owner_adds_before_it_rescales() -> None:
    net = network(Conv2d(4, 4, (1, 1)), neuron=ReLU())
    net = dataclasses.replace(net, nodes={**net.nodes, "lif": ReLU()})  # an ANN throughout: mixed networks are refused
    levels = {name: Levels(np.full((1, 3, *shape), 5, np.uint8), 4)
              for name, shape in {"one": (4, 6, 6), "two": (4, 6, 6), "branch0": (4, 6, 6), "fc": (144,)}.items()}  # fmt: skip
    work = lower(net, SpikeTrace(1, 3, levels))
    found = counted(work, SystolicArch())
    assert found.actions["two", "out", "join"] == found.actions["two", "out", "quantise"] == 3 * 144
    assert found.actions["branch0", "glb_ofmap", "write"] == 24 * 3 * 144  # not the 4 bits that the read-out takes
    assert found.actions["two", "dram_ofmap", "write"] == 4 * 3 * 144
    assert counted(work, SataArch()).actions["branch0", "dram_ofmap", "write"] == 16 * 3 * 144


def test_constant_pixels_leave_sums_in_every_step() -> None:
    net = network(Conv2d(4, 4, (1, 1)))
    trace = trace_of(net)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 2, 4, 6, 6)).astype(np.uint8)
    shown = Levels(np.repeat(pixels, T, axis=0), 8, analog=True)
    work = lower(net, dataclasses.replace(trace, arrivals={**trace.arrivals, "branch0": shown, "one": shown}))
    assert counted(work, SataArch()).actions["two", "mac", "join"] == 144 * T * 2
    assert counted(work, SystolicArch()).actions["branch0", "glb_ofmap", "write"] == 24 * 144 * T * 2


def test_a_pool_in_front_of_a_branch_folds_into_it() -> None:
    """The shortcut of ResNet-D: an average pool and a 1x1 convolution."""
    nodes: dict[str, Node] = {
        "in": Input((2, 8, 8)), "pool": SumPool2d((2, 2), (2, 2)), "short": Conv2d(2, 3, (1, 1), has_bias=True),
        "main": Conv2d(2, 3, (3, 3), (2, 2), (1, 1)), "if": IF(), "out": Output((3, 4, 4)),
    }  # fmt: skip
    edges = (("in", "pool"), ("pool", "short"), ("short", "if"), ("in", "main"), ("main", "if"), ("if", "out"))
    spikes = np.random.default_rng(0).random((T, 1, 2, 8, 8)) < 0.3
    sums = Levels(spikes.reshape(T, 1, 2, 4, 2, 4, 2).sum(axis=(4, 6)).astype(np.uint8), 3)
    arrivals: dict[str, Arrival] = {"pool": Spikes.pack(spikes), "main": Spikes.pack(spikes), "short": sums}
    work = lower(Network(nodes, edges), SpikeTrace(T, 1, arrivals))
    run = fold_pools(work)
    assert [layer.name for layer in run.layers] == ["short", "main"] and run["main"].branches[0] is run["short"]
    counts = counted(work, SataArch())
    assert counts.actions["short", "mac", "add"] == 3 * int(spikes.sum())
    assert counts.actions["main", "lif", "bias"] == counts.actions["main", "mac", "join"] == 48 * T


def test_a_pool_that_is_a_branch_and_is_heard_besides_stays_and_is_heard() -> None:
    """Its sums meet in the neurons of 'main'; 'side' hears them as they are, before any neuron, and folds the pool for itself."""
    nodes: dict[str, Node] = {
        "in": Input((2, 8, 8)), "pool": SumPool2d((2, 2), (2, 2)), "side": Conv2d(2, 3, (3, 3), padding=(1, 1)), "one": IF(),
        "main": Conv2d(2, 2, (3, 3), (2, 2), (1, 1)), "two": IF(), "flat": Flatten(), "fc": Linear(32, 4), "out": Output((4,)),
    }  # fmt: skip
    edges = (("in", "pool"), ("pool", "side"), ("side", "one"), ("pool", "two"), ("in", "main"), ("main", "two"),
             ("two", "flat"), ("flat", "fc"), ("fc", "out"))  # fmt: skip
    spikes = np.random.default_rng(0).random((T, 1, 2, 8, 8)) < 0.3
    sums = Levels(spikes.reshape(T, 1, 2, 4, 2, 4, 2).sum(axis=(4, 6)).astype(np.uint8), 3)
    seen = Spikes.pack(spikes)
    arrivals: dict[str, Arrival] = {"pool": seen, "main": seen, "side": sums, "fc": Spikes.pack(np.zeros((T, 1, 32)))}
    work = lower(Network(nodes, edges), SpikeTrace(T, 1, arrivals))
    assert {x.name: x.inputs for x in work.layers} == {"pool": (), "side": ("pool",), "main": (), "fc": ("main",)}
    assert [branch.name for branch in work["main"].branches] == ["pool"]
    counts = counted(work, SataArch())
    assert set(counts.layers()) == {"pool", "side", "main", "fc"}
    assert counts.actions["pool", "dram_ofmap", "write"] == counts.actions["main", "dram_psum", "read"] == 16 * 32 * T
    assert counts.actions["side", "dram_ifmap", "read"] == 128 * T  # the spikes in front of the pool


@pytest.mark.parametrize("machine", ["sata", "systolic"])
def test_maps_of_sums_that_do_not_meet_are_refused_by_name(machine: str) -> None:
    owner = layer_of([LayerCase([[[[1] * 4] * 4]] * 2, 3, (1, 1), (1, 1), (0, 0))])
    for changed in ({"K": 2}, {"P": 2, "Q": 8}, {"arrival": Spikes.pack(np.ones((3, 1, 1, 4, 4)))}):
        branch = dataclasses.replace(owner, name="short", neuron=NeuronRule("none"), joins="layer", **changed)
        work = Workload((branch, dataclasses.replace(owner, branches=(branch,))), 2, 1)
        with pytest.raises(MappingError, match=r"'short'.*meet in the neurons of 'layer'"):
            evaluate(work, load_machine(machine)[1])


@pytest.mark.parametrize("machine", ["sata", "systolic"])
@pytest.mark.parametrize("back", ["before", "behind"])
def test_recurrent_owners_and_branches_are_refused_as_before(machine: str, back: str) -> None:
    nodes: dict[str, Node] = {"in": Input((3,)), "late": Delay(1)}
    order = ("again", "forward") if back == "before" else ("forward", "again")
    nodes |= {name: Linear(3, 3) for name in order} | {"meet": IF(), "out": Output((3,))}
    edges = (
        ("in", "forward"),
        ("forward", "meet"),
        ("meet", "late"),
        ("late", "again"),
        ("again", "meet"),
        ("meet", "out"),
    )
    spikes = Spikes.pack(np.ones((T, 1, 3)))
    work = lower(Network(nodes, edges), SpikeTrace(T, 1, {"forward": spikes, "again": spikes}))
    with pytest.raises(MappingError, match="recurrent"):
        evaluate(work, load_machine(machine)[1])


def test_the_warning_on_narrow_sums_counts_owner_and_branches_together() -> None:
    """36 + 4 synapses of at most 128: 4,608 need 14 bits with a sign, 5,120 as many; with a pool of nine spikes 5,129."""

    def said(bits: int, *branches: Node) -> str:
        warnings = evaluate(worked(network(*branches)), SystolicArch(psum_bit=bits)).warnings
        return " ".join(words for words in warnings if words.startswith("psum_bit"))

    wide = Conv2d(4, 4, (3, 3), padding=(1, 1))
    assert "two" not in said(14, Conv2d(4, 4, (1, 1)), SumPool2d((3, 3), (1, 1), (1, 1)))
    assert "two" in said(14, wide) and "branch0" not in said(14, wide)  # 9,216
    assert "two" not in said(14)


@pytest.mark.parametrize(
    "machine", ["sata-tool", "spikesim-tool:stops=false", "sata-training", "sata-training:fidelity=tool"]
)
def test_estimators_that_know_no_branches_say_so_and_count_what_they_did(machine: str) -> None:
    net = network(Conv2d(4, 4, (3, 3), padding=(1, 1)))
    work = worked(net)
    arch = load_machine(machine)[1]
    apart = dataclasses.replace(
        work, layers=tuple(dataclasses.replace(layer, joins="", branches=()) for layer in work.layers)
    )
    report, before = evaluate(work, arch), evaluate(apart, arch)
    note = "sums of branch0 meet in the neurons of two and are counted as a layer of their own"
    assert note in report.warnings and note not in before.warnings
    assert [layer.counts for layer in report.layers] == [layer.counts for layer in before.layers]
    assert report.energy_j == before.energy_j


def test_spikesims_script_is_told_the_same_map_of_owner_and_branch() -> None:
    """A pool behind the joined neuron shrinks the map of neither, as when it heard both."""
    base = network(Conv2d(4, 4, (3, 3), padding=(1, 1)))
    edges = tuple(edge for edge in base.edges if edge != ("meet", "flat"))
    nodes = {**base.nodes, "pool": SumPool2d((2, 2), (2, 2)), "fc": Linear(36, 5)}
    net = Network(nodes, (*edges, ("meet", "pool"), ("pool", "flat")))
    spikes = trace_of(base)
    sums = Levels(np.zeros((T, 2, 36), np.uint8), 3)
    work = lower(
        net,
        dataclasses.replace(
            spikes, arrivals={**spikes.arrivals, "pool": Spikes.pack(np.zeros((T, 2, 4, 6, 6))), "fc": sums}
        ),
    )
    counts = counted(work, load_machine("spikesim-tool:stops=false")[1])
    assert work["pool"].inputs == ("two",)
    assert counts.actions["two", "neuron", "update"] == counts.actions["branch0", "neuron", "update"] == 36 * T * 2


def test_join_has_two_values() -> None:
    with pytest.raises(ConfigError, match="join"):
        SystolicArch(join="step")
    assert extents(LayerCase([[[[1] * 4] * 4]] * 2, 3, (2, 2), (1, 1), (0, 0))) == (3, 3, 3, 2)
