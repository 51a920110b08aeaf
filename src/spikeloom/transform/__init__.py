"""Transforms: Network to Network, each preserving or knowingly changing what is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from spikeloom.core.network import Network
from spikeloom.transform.convert import convert
from spikeloom.transform.crossbar import crossbar
from spikeloom.transform.fold import fold
from spikeloom.transform.prune import prune_channels, prune_magnitude
from spikeloom.transform.quantize import quantize

#: Every transform by name: (network, ...) -> Network. `convert` needs samples and returns more than a network: it stands beside.
TRANSFORMS: Mapping[str, Callable[..., Network]] = {
    "crossbar": crossbar,
    "fold": fold,
    "prune_channels": prune_channels,
    "prune_magnitude": prune_magnitude,
    "quantize": quantize,
}

__all__ = ["TRANSFORMS", "convert", "crossbar", "fold", "prune_channels", "prune_magnitude", "quantize"]
