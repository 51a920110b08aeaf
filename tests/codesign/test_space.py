from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikeloom.codesign.space import Choice, Space, shapes, splits
from spikeloom.errors import SearchError


class Drawn:
    """Stands in for an Optuna trial: takes values from a list of indices and notes what was asked."""

    def __init__(self, indices: Sequence[int]) -> None:
        self.indices, self.asked = iter(indices), list[str]()

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        self.asked.append(name)
        return choices[next(self.indices) % len(choices)]


CONDITIONAL = Space(
    (
        Choice("arch.dispatch", ("agile", "ptb", "dense")),
        Choice("arch.window", (1, 4, 8), {"arch.dispatch": ("agile", "ptb")}),
        Choice("arch.order", ("raster", "interleave"), {"arch.dispatch": ("agile",), "arch.window": (4, 8)}),
        Choice("net.width", (0.5, 1.0)),
    )
)


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    choices: list[Choice] = []
    for k in range(draw(st.integers(1, 5))):
        values = tuple(range(draw(st.integers(1, 3))))
        parents = draw(st.lists(st.sampled_from(choices), max_size=2, unique_by=lambda c: c.name)) if choices else []
        when = {p.name: tuple(draw(st.sets(st.sampled_from(p.values), min_size=1))) for p in parents}
        choices.append(Choice(f"arch.k{k}", values, when or None))
    return Space(tuple(choices))


def test_plain_grid_is_the_product_in_order() -> None:
    space = Space((Choice("arch.rows", (4, 8)), Choice("arch.cols", (2, 1, 3))))
    assert [tuple(point.values()) for point in space.grid()] == list(itertools.product((4, 8), (2, 1, 3)))
    assert space.size == 6


def test_conditions_leave_choices_out() -> None:
    points = list(CONDITIONAL.grid())
    # agile: window 1 has no order, 4 and 8 have two; ptb: three windows; dense: none
    assert len(points) == CONDITIONAL.size == 2 * ((1 + 2 + 2) + 3 + 1)
    assert {"arch.dispatch": "dense", "net.width": 0.5} in points
    assert all(("arch.order" in p) == (p["arch.dispatch"] == "agile" and p["arch.window"] != 1) for p in points)


@given(spaces(), st.integers(0, 10**6), st.integers(0, 5))
def test_points_that_begin_alike_are_counted(space: Space, number: int, length: int) -> None:
    grid = list(space.grid())
    begun = list(grid[number % len(grid)].items())[:length]
    assert space.points(dict(begun)) == sum(list(point.items())[:length] == begun for point in grid)


@given(spaces())
def test_size_counts_the_grid_and_every_point_is_distinct_and_valid(space: Space) -> None:
    points = list(space.grid())
    assert space.size == len(points) == len({tuple(point.items()) for point in points})
    for point in points:
        space.check(point)


def test_size_of_a_space_nobody_can_walk_through() -> None:
    assert Space(tuple(Choice(f"arch.k{k}", tuple(range(10))) for k in range(30))).size == 10**30


@given(spaces(), st.lists(st.integers(0, 9), min_size=5, max_size=5))
def test_suggested_points_lie_in_the_grid(space: Space, indices: list[int]) -> None:
    trial = Drawn(indices)
    point = space.suggest(trial)
    assert point in list(space.grid()) and list(point) == trial.asked


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"arch.dispatch": "dense", "net.widht": 1.0}, "did you mean 'net.width'"),
        ({"arch.dispatch": "dense"}, "'net.width': is missing"),
        ({"arch.dispatch": "dense", "arch.window": 4, "net.width": 1.0}, "only there when arch.dispatch is agile, ptb"),
        ({"arch.dispatch": "ptb", "arch.window": 5, "net.width": 1.0}, "got 5, expected one of 1, 4, 8"),
        ({"arch.dispatch": "ptb", "arch.window": True, "net.width": 1.0}, "got True, expected one of 1, 4, 8"),
    ],
)
def test_points_that_are_none(params: dict[str, Any], message: str) -> None:
    with pytest.raises(SearchError, match=message):
        CONDITIONAL.check(params)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Space(()), "at least one choice"),
        (lambda: Choice("arch.rows", ()), "no values"),
        (lambda: Choice("arch..rows", (1,)), "dotted name"),
        (lambda: Choice("arch.rows", (8, 8)), "stands twice"),
        (lambda: Choice("arch.rows", (8, float("nan"))), "finite numbers"),
        (lambda: Choice("arch.rows", ([8],)), "finite numbers"),  # type: ignore[arg-type]
        (lambda: Space((Choice("arch.rows", (8,)), Choice("arch.rows", (4,)))), "stands twice"),
        (lambda: Space((Choice("a", (1,)), Choice("c", (1,), {"b": (1,)}))), "no earlier choice"),
        (lambda: Space((Choice("a", (1,)), Choice("c", (1,), {"a": (2,)}))), "got 2, expected one of 1"),
    ],
)
def test_spaces_that_cannot_be(make: Any, message: str) -> None:
    with pytest.raises(SearchError, match=message):
        make()


def test_true_and_one_are_different_values() -> None:
    choice = Choice("arch.x", (True, 1, 0))
    assert choice.offers(True) and choice.offers(1) and not choice.offers(False)


def test_array_shapes_and_buffer_splits_keep_their_budget() -> None:
    assert shapes(64, low=4) == ((4, 16), (8, 8), (16, 4))
    assert all(a * b == 96 and max(a, b) <= 24 for a, b in shapes(96, high=24))
    assert splits(56, 4) == ((14, 42), (28, 28), (42, 14))
    with pytest.raises(SearchError, match="no two factors"):
        shapes(13, low=2)
    with pytest.raises(SearchError, match=r"2\.\.10000 parts"):
        splits(56, 1)
