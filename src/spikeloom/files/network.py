"""Networks as ``.npz``: nodes and edges in the header, weights as arrays named ``node/field``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
from pydantic import TypeAdapter, ValidationError

from spikeloom.core.network import NODE_TYPES, Leak, Network, Node
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
            elif isinstance(value, Leak):
                entry[item.name] = {"shift": value.shift, "factor": value.factor}
            else:  # None too: a threshold that is not known is not the default one
                entry[item.name] = value
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


def read_network(path: str | Path) -> Network:
    """Read a network written by ``write_network``. Raises NetworkFileError naming file and key."""
    with Archive(path, NetworkFileError) as archive:
        meta = archive.meta(NETWORK_FORMAT, NETWORK_VERSION)
        nodes: dict[str, Node] = {}
        try:
            for entry in meta["nodes"]:
                if not isinstance(entry["name"], str) or entry["name"] in nodes:
                    raise archive.fail("meta.nodes", f"got the name {entry['name']!r}, expected distinct words")
                nodes[entry["name"]] = _read_node(archive, entry)
            return Network(
                nodes, tuple((a, b) for a, b in meta["edges"]), meta["name"], meta["dt_s"], meta.get("metadata", {})
            )
        except (KeyError, TypeError, ValueError, AttributeError) as cause:
            if isinstance(cause, FileError):
                raise
            raise archive.fail("meta", f"malformed network description ({cause!r})") from cause


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
            values[key] = _adapter(cls, key).validate_json(json.dumps(value), strict=True)
        except ValidationError as error:
            raise archive.fail(f"{where}: {key}", first_problem(error)[1]) from None
        except NetworkError as error:
            raise archive.fail(f"{where}: {key}", str(error)) from None
    for key in known:
        if f"{entry['name']}/{key}" in archive.arrays.files:
            values[key] = archive.read(f"{entry['name']}/{key}")
    node: Node = cls(**values)
    return node


@cache
def _adapter(cls: type, key: str) -> TypeAdapter[Any]:
    """Checks a field as the header holds it; arrays stand beside the header, there only None is left of them."""
    kind = get_type_hints(cls)[key]
    return TypeAdapter(None if np.ndarray in (kind, *get_args(kind)) else kind)
