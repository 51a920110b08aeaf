"""Time and memory of SATA_Sim's networks in closed form, and what each of its quirks is worth.

``python -m benchmarks.sata_cases`` prices the six networks and their default; ``python -m benchmarks.sata_cases quirks``
corrects one quirk of the default at a time.
"""

from __future__ import annotations

import resource
import sys
import time

from spikeloom.core.report import Report
from spikeloom.evaluate import evaluate
from spikeloom.hw.sata_arch import QUIRKS, SataArch
from spikeloom.hw.sata_kernels import fetched_words
from spikeloom.hw.sata_tool import ToolLayer, tool_workload
from spikeloom.hw.sata_works import LAYER_LISTS, WORKS

#: The tool's own example: layers, time steps, sparsity.
DEFAULT = (LAYER_LISTS["resnet19"], 10, 0.5)


def price(layers: tuple[ToolLayer, ...], num_steps: int, sparsity: float, **quirks: bool) -> Report:
    """A layer list in tool fidelity, ``quirks`` corrected where they are false."""
    return evaluate(tool_workload(layers, num_steps), SataArch(fidelity="tool", sparsity=sparsity, **quirks))


def corrections() -> dict[str, dict[str, bool]]:
    """No quirk corrected, each of them, all of them. The sparsity of the default is no measurement, so it stays one."""
    each = [name for name in QUIRKS if name != "one_sparsity"]
    return {"none": {}, **{name: {name: False} for name in each}, "all": dict.fromkeys(each, False)}


def quirk_rows() -> list[tuple[str, float, float, float]]:
    """(what is corrected, cycles, total energy in J, share of the uncorrected total) of the default network."""
    reports = {name: price(*DEFAULT, **changed) for name, changed in corrections().items()}
    whole = reports["none"].energy_j
    return [(name, report.cycles, report.energy_j, report.energy_j / whole) for name, report in reports.items()]


def main() -> None:
    """Print one of the two tables."""
    if sys.argv[1:] == ["quirks"]:
        print("| corrected | cycles | energy | against the tool |\n|---|---|---|---|")
        for name, cycles, joules, share in quirk_rows():
            print(f"| `{name}` | {cycles:,.0f} | {joules * 1e3:.3f} mJ | {100 * (share - 1):+.1f} % |")
        return
    cases = {"default": DEFAULT, **{work.name: (work.layers, work.num_steps, work.sparsity) for work in WORKS}}
    price(LAYER_LISTS["vgg9"][:1], 1, 0.5)  # compile
    for name, case in cases.items():
        fetched_words.cache_clear()
        start = time.perf_counter()
        report = price(*case)
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{name:8} {report.energy_j * 1e3:9.5f} mJ  {seconds:6.3f} s  peak {peak:4.0f} MiB so far")


if __name__ == "__main__":
    main()
