"""Fold batch normalisation into the synapse before it: exact, since both are affine per output channel.

``y = gamma * (W x + b - mean) / sqrt(var + eps) + beta`` is ``y = (g*W) x + (g*(b - mean) + beta)``, ``g = gamma / sqrt(var + eps)``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from spikeloom.core.network import SYNAPSES, BatchNorm, Network
from spikeloom.errors import NetworkError


def fold(network: Network) -> Network:
    """The same function without BatchNorm nodes; computed in float64, stored in float32.

    A synapse gets a bias only if one of its channels needs it, for a bias acts at every step and a machine then has no silent
    window to skip. Networks without BatchNorm come back as they are.

    Raises:
        NetworkError: a BatchNorm that does not directly and alone follow a synapse, or weights or statistics that are absent.
    """
    nodes = dict(network.nodes)
    edges = list(network.edges)
    for name, node in network.nodes.items():
        if not isinstance(node, BatchNorm):
            continue
        synapse = _synapse_before(network, name)
        nodes[synapse] = folded(nodes[synapse], node, synapse, name)
        del nodes[name]
        edges = [(synapse if src == name else src, dst) for src, dst in edges if dst != name]
    if len(nodes) == len(network.nodes):
        return network
    return Network(nodes, tuple(edges), network.name, network.dt_s, network.metadata)


def folded(synapse: Any, norm: BatchNorm, synapse_name: str, norm_name: str) -> Any:
    """``synapse`` with ``norm`` in its weights and bias; the names are for errors."""
    if synapse.weight is None:
        raise NetworkError(
            f"layer '{synapse_name}' has no weights; '{norm_name}' cannot be folded into it, train first"
        )
    if norm.gamma is None or norm.beta is None or norm.mean is None or norm.var is None:
        raise NetworkError(f"BatchNorm '{norm_name}' has no statistics; train the network before folding it")
    factor = norm.gamma.astype(np.float64) / np.sqrt(norm.var.astype(np.float64) + norm.eps)
    bias = np.zeros(len(factor)) if synapse.bias is None else synapse.bias.astype(np.float64)
    bias = factor * (bias - norm.mean) + norm.beta
    weight = synapse.weight * factor.reshape(-1, *([1] * (synapse.weight.ndim - 1)))
    has_bias = bool(np.any(bias != 0))
    return replace(
        synapse,
        weight=weight.astype(np.float32),
        bias=bias.astype(np.float32) if has_bias else None,
        has_bias=has_bias,
    )


def _synapse_before(network: Network, name: str) -> str:
    """Name of the synapse that ``name`` can be folded into."""
    sources = network.inputs_of(name)
    source = network.nodes[sources[0]] if len(sources) == 1 else None
    if source is None or not isinstance(source, SYNAPSES):
        kinds = [f"{s} ({type(network.nodes[s]).__name__})" for s in sources]
        raise NetworkError(
            f"BatchNorm '{name}' follows {', '.join(kinds) or 'nothing'}; only one directly behind a Conv or Linear can be "
            f"folded exactly"
        )
    if network.outputs_of(sources[0]) != (name,):
        raise NetworkError(
            f"BatchNorm '{name}' cannot be folded: '{sources[0]}' also feeds "
            f"{[o for o in network.outputs_of(sources[0]) if o != name]}, which needs its sums as they are"
        )
    return sources[0]
