"""Progress of long work on standard error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from spikeloom.cli.console import complain, err

GO_ON = "interrupted; what was finished is kept, run the same command again to go on"


class Told(Protocol):
    """Called with the stage, steps done and in all, and figures worth showing."""

    def __call__(self, stage: str, done: int, total: int, figures: Mapping[str, float]) -> None: ...


@contextmanager
def bars(interrupted: str = GO_ON) -> Iterator[Told]:
    """A callable that shows one bar per stage: (stage, done, total, figures). interrupted: said where Ctrl-C ends the work."""
    columns = (
        TextColumn("{task.description:>10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    progress = Progress(*columns, console=err, transient=True)
    tasks: dict[str, TaskID] = {}

    def told(stage: str, done: int, total: int, figures: Mapping[str, float]) -> None:
        if stage not in tasks:
            tasks[stage] = progress.add_task(stage, total=total, note="")
        note = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        progress.update(tasks[stage], completed=done, total=total, note=note)

    shown = err.is_interactive  # elsewhere rich shows nothing but an empty line at the end
    if shown:
        progress.start()
    try:
        yield told
    except KeyboardInterrupt:
        if shown:
            progress.stop()
        complain(interrupted)
        raise typer.Exit(130) from None
    finally:
        if shown:
            progress.stop()
