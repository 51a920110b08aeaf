"""The HDF5 tree of a NIR file: its nodes as `Part`s, graphs within graphs laid flat, and its edges.

The file is read without nir's own reader, which refuses files that exporters really write (scalars, absent v_reset).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import h5py
import numpy as np

from spikeloom.errors import NetworkFileError
from spikeloom.files.nir_nodes import Part

#: The key in NIR's metadata under which a network of ours keeps what NIR cannot say.
STATED = "spikeloom"
#: Whose neurons a graph means: those that NIR's equations say, or those of an exporter whose neurons differ.
Neurons = Literal["exact", "snntorch", "sinabs", "lava"]
_MAX_BYTES, _MAX_NODES, _MAX_DEPTH = 1 << 31, 10_000, 16
#: What h5py raises on damaged or hostile files.
_UNREADABLE = (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError, MemoryError, OverflowError)


@dataclass(eq=False)
class Tree:
    """A NIR file: nodes by their names ("outer.inner" within a graph), edges each once, version, and what our writer stated.

    framework: the first word of a text in the graph's metadata, where it is one of `Neurons`.
    """

    path: Path
    version: str = ""
    parts: dict[str, Part] = field(default_factory=dict)
    edges: list[tuple[str, str]] = field(default_factory=list)
    stated: Mapping[str, Any] = field(default_factory=dict)
    framework: Neurons | None = None

    def fail(self, text: str) -> NetworkFileError:
        """The error to raise about the file."""
        return NetworkFileError(f"{self.path}: {text}")


def read_tree(path: str | Path) -> Tree:
    """Read a NIR file.

    Raises:
        NetworkFileError: no such file, no HDF5, truncated, or not laid out as NIR lays out a graph.
    """
    tree = Tree(Path(path))
    if not tree.path.exists():
        raise tree.fail("no such file; expected a .nir file")
    if not tree.path.is_file():
        raise tree.fail("is no regular file, expected a .nir file")
    text = "is no readable NIR file; it may be truncated or of another format (NIR files are HDF5)"
    with _readable(tree, text), h5py.File(tree.path, "r") as file:
        if "version" in file:
            tree.version = str(_value(tree, "version", _member(tree, file, "version", h5py.Dataset, "the file")))
        root = _member(tree, file, "node", h5py.Group, "the file")
        kind = _text(tree, root, "type", "node")
        if kind != "NIRGraph":
            raise tree.fail(f"holds a single {kind}, expected a graph of nodes")
        tree.stated = _stated(tree, root, "the graph")
        tree.framework = _framework(tree, root)
        _read_graph(tree, root, "", 0)
    # an edge written twice is one: nir refuses the second, nirtorch wrote some
    tree.edges = list(dict.fromkeys(tree.edges))
    return tree


@contextmanager
def _readable(tree: Tree, text: str) -> Iterator[None]:
    try:
        yield
    except NetworkFileError:
        raise
    except _UNREADABLE as cause:
        raise tree.fail(f"{text} ({cause})") from cause


def _read_graph(tree: Tree, group: h5py.Group, prefix: str, depth: int) -> None:
    """Add the nodes and edges of a graph; a graph within is replaced by what stands between its Input and its Output."""
    where = f"graph '{prefix[:-1]}'" if prefix else "the graph"
    if depth > _MAX_DEPTH:
        raise tree.fail(f"graphs lie more than {_MAX_DEPTH} deep in one another")
    nodes = _member(tree, group, "nodes", h5py.Group, where)
    inner: dict[str, tuple[str, str]] = {}
    names = set()
    for key in list(nodes):
        name = f"{prefix}{key}"
        node = _member(tree, nodes, key, h5py.Group, where)
        kind = _text(tree, node, "type", f"node '{name}'")
        names.add(name)
        if kind == "NIRGraph":
            outside = set(tree.parts)
            _read_graph(tree, node, f"{name}.", depth + 1)
            inner[name] = _ends(tree, name, [key for key in tree.parts if key not in outside])
            continue
        if name in tree.parts or len(tree.parts) >= _MAX_NODES:
            raise tree.fail(f"node '{name}': there is another of that name, or more than {_MAX_NODES} nodes")
        tree.parts[name] = _part(tree, name, kind, node)
    for source, target in _edges(tree, group, where):
        for end in (source, target):
            if f"{prefix}{end}" not in names:
                raise tree.fail(
                    f"the edge {source} -> {target} of {where} names '{end}', which is no node; nodes are {_few(names)}"
                )
        tree.edges.append((f"{prefix}{source}", f"{prefix}{target}"))
    for name, (first, last) in inner.items():
        tree.edges = [
            (last if source == name else source, first if target == name else target) for source, target in tree.edges
        ]
        for end in (first, last):
            _bypass(tree, end)


def _ends(tree: Tree, name: str, within: list[str]) -> tuple[str, str]:
    """Names of the Input and the Output of the graph ``name``, whose nodes are ``within``."""
    found = []
    for kind in ("Input", "Output"):
        ends = [key for key in within if tree.parts[key].kind == kind]
        if len(ends) != 1:
            raise tree.fail(
                f"node '{name}' (NIRGraph): has {len(ends)} {kind} nodes, expected one; a graph within a graph is read as a chain"
            )
        found.append(ends[0])
    return found[0], found[1]


def _bypass(tree: Tree, name: str) -> None:
    """Remove a node that passes on what it gets."""
    before = [source for source, target in tree.edges if target == name]
    behind = [target for source, target in tree.edges if source == name]
    tree.edges = [edge for edge in tree.edges if name not in edge] + [(a, b) for a in before for b in behind]
    del tree.parts[name]


def _part(tree: Tree, name: str, kind: str, node: h5py.Group) -> Part:
    where = f"node '{name}' ({kind})"
    values: dict[str, np.ndarray | str] = {}
    for key in list(node):
        if key in ("type", "metadata"):
            continue
        value = _value(tree, f"{where}: {key}", _member(tree, node, key, h5py.Dataset, where))
        if value is not None:
            values[key] = value
    return Part(f"{tree.path}: {where}", kind, values, _stated(tree, node, where))


def _stated(tree: Tree, node: h5py.Group, where: str) -> dict[str, Any]:
    """What our writer left in the metadata of a node or graph: a JSON object, and arrays beside it named "spikeloom.KEY"."""
    if "metadata" not in node:
        return {}
    metadata = _member(tree, node, "metadata", h5py.Group, where)
    found: dict[str, Any] = {}
    for key in list(metadata):
        if key == STATED:
            text = _value(tree, f"{where}: metadata", _member(tree, metadata, key, h5py.Dataset, where))
            try:
                stated = json.loads(str(text), parse_constant=_no_constant)
            except (ValueError, RecursionError) as cause:
                raise tree.fail(f"{where}: metadata '{key}' is not JSON ({cause}); remove it") from cause
            if not isinstance(stated, dict):
                raise tree.fail(
                    f"{where}: metadata '{key}' is a JSON {type(stated).__name__}, expected an object; remove it"
                )
            found = {**stated, **found}
        elif key.startswith(f"{STATED}."):
            member = _member(tree, metadata, key, h5py.Dataset, where)
            found[key.removeprefix(f"{STATED}.")] = _value(tree, f"{where}: metadata {key}", member)
    return found


def _framework(tree: Tree, root: h5py.Group) -> Neurons | None:
    """The exporter that the graph's metadata name ("snnTorch 1.0.0" under whatever key), if they name one."""
    metadata = _member(tree, root, "metadata", h5py.Group, "the graph") if "metadata" in root else {}
    texts = [metadata[key][()] for key in metadata if isinstance(metadata[key], h5py.Dataset)]
    words = {_word(text).lower().partition(" ")[0] for text in texts if isinstance(text, bytes | str)}
    found = [name for name in get_args(Neurons) if name in words]
    return found[0] if len(found) == 1 else None


def _no_constant(text: str) -> float:
    raise ValueError(f"it holds {text}")


def _member(tree: Tree, group: h5py.Group, key: str, kind: type, where: str) -> Any:
    """A group or dataset. Links to other files are refused: a file speaks for itself."""
    link = group.get(key, getlink=True)
    if link is not None and not isinstance(link, h5py.HardLink):
        raise tree.fail(f"{where}: '{key}' is a link to another place, expected the data itself")
    found = group[key] if link is not None else None
    if not isinstance(found, kind):
        what = "nothing" if found is None else "something else"
        raise tree.fail(f"{where} has {what} named '{key}', expected a {kind.__name__.lower()}")
    return found


def _text(tree: Tree, group: h5py.Group, key: str, where: str) -> str:
    value = _value(tree, f"{where}: {key}", _member(tree, group, key, h5py.Dataset, where))
    if not isinstance(value, str):
        raise tree.fail(f"{where}: {key} is {value!r}, expected a word")
    return value


def _value(tree: Tree, where: str, dataset: h5py.Dataset) -> np.ndarray | str | None:
    """A dataset as numbers or text; None where it is empty."""
    if dataset.is_virtual or dataset.external:
        raise tree.fail(f"{where} lies in another file, expected the data itself")
    if dataset.size is None:
        return None
    if dataset.size * dataset.dtype.itemsize > _MAX_BYTES:
        raise tree.fail(f"{where} has the shape {list(dataset.shape)}, expected at most {_MAX_BYTES >> 30} GiB")
    with _readable(tree, f"{where} cannot be read; the file may be truncated"):
        value = dataset[()]
        if isinstance(value, bytes | np.bytes_):
            return value.decode("utf8")
    if isinstance(value, str):
        return value
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise tree.fail(f"{where} holds {array.dtype}, expected numbers or a word")
    if not np.isfinite(array).all():
        raise tree.fail(f"{where} holds NaN or infinity, expected finite numbers")
    return array


def _edges(tree: Tree, group: h5py.Group, where: str) -> list[tuple[str, str]]:
    dataset = _member(tree, group, "edges", h5py.Dataset, where)
    if not dataset.size:
        return []
    if dataset.ndim != 2 or dataset.shape[1] != 2 or dataset.size > 100 * _MAX_NODES or dataset.dtype.kind not in "OS":
        raise tree.fail(f"{where} has edges of shape {list(dataset.shape)} ({dataset.dtype}), expected pairs of names")
    with _readable(tree, f"the edges of {where} cannot be read"):
        return [(_word(a), _word(b)) for a, b in dataset[()]]


def _word(value: Any) -> str:
    return value.decode("utf8") if isinstance(value, bytes) else str(value)


def _few(names: set[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:8]) + (", ..." if len(listed) > 8 else "")
