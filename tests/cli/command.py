"""Running the command line inside the test: what it returned, what it printed where, and what it complained about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from typer.testing import CliRunner

from spikeloom.cli import app
from spikeloom.errors import SpikeloomError


@dataclass(frozen=True)
class Run:
    """complaint: the message that ``main`` would print in one line, or None."""

    code: int
    out: str
    err: str
    complaint: str | None


def spikeloom(*words: object) -> Run:
    """Run one command. Any exception but a complaint to the user is an error of the test."""
    arguments: Sequence[str] = [str(word) for word in words]
    result = CliRunner().invoke(app, arguments)
    complaint = None
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        if not isinstance(result.exception, SpikeloomError):
            raise result.exception
        complaint = str(result.exception)
        assert len(complaint.splitlines()) == 1
    return Run(result.exit_code, result.stdout, result.stderr, complaint)
