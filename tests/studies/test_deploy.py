"""Deployment: settings make the networks they say, T and margins are the smallest that are good enough, rows are kept and repeat."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from spikeloom.core.arch import Mapping
from spikeloom.core.deployment import Bill
from spikeloom.core.network import Network, chain
from spikeloom.core.nodes import IF, LI, Add, Flatten, Input, Linear, Output, ReLU
from spikeloom.core.signals import received_signals
from spikeloom.core.trace import Levels, Spikes
from spikeloom.emulate import emulate
from spikeloom.errors import ConfigError, MappingError, NetworkError
from spikeloom.evaluate import decide, evaluate, load_machine, load_workload
from spikeloom.files.results import read_reports
from spikeloom.lower import lower
from spikeloom.nets import create
from spikeloom.report.deploy import verdict
from spikeloom.snn.build import input_frames
from spikeloom.snn.execute import Execution, encoded_batches, runnable
from spikeloom.snn.train import train
from spikeloom.studies import convert as convert_module
from spikeloom.studies import deploy as study
from spikeloom.studies import deploy_bench as bench_module
from spikeloom.studies.convert import Splits, ann_accuracy, splits
from spikeloom.studies.deploy import alone, deploy, rival_of, together, usable
from spikeloom.studies.deploy_bench import (
    Bench,
    DeployOptions,
    Fit,
    best_margin,
    exit_steps,
    groups,
    leads,
    read_out,
    views,
)
from spikeloom.studies.deploy_cores import place
from spikeloom.studies.experiment import Experiment, samples, train_config
from spikeloom.studies.techniques import RATE_PRICE, TECHNIQUES, Kit, RatePrice, Setting, aligned, fine_tuned, names_of
from spikeloom.transform.convert import Conversion, activations, spiking
from spikeloom.transform.input_neurons import with_input_neurons
from spikeloom.transform.prepare import prepare
from spikeloom.transform.qcfs import staircase

DIGITS = Experiment(
    "digits", "lenet", {"num_steps": 1, "epochs": 6, "learning_rate": 1e-2, "batch_size": 64},
    network_options={"neuron": "relu", "width": 0.5}, validation=0.15, name="digits-ann",
)  # fmt: skip
FAST = DeployOptions(machine="loihi", max_loss=8.0, samples=64, limit=60, counted=6, most_steps=64, tune=0)
V0 = Setting(v_init=0.5)


@cache
def ann() -> Network:
    fit = samples(DIGITS, "train")
    return train(create("lenet", fit.in_shape, fit.num_classes, encoding="analog", **DIGITS.network_options), fit, train_config(DIGITS)).network  # fmt: skip


@cache
def parts() -> Splits:
    return splits(DIGITS, FAST.samples, FAST.limit)


def bench(folder: Path, options: DeployOptions = FAST, **more: Any) -> Bench:
    kit = Kit(ann(), None, parts(), Execution(1))
    held = ann_accuracy(ann(), parts().choosing, Execution(1))
    return Bench(kit, parts(), load_machine(options.machine)[1], options, folder, held, **more)


@pytest.mark.parametrize(
    ("setting", "largest", "threshold"),
    [
        (Setting(), 127, 255),
        (Setting(bits=4), 7, 255),
        (Setting(bits=2), 1, 255),
        (Setting(reset="hard", ratio=8.0, input_ratio=2.0), 127, 255 * 16),
    ],
)
def test_a_setting_makes_the_network_it_says(setting: Setting, largest: int, threshold: float) -> None:
    kit = Kit(ann(), None, parts(), Execution(1))
    network = kit.network(setting, 16)
    assert network.arithmetic == "integer"
    for node in network.nodes.values():
        if isinstance(node, Linear):
            assert np.abs(node.weight).max() <= largest  # type: ignore[arg-type]
            assert node.bias is None or np.abs(node.bias).max() < 2**11
        if isinstance(node, IF):
            assert node.reset == setting.reset and node.membrane_bits == 24
    pixels, neurons = network.nodes[kit.pixels], network.nodes[kit.neurons]
    assert (pixels.weight == 1).all() and neurons.v_threshold == threshold  # type: ignore[union-attr]


def test_biases_in_v0_leave_none_at_the_steps() -> None:
    network = Kit(ann(), None, parts(), Execution(1)).network(Setting(bias="start"), 16)
    behind = {name for name, node in network.nodes.items() if isinstance(node, LI)}
    for name, node in network.nodes.items():
        if isinstance(node, Linear) and not behind & set(network.outputs_of(name)):
            assert node.bias is None
    starts = [np.ravel(node.v_init) for node in network.nodes.values() if isinstance(node, IF)]
    assert any((start != 0).any() for start in starts)


def test_aligned_biases_are_where_they_would_have_started_when_spikes_can_come() -> None:
    ready = with_input_neurons(prepare(ann()))[0]
    ones = {name: np.ones(ready.shapes()[name][0]) for name in activations(ready)}
    plain = spiking(ready, ones, Conversion(num_steps=16))
    last = plain.inputs_of(next(name for name, node in plain.nodes.items() if isinstance(node, LI)))[0]
    spoken = replace(plain.nodes[last], bias=np.arange(10, dtype=np.float32), has_bias=True)  # type: ignore[call-arg]
    plain = replace(plain, nodes={**plain.nodes, last: spoken})
    network = aligned(plain, 16)
    order = [name for name in network.order() if isinstance(network.nodes[name], IF)]
    for depth, name in enumerate(order):
        layer = plain.nodes[network.inputs_of(name)[0]]
        bias = getattr(layer, "bias", None)
        if bias is None:
            assert np.all(network.nodes[name].v_init == 0.5)  # type: ignore[union-attr]
            continue
        start = np.ravel(network.nodes[name].v_init)  # type: ignore[union-attr]
        assert np.allclose(start, np.minimum(0.5 - depth * bias, 0.99))
        reaches = start + depth * bias
        assert np.allclose(reaches[start < 0.99], 0.5, atol=1e-5)
    assert np.allclose(network.nodes[last].bias, np.arange(10) * (16 - len(order)) / 16)  # type: ignore[union-attr]


def test_a_technique_that_a_network_refuses_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = bench(tmp_path)
    network = one.kit.network

    def refusing(setting: Setting, num_steps: int) -> Network:
        if setting.bias == "start":
            raise NetworkError("its bias reaches it through other nodes")
        return network(setting, num_steps)

    monkeypatch.setattr(one.kit, "network", refusing)
    found, left_out = usable(one)
    assert "biases in v0" not in [each.name for each in found] and "biases aligned" in [each.name for each in found]
    assert left_out == ("biases in v0 left out: its bias reaches it through other nodes",)
    without_delay = usable(bench(tmp_path, replace(FAST, machine="spikex")))[0]
    assert not {"biases aligned", "mapped cores", "fine-tuned"} & {each.name for each in without_delay}


@pytest.mark.parametrize("delay", [0, 1])
def test_read_out_is_the_membrane_of_every_step(delay: int) -> None:
    network = Kit(ann(), None, parts(), Execution(1)).network(V0, 8)
    source = parts().choosing.take(np.arange(20))
    said_TNK = read_out(network, source, 12, delay)
    trace = emulate(network, source.batch(np.arange(20)), 12, delay=delay)
    assert np.array_equal(said_TNK[-1].argmax(1), trace.predictions)
    for steps in (1, 5):
        shorter = emulate(network, source.batch(np.arange(20)), steps, delay=delay)
        assert np.array_equal(said_TNK[steps - 1].argmax(1), shorter.predictions)
    if not delay:  # the same as torch, membrane for membrane
        module = runnable(network)
        for _, encoded in encoded_batches(source, Execution(12, batch_size=20), module.input_node):
            torch_TNK = module(input_frames(module, encoded), 12, encoded.constant).detach().numpy()
        assert np.array_equal(said_TNK, torch_TNK)


def test_read_out_refuses_a_pool_behind_the_last_layer() -> None:
    network = Kit(ann(), None, parts(), Execution(1)).network(V0, 8)
    nodes = {name: node for name, node in network.nodes.items() if not isinstance(node, LI)}
    edges = tuple((s, d) for s, d in network.edges if s in nodes and d in nodes)
    last = next(n for n, x in nodes.items() if type(x).__name__ == "Output")
    synapse = network.inputs_of(network.inputs_of(last)[0])[0]
    odd = Network(nodes, (*edges, (synapse, last)), "odd")
    with pytest.raises(ConfigError, match="expected fully connected layers in front of a read-out"):
        read_out(odd, parts().choosing, 2, 0)


def test_exit_steps_equal_the_loop() -> None:
    rng = np.random.default_rng(7)
    for _ in range(20):
        T, N, K = rng.integers(1, 9), rng.integers(1, 6), rng.integers(2, 5)
        said_TNK = rng.integers(-20, 20, (T, N, K)).astype(float).cumsum(0)
        margin = float(rng.integers(0, 12))
        lead_TN = leads(said_TNK)
        for n, end in enumerate(exit_steps(said_TNK, margin)):
            expected = int(T)
            for t in range(T):
                first, second = sorted(said_TNK[t, n])[::-1][:2]
                assert lead_TN[t, n] == (first - second) / (t + 1)
                if (first - second) / (t + 1) >= margin:
                    expected = t + 1
                    break
            assert end == expected


def test_the_margin_with_the_fewest_steps_is_good_enough() -> None:
    rng = np.random.default_rng(8)
    labels = rng.integers(0, 3, 40)
    said_TNK = (rng.normal(size=(10, 40, 3)) + 0.8 * np.eye(3)[labels]).cumsum(0)
    right_T = (said_TNK.argmax(2) == labels).mean(1)
    margin, steps, held = best_margin(said_TNK, labels, 6, float(right_T[5]))
    ends = exit_steps(said_TNK[:steps], margin)
    assert steps in (6, 10) and ends.mean() <= 6
    found = (said_TNK[ends - 1, np.arange(40)].argmax(1) == labels).mean()
    assert held == found >= right_T[5]


def test_bills_of_groups_add_up() -> None:
    network = Kit(ann(), None, parts(), Execution(1)).network(V0, 8)
    trace = emulate(network, parts().test.batch(np.arange(9)), 8)
    _, arch = load_machine("loihi")
    ends = np.array([3, 8, 3, 5, 8, 1, 5, 5, 3])
    energy = samples_seen = 0.0
    for end, part in groups(trace, ends):
        energy += evaluate(lower(network, bench_module.first_steps(part, end)), arch).energy_j
        samples_seen += part.num_samples
    alone_j = 0.0
    for n, end in enumerate(ends):
        one = emulate(network, parts().test.batch(np.array([n])), int(end))
        alone_j += evaluate(lower(network, one), arch).energy_j
    assert samples_seen == 9 and energy == pytest.approx(alone_j, rel=1e-12)
    many = [end for end, _ in groups(emulate(network, parts().test.batch(np.arange(12)), 12), np.arange(1, 13))]
    assert len(many) <= bench_module.GROUPS and many[-1] == 12


def test_t_is_the_smallest_that_stays_good_enough(tmp_path: Path) -> None:
    one = bench(tmp_path)
    fit = one.fit(V0)
    assert fit.within and fit.made_for in (8, 16, 32, 64) and fit.num_steps <= fit.made_for
    said_TNK = read_out(one.kit.network(V0, fit.made_for), parts().choosing, fit.made_for, 1)
    right_T = (said_TNK.argmax(2) == parts().choosing.labels).mean(1)
    least = one.held - FAST.max_loss / 100 - 1e-9
    assert (right_T[fit.num_steps - 1 :] >= least).all() and right_T[fit.num_steps - 2] < least
    assert fit.held == right_T[fit.num_steps - 1]
    none = bench(tmp_path, replace(FAST, most_steps=3)).fit(Setting())
    assert not none.within and none.cost("energy")[0] == float("inf") and none.num_steps == 3


def test_rows_are_kept_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        study, "TECHNIQUES", tuple(one for one in TECHNIQUES if one.name in ("v0 = theta/2", "early exit"))
    )
    options = replace(FAST, counted=4)
    first = list(alone(bench(tmp_path, options)))
    chosen, fit = together(bench(tmp_path, options))
    assert [row.name for row in first] == ["plain", "fewest steps", "v0 = theta/2", "early exit"]
    assert chosen.v_init == 0.5 and fit.within

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("computed again")

    monkeypatch.setattr(bench_module, "emulate", never)
    again = list(alone(bench(tmp_path, options)))
    assert [asdict(row) for row in again] == [asdict(row) for row in first]
    assert together(bench(tmp_path, options)) == (chosen, fit)
    with pytest.raises(AssertionError, match="computed again"):  # another machine is another row
        bench(tmp_path, replace(options, machine="loihi:static=frady2020")).fit(V0)
    for kept in (tmp_path / "rows").iterdir():
        kept.write_text("{torn")
    with pytest.raises(AssertionError, match="computed again"):
        list(alone(bench(tmp_path, options)))


def test_the_study_writes_what_eval_repeats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = ("v0 = theta/2", "MSE by channel", "biases in v0")
    monkeypatch.setattr(study, "TECHNIQUES", tuple(one for one in TECHNIQUES if one.name in kept))
    done = deploy(ann(), DIGITS, FAST, tmp_path, against="ncs2")
    assert done.chosen.bill.energy_j <= done.plain.bill.energy_j
    assert done.chosen.within and done.ann_held - done.chosen.held <= 0.08 + 1e-9
    monkeypatch.chdir(tmp_path)
    again = evaluate(load_workload("trace.npz"), load_machine("machine.toml")[1], label="machine.toml")
    (report,) = read_reports("report.json")
    assert asdict(again) == asdict(report)
    assert report.energy_per_inference_j == pytest.approx(
        done.chosen.bill.energy_j, rel=1e-12
    )  # no early exit among these
    said = json.loads((tmp_path / "deployment.json").read_text())
    row = said["chosen"]["bills"]["given"]
    assert row["power_w"] == row["energy_j"] / row["latency_s"] == done.chosen.bill.power_w
    workload = load_workload("trace.npz")
    spikes = [layer.arrival for layer in workload.layers if layer.name != "pixels"]
    assert all(isinstance(one, Spikes) or not one.analog for one in spikes)
    assert all(layer.updates is not None for layer in workload.layers if layer.kind in ("conv2d", "linear"))
    assert done.rival is not None
    assert done.rival.bills["dynamic"].energy_j < done.rival.bills["given"].energy_j
    assert [caveat.split(":")[0] for caveat in done.caveats][-2:] == ["loihi", "ncs2"] and said["caveats"] == list(
        done.caveats
    )
    assert any("a whole device as measured" in caveat for caveat in done.caveats)
    assert any("counted events explain 1.6 %" in caveat for caveat in done.caveats)
    assert not any("workload" in caveat for caveat in done.caveats)  # that one runs the ANN is the question
    fixed = said["rival"]["fixed"]["board"]
    assert fixed["power_w"] == fixed["energy_j"] / fixed["latency_s"]
    told = list(verdict(done))
    assert [line.split(":")[0] for line in told[:2]] == ["work alone", "whole boards"]
    assert told[2:] == [f"caution: {caveat}" for caveat in done.caveats]
    assert "of the paper" in told[0]
    own = replace(done, rival=replace(done.rival, machine="ncs2:overhead_us=1", bills={"dynamic": Bill(1.0, 1.0)}))
    assert "of the paper" not in next(verdict(own)) and next(iter(verdict(own))).startswith("work alone")
    assert not any(line.startswith("whole boards") for line in verdict(own))
    board = done.chosen.bills["board"]
    assert board.power_w == pytest.approx(done.chosen.bill.power_w + 0.0296 + 0.0762, rel=5e-3)


def test_the_pixels_of_the_trace_stay_pixels() -> None:
    kit = Kit(ann(), None, parts(), Execution(1))
    trace = emulate(kit.network(V0, 8), parts().test.batch(np.arange(2)), 8)
    arrival = trace.arrivals[kit.pixels]
    assert isinstance(arrival, Levels) and arrival.analog and arrival.bits == 8


def test_refusals_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no setting loses at most 0\.0 points in 2 steps"):
        deploy(ann(), DIGITS, replace(FAST, max_loss=0.0, most_steps=2, alone=False), tmp_path)
    with pytest.raises(ConfigError, match="expected images as the input of an ANN"):
        deploy(ann(), replace(DIGITS, train={**DIGITS.train, "encoding": "events"}), FAST, tmp_path)
    with pytest.raises(ConfigError, match="--max-loss: got -1"):
        DeployOptions(max_loss=-1)
    for loss in (float("inf"), float("nan")):
        with pytest.raises(ConfigError, match=f"--max-loss: got {loss}, expected 0 or more percentage points"):
            DeployOptions(max_loss=loss)
    with pytest.raises(ConfigError, match="--counted: got 0"):
        DeployOptions(counted=0)
    with pytest.raises(ConfigError, match="give the number of epochs with --tune"):
        Kit(ann(), None, parts(), Execution(1)).network(Setting(tuned=True), 8)


def test_rate_price_counts_what_spikes_would_meet() -> None:
    network = staircase(
        ann(), {name: np.ones(1) for name, node in ann().nodes.items() if type(node).__name__ == "ReLU"}, 8
    )
    price = RatePrice(network)
    synapses = [name for name in network.layers() if name in price.fan]
    assert synapses == ["conv2", "fc1", "fc2", "fc3"]
    shapes = network.shapes()
    full = {
        n: torch.full((1, 3, *shapes[network.inputs_of(n)[0]]), float(received_signals(network)[n].max_level))
        for n in synapses
    }
    assert float(price(full)) == pytest.approx(RATE_PRICE)
    half = {name: values / 2 for name, values in full.items()}
    assert float(price(half)) == pytest.approx(RATE_PRICE / 2)


def test_fine_tuning_is_kept_and_lowers_rates(tmp_path: Path) -> None:
    file = tmp_path / "tuned.npz"
    tuned = fine_tuned(ann(), DIGITS, parts(), Execution(1), 1, file)
    assert fine_tuned(ann(), DIGITS, parts(), Execution(1), 1, file).id == tuned.id
    assert tuned.id != ann().id and not file.with_suffix(".checkpoint.pt").exists()
    assert fine_tuned(ann(), DIGITS, parts(), Execution(1), 2, file).id != tuned.id
    file.write_text("torn")
    assert fine_tuned(ann(), DIGITS, parts(), Execution(1), 1, file).id == tuned.id


@pytest.mark.parametrize("what", ["calibration", "seed", "rate", "shift", "data"])
def test_fine_tuning_starts_anew_when_what_it_depends_on_changed(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, now, experiment = tmp_path / "tuned.npz", parts(), DIGITS
    started = []
    module = import_module("spikeloom.snn.train")

    def counted(network: Network, *_: Any, checkpoint: Path, **__: Any) -> Any:
        started.append(checkpoint)
        return SimpleNamespace(network=network)

    monkeypatch.setattr(module, "train", counted)
    for _ in range(2):  # the second is kept
        fine_tuned(ann(), DIGITS, now, Execution(1), 1, file)
    assert len(started) == 1
    if what == "calibration":
        now = replace(now, calibration=now.calibration.take(np.arange(20)))
    elif what == "data":
        real = convert_module.training_samples

        def other(*args: Any) -> Any:
            fit, held = real(*args)
            return replace(fit, labels=fit.labels[::-1]), held  # type: ignore[type-var]

        monkeypatch.setattr(convert_module, "training_samples", other)
    elif what == "shift":
        experiment = replace(experiment, shift=1)
    else:
        experiment = replace(
            experiment, train={**DIGITS.train, **({"seed": 4} if what == "seed" else {"batch_size": 32})}
        )
    fine_tuned(ann(), experiment, now, Execution(1), 1, file)
    assert len(started) == 2 and started[0] != started[1]


@pytest.mark.parametrize("part", ["choosing", "test"])
@pytest.mark.parametrize("field", ["pixels", "labels"])
def test_rows_of_other_data_with_the_same_numbers_are_no_rows(part: str, field: str, tmp_path: Path) -> None:
    one = bench(tmp_path)
    source: Any = getattr(one.parts, part)
    other = replace(one.parts, **{part: replace(source, **{field: np.roll(getattr(source, field), 1, axis=0)})})
    another = Bench(one.kit, other, one.arch, one.options, one.folder, one.held)
    assert one._key("fit", V0) != another._key("fit", V0)
    assert one._key("fit", V0) == bench(tmp_path)._key("fit", V0)


def test_mapped_cores_are_kept_for_their_objective(tmp_path: Path) -> None:
    one, other = (bench(tmp_path, replace(FAST, objective=aim)) for aim in ("energy", "latency"))  # type: ignore[arg-type]
    assert one._key("cores", V0) == other._key("cores", V0)
    mapped = replace(V0, cores="mapped")
    assert one._key("cores", mapped) != other._key("cores", mapped)


@pytest.mark.parametrize("damage", [{}, {"found": {"x": 1}}, {"found": None}, {"found": []}])
def test_damaged_rows_are_computed_again(damage: dict[str, Any], tmp_path: Path) -> None:
    one = bench(tmp_path)
    fit = one.fit(V0)
    one.row("v0", V0, fit)
    for kept in (tmp_path / "rows").iterdir():
        content = json.loads(kept.read_text())
        del content["found"]
        kept.write_text(json.dumps({**content, **damage}))
    assert one.fit(V0) == fit
    one.row("v0", V0, fit)


def test_what_cannot_be_deployed_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("worked")

    monkeypatch.setattr(study, "fine_tuned", never)
    monkeypatch.setattr(study, "Bench", never)
    rng = np.random.default_rng(3)

    def linear(inputs: int, outputs: int) -> Linear:
        return Linear(inputs, outputs, weight=rng.normal(size=(outputs, inputs)).astype(np.float32), has_bias=False)

    tuned = replace(FAST, tune=1)
    pixels = samples(DIGITS, "test").in_shape
    front = {"in": Input(pixels, "analog"), "flat": Flatten(), "l0": linear(64, 8), "r0": ReLU()}
    single = chain("single", {**front, "l": linear(8, 1), "out": Output((1,))})
    with pytest.raises(ConfigError, match="network 'single' has 1 output, expected one for each of two or more"):
        deploy(single, DIGITS, tuned, tmp_path)
    nodes = {**front, "l1": linear(8, 8), "add": Add(), "r1": ReLU(), "l": linear(8, 10), "out": Output((10,))}
    names = list(nodes)
    residual = Network(nodes, (*zip(names, names[1:], strict=False), ("r0", "add")), "residual")
    with pytest.raises(NetworkError, match=r"node 'add' \(Add\) gets real values"):
        deploy(residual, DIGITS, tuned, tmp_path)
    for machine in ("ncs2", "ncs", "systolic", "sata-training"):
        with pytest.raises(ConfigError, match=f"^{machine} .*; expected a machine of spiking neurons such as loihi"):
            deploy(ann(), DIGITS, replace(tuned, machine=machine), tmp_path)
    with pytest.raises(MappingError):
        deploy(ann(), DIGITS, tuned, tmp_path, against="loihi:in_axons=2")


def test_a_rival_runs_the_ann_once() -> None:
    rival, report = rival_of(ann(), parts(), 6, "ncs2", load_machine("ncs2")[1], 0.9)
    given, dynamic = rival.bills["given"], rival.bills["dynamic"]
    assert given.latency_s == dynamic.latency_s and 0 < dynamic.energy_j < given.energy_j
    assert report.holds == ("whole board measured",) and rival.bills["board"] == given
    assert rival.fixed["board"].latency_s == pytest.approx(1.863e-3)
    assert rival.fixed["board"].energy_j == pytest.approx(1.863e-3 * 1.439)  # running power of the keyword network
    assert rival.fixed["dynamic"].energy_j == pytest.approx(1.863e-3 * 0.943)
    counted, _ = rival_of(ann(), parts(), 6, "systolic", load_machine("systolic")[1], 0.9)
    assert set(counted.bills) == {"given", "dynamic"} and not counted.fixed  # a sum of parts is no board
    assert Bill(2.0, 4.0).power_w == 0.5 and Bill(2.0, 4.0).edp_js == 8.0 and Bill(1.0, 0.0).power_w == 0.0


def test_views_of_a_machine_without_board_terms() -> None:
    assert list(views(load_machine("spikex")[1])) == ["given"]
    assert list(views(load_machine("loihi")[1])) == ["given", "board"]
    assert Fit(8, 4, 0.9, None, True, 2.0, 3.0).cost("edp") == (6.0, 0.0)
    assert Fit(8, 4, 0.9, None, True, 2.0, 4.0).cost("power") == (0.5, 0.0)


def test_neurons_stand_on_the_fewest_cores_that_fit() -> None:
    kit = Kit(ann(), None, parts(), Execution(1))
    trace = emulate(kit.network(V0, 8), parts().test.batch(np.arange(4)), 8)
    workload = lower(kit.network(V0, 8), trace)
    _, roomy = load_machine("loihi")
    assert place(workload, roomy, "", "energy") == decide(workload, roomy).placement
    _, tight = load_machine("loihi:in_axons=160,out_axons=600,compartments=150")
    with pytest.raises(MappingError):
        decide(workload, tight)
    for how in ("", "mapped"):
        placement = place(workload, tight, how, "energy")
        assert placement is not None
        report = evaluate(
            workload, tight, mapping=Mapping("loihi", placement=placement)
        )  # which refuses what does not fit
        assert report.energy_j > 0
    fewest, mapped = (place(workload, tight, how, "energy") for how in ("", "mapped"))
    energies = [evaluate(workload, tight, mapping=Mapping("loihi", placement=one)).energy_j for one in (fewest, mapped)]
    assert energies[1] <= energies[0]
    with pytest.raises(MappingError, match="no splits of the layers keep the limits"):
        place(workload, load_machine("loihi:in_axons=2")[1], "", "energy")
    assert place(workload, load_machine("spikex")[1], "mapped", "energy") is None


def test_a_setting_says_which_techniques_it_is_made_of() -> None:
    assert names_of(Setting()) == ()
    for one in TECHNIQUES:
        assert names_of(one.of(Setting())) == (one.name,)
    mixed = replace(Setting(), v_init=0.5, method="mse", by_channel=True, exits=True, cores="mapped")
    assert names_of(mixed) == ("v0 = theta/2", "MSE by channel", "early exit", "mapped cores")
