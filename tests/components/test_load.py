"""A user's own table: read, included, and refused with the file, the key and the nearest known key."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from spikeloom.components import PARTS, TABLES, Excluded, Quote, load_table
from spikeloom.components.load import known_actions
from spikeloom.core.arch import Component
from spikeloom.core.workload import RateLayer, RateWorkload
from spikeloom.errors import ConfigError, CostError
from spikeloom.evaluate import evaluate, load_machine
from spikeloom.hw import HARDWARE
from spikeloom.lower import draw

OWN = """
include = ["aladdin32"]
title = "ours"

[[entry]]
kind = "crossbar"
source = "measured on our own chip, unpublished"
node_nm = 65
voltage = "not stated"
voltage_source = "the lab book does not say"
rule = "linear in width_bit"
width_bit = [64, 128]
points = [
    { width_bit = 64, read_fj = 500, area_um2 = 100, leakage_nw = 3 },
    { width_bit = 128, read_fj = 900, area_um2 = 190, leakage_nw = 5 },
]
"""
SRAM = """
title = "two ports"

[[entry]]
kind = "sram"
source = "a memory compiler"
node_nm = 22
voltage_v = 0.8
voltage_source = "its data sheet"
rule = "log-log in size_bit at equal width_bit"
width_bit = [32, 64]
size_kib = [1, 4]
points = [
    { width_bit = 32, size_kib = 1, read_pj = 1 },
    { width_bit = 32, size_kib = 4, read_pj = 2 },
    { width_bit = 64, size_kib = 1, read_pj = 2 },
    { width_bit = 64, size_kib = 4, read_pj = 4 },
]
[entry.excluded]
area = "the compiler's area is under a licence"
leakage = "not measured"
"""


def _write(folder: Path, text: str) -> Path:
    path = folder / "own.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_own_table_by_path(tmp_path: Path) -> None:
    table = load_table(_write(tmp_path, OWN))
    assert table.name == "own"
    assert table.kinds == ("adder", "multiplier", "comparator", "register", "crossbar")
    quote = table.energy(Component("crossbar", 96), "read")
    assert quote.value == pytest.approx(700e-15)
    assert "65 nm, voltage not stated" in quote.source
    assert isinstance(table.area(Component("crossbar", 64)), Quote)
    assert load_table(str(tmp_path / "own.toml")) == table


def test_equal_width_rule_prices_its_widths_only(tmp_path: Path) -> None:
    table = load_table(_write(tmp_path, SRAM))
    assert table.energy(Component("sram", 32, 2 * 8192), "read").value == pytest.approx(2**0.5 * 1e-12)
    with pytest.raises(CostError, match="width 48 bit; the points stand at 32, 64 bit only"):
        table.energy(Component("sram", 48, 8192), "read")
    assert table.area(Component("sram", 32, 8192)) == Excluded("the compiler's area is under a licence")


@pytest.mark.parametrize(
    ("old", "wrong", "words"),
    [
        ("voltage_source", "voltge_source", ["entry[0].voltge_source", "nearest known key is 'voltage_source'"]),
        ("title", "titel", ["unknown key 'titel'", "'title'"]),
        ("kind = \"crossbar\"\n", "", ["the key 'entry[0].kind' is missing"]),
        ("read_fj = 500", "read_fjj = 500", ["entry[0].points[0]", "'read_fjj'", "nearest known key is 'read_fj'", "fj, pj, nj, uj, mj"]),
        ("area_um2 = 100", "area_pj = 100", ["'area_pj'", "'area_' takes um2, mm2"]),
        ("width_bit = 64, read", "widht_bit = 64, read", ["points[0] lacks the key 'width_bit'"]),
        ("read_fj = 500", "size_kib = 2, read_fj = 500", ["unknown key 'size_kib'"]),
        ("read_fj = 500", "read_fj = 500, read_pj = 1", ["entry[0].points[0]: key 'read_pj' prices read a second time"]),
        ("read_fj = 500", "read_fj = 0", ["'read_fj' is 0", "expected a positive number", "excluded"]),
        ("read_fj = 500", "read_fj = true", ["'read_fj' is True"]),
        ("read_fj = 500", "read_fj = inf", ["'read_fj' is inf"]),
        ("width_bit = 64, read", "width_bit = 64.5, read", ["'width_bit' is 64.5, expected an integer"]),
        ("read_fj = 500, ", "", ["points[1] and points[0] do not price the same: read"]),
        ("node_nm = 65", "", ["neither of 'node_nm' and 'node = \"not stated\"'"]),
        ('voltage = "not stated"', 'voltage = "not stated"\nvoltage_v = 1', ["both of 'voltage_v'"]),
        ('voltage = "not stated"', 'voltage = "1 V"', ["entry[0].voltage", "not stated"]),
        ("node_nm = 65", "node_nm = -65", ["entry[0].node_nm", "greater than 0"]),
        ("linear in width_bit", "linear", ["entry[0].rule", "'linear in width_bit'"]),
        ("linear in width_bit", "proportional to width_bit", ["takes one point, got 2"]),
        ("linear in width_bit", "log-log in size_bit at equal width_bit", ["needs the key 'size_kib'"]),
        ("width_bit = [64, 128]", "width_bit = [64, 256]", ["claims [64, 256]", "nothing is extrapolated"]),
        ("width_bit = [64, 128]", "width_bit = [128, 64]", ["expected [lowest, highest]"]),
        ("width_bit = [64, 128]", "size_kib = [1, 2]\nwidth_bit = [64, 128]", ["must not have the key 'size_kib'"]),
        ("width_bit = 128, read", "width_bit = 64, read", ["two points at the same place"]),
        (", leakage_nw = 3 }", " }", ["do not price the same: leakage"]),
        ('kind = "crossbar"', 'kind = "adder"', ["area of adder is settled by two entries"]),
        ('"aladdin32"', '"aladin32"', ["include[0]", "did you mean 'aladdin32'"]),
        ("title = ", "title ", ["not TOML"]),
    ],
)  # fmt: skip
def test_a_malformed_table_is_refused(tmp_path: Path, old: str, wrong: str, words: list[str]) -> None:
    assert old in OWN
    path = _write(tmp_path, OWN.replace(old, wrong, 1))
    with pytest.raises(ConfigError) as caught:
        load_table(path)
    for word in ["own.toml", *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("old", "wrong", "words"),
    [
        ("size_kib = [1, 4]", "size_kib = [0.5, 4]", ["size_kib", "nothing is extrapolated"]),
        ("size_kib = [1, 4]", "size_kib = [4, 1]", ["out of order"]),
        ("width_bit = 32, size_kib = 4, read", "width_bit = 32, size_kib = 3, read", ["width_bit = 32"]),
        ('leakage = "not measured"\n', "", ["nothing is said about the leakage of sram"]),
        ('leakage = "not measured"', 'leekage = "not measured"', ["entry[0].excluded.leekage", "'leakage'"]),
        ("read_pj = 1 }", "read_pj = 1, size_bit = 3 }", ["unknown key 'size_bit'", "'size_kib'"]),
        (", read_pj = 1 }", " }", ["points[0] prices nothing"]),
    ],
)  # fmt: skip
def test_a_malformed_memory_is_refused(tmp_path: Path, old: str, wrong: str, words: list[str]) -> None:
    assert old in SRAM
    path = _write(tmp_path, SRAM.replace(old, wrong, 1))
    with pytest.raises(ConfigError) as caught:
        load_table(path)
    for word in ["own.toml", *words]:
        assert word in str(caught.value)


def test_pricing_and_excluding_the_same_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path, OWN + '[entry.excluded]\narea = "no"\n')
    with pytest.raises(ConfigError, match="both prices and excludes area"):
        load_table(path)


def test_unknown_names_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no component table 'cacti32hp' \(did you mean 'cacti32-hp'\?\)"):
        load_table("cacti32hp")
    with pytest.raises(ConfigError, match=r"absent\.toml: no such file"):
        load_table(tmp_path / "absent.toml")


@pytest.mark.parametrize(
    ("kind", "key", "near"),
    [
        ("axon", "in_pj", "'out_pj'"),
        ("axon", "nonsense_nj", "actions of axon: out"),
        ("soma", "acces_pj", "'access_pj'"),
        ("chip", "read_pj", "actions of chip: none"),
        ("sram", "wrte_fj", "'write_fj'"),
    ],
)
def test_an_action_that_no_machine_asks_of_a_known_kind_is_refused(
    tmp_path: Path, kind: str, key: str, near: str
) -> None:
    text = OWN.replace('"crossbar"', f'"{kind}"').replace("read_fj", key)
    with pytest.raises(ConfigError) as caught:
        load_table(_write(tmp_path, text))
    for words in ("own.toml: entry[0]", f"unknown key '{key}'", near):
        assert words in str(caught.value)


def test_every_action_of_every_shipped_table_is_known_to_a_table_of_ones_own(tmp_path: Path) -> None:
    """The files themselves, read as a user's own."""
    for name in (*TABLES, *PARTS):
        text = (resources.files("spikeloom.components") / "tables" / f"{name}.toml").read_text(encoding="utf-8")
        assert load_table(_write(tmp_path, text)).entries == load_table(name).entries


@pytest.mark.parametrize("model", HARDWARE)
def test_every_price_that_a_machine_asks_for_may_stand_in_a_table_of_ones_own(model: str) -> None:
    known = known_actions()
    for preset in HARDWARE[model].presets:
        arch = load_machine(preset)[1]
        for charges in arch.charges().values():
            for charge in charges:
                assert charge.action in known[charge.component.kind]


def test_a_kind_that_is_no_part_of_the_machine_is_named(tmp_path: Path) -> None:
    point = 'source = "x"\nnode = "not stated"\nvoltage = "not stated"\nvoltage_source = "x"\nrule = "linear in width_bit"\n'
    own = f'title = "t"\ninclude = ["cacti32-hp"]\n[[entry]]\nkind = "axn"\n{point}width_bit = [1, 1]\n'
    own += "points = [ { width_bit = 1, anything_pj = 1, area_um2 = 1, leakage_nw = 1 } ]\n"
    path = _write(tmp_path, own)
    work = draw(RateWorkload((RateLayer("fc", "linear", (4,), 2, 0.5),), 2))
    said = evaluate(work, load_machine(f"spikex:table={path}")[1]).warnings
    assert f"{path} prices axn, which no part of spikex is" in said
