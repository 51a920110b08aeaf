"""What a number may be, in the words of its error: one rule for files, options and Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf

from spikeloom.errors import SpikeloomError

PERCENTILE = "above 0 and at most 100"
_INSIDE: Mapping[str, Callable[[float], bool]] = {
    "at least 1": lambda value: 1 <= value < inf,
    "at least 0": lambda value: 0 <= value < inf,
    "positive and finite": lambda value: 0 < value < inf,
    "between 0 and 1": lambda value: 0 < value < 1,
    "in 0..1 (1 excluded)": lambda value: 0 <= value < 1,
    PERCENTILE: lambda value: 1 <= value <= 100,
}


def check_range(kind: type[SpikeloomError], expected: str, **values: float | None) -> None:
    """Raise ``kind``, naming the value, unless all ``values`` that are not None are as ``expected`` says."""
    for name, value in values.items():
        if value is not None and not _INSIDE[expected](value):
            hint = f"; it is in percent, write {100 * value:g}" if expected is PERCENTILE and 0 < value < 1 else ""
            raise kind(f"{name} must be {expected}, got {value}{hint}")
