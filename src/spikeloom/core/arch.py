"""Arch: one machine's fields; Mapping: what its compiler decides before a spike is seen."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import abc
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar

from spikeloom.core.placement import Placement
from spikeloom.core.purposes import PURPOSES, Purpose
from spikeloom.core.report import Report
from spikeloom.errors import ConfigError
from spikeloom.units import from_si

V = TypeVar("V")
#: A knob that may differ from layer to layer: one value for all, or a table with an entry for every layer.
PerLayer: TypeAlias = V | abc.Mapping[str, V]


def of_layer(value: PerLayer[V], layer: str) -> V:
    """What a per-layer knob says for one layer."""
    return value[layer] if isinstance(value, abc.Mapping) else value


def values_of(value: PerLayer[V]) -> tuple[V, ...]:
    """Every value that a per-layer knob takes, at least one."""
    return tuple(value.values()) if isinstance(value, abc.Mapping) else (value,)


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
    per_layer: bool = False,
    search: tuple[Any, ...] = (),
    fidelity: str = "",
) -> Any:
    """A field of an Arch: its default (SI), what it means, and what a machine file may say.

    suffix: unit suffix of the key in a file (``lbuf`` with suffix ``kib`` is ``lbuf_kib``); low, high: inclusive
    range in the unit of the suffix. per_layer: the field is a ``PerLayer``, in a file one value or a table; it has no
    suffix. search: what a search tries unless it is told otherwise, in the unit of the suffix; none where it leaves the
    field alone. fidelity: the one in which the field acts, of a machine that has a field of that name (`check_fidelity`).
    """
    assert not (per_layer and suffix), "units of a table's entries are not converted"
    if fidelity:
        meaning = f"{fidelity} fidelity: {meaning}"
    if per_layer:
        meaning = f"{meaning}: one value, or a table layer -> value"
    return field(
        default=default,
        metadata={
            "meaning": meaning,
            "suffix": suffix,
            "choices": choices,
            "low": low,
            "high": high,
            "per_layer": per_layer,
            "search": search,
            "fidelity": fidelity,
            "quirk": False,
        },
    )


def quirk(meaning: str) -> Any:
    """A field that is true where the machine keeps a habit of the tool it speaks for; it acts in tool fidelity only."""
    made = knob(True, f"quirk of the tool: {meaning}")
    return field(default=True, metadata={**made.metadata, "fidelity": "tool", "quirk": True})


def quirks(arch_type: Any) -> tuple[str, ...]:
    """Names of the fields made by ``quirk``."""
    return tuple(item.name for item in fields(arch_type) if item.metadata["quirk"])


def check_fidelity(arch: Any) -> None:
    """Raise ConfigError where a field that acts in the other fidelity alone differs from its default."""
    for other in ("tool", "trace"):
        idle = [item for item in fields(arch) if item.metadata["fidelity"] == other != arch.fidelity]
        if changed := [item.name for item in idle if getattr(arch, item.name) != item.default]:
            raise ConfigError(
                f"{', '.join(changed)}: acts in {other} fidelity only; set fidelity = '{other}' or leave it out"
            )


def check_knobs(arch: Any) -> None:
    """Check every field made by ``knob`` against its choices, type and range. Raises ConfigError naming the field.

    Files are checked at the border; this is for machines built in Python.
    """
    for item in fields(arch):
        value: Any = getattr(arch, item.name)
        if item.metadata["per_layer"] and isinstance(value, abc.Mapping):
            if not value:
                raise ConfigError(f"{item.name}: got an empty table, expected one value or an entry for every layer")
            for layer, entry in value.items():
                _check_knob(f"{item.name}.{layer}", item, entry)
        else:
            _check_knob(item.name, item, value)


def _check_knob(key: str, item: Any, value: Any) -> None:
    """Check one value of the field ``item``, called ``key`` in the error."""
    meta, default = item.metadata, item.default
    if meta["choices"]:
        if not isinstance(value, str) or value not in meta["choices"]:
            raise ConfigError(f"{key}: got {value!r}, expected one of {', '.join(meta['choices'])}")
        return
    numeric = isinstance(default, int | float) and not isinstance(default, bool)
    kinds: Any = (int, float) if isinstance(default, float) else (type(default),)
    if not isinstance(value, kinds) or (numeric and isinstance(value, bool)):
        raise ConfigError(f"{key}: got {value!r}, expected a {type(default).__name__}")
    if meta["low"] is not None:
        shown, unit = float(value), meta["suffix"]
        if unit not in ("", "bit") and math.isfinite(shown):
            shown = from_si(shown, unit)
        if not meta["low"] <= shown <= meta["high"]:
            raise ConfigError(f"{key}: got {f'{shown:g} {unit}'.strip()}, expected {meta['low']:g}..{meta['high']:g}")


@dataclass(frozen=True)
class Joint:
    """Two fields that a search trades against each other at a budget: one choice of pairs such as "8x8" or "2+54".

    keys: as in a machine file. sign: "x" where the budget is their product, "+" where it is their sum. total: the budget
    unless a search says otherwise; parts: equal parts of a sum that are shared out.
    """

    keys: tuple[str, str]
    sign: Literal["x", "+"]
    total: float
    parts: int = 8


class AbstractArch(ABC):
    """A machine's fields. Final subclasses are frozen dataclasses; quantities are SI (bit, s, Hz, bit/s)."""

    model: ClassVar[str]  # key in HARDWARE
    joints: ClassVar[abc.Mapping[str, Joint]] = {}  # by the name of the choice
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

    def purposes(self) -> abc.Mapping[str, Purpose]:
        """What each instance, or ``instance.action``, is for; {} where nothing says so."""
        return PURPOSES.get(self.model, {})

    def beside_measured(self, report: Report) -> tuple[str, ...]:
        """What a ratio with this bill does not say when the bill stands beside a measured device's; none by default."""
        return ()


@dataclass(frozen=True)
class LayerMapping:
    """Decisions for one layer."""

    window: int = 1
    dispatch: str = ""
    order: str = "raster"
    merge: int = 1


@dataclass(frozen=True)
class Mapping:
    """Decisions of a machine's compiler, by layer name; of a many-core machine also which core holds which neurons."""

    model: str
    layers: abc.Mapping[str, LayerMapping] = field(default_factory=dict)
    placement: Placement | None = None
