"""What each priced action is for: neurons, DRAM, SRAM or computing. Every instance of every machine is listed; none is guessed."""

from __future__ import annotations

from collections.abc import Mapping

from spikeloom.components import load_table
from spikeloom.core.arch import AbstractArch
from spikeloom.core.efficiency import SHARES, Share
from spikeloom.core.report import Report
from spikeloom.cost import standing
from spikeloom.errors import CostError

#: Model -> instance, or ``instance.action`` where an instance does several things, -> what it is for.
PURPOSES: Mapping[str, Mapping[str, Share]] = {
    "spikex": {
        "array": "compute",
        "pe": "compute",
        "pe.update": "neuron",
        "pe.leak": "neuron",
        "vmem": "neuron",
        "lbuf_weight": "sram",
        "lbuf_act": "sram",
        "glb_weight": "sram",
        "glb_act": "sram",
        "dram": "dram",
        "dram_weight": "dram",
        "dram_act": "dram",
        "dram_out": "dram",
    },
}
#: Model -> instances that only move weights.
WEIGHTS: Mapping[str, frozenset[str]] = {"spikex": frozenset({"lbuf_weight", "glb_weight", "dram_weight"})}
#: Model -> (instance, kind of component) of the logic of neurons, which several can share; states cannot be shared.
NEURON_LOGIC: Mapping[str, frozenset[tuple[str, str]]] = {"spikex": frozenset({("pe", "comparator")})}


def share_of(model: str, key: str) -> Share:
    """What ``instance.action`` of a machine is for. Raises CostError for an instance that is not listed."""
    instance, action = key.split(".")
    if action == "leakage":
        return "leakage"
    purposes = PURPOSES.get(model, {})
    found = purposes.get(key) or purposes.get(instance)
    if found is None:
        raise CostError(
            f"{model}: nothing says what '{key}' is for; expected one of {', '.join(purposes) or 'no instance at all'}; list it in "
            "spikeloom.studies.shares"
        )
    return found


def shares(report: Report) -> dict[Share, float]:
    """Fractions of the energy, which sum to 1 (all 0 where nothing is spent)."""
    spent = dict.fromkeys(SHARES, 0.0)
    for key, joules in report.by("action").items():
        spent[share_of(report.model, key)] += joules
    total = sum(spent.values())
    return {share: joules / total if total else 0.0 for share, joules in spent.items()}


def weight_energy(report: Report) -> float:
    """Joules per inference of moving weights. Raises CostError for a machine of which it is not listed."""
    if report.model not in WEIGHTS:
        raise CostError(
            f"{report.model}: nothing says which instances move weights; list them in spikeloom.studies.shares"
        )
    moved = (joules for key, joules in report.by("action").items() if key.split(".")[0] in WEIGHTS[report.model])
    return sum(moved) / report.num_samples


def neuron_logic(arch: AbstractArch) -> tuple[float, float]:
    """(watts leaked, square metres) of the logic of neurons that several neurons can share; 0 where it is not priced."""
    parts = tuple(p for p in arch.inventory() if (p.instance, p.component.kind) in NEURON_LOGIC.get(arch.model, ()))
    table = load_table(arch.table)
    watts, area = standing(parts, table.leakage, "leakage")[0], standing(parts, table.area, "area")[0]
    return sum(watts.values()), sum(area.values())
