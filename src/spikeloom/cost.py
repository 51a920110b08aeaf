"""Counts x inventory x table -> Report. The only module that prices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from spikeloom.components.load import known_actions
from spikeloom.components.table import Excluded, Quote, Table, describe
from spikeloom.core.arch import AbstractArch, Charge, Component, Part
from spikeloom.core.counts import Counts
from spikeloom.core.purposes import holds
from spikeloom.core.report import LayerReport, RealTime, Report
from spikeloom.errors import CostError
from spikeloom.units import format_si

_Pair = tuple[str, str]


def price(
    counts: Counts,
    arch: AbstractArch,
    table: Table,
    *,
    num_samples: int,
    arch_fields: Mapping[str, Any],
    layer_synops: Mapping[str, int],
    utilisation: Mapping[str, Mapping[str, float]] | None = None,
    workload_id: str = "",
    label: str = "",
    warnings: Iterable[str] = (),
    sample_s: float | None = None,
    real_time: bool = False,
) -> Report:
    """Price every counted action and the standby of every part.

    Energy of (layer, instance, action) = n * sum over ``arch.charges()[instance, action]`` of times * E, where E is the
    table's joules per action, divided by width_bit when the charge is per bit. Latency = cycles / clock. Leakage of an
    instance in a layer = sum over its parts of copies * W * layer latency; where layers overlap in time
    (``Counts.beside``) each layer carries its share of the total time, so that leakage is power times latency. Area of
    an instance = sum of copies * area. A part whose leakage or area the table excludes is left out with a warning;
    the area is None when no part has one. In real time a sample lasts at least ``sample_s``, and what leaks does so meanwhile.

    Args:
        counts: what happened, over all samples.
        arch: the machine that was counted.
        table: prices; usually ``load_table(arch.table)``.
        num_samples: samples of the trace, for the means per inference.
        arch_fields: the machine's effective fields as they appear in files, repeated in the report.
        layer_synops: synaptic operations by layer, exactly for the counted layers.
        utilisation: by layer, name -> 0..1.
        workload_id: content hash of the workload.
        label: what the user called the machine.
        warnings: what the workload and the mapping already warned about.
        sample_s: time in which a sample arrives, T dt, where the trace has a clock.
        real_time: also bill the wait for it; needs sample_s.

    Raises:
        CostError: a counted action without a charge, a component or an action without a sourced price, a part outside
            the range of its source, or layers that do not match the counts.
    """
    _check(counts, arch, num_samples, layer_synops)
    joules, sources = unit_prices(((instance, action) for _, instance, action in counts.actions), arch, table)
    watts, leakage_sources, not_leaking = standing(arch.inventory(), table.leakage, "leakage")
    area, area_sources, without_area = standing(arch.inventory(), table.area, "area")
    latency_s = counts.cycles / arch.clock
    in_layers = sum(counts.layer_cycles.values())
    overlap = 1.0 if counts.cycles == in_layers else counts.cycles / in_layers
    actions = _by_layer(counts)
    layers = []
    for name in counts.layers():
        cycles = counts.layer_cycles.get(name, 0)
        layer_s = cycles / arch.clock
        energy = {f"{i}.{a}": n * joules[i, a] for (i, a), n in actions[name].items()}
        energy |= {f"{instance}.leakage": power * layer_s * overlap for instance, power in watts.items()}
        layers.append(
            LayerReport(
                name=name,
                cycles=cycles,
                latency_s=layer_s,
                synops=layer_synops[name],
                counts={f"{i}.{a}": n for (i, a), n in actions[name].items()},
                energy=energy,
                utilisation=dict((utilisation or {}).get(name, {})),
            )
        )
    said = [*counts.warnings, *warnings, *arch.notes(), *_own_table(counts, arch, table), *not_leaking, *without_area]
    assert sample_s is not None or not real_time, "real time needs the time of a sample"
    waited = None
    if real_time and sample_s is not None and watts:
        idle_s = sum(max(0.0, sample_s - n / arch.clock) for n in counts.by_sample(num_samples))
        energy_j = sum(layer.energy_j for layer in layers) + sum(watts.values()) * idle_s
        waited = RealTime(sample_s, latency_s + idle_s, energy_j)
    elif real_time:
        said.append(f"nothing that leaks on {arch.model} is priced, so there is no bill in real time")
    elif sample_s is not None and watts:
        lasts = format_si(sample_s, "s").strip()
        said.append(f"idle time is not billed: a sample lasts {lasts} (T dt_s); --real-time bills leakage over it")
    if counts.expected:
        said.append("the counts are expected values of a rate-driven or tool-faithful model, not events of a trace")
    paid = [key for key, charges in arch.charges().items() if charges]
    report = Report(
        model=arch.model,
        arch=dict(arch_fields),
        num_samples=num_samples,
        layers=tuple(layers),
        cycles=counts.cycles,
        latency_s=latency_s,
        area=area or None,
        sources=sources | leakage_sources | area_sources,
        warnings=tuple(dict.fromkeys(said)),
        workload_id=workload_id,
        label=label,
        holds=holds(arch.purposes(), [*paid, *((instance, "leakage") for instance in watts)]),
        real_time=waited,
    )
    return replace(report, limits=arch.beside_measured(report))


def _own_table(counts: Counts, arch: AbstractArch, table: Table) -> Iterable[str]:
    """Name a table that is not shipped, and the sources that it gives for what is priced."""
    if arch.table.endswith(".toml"):
        counted = dict.fromkeys((instance, action) for _, instance, action in counts.actions)
        kinds = {charge.component.kind for key in counted for charge in arch.charges()[key]}
        kinds |= {part.component.kind for part in arch.inventory()}
        sources = dict.fromkeys(entry.source for entry in table.entries if entry.kind in kinds)
        yield f"prices are those of {arch.table}, a table of your own, which names as its sources: {'; '.join(sources)}"
        if unasked := [kind for kind in table.kinds if kind not in kinds and kind not in known_actions()]:
            yield f"{arch.table} prices {', '.join(unasked)}, which no part of {arch.model} is"


def _check(counts: Counts, arch: AbstractArch, num_samples: int, layer_synops: Mapping[str, int]) -> None:
    if not arch.clock > 0:
        raise CostError(f"{arch.model}: the clock is {arch.clock} Hz, expected a positive frequency")
    if num_samples < 1:
        raise CostError(f"{arch.model}: got {num_samples} samples, expected at least one to give means per inference")
    if unmatched := set(counts.layers()) ^ set(layer_synops):
        raise CostError(
            f"{arch.model}: layers {', '.join(sorted(unmatched))} are either counted or have synaptic operations, "
            "expected both; pass the synops of the workload as the machine runs it"
        )
    if counts.cycles and not any(counts.layer_cycles.values()):
        raise CostError(
            f"{arch.model}: {counts.cycles} cycles but no layer has any, so leakage has no layer to go to; "
            "give cycles by layer"
        )


def _by_layer(counts: Counts) -> dict[str, dict[_Pair, int]]:
    actions: dict[str, dict[_Pair, int]] = {name: {} for name in counts.layers()}
    for (layer, instance, action), n in counts.actions.items():
        actions[layer][instance, action] = n
    return actions


def unit_prices(
    actions: Iterable[_Pair], arch: AbstractArch, table: Table
) -> tuple[dict[_Pair, float], dict[str, str]]:
    """Joules per counted event, and the source, of every (instance, action). Raises CostError as `price`."""
    charges = arch.charges()
    joules: dict[_Pair, float] = {}
    sources: dict[str, str] = {}
    for instance, action in actions:
        if (instance, action) in joules:
            continue
        if (instance, action) not in charges:
            raise CostError(
                f"{arch.model}: the counted action '{instance}.{action}' has no charge; add it to charges() of the "
                "machine, with an empty tuple if it is free"
            )
        if action == "leakage":
            raise CostError(
                f"{arch.model}: '{instance}.leakage' is the key of standby energy; name the action otherwise"
            )
        quotes = [(charge, table.energy(charge.component, charge.action)) for charge in charges[instance, action]]
        joules[instance, action] = sum(charge.times * _per_event(charge, quote) for charge, quote in quotes)
        sources[f"{instance}.{action}"] = (
            _joined((_words(charge), quote.source) for charge, quote in quotes)
            or f"free: {arch.model} charges nothing for it"
        )
    return joules, sources


def _per_event(charge: Charge, quote: Quote) -> float:
    if charge.per_bit:
        return quote.value / charge.component.width_bit
    return quote.value


def _words(charge: Charge) -> str:
    times = "" if charge.times == 1 else f"{charge.times:g} x "
    return f"{times}{describe(charge.component)} {charge.action}{' per bit' if charge.per_bit else ''}"


def _joined(pairs: Iterable[_Pair]) -> str:
    """``what1 + what2: source; what3: other source``, every source once."""
    by_source: dict[str, list[str]] = {}
    for what, source in pairs:
        by_source.setdefault(source, []).append(what)
    return "; ".join(f"{' + '.join(dict.fromkeys(whats))}: {source}" for source, whats in by_source.items())


def standing(
    inventory: tuple[Part, ...], ask: Callable[[Component], Quote | Excluded], what: str
) -> tuple[dict[str, float], dict[str, str], list[str]]:
    """Sum over the copies of each instance, its source, and one warning per reason for the parts left out."""
    total: dict[str, float] = {}
    sources: dict[str, list[_Pair]] = {}
    reasons: dict[str, list[str]] = {}
    for part in inventory:
        answer = ask(part.component)
        if isinstance(answer, Excluded):
            reasons.setdefault(answer.reason, []).append(f"{part.instance} ({part.component.kind})")
            continue
        total[part.instance] = total.get(part.instance, 0.0) + part.copies * answer.value
        sources.setdefault(part.instance, []).append((f"{part.copies} x {describe(part.component)}", answer.source))
    left_out = [
        f"{what} of {', '.join(dict.fromkeys(parts))} is not priced: {reason}" for reason, parts in reasons.items()
    ]
    return total, {f"{instance}.{what}": _joined(pairs) for instance, pairs in sources.items()}, left_out
