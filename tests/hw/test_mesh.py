"""Cores on tiles, tiles on the mesh, chips side by side; worked by hand."""

from __future__ import annotations

import numpy as np

from spikeloom.hw.mesh import PORT, Mesh


def test_tiles_stand_column_by_column_and_hold_four_cores() -> None:
    mesh = Mesh()
    assert (mesh.num_cores, mesh.tiles_per_chip) == (128, 32)
    assert [(mesh.tile(k), mesh.x(k), mesh.y(k)) for k in (0, 3, 4, 15, 16, 127)] == [
        (0, 0, 0), (0, 0, 0), (1, 0, 1), (3, 0, 3), (4, 1, 0), (31, 7, 3),
    ]  # fmt: skip


def test_hops_are_the_distance_between_tiles() -> None:
    mesh = Mesh()
    assert mesh.hops(0, 3) == (0, 0)
    assert mesh.hops(0, 127) == mesh.hops(127, 0) == (7, 3)
    dx, dy = mesh.hops(np.array([0, 4, 16]), np.array([4, 16, 16]))
    assert (dx.tolist(), dy.tolist()) == ([0, 1, 0], [1, 1, 0])


def test_chips_lie_side_by_side_in_x() -> None:
    mesh = Mesh(rows=2, columns=3, cores_per_tile=1, chips=3)
    assert (mesh.cores_per_chip, mesh.num_cores) == (6, 18)
    assert [mesh.chip(k) for k in (0, 5, 6, 17)] == [0, 0, 1, 2]
    assert (mesh.x(6), mesh.y(6)) == (3, 0)
    assert (mesh.hops(5, 6), mesh.crossings(5, 6), mesh.crossings(0, 17)) == ((1, 1), 1, 2)
    assert mesh.tiles_used(np.array([0, 1, 1, 9])) == 3


def test_the_port_stands_at_tile_0_and_is_no_core() -> None:
    mesh = Mesh()
    assert (mesh.tile(PORT), mesh.chip(PORT), mesh.hops(PORT, 127)) == (0, 0, (7, 3))
    assert mesh.tile(np.array([PORT, 0, 4])).tolist() == [0, 0, 1]
    assert mesh.tiles_used(np.array([PORT, 4, 5])) == 1
