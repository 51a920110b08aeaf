"""Counts: how often each action of each instance happened, as integers; never a joule."""

from __future__ import annotations

from collections import abc
from dataclasses import dataclass, field, replace
from typing import TypeVar

K = TypeVar("K")
Key = tuple[str, str, str]


@dataclass(frozen=True)
class Counts:
    """Integers keyed (layer, instance, action), cycles per layer, and the total cycles.

    statistics: integers keyed (layer, name) that describe the schedule (utilisation) and are not priced.
    expected: True when a rate-driven or tool-faithful model returned expected (fractional) counts.
    sample_cycles: cycles of each sample, which follow one another; empty where every sample takes the same. No part of equality:
        counts do not depend on the order of samples.
    """

    actions: abc.Mapping[Key, int] = field(default_factory=dict)
    layer_cycles: abc.Mapping[str, int] = field(default_factory=dict)
    cycles: int = 0
    statistics: abc.Mapping[tuple[str, str], int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    expected: bool = False
    sample_cycles: tuple[int, ...] = field(default=(), compare=False)

    @staticmethod
    def of_layer(
        name: str, actions: abc.Mapping[tuple[str, str], int], cycles: int | tuple[int, ...], /, **statistics: int
    ) -> Counts:
        """Of one layer. actions: by (instance, action). cycles: in all, or of each sample."""
        total, samples = (sum(cycles), cycles) if isinstance(cycles, tuple) else (cycles, ())
        keyed = {(name, *pair): n for pair, n in actions.items()}
        described = {(name, key): n for key, n in statistics.items()}
        return Counts(keyed, {name: total}, total, described, sample_cycles=samples)

    def by_sample(self, num_samples: int) -> tuple[int, ...]:
        """Cycles of each sample."""
        found = self.sample_cycles or (self.cycles // num_samples,) * num_samples
        assert len(found) == num_samples and sum(found) == self.cycles, "cycles of samples that differ are to be given"
        return found

    def then(self, other: Counts) -> Counts:
        """Both, one after the other: actions and cycles add."""
        N = len(self.sample_cycles or other.sample_cycles)
        samples = tuple(a + b for a, b in zip(self.by_sample(N), other.by_sample(N), strict=True)) if N else ()
        return replace(self._joined(other, self.cycles + other.cycles, lambda a, b: a + b), sample_cycles=samples)

    def beside(self, other: Counts) -> Counts:
        """Both at the same time: actions add, cycles are the larger."""
        longer = self if self.cycles >= other.cycles else other
        return replace(self._joined(other, longer.cycles, max), sample_cycles=longer.sample_cycles)

    def _joined(self, other: Counts, cycles: int, join: abc.Callable[[int, int], int]) -> Counts:
        layer_cycles = dict(self.layer_cycles)
        for layer, value in other.layer_cycles.items():
            layer_cycles[layer] = join(layer_cycles[layer], value) if layer in layer_cycles else value
        return Counts(
            _added(self.actions, other.actions),
            layer_cycles,
            cycles,
            _added(self.statistics, other.statistics),
            self.warnings + tuple(w for w in other.warnings if w not in self.warnings),
            self.expected or other.expected,
        )

    def layers(self) -> tuple[str, ...]:
        """Layer names in order of first appearance."""
        return tuple(dict.fromkeys([*self.layer_cycles, *(key[0] for key in self.actions)]))

    def of(self, layer: str) -> dict[str, int]:
        """The counts of one layer keyed ``instance.action``."""
        return {f"{i}.{a}": n for (name, i, a), n in self.actions.items() if name == layer}

    def total(self, instance: str, action: str) -> int:
        """Sum of one action over all layers."""
        return sum(n for (_, i, a), n in self.actions.items() if (i, a) == (instance, action))


def _added(left: abc.Mapping[K, int], right: abc.Mapping[K, int]) -> dict[K, int]:
    added = dict(left)
    for key, value in right.items():
        added[key] = added.get(key, 0) + value
    return added
