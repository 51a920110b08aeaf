"""What a design costs at its best: the exact optimum over what its mapping may still decide."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from spikeloom.codesign.machines import PREFIX, Family
from spikeloom.codesign.mapping import KNOBS, MappingChoices, Objective, best_mapping
from spikeloom.codesign.schedules import ScheduleCache
from spikeloom.codesign.space import Params
from spikeloom.components import load_table
from spikeloom.core.arch import AbstractArch
from spikeloom.core.report import Report
from spikeloom.core.workload import Workload
from spikeloom.cost import standing
from spikeloom.errors import ConfigError, MappingError
from spikeloom.evaluate import ARCH_TYPES, PRESETS, evaluate
from spikeloom.files.config import machine_from
from spikeloom.hw.spikex import SpikexArch

#: The list of choices for each field that a mapping settles.
LISTS: Mapping[str, str] = dict(zip(KNOBS, ("windows", "dispatches", "orders", "merges"), strict=True))


@dataclass(frozen=True)
class InnerSearch:
    """The search inside each design: the best mapping for its spikes.

    choices: of every layer; None leaves the machine's own mapping. objective: what the mapping minimises.
    area_at_most: m2; longer windows than fit into it are left out, since their registers take area. Where none fits, all stay,
        and the design is as large as it is.
    """

    choices: MappingChoices | None = field(default_factory=MappingChoices)
    objective: Objective = "edp"
    area_at_most: float | None = None

    def left(self, params: Params, family: Family) -> MappingChoices | None:
        """What the mapping may still decide in a design whose ``params`` may choose some of it.

        A field that the design chooses for all layers stays as chosen; one chosen layer by layer means that the search
        outside looks for the mapping, and nothing is left.
        """
        chosen = family.chosen_mapping(params)
        if self.choices is None or not isinstance(family.base, SpikexArch) or any("." in _field(n) for n in chosen):
            return None
        settled: dict[str, Any] = {LISTS[_field(name)]: (params[name],) for name in chosen}
        return self._fitting(replace(self.choices, **settled), family.at(params))

    def _fitting(self, choices: MappingChoices, arch: AbstractArch) -> MappingChoices:
        if self.area_at_most is None or not isinstance(arch, SpikexArch):
            return choices
        areas = {window: area_of(replace(arch, window=window)) for window in choices.windows}
        windows = tuple(window for window, area in areas.items() if area is None or area <= self.area_at_most)
        return replace(choices, windows=windows) if windows else choices

    def report(
        self,
        workload: Workload,
        arch: AbstractArch,
        left: MappingChoices | None,
        *,
        cache: ScheduleCache | None = None,
        threads: int | None = None,
    ) -> Report:
        """The bill of the machine at its best mapping, as ``evaluate`` writes it; ``report.arch`` has that mapping.

        Raises:
            MappingError: the machine cannot run the workload, or has no such mapping.
            CostError: a counted action has no sourced price.
        """
        if left is None:
            return evaluate(workload, arch, cache=cache, threads=threads)
        try:
            return best_mapping(workload, arch, left, objective=self.objective, cache=cache, threads=threads).report
        except ConfigError as error:  # a dispatch that does not go with another chosen field
            raise MappingError(str(error)) from None

    def described(self, left: MappingChoices | None) -> dict[str, Any] | None:
        """As plain JSON values."""
        if left is None:
            return None
        return {**{name: list(values) for name, values in asdict(left).items()}, "objective": self.objective}


def _field(name: str) -> str:
    return name.removeprefix(PREFIX)


def area_of(arch: AbstractArch) -> float | None:
    """Square metres, as a report sums them; None where the table prices no area of the machine."""
    areas, _, _ = standing(arch.inventory(), load_table(arch.table).area, "area")
    return sum(areas.values()) if areas else None


def priced_as(arch: AbstractArch, other: AbstractArch) -> AbstractArch:
    """``arch`` at the table and clock of ``other``, so that the two can be compared; as it is where it cannot have them."""
    try:
        changed: AbstractArch = replace(arch, table=other.table, clock=other.clock)  # type: ignore[type-var]
    except ConfigError:
        return arch
    return changed


def machine_of(report: Report) -> AbstractArch:
    """The machine that a report is about."""
    return machine_from(report.arch, ARCH_TYPES, PRESETS, "report")


def prices_id(arch: AbstractArch) -> str | None:
    """Content id of a price table of the user's own, which may change behind its name; None for one that ships."""
    path = Path(arch.table)
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.suffix == ".toml" and path.exists() else None


@lru_cache(maxsize=4)
def schedules(folder: Path | None) -> ScheduleCache:
    """The schedules that all designs computed in this process share."""
    return ScheduleCache(folder)
