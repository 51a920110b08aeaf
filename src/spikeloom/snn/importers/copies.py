"""Copies of a user's module to work on, so that nothing in it changes, and what differs between two of them."""

from __future__ import annotations

import copy
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spikeloom.errors import NetworkError

#: An attribute of a module, by the module's path and its name; with a key one element of the list or dict that it holds.
Slot = tuple[str, str, Any]
#: Where frameworks reset what they keep from step to step.
_RESETS = {"snntorch": "reset_mem", "spikingjelly": "reset"}
_MUTABLE = (dict, list, set, deque)
#: What a copy may fail with, by the object that is copied.
_UNCOPIED = (TypeError, ValueError, AttributeError, RuntimeError, copy.Error)
_PLAIN = (str, bytes, int, float, complex, type(None), type, FunctionType, MethodType, ModuleType, np.ndarray)
_NOT_ATTRIBUTES = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")


def root_of(kind: type) -> str:
    """First word of the path of a class."""
    return kind.__module__.split(".")[0]


def working_copy(module: nn.Module) -> nn.Module:
    """A copy in evaluation mode, its neurons reset by the framework's own means, that shares nothing which a forward could change.

    Tensors that remember how they were made are copied without that. What cannot be copied (a lock, a generator) is shared. A list
    or tensor of a user's class becomes one of the copy. Raises NetworkError for a module that cannot be copied.
    """
    memo = _memo(module)
    try:
        copied: nn.Module = copy.deepcopy(module, memo)
    except _UNCOPIED as error:
        text = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise NetworkError(
            f"the module ({type(module).__name__}) cannot be copied ({text}), and only a copy is followed; hand over one without "
            f"the attribute that cannot"
        ) from error
    for part in copied.modules():
        part.training = False
        kept = vars(part)
        for kind in filter(_is_users, type(part).__mro__):
            for key, value in vars(kind).items():
                if isinstance(value, (*_MUTABLE, Tensor, np.ndarray)) and not key.startswith("__"):
                    kept.setdefault(key, copy.deepcopy(value, memo))
        kept.update({k: _bound_to_copies(v, memo) for k, v in kept.items() if isinstance(v, FunctionType)})
        reset = getattr(part, _RESETS.get(root_of(type(part)), ""), None)
        if reset is not None:
            reset()
    return copied


def _memo(whole: Any) -> dict[int, Any]:
    """What deepcopy is to take for tensors that remember how they were made, and for what cannot be copied."""
    memo: dict[int, Any] = {}
    for value in _inside(whole, set()):
        if isinstance(value, Tensor):
            if value.grad_fn is not None:
                memo[id(value)] = value.detach().clone()
        elif not _can_be_copied(value):
            memo[id(value)] = value
    return memo


def _inside(value: Any, seen: set[int]) -> Iterator[Any]:
    """Every tensor and every object that is no plain value in what ``value`` holds."""
    if id(value) in seen or isinstance(value, _PLAIN):
        return
    seen.add(id(value))
    if isinstance(value, Mapping | tuple | frozenset | list | set | deque):
        held: Iterable[Any] = value.values() if isinstance(value, Mapping) else value
    else:
        held = list(getattr(value, "__dict__", {}).values())
        if not isinstance(value, nn.Module):
            yield value
    for item in () if isinstance(value, Tensor) else held:
        yield from _inside(item, seen)


def _can_be_copied(value: Any) -> bool:
    if getattr(value, "__dict__", None):
        return True  # its attributes are looked at one by one
    with suppress(*_UNCOPIED):
        copy.deepcopy(value)
        return True
    return False


def _bound_to_copies(function: FunctionType, memo: dict[int, Any]) -> FunctionType:
    """``function`` with copies of what it closes over: a lambda that calls layers of the module calls those of the copy."""
    if not function.__closure__:
        return function
    cells = []
    for cell in function.__closure__:
        with suppress(*_UNCOPIED):
            cell = CellType(copy.deepcopy(cell.cell_contents, memo))
        cells.append(cell)
    code, name = function.__code__, function.__name__
    bound = FunctionType(code, function.__globals__, name, function.__defaults__, tuple(cells))
    bound.__kwdefaults__ = function.__kwdefaults__
    return bound


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Random states of torch, NumPy and Python, and data outside the module that its classes use, are afterwards as before."""
    kinds = {kind for part in module.modules() for kind in type(part).__mro__ if _is_users(kind)}
    functions = [f for kind in kinds for f in vars(kind).values() if isinstance(f, FunctionType)]
    used: list[tuple[Callable[[Any], None], Any]] = []
    for f in functions:
        names = [name for name in f.__code__.co_names if name in f.__globals__]
        used += [(partial(f.__globals__.__setitem__, name), f.__globals__[name]) for name in names]
        used += [(partial(setattr, cell, "cell_contents"), cell.cell_contents) for cell in f.__closure__ or ()]
    data = (*_MUTABLE, Tensor, np.ndarray, int, float, type(None))
    values = [
        (put_back, value, copy.deepcopy(value, _memo(value))) for put_back, value in used if isinstance(value, data)
    ]
    state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        torch.set_rng_state(state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)
        if devices:
            torch.cuda.set_rng_state_all(devices)
        for put_back, value, before in values:
            if isinstance(value, _MUTABLE) and not same(value, before):
                value.clear()
                fill: Any = value.update if isinstance(value, (dict, set)) else value.extend
                fill(before)
            put_back(value if same(value, before) else before)


def _is_users(kind: type) -> bool:
    return root_of(kind) not in ("torch", "builtins", "norse", *_RESETS)


def attributes(module: nn.Module) -> dict[str, Any]:
    """What a module itself holds, its submodules apart."""
    own = {k: v for k, v in vars(module).items() if k not in _NOT_ATTRIBUTES and not k.startswith("_tensor_constant")}
    return {**own, **module._parameters, **module._buffers}


def changes(before: nn.Module, after: nn.Module) -> list[Slot]:
    """Where two copies of a module differ; one element of a list or dict, where no other has come or gone."""
    found: list[Slot] = []
    for path, module in before.named_modules():
        old, new = attributes(module), attributes(after.get_submodule(path))
        for name in dict.fromkeys([*old, *new]):
            a, b = old.get(name, NOTHING), new.get(name, NOTHING)
            if same(a, b):
                continue
            one, other = (_elements(v) if isinstance(v, dict | list) else {} for v in (a, b))
            if one and type(a) is type(b) and list(one) == list(other):
                found.extend((path, name, key) for key in one if not same(one[key], other[key]))
            else:
                found.append((path, name, None))
    return found


def same(a: Any, b: Any, seen: frozenset[int] = frozenset()) -> bool:
    """True if two values hold the same; of objects that say nothing of themselves, if they are of one class."""
    if a is b or id(a) in seen:
        return True
    if type(a) is not type(b):
        return False
    seen = seen | {id(a)}
    if isinstance(a, Tensor):
        if nn.parameter.is_lazy(a) or a.is_meta or a.is_sparse or a.is_quantized or a.shape != b.shape:
            return nn.parameter.is_lazy(a) or a.shape == b.shape
        return torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())
    if isinstance(a, np.ndarray):
        return bool(a.shape == b.shape and a.tobytes() == b.tobytes())
    if isinstance(a, nn.Module):
        return True  # looked at by itself
    if isinstance(a, (Mapping, list, tuple, deque)):
        one, other = _elements(a), _elements(b)
        return list(one) == list(other) and all(same(one[key], other[key], seen) for key in one)
    if isinstance(a, (str, bytes, int, float, complex, set, frozenset)):
        return bool(a == b or a != a)
    return same(getattr(a, "__dict__", None), getattr(b, "__dict__", None), seen)


def _elements(value: Any) -> dict[Any, Any]:
    return dict(value.items() if isinstance(value, Mapping) else enumerate(value))


class _Nothing:
    """What an attribute that is not there holds."""


NOTHING = _Nothing()


def get(module: nn.Module, slot: Slot) -> Any:
    """What stands at ``slot``."""
    path, name, key = slot
    held = attributes(module.get_submodule(path)).get(name, NOTHING)
    return held if key is None else held[key]


def put(module: nn.Module, slot: Slot, value: Any) -> None:
    """Place ``value`` at ``slot``, past what a module does with attributes."""
    path, name, key = slot
    owner = module.get_submodule(path)
    if key is not None:
        attributes(owner)[name][key] = value
        return
    owner._buffers.pop(name, None)
    vars(owner)[name] = value
    if value is NOTHING:
        del vars(owner)[name]
