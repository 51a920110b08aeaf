"""Where time windows pay: the three presets over the window length L, on any trace.

    python -m benchmarks.windows TRACE.npz [--json FILE]

Prints one row per (preset, L) and, per preset, the L of lowest latency, energy and EDP.
"""

from __future__ import annotations

import argparse

from rich.console import Console

from spikeloom.core.report import Report
from spikeloom.evaluate import evaluate, load_machine, load_workload
from spikeloom.files.results import write_reports
from spikeloom.report.terminal import comparison_table

PRESETS = ("spikex", "ptb", "snn-dense")
WINDOWS = (1, 2, 4, 8, 16, 32)


def sweep(trace: str) -> dict[tuple[str, int], Report]:
    """A report for every preset and window."""
    workload = load_workload(trace)
    found = {}
    for preset in PRESETS:
        for window in WINDOWS:
            _, arch = load_machine(f"{preset}:window={window}")
            found[preset, window] = evaluate(workload, arch, label=f"{preset} L={window}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace")
    parser.add_argument("--json")
    options = parser.parse_args()
    found = sweep(options.trace)
    console = Console(highlight=False)
    console.print(comparison_table(list(found.values())))
    for preset in PRESETS:
        best = {
            name: min(WINDOWS, key=lambda window: getattr(found[preset, window], field))
            for name, field in (
                ("latency", "latency_per_inference_s"),
                ("energy", "energy_per_inference_j"),
                ("EDP", "edp_js"),
            )
        }
        console.print(f"{preset}: lowest " + ", ".join(f"{name} at L={window}" for name, window in best.items()))
    if options.json:
        write_reports(options.json, list(found.values()))


if __name__ == "__main__":
    main()
