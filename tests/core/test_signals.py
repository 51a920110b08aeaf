"""What can arrive where, from structure alone."""

from __future__ import annotations

import numpy as np

from spikeloom.core.network import Network, chain
from spikeloom.core.nodes import (
    IF,
    Add,
    AvgPool2d,
    ClippedReLU,
    Conv2d,
    Delay,
    Input,
    Linear,
    MaxPool2d,
    ReLU,
    SumPool2d,
)
from spikeloom.core.signals import Signal, received_signals
from tests.snn.toys import tiny_cnn


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


def test_graded_and_signed_spikes_are_levels() -> None:
    nodes = {
        "in": Input((1, 4, 4), "analog"),
        "a": Conv2d(1, 1, (1, 1)),
        "n": IF(max_level=6),
        "b": Conv2d(1, 1, (1, 1)),
    }
    assert received_signals(chain("graded", nodes))["b"] == Signal("levels", 6)
    both = nodes | {"n": IF(signed=True), "pool": SumPool2d((2, 2), (2, 2)), "c": Conv2d(1, 1, (1, 1))}
    signals = received_signals(chain("signed", both))
    assert signals["b"] == Signal("levels", 1, signed=True)
    del both["b"]
    assert received_signals(chain("pooled", both))["c"] == Signal("levels", 4, signed=True)


def test_an_integer_network_takes_pixels_as_they_are() -> None:
    weight = np.ones((1, 1, 1, 1), np.int8)
    nodes = {"in": Input((1, 4, 4), "analog"), "a": Conv2d(1, 1, (1, 1), weight=weight), "n": IF()}
    assert received_signals(chain("whole", nodes))["a"] == Signal("analog", 255, 1.0)


def test_what_comes_back_in_a_loop_is_what_was_sent() -> None:
    nodes = {
        "in": Input((1, 4, 4)), "a": Conv2d(1, 1, (1, 1)), "n": IF(max_level=3), "late1": Delay(), "late2": Delay(2),
        "add": Add(), "back": Conv2d(1, 1, (1, 1)),
    }  # fmt: skip
    way = ("n", "late1", "late2", "add", "back", "n")
    edges = (("in", "a"), ("a", "n"), ("in", "add"), *zip(way, way[1:], strict=False))
    signals = received_signals(Network(nodes, edges))
    assert signals == {"a": Signal("spikes"), "add": Signal("levels", 4), "back": Signal("levels", 4)}


def test_levels_that_add_up_in_a_loop_have_no_largest() -> None:
    nodes = {"in": Input((3,)), "add": Add(), "late": Delay(), "fc": Linear(3, 2)}
    edges = (("in", "add"), ("add", "late"), ("late", "add"), ("add", "fc"))
    assert {signal.kind for signal in received_signals(Network(nodes, edges)).values()} == {"real"}


def test_residual_spikes_add_up() -> None:
    nodes = {"in": Input((1, 4, 4)), "a": Conv2d(1, 1, (1, 1)), "n": IF(), "add": Add(), "b": Conv2d(1, 1, (1, 1))}
    edges = (("in", "a"), ("a", "n"), ("n", "add"), ("in", "add"), ("add", "b"))
    signals = received_signals(Network(nodes, edges))
    assert signals["add"] == signals["b"] == Signal("levels", 2)
