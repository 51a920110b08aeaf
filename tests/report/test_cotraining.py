"""The table of hardware-aware training says what its ratios compare."""

from __future__ import annotations

from dataclasses import dataclass

from spikeloom.core.report import LayerReport, Report
from spikeloom.report.cotraining import cotraining_table


@dataclass(frozen=True)
class Row:
    name: str
    report: Report
    accuracy: float = 0.9
    hidden_rate: float | None = 0.1


def row(name: str, table: str, clock: float = 500.0, workload: str = "w") -> Row:
    layer = LayerReport("fc", 10, 1e-3, 5, {"pe.add": 5}, {"pe.add": 1e-6})
    arch = {"table": table, "clock_mhz": clock}
    return Row(name, Report("spikex", arch, 1, (layer,), 10, 1e-3, None, {}, workload_id=workload))


def test_prices_and_clocks_that_differ_are_told() -> None:
    same = cotraining_table([row("ptb", "a"), row("beta", "a", workload="other network")], "80 recordings")
    assert same.caption == "times less: EDP than ptb"
    other = cotraining_table([row("ptb", "a"), row("beta", "b", clock=400.0)], "80 recordings")
    assert str(other.caption).splitlines()[1:] == [
        "these machines are priced from different tables: a (ptb), b (beta)",
        "these machines are clocked differently: 500 MHz (ptb), 400 MHz (beta)",
    ]
    assert cotraining_table([], "none").caption is None
