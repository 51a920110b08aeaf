"""Loihi-class many-core chip: neurons on cores, messages on a mesh, a barrier in every step; counted from recorded spikes.

The rules are those of SANA-FE's simple timing and energy accounting; sources, choices and what is left out are in
docs/models/loihi.md.
"""

from __future__ import annotations

import os
from collections import abc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, ClassVar, Unpack
from weakref import WeakKeyDictionary

import numpy as np

from spikeloom.core.arch import LayerMapping, Mapping, of_layer
from spikeloom.core.counts import Counts
from spikeloom.core.workload import Workload
from spikeloom.errors import MappingError
from spikeloom.hw.base import AbstractMachine, Effort
from spikeloom.hw.fit import Limits, Wiring, check_fit
from spikeloom.hw.loihi_arch import BARRIER_TILES, LOIHI_PRESETS, LoihiArch
from spikeloom.hw.loihi_events import Counter, SampleCounts
from spikeloom.hw.loihi_groups import INPUT_KIND, Chart, chart_of, run_of
from spikeloom.hw.loihi_plan import Plan, fill_in_order, plan_of

_MODEL = LoihiArch.model


class Loihi(AbstractMachine[LoihiArch]):
    """Counts LoihiArch machines."""

    arch_type = LoihiArch
    presets: ClassVar[abc.Mapping[str, abc.Mapping[str, Any]]] = LOIHI_PRESETS

    def runs(self, workload: Workload, arch: LoihiArch) -> Workload:
        """Pools folded; the input a layer of its own where its neurons stand on cores."""
        return run_of(workload, arch)

    def map(self, workload: Workload, arch: LoihiArch) -> Mapping:
        """Place layer after layer on cores 0, 1, 2, ...; refuse what the chip cannot run or hold. Where the machine names a placement
        file, which `evaluate` reads, that is left open."""
        chart = chart_of(run_of(workload, arch), arch)
        mapping = Mapping(_MODEL, {layer.name: LayerMapping() for layer in chart.workload.layers})
        if arch.placement:
            return mapping
        placement = fill_in_order(chart, arch)
        _findings(chart, plan_of(chart, placement, arch), arch)
        return replace(mapping, placement=placement)

    def count(self, workload: Workload, arch: LoihiArch, mapping: Mapping, **effort: Unpack[Effort]) -> Counts:
        """Count all samples, several at a time; the cache changes nothing.

        Raises:
            MappingError: no placement, or one that the chip does not have or cannot hold.
        """
        if mapping.placement is None:
            raise MappingError(
                "loihi got a mapping without a placement of neurons on cores; take that of map() or of evaluate.decide"
            )
        chart = chart_of(run_of(workload, arch), arch)
        plan = plan_of(chart, mapping.placement, arch)
        findings = _findings(chart, plan, arch)
        counter, samples = Counter(chart, plan, arch), range(chart.workload.num_samples)
        with ThreadPoolExecutor(max(1, min(effort.get("threads") or os.cpu_count() or 1, len(samples)))) as pool:
            total = _Totals(chart, plan)
            for sample in pool.map(counter.sample, samples):
                total.add(sample)
        counts = total.counts(arch)
        said = (*chart.workload.warnings, *_warnings(chart, plan, arch), *findings)
        return replace(counts, warnings=tuple(dict.fromkeys(said)))

    def charges_width(self, arch: LoihiArch) -> bool:
        return not arch.synapse_bit

    def utilisation(self, counts: Counts, arch: LoihiArch, layer: str) -> dict[str, float]:
        """compartment_use: compartments of the layer's cores that hold one of its neurons, a fuller core as full; balance: ticks of
        its cores on its neurons and messages, against all of them taking as long as the busiest."""
        stat = {name: value for (where, name), value in counts.statistics.items() if where == layer}
        names = {"compartment_use": ("held", "compartments"), "balance": ("ticks", "ticks_of")}
        return {use: stat[part] / stat[whole] for use, (part, whole) in names.items() if stat.get(whole)}


class _Totals:
    """Sums over samples."""

    def __init__(self, chart: Chart, plan: Plan) -> None:
        self.chart, self.plan = chart, plan
        self.ticks: list[int] = []
        self.by_group_G6 = np.zeros((len(chart.groups), 6), np.int64)
        self.ticks_L = np.zeros(len(chart.workload.layers), np.int64)
        ends = [len(outgoing.ends) if outgoing else 0 for outgoing in plan.outgoing]
        self.arrived, self.events = ([np.zeros(n, np.int64) for n in ends] for _ in range(2))
        self.busy = [np.zeros(stand.cores_S.size, np.int64) for stand in plan.stands]

    def add(self, sample: SampleCounts) -> None:
        """One sample more."""
        self.ticks.append(int(sample.ticks_L.sum()))
        self.by_group_G6 += sample.by_group_G6
        self.ticks_L += sample.ticks_L
        for mine, more in ((self.arrived, sample.arrived), (self.events, sample.events), (self.busy, sample.busy)):
            for g, sums in enumerate(more):
                mine[g] += sums

    def _by_layer(self, sums: list[np.ndarray]) -> dict[str, int]:
        """Sums by end as sums by layer."""
        found = dict.fromkeys((name for _, name in self.chart.edges), 0)
        for outgoing, sum_E in zip(self.plan.outgoing, sums, strict=True):
            for (name, _), n in zip(outgoing.ends if outgoing else (), sum_E.tolist(), strict=True):
                found[name] += n
        return found

    def counts(self, arch: LoihiArch) -> Counts:
        """All sums as Python integers."""
        actions: dict[tuple[str, str, str], int] = {}
        statistics: dict[tuple[str, str], int] = {}
        steps = self.chart.num_steps * len(self.ticks)
        for g, group in enumerate(self.chart.groups):
            name, stand = group.name, self.plan.stands[g]
            updates, spikes, messages, hops_x, hops_y, links = self.by_group_G6[g].tolist()
            if not group.port:
                actions[name, "soma", "access"] = group.size * steps
                actions[name, "soma", "update"] = updates
                actions[name, "soma", "spike_out"] = spikes
                held = np.minimum(stand.neurons_S, arch.compartments).sum()
                statistics[name, "neurons"], statistics[name, "cores"] = group.size, int(stand.cores_S.size)
                statistics[name, "held"] = int(held)
                statistics[name, "compartments"] = int(stand.cores_S.size) * arch.compartments
                statistics[name, "ticks"] = int(self.busy[g].sum())
                statistics[name, "ticks_of"] = int(self.busy[g].max()) * int(stand.cores_S.size)
            if self.plan.outgoing[g] is None:
                continue
            sent = {("axon", "out"): messages, ("router", "hop_x"): hops_x, ("router", "hop_y"): hops_y}
            if arch.chips > 1:
                sent["link", "message"] = links
            for (instance, action), n in sent.items():  # what a port sends stands beside what its first layer sends
                actions[name, instance, action] = actions.get((name, instance, action), 0) + n
        events = self._by_layer(self.events)
        for name, arrived in self._by_layer(self.arrived).items():
            actions[name, "axon", "in"] = arrived
            actions[name, "synapse", arch.synapse_action(name)] = events[name]
        statistics["", "cores"], statistics["", "tiles"] = int(self.plan.cores_M.size), self.plan.tiles
        statistics["", "steps"] = steps
        names = [layer.name for layer in self.chart.workload.layers]
        layer_cycles = dict(zip(names, self.ticks_L.tolist(), strict=True))
        return Counts(actions, layer_cycles, sum(layer_cycles.values()), statistics, sample_cycles=tuple(self.ticks))


def core_limits(arch: LoihiArch) -> Limits:
    """The fields of the machine as `spikeloom.hw.fit` takes them."""
    return Limits(
        compartments=arch.compartments,
        synapse_memory_bit=int(arch.synapse_memory_kib * 8192),
        in_axons=arch.in_axons,
        out_axons=arch.out_axons,
        cores=arch.mesh.num_cores,
        storage="unrolled" if arch.synapse_storage == "unrolled" else "shared",
        synapse_bit=arch.synapse_bit,
        zero_weights="skipped" if arch.zero_weights == "skipped" else "stored",
    )


_checked: WeakKeyDictionary[Plan, dict[Any, tuple[str, ...]]] = WeakKeyDictionary()


def _findings(chart: Chart, plan: Plan, arch: LoihiArch) -> tuple[str, ...]:
    """Limits of cores that a plan breaks, in words. Raises MappingError with the first of them where they are to be kept."""
    limits = core_limits(arch)
    layers = [layer for layer in chart.workload.layers if layer.name in plan.fans]
    groups = [(group, stand) for group, stand in zip(chart.groups, plan.stands, strict=True) if not group.port]
    splits = {group.name: of_layer(arch.split, group.name) for group, _ in groups}
    key = (limits, tuple((x.weight_bits, x.stored_extent) for x in layers), tuple(splits.items()))
    known = _checked.setdefault(plan, {})
    if key not in known:
        sources: dict[str, tuple[str, ...]] = {layer.name: () for layer in layers}
        places = [f"port {g}" if group.port else group.name for g, group in enumerate(chart.groups)]
        for source, name in chart.edges:  # a port is off the machine: a name without owners
            sources[name] += (places[source],)
        maps = {place: group.shape_KPQ for place, group in zip(places, chart.groups, strict=True) if group.port}
        neurons = {layer.name: chart.groups[chart.group_of[layer.name]].name for layer in layers}
        owners = {group.name: stand.owner_KPQ for group, stand in groups}
        found = check_fit(layers, owners, limits, fans=plan.fans, splits=splits, wiring=Wiring(sources, neurons, maps))  # type: ignore[arg-type]
        known[key] = tuple(str(finding) for finding in found)
    if known[key] and arch.limits == "refuse":
        more = f" (and {len(known[key]) - 1} more)" if len(known[key]) > 1 else ""
        raise MappingError(f"{known[key][0]}{more}; limits = 'warn' goes on")
    return known[key]


def _warnings(chart: Chart, plan: Plan, arch: LoihiArch) -> abc.Iterator[str]:
    yield from chart.warnings
    cores = plan.cores_M.size
    yield f"mapped on {cores} core{'s' * (cores > 1)} of {plan.tiles} tile{'s' * (plan.tiles > 1)}"
    layers = {layer.name: layer for layer in chart.workload.layers}
    guessed = [
        group.name
        for group in chart.groups
        if not (group.port or layers[group.name].kind == INPUT_KIND)
        and not (group.driven is not None and group.driven.all())
        and layers[group.name].updates is None
    ]
    if guessed:
        yield (
            f"updates of {', '.join(guessed)} are not in the trace: neurons count as updated where a spike or a bias acts, which makes "
            "energy and latency a lower bound; record the updates"
        )
    if plan.tiles > BARRIER_TILES:
        yield f"the barrier of {plan.tiles} tiles is taken for that of {BARRIER_TILES}, the largest of the source"
