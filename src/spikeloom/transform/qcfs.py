"""QCFS (Bu et al., ICLR 2022): an ANN fine-tuned with the staircase that its spikes will make of every activation.

``a = ceiling * clip(floor(z*L/ceiling + 1/2) / L, 0, 1)`` with L levels and a ceiling that is learned for each layer or channel. At T = L, threshold =
ceiling and half a threshold in the membrane at the start, an IF neuron at constant drive says exactly this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from spikeloom.core.network import Network
from spikeloom.core.nodes import ClippedReLU, Node
from spikeloom.errors import NetworkError
from spikeloom.transform.prepare import activations


def staircase(ready: Network, thresholds: Mapping[str, np.ndarray], levels: int) -> Network:
    """A prepared ANN with staircases of ``levels`` steps for its activations, to be fine-tuned.

    Args:
        ready: from `spikeloom.transform.prepare`.
        thresholds: where the ceilings start, by activation and channel; one ceiling for all channels where they are the same.
        levels: L.
    """
    if not 1 <= levels <= 65535:
        raise NetworkError(f"levels must be 1..65535, got {levels}")
    nodes: dict[str, Node] = dict(ready.nodes)
    shapes = ready.shapes()
    for name in activations(ready):
        start = thresholds[name]
        ones = (1,) * (len(shapes[name]) - 1)
        ceiling = float(start[0]) if (start == start[0]).all() else start.astype(np.float32).reshape(-1, *ones)
        nodes[name] = ClippedReLU(ceiling, levels)
    return replace(ready, nodes=nodes)
