"""The shipped tables: every entry is documented, the numbers are those of their sources, nothing is extrapolated."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from spikeloom.components import PARTS, TABLES, Entry, Excluded, Quote, Rule, Table, load_table
from spikeloom.components import load as load_module
from spikeloom.core.arch import Component
from spikeloom.errors import CostError
from spikeloom.units import to_si

ALL = (*TABLES, *PARTS)
#: The tables that price any machine made of what NEEDED lists; the others are of one machine each.
COMPLETE = ("cacti32", "cacti32-hp")
DOC = Path(__file__).parents[2] / "docs" / "models" / "components.md"
NEEDED = {
    "adder": {"add"},
    "multiplier": {"multiply"},
    "comparator": {"compare"},
    "register": {"read", "write"},
    "sram": {"read", "write"},
    "dram": {"read", "write"},
}


def _entries() -> list[pytest.param]:
    return [
        pytest.param(entry, id=f"{name}-{entry.kind}-{'-'.join(entry.priced)}")
        for name in ALL
        for entry in load_table(name).entries
    ]


def _sram(kib: float, width_bit: int = 64) -> Component:
    return Component("sram", width_bit=width_bit, size_bit=to_si(kib, "kib"))


def _value(answer: Quote | Excluded) -> float:
    assert isinstance(answer, Quote)
    return answer.value


def _rows(file: str) -> list[dict[str, str]]:
    folder = os.environ.get("SPIKELOOM_DATA")
    if not folder:
        pytest.skip("SPIKELOOM_DATA is not set: the CSV files the tables were copied from are not at hand")
    with (Path(folder) / "tables" / file).open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_the_list_names_every_shipped_file() -> None:
    folder = Path(load_module.__file__).parent / "tables"
    assert {path.stem for path in folder.glob("*.toml")} == set(ALL)


@pytest.mark.parametrize("entry", _entries())
def test_every_entry_states_source_node_voltage_and_range(entry: Entry) -> None:
    assert len(entry.source) > 20
    assert entry.voltage_source
    assert entry.node is None or 1e-9 < entry.node < 1e-6
    assert entry.voltage is None or 0.3 < entry.voltage < 2
    assert 1 <= entry.widths[0] <= entry.widths[1]
    assert (entry.sizes is not None) == entry.rule.sized
    for said in (entry.source, entry.voltage_source, entry.range, *entry.excluded.values(), *entry.notes):
        assert said in DOC.read_text(encoding="utf-8"), "docs/models/components.md lists every entry word for word"


@pytest.mark.parametrize("name", COMPLETE)
def test_a_table_is_complete(name: str) -> None:
    table = load_table(name)
    assert {kind: set(table.actions(kind)) for kind in table.kinds} == NEEDED
    for kind in NEEDED:
        sized = next(entry.rule.sized for entry in table.entries if entry.kind == kind)
        component = _sram(8) if sized else Component(kind, width_bit=16)
        assert isinstance(table.area(component), Quote | Excluded)
        assert isinstance(table.leakage(component), Quote | Excluded)


@pytest.mark.parametrize("entry", _entries())
def test_every_point_is_quoted_to_the_digit(entry: Entry) -> None:
    for point in entry.points:
        component = Component(entry.kind, point.width_bit, point.size_bit)
        if entry.sizes and not entry.sizes[0] <= point.size_bit <= entry.sizes[1]:
            continue  # a point beyond the claimed range only supports the interpolation
        for what, value in point.values.items():
            quote = entry.quote(component, what)
            assert quote.value == value
            assert entry.source in quote.source and entry.conditions in quote.source
            assert ("tabulated" in quote.source) == (entry.rule is not Rule.PROPORTIONAL)


@pytest.mark.parametrize("entry", _entries())
def test_nothing_outside_the_range_is_priced(entry: Entry) -> None:
    what = entry.priced[0]
    (low, high), size = entry.widths, entry.sizes[0] if entry.sizes else 0
    outside = [Component(entry.kind, low - 1, size), Component(entry.kind, high + 1, size)]
    if entry.sizes:
        outside += [
            Component(entry.kind, low, entry.sizes[0] * 0.99),
            Component(entry.kind, high, entry.sizes[1] * 1.01),
        ]
        outside += [Component(entry.kind, low, 0)]
    else:
        outside += [Component(entry.kind, low, 64)]
    for component in outside:
        with pytest.raises(CostError):
            entry.quote(component, what)


def test_the_two_points_of_the_spikex_specification() -> None:
    table = load_table("cacti32-hp")
    assert table.energy(_sram(2), "read").value == 0.917e-12
    assert table.energy(_sram(2), "write").value == 2.54e-12
    assert _value(table.leakage(_sram(2))) == 0.73e-3
    assert table.energy(_sram(54), "read").value == 6.03e-12
    assert table.energy(_sram(54), "write").value == 10.4e-12
    assert _value(table.leakage(_sram(54))) == 21.4e-3
    for name in COMPLETE:
        for action in ("read", "write"):
            assert load_table(name).energy(Component("dram", width_bit=1), action).value == 12.45e-12


def test_between_the_two_points_lies_a_power_law() -> None:
    table = load_table("cacti32-hp")
    middle = table.energy(_sram((2 * 54) ** 0.5), "read")
    assert middle.value == pytest.approx((0.917e-12 * 6.03e-12) ** 0.5, rel=1e-9)
    assert "interpolated log-log in size_bit" in middle.source and "2 KiB to 54 KiB" in middle.source


def test_the_area_of_the_default_table_says_that_it_is_of_another_cell() -> None:
    quote = load_table("cacti32-hp").area(_sram(2))
    assert isinstance(quote, Quote)
    assert quote.value == 0.003820e-6
    assert (
        "another cell type" in quote.source and "another cell type" not in load_table("cacti32").area(_sram(2)).source
    )  # type: ignore[union-attr]


@pytest.mark.parametrize(("kib", "words"), [(1.9, "1.9 KiB"), (54.5, "54.5 KiB"), (0, "0 KiB"), (1024, "1024 KiB")])
def test_extrapolation_is_refused_with_size_range_and_remedy(kib: float, words: str) -> None:
    table = load_table("cacti32-hp")
    for ask in (lambda c: table.energy(c, "read"), table.area, table.leakage):
        with pytest.raises(CostError) as caught:
            ask(_sram(kib) if kib else Component("sram", width_bit=64))
        for part in ("cacti32-hp", "sram", words, "2 KiB to 54 KiB", "table of your own"):
            assert part in str(caught.value)


def test_other_ports_are_refused_or_interpolated_as_the_rule_says() -> None:
    with pytest.raises(CostError, match="32 bit; the source covers 64 bit, 2 KiB to 54 KiB"):
        load_table("cacti32-hp").energy(_sram(8, 32), "read")
    table = load_table("cacti32")
    low, mid, high = (table.energy(_sram(8, width), "read").value for width in (32, 48, 64))
    assert low < mid < high


def test_leakage_that_is_not_sourced_is_excluded_with_its_reason() -> None:
    table = load_table("cacti32")
    sram, register, dram = (table.leakage(each) for each in (_sram(8), Component("register", 16), Component("dram", 1)))
    assert isinstance(sram, Excluded) and "thousands of times" in sram.reason
    assert isinstance(register, Excluded) and "states 0" in register.reason
    assert isinstance(dram, Excluded) and "off-chip" in dram.reason
    assert isinstance(table.area(Component("dram", 1)), Excluded)
    assert _value(table.leakage(Component("adder", 16))) == 0.91051e-6


def test_unknown_kinds_and_actions_name_the_nearest() -> None:
    table = load_table("cacti32-hp")
    with pytest.raises(CostError, match=r"no component kind 'sarm' \(did you mean 'sram'\?\)"):
        table.area(Component("sarm"))
    with pytest.raises(CostError, match=r"'raed' of sram \(did you mean 'read'\?\); priced are read, write"):
        table.energy(_sram(2), "raed")
    with pytest.raises(CostError, match="no energy for action 'area'"):
        table.energy(_sram(2), "area")
    with pytest.raises(CostError, match="no capacity"):
        table.energy(Component("register", 16, 64), "read")


def test_scaling_multiplies_energies_and_nothing_else() -> None:
    table = load_table("cacti32-hp")
    twice = table.scaled(2)
    assert twice.energy(_sram(2), "read").value == 2 * 0.917e-12
    assert "(energies x 2)" in twice.energy(_sram(2), "read").source
    assert _value(twice.area(_sram(2))) == _value(table.area(_sram(2)))
    assert _value(twice.leakage(_sram(2))) == _value(table.leakage(_sram(2)))
    for factor in (0, -1, float("nan"), float("inf")):
        with pytest.raises(CostError, match="positive number"):
            table.scaled(factor)


def test_a_table_prints_what_it_prices_and_what_not() -> None:
    text = str(load_table("cacti32"))
    assert "sram (read, write, area; 8 to 128 bit, 0.5 KiB to 1024 KiB; 32 nm, 1 V)" in text
    assert "sram leakage not priced" in text


def test_sram_points_are_those_of_the_csv() -> None:
    rows = [row for row in _rows("cacti_sram.csv") if row["tech_nm"] == "32"]
    table, default = load_table("cacti32"), load_table("cacti32-hp")
    entry = next(each for each in table.entries if each.kind == "sram")
    assert len(rows) == len(entry.points) == 60
    for row in rows:
        part = Component("sram", int(row["width_bits"]), 8 * int(row["size_bytes"]))
        for action in ("read", "write"):
            assert table.energy(part, action).value == to_si(float(row[f"{action}_pJ"]), "pj")
        assert _value(table.area(part)) == to_si(float(row["area_mm2"]), "mm2")
        if part.width_bit == 64 and to_si(2, "kib") <= part.size_bit <= to_si(54, "kib"):
            assert _value(default.area(part)) == to_si(float(row["area_mm2"]), "mm2")


def test_arithmetic_and_register_points_are_those_of_the_csv() -> None:
    rows = [row for row in _rows("aladdin_adc.csv") if row["tech_nm"] == "32"]
    table: Table = load_table("cacti32-hp")
    checked = 0
    for row in rows:
        if row["component"] not in ("adder", "multiplier", "comparator", "register"):
            continue
        width, action = (each.split("=")[1] for each in row["param"].split(";"))
        part = Component(row["component"], int(width))
        energy = to_si(float(row["energy_pJ"]), "pj")
        assert table.energy(part, action).value == energy
        if part.kind == "register":
            assert table.energy(part, "write").value == energy
        else:
            assert _value(table.leakage(part)) == to_si(float(row["leak_uW"]), "uw")
        assert _value(table.area(part)) == to_si(float(row["area_um2"]), "um2")
        checked += 1
    assert checked == 24
