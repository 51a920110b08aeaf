"""The contention timing: equal to nested loops, no faster than the busiest core, and near a cycle-accurate network."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloom.hw.contention import contention
from spikeloom.hw.loihi_arch import LOIHI_PRESETS, LoihiArch
from spikeloom.hw.mesh import PORT, Mesh
from spikeloom.hw.traffic import Traffic
from tests.reference import contention as reference

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
