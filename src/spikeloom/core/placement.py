"""Placement: which core of a many-core machine holds which neurons.

Letters: K P Q a layer's output map. A core is known by tile and core in tile; its number is ``tile * cores_per_tile + core``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np

from spikeloom.errors import MappingError

Order = Literal["chw", "hwc"]
Split = Literal["neurons", "channels", "rows"]
#: Name in a placement of the network's input, whose neurons are placed where the machine drives them by bias.
INPUT = "input"


@dataclass(frozen=True)
class Place:
    """The neurons of one layer on one core: a run of them, or a block of channels and rows of the output map.

    neurons: [first, last) in ``order``: "chw" counts them row-major over (K, P, Q), "hwc" over (P, Q, K).
    channels, rows: [first, last); None is all of them. Either ``neurons`` or these.
    """

    layer: str
    tile: int
    core: int
    neurons: tuple[int, int] | None = None
    channels: tuple[int, int] | None = None
    rows: tuple[int, int] | None = None
    order: Order = "chw"

    def __post_init__(self) -> None:
        if self.neurons is not None and (self.channels is not None or self.rows is not None):
            raise MappingError(f"{self}: got neurons together with channels or rows, expected one of the two")
        if self.tile < 0 or self.core < 0:
            raise MappingError(f"{self}: tile and core are numbered from 0")
        for what in ("neurons", "channels", "rows"):
            pair = getattr(self, what)
            if pair is not None and not 0 <= pair[0] < pair[1]:
                raise MappingError(f"{self}: {what} = {list(pair)}, expected [first, last) with 0 <= first < last")

    def __str__(self) -> str:
        return f"place of layer '{self.layer}' on tile {self.tile} core {self.core}"

    def put(self, owner_KPQ: np.ndarray, number: int) -> None:
        """Write ``number`` where this place's neurons are; -1 stands for a neuron without a core.

        Raises:
            MappingError: beyond the map, or a neuron that already has a core.
        """
        K, P, Q = owner_KPQ.shape
        if self.neurons is None:
            (k0, k1), (p0, p1) = self.channels or (0, K), self.rows or (0, P)
            if k1 > K or p1 > P:
                raise MappingError(f"{self}: channels [{k0}, {k1}) and rows [{p0}, {p1}) of a map of {K} x {P} x {Q}")
            target = owner_KPQ[k0:k1, p0:p1]
        else:
            flat = owner_KPQ.reshape(-1) if self.order == "chw" else owner_KPQ.transpose(1, 2, 0)
            first, last = self.neurons
            if last > owner_KPQ.size:
                raise MappingError(f"{self}: neurons [{first}, {last}) of a layer of {owner_KPQ.size}")
            if self.order == "hwc":
                index = np.unravel_index(np.arange(first, last), flat.shape)
                if (flat[index] >= 0).any():
                    raise self._twice()
                flat[index] = number
                return
            target = flat[first:last]
        if (target >= 0).any():
            raise self._twice()
        target[...] = number

    def _twice(self) -> MappingError:
        return MappingError(f"{self}: some of its neurons already have a core; place every neuron once")


@dataclass(frozen=True)
class Placement:
    """Places of every layer that has neurons on the machine, in any order. source: the file they come from."""

    places: tuple[Place, ...]
    source: str = field(default="", compare=False)

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that are placed, in order of first appearance."""
        return tuple(dict.fromkeys(place.layer for place in self.places))

    def of(self, layer: str) -> tuple[Place, ...]:
        """The places of one layer."""
        return tuple(place for place in self.places if place.layer == layer)

    def owners(self, layer: str, shape_KPQ: tuple[int, int, int], cores_per_tile: int) -> np.ndarray:
        """Number of the core of every neuron of a layer; int32, shape (K, P, Q).

        Raises:
            MappingError: a neuron without a core or with two, a place beyond the map, a core that a tile does not have.
        """
        owner_KPQ = np.full(shape_KPQ, -1, np.int32)
        for place in self.of(layer):
            if place.core >= cores_per_tile:
                raise MappingError(
                    f"{place}: a tile has {cores_per_tile} core{'s' * (cores_per_tile != 1)}, numbered from 0"
                )
            place.put(owner_KPQ, place.tile * cores_per_tile + place.core)
        if missing := int((owner_KPQ < 0).sum()):
            raise MappingError(
                f"layer '{layer}': {missing} of its {owner_KPQ.size} neurons have no core; place every neuron once"
            )
        return owner_KPQ


def even_split(count: int, parts: int) -> list[tuple[int, int]]:
    """``count`` things in ``parts`` runs of floor(count/parts), the last takes the rest (item i: min(i // floor, parts - 1))."""
    size = count // parts
    return [(i * size, count if i == parts - 1 else (i + 1) * size) for i in range(parts)]


def split_owners(shape_KPQ: tuple[int, int, int], split: Split, parts: int) -> np.ndarray:
    """Part (0 to parts - 1) of every neuron of a layer that is split evenly; int32, shape (K, P, Q).

    split: "neurons" shares out neurons counted row-major over (K, P, Q), "channels" output channels, "rows" rows of the map; each by
    the rule of `even_split`.

    Raises:
        MappingError: more parts than there are things to share out.
    """
    axis = {"neurons": None, "channels": 0, "rows": 1}[split]
    count = int(np.prod(shape_KPQ)) if axis is None else shape_KPQ[axis]
    if not 1 <= parts <= count:
        raise MappingError(f"a split of {count} {split} in {parts} parts: expected 1..{count}")
    part = np.minimum(np.arange(count) // (count // parts), parts - 1).astype(np.int32)
    if axis is None:
        return part.reshape(shape_KPQ)
    return np.asarray(np.broadcast_to(part.reshape((-1, 1, 1) if axis == 0 else (1, -1, 1)), shape_KPQ).copy())
