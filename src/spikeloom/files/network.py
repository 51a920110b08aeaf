"""Networks as ``.npz``: nodes and edges in the header, weights as arrays named ``node/field``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from spikeloom.core.network import NODE_TYPES, Leak, Network, Node
from spikeloom.errors import FileError, NetworkFileError
from spikeloom.files.archive import Archive, write_archive

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
            elif value is not None:
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
    known = {item.name for item in fields(cls)}
    values: dict[str, Any] = {}
    for key, value in entry.items():
        if key in ("name", "type"):
            continue
        if key not in known:
            raise archive.fail(where, f"unknown field '{key}', expected some of {sorted(known)}")
        if key in ("leak", "syn_leak"):
            value = Leak(**value)
        values[key] = tuple(value) if isinstance(value, list) else value
    for key in known:
        if f"{entry['name']}/{key}" in archive.arrays.files:
            values[key] = archive.read(f"{entry['name']}/{key}")
    node: Node = cls(**values)
    return node
