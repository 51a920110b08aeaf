"""The tables and the figure of a conversion."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from spikeloom.core.figures import LayerError, Point
from spikeloom.errors import FileError
from spikeloom.report.conversion import errors_table, steps_table, write_steps_figure

POINTS = [
    Point(2, "bias", 0.905, 123.4, 56_789.0, 1.234e-6, 5.6e-5),
    Point(16, "bias", 0.9525, 1234.0, 567_890.0, 9.99e-6, 4.5e-4),
]
UNPRICED = [Point(4, "none", 0.5, 10.0, 20.0, None, None)]


def shown(table: Any) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=80).print(table)
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= 80 and not any("…" in line for line in lines)
    return [" ".join(line.split()) for line in lines]


def test_a_row_for_each_t() -> None:
    lines = shown(steps_table(POINTS, 0.955, "spikex"))
    assert "Accuracy against T (ANN 95.50 %)" in lines
    assert "T right loss spikes synops energy latency EDP" in lines
    assert any(line.startswith("2 90.50 % 5.00 123 56.8 k 1.23") for line in lines)
    assert any(line.startswith("16 95.25 % 0.25 1.23 k 568 k 9.99") for line in lines)
    assert any("of one inference on spikex" in line for line in lines)


def test_without_a_machine_there_is_a_dash() -> None:
    lines = shown(steps_table(UNPRICED, 0.5, None))
    assert "4 50.00 % 0.00 10 20 - - -" in lines
    assert not any("inference" in line for line in lines)


def test_a_row_for_each_layer() -> None:
    errors = [LayerError("neuron_conv1", 0.04, 3.21, 0.0, 0.0, 3.2), LayerError("a" * 60, 1.0, 2.0, 3.0, 44.44, 45.0)]
    lines = shown(errors_table(errors, 8))
    assert any("at T = 8" in line for line in lines)
    assert "layer clipping quantisation inherited unevenness total" in lines
    assert "neuron_conv1 0.0 3.2 0.0 0.0 3.2" in lines
    assert any("44.4 45.0" in line for line in lines)


def test_the_figure_is_one_page_that_fetches_nothing(tmp_path: Path) -> None:
    pytest.importorskip("plotly", reason="plotly is not installed (extra 'figures')")
    path = tmp_path / "deep" / "figure.html"
    write_steps_figure(path, POINTS, 0.955, "spikex")
    page = path.read_text(encoding="utf-8")
    assert [other.name for other in path.parent.iterdir()] == ["figure.html"]
    assert page.lstrip().lower().startswith("<html") or page.lstrip().lower().startswith("<!doctype")
    assert not re.search(r"<(script|link)[^>]+(src|href)=\"http", page)
    for title in (
        "accuracy (%)",
        "spikes per inference",
        "energy on spikex (J)",
        "latency on spikex (s)",
        "time steps T",
    ):
        assert title in page
    assert "90.5" in page and "1.234e-06" in page


def test_without_a_machine_the_figure_has_two_curves(tmp_path: Path) -> None:
    pytest.importorskip("plotly", reason="plotly is not installed (extra 'figures')")
    write_steps_figure(tmp_path / "f.html", UNPRICED, 0.5, None)
    page = (tmp_path / "f.html").read_text(encoding="utf-8")
    assert "spikes per inference" in page and "energy on" not in page


def test_a_figure_that_cannot_be_written_is_said_in_one_line(tmp_path: Path) -> None:
    pytest.importorskip("plotly", reason="plotly is not installed (extra 'figures')")
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot be written"):
        write_steps_figure(tmp_path / "file" / "f.html", POINTS, 0.5, "spikex")
