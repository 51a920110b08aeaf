"""``spikeloom map``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from spikeloom.cli.console import caution, complain, err, out
from spikeloom.cli.options import WeightBits
from spikeloom.cli.progress import bars

INTERRUPTED = "interrupted before a mapping that fits was found; nothing is written"


def map_network(
    trace: Annotated[Path, typer.Argument(help="trace .npz or workload .toml")],
    machine: Annotated[str, typer.Argument(help="a many-core machine: loihi, a machine file, loihi:cores=4")],
    objective: Annotated[
        Literal["energy", "latency", "edp"], typer.Option(help="what is to be least per inference")
    ] = "edp",
    seed: Annotated[int, typer.Option(min=0, help="of the search; the same seed gives the same mapping")] = 0,
    budget: Annotated[int, typer.Option(min=1, help="mappings that are compared")] = 10_000,
    samples: Annotated[int, typer.Option(min=1, help="samples that mappings are compared on")] = 8,
    weight_bits: WeightBits = None,
    out_file: Annotated[Path, typer.Option("--out", help="placement file to write")] = Path("placement.toml"),
) -> None:
    """Place a network on the cores of a machine: cores and split of each layer, and where on the mesh they sit."""
    try:
        from spikeloom.codesign.mapper import map_network as search
        from spikeloom.evaluate import check_width, load_machine, load_workload, machine_files
        from spikeloom.files.atomic import check_target
        from spikeloom.files.placement import write_placement
        from spikeloom.report.mapping import layer_table, mapping_table

        _, arch = load_machine(machine)
        check_target(out_file, trace, *machine_files(machine, arch))
        check_width(weight_bits, (arch,))
        workload = load_workload(trace, weight_bits=weight_bits)
        with bars(INTERRUPTED) as progress:
            wanted: Any = {"objective": objective, "seed": seed, "budget": budget, "samples": samples}
            found = search(workload, arch, **wanted, progress=progress)
    except KeyboardInterrupt:
        complain(INTERRUPTED)
        raise typer.Exit(130) from None
    write_placement(out_file, found.placement)
    out.print(mapping_table(found.given, found.report, found.used, fits=not found.refusal, objective=objective))
    if found.layers:
        out.print(layer_table(found.layers))
    for line in found.lines():
        out.print(line, markup=False, soft_wrap=True)
    caution([(machine, found.report.warnings)])
    err.print(f"wrote {out_file}", markup=False, soft_wrap=True)
    if found.interrupted:
        complain("interrupted; the best mapping so far is written")
        raise typer.Exit(130)
