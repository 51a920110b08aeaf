"""How each layer is split: coordinate descent over all its splits, then annealing over the splits of one or two layers.

Every mapping that is looked at is judged by its exact cost with its cores in the order of the layers, as a machine places them; where
they sit better is the business of `spikeloom.codesign.mapper_positions`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import exp, inf, log

import numpy as np

from spikeloom.codesign.mapper_costs import Problem
from spikeloom.codesign.mapper_divisions import (
    Division,
    Kind,
    Shape,
    balanced,
    balanced_blocks,
    even,
    kinds_of,
    load_units,
    units,
)

Divisions = tuple[Division, ...]
#: Missing room (0 where all fits), the objective, and what decides between equals; least is best.
Score = tuple[float, float, float]
#: Relative differences that annealing accepts at first and at last.
HOT, COLD = 0.03, 0.0003
#: Times that the rest of the budget is annealed, each from the best mapping so far.
ROUNDS = 3
#: Annealing ends after so many looks at known mappings, and one for each that is known, without a new one between them.
STALE = 1_000


@dataclass(frozen=True)
class Limits:
    """Room of a core and of the machine; inf where a limit is not kept."""

    cores: int
    compartments: float
    synapse_bits: float
    in_axons: float
    out_axons: float


class Stopped(Exception):
    """The budget is spent, or the user pressed Ctrl-C."""


@dataclass
class Judge:
    """Scores of mappings, each counted once against the budget, and the best ones so far.

    told: called with the evaluations so far and the least objective that fits.
    """

    problem: Problem
    limits: Limits
    objective: str
    budget: int
    told: Callable[[int, float], None]
    known: dict[Divisions, Score] = field(default_factory=dict)
    least: Score = (inf, inf, inf)
    interrupted: bool = False

    def score(self, splits: Divisions) -> Score:
        """Raises Stopped when the budget is spent."""
        if splits not in self.known:
            if len(self.known) >= self.budget:
                raise Stopped
            missing = missing_room(self.problem, self.limits, splits)
            cores = sum(split.num_cores for split in splits)
            first, second = inf, inf
            if cores <= self.limits.cores:
                first, second = self.problem.cost(splits, np.arange(cores)).of(self.objective)
            self.known[splits] = missing, first, second
            self.least = min(self.least, self.known[splits])
            if len(self.known) % 64 == 0:
                self.told(len(self.known), self.least[1])
        return self.known[splits]

    def best(self, count: int) -> list[tuple[Divisions, float]]:
        """The best mappings with their objective; of each number of cores by layer the best one."""
        found: dict[tuple[int, ...], tuple[Score, Divisions]] = {}
        for splits, score in self.known.items():
            cores = tuple(split.num_cores for split in splits)
            if cores not in found or score < found[cores][0]:
                found[cores] = score, splits
        ordered = sorted(found.values(), key=lambda pair: pair[0])[:count]
        return [(splits, score[1]) for score, splits in ordered]


def missing_room(problem: Problem, limits: Limits, splits: Divisions) -> float:
    """How far the cores are too small, summed over groups and limits as a fraction of the limit; 0 where all fits."""
    missing = max(0.0, sum(split.num_cores for split in splits) / limits.cores - 1)
    for g, split in enumerate(splits):
        missing += own_missing(problem, limits, g, split)
        missing += max(0.0, float(problem.out_axons_M(g, splits).max()) / limits.out_axons - 1)
    return missing


def own_missing(problem: Problem, limits: Limits, group: int, split: Division) -> float:
    """Missing room of a group's cores whatever the other splits are."""
    needs = problem.needs(group, split)
    pairs = (
        (needs.neurons_M, limits.compartments),
        (needs.in_axons_M, limits.in_axons),
        (needs.synapse_bits_M, limits.synapse_bits),
    )
    return sum(max(0.0, float(need_M.max()) / limit - 1) for need_M, limit in pairs)


def options(problem: Problem, group: int, limits: Limits) -> tuple[Division, ...]:
    """Splits of a group that are worth a look, by number of cores.

    Every kind on numbers of cores from few to all, evenly and balanced by load. Left out are those that do not fit by themselves,
    unless none does, and those that another one beats in everything that a split costs by itself (`Problem.profile`). None where the
    group needs more cores than the others leave it, even with one each.
    """
    every = every_option(problem, group, limits)
    if not every:
        return ()
    room = [own_missing(problem, limits, group, split) for split in every]
    fitting = [split for split, missing in zip(every, room, strict=True) if missing <= min(room)]
    profiles = np.array([problem.profile(group, split) for split in fitting])
    kept: list[int] = []
    for i in np.lexsort(profiles.T[::-1]).tolist():  # what beats an option comes before it
        if not kept or not (profiles[kept] <= profiles[i]).all(axis=1).any():
            kept.append(i)
    return tuple(fitting[i] for i in kept)


def every_option(problem: Problem, group: int, limits: Limits) -> tuple[Division, ...]:
    """Every kind on numbers of cores from few to all, evenly and balanced by load."""
    shape = problem.groups[group].shape_KPQ
    most = limits.cores - len(problem.groups) + 1
    fewest = max(1, int(np.ceil(problem.groups[group].size / limits.compartments)))
    generate_KPQ, receive_KPQ = problem.load_KPQ(group, 2 * problem.ticks.axon_out)
    found: dict[Division, None] = {}
    for parts in core_numbers(fewest, most):
        for kind in kinds_of(shape):
            for split in _splits(kind, shape, parts, generate_KPQ, receive_KPQ):
                found.setdefault(split)
    return tuple(found)


def core_numbers(fewest: int, most: int) -> list[int]:
    """1, 2, ... 16 and then in steps of about an eighth, from ``fewest`` to ``most``, both included."""
    numbers, number = [], 1
    while number <= most:
        numbers.append(number)
        number += max(1, 2 ** (number.bit_length() - 4))
    return sorted({n for n in (*numbers, fewest, most) if fewest <= n <= most})


def _splits(kind: Kind, shape: Shape, parts: int, generate_KPQ: np.ndarray, receive_KPQ: np.ndarray) -> list[Division]:
    if parts == 1:
        return [Division("neurons")]  # however it is called, a layer on one core is whole
    if kind == "blocks":
        both = generate_KPQ + receive_KPQ
        pairs = [(c, parts // c) for c in range(2, parts // 2 + 1) if parts % c == 0]
        pairs = [(c, r) for c, r in pairs if c <= shape[0] and r <= shape[1]]
        evens = [Division("blocks", even("channels", shape, c).cuts, even("rows", shape, r).cuts) for c, r in pairs]
        return evens + [balanced_blocks(both, c, r) for c, r in pairs]
    if parts > units(kind, shape):
        return []
    loads = (load_units(kind, load) for load in (generate_KPQ, receive_KPQ))
    return [even(kind, shape, parts), *(balanced(kind, load, parts) for load in loads)]


def search_divisions(
    judge: Judge, starts: Sequence[Divisions], choices: Sequence[tuple[Division, ...]], generator: np.random.Generator
) -> None:
    """Look for better splits until the budget is spent or a round brings no new mapping; what was found is in ``judge``.

    Ctrl-C ends the search, not the caller.

    starts: mappings to begin with, the last one small.
    """
    try:
        for start in starts:
            judge.score(start)
        _descend(judge, _grow(judge, starts[-1], choices), choices)
        if len(starts) > 1:
            _descend(judge, judge.best(1)[0][0], choices)
        for left in range(ROUNDS, 0, -1):
            before = len(judge.known)
            _anneal(judge, judge.best(1)[0][0], choices, generator, (judge.budget - len(judge.known)) // left)
            _descend(judge, judge.best(1)[0][0], choices)
            if len(judge.known) == before:
                break
    except Stopped:
        pass
    except KeyboardInterrupt:
        judge.interrupted = True


def smallest(problem: Problem, choices: Sequence[tuple[Division, ...]], limits: Limits) -> Divisions:
    """Of every group the split on the fewest cores that its own needs allow, or the one that needs the least too much."""

    def missing(group: int, split: Division) -> tuple[float, int]:
        return own_missing(problem, limits, group, split), split.num_cores

    return tuple(min(splits, key=partial(missing, g)) for g, splits in enumerate(choices))


def _grow(judge: Judge, start: Divisions, choices: Sequence[tuple[Division, ...]]) -> Divisions:
    """Give a few cores more to the group that gains most by each of them, until none gains."""
    now = start
    while True:
        best, gained = now, 0.0
        before = judge.score(now)
        for g, split in enumerate(now):
            cores = split.num_cores
            for wider in choices[g]:
                if not cores < wider.num_cores <= cores + max(1, cores // 4):
                    continue
                tried = (*now[:g], wider, *now[g + 1 :])
                score = judge.score(tried)
                if score >= before or score[1] == inf:
                    continue
                gain = inf if score[0] < before[0] else (1 - score[1] / before[1]) / (wider.num_cores - cores)
                if gain > gained:
                    best, gained = tried, gain
        if best == now:
            return now
        now = best


def _descend(judge: Judge, start: Divisions, choices: Sequence[tuple[Division, ...]]) -> Divisions:
    """The best split of one group after the other, all else as it is, until none is better."""
    now, settled = start, 0
    group = len(start) - 1
    while settled < len(start):
        tried = [(*now[:group], split, *now[group + 1 :]) for split in choices[group]]
        best = min([now, *tried], key=judge.score)
        settled = settled + 1 if best == now else 1
        now, group = best, (group - 1) % len(start)
    return now


def _anneal(
    judge: Judge, start: Divisions, choices: Sequence[tuple[Division, ...]], generator: np.random.Generator, steps: int
) -> None:
    """Random changes of one or two groups, worse ones accepted ever less, until ``steps`` more mappings are known or hardly any is new."""
    now, first, looked, stale = start, len(judge.known), 0, 0
    # mappings that are known already cost nothing and end the search all the same
    while looked < 4 * steps and len(judge.known) - first < steps:
        looked += 1
        tried = _changed(judge.problem, now, choices, generator)
        stale = stale + 1 if tried in judge.known else 0
        if stale > STALE + len(judge.known):
            break
        score, before = judge.score(tried), judge.score(now)
        heat = HOT * (COLD / HOT) ** ((len(judge.known) - first) / steps)
        worse = log(score[1] / before[1]) if 0 < score[1] < inf and 0 < before[1] < inf else inf
        if score[0] < before[0] or (
            score[0] == before[0] and (score < before or generator.random() < exp(-worse / heat))
        ):
            now = tried


def _changed(
    problem: Problem, splits: Divisions, choices: Sequence[tuple[Division, ...]], generator: np.random.Generator
) -> Divisions:
    """One group changed; or two, one of which gives cores and the other takes them."""
    changed = list(splits)
    if len(splits) > 1 and generator.random() < 0.4:
        giver, taker = generator.permutation(len(splits))[:2].tolist()
        for g, sign in ((giver, -1), (taker, 1)):
            cores = changed[g].num_cores
            near = [x for x in choices[g] if 0 < sign * (x.num_cores - cores) <= max(1, cores // 4)]
            if near:
                changed[g] = near[generator.integers(len(near))]
        return tuple(changed)
    g = int(generator.integers(len(splits)))
    split, kind = changed[g], generator.random()
    if kind < 0.5 and split.num_cores > 1:
        changed[g] = _shifted(split, problem.groups[g].shape_KPQ, generator)
    else:
        near = [x for x in choices[g] if abs(x.num_cores - split.num_cores) <= max(1, split.num_cores // 8)]
        among = near if near and kind < 0.85 else list(choices[g])
        changed[g] = among[generator.integers(len(among))]
    return tuple(changed)


def _shifted(split: Division, shape: Shape, generator: np.random.Generator) -> Division:
    """One boundary between two parts moved by up to a quarter of the way to the next one, at least by one unit."""
    rows = split.kind == "blocks" and generator.integers(len(split.cuts) + len(split.rows)) >= len(split.cuts)
    cuts = split.rows if rows else split.cuts
    total = shape[1] if rows else units(split.kind, shape)
    k = int(generator.integers(len(cuts)))
    ends = (0, *cuts, total)
    down, up = ends[k + 1] - ends[k], ends[k + 2] - ends[k + 1]
    room = down if generator.random() < 0.5 else -up
    step = int(generator.integers(1, max(1, abs(room) // 4) + 1))
    moved = ends[k + 1] - step if room > 0 else ends[k + 1] + step
    if not ends[k] < moved < ends[k + 2]:
        return split
    shifted = (*cuts[:k], moved, *cuts[k + 1 :])
    return replace(split, rows=shifted) if rows else replace(split, cuts=shifted)
