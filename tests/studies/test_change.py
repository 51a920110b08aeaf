"""Figures of a network: accuracy and activity on samples, size without."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from spikeloom.core.network import Network, chain
from spikeloom.core.nodes import IF, LI, Conv2d, Flatten, Input, Linear, Output, ReLU
from spikeloom.snn.execute import Execution, evaluate, runnable
from spikeloom.studies import change
from spikeloom.studies.change import activity, figures
from spikeloom.transform.quantize import Widths, quantize
from tests.snn.toys import Pixels, stripes


def network(neuron: Any = None) -> Network:
    rng = np.random.default_rng(0)
    conv, fc = rng.normal(size=(3, 1, 3, 3)).astype(np.float32), rng.normal(size=(2, 48)).astype(np.float32)
    conv[0, 0, 0], fc[:, :10] = 0, 0
    nodes: dict[str, Any] = {
        "in": Input((1, 6, 6), "analog"), "conv": Conv2d(1, 3, (3, 3), weight=conv), "n": neuron or IF(2.0, "soft"), "f": Flatten(),
        "fc": Linear(48, 2, weight=fc), "li": LI(), "out": Output((2,)),
    }  # fmt: skip
    return chain("small", nodes)


SOURCE = stripes(20)


def test_figures_by_hand() -> None:
    one = figures("one", network(), SOURCE, Execution(5))
    assert (one.name, one.arithmetic, one.num_steps) == ("one", "float32", 5)
    assert one.accuracy == evaluate(network(), SOURCE, Execution(5))
    assert one.weights == 27 + 96 and one.zeros == pytest.approx((3 + 20) / 123)
    assert one.weight_kib == 123 * 4 / 1024
    seen: dict[str, Any] = {}
    x = torch.from_numpy(SOURCE.samples).float() / 255
    with torch.no_grad():
        runnable(network())(x, 5, True, lambda name, arrived, sent: seen.update({name: (arrived, sent)}))
    spikes = seen["n"][1]
    assert one.spikes == float(spikes.sum()) / 20
    weight: Any = network().nodes["conv"].weight  # type: ignore[union-attr]
    # the first ten inputs of fc meet no weight, the others two each
    fc = 2 * float((seen["fc"][0][..., 10:] != 0).sum())
    pixels = sum(
        float((x[:, 0, r : r + 4, s : s + 4] != 0).sum()) * int((weight[:, 0, r, s] != 0).sum())
        for r in range(3) for s in range(3)
    )  # fmt: skip
    assert one.synops == pytest.approx((fc + 5 * pixels) / 20)


def test_without_samples_only_its_size_is_known() -> None:
    one = figures("size", network())
    assert one.num_steps is one.accuracy is one.spikes is one.synops is None and one.weights == 123


def test_an_ann_has_no_spikes() -> None:
    assert activity(network(ReLU()), SOURCE, Execution(1)) == (None, None)
    one = figures("ann", network(ReLU()), SOURCE, Execution(1))
    assert one.spikes is None and one.synops is None and one.accuracy is not None


def test_integers_count_their_bits() -> None:
    integers = quantize(network(), Widths(weight_bits=4))
    one = figures("int", integers, SOURCE, Execution(3))
    assert one.arithmetic == "integer" and one.weight_kib == 123 * 4 / 8 / 1024 and one.accuracy is not None


def test_activity_is_of_the_first_samples_and_accuracy_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(change, "COUNTED_SAMPLES", 4)
    few = figures("few", network(), SOURCE, Execution(3))
    four = figures("four", network(), Pixels(SOURCE.samples[:4], SOURCE.labels[:4]), Execution(3))
    assert (few.spikes, few.synops) == (four.spikes, four.synops)
    assert few.accuracy == evaluate(network(), SOURCE, Execution(3))
