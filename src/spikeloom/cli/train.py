"""``spikeloom train``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spikeloom.cli.console import DataDir, out
from spikeloom.cli.progress import bars


def train(
    experiment: Annotated[
        str, typer.Argument(help="experiment file, or a shipped one: see 'show experiment'")
    ] = "digits",
    out_dir: Annotated[Path | None, typer.Option("--out", help="run folder [runs/EXPERIMENT]")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="instead of the experiment's")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="instead of the experiment's")] = None,
    data_dir: DataDir = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="ignore the checkpoint of an interrupted run")] = False,
) -> None:
    """Train a spiking network; an interrupted run goes on where it stopped. Writes network.npz."""
    from spikeloom.studies.experiment import read_experiment, train_experiment

    changes = {key: value for key, value in (("epochs", epochs), ("seed", seed)) if value is not None}
    chosen = read_experiment(experiment, changes)
    folder = out_dir or Path("runs") / chosen.name
    with bars() as progress:
        network, history = train_experiment(chosen, folder, data_dir=data_dir, resume=not fresh, progress=progress)
    seconds = sum(epoch.seconds for epoch in history)
    accuracy = 100 * network.metadata["test_accuracy"]
    out.print(
        f"{network.name} on {chosen.data}: {accuracy:.2f} % of the test set after {len(history)} epochs ({seconds:.0f} s)"
    )
    out.print(f"wrote {folder / 'network.npz'}", markup=False, soft_wrap=True)
