"""The counts of the many-core chip are those of loops over spikes and synapses, on random layers, placements and spikes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloom.core.arch import Mapping
from spikeloom.core.placement import Place, Placement
from spikeloom.core.trace import Spikes
from spikeloom.core.workload import Layer, NeuronRule, Workload
from spikeloom.hw import HARDWARE
from spikeloom.hw.loihi_arch import LoihiArch

from ..reference.fan import synapses
from .test_fan import a_layer, layers

T, N = 9, 2
TICKS = {"access": 60, "update": 37, "spike_out": 300, "axon_out": 51, "axon_in": 160, "synapse": 38}
BARRIERS = ((1, 6000), (2, 10000), (4, 14000), (29, 18000))


@st.composite
def networks(draw: st.DrawFn) -> Workload:
    """Spikes from outside -> b, a convolution, and c, a linear layer on the same map; b -> d, a linear layer. Updates of some."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rate = draw(st.sampled_from((0.0, 0.05, 0.3, 1.0)))

    def drawn(*shape: int) -> Spikes:
        return Spikes.pack(rng.random((T, N, *shape)) < rate)

    b = replace(draw(layers()), name="b")
    first, sent = drawn(b.C, b.H, b.W), drawn(b.K, b.P, b.Q)
    flat_C, flat_D = b.C * b.H * b.W, b.K * b.P * b.Q
    c = a_layer("c", "linear", C=flat_C, K=draw(st.integers(1, 4)), weight=_weight(rng, 3, flat_C))
    d = a_layer("d", "linear", C=flat_D, K=draw(st.integers(1, 4)), weight=_weight(rng, 2, flat_D))
    c, d = (replace(x, weight=np.resize(x.weight, (x.K, x.C, 1, 1))) for x in (c, d))  # type: ignore[type-var]
    made = [
        replace(b, arrival=first, out=sent),
        replace(c, arrival=first.reshape((flat_C, 1, 1))),
        replace(d, arrival=sent.reshape((flat_D, 1, 1)), inputs=("b",), out=drawn(d.K, 1, 1)),
    ]
    for i, layer in enumerate(made):
        kind = "li" if layer.name == "c" else "if"
        updates = drawn(layer.K, layer.P, layer.Q) if draw(st.booleans()) else None
        values = rng.integers(-1, 2, draw(st.sampled_from(((layer.K, 1, 1), (layer.K, layer.P, layer.Q)))))
        bias = draw(st.sampled_from((None, values)))
        has_bias = draw(st.integers(0, 4)) == 0
        made[i] = replace(
            layer, neuron=NeuronRule(kind), updates=updates, has_bias=has_bias, bias=bias if has_bias else None
        )
    return Workload(tuple(made), T, N, delay=draw(st.integers(0, 1)))


def _weight(rng: np.random.Generator, K: int, C: int) -> np.ndarray:
    return rng.integers(0, 2, (K, C, 1, 1)).astype(np.int8)


def placed(layer: Layer, cores: np.ndarray, rng: np.random.Generator) -> dict[tuple[int, int, int], int]:
    """A core for every neuron, anywhere."""
    return {place: int(rng.choice(cores)) for place in np.ndindex(layer.K, layer.P, layer.Q)}


class Loops:
    """Everything the chip counts, spike by spike and synapse by synapse."""

    def __init__(self, work: Workload, owners: dict[str, dict[tuple[int, int, int], int]], arch: LoihiArch) -> None:
        self.work, self.owners, self.arch = work, owners, arch
        self.layers = {layer.name: layer for layer in work.layers}
        self.wires: dict[str, dict[tuple[int, int, int], list[tuple[int, int, int]]]] = {}
        for layer in work.layers:
            found: dict[tuple[int, int, int], list[tuple[int, int, int]]] = {}
            for source, target in synapses(layer, arch.zero_weights):
                found.setdefault(source, []).append(target)
            self.wires[layer.name] = found
        self.actions: Counter[tuple[str, str, str]] = Counter()
        self.shift = arch.delay != "recorded" and work.delay == 0
        self.depth = {"in": 0, "b": 1, "c": 1, "d": 2} if self.shift else dict.fromkeys(["in", "b", "c", "d"], 0)
        self.steps = T + (2 if self.shift else 0)
        self.cycles = sum(self._sample(n) for n in range(N))

    def _sample(self, n: int) -> int:
        generate = [Counter[int]() for _ in range(self.steps)]
        receive = [Counter[int]() for _ in range(self.steps)]
        first = self.layers["b"].arrival
        assert isinstance(first, Spikes)
        self._spikes("in", "b", first, ("b", "c"), n, generate, receive)
        for name, layer in self.layers.items():
            owner = self.owners[name]
            self.actions[name, "soma", "access"] += len(owner) * self.steps
            for t in range(self.steps):
                for core in owner.values():
                    generate[t][core] += TICKS["access"]
            for t, place in self._updated(layer, n):
                self.actions[name, "soma", "update"] += 1
                generate[t + self.depth[name]][owner[place]] += TICKS["update"]
            if layer.out is not None:
                self._spikes(name, name, layer.out, ("d",) if name == "b" else (), n, generate, receive)
        tiles = len({core // 4 for owner in self.owners.values() for core in owner.values()})
        barrier = max(ticks for least, ticks in BARRIERS if tiles >= least)
        return sum(max(*g.values(), *r.values(), 0) + barrier for g, r in zip(generate, receive, strict=True))

    def _updated(self, layer: Layer, n: int) -> set[tuple[int, tuple[int, ...]]]:
        if layer.updates is not None:
            return {(t, (k, p, q)) for t, k, p, q in np.argwhere(layer.updates.unpack()[:, n]).tolist()}
        assert isinstance(layer.arrival, Spikes)
        arrived = np.argwhere(layer.arrival.unpack()[:, n]).tolist()
        late = self.work.delay
        hit = {(t + late, j) for t, *i in arrived for j in self.wires[layer.name].get(tuple(i), ())}  # type: ignore[arg-type]
        found = {(t, place) for t, place in hit if t < T}
        if layer.has_bias:  # values that are not known act everywhere
            bias = np.broadcast_to(1 if layer.bias is None else layer.bias, (layer.K, layer.P, layer.Q))
            found |= {(t, place) for t in range(T) for place in self.owners[layer.name] if bias[place] != 0}
        return found

    def _spikes(
        self, group: str, booked: str, sent: Spikes, heard: tuple[str, ...], n: int, generate: Any, receive: Any
    ) -> None:
        for t, *place in np.argwhere(sent.unpack()[:, n]).tolist():
            when = t + self.depth[group]
            core = -1 if group == "in" else self.owners[group][tuple(place)]  # type: ignore[index]
            if group != "in":
                self.actions[booked, "soma", "spike_out"] += 1
                generate[when][core] += TICKS["spike_out"]
            reached: set[int] = set()
            for name in heard:
                layer = self.layers[name]
                index = np.unravel_index(np.ravel_multi_index(place, sent.shape), (layer.C, layer.H, layer.W))
                for target in self.wires[name].get(tuple(int(i) for i in index), ()):  # type: ignore[arg-type]
                    there = self.owners[name][target]
                    self.actions[name, "synapse", "event"] += 1
                    receive[when][there] += TICKS["synapse"]
                    if there not in reached:
                        reached.add(there)
                        self._message(booked, name, max(core, 0) // 4, there // 4)
                        generate[when][core] += TICKS["axon_out"]
                        receive[when][there] += TICKS["axon_in"]

    def _message(self, source: str, target: str, from_tile: int, to_tile: int) -> None:
        self.actions[source, "axon", "out"] += 1
        self.actions[target, "axon", "in"] += 1
        self.actions[source, "router", "hop_x"] += abs(from_tile // 4 - to_tile // 4)
        self.actions[source, "router", "hop_y"] += abs(from_tile % 4 - to_tile % 4)


@settings(deadline=None, max_examples=60)
@given(networks(), st.integers(0, 2**32 - 1), st.sampled_from(("stored", "skipped")), st.booleans())
def test_counts_and_ticks_are_those_of_the_loops(work: Workload, seed: int, zeros: str, as_recorded: bool) -> None:
    rng = np.random.default_rng(seed)
    cores = rng.choice(128, rng.integers(1, 7), replace=False)
    owners = {layer.name: placed(layer, cores, rng) for layer in work.layers}
    places = tuple(
        Place(name, *divmod(core, 4), neurons=(i, i + 1))
        for name, owner in owners.items()
        for i, core in enumerate(owner.values())
    )
    arch = LoihiArch(zero_weights=zeros, delay="recorded" if as_recorded else "auto", limits="warn")
    counts = HARDWARE["loihi"].count(work, arch, Mapping("loihi", placement=Placement(places)), threads=1)
    slow = Loops(work, owners, arch)
    assert {key: n for key, n in counts.actions.items() if n} == {key: n for key, n in slow.actions.items() if n}
    assert counts.cycles == slow.cycles == sum(counts.layer_cycles.values())
    assert counts.statistics["", "steps"] == slow.steps * N
