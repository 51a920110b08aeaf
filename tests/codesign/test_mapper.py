"""Mapping a network: the mapper's costs are the machine's, and what it returns is never worse and fits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
import pytest

from spikeloom.codesign import mapper
from spikeloom.codesign.machines import Family
from spikeloom.codesign.mapper import NetworkMapping, map_network, some_samples, value_of
from spikeloom.codesign.mapper_moves import Limits, every_option, missing_room
from spikeloom.codesign.mapper_problem import core_limits, problem_of, room_of
from spikeloom.codesign.space import Choice
from spikeloom.codesign.trace_search import TraceObjective, layers_of
from spikeloom.core.arch import Mapping
from spikeloom.core.network import Network, chain
from spikeloom.core.nodes import IF, Add, Conv2d, Flatten, Input, Linear, Node, Output, SumPool2d
from spikeloom.core.placement import Place, Placement
from spikeloom.core.report import Report
from spikeloom.core.workload import Workload
from spikeloom.emulate import emulate
from spikeloom.errors import ConfigError, MappingError
from spikeloom.evaluate import decide, evaluate, load_machine, load_workload
from spikeloom.files.store import write_trace
from spikeloom.hw import HARDWARE
from spikeloom.hw.loihi_arch import LoihiArch
from spikeloom.lower import lower

SMALL: dict[str, Any] = {"rows": 2, "columns": 3, "cores_per_tile": 2}
ARCHES: dict[str, dict[str, Any]] = {
    "port": {},
    "input on cores": {"input_on_chip": True},
    "shifted, skipped": {"delay": "shift", "zero_weights": "skipped"},
    "two chips": {"columns": 2, "chips": 2, "static": "frady2020"},
    "classes": {"synapse_class": "conv", "host": "blouw2018", "cores_per_tile": 1, "columns": 8},
}


def kernel(generator: np.random.Generator, *shape: int) -> np.ndarray:
    return (generator.normal(size=shape) * (generator.random(shape) < 0.8)).astype(np.float32)


def pooled(seed: int) -> Network:
    g = np.random.default_rng(seed)
    nodes: dict[str, Node] = {
        "in": Input((2, 8, 8)),
        "conv1": Conv2d(2, 4, (3, 3), padding=(1, 1), weight=kernel(g, 4, 2, 3, 3)),
        "if1": IF(1.0),
        "pool": SumPool2d((2, 2), (2, 2)),
        "conv2": Conv2d(4, 4, (2, 2), groups=2, weight=kernel(g, 4, 2, 2, 2)),
        "if2": IF(1.0),
        "flatten": Flatten(),
        "fc": Linear(36, 5, weight=kernel(g, 5, 36)),
        "if3": IF(0.8),
        "out": Output((5,)),
    }
    return chain("pooled", nodes)


def residual(seed: int) -> Network:
    g = np.random.default_rng(seed)
    nodes: dict[str, Node] = {
        "in": Input((2, 5, 5)),
        "a": Conv2d(2, 3, (3, 3), padding=(1, 1), weight=kernel(g, 3, 2, 3, 3)),
        "if_a": IF(1.0),
        "b": Conv2d(3, 3, (3, 3), padding=(1, 1), weight=kernel(g, 3, 3, 3, 3)),
        "if_b": IF(1.0),
        "c": Conv2d(3, 3, (3, 3), padding=(1, 1), weight=kernel(g, 3, 3, 3, 3)),
        "if_c": IF(1.0),
        "add": Add(),
        "if_d": IF(1.0),
        "d": Conv2d(3, 2, (1, 1), weight=kernel(g, 2, 3, 1, 1)),
        "if_e": IF(0.5),
        "out": Output((2, 5, 5)),
    }
    edges = [("in", "a"), ("a", "if_a"), ("if_a", "b"), ("b", "if_b"), ("if_b", "c"), ("c", "if_c"), ("if_c", "add")]
    edges += [("if_a", "add"), ("add", "if_d"), ("if_d", "d"), ("d", "if_e"), ("if_e", "out")]
    return Network(nodes, tuple(edges), "residual")


def shared(seed: int) -> Network:
    """Two layers without neurons hear the same source and reach the same neurons: the input, then a layer, then a vector."""
    g = np.random.default_rng(seed)
    nodes: dict[str, Node] = {
        "in": Input((2, 4, 4)),
        "a": Conv2d(2, 3, (3, 3), padding=(1, 1), weight=kernel(g, 3, 2, 3, 3)),
        "b": Conv2d(2, 3, (1, 1), weight=kernel(g, 3, 2, 1, 1)),
        "if1": IF(1.0),
        "c": Conv2d(3, 3, (3, 3), padding=(1, 1), groups=3, weight=kernel(g, 3, 1, 3, 3)),
        "d": Conv2d(3, 3, (1, 3), padding=(0, 1), weight=kernel(g, 3, 3, 1, 3)),
        "if2": IF(1.0),
        "flatten": Flatten(),
        "e": Linear(48, 5, weight=kernel(g, 5, 48)),
        "f": Linear(48, 5, weight=kernel(g, 5, 48)),
        "if3": IF(0.8),
        "out": Output((5,)),
    }
    edges = [
        ("in", "a"),
        ("in", "b"),
        ("a", "if1"),
        ("b", "if1"),
        ("if1", "c"),
        ("if1", "d"),
        ("c", "if2"),
        ("d", "if2"),
    ]
    edges += [("if2", "flatten"), ("flatten", "e"), ("flatten", "f"), ("e", "if3"), ("f", "if3"), ("if3", "out")]
    return Network(nodes, tuple(edges), "shared")


def workload(network: Network, *, samples: int = 2, steps: int = 9, delay: int = 1, rate: float = 0.3) -> Workload:
    shape = network.nodes["in"].shape  # type: ignore[union-attr]
    frames = np.random.default_rng(1).random((steps, samples, *shape)) < rate
    return lower(network, emulate(network, frames.astype(np.uint8), steps, delay=delay))


@pytest.mark.parametrize("arch_name", ARCHES)
@pytest.mark.parametrize("network", [pooled(0), residual(1), shared(2)], ids=lambda network: network.name)
def test_costs_of_the_mapper_are_counts_of_the_machine(network: Network, arch_name: str) -> None:
    """For random splits on random cores: integers equal, energy to the last digits, and what fits fits."""
    fields = ARCHES[arch_name]
    arch = LoihiArch(**{**SMALL, "limits": "warn", **fields})
    work = workload(network, delay=0 if fields.get("delay") == "shift" else 1)
    given = decide(work, arch)
    assert given.placement is not None
    problem = problem_of(work, arch, given.placement, rest=evaluate(work, arch, mapping=given))
    generator = np.random.default_rng(3)
    cores = arch.mesh.num_cores
    free = Limits(cores, np.inf, np.inf, np.inf, np.inf)
    choices = [every_option(problem, g, free) for g in range(len(problem.groups))]
    for _ in range(6):
        splits = [each[generator.integers(len(each))] for each in choices]
        while sum(split.num_cores for split in splits) > cores:
            splits = [each[generator.integers(len(each))] for each in choices]
        slots_M = generator.permutation(cores)[: sum(split.num_cores for split in splits)]
        places: list[Place] = []
        first = 0
        for group, split in zip(problem.groups, splits, strict=True):
            slots = slots_M[first : first + split.num_cores].tolist()
            places += split.places(group.name, group.shape_KPQ, slots, arch.cores_per_tile)
            first += split.num_cores
        mapping = Mapping("loihi", placement=Placement(tuple(places)))
        cost = problem.cost(splits, slots_M)
        counts = HARDWARE["loihi"].count(work, arch, mapping, threads=1)
        counted = tuple(counts.total(*key) for key in (("axon", "out"), ("router", "hop_x"), ("router", "hop_y")))
        assert (cost.messages, cost.hops_x, cost.hops_y) == counted
        assert cost.crossings == counts.total("link", "message")
        assert cost.ticks == counts.cycles
        assert cost.tiles == counts.statistics["", "tiles"]
        report = evaluate(work, arch, mapping=mapping)
        assert cost.energy_j == pytest.approx(report.energy_j, rel=1e-12)
        assert cost.latency_s == pytest.approx(report.latency_s, rel=1e-12)
        tight = replace(arch, compartments=40, in_axons=60, out_axons=150, synapse_memory_kib=0.05)
        held = core_limits(tight)
        limits = Limits(cores, held.compartments, held.synapse_memory_bit, held.in_axons, held.out_axons)
        assert (missing_room(problem, limits, tuple(splits)) == 0) == fits(work, tight, mapping)


def fits(work: Workload, arch: LoihiArch, mapping: Mapping) -> bool:
    try:
        evaluate(work, replace(arch, limits="refuse"), mapping=mapping)
    except MappingError:
        return False
    return True


@pytest.mark.parametrize("objective", ["energy", "latency", "edp"])
def test_a_mapping_is_never_worse_and_repeats(objective: Any) -> None:
    work, arch = workload(pooled(2), samples=4), LoihiArch(**SMALL)
    found = [map_network(work, arch, objective=objective, seed=5, budget=150, samples=2) for _ in range(2)]
    assert found[0].placement == found[1].placement
    assert found[0].num_samples == 2 and found[0].compared <= 150
    given = evaluate(work, arch)
    assert found[0].given.energy_j == given.energy_j
    assert value_of(found[0].report, objective) < value_of(given, objective)
    again = evaluate(work, arch, mapping=Mapping("loihi", placement=found[0].placement))
    assert again.energy_j == found[0].report.energy_j
    cores = {(place.tile, place.core) for place in found[0].placement.places}
    assert found[0].used[1] == (len(cores), len({tile for tile, _ in cores}))
    assert any("lower than that of the given mapping" in line for line in found[0].lines())


def test_messages_of_the_table_are_those_of_the_machine() -> None:
    work, arch = workload(pooled(2)), LoihiArch(**SMALL)
    found = map_network(work, arch, budget=200)
    assert sum(layer.messages or 0 for layer in found.layers) == sum(
        layer.counts.get("axon.out", 0) for layer in found.report.layers
    )
    assert [layer.name for layer in found.layers] == ["conv1", "conv2", "fc"]
    for layer in found.layers:
        for split, messages in layer.by.items():
            count = {"neurons": layer.neurons, "channels": {"conv1": 4, "conv2": 4, "fc": 5}[layer.name]}
            rows = {"conv1": 8, "conv2": 3, "fc": 1}[layer.name]
            assert (messages is None) == (layer.cores > count.get(split, rows))


def test_a_given_mapping_that_does_not_fit_is_mapped_until_it_does() -> None:
    work = workload(pooled(0))
    arch = LoihiArch(**SMALL, in_axons=100)  # conv2 keeps it in blocks of channels and rows only
    with pytest.raises(MappingError, match="in-axons"):
        evaluate(work, arch)
    found = map_network(work, arch, budget=400)
    assert "in-axons" in found.refusal
    assert any("the mapping fits, the given one does not" in line for line in found.lines())
    evaluate(work, arch, mapping=Mapping("loihi", placement=found.placement))  # refuses nothing


def test_what_fits_nowhere_says_which_limit() -> None:
    with pytest.raises(MappingError, match=r"no mapping was found that fits; .*in-axons"):
        map_network(workload(pooled(0)), LoihiArch(**SMALL, in_axons=20), budget=50)


@pytest.mark.parametrize("fields", [{"compartments": 1, "cores": 1}, {"rows": 1, "columns": 1, "cores_per_tile": 1}])
def test_a_layer_without_room_for_any_split_is_a_refusal(fields: dict[str, Any]) -> None:
    """More cores than the other layers leave, or fewer cores than layers: which limit is broken where; or the given mapping where it may."""
    work = workload(pooled(0))
    names = ("conv1", "conv2", "fc")
    shared = Placement(tuple(Place(name, 0, 0) for name in names))
    arch = LoihiArch(**{**SMALL, **fields})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mapper, "decide", lambda work, arch: Mapping("loihi", placement=shared))
        if "compartments" in fields:
            with pytest.raises(
                MappingError, match=r"fits; of the machine's own: layer '.*compartments .* a core has 1 "
            ):
                map_network(work, arch, budget=20)
        found = map_network(work, replace(arch, limits="warn"), budget=20)
    assert found.placement == shared and found.kept and found.compared == 0
    assert not found.refusal and not found.interrupted


def test_a_large_budget_ends_where_nothing_new_is_found() -> None:
    generator = np.random.default_rng(0)
    nodes: dict[str, Node] = {
        "in": Input((3,)), "a": Linear(3, 6, weight=kernel(generator, 6, 3)), "if_a": IF(1.0),
        "b": Linear(6, 2, weight=kernel(generator, 2, 6)), "if_b": IF(1.0), "out": Output((2,)),
    }  # fmt: skip
    work = workload(chain("tiny", nodes))
    found = [map_network(work, LoihiArch(), budget=100_000_000, seed=4) for _ in range(2)]
    assert 8 < found[0].compared <= 64  # 2 ** 5 ways to cut 6 neurons times 2 for the other layer
    assert found[0].compared == found[1].compared and found[0].placement == found[1].placement


def test_a_machine_that_warns_is_not_stretched_further() -> None:
    """No core of the result holds more than the fullest of the given mapping."""
    work = workload(pooled(0))
    arch = LoihiArch(**SMALL, in_axons=20, limits="warn")
    given = decide(work, arch)
    assert given.placement is not None
    problem = problem_of(work, arch, given.placement)
    start = mapper._divisions_of(given.placement, problem)
    room = room_of(problem, arch, start)
    assert start is not None and room.in_axons == 256 and room.compartments == 1024
    found = map_network(work, arch, budget=100)
    splits = mapper._divisions_of(found.placement, problem)
    assert splits is not None and missing_room(problem, room, splits) == 0
    assert not found.refusal


def test_what_is_worse_on_all_samples_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    work, arch = workload(pooled(2), samples=3), LoihiArch(**SMALL)

    def worse(passed: Workload, *rest: Any, mapping: Mapping, **more: Any) -> Report:
        """All samples: what is not the given mapping takes very long."""
        report = evaluate(passed, *rest, mapping=mapping, **more)
        own = mapping.placement == decide(work, arch).placement
        return report if own or passed.num_samples < 3 else replace(report, latency_s=1e6)

    monkeypatch.setattr(mapper, "evaluate", worse)
    found = map_network(work, arch, budget=100, samples=1)
    assert found.kept and found.worse_on_all
    assert found.placement == decide(work, arch).placement
    assert found.report is found.given
    assert any("worse than the given one on all samples" in line for line in found.lines())


@pytest.mark.parametrize("stage", ["layers", "splits", "positions"])
def test_an_interrupted_mapping_is_the_best_so_far(stage: str) -> None:
    work, arch = workload(pooled(2)), LoihiArch(**SMALL)

    def told(name: str, done: int, total: int, figures: Any) -> None:
        if name == stage:
            raise KeyboardInterrupt

    found: NetworkMapping = map_network(work, arch, budget=300, progress=told)
    assert found.interrupted
    assert found.report.edp_js <= found.given.edp_js
    assert found.kept == (stage == "layers")


@pytest.mark.parametrize("fits_as_given", [True, False])
@pytest.mark.parametrize(
    "inside",
    [
        "problem_of", "mapper_costs.Problem.cost", "mapper_positions._anneal", "mapper_positions.energy", "_promising",
        "evaluate 1", "evaluate 2", "confirm 1", "confirm 2", "layers",
    ],
)  # fmt: skip
def test_wherever_ctrl_c_comes_the_best_so_far_is_kept(inside: str, fits_as_given: bool) -> None:
    """Not only where progress is told: in a kernel, between the stages, in the counts of the machine."""
    work = workload(pooled(2), samples=3)
    arch = LoihiArch(**SMALL) if fits_as_given else LoihiArch(**SMALL, compartments=200, cores=1)
    calls = {"evaluate": 0, "confirm": 0, "problem_of": 0, "once": 0}

    def counted(passed: Workload, *rest: Any, **more: Any) -> Report:
        stage = "evaluate" if passed.num_samples < 3 else "confirm"
        calls[stage] += 1
        before = 2 if stage == "evaluate" else 0  # the given mapping as it is, and whether it fits
        if inside == f"{stage} {calls[stage] - before}":
            raise KeyboardInterrupt
        return evaluate(passed, *rest, **more)

    def problem(*given: Any, **more: Any) -> Any:
        calls["problem_of"] += 1
        if (inside, calls["problem_of"]) in (("problem_of", 1), ("layers", 2)):
            raise KeyboardInterrupt
        return problem_of(*given, **more)

    def once(function: Any) -> Any:
        def called(*given: Any, **more: Any) -> Any:
            calls["once"] += 1
            if calls["once"] == 5 or (inside == "_promising" and calls["once"] == 1):
                raise KeyboardInterrupt
            return function(*given, **more)

        return called

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mapper, "evaluate", counted)
        patch.setattr(mapper, "problem_of", problem)
        if inside == "_promising":
            patch.setattr(mapper._Search, inside, once(mapper._Search._promising))
        elif "." in inside:
            where = f"spikeloom.codesign.{inside}"
            patch.setattr(where, once(resolve_name(where)))
        if inside == "problem_of" and not fits_as_given:
            with pytest.raises(KeyboardInterrupt, match="before a mapping that fits was found"):
                map_network(work, arch, budget=300, samples=2)
            return
        found = map_network(work, arch, budget=300, samples=2)
    assert found.interrupted
    again = evaluate(work, arch, mapping=Mapping("loihi", placement=found.placement))  # fits
    late = inside.startswith("confirm")
    assert found.confirmed != late and bool(found.layers) == (not late and inside != "layers")
    assert found.report.num_samples == found.given.num_samples == (2 if late else 3)
    assert late or found.report.edp_js == again.edp_js
    assert found.kept == (inside == "problem_of")
    assert not fits_as_given or found.report.edp_js <= found.given.edp_js
    said = " ".join(found.lines())
    assert ("confirmed on all" in said) != late and "on 2 of 3 samples" in said


def test_with_contention_the_count_of_the_machine_chooses() -> None:
    pytest.importorskip("spikeloom.hw.contention")
    work, arch = workload(pooled(2)), LoihiArch(**SMALL, timing="contention")
    found = map_network(work, arch, objective="latency", budget=200)
    assert found.report.latency_s < found.given.latency_s == evaluate(work, arch).latency_s


def test_samples_are_spread_over_the_trace() -> None:
    work = workload(pooled(2), samples=5)
    few = some_samples(work, 3)
    assert few.num_samples == 3
    for layer, whole in zip(few.layers, work.layers, strict=True):
        array = layer.arrival.packed if hasattr(layer.arrival, "packed") else layer.arrival.values
        all_of = whole.arrival.packed if hasattr(whole.arrival, "packed") else whole.arrival.values
        assert (array == all_of[:, [0, 2, 4]]).all()
    assert some_samples(work, 9) is work


def test_other_machines_have_no_cores() -> None:
    _, spikex = load_machine("spikex")
    with pytest.raises(MappingError, match="no cores"):
        map_network(workload(pooled(0)), spikex)
    with pytest.raises(ConfigError, match="objective"):
        map_network(workload(pooled(0)), LoihiArch(), objective="speed")  # type: ignore[arg-type]


def test_cores_and_splits_are_choices_of_a_search(tmp_path: Path) -> None:
    """For all layers with the candidates of the fields, or of one layer; a design that does not fit is unfit, not an error."""
    network, trace = pooled(0), tmp_path / "trace.npz"
    frames = (np.random.default_rng(1).random((6, 2, 2, 8, 8)) < 0.3).astype(np.uint8)
    write_trace(trace, network, emulate(network, frames, 6))
    family = layers_of(load_workload(trace), Family(LoihiArch(in_axons=256)))
    assert family.layers == ("conv1", "conv2", "fc")
    assert "rows" in family.candidates("arch.split") and 4 in family.candidates("arch.cores")
    objective = TraceObjective(trace, family)
    choices = [Choice("arch.cores.conv1", (1, 4)), Choice("arch.split", ("neurons", "channels"))]
    for choice in choices:
        objective.check(choice)
    trials = [objective({"arch.cores.conv1": cores, "arch.split": "channels"}) for cores in (1, 4)]
    reports = [trial.report for trial in trials]
    assert reports[0] is not None and reports[1] is not None
    assert reports[1].latency_s < reports[0].latency_s
    assert trials[1].arch["cores"] == {"conv1": 4, "conv2": 0, "fc": 0}
    with pytest.raises(MappingError, match="expected at most 4"):
        objective({"arch.cores.conv1": 8, "arch.split": "channels"})
