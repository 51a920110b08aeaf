"""Following a module: its layers become nodes, containers are opened, and a user's own forward is followed by torch.fx."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn

from spikeloom.errors import NetworkError, SpikeloomError
from spikeloom.snn.importers import norse, snntorch, spikingjelly, torch_nn
from spikeloom.snn.importers.assembly import Assembly, Handler, Part, Place, Site, State, Time

#: What is known of each framework, by the first word of its modules' paths.
FRAMEWORKS: dict[str, Mapping[str, Handler]] = {
    "torch": torch_nn.LAYERS,
    "snntorch": snntorch.LAYERS,
    "spikingjelly": spikingjelly.LAYERS,
    "norse": norse.LAYERS,
}
#: Where frameworks keep whole models, which are followed like a user's own.
_MODELS = ("spikingjelly.activation_based.model.",)
_SINGLE_STEP = "hand over the part of the model that computes one step, without loops or branches over tensors"


def framework_of(module: nn.Module) -> str:
    """First word of the path of the module's class; "user" for what belongs to no framework."""
    path = type(module).__module__
    root = path.split(".")[0]
    known = root in FRAMEWORKS and not path.startswith(_MODELS) and (root != "torch" or path.startswith("torch.nn."))
    return root if known else "user"


def _inside(module: nn.Module, time: Time) -> Time | None:
    """How the children of a container that calls them in turn see time; None for any other module."""
    match framework_of(module):
        case "spikingjelly":
            return spikingjelly.inner_time(module, time)
        case "norse":
            return norse.inner_time(module, time)
    return time if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward else None


def _is_leaf(module: nn.Module) -> bool:
    return framework_of(module) != "user" or _inside(module, "step") is not None or _subclassed(module) is not None


def _subclassed(module: nn.Module) -> type | None:
    """The spiking layer of a framework that a user's class is made from."""
    bases = type(module).__mro__[1:]
    spiking = [b for b in bases if b.__module__.split(".")[0] in ("snntorch", "spikingjelly", "norse")]
    return next((b for b in spiking if b.__name__ in FRAMEWORKS[b.__module__.split(".")[0]]), None)


class _Tracer(fx.Tracer):
    """Stops at layers and at containers that are opened otherwise."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return _is_leaf(m)


class _Constant:
    """A tensor that a forward takes from the module itself."""


class Walk:
    """Follows modules from the input on and builds the network beside."""

    def __init__(self, assembly: Assembly) -> None:
        self.assembly = assembly
        self._met: dict[int, str] = {}
        self._overwritten: list[tuple[Place, Place]] = []  # maps that an in-place layer replaced, in order

    def module(self, module: nn.Module, path: str, place: Any, time: Time) -> Any:
        """What ``module``, found at ``path``, makes of what arrives at ``place``; a Place or a tuple as it returns."""
        site = self._site(path or type(module).__name__.lower(), type(module).__name__, place, time)
        root, inner = framework_of(module), _inside(module, time)
        handler = FRAMEWORKS[root].get(type(module).__name__) if inner is None and root != "user" else None
        if handler is None and inner is None and root != "user":
            raise site.refusal(
                f"is a layer of {root} that has no node here; known are {', '.join(sorted(FRAMEWORKS[root]))}"
            )
        site.need(
            not (module._forward_hooks or module._forward_pre_hooks),
            "has a forward hook, and what it changes is not known; remove it (torch.nn.utils.prune.remove makes masks permanent)",
        )
        if inner is not None:
            return self._container(module, site, path, place, inner)
        if root == "user":
            base = _subclassed(module)
            if base is not None:
                raise site.refusal(
                    f"is made from {base.__name__} of {base.__module__.split('.')[0]}, and what it changes is not known; "
                    f"use {base.__name__} itself"
                )
            return self._forward(module, site, path, place, time)
        assert handler is not None
        part = handler(module, site)
        if part.stateful:
            self._once(module, site)
        return self._put(site, part, place, part.in_place)

    def _put(self, site: Site, part: Part, place: Place, in_place: bool) -> Place:
        after = self.assembly.add(site, part, place)
        if in_place:
            self._overwritten.append((place, after))
        return after

    def _site(self, name: str, kind: str, place: Any, time: Time) -> Site:
        if not isinstance(place, Place):
            what = f"a state of '{place.of}'" if isinstance(place, State) else "something other than a map"
            raise NetworkError(
                f"node '{name}' ({kind}) gets {what}, expected spikes or sums; only those travel between nodes"
            )
        return Site(self.assembly.name_for(name), kind, place.shape, "step" if place.over_time else time)

    def _once(self, module: nn.Module, site: Site) -> None:
        """A neuron called twice takes two steps."""
        if id(module) in self._met:
            raise NetworkError(
                f"node '{self._met[id(module)]}' ({site.kind}) is called twice in one pass, which is two steps in time; {_SINGLE_STEP}"
            )
        self._met[id(module)] = site.name

    def _container(self, module: Any, site: Site, path: str, place: Any, inner: Time) -> Any:
        """The children of a container in turn."""
        stateful = site.kind in ("SequentialState", "Lift")  # Norse's pass states along, the others cannot
        if getattr(module, "return_hidden", False):
            raise site.refusal("returns what each layer sends (return_hidden=True), expected False")
        children = [("lifted_module", module.lifted_module)] if site.kind == "Lift" else module.named_children()
        for key, child in children:
            if isinstance(place, Place) and place.states and not stateful:
                raise NetworkError(
                    f"node '{place.name}' returns its state too, which {site.kind} '{path}' cannot pass on; use init_hidden=True "
                    f"(output=True for the last neuron only)"
                )
            place = _first(place) if stateful else place
            place = self.module(child, f"{path}.{key}" if path else key, place, inner)
        return (_first(place), State(site.name)) if stateful else place

    def _forward(self, module: nn.Module, site: Site, path: str, place: Any, time: Time) -> Any:
        """A user's own forward."""
        parameters = list(inspect.signature(module.forward).parameters.values())
        plain = {p.name: p.default for p in parameters[1:] if isinstance(p.default, bool | int | float | str)}
        try:
            graph = _Tracer().trace(module, plain)
        except SpikeloomError:
            raise
        except (
            fx.proxy.TraceError, ArithmeticError, AssertionError, AttributeError, LookupError, NotImplementedError, RuntimeError,
            TypeError, ValueError,
        ) as error:  # fmt: skip
            raise site.refusal(f"cannot be followed ({_short(error)}); {_SINGLE_STEP}") from error
        modules = dict(module.named_modules())
        found: dict[fx.Node, Any] = {}
        needed = _needed(graph, modules)
        first = True
        for node in graph.nodes:
            done = len(self._overwritten)
            args = tuple(fx.node.map_arg(arg, found.get) for arg in node.args)
            kwargs = {key: fx.node.map_arg(value, found.get) for key, value in node.kwargs.items()}
            if node.op == "placeholder":
                found[node], first = (place if first else State(str(node.target))), False
            elif node.op == "get_attr":
                found[node] = _Constant()
            elif node.op == "output":
                return args[0]
            elif node in needed:
                name = str(node.target) if node.op == "call_module" else node.name
                name = f"{path}.{name}" if path else name
                if node.op == "call_module":
                    found[node] = self._call(modules[str(node.target)], name, args, kwargs, time)
                else:
                    found[node] = self._function(node, name, args, kwargs, time)
                for before, after in self._overwritten[done:]:
                    found = {n: after if value is before else value for n, value in found.items()}
        raise AssertionError("a traced graph ends with its output")

    def _call(self, module: nn.Module, path: str, args: tuple[Any, ...], kwargs: dict[str, Any], time: Time) -> Any:
        """A module called in a forward; what it gets beside its input must be states."""
        given = [*args, *kwargs.values()]
        states = [value for value in given[1:] if value is not None]
        if any(not isinstance(value, State) for value in states):
            raise NetworkError(
                f"node '{path}' ({type(module).__name__}) gets a state that the forward makes itself, so every step starts anew; "
                f"take the state as an argument of forward, or let the neuron keep it"
            )
        if not given:
            raise NetworkError(f"node '{path}' ({type(module).__name__}) is called without an input")
        if framework_of(module) == "norse" and not states and time == "step":
            raise NetworkError(
                f"node '{path}' ({type(module).__name__}) gets no state, so every step starts anew; pass its state on through "
                f"forward, or use norse.torch.SequentialState"
            )
        return self.module(module, path, given[0], time)

    def _function(self, node: fx.Node, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], time: Time) -> Any:
        """A function, an operator or a method of a tensor."""
        target: Any = node.target
        kind = target if isinstance(target, str) else getattr(target, "__name__", str(target))
        if kind == "fn":  # torch hides pools that may return indices
            kind = node.name
        subject = args[0] if args else None
        plain = _plain(kind, subject, args, time)
        if plain is not None:
            return plain[0]
        maps = list(places((*args, *kwargs.values())))
        if not maps:
            return State(subject.of) if isinstance(subject, State) else _Constant()
        site = self._site(name, kind, maps[0], time)
        if target in torch_nn.SUMS:
            if any(isinstance(arg, int | float) and arg == 0 for arg in args):  # sum() starts from 0
                return maps[0]
            site.need(len(maps) == 2 and not set(kwargs) - {"other"}, "adds something other than two maps")
            summed = self.assembly.sum(site, maps)
            if _overwrites(node):
                self._overwritten.append((maps[0], summed))
            return summed
        if target == "clone":
            return replace(maps[0])  # what overwrites the copy leaves the original
        known = torch_nn.FUNCTIONS.get(target) if isinstance(target, str) or callable(target) else None
        if known is None or len(maps) != 1 or subject is not maps[0]:
            raise site.refusal(
                "is a function that has no node here; known are ReLUs, clamp(0, c), 2d pools, flatten, mean over the map and sums "
                "of two maps"
            )
        options = {key: value for key, value in kwargs.items() if key not in ("_stacklevel", "dtype")}
        try:
            inspect.signature(known[0]).bind(site, *args[1:], **options)
        except TypeError as error:
            raise site.refusal(f"is called in a way not known here ({_short(error)})") from error
        part: Part = known[0](site, *args[1:], **options)
        return self._put(site, part, maps[0], _overwrites(node))


def places(value: Any) -> Iterator[Place]:
    """Every place in what a forward passes on or returns."""
    if isinstance(value, Place):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from places(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from places(item)


def _plain(kind: str, subject: Any, args: tuple[Any, ...], time: Time) -> tuple[Any] | None:
    """The result, in a tuple, of what computes no map: picking from tuples, sizes and arithmetic on them."""
    if kind == "getitem" and isinstance(subject, tuple):
        return (subject[args[1]],)
    if kind == "getitem" and isinstance(subject, State):
        return (subject,)
    if kind == "getitem" and isinstance(subject, Place) and subject.states and isinstance(args[1], int):
        return (_first(subject) if args[1] == 0 else State(subject.name),)
    if isinstance(subject, Place):
        sizes = Site("", "", subject.shape, time).sizes
        if kind == "size":
            return (sizes[args[1]] if len(args) > 1 else sizes,)
        if kind == "getattr" and args[1] in ("shape", "ndim"):
            return (sizes if args[1] == "shape" else len(sizes),)
        if kind == "dim":
            return (len(sizes),)
    numbers: dict[str, Callable[..., Any]] = {
        "mul": lambda a, b: a * b, "floordiv": lambda a, b: a // b, "add": lambda a, b: a + b, "sub": lambda a, b: a - b,
    }  # fmt: skip
    if kind in numbers and len(args) == 2 and all(isinstance(arg, int) for arg in args):
        return (numbers[kind](*args),)
    return None


def _overwrites(node: fx.Node) -> bool:
    """True for a function that changes its input."""
    if node.op not in ("call_function", "call_method"):
        return False
    if node.kwargs.get("inplace") is True or node.target in ("add_", torch.relu_):
        return True
    known = torch_nn.FUNCTIONS.get(node.target) if isinstance(node.target, str) or callable(node.target) else None
    return known is not None and known[1]


def _needed(graph: fx.Graph, modules: Mapping[str, nn.Module]) -> set[fx.Node]:
    """What the output, or something that changes its input, depends on."""
    in_place = {path for path, m in modules.items() if any(getattr(part, "inplace", False) for part in m.modules())}
    waiting = [
        node
        for node in graph.nodes
        if node.op == "output" or _overwrites(node) or (node.op == "call_module" and node.target in in_place)
    ]
    needed: set[fx.Node] = set()
    while waiting:
        node = waiting.pop()
        if node not in needed:
            needed.add(node)
            waiting.extend(node.all_input_nodes)
    return needed


def _first(value: Any) -> Any:
    """What a module sends, without the states it returns besides."""
    if isinstance(value, tuple) and value:
        return _first(value[0])
    return replace(value, states=0) if isinstance(value, Place) and value.states else value


def _short(error: BaseException) -> str:
    """The first line of an error, cut to what fits into one."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text if len(text) <= 120 else text[:117] + "..."
