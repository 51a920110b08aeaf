"""Mesh: where the cores of a many-core machine stand, and how far a message goes by XY routing.

Letters: M cores. Core k lies on tile k // cores_per_tile; tile t at x = t // rows, y = t % rows (column by column). Chips lie
side by side in x, each with ``rows * columns`` tiles, so that the mesh of several chips is one mesh of chips * columns columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

#: Stands for a core in messages that come from outside: the port at tile 0.
PORT = -1
#: A core number, or an integer array of them.
Cores = TypeVar("Cores", int, np.ndarray)


@dataclass(frozen=True)
class Mesh:
    """Tiles in columns of ``rows``, ``columns`` of them a chip, without wrap-around.

    Methods take core numbers, single ones or arrays, and answer in kind; they check no range.
    """

    rows: int = 4
    columns: int = 8
    cores_per_tile: int = 4
    chips: int = 1

    @property
    def tiles_per_chip(self) -> int:
        """Tiles of one chip."""
        return self.rows * self.columns

    @property
    def cores_per_chip(self) -> int:
        """Cores of one chip."""
        return self.tiles_per_chip * self.cores_per_tile

    @property
    def num_cores(self) -> int:
        """Cores of all chips, numbered from 0."""
        return self.cores_per_chip * self.chips

    def tile(self, core: Cores) -> Cores:
        """Number of the tile of a core, counted through all chips; that of `PORT` is 0."""
        if isinstance(core, int):
            return max(core, 0) // self.cores_per_tile
        return np.asarray(np.maximum(core, 0) // self.cores_per_tile)

    def x(self, core: Cores) -> Cores:
        """Column of a core's tile, counted through all chips (E-W)."""
        return self.tile(core) // self.rows

    def y(self, core: Cores) -> Cores:
        """Row of a core's tile (N-S)."""
        return self.tile(core) % self.rows

    def chip(self, core: Cores) -> Cores:
        """Chip of a core, numbered from 0 along x."""
        return self.tile(core) // self.tiles_per_chip

    def hops(self, source: Cores, target: Cores) -> tuple[Cores, Cores]:
        """Hops of a message, E-W and N-S: (|dx|, |dy|) between the tiles; 0 within a tile."""
        return abs(self.x(source) - self.x(target)), abs(self.y(source) - self.y(target))

    def crossings(self, source: Cores, target: Cores) -> Cores:
        """Boundaries between chips that a message crosses."""
        return abs(self.chip(source) - self.chip(target))

    def tiles_used(self, cores: np.ndarray) -> int:
        """Number of tiles with at least one of ``cores``; the port is no core."""
        cores = np.asarray(cores)
        return int(np.unique(self.tile(cores[cores != PORT])).size)
