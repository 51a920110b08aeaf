"""What mapping is worth on the many-core machine: hand mappings and mappings found, on the DVS-gesture network and on any other trace.

    SPIKELOOM_DATA=... python -m benchmarks.loihi_mapper [TRACE ...]

The DVS-gesture network is the one that SANA-FE ships (32 x 32 input, 18,678 neurons, 128 steps, one recording), its spikes emulated; the hand
mappings are those of SANA-FE's reference cases, which need limits = "warn". For each objective it is mapped twice: as far as the given mapping
(the hand mapping with the least EDP) breaks the limits of a core, and within all limits. Other traces are mapped within all limits, from the
machine's own placement. Each row is a count of the machine on all samples. Seconds are CPU time of the whole of `map_network`, compiled
kernels loaded before.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np

from spikeloom.codesign.mapper import NetworkMapping, map_network
from spikeloom.codesign.mapping import Objective
from spikeloom.core.network import Network, chain
from spikeloom.core.nodes import IF, Conv2d, Flatten, Input, Linear, Node, Output
from spikeloom.core.report import Report
from spikeloom.core.workload import Workload
from spikeloom.emulate import emulate
from spikeloom.evaluate import evaluate, load_workload
from spikeloom.hw.loihi_arch import LoihiArch
from spikeloom.lower import lower

NETWORK = "nets/sanafe_dvs_gesture_32x32_loihi.npz"
LAYERS = ("input", "conv1", "conv2", "conv3", "conv4", "dense")
#: Cores of each layer in SANA-FE's reference cases.
BY_HAND = ((1, 4, 16, 16, 4, 1), (1, 4, 6, 8, 1, 1), (1, 8, 32, 32, 8, 1), (1, 4, 16, 64, 16, 1))
STEPS = 128


def dvs_gesture(data: Path) -> Workload:
    """The network with its spikes. Kernels are stored [row, column, in, out], pixels act as a bias in every step."""
    with np.load(data / NETWORK) as stored:
        arrays = {name: stored[name] for name in stored.files}
    thresholds = [float(value) for value in arrays["thresholds"]]
    nodes: dict[str, Node] = {
        "pixels": Input((1, 32, 32), "analog"),  # a pixel p of an analog input stands for p / 255
        "input": Conv2d(1, 1, (1, 1), weight=np.full((1, 1, 1, 1), 255, np.float32)),
        "fire0": IF(thresholds[0], strict=True),
    }
    for n in range(1, 5):
        weight = np.ascontiguousarray(arrays[f"conv{n}"].transpose(3, 2, 0, 1))
        stride = (2, 2) if n == 1 else (1, 1)
        nodes[f"conv{n}"] = Conv2d(weight.shape[1], weight.shape[0], (3, 3), stride=stride, weight=weight)
        nodes[f"fire{n}"] = IF(thresholds[n], strict=True)
    nodes |= {"flatten": Flatten(), "dense": Linear(891, 11, weight=np.ascontiguousarray(arrays["dense1"].T))}
    nodes |= {"fire5": IF(thresholds[5], strict=True), "out": Output((11,))}
    network: Network = chain("dvs-gesture", nodes)
    return lower(network, emulate(network, arrays["inputs"].reshape(1, 1, 32, 32).astype(np.uint8), STEPS))


def row(name: str, report: Report, used: tuple[int, int], seconds: float | None = None) -> str:
    """One line of the table."""
    messages = sum(layer.counts.get("axon.out", 0) for layer in report.layers) / report.num_samples
    figures = (
        f"{report.energy_per_inference_j * 1e6:.4g}",
        f"{report.latency_per_inference_s * 1e6:,.0f}",
        f"{report.edp_js * 1e9:.4g}",
        f"{messages:,.0f}",
        f"{used[0]} / {used[1]}",
        "" if seconds is None else f"{seconds:.0f}",
    )
    return f"| {name} | {' | '.join(figures)} |"


def mapped(workload: Workload, arch: LoihiArch, objective: Objective) -> tuple[NetworkMapping, float]:
    """A mapping and the CPU seconds it took."""
    begun = time.process_time()
    found = map_network(workload, arch, objective=objective)
    return found, time.process_time() - begun


def main(traces: list[str]) -> None:
    """Print the tables."""
    print(
        "| mapping | energy uJ | latency us | EDP nJs | messages | cores / tiles | CPU s |\n|---|---|---|---|---|---|---|"
    )
    if data := os.environ.get("SPIKELOOM_DATA"):
        workload = dvs_gesture(Path(data))
        hand = [LoihiArch(cores=dict(zip(LAYERS, cores, strict=True)), limits="warn") for cores in BY_HAND]
        reports = [evaluate(workload, arch) for arch in hand]
        for cores, report in zip(BY_HAND, reports, strict=True):
            print(row(f"by hand {', '.join(map(str, cores))}", report, (sum(cores), -(-sum(cores) // 4))))
        best = hand[int(np.argmin([report.edp_js for report in reports]))]
        map_network(workload, best, budget=1)  # compiles
        for objective in get_args(Objective):
            found, seconds = mapped(workload, best, objective)
            print(row(f"least {objective}", found.report, found.used[1], seconds))
            found, seconds = mapped(workload, replace(best, limits="refuse"), objective)
            print(row(f"least {objective}, fits", found.report, found.used[1], seconds))
    for trace in traces:
        workload = load_workload(trace)
        arch = LoihiArch()
        for objective in get_args(Objective):
            found, seconds = mapped(workload, arch, objective)
            if objective == get_args(Objective)[0]:
                print(row(f"{Path(trace).stem}: given", found.given, found.used[0]))
            print(row(f"{Path(trace).stem}: least {objective}", found.report, found.used[1], seconds))


if __name__ == "__main__":
    main(sys.argv[1:])
