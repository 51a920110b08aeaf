"""Quality of the search: how soon each sampler comes within 1 % of the least EDP of a space that is enumerated, and its speed.

    python -m benchmarks.search_quality [TRACE.npz] [--samplers nsga2 tpe random] [--seeds N] [--figure FILE.html]

The space is an array of 64 processing elements with 56 KiB of buffers: its shape, how the buffers share the memory, dispatch,
merging and window. Every point is computed exactly beforehand; the samplers get 5 % of that many trials. Without a trace a
three-layer network is drawn: 4 samples, T = 100. Then trials per second end to end, for figures that are read and for ones that are
counted with kept schedules. One thread, CPU time.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np

from spikeloom.codesign.design_points import design_tables
from spikeloom.codesign.inner import InnerSearch
from spikeloom.codesign.machines import Family
from spikeloom.codesign.mapping import MappingChoices
from spikeloom.codesign.schedules import ScheduleCache
from spikeloom.codesign.search import Objective, SearchResult, SearchSettings, search
from spikeloom.codesign.space import Choice, Params, Space
from spikeloom.codesign.trace_search import TraceObjective, layers_of
from spikeloom.codesign.workers import CheckpointReport
from spikeloom.core.report import LayerReport, Report, Trial
from spikeloom.core.workload import Workload
from spikeloom.evaluate import evaluate, load_workload
from spikeloom.hw.spikex import SpikexArch

ROWS = (1, 2, 4, 8, 16, 32, 64)
KIB = 8192.0
SPACE = Space(
    (
        Choice("arch.shape", tuple(f"{rows}x{64 // rows}" for rows in ROWS)),
        Choice("arch.buffers", tuple(f"{kib}+{56 - kib}" for kib in range(4, 56, 4))),
        Choice("arch.dispatch", ("agile", "temporal", "ptb")),
        Choice("arch.merge", (1, 2, 4, 8)),
        Choice("arch.window", (1, 2, 4, 8, 16, 32)),
    )
)
SHARE = 0.05
NEAR = 1.01
DRAWN = """\
num_steps = 100
num_samples = 4
[[layer]]
name = "conv1"
kind = "conv2d"
in_shape = [2, 34, 34]
out_channels = 12
kernel = [5, 5]
firing_rate = 0.01
[[layer]]
name = "conv2"
kind = "conv2d"
in_shape = [12, 15, 15]
out_channels = 32
kernel = [5, 5]
firing_rate = 0.02
[[layer]]
name = "fc1"
kind = "linear"
in_shape = [1152]
out_channels = 10
firing_rate = 0.03
"""


def edp_of_all(workload: Workload) -> dict[tuple, float]:
    """EDP per inference of every point; a few are compared with ``evaluate``."""
    points = list(SPACE.grid())
    options = MappingChoices(dispatches=("agile", "temporal", "ptb"), orders=("raster",), merges=(1, 2, 4, 8)).options()
    index = {(option.dispatch, option.merge, option.window): i for i, option in enumerate(options)}
    sizes = tuple(kib * KIB for kib in range(4, 56, 4))
    values = {"rows": ROWS, "cols": ROWS, "lbuf": sizes, "glb": sizes}
    tables = design_tables(workload, SpikexArch(), options, values, cache=ScheduleCache(), threads=1)
    option = [index[point["arch.dispatch"], point["arch.merge"], point["arch.window"]] for point in points]  # type: ignore[index]
    rows, cols, lbuf, glb = (
        np.array([float(str(point[name]).replace("+", "x").split("x")[part]) for point in points])
        for name in ("arch.shape", "arch.buffers")
        for part in (0, 1)
    )
    columns = np.repeat(np.array(option)[:, None], len(tables.layers), axis=1)
    figures = tables.evaluate(tables.points(columns, rows=rows, cols=cols, lbuf=lbuf * KIB, glb=glb * KIB)).edp_js
    family = layers_of(workload, Family(SpikexArch()))
    for i in np.random.default_rng(0).integers(len(points), size=5):
        report = evaluate(workload, family.at(points[i]), threads=1)
        assert abs(figures[i] / report.edp_js - 1) < 1e-12, points[i]
    return {tuple(point.values()): float(edp) for point, edp in zip(points, figures, strict=True)}


@dataclass(frozen=True)
class Known:
    """Reads the EDP of a point from a list: what is left is the search itself."""

    edp: dict[tuple, float]

    def identity(self, params: Params) -> Trial:
        return Trial({"params": dict(params)}, {}, 0, "enumerated", None, None)

    def __call__(self, params: Params, checkpoint_report: CheckpointReport | None) -> Trial:
        layer = LayerReport("all", 1, 1.0, 1, {}, {"all.edp": self.edp[tuple(params.values())]})
        return replace(self.identity(params), report=Report("spikex", {}, 1, (layer,), 1, 1.0, None, {}))


def searched(objective: Objective, settings: SearchSettings, storage: str | None = "memory") -> SearchResult:
    with tempfile.TemporaryDirectory() as folder:
        return search(SPACE, objective, settings, folder, storage=storage)


def curve(result: SearchResult) -> np.ndarray:
    """Least EDP so far, by trial."""
    return np.minimum.accumulate([one.trial.report.edp_js for one in result.outcomes if one.trial and one.trial.report])


def compare(edp: dict[tuple, float], samplers: list[str], seeds: int, population: int) -> dict[str, np.ndarray]:
    """Median curves by sampler, in multiples of the optimum; prints what each reached."""
    best, budget = min(edp.values()), int(SHARE * len(edp))
    near = sum(value <= NEAR * best for value in edp.values())
    lucky = 1 - (1 - near / len(edp)) ** budget
    print(
        f"{len(edp):,} points, {near} within 1 % of the least EDP ({best * 1e12:.4g} pJs), the median at {median(edp.values()) / best:.1f} x"
    )
    print(f"budget {budget} trials ({SHARE:.0%}); random search comes within 1 % with probability {lucky:.2f}")
    curves: dict[str, np.ndarray] = {}
    for sampler in samplers:
        start = time.process_time()
        runs, firsts = [], []
        for seed in range(seeds):
            settings = SearchSettings(("edp",), budget, sampler, seed=seed, population=population)  # type: ignore[arg-type]
            so_far = curve(searched(Known(edp), settings)) / best
            runs.append(so_far)
            hits = np.flatnonzero(so_far <= NEAR)
            firsts.append(int(hits[0]) + 1 if len(hits) else None)
        curves[sampler] = np.median(runs, axis=0)
        rate = seeds * budget / (time.process_time() - start)
        reached = sorted(first for first in firsts if first is not None)
        when = (
            f", after {reached[len(reached) // 2]} trials in the middle one, {reached[-1]} in the last"
            if reached
            else ""
        )
        print(f"{sampler:>8}: within 1 % in {len(reached)} of {seeds} seeds{when}; {rate:,.0f} trials/s")
    return curves


def show(curves: dict[str, np.ndarray]) -> None:
    budget = len(next(iter(curves.values())))
    steps = sorted({min(budget, round(budget * part)) for part in (0.03, 0.06, 0.12, 0.25, 0.5, 0.75, 1)})
    print("least EDP so far, median over seeds, in multiples of the least of all")
    print(f"{'trials':>8}" + "".join(f"{step:>9}" for step in steps))
    for sampler, values in curves.items():
        print(f"{sampler:>8}" + "".join(f"{values[step - 1]:>9.3f}" for step in steps))


def draw_figure(curves: dict[str, np.ndarray], file: str) -> None:
    import plotly.graph_objects as go

    figure = go.Figure()
    for sampler, values in curves.items():
        figure.add_scatter(x=np.arange(1, len(values) + 1), y=values, name=sampler, line_shape="hv")
    figure.add_hline(y=NEAR, line_dash="dot", annotation_text="1 %")
    figure.update_layout(xaxis_title="trials", yaxis_title="least EDP so far / least of all (median over seeds)")
    figure.update_yaxes(type="log")
    figure.write_html(file, include_plotlyjs=True)


def end_to_end(file: Path) -> None:
    """Trials per second with the bill of each design counted, schedules kept, results and storage written."""
    workload = load_workload(file)
    family = layers_of(workload, Family(SpikexArch()))
    for what, inner in (("counted as mapped", InnerSearch(choices=None)), ("its best mapping found", InnerSearch())):
        objective = TraceObjective(file, family, inner)
        settings = SearchSettings(("edp",), 60, "random")
        searched(objective, settings)  # counts the schedules
        for storage in ("memory", None):
            start = time.process_time()
            result = searched(objective, settings, storage)
            seconds = time.process_time() - start
            print(f"{result.computed / seconds:,.0f} trials/s end to end, each {what}, storage {storage or 'SQLite'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", nargs="?", type=Path, help="a recorded trace instead of the drawn network")
    parser.add_argument("--samplers", nargs="+", default=["random", "nsga2", "tpe"])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--population", type=int, default=20)
    parser.add_argument("--figure", help="write the curves as a page")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = args.trace
        if file is None:
            file = Path(folder) / "drawn.toml"
            file.write_text(DRAWN)
        curves = compare(edp_of_all(load_workload(file)), args.samplers, args.seeds, args.population)
        show(curves)
        if args.figure:
            draw_figure(curves, args.figure)
        end_to_end(file)


if __name__ == "__main__":
    main()
