"""Arch: one machine's fields; Mapping: what its compiler decides before a spike is seen."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import abc
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from spikeloom.errors import ConfigError
from spikeloom.units import from_si


@dataclass(frozen=True)
class Component:
    """A kind of part with the attributes its cost depends on, e.g. ``Component("sram", size_bit=16384, width_bit=64)``.

    kind: a word the component tables know (adder, register, comparator, sram, dram).
    width_bit: operand or port width. size_bit: capacity of a memory.
    """

    kind: str
    width_bit: int = 0
    size_bit: float = 0


@dataclass(frozen=True)
class Part:
    """Physical copies of a component: they occupy area and leak."""

    instance: str
    component: Component
    copies: int = 1


@dataclass(frozen=True)
class Charge:
    """One component action paid for each counted event (``per_bit``: for each counted bit; an access moves width_bit bits)."""

    component: Component
    action: str
    times: float = 1.0
    per_bit: bool = False


def knob(
    default: Any,
    meaning: str,
    *,
    suffix: str = "",
    choices: tuple[str, ...] = (),
    low: float | None = None,
    high: float | None = None,
) -> Any:
    """A field of an Arch: its default (SI), what it means, and what a machine file may say.

    suffix: unit suffix of the key in a file (``lbuf`` with suffix ``kib`` is ``lbuf_kib``); low, high: inclusive
    range in the unit of the suffix.
    """
    return field(
        default=default,
        metadata={"meaning": meaning, "suffix": suffix, "choices": choices, "low": low, "high": high},
    )


def check_knobs(arch: Any) -> None:
    """Check every field made by ``knob`` against its choices, type and range. Raises ConfigError naming the field.

    Files are checked at the border; this is for machines built in Python.
    """
    for item in fields(arch):
        meta = item.metadata
        value: Any = getattr(arch, item.name)
        default: Any = item.default
        if isinstance(value, abc.Mapping):
            continue
        if meta["choices"] and value not in meta["choices"]:
            raise ConfigError(f"{item.name}: got {value!r}, expected one of {', '.join(meta['choices'])}")
        numeric = isinstance(default, int | float) and not isinstance(default, bool)
        kinds: tuple[type, ...] = (int, float) if isinstance(default, float) else (type(default),)
        if not isinstance(value, kinds) or (numeric and isinstance(value, bool)):
            raise ConfigError(f"{item.name}: got {value!r}, expected a {type(default).__name__}")
        if meta["low"] is not None:
            shown = float(getattr(arch, item.name))
            if meta["suffix"] not in ("", "bit") and math.isfinite(shown):
                shown = from_si(shown, meta["suffix"])
            if not meta["low"] <= shown <= meta["high"]:
                raise ConfigError(
                    f"{item.name}: got {shown:g} {meta['suffix']}, expected {meta['low']:g}..{meta['high']:g}"
                )


class AbstractArch(ABC):
    """A machine's fields. Final subclasses are frozen dataclasses; quantities are SI (bit, s, Hz, bit/s)."""

    model: ClassVar[str]  # key in HARDWARE
    table: str  # name of the component table that prices this machine
    clock: float  # cycles (or ticks) per second, Hz

    @abstractmethod
    def inventory(self) -> tuple[Part, ...]:
        """The parts that occupy area and leak."""

    @abstractmethod
    def charges(self) -> abc.Mapping[tuple[str, str], tuple[Charge, ...]]:
        """What each counted (instance, action) costs. An empty tuple states that it is free; a missing key is an error."""

    @abstractmethod
    def notes(self) -> tuple[str, ...]:
        """Assumptions every report of this machine must repeat."""


@dataclass(frozen=True)
class LayerMapping:
    """Decisions for one layer."""

    window: int = 1
    dispatch: str = ""
    order: str = "raster"
    merge: int = 1


@dataclass(frozen=True)
class Mapping:
    """Decisions of a machine's compiler, by layer name."""

    model: str
    layers: abc.Mapping[str, LayerMapping] = field(default_factory=dict)
