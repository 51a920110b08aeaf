"""The loihi machine against SANA-FE 2.2.9: every case of the micro file, chips drawn at random, the DVS-gesture network.

The drawn chips have what the micro file has not: partial leaks, soft resets, groups over several cores and tiles, parallel edges, loops.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from benchmarks import loihi_dvs

from spikeloom.core.arch import Mapping
from spikeloom.core.report import Report
from spikeloom.core.trace import Spikes
from spikeloom.core.workload import Workload
from spikeloom.emulate import emulate
from spikeloom.evaluate import evaluate, load_workload
from spikeloom.files.store import write_trace
from spikeloom.hw.loihi_arch import LoihiArch
from spikeloom.lower import lower
from tests.reference.chip_networks import ChipCase, ChipEdges, ChipGroup
from tests.reference.folder import reference_file

MICRO = reference_file("sanafe_micro.json")
CASES: list[dict[str, Any]] = json.loads(MICRO.read_text())["cases"] if MICRO.is_file() else []


DRAWN = json.loads((Path(__file__).parents[1] / "reference" / "sanafe_chips.json").read_text())["cases"]


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


def check(case: dict[str, Any]) -> None:
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


@pytest.mark.skipif(not CASES, reason="needs the reference folder (SPIKELOOM_REFERENCE, or beside SPIKELOOM_DATA)")
@pytest.mark.parametrize("case", CASES, ids=[case["case"] for case in CASES])
def test_every_micro_case_equals_sanafe(case: dict[str, Any]) -> None:
    check(case)


@pytest.mark.parametrize("case", DRAWN, ids=[case["case"] for case in DRAWN])
def test_chips_drawn_at_random_equal_sanafe(case: dict[str, Any]) -> None:
    check(case)


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


# --- the DVS-gesture network -------------------------------------------------------------------------------------

DVS = Path(os.environ.get("SPIKELOOM_DATA", "absent")) / loihi_dvs.FILE
needs_dvs = pytest.mark.skipif(not DVS.is_file(), reason=f"needs SPIKELOOM_DATA with {loihi_dvs.FILE}")
FIRED = (3064, 2867, 7453, 19091, 5735, 40)
UPDATED = (37632, 299864, 400464, 548054, 65124, 1283)


@lru_cache(maxsize=1)
def dvs() -> Workload:
    """The network in chip time, once for all tests."""
    network, pixels = loihi_dvs.dvs_network(DVS)
    return lower(network, emulate(network, pixels, loihi_dvs.STEPS))


def counted(spikes: Spikes | None) -> int:
    assert spikes is not None
    return int(spikes.events().sum())


def events_of(workload: Workload) -> int:
    """Synapse events, with a weight of 0 a synapse."""
    return sum(replace(layer, weight=None).synops for layer in workload.layers[1:])


@needs_dvs
def test_the_dvs_network_fires_and_updates_as_in_sanafe() -> None:
    workload = dvs()
    assert [layer.name for layer in workload.layers] == list(loihi_dvs.LAYERS)
    assert tuple(counted(layer.out) for layer in workload.layers) == FIRED
    assert tuple(counted(layer.updates) for layer in workload.layers) == UPDATED
    assert (sum(FIRED), sum(UPDATED), events_of(workload)) == (38_250, 1_352_421, 5_462_418)


@needs_dvs
def test_without_a_step_per_layer_the_dvs_network_does_something_else() -> None:
    """The figures that the specification gives for it; counting such a trace with the shift is not the chip's run."""
    network, pixels = loihi_dvs.dvs_network(DVS)
    workload = lower(network, emulate(network, pixels, loihi_dvs.STEPS, delay=0))
    assert sum(counted(layer.out) for layer in workload.layers) == 39_513
    assert events_of(workload) == 5_603_236
    arch = LoihiArch(limits="warn")
    report = evaluate(workload, arch, mapping=loihi_dvs.placed(workload, loihi_dvs.SPLITS[0].cores))
    assert total(report, "synapse.event") == 5_603_236
    assert total(report, "soma.access") == 18_678 * (loihi_dvs.STEPS + 5)  # five layers work a step later each


@needs_dvs
@pytest.mark.parametrize("split", loihi_dvs.SPLITS, ids=lambda split: "-".join(map(str, split.cores)))
def test_four_placements_of_the_dvs_network_equal_sanafe(split: loihi_dvs.Split) -> None:
    """To the digits that are given: ten for joules, eight for seconds; messages, hops and tiles exactly."""
    workload = dvs()
    mapping = loihi_dvs.placed(workload, split.cores)
    report = evaluate(workload, LoihiArch(limits="warn"), mapping=mapping)
    spent = energies(report)
    expected = {
        "total": split.total_j, "synapse": loihi_dvs.SYNAPSE_J, "soma": loihi_dvs.SOMA_J, "network": split.network_j,
    }  # fmt: skip
    for what, joules in expected.items():
        assert spent[what] == pytest.approx(joules, rel=1e-9), what
    assert report.latency_s == pytest.approx(split.time_s, rel=1e-9)
    assert total(report, "axon.out") == total(report, "axon.in") == split.packets
    assert (total(report, "router.hop_x"), total(report, "router.hop_y")) == (split.hops_x, split.hops_y)
    assert total(report, "synapse.event") == 5_462_418
    assert mapping.placement is not None
    assert len({place.tile for place in mapping.placement.places}) == split.tiles
