"""``spikeloom search``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spikeloom.cli.console import DataDir, caution, complain, out
from spikeloom.cli.options import refuse_idle
from spikeloom.cli.progress import bars
from spikeloom.files.atomic import check_target
from spikeloom.report.front import choice_lines, front_table


def search(
    context: typer.Context,
    file: Annotated[str, typer.Argument(help="search file, or a shipped one: digits, array")],
    trace: Annotated[Path | None, typer.Option(help="trace to search a machine for, instead of the file's")] = None,
    network: Annotated[Path | None, typer.Option(help="trained network to start from, instead of the file's")] = None,
    folder: Annotated[Path | None, typer.Option("--out", help="folder of the study [runs/search-NAME]")] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="budget, instead of the file's")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="of the sampler, instead of the file's")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="local processes")] = None,
    cluster: Annotated[str | None, typer.Option(help="a running Dask scheduler, tcp://HOST:8786")] = None,
    storage: Annotated[str | None, typer.Option(help="database URL or FILE.journal [SQLite in the folder]")] = None,
    figure: Annotated[Path | None, typer.Option(help="write the front as a page, FILE.html")] = None,
    export: Annotated[
        list[str] | None, typer.Option(help="write a design's files: its row, the start of its id, or all; repeat")
    ] = None,
    data_dir: DataDir = None,
    new: Annotated[bool, typer.Option("--new", help="refuse to go on with a study that is there")] = False,
) -> None:
    """Search networks and machines together; an interrupted search goes on. Prints the front, writes results.jsonl."""
    from spikeloom.studies.export import export_design
    from spikeloom.studies.search import chosen, draw_front, run_search
    from spikeloom.studies.search_file import plan_search, read_search

    if figure is not None:
        check_target(figure)
    named = {"trace": trace, "network": network}
    inputs = {key: str(path) for key, path in named.items() if path is not None}
    changes = {key: value for key, value in (("trials", trials), ("seed", seed)) if value is not None}
    found, name = read_search(file, inputs=inputs, changes=changes)
    refuse_idle(context, found.trace is not None, "on a trace", "data_dir")
    target = folder or Path("runs") / f"search-{name}"
    alone = workers in (None, 1) and cluster is None
    plan = plan_search(found, name, target, data_dir=data_dir, threads=None if alone else 1)
    with bars() as progress:
        searched = run_search(
            plan,
            target,
            workers=workers,
            cluster=cluster,
            storage=storage,
            resume=not new,
            progress=progress,
        )
    result = searched.result
    if not result.front:
        complain(searched.shortfall(plan.settings))
    states = [outcome.state for outcome in result.outcomes]
    counted = [f"{states.count(state)} {state}" for state in ("infeasible", "unfit", "pruned") if state in states]
    rest = f" ({', '.join(counted)})" if counted else ""
    untried = f", {result.untried} never tried" if result.untried else ""
    out.print(
        f"{len(result.outcomes)} trials of {plan.space.size} points{rest}, {result.computed} computed now{untried}; "
        f"{len(result.front)} on the front",
        soft_wrap=True,
    )
    if result.front:
        out.print(front_table(searched.front, searched.baselines))
        for line in choice_lines(searched.front):
            out.print(line, markup=False, soft_wrap=True)
    if figure is not None:
        draw_front(plan, searched, figure)
        out.print(f"wrote {figure}", markup=False, soft_wrap=True)
    for trial in chosen(result, export or ()):
        out.print(f"wrote {export_design(plan, trial, target)}", markup=False, soft_wrap=True)
    out.print(f"wrote {target / 'results.jsonl'}", markup=False, soft_wrap=True)
    if not result.front:
        raise typer.Exit(1)
    caution(searched.notes())
