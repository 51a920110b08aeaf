"""SpikeSim's ELA script: energy, latency and area of its own runs, to the last digits, and what each habit of it is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spikeloom.core.report import Report
from spikeloom.core.workload import Workload
from spikeloom.errors import ConfigError, MappingError
from spikeloom.evaluate import evaluate, load_machine
from spikeloom.hw import HARDWARE
from spikeloom.hw.spikesim_arch import QUIRKS, SpikesimArch
from spikeloom.hw.spikesim_tool import tool_workload
from spikeloom.studies.agreement import published
from spikeloom.units import to_si
from tests.reference.folder import cases_of

CASES = cases_of("spikesim_ela.json", published("spikesim_ela.json"))
BY_NAME = {case["name"]: case for case in CASES}
#: Component of the reference -> (instances of our energy, of our area).
ENERGY = {"htree": "htree", "mem_fetch": "memory", "neuron": "neuron", "xbar": "crossbar", "adc": "adc", "mux": "mux",
          "sub": "subtractor", "temp_buf": "temp_buffer", "tile_buf": "tile_buffer", "input_buf": "memory", "neuron_mem": "membranes"}  # fmt: skip


def workload_of(inputs: dict[str, Any]) -> Workload:
    lists = (inputs[key] for key in ("in_ch", "out_ch", "in_dim", "out_dim"))
    return tool_workload(*lists, kernel=inputs["kernel"], num_steps=inputs["time_steps"])


def arch_of(inputs: dict[str, Any], **changes: Any) -> SpikesimArch:
    return SpikesimArch(
        fidelity="tool", size=inputs["xbar_size"], pes_per_tile=inputs["pe_per_tile"], device=inputs["device"],
        clock=to_si(inputs["clk_MHz"], "mhz"), **changes,
    )  # fmt: skip


def run(name: str = "vgg9_default", **changes: Any) -> Report:
    inputs = BY_NAME[name]["inputs"]
    return evaluate(workload_of(inputs), arch_of(inputs, **changes))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_energy_latency_and_area_are_those_of_the_script(case: dict[str, Any]) -> None:
    report, told, ours = run(case["name"]), case["tool"], case["rederived"]
    assert report.energy_j == pytest.approx(told["energy_pJ"] * 1e-12, rel=1e-12)
    assert report.area_m2 == pytest.approx(told["area_um2"] * 1e-12, rel=1e-12)
    latency = told["latency_ns"] if told["latency_ns"] is not None else ours["latency_ns"]
    assert report.latency_s == pytest.approx(latency * 1e-9, rel=1e-12)
    in_layers = [layer.energy_j for layer in report.layers]
    assert in_layers == pytest.approx([joules * 1e-12 for joules in told["layer_energy_pJ"]], rel=1e-12)
    energy = report.by("component")
    for name, joules in ours["energy_components_pJ"].items():
        assert energy[ENERGY[name]] == pytest.approx(joules * 1e-12, rel=1e-12)
    assert report.area is not None
    area = report.area
    for name, um2 in ours["area_components_um2"].items():
        assert area[ENERGY[name]] == pytest.approx(um2 * 1e-12, rel=1e-12)
    arrays = area["crossbar"] + area["adc"] + area["mux"]
    digital = area["temp_buffer"] + area["tile_buffer"] + arrays + area["memory"]
    groups = [area["membranes"], arrays + area["subtractor"], digital, report.area_m2]
    assert groups == pytest.approx([um2 * 1e-12 for um2 in told["area_ret"]], rel=1e-12)
    pes = sum(report.layers[k].counts["htree.transfer"] // (cycles * case["inputs"]["time_steps"])
              for k, cycles in enumerate(per_pe_cycles(case)))  # fmt: skip
    assert pes == told["n_pe"]


def per_pe_cycles(case: dict[str, Any]) -> list[int]:
    return [size * size for size in case["inputs"]["out_dim"]]


def test_what_stops_the_script_is_said() -> None:
    assert any("IndexError" in line for line in run("vgg16").warnings)
    inputs = {**BY_NAME["vgg9_default"]["inputs"], "in_ch": [64, 256, 64], "out_ch": [256, 64, 64], "in_dim": [8] * 3,
              "out_dim": [8] * 3}  # fmt: skip
    said = evaluate(workload_of(inputs), arch_of(inputs)).warnings
    assert any("check the layer order" in line for line in said)
    with pytest.raises(MappingError, match="layer 'conv13': SpikeSim's script ends with an IndexError"):
        run("vgg16", stops=True)
    # its latency compares C K / X^2 without rounding up: one PE each here, and yet out of order
    inputs |= {"in_ch": [64, 64], "out_ch": [64, 32], "in_dim": [8] * 2, "out_dim": [8] * 2}
    with pytest.raises(MappingError, match=r"layer 'conv2': .* gives no latency .* C K = 2048 after 4096"):
        evaluate(workload_of(inputs), arch_of(inputs, stops=True))
    inputs |= {"in_ch": [3, 16, 32], "out_ch": [16, 32, 32], "in_dim": [8] * 3, "out_dim": [8] * 3}
    with pytest.raises(MappingError, match="never ends"):
        evaluate(workload_of(inputs), arch_of(inputs, stops=True))
    assert run("vgg9_default", stops=True).energy_j == run().energy_j
    with pytest.raises(MappingError, match="expected equal ones"):
        tool_workload([1], [1, 2], [3], [4])


def test_shares_of_the_default_run() -> None:
    report = run()
    energy, area = report.by("component"), report.area
    assert area is not None and report.area_m2 is not None
    assert energy["tile_buffer"] / report.energy_j == pytest.approx(0.4792, abs=5e-5)
    assert energy["crossbar"] / report.energy_j == pytest.approx(0.1533, abs=5e-5)
    assert area["htree"] / report.area_m2 == pytest.approx(0.3088, abs=5e-5)
    rows = [layer.utilisation["row_use"] for layer in report.layers]
    assert rows[0] == 3 / 64 and set(rows[1:]) == {1.0}


@pytest.mark.parametrize("name", [case["name"] for case in CASES])
def test_share_of_cells_that_hold_weights(name: str) -> None:
    inputs = BY_NAME[name]["inputs"]
    arch, work = arch_of(inputs), workload_of(inputs)
    counts = HARDWARE["spikesim"].count(work, arch, HARDWARE["spikesim"].map(work, arch))
    held, cells = (
        sum(n for (_, key), n in counts.statistics.items() if key == wanted) for wanted in ("weights", "weights_of")
    )
    assert held / cells == pytest.approx(BY_NAME[name]["rederived"]["xbar_weight_utilisation"], rel=1e-12)


def test_corrected_habits() -> None:
    assert run(pooled_maps=False).energy_j == pytest.approx(25.5e-6, rel=2e-3)
    assert run().latency_s / run(neuron_cycles=False).latency_s == pytest.approx(92.1, abs=0.05)
    assert run(neuron_cycles=False).latency_s == pytest.approx(0.682e-3, rel=1e-3)
    area = {name: run(**{name: False}).area_m2 for name in ("tiles_shared", "five_layers")}
    default = run().area_m2
    assert default is not None and all(value is not None and value > default for value in area.values())
    assert run(size_blind=False).energy_j == run().energy_j  # the constants are those of 64 x 64
    assert run("vgg9_xbar32", size_blind=False).energy_j != run("vgg9_xbar32").energy_j


def test_four_times_the_steps_are_sixteen_times_the_edp() -> None:
    assert run("vgg9_T4").edp_js / run("vgg9_T1").edp_js == pytest.approx(16, rel=1e-12)


def test_the_card_tabulates_what_each_habit_is_worth() -> None:
    card = (Path(__file__).parents[2] / "docs" / "models" / "spikesim.md").read_text(encoding="utf-8")
    default = run()
    for name in ("none", *QUIRKS, "all"):
        changed = {"none": (), "all": QUIRKS}.get(name, (name,))
        report = run(**dict.fromkeys(changed, False))
        assert report.area_m2 is not None
        row = (
            f"| `{name}` | {report.energy_j * 1e6:.3f} uJ | {report.latency_s * 1e3:.4f} ms | {report.area_m2 * 1e6:.3f} mm2 "
            f"| {report.edp_js / default.edp_js:.4f} |"
        )
        assert row in card, row


def test_a_layer_list_is_not_taken_for_silence() -> None:
    work = tool_workload([3, 64], [64, 64], [32, 32], [32, 16])
    for spec in ("spikesim", "spikex", "sata", "sata-training", "systolic-gated"):
        with pytest.raises(ConfigError, match="the layer list of SpikeSim's ELA script holds no spikes; "):
            evaluate(work, load_machine(spec)[1])
    assert evaluate(work, load_machine("systolic")[1]).energy_j > 0, "what is not gated does not care"
    assert any("shapes without spikes" in note for note in evaluate(work, SpikesimArch(fidelity="tool")).warnings)
