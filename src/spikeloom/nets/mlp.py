"""Multi-layer perceptron: fc 512, fc classes."""

from __future__ import annotations

from spikeloom.core.network import Network
from spikeloom.core.nodes import Shape
from spikeloom.nets.base import NetOptions, Row

HIDDEN = 512


def mlp(in_shape: Shape, num_classes: int, options: NetOptions) -> Network:
    """One hidden layer of 512 (times width) neurons; any input shape."""
    return Row.start(in_shape, options).flatten().linear(1, HIDDEN).read_out(2, num_classes, "mlp")
