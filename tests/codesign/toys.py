"""A study whose designs cost nothing to compute and leave a diary; ``python -m tests.codesign.toys`` runs it as a client.

The diary has one line for each start and finish of a trial, with the process that wrote it, so that a test can see what was
computed twice or lost, and whom to kill.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from spikeloom.codesign.search import SearchResult, SearchSettings, search
from spikeloom.codesign.space import Choice, Params, Space
from spikeloom.codesign.workers import CheckpointReport
from spikeloom.core.report import LayerReport, Report, Trial
from spikeloom.errors import MappingError, SpikeloomError

SPACE = Space(
    (
        Choice("arch.rows", (1, 2, 4, 8, 16, 32)),
        Choice("arch.split", (0.25, 0.5, 0.75)),
        Choice("arch.dispatch", ("agile", "ptb", "dense")),
        Choice("arch.merge", (1, 2, 4), when={"arch.dispatch": ("agile", "ptb")}),
    )
)
SETTINGS = {
    "nsga2": SearchSettings(("energy", "latency"), trials=24, sampler="nsga2", population=6, seed=3),
    "grid": SearchSettings(("energy", "latency"), trials=24, sampler="grid"),
    "random": SearchSettings(("energy", "latency"), trials=12, sampler="random", seed=3),
}


@dataclass(frozen=True)
class Toy:
    """Many rows are fast and dear; 32 rows do not fit.

    diary: where starts and finishes are noted.
    seconds: that a trial takes.
    hang: file that the first trial to find it absent makes, with its process id, and then hangs for a minute.
    hang_at: the rows of the trial that does.
    die_at: the rows at which the process ends itself, every time.
    """

    diary: Path
    seconds: float = 0.0
    hang: Path | None = None
    hang_at: int = 1
    die_at: int = 0
    seed: int = 0
    epochs: int = 0

    def identity(self, params: Params) -> Trial:
        return Trial({"params": dict(params)}, {"rows": params["arch.rows"]}, self.seed, "toy", None, None)

    def __call__(self, params: Params, checkpoint_report: CheckpointReport | None) -> Trial | None:
        made = self.identity(params)
        self._note("start", made.id)
        rows, split = float(params["arch.rows"]), float(params["arch.split"])
        if self.hang is not None and rows == self.hang_at and not self.hang.exists():
            self.hang.write_text(str(os.getpid()))
            time.sleep(60)
        if rows == self.die_at:
            os._exit(3)
        time.sleep(self.seconds)
        if rows == 32:
            self._note("finish", made.id)
            raise MappingError("32 rows: there is room for 16; take fewer")
        for epoch in range(self.epochs):
            if checkpoint_report is not None and checkpoint_report(epoch, {"accuracy": epoch / 10 + rows / 100}):
                self._note("pruned", made.id)
                return None
        factor = {"agile": 1.0, "ptb": 1.3, "dense": 2.0}[str(params["arch.dispatch"])]
        merge = float(params.get("arch.merge", 1))
        energy = factor * (rows + 10 * (split - 0.4) ** 2 + 1 / merge)
        report = toy_report(energy, factor * (64 / rows + merge), area=rows)
        self._note("finish", made.id)
        return Trial(made.config, made.arch, made.seed, "toy", 0.5 + rows / 100 + self.epochs / 10, report)

    def _note(self, what: str, trial_id: str) -> None:
        with self.diary.open("a") as file:
            file.write(f"{what} {trial_id} {os.getpid()}\n")


def toy_report(energy_j: float, latency_s: float, area: float | None) -> Report:
    layer = LayerReport("fc", 1, latency_s, 1, {"pe.add": 1}, {"pe.add": energy_j})
    areas = None if area is None else {"pe": area}
    return Report("toy", {}, 1, (layer,), 1, latency_s, areas, {}, workload_id="toy")


def noted(diary: Path, what: str) -> Counter[str]:
    """How often each trial has such a line in the diary."""
    lines = [line.split() for line in diary.read_text().splitlines()] if diary.exists() else []
    return Counter(trial_id for word, trial_id, _ in lines if word == what)


@cache
def undisturbed(name: str) -> SearchResult:
    """The study of that name on one process, from beginning to end."""
    with tempfile.TemporaryDirectory() as folder:
        return search(SPACE, Toy(Path(folder) / "diary"), SETTINGS[name], folder + "/study", storage="memory")


def check_undisturbed(name: str, result: SearchResult, diary: Path) -> None:
    """The points and the front of the undisturbed study; each trial finished, and none twice."""
    expected = undisturbed(name)
    assert [one.params for one in result.outcomes] == [one.params for one in expected.outcomes]
    assert [trial.id for trial in result.front] == [trial.id for trial in expected.front]
    finished = noted(diary, "finish")
    assert set(finished) == {one.trial.id for one in expected.outcomes if one.trial}
    assert set(finished.values()) == {1}


def main() -> None:
    # a shell's background job ignores interruptions, and so would its children
    signal.signal(signal.SIGINT, signal.default_int_handler)
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--settings", choices=SETTINGS, default="nsga2")
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--hang", type=Path)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--cluster")
    parser.add_argument("--storage")
    args = parser.parse_args()
    toy = Toy(args.folder / "diary", args.seconds, args.hang)
    where: dict[str, Any] = {"workers": args.workers, "cluster": args.cluster, "storage": args.storage}
    try:
        result = search(SPACE, toy, SETTINGS[args.settings], args.folder / "study", **where)
    except SpikeloomError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
    for trial in result.front:
        sys.stdout.write(f"{trial.id}\n")


if __name__ == "__main__":
    main()
