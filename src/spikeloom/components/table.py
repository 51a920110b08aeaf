"""Table: sourced prices of components; every answer is a `Quote`, an `Excluded` or a `CostError`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from math import isfinite

from spikeloom.components.interpolate import linear, log_log, log_log_grid, proportional
from spikeloom.core.arch import Component
from spikeloom.errors import CostError
from spikeloom.files.schema import nearest
from spikeloom.units import from_si

#: Names in a point that are not actions.
NOT_ACTIONS = ("area", "leakage")
_ADVICE = (
    "choose a part inside the range, build it from several smaller ones, or add sourced points "
    "to a table of your own (docs/models/components.md)"
)


class Rule(StrEnum):
    """How an entry answers between its points."""

    LINEAR_WIDTH = "linear in width_bit"
    SIZE = "log-log in size_bit at equal width_bit"
    SIZE_THEN_WIDTH = "log-log in size_bit, then log-log in width_bit"
    PROPORTIONAL = "proportional to width_bit"

    @property
    def sized(self) -> bool:
        """Whether the points of this rule are memories with a capacity."""
        return self in (Rule.SIZE, Rule.SIZE_THEN_WIDTH)


@dataclass(frozen=True)
class Quote:
    """A price in SI (J per action, m2, W) and where it comes from."""

    value: float
    source: str


@dataclass(frozen=True)
class Excluded:
    """A quantity that a table deliberately does not price, and why."""

    reason: str


@dataclass(frozen=True)
class Point:
    """Values in SI keyed by action, ``area`` or ``leakage``, at one width and (for memories) capacity in bits."""

    width_bit: int
    size_bit: float
    values: Mapping[str, float]


@dataclass(frozen=True)
class Entry:
    """Points of one component kind from one source.

    node (m) and voltage (V) are None where the source does not state them; voltage_source says so or says where the
    voltage stands. widths and sizes (bits) are the inclusive valid range; sizes is None for parts without a capacity.
    """

    kind: str
    source: str
    node: float | None
    voltage: float | None
    voltage_source: str
    rule: Rule
    widths: tuple[int, int]
    sizes: tuple[float, float] | None
    points: tuple[Point, ...]
    excluded: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def priced(self) -> tuple[str, ...]:
        """What the points give: actions, ``area``, ``leakage``."""
        return tuple(self.points[0].values)

    @property
    def conditions(self) -> str:
        """Node and voltage in words."""
        node = "node not stated" if self.node is None else f"{from_si(self.node, 'nm'):g} nm"
        return f"{node}, {'voltage not stated' if self.voltage is None else f'{self.voltage:g} V'}"

    @property
    def range(self) -> str:
        """The valid range in words."""
        low, high = self.widths
        words = f"{low} bit" if low == high else f"{low} to {high} bit"
        if self.sizes is not None:
            words += f", {_kib(self.sizes[0])} to {_kib(self.sizes[1])}"
        return words

    def quote(self, component: Component, what: str) -> Quote:
        """Interpolate one value by the rule of this entry.

        Raises:
            CostError: the component lies outside the valid range.
        """
        self._check_range(component, what)
        width, size = component.width_bit, component.size_bit
        on_point = any(point.width_bit == width and point.size_bit == size for point in self.points)
        how = "tabulated" if on_point else f"interpolated {self.rule} ({self.range})"
        if self.rule is Rule.PROPORTIONAL:
            point = self.points[0]
            value = proportional(width, point.width_bit, point.values[what])
            how = str(self.rule)
        elif self.rule is Rule.LINEAR_WIDTH:
            ordered = sorted(self.points, key=lambda point: point.width_bit)
            value = linear(width, [p.width_bit for p in ordered], [p.values[what] for p in ordered])
        elif self.rule is Rule.SIZE:
            value = log_log(size, *self._curve(width, what))
        else:
            widths = {point.width_bit for point in self.points}
            value = log_log_grid(size, width, {each: self._curve(each, what) for each in widths})
        return Quote(value, f"{self.source} [{self.conditions}; {how}]")

    def _curve(self, width_bit: int, what: str) -> tuple[list[float], list[float]]:
        curve = sorted((p.size_bit, p.values[what]) for p in self.points if p.width_bit == width_bit)
        return [size for size, _ in curve], [value for _, value in curve]

    def _check_range(self, component: Component, what: str) -> None:
        width, size = component.width_bit, component.size_bit
        if self.sizes is None and size != 0:
            raise CostError(
                f"{self.kind}: the {what} of a {width}-bit part was asked with size_bit = {size:g}, but this kind has "
                "no capacity; leave size_bit at 0 and state copies in the inventory"
            )
        low, high = self.widths
        if not low <= width <= high:
            raise CostError(f"{self.kind}: no {what} for width {width} bit; the source covers {self.range}; {_ADVICE}")
        if self.rule is Rule.SIZE and width not in {point.width_bit for point in self.points}:
            known = ", ".join(str(each) for each in sorted({point.width_bit for point in self.points}))
            raise CostError(
                f"{self.kind}: no {what} for width {width} bit; the points stand at {known} bit only; {_ADVICE}"
            )
        if self.sizes is not None and not self.sizes[0] <= size <= self.sizes[1]:
            raise CostError(
                f"{self.kind}: no {what} for size {_kib(size)} ({size:g} bit); the source covers {self.range}; {_ADVICE}"
            )


@dataclass(frozen=True)
class Table:
    """Every component a set of machines may use. Made by `load_table`."""

    name: str
    title: str
    entries: tuple[Entry, ...]
    notes: tuple[str, ...] = ()

    @property
    def kinds(self) -> tuple[str, ...]:
        """Component kinds in order of appearance."""
        return tuple(dict.fromkeys(entry.kind for entry in self.entries))

    def actions(self, kind: str) -> tuple[str, ...]:
        """The actions of a kind that have a price."""
        return tuple(what for entry in self._of(kind) for what in entry.priced if what not in NOT_ACTIONS)

    def energy(self, component: Component, action: str) -> Quote:
        """Joules of one action; for memories, of one access that moves width_bit bits.

        Raises:
            CostError: unknown kind, unknown action, or outside the range its source covers.
        """
        known = self.actions(component.kind)
        if action not in known:
            raise CostError(
                f"table '{self.name}': no energy for action '{action}' of {component.kind}{nearest(action, known)}; "
                f"priced are {', '.join(known)}; add a sourced point or charge another action"
            )
        quote = self._settle(component, action)
        assert isinstance(quote, Quote)  # only area and leakage can be excluded
        return quote

    def area(self, component: Component) -> Quote | Excluded:
        """Square metres of one copy, or why they are not priced. Raises CostError as `energy` does."""
        return self._settle(component, "area")

    def leakage(self, component: Component) -> Quote | Excluded:
        """Standby watts of one copy, or why they are not priced. Raises CostError as `energy` does."""
        return self._settle(component, "leakage")

    def scaled(self, factor: float) -> Table:
        """The same table with every energy times ``factor``; area and leakage stay, and every source says so."""
        if not (isfinite(factor) and factor > 0):
            raise CostError(f"table '{self.name}': energies cannot be scaled by {factor}; give a positive number")
        return replace(
            self,
            name=f"{self.name} x {factor:g}",
            entries=tuple(
                replace(
                    entry,
                    source=f"{entry.source} (energies x {factor:g})",
                    points=tuple(
                        replace(
                            point,
                            values={k: v if k in NOT_ACTIONS else v * factor for k, v in point.values.items()},
                        )
                        for point in entry.points
                    ),
                )
                for entry in self.entries
            ),
        )

    def _settle(self, component: Component, what: str) -> Quote | Excluded:
        for entry in self._of(component.kind):
            if what in entry.excluded:
                return Excluded(entry.excluded[what])
            if what in entry.priced:
                try:
                    return entry.quote(component, what)
                except CostError as error:
                    raise CostError(f"table '{self.name}': {error}") from None
        raise CostError(f"table '{self.name}': nothing is said about the {what} of {component.kind}; add an entry")

    def _of(self, kind: str) -> tuple[Entry, ...]:
        found = tuple(entry for entry in self.entries if entry.kind == kind)
        if not found:
            raise CostError(
                f"table '{self.name}': no component kind '{kind}'{nearest(kind, self.kinds)}; it prices "
                f"{', '.join(self.kinds)}; add an entry with its source or choose another table"
            )
        return found

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.title}"]
        for entry in self.entries:
            lines.append(
                f"  {entry.kind} ({', '.join(entry.priced)}; {entry.range}; {entry.conditions}): {entry.source}"
            )
            lines.extend(f"  {entry.kind} {what} not priced: {why}" for what, why in entry.excluded.items())
        return "\n".join(lines)


def describe(component: Component) -> str:
    """A component in words: ``54 KiB sram (64 bit)``."""
    size = f"{_kib(component.size_bit)} " if component.size_bit else ""
    return f"{size}{component.kind} ({component.width_bit} bit)"


def _kib(size_bit: float) -> str:
    return f"{from_si(size_bit, 'kib'):g} KiB"
