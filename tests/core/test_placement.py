"""Placements: every neuron on one core, whichever way its place is written."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikeloom.core.placement import Place, Placement, Split, even_split, split_owners
from spikeloom.errors import MappingError

SHAPE = (4, 3, 2)


def owners(*places: Place) -> np.ndarray:
    return Placement(places).owners("a", SHAPE, 4)


def test_runs_count_channel_major_and_blocks_are_channels_and_rows() -> None:
    runs = owners(Place("a", 0, 1, neurons=(0, 6)), Place("a", 2, 3, neurons=(6, 24)))
    assert (runs[0] == 1).all() and (runs[1:] == 11).all()
    blocks = owners(
        Place("a", 0, 0, channels=(0, 2), rows=(0, 1)),
        Place("a", 0, 1, channels=(2, 4), rows=(0, 1)),
        Place("a", 0, 2, rows=(1, 3)),
    )
    assert (blocks[:2, 0] == 0).all() and (blocks[2:, 0] == 1).all() and (blocks[:, 1:] == 2).all()


def test_hwc_runs_count_positions_first() -> None:
    found = owners(Place("a", 0, 0, neurons=(0, 5), order="hwc"), Place("a", 1, 0, neurons=(5, 24), order="hwc"))
    flat = found.transpose(1, 2, 0).reshape(-1)
    assert (flat[:5] == 0).all() and (flat[5:] == 4).all()


@pytest.mark.parametrize(
    ("places", "words"),
    [
        ((Place("a", 0, 0, neurons=(0, 23)),), "1 of its 24 neurons have no core"),
        ((Place("a", 0, 0), Place("a", 0, 1, rows=(2, 3))), "already have a core"),
        ((Place("a", 0, 0, neurons=(0, 25)),), "neurons [0, 25) of a layer of 24"),
        ((Place("a", 0, 0, channels=(0, 5)),), "of a map of 4 x 3 x 2"),
        ((Place("a", 0, 4),), "a tile has 4 cores"),
        ((Place("a", 0, 0, neurons=(0, 9)), Place("a", 0, 1, neurons=(3, 24), order="hwc")), "already have a core"),
    ],
)
def test_what_is_placed_twice_or_never_is_refused(places: tuple[Place, ...], words: str) -> None:
    with pytest.raises(MappingError) as caught:
        owners(*places)
    assert words in str(caught.value) and "'a'" in str(caught.value)


def test_a_place_is_either_a_run_or_a_block() -> None:
    with pytest.raises(MappingError, match="one of the two"):
        Place("a", 0, 0, neurons=(0, 1), rows=(0, 1))
    with pytest.raises(MappingError, match="numbered from 0"):
        Place("a", -1, 0)
    with pytest.raises(MappingError, match="first < last"):
        Place("a", 0, 0, rows=(2, 2))


@given(st.integers(1, 500), st.integers(1, 40))
def test_an_even_split_is_the_rule_item_by_item(count: int, parts: int) -> None:
    parts = min(parts, count)
    runs = even_split(count, parts)
    for i in range(count):
        first, last = runs[min(i // (count // parts), parts - 1)]
        assert first <= i < last


@given(st.tuples(*[st.integers(1, 6)] * 3), st.sampled_from(("neurons", "channels", "rows")), st.integers(1, 40))
def test_split_owners_are_even_splits(shape: tuple[int, int, int], split: Split, parts: int) -> None:
    K, P, Q = shape
    count = {"neurons": K * P * Q, "channels": K, "rows": P}[split]
    if parts > count:
        with pytest.raises(MappingError, match=f"a split of {count} {split} in {parts} parts"):
            split_owners(shape, split, parts)
        return
    owner_KPQ = split_owners(shape, split, parts)
    runs = even_split(count, parts)
    for k, p, q in np.ndindex(shape):
        first, last = runs[owner_KPQ[k, p, q]]
        assert first <= {"neurons": (k * P + p) * Q + q, "channels": k, "rows": p}[split] < last
