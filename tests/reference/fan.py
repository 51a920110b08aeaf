"""The fan of a layer over cores, synapse by synapse; shares nothing with the package."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Synapse = tuple[tuple[int, int, int], tuple[int, int, int]]


def synapses(layer: Any, zero_weights: str) -> Iterator[Synapse]:
    """Every synapse as (input neuron (c, h, w), output neuron (k, p, q))."""
    inner, outer = layer.C // layer.groups, layer.K // layer.groups
    for k in range(layer.K):
        for p in range(layer.P):
            for q in range(layer.Q):
                for i in range(inner):
                    for r in range(layer.R):
                        for s in range(layer.S):
                            h = p * layer.stride[0] + r * layer.dilation[0] - layer.padding[0]
                            w = q * layer.stride[1] + s * layer.dilation[1] - layer.padding[1]
                            if not (0 <= h < layer.H and 0 <= w < layer.W):
                                continue
                            if zero_weights == "skipped" and layer.weight[k, i, r, s] == 0:
                                continue
                            yield (k // outer * inner + i, h, w), (k, p, q)


def targets(layer: Any, owner: Any, zero_weights: str) -> dict[tuple[int, int, int, int], int]:
    """Number of synapses by (core, c, h, w); what is 0 is not there."""
    found: dict[tuple[int, int, int, int], int] = {}
    for source, (k, p, q) in synapses(layer, zero_weights):
        key = (int(owner[k][p][q]), *source)
        found[key] = found.get(key, 0) + 1
    return found


def core_needs(
    layers: Any, owners: dict[str, Any], storage: str, synapse_bit: int, zero_weights: str, wiring: Any = None
) -> dict[str, dict[int, int]]:
    """What each core has to hold, by limit and core, from lists and sets of neurons and synapses; memory in bits.

    layers: each hears the layers in ``inputs``, or the placed (or absent) "input"; a wiring says otherwise.
    """
    cores = sorted({int(core) for owner in owners.values() for core in owner.ravel()})
    compartments, memory = dict.fromkeys(cores, 0), dict.fromkeys(cores, 0)
    arriving: set[tuple[int, str, int]] = set()  # (core, source, neuron)
    leaving: set[tuple[int, str, int, int]] = set()  # (core, source, neuron, core)
    for owner in owners.values():
        for core in owner.ravel():
            compartments[int(core)] += 1
    for layer in layers:
        owner = owners[wiring.neurons[layer.name] if wiring else layer.name]
        sources = wiring.sources[layer.name] if wiring else layer.inputs or ("input",)
        bits = synapse_bit or layer.weight_bits
        for source in sources:
            in_front = owners.get(source)
            flat = in_front is None or in_front.size == layer.C * layer.H * layer.W
            rows, cols = (layer.H, layer.W) if flat else in_front.shape[1:]
            for (c, h, w), place in synapses(layer, zero_weights):
                core, neuron = int(owner[place]), (c * rows + h) * cols + w
                memory[core] += bits if storage == "unrolled" else 0
                arriving.add((core, source, neuron))
                if in_front is not None:
                    leaving.add((int(in_front.ravel()[neuron]), source, neuron, core))
        if storage == "shared" and sources:
            rows, cols = layer.stored_kernel or (layer.R, layer.S)
            for core in cores:
                for k in range(layer.K):
                    if core not in owner[k]:
                        continue
                    for i in range(layer.C // layer.groups):
                        for r in range(rows):
                            for s in range(cols):
                                weight = layer.weight[k, i, r * (layer.R // rows), s * (layer.S // cols)]
                                memory[core] += bits if zero_weights == "stored" or weight != 0 else 0
    return {
        "compartments": compartments,
        "synapse_memory": memory,
        "in_axons": {core: sum(core == other for other, *_ in arriving) for core in cores},
        "out_axons": {core: sum(core == other for other, *_ in leaving) for core in cores},
    }
