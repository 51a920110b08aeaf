"""``spikeloom record``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from spikeloom.cli.console import DataDir, OtherData, Steps, caution, out
from spikeloom.cli.progress import bars
from spikeloom.files.atomic import check_target
from spikeloom.files.network import read_network
from spikeloom.files.store import write_trace


def record(
    network: Annotated[Path, typer.Argument(help="network.npz of a training run")],
    out_file: Annotated[
        Path | None, typer.Option("--out", help="trace to write [trace.npz beside the network]")
    ] = None,
    experiment: OtherData = None,
    split: Annotated[Literal["train", "test"], typer.Option(help="part of the data set")] = "test",
    steps: Steps = None,
    limit: Annotated[int | None, typer.Option(min=1, help="only the first samples")] = None,
    updates: Annotated[bool, typer.Option(help="also record which neurons were live")] = False,
    weights: Annotated[
        bool | None, typer.Option("--weights/--no-weights", help="store the weights in the trace [if any are zero]")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Run a test set through a network and write every spike, bit-packed."""
    from spikeloom.studies.experiment import record_network, shown_to
    from spikeloom.studies.prune import shows_zeros

    loaded = read_network(network)
    loaded, chosen, said = shown_to(loaded, str(network), experiment, steps)
    target = out_file or network.with_name("trace.npz")
    check_target(target, network)
    with bars() as progress:
        trace = record_network(
            loaded, chosen, split=split, limit=limit, updates=updates, data_dir=data_dir, progress=progress
        )
    write_trace(target, loaded, trace, weights=shows_zeros(loaded) if weights is None else weights)
    accuracy = f", {100 * trace.accuracy:.2f} % right" if trace.accuracy is not None else ""
    out.print(f"{trace.num_samples} samples of {chosen.data}/{split}, {trace.num_steps} steps{accuracy}")
    caution([("", [said])])
    out.print(f"wrote {target}", markup=False, soft_wrap=True)
