"""Emulation: run a network without torch, event by event, and record what a machine needs to know of it.

``emulate`` is to a chip what ``snn.record`` is to a framework: the same nodes, the same trace, but time passes as it does on an
asynchronous many-core chip (`delay` = 1), and only inputs that are not silent cost work. Letters: T time steps, N samples, M neurons
of a map in row-major order, C H W input map, K P Q output map, X = P Q.

Chip time
    A spike of step t stands in the trace at step t and reaches the membranes behind its synapses in step t + 1: every layer adds a
    step. Biases and analog pixels act in every step, from the first on. A loop has its step from the chip: a `Delay` of d steps
    lets d steps pass, not d + 1, so that d = 1 is what the chip does without it.

Arithmetic
    What a network states (weights, biases, thresholds, leaks) has single precision; sums and real membranes have double precision, as
    in SANA-FE 2.2.9, while `snn.record` keeps them in single precision. Integer membranes are the words that their nodes state.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from spikeloom.core.network import Network, arithmetic_of, trace_notes
from spikeloom.core.nodes import LI, Delay, Input, MaxPool2d, Membrane, Pool, Shape
from spikeloom.core.signals import LEVEL_MAX, spikes_unseen
from spikeloom.core.trace import Arrival, Levels, Spikes, SpikeTrace
from spikeloom.emulate.kernels import (
    Geometry,
    advance,
    deliver,
    deliver_levels,
    leak_real,
    leak_whole,
    pack,
    pool,
    scatter,
    wake,
)
from spikeloom.emulate.plan import Plan, ZeroWeights
from spikeloom.errors import NetworkError

#: Most neurons whose membranes are held at once, unless one sample has more.
_NEURONS_AT_ONCE = 1 << 22
#: Most steps, as in trace files.
_MOST_STEPS = 1 << 24
#: Finest grid of a leak; double precision has no finer one at 1.
_FINEST_GRID = 1 << 52


def emulate(
    network: Network,
    frames: np.ndarray,
    num_steps: int,
    *,
    delay: int = 1,
    leak_grid: int | None = None,
    zero_weights: ZeroWeights = "stored",
    origin: str = "",
    labels: np.ndarray | None = None,
) -> SpikeTrace:
    """Run ``network`` and record what arrives at each layer, what the last one sends, and where there is work.

    A neuron has work (``updates``) in a step that finds its membrane, before the leak, or its synaptic current not 0, in which a
    spike arrives (also through a weight of 0, also where weights cancel), in which a bias or what pixels add up to is not 0, or in
    which it fires. With a ``delay`` of 0 pixels arrive as spikes do, which is what ``snn.record`` says of them.

    Args:
        network: with weights, one Input, and every neuron behind a layer (a synapse, pool or Add) that has no other. Nodes: Input,
            Output, Conv1d, Conv2d, Linear, IF, LIF, CubaLIF, LI, the pools, Flatten, Delay, Add.
        frames: whole numbers; of an "analog" input pixels 0..255, (N, *shape), the same at every step (in a network of real weights
            p stands for p / 255); of a "spikes" input 0 and 1, (T, N, *shape); of a "levels" input either.
        num_steps: T, a whole number 1..2**24.
        delay: 1 for chip time, 0 for that of ``snn.record`` (a spike acts through all layers in the step it is sent in).
        leak_grid: cut what a LIF or LI with real membranes keeps to multiples of 1 / leak_grid, towards zero, before anything is
            added; SANA-FE's ``loihi`` has 64. None: not at all.
        zero_weights: "skipped": a weight of 0 is no synapse, and nothing arrives through it.
        origin: what the trace says it comes from.
        labels: class of every sample, kept in the trace; integers, shape (N,).

    Raises:
        NetworkError: what is not supported, by the name of its node; weights that are absent; arguments that do not fit, by name.
    """
    _check_arguments(network, num_steps, delay, leak_grid, zero_weights, origin)
    num_steps, delay = int(num_steps), int(delay)
    plan = Plan(network.checked(), delay, leak_grid, zero_weights)
    node = network.nodes[plan.input]
    assert isinstance(node, Input)
    tape = _Tape(plan, num_steps, _checked_frames(plan.input, node, frames, num_steps))
    if labels is not None:
        labels = _array("labels", labels, "iu", "integers")
        if labels.shape != (tape.num_samples,):
            raise NetworkError(f"labels: got shape {list(labels.shape)}, expected [{tape.num_samples}], one a sample")
    at_once = max(1, _NEURONS_AT_ONCE // sum(int(np.prod(shape)) for shape in plan.shapes.values()))
    scores = []
    for first in range(0, tape.num_samples, at_once):
        samples = slice(first, min(first + at_once, tape.num_samples))
        scores.append(_Run(plan, tape, samples).through())
    found = np.concatenate(scores) if plan.outputs else None
    return SpikeTrace(
        num_steps,
        tape.num_samples,
        {name: tape.arrival(name) for name in network.layers()},
        {name: Spikes(tape.fired[name], num_steps) for name in network.layers() if name in tape.fired},
        {name: Spikes(tape.busy[name], num_steps) for name in network.layers() if name in tape.busy},
        network.dt_s,
        origin,
        None if labels is None else labels.astype(np.int64),
        None if found is None else found.argmax(1).astype(np.int64),
        {"meta": {"arithmetic": arithmetic_of(network)}},
        delay=delay,
        notes=trace_notes(network),
    )


def _check_arguments(
    network: object, num_steps: object, delay: object, leak_grid: object, zero_weights: object, origin: object
) -> None:
    """Raise NetworkError naming the first argument that is not of its kind; True is no number here, nor is 1.0."""

    def whole(given: object, low: int, high: int) -> bool:
        return isinstance(given, int | np.integer) and not isinstance(given, bool) and low <= int(given) <= high

    for name, given, fits, expected in (
        ("network", network, isinstance(network, Network), "a Network"),
        ("num_steps", num_steps, whole(num_steps, 1, _MOST_STEPS), f"a whole number 1..{_MOST_STEPS}"),
        ("delay", delay, whole(delay, 0, 1), "0 or 1"),
        (
            "leak_grid", leak_grid, leak_grid is None or whole(leak_grid, 1, _FINEST_GRID),
            f"None or a whole number 1..{_FINEST_GRID}",
        ),
        (
            "zero_weights", zero_weights, isinstance(zero_weights, str) and zero_weights in ("stored", "skipped"),
            "'stored' or 'skipped'",
        ),
        ("origin", origin, isinstance(origin, str), "a string"),
    ):  # fmt: skip
        if not fits:
            raise NetworkError(f"{name}: got {given!r:.60}, expected {expected}")


def _array(what: str, given: object, kinds: str, expected: str) -> np.ndarray:
    """An array whose dtype is of one of the NumPy ``kinds``; raises NetworkError."""
    try:
        array = np.asarray(given)
    except (RuntimeError, TypeError, ValueError) as cause:
        raise NetworkError(
            f"{what}: got a {type(given).__name__} that is no array ({cause}), expected {expected}"
        ) from None
    if array.dtype.kind not in kinds:
        raise NetworkError(f"{what}: got values of type {array.dtype}, expected {expected}")
    return array


def _checked_frames(name: str, node: Input, given: object, num_steps: int) -> np.ndarray:
    """Frames as int32, (N, *shape) where all steps are alike, or (T, N, *shape)."""
    frames = _array(f"frames of input '{name}' ({node.encoding})", given, "biuf", "whole numbers")
    shapes = {"analog": ["N"], "spikes": [f"T={num_steps}", "N"], "levels": ["N"]}[node.encoding]
    timed = frames.ndim == len(node.shape) + 2
    fits = frames.shape[1 + timed :] == node.shape and (not timed or len(frames) == num_steps) and frames.size > 0
    if (
        not fits
        or frames.ndim - len(node.shape) not in (1, 2)
        or (node.encoding != "levels" and timed + 1 != len(shapes))
    ):
        raise NetworkError(
            f"input '{name}' ({node.encoding}) got frames of shape {list(frames.shape)}, expected "
            f"[{', '.join([*shapes, *map(str, node.shape)])}]"
        )
    most = 1 if node.encoding == "spikes" else LEVEL_MAX
    low, high = frames.min(), frames.max()  # NaN if there is one; looked at before a cast that would warn
    if not (low >= 0 and high <= most) or not (frames == (whole := frames.astype(np.int32))).all():
        raise NetworkError(
            f"input '{name}' ({node.encoding}) got values {low}..{high}, expected whole numbers 0..{most}"
        )
    return whole


class _Tape:
    """What is recorded of all samples, by layer: packed bits, and levels."""

    def __init__(self, plan: Plan, num_steps: int, frames: np.ndarray) -> None:
        self.plan, self.num_steps = plan, num_steps
        shape = plan.shapes[plan.input]
        timed = frames.ndim == len(shape) + 2
        self.num_samples = frames.shape[int(timed)]
        #: What the input sends; B is T, or 1 where all steps are alike.
        self.frames_BNM = frames.reshape(-1 if timed else 1, self.num_samples, int(np.prod(shape)))
        self.arrived: dict[str, np.ndarray] = {}
        for name, signal in plan.layers.items():
            shape = plan.shapes[plan.network.inputs_of(name)[0]]
            steps = 1 if signal.kind == "analog" else num_steps
            dtype: Any = np.int16 if signal.signed else np.uint8 if signal.bits <= 8 else np.uint16
            levels = signal.kind != "spikes"
            self.arrived[name] = np.zeros((steps, self.num_samples, *shape), dtype) if levels else self._bits(shape)
        shapes = {layer: plan.shapes[neuron] for neuron, layer in plan.neurons.items()}
        self.busy = {layer: self._bits(shape) for layer, shape in shapes.items()}
        self.fired = {layer: self._bits(shape) for layer, shape in shapes.items() if spikes_unseen(plan.network, layer)}

    def _bits(self, shape: Shape) -> np.ndarray:
        return np.zeros((-(-self.num_steps // 8), self.num_samples, *shape), np.uint8)

    def see(self, name: str, levels_NM: np.ndarray, t: int, samples: slice) -> None:
        """Keep what arrives at layer ``name`` at step t."""
        if self.plan.layers[name].kind == "spikes":
            pack(levels_NM, _flat(self.arrived[name][t >> 3, samples]), t & 7)
        else:
            _flat(self.arrived[name][t, samples])[...] = levels_NM

    def arrival(self, name: str) -> Arrival:
        """What arrived at a layer."""
        signal, arrived = self.plan.layers[name], self.arrived[name]
        if signal.kind == "spikes":
            return Spikes(arrived, self.num_steps)
        analog = signal.kind == "analog"
        if analog:
            arrived = np.broadcast_to(arrived, (self.num_steps, *arrived.shape[1:]))
        return Levels(arrived, signal.bits, signed=signal.signed, analog=analog)


def _flat(map_N: np.ndarray) -> np.ndarray:
    """A view of a map of samples as (N, M)."""
    return map_N.reshape(len(map_N), -1)


class _Run:
    """Some of the samples on their way through the network.

    sent: what nodes of spikes and levels send; int32, (N, M). sums: what a synapse delivers, (N, X, K), and the flags of what is
    reached; both zero unless the node is in ``loud``.
    """

    def __init__(self, plan: Plan, tape: _Tape, samples: slice) -> None:
        self.plan, self.tape, self.samples = plan, tape, samples
        network, self.num = plan.network, len(range(tape.num_samples)[samples])
        self.sent: dict[str, np.ndarray] = {}
        self.windows: dict[str, Geometry] = {}
        self.hits: dict[str, np.ndarray] = {}
        self.sums: dict[str, np.ndarray] = {}
        self.loud: set[str] = set()
        self.rings: dict[str, np.ndarray] = {}
        for name, node in network.nodes.items():
            M = int(np.prod(plan.shapes[name]))
            if name in plan.synapses:
                self._lay_out(name)
            elif plan.sent[name].kind != "real" or name in plan.neurons:
                self.sent[name] = np.zeros((self.num, M), np.int32)
            if isinstance(node, Pool):
                (C, H, W), (_, P, Q) = plan.shapes[network.inputs_of(name)[0]], plan.shapes[name]
                self.windows[name] = Geometry(C, H, W, C, P, Q, *node.kernel, 1, *node.stride, *node.padding)
                self.hits[name] = np.zeros((self.num, M), np.uint8)
            elif isinstance(node, Delay) and name in self.sent and (steps := plan.delay_of(name)):
                self.rings[name] = np.zeros((steps, self.num, M), np.int32)
        still = [name for name in plan.topological() if plan.constant(name)]
        for name in still:
            self._take(name, 0)
        self.cells = {name: _Cells(self, name, still) for name in plan.neurons}
        self.moving = [name for name in plan.order if name not in still and (name in self.sent or name in self.sums)]

    def _lay_out(self, name: str) -> None:
        """Room for the sums of a synapse."""
        plan, weights = self.plan, self.plan.synapses[name]
        g = weights.geometry(plan.shapes[plan.network.inputs_of(name)[0]], plan.shapes[name])
        self.windows[name] = g
        self.sums[name] = np.zeros((self.num, g.P * g.Q, g.K))
        self.hits[name] = np.zeros((self.num, g.P * g.Q, g.K if plan.skip else g.groups), np.uint8)

    def through(self) -> np.ndarray:
        """All steps; the score of every class, float64, (N, K): the last membrane of an LI, else the number of spikes."""
        plan = self.plan
        scores = np.zeros((self.num, int(np.prod(plan.shapes[plan.outputs[0]])) if plan.outputs else 0))
        for t in range(self.tape.num_steps):
            if plan.delay:
                for cells in self.cells.values():
                    cells.gather()
            for name in self.moving:
                self._take(name, t)
            for name, ring_DNM in self.rings.items():
                ring_DNM[t % len(ring_DNM)] = self.arriving(name)
            for name in plan.outputs:
                if isinstance(plan.network.nodes[name], LI):
                    scores[:] = self.cells[name].u_NM
                else:
                    scores += self.sent[name]
        return scores

    def arriving(self, name: str) -> np.ndarray:
        """The sum of what the sources of a node send; int32, (N, M)."""
        first, *others = (self.sent[source] for source in self.plan.network.inputs_of(name))
        for other in others:
            first = first + other
        return first

    def _take(self, name: str, t: int) -> None:
        """Let node ``name`` make its step t."""
        node = self.plan.network.nodes[name]
        if isinstance(node, Membrane):
            if not self.plan.delay:
                self.cells[name].gather()
            self.cells[name].advance(t)
            return
        if isinstance(node, Input):
            frames_BNM = self.tape.frames_BNM
            self.sent[name] = frames_BNM[t if len(frames_BNM) > 1 else 0, self.samples]
            return
        if name in self.rings:
            self.sent[name] = self.rings[name][t % len(self.rings[name])].copy()
            return
        levels_NM = self.arriving(name)
        if name in self.plan.layers:
            self.tape.see(name, levels_NM, t, self.samples)
        if isinstance(node, Pool):
            pool(levels_NM, self.windows[name], isinstance(node, MaxPool2d), self.sent[name], self.hits[name])
        elif name in self.sums:
            self._spread(name, levels_NM)
        else:
            self.sent[name] = levels_NM

    def _spread(self, name: str, levels_NM: np.ndarray) -> None:
        """Sums of a synapse."""
        sums, hits = self.sums[name], self.hits[name]
        if name in self.loud:
            sums.fill(0)
            hits.fill(0)
            self.loud.remove(name)
        weight_CRSJ = self.plan.synapses[name].weight_CRSJ
        if scatter(levels_NM, weight_CRSJ, self.windows[name], self.plan.skip, sums, hits):
            self.loud.add(name)

    def deliver(self, source: str, unit: float, x_NM: np.ndarray, hit_NM: np.ndarray) -> None:
        """Add what a synapse, or a node of levels, has for the neurons behind it."""
        if source not in self.sums:
            levels_NM = self.sent[source]
            hits_NM = self.hits[source] if source in self.hits else (levels_NM != 0).view(np.uint8)
            deliver_levels(levels_NM, hits_NM, unit, x_NM, hit_NM)
        elif source in self.loud:
            deliver(self.sums[source], self.hits[source], unit, x_NM, hit_NM)


class _Cells:
    """The neurons of one node: membranes ``u``, synaptic currents, and what arrives from the sources that change."""

    def __init__(self, run: _Run, name: str, still: list[str]) -> None:
        plan = run.plan
        self.run, self.name, self.kind = run, name, plan.rules[name]
        kind = self.kind
        M = len(kind.v_init_M)
        dtype: Any = np.int64 if kind.whole else np.float64
        self.u_NM = np.tile(kind.v_init_M, (run.num, 1))
        self.current_NM = np.zeros((run.num, M if kind.rule.current else 0), dtype)
        self.count_NM = np.zeros((run.num, M if kind.rule.signed else 0), np.int64)
        self.x_NM = np.zeros((run.num, M), dtype)
        self.hit_NM = np.zeros((run.num, M), np.uint8)
        self.feeders = [(source, unit) for source, unit in plan.feeders[name] if source not in still]
        #: Where pixels arrive, which is work in the time of the recorder; in chip time they are biases.
        self.pixels_NM = np.zeros((run.num, M), np.uint8)
        self.drive_BM = self._drive(dtype, [(source, unit) for source, unit in plan.feeders[name] if source in still])
        layer, tape = plan.neurons[name], run.tape
        self.busy, self.fired = tape.busy[layer], tape.fired.get(layer)
        self.unseen_NM = np.zeros((run.num, M), np.uint8)

    def _drive(self, dtype: Any, pixels: list[tuple[str, float]]) -> np.ndarray:
        """What acts at every step, in single precision where membranes are real: biases, and what pixels add up to; (B, M)."""
        plan = self.run.plan
        drive_BM = np.zeros((self.run.num if pixels else 1, self.x_NM.shape[1]))
        for source, unit in pixels:
            self.run.deliver(source, unit, drive_BM, self.pixels_NM)
        if plan.delay:
            self.pixels_NM.fill(0)
        for source, _ in plan.feeders[self.name]:
            if source in plan.synapses:
                drive_BM += plan.synapses[source].bias(plan.shapes[source])
        return (drive_BM if self.kind.whole else drive_BM.astype(np.float32)).astype(dtype)

    def gather(self) -> None:
        """Collect what the sources deliver."""
        self.x_NM.fill(0)
        self.hit_NM[...] = self.pixels_NM
        for source, unit in self.feeders:
            self.run.deliver(source, unit, self.x_NM, self.hit_NM)

    def advance(self, t: int) -> None:
        """Step t: leak, add, fire, reset."""
        kind = self.kind
        wake(self.u_NM, self.hit_NM)
        for state_NM, kept_M, shift, grid in (
            (self.u_NM, kind.kept_M, kind.shift, kind.grid),
            (self.current_NM, kind.syn_kept_M, kind.syn_shift, 0.0),
        ):
            if kept_M is None:
                continue
            if kind.whole:
                leak_whole(state_NM, kept_M, shift)
            else:
                leak_real(state_NM, kept_M, grid)
        samples, row = self.run.samples, t >> 3
        fired_NM = self.unseen_NM if self.fired is None else _flat(self.fired[row, samples])
        advance(
            self.u_NM, self.current_NM, self.count_NM, self.x_NM, self.hit_NM, self.drive_BM, kind.rule,
            self.run.sent[self.name], fired_NM, _flat(self.busy[row, samples]), t & 7,
        )  # fmt: skip
