"""Proof at the door: the user's module and the imported network side by side, layer by layer, on drawn input.

Each of our layers is given what the user's own layer received, so that a difference stays where it arises. What a spiking layer
receives is scaled on its way into both, once as little or as much of it fires that the run shows little. Letters: T N as ever.

Equal means: spikes exactly, but for a membrane that met its threshold, ``|v - v_threshold| < 1e-5`` in units of the largest of 1, its
threshold and what it got and held; it is left out from that step on. Real values to 1e-4 of their own and 1e-5 of the largest of
their layer: sums in float32 that are formed in another order.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spikeloom.core.network import Network
from spikeloom.core.nodes import Input, Shape
from spikeloom.errors import NetworkError
from spikeloom.snn.build import SpikingModule, build
from spikeloom.snn.importers.assembly import Place, Time
from spikeloom.snn.importers.copies import root_of, working_copy
from spikeloom.snn.importers.trace import Call, Walk
from spikeloom.snn.modules import Frames, NodeModule, SpikingNeuron
from spikeloom.snn.neurons import Membranes

STEPS, SAMPLES, TRIES = 8, 2, 8
TIE = 1e-5
ZEROS = {"snntorch": torch.zeros(1)}
#: By how much at most what a spiking layer receives is scaled.
GAIN = 1000.0
#: Shares of a layer's membranes that fire at least once between which it counts as exercised.
EXERCISED = (0.05, 0.95)


@dataclass
class _Seen:
    """What the user's module did with T steps: tensors (T, N, *shape)."""

    frames: Tensor
    got: dict[int, Tensor] = field(default_factory=dict)  # by the position of a call
    gains: dict[int, float] = field(
        default_factory=dict
    )  # by which what it got was multiplied before it was given to the layer
    sent: dict[str, Tensor] = field(default_factory=dict)  # by our node behind it
    passed: dict[int, Tensor] = field(default_factory=dict)  # by the position of a call without nodes
    returned: list[tuple[Place, Tensor]] = field(default_factory=list)


def verified(network: Network, module: nn.Module, walk: Walk, returned: Any, time: Time) -> Any:
    """What was compared: steps, samples, ties, layers not exercised; or "no: " and why nothing could be.

    Args:
        network: as imported. module: a copy of the user's, at rest. walk: that led from one to the other. returned: by the forward as
            followed. time: how the module sees it.

    Raises:
        NetworkError: names the first layer and step at which the two differ.
    """
    try:
        ours = build(network).eval()
    except NetworkError as error:
        return f"no: {error}"
    generator = torch.Generator().manual_seed(0)
    ties = 0
    # how far the spread of what arrives is to reach, in thresholds; at first whatever it does
    waiting = {name: 0.0 for name in network.order() if isinstance(ours.module_of(name), SpikingNeuron)}
    unseen = list(waiting)
    thresholds: dict[str, Any] = {name: getattr(network.nodes[name], "v_threshold", None) for name in waiting}
    for attempt in range(TRIES):
        drawn = _drawn(ours.input_node, generator)
        reach = {name: share * float(np.mean(thresholds[name])) for name, share in waiting.items()}
        try:
            with torch.no_grad():
                seen = _run(module, walk, returned, time, drawn, reach)
        except Exception as error:  # noqa: BLE001 (a user's forward may raise anything)
            text = str(error).splitlines()[0][:200] if str(error) else ""
            return f"no: the module could not be run on {list(drawn.shape[1:])} ({type(error).__name__}: {text})"
        with torch.no_grad():
            shares, met = _compare(ours, walk.calls, seen)
        ties += met
        step = 2.0 if attempt < TRIES // 2 else 1.4
        unseen = [name for name in unseen if not EXERCISED[0] <= shares[name] <= EXERCISED[1]]
        waiting = {
            name: (before * step if shares[name] < EXERCISED[0] else before / step) or 0.5
            for name, before in waiting.items()
            if attempt == 0 or name in unseen
        }
        if not waiting:
            break
    return {"steps": STEPS, "samples": SAMPLES, "ties": ties, "not_exercised": unseen}


def _drawn(node: Input, generator: torch.Generator) -> Tensor:
    """What may arrive at the input, (T, N, *shape): spikes, a few levels, or pixels in 0..1."""
    values = torch.rand(STEPS, SAMPLES, *node.shape, generator=generator)
    match node.encoding:
        case "spikes":
            return (values < 0.3).float()
        case "levels":
            return (values.square() * 4).floor()
    return values


def _run(module: nn.Module, walk: Walk, returned: Any, time: Time, frames: Tensor, reach: Mapping[str, float]) -> _Seen:
    """A copy of the user's module on ``frames``; the spread of what arrives first at the neurons in ``reach`` is scaled to that, 0: not."""
    module = working_copy(module).float().cpu()
    wanted = {module.get_submodule(call.path): reach.get(call.last.name, 0.0) for call in walk.calls}
    gains: dict[nn.Module, float] = {}
    got: dict[nn.Module, list[Tensor]] = defaultdict(list)
    sent: dict[nn.Module, list[Any]] = defaultdict(list)
    last: dict[nn.Module, Any] = {}

    def before(part: nn.Module, args: Any, kwargs: Any) -> Any:
        arriving = args[0] if args else next(iter(kwargs.values()))
        got[part].append(arriving.detach().clone())
        if not wanted.get(part):
            return None
        gain = gains.setdefault(part, float(np.clip(wanted[part] / float(arriving.std() or 1), 1 / GAIN, GAIN)))
        if args:
            return (arriving * gain, *args[1:]), kwargs
        return args, {**kwargs, next(iter(kwargs)): arriving * gain}

    def after(part: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        last[part] = out
        sent[part].append(_first(out).detach().clone())

    paths = {call.path for call in walk.calls} | {taker for taker, _, _ in walk.carried.values()}
    for part in {module.get_submodule(path) for path in paths}:
        part.register_forward_pre_hook(before, with_kwargs=True)
        part.register_forward_hook(after, with_kwargs=True)
    outputs: list[list[tuple[Place, Tensor]]] = []
    if time == "sequence":
        outputs.append(list(_paired(returned, module(frames.clone()))))
    else:
        out: Any = None
        for frame in frames:
            states = _states(module, walk, last) if root_of(type(module)) != "norse" else {}
            extra = (out[1],) if root_of(type(module)) == "norse" and isinstance(out, tuple) else ()
            out = module(frame.clone(), *extra, **states)
            outputs.append([(place, value.detach().clone()) for place, value in _paired(returned, out)])
    seen = _Seen(frames)
    seen.returned = [(place, torch.stack([step[k][1] for step in outputs])) for k, (place, _) in enumerate(outputs[0])]
    if time == "sequence":
        seen.returned = [(place, value[0]) for place, value in seen.returned]
    unseen = {part for path in walk.unseen for part in module.get_submodule(path).modules()}
    sites: dict[nn.Module, list[int]] = defaultdict(list)
    for position, call in enumerate(walk.calls):
        sites[module.get_submodule(call.path)].append(position)
    for part, positions in sites.items():
        if part in unseen or (len(positions) > 1 and time == "sequence"):
            continue
        for k, position in enumerate(positions):
            call = walk.calls[position]
            arrived = _stacked(got[part][k :: len(positions)], call.source.shape)
            gone = _stacked(sent[part][k :: len(positions)], call.last.shape)
            seen.got[position], seen.gains[position] = arrived, gains.get(part, 1.0)
            if call.first is None:
                seen.passed[position] = gone
            else:
                seen.sent[call.last.name] = gone
    return seen


def _stacked(values: list[Any], shape: Shape) -> Tensor:
    """Maps of all calls as (T, N, *shape). Raises RuntimeError if they are others."""
    return torch.cat([value.float().flatten() for value in values]).reshape(STEPS, SAMPLES, *shape)


def _first(value: Any) -> Any:
    return _first(value[0]) if isinstance(value, tuple | list) and value else value


def _states(module: nn.Module, walk: Walk, last: Mapping[nn.Module, Any]) -> dict[str, Any]:
    """The arguments of a user's forward that carry states: what the neurons they go to returned last."""
    found: dict[str, Any] = {}
    for parameter in list(inspect.signature(module.forward).parameters.values())[1:]:
        taken = {
            keys: (t, n)
            for (owner, held, keys), (t, n, _) in walk.carried.items()
            if (owner, held) == ("", parameter.name)
        }
        takers = {keys: (module.get_submodule(taker), number) for keys, (taker, number) in taken.items()}
        started = all(taker in last for taker, _ in takers.values())
        if parameter.kind is not parameter.POSITIONAL_OR_KEYWORD or not (
            (takers and started) or parameter.default is parameter.empty
        ):
            continue
        # snnTorch takes zeros of another shape for a start, Norse None
        values = {k: last[m][n] if started else ZEROS.get(root_of(type(m))) for k, (m, n) in takers.items()}
        found[parameter.name] = _nested(values) if values else None
    return found


def _nested(values: dict[tuple[Any, ...], Any]) -> Any:
    """Values by the keys under which a forward picks them."""
    if () in values:
        return values[()]
    heads = {keys[0]: {} for keys in values}  # type: dict[Any, dict[tuple[Any, ...], Any]]
    for keys, value in values.items():
        heads[keys[0]][keys[1:]] = value
    parts = {head: _nested(below) for head, below in heads.items()}
    whole = all(isinstance(head, int) and head >= 0 for head in parts)
    return tuple(parts.get(k) for k in range(max(parts) + 1)) if whole else parts


def _paired(followed: Any, real: Any) -> Iterator[tuple[Place, Tensor]]:
    """Places that a forward was followed to, each with the tensor that the forward returned there."""
    if isinstance(followed, Place):
        value = _first(real)
        if not isinstance(value, Tensor):
            raise TypeError(f"it returns {type(value).__name__} where its forward was followed to '{followed.name}'")
        yield followed, value
    elif isinstance(followed, Mapping):
        for key, item in followed.items():
            yield from _paired(item, real[key])
    elif isinstance(followed, list | tuple):
        for item, value in zip(followed, real, strict=False):
            yield from _paired(item, value)


def _compare(ours: SpikingModule, calls: list[Call], seen: _Seen) -> tuple[dict[str, float], int]:
    """Shares of the membranes of each spiking layer that fired, and how many met a tie. Raises NetworkError at a difference."""
    network = ours.network
    values: dict[str, Tensor] = {}
    shares: dict[str, float] = {}
    ties = 0

    def at(name: str) -> Tensor:
        return seen.sent[name] if name in seen.sent else values[name]

    entering = {call.first: position for position, call in enumerate(calls) if position in seen.got}
    for name in network.order():
        node, module = network.nodes[name], ours.module_of(name)
        if isinstance(node, Input):
            values[name] = seen.frames
            continue
        position = entering.get(name)
        back = None if position is None else calls[position].back
        sources = network.inputs_of(name)
        arrived: Tensor = sum((at(s) for s in sources if s != back), torch.zeros(()))
        if position is not None:
            arrived = arrived.expand_as(seen.got[position])
            _same_values(network, name, "gets", arrived, seen.got[position])
            arrived = seen.got[position] * seen.gains[position]
        if back is not None and back in sources:
            arrived = arrived + at(back)
        if isinstance(module, SpikingNeuron):
            values[name], left_out = _fired(module, arrived)
            if name in seen.sent:
                _same_spikes(network, name, values[name], seen.sent[name], left_out)
            fired = (at(name) != 0).any(0)
            compared = ~left_out[-1]
            ties += int(left_out[-1].sum())
            shares[name] = float(fired.float().mean()) if compared.float().mean() >= 0.5 else 1.0
        elif isinstance(module, NodeModule):
            folded = module(Frames(arrived.flatten(0, 1), STEPS, False)).over_time()
            values[name] = folded
        else:
            values[name] = arrived
        if name in seen.sent and not isinstance(module, SpikingNeuron):
            _same_values(network, name, "sends", values[name], seen.sent[name])
    for position, gone in seen.passed.items():
        source = calls[position].source.name
        if source in network.nodes:
            _same_values(network, source, f"(passed on by '{calls[position].path}') sends", at(source), gone)
    for place, value in seen.returned:
        if place.name in network.nodes:
            expected = at(place.name)
            for ending in place.endings:
                expected = ending(expected)
            if expected.numel() == value.numel():
                _same_values(network, place.name, "is returned with", expected.reshape(value.shape), value)
    return shares, ties


def _fired(neuron: SpikingNeuron, arrived: Tensor) -> tuple[Tensor, Tensor]:
    """Spikes, and where a membrane has met its threshold in this step or before; (T, N, *shape)."""
    membranes = Membranes(arrived[0], neuron.dynamics, neuron.kind)
    threshold = torch.as_tensor(membranes.dynamics.v_threshold)
    steps, held = [], []
    for psum in arrived:
        steps.append(membranes.step(psum))
        held.append(membranes.v)
    v = torch.stack(held)
    unit = torch.maximum(v.abs().amax(0), arrived.abs().amax(0)).maximum(threshold.abs()).clamp(min=1)
    return torch.stack(steps), ((v - threshold).abs() < TIE * unit).cummax(0).values


def _same_spikes(network: Network, name: str, ours: Tensor, theirs: Tensor, left_out: Tensor) -> None:
    _refuse_first(network, name, "sends", ours, theirs, (ours != theirs) & ~left_out)


def _same_values(network: Network, name: str, verb: str, ours: Tensor, theirs: Tensor) -> None:
    peak = torch.maximum(ours.abs().max(), theirs.abs().max())
    close = (ours - theirs).abs() <= 1e-4 * theirs.abs() + 1e-5 * peak + 1e-7
    _refuse_first(network, name, verb, ours, theirs, ~close & ~(ours.isnan() & theirs.isnan()))


def _refuse_first(network: Network, name: str, verb: str, ours: Tensor, theirs: Tensor, differ: Tensor) -> None:
    """Raise for the earliest step at which two maps differ."""
    if not bool(differ.any()):
        return
    step, sample, *where = differ.nonzero()[0].tolist()
    index = (step, sample, *where)
    raise NetworkError(
        f"node '{name}' ({type(network.nodes[name]).__name__}) {verb} {ours[index]:.6g} at step {step} in the imported network and "
        f"{theirs[index]:.6g} in the module itself (neuron {where} of sample {sample}): its forward computes something that was not "
        f"followed; hand over a module that does the same at every step, or import it unproven with verify=False"
    )
