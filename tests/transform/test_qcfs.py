"""QCFS: staircases in the place of activations, and the SNN that says exactly the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from spikeloom.core.nodes import LIF, ClippedReLU, ReLU
from spikeloom.errors import NetworkError
from spikeloom.snn import TrainConfig, train
from spikeloom.snn.execute import Execution, evaluate, runnable
from spikeloom.transform.calibrate import calibrate
from spikeloom.transform.convert import Conversion, activations, convert
from spikeloom.transform.prepare import prepare
from spikeloom.transform.qcfs import staircase
from tests.snn.toys import stripes, tiny_cnn
from tests.transform.test_convert import IMAGES, X, deep, mean_output, rates

SIZES = {"a": np.array([1.0, 0.5, 0.75, 0.2]), "b": np.full(6, 2.0), "c": np.full(8, 1.5)}


def test_every_activation_becomes_a_staircase_that_starts_at_its_thresholds() -> None:
    """One ceiling where all channels share it, else one for each."""
    ready = prepare(deep(ClippedReLU(3.0)))
    found = staircase(ready, SIZES, 8)
    for name, ceiling in (("a", SIZES["a"].reshape(4, 1, 1)), ("b", 2.0), ("c", 1.5)):
        node: Any = found.nodes[name]
        assert type(node) is ClippedReLU and node.levels == 8 and np.shape(node.ceiling) == np.shape(ceiling)
        np.testing.assert_allclose(node.ceiling, ceiling)
    assert found.edges == ready.edges and activations(found) == ("a", "b", "c")
    assert found.nodes["conv"] is ready.nodes["conv"] and ready.nodes["a"].ceiling == 3.0  # type: ignore[union-attr]


@pytest.mark.parametrize("levels", [1, 4, 8])
def test_a_staircase_is_the_published_formula(levels: int) -> None:
    """ceiling * clip(floor(z L / ceiling + 1/2) / L, 0, 1) (Bu et al., ICLR 2022)."""
    network = staircase(prepare(deep()), SIZES, levels)
    seen: dict[str, Any] = {}
    with torch.no_grad():
        runnable(network)(X, 1, True, lambda n, arrived, sent: seen.update({n: (arrived[0].numpy(), sent[0].numpy())}))
    for name, sizes in SIZES.items():
        z, said = seen[name]
        ceiling = sizes.reshape(-1, *([1] * (z.ndim - 2)))
        step = z.astype(np.float64) * levels / ceiling + 0.5
        expected = ceiling * np.clip(np.floor(step) / levels, 0, 1)
        clear = np.abs(step - np.rint(step)) > 1e-4
        np.testing.assert_allclose(said[clear], expected[clear], atol=1e-5)
    assert len(np.unique((seen["a"][1] / SIZES["a"].reshape(4, 1, 1)).round(4))) == levels + 1


@pytest.mark.parametrize("levels", [2, 4, 8])
def test_its_first_spiking_layer_says_exactly_what_it_says(levels: int) -> None:
    """At T = L."""
    ann = staircase(prepare(deep()), SIZES, levels)
    made = convert(ann, IMAGES, Execution(levels), Conversion(num_steps=levels))
    for name, size in SIZES.items():
        np.testing.assert_allclose(made.thresholds[name], size, rtol=1e-6)
    said = rates(made.network, "a", levels) * SIZES["a"].reshape(4, 1, 1)
    np.testing.assert_allclose(said, rates(ann, "a", 1), atol=1e-5)


def test_trained_on_the_staircase_it_loses_nothing_at_t_equal_to_its_levels() -> None:
    """And more than the SNN of the ANN as it was, at so few steps."""
    fit, test = stripes(128), stripes(64, seed=9)
    ann = tiny_cnn(norm=False)
    ann = replace(ann, nodes={name: ReLU() if isinstance(node, LIF) else node for name, node in ann.nodes.items()})
    config = TrainConfig(num_steps=1, epochs=6, batch_size=16, learning_rate=1e-2)
    ann = train(ann, fit, config).network
    ready = prepare(ann)
    sizes = convert(ann, fit, Execution(2), Conversion(num_steps=2)).thresholds
    tuned = train(staircase(ready, sizes, 2), fit, config).network
    made = convert(tuned, fit, Execution(2), Conversion(num_steps=2))
    assert evaluate(tuned, test, Execution(1)) > 0.95
    assert evaluate(made.network, test, Execution(2)) >= evaluate(tuned, test, Execution(1)) - 0.05
    error, plain = (
        np.mean((mean_of(one.network, test) - mean_of(one.ann, test, 1)) ** 2) / np.mean(mean_of(one.ann, test, 1) ** 2)
        for one in (made, convert(ann, fit, Execution(2), Conversion(num_steps=2)))
    )
    assert error < plain
    assert calibrate(made, fit, Execution(2)).network.id != made.network.id


def mean_of(network: Any, source: Any, num_steps: int = 2) -> np.ndarray:
    return mean_output(network, num_steps, torch.from_numpy(source.samples).float() / 255)


@pytest.mark.parametrize("levels", [0, -1, 65536])
def test_levels_out_of_range_are_refused(levels: int) -> None:
    with pytest.raises(NetworkError, match=f"^levels must be 1..65535, got {levels}"):
        staircase(prepare(deep()), SIZES, levels)
