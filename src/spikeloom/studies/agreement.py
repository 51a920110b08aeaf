"""Agreement of our figures with published ones and with what tools print, and the files that hold those."""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from typing import Any

#: How far a published figure may be off and still be called close.
CLOSE = 0.05
EXACT = 1e-9


@dataclass(frozen=True)
class Figure:
    """One published figure and ours.

    published: as printed. low, high: what counts as agreement before rounding, equal for a plain number; a share is a
    fraction. why: what is known about a deviation.
    """

    what: str
    published: str
    low: float
    high: float
    ours: float
    source: str
    conditions: str = ""
    why: str = ""

    @property
    def error(self) -> float:
        """Relative to the published number, with its sign; 0 within a range."""
        nearest = min(max(self.ours, self.low), self.high)
        return self.ours / nearest - 1

    @property
    def verdict(self) -> str:
        """``equal``: rounds to what is printed, or lies in the range; ``close``: within 5 %; else ``miss``."""
        digits = len(self.published.split("%")[0].strip().partition(".")[2])
        scale = 100 if "%" in self.published else 1
        if self.error == 0 or (
            self.low == self.high and round(self.ours * scale, digits) == round(self.low * scale, digits)
        ):
            return "equal"
        return "close" if abs(self.error) <= CLOSE else "miss"

    @property
    def shown(self) -> str:
        """Our figure in the form of the published one."""
        return f"{100 * self.ours:.1f} %" if "%" in self.published else f"{self.ours:.4g}"


@dataclass(frozen=True)
class Tally:
    """Numbers of one run of a tool, compared one by one.

    Whole numbers (counts, cycles) must be equal, others (energies, expected counts) within ``tolerance``, relative.
    """

    what: str
    source: str
    conditions: str
    integers: int
    equal: int
    reals: int
    within: int
    worst: float | None
    tolerance: float = EXACT

    @property
    def misses(self) -> int:
        """How many numbers differ."""
        return self.integers - self.equal + self.reals - self.within

    @property
    def verdict(self) -> str:
        """``equal`` or ``miss``."""
        return "miss" if self.misses else "equal"


def tally(
    what: str, source: str, conditions: str, pairs: Iterable[tuple[float, float]], tolerance: float = EXACT
) -> Tally:
    """Compare (ours, theirs) pairs; whole numbers on both sides must be equal."""
    integers, errors = [], []
    for ours, theirs in pairs:
        if isinstance(ours, int) and float(theirs).is_integer():  # archived cycles were recovered from joules
            integers.append(ours == theirs)
        else:
            errors.append(abs(ours - theirs) / abs(theirs) if theirs else float(ours != theirs))
    within = sum(error <= tolerance for error in errors)
    worst = max(errors, default=None)
    return Tally(what, source, conditions, len(integers), sum(integers), len(errors), within, worst, tolerance)


def figure(entry: dict[str, Any], ours: float) -> Figure:
    """A figure of figures.toml with our value."""
    published = entry["published"]
    if isinstance(published, list):
        low, high, printed = *published, " to ".join(map(str, published))
    elif published.startswith(">"):
        low, high, printed = entry["low"], math.inf, published
    else:
        low = high = float(re.sub(r"[ %]", "", published)) / (100 if "%" in published else 1)
        printed = published
    return Figure(
        entry["what"], printed, low, high, ours, entry["source"], entry.get("conditions", ""), entry.get("why", "")
    )


def published(name: str) -> Any:
    """A file of ``studies/published``: what tools print (.json) or papers say (.toml)."""
    text = (resources.files("spikeloom.studies") / "published" / name).read_text(encoding="utf-8")
    return json.loads(text) if name.endswith(".json") else tomllib.loads(text)
