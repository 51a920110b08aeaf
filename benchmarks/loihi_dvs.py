"""The DVS-gesture network that SANA-FE ships, on its four reference placements: one process, no torch, no list of synapses.

    SPIKELOOM_DATA=... python -m benchmarks.loihi_dvs [--sanafe PYTHON] [--runs 3]

Runs the network for 128 steps with `spikeloom.emulate` and counts and prices the four placements on the machine `loihi`, all in one fresh
process: the first time with nothing compiled, then with the kernels compiled. PYTHON, of an environment with the wheel sanafe 2.2.9,
runs SANA-FE on the same file, a process for each placement. Wall time, processor time and peak memory of whole processes, imports and
reading of files included; the median of RUNS, with the least and the most. Rounds alternate, so that both sides meet the same load.

The network is nets/sanafe_dvs_gesture_32x32_loihi.npz of the data folder (github.com/SLAM-Lab/SANA-FE, GPL-3): a 32x32 input whose
pixels are biases, convolutions 3x3 of 16 (stride 2), 32, 64 and 11 channels, a dense layer of 11; no padding, IF neurons that fire
above their layer's threshold.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from spikeloom.core.arch import Mapping
    from spikeloom.core.network import Network
    from spikeloom.core.workload import Workload

FILE = "nets/sanafe_dvs_gesture_32x32_loihi.npz"
STEPS = 128
LAYERS = ("input", "conv1", "conv2", "conv3", "conv4", "dense")


@dataclass(frozen=True)
class Split:
    """Cores of each layer, and what SANA-FE 2.2.9 finds there: joules, seconds, messages, hops E-W and N-S, tiles in use."""

    cores: tuple[int, ...]
    total_j: float
    network_j: float
    time_s: float
    packets: int
    hops_x: int
    hops_y: int
    tiles: int


#: The same on every placement.
SYNAPSE_J, SOMA_J = 1.93915839e-4, 1.542711594e-4
SPLITS = (
    Split((1, 4, 16, 16, 4, 1), 3.788029734e-4, 3.0615975e-5, 2.5320635e-3, 259_191, 191_968, 302_350, 11),
    Split((1, 4, 6, 8, 1, 1), 3.615413022e-4, 1.33543038e-5, 6.4128647e-3, 113_624, 35_934, 151_009, 6),
    Split((1, 8, 32, 32, 8, 1), 4.100047002e-4, 6.18177018e-5, 1.9292361e-3, 512_647, 742_621, 639_529, 21),
    Split((1, 4, 16, 64, 16, 1), 4.466686524e-4, 9.8481654e-5, 1.6331707e-3, 797_152, 1_899_211, 1_023_845, 26),
)


def dvs_network(path: str | Path) -> tuple[Network, np.ndarray]:
    """The network with integer weights, and its one sample: pixels (1, 1, 32, 32)."""
    from spikeloom.core.network import chain
    from spikeloom.core.nodes import IF, Conv2d, Flatten, Input, Linear, Node, Output

    with np.load(path) as arrays:
        thresholds = [float(theta) for theta in arrays["thresholds"]]
        # kernels are stored as [row, column, input channel, output channel], dense rows as (channel, row, column)
        kernels = {name: arrays[name].transpose(3, 2, 0, 1).astype(np.int16) for name in LAYERS[1:5]}
        dense, pixels = arrays["dense1"].T.astype(np.int16), arrays["inputs"].reshape(1, 1, 32, 32)
    synapses: dict[str, Node] = {"input": Conv2d(1, 1, (1, 1), weight=np.ones((1, 1, 1, 1), np.int16))}
    for name, kernel in kernels.items():
        K, C = kernel.shape[:2]
        stride = (2, 2) if name == "conv1" else (1, 1)
        synapses[name] = Conv2d(C, K, (3, 3), stride, weight=kernel)
    synapses["dense"] = Linear(dense.shape[1], len(dense), weight=dense)
    nodes: dict[str, Node] = {"pixels": Input((1, 32, 32), "analog")}
    for (name, synapse), theta in zip(synapses.items(), thresholds, strict=True):
        if name == "dense":
            nodes["flatten"] = Flatten()
        nodes |= {name: synapse, f"{name}_if": IF(v_threshold=theta, strict=True)}
    nodes["output"] = Output((len(dense),))
    return chain("dvs-gesture", nodes), pixels


def placed(workload: Workload, cores: tuple[int, ...]) -> Mapping:
    """Layer after layer on cores 0, 1, 2, ..., each an even share of its neurons, channel by channel."""
    from spikeloom.core.arch import Mapping
    from spikeloom.core.placement import Place, Placement, even_split

    places, core = [], 0
    for layer, count in zip(workload.layers, cores, strict=True):
        for run in even_split(layer.K * layer.P * layer.Q, count):
            places.append(Place(layer.name, core // 4, core % 4, neurons=run))
            core += 1
    return Mapping("loihi", {}, Placement(tuple(places)))


def run_all(path: str) -> None:
    """The simulation and the four placements; one line of JSON."""
    start = time.perf_counter()
    from spikeloom.emulate import emulate
    from spikeloom.evaluate import evaluate
    from spikeloom.hw.loihi_arch import LoihiArch
    from spikeloom.lower import lower

    imported = time.perf_counter()
    network, pixels = dvs_network(path)
    workload = lower(network, emulate(network, pixels, STEPS))
    emulated = time.perf_counter()
    found = []
    for split in SPLITS:
        # the reference placements break limits of the chip, which SANA-FE does not check
        report = evaluate(workload, LoihiArch(limits="warn"), mapping=placed(workload, split.cores), threads=1)
        found.append((report.energy_j, report.latency_s))
        assert abs(report.energy_j / split.total_j - 1) < 1e-9 and abs(report.latency_s / split.time_s - 1) < 1e-9
    assert "torch" not in sys.modules
    times = {
        "import": imported - start,
        "emulate": emulated - imported,
        "four placements": time.perf_counter() - emulated,
    }
    print(json.dumps({"times": times, "found": found}))


@dataclass(frozen=True)
class Cost:
    """What a process took."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    said: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.wall_s:.2f} s wall, {self.cpu_s:.2f} s of processor time, {self.peak_mb:.0f} MB"


def measured(command: list[str], env: dict[str, str]) -> Cost:
    """Run a command to its end; its last line is JSON."""
    start = time.perf_counter()
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = process.stdout.read().splitlines()
    _, status, usage = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return Cost(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, json.loads(lines[-1]))


def spread(values: list[float], digits: int = 2) -> str:
    """Median, least and most."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def shown(costs: list[Cost]) -> str:
    """What several runs of the same took."""
    wall, cpu, peak = zip(*((cost.wall_s, cost.cpu_s, cost.peak_mb) for cost in costs), strict=True)
    return f"{spread(wall)} s wall, {spread(cpu)} s of processor time, {spread(peak, 0)} MB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sanafe", metavar="PYTHON", help="the python of an environment with the wheel sanafe 2.2.9")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--child", metavar="FILE", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        run_all(given.child)
        return
    if "SPIKELOOM_DATA" not in os.environ:
        raise SystemExit("set SPIKELOOM_DATA to the folder with nets/")
    path = str(Path(os.environ["SPIKELOOM_DATA"]) / FILE)
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    script = str(Path(__file__).with_name("loihi_dvs_sanafe.py"))
    ours: list[Cost] = []
    theirs: dict[Split, list[Cost]] = {split: [] for split in SPLITS if given.sanafe}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.loihi_dvs", "--child", path]
        env = {**one_thread, "NUMBA_CACHE_DIR": folder}
        print(f"spikeloom, simulation and four placements, first run (compiles): {shown([measured(command, env)])}")
        for _ in range(given.runs):
            ours.append(measured(command, env))
            for split, costs in theirs.items():
                cores = ",".join(map(str, split.cores))
                costs.append(measured([given.sanafe, script, path, str(STEPS), cores], one_thread))
                assert costs[-1].said["packets_sent"] == split.packets
    print(f"spikeloom, simulation and four placements: {shown(ours)}")
    parts = {what: [cost.said["times"][what] for cost in ours] for what in ours[0].said["times"]}
    print("  of which " + ", ".join(f"{what} {statistics.median(each):.2f} s" for what, each in parts.items()))
    for split, costs in theirs.items():
        print(f"SANA-FE, cores {','.join(map(str, split.cores))}: {shown(costs)}")
    if not theirs:
        return
    rounds = list(zip(*theirs.values(), strict=True))
    wall = [sum(c.wall_s for c in costs) / one.wall_s for costs, one in zip(rounds, ours, strict=True)]
    cpu = [sum(c.cpu_s for c in costs) / one.cpu_s for costs, one in zip(rounds, ours, strict=True)]
    peak = [max(c.peak_mb for c in costs) / one.peak_mb for costs, one in zip(rounds, ours, strict=True)]
    print(
        f"all four: {spread(wall, 0)} times the wall time, {spread(cpu, 0)} times the processor time, {spread(peak, 0)} times the memory"
    )


if __name__ == "__main__":
    main()
