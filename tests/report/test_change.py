"""The table of a transform."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from spikeloom.core.figures import Figures
from spikeloom.report.change import figures_table, short_count


def shown(measured: list[Figures], width: int = 80) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=width).print(figures_table(measured, "a title"))
    return stream.getvalue().splitlines()


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.0, "0"), (7.0, "7"), (12.345, "12.3"), (999.0, "999"), (999.7, "1 k"), (1000.0, "1 k"), (1234.0, "1.23 k"),
     (999_900.0, "1 M"), (12_345_678.0, "12.3 M"), (4.2e9, "4.2 G"), (999.4, "999"), (1.5e13, "15 T")],
)  # fmt: skip
def test_short_counts(value: float | None, text: str) -> None:
    assert short_count(value) == text


def test_a_row_for_each_network() -> None:
    lines = shown([
        Figures("float", "float32", 4, 0.98765, 15_900.0, 1.61e6, 39_584, 0.0, 154.625),
        Figures("ann [8]", "float32", None, None, None, None, 100, 0.255, 0.5),
    ])  # fmt: skip
    text = [" ".join(line.split()) for line in lines]
    assert "a title" in text[0]
    assert "network numbers T right spikes synops weights zero size" in text
    assert "float float32 4 98.77 % 15.9 k 1.61 M 39.6 k 0.0 % 154.6 KiB" in text
    assert "ann [8] float32 - - - - 100 25.5 % 0.5 KiB" in text


def test_it_fits_a_terminal_of_80_columns() -> None:
    long = Figures(
        "a name that is far too long for its column", "integer", 1000, 0.5, 9.99e8, 9.99e8, 9_990_000, 1.0, 99_999.0
    )
    lines = shown([long])
    assert max(map(len, lines)) <= 80 and not any("…" in line for line in lines)
