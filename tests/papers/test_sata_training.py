"""SATA_Sim's training estimator: its own cases to 1e-9, its quirks one by one, real spikes against walking every synapse."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloom.components import load_table
from spikeloom.core.report import Report
from spikeloom.core.trace import Levels, Spikes
from spikeloom.core.workload import Layer, Workload
from spikeloom.cost import unit_prices
from spikeloom.errors import ConfigError, MappingError
from spikeloom.evaluate import evaluate
from spikeloom.hw import HARDWARE
from spikeloom.hw.sata_arch import SataArch
from spikeloom.hw.sata_training import SataTraining, SataTrainingArch, TrainingLayer, tool_workload
from spikeloom.studies.agreement import published
from tests.reference import sata_training as slow

RUNS: dict[str, Any] = published("sata_training.json")
LAYERS = [TrainingLayer(*layer) for layer in RUNS["layers"]]
#: The tool's names of what the machine counts.
NAMES = {
    "lif": "forward.lif", "mac_fwd": "forward.ac", "pgu": "backward.gradient", "mac_bwd": "backward.product",
    "mac_wup": "update.accumulate",
    **{f"{memory}_{short}": f"{stage}.{memory}"
       for short, stage in (("fwd", "forward"), ("bwd", "backward"), ("wup", "update"))
       for memory in ("dram", "glb", "spad")},
}  # fmt: skip
COMPUTE = {"forward": ("ac", "lif"), "backward": ("product", "gradient"), "update": ("accumulate",)}
MAC_PJ = 0.2779


def report(num_steps: int = 8, layers: list[TrainingLayer] = LAYERS, **fields: Any) -> Report:
    given = {"fidelity": "tool", "sp_s": 0.9, "sp_du": 0.7, "sp_df": 0.6, **fields}
    return evaluate(tool_workload(layers, num_steps), SataTrainingArch(**given))


def totals(found: Report) -> tuple[dict[str, float], dict[str, float]]:
    """Counts and pJ over layers by ``stage.action``."""
    counts = {key: sum(layer.counts[key] for layer in found.layers) for key in NAMES.values()}
    return counts, {key: 1e12 * sum(layer.energy[key] for layer in found.layers) for key in NAMES.values()}


def stages(pj: dict[str, float]) -> dict[str, float]:
    """pJ of computing and of memory per stage, in the tool's words."""
    found = {}
    for stage, short in (("forward", "fwd"), ("backward", "bwd"), ("update", "wup")):
        found[f"{short}_comp"] = sum(pj[f"{stage}.{action}"] for action in COMPUTE[stage])
        found[f"{short}_mem"] = sum(pj[f"{stage}.{memory}"] for memory in ("dram", "glb", "spad"))
    return found


@pytest.mark.parametrize("case", RUNS["cases"], ids=lambda case: "-".join(str(x) for x in case["inputs"].values()))
def test_every_figure_of_the_tools_own_cases(case: dict[str, Any]) -> None:
    inputs = case["inputs"]
    found = report(
        inputs["T"], fwd_bit=inputs["fwd_b"], **{key: inputs[key] for key in ("sp_s", "sp_du", "sp_df")} | {}
    )
    counts, pj = totals(found)
    assert {name: counts[key] for name, key in NAMES.items()} == pytest.approx(case["counts"], rel=1e-9)
    arch = SataTrainingArch(fwd_bit=inputs["fwd_b"])
    joules, _ = unit_prices([tuple(key.split(".")) for key in NAMES.values()], arch, load_table(arch.table))  # type: ignore[misc]
    unit_pj = {name: 1e12 * joules[tuple(key.split("."))] for name, key in NAMES.items()}  # type: ignore[index]
    assert unit_pj == pytest.approx(case["unit_energy_pJ"], rel=1e-9)
    assert {name: pj[key] for name, key in NAMES.items()} == pytest.approx(case["energy_pJ"], rel=1e-9)
    assert stages(pj) == pytest.approx(case["stage_pJ"], rel=1e-9)
    assert found.energy_j * 1e12 == pytest.approx(case["total_pJ"], rel=1e-9)
    assert found.energy_j * 1e12 / MAC_PJ == pytest.approx(case["total_MAC_units"], rel=1e-9)
    assert found.by("component")["forward"] * 1e12 / MAC_PJ == pytest.approx(case["fwd_MAC_units"], rel=1e-9)


def test_a_report_says_whose_figures_it_holds() -> None:
    assert any("fidelity = 'tool'" in said for said in report().warnings)
    assert any("lower bound" in said for said in report().warnings)
    assert report().area is None


FIXED = {"lost_macs": False, "dense_linear": False, "skipped_output": False}


def test_compute_energy_without_the_three_bugs() -> None:
    """Figures of a re-derivation with the convolutions kept, sparsity in linear layers and the read-out counted."""

    def compute(**fields: Any) -> list[float]:
        found = stages(totals(report(**FIXED, **fields))[1])
        return [found[f"{short}_comp"] for short in ("fwd", "bwd", "wup")]

    sparse = compute()
    assert sparse == pytest.approx([2.240e6, 4.483e7, 2.121e6], rel=3e-4)
    assert sum(compute(sp_s=0.0, sp_du=0.0)) / sum(sparse) == pytest.approx(3.89, abs=0.005)


def test_what_each_quirk_does() -> None:
    with_all = totals(report(fwd_bit=2))[0]

    def changed(**fields: Any) -> dict[str, float]:
        found = totals(report(fwd_bit=2, **fields))[0]
        return {key: found[key] / n for key, n in with_all.items() if found[key] != pytest.approx(n, rel=1e-12)}

    conv, linear = 58_392_576 * 8, 8_388_608 * 8
    assert changed(lost_macs=False) == pytest.approx({"forward.ac": (0.1 * conv + linear) / linear})
    without = changed(dense_linear=False)
    assert without == pytest.approx(
        {
            "forward.ac": 0.1,
            "backward.product": 0.3 * (conv + linear) / (0.3 * conv + linear),
            "update.accumulate": 0.1 * (conv + linear) / (0.1 * conv + linear),
        }
    )
    assert set(changed(skipped_output=False)) == set(NAMES.values())
    assert changed(ignored_sp_df=False) == pytest.approx({"backward.gradient": 0.4})
    assert set(changed(forward_packing=False)) == {"backward.dram", "backward.glb", "update.glb", "update.spad"}
    assert set(changed(input_map=False)) == set(), "E = H in every layer of this network"
    strided = [TrainingLayer("conv", 2, 3, 3, 8, 4)]
    products = [totals(report(1, strided, input_map=quirk))[0]["backward.product"] for quirk in (True, False)]
    assert products[0] == pytest.approx(4 * products[1])


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_totals_of_any_layer_file_equal_the_walk_over_it(data: st.DataObject) -> None:
    small = st.integers(1, 9)
    conv = st.tuples(st.just("conv"), small, small, small, small, small)
    dense = st.tuples(st.sampled_from(("linear", "out_linear")), small, small)
    layers = data.draw(st.lists(conv | dense, min_size=1, max_size=5))
    steps, bit = data.draw(small), data.draw(st.integers(1, 16))
    s, du = (Fraction(data.draw(st.integers(0, 10)), 10) for _ in "sd")
    expected = slow.tool(layers, steps, bit, s, du)
    found = report(steps, [TrainingLayer(*each) for each in layers], fwd_bit=bit, sp_s=float(s), sp_du=float(du))
    counts, _ = totals(found)
    assert {name: counts[key] for name, key in NAMES.items()} == pytest.approx(
        {name: float(n) for name, n in expected.items()}, rel=1e-12, abs=1e-9
    )


@st.composite
def layers_and_cases(draw: st.DrawFn) -> tuple[Layer, slow.Case]:
    groups = draw(st.integers(1, 2))
    inner, outer, T = (draw(st.integers(1, 3)) for _ in range(3))
    (R, S), stride, padding = ((draw(st.integers(low, 3)), draw(st.integers(low, 3))) for low in (1, 1, 0))
    H, W = (draw(st.integers(max(1, kernel - 2 * pad), 6)) for kernel, pad in zip((R, S), padding, strict=True))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    bits = draw(st.sampled_from((1, 1, 3)))
    levels = rng.integers(0, 2**bits, (T, inner * groups, H, W)) * (rng.random((T, inner * groups, H, W)) < 0.5)
    weight = rng.integers(-1, 2, (outer * groups, inner, R, S))
    P, Q = ((size + 2 * p - k) // u + 1 for size, p, k, u in zip((H, W), padding, (R, S), stride, strict=True))
    arrival = Spikes.pack(levels[:, None]) if bits == 1 else Levels(levels[:, None].astype(np.uint8), bits)
    layer = Layer("layer", "conv2d", inner * groups, outer * groups, H, W, R, S, P, Q, arrival, stride, padding,
                  groups=groups, weight=weight)  # fmt: skip
    return layer, slow.Case(levels.tolist(), weight.tolist(), (P, Q), stride, padding, groups, bits)


@settings(max_examples=150, deadline=None)
@given(layers_and_cases(), st.integers(1, 16))
def test_counts_of_real_spikes_equal_the_walk_over_every_synapse(both: tuple[Layer, slow.Case], fwd_bit: int) -> None:
    layer, case = both
    arch, machine = SataTrainingArch(fwd_bit=fwd_bit), SataTraining()
    work = Workload((layer,), layer.num_steps, 1)
    counts = machine.count(work, arch, machine.map(work, arch))
    assert counts.of("layer") == slow.count(case, fwd_bit)
    assert not counts.expected
    array = HARDWARE["sata"]
    forward = array.count(work, SataArch(), array.map(work, SataArch()))
    assert counts.of("layer")["forward.ac"] == forward.of("layer")["mac.add"]
    two = replace(layer, arrival=twice(layer))
    doubled = machine.count(Workload((two,), layer.num_steps, 2), arch, machine.map(work, arch))
    assert doubled.of("layer") == {key: 2 * n for key, n in counts.of("layer").items()}


def twice(layer: Layer) -> Spikes | Levels:
    """The arrival of a layer, two samples of it."""
    arrival = layer.arrival
    if isinstance(arrival, Spikes):
        return replace(arrival, packed=np.repeat(arrival.packed, 2, axis=1))
    return replace(arrival, values=np.repeat(arrival.values, 2, axis=1))


def test_given_gradient_sparsities_scale_the_backward_pass_and_are_marked() -> None:
    rng = np.random.default_rng(0)
    layer = Layer("a", "linear", 6, 4, 1, 1, 1, 1, 1, 1, Spikes.pack(rng.random((5, 2, 6, 1, 1)) < 0.4))
    work, machine = Workload((layer,), 5, 2), SataTraining()
    plain, sparse = (
        machine.count(work, arch, machine.map(work, arch))
        for arch in (SataTrainingArch(), SataTrainingArch(sp_du=0.75, sp_df=0.5))
    )
    assert (plain.expected, sparse.expected) == (False, True)
    assert sparse.of("a") == plain.of("a") | {"backward.product": 6 * 4 * 5 * 2 / 4, "backward.gradient": 4 * 5 * 2 / 2}
    by_layer = SataTrainingArch(sp_du={"a": 0.75}, sp_df={"a": 0.5})
    assert machine.count(work, by_layer, machine.map(work, by_layer)) == sparse
    with pytest.raises(MappingError, match="sp_du table must name every layer"):
        evaluate(work, SataTrainingArch(sp_du={"b": 0.5}))


def test_tool_fidelity_takes_one_mean_sparsity_of_a_trace() -> None:
    layer = Layer("a", "conv2d", 1, 1, 2, 2, 1, 1, 2, 2, Spikes.pack(np.array([[[[[1, 0], [0, 0]]]]])))
    work, machine = (
        Workload((layer, replace(layer, name="b", arrival=Spikes.pack(np.ones((1, 1, 1, 2, 2))))), 1, 1),
        SataTraining(),
    )
    arch = SataTrainingArch(fidelity="tool")
    counts = machine.count(work, arch, machine.map(work, arch))
    assert [counts.of(name)["forward.ac"] for name in "ab"] == pytest.approx([4 * 5 / 8] * 2)


def test_bad_descriptions_are_refused() -> None:
    with pytest.raises(ConfigError, match="sp_s, lost_macs: acts in tool fidelity only"):
        SataTrainingArch(sp_s=0.5, lost_macs=False)
    with pytest.raises(ConfigError, match=r"layer 1: got .*expected conv, linear or out_linear"):
        tool_workload([TrainingLayer("pool", 1, 1)], 4)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="of at least 1"):
        tool_workload([TrainingLayer("conv", 1, 1, 3, 0, 4)], 4)
    pool = Layer("pool", "maxpool2d", 1, 1, 2, 2, 2, 2, 1, 1, Spikes.pack(np.ones((1, 1, 1, 2, 2))))
    with pytest.raises(MappingError, match="no convolution"):
        evaluate(Workload((replace(pool, neuron=replace(pool.neuron, kind="none")),), 1, 1), SataTrainingArch())
    with pytest.raises(MappingError, match="layer 'pool': sata-training has no rule for a maxpool2d layer"):
        evaluate(Workload((pool,), 1, 1), SataTrainingArch())


@pytest.mark.parametrize("fidelity", ["trace", "tool"])
def test_a_layer_list_is_not_taken_for_silence(fidelity: str) -> None:
    with pytest.raises(ConfigError, match="holds no spikes"):
        evaluate(tool_workload(LAYERS, 4), SataTrainingArch(fidelity=fidelity))
