"""Where on the mesh the parts of the layers sit: simulated annealing on the exact energy of hops.

Letters: M parts (each the neurons of one layer on one core), S slots (cores of the mesh), F pairs of parts with messages.
Moving a part changes the hops of its own messages only, so a move is judged by its difference alone, exactly. Where parts sit
changes no message and no event; it changes hops, crossings between chips and the number of tiles. Input that comes from outside
enters at a port on tile 0, which stays where it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numba import njit

from spikeloom.hw.mesh import Mesh

#: Moves between two looks at the clock, the bar and the keyboard.
BLOCK = 1 << 16


def price_tiles(mesh: Mesh, hop_x: float, hop_y: float, link: float) -> np.ndarray:
    """Joules of one message on its way from tile to tile (hops and crossings between chips), float64 (tiles, tiles)."""
    first = np.arange(mesh.num_cores // mesh.cores_per_tile) * mesh.cores_per_tile
    dx, dy = mesh.hops(first[:, None], first[None, :])
    crossed = mesh.crossings(first[:, None], first[None, :])
    return np.asarray(dx * hop_x + dy * hop_y + crossed * link)


@dataclass(frozen=True, eq=False)
class Flows:
    """Messages between parts in both directions together, by part: neighbours ``part_F[start[i]:start[i + 1]]`` of part i.

    The port is part M.
    """

    start: np.ndarray
    part_F: np.ndarray
    messages_F: np.ndarray

    @staticmethod
    def of(messages_MM: np.ndarray, port_M: np.ndarray) -> Flows:
        """From the messages of each (source part, target part), and of the port to each part."""
        size = len(messages_MM)
        both = np.zeros((size + 1, size + 1), np.int64)
        both[:size, :size] = messages_MM + messages_MM.T
        both[size, :size] = both[:size, size] = port_M
        np.fill_diagonal(both, 0)
        source, target = np.nonzero(both)
        start = np.searchsorted(source, np.arange(len(both) + 1))
        return Flows(start.astype(np.int64), target.astype(np.int64), both[source, target].astype(np.float64))


@dataclass(frozen=True, eq=False)
class Settled:
    """slots_M: where each part sits, int64. complete: False where the search was interrupted."""

    slots_M: np.ndarray
    complete: bool


def settle(
    messages_MM: np.ndarray,
    port_M: np.ndarray,
    slots_M: np.ndarray,
    mesh: Mesh,
    priced: np.ndarray,
    *,
    tiles_at_most: int,
    moves: int,
    generator: np.random.Generator,
    told: Callable[[int, float], None] = lambda done, joules: None,
) -> Settled:
    """Slots with less energy on the way, never more than at the start. Ctrl-C ends the search, not the caller.

    A move takes a part to a slot and what was there to the part's old one. Temperatures fall geometrically from the mean
    difference of a move to a thousandth of it; the best slots seen are kept.

    Args:
        messages_MM: messages of each (source part, target part). port_M: of the port to each part.
        slots_M: where the parts start, distinct cores of the mesh.
        priced: from `price_tiles`.
        tiles_at_most: tiles that may be in use; moves that need more are not made.
        moves: tried in all.
        told: called with the moves so far and the least joules after each block.
    """
    flows = Flows.of(messages_MM, port_M)
    part_S = np.full(mesh.num_cores, -1, np.int64)
    part_S[slots_M] = np.arange(len(slots_M))
    state = _State(np.append(np.array(slots_M, np.int64), 0), part_S, mesh.cores_per_tile)  # the port on tile 0
    best, joules = state.slots_M.copy(), energy(messages_MM, port_M, slots_M, mesh, priced)
    if len(slots_M) == 0 or joules == 0:
        return Settled(best[:-1], True)
    least = now = joules
    hot = _mean_difference(state, flows, priced, generator)
    done, complete = 0, True
    try:
        while done < moves and hot > 0:
            told(done, least)
            size = min(BLOCK, moves - done)
            part_B = generator.integers(len(slots_M), size=size)
            slot_B = generator.integers(mesh.num_cores, size=size)
            chance_B = generator.random(size)
            heat_B = hot * 1e-3 ** ((done + np.arange(size)) / moves)
            now, least = _anneal(
                state.slots_M, state.part_S, state.used, best, flows.start, flows.part_F, flows.messages_F, priced,
                mesh.cores_per_tile, tiles_at_most, part_B, slot_B, chance_B, heat_B, now, least,
            )  # fmt: skip
            done += size
    except KeyboardInterrupt:  # the signal arrives where a block of moves ends; ``best`` is whole then
        complete = False
    better = energy(messages_MM, port_M, best[:-1], mesh, priced) < joules
    kept = best[:-1] if better else np.array(slots_M, np.int64)
    return Settled(kept, complete)


def energy(messages_MM: np.ndarray, port_M: np.ndarray, slots_M: np.ndarray, mesh: Mesh, priced: np.ndarray) -> float:
    """Joules of all messages on their way."""
    tile_M = mesh.tile(np.asarray(slots_M, np.int64))
    return float((messages_MM * priced[tile_M[:, None], tile_M[None, :]]).sum() + (port_M * priced[0, tile_M]).sum())


class _State:
    """slots_M: slot of each part, at last of the port. part_S: part of each slot, -1 for none. used: parts on each tile."""

    def __init__(self, slots_M: np.ndarray, part_S: np.ndarray, cores_per_tile: int) -> None:
        self.slots_M, self.part_S = slots_M, part_S
        self.used = (part_S.reshape(-1, cores_per_tile) >= 0).sum(axis=1).astype(np.int64)


def _mean_difference(state: _State, flows: Flows, priced: np.ndarray, generator: np.random.Generator) -> float:
    """Mean size of the difference that a random move makes, joules."""
    parts = generator.integers(len(state.slots_M) - 1, size=256)
    slots = generator.integers(len(state.part_S), size=256)
    cores_per_tile = len(state.part_S) // len(priced)
    sizes = [
        abs(
            _difference(
                state.slots_M, state.part_S, flows.start, flows.part_F, flows.messages_F, priced, cores_per_tile, i, s
            )
        )
        for i, s in zip(parts.tolist(), slots.tolist(), strict=True)
    ]
    return float(np.mean(sizes))


@njit(cache=True)
def _difference(
    slots_M: np.ndarray,
    part_S: np.ndarray,
    start: np.ndarray,
    part_F: np.ndarray,
    messages_F: np.ndarray,
    priced: np.ndarray,
    cores_per_tile: int,
    i: int,
    slot: int,
) -> float:
    """Joules more when part i goes to ``slot`` and what is there to the slot of i."""
    old, new = slots_M[i] // cores_per_tile, slot // cores_per_tile
    j = part_S[slot]
    if old == new or i == j:
        return 0.0
    change = 0.0
    for f in range(start[i], start[i + 1]):
        if part_F[f] != j:  # the way between the two is as long as before
            other = slots_M[part_F[f]] // cores_per_tile
            change += messages_F[f] * (priced[new, other] - priced[old, other])
    if j >= 0:
        for f in range(start[j], start[j + 1]):
            if part_F[f] != i:
                other = slots_M[part_F[f]] // cores_per_tile
                change += messages_F[f] * (priced[old, other] - priced[new, other])
    return change


@njit(cache=True)
def _anneal(
    slots_M: np.ndarray,
    part_S: np.ndarray,
    used: np.ndarray,
    best: np.ndarray,
    start: np.ndarray,
    part_F: np.ndarray,
    messages_F: np.ndarray,
    priced: np.ndarray,
    cores_per_tile: int,
    tiles_at_most: int,
    part_B: np.ndarray,
    slot_B: np.ndarray,
    chance_B: np.ndarray,
    heat_B: np.ndarray,
    now: float,
    least: float,
) -> tuple[float, float]:
    """One block of moves in place; (joules now, least joules), the least slots in ``best``."""
    tiles = 0
    for tile in range(len(used)):
        tiles += used[tile] > 0
    for b in range(len(part_B)):
        i, slot = part_B[b], slot_B[b]
        j, home = part_S[slot], slots_M[i]
        old, new = home // cores_per_tile, slot // cores_per_tile
        if old == new:
            continue
        more = 0
        if j < 0:
            more = (used[new] == 0) - (used[old] == 1)
            if more > 0 and tiles + more > tiles_at_most:
                continue
        change = _difference(slots_M, part_S, start, part_F, messages_F, priced, cores_per_tile, i, slot)
        if change > 0 and chance_B[b] >= np.exp(-change / heat_B[b]):
            continue
        slots_M[i], part_S[slot], part_S[home] = slot, i, j
        if j >= 0:
            slots_M[j] = home
        else:
            used[new] += 1
            used[old] -= 1
            tiles += more
        now += change
        if now < least:
            least = now
            best[:] = slots_M
    return now, least
