"""What each priced action is for: neurons, DRAM, SRAM or computing. Every instance of every machine is listed; none is guessed."""

from __future__ import annotations

from collections.abc import Mapping

from spikeloom.components import load_table
from spikeloom.core.arch import AbstractArch
from spikeloom.core.efficiency import SHARES, Share
from spikeloom.core.report import Report
from spikeloom.cost import standing
from spikeloom.errors import CostError

#: Share -> instances, or ``instance.action`` where an instance does several things, by model.
_LISTED: Mapping[str, Mapping[Share, tuple[str, ...]]] = {
    "spikex": {
        "compute": ("array", "pe"),
        "neuron": ("pe.update", "pe.leak", "vmem"),
        "sram": ("lbuf_weight", "lbuf_act", "glb_weight", "glb_act", "glb_psum"),
        "dram": ("dram", "dram_weight", "dram_act", "dram_out", "dram_psum"),
    },
    "sata": {
        "compute": ("mac", "spad"),
        "neuron": ("lif",),
        "sram": ("glb_ifmap", "glb_weight", "glb_ofmap"),
        "dram": ("dram_ifmap", "dram_weight", "dram_ofmap"),
    },
    "systolic": {  # an ANN's "neuron" is what rescales, rounds and rectifies
        "compute": ("array", "pe", "vector"),
        "neuron": ("out",),
        "sram": ("glb_ifmap", "glb_weight", "glb_ofmap"),
        "dram": ("dram", "dram_ifmap", "dram_weight", "dram_ofmap", "dram_psum", "dram_membrane"),
    },
    "spikesim": {  # wires count as memory; weights never move
        "compute": ("crossbar", "adc", "mux", "subtractor"),
        "neuron": ("neuron",),
        "sram": ("temp_buffer", "tile_buffer", "htree", "memory", "mesh"),
    },
    "loihi": {
        "compute": ("synapse",),
        "neuron": ("soma",),
        "sram": ("axon", "router", "link"),
    },  # messages as wires; weights never move
    "edge": {"compute": ("device",)},  # a whole stick: what its parts draw was not measured
}
PURPOSES: Mapping[str, Mapping[str, Share]] = {
    model: {name: share for share, names in listed.items() for name in names} for model, listed in _LISTED.items()
}
#: Model -> instances that only move weights.
WEIGHTS: Mapping[str, frozenset[str]] = {
    "spikex": frozenset({"lbuf_weight", "glb_weight", "dram_weight"}),
    "sata": frozenset({"glb_weight", "dram_weight"}),
    "systolic": frozenset({"glb_weight", "dram_weight"}),
    "spikesim": frozenset(),
    "loihi": frozenset(),
    "edge": frozenset(),
}
#: Machines that fetch weights once for all steps, or never, as they are.
BATCHES_STEPS = frozenset({"loihi", "sata", "spikesim"})
#: Machines that run the ANN whatever the trace holds: nothing breaks even there.
RUNS_THE_ANN = frozenset({"edge"})
#: Model -> (instance, kind of component) of the logic of neurons, which several neurons can share.
NEURON_LOGIC: Mapping[str, frozenset[tuple[str, str]]] = {
    "spikex": frozenset({("pe", "comparator")}),
    "sata": frozenset({("lif", "lif")}),
    "systolic": frozenset({("out", "adder"), ("out", "comparator")}),
    "spikesim": frozenset({("neuron", "neuron")}),
    "loihi": frozenset(),
    "edge": frozenset(),
}
#: Model -> actions of that logic that are paid for each unit and cycle, whether it works or not.
ALWAYS_ON: Mapping[str, frozenset[str]] = {"sata": frozenset({"lif.clock"})}


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
    """Joules per inference of moving weights, what their memories leak left out. Raises CostError for a machine of which it is not listed."""
    if report.model not in WEIGHTS:
        raise CostError(
            f"{report.model}: nothing says which instances move weights; list them in spikeloom.studies.shares"
        )
    actions = report.by("action").items()
    weights = WEIGHTS[report.model]
    moved = (spent for key, spent in actions if key.split(".")[0] in weights and not key.endswith(".leakage"))
    return sum(moved) / report.num_samples


def neuron_logic(arch: AbstractArch, report: Report) -> tuple[float, float]:
    """(joules per inference of leaking and being clocked, square metres) of the logic of neurons; 0 where it is not priced."""
    parts = tuple(p for p in arch.inventory() if (p.instance, p.component.kind) in NEURON_LOGIC.get(arch.model, ()))
    table = load_table(arch.table)
    watts, area = standing(parts, table.leakage, "leakage")[0], standing(parts, table.area, "area")[0]
    clocked = sum(joules for key, joules in report.by("action").items() if key in ALWAYS_ON.get(arch.model, ()))
    return sum(watts.values()) * report.latency_per_inference_s + clocked / report.num_samples, sum(area.values())
