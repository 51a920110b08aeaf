"""Terminal tables and the sentence: computed from the reports, right for any order, ties and a single machine."""

from __future__ import annotations

import itertools
from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
from rich.box import HEAVY_HEAD
from rich.console import Console
from rich.table import Table

from spikeloom.core.report import LayerReport, Report
from spikeloom.core.workload import RateLayer, RateWorkload
from spikeloom.evaluate import evaluate, load_machine
from spikeloom.lower import draw
from spikeloom.report import breakdown_table, caveats, comparison_table, groups, labels, summary_sentence


def _report(model: str = "spikex", energy: float = 4e-6, latency: float = 2e-3, **changes: Any) -> Report:
    """Two layers of equal latency; 60 % of the energy in dram.write, 30 % in pe.add, 10 % in glb.leakage."""
    layers = tuple(
        LayerReport(
            name,
            cycles,
            latency / 2,
            500,
            {"pe.add": 500},
            {"dram.write": energy * 0.3, "pe.add": energy * 0.15, "glb.leakage": energy * 0.05},
            {"column_sharing": use},
        )
        for name, cycles, use in (("conv1", 300, 0.2), ("conv2", 100, 0.6))
    )
    report = Report(model, {"rows": 8, "window": 4}, 2, layers, 400, latency, {"pe": 1e-8, "glb": 2e-8}, {}, (), "w")
    return replace(report, **changes)


def _text(table: Table) -> str:
    table.box = HEAVY_HEAD  # with lines between the cells, which _row splits at
    console = Console(file=StringIO(), width=400, record=True)
    console.print(table)
    return console.export_text()


def _row(text: str, start: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.lstrip("│┃ ").startswith(start))
    return [cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")]


def test_comparison_shows_means_per_inference() -> None:
    text = _text(comparison_table([_report(), _report("ptb", energy=8e-6, area=None)]))
    assert _row(text, "machine") == ["machine", "latency", "energy", "EDP", "area", "sharing"]
    assert _row(text, "spikex") == ["spikex", "1 ms", "2 uJ", "2 nJs", "0.03 mm2", "30 %"]
    assert "500 synops" in text
    assert _row(text, "ptb") == ["ptb", "1 ms", "4 uJ", "4 nJs", "not priced", "30 %"]


def test_comparison_of_an_idle_machine() -> None:
    idle = _report(latency=0.0, layers=())
    assert _row(_text(comparison_table([idle, _report("ptb")])), "spikex")[-1:] == ["-"]


def test_breakdown_in_joules_and_percent() -> None:
    text = _text(breakdown_table([_report(), _report("ptb", energy=8e-6)], by="component"))
    assert _row(text, "component") == ["component", "spikex", "%", "ptb", "%"]
    rows = [line for line in text.splitlines() if "│" in line]
    assert [row.strip("│ ").split(" ")[0] for row in rows] == ["dram", "pe", "glb", "total"]
    assert _row(text, "dram") == ["dram", "1.2 uJ", "60.0 %", "2.4 uJ", "60.0 %"]
    assert _row(text, "total") == ["total", "2 uJ", "100.0 %", "4 uJ", "100.0 %"]


def test_breakdown_by_layer_keeps_the_order_and_by_action_the_keys() -> None:
    text = _text(breakdown_table([_report()], by="layer"))
    assert text.index("conv1") < text.index("conv2")
    assert _row(_text(breakdown_table([_report()], by="action")), "glb.leakage")[1:] == ["200 nJ", "10.0 %"]


def test_a_row_that_a_machine_lacks_is_a_dash_and_no_zero() -> None:
    layer = LayerReport("conv1", 1, 1e-3, 1, {}, {"core.synop": 1e-6, "array.cycles": 0.0})
    text = _text(breakdown_table([_report(), _report("loihi", layers=(layer,))]))
    assert _row(text, "core") == ["core", "-", "-", "500 nJ", "100.0 %"]
    assert not any("array" in line for line in text.splitlines())  # nothing is spent on it anywhere
    empty = _text(breakdown_table([_report(layers=(replace(layer, energy={"array.cycles": 0.0}),))]))
    assert _row(empty, "total") == ["total", "0 J", "-"]


def test_one_machine_says_what_it_spends() -> None:
    assert summary_sentence([_report()]) == (
        "spikex spends 2 uJ and takes 1 ms per inference (EDP 2 nJs); 60 % of its energy goes to dram, 30 % to pe, "
        "10 % to glb leakage; leakage is 10 % of the total."
    )


def test_the_sentence_is_the_same_for_every_order() -> None:
    reports = [_report(), _report("ptb", energy=8e-6), _report("dense", energy=1.2e-2, latency=4e-3)]
    sentences = {summary_sentence(order) for order in itertools.permutations(reports)}
    assert sentences == {
        "spikex has the lowest EDP per inference (2 nJs, 2 times lower than ptb and 6,000 times lower than dense); "
        "60 % of its energy goes to dram, 30 % to pe, 10 % to glb leakage; leakage is 10 % of the total."
    }


def test_the_lowest_edp_need_not_be_the_lowest_energy() -> None:
    slow = _report("slow", energy=1e-6, latency=1.0)
    assert summary_sentence([slow, _report()]).startswith("spikex has the lowest EDP per inference (2 nJs, 125 times")


def test_ties_and_near_ties() -> None:
    tied = summary_sentence([_report("a"), _report("c", energy=8e-6), _report("b", energy=8e-6, latency=1e-3)])
    assert tied.startswith("a and b tie for the lowest EDP per inference (2 nJs, 2 times lower than c); 60 % of a's")
    all_tied = summary_sentence([_report("a"), _report("b"), _report("c")])
    assert all_tied.startswith("a, b and c tie for the lowest EDP per inference (2 nJs); 60 % of a's energy")
    near = summary_sentence([_report("a"), _report("b", energy=4e-6 * 1.002)])
    assert "(2 nJs, 0.2 % lower than b)" in near


def test_zero_energy_and_different_workloads_are_said() -> None:
    nothing = _report("none", energy=0.0)
    assert summary_sentence([nothing]).endswith("; its energy is zero.")
    assert summary_sentence([_report(), nothing]).startswith(
        "none has the lowest EDP per inference (0 Js, against 2 nJs of spikex); its energy is zero"
    )
    other = _report("ptb", energy=8e-6, workload_id="else")
    apart = summary_sentence([_report(), other]).splitlines()
    assert [line.split(" spends")[0] for line in apart[:2]] == ["spikex", "ptb"]  # each for itself, none is lowest
    assert apart[2:] == ["caution: these machines did not run the same workload."]


def test_no_reports() -> None:
    for show in (comparison_table, breakdown_table, summary_sentence):
        with pytest.raises(ValueError, match="at least one"):
            show([])


def test_labels_tell_equal_models_apart() -> None:
    a, b = _report(), _report(arch={"rows": 8, "window": 16})
    assert labels([a, _report("ptb"), b]) == ("spikex (window=4)", "ptb", "spikex (window=16)")
    assert labels([a, a]) == ("spikex #1", "spikex #2")
    assert labels([a, a, b]) == ("spikex (window=4) #1", "spikex (window=4) #2", "spikex (window=16)")
    assert labels([a, _report(arch={"rows": 8})]) == ("spikex (window=4)", "spikex (window=-)")
    assert labels([_report(label="ptb"), b, _report("x", label="ptb")]) == ("ptb #1", "spikex", "ptb #2")
    assert "[bold]" in _text(comparison_table([_report("[bold]x")]))


def test_what_another_tool_would_print_is_marked_wherever_it_is_named() -> None:
    tool = _report("sata", arch={"fidelity": "tool"}, label="theirs")
    ours = _report("sata", energy=8e-6, arch={"fidelity": "trace"}, label="ours")
    assert labels([tool, ours]) == ("theirs (tool)", "ours")
    assert _row(_text(comparison_table([tool, ours])), "theirs")[0] == "theirs (tool)"
    assert "theirs (tool)" in _text(breakdown_table([tool, ours]))
    lines = summary_sentence([tool, ours]).splitlines()
    assert [line.split(" spends")[0] for line in lines[:2]] == ["theirs (tool)", "ours"]
    assert lines[2] == "caution: theirs (tool): what another tool prints, not a count of these spikes."


def said(*specs: str) -> list[str]:
    work = draw(RateWorkload((RateLayer("fc", "linear", (20,), 10, 0.3),), 4))
    return summary_sentence([evaluate(work, load_machine(spec)[1], label=spec) for spec in specs]).splitlines()


def test_only_bills_that_hold_the_same_are_ranked_and_every_caveat_is_told() -> None:
    lines = said("spikex", "ncs2", "ptb", "spikesim", "loihi")
    first = [line.split(" per inference")[0] for line in lines[:4]]
    assert first[0] in ("spikex has the lowest EDP", "ptb has the lowest EDP", "spikex and ptb tie for the lowest EDP")
    assert [line.split(" ")[:2] for line in first[1:]] == [
        ["ncs2", "spends"],
        ["spikesim", "spends"],
        ["loihi", "spends"],
    ]
    assert not any(other in lines[0] for other in ("ncs2", "spikesim", "loihi"))
    assert lines[4:8] == [
        "caution: spikex and ptb: no link in the bill.",
        "caution: ncs2: a whole device as measured, the others are summed up from parts.",
        "caution: spikesim: no off-chip memory and no clock and leakage in the bill.",
        "caution: loihi: no on-chip memory, no off-chip memory and no clock and leakage in the bill.",
    ]
    assert lines[8].startswith(
        "caution: these machines are priced from different tables: cacti32-hp (spikex and ptb), "
    )
    assert lines[9].startswith("caution: these machines are clocked differently: 500 MHz (spikex and ptb), 250 MHz (")
    assert lines[10].startswith("caution: ncs2: 1.86 ms of 1.87 ms and ")  # in the order in which they were named
    assert "counted events explain 1.6 % of the energy of a measured Loihi keyword network" in lines[11]
    assert len(lines) == 12


def test_machines_of_one_kind_and_table_need_no_caution() -> None:
    for specs in (("spikex", "ptb", "snn-dense"), ("loihi", "loihi:cores_per_tile=2"), ("ncs2",)):
        assert len(said(*specs)) == 1


def test_leakage_that_one_table_leaves_out_is_told() -> None:
    lines = said("spikex", "spikex:table=cacti32")
    assert [line.split(" ")[1] for line in lines[:2]] == ["spends", "spends"]  # not ranked with each other
    assert lines[2] == "caution: spikex:table=cacti32: no leakage of glb and lbuf in the bill."
    assert "cacti32-hp (spikex), cacti32 (spikex:table=cacti32)" in lines[3]


def test_a_described_device_is_not_as_measured_and_sticks_are_ranked_with_their_overhead() -> None:
    lines = said("loihi:static=blouw2018,host=blouw2018", "ncs2", "ncs", "ncs2:overhead_us=100")
    assert [line.split(" ")[1] for line in lines[:3]] == ["spends", "has", "spends"]
    assert "lower than ncs)" in lines[1]
    text = "\n".join(lines)
    assert "ncs2 and ncs: a whole device as measured" in text
    assert "ncs2:overhead_us=100: a whole device as its user described it, not as measured" in text
    assert "idle chip and host are constants of a measured board" in text
    assert text.count("are a fixed overhead, whatever the network") == 3


def test_groups_are_told_by_a_gap_in_the_table() -> None:
    a, b = _report(holds=("compute", "neuron")), _report("other", holds=("compute",))
    assert groups([a, b, a]) == ((0, 2), (1,))
    rows = [line.strip(" │┃").split(" ")[0] for line in _text(comparison_table([a, b, a])).splitlines() if "uJ" in line]
    assert rows == ["spikex", "spikex", "other"]
    assert comparison_table([a, b]).rows[0].end_section and not comparison_table([a, a]).rows[0].end_section
    assert caveats([a, b], ["mine", "yours"]) == ("yours: no neuron in the bill",)
    assert caveats([_report(), b]) == ("spikex: what is in the bill is not known",)
