"""Putting a network together node by node, shapes known from the start.

Letters: T time steps, N samples, C H W map. A framework's tensor is (N, *shape) where its modules take one step at a time and
(T, N, *shape) where they take all at once; a node's shape holds neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from spikeloom.core.network import Network
from spikeloom.core.nodes import (
    LI,
    POOLS,
    SPIKING,
    SYNAPSES,
    Add,
    BatchNorm,
    Flatten,
    Input,
    Node,
    Output,
    Scale,
    Shape,
    Value,
    node_out_shape,
)
from spikeloom.errors import NetworkError

T = TypeVar("T")
#: How a module sees time: one "step" at a time (N, ...), the whole "sequence" (T, N, ...), or "folded" into the batch (T*N, ...).
Time = Literal["step", "sequence", "folded"]
#: Sizes that stand for N and T while a forward is followed; primes that no layer has.
SAMPLES, STEPS = 7919, 7907


@dataclass(frozen=True)
class Part:
    """What one module becomes: nodes one after the other, by the suffix of their name; none for a module that passes on its input.

    feedback: nodes from behind the last one back to it, a Delay first.
    states: values that the module returns besides what it sends.
    last: may only be followed by the output, because it is left out.
    over_time: what is left out is a mean or sum over T.
    in_place: the module overwrites its input.
    stateful: has a membrane, so that calling it twice is two steps.
    dt_s: the step its parameters are meant for, where the framework says it.
    ending: of what is left out: what it makes of a map with T and N before it.
    """

    nodes: Mapping[str, Node] = field(default_factory=dict)
    feedback: Mapping[str, Node] = field(default_factory=dict)
    states: int = 0
    last: bool = False
    over_time: bool = False
    in_place: bool = False
    stateful: bool = False
    dt_s: float | None = None
    ending: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True)
class Place:
    """Somewhere in the network: behind node ``name``, with ``states`` more values beside; ``left_out`` names what was left out here, ``over_time`` is
    True when that took T away, ``endings`` is what it computed. Places of one ``memory`` are views of one tensor."""

    name: str
    shape: Shape
    states: int = 0
    left_out: str = ""
    over_time: bool = False
    endings: tuple[Callable[[Tensor], Tensor], ...] = ()
    memory: str = ""


@dataclass(frozen=True)
class State:
    """A membrane or another value that a neuron keeps, on its way from one step to the next.

    of: the node that made it in this step (``fresh``), or the argument or attribute in which it came from the last one.
    keys: what was picked from that. kept: it stands in an attribute of the user's.
    """

    of: str
    keys: tuple[Any, ...] = ()
    fresh: bool = False
    kept: bool = False


@dataclass(frozen=True)
class Site:
    """Where a module stands: what a handler may ask and complain about.

    name: of the node. kind: the module's type, or the function's name. shape: what arrives.
    """

    name: str
    kind: str
    shape: Shape
    time: Time

    @property
    def leading(self) -> int:
        """Dimensions before those of the map."""
        return 2 if self.time == "sequence" else 1

    @property
    def sizes(self) -> tuple[int, ...]:
        """Size of the framework's tensor, with SAMPLES for N and STEPS for T."""
        return (*(STEPS, SAMPLES)[-self.leading :], *self.shape)

    def refusal(self, why: str) -> NetworkError:
        """One line that names node and type."""
        return NetworkError(f"node '{self.name}' ({self.kind}) {why}")

    def need(self, ok: bool, why: str) -> None:
        """Raise unless ``ok``."""
        if not ok:
            raise self.refusal(why)

    def array(self, what: str, tensor: Any) -> np.ndarray:
        """A float32 copy of a parameter. Raises NetworkError for one that is not dense, real and finite."""
        self.need(isinstance(tensor, Tensor), f"has no {what}; expected a tensor")
        dense = not (tensor.is_meta or tensor.is_sparse or tensor.is_quantized or tensor.is_complex())
        self.need(dense, f"has a {what} that is not a dense real tensor; load plain weights")
        array: np.ndarray = tensor.detach().cpu().float().numpy().copy()
        self.need(bool(np.isfinite(array).all()), f"has a {what} with NaN or infinite values; load trained weights")
        return array

    def value(self, what: str, number: Any) -> Value:
        """One number, or a float32 array with one for each neuron, from a number or a tensor."""
        if not isinstance(number, Tensor):
            return float(number)
        array = self.array(what, number)
        if array.size == 1:
            return float(array.reshape(()))
        while array.ndim > len(self.shape) and array.shape[0] == 1:
            array = array[0]
        return array

    def positive(self, what: str, value: Value) -> Value:
        """``value`` if all of it is above zero."""
        self.need(bool(np.all(np.asarray(value) > 0)), f"has a {what} of {np.min(value)}, expected a positive one")
        return value

    def fraction(self, what: str, value: Value) -> Value:
        """``value`` if all of it lies in 0..1."""
        inside = bool(np.all((np.asarray(value) >= 0) & (np.asarray(value) <= 1)))
        self.need(inside, f"keeps {what} of {np.min(value)}..{np.max(value)} in a step, expected 0..1")
        return value


def every(kind: type[T], value: Any) -> Iterator[T]:
    """All of one kind in what a forward passes on, keeps or returns."""
    if isinstance(value, kind):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from every(kind, item)


#: What a module becomes at its place.
Handler = Callable[[Any, Site], Part]


def rounded(value: Any) -> Value:
    """A result of arithmetic on values as a node holds it."""
    return value.astype(np.float32) if isinstance(value, np.ndarray) and value.ndim else float(value)


def steps(surrogate: Any, sent: list[int]) -> bool:
    """True if ``surrogate`` sends that far below, below, at, above and far above 0."""
    try:
        found = surrogate(torch.tensor([-2.0, -1e-6, 0.0, 1e-6, 2.0]))
    except (TypeError, ValueError, RuntimeError):
        return False
    return isinstance(found, Tensor) and found.tolist() == sent


def timed(time: Time, handler: Handler) -> Handler:
    """A layer that takes one step at a time, or all of them at once."""

    def checked(module: Any, site: Site) -> Part:
        site.need(
            site.time == time,
            f"takes {'one step at a time' if time == 'step' else 'all steps at once'}, but not so the modules around it; use layers "
            f"of one kind throughout, or norse.torch.Lift",
        )
        return handler(module, site)

    return checked


class Assembly:
    """A network in the making."""

    def __init__(self, in_shape: Shape, encoding: Literal["spikes", "levels", "analog"], reserved: set[str]) -> None:
        self.nodes: dict[str, Node] = {}
        self.edges: list[tuple[str, str]] = []
        self.dropped: list[str] = []
        self.steps_s: set[float] = set()
        self._reserved = reserved
        self.start = Place(self._free("input"), in_shape)
        self.nodes[self.start.name] = Input(in_shape, encoding)

    def _free(self, name: str) -> str:
        """``name``, with a number behind it if a node or a module already has it."""
        taken = self.nodes.keys() | self._reserved
        return next(n for n in (name, *(f"{name}_{k}" for k in range(1, len(taken) + 2))) if n not in taken)

    def name_for(self, name: str) -> str:
        """A name for another node of module ``name``: its path, numbered from its second call on."""
        self._reserved.discard(name)
        return self._free(name)

    def add(self, site: Site, part: Part, place: Place) -> Place:
        """Put ``part`` behind ``place``."""
        if not part.last or part.over_time:  # the mean of a softmax does not keep the order
            self._end_only(place, site)
        if part.dt_s is not None:
            self.steps_s.add(part.dt_s)
        if part.last:
            self.dropped.append(f"{site.name} ({site.kind})")
            over_time = place.over_time or part.over_time
            endings = (*place.endings, *([] if part.ending is None else [part.ending]))
            return Place(place.name, place.shape, 0, f"node '{site.name}' ({site.kind})", over_time, endings)
        if not part.nodes:
            return place
        name, shape = place.name, place.shape
        for suffix, node in part.nodes.items():
            name, shape = self._node(site, suffix, node, (name,), shape)
        back, back_shape = name, shape
        for suffix, node in part.feedback.items():
            back, back_shape = self._node(site, suffix, node, (back,), back_shape)
        if part.feedback:
            self.edges.append((back, name))
        views = all(isinstance(node, Flatten) for node in part.nodes.values())
        return Place(name, shape, part.states, memory=(place.memory or place.name) if views else name)

    def sum(self, site: Site, places: list[Place]) -> Place:
        """An Add of several places."""
        shapes = {place.shape for place in places}
        site.need(len(shapes) == 1, f"adds maps of different shapes {[list(place.shape) for place in places]}")
        for place in places:
            self._end_only(place, site)
        return Place(*self._node(site, "", Add(), tuple(place.name for place in places), places[0].shape))

    @staticmethod
    def _end_only(place: Place, site: Site) -> None:
        if place.left_out:
            raise NetworkError(
                f"{place.left_out} has no node here and can only be left out at the very end, but '{site.name}' follows; "
                f"hand over the layers before it"
            )

    def _node(self, site: Site, suffix: str, node: Node, sources: tuple[str, ...], shape: Shape) -> tuple[str, Shape]:
        name = self.name_for(f"{site.name}.{suffix}") if suffix else site.name
        out = node_out_shape(name, node, shape)
        self.nodes[name] = node
        self.edges.extend((source, name) for source in sources)
        return name, out

    def finished(self, place: Place, name: str, dt_s: float | None, source: str) -> Network:
        """The network that ends behind ``place``."""
        output = self._free("output")
        self.nodes[output] = Output(place.shape)
        self.edges.append((place.name, output))
        metadata: dict[str, Any] = {"imported_from": source}
        if self.dropped:
            metadata["dropped"] = self.dropped
        if dt_s is None and len(self.steps_s) == 1:
            dt_s = self.steps_s.pop()
        return without_plain_sums(Network(self.nodes, tuple(self.edges), name, dt_s, metadata).checked())


def without_plain_sums(network: Network) -> Network:
    """The same function without Add nodes between sums of synapses and a neuron, where edges that meet add up by themselves.

    A trace holds spikes and levels, and what arrives at an Add of sums is neither. Networks without spiking neurons stay as they are.
    """
    if not any(isinstance(node, SPIKING) for node in network.nodes.values()):
        return network
    for name, node in network.nodes.items():
        readers = [network.nodes[reader] for reader in network.outputs_of(name)]
        if (
            isinstance(node, Add)
            and readers
            and all(isinstance(r, (*SPIKING, LI)) for r in readers)
            and _plain(network, name)
        ):
            sources = network.inputs_of(name)
            edges = [(s, b) for a, b in network.edges if b != name for s in (sources if a == name else (a,))]
            nodes = {key: kept for key, kept in network.nodes.items() if key != name}
            return without_plain_sums(replace(network, nodes=nodes, edges=tuple(edges)))
    return network


def _plain(network: Network, name: str) -> bool:
    """True for the sums of a synapse, and what pools, flattens, normalises, scales or adds nothing but such sums."""
    node, sources = network.nodes[name], network.inputs_of(name)
    if isinstance(node, (Add, BatchNorm, Scale, Flatten, *POOLS)):
        return name not in sources and all(_plain(network, source) for source in sources)
    return isinstance(node, SYNAPSES)
