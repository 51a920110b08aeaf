"""What hardware-aware training bought, for people: a table and a figure of accuracy against EDP, baselines beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from rich.table import Table
from rich.text import Text

from spikeloom.core.report import Report
from spikeloom.files.atomic import write_text
from spikeloom.report.tables import plain_table
from spikeloom.report.terminal import caveats
from spikeloom.units import format_si


class Measured(Protocol):
    """One network on one machine; hidden_rate: spikes per hidden neuron and step, None where no spikes are known."""

    @property
    def name(self) -> str: ...
    @property
    def accuracy(self) -> float: ...
    @property
    def report(self) -> Report: ...
    @property
    def hidden_rate(self) -> float | None: ...


def cotraining_table(rows: Sequence[Measured], where: str) -> Table:
    """One row per network and machine; "times less" is the first row's EDP over this row's. Fits 80 columns.

    where: the recordings, e.g. "80 held-out recordings".
    """
    # every row runs another network: that is the point
    said = caveats([replace(row.report, workload_id="") for row in rows], [row.name for row in rows])
    caption = "\n".join([f"times less: EDP than {rows[0].name}", *said]) if rows else None
    headings = ("right", "hidden rate", "energy", "latency", "EDP", "times less")
    table = plain_table(f"Hardware-aware training, {where}", "network and machine", *headings, caption=caption)
    for row in rows:
        report = row.report
        table.add_row(
            Text(row.name),
            f"{100 * row.accuracy:.2f} %",
            "-" if row.hidden_rate is None else f"{100 * row.hidden_rate:.2f} %",
            format_si(report.energy_per_inference_j, "J"),
            format_si(report.latency_per_inference_s, "s"),
            format_si(report.edp_js, "Js"),
            f"{rows[0].report.edp_js / report.edp_js:.2f}",
        )
    return table


def write_cotraining_figure(path: Path | str, rows: Sequence[Measured]) -> None:
    """Accuracy over EDP as one self-contained HTML page. Needs plotly (extra ``figures``)."""
    from plotly.graph_objects import Figure, Scatter

    figure = Figure()
    for row in rows:
        figure.add_trace(
            Scatter(
                x=[row.report.edp_js],
                y=[100 * row.accuracy],
                name=row.name,
                mode="markers",
                marker={"size": 11},
                hovertemplate=f"{format_si(row.report.edp_js, 'Js')}, %{{y:.2f}} % right",
            )
        )
    figure.update_xaxes(title_text="EDP per inference (Js)", type="log")
    figure.update_yaxes(title_text="right (%)")
    write_text(path, figure.to_html(include_plotlyjs=True))
