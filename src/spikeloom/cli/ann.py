"""``spikeloom ann``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from spikeloom.cli.console import DataDir, caution, out
from spikeloom.cli.options import NetworkData, refuse_idle
from spikeloom.cli.progress import bars
from spikeloom.files.atomic import check_target
from spikeloom.files.store import write_trace


def ann(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(help="trace or network of an SNN, or network of an ANN (.npz)")],
    out_file: Annotated[Path | None, typer.Option("--out", "-o", help="trace to write [SOURCE-ann.npz]")] = None,
    experiment: NetworkData = None,
    steps: Annotated[int | None, typer.Option(min=1, help="an ANN: T of the SNN it is to match [4]")] = None,
    method: Annotated[
        Literal["max", "percentile", "mse"], typer.Option(help="an ANN: how its largest activations are chosen")
    ] = "mse",
    percentile: Annotated[float, typer.Option(help="of activations, for method percentile")] = 99.9,
    samples: Annotated[int, typer.Option(min=1, help="an ANN: calibration samples")] = 256,
    limit: Annotated[
        int | None, typer.Option(min=1, help="only the first samples [a trace: all, a network: 100]")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Build the bit-matched ANN of an SNN: T = 1, activations of ceil(log2(T+1)) bits."""
    from spikeloom.files.network import read_network
    from spikeloom.studies.ann import ann_of, has_spikes, is_trace

    refuse_idle(context, method != "percentile", "without --method percentile", "percentile")
    refuse_idle(context, spikes := is_trace(source), "on a trace", "data_dir")
    counted = spikes or has_spikes(read_network(source))
    refuse_idle(context, counted, "on an SNN, whose spikes are counted", "method", "percentile", "samples")
    target = out_file or source.with_name(f"{source.stem}-ann.npz")
    check_target(target, source)
    with bars() as progress:
        found = ann_of(
            source,
            experiment=experiment,
            steps=steps,
            limit=limit if limit is not None or spikes else 100,
            data_dir=data_dir,
            progress=progress,
            method=method,
            percentile=percentile,
            calibration=samples,
        )
    write_trace(target, found.network, found.trace)
    if found.accuracy is not None:
        real, rounded = (100 * part for part in found.accuracy)
        out.print(f"{real:.2f} % of the test set, {rounded:.2f} % with activations of {found.bits} bits")
    out.print(
        f"{found.trace.num_samples} samples, T = {found.steps}: activations of {found.bits} bits, {100 * found.zeros:.1f} % of what arrives at synapses zero"
    )
    out.print(f"wrote {target}", markup=False, soft_wrap=True)
    caution([("", (found.assumption,))])
