"""The many-core chip on cases worked by hand: who gets a message, who is updated, when, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spikeloom.core.arch import Mapping
from spikeloom.core.counts import Counts
from spikeloom.core.network import Network, chain
from spikeloom.core.nodes import (
    IF,
    LI,
    Add,
    Conv2d,
    Delay,
    Flatten,
    Input,
    Linear,
    MaxPool2d,
    Node,
    Output,
    ReLU,
    SumPool2d,
)
from spikeloom.core.placement import Place, Placement
from spikeloom.core.trace import Arrival, Levels, Spikes, SpikeTrace
from spikeloom.core.workload import Layer, NeuronRule, Workload
from spikeloom.errors import ConfigError, MappingError, SpikeloomError
from spikeloom.evaluate import evaluate, load_machine
from spikeloom.files.placement import write_placement
from spikeloom.hw import HARDWARE
from spikeloom.hw.loihi_arch import DAVIES, LATENCIES_NS, LOIHI_PRESETS, SANAFE, LoihiArch
from spikeloom.hw.loihi_events import Counter
from spikeloom.hw.loihi_groups import chart_of, run_of
from spikeloom.hw.loihi_plan import plan_of
from spikeloom.hw.mesh import PORT
from spikeloom.lower import SYNTHETIC, lower

LOIHI = HARDWARE["loihi"]
#: Ticks of 0.1 ns of the default units: access, update, spike out, axon out, axon in, synapse; the barrier of 1, 2 and 4 tiles.
AC, UP, SO, AO, AI, SY = 60, 37, 300, 51, 160, 38
BARRIER = {1: 6000, 2: 10000, 4: 14000}


def spikes(*steps: list[int], shape: tuple[int, ...] | None = None) -> Spikes:
    """One sample from a row of neurons for every step."""
    made = np.array(steps, bool)[:, None]
    return Spikes.pack(made if shape is None else made.reshape(len(steps), 1, *shape))


def linear(name: str, arrival: Spikes, K: int, **more: Any) -> Layer:
    """A linear layer of IF neurons; weights are not known."""
    C = int(np.prod(arrival.shape))
    made = Layer(name, "linear", C, K, 1, 1, 1, 1, 1, 1, arrival.reshape((C, 1, 1)), neuron=NeuronRule("if"))
    for key in ("out", "updates"):
        if more.get(key) is not None:
            more[key] = more[key].reshape((K, 1, 1))
    return replace(made, **more)


def work(*layers: Layer, delay: int = 1) -> Workload:
    return Workload(layers, layers[0].num_steps, layers[0].num_samples, delay=delay)


def counted(workload: Workload, placement: Placement | None = None, **fields: Any) -> Counts:
    arch = LoihiArch(**fields)
    mapping = LOIHI.map(workload, arch) if placement is None else Mapping("loihi", placement=placement)
    return LOIHI.count(workload, arch, mapping, threads=1)


def total(counts: Counts, **expected: int) -> None:
    """Compare sums over layers by ``instance_action``."""
    found = {key: counts.total(*key.split("_", 1)) for key in expected}
    assert found == expected


def lone(name: str, tile: int, core: int, neurons: tuple[int, int] | None = None) -> Place:
    return Place(name, tile, core, neurons=neurons)


# --- events and time of small cases ---------------------------------------------------------------------------------


def two_layers() -> Workload:
    """Three inputs -> a (4 neurons) -> b (2), T = 3; every spike known, updates recorded."""
    first = spikes([1, 0, 1], [0, 0, 0], [1, 1, 1])
    a_out = spikes([0, 0, 0, 0], [1, 0, 0, 1], [0, 1, 0, 0])
    a_updates = spikes([0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0])
    b_out, b_updates = spikes([0, 0], [0, 0], [1, 0]), spikes([0, 0], [0, 0], [1, 1])
    a = linear("a", first, 4, out=a_out, updates=a_updates)
    return work(a, linear("b", a_out, 2, inputs=("a",), out=b_out, updates=b_updates))


def test_events_and_ticks_of_two_layers_on_three_cores() -> None:
    """a on cores 0 and 1, b on core 2, all on tile 0."""
    counts = counted(two_layers(), cores={"a": 2, "b": 1})
    assert counts.of("a") == {
        "soma.access": 12, "soma.update": 6, "soma.spike_out": 3,
        "axon.out": 5 * 2 + 3, "axon.in": 5 * 2, "synapse.event": 5 * 4,  # five input spikes to both cores of a
        "router.hop_x": 0, "router.hop_y": 0,
    }  # fmt: skip
    assert counts.of("b") == {"soma.access": 6, "soma.update": 2, "soma.spike_out": 1, "axon.in": 3, "synapse.event": 6}
    steps = [
        max(2 * AC, 2 * AI + 2 * 2 * SY, 4 * AO),  # two input spikes: receiving, or what the port sends
        max(2 * AC + 2 * UP + SO + AO, 2 * AI + 2 * 2 * SY),  # a fires on both cores; b receives two messages
        max(2 * AC + 2 * UP + SO + AO, 3 * AI + 3 * 2 * SY, 6 * AO, 2 * AC + 2 * UP + SO),
    ]
    assert counts.cycles == sum(steps) + 3 * BARRIER[1] == sum(counts.layer_cycles.values())
    assert counts.layer_cycles == {"a": counts.cycles, "b": 0}  # of equal shares the first counts
    assert (counts.statistics["", "cores"], counts.statistics["", "tiles"]) == (3, 1)


def test_a_step_goes_to_the_layer_that_bounds_it() -> None:
    """b alone on a far tile, with many neurons to look at."""
    base = two_layers()
    wide = replace(base.layers[1], K=40, out=spikes(*[[0] * 40] * 3, shape=(40, 1, 1)), updates=None, has_bias=True)
    counts = counted(replace(base, layers=(base.layers[0], wide)), cores={"a": 1, "b": 1})
    assert counts.cycles == 3 * (40 * (AC + UP) + BARRIER[1])
    assert counts.layer_cycles == {"a": 0, "b": counts.cycles}


@pytest.mark.parametrize("kind", ["linear", "add"])
def test_a_layer_that_hears_two_has_one_share_of_a_core(kind: str) -> None:
    """On one core: a and b (4 each) -> d, and c (5) alone; all of them hear 4 inputs, and all but c and d fire. What d hears from
    one of its sources is less than what another layer receives, from both it is more."""
    every, three = spikes([1] * 4), spikes([0] * 3)
    a, b = (linear(name, every, 4, out=every) for name in "ab")
    c = linear("c", every, 5, out=spikes([0] * 5))
    both = Levels(np.full((1, 1, 4), 2, np.uint8), 2)
    d = replace(linear("d", every, 3, out=three, inputs=("a", "b")), arrival=both.reshape((4, 1, 1)))
    if kind == "add":
        d = replace(d, kind="add", K=4, groups=4, out=every.reshape((4, 1, 1)))
        c = replace(c, K=1, out=spikes([0], shape=(1, 1, 1)))
    one = Placement(tuple(lone(name, 0, 0) for name in "abcd"))
    slow = {"synapse_ns": 3.8, "axon_in_ns": 100.0} if kind == "add" else {"synapse_ns": 100.0, "axon_in_ns": 16.0}
    counts = counted(work(a, b, c, d), one, **slow)
    assert counts.layer_cycles == {"a": 0, "b": 0, "c": 0, "d": counts.cycles}


def test_hops_follow_the_placement_and_the_own_core_gets_a_message_too() -> None:
    placement = Placement((lone("a", 0, 0, (0, 2)), lone("a", 31, 3, (2, 4)), lone("b", 31, 3)))
    counts = counted(two_layers(), placement)
    # inputs from tile 0: five spikes to tile 0 and five to tile 31; a's spikes: neurons 0 and 1 go far, 3 stays
    total(counts, axon_out=13, axon_in=13, router_hop_x=7 * 7, router_hop_y=3 * 7)
    assert counts.cycles > 3 * BARRIER[2] and counts.statistics["", "tiles"] == 2


def test_a_spike_pays_without_a_target() -> None:
    alone = work(linear("a", spikes([0], [0]), 1, out=spikes([1], [1]), updates=spikes([1], [1])))
    counts = counted(alone)
    total(counts, soma_access=2, soma_update=2, soma_spike_out=2, axon_out=0)
    assert counts.cycles == 2 * (AC + UP + SO + BARRIER[1])
    assert evaluate(alone, LoihiArch()).energy_j == pytest.approx(2 * (51.2 + 21.6 + 69.3) * 1e-12, rel=1e-12)


def test_samples_follow_one_another() -> None:
    one = two_layers()

    def doubled(x: Spikes | None) -> Spikes:
        assert x is not None
        return replace(x, packed=np.repeat(x.packed, 2, axis=1))

    layers = []
    for layer in one.layers:
        assert isinstance(layer.arrival, Spikes)
        layers.append(
            replace(layer, arrival=doubled(layer.arrival), out=doubled(layer.out), updates=doubled(layer.updates))
        )
    twice = Workload(tuple(layers), 3, 2, delay=1)
    assert counted(twice).cycles == 2 * counted(one).cycles
    assert counted(twice).actions == {key: 2 * n for key, n in counted(one).actions.items()}


def test_units_of_the_paper() -> None:
    arch = LoihiArch(**LOIHI_PRESETS[DAVIES])  # type: ignore[arg-type]
    report = evaluate(two_layers(), arch)
    counts = counted(two_layers(), **LOIHI_PRESETS[DAVIES])
    events, messages = counts.total("synapse", "event"), counts.total("axon", "out")
    assert report.energy_j == pytest.approx((18 * 52 + 8 * 29 + events * 23.6 + messages * 1.7) * 1e-12, rel=1e-12)
    assert [arch.barrier_ticks(tiles) for tiles in (1, 2, 32, 99)] == [1130, 1244, 4650, 4650]
    assert [LoihiArch().barrier_ticks(tiles) for tiles in (1, 2, 3, 4, 28, 29, 32, 99)] == [
        6000, 10000, 10000, 14000, 14000, 18000, 18000, 18000,
    ]  # fmt: skip


def test_synapse_classes_belong_to_the_target_layer() -> None:
    counts = counted(two_layers(), synapse_class={"a": "conv", "b": "sparse"})
    assert counts.of("a")["synapse.conv_event"] == 20 and counts.of("b")["synapse.sparse_event"] == 6
    report = evaluate(two_layers(), LoihiArch(synapse_class={"a": "conv", "b": "sparse"}))
    assert report.by("component")["synapse"] == pytest.approx((20 * 24.0 + 6 * 33.6) * 1e-12, rel=1e-12)
    # last step: three input spikes arrive at the core of a, four synapses of 3.1 ns each
    slow = counted(two_layers(), spike_out_ns=0, access_ns=0, synapse_class={"a": "conv", "b": "sparse"})
    assert slow.cycles == (2 * (AI + 4 * 31)) + max(2 * (AI + 2 * 47), 4 * UP + 2 * AO) + 3 * (AI + 4 * 31) + 3 * 6000


# --- convolutions, splits, orders -----------------------------------------------------------------------------------


def conv_pair(**fields: Any) -> Workload:
    """A map of 2 x 4 x 4 that arrives from a, into a 3x3 convolution b with 2 outputs (2 x 2 x 2); one spike at (1, 1, 1)."""
    out = np.zeros((1, 1, 2, 4, 4), bool)
    out[0, 0, 1, 1, 1] = True
    sent = Spikes.pack(out)
    a = Layer("a", "conv2d", 2, 2, 4, 4, 1, 1, 4, 4, Spikes.pack(np.zeros_like(out)), neuron=NeuronRule("if"), out=sent)
    a = replace(a, weight=np.ones((2, 2, 1, 1), np.int8))
    b = Layer("b", "conv2d", 2, 2, 4, 4, 3, 3, 2, 2, sent, neuron=NeuronRule("li"), inputs=("a",), **fields)
    return work(a, b)


@pytest.mark.parametrize(
    ("split", "cores", "messages"), [("channels", 2, 2), ("rows", 2, 2), ("neurons", 4, 4), ("neurons", 8, 8)]
)
def test_a_spike_in_the_middle_reaches_every_part(split: str, cores: int, messages: int) -> None:
    """(1, 1) lies under all four windows of both output channels."""
    counts = counted(conv_pair(), cores={"a": 1, "b": cores}, split=split)
    assert (counts.of("a")["axon.out"], counts.of("b")["synapse.event"]) == (messages, 8)


def test_padding_makes_no_synapse_and_a_corner_reaches_few() -> None:
    base = conv_pair()
    corner = np.zeros((1, 1, 2, 4, 4), bool)
    corner[0, 0, 0, 0, 0] = True
    sent = Spikes.pack(corner)
    a = replace(base.layers[0], out=sent)
    b = replace(base.layers[1], arrival=sent, padding=(1, 1), P=4, Q=4)
    counts = counted(work(a, b), cores={"a": 1, "b": 4}, split={"a": "neurons", "b": "rows"})
    # rows 0 and 1 of the output hear the corner, two positions each, in both channels
    assert (counts.of("a")["axon.out"], counts.of("b")["synapse.event"]) == (2, 8)


def test_neurons_are_counted_channel_by_channel_or_position_by_position() -> None:
    """Eight neurons of b on two cores: in chw one channel each; in hwc the upper and the lower row."""
    low = np.zeros((1, 1, 2, 4, 4), bool)
    low[0, 0, 0, 3, 3] = True  # under the last window alone
    sent = Spikes.pack(low)
    base = conv_pair()
    both = work(replace(base.layers[0], out=sent), replace(base.layers[1], arrival=sent))
    chw = Placement((lone("a", 0, 0), lone("b", 0, 1, (0, 4)), lone("b", 0, 2, (4, 8))))
    hwc = Placement((lone("a", 0, 0), *(replace(place, order="hwc") for place in chw.places[1:])))
    assert counted(both, chw).of("a")["axon.out"] == 2
    assert counted(both, hwc).of("a")["axon.out"] == 1
    assert counted(both, hwc).of("b")["synapse.event"] == counted(both, chw).of("b")["synapse.event"] == 2


def test_a_weight_of_0_is_a_synapse_unless_skipped() -> None:
    weight = np.zeros((2, 2, 3, 3), np.int8)
    weight[0, 1] = 5  # output channel 0 alone hears channel 1
    kept, skipped = (
        counted(conv_pair(weight=weight), cores={"a": 1, "b": 2}, split="channels", zero_weights=how)
        for how in ("stored", "skipped")
    )
    assert (kept.of("a")["axon.out"], kept.of("b")["synapse.event"], kept.of("b")["soma.update"]) == (2, 8, 0)
    assert (skipped.of("a")["axon.out"], skipped.of("b")["synapse.event"]) == (1, 4)
    others = np.roll(weight, 1, axis=1)  # of the same shape: the plan of the first must not serve
    assert counted(conv_pair(weight=others), cores={"a": 1, "b": 2}, zero_weights="skipped").total("axon", "out") == 0


def test_cores_fill_in_order_without_regard_to_tiles() -> None:
    arrival = Spikes.pack(np.zeros((1, 1, 8), bool))
    layers = (linear("a", arrival, 2049, out=Spikes.pack(np.zeros((1, 1, 2049), bool))),)
    mapping = LOIHI.map(work(*layers), LoihiArch())
    assert mapping.placement is not None
    assert [(p.tile, p.core, p.neurons) for p in mapping.placement.places] == [
        (0, 0, (0, 683)), (0, 1, (683, 1366)), (0, 2, (1366, 2049)),
    ]  # fmt: skip
    # 8191 neurons on 8 cores of 1024 would leave 1030 for the last one
    wide = linear("a", arrival, 8191, out=Spikes.pack(np.zeros((1, 1, 8191), bool)))
    mapping = LOIHI.map(work(wide), LoihiArch())
    assert mapping.placement is not None and len(mapping.placement.places) == 9
    assert mapping.placement.places[-1].tile == 2


# --- networks that are no chains ------------------------------------------------------------------------------------


def recurrent() -> Workload:
    """in -> ff -> lif -> fc, and lif -> Delay -> rec -> lif; two neurons behind both; T = 3."""
    nodes: dict[str, Node] = {
        "in": Input((2,)), "ff": Linear(2, 2), "lif": IF(), "delay": Delay(1), "rec": Linear(2, 2), "fc": Linear(2, 3), "li": LI(),
    }  # fmt: skip
    edges = (
        ("in", "ff"), ("ff", "lif"), ("lif", "delay"), ("delay", "rec"), ("rec", "lif"), ("lif", "fc"), ("fc", "li"),
    )  # fmt: skip
    sent, back = spikes([1, 0], [1, 1], [0, 0]), spikes([0, 0], [1, 0], [1, 1])
    arrivals: dict[str, Arrival] = {"ff": spikes([1, 1], [0, 0], [1, 0]), "rec": back, "fc": sent}
    return lower(Network(nodes, edges), SpikeTrace(3, 1, arrivals))


def test_forward_and_recurrent_synapses_reach_the_same_neurons() -> None:
    base = recurrent()
    assert [layer.name for layer in base.layers] == ["ff", "rec", "fc"]
    counts = counted(base, cores={"ff": 1, "rec": 1, "fc": 3})
    # rec has the neurons; a spike goes to their own core and to the three of fc
    assert "soma.access" not in counts.of("ff")
    assert counts.of("rec")["soma.access"] == 2 * 5 and counts.of("fc")["soma.access"] == 3 * 5  # T = 3, depth 2
    assert (counts.of("rec")["soma.spike_out"], counts.of("rec")["axon.out"]) == (3, 12)
    assert (counts.of("rec")["axon.in"], counts.of("rec")["synapse.event"]) == (3, 6)
    assert (counts.of("fc")["axon.in"], counts.of("fc")["synapse.event"]) == (9, 9)
    assert (counts.of("ff")["axon.out"], counts.of("ff")["axon.in"], counts.of("ff")["synapse.event"]) == (3, 3, 6)
    assert counts.of("rec")["soma.update"] == 2 + 2 + 2  # forward in steps 0 and 2, back in steps 1 and 2


def test_one_message_serves_several_layers_on_a_core() -> None:
    together = Placement((lone("rec", 0, 0), lone("fc", 0, 0, (0, 1)), lone("fc", 5, 0, (1, 3))))
    counts = counted(recurrent(), together)
    assert counts.of("rec")["axon.out"] == 3 * 2  # own core, with a neuron of fc on it, and tile 5
    assert (counts.of("rec")["axon.in"], counts.of("fc")["axon.in"]) == (3, 3)  # booked on the first layer there
    assert (counts.of("rec")["synapse.event"], counts.of("fc")["synapse.event"]) == (6, 9)


def residual(neuron_before_add: bool) -> Workload:
    """in -> a -> (lif) -> b (-> lif) -> add -> lif, with a skip from a's neurons to the sum; two neurons each; T = 2."""
    nodes: dict[str, Node] = {"in": Input((2,)), "a": Linear(2, 2), "na": IF(), "b": Linear(2, 2)}
    edges = [("in", "a"), ("a", "na"), ("na", "b")]
    if neuron_before_add:
        nodes["nb"] = IF()
        edges.append(("b", "nb"))
    nodes |= {"add": Add(), "n": IF(), "fc": Linear(2, 1), "li": LI()}
    edges += [("nb" if neuron_before_add else "b", "add"), ("na", "add"), ("add", "n"), ("n", "fc"), ("fc", "li")]
    a_out, b_out, n_out = spikes([1, 0], [1, 1]), spikes([0, 1], [0, 0]), spikes([1, 0], [0, 0])
    sums = Levels(np.array([[[1, 1]], [[1, 1]]], np.uint8), 2)
    arrivals: dict[str, Arrival] = {"a": spikes([1, 1], [1, 1]), "b": a_out, "add": sums, "fc": n_out}
    return lower(Network(nodes, tuple(edges)), SpikeTrace(2, 1, arrivals, {"b": b_out} if neuron_before_add else {}))


def test_an_add_of_spikes_is_a_group_with_one_synapse_from_each() -> None:
    counts = counted(residual(True), cores={"a": 1, "b": 1, "add": 2, "fc": 1})
    assert counts.of("a")["axon.out"] == 4 * 1 + 3 * 2  # four inputs; three spikes to b and each to one half of the sum
    assert counts.of("b")["axon.out"] == 1
    assert counts.of("add") == {
        "soma.access": 2 * 6, "soma.update": 4, "soma.spike_out": 1, "axon.in": 4, "synapse.event": 4, "axon.out": 1,
        "router.hop_x": 0, "router.hop_y": 1,  # fc is on core 4, tile 1
    }  # fmt: skip
    assert counts.statistics["", "steps"] == 2 + 4  # a 1, b 2, add 3, fc 4: the longest way counts


def test_sums_that_meet_in_an_add_reach_its_neurons() -> None:
    counts = counted(residual(False), cores={"a": 1, "b": 2, "add": 2, "fc": 1})
    assert "soma.access" not in counts.of("b") and counts.statistics["", "cores"] == 4
    assert (counts.of("b")["synapse.event"], counts.of("add")["synapse.event"]) == (6, 3)
    # a's spike reaches both cores through b, one of them also through the skip: two messages, booked on b
    assert (counts.of("a")["axon.out"], counts.of("b")["axon.in"], counts.of("add")["axon.in"]) == (4 + 6, 6, 0)
    with pytest.raises(MappingError, match="'add': has the neurons of b, add together; give them one value of cores"):
        counted(residual(False), cores={"a": 1, "b": 1, "add": 2, "fc": 1})


def pooled() -> Workload:
    """a (1 x 5 x 5) -> 2x2 sum pool -> fc of 3; spikes at (0, 0) and (4, 4), which the pool leaves out."""
    nodes: dict[str, Node] = {
        "in": Input((1, 5, 5)), "a": Conv2d(1, 1, (1, 1)), "n": IF(), "pool": SumPool2d((2, 2), (2, 2)),
        "flat": Flatten(), "fc": Linear(4, 3), "li": LI(),
    }  # fmt: skip
    sent = np.zeros((1, 1, 1, 5, 5), bool)
    sent[..., 0, 0] = sent[..., 4, 4] = True
    sums = Levels(np.array([[[1, 0, 0, 0]]], np.uint8), 3)
    arrivals: dict[str, Arrival] = {"a": Spikes.pack(np.zeros_like(sent)), "pool": Spikes.pack(sent), "fc": sums}
    return lower(chain("pooled", nodes), SpikeTrace(1, 1, arrivals))


def test_pools_are_synapses_from_the_unpooled_map() -> None:
    counts = counted(pooled(), cores={"a": 1, "fc": 3})
    assert counts.of("a")["soma.spike_out"] == 2 and counts.of("a")["axon.out"] == 3
    assert counts.of("fc")["synapse.event"] == 3 and "pool" not in counts.layer_cycles


# --- steps of the trace and of the chip -----------------------------------------------------------------------------


def test_without_delay_every_layer_works_a_step_later() -> None:
    base = replace(two_layers(), delay=0)
    shifted, as_it_is = counted(base, cores=1), counted(base, cores=1, delay="recorded")
    assert (shifted.statistics["", "steps"], as_it_is.statistics["", "steps"]) == (5, 3)
    assert as_it_is.cycles == counted(two_layers(), cores=1).cycles
    total(shifted, soma_access=6 * 5, soma_update=8, axon_out=5 + 3)
    steps = [  # inputs at once, a's spikes a step later, b's two
        max(4 * AC, 2 * (AI + 4 * SY)),
        4 * AC,
        max(4 * AC + 4 * UP + 2 * SO + 2 * AO, 3 * (AI + 4 * SY), 2 * (AI + 2 * SY)),
        4 * AC + 2 * UP + SO + AO,
        max(4 * AC, 2 * AC + 2 * UP + SO),
    ]
    assert shifted.cycles == sum(steps) + 5 * BARRIER[1]
    with pytest.raises(MappingError, match="one step after it is sent already"):
        counted(two_layers(), delay="shift")


def test_a_loop_through_two_groups_is_noted() -> None:
    one, other = spikes([1, 0], [0, 1]), spikes([0, 1], [1, 0])
    a = linear("a", Spikes.pack(np.zeros((2, 1, 2), bool)), 2, inputs=("b", "ff"), out=one)
    ff = linear("ff", spikes([1, 1], [0, 0]), 2, out=other)
    loop = work(ff, a, linear("b", one, 2, inputs=("a",), out=other), delay=0)
    assert any("what b sends back arrives later" in said for said in counted(loop).warnings)
    assert not any("sends back" in said for said in counted(replace(loop, delay=1)).warnings)


# --- updates that the trace does not hold ---------------------------------------------------------------------------


def without_updates(workload: Workload) -> Workload:
    return replace(workload, layers=tuple(replace(layer, updates=None) for layer in workload.layers))


def test_unrecorded_updates_are_where_a_spike_acts() -> None:
    chip, recorder = without_updates(two_layers()), replace(without_updates(two_layers()), delay=0)
    # input spikes in steps 0 and 2; with delay that of the last step is lost
    assert [counted(each).of("a")["soma.update"] for each in (chip, recorder)] == [4, 8]
    assert [counted(each).of("b")["soma.update"] for each in (chip, recorder)] == [2, 4]
    assert any("updates of a, b are not in the trace" in said for said in counted(chip).warnings)
    assert not any("updates of" in said for said in counted(two_layers()).warnings)


def test_a_bias_updates_every_neuron_in_every_step() -> None:
    a, b = without_updates(two_layers()).layers
    counts = counted(work(replace(a, has_bias=True), b))
    assert counts.of("a")["soma.update"] == 12
    assert any("updates of b are" in said for said in counts.warnings)


# --- the input -------------------------------------------------------------------------------------------------------


def test_a_bias_of_0_updates_no_neuron() -> None:
    base = two_layers()
    a, b = base.layers[0], replace(base.layers[1], updates=None, has_bias=True)

    def said(bias: list[float] | None) -> tuple[int, tuple[str, ...]]:
        values = None if bias is None else np.array(bias).reshape(2, 1, 1)
        counts = counted(work(a, replace(b, bias=values)))
        return counts.of("b")["soma.update"], tuple(
            x for x in counts.warnings if "updates of b" in x or "biases of b" in x
        )

    # both neurons of b get spikes in step 2, from those that a fires in step 1
    assert [said(bias)[0] for bias in (None, [1, 1], [0, -2], [0, 0])] == [6, 6, 3 + 1, 2]
    assert "not in the trace and taken to act on all neurons" in said(None)[1][0] and len(said(None)[1]) == 1
    assert said([1, 1])[1] == ()
    assert all("a lower bound" in said(bias)[1][0] for bias in ([0.0, -2.0], [0.0, 0.0]))
    recorded = counted(work(a, replace(b, updates=base.layers[1].updates)))
    assert not any("biases" in x for x in recorded.warnings)


def test_biases_of_layers_that_reach_the_same_neurons_add_up() -> None:
    base = recurrent()
    ff, rec, fc = base.layers
    one, other = np.array([1.0, 2.0]).reshape(2, 1, 1), np.array([-1.0, 2.0]).reshape(2, 1, 1)
    ff, rec = replace(ff, has_bias=True, bias=one), replace(rec, has_bias=True, bias=other)
    silent = Spikes.pack(np.zeros((3, 1, 2, 1, 1), bool))
    layers = tuple(replace(x, arrival=silent, out=silent if x.name == "rec" else None) for x in (ff, rec, fc))
    counts = counted(replace(base, layers=layers))
    assert counts.of("rec")["soma.update"] == 3  # of the second neuron alone


def test_the_port_takes_time_to_send_and_has_no_soma() -> None:
    """One input that fires once, to a layer on three cores: the port sends three messages while each core receives one."""
    slow = {"axon_in_ns": 0.0, "synapse_ns": 0.0, "access_ns": 0.0, "axon_out_ns": 1000.0, "update_ns": 0.0}
    silent = Spikes.pack(np.zeros((1, 1, 3), bool))
    counts = counted(work(linear("a", spikes([1]), 3, out=silent)), cores=3, **slow)
    assert counts.cycles == 3 * 10000 + BARRIER[1]
    total(counts, soma_access=3, axon_out=3, axon_in=3, synapse_event=3)


def test_input_neurons_on_cores_are_placed_and_paid() -> None:
    counts = counted(two_layers(), cores={"input": 1, "a": 2, "b": 1}, input_on_chip=True)
    assert counts.layers() == ("input", "a", "b")
    assert counts.of("input") == {
        "soma.access": 9, "soma.update": 5, "soma.spike_out": 5, "axon.out": 10, "router.hop_x": 0, "router.hop_y": 0,
    }  # fmt: skip
    assert counts.of("a")["axon.out"] == 3 and counts.of("a")["synapse.event"] == 20
    report = evaluate(two_layers(), LoihiArch(input_on_chip=True))
    assert [layer.synops for layer in report.layers] == [0, 20, 6]


def test_layers_that_hear_the_same_input_share_its_messages() -> None:
    first = spikes([1, 1])
    silent = Spikes.pack(np.zeros((1, 1, 2), bool))
    a, b = (linear(name, first, 2, out=silent, inputs=()) for name in ("a", "b"))
    c = linear("c", silent, 2, inputs=("a",), out=silent)
    placement = Placement(tuple(lone(name, 0, core) for name, core in (("a", 0), ("b", 0), ("c", 1))))
    counts = counted(work(a, b, c), placement)
    total(counts, axon_out=2, axon_in=2, synapse_event=8)
    other = replace(b, arrival=spikes([1, 0]).reshape((2, 1, 1)))
    total(counted(work(a, other, c), placement), axon_out=3, axon_in=3, synapse_event=6)
    with pytest.raises(MappingError, match="'b': hears another input than 'a'"):
        counted(work(a, other, c), input_on_chip=True)


def pixels(kernel: int, groups: int) -> Workload:
    values = np.zeros((3, 1, 2, 4, 4), np.uint8)
    values[:, 0, 0, 1, 1] = values[:, 0, 1, 2, 2] = 9
    size = 4 - kernel + 1
    out = Spikes.pack(np.zeros((3, 1, 2, size, size), bool))
    layer = Layer(
        "a", "conv2d", 2, 2, 4, 4, kernel, kernel, size, size, Levels(values, 8, analog=True), groups=groups,
        neuron=NeuronRule("if"), out=out,
    )  # fmt: skip
    return Workload((layer,), 3, 1, delay=1)


def test_pixels_are_biases_one_by_one() -> None:
    counts = counted(pixels(1, 2))
    assert counts.of("a") == {"soma.access": 96, "soma.update": 2 * 3, "soma.spike_out": 0}
    assert counts.statistics["", "steps"] == 3
    with pytest.raises(MappingError, match="'a': hears pixels"):
        counted(pixels(3, 1))
    elsewhere = counted(pixels(3, 1), analog_input="bias")
    assert elsewhere.of("a") == {"soma.access": 24, "soma.update": 24, "soma.spike_out": 0}
    assert any("144 multiply-accumulates" in said for said in elsewhere.warnings)  # 2 * 2 * 9 * 4


def test_a_drawn_workload_is_a_chain_where_maps_fit() -> None:
    first = spikes([1, 1, 1])
    a, b = linear("a", first, 4), linear("b", spikes([1, 0, 1, 0]), 2)
    chained = counted(replace(work(a, b), warnings=(SYNTHETIC,), drawn=True), cores=1)
    assert chained.of("a")["soma.spike_out"] == 2 and chained.of("a")["axon.out"] == 3 + 2
    c = linear("c", spikes([1, 0, 1, 0, 1]), 2)
    apart = counted(replace(work(a, c), drawn=True), cores=1)
    assert any("nothing says what feeds c" in said for said in apart.warnings)
    assert any("output spikes of a, c are not in the trace" in said for said in apart.warnings)
    assert apart.of("c")["axon.out"] == 3  # a port of its own


def test_layers_of_a_trace_that_name_no_inputs_hear_the_input() -> None:
    """As many neurons as inputs, and silent: still nobody says that b hears a."""
    heard, silent = spikes([1, 1, 0], [0, 1, 0]), Spikes.pack(np.zeros((2, 1, 3), bool))
    a, b = (linear(name, heard, 3, out=silent) for name in "ab")
    for more in ({}, {"input_on_chip": True}):
        counts = counted(work(a, b), cores=1, **more)
        total(counts, axon_out=3 * 2, synapse_event=3 * 3 * 2)
        assert counts.of("b")["axon.in"] == 3
        assert not any("feeds" in said for said in counts.warnings)


def test_a_pool_that_folds_leaves_its_listener_with_the_input() -> None:
    """a (1 x 4 x 4 to as many) and pool -> b hear the same input: only b names inputs, and the pool is gone."""
    nodes: dict[str, Node] = {
        "in": Input((1, 4, 4)), "a": Conv2d(1, 1, (1, 1)), "n": IF(), "pool": SumPool2d((2, 2), (2, 2)), "flat": Flatten(),
        "b": Linear(4, 16), "m": IF(), "sum": Add(), "k": IF(), "out": Output((16,)), "af": Flatten(),
    }  # fmt: skip
    edges = (
        ("in", "a"), ("a", "n"), ("in", "pool"), ("pool", "flat"), ("flat", "b"), ("b", "m"),
        ("n", "af"), ("af", "sum"), ("m", "sum"), ("sum", "k"), ("k", "out"),
    )  # fmt: skip
    sent = Spikes.pack(np.ones((1, 1, 1, 4, 4), bool))
    silent = Spikes.pack(np.zeros((1, 1, 16), bool))
    arrivals: dict[str, Arrival] = {
        "a": sent, "pool": sent, "b": Levels(np.full((1, 1, 4), 4, np.uint8), 3),
        "sum": Levels(np.zeros((1, 1, 16), np.uint8), 2),
    }  # fmt: skip
    outputs = {"a": silent.reshape((1, 4, 4)), "b": silent, "sum": silent}
    whole = lower(Network(nodes, edges), SpikeTrace(1, 1, arrivals, outputs))
    first = tuple(replace(layer, out=None) for layer in whole.layers if layer.name != "sum")
    assert all(layer.inputs == () for layer in LOIHI.runs(replace(whole, layers=first), LoihiArch()).layers)
    counts = counted(replace(whole, layers=first), cores=1)
    assert (counts.of("a")["axon.in"], counts.of("b")["axon.in"], counts.of("b")["synapse.event"]) == (16, 16, 256)
    assert counts.statistics["", "steps"] == 1 + 1


def parted(shape: tuple[int, ...], arrival: Arrival) -> Workload:
    """1 x 5 x 5 inputs, all of which fire -> 2x2 sum pool, which leaves 9 out -> b of 3; the same inputs -> d, as `shape` has them."""
    nodes: dict[str, Node] = {
        "in": Input((1, 5, 5)), "df": Flatten(), "pool": SumPool2d((2, 2), (2, 2)), "flat": Flatten(), "b": Linear(4, 3), "m": IF(),
        "d": Linear(25, 2) if len(shape) == 1 else Conv2d(1, 1, (1, 1)), "n": IF(), "out": Output((3,)),
    }  # fmt: skip
    front = (("in", "df"), ("df", "d")) if len(shape) == 1 else (("in", "d"),)
    edges = (*front, ("d", "n"), ("in", "pool"), ("pool", "flat"), ("flat", "b"), ("b", "m"), ("m", "out"))
    if len(shape) > 1:
        del nodes["df"]
    whole = Spikes.pack(np.ones((2, 1, 1, 5, 5), bool))
    sums = Levels(np.full((2, 1, 4), 4, np.uint8), 3)
    return lower(Network(nodes, edges), SpikeTrace(2, 1, {"d": arrival, "pool": whole, "b": sums}))


@pytest.mark.parametrize("shape", [(1, 5, 5), (25,)])
def test_inputs_that_a_pool_leaves_out_are_inputs_of_other_layers(shape: tuple[int, ...]) -> None:
    """One core: an input that both layers hear is one message."""
    workload = parted(shape, Spikes.pack(np.ones((2, 1, *shape), bool)))
    for layers in (workload.layers, workload.layers[::-1]):
        order = replace(workload, layers=tuple(sorted(layers, key=lambda x: (x.name == "b", layers.index(x)))))
        whole = Placement((lone("b", 0, 0), lone("d", 0, 0)))
        counts = counted(order, whole)
        total(counts, axon_out=2 * 25, axon_in=2 * 25)
        targets = 25 * 2 if len(shape) == 1 else 25
        assert counts.of("b")["synapse.event"] == 2 * 16 * 3 and counts.of("d")["synapse.event"] == 2 * targets
        counts = counted(order, Placement((*whole.places, lone("input", 1, 0))), input_on_chip=True)
        assert counts.of("input") == {
            "soma.access": 25 * 3, "soma.update": 2 * 25, "soma.spike_out": 2 * 25, "axon.out": 2 * 25, "router.hop_x": 0,
            "router.hop_y": 2 * 25,
        }  # fmt: skip
    other = parted(shape, Spikes.pack(np.arange(50).reshape((2, 1, *shape)) > 0))
    total(counted(other, whole), axon_out=2 * 16 + 49)


def test_two_layers_on_the_input_whose_sums_meet() -> None:
    nodes: dict[str, Node] = {"in": Input((3,)), "a": Linear(3, 3), "b": Linear(3, 3), "n": IF(), "out": Output((3,))}
    edges = (("in", "a"), ("in", "b"), ("a", "n"), ("b", "n"), ("n", "out"))
    heard = spikes([1, 0, 1])
    outputs = {"b": spikes([0, 0, 0])}
    counts = counted(lower(Network(nodes, edges), SpikeTrace(1, 1, {"a": heard, "b": heard}, outputs)), cores=1)
    total(counts, axon_out=2, axon_in=2, synapse_event=2 * 3 * 2, soma_access=3 * 2)


# --- several chips ----------------------------------------------------------------------------------------------------


def test_messages_between_chips_pay_the_link() -> None:
    """Chips of one core: a on chips 0 and 1, b on chip 2."""
    tiny = {"chips": 3, "rows": 1, "columns": 1, "cores_per_tile": 1}
    counts = counted(two_layers(), cores={"a": 2, "b": 1}, **tiny)
    # inputs to chip 1: five boundaries; a's neurons 0 and 1 cross two to b, neuron 3 one
    total(counts, link_message=5 + 2 + 2 + 1, router_hop_x=10, router_hop_y=0)
    report = evaluate(two_layers(), LoihiArch(cores={"a": 2, "b": 1}, **tiny))  # type: ignore[arg-type]
    assert report.by("component")["link"] == pytest.approx(10 * 32 * 1.17e-12, rel=1e-12)
    assert any("not published" in said for said in report.warnings)
    assert report.area == {"chip": pytest.approx(3 * 60e-6)}


def test_power_that_no_event_pays_for() -> None:
    quiet, loud = (
        evaluate(two_layers(), LoihiArch(**more)) for more in ({}, {"static": "frady2020", "host": "blouw2018"})
    )  # type: ignore[arg-type]
    assert quiet.latency_s == loud.latency_s
    added = loud.energy_j - quiet.energy_j
    assert added == pytest.approx((104e-3 + 76.2e-3) * loud.latency_s, rel=1e-9)
    half = evaluate(two_layers(), LoihiArch(static="blouw2018", chips=2))
    assert half.by("component")["chip leakage"] == pytest.approx(2 * 29.6e-3 * half.latency_s, rel=1e-12)


# --- traffic ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [two_layers, recurrent, lambda: residual(True), pooled])
def test_traffic_adds_up_to_what_is_counted(make: Any) -> None:
    workload, arch = make(), LoihiArch(compartments=1, limits="warn")
    run = run_of(workload, arch)
    chart = chart_of(run, arch)
    placement = LOIHI.map(workload, arch).placement
    assert placement is not None
    counter = Counter(chart, plan_of(chart, placement, arch), arch)
    traffic = counter.traffic(0, counter.events(0))
    counts = counted(workload, compartments=1, limits="warn")
    assert traffic.num_steps == chart.num_steps and traffic.cores_M[0] == PORT
    assert traffic.messages_TF.sum() == counts.total("axon", "out")
    assert traffic.updated_TM.sum() == counts.total("soma", "update")
    assert traffic.fired_TM.sum() == counts.total("soma", "spike_out")
    receive_TM = np.zeros_like(traffic.receive_TM)
    for f, target in enumerate(traffic.flow_target_F):
        receive_TM[:, np.searchsorted(traffic.cores_M, target)] += traffic.receive_TF[:, f]
    assert (receive_TM == traffic.receive_TM).all()
    bound_T = np.maximum(traffic.generate_TM.max(axis=1), traffic.receive_TM.max(axis=1))
    tiles = counts.statistics["", "tiles"]
    assert bound_T.sum() + traffic.num_steps * arch.barrier_ticks(tiles) == counts.cycles
    dx, dy = arch.mesh.hops(traffic.flow_source_F, traffic.flow_target_F)
    assert (traffic.messages_TF @ dx).sum() == counts.total("router", "hop_x")
    assert (traffic.messages_TF @ dy).sum() == counts.total("router", "hop_y")


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"units": DAVIES}, "never mixed"),
        ({"table": DAVIES}, "never mixed"),
        ({"table": "sata28"}, "never mixed"),
        ({"axon_out_ns": 2.1}, r"axon_out_ns: got 2\.1, which is that of loihi-davies2018"),
        ({"access_ns": 1.23}, r"access_ns: got 1\.23 ns, expected whole ticks"),
        ({"synapse_ns": 3.85}, r"synapse_ns: got 3\.85 ns, expected whole ticks"),
        ({"synapse_ns": -0.5}, "synapse_ns"),
        ({**LOIHI_PRESETS[DAVIES], "synapse_class": "conv"}, "knows dense only"),
        ({"cores": -1}, "cores: got -1"),
    ],
)
def test_fields_that_do_not_go_together(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LoihiArch(**fields)


@pytest.mark.parametrize("units", [SANAFE, DAVIES])
def test_with_a_table_of_your_own_any_latency_is_your_own(units: str) -> None:
    """Also those that happen to be another set's; of a shipped table they are refused as before."""
    for name, ns in LATENCIES_NS[DAVIES if units == SANAFE else SANAFE].items():
        arch = LoihiArch(**LOIHI_PRESETS.get(units, {}) | {"table": "own.toml", f"{name}_ns": ns})
        assert arch.ticks[name] == round(10 * ns)


def test_a_changed_latency_and_a_table_of_your_own_are_named() -> None:
    assert (
        "latencies that are not those of loihi-sanafe: update_ns, synapse_ns"
        in LoihiArch(update_ns=9.9, synapse_ns=2.5).notes()
    )
    with pytest.raises(ConfigError, match=r"^loihi:synapse_ns=3.85: synapse_ns: got 3\.85"):
        load_machine("loihi:synapse_ns=3.85")


def test_a_table_of_your_own_is_named_by_its_file_and_sources(tmp_path: Path) -> None:
    """Figures of one set under the name of the other's units."""
    shipped = resources.files("spikeloom.components") / "tables" / "loihi-sanafe.toml"
    mine = tmp_path / "mine.toml"
    mine.write_text(shipped.read_text(encoding="utf-8").replace("51.2", "52"), encoding="utf-8")
    report = evaluate(two_layers(), LoihiArch(table=str(mine)))
    assert any(
        f"{mine}, a table of your own, which names as its sources: " in x and "SANA-FE" in x for x in report.warnings
    )
    assert any(f"latencies and barrier alone, the energies are those of {mine}" in x for x in report.warnings)
    assert not any("of your own" in x for x in evaluate(two_layers(), LoihiArch()).warnings)


def one_node(node: Node, shape: tuple[int, ...], neuron: Node, arrival: Arrival | None = None) -> Workload:
    found = arrival or Spikes.pack(np.zeros((2, 1, *shape), bool))
    return lower(chain("n", {"in": Input(shape), "x": node, "neuron": neuron}), SpikeTrace(2, 1, {"x": found}))


def behind_pool(stride: tuple[int, int], node: Node, shape: tuple[int, ...]) -> Workload:
    """A 2x2 sum pool x on the input, and a layer y on its sums."""
    flat: dict[str, Node] = {"flat": Flatten()} if len(shape) == 1 else {}
    nodes = {"in": Input(SHAPE), "x": SumPool2d((2, 2), stride), **flat, "y": node, "neuron": IF()}
    sums = Levels(np.zeros((2, 1, *shape), np.uint8), 3)
    return lower(chain("n", nodes), SpikeTrace(2, 1, {"x": Spikes.pack(np.zeros((2, 1, *SHAPE), bool)), "y": sums}))


SHAPE = (2, 4, 4)
REFUSED: dict[str, tuple[Workload, str]] = {
    "max pool": (one_node(MaxPool2d((2, 2), (2, 2)), SHAPE, IF()), "cannot run a maxpool2d"),
    "pool at the end": (one_node(SumPool2d((2, 2), (2, 2)), SHAPE, IF()), "cannot fold this one: no layer is behind it"),
    "gaps": (behind_pool((3, 3), Linear(2, 2), (2,)), "leave gaps"),
    "dilated": (behind_pool((2, 2), Conv2d(2, 2, (1, 1), dilation=(2, 2)), (2, 2, 2)), r"'y' behind it is dilated by \[2, 2\]"),
    "a pool behind": (behind_pool((2, 2), SumPool2d((2, 2), (2, 2)), (2, 2, 2)), "behind it is 'y', a sumpool2d layer"),
    "nothing behind": (
        replace(both := behind_pool((2, 2), SumPool2d((2, 2), (2, 2)), (2, 2, 2)), layers=both.layers[:1]), "no layer is behind it",
    ),
    "relu": (one_node(Linear(4, 2), (4,), ReLU()), "sends levels"),
    "graded": (one_node(Linear(4, 2), (4,), IF(), Levels(np.ones((2, 1, 4), np.uint8), 3)), "hears graded levels of 3 bits"),
    "signed": (
        one_node(Linear(4, 2), (4,), IF(), Levels(np.ones((2, 1, 4), np.int16), 1, signed=True)),
        "hears signed levels",
    ),
    "other steps": (replace(one_node(Linear(4, 2), (4,), IF()), num_steps=5), "has 2 steps, the trace 5"),
    "hears itself": (work(linear("x", spikes([1, 0]), 2, inputs=("x",), recurrent=True)), "hears itself"),
    "unknown spikes": (
        work(
            linear("x", spikes([1, 0]), 2),
            linear("y", spikes([1, 0]), 2, out=spikes([0, 1])),
            replace(
                linear("z", spikes([1, 0]), 2, inputs=("x", "y")),
                arrival=Levels(np.ones((1, 1, 2, 1, 1), np.uint8), 2),
            ),
        ),
        "does not hold the spikes it sends",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_chip_cannot_run_is_refused_by_name(name: str) -> None:
    workload, message = REFUSED[name]
    with pytest.raises(MappingError, match=f"'x': .*{message}"):
        LOIHI.map(workload, LoihiArch())


def test_a_placement_must_place_every_group_on_cores_there_are() -> None:
    base = two_layers()
    for places, message in (
        ((lone("a", 0, 0),), r"missing \['b'\], unknown \[\]"),
        ((lone("a", 0, 0), lone("b", 0, 1), lone("c", 0, 1)), r"unknown \['c'\]"),
        ((lone("a", 0, 0), lone("b", 0, 1, (0, 1))), "1 of its 2 neurons have no core"),
        ((lone("a", 0, 0), lone("b", 32, 0)), r"core 128 \(layer 'b'\).*set chips = 2"),
        ((lone("a", 0, 0), lone("b", 0, 4)), "a tile has 4 cores"),
    ):
        with pytest.raises(MappingError, match=message):
            counted(base, Placement(places))
    with pytest.raises(MappingError, match="without a placement"):
        LOIHI.count(base, LoihiArch(), Mapping("loihi"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cores": 5}, "'a': 5 cores for 4 neurons"),
        ({"cores": 2, "split": "rows"}, "'a': 2 cores for 1 row;"),
        ({"compartments": 3, "cores": {"a": 4, "b": 3}}, "'b': 3 cores for 2 neurons"),
        ({"compartments": 3, "split": "rows"}, "'a': one of its rows has 4 neurons"),
        (
            {"chips": 1, "rows": 1, "columns": 1, "cores_per_tile": 1},
            "takes 2 cores in the order of layers, 1 chip has 1; set chips = 2",
        ),
        ({"cores": {"a": 1}}, r"must name every layer once: missing \['b'\]"),
        ({"compartments": 3, "cores": 1}, "'a': 4 compartments"),
        ({"in_axons": 2}, "'a': 3 in-axons"),
        ({"out_axons": 3, "cores": {"a": 1, "b": 1}}, "'a': 4 out-axons"),
        ({"synapse_memory_kib": 0.001}, "synapse memory"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_remedy(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(MappingError, match=message):
        counted(two_layers(), **fields)


def test_no_more_chips_are_advised_than_there_may_be() -> None:
    far = Placement((lone("a", 0, 0), lone("b", 5000, 0)))
    with pytest.raises(
        MappingError, match="fewer cores; even the most chips that a machine may have, 4,096, are too few"
    ):
        counted(two_layers(), far, rows=1, columns=1, cores_per_tile=1)
    with pytest.raises(MappingError, match="place of layer 'a' on tile 0 core 1: a tile has 1 core, numbered from 0"):
        counted(two_layers(), Placement((lone("a", 0, 1), lone("b", 0, 0))), cores_per_tile=1)


def test_an_error_of_a_placement_names_its_file(tmp_path: Path) -> None:
    path = tmp_path / "place.toml"
    for places, message in (
        ((lone("a", 0, 0),), "the placement must place"),
        ((lone("a", 9, 0), lone("b", 99, 0)), "takes core 396"),
    ):
        write_placement(path, Placement(places))
        with pytest.raises(MappingError, match=f"^{path}: .*{message}"):
            evaluate(two_layers(), LoihiArch(placement=str(path)))


def test_an_input_that_is_known_as_a_vector_has_no_channels() -> None:
    """A linear layer hears a map flattened, and the trace says no more than that; where another layer knows the map, it is used."""
    work_on_chip = {"input_on_chip": True}
    rest = (lone("a", 0, 1), lone("b", 0, 1))
    for place in (
        Place("input", 0, 0, neurons=(0, 3), order="hwc"), Place("input", 0, 0, channels=(0, 3)), Place("input", 0, 0, rows=(0, 1)),
    ):  # fmt: skip
        with pytest.raises(MappingError, match="on tile 0 core 0: only linear layers hear the input, as a vector of 3"):
            counted(two_layers(), Placement((place, *rest)), **work_on_chip)
    for split, cores in (("channels", 2), ("neurons", 2), ("rows", 1)):  # channels of a vector are its neurons
        assert counted(two_layers(), split=split, cores=cores, **work_on_chip).statistics["input", "cores"] == cores
    known = parted((25,), Spikes.pack(np.ones((2, 1, 25), bool)))
    by_rows = (Place("input", 0, 0, rows=(0, 4)), Place("input", 4, 0, rows=(4, 5)), lone("b", 0, 0), lone("d", 0, 0))
    total(counted(known, Placement(by_rows), **work_on_chip), axon_out=2 * 25, router_hop_x=2 * 5)


def test_a_layer_may_not_take_the_name_of_the_input() -> None:
    a, b = two_layers().layers
    with pytest.raises(
        MappingError, match=r"^layer 'input': with input_on_chip = true that is the name of the input's neurons"
    ):
        counted(work(replace(a, name="input"), replace(b, inputs=("input",))), input_on_chip=True)
    with pytest.raises(MappingError, match=r"^layer 'input': with input_on_chip"):
        counted(work(a, replace(b, name="input")), input_on_chip=True)
    assert counted(work(a, replace(b, name="input"))).of("input")["soma.access"] == 6


def test_limits_can_be_reported_instead() -> None:
    counts = counted(two_layers(), in_axons=2, limits="warn")
    assert counts.actions == counted(two_layers()).actions
    assert any("in-axons" in said for said in counts.warnings)
    many = load_machine("loihi:rows=1,columns=1,cores_per_tile=1,limits=warn")[1]
    with pytest.raises(SpikeloomError, match="chips = 2"):
        evaluate(two_layers(), many)
