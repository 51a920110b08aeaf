"""The whole wing on one page: data, network, training, folding, recording."""

from __future__ import annotations

import pytest

from spikeloom import data, nets
from spikeloom.snn import Execution, TrainConfig, evaluate, record, train
from spikeloom.transform import fold


def test_digits_reach_what_the_demo_promises() -> None:
    """95 % on digits with T = 4; a shorter run than the demo's."""
    source, test = data.load("digits", "train"), data.load("digits", "test")
    network = nets.create("mlp", source.in_shape, source.num_classes)
    trained = train(network, source, TrainConfig(num_steps=4, epochs=8), validation=test)
    trace = record(fold(trained.network), test, Execution(4), origin="digits/test", sample_ids=test.ids)
    assert trained.validation_accuracy is not None
    assert trained.validation_accuracy >= 0.95
    assert trace.accuracy == pytest.approx(trained.validation_accuracy, abs=1 / len(test))


def test_moving_bars_are_told_apart_by_their_events() -> None:
    """A network without normalisation or bias, on events, as sparse machines want it."""
    source, test = (
        data.load("moving-bar", "train", noise=0.05),
        data.load("moving-bar", "test", noise=0.05, num_samples=60),
    )
    options = {"encoding": "spikes", "batch_norm": False, "width": 2.0, "leak_shift": 3}
    network = nets.create("lenet", source.in_shape, source.num_classes, **options)
    config = TrainConfig(num_steps=20, encoding="events", epochs=12, initial_rate=0.1)
    trained = train(network, source, config, validation=test)
    execution = Execution(20, "events")
    trace = record(trained.network, test, execution, updates=True)
    assert trained.validation_accuracy is not None
    assert trained.validation_accuracy >= 0.9
    assert trace.accuracy == evaluate(trained.network, test, execution) == trained.validation_accuracy
    assert all(trace.updates[name].density() < 1 for name in ("conv1", "conv2"))
