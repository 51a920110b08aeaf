"""The contention timing: equal to nested loops, no faster than the busiest core, and near a cycle-accurate network."""

from __future__ import annotations

import json
import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.loihi_contention import gesture_errors
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloom.core.arch import Mapping
from spikeloom.hw import HARDWARE
from spikeloom.hw.contention import contention
from spikeloom.hw.loihi_arch import LOIHI_PRESETS, LoihiArch
from spikeloom.hw.mesh import PORT, Mesh
from spikeloom.hw.traffic import Traffic
from spikeloom.lower import lower
from tests.reference import contention as reference
from tests.reference.folder import reference_file
from tests.reference.micro import chip_of, simulate

LOIHI = LoihiArch()


def random_traffic(seed: int, mesh: Mesh, arch: LoihiArch, steps: int) -> Traffic:
    """Cores that fire at random, each neuron to a few cores, with a work that differs from message to message or not."""
    rng = random.Random(seed)
    ticks = arch.ticks
    cores = sorted(rng.sample(range(mesh.num_cores), rng.randint(1, min(8, mesh.num_cores))))
    port = rng.random() < 0.3
    sources = [PORT, *cores] if port else cores
    pairs = [(a, b) for a in sources for b in cores if rng.random() < 0.5]
    rng.shuffle(pairs)
    neurons = {m: rng.randint(1, 12) for m in cores}
    varied = rng.random() < 0.5
    shape = (steps, len(cores))
    generate, receive, updated, fired, before, behind = (np.zeros(shape, np.int64) for _ in range(6))
    messages, work = (np.zeros((steps, len(pairs)), np.int64) for _ in range(2))
    for t in range(steps):
        rate = rng.choice((0.0, 0.2, 0.7, 1.0))
        for m, core in enumerate(cores):
            fires = sum(rng.random() < rate for _ in range(neurons[core]))
            active = rng.randint(fires, neurons[core])
            updated[t, m], fired[t, m] = active, fires
            silent = (neurons[core] - fires) * ticks["access"]
            before[t, m], behind[t, m] = rng.choice(((0, 0), (silent // 2, 0), (0, silent), (silent // 3, silent // 4)))
            generate[t, m] = neurons[core] * ticks["access"] + active * ticks["update"] + fires * ticks["spike_out"]
        for f, (a, b) in enumerate(pairs):
            most = rng.randint(0, 9) if a == PORT else int(fired[t, cores.index(a)])
            n = rng.choice((most, rng.randint(0, most)))
            same = rng.randint(0, 30)
            messages[t, f] = n
            work[t, f] = sum(ticks["axon_in"] + 38 * (rng.randint(0, 30) if varied else same) for _ in range(n))
            receive[t, cores.index(b)] += work[t, f]
            if a != PORT:
                generate[t, cores.index(a)] += n * ticks["axon_out"]
    if port and rng.random() < 0.5:  # the port beside the cores, or as a source only
        sent = (messages * np.array([a == PORT for a, _ in pairs], np.int64)).sum(axis=1) * ticks["axon_out"]
        generate, receive, updated, fired, before, behind = (
            np.concatenate([column[:, None], array], axis=1)
            for column, array in zip(
                (sent, *[np.zeros(steps, np.int64)] * 5),
                (generate, receive, updated, fired, before, behind),
                strict=True,
            )
        )
        cores, neurons = [PORT, *cores], {PORT: 0} | neurons
    return Traffic(
        cores_M=np.array(cores, np.int32),
        generate_TM=generate,
        receive_TM=receive,
        flow_source_F=np.array([a for a, _ in pairs], np.int32),
        flow_target_F=np.array([b for _, b in pairs], np.int32),
        messages_TF=messages,
        receive_TF=work,
        updated_TM=updated,
        fired_TM=fired,
        neurons_M=np.array([neurons[m] for m in cores], np.int64),
        before_TM=before,
        behind_TM=behind,
    )


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    rows=st.integers(1, 4),
    columns=st.integers(1, 4),
    cores_per_tile=st.integers(1, 3),
    chips=st.integers(1, 2),
    router_ns=st.sampled_from((4.0, 0.0, 1.3)),
    link_ns=st.sampled_from((1.0, 0.0, 80.0)),
    noc_cycle_ns=st.sampled_from((1.0, 0.0, 0.7)),
    preset=st.sampled_from(("loihi", "loihi-davies2018")),
)
def test_as_nested_loops(
    seed: int,
    rows: int,
    columns: int,
    cores_per_tile: int,
    chips: int,
    router_ns: float,
    link_ns: float,
    noc_cycle_ns: float,
    preset: str,
) -> None:
    arch = replace(
        LoihiArch(**LOIHI_PRESETS[preset]),  # type: ignore[arg-type]
        rows=rows,
        columns=columns,
        cores_per_tile=cores_per_tile,
        chips=chips,
        router_ns=router_ns,
        link_ns=link_ns,
        noc_cycle_ns=noc_cycle_ns,
    )
    traffic = random_traffic(seed, arch.mesh, arch, 3)
    fast = contention(traffic, arch.mesh, arch)
    assert fast.dtype == np.int64
    assert fast.tolist() == reference.contention(traffic, arch.mesh, arch)
    assert (fast >= simple_ticks(traffic)).all()


def simple_ticks(traffic: Traffic) -> np.ndarray:
    """Ticks of the steps in the simple timing, without the barrier; (T,)."""
    return np.maximum(traffic.generate_TM.max(axis=1), traffic.receive_TM.max(axis=1))


# --- against SANA-FE ----------------------------------------------------------------------------------------------------

OWN: list[dict[str, Any]] = json.loads((Path(__file__).parent / "contention_cases.json").read_text())["cases"]
#: Families that were run after the last change of the model.
LATER = ("layers", "recurrent", "partial", "links", "idle")
MICRO_FILE = reference_file("sanafe_micro.json")
MICRO: list[dict[str, Any]] = json.loads(MICRO_FILE.read_text())["cases"] if MICRO_FILE.is_file() else []


def counted(case: dict[str, Any]) -> int:
    """Ticks of a case in the contention timing of the machine."""
    chip = chip_of(case)
    network = chip.network()
    workload = lower(network, chip.trace(network))
    arch = LoihiArch(zero_weights="skipped", limits="warn", timing="contention")
    mapping = Mapping("loihi", {}, chip.placement(network))
    return HARDWARE["loihi"].count(workload, arch, mapping, threads=1).cycles


def errors(case: dict[str, Any], ticks: int) -> np.ndarray:
    """|t / t_cycle - 1| in the timings simple, detailed and contention; (3,)."""
    found = case["results"]
    seconds = np.array([found["simple"]["sim_time"], found["detailed"]["sim_time"], ticks * 1e-10])
    return np.abs(seconds / found["cycle"]["sim_time"] - 1)


@pytest.mark.skipif(not MICRO, reason="needs the reference folder (SPIKELOOM_REFERENCE, or beside SPIKELOOM_DATA)")
def test_nearer_to_cycle_on_the_micro_file() -> None:
    """Mean error over all its cases; each also equals the nested loops on what an event simulator sends."""
    found = []
    for case in MICRO:
        if "cycle" not in case["results"]:
            continue
        ticks = counted(case)
        micro = simulate(case)
        assert ticks == sum(reference.contention(micro.traffic, LOIHI.mesh, LOIHI)) + case["T"] * micro.barrier
        found.append(errors(case, ticks))
    simple, detailed, ours = np.mean(found, axis=0)
    assert ours < min(simple, detailed)
    assert ours < 5e-4


@pytest.fixture(scope="module")
def own_errors() -> dict[str, list[np.ndarray]]:
    """Errors of the cases made for this, by family."""
    found: dict[str, list[np.ndarray]] = {}
    for case in OWN:
        micro = simulate(case)
        checked = case["results"]["simple"]
        counts = (micro.events, micro.messages, micro.updated, micro.fired)
        assert counts == tuple(checked[k] for k in ("spikes", "packets_sent", "neurons_updated", "neurons_fired"))
        simple = int(simple_ticks(micro.traffic).sum()) + case["T"] * micro.barrier
        assert simple == pytest.approx(checked["sim_time"] * 1e10, rel=1e-10)
        ticks = int(contention(micro.traffic, LOIHI.mesh, LOIHI).sum()) + case["T"] * micro.barrier
        found.setdefault(case["family"], []).append(errors(case, ticks))
    return found


def test_nearer_to_cycle_on_cases_of_its_own(own_errors: dict[str, list[np.ndarray]]) -> None:
    """In the families run before the model stood and in those run after, and against simple in every single one."""
    assert sum(map(len, own_errors.values())) == len(OWN) >= 60
    for later in (False, True):
        part = [error for family in own_errors for error in own_errors[family] if (family in LATER) is later]
        simple, detailed, ours = np.mean(part, axis=0)
        assert ours < 0.25 * min(simple, detailed)
    for family, found in own_errors.items():
        simple, detailed, ours = np.mean(found, axis=0)
        assert ours < simple, family


def test_the_machine_counts_what_the_event_simulator_sends() -> None:
    for case in OWN[::4]:
        micro = simulate(case)
        ticks = int(contention(micro.traffic, LOIHI.mesh, LOIHI).sum()) + case["T"] * micro.barrier
        assert counted(case) == ticks, case["case"]


GESTURE = Path(os.environ.get("SPIKELOOM_DATA", "") or "absent") / "nets" / "sanafe_dvs_gesture_32x32_loihi.npz"


@pytest.mark.skipif(not GESTURE.is_file(), reason="needs SPIKELOOM_DATA: the DVS-gesture network")
def test_nearer_to_cycle_in_the_steps_of_a_whole_network() -> None:
    """On each of four placements; in the sum over steps, errors of both signs cancel, for `detailed` more than here."""
    found = gesture_errors(GESTURE)
    assert len(found) == 4
    for cores, errors in found:
        step = {timing: float(np.abs(error[1:]).mean()) for timing, error in errors.items()}
        assert step["contention"] < min(step["simple"], step["detailed"]), cores
        assert abs(errors["contention"][0]) < abs(errors["simple"][0]), cores


# --- worked by hand -----------------------------------------------------------------------------------------------------


def one_flow(messages: int, source: int, target: int, *, idle: int = 0) -> Traffic:
    """One step: neurons of ``source`` that all fire to ``target``, a synapse each; ``idle`` neurons on core 127."""
    return Traffic(
        cores_M=np.array([source, target, 127], np.int32),
        generate_TM=np.array([[448 * messages, 0, 60 * idle]]),
        receive_TM=np.array([[0, 198 * messages, 0]]),
        flow_source_F=np.array([source], np.int32),
        flow_target_F=np.array([target], np.int32),
        messages_TF=np.array([[messages]]),
        receive_TF=np.array([[198 * messages]]),
        updated_TM=np.array([[messages, 0, 0]]),
        fired_TM=np.array([[messages, 0, 0]]),
        neurons_M=np.array([messages, 0, idle]),
        before_TM=np.zeros((1, 3), np.int64),
        behind_TM=np.zeros((1, 3), np.int64),
    )


@pytest.mark.parametrize(("target", "hops"), [(1, 0), (4, 1), (16, 1), (20, 2), (124, 10)])
def test_one_message(target: int, hops: int) -> None:
    """45 ns to send, 4 ns in each router, 20 ns to receive: what SANA-FE measures on its cycle-accurate network."""
    found = contention(one_flow(1, 0, target), LOIHI.mesh, LOIHI)
    assert found.tolist() == [450 + 40 * (hops + 1) + 200]
    own_hops = replace(LOIHI, router_ns=0.0, noc_cycle_ns=0.0)
    x, y = LOIHI.mesh.hops(0, target)
    assert contention(one_flow(1, 0, target), LOIHI.mesh, own_hops).tolist() == [448 + 41 * x + 65 * y + 198]


def test_a_slow_core_and_the_drain_behind_it() -> None:
    """500 neurons without a spike take 3,000 ns; the message drains in 4 + 4 + 20 ns behind them."""
    assert contention(one_flow(1, 0, 4, idle=500), LOIHI.mesh, LOIHI).tolist() == [30000 + 280]
    assert contention(one_flow(0, 0, 4, idle=500), LOIHI.mesh, LOIHI).tolist() == [30000 + 10]


def test_a_slow_link_bounds_the_step() -> None:
    """100 messages through a link that needs 100 ns for each: the first is there after 45 + 4 ns, the last needs 4 + 20 ns more."""
    slow = replace(LOIHI, link_ns=100.0)
    assert contention(one_flow(100, 0, 4), LOIHI.mesh, slow).tolist() == [490 + 99 * 1000 + 240]
    assert contention(one_flow(100, 0, 1), LOIHI.mesh, slow).tolist() == [100 * 450 + 240]  # no link in a tile


def test_order_of_flows_and_cores_does_not_matter() -> None:
    arch = LoihiArch(rows=3, columns=3, cores_per_tile=2)
    traffic = random_traffic(7, arch.mesh, arch, 4)
    order = np.random.default_rng(0).permutation(len(traffic.flow_source_F))
    shuffled = replace(
        traffic,
        flow_source_F=traffic.flow_source_F[order],
        flow_target_F=traffic.flow_target_F[order],
        messages_TF=traffic.messages_TF[:, order],
        receive_TF=traffic.receive_TF[:, order],
    )
    expected = contention(traffic, arch.mesh, arch)
    assert contention(shuffled, arch.mesh, arch).tolist() == expected.tolist()
    assert expected.sum() > 0
