"""``spikeloom demo``"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from spikeloom.cli.console import caution, out
from spikeloom.cli.progress import bars
from spikeloom.report.terminal import breakdown_table, comparison_table


def demo(
    out_dir: Annotated[Path, typer.Option("--out", help="run folder")] = Path("runs/demo"),
) -> None:
    """Train a small spiking CNN on digits, quantise and record it, and price its spikes on three machines."""
    from spikeloom.studies.demo import run_demo

    start = time.perf_counter()
    with bars() as progress:
        result = run_demo(out_dir, progress=progress, stage=lambda text: out.print(f"{text} ...", markup=False))
    out.print(f"test accuracy {100 * result.accuracy:.2f} %")
    out.print(comparison_table(result.reports))
    out.print(breakdown_table(result.reports, by="component"))
    out.print(result.sentence, markup=False)
    caution([(report.label, report.warnings) for report in result.reports])
    files = ", ".join(sorted(path.name for path in out_dir.iterdir()))
    out.print(f"{time.perf_counter() - start:.0f} s; {out_dir}: {files}", markup=False, soft_wrap=True)
