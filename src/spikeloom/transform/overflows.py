"""How often membranes of an integer network go beyond their words on given samples."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from spikeloom.core.network import Network
from spikeloom.core.nodes import LI, Membrane
from spikeloom.snn.build import input_frames
from spikeloom.snn.execute import Execution, Source, encoded_batches, runnable
from spikeloom.snn.neurons import Dynamics, Membranes
from spikeloom.snn.surrogate import SURROGATES


def overflows(network: Network, source: Source, execution: Execution) -> dict[str, float]:
    """How often, per sample, a membrane or current of each node of an integer network went beyond its word.

    Args:
        network: integers; of a float network no word is told.
        source: the samples.
        execution: T, encoding, seed of random codes.
    """
    module = runnable(network)
    cut: dict[str, float] = {}

    def watch(name: str, arrived: Tensor, sent: Tensor) -> None:
        node = network.nodes[name]
        if isinstance(node, Membrane) and node.membrane_bits is not None:
            membranes = _Counting(arrived[0], _dynamics(name, node))
            for psum in arrived.unbind(0):
                membranes.step(psum)
            cut[name] = cut.get(name, 0) + membranes.cut / len(source)

    with torch.no_grad():
        for _, encoded in encoded_batches(source, execution, module.input_node):
            module(input_frames(module, encoded), execution.num_steps, encoded.constant, watch)
    return cut


class _Counting(Membranes):
    """Membranes that count how many of them did not fit."""

    def __init__(self, like: Tensor, dynamics: Dynamics) -> None:
        super().__init__(like, dynamics, SURROGATES["atan"])
        self.cut = 0

    def _bounded(self, v: Tensor) -> Tensor:
        held = super()._bounded(v)
        self.cut += int((held != v).sum())
        return held


def _dynamics(name: str, node: Any) -> Dynamics:
    if not isinstance(node, LI):
        return Dynamics.of(name, node)
    return Dynamics(
        v_threshold=math.inf, reset="none", leak=node.leak, membrane_bits=node.membrane_bits, overflow=node.overflow
    )
