"""Fit: what each core of a many-core machine would have to hold, against what it can (decision 0033).

Four limits a core. Compartments: its neurons. Synapse memory: the bits of its weights, a convolution's kernels once ("shared") or
once for every synapse ("unrolled"). In-axons: distinct source neurons with a synapse on it. Out-axons: pairs of one of its neurons
and a core with a target of that neuron; two layers on one target core are one pair. And the number of cores itself.

Letters: L layers, M cores, I the limits in the order of `LIMITS`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np

from spikeloom.core.placement import INPUT, Split, split_owners
from spikeloom.core.workload import Layer
from spikeloom.errors import MappingError
from spikeloom.hw.fan import Fan, fan, source_owners, stored_targets

Limit = Literal["compartments", "synapse_memory", "in_axons", "out_axons"]
LIMITS: tuple[Limit, ...] = ("compartments", "synapse_memory", "in_axons", "out_axons")
_SPLITS: tuple[Split, ...] = ("neurons", "channels", "rows")
_UNIT = {"neurons": "neuron", "channels": "channel", "rows": "row"}


@dataclass(frozen=True)
class Limits:
    """What one core holds, and how many cores there are.

    synapse_memory_bit: 16,384 words of 64 bit. storage: "shared" or "unrolled". synapse_bit: bits of a synapse, 0 for the layer's
    weight_bits. zero_weights: "stored", or "skipped" where a weight of 0 is no synapse and takes no memory.
    """

    compartments: int = 1024
    synapse_memory_bit: int = 16_384 * 64
    in_axons: int = 4096
    out_axons: int = 4096
    cores: int = 128
    storage: Literal["shared", "unrolled"] = "shared"
    synapse_bit: int = 0
    zero_weights: Literal["stored", "skipped"] = "stored"

    def of(self, limit: Limit) -> int:
        """The limit itself, memory in bits."""
        return self.synapse_memory_bit if limit == "synapse_memory" else int(getattr(self, limit))

    @property
    def array_I(self) -> np.ndarray:
        """All limits; int64."""
        return np.array([self.of(limit) for limit in LIMITS], np.int64)


@dataclass(frozen=True, eq=False)
class Needs:
    """What a placement asks of every core.

    layers: by name, the placed input with them. cores_M: used cores, ascending. needs_IM: int64, memory in bits. shares_ILM: of each
    layer alone; they add up to the needs, but for axons that two layers have in common. destinations: by layer, the number of cores
    that each of its neurons sends to, shape (K, P, Q).
    """

    layers: tuple[str, ...]
    cores_M: np.ndarray
    needs_IM: np.ndarray
    shares_ILM: np.ndarray
    destinations: Mapping[str, np.ndarray]

    def of(self, limit: Limit) -> np.ndarray:
        """One need of every core; int64, shape (M,)."""
        return np.asarray(self.needs_IM[LIMITS.index(limit)])


@dataclass(frozen=True)
class Finding:
    """A limit that a placement breaks. need: of the core that needs most. cores: how many cores are over the limit."""

    layer: str
    limit: Limit | Literal["cores"]
    need: int
    allowed: int
    cores: int
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Wiring:
    """Who sends to whom and which neurons are reached, where the layers alone do not say so.

    sources: by layer, under which names the neurons that send to it are owned. A name without owners is off the machine; a layer without
    sources (its input is a bias) has no synapse. neurons: by layer, under which name the neurons that its sums reach are owned.
    maps: (K, P, Q) of sources without owners; without it the largest map that a layer hears from there.
    """

    sources: Mapping[str, tuple[str, ...]]
    neurons: Mapping[str, str]
    maps: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)

    @staticmethod
    def of(layers: Sequence[Layer]) -> Wiring:
        """As the layers say: each has neurons, and hears its inputs or else the input of the network."""
        return Wiring({x.name: x.inputs or (INPUT,) for x in layers}, {x.name: x.name for x in layers})

    def heard(self, layers: Sequence[Layer]) -> dict[str, list[Layer]]:
        """Layers by the source they hear."""
        found: dict[str, list[Layer]] = {}
        for layer in layers:
            for source in self.sources[layer.name]:
                found.setdefault(source, []).append(layer)
        return found


def layer_fans(
    layers: Sequence[Layer], owners: Mapping[str, np.ndarray], zero_weights: str, wiring: Wiring | None = None
) -> dict[str, Fan]:
    """The fan of every layer, by name. Raises MappingError for a layer without cores."""
    neurons = (wiring or Wiring.of(layers)).neurons
    if missing := [layer.name for layer in layers if neurons[layer.name] not in owners]:
        raise MappingError(f"no neuron of layer '{missing[0]}' is on a core; place {', '.join(missing)}")
    return {layer.name: fan(layer, owners[neurons[layer.name]], zero_weights=zero_weights) for layer in layers}


def needs(
    layers: Sequence[Layer],
    owners: Mapping[str, np.ndarray],
    limits: Limits,
    fans: Mapping[str, Fan],
    wiring: Wiring | None = None,
) -> Needs:
    """What the cores have to hold.

    Args:
        layers: with synapses, as the machine runs them (pools folded).
        owners: core of every neuron by layer, and under `INPUT` of the input where it is on the machine.
        limits: says how synapses are stored.
        fans: from `layer_fans`.
        wiring: as the layers say where it is left out.
    """
    wiring = wiring or Wiring.of(layers)
    names = tuple(owners)
    cores_M = np.unique(np.concatenate([np.unique(owner) for owner in owners.values()])).astype(np.int32)
    shares_ILM = np.zeros((len(LIMITS), len(names), cores_M.size), np.int64)
    for n, owner_KPQ in enumerate(owners.values()):
        shares_ILM[0, n] = np.bincount(np.searchsorted(cores_M, owner_KPQ.ravel()), minlength=cores_M.size)
    for layer in layers:
        found, name, times = fans[layer.name], wiring.neurons[layer.name], len(wiring.sources[layer.name])
        where = np.searchsorted(cores_M, found.cores_M)
        share_IM = shares_ILM[:, names.index(name)]
        if times:
            share_IM[1, where] += _memory(layer, owners[name], found, limits, times)
        share_IM[2, where] += found.inputs_M * times
    totals_IM = shares_ILM.sum(axis=1)
    destinations = {}
    for source, heard in wiring.heard(layers).items():
        if source not in owners and len(heard) == 1:
            continue
        widest = max(heard, key=lambda layer: layer.C * layer.H * layer.W)
        off_machine = wiring.maps.get(source, (widest.C, widest.H, widest.W))
        shape = owners[source].shape if source in owners else off_machine
        twice_M, number_KPQ = _shared_axons(heard, fans, shape)
        for core, number in twice_M.items():
            totals_IM[2, np.searchsorted(cores_M, core)] -= number
        if source in owners:
            destinations[source] = number_KPQ
            place = np.searchsorted(cores_M, owners[source].ravel())
            np.add.at(shares_ILM[3, names.index(source)], place, number_KPQ.ravel())
    totals_IM[3] = shares_ILM[3].sum(axis=0)
    return Needs(names, cores_M, totals_IM, shares_ILM, destinations)


def check_fit(
    layers: Sequence[Layer],
    owners: Mapping[str, np.ndarray],
    limits: Limits,
    *,
    fans: Mapping[str, Fan] | None = None,
    splits: Mapping[str, Split] | None = None,
    wiring: Wiring | None = None,
) -> tuple[Finding, ...]:
    """Every limit that a placement breaks, layer by layer; a core that several layers share is put down to the one that needs most.

    Args:
        layers, owners, limits, wiring: as in `needs`.
        fans: from `layer_fans`, where they are known already.
        splits: how each layer is split when a smaller share is proposed; by neurons where nothing is said.

    Raises:
        MappingError: a layer without cores.
    """
    wiring = wiring or Wiring.of(layers)
    fans = layer_fans(layers, owners, limits.zero_weights, wiring) if fans is None else fans
    held = needs(layers, owners, limits, fans, wiring)
    findings = list(_too_many_cores(held, limits))
    advices = {}
    known = replace(wiring, maps={**wiring.maps, **{name: owner.shape for name, owner in owners.items()}})
    for name in held.layers:
        members = tuple(layer for layer in layers if wiring.neurons[layer.name] == name)
        others = [layer for layer in wiring.heard(layers).get(name, ()) if layer not in members]
        sent_KPQ = _shared_axons(others, fans, owners[name].shape)[1] if others else None
        advices[name] = _Advice(name, members, owners[name].shape, limits, sent_KPQ, known)
    over_IM = held.needs_IM > limits.array_I[:, None]
    for i, limit in enumerate(LIMITS):
        blamed_M = held.shares_ILM[i].argmax(axis=0)
        for n, name in enumerate(held.layers):
            if not (mine_M := over_IM[i] & (blamed_M == n)).any():
                continue
            worst = int(np.where(mine_M, held.needs_IM[i], -1).argmax())
            text = _sentence(
                name, limit, held, i, worst, int(mine_M.sum()), limits, len(np.unique(owners[name])),
            ) + advices[name].text(limit, (splits or {}).get(name, "neurons"))  # fmt: skip
            findings.append(
                Finding(name, limit, int(held.needs_IM[i, worst]), limits.of(limit), int(mine_M.sum()), text)
            )
    return tuple(findings)


def smallest_split(
    layer: Layer,
    limits: Limits,
    split: Split,
    *,
    destinations_KPQ: np.ndarray | None = None,
    keep: Sequence[Limit] = LIMITS,
) -> int | None:
    """The least number of cores over which a layer, split evenly, keeps its limits, or None; cores of its own are assumed.

    destinations_KPQ: number of cores that each neuron sends to in other layers; none where nobody listens. keep: limits to keep.
    """
    shape, wiring = (layer.K, layer.P, layer.Q), Wiring.of((layer,))
    return _Advice(layer.name, (layer,), shape, limits, destinations_KPQ, wiring).smallest(split, keep)


def _shared_axons(
    heard: Sequence[Layer], fans: Mapping[str, Fan], shape: tuple[int, ...]
) -> tuple[dict[int, int], np.ndarray]:
    """Of one source: axons that several layers on a core have in common, by core, and the cores that each neuron sends to, (K, P, Q)."""
    index_KPQ = np.arange(int(np.prod(shape))).reshape(shape)
    number = np.zeros(index_KPQ.size, np.int64)
    twice: dict[int, int] = {}
    places = [source_owners(layer, index_KPQ).ravel() for layer in heard]
    for layer, place in zip(heard, places, strict=True):
        number[place] += fans[layer.name].destinations_CHW().ravel()
    cores, uses = np.unique(np.concatenate([fans[layer.name].cores_M for layer in heard]), return_counts=True)
    for core in cores[uses > 1].tolist():
        times = np.zeros(index_KPQ.size, np.int64)
        for layer, place in zip(heard, places, strict=True):
            found = fans[layer.name]
            if (m := np.flatnonzero(found.cores_M == core)).size:
                times[place] += ((found.targets_MAHW[m[0]] > 0)[found.class_C]).ravel()
        again = np.maximum(times - 1, 0)
        number -= again
        twice[core] = int(again.sum())
    return twice, number.reshape(shape)


def stored_weights_K(layer: Layer, zero_weights: str) -> np.ndarray:
    """Weights kept for each output channel: C/groups * R * S as stored, less those of 0 where they are skipped; int64, (K,)."""
    rows, cols = layer.stored_extent
    if zero_weights == "skipped" and layer.weight is not None:
        a, b = layer.R // rows, layer.S // cols
        return np.asarray(np.count_nonzero(layer.weight[:, :, ::a, ::b], axis=(1, 2, 3)).astype(np.int64))
    return np.full(layer.K, layer.C // layer.groups * rows * cols, np.int64)


def _memory(layer: Layer, owner_KPQ: np.ndarray, found: Fan, limits: Limits, times: int) -> np.ndarray:
    """Bits of synapse memory on each of the layer's cores; int64, (M,). times: sources with a synapse of their own."""
    bits = limits.synapse_bit or layer.weight_bits
    if limits.storage == "unrolled":
        return found.synapses_M * times * bits
    index_KPQ = np.searchsorted(found.cores_M, owner_KPQ)
    holds_MK = np.zeros((found.cores_M.size, layer.K), bool)
    holds_MK[index_KPQ, np.arange(layer.K)[:, None, None]] = True
    return np.asarray(holds_MK @ stored_weights_K(layer, limits.zero_weights) * bits)


def _most_synapses(layer: Layer, zero_weights: str) -> int:
    """Synapses of the neuron that has most, which are as many sources; what reaches into the padding is none."""
    inside = []
    for d, (out, kernel, size) in enumerate(((layer.P, layer.R, layer.H), (layer.Q, layer.S, layer.W))):
        at = np.arange(out)[:, None] * layer.stride[d] + np.arange(kernel) * layer.dilation[d] - layer.padding[d]
        inside.append(((at >= 0) & (at < size)).astype(np.int64))
    if zero_weights == "skipped" and layer.weight is not None:
        nonzero_KRS = np.count_nonzero(layer.weight, axis=1)
        return int((inside[0] @ nonzero_KRS @ inside[1].T).max())
    return int(inside[0].sum(axis=1).max() * inside[1].sum(axis=1).max()) * (layer.C // layer.groups)


def _too_many_cores(held: Needs, limits: Limits) -> Iterator[Finding]:
    used, last = held.cores_M.size, int(held.cores_M[-1]) + 1
    if last > limits.cores:
        which = f"{used:,} cores" if used > limits.cores else f"cores up to number {last - 1:,}"
        text = f"the placement takes {which}, the machine has {limits.cores:,}, numbered from 0; take fewer cores a layer or more chips"
        yield Finding("", "cores", max(used, last), limits.cores, used, text)


def _amount(limit: Limit, number: int) -> str:
    """A need or a limit in words."""
    if limit == "synapse_memory":
        return f"{_number(limit, number)} of synapse memory"
    name = limit.replace("_", "-")
    return f"{_number(limit, number)} {name.removesuffix('s') if number == 1 else name}"


def _number(limit: Limit, number: int) -> str:
    """A need or a limit as a number: memory in bytes, begun ones included."""
    return f"{-(-number // 8):,} B" if limit == "synapse_memory" else f"{number:,}"


def _cores(number: int) -> str:
    return f"{number:,} core{'s' * (number != 1)}"


_MEANING: dict[Limit, str] = {
    "compartments": "neurons",
    "synapse_memory": "weights",
    "in_axons": "distinct source neurons",
    "out_axons": "pairs of a neuron and a core it sends to",
}


def _sentence(name: str, limit: Limit, held: Needs, i: int, worst: int, over: int, limits: Limits, cores: int) -> str:
    """What is too much, where and by how much."""
    need, share = int(held.needs_IM[i, worst]), int(held.shares_ILM[i, held.layers.index(name), worst])
    others = [held.layers[n] for n in np.flatnonzero(held.shares_ILM[0, :, worst]) if held.layers[n] != name]
    with_others = (
        f", with {', '.join(others)} on it (the layer's own: {_number(limit, share)})"
        if others and share < need
        else ""
    )
    allowed = _amount(limit, limits.of(limit))
    return (
        f"layer '{name}': {_amount(limit, need)} ({_MEANING[limit]}) on core {held.cores_M[worst]}{with_others}, a core has {allowed}; "
        f"{over} of {_cores(cores)} over; "
    )


@dataclass(frozen=True, eq=False)
class _Advice:
    """How many cores the neurons of a layer would need.

    members: layers whose sums reach them, none for the input. destinations_KPQ: number of cores that each neuron sends to in other
    layers, which stay where they are; to members it sends wherever the split puts them.
    """

    name: str
    members: tuple[Layer, ...]
    shape_KPQ: tuple[int, ...]
    limits: Limits
    destinations_KPQ: np.ndarray | None
    wiring: Wiring
    _found: dict[tuple[Split, tuple[Limit, ...]], int | None] = field(default_factory=dict)

    def text(self, limit: Limit, split: Split) -> str:
        """The smallest split, or why there is none."""
        if (cores := self.smallest(split, LIMITS)) is not None:
            return f"smallest split by {split} that fits: {_cores(cores)}"
        for other in _SPLITS:
            if other != split and (cores := self.smallest(other, LIMITS)) is not None:
                return f"no split by {split} fits, the smallest by {other} that does: {_cores(cores)}"
        cores = self.smallest(split, (limit,))
        if cores is not None:
            return f"{_cores(cores)} by {split} keep{'s' * (cores == 1)} this limit, but no split of the layer keeps all four"
        units = self.units(split)
        if limit != "compartments" and (least := self.of_one_neuron(limit)) > self.limits.of(limit):
            return f"no split fits: one neuron alone needs {_amount(limit, least)}"
        if units <= self.limits.cores:
            return f"no split by {split} fits: even one {_UNIT[split]} a core is too much"
        return f"no split by {split} fits on {_cores(self.limits.cores)}, all that the machine has"

    def units(self, split: Split) -> int:
        """Things that a split shares out."""
        K, P, Q = self.shape_KPQ
        return {"neurons": K * P * Q, "channels": K, "rows": P}[split]

    def smallest(self, split: Split, keep: Sequence[Limit]) -> int | None:
        """The least number of parts that keeps the limits; not every larger number does, as the last part takes the rest."""
        key = (split, tuple(keep))
        if key not in self._found:
            alone = any(self.of_one_neuron(limit) > self.limits.of(limit) for limit in keep)
            every = range(1, 1 if alone else min(self.units(split), self.limits.cores) + 1)
            self._found[key] = next((parts for parts in every if self._fits(split, parts, keep)), None)
        return self._found[key]

    def of_one_neuron(self, limit: Limit) -> int:
        """The most that one neuron of the layer needs alone, memory in bits; of several layers that reach it, the most of one."""
        if limit == "out_axons":
            return int(self.least_sent_KPQ.max())
        if limit == "compartments":
            return 1
        most = 0
        for layer in self.members:
            sources = _most_synapses(layer, self.limits.zero_weights) * len(self.wiring.sources[layer.name])
            bits = self.limits.synapse_bit or layer.weight_bits
            if limit == "in_axons":
                most = max(most, sources)
            elif self.limits.storage == "unrolled":
                most = max(most, sources * bits)
            elif sources:
                most = max(most, int(stored_weights_K(layer, self.limits.zero_weights).max()) * bits)
        return most

    @cached_property
    def loops(self) -> tuple[Layer, ...]:
        """Members that hear the neurons themselves."""
        return tuple(layer for layer in self.members if self.name in self.wiring.sources[layer.name])

    @cached_property
    def least_sent_KPQ(self) -> np.ndarray:
        """Out-axons of each neuron where all neurons are on one core: the least of any split."""
        sent_KPQ = np.zeros(self.shape_KPQ, np.int64) if self.destinations_KPQ is None else self.destinations_KPQ
        if self.loops:
            fans = self._fans(np.zeros(self.shape_KPQ, np.int32))
            sent_KPQ = sent_KPQ + _shared_axons(self.loops, fans, self.shape_KPQ)[1]
        return sent_KPQ

    def _fans(self, owner_KPQ: np.ndarray) -> dict[str, Fan]:
        return layer_fans(self.members, {self.name: owner_KPQ}, self.limits.zero_weights, self.wiring)

    def _fits(self, split: Split, parts: int, keep: Sequence[Limit]) -> bool:
        """Quick refusals first: what is counted without a fan, then the last core, which holds most neurons."""
        (K, P, Q), units = self.shape_KPQ, self.units(split)
        first = (parts - 1) * (units // parts)
        if "compartments" in keep and (units - first) * (K * P * Q // units) > self.limits.compartments:
            return False
        if "out_axons" in keep:
            sent_X = self._sent(split)
            starts = np.arange(parts) * (units // parts)
            if np.add.reduceat(sent_X, starts).max() > self.limits.out_axons:
                return False
        ask = [limit in keep for limit in LIMITS[1:3]]
        looping = "out_axons" in keep and bool(self.loops)
        if not self.members or not (any(ask) or looping):
            return True
        allowed_I = np.where(ask, self.limits.array_I[1:3], np.iinfo(np.int64).max)
        last_KPQ = np.zeros((K, P, Q), bool)
        if split == "neurons":
            last_KPQ.reshape(-1)[first:] = True
        else:
            last_KPQ[(slice(first, None),) if split == "channels" else (slice(None), slice(first, None))] = True
        if any((self._at_least(layer, last_KPQ) > allowed_I).any() for layer in self.members):
            return False
        owner_KPQ = split_owners((K, P, Q), split, parts)
        fans = self._fans(owner_KPQ)
        held_IM = needs(self.members, {self.name: owner_KPQ}, self.limits, fans, self.wiring).needs_IM
        if looping:  # what the neurons send to one another is among the needs, what they send elsewhere is not
            sent_M = held_IM[3]
            if self.destinations_KPQ is not None:
                sent_M = sent_M + np.bincount(owner_KPQ.ravel(), self.destinations_KPQ.ravel()).astype(np.int64)
            if sent_M.max() > self.limits.out_axons:
                return False
        return bool((held_IM[1:3] <= allowed_I[:, None]).all())

    def _sent(self, split: Split) -> np.ndarray:
        """Least out-axons of each neuron, channel or row of the map."""
        axes = {"neurons": (), "channels": (1, 2), "rows": (0, 2)}[split]
        return np.asarray((self.least_sent_KPQ.sum(axis=axes) if axes else self.least_sent_KPQ).reshape(-1))

    def _at_least(self, layer: Layer, part_KPQ: np.ndarray) -> np.ndarray:
        """(Memory in bits, in-axons) of the neurons of one part for the synapses of one layer from one source; int64, (2,)."""
        if not (times := len(self.wiring.sources[layer.name])):
            return np.zeros(2, np.int64)
        if self.limits.zero_weights == "skipped":  # a core of its own against all others
            found = fan(layer, np.where(part_KPQ, 0, 1).astype(np.int32), zero_weights="skipped")
            inputs, synapses = int(found.inputs_M[0]), int(found.synapses_M[0])
        else:
            reached_GHW = stored_targets(layer, part_KPQ)
            inner = layer.C // layer.groups
            inputs, synapses = int(np.count_nonzero(reached_GHW)) * inner, int(reached_GHW.sum()) * inner
        bits = self.limits.synapse_bit or layer.weight_bits
        if self.limits.storage == "shared":
            held_K = part_KPQ.any(axis=(1, 2))
            return np.array([stored_weights_K(layer, self.limits.zero_weights)[held_K].sum() * bits, inputs])
        return np.array([synapses * times * bits, inputs])
