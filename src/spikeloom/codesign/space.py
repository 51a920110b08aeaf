"""The designs a search may choose from: named choices among finite sets of values, some only under conditions.

Names are dotted and say whose choice it is: ``arch.rows``, ``arch.window.conv1``, ``net.width``, ``train.num_steps``,
``prune.sparsity``. What they do is the business of whoever is given the values; this module only knows which there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from spikeloom.errors import SearchError
from spikeloom.files.schema import nearest

#: What a choice may be; also what Optuna stores in a categorical parameter.
Value: TypeAlias = bool | int | float | str
#: One point of a space: what was chosen, by name, in the order of the choices; those whose conditions fail are absent.
Params: TypeAlias = Mapping[str, Value]
#: Parts that a memory budget may be divided into.
MOST_PARTS = 10_000


class Suggests(Protocol):
    """The part of an Optuna trial that a space needs."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


@dataclass(frozen=True)
class Choice:
    """One of finitely many values.

    name: dotted. values: distinct, at least one, in the order a grid takes them.
    when: earlier choice -> the values under which this one is there; all must hold.
    """

    name: str
    values: tuple[Value, ...]
    when: Mapping[str, tuple[Value, ...]] | None = None

    def __post_init__(self) -> None:
        if not self.name or any(not part for part in self.name.split(".")):
            raise SearchError(f"choice '{self.name}': expected a dotted name such as 'arch.rows'")
        _check_values(self.name, self.values)
        for parent, values in (self.when or {}).items():
            _check_values(f"{self.name}: when.{parent}", values)

    def offers(self, value: object) -> bool:
        """Whether ``value`` is one of the values; True is not 1, and 1 is 1.0."""
        return _among(value, self.values)


@dataclass(frozen=True)
class Space:
    """Choices in an order in which every condition speaks of earlier ones.

    Raises:
        SearchError: a name that stands twice, or a condition on a choice or value that is not there.
    """

    choices: tuple[Choice, ...]

    def __post_init__(self) -> None:
        if not self.choices:
            raise SearchError("the space is empty; expected at least one choice")
        known: dict[str, Choice] = {}
        for choice in self.choices:
            if choice.name in known:
                raise SearchError(f"choice '{choice.name}': stands twice in the space; name each once")
            for parent, values in (choice.when or {}).items():
                if parent not in known:
                    raise SearchError(
                        f"choice '{choice.name}': when names '{parent}', which is no earlier choice{nearest(parent, known)}; "
                        f"expected one of {', '.join(known) or 'none, this is the first'}"
                    )
                for value in values:
                    if not known[parent].offers(value):
                        raise SearchError(
                            f"choice '{choice.name}': when.{parent}: got {value!r}, expected one of {_listed(known[parent].values)}"
                        )
            known[choice.name] = choice

    @property
    def names(self) -> tuple[str, ...]:
        """Of all choices, in order."""
        return tuple(choice.name for choice in self.choices)

    def choice(self, name: str) -> Choice:
        """The choice of that name. Raises SearchError naming the nearest."""
        for choice in self.choices:
            if choice.name == name:
                return choice
        raise SearchError(
            f"'{name}': no such choice{nearest(name, self.names)}; expected one of {', '.join(self.names)}"
        )

    def active(self, choice: Choice, params: Params) -> bool:
        """Whether ``choice`` is there, given what was chosen before it."""
        conditions = (choice.when or {}).items()
        return all(parent in params and _among(params[parent], values) for parent, values in conditions)

    @property
    def size(self) -> int:
        """Number of points of the grid."""
        return self.points({})

    def points(self, begun: Params) -> int:
        """Number of points that have the choices ``begun``, which are the first ones of a point.

        Only choices that others depend on are enumerated; the rest are factors, so that the size of a space too large to
        walk through is known all the same.
        """
        gates = {parent for choice in self.choices for parent in choice.when or {}}

        def points(first: int, chosen: Params) -> int:
            factor = 1
            for k in range(first, len(self.choices)):
                choice = self.choices[k]
                if choice.name in chosen or not self.active(choice, chosen):
                    continue
                if choice.name in gates:
                    return factor * sum(points(k + 1, {**chosen, choice.name: value}) for value in choice.values)
                factor *= len(choice.values)
            return factor

        return points(0, begun)

    def grid(self) -> Iterator[dict[str, Value]]:
        """Every point once; the last choice changes fastest."""

        def walk(first: int, chosen: dict[str, Value]) -> Iterator[dict[str, Value]]:
            for k in range(first, len(self.choices)):
                choice = self.choices[k]
                if self.active(choice, chosen):
                    for value in choice.values:
                        yield from walk(k + 1, {**chosen, choice.name: value})
                    return
            yield dict(chosen)

        yield from walk(0, {})

    def suggest(self, trial: Suggests) -> dict[str, Value]:
        """A point drawn by ``trial``, one categorical parameter per choice that is there."""
        chosen: dict[str, Value] = {}
        for choice in self.choices:
            if self.active(choice, chosen):
                chosen[choice.name] = trial.suggest_categorical(choice.name, choice.values)
        return chosen

    def check(self, params: Params) -> None:
        """Raise SearchError unless ``params`` is a point of this space; names the choice."""
        for name in params:
            self.choice(name)
        for choice in self.choices:
            there = self.active(choice, params)
            if there and choice.name not in params:
                raise SearchError(f"'{choice.name}': is missing; expected one of {_listed(choice.values)}")
            if not there and choice.name in params:
                conditions = " and ".join(f"{p} is {_listed(v)}" for p, v in (choice.when or {}).items())
                raise SearchError(f"'{choice.name}': is only there when {conditions}; leave it out")
            if there and not choice.offers(params[choice.name]):
                raise SearchError(
                    f"'{choice.name}': got {params[choice.name]!r}, expected one of {_listed(choice.values)}"
                )

    def described(self) -> list[dict[str, Any]]:
        """The choices as plain JSON values, to compare one space with another."""
        return [
            {"name": choice.name, "values": list(choice.values)}
            | ({"when": {p: list(v) for p, v in choice.when.items()}} if choice.when else {})
            for choice in self.choices
        ]


def shapes(total: int, low: int = 1, high: int | None = None) -> tuple[tuple[int, int], ...]:
    """All (a, b) with ``a * b = total`` and both in low..high: array shapes at a PE budget.

    Raises:
        SearchError: there is none.
    """
    high = total if high is None else high
    found = tuple((a, total // a) for a in range(1, total + 1) if total % a == 0)
    kept = tuple(pair for pair in found if low <= min(pair) and max(pair) <= high)
    if not kept:
        raise SearchError(f"a product of {total}: no two factors lie in {low}..{high}; choose another budget")
    return kept


def splits(total: float, parts: int) -> tuple[tuple[float, float], ...]:
    """All (a, b) with ``a + b = total`` where a is 1..parts-1 of ``parts`` equal parts: a memory budget shared by two buffers.

    Raises:
        SearchError: no budget, fewer than two parts, or more than MOST_PARTS.
    """
    if not (math.isfinite(total) and total > 0) or not 2 <= parts <= MOST_PARTS:
        raise SearchError(f"a sum of {total:g} in {parts} parts: expected a positive budget and 2..{MOST_PARTS} parts")
    return tuple((total * k / parts, total - total * k / parts) for k in range(1, parts))


def _check_values(name: str, values: tuple[Value, ...]) -> None:
    if not values:
        raise SearchError(f"choice '{name}': has no values; give at least one")
    for k, value in enumerate(values):
        if not isinstance(value, bool | int | float | str) or (isinstance(value, float) and not math.isfinite(value)):
            raise SearchError(f"choice '{name}': got {value!r}, expected finite numbers, words, true or false")
        if _among(value, values[:k]):
            raise SearchError(f"choice '{name}': {value!r} stands twice; name each value once")


def _among(value: object, values: Sequence[Value]) -> bool:
    return any(value == known and isinstance(value, bool) == isinstance(known, bool) for known in values)


def _listed(values: Sequence[Value]) -> str:
    return ", ".join(str(value) for value in values)
