"""What crossbars make of weights: nothing where they are ideal, the equations where they are not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloom.core.network import Network, chain
from spikeloom.core.nodes import IF, LI, AvgPool2d, Conv1d, Conv2d, Delay, Flatten, Input, Linear, Output, Synapse
from spikeloom.errors import NetworkError
from spikeloom.snn.build import input_frames
from spikeloom.snn.encode import encode
from spikeloom.snn.execute import runnable
from spikeloom.transform.circuit import approximate_conductances, effective_conductances
from spikeloom.transform.crossbar import (
    NON_IDEALITIES,
    Crossbars,
    Programmed,
    crossbar,
    in_floats,
    number_of_crossbars,
    on_levels,
    only,
    present,
    program,
)
from spikeloom.transform.quantize import Widths, quantize
from spikeloom.transform.reading import adapt, find_full_scales, install

IDEAL = Crossbars()
BAD = Crossbars(
    size=4,
    off_ohm=200_000.0,
    variation=0.1,
    stuck_on=0.05,
    stuck_off=0.05,
    row_wire_ohm=5.0,
    column_wire_ohm=3.0,
    driver_ohm=50.0,
    adc_bits=5,
)
PAIRS = ("differential", "offset", "negative")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def levels(shape: tuple[int, ...], bits: int = 4, seed: int = 0) -> np.ndarray:
    most = 2 ** (bits - 1) - 1
    return rng(seed).integers(-most, most + 1, shape).astype(np.float64)


def network(encoding: str = "analog", seed: int = 0) -> Network:
    """Two convolutions, a pool and a linear layer on 4-bit grids of a step each."""
    steps = 2.0 ** -rng(seed).integers(2, 5, 6)

    def weight(shape: tuple[int, ...], each: int) -> np.ndarray:
        step = steps[: shape[0]] if each else steps[:1]
        return (levels(shape, seed=seed) * step.reshape(-1, *([1] * (len(shape) - 1)))).astype(np.float32)

    nodes: dict[str, Any] = {
        "in": Input((3, 8, 8), encoding),  # type: ignore[arg-type]
        "conv1": Conv2d(3, 6, (3, 3), padding=(1, 1), weight_bits=4, weight=weight((6, 3, 3, 3), 1)),
        "if1": IF(0.5),
        "pool": AvgPool2d((2, 2), (2, 2)),
        "conv2": Conv2d(
            6,
            4,
            (3, 3),
            groups=2,
            weight_bits=4,
            has_bias=True,
            weight=weight((4, 3, 3, 3), 1),
            bias=np.full(4, 0.25, np.float32),
        ),
        "if2": IF(0.5),
        "flatten": Flatten(),
        "fc": Linear(16, 3, weight_bits=4, weight=weight((3, 16), 0)),
        "readout": LI(),
        "out": Output((3,)),
    }
    return chain("small", nodes)


def run(net: Network, setup: Any = None) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Scores, and what every node sends, for the same 5 images at T = 3."""
    module = runnable(net)
    node = module.input_node
    images = rng(3).integers(0, 256, (5, 3, 8, 8)).astype(np.uint8)
    encoded = encode("direct", images, 3, rng(4), node)
    frames = input_frames(module, encoded), 3, encoded.constant
    if setup is not None:
        setup(module, frames)
    sent: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        out = module(*frames, lambda name, arrived, sends: sent.__setitem__(name, sends.clone()))
    return out, sent


@pytest.mark.parametrize("pairs", PAIRS)
@pytest.mark.parametrize("cell", ["binary", "analog"])
@pytest.mark.parametrize("cell_bits", [1, 2, 4, 8])
def test_ideal_crossbars_of_every_kind_are_the_identity_bit_for_bit(pairs: Any, cell: Any, cell_bits: int) -> None:
    ideal = Crossbars(pairs=pairs, cell=cell, cell_bits=cell_bits, size=4)
    net = network()
    assert crossbar(net, ideal, rng()) is net

    def setup(module: Any, frames: Any) -> None:
        install(module, ideal, rng())

    plain, read = run(net), run(net, setup)
    assert torch.equal(plain[0], read[0])
    assert all(torch.equal(plain[1][name], read[1][name]) for name in plain[1])


def test_ideal_crossbars_are_the_identity_of_integers_too() -> None:
    integers = quantize(network(), Widths(weight_bits=4))
    assert crossbar(integers, IDEAL, rng()) is integers
    assert present(IDEAL) == ()


def test_each_strength_alone_changes_weights_and_nothing_else() -> None:
    net = network()
    assert present(BAD) == tuple(NON_IDEALITIES)
    for name in NON_IDEALITIES:
        chips = only(BAD, name)
        assert present(chips) == (name,)
        if name == "ADC":
            continue
        changed = crossbar(net, chips, rng())
        for key, node in net.nodes.items():
            after: Any = changed.nodes[key]
            if not isinstance(node, Synapse):
                assert after is node
                continue
            assert node.weight is not None
            assert not np.array_equal(after.weight, node.weight), name
            assert after.weight.dtype == np.float32
            assert all(getattr(after, f.name) is getattr(node, f.name) for f in fields(node) if f.name != "weight")
    assert np.array_equal(*(_weights(crossbar(net, only(BAD, "variation"), rng(1))) for _ in range(2)))
    assert not np.array_equal(*(_weights(crossbar(net, only(BAD, "variation"), rng(seed))) for seed in (1, 2)))


def _weights(net: Network) -> np.ndarray:
    return np.concatenate([node.weight.ravel() for node in net.nodes.values() if isinstance(node, Synapse)])  # type: ignore[union-attr]


def slow_levels(q: int, bits: int, chips: Crossbars) -> float:
    """What a weight of q levels reads as where cells leak, cell by cell, from the definition."""
    off = chips.lsb_ohm / chips.off_ohm

    def side(stored: int, width: int) -> float:
        total = 0.0
        for low in range(0, width, chips.cell_bits):
            cell = [stored >> bit & 1 for bit in range(low, min(width, low + chips.cell_bits))]
            if chips.cell == "analog":
                total += 2**low * (off + sum(bit << i for i, bit in enumerate(cell)))
            else:
                total += 2**low * sum(2**i if bit else off for i, bit in enumerate(cell))
        return total

    if chips.pairs == "differential":
        return side(max(q, 0), bits - 1) - side(max(-q, 0), bits - 1)
    shift = 2 ** (bits - 1) if chips.pairs == "offset" or q < 0 else 0
    return side(q + shift, bits) - shift


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 8),
    st.sampled_from(PAIRS),
    st.sampled_from(["binary", "analog"]),
    st.integers(1, 8),
    st.floats(2.0, 1e6),
    st.integers(0, 99),
)
def test_leaking_cells_read_as_their_resistors_say(
    bits: int, pairs: Any, cell: Any, cell_bits: int, ratio: float, seed: int
) -> None:
    chips = Crossbars(pairs=pairs, cell=cell, cell_bits=cell_bits, off_ohm=ratio * Crossbars().lsb_ohm)
    meant = levels((5, 3, 2), bits, seed)
    chip = program(meant, bits, chips, rng())
    wanted = np.vectorize(lambda q: slow_levels(int(q), bits, chips), [float])(meant)
    assert chip.error + meant == pytest.approx(wanted, rel=1e-12, abs=1e-9)


def test_variation_and_stuck_cells_have_the_moments_they_state() -> None:
    ones = np.full((200, 200), 7.0)
    varied = program(ones, 4, Crossbars(variation=0.1), rng()).error + ones
    # three resistors of 1, 2 and 4 levels, each with a deviation of a tenth
    assert varied.mean() == pytest.approx(7, abs=0.02)
    assert varied.std() == pytest.approx(0.1 * np.sqrt(1 + 4 + 16), rel=0.03)
    analog = Crossbars(cell="analog", stuck_on=0.1, stuck_off=0.2)
    stuck = program(np.full((200, 200), 3.0), 4, analog, rng()).error + 3
    kinds, counts = np.unique(np.rint(stuck), return_counts=True)
    # positive cell 3 -> 7 or 0, negative cell 0 -> 7
    shares = dict(zip(kinds.tolist(), (counts / stuck.size).tolist(), strict=True))
    assert shares[3.0] == pytest.approx(0.7 * 0.9, abs=0.01)
    assert shares[7.0] == pytest.approx(0.1 * 0.9, abs=0.01)
    assert set(shares) == {3.0, 7.0, 0.0, -4.0, -7.0}
    always = program(np.full((9, 9), 3.0), 4, replace(analog, stuck_on=0.0, stuck_off=1.0), rng()).error
    assert (always == -3).all()


@pytest.mark.parametrize("solve", ["exact", "fast"])
def test_wires_act_on_the_crossbar_that_holds_a_weight(solve: Any) -> None:
    chips = Crossbars(size=4, row_wire_ohm=5.0, column_wire_ohm=3.0, driver_ohm=50.0, solve=solve, off_ohm=1e6)
    meant = levels((6, 5, 3, 2))
    chip = program(meant, 4, chips, rng())
    resistances: Mapping[str, float] = {"row_wire_ohm": 5.0, "column_wire_ohm": 3.0, "driver_ohm": 50.0}
    solver = effective_conductances if solve == "exact" else approximate_conductances
    off = chips.lsb_ohm / chips.off_ohm
    wanted = np.zeros_like(meant)
    for sign in (1, -1):
        for r in range(3):
            for s in range(2):
                for top in (0, 4):
                    for left in (0, 4):
                        tile = np.full((1, 4, 4), 3 * off)
                        block = np.maximum(sign * meant[left : left + 4, top : top + 4, r, s].T, 0)
                        cells = np.vectorize(
                            lambda q: sum(2**i if int(q) >> i & 1 else off for i in range(3)), [float]
                        )(block)
                        tile[0, : block.shape[0], : block.shape[1]] = cells
                        solved = solver(tile / chips.lsb_ohm, **resistances)[0] * chips.lsb_ohm
                        wanted[left : left + 4, top : top + 4, r, s] += (
                            sign * solved[: block.shape[0], : block.shape[1]].T
                        )
    assert chip.error + meant == pytest.approx(wanted, rel=1e-12, abs=1e-12)
    assert np.abs(chip.error).max() > 0.01


def test_the_fast_solution_is_near_the_exact_one_and_groups_stand_alone() -> None:
    meant = levels((32, 32))
    chips = Crossbars(size=32, lsb_ohm=300_000.0, row_wire_ohm=2.0, column_wire_ohm=2.0, driver_ohm=100.0)
    exact, fast = (program(meant, 4, replace(chips, solve=s), rng()).error for s in ("exact", "fast"))  # type: ignore[arg-type]
    assert np.abs(exact - fast).max() < 0.02 * np.abs(exact).max()
    halves = program(meant.reshape(64, 16), 4, chips, rng(), groups=2).error
    alone = [program(half, 4, chips, rng()).error for half in np.split(meant.reshape(64, 16), 2)]
    assert halves == pytest.approx(np.concatenate(alone), abs=1e-12)


def test_crossbars_are_counted() -> None:
    net = network()
    # conv1 9 positions x 1 x 2, conv2 2 groups x 9, fc 4 x 1; pairs twice; 3 bits in cells of 2: two slices
    assert number_of_crossbars(net, Crossbars(size=4)) == 2 * (18 + 18 + 4)
    assert number_of_crossbars(net, Crossbars(size=4, cell_bits=2)) == 4 * (18 + 18 + 4)
    assert number_of_crossbars(net, Crossbars(size=64, pairs="offset")) == 9 + 18 + 1


def test_a_network_of_integers_comes_back_in_floats_and_computes_the_same() -> None:
    integers = quantize(network(), Widths(weight_bits=4))
    floats = in_floats(integers)
    assert floats.arithmetic == "float32"
    assert torch.allclose(run(integers)[0].float(), run(floats)[0], rtol=1e-5, atol=1e-4)
    leaking = crossbar(integers, Crossbars(off_ohm=1e6), rng())
    assert leaking.arithmetic == "float32" and leaking.metadata["crossbar"]["crossbars"]["off_ohm"] == 1e6
    leaking.checked()


def test_a_converter_with_enough_codes_changes_nothing_and_with_few_what_it_says() -> None:
    net = network()
    for pairs in PAIRS:

        def exactly(module: Any, frames: Any, pairs: Any = pairs) -> None:
            # a code for each level: sums of whole numbers are read exactly
            scale = 2**11 - 1 if pairs == "differential" else 2**12 - 1
            install(module, Crossbars(size=4, pairs=pairs, cell_bits=2, adc_bits=12, adc_range=scale), rng())

        assert torch.allclose(run(net)[0], run(net, exactly)[0], atol=1e-5)

    def coarsely(module: Any, frames: Any) -> None:
        find_full_scales(module, install(module, Crossbars(size=4, adc_bits=3), rng()), *frames)

    _, sent = run(net, coarsely)
    plain = run(net)[1]
    assert not torch.allclose(plain["conv1"], sent["conv1"])


def test_a_converter_reads_every_crossbar_bit_plane_and_slice() -> None:
    """A linear layer of levels 0..4 on two crossbars, by hand."""
    weight = np.array([[7, -3, 5, 1, -7]], np.float32)
    nodes: dict[str, Any] = {
        "in": Input((5, 2, 2)),
        "pool": AvgPool2d((2, 2), (2, 2)),
        "flatten": Flatten(),
        "fc": Linear(5, 1, weight_bits=4, weight=weight),
        "out": Output((1,)),
    }
    module = runnable(chain("one", nodes))
    readings = install(module, Crossbars(size=3, cell_bits=2, adc_bits=4, adc_range=1.75), rng())
    counts = np.array([4, 1, 2, 3, 0])
    frames = torch.zeros(1, 5, 2, 2)
    for channel, count in enumerate(counts):
        frames[0, channel].view(-1)[:count] = 1
    with torch.no_grad():
        read = float(module(frames, 1)[0, 0, 0])
    total = 0.0
    for low, width in ((0, 2), (2, 1)):
        part = np.sign(weight[0]) * (np.abs(weight[0]).astype(int) >> low & (1 << width) - 1)
        for bit in range(3):
            plane = counts >> bit & 1
            for some in (slice(0, 3), slice(3, 5)):
                code = np.clip(np.rint((part[some] * plane[some]).sum() / 0.25), -7, 7)
                total += 2**low * 2**bit * 0.25 * code
    assert read == pytest.approx(total / 4)
    assert readings["fc"].full_scale == 1.75
    assert total / 4 != pytest.approx(float(weight[0] @ counts) / 4)  # clipped somewhere


def test_full_scale_is_the_largest_sum_of_a_crossbar() -> None:
    nodes: dict[str, Any] = {
        "in": Input((3, 6)),
        "conv": Conv1d(
            3, 2, 3, stride=2, padding=1, dilation=2, weight_bits=4, weight=levels((2, 3, 3)).astype(np.float32)
        ),
        "out": Output((2, 2)),
    }
    net = chain("line", nodes)
    module = runnable(net)
    readings = install(module, Crossbars(size=2, adc_bits=8), rng())
    frames = torch.from_numpy((rng(5).random((4, 3, 6)) < 0.5).astype(np.float32))
    find_full_scales(module, readings, frames, 1, False)
    chip: Programmed | None = readings["conv"].programmed
    assert chip is not None
    padded = np.pad(frames.numpy(), ((0, 0), (0, 0), (1, 1)))
    largest = 0.0
    for q in range(2):
        for s in range(3):
            for some in (slice(0, 2), slice(2, 3)):
                sums = padded[:, some, 2 * q + 2 * s] @ chip.levels[:, some, s].T
                largest = max(largest, float(np.abs(sums).max()))
    assert readings["conv"].full_scale == largest


def test_adaptation_gives_every_channel_the_moments_it_had() -> None:
    net = network()
    chips = only(BAD, "wire resistance", "off-state leakage", "variation")

    def setup(module: Any, frames: Any) -> None:
        adapt(module, install(module, chips, rng()), runnable(net), *frames)

    plain, adapted = run(net)[1], run(net, setup)[1]
    for name in ("conv1", "conv2", "fc"):
        for moment in (torch.mean, torch.std):
            before, after = (moment(sent[name].transpose(0, 2).flatten(1).double(), 1) for sent in (plain, adapted))
            assert torch.allclose(before, after, rtol=1e-4, atol=1e-5), name


def test_gradients_pass_straight_through_to_the_weights() -> None:
    net = network()
    module = runnable(net)
    steps = {name: on_levels(name, node)[1] for name, node in net.nodes.items() if isinstance(node, Synapse)}
    readings = install(module, BAD, rng(), steps=steps)
    frames = torch.rand(2, 3, 8, 8)
    find_full_scales(module, readings, frames, 3, True)
    first = module(frames, 3, True)
    chip = readings["fc"].programmed
    first.sum().backward()
    assert readings["fc"].programmed is chip
    again = module(frames, 3, True)
    assert readings["fc"].programmed is not chip and not torch.equal(first, again)
    gradients = {name: p.grad for name, p in module.named_parameters()}
    assert all(grad is not None and torch.isfinite(grad).all() for grad in gradients.values())
    assert module.to_network().nodes["fc"].weight == pytest.approx(net.nodes["fc"].weight)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"size": 0}, "size must be 1..4096, got 0"),
        ({"adc_bits": 1}, "adc_bits must be 2..16, got 1"),
        ({"pairs": "both"}, "pairs must be differential or offset or negative, got 'both'"),
        ({"variation": -0.1}, "variation must be 0 or more and finite, got -0.1"),
        ({"off_ohm": 10.0}, "lsb_ohm and off_ohm are 19139.0 and 10.0"),
        ({"stuck_on": 0.7, "stuck_off": 0.5}, "probabilities that sum to at most 1"),
        ({"adc_range": 0.0}, "adc_range must be a positive number of levels, got 0.0"),
        (
            {"adc_range": 5.0},
            "adc_range has no effect without adc_bits",
        ),
    ],
)
def test_impossible_crossbars_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(NetworkError, match="^" + said.replace(".", r"\.") if "prob" not in said else said):
        Crossbars(**changes)


def test_what_cannot_be_programmed_is_refused_by_name() -> None:
    net = network()
    off_grid: Any = net.nodes["fc"]
    crooked = replace(net, nodes={**net.nodes, "fc": replace(off_grid, weight=rng().normal(size=(3, 16)))})
    with pytest.raises(NetworkError, match="layer 'fc' has weights that are no 15 levels of 4 bits"):
        crossbar(crooked, IDEAL, rng())
    with pytest.raises(NetworkError, match="adc_bits is 5, but a converter acts on sums"):
        crossbar(net, BAD, rng())
    bare = replace(net, nodes={**net.nodes, "fc": replace(off_grid, weight=None)})
    with pytest.raises(NetworkError, match="layer 'fc' has no weights"):
        crossbar(bare, IDEAL, rng())


def test_loops_run_on_crossbars_but_are_not_calibrated() -> None:
    weight = levels((2, 2)).astype(np.float32)
    nodes: dict[str, Any] = {
        "in": Input((2,)),
        "fc": Linear(2, 2, weight_bits=4, weight=weight),
        "if": IF(5.0),
        "late": Delay(1),
        "back": Linear(2, 2, weight_bits=4, weight=weight.T.copy()),
        "out": Output((2,)),
    }
    edges = (("in", "fc"), ("fc", "if"), ("if", "out"), ("if", "late"), ("late", "back"), ("back", "if"))
    net = Network(nodes, edges, "loop")
    spikes = torch.from_numpy((rng(6).random((12, 2)) < 0.5).astype(np.float32))
    plain, module = runnable(net), runnable(net)
    readings = install(module, IDEAL, rng())
    with torch.no_grad():
        assert torch.equal(plain(spikes, 4), module(spikes, 4))
    with pytest.raises(NetworkError, match="network 'loop' has a loop"):
        adapt(module, readings, plain, spikes, 4, False)
    with pytest.raises(NetworkError, match="network 'loop' has a loop"):
        find_full_scales(module, install(module, Crossbars(adc_bits=4), rng()), spikes, 4, False)
