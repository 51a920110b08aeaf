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
from math import prod, sqrt
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spikeloom.core.network import Network
from spikeloom.core.nodes import Input, Shape
from spikeloom.errors import NetworkError
from spikeloom.snn.build import SpikingModule, build
from spikeloom.snn.importers.assembly import Place, Time
from spikeloom.snn.importers.copies import root_of, undisturbed, working_copy
from spikeloom.snn.importers.trace import Call, Walk, first
from spikeloom.snn.modules import Frames, NodeModule, SpikingNeuron
from spikeloom.snn.neurons import Membranes

STEPS, SAMPLES, TRIES = 8, 2, 8
TIE = 1e-5
ZEROS = {"snntorch": torch.zeros(1)}
_ADVICE = "hand over a module that does the same at every step, or import it unproven with verify=False"
#: By how much at most what a spiking layer receives is scaled.
GAIN = 1000.0
#: Shares of a layer's membranes that fire at least once between which it counts as exercised.
EXERCISED = (0.05, 0.95)


@dataclass
class _Seen:
    """What the user's module did with T steps: tensors (T, N, *shape), by the position of a call or by our node behind it.

    got: what arrived, which was given to the layer times ``gains``.
    """

    frames: Tensor
    returned: list[tuple[Place, Tensor]]
    got: dict[int, Tensor] = field(default_factory=dict)
    gains: dict[int, float] = field(default_factory=dict)
    sent: dict[str, Tensor] = field(default_factory=dict)


def verified(network: Network, module: nn.Module, walk: Walk, returned: Any, time: Time) -> Any:
    """What was compared: steps, samples, ties, layers not exercised; or "no: " and why nothing could be.

    Args:
        network: as imported. module: a copy of the user's, at rest. walk: that led from one to the other. returned: by the forward as
            followed. time: how the module sees it.

    Raises:
        NetworkError: names the first layer and step at which the two differ.
    """
    ours = build(network).eval()
    generator, ties = torch.Generator().manual_seed(0), 0
    # how far the spread of what arrives is to reach, in thresholds; at first whatever it does
    reach = {name: 0.0 for name in network.order() if isinstance(ours.module_of(name), SpikingNeuron)}
    waiting, tried = list(reach), {name: [0.0, 0.0] for name in reach}  # too little, too much
    for attempt in range(TRIES):
        drawn = _drawn(ours.input_node, generator)
        wanted = {
            name: share * float(np.mean(getattr(network.nodes[name], "v_threshold", 1.0)))
            for name, share in reach.items()
        }
        with torch.no_grad():
            try:
                user = working_copy(module).float().cpu()
                with undisturbed(user):
                    seen = _run(user, walk, returned, time, drawn, wanted)
            except NetworkError:
                raise
            except Exception as error:  # noqa: BLE001 (a user's forward may raise anything)
                why = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
                return f"no: the module could not be run on {list(drawn.shape[1:])} ({why})"
            shares, met = _compare(ours, walk.calls, seen)
        ties += met
        waiting = [name for name in waiting if not EXERCISED[0] <= shares[name] <= EXERCISED[1]]
        for name in list(reach):
            tried[name][int(shares[name] >= EXERCISED[0])] = reach[name]
            low, high = tried[name]
            reach[name] = sqrt(low * high) or low * 4 or high / 4 or 0.5
            if attempt and name not in waiting:
                del reach[name]
        if not reach:
            break
    return {"steps": STEPS, "samples": SAMPLES, "ties": ties, "not_exercised": waiting}


def _drawn(node: Input, generator: torch.Generator) -> Tensor:
    """What may arrive at the input, (T, N, *shape): spikes, a few levels, or pixels in 0..1."""
    values = torch.rand(STEPS, SAMPLES, *node.shape, generator=generator, dtype=torch.float32)
    others = {"spikes": (values < 0.3).float(), "levels": (values.square() * 4).floor()}
    return others.get(node.encoding, values)


def _run(module: nn.Module, walk: Walk, returned: Any, time: Time, frames: Tensor, reach: Mapping[str, float]) -> _Seen:
    """The user's module on ``frames``; the spread of what arrives first at the neurons in ``reach`` is scaled to that, 0: not."""
    wanted: dict[nn.Module, float] = defaultdict(float)
    sites: dict[nn.Module, list[int]] = defaultdict(list)
    for position, call in enumerate(walk.calls):
        wanted[module.get_submodule(call.path)] = reach.get(call.last.name, 0.0)
        sites[module.get_submodule(call.path)].append(position)
    gains: dict[nn.Module, float] = {}
    got: dict[nn.Module, list[Tensor]] = defaultdict(list)
    sent: dict[nn.Module, list[Any]] = defaultdict(list)
    last: dict[nn.Module, Any] = {}

    def before(part: nn.Module, args: Any, kwargs: Any) -> Any:
        given: list[Any] = [*args, *kwargs.values()]
        got[part].append(given[0].detach().clone())
        if wanted[part]:
            gain = float(np.clip(wanted[part] / float(given[0].std() or 1), 1 / GAIN, GAIN))
            given[0] = given[0] * gains.setdefault(part, gain)
        return tuple(given[: len(args)]), dict(zip(kwargs, given[len(args) :], strict=True))

    def after(part: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        last[part] = out
        sent[part].append(first(out).detach().clone())

    for part in {*sites, *(module.get_submodule(taker) for taker, _, _ in walk.carried.values())}:
        part.register_forward_pre_hook(before, with_kwargs=True)
        part.register_forward_hook(after, with_kwargs=True)
    outputs: list[list[tuple[Place, Tensor]]] = []
    out: Any = None
    of_norse = root_of(type(module)) == "norse"
    for frame in frames[None] if time == "sequence" else frames:
        extra = (out[1],) if of_norse and isinstance(out, tuple) else ()
        out = module(frame.clone(), *extra, **({} if of_norse else _states(module, walk, last)))
        outputs.append(list(_paired(returned, out)))
    stacked = [(steps[0][0], torch.stack([value for _, value in steps])) for steps in zip(*outputs, strict=True)]
    seen = _Seen(frames, stacked)
    unseen = {part for path in walk.unseen for part in module.get_submodule(path).modules()}
    for part, positions in sites.items():
        if part in unseen or (len(positions) > 1 and time == "sequence"):
            continue
        for k, position in enumerate(positions):
            call, every = walk.calls[position], slice(k, None, len(positions))
            seen.got[position] = _stacked(got[part][every], call, call.source.shape)
            seen.gains[position] = gains.get(part, 1.0)
            if call.first is not None:
                seen.sent[call.last.name] = _stacked(sent[part][every], call, call.last.shape)
    return seen


def _stacked(values: list[Any], call: Call, shape: Shape) -> Tensor:
    """Maps of all steps as (T, N, *shape). Raises NetworkError if they are others."""
    if sum(value.numel() for value in values) != STEPS * SAMPLES * prod(shape):
        raise NetworkError(
            f"node '{call.path}' gets or sends {[list(value.shape) for value in values[:2]]} ({len(values)} maps) in {STEPS} steps, "
            f"which is not what was followed; {_ADVICE}"
        )
    return torch.cat([value.float().flatten() for value in values]).reshape(STEPS, SAMPLES, *shape)


def _states(module: nn.Module, walk: Walk, last: Mapping[nn.Module, Any]) -> dict[str, Any]:
    """The arguments of a user's forward that carry states: what the neurons they go to returned last."""
    found: dict[str, Any] = {}
    for name, parameter in list(inspect.signature(module.forward).parameters.items())[1:]:
        taken = {k[2]: taker for k, taker in walk.carried.items() if k[:2] == ("", name)}
        takers = {keys: (module.get_submodule(path), number) for keys, (path, number, _) in taken.items()}
        started = bool(takers) and all(taker in last for taker, _ in takers.values())
        if started or (parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD):
            # snnTorch takes zeros of another shape for a start, Norse None
            values = {k: last[m][n] if started else ZEROS.get(root_of(type(m))) for k, (m, n) in takers.items()}
            found[name] = _nested(values) if values else None
    return found


def _nested(values: dict[tuple[Any, ...], Any]) -> Any:
    """Values by the keys under which a forward picks them."""
    if () in values:
        return values[()]
    parts = {h: _nested({k[1:]: v for k, v in values.items() if k[0] == h}) for h in {keys[0] for keys in values}}
    if all(isinstance(h, int) for h in parts):
        return tuple(parts.get(k) for k in range(max(parts) + 1))
    named = SimpleNamespace(**{h[1:]: value for h, value in parts.items() if str(h).startswith(".")})
    return named if vars(named) else parts


def _paired(followed: Any, real: Any) -> Iterator[tuple[Place, Tensor]]:
    """Places that a forward was followed to, each with the tensor that the forward returned there."""
    if isinstance(followed, Place):
        yield followed, first(real).detach().clone()
    elif isinstance(followed, Mapping | list | tuple):
        for key, item in followed.items() if isinstance(followed, Mapping) else enumerate(followed):
            yield from _paired(item, real[key])


def _compare(ours: SpikingModule, calls: list[Call], seen: _Seen) -> tuple[dict[str, float], int]:
    """Shares of the membranes of each spiking layer that fired, and how many met a tie. Raises NetworkError at a difference."""
    network, ties = ours.network, 0
    values: dict[str, Tensor] = {}
    shares: dict[str, float] = {}

    def at(name: str) -> Tensor:
        return seen.sent[name] if name in seen.sent else values[name]

    def same(name: str, verb: str, ours: Tensor, theirs: Tensor) -> None:
        peak = torch.maximum(ours.abs().max(), theirs.abs().max())
        far = (ours - theirs).abs() > 1e-4 * theirs.abs() + 1e-5 * peak + 1e-7
        _refuse_first(network, name, verb, ours, theirs, far | (ours.isnan() != theirs.isnan()))

    entering = {call.first: position for position, call in enumerate(calls) if position in seen.got}
    for name in network.order():
        module, position = ours.module_of(name), entering.get(name)
        if isinstance(network.nodes[name], Input):
            values[name] = seen.frames
            continue
        back = None if position is None else calls[position].back
        arrived: Tensor = sum((at(s) for s in network.inputs_of(name) if s != back), torch.zeros(()))
        if position is not None:
            same(name, "gets", arrived.expand_as(seen.got[position]), seen.got[position])
            arrived = seen.got[position] * seen.gains[position]
        if back is not None and back in network.inputs_of(name):
            arrived = arrived + at(back)
        if isinstance(module, SpikingNeuron):
            values[name], left_out = _fired(module, arrived)
            theirs = seen.sent.get(name, values[name])
            _refuse_first(network, name, "sends", values[name], theirs, (values[name] != theirs) & ~left_out)
            ties += int(left_out[-1].sum())
            # of a layer that is mostly left out a run shows as little as of one that fires everywhere
            shares[name] = 1.0 if left_out[-1].float().mean() > 0.5 else float(theirs.any(0).float().mean())
            continue
        whole = isinstance(module, NodeModule)
        values[name] = module(Frames(arrived.flatten(0, 1), STEPS, False)).over_time() if whole else arrived  # type: ignore[misc]
        same(name, "sends", values[name], at(name))
    for place, value in seen.returned:
        if place.name in network.nodes:
            expected = at(place.name)
            for ending in place.endings:
                expected = ending(expected)
            if expected.numel() != value.numel():
                sizes = f"{list(value.shape)} where {list(expected.shape)} was followed to node '{place.name}'"
                raise NetworkError(f"the module returns a map of {sizes}; import it unproven with verify=False")
            same(place.name, "is returned with", expected.reshape(value.shape), value)
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


def _refuse_first(network: Network, name: str, verb: str, ours: Tensor, theirs: Tensor, differ: Tensor) -> None:
    """Raise for the earliest step at which two maps differ."""
    if not bool(differ.any()):
        return
    step, sample, *where = index = tuple(differ.nonzero()[0].tolist())
    raise NetworkError(
        f"node '{name}' ({type(network.nodes[name]).__name__}) {verb} {ours[index]:.6g} at step {step} in the imported network and "
        f"{theirs[index]:.6g} in the module itself (neuron {where} of sample {sample}): its forward computes something that was not "
        f"followed; {_ADVICE}"
    )
