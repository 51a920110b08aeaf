"""Published figures beside ours: Table II of "Are SNNs truly energy-efficient?", shares and ratios of SATA and SpikeSim."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from spikeloom.components import load_table
from spikeloom.core.arch import Component
from spikeloom.core.report import Report
from spikeloom.hw.sata_training import MEMORIES
from spikeloom.hw.sata_works import LAYER_LISTS, WORKS, Work
from spikeloom.studies.agreement import Figure, figure, published
from spikeloom.studies.validate_measured import measured_sections
from spikeloom.studies.validate_tools import ARCHIVED, sata_report, spikesim_report, training_report, training_stages

Section = tuple[str, tuple[Figure, ...]]


def sections(said: dict[str, Any]) -> Iterator[Section]:
    """All published figures. said: figures.toml."""
    yield from _table_two(said["table2"])
    figures = said["figure"]
    yield "SATA", tuple(_sata(figures))
    yield "SpikeSim", tuple(_spikesim(figures))
    yield from measured_sections()


def _ratio(work: Work, rules: str) -> tuple[float, float]:
    """Energy, and accumulations, of the baseline over those of the work."""
    runs = ((work.baseline_steps, work.baseline_sparsity), (work.num_steps, work.sparsity))
    top, bottom = (sata_report(work.layers, steps, sparsity, rules=rules) for steps, sparsity in runs)
    return top.energy_j / bottom.energy_j, _macs(top) / _macs(bottom)


def _macs(report: Report) -> float:
    return sum(layer.counts["mac.add"] for layer in report.layers)


def _table_two(said: dict[str, Any]) -> Iterator[Section]:
    columns: dict[str, list[Figure]] = {"archived": [], "head": [], "estimated": [], "spikesim": []}
    for work in WORKS:
        steps = f"T = {work.num_steps} against {work.baseline_steps}, sparsity {work.sparsity:g} against {work.baseline_sparsity:g}"
        row = {"what": work.title, "source": said["source"], "conditions": steps}
        for rules in ("archived", "head"):
            energy, macs = _ratio(work, rules)
            entry = {**row, "published": f"{work.published_ratio:g}", "why": said[f"why-{rules}"]}
            columns[rules].append(figure(entry, energy))
            if rules == "archived":
                entry = {**row, "published": said["estimated"][work.name], "why": said["why-estimated"]}
                columns["estimated"].append(figure(entry, macs))
        network = published("spikesim_ela.json")["cases"][0]["inputs"]
        top, bottom = (
            spikesim_report({**network, "time_steps": steps}).energy_j
            for steps in (work.baseline_steps, work.num_steps)
        )
        entry = {
            **row,
            "published": said["spikesim"][work.name],
            "conditions": f"{steps}; the script's VGG9, any would do",
        }
        columns["spikesim"].append(figure(entry, top / bottom))
    yield "Table II, SATA: energy ratios by the tool's archived rules", tuple(columns["archived"])
    yield "Table II, SATA: the same by its rules at head", tuple(columns["head"])
    yield "Table II, SpikeSim: energy ratios by the script", tuple(columns["spikesim"])
    yield "Table II, estimated: ratios of accumulations", tuple(columns["estimated"])


def _sata(figures: dict[str, Any]) -> Iterator[Figure]:
    table = load_table("sata28")

    def power(kind: str) -> float:
        part = Component(kind, width_bit=8)
        return table.energy(part, "op").value + table.energy(part, "clock").value

    yield figure(figures["lif-share"], power("lif") / (power("lif") + power("spike_mac")))
    yield figure(figures["break-even"], break_even())
    fixed = {"lost_macs": False, "dense_linear": False, "skipped_output": False}
    dense, sparse = (
        sum(pj for stage, pj in training_stages(training_report(8, 16, **given, **fixed)).items() if stage.endswith("comp"))
        for given in ({"sp_s": 0.0, "sp_du": 0.0}, {"sp_s": 0.9, "sp_du": 0.7})
    )  # fmt: skip
    yield figure(figures["training-sparsity"], dense / sparse)
    for name, bits in (("training-filter-dram", 16), ("training-filter-dram-8", 8)):
        yield figure(figures[name], filter_dram_share(training_report(8, bits, sp_s=0.9, sp_du=0.7)))


def _spikesim(figures: dict[str, Any]) -> Iterator[Figure]:
    network = published("spikesim_ela.json")["cases"][0]["inputs"]
    area = spikesim_report(network).area or {}
    share = area["membranes"] / sum(area.values())  # the script's memory holds those of five layers
    yield figure(figures["spikesim-neuron-area"], share)
    four, one = (spikesim_report({**network, "time_steps": steps}).edp_js for steps in (4, 1))
    yield figure(figures["spikesim-edp"], four / one)


def break_even() -> float:
    """Time steps at which the archived VGG9 SNN costs what its ANN does, on the line through T = 2 and T = 4."""

    def joules(name: str) -> float:
        steps, sparsity, fields = ARCHIVED[name]
        return sata_report(LAYER_LISTS["vgg9"], steps, sparsity, rules="archived", **fields).energy_j

    ann, two, four = (joules(name) for name in ("eyeriss-8bit ANN (T=1, act sparsity 0.5)", "sata T2", "sata T4"))
    return 2 + 2 * (ann - two) / (four - two)


def filter_dram_share(report: Report) -> float:
    """Weights from DRAM forward, from and to DRAM in the update, over the energy of all memories."""
    spent = report.by("action")
    memory = sum(joules for key, joules in spent.items() if key.split(".")[1] in MEMORIES)
    weights = sum(layer.counts["update.dram"] for layer in report.layers) / 2
    accesses = sum(layer.counts["forward.dram"] for layer in report.layers)
    return (spent["update.dram"] + spent["forward.dram"] * weights / accesses) / memory
