"""Mapping a network on a many-core machine: cores and split of each layer, and where on the mesh each part sits.

Splits are searched first (`spikeloom.codesign.mapper_moves`), positions then (`spikeloom.codesign.mapper_positions`). What comes out of
them is counted by the machine itself, first on the samples of the search and then on all of the trace, and is taken only where it is
better than the given mapping in both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from typing import get_args

import numpy as np

from spikeloom.codesign.mapper_costs import Problem
from spikeloom.codesign.mapper_divisions import NAMED, Division, division_of, even, units
from spikeloom.codesign.mapper_moves import Divisions, Judge, Limits, options, search_divisions, smallest
from spikeloom.codesign.mapper_positions import price_tiles, settle
from spikeloom.codesign.mapper_problem import problem_of, room_of
from spikeloom.codesign.mapping import Objective
from spikeloom.core.arch import AbstractArch
from spikeloom.core.arch import Mapping as MachineMapping
from spikeloom.core.figures import MappedLayer
from spikeloom.core.placement import Place, Placement
from spikeloom.core.report import Report
from spikeloom.core.trace import Arrival, Spikes
from spikeloom.core.workload import Layer, Workload
from spikeloom.errors import ConfigError, MappingError
from spikeloom.evaluate import decide, evaluate
from spikeloom.hw.loihi_arch import LoihiArch

#: Mappings of the first search whose positions are searched (of more where its timing is not the machine's), and moves of each.
SETTLED, MORE_SETTLED, MOVES = 3, 8, 400_000
#: Said where Ctrl-C comes too early.
NONE_YET = "interrupted before a mapping that fits was found"
#: (stage, done, total, figures)
Told = Callable[[str, int, int, Mapping[str, float]], None]


@dataclass(frozen=True, eq=False)
class NetworkMapping:
    """A placement and what it spends beside the given mapping, over all samples of the trace, or those of the search if not ``confirmed``.

    given: the machine's own mapping, counted even where it does not fit; refusal: why it does not, else empty. used: cores and tiles of
    the given mapping and of the placement. kept: nothing better was found, or (worse_on_all) what was better on the samples of the search was
    worse on all: the placement is the given mapping. compared: mappings whose objective was found, on num_samples of all_samples samples.
    layers: empty where Ctrl-C came before they were counted.
    """

    placement: Placement
    given: Report
    report: Report
    refusal: str
    used: tuple[tuple[int, int], tuple[int, int]]
    layers: tuple[MappedLayer, ...]
    objective: Objective
    kept: bool
    worse_on_all: bool
    compared: int
    num_samples: int
    all_samples: int
    confirmed: bool
    interrupted: bool

    def lines(self) -> list[str]:
        """What a reader must know about the tables."""
        late = "to which the figures belong: interrupted before all were counted"
        ending = "the chosen one confirmed on all" if self.confirmed else late
        said = [f"{self.compared:,} mappings compared on {self.num_samples} of {self.all_samples} samples, {ending}"]
        name = "EDP" if self.objective == "edp" else self.objective
        before, after = (value_of(report, self.objective) for report in (self.given, self.report))
        if self.worse_on_all:
            said.append("the best mapping of the search is worse than the given one on all samples; that is kept")
        elif self.kept:
            said.append(f"no mapping was found with less {name} than the given one; that is kept")
        elif self.refusal:
            said.append(f"the mapping fits, the given one does not: {self.refusal}")
        else:
            factor = before / after if after else inf
            said.append(f"{name} is {factor:.3g} times lower than that of the given mapping")
        return said


def map_network(
    workload: Workload,
    arch: AbstractArch,
    *,
    objective: Objective = "edp",
    seed: int = 0,
    budget: int = 10_000,
    samples: int = 8,
    progress: Told = lambda stage, done, total, figures: None,
) -> NetworkMapping:
    """The best placement found for the spikes of a workload; never worse than the given mapping.

    Ctrl-C ends the search: the best so far is confirmed and returned, ``interrupted`` says so; once more ends the confirmation. With
    ``timing = "contention"`` the search judges by simple timing, and the machine's own count chooses among the best.

    Args:
        workload: from ``load_workload`` or ``lower``.
        arch: a `LoihiArch`; its cores and split, or its placement, are the given mapping. With ``limits = "refuse"`` every core of the result keeps
            its limits; with ``"warn"`` none breaks a limit by more than the given mapping does.
        objective: what is to be least per inference.
        seed: of the search. budget: mappings to compare. samples: that they are compared on, spread evenly over the trace.
        progress: told of stage, steps done and in all, and figures.

    Raises:
        MappingError: the machine cannot run a layer, or no mapping fits: says which limit of which layer.
        ConfigError: an unknown objective.
        CostError: a counted action has no sourced price.
        KeyboardInterrupt: Ctrl-C before the given mapping was counted, or before one was found where that does not fit.
    """
    if objective not in get_args(Objective):
        raise ConfigError(f"objective: got {objective!r}, expected one of {', '.join(get_args(Objective))}")
    if not isinstance(arch, LoihiArch):
        raise MappingError(
            f"machine '{arch.model}': has no cores to place neurons on; expected one of model '{LoihiArch.model}'"
        )
    try:
        run = _Run(workload, samples, arch, objective)
        for stage in (partial(run.search, seed, budget, progress), run.compare, run.confirm, run.count_layers):
            try:
                stage()
            except KeyboardInterrupt:
                run.interrupted = True
        return run.result()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(NONE_YET) from None


class _Run:
    """One search from the given mapping to the table of layers; each stage leaves the best so far behind, also where Ctrl-C ends it.

    chosen: samples of the search. before: the given mapping on them. best, value, counted: the best mapping so far, its objective and
    its report on them. reports: of the given mapping and the best, on all samples where ``confirmed``.
    """

    def __init__(self, workload: Workload, samples: int, arch: LoihiArch, objective: Objective) -> None:
        self.workload, self.arch, self.objective = workload, arch, objective
        self.free = replace(arch, limits="warn")
        self.chosen = some_samples(workload, samples)
        self.given = decide(self.chosen, self.free)
        assert self.given.placement is not None
        self.given_placement = self.given.placement
        self.before = evaluate(self.chosen, self.free, mapping=self.given)
        self.refusal = _refusal(self.chosen, arch, self.given)
        self.best, self.counted = self.given, self.before
        self.value = inf if self.refusal else value_of(self.before, objective)
        self.reports = self.before, self.before
        self.searched: _Search | None = None
        self.layers: tuple[MappedLayer, ...] = ()
        self.confirmed = self.worse = self.interrupted = False

    @property
    def nothing_fits(self) -> bool:
        """Whether the given mapping does not fit, and none was found that does."""
        return self.best is self.given and bool(self.refusal)

    def search(self, seed: int, budget: int, progress: Told) -> None:
        """Splits and positions."""
        problem = problem_of(self.chosen, self.arch, self.given_placement, rest=self.before)
        start = _divisions_of(self.given_placement, problem)
        room = room_of(problem, self.arch, start)
        settled = MORE_SETTLED if self.arch.timing == "contention" else SETTLED
        self.searched = _Search(problem, room, self.objective, seed, budget, settled, progress)
        self.searched.run(start)

    def compare(self) -> None:
        """Count what was found on the samples of the search. Ctrl-C passes over a mapping, and over all once a better one is known."""
        stopped = False
        for placement in self.searched.found() if self.searched else ():
            try:
                if stopped and self.best is not self.given:
                    return
                mapping = replace(self.given, placement=placement)
                report = evaluate(self.chosen, self.arch, mapping=mapping)
                if value_of(report, self.objective) < self.value:
                    found = mapping, value_of(report, self.objective), report
                    self.best, self.value, self.counted = found
            except KeyboardInterrupt:
                stopped = self.interrupted = True

    def confirm(self) -> None:
        """Count the given mapping and the best on all samples, and take the better one."""
        if self.nothing_fits:
            return
        self.reports = self.before, self.counted
        if self.chosen is not self.workload:
            given = evaluate(self.workload, self.free, mapping=self.given)
            kept = self.best is self.given
            report = given if kept else evaluate(self.workload, self.arch, mapping=self.best)
            self.reports = given, report
        self.confirmed = True
        values = [value_of(report, self.objective) for report in self.reports]
        if not self.refusal and values[1] > values[0]:
            self.worse, self.best, self.reports = True, self.given, (self.reports[0], self.reports[0])

    def count_layers(self) -> None:
        """The table by layer, of all samples."""
        if self.confirmed:
            assert self.best.placement is not None
            whole = problem_of(self.workload, self.arch, self.given_placement)
            self.layers = _layers(whole, self.best.placement)

    def result(self) -> NetworkMapping:
        """What was found. Raises KeyboardInterrupt or MappingError where nothing was that fits."""
        interrupted = self.interrupted or (self.searched is not None and self.searched.interrupted)
        if self.nothing_fits:
            if interrupted:
                raise KeyboardInterrupt
            raise MappingError(f"no mapping was found that fits; of the machine's own: {self.refusal}")
        given, report = self.reports if self.confirmed else (self.before, self.counted)
        assert self.best.placement is not None
        kept, compared = self.best is self.given, len(self.searched.judge.known) if self.searched else 0
        return NetworkMapping(
            self.best.placement, given, report, self.refusal, (_used(self.given_placement), _used(self.best.placement)),
            self.layers, self.objective, kept=kept, worse_on_all=self.worse, compared=compared, num_samples=self.chosen.num_samples,
            all_samples=self.workload.num_samples, confirmed=self.confirmed, interrupted=interrupted,
        )  # fmt: skip


def _refusal(workload: Workload, arch: LoihiArch, mapping: MachineMapping) -> str:
    """Why the machine refuses a mapping that it could count, or nothing where it does not."""
    try:
        evaluate(workload, arch, mapping=mapping)
    except MappingError as error:
        return str(error)
    return ""


def _used(placement: Placement) -> tuple[int, int]:
    """Cores and tiles in use."""
    cores = {(place.tile, place.core) for place in placement.places}
    return len(cores), len({tile for tile, _ in cores})


def value_of(report: Report, objective: Objective) -> float:
    """The objective of one inference."""
    if objective == "energy":
        return report.energy_per_inference_j
    return report.latency_per_inference_s if objective == "latency" else report.edp_js


class _Search:
    """Both searches, one after the other; what was found is kept where Ctrl-C ends either. slots: better positions of some splits."""

    def __init__(
        self,
        problem: Problem,
        limits: Limits,
        objective: Objective,
        seed: int,
        budget: int,
        settled: int,
        progress: Told,
    ) -> None:
        self.problem, self.limits, self.objective = problem, limits, objective
        self.generator, self.budget, self.settled = np.random.default_rng(seed), budget, settled
        self.progress, self.interrupted = progress, False
        self.judge = Judge(problem, limits, objective, budget, self._told_splits)
        self.slots: dict[Divisions, np.ndarray] = {}

    def run(self, given: Divisions | None) -> None:
        """Search splits, then positions of the best. given: where the search starts, if it is known as splits."""
        choices = self._choices()
        if not all(choices):  # a layer has no room at all beside the others
            return
        starts = [given] if given is not None else []
        starts.append(smallest(self.problem, choices, self.limits))
        search_divisions(self.judge, starts, choices, self.generator)
        self.interrupted = self.judge.interrupted
        for n, splits in enumerate(self._promising()):
            if self.interrupted:
                return
            self.slots[splits] = self._settled(splits, _in_order(splits), n)

    def found(self) -> list[Placement]:
        """Placements worth a count, the most promising first."""
        while True:
            try:
                found = []
                for splits in self._promising():
                    in_order = _in_order(splits)
                    found += [self._placement(splits, x) for x in (self.slots.get(splits, in_order), in_order)]
                return found
            except KeyboardInterrupt:  # it is short, and all that is known would be lost
                self.interrupted = True

    def _promising(self) -> list[Divisions]:
        """The best splits that fit."""
        return [splits for splits, _ in self.judge.best(self.settled) if self.judge.known[splits][0] <= 0]

    def _choices(self) -> list[tuple[Division, ...]]:
        """Of every group the splits that are worth a look."""
        found = []
        for g in range(len(self.problem.groups)):
            self.progress("layers", g, len(self.problem.groups), {})
            found.append(options(self.problem, g, self.limits))
        self.progress("layers", len(found), len(found), {})
        return found

    def _settled(self, splits: Divisions, start: np.ndarray, n: int) -> np.ndarray:
        """Better positions, on no more tiles than the barrier of the start allows."""
        mesh, prices = self.problem.mesh, self.problem.prices
        sync = self.problem.ticks.sync
        most = max(tiles for tiles, ticks in enumerate(sync) if ticks <= sync[mesh.tiles_used(start)])
        messages_MM, port_M = self.problem.messages_MM(splits)

        def told(done: int, joules: float) -> None:
            self.progress("positions", n * MOVES + done, self.settled * MOVES, {"hops_j": joules})

        settled = settle(
            messages_MM, port_M, start, mesh, price_tiles(mesh, prices.hop_x, prices.hop_y, prices.link),
            tiles_at_most=most, moves=MOVES, generator=self.generator, told=told,
        )  # fmt: skip
        self.interrupted = not settled.complete
        return settled.slots_M

    def _told_splits(self, done: int, least: float) -> None:
        self.progress("splits", done, self.budget, {self.objective: least})

    def _placement(self, splits: Divisions, slots_M: np.ndarray) -> Placement:
        places: list[Place] = []
        first = 0
        for group, split in zip(self.problem.groups, splits, strict=True):
            slots = slots_M[first : first + split.num_cores].tolist()
            places += split.places(group.name, group.shape_KPQ, slots, self.problem.mesh.cores_per_tile)
            first += split.num_cores
        return Placement(tuple(places))


def _in_order(splits: Divisions) -> np.ndarray:
    """Cores in the order of the layers, as a machine fills them."""
    return np.arange(sum(split.num_cores for split in splits))


def _divisions_of(placement: Placement, problem: Problem) -> Divisions | None:
    """A placement as splits, or None where it is none or groups share cores."""
    found = [division_of(placement.of(group.name), group.shape_KPQ) for group in problem.groups]
    cores = [(place.tile, place.core) for place in placement.places]
    if any(split is None for split in found) or len(set(cores)) < len(cores):
        return None
    return tuple(split for split in found if split is not None)


def _layers(problem: Problem, placement: Placement) -> tuple[MappedLayer, ...]:
    """The rows of the table by layer."""
    rows = []
    for g, group in enumerate(problem.groups):
        places = placement.of(group.name)
        cores = len({(place.tile, place.core) for place in places})
        split = division_of(places, group.shape_KPQ)
        by: dict[str, int | None] = {}
        for kind in NAMED:
            fits = cores <= units(kind, group.shape_KPQ)
            by[kind] = problem.messages(g, even(kind, group.shape_KPQ, cores)) if fits else None
        messages = None if split is None else problem.messages(g, split)
        rows.append(MappedLayer(group.name, group.size, cores, str(split or "by hand"), messages, by))
    return tuple(rows)


def some_samples(workload: Workload, count: int) -> Workload:
    """The workload with ``count`` of its samples, spread evenly; all where there are not more."""
    if count >= workload.num_samples:
        return workload
    which = np.unique(np.linspace(0, workload.num_samples - 1, count).round().astype(np.int64))
    layers = tuple(_layer_samples(layer, which) for layer in workload.layers)
    return replace(workload, layers=layers, num_samples=len(which))


def _layer_samples(layer: Layer, which: np.ndarray) -> Layer:
    return replace(
        layer,
        arrival=_arrival_samples(layer.arrival, which),
        out=None if layer.out is None else _spike_samples(layer.out, which),
        updates=None if layer.updates is None else _spike_samples(layer.updates, which),
    )


def _arrival_samples(arrival: Arrival, which: np.ndarray) -> Arrival:
    if isinstance(arrival, Spikes):
        return _spike_samples(arrival, which)
    return replace(arrival, values=np.ascontiguousarray(arrival.values[:, which]))


def _spike_samples(spikes: Spikes, which: np.ndarray) -> Spikes:
    return replace(spikes, packed=np.ascontiguousarray(spikes.packed[:, which]))
