"""What a placement asks of every core is what its synapse list asks, and each broken limit says so with the smallest split that fits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloom.core.placement import INPUT, Split, split_owners
from spikeloom.core.workload import Layer
from spikeloom.errors import MappingError
from spikeloom.hw.fit import LIMITS, Limits, Needs, Wiring, check_fit, layer_fans, needs, smallest_split

from ..reference import fan as reference
from .test_fan import a_layer, layers, owned

ROOMY = Limits(10**9, 10**12, 10**9, 10**9, 10**6)
SPLITS: tuple[Split, ...] = ("neurons", "channels", "rows")


def dvs_gesture() -> list[Layer]:
    """The DVS-gesture network of the reference cases: 32x32 input, 3x3 convolutions without padding, a dense read-out."""
    conv: list[tuple[str, int, int, int, int]] = [
        ("conv1", 1, 16, 32, 2), ("conv2", 16, 32, 15, 1), ("conv3", 32, 64, 13, 1), ("conv4", 64, 11, 11, 1),
    ]  # fmt: skip
    made = [
        a_layer(name, C=C, K=K, H=size, W=size, R=3, S=3, stride=(stride, stride)) for name, C, K, size, stride in conv
    ]
    made.append(a_layer("dense", "linear", C=891, K=11))
    return [replace(layer, inputs=(made[n - 1].name,) if n else ()) for n, layer in enumerate(made)]


def filled(made: list[Layer], cores: tuple[int, ...], input_shape: tuple[int, int, int]) -> dict[str, np.ndarray]:
    """Owners by layer, the input first: cores fill in order, each layer split evenly by neurons."""
    shapes = [input_shape, *((layer.K, layer.P, layer.Q) for layer in made)]
    first = np.cumsum([0, *cores])
    return {
        name: split_owners(shape, "neurons", number) + np.int32(first[n])
        for n, (name, shape, number) in enumerate(
            zip([INPUT, *(layer.name for layer in made)], shapes, cores, strict=True)
        )
    }


def asked(made: list[Layer], owners: dict[str, np.ndarray], limits: Limits) -> Needs:
    return needs(made, owners, limits, layer_fans(made, owners, limits.zero_weights))


@pytest.mark.parametrize(
    ("cores", "in_axons", "out_axons", "kilobytes"),
    [
        ((1, 4, 16, 16, 4, 1), 7744, 14400, 139),
        ((1, 4, 6, 8, 1, 1), 7744, 7224, 513),
        ((1, 8, 32, 32, 8, 1), 7744, 14400, 70),
        ((1, 4, 16, 64, 16, 1), 7232, 21632, 49),
    ],
)
def test_the_reference_splits_break_the_limits_as_the_specification_says(
    cores: tuple[int, ...], in_axons: int, out_axons: int, kilobytes: int
) -> None:
    made = dvs_gesture()
    owners = filled(made, cores, (1, 32, 32))
    limits = Limits(storage="unrolled")
    held = asked(made, owners, limits)
    assert [int(held.of(limit).max()) for limit in ("in_axons", "out_axons")] == [in_axons, out_axons]
    assert round(held.of("synapse_memory").max() / 8 / 1000) == kilobytes
    assert held.of("compartments").max() <= 1024 and held.of("compartments").sum() == 18678
    broken = {finding.limit for finding in check_fit(made, owners, limits)}
    assert broken == {"in_axons", "out_axons"} | ({"synapse_memory"} if kilobytes > 131 else set())


@settings(deadline=None, max_examples=60)
@given(st.data(), st.sampled_from(("stored", "skipped")), st.sampled_from(("shared", "unrolled")), st.integers(0, 3))
def test_needs_are_those_of_the_synapse_list(data: st.DataObject, zero_weights: str, storage: str, bits: int) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    first = data.draw(layers())
    made = [replace(first, name="a", weight_bits=5)]
    heard = ("a",)
    if data.draw(st.booleans()):  # a second layer on the same input, and a third that hears both or one
        made.append(replace(made[0], name="b", weight=np.asarray(first.weight)[::-1].copy()))
        heard = data.draw(st.sampled_from((("a",), ("a", "b"))))
    size = first.K * first.P * first.Q
    made.append(a_layer("flat", "linear", C=size, K=3, weight=rng.integers(-1, 2, (3, size, 1, 1)), inputs=heard))
    if first.P > 1:  # a folded pool that leaves the last row out, stored as half its kernel
        stored = rng.integers(-1, 2, (2, first.K, 1, 1))
        made.append(
            a_layer(
                "pooled",
                C=first.K,
                K=2,
                H=first.P // 2 * 2,
                W=first.Q,
                R=2,
                S=1,
                stride=(2, 1),
                weight=np.repeat(stored, 2, axis=2),
                stored_kernel=(1, 1),
                inputs=("a",),
            )
        )
    owners = {layer.name: data.draw(owned(layer)) for layer in made}
    if data.draw(st.booleans()):
        owners[INPUT] = rng.integers(0, 40, (first.C, first.H, first.W)).astype(np.int32)
    limits = replace(ROOMY, storage=storage, synapse_bit=bits, zero_weights=zero_weights)
    held = asked(made, owners, limits)
    expected = reference.core_needs(made, owners, storage, bits, zero_weights)
    for limit in LIMITS:
        assert dict(zip(held.cores_M.tolist(), held.of(limit).tolist(), strict=True)) == expected[limit], limit
    assert check_fit(made, owners, limits) == ()
    assert (held.shares_ILM[[0, 1, 3]].sum(axis=1) == held.needs_IM[[0, 1, 3]]).all()


@settings(deadline=None, max_examples=40)
@given(st.data(), st.sampled_from(("shared", "unrolled")))
def test_layers_that_reach_the_same_neurons_share_their_axons(data: st.DataObject, storage: str) -> None:
    first = data.draw(layers())
    weight = np.asarray(first.weight)
    made = [replace(first, name="a"), replace(first, name="b", weight=weight[::-1].copy()), replace(first, name="c")]
    wiring = Wiring(
        {"a": ("x",), "b": data.draw(st.sampled_from((("x",), ("y",)))), "c": ()}, dict.fromkeys("abc", "n")
    )
    owners = {"n": data.draw(owned(first))}
    if data.draw(st.booleans()):
        owners["x"] = np.random.default_rng(3).integers(0, 40, (first.C, first.H, first.W)).astype(np.int32)
    limits = replace(ROOMY, storage=storage, zero_weights="skipped")
    held = needs(made, owners, limits, layer_fans(made, owners, "skipped", wiring), wiring)
    expected = reference.core_needs(made, owners, storage, 0, "skipped", wiring)
    for limit in LIMITS:
        assert dict(zip(held.cores_M.tolist(), held.of(limit).tolist(), strict=True)) == expected[limit], limit
    tight = replace(limits, in_axons=max(expected["in_axons"].values()) - 1)
    assert all("layer 'n'" in str(finding) for finding in check_fit(made, owners, tight, wiring=wiring))


@settings(deadline=None, max_examples=60)
@given(st.data(), st.sampled_from(SPLITS), st.sampled_from(("stored", "skipped")))
def test_the_smallest_split_is_the_first_that_fits(data: st.DataObject, split: Split, zero_weights: str) -> None:
    layer = data.draw(layers())
    shape = (layer.K, layer.P, layer.Q)
    storage = data.draw(st.sampled_from(("shared", "unrolled")))
    sent = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1))).integers(0, 4, shape)
    units = {"neurons": layer.K * layer.P * layer.Q, "channels": layer.K, "rows": layer.P}[split]
    tight = Limits(*(data.draw(st.integers(1, high)) for high in (40, 400, 40, 80, 12)), storage, 0, zero_weights)
    fits = []
    for parts in range(1, min(units, tight.cores) + 1):
        owner = split_owners(shape, split, parts)
        held = reference.core_needs([layer], {"a": owner}, storage, 0, zero_weights)
        held["out_axons"] = {core: int(sent[owner == core].sum()) for core in range(parts)}
        if all(max(held[limit].values()) <= tight.of(limit) for limit in LIMITS):
            fits.append(parts)
    found = smallest_split(layer, tight, split, destinations_KPQ=sent)
    assert found == (fits[0] if fits else None)


@settings(deadline=None, max_examples=60)
@given(st.data(), st.sampled_from(("stored", "skipped")), st.integers(1, 2))
def test_the_advice_for_neurons_that_hear_themselves_moves_their_targets_along(
    data: st.DataObject, zero_weights: str, loops: int
) -> None:
    """in -> a -> n, n -> r (and s) -> n, n -> b on cores of its own."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    K, others = data.draw(st.integers(2, 9)), data.draw(st.integers(1, 3))

    def a_linear(name: str, C: int, K: int) -> Layer:
        return a_layer(name, "linear", C=C, K=K, weight=rng.integers(0, 2, (K, C, 1, 1)).astype(np.int8))

    looped = [a_linear(name, K, K) for name in "rs"[:loops]]
    made = [a_linear("a", 3, K), *looped, a_linear("b", K, 4)]
    wiring = Wiring(
        {"a": (INPUT,), "b": ("n",), **{x.name: ("n",) for x in looped}},
        {"a": "n", "b": "b", **{x.name: "n" for x in looped}},
    )
    tight = replace(ROOMY, out_axons=data.draw(st.integers(1, 25)), in_axons=data.draw(st.integers(3, 13)), cores=40)
    tight = replace(tight, zero_weights=zero_weights)
    far = split_owners((4, 1, 1), "neurons", others) + np.int32(20)

    def needed(parts: int) -> dict[str, dict[int, int]]:
        owners = {"n": split_owners((K, 1, 1), "neurons", parts), "b": far}
        return reference.core_needs(made, owners, "shared", 0, zero_weights, wiring)

    def over(parts: int) -> bool:
        found = needed(parts)
        return any(n > tight.of(limit) for limit in LIMITS for core, n in found[limit].items() if core < 20)

    fits = [parts for parts in range(1, K + 1) if not over(parts)]
    owners = {"n": split_owners((K, 1, 1), "neurons", data.draw(st.integers(1, K))), "b": far}
    for finding in check_fit(made, owners, tight, wiring=wiring):
        if finding.layer == "n":
            expected = f"fits: {fits[0]} core{'s' * (fits[0] > 1)}" if fits else "no split"
            assert expected in str(finding) or (not fits and "one neuron alone" in str(finding))


def test_every_limit_has_its_own_message_with_the_way_out() -> None:
    a = a_layer("a", C=4, K=8, H=6, W=6, R=3, S=3)
    b = a_layer("b", "linear", C=128, K=10, inputs=("a",))
    owners = filled([a, b], (1, 2, 2), (4, 6, 6))

    def said(limits: Limits, splits: dict[str, Split] | None = None) -> list[str]:
        return [str(finding) for finding in check_fit([a, b], owners, limits, splits=splits)]

    assert said(replace(ROOMY, compartments=60)) == [
        "layer 'input': 144 compartments (neurons) on core 0, a core has 60 compartments; 1 of 1 core over; smallest split by "
        "neurons that fits: 3 cores",
        "layer 'a': 64 compartments (neurons) on core 1, a core has 60 compartments; 2 of 2 cores over; smallest split by "
        "neurons that fits: 3 cores",
    ]
    assert said(replace(ROOMY, synapse_memory_bit=8 * 600)) == [
        "layer 'b': 640 B of synapse memory (weights) on core 3, a core has 600 B of synapse memory; 2 of 2 cores over; smallest "
        "split by neurons that fits: 3 cores"
    ]
    assert said(replace(ROOMY, synapse_memory_bit=8 * 140), {"a": "rows", "b": "channels"}) == [
        "layer 'a': 144 B of synapse memory (weights) on core 1, a core has 140 B of synapse memory; 2 of 2 cores over; no split by "
        "rows fits, the smallest by neurons that does: 4 cores",
        "layer 'b': 640 B of synapse memory (weights) on core 3, a core has 140 B of synapse memory; 2 of 2 cores over; smallest "
        "split by channels that fits: 10 cores",
    ]
    assert said(replace(ROOMY, in_axons=100, out_axons=127))[1:] == [
        "layer 'b': 128 in-axons (distinct source neurons) on core 3, a core has 100 in-axons; 2 of 2 cores over; no split fits: one "
        "neuron alone needs 128 in-axons",
        "layer 'input': 288 out-axons (pairs of a neuron and a core it sends to) on core 0, a core has 127 out-axons; 1 of 1 core "
        "over; smallest split by neurons that fits: 3 cores",
        "layer 'a': 128 out-axons (pairs of a neuron and a core it sends to) on core 1, a core has 127 out-axons; 2 of 2 cores "
        "over; smallest split by neurons that fits: 16 cores",
    ]
    assert said(replace(ROOMY, cores=4)) == [
        "the placement takes 5 cores, the machine has 4, numbered from 0; take fewer cores a layer or more chips"
    ]
    owners["b"] = owners["b"] + np.int32(6)
    assert said(replace(ROOMY, cores=8)) == [
        "the placement takes cores up to number 10, the machine has 8, numbered from 0; take fewer cores a layer or more chips"
    ]


def test_why_no_split_fits() -> None:
    wide = a_layer("wide", C=512, K=16, H=4, W=4, R=3, S=3, padding=(1, 1))
    owners = {"wide": split_owners((16, 4, 4), "channels", 4)}
    assert [str(finding).split("; ")[-1] for finding in check_fit([wide], owners, Limits())] == [
        "no split fits: one neuron alone needs 4,608 in-axons"
    ]
    flat = a_layer("flat", C=2, K=1, H=40, W=40)
    alone = {"flat": np.zeros((1, 40, 40), np.int32)}
    tight = replace(ROOMY, compartments=100, cores=10)
    assert [str(finding).split("; ")[-1] for finding in check_fit([flat], alone, tight)] == [
        "no split by neurons fits on 10 cores, all that the machine has"
    ]
    assert [
        str(finding).split("; ")[-1]
        for finding in check_fit([flat], alone, replace(tight, compartments=30, cores=40), splits={"flat": "channels"})
    ] == ["no split by channels fits: even one channel a core is too much"]
    both = replace(ROOMY, compartments=800, in_axons=1)
    assert str(check_fit([flat], alone, both)[0]).endswith(
        "2 cores by neurons keep this limit, but no split of the layer keeps all four"
    )


def test_layers_on_one_core_are_told_together() -> None:
    a, b = a_layer("a", "linear", C=20, K=30), a_layer("b", "linear", C=30, K=5, inputs=("a",))
    owners = {"a": np.zeros((30, 1, 1), np.int32), "b": np.zeros((5, 1, 1), np.int32)}
    (finding,) = check_fit([a, b], owners, replace(ROOMY, compartments=32))
    assert (finding.layer, finding.need, finding.allowed, finding.cores) == ("a", 35, 32, 1)
    assert "35 compartments (neurons) on core 0, with b on it (the layer's own: 30), a core has 32" in str(finding)
    (finding,) = check_fit([a, b], owners, replace(ROOMY, synapse_memory_bit=8 * 700))
    assert (
        "750 B of synapse memory (weights) on core 0, with b on it (the layer's own: 600 B), a core has 700 B"
        in str(finding)
    )
    (finding,) = check_fit([a], {"a": np.zeros((30, 1, 1), np.int32)}, replace(ROOMY, compartments=1))
    assert "a core has 1 compartment; 1 of 1 core over" in str(finding)


def test_the_advice_knows_the_whole_map_that_a_folded_pool_leaves_a_part_of() -> None:
    """in (1 x 3 x 6) -> flat, and cropped to 1 x 2 x 6 -> part; their sums reach the same neurons."""
    flat, part = a_layer("flat", C=18, K=6), a_layer("part", C=1, K=6, H=2, W=6, R=2, S=6)
    wiring = Wiring(dict.fromkeys(("flat", "part"), (INPUT,)), dict.fromkeys(("flat", "part"), "n"))
    owners = {"n": np.zeros((6, 1, 1), np.int32), INPUT: np.ones((1, 3, 6), np.int32)}
    finding, _ = check_fit([flat, part], owners, replace(ROOMY, compartments=3), wiring=wiring)
    assert finding.layer == "n" and str(finding).endswith("smallest split by neurons that fits: 2 cores")


def test_a_layer_without_cores_is_named() -> None:
    with pytest.raises(MappingError, match="no neuron of layer 'b' is on a core; place b"):
        check_fit([a_layer("b", "linear", C=1, K=1)], {}, Limits())
