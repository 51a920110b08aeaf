"""Minima and fronts of separable sums against trying everything."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloom.codesign.separable import least_product, not_dominated, pareto_front


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Energies and delays of up to five layers; whole numbers, so that sums are exact and ties are common."""
    sizes = draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))
    numbers = st.integers(0, 12) | st.integers(0, 10**6)
    energy = [np.array(draw(st.lists(numbers, min_size=n, max_size=n)), dtype=float) for n in sizes]
    delay = [np.array(draw(st.lists(numbers, min_size=n, max_size=n)), dtype=float) for n in sizes]
    return energy, delay


def every_sum(energy: list[np.ndarray], delay: list[np.ndarray]) -> np.ndarray:
    """All (energy, delay); shape (combinations, 2)."""
    picks = itertools.product(*(range(len(layer)) for layer in energy))
    return np.array(
        [[sum(x[k] for x, k in zip(each, pick, strict=True)) for each in (energy, delay)] for pick in picks]
    )


@settings(max_examples=300, deadline=None)
@given(tables())
def test_the_least_product_is_found(layers: tuple[list[np.ndarray], list[np.ndarray]]) -> None:
    energy, delay = layers
    sums = every_sum(energy, delay)
    least = sums.prod(axis=1).min()
    option = least_product(energy, delay)
    total_E, total_D = (sum(x[k] for x, k in zip(each, option, strict=True)) for each in layers)
    assert total_E * total_D == least


@settings(max_examples=300, deadline=None)
@given(tables())
def test_the_front_is_what_nothing_beats(layers: tuple[list[np.ndarray], list[np.ndarray]]) -> None:
    energy, delay = layers
    sums = {tuple(pair) for pair in every_sum(energy, delay).tolist()}
    expected = {(e, d) for e, d in sums if not any((x <= e and y <= d) and (x, y) != (e, d) for x, y in sums)}
    front = pareto_front(energy, delay)
    assert list(zip(front.energy.tolist(), front.delay.tolist(), strict=True)) == sorted(expected, key=lambda x: x[1])
    for e, d, chosen in zip(front.energy, front.delay, front.option, strict=True):
        assert (e, d) == tuple(sum(x[k] for x, k in zip(each, chosen, strict=True)) for each in layers)


def test_equal_entries_count_once_and_the_first_is_taken() -> None:
    kept = not_dominated(np.array([2.0, 1.0, 1.0, 3.0]), np.array([1.0, 2.0, 2.0, 1.0]))
    assert kept.tolist() == [0, 1]


def test_many_layers_are_done_in_little_memory() -> None:
    """Thirty layers of forty options have far more sums than could be listed; no change of one layer helps."""
    rng = np.random.default_rng(1)
    delay = [np.sort(rng.integers(10**4, 10**7, 40)).astype(float) for _ in range(30)]
    energy = [np.sort(rng.random(40))[::-1] for _ in range(30)]
    option = least_product(energy, delay)
    e, d = (sum(float(x[k]) for x, k in zip(each, option, strict=True)) for each in (energy, delay))
    for layer, k in enumerate(option):
        assert (
            (e - energy[layer][k] + energy[layer]) * (d - delay[layer][k] + delay[layer]) >= e * d * (1 - 1e-12)
        ).all()
