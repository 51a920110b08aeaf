"""Speed of a search on fixed spikes: design points per second from tables, one by one, and the exact best mapping.

    python -m benchmarks.search_speed [TRACE.npz] [--points N]

Without a trace a five-layer network is drawn: 100 samples, T = 100. One thread, CPU time, everything in this process. Before
anything is timed, figures from tables are compared with ``evaluate``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from spikeloom.codesign.design_points import DesignTables, design_tables
from spikeloom.codesign.mapping import MappingChoices, best_global_window, best_mapping
from spikeloom.codesign.schedules import ScheduleCache
from spikeloom.core.workload import RateLayer, RateWorkload, Workload
from spikeloom.evaluate import evaluate, load_workload
from spikeloom.hw.spikex import Spikex, SpikexArch
from spikeloom.lower import draw

CHOICES = MappingChoices(dispatches=("agile", "ptb"), orders=("raster",), merges=(1, 2))
VALUES: dict[str, tuple[Any, ...]] = {
    "rows": (4, 8, 16, 32),
    "cols": (4, 8),
    "lbuf": tuple(kib * 8192.0 for kib in (2, 4, 8, 16)),
    "glb": tuple(kib * 8192.0 for kib in (8, 16, 32, 54)),
    "clock": (2.5e8, 5e8),
    "dram_bandwidth": (1.2e11, 2.4e11),
    "psum_bit": (12, 16),
    "membrane_bit": (12, 16),
}


def drawn() -> Workload:
    """Five layers on 34 x 34 pixels of two polarities, 1 to 3 % of the inputs firing."""
    layers = (
        RateLayer("conv1", "conv2d", (2, 34, 34), 12, 0.01, (5, 5)),
        RateLayer("conv2", "conv2d", (12, 15, 15), 32, 0.02, (5, 5)),
        RateLayer("conv3", "conv2d", (32, 5, 5), 64, 0.03, (3, 3)),
        RateLayer("fc1", "linear", (576,), 128, 0.02),
        RateLayer("fc2", "linear", (128,), 10, 0.03),
    )
    return draw(RateWorkload(layers, num_steps=100, num_samples=100))


def timed(run: Callable[[], object], repeat: int = 1) -> float:
    """CPU seconds of one run, mean of ``repeat``."""
    start = time.process_time()
    for _ in range(repeat):
        run()
    return (time.process_time() - start) / repeat


def one_by_one(workload: Workload, tables: DesignTables, cache: ScheduleCache) -> None:
    """Points per second through ``evaluate``, with and without kept schedules; first the check of the tables."""
    points = tables.random(200, np.random.default_rng(1))
    figures = tables.evaluate(points)
    machines = [tables.machine(points, k) for k in range(len(points))]
    worst = 0.0
    for k, machine in enumerate(machines):
        report = evaluate(workload, machine, threads=1, cache=cache)
        assert report.area_m2 is not None
        assert figures.area_m2 is not None
        assert figures.cycles[k] == report.cycles
        for found, expected in (
            (figures.energy_j[k], report.energy_per_inference_j),
            (figures.latency_s[k], report.latency_per_inference_s),
            (figures.area_m2[k], report.area_m2),
        ):
            worst = max(worst, abs(found / expected - 1))
    assert worst < 1e-12
    print(f"{len(points)} random points against evaluate: cycles equal, largest relative difference {worst:.1e}")
    kept = timed(lambda: [evaluate(workload, machine, threads=1, cache=cache) for machine in machines]) / len(machines)
    fresh = timed(lambda: [evaluate(workload, machine, threads=1) for machine in machines[:5]]) / 5
    print(f"evaluate, one by one: {1 / fresh:,.2f} points/s; with kept schedules: {1 / kept:,.0f} points/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", nargs="?", help="a recorded trace instead of the drawn network")
    parser.add_argument("--points", type=int, default=2_000_000)
    args = parser.parse_args()
    workload = drawn() if args.trace is None else load_workload(args.trace)
    num_layers = len(Spikex().runs(workload, SpikexArch()).layers)
    print(f"{num_layers} layers, {workload.num_samples} samples, T = {workload.num_steps}")
    cache, options = ScheduleCache(), CHOICES.options()
    counting = timed(lambda: design_tables(workload, SpikexArch(), options, VALUES, cache=cache, threads=1))
    tables = design_tables(workload, SpikexArch(), options, VALUES, cache=cache, threads=1)
    building = timed(lambda: design_tables(workload, SpikexArch(), options, VALUES, cache=cache, threads=1))
    designs = float(len(options)) ** len(tables.layers) * float(np.prod([len(v) for v in tables.values.values()]))
    print(f"{cache.counted} schedules counted in {counting:.1f} s, once; tables from kept schedules: {building:.2f} s")
    one_by_one(workload, tables, cache)

    points = tables.random(args.points, np.random.default_rng(0))
    seconds = timed(lambda: tables.evaluate(points), repeat=3)
    best = int(np.argmin(tables.evaluate(points).edp_js))
    print(
        f"{len(points):,} of {designs:.1e} design points: {len(points) / seconds:,.0f} points/s from tables, "
        f"{len(points) / (seconds + building):,.0f} points/s with building them"
    )
    print(f"least EDP among them: {tables.evaluate(points).edp_js[best] * 1e12:.4g} pJs")

    arch = SpikexArch()
    mapping = timed(lambda: best_mapping(workload, arch, CHOICES, cache=cache, threads=1), repeat=20)
    found = best_mapping(workload, arch, CHOICES, cache=cache, threads=1)
    glob = best_global_window(workload, SpikexArch(dispatch="ptb", merge=2), CHOICES.windows, cache=cache, threads=1)
    print(
        f"best mapping out of {len(options)} options a layer, schedules kept: {1e3 * mapping:.1f} ms; "
        f"{found.edp_js * 1e12:.4g} pJs on 8x8, ptb at its best window {glob.edp_js * 1e12:.4g} pJs"
    )


if __name__ == "__main__":
    main()
