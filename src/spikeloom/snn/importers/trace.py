"""Following a module: its layers become nodes, containers are opened, and a user's own forward is followed by torch.fx."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from spikeloom.core.nodes import Shape
from spikeloom.errors import NetworkError, SpikeloomError
from spikeloom.snn.importers import copies, norse, snntorch, spikingjelly, torch_nn
from spikeloom.snn.importers.assembly import Assembly, Handler, Part, Place, Site, State, Time, every
from spikeloom.snn.importers.forwards import NO_CHANGE, Kept, Tracer, needed_nodes, overwrites

#: What is known of each framework, by the first word of its modules' paths.
FRAMEWORKS: dict[str, Mapping[str, Handler]] = {
    "torch": torch_nn.LAYERS,
    "snntorch": snntorch.LAYERS,
    "spikingjelly": spikingjelly.LAYERS,
    "norse": norse.LAYERS,
}
#: Those whose modules take one step at a time or all of them.
_OF_TIME = {"spikingjelly": spikingjelly, "norse": norse}
#: Where frameworks keep whole models, which are followed like a user's own.
_MODELS = ("spikingjelly.activation_based.model.",)
_OWN_STATE = "which no node does; let a neuron of a framework keep it, or hand over the layers around it"
_PASS_ON = "take the state as an argument of forward, or let the neuron keep it"
_SINGLE_STEP = "hand over the part of the model that computes one step, without loops or branches over tensors"


def framework_of(module: nn.Module) -> str:
    """First word of the path of the module's class; "user" for what belongs to no framework."""
    path = type(module).__module__
    root = path.split(".")[0]
    known = root in FRAMEWORKS and not path.startswith(_MODELS) and (root != "torch" or path.startswith("torch.nn."))
    return root if known else "user"


def _inside(module: nn.Module, time: Time) -> Time | None:
    """How the children of a container that calls them in turn see time; None for any other module."""
    root = framework_of(module)
    if root in _OF_TIME:
        inner: Time | None = _OF_TIME[root].inner_time(module, time)
        return inner
    own = any(
        getattr(type(module), key) is not getattr(nn.Sequential, key, None)
        for key in ("forward", "__call__", "__iter__")
    )
    return time if isinstance(module, nn.Sequential) and not own else None


def takes_sequences(module: nn.Module) -> bool:
    """True for a module that takes all steps at once."""
    of_time = _OF_TIME.get(framework_of(module))
    return of_time is not None and of_time.takes_sequences(module)


def _is_leaf(module: nn.Module) -> bool:
    return framework_of(module) != "user" or _inside(module, "step") is not None or _subclassed(module) is not None


def _subclassed(module: nn.Module) -> type | None:
    """The spiking layer of a framework that a user's class is made from."""
    bases = type(module).__mro__[1:]
    spiking = [b for b in bases if b.__module__.split(".")[0] in ("snntorch", "spikingjelly", "norse")]
    return next((b for b in spiking if b.__name__ in FRAMEWORKS[b.__module__.split(".")[0]]), None)


@dataclass(frozen=True)
class Call:
    """One call of a user's module, as found: what it got stands behind node ``source`` and what it sent behind ``last``.

    path: of the module. first: the first of its nodes; None if it has none. back: the node that leads from its end back to it.
    """

    path: str
    source: Place
    first: str | None
    last: Place
    back: str | None


@dataclass(frozen=True)
class _Constant:
    """A tensor that a forward takes from the module itself, or makes of one: of attribute ``of``, if that is known."""

    of: str = ""


class Walk:
    """Follows modules from the input on and builds the network beside."""

    def __init__(self, assembly: Assembly, untouched: nn.Module) -> None:
        self.assembly, self.untouched = assembly, untouched
        self.calls: list[Call] = []
        self.unseen: list[str] = []  # paths of modules that are called for nothing
        # by a user's module, its argument or attribute, and what is picked from that: the module whose state goes there, its number
        # among what the module returns, and the module's node
        self.carried: dict[tuple[str, str, tuple[Any, ...]], tuple[str, int, str]] = {}
        self._given: dict[str, list[Any]] = {}  # by a module's path, to its first call besides its input
        self._met: dict[int, str] = {}
        self._idle: dict[int, str] = {}
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
        own = [k for k, v in vars(module).items() if callable(v) and hasattr(type(module), k)]
        own = [k for k in own if root != "user" or k == "forward"]  # what else a user's has is followed
        own += ["__call__"] if type(module).__call__ is not nn.Module.__call__ else []
        site.need(not own, f"has a {', '.join(own)} of its own, and what that changes is not known; make a class of it")
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
        already = len(self.assembly.nodes)
        after = self._put(site, part, place, part.in_place)
        new = list(self.assembly.nodes)[already:]
        if not part.last:
            back = new[-1] if part.feedback else None
            self.calls.append(Call(path, place, new[0] if new else None, after, back))
        return after

    def _put(self, site: Site, part: Part, place: Place, in_place: bool) -> Place:
        after = self.assembly.add(site, part, place)
        return self._replaced(place, after) if in_place else after

    def _replaced(self, before: Place, after: Place) -> Place:
        """``after``, which overwrites ``before``."""
        after = replace(after, memory=before.memory or before.name)
        self._overwritten.append((before, after))
        return after

    def _site(self, name: str, kind: str, place: Any, time: Time) -> Site:
        if not isinstance(place, Place):
            what = "something other than a map"
            if isinstance(place, State):
                what = f"what is kept in {place.of}" if place.kept else f"a state of '{place.of}'"
            raise NetworkError(
                f"node '{name}' ({kind}) gets {what}, expected spikes or sums; only those travel between nodes"
            )
        return Site(self.assembly.name_for(name), kind, place.shape, "step" if place.over_time else time)

    def _once(self, module: nn.Module, site: Site) -> None:
        """A neuron called twice takes two steps."""
        first = self._met.get(id(module)) or self._idle.get(id(module))
        if first is not None:
            raise NetworkError(
                f"node '{first}' ({site.kind}) is called twice in one pass, which is two steps in time; {_SINGLE_STEP}"
            )
        self._met[id(module)] = site.name

    def _called_for_nothing(self, module: nn.Module, path: str) -> None:
        """What a layer sends is not used, but a neuron has taken its step."""
        self.unseen.append(path)
        for part in module.modules():
            if id(part) in self._met:
                self._once(part, Site(self._met[id(part)], type(part).__name__, (), "step"))
            self._idle[id(part)] = path

    def _container(self, module: Any, site: Site, path: str, place: Any, inner: Time) -> Any:
        """The children of a container in turn."""
        stateful = site.kind in ("SequentialState", "Lift")  # Norse's pass states along, the others cannot
        if getattr(module, "return_hidden", False):
            raise site.refusal("returns what each layer sends (return_hidden=True), expected False")
        children = [("lifted_module", module.lifted_module)] if site.kind == "Lift" else module._modules.items()
        for key, child in children:
            if isinstance(place, Place) and place.states and not stateful:
                raise NetworkError(
                    f"node '{place.name}' returns its state too, which {site.kind} '{path}' cannot pass on; use init_hidden=True "
                    f"(output=True for the last neuron only)"
                )
            place = first(place) if stateful else place
            place = self.module(child, f"{path}.{key}" if path else key, place, inner)
        return (first(place), State(site.name, (1,), fresh=True)) if stateful else place

    def _forward(self, module: nn.Module, site: Site, path: str, place: Any, time: Time) -> Any:
        """A user's own forward."""
        site.need(not isinstance(module, torch.jit.ScriptModule), f"is compiled by torch.jit; {_SINGLE_STEP}")
        parameters = list(inspect.signature(module.forward).parameters.values())
        plain = {p.name: p.default for p in parameters[1:] if isinstance(p.default, bool | int | float | str)}
        graph, kept = self._graph(module, site, path, plain)
        modules = dict(module.named_modules())
        found: dict[fx.Node, Any] = {}
        needed = needed_nodes(graph, modules, kept)
        first = True
        for node in graph.nodes:
            done = len(self._overwritten)
            args = tuple(fx.node.map_arg(arg, found.get) for arg in node.args)
            kwargs = {key: fx.node.map_arg(value, found.get) for key, value in node.kwargs.items()}
            name = str(node.target) if node.op == "call_module" else node.name
            name = f"{path}.{name}" if path else name
            if node.op == "placeholder":
                held = str(node.target)
                found[node], first = (place if first else State(held, kept=held in kept)), False
            elif node.op == "get_attr":
                found[node] = _Constant(f"self.{node.target}")
            elif node.op == "output":
                self._check_kept(kept, found, site, path)
                held = next((state.of for state in every(State, args[0]) if state.kept), "")
                site.need(not held, f"returns what it keeps in {held}, {_OWN_STATE}")
                return args[0]
            elif node in needed:
                if node.op == "call_module":
                    found[node] = self._call(modules[str(node.target)], name, args, kwargs, time, path)
                else:
                    found[node] = self._function(node, name, args, kwargs, time)
                for before, after in self._overwritten[done:]:
                    _overwrite(found, before, after, needed, site)
            elif node.op == "call_module":
                self._called_for_nothing(modules[str(node.target)], name)
        raise AssertionError("a traced graph ends with its output")

    def _graph(self, module: nn.Module, site: Site, path: str, plain: dict[str, Any]) -> tuple[fx.Graph, Kept]:
        """A forward's graph, and what it changes.

        It is followed once as it stands, and, where it changes something, again with an argument in the place of each: what a step
        computes with them is then seen, and what it only leaves in them is not.
        """
        try:
            graph, given, _, slots = _followed(module, plain, [])
        except SpikeloomError:
            raise
        except Exception as error:  # a user's forward may raise anything
            raise site.refusal(f"cannot be followed ({_short(error)}); {_SINGLE_STEP}") from error
        self._given |= {f"{path}.{name}" if path else name: values for name, values in given.items()}
        for slot in slots:
            owner = module.get_submodule(slot.path)
            site.need(
                slot.outside is not None or (framework_of(owner) == "user" and slot.keys[0] not in owner._parameters),
                f"changes {slot} in its forward, which no node does; leave layers and weights as they are",
            )
        hidden = [slot for where, part in module.named_modules() for slot in _hidden(where, part)]
        if not slots and not hidden:
            return graph, {}
        names = " and ".join(map(str, slots))
        whole = {str(slot): slot for slot in (slot._replace(keys=slot.keys[:1]) for slot in slots)}
        why = ""
        for tried in (slots, list(whole.values())):  # what a forward adds to a dict each time is no element of it
            try:
                graph, _, written, changed = _followed(module, plain, [*tried, *hidden])
            except Exception as error:  # noqa: BLE001 (a user's forward may raise anything)
                why = why or f"computes with what it keeps in {names}, {_OWN_STATE} ({_short(error)})"
                continue
            others = [str(slot) for slot in changed if not any(map(slot.within, [*tried, *hidden]))]
            if not others:
                break
            why = why or f"keeps {' and '.join(others)}, {_OWN_STATE}"
        else:
            site.need(not names, why)
            return graph, {}  # it asks what a neuron's state looks like; whether the answer matters, the proof sees
        kept = {str(slot): (True, written[str(slot)]) for slot in tried}
        for slot in hidden:  # a reset before the first of all steps leaves what is there anyway
            if site.time != "sequence" or not copies.same(written[str(slot)], copies.get(module, slot)):
                kept[str(slot)] = False, written[str(slot)]
        return graph, kept

    def _check_kept(self, kept: Kept, found: dict[fx.Node, Any], site: Site, path: str) -> None:
        """A state in an attribute comes from the neuron that gets it, and starts at rest; those in neurons are left alone."""
        for held, (own, written) in kept.items():
            left = isinstance(written, fx.Proxy) and written.node.op == "placeholder"
            site.need(left or own, f"changes {held} in its forward, {_OWN_STATE}")
        for (owner, held, keys), (taker, number, made) in self.carried.items():
            if owner != path or held not in kept:
                continue
            written, rest = kept[held][1], list(keys)
            while rest and isinstance(written, list | tuple | dict):
                key, *rest = rest
                written = getattr(written, key[1:]) if str(key).startswith(".") else written[key]
            value = found.get(written.node) if isinstance(written, fx.Proxy) else written
            own = isinstance(value, Place) and number == 0 and value.name == made
            if isinstance(value, State):
                own = value.fresh and (value.of, value.keys) == (made, (number, *rest))
            site.need(own, f"gives '{taker}' what it keeps in {held}, no state that it returned; {_PASS_ON}")
            shapes = [call.last.shape for call in self.calls if call.path == taker]
            at_rest = all(_at_rest(v, self.untouched.get_submodule(taker), shapes) for v in self._given[taker])
            site.need(at_rest, f"starts '{taker}' from what {held} holds now, which no node can say; set it to None")

    def _call(
        self, module: nn.Module, path: str, args: tuple[Any, ...], kwargs: dict[str, Any], time: Time, owner: str
    ) -> Any:
        """A module called in the forward of ``owner``; what it gets beside its input must be states."""
        names, who = list(inspect.signature(module.forward).parameters), f"node '{path}' ({type(module).__name__})"
        given = [*args, *kwargs.values()]
        labelled = zip([*names[: len(args)], *kwargs], given, strict=False)
        states = {k: v for k, v in list(labelled)[1:] if v is not None}
        if any(not isinstance(value, State) or value.fresh for value in states.values()):
            raise NetworkError(
                f"{who} gets a state that the forward makes itself, so every step starts anew; {_PASS_ON}"
            )
        if not given:
            raise NetworkError(f"{who} is called without an input")
        if framework_of(module) == "norse" and not states and time == "step":
            raise NetworkError(
                f"{who} gets no state, so every step starts anew; pass its state on through forward, or use "
                f"norse.torch.SequentialState"
            )
        sent = self.module(module, path, given[0], time)
        made = sent.name if isinstance(sent, Place) else next(every(State, sent)).of if states else ""
        for label, state in states.items():
            number = names.index(label) - (names[1] == "spk")
            taken = self.carried.setdefault((owner, state.of, state.keys), (path, number, made))
            if taken != (path, number, made):
                raise NetworkError(f"{who} gets the state '{state.of}' that '{taken[0]}' gets too; {_PASS_ON}")
        return sent

    def _function(self, node: fx.Node, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], time: Time) -> Any:
        """A function, an operator or a method of a tensor."""
        target: Any = node.target
        kind = target if isinstance(target, str) else getattr(target, "__name__", str(target))
        if kind == "fn":  # torch hides pools that may return indices
            kind = node.name
        subject = args[0] if args else None
        if isinstance(target, type) and issubclass(target, tuple):
            return target(*args, **kwargs)
        plain = _plain(kind, subject, args, time)
        if plain is not None:
            return plain[0]
        given = (*args, *kwargs.values())
        maps = list(every(Place, given))
        own = [state for state in every(State, given) if state.kept or (overwrites(node) and state is subject)]
        if own and kind not in (*NO_CHANGE, "zeros_like"):
            raise NetworkError(f"node '{name}' ({kind}) computes with what is kept in {own[0].of}, {_OWN_STATE}")
        if not maps:
            held = subject.of if isinstance(subject, _Constant) else ""
            if held and overwrites(node):
                raise NetworkError(f"node '{name}' ({kind}) changes {held} in the forward, {_OWN_STATE}")
            return subject if isinstance(subject, State) and kind in NO_CHANGE else _Constant(held)
        site = self._site(name, kind, maps[0], time)
        if target in torch_nn.SUMS:
            if any(isinstance(arg, int | float) and arg == 0 for arg in args):  # sum() starts from 0
                return maps[0] if overwrites(node) else replace(maps[0], memory=f"copy {site.name}")
            site.need(len(maps) == 2 and not set(kwargs) - {"other"}, "adds something other than two maps")
            summed = self.assembly.sum(site, maps)
            return self._replaced(maps[0], summed) if overwrites(node) else summed
        if target == "clone":
            return replace(maps[0], memory=f"copy {site.name}")  # what overwrites the copy leaves the original
        known = torch_nn.FUNCTIONS.get(target) if isinstance(target, str) or callable(target) else None
        constant = any(isinstance(value, _Constant) for value in given)
        if known is None or len(maps) != 1 or subject is not maps[0] or constant or "out" in kwargs:
            raise site.refusal(
                "is a function that has no node here; known are ReLUs, clamp(0, c), 2d pools, flatten, mean over the map and sums "
                "of two maps"
            )
        options = {key: value for key, value in kwargs.items() if key not in ("_stacklevel", "dtype")}
        try:
            inspect.signature(known).bind(site, *args[1:], **options)
        except TypeError as error:
            raise site.refusal(f"is called in a way not known here ({_short(error)})") from error
        part: Part = known(site, *args[1:], **options)
        return self._put(site, part, maps[0], overwrites(node))


def _hidden(where: str, module: nn.Module) -> list[copies.Slot]:
    """Where a neuron of a framework keeps its state."""
    of_snntorch = [
        (key,) for key in ("spk", "syn", "mem") if key in module._buffers and framework_of(module) == "snntorch"
    ]
    of_spikingjelly = [("_memories", key) for key in getattr(module, "_memories", {})]
    return [copies.Slot(where, keys) for keys in (*of_snntorch, *of_spikingjelly)]


def _at_rest(start: Any, neuron: nn.Module, shapes: list[Shape]) -> bool:
    """True for nothing, and of snnTorch for zeros and for a state of another shape than the map, which it ignores."""
    if isinstance(start, fx.Proxy):  # made in the forward
        made = str(getattr(start.node.target, "__name__", start.node.target))
        return start.node.op == "placeholder" or "zeros" in made
    if not isinstance(start, Tensor) or framework_of(neuron) != "snntorch":
        return start is None
    return not bool(start.any()) or tuple(start.shape[1:]) not in shapes


def _followed(module: nn.Module, plain: dict[str, Any], slots: list[copies.Slot]) -> tuple[Any, ...]:
    """A forward's graph, what layers got besides their input, what then stands at ``slots``, by name, and where it has changed something."""
    copied = copies.working_copy(module)
    for part in copied.modules():
        vars(part).update(part._buffers)  # a buffer takes no value that is no tensor
        part._buffers.clear()
    with copies.undisturbed(copied) as outside:
        tracer = Tracer(_is_leaf, slots)
        graph = tracer.trace(copied, plain)
        changed = [slot for slot, was in outside if not copies.same(copies.get(copied, slot), was)]
        written = {str(slot): copies.get(copied, slot) for slot in slots}
        return graph, tracer.given, written, [*copies.changes(module, copied), *changed]


def _overwrite(found: dict[fx.Node, Any], before: Place, after: Place, needed: set[fx.Node], site: Site) -> None:
    """Whatever is a view of ``before`` now holds ``after``. Raises NetworkError where one of another shape is read later."""
    for node, value in found.items():
        if not isinstance(value, Place) or value is after or (value.memory or value.name) != after.memory:
            continue
        if value.shape == after.shape:
            found[node] = replace(after, states=value.states)
            continue
        late = any(user in needed and user not in found for user in node.users)
        site.need(
            not late, f"overwrites a view of '{node.name}', which is read later; overwrite a clone(), or use the result"
        )


def _plain(kind: str, subject: Any, args: tuple[Any, ...], time: Time) -> tuple[Any] | None:
    """The result, in a tuple, of what computes no map: picking from tuples, sizes and arithmetic on them."""
    if kind == "getitem" and isinstance(subject, tuple):
        return (subject[args[1]],)
    if kind in ("getitem", "getattr") and isinstance(subject, State):
        return (replace(subject, keys=(*subject.keys, f".{args[1]}" if kind == "getattr" else args[1])),)
    if kind == "getitem" and isinstance(subject, Place) and subject.states and isinstance(args[1], int):
        return (first(subject) if args[1] == 0 else State(subject.name, (args[1],), fresh=True),)
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
    if kind.removeprefix("i") in numbers and len(args) == 2 and all(isinstance(arg, int) for arg in args):
        return (numbers[kind.removeprefix("i")](*args),)
    return None


def first(value: Any) -> Any:
    """What a module sends, without the states it returns besides."""
    if isinstance(value, tuple | list) and value:
        return first(value[0])
    return replace(value, states=0) if isinstance(value, Place) and value.states else value


def _short(error: BaseException) -> str:
    """The first line of an error, cut to what fits into one."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text if len(text) <= 120 else text[:117] + "..."
