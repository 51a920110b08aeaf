"""What makes training fast changes nothing: fused neurons, pools that keep no input, a constant first layer computed once."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from spikeloom.core.network import Network, chain
from spikeloom.core.nodes import LI, LIF, AvgPool2d, Conv2d, Flatten, Input, Leak, Linear, Output, Reset, SumPool2d
from spikeloom.snn import modules
from spikeloom.snn.build import SpikingModule, build
from spikeloom.snn.fused import spikes_of
from spikeloom.snn.modules import Frames, node_module
from spikeloom.snn.neurons import Dynamics, spike_loop
from spikeloom.snn.surrogate import SURROGATES

ATAN = SURROGATES["atan"]
CPU = torch.device("cpu")
NUM_STEPS, NUM_SAMPLES = 4, 3


def vgg(reset: Reset = "soft", pool: Any = AvgPool2d) -> Network:
    """A VGG small enough for a test, wide enough for channels-last: conv 16, 16, pool, 32, pool, fc on 3 x 12 x 12."""
    neuron = LIF(Leak(shift=1), 0.5, reset)
    nodes: dict[str, Any] = {"input": Input((3, 12, 12))}
    for number, (channels, wide) in enumerate([(3, 16), (16, 16), (16, 32)], start=1):
        nodes[f"conv{number}"] = Conv2d(channels, wide, (3, 3), padding=(1, 1))
        nodes[f"neuron{number}"] = neuron
        if number > 1:
            nodes[f"pool{number}"] = pool((2, 2), (2, 2))
    nodes |= {"flatten": Flatten(), "fc": Linear(32 * 9, 5), "readout": LI(), "output": Output((5,))}
    return chain("vgg", nodes)


def run(module: SpikingModule, frames: Tensor, constant: bool) -> tuple[dict[str, Tensor], list[Tensor]]:
    """(spikes of every neuron, gradient of every weight) for one loss."""
    spikes: dict[str, Tensor] = {}

    def watch(name: str, _: Tensor, sent: Tensor) -> None:
        if name.startswith("neuron"):
            spikes[name] = sent.detach().clone()

    module.zero_grad()
    scores = module.scores(module(frames, NUM_STEPS, constant, watch))
    F.cross_entropy(scores.float(), torch.arange(NUM_SAMPLES)).backward()
    return spikes, [p.grad.clone() for p in module.parameters() if p.grad is not None]


def plain_loop(psum: Tensor, num_steps: int, constant: bool, dynamics: Dynamics, kind: Any) -> Tensor:
    """Takes the place of `spikes_of`: one step after the other, gradients by autograd."""
    psum_TN = psum.expand(num_steps, *psum.shape) if constant else psum.view(num_steps, -1, *psum.shape[1:])
    return spike_loop(psum_TN, dynamics, kind).flatten(0, 1)


@pytest.mark.parametrize("reset", ["hard", "soft", "none"])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("detach_reset", [False, True])
def test_a_network_trains_as_with_a_plain_loop(
    reset: Reset, channels_last: bool, detach_reset: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spikes bit for bit, gradients of all weights up to rounding."""
    module = build(vgg(reset), detach_reset=detach_reset).arranged(CPU, channels_last)
    frames = torch.rand(NUM_STEPS * NUM_SAMPLES, 3, 12, 12, generator=torch.Generator().manual_seed(3))
    spikes, grads = run(module, frames, False)
    monkeypatch.setattr(modules, "spikes_of", plain_loop)
    expected_spikes, expected_grads = run(module, frames, False)
    assert all(0.02 < float(sent.mean()) < 0.98 for sent in spikes.values())
    for name, sent in spikes.items():
        assert torch.equal(sent, expected_spikes[name])
    assert len(grads) == len(expected_grads) == 4
    for grad, expected in zip(grads, expected_grads, strict=True):
        assert expected.abs().max() > 0
        torch.testing.assert_close(grad, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", SURROGATES.values())
def test_rows_longer_than_a_chunk(dtype: torch.dtype, kind: Any) -> None:
    """Several chunks, the last of them short, and more steps than a chunk of the backward pass is cut for."""
    for num_steps, size in ((3, 2 * 2048 + 77), (40, 2048 + 5)):
        generator = torch.Generator().manual_seed(4)
        psum = torch.randn(num_steps, size, generator=generator).to(dtype)
        incoming = torch.randn(num_steps, size, generator=generator).to(dtype)
        found = []
        for function in (spikes_of, plain_loop):
            x = psum.clone().requires_grad_()
            spikes = function(x, num_steps, False, Dynamics(0.75, 0.5, "soft"), kind)
            spikes.backward(incoming)
            assert x.grad is not None
            found.append((spikes.detach(), x.grad.float()))
        assert torch.equal(found[0][0], found[1][0])
        exact = dtype == torch.float32
        torch.testing.assert_close(
            found[0][1], found[1][1], rtol=1e-4 if exact else 2**-7, atol=1e-5 if exact else 1e-2
        )


def test_a_constant_first_layer_is_computed_once_and_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights and pixels are multiples of 1/16, so that sums are exact in any order."""
    module = build(vgg()).arranged(CPU, True)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_((parameter * 16).round() / 16)
    images = torch.randint(0, 17, (NUM_SAMPLES, 3, 12, 12), generator=torch.Generator().manual_seed(5)) / 16
    seen: list[tuple[int, int]] = []
    plain = F.conv2d

    def counted(x: Tensor, weight: Tensor, *args: Any) -> Tensor:
        seen.append((x.shape[0], x.shape[1]))
        return plain(x, weight, *args)

    monkeypatch.setattr(F, "conv2d", counted)
    spikes, grads = run(module, images, True)
    assert seen == [(NUM_SAMPLES, 3), (NUM_STEPS * NUM_SAMPLES, 16), (NUM_STEPS * NUM_SAMPLES, 16)]
    expected_spikes, expected_grads = run(module, images.repeat(NUM_STEPS, 1, 1, 1), False)
    assert seen[3] == (NUM_STEPS * NUM_SAMPLES, 3)
    for name, sent in spikes.items():
        assert sent.any() and torch.equal(sent, expected_spikes[name])
    for grad, expected in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("kind", [AvgPool2d, SumPool2d])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [((2, 2), (2, 2), (0, 0)), ((3, 2), (1, 2), (1, 0)), ((3, 3), (2, 2), (1, 1))],
)
def test_pools_are_those_of_torch(
    kind: Any, dtype: torch.dtype, layout: torch.memory_format, kernel: Any, stride: Any, padding: Any
) -> None:
    """Bit for bit, in values, gradients and memory order."""
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(4, 5, 7, 8, generator=generator).to(dtype).contiguous(memory_format=layout)
    module = node_module("pool", kind(kernel, stride, padding), ATAN, False)
    assert module is not None
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    pooled = module(Frames(ours, 2, False)).values
    expected = F.avg_pool2d(theirs, kernel, stride, padding, divisor_override=1 if kind is SumPool2d else None)
    incoming = torch.randn(expected.shape, generator=generator).to(dtype)
    pooled.backward(incoming)
    expected.backward(incoming)
    assert torch.equal(pooled, expected) and pooled.stride() == expected.stride()
    assert ours.grad is not None and theirs.grad is not None
    assert torch.equal(ours.grad, theirs.grad) and ours.grad.stride() == theirs.grad.stride()


def test_a_pool_keeps_nothing_of_its_input() -> None:
    module = node_module("pool", AvgPool2d((2, 2), (2, 2)), ATAN, False)
    assert module is not None
    before = torch.randn(2, 3, 4, 4, requires_grad=True)
    x = before * 2  # does not keep its result either
    kept = weakref.ref(x)
    pooled = module(Frames(x, 1, False)).values
    del x
    assert kept() is None
    pooled.sum().backward()
    assert before.grad is not None and torch.equal(before.grad, torch.full_like(before, 0.5))
