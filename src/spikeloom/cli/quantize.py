"""``spikeloom quantize``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from spikeloom.cli.console import DataDir, OtherData, Steps, caution, out
from spikeloom.cli.options import TuningRate, refuse_idle
from spikeloom.cli.progress import bars
from spikeloom.errors import FileError
from spikeloom.files.atomic import check_target
from spikeloom.files.network import read_network
from spikeloom.report.change import figures_table

if TYPE_CHECKING:
    from spikeloom.studies.quantize import Quantized


def quantize(
    context: typer.Context,
    network: Annotated[Path, typer.Argument(help="network.npz of 'train', 'convert' or 'import'")],
    out_file: Annotated[
        Path | None, typer.Option("--out", help="network to write [quantized.npz beside the network]")
    ] = None,
    bits: Annotated[int, typer.Option(min=2, max=8, help="bits of a weight")] = 8,
    ternary: Annotated[bool, typer.Option("--ternary", help="weights -1, 0, 1 in 2 bits")] = False,
    per: Annotated[
        Literal["tensor", "channel"], typer.Option(help="one step for each output channel, or one for the tensor")
    ] = "channel",
    scale: Annotated[
        Literal["max", "mse"], typer.Option(help="step: by the largest weight, or by squared error")
    ] = "mse",
    bias_bits: Annotated[int, typer.Option(min=2, max=48, help="bits of a bias")] = 16,
    bias_fit: Annotated[
        bool, typer.Option("--bias-fit", help="steps so coarse that biases fit, else they saturate")
    ] = False,
    membrane_bits: Annotated[int, typer.Option(min=2, max=48, help="bits of a spiking neuron's membrane")] = 24,
    overflow: Annotated[
        Literal["saturate", "wrap"], typer.Option(help="what a membrane does beyond its word")
    ] = "saturate",
    fine_tune: Annotated[int, typer.Option(min=0, help="epochs of training on the grid first")] = 0,
    learning_rate: TuningRate = None,
    table: Annotated[bool, typer.Option("--table", help="accuracy against bits; writes no file")] = False,
    experiment: OtherData = None,
    steps: Steps = None,
    limit: Annotated[int | None, typer.Option(min=1, help="measure on the first test samples only")] = None,
    data_dir: DataDir = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="ignore the checkpoint of an interrupted run")] = False,
) -> None:
    """Turn a float network into one of integers; say what that changes. Writes a network that machines are fed with."""
    from spikeloom.studies.experiment import shown_to
    from spikeloom.studies.quantize import Bench, FineTuning, accuracy_against_bits, quantize_file
    from spikeloom.transform.quantize import Widths

    if table and out_file is not None:
        raise FileError(f"--table writes no network, but --out names {out_file}; give one of the two")
    refuse_idle(context, table, "with --table, which tries all widths", "bits", "ternary")
    refuse_idle(context, ternary, "with --ternary, which is 2 bits of least squared error", "bits", "scale")
    loaded = read_network(network)
    target = out_file or network.with_name("quantized.npz")
    if not table or fine_tune:  # checkpoints lie there too
        check_target(target, *([] if table else [network]))
    chosen, said = None, ""
    if experiment or steps or "experiment" in loaded.metadata:
        loaded, chosen, said = shown_to(loaded, str(network), experiment, steps)
    refuse_idle(context, chosen is None, "without data; name them with --experiment", "limit", "data_dir")
    refuse_idle(context, not fine_tune, "without --fine-tune", "learning_rate", "fresh")
    widths = Widths(
        weight_bits=bits,
        ternary=ternary,
        per=per,
        scale=scale,
        bias_bits=bias_bits,
        bias_fit=bias_fit,
        membrane_bits=membrane_bits,
        overflow=overflow,
    )
    tuning = FineTuning(fine_tune, learning_rate) if fine_tune else None
    with bars() as progress:
        bench = Bench(chosen, limit=limit, data_dir=data_dir, progress=progress)
        if table:
            before, rows = accuracy_against_bits(loaded, bench, widths, tuning, folder=target.parent, resume=not fresh)
        else:
            before, result = quantize_file(loaded, bench, widths, target, tuning, resume=not fresh)
            rows = (result,)
    measured = [figure for row in rows for figure in (row.rounded, row.after) if figure is not None]
    out.print(figures_table([before, *measured]))
    if tuning:
        out.print(f"* after {tuning.epochs} epochs of training on the grid")
    for row in rows:
        out.print(_overflow_line(row), markup=False, soft_wrap=True)
    for note in () if table else rows[0].notes:
        out.print(f"note: {note}", markup=False, soft_wrap=True)
    if said:
        caution([("", [said])])
    if chosen is None:
        out.print("no accuracy: the network does not say what it was trained on; name it with --experiment")
    if not table:
        out.print(f"wrote {target}", markup=False, soft_wrap=True)


def _overflow_line(row: Quantized) -> str:
    """What membranes did beyond their word."""
    did = "saturate" if row.widths.overflow == "saturate" else "wrap around"
    words = f"{row.after.name}: membranes of {row.widths.membrane_bits} bits"
    if not row.overflows:
        return f"{words}, that {did} beyond"
    often = {name: count for name, count in row.overflows.items() if count}
    if not often:
        return f"{words}, none overflows"
    return f"{words}, {did} per sample: {', '.join(f'{name} {count:.3g} times' for name, count in often.items())}"
