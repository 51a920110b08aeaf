"""``spikeloom eval``"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from spikeloom.cli.console import caution, complain, err, out
from spikeloom.cli.options import WeightBits, refuse_idle
from spikeloom.core.report import Report
from spikeloom.errors import ConfigError, FileError, MappingError
from spikeloom.evaluate import check_width, load_machine, load_workload, machine_files
from spikeloom.evaluate import evaluate as evaluate_workload
from spikeloom.files.atomic import keep_sources
from spikeloom.files.results import reports_to_json, write_reports
from spikeloom.report.mapping import mapping_note
from spikeloom.report.terminal import breakdown_table, comparison_table, labels, summary_sentence

#: What a breakdown groups by.
By = Literal["layer", "component", "action"]


def evaluate(
    context: typer.Context,
    trace: Annotated[Path, typer.Argument(help="trace .npz, workload .toml or SCALE-Sim topology .csv")],
    machines: Annotated[list[str], typer.Argument(help="presets or machine files, fields changed as spikex:window=8")],
    by: Annotated[By | None, typer.Option(help="also print where the energy went")] = None,
    json: Annotated[str | None, typer.Option(help="write the reports as JSON; - is standard output")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="samples counted in parallel [all cores]")] = None,
    rate: Annotated[float | None, typer.Option(help="firing rate, for a topology")] = None,
    steps: Annotated[int | None, typer.Option(help="time steps, for a topology")] = None,
    real_time: Annotated[
        bool, typer.Option("--real-time", help="also bill samples that last T dt_s at least, with leakage over it")
    ] = False,
    weight_bits: WeightBits = None,
) -> None:
    """Say what each machine spends on the spikes of a trace; those that cannot run it are named, with exit code 1."""
    refuse_idle(context, trace.suffix.lower() != ".csv", "on what is no topology .csv", "rate", "steps")
    refuse_idle(context, json == "-", "with --json -, which prints no table", "by")
    loaded = [load_machine(spec) for spec in machines]
    if json not in (None, "-") and os.path.realpath(str(json)) == os.path.realpath(trace):
        raise FileError(f"{json}: is the trace itself; name another file for the reports")
    if json not in (None, "-"):
        keep_sources(json, *(file for spec, arch in loaded for file in machine_files(spec, arch)))
    check_width(weight_bits, (arch for _, arch in loaded))
    workload = load_workload(trace, rate=rate, num_steps=steps, weight_bits=weight_bits)
    reports: list[Report] = []
    refusals: dict[str, MappingError] = {}
    for label, arch in loaded:
        with err.status(f"counting on {escape(label)}"):
            try:
                reports.append(evaluate_workload(workload, arch, label=label, threads=threads, real_time=real_time))
            except MappingError as error:  # the other machines may run it
                refusals[label] = error
    if not reports:
        raise next(iter(refusals.values()))
    if real_time and not any(report.real_time for report in reports):
        raise ConfigError(
            "--real-time: has no effect, as nothing that leaks is priced on the machines named; leave it out"
        )
    if json == "-":
        out.out(reports_to_json(reports))
    else:
        if json is not None:
            write_reports(json, reports)
        _show(reports, by)
    for label, refusal in refusals.items():
        complain(f"{label} cannot run it: {refusal}")
    if refusals:
        raise typer.Exit(1)


def _show(reports: list[Report], by: By | None) -> None:
    out.print(comparison_table(reports))
    if by is not None:
        out.print(breakdown_table(reports, by=by))
    out.print(summary_sentence(reports), markup=False)
    named = zip(labels(reports), reports, strict=True)
    caution([(name, (*report.warnings, *mapping_note(report))) for name, report in named])
