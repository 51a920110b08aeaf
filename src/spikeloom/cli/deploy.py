"""``spikeloom deploy``"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Literal

import typer

from spikeloom.cli.console import DataDir, OtherData, caution, err, out
from spikeloom.cli.progress import bars
from spikeloom.errors import FileError
from spikeloom.evaluate import load_machine, machine_files
from spikeloom.files.atomic import check_target, keep_sources, replacing
from spikeloom.files.network import read_network


def deploy(
    network: Annotated[Path, typer.Argument(help="network.npz of a trained ANN: from 'train', or from 'import'")],
    machine: Annotated[str, typer.Option(help="preset or machine file, with changes as in loihi:cores=4")] = "loihi",
    max_loss: Annotated[float, typer.Option(help="percentage points of accuracy that may be lost")] = 1.0,
    against: Annotated[str | None, typer.Option(help="also run the ANN on this machine, such as ncs2")] = None,
    objective: Annotated[
        Literal["energy", "edp", "power", "latency"], typer.Option(help="what is made small")
    ] = "energy",
    tune: Annotated[int, typer.Option(min=0, help="epochs of fine-tuning for few spikes, 0 leaves it out")] = 2,
    alone: Annotated[bool, typer.Option(help="also try each technique alone")] = True,
    confirm: Annotated[bool, typer.Option("--confirm", help="measure what is chosen on all test samples")] = False,
    most_steps: Annotated[int, typer.Option(min=1, help="largest T that is tried")] = 256,
    samples: Annotated[int, typer.Option(min=1, help="calibration samples")] = 256,
    limit: Annotated[int, typer.Option(min=1, help="held-out samples to choose on, and test samples")] = 500,
    counted: Annotated[int, typer.Option(min=1, help="of them, samples whose every spike is priced")] = 20,
    experiment: OtherData = None,
    data_dir: DataDir = None,
    out_dir: Annotated[Path | None, typer.Option("--out", help="folder to write [deploy beside the network]")] = None,
    json: Annotated[Path | None, typer.Option(help="also write all figures as JSON here")] = None,
) -> None:
    """Put a trained ANN on a spiking machine as cheaply as an accuracy loss allows; an interrupted run goes on."""
    from spikeloom.report.deploy import activity_table, lines, rival_table, spending_table, verdict
    from spikeloom.studies.deploy import deploy as run
    from spikeloom.studies.deploy_bench import DeployOptions
    from spikeloom.studies.experiment import experiment_of, read_experiment

    loaded = read_network(network)
    chosen = read_experiment(experiment) if experiment else experiment_of(loaded, str(network))
    options = DeployOptions(
        machine=machine,
        max_loss=max_loss,
        objective=objective,
        samples=samples,
        limit=limit,
        counted=counted,
        most_steps=most_steps,
        tune=tune,
        alone=alone,
        confirm=confirm,
    )
    folder = out_dir or network.with_name("deploy")
    read = [file for spec in (machine, against) if spec for file in machine_files(spec, load_machine(spec)[1])]
    if experiment and Path(experiment).is_file():
        read.append(experiment)
    check_files(folder, json, network, *read)
    with bars() as progress:
        done = run(loaded, chosen, options, folder, against=against, data_dir=data_dir, progress=progress)
    out.print(spending_table(done))
    out.print(activity_table(done))
    for line in lines(done):
        out.print(line, markup=False, soft_wrap=True)
    if done.rival is not None:
        out.print(rival_table(done))
        for line in verdict(done):
            out.print(line, markup=False, soft_wrap=True)
    caution([(machine, done.notes), *([] if done.rival is None else [(done.rival.machine, done.rival.notes)])])
    files = ["network.npz", "trace.npz", "machine.toml", "placement.toml", "report.json", "deployment.json"]
    written = ", ".join(name for name in files if (folder / name).exists())
    out.print(f"wrote {folder}: {written}", markup=False, soft_wrap=True)
    if json is not None:
        with replacing(json) as temporary:
            shutil.copyfile(folder / "deployment.json", temporary)
        err.print(f"wrote {json}", markup=False, soft_wrap=True)


def check_files(folder: Path, json: Path | None, *sources: str | Path) -> None:
    """Find out before the work whether all can be written, and that nothing which is read is replaced.

    Raises:
        FileError: it cannot, or would be.
    """
    from spikeloom.studies.deploy import WRITTEN
    from spikeloom.studies.deploy_bench import ROWS

    own = [folder / name for name in WRITTEN]
    for target in own:
        if target.name != ROWS:
            check_target(target)
        keep_sources(target, *sources)
    if json is None:
        return
    check_target(json, *sources)
    place = json.resolve()
    taken = [path.resolve() for path in own]
    if any(path == place or path in place.parents or place in path.parents for path in taken):
        raise FileError(f"{json}: the study itself writes there; name another file with --json")
