"""Transforms: Network to Network, each preserving or knowingly changing what is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from spikeloom.core.network import Network
from spikeloom.transform.fold import fold

#: Every transform by the name a configuration uses: (network, ...) -> Network.
TRANSFORMS: Mapping[str, Callable[..., Network]] = {"fold": fold}

__all__ = ["TRANSFORMS", "fold"]
