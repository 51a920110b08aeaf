"""Pixels as the bias currents of neurons: what a chip of cores that exchange spikes does with an image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from spikeloom.core.network import Network
from spikeloom.core.nodes import Input, ReLU
from spikeloom.errors import NetworkError
from spikeloom.transform.fold import by_channel

#: Names of the synapse and the activation that are put behind the input, unless nodes have them already.
PIXELS = "pixels"


def with_input_neurons(ann: Network) -> tuple[Network, str, str]:
    """A layer of one neuron for each pixel behind the input: a weight of 1 by channel (1x1, depthwise) and a ReLU.

    Pixels are never below 0, so that the ANN computes what it did. Converted, these neurons get their pixel at every step and send
    spikes at its rate; every other layer gets spikes only.

    Returns:
        (network, name of the synapse, name of the activation).

    Raises:
        NetworkError: an input of spikes or levels, which needs no such layer, or a flat one.
    """
    source = next(name for name, node in ann.nodes.items() if isinstance(node, Input))
    node = ann.nodes[source]
    assert isinstance(node, Input)
    if node.encoding != "analog":
        raise NetworkError(
            f"input '{source}' gets {node.encoding}, expected pixels: others need no neurons of their own"
        )
    if len(node.shape) < 2:
        raise NetworkError(
            f"input '{source}' has the shape {list(node.shape)}, expected a map [C, H, W] or [C, W]; put a Flatten behind the input"
        )
    synapse, neurons = _free(ann, PIXELS), _free(ann, f"{PIXELS}.neurons")
    channels = node.shape[0]
    added = {synapse: by_channel(node.shape, np.ones(channels), np.zeros(channels)), neurons: ReLU()}
    nodes = {}
    for name, each in ann.nodes.items():
        nodes[name] = each
        if name == source:
            nodes |= added
    edges = tuple((neurons if src == source else src, dst) for src, dst in ann.edges)
    return replace(ann, nodes=nodes, edges=((source, synapse), (synapse, neurons), *edges)), synapse, neurons


def _free(network: Network, name: str) -> str:
    """``name``, or with a number behind it where a node has it already."""
    found, number = name, 2
    while found in network.nodes:
        found, number = f"{name}.{number}", number + 1
    return found
