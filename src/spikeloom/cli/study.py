"""``spikeloom study``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from spikeloom.cli.console import DataDir, Steps, caution, err, out
from spikeloom.cli.options import NetworkData, WeightBits, refuse_idle
from spikeloom.cli.progress import bars
from spikeloom.evaluate import check_width, load_machine
from spikeloom.files.atomic import check_target, write_text


def study(
    context: typer.Context,
    question: Annotated[Literal["truly-efficient"], typer.Argument(help="what to ask")],
    source: Annotated[Path, typer.Argument(help="trace or network of an SNN (.npz)")],
    machines: Annotated[
        list[str] | None, typer.Option("--machines", help="a preset or machine file, again for each [every machine]")
    ] = None,
    ann: Annotated[Path | None, typer.Option(help="trace of the ANN to compare with [counts of the spikes]")] = None,
    experiment: NetworkData = None,
    steps: Steps = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="only the first samples [a trace: all, a network: 20]")
    ] = None,
    weight_bits: WeightBits = None,
    seed: Annotated[int, typer.Option(min=0, help="of the spikes that are removed or added")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="samples counted in parallel [all cores]")] = None,
    data_dir: DataDir = None,
    json: Annotated[str | None, typer.Option(help="write everything as JSON; - is standard output")] = None,
) -> None:
    """Ask whether an SNN is truly cheaper than its ANN, on every machine."""
    from spikeloom.core.widths import open_widths, with_weight_bits
    from spikeloom.files.store import read_trace
    from spikeloom.report.truly_efficient import notes, sentences, tables
    from spikeloom.studies.ann import is_trace, spikes_of
    from spikeloom.studies.remedies import exits_of
    from spikeloom.studies.truly_efficient import every_machine, to_json, truly_efficient

    refuse_idle(context, is_trace(source), "on a trace", "data_dir")
    named = machines or every_machine()
    check_width(weight_bits, [load_machine(machine)[1] for machine in named])  # a misspelt one is found before the work
    if json not in (None, "-"):
        check_target(json, source, *([ann] if ann else []))
    known = None if ann is None else read_trace(ann)
    with bars() as progress:
        network, trace, chosen = spikes_of(
            source,
            experiment=experiment,
            steps=steps,
            tell=lambda line: caution([("", [line])]),
            limit=limit if limit is not None or is_trace(source) else 20,
            data_dir=data_dir,
            progress=progress,
        )
        network = with_weight_bits(network, weight_bits, str(source))
        if known is not None and open_widths(known[0]):  # one in integers keeps its widths
            known = with_weight_bits(known[0], weight_bits, str(ann)), known[1]
        exits = None
        if chosen is not None:
            from spikeloom.studies.experiment import execution_of, samples

            exits = exits_of(network, samples(chosen, "test", data_dir), execution_of(chosen), trace.num_samples)
        found = truly_efficient(
            network, trace, named, ann=known, exits=exits, seed=seed, threads=threads, progress=progress
        )
    if json == "-":
        out.out(to_json(found), end="")
        return
    if json is not None:
        write_text(json, to_json(found))
    for table in tables(found):
        out.print(table)
    for line in sentences(found):
        out.print(line, markup=False)
    if json is not None:
        err.print(f"wrote {json}", markup=False, soft_wrap=True)
    caution(notes(found))
