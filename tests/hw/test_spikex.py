"""The fast count of the time-batched array equals the slow reference, as integers."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloom.core.arch import LayerMapping
from spikeloom.core.counts import Counts
from spikeloom.core.nodes import Leak, window_out
from spikeloom.core.trace import Arrival, Levels, Spikes
from spikeloom.core.workload import Layer, NeuronRule, Workload
from spikeloom.errors import ConfigError, MappingError
from spikeloom.hw import HARDWARE
from spikeloom.hw.spikex import Spikex, SpikexArch
from spikeloom.units import to_si
from tests.reference import spikex as slow
from tests.reference.cases import knob_sets, layer_cases, membrane_cases

PRICED = {
    "pe.add", "pe.update", "pe.leak", "vmem.read", "vmem.write",
    "lbuf_weight.read", "lbuf_weight.write", "lbuf_act.read", "lbuf_act.write",
    "glb_weight.read", "glb_weight.write", "glb_act.read", "glb_act.write",
    "dram_weight.read", "dram_act.read", "dram_out.write", "array.cycles", "dram.cycles",
}  # fmt: skip


def arch_of(knobs: slow.Knobs) -> SpikexArch:
    """The machine with the reference's knobs."""
    fields = dataclasses.asdict(knobs)
    for key, name in (
        ("lbuf_kib", "lbuf"),
        ("glb_kib", "glb"),
        ("dram_bandwidth_gb_s", "dram_bandwidth"),
        ("clock_mhz", "clock"),
    ):
        fields[name] = to_si(fields.pop(key), key.removeprefix(name + "_"))
    return SpikexArch(**fields)


def layer_of(cases: list[slow.LayerCase]) -> Layer:
    """One layer whose samples are the given cases (which differ in their spikes only)."""
    case = cases[0]
    levels = np.array([c.levels for c in cases], dtype=np.int16).transpose(1, 0, 2, 3, 4)  # T N C H W
    if case.constant_steps is not None:
        levels = np.broadcast_to(levels, (case.constant_steps, *levels.shape[1:]))
        arrival: Arrival = Levels(levels, case.level_bits, signed=case.signed, analog=True)
    elif case.level_bits == 1 and not case.signed:
        arrival = Spikes.pack(levels)
    else:
        arrival = Levels(levels, case.level_bits, signed=case.signed)
    _, _, C, H, W = levels.shape
    P, Q = (window_out((H, W)[a], case.kernel[a], case.stride[a], case.padding[a], case.dilation[a]) for a in (0, 1))
    out = None if case.out is None else Spikes.pack(np.array([c.out for c in cases]).transpose(1, 0, 2, 3, 4))
    # the reference takes reset "none" as "nothing can fire silently": a read-out
    kind = "li" if case.reset == "none" else "lif"
    return Layer(
        "layer", "conv2d", C, case.out_channels, H, W, *case.kernel, P, Q, arrival,
        case.stride, case.padding, case.dilation, case.groups, case.weight_bits, case.has_bias,
        NeuronRule(kind, Leak(shift=2), case.reset),  # type: ignore[arg-type]
        out=out, weight=None if case.weights is None else np.array(case.weights),
    )  # fmt: skip


def fast_counts(layer: Layer, arch: SpikexArch, threads: int = 1) -> Counts:
    machine = Spikex()
    workload = Workload((layer,), layer.num_steps, layer.num_samples)
    return machine.count(workload, arch, machine.map(workload, arch), threads=threads)


def flat(counts: Counts) -> dict[str, int]:
    return {**counts.of("layer"), "cycles": counts.layer_cycles["layer"]}


@settings(max_examples=400, deadline=None)
@given(layer_cases() | membrane_cases(), knob_sets())
def test_every_count_equals_the_nested_loops(case: slow.LayerCase, knobs: slow.Knobs) -> None:
    expected = slow.count(case, knobs)
    counts = fast_counts(layer_of([case]), arch_of(knobs))
    tile = {key: expected.pop(f"tile.{key}") for key in ("count", "synapses", "steps", "tags", "slots")}
    assert flat(counts) == expected
    found = {name: value for (_, name), value in counts.statistics.items()}
    assert {**tile, "count": tile["count"]} == {
        "count": found["tiles"],
        **{key: found[key] for key in ("synapses", "steps", "tags", "slots")},
    }


@settings(max_examples=25, deadline=None)
@given(
    st.integers(60, 150), st.integers(1, 9), st.integers(0, 2**16), st.sampled_from((0.0, 0.05, 0.3, 1.0)), knob_sets()
)
def test_more_than_one_word_of_channels(
    features: int, steps: int, seed: int, density: float, knobs: slow.Knobs
) -> None:
    rng = np.random.default_rng(seed)
    levels = (rng.random((steps, features, 1, 1)) < density).astype(int).tolist()
    case = slow.LayerCase(levels, 11, (1, 1), (1, 1), (0, 0))
    expected = {k: v for k, v in slow.count(case, knobs).items() if not k.startswith("tile.")}
    assert flat(fast_counts(layer_of([case]), arch_of(knobs))) == expected


@settings(max_examples=20, deadline=None)
@given(layer_cases(constant=False), knob_sets(), st.integers(2, 5))
def test_samples_add_in_any_order_on_any_number_of_threads(
    case: slow.LayerCase, knobs: slow.Knobs, samples: int
) -> None:
    cases = [
        dataclasses.replace(case, levels=case.levels[k % len(case.levels) :] + case.levels[: k % len(case.levels)])
        for k in range(samples)
    ]
    arch = arch_of(knobs)
    single = [flat(fast_counts(layer_of([one]), arch)) for one in cases]
    summed = {key: sum(counts[key] for counts in single) for key in single[0]}
    assert flat(fast_counts(layer_of(cases), arch, threads=1)) == summed
    assert flat(fast_counts(layer_of(cases[::-1]), arch, threads=3)) == summed


@pytest.mark.parametrize(("window", "cols"), [(1, 8), (2, 4), (4, 2), (1, 2), (8, 1)])
def test_closed_form(window: int, cols: int) -> None:
    """array = KT*X*(N/Cc)*(I*L + Cc*L - (Cc-1)) + (rows_last-1) + (Cc-1) for all-ones input without padding."""
    T, C, H, K = 8, 3, 5, 10
    layer = Layer("layer", "conv2d", C, K, H, H, 3, 3, 3, 3, Spikes.pack(np.ones((T, 1, C, H, H))))
    counts = fast_counts(layer, SpikexArch(cols=cols, window=window, decay="free"))
    synapses, positions, groups, last_rows = 27, 9, 2, 2
    tile = synapses * window + cols * window - (cols - 1)
    assert (
        counts.total("array", "cycles") == groups * positions * (T // window // cols) * tile + last_rows - 1 + cols - 1
    )


@pytest.mark.parametrize("dispatch", ["agile", "temporal", "ptb"])
def test_silence_costs_no_synaptic_operation(dispatch: str) -> None:
    layer = Layer("layer", "conv2d", 2, 3, 6, 6, 3, 3, 4, 4, Spikes.pack(np.zeros((9, 2, 2, 6, 6))))
    counts = fast_counts(layer, SpikexArch(dispatch=dispatch))
    spent = {key for key, value in counts.of("layer").items() if value}
    assert spent == {
        "dram.cycles",
        "dram_act.read",
        "dram_out.write",
        "glb_act.read",
        "glb_act.write",
        "lbuf_act.write",
    }


@settings(max_examples=40, deadline=None)
@given(layer_cases(), knob_sets())
def test_latency_meets_both_bounds(case: slow.LayerCase, knobs: slow.Knobs) -> None:
    """The roofline: no fewer cycles than the additions or the DRAM bits allow."""
    arch, layer = arch_of(knobs), layer_of([case])
    counts = fast_counts(layer, arch)
    bits = sum(counts.total(*key) for key in (("dram_weight", "read"), ("dram_act", "read"), ("dram_out", "write")))
    assert counts.cycles >= bits * arch.clock / arch.dram_bandwidth * (1 - 1e-12)
    assert counts.cycles >= counts.total("pe", "update") / (arch.rows * arch.cols)
    if not layer.arrival.density() or knobs.dispatch == "dense":
        return
    assert counts.total("pe", "add") <= counts.cycles * arch.rows * arch.cols * arch.adders * 1.0


@settings(max_examples=30, deadline=None)
@given(layer_cases(), knob_sets())
def test_every_count_has_a_charge(case: slow.LayerCase, knobs: slow.Knobs) -> None:
    arch = arch_of(knobs)
    counts = fast_counts(layer_of([case]), arch)
    assert {f"{i}.{a}" for i, a in arch.charges()} - set(slow.JOIN_KEYS) == PRICED == set(counts.of("layer"))


@settings(max_examples=30, deadline=None)
@given(layer_cases(), knob_sets())
def test_utilisation_is_a_share(case: slow.LayerCase, knobs: slow.Knobs) -> None:
    arch = arch_of(knobs)
    shares = Spikex().utilisation(fast_counts(layer_of([case]), arch), arch, "layer")
    assert all(0 <= value <= 1 for value in shares.values()), shares


def binary_layer(**changes: object) -> Layer:
    layer = Layer("conv1", "conv2d", 2, 3, 6, 6, 3, 3, 4, 4, Spikes.pack(np.ones((4, 1, 2, 6, 6))))
    return dataclasses.replace(layer, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("layer", "word"),
    [
        (binary_layer(kind="maxpool2d"), "maxpool2d"),
        (binary_layer(kind="add"), "add"),
        (binary_layer(recurrent=True), "recurrent"),
        (binary_layer(inputs=("conv1",)), "recurrent"),
        (binary_layer(neuron=NeuronRule("cubalif")), "CubaLIF"),
    ],
)
def test_unsupported_layers_are_refused_by_name(layer: Layer, word: str) -> None:
    with pytest.raises(MappingError, match=f"conv1.*{word}"):
        Spikex().map(Workload((layer,), 4, 1), SpikexArch())


@settings(max_examples=40, deadline=None)
@given(layer_cases() | membrane_cases(), knob_sets(), st.lists(knob_sets(), min_size=2, max_size=6))
def test_choices_scheduled_together_count_like_each_alone(
    case: slow.LayerCase, machine: slow.Knobs, knobs: list[slow.Knobs]
) -> None:
    layer, arch = layer_of([case, case]), dataclasses.replace(arch_of(machine), dispatch="agile", step="serial")
    choices = [LayerMapping(k.window, k.dispatch, k.order, 1 if k.dispatch == "dense" else k.merge) for k in knobs]
    for part, *alone in zip(
        Spikex().scheduled(layer, arch, choices, threads=1),
        *(Spikex().scheduled(layer, arch, (choice,), threads=1) for choice in choices),
        strict=True,
    ):
        for together, single in zip(part.found, alone, strict=True):
            for name in ("totals", "filled", "channels", "filled_out"):
                np.testing.assert_array_equal(getattr(together, name), getattr(single.found[0], name))


def arch_with(knob: str, value: Any) -> SpikexArch:
    fields: dict[str, Any] = {knob: value}
    return SpikexArch(**fields)


@pytest.mark.parametrize(("knob", "value"), [("window", 2), ("dispatch", "ptb"), ("order", "interleave"), ("merge", 3)])
def test_a_table_names_every_layer(knob: str, value: Any) -> None:
    workload = Workload((binary_layer(), binary_layer(name="conv2")), 4, 1)
    table = {"conv1": value, "conv2": getattr(SpikexArch(), knob)}
    layers = Spikex().map(workload, arch_with(knob, table)).layers
    assert layers == {
        "conv1": LayerMapping(**{"window": 4, "dispatch": "agile", knob: value}),
        "conv2": LayerMapping(4, "agile"),
    }
    with pytest.raises(
        MappingError,
        match=rf"the {knob} table must name every layer once: missing \['conv2'\], unknown \['conv3', 'x'\] "
        r"\(did you mean 'conv2'\?\); layers are \['conv1', 'conv2'\]",
    ):
        Spikex().map(workload, arch_with(knob, {"conv1": value, "conv3": value, "x": value}))


def test_dense_layers_never_merge_and_say_so() -> None:
    workload = Workload((binary_layer(), binary_layer(name="conv2", has_bias=True)), 4, 1)
    arch = SpikexArch(dispatch={"conv1": "dense", "conv2": "ptb"}, merge=2)
    mapping = Spikex().map(workload, arch)
    assert (mapping.layers["conv1"].merge, mapping.layers["conv2"].merge) == (1, 2)
    warnings = Spikex().count(workload, arch, mapping).warnings
    assert "merge = 2 does not apply to dispatch = 'dense' of conv1" in warnings
    assert "no silent window is skipped in conv2: a bias acts in every step" in warnings
    quiet = dataclasses.replace(arch, merge={"conv1": 1, "conv2": 2})
    assert not any("dense" in text for text in Spikex().count(workload, quiet, Spikex().map(workload, quiet)).warnings)


@settings(max_examples=30, deadline=None)
@given(layer_cases(), st.lists(knob_sets(dispatches=("agile", "temporal", "ptb")), min_size=2, max_size=2))
def test_layers_with_tables_count_like_machines_of_their_own(case: slow.LayerCase, knobs: list[slow.Knobs]) -> None:
    layers = [dataclasses.replace(layer_of([case]), name=name) for name in ("a", "b")]
    arch = arch_of(knobs[0])
    own = {
        name: dataclasses.replace(arch, window=k.window, dispatch=k.dispatch, order=k.order, merge=k.merge)
        for name, k in zip(("a", "b"), knobs, strict=True)
    }
    tables = {
        knob: {name: getattr(one, knob) for name, one in own.items()}
        for knob in ("window", "dispatch", "order", "merge")
    }
    both = dataclasses.replace(arch, **tables)  # type: ignore[arg-type]
    workload = Workload(tuple(layers), layers[0].num_steps, layers[0].num_samples)
    counts = Spikex().count(workload, both, Spikex().map(workload, both), threads=1)
    for layer in layers:
        alone = Workload((layer,), layer.num_steps, layer.num_samples)
        single = own[layer.name]
        assert counts.of(layer.name) == Spikex().count(alone, single, Spikex().map(alone, single), threads=1).of(
            layer.name
        )
    assert both.inventory() == dataclasses.replace(arch, window=max(k.window for k in knobs)).inventory()


@pytest.mark.parametrize(
    "fields",
    [
        {"dispatch": "dense", "step": "zskip"},
        {"dispatch": {"a": "agile", "b": "dense"}, "step": "zskip"},
        {"window": 65},
        {"window": 0},
        {"window": {"a": 65}},
        {"merge": {"a": True}},
        {"order": {"a": "sideways"}},
        {"dispatch": {}},
        {"step": {"a": "serial"}},
        {"cols": 65},
    ],
)
def test_impossible_machines_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        SpikexArch(**fields)


def test_presets_are_machines() -> None:
    for preset in HARDWARE["spikex"].presets.values():
        SpikexArch(**preset)


@settings(max_examples=30, deadline=None)
@given(layer_cases(), knob_sets())
def test_spiking_without_reset_keeps_the_windows_of_a_soft_reset(case: slow.LayerCase, knobs: slow.Knobs) -> None:
    """A membrane that is never reset stays above theta, so its silent windows may fire like those of a soft reset."""
    layer, arch = layer_of([case]), arch_of(knobs)
    soft, none = (dataclasses.replace(layer, neuron=NeuronRule("if", None, reset)) for reset in ("soft", "none"))  # type: ignore[arg-type]
    assert flat(fast_counts(none, arch)) == flat(fast_counts(soft, arch))
