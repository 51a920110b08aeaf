"""Curves of a layer's cost over the fill of its words, held against the exact model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from spikeloom.codesign.curves import (
    KEPT,
    Thinning,
    channels_of,
    draw_curves,
    fill_of,
    fills,
    interpolated,
    predicted,
    thinned,
)
from spikeloom.core.trace import Levels, Spikes
from spikeloom.core.workload import Workload
from spikeloom.evaluate import evaluate, load_machine
from tests.codesign.spiking import event_net, events, residual_net, spikes_of

MACHINES = (
    "spikex:window={conv1=1,conv2=3,fc=4}",
    "ptb:window=2",
    "spikex:fold_pool=false,window=4",
    "spikex:tailoring=false",
    "spikex:table=cacti32,lbuf_kib=1,glb_kib=1,window=8",
    "snn-dense",
)


@pytest.fixture(scope="module")
def workload() -> Workload:
    return spikes_of(event_net(), events(6))


@pytest.mark.parametrize("spec", MACHINES)
@pytest.mark.parametrize("thinning", ["spike", "neuron"])
def test_the_right_ends_of_the_curves_are_the_exact_cost(workload: Workload, spec: str, thinning: Thinning) -> None:
    arch = load_machine(spec)[1]
    report = evaluate(workload, arch)
    curves = draw_curves(workload, arch, thinning=thinning)
    energy, latency = predicted(curves, fills(workload, arch, curves))
    assert energy == pytest.approx(report.energy_per_inference_j, rel=1e-9, abs=0)
    assert latency == pytest.approx(report.latency_per_inference_s, rel=1e-9, abs=0)
    assert curves["conv1"].fill.size == 1  # the data cannot be trained
    assert curves["conv2"].fill.size > 3


@pytest.mark.parametrize("spec", ["spikex:window={conv1=1,side=2,conv2=3,conv3=4,fc=4}", "ptb:join=tile", "snn-dense"])
def test_both_ends_are_exact_where_sums_meet(spec: str) -> None:
    """A branch falls silent with its owner."""
    workload, arch = spikes_of(residual_net(), events(4, rate=0.4)), load_machine(spec)[1]
    assert workload["conv3"].branches == (workload["side"],) and workload["conv3"].arrival.density() > 0
    curves = draw_curves(workload, arch)
    assert curves["side"].departure is None and curves["conv3"].departure == "fc"
    silent = replace(workload, layers=tuple(_silenced(layer) for layer in workload.layers))
    for run in (workload, silent):
        energy, latency = predicted(curves, fills(run, arch, curves))
        report = evaluate(run, arch)
        assert energy == pytest.approx(report.energy_per_inference_j, rel=1e-9, abs=0)
        assert latency == pytest.approx(report.latency_per_inference_s, rel=1e-9, abs=0)


@pytest.mark.parametrize("spec", MACHINES)
def test_silence_is_exact_too(workload: Workload, spec: str) -> None:
    arch = load_machine(spec)[1]
    curves = draw_curves(workload, arch)
    silent = replace(workload, layers=tuple(_silenced(layer) for layer in workload.layers))
    energy, latency = predicted(curves, fills(silent, arch, curves))
    report = evaluate(silent, arch)
    assert energy == pytest.approx(report.energy_per_inference_j, rel=1e-9, abs=0)
    assert latency == pytest.approx(report.latency_per_inference_s, rel=1e-9, abs=0)


def _silenced(layer: Any) -> Any:
    if layer.name == "conv1":  # what it sends is not part of its own curve
        return layer
    if isinstance(layer.arrival, Spikes):
        arrival: Any = Spikes(np.zeros_like(layer.arrival.packed), layer.num_steps)
    else:
        arrival = replace(layer.arrival, values=np.zeros_like(layer.arrival.values))
    out = None if layer.out is None else Spikes(np.zeros_like(layer.out.packed), layer.num_steps)
    return replace(layer, arrival=arrival, out=out, branches=tuple(_silenced(x) for x in layer.branches))


def test_a_curve_predicts_spikes_between_its_points(workload: Workload) -> None:
    arch = load_machine("spikex:window=2")[1]
    curves = draw_curves(workload, arch, kept=(0.0, 0.2, 0.4, 0.6, 0.8))
    rng = np.random.default_rng(5)
    names = [layer.name for layer in workload.layers]
    fewer = list(workload.layers)
    conv2, fc = names.index("conv2"), names.index("fc")
    left = thinned(fewer[fc].arrival, 0.5, "spike", rng)
    assert isinstance(left, Spikes)
    fewer[fc] = replace(fewer[fc], arrival=left)
    fewer[conv2] = replace(fewer[conv2], out=left.reshape((4, 4, 4)))
    half = replace(workload, layers=tuple(fewer))
    energy, latency = predicted(curves, fills(half, arch, curves))
    report = evaluate(half, arch)
    assert energy == pytest.approx(report.energy_per_inference_j, rel=0.03, abs=0)
    assert latency == pytest.approx(report.latency_per_inference_s, rel=0.05, abs=0)
    assert report.energy_per_inference_j < 0.99 * evaluate(workload, arch).energy_per_inference_j


def test_fill_counts_words_by_loops() -> None:
    rng = np.random.default_rng(0)
    spikes = rng.random((7, 2, 3, 2, 1)) < 0.2
    for window in (1, 2, 3, 7, 9):
        filled = words = 0
        for n in range(2):
            for neuron in np.ndindex(3, 2, 1):
                for start in range(0, 7, window):
                    words += 1
                    filled += any(spikes[t, n, *neuron] for t in range(start, min(7, start + window)))
        assert fill_of(Spikes.pack(spikes), window) == filled / words
        assert fill_of(Levels(spikes.astype(np.uint8) * 5, 3), window) == filled / words
    active = sum(bool(spikes[:, n, c].any()) for n in range(2) for c in range(3))
    assert channels_of(Spikes.pack(spikes)) == active / 6


@pytest.mark.parametrize("fraction", KEPT)
@pytest.mark.parametrize("thinning", ["spike", "neuron"])
def test_thinning_only_removes(fraction: float, thinning: Thinning) -> None:
    rng = np.random.default_rng(1)
    spikes = rng.random((20, 4, 8, 6, 6)) < 0.3
    for arrival in (Spikes.pack(spikes), Levels(spikes.astype(np.uint8) * 3, 2)):
        fewer = thinned(arrival, fraction, thinning, rng)
        left = fewer.unpack() if isinstance(fewer, Spikes) else fewer.values != 0
        assert not (left & ~spikes).any()
        assert left.sum() == pytest.approx(fraction * spikes.sum(), rel=0.2, abs=1)
        if thinning == "neuron":
            whole = (left == spikes).all(0) | ~left.any(0)
            assert whole.all()


def test_lines_go_on_beyond_the_ends() -> None:
    at, values = np.array([0.1, 0.2, 0.4]), np.array([1.0, 2.0, 8.0])
    assert interpolated(at, values, 0.15) == pytest.approx(1.5)
    assert interpolated(at, values, 0.0) == pytest.approx(0.0)
    assert interpolated(at, values, 0.5) == pytest.approx(11.0)
    assert interpolated(np.array([0.3]), np.array([4.0]), 0.9) == 4.0
