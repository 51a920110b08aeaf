"""snnTorch: the imported network sends the framework's own spikes, step by step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spikeloom.core.nodes import LIF, CubaLIF, Delay
from spikeloom.errors import NetworkError
from spikeloom.files.network import read_network, write_network
from spikeloom.snn.execute import Execution
from spikeloom.snn.importers import import_module
from spikeloom.snn.record import record
from spikeloom.transform import fold
from tests.snn.toys import Pixels

from .runs import currents, installed, same_spikes, spikes

snn = installed("snntorch")
SEEDS = (0, 1, 2)


def theirs(module: nn.Module, frames_TN: Tensor) -> Tensor:
    """One call a step, the state kept in the module; the spikes come first in what it returns."""
    for part in module.modules():
        if hasattr(part, "reset_mem"):
            part.reset_mem()
    sent = []
    with torch.no_grad():
        for frame in frames_TN:
            out = module(frame)
            sent.append((out[0] if isinstance(out, tuple) else out).clone())
    return torch.stack(sent)


BETAS = torch.linspace(0.1, 1.2, 12)  # the largest are clipped to 1
NEURONS: dict[str, Any] = {
    "subtract": lambda: snn.Leaky(0.9, init_hidden=True),
    "zero": lambda: snn.Leaky(0.9, init_hidden=True, reset_mechanism="zero"),
    "none": lambda: snn.Leaky(0.7, threshold=1.3, init_hidden=True, reset_mechanism="none"),
    "zero at once": lambda: snn.Leaky(0.9, init_hidden=True, reset_mechanism="zero", reset_delay=False),
    "none at once": lambda: snn.Leaky(0.7, init_hidden=True, reset_mechanism="none", reset_delay=False),
    "learnt": lambda: snn.Leaky(0.8, threshold=0.7, init_hidden=True, learn_beta=True, learn_threshold=True),
    "each neuron": lambda: snn.Leaky(BETAS, threshold=torch.linspace(0.5, 1.5, 12), init_hidden=True),
    "above one": lambda: snn.Leaky(1.5, threshold=2.0, init_hidden=True),
    "tuple": lambda: snn.Leaky(0.95, init_hidden=True, output=True),
    "sigmoid": lambda: snn.Leaky(0.9, spike_grad=snn.surrogate.fast_sigmoid(), init_hidden=True),
    "bypass": lambda: snn.Leaky(0.9, surrogate_disable=True, init_hidden=True),
    "state outside": lambda: snn.Leaky(0.9),
    "synaptic": lambda: snn.Synaptic(0.6, 0.8, threshold=2.0, init_hidden=True),
    "synaptic zero": lambda: snn.Synaptic(0.6, 0.8, init_hidden=True, reset_mechanism="zero"),
    "synaptic none": lambda: snn.Synaptic(0.5, 0.6, threshold=2.0, init_hidden=True, reset_mechanism="none"),
    "synaptic zero at once": lambda: snn.Synaptic(
        0.6, 0.8, init_hidden=True, reset_mechanism="zero", reset_delay=False
    ),
    "synaptic each": lambda: snn.Synaptic(BETAS.flip(0), BETAS, threshold=2.0, init_hidden=True, learn_alpha=True),
    "lapicque RC": lambda: snn.Lapicque(R=2.0, C=3.0, time_step=1.5, threshold=0.5, init_hidden=True),
    "lapicque zero": lambda: snn.Lapicque(beta=0.7, threshold=0.3, init_hidden=True, reset_mechanism="zero"),
    "lapicque none": lambda: snn.Lapicque(beta=0.6, threshold=0.4, init_hidden=True, reset_mechanism="none"),
    "lapicque beta R": lambda: snn.Lapicque(beta=0.7, R=2.0, threshold=0.5, init_hidden=True),
    "lapicque beta C": lambda: snn.Lapicque(beta=0.7, C=2.0, threshold=0.4, init_hidden=True),
    "recurrent": lambda: snn.RLeaky(0.8, linear_features=12, threshold=1.5, init_hidden=True),
    "recurrent zero": lambda: snn.RLeaky(0.8, linear_features=12, init_hidden=True, reset_mechanism="zero"),
    "recurrent each": lambda: snn.RLeaky(0.8, V=-0.5, all_to_all=False, init_hidden=True),
    "recurrent own": lambda: snn.RLeaky(
        0.8, V=torch.linspace(-1, 0.5, 12), all_to_all=False, init_hidden=True, reset_mechanism="none"
    ),
    "recurrent zero at once": lambda: snn.RLeaky(
        0.8, linear_features=12, init_hidden=True, reset_mechanism="zero", reset_delay=False
    ),
    "recurrent synaptic": lambda: snn.RSynaptic(0.5, 0.8, linear_features=12, threshold=2.0, init_hidden=True),
    "recurrent synaptic zero": lambda: snn.RSynaptic(
        0.5, 0.8, V=-0.4, all_to_all=False, init_hidden=True, reset_mechanism="zero"
    ),
}


@pytest.mark.parametrize("case", NEURONS)
@pytest.mark.parametrize("seed", SEEDS)
def test_one_neuron_layer(case: str, seed: int) -> None:
    torch.manual_seed(seed)
    module = NEURONS[case]()
    frames = currents(25, 6, (12,), seed)
    same_spikes(import_module(module, (12,)), frames, theirs(module, frames))


def test_late_resets_and_loops_are_said_by_nodes() -> None:
    late = import_module(NEURONS["subtract"](), (12,)).nodes["leaky"]
    at_once = import_module(NEURONS["zero"](), (12,)).nodes["leaky"]
    assert isinstance(late, LIF) and isinstance(at_once, LIF)
    assert (late.reset, late.late_reset, late.strict) == ("soft", True, True)
    assert (at_once.reset, at_once.late_reset, at_once.strict) == ("hard", False, True)
    loop = import_module(nn.Sequential(nn.Linear(3, 12), NEURONS["recurrent"]()), (3,))
    assert loop.recurrent and loop.inputs_of("1") == ("0", "1.recurrent")
    assert isinstance(loop.nodes["1.delay"], Delay)
    current = import_module(NEURONS["synaptic"](), (12,)).nodes["synaptic"]
    assert isinstance(current, CubaLIF) and current.syn_leak is not None and current.syn_leak.kept == pytest.approx(0.6)


@pytest.mark.parametrize("case", ["recurrent each", "synaptic each", "lapicque RC"])
def test_an_imported_network_can_be_written(case: str, tmp_path: Path) -> None:
    network = import_module(nn.Sequential(nn.Linear(3, 12), NEURONS[case]()), (3,))
    write_network(tmp_path / "net.npz", network)
    assert read_network(tmp_path / "net.npz").id == network.id


def test_an_imported_network_can_be_recorded() -> None:
    torch.manual_seed(0)
    network = fold(import_module(conv_net(), (2, 12, 12)))
    trace = record(
        network,
        Pixels(spikes(6, 4, (2, 12, 12), 0).numpy().astype("uint8"), np.zeros(4, np.int64), 1),
        Execution(6, "events"),
    )
    assert trace.num_steps == 6


def conv_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), snn.Leaky(0.9, threshold=0.3, init_hidden=True), nn.AvgPool2d(2),
        nn.Conv2d(6, 8, 3, bias=False), snn.Synaptic(0.5, 0.8, threshold=0.2, init_hidden=True), nn.MaxPool2d(2), nn.Flatten(),
        nn.Dropout(0.5), nn.Linear(32, 30), snn.Leaky(0.8, threshold=0.1, init_hidden=True, output=True),
    )  # fmt: skip


@pytest.mark.parametrize("seed", SEEDS)
def test_a_convolutional_network(seed: int) -> None:
    torch.manual_seed(seed)
    module = conv_net()
    frames = spikes(20, 4, (2, 12, 12), seed)
    with torch.no_grad():
        module(frames[0])  # running statistics of its own
    network = import_module(module, (2, 12, 12), name="toy")
    assert module.training and module[8].training
    same_spikes(network, frames, theirs(module.eval(), frames))
    assert list(network.nodes) == ["input", "0", "1", "2", "3", "4", "5", "6", "7", "9", "10", "output"]
    assert (network.name, network.metadata["imported_from"]) == ("toy", "snntorch")


def test_a_recurrent_convolution() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        snn.RLeaky(0.8, conv2d_channels=3, kernel_size=3, threshold=0.5, init_hidden=True),
    )
    frames = spikes(20, 3, (1, 8, 8), 0)
    same_spikes(import_module(module, (1, 8, 8)), frames, theirs(module, frames))


class Stepping(nn.Module):
    """As the tutorials write it, but for the loop over time: states go in and come out."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(10, 20)
        self.lif1 = snn.Leaky(0.9, threshold=0.2)
        self.fc2 = nn.Linear(20, 20)
        self.lif2 = snn.Synaptic(0.5, 0.9, threshold=0.3)

    def forward(self, x: Tensor, mem1: Any = None, syn2: Any = None, mem2: Any = None) -> Any:
        spk1, mem1 = self.lif1(self.fc1(x), mem1)
        spk2, syn2, mem2 = self.lif2(self.fc2(spk1), syn2, mem2)
        return spk1, spk2, mem1, syn2, mem2


def test_states_as_arguments() -> None:
    torch.manual_seed(1)
    module = Stepping()
    frames = spikes(25, 4, (10,), 1)
    states: Any = (torch.zeros(4, 20),) * 3
    sent = []
    with torch.no_grad():
        for frame in frames:
            _, spk, *states = module(frame, *states)
            sent.append(spk)
    network = import_module(module, (10,))
    assert list(network.nodes) == ["input", "fc1", "lif1", "fc2", "lif2", "output"]
    same_spikes(network, frames, torch.stack(sent))


class Looping(Stepping):
    """As the tutorials write it."""

    def forward(self, x: Tensor, *_: Any) -> Any:
        mem1 = self.lif1.reset_mem()
        syn2, mem2 = self.lif2.reset_mem()
        sent = []
        for _step in range(5):
            spk1, mem1 = self.lif1(self.fc1(x), mem1)
            spk2, syn2, mem2 = self.lif2(self.fc2(spk1), syn2, mem2)
            sent.append(spk2)
        return torch.stack(sent)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lif = snn.Leaky(0.9, init_hidden=True)

    def forward(self, x: Tensor) -> Any:
        return self.lif(self.lif(x))


class Reading(nn.Module):
    """Goes on with the membrane, or returns nothing else."""

    def __init__(self, on: bool) -> None:
        super().__init__()
        self.lif, self.fc, self.on = snn.Leaky(0.9), nn.Linear(10, 2), on

    def forward(self, x: Tensor, mem: Any = None) -> Any:
        _, mem = self.lif(x, mem)
        return self.fc(mem) if self.on else mem


class Own(snn.Leaky):  # type: ignore[name-defined, misc]
    """A neuron of one's own."""


def reset_changed() -> nn.Module:
    module = snn.Leaky(0.9)
    module.reset_mechanism = "zero"
    return module  # type: ignore[no-any-return]


def inhibited() -> nn.Module:
    with pytest.warns(UserWarning, match="Inhibition"):
        return snn.Leaky(0.9, inhibition=True)  # type: ignore[no-any-return]


def missing_R() -> nn.Module:
    return snn.Lapicque(beta=0.5, R=1.0, C=1.0)  # type: ignore[no-any-return]


REFUSALS: dict[str, tuple[Any, str]] = {
    "inhibition": (inhibited, r"'leaky' \(Leaky\) has inhibition=True"),
    "state_quant": (lambda: snn.Leaky(0.9, state_quant=torch.round), r"'leaky' \(Leaky\) has state_quant"),
    "graded": (lambda: snn.Leaky(0.9, graded_spikes_factor=2.0), r"'leaky' \(Leaky\) has graded_spikes_factor 2.0"),
    "no step": (lambda: snn.Leaky(0.9, spike_grad=torch.sigmoid), r"'leaky' \(Leaky\) has a spike_grad"),
    "wrong step": (lambda: snn.Leaky(0.9, spike_grad=lambda x, y: x), r"'leaky' \(Leaky\) has a spike_grad"),
    "at once": (lambda: snn.Leaky(0.9, reset_delay=False), r"'leaky' \(Leaky\) has reset_delay=False with reset_mechanism 'sub"),
    "threshold": (lambda: snn.Leaky(0.9, threshold=-1.0), r"'leaky' \(Leaky\) has a threshold of -1.0"),
    "NaN": (lambda: snn.Leaky(torch.tensor([float("nan")] * 2)), r"'leaky' \(Leaky\) has a membrane decay with NaN"),
    "changed": (reset_changed, r"'leaky' \(Leaky\) was made with another reset_mechanism than 'zero'"),
    "RSynaptic": (
        lambda: snn.RSynaptic(0.5, 0.5, linear_features=10, reset_delay=False), r"'rsynaptic' \(RSynaptic\) has reset_delay=False",
    ),
    "Lapicque small": (lambda: snn.Lapicque(beta=0.2), r"'lapicque' \(Lapicque\) keeps a share of the membrane of -0.6"),
    "Lapicque none": (missing_R, r"'lapicque' \(Lapicque\) has neither beta nor R and C"),
    "Alpha": (lambda: snn.Alpha(0.9, 0.8), r"'alpha' \(Alpha\) is a layer of snntorch that has no node here; known are Lapicque"),
    "SLSTM": (lambda: nn.Sequential(snn.SLSTM(10, 4)), r"'0' \(SLSTM\) is a layer of snntorch"),
    "subclass": (lambda: nn.Sequential(Own(0.9)), r"'0' \(Own\) is made from Leaky of snntorch"),
    "state in Sequential": (
        lambda: nn.Sequential(snn.Leaky(0.9), nn.Linear(10, 2)), r"'0' returns its state too, which Sequential .* init_hidden=True",
    ),
    "loop": (Looping, r"'lif1' \(Leaky\) gets a state that the forward makes itself"),
    "twice": (Twice, r"'lif' \(Leaky\) is called twice .*; hand over the part of the model that computes one step"),
    "twice in a row": (
        lambda: nn.Sequential(*[nn.Linear(10, 10), snn.Leaky(0.9, init_hidden=True)] * 2), r"'1' \(Leaky\) is called twice in one pass",
    ),
    "membrane": (lambda: Reading(True), r"'fc' \(Linear\) gets a state of 'lif'"),
    "membrane out": (lambda: Reading(False), "returns no spikes or sums, only states"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_what_no_node_says_is_refused_in_one_line(case: str) -> None:
    make, expected = REFUSALS[case]
    with pytest.raises(NetworkError, match=expected) as raised:
        import_module(make(), (10,))
    assert "\n" not in str(raised.value)


def test_a_reset_at_once_by_subtraction_would_not_be_exact() -> None:
    """Why that option is refused: with a membrane left above its threshold, no node of ours fires as snnTorch does."""
    frames = currents(25, 6, (12,), 0) * 3
    refused = theirs(snn.Leaky(0.9, init_hidden=True, reset_delay=False), frames)
    v, sent = torch.zeros(6, 12), []
    for frame in frames:
        v = v * 0.9 + frame
        sent.append((v > 1).float())
        v = v - sent[-1]
    assert not torch.equal(refused, torch.stack(sent))
