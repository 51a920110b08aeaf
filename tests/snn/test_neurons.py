"""Neurons: closed forms for the readable loop, and the fused kernel equal to the loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spikeloom.core.network import IF, LIF, CubaLIF, Leak
from spikeloom.errors import NetworkError
from spikeloom.snn.fused import spikes_of
from spikeloom.snn.neurons import Dynamics, leaky_sum, spike_loop, touched
from spikeloom.snn.surrogate import SURROGATES

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


@pytest.mark.parametrize("seed", range(4))
def test_soft_reset_under_constant_drive_counts_by_the_closed_form(seed: int) -> None:
    """``N = clip(floor((x*T + v0) / theta), 0, T)``, exact in integers."""
    generator = np.random.default_rng(seed)
    num_steps, theta = 16, 64
    drive = torch.from_numpy(generator.integers(-32, 96, 500)).float()
    for v_init in (0, theta // 2):
        dynamics = Dynamics(1.0, theta, "soft", v_init=v_init)
        spikes = spike_loop(drive.expand(num_steps, -1), dynamics, ATAN)
        expected = torch.clamp(torch.floor((drive * num_steps + v_init) / theta), 0, num_steps)
        assert torch.equal(spikes.sum(0), expected)
        assert torch.equal(spikes_of(drive, num_steps, True, dynamics, ATAN).view(num_steps, -1).sum(0), expected)


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
    psum = torch.randn(8, 5, dtype=torch.float64)
    assert spikes_of(psum, 4, False, Dynamics(), ATAN).dtype == torch.float64


def test_dynamics_of_nodes() -> None:
    assert Dynamics.of("a", IF(2.0, "soft", True, 0.5)) == Dynamics(1.0, 2.0, "soft", True, 0.5)
    assert Dynamics.of("a", LIF(Leak(shift=3))).kept == 0.875
    assert Dynamics.of("a", CubaLIF(Leak(factor=0.25), Leak(factor=0.5))).kept == 0.25


@pytest.mark.parametrize(
    ("node", "words"),
    [(IF(None), "no threshold"), (IF(0.0), "positive"), (LIF(None), "does not state its leak")],
)
def test_what_cannot_run_is_refused_by_name(node: Any, words: str) -> None:
    with pytest.raises(NetworkError, match=f"'n7'.*{words}"):
        Dynamics.of("n7", node)


def test_integrator_and_touched() -> None:
    psum = torch.tensor([[1.0, 0.0], [0.0, 0.0], [2.0, 0.0]])
    assert leaky_sum(psum, 0.5).tolist() == [[1, 0], [0.5, 0], [2.25, 0]]
    assert leaky_sum(psum, 1.0).tolist() == [[1, 0], [1, 0], [3, 0]]
    # Threshold 2: the membrane is 1 before step 1, 1 before step 2 (IF), nothing ever in the second neuron.
    assert touched(psum, Dynamics(1.0, 2.0)).tolist() == [[False, False], [True, False], [True, False]]
