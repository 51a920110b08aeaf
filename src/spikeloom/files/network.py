"""Networks as ``.npz``: nodes and edges in the header, weights as arrays named ``node/field``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from functools import cache, reduce
from operator import or_
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_type_hints

import numpy as np
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from spikeloom.core.network import Network
from spikeloom.core.nodes import NODE_TYPES, Leak, Node
from spikeloom.errors import FileError, NetworkError, NetworkFileError
from spikeloom.files.archive import Archive, write_archive
from spikeloom.files.schema import first_problem

NETWORK_FORMAT, NETWORK_VERSION = "spikeloom-network", 1


def write_network(path: str | Path, network: Network) -> None:
    """Write a network, its weights included."""
    nodes, arrays = [], {}
    for name, node in network.nodes.items():
        entry: dict[str, Any] = {"name": name, "type": type(node).__name__}
        for item in fields(node):
            value = getattr(node, item.name)
            if isinstance(value, np.ndarray):
                arrays[f"{name}/{item.name}"] = value
            elif isinstance(value, Leak) and isinstance(value.factor, np.ndarray):
                entry[item.name] = {"shift": None, "factor": None}
                arrays[f"{name}/{item.name}.factor"] = value.factor
            elif isinstance(value, Leak):
                entry[item.name] = {"shift": value.shift, "factor": _plain(value.factor)}
            else:  # None too: a threshold that is not known is not the default one
                entry[item.name] = _plain(value)
        nodes.append(entry)
    meta = {
        "format": NETWORK_FORMAT,
        "version": NETWORK_VERSION,
        "name": network.name,
        "dt_s": network.dt_s,
        "metadata": dict(network.metadata),
        "nodes": nodes,
        "edges": [list(edge) for edge in network.edges],
    }
    write_archive(path, meta, arrays)


def _plain(value: Any) -> Any:
    """A NumPy number as Python's, which JSON can write."""
    return value.item() if isinstance(value, np.generic) else value


def read_network(path: str | Path) -> Network:
    """Read a network written by ``write_network``.

    Raises:
        NetworkFileError: names file and key, or the node that does not fit.
    """
    with Archive(path, NetworkFileError) as archive:
        meta = archive.meta(NETWORK_FORMAT, NETWORK_VERSION)
        nodes: dict[str, Node] = {}
        try:
            for entry in meta["nodes"]:
                if not isinstance(entry["name"], str) or entry["name"] in nodes:
                    raise archive.fail("meta.nodes", f"got the name {entry['name']!r}, expected distinct words")
                nodes[entry["name"]] = _read_node(archive, entry)
            if not isinstance(meta.get("metadata", {}), dict):
                raise archive.fail("meta.metadata", f"got a JSON {type(meta['metadata']).__name__}, expected an object")
            edges = tuple((a, b) for a, b in meta["edges"])
            network = Network(nodes, edges, meta["name"], meta["dt_s"], meta.get("metadata", {}))
        except NetworkError as error:
            raise archive.fail("meta", str(error)) from None
        except (KeyError, TypeError, ValueError, AttributeError) as cause:
            if isinstance(cause, FileError):
                raise
            raise archive.fail("meta", f"malformed network description ({cause!r})") from cause
    try:
        return network.checked()
    except NetworkError as error:
        raise NetworkFileError(f"{path}: {error}") from None


def _read_node(archive: Archive, entry: Mapping[str, Any]) -> Node:
    where = f"node '{entry['name']}'"
    if entry["type"] not in NODE_TYPES:
        raise archive.fail(where, f"unknown type {entry['type']!r}, expected one of {sorted(NODE_TYPES)}")
    cls = NODE_TYPES[entry["type"]]
    known = get_type_hints(cls)
    values: dict[str, Any] = {}
    for key, value in entry.items():
        if key in ("name", "type"):
            continue
        if key not in known:
            raise archive.fail(where, f"unknown field '{key}', expected some of {sorted(known)}")
        try:
            checked = _adapter(cls, key).validate_json(json.dumps(value), strict=True)
            values[key] = (
                _leak(archive, f"{entry['name']}/{key}", checked) if isinstance(checked, _LeakEntry) else checked
            )
        except ValidationError as error:
            raise archive.fail(f"{where}: {key}", first_problem(error)[1]) from None
        except NetworkError as error:
            raise archive.fail(f"{where}: {key}", str(error)) from None
    for key, kind in known.items():
        if f"{entry['name']}/{key}" in archive.arrays.files:
            if kind is not np.ndarray and np.ndarray not in get_args(kind):
                raise archive.fail(f"{entry['name']}/{key}", f"stands beside the header, expected {key} only in it")
            values[key] = _numbers(archive, f"{entry['name']}/{key}")
    node: Node = cls(**values)
    return node


class _LeakEntry(BaseModel):
    """A leak as the header holds it; a factor for each neuron stands beside the header."""

    model_config = ConfigDict(extra="forbid", strict=True)
    shift: int | None
    factor: float | None


def _leak(archive: Archive, key: str, entry: _LeakEntry) -> Leak:
    beside = f"{key}.factor"
    if beside not in archive.arrays.files:
        return Leak(entry.shift, entry.factor)
    if entry.factor is not None:
        raise archive.fail(beside, f"stands beside the factor {entry.factor} of the header, expected one of the two")
    return Leak(entry.shift, _numbers(archive, beside))


def _numbers(archive: Archive, key: str) -> np.ndarray:
    """One array of real numbers."""
    array = archive.read(key)
    if array.dtype.kind not in "iuf":
        raise archive.fail(key, f"got dtype {array.dtype}, expected integers or floats")
    return array


@cache
def _adapter(cls: type, key: str) -> TypeAdapter[Any]:
    """Checks a field as the header holds it; arrays stand beside the header, there only the rest of their type is left."""
    kind = get_type_hints(cls)[key]
    if kind is np.ndarray:
        return TypeAdapter(None)
    choices = [_LeakEntry if choice is Leak else choice for choice in get_args(kind) if choice is not np.ndarray]
    if isinstance(kind, UnionType):
        return TypeAdapter(reduce(or_, choices))
    return TypeAdapter(kind)
