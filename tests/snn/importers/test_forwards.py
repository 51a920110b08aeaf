"""A forward of a user's own is imported as what it computes, or refused by name: the right value is what the module itself sends."""

from __future__ import annotations

import itertools
import operator
import random
from collections import Counter, UserDict
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from spikeloom.errors import NetworkError
from spikeloom.snn.importers import import_module

from .own import own, theirs
from .runs import installed, ours, spikes

snn = installed("snntorch")
utils = installed("snntorch.utils")
neuron = installed("spikingjelly.activation_based.neuron")
functional = installed("spikingjelly.activation_based.functional")

#: What each makes of y before it is used on: equal to what torch makes of it, or refused by this name.
IN_PLACE: dict[str, tuple[Any, str | None]] = {
    "relu_": (lambda y: y.relu_(), None),
    "torch.relu_": (torch.relu_, None),
    "F.relu": (lambda y: F.relu(y, True), None),
    "F.relu6": (lambda y: F.relu6(y, True), None),
    "clamp_": (lambda y: y.clamp_(0, 0.4), None),
    "clip_": (lambda y: y.clip_(0, 0.4), None),
    "torch.clamp_": (lambda y: torch.clamp_(y, 0, 0.4), None),
    "F.hardtanh_": (lambda y: F.hardtanh_(y, 0.0, 0.4), None),
    "F.hardtanh": (lambda y: F.hardtanh(y, 0.0, 0.4, True), None),
    "add_": (lambda y: y.add_(y.relu()), None),
    "detached relu_": (lambda y: y.detach().relu_(), None),
    "viewed relu_": (lambda y: y.view(-1, 12).relu_(), None),
    "requires_grad_": (lambda y: y.requires_grad_(False), None),
    "mul_": (lambda y: y.mul_(2), "node 'mul_' (mul_)"),
    "sub_": (lambda y: y.sub_(0.1), "node 'sub_' (sub_)"),
    "div_": (lambda y: y.div_(3), "node 'div_' (div_)"),
    "add_ a number": (lambda y: y.add_(0.1), "node 'add_' (add_)"),
    "neg_": (lambda y: y.neg_(), "node 'neg_' (neg_)"),
    "zero_": (lambda y: y.zero_(), "node 'zero_' (zero_)"),
    "fill_": (lambda y: y.fill_(0.5), "node 'fill_' (fill_)"),
    "sigmoid_": (lambda y: y.sigmoid_(), "node 'sigmoid_' (sigmoid_)"),
    "torch.sigmoid_": (torch.sigmoid_, "node 'sigmoid_' (sigmoid_)"),
    "tanh_": (lambda y: y.tanh_(), "node 'tanh_' (tanh_)"),
    "clamp_ below": (lambda y: y.clamp_(-1, 1), "node 'clamp_' (clamp_)"),
    "F.hardtanh_ below": (F.hardtanh_, "node 'hardtanh_' (hardtanh_)"),
    "F.threshold_": (lambda y: F.threshold_(y, 0.1, 0.0), "node 'threshold_' (threshold_)"),
    "F.threshold": (lambda y: F.threshold(y, 0.1, 0.0, True), "(_threshold)"),
    "F.elu": (lambda y: F.elu(y, inplace=True), "node 'elu' (elu)"),
    "F.leaky_relu_": (lambda y: F.leaky_relu_(y), "node 'leaky_relu_' (leaky_relu_)"),
    "F.dropout": (lambda y: F.dropout(y, 0.5, True, True), "node 'dropout' (dropout)"),
    "copy_": (lambda y: y.copy_(y.relu()), "node 'copy_' (copy_)"),
    "masked_fill_": (lambda y: y.masked_fill_(y.relu(), 0.0), "node 'masked_fill_' (masked_fill_)"),
    "out": (lambda y: torch.mul(y, 2, out=y), "node 'mul' (mul)"),
    "clamp out": (lambda y: torch.clamp(y, 0, 0.4, out=y), "node 'clamp' (clamp)"),
    "data": (lambda y: y.data.mul_(2), "(getattr)"),
    "data =": (lambda y: setattr(y, "data", y * 2), "assigns to .data"),
    "item": (lambda y: operator.setitem(y, (slice(None), 0), 0.0), "node 'setitem' (setitem)"),
    "slice": (lambda y: y[:, :3].relu_(), "(getitem)"),
    "*=": (lambda y: operator.imul(y, 2), "node 'imul' (imul)"),
    "-=": (lambda y: operator.isub(y, y.relu()), "node 'isub' (isub)"),
    "/=": (lambda y: operator.itruediv(y, 2), "node 'itruediv' (itruediv)"),
    "+=": (lambda y: operator.iadd(y, y.relu()), None),
}


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("case", IN_PLACE)
def test_what_overwrites_a_map_is_not_lost(case: str, verify: bool) -> None:
    """The result is not used, only what it was written over."""
    function, refused = IN_PLACE[case]

    def step(m: Any, x: Any) -> Any:
        y = m.fc(x)
        function(y)
        return y

    module, frames = own(step), spikes(4, 3, (6,), 0)
    if refused is None:
        expected = theirs(module, frames)
        sent = ours(import_module(module, (6,), verify=verify), frames)
        torch.testing.assert_close(sent, expected, rtol=1e-5, atol=1e-6)
        return
    with pytest.raises(NetworkError) as raised:
        import_module(module, (6,), verify=verify)
    assert refused in str(raised.value) and "\n" not in str(raised.value)


class View(nn.Module):
    """Overwrites a view of another shape, and returns the map."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)

    def forward(self, x: Any) -> Any:
        y = self.conv(x)
        y.flatten(1).relu_()
        return y


def test_a_view_of_another_shape_that_is_overwritten_is_refused() -> None:
    with pytest.raises(NetworkError, match=r"overwrites a view of 'conv', which is read later"):
        import_module(View(), (1, 5, 5), verify=False)


def test_sums_in_place_reach_every_name_of_the_map() -> None:
    def step(m: Any, x: Any) -> Any:
        y = m.fc(x)
        z = y
        y += m.fc2(y)
        return z

    module, frames = own(step), spikes(4, 3, (6,), 0)
    torch.testing.assert_close(ours(import_module(module, (6,)), frames), theirs(module, frames), rtol=1e-5, atol=1e-6)


def read_out(m: Any, x: Any) -> Any:
    m.v = 0.9 * m.v + m.fc(x)
    return m.v


def in_two_lines(m: Any, x: Any) -> Any:
    m.v = m.v * 0.9
    m.v = m.v + m.fc(x)
    return m.hidden(m.v)


def recurrent(m: Any, x: Any) -> Any:
    y = m.fc(x)
    if m.last is not None:
        y = y + m.fc2(m.last)
    m.last = m.hidden(y)
    return m.last


def delayed(m: Any, x: Any) -> Any:
    m.line.append(m.fc(x))
    return m.line.pop(0)


def summed(m: Any, x: Any) -> Any:
    m.line.append(m.fc(x))
    return sum(m.line)


def in_a_dict(m: Any, x: Any) -> Any:
    m.held["v"] = 0.9 * m.held["v"] + m.fc(x)
    return m.held["v"]


def every_other(m: Any, x: Any) -> Any:
    m.t += 1
    return m.fc(x) if m.t % 2 else m.fc(x).relu()


def fading(m: Any, x: Any) -> Any:
    m.gain = m.gain * 0.9
    return F.hardtanh(m.fc(x), 0.0, m.gain)


def adaptive(m: Any, x: Any) -> Any:
    sent = m.hidden(m.fc(x))
    m.hidden.threshold = m.hidden.threshold * 1.1
    return sent


def adaptive_lif(m: Any, x: Any) -> Any:
    sent = m.lif(m.fc(x))
    m.lif.v_threshold = m.lif.v_threshold * 1.1
    return sent


def membrane_scaled(m: Any, x: Any) -> Any:
    sent = m.lif(m.fc(x))
    m.lif.v = m.lif.v * 0.5
    return sent


def mem_scaled(m: Any, x: Any) -> Any:
    sent = m.hidden(m.fc(x))
    m.hidden.mem.mul_(0.5)
    return sent


def reset_each_step(m: Any, x: Any) -> Any:
    m.lif.reset()
    return m.lif(m.fc(x))


def reads_membrane(m: Any, x: Any) -> Any:
    return m.fc2(m.lif(m.fc(x))) + m.lif.v


def learns(m: Any, x: Any) -> Any:
    with torch.no_grad():
        m.fc.weight.mul_(0.9)
    return m.fc(x)


def twice(m: Any, x: Any) -> Any:
    m.hidden(m.fc(x))
    return m.hidden(m.fc(x))


def halved(m: Any, x: Any) -> Any:
    sent, mem = m.leaky(m.fc(x), m.mem)
    m.mem = mem * 0.5
    return sent


def halved_before(m: Any, x: Any) -> Any:
    sent, m.mem = m.leaky(m.fc(x), m.mem * 0.5)
    return sent


def exchanged(m: Any, x: Any) -> Any:
    sent, _ = m.leaky(m.fc(x), m.mem)
    m.mem = sent
    return sent


class Slotted:
    __slots__ = ("t",)

    def __init__(self) -> None:
        self.t = 0


@dataclass
class Held:
    mem: Any = None
    steps: int = 0


class Pair(NamedTuple):
    mem: Any
    steps: int


OUTSIDE = {"steps": 0}


def late_in_slots(m: Any, x: Any) -> Any:
    m.held.t += 1
    return m.fc(x) if m.held.t < 20 else m.fc(x).relu()


def late_in_an_iterator(m: Any, x: Any) -> Any:
    return m.fc(x) if next(m.count) < 20 else m.fc(x).relu()


def late_at_random(m: Any, x: Any) -> Any:
    return m.fc(x) if m.draw.random() < 0.99 else m.fc(x).relu()


def late_in_a_class(m: Any, x: Any) -> Any:
    type(m).steps = getattr(type(m), "steps", 0) + 1
    return m.fc(x) if type(m).steps < 20 else m.fc(x).relu()


def counted() -> int:
    OUTSIDE["steps"] += 1
    return OUTSIDE["steps"]


def late_in_a_global(m: Any, x: Any) -> Any:
    return m.fc(x) if counted() < 20 else m.fc(x).relu()


def started_inside_at_a_half(m: Any, x: Any) -> Any:
    if m.mem is None:
        m.mem = torch.full((x.shape[0], 12), 0.5)
    sent, m.mem = m.leaky(m.fc(x), m.mem)
    return sent


def started_inside_at_ones(m: Any, x: Any) -> Any:
    y = m.fc(x)
    if m.mem is None:
        m.mem = torch.ones_like(y)
    sent, m.mem = m.leaky(y, m.mem)
    return sent


def all_reset(m: Any, x: Any) -> Any:
    utils.reset(m)
    return m.hidden(m.fc(x))


def passed(m: Any, x: Any) -> Any:
    sent, m.mem = m.leaky(m.fc(x), m.mem)
    return sent


OWN_STATE: dict[str, tuple[Any, Any, str]] = {
    "number": (read_out, lambda m: setattr(m, "v", 0.0), "self.v"),
    "tensor": (read_out, lambda m: setattr(m, "v", torch.zeros(1)), "self.v"),
    "buffer": (read_out, lambda m: m.register_buffer("v", torch.zeros(1)), "self.v"),
    "two lines": (in_two_lines, lambda m: setattr(m, "v", 0.0), "self.v"),
    "spikes": (recurrent, lambda m: setattr(m, "last", None), "node 'fc2' (Linear) gets what is kept in self.last"),
    "delay line": (delayed, lambda m: setattr(m, "line", [torch.zeros(3, 12)]), "self.line"),
    "sum of all": (summed, lambda m: setattr(m, "line", []), "self.line"),
    "dict": (in_a_dict, lambda m: setattr(m, "held", {"v": 0.0}), "self.held['v']"),
    "counter": (every_other, lambda m: setattr(m, "t", 0), "self.t"),
    "gain": (fading, lambda m: setattr(m, "gain", 1.0), "self.gain"),
    "threshold": (adaptive, lambda m: None, "changes self.hidden.threshold"),
    "threshold of a LIFNode": (adaptive_lif, lambda m: None, "changes self.lif.v_threshold"),
    "membrane": (membrane_scaled, lambda m: None, "self.lif.v"),
    "membrane in place": (mem_scaled, lambda m: None, "self.hidden.mem"),
    "reset": (reset_each_step, lambda m: None, "self.lif.v"),
    "membrane read": (reads_membrane, lambda m: None, "self.lif.v"),
    "weights": (learns, lambda m: None, "self.fc.weight"),
    "called for nothing": (twice, lambda m: None, "'hidden' (Leaky) is called twice"),
    "state scaled": (halved, lambda m: setattr(m, "mem", torch.zeros(1)), "gives 'leaky' what it keeps in self.mem"),
    "state scaled before": (halved_before, lambda m: setattr(m, "mem", torch.zeros(1)), "self.mem"),
    "another state": (exchanged, lambda m: setattr(m, "mem", None), "gives 'leaky' what it keeps in self.mem"),
    "late, in slots": (late_in_slots, lambda m: setattr(m, "held", Slotted()), "self.held"),
    "late, in an iterator": (late_in_an_iterator, lambda m: setattr(m, "count", itertools.count()), "self.count"),
    "late, of a generator": (late_in_an_iterator, lambda m: setattr(m, "count", (k for k in range(99))), "iterator"),
    "late, at random": (late_at_random, lambda m: setattr(m, "draw", random.Random(0)), "self.draw"),
    "late, of numpy": (late_at_random, lambda m: setattr(m, "draw", np.random.default_rng(0)), "self.draw"),
    "late, in a class": (late_in_a_class, lambda m: setattr(type(m), "steps", 0), "keeps in steps"),
    "late, in a global": (late_in_a_global, lambda m: None, "keeps in OUTSIDE,"),
    "all reset": (all_reset, lambda m: None, "changes self.hidden.mem"),
    "started at a half": (started_inside_at_a_half, lambda m: setattr(m, "mem", None), "starts 'leaky'"),
    "started at ones": (started_inside_at_ones, lambda m: setattr(m, "mem", None), "starts 'leaky'"),
    "start": (passed, lambda m: setattr(m, "mem", torch.full((3, 12), 0.2)), "starts 'leaky' from what self.mem holds now"),
}  # fmt: skip


@pytest.mark.parametrize("case", OWN_STATE)
def test_state_of_ones_own_is_refused_by_its_name(case: str) -> None:
    """Without the run that proves the import, which would find it too."""
    step, prepare, expected = OWN_STATE[case]
    module = own(step, prepare)
    OUTSIDE["steps"] = 0
    known = list(snn.Leaky.instances)
    with pytest.raises(NetworkError) as raised:
        import_module(module, (6,), verify=False)
    assert OUTSIDE == {"steps": 0} and getattr(type(module), "steps", 0) == 0
    assert len(known) == len(snn.Leaky.instances) and all(map(operator.is_, known, snn.Leaky.instances))
    assert expected in str(raised.value) and "\n" not in str(raised.value)


def started_inside(m: Any, x: Any) -> Any:
    if m.mem is None:
        m.mem = m.leaky.init_leaky()
    sent, m.mem = m.leaky(m.fc(x), m.mem)
    return sent


def detached(m: Any, x: Any) -> Any:
    sent, mem = m.leaky(m.fc(x), m.mem)
    m.mem = mem.detach()
    return sent


def in_a_list(m: Any, x: Any) -> Any:
    sent, m.mems[0] = m.leaky(m.fc(x), m.mems[0])
    return sent


def of_norse(m: Any, x: Any) -> Any:
    sent, m.state = m.cell(m.fc(x), m.state)
    return sent


def by_name(m: Any, x: Any) -> Any:
    sent, m.mems["leaky"] = m.leaky(m.fc(x), m.mems.get("leaky"))
    return sent


def by_number(m: Any, x: Any) -> Any:
    if 0 not in m.mems:
        m.mems[0] = m.leaky.init_leaky()
    sent, m.mems[0] = m.leaky(m.fc(x), m.mems[0])
    return sent


def in_an_object(m: Any, x: Any) -> Any:
    m.held.steps += 1
    sent, m.held.mem = m.leaky(m.fc(x), m.held.mem)
    return sent


def in_a_tuple(m: Any, x: Any) -> Any:
    sent, mem = m.leaky(m.fc(x), m.held.mem)
    m.held = Pair(mem, 0)
    return sent


def zeros_inside(m: Any, x: Any) -> Any:
    y = m.fc(x)
    if not hasattr(m, "mem"):
        m.mem = torch.zeros_like(y)
    sent, m.mem = m.leaky(y, m.mem)
    return sent


def logged(m: Any, x: Any) -> Any:
    sent = m.hidden(m.fc(x))
    m.log[m.t] = sent
    m.counted["steps"] += 1
    m.t += 1
    m.last = counted()
    type(m).steps += 1
    return sent


def watched(m: Any, x: Any) -> Any:
    m.t += 1
    m.sent = m.hidden(m.fc(x))
    m.record.append(m.sent)
    return m.sent


def hidden(m: Any, x: Any) -> Any:
    return m.hidden(m.bn(m.fc(x)))


def of_spikingjelly(m: Any, x: Any) -> Any:
    return m.lif(m.fc(x))


def prepared(**attributes: Any) -> Any:
    return lambda m: [setattr(m, key, value) for key, value in attributes.items()]


STATE_OF_A_FRAMEWORK: dict[str, tuple[Any, Any]] = {
    "none": (passed, prepared(mem=None)),
    "zeros": (passed, prepared(mem=torch.zeros(1))),
    "buffer": (passed, lambda m: m.register_buffer("mem", torch.zeros(1))),
    "init_leaky": (passed, lambda m: setattr(m, "mem", m.leaky.init_leaky())),
    "ignored by snnTorch": (passed, prepared(mem=torch.full((12,), 0.2))),
    "started inside": (started_inside, prepared(mem=None)),
    "detached": (detached, prepared(mem=None)),
    "list": (in_a_list, prepared(mems=[None])),
    "dict by name": (by_name, lambda m: setattr(m, "mems", {})),
    "dict of another class": (by_name, lambda m: setattr(m, "mems", UserDict(leaky=None))),
    "dict by number": (by_number, lambda m: setattr(m, "mems", {})),
    "object": (in_an_object, lambda m: setattr(m, "held", Held())),
    "named tuple": (in_a_tuple, prepared(held=Pair(None, 0))),
    "zeros inside": (zeros_inside, lambda m: None),
    "logged": (logged, lambda m: [*prepared(log={}, counted=Counter(), t=0)(m), setattr(type(m), "steps", 0)]),
    "lambdas within": (
        lambda m, x: m.calls["b"][0](m.calls["a"](x)),
        lambda m: setattr(m, "calls", {"a": lambda x: m.fc(x), "b": [partial(lambda _, y: m.hidden(y), 0)]}),
    ),
    "norse": (of_norse, prepared(state=None)),
    "only watched": (watched, prepared(t=0, sent=None, record=[])),
    "set before": (hidden, lambda m: setattr(m.hidden, "mem", torch.full((3, 12), 0.2))),
    "v set before": (of_spikingjelly, lambda m: setattr(m.lif, "v", 0.1)),
    "value after reset": (of_spikingjelly, lambda m: m.lif.set_reset_value("v", 0.15)),
    "soft": (of_spikingjelly, lambda m: (setattr(m.lif, "v_reset", None), m.lif.set_reset_value("v", 0.15))),
    "called by a lambda": (lambda m, x: m.call(x), lambda m: setattr(m, "call", lambda x: m.hidden(m.fc(x)))),
}


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("case", STATE_OF_A_FRAMEWORK)
def test_state_of_a_framework_is_followed(case: str, verify: bool) -> None:
    step, prepare = STATE_OF_A_FRAMEWORK[case]
    module, frames = own(step, prepare), spikes(14, 3, (6,), 1, 0.4)
    expected = theirs(module, frames)
    before = dict(OUTSIDE), getattr(type(module), "steps", 0)
    network = import_module(module, (6,), verify=verify)
    assert (dict(OUTSIDE), getattr(type(module), "steps", 0)) == before
    assert 0.01 < float(expected.mean()) < 0.9
    assert torch.equal(ours(network, frames), expected)


def test_a_reset_before_all_steps_changes_nothing() -> None:
    class Resets(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.lif = nn.Linear(6, 12), neuron.LIFNode(v_threshold=0.2, step_mode="m")

        def forward(self, x: Any) -> Any:
            functional.reset_net(self)
            return self.lif(self.fc(x))

    torch.manual_seed(0)
    module, frames = Resets(), spikes(14, 3, (6,), 1, 0.4)
    with torch.no_grad():
        expected = module(frames)
    network = import_module(module, (6,))
    assert 0.01 < float(expected.mean()) < 0.9 and isinstance(network.metadata["verified"], dict)
    assert torch.equal(ours(network, frames), expected)


class Backwards(nn.Sequential):
    def __iter__(self) -> Any:
        return iter(list(self._modules.values())[::-1])


class Called(nn.Sequential):
    def __call__(self, x: Any) -> Any:
        return super().__call__(x).relu()


@pytest.mark.parametrize("verify", [True, False])
def test_sequences_of_a_user_are_followed_by_what_they_do(verify: bool) -> None:
    """Overridden iteration and calls, within another module and as the module itself."""
    torch.manual_seed(0)
    frames = spikes(4, 3, (6,), 0)
    within = own(
        lambda m, x: m.called(m.back(x)), lambda m: prepared(called=Called(m.fc2), back=Backwards(nn.ReLU(), m.fc))(m)
    )
    for module in (within, Backwards(nn.ReLU(), nn.Linear(6, 12))):
        sent = ours(import_module(module, (6,), verify=verify), frames)
        torch.testing.assert_close(sent, theirs(module, frames), rtol=1e-5, atol=1e-6)
    with pytest.raises(NetworkError, match=r"has a __call__ of its own"):
        import_module(Called(nn.Linear(6, 12)), (6,), verify=verify)


def test_a_sum_with_nothing_is_another_map() -> None:
    def step(m: Any, x: Any) -> Any:
        y = m.fc(x)
        (y + 0).relu_()
        return y

    module, frames = own(step), spikes(4, 3, (6,), 0)
    sent = ours(import_module(module, (6,), verify=False), frames)
    torch.testing.assert_close(sent, theirs(module, frames), rtol=1e-5, atol=1e-6)


class Unexpected(Exception):
    """Of a user's own."""


@pytest.mark.parametrize("error", [Unexpected("two\nlines"), StopIteration(), OSError("away")])
def test_whatever_a_forward_raises_is_one_line(error: Exception) -> None:
    def step(m: Any, x: Any) -> Any:
        if not isinstance(x, torch.Tensor):
            raise error
        return x

    with pytest.raises(
        NetworkError, match=r"^node 'own' \(Own\) cannot be followed \((two|StopIteration|away)\)[^\n]*$"
    ):
        import_module(own(step), (6,))
