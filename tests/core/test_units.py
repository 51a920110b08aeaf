"""Units: exact decimals in, SI inside, the same decimals out."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloom.units import SUFFIXES, exact_si, format_si, from_si, suffix_of, to_si

VALUES = st.floats(1e-6, 1e9) | st.integers(0, 10**9)


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(deadline=None)
@given(value=VALUES)
def test_si_is_the_exact_value_rounded_once(suffix: str, value: float) -> None:
    exact = Fraction(str(value)) * Fraction(SUFFIXES[suffix][0])
    assert exact_si(value, suffix) == exact
    assert to_si(value, suffix) == float(exact)


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(deadline=None)
@given(value=VALUES)
def test_a_file_value_round_trips(suffix: str, value: float) -> None:
    si = to_si(value, suffix)
    assert to_si(from_si(si, suffix), suffix) == si
    assert from_si(si, suffix) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(deadline=None)
@given(digits=st.integers(1, 10**15 - 1), exponent=st.integers(-12, 3))
def test_a_decimal_of_fifteen_digits_comes_back_as_it_was_written(suffix: str, digits: int, exponent: int) -> None:
    value = float(f"{digits}e{exponent}")
    assert from_si(to_si(value, suffix), suffix) == value


@pytest.mark.parametrize(
    ("value", "suffix", "si"),
    [(30, "gb_s", 2.4e11), (0.1, "kib", 819.2), (0.3, "pj", 3e-13), (2.5, "mm2", 2.5e-6), (12, "bit", 12.0)],
)
def test_known_conversions(value: float, suffix: str, si: float) -> None:
    assert to_si(value, suffix) == si
    assert from_si(si, suffix) == value


def test_numpy_numbers_are_numbers() -> None:
    numbers: list[Any] = [np.int64(2), np.float32(2), np.float64(2)]
    assert [to_si(number, "kib") for number in numbers] == [16384.0] * 3
    assert [from_si(number, "ghz") for number in numbers] == [2e-9] * 3
    assert exact_si(np.float64(0.1), "bit") == Fraction(1, 10)


@pytest.mark.parametrize(
    ("key", "suffix"),
    [("read_pj", "pj"), ("dram_bandwidth_gb_s", "gb_s"), ("area_mm2", "mm2"), ("psum_bit", "bit"), ("v", "v"),
     ("lbuf_kib", "kib"), ("rows", None), ("kernels", None), ("conv", None), ("pj_read", None), ("", None)],
)  # fmt: skip
def test_the_suffix_of_a_key(key: str, suffix: str | None) -> None:
    assert suffix_of(key) == suffix


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_suffix_is_found_on_a_key(suffix: str) -> None:
    assert suffix_of(f"some_key_{suffix}") == suffix == suffix_of(suffix)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "J", "0 J"),
        (1.23e-6, "J", "1.23 uJ"),
        (999.6e-6, "s", "1 ms"),
        (999.4e-6, "s", "999 us"),
        (1.0, "s", "1 s"),
        (1500.0, "Hz", "1.5 kHz"),
        (-2e-9, "J", "-2 nJ"),
        (4e-17, "J", "0.04 fJ"),
        (2e13, "Hz", "2e+04 GHz"),
    ],
)
def test_quantities_for_people(value: float, unit: str, text: str) -> None:
    assert format_si(value, unit) == text


@settings(deadline=None)
@given(st.floats(1e-14, 1e11))
def test_a_formatted_quantity_is_the_value_to_three_digits(value: float) -> None:
    number, unit = format_si(value, "J").split()
    factor = {"fJ": 1e-15, "pJ": 1e-12, "nJ": 1e-9, "uJ": 1e-6, "mJ": 1e-3, "J": 1, "kJ": 1e3, "MJ": 1e6, "GJ": 1e9}
    assert float(number) * factor[unit] == pytest.approx(value, rel=6e-3)
