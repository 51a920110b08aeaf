"""What `spikeloom.emulate` computes in which order, and that all of it can be computed: a network made ready for its kernels.

Letters: M neurons of a map in row-major order, C H W input map, K P Q output map, R S kernel, J filters of a group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from spikeloom.core.network import Network
from spikeloom.core.nodes import (
    IF,
    LI,
    LIF,
    Add,
    AvgPool2d,
    Conv1d,
    Conv2d,
    CubaLIF,
    Delay,
    Firing,
    Flatten,
    Input,
    Leak,
    Linear,
    MaxPool2d,
    Membrane,
    Output,
    Shape,
    SumPool2d,
    Synapse,
    Value,
    shown,
)
from spikeloom.core.signals import Signal, received_signals, sent_signals
from spikeloom.emulate.kernels import RESETS, Geometry, Rule
from spikeloom.errors import NetworkError

ZeroWeights = Literal["stored", "skipped"]
_KNOWN = (
    Input, Output, Conv1d, Conv2d, Linear, IF, LIF, CubaLIF, LI, SumPool2d, AvgPool2d, MaxPool2d, Flatten, Delay, Add,
)  # fmt: skip
#: Integers are exact up to here in the double precision of sums.
_EXACT = 2**53
_MAX_BITS = 16


class Plan:
    """The network made ready: what is computed in which order, and that all of it can be."""

    def __init__(self, network: Network, delay: int, leak_grid: int | None, zero_weights: ZeroWeights) -> None:
        self.network, self.delay, self.grid, self.skip = network, delay, leak_grid or 0, zero_weights == "skipped"
        self.shapes = network.shapes()
        for name, node in network.nodes.items():
            if not isinstance(node, _KNOWN):
                raise self._refused(name, "is not emulated; fold, convert or remove it")
            if name in network.inputs_of(name):
                raise self._refused(name, "feeds itself without a delay; put a Delay into the loop")
            if isinstance(node, Synapse) and node.weight is None:
                raise self._refused(name, "has no weights; train the network or read them first")
        inputs = [name for name, node in network.nodes.items() if isinstance(node, Input)]
        if len(inputs) != 1:
            raise NetworkError(f"network '{network.name}' has {len(inputs)} inputs {inputs}, expected one")
        self.input = inputs[0]
        self.sent, self.received = sent_signals(network), received_signals(network)
        self.layers = {name: self._recordable(name) for name in network.layers()}
        owners = {network.layer_neuron(name): name for name in self.layers}
        self.neurons = {name: owners.get(name, "") for name, n in network.nodes.items() if isinstance(n, Membrane)}
        for name in (name for name, node in network.nodes.items() if isinstance(node, Delay)):
            if self.analog(name):
                raise self._refused(name, "delays pixels; they act at every step, leave it out")
            if delay:
                self._check_delay(name)
        self.order = self._chip_order() if delay else network.order()
        self.feeders = {name: self._feeders(name) for name in self.neurons}
        outputs = [name for name, node in network.nodes.items() if isinstance(node, Output)]
        sources = network.inputs_of(outputs[0]) if len(outputs) == 1 and len(self.shapes[outputs[0]]) == 1 else ()
        self.outputs = sources if all(source in self.neurons for source in sources) else ()
        self.synapses = {n: Weights(node) for n, node in network.nodes.items() if isinstance(node, Synapse)}
        self.rules = {name: _rule(self, name) for name in self.neurons}

    def _refused(self, name: str, why: str) -> NetworkError:
        return NetworkError(f"node '{name}' ({self.kind(name)}) {why}")

    def kind(self, name: str) -> str:
        """Class of a node, for messages."""
        return type(self.network.nodes[name]).__name__

    def analog(self, name: str) -> bool:
        """True for a node that sends pixels, the same at every step."""
        return self.sent[name].kind == "analog"

    def _recordable(self, name: str) -> Signal:
        """What arrives at a layer."""
        signal = self.received[name]
        if signal.kind == "real":
            raise self._refused(
                name, "gets real values; a trace holds spikes and levels: put it behind a spiking neuron"
            )
        if signal.bits > _MAX_BITS - signal.signed:
            raise self._refused(name, f"gets levels of {signal.bits} bits; a trace holds {_MAX_BITS - signal.signed}")
        return signal

    def _chip_order(self) -> tuple[str, ...]:
        """Neurons first, on what arrived before; then all else in an order in which everything sends what it just got."""
        network, neurons = self.network, [n for n in self.network.nodes if n in self.neurons]
        done = [*neurons]
        waiting = [name for name in network.nodes if name not in self.neurons]
        while waiting:
            ready = [name for name in waiting if all(source in done for source in network.inputs_of(name))]
            if not ready:
                raise self._refused(waiting[0], "waits for itself without a neuron in the loop")
            done += ready
            waiting = [name for name in waiting if name not in ready]
        return tuple(done)

    def constant(self, name: str) -> bool:
        """True for a node that does the same at every step, because only pixels reach it."""
        return self.analog(name) or (name in self.synapses and self.received[name].kind == "analog")

    def topological(self) -> tuple[str, ...]:
        """All nodes, sources first."""
        return self.network.order()

    def delay_of(self, name: str) -> int:
        """Steps that a Delay still has to add: the chip's own step is one of them."""
        node = self.network.nodes[name]
        assert isinstance(node, Delay)
        return max(0, node.steps - self.delay)

    def _feeders(self, name: str) -> tuple[tuple[str, float], ...]:
        """Synapses and senders of levels whose sums reach a neuron, with the size of one level; checks that the neuron can be run."""
        if not self.neurons[name]:
            raise self._refused(
                name, "has no layer of its own; put a synapse in front of it (a Conv2d of 1 x 1 will do)"
            )
        found = []
        waiting = list(self.network.inputs_of(name))
        while waiting:
            source = waiting.pop(0)
            node = self.network.nodes[source]
            if isinstance(node, Flatten):
                waiting = [*self.network.inputs_of(source), *waiting]
            elif isinstance(node, Synapse):
                found.append((source, self.received[source].unit))
            elif self.sent[source].kind != "real":
                found.append((source, self.sent[source].unit))
            else:
                raise self._refused(source, f"sends real values to '{name}'; put it in front of the synapse")
        return tuple(found)

    def _check_delay(self, name: str) -> None:
        """In chip time one step of a Delay is the chip's own; of two in a row that would be one too many."""
        waiting = list(self.network.inputs_of(name))
        while waiting:
            source = waiting.pop()
            if isinstance(self.network.nodes[source], Delay):
                raise self._refused(name, f"follows the Delay '{source}' without a neuron between; make them one")
            if source not in self.neurons and not isinstance(self.network.nodes[source], Input):
                waiting += self.network.inputs_of(source)


class Weights:
    """A synapse as `scatter` takes it: kernels with the filters innermost, and the bias of every neuron."""

    def __init__(self, node: Conv1d | Conv2d | Linear) -> None:
        assert node.weight is not None
        K, J = node.weight.shape[:2]
        groups = 1 if isinstance(node, Linear) else node.groups
        kernel = node.kernel if isinstance(node, Conv2d) else (1, node.kernel) if isinstance(node, Conv1d) else (1, 1)
        weight = node.weight.reshape(groups, K // groups, J, *kernel)
        self.C, self.K, self.groups, self.kernel = groups * J, K, groups, kernel
        # float32 holds every weight of a real network, and integers below 2^24
        small = node.weight.dtype.kind == "f" or np.abs(weight.astype(np.float64)).max(initial=0) < 2**24
        ordered = np.moveaxis(weight, 1, -1).reshape(self.C, *kernel, K // groups)
        self.weight_CRSJ = np.ascontiguousarray(ordered, np.float32 if small else np.float64)
        self.node = node
        self.largest = float(np.abs(weight.astype(np.float64)).sum(axis=(2, 3, 4)).max(initial=0))

    def geometry(self, source: Shape, shape: Shape) -> Geometry:
        """Extents for an input map ``source`` and an output map ``shape``."""
        node = self.node
        if isinstance(node, Linear):
            return Geometry(self.C, 1, 1, self.K, 1, 1)
        if isinstance(node, Conv1d):
            return Geometry(
                self.C, 1, source[1], self.K, 1, shape[1], 1, node.kernel, node.groups,
                1, node.stride, 0, node.padding, 1, node.dilation,
            )  # fmt: skip
        return Geometry(
            self.C, source[1], source[2], self.K, shape[1], shape[2], *node.kernel, node.groups,
            *node.stride, *node.padding, *node.dilation,
        )  # fmt: skip

    def bias(self, shape: Shape) -> np.ndarray:
        """Bias of every neuron of a map; float64, shape (M,)."""
        bias = self.node.bias
        if not self.node.has_bias or bias is None:
            return np.zeros(int(np.prod(shape)))
        each = bias if bias.ndim > 1 else bias.reshape(-1, *[1] * (len(shape) - 1))
        return np.broadcast_to(each, shape).astype(np.float64).reshape(-1)


@dataclass(frozen=True)
class Neurons:
    """One node's neurons as `advance` takes them.

    kept_M, syn_kept_M: what leaks leave (whole: 12-bit fixed-point factors); None without a leak. shift, syn_shift: of whole leaks.
    """

    rule: Rule
    v_init_M: np.ndarray
    whole: bool
    kept_M: np.ndarray | None
    shift: int
    syn_kept_M: np.ndarray | None
    syn_shift: int
    grid: float


def _rule(plan: Plan, name: str) -> Neurons:
    """The neurons of node ``name``. Raises NetworkError naming what they cannot be."""
    node: Any = plan.network.nodes[name]
    firing = isinstance(node, Firing)
    whole = node.membrane_bits is not None
    if whole and not 2 <= node.membrane_bits <= 48:
        raise NetworkError(f"node '{name}' got membrane_bits {node.membrane_bits}, expected 2..48")
    if isinstance(node, LIF | CubaLIF) and (node.leak is None or (isinstance(node, CubaLIF) and node.syn_leak is None)):
        raise NetworkError(f"node '{name}' does not state its leak; it cannot be executed, set one")
    if firing and (node.v_threshold is None or node.max_level < 1):
        raise NetworkError(
            f"node '{name}' got v_threshold {node.v_threshold} and max_level {node.max_level}, expected numbers above 0"
        )
    leak = None if isinstance(node, IF) else node.leak
    if plan.grid and leak is not None and (whole or isinstance(node, CubaLIF)):
        raise NetworkError(f"node '{name}' ({plan.kind(name)}): leak_grid is a rule of LIF and LI with real membranes")
    shape = plan.shapes[name]

    def numbers(key: str, bits: int) -> np.ndarray:
        value = getattr(node, key) if firing else 0.0
        if whole:
            _check_whole(name, key, value, bits)
        return _each(value, shape, whole)

    bits = node.membrane_bits or 0
    half = 1 << (bits - 1) if whole else 0
    rule = Rule(
        numbers("v_threshold", 49), numbers("v_reset", bits), RESETS[node.reset if firing else "none"],
        firing and node.strict, firing and node.late_reset, node.max_level if firing else 0, firing and node.signed,
        isinstance(node, CubaLIF), whole, node.overflow == "wrap", -half, half - 1,
    )  # fmt: skip
    if whole:
        _check_sums(plan, name)
    kept, shift = _kept(leak, shape, whole)
    syn_kept, syn_shift = _kept(node.syn_leak if isinstance(node, CubaLIF) else None, shape, whole)
    return Neurons(rule, numbers("v_init", bits), whole, kept, shift, syn_kept, syn_shift, float(plan.grid))


def _each(value: Value, shape: Shape, whole: bool) -> np.ndarray:
    """One number for every neuron of a map: int64, or single precision in float64; shape (M,)."""
    each = np.broadcast_to(np.asarray(value), shape).reshape(-1)
    return each.astype(np.int64) if whole else each.astype(np.float32).astype(np.float64)


def _kept(leak: Leak | None, shape: Shape, whole: bool) -> tuple[np.ndarray | None, int]:
    """(what is kept for each neuron, shift) of a leak; whole: fixed-point factors, or 1 and a shift."""
    if leak is None:
        return None, 0
    if not whole:
        return _each(leak.kept, shape, False), 0
    if leak.shift is not None:
        return np.ones(1, np.int64), leak.shift
    assert leak.factor is not None
    return _each(np.rint(np.asarray(leak.factor, np.float64) * 4096), shape, True), 0


def _check_whole(name: str, key: str, value: Value, bits: int) -> None:
    array = np.asarray(value)
    half = 2 ** (bits - 1)
    if not (array == np.rint(array)).all() or not ((array >= -half) & (array < half)).all():
        raise NetworkError(
            f"node '{name}' has integer membranes and a {key} of {shown(value)}, expected whole numbers {-half}..{half - 1}"
        )


def _check_sums(plan: Plan, name: str) -> None:
    """What reaches integer membranes is whole and small enough to be exact."""
    largest = 0.0
    for source, unit in plan.feeders[name]:
        node = plan.network.nodes[source]
        if unit != 1:
            raise NetworkError(
                f"node '{name}' has integer membranes but '{source}' delivers levels of {unit:.4g}, no integers"
            )
        if not isinstance(node, Synapse):
            largest += plan.sent[source].max_level
            continue
        bias = plan.synapses[source].bias(plan.shapes[source])
        if not (bias == np.rint(bias)).all():
            raise NetworkError(f"node '{name}' has integer membranes but the bias of '{source}' is not whole")
        largest += plan.synapses[source].largest * plan.received[source].max_level + np.abs(bias).max(initial=0)
    if largest >= _EXACT:
        raise NetworkError(
            f"node '{name}' gets sums of up to {largest:.3g}, integers are exact up to 2**53; use fewer bits"
        )
