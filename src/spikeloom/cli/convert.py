"""``spikeloom convert``"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Literal

import typer

from spikeloom.cli.console import DataDir, OtherData, caution, err, out
from spikeloom.cli.options import refuse_idle
from spikeloom.cli.progress import bars
from spikeloom.files.atomic import check_target


def convert(
    context: typer.Context,
    ann: Annotated[Path, typer.Argument(help="network.npz of an ANN: from 'train', or from 'import'")],
    steps: Annotated[str, typer.Option(help="numbers of time steps to try, as 2,4,8")] = "2,4,8,16,32",
    max_loss: Annotated[
        float | None, typer.Option(help="keep the smallest T that loses at most so many points [keep the last T]")
    ] = None,
    method: Annotated[Literal["max", "percentile", "mse"], typer.Option(help="how thresholds are chosen")] = "mse",
    per: Annotated[Literal["layer", "channel"], typer.Option(help="one threshold for each")] = "channel",
    percentile: Annotated[float, typer.Option(help="of activations, for method percentile")] = 99.9,
    calibrate: Annotated[
        Literal["none", "bias", "weights"] | None,
        typer.Option(help="what is adjusted to the ANN [bias; none for recordings]"),
    ] = None,
    reset: Annotated[Literal["soft", "hard"], typer.Option(help="soft subtracts the threshold")] = "soft",
    threshold_to_input: Annotated[float, typer.Option(help="factor on thresholds; 8 is usual with hard reset")] = 1.0,
    signed: Annotated[bool, typer.Option("--signed", help="also negative spikes")] = False,
    max_level: Annotated[int, typer.Option(min=1, help="largest graded spike")] = 1,
    max_pool: Annotated[Literal["refuse", "average", "or"], typer.Option(help="what becomes of max pools")] = "refuse",
    bias: Annotated[
        Literal["steps", "start"], typer.Option(help="biases at every step, or all at the start")
    ] = "steps",
    ann_frames: Annotated[
        int | None, typer.Option(min=1, help="frames of a recording that the ANN sees, one after the other [10]")
    ] = None,
    qcfs: Annotated[int, typer.Option(min=0, help="epochs of QCFS fine-tuning before conversion")] = 0,
    levels: Annotated[int, typer.Option(min=1, help="levels of QCFS")] = 8,
    learning_rate: Annotated[float, typer.Option(help="peak of the fine-tuning")] = 5e-4,
    exit_margin: Annotated[
        float | None, typer.Option(help="also stop a sample once its class leads by so much a step")
    ] = None,
    machine: Annotated[str, typer.Option(help="price each T on this machine, or on 'none'")] = "spikex",
    experiment: OtherData = None,
    samples: Annotated[int, typer.Option(min=1, help="calibration samples")] = 256,
    limit: Annotated[int | None, typer.Option(min=1, help="only the first samples of a split")] = None,
    data_dir: DataDir = None,
    out_file: Annotated[Path | None, typer.Option("--out", help="SNN to write [snn.npz beside the ANN]")] = None,
    figure: Annotated[Path | None, typer.Option(help="also write the table as an HTML figure")] = None,
    json: Annotated[Path | None, typer.Option(help="also write the figures as JSON")] = None,
) -> None:
    """Turn a trained ANN into a spiking network, and say what that costs and why."""
    from spikeloom.files.network import read_network
    from spikeloom.report.conversion import errors_table, steps_table, write_steps_figure
    from spikeloom.studies.convert import RECORDING_FRAMES, run_conversion, step_numbers, write_conversion
    from spikeloom.studies.experiment import experiment_of, read_experiment
    from spikeloom.transform.convert import Conversion

    if figure is not None:
        importlib.import_module("plotly")  # absent, it is better missed before the work than after
    numbers, priced = step_numbers(steps), None if machine == "none" else machine
    loaded = read_network(ann)
    chosen = read_experiment(experiment) if experiment else experiment_of(loaded, str(ann))
    refuse_idle(context, chosen.encoding == "direct", "on images shown directly, which are one frame", "ann_frames")
    conversion = Conversion(
        num_steps=numbers[-1],
        method=method,
        percentile=percentile,
        by_channel=per == "channel",
        reset=reset,
        threshold_to_input=threshold_to_input,
        signed=signed,
        max_level=max_level,
        max_pool=max_pool,
        bias=bias,
        ann_frames=ann_frames or (RECORDING_FRAMES if chosen.encoding == "events" else 1),
    )
    refuse_idle(context, method != "percentile", "without --method percentile", "percentile")
    refuse_idle(context, not qcfs, "without --qcfs", "levels", "learning_rate")
    target = out_file or ann.with_name("snn.npz")
    check_target(target, ann)
    with bars() as progress:
        result = run_conversion(
            loaded,
            chosen,
            conversion,
            numbers,
            effort=calibrate,
            max_loss=max_loss,
            qcfs_epochs=qcfs,
            qcfs_levels=levels,
            learning_rate=learning_rate,
            exit_margin=exit_margin,
            machine=priced,
            calibration=samples,
            limit=limit,
            checkpoint=target.with_suffix(".checkpoint.pt"),
            data_dir=data_dir,
            progress=progress,
        )
    write_conversion(target, result)
    out.print(steps_table(result.points, result.ann_accuracy, priced))
    out.print(errors_table(result.errors, result.num_steps))
    for line in result.lines():
        out.print(line, markup=False)
    caution([(f"T = {point.num_steps}", point.warnings) for point in result.points])
    out.print(f"wrote {target}", markup=False, soft_wrap=True)
    if json is not None:
        result.write_json(json)
        err.print(f"wrote {json}", markup=False, soft_wrap=True)
    if figure is not None:
        write_steps_figure(figure, result.points, result.ann_accuracy, priced)
        err.print(f"wrote {figure}", markup=False, soft_wrap=True)
