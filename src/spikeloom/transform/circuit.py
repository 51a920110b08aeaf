"""The resistive network of a crossbar, solved exactly, and a fast approximation of it.

Every cell (i, j) of R rows and C columns joins its row wire to its column wire through its conductance G[i, j]::

    V_i --[driver]--+--[row wire]-- u_i0 --[row wire]-- u_i1 -- ... -- u_i,C-1      one line per row, inputs at column 0
                                     |G_i0               |G_i1
                                    v_i0                v_i1                        v_ij --[column wire]-- v_i+1,j
                                     |                   |                          v_R-1,j --[column wire]-- sense, 0 V

One row segment lies before each cell, one column segment behind it; row R - 1 is nearest the sense amplifiers. All is linear, so
the currents into the senses are I = V M, M of the shape of G: without resistance M = G, bit for bit.

Exact solution (`effective_conductances`), rows eliminated one by one from the far end of the columns:

1. Row i alone. With the resistances r (row segment) and r_d (driver), let N be the impedance matrix of its nodes. Looking from
   node j to the far end and back to the driver::

       h_j = G_j + h_j+1 / (1 + r h_j+1)            h_C = 0                  tau_j = 1 / (1 + r h_j)
       z_j = r + z_j-1 / (1 + G_j-1 z_j-1)          z_0 = r_d + r
       N_jj = z_j / (1 + z_j h_j)                   N_jk = N_jj tau_j+1 ... tau_k  (j < k)

   Its current into the columns at the potentials v is a_i V_i - S_i v, with a_ij = G_j tau_1 ... tau_j / (1 + z_0 h_0),
   S_jk = -G_j N_jk G_k and S_jj = G_j (1 + z_j (h_j - G_j)) / (1 + z_j h_j). No term is subtracted from a like one.
2. Down the columns. The current out of row i is B_i^T V - Q_i v_i; a segment c later, with row i + 1::

       Q_i+1 = (1 + c Q_i)^-1 Q_i + S_i+1           B_i+1 = [(1 + c Q_i)^-1 B_i, a_i+1]           M^T = (1 + c Q_R-1)^-1 B_R-1

One C x C inverse per row serves all R inputs, O(R C^2 (R + C)) in all; it is refined from that of the row before, or factorised where
the two are not near. Any resistance may be zero; no reciprocal is taken.

Approximation (`approximate_conductances`), O(R C): the row alone with its columns at 0 V gives a; the column alone with its rows
at V gives the same by reciprocity; M ~ G (a_row / G)^x (a_column / G)^y, with x = y = 1 or fitted to a few exact solutions
(`fitted_exponents`). Exact to first order in the resistances, and exact where one kind of wire has none.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from numba import njit
from numpy.typing import NDArray

from spikeloom.errors import NetworkError

Floats = NDArray[np.float64]

#: An inverse is refined where its residual is below the first, and right to rounding once it was below the second.
_NEAR, _THERE = 0.1, 2e-4


def effective_conductances(
    conductance_BRC: Floats, *, row_wire_ohm: float, column_wire_ohm: float, driver_ohm: float, threads: int = 1
) -> Floats:
    """M of B crossbars, in siemens: what column j receives per volt at input i, all other inputs at 0 V.

    Args:
        conductance_BRC: cells in siemens, (B, rows, columns), finite and at least 0.
        row_wire_ohm: one segment of a row.
        column_wire_ohm: one segment of a column.
        driver_ohm: between an input and its row.
        threads: threads that share the crossbars.

    Returns:
        M (B, rows, columns), equal to the conductances bit for bit where no resistance is.

    Raises:
        NetworkError: a negative or non-finite conductance or resistance, or not three axes.
    """
    cells = _checked(conductance_BRC, row_wire_ohm, column_wire_ohm, driver_ohm)
    found = np.empty_like(cells)
    _drive(cells, row_wire_ohm, driver_ohm, found)
    if column_wire_ohm > 0:
        with ThreadPoolExecutor(threads) as pool:
            solve = partial(_down_the_columns, row_wire=row_wire_ohm, column_wire=column_wire_ohm, driver=driver_ohm)
            list(pool.map(solve, cells, found))
    return found


def approximate_conductances(
    conductance_BRC: Floats,
    *,
    row_wire_ohm: float,
    column_wire_ohm: float,
    driver_ohm: float,
    exponents: tuple[float, float] = (1.0, 1.0),
) -> Floats:
    """M of B crossbars by rows and columns taken apart; arguments and errors of `effective_conductances`.

    Args:
        exponents: of the loss along the row and along the column, from `fitted_exponents`.
    """
    cells = _checked(conductance_BRC, row_wire_ohm, column_wire_ohm, driver_ohm)
    row, column = _losses(cells, row_wire_ohm, column_wire_ohm, driver_ohm)
    return np.asarray(cells * row ** exponents[0] * column ** exponents[1])


def fitted_exponents(
    conductance_BRC: Floats, exact_BRC: Floats, *, row_wire_ohm: float, column_wire_ohm: float, driver_ohm: float
) -> tuple[float, float]:
    """Exponents of `approximate_conductances` that fit exact solutions best: least squares of the logarithms, weighted by G^2.

    A side without loss keeps the exponent 1.
    """
    cells = _checked(conductance_BRC, row_wire_ohm, column_wire_ohm, driver_ohm)
    losses = [loss.ravel() for loss in _losses(cells, row_wire_ohm, column_wire_ohm, driver_ohm)]
    weight = cells.ravel()
    seen = weight > 0
    sides = [side for side in (0, 1) if np.any(losses[side][seen] < 1)]
    found = [1.0, 1.0]
    if sides:
        basis = np.stack([np.log(losses[side][seen]) * weight[seen] for side in sides], axis=1)
        wanted = np.log(exact_BRC.ravel()[seen] / weight[seen]) * weight[seen]
        for side, exponent in zip(sides, np.linalg.lstsq(basis, wanted)[0], strict=True):
            found[side] = float(exponent)
    return found[0], found[1]


@dataclass(frozen=True)
class ApproximationError:
    """How far an approximation lies from the exact solution.

    Attributes:
        rms: root mean square of the differences over that of the exact values.
        worst: largest difference over the largest exact value.
        column: largest error of a column's current with all inputs on, over the largest such current.
    """

    rms: float
    worst: float
    column: float


def approximation_error(exact_BRC: Floats, approximate_BRC: Floats) -> ApproximationError:
    """Error of the second against the first, of one shape; zeros where all is zero."""
    difference = approximate_BRC - exact_BRC

    def over(error: float, whole: float) -> float:
        return 0.0 if error == 0 else error / whole if whole else math.inf

    return ApproximationError(
        rms=over(float(np.linalg.norm(difference)), float(np.linalg.norm(exact_BRC))),
        worst=over(float(np.abs(difference).max()), float(np.abs(exact_BRC).max())),
        column=over(float(np.abs(difference.sum(1)).max()), float(np.abs(exact_BRC.sum(1)).max())),
    )


def _checked(cells: Floats, row_wire_ohm: float, column_wire_ohm: float, driver_ohm: float) -> Floats:
    for name, value in (("row wire", row_wire_ohm), ("column wire", column_wire_ohm), ("driver", driver_ohm)):
        if not (math.isfinite(value) and value >= 0):
            raise NetworkError(
                f"crossbar: a resistance of {value} ohm of the {name}; expected a finite number, 0 or more"
            )
    cells = np.ascontiguousarray(cells, np.float64)
    if cells.ndim != 3 or 0 in cells.shape[1:]:
        raise NetworkError(f"crossbar: conductances of shape {cells.shape}; expected (crossbars, rows, columns)")
    if not (np.isfinite(cells).all() and (cells >= 0).all()):
        raise NetworkError("crossbar: a conductance is negative or not finite; expected siemens, 0 or more")
    return cells


def _losses(cells_BRC: Floats, row_wire: float, column_wire: float, driver: float) -> tuple[Floats, Floats]:
    """The fraction of its current that each cell keeps for its row alone and for its column alone."""
    row = np.empty_like(cells_BRC)
    _fractions(cells_BRC, row_wire, driver, row)
    from_sense = np.ascontiguousarray(cells_BRC[:, ::-1].transpose(0, 2, 1))
    column = np.empty_like(from_sense)
    _fractions(from_sense, column_wire, 0.0, column)
    return row, column.transpose(0, 2, 1)[:, ::-1]


@njit(cache=True, nogil=True, error_model="numpy")
def _fractions(cells_BRC: Floats, wire: float, driver: float, fraction_BRC: Floats) -> None:
    """u_ij at V_i = 1 and columns at 0 V: tau_1 ... tau_j / (1 + z_0 h_0)."""
    B, R, C = cells_BRC.shape
    for b in range(B):
        for i in range(R):
            ahead = 0.0
            for j in range(C - 1, 0, -1):
                ahead = cells_BRC[b, i, j] + ahead
                fraction_BRC[b, i, j] = 1.0 / (1.0 + wire * ahead)
                ahead *= fraction_BRC[b, i, j]
            u = 1.0 / (1.0 + (driver + wire) * (cells_BRC[b, i, 0] + ahead))
            fraction_BRC[b, i, 0] = u
            for j in range(1, C):
                u *= fraction_BRC[b, i, j]
                fraction_BRC[b, i, j] = u


@njit(cache=True, nogil=True, error_model="numpy")
def _drive(cells_BRC: Floats, wire: float, driver: float, drive_BRC: Floats) -> None:
    """a of every row."""
    _fractions(cells_BRC, wire, driver, drive_BRC)
    B, R, C = cells_BRC.shape
    for b in range(B):
        for i in range(R):
            for j in range(C):
                drive_BRC[b, i, j] *= cells_BRC[b, i, j]


@njit(cache=True, nogil=True, error_model="numpy")
def _add_row(cells_C: Floats, wire: float, driver: float, admittance_CC: Floats, ladder: Floats) -> None:
    """Add S of one row; ``ladder`` (2, C) is room to work in."""
    C = len(cells_C)
    far = 0.0  # what node j sees beyond its own cell
    for j in range(C - 1, -1, -1):
        ladder[0, j] = far
        whole = cells_C[j] + far
        ladder[1, j] = 1.0 / (1.0 + wire * whole)
        far = whole * ladder[1, j]
    back = driver + wire
    for j in range(C):
        g = cells_C[j]
        below = 1.0 + back * (g + ladder[0, j])
        admittance_CC[j, j] += g * (1.0 + back * ladder[0, j]) / below
        mutual = g * back / below
        for k in range(j + 1, C):
            mutual *= ladder[1, k]
            admittance_CC[j, k] -= mutual * cells_C[k]
            admittance_CC[k, j] -= mutual * cells_C[k]
        back = wire + back / (1.0 + g * back)


@njit(cache=True, nogil=True, error_model="numpy")
def _down_the_columns(cells_RC: Floats, drive_RC: Floats, row_wire: float, column_wire: float, driver: float) -> None:
    """From a of every row to M, in place, by the recursion of the module's text; Q and its functions are symmetric."""
    R, C = cells_RC.shape
    ladder, admittance, inverse = np.empty((2, C)), np.zeros((C, C)), np.eye(C)
    matrix, room, currents = np.empty((C, C)), np.empty((C, C)), np.empty((R, C))
    for i in range(R):
        _add_row(cells_RC[i], row_wire, driver, admittance, ladder)
        for j in range(C):
            for k in range(C):
                matrix[j, k] = column_wire * admittance[j, k]
            matrix[j, j] += 1.0
        inverse = _inverse(matrix, inverse)
        np.dot(drive_RC[: i + 1], inverse, currents[: i + 1])
        drive_RC[: i + 1] = currents[: i + 1]
        np.dot(inverse, admittance, room)
        admittance, room = room, admittance


@njit(cache=True, nogil=True, error_model="numpy")
def _inverse(matrix: Floats, near: Floats) -> Floats:
    """The inverse, refined from that of the row before: the residual E of X leaves E^4 in X (1 + E) (1 + E^2)."""
    C = len(matrix)
    while True:
        residual: Floats = np.dot(matrix, near)
        size = 0.0
        for j in range(C):
            line = 0.0
            for k in range(C):
                residual[j, k] = (1.0 if j == k else 0.0) - residual[j, k]
                line += abs(residual[j, k])
            size = max(size, line)
        if not size < _NEAR:
            return np.ascontiguousarray(np.linalg.inv(matrix))
        square = np.dot(residual, residual)
        near = near + np.dot(near, residual + square + np.dot(residual, square))
        if size < _THERE:
            return near
