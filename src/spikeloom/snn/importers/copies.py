"""Copies of a user's module to work on, so that nothing in it changes, and what differs between two of them."""

from __future__ import annotations

import copy
import random
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from operator import setitem
from types import CellType, CodeType, FunctionType, GeneratorType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from spikeloom.errors import NetworkError

#: Where frameworks reset what they keep from step to step.
_RESETS = {"snntorch": "reset_mem", "spikingjelly": "reset"}
_MUTABLE = (dict, list, set, deque)
#: What is looked after outside a module; objects of other classes may be whole data sets.
_DATA = (*_MUTABLE, Tensor, np.ndarray, int, float, type(None))
#: What a copy may fail with: an object's own methods make it.
_UNCOPIED = (Exception,)
_PLAIN = (str, bytes, int, float, complex, type(None), type)
#: What an attribute that is not there holds.
NOTHING = object()
_NOT_ATTRIBUTES = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")


class Slot(NamedTuple):
    """Where a forward keeps something: an attribute of a module, an element of what one holds, or data outside the module.

    path: of the module. keys: name of the attribute, and the keys within. outside: the globals, class or cell that holds it.
    """

    path: str
    keys: tuple[Any, ...]
    outside: Any = None

    def __str__(self) -> str:
        """As a forward writes it."""
        name, *keys = self.keys
        if name == "_memories":  # where SpikingJelly keeps what its modules call .v
            name, *keys = keys
        words = [] if self.outside is not None else ["self", self.path] if self.path else ["self"]
        return ".".join([*words, str(name)]) + "".join(f"[{key!r}]" for key in keys)

    def within(self, other: Slot) -> bool:
        """True for ``other`` itself and what it holds."""
        here, there = ([slot.path, *map(repr, slot.keys)] for slot in (self, other))  # a key may be followed too
        return self.outside is other.outside and here[: len(there)] == there


def root_of(kind: Any) -> str:
    """First word of the path of a class or a function."""
    return str(kind.__module__ or "").split(".")[0]


def working_copy(module: nn.Module) -> nn.Module:
    """A copy in evaluation mode, its neurons reset by the framework's own means, that shares nothing which a forward could change.

    Raises NetworkError for a module that cannot be copied.
    """
    try:
        copied: nn.Module = _copied(module)
    except _UNCOPIED as error:
        text = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise NetworkError(
            f"the module ({type(module).__name__}) cannot be copied ({text}), and only a copy is followed; hand over one without "
            f"the attribute that cannot"
        ) from error
    for part in copied.modules():
        part.training = False
        reset = getattr(part, _RESETS.get(root_of(type(part)), ""), None)
        if reset is not None:
            reset()
    return copied


def _copied(whole: Any) -> Any:
    """A deep copy. A tensor forgets how it was made, a function closes over copies, a generator is left out: what one takes is gone
    for all. What cannot be copied otherwise (a lock, a file, a Python module) is shared."""
    memo: dict[int, Any] = {}
    functions: list[FunctionType] = []
    for value in list(_inside(whole, {})):
        if isinstance(value, Tensor):
            if value.grad_fn is not None:
                memo[id(value)] = value.detach().clone()
        elif isinstance(value, FunctionType):
            functions.append(value)
            cells = tuple(CellType() for _ in value.__closure__ or ())
            made = FunctionType(value.__code__, value.__globals__, value.__name__, value.__defaults__, cells)
            made.__kwdefaults__ = value.__kwdefaults__
            memo[id(value)] = made if cells else value
        elif isinstance(value, GeneratorType):
            memo[id(value)] = None
        elif _held(value) is None and not isinstance(value, nn.Module):
            memo[id(value)] = value
    copied = copy.deepcopy(whole, memo)
    for function in functions:
        for cell, original in zip(memo[id(function)].__closure__ or (), function.__closure__ or (), strict=True):
            with suppress(ValueError):  # nothing in it yet
                cell.cell_contents = copy.deepcopy(original.cell_contents, memo)
    return copied


def _inside(value: Any, seen: dict[int, Any]) -> Iterator[Any]:
    """``value`` and every object in what it holds that is no plain value."""
    if id(value) in seen or isinstance(value, (*_PLAIN, np.ndarray)):
        return
    seen[id(value)] = value  # and kept, or another could get its id
    yield value
    for item in {} if isinstance(value, Tensor) else (_held(value) or {}).values():
        yield from _inside(item, seen)


def _held(value: Any) -> dict[Any, Any] | None:
    """What a value is made of, by key; None for one that does not say."""
    if isinstance(value, Mapping):
        return {k if isinstance(k, (*_PLAIN, tuple)) else (n,): v for n, (k, v) in enumerate(value.items())}
    if isinstance(value, list | tuple | set | frozenset | deque):
        return dict(enumerate(value))
    with suppress(*_UNCOPIED):
        if isinstance(value, FunctionType):
            return {n: cell.cell_contents for n, cell in enumerate(value.__closure__ or ())}
        made = value.__reduce_ex__(4)
        parts = () if isinstance(made, str) else made[1:5]
        return {n: list(part) if isinstance(part, Iterator) else part for n, part in enumerate(parts)}
    return None


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[list[tuple[Slot, Any]]]:
    """Random states of torch, NumPy and Python, and data outside the module that its classes use, are afterwards as before.

    Yields those data, each with a copy of what it holds. snnTorch, which resets all neurons that were ever made, knows those of
    ``module`` alone meanwhile.
    """
    known: Any = next(
        (kind for part in module.modules() for kind in type(part).__mro__ if "instances" in vars(kind)), None
    )
    neurons = getattr(known, "instances", None)
    if known is not None:
        known.instances = [part for part in module.modules() if isinstance(part, known)]
    outside = [(slot, get(module, slot)) for slot in _outside(module)]
    before = [(slot, _copied(value)) for slot, value in outside]
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    devices = range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)  # type: ignore[no-untyped-call]
    try:
        with torch.random.fork_rng(devices), torch.set_grad_enabled(torch.is_grad_enabled()):
            yield before
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)
        if known is not None:
            known.instances = neurons
        for (slot, value), (_, was) in zip(outside, before, strict=True):
            if isinstance(value, _MUTABLE) and not same(value, was):
                value.clear()
                (value.update if isinstance(value, (dict, set)) else value.extend)(was)
            put(module, slot, value if same(value, was) else was)


def _outside(module: nn.Module) -> list[Slot]:
    """Data that the functions of a module's classes, and the functions that those use, may change outside it."""
    kinds = dict.fromkeys(kind for part in module.modules() for kind in type(part).__mro__ if _is_users(kind))
    found = {(id(kind), key): (Slot("", (key,), kind), v) for kind in kinds for key, v in vars(kind).items()}
    waiting = [value for _, value in found.values()]
    met: set[int] = set()
    while waiting:
        value = waiting.pop()
        value = getattr(value, "fget", None) or getattr(value, "__func__", value)  # of a property, of a static method
        if not isinstance(value, FunctionType) or id(value) in met or not _is_users(value):
            continue
        met.add(id(value))
        held, code, defaults = value.__globals__, value.__code__, list(value.__defaults__ or ())
        codes = [
            code,
            *(inner for inner in code.co_consts if isinstance(inner, CodeType)),
        ]  # those of its lambdas and lists too
        used = [Slot("", (name,), held) for inner in codes for name in inner.co_names if name in held]
        if _held(value) is not None:  # all cells are filled
            used += [
                Slot("", (name,), cell) for name, cell in zip(code.co_freevars, value.__closure__ or (), strict=True)
            ]
        for slot in [*used, *(Slot("", (n,), defaults) for n in range(len(defaults)))]:
            found[id(slot.outside), slot.keys[0]] = slot, get(module, slot)
            waiting.append(get(module, slot))
    return [slot for slot, v in found.values() if isinstance(v, _DATA) and not str(slot.keys[0]).startswith("__")]


def _is_users(made: Any) -> bool:
    return root_of(made) not in ("torch", "builtins", "norse", *_RESETS)


def changes(before: nn.Module, after: nn.Module) -> list[Slot]:
    """Where two copies of a module differ: one element of a list as long as before, of a dict that lost none, of an object."""

    def held(module: nn.Module) -> dict[str, Any]:
        own = {**vars(module), **module._parameters, **module._buffers}
        return {k: v for k, v in own.items() if k not in _NOT_ATTRIBUTES and not k.startswith("_tensor_constant")}

    return [
        Slot(path, keys)
        for path, module in before.named_modules()
        for keys in _differing(held(module), held(after.get_submodule(path)))
    ]


def _differing(old: Any, new: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The keys down to what differs in two lists or dicts."""
    for key in dict.fromkeys([*old, *new]) if isinstance(old, dict) else range(len(old)):
        a, b = (held.get(key, NOTHING) if isinstance(held, dict) else held[key] for held in (old, new))
        if same(a, b):
            continue
        one, other = _open(a), _open(b)
        like = type(a) is type(b) and (len(one) == len(other) if isinstance(one, list) else one.keys() <= other.keys())
        inside = list(_differing(one, other, (*keys, key))) if like else []
        yield from inside or [(*keys, key)]


def _open(value: Any) -> Any:
    """The list or dict in which a value keeps what can be replaced one by one."""
    if isinstance(value, list | dict):
        return value
    closed = isinstance(value, (*_PLAIN, Tensor, nn.Module, FunctionType, tuple, set, deque))
    return {} if closed else getattr(value, "__dict__", {})


def same(a: Any, b: Any, seen: frozenset[int] = frozenset()) -> bool:
    """True if two values hold the same; of objects that say nothing of themselves, if they are of one class."""
    if (
        a is b or id(a) in seen or (isinstance(a, nn.Module) and isinstance(b, nn.Module))
    ):  # a module is looked at by itself
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        with suppress(*_UNCOPIED):  # one without values, or whose values are not there to be compared
            return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())
        return True
    if isinstance(a, _PLAIN):
        return bool(a == b or (a != a and b != b))
    one, other = _held(a), _held(b)
    if one is None or other is None:
        return True
    return one.keys() == other.keys() and all(same(one[key], other[key], seen | {id(a)}) for key in one)


def get(module: nn.Module, slot: Slot) -> Any:
    """What stands at ``slot``."""
    held, key = _holder(module, slot)
    if isinstance(held, dict):
        return held.get(key, NOTHING)
    return held[key] if isinstance(held, list) else getattr(held, key)


def put(module: nn.Module, slot: Slot, value: Any) -> None:
    """Place ``value`` at ``slot``, past what a module does with attributes."""
    held, key = _holder(module, slot)
    (setitem if isinstance(held, list | dict) else setattr)(held, key, value)


def _holder(module: nn.Module, slot: Slot) -> tuple[Any, Any]:
    """What holds a slot, and under which key or name."""
    *way, key = slot.keys
    if slot.outside is not None:
        return slot.outside, "cell_contents" if isinstance(slot.outside, CellType) else key
    held: Any = vars(module.get_submodule(slot.path))
    for step in way:
        held = _open(held[step])
    return held, key
