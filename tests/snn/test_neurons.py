"""Neurons: closed forms for the readable loop, and the fused kernel equal to the loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spikeloom.core.nodes import IF, LI, LIF, CubaLIF, Leak
from spikeloom.errors import NetworkError
from spikeloom.snn import fused as fused_module
from spikeloom.snn import modules
from spikeloom.snn.fused import spikes_of
from spikeloom.snn.modules import Frames, SpikingNeuron
from spikeloom.snn.neurons import Dynamics, integrated, leaky_sum, spike_loop, touched
from spikeloom.snn.surrogate import SURROGATES
from tests.reference.integer import Cell

ATAN = SURROGATES["atan"]


def both(psum: Tensor, num_steps: int, constant: bool, dynamics: Dynamics, kind: Any) -> list[tuple[Tensor, Tensor]]:
    """(spikes, gradient of the sums) by the kernel and by the loop, for one random incoming gradient."""
    found = []
    for fused in (True, False):
        x = psum.clone(memory_format=torch.preserve_format).requires_grad_()
        if fused:
            spikes = spikes_of(x, num_steps, constant, dynamics, kind)
        else:
            x_TN = x.expand(num_steps, *x.shape) if constant else x.reshape(num_steps, -1, *x.shape[1:])
            spikes = spike_loop(x_TN, dynamics, kind).flatten(0, 1)
        incoming = torch.randn(spikes.shape, generator=torch.Generator().manual_seed(7))
        spikes.backward(incoming.to(spikes.dtype))
        assert x.grad is not None
        found.append((spikes.detach().float(), x.grad.float()))
    return found


@pytest.mark.parametrize("num_steps", [1, 2, 3, 4, 8, 16, 32])
@pytest.mark.parametrize("theta", [2, 64, 100])
def test_soft_reset_under_constant_drive_counts_by_the_closed_form(num_steps: int, theta: int) -> None:
    """``N = clip(floor((x*T + v0) / theta), 0, T)``, exact in integers; with v0 = theta/2 a rounded rate."""
    drive = torch.arange(-theta, 2 * theta + 1)
    for v_init in (0, theta // 2):
        expected = ((drive * num_steps + v_init) // theta).clamp(0, num_steps)
        for bits in (None, 24):
            node = IF(theta, "soft", v_init=v_init, membrane_bits=bits)
            spikes = spike_loop(drive.float().expand(num_steps, -1), Dynamics.of("n", node), ATAN)
            assert torch.equal(spikes.sum(0), expected.float())
        spikes = spikes_of(drive.float(), num_steps, True, Dynamics(1.0, theta, "soft", v_init=v_init), ATAN)
        assert torch.equal(spikes.view(num_steps, -1).sum(0), expected.float())


def test_hard_reset_forgets_and_leak_decays() -> None:
    psum = torch.tensor([0.75, 0.75, 0.75, 0.0, 0.75])[:, None]
    assert spike_loop(psum, Dynamics(), ATAN)[:, 0].tolist() == [0, 1, 0, 0, 1]
    # kept 0.5: 0.75, 1.125 fires, 0.75, 0.375, 0.9375
    assert spike_loop(psum, Dynamics(0.5), ATAN)[:, 0].tolist() == [0, 1, 0, 0, 0]
    # no reset: 0.75, 1.5, 2.25, 2.25, 3.0
    assert spike_loop(psum, Dynamics(reset="none"), ATAN)[:, 0].tolist() == [0, 1, 1, 1, 1]


@pytest.mark.parametrize("reset", ["hard", "soft", "none"])
def test_strict_is_strict_in_loop_and_kernel(reset: Any) -> None:
    psum = torch.tensor([1.0, 0.5, 0.5, 1e-7])[:, None]
    for strict in (False, True):
        dynamics = Dynamics(reset=reset, strict=strict)
        loop = spike_loop(psum, dynamics, ATAN)
        assert loop[0, 0] == (0 if strict else 1)
        assert torch.equal(spikes_of(psum, 4, False, dynamics, ATAN), loop)


@settings(max_examples=120, deadline=None)
@given(
    num_steps=st.sampled_from([1, 2, 5, 33]),
    num_samples=st.integers(1, 3),
    shape=st.sampled_from([(7,), (3, 5, 4), (64, 3, 3)]),
    dynamics=st.builds(
        Dynamics,
        kept=st.sampled_from([1.0, 0.5, 0.75, 1 - 2**-5]),
        v_threshold=st.sampled_from([0.3, 1.0, 4.0]),
        reset=st.sampled_from(["hard", "soft", "none"]),
        strict=st.booleans(),
        v_init=st.sampled_from([0.0, 0.5]),
        detach_reset=st.booleans(),
    ),
    kind=st.sampled_from(list(SURROGATES.values())),
    constant=st.booleans(),
    channels_last=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_kernel_equals_loop(
    num_steps: int,
    num_samples: int,
    shape: tuple[int, ...],
    dynamics: Dynamics,
    kind: Any,
    constant: bool,
    channels_last: bool,
    seed: int,
) -> None:
    """Spikes identical, gradients to 1e-5 of their scale, in every combination of choices."""
    frames = num_samples if constant else num_samples * num_steps
    psum = torch.randn((frames, *shape), generator=torch.Generator().manual_seed(seed)) * dynamics.v_threshold
    if channels_last and psum.dim() == 4:
        psum = psum.contiguous(memory_format=torch.channels_last)
    (fused, fused_grad), (loop, loop_grad) = both(psum, num_steps, constant, dynamics, kind)
    assert torch.equal(fused, loop)
    torch.testing.assert_close(fused_grad, loop_grad, rtol=1e-5, atol=1e-5 * max(1.0, float(loop_grad.abs().max())))


@pytest.mark.parametrize("reset", ["hard", "soft"])
@pytest.mark.parametrize("constant", [False, True])
def test_bf16_sums_keep_a_float32_membrane(reset: Any, constant: bool) -> None:
    psum = torch.randn(4 if constant else 32, 3, 5, 5, generator=torch.Generator().manual_seed(1)).bfloat16()
    (fused, fused_grad), (loop, loop_grad) = both(psum, 8, constant, Dynamics(0.75, reset=reset), ATAN)
    assert torch.equal(fused, loop)
    torch.testing.assert_close(fused_grad, loop_grad, rtol=2**-7, atol=1e-2)  # one rounding to 8 bits each


def test_threads_do_not_change_a_bit() -> None:
    psum = torch.randn(4 * 8, 16, 40, 40, generator=torch.Generator().manual_seed(2))
    before, results = torch.get_num_threads(), []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            x = psum.clone().requires_grad_()
            spikes = spikes_of(x, 4, False, Dynamics(0.75), ATAN)
            spikes.square().sum().backward()
            results.append((spikes.detach(), x.grad))
    finally:
        torch.set_num_threads(before)
    for spikes, grad in results[1:]:
        assert torch.equal(spikes, results[0][0])
        assert torch.equal(grad, results[0][1])


def test_memory_order_is_kept() -> None:
    psum = torch.randn(8, 16, 4, 4).contiguous(memory_format=torch.channels_last)
    assert spikes_of(psum, 4, False, Dynamics(), ATAN).is_contiguous(memory_format=torch.channels_last)
    gaps = torch.randn(8, 32, 4, 4)[:, ::2]
    assert torch.equal(
        spikes_of(gaps, 4, False, Dynamics(), ATAN), spikes_of(gaps.contiguous(), 4, False, Dynamics(), ATAN)
    )


def test_float64_takes_the_loop() -> None:
    """With the same spikes, behind a synaptic current too."""
    psum = torch.randn(8, 50, generator=torch.Generator().manual_seed(0))
    assert spikes_of(psum.double(), 4, False, Dynamics(), ATAN).dtype == torch.float64
    neuron = SpikingNeuron(Dynamics(0.5, 0.8, syn_kept=0.75), ATAN)
    spikes = [neuron(Frames(x, 4, False)).values for x in (psum, psum.double())]
    assert spikes[0].any()
    assert torch.equal(spikes[0].double(), spikes[1]) and spikes[1].dtype == torch.float64


def test_a_synaptic_current_leaks_once_where_there_is_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """On other devices the loop takes the kernel's place."""

    def elsewhere(psum: Tensor, num_steps: int, constant: bool, dynamics: Dynamics, kind: Any) -> Tensor:
        return spike_loop(psum.view(num_steps, -1, *psum.shape[1:]), dynamics, kind).flatten(0, 1)

    psum = Frames(torch.randn(8, 50, generator=torch.Generator().manual_seed(0)), 4, False)
    neuron = SpikingNeuron(Dynamics(0.5, 0.8, syn_kept=0.75), ATAN)
    here = neuron(psum).values
    monkeypatch.setattr(modules, "spikes_of", elsewhere)
    assert here.any()
    assert torch.equal(here, neuron(psum).values)


FUSABLE: list[Any] = [
    IF(0.5, "soft", True, 0.25),
    IF(np.full((3, 1), 0.5), "none", v_reset=3.0),
    LIF(Leak(shift=2), np.float32(0.5), "soft", v_reset=3.0),
    LIF(Leak(factor=np.full(2, 0.9)), v_init=np.zeros(2)),
    CubaLIF(Leak(shift=1), Leak(factor=0.5)),
]
OTHERS: list[Any] = [
    IF(v_reset=0.5), IF(late_reset=True), IF(max_level=2), IF(signed=True), IF(membrane_bits=8), IF(np.array([1.0, 2.0])),
    IF(v_init=np.array([0.0, 0.5])), LIF(Leak(factor=np.array([0.5, 0.25]))), CubaLIF(Leak(shift=1), Leak(factor=np.array([0.5, 1]))),
]  # fmt: skip


@pytest.mark.parametrize("node", FUSABLE + OTHERS)
def test_only_what_the_kernel_does_not_know_takes_the_loop(node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Dynamics] = []

    def counted(psum: Tensor, dynamics: Dynamics, kind: Any) -> Tensor:
        taken.append(dynamics)
        return spike_loop(psum, dynamics, kind)

    monkeypatch.setattr(modules, "spike_loop", counted)
    monkeypatch.setattr(fused_module, "spike_loop", counted)
    psum = torch.randn(4 * 5, 3, 2, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    neuron = SpikingNeuron(Dynamics.of("n", node), ATAN)
    spikes = neuron(Frames(psum, 4, False)).values
    assert len(taken) == (node in OTHERS)
    assert torch.equal(spikes, spike_loop(psum.view(4, 5, 3, 2), Dynamics.of("n", node), ATAN).flatten(0, 1))


# --- graded, signed, late: a plain loop over Python's numbers -----------------------------------------------------

SHAPE = (2, 3)


@st.composite
def real_neurons(draw: st.DrawFn) -> Any:
    """Any neuron with any options; dyadic numbers, so that eight steps are exact in float32."""

    def numbers(*choices: float) -> Any:
        each = draw(st.sampled_from(((), (2, 1), SHAPE)))
        found = [draw(st.sampled_from(choices)) for _ in range(int(np.prod(each)))]
        return np.array(found).reshape(each) if each else found[0]

    def leak() -> Leak:
        return draw(st.sampled_from((Leak(shift=1), Leak(shift=2)))) if draw(st.booleans()) else Leak(
            factor=numbers(0.0, 0.25, 0.75, 1.0)
        )  # fmt: skip

    more: Any = {
        "v_threshold": numbers(0.25, 0.5, 1.0, 2.0),
        "reset": draw(st.sampled_from(("hard", "soft", "none"))),
        "strict": draw(st.booleans()),
        "v_init": numbers(0.0, 0.5, -0.5, 1.5),
        "v_reset": numbers(0.0, 0.25, -0.75, 1.0),
        "late_reset": draw(st.booleans()),
        "max_level": draw(st.sampled_from((1, 1, 3))),
        "signed": draw(st.booleans()),
    }
    return draw(st.sampled_from((IF(**more), LIF(leak(), **more), CubaLIF(leak(), leak(), **more))))


def one_by_one(node: Any, psum_TN: np.ndarray) -> np.ndarray:
    """What each neuron of ``node`` sends, one neuron after the other; (T, N, *shape)."""
    sent = np.zeros(psum_TN.shape, np.float32)
    for place in np.ndindex(psum_TN.shape[1:]):
        cell = Cell(node, psum_TN.shape[2:], place[1:])
        for t, psum in enumerate(psum_TN[(slice(None), *place)]):
            sent[(t, *place)] = cell.step(float(psum))
    return sent


@settings(max_examples=150, deadline=None)
@given(node=real_neurons(), num_steps=st.integers(1, 8), seed=st.integers(0, 2**16))
def test_every_neuron_equals_a_loop_over_single_neurons(node: Any, num_steps: int, seed: int) -> None:
    psum = np.random.default_rng(seed).integers(-16, 24, (num_steps, 2, *SHAPE)).astype(np.float32) / 8
    expected = one_by_one(node, psum)
    arrived = Frames(torch.from_numpy(psum).flatten(0, 1), num_steps, False)
    neuron = SpikingNeuron(Dynamics.of("n", node), ATAN)
    sent = neuron(arrived).over_time().numpy()
    assert np.array_equal(sent, expected)
    step = neuron.stepping(torch.from_numpy(psum[0]))
    assert np.array_equal(np.stack([step(x) for x in torch.from_numpy(psum)]), expected)
    assert np.abs(sent).max() <= node.max_level
    assert (np.cumsum(sent, axis=0) >= 0).all()
    if not node.signed:
        assert (sent >= 0).all()


def levels(node: Any, *psum: float) -> list[float]:
    return spike_loop(torch.tensor(psum)[:, None].expand(-1, 2), Dynamics.of("n", node), ATAN)[:, 0].tolist()


def test_options_of_neurons_by_hand() -> None:
    # late: the membrane 1.5 fires, the step after takes 1 away (soft), or forgets all it got (hard)
    assert levels(IF(reset="soft", late_reset=True), 1.5, 0.25, 0.25, 0.25) == [1, 0, 1, 0]
    assert levels(IF(late_reset=True), 1.5, 5.0, 0.25, 0.75) == [1, 0, 0, 1]
    assert levels(IF(late_reset=True, v_reset=0.5), 1.5, 5.0, 0.25, 0.25) == [1, 0, 0, 1]
    assert levels(IF(v_reset=-1.0), 1.0, 1.0, 1.0, 1.0) == [1, 0, 1, 0]
    # graded: floor of 3.5 thresholds, of at most 2
    assert levels(IF(0.5, "soft", max_level=9), 1.75, 0.0, 0.25) == [3, 0, 1]
    assert levels(IF(0.5, "soft", max_level=2), 1.75, 0.0, 0.25) == [2, 1, 1]
    assert levels(IF(0.5, "soft", True, max_level=9), 1.5, 0.5, 0.25) == [2, 1, 1]
    # signed: takes back what it sent, and no more
    assert levels(IF(reset="soft", signed=True), 1.0, -1.0, -1.0, 2.0) == [1, -1, 0, 1]
    assert levels(IF(reset="soft", signed=True, max_level=4), 3.0, -2.0, -9.0, 0.0) == [3, -2, -1, 0]
    # the synaptic current 1, 0.5, 0.25 charges a membrane that starts at 0.25
    assert levels(CubaLIF(Leak(factor=1.0), Leak(factor=0.5), reset="soft", v_init=0.25), 1.0, 0.0, 0.0) == [1, 0, 1]


def test_integer_membranes_hold_every_bit_of_their_word() -> None:
    large = 2**40 + 1
    for start in (large, np.array([large, large])):
        node = IF(start, v_init=start, v_reset=start, membrane_bits=42)
        assert levels(node, 0.0, 0.0, -1.0, 0.0, 1.0) == [1, 1, 0, 0, 1]


def test_a_threshold_for_each_neuron_has_the_gradient_of_one_for_all() -> None:
    psum = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0))
    found = []
    for threshold in (0.5, torch.full((3,), 0.5)):
        x = psum.clone().requires_grad_()
        spikes = spike_loop(x, Dynamics(0.75, threshold, "soft"), ATAN)
        spikes.square().sum().backward()
        found.append((spikes.detach(), x.grad))
    torch.testing.assert_close(found[0], found[1])


def test_the_gradient_of_graded_spikes_is_that_of_the_clipped_ramp() -> None:
    psum = torch.tensor([[-0.7, -0.2, 0.3, 0.6, 1.4, 1.6]], requires_grad=True)
    sent = spike_loop(psum, Dynamics(v_threshold=0.5, max_level=3, reset="soft"), ATAN)
    sent.sum().backward()
    assert sent[0].tolist() == [0, 0, 0, 1, 2, 3]
    assert psum.grad is not None
    assert psum.grad[0].tolist() == [0, 0, 2, 2, 2, 0]


def test_dynamics_of_nodes() -> None:
    assert Dynamics.of("a", IF(2.0, "soft", True, 0.5)) == Dynamics(1.0, 2.0, "soft", True, 0.5)
    assert Dynamics.of("a", LIF(Leak(shift=3))).kept == 0.875
    assert Dynamics.of("a", CubaLIF(Leak(factor=0.25), Leak(factor=0.5))).kept == 0.25


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (IF(None), "no threshold"),
        (IF(0.0), "positive"),
        (IF(float("nan")), "positive"),
        (IF(np.array([1.0, -1.0])), "got threshold -1.0..1.0, expected a positive one"),
        (LIF(None), "does not state its leak"),
        (CubaLIF(Leak(shift=1), None), "does not state its leak"),
        (IF(max_level=0), "got max_level 0, expected at least 1"),
        (IF(membrane_bits=1), "got membrane_bits 1, expected 2..48"),
        (IF(membrane_bits=49), "got membrane_bits 49, expected 2..48"),
        (IF(1.5, membrane_bits=8), "integer membranes, but got 1.5 where a whole number"),
        (IF(np.inf, membrane_bits=8), "got inf, which its membranes cannot hold"),
        (IF(1.0, v_init=128.0, membrane_bits=8), "got 128.0, which its membranes cannot hold; expected -128..127"),
        (IF(1.0, v_reset=np.array([-129, 0]), membrane_bits=8), "got -129..0, which its membranes cannot hold"),
    ],
)
def test_what_cannot_run_is_refused_by_name(node: Any, words: str) -> None:
    with pytest.raises(NetworkError, match=f"'n7'.*{words}"):
        Dynamics.of("n7", node)


def test_integrator_and_touched() -> None:
    psum = torch.tensor([[1.0, 0.0], [0.0, 0.0], [2.0, 0.0]])
    assert leaky_sum(psum, 0.5).tolist() == [[1, 0], [0.5, 0], [2.25, 0]]
    assert leaky_sum(psum, 1.0).tolist() == [[1, 0], [1, 0], [3, 0]]
    assert integrated(psum, LI()).tolist() == [[1, 0], [1, 0], [3, 0]]
    assert integrated(psum, LI(Leak(factor=np.array([0.5, 1.0])))).tolist() == [[1, 0], [0.5, 0], [2.25, 0]]
    bounded = integrated(psum * 4, LI(Leak(shift=1), membrane_bits=4))  # 4, 2, 1 + 8 beyond the largest of 4 bits
    assert (bounded[:, 0].tolist(), bounded.dtype) == ([4, 2, 7], torch.float64)
    # Threshold 2: the membrane is 1 before step 1, 1 before step 2 (IF), nothing ever in the second neuron.
    assert touched(psum, Dynamics(1.0, 2.0)).tolist() == [[False, False], [True, False], [True, False]]
