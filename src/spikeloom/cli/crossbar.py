"""``spikeloom crossbar``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spikeloom.cli.console import DataDir, OtherData, Steps, caution, out
from spikeloom.cli.options import TuningRate, refuse_idle
from spikeloom.cli.progress import bars
from spikeloom.files.atomic import check_target, write_text
from spikeloom.files.network import read_network, write_network
from spikeloom.report.crossbar import crossbar_table


def crossbar(
    context: typer.Context,
    network: Annotated[Path, typer.Argument(help="network.npz of 'train', 'convert', 'quantize' or 'import'")],
    config: Annotated[Path | None, typer.Option(help="crossbars .toml [what the guide states]")] = None,
    size: Annotated[
        list[int] | None, typer.Option(help="rows and columns; repeat for more [those of the crossbars]")
    ] = None,
    bits: Annotated[int, typer.Option(min=2, max=8, help="bits of a weight, for a float network")] = 4,
    seeds: Annotated[int, typer.Option(min=1, help="chips where chips differ")] = 3,
    calibration: Annotated[int, typer.Option(min=1, help="training samples for ADC ranges and adaptation")] = 256,
    fine_tune: Annotated[int, typer.Option(min=0, help="epochs of training that knows of the non-ideality")] = 0,
    tuning_samples: Annotated[int | None, typer.Option(min=1, help="first samples of the training set only")] = None,
    learning_rate: TuningRate = None,
    experiment: OtherData = None,
    steps: Steps = None,
    limit: Annotated[int | None, typer.Option(min=1, help="measure on the first test samples only")] = None,
    json: Annotated[str | None, typer.Option(help="write the figures as JSON; - is standard output")] = None,
    out_file: Annotated[
        Path | None, typer.Option("--out", "-o", help="write the network that one chip computes")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Say what analog crossbars do to a network's accuracy: each non-ideality alone and all together, before and after mitigation."""
    from spikeloom.studies.crossbar import STUDIED, CrossbarBench, Study, one_chip, read_crossbars, study_crossbars
    from spikeloom.studies.experiment import shown_to

    targets = [path for path in (out_file, None if json in (None, "-") else Path(str(json))) if path is not None]
    for target in targets:
        check_target(target, network, *([config] if config else []))
    loaded = read_network(network)
    crossbars = STUDIED if config is None else read_crossbars(config)
    loaded, chosen, said = shown_to(loaded, str(network), experiment, steps)
    refuse_idle(context, not fine_tune, "without --fine-tune", "learning_rate", "tuning_samples")
    refuse_idle(context, loaded.arithmetic == "integer", "on a network of integers, which has its bits", "bits")
    refuse_idle(context, not crossbars.random, "where chips do not differ", "seeds")
    study = Study(
        sizes=tuple(size) if size else (crossbars.size,),
        bits=bits,
        seeds=seeds,
        limit=limit,
        calibration=calibration,
        epochs=fine_tune,
        learning_rate=learning_rate,
        tuning_samples=tuning_samples,
    )
    with bars() as progress:
        result = study_crossbars(loaded, crossbars, CrossbarBench(chosen, study, data_dir=data_dir, progress=progress))
    caution([("", [said])])
    if out_file is not None:
        write_network(out_file, one_chip(result))
    if json == "-":
        out.out(result.to_json(), end="")
        return
    if json is not None:
        write_text(json, result.to_json())
    out.print(crossbar_table(result.rows, result.ideal, result.samples))
    out.print(f"{100 * result.reference:.2f} % right before; {result.seconds:.0f} s in all")
    for target in targets:
        out.print(f"wrote {target}", markup=False, soft_wrap=True)
