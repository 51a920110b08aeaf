"""From a float spiking network to one of integers: weights, biases, thresholds and membranes in words of stated widths.

All that reaches one neuron is counted in one step s of its membrane (one per output channel, or one per tensor)::

    W_q = clip(round(W * u / s), -(2**(b-1) - 1), 2**(b-1) - 1)    u: value of one arriving level (spike 1, pixel 1/255)
    bias_q = round(bias / s)                                        saturated at the ends of its word
    v_threshold_q = max(1, round(v_threshold / s))                  v_init and v_reset likewise

All roundings are half to even. A mean over R*S becomes the sum, its factor 1/(R*S) part of u, or of s where it stands between
synapse and neuron; a Scale of one number goes the same way. The leak stays as it is, and acts on integers as
`spikeloom.core.nodes.Leak` defines.

How s is chosen is in `spikeloom.snn.fake_quant.chosen_step`; weights that already lie on a grid keep theirs, down to -2**(b-1), and
where they cannot (a step that is shared, too few bits for the biases) the notes say which channels moved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from spikeloom.core.network import Network
from spikeloom.core.nodes import (
    IF,
    LI,
    SPIKING,
    AvgPool2d,
    BatchNorm,
    ClippedReLU,
    Firing,
    Node,
    Output,
    Overflow,
    ReLU,
    Scale,
    Shape,
    SumPool2d,
    Synapse,
    Value,
    shown,
)
from spikeloom.errors import NetworkError
from spikeloom.snn.fake_quant import FakeQuant, Scaling, chosen_step, deepest, grid_levels, is_whole, own_step
from spikeloom.transform.flow import edges_without_scales, flows, step_groups
from spikeloom.transform.overflows import overflows as overflows
from spikeloom.transform.prune import still_true

#: A threshold that rounding moves by more than this fraction is worth a note.
_NOTED = 0.05
#: Weights that make a grid of their channel no accident, and the error, as a part of the largest, with which one is kept.
_TELLING, _KEPT = 3, 1e-5
#: Layers that lose this many bits of their weights are worth one too.
_NOTED_BITS = 2


@dataclass(frozen=True, kw_only=True)
class Widths:
    """The words of an integer network.

    weight_bits: 2..8, the sign counts; levels are symmetric, -(2**(b-1) - 1)..2**(b-1) - 1, but for weights that already are integers
        of these bits (times a step), which are kept.
    ternary: weights -1, 0, 1, stored in 2 bits; ``weight_bits`` and ``scale`` then do not matter.
    layer_bits: weight bits of single synapses, by name, instead; 2 bits with steps by squared error are ternary. Synapses that
        share a step share the coarsest of their grids.
    per: one step for each output channel or for the whole tensor.
    bias_bits: 2..48; biases beyond saturate, which the notes of the result say.
    bias_fit: take steps so coarse that all biases fit instead (as the tool chain of Loihi does, at the cost of weight levels).
    membrane_bits: 2..48, of spiking neurons. With pixels at the input a threshold is up to 255 * 127 / max|W| steps.
    readout_bits: 2..48, of the membranes of LI nodes.
    overflow: what membranes do beyond their word.
    scale: how the step is chosen.
    """

    weight_bits: int = 8
    ternary: bool = False
    layer_bits: Mapping[str, int] = field(default_factory=dict)
    per: Literal["tensor", "channel"] = "channel"
    bias_bits: int = 16
    bias_fit: bool = False
    membrane_bits: int = 24
    readout_bits: int = 32
    overflow: Overflow = "saturate"
    scale: Scaling = "mse"

    def __post_init__(self) -> None:
        for name, most in (("weight_bits", 8), ("bias_bits", 48), ("membrane_bits", 48), ("readout_bits", 48)):
            if not 2 <= getattr(self, name) <= most:
                raise NetworkError(f"{name} must be 2..{most}, got {getattr(self, name)}")
        for layer, bits in self.layer_bits.items():
            if not 2 <= bits <= 8:
                raise NetworkError(f"layer_bits of '{layer}' must be 2..8, got {bits}")
        for name, known in (
            ("per", ("tensor", "channel")),
            ("overflow", ("saturate", "wrap")),
            ("scale", ("max", "mse")),
        ):
            if getattr(self, name) not in known:
                raise NetworkError(f"{name} must be {' or '.join(known)}, got '{getattr(self, name)}'")

    def stored_bits(self, layer: str) -> int:
        """Bits of one stored weight of a synapse."""
        return self.layer_bits.get(layer, 2 if self.ternary else self.weight_bits)

    def largest(self, *layers: str) -> int:
        """Largest level of a weight in synapses that share a step."""
        return int(min(2 ** (self.stored_bits(layer) - 1) - 1 for layer in layers))

    @property
    def step_rule(self) -> Scaling:
        """How the step is chosen; of ternary weights always by their squared error."""
        return "mse" if self.ternary else self.scale

    @property
    def label(self) -> str:
        """For tables: "8 bit", "ternary"."""
        if not self.layer_bits:
            return "ternary" if self.ternary else f"{self.weight_bits} bit"
        widths = {*self.layer_bits.values(), 2 if self.ternary else self.weight_bits}
        return f"{'/'.join(str(bits) for bits in sorted(widths, reverse=True))} bit"


def quantize(network: Network, widths: Widths | None = None) -> Network:
    """The integer network of ``network``.

    The metadata keeps what is still true of it and gains ``quantized``: the widths, the parent's id, and notes on what the words
    did to it (saturated biases, thresholds of few steps, steps that are shared, layers of which few levels are left).

    Raises:
        NetworkError: a network of integers, without weights, with normalisation, ReLU or a Scale of several numbers; sums that cannot
            share a step; spikes that reach a neuron beside or without a synapse; a threshold wider than its membrane; values so far
            apart that floats cannot count one in steps of the other.
    """
    widths = Widths() if widths is None else widths
    grid = _Grid(network, widths)
    notes: list[str] = grid.notes()
    nodes: dict[str, Node] = {}
    for name, node in network.nodes.items():
        if isinstance(node, Synapse):
            nodes[name] = grid.synapse(name, node, notes)
        elif isinstance(node, SPIKING):
            nodes[name] = _changed(node, {**grid.whole_values(name, node, notes), **grid.word})
        elif isinstance(node, LI):
            nodes[name] = replace(node, membrane_bits=widths.readout_bits, overflow=widths.overflow)
        elif isinstance(node, AvgPool2d):
            nodes[name] = SumPool2d(node.kernel, node.stride, node.padding)
        elif not isinstance(node, Scale):
            nodes[name] = node
    steps = {name: float(grid.steps[name][0]) for name in sorted(grid.read_out)}
    made = {"widths": asdict(widths), "parent": network.id, "notes": notes, "readout_steps": steps}
    metadata = {**still_true(network), "quantized": made}
    return Network(nodes, edges_without_scales(network), network.name, network.dt_s, metadata)


def on_grid(network: Network, widths: Widths) -> tuple[Network, FakeQuant]:
    """``network`` in floats with thresholds in whole steps, and the weight rule that keeps its weights on the grid of ``quantize``.

    What ``snn.train`` makes of the two quantizes, with the same widths, to exactly the weights it was trained with.

    Raises:
        NetworkError: as ``quantize``.
    """
    grid = _Grid(network, widths)
    nodes = dict(network.nodes)
    for name, node in network.nodes.items():
        if isinstance(node, SPIKING):
            unit = grid.unit(name)
            whole = grid.whole_values(name, node, [])
            nodes[name] = _changed(node, {key: _plain(value * unit) for key, value in whole.items()})
    synapses = {name: node for name, node in network.nodes.items() if isinstance(node, Synapse)}
    steps = {name: grid.weight_step(name, node) for name, node in synapses.items()}
    lowest = {name: grid.lowest(name, node) for name, node in synapses.items()}
    return replace(network, nodes=nodes), FakeQuant(steps, {name: grid.largest(name) for name in steps}, lowest)


class _Grid:
    """The steps of a network: which synapses share one, and what one integer is worth at each node."""

    def __init__(self, network: Network, widths: Widths) -> None:
        self.network, self.widths = network, widths
        self.shapes = network.shapes()
        _check(network)
        for name in widths.layer_bits:
            if not isinstance(network.nodes.get(name), Synapse):
                synapses = [other for other, node in network.nodes.items() if isinstance(node, Synapse)]
                raise NetworkError(f"layer_bits names '{name}', expected one of {', '.join(synapses)}")
        self.arriving = flows(network)
        self.groups = step_groups(network, self.arriving)
        self.word: dict[str, Any] = {"membrane_bits": widths.membrane_bits, "overflow": widths.overflow}
        self.read_out = {
            synapse
            for name, node in network.nodes.items()
            if isinstance(node, Output)
            for synapse in self.arriving[name].sums or ()
        }

    def per_tensor(self, group: Mapping[str, float]) -> bool:
        """True where all channels of a group count in one step: at the output, or where channels do not correspond."""
        channels = {len(self._synapse(name).weight) for name in group}
        return self.widths.per == "tensor" or bool(self.read_out & group.keys()) or len(channels) > 1

    @cached_property
    def steps(self) -> dict[str, np.ndarray]:
        """Value of 1 behind each synapse, one per channel; float64, shape (K,)."""
        found = {}
        for group in self.groups:
            rows = [self._scaled_weight(name) / factor for name, factor in group.items()]
            firm, loose = self._anchors(group)
            if self.per_tensor(group):
                rows, firm, loose = ([part.reshape(1, -1) for part in parts] for parts in (rows, firm, loose))
            weights = np.concatenate(rows, 1)
            least = np.zeros(len(weights))
            if self.widths.bias_fit:
                most = 2 ** (self.widths.bias_bits - 1) - 1
                least = np.max([np.abs(bias).max(1) / most for bias in loose] or [least], axis=0)
            rule = self.widths.step_rule
            with np.errstate(over="ignore", divide="ignore", invalid="ignore"):  # what comes of it is refused below
                anchors: Sequence[Sequence[np.ndarray]] = (firm + loose, firm, [])
                step = chosen_step(weights, self.widths.largest(*group), rule, anchors, least, self.widths.ternary)
            for name, factor in group.items():
                found[name] = np.broadcast_to(step * factor, (len(self._synapse(name).weight),))
                if not ((found[name] > 0) & np.isfinite(found[name])).all():
                    raise NetworkError(
                        f"layer '{name}' has weights of {shown(self._synapse(name).weight)}, too large or too small to count in "
                        f"steps; train it again"
                    )
        return found

    def largest(self, name: str) -> int:
        """Largest level of the weights of a synapse."""
        return self.widths.largest(*next(group for group in self.groups if name in group))

    def lowest(self, name: str, node: Synapse) -> np.ndarray:
        """Lowest level of the weights of a synapse, for each channel; float64, shape (K, 1, ...)."""
        assert node.weight is not None
        largest, step = self.largest(name), self.weight_step(name, node)
        return np.full_like(step, -largest) if self.widths.ternary else deepest(node.weight, step, largest)

    def _scaled_weight(self, name: str) -> np.ndarray:
        """Weights times the value of one level that arrives; float64, shape (K, all others)."""
        weight = self._synapse(name).weight.astype(np.float64) * self.arriving[name].unit
        return np.asarray(weight.reshape(len(weight), -1))

    def _anchors(self, group: Mapping[str, float]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Thresholds and biases in the membrane of each channel, that weights on a grid have in whole steps; each (K, n)."""
        firm, loose = [], []
        for name, node in self.network.nodes.items():
            sums = self.arriving[name].sums if isinstance(node, SPIKING) else None
            first = next(iter(sums), None) if sums else None
            if sums and first in group:
                channels = len(self._synapse(str(first)).weight)
                for value in (node.v_threshold, node.v_init, node.v_reset):  # type: ignore[union-attr]
                    if np.any(np.asarray(value) != 0):
                        full = np.asarray(value)
                        full = full.reshape(()) if full.size == 1 else full
                        shape = self.shapes[name] if full.ndim else (channels, 1)
                        per_channel = np.broadcast_to(full, shape).reshape(channels, -1)
                        firm.append(per_channel / (sums[str(first)] * group[str(first)]))
            if name in group and self._synapse(name).bias is not None:
                bias = self._synapse(name).bias.astype(np.float64)
                loose.append(bias.reshape(len(bias), -1) / group[name])
        return firm, loose

    def _synapse(self, name: str) -> Any:
        return self.network.nodes[name]

    def unit(self, name: str) -> Any:
        """Value of 1 at a neuron; a number, or an array that broadcasts to its map."""
        flow = self.arriving[name]
        if flow.sums is None:
            return flow.unit
        synapse, factor = next(iter(flow.sums.items()))
        step = self.steps[synapse] * factor
        return float(step[0]) if (step == step[0]).all() else _on_map(step, self.shapes[name])

    def weight_step(self, name: str, node: Synapse) -> np.ndarray:
        """Value of one level of a synapse's weights; float64, shape (K, 1, ...)."""
        step = self.steps[name] / self.arriving[name].unit
        return step.reshape(-1, *([1] * (self._synapse(name).weight.ndim - 1)))

    def synapse(self, name: str, node: Synapse, notes: list[str]) -> Synapse:
        """The synapse in integers; notes where few levels are left of its weights and where biases saturate."""
        assert node.weight is not None
        widths = self.widths
        weight = grid_levels(node.weight, self.weight_step(name, node), self.largest(name), self.lowest(name, node))
        notes += self.losses(name, node.weight / self.weight_step(name, node), weight)
        bias = None
        if node.bias is not None:
            step = self.steps[name].reshape(-1, *([1] * (node.bias.ndim - 1)))
            exact, most = (
                np.rint(_in_steps(f"bias of layer '{name}'", node.bias, step)),
                2 ** (widths.bias_bits - 1) - 1,
            )
            held = np.clip(exact, -most - 1, most)
            if cut := int((held != exact).sum()):
                needed = int(np.abs(exact).max()).bit_length() + 1
                notes.append(
                    f"{cut} of {held.size} biases of '{name}' saturate at {widths.bias_bits} bits; {needed} bits would hold all, "
                    f"or coarser steps (bias_fit)"
                )
            bias = _smallest(held)
        bits = {"weight_bits": widths.stored_bits(name), "bias_bits": widths.bias_bits if node.has_bias else None}
        return replace(node, weight=_smallest(weight), bias=bias, **bits)  # type: ignore[arg-type]

    def losses(self, name: str, exact: np.ndarray, levels: np.ndarray) -> list[str]:
        """Notes on channels of which quantising leaves nothing, or few of the levels that the width has.

        Args:
            name: of the synapse. exact: its weights in steps, K first. levels: what became of them, same shape.
        """
        group = next(group for group in self.groups if name in group)
        others = " and ".join(f"'{other}'" for other in group if other != name)
        causes = [f"it shares its step with {others}"] if others else []
        causes += ["one step counts for all channels"] if self.per_tensor(group) else []
        causes += ["steps are coarse enough for biases (bias_fit)"] if self.widths.bias_fit else []
        why = ", ".join(causes)
        size, left = (np.abs(part).reshape(len(part), -1) for part in (exact, levels))
        dead = (left.max(1) == 0) & (size.max(1) > 0)
        if dead.any() and not left.any():
            return [f"all weights of '{name}' become 0: {why}; take more weight bits"]
        found = [f"{dead.sum()} of {len(dead)} channels of '{name}' become 0: {why}"] if dead.any() else []
        if moved := self.moved(name, exact, levels):
            found.append(f"{moved} of {len(dead)} channels of '{name}' lay on a grid of these bits and left it: {why}")
        if self.per_tensor(group):
            size, left = size.reshape(1, -1), left.reshape(1, -1)
        most, largest = left.max(1), self.largest(name)
        coarse = (most > 0) & (most < 2.0 ** (largest.bit_length() - _NOTED_BITS)) & ~is_whole(size).all(1)
        if coarse.all():
            found.append(f"'{name}' keeps only {most.max():.0f} of {largest} levels: {why}")
        elif coarse.any():
            found.append(
                f"{coarse.sum()} of {len(coarse)} channels of '{name}' keep only {most[coarse].max():.0f} of {largest} levels: {why}"
            )
        return found

    def moved(self, name: str, exact: np.ndarray, levels: np.ndarray) -> int:
        """Channels whose weights were integers of this width times a step of their own, and whose values are others now."""
        rows, now = (part.reshape(len(part), -1) for part in (exact, levels))
        rows, now = (
            part[(np.count_nonzero(rows, 1) >= _TELLING)] for part in (rows, now)
        )  # fewer lie on a grid by chance
        own = own_step(rows, (), 2 ** (self.widths.stored_bits(name) - 1) - 1, 0.0, self.widths.ternary)
        return int(
            ((own > 0) & (np.abs(rows - now) > _KEPT * np.abs(rows).max(1, initial=0, keepdims=True)).any(1)).sum()
        )

    def whole_values(self, name: str, node: Any, notes: list[str]) -> dict[str, Any]:
        """Threshold, initial and reset value of a spiking node in steps; a note where rounding moves a threshold far.

        Raises:
            NetworkError: without a synapse, a value between two levels; a value that its membrane cannot hold.
        """
        unit, bits = self.unit(name), self.widths.membrane_bits
        exact = {
            key: _in_steps(f"{key} of node '{name}'", getattr(node, key), unit)
            for key in ("v_threshold", "v_init", "v_reset")
        }
        if self.arriving[name].sums is None and not all(is_whole(value).all() for value in exact.values()):
            raise NetworkError(
                f"node '{name}' gets levels without a synapse before it, but its threshold or initial value is {shown(node.v_threshold)}, "
                f"{shown(node.v_init)}, no multiple of a level ({unit:g}); put a synapse in between"
            )
        whole = {key: np.rint(value) for key, value in exact.items()}
        whole["v_threshold"] = np.maximum(1, _threshold(node, exact["v_threshold"]))
        furthest = max(float(np.abs(value).max()) for value in whole.values())
        if furthest > 2 ** (bits - 1) - 1:
            raise NetworkError(
                f"node '{name}' needs membranes of at least {int(furthest).bit_length() + 1} bits for its threshold of up to "
                f"{furthest:.0f} steps, got {bits}; widen membrane_bits, or take fewer weight bits"
            )
        moved = float(np.abs(whole["v_threshold"] / exact["v_threshold"] - 1).max())
        if moved > _NOTED:
            steps = f"{whole['v_threshold'].min():.0f}..{whole['v_threshold'].max():.0f}"
            notes.append(f"thresholds of '{name}' are {steps} steps, rounding moves them by up to {100 * moved:.3g} %")
        return {key: _plain(value) for key, value in whole.items()}

    def notes(self) -> list[str]:
        """Where steps are shared, beyond what the widths ask for."""
        found = []
        for group in self.groups:
            names = ", ".join(f"'{name}'" for name in group)
            if self.widths.per == "channel" and self.read_out & group.keys():
                found.append(f"{names}: one step for the whole tensor, so that all scores at the output have one unit")
            elif self.widths.per == "channel" and self.per_tensor(group):
                found.append(f"{names}: one step for the whole tensor, since their channels do not correspond")
            if len(group) > 1:
                found.append(f"{names} reach one neuron and share their step")
        readouts = ", ".join(f"'{name}'" for name, node in self.network.nodes.items() if isinstance(node, LI))
        if readouts:
            found.append(f"{readouts}: membranes of {self.widths.readout_bits} bits")
        return found


def _threshold(node: Firing, exact: np.ndarray) -> np.ndarray:
    """A threshold in whole steps: the nearest, but exact where the membrane only ever holds multiples of the step.

    An integrating neuron without soft reset then fires at the first multiple at or above the threshold (strict: above the
    multiple below it), as in floats.
    """
    multiples = isinstance(node, IF) and node.reset != "soft" and not np.any(node.v_init) and not np.any(node.v_reset)
    if not multiples or node.max_level > 1 or node.signed:
        return np.asarray(np.rint(exact))
    near = np.where(is_whole(exact), np.rint(exact), exact)
    return np.asarray(np.floor(near) if node.strict else np.ceil(near))  # type: ignore[attr-defined]


def _check(network: Network) -> None:
    """Raises NetworkError for what has no integer form."""
    if network.arithmetic == "integer":
        raise NetworkError(
            f"network '{network.name}' is one of integers already; quantize the float network it came from"
        )
    for name, node in network.nodes.items():
        kind = type(node).__name__
        if isinstance(node, BatchNorm):
            raise NetworkError(f"node '{name}' is a BatchNorm; fold it first (spikeloom.transform.fold)")
        if isinstance(node, ReLU | ClippedReLU):
            raise NetworkError(
                f"node '{name}' is a {kind}, an ANN's activation; convert the network to a spiking one first"
            )
        if isinstance(node, Synapse) and (node.weight is None or (node.has_bias and node.bias is None)):
            raise NetworkError(
                f"layer '{name}' has no {'weights' if node.weight is None else 'bias'}; train it or read them first"
            )
        if isinstance(node, Firing) and getattr(node, "v_threshold", None) is None:
            raise NetworkError(f"node '{name}' ({kind}) has no threshold; set one")
        if isinstance(node, Scale) and not (
            node.scale.size and (node.scale == node.scale.flat[0]).all() and node.scale.flat[0] > 0
        ):
            raise NetworkError(
                f"node '{name}' is a Scale by {shown(node.scale)}, expected one positive number for all; multiply it into the weights "
                f"of the synapse beside it"
            )


def _in_steps(what: str, value: Value, unit: Any) -> np.ndarray:
    """``value`` counted in steps of ``unit``; float64. Raises NetworkError where that is more than a float holds."""
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        exact = np.asarray(np.asarray(value, np.float64) / unit)
    if not np.isfinite(exact).all():
        raise NetworkError(
            f"{what} is {shown(value)}, too far from the weights it goes with to count in their steps of {shown(unit)}; "
            f"train the network again"
        )
    return exact


def _changed(node: Any, values: Mapping[str, Any]) -> Node:
    """``node`` with other values."""
    changed: Node = replace(node, **values)
    return changed


def _on_map(step: np.ndarray, shape: Shape) -> np.ndarray:
    """One number per channel as an array that broadcasts to a map, also one that was flattened; (K, 1, ...) or (K*P*Q,)."""
    if shape[0] == len(step):
        return step.reshape(-1, *([1] * (len(shape) - 1)))
    return np.repeat(step, shape[0] // len(step))


def _plain(value: Any) -> Value:
    """One float where all are the same, else the array."""
    array = np.asarray(value, np.float64)
    return float(array.flat[0]) if (array == array.flat[0]).all() else array


def _smallest(whole: np.ndarray) -> np.ndarray:
    """Whole numbers in the smallest integer type that holds them."""
    most = np.abs(whole).max(initial=0)
    kinds: tuple[type[np.signedinteger], ...] = (np.int8, np.int16, np.int32, np.int64)
    return whole.astype(next(kind for kind in kinds if most <= np.iinfo(kind).max))
