"""Weights on a grid: torch and NumPy agree, levels are symmetric, and the step is what its rule says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spikeloom.errors import NetworkError
from spikeloom.snn.fake_quant import FakeQuant, Scaling, chosen_step, grid_levels

LARGEST = [1, 3, 7, 31, 127]
SCALES: list[Scaling] = ["max", "mse"]
seeds = st.integers(0, 2**32 - 1)


def drawn(seed: int, rows: int = 4, number: int = 30) -> np.ndarray:
    """Rows of different size with outliers; some may be all zeros."""
    generator = np.random.default_rng(seed)
    size = generator.choice([0.0, 1e-3, 1.0, 20.0], (rows, 1), p=[0.1, 0.3, 0.3, 0.3])
    array: np.ndarray = generator.standard_t(3, (rows, number)) * size
    return array


@given(seeds, st.sampled_from(LARGEST), st.sampled_from(SCALES))
def test_training_and_storing_round_to_the_same_grid(seed: int, largest: int, scale: Scaling) -> None:
    weight = drawn(seed).astype(np.float32)
    step = chosen_step(weight.astype(np.float64), largest, scale)[:, None]
    levels = grid_levels(weight, step, largest)
    used = FakeQuant({"fc": step}, {"fc": largest})("fc", torch.from_numpy(weight)).numpy()
    assert used.dtype == np.float32
    assert np.array_equal(used, (levels * step).astype(np.float32))
    assert np.array_equal(levels, np.rint(levels))
    assert np.abs(levels).max() <= largest
    assert np.array_equal(grid_levels(-weight, step, largest), -levels)


@given(seeds, st.sampled_from(LARGEST))
def test_the_largest_weight_takes_the_largest_level_and_no_error_exceeds_half_a_step(seed: int, largest: int) -> None:
    weights = drawn(seed)
    step = chosen_step(weights, largest, "max")
    levels = grid_levels(weights, step[:, None], largest)
    some = np.abs(weights).max(1) > 0
    assert np.all(np.abs(levels).max(1)[some] == largest)
    assert np.all(step[some] <= np.abs(weights).max(1)[some] / largest * (1 + 2**-11))
    assert np.all(np.abs(weights - levels * step[:, None]) <= step[:, None] / 2 * (1 + 1e-9))


@given(seeds, st.sampled_from(LARGEST), st.sampled_from(SCALES), st.integers(0, 3))
def test_each_row_has_a_step_of_its_own(seed: int, largest: int, scale: Scaling, row: int) -> None:
    weights = drawn(seed)
    weights[:, 0] += 1e-4  # rows of zeros look at the others
    before = chosen_step(weights, largest, scale)
    weights[row] *= 3.7
    after = chosen_step(weights, largest, scale)
    others = np.arange(4) != row
    assert np.array_equal(before[others], after[others])
    assert after[row] == pytest.approx(3.7 * before[row], rel=2**-10)


def error(weights: np.ndarray, step: np.ndarray, largest: int) -> np.ndarray:
    total: np.ndarray = ((weights - step[:, None] * grid_levels(weights, step[:, None], largest)) ** 2).sum(1)
    return total


@given(seeds, st.sampled_from(LARGEST))
def test_squared_error_is_never_worse_than_with_the_largest_weight(seed: int, largest: int) -> None:
    weights = drawn(seed)
    best = error(weights, chosen_step(weights, largest, "mse"), largest)
    assert np.all(best <= error(weights, chosen_step(weights, largest, "max"), largest) * (1 + 1e-2))


@given(seeds)
def test_ternary_steps_are_the_best_of_a_fine_search(seed: int) -> None:
    weights = drawn(seed, rows=1, number=12)
    weights[:, 0] += 1e-4
    found = error(weights, chosen_step(weights, 1, "mse"), 1)[0]
    top = np.abs(weights).max()
    searched = min(error(weights, np.array([top * part]), 1)[0] for part in np.linspace(0.01, 1, 500))
    assert found <= searched * (1 + 1e-3) + 1e-18


@given(seeds, st.sampled_from(LARGEST), st.sampled_from(SCALES), st.floats(1e-3, 10))
def test_weights_on_a_grid_keep_it(seed: int, largest: int, scale: Scaling, step: float) -> None:
    generator = np.random.default_rng(seed)
    levels = generator.integers(-largest, largest + 1, (5, 9))
    levels[:, 0] = np.where(levels[:, 0] == 0, 1, levels[:, 0])
    weight = (levels * step).astype(np.float32)
    found = chosen_step(weight.astype(np.float64), largest, scale)[:, None]
    again = (grid_levels(weight, found, largest) * found).astype(np.float32)
    np.testing.assert_allclose(again, weight, rtol=1e-6)
    ratio = step / found
    np.testing.assert_allclose(ratio * levels, np.rint(ratio * levels), atol=1e-3)


def test_what_else_shall_be_whole_decides_between_grids() -> None:
    weights = np.array([[0.0, 0.5, -0.5]])
    assert chosen_step(weights, 127, "max")[0] == 0.5 / 127
    step = chosen_step(weights, 127, "max", ([np.array([[0.75]])],))[0]
    assert 0.75 / step == pytest.approx(189)
    assert 0.5 / step == pytest.approx(126)


@given(seeds, st.sampled_from(LARGEST), st.sampled_from(SCALES), st.floats(1e-4, 1))
def test_no_step_is_finer_than_asked_and_trained_weights_keep_theirs(
    seed: int, largest: int, scale: Scaling, least: float
) -> None:
    generator = np.random.default_rng(seed)
    weight = generator.normal(size=(4, 30)) * generator.uniform(1e-3, 20, (4, 1))
    step = chosen_step(weight, largest, scale, least=np.full(4, least))
    assert (step >= least).all()
    assert np.all(step <= np.maximum(least * (1 + 2**-10), chosen_step(weight, largest, scale) * 1.001))
    trained = (grid_levels(weight, step[:, None], largest) * step[:, None]).astype(np.float32)
    for moved in (1.0, 1.2):
        again = chosen_step(trained.astype(np.float64), largest, scale, least=np.full(4, least * moved))[:, None]
        stored = (grid_levels(trained, again, largest) * again).astype(np.float32)
        np.testing.assert_allclose(stored, trained, rtol=1e-6)


def test_rows_of_zeros_have_the_largest_step_of_the_others() -> None:
    weights = np.array([[0.0, 0.0], [1.0, 0.3], [2.0, 0.4]])
    step = chosen_step(weights, 7, "max")
    assert step[0] == step.max() > 0
    assert chosen_step(np.zeros((2, 3)), 7, "mse") == pytest.approx(1 / 7)


def test_gradients_pass_straight_through() -> None:
    weight = torch.tensor([[0.4, 9.0], [-0.1, 0.0]], requires_grad=True)
    rule = FakeQuant({"fc": np.array([[0.25], [0.5]])}, {"fc": 3})
    used = rule("fc", weight)
    assert used.detach().tolist() == [[0.5, 0.75], [0.0, 0.0]]
    used.backward(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert weight.grad.tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_a_synapse_without_a_grid_is_named() -> None:
    with pytest.raises(NetworkError, match="no grid for the weights of 'conv'; expected one of fc"):
        FakeQuant({"fc": np.ones((1, 1))}, {"fc": 7})("conv", torch.zeros(1, 1))
