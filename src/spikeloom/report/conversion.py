"""A conversion for people: accuracy, spikes, energy and latency against T as a table and a figure, and where the error comes from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from spikeloom.core.figures import LayerError, Point
from spikeloom.files.atomic import write_text
from spikeloom.report.change import short_count
from spikeloom.report.tables import plain_table
from spikeloom.units import format_si


def steps_table(points: Sequence[Point], ann_accuracy: float, machine: str | None) -> Table:
    """One row for each T; the loss is in percentage points below the ANN. Fits 80 columns."""
    title = f"Accuracy against T (ANN {100 * ann_accuracy:.2f} %)"
    caption = None if machine is None else f"energy, latency and EDP of one inference on {machine}"
    headings = ("T", "right", "loss", "spikes", "synops", "energy", "latency", "EDP")
    table = plain_table(title, "", *headings, caption=caption)
    for point in points:
        table.add_row(
            str(point.num_steps),
            f"{100 * point.accuracy:.2f} %",
            f"{100 * (ann_accuracy - point.accuracy):.2f}",
            short_count(point.spikes),
            short_count(point.synops),
            "-" if point.energy_j is None else format_si(point.energy_j, "J"),
            "-" if point.latency_s is None else format_si(point.latency_s, "s"),
            "-" if point.edp_js is None else format_si(point.edp_js, "Js"),
        )
    return table


def errors_table(errors: Sequence[LayerError], num_steps: int) -> Table:
    """One row for each spiking layer; percent of the root mean square activation."""
    parts = ("clipping", "quantisation", "inherited", "unevenness", "total")
    title = f"Error of each layer's rates at T = {num_steps}, % of its activations (rms)"
    table = plain_table(title, "layer")
    for part in parts:
        table.add_column(part, justify="right")
    for error in errors:
        table.add_row(error.name, *(f"{getattr(error, part):.1f}" for part in parts))
    return table


def write_steps_figure(path: Path | str, points: Sequence[Point], ann_accuracy: float, machine: str | None) -> None:
    """The table as one self-contained HTML page: four curves over T. Needs plotly (extra ``figures``)."""
    from plotly.graph_objects import Figure, Scatter
    from plotly.subplots import make_subplots

    curves: list[tuple[str, list[float | None]]] = [
        ("accuracy (%)", [100 * p.accuracy for p in points]),
        ("spikes per inference", [p.spikes for p in points]),
        (f"energy on {machine} (J)", [p.energy_j for p in points]),
        (f"latency on {machine} (s)", [p.latency_s for p in points]),
    ]
    shown = [curve for curve in curves if all(value is not None for value in curve[1])]
    figure: Figure = make_subplots(rows=1, cols=len(shown), subplot_titles=[title for title, _ in shown])
    steps = [p.num_steps for p in points]
    for column, (title, values) in enumerate(shown, start=1):
        figure.add_trace(Scatter(x=steps, y=values, name=title, mode="lines+markers"), row=1, col=column)
        figure.update_xaxes(title_text="time steps T", type="log", tickvals=steps, row=1, col=column)
    figure.add_hline(y=100 * ann_accuracy, line_dash="dot", annotation_text="ANN", row=1, col=1)
    figure.update_layout(showlegend=False)
    write_text(path, figure.to_html(include_plotlyjs=True))
