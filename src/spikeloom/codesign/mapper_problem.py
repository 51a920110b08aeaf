"""A workload on a many-core machine as the mapper's problem: its groups of neurons, who feeds whom, unit costs and limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from spikeloom.codesign.mapper_costs import PORT, Edge, Group, Prices, Problem, Ticks
from spikeloom.codesign.mapper_moves import Divisions, Limits
from spikeloom.components import load_table
from spikeloom.core.placement import Placement
from spikeloom.core.report import Report
from spikeloom.core.workload import Layer, Workload
from spikeloom.cost import standing, unit_prices
from spikeloom.hw import fit
from spikeloom.hw.fan import Fan, fan, source_owners
from spikeloom.hw.loihi import core_limits
from spikeloom.hw.loihi_arch import LoihiArch
from spikeloom.hw.loihi_events import Counter
from spikeloom.hw.loihi_groups import INPUT_KIND, Chart, chart_of, run_of
from spikeloom.hw.loihi_plan import plan_of

#: What messages pay; what else a report holds no mapping changes.
NETWORK = ("axon", "router", "link")


def problem_of(workload: Workload, arch: LoihiArch, placement: Placement, *, rest: Report | None = None) -> Problem:
    """The problem of a workload.

    placement: any one of the workload. rest: a report under any mapping, for the energy that no mapping changes.

    Raises:
        MappingError: as the machine.
    """
    chart = chart_of(run_of(workload, arch), arch)
    number = {}  # of a chart's group among those with neurons
    for g, group in enumerate(chart.groups):
        number[g] = PORT if group.port else len([x for x in chart.groups[:g] if not x.port])
    layers = {layer.name: layer for layer in chart.workload.layers}
    edges = _edges(chart, number, layers, arch)
    counter = Counter(chart, plan_of(chart, placement, arch), arch)
    groups = tuple(_group(chart, g, counter) for g, group in enumerate(chart.groups) if not group.port)
    steps = chart.num_steps * workload.num_samples
    memory = partial(_memory_bits, layers, core_limits(arch))
    return Problem(groups, edges, steps, _ticks(arch), _prices(arch, rest), arch.mesh, memory)


def _group(chart: Chart, number: int, counter: Counter) -> Group:
    group = chart.groups[number]
    step_S, neuron_S = _spikes(chart, number)
    return Group(group.name, group.shape_KPQ, step_S, neuron_S, _updated(chart, number, counter))


def _spikes(chart: Chart, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Step (over all samples, in chip time) and neuron of every spike of a group, by step; int64."""
    group = chart.groups[number]
    if group.out is None:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    step, sample, neuron = np.nonzero(
        group.out.unpack().reshape(group.out.num_steps, group.out.num_samples, group.size)
    )
    chip_step = sample * chart.num_steps + step + group.depth
    order = np.argsort(chip_step, kind="stable")
    return chip_step[order].astype(np.int64), neuron[order].astype(np.int64)


def _edges(chart: Chart, number: Mapping[int, int], layers: Mapping[str, Layer], arch: LoihiArch) -> tuple[Edge, ...]:
    """All edges of a chart; those of one group that hear the same neurons, or the same port, know each other. number: of a chart's group."""
    edges: list[Edge] = []
    together: dict[tuple[int, int], list[int]] = {}
    for source, name in chart.edges:
        target = chart.group_of[name]
        together.setdefault((source, target), []).append(len(edges))
        edges.append(_edge(chart, source, number[source], number[target], layers[name], arch))
    for (source, _), twins in together.items():
        if len(twins) > 1:
            for e, edge in zip(twins, _twins(chart, source, twins, [edges[e] for e in twins]), strict=True):
                edges[e] = edge
    return tuple(edges)


def _twins(chart: Chart, source: int, numbers: Sequence[int], edges: Sequence[Edge]) -> list[Edge]:
    """Edges between the same two groups with cells in common: each is one combination of cells of their layers."""
    own_EF, cell_N = np.unique(np.stack([edge.cell_N for edge in edges], axis=1), axis=0, return_inverse=True)
    cell_N = cell_N.reshape(-1)
    step_S, neuron_S = _spikes(chart, source)
    events_TE = np.zeros((len(edges[0].events_TE), len(own_EF)))
    np.add.at(events_TE, (step_S, cell_N[neuron_S]), 1.0)
    return [
        replace(edge, cell_N=cell_N, events_TE=events_TE, twins=tuple(numbers[:f]), own_E=own_EF[:, f])
        for f, edge in enumerate(edges)
    ]


def _edge(chart: Chart, source: int, number: int, target: int, layer: Layer, arch: LoihiArch) -> Edge:
    group = chart.groups[source]
    index_CHW = source_owners(layer, np.arange(group.size, dtype=np.int64).reshape(group.shape_KPQ))
    made = partial(fan, layer, zero_weights=arch.zero_weights)
    one_core = made(np.zeros((layer.K, layer.P, layer.Q), np.int32))
    pixels = layer.H * layer.W
    cell_CHW = one_core.class_C[:, None, None].astype(np.int64) * pixels + np.arange(pixels).reshape(layer.H, layer.W)
    cell_N = np.full(group.size, -1, np.int64)
    cell_N[index_CHW.reshape(-1)] = cell_CHW.reshape(-1)
    step_S, neuron_S = _spikes(chart, source)
    heard = cell_N[neuron_S] >= 0
    steps = chart.num_steps * chart.workload.num_samples
    events_TE = np.zeros((steps, one_core.targets_MAHW[0].size))
    np.add.at(events_TE, (step_S[heard], cell_N[neuron_S[heard]]), 1.0)
    fired_N = np.bincount(neuron_S, minlength=group.size).astype(np.int64)
    return Edge(layer.name, number, target, fired_N, cell_N, events_TE, made, arch.synapse_ticks(layer.name))


def _updated(chart: Chart, number: int, counter: Counter) -> np.ndarray:
    """Where a neuron of a group is updated, packed over the steps of all samples in chip time; uint8 (ceil(T/8), neurons)."""
    group = chart.groups[number]
    work = chart.workload
    found = np.zeros((work.num_samples, chart.num_steps, group.size), np.uint8)
    for n in range(work.num_samples):
        packed_BN: np.ndarray = counter.updated(group, n)
        if counter.layers[group.name].kind == INPUT_KIND:  # is updated where it fires
            assert group.out is not None
            packed_BN = group.out.packed[:, n].reshape(len(packed_BN), -1)
        bits_TN = np.unpackbits(packed_BN, axis=0, count=work.num_steps, bitorder="little")
        found[n, group.depth : group.depth + work.num_steps] = bits_TN
    return np.packbits(found.reshape(-1, group.size), axis=0, bitorder="little")


def _ticks(arch: LoihiArch) -> Ticks:
    tiles = arch.mesh.num_cores // arch.mesh.cores_per_tile
    spent = arch.ticks
    sync = (0, *(arch.barrier_ticks(n) for n in range(1, tiles + 1)))
    return Ticks(spent["access"], spent["update"], spent["spike_out"], spent["axon_out"], spent["axon_in"], sync)


def _prices(arch: LoihiArch, rest: Report | None) -> Prices:
    table = load_table(arch.table)
    actions = [("axon", "out"), ("axon", "in"), ("router", "hop_x"), ("router", "hop_y")]
    actions += [("link", "message")] * (arch.chips > 1)
    joules, _ = unit_prices(actions, arch, table)
    watts, _, _ = standing(arch.inventory(), table.leakage, "leakage")
    fixed = 0.0 if rest is None else sum(j for key, j in rest.by("action").items() if _is_fixed(key))
    return Prices(
        joules["axon", "out"] + joules["axon", "in"],
        joules["router", "hop_x"],
        joules["router", "hop_y"],
        joules.get(("link", "message"), 0.0),
        fixed,
        sum(watts.values()),
        arch.clock,
    )


def _is_fixed(key: str) -> bool:
    instance, _, action = key.partition(".")
    return instance not in NETWORK and action != "leakage"


def room_of(problem: Problem, arch: LoihiArch, given: Divisions | None) -> Limits:
    """What the cores of a mapping may hold: their limits; where a machine only warns, as much as the fullest core of the given mapping if that is more."""
    held = core_limits(arch)
    kept = Limits(held.cores, held.compartments, held.synapse_memory_bit, held.in_axons, held.out_axons)
    if arch.limits == "refuse" or given is None:
        return kept
    needs = [problem.needs(g, split) for g, split in enumerate(given)]
    return Limits(
        kept.cores,
        max(kept.compartments, *(int(need.neurons_M.max()) for need in needs)),
        max(kept.synapse_bits, *(int(need.synapse_bits_M.max()) for need in needs)),
        max(kept.in_axons, *(int(need.in_axons_M.max()) for need in needs)),
        max(kept.out_axons, *(int(problem.out_axons_M(g, given).max()) for g in range(len(given)))),
    )


def _memory_bits(
    layers: Mapping[str, Layer], limits: fit.Limits, owner_KPQ: np.ndarray, fans: Mapping[str, Fan]
) -> np.ndarray:
    """Bits of synapse memory of each part of a group."""
    bits_M = np.zeros(int(owner_KPQ.max()) + 1, np.int64)
    for name, found in fans.items():
        held = fit.needs([layers[name]], {name: owner_KPQ}, limits, {name: found})
        bits_M += held.of("synapse_memory")
    return bits_M
