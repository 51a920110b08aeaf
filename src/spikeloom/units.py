"""Unit suffixes at the border, SI inside. The only module that knows a prefix."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from math import inf, nextafter

#: Suffix of a key in a file -> (factor to SI, SI unit). Longer suffixes are matched first.
SUFFIXES: dict[str, tuple[str, str]] = {
    "fj": ("1e-15", "J"),
    "pj": ("1e-12", "J"),
    "nj": ("1e-9", "J"),
    "uj": ("1e-6", "J"),
    "mj": ("1e-3", "J"),
    "ns": ("1e-9", "s"),
    "us": ("1e-6", "s"),
    "ms": ("1e-3", "s"),
    "fjs": ("1e-15", "Js"),
    "pjs": ("1e-12", "Js"),
    "njs": ("1e-9", "Js"),
    "ujs": ("1e-6", "Js"),
    "mjs": ("1e-3", "Js"),
    "nw": ("1e-9", "W"),
    "uw": ("1e-6", "W"),
    "mw": ("1e-3", "W"),
    "um2": ("1e-12", "m2"),
    "mm2": ("1e-6", "m2"),
    "mhz": ("1e6", "Hz"),
    "ghz": ("1e9", "Hz"),
    "gb_s": ("8e9", "bit/s"),
    "kib": ("8192", "bit"),
    "bit": ("1", "bit"),
    "v": ("1", "V"),
    "nm": ("1e-9", "m"),
}

_PREFIXES = (
    (1e-15, "f"),
    (1e-12, "p"),
    (1e-9, "n"),
    (1e-6, "u"),
    (1e-3, "m"),
    (1.0, ""),
    (1e3, "k"),
    (1e6, "M"),
    (1e9, "G"),
)


def suffix_of(key: str) -> str | None:
    """Return the unit suffix of a key such as ``read_pj``, or None when it carries none."""
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if key == suffix or key.endswith("_" + suffix):
            return suffix
    return None


def to_si(value: float, suffix: str) -> float:
    """Convert a number in the unit of ``suffix`` to SI, rounded once (``to_si(30, "gb_s") == 2.4e11`` bit/s)."""
    return float(Decimal(str(value)) * Decimal(SUFFIXES[suffix][0]))


def from_si(value: float, suffix: str) -> float:
    """Convert an SI number to the unit of ``suffix``: the value of fewest digits that ``to_si`` takes back to it."""
    near = float(Decimal(repr(float(value))) / Decimal(SUFFIXES[suffix][0]))
    for candidate in (float(f"{near:.15g}"), float(f"{near:.16g}"), near, nextafter(near, inf), nextafter(near, -inf)):
        if to_si(candidate, suffix) == value:
            return candidate
    return near  # no value of this unit is exactly that SI number


def exact_si(value: float, suffix: str) -> Fraction:
    """The SI value of a printed decimal as an exact fraction, for integer arithmetic on cycles."""
    return Fraction(str(value)) * Fraction(SUFFIXES[suffix][0])


def format_si(value: float, unit: str, digits: int = 3) -> str:
    """Write an SI quantity for people: ``format_si(1.23e-6, "J") == "1.23 uJ"``."""
    if value == 0:
        return f"0 {unit}"
    scale, prefix = _PREFIXES[0]
    for candidate, name in _PREFIXES:
        if abs(value) >= candidate * 0.9995:
            scale, prefix = candidate, name
    return f"{value / scale:.{digits}g} {prefix}{unit}"
