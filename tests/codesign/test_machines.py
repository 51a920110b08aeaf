"""Machines of a search: what may be chosen, and what it makes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from spikeloom.codesign.inner import InnerSearch, area_of, machine_of
from spikeloom.codesign.machines import Family
from spikeloom.codesign.mapping import MappingChoices
from spikeloom.codesign.space import Choice, Space, Value
from spikeloom.errors import MappingError, SearchError
from spikeloom.evaluate import ARCH_TYPES, evaluate, load_machine
from spikeloom.files.config import machine_keys
from spikeloom.hw.spikex import SpikexArch
from tests.codesign.cases import tiny_workload

SPIKEX = Family(SpikexArch(), ("conv1", "fc1"))
#: Devices that can be bought but not designed: their fields are fits to measurements.
MEASURED_ONLY = ("edge",)


@pytest.mark.parametrize("model", ARCH_TYPES)
def test_every_machine_brings_a_space_it_can_run(model: str) -> None:
    family = Family(ARCH_TYPES[model](), ("conv1",))
    choices = family.default_choices()
    if model in MEASURED_ONLY:
        with pytest.raises(SearchError, match="the space is empty"):
            Space(choices)
        return
    assert choices, f"{model} has no field to search; give some candidates: knob(..., search=(...))"
    for choice in choices:
        family.check(choice)
    for key, item in family.keys.items():
        if item.metadata["search"]:
            family.check(Choice(f"arch.{key}", family.candidates(f"arch.{key}")))
    for point in zip(range(20), Space(choices).grid(), strict=False):
        assert family.at(point[1]).model == model


def test_what_a_choice_makes() -> None:
    arch = SPIKEX.at({"arch.shape": "4x16", "arch.buffers": "16+40", "arch.merge": 8, "net.width": 2.0})
    assert arch == SpikexArch(rows=4, cols=16, lbuf=16 * 8192.0, glb=40 * 8192.0, merge=8)
    table = SPIKEX.at({"arch.window.fc1": 16})
    assert isinstance(table, SpikexArch) and table.window == {"conv1": 4, "fc1": 16}
    mixed = Family(SpikexArch(window={"conv1": 1, "fc1": 2}), ("conv1", "fc1")).at({"arch.window.conv1": 8})
    assert isinstance(mixed, SpikexArch) and mixed.window == {"conv1": 8, "fc1": 2}


def test_values_that_do_not_go_together_make_a_design_unfit() -> None:
    choice = Choice("arch.step", ("serial", "zskip"))
    dense = Family(SpikexArch(dispatch="dense"))
    dense.check(choice)  # zskip goes with other dispatches, which may be chosen too
    with pytest.raises(MappingError, match="does not go with dispatch = 'dense'"):
        dense.at({"arch.step": "zskip"})


@pytest.mark.parametrize("machine", ["sata", "sata-tool"])
def test_fields_of_either_fidelity_can_be_chosen(machine: str) -> None:
    family = Family(load_machine(machine)[1])
    family.check(Choice("arch.one_bank", (True, False)))  # beside arch.fidelity, or with the tool as the base
    family.check(Choice("arch.skip", (True, False)))
    arch = family.at({"arch.fidelity": "tool", "arch.one_bank": False})
    assert (arch.model, machine_keys(arch)["one_bank"]) == ("sata", False)
    with pytest.raises(SearchError, match=r"choice 'arch\.one_bank'"):
        family.check(Choice("arch.one_bank", (2,)))


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("arch.rowz", (1,), "has no field 'rowz'"),
        ("arch.rows", (0,), "rows: got 0"),
        ("arch.rows", (2.5,), "rows: got 2.5"),
        ("arch.lbuf", (2.0,), "did you mean 'lbuf_kib'"),
        ("arch.rows.conv1", (8,), "the same in every layer"),
        ("arch.window.conv2", (8,), "did you mean 'conv1'"),
        ("arch.shape", ("8",), "such as \"8x8\""),
        ("arch.shape", ("8x",), "such as \"8x8\""),
        ("arch.shape", ("8x8x8",), "such as \"8x8\""),
        ("arch.shape", ("0x64",), "rows: got 0"),
        ("arch.buffers", ("2x54",), "such as \"8\\+8\""),
        ("arch.shape.conv1", ("8x8",), "has no field 'shape'"),
        ("arch.table", ("cacti32-hq",), "did you mean 'cacti32-hp'"),
    ],
)  # fmt: skip
def test_choices_a_machine_does_not_have(name: str, values: tuple[Value, ...], message: str) -> None:
    with pytest.raises(SearchError, match=message):
        SPIKEX.check(Choice(name, values))


def test_budgets() -> None:
    assert SPIKEX.candidates("arch.shape") == ("1x64", "2x32", "4x16", "8x8", "16x4", "32x2", "64x1")
    assert SPIKEX.candidates("arch.shape", 256)[0] == "4x64"  # at most 64 columns
    assert SPIKEX.candidates("arch.buffers", 8, 4) == ("2+6", "4+4", "6+2")
    for total in (0.5, -3, float("nan"), float("inf")):
        with pytest.raises(SearchError, match="whole number"):
            SPIKEX.candidates("arch.shape", total)
    for total in (4099, 1e300, 2**60):
        with pytest.raises(SearchError, match="no pair lies in"):
            SPIKEX.candidates("arch.shape", total)
    for parts in (0, -1, 10**8):
        with pytest.raises(SearchError, match=r"2\.\.10000 parts"):
            SPIKEX.candidates("arch.buffers", 56, parts)
    with pytest.raises(SearchError, match="brings no candidates"):
        SPIKEX.candidates("arch.clock_mhz")


def test_what_is_chosen_outside_is_not_sought_inside() -> None:
    inner = InnerSearch(MappingChoices(windows=(1, 4), merges=(1, 2)))
    assert inner.left({"arch.rows": 4}, SPIKEX) == inner.choices
    assert inner.choices is not None
    assert inner.left({"arch.dispatch": "ptb"}, SPIKEX) == replace(inner.choices, dispatches=("ptb",))
    assert inner.left({"arch.window.conv1": 4}, SPIKEX) is None
    assert InnerSearch(None).left({}, SPIKEX) is None


def test_a_design_costs_what_its_machine_costs_alone() -> None:
    workload, cap = tiny_workload(), area_of(SpikexArch(window=2))
    for inner in (InnerSearch(None), InnerSearch(), InnerSearch(area_at_most=cap), InnerSearch(objective="latency")):
        left = inner.left({}, SPIKEX)
        report = inner.report(workload, SpikexArch(), left, threads=1)
        again = evaluate(workload, machine_of(report), threads=1)
        assert (again.edp_js, again.cycles, again.area) == (report.edp_js, report.cycles, report.area)
        if inner.area_at_most is not None:
            assert cap is not None and report.area_m2 is not None and report.area_m2 <= cap
            assert left is not None and left.windows == (1, 2)
    free = InnerSearch().report(workload, SpikexArch(), InnerSearch().left({}, SPIKEX), threads=1)
    assert free.edp_js <= evaluate(workload, SpikexArch(), threads=1).edp_js


def test_a_mapping_that_the_machine_cannot_have_makes_it_unfit() -> None:
    inner = InnerSearch(MappingChoices(dispatches=("dense",)))
    arch = load_machine("spikex:step=zskip")[1]
    with pytest.raises(MappingError, match="zskip"):
        inner.report(tiny_workload(), arch, inner.left({}, Family(arch)), threads=1)


def test_nothing_fits_into_no_area() -> None:
    inner = InnerSearch(area_at_most=1e-12)
    assert inner.left({}, SPIKEX) == inner.choices  # the design is as large as it is, and infeasible
