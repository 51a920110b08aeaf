"""What a layer costs as a function of how full its input words are: tables drawn from the exact model by thinning real spikes.

A *word* is one neuron in one time window; its *fill* is the fraction of words with any spike. For a fixed machine and mapping
the energy and latency of layer l fall with the fill F of its input, and what it writes to memory falls with the fill G of its
output:

    E_l(F, A, G) = E_in(F) + E_weight(A) + E_out(G),   D_l(F)        per inference, joule and second

with A the fraction of input channels that spike at all in a sample: a machine that fetches only their weights pays for them in
proportion. E_weight and E_out are linear, and exact. E_in and D are drawn: the spikes that arrive at the layer are thinned, the machine counts what is
left, and straight lines join the points. Hardware-aware training follows their slopes (SpikeX, arXiv:2505.12292, uses a
piecewise-linear fit of its simulator in the same place). Which spikes are dropped matters, see ``Thinning``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from spikeloom.core.arch import AbstractArch
from spikeloom.core.arch import Mapping as MachineMapping
from spikeloom.core.report import LayerReport
from spikeloom.core.trace import Arrival, Levels, Spikes
from spikeloom.core.workload import Layer, Workload
from spikeloom.evaluate import evaluate
from spikeloom.hw import HARDWARE

#: What is dropped together. "spike": every spike for itself. "neuron": all spikes of a neuron in a sample.
Thinning = Literal["spike", "neuron"]

#: Energies that may be proportional to the input channels that spike.
_WEIGHTS = ("dram_weight.read", "glb_weight.write", "glb_weight.read", "lbuf_weight.write")
#: Fractions of the spikes that are kept at the points of a curve.
KEPT = (0.0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0)
_OUTPUT = "dram_out.write"


@dataclass(frozen=True, eq=False)
class Curve:
    """Cost of one layer under its mapping, per inference.

    arrival: node whose arriving spikes fill the input words. departure: node at which the layer's output arrives, or None where
        it is not known (it is then written in full, a constant in ``energy_j``).
    window, out_window: time steps L of an input word and of an output word.
    fill: float64 (n,), ascending. energy_j, latency_s: float64 (n,), without what the two lines below cost.
    channel_energy_j: joules of fetching weights when every input channel spikes.
    out_energy_j: joules (at fill 0, more at fill 1) of the output, a straight line.
    """

    layer: str
    arrival: str
    departure: str | None
    window: int
    out_window: int
    fill: np.ndarray
    energy_j: np.ndarray
    latency_s: np.ndarray
    channel_energy_j: float = 0.0
    out_energy_j: tuple[float, float] = (0.0, 0.0)


def draw_curves(
    workload: Workload,
    arch: AbstractArch,
    *,
    kept: Iterable[float] = KEPT,
    thinning: Thinning = "spike",
    seed: int = 0,
    threads: int | None = None,
) -> dict[str, Curve]:
    """A curve for every layer that ``arch`` runs, by layer name.

    Args:
        workload: real spikes; the right end of every curve.
        arch: the machine with its mapping knobs as they are to be priced.
        kept: fractions of the spikes that are kept, each 0..1; 1 is always drawn.
        thinning: what is dropped together.
        seed: of the draws.
        threads: as for `spikeloom.evaluate.evaluate`.

    Raises:
        MappingError: a layer the machine cannot run, or a machine whose layers have no windows.
    """
    machine = HARDWARE[arch.model]
    run = machine.runs(workload, arch)
    mapping = machine.map(workload, arch)
    fractions = sorted({*kept, 1.0})
    curves = {}
    for index, layer in enumerate(run.layers):
        generator = np.random.default_rng([seed, index])
        alone = MachineMapping(mapping.model, {layer.name: mapping.layers[layer.name]})
        window = mapping.layers[layer.name].window
        points = []
        for fraction in fractions if movable(layer) else [1.0]:
            left = layer if fraction == 1 else _thinned_layer(layer, fraction, thinning, generator)
            # the layer as this machine runs it: nothing is left to fold
            report = evaluate(replace(workload, layers=(left,)), arch, mapping=alone, threads=threads)
            points.append(_Point(fill_of(left.arrival, window), channels_of(left.arrival), report.layers[0]))
        curves[layer.name] = _curve(workload, layer, window, points)
    return curves


@dataclass(frozen=True)
class _Point:
    """A layer with thinned input: fill of its words, fraction of its channels that spike, what the machine reports."""

    fill: float
    channels: float
    report: LayerReport


@dataclass(frozen=True)
class Fill:
    """What the cost of a layer depends on: fill of its input words, fraction of its input channels that spike, fill of its output."""

    into: float
    channels: float
    out: float = 0.0


def predicted(curves: Mapping[str, Curve], fills: Mapping[str, Fill]) -> tuple[float, float]:
    """(energy_j, latency_s) per inference that the curves give for the fills of every layer."""
    energy = latency = 0.0
    for name, curve in curves.items():
        at = fills[name]
        energy += interpolated(curve.fill, curve.energy_j, at.into) + curve.channel_energy_j * at.channels
        energy += curve.out_energy_j[0] + curve.out_energy_j[1] * at.out
        latency += interpolated(curve.fill, curve.latency_s, at.into)
    return energy, latency


def fills(workload: Workload, arch: AbstractArch, curves: Mapping[str, Curve]) -> dict[str, Fill]:
    """The fills of every layer with a curve, under the windows of the curves."""
    found = {}
    for layer in HARDWARE[arch.model].runs(workload, arch).layers:
        curve = curves[layer.name]
        out = 0.0 if curve.departure is None or layer.out is None else fill_of(layer.out, curve.out_window)
        found[layer.name] = Fill(fill_of(layer.arrival, curve.window), channels_of(layer.arrival), out)
    return found


def interpolated(at: np.ndarray, values: np.ndarray, x: float) -> float:
    """The straight lines through (at, values) at ``x``; beyond the ends the nearest line goes on."""
    if len(at) == 1:
        return float(values[0])
    k = segment(at, x)
    slope = (values[k + 1] - values[k]) / (at[k + 1] - at[k])
    return float(values[k] + slope * (x - at[k]))


def segment(at: np.ndarray, x: float) -> int:
    """Index of the line that holds ``x``."""
    return int(np.clip(np.searchsorted(at, x, side="right") - 1, 0, len(at) - 2))


def fill_of(arrival: Arrival, window: int) -> float:
    """Fraction of (neuron, window, sample) words with any spike or level; the last window may be short."""
    if isinstance(arrival, Levels) and arrival.analog and arrival.constant():
        return float(np.mean(arrival.values[0] != 0))  # one word holds all steps
    spiked = arrival.unpack() if isinstance(arrival, Spikes) else arrival.values != 0
    starts = np.arange(0, arrival.num_steps, window)
    return float(np.mean(np.logical_or.reduceat(spiked, starts, axis=0)))


def channels_of(arrival: Arrival) -> float:
    """Fraction of (channel, sample) with any spike or level."""
    data = arrival.packed if isinstance(arrival, Spikes) else arrival.values
    return float(np.mean((data != 0).any(axis=(0, 3, 4))))


def thinned(arrival: Arrival, fraction: float, thinning: Thinning, generator: np.random.Generator) -> Arrival:
    """``arrival`` with about ``fraction`` of its spikes; ``fraction`` of its neurons when those are dropped whole."""
    if isinstance(arrival, Spikes):
        shape = (arrival.num_steps, *arrival.packed.shape[1:])
        drawn = generator.random(shape if thinning == "spike" else shape[1:], dtype=np.float32) < fraction
        if thinning == "neuron":
            return Spikes(np.where(drawn[None], arrival.packed, np.uint8(0)), arrival.num_steps)
        return Spikes(arrival.packed & Spikes.pack(drawn).packed, arrival.num_steps)
    shape = arrival.values.shape if thinning == "spike" else arrival.values.shape[1:]
    drawn = generator.random(shape, dtype=np.float32) < fraction
    return replace(arrival, values=np.where(drawn, arrival.values, arrival.values.dtype.type(0)))


def movable(layer: Layer) -> bool:
    """True where training can change what arrives: not for the data itself."""
    return bool(layer.inputs)


def _thinned_layer(layer: Layer, fraction: float, thinning: Thinning, generator: np.random.Generator) -> Layer:
    """Fewer spikes in, also of branches, and as many fewer out: a layer that hears nothing says nothing."""
    out = layer.out
    if out is not None:
        fewer = thinned(out, fraction, thinning, generator)
        assert isinstance(fewer, Spikes)
        out = fewer
    arrival = thinned(layer.arrival, fraction, thinning, generator)
    branches = tuple(_thinned_layer(x, fraction, thinning, generator) if movable(x) else x for x in layer.branches)
    return replace(layer, arrival=arrival, out=out, branches=branches)


def _curve(workload: Workload, layer: Layer, window: int, drawn: list[_Point]) -> Curve:
    samples = workload.num_samples
    points = sorted({point.fill: point for point in drawn}.values(), key=lambda point: point.fill)
    energy = np.array([point.report.energy_j for point in points]) / samples
    latency = np.array([point.report.latency_s for point in points]) / samples
    channels = np.array([point.channels for point in points])
    by_channel = 0.0
    for action in _WEIGHTS:
        fetched = np.array([point.report.energy.get(action, 0.0) for point in points]) / samples
        whole = fetched[-1] / channels[-1] if channels[-1] else 0.0
        if np.allclose(fetched, whole * channels, rtol=1e-9, atol=0):
            energy -= fetched
            by_channel += float(whole)
    departure = _departure(workload, layer)
    line = (0.0, 0.0)
    if departure is not None and layer.out is not None:
        # tags of every word and L bits of every filled one
        tags = -(-layer.num_steps // window) * layer.K * layer.P * layer.Q
        written = np.array([point.report.energy[_OUTPUT] for point in points]) / samples
        bits = points[-1].report.counts[_OUTPUT] / samples
        # not on machines that write maps without tags
        if np.isclose(bits, tags * (1 + window * fill_of(layer.out, window)), rtol=1e-9):
            per_bit = float(written[-1] / bits)
            line = (per_bit * tags, per_bit * tags * window)
            energy -= written
    return Curve(
        layer.name, _arrival_node(workload, layer), departure, window, window,
        np.array([point.fill for point in points]), energy, latency, by_channel, line,
    )  # fmt: skip


def _arrival_node(workload: Workload, layer: Layer) -> str:
    """The node whose arrival this layer works on: itself, or the pool that the machine folded into it."""
    original = workload[layer.name]
    if layer.inputs == original.inputs:
        return layer.name
    return original.inputs[0]


def _departure(workload: Workload, layer: Layer) -> str | None:
    """The node at which the output of ``layer``, and nothing else, arrives."""
    if layer.out is None:
        return None
    for other in workload.layers:
        arrival = other.arrival
        if other.inputs != (layer.name,) or not isinstance(arrival, Spikes):
            continue
        if arrival.num_steps == layer.out.num_steps and arrival.packed.size == layer.out.packed.size:
            return other.name
    return None
