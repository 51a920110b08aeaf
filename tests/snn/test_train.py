"""Training: learns, resumes bit for bit, survives an interrupt, takes a penalty."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from spikeloom.core.network import Network
from spikeloom.errors import NetworkError, NetworkFileError
from spikeloom.files.checkpoint import read_checkpoint, write_checkpoint
from spikeloom.snn import Execution, TrainConfig, evaluate, record, train
from spikeloom.transform import fold

from .toys import Pixels, spiking_frames, stripes, tiny_cnn

CONFIG = TrainConfig(num_steps=4, epochs=4, batch_size=16, learning_rate=1e-2)


def arrays(network: Network) -> dict[str, np.ndarray]:
    found = {}
    for name, node in network.nodes.items():
        for field in ("weight", "bias", "gamma", "beta", "mean", "var"):
            value = getattr(node, field, None)
            if isinstance(value, np.ndarray):
                found[f"{name}.{field}"] = value
    return found


def assert_same(first: Network, second: Network) -> None:
    mine, other = arrays(first), arrays(second)
    assert mine.keys() == other.keys()
    for key in mine:
        assert np.array_equal(mine[key], other[key]), key


@pytest.mark.parametrize("encoding", ["direct", "rate", "latency"])
def test_learns_stripes(encoding: str) -> None:
    network = tiny_cnn("analog" if encoding == "direct" else "spikes")
    config = replace(CONFIG, encoding=encoding, num_steps=6, epochs=6)
    test = stripes(60, seed=9)
    result = train(network, stripes(160), config, validation=test)
    assert result.validation_accuracy is not None
    assert result.validation_accuracy >= 0.95
    assert result.history[-1].loss < result.history[0].loss
    assert evaluate(result.network, test, Execution(6, encoding)) >= 0.95


def test_recorded_accuracy_is_the_trained_one() -> None:
    test = stripes(60, seed=9)
    result = train(tiny_cnn(), stripes(160), replace(CONFIG, epochs=2), validation=test)
    trace = record(fold(result.network), test, Execution(4))
    assert trace.accuracy == result.validation_accuracy


class Stop(Exception):
    """Stands for whatever ends a process."""


def stop_at(stage: str, done: int, error: type[BaseException]) -> Any:
    """Raises at step ``done`` of ``stage``, after the first epoch."""
    finished: list[int] = []

    def progress(now: str, at: int, total: int, figures: Mapping[str, float]) -> None:
        if finished and (now, at) == (stage, done):
            raise error
        if now == "epoch":
            finished.append(at)

    return progress


@pytest.mark.parametrize(
    ("stage", "done", "error"), [("train", 13, KeyboardInterrupt), ("epoch", 2, Stop), ("evaluate", 40, Stop)]
)
@pytest.mark.parametrize("encoding", ["direct", "rate"])
def test_interrupted_and_resumed_equals_uninterrupted(
    tmp_path: Path, stage: str, done: int, error: type[BaseException], encoding: str
) -> None:
    """Stopped in the middle of an epoch, between epochs or in the validation: the weights are those of a run in one go."""
    network, source = tiny_cnn("analog" if encoding == "direct" else "spikes"), stripes(90)
    config = replace(CONFIG, encoding=encoding)

    def noisy(batch: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        return np.roll(batch, int(generator.integers(3)), axis=-1)

    def penalty(arrived: Mapping[str, Tensor]) -> Tensor:
        return 1e-3 * arrived["fc"].mean() * torch.rand(())  # draws from the global stream

    options: dict[str, Any] = {"augment": noisy, "penalty": penalty, "validation": stripes(40)}
    torch.manual_seed(11)
    whole = train(network, source, config, **options)
    path = tmp_path / "run.pt"
    torch.manual_seed(11)
    with pytest.raises(error):
        train(network, source, config, checkpoint=path, progress=stop_at(stage, done, error), **options)
    torch.manual_seed(12)  # a new process has another state
    resumed = train(network, source, config, checkpoint=path, **options)
    assert_same(whole.network, resumed.network)
    assert [e.loss for e in whole.history] == [e.loss for e in resumed.history]
    assert list(tmp_path.iterdir()) == [path]


def test_a_finished_run_is_not_repeated(tmp_path: Path) -> None:
    first = train(tiny_cnn(), stripes(32), CONFIG, checkpoint=tmp_path / "c.pt")
    calls: list[str] = []
    again = train(
        tiny_cnn(), stripes(32), CONFIG, checkpoint=tmp_path / "c.pt", progress=lambda stage, *rest: calls.append(stage)
    )
    assert calls == []
    assert_same(first.network, again.network)


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    config = replace(CONFIG, epochs=1)
    train(tiny_cnn(), stripes(32), config, checkpoint=path)
    with pytest.raises(NetworkFileError, match=r"another configuration \(learning_rate: 0.01 there, 0.5 here\)"):
        train(tiny_cnn(), stripes(32), replace(config, learning_rate=0.5), checkpoint=path)
    with pytest.raises(NetworkFileError, match="another network"):
        train(tiny_cnn(norm=False), stripes(32), config, checkpoint=path)
    train(tiny_cnn(norm=False), stripes(32), config, checkpoint=path, resume=False)


def test_a_checkpoint_without_its_tensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    train(tiny_cnn(), stripes(32), replace(CONFIG, epochs=1), checkpoint=path)
    state = read_checkpoint(path)
    del state["module"]
    write_checkpoint(path, state)
    with pytest.raises(NetworkFileError, match=r"c.pt is incomplete: 'module'"):
        train(tiny_cnn(), stripes(32), replace(CONFIG, epochs=1), checkpoint=path)


def test_seeds_decide() -> None:
    config = replace(CONFIG, epochs=1)
    first, again, other = (train(tiny_cnn(), stripes(32), replace(config, seed=s)).network for s in (0, 0, 1))
    assert first.id == again.id
    assert first.id != other.id


def test_training_starts_from_weights_that_are_there() -> None:
    start = train(tiny_cnn(), stripes(32), replace(CONFIG, epochs=1)).network
    still = train(start, stripes(32), replace(CONFIG, epochs=1, learning_rate=1e-12, weight_decay=0)).network
    np.testing.assert_allclose(arrays(start)["conv1.weight"], arrays(still)["conv1.weight"], atol=1e-6)


def test_penalty_sees_levels_and_spikes_and_silences() -> None:
    seen: dict[str, tuple[int, ...]] = {}

    def price(arrived: Mapping[str, Tensor]) -> Tensor:
        seen.update({name: tuple(x.shape) for name, x in arrived.items()})
        assert float(arrived["conv1"].max()) > 1  # pixels
        levels = arrived["conv2"].detach()
        assert torch.equal(levels, levels.round())
        assert levels.max() <= 4
        return arrived["conv2"].mean() + arrived["fc"].mean()

    test = stripes(40, seed=5)
    free = record(fold(train(tiny_cnn(), stripes(128), CONFIG).network), test, Execution(4))
    priced = record(fold(train(tiny_cnn(), stripes(128), CONFIG, penalty=price).network), test, Execution(4))
    assert seen == {
        "conv1": (4, 16, 1, 6, 6), "pool1": (4, 16, 4, 6, 6), "conv2": (4, 16, 4, 3, 3), "fc": (4, 16, 54),
    }  # fmt: skip
    for name in ("pool1", "fc"):
        assert priced.arrivals[name].density() < 0.8 * free.arrivals[name].density()


def test_event_frames_train_without_bias_or_norm() -> None:
    frames = spiking_frames(5, 64, (1, 6, 6), 0.2)
    labels = np.arange(64, dtype=np.int64) % 2
    frames[:, labels == 1, :, :, :3] = 0
    source = Pixels(frames, labels, sample_axis=1)
    result = train(
        tiny_cnn("spikes", norm=False),
        source,
        replace(CONFIG, num_steps=5, encoding="events", epochs=8, initial_rate=0.2),
        validation=source,
    )
    assert result.validation_accuracy is not None
    assert result.validation_accuracy >= 0.9


@pytest.mark.parametrize("options", [{"precision": "bf16"}, {"channels_last": True}, {"loss": "running"}])
def test_other_ways_to_train(options: dict[str, Any]) -> None:
    test = stripes(40, seed=3)
    result = train(tiny_cnn(), stripes(128), replace(CONFIG, max_grad_norm=5.0, **options), validation=test)
    assert result.validation_accuracy is not None
    assert result.validation_accuracy >= 0.9


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"num_steps": -1}, "num_steps must be at least 1"),
        ({"learning_rate": 0}, "learning_rate must be positive"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0"),
        ({"weight_decay": float("nan")}, "weight_decay must be at least 0"),
        ({"sharpness": 0.0}, "sharpness must be positive"),
        ({"max_grad_norm": -1.0}, "max_grad_norm must be positive"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"warmup": 1.5}, "warmup must be in 0..1"),
    ],
)
def test_a_bad_configuration_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(NetworkError, match=words):
        replace(CONFIG, **options)


def test_a_loss_that_explodes_is_an_error() -> None:
    def penalty(arrived: Mapping[str, Tensor]) -> Tensor:
        return arrived["fc"].sum() * float("nan")

    with pytest.raises(NetworkError, match="loss became nan in epoch 1"):
        train(tiny_cnn(), stripes(32), CONFIG, penalty=penalty)


def test_no_samples() -> None:
    with pytest.raises(NetworkError, match="no sample"):
        train(tiny_cnn(), Pixels(np.zeros((0, 1, 6, 6), np.uint8), np.zeros(0, np.int64)), CONFIG)


def test_samples_that_do_not_fit() -> None:
    with pytest.raises(NetworkError, match="expected the network's input shape"):
        train(tiny_cnn(), Pixels(np.zeros((4, 1, 5, 5), np.uint8), np.zeros(4, np.int64)), CONFIG)
