"""The study of a conversion: figures against T, the smallest T that is good enough, early exit, and named causes of error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spikeloom.core.figures import LayerError, Point
from spikeloom.core.network import Network, chain
from spikeloom.core.nodes import IF, LI, Firing, Input, Linear, Output
from spikeloom.errors import ConfigError, FileError, NetworkError
from spikeloom.files.network import read_network
from spikeloom.lower import lower
from spikeloom.nets import create
from spikeloom.snn.execute import Execution, evaluate, predict, runnable
from spikeloom.snn.record import record
from spikeloom.snn.train import train
from spikeloom.studies.change import spikes_sent
from spikeloom.studies.check import describe_file
from spikeloom.studies.convert import (
    Conversions,
    Splits,
    ann_accuracy,
    converted_at,
    early_exit,
    fine_tune_qcfs,
    layer_errors,
    measure,
    run_conversion,
    smallest,
    splits,
    step_numbers,
    write_conversion,
)
from spikeloom.studies.experiment import Experiment, samples, train_config, training_samples
from spikeloom.studies.techniques import fine_tuned
from spikeloom.transform.convert import Conversion, Converted, convert, spiking
from tests.snn.toys import Pixels
from tests.transform.test_convert import IMAGES, X, deep, exact_layer

DIGITS = Experiment(
    "digits", "mlp", {"num_steps": 1, "epochs": 6, "learning_rate": 1e-2, "batch_size": 64},
    network_options={"neuron": "relu", "width": 0.08}, name="digits-ann",
)  # fmt: skip
BARS = Experiment(
    "moving-bar", "mlp", {"num_steps": 8, "encoding": "events", "epochs": 4}, {"num_samples": 120, "dt_us": 12_500},
    {"neuron": "relu", "width": 0.05}, name="bars-ann",
)  # fmt: skip


def trained(experiment: Experiment) -> Network:
    fit = samples(experiment, "train")
    encoding = "spikes" if experiment.encoding == "events" else "analog"
    start = create(experiment.network, fit.in_shape, fit.num_classes, encoding=encoding, **experiment.network_options)
    return train(start, fit, train_config(experiment)).network


@cache
def digits() -> Network:
    return trained(DIGITS)


@cache
def bars() -> Network:
    return trained(BARS)


@cache
def parts() -> Splits:
    return splits(DIGITS, 64)


@cache
def study() -> Conversions:
    return run_conversion(digits(), DIGITS, Conversion(), [2, 8], machine="spikex", exit_margin=0.3, calibration=64)


def test_step_numbers() -> None:
    assert step_numbers("2,4,8") == step_numbers("8, 4,2,2") == [2, 4, 8]
    assert step_numbers("16") == [16]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b", "^--steps: got 'a,b', expected numbers of time steps such as 2,4,8"),
        ("", "^--steps: got ''"),
        ("2,,4", "^--steps: got '2,,4'"),
        ("1.5", "^--steps: got '1.5'"),
        ("0", "^--steps: got 0, expected at least one time step"),
        ("4,-2", "^--steps: got -2"),
    ],
)
def test_step_numbers_that_are_none(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        step_numbers(text)


# samples


def test_splits_never_mix() -> None:
    """Calibration and choosing come from the tenth of the training set that fine-tuning does not see."""
    found, everything = parts(), samples(DIGITS, "train")
    held = round(0.1 * len(everything))
    assert (len(found.calibration), len(found.choosing)) == (64, held - 64)
    ids = [set(np.asarray(part.ids).tolist()) for part in (found.calibration, found.choosing, found.test)]
    assert not ids[0] & ids[1] and not (ids[0] | ids[1]) & ids[2]
    assert len(splits(DIGITS, 10_000).calibration) == held // 2  # half of what is held out at most
    short = splits(DIGITS, 64, limit=7)
    assert (len(short.calibration), len(short.choosing), len(short.test)) == (64, 7, 7)
    own = splits(replace(DIGITS, validation=0.3), 50)
    assert len(own.calibration) + len(own.choosing) == round(0.3 * len(everything))


@pytest.mark.parametrize("split_seed", [None, 5])
def test_nothing_is_chosen_on_what_was_trained_on(
    split_seed: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither on what the training of the ANN has seen, nor on what fine-tuning shows it."""
    experiment = replace(DIGITS, validation=0.2, split_seed=split_seed, train={**DIGITS.train, "seed": 3})
    fit, _ = training_samples(experiment)
    found = splits(experiment, 64)
    chosen_on = set(found.calibration.ids.tolist()) | set(found.choosing.ids.tolist())
    assert not chosen_on & set(fit.ids.tolist())

    class Seen(Exception):
        pass

    def watched(network: Network, source: Any, *_: Any, **__: Any) -> None:
        raise Seen(source.ids.tolist())

    monkeypatch.setattr(import_module("spikeloom.snn.train"), "train", watched)
    file = tmp_path / "tuned.npz"
    for tune in (
        lambda: fine_tune_qcfs(digits(), experiment, found, Execution(1), Conversion(), 8, 1, 1e-3, file),
        lambda: fine_tuned(digits(), experiment, found, Execution(1), 1, file),
    ):
        with pytest.raises(Seen) as seen:
            tune()
        assert seen.value.args[0] == fit.ids.tolist()


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^experiment 'tiny' holds out 1 samples, conversion needs at least 2"):
        splits(replace(BARS, data_options={"num_samples": 12}, name="tiny"), 4)


def test_recordings_are_cut_to_t_frames_of_the_same_whole_time() -> None:
    test: Any = splits(BARS, 4).at(4).test
    assert test.num_steps == 4 and test.dt_us == 25_000
    assert test.batch(np.arange(2)).shape[0] == 4
    assert parts().at(4).test is parts().test


# figures


def test_points_are_what_evaluation_recording_and_the_machine_say() -> None:
    result = study()
    assert [p.num_steps for p in result.points] == [2, 8] and result.num_steps == 8
    again = converted_at(digits(), 8, Execution, parts().calibration, Conversion(), "bias")
    assert again.network.id == result.converted.network.id
    point = result.points[1]
    assert point.accuracy == evaluate(again.network, parts().test, Execution(8))
    workload = lower(again.network, record(again.network, parts().test.take(np.arange(20)), Execution(8)))
    assert point.synops == sum(layer.synops for layer in workload.layers) / 20
    assert point.spikes == sum(int(layer.out.events().sum()) for layer in workload.layers if layer.out is not None) / 20
    assert point.warnings[0].startswith("weights are float32, charged as if quantised to 8 bits")
    assert point.energy_j is not None and point.latency_s is not None
    assert point.edp_js == point.energy_j * point.latency_s > 0
    assert replace(point, energy_j=None).edp_js is None
    assert result.points[0].spikes < point.spikes and result.points[0].energy_j < point.energy_j  # type: ignore[operator]
    assert result.ann_accuracy == ann_accuracy(digits(), parts().test, Execution(1)) > 0.9
    assert result.points[1].accuracy > result.ann_accuracy - 0.05


def test_without_a_machine_there_is_no_bill() -> None:
    point = measure(study().converted.network, parts().test.take(np.arange(5)), Execution(8), "none")
    assert (
        point.energy_j is point.latency_s is point.edp_js is None and point.spikes > 0 and point.calibration == "none"
    )


@pytest.mark.parametrize("options", [{}, {"signed": True}, {"max_level": 3}], ids=str)
def test_spikes_are_counted_at_the_neurons(options: Any) -> None:
    """Behind pools a trace holds sums, and of graded spikes levels; a spike is a spike there too."""
    network = convert(deep(), IMAGES, Execution(4), Conversion(num_steps=4, **options)).network
    seen = 0

    def watch(name: str, _: torch.Tensor, sent: torch.Tensor) -> None:
        nonlocal seen
        if isinstance(network.nodes[name], Firing):
            seen += int((sent != 0).sum())

    with torch.no_grad():
        runnable(network)(X, 4, True, watch)
    assert round(len(IMAGES) * spikes_sent(network, IMAGES, Execution(4, batch_size=5))) == seen > 0  # type: ignore[arg-type]


def test_the_network_that_is_written_shows_its_data_in_t_steps(tmp_path: Path) -> None:
    result = study()
    write_conversion(tmp_path / "snn.npz", result)
    network = read_network(tmp_path / "snn.npz")
    assert network.metadata["num_steps"] == network.metadata["experiment"]["train"]["num_steps"] == 8
    assert network.metadata["test_accuracy"] == result.points[1].accuracy
    assert network.metadata["conversion"]["num_steps"] == 8
    assert network.id == result.converted.network.id and sum(isinstance(n, IF) for n in network.nodes.values()) == 1


def test_the_figures_as_json(tmp_path: Path) -> None:
    result = study()
    result.write_json(tmp_path / "figures.json")
    told = json.loads((tmp_path / "figures.json").read_text())
    assert (told["format"], told["version"], told["num_steps"], told["machine"]) == (
        "spikeloom-conversion",
        1,
        8,
        "spikex",
    )
    assert [Point(**point) for point in told["points"]] == list(result.points)
    assert [LayerError(**one) for one in told["errors_percent"]] == list(result.errors)
    assert Conversion(**told["conversion"]) == result.converted.conversion
    assert told["early_exit"] == {"accuracy": result.exit[0], "mean_steps": result.exit[1]}  # type: ignore[index]


def test_lines_name_the_largest_error_and_its_cause() -> None:
    errors = (LayerError("one", 1, 2, 0, 0, 3), LayerError("two", 1, 1, 9, 2, 10))
    lines = replace(study(), errors=errors, chosen="kept", exit=None).lines()
    assert lines == ["kept", "largest error: layer two, 10.0 % of its activations, mostly inherited"]
    assert "early exit: " in study().lines()[-1]


# choosing


def execution(num_steps: int) -> Execution:
    return Execution(num_steps)


def test_the_smallest_t_that_is_good_enough_with_the_least_effort() -> None:
    best = ann_accuracy(digits(), parts().choosing, Execution(1))
    losses = {}
    for num_steps in (1, 2, 4, 8):
        for effort in ("none", "bias"):
            found = converted_at(digits(), num_steps, execution, parts().calibration, Conversion(), effort)  # type: ignore[arg-type]
            losses[num_steps, effort] = 100 * (best - evaluate(found.network, parts().choosing, Execution(num_steps)))
    assert losses[1, "none"] > losses[8, "bias"]
    for limit in (max(losses.values()), losses[8, "bias"] + 0.01, 0.5 * (losses[1, "none"] + losses[8, "bias"])):
        expected = next(key for key, loss in losses.items() if loss <= limit + 1e-9)
        found, num_steps, effort = smallest(
            digits(), [8, 4, 2, 1], ("none", "bias"), limit, parts(), execution, Conversion()
        )  # fmt: skip
        assert (num_steps, effort) == expected and found.conversion.num_steps == num_steps


def test_none_is_good_enough() -> None:
    with pytest.raises(
        ConfigError, match=r"^no T of 1, 2 loses at most -1000 points \(the best loses -?\d+\.\d\d\); allow more"
    ):
        smallest(digits(), [1, 2], ("none",), -1000, parts(), execution, Conversion())


def test_the_loss_is_counted_from_the_ann_as_it_was() -> None:
    """Not from what fine-tuning made of it."""
    found = smallest(digits(), [1, 8], ("none",), 100.0, parts(), execution, Conversion(), best=1.0)
    assert found[1] == 1
    with pytest.raises(ConfigError, match=r"the best loses 4\d\d"):
        smallest(digits(), [8], ("none",), 0.5, parts(), execution, Conversion(), best=5.0)


def test_a_run_with_max_loss_confirms_on_the_test_set() -> None:
    result = run_conversion(digits(), DIGITS, Conversion(), [1, 4, 16], max_loss=3.0, calibration=64, limit=60)
    assert result.chosen.startswith(f"T = {result.num_steps} with calibration '")
    point = next(p for p in result.points if p.num_steps == result.num_steps)
    assert result.chosen.endswith(f"on the test set it loses {100 * (result.ann_accuracy - point.accuracy):.2f}")
    assert result.converted.conversion.num_steps == result.num_steps and len(result.points) == 3


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"max_loss": -0.1}, ConfigError, "^--max-loss: got -0.1, expected 0 or more"),
        ({"machine": "spikes"}, ConfigError, "spikes"),
        ({"effort": "all"}, NetworkError, "^calibration must be none, bias or weights"),
    ],
)
def test_bad_options_are_found(options: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        run_conversion(digits(), DIGITS, Conversion(), [2], calibration=16, limit=4, **options)


def test_biases_at_the_start_are_not_calibrated() -> None:
    result = run_conversion(digits(), DIGITS, Conversion(bias="start"), [8], calibration=32, limit=40)
    assert result.points[0].calibration == "none"
    with pytest.raises(NetworkError, match="calibration adds biases at every step"):
        run_conversion(digits(), DIGITS, Conversion(bias="start"), [8], effort="bias", calibration=32, limit=4)


def test_recordings() -> None:
    """At several T, each with frames of its own; no calibration unless asked for."""
    result = run_conversion(bars(), BARS, Conversion(ann_frames=4), [4, 8], calibration=12)
    assert [p.calibration for p in result.points] == ["none", "none"]
    assert result.ann_accuracy > 0.8 and result.points[1].accuracy > 0.6


# early exit


def counting_network() -> tuple[Network, Any]:
    """Two inputs that go straight to the two scores, and spike trains that change their mind."""
    nodes: dict[str, Any] = {
        "in": Input((2,)), "fc": Linear(2, 2, weight=np.eye(2, dtype=np.float32)), "li": LI(), "out": Output((2,)),
    }  # fmt: skip
    frames = np.zeros((4, 3, 2), np.uint8)
    frames[:, 0] = [[1, 0], [1, 0], [1, 0], [1, 0]]  # sure from the first step
    frames[:, 1] = [[1, 0], [0, 1], [0, 1], [0, 1]]  # first the one, then the other
    frames[:, 2] = [[0, 0], [0, 0], [0, 1], [0, 1]]  # late
    return chain("exit", nodes), Pixels(frames, np.array([0, 1, 1]), sample_axis=1)


@pytest.mark.parametrize(
    ("margin", "right", "steps"),
    [
        (0.0, 1 / 3, 1.0),
        (0.3, 2 / 3, (1 + 1 + 3) / 3),
        (1.0, 2 / 3, (1 + 1 + 4) / 3),
        (1.1, 1.0, 4.0),
        (float("inf"), 1.0, 4.0),
    ],
)
def test_early_exit_by_hand(margin: float, right: float, steps: float) -> None:
    """Scores of a step are membranes over steps: sample 2 leads by 0, 0, 1/3, 1/2; sample 1 leads by 1 at once, wrongly."""
    network, source = counting_network()
    found = early_exit(network, source, Execution(4, "events", batch_size=2), margin)
    assert found == (pytest.approx(right), pytest.approx(steps))


def test_without_a_margin_early_exit_is_the_full_run() -> None:
    network = study().converted.network
    full = float(np.mean(predict(runnable(network), parts().test, Execution(8)) == parts().test.labels))
    assert early_exit(network, parts().test, Execution(8), float("inf")) == (full, 8.0)
    accuracy, steps = early_exit(network, parts().test, Execution(8), 0.3)
    assert 1 < steps < 8 and accuracy > full - 0.1


# causes of error


def reference_errors(converted: Converted, source: Any, num_steps: int) -> dict[str, list[float]]:
    """The definitions, in float64 NumPy, from what arrives and is sent; and that they add up sign by sign."""
    level, v_init = converted.conversion.max_level, converted.conversion.v_init
    x = torch.from_numpy(source.samples).float() / 255
    ann_sent: dict[str, np.ndarray] = {}
    came: dict[str, np.ndarray] = {}
    sent: dict[str, np.ndarray] = {}

    def keep(name: str, arrived: torch.Tensor, went: torch.Tensor) -> None:
        came[name], sent[name] = arrived.double().mean(0).numpy(), went.double().mean(0).numpy()

    with torch.no_grad():
        runnable(converted.ann)(x, 1, True, lambda n, _, s: ann_sent.update({n: s[0].double().numpy()}))
        runnable(converted.network)(x, num_steps, True, keep)

    def count(value: np.ndarray, start: Any) -> np.ndarray:
        return np.clip(np.floor(value * num_steps + start), 0, num_steps * level) / num_steps

    found = {}
    for name, size in converted.thresholds.items():
        a = ann_sent[name] / size.reshape(-1, *([1] * (ann_sent[name].ndim - 2)))
        clipping = np.clip(a, 0, level) - a
        quantisation = count(a, v_init) - np.clip(a, 0, level)
        steady = count(came[name], converted.network.nodes[name].v_init)  # type: ignore[union-attr]
        inherited, unevenness = steady - count(a, v_init), sent[name] - steady
        total = sent[name] - a
        np.testing.assert_allclose(clipping + quantisation + inherited + unevenness, total, atol=1e-6)
        rms = np.sqrt(np.mean(a**2))
        found[name] = [
            100 * np.sqrt(np.mean(p**2)) / rms for p in (clipping, quantisation, inherited, unevenness, total)
        ]
    return found


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"method": "percentile", "percentile": 80.0},
        {"reset": "hard"},
        {"max_level": 3},
        {"signed": True},
        {"bias": "start"},
    ],
    ids=str,
)
def test_parts_of_the_error_are_their_definitions_and_add_up(options: Any) -> None:
    converted = convert(deep(), IMAGES, Execution(8), Conversion(num_steps=8, **options))
    expected = reference_errors(converted, IMAGES, 8)
    for error in layer_errors(converted, IMAGES, Execution(8, batch_size=7)):  # type: ignore[arg-type]
        found = [error.clipping, error.quantisation, error.inherited, error.unevenness, error.total]
        np.testing.assert_allclose(
            found, expected[error.name], rtol=0.05, atol=0.3
        )  # a sum at a step may round either way
    assert [error.name for error in layer_errors(converted, IMAGES, Execution(8))] == ["a", "b", "c"]  # type: ignore[arg-type]


@pytest.mark.parametrize("num_steps", [1, 3, 4, 16])
def test_at_constant_drive_the_first_layer_neither_inherits_nor_is_uneven(num_steps: int) -> None:
    ready, psum, x = exact_layer(num_steps, 2.0)
    conversion = Conversion(num_steps=num_steps)
    sizes = {"a": np.full(40, 2.0)}
    pixels = (x.numpy() * 64).astype(np.uint8)  # multiples of 1/64, told apart from p / 255 by the weights
    fc: Any = ready.nodes["fc"]
    ready = replace(ready, nodes={**ready.nodes, "fc": replace(fc, weight=fc.weight * 255 / 64)})
    converted = Converted(spiking(ready, sizes, conversion), ready, sizes, conversion)
    (error,) = layer_errors(converted, Pixels(pixels, np.zeros(300, np.int64)), Execution(num_steps))  # type: ignore[arg-type]
    assert error.inherited < 0.5 and error.unevenness < 0.5  # sums that lie exactly at a step may round either way
    a = np.maximum(psum, 0)
    rms = np.sqrt(np.mean(a**2))
    assert error.clipping == pytest.approx(100 * np.sqrt(np.mean((np.minimum(a, 2) - a) ** 2)) / rms, rel=1e-3)
    assert error.total > 0 and error.quantisation > 0


def test_causes_answer_to_what_causes_them() -> None:
    def errors(num_steps: int, **options: Any) -> list[LayerError]:
        converted = convert(deep(), IMAGES, Execution(num_steps), Conversion(num_steps=num_steps, **options))
        return list(layer_errors(converted, IMAGES, Execution(num_steps)))  # type: ignore[arg-type]

    wide, tight = errors(16, method="max"), errors(16, method="percentile", percentile=60.0)
    assert all(one.clipping < 0.01 < 1 < other.clipping for one, other in zip(wide, tight, strict=True))
    assert all(other.quantisation < one.quantisation for one, other in zip(wide, tight, strict=True))
    assert all(many.quantisation < 0.3 * few.quantisation for few, many in zip(errors(4), errors(64), strict=True))
    assert wide[0].inherited == wide[0].unevenness == 0 < wide[1].inherited
    hard = errors(16, method="max", reset="hard")
    assert hard[0].unevenness > 5 > 0.5 > wide[0].unevenness and hard[1].inherited > wide[1].inherited


# QCFS


def test_fine_tuning_helps_at_few_steps_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    tune: Any = partial(fine_tune_qcfs, digits(), DIGITS, parts(), Execution(1), Conversion(), 2, 3, 5e-3)
    whole = tune(tmp_path / "a.pt")
    plain, tuned = (
        evaluate(
            converted_at(one, 1, execution, parts().calibration, Conversion(), "bias").network,
            parts().test,
            Execution(1),
        )
        for one in (digits(), whole)
    )
    assert tuned > plain

    def interrupt(stage: str, done: int, total: int, figures: Mapping[str, float]) -> None:
        if (stage, done) == ("epoch", 1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(tmp_path / "b.pt", progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["b.pt"]
    assert tune(tmp_path / "b.pt").id == whole.id
    assert not list(tmp_path.iterdir())


def test_recordings_are_not_fine_tuned(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^QCFS fine-tuning trains an ANN on images; experiment 'bars-ann' shows 'events'"
    ):
        run_conversion(
            bars(), BARS, Conversion(), [4], qcfs_epochs=1, calibration=4, limit=4, checkpoint=tmp_path / "c.pt"
        )


def test_check_knows_the_figures_of_a_conversion(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    result = study()
    result.write_json(path)
    assert describe_file(path) == f"conversion at {len(result.points)} numbers of time steps"
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(FileError, match="got 2, expected 1"):
        describe_file(path)
