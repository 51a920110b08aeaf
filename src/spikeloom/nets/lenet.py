"""LeNet-5 (LeCun et al., 1998) with spiking neurons and average pools: conv 6, pool, conv 16, pool, fc 120, fc 84, fc classes."""

from __future__ import annotations

from spikeloom.core.network import Network
from spikeloom.core.nodes import AvgPool2d, Shape
from spikeloom.nets.base import NetOptions, Row

_SMALL_MAP = 16


def lenet(in_shape: Shape, num_classes: int, options: NetOptions) -> Network:
    """Maps of 16x16 and up get the original 5x5 kernels (28x28: 28, 14, 10, 5), smaller ones 3x3 with padding (8x8: 8, 4, 4, 2)."""
    small = min(in_shape[1:], default=0) < _SMALL_MAP
    kernel, padding, padding_2 = (3, 1, 1) if small else (5, 2, 0)
    row = Row.start(in_shape, options)
    row.conv(1, 6, kernel, padding=padding).pool(1, AvgPool2d)
    row.conv(2, 16, kernel, padding=padding_2).pool(2, AvgPool2d)
    return row.flatten().linear(1, 120).linear(2, 84).read_out(3, num_classes, "lenet")
