"""``spikeloom check``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spikeloom.cli.console import complain, out
from spikeloom.errors import SpikeloomError
from spikeloom.studies.check import describe_file


def check(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="traces, networks, NIR graphs, state dicts, descriptions, machines, workloads, experiments, searches, tables, results"
        ),
    ],
) -> None:
    """Validate files: one line each, exit code 1 when any is wrong."""
    bad = False
    for file in files:
        try:
            out.print(f"ok: {file}: {describe_file(file)}", markup=False, soft_wrap=True)
        except SpikeloomError as error:
            bad = True
            complain(str(error))
    if bad:
        raise typer.Exit(1)
