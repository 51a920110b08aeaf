"""The loihi machine against SANA-FE 2.2.9: every case of the micro file, and the DVS-gesture network on four placements."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from spikeloom.core.arch import Mapping
from spikeloom.core.report import Report
from spikeloom.evaluate import evaluate, load_workload
from spikeloom.files.store import write_trace
from spikeloom.hw.loihi_arch import LoihiArch
from spikeloom.lower import lower
from tests.reference.chip_networks import ChipCase, ChipEdges, ChipGroup

REFERENCE = os.environ.get("SPIKELOOM_REFERENCE", "")
MICRO = Path(REFERENCE or "absent") / "sanafe_micro.json"
CASES: list[dict[str, Any]] = json.loads(MICRO.read_text())["cases"] if MICRO.is_file() else []


def total(report: Report, action: str) -> int:
    return sum(layer.counts.get(action, 0) for layer in report.layers)


def energies(report: Report) -> dict[str, float]:
    """Joules in SANA-FE's words."""
    spent = report.by("component")
    return {
        "total": report.energy_j,
        "synapse": spent.get("synapse", 0.0),
        "dendrite": 0.0,
        "soma": spent.get("soma", 0.0),
        "network": spent.get("axon", 0.0) + spent.get("router", 0.0),
    }


def chip_of(case: dict[str, Any]) -> ChipCase:
    """A case of the micro file; without a list of edges the first group feeds the second, all to all."""
    groups = [
        ChipGroup(name, size, attributes, [tuple(place) for place in places])
        for name, size, attributes, places in case["groups"]
    ]
    sizes = {group.name: group.size for group in groups}
    listed = case.get("edges")
    if listed is None:
        listed = [[groups[0].name, groups[1].name, "all"]] if len(groups) > 1 else []
        assert case["n_edges"] == (groups[0].size * groups[1].size if listed else 0)
    edges = []
    for source, target, pairs in listed:
        if pairs == "all":
            pairs = [(i, j) for i in range(sizes[source]) for j in range(sizes[target])]
        edges.append(ChipEdges(source, target, [(p[0], p[1], p[2] if len(p) > 2 else 1.0) for p in pairs]))
    return ChipCase(groups, edges, case["T"])


@pytest.mark.skipif(not CASES, reason="needs SPIKELOOM_REFERENCE: the folder with sanafe_micro.json")
@pytest.mark.parametrize("case", CASES, ids=[case["case"] for case in CASES])
def test_every_micro_case_equals_sanafe(case: dict[str, Any]) -> None:
    """Energies within 1e-9, simple times within 1e-12, all counts equal."""
    chip, expected = chip_of(case), case["results"]["simple"]
    network = chip.network()
    workload = lower(network, chip.trace(network))
    arch = LoihiArch(zero_weights="skipped", limits="warn")
    report = evaluate(workload, arch, mapping=Mapping("loihi", {}, chip.placement(network)))
    for what, joules in energies(report).items():
        assert joules == pytest.approx(expected["energy"][what], rel=1e-9, abs=0), what
    assert report.latency_s == pytest.approx(expected["sim_time"], rel=1e-12, abs=0)
    assert total(report, "synapse.event") == expected["spikes"]
    assert total(report, "axon.out") == total(report, "axon.in") == expected["packets_sent"]
    assert total(report, "soma.update") == expected["neurons_updated"]
    assert total(report, "soma.spike_out") == expected["neurons_fired"]


def test_a_case_survives_its_file(tmp_path: Path) -> None:
    """Neurons that several layers feed are counted once, also from a file."""
    groups = [ChipGroup(name, 2, {"bias": 1.0, "threshold": 0.5}, [(0, n)]) for n, name in enumerate("ab")]
    groups.append(ChipGroup("c", 3, {"threshold": 1e9}, [(1, 0)]))
    every = [(i, j, 1.0) for i in range(2) for j in range(3)]
    chip = ChipCase(groups, [ChipEdges("a", "c", every), ChipEdges("b", "c", every)], 4)
    network = chip.network()
    trace = chip.trace(network)
    write_trace(tmp_path / "chip.npz", network, trace, weights=True)
    reports = []
    for workload in (lower(network, trace), load_workload(tmp_path / "chip.npz")):
        arch = LoihiArch(zero_weights="skipped")
        reports.append(evaluate(workload, arch, mapping=Mapping("loihi", {}, chip.placement(network))))
    assert reports[0].layers == reports[1].layers
    assert total(reports[0], "soma.access") == 4 * (2 + 2 + 3)
    assert total(reports[0], "synapse.event") == 4 * 12
