"""Search files: what a user writes to have designs searched; every key checked before the first design is computed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikeloom.codesign.inner import LISTS, InnerSearch, area_of, priced_as
from spikeloom.codesign.machines import PREFIX, Family
from spikeloom.codesign.mapping import MappingChoices
from spikeloom.codesign.metrics import METRICS, Constraint
from spikeloom.codesign.search import SearchSettings
from spikeloom.codesign.space import Choice, Space
from spikeloom.codesign.trace_search import TraceObjective, layers_of, loaded
from spikeloom.core.arch import AbstractArch
from spikeloom.errors import ConfigError, CostError, SearchError, SpikeloomError
from spikeloom.evaluate import load_machine
from spikeloom.files.schema import dataclass_from, nearest, read_toml
from spikeloom.hw.spikex import SpikexArch
from spikeloom.units import SUFFIXES, to_si

if TYPE_CHECKING:
    from spikeloom.studies.recipe import Recipe
    from spikeloom.studies.train_search import TrainObjective

#: Searches that ship with the package.
SEARCHES = ("digits", "array")
#: Keys of one entry of ``[space]`` that is more than a list.
_DETAILS = ("values", "when", "total", "parts")


@dataclass(frozen=True, kw_only=True)
class Baselines:
    """Machines that every design is compared with, each at its best window for all layers. windows: tried for them."""

    machines: tuple[str, ...] = ()
    windows: tuple[int, ...] = MappingChoices().windows

    def __post_init__(self) -> None:
        MappingChoices(windows=self.windows)  # refused now, not behind the search


@dataclass(frozen=True, kw_only=True)
class SearchFile:
    """What a search file says.

    search: fields of ``codesign.search.SearchSettings`` but the constraints.
    space: choices by dotted name, each a list of values, "default", or a table (values, when, total, parts).
    machine: as ``spikeloom eval`` takes it; what is not chosen stays as it is there.
    trace, experiment, network: the spikes, how networks are made, or a trained network to start from.
    train: changes to ``[train]`` of the experiment.
    held_out: fraction of the training set that is only scored. recorded: held-out samples whose spikes are counted.
    constraints: metric -> bounds (``area_mm2 = { at_most = 0.7 }``).
    mapping: ``codesign.mapping.MappingChoices`` and ``objective`` of the search inside each design; ``search = false``: none.
    cotrain, prune, quantize: stages of a recipe.
    """

    search: Mapping[str, Any]
    space: Mapping[str, Any]
    machine: str = "spikex"
    trace: str | None = None
    experiment: str | None = None
    network: str | None = None
    train: Mapping[str, Any] = field(default_factory=dict)
    held_out: float = 0.2
    recorded: int = 100
    constraints: Mapping[str, Any] = field(default_factory=dict)
    mapping: Mapping[str, Any] = field(default_factory=dict)
    cotrain: Mapping[str, Any] | None = None
    prune: Mapping[str, Any] | None = None
    quantize: Mapping[str, Any] | None = None
    baselines: Baselines = field(default_factory=Baselines)


@dataclass(frozen=True)
class Plan:
    """A search that can begin. baselines: (name, machine)."""

    name: str
    space: Space
    objective: TraceObjective | TrainObjective
    settings: SearchSettings
    baselines: tuple[tuple[str, AbstractArch], ...]
    windows: tuple[int, ...]


def search_text(name: str) -> str:
    """A shipped search as it stands in its file."""
    return (resources.files(__package__) / "searches" / f"{name}.toml").read_text(encoding="utf-8")


def search_title(name: str) -> str:
    """The comment line at the top of a shipped search."""
    return search_text(name).splitlines()[0].removeprefix("# ")


def read_search(
    name_or_path: str | Path, *, inputs: Mapping[str, str] | None = None, changes: Mapping[str, Any] | None = None
) -> tuple[SearchFile, str]:
    """(what it says, its name) of a shipped search or of a search file.

    inputs: ``trace``, ``network`` or ``experiment`` that take the place of those of the file. changes: fields of ``[search]``
    that do. Files that the file names lie beside it, those of ``inputs`` where they say.

    Raises:
        ConfigError: naming file and key.
    """
    text, beside = str(name_or_path), None
    if text in SEARCHES:
        with resources.as_file(resources.files(__package__) / "searches" / f"{text}.toml") as path:
            raw = read_toml(path)
    elif Path(text).suffix == ".toml" or os.path.exists(text):
        raw, beside = read_toml(text), Path(text).parent
    else:
        raise ConfigError(
            f"{text}: no such search{nearest(text, SEARCHES)}; expected {', '.join(SEARCHES)} or a .toml file"
        )
    if beside is not None:
        for key in ("trace", "network", "experiment", "machine"):
            if key in raw:
                raw[key] = _beside(raw[key], beside)
        baselines = raw.get("baselines")
        if isinstance(baselines, Mapping) and isinstance(baselines.get("machines"), list):
            raw["baselines"] = {**baselines, "machines": [_beside(name, beside) for name in baselines["machines"]]}
    if inputs:
        replaced = ("trace", "network", "experiment") if "trace" in inputs else ("trace", *inputs)
        raw = {key: value for key, value in raw.items() if key not in replaced} | dict(inputs)
    table = raw.get("search", {})
    if isinstance(table, Mapping):
        raw["search"] = {**table, **(changes or {})}
    return dataclass_from(SearchFile, raw, text), Path(text).stem


def _beside(name: Any, folder: Path) -> Any:
    """A file, with changes behind a colon or without, in ``folder`` if it lies there; anything else as it is."""
    if not isinstance(name, str):
        return name
    for file in (name, name.partition(":")[0]):
        if (folder / file).is_file():
            return f"{folder / file}{name[len(file) :]}"
    return name


def plan_search(
    file: SearchFile, name: str, folder: Path, *, data_dir: Path | None = None, threads: int | None = None
) -> Plan:
    """Check everything a search file says against what it names, and put the search together.

    Args:
        file, name: from `read_search`.
        folder: of the study.
        data_dir: of data sets.
        threads: of one trial.

    Raises:
        SpikeloomError: one line that names the key.
    """
    where = name
    if file.trace is None and file.experiment is None and file.network is None:
        raise ConfigError(f"{where}: names no spikes to search with; give trace, experiment or network, or --trace")
    if not 0 < file.held_out < 1:
        raise ConfigError(f"{where}: held_out: got {file.held_out}, expected a fraction between 0 and 1")
    if file.recorded < 1:
        raise ConfigError(f"{where}: recorded: got {file.recorded}, expected at least 1 sample")
    family = Family(load_machine(file.machine)[1])
    settings = _settings(file, family.base, where)
    _refuse_idle(file, family, where)
    inner = _inner(file, settings, family, where)
    if file.trace is not None:
        objective: TraceObjective | TrainObjective = _on_trace(file, family, inner, folder, threads, where)
    else:
        objective = _on_training(file, family, inner, folder, data_dir, threads, where)
    space = read_space(file.space, objective.family, where)
    for choice in space.choices:
        try:
            objective.check(choice)
        except SearchError as error:
            raise ConfigError(f"{where}: space: {error}") from None
    baselines = tuple(load_machine(machine) for machine in file.baselines.machines)
    return Plan(name, space, objective, settings, baselines, file.baselines.windows)


def describe_search(file: SearchFile, name: str) -> str:
    """What a search file says, checked as far as it names what it is about; a trace may be named later.

    Raises:
        SpikeloomError: as `plan_search`.
    """
    if file.trace is None and file.experiment is None and file.network is None:
        family = Family(load_machine(file.machine)[1])
        _refuse_idle(file, family, name)
        settings = _settings(file, family.base, name)
        space = read_space(file.space, family, name)
        for choice in space.choices:
            if choice.name.count(".") == 1:  # layers are not known yet
                family.check(choice)
        about = "a trace to be named"
    else:
        plan = plan_search(file, name, Path(name))
        space, settings = plan.space, plan.settings
        about = str(file.trace or file.experiment or file.network)
    return f"search of {space.size} points for {', '.join(settings.objectives)} on {about}"


def _on_trace(
    file: SearchFile, family: Family, inner: InnerSearch, folder: Path, threads: int | None, where: str
) -> TraceObjective:
    plain = SearchFile(search={}, space={})
    for key in ("experiment", "network", "cotrain", "prune", "quantize", "train", "held_out", "recorded"):
        if getattr(file, key) != getattr(plain, key):
            raise ConfigError(f"{where}: trace and {key}: the spikes of a trace are fixed; leave one of the two out")
    if "pruner" in file.search:
        raise ConfigError(f"{where}: search.pruner: has no effect on a trace, where nothing is trained; leave it out")
    assert file.trace is not None
    trace = Path(file.trace).resolve()
    return TraceObjective(trace, layers_of(loaded(trace)[0], family), inner, threads, folder.resolve() / "schedules")


def _on_training(
    file: SearchFile,
    family: Family,
    inner: InnerSearch,
    folder: Path,
    data_dir: Path | None,
    threads: int | None,
    where: str,
) -> TrainObjective:
    from spikeloom.studies.train_search import TrainObjective, synapses_of

    recipe = _recipe(file, where)
    recipe.check(where)
    return TrainObjective(
        recipe,
        Family(family.base, synapses_of(recipe, data_dir)),
        folder.resolve(),
        inner,
        file.held_out,
        file.recorded,
        None if data_dir is None else data_dir.resolve(),
        threads,
    )


def _recipe(file: SearchFile, where: str) -> Recipe:
    from spikeloom.files.network import read_network
    from spikeloom.studies.experiment import read_experiment, shown_to
    from spikeloom.studies.recipe import Recipe

    # one thread unless the file says otherwise: a sum over more may end in other last bits, and with it another network
    changes = {"threads": 1, **file.train}
    if file.network is None:
        experiment = read_experiment(str(file.experiment), changes)
    else:
        _, experiment, _ = shown_to(read_network(file.network), file.network, file.experiment)
        experiment = replace(experiment, train={**experiment.train, **changes})
    network = None if file.network is None else str(Path(file.network).resolve())
    return Recipe(
        experiment=experiment, network=network, cotrain=file.cotrain, prune=file.prune, quantize=file.quantize
    )


def _refuse_idle(file: SearchFile, family: Family, where: str) -> None:
    """Refuse keys that do nothing beside the others that are there, as the command line refuses such options."""
    searched = isinstance(family.base, SpikexArch) and file.mapping.get("search", True)
    unpruned = [key for key in file.search if key.startswith("prune_") and "pruner" not in file.search]
    idle = {f"search.{key}": "a pruner" for key in unpruned}
    idle |= {f"mapping.{key}": "a search of mappings" for key in file.mapping if key != "search" and not searched}
    chosen = dict(_entries("", file.space))
    fixed = {LISTS[key]: key for key in LISTS if isinstance(chosen.get(PREFIX + key), list)}
    idle |= {f"mapping.{key}": f"a {fixed[key]} that [space] leaves open" for key in file.mapping if key in fixed}
    timed = [machine for machine in file.baselines.machines if isinstance(load_machine(machine)[1], SpikexArch)]
    if file.baselines.windows != Baselines().windows and not timed:
        idle["baselines.windows"] = "machines that have windows"
    for key, what in idle.items():
        raise ConfigError(f"{where}: {key}: has no effect without {what}; leave it out")


def _settings(file: SearchFile, base: AbstractArch, where: str) -> SearchSettings:
    if "constraints" in file.search:
        raise ConfigError(f"{where}: search.constraints: stand in a table of their own, [constraints]")
    bounds = tuple(_constraint(key, bound, base, where) for key, bound in file.constraints.items())
    return replace(dataclass_from(SearchSettings, file.search, f"{where}: search"), constraints=bounds)


def _constraint(key: str, bound: Any, base: AbstractArch, where: str) -> Constraint:
    """``area_mm2 = { at_most = 0.7 }``; a word in the place of an area names the machine that has it, at the table of ``base``."""
    metric = next((name for name in METRICS if key == name or key.startswith(name + "_")), None)
    if metric is None:
        raise ConfigError(
            f"{where}: constraints: got '{key}'{nearest(key.partition('_')[0], METRICS)}, expected one of {', '.join(METRICS)}, with a unit "
            "behind (area_mm2, energy_uj, latency_ms)"
        )
    suffix = key.removeprefix(metric).lstrip("_")
    unit = METRICS[metric].unit
    fitting = [*(word for word, (_, si) in SUFFIXES.items() if si == unit), *([unit.lower()] if unit else [])]
    if suffix and suffix not in fitting:
        raise ConfigError(
            f"{where}: constraints.{key}: got the unit '{suffix}', expected {' or '.join(fitting) or 'none'} for {metric}"
        )
    if not isinstance(bound, Mapping) or not bound or not set(bound) <= {"at_most", "at_least"}:
        raise ConfigError(
            f"{where}: constraints.{key}: got {bound!r}, expected {{ at_most = ... }} or {{ at_least = ... }}"
        )
    named = all(isinstance(value, str) for value in bound.values())
    if fitting and not suffix and not named:
        raise ConfigError(f"{where}: constraints.{key}: lacks its unit; name it {metric}_{' or _'.join(fitting)}")
    sides = {
        side: _bound(metric, suffix, value, base, f"{where}: constraints.{key}.{side}") for side, value in bound.items()
    }
    try:
        return Constraint(metric, **sides)
    except SearchError as error:
        raise ConfigError(f"{where}: constraints.{key}: {error}") from None


def _bound(metric: str, suffix: str, value: Any, base: AbstractArch, where: str) -> float:
    if isinstance(value, str) and metric == "area":
        return _area_of(load_machine(value)[1], base, where)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{where}: got {value!r}, expected a number{' or a machine' if metric == 'area' else ''}")
    return to_si(float(value), suffix) if suffix in SUFFIXES else float(value)


def _area_of(arch: AbstractArch, base: AbstractArch, where: str) -> float:
    try:
        area = area_of(priced_as(arch, base))
    except CostError:  # the table of the one does not know the parts of the other
        area = area_of(arch)
    if area is None:
        raise ConfigError(f"{where}: {arch.model} has no area in the table {arch.table}; give a number")
    return area


def _inner(file: SearchFile, settings: SearchSettings, family: Family, where: str) -> InnerSearch:
    raw = dict(file.mapping)
    wanted = raw.pop("search", True)
    if not isinstance(wanted, bool):
        raise ConfigError(f"{where}: mapping.search: got {wanted!r}, expected true or false")
    costs = {name for name in settings.objectives if name in ("energy", "latency", "edp")}
    objective = raw.pop("objective", next(iter(costs)) if len(costs) == 1 else "edp")
    if objective not in ("edp", "energy", "latency"):
        raise ConfigError(f"{where}: mapping.objective: got {objective!r}, expected edp, energy or latency")
    own = {}
    for key in family.per_layer:
        if key in LISTS and family.keys[key].metadata["search"]:
            own[LISTS[key]] = list(family.keys[key].metadata["search"])
    known = [item.name for item in fields(MappingChoices)]
    for key in raw:
        if key not in known:
            everything = [*known, "objective", "search"]
            raise ConfigError(
                f"{where}: mapping.{key}: unknown key{nearest(key, everything)}; known keys: {', '.join(everything)}"
            )
    choices = dataclass_from(MappingChoices, {**own, **raw}, f"{where}: mapping")
    bound = next((one.at_most for one in settings.constraints if one.metric == "area"), None)
    return InnerSearch(choices if wanted else None, objective, bound)


def read_space(raw: Mapping[str, Any], family: Family, where: str) -> Space:
    """The choices of ``[space]``, in their order; those a machine brings along where they are asked for.

    Raises:
        ConfigError: naming the choice.
    """
    choices: list[Choice] = []
    try:
        for name, entry in _entries("", raw):
            if name in ("arch", "arch.default"):
                _default(entry, name)
                taken = {choice.name.removeprefix(PREFIX) for choice in choices} | _listed(raw)
                choices += [choice for choice in family.default_choices() if not _decided(choice, family) & taken]
            else:
                choices.append(_choice(name, entry, family))
        space = Space(tuple(choices))
        _check_joints(space, family)
    except SpikeloomError as error:
        raise ConfigError(f"{where}: space: {error}") from None
    return space


def _entries(prefix: str, raw: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Dotted names; TOML makes nested tables of names without quotes."""
    found = []
    for key, value in raw.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and not set(value) & set(_DETAILS):
            found += _entries(f"{name}.", value)
        else:
            found.append((name, value))
    return found


def _default(entry: Any, name: str) -> None:
    if entry != ("default" if name == "arch" else True):
        raise SearchError(f"choice '{name}': got {entry!r}, expected arch = \"default\" or arch.default = true")


def _listed(raw: Mapping[str, Any]) -> set[str]:
    return {name.removeprefix(PREFIX) for name, _ in _entries("", raw) if name.startswith(PREFIX)}


def _decided(choice: Choice, family: Family) -> set[str]:
    """Names of the fields that a choice of the machine decides, its own included."""
    name = choice.name.removeprefix(PREFIX)
    joint = family.base.joints.get(name)
    return {name} | (set(joint.keys) if joint else set())


def _check_joints(space: Space, family: Family) -> None:
    for choice in space.choices:
        if not choice.name.startswith(PREFIX):
            continue
        both = (_decided(choice, family) - {choice.name.removeprefix(PREFIX)}) & {
            name.removeprefix(PREFIX) for name in space.names
        }
        if both:
            field_name = sorted(both)[0]
            raise SearchError(f"choices '{choice.name}' and '{PREFIX}{field_name}' both decide {field_name}; keep one")


def _choice(name: str, entry: Any, family: Family) -> Choice:
    machine = name.startswith(PREFIX)
    if entry == "default" and machine:
        return Choice(name, family.candidates(name))
    if isinstance(entry, list):
        return Choice(name, tuple(entry))
    if not isinstance(entry, Mapping):
        word = ', "default"' if machine else ""
        raise SearchError(
            f"choice '{name}': got {entry!r}, expected a list of values{word} or a table with values and when"
        )
    for key in entry:
        if key not in _DETAILS:
            raise SearchError(
                f"choice '{name}': got '{key}'{nearest(key, _DETAILS)}, expected some of {', '.join(_DETAILS)}"
            )
    when = entry.get("when")
    if when is not None and not isinstance(when, Mapping):
        raise SearchError(f"choice '{name}': when: got {when!r}, expected a table choice -> values")
    conditions = (
        None
        if when is None
        else {parent: tuple(values) if isinstance(values, list) else (values,) for parent, values in _entries("", when)}
    )
    return Choice(name, _values(name, entry, family), conditions)


def _values(name: str, entry: Mapping[str, Any], family: Family) -> tuple[Any, ...]:
    values, total, parts = entry.get("values"), entry.get("total"), entry.get("parts")
    budget = total is not None or parts is not None
    if budget and name.removeprefix(PREFIX) not in family.base.joints:
        known = ", ".join(f"{PREFIX}{joint}" for joint in family.base.joints)
        raise SearchError(f"choice '{name}': total and parts share a budget out, which only {known or 'no choice'} can")
    if budget and values is not None:
        raise SearchError(f"choice '{name}': has values and a budget; give one of the two")
    for key, number, kind in (("total", total, int | float), ("parts", parts, int)):
        if number is not None and (isinstance(number, bool) or not isinstance(number, kind)):
            raise SearchError(f"choice '{name}': {key}: got {number!r}, expected a {'whole ' * (kind is int)}number")
    if values is None or values == "default":
        return family.candidates(name, total, parts)
    if not isinstance(values, list):
        raise SearchError(f"choice '{name}': values: got {values!r}, expected a list")
    return tuple(values)
