"""Architecture search on fixed spikes: what a machine spends on the same recorded trace, whatever its shape."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from spikeloom.codesign.inner import InnerSearch, prices_id, schedules
from spikeloom.codesign.machines import Family
from spikeloom.codesign.space import Choice, Params
from spikeloom.codesign.workers import CheckpointReport
from spikeloom.core.report import Trial
from spikeloom.core.workload import Workload
from spikeloom.errors import SearchError
from spikeloom.evaluate import load_workload
from spikeloom.files.config import machine_keys
from spikeloom.files.store import read_trace
from spikeloom.hw import HARDWARE


@dataclass(frozen=True)
class TraceObjective:
    """What a machine spends on a trace; accuracy is that of the trace, if it has one.

    trace: a trace .npz or a workload .toml, read once in each process.
    family: the machine and its layers. inner: what is settled inside each design.
    threads: samples counted in parallel; None for all cores.
    cache: folder of counted schedules that processes share; None for the memory of each.
    """

    trace: Path
    family: Family
    inner: InnerSearch = field(default_factory=InnerSearch)
    threads: int | None = 1
    cache: Path | None = None

    def check(self, choice: Choice) -> None:
        """Raise SearchError unless ``choice`` is one of the machine's."""
        if not choice.name.startswith("arch."):
            raise SearchError(
                f"choice '{choice.name}': the spikes of a trace are fixed, only the machine can be chosen (arch.rows); name an "
                "experiment or a network instead of the trace to search over its training"
            )
        self.family.check(choice)

    def identity(self, params: Params) -> Trial:
        """The trial without its outcome. Raises MappingError for chosen values that do not go together."""
        workload, _ = loaded(self.trace)
        arch = self.family.at(params)
        config: dict[str, Any] = {
            "search": "trace",
            "params": dict(params),
            "mapping": self.inner.described(self.inner.left(params, self.family)),
            "prices": prices_id(arch),
        }
        return Trial(config, machine_keys(arch), 0, workload.id, None, None)

    def __call__(self, params: Params, checkpoint_report: CheckpointReport | None = None) -> Trial:
        """Count and price. Raises MappingError where the machine cannot run the trace."""
        known = self.identity(params)
        workload, accuracy = loaded(self.trace)
        report = self.inner.report(
            workload,
            self.family.at(params),
            self.inner.left(params, self.family),
            cache=schedules(self.cache),
            threads=self.threads,
        )
        return Trial(known.config, known.arch, known.seed, known.workload_id, accuracy, report)


def loaded(trace: Path) -> tuple[Workload, float | None]:
    """The workload of a file, and the accuracy of its network where the file tells it."""
    return _loaded(trace, trace.stat().st_mtime_ns if trace.exists() else 0)


@lru_cache(maxsize=2)
def _loaded(trace: Path, written_ns: int) -> tuple[Workload, float | None]:
    accuracy = read_trace(trace)[1].accuracy if trace.suffix.lower() == ".npz" else None
    return load_workload(trace), accuracy


def layers_of(workload: Workload, family: Family) -> Family:
    """The family with the names of the layers that its machine runs."""
    run = HARDWARE[family.base.model].runs(workload, family.base)
    return Family(family.base, tuple(layer.name for layer in run.layers))
