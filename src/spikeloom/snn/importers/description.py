"""A network from a torch state dict and a TOML file that says what its keys belong to.

in_shape = [2, 34, 34]
encoding = "spikes"              # or "levels", "analog"; name and dt_s may stand here too

[[node]]
name = "conv1"                   # its weights are conv1.weight and, if there is one, conv1.bias
type = "Conv2d"                  # a type of spikeloom.core.nodes; sizes and kernel follow from the weights
stride = 2                       # one number for both directions, or two
weights = "features.0"           # where the state dict has another prefix than the name

[[node]]
name = "fire1"
type = "LIF"
leak = { shift = 4 }             # or { factor = 0.9 }
inputs = ["conv1"]               # default: the node before; the first gets "input"
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from functools import cache, reduce
from operator import or_
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, get_args, get_type_hints

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from spikeloom.core.network import Network
from spikeloom.core.nodes import (
    NODE_TYPES,
    BatchNorm,
    Conv1d,
    Conv2d,
    Input,
    Leak,
    Linear,
    Node,
    Output,
    Pool,
    Scale,
    Shape,
)
from spikeloom.errors import ConfigError, NetworkError, NetworkFileError
from spikeloom.files.checkpoint import read_state_dict
from spikeloom.files.schema import first_problem, nearest, read_toml, validated
from spikeloom.snn.importers.assembly import without_plain_sums

#: Fields of nodes that follow from the weights.
_FROM_WEIGHTS = {
    "in_channels", "out_channels", "in_features", "out_features", "num_features", "has_bias", "weight_bits", "bias_bits", "kernel",
}  # fmt: skip
_OWN_KEYS = ("name", "type", "weights", "inputs")
_WITH_WEIGHTS = (Conv1d, Conv2d, Linear, BatchNorm)


class _Leak(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    shift: int | None = None
    factor: float | None = None


class _Head(BaseModel):
    """What a description says besides its nodes."""

    model_config = ConfigDict(extra="forbid", strict=True)
    in_shape: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1, max_length=3)]
    encoding: Literal["spikes", "levels", "analog"] = "spikes"
    name: str = "network"
    dt_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    node: Annotated[list[dict[str, Any]], Field(min_length=1)]


def import_checkpoint(path: str | Path, description: str | Path) -> Network:
    """The network that a description makes of the weights in a state dict.

    Args:
        path: of a file that ``torch.save(module.state_dict(), path)`` wrote; it is read without running any code of it.
        description: of a TOML file as above.

    Returns:
        The network, an Output behind its last node. Keys ``num_batches_tracked`` do not count.

    Raises:
        ConfigError: the description is missing, not TOML, or has an unknown or malformed key; names file, node and key.
        NetworkFileError: the weights cannot be read, a key of theirs belongs to no node, a node does not find its own, or the nodes
            do not fit together.
    """
    where = str(description)
    head = _head(description)
    arrays = {key: value for key, value in read_state_dict(path).items() if not key.endswith("num_batches_tracked")}
    shape: Shape = tuple(head.in_shape)
    nodes: dict[str, Node] = {"input": Input(shape, head.encoding)}
    edges: list[tuple[str, str]] = []
    unused = dict.fromkeys(arrays)
    before = "input"
    for index, entry in enumerate(head.node):
        name = _name(entry, nodes, f"{where}: node[{index}]")
        nodes[name] = _node(entry, f"{where}: node '{name}'", _Weights(arrays, str(path), unused))
        edges.extend((source, name) for source in _inputs(entry, before, f"{where}: node '{name}'"))
        before = name
    for source, name in edges:
        if source not in nodes:
            raise ConfigError(f"{where}: node '{name}': inputs: no node is named '{source}'{nearest(source, nodes)}")
    if unused:
        key = next(iter(unused))
        wanted = [f"{prefix}.{word}" for prefix, words in _takers(head.node) for word in words]
        wanted = [word for word in wanted if word not in arrays]
        raise NetworkFileError(
            f"weights file {path}: no node of {where} uses '{key}'{nearest(key, wanted)}; add a node"
        )
    metadata = {"imported_from": "state dict"}
    try:
        open_ended = Network(nodes, tuple(edges), head.name, head.dt_s, metadata)
        nodes["output"] = Output(open_ended.shapes()[before])
        network = Network(nodes, (*edges, (before, "output")), head.name, head.dt_s, metadata).checked()
    except NetworkError as error:
        raise NetworkFileError(f"{where}: {error}") from None
    return without_plain_sums(network)


def describe_description(path: str | Path) -> str:
    """What a description holds, read without weights. Raises ConfigError naming file, node and key."""
    head = _head(path)
    names: dict[str, None] = {"input": None}
    for index, entry in enumerate(head.node):
        name = _name(entry, names, f"{path}: node[{index}]")
        names[name] = None
        where = f"{path}: node '{name}'"
        _settings(_kind(entry, where), entry, where)
    return f"network description of {len(head.node)} nodes, input {head.in_shape}"


def _head(path: str | Path) -> _Head:
    return validated(TypeAdapter(_Head), read_toml(path), str(path), list(_Head.model_fields))


class _Weights:
    """The arrays of a state dict, and which of them no node has asked for."""

    def __init__(self, arrays: Mapping[str, np.ndarray], path: str, unused: dict[str, None]) -> None:
        self.arrays, self.path, self.unused = arrays, path, unused

    def get(self, key: str, where: str, dimensions: int | None = None) -> np.ndarray:
        """An array that must be there. Raises NetworkFileError naming the key."""
        if key not in self.arrays:
            raise NetworkFileError(
                f"{where} needs '{key}', which weights file {self.path} lacks{nearest(key, self.arrays)}; set 'weights' to its prefix"
            )
        array = self.arrays[key]
        if dimensions is not None and array.ndim != dimensions:
            raise NetworkFileError(
                f"{where} needs '{key}' with {dimensions} dimensions, weights file {self.path} has shape {list(array.shape)}"
            )
        self.unused.pop(key, None)
        return array

    def find(self, key: str, where: str) -> np.ndarray | None:
        """An array that may be there."""
        return self.get(key, where, 1) if key in self.arrays else None


def _name(entry: Mapping[str, Any], nodes: Mapping[str, object], where: str) -> str:
    name = entry.get("name")
    if not isinstance(name, str) or not name or name in nodes or name == "output":
        raise ConfigError(f"{where}: name: got {name!r}, expected a word that no other node has (nor input, output)")
    return name


def _inputs(entry: Mapping[str, Any], before: str, where: str) -> list[str]:
    inputs = entry.get("inputs", [before])
    if not isinstance(inputs, list) or not inputs or not all(isinstance(source, str) for source in inputs):
        raise ConfigError(f"{where}: inputs: got {inputs!r}, expected a list of node names")
    return inputs


def _takers(entries: list[dict[str, Any]]) -> list[tuple[str, tuple[str, ...]]]:
    """Prefix, and arrays that go with it, of every node that takes some."""
    found = []
    for entry in entries:
        cls = NODE_TYPES[entry["type"]]
        if cls in _WITH_WEIGHTS:
            statistics = ("running_mean", "running_var") if cls is BatchNorm else ()
            found.append((str(entry.get("weights", entry["name"])), ("weight", "bias", *statistics)))
    return found


def _kind(entry: Mapping[str, Any], where: str) -> type:
    """The class of a node."""
    word = entry.get("type")
    types = [name for name, cls in NODE_TYPES.items() if cls not in (Input, Output, Scale)]
    if word not in types:
        raise ConfigError(f"{where}: type: got {word!r}{nearest(str(word), types)}, expected one of {', '.join(types)}")
    return NODE_TYPES[str(word)]


def _node(entry: Mapping[str, Any], where: str, weights: _Weights) -> Node:
    """One node, its arrays from the weights."""
    cls = _kind(entry, where)
    settings = _settings(cls, entry, where)
    prefix = entry.get("weights", entry["name"])
    if not isinstance(prefix, str) or ("weights" in entry and cls not in _WITH_WEIGHTS):
        raise ConfigError(
            f"{where}: weights: got {prefix!r}, expected the prefix of a Conv2d, Conv1d, Linear or BatchNorm"
        )
    if cls is BatchNorm:
        settings |= _statistics(prefix, where, weights)
    elif cls in (Conv1d, Conv2d, Linear):
        settings |= _synapse(cls, prefix, where, weights, int(settings.get("groups", 1)))
    try:
        node: Node = cls(**settings)
    except (TypeError, NetworkError) as error:  # a field without a default, a leak out of its range
        missing = [item.name for item in fields(cls) if item.name in str(error) and item.name not in settings]
        why = f"expected a value for {', '.join(missing)}" if missing else str(error)
        raise ConfigError(f"{where}: {why}") from None
    return node


def _synapse(cls: type, prefix: str, where: str, weights: _Weights, groups: int) -> dict[str, Any]:
    """Sizes, weight and bias of a Conv2d, Conv1d or Linear."""
    weight = weights.get(f"{prefix}.weight", where, {Conv2d: 4, Conv1d: 3, Linear: 2}[cls])
    bias = weights.find(f"{prefix}.bias", where)
    found: dict[str, Any] = {"weight": weight, "bias": bias, "has_bias": bias is not None}
    if cls is Linear:
        return found | {"out_features": weight.shape[0], "in_features": weight.shape[1]}
    found |= {"out_channels": weight.shape[0], "in_channels": weight.shape[1] * groups}
    return found | {"kernel": weight.shape[2:] if cls is Conv2d else weight.shape[2]}


def _statistics(prefix: str, where: str, weights: _Weights) -> dict[str, Any]:
    """Statistics, scale and shift of a BatchNorm; without scale and shift 1 and 0."""
    mean, var = (weights.get(f"{prefix}.{key}", where, 1) for key in ("running_mean", "running_var"))
    gamma, beta = (weights.find(f"{prefix}.{key}", where) for key in ("weight", "bias"))
    gamma = np.ones_like(mean) if gamma is None else gamma
    beta = np.zeros_like(mean) if beta is None else beta
    for key, array in (("running_var", var), ("weight", gamma), ("bias", beta)):
        if array.shape != mean.shape:
            raise NetworkFileError(
                f"{where}: '{prefix}.{key}' has shape {list(array.shape)}, '{prefix}.running_mean' has {list(mean.shape)}"
            )
    return {"num_features": len(mean), "gamma": gamma, "beta": beta, "mean": mean, "var": var}


def _settings(cls: type, raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields of a node that the description states, checked."""
    known = _choices(cls)
    values: dict[str, Any] = {}
    for key, value in raw.items():
        if key in _OWN_KEYS:
            continue
        if key not in known:
            words = ", ".join((*_OWN_KEYS, *known))
            raise ConfigError(f"{where}: {key}: unknown key{nearest(key, known)}; known keys: {words}")
        if isinstance(value, int) and get_type_hints(cls)[key] == tuple[int, int]:
            value = [value, value]  # one number for both directions
        try:
            checked = known[key].validate_json(json.dumps(value, default=str), strict=True)
        except ValidationError as error:
            raise ConfigError(f"{where}: {key}: {first_problem(error)[1]}") from None
        try:
            values[key] = Leak(checked.shift, checked.factor) if isinstance(checked, _Leak) else checked
        except NetworkError as error:
            raise ConfigError(f"{where}: {key}: {error}") from None
    if issubclass(cls, get_args(Pool)) and "kernel" in values:
        values.setdefault("stride", values["kernel"])
    return values


@cache
def _choices(cls: type) -> dict[str, TypeAdapter[Any]]:
    """How to check each field that a description may state."""
    adapters: dict[str, TypeAdapter[Any]] = {}
    for key, kind in get_type_hints(cls).items():
        if key in _FROM_WEIGHTS and not (key == "kernel" and issubclass(cls, get_args(Pool))):
            continue
        kinds = (
            [_Leak if choice is Leak else choice for choice in get_args(kind)]
            if isinstance(kind, UnionType)
            else [kind]
        )
        kinds = [choice for choice in kinds if choice is not np.ndarray]
        if not kinds or kinds == [type(None)]:
            continue  # an array alone comes from the weights
        adapters[key] = TypeAdapter(reduce(or_, kinds))
    return adapters
