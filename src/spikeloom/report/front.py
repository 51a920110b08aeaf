"""The front of a search: a table with the baselines beside it, and a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from spikeloom.core.report import Report
from spikeloom.files.atomic import write_text
from spikeloom.report.tables import plain_table
from spikeloom.report.terminal import kind, labels
from spikeloom.units import format_si, from_si


@dataclass(frozen=True)
class Compared:
    """A design or a baseline in a table.

    hidden_rate: spikes per hidden neuron and step, None where no spike is known. choices: what was chosen, by name.
    plain: the same machine at the mapping of its own fields, as `spikeloom eval` prices it, where the mapping was searched.
    """

    label: str
    accuracy: float | None
    hidden_rate: float | None
    report: Report
    choices: Mapping[str, Any] = field(default_factory=dict)
    plain: Report | None = None

    @property
    def pricing(self) -> tuple[Any, ...]:
        """Table, clock and kinds of cost: what two bills must share before one is divided by the other."""
        return self.report.arch.get("table"), self.report.arch.get("clock_mhz"), *kind(self.report)


@dataclass(frozen=True)
class Point:
    """A design in a figure. text: what a reader sees who points at it. kind: "front", "design" or "baseline"."""

    x: float
    y: float
    text: str
    kind: str = "design"


def front_table(front: Sequence[Compared], baselines: Sequence[Compared]) -> Table:
    """One row per design, then the baselines; a column per baseline with the factor by which its EDP is higher.

    The factor is against the baseline at the table and clock of the design; a dash where there is none, or whose bill holds other
    costs. Where the columns do not fit 80 letters, they are lines below."""
    caption = "rate: spikes per hidden neuron and step"
    columns = dict.fromkeys(baseline.label for baseline in baselines)
    against = {(other.label, other.pricing): other.report.edp_js for other in baselines}
    ratios = [[_factor(against.get((label, row.pricing)), row.report.edp_js) for label in columns] for row in front]
    fits = len(columns) <= 3  # beside the others, in 80 letters
    if baselines:
        best = [(row.report.arch.get("window"), row.label) for row in baselines]
        windows = dict.fromkeys(f"{window} ({label})" for window, label in best if isinstance(window, int))
        caption += f"; {'last columns' if fits else 'below'}: EDP of a baseline over the design's"
        caption += f"\nbest window: {', '.join(windows)}" if windows else ""
    headings = ("right", "rate", "latency", "energy", "EDP", "mm2")
    least = min(10, max(len(row.label) for row in [*front, *baselines]))
    table = plain_table("Front, per inference", "design", *headings, caption=caption, least=least)
    for label in columns if fits else ():
        table.add_column(Text(label), justify="right", overflow="fold")
    for row, factors in zip(front, ratios, strict=True):
        table.add_row(*_cells(row, row.label), *(factors if fits else ()))
        if not fits:
            table.caption = f"{table.caption}\n{row.label}: {_listed(dict(zip(columns, factors, strict=True)))}"
    if baselines:
        table.add_section()
    for name, row in named(baselines):
        table.add_row(*_cells(row, name), *("" for _ in columns if fits))
    return table


def named(rows: Sequence[Compared]) -> list[tuple[str, Compared]]:
    """Each with a name that no other has."""
    return list(zip(labels([replace(row.report, label=row.label) for row in rows]), rows, strict=True))


def _cells(row: Compared, name: str) -> tuple[Text | str, ...]:
    report, area = row.report, row.report.area_m2
    return (
        Text(name),
        "-" if row.accuracy is None else f"{100 * row.accuracy:.1f} %",
        "-" if row.hidden_rate is None else f"{row.hidden_rate:.3f}",
        format_si(report.latency_per_inference_s, "s"),
        format_si(report.energy_per_inference_j, "J"),
        format_si(report.edp_js, "Js"),
        "-" if area is None else f"{from_si(area, 'mm2'):.3g}",
    )


def _factor(edp: float | None, best: float) -> str:
    if edp is None or not best:
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
        if row.plain is not None:
            edp, factor = format_si(row.plain.edp_js, "Js"), _factor(row.plain.edp_js, row.report.edp_js)
            lines[-1] += f"; at the mapping of its fields {edp} ({factor})"
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
    for sort, (name, mode, symbol, colour) in looks.items():
        shown = sorted((point for point in points if point.kind == sort), key=lambda point: (point.x, point.y))
        if shown:
            figure.add_trace(
                go.Scatter(
                    x=[point.x for point in shown],
                    y=[point.y for point in shown],
                    text=[point.text for point in shown],
                    hovertemplate="%{text}<extra></extra>",
                    name=name,
                    mode=mode,
                    marker={"symbol": symbol, "color": colour, "size": 7 if sort == "design" else 10},
                    line={"color": colour, "shape": "linear"},
                )
            )
    figure.update_layout(title=title, template="simple_white")
    figure.update_xaxes(title=x, type="log" if log_x else "linear", exponentformat="power")
    figure.update_yaxes(title=y, type="log" if log_y else "linear", exponentformat="power")
    write_text(path, figure.to_html(include_plotlyjs=True, full_html=True))
