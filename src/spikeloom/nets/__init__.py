"""Networks by name, without weights: structure only, as core `Network`s."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from spikeloom.core.network import Network
from spikeloom.core.nodes import Shape
from spikeloom.errors import NetworkError
from spikeloom.nets.base import NetOptions
from spikeloom.nets.lenet import lenet
from spikeloom.nets.mlp import mlp
from spikeloom.nets.nmnist_cnn import nmnist_cnn
from spikeloom.nets.vgg9 import vgg9

#: Every network by the name a configuration uses: (input shape, classes, options) -> Network.
NETWORKS: Mapping[str, Callable[[Shape, int, NetOptions], Network]] = {
    "lenet": lenet,
    "mlp": mlp,
    "nmnist-cnn": nmnist_cnn,
    "vgg9": vgg9,
}


def create(name: str, in_shape: Shape, num_classes: int, **options: Any) -> Network:
    """The network called ``name`` for inputs of ``in_shape`` ([C, H, W] or [C]) and ``num_classes`` classes.

    Args:
        name: a key of NETWORKS.
        in_shape: as a data set says.
        num_classes: size of the read-out.
        **options: fields of `NetOptions`.

    Raises:
        NetworkError: unknown network or option, or an input the network cannot take.
    """
    if name not in NETWORKS:
        raise NetworkError(f"unknown network '{name}', expected one of {', '.join(NETWORKS)}")
    unknown = sorted(set(options) - set(NetOptions.__dataclass_fields__))
    if unknown:
        known = ", ".join(NetOptions.__dataclass_fields__)
        raise NetworkError(f"unknown option {', '.join(unknown)} of network '{name}', expected some of {known}")
    return NETWORKS[name](tuple(in_shape), num_classes, NetOptions(**options))


__all__ = ["NETWORKS", "NetOptions", "create", "lenet", "mlp", "nmnist_cnn", "vgg9"]
