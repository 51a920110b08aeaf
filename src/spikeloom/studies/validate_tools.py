"""What tools print, number by number: SATA_Sim's inference and training, SpikeSim's ELA script, SCALE-Sim."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from spikeloom.components import load_table
from spikeloom.core.nodes import window_out
from spikeloom.core.report import Report
from spikeloom.core.trace import Levels
from spikeloom.core.workload import Layer, NeuronRule, Workload
from spikeloom.cost import unit_prices
from spikeloom.evaluate import evaluate
from spikeloom.hw import HARDWARE
from spikeloom.hw import sata_training as training
from spikeloom.hw import spikesim_tool as ela
from spikeloom.hw.sata_arch import SataArch
from spikeloom.hw.sata_tool import layer_traffic, tool_workload
from spikeloom.hw.sata_works import LAYER_LISTS, WORKS
from spikeloom.hw.spikesim_arch import SpikesimArch
from spikeloom.hw.systolic import SystolicArch
from spikeloom.studies.agreement import Tally, published, tally
from spikeloom.units import to_si

Pairs = Iterator[tuple[float, float]]
#: Archived results of SATA_Sim: its own name -> time steps, sparsity, fields of the machine. All of VGG9.
_SNN = {"pe": "spike-288", "glb_ifmap": 8 * 8192.0, "ofmap_steps": "every"}
ARCHIVED: dict[str, tuple[int, float, dict[str, Any]]] = {
    "eyeriss-8bit ANN (T=1, act sparsity 0.5)": (1, 0.5, {"pe": "mac8"}),
    **{f"sata T{steps}": (steps, 0.9, {**_SNN, "act_bit": steps}) for steps in (2, 4, 8)},
    "dvs_ann (8-bit, T=10)": (10, 0.5, {"pe": "mac8-dvs", "ofmap_steps": "every"}),
    "dvs_snn T=10": (10, 0.9, {**_SNN, "act_bit": 10}),
}
#: Names of the training estimator's counts -> ours.
TRAINING = {
    "lif": ("forward", "lif"),
    "mac_fwd": ("forward", "ac"),
    "pgu": ("backward", "gradient"),
    "mac_bwd": ("backward", "product"),
    "mac_wup": ("update", "accumulate"),
}
SHORT = {"forward": "fwd", "backward": "bwd", "update": "wup"}
TRAINING |= {f"{memory}_{SHORT[stage]}": (stage, memory) for stage in SHORT for memory in training.MEMORIES}
#: Parts of the ELA script that have another name here.
ELA_PARTS = {
    "xbar": "crossbar",
    "sub": "subtractor",
    "temp_buf": "temp_buffer",
    "tile_buf": "tile_buffer",
    "mem_fetch": "memory",
    "input_buf": "memory",
    "neuron_mem": "membranes",
}
#: One MAC of the training estimator at 16 bits, in pJ: what it divides its results by.
MAC_PJ = 0.2779


def tallies() -> Iterator[Tally]:
    """One for every run of a tool."""
    yield from _sata_inference()
    yield from _sata_training()
    yield from _spikesim()
    yield from _scale_sim()


def sata_report(layers: Any, num_steps: int, sparsity: float, **fields: Any) -> Report:
    """A layer list priced as SATA_Sim prices it."""
    return evaluate(tool_workload(layers, num_steps), SataArch(fidelity="tool", sparsity=sparsity, **fields))


def _sata_inference() -> Iterator[Tally]:
    runs = published("sata_inference.json")
    for case in runs["cases"]:
        inputs = case["inputs"]
        said = f"head, {len(inputs['layers'])} layers, T = {inputs['T']}, sparsity {inputs['sparsity']:g}"
        yield tally(f"SATA_Sim inference, {case['name']}", "sata-sim", said, _inference_pairs(case))
    chain = {row["work"]: row for row in runs["table_II_chain"]}
    for work in WORKS:
        said = f"archived results, T = {work.num_steps} and {work.baseline_steps}"
        yield tally(f"SATA_Sim inference, {work.title}", "sata-sim", said, _chain_pairs(work, chain[work.name]))
    for result in runs["archived_ann_vs_snn"]:
        steps, sparsity, fields = ARCHIVED[result["name"]]
        report = sata_report(LAYER_LISTS["vgg9"], steps, sparsity, rules="archived", **fields)
        pairs = list(_energy_pairs(report, result))
        yield tally(f"SATA_Sim inference, {result['name']}", "sata-sim", "archived results, VGG9", pairs)


def _inference_pairs(case: dict[str, Any]) -> Pairs:
    inputs = case["inputs"]
    arch = SataArch(fidelity="tool", sparsity=inputs["sparsity"])
    workload = tool_workload(inputs["layers"], inputs["T"])
    for layer, printed in zip(workload.layers, case["per_layer_counts"], strict=True):
        traffic = layer_traffic(layer, arch)
        for word, theirs in printed.items():  # "DRAM Filter Reads", "SRAM OFMAP Start Cycle", "SRAM IFMAP Cycles"
            name = word.lower().replace(" ", "_").replace("sram_ofmap_start", "start")
            yield getattr(traffic, name.removeprefix("sram_") if name.endswith("cycles") else name), theirs
    report = evaluate(workload, arch)
    for counted, word in (("mac.add", "total_mac_ops"), ("lif.update", "total_activation_ops")):
        yield sum(layer.counts[counted] for layer in report.layers), case["computation_energy_nJ"][word]
    yield report.cycles, case["total_cycles"]
    yield report.latency_s * 1e3, case["latency_ms_at_400MHz"]
    yield from _energy_pairs(report, case)


def _energy_pairs(report: Report, printed: dict[str, Any]) -> Pairs:
    """Total and every item of the tool's two result files, in nJ."""
    spent = {key: joules * 1e9 for key, joules in report.by("action").items()}
    computing, memory = printed["computation_energy_nJ"], printed["memory_energy_nJ"]
    ann = "mac" in computing
    for unit, word, action in (
        ("mac", "mac" if ann else "spike-mac", "add"),
        ("lif", "relu" if ann else "lif", "update"),
        ("spad", "spad", "access"),
    ):
        for ours, item in ((action, "operation"), ("clock", "ungated"), ("leakage", "leakage")):
            yield spent[f"{unit}.{ours}"], computing[word][f"energy-{item}"]
    for name, action in (("ifmap", "read"), ("weight", "read"), ("ofmap", "write")):
        yield spent[f"dram_{name}.{action}"], memory["DRAM-system"][name]
        yield spent[f"glb_{name}.{action}"], memory[f"GLB-{name}"][f"{name}-dynamic"]
        yield spent[f"glb_{name}.leakage"], memory[f"GLB-{name}"][f"{name}-leakage"]
    yield report.energy_j * 1e9, printed["total_nJ"]


def _chain_pairs(work: Any, row: dict[str, Any]) -> Pairs:
    runs = (("algorithm", work.num_steps, work.sparsity), ("baseline", work.baseline_steps, work.baseline_sparsity))
    totals = []
    for kind, steps, sparsity in runs:
        report, shipped = sata_report(work.layers, steps, sparsity, rules="archived"), row["shipped"][kind]
        yield report.cycles, shipped["total_cycles"]
        for word, instances in (("comp_nJ", ("mac", "spad", "lif")), ("dram_nJ", ("dram",)), ("sram_nJ", ("glb",))):
            yield (
                1e9 * sum(e for name, e in report.by("component").items() if name.startswith(instances)),
                shipped[word],
            )
        yield report.energy_j * 1e9, shipped["total_nJ"]
        totals.append(report.energy_j)
    yield totals[1] / totals[0], row["energy_ratio"]


def training_report(num_steps: int, fwd_bit: int, **fields: Any) -> Report:
    """The training estimator's own network, priced as it does, ``fields`` of the machine changed."""
    layers = [training.TrainingLayer(*layer) for layer in published("sata_training.json")["layers"]]
    arch = training.SataTrainingArch(fidelity="tool", fwd_bit=fwd_bit, **fields)
    return evaluate(training.tool_workload(layers, num_steps), arch)


def training_stages(report: Report) -> dict[str, float]:
    """pJ of computing and of memory in each stage, in the tool's words."""
    sums = {f"{short}_{what}": 0.0 for short in SHORT.values() for what in ("comp", "mem")}
    for key, joules in report.by("action").items():
        stage, action = key.split(".")
        sums[f"{SHORT[stage]}_{'mem' if action in training.MEMORIES else 'comp'}"] += 1e12 * joules
    return sums


def _sata_training() -> Iterator[Tally]:
    for case in published("sata_training.json")["cases"]:
        i = case["inputs"]
        said = (
            f"VGG5, T = {i['T']}, {i['fwd_b']} bits forward, sparsities {i['sp_s']:g} / {i['sp_du']:g} / {i['sp_df']:g}"
        )
        yield tally("SATA_Sim training", "sata-sim", said, _training_pairs(case))


def _training_pairs(case: dict[str, Any]) -> Pairs:
    inputs = case["inputs"]
    report = training_report(inputs["T"], inputs["fwd_b"], **{key: inputs[key] for key in ("sp_s", "sp_du", "sp_df")})
    arch = training.SataTrainingArch(fwd_bit=inputs["fwd_b"])
    joules, _ = unit_prices(TRAINING.values(), arch, load_table(arch.table))
    spent = report.by("action")
    for word, key in TRAINING.items():
        name = ".".join(key)
        yield sum(layer.counts[name] for layer in report.layers), case["counts"][word]
        yield 1e12 * joules[key], case["unit_energy_pJ"][word]
        yield 1e12 * spent[name], case["energy_pJ"][word]
    for word, ours in training_stages(report).items():
        yield ours, case["stage_pJ"][word]
    yield 1e12 * report.energy_j, case["total_pJ"]
    yield 1e12 * report.energy_j / MAC_PJ, case["total_MAC_units"]
    yield 1e12 * report.by("component")["forward"] / MAC_PJ, case["fwd_MAC_units"]


def spikesim_report(inputs: dict[str, Any]) -> Report:
    """A case of SpikeSim's ELA script, priced as it does."""
    lists = (inputs[key] for key in ("in_ch", "out_ch", "in_dim", "out_dim"))
    arch = SpikesimArch(
        fidelity="tool", size=inputs["xbar_size"], pes_per_tile=inputs["pe_per_tile"], device=inputs["device"],
        clock=to_si(inputs["clk_MHz"], "mhz"),
    )  # fmt: skip
    return evaluate(ela.tool_workload(*lists, kernel=inputs["kernel"], num_steps=inputs["time_steps"]), arch)


def _spikesim() -> Iterator[Tally]:
    for case in published("spikesim_ela.json")["cases"]:
        i = case["inputs"]
        said = (
            f"{len(i['in_ch'])} layers, X = {i['xbar_size']}, {i['pe_per_tile']} PEs a tile, T = {i['time_steps']}, "
            f"{i['clk_MHz']} MHz, {i['device']}"
        )
        if case["tool"]["error"]:
            said += "; latency: the script ends in an error"
        yield tally(f"SpikeSim ELA, {case['name']}", "spikesim-ela", said, _spikesim_pairs(case), tolerance=1e-12)


def _spikesim_pairs(case: dict[str, Any]) -> Pairs:
    printed, parts = case["tool"], case["rederived"]
    report = spikesim_report(case["inputs"])
    area = report.area or {}
    yield 1e12 * report.energy_j, printed["energy_pJ"]
    yield 1e12 * sum(area.values()), printed["area_um2"]
    if printed["latency_ns"] is not None:
        yield 1e9 * report.latency_s, printed["latency_ns"]
    for layer, theirs in zip(report.layers, printed["layer_energy_pJ"], strict=True):
        yield 1e12 * layer.energy_j, theirs
    spent = report.by("component")
    for word, theirs in parts["energy_components_pJ"].items():
        yield 1e12 * spent[ELA_PARTS.get(word, word)], theirs
    um2 = dict(parts["area_components_um2"])
    for word, theirs in um2.items():
        yield 1e12 * area[ELA_PARTS.get(word, word)], theirs
    arrays = area["crossbar"] + area["adc"] + area["mux"]
    # the script's groups overlap: neurons; arrays with subtractors; digital, arrays included; all
    digital = area["temp_buffer"] + area["tile_buffer"] + arrays + area["memory"]
    groups = (area["membranes"], arrays + area["subtractor"], digital, sum(area.values()))
    for group, theirs in zip(groups, printed["area_ret"], strict=True):
        yield 1e12 * group, theirs


def _scale_sim() -> Iterator[Tally]:
    runs = published("scalesim.json")
    for flow, words in (("ws", "weight"), ("os", "output"), ("is", "input")):
        pairs = [pair for shape in runs["layers"] for pair in _scale_sim_pairs(shape, flow)]
        said = f"{len(runs['layers'])} layer shapes, no stalls; cycles counted from 1, reads of inputs and weights"
        yield tally(f"SCALE-Sim, {words} stationary", "scale-sim", said, pairs, tolerance=0)


def _scale_sim_pairs(shape: dict[str, Any], flow: str) -> Pairs:
    """Cycles and words read. The tool's total is the number of its last cycle, counted from 0."""
    H, W, R, S, stride, padding = (shape[key] for key in ("H", "W", "R", "S", "stride", "padding"))
    P, Q = window_out(H, R, stride, padding, 1), window_out(W, S, stride, padding, 1)
    image = Levels(np.full((1, 1, shape["C"], H, W), 3, np.uint8), 8)
    layer = Layer("layer", "conv2d", shape["C"], shape["K"], H, W, R, S, P, Q, image, (stride, stride),
                  (padding, padding), neuron=NeuronRule("none"))  # fmt: skip
    machine, work = HARDWARE["systolic"], Workload((layer,), 1, 1)
    # no stalls, as in these runs: memory is never the slower
    arch = SystolicArch(rows=shape["rows"], cols=shape["cols"], dataflow=flow, dram_bandwidth=8e15, ofmap=4096 * 8192.0)
    counts = machine.count(work, arch, machine.map(work, arch), threads=1)
    printed = shape[flow]
    yield counts.cycles, printed["total_cycles"] + 1
    yield counts.actions["layer", "glb_ifmap", "read"] // 8, printed["ifmap_sram_reads"]
    yield counts.actions["layer", "glb_weight", "read"] // layer.weight_bits, printed["filter_sram_reads"]
