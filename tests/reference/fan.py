"""The fan of a layer over cores, synapse by synapse; shares nothing with the package."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Synapse = tuple[tuple[int, int, int], tuple[int, int, int]]


def synapses(layer: Any, zero_weights: str) -> Iterator[Synapse]:
    """Every synapse as (input neuron (c, h, w), output neuron (k, p, q))."""
    inner, outer = layer.C // layer.groups, layer.K // layer.groups
    for k in range(layer.K):
        for p in range(layer.P):
            for q in range(layer.Q):
                for i in range(inner):
                    for r in range(layer.R):
                        for s in range(layer.S):
                            h = p * layer.stride[0] + r * layer.dilation[0] - layer.padding[0]
                            w = q * layer.stride[1] + s * layer.dilation[1] - layer.padding[1]
                            if not (0 <= h < layer.H and 0 <= w < layer.W):
                                continue
                            if zero_weights == "skipped" and layer.weight[k, i, r, s] == 0:
                                continue
                            yield (k // outer * inner + i, h, w), (k, p, q)


def targets(layer: Any, owner: Any, zero_weights: str) -> dict[tuple[int, int, int, int], int]:
    """Number of synapses by (core, c, h, w); what is 0 is not there."""
    found: dict[tuple[int, int, int, int], int] = {}
    for source, (k, p, q) in synapses(layer, zero_weights):
        key = (int(owner[k][p][q]), *source)
        found[key] = found.get(key, 0) + 1
    return found
