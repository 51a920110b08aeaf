"""The two consoles: results on standard output, progress and complaints on standard error; options that verbs share."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar

import typer
from rich.console import Console

out = Console(highlight=False, soft_wrap=False, emoji=False)
err = Console(stderr=True, highlight=False, emoji=False)

#: Options of every verb that shows a network its data.
OtherData = Annotated[str | None, typer.Option(help="another experiment's data [the one it was trained on]")]
DataDir = Annotated[Path | None, typer.Option(help="folder of data sets [SPIKELOOM_DATA]")]


def complain(text: str) -> None:
    """One line on standard error."""
    err.print(f"error: {' '.join(text.split())}", style="bold red", soft_wrap=True, markup=False)


def caution(warnings: Sequence[tuple[str, Sequence[str]]]) -> None:
    """(machine, its warnings) -> one line per warning on standard error, naming machines where not all share it."""
    machines: dict[str, list[str]] = {}
    for machine, lines in warnings:
        for line in lines:
            machines.setdefault(line, []).append(machine)
    for line, named in machines.items():
        warning = line if len(named) == len(warnings) else f"{', '.join(named)}: {line}"
        err.print(f"note: {warning}", style="yellow", soft_wrap=True, markup=False)


class _Log(logging.Handler):
    """Keeps what the package logs until a verb has done its work."""

    lines: ClassVar[dict[str, None]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line, once."""
        self.lines[record.getMessage()] = None

    def show(self) -> None:
        """The lines kept, as notes."""
        caution([("", tuple(self.lines))])
        self.lines.clear()


log = _Log()
logging.getLogger("spikeloom").addHandler(log)
