"""The table of crossbars: accuracy under each non-ideality, before and after mitigation."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from spikeloom.core.figures import CrossbarRow, Spread
from spikeloom.report.tables import plain_table


def crossbar_table(rows: Sequence[CrossbarRow], ideal: float, samples: int) -> Table:
    """One row for each size and non-ideality; percent right, mean and deviation over chips, and wall time. Fits 80 columns."""
    table = plain_table(f"Right of {samples} test samples (ideal crossbars {100 * ideal:.2f} %)", "")
    for heading in ("size", "non-ideality"):
        table.add_column(heading, no_wrap=True)
    headings = ["plain", "adapted", *(["tuned", "both"] if any(row.tuned for row in rows) else []), "s"]
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    size = None
    for row in rows:
        if row.size != size and size is not None:
            table.add_section()
        found = [_percent(row.plain), _percent(row.adapted)]
        found += [_percent(row.tuned), _percent(row.both)] if len(headings) > 3 else []
        table.add_row(str(row.size) if row.size != size else "", row.name, *found, f"{row.seconds:.0f}")
        size = row.size
    return table


def _percent(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    text = f"{100 * spread.mean:.1f}"
    return text if len(spread.accuracies) < 2 else f"{text} +-{100 * spread.deviation:.1f}"
