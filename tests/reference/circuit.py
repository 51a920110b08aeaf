"""Kirchhoff's laws of a crossbar, written out element by element: slow, and sharing nothing with the package.

Modified nodal analysis: unknown are the potentials of all nodes and the currents of all wires; a wire of resistance r from a to b
obeys v_a - v_b = r i, which holds for r = 0 as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csc_matrix
from scipy.sparse.linalg import splu


@dataclass
class Solution:
    """Potentials (rows, columns, inputs) and currents per input: of the sources (rows, inputs) and the senses (columns, inputs)."""

    row_v: np.ndarray
    column_v: np.ndarray
    source_i: np.ndarray
    sense_i: np.ndarray


def solve(
    cells: np.ndarray, row_wire: float, column_wire: float, driver: float, inputs: np.ndarray, dense: bool
) -> Solution:
    """The circuit of ``cells`` (rows, columns) under every column of ``inputs`` (rows, inputs)."""
    R, C = cells.shape
    nodes = 2 * R * C

    def u(i: int, j: int) -> int:
        return i * C + j

    def v(i: int, j: int) -> int:
        return R * C + i * C + j

    entries: list[tuple[int, int, float]] = []
    right: dict[int, int] = {}
    for i in range(R):
        for j in range(C):
            g = float(cells[i, j])
            for a, b in ((u(i, j), v(i, j)), (v(i, j), u(i, j))):  # what leaves node a through the cell
                entries += [(a, a, g), (a, b, -g)]
    wire = nodes
    sources, senses = [], []
    for i in range(R):
        for j in range(C):  # into u_ij from the left
            entries += [(wire, u(i, j), -1.0), (u(i, j), wire, -1.0)]
            if j == 0:
                right[wire] = i
                entries.append((wire, wire, -(driver + row_wire)))
                sources.append(wire)
            else:
                entries += [(wire, u(i, j - 1), 1.0), (u(i, j - 1), wire, 1.0), (wire, wire, -row_wire)]
            wire += 1
    for j in range(C):
        for i in range(R):  # out of v_ij downwards
            entries += [(wire, v(i, j), 1.0), (v(i, j), wire, 1.0), (wire, wire, -column_wire)]
            if i == R - 1:
                senses.append(wire)
            else:
                entries += [(wire, v(i + 1, j), -1.0), (v(i + 1, j), wire, -1.0)]
            wire += 1
    known = np.zeros((wire, inputs.shape[1]))
    for equation, i in right.items():
        known[equation] = -inputs[i]
    at, of, value = (list(column) for column in zip(*entries, strict=True))
    matrix = csc_matrix((value, (at, of)), shape=(wire, wire))
    unknown = np.linalg.solve(matrix.toarray(), known) if dense else splu(matrix).solve(known)
    shape = (R, C, inputs.shape[1])
    return Solution(
        unknown[: R * C].reshape(shape), unknown[R * C : nodes].reshape(shape), unknown[sources], unknown[senses]
    )
