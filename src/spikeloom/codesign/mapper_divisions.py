"""Ways to divide the neurons of a layer among cores, and the places that write them down.

Letters: K P Q the output map, M parts. A part is what one core gets: a run of neurons, or a block of channels and rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from spikeloom.core.placement import Place, even_split

#: neurons: runs row-major over (K, P, Q). pixels: runs row-major over (P, Q) with all channels. blocks: channels x rows.
Kind = Literal["neurons", "channels", "rows", "pixels", "blocks"]
KINDS: tuple[Kind, ...] = ("neurons", "channels", "rows", "pixels", "blocks")
#: The kinds that a machine's own ``split`` knows.
NAMED: tuple[Kind, ...] = ("neurons", "channels", "rows")
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Division:
    """One layer divided among cores.

    cuts: boundaries between parts, ascending, in units of the kind (neurons, channels, rows, pixels; of blocks: channels).
    rows: boundaries between rows, of blocks only. Parts are numbered along ``cuts``; of blocks the channels of the first rows first.
    """

    kind: Kind
    cuts: tuple[int, ...] = ()
    rows: tuple[int, ...] = ()

    @property
    def num_cores(self) -> int:
        """M."""
        return (len(self.cuts) + 1) * (len(self.rows) + 1)

    def __str__(self) -> str:
        if self.num_cores == 1:
            return "whole"
        return f"{len(self.cuts) + 1}x{len(self.rows) + 1} blocks" if self.kind == "blocks" else self.kind

    def places(self, layer: str, shape_KPQ: Shape, slots_M: Sequence[int], cores_per_tile: int) -> tuple[Place, ...]:
        """One place for each part; part m sits on core ``slots_M[m]``."""
        K, P, _ = shape_KPQ
        places = []
        for slot, part in zip(slots_M, self._parts(shape_KPQ), strict=True):
            tile, core = divmod(int(slot), cores_per_tile)
            if self.kind == "neurons":
                places.append(Place(layer, tile, core, neurons=part[0]))
            elif self.kind == "pixels":
                first, last = part[0]
                places.append(Place(layer, tile, core, neurons=(first * K, last * K), order="hwc"))
            else:
                channels, rows = part
                places.append(
                    Place(
                        layer,
                        tile,
                        core,
                        channels=None if channels == (0, K) else channels,
                        rows=None if rows == (0, P) else rows,
                    )
                )
        return tuple(places)

    def owner(self, shape_KPQ: Shape) -> np.ndarray:
        """Part of every neuron, 0..M-1; int32, shape (K, P, Q). As `Placement.owners` of its places, and faster."""
        K, P, Q = shape_KPQ
        part_U = _part_of_unit(self.cuts, units(self.kind, shape_KPQ))
        if self.kind == "neurons":
            return part_U.reshape(shape_KPQ)
        if self.kind == "pixels":
            return np.tile(part_U.reshape(1, P, Q), (K, 1, 1))
        if self.kind == "rows":
            return np.tile(part_U.reshape(1, P, 1), (K, 1, Q))
        row_P = _part_of_unit(self.rows, P) * np.int32(len(self.cuts) + 1)
        return np.tile(part_U.reshape(K, 1, 1) + row_P.reshape(1, P, 1), (1, 1, Q))

    def _parts(self, shape_KPQ: Shape) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
        """Per part its range in units of the kind, or of channels and rows."""
        K, P, _ = shape_KPQ
        along = _ranges(self.cuts, units(self.kind, shape_KPQ))
        if self.kind == "rows":
            yield from (((0, K), rows) for rows in along)
        else:
            for rows in _ranges(self.rows, P):
                yield from ((part, rows) for part in along)


def units(kind: Kind, shape_KPQ: Shape) -> int:
    """What a kind cuts between: K P Q neurons, K channels, P rows or P Q pixels; of blocks K channels."""
    K, P, Q = shape_KPQ
    return {"neurons": K * P * Q, "channels": K, "rows": P, "pixels": P * Q, "blocks": K}[kind]


def even(kind: Kind, shape_KPQ: Shape, parts: int) -> Division:
    """``parts`` runs of equal length, the last takes the rest, as machines divide a layer on their own."""
    return Division(kind, tuple(first for first, _ in even_split(units(kind, shape_KPQ), parts)[1:]))


def balanced(kind: Kind, load_U: np.ndarray, parts: int) -> Division:
    """``parts`` runs with about the same load; every run has at least one unit. load_U: of each unit, >= 0."""
    return Division(kind, _balanced(load_U, parts))


def balanced_blocks(load_KPQ: np.ndarray, channel_parts: int, row_parts: int) -> Division:
    """Channels and rows cut so that each cut alone is balanced."""
    channels = _balanced(load_KPQ.sum(axis=(1, 2)), channel_parts)
    return Division("blocks", channels, _balanced(load_KPQ.sum(axis=(0, 2)), row_parts))


def load_units(kind: Kind, load_KPQ: np.ndarray) -> np.ndarray:
    """Load of each unit of a kind."""
    if kind == "neurons":
        return load_KPQ.reshape(-1)
    if kind == "pixels":
        return np.asarray(load_KPQ.sum(axis=0).reshape(-1))
    return np.asarray(load_KPQ.sum(axis=(0, 2) if kind == "rows" else (1, 2)))


def kinds_of(shape_KPQ: Shape) -> tuple[Kind, ...]:
    """The kinds that differ for a map: of a vector all are runs of neurons; of a single column pixels are rows."""
    K, P, Q = shape_KPQ
    if P * Q == 1:
        return ("neurons",)
    found: list[Kind] = ["neurons", "pixels"]
    if K > 1:
        found.append("channels")
    if P > 1 and Q > 1:
        found.append("rows")
    if K > 1 and P > 1:
        found.append("blocks")
    return tuple(kind for kind in KINDS if kind in found)


def division_of(places: Sequence[Place], shape_KPQ: Shape) -> Division | None:
    """The split that these places write down, in their order, or None where no `Division` says the same."""
    K, P, _ = shape_KPQ
    first = places[0]
    if first.neurons is not None:
        kind: Kind = "neurons" if first.order == "chw" else "pixels"
        unit = 1 if kind == "neurons" else K
        cuts = tuple(place.neurons[0] for place in places[1:] if place.neurons is not None)
        if any(cut % unit for cut in cuts):
            return None
        found = Division(kind, tuple(cut // unit for cut in cuts))
    else:
        channels = sorted({(place.channels or (0, K))[0] for place in places} - {0})
        rows = sorted({(place.rows or (0, P))[0] for place in places} - {0})
        if channels and rows:
            found = Division("blocks", tuple(channels), tuple(rows))
        else:
            found = Division("rows", tuple(rows)) if rows else Division("channels", tuple(channels))
    ascending = all(a < b for a, b in pairwise((0, *found.cuts, units(found.kind, shape_KPQ))))
    if not ascending or found.num_cores != len(places):
        return None
    slots = [(place.tile, place.core) for place in places]
    if len(set(slots)) != len(slots):
        return None
    same = [
        (p.neurons, p.order if p.neurons else "", p.channels or (0, K), p.rows or (0, P))
        for p in found.places(first.layer, shape_KPQ, range(len(places)), 1)
    ]
    given = [(p.neurons, p.order if p.neurons else "", p.channels or (0, K), p.rows or (0, P)) for p in places]
    return found if same == given else None


def _part_of_unit(cuts: tuple[int, ...], total: int) -> np.ndarray:
    lengths = np.diff(np.array((0, *cuts, total)))
    return np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)


def _ranges(cuts: tuple[int, ...], total: int) -> list[tuple[int, int]]:
    return list(pairwise((0, *cuts, total)))


def _balanced(load_U: np.ndarray, parts: int) -> tuple[int, ...]:
    """Cuts where the running sum of the load is nearest to its equal parts, at least one unit apart."""
    count = len(load_U)
    assert 1 <= parts <= count
    # a little of the same for each unit keeps runs of silent units apart
    running = np.cumsum(load_U.astype(np.float64) + 1e-9 * (float(load_U.sum()) + 1.0))
    wanted = running[-1] * np.arange(1, parts) / parts
    after = np.searchsorted(running, wanted)
    before_sum = np.where(after > 0, running[np.maximum(after - 1, 0)], 0.0)
    cuts = np.where(wanted - before_sum < running[after] - wanted, after, after + 1).astype(np.int64)
    steps = np.arange(1, parts)
    cuts = np.maximum.accumulate(np.maximum(cuts, 1) - steps) + steps  # at least one apart, from the left
    cuts = np.minimum(cuts, count - parts + steps)
    return tuple(cuts.tolist())
