"""How near the contention timing of `loihi` is to a cycle-accurate network, case by case, and what it says of a whole network.

    SPIKELOOM_REFERENCE=... [SPIKELOOM_DATA=...] python -m benchmarks.loihi_contention

Cases: the micro file of SPIKELOOM_REFERENCE where it is, and tests/hw/contention_cases.json (made for this; the families
in LATER were run for the first time when the model stood). Both hold what SANA-FE 2.2.9 says in its timings simple, detailed and cycle;
errors are against cycle. Every case is emulated, placed and counted by the machine. With SPIKELOOM_DATA, the DVS-gesture network on four
placements, T = 128, beside the `detailed` times known for it (no cycle time is: it takes too long).
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from tests.reference.micro import chip_of

from spikeloom.core.arch import Mapping
from spikeloom.core.network import Network, chain
from spikeloom.core.nodes import IF, Conv2d, Flatten, Input, Linear, Node, Output
from spikeloom.core.workload import Workload
from spikeloom.emulate import emulate
from spikeloom.evaluate import evaluate
from spikeloom.hw.loihi_arch import LoihiArch
from spikeloom.lower import lower

CASES = Path(__file__).parents[1] / "tests" / "hw" / "contention_cases.json"
#: Families that were run after the last change of the model.
LATER = ("layers", "recurrent", "partial", "links", "idle")
TIMINGS = ("simple", "detailed", "contention")
#: Cores per layer of the DVS-gesture network -> seconds of SANA-FE 2.2.9, simple and detailed.
SPLITS = {
    (1, 4, 16, 16, 4, 1): (2.5320635e-3, 2.740501e-3),
    (1, 4, 6, 8, 1, 1): (6.4128647e-3, 6.559176e-3),
    (1, 8, 32, 32, 8, 1): (1.9292361e-3, 2.066791e-3),
    (1, 4, 16, 64, 16, 1): (1.6331707e-3, 1.863473e-3),
}


def contention_s(case: dict[str, Any]) -> float:
    """Seconds of a case in the contention timing of the machine."""
    chip = chip_of(case)
    network = chip.network()
    workload = lower(network, chip.trace(network))
    arch = LoihiArch(zero_weights="skipped", limits="warn", timing="contention")
    return evaluate(workload, arch, mapping=Mapping("loihi", {}, chip.placement(network))).latency_s


def compare(cases: list[dict[str, Any]]) -> None:
    """Print a line for each case and the mean and largest errors of each family."""
    errors: dict[str, list[tuple[float, ...]]] = {}
    print(f"{'case':36}{'ns a step: simple':>18}{'detailed':>12}{'contention':>12}{'cycle':>12}{'error in %':>22}")
    for case in cases:
        seconds = {timing: case["results"][timing]["sim_time"] for timing in ("simple", "detailed", "cycle")}
        seconds["contention"] = contention_s(case)
        found = tuple(100 * (seconds[timing] / seconds["cycle"] - 1) for timing in TIMINGS)
        errors.setdefault(case.get("family", "micro file"), []).append(found)
        shown = "".join(f"{seconds[timing] * 1e9 / case['T']:12.1f}" for timing in (*TIMINGS, "cycle"))
        print(f"{case['case']:42}{shown}   " + "".join(f"{error:+9.3f}" for error in found))
    print(f"\n{'mean |error| in %':30}{'cases':>6}{'simple':>10}{'detailed':>10}{'contention':>12}{'worst':>10}")
    groups: dict[str, list[tuple[float, ...]]] = dict(errors)
    if len(errors) > 1:
        for name, later in (("run before the model stood", False), ("run after the model stood", True)):
            groups[name] = [found for family in errors for found in errors[family] if (family in LATER) is later]
        groups["all"] = [found for family in errors.values() for found in family]
    for name, family in groups.items():
        means = np.abs(family).mean(axis=0)
        print(
            f"{name:30}{len(family):6}{means[0]:10.3f}{means[1]:10.3f}{means[2]:12.3f}{np.abs(family)[:, 2].max():10.3f}"
        )
    print()


def gesture(path: Path) -> Network:
    """The DVS-gesture network: its input are 1024 neurons that a bias drives in every step."""
    with np.load(path) as found:
        arrays = dict(found)
    threshold = [float(value) for value in arrays["thresholds"]]
    nodes: dict[str, Node] = {
        "in": Input((1, 32, 32), "analog"),
        "input": Conv2d(
            1, 1, (1, 1), has_bias=True, weight=np.zeros((1, 1, 1, 1), np.float32),
            bias=arrays["inputs"].astype(np.float32).reshape(1, 32, 32),
        ),
        "n0": IF(threshold[0], strict=True),
    }  # fmt: skip
    for i in range(1, 5):
        weight = arrays[f"conv{i}"].transpose(3, 2, 0, 1)
        stride = (2, 2) if i == 1 else (1, 1)
        nodes[f"conv{i}"] = Conv2d(
            weight.shape[1], weight.shape[0], (3, 3), stride, weight=np.ascontiguousarray(weight)
        )
        nodes[f"n{i}"] = IF(threshold[i], strict=True)
    dense = np.ascontiguousarray(arrays["dense1"].T)
    nodes |= {"flat": Flatten(), "dense": Linear(dense.shape[1], dense.shape[0], weight=dense)}
    nodes |= {"n5": IF(threshold[5], strict=True), "out": Output((11,))}
    return chain("dvs-gesture", nodes)


def dvs(path: Path) -> None:
    """Print the four placements of the DVS-gesture network."""
    network = gesture(path)
    workload: Workload = lower(network, emulate(network, np.zeros((1, 1, 32, 32)), 128, leak_grid=64))
    names = [layer.name for layer in workload.layers]
    print(
        f"DVS gesture, 128 steps: {'cores':22}{'simple':>12}{'(SANA-FE)':>12}{'detailed':>12}{'contention':>12} ms   CPU s"
    )
    for cores, (simple_s, detailed_s) in SPLITS.items():
        times = {}
        for timing in ("simple", "contention"):
            arch = LoihiArch(cores=dict(zip(names, cores, strict=True)), limits="warn", timing=timing)
            evaluate(workload, arch)  # compiled and built
            begin = time.process_time()
            times[timing] = (evaluate(workload, arch).latency_s, time.process_time() - begin)
        shown = (times["simple"][0], simple_s, detailed_s, times["contention"][0])
        cpu = f"{times['simple'][1]:.2f} -> {times['contention'][1]:.2f}"
        print(f"{'':24}{','.join(map(str, cores)):22}" + "".join(f"{1e3 * s:12.6f}" for s in shown) + f"      {cpu}")


def main() -> None:
    """Print everything there is data for."""
    reference = Path(os.environ.get("SPIKELOOM_REFERENCE", "absent")) / "sanafe_micro.json"
    if reference.is_file():
        compare(json.loads(reference.read_text(encoding="utf-8"))["cases"])
    compare(json.loads(CASES.read_text(encoding="utf-8"))["cases"])
    network = Path(os.environ.get("SPIKELOOM_DATA", "absent")) / "nets" / "sanafe_dvs_gesture_32x32_loihi.npz"
    if network.is_file():
        dvs(network)


if __name__ == "__main__":
    main()
