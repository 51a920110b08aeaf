"""The bit-matched ANN: counts are sums over steps, bits hold them, and a real ANN's levels are its rounded activations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spikeloom.core.network import Network, chain
from spikeloom.core.nodes import IF, LI, AvgPool2d, Conv2d, Flatten, Input, Leak, Linear, Node, Output, ReLU
from spikeloom.core.trace import Levels, Spikes, SpikeTrace
from spikeloom.errors import ConfigError, NetworkError
from spikeloom.evaluate import evaluate, load_machine
from spikeloom.files.store import read_trace, write_trace
from spikeloom.lower import lower
from spikeloom.studies.ann import COUNTED, ann_of, is_trace, matched_ann, matched_bits, measured_ann, taken

T, N = 5, 3


def pooled_snn() -> tuple[Network, SpikeTrace]:
    """Pixels, a convolution, a pool of its spikes and a read-out: every form that an arrival takes."""
    rng = np.random.default_rng(3)
    nodes: dict[str, Node] = {
        "in": Input((1, 6, 6), "analog"),
        "conv": Conv2d(1, 2, (3, 3)),
        "if": IF(),
        "pool": AvgPool2d((2, 2), (2, 2)),
        "flatten": Flatten(),
        "fc": Linear(8, 4),
        "if2": IF(),
        "fc2": Linear(4, 3),
        "readout": LI(Leak(shift=2)),
        "out": Output((3,)),
    }
    pixels = np.broadcast_to(rng.integers(0, 256, (1, N, 1, 6, 6), np.uint8), (T, N, 1, 6, 6))
    sent = rng.random((T, N, 2, 4, 4)) < 0.4
    sums = sent.reshape(T, N, 2, 2, 2, 2, 2).sum(axis=(4, 6)).astype(np.uint8)
    arrivals = {
        "conv": Levels(pixels, 8, analog=True),
        "pool": Spikes.pack(sent),
        "fc": Levels(sums.reshape(T, N, 8), 3),
        "fc2": Spikes.pack(rng.random((T, N, 4)) < 0.3),
    }
    return chain("snn", nodes), SpikeTrace(T, N, arrivals, labels=np.array([0, 1, 2]))


@pytest.mark.parametrize(("steps", "bits"), [(1, 1), (2, 2), (3, 2), (4, 3), (7, 3), (8, 4), (300, 9)])
def test_bits_are_the_logarithm_of_the_levels(steps: int, bits: int) -> None:
    assert matched_bits(steps) == bits == max(1, int(np.ceil(np.log2(steps + 1))))


def test_levels_are_the_spikes_of_all_steps() -> None:
    network, trace = pooled_snn()
    ann = matched_ann(network, trace)
    for name in ("pool", "fc2"):
        arrival, spikes = ann.trace.arrivals[name], trace.arrivals[name]
        assert isinstance(arrival, Levels) and isinstance(spikes, Spikes)
        assert np.array_equal(arrival.values, spikes.unpack().sum(axis=0)[None])
        assert arrival.bits == 3  # 0..5
    sums, before = ann.trace.arrivals["fc"], trace.arrivals["fc"]
    assert isinstance(sums, Levels) and isinstance(before, Levels)
    assert np.array_equal(sums.values, before.values.astype(int).sum(axis=0)[None])
    assert sums.bits == 5  # 4 spikes a window in 5 steps: 0..20
    pixels = ann.trace.arrivals["conv"]
    assert isinstance(pixels, Levels)
    assert pixels.analog and pixels.bits == 8 and pixels.num_steps == 1
    assert (ann.trace.num_steps, ann.bits, ann.steps) == (1, 3, T)


def test_neurons_become_relus_and_the_assumption_is_said() -> None:
    network, trace = pooled_snn()
    ann = matched_ann(network, trace)
    assert isinstance(ann.network.nodes["if"], ReLU)
    readout = ann.network.nodes["readout"]
    assert isinstance(readout, LI) and readout.leak is None
    assert ann.network.nodes["conv"] is network.nodes["conv"]
    assert COUNTED in ann.trace.source
    silent = sum(int((ann.trace.arrivals[name].values == 0).sum()) for name in ("fc", "fc2"))  # type: ignore[union-attr]
    assert ann.zeros == pytest.approx(silent / (N * (8 + 4)))


def test_changing_pixels_and_many_steps_get_the_bits_they_need() -> None:
    network, trace = pooled_snn()
    pixels = Levels(np.random.default_rng(0).integers(0, 256, (T, N, 1, 6, 6), np.uint8), 8, analog=True)
    ann = matched_ann(network, replace(trace, arrivals={**trace.arrivals, "conv": pixels}))
    summed = ann.trace.arrivals["conv"]
    assert isinstance(summed, Levels)
    assert summed.bits == 11 and summed.values.dtype == np.uint16  # 5 * 255
    assert np.array_equal(summed.values[0], pixels.values.astype(int).sum(axis=0))
    long = replace(pixels, values=np.broadcast_to(pixels.values[:1], (300, N, 1, 6, 6)).copy())
    long.values[0] = 0
    with pytest.raises(NetworkError, match=r"layer 'conv'.*17 bits"):
        matched_ann(network, replace(trace, arrivals={**trace.arrivals, "conv": long}))


def test_a_written_ann_is_read_back_and_priced(tmp_path: Path) -> None:
    ann = matched_ann(*pooled_snn())
    write_trace(tmp_path / "ann.npz", ann.network, ann.trace)
    assert is_trace(tmp_path / "ann.npz")
    network, trace = read_trace(tmp_path / "ann.npz")
    for machine in ("spikex", "systolic", "sata"):
        arch = load_machine(machine)[1]
        reports = [evaluate(lower(*pair), arch, threads=1) for pair in ((network, trace), (ann.network, ann.trace))]
        assert reports[0].energy_j == reports[1].energy_j > 0


def test_what_has_no_spikes_or_loops_has_no_matched_ann() -> None:
    network, trace = pooled_snn()
    ann = matched_ann(network, trace)
    with pytest.raises(NetworkError, match="no spikes"):
        matched_ann(ann.network, ann.trace)
    looped = replace(network, edges=(*network.edges, ("fc2", "fc2")))
    with pytest.raises(NetworkError, match="node 'fc2'"):
        matched_ann(looped, trace)


def test_samples_are_taken_out_of_everything() -> None:
    network, trace = pooled_snn()
    part = taken(trace, np.array([2, 0]))
    assert part.num_samples == 2 and part.labels is not None and part.labels.tolist() == [2, 0]
    spikes, all_spikes = part.arrivals["fc2"], trace.arrivals["fc2"]
    assert isinstance(spikes, Spikes) and isinstance(all_spikes, Spikes)
    assert np.array_equal(spikes.unpack(), all_spikes.unpack()[:, [2, 0]])
    assert [layer.num_samples for layer in lower(network, part).layers] == [2] * 4


def relu_network() -> Network:
    """Digits through the identity and a ReLU: its activations are the pixels, largest 1."""
    weight = np.random.default_rng(0).normal(size=(10, 64)).astype(np.float32)
    nodes: dict[str, Node] = {
        "in": Input((1, 8, 8), "analog"),
        "flatten": Flatten(),
        "same": Linear(64, 64, weight=np.eye(64, dtype=np.float32)),
        "relu": ReLU(),
        "fc": Linear(64, 10, weight=weight),
        "out": Output((10,)),
    }
    experiment = {"data": "digits", "network": "lenet", "train": {"num_steps": 1}}
    return replace(chain("ann", nodes), metadata={"experiment": experiment})


def test_a_real_ann_is_rounded_as_its_staircase_says(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from spikeloom.files.network import write_network
    from spikeloom.studies.experiment import experiment_of

    network = relu_network()
    ann = measured_ann(network, experiment_of(network, "test"), 5, method="max", limit=7)
    assert ann.bits == 3 and ann.accuracy is not None and ann.trace.num_samples == 7
    pixels, levels = ann.trace.arrivals["same"], ann.trace.arrivals["fc"]
    assert isinstance(pixels, Levels) and isinstance(levels, Levels)
    real = pixels.values.astype(np.float32) / 255
    assert np.array_equal(levels.values, np.floor(real * 7 + 0.5))  # 2**3 - 1 levels up to the largest activation, 1
    assert (levels.bits, levels.analog) == (3, False)
    write_network(tmp_path / "network.npz", network)
    again = ann_of(tmp_path / "network.npz", steps=5, limit=7, method="max")
    assert np.array_equal(again.trace.arrivals["fc"].values, levels.values)  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="shows 'events'"):
        measured_ann(network, replace(experiment_of(network, "x"), train={"num_steps": 2, "encoding": "events"}), 2)
