"""The table and the figure of a front."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from spikeloom.core.report import LayerReport, Report
from spikeloom.report.front import Compared, Point, choice_lines, front_table, write_front_figure


def report(energy_j: float, latency_s: float, window: object = 4, area: float | None = 1e-7) -> Report:
    layer = LayerReport("conv", 10, latency_s, 5, {}, {"pe.add": energy_j})
    areas = None if area is None else {"pe": area}
    return Report("spikex", {"window": window}, 1, (layer,), 10, latency_s, areas, {})


FRONT = [
    Compared("1", 0.9512, 0.1234, report(1e-6, 1e-5, {"conv": 2}), {"arch.rows": 8, "net.width": 0.5}),
    Compared("2", 0.5, 0.05, report(5e-7, 1e-6, 1, None), {"arch.rows": 8, "net.width": 1.0}),
]
BASELINES = [
    Compared("ptb", 0.96, 0.2, report(4e-6, 1e-4, 8)),
    Compared("snn-dense", 0.96, None, report(1e-3, 1e-2, 1)),
]


def shown(front: list[Compared], baselines: list[Compared]) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=80).print(front_table(front, baselines))
    return stream.getvalue().splitlines()


def test_every_ratio_has_its_baseline_and_both_rates_beside_it() -> None:
    lines = [" ".join(line.split()) for line in shown(FRONT, BASELINES)]
    assert "design right rate latency energy EDP mm2 ptb snn-dense" in lines
    assert "1 95.1 % 0.123 10 us 1 uJ 10 pJs 0.1 40x 1,000,000x" in lines
    assert "2 50.0 % 0.050 1 us 500 nJ 500 fJs - 800x 20,000,000x" in lines
    assert "ptb 96.0 % 0.200 100 us 4 uJ 400 pJs 0.1" in lines
    assert "snn-dense 96.0 % - 10 ms 1 mJ 10 uJs 0.1" in lines
    assert any("EDP of a baseline over" in line for line in lines)
    assert any("best window: 8 (ptb), 1 (snn-dense)" in line for line in lines)


def test_no_ratio_stands_between_bills_that_eval_does_not_rank() -> None:
    counted, tool = ({"table": "sata28", "clock_mhz": 400.0, "fidelity": fidelity} for fidelity in ("trace", "tool"))
    front = [Compared("1", None, None, replace(report(1e-6, 1e-5), arch=counted))]
    others = [
        Compared(name, None, None, replace(report(4e-6, 1e-4), arch=arch))
        for name, arch in (("a", counted), ("b", tool))
    ]
    others.append(Compared("c", None, None, replace(report(4e-6, 1e-4), arch=counted, holds=("host",))))
    lines = [" ".join(line.split()) for line in shown(front, others)]
    assert "1 - - 10 us 1 uJ 10 pJs 0.1 40x - -" in lines


@pytest.mark.parametrize("number", [1, 3, 4, 9])
def test_no_baseline_is_lost_for_want_of_room(number: int) -> None:
    others = [Compared(f"{'machine'[: 9 - number]}-{k}", 0.9, 0.1, report(1e-6 * (k + 2), 1e-3)) for k in range(number)]
    text = " ".join(" ".join(shown(FRONT, others)).split())
    for k in range(number):  # 1 uJ * 10 us and 500 nJ * 1 us are the designs' EDP
        for edp in (1e-11, 5e-13):
            ratio = 1e-6 * (k + 2) * 1e-3 / edp
            assert (f"{ratio:,.0f}x" if ratio >= 1000 else f"{ratio:.3g}x") in text
    assert max(map(len, shown(FRONT, others))) <= 80


def test_without_baselines_there_is_no_ratio() -> None:
    lines = [" ".join(line.split()) for line in shown(FRONT, [])]
    assert "design right rate latency energy EDP mm2" in lines
    assert not any("baseline" in line for line in lines)


def test_it_fits_a_terminal_of_80_columns() -> None:
    wide = [replace(row, label="spikex:rows=4,cols=16,dispatch=temporal", accuracy=1.0) for row in BASELINES]
    lines = shown(FRONT, wide)
    assert max(map(len, lines)) <= 80 and not any("…" in line for line in lines)


def test_choices_that_all_share_stand_once() -> None:
    assert choice_lines(FRONT) == ["all: arch.rows=8", "1: net.width=0.5", "2: net.width=1.0"]
    assert choice_lines(FRONT[:1]) == ["1: arch.rows=8, net.width=0.5"]
    assert choice_lines([]) == []


def test_the_figure_is_one_page_with_every_point(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    points = [
        Point(1e-12, 90.0, "first one", "front"),
        Point(2e-12, 80.0, "second"),
        Point(3e-12, 95.0, "ptb", "baseline"),
    ]
    write_front_figure(tmp_path / "f.html", points, x="EDP (Js)", y="accuracy (%)", title="a search")
    text = (tmp_path / "f.html").read_text()
    for word in ("first one", "second", "EDP (Js)", "accuracy (%)", "a search", "baselines"):
        assert word in text
    assert 'src="http' not in text  # needs nothing from anywhere
    assert [path.name for path in tmp_path.iterdir()] == ["f.html"]
