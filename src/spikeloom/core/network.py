"""Network: a graph of nodes and every choice that changes what is computed.

Shapes never hold T or N. Weights may be absent (a network read from a bare trace has none).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Literal

import numpy as np

from spikeloom.core.nodes import (
    LAYERS,
    NEURONS,
    Delay,
    Input,
    Leak,
    Membrane,
    Node,
    Output,
    Shape,
    Synapse,
    node_out_shape,
)
from spikeloom.errors import NetworkError


@dataclass(frozen=True, eq=False)
class Network:
    """A directed graph of nodes; ``nodes`` keeps its order, edges are (source, destination) names.

    metadata holds plain JSON values that travel with the network (data set, encoding, accuracy, seed).
    """

    nodes: Mapping[str, Node]
    edges: tuple[tuple[str, str], ...]
    name: str = "network"
    dt_s: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for src, dst in self.edges:
            for end in (src, dst):
                if end not in self.nodes:
                    raise NetworkError(f"edge {src} -> {dst} names '{end}', which is no node of network '{self.name}'")
        if self.dt_s is not None and not 0 < self.dt_s < math.inf:
            raise NetworkError(f"network '{self.name}' has a dt_s of {self.dt_s}, expected a positive number")
        for name, node in self.nodes.items():
            if isinstance(node, Synapse) and node.weight_bits not in range(1, 65):
                raise NetworkError(f"node '{name}': weight_bits: got {node.weight_bits}, expected 1..64")

    def inputs_of(self, name: str) -> tuple[str, ...]:
        """Names of the nodes whose outputs feed ``name``, in edge order."""
        return tuple(src for src, dst in self.edges if dst == name)

    def outputs_of(self, name: str) -> tuple[str, ...]:
        """Names of the nodes fed by ``name``, in edge order."""
        return tuple(dst for src, dst in self.edges if src == name)

    @cached_property
    def _schedule(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Execution order, and the delays in it that come before what feeds them."""
        waiting = {name: {s for s in self.inputs_of(name) if s != name} for name in self.nodes}
        done: list[str] = []
        early: list[str] = []
        while waiting:
            ready = next((name for name, needs in waiting.items() if not needs), None)
            if ready is None:
                ready = next((name for name in waiting if self._delays(name)), None)
                if ready is None:
                    raise NetworkError(
                        f"network '{self.name}' has a loop without a delay through {self._loop(set(waiting))}; what a step sends back "
                        f"can arrive at the next step at the earliest, put a Delay into the loop"
                    )
                early.append(ready)
            del waiting[ready]
            done.append(ready)
            for needs in waiting.values():
                needs.discard(ready)
        return tuple(done), tuple(early)

    def _delays(self, name: str) -> bool:
        node = self.nodes[name]
        return isinstance(node, Delay) and node.steps >= 1

    def _loop(self, stuck: set[str]) -> list[str]:
        """The nodes of one loop among nodes each of which waits for another of them."""
        name = min(stuck)
        path: list[str] = []
        while name not in path:
            path.append(name)
            name = next(s for s in self.inputs_of(name) if s in stuck and s != name)
        return path[path.index(name) :][::-1]

    def order(self) -> tuple[str, ...]:
        """Node names in execution order (Kahn; ties by node order).

        A loop is entered at a Delay, which sends what earlier steps left in it; edges from a node to itself do not count. A loop
        without a Delay is an error that names its nodes.
        """
        return self._schedule[0]

    @property
    def recurrent(self) -> bool:
        """True when a loop, through a Delay, leads back to a node."""
        return bool(self._schedule[1])

    def shapes(self) -> dict[str, Shape]:
        """Output shape of every node, by our own inference. Raises NetworkError where shapes do not fit."""
        order = self.order()
        found: dict[str, Shape] = {}
        waiting = list(order)
        while waiting:  # once, but for loops: behind an early delay a shape is known when its source's is
            later = []
            for name in waiting:
                node = self.nodes[name]
                sources = [found[s] for s in self.inputs_of(name) if s in found]
                if isinstance(node, Input):
                    found[name] = node.shape
                elif sources:
                    found[name] = node_out_shape(name, node, sources[0])
                elif any(s != name for s in self.inputs_of(name)):
                    later.append(name)
                else:
                    raise NetworkError(f"node '{name}' ({type(node).__name__}) has no input")
            if later == waiting:
                raise NetworkError(
                    f"network '{self.name}' has a loop that no input reaches, through {self._loop(set(later))}"
                )
            waiting = later
        for name in order:
            shapes = [found[s] for s in self.inputs_of(name) if s != name]
            if any(shape != shapes[0] for shape in shapes):
                raise NetworkError(f"node '{name}' gets inputs of different shapes {[list(s) for s in shapes]}")
        return found

    def layers(self) -> tuple[str, ...]:
        """Names of the synapse, pool and add nodes in execution order."""
        return tuple(name for name in self.order() if isinstance(self.nodes[name], LAYERS))

    def layer_inputs(self, name: str) -> tuple[str, ...]:
        """Layers whose outputs reach ``name`` without another layer between; the network's input is none."""
        found: list[str] = []
        waiting = list(self.inputs_of(name))
        seen: set[str] = set()
        while waiting:
            source = waiting.pop(0)
            if source in seen:
                continue
            seen.add(source)
            if isinstance(self.nodes[source], LAYERS):
                found.append(source)
            else:
                waiting = [*self.inputs_of(source), *waiting]
        return tuple(dict.fromkeys(found))

    def recurs(self, name: str) -> bool:
        """True when what layer ``name`` sends comes back to it, or to its neurons without a layer between."""
        waiting = list(self.layer_inputs(name))
        seen: set[str] = set()
        while waiting:
            source = waiting.pop()
            if source == name:
                return True
            if source not in seen:
                seen.add(source)
                waiting.extend(self.layer_inputs(source))
        return any(node in self.followers(node) for node in self.followers(name))

    def followers(self, name: str) -> set[str]:
        """Nodes that are no layers and hear ``name`` without a layer between."""
        found: set[str] = set()
        waiting = list(self.outputs_of(name))
        while waiting:
            node = waiting.pop()
            if node not in found and not isinstance(self.nodes[node], LAYERS):
                found.add(node)
                waiting.extend(self.outputs_of(node))
        return found

    def layer_neuron(self, name: str) -> str | None:
        """The neuron node behind a layer, or None when another layer or the output follows first.

        Of several layers whose sums meet in one neuron only the last to be executed has it: there are these neurons once.
        """
        neuron = self._neuron_behind(name)
        return neuron if neuron is not None and self._owner(neuron) == name else None

    def joins(self, name: str) -> str:
        """The layer that has the neurons which the sums of layer ``name`` reach, where that is another one; else ""."""
        neuron = self._neuron_behind(name)
        owner = name if neuron is None else self._owner(neuron)
        return "" if owner == name else owner

    def _owner(self, neuron: str) -> str:
        """The layer that has the neurons of node ``neuron``."""
        return max(self.layer_inputs(neuron), key=self.order().index)

    def _neuron_behind(self, name: str) -> str | None:
        """The first neuron node behind a layer without another layer between."""
        waiting = [dst for dst in self.outputs_of(name) if dst != name]
        seen: set[str] = set()
        while waiting:
            follower = waiting.pop(0)
            if follower in seen:
                continue
            seen.add(follower)
            if isinstance(self.nodes[follower], NEURONS):
                return follower
            if not isinstance(self.nodes[follower], (*LAYERS, Output)):
                waiting.extend(self.outputs_of(follower))
        return None

    @property
    def arithmetic(self) -> Literal["float32", "integer"]:
        """ "integer" when every synapse that has weights has integer ones (see ``transform.quantize``)."""
        weights = [n.weight for n in self.nodes.values() if isinstance(n, Synapse) and n.weight is not None]
        return "integer" if weights and all(np.issubdtype(w.dtype, np.integer) for w in weights) else "float32"

    def checked(self) -> Network:
        """The network itself, for one that comes from a file: its shapes fit, and no membrane has a word among real weights.

        Raises NetworkError naming the node.
        """
        self.shapes()
        weights = [n.weight for n in self.nodes.values() if isinstance(n, Synapse) and n.weight is not None]
        for name, node in self.nodes.items():
            if (
                weights
                and self.arithmetic == "float32"
                and isinstance(node, Membrane)
                and node.membrane_bits is not None
            ):
                raise NetworkError(
                    f"node '{name}' ({type(node).__name__}) has membrane_bits {node.membrane_bits}, but weights are no integers; "
                    f"quantise the network, or leave membrane_bits out"
                )
        return self

    @property
    def id(self) -> str:
        """SHA-256 over everything that affects what the network computes."""
        digest = hashlib.sha256()
        for name, node in self.nodes.items():
            digest.update(f"{name}:{type(node).__name__}".encode())
            for item in fields(node):
                value = getattr(node, item.name)
                if isinstance(value, Leak) and value.factor is not None:
                    value = value.factor if isinstance(value.factor, np.ndarray) else Leak(factor=float(value.factor))
                elif str(item.type).startswith(("float", "Value")) and isinstance(value, int | np.number):
                    value = float(value)  # 1 is what 1.0 is
                if isinstance(value, np.ndarray):
                    digest.update(f"{item.name}{value.dtype}{value.shape}".encode())
                    digest.update(np.ascontiguousarray(value).tobytes())
                else:
                    digest.update(f"{item.name}={value!r}".encode())
        digest.update(json.dumps([list(e) for e in self.edges]).encode())
        digest.update(repr(self.dt_s).encode())
        return digest.hexdigest()


def notes_of(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """What metadata say that traces and reports must repeat (``notes``), as far as it is text."""
    notes = metadata.get("notes")
    return tuple(note for note in notes if isinstance(note, str)) if isinstance(notes, list) else ()


def trace_notes(network: Network) -> tuple[str, ...]:
    """What every report on a trace of the network must say: the notes of its metadata, and what of it is in no layer and so in no bill."""
    held = {network.layer_neuron(name) for name in network.layers()}
    alone = [name for name, node in network.nodes.items() if isinstance(node, NEURONS) and name not in held]
    late = [name for name, node in network.nodes.items() if isinstance(node, Delay) and node.steps > 1]
    said = [f"the neurons of {', '.join(alone)} have no layer of their own: no machine bills them"] * bool(alone)
    said += [f"delays of several steps ({', '.join(late)}) hold spikes in memory that no machine bills"] * bool(late)
    return (*notes_of(network.metadata), *said)


def arithmetic_of(network: Network) -> str:
    """What made the spikes, for the trace: "float32", or the integer network's widths and what happens beyond them."""
    if network.arithmetic == "float32":
        return "float32"
    nodes = network.nodes.values()
    weights = sorted({n.weight_bits for n in nodes if isinstance(n, Synapse)})
    biases = sorted({n.bias_bits for n in nodes if isinstance(n, Synapse) and n.bias_bits is not None})
    membranes = [n for n in nodes if isinstance(n, Membrane)]
    kept = sorted({n.membrane_bits for n in membranes if n.membrane_bits is not None})
    words = [f"weights {_listed(weights)} bit"] + ([f"biases {_listed(biases)} bit"] if biases else [])
    if kept:
        words.append(f"membranes {_listed(kept)} bit {'/'.join(sorted({n.overflow for n in membranes}))}")
    return f"integer: {', '.join(words)}"


def _listed(values: Sequence[int]) -> str:
    return "/".join(map(str, values))


def chain(
    name: str, nodes: Mapping[str, Node], *, dt_s: float | None = None, metadata: Mapping[str, Any] | None = None
) -> Network:
    """A network whose nodes follow one another in the order given."""
    names = list(nodes)
    return Network(dict(nodes), tuple(zip(names, names[1:], strict=False)), name, dt_s, dict(metadata or {}))
