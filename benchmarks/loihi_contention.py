"""How near the contention timing of `loihi` is to a cycle-accurate network, case by case, and what it says of a whole network.

    SPIKELOOM_REFERENCE=... [SPIKELOOM_DATA=...] python -m benchmarks.loihi_contention

Cases: the micro file of SPIKELOOM_REFERENCE where it is, and tests/hw/contention_cases.json (made for this; the families
in LATER were run for the first time when the model stood). Both hold what SANA-FE 2.2.9 says in its timings simple, detailed and cycle;
errors are against cycle. Every case is emulated, placed and counted by the machine. With SPIKELOOM_DATA, the DVS-gesture network on four
placements, T = 128, against what SANA-FE said of each step (tests/hw/contention_gesture.json; run after the model stood): the error of the
whole, in which steps too long and too short cancel, and the mean error of a step.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from tests.reference.micro import chip_of

from benchmarks.loihi_dvs import dvs_network
from spikeloom.core.arch import Mapping
from spikeloom.emulate import emulate
from spikeloom.evaluate import evaluate
from spikeloom.hw import HARDWARE
from spikeloom.hw.contention import contention
from spikeloom.hw.loihi_arch import LoihiArch
from spikeloom.hw.loihi_events import Counter
from spikeloom.hw.loihi_groups import chart_of, run_of
from spikeloom.hw.loihi_plan import plan_of
from spikeloom.lower import lower

CASES = Path(__file__).parents[1] / "tests" / "hw" / "contention_cases.json"
#: Families that were run after the last change of the model.
LATER = ("layers", "recurrent", "partial", "links", "idle")
TIMINGS = ("simple", "detailed", "contention")
GESTURE = CASES.with_name("contention_gesture.json")


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


def gesture_errors(path: Path) -> list[tuple[list[int], dict[str, np.ndarray]]]:
    """Of each placement of the DVS-gesture network its cores per layer and, by timing, t / t_cycle - 1 of the whole and of its steps; (1 + T,)."""
    network, frames = dvs_network(path)
    workload = lower(network, emulate(network, frames, 128, leak_grid=64))
    found = []
    for split in json.loads(GESTURE.read_text(encoding="utf-8"))["splits"]:
        cores = dict(zip((layer.name for layer in workload.layers), split["cores"], strict=True))
        arch = LoihiArch(cores=cores, limits="warn")
        chart = chart_of(run_of(workload, arch), arch)
        placement = HARDWARE["loihi"].map(workload, arch).placement
        assert placement is not None
        counter = Counter(chart, plan_of(chart, placement, arch), arch)
        traffic = counter.traffic(0, counter.events(0))
        busiest = np.maximum(traffic.generate_TM.max(axis=1), traffic.receive_TM.max(axis=1))
        steps = {timing: np.array(split[timing]) for timing in ("detailed", "cycle")}
        for timing, ticks in (("simple", busiest), ("contention", contention(traffic, arch.mesh, arch))):
            steps[timing] = (ticks + counter.barrier) / 10
        with_sum = {timing: np.concatenate(([ns.sum()], ns)) for timing, ns in steps.items()}
        found.append((split["cores"], {timing: with_sum[timing] / with_sum["cycle"] - 1 for timing in TIMINGS}))
    return found


def dvs(path: Path) -> None:
    """Print the errors on the four placements of the DVS-gesture network."""
    print(f"{'DVS gesture, 128 steps, cores':30}{'error of the whole in %':>30}{'mean |error| of a step in %':>34}")
    print(f"{'':30}" + "".join(f"{timing:>11}" for timing in TIMINGS * 2))
    for cores, errors in gesture_errors(path):
        whole = "".join(f"{100 * errors[timing][0]:+11.2f}" for timing in TIMINGS)
        steps = "".join(f"{100 * np.abs(errors[timing][1:]).mean():11.2f}" for timing in TIMINGS)
        print(f"{','.join(map(str, cores)):30}{whole}{steps}")


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
