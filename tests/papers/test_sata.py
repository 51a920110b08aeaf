"""SATA_Sim's own numbers, reproduced: five networks at its head, six rows of a published table, six archived results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from benchmarks.sata_cases import quirk_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloom.core.report import Report
from spikeloom.errors import ConfigError, MappingError
from spikeloom.evaluate import evaluate
from spikeloom.hw.sata_arch import QUIRKS, SataArch
from spikeloom.hw.sata_tool import LayerTraffic, ToolLayer, layer_traffic, tool_workload
from spikeloom.hw.sata_works import LAYER_LISTS, WORKS
from spikeloom.studies.agreement import published
from tests.reference.folder import cases_of
from tests.reference.sata_tool import passes

REFERENCE: dict[str, Any] = published("sata_inference.json")
CASES = {case["name"]: case for case in cases_of("sata_inference.json", REFERENCE)}
CHAIN = {row["work"]: row for row in REFERENCE["table_II_chain"]}
TRAFFIC = {
    "dram_filter_reads": "DRAM Filter Reads", "dram_ifmap_reads": "DRAM IFMAP Reads",
    "dram_ofmap_writes": "DRAM OFMAP Writes", "sram_filter_reads": "SRAM Filter Reads",
    "sram_ifmap_reads": "SRAM IFMAP Reads", "sram_ofmap_writes": "SRAM OFMAP Writes",
    "filter_cycles": "SRAM Filter Cycles", "ifmap_cycles": "SRAM IFMAP Cycles",
    "ofmap_cycles": "SRAM OFMAP Cycles", "start_cycle": "SRAM OFMAP Start Cycle",
}  # fmt: skip


def report_of(layers: Any, num_steps: int, sparsity: float, **fields: Any) -> Report:
    arch = SataArch(fidelity="tool", sparsity=sparsity, **fields)
    return evaluate(tool_workload(layers, num_steps), arch)


def energies_nj(report: Report, names: tuple[str, str, str]) -> dict[str, float]:
    """A report in the words of the tool's two result files."""
    by = {key: joules * 1e9 for key, joules in report.by("action").items()}
    found = {}
    for name, instance, action in zip(names, ("mac", "lif", "spad"), ("add", "update", "access"), strict=True):
        found[f"{name}.energy-operation"] = by[f"{instance}.{action}"]
        found[f"{name}.energy-ungated"] = by[f"{instance}.clock"]
        found[f"{name}.energy-leakage"] = by[f"{instance}.leakage"]
    for name, action in (("ifmap", "read"), ("weight", "read"), ("ofmap", "write")):
        found[f"DRAM-system.{name}"] = by[f"dram_{name}.{action}"]
        found[f"GLB-{name}.{name}-dynamic"] = by[f"glb_{name}.{action}"]
        found[f"GLB-{name}.{name}-leakage"] = by[f"glb_{name}.leakage"]
    return found


def printed(result: dict[str, Any]) -> dict[str, float]:
    both = {**result["computation_energy_nJ"], **result["memory_energy_nJ"]}
    return {
        f"{group}.{key}": value
        for group, items in both.items()
        if isinstance(items, dict)
        for key, value in items.items()
        if not key.endswith("total")
    }


@pytest.mark.parametrize("name", CASES)
def test_every_figure_of_the_tool_at_its_head(name: str) -> None:
    case = CASES[name]
    layers, steps = case["inputs"]["layers"], case["inputs"]["T"]
    arch = SataArch(fidelity="tool", sparsity=case["inputs"]["sparsity"])
    for layer, expected in zip(tool_workload(layers, steps).layers, case["per_layer_counts"], strict=True):
        traffic = layer_traffic(layer, arch)
        assert {word: getattr(traffic, key) for key, word in TRAFFIC.items()} == expected, layer.name
    report = report_of(layers, steps, case["inputs"]["sparsity"])
    counts = {key: sum(layer.counts[key] for layer in report.layers) for key in ("mac.add", "lif.update")}
    assert counts["mac.add"] == case["computation_energy_nJ"]["total_mac_ops"]
    assert counts["lif.update"] == case["computation_energy_nJ"]["total_activation_ops"]
    assert report.cycles == case["total_cycles"]
    assert report.latency_s * 1e3 == pytest.approx(case["latency_ms_at_400MHz"], rel=1e-9)
    assert energies_nj(report, ("spike-mac", "lif", "spad")) == pytest.approx(printed(case), rel=1e-9)
    assert report.energy_j * 1e9 == pytest.approx(case["total_nJ"], rel=1e-9)


@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.name)
def test_the_chain_behind_the_published_table(work: Any) -> None:
    row = CHAIN[work.name]
    ours = {
        "algorithm": report_of(work.layers, work.num_steps, work.sparsity, rules="archived"),
        "baseline": report_of(work.layers, work.baseline_steps, work.baseline_sparsity, rules="archived"),
    }
    for kind, report in ours.items():
        shipped = row["shipped"][kind]
        assert report.energy_j * 1e9 == pytest.approx(shipped["total_nJ"], rel=2e-10)
        assert report.cycles == pytest.approx(shipped["total_cycles"], rel=1e-12)
        parts = {"comp_nJ": ("mac", "spad", "lif"), "dram_nJ": ("dram",), "sram_nJ": ("glb",)}
        for key, instances in parts.items():
            spent = sum(joules for name, joules in report.by("component").items() if name.startswith(instances))
            assert spent * 1e9 == pytest.approx(shipped[key], rel=2e-10)
    ratio = ours["baseline"].energy_j / ours["algorithm"].energy_j
    assert ratio == pytest.approx(row["energy_ratio"], rel=2e-10)
    assert ratio == pytest.approx(work.published_ratio, rel=0.04)


def test_the_rules_at_head_give_another_ratio() -> None:
    work = next(work for work in WORKS if work.name == "tdbn")
    ours = report_of(work.layers, work.num_steps, work.sparsity)
    baseline = report_of(work.layers, work.baseline_steps, work.baseline_sparsity)
    assert baseline.energy_j / ours.energy_j == pytest.approx(12.8, abs=0.1)


_T8 = dict(pe="spike-288", glb_ifmap=8 * 8192.0, ofmap_steps="every")
ARCHIVED: dict[str, tuple[int, float, dict[str, Any]]] = {
    "eyeriss-8bit ANN (T=1, act sparsity 0.5)": (1, 0.5, {"pe": "mac8"}),
    "sata T2": (2, 0.9, {**_T8, "act_bit": 2}),
    "sata T4": (4, 0.9, {**_T8, "act_bit": 4}),
    "sata T8": (8, 0.9, {**_T8, "act_bit": 8}),
    "dvs_ann (8-bit, T=10)": (10, 0.5, {"pe": "mac8-dvs", "ofmap_steps": "every"}),
    "dvs_snn T=10": (10, 0.9, {**_T8, "act_bit": 10}),
}


@pytest.mark.parametrize("result", REFERENCE["archived_ann_vs_snn"], ids=lambda result: result["name"])
def test_archived_networks_against_their_ann(result: dict[str, Any]) -> None:
    steps, sparsity, fields = ARCHIVED[result["name"]]
    report = report_of(LAYER_LISTS["vgg9"], steps, sparsity, rules="archived", **fields)
    ann = fields["pe"].startswith("mac8")
    found = energies_nj(report, ("mac", "relu", "spad") if ann else ("spike-mac", "lif", "spad"))
    assert found == pytest.approx(printed(result), rel=1e-9)
    assert report.energy_j * 1e9 == pytest.approx(result["total_nJ"], rel=1e-9)


def test_the_kept_layer_lists_are_those_of_the_tool() -> None:
    for name, network in (("default", "resnet19"), ("bntt", "vgg9"), ("direct", "cifarnet")):
        assert tuple(ToolLayer(*line) for line in CASES[name]["inputs"]["layers"]) == LAYER_LISTS[network]


def test_a_tool_report_says_so_and_which_quirks_are_corrected() -> None:
    report = report_of(LAYER_LISTS["vgg9"], 4, 0.9, wide_access=False)
    assert any("tool fidelity" in said and "wide_access corrected" in said for said in report.warnings)
    assert len(QUIRKS) == 11


def test_the_card_tabulates_each_quirk_corrected_in_turn() -> None:
    card = (Path(__file__).parents[2] / "docs" / "models" / "sata.md").read_text(encoding="utf-8")
    shown = card.split("<!-- quirks -->")[1].split("<!-- /quirks -->")[0].strip().splitlines()[2:]
    expected = [
        f"| `{name}` | {cycles:,.0f} | {joules * 1e3:.3f} mJ | {100 * (share - 1):+.1f} % |"
        for name, cycles, joules, share in quirk_rows()
    ]
    assert shown == expected


@settings(max_examples=150, deadline=None)
@given(
    st.tuples(st.integers(1, 6), st.integers(1, 6)), st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.integers(1, 4), st.integers(1, 9), st.integers(1, 3), st.integers(1, 5), st.integers(1, 4), st.integers(1, 3),
)  # fmt: skip
def test_the_closed_forms_are_what_the_two_passes_ask_for_cycle_by_cycle(
    size: tuple[int, int],
    kernel: tuple[int, int],
    channels: int,
    filters: int,
    stride: int,
    rows: int,
    cols: int,
    hundreds: int,
) -> None:
    H, W = (max(a, b) for a, b in zip(size, kernel, strict=True))
    arch = SataArch(
        fidelity="tool", rows=rows, cols=cols, glb_ifmap=hundreds * 800.0, sparsity=0.5, glb_ofmap=800.0 * 8192
    )
    (layer,) = tool_workload([("Conv", H, W, *kernel, channels, filters, stride)], 1).layers
    expected = passes(H, W, *kernel, channels, filters, stride, rows, cols, 50 * hundreds)
    traffic = layer_traffic(layer, arch)
    assert {key: getattr(traffic, key) for key in expected} == expected


def small(**fields: Any) -> LayerTraffic:
    (layer,) = tool_workload([("Conv", 6, 6, 3, 3, 4, 5, 1)], 2).layers
    return layer_traffic(layer, SataArch(fidelity="tool", sparsity=0.5, **fields))


def test_each_corrected_quirk_does_what_the_card_says() -> None:
    """4 channels of 6x6 to 5 filters, 3x3: 16 positions without padding, 36 with, V = 36."""
    tool = small()
    assert (tool.sram_ifmap_reads, small(unpadded_maps=False).sram_ifmap_reads) == (16 * 36, 36 * 36)
    assert small(filter_pass=False).filter_cycles == 0 < tool.filter_cycles
    assert small(over_count=False).sram_ofmap_writes == 16 * 5 == tool.sram_ofmap_writes - 24
    assert small(glb_ifmap=800.0, byte_spikes=False).dram_ifmap_reads <= small(glb_ifmap=800.0).dram_ifmap_reads
    layers, fields = (
        [("Conv", 6, 6, 3, 3, 4, 5, 1)],
        ("ifmap_once", "ofmap_dram_once", "no_decay", "one_bank", "wide_access"),
    )
    as_is = report_of(layers, 2, 0.5)
    changed = {name: report_of(layers, 2, 0.5, **{name: False}) for name in fields}
    count = {name: report.layers[0].counts for name, report in changed.items()}
    for key in ("glb_ifmap.read", "dram_ifmap.read"):
        assert count["ifmap_once"][key] == 2 * as_is.layers[0].counts[key]
    assert count["ofmap_dram_once"]["dram_ofmap.write"] == 2 * as_is.layers[0].counts["dram_ofmap.write"]
    assert (as_is.layers[0].counts["lif.decay"], count["no_decay"]["lif.decay"]) == (0, 5 * 36 * 2)
    leaks = {name: report.by("component") for name, report in (("tool", as_is), *changed.items())}
    assert leaks["one_bank"]["glb_weight leakage"] == pytest.approx(2 * leaks["tool"]["glb_weight leakage"])
    assert changed["one_bank"].area_m2 == pytest.approx(as_is.area_m2)
    wide, narrow = as_is.by("action")["glb_ifmap.read"], changed["wide_access"].by("action")["glb_ifmap.read"]
    assert wide / narrow == pytest.approx(11.0295 / 2.55095)
    dearer = report_of(layers, 2, 0.5, write_as_read=False).by("action")["dram_ofmap.write"]
    assert dearer / as_is.by("action")["dram_ofmap.write"] == pytest.approx(0.468771 / 0.468762)


def test_the_tool_refuses_what_it_would_price_without_its_work() -> None:
    with pytest.raises(MappingError, match="'pool1'"):
        tool_workload([("pool1", 6, 6, 2, 2, 4, 4, 2)], 2)
    with pytest.raises(ConfigError, match="one_sparsity"):
        report_of(LAYER_LISTS["vgg9"][:1], 1, 0.5, one_sparsity=False)
    twice = [("Conv", 6, 6, 3, 3, 4, 5, 1)] * 2
    with pytest.raises(ConfigError, match="holds no spikes"):
        report_of(LAYER_LISTS["vgg9"][:1], 1, -1.0)
    with pytest.raises(MappingError, match="named twice"):
        report_of(twice, 2, 0.5)


#: SATA_Sim, results/TT-SNN/res-34/stt/cycle-stat.yaml and workloads/tt-snn/workload_stt_res34.yaml: layers with the kernels
#: of a tensor-train ResNet-34 as (map, kernel, channels, filters), and what the tool found, in the order of FOUND.
FOUND = (
    "dram_filter_reads", "dram_ifmap_reads", "dram_ofmap_writes", "filter_cycles", "sram_filter_reads",
    "ifmap_cycles", "sram_ifmap_reads", "ofmap_cycles", "start_cycle", "sram_ofmap_writes",
)  # fmt: skip
TENSOR_TRAIN = (
    ((48, 3, 3, 2, 64), (1152, 4608, 135431, 32325, 1152, 42540, 304704, 42542, 17, 160960)),
    ((48, 1, 1, 64, 24), (1536, 442368, 55303, 25777, 1536, 37144, 442368, 37088, 63, 65664)),
    ((48, 3, 1, 24, 24), (1728, 189450, 52999, 31459, 1728, 38908, 476928, 38844, 71, 62928)),
    ((48, 3, 1, 22, 22), (1452, 170188, 48583, 31459, 1452, 36424, 437184, 36364, 65, 58512)),
    ((48, 1, 3, 22, 22), (1452, 153763, 48583, 31459, 1452, 36424, 437184, 36364, 65, 58512)),
    ((48, 1, 1, 22, 64), (1408, 405504, 147463, 35145, 1408, 50680, 405504, 50666, 21, 175104)),
    ((48, 3, 1, 17, 17), (867, 127234, 37543, 24721, 867, 30214, 337824, 30164, 50, 47472)),
    ((48, 1, 3, 17, 17), (867, 118701, 37543, 24721, 867, 30214, 337824, 30164, 50, 47472)),
    ((48, 1, 3, 12, 12), (432, 55656, 26503, 11245, 432, 16000, 158976, 15968, 35, 33120)),
    ((24, 3, 1, 22, 22), (1452, 12672, 11616, 7939, 1452, 8704, 104544, 8644, 65, 13992)),
    ((24, 1, 1, 128, 31), (3968, 294912, 17863, 19049, 3968, 21592, 294912, 21471, 127, 21312)),
    ((1, 1, 1, 512, 101), (51712, 512, 101, 16200, 51712, 6919, 6656, 6412, 526, 413)),
)


@pytest.mark.parametrize(("shape", "found"), TENSOR_TRAIN)
def test_odd_kernels_of_another_shipped_result(shape: tuple[int, ...], found: tuple[int, ...]) -> None:
    size, *rest = shape
    (layer,) = tool_workload([("Conv" if size > 1 else "FC", size, size, *rest, 1)], 6).layers
    traffic = layer_traffic(layer, SataArch(fidelity="tool", sparsity=0.9))
    assert {key: getattr(traffic, key) for key in FOUND} == dict(zip(FOUND, found, strict=True))
