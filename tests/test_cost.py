"""Pricing: every joule adds up whichever way it is grouped, scales with its table, and says where it comes from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikeloom.components import Table, load_table
from spikeloom.core.arch import AbstractArch, Charge, Component, Part
from spikeloom.core.counts import Counts
from spikeloom.core.report import Report
from spikeloom.cost import price
from spikeloom.errors import CostError
from spikeloom.units import to_si

ADDER = Component("adder", width_bit=16)
COMPARATOR = Component("comparator", width_bit=16)
REGISTER = Component("register", width_bit=16)
BUFFER = Component("sram", width_bit=64, size_bit=to_si(2, "kib"))
DRAM = Component("dram", width_bit=1)


@final
@dataclass(frozen=True)
class TinyArch(AbstractArch):
    """Four adders behind a buffer."""

    model: ClassVar[str] = "tiny"
    table: str = "cacti32-hp"
    clock: float = 1e9
    parts: tuple[Part, ...] = (
        Part("pe", ADDER, 4),
        Part("pe", REGISTER, 4),
        Part("buf", BUFFER),
        Part("dram", DRAM),
    )

    def inventory(self) -> tuple[Part, ...]:
        return self.parts

    def charges(self) -> Mapping[tuple[str, str], tuple[Charge, ...]]:
        return {
            ("array", "cycles"): (),
            ("pe", "add"): (Charge(ADDER, "add"), Charge(REGISTER, "read"), Charge(REGISTER, "write")),
            ("pe", "update"): (Charge(ADDER, "add", times=2), Charge(COMPARATOR, "compare")),
            ("buf", "read"): (Charge(BUFFER, "read", per_bit=True),),
            ("buf", "line"): (Charge(BUFFER, "read"),),
            ("dram", "write"): (Charge(DRAM, "write", per_bit=True),),
        }

    def notes(self) -> tuple[str, ...]:
        return ("tiny: invented for tests",)


KEYS = [*TinyArch().charges()]


def _price(counts: Counts, table: Table | None = None, arch: TinyArch | None = None, **options: Any) -> Report:
    defaults: dict[str, Any] = {
        "num_samples": 2,
        "arch_fields": {"clock_ghz": 1},
        "layer_synops": dict.fromkeys(counts.layers(), 7),
    }
    return price(counts, arch or TinyArch(), table or load_table("cacti32-hp"), **(defaults | options))


@st.composite
def _counts(draw: st.DrawFn) -> Counts:
    layers = draw(st.lists(st.sampled_from("abc"), min_size=1, unique=True))
    numbers = st.integers(0, 10**12)
    actions = {(layer, *key): draw(numbers) for layer in layers for key in draw(st.sets(st.sampled_from(KEYS)))}
    cycles = {layer: draw(st.integers(1, 10**9)) for layer in layers}
    return Counts(actions, cycles, sum(cycles.values()))


@given(_counts())
def test_by_layer_by_component_and_by_action_are_the_total(counts: Counts) -> None:
    report = _price(counts)
    ways: tuple[Literal["layer", "component", "action"], ...] = ("layer", "component", "action")
    for what in ways:
        assert sum(report.by(what).values()) == pytest.approx(report.energy_j, rel=1e-12)
    assert report.latency_s == counts.cycles / 1e9
    assert sum(layer.latency_s for layer in report.layers) == pytest.approx(report.latency_s, rel=1e-12)
    assert {key for layer in report.layers for key in layer.energy} <= set(report.sources)


@given(_counts(), st.floats(1e-3, 1e3))
def test_scaling_the_table_scales_dynamic_energy_and_not_leakage(counts: Counts, factor: float) -> None:
    once = _price(counts).by("action")
    scaled = _price(counts, load_table("cacti32-hp").scaled(factor)).by("action")
    for key, joules in once.items():
        expected = joules if key.endswith(".leakage") else factor * joules
        assert scaled[key] == pytest.approx(expected, rel=1e-12)


@given(_counts(), _counts())
def test_one_after_the_other_costs_the_sum(first: Counts, second: Counts) -> None:
    both, a, b = _price(first.then(second)), _price(first), _price(second)
    assert both.energy_j == pytest.approx(a.energy_j + b.energy_j, rel=1e-12)
    assert both.latency_s == pytest.approx(a.latency_s + b.latency_s, rel=1e-12)
    parts = [a.by("action"), b.by("action")]
    for key, joules in both.by("action").items():
        assert joules == pytest.approx(sum(part.get(key, 0.0) for part in parts), rel=1e-12)


def test_unit_prices_by_hand() -> None:
    counts = Counts(
        {
            ("a", "array", "cycles"): 100,
            ("a", "pe", "add"): 3,
            ("a", "pe", "update"): 5,
            ("a", "buf", "read"): 128,
            ("a", "buf", "line"): 2,
            ("a", "dram", "write"): 8,
        },
        {"a": 100},
        100,
    )
    (layer,) = _price(counts).layers
    assert layer.energy["array.cycles"] == 0
    assert layer.energy["pe.add"] == pytest.approx(3 * (0.07967 + 2 * 0.10926) * 1e-12)
    assert layer.energy["pe.update"] == pytest.approx(5 * (2 * 0.07967 + 0.01118) * 1e-12)
    assert layer.energy["buf.read"] == pytest.approx(2 * 0.917e-12)
    assert layer.energy["buf.line"] == pytest.approx(2 * 0.917e-12)
    assert layer.energy["dram.write"] == pytest.approx(8 * 12.45e-12)
    assert layer.energy["pe.leakage"] == pytest.approx(4 * 0.91051e-6 * 100e-9)
    assert layer.energy["buf.leakage"] == pytest.approx(0.73e-3 * 100e-9)
    assert set(layer.energy) == set(layer.counts) | {"pe.leakage", "buf.leakage"}
    assert layer.counts["pe.add"] == 3 and layer.synops == 7


def test_area_and_what_is_left_out() -> None:
    report = _price(Counts({}, {"a": 1}, 1))
    assert report.area == {
        "pe": pytest.approx(4 * (92.809 + 63.885) * 1e-12),
        "buf": pytest.approx(0.003820e-6),
    }
    assert [w for w in report.warnings if "not priced" in w] == [
        "leakage of pe (register) is not priced: the source states 0 for register leakage, which is an absent figure "
        "and not a measurement",
        "leakage of dram (dram) is not priced: DRAM is off-chip: the source gives energy per transferred bit, without "
        "background or refresh power",
        "area of dram (dram) is not priced: DRAM is off-chip: the area is that of the accelerator alone",
    ]
    bare = _price(Counts({}, {"a": 1}, 1), arch=TinyArch(parts=(Part("dram", DRAM),)))
    assert bare.area is None and bare.area_m2 is None and bare.energy_j == 0


def test_a_table_without_leakage_warns_once_and_prices_none() -> None:
    report = _price(Counts({}, {"a": 10, "b": 10}, 20), load_table("cacti32"))
    assert {key for key in report.by("action") if key.endswith("leakage")} == {"pe.leakage"}
    assert sum("low-standby-power" in warning for warning in report.warnings) == 1


def test_sources_name_the_part_and_each_source_once() -> None:
    sources = _price(Counts({("a", *key): 1 for key in KEYS}, {"a": 1}, 1)).sources
    assert sources["array.cycles"] == "free: tiny charges nothing for it"
    assert sources["pe.add"].startswith("adder (16 bit) add: Aladdin")
    assert "; register (16 bit) read + register (16 bit) write: Aladdin" in sources["pe.add"]
    assert sources["pe.update"].startswith("2 x adder (16 bit) add: ")
    assert sources["buf.read"].startswith("2 KiB sram (64 bit) read per bit: CACTI 7, SRAM, itrs-hp")
    assert sources["buf.read"].endswith("[32 nm, 0.9 V; tabulated]")
    assert sources["pe.leakage"].startswith("4 x adder (16 bit): Aladdin")
    assert "another cell type" in sources["buf.area"]


def test_layers_beside_each_other_leak_for_the_shared_time() -> None:
    left = Counts({}, {"a": 600}, 600)
    report = _price(left.beside(Counts({}, {"b": 200}, 200)))
    watts = 4 * 0.91051e-6 + 0.73e-3
    assert report.latency_s == 600e-9
    assert report.energy_j == pytest.approx(watts * 600e-9, rel=1e-12)
    assert report.layers[0].energy_j == pytest.approx(3 * report.layers[1].energy_j)


def test_what_the_report_repeats() -> None:
    counts = Counts({}, {"a": 4}, 4, warnings=("synthetic trace",), expected=True)
    report = _price(
        counts, utilisation={"a": {"row_use": 0.5}}, workload_id="abc", warnings=["narrow psum", "synthetic trace"]
    )
    assert report.warnings[:3] == ("synthetic trace", "narrow psum", "tiny: invented for tests")
    assert "expected values" in report.warnings[-1]
    assert report.layers[0].utilisation == {"row_use": 0.5}
    assert (report.model, report.arch, report.workload_id) == ("tiny", {"clock_ghz": 1}, "abc")
    assert report.latency_per_inference_s == 2e-9


def test_a_count_without_charge_is_an_error() -> None:
    with pytest.raises(CostError, match=r"'pe\.multiply' has no charge; add it to charges\(\)"):
        _price(Counts({("a", "pe", "multiply"): 0}, {"a": 1}, 1))


@dataclass(frozen=True)
class _Odd:
    change: dict[str, Any]
    words: str


@pytest.mark.parametrize(
    "odd",
    [
        _Odd({"num_samples": 0}, "got 0 samples"),
        _Odd({"layer_synops": {}}, "layers a are either counted or have synaptic operations"),
        _Odd({"layer_synops": {"a": 1, "b": 1}}, "layers b are"),
        _Odd({"counts": Counts({}, {"a": 0}, 5)}, "no layer has any"),
        _Odd({"arch": TinyArch(clock=0.0)}, "the clock is 0"),
        _Odd(
            {"arch": TinyArch(parts=(Part("buf", dataclasses.replace(BUFFER, size_bit=8.0)),))}, "no leakage for size"
        ),
    ],
    ids=lambda odd: odd.words,
)
def test_what_does_not_fit_is_refused(odd: _Odd) -> None:
    arguments = {"counts": Counts({}, {"a": 1}, 1)} | odd.change
    with pytest.raises(CostError, match=odd.words):
        _price(**arguments)


def test_an_action_may_not_be_called_leakage() -> None:
    @final
    @dataclass(frozen=True)
    class LeakingArch(AbstractArch):
        model: ClassVar[str] = "leaking"
        table: str = "cacti32-hp"
        clock: float = 1e9

        def inventory(self) -> tuple[Part, ...]:
            return ()

        def charges(self) -> Mapping[tuple[str, str], tuple[Charge, ...]]:
            return {("pe", "leakage"): ()}

        def notes(self) -> tuple[str, ...]:
            return ()

    counts = Counts({("a", "pe", "leakage"): 1}, {"a": 1}, 1)
    with pytest.raises(CostError, match=r"'pe\.leakage' is the key of standby energy"):
        price(counts, LeakingArch(), load_table("cacti32-hp"), num_samples=1, arch_fields={}, layer_synops={"a": 0})


def test_a_chip_that_waits_for_its_camera_idles_at_its_power_by_hand() -> None:
    """Two samples of 100 ms, one of 30 ms of work and one of 170: it idles 70 ms. 104 mW x 270 ms = 28.08 mJ."""
    counts = Counts({}, {"a": 200}, 200, sample_cycles=(30, 170))
    chip = Part("chip", Component("chip_frady2020", width_bit=1))
    arch, table = TinyArch(clock=1000.0, parts=(chip,)), load_table("loihi-sanafe")
    report = _price(counts, table, arch, num_samples=2, sample_s=0.1, real_time=True)
    assert report.real_time is not None
    assert report.energy_j == pytest.approx(0.104 * 0.2)
    assert (report.real_time.sample_s, report.real_time.latency_s) == (0.1, pytest.approx(0.27))
    assert report.real_time.energy_j == pytest.approx(0.02808)
    assert "idle time is not billed: a sample lasts 100 ms" in " ".join(
        _price(counts, table, arch, num_samples=2, sample_s=0.1).warnings
    )


def test_samples_that_differ_are_never_taken_for_alike() -> None:
    with pytest.raises(AssertionError, match="cycles of samples that differ"):
        Counts({}, {"a": 201}, 201).by_sample(2)
    assert Counts({}, {"a": 4}, 4).then(Counts({}, {"b": 7}, 7, sample_cycles=(5, 2))).by_sample(2) == (7, 4)
    assert Counts({}, {"a": 4}, 4).beside(Counts({}, {"b": 7}, 7, sample_cycles=(5, 2))).by_sample(2) == (5, 2)
