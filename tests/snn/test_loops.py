"""Networks with loops: every step by hand, gradients too, and what a recording of one is good for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from spikeloom.core.network import Network
from spikeloom.core.nodes import (
    LI,
    LIF,
    BatchNorm,
    Conv2d,
    Delay,
    Flatten,
    Input,
    Leak,
    Linear,
    Output,
    Scale,
)
from spikeloom.core.trace import Spikes
from spikeloom.errors import MappingError, NetworkError
from spikeloom.files.store import read_trace, write_trace
from spikeloom.hw.spikex import Spikex, SpikexArch
from spikeloom.lower import lower
from spikeloom.snn import SURROGATES, Execution, build, evaluate, record
from spikeloom.snn.neurons import Dynamics, Membranes

from .toys import Pixels, spiking_frames

ATAN = SURROGATES["atan"]


def weights(rng: np.random.Generator, K: int, C: int) -> np.ndarray:
    """Sixteenths: sums of a few are exact in float32 in any order."""
    return rng.integers(-12, 21, (K, C)).astype(np.float32) / 16


def looped(near: int = 1, far: int = 1) -> Network:
    """Two layers; the first hears itself `near` steps and the second `far` steps ago; a delay behind all, named first."""
    rng = np.random.default_rng(3)
    lif = LIF(Leak(shift=2), 1.0, "soft")
    nodes: dict[str, Any] = {
        "tail": Delay(1), "in": Input((3,)), "a": Linear(3, 4, weight=weights(rng, 4, 3)), "lif1": lif,
        "late1": Delay(near), "own": Linear(4, 4, True, weight=weights(rng, 4, 4), bias=weights(rng, 4, 1)[:, 0]),
        "b": Linear(4, 5, weight=weights(rng, 5, 4)), "lif2": lif, "late2": Delay(far), "back": Linear(5, 4, weight=weights(rng, 4, 5)),
        "fc": Linear(5, 2, weight=weights(rng, 2, 5)), "li": LI(), "out": Output((2,)),
    }  # fmt: skip
    edges = (
        ("in", "a"), ("a", "lif1"), ("lif1", "late1"), ("late1", "own"), ("own", "lif1"), ("lif1", "b"), ("b", "lif2"),
        ("lif2", "late2"), ("late2", "back"), ("back", "lif1"), ("lif2", "fc"), ("fc", "li"), ("li", "tail"), ("tail", "out"),
    )  # fmt: skip
    return Network(nodes, edges)


def hand_loop(network: Network, frames: Tensor, w: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Spikes of both layers and the delayed read-out of `looped`, (T, N, ...), written out."""
    near, far = (network.nodes[name].steps for name in ("late1", "late2"))  # type: ignore[union-attr]
    T, N = frames.shape[:2]
    cells = [Membranes(torch.zeros(N, k), Dynamics(0.75, 1.0, "soft"), ATAN) for k in (4, 5)]
    s1: list[Tensor] = []
    s2: list[Tensor] = []
    readout = [torch.zeros(N, 2)]
    for t in range(T):
        heard1 = s1[t - near] if t >= near else torch.zeros(N, 4)
        heard2 = s2[t - far] if t >= far else torch.zeros(N, 5)
        s1.append(cells[0].step(frames[t] @ w["a"].T + heard1 @ w["own"].T + w["bias"] + heard2 @ w["back"].T))
        s2.append(cells[1].step(s1[t] @ w["b"].T))
        readout.append(readout[-1] + s2[t] @ w["fc"].T)
    return torch.stack(s1), torch.stack(s2), torch.stack(readout[:-1])


def arrays(network: Network) -> dict[str, Tensor]:
    """The weights of `looped` as leaves."""
    nodes: Any = network.nodes
    found = {name: torch.tensor(nodes[name].weight) for name in ("a", "own", "back", "b", "fc")}
    return {name: x.requires_grad_() for name, x in {**found, "bias": torch.tensor(nodes["own"].bias)}.items()}


@pytest.mark.parametrize("num_steps", range(1, 7))
@pytest.mark.parametrize(("near", "far"), [(1, 1), (2, 1), (1, 3), (3, 2)])
def test_a_loop_equals_its_steps_by_hand(num_steps: int, near: int, far: int) -> None:
    network = looped(near, far)
    frames = torch.from_numpy(spiking_frames(num_steps, 8, (3,), 0.6)).float()
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    with torch.no_grad():
        trajectory = build(network).eval()(
            frames.flatten(0, 1), num_steps, False, lambda name, x, y: seen.update({name: (x, y)})
        )
        s1, s2, readout = hand_loop(network, frames, arrays(network))
    assert torch.equal(seen["lif1"][1], s1)
    assert torch.equal(seen["lif2"][1], s2)
    assert torch.equal(trajectory, readout)
    assert 0 < float(s1.mean()) < 1
    assert set(seen) == set(network.nodes) - {"in"}
    for name, node in network.nodes.items():  # a delay sends what came steps ago
        if isinstance(node, Delay):
            arrived, sent = seen[name]
            assert torch.equal(sent[node.steps :], arrived[: max(0, num_steps - node.steps)])
            assert not sent[: node.steps].any()


@pytest.mark.parametrize("num_steps", [3, 6])
def test_gradients_flow_through_a_loop(num_steps: int) -> None:
    """As by hand; what the last step hears, the delayed read-out does not show."""
    network = looped(1, 2)
    frames = torch.from_numpy(spiking_frames(num_steps, 8, (3,), 0.6)).float()
    module = build(network)
    module(frames.flatten(0, 1), num_steps).square().sum().backward()
    by_hand = arrays(network)
    hand_loop(network, frames, by_hand)[2].square().sum().backward()
    for name, module_name, key in [(n, n, "weight") for n in ("a", "own", "back", "b", "fc")] + [
        ("bias", "own", "bias")
    ]:
        mine = getattr(module.module_of(module_name), key).grad
        assert mine is not None and bool(mine.isfinite().all())
        other = by_hand[name].grad
        torch.testing.assert_close(mine, torch.zeros_like(mine) if other is None else other, rtol=1e-4, atol=1e-5)
        assert bool(mine.any()) == (name != "back" or num_steps == 6)


def test_a_constant_input_of_a_loop_is_the_same_as_its_copies() -> None:
    frames = torch.rand(4, 3, generator=torch.Generator().manual_seed(0))
    module = build(looped()).eval()
    with torch.no_grad():
        once = module(frames, 5, True)
        assert torch.equal(once, module(frames.expand(5, 4, 3).flatten(0, 1), 5))
    assert once.any()


def test_maps_may_be_fed_back() -> None:
    """Each pixel hears its left neighbour a step late: a spike runs to the right."""
    shift = np.zeros((1, 1, 1, 3), np.float32)
    shift[..., 0] = 1
    nodes: dict[str, Any] = {
        "in": Input((1, 1, 5)), "a": Conv2d(1, 1, (1, 1), weight=np.ones((1, 1, 1, 1), np.float32)), "n": LIF(Leak(factor=0.0)),
        "late": Delay(), "back": Conv2d(1, 1, (1, 3), padding=(0, 1), weight=shift), "flat": Flatten(), "out": Output((5,)),
    }  # fmt: skip
    edges = (("in", "a"), ("a", "n"), ("n", "late"), ("late", "back"), ("back", "n"), ("n", "flat"), ("flat", "out"))
    frames = torch.zeros(5, 1, 1, 1, 5)
    frames[0, ..., 0] = 1
    with torch.no_grad():
        assert torch.equal(build(Network(nodes, edges))(frames.flatten(0, 1), 5)[:, 0], torch.eye(5))


def test_a_loop_without_a_delay_is_not_built() -> None:
    network = looped()
    edges = tuple(edge for edge in network.edges if "late2" not in edge)
    with pytest.raises(NetworkError, match=r"loop without a delay through \['\w+', '\w+', '\w+', '\w+'\]"):
        build(Network(network.nodes, (*edges, ("lif2", "back"))))


def test_a_normalisation_in_a_loop_without_neurons_finds_no_threshold() -> None:
    """And an end: what follows it comes round again."""
    nodes: dict[str, Any] = {
        "in": Input((2,)), "a": Linear(2, 2), "norm": BatchNorm(2), "late": Delay(), "back": Linear(2, 2), "out": Output((2,))
    }  # fmt: skip
    edges = (("in", "a"), ("a", "norm"), ("norm", "late"), ("late", "back"), ("back", "norm"), ("norm", "out"))
    made: Any = build(Network(nodes, edges)).to_network().nodes["norm"]
    assert made.gamma.tolist() == [1, 1]


# --- a recording --------------------------------------------------------------------------------------------------


def recorded(steps: int) -> tuple[Network, Pixels, Any]:
    """A layer that hears itself, 11 steps of it."""
    network = looped(steps)
    gone = {"late2", "back", "tail"}
    edges = tuple(edge for edge in network.edges if not gone & {*edge})
    nodes = {name: node for name, node in network.nodes.items() if name not in gone}
    network = Network(nodes, (*edges, ("li", "out")), "recurrent")
    source = Pixels(spiking_frames(11, 7, (3,), 0.5), np.arange(7) % 2, sample_axis=1)
    return network, source, record(network, source, Execution(11, "events", batch_size=3))


@pytest.mark.parametrize("steps", [1, 3])
def test_a_recording_holds_what_comes_back(steps: int) -> None:
    network, source, trace = recorded(steps)
    assert set(trace.arrivals) == set(network.layers()) == {"a", "own", "b", "fc"}
    heard, sent = trace.arrivals["own"], trace.outputs["own"]
    assert isinstance(heard, Spikes)
    assert np.array_equal(heard.unpack()[steps:], sent.unpack()[:-steps])
    assert not heard.unpack()[:steps].any()
    assert np.array_equal(sent.packed, trace.arrivals["b"].packed)
    assert 0 < sent.density() < 1
    assert trace.accuracy == evaluate(network, source, Execution(11, "events"))
    with pytest.raises(
        NetworkError, match=r"neurons of 'lif1' have work: they get \['a', 'own'\].*record without updates"
    ):
        record(network, source, Execution(11, "events"), updates=True)


def test_a_recorded_loop_is_written_read_and_refused_by_a_machine_that_batches_steps(tmp_path: Path) -> None:
    network, _, trace = recorded(1)
    write_trace(tmp_path / "t.npz", network, trace, weights=True)
    read, again = read_trace(tmp_path / "t.npz")
    for name, arrival in trace.arrivals.items():
        assert np.array_equal(again.arrivals[name].packed, arrival.packed)  # type: ignore[union-attr]
        assert np.array_equal(read.nodes[name].weight, network.nodes[name].weight)  # type: ignore[union-attr]
        assert read.layer_inputs(name) == network.layer_inputs(name)
    for net in (network, read):
        workload = lower(net, trace)
        assert [layer.name for layer in workload.layers if layer.recurrent] == ["own"]
        with pytest.raises(
            MappingError, match="layer 'own': this machine batches time steps and cannot run a recurrent layer"
        ):
            Spikex().map(workload, SpikexArch())


def test_a_recording_of_a_loop_does_not_depend_on_the_size_of_batches() -> None:
    network, source, trace = recorded(2)
    for size in (1, None):
        other = record(network, source, Execution(11, "events", batch_size=size))
        for name, arrival in trace.arrivals.items():
            assert np.array_equal(arrival.packed, other.arrivals[name].packed)  # type: ignore[union-attr]
        assert np.array_equal(trace.predictions, other.predictions)


def test_a_loop_of_integers_is_recorded_as_such() -> None:
    network, source, _ = recorded(1)
    nodes: dict[str, Any] = {}
    for name, node in network.nodes.items():
        if isinstance(node, Linear):
            bias = None if node.bias is None else (node.bias * 16).astype(np.int32)
            node = replace(node, weight=(np.asarray(node.weight) * 16).astype(np.int8), bias=bias, bias_bits=24)
        elif isinstance(node, LIF):
            node = replace(node, v_threshold=16, membrane_bits=12, overflow="wrap")
        elif isinstance(node, LI):
            node = replace(node, membrane_bits=20)
        nodes[name] = node
    whole = Network(nodes, network.edges)
    trace = record(whole, source, Execution(11, "events"))
    assert trace.extra["meta"]["arithmetic"] == (
        "integer: weights 8 bit, biases 24 bit, membranes 12/20 bit saturate/wrap"
    )
    assert isinstance(trace.arrivals["own"], Spikes)
    assert trace.arrivals["own"].packed.any()


def test_a_loop_through_other_layers_is_written_read_and_refused(tmp_path: Path) -> None:
    """`back` stands before `b`, whose spikes it hears: a reader finds it there and puts a delay between."""
    network = looped(1, 2)
    source = Pixels(spiking_frames(9, 3, (3,), 0.5), np.zeros(3, np.int64), sample_axis=1)
    trace = record(network, source, Execution(9, "events"))
    assert network.layers().index("back") < network.layers().index("b")
    write_trace(tmp_path / "t.npz", network, trace)
    read, again = read_trace(tmp_path / "t.npz")
    for net in (network, read):
        assert {name: set(net.layer_inputs(name)) for name in net.layers()} == {
            "a": set(), "own": {"a", "own", "back"}, "back": {"b"}, "b": {"a", "own", "back"}, "fc": {"b"}
        }  # fmt: skip
        workload = lower(net, again)
        assert {layer.name for layer in workload.layers if layer.recurrent} == {"own", "back", "b"}
        with pytest.raises(MappingError, match="cannot run a recurrent layer"):
            Spikex().map(workload, SpikexArch())
    assert read.recurrent and read.shapes()


def test_neurons_that_hear_themselves_one_to_one_are_refused() -> None:
    nodes: dict[str, Any] = {
        "in": Input((3,)), "fc": Linear(3, 2, weight=weights(np.random.default_rng(3), 2, 3)), "n": LIF(Leak(shift=1)), "late": Delay(),
        "back": Scale(np.array([0.5], np.float32)), "out": Output((2,)),
    }  # fmt: skip
    edges = (("in", "fc"), ("fc", "n"), ("n", "late"), ("late", "back"), ("back", "n"), ("n", "out"))
    network = Network(nodes, edges)
    trace = record(network, Pixels(spiking_frames(9, 3, (3,), 0.5), np.zeros(3, np.int64), 1), Execution(9, "events"))
    with pytest.raises(MappingError, match=r"layer 'fc': .*cannot run a recurrent layer"):
        Spikex().map(lower(network, trace), SpikexArch())
