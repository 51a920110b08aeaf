"""``spikeloom import``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from spikeloom.cli.console import DataDir, caution, out
from spikeloom.cli.options import refuse_idle
from spikeloom.cli.progress import bars
from spikeloom.errors import FileError
from spikeloom.files.atomic import check_target


def import_network(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="NIR graph .nir, or PyTorch state dict .pth with --network")],
    description: Annotated[
        Path | None, typer.Option("--network", help="TOML description of the network of a state dict")
    ] = None,
    dt_ms: Annotated[float | None, typer.Option(help="length of a step; needed where there are time constants")] = None,
    reset: Annotated[
        Literal["hard", "soft", "none"] | None,
        typer.Option(help="what a spike does to the membrane [hard; soft for snnTorch]"),
    ] = None,
    neurons: Annotated[
        Literal["exact", "snntorch", "sinabs", "lava"] | None,
        typer.Option(help="whose neurons a NIR graph means [exact, with a note]"),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="spike above the threshold, not at it")] = False,
    discretisation: Annotated[Literal["euler", "exponential"], typer.Option(help="of time constants")] = "euler",
    loop_delay: Annotated[int | None, typer.Option(min=1, help="steps that a loop without a delay takes")] = None,
    if_gain: Annotated[Literal["auto", "per_step", "per_second"], typer.Option(help="what r of an IF means")] = "auto",
    encoding: Annotated[
        Literal["spikes", "levels", "analog"], typer.Option(help="what arrives at the input of a NIR graph")
    ] = "spikes",
    experiment: Annotated[str | None, typer.Option(help="measure it on this experiment's test set")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="time steps T of the network [the experiment's]")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="only the first samples")] = None,
    data_dir: DataDir = None,
    out_file: Annotated[Path | None, typer.Option("--out", help="network to write [FILE.npz beside it]")] = None,
) -> None:
    """Read a network from elsewhere: a NIR graph, or a PyTorch state dict."""
    from spikeloom.core.network import notes_of
    from spikeloom.files.network import write_network
    from spikeloom.report.change import figures_table
    from spikeloom.studies.bring import NirChoices, bring

    dt_s = None if dt_ms is None else dt_ms / 1000
    choices = NirChoices(dt_s, reset, strict, discretisation, loop_delay, encoding, if_gain, neurons)
    refuse_idle(context, experiment is None, "without --experiment, as nothing is measured", "data_dir")
    if file.suffix.lower() != ".nir" and choices == NirChoices():  # others than these are refused with the file
        graph = ("dt_ms", "reset", "strict", "discretisation", "loop_delay", "if_gain", "encoding", "neurons")
        refuse_idle(context, True, "on a state dict, whose description says it", *graph)
    target = out_file or Path(f"{file}.npz" if file.is_dir() else file.with_suffix(".npz"))
    check_target(target, file, *([] if description is None else [description]))
    if out_file is None and target.exists():
        raise FileError(f"{target}: is there already; say --out {target} to replace it")
    said: list[str] = []
    with bars() as progress:
        data: dict[str, Any] = {"experiment": experiment, "steps": steps, "limit": limit, "data_dir": data_dir}
        network, measured = bring(file, description, choices, **data, progress=progress, tell=said.append)
    write_network(target, network)
    out.print(figures_table([measured]))
    said += [f"T = {steps}: as --steps says"] * (steps is not None and experiment is None)
    caution([("", [*said, *notes_of(network.metadata)])])
    out.print(f"{len(network.nodes)} nodes from {file}", markup=False, soft_wrap=True)
    out.print(f"wrote {target}", markup=False, soft_wrap=True)
