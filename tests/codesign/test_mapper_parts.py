"""Divisions of layers, the costs put together from them, and the two searches, on networks small enough for nested loops."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloom.codesign.mapper_divisions import (
    KINDS,
    Division,
    balanced,
    balanced_blocks,
    division_of,
    even,
    kinds_of,
    load_units,
    units,
)
from spikeloom.codesign.mapper_moves import (
    Judge,
    Limits,
    core_numbers,
    every_option,
    missing_room,
    options,
    own_missing,
    search_divisions,
    smallest,
)
from spikeloom.codesign.mapper_positions import energy, price_tiles, settle
from spikeloom.core.placement import Placement, split_owners
from tests.codesign.mappings import MESH, PRICES, conv, linear, problem, slow_cost

FREE = Limits(MESH.num_cores, inf, inf, inf, inf)
NETWORKS = {
    "conv": (conv(2, 5, 5, 3, 3, 1, 1), linear(75, 4)),
    "strided": (conv(1, 6, 6, 4, 2, 2, 0), conv(4, 3, 3, 2, 3, 1, 1)),
    "grouped": (conv(2, 4, 4, 4, 3, 1, 1, groups=2), linear(64, 3)),
}


@given(st.integers(0, 10_000))
@settings(max_examples=80, deadline=None)
def test_a_division_gives_every_neuron_one_part_and_reads_back(seed: int) -> None:
    generator = np.random.default_rng(seed)
    shape = tuple(int(n) for n in generator.integers(1, 6, size=3))
    kinds = kinds_of(shape)  # type: ignore[arg-type]
    kind = kinds[generator.integers(len(kinds))]
    load_KPQ = generator.random(shape) * (generator.random(shape) < 0.5)
    if kind == "blocks":
        parts = [int(generator.integers(1, size + 1)) for size in shape[:2]]
        made = balanced_blocks(load_KPQ, *parts)
    else:
        most = units(kind, shape)  # type: ignore[arg-type]
        parts = [int(generator.integers(1, most + 1))]
        made = balanced(kind, load_units(kind, load_KPQ), parts[0])
    assert made.num_cores == np.prod(parts)
    owner_KPQ = made.owner(shape)  # type: ignore[arg-type]
    assert (np.bincount(owner_KPQ.reshape(-1), minlength=made.num_cores) > 0).all()
    slots = generator.permutation(made.num_cores + 5)[: made.num_cores]
    places = made.places("a", shape, slots, 4)  # type: ignore[arg-type]
    assert (Placement(places).owners("a", shape, 4) == slots[owner_KPQ]).all()  # type: ignore[arg-type]
    back = division_of(places, shape)  # type: ignore[arg-type]
    assert back is not None
    assert (back.owner(shape) == owner_KPQ).all()  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["neurons", "channels", "rows"])
def test_even_divisions_are_those_of_machines(kind: str) -> None:
    shape = (5, 7, 3)
    for parts in range(1, 6):
        made = even(kind, shape, parts)  # type: ignore[arg-type]
        assert (made.owner(shape) == split_owners(shape, kind, parts)).all()  # type: ignore[arg-type]


def test_balanced_runs_have_about_the_same_load() -> None:
    load_U = np.array([0, 0, 9, 1, 1, 1, 1, 1, 1, 3, 0, 0])
    cuts = (0, *balanced("rows", load_U, 3).cuts, 12)
    assert sorted(int(load_U[a:b].sum()) for a, b in zip(cuts, cuts[1:], strict=False)) == [3, 6, 9]
    assert balanced("rows", np.zeros(4), 4).cuts == (1, 2, 3)


def test_places_that_are_no_division_are_not_taken_for_one() -> None:
    shape = (4, 4, 1)
    places = Division("neurons", (5,)).places("a", shape, [3, 1], 4)
    assert division_of(places, shape) == Division("neurons", (5,))
    assert division_of(places[::-1], shape) is None
    assert division_of([places[0], places[0]], shape) is None


@given(st.sampled_from(sorted(NETWORKS)), st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_costs_are_those_of_nested_loops(name: str, seed: int) -> None:
    layers, generator = NETWORKS[name], np.random.default_rng(seed)
    made = problem(layers, generator)
    choices = [options(made, g, FREE) for g in range(3)]
    for _ in range(3):
        splits = [each[generator.integers(len(each))] for each in choices]
        while sum(split.num_cores for split in splits) > MESH.num_cores:
            splits = [each[generator.integers(len(each))] for each in choices]
        slots_M = generator.permutation(MESH.num_cores)[: sum(split.num_cores for split in splits)]
        assert made.cost(splits, slots_M) == pytest.approx(slow_cost(layers, made, splits, slots_M))


def test_costs_are_whole_numbers_of_what_happened() -> None:
    """As above for one mapping, the integers compared as such."""
    layers = NETWORKS["conv"]
    made = problem(layers, np.random.default_rng(3))
    splits = (Division("rows", (2,)), Division("pixels", (3, 11)), Division("neurons", (1,)))
    slots_M = np.array([11, 0, 4, 5, 9, 2, 3])
    fast, slow = made.cost(splits, slots_M), slow_cost(layers, made, splits, slots_M)
    assert (fast.messages, fast.hops_x, fast.hops_y, fast.ticks) == (
        slow.messages,
        slow.hops_x,
        slow.hops_y,
        slow.ticks,
    )
    assert fast.messages == made.messages_MM(splits)[0].sum()
    assert fast.messages == sum(made.messages(g, splits[g]) or 0 for g in range(3))
    assert made.messages(0, splits[0]) is None


def test_options_hold_every_kind_within_the_compartments() -> None:
    made = problem(NETWORKS["conv"], np.random.default_rng(0))
    found = every_option(made, 1, Limits(12, 40, inf, inf, inf))
    assert {split.kind for split in found} == set(KINDS)
    assert min(split.num_cores for split in found) == 2  # 75 neurons, 40 a core
    assert max(split.num_cores for split in found) == 10  # 12 cores for three groups
    assert core_numbers(3, 40) == [*range(3, 17), 18, 20, 22, 24, 26, 28, 30, 32, 36, 40]


def test_options_that_are_left_out_are_beaten() -> None:
    made = problem(NETWORKS["conv"], np.random.default_rng(0))
    limits = Limits(12, 40, inf, 40, inf)
    every, kept = every_option(made, 1, limits), options(made, 1, limits)
    fitting = [split for split in every if own_missing(made, limits, 1, split) == 0]
    assert 0 < len(kept) < len(fitting) < len(every)
    assert set(kept) <= set(fitting)
    for split in fitting:
        profile = made.profile(1, split)
        assert any(all(a <= b for a, b in zip(made.profile(1, other), profile, strict=True)) for other in kept)


def test_missing_room_names_every_limit() -> None:
    made = problem(NETWORKS["conv"], np.random.default_rng(0))
    whole = (Division("neurons"),) * 3
    needs = made.needs(1, whole[1])
    assert needs.neurons_M.tolist() == [75]
    assert needs.in_axons_M.tolist() == [50]
    assert needs.synapse_bits_M.tolist() == [8 * 13 * 13 * 6]  # 13 of 15 kernel positions a row lie on the map
    assert made.out_axons_M(0, whole).tolist() == [50]
    assert missing_room(made, FREE, whole) == 0
    assert missing_room(made, Limits(12, 50, inf, inf, inf), whole) == pytest.approx(0.5)
    assert missing_room(made, Limits(12, inf, inf, 50, inf), whole) == pytest.approx(0.5)  # 75 inputs of the last
    assert missing_room(made, Limits(12, inf, inf, inf, 25), whole) == pytest.approx(3.0)  # 50 and 75 of 25
    assert missing_room(made, Limits(2, inf, inf, inf, inf), whole) == pytest.approx(0.5)


def test_settling_never_costs_more_and_keeps_to_its_tiles() -> None:
    generator = np.random.default_rng(5)
    priced = price_tiles(MESH, 3.0, 4.2, 0.0)
    for parts in (1, 4, 9, 12):
        messages_MM = generator.integers(0, 50, size=(parts, parts)) * (generator.random((parts, parts)) < 0.3)
        port_M = generator.integers(0, 50, size=parts)
        start = generator.permutation(12)[:parts]
        tiles = MESH.tiles_used(start)
        made = [
            settle(
                messages_MM,
                port_M,
                start,
                MESH,
                priced,
                tiles_at_most=tiles,
                moves=3000,
                generator=np.random.default_rng(1),
            )
            for _ in range(2)
        ]
        assert (made[0].slots_M == made[1].slots_M).all()
        assert made[0].complete
        assert len(set(made[0].slots_M.tolist())) == parts
        assert MESH.tiles_used(made[0].slots_M) <= tiles
        before, after = (energy(messages_MM, port_M, slots, MESH, priced) for slots in (start, made[0].slots_M))
        assert after <= before


def test_settling_finds_the_best_order_of_a_chain() -> None:
    """Twelve parts in a row that each send to the next: with two cores a tile, half of the messages need no hop."""
    messages_MM = np.diag(np.full(11, 10), 1)
    priced = price_tiles(MESH, 3.0, 4.2, 0.0)
    start = np.random.default_rng(0).permutation(12)
    made = settle(
        messages_MM,
        np.zeros(12, int),
        start,
        MESH,
        priced,
        tiles_at_most=6,
        moves=40_000,
        generator=np.random.default_rng(0),
    )
    # tiles in a snake: four hops along x, one along y
    assert energy(messages_MM, np.zeros(12, int), made.slots_M, MESH, priced) == pytest.approx(10 * (4 * 3.0 + 4.2))


def test_parts_that_hear_the_port_come_to_tile_0() -> None:
    priced = price_tiles(MESH, 3.0, 4.2, 0.0)
    port_M, none_MM = np.array([0, 5, 9]), np.zeros((3, 3), int)
    made = settle(
        none_MM,
        port_M,
        np.array([0, 1, 10]),
        MESH,
        priced,
        tiles_at_most=6,
        moves=2000,
        generator=np.random.default_rng(0),
    )
    assert MESH.tile(made.slots_M)[1:].tolist() == [0, 0]
    assert energy(none_MM, port_M, made.slots_M, MESH, priced) == 0


def test_an_interrupted_settling_keeps_what_it_has() -> None:
    messages_MM = np.diag(np.full(11, 10), 1)
    start = np.arange(12)

    def told(done: int, joules: float) -> None:
        raise KeyboardInterrupt

    made = settle(
        messages_MM,
        np.zeros(12, int),
        start,
        MESH,
        price_tiles(MESH, 3.0, 4.2, 0.0),
        tiles_at_most=6,
        moves=100,
        generator=np.random.default_rng(0),
        told=told,
    )
    assert not made.complete
    assert (made.slots_M == start).all()


@pytest.mark.parametrize("objective", ["energy", "latency", "edp"])
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_search_is_never_worse_repeats_and_keeps_to_the_limits(name: str, objective: str) -> None:
    made = problem(NETWORKS[name], np.random.default_rng(7))
    limits = Limits(MESH.num_cores, 20, 8 * 700, 80, 90)
    choices = [options(made, g, limits) for g in range(3)]
    start = smallest(made, choices, limits)
    judged = []
    for _ in range(2):
        judge = Judge(made, limits, objective, 400, lambda done, least: None)
        search_divisions(judge, [start], choices, np.random.default_rng(2))
        assert len(judge.known) <= 400
        judged.append(judge.best(3))
    assert judged[0] == judged[1]
    best = judged[0][0][0]
    assert judge.score(best) <= judge.score(start)
    assert missing_room(made, limits, best) == 0
    slots = np.arange(sum(split.num_cores for split in best))
    assert made.cost(best, slots).of(objective)[0] == judged[0][0][1]


def test_search_finds_the_best_of_all_mappings() -> None:
    """Of a network small enough to try every choice."""
    made = problem((linear(6, 4), linear(4, 3)), np.random.default_rng(1), rate=0.6)
    choices = [options(made, g, FREE) for g in range(3)]
    every = [
        (a, b, c)
        for a in choices[0]
        for b in choices[1]
        for c in choices[2]
        if a.num_cores + b.num_cores + c.num_cores <= 12
    ]
    for objective in ("energy", "latency", "edp"):
        judge = Judge(made, FREE, objective, 10_000, lambda done, least: None)
        best = min(judge.score(splits) for splits in every)
        other = Judge(made, FREE, objective, 1500, lambda done, least: None)
        search_divisions(other, [smallest(made, choices, FREE)], choices, np.random.default_rng(0))
        assert other.best(1)[0][1] <= best[1] * (1 + 1e-12)


def test_prices_of_tiles() -> None:
    priced = price_tiles(MESH, PRICES.hop_x, PRICES.hop_y, 0.0)
    assert priced[0].tolist() == pytest.approx([0, 4.2, 3, 7.2, 6, 10.2])
    assert (priced == priced.T).all()
