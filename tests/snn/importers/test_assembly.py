"""Sums of synapses before a neuron: edges that meet say the same as an Add, and can be recorded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from spikeloom.core.network import Network
from spikeloom.core.nodes import (
    IF,
    LI,
    Add,
    BatchNorm,
    Conv2d,
    Delay,
    Flatten,
    Input,
    Linear,
    Node,
    Output,
    ReLU,
)
from spikeloom.errors import NetworkError
from spikeloom.snn.execute import Execution
from spikeloom.snn.importers import import_checkpoint, import_module
from spikeloom.snn.importers.assembly import without_plain_sums
from spikeloom.snn.record import record
from spikeloom.transform import fold
from tests.snn.toys import Pixels, spiking_frames

from .runs import installed, ours, spikes


def conv(rng: np.random.Generator, channels: int) -> Conv2d:
    weight = rng.normal(size=(3, channels, 3, 3)).astype(np.float32)
    return Conv2d(channels, 3, (3, 3), padding=(1, 1), weight=weight)


def residual(neuron: Node, *, third: bool = False) -> Network:
    """input -> conv1 -> if1 -> conv2, norm and conv3 -> add (-> add again with conv4) -> neuron -> flatten -> fc -> readout."""
    rng = np.random.default_rng(0)
    ones = np.ones(3, np.float32)
    nodes: dict[str, Node] = {
        "in": Input((2, 4, 4)), "conv1": conv(rng, 2), "if1": IF(), "conv2": conv(rng, 3),
        "norm": BatchNorm(3, gamma=2 * ones, beta=ones / 2, mean=ones / 4, var=3 * ones), "conv3": conv(rng, 3), "conv4": conv(rng, 3),
        "add": Add(), "more": Add(), "neuron": neuron, "flatten": Flatten(),
        "fc": Linear(48, 2, weight=rng.normal(size=(2, 48)).astype(np.float32)), "readout": LI(), "out": Output((2,)),
    }  # fmt: skip
    edges = [
        ("in", "conv1"), ("conv1", "if1"), ("if1", "conv2"), ("if1", "conv3"), ("conv2", "norm"), ("norm", "add"), ("conv3", "add"),
        ("neuron", "flatten"), ("flatten", "fc"), ("fc", "readout"), ("readout", "out"),
    ]  # fmt: skip
    if third:
        edges += [("if1", "conv4"), ("add", "more"), ("conv4", "more"), ("more", "neuron")]
    else:
        edges += [("add", "neuron")]
    used = {end for edge in edges for end in edge}
    return Network({name: node for name, node in nodes.items() if name in used}, tuple(edges))


@pytest.mark.parametrize("third", [False, True])
def test_the_same_function_that_can_be_recorded(third: bool) -> None:
    network = residual(IF(0.5), third=third)
    plain = without_plain_sums(network)
    assert set(network.nodes) - set(plain.nodes) == ({"add", "more"} if third else {"add"})
    assert set(plain.inputs_of("neuron")) == ({"norm", "conv3", "conv4"} if third else {"norm", "conv3"})
    frames = spikes(6, 5, (2, 4, 4), 0)
    torch.testing.assert_close(ours(plain, frames), ours(network, frames), rtol=1e-5, atol=1e-5)
    source = Pixels(spiking_frames(6, 5, (2, 4, 4), 0.5), np.zeros(5, np.int64), 1)
    with pytest.raises(NetworkError, match=r"layer 'add' \(Add\) gets real values"):
        record(fold(network), source, Execution(6, "events"))
    trace = record(fold(plain), source, Execution(6, "events"))
    assert set(trace.arrivals) == {"conv1", "conv2", "conv3", "fc"} | ({"conv4"} if third else set())


def test_what_an_add_of_anything_else_sums_stays() -> None:
    network = residual(IF(0.5))
    spiking = replace(network, edges=(*network.edges, ("if1", "add")))  # a shortcut of spikes
    assert without_plain_sums(spiking) is spiking
    heard = replace(network, nodes={**network.nodes, "late": Delay()}, edges=(*network.edges, ("add", "late")))
    assert without_plain_sums(heard) is heard
    itself = replace(network, edges=(*network.edges, ("add", "add")))
    assert without_plain_sums(itself) is itself
    ann = replace(network, nodes={**network.nodes, "if1": ReLU(), "neuron": ReLU()})
    assert without_plain_sums(ann) is ann


def test_every_importer_leaves_plain_sums_out(tmp_path: Path) -> None:
    network = residual(IF())
    state: dict[str, Any] = {
        f"{name}.weight": torch.from_numpy(node.weight)
        for name, node in network.nodes.items()
        if isinstance(node, Conv2d | Linear)
    }
    torch.save(state, tmp_path / "w.pth")
    entries = {
        "conv1": 'type = "Conv2d"\npadding = 1', "if1": 'type = "IF"', "conv2": 'type = "Conv2d"\npadding = 1',
        "conv3": 'type = "Conv2d"\npadding = 1\ninputs = ["if1"]', "add": 'type = "Add"\ninputs = ["conv2", "conv3"]',
        "neuron": 'type = "IF"', "flatten": 'type = "Flatten"', "fc": 'type = "Linear"',
    }  # fmt: skip
    text = "in_shape = [2, 4, 4]\n" + "".join(f'[[node]]\nname = "{name}"\n{said}\n' for name, said in entries.items())
    (tmp_path / "net.toml").write_text(text)
    described = import_checkpoint(tmp_path / "w.pth", tmp_path / "net.toml")
    assert described.inputs_of("neuron") == ("conv2", "conv3") and "add" not in described.nodes


def test_a_live_module_with_a_residual() -> None:
    snn = installed("snntorch")

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 3), nn.Linear(4, 3)
            self.spike = snn.Leaky(0.9, init_hidden=True)

        def forward(self, x: torch.Tensor) -> Any:
            return self.spike(self.one(x) + self.two(x))

    network = import_module(Block(), (4,))
    assert network.inputs_of("spike") == ("one", "two")
    assert not any(isinstance(node, Add) for node in network.nodes.values())
