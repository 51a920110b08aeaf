"""The study: thinned and shortened traces, operation counts by hand, shares, break-even, remedies, the whole."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from spikeloom.core.efficiency import REMEDIES, SHARES, Exits, Saving
from spikeloom.core.network import Network, chain
from spikeloom.core.nodes import IF, LIF, Flatten, Input, Leak, Linear, MaxPool2d, Node, Output
from spikeloom.core.report import LayerReport, Report
from spikeloom.core.trace import Levels, Spikes, SpikeTrace
from spikeloom.errors import ConfigError, CostError
from spikeloom.evaluate import PRESETS, evaluate, load_machine
from spikeloom.hw import HARDWARE
from spikeloom.lower import lower
from spikeloom.report.truly_efficient import notes, sentences, tables
from spikeloom.studies.ann import matched_ann
from spikeloom.studies.remedies import Subject, savings
from spikeloom.studies.shares import ALWAYS_ON, NEURON_LOGIC, PURPOSES, WEIGHTS, share_of, shares
from spikeloom.studies.thinning import break_even, firing_rate, first_steps, resampled
from spikeloom.studies.truly_efficient import estimates, every_machine, to_json, truly_efficient
from tests.studies.test_ann import N, T, pooled_snn


def unpacked(trace: SpikeTrace, name: str) -> np.ndarray:
    arrival = trace.arrivals[name]
    assert isinstance(arrival, Spikes)
    return arrival.unpack()


def values(trace: SpikeTrace, name: str) -> np.ndarray:
    arrival = trace.arrivals[name]
    assert isinstance(arrival, Levels)
    return arrival.values


def small_snn() -> tuple[Network, SpikeTrace]:
    """3 spikes -> 2 -> 2, T = 4, one sample."""
    nodes: dict[str, Node] = {
        "in": Input((3,)),
        "fc1": Linear(3, 2),
        "lif": LIF(Leak(shift=1)),
        "fc2": Linear(2, 2),
        "out": Output((2,)),
    }
    first = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]], bool)[:, None]
    second = np.array([[0, 0], [1, 0], [0, 0], [1, 1]], bool)[:, None]
    return chain("small", nodes), SpikeTrace(4, 1, {"fc1": Spikes.pack(first), "fc2": Spikes.pack(second)})


def test_thinning_goes_from_silence_to_every_spike() -> None:
    network, trace = pooled_snn()
    silent, same, full = (resampled(network, trace, strength) for strength in (-1.0, 0.0, 1.0))
    assert firing_rate(network, silent) == 0 and firing_rate(network, full) == 1
    assert not values(silent, "fc").any() and (values(full, "fc") == 4).all()
    for name in ("pool", "fc2"):
        assert np.array_equal(unpacked(same, name), unpacked(trace, name))
    assert np.array_equal(values(same, "fc"), values(trace, "fc"))
    assert np.array_equal(values(silent, "conv"), values(trace, "conv")), "pixels are no spikes"
    sent = int(unpacked(trace, "pool").sum() + unpacked(trace, "fc2").sum())
    assert firing_rate(network, trace) == sent / (T * N * (32 + 4))
    with pytest.raises(ConfigError, match="strength of thinning"):
        resampled(network, trace, -1.5)


def test_a_stronger_thinning_removes_what_a_weaker_one_does_and_pools_add_up_what_is_left() -> None:
    network, trace = pooled_snn()
    before = unpacked(trace, "pool")
    for strength in (-0.25, -0.5, -0.75):
        thinned = resampled(network, trace, strength, seed=7)
        left = unpacked(thinned, "pool")
        assert not (left & ~before).any() and left.sum() < before.sum()
        assert np.array_equal(
            values(thinned, "fc"), left.reshape(T, N, 2, 2, 2, 2, 2).sum(axis=(4, 6)).reshape(T, N, 8)
        )
        before = left
    denser = unpacked(resampled(network, trace, 0.3), "pool")
    assert (denser >= unpacked(trace, "pool")).all() and denser.mean() == pytest.approx(0.4 + 0.6 * 0.3, abs=0.05)
    assert np.array_equal(before, unpacked(resampled(network, trace, -0.75, seed=7), "pool"))


def test_all_who_hear_a_neuron_lose_the_same_spikes() -> None:
    rng = np.random.default_rng(0)
    nodes: dict[str, Node] = {
        "in": Input((4, 2, 2)),
        "flatten": Flatten(),
        "fc": Linear(16, 3),
        "pool": MaxPool2d((2, 2), (2, 2)),
        "flatten2": Flatten(),
        "fc2": Linear(4, 3),
        "out": Output((3,)),
    }
    edges = (
        ("in", "flatten"),
        ("flatten", "fc"),
        ("fc", "out"),
        ("in", "pool"),
        ("pool", "flatten2"),
        ("flatten2", "fc2"),
    )
    sent = rng.random((6, 2, 4, 2, 2)) < 0.5
    arrivals = {
        "pool": Spikes.pack(sent),
        "fc": Spikes.pack(sent.reshape(6, 2, 16)),
        "fc2": Spikes.pack(sent.any(axis=(3, 4))),
    }
    network = Network(nodes, (*edges, ("fc2", "out")))
    thinned = resampled(network, SpikeTrace(6, 2, arrivals), -0.5)
    assert np.array_equal(unpacked(thinned, "pool").reshape(6, 2, 16), unpacked(thinned, "fc"))
    assert np.array_equal(unpacked(thinned, "pool").any(axis=(3, 4)), unpacked(thinned, "fc2"))


@pytest.mark.parametrize("steps", [1, 3, T])
def test_the_first_steps_are_those_of_the_trace(steps: int) -> None:
    _, trace = pooled_snn()
    cut = first_steps(trace, steps)
    assert cut.num_steps == steps
    assert np.array_equal(unpacked(cut, "fc2"), unpacked(trace, "fc2")[:steps])
    assert np.array_equal(values(cut, "fc"), values(trace, "fc")[:steps])
    with pytest.raises(ConfigError, match="got 6 steps"):
        first_steps(trace, T + 1)


def test_what_has_steps_of_its_own_keeps_them_and_its_records() -> None:
    once, whole = (Spikes.pack(np.ones((n, N, 3))) for n in (1, T))
    trace = SpikeTrace(T, N, {"a": whole, "b": once}, outputs={"a": whole, "b": once}, updates={"b": once})
    cut = first_steps(trace, 3)
    assert cut.arrivals["b"] is cut.outputs["b"] is cut.updates["b"] is once
    assert cut.arrivals["a"].num_steps == cut.outputs["a"].num_steps == 3


def test_operations_by_hand() -> None:
    fp32, int8 = estimates(lower(*small_snn()))
    # 6 spikes meet 2 synapses each, 3 spikes 2 each: 18 additions; the ANN multiplies 3 * 2 + 2 * 2 = 10 times
    assert (fp32.additions, fp32.snn_macs, fp32.ann_macs) == (18, 0, 10)
    assert fp32.snn == pytest.approx(18 * 0.9e-12) and fp32.ann == pytest.approx(10 * 4.6e-12)
    assert int8.snn == pytest.approx(18 * 0.03e-12) and int8.ann == pytest.approx(10 * 0.23e-12)
    assert "Horowitz" in fp32.source


def test_pixels_are_multiplied_once_and_pooled_spikes_are_added_one_by_one() -> None:
    network, trace = pooled_snn()
    fp32, _ = estimates(lower(network, trace))
    assert fp32.snn_macs == 4 * 4 * 9 * 2
    assert fp32.ann_macs == 288 + 8 * 4 + 4 * 3
    spikes = unpacked(trace, "pool").sum() * 4 + unpacked(trace, "fc2").sum() * 3
    assert fp32.additions == pytest.approx(spikes / N)


def test_operations_break_even_where_spikes_added_or_removed_say_so() -> None:
    network, trace = pooled_snn()
    for index, each in enumerate(truly_efficient(network, trace, ["spikex"]).estimates):
        assert each.same is not None
        if each.same.case in ("never", "always"):
            end = -1.0 if each.same.case == "never" else 1.0
            at_end = estimates(lower(network, resampled(network, trace, end, 0)))[index]
            assert (at_end.snn > each.ann) == (each.same.case == "never")
            continue
        assert each.same.strength is not None
        drawn = resampled(network, trace, each.same.strength, 0)
        beyond = resampled(network, trace, each.same.strength + 1 / 512, 0)
        assert estimates(lower(network, drawn))[index].snn <= each.ann < estimates(lower(network, beyond))[index].snn
        assert each.same.rate == pytest.approx(firing_rate(network, drawn))


def test_the_ann_of_another_network_is_refused() -> None:
    network, trace = pooled_snn()
    other, its_trace = small_snn()
    ann = matched_ann(other, its_trace)
    with pytest.raises(ConfigError, match="expected the ANN of this network"):
        truly_efficient(network, trace, ["spikex"], ann=(ann.network, replace(ann.trace, extra={})))
    own = matched_ann(network, trace)
    wrong = replace(own.trace, extra={"meta": {"matched_steps": trace.num_steps + 1}})
    with pytest.raises(ConfigError, match=f"the SNN has {trace.num_steps}"):
        truly_efficient(network, trace, ["spikex"], ann=(own.network, wrong))


@pytest.mark.parametrize(
    ("target", "case", "rate"),
    [(2.0, "never", None), (3.0, "thinned", 0.1), (6.0, "denser", 0.475), (12.0, "always", None)],
)
def test_break_even_of_a_straight_line(target: float, case: str, rate: float | None) -> None:
    def rate_at(strength: float) -> float:
        return 0.2 * (1 + strength) if strength < 0 else 0.2 + 0.8 * strength

    found = break_even(
        lambda strength: 2.2 + 8 * rate_at(strength) + 0.1 * (rate_at(strength) > 0), rate_at, target + 0.1
    )
    assert found.case == case
    if rate is None:
        assert found.rate is None
    else:
        assert found.rate is not None and rate - 1 / 1024 <= found.rate <= rate + 1e-9


def test_every_instance_of_every_machine_is_for_something() -> None:
    for model, machine in HARDWARE.items():
        if model == "sata-training":  # bills a step of training, which no inference is compared with
            continue
        for preset in machine.presets:
            arch = load_machine(preset)[1]
            keys = {f"{instance}.{action}" for instance, action in arch.charges()}
            assert {share_of(model, key) for key in keys} <= set(SHARES)
            assert share_of(model, "anything.leakage") == "leakage"
            instances = {instance for instance, _ in arch.charges()}
            assert WEIGHTS[model] <= instances and set(PURPOSES[model]) <= instances | keys | {"dram", "host"}
            assert ALWAYS_ON.get(model, frozenset()) <= keys
        parts = {(p.instance, p.component.kind) for p in load_machine(next(iter(machine.presets)))[1].inventory()}
        assert NEURON_LOGIC[model] <= parts
    assert "sata-tool" in PRESETS["sata"] and "sata-tool" not in every_machine() and "ptb" in every_machine()


def test_an_unknown_instance_is_an_error_and_shares_are_of_the_energy() -> None:
    energy = {"pe.add": 1.0, "pe.update": 2.0, "dram_weight.read": 4.0, "glb_act.read": 1.0, "glb.leakage": 2.0}
    report = Report("spikex", {}, 1, (LayerReport("fc", 1, 1.0, 0, {}, energy),), 1, 1.0, None, {})
    assert shares(report) == {"compute": 0.1, "neuron": 0.2, "dram": 0.4, "sram": 0.1, "leakage": 0.2}
    odd = replace(report, layers=(replace(report.layers[0], energy={"cache.read": 1.0}),))
    with pytest.raises(CostError, match=r"'cache\.read'"):
        shares(odd)


def subject(machine: str, exits: Exits | None = None) -> Subject:
    network, trace = pooled_snn()
    workload, arch = lower(network, trace), load_machine(machine)[1]
    report = evaluate(workload, arch, threads=1)
    return Subject(network, trace, workload, arch, report, lambda w, a: evaluate(w, a, threads=1), exits)


def by_name(found: tuple[Saving, ...]) -> dict[str, Saving]:
    assert [each.remedy for each in found] == list(REMEDIES)
    return {each.remedy: each for each in found}


def test_remedies_are_what_the_changed_machine_or_trace_costs() -> None:
    at = subject("spikex:window=1")
    found = by_name(savings(at))
    batched = evaluate(at.workload, load_machine(f"spikex:window={T}")[1], threads=1)
    assert found["batching"].energy == pytest.approx(1 - batched.energy_j / at.report.energy_j)
    half = evaluate(lower(at.network, first_steps(at.trace, 3)), at.arch, threads=1)
    assert found["half steps"].energy == pytest.approx(1 - half.energy_j / at.report.energy_j)
    assert found["half steps"].edp == pytest.approx(
        1 - half.energy_j * half.latency_s / at.report.energy_j / at.report.latency_s
    )
    narrow, two = found["4 bit"].energy, found["2 bit"].energy
    assert narrow is not None and two is not None and 0 < narrow < two
    fetched = at.report.by("action")["dram_weight.read"] / at.report.energy_j
    assert two >= 0.74 * fetched
    assert "trace does not say" in found["early exit"].refused
    assert found["sharing"].how == "bound" and found["sharing"].area is not None and 0 < found["sharing"].area < 0.01


def test_weights_fetched_once_save_what_later_steps_fetch() -> None:
    nodes: dict[str, Node] = {
        "in": Input((512,)),
        "fc": Linear(512, 64),
        "lif": LIF(Leak(shift=1)),
        "out": Output((64,)),
    }
    network = chain("wide", nodes)  # 32 KiB of weights do not stay in a buffer of 8
    trace = SpikeTrace(3, 1, {"fc": Spikes.pack(np.random.default_rng(0).random((3, 1, 512)) < 0.2)})
    workload, arch = lower(network, trace), load_machine("systolic:weight_kib=8")[1]
    at = Subject(network, trace, workload, arch, evaluate(workload, arch), evaluate)
    batching = by_name(savings(at))["batching"]
    first = evaluate(lower(at.network, first_steps(at.trace, 1)), at.arch, threads=1)

    def moved(report: Report) -> float:
        return sum(joules for key, joules in report.by("action").items() if "weight" in key and "leakage" not in key)

    assert batching.how == "bound"
    assert batching.energy == pytest.approx((moved(at.report) - moved(first)) / at.report.energy_j)
    assert batching.energy is not None and batching.energy > 0
    assert "no weight twice" in by_name(savings(subject("sata")))["batching"].refused


def test_shared_neurons_save_their_clock_and_leakage() -> None:
    at = subject("sata")
    energy = at.report.by("action")
    saved = by_name(savings(at))["sharing"].energy
    assert saved == pytest.approx(0.75 * (energy["lif.clock"] + energy["lif.leakage"]) / at.report.energy_j)


@pytest.mark.parametrize("steps", [[T, T, T], [1, 1, 1], [1, 4, 2]])
def test_early_exit_counts_each_sample_up_to_its_step(steps: list[int]) -> None:
    at = subject("spikex", Exits(np.array(steps), float(np.mean(steps)), (0.9, 0.9), 3))
    saved = by_name(savings(at))["early exit"].energy
    network, trace = pooled_snn()
    spent = sum(
        evaluate(lower(network, first_steps(_sample(trace, n), steps[n])), at.arch, threads=1).energy_j
        for n in range(N)
    )
    assert saved == pytest.approx(1 - spent / at.report.energy_j, abs=1e-12)


def _sample(trace: SpikeTrace, n: int) -> SpikeTrace:
    from spikeloom.studies.ann import taken

    return taken(trace, np.array([n]))


def test_the_study_is_what_its_parts_are() -> None:
    network, trace = pooled_snn()
    study = truly_efficient(network, trace, ["spikex", "systolic-8x8", "sata"], threads=1)
    ann = matched_ann(network, trace)
    for one in study.machines:
        arch = load_machine(one.label)[1]
        snn, other = (evaluate(lower(*pair), arch, threads=1) for pair in ((network, trace), (ann.network, ann.trace)))
        assert one.snn.energy == snn.energy_per_inference_j and one.ann.energy == other.energy_per_inference_j
        assert one.ratio == pytest.approx(snn.energy_j / other.energy_j)
        assert [length for length, _, _ in one.lengths] == list(range(1, T + 1))
        assert one.lengths[-1][1] == one.snn.energy
        first = evaluate(lower(network, first_steps(trace, 1)), arch, threads=1)
        assert one.later_steps == pytest.approx(1 - first.energy_j / snn.energy_j)
        assert one.snn.shares is not None and sum(one.snn.shares.values()) == pytest.approx(1)
        assert one.same is not None
        if one.same.strength is not None:  # at the rate it names, the SNN costs no more than the ANN
            drawn = resampled(network, trace, one.same.strength)
            assert firing_rate(network, drawn) == one.same.rate
            assert evaluate(lower(network, drawn), arch, threads=1).energy_per_inference_j <= one.ann.energy
    cheapest = {one.label: one.cheapest_ann for one in study.machines}
    assert cheapest["sata"] == "sata" and cheapest["spikex"] == cheapest["systolic-8x8"] != "sata"
    content = json.loads(to_json(study))
    assert content["machines"][0]["ratio"] == study.machines[0].ratio
    assert content["ann_bits"] == 3 and len(content["estimates"]) == 2
    assert len(tables(study)) == 4 and any("Counting operations" in line for line in sentences(study))


def spikes_alone() -> tuple[Network, SpikeTrace]:
    """A network that gets no pixels, which a chip of spikes alone runs."""
    nodes: dict[str, Node] = {
        "in": Input((12,)),
        "a": Linear(12, 20),
        "if": IF(),
        "b": Linear(20, 4),
        "out": Output((4,)),
    }
    rng = np.random.default_rng(5)
    heard = {name: Spikes.pack(rng.random((4, 2, size)) < 0.3) for name, size in (("a", 12), ("b", 20))}
    return chain("spikes", nodes), SpikeTrace(4, 2, heard)


def test_machines_are_ranked_and_their_anns_compared_only_where_bills_hold_the_same() -> None:
    names = ["loihi", "loihi-davies2018", "spikesim", "ncs2", "ncs", "sata", "sata-tool"]
    study = truly_efficient(*spikes_alone(), names, threads=1)
    running = [one for one in study.machines if not one.snn.refused]
    assert {"loihi", "spikesim", "ncs2", "sata", "sata-tool"} <= {one.label for one in running}
    for one in running:  # none of these has another's prices and another's parts
        assert one.cheapest_ann in ("", one.label)
    lowest = [
        line.split(" the EDP of the SNN is lowest on ")[1] for line in sentences(study) if " is lowest on " in line
    ]
    assert sorted(line.split(";")[0].rstrip(".") for line in lowest) == sorted(one.label for one in running)
    assert any(line.startswith("Of sata-tool priced from sata28") for line in sentences(study))
    said = [(label, line) for label, lines in notes(study) for line in lines]
    assert any(label == "loihi" and "counted events explain 1.6 %" in line for label, line in said)
    assert any(label == "ncs2" and "are a fixed overhead" in line for label, line in said)
    for one in study.machines[
        3:5
    ]:  # a stick runs the ANN whatever spikes: nothing wins, breaks even, or is known of its parts
        assert one.ratio == 1 and one.same is None and one.cheapest is None
        assert not any(
            line.startswith("It is cheaper") and f"{one.label}" in line.split(" on ", 2)[2] for line in sentences(study)
        )
        assert not any(f" is lowest on {one.label}; there most goes to" in line for line in sentences(study))
    alone = truly_efficient(*spikes_alone(), ["loihi"], threads=1)
    assert not any("explain" in line for _, lines in notes(alone) for line in lines)
    kinds = [one["kind"] for one in json.loads(to_json(study))["machines"]]
    assert kinds[0] == ["trace", "compute", "neuron", "link"] and kinds[6][0] == "tool"


def test_a_machine_that_refuses_is_named_with_its_reason() -> None:
    nodes: dict[str, Node] = {
        "in": Input((1, 4, 4)),
        "pool": MaxPool2d((2, 2), (2, 2)),
        "flatten": Flatten(),
        "fc": Linear(4, 2),
        "out": Output((2,)),
    }
    spikes = np.random.default_rng(0).random((4, 1, 1, 4, 4)) < 0.5
    pooled = spikes.reshape(4, 1, 1, 2, 2, 2, 2).any(axis=(4, 6)).reshape(4, 1, 4)
    trace = SpikeTrace(4, 1, {"pool": Spikes.pack(spikes), "fc": Spikes.pack(pooled)})
    study = truly_efficient(chain("pooled", nodes), trace, ["spikex", "systolic"], threads=1)
    refusing, running = study.machines
    assert "maxpool2d" in refusing.snn.refused and refusing.ratio is None and not running.snn.refused
    assert any("refuses the SNN: layer 'pool'" in line for _, lines in notes(study) for line in lines)
    with pytest.raises(ConfigError, match="sata-training"):
        truly_efficient(*pooled_snn(), ["sata-training"], threads=1)
    with pytest.raises(ConfigError, match="no machine"):
        truly_efficient(*pooled_snn(), [])
    ann = matched_ann(*pooled_snn())
    with pytest.raises(ConfigError, match="nothing in it spikes"):
        truly_efficient(ann.network, ann.trace, ["spikex"])
    given = truly_efficient(*pooled_snn(), ["spikex"], ann=(ann.network, ann.trace), threads=1)
    assert given.machines[0].ann.energy == truly_efficient(*pooled_snn(), ["spikex"], threads=1).machines[0].ann.energy
    with pytest.raises(ConfigError, match="5 steps"):
        truly_efficient(*pooled_snn(), ["spikex"], ann=pooled_snn())
