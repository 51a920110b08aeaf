"""``spikeloom cotrain``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spikeloom.cli.console import DataDir, caution, out
from spikeloom.cli.progress import bars
from spikeloom.files.atomic import check_target


def cotrain(
    experiment: Annotated[Path, typer.Argument(help="experiment file with a table [cotrain]")],
    out_dir: Annotated[Path | None, typer.Option("--out", help="folder of the sweep [runs/EXPERIMENT]")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="instead of the experiment's")] = None,
    test: Annotated[bool, typer.Option("--test", help="measure on the test set, not on held-out recordings")] = False,
    figure: Annotated[Path | None, typer.Option(help="write accuracy over EDP as an HTML page")] = None,
    data_dir: DataDir = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="start over in the folder")] = False,
) -> None:
    """Train on while spikes cost what a machine charges for them; an interrupted run goes on where it stopped."""
    from spikeloom.report.cotraining import cotraining_table, write_cotraining_figure
    from spikeloom.studies.cotrain_sweep import correlation, read_sweep, run_sweep

    chosen, sweep = read_sweep(experiment, {} if seed is None else {"seed": seed})
    folder = out_dir or Path("runs") / chosen.name
    if figure is not None:
        check_target(figure)
    with bars() as progress:
        rows = run_sweep(chosen, sweep, folder, data_dir=data_dir, resume=not fresh, test=test, progress=progress)
    samples = rows[0].report.num_samples
    out.print(cotraining_table(rows, f"{samples} {'test' if test else 'held-out'} samples of {chosen.data}"))
    for tables, words in (("first", "drawn before the run"), ("last", "drawn again during the run")):
        found = correlation(rows, tables)
        if found is not None:
            out.print(
                f"tables {words}: rank correlation of predicted and exact EDP {found[0]:.3f}, median error {found[1]:.1%}"
            )
    if figure is not None:
        write_cotraining_figure(figure, rows)
        out.print(f"wrote {figure}", markup=False, soft_wrap=True)
    caution([(row.name, row.report.warnings) for row in rows])
    out.print(f"wrote {folder}: network.npz and machine.toml for every beta", markup=False, soft_wrap=True)
