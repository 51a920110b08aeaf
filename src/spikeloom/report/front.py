"""The front of a search: a table with the baselines beside it, and a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from spikeloom.core.report import Report
from spikeloom.files.atomic import replacing
from spikeloom.units import format_si, from_si


@dataclass(frozen=True)
class Compared:
    """A design or a baseline in a table.

    hidden_rate: spikes per hidden neuron and step, None where no spike is known. choices: what was chosen, by name.
    """

    label: str
    accuracy: float | None
    hidden_rate: float | None
    report: Report
    choices: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Point:
    """A design in a figure. text: what a reader sees who points at it. kind: "front", "design" or "baseline"."""

    x: float
    y: float
    text: str
    kind: str = "design"


def front_table(front: Sequence[Compared], baselines: Sequence[Compared]) -> Table:
    """One row per design, then the baselines; a column per baseline with the factor by which its EDP is higher."""
    caption = "rate: spikes per hidden neuron and step"
    if baselines:
        windows = [text for row in baselines if (text := _window(row))]
        caption += "; last columns: EDP of a baseline over the design's"
        caption += f"\nbest window: {', '.join(windows)}" if windows else ""
    table = Table(title="Front, per inference", caption=caption, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("design", overflow="fold", min_width=min(10, max(len(row.label) for row in [*front, *baselines])))
    for heading in ("right", "rate", "latency", "energy", "EDP", "mm2"):
        table.add_column(heading, justify="right", no_wrap=True)
    for baseline in baselines:
        table.add_column(Text(baseline.label), justify="right", overflow="fold")
    for row in front:
        factors = (_factor(other.report.edp_js, row.report.edp_js) for other in baselines)
        table.add_row(*_cells(row), *factors)
    if baselines:
        table.add_section()
    for row in baselines:
        table.add_row(*_cells(row), *("" for _ in baselines))
    return table


def _cells(row: Compared) -> tuple[Text | str, ...]:
    report, area = row.report, row.report.area_m2
    return (
        Text(row.label),
        "-" if row.accuracy is None else f"{100 * row.accuracy:.1f} %",
        "-" if row.hidden_rate is None else f"{row.hidden_rate:.3f}",
        format_si(report.latency_per_inference_s, "s"),
        format_si(report.energy_per_inference_j, "J"),
        format_si(report.edp_js, "Js"),
        "-" if area is None else f"{from_si(area, 'mm2'):.3g}",
    )


def _window(row: Compared) -> str:
    """``4 (ptb)``: the window that suits a baseline best."""
    window = row.report.arch.get("window")
    return "" if window is None or isinstance(window, Mapping) else f"{window} ({row.label})"


def _factor(edp: float, best: float) -> str:
    if not best:
        return "-"
    factor = edp / best
    return f"{factor:,.0f}x" if factor >= 1000 else f"{factor:.3g}x"


def choice_lines(front: Sequence[Compared]) -> list[str]:
    """What was chosen: one line per design, and first what all of them have in common."""
    if not front:
        return []
    common = {
        name: value
        for name, value in front[0].choices.items()
        if len(front) > 1 and all(name in row.choices and row.choices[name] == value for row in front)
    }
    lines = [f"all: {_listed(common)}"] if common else []
    for row in front:
        own = {name: value for name, value in row.choices.items() if name not in common}
        lines.append(f"{row.label}: {_listed(own)}")
    return lines


def _listed(choices: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in choices.items()) or "nothing of its own"


def write_front_figure(
    path: str | Path, points: Sequence[Point], *, x: str, y: str, title: str, log_x: bool = True, log_y: bool = False
) -> None:
    """Write a page that needs nothing else: all designs, the front as a line, the baselines as stars.

    Args:
        path: the .html file, written whole or not at all.
        points: designs and baselines.
        x, y: what the axes are called, unit included.
        title: of the page.
        log_x, log_y: logarithmic axes; of no use where a value is not positive.

    Raises:
        FileError: the file cannot be written.
        ModuleNotFoundError: plotly is not installed.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    looks = {
        "design": ("designs", "markers", "circle", "#9aa5b1"),
        "front": ("front", "lines+markers", "circle", "#d1495b"),
        "baseline": ("baselines", "markers", "star", "#30638e"),
    }
    for kind, (name, mode, symbol, colour) in looks.items():
        shown = sorted((point for point in points if point.kind == kind), key=lambda point: (point.x, point.y))
        if shown:
            figure.add_trace(
                go.Scatter(
                    x=[point.x for point in shown],
                    y=[point.y for point in shown],
                    text=[point.text for point in shown],
                    hovertemplate="%{text}<extra></extra>",
                    name=name,
                    mode=mode,
                    marker={"symbol": symbol, "color": colour, "size": 7 if kind == "design" else 10},
                    line={"color": colour, "shape": "linear"},
                )
            )
    figure.update_layout(title=title, template="simple_white")
    figure.update_xaxes(title=x, type="log" if log_x else "linear", exponentformat="power")
    figure.update_yaxes(title=y, type="log" if log_y else "linear", exponentformat="power")
    with replacing(path) as temporary:
        temporary.write_text(figure.to_html(include_plotlyjs=True, full_html=True), encoding="utf-8")
