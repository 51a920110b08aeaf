"""A small spiking network with drawn weights and its spikes, shared by the tests of this room."""

from __future__ import annotations

from typing import Any

import numpy as np

from spikeloom.core.network import Network, chain
from spikeloom.core.nodes import LI, LIF, Conv2d, Flatten, Input, Leak, Linear, Output, SumPool2d
from spikeloom.core.workload import Workload
from spikeloom.lower import lower
from spikeloom.snn.build import build
from spikeloom.snn.execute import Execution
from spikeloom.snn.record import record
from tests.snn.toys import Pixels, spiking_frames

T = 10


def event_net(*, reset: Any = "hard") -> Network:
    """conv 3x3 (6), pool 2, conv 3x3 (4), fc 2 on 1 x 8 x 8 spikes; drawn weights without bias."""
    neuron = LIF(Leak(shift=2), reset=reset)
    nodes: dict[str, Any] = {
        "input": Input((1, 8, 8), "spikes"),
        "conv1": Conv2d(1, 6, (3, 3), padding=(1, 1)),
        "neuron1": neuron,
        "pool1": SumPool2d((2, 2), (2, 2)),
        "conv2": Conv2d(6, 4, (3, 3), padding=(1, 1)),
        "neuron2": neuron,
        "flatten": Flatten(),
        "fc": Linear(64, 2),
        "readout": LI(),
        "output": Output((2,)),
    }
    return build(chain("events", nodes), seed=3).to_network()


def residual_net() -> Network:
    """conv 3x3 (6), then a block of conv 3x3 (6) and conv 3x3 (4) with a projection 1x1 (4) beside it, fc 2; drawn weights."""
    neuron = LIF(Leak(shift=2))
    nodes: dict[str, Any] = {
        "input": Input((1, 8, 8), "spikes"),
        "conv1": Conv2d(1, 6, (3, 3), padding=(1, 1)),
        "neuron1": neuron,
        "side": Conv2d(6, 4, (1, 1), (2, 2)),
        "conv2": Conv2d(6, 6, (3, 3), padding=(1, 1)),
        "neuron2": neuron,
        "conv3": Conv2d(6, 4, (3, 3), (2, 2), (1, 1)),
        "neuron3": neuron,
        "flatten": Flatten(),
        "fc": Linear(64, 2),
        "readout": LI(),
        "output": Output((2,)),
    }
    way = [name for name in nodes if name != "side"]
    edges = (*zip(way, way[1:], strict=False), ("neuron1", "side"), ("side", "neuron3"))
    return build(Network(nodes, edges, "residual"), seed=3).to_network()


def events(number: int, *, rate: float = 0.15, seed: int = 0) -> Pixels:
    """Random frames; in class 1 only the right half of the map sees anything."""
    frames = spiking_frames(T, number, (1, 8, 8), rate, seed)
    labels = np.arange(number, dtype=np.int64) % 2
    frames[:, labels == 1, :, :, :4] = 0
    return Pixels(frames, labels, sample_axis=1)


def spikes_of(network: Network, source: Pixels) -> Workload:
    """What ``network`` sends on ``source``."""
    return lower(network, record(network, source, Execution(T, "events")))
