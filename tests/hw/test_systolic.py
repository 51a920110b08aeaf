"""The dense array: closed forms equal the walk through folds and cycles, as integers; zeros, widths, refusals."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloom.core.counts import Counts
from spikeloom.core.network import Network, chain
from spikeloom.core.nodes import (
    IF,
    Add,
    AvgPool2d,
    Conv2d,
    Flatten,
    Input,
    Linear,
    MaxPool2d,
    Node,
    Output,
    ReLU,
    SumPool2d,
    window_out,
)
from spikeloom.core.trace import Arrival, Levels, Spikes, SpikeTrace
from spikeloom.core.workload import Layer, NeuronRule, Workload
from spikeloom.errors import ConfigError, CostError, MappingError
from spikeloom.evaluate import evaluate, load_machine
from spikeloom.hw.systolic import Systolic, SystolicArch, multiplier_bit
from spikeloom.lower import lower
from spikeloom.units import to_si
from tests.hw.test_spikex import layer_of
from tests.reference import spikex as cases
from tests.reference import systolic as slow
from tests.reference.cases import layer_cases

SIZES = ("ifmap", "weight", "ofmap")


@st.composite
def knob_sets(draw: st.DrawFn) -> slow.Knobs:
    """One machine; buffers and bandwidth are drawn so small that every limit is met on both sides."""
    small = st.sampled_from((32.0, 0.004, 0.01, 0.03, 0.1, 0.3))
    return slow.Knobs(
        rows=draw(st.integers(1, 6)),
        cols=draw(st.integers(1, 6)),
        dataflow=draw(st.sampled_from(("ws", "os", "is"))),
        gating=draw(st.booleans()),
        ifmap_kib=draw(small),
        weight_kib=draw(small),
        ofmap_kib=draw(small),
        psum_bit=draw(st.sampled_from((24, 16, 32))),
        membrane_bit=draw(st.sampled_from((16, 12))),
        dram_bandwidth_gb_s=draw(st.sampled_from((30.0, 0.7, 0.1))),
        clock_mhz=draw(st.sampled_from((400.0, 333.3))),
        stateful=draw(st.booleans()),
        result_bit=draw(st.sampled_from((1, 4, 8))),
    )


def arch_of(knobs: slow.Knobs) -> SystolicArch:
    """The machine with the reference's knobs, and PEs that take everything the cases hold."""
    fields = dataclasses.asdict(knobs)
    fields |= {name: to_si(fields.pop(f"{name}_kib"), "kib") for name in SIZES}
    fields["dram_bandwidth"] = to_si(fields.pop("dram_bandwidth_gb_s"), "gb_s")
    fields["clock"] = to_si(fields.pop("clock_mhz"), "mhz")
    del fields["stateful"]
    return SystolicArch(**fields | {"out_bit": fields.pop("result_bit"), "mac_bit": 16})


def fast_counts(work: Workload, arch: SystolicArch) -> Counts:
    machine = Systolic()
    return machine.count(work, arch, machine.map(work, arch))


def alone(layer: Layer) -> Workload:
    return Workload((layer,), layer.num_steps, layer.num_samples)


def expected_names(found: dict[str, int], layer: Layer, level_bits: int) -> dict[str, int]:
    """The reference's MACs under the names of the machine."""
    if isinstance(layer.arrival, Spikes):
        return found | {"pe.ac": found.pop("nonzero")} | {"multiply": found.pop("multiply") * 0}
    width = multiplier_bit(level_bits, layer.weight_bits)
    return found | {"pe.mac": found.pop("nonzero"), f"pe.multiply_{width}": found.pop("multiply")}


def compare(case: cases.LayerCase, knobs: slow.Knobs, repeats: int) -> None:
    layer = layer_of([case] * repeats)
    kind = "li" if knobs.stateful else "relu"
    layer = dataclasses.replace(layer, neuron=NeuronRule(kind, None, "none"))
    counts = fast_counts(alone(layer), arch_of(knobs))
    expected = expected_names(slow.count(case, knobs), layer, case.level_bits + case.signed)
    expected.pop("multiply", None)
    found = {**counts.of("layer"), "cycles": counts.layer_cycles["layer"]}
    assert found == {key: n * repeats for key, n in expected.items()}
    assert counts.cycles == counts.layer_cycles["layer"]


@settings(max_examples=250, deadline=None)
@given(layer_cases(max_steps=3), knob_sets(), st.integers(1, 2))
def test_counts_equal_the_walk(case: cases.LayerCase, knobs: slow.Knobs, repeats: int) -> None:
    if case.constant_steps is not None:
        case = dataclasses.replace(case, constant_steps=min(3, case.constant_steps))
    compare(case, knobs, repeats)


@pytest.mark.parametrize("dataflow", ["ws", "os", "is"])
def test_a_case_that_meets_every_limit_at_once(dataflow: str) -> None:
    """Maps, weights, sums and membranes too large for their buffers, in one grouped, strided, padded layer."""
    case = cases.LayerCase(
        [[[[(t + c + h + w) % 3 for w in range(5)] for h in range(6)] for c in range(4)] for t in range(2)],
        6, (3, 2), (2, 1), (1, 1), groups=2, level_bits=2,
    )  # fmt: skip
    tiny = slow.Knobs(rows=4, cols=2, dataflow=dataflow, ifmap_kib=0.004, weight_kib=0.004, ofmap_kib=0.004)
    compare(case, tiny, 2)
    counts = slow.count(case, tiny)
    kept = slow.count(case, slow.Knobs(rows=4, cols=2, dataflow=dataflow))
    assert counts["dram_weight.read"] > kept["dram_weight.read"] and counts["dram_membrane.read"] > 0
    assert (counts["dram_ifmap.read"] > kept["dram_ifmap.read"]) == (dataflow != "is")
    assert (counts["dram_psum.read"] > 0) == (dataflow != "os")
    assert counts["array.cycles"] == kept["array.cycles"]


def test_a_product_by_hand() -> None:
    """3 pixels, 4 synapses, 2 filters on 2 x 2 PEs.

    os: 2 folds of 4 + 2 + 2 - 2 cycles. ws: 2 folds of 2 x 2 + 2 + 3 - 2. is: 2 x 2 folds of 2 x 2 + 2 + 2 - 2.
    """
    image = Levels(np.array([1, 0, 2, 3, 0, 1], np.uint8).reshape(1, 1, 1, 1, 6), 2)
    node = Conv2d(1, 2, (1, 4))
    layer = lower(chain("n", {"in": Input((1, 1, 6)), "conv": node}), SpikeTrace(1, 1, {"conv": image})).layers[0]
    found = {}
    for flow in ("os", "ws", "is"):
        counts = fast_counts(alone(layer), SystolicArch(rows=2, cols=2, dataflow=flow, psum_bit=10)).of("conv")
        names = ("array.cycles", "glb_ifmap.read", "glb_weight.read", "glb_ofmap.read")
        found[flow] = tuple(counts[name] for name in names)
        # windows 1 0 2 3, 0 2 3 0, 2 3 0 1 meet two filters
        assert (counts["pe.mac"], counts["pe.zero"]) == (2 * 8, 2 * 4)
    # 12 activations of 2 bits a pass, 8 weights of 8 bits, 6 results of 8 bits and 6 sums of 10
    assert found == {
        "os": (2 * 6, 12 * 2, 2 * 64, 48),
        "ws": (2 * 7, 12 * 2, 64, 48 + 60),
        "is": (4 * 6, 12 * 2, 2 * 64, 48 + 60),
    }


# --- the vector unit

POOLS: dict[str, Node] = {
    "sumpool2d": SumPool2d((2, 2), (2, 2)),
    "avgpool2d": AvgPool2d((3, 2), (2, 1), (1, 1)),
    "maxpool2d": MaxPool2d((3, 3), (2, 2)),
}


@pytest.mark.parametrize("bits", [1, 3])
@pytest.mark.parametrize("kind", POOLS)
def test_pools_are_priced_element_by_element(kind: str, bits: int) -> None:
    node = POOLS[kind]
    drawn = np.random.default_rng(1).integers(0, 2**bits, (2, 3, 5, 7, 8)).astype(np.uint8)
    arrival: Arrival = Spikes.pack(drawn) if bits == 1 else Levels(drawn, bits)
    layer = lower(chain("n", {"in": Input((5, 7, 8)), "layer": node}), SpikeTrace(2, 3, {"layer": arrival})).layers[0]
    counts = fast_counts(alone(layer), SystolicArch(cols=3, dram_bandwidth=8e9))
    knobs = slow.Knobs(cols=3, result_bit=8, dram_bandwidth_gb_s=1.0)
    kernel, stride = (layer.R, layer.S), layer.stride
    expected = slow.vector(kind, (5, 7, 8), kernel, stride, layer.padding, 2, 1, bits, knobs)
    assert {**counts.of("layer"), "cycles": counts.cycles} == {key: 3 * n for key, n in expected.items()}


def test_neurons_behind_a_pool_keep_their_membranes() -> None:
    """Spikes that a pool sums meet IF neurons: T updates, T - 1 membranes written and read."""
    spikes = Spikes.pack(np.random.default_rng(5).random((4, 2, 3, 6, 6)) < 0.4)
    nodes: dict[str, Node] = {"in": Input((3, 6, 6)), "layer": SumPool2d((2, 2), (2, 2)), "if": IF()}
    layer = lower(chain("n", nodes), SpikeTrace(4, 2, {"layer": spikes})).layers[0]
    found = {size: fast_counts(alone(layer), SystolicArch(ofmap=size)).of("layer") for size in (864.0, 863.0)}
    outputs, membranes = 27 * 4 * 2, 27 * 16 * 3 * 2
    for size, spilled in ((864.0, 0), (863.0, membranes)):  # half of the buffer holds 27 membranes of 16 bits, or not
        assert found[size]["out.update"] == outputs and "out.quantise" not in found[size]
        assert found[size]["dram_membrane.read"] == found[size]["dram_membrane.write"] == spilled
        assert found[size]["glb_ofmap.read"] == found[size]["glb_ofmap.write"] == outputs + membranes + spilled


def residual() -> tuple[Network, SpikeTrace]:
    """Two convolutions side by side and their sum, one image of 4-bit activations."""
    nodes: dict[str, Node] = {
        "in": Input((3, 6, 6)),
        "left": Conv2d(3, 4, (3, 3), padding=(1, 1)),
        "right": Conv2d(3, 4, (1, 1)),
        "sum": Add(),
        "relu": ReLU(),
        "flatten": Flatten(),
        "fc": Linear(144, 10),
        "out": Output((10,)),
    }
    edges = (
        ("in", "left"), ("in", "right"), ("left", "sum"), ("right", "sum"), ("sum", "relu"), ("relu", "flatten"),
        ("flatten", "fc"), ("fc", "out"),
    )  # fmt: skip
    rng = np.random.default_rng(2)

    def levels(*shape: int) -> Levels:
        return Levels(rng.integers(0, 16, (1, 2, *shape)).astype(np.uint8), 4)

    arrivals = {"left": levels(3, 6, 6), "right": levels(3, 6, 6), "sum": levels(4, 6, 6), "fc": levels(144)}
    return Network(nodes, edges), SpikeTrace(1, 2, arrivals)


def test_a_sum_of_two_maps_reads_both() -> None:
    counts = fast_counts(lower(*residual()), SystolicArch())
    knobs = slow.Knobs(cols=8, result_bit=4)
    expected = slow.vector("add", (4, 6, 6), (1, 1), (1, 1), (0, 0), 1, 2, 4, knobs)
    found = {**counts.of("sum"), "cycles": counts.layer_cycles["sum"]}
    assert found == {key: 2 * n for key, n in expected.items()}


def test_outputs_have_the_bits_that_the_layer_behind_receives() -> None:
    counts = fast_counts(lower(*residual()), SystolicArch(out_bit=6))
    written = {name: counts.actions[name, "dram_ofmap", "write"] for name in counts.layers()}
    assert written == {"left": 2 * 144 * 4, "right": 2 * 144 * 4, "sum": 2 * 144 * 4, "fc": 2 * 10 * 6}


def pooled(bits: int) -> Workload:
    nodes: dict[str, Node] = {"in": Input((2, 8, 8)), "pool": SumPool2d((2, 2), (2, 2)), "conv": Conv2d(2, 3, (3, 3))}
    rng = np.random.default_rng(3)
    full = rng.integers(0, 2**bits, (2, 1, 2, 8, 8)).astype(np.uint8)
    sums = full.reshape(2, 1, 2, 4, 2, 4, 2).sum(axis=(4, 6)).astype(np.uint8)
    trace = SpikeTrace(2, 1, {"pool": Levels(full, bits), "conv": Levels(sums, bits + 2)})
    return lower(chain("n", nodes), trace)


def test_a_folded_pool_is_a_larger_kernel_whose_weights_are_stored_once() -> None:
    work = pooled(2)
    apart, folded = fast_counts(work, SystolicArch()), fast_counts(work, SystolicArch(fold_pool=True))
    assert apart.layers() == ("pool", "conv") and folded.layers() == ("conv",)
    assert sum(folded.statistics["conv", key] for key in ("macs",)) == 4 * apart.statistics["conv", "macs"]
    assert folded.actions["conv", "dram_weight", "read"] == apart.actions["conv", "dram_weight", "read"] == 3 * 18 * 8
    tight = SystolicArch(fold_pool=True, weight=to_si(0.1, "kib"), rows=2)  # 432 bits stored, 1728 if repeats were
    assert fast_counts(work, tight).actions["conv", "dram_weight", "read"] == 2 * 2 * 432
    assert fast_counts(work, SystolicArch(fold_pool=True, weight=864.0)).actions["conv", "dram_weight", "read"] == 432


# --- what a MAC costs


def ann(bits: int, zeros: float, weight_bits: int = 8) -> Workload:
    """One linear layer behind a ReLU, T = 1."""
    rng = np.random.default_rng(4)
    drawn = rng.integers(1, 2**bits, (1, 3, 40)) * (rng.random((1, 3, 40)) >= zeros)
    nodes: dict[str, Node] = {"in": Input((40,)), "fc": Linear(40, 9, weight_bits=weight_bits), "relu": ReLU()}
    trace = SpikeTrace(1, 3, {"fc": Levels(drawn.astype(np.uint16), bits)})
    return lower(chain("n", nodes), trace)


def test_gating_saves_the_arithmetic_of_zeros_and_nothing_else() -> None:
    work = ann(8, 0.75)
    plain, gated = (evaluate(work, SystolicArch(gating=gating)) for gating in (False, True))
    assert plain.cycles == gated.cycles and plain.layers[0].utilisation == gated.layers[0].utilisation
    share = plain.layers[0].utilisation["nonzero"]
    assert 0 < share < 0.5
    arithmetic = [sum(r.layers[0].energy[f"pe.{a}"] for a in ("mac", "zero", "multiply_8")) for r in (plain, gated)]
    assert arithmetic[1] == pytest.approx(share * arithmetic[0], rel=1e-12)
    rest = [r.energy_j - joules for r, joules in zip((plain, gated), arithmetic, strict=True)]
    assert rest[1] == pytest.approx(rest[0], rel=1e-12)


def test_gating_looks_at_activations_not_at_weights() -> None:
    work = ann(8, 0.5)
    pruned = dataclasses.replace(work.layers[0], weight=np.zeros((9, 40, 1, 1)))
    assert fast_counts(alone(pruned), SystolicArch(gating=True)).actions == fast_counts(work, SystolicArch(gating=True)).actions  # fmt: skip


@pytest.mark.parametrize(("level", "weight", "width"), [(8, 8, 8), (4, 8, 6), (3, 8, 5), (2, 8, 4), (2, 2, 4), (16, 16, 16), (1, 1, 4), (9, 8, 9)])  # fmt: skip
def test_the_multiplier_has_at_least_the_cells_of_the_operands(level: int, weight: int, width: int) -> None:
    assert multiplier_bit(level, weight) == width
    assert width**2 >= level * weight


def test_fewer_bits_cost_less_and_spikes_need_no_multiplier() -> None:
    costs = [evaluate(ann(bits, 0.0), SystolicArch()).by("component")["pe"] for bits in (8, 4, 2)]
    assert costs == sorted(costs, reverse=True) and costs[0] > 1.5 * costs[-1]
    spikes = Spikes.pack(np.ones((1, 3, 40)))
    layer = dataclasses.replace(ann(1, 0.0).layers[0], arrival=spikes.reshape((40, 1, 1)))
    counts = fast_counts(alone(layer), SystolicArch())
    assert not any(action.startswith("multiply") for _, _, action in counts.actions)
    assert counts.actions["fc", "pe", "ac"] == 3 * 40 * 9


def test_an_ann_of_one_step_keeps_no_membrane_and_frames_run_one_after_another() -> None:
    one, frames = ann(4, 0.3), ann(4, 0.3)
    assert isinstance(frames.layers[0].arrival, Levels)
    repeated = Levels(np.repeat(frames.layers[0].arrival.values, 5, axis=0), 4)
    five = alone(dataclasses.replace(frames.layers[0], arrival=repeated))
    first, all_ = fast_counts(one, SystolicArch()), fast_counts(five, SystolicArch())
    assert all_.cycles == 5 * first.cycles
    for key in ("pe.mac", "glb_ifmap.read", "dram_ofmap.write", "out.quantise"):
        assert all_.of("fc")[key] == 5 * first.of("fc")[key]
    assert all_.of("fc")["dram_weight.read"] == first.of("fc")["dram_weight.read"]  # they fit and stay
    assert all_.of("fc")["dram_membrane.read"] == 0


def test_the_eyeriss_pe_is_charged_by_operation_and_by_cycle() -> None:
    """0.26803 + 6.9944 pJ an operation, (0.16745 + 0.048875 + 2.9976) pJ a PE and cycle."""
    _, arch = load_machine("systolic-eyeriss")
    layer = evaluate(ann(8, 0.0), arch).layers[0]
    assert layer.energy["pe.mac"] == pytest.approx(layer.counts["pe.mac"] * 7.262425e-12, rel=1e-9)
    assert layer.energy["array.cycles"] == pytest.approx(layer.counts["array.cycles"] * 128 * 3.213925e-12, rel=1e-9)
    assert layer.energy["pe.multiply_8"] == 0


# --- refused


@pytest.mark.parametrize(
    ("changes", "bits", "weight_bits", "words"),
    [({"mac_bit": 8}, 9, 8, "activations have 9 bits"), ({"mac_bit": 8}, 8, 16, "weights have 16 bits"), ({"pe": "eyeriss", "mac_bit": 16}, 8, 9, "take 8")],
)  # fmt: skip
def test_operands_too_wide_for_a_pe_are_refused_by_name(
    changes: dict[str, Any], bits: int, weight_bits: int, words: str
) -> None:
    with pytest.raises(MappingError, match=f"'fc'.*{words}"):
        evaluate(ann(bits, 0.0, weight_bits), SystolicArch(**changes))


def test_wide_and_signed_operands_are_multiplied_at_their_width() -> None:
    """Sums of pooled 8-bit activations have 10 bits; a sign is a bit to multiply and move, but not one to refuse."""
    assert evaluate(ann(10, 0.0), SystolicArch()).layers[0].counts["pe.multiply_9"] > 0
    pixels = Levels(np.full((1, 3, 40, 1, 1), -200, np.int16), 8, signed=True, analog=True)
    layer = dataclasses.replace(ann(8, 0.0).layers[0], arrival=pixels)
    for arch in (SystolicArch(mac_bit=8), load_machine("systolic-eyeriss")[1]):
        report = evaluate(alone(layer), arch)
        assert report.layers[0].counts["pe.multiply_9"] == report.layers[0].counts["pe.mac"] == 3 * 40 * 9
        assert report.layers[0].counts["dram_ifmap.read"] == 3 * 40 * 9


def test_narrow_sums_are_warned_about() -> None:
    warnings = evaluate(ann(8, 0.0), SystolicArch(psum_bit=16)).warnings
    assert any("psum_bit = 16" in said and "22 bits would not" in said for said in warnings)
    assert not any("psum_bit" in said for said in evaluate(ann(8, 0.0), SystolicArch()).warnings)


def test_pruned_weights_are_said_to_cost_like_others() -> None:
    layer = dataclasses.replace(ann(8, 0.0).layers[0], weight=np.eye(9, 40).reshape(9, 40, 1, 1))
    assert any("zero weights of fc (98%)" in said for said in evaluate(alone(layer), SystolicArch()).warnings)


def test_fields_and_tables_are_checked() -> None:
    with pytest.raises(ConfigError, match="dataflow"):
        SystolicArch(dataflow="row")
    with pytest.raises(MappingError, match="dataflow table"):
        evaluate(ann(8, 0.0), SystolicArch(dataflow={"fc2": "ws"}))
    with pytest.raises(CostError, match="sram"):
        evaluate(ann(8, 0.0), SystolicArch(ifmap=to_si(1024, "kib")))


def test_each_layer_may_have_its_dataflow() -> None:
    work = lower(*residual())
    flows = {"left": "ws", "right": "is", "sum": "os", "fc": "os"}
    mixed = fast_counts(work, SystolicArch(dataflow=flows))
    for name, flow in flows.items():
        assert mixed.layer_cycles[name] == fast_counts(work, SystolicArch(dataflow=flow)).layer_cycles[name]


def test_padding_is_part_of_the_product() -> None:
    """P Q C R S K MACs; those on padding are zeros."""
    full = Levels(np.full((1, 1, 2, 4, 4), 5, np.uint8), 4)
    node = Conv2d(2, 3, (3, 3), padding=(1, 1))
    layer = lower(chain("n", {"in": Input((2, 4, 4)), "conv": node}), SpikeTrace(1, 1, {"conv": full})).layers[0]
    found = fast_counts(alone(layer), SystolicArch()).of("conv")
    assert found["pe.mac"] + found["pe.zero"] == 16 * 18 * 3
    assert found["pe.mac"] == layer.dense_synops() < 16 * 18 * 3
    assert found["glb_ifmap.write"] == 2 * 6 * 6 * 4 and found["dram_ifmap.read"] == 2 * 4 * 4 * 4
    assert window_out(4, 3, 1, 1, 1) == 4
