"""What every machine model offers, and the folding of pools that array machines share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import abc
from dataclasses import fields, replace
from functools import wraps
from typing import Any, Generic, Protocol, TypedDict, TypeVar, Unpack
from weakref import WeakKeyDictionary

import numpy as np

from spikeloom.core.arch import AbstractArch, Mapping
from spikeloom.core.counts import Counts
from spikeloom.core.trace import Arrival, Spikes
from spikeloom.core.workload import Layer, Workload
from spikeloom.errors import ConfigError, MappingError
from spikeloom.files.schema import nearest

#: Pools that may fold.
SUMMING_POOLS = ("sumpool2d", "avgpool2d")
#: Warning of pools that a machine leaves out.
FORM_LEVELS = "pools {} form levels at the neuron output; their own additions are not priced"
#: Warning of every workload that `refuse_shapes_only` may refuse.
SHAPES_ONLY = "a layer list: shapes without spikes"
ArchT = TypeVar("ArchT", bound=AbstractArch)


class CountCache(Protocol):
    """What counting takes over from an earlier count of the same spikes, by a key that names all it depends on; a dict will do."""

    def get(self, key: Any, /) -> Any:
        """What was kept under ``key``, or None."""

    def __setitem__(self, key: Any, value: Any, /) -> None: ...


class Effort(TypedDict, total=False):
    """How counting may go about its work; neither changes a number.

    threads: samples counted side by side, all cores by default. cache: what it takes over and keeps.
    """

    threads: int | None
    cache: CountCache | None


class AbstractMachine(ABC, Generic[ArchT]):
    """A machine model: maps a workload before a spike is seen, then counts what the spikes make it do.

    Whatever the model, its ``map``, ``runs`` and ``count`` refuse a mixed network (`refuse_mixed`).
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name in {"map", "runs", "count"} & cls.__dict__.keys():
            setattr(cls, name, _unmixed(cls.__dict__[name]))

    @property
    @abstractmethod
    def arch_type(self) -> type[ArchT]:
        """The frozen dataclass that holds this machine's fields."""

    @property
    @abstractmethod
    def presets(self) -> abc.Mapping[str, abc.Mapping[str, Any]]:
        """Preset name -> field values that differ from the defaults; a machine file's ``preset`` names one."""

    @abstractmethod
    def map(self, workload: Workload, arch: ArchT) -> Mapping:
        """Decide everything that can be decided without spikes. Raises MappingError naming a layer it cannot run."""

    @abstractmethod
    def count(self, workload: Workload, arch: ArchT, mapping: Mapping, **effort: Unpack[Effort]) -> Counts:
        """Count every action and cycle over all samples."""

    @abstractmethod
    def runs(self, workload: Workload, arch: ArchT) -> Workload:
        """The workload as this machine executes it (pools folded or dropped); its layer names key the counts."""

    def sized(self, workload: Workload, arch: ArchT) -> ArchT:
        """The machine with all that the workload needs of it, where its fields leave that open; as it is by default."""
        return arch

    def charges_width(self, arch: ArchT) -> bool:
        """Whether a bill depends on how wide the workload says that weights are."""
        return getattr(arch, "fidelity", "trace") != "tool"

    @abstractmethod
    def utilisation(self, counts: Counts, arch: ArchT, layer: str) -> dict[str, float]:
        """How well the parts were used in one layer, each 0..1, by name."""


def _unmixed(method: abc.Callable[..., Any]) -> abc.Callable[..., Any]:
    """A method of a machine that refuses a mixed network before it looks at anything else."""

    @wraps(method)
    def checked(machine: Any, workload: Workload, *rest: Any, **options: Any) -> Any:
        refuse_mixed(workload)
        return method(machine, workload, *rest, **options)

    return checked


def refuse_mixed(workload: Workload) -> None:
    """Raises MappingError where an ANN's activation stands behind spiking neurons: no machine here has parts that turn one into the other."""
    if workload.mixed:
        raise MappingError(
            f"layer '{workload.mixed[1]}' has ReLU neurons behind the spiking neurons of layer '{workload.mixed[0]}': a mixed "
            f"network, for which no machine has parts; make both spiking (spikeloom convert) or both an ANN"
        )


def refuse_layer(layer: Layer, kinds: abc.Collection[str], kind: str, recurrent: str, cubalif: str = "") -> None:
    """Raises MappingError for a layer of none of the ``kinds``, one that hears itself, or one of CubaLIF neurons; the words say which."""
    for why, holds in (
        (kind, layer.kind not in kinds),
        (recurrent, layer.recurrent or layer.name in layer.inputs),
        (cubalif, bool(cubalif) and layer.neuron.kind == "cubalif"),
    ):
        if holds:
            raise MappingError(f"layer '{layer.name}': {why}")


def refuse_shapes_only(workload: Workload, advice: str) -> None:
    """Raises ConfigError where a workload holds shapes and no spikes: counting them would take them for silence."""
    if workload.shapes_only:
        raise ConfigError(f"the {workload.source} holds no spikes; {advice}")


def check_layer_tables(arch: AbstractArch, layers: abc.Sequence[str]) -> None:
    """Raises MappingError unless every per-layer table of the machine names every layer once, and nothing else."""
    for item in fields(arch):  # type: ignore[arg-type]  # final Archs are dataclasses
        table = getattr(arch, item.name)
        if not (item.metadata["per_layer"] and isinstance(table, abc.Mapping)):
            continue
        missing = [name for name in layers if name not in table]
        unknown = [name for name in table if name not in layers]
        if missing or unknown:
            meant = nearest(str(unknown[0]), missing) if unknown else ""
            raise MappingError(
                f"the {item.name} table must name every layer once: missing {missing}, unknown {unknown}{meant}; "
                f"layers are {list(layers)}"
            )


def check_joins(layers: abc.Iterable[Layer]) -> None:
    """Raises MappingError naming both where the sums of a branch and of its owner are not as many."""
    for owner in layers:
        for branch in owner.branches:
            got, expected = ({"K": x.K, "P": x.P, "Q": x.Q, "T": x.num_steps} for x in (branch, owner))
            if got != expected:
                raise MappingError(
                    f"layer '{branch.name}': its sums {got} meet in the neurons of '{owner.name}', which has {expected}; "
                    "expected the same"
                )


def joined_notes(layers: abc.Iterable[Layer]) -> abc.Iterator[str]:
    """What an estimator that knows no branches makes of each of them."""
    for layer in layers:
        if layer.joins:
            yield f"sums of {layer.name} meet in the neurons of {layer.joins} and are counted as a layer of their own"


def without(workload: Workload, names: abc.Collection[str], warning: str) -> Workload:
    """The workload without the layers ``names``, and with a warning where there are any."""
    if not names:
        return workload
    layers = tuple(layer for layer in workload.layers if layer.name not in names)
    return replace(workload, layers=layers, warnings=(*workload.warnings, warning))


#: Folded layers are kept as long as their workload: with them live the content ids that schedules are looked up by.
_folded_workloads: WeakKeyDictionary[Workload, Workload] = WeakKeyDictionary()


def fold_pools(workload: Workload) -> Workload:
    """Fold each sum or average pool into the convolution or linear layer behind it; exact.

    A pool with kernel = stride = (a, b) and no padding, followed by a convolution with kernel (R, S), stride (u, v),
    padding (p, q), is one convolution on the unpooled map with kernel (R*a, S*b), stride (u*a, v*b), padding
    (p*a, q*b) whose weight at (r, s) is the original one at (r // a, s // b): weights repeated by index, stored once
    (``Layer.stored_kernel`` keeps the original extent). A linear layer is a convolution over its whole map. Pools
    that overlap, are padded, or feed something else stay in the workload, and the layer behind keeps its levels.
    """
    if workload in _folded_workloads:
        return _folded_workloads[workload]
    by_name = {layer.name: layer for layer in workload.layers}
    folded: dict[str, Layer] = {}
    gone: set[str] = set()
    for layer in workload.layers:
        pool = by_name.get(layer.inputs[0]) if layer.inputs else None
        if pool is None or pool.kind not in SUMMING_POOLS or _obstacle(pool, layer):
            continue
        folded[layer.name] = _folded(pool, layer)
        gone.add(pool.name)
    consumers = {pool: [x.name for x in workload.layers if pool in x.inputs] for pool in gone}
    kept = {x for x, users in consumers.items() if by_name[x].joins or any(user not in folded for user in users)}
    layers = tuple(folded.get(layer.name, layer) for layer in workload.layers if layer.name not in gone - kept)
    _folded_workloads[workload] = done = replace(workload, layers=layers)
    return done


def why_kept(pool: Layer, workload: Workload) -> str:
    """Why `fold_pools` leaves a sum or average pool in a workload, in words."""
    users = [layer for layer in workload.layers if pool.name in layer.inputs]
    reasons = [reason for reason in (_obstacle(pool, layer) for layer in users) if reason]
    return reasons[0] if reasons else "no layer is behind it"


def _obstacle(pool: Layer, layer: Layer) -> str:
    """Why a pool does not fold into a layer that hears it, or nothing."""
    if pool.neuron.kind != "none":  # neurons between the two are no sum
        return f"it has neurons of its own ({pool.neuron.kind})"
    if pool.padding != (0, 0):
        return f"it is padded by {list(pool.padding)}"
    kernel = (pool.R, pool.S)
    if pool.stride != kernel:
        what = "windows overlap" if pool.stride[0] < pool.R or pool.stride[1] < pool.S else "windows leave gaps"
        return f"its {what}: kernel {list(kernel)}, stride {list(pool.stride)}"
    if layer.kind not in ("conv2d", "linear"):
        return f"behind it is '{layer.name}', a {layer.kind} layer"
    if len(layer.inputs) > 1:
        return f"'{layer.name}' behind it hears other layers, too"
    if layer.dilation != (1, 1):
        return f"the convolution '{layer.name}' behind it is dilated by {list(layer.dilation)}"
    if pool.num_steps != layer.num_steps:
        return f"it has {pool.num_steps} steps, '{layer.name}' behind it {layer.num_steps}"
    return ""


def _cropped(arrival: Arrival, height: int, width: int) -> Arrival:
    if arrival.shape[1:] == (height, width):
        return arrival
    if isinstance(arrival, Spikes):
        return replace(arrival, packed=arrival.packed[..., :height, :width])
    return replace(arrival, values=arrival.values[..., :height, :width])


def _folded(pool: Layer, layer: Layer) -> Layer:
    a, b = pool.stride
    if layer.kind == "linear":  # the flattened pooled map: a convolution whose kernel is the whole map
        rows, cols = pool.P, pool.Q
        stride, padding = (rows * a, cols * b), (0, 0)
    else:
        rows, cols = layer.R, layer.S
        stride = (layer.stride[0] * a, layer.stride[1] * b)
        padding = (layer.padding[0] * a, layer.padding[1] * b)
    # rows and columns that the pool leaves out at the far border must not meet the padding of the convolution
    arrival = _cropped(pool.arrival, pool.P * a, pool.Q * b)
    weight = layer.weight
    if weight is not None:
        weight = weight.reshape(layer.K, -1, rows, cols)
        weight = np.repeat(np.repeat(weight, a, axis=2), b, axis=3)
    return replace(
        layer,
        C=pool.C,
        H=pool.P * a,
        W=pool.Q * b,
        R=rows * a,
        S=cols * b,
        stride=stride,
        padding=padding,
        weight=weight,
        arrival=arrival,
        whole_arrival=None if arrival is pool.arrival else pool.arrival,
        inputs=pool.inputs,
        stored_kernel=(rows, cols),
    )
