"""The exact crossbar against Kirchhoff's laws written out, and the approximation against the exact one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloom.errors import NetworkError
from spikeloom.transform.circuit import (
    approximate_conductances,
    approximation_error,
    effective_conductances,
    fitted_exponents,
)
from tests.reference import circuit as reference

OHMS = st.sampled_from([0.0, 0.5, 5.0, 300.0])


def cells(seed: int, *shape: int) -> np.ndarray:
    """Cells of 1 to 100 microsiemens, a fifth of them absent."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(shape) < 0.2, 0.0, rng.uniform(1e-6, 1e-4, shape))


def wires(row: float, column: float, driver: float) -> dict[str, float]:
    return {"row_wire_ohm": row, "column_wire_ohm": column, "driver_ohm": driver}


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7), st.integers(1, 7), OHMS, OHMS, OHMS.map(lambda ohm: 20 * ohm), st.integers(0, 999))
def test_equals_kirchhoff(rows: int, columns: int, row: float, column: float, driver: float, seed: int) -> None:
    G = cells(seed, 2, rows, columns)
    found = effective_conductances(G, **wires(row, column, driver))
    for crossbar, M in zip(G, found, strict=True):
        wanted = reference.solve(crossbar, row, column, driver, np.eye(rows), dense=True).sense_i.T
        np.testing.assert_allclose(M, wanted, rtol=1e-11, atol=1e-12 * G.max())


@pytest.mark.parametrize("size", [32, 64, 128])
def test_equals_kirchhoff_at_full_size(size: int) -> None:
    G = cells(size, 1, size, size)
    V = np.random.default_rng(0).random((size, 2))
    M = effective_conductances(G, **wires(1.0, 2.0, 100.0))[0]
    wanted = reference.solve(G[0], 1.0, 2.0, 100.0, V, dense=False)
    np.testing.assert_allclose(M.T @ V, wanted.sense_i, rtol=1e-10)
    np.testing.assert_allclose(wanted.source_i.sum(0), wanted.sense_i.sum(0), rtol=1e-10)  # all that enters leaves


def test_no_resistance_is_the_identity() -> None:
    G = cells(3, 11, 9, 5)
    assert np.array_equal(effective_conductances(G, **wires(0.0, 0.0, 0.0)), G)
    assert np.array_equal(approximate_conductances(G, **wires(0.0, 0.0, 0.0)), G)


def test_reciprocal() -> None:
    """Sources and senses change places: the transposed crossbar, mirrored, has the transposed answer when drivers have none."""
    G = cells(4, 3, 9, 6)
    M = effective_conductances(G, **wires(30.0, 70.0, 0.0))
    mirrored = G[:, ::-1, ::-1].transpose(0, 2, 1)
    back = effective_conductances(mirrored, **wires(70.0, 30.0, 0.0))
    assert not np.allclose(M, G, rtol=1e-3)
    np.testing.assert_allclose(back[:, ::-1, ::-1].transpose(0, 2, 1), M, rtol=1e-12)


def test_losses_grow_with_resistance_and_distance() -> None:
    G = np.full((1, 16, 16), 5e-5)
    M = effective_conductances(G, **wires(2.0, 2.0, 50.0))[0]
    assert (np.diff(M, axis=1) < 0).all() and (np.diff(M, axis=0) > 0).all()  # far from the driver, far from the sense
    assert (effective_conductances(G, **wires(3.0, 2.0, 50.0))[0] < M).all()


def test_threads_and_batches_change_nothing() -> None:
    G = cells(5, 19, 12, 10)
    whole = effective_conductances(G, **wires(1.0, 1.0, 100.0))
    assert np.array_equal(effective_conductances(G, **wires(1.0, 1.0, 100.0), threads=2), whole)
    assert np.array_equal(effective_conductances(G[7:8], **wires(1.0, 1.0, 100.0))[0], whole[7])
    assert effective_conductances(G[:0], **wires(1.0, 1.0, 100.0)).shape == (0, 12, 10)


@pytest.mark.parametrize(("row", "column", "driver"), [(2.0, 0.0, 100.0), (0.0, 2.0, 0.0)])
def test_approximation_is_exact_for_one_kind_of_wire(row: float, column: float, driver: float) -> None:
    G = cells(6, 2, 20, 20)
    exact = effective_conductances(G, **wires(row, column, driver))
    np.testing.assert_allclose(approximate_conductances(G, **wires(row, column, driver)), exact, rtol=1e-12)


def test_approximation_is_of_second_order() -> None:
    """A tenth of every resistance makes a hundredth of the error."""
    G = cells(7, 2, 16, 16)
    errors = []
    for part in (1.0, 0.1):
        ohms = wires(1.0 * part, 1.0 * part, 20.0 * part)
        errors.append(approximation_error(effective_conductances(G, **ohms), approximate_conductances(G, **ohms)))
    for name in ("rms", "worst", "column"):
        assert getattr(errors[0], name) / getattr(errors[1], name) == pytest.approx(100, rel=0.2)


def test_fitted_approximation_is_nearer() -> None:
    G, ohms = cells(8, 4, 32, 32), wires(2.0, 2.0, 200.0)
    exact = effective_conductances(G, **ohms)
    exponents = fitted_exponents(G[:1], exact[:1], **ohms)
    fitted = approximation_error(exact[1:], approximate_conductances(G[1:], **ohms, exponents=exponents))
    plain = approximation_error(exact[1:], approximate_conductances(G[1:], **ohms))
    assert fitted.rms < 0.7 * plain.rms < 0.01


def test_error_measures() -> None:
    exact, near = np.array([[[3.0, 0.0], [4.0, 0.0]]]), np.array([[[3.0, 0.0], [4.5, 0.0]]])
    error = approximation_error(exact, near)
    assert (error.rms, error.worst, error.column) == pytest.approx((0.1, 0.125, 0.5 / 7))
    assert approximation_error(exact * 0, exact * 0).rms == 0


@pytest.mark.parametrize(
    ("G", "ohms", "message"),
    [
        (-np.ones((1, 2, 2)), (1.0, 1.0, 1.0), "negative or not finite"),
        (np.full((1, 2, 2), np.nan), (1.0, 1.0, 1.0), "negative or not finite"),
        (np.ones((2, 2)), (1.0, 1.0, 1.0), "shape"),
        (np.ones((1, 2, 2)), (1.0, -1.0, 1.0), "column wire"),
        (np.ones((1, 2, 2)), (1.0, 1.0, np.inf), "driver"),
    ],
)
def test_refusals(G: np.ndarray, ohms: tuple[float, float, float], message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        effective_conductances(G, **wires(*ohms))
