"""How every table of results looks."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table


def plain_table(
    title: str | None, name: str, *figures: str, caption: str | None = None, least: int | None = None
) -> Table:
    """A table of what is called ``name``, folded where it is long, and of figures to the right. least: width of the names."""
    table = Table(title=title, caption=caption, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    if name:
        table.add_column(name, overflow="fold", min_width=least)
    for figure in figures:
        table.add_column(figure, justify="right", no_wrap=True)
    return table
