"""The table of a transform: networks side by side."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from spikeloom.core.figures import Figures
from spikeloom.report.tables import plain_table


def figures_table(measured: Sequence[Figures], title: str | None = None) -> Table:
    """One row per network; a dash where nothing was measured (an ANN has no spikes). Fits 80 columns."""
    headings = ("numbers", "T", "right", "spikes", "synops", "weights", "zero", "size")
    table = plain_table(title, "network", *headings, least=10)
    for one in measured:
        table.add_row(
            Text(one.name),
            one.arithmetic,
            "-" if one.num_steps is None else str(one.num_steps),
            "-" if one.accuracy is None else f"{100 * one.accuracy:.2f} %",
            short_count(one.spikes),
            short_count(one.synops),
            short_count(one.weights),
            f"{100 * one.zeros:.1f} %",
            size(one.weight_kib),
        )
    return table


def size(kib: float) -> str:
    """KiB, or MiB from 1000 KiB on."""
    return f"{kib:.4g} KiB" if kib < 1000 else f"{kib / 1024:.3g} MiB"


def short_count(value: float | None) -> str:
    """Three digits and a letter: 12.3 k, 4.56 M."""
    if value is None:
        return "-"
    for limit, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= 0.9995 * limit:  # rounded to three digits it reaches the limit
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"
