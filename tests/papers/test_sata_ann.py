"""The 8-bit ANN that SATA_Sim's archive sets against its SNN, on `systolic-eyeriss`: what agrees, and by how much the rest does not.

Source: github.com/RuokaiYin/SATA_Sim (MIT), results/eyeriss-8bit: VGG9 on CIFAR-10, T = 1, half of the activations zero.
"""

from __future__ import annotations

import numpy as np
import pytest

from spikeloom.core.network import chain
from spikeloom.core.nodes import Conv2d, Input, Linear, Node, ReLU
from spikeloom.core.report import Report
from spikeloom.core.trace import Levels, SpikeTrace
from spikeloom.core.workload import Layer, Workload
from spikeloom.evaluate import evaluate, load_machine
from spikeloom.lower import lower

#: (map, input channels, filters) of the 3x3 convolutions, then the linear layers.
CONVOLUTIONS = (
    (32, 3, 64), (32, 64, 64), (16, 64, 128), (8, 128, 128), (4, 128, 256), (4, 256, 256), (4, 256, 256),
)  # fmt: skip
LINEAR = ((1024, 1024), (1024, 512))
#: Nanojoules of the archive by part, and its total.
ARCHIVE = {
    "dram_ifmap": 445354.838292,
    "dram_ofmap": 70091.63805,
    "dram_weight": 1550289.6864,
    "pe": 1346453.6819884803,
}
TOTAL = 3812577.72205808


def layer_of(name: str, node: Node, shape: tuple[int, ...], seed: int) -> Layer:
    """A layer of 8-bit activations, half of them zero."""
    rng = np.random.default_rng(seed)
    values = rng.integers(1, 256, (1, 1, *shape)) * (rng.random((1, 1, *shape)) < 0.5)
    trace = SpikeTrace(1, 1, {name: Levels(values.astype(np.uint8), 8)})
    return lower(chain("one", {"in": Input(shape), name: node, "relu": ReLU()}), trace).layers[0]


@pytest.fixture(scope="module")
def report() -> Report:
    layers = [
        layer_of(f"conv{i}", Conv2d(c, k, (3, 3), padding=(1, 1)), (c, size, size), i)
        for i, (size, c, k) in enumerate(CONVOLUTIONS)
    ]
    layers += [layer_of(f"fc{i}", Linear(c, k), (c,), 10 + i) for i, (c, k) in enumerate(LINEAR)]
    assert len({layer.name for layer in layers}) == 9
    return evaluate(Workload(tuple(layers), 1, 1), load_machine("systolic-eyeriss")[1])


def test_the_weights_of_the_archive_cost_what_they_cost_there(report: Report) -> None:
    """Each weight comes from DRAM once: 3,307,200 bytes."""
    assert report.by("action")["dram_weight.read"] == pytest.approx(ARCHIVE["dram_weight"] * 1e-9, rel=1e-6)


def test_the_other_parts_deviate_in_the_direction_of_the_rules_of_the_archive(report: Report) -> None:
    """It counts maps without padding in DRAM traffic, linear layers as padded 3x3 maps, and a second pass of cycles."""
    parts = report.by("component")
    assert parts["dram_ifmap"] / ARCHIVE["dram_ifmap"] * 1e9 == pytest.approx(0.853, abs=0.002)  # whole maps per pass
    assert parts["dram_ofmap"] / ARCHIVE["dram_ofmap"] * 1e9 == pytest.approx(
        1.243, abs=0.002
    )  # outputs of padded maps
    array = parts["pe"] + parts["pe leakage"] + parts["array"]
    assert array / ARCHIVE["pe"] * 1e9 == pytest.approx(
        0.51, abs=0.01
    )  # 946,752 cycles where the archive has 2,329,013
    assert report.cycles == 946_752
    assert report.energy_j / TOTAL * 1e9 == pytest.approx(0.775, abs=0.005)


def test_half_of_the_activations_are_zero_as_the_archive_assumes(report: Report) -> None:
    macs = sum(layer.counts["pe.mac"] for layer in report.layers)
    dense = sum(layer.counts["pe.zero"] for layer in report.layers) + macs
    assert dense == 92_995_584
    assert macs / dense == pytest.approx(0.5, abs=0.07)  # the rest is padding, which is zero as well
