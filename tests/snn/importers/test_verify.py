"""Proof at the door: what differs from the module is refused by layer and step, what is not sure is counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spikeloom.core.nodes import Linear
from spikeloom.errors import NetworkError
from spikeloom.files.network import read_network, write_network
from spikeloom.snn.importers import import_module, trace
from spikeloom.snn.importers.assembly import Handler, Part

from .runs import installed, ours, spikes

snn = installed("snntorch")
neuron = installed("spikingjelly.activation_based.neuron")
layer = installed("spikingjelly.activation_based.layer")
norse = installed("norse.torch")


def two_layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 20), snn.Leaky(0.9, threshold=0.3, init_hidden=True), nn.Linear(20, 20), neuron.LIFNode(v_threshold=0.2)
    )  # fmt: skip


def altered(monkeypatch: pytest.MonkeyPatch, framework: str, kind: str, **fields: Any) -> None:
    """Make an importer of ours wrong: its node gets other values, as functions of the right ones."""
    layers: Mapping[str, Handler] = trace.FRAMEWORKS[framework]

    def wrong(module: Any, site: Any) -> Part:
        part = layers[kind](module, site)
        node: Any = part.nodes[""]
        changed = {key: change(getattr(node, key)) for key, change in fields.items()}
        return replace(part, nodes={**part.nodes, "": replace(node, **changed)})

    monkeypatch.setitem(trace.FRAMEWORKS, framework, {**layers, kind: wrong})


WRONG: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "threshold": (
        "snntorch",
        "Leaky",
        {"v_threshold": lambda v: v * 1.2},
        r"'1' \(LIF\) sends [01] at step \d+ .* and [01] in",
    ),
    "late reset": ("snntorch", "Leaky", {"late_reset": lambda v: not v}, r"'1' \(LIF\) sends"),
    "start": ("spikingjelly", "LIFNode", {"v_init": lambda v: v + 0.1}, r"'3' \(LIF\) sends . at step \d"),
    "reset": ("spikingjelly", "LIFNode", {"reset": lambda v: "soft"}, r"'3' \(LIF\) sends"),
    "weights": (
        "torch",
        "Linear",
        {"weight": lambda w: w * 1.001},
        r"'0' \(Linear\) sends -?[\d.]+ at step 0 in the imported",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_importer_is_refused_by_layer_and_step(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    framework, kind, fields, expected = WRONG[case]
    assert import_module(two_layers(), (6,)).metadata["verified"]["not_exercised"] == []
    altered(monkeypatch, framework, kind, **fields)
    with pytest.raises(NetworkError, match=f"^node {expected}") as raised:
        import_module(two_layers(), (6,))
    assert "\n" not in str(raised.value)
    assert import_module(two_layers(), (6,), verify=False).metadata["verified"] == "no"


class Overwrites(nn.Module):
    """Adds to the spikes that the neuron itself feeds back in the next step."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 12)
        self.lif = snn.RLeaky(0.8, linear_features=12, threshold=0.4, init_hidden=True)

    def forward(self, x: Tensor) -> Any:
        sent = self.lif(self.fc(x))
        sent += self.fc(x)
        return sent


def test_what_following_cannot_see_is_found_by_running() -> None:
    torch.manual_seed(0)
    with pytest.raises(NetworkError, match=r"^node 'lif' .* at step \d"):
        import_module(Overwrites(), (6,))


def test_a_tie_does_not_travel_and_is_counted() -> None:
    """Halves and a threshold of 1: float64 says how many membranes meet it exactly."""
    module = nn.Sequential(
        nn.Linear(6, 16, bias=False), neuron.IFNode(), nn.Linear(16, 16, bias=False), neuron.IFNode()
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for part in (module[0], module[2]):
            part.weight.copy_(torch.randint(-2, 3, part.weight.shape, generator=generator) / 2)
    report = import_module(module, (6,)).metadata["verified"]
    assert report["ties"] > 0 and report["not_exercised"] == []


@pytest.mark.parametrize("scale", [1.0, 4096.0])
def test_ties_decided_otherwise_are_no_difference(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """``>`` for ``>=`` differs at ties alone: nothing to refuse, at thresholds of every size."""
    module = nn.Sequential(nn.Linear(6, 16, bias=False), neuron.IFNode(v_threshold=scale))
    with torch.no_grad():
        module[0].weight.copy_(torch.randint(-2, 3, (16, 6), generator=torch.Generator().manual_seed(1)) * scale / 2)
    altered(monkeypatch, "spikingjelly", "IFNode", strict=lambda v: not v)
    network = import_module(module, (6,))
    assert network.metadata["verified"]["ties"] > 0
    frames = spikes(8, 2, (6,), 0)
    with torch.no_grad():
        expected = torch.stack([module(frame) for frame in frames])
    assert not torch.equal(ours(network, frames), expected)  # the two do differ


def test_layers_that_never_fire_are_named_and_not_refused() -> None:
    module = nn.Sequential(
        nn.Linear(6, 20), neuron.IFNode(v_threshold=1e9), nn.Linear(20, 20), neuron.IFNode(v_threshold=5.0)
    )
    assert import_module(module, (6,)).metadata["verified"]["not_exercised"] == ["1"]


def test_deep_layers_are_exercised_by_scaling() -> None:
    """Layers as torch draws them: without scaling nothing of the last ones fires."""
    torch.manual_seed(0)
    parts = [part for _ in range(8) for part in (nn.Linear(32, 32), neuron.LIFNode())]
    with torch.no_grad():
        sent = torch.stack([nn.Sequential(*parts)(frame) for frame in spikes(8, 2, (32,), 0)])
    assert not bool(sent.any())
    report = import_module(nn.Sequential(*parts), (32,)).metadata["verified"]
    assert report["not_exercised"] == []


def test_the_report_is_kept_but_no_part_of_the_identity(tmp_path: Any) -> None:
    proven, unproven = (import_module(two_layers(), (6,), verify=verify) for verify in (True, False))
    assert proven.id == unproven.id
    write_network(tmp_path / "net.npz", proven)
    assert read_network(tmp_path / "net.npz").metadata["verified"]["steps"] == 8


class OnlyThree(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Any:
        if isinstance(x, Tensor) and len(x) != 3:
            raise ValueError("three samples\nonly")
        return self.fc(x)


def test_what_could_not_be_run_is_said() -> None:
    said = import_module(OnlyThree(), (6,)).metadata["verified"]
    assert said == "no: the module could not be run on [2, 6] (ValueError: three samples)"


class SkipsALayer(nn.Module):
    """Its second layer is called where values have no numbers, and never in a run."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.fc2 = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Any:
        return self.fc(x) if isinstance(x, Tensor) else self.fc2(self.fc(x))


def test_a_layer_that_is_never_called_is_a_difference() -> None:
    with pytest.raises(NetworkError, match=r"^node 'fc2' gets or sends \[\] \(0 maps\) in 8 steps"):
        import_module(SkipsALayer(), (6,))


class Functional(nn.Module):
    """States go in and come out, in a tuple and a dict, without a default."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.one = nn.Linear(6, 20), snn.Leaky(0.8, threshold=0.3)
        self.fc2, self.two = nn.Linear(20, 20), snn.Synaptic(0.5, 0.8, threshold=0.3)

    def forward(self, x: Tensor, states: Any) -> Any:
        a, mem = self.one(self.fc(x), states[0].detach())
        b, syn, mem2 = self.two(self.fc2(a), states[1]["syn"], states[1]["mem"])
        return b, (mem, {"syn": syn, "mem": mem2})


class InitialInside(Functional):
    def forward(self, x: Tensor, mem: Any = None, syn: Any = None, mem2: Any = None) -> Any:
        if mem is None:
            mem = self.one.reset_mem()
            syn, mem2 = self.two.reset_mem()
        a, mem = self.one(self.fc(x), mem)
        b, syn, mem2 = self.two(self.fc2(a), syn=syn, mem=mem2)
        return b, mem, syn, mem2


class NorseParts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = norse.SequentialState(
            nn.Linear(6, 20), norse.LIFCell(norse.LIFParameters(v_th=torch.tensor(0.05)))
        )
        self.fc, self.read = nn.Linear(20, 4), norse.LICell()

    def forward(self, x: Tensor, state: Any = None) -> Any:
        a, b = (None, None) if state is None else state
        z, a = self.first(x, a)
        v, b = self.read(self.fc(z), b)
        return v, (a, b)


class AllSteps(nn.Module):
    """SpikingJelly, all steps at once, and a softmax of the mean at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.first = layer.SeqToANNContainer(nn.Linear(6, 20), nn.BatchNorm1d(20))
        self.lif = neuron.LIFNode(v_threshold=0.2, step_mode="m")
        self.last = layer.MultiStepContainer(nn.Linear(20, 20), neuron.IFNode(v_threshold=0.2))

    def forward(self, x: Tensor) -> Any:
        z = self.lif(self.first(x))
        return F.log_softmax((self.last(z) + z).mean(0), 1)


def twice_used() -> nn.Module:
    shared = nn.Linear(20, 20)
    return nn.Sequential(
        nn.Linear(6, 20), neuron.IFNode(v_threshold=0.2), shared, neuron.IFNode(v_threshold=0.2), shared
    )


class Pair(NamedTuple):
    spk: Any
    mem: Any


class NamedStates(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.one = nn.Linear(6, 20), snn.Leaky(0.8, threshold=0.3)

    def forward(self, x: Tensor, state: Any = None) -> Any:
        if state is None:
            state = Pair(None, self.one.init_leaky())
        spk, mem = self.one(self.fc(x), state.mem)
        return Pair(spk, mem)


class GlobalState(NamedStates):
    """Its membrane stands in a global, which every run is to find as it was."""

    def forward(self, x: Tensor, state: Any = None) -> Any:
        global STATE
        sent, STATE = self.one(self.fc(x), STATE)
        return sent


STATE: Any = None


@pytest.mark.parametrize(
    "make", [Functional, InitialInside, NorseParts, AllSteps, NamedStates, GlobalState, twice_used]
)
def test_every_way_of_seeing_time_is_proven(make: Any) -> None:
    torch.manual_seed(0)
    report = import_module(make(), (6,)).metadata["verified"]
    assert isinstance(report, dict) and report["not_exercised"] == []


@pytest.mark.parametrize("make", [Functional, NorseParts, AllSteps, twice_used])
def test_and_a_fault_in_it_found(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last synapse of each is given other weights."""
    torch.manual_seed(0)
    module = make()
    right = trace.FRAMEWORKS["torch"]
    last = [part for part in module.modules() if isinstance(part, nn.Linear)][-1]

    def wrong(part: Any, site: Any) -> Part:
        made = right["Linear"](part, site)
        node = made.nodes[""]
        assert isinstance(node, Linear) and node.weight is not None
        same = np.array_equal(node.weight, last.weight.detach().numpy())
        return Part({"": replace(node, weight=node.weight * 1.01)}) if same else made

    monkeypatch.setitem(trace.FRAMEWORKS, "torch", {**right, "Linear": wrong})
    with pytest.raises(NetworkError, match=r"\(Linear\) sends .* at step 0"):
        import_module(module, (6,))


@pytest.mark.parametrize("ending", [nn.Softmax(1), nn.LogSoftmax(1)])
def test_an_activation_network_is_proven_to_its_left_out_end(ending: nn.Module) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3), ending
    )
    report = import_module(module, (1, 6, 6), encoding="analog").metadata["verified"]
    assert report == {"steps": 8, "samples": 2, "ties": 0, "not_exercised": []}
