"""``spikeloom prune``"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from spikeloom.cli.console import DataDir, OtherData, Steps, caution, out
from spikeloom.cli.options import TuningRate, refuse_idle
from spikeloom.cli.progress import bars
from spikeloom.files.atomic import check_target
from spikeloom.files.network import read_network
from spikeloom.report.change import figures_table

if TYPE_CHECKING:
    from spikeloom.studies.prune import StoredLayer

#: More layers than this are summed up in one line.
SHOWN_LAYERS = 20


def prune(
    context: typer.Context,
    network: Annotated[Path, typer.Argument(help="network.npz of 'train', 'convert' or 'import'")],
    sparsity: Annotated[float, typer.Option(min=0, max=1, help="fraction of weights (or channels) to prune")],
    out_file: Annotated[
        Path | None, typer.Option("--out", help="network to write [pruned.npz beside the network]")
    ] = None,
    channels: Annotated[bool, typer.Option("--channels", help="remove whole channels, not single weights")] = False,
    scope: Annotated[
        Literal["global", "layer"], typer.Option(help="compare the weights of all layers, or of each")
    ] = "global",
    criterion: Annotated[Literal["l1", "l2"], typer.Option(help="norm that ranks channels")] = "l1",
    keep: Annotated[list[str] | None, typer.Option(help="a layer to leave as it is; repeat for more")] = None,
    allow_empty: Annotated[
        list[str] | None, typer.Option(help="a layer that may lose every weight; repeat for more")
    ] = None,
    stages: Annotated[int, typer.Option(min=1, help="prune by and by, in so many stages; with --fine-tune")] = 1,
    fine_tune: Annotated[int, typer.Option(min=0, help="epochs of training after each stage")] = 0,
    learning_rate: TuningRate = None,
    experiment: OtherData = None,
    steps: Steps = None,
    limit: Annotated[int | None, typer.Option(min=1, help="measure on the first test samples only")] = None,
    data_dir: DataDir = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="ignore the stages of an interrupted run")] = False,
) -> None:
    """Set the smallest weights of a network to zero, or remove its smallest channels; say what that changes."""
    from spikeloom.studies.experiment import shown_to
    from spikeloom.studies.prune import Pruning, prune_network

    loaded = read_network(network)
    target = out_file or network.with_name("pruned.npz")
    check_target(target, network)
    chosen, said = None, ""
    if experiment or steps or "experiment" in loaded.metadata:
        loaded, chosen, said = shown_to(loaded, str(network), experiment, steps)
    refuse_idle(context, chosen is None, "without data; name them with --experiment", "limit", "data_dir")
    refuse_idle(context, not fine_tune, "without --fine-tune", "learning_rate", "fresh")
    refuse_idle(context, channels, "on whole channels, ranked in their layer, which keeps one", "scope", "allow_empty")
    refuse_idle(context, not channels, "without --channels", "criterion")
    kept, empty = tuple(keep or ()), tuple(allow_empty or ())
    plan = Pruning(sparsity, channels, scope, criterion, kept, stages, fine_tune, empty)
    with bars() as progress:
        pruned = prune_network(
            loaded,
            plan,
            target,
            experiment=chosen,
            learning_rate=learning_rate,
            limit=limit,
            data_dir=data_dir,
            resume=not fresh,
            progress=progress,
        )
    out.print(figures_table([pruned.before, pruned.after]))
    for stage in pruned.stages:
        out.print(f"stage {stage.number}: {stage.sparsity:.1%} pruned, {stage.accuracy:.1%} right on the training set")
    for layer, reason in pruned.left_alone.items():
        out.print(f"{layer} keeps its channels: {reason}", markup=False)
    out.print(_storage_table(pruned.stored))
    left = ", ".join(f"{layer} {now} of {before}" for layer, (now, before) in pruned.left.items())
    out.print(f"weights left: {left}", markup=False)
    if said:
        caution([("", [said])])
    if chosen is None:
        out.print("no accuracy: the network does not say what it was trained on; name it with --experiment")
    out.print(f"wrote {target}", markup=False, soft_wrap=True)


def _storage_table(layers: Sequence[StoredLayer]) -> Table:
    """What each layer takes in each code, the smallest named; sums at the end."""
    table = Table(title="Stored weights", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("layer", overflow="fold", min_width=12)
    for heading in ("weights", "zero", "plain", "bitmask", "run length", "smallest"):
        table.add_column(heading, justify="right", no_wrap=True)
    for layer in layers if len(layers) <= SHOWN_LAYERS else ():
        sizes = [_size(bits) for bits in (layer.plain, layer.bitmask, layer.run_length)]
        share = f"{layer.zeros / max(1, layer.weights):.1%}"
        table.add_row(Text(layer.name), str(layer.weights), share, *sizes, layer.code)
    weights, zeros, *bits = (
        sum(getattr(layer, key) for layer in layers)
        for key in ("weights", "zeros", "plain", "bitmask", "run_length", "smallest")
    )
    table.add_section()
    table.add_row("all", str(weights), f"{zeros / max(1, weights):.1%}", *map(_size, bits))
    return table


def _size(bits: int) -> str:
    """A size in at most 9 letters: 0.123 KiB, 12.34 KiB, and from 1024 of them on 12.34 MiB."""
    kib = bits / 8192
    if kib < 1:
        return f"{kib:.3f} KiB"
    return f"{kib:.4g} KiB" if kib < 1024 else f"{kib / 1024:.4g} MiB"
