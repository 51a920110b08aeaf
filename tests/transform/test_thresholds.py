"""Thresholds against straightforward NumPy on small data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloom.core.network import Network, chain
from spikeloom.core.nodes import ClippedReLU, Conv2d, Flatten, Input, Linear, Output, ReLU
from spikeloom.errors import NetworkError
from spikeloom.snn.execute import Execution, runnable
from spikeloom.transform import thresholds
from spikeloom.transform.prepare import prepare
from spikeloom.transform.thresholds import Values, choose, collect, constant_drive, run_ann
from tests.snn.toys import Pixels, spiking_frames
from tests.transform.test_fold import with_weights

rng = np.random.default_rng(0)
IMAGES = Pixels(rng.integers(0, 256, (30, 2, 5, 5)).astype(np.uint8), np.zeros(30, np.int64))


def ann(first: Any = None, encoding: Any = "analog") -> Network:
    nodes: dict[str, Any] = {
        "in": Input((2, 5, 5), encoding), "conv": Conv2d(2, 4, (3, 3), has_bias=True), "a": first or ReLU(),
        "flatten": Flatten(), "fc": Linear(36, 6, has_bias=True), "b": ReLU(), "fc2": Linear(6, 3), "out": Output((3,)),
    }  # fmt: skip
    return prepare(with_weights(chain("net", nodes), seed=4))


def arriving(network: Network, source: Pixels = IMAGES) -> dict[str, np.ndarray]:
    """By hand: convolution by loops, then matrices; (C, all values)."""
    conv: Any = network.nodes["conv"]
    fc: Any = network.nodes["fc"]
    x = source.samples / 255
    a = np.zeros((len(x), 4, 3, 3))
    for p in range(3):
        for q in range(3):
            a[:, :, p, q] = np.einsum("ncrs,kcrs->nk", x[:, :, p : p + 3, q : q + 3], conv.weight) + conv.bias
    ceiling = getattr(network.nodes["a"], "ceiling", np.inf)
    b = np.clip(a, 0, ceiling).reshape(len(x), -1) @ fc.weight.T + fc.bias
    return {"a": a.transpose(1, 0, 2, 3).reshape(4, -1), "b": b.T}


def collected(network: Network, source: Any = IMAGES) -> dict[str, Values]:
    return collect(network, source, Execution(4, batch_size=7), np.random.default_rng(0))


def test_collected_values_are_what_arrives() -> None:
    network = ann()
    expected = arriving(network)
    for name, at in collected(network).items():
        np.testing.assert_allclose(np.sort(at.drawn), np.sort(expected[name]), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(at.largest, expected[name].max(1), rtol=1e-4)


def test_of_many_values_some_are_drawn_but_the_largest_is_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thresholds, "MOST_VALUES", 200)
    network = ann()
    at = collected(network)["a"]
    expected = arriving(network)["a"]
    assert 4 * 30 <= at.drawn.size <= 240
    np.testing.assert_allclose(at.largest, expected.max(1), rtol=1e-4)
    assert all(np.isclose(expected, value, rtol=1e-3, atol=1e-5).any() for value in at.drawn.ravel())
    again = collected(network)["a"]
    assert np.array_equal(again.drawn, at.drawn)


@pytest.mark.parametrize("by_channel", [False, True])
@pytest.mark.parametrize(
    ("method", "percentile"), [("max", 99.9), ("percentile", 99.0), ("percentile", 50.0), ("percentile", 100.0)]
)
def test_max_and_percentile(method: Any, percentile: float, by_channel: bool) -> None:
    network = ann()
    found = choose(network, collected(network), method, percentile=percentile, by_channel=by_channel)
    for name, values in arriving(network).items():
        rows = values if by_channel else [values.ravel()] * len(values)
        expected = [row.max() if method == "max" else np.percentile(row[row > 0], percentile) for row in rows]
        np.testing.assert_allclose(found[name], expected, rtol=1e-4)
        assert found[name].shape == (len(values),) and found[name].dtype == np.float64


@pytest.mark.parametrize("max_level", [1, 3])
@pytest.mark.parametrize("v_init", [0.0, 0.5])
@pytest.mark.parametrize("num_steps", [1, 4, 32])
@pytest.mark.parametrize("by_channel", [False, True])
def test_mse_is_the_best_of_a_grid_and_near_the_best_of_all(
    by_channel: bool, num_steps: int, v_init: float, max_level: int
) -> None:
    network = ann()
    values = collected(network)
    found = choose(
        network, values, "mse", by_channel=by_channel, num_steps=num_steps, v_init=v_init, max_level=max_level
    )

    def error(a: np.ndarray, threshold: float) -> float:
        size = threshold / max_level
        said = size / num_steps * np.clip(np.floor(a * num_steps / size + v_init), 0, num_steps * max_level)
        return float(np.mean((said - a) ** 2))

    for name, at in values.items():
        for channel, row in enumerate(at.drawn if by_channel else [at.drawn.ravel()]):
            a = row[row > 0].astype(np.float64)
            grid = a.max() * 50 ** -np.linspace(1, 0, 80)
            assert found[name][channel] == pytest.approx(grid[np.argmin([error(a, one) for one in grid])], rel=1e-6)
            least = min(error(a, one) for one in np.linspace(a.max() / 50, a.max(), 2000))
            assert error(a, found[name][channel]) <= 2 * least  # of few values a fine search finds a lucky one


def test_more_steps_need_less_clipping() -> None:
    network = ann()
    values = collected(network)
    found = [choose(network, values, "mse", num_steps=t)["a"][0] for t in (1, 4, 64)]
    assert found[0] < found[1] < found[2] <= values["a"].largest.max() * (1 + 1e-6)


@pytest.mark.parametrize("method", ["max", "percentile", "mse"])
def test_a_ceiling_is_never_exceeded_and_a_staircase_is_kept(method: Any) -> None:
    largest = collected(ann())["a"].largest
    low = ann(ClippedReLU(float(largest.min()) / 2))
    found = choose(low, collected(low), method, by_channel=True)["a"]
    assert (found <= low.nodes["a"].ceiling).all()  # type: ignore[union-attr]
    if method == "max":
        assert (found == low.nodes["a"].ceiling).all()  # type: ignore[union-attr]
    high = ann(ClippedReLU(1000.0))
    np.testing.assert_allclose(choose(high, collected(high), "max", by_channel=True)["a"], largest, rtol=1e-6)
    staircase = ann(ClippedReLU(1000.0, levels=4))
    assert (choose(staircase, collected(staircase), method, by_channel=True)["a"] == 1000).all()


def silenced(channels: list[int]) -> Network:
    network = ann()
    conv: Any = network.nodes["conv"]
    weight, bias = conv.weight.copy(), conv.bias.copy()
    weight[channels], bias[channels] = 0, -1
    return replace(network, nodes={**network.nodes, "conv": replace(conv, weight=weight, bias=bias)})


@pytest.mark.parametrize("method", ["max", "percentile", "mse"])
def test_a_silent_channel_gets_the_largest_of_its_layer(method: Any) -> None:
    network = silenced([2])
    found = choose(network, collected(network), method, by_channel=True)["a"]
    if method == "max":
        assert found[2] < 0 or found[2] == found.max()
    assert found[2] == found[[0, 1, 3]].max() and (found > 0).all()


def test_a_silent_layer_is_refused_by_name() -> None:
    network = silenced([0, 1, 2, 3])
    with pytest.raises(
        NetworkError, match=r"^activation 'a' is 0 for every calibration sample; it cannot be given a threshold"
    ):
        choose(network, collected(network), "max")


@given(
    st.lists(st.floats(-2, 4), min_size=1, max_size=40),
    st.integers(1, 40),
    st.floats(0.1, 3),
    st.floats(0, 0.99),
    st.integers(1, 4),
)
@settings(max_examples=60, deadline=None)
def test_constant_drive_is_a_neuron_stepped_by_hand(
    x: list[float], num_steps: int, size: float, v_init: float, max_level: int
) -> None:
    values = np.array(x)
    said = constant_drive(values, size, num_steps, v_init, max_level)
    membrane, sent = np.full(len(x), v_init * size), np.zeros(len(x))
    for _ in range(num_steps):
        membrane = membrane + values
        level = np.clip(np.floor(membrane / size), 0, max_level)
        membrane -= level * size
        sent += level
    ratio = values * num_steps / size + v_init
    clear = np.abs(ratio - np.rint(ratio)) > 1e-6  # exactly at a threshold the last bit decides
    np.testing.assert_allclose(said[clear], (sent * size / num_steps)[clear], rtol=1e-9, atol=1e-12)


def test_recordings_are_shown_as_means_over_equal_parts() -> None:
    network = ann(encoding="spikes")
    frames = spiking_frames(6, 5, (2, 5, 5), 0.4)
    module = runnable(network)
    seen: dict[str, Any] = {}
    from spikeloom.snn.encode import Encoded

    encoded = Encoded(frames, 6, False, "spikes")
    said = run_ann(module, encoded, 3, lambda name, arrived, sent: seen.update({name: arrived.clone()}))
    parts = frames.reshape(3, 2, 5, 2, 5, 5).mean(1)
    np.testing.assert_allclose(seen["conv"].numpy(), parts, rtol=1e-6)
    assert said.shape == (3, 5, 3)
    assert run_ann(module, encoded, 100).shape[0] == 6  # no more frames than steps
    assert run_ann(module, encoded).shape[0] == 1
