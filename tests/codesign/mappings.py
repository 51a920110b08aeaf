"""Small networks on a small mesh, and what a mapping of them costs by nested loops over spikes and synapses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from spikeloom.codesign.mapper_costs import Cost, Edge, Group, Prices, Problem, Ticks
from spikeloom.codesign.mapper_divisions import Division
from spikeloom.core.trace import Spikes
from spikeloom.core.workload import Layer
from spikeloom.hw.fan import Fan, fan
from spikeloom.hw.mesh import Mesh

MESH = Mesh(rows=2, columns=3, cores_per_tile=2)
TICKS = Ticks(access=3, update=2, spike_out=11, axon_out=5, axon_in=7, sync=(0, 100, 100, 150, 150, 150, 170))
PRICES = Prices(message=111.0, hop_x=3.0, hop_y=4.2, link=0.0, rest=1000.0, watts=0.5, clock=10.0)
STEPS = 6


def conv(
    C: int, H: int, W: int, K: int, R: int, stride: int, padding: int, groups: int = 1, name: str = "conv"
) -> Layer:
    P, Q = ((size + 2 * padding - R) // stride + 1 for size in (H, W))
    silent = Spikes.pack(np.zeros((1, 1, C, H, W), bool))
    return Layer(
        name, "conv2d", C, K, H, W, R, R, P, Q, silent, (stride, stride), (padding, padding), groups=groups
    )  # fmt: skip


def linear(C: int, K: int, name: str = "linear") -> Layer:
    silent = Spikes.pack(np.zeros((1, 1, C, 1, 1), bool))
    return Layer(name, "linear", C, K, 1, 1, 1, 1, 1, 1, silent)


def problem(
    layers: Sequence[Layer], generator: np.random.Generator, *, rate: float = 0.2, mesh: Mesh = MESH
) -> Problem:
    """A chain of layers with random spikes; the input of the first one is a group too."""
    first = layers[0]
    shapes = [(first.C, first.H, first.W), *((x.K, x.P, x.Q) for x in layers)]
    groups = []
    for g, shape in enumerate(shapes):
        size = int(np.prod(shape))
        fired_TN = generator.random((STEPS, size)) < rate * generator.random(size) * 2
        updated_TN = fired_TN | (generator.random((STEPS, size)) < 0.5)
        step_S, neuron_S = np.nonzero(fired_TN)
        groups.append(Group(f"group{g}", shape, step_S, neuron_S, np.packbits(updated_TN, axis=0, bitorder="little")))
    edges = []
    for g, layer in enumerate(layers):
        cell_N = np.arange(layer.C * layer.H * layer.W)
        channel, pixel = cell_N // (layer.H * layer.W), cell_N % (layer.H * layer.W)
        cell_N = channel // (layer.C // layer.groups) * (layer.H * layer.W) + pixel
        events_TE = np.zeros((STEPS, layer.groups * layer.H * layer.W))
        np.add.at(events_TE, (groups[g].step_S, cell_N[groups[g].neuron_S]), 1.0)
        edges.append(
            Edge(
                layer.name,
                g,
                g + 1,
                groups[g].fired_N,
                cell_N,
                events_TE,
                partial(fan, layer, zero_weights="stored"),
                4 + g,
            )
        )
    return Problem(tuple(groups), tuple(edges), STEPS, TICKS, PRICES, mesh, _memory)


def _memory(owner_KPQ: np.ndarray, fans: Mapping[str, Fan]) -> np.ndarray:
    return 8 * sum((found.synapses_M for found in fans.values()), np.zeros(int(owner_KPQ.max()) + 1, np.int64))


def slow_cost(layers: Sequence[Layer], given: Problem, splits: Sequence[Division], slots_M: np.ndarray) -> Cost:
    """Spike by spike and synapse by synapse."""
    first = np.cumsum([0, *(split.num_cores for split in splits)])
    core_GN = [slots_M[first[g] + split.owner(given.groups[g].shape_KPQ).reshape(-1)] for g, split in enumerate(splits)]
    mesh, ticks, prices = given.mesh, given.ticks, given.prices
    generate = np.zeros((STEPS, mesh.num_cores), np.int64)
    receive = np.zeros((STEPS, mesh.num_cores), np.int64)
    messages = hops_x = hops_y = 0
    updated = [np.unpackbits(group.updated, axis=0, count=STEPS, bitorder="little") for group in given.groups]
    for g, group in enumerate(given.groups):
        for n in range(group.size):
            for t in range(STEPS):
                generate[t, core_GN[g][n]] += ticks.access + ticks.update * int(updated[g][t, n])
        for t, n in zip(group.step_S.tolist(), group.neuron_S.tolist(), strict=True):
            source = int(core_GN[g][n])
            generate[t, source] += ticks.spike_out
            if g == len(layers):
                continue
            met: dict[int, int] = {}
            for target in targets_of(layers[g], n):
                core = int(core_GN[g + 1][target])
                met[core] = met.get(core, 0) + 1
            for core, synapses in met.items():
                messages += 1
                dx, dy = mesh.hops(source, core)
                hops_x, hops_y = hops_x + dx, hops_y + dy
                generate[t, source] += ticks.axon_out
                receive[t, core] += ticks.axon_in + synapses * given.edges[g].synapse_ticks
    tiles = mesh.tiles_used(slots_M)
    total = int(np.maximum(generate, receive).max(axis=1).sum()) + STEPS * ticks.sync[tiles]
    latency = total / prices.clock
    energy = prices.rest + messages * prices.message + hops_x * prices.hop_x + hops_y * prices.hop_y
    return Cost(
        messages, hops_x, hops_y, 0, total, len(slots_M), tiles, energy + prices.watts * latency, latency
    )  # fmt: skip


def targets_of(layer: Layer, n: int) -> list[int]:
    """Target neurons of input neuron n, once per synapse."""
    c, y, x = n // (layer.H * layer.W), n // layer.W % layer.H, n % layer.W
    group, per_group = c // (layer.C // layer.groups), layer.K // layer.groups
    found = []
    for k in range(group * per_group, (group + 1) * per_group):
        for p in range(layer.P):
            for q in range(layer.Q):
                r = y - p * layer.stride[0] + layer.padding[0]
                s = x - q * layer.stride[1] + layer.padding[1]
                if 0 <= r < layer.R and 0 <= s < layer.S:
                    found.append((k * layer.P + p) * layer.Q + q)
    return found
