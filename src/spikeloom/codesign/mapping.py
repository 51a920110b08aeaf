"""The exact best mapping of a network on a machine: window, dispatch, order and merging of every layer.

For fixed weights the mapping does not change what a network computes, and its energy and latency are sums over layers, so the
optimum can be found exactly (docs/models/spikex.md); a search or a gradient has to meet it. Each (layer, option) is counted
once. Leakage is power times latency and adds to each layer; the power depends on the largest window of all layers, for which
a processing element needs registers, so the optimum is sought under every cap on the window.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Unpack, get_args

import numpy as np

from spikeloom.codesign.separable import Front, least_product, not_dominated, pareto_front
from spikeloom.components import load_table
from spikeloom.core.arch import AbstractArch, LayerMapping
from spikeloom.core.report import Report
from spikeloom.core.workload import Layer, Workload
from spikeloom.cost import standing, unit_prices
from spikeloom.errors import ConfigError, MappingError
from spikeloom.evaluate import evaluate
from spikeloom.hw.base import CountCache, Effort
from spikeloom.hw.closed_form import ACTIONS, JOIN_ACTIONS
from spikeloom.hw.spikex import DISPATCHES, ORDERS, Spikex, SpikexArch, action_counts

#: What a best mapping minimises; ties go to the lower latency, with "latency" to the lower energy.
Objective = Literal["edp", "energy", "latency"]
#: The fields of a machine that a mapping settles.
KNOBS = ("window", "dispatch", "order", "merge")


@dataclass(frozen=True)
class MappingChoices:
    """What the mapping of a layer may be: every combination; ``dense`` layers never merge."""

    windows: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    dispatches: tuple[str, ...] = ("agile", "temporal", "ptb")
    orders: tuple[str, ...] = ("raster", "interleave")
    merges: tuple[int, ...] = (1, 2, 8)

    def __post_init__(self) -> None:
        for name, values in zip(KNOBS, (self.windows, self.dispatches, self.orders, self.merges), strict=True):
            if not values:
                raise ConfigError(f"{name}: got no value to choose from, expected at least one")
            for value in values:
                knob: dict[str, Any] = {name: value}
                SpikexArch(**knob)  # refuses what no machine may have

    def options(self) -> tuple[LayerMapping, ...]:
        """Every different mapping of a layer, in an order that does not depend on how they were listed."""
        found = {
            LayerMapping(window, dispatch, order, 1 if dispatch == "dense" else merge)
            for window in self.windows
            for dispatch in self.dispatches
            for order in self.orders
            for merge in self.merges
        }
        dispatches = list(DISPATCHES)
        return tuple(
            sorted(found, key=lambda x: (x.window, dispatches.index(x.dispatch), ORDERS.index(x.order), x.merge))
        )


@dataclass(frozen=True)
class FrontPoint:
    """A mapping that no other beats in both energy and latency; means per inference, layers by name."""

    energy_j: float
    latency_s: float
    layers: Mapping[str, LayerMapping]


@dataclass(frozen=True)
class BestMapping:
    """The best machine and what it spends, as ``evaluate`` says.

    arch: the given machine with the best mapping in its fields. counted: (layer, option) pairs that were compared.
    front: Pareto front of energy and latency where it was asked for, by ascending latency.
    """

    arch: SpikexArch
    report: Report
    counted: int
    front: tuple[FrontPoint, ...] = field(default=(), repr=False)

    @property
    def energy_j(self) -> float:
        """Per inference."""
        return self.report.energy_per_inference_j

    @property
    def latency_s(self) -> float:
        """Per inference."""
        return self.report.latency_per_inference_s

    @property
    def edp_js(self) -> float:
        """Per inference."""
        return self.report.edp_js


@dataclass(frozen=True, eq=False)
class OptionCosts:
    """What each layer spends under each option over all samples.

    energy_LO: joules without leakage. cycles_LO: int64. Axes: L layers, O options.
    """

    layers: tuple[str, ...]
    options: tuple[LayerMapping, ...]
    energy_LO: np.ndarray
    cycles_LO: np.ndarray


def option_costs(
    workload: Workload, arch: SpikexArch, options: Sequence[LayerMapping], **effort: Unpack[Effort]
) -> OptionCosts:
    """Count and price every (layer, option) once.

    Raises:
        MappingError: the machine cannot run a layer, or does not let the layers choose their mappings one by one.
        ConfigError: an option does not go with the machine's other fields.
        CostError: a counted action has no sourced price.
    """
    machine, options = Spikex(), tuple(options)
    layers = machine.runs(workload, arch).layers
    refuse_shared_windows(layers, arch)
    for dispatch in sorted({option.dispatch for option in options}):
        machine.map(workload, replace(arch, window=1, dispatch=dispatch, order="raster", merge=1))
    joules, _ = unit_prices((*ACTIONS, *JOIN_ACTIONS), arch, load_table(arch.table))
    energy_LO = np.zeros((len(layers), len(options)))
    cycles_LO = np.zeros((len(layers), len(options)), dtype=np.int64)
    for k, layer in enumerate(layers):
        for found in machine.scheduled(layer, arch, options, **effort):
            actions, cycles_ON = action_counts(found, arch)
            for pair, counts_O in actions.items():
                energy_LO[k] += joules[pair] * counts_O
            cycles_LO[k] += cycles_ON.sum(axis=1)
    return OptionCosts(tuple(layer.name for layer in layers), options, energy_LO, cycles_LO)


def best_mapping(
    workload: Workload,
    arch: AbstractArch,
    choices: MappingChoices = MappingChoices(),
    *,
    objective: Objective = "edp",
    front: bool = False,
    cache: CountCache | None = None,
    threads: int | None = None,
) -> BestMapping:
    """The mapping with the least EDP (or energy, or latency) per inference; exact, however the choices are listed.

    Args:
        workload: from ``load_workload`` or ``lower``.
        arch: a `SpikexArch`; its own window, dispatch, order and merge do not matter.
        choices: what may be chosen for each layer.
        objective: what to minimise.
        front: also find every mapping on the Pareto front of energy and latency. That can be many in deep networks.
        cache: schedules counted before, e.g. a `spikeloom.codesign.schedules.ScheduleCache`.
        threads: samples counted in parallel; by default all cores.

    Raises:
        MappingError: the machine has no such mapping, or cannot run a layer.
        ConfigError: a choice does not go with the machine's other fields.
        CostError: a counted action has no sourced price.
    """
    arch = time_batched(arch)
    _check_objective(objective)
    cache = {} if cache is None else cache  # what was chosen is evaluated and need not be counted again
    costs = option_costs(workload, arch, choices.options(), cache=cache, threads=threads)
    caps = _caps(costs.options, arch)
    option_L = _least_edp(costs, caps) if objective == "edp" else _least_by_layer(costs, caps, objective)
    chosen = mapped(arch, _named(costs, option_L))
    return BestMapping(
        chosen,
        evaluate(workload, chosen, cache=cache, threads=threads),
        costs.energy_LO.size,
        _front(costs, caps, arch, workload.num_samples) if front else (),
    )


def best_global_window(
    workload: Workload,
    arch: AbstractArch,
    windows: Iterable[int] = MappingChoices().windows,
    *,
    objective: Objective = "edp",
    cache: CountCache | None = None,
    threads: int | None = None,
) -> BestMapping:
    """The machine at the one window for all layers that is best, each tried; of equals the smaller.

    Dispatch, order and merging stay as they are. Raises as `best_mapping`.
    """
    arch = time_batched(arch)
    _check_objective(objective)
    tried = [replace(arch, window=window) for window in sorted(set(windows))]
    if not tried:
        raise ConfigError("windows: got none to choose from, expected at least one")
    reports = [evaluate(workload, each, cache=cache, threads=threads) for each in tried]
    values = [
        {"edp": x.edp_js, "energy": x.energy_per_inference_j, "latency": x.latency_per_inference_s}[objective]
        for x in reports
    ]
    best = int(np.argmin(values))
    return BestMapping(tried[best], reports[best], len(tried) * len(reports[best].layers))


def _check_objective(objective: str) -> None:
    if objective not in get_args(Objective):
        raise ConfigError(f"objective: got {objective!r}, expected one of {', '.join(get_args(Objective))}")


def time_batched(arch: AbstractArch) -> SpikexArch:
    """The machine, if its layers have a window, a dispatch, an order and a merging. Raises MappingError otherwise."""
    if not isinstance(arch, SpikexArch):
        raise MappingError(
            f"machine '{arch.model}': its layers have no window, dispatch, order and merging to choose; "
            f"expected a machine of model '{SpikexArch.model}'"
        )
    return arch


def refuse_shared_windows(layers: Iterable[Layer], arch: SpikexArch) -> None:
    """Raises MappingError where ``join`` binds the window of a layer to that of another: no search layer by layer finds its best."""
    joining = [layer.name for layer in layers if layer.joins]
    if joining and arch.join != "layer":
        raise MappingError(
            f"join = '{arch.join}' binds the windows of {', '.join(joining)} to those of the layers whose neurons their sums "
            "meet in; a search of mappings takes join = 'layer' only"
        )


def mapped(arch: SpikexArch, layers: Mapping[str, LayerMapping]) -> SpikexArch:
    """The machine with these mappings in its fields: one value where all layers agree, else a table."""
    fields: dict[str, Any] = {}
    for knob in KNOBS:
        values = {name: getattr(choice, knob) for name, choice in layers.items()}
        fields[knob] = values if len(set(values.values())) > 1 else next(iter(values.values()))
    return replace(arch, **fields)


@dataclass(frozen=True, eq=False)
class _Cap:
    """A machine with registers for ``window`` time steps: the options that fit it, int64 (options,), and its leakage."""

    window: int
    fitting: np.ndarray
    joules_per_cycle: float

    def costs(self, costs: OptionCosts) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Per layer, joules with leakage and cycles of the fitting options."""
        delay_LO = costs.cycles_LO[:, self.fitting].astype(np.float64)
        return list(costs.energy_LO[:, self.fitting] + self.joules_per_cycle * delay_LO), list(delay_LO)


def _caps(options: Sequence[LayerMapping], arch: SpikexArch) -> list[_Cap]:
    """Caps on the window by which leakage differs, ascending. Without a price for registers there is one."""
    windows = np.array([option.window for option in options])
    table = load_table(arch.table)
    caps: dict[float, _Cap] = {}
    for window in np.unique(windows).tolist():
        watts, _, _ = standing(replace(arch, window=window).inventory(), table.leakage, "leakage")
        joules = sum(watts.values()) / arch.clock
        caps[joules] = _Cap(window, np.flatnonzero(windows <= window), joules)  # of equal leakage, the widest
    return sorted(caps.values(), key=lambda cap: cap.window)


def _least_edp(costs: OptionCosts, caps: Sequence[_Cap]) -> np.ndarray:
    least, best = np.inf, np.empty(0, dtype=np.int64)
    for cap in caps:
        energy, delay = cap.costs(costs)
        option = least_product(energy, delay)
        product = _total(energy, option) * _total(delay, option)
        if product < least:
            least, best = product, cap.fitting[option]
    return best


def _total(by_layer: Sequence[np.ndarray], option_L: np.ndarray) -> float:
    return sum(float(values[k]) for values, k in zip(by_layer, option_L, strict=True))


def _least_by_layer(costs: OptionCosts, caps: Sequence[_Cap], objective: Objective) -> np.ndarray:
    """Each layer for itself, under the best of the caps."""
    least, best = (np.inf, np.inf), np.empty(0, dtype=np.int64)
    for cap in caps:
        energy, delay = cap.costs(costs)
        first, second = (energy, delay) if objective == "energy" else (delay, energy)
        option = np.array([np.lexsort((b, a))[0] for a, b in zip(first, second, strict=True)])
        total = (_total(first, option), _total(second, option))
        if total < least:
            least, best = total, cap.fitting[option]
    return best


def _named(costs: OptionCosts, option_L: np.ndarray) -> dict[str, LayerMapping]:
    return {name: costs.options[k] for name, k in zip(costs.layers, option_L.tolist(), strict=True)}


def _front(costs: OptionCosts, caps: Sequence[_Cap], arch: SpikexArch, num_samples: int) -> tuple[FrontPoint, ...]:
    """Every cap has a front; a point that does not need its cap lies on, or is beaten by, the front of a lower one."""
    fronts = []
    for cap in caps:
        found = pareto_front(*cap.costs(costs))
        fronts.append(Front(found.energy, found.delay, cap.fitting[found.option]))
    energy, delay = np.concatenate([x.energy for x in fronts]), np.concatenate([x.delay for x in fronts])
    option = np.concatenate([x.option for x in fronts])
    return tuple(
        FrontPoint(float(energy[k]) / num_samples, float(delay[k]) / arch.clock / num_samples, _named(costs, option[k]))
        for k in not_dominated(energy, delay)
    )
