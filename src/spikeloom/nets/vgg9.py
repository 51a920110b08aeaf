"""VGG-9 for 32x32 images: conv 64, 64, pool, 128, 128, pool, 256, 256, pool, fc 1024, fc 1024, fc classes."""

from __future__ import annotations

from spikeloom.core.network import Network
from spikeloom.core.nodes import AvgPool2d, Shape
from spikeloom.nets.base import NetOptions, Row

_STAGES = ((64, 64), (128, 128), (256, 256))


def vgg9(in_shape: Shape, num_classes: int, options: NetOptions) -> Network:
    """Six 3x3 convolutions and three linear layers; a 3x32x32 image reaches them as 4096 features."""
    row = Row.start(in_shape, options)
    number = 0
    for stage, widths in enumerate(_STAGES, start=1):
        for channels in widths:
            number += 1
            row.conv(number, channels, 3, padding=1)
        row.pool(stage, AvgPool2d)
    return row.flatten().linear(1, 1024).linear(2, 1024).read_out(3, num_classes, "vgg9")
