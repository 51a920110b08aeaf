"""Forwards of a user's own, one function each, on a module that holds what they may need."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .runs import installed

snn = installed("snntorch")
neuron = installed("spikingjelly.activation_based.neuron")
norse = installed("norse.torch")
Forward = Callable[[Any, Tensor], Any]


class Own(nn.Module):
    """Layers under short names; ``prepare`` adds attributes, ``step`` is the forward."""

    step: Forward

    def __init__(self, prepare: Callable[[Any], Any] = lambda m: None) -> None:
        super().__init__()
        self.fc, self.fc2, self.bn = nn.Linear(6, 12), nn.Linear(12, 12), nn.BatchNorm1d(12)
        self.hidden = snn.Leaky(0.8, threshold=0.3, init_hidden=True)
        self.leaky = snn.Leaky(0.8, threshold=0.3)
        self.lif = neuron.LIFNode(v_threshold=0.2)
        self.cell = norse.LIFCell(norse.LIFParameters(v_th=torch.tensor(0.05)))
        prepare(self)


def own(step: Forward, prepare: Callable[[Any], Any] = lambda m: None) -> Own:
    """A module whose class has ``step`` as its forward."""
    torch.manual_seed(3)
    made: Own = type("Own", (Own,), {"forward": step})(prepare)
    return made


def theirs(module: nn.Module, frames_TN: Tensor) -> Tensor:
    """What a copy of the module itself sends in evaluation mode, one call a step, from the state after a reset."""
    module = copy.deepcopy(module).eval()
    for part in module.modules():
        name = {"snntorch": "reset_mem", "spikingjelly": "reset"}.get(type(part).__module__.split(".")[0], "")
        getattr(part, name, lambda: None)()
    with torch.no_grad():
        return torch.stack([module(frame.clone()).clone() for frame in frames_TN])
