"""Workload: per layer the loop extents, precisions and input spikes; knows no hardware.

Dimension letters: T time steps, N samples, C K channels, H W input map, R S kernel, P Q output map.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, lru_cache

import numpy as np

from spikeloom.core.network import Network
from spikeloom.core.nodes import IF, LI, LIF, ClippedReLU, CubaLIF, Leak, ReLU, Reset, Shape, kept_reset
from spikeloom.core.trace import Arrival, Levels, Spikes
from spikeloom.core.widths import Width

#: Kinds of layers that have weights, and of pools.
WEIGHTED = ("conv1d", "conv2d", "linear")
POOLS = ("sumpool2d", "avgpool2d", "maxpool2d")
_NEURON_KINDS: dict[type, str] = {IF: "if", LIF: "lif", CubaLIF: "cubalif", LI: "li", ReLU: "relu", ClippedReLU: "relu"}


@dataclass(frozen=True)
class NeuronRule:
    """What a layer's neurons do: kind in the words of the trace format, leak, reset.

    membrane_bits: of the network's integer membranes; outside the id of a layer, because a machine's own width is what it counts.
    """

    kind: str = "if"
    leak: Leak | None = None
    reset: Reset = "hard"
    membrane_bits: int | None = field(default=None, repr=False)

    @property
    def leaky(self) -> bool:
        """True when the membrane leaks, also where a trace does not state by how much."""
        return self.leak is not None or self.kind in ("lif", "cubalif")


def neuron_rule(network: Network, name: str) -> NeuronRule:
    """What the neurons behind layer ``name`` do."""
    neuron_name = network.layer_neuron(name)
    neuron = None if neuron_name is None else network.nodes[neuron_name]
    kind = "none" if neuron is None else _NEURON_KINDS[type(neuron)]
    reset = kept_reset(neuron) if isinstance(neuron, IF | LIF | CubaLIF) else "none"
    return NeuronRule(kind, getattr(neuron, "leak", None), reset, getattr(neuron, "membrane_bits", None))


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer as a loop nest over T N K C P Q R S, with what arrived and what is known to have left.

    arrival: map shape (C, H, W); a linear layer has H = W = R = S = P = Q = 1.
    P, Q: the last windows may hang over the far border of the padded map, where they meet nothing.
    out: output spikes with map shape (K, P, Q), or None when unknown.
    weight: shape (K, C/groups, R, S), or None.
    stored_kernel: (R, S) of the weights as stored when a folded pool repeats them by index, else None.
    joins: the layer that has the neurons which the sums of this one reach, where that is another one.
    bias: (K, 1, 1) or (K, P, Q), None where there is none or its values are unknown.
    whole_arrival: the arrival with the rows and columns that a folded pool leaves out, where there are any.
    branches: the layers that join this one, as the machine runs them; part of the id, because they decide when neurons work.
    """

    name: str
    kind: str
    C: int
    K: int
    H: int
    W: int
    R: int
    S: int
    P: int
    Q: int
    arrival: Arrival
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    weight_bits: int = 8
    has_bias: bool = False
    neuron: NeuronRule = NeuronRule()
    recurrent: bool = False
    inputs: tuple[str, ...] = ()
    out: Spikes | None = None
    updates: Spikes | None = None
    weight: np.ndarray | None = None
    stored_kernel: tuple[int, int] | None = None
    joins: str = ""
    bias: np.ndarray | None = None
    whole_arrival: Arrival | None = None
    branches: tuple[Layer, ...] = ()

    @property
    def biased(self) -> bool:
        """True when a bias reaches the neurons of this layer, its own or one of a branch; a branch has no neurons."""
        return not self.joins and any(part.has_bias for part in (self, *self.branches))

    @property
    def num_sums(self) -> int:
        """K P Q T: sums of one sample, silent ones included."""
        return self.K * self.P * self.Q * self.num_steps

    @property
    def stored_extent(self) -> tuple[int, int]:
        """Kernel extent (R, S) of the weights as stored."""
        return self.stored_kernel or (self.R, self.S)

    @property
    def framed_extent(self) -> tuple[int, int]:
        """Rows and columns of the map with its padding, as far as the windows reach at least."""
        rows = (self.P - 1) * self.stride[0] + (self.R - 1) * self.dilation[0] + 1
        cols = (self.Q - 1) * self.stride[1] + (self.S - 1) * self.dilation[1] + 1
        return max(self.H + 2 * self.padding[0], rows), max(self.W + 2 * self.padding[1], cols)

    @property
    def num_steps(self) -> int:
        """T of this layer."""
        return self.arrival.num_steps

    @property
    def num_samples(self) -> int:
        """N."""
        return self.arrival.num_samples

    @property
    def num_weights(self) -> int:
        """K * C/groups * R * S."""
        return self.K * (self.C // self.groups) * self.R * self.S

    def dense_synops(self) -> int:
        """Synaptic operations of one sample if every input fired in every step (padding excluded)."""
        pairs = reach(self.H, self.P, self.R, self.stride[0], self.padding[0], self.dilation[0]).sum()
        pairs *= reach(self.W, self.Q, self.S, self.stride[1], self.padding[1], self.dilation[1]).sum()
        return int(pairs) * self.C * (self.K // self.groups) * self.num_steps

    @cached_property
    def synops(self) -> int:
        """Synaptic operations over all samples: one per non-zero input level and non-zero weight it meets.

        Of a pool or a sum, which have no weights and whose bill shows none, one per level and output that it reaches.
        """
        return self.met(self.arrival.events())

    def met(self, events_CHW: np.ndarray) -> int:
        """Sum over input pixels of ``events_CHW`` times the (output, non-zero weight) pairs each pixel meets."""
        reach_HR = reach(self.H, self.P, self.R, self.stride[0], self.padding[0], self.dilation[0])
        reach_WS = reach(self.W, self.Q, self.S, self.stride[1], self.padding[1], self.dilation[1])
        if self.weight is None:
            hits = np.einsum("hw,h,w->", events_CHW.sum(axis=0), reach_HR.sum(axis=1), reach_WS.sum(axis=1))
            return int(hits) * (self.K // self.groups)
        met_CRS = np.einsum("chw,hr,ws->crs", events_CHW, reach_HR, reach_WS, optimize=True)
        return int((met_CRS * self.fanout_CRS()).sum())

    def fanout_CRS(self) -> np.ndarray:
        """Output channels reached by each synapse of an input channel with a non-zero weight; int64, (C, R, S)."""
        per_group = self.K // self.groups
        if self.weight is None:
            return np.full((self.C, self.R, self.S), per_group, dtype=np.int64)
        grouped = (self.weight != 0).reshape(self.groups, per_group, self.C // self.groups, self.R, self.S)
        return np.asarray(grouped.sum(axis=1, dtype=np.int64).reshape(self.C, self.R, self.S))

    def fanout_CHW(self) -> np.ndarray:
        """(Output, non-zero weight) pairs that each input pixel meets in one step; int64, (C, H, W)."""
        reach_HR = reach(self.H, self.P, self.R, self.stride[0], self.padding[0], self.dilation[0])
        reach_WS = reach(self.W, self.Q, self.S, self.stride[1], self.padding[1], self.dilation[1])
        return np.asarray(np.einsum("crs,hr,ws->chw", self.fanout_CRS(), reach_HR, reach_WS, optimize=True))

    @cached_property
    def id(self) -> str:
        """SHA-256 over the geometry and every spike."""
        digest = hashlib.sha256()
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name == "bias":  # what a count may depend on: where it does not act
                value = None if value is None or value.all() else value != 0
            if (item.name in ("bias", "whole_arrival") and value is None) or (
                item.name in ("joins", "branches") and not value
            ):
                continue  # as before there were these fields
            if item.name == "branches":
                value = tuple(branch.id for branch in value)
            array = value.packed if isinstance(value, Spikes) else value.values if isinstance(value, Levels) else value
            if isinstance(array, np.ndarray):
                kind = f"{array.dtype}{array.shape}"
                if isinstance(value, Spikes):
                    kind += f"T{value.num_steps}"
                elif isinstance(value, Levels):
                    kind += f"b{value.bits}{value.signed}{value.analog}"
                digest.update(f"{item.name}:{kind}".encode())
                digest.update(np.ascontiguousarray(array).tobytes())
            else:
                digest.update(f"{item.name}={value!r}".encode())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Workload:
    """Layers in execution order; the same for every machine.

    shapes_only: the layer list of a tool; its silence stands for spikes that are not known.
    delay: steps after which a spike acts, 0 or 1, as in `SpikeTrace`.
    drawn: from shapes and firing rates, in which no layer names what feeds it.
    dt_s: length of a step where the samples have a clock, seconds; no machine's work depends on it, nor does the id.
    width: what a bill has to say of a width that weights do not have by themselves.
    """

    layers: tuple[Layer, ...]
    num_steps: int
    num_samples: int
    source: str = ""
    warnings: tuple[str, ...] = ()
    shapes_only: bool = False
    delay: int = 0
    drawn: bool = False
    dt_s: float | None = None
    width: Width | None = None

    def __post_init__(self) -> None:
        """Every owner knows its branches as they stand here, whatever was made of them."""
        joining: dict[str, tuple[Layer, ...]] = {}
        for layer in self.layers:
            if layer.joins:
                joining[layer.joins] = (*joining.get(layer.joins, ()), layer)
        if any(joining.get(layer.name, layer.branches) != layer.branches for layer in self.layers):
            owners = (replace(x, branches=joining[x.name]) if x.name in joining else x for x in self.layers)
            object.__setattr__(self, "layers", tuple(owners))

    @cached_property
    def id(self) -> str:
        """SHA-256 over all layers."""
        more = (f"delay={self.delay}" if self.delay else "") + ("drawn" if self.drawn else "")
        return hashlib.sha256(("".join(layer.id for layer in self.layers) + more).encode()).hexdigest()

    @property
    def synops(self) -> dict[str, int]:
        """Synaptic operations over all samples by layer; 0 of pools and sums, which have no synapses."""
        return {layer.name: layer.synops if layer.kind in WEIGHTED else 0 for layer in self.layers}

    @cached_property
    def mixed(self) -> tuple[str, str] | None:
        """A layer with spiking neurons and one with an ANN's behind it, on any path; None where there are no two such layers."""
        hears = {layer.name: {*layer.inputs, layer.joins} for layer in self.layers}
        for layer in self.layers:  # the sums of a branch reach the neurons of its owner
            if layer.joins in hears:
                hears[layer.joins].add(layer.name)
        spiking = {layer.name for layer in self.layers if layer.neuron.kind in ("if", "lif", "cubalif")}
        for layer in self.layers:
            waiting, seen = [layer.name], set[str]()
            while layer.neuron.kind == "relu" and waiting:
                new = hears.get(waiting.pop(), set()) - seen
                if found := sorted(new & spiking):
                    return found[0], layer.name
                seen |= new
                waiting.extend(new)
        return None

    def __getitem__(self, name: str) -> Layer:
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(name)


@dataclass(frozen=True)
class RateLayer:
    """A layer known by its shape and firing rate only.

    firing_rate: of its input, 0..1. overhang: the last window may hang over the far border, as in SCALE-Sim:
    P = ceil((H + 2 padding - R) / s) + 1; else the floor of it.
    """

    name: str
    kind: str
    in_shape: Shape
    out_channels: int
    firing_rate: float
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    groups: int = 1
    weight_bits: int = 8
    weight_density: float | None = None
    overhang: bool = False


@dataclass(frozen=True)
class RateWorkload:
    """Layers without a trace. silent: layers of whose weight bits the file says nothing. asked: bits that a user wants for them."""

    layers: tuple[RateLayer, ...]
    num_steps: int
    num_samples: int = 1
    seed: int = 0
    source: str = ""
    silent: tuple[str, ...] = ()
    asked: int | None = None


@lru_cache(maxsize=1024)
def reach(size: int, out: int, kernel: int, stride: int, padding: int, dilation: int) -> np.ndarray:
    """found[h, r] = number of output positions p with p*stride + r*dilation - padding == h (0 or 1); int64.

    With ``out`` and ``kernel``, ``stride`` and ``dilation`` exchanged: found[h, p] = number of kernel positions r. Not to be written to.
    """
    found = np.zeros((size, kernel), dtype=np.int64)
    for r in range(kernel):
        position = np.arange(out) * stride + r * dilation - padding
        np.add.at(found[:, r], position[(position >= 0) & (position < size)], 1)
    return found
