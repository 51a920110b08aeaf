"""SpikingJelly: the imported network sends the framework's own spikes, step by step, in both step modes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spikeloom.core.nodes import IF, LIF
from spikeloom.errors import NetworkError
from spikeloom.snn.importers import import_module

from .runs import currents, installed, same_spikes, spikes

neuron = installed("spikingjelly.activation_based.neuron")
layer = installed("spikingjelly.activation_based.layer")
functional = installed("spikingjelly.activation_based.functional")
surrogate = installed("spikingjelly.activation_based.surrogate")
SEEDS = (0, 1, 2)


def theirs(module: nn.Module, frames_TN: Tensor) -> Tensor:
    """All steps at once for a module in step mode m, else one after the other."""
    functional.reset_net(module)
    with torch.no_grad():
        if any(getattr(part, "_step_mode", "s") == "m" for part in module.modules()):
            sent: Tensor = module(frames_TN)
        else:
            sent = torch.stack([module(frame) for frame in frames_TN])
    return sent


NEURONS: dict[str, Any] = {
    "if": lambda: neuron.IFNode(),
    "if soft": lambda: neuron.IFNode(v_threshold=1.5, v_reset=None),
    "if below": lambda: neuron.IFNode(v_reset=-0.5),
    "if above": lambda: neuron.IFNode(v_threshold=0.8, v_reset=0.25),
    "lif": lambda: neuron.LIFNode(tau=2.0, v_threshold=0.4),
    "lif 3": lambda: neuron.LIFNode(tau=3.0, v_threshold=0.3),
    "lif soft": lambda: neuron.LIFNode(tau=1.7, v_threshold=0.4, v_reset=None),
    "lif below": lambda: neuron.LIFNode(tau=2.5, v_threshold=0.4, v_reset=-0.2),
    "lif above": lambda: neuron.LIFNode(tau=2.5, v_threshold=0.6, v_reset=0.2),
    "lif whole input": lambda: neuron.LIFNode(tau=2.0, decay_input=False),
    "lif whole input soft": lambda: neuron.LIFNode(tau=5.0, decay_input=False, v_reset=None, v_threshold=1.2),
    "lif whole input below": lambda: neuron.LIFNode(tau=5.0, decay_input=False, v_reset=-0.3),
    "plif": lambda: neuron.ParametricLIFNode(init_tau=3.0, v_threshold=0.3),
    "plif soft": lambda: neuron.ParametricLIFNode(init_tau=1.5, v_threshold=0.4, v_reset=None),
    "plif whole input": lambda: neuron.ParametricLIFNode(init_tau=4.0, decay_input=False, v_reset=0.1),
    "atan": lambda: neuron.LIFNode(v_threshold=0.4, surrogate_function=surrogate.ATan(), detach_reset=True),
    "stored": lambda: neuron.IFNode(store_v_seq=True),
}


@pytest.mark.parametrize("case", NEURONS)
@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize("seed", SEEDS)
def test_one_neuron_layer(case: str, mode: str, seed: int) -> None:
    module = NEURONS[case]()
    module.step_mode = mode
    frames = currents(25, 6, (12,), seed)
    expected = theirs(module, frames)
    same_spikes(import_module(module, (12,)), frames, expected)  # from rest, whatever the membrane holds now


def test_membranes_are_counted_from_rest_in_units_of_the_input() -> None:
    node = import_module(NEURONS["lif below"](), (12,)).nodes["lifnode"]
    assert isinstance(node, LIF) and node.leak is not None and node.leak.kept == pytest.approx(0.6)
    assert (node.v_threshold, node.reset, node.v_reset, node.strict) == (pytest.approx(1.5), "hard", 0, False)
    plain = import_module(NEURONS["if below"](), (12,)).nodes["ifnode"]
    assert isinstance(plain, IF) and (plain.v_threshold, plain.v_init, plain.v_reset) == (1.0, -0.5, -0.5)


def conv_layers() -> list[nn.Module]:
    return [
        layer.Conv2d(2, 6, 3, padding=1, bias=False), layer.BatchNorm2d(6), neuron.IFNode(v_threshold=0.5), layer.MaxPool2d(2),
        layer.Conv2d(6, 8, 3, stride=2), neuron.LIFNode(v_threshold=0.15), layer.AvgPool2d(2), layer.Flatten(),
        layer.Dropout(0.5), layer.Linear(8, 20), neuron.ParametricLIFNode(v_threshold=0.1, v_reset=None),
    ]  # fmt: skip


@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_convolutional_network(mode: str, seed: int) -> None:
    torch.manual_seed(seed)
    module = nn.Sequential(*conv_layers())
    functional.set_step_mode(module, mode)
    frames = spikes(20, 4, (2, 12, 12), seed)
    theirs(module, frames)  # running statistics of its own
    network = import_module(module, (2, 12, 12))
    assert network.metadata["imported_from"] == "spikingjelly"
    same_spikes(network, frames, theirs(module.eval(), frames))


class Containers(nn.Module):
    """Layers of torch in containers, a residual sum, a plain linear layer, and a rate at the end."""

    def __init__(self, rate: bool) -> None:
        super().__init__()
        self.stem = layer.SeqToANNContainer(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.first = neuron.IFNode(v_threshold=0.6, step_mode="m")
        self.body = nn.Sequential(
            layer.SeqToANNContainer(nn.Conv2d(4, 4, 3, padding=1)), neuron.IFNode(v_threshold=0.3, step_mode="m")
        )
        self.each = layer.MultiStepContainer(nn.AvgPool2d(2), neuron.LIFNode(v_threshold=0.3), nn.Flatten())
        self.norm = layer.ThresholdDependentBatchNorm1d(1.0, 0.5, 144)
        self.head = nn.Linear(144, 20)
        self.last = neuron.IFNode(v_threshold=0.3, step_mode="m")
        self.rate = rate

    def forward(self, x_seq: Tensor) -> Tensor:
        x_seq = self.first(self.stem(x_seq))
        x_seq = self.body(x_seq) + x_seq
        out: Tensor = self.last(self.head(self.norm(self.each(x_seq))))
        return out.mean(0) if self.rate else out


@pytest.mark.parametrize("seed", SEEDS)
def test_containers_and_a_residual_sum(seed: int) -> None:
    torch.manual_seed(seed)
    module = Containers(rate=False)
    frames = spikes(20, 4, (2, 12, 12), seed)
    theirs(module, frames)
    same_spikes(import_module(module, (2, 12, 12)), frames, theirs(module.eval(), frames))


def test_a_rate_over_time_is_left_out_at_the_end() -> None:
    network = import_module(Containers(rate=True), (2, 12, 12))
    assert network.metadata["dropped"] == ["mean (mean)"]
    assert network.inputs_of("output") == ("last",)


class Repeating(nn.Module):
    """Repeats its input over time itself."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(layer.Linear(10, 4, step_mode="m"), neuron.IFNode(step_mode="m"))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x.unsqueeze(0).repeat(4, 1, 1))
        return out


class Loop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(layer.Linear(10, 4), neuron.IFNode())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = sum(self.net(x) for _ in range(4))  # type: ignore[assignment]
        return out


class Own(neuron.LIFNode):  # type: ignore[name-defined, misc]
    """A neuron of one's own."""


def mixed(*modules: nn.Module) -> nn.Module:
    return nn.Sequential(*modules)


REFUSALS: dict[str, tuple[Any, str]] = {
    "QIF": (neuron.QIFNode, r"'qifnode' \(QIFNode\) is a layer of spikingjelly that has no node here; known are .*IFNode"),
    "EIF": (lambda: mixed(neuron.EIFNode()), r"'0' \(EIFNode\) is a layer of spikingjelly"),
    "PSN": (lambda: neuron.PSN(T=4), r"'psn' \(PSN\) is a layer of spikingjelly"),
    "subclass": (lambda: mixed(Own()), r"'0' \(Own\) is made from LIFNode of spikingjelly"),
    "analog": (
        lambda: neuron.IFNode(surrogate_function=surrogate.Sigmoid(spiking=False)), r"'ifnode' \(IFNode\) has a surrogate_function",
    ),
    "threshold": (lambda: neuron.IFNode(v_threshold=0.0), r"'ifnode' \(IFNode\) has a v_threshold of 0.0"),
    "threshold below reset": (
        lambda: neuron.LIFNode(v_threshold=0.5, v_reset=0.5), r"'lifnode' \(LIFNode\) has a threshold above v_reset of 0.0",
    ),
    "modes": (
        lambda: mixed(layer.Linear(10, 4, step_mode="m"), neuron.IFNode()), r"'1' \(IFNode\) has step_mode 's' .* one step_mode",
    ),
    "layer modes": (
        lambda: mixed(layer.Flatten(), neuron.IFNode(step_mode="m")), r"'0' \(Flatten\) has step_mode 's' .* one step_mode",
    ),
    "plain layer": (
        lambda: mixed(nn.BatchNorm1d(10), neuron.IFNode(step_mode="m")), r"'0' \(BatchNorm1d\) takes one step, but gets \(T, N",
    ),
    "folded": (lambda: layer.SeqToANNContainer(neuron.IFNode()), r"'0' \(IFNode\) has step_mode 's' .* one step_mode"),
    "T last": (lambda: layer.TLastSeqToANNContainer(nn.Linear(10, 4)), r"\(TLastSeqToANNContainer\) is a layer of spikingjelly"),
    "recurrent": (
        lambda: layer.LinearRecurrentContainer(neuron.IFNode(), 10, 10), r"\(LinearRecurrentContainer\) is a layer of spikingjelly",
    ),
    "GroupNorm": (lambda: layer.GroupNorm(2, 10), r"'groupnorm' \(GroupNorm\) is a layer of spikingjelly"),
    "repeat": (Repeating, r"'unsqueeze' \(unsqueeze\) is a function that has no node here"),
    "loop": (Loop, r"'net.1' \(IFNode\) is called twice .*one step"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_what_no_node_says_is_refused_in_one_line(case: str) -> None:
    make, expected = REFUSALS[case]
    with pytest.raises(NetworkError, match=expected) as raised:
        import_module(make(), (10,))
    assert "\n" not in str(raised.value)
