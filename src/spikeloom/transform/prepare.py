"""An ANN made ready for spikes, its function kept: folded, its sums coming from synapses only, its output read from membranes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import numpy as np

from spikeloom.core.network import Network
from spikeloom.core.nodes import (
    LI,
    Add,
    AvgPool2d,
    ClippedReLU,
    Flatten,
    Input,
    MaxPool2d,
    Node,
    Output,
    ReLU,
    SumPool2d,
    Synapse,
)
from spikeloom.errors import NetworkError
from spikeloom.transform.fold import by_channel, fold

#: What becomes of a MaxPool2d: refused, averaged instead, or kept, which on spikes is their OR.
MaxPool = Literal["refuse", "average", "or"]
#: Nodes through which a sum reaches a membrane, or spikes a synapse, without being changed but by a factor.
PASSING = (Add, AvgPool2d, SumPool2d, MaxPool2d, Flatten)


def prepare(network: Network, max_pool: MaxPool = "refuse") -> Network:
    """The same function in nodes that can be converted.

    Normalisation is folded; an activation or input that reaches an Add, another activation or the output without a synapse gets
    one (one weight of 1 for each channel: on hardware that is what such a shortcut costs); a Flatten in front of an activation
    moves behind it; an LI read-out stands before the output.

    Raises:
        NetworkError: a node that cannot be converted, by name: a spiking or unknown one, a MaxPool2d where ``max_pool`` refuses,
            a synapse that gets sums without an activation between.
    """
    if network.recurrent:
        raise NetworkError(f"network '{network.name}' has loops; only feed-forward ANNs are converted")
    ready = fold(network)
    ready = _pools(ready, max_pool)
    for name, node in ready.nodes.items():
        if not isinstance(node, (Input, Output, Synapse, ReLU, ClippedReLU, LI, *PASSING)):
            raise NetworkError(
                f"node '{name}' ({type(node).__name__}) cannot be converted; expected synapses, ReLU or ClippedReLU, average or sum "
                f"pools, Flatten and Add"
            )
        if isinstance(node, LI) and not all(isinstance(ready.nodes[o], Output) for o in ready.outputs_of(name)):
            raise NetworkError(f"node '{name}' (LI) cannot be converted; a read-out stands before the output only")
    if not activations(ready):
        raise NetworkError(f"network '{network.name}' has no ReLU or ClippedReLU; there is nothing to convert")
    return _with_shortcuts(_with_read_out(_flatten_last(ready)))


def activations(network: Network) -> tuple[str, ...]:
    """Names of the activations in execution order."""
    return tuple(name for name in network.order() if isinstance(network.nodes[name], ReLU | ClippedReLU))


def feeding(network: Network, name: str) -> Iterator[str]:
    """Names of the synapses, activations and inputs whose sum reaches node ``name``."""
    for source in network.inputs_of(name):
        if isinstance(network.nodes[source], PASSING):
            yield from feeding(network, source)
        else:
            yield source


def _pools(network: Network, max_pool: MaxPool) -> Network:
    nodes: dict[str, Node] = dict(network.nodes)
    for name, node in network.nodes.items():
        if not isinstance(node, MaxPool2d):
            continue
        if max_pool == "refuse":
            raise NetworkError(
                f"node '{name}' (MaxPool2d) has no exact counterpart on spikes; train with average pools or strided convolutions, or "
                f"choose max_pool 'average' (another function) or 'or' (the OR of the spikes)"
            )
        if max_pool == "average":
            nodes[name] = AvgPool2d(node.kernel, node.stride, node.padding)
    return replace(network, nodes=nodes)


def _flatten_last(network: Network) -> Network:
    """Flatten behind an activation rather than in front, so that its neurons keep their channels."""
    for name in activations(network):
        sources = network.inputs_of(name)
        source = sources[0]
        if len(sources) != 1 or not isinstance(network.nodes[source], Flatten) or network.outputs_of(source) != (name,):
            continue
        if isinstance(getattr(network.nodes[name], "ceiling", None), np.ndarray):
            continue  # its ceilings are those of a flat map
        edges = []
        for src, dst in network.edges:
            if dst == source:
                edges.append((src, name))
            elif src == name:
                edges.append((source, dst))
            else:
                edges.append((name, source) if (src, dst) == (source, name) else (src, dst))
        network = replace(network, edges=tuple(edges))
    return network


def _with_read_out(network: Network) -> Network:
    """An LI without a leak in front of the output; an ANN runs for one step, in which nothing leaks."""
    output = next(name for name, node in network.nodes.items() if isinstance(node, Output))
    sources = network.inputs_of(output)
    read_outs = [name for name in sources if isinstance(network.nodes[name], LI)]
    if read_outs and len(sources) > 1:
        raise NetworkError(
            f"the output gets {list(sources)}; expected one read-out, put an Add in front of '{read_outs[0]}'"
        )
    if read_outs:
        return replace(network, nodes={**network.nodes, read_outs[0]: LI()})
    name = _free(network, "readout")
    edges = [(src, name if dst == output else dst) for src, dst in network.edges]
    return replace(network, nodes={**network.nodes, name: LI()}, edges=(*edges, (name, output)))


def _with_shortcuts(network: Network) -> Network:
    """A synapse on every way that leads from an activation or the input to a membrane without one."""
    shapes = network.shapes()
    ends = [name for name, node in network.nodes.items() if isinstance(node, ReLU | ClippedReLU | LI)]
    nodes = dict(network.nodes)
    edges = list(network.edges)
    for end in ends:
        for src, dst in list(_ways(network, end)):
            if (src, dst) not in edges:
                continue  # found from another end already
            name = _free(replace(network, nodes=nodes), f"{dst}.from.{src}")
            channels = shapes[src][0]
            nodes[name] = by_channel(shapes[src], np.ones(channels), np.zeros(channels))
            at = edges.index((src, dst))
            edges[at : at + 1] = [(src, name), (name, dst)]
    ready = replace(network, nodes=nodes, edges=tuple(edges))
    for name, node in ready.nodes.items():
        if isinstance(node, Synapse):
            sources = list(feeding(ready, name))
            for source in sources:
                if isinstance(ready.nodes[source], Synapse):
                    raise NetworkError(
                        f"layer '{name}' gets the sums of '{source}' without an activation between; spikes cannot carry them, merge the "
                        f"two layers or put a ReLU between them"
                    )
            if len(sources) > 1:
                raise NetworkError(
                    f"layer '{name}' gets the sum of {sources}, whose spikes stand for different values; put a ReLU behind the sum"
                )
    return ready


def _ways(network: Network, name: str) -> Iterator[tuple[str, str]]:
    """Edges (source, follower) by which an activation or the input reaches ``name`` without a synapse.

    Behind a pool whose spikes a layer gets as well, the edge is the one that leads away from it.
    """
    for source in network.inputs_of(name):
        node = network.nodes[source]
        if isinstance(node, PASSING) and not _shared(network, source):
            yield from _ways(network, source)
        elif not isinstance(node, Synapse):
            yield source, name


def _shared(network: Network, name: str) -> bool:
    """True for a node that sends the spikes of one activation to several others."""
    sources = [network.nodes[source] for source in feeding(network, name)]
    return len(network.outputs_of(name)) > 1 and len(sources) == 1 and not isinstance(sources[0], Synapse)


def _free(network: Network, name: str) -> str:
    """``name``, or with a number behind it where a node has it already."""
    found, number = name, 2
    while found in network.nodes:
        found, number = f"{name}.{number}", number + 1
    return found
