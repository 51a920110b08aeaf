"""A small network for 34x34 event recordings: conv 16 /2, conv 16, sum pool, conv 8, sum pool, fc 256, fc classes."""

from __future__ import annotations

from spikeloom.core.network import Network
from spikeloom.core.nodes import Shape, SumPool2d
from spikeloom.nets.base import NetOptions, Row


def nmnist_cnn(in_shape: Shape, num_classes: int, options: NetOptions) -> Network:
    """Two polarities of 34x34 go through maps of 16, 16, 8, 8 and 4; the shape of the N-MNIST network of the NIR paper."""
    row = Row.start(in_shape, options)
    row.conv(1, 16, 5, stride=2, padding=1)
    row.conv(2, 16, 3, padding=1).pool(1, SumPool2d)
    row.conv(3, 8, 3, padding=1).pool(2, SumPool2d)
    return row.flatten().linear(1, 256).read_out(2, num_classes, "nmnist-cnn")
