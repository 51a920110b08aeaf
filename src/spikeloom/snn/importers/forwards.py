"""A user's forward as a graph of torch.fx, and what in it changes something."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import fx, nn

from spikeloom.snn.importers import copies
from spikeloom.snn.importers.assembly import every

#: Operators that overwrite their left side; torch.fx alone would read them as the plain ones.
_IN_PLACE = (
    *(f"i{op}" for op in ["add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor"]),
    "setitem",
)
#: Methods that leave the numbers as they are.
NO_CHANGE = ("detach", "detach_", "requires_grad_", "retain_grad", "contiguous", "float", "clone")
#: Where functions without effects are from.
_PURE = ("torch", "_operator", "operator", "builtins", "math")

#: By the name of what a forward changes: whether it is the user's own, no neuron's of a framework, and what it holds after a step.
Kept = Mapping[str, tuple[bool, Any]]


class Proxy(fx.Proxy):
    """A value in a forward that is followed; it can be overwritten, but nothing of it be assigned."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in ("tracer", "node", "grad", "requires_grad"):
            raise fx.proxy.TraceError(f"assigns to .{name} of a tensor")
        super().__setattr__(name, value)


def _overwriting(name: str) -> Callable[..., Any]:
    def method(self: Proxy, *others: Any) -> Any:
        return self.tracer.create_proxy("call_function", getattr(operator, name), (self, *others), {})

    return method


for _name in _IN_PLACE:
    setattr(Proxy, f"__{_name}__", _overwriting(_name))


class Tracer(fx.Tracer):
    """Stops at layers and at containers that are opened otherwise; an argument of its own stands at each of ``slots``.

    given: to each layer besides its input, by its path.
    """

    def __init__(self, is_leaf: Callable[[nn.Module], bool], slots: Sequence[copies.Slot] = ()) -> None:
        super().__init__()
        self.is_leaf, self.slots = is_leaf, slots
        self.given: dict[str, list[Any]] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return self.is_leaf(m)

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.is_leaf(m):
            self.given[self.path_of_module(m)] = [*args, *kwargs.values()][1:]
        return super().call_module(m, forward, args, kwargs)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return Proxy(node, self)

    def create_args_for_root(self, *args: Any, **kwargs: Any) -> Any:
        made = super().create_args_for_root(*args, **kwargs)
        for slot in self.slots:
            copies.put(self.root, slot, self.create_proxy("placeholder", str(slot), (), {}))
        return made


def overwrites(node: fx.Node) -> bool:
    """True for a function that changes its input, or may: one of the user's own, and all that torch marks as doing so."""
    if node.op not in ("call_function", "call_method"):
        return False
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    root = str(getattr(node.target, "__module__", None) or "torch").split(".")[0]
    if node.kwargs.get("inplace") is True or "out" in node.kwargs or name in _IN_PLACE or root not in _PURE:
        return True
    return name.endswith("_") and not name.endswith("__") and name not in NO_CHANGE


def needed_nodes(graph: fx.Graph, modules: Mapping[str, nn.Module], kept: Kept) -> set[fx.Node]:
    """What the output, or something that changes its input, or a state that either reads depends on."""
    in_place = {path for path, m in modules.items() if any(getattr(part, "inplace", False) for part in m.modules())}
    waiting = [
        node
        for node in graph.nodes
        if node.op == "output"
        or (overwrites(node) and not _own(node.args[0], kept))  # what is kept and never read is no matter
        or (node.op == "call_module" and node.target in in_place)
    ]
    needed: set[fx.Node] = set()
    while waiting:
        node = waiting.pop()
        if node not in needed:
            needed.add(node)
            waiting.extend(node.all_input_nodes)
            if node.op == "placeholder" and str(node.target) in kept:
                waiting.extend(proxy.node for proxy in every(fx.Proxy, kept[str(node.target)][1]))
    return needed


def _own(argument: Any, kept: Kept) -> bool:
    """True for something of the user's own that a forward keeps, and for what it picks from that."""
    while isinstance(argument, fx.Node) and argument.target in (operator.getitem, getattr):
        argument = argument.args[0]
    return (
        isinstance(argument, fx.Node) and argument.op == "placeholder" and kept.get(str(argument.target), (False,))[0]
    )
