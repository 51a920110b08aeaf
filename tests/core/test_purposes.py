"""What the bill of each shipped machine holds, against a table written by hand from the model cards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spikeloom.core.purposes import PURPOSES, holds
from spikeloom.core.report import Report
from spikeloom.core.workload import RateLayer, RateWorkload
from spikeloom.evaluate import PRESET_MODELS, evaluate, load_machine
from spikeloom.files.results import read_reports, write_reports
from spikeloom.hw import HARDWARE
from spikeloom.lower import draw

ARRAY = {"compute", "neuron", "on-chip memory", "off-chip memory", "clock and leakage"}
CROSSBAR = {"compute", "neuron", "on-chip memory", "link"}  # weights never move; no leakage is published
MANY_CORES = {"compute", "neuron", "link"}  # synapse memory is inside the synapse event; an idle chip is a switch
STICK = {"whole board measured"}
HELD = {
    "spikex": ARRAY,
    "ptb": ARRAY,
    "snn-dense": ARRAY,
    "sata": ARRAY,
    "sata-tool": ARRAY,
    "systolic": ARRAY,
    "systolic-gated": ARRAY,
    "systolic-eyeriss": ARRAY,
    "systolic-8x8": ARRAY,
    "spikesim": CROSSBAR,
    "spikesim-tool": CROSSBAR,
    "sata-training": {"compute", "neuron", "on-chip memory", "off-chip memory", "training"},
    "loihi": MANY_CORES,
    "loihi-davies2018": MANY_CORES,
    "ncs2": STICK,
    "ncs": STICK,
}
CHANGED = {
    "loihi:static=frady2020": MANY_CORES | {"clock and leakage"},
    "loihi:host=blouw2018": MANY_CORES | {"host"},
    "loihi:static=blouw2018,host=blouw2018": MANY_CORES | {"clock and leakage", "host"},
    "spikex:table=cacti32": ARRAY,  # adders and comparators leak there, too
    "ncs2:overhead_us=100": {"whole board described"},
    "ncs:link_gb_s=1": {"whole board described"},
}


def bill(spec: str) -> Report:
    layers = (RateLayer("conv", "conv2d", (2, 8, 8), 8, 0.3, kernel=(3, 3)), RateLayer("fc", "linear", (288,), 10, 0.3))
    return evaluate(draw(RateWorkload(layers, 4)), load_machine(spec)[1], label=spec)


def test_no_machine_is_forgotten() -> None:
    assert set(HELD) == set(PRESET_MODELS)


@pytest.mark.parametrize("spec", [*HELD, *CHANGED])
def test_the_bill_of_a_machine_holds_what_its_card_says(spec: str) -> None:
    assert set(bill(spec).holds) == {**HELD, **CHANGED}[spec]


def test_every_priced_instance_is_listed() -> None:
    for model, machine in HARDWARE.items():
        for preset in machine.presets:
            arch = load_machine(preset)[1]
            purposes = arch.purposes()
            assert set(purposes) == set(PURPOSES[model])
            for instance, action in arch.charges():
                assert purposes.get(f"{instance}.{action}") or purposes.get(instance), (preset, instance, action)


def test_what_is_free_is_not_in_the_bill_and_what_is_always_on_is_one_kind() -> None:
    purposes = {"pe": "compute", "pe.update": "neuron", "dram": "off-chip memory", "board": "host"}
    assert holds(purposes, []) == ()  # type: ignore[arg-type]
    assert holds(purposes, [("dram", "read"), ("pe", "add")]) == ("compute", "off-chip memory")  # type: ignore[arg-type]
    assert holds(purposes, [("pe", "update")]) == ("neuron",)  # type: ignore[arg-type]
    assert holds(purposes, [("pe", "clock"), ("glb", "leakage")]) == ("clock and leakage",)  # type: ignore[arg-type]
    assert holds(purposes, [("board", "leakage")]) == ("host",)  # type: ignore[arg-type]
    assert holds({}, [("pe", "add"), ("pe", "leakage")]) == ()


def test_a_device_of_the_users_own_is_never_as_measured(tmp_path: Path) -> None:
    (tmp_path / "stick.toml").write_text('model = "edge"\npreset = "ncs2"\nmacs_ghz = 4000.0\n')
    (tmp_path / "same.toml").write_text('model = "edge"\npreset = "ncs2"\n')
    (tmp_path / "power.toml").write_text('title = "mine"\ninclude = ["ncs2"]\n')
    own = [bill(str(tmp_path / "stick.toml")), bill(f"ncs2:table={tmp_path}/power.toml")]
    for report in own:
        assert report.holds == ("whole board described",)
        assert any("as it was described, not as measured" in note for note in report.warnings)
        assert not any("fits to a whole stick" in note for note in report.warnings)
    assert bill(str(tmp_path / "same.toml")).holds == ("whole board measured",)


def test_reports_read_back_hold_the_same_and_earlier_ones_are_told_by_their_prices(tmp_path: Path) -> None:
    reports = [bill(spec) for spec in (*HELD, *CHANGED)]
    write_reports(tmp_path / "now.json", reports)
    assert [(r.holds, r.limits) for r in read_reports(tmp_path / "now.json")] == [(r.holds, r.limits) for r in reports]
    document = json.loads((tmp_path / "now.json").read_text())
    for machine in document["machines"]:
        del machine["holds"], machine["limits"]
    (tmp_path / "then.json").write_text(json.dumps(document))
    for earlier, report in zip(read_reports(tmp_path / "then.json"), reports, strict=True):
        assert earlier.holds == (() if report.model == "edge" else report.holds)
        assert earlier.energy_j == report.energy_j and earlier.edp_js == report.edp_js
