"""Norse: the imported network sends the framework's own spikes, step by step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spikeloom.core.nodes import LIF, CubaLIF
from spikeloom.errors import NetworkError
from spikeloom.snn.importers import import_module

from .runs import currents, installed, ours, same_spikes, spikes

norse = installed("norse.torch")
reset_subtract = installed("norse.torch.functional.reset").reset_subtract
SEEDS = (0, 1, 2)


def tensor(*values: float) -> Tensor:
    return torch.tensor(values if len(values) > 1 else values[0])


def theirs(module: nn.Module, frames_TN: Tensor) -> Tensor:
    """One call a step, the state passed on; all steps at once for modules that take them so."""
    sequences = (norse.LIF, norse.IAF, norse.LI, norse.LIFRecurrent, norse.Lift)
    with torch.no_grad():
        if any(isinstance(part, sequences) for part in module.modules()):
            sent: Tensor = module(frames_TN)[0]
            return sent
        state, steps = None, []
        for frame in frames_TN:
            out, state = module(frame, state)
            steps.append(out)
    return torch.stack(steps)


def lif(**values: Any) -> Any:
    return norse.LIFParameters(**{"v_th": tensor(0.3), **values})


EACH = torch.linspace(50.0, 150.0, 12)
NEURONS: dict[str, Any] = {
    "box": lambda: norse.LIFBoxCell(norse.LIFBoxParameters(v_th=tensor(0.3))),
    "box subtract": lambda: norse.LIFBoxCell(norse.LIFBoxParameters(v_th=tensor(0.3), reset_method=reset_subtract)),
    "box rest": lambda: norse.LIFBoxCell(
        norse.LIFBoxParameters(v_th=tensor(0.4), v_leak=tensor(0.1), v_reset=tensor(-0.2)), dt=0.002
    ),
    "box each": lambda: norse.LIFBoxCell(norse.LIFBoxParameters(v_th=tensor(0.3), tau_mem_inv=EACH)),
    "lif": lambda: norse.LIFCell(lif()),
    "lif slow": lambda: norse.LIFCell(lif(tau_mem_inv=tensor(40.0), tau_syn_inv=tensor(500.0), v_th=tensor(0.1))),
    "lif rest": lambda: norse.LIFCell(lif(v_th=tensor(0.9), v_leak=tensor(0.2), v_reset=tensor(-0.1))),
    "lif each": lambda: norse.LIFCell(lif(tau_mem_inv=EACH, v_th=torch.linspace(0.3, 1.0, 12))),
    "lif tanh": lambda: norse.LIFCell(lif(method="tanh")),
    "iaf": lambda: norse.IAFCell(),
    "iaf reset": lambda: norse.IAFCell(norse.IAFParameters(v_th=tensor(1.5), v_reset=tensor(-0.25))),
    "recurrent": lambda: norse.LIFRecurrentCell(12, 12, lif()),
    "recurrent autapses": lambda: norse.LIFRecurrentCell(12, 12, lif(v_leak=tensor(0.1)), autapses=True),
    "sequence": lambda: norse.LIF(lif()),
    "sequence iaf": lambda: norse.IAF(),
    "sequence recurrent": lambda: norse.LIFRecurrent(12, 12, lif()),
    "lifted": lambda: norse.Lift(norse.LIFCell(lif())),
}


@pytest.mark.parametrize("case", NEURONS)
@pytest.mark.parametrize("seed", SEEDS)
def test_one_neuron_layer(case: str, seed: int) -> None:
    torch.manual_seed(seed)
    module = NEURONS[case]()
    frames = currents(25, 6, (12,), seed)
    same_spikes(import_module(module, (12,)), frames, theirs(module, frames))


READOUTS: dict[str, Any] = {
    "li": lambda: norse.LICell(),
    "li box": lambda: norse.LIBoxCell(norse.LIBoxParameters(tau_mem_inv=tensor(60.0))),
    "li slow": lambda: norse.LICell(norse.LIParameters(tau_syn_inv=tensor(80.0)), dt=0.002),
    "li sequence": lambda: norse.LI(),
    "li linear": lambda: norse.LILinearCell(12, 5),
}


@pytest.mark.parametrize("case", READOUTS)
def test_a_read_out_sends_the_same_membranes(case: str) -> None:
    torch.manual_seed(0)
    module = READOUTS[case]()
    frames = currents(25, 6, (12,), 0)
    torch.testing.assert_close(ours(import_module(module, (12,)), frames), theirs(module, frames), rtol=1e-5, atol=1e-6)


def test_time_constants_and_the_step_are_kept() -> None:
    network = import_module(norse.LIFCell(lif(v_leak=tensor(0.1), v_reset=tensor(-0.1)), dt=0.002), (12,))
    node = network.nodes["lifcell"]
    assert network.dt_s == 0.002 and isinstance(node, CubaLIF) and node.strict and node.reset == "hard"
    assert node.leak is not None and node.syn_leak is not None
    assert (node.leak.kept, node.syn_leak.kept) == (pytest.approx(0.8), pytest.approx(0.6))
    assert (node.v_threshold, node.v_reset) == (pytest.approx(1.0), pytest.approx(-1.0))
    assert import_module(norse.LIFCell(), (12,), dt_s=1.0).dt_s == 1.0
    two = norse.SequentialState(norse.LIFCell(dt=0.001), norse.LIFCell(dt=0.002))
    assert import_module(two, (12,)).dt_s is None
    assert isinstance(import_module(NEURONS["box"](), (12,)).nodes["lifboxcell"], LIF)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_convolutional_network(seed: int) -> None:
    torch.manual_seed(seed)
    module = norse.SequentialState(
        nn.Conv2d(2, 6, 3, padding=1), norse.LIFCell(lif(v_th=tensor(0.05))), nn.AvgPool2d(2),
        nn.Sequential(nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8).eval()), norse.SequentialState(norse.LIFBoxCell(norse.LIFBoxParameters(v_th=tensor(0.02))), nn.MaxPool2d(2)),
        nn.Flatten(), nn.Linear(32, 30, bias=False), norse.LIFRecurrentCell(30, 20, lif(v_th=tensor(0.01))),
    )  # fmt: skip
    frames = spikes(20, 4, (2, 12, 12), seed)
    network = import_module(module, (2, 12, 12))
    assert network.recurrent and "4.0" in network.nodes
    same_spikes(network, frames, theirs(module, frames))


class Stepping(nn.Module):
    """States go in and come out."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(10, 20), norse.LIFCell(lif(v_th=tensor(0.1)))
        self.fc2, self.lif2 = nn.Linear(20, 20), norse.LIFBoxCell(norse.LIFBoxParameters(v_th=tensor(0.02)))

    def forward(self, x: Tensor, state: Any = None) -> Any:
        first, second = (None, None) if state is None else state
        z1, first = self.lif1(self.fc1(x), first)
        z2, second = self.lif2(self.fc2(z1), second)
        return z2, (first, second)


@pytest.mark.parametrize("seed", SEEDS)
def test_states_as_arguments(seed: int) -> None:
    torch.manual_seed(seed)
    module = Stepping()
    frames = spikes(25, 4, (10,), seed)
    same_spikes(import_module(module, (10,)), frames, theirs(module, frames))


class Forgetting(Stepping):
    """Every step starts anew."""

    def forward(self, x: Tensor, state: Any = None) -> Any:
        return self.lif1(self.fc1(x))


class Own(norse.LIFCell):  # type: ignore[name-defined, misc]
    """A neuron of one's own."""


REFUSALS: dict[str, tuple[Any, str]] = {
    "AdEx": (norse.LIFAdExCell, r"'lifadexcell' \(LIFAdExCell\) is a layer of norse that has no node here; known are IAF,"),
    "refractory": (norse.LIFRefracCell, r"'lifrefraccell' \(LIFRefracCell\) is a layer of norse"),
    "adjoint": (lambda: norse.LIFCell(lif(method="adjoint")), r"'lifcell' \(LIFCell\) has method 'adjoint'"),
    "fast": (lambda: norse.LIFCell(dt=0.02), r"'lifcell' \(LIFCell\) keeps the synaptic current of -3.0"),
    "threshold": (lambda: norse.LIFCell(lif(v_leak=tensor(0.3))), r"'lifcell' \(LIFCell\) has a v_th above v_leak of 0.0"),
    "subtract at rest": (
        lambda: norse.LIFBoxCell(norse.LIFBoxParameters(v_leak=tensor(0.1), reset_method=reset_subtract)),
        r"'lifboxcell' \(LIFBoxCell\) has reset_subtract with v_leak",
    ),
    "own reset": (
        lambda: norse.LIFBoxCell(norse.LIFBoxParameters(reset_method=lambda z, v, r, th: v)),
        r"'lifboxcell' \(LIFBoxCell\) has reset_method",
    ),
    "read-out at rest": (
        lambda: norse.LICell(norse.LIParameters(v_leak=tensor(0.1))), r"'licell' \(LICell\) has v_leak 0.1.*, expected 0",
    ),
    "hidden": (
        lambda: norse.SequentialState(norse.LIFCell(), return_hidden=True), r"\(SequentialState\) returns what each layer sends",
    ),
    "loop of layers": (lambda: norse.RecurrentSequential(norse.LIFCell()), r"\(RecurrentSequential\) is a layer of norse"),
    "mixed": (lambda: norse.SequentialState(norse.LIF(), norse.LIFCell()), r"'1' \(LIFCell\) takes one step at a time"),
    "no state": (Forgetting, r"'lif1' \(LIFCell\) gets no state, so every step starts anew"),
    "subclass": (lambda: norse.SequentialState(Own()), r"'0' \(Own\) is made from LIFCell of norse"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_what_no_node_says_is_refused_in_one_line(case: str) -> None:
    make, expected = REFUSALS[case]
    with pytest.raises(NetworkError, match=expected) as raised:
        import_module(make(), (10,))
    assert "\n" not in str(raised.value)
