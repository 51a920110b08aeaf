"""``spikeloom record``"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from spikeloom.cli.console import caution, out
from spikeloom.cli.progress import bars
from spikeloom.files.atomic import check_target, keep_sources
from spikeloom.files.network import read_network
from spikeloom.files.store import write_trace


class Split(StrEnum):
    """Part of a data set."""

    train = "train"
    test = "test"


def record(
    network: Annotated[Path, typer.Argument(help="network.npz of a training run")],
    out_file: Annotated[
        Path | None, typer.Option("--out", help="trace to write [trace.npz beside the network]")
    ] = None,
    experiment: Annotated[
        str | None, typer.Option(help="another experiment's data [the one it was trained on]")
    ] = None,
    split: Annotated[Split, typer.Option(help="part of the data set")] = Split.test,
    steps: Annotated[
        int | None, typer.Option(min=1, help="time steps T [the network's own, else the experiment's]")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="only the first samples")] = None,
    updates: Annotated[bool, typer.Option(help="also record which neurons were live")] = False,
    weights: Annotated[
        bool | None, typer.Option("--weights/--no-weights", help="store the weights in the trace [if a tenth are zero]")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="folder of data sets [SPIKELOOM_DATA]")] = None,
) -> None:
    """Run a test set through a network and write every spike, bit-packed."""
    from spikeloom.studies.experiment import record_network, shown_to
    from spikeloom.studies.prune import shows_zeros

    loaded = read_network(network)
    loaded, chosen, said = shown_to(loaded, str(network), experiment, steps)
    target = out_file or network.with_name("trace.npz")
    check_target(target)
    keep_sources(target, network)
    with bars() as progress:
        trace = record_network(
            loaded, chosen, split=split.value, limit=limit, updates=updates, data_dir=data_dir, progress=progress
        )
    write_trace(target, loaded, trace, weights=shows_zeros(loaded) if weights is None else weights)
    accuracy = f", {100 * trace.accuracy:.2f} % right" if trace.accuracy is not None else ""
    out.print(f"{trace.num_samples} samples of {chosen.data}/{split.value}, {trace.num_steps} steps{accuracy}")
    caution([("", [said])])
    out.print(f"wrote {target}", markup=False, soft_wrap=True)
