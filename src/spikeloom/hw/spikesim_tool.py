"""SpikeSim's ELA script (energy, latency, area) in closed form: what it counts for a layer list, quirk by quirk.

Source: SpikeSim (A. Moitra et al., arXiv 2210.12899; MIT), ela_spikesim.py.
"""

from __future__ import annotations

from collections import abc
from dataclasses import replace
from itertools import pairwise

import numpy as np

from spikeloom.core.counts import Counts
from spikeloom.core.trace import Spikes
from spikeloom.core.workload import Layer, NeuronRule, Workload
from spikeloom.errors import MappingError
from spikeloom.hw.base import SHAPES_ONLY, joined_notes
from spikeloom.hw.spikesim_arch import PHASES, SpikesimArch

#: Layers whose membranes have a memory, and layers that the script's lists have room for.
FIVE, TWELVE = 5, 12


def tool_workload(
    in_ch: abc.Sequence[int],
    out_ch: abc.Sequence[int],
    in_dim: abc.Sequence[int],
    out_dim: abc.Sequence[int],
    *,
    kernel: int = 3,
    num_steps: int = 5,
) -> Workload:
    """The script's lists as a workload without spikes: convolutions, with a pool behind where a map shrinks by a whole factor.

    Raises:
        MappingError: lists of different lengths.
    """
    lengths = {len(in_ch), len(out_ch), len(in_dim), len(out_dim)}
    if len(lengths) != 1 or not in_ch:
        raise MappingError(
            f"layer lists: got lengths {len(in_ch)}, {len(out_ch)}, {len(in_dim)}, {len(out_dim)}, expected equal ones above 0"
        )
    layers: list[Layer] = []
    before: tuple[str, ...] = ()
    for number, (C, K, size, out) in enumerate(zip(in_ch, out_ch, in_dim, out_dim, strict=True), 1):
        shrink = size // out if out else 0
        pooled = shrink > 1 and size // shrink == out
        positions = size if pooled else out
        conv = Layer(
            f"conv{number}", "conv2d", C=C, K=K, H=size, W=size, R=kernel, S=kernel, P=positions, Q=positions,
            arrival=_silence(num_steps, C, size), padding=(kernel // 2, kernel // 2), neuron=NeuronRule("lif"), inputs=before,
        )  # fmt: skip
        layers.append(conv)
        before = (conv.name,)
        if pooled:
            pool = Layer(
                f"pool{number}", "avgpool2d", C=K, K=K, H=size, W=size, R=shrink, S=shrink, P=out, Q=out,
                arrival=_silence(num_steps, K, size), stride=(shrink, shrink), groups=K, neuron=NeuronRule("none"), inputs=before,
            )  # fmt: skip
            layers.append(pool)
            before = (pool.name,)
    return Workload(
        tuple(layers), num_steps, 1, "layer list of SpikeSim's ELA script", (SHAPES_ONLY,), shapes_only=True
    )


def _silence(num_steps: int, channels: int, size: int) -> Spikes:
    return Spikes(np.zeros((-(-num_steps // 8), 1, channels, size, size), np.uint8), num_steps)


def tool_layers(workload: Workload) -> Workload:
    """The layers that the tool is told of; pools shape the maps, sums and linear layers cost it nothing.

    Raises:
        MappingError: a convolution that the tool cannot describe, or none at all.
    """
    left = [layer.name for layer in workload.layers if layer.kind.endswith("pool2d") or layer.kind == "add"]
    layers = tuple(layer for layer in workload.layers if layer.name not in left)
    convolutions = [layer for layer in layers if layer.kind != "linear"]
    for layer in convolutions:
        plain = layer.kind == "conv2d" and layer.groups == 1 and layer.R == layer.S and layer.dilation == (1, 1)
        if not plain or layer.R != convolutions[0].R:
            raise MappingError(
                f"layer '{layer.name}': SpikeSim's script knows convolutions of one square kernel for all layers, without groups "
                f"and dilation, not this {layer.kind}; use fidelity = 'trace'"
            )
    if not convolutions:
        name = workload.layers[0].name if workload.layers else ""
        raise MappingError(
            f"layer '{name}': SpikeSim's script prices convolutions only, and none is here; use fidelity = 'trace'"
        )
    warnings = []
    if left:
        warnings.append(f"SpikeSim's script knows no pools and no sums: {', '.join(left)} cost nothing")
    return replace(workload, layers=layers, warnings=(*workload.warnings, *warnings))


def _positions(workload: Workload, layer: Layer, arch: SpikesimArch) -> int:
    """Output positions of a convolution: behind its pool as the tool is told them, unless that is corrected."""
    for pool in workload.layers if not layer.branches else ():  # layers whose sums meet are told the same map
        if arch.pooled_maps and pool.kind.endswith("pool2d") and pool.inputs == (layer.name,):
            return pool.P * pool.Q
    return layer.P * layer.Q


def _convolutions(layers: abc.Sequence[Layer]) -> list[Layer]:
    return [layer for layer in layers if layer.kind == "conv2d"]


def tool_pes(layers: abc.Sequence[Layer], arch: SpikesimArch) -> list[int]:
    """PEs per convolution: ceil(C / X) ceil(K / X)."""
    return [-(-layer.C // arch.size) * -(-layer.K // arch.size) for layer in _convolutions(layers)]


def tool_kernel(layers: abc.Sequence[Layer]) -> int:
    """Side of the one kernel of all convolutions."""
    return _convolutions(layers)[0].R


def tool_words(workload: Workload, layers: abc.Sequence[Layer], arch: SpikesimArch) -> tuple[int, int]:
    """Words of memory: inputs of all convolutions; membranes of the first five, or of all if that is corrected."""
    convolutions = _convolutions(layers)
    kept = convolutions[:FIVE] if arch.five_layers else convolutions
    inputs = sum(layer.C * layer.H * layer.W for layer in convolutions)
    return inputs, sum(layer.K * _positions(workload, layer, arch) for layer in kept)


def tool_warnings(layers: abc.Sequence[Layer], arch: SpikesimArch) -> abc.Iterator[str]:
    """What the script leaves out, what it knows nothing of, and where it would have stopped."""
    yield from joined_notes(layers)
    linear = [layer.name for layer in layers if layer.kind == "linear"]
    if linear:
        yield f"SpikeSim's script knows no linear layers: {', '.join(linear)} cost nothing"
    for _, why in tool_stops(layers, arch):
        yield why


def tool_stops(layers: abc.Sequence[Layer], arch: SpikesimArch) -> abc.Iterator[tuple[str, str]]:
    """(Layer, what the script does there) where it ends in an error or never.

    Its latency divides C K by X^2 without rounding up, so that layers must not shrink within a PE either.
    """
    convolutions, pes = _convolutions(layers), tool_pes(layers, arch)
    if len(convolutions) > TWELVE:
        yield (
            convolutions[TWELVE].name,
            f"SpikeSim's script ends with an IndexError in its latency at more than {TWELVE} layers (here {len(convolutions)})",
        )
    for (one, two), (earlier, later) in zip(pairwise(convolutions), pairwise(pes), strict=True):
        if later < earlier:
            yield (
                two.name,
                "SpikeSim's script asks to check the layer order and stops where a layer needs fewer PEs than the one before "
                f"{pes}",
            )
            break
        if one.C * one.K > two.C * two.K:
            yield (
                two.name,
                "SpikeSim's script asks to check the layer order and gives no latency where a layer has fewer weights than the "
                f"one before ({two.name}: C K = {two.C * two.K} after {one.C * one.K})",
            )
            break
    if all(arch.size**2 > layer.C * layer.K for layer in convolutions):
        yield convolutions[-1].name, "SpikeSim's script never ends on this network: every layer fits one crossbar"


def tool_counts(workload: Workload, layers: abc.Sequence[Layer], arch: SpikesimArch) -> Counts:
    """Counts of the script, times the samples.

    A PE cycle per output position, step and PE. In each: k^2 b crossbar reads and b^2 conversions with b = X / 8 (8 and X where
    size_blind is corrected), 16 b subtractions, b accesses of the temporary buffer, one of the tile buffer, H-tree, memory and
    neurons. Latency: 26 cycles times floor(0.75 E^2 K) T for every layer but the last, E^2 K T for that one.
    """
    b = arch.adcs
    phases = b if arch.size_blind else PHASES
    convolutions = _convolutions(layers)
    pes = dict(zip([layer.name for layer in convolutions], tool_pes(layers, arch), strict=True))
    total = Counts(expected=True)
    for layer in layers:
        name, T, N = layer.name, layer.num_steps, layer.num_samples
        actions = {(name, "crossbar", "synop"): layer.synops}
        cycles = 0
        if name in pes:
            positions = _positions(workload, layer, arch)
            n = positions * pes[name] * T * N
            done = {
                ("crossbar", "read"): layer.R * layer.S * phases * n,
                ("adc", "convert"): phases * b * n,
                ("mux", "select"): phases * b * n,
                ("subtractor", "subtract"): 16 * b * n,
                ("temp_buffer", "access"): b * n,
                ("tile_buffer", "read"): n,
                ("htree", "transfer"): n,
                ("memory", "fetch"): n,
                ("neuron", "update"): n,
            }
            actions |= {(name, *key): value for key, value in done.items()}
            work = positions * (layer.K if arch.neuron_cycles else 1)
            if layer is not convolutions[-1]:
                work = work * arch.handover // 100
            cycles = work * T * N * arch.pe_clocks
        total = total.then(Counts(actions, {name: cycles}, cycles, _statistics(layer, arch, pes.get(name, 0))))
    return total


def _statistics(layer: Layer, arch: SpikesimArch, pes: int) -> dict[tuple[str, str], int]:
    if not pes:
        return {}
    rows, cols = -(-layer.C // arch.size) * arch.size, -(-layer.K // arch.size) * arch.size
    found = {"rows": layer.C, "rows_of": rows, "columns": layer.K, "columns_of": cols, "weights": layer.num_weights,
             "weights_of": layer.R * layer.S * rows * cols}  # fmt: skip
    return {(layer.name, key): value for key, value in found.items()}
