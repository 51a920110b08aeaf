"""Plan of a workload on a many-core chip: which core holds which neurons, and what a spike of each of them sets off.

Nothing in a plan depends on spikes, so that it serves every sample and every workload of the same shape. Neurons that reach the
same number of synapses on every core share a *place*; a table by place and end (a layer on a core) is all that the counts need.

Letters: K P Q a map of neurons, N its neurons row by row, U places, E ends, M cores, G groups, L layers.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict, abc
from dataclasses import dataclass, fields, replace
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np

from spikeloom.core.arch import of_layer
from spikeloom.core.placement import INPUT, Place, Placement, even_split
from spikeloom.core.workload import Layer
from spikeloom.errors import MappingError
from spikeloom.hw.fan import Fan, fan, source_owners
from spikeloom.hw.loihi_arch import LoihiArch
from spikeloom.hw.loihi_groups import Chart, Group
from spikeloom.hw.mesh import PORT, Mesh

#: Plans kept for repeated counts.
_KEPT = 4


@dataclass(frozen=True, eq=False)
class Outgoing:
    """What a spike of each neuron of one group sets off.

    place_N: int32. ends: (layer, core) of every column. arrives_UE: uint8, 1 where a message to that core is booked on that layer, the
    first of those that it serves. synapses_UE: int32. messages_U: int32. paths_N: int32 (N, 3), hops in x, hops in y and
    boundaries between chips of all messages of one spike.
    """

    place_N: np.ndarray
    ends: tuple[tuple[str, int], ...]
    arrives_UE: np.ndarray
    synapses_UE: np.ndarray
    messages_U: np.ndarray
    paths_N: np.ndarray


@dataclass(frozen=True, eq=False)
class Stand:
    """Where one group stands. cores_S: int32, ascending; of the port `PORT` alone. slot_N: int32, index into it. neurons_S: int64."""

    owner_KPQ: np.ndarray
    cores_S: np.ndarray
    slot_N: np.ndarray
    neurons_S: np.ndarray

    @cached_property
    def by_core(self) -> tuple[np.ndarray, np.ndarray]:
        """Neurons core by core, and where each core begins among them; int64 (N,) and (S + 1,)."""
        return np.argsort(self.slot_N, kind="stable"), np.concatenate([[0], np.cumsum(self.neurons_S)])


@dataclass(frozen=True, eq=False)
class Plan:
    """Stands and outgoing synapses by group. cores_M: int32, ascending, every core with a neuron; tiles: those with one."""

    stands: tuple[Stand, ...]
    outgoing: tuple[Outgoing | None, ...]
    fans: abc.Mapping[str, Fan]
    cores_M: np.ndarray
    tiles: int


# --- placement ------------------------------------------------------------------------------------------------------


def fill_in_order(chart: Chart, arch: LoihiArch) -> Placement:
    """Group after group on cores 0, 1, 2, ..., each on cores of its own, tiles not regarded.

    Raises:
        MappingError: more parts than there are neurons, channels or rows; a share of one channel or row that no core can hold; more
            cores than the chips have.
    """
    places: list[Place] = []
    core = 0
    for group in chart.groups:
        if group.port:
            continue
        split = of_layer(arch.split, group.name)
        if split == "channels" and group.shape_KPQ[1:] == (1, 1):
            split = "neurons"  # of a vector they are the same
        count = {"neurons": group.size, "channels": group.shape_KPQ[0], "rows": group.shape_KPQ[1]}[split]
        parts = of_layer(arch.cores, group.name) or _fewest(group, split, count, arch.compartments)
        if parts > count:
            raise MappingError(
                f"layer '{group.name}': {_many(parts, 'core')} for {_many(count, split[:-1])}; expected at most {count}"
            )
        for first, last in even_split(count, parts):
            tile, within = divmod(core, arch.cores_per_tile)
            whole = Place(group.name, tile, within)
            one_row = split == "rows" and count == 1  # also of a vector
            places.append(whole if one_row else replace(whole, **{split: (first, last)}))  # type: ignore[arg-type]
            core += 1
    _check_cores(core, f"{_many(core, 'core')} in the order of layers", arch.mesh)
    return Placement(tuple(places))


def _fewest(group: Group, split: str, count: int, compartments: int) -> int:
    """The fewest parts of which none is larger than a core; the last part takes the rest."""
    each = group.size // count
    if each > compartments:
        raise MappingError(
            f"layer '{group.name}': one of its {split} has {_many(each, 'neuron')}, a core {_many(compartments, 'compartment')}; split "
            "it by neurons"
        )
    parts = -(-count * each // compartments)
    while (count - (parts - 1) * (count // parts)) * each > compartments:
        parts += 1
    return parts


def _check_cores(needed: int, what: str, mesh: Mesh) -> None:
    if needed <= mesh.num_cores:
        return
    chips = -(-needed // mesh.cores_per_chip)
    most = next(int(item.metadata["high"]) for item in fields(LoihiArch) if item.name == "chips")
    advice = f"set chips = {chips} or give the layers fewer cores"
    if chips > most:
        advice = f"give the layers fewer cores; even the most chips that a machine may have, {most:,}, are too few"
    have = (
        f"{mesh.chips} chips of {mesh.cores_per_chip} have {mesh.num_cores}"
        if mesh.chips > 1
        else f"1 chip has {mesh.num_cores}"
    )
    raise MappingError(f"the network takes {what}, {have}; {advice}")


def _many(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _stands(chart: Chart, placement: Placement, arch: LoihiArch) -> tuple[Stand, ...]:
    try:
        return _placed(chart, placement, arch)
    except MappingError as error:
        raise MappingError(f"{placement.source}: {error}" if placement.source else str(error)) from None


def _placed(chart: Chart, placement: Placement, arch: LoihiArch) -> tuple[Stand, ...]:
    names = [group.name for group in chart.groups if not group.port]
    layers = {layer.name: layer for layer in chart.workload.layers}
    missing = [name for name in names if name not in placement.layers]
    unknown = [name for name in placement.layers if name not in names]
    if missing or unknown:
        raise MappingError(f"the placement must place the neurons of {names}: missing {missing}, unknown {unknown}")
    stands = []
    for g, group in enumerate(chart.groups):
        if group.name == INPUT and all(layers[name].kind == "linear" for name in chart.heard_by(g)):
            _refuse_maps(group, placement)
        if group.port:
            owner_KPQ = np.full(group.shape_KPQ, PORT, np.int32)
        else:
            owner_KPQ = placement.owners(group.name, group.shape_KPQ, arch.cores_per_tile)
            last = int(owner_KPQ.max())
            _check_cores(last + 1, f"core {last} (layer '{group.name}')", arch.mesh)
        cores_S, slot, neurons_S = np.unique(owner_KPQ, return_inverse=True, return_counts=True)
        slot_N = np.ascontiguousarray(slot.ravel(), np.int32)
        stands.append(Stand(owner_KPQ, cores_S.astype(np.int32), slot_N, neurons_S.astype(np.int64)))
    return tuple(stands)


def _refuse_maps(group: Group, placement: Placement) -> None:
    """Refuse channels, rows and pixels of an input that is known as a vector: it may have been a map before it was flattened."""
    if group.shape_KPQ[1:] != (1, 1):
        return
    for place in placement.of(group.name):
        if place.order != "chw" or place.channels is not None or place.rows is not None:
            raise MappingError(
                f"{place}: only linear layers hear the input, as a vector of {group.size}, and its map is not known; give neurons = "
                '[first, last), counted channel by channel (order "chw")'
            )


# --- what a spike sets off --------------------------------------------------------------------------------------------


def _table(layer: Layer, stand: Stand, shape_KPQ: tuple[int, int, int], found: Fan) -> tuple[np.ndarray, np.ndarray]:
    """Place of every neuron of a map that feeds ``layer``, and synapses by place and core: int32 (N,) and int32 (U, M).

    The last place has no synapse: neurons that a folded pool leaves out.
    """
    M = found.cores_M.size
    if layer.kind == "add":  # one to one: what matters is the core of the partner
        place_CHW = stand.slot_N.reshape(layer.C, layer.H, layer.W)
        table_UM = np.eye(M, dtype=np.int32)
    else:
        pixels = layer.H * layer.W
        place_CHW = found.class_C[:, None, None] * pixels + np.arange(pixels).reshape(layer.H, layer.W)
        table_UM = found.targets_MAHW.reshape(M, -1).T
    index_CHW = source_owners(layer, np.arange(np.prod(shape_KPQ), dtype=np.int64).reshape(shape_KPQ))
    place_N = np.full(int(np.prod(shape_KPQ)), table_UM.shape[0], np.int64)
    place_N[index_CHW.ravel()] = place_CHW.ravel()
    table_UM = np.concatenate([table_UM, np.zeros((1, M), np.int32)])
    return place_N, table_UM


def _outgoing(
    group: Group, stand: Stand, layers: abc.Sequence[tuple[Layer, Stand, Fan]], mesh: Mesh
) -> Outgoing | None:
    """Join the tables of all layers that a group feeds."""
    if not layers:
        return None
    tables = [_table(layer, target, group.shape_KPQ, found) for layer, target, found in layers]
    if len(tables) == 1:
        place_N, synapses_UE = tables[0]
    else:  # a place of the group is one combination of places of the layers behind
        places_NF = np.stack([place for place, _ in tables], axis=1)
        combined_UF, place_N = np.unique(places_NF, axis=0, return_inverse=True)
        parts = [table[combined_UF[:, f]] for f, (_, table) in enumerate(tables)]
        synapses_UE = np.concatenate(parts, axis=1)
    ends = tuple((layer.name, int(core)) for layer, _, found in layers for core in found.cores_M)
    core_E = np.array([core for _, core in ends], np.int32)
    arrives_UE = (synapses_UE > 0).astype(np.uint8)
    cores, uses = np.unique(core_E, return_counts=True)
    for core in cores[uses > 1]:  # one message serves all layers on a core
        columns = np.flatnonzero(core_E == core)
        for i, column in enumerate(columns[1:], start=1):
            arrives_UE[:, column] &= ~arrives_UE[:, columns[:i]].any(axis=1)
    return Outgoing(
        np.ascontiguousarray(place_N.ravel(), np.int32),
        ends,
        arrives_UE,
        np.ascontiguousarray(synapses_UE, np.int32),
        arrives_UE.sum(axis=1, dtype=np.int32),
        _paths(place_N.ravel(), stand, arrives_UE, core_E, mesh),
    )


def _paths(place_N: np.ndarray, stand: Stand, arrives_UE: np.ndarray, core_E: np.ndarray, mesh: Mesh) -> np.ndarray:
    """Hops in x, in y and boundaries between chips of all messages of one spike of every neuron; int32 (N, 3)."""
    source_SE, target_SE = np.broadcast_arrays(stand.cores_S[:, None], core_E[None, :])
    dx_SE, dy_SE = mesh.hops(source_SE, target_SE)
    arrives = arrives_UE.astype(np.float64)  # sums stay far below 2**53
    paths_N3 = np.empty((place_N.size, 3), np.int32)
    for axis, way_SE in enumerate((dx_SE, dy_SE, mesh.crossings(source_SE, target_SE))):
        sums_US = arrives @ way_SE.T.astype(np.float64)
        paths_N3[:, axis] = sums_US[place_N, stand.slot_N]
    return paths_N3


# --- the plan --------------------------------------------------------------------------------------------------------

_plans: OrderedDict[Any, Plan] = OrderedDict()
_lock = Lock()  # a search may count on several threads


def plan_of(chart: Chart, placement: Placement, arch: LoihiArch) -> Plan:
    """The plan of a workload, kept for the next one of the same shape.

    Raises:
        MappingError: a placement that does not place every neuron once, on cores that the chips have.
    """
    key = (_shape_key(chart, arch), placement, arch.mesh)
    with _lock:
        if key in _plans:
            _plans.move_to_end(key)
            return _plans[key]
    stands = _stands(chart, placement, arch)
    layers = {layer.name: layer for layer in chart.workload.layers}
    fans = {
        name: fan(layers[name], stands[chart.group_of[name]].owner_KPQ, zero_weights=arch.zero_weights)
        for name in dict.fromkeys(name for _, name in chart.edges)
    }
    outgoing = tuple(
        _outgoing(
            group,
            stands[g],
            [(layers[name], stands[chart.group_of[name]], fans[name]) for name in chart.heard_by(g)],
            arch.mesh,
        )
        for g, group in enumerate(chart.groups)
    )
    cores_M = np.unique(np.concatenate([s.cores_S for s, g in zip(stands, chart.groups, strict=True) if not g.port]))
    plan = Plan(stands, outgoing, fans, cores_M.astype(np.int32), arch.mesh.tiles_used(cores_M))
    with _lock:
        _plans[key] = plan
        while len(_plans) > _KEPT:
            _plans.popitem(last=False)
    return plan


def _shape_key(chart: Chart, arch: LoihiArch) -> Any:
    """All that a plan depends on but placement and mesh."""
    shapes = tuple(
        (
            x.name,
            x.kind,
            x.C,
            x.K,
            x.H,
            x.W,
            x.R,
            x.S,
            x.P,
            x.Q,
            x.stride,
            x.padding,
            x.dilation,
            x.groups,
            _zeros(x, arch),
        )
        for x in chart.workload.layers
    )
    groups = tuple((group.name, group.members, group.port, group.shape_KPQ) for group in chart.groups)
    return shapes, groups, chart.edges, arch.zero_weights


def _zeros(layer: Layer, arch: LoihiArch) -> bytes:
    """Where the weights of a layer are 0, where that matters."""
    if arch.zero_weights == "stored" or layer.weight is None:
        return b""
    return hashlib.sha256(np.packbits(layer.weight != 0).tobytes()).digest()
