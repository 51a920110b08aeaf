"""The loihi machine equals the slow reference of a many-core chip, event by event and tick by tick, on random tiny networks."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloom.core.arch import Mapping
from spikeloom.core.counts import Counts
from spikeloom.hw.loihi import Loihi
from spikeloom.hw.loihi_arch import LoihiArch
from spikeloom.lower import lower
from tests.reference import manycore
from tests.reference.chip_networks import ChipCase, ChipEdges, ChipGroup
from tests.reference.manycore import OUTSIDE, Bill, Group, Synapse

CLASSES = ("dense", "sparse", "conv")


@st.composite
def chip_cases(draw: st.DrawFn) -> ChipCase:
    """A few groups, any edges between them (back, to themselves, parallel, from outside), on a few cores of a few tiles."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    tiles = draw(st.sampled_from(((0,), (0, 1), (0, 5, 31), tuple(range(32)))))
    cores = [(t, c) for t in tiles for c in draw(st.sampled_from(((0,), (0, 3), (0, 1, 2, 3))))]
    groups = []
    for n in range(draw(st.integers(1, 4))):
        size = draw(st.integers(1, 5))
        places = [cores[i] for i in rng.integers(0, len(cores), draw(st.integers(1, size)))]
        attributes: dict[str, Any] = {
            "bias": draw(st.sampled_from((0.0, 1.0, 0.3, -0.1))),
            "threshold": draw(st.sampled_from((0.5, 1.0, 0.7, 1e9))),
            "leak_decay": draw(st.sampled_from((1.0, 0.0, 0.9, 0.5))),
            "reset": draw(st.sampled_from((0.0, 0.0, 0.25, -1.0))),
            "reset_mode": draw(st.sampled_from(("hard", "soft"))),
            "force_update": draw(st.sampled_from((False, False, False, True))),
        }
        groups.append(ChipGroup(f"g{n}", size, attributes, places))
    num_steps, lines = draw(st.integers(1, 8)), draw(st.sampled_from((0, 0, 2)))
    sizes = {group.name: group.size for group in groups} | ({"input": lines} if lines else {})
    edges = []
    for _ in range(draw(st.integers(0, 4))):
        source, target = draw(st.sampled_from(sorted(sizes))), draw(st.sampled_from(groups)).name
        pairs = [
            (
                int(rng.integers(sizes[source])),
                int(rng.integers(sizes[target])),
                float(rng.choice((1.0, 0.25, -0.5, 0.1))),
            )
            for _ in range(draw(st.integers(1, 8)))
        ]
        edges.append(ChipEdges(source, target, pairs))
    spikes = (rng.random((num_steps, lines)) < 0.5).astype(np.uint8) if lines else None
    classes = {group.name: draw(st.sampled_from(CLASSES)) for group in groups} if draw(st.booleans()) else {}
    return ChipCase(groups, edges, num_steps, spikes, classes)


def as_reference(case: ChipCase, input_core: manycore.Core) -> tuple[list[Group], list[Synapse]]:
    """The case as the reference takes it; input_core: where the lines from outside stand."""
    groups = []
    if case.spikes is not None:
        lines = case.spikes.shape[1]
        groups.append(Group("input", [input_core] * lines, spikes=case.spikes.astype(bool).tolist()))
    for group in case.groups:
        cores = [(tile, core) for tile, core, first, last in group.runs() for _ in range(first, last)]
        groups.append(
            Group(
                group.name,
                cores,
                [float(bias) for bias in group.biases],
                group["threshold"],
                group["leak_decay"],
                group["reset"],
                group["reset_mode"] == "soft",
                group["force_update"],
                case.classes.get(group.name, "dense"),
            )
        )
    synapses = [Synapse(e.source, i, e.target, j, weight) for e in case.edges for i, j, weight in e.edges]
    return groups, synapses


def check(case: ChipCase, counts: Counts, bill: Bill, layers: dict[str, str], port: str) -> None:
    """Counts by group and the time of all steps; layers: group -> layer that has its neurons; port: who is billed for the input."""
    for layer in {*layers.values(), port}:
        got = counts.of(layer)
        groups = [group for group, own in layers.items() if own == layer]
        senders = groups + (["input"] if layer == port else [])
        expected = {
            "soma.access": sum(bill.access[group] for group in groups),
            "soma.update": sum(bill.update[group] for group in groups),
            "soma.spike_out": sum(bill.fired[group] for group in groups),
            "axon.out": sum(bill.messages[group] for group in senders),
            "router.hop_x": sum(bill.hops_x[group] for group in senders),
            "router.hop_y": sum(bill.hops_y[group] for group in senders),
        }
        for action, number in expected.items():
            assert got.get(action, 0) == number, (layer, action)
    assert counts.total("axon", "in") == bill.received == sum(bill.messages.values())
    for group, layer in layers.items():
        members = [name for name in counts.layers() if name == layer or name in _feeders(case, group)]
        events = sum(
            number for name in members for action, number in counts.of(name).items() if action.endswith("event")
        )
        assert events == bill.events[group], group
    assert counts.cycles == sum(bill.ticks)


def _feeders(case: ChipCase, group: str) -> set[str]:
    return {f"{group}.drive"} | {
        f"edges{n}.{k}" for n, edge in enumerate(case.edges) if edge.target == group for k in range(len(edge.edges))
    }


@settings(max_examples=150, deadline=None)
@given(chip_cases())
def test_groups_and_lists_of_edges_equal_the_reference(case: ChipCase) -> None:
    network = case.network()
    workload = lower(network, case.trace(network))
    layers = {group.name: case.layer_of(network, group.name) for group in case.groups}
    classes: Any = "dense"
    if case.classes:
        classes = {
            layer.name: case.classes[next(g for g in layers if layer.name in {*_feeders(case, g), layers[g]})]
            for layer in workload.layers
        }
    arch = LoihiArch(zero_weights="skipped", limits="warn", synapse_class=classes)
    machine = Loihi()
    counts = machine.count(workload, arch, Mapping("loihi", {}, case.placement(network)), threads=1)
    bill = manycore.run(*as_reference(case, OUTSIDE), case.num_steps)
    check(case, counts, bill, layers, port=workload.layers[0].name)
