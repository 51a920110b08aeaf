"""After an import, or a refusal, the user's module and all random states are as before."""

from __future__ import annotations

import random
import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from spikeloom.errors import NetworkError
from spikeloom.snn.importers import import_module
from spikeloom.snn.importers.copies import changes, working_copy

from .own import Own, own
from .runs import installed

snn = installed("snntorch")
COUNTED: dict[str, int] = {"calls": 0}


class Busy(Own):
    """Does a bit of everything that leaves traces."""

    seen: list[int] = []  # noqa: RUF012 (of the class, as users write it)

    def forward(self, x: Any) -> Any:
        COUNTED["calls"] += 1
        sent, self.mem = self.leaky(self.bn(self.fc(x)), self.mem)
        self.t += 1
        self.count += 1
        self.record.append(sent)
        self.seen.append(1)
        self.draws.random()
        torch.rand(1), np.random.rand(), random.random()  # noqa: NPY002
        return self.lif(self.hidden(sent))


def prepare(module: Any) -> None:
    module.mem, module.t, module.record, module.lock = None, 0, [], threading.Lock()
    module.register_buffer("count", torch.zeros(1))
    module.functions = torch.nn.functional
    module.draws, module.taken = random.Random(0), (n for n in range(3))
    module.fc.weight.register_hook(lambda grad: grad)
    module.cached = module.fc.weight * 2  # remembers how it was made: deepcopy alone would refuse it


def everything(module: nn.Module) -> Any:
    """Ids, values and modes of all that a module holds."""
    held = {
        path: {key: (id(value), repr(value)) for key, value in vars(part).items()}
        for path, part in module.named_modules()
    }
    tensors = {
        path: [(id(b), b.clone()) for b in part._buffers.values() if b is not None]
        for path, part in module.named_modules()
    }
    states = torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    shown = {path: [(key, value.tolist()) for key, value in each] for path, each in tensors.items()}
    modes = [part.training for part in module.modules()]
    return (
        held,
        shown,
        modes,
        states,
        list(Busy.seen),
        dict(COUNTED),
        {k: v.tolist() for k, v in module.state_dict().items()},
    )


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("run_before", [True, False])
def test_nothing_of_the_module_changes(verify: bool, run_before: bool) -> None:
    torch.manual_seed(0)
    module = Busy(prepare)
    if run_before:
        module(torch.rand(3, 6))  # its membrane now has a gradient, and starts nothing that a node can say
        module.mem = module.mem * 0
    module.hidden.eval()
    before = everything(module)
    network = import_module(module, (6,), verify=verify)
    assert everything(module) == before
    assert network.metadata["verified"] == (
        "no" if not verify else {"steps": 8, "samples": 2, "ties": 0, "not_exercised": []}
    )
    untouched = random.Random(0)
    drawn = [untouched.random() for _ in range(2)]
    assert module.draws.random() == drawn[run_before]
    assert module(torch.rand(3, 6)).shape == (3, 12) and next(module.taken) == 0


def test_nothing_of_a_refused_module_changes() -> None:
    torch.manual_seed(0)
    module = Busy(prepare)
    module(torch.rand(3, 6))
    before = everything(module)
    with pytest.raises(NetworkError, match=r"starts 'leaky' from what self\.mem holds now"):
        import_module(module, (6,))
    assert everything(module) == before and module.mem.grad_fn is not None


def test_a_copy_is_at_rest_and_shares_nothing_that_changes() -> None:
    module = own(lambda m, x: x, lambda m: setattr(m, "call", lambda: m.fc.weight.zero_()))
    module.lif.v, module.hidden.mem = torch.ones(2, 12), torch.ones(2, 12)
    copied = working_copy(module)
    with torch.no_grad():
        copied.call()
    assert bool(module.fc.weight.any()) and not bool(copied.fc.weight.any())
    assert copied.lif.v == 0.0 and not bool(copied.hidden.mem.any()) and not copied.training and module.training
    assert bool(module.hidden.mem.all()) and bool(module.lif.v.all())


def test_what_differs_is_named() -> None:
    one = own(
        lambda m, x: x, lambda m: (setattr(m, "a", [0, 1]), setattr(m, "b", {"k": np.ones(2)}), setattr(m, "c", None))
    )
    two = working_copy(one)
    assert changes(working_copy(one), two) == []
    two.a[1], two.b["k"][0], two.c, two.d = 5, 3.0, [1], float("nan")
    with torch.no_grad():
        two.fc.bias += 1
    found = changes(working_copy(one), two)
    assert set(map(str, found)) == {"self.a[1]", "self.b['k']", "self.c", "self.d", "self.fc.bias"}


def test_data_outside_the_module_is_as_before() -> None:
    """In a closure of its class."""
    outside = [0.0]

    def step(m: Any, x: Any) -> Any:
        outside[0] = 0.9 * outside[0] + m.fc(x)
        return outside[0]

    for verify in (False, True):
        with pytest.raises(NetworkError, match="in outside,"):
            import_module(own(step), (6,), verify=verify)
        assert outside == [0.0]


class Stubborn(nn.Identity):
    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("cannot be pickled")


def test_a_module_that_cannot_be_copied_is_refused_in_one_line() -> None:
    with pytest.raises(
        NetworkError, match=r"^the module \(Stubborn\) cannot be copied \(cannot be pickled\), and only a copy"
    ):
        import_module(Stubborn(), (4,))
