"""What can arrive where, from structure alone."""

from __future__ import annotations

from spikeloom.core.network import (
    IF,
    Add,
    AvgPool2d,
    ClippedReLU,
    Conv2d,
    Input,
    MaxPool2d,
    Network,
    ReLU,
    SumPool2d,
    chain,
)
from spikeloom.snn.arrivals import Signal, received_signals

from .toys import tiny_cnn


def test_pools_count_and_means_have_a_unit() -> None:
    for pool, unit in ((SumPool2d, 1.0), (AvgPool2d, 0.25)):
        signals = received_signals(tiny_cnn(pool=pool))
        assert signals["conv1"] == Signal("analog", 255, 1 / 255)
        assert signals["pool1"] == Signal("spikes")
        assert signals["conv2"] == Signal("levels", 4, unit)
        assert signals["conv2"].bits == 3
        assert signals["fc"] == Signal("spikes")


def test_max_pool_keeps_spikes_and_a_second_pool_counts_on() -> None:
    nodes = {
        "in": Input((1, 8, 8)),
        "max": MaxPool2d((2, 2), (2, 2)),
        "sum1": SumPool2d((2, 2), (2, 2)),
        "sum2": SumPool2d((2, 2), (2, 2)),
        "conv": Conv2d(1, 1, (1, 1)),
    }
    signals = received_signals(chain("pools", nodes))
    assert [signals[n].max_level for n in ("max", "sum1", "sum2", "conv")] == [1, 1, 4, 16]
    assert signals["conv"].bits == 5


def test_activations_are_real_unless_quantised() -> None:
    nodes = {"in": Input((1, 4, 4)), "a": Conv2d(1, 1, (1, 1)), "act": ReLU(), "b": Conv2d(1, 1, (1, 1))}
    assert received_signals(chain("relu", nodes))["b"].kind == "real"
    signals = received_signals(chain("qcfs", nodes | {"act": ClippedReLU(2.0, 8)}))
    assert signals["b"] == Signal("levels", 8, 0.25)


def test_a_pool_before_the_neuron_gets_real_sums() -> None:
    nodes = {"in": Input((1, 4, 4)), "a": Conv2d(1, 1, (1, 1)), "pool": SumPool2d((2, 2), (2, 2)), "n": IF()}
    assert received_signals(chain("early", nodes))["pool"].kind == "real"


def test_residual_spikes_add_up() -> None:
    nodes = {"in": Input((1, 4, 4)), "a": Conv2d(1, 1, (1, 1)), "n": IF(), "add": Add(), "b": Conv2d(1, 1, (1, 1))}
    edges = (("in", "a"), ("a", "n"), ("n", "add"), ("in", "add"), ("add", "b"))
    signals = received_signals(Network(nodes, edges))
    assert signals["add"] == signals["b"] == Signal("levels", 2)
