"""The count of the spikesim tiles in trace fidelity equals nested loops; pools, sums, chips of a fixed size, refusals."""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloom.core.counts import Counts
from spikeloom.core.network import Network, chain
from spikeloom.core.nodes import IF, LI, Add, AvgPool2d, Conv2d, Flatten, Input, Linear, MaxPool2d, Node
from spikeloom.core.trace import Arrival, Levels, Spikes, SpikeTrace
from spikeloom.core.workload import Layer, NeuronRule, Workload
from spikeloom.errors import ConfigError, MappingError
from spikeloom.evaluate import evaluate, load_machine
from spikeloom.hw.spikesim import Spikesim
from spikeloom.hw.spikesim_arch import PHASES, SpikesimArch
from spikeloom.lower import lower
from tests.hw.projection import projection
from tests.reference import spikesim as slow

T, N = 5, 2


@st.composite
def chips(draw: st.DrawFn) -> slow.Chip:
    return slow.Chip(
        8, draw(st.sampled_from((1, 2, 4, 9))), draw(st.integers(1, 4)), draw(st.booleans()), draw(st.booleans()),
        draw(st.sampled_from((0, 33, 75, 100))),
    )  # fmt: skip


@st.composite
def layers(draw: st.DrawFn, steps: int, samples: int, number: int) -> Layer:
    groups = draw(st.sampled_from((1, 1, 2, 5)))
    most = 10 if groups < 5 else 3
    C, K = groups * draw(st.integers(1, most)), groups * draw(st.integers(1, most))
    kernel, stride = (
        (draw(st.integers(1, 3)), draw(st.integers(1, 2))),
        (draw(st.integers(1, 2)), draw(st.integers(1, 2))),
    )
    padding, dilation = (draw(st.integers(0, 1)), draw(st.integers(0, 2))), (draw(st.integers(1, 2)), 1)
    H, W = (max(1, dilation[d] * (kernel[d] - 1) + 1 - 2 * padding[d]) + draw(st.integers(0, 2)) for d in (0, 1))
    P, Q = ((n + 2 * padding[d] - dilation[d] * (kernel[d] - 1) - 1) // stride[d] + 1 for d, n in enumerate((H, W)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    there = rng.random((steps, samples, C, H, W)) < draw(st.sampled_from((0.0, 0.05, 0.3, 1.0)))
    arrival: Arrival = Spikes.pack(there)
    if draw(st.booleans()):
        bits, signed = draw(st.integers(1, 4)), draw(st.booleans())
        values = rng.integers(1, 2**bits, there.shape) * there * (rng.choice([-1, 1], there.shape) if signed else 1)
        arrival = Levels(values.astype(np.int16), bits, signed)
    return Layer(
        f"layer{number}", "conv2d", C=C, K=K, H=H, W=W, R=kernel[0], S=kernel[1], P=P, Q=Q, arrival=arrival, stride=stride,
        padding=padding, dilation=dilation, groups=groups, weight_bits=draw(st.sampled_from((1, 4, 5, 8))),
        has_bias=draw(st.booleans()), neuron=NeuronRule(draw(st.sampled_from(("if", "lif", "li"))), None, "hard"),
        inputs=(f"layer{number - 1}",) if number else (),
    )  # fmt: skip


@st.composite
def chains(draw: st.DrawFn) -> tuple[Layer, ...]:
    steps, samples = draw(st.integers(1, 9)), draw(st.integers(1, 2))
    return tuple(draw(layers(steps, samples, number)) for number in range(draw(st.integers(1, 3))))


@st.composite
def joined(draw: st.DrawFn) -> tuple[Layer, ...]:
    """A first layer, one or two branches and their owner behind it or behind the input, and a reader: P Q of all that meets are equal."""
    row = list(draw(chains()))[:1]
    first = row[0]
    steps, samples = first.num_steps, first.num_samples
    P, Q, K = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.sampled_from((1, 3, 12, 17)))
    names = [f"branch{k}" for k in range(draw(st.integers(1, 2)))]
    for name in (*names, "owner"):
        kernel = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
        stride, dilation = (draw(st.tuples(st.integers(1, 2), st.integers(1, 2))) for _ in range(2))
        spans = [(n - 1) * stride[d] + dilation[d] * (kernel[d] - 1) + 1 for d, n in enumerate((P, Q))]
        padding = (draw(st.integers(0, (spans[0] - 1) // 2)), draw(st.integers(0, (spans[1] - 1) // 2)))
        H, W = spans[0] - 2 * padding[0], spans[1] - 2 * padding[1]
        C, rng = draw(st.sampled_from((1, 3, 12))), np.random.default_rng(draw(st.integers(0, 2**32)))
        there = rng.random((steps, samples, C, H, W)) < draw(st.sampled_from((0.0, 0.1, 0.5)))
        arrival: Arrival = Spikes.pack(there)
        if draw(st.booleans()):
            arrival = Levels((there * rng.integers(1, 4, there.shape)).astype(np.uint8), 2)
        fires = draw(st.sampled_from(("if", "lif"))) if name == "owner" else "none"
        row.append(
            Layer(
                name, "conv2d", C, K, H, W, *kernel, P, Q, arrival, stride, padding, dilation,
                groups=C if C == K and draw(st.booleans()) else 1, has_bias=draw(st.integers(0, 3)) == 0,
                neuron=NeuronRule(fires, None, "hard"), inputs=draw(st.sampled_from(((), (first.name,)))),
                joins="" if name == "owner" else "owner",
            )
        )  # fmt: skip
    row[-1] = replace(row[-1], branches=tuple(row[1:-1]))
    return (*row, replace(draw(layers(steps, samples, 9)), inputs=("owner",)))


def as_case(layer: Layer, arch: SpikesimArch, row: tuple[Layer, ...]) -> slow.Conv:
    arrival = layer.arrival
    numbers = {other.name: number for number, other in enumerate(row)}
    biased = any(other.has_bias for other in row if layer.name in (other.name, other.joins))
    values = arrival.unpack().astype(int) if isinstance(arrival, Spikes) else arrival.values
    bits, signed = (None, False) if isinstance(arrival, Spikes) else (arrival.bits, arrival.signed)
    return slow.Conv(
        values.tolist(), bits, signed, layer.K, layer.P, layer.Q, (layer.R, layer.S), layer.stride, layer.padding,
        layer.dilation, layer.groups, ceil(layer.weight_bits / arch.cell_bit), layer.neuron.leaky or biased,
        numbers[layer.inputs[0]] if layer.inputs else -1, numbers.get(layer.joins),
    )  # fmt: skip


def counted(workload: Workload, arch: SpikesimArch) -> Counts:
    machine = Spikesim()
    return machine.count(workload, arch, machine.map(workload, arch))


@settings(max_examples=120, deadline=None)
@given(chains() | joined(), chips())
def test_counts_are_those_of_nested_loops(row: tuple[Layer, ...], chip: slow.Chip) -> None:
    arch = SpikesimArch(
        size=chip.size, crossbars=chip.crossbars, pes_per_tile=chip.pes_per_tile, skip=chip.skip, share_tiles=chip.share,
        handover=chip.handover,
    )  # fmt: skip
    counts = counted(Workload(row, row[0].num_steps, row[0].num_samples), arch)
    expected, cycles = slow.count([as_case(layer, arch, row) for layer in row], chip)
    assert counts.cycles == cycles
    for layer, one in zip(row, expected, strict=True):
        found = counts.of(layer.name)
        assert counts.layer_cycles[layer.name] == one["cycles"]
        assert found["crossbar.read"] == one["reads"] * PHASES
        assert found["adc.convert"] == found["mux.select"] == one["pe_cycles"] * chip.size
        assert found["subtractor.subtract"] == one["pe_cycles"] * 2 * chip.size
        assert found["temp_buffer.access"] == one["pe_cycles"] * chip.size // 8
        assert found["tile_buffer.read"] == found["htree.transfer"] == one["pe_cycles"]
        assert found["neuron.update"] == found["memory.fetch"] == one["updates"]
        assert found["mesh.bit_hop"] == one["bit_hops"]
        assert found["crossbar.synop"] == layer.synops
        assert found.get("neuron.join", 0) == one["joins"] and ("neuron.join" in found) == bool(layer.branches)


@settings(max_examples=40, deadline=None)
@given(joined(), chips())
def test_a_silent_branch_is_free_where_silence_is_skipped(row: tuple[Layer, ...], chip: slow.Chip) -> None:
    """Without spikes and bias of its branches an owner costs what it costs alone."""

    def silent(layer: Layer) -> Layer:
        return replace(
            layer,
            arrival=Spikes.pack(np.zeros((layer.num_steps, layer.num_samples, *layer.arrival.shape))),
            has_bias=False,
        )

    arch = SpikesimArch(size=chip.size, crossbars=chip.crossbars, pes_per_tile=chip.pes_per_tile)
    first, *branches, owner, last = row
    quiet = tuple(silent(layer) for layer in branches)
    steps = (first.num_steps, first.num_samples)
    counts = counted(Workload((first, *quiet, replace(owner, branches=quiet), last), *steps), arch)
    alone = counted(
        Workload((first, *(replace(x, joins="") for x in quiet), replace(owner, branches=()), last), *steps), arch
    )
    assert counts.of("owner") == alone.of("owner") | {"neuron.join": 0}
    if all(
        layer.inputs == owner.inputs for layer in quiet
    ):  # a branch that hears another layer waits for it, and the owner with it
        assert counts.cycles == alone.cycles


def shortcut(between: int = 4, **changes: Any) -> Workload:
    """Two convolutions of one map, whose sums meet in the neurons of the second, and a reader."""
    nodes: dict[str, Node] = {
        "in": Input((2, 4, 4)), "short": Conv2d(2, 4, (1, 1)), "main": Conv2d(2, 4, (3, 3), padding=(1, 1)), "if": IF(),
        "last": Conv2d(4, 2, (1, 1)), "li": LI(),
    }  # fmt: skip
    nodes |= changes
    edges = (("in", "short"), ("in", "main"), ("short", "if"), ("main", "if"), ("if", "last"), ("last", "li"))
    return lowered(nodes, {"short": spikes(2, 4, 4), "main": spikes(2, 4, 4), "last": spikes(between, 4, 4)}, edges)


def test_sums_that_meet_have_one_word_a_membrane_and_one_subtractor_a_sum() -> None:
    work = shortcut()
    report = evaluate(work, SpikesimArch())
    arch = Spikesim().sized(work, SpikesimArch())
    assert arch.membranes == 4 * 16 + 2 * 16  # the neurons of main and of the read-out
    short, main = report.layers[0], report.layers[1]
    assert (short.counts["neuron.update"], short.counts["memory.fetch"]) == (0, 0)
    pairs = int(np.asarray(work["short"].arrival.unpack()).any(axis=2).sum())  # type: ignore[union-attr]
    assert main.counts["neuron.join"] == 4 * pairs
    subtraction = main.energy["subtractor.subtract"] / main.counts["subtractor.subtract"]
    assert main.energy["neuron.join"] == pytest.approx(4 * pairs * subtraction, rel=1e-12)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"short": AvgPool2d((1, 1), (1, 1)), "main": Conv2d(2, 2, (3, 3), padding=(1, 1)), "last": Conv2d(2, 2, (1, 1))},
         "'short': .* no tile of a avgpool2d"),
        ({"short": Add(), "main": Conv2d(2, 2, (3, 3), padding=(1, 1)), "last": Conv2d(2, 2, (1, 1))}, "'short': .* no tile of a add"),
        ({"main": Add(), "short": Conv2d(2, 2, (1, 1)), "last": Conv2d(2, 2, (1, 1))}, "'main': .* no tile of a add"),
    ],
)  # fmt: skip
def test_sums_of_what_has_no_tile_are_refused(changes: dict[str, Node], words: str) -> None:
    work = shortcut(2, **changes)
    with pytest.raises(MappingError, match=words):
        evaluate(work, SpikesimArch())


def test_sums_of_other_extents_do_not_meet() -> None:
    work = shortcut()
    short, main, last = work.layers
    odd = replace(short, P=2)
    with pytest.raises(MappingError, match=r"'short': its sums .*'P': 2.* meet in the neurons of 'main'"):
        evaluate(Workload((odd, replace(main, branches=(odd,)), last), T, N), SpikesimArch())


def spikes(*shape: int, density: float = 0.3) -> Spikes:
    return Spikes.pack(np.random.default_rng(1).random((T, N, *shape)) < density)


def lowered(nodes: dict[str, Node], arrivals: dict[str, Arrival], edges: Any = None) -> Workload:
    network = chain("n", nodes) if edges is None else Network(nodes, edges)
    return lower(network, SpikeTrace(T, N, arrivals))


def test_pools_form_levels_and_are_not_priced() -> None:
    nodes: dict[str, Node] = {
        "in": Input((2, 6, 6)), "conv": Conv2d(2, 4, (3, 3), padding=(1, 1)), "if": IF(), "pool": AvgPool2d((2, 2), (2, 2)),
        "flatten": Flatten(), "fc": Linear(36, 3), "li": LI(),
    }  # fmt: skip
    levels = Levels(np.full((T, N, 36), 3, np.uint8), 3)
    work = lowered(nodes, {"conv": spikes(2, 6, 6), "pool": spikes(4, 6, 6), "fc": levels})
    report = evaluate(work, SpikesimArch())
    assert [layer.name for layer in report.layers] == ["conv", "fc"]
    assert any("pools pool form levels" in warning for warning in report.warnings)
    # three planes, of which the level 3 = 0b011 lights two; one block of 36 rows in the one PE
    assert report.layers[1].counts["tile_buffer.read"] == 2 * T * N
    assert report.layers[1].counts["crossbar.read"] == 2 * T * N * PHASES


def test_a_sum_takes_no_crossbar_and_hands_on_where_its_inputs_lie() -> None:
    nodes: dict[str, Node] = {
        "in": Input((2, 4, 4)), "a": Conv2d(2, 4, (3, 3), padding=(1, 1)), "ifa": IF(), "b": Conv2d(2, 4, (1, 1)), "ifb": IF(),
        "add": Add(), "ifs": IF(), "last": Conv2d(4, 2, (1, 1)), "li": LI(),
    }  # fmt: skip
    edges = (("in", "a"), ("a", "ifa"), ("in", "b"), ("b", "ifb"), ("ifa", "add"), ("ifb", "add"), ("add", "ifs"),
             ("ifs", "last"), ("last", "li"))  # fmt: skip
    sums = Levels(np.full((T, N, 4, 4, 4), 2, np.uint8), 2)
    work = lowered(nodes, {"a": spikes(2, 4, 4), "b": spikes(2, 4, 4), "add": sums, "last": spikes(4, 4, 4)}, edges)
    report = evaluate(work, SpikesimArch())
    add = report.layers[2]
    assert (add.name, add.cycles, add.counts["crossbar.read"], add.counts["neuron.update"]) == ("add", 0, 0, 16 * T * N)
    # tiles 0, 1, 2 on a 2x2 square: what `last` reads comes from tiles 0 and 1, one and ... hops away
    vectors = int((work["last"].arrival.unpack().any(axis=2)).sum())  # type: ignore[union-attr]
    assert report.layers[3].counts["mesh.bit_hop"] == vectors * 4 * (1 + 2)


def test_a_chip_of_a_fixed_size_must_hold_the_network() -> None:
    nodes: dict[str, Node] = {"in": Input((200,)), "fc": Linear(200, 300), "if": IF()}
    work = lowered(nodes, {"fc": spikes(200)})
    grown = evaluate(work, SpikesimArch())
    assert grown.area_m2 is not None
    # ceil(200 / 64) = 4 row groups in one PE, ceil(300 * 2 / 64) = 10 column blocks: 10 PEs, 2 tiles
    two = evaluate(work, SpikesimArch(tiles=2, words=200, membranes=300))
    assert two.area == grown.area
    bigger = evaluate(work, SpikesimArch(tiles=3)).area_m2
    assert bigger is not None and bigger > grown.area_m2
    with pytest.raises(MappingError, match="tiles: the network needs 2, the machine has 1"):
        evaluate(work, SpikesimArch(tiles=1))
    with pytest.raises(MappingError, match="membranes: the network needs 300, the machine has 299"):
        evaluate(work, SpikesimArch(membranes=299))


def test_converters_of_a_stated_precision_cost_more_the_wider_they_are() -> None:
    work = lowered({"in": Input((20,)), "fc": Linear(20, 30), "if": IF()}, {"fc": spikes(20)})
    joules = [evaluate(work, SpikesimArch(adc_bit=bits)).by("component")["adc"] for bits in (4, 5, 6, 8)]
    assert joules == sorted(joules)
    assert joules[0] * 5.19558 == pytest.approx(joules[3] * 2.80060)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": 60}, "size: got 60, expected a multiple of 8"),
        ({"adc_bit": 3}, "adc_bit: got 3"),
        ({"pooled_maps": False}, "pooled_maps: acts in tool fidelity only"),
        ({"fidelity": "tool", "cell_bit": 2}, "cell_bit: acts in trace fidelity only"),
    ],
)
def test_fields_that_mean_nothing_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SpikesimArch(**changes)


def test_what_crossbars_cannot_run_is_refused_by_name() -> None:
    work = lowered({"in": Input((2, 4, 4)), "pool": MaxPool2d((2, 2), (2, 2)), "li": LI()}, {"pool": spikes(2, 4, 4)})
    with pytest.raises(MappingError, match="'pool': spikesim cannot run a maxpool2d layer here"):
        evaluate(work, SpikesimArch())
    layer = lowered({"in": Input((20,)), "fc": Linear(20, 30), "if": IF()}, {"fc": spikes(20)}).layers[0]
    odd = Workload((replace(layer, recurrent=True),), T, N)
    with pytest.raises(MappingError, match="cannot run a recurrent one"):
        evaluate(odd, SpikesimArch())


def test_a_depthwise_layer_lies_along_the_diagonal() -> None:
    nodes: dict[str, Node] = {"in": Input((70, 4, 4)), "dw": Conv2d(70, 70, (3, 3), groups=70), "if": IF()}
    work = lowered(nodes, {"dw": spikes(70, 4, 4, density=1.0)})
    counts = counted(work, SpikesimArch())
    # 8-bit weights in 4-bit cells: 32 groups of one row and two columns a crossbar, so 3 PEs of 9 crossbars
    assert counts.of("dw")["tile_buffer.read"] == 3 * 4 * T * N
    assert counts.of("dw")["crossbar.read"] == 3 * 9 * 4 * T * N * PHASES
    shares = Spikesim().utilisation(counts, SpikesimArch(), "dw")
    assert shares["row_use"] == 70 / 192 and shares["column_use"] == 140 / 192 and shares["pe_use"] == 1
    assert shares["weight_use"] == 70 * 9 * 2 / (27 * 64 * 64)


def test_the_tool_warns_where_its_script_would_stop() -> None:
    work = lowered({"in": Input((2, 6, 6)), "conv": Conv2d(2, 4, (3, 3)), "if": IF()}, {"conv": spikes(2, 6, 6)})
    said = evaluate(work, load_machine("spikesim-tool")[1]).warnings
    assert any("never ends on this network" in line for line in said)


def test_the_projection_shortcut_sends_the_sums_that_the_specification_states() -> None:
    work = projection()
    counts = counted(work, SpikesimArch())
    assert counts.of("2.b")["neuron.join"] == 2936
    branch = replace(work["2.d"], joins="")
    alone = counted(
        replace(work, layers=tuple(branch if x.name == "2.d" else replace(x, branches=()) for x in work.layers)),
        SpikesimArch(),
    )
    assert counts.of("2.d")["mesh.bit_hop"] - alone.of("2.d")["mesh.bit_hop"] == 46_976
    assert counts.of("4")["mesh.bit_hop"] == 3968
