"""Who proposes the next design: six samplers by name, as Optuna samplers.

``random``, ``grid``, ``exhaustive`` and ``nsga2`` are ours: what they propose is a function of (seed, trial number) and,
for ``nsga2``, of the results of earlier generations, so that a study that was disturbed asks for the same designs as one
that was not. ``tpe`` and ``gp`` are Optuna's; they learn from whatever has been told so far.

Every value of a choice is a gene: its index. Choices whose values are rising or falling numbers are integers to Optuna
(so that ``tpe`` and ``gp`` know that 8 lies between 4 and 16), all others categories.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from optuna.trial import Trial as Asked

from spikeloom.codesign.metrics import non_dominated
from spikeloom.codesign.search import SamplerName
from spikeloom.codesign.space import Choice, Params, Space, Value
from spikeloom.errors import SearchError

#: Share of children that have two parents, as Deb et al. (2002) set it.
CROSSOVER = 0.9
#: Tries to find a child that was not proposed before.
TRIES = 50

_Genome = dict[str, int]


def make_sampler(
    name: SamplerName, space: Space, *, seed: int, trials: int, population: int, first: int, noisy: bool
) -> BaseSampler:
    """The sampler of that name.

    Args:
        name: one of `SamplerName`.
        space: what may be proposed.
        seed: of everything random.
        trials: the budget; decides how coarse a ``grid`` is.
        population: designs in a generation of ``nsga2``, and asked at random before ``tpe`` and ``gp`` begin to learn.
        first: trials that the study holds already; ``tpe`` and ``gp`` continue with fresh random numbers.
        noisy: whether a figure of the same design may differ from run to run, as that of training does.

    Raises:
        SearchError: no torch or SciPy for ``gp``.
    """
    if name == "random":
        return _Random(seed)
    if name in ("grid", "exhaustive"):
        return _Listed(space, grid_points(space, trials, whole=name == "exhaustive"))
    if name == "nsga2":
        return GenerationSampler(space, seed, population)
    fresh = int(np.random.SeedSequence([seed, first]).generate_state(1)[0])
    if name == "tpe":
        return TPESampler(seed=fresh, n_startup_trials=population, multivariate=False)
    if any(importlib.util.find_spec(module) is None for module in ("torch", "scipy")):
        raise SearchError("sampler 'gp': needs torch and SciPy; run: pip install 'spikeloom[train]', or take 'tpe'")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "experimental" is said of a flag without which exact figures count as noisy
        return GPSampler(
            seed=fresh, n_startup_trials=population, deterministic_objective=not noisy, warn_independent_sampling=False
        )


@dataclass(frozen=True)
class Suggester:
    """What a space sees of an Optuna trial: ordered numbers become integers, their indices."""

    trial: Asked

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        if is_ordered(choices):
            return choices[self.trial.suggest_int(name, 0, len(choices) - 1)]
        return self.trial.suggest_categorical(name, choices)


@dataclass(frozen=True)
class _Reader:
    """Reads a genome as a trial would be read."""

    genome: Mapping[str, int]

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return choices[self.genome[name]]


def is_ordered(values: Sequence[Value]) -> bool:
    """Whether the values are numbers that only rise or only fall, at least three of them."""
    if len(values) < 3 or any(isinstance(value, bool | str) for value in values):
        return False
    steps = [float(b) - float(a) for a, b in pairwise(values)]
    return all(step > 0 for step in steps) or all(step < 0 for step in steps)


def grid_points(space: Space, trials: int, *, whole: bool) -> list[dict[str, Value]]:
    """The points of a grid of at most ``trials``: all of the space, or as many values of each choice as fit.

    The choice with most values is thinned first, its ends kept; choices that others depend on keep all values.

    Raises:
        SearchError: even one value of each does not fit.
    """
    if whole:
        return list(space.grid())
    gates = {parent for choice in space.choices for parent in choice.when or {}}
    counts = {choice.name: len(choice.values) for choice in space.choices}

    def thinned(choice: Choice) -> Choice:
        kept = np.unique(np.linspace(0, len(choice.values) - 1, counts[choice.name]).round().astype(int))
        return Choice(choice.name, tuple(choice.values[i] for i in kept), choice.when)

    coarse = space
    while coarse.size > trials:
        name = max((name for name in counts if name not in gates), key=lambda name: counts[name], default=None)
        if name is None or counts[name] == 1:
            raise SearchError(
                f"sampler 'grid': even one value of each choice makes {coarse.size} points, the budget is {trials} trials; "
                "raise the budget"
            )
        counts[name] -= 1
        coarse = Space(tuple(thinned(choice) for choice in space.choices))
    return list(coarse.grid())


class _Numbered(BaseSampler):
    """Proposes a whole design for a trial number."""

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}


class Fresh(_Numbered):
    """A sampler that is kept from designs which were asked for before, as long as others are left.

    Choices are made one after the other. A value is open while a design that begins with it was not asked for; in the place
    of a value that is not, an open one is drawn by (seed, trial number). So what is proposed depends on nothing but the
    sampler's own word and the designs before, and a search that was stopped goes on as one that was not.
    """

    def __init__(self, own: BaseSampler, space: Space, seed: int) -> None:
        self.own = own
        self.space = space
        self.seed = seed
        self._tried: set[tuple[str, ...]] = set()
        self._begun: Counter[tuple[str, ...]] = Counter()
        self._sizes: dict[tuple[str, ...], int] = {}
        self._whole: Mapping[str, Any] = {}

    def take(self, params: Params) -> None:
        """Know a design that was asked for."""
        point = _words(params)
        if point not in self._tried:
            self._tried.add(point)
            self._begun.update(point[:length] for length in range(1, len(point) + 1))

    @property
    def untried(self) -> int:
        """Designs that were never asked for."""
        return self.space.size - len(self._tried)

    def _open(self, begun: Params) -> bool:
        words = _words(begun)
        if self._begun[words] and words not in self._sizes:
            self._sizes[words] = self.space.points(begun)
        return not self._begun[words] or self._begun[words] < self._sizes[words]

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        self._whole = self.own.sample_relative(study, trial, self.own.infer_relative_search_space(study, trial))
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if param_name in self._whole:
            value = self._whole[param_name]
        else:
            value = self.own.sample_independent(study, trial, param_name, param_distribution)
        values = self.space.choice(param_name).values
        begun = {c.name: c.values[index_of(trial, c.name)] for c in self.space.choices if c.name in trial.params}
        left = [i for i in range(len(values)) if self._open({**begun, param_name: values[i]})]
        if not left or int(param_distribution.to_internal_repr(value)) in left:
            return value
        rng = np.random.default_rng([self.seed, trial.number, 2, *param_name.encode()])
        return _value(param_distribution, left[int(rng.integers(len(left)))])


class _Random(_Numbered):
    """Every value of a choice equally likely."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        rng = np.random.default_rng([self.seed, trial.number, *param_name.encode()])
        return _value(param_distribution, int(rng.integers(_size(param_distribution))))


class _Listed(_Numbered):
    """The n-th trial is the n-th point."""

    def __init__(self, space: Space, points: Sequence[Mapping[str, Value]]) -> None:
        self.space = space
        self.points = points

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        wanted = self.points[trial.number][param_name]
        values = self.space.choice(param_name).values
        return _value(param_distribution, [repr(value) for value in values].index(repr(wanted)))


class GenerationSampler(_Numbered):
    """NSGA-II (Deb et al., IEEE TEC 6(2), 2002) in whole generations, over finite choices.

    Generation g holds the trials g*N .. (g+1)*N - 1. Its parents are the best N of generation g-1 and that one's own
    parents: by rank of non-domination, then by crowding distance; feasible before infeasible, less infeasible before
    more, pruned last. A child takes each gene from either of two parents, each the better of two drawn; then each gene
    changes with probability 1/genes, half of the time to a neighbouring value, else to any other. A design that was
    proposed before is changed further. The first generation spreads the values of every choice evenly.

    Every random number comes from (seed, generation, place in it) and only earlier generations are read, so a design is a function of
    seed, trial number and those results. All of a generation must be told before the next is asked for.
    """

    def __init__(self, space: Space, seed: int, population: int) -> None:
        self.space = space
        self.seed = seed
        self.population = population
        self._sizes = {choice.name: len(choice.values) for choice in space.choices}
        self._broods: dict[int, list[_Genome]] = {}
        self._parents: dict[int, list[_Scored]] = {0: []}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        generation, place = divmod(trial.number, self.population)
        return _value(param_distribution, self._brood(study, generation)[place][param_name])

    def _brood(self, study: Study, generation: int) -> list[_Genome]:
        if generation not in self._broods:
            self._broods[generation] = self._first() if generation == 0 else self._bred(study, generation)
        return self._broods[generation]

    def _first(self) -> list[_Genome]:
        rng = np.random.default_rng([self.seed, 0])
        columns = {}
        for name, size in self._sizes.items():
            rounds = [rng.permutation(size) for _ in range(-(-self.population // size))]
            columns[name] = rng.permutation(np.concatenate(rounds)[: self.population])
        seen: set[tuple] = set()
        return [
            self._unseen({name: int(column[i]) for name, column in columns.items()}, seen, rng)
            for i in range(self.population)
        ]

    def _bred(self, study: Study, generation: int) -> list[_Genome]:
        trials = study.get_trials(deepcopy=False)
        past = trials[: generation * self.population]
        assert len(past) == generation * self.population and all(trial.state.is_finished() for trial in past)
        parents = self._elite(study, trials, generation)
        seen = {self._key(self._genome(trial)) for trial in past}
        rng = np.random.default_rng([self.seed, generation])
        brood = []
        for _ in range(self.population):
            mother = _better(parents, rng)
            father = _better(parents, rng) if rng.random() < CROSSOVER else mother
            from_father = rng.random(len(self._sizes)) < 0.5
            child = {
                name: (father if other else mother).genome[name]
                for name, other in zip(self._sizes, from_father, strict=True)
            }
            brood.append(self._unseen(self._mutated(child, rng), seen, rng))
        return brood

    def _elite(self, study: Study, trials: list[FrozenTrial], generation: int) -> list[_Scored]:
        """The parents of a generation, best first; those of every earlier generation are found on the way."""
        for g in range(max(self._parents) + 1, generation + 1):
            fresh = trials[(g - 1) * self.population : g * self.population]
            pool = self._parents[g - 1] + [
                _Scored(self._genome(trial), *_score(trial, study.directions), trial.number)
                for trial in fresh
                if trial.state != TrialState.FAIL
            ]
            assert pool, "every trial of a generation failed"
            self._parents[g] = _ranked(pool)[: self.population]
        return self._parents[generation]

    def _genome(self, trial: FrozenTrial) -> _Genome:
        """The genes of a trial; those its conditions left out are drawn, so that no child lacks them."""
        rng = np.random.default_rng([self.seed, trial.number, 1])
        spare = {name: int(rng.integers(size)) for name, size in self._sizes.items()}
        return spare | {name: index_of(trial, name) for name in trial.params}

    def _mutated(self, genome: _Genome, rng: np.random.Generator, *, least: int = 0) -> _Genome:
        open_names = [name for name, size in self._sizes.items() if size > 1]
        changed = [name for name in open_names if rng.random() < 1 / len(open_names)]
        while len(changed) < min(least, len(open_names)):
            changed.append(open_names[int(rng.integers(len(open_names)))])
        child = dict(genome)
        for name in changed:
            size, old = self._sizes[name], child[name]
            near = [i for i in (old - 1, old + 1) if 0 <= i < size]
            anywhere = [i for i in range(size) if i != old]
            options = near if rng.random() < 0.5 else anywhere
            child[name] = options[int(rng.integers(len(options)))]
        return child

    def _unseen(self, genome: _Genome, seen: set[tuple], rng: np.random.Generator) -> _Genome:
        """The genome, changed until it is a design that was not proposed before; as it is where none is found."""
        child = genome
        for tried in range(TRIES):
            if self._key(child) not in seen:
                break
            child = self._mutated(child if tried % 5 else genome, rng, least=1)
        seen.add(self._key(child))
        return child

    def _key(self, genome: _Genome) -> tuple:
        return tuple(self.space.suggest(_Reader(genome)).items())


@dataclass(frozen=True)
class _Scored:
    """A candidate parent. costs: to be minimised. violation: sum over its constraints, infinite when it was pruned."""

    genome: _Genome
    costs: tuple[float, ...]
    violation: float
    number: int


def _score(trial: FrozenTrial, directions: Sequence[StudyDirection]) -> tuple[tuple[float, ...], float]:
    if trial.state != TrialState.COMPLETE:
        return (inf,) * len(directions), inf
    signs = [-1.0 if direction == StudyDirection.MAXIMIZE else 1.0 for direction in directions]
    violation = sum(max(0.0, value) for value in trial.constraints.values())
    return tuple(sign * value for sign, value in zip(signs, trial.values, strict=True)), violation


def _ranked(pool: Sequence[_Scored]) -> list[_Scored]:
    """Best first: feasible ones by rank and crowding, then infeasible ones by violation; ties by trial number."""
    feasible = sorted((one for one in pool if one.violation == 0.0), key=lambda one: one.number)
    infeasible = sorted((one for one in pool if one.violation > 0.0), key=lambda one: (one.violation, one.number))
    ranked: list[_Scored] = []
    while feasible:
        costs = np.array([one.costs for one in feasible])
        best = non_dominated(costs)
        distance = crowding(costs[best])
        front = [one for one, kept in zip(feasible, best, strict=True) if kept]
        ranked += [front[i] for i in np.argsort(-distance, kind="stable")]
        feasible = [one for one, kept in zip(feasible, best, strict=True) if not kept]
    return ranked + infeasible


def crowding(costs: np.ndarray) -> np.ndarray:
    """Crowding distance of each row of ``costs`` [N, M]: sum over columns of the gap between its neighbours, in units of
    the column's range; infinite at the ends (Deb et al. 2002, III B)."""
    distance = np.zeros(len(costs))
    for column in costs.T:
        order = np.argsort(column, kind="stable")
        spread = column[order[-1]] - column[order[0]]
        distance[order[[0, -1]]] = inf
        if spread > 0 and len(costs) > 2:
            distance[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / spread
    return distance


def _better(parents: Sequence[_Scored], rng: np.random.Generator) -> _Scored:
    """The better of two drawn; parents stand best first."""
    return parents[min(int(rng.integers(len(parents))), int(rng.integers(len(parents))))]


def _words(params: Params) -> tuple[str, ...]:
    """A point as something to know it again by: True is not 1."""
    return tuple(f"{name}={value!r}" for name, value in params.items())


def _size(distribution: BaseDistribution) -> int:
    if isinstance(distribution, IntDistribution):
        return distribution.high + 1
    assert isinstance(distribution, CategoricalDistribution)
    return len(distribution.choices)


def _value(distribution: BaseDistribution, index: int) -> Any:
    return distribution.choices[index] if isinstance(distribution, CategoricalDistribution) else index


def index_of(trial: FrozenTrial, name: str) -> int:
    """Which of the values of a choice a trial was given."""
    return int(trial.distributions[name].to_internal_repr(trial.params[name]))


def params_of(space: Space, trial: FrozenTrial) -> Params:
    """The point of a trial that was told."""
    return space.suggest(_Reader({name: index_of(trial, name) for name in trial.params}))
