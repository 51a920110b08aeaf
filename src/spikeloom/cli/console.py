"""The two consoles: results on standard output, progress and complaints on standard error."""

from __future__ import annotations

from rich.console import Console

out = Console(highlight=False, soft_wrap=False)
err = Console(stderr=True, highlight=False)


def complain(text: str) -> None:
    """One line on standard error."""
    err.print(f"error: {' '.join(text.split())}", style="bold red", soft_wrap=True, markup=False)


def caution(warnings: tuple[str, ...]) -> None:
    """One line per warning on standard error."""
    for warning in warnings:
        err.print(f"note: {warning}", style="yellow", soft_wrap=True, markup=False)
