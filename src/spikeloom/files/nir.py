"""NIR graphs (.nir, HDF5): files of today's exporters to a `Network`, and a `Network` to a file that others read.

NIR (Pedersen et al., Nature Communications 2024, https://neuroir.org) states parameters in continuous time and leaves open the time
step, the kind of reset and whether a membrane at the threshold fires; here these are options and go into the network's metadata.
Shapes are inferred by `Network.shapes`, never taken from the file. Equations: `spikeloom.files.nir_nodes`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import get_args

from spikeloom.core.network import Network, notes_of
from spikeloom.core.nodes import LIF, SPIKING, Delay, Flatten, Input, Node, Output, Reset, Shape
from spikeloom.errors import NetworkError, NetworkFileError
from spikeloom.files.nir_frameworks import choices_for, meant
from spikeloom.files.nir_nodes import (
    Discretisation,
    Encoding,
    IfGain,
    Part,
    check_flatten,
    check_map,
    read_nodes,
    squeezed_shape,
)
from spikeloom.files.nir_tree import Neurons, Tree, read_tree
from spikeloom.files.nir_write import write_nir

__all__ = ["read_nir", "write_nir"]

#: Most values that a map may hold; beyond is damage.
_MAX_MAP = 1 << 31


def read_nir(
    path: str | Path,
    *,
    dt_s: float | None = None,
    reset: Reset | None = None,
    strict: bool = False,
    discretisation: Discretisation = "euler",
    loop_delay: int | None = None,
    encoding: Encoding = "spikes",
    if_gain: IfGain = "auto",
    neurons: Neurons | None = None,
) -> Network:
    """Read a NIR graph as a network; its choices are kept in ``metadata["nir"]``, and what traces and reports must repeat in
    ``metadata["notes"]``.

    What a file written by `write_nir` states itself (time step, reset, strictness, leak, encoding) goes before the options.

    Args:
        path: the file.
        dt_s: time step in seconds; needed as soon as a node has a time constant or a delay.
        reset: what a spike does to the membrane: "hard" to v_reset, "soft" subtracts the threshold, "none"; None is "hard", and
            "soft" for snnTorch.
        strict: a membrane fires above the threshold, not at it.
        discretisation: of time constants: "euler" loses ``dt/tau`` of the membrane in a step, "exponential" ``1 - exp(-dt/tau)``.
        loop_delay: steps of the Delay put into a loop that has none; None refuses such loops. Frameworks mean 1.
        encoding: what arrives at the input.
        if_gain: what r of an IF means: "per_step" ``v += r*I``, "per_second" ``v += r*dt*I``; "auto" takes r = 1 for the first and
            r = 1/dt for the second, and refuses anything else.
        neurons: whose neurons the graph means: "exact" those of the other options, "snntorch" those of the module that was exported,
            "sinabs" and "lava" are refused. None: what the file's metadata say, else "exact", with a note.

    Raises:
        NetworkFileError: one line naming file and node: not a NIR file, damaged, or something we cannot say in our words.
    """
    if neurons is not None and neurons not in get_args(Neurons):
        raise NetworkFileError(f"neurons got {neurons!r}, expected one of {list(get_args(Neurons))}")
    tree = read_tree(path)
    whose = neurons or tree.framework or "exact"
    others = {"strict": strict, "discretisation": discretisation, "encoding": encoding, "if_gain": if_gain}
    choices = choices_for(whose, reset, dt_s=dt_s, loop_delay=loop_delay, **others)
    if choices.dt_s is None and tree.stated.get("dt_s") is not None:
        stated = tree.stated["dt_s"]
        if not isinstance(stated, int | float):
            raise tree.fail(f"states the time step {stated!r}, expected a number of seconds")
        choices = replace(choices, dt_s=float(stated))
    source, target = _ends(tree)
    nodes: dict[str, Node] = {}
    entry: dict[str, str] = {}
    edges: list[tuple[str, str]] = []
    for name, part in tree.parts.items():
        found = {key: meant(whose, part, node) for key, node in read_nodes(name, part, choices).items()}
        names = list(found)
        clash = next((n for n in names if n in nodes or (n != name and n in tree.parts)), None)
        if clash is not None:
            raise part.fail(f"needs a node '{clash}' of its own, and there is one of that name; rename it")
        nodes |= found
        entry[name] = names[0]
        edges += list(zip(names, names[1:], strict=False))
    edges += [(a, entry[b]) for a, b in tree.edges]
    delays = _break_loops(tree, nodes, edges, source, choices.loop_delay)
    for name in (name for name in nodes if whose == "snntorch" and f"{name}.delay" in delays):
        if isinstance(cell := nodes[name], LIF) and cell.reset == "hard":  # RLeaky resets late, unlike Leaky
            nodes[name] = replace(cell, late_reset=True)
    notes = _settle(tree, nodes, edges, source, target)
    title, metadata = tree.stated.get("name"), tree.stated.get("metadata")
    record = {"file": tree.path.name, "version": tree.version, **asdict(choices), "loop_delays": delays, "notes": notes}
    metadata = metadata if isinstance(metadata, dict) else {}
    if any(isinstance(node, SPIKING) and "reset" not in tree.parts[name].stated for name, node in nodes.items()):
        record["neurons"] = whose
        if neurons is None and not tree.framework:
            said = f"{tree.path.name} does not say whose neurons it means; read as exact ones (--neurons)"
            metadata = {**metadata, "notes": [*notes_of(metadata), said]}
    network = Network(
        nodes,
        tuple(edges),
        title if isinstance(title, str) else tree.path.stem,
        choices.dt_s,
        {**metadata, "nir": record},
    )
    order = network.order()
    return replace(network, nodes={name: nodes[name] for name in order})  # HDF5 sorts names: 0, 1, 10, 2


def _ends(tree: Tree) -> tuple[str, str]:
    """Names of the Input and the Output, which is put behind the last node where there is none."""
    if not tree.parts:
        raise tree.fail("has no node; expected a graph from an Input to an Output")
    inputs, outputs = ([n for n, part in tree.parts.items() if part.kind == kind] for kind in ("Input", "Output"))
    if not outputs:
        sending = {a for a, _ in tree.edges}
        last = [name for name in tree.parts if name not in sending]
        if len(last) != 1:
            raise tree.fail(f"has no Output node and {len(last)} nodes that feed none {last[:8]}, expected one Output")
        name = "output" if "output" not in tree.parts else f"{last[0]}.output"
        tree.parts[name] = Part(f"{tree.path}: node '{name}' (Output)", "Output", {})
        tree.edges.append((last[0], name))
        outputs = [name]
    for kind, found in (("Input", inputs), ("Output", outputs)):
        if len(found) != 1:
            raise tree.fail(f"has {len(found)} {kind} nodes {found[:8]}, expected one")
    for a, b in tree.edges:
        if a == outputs[0] or b == inputs[0]:
            raise tree.fail(f"the edge {a} -> {b} leaves the Output or enters the Input; remove it")
    return inputs[0], outputs[0]


def _break_loops(
    tree: Tree, nodes: dict[str, Node], edges: list[tuple[str, str]], source: str, loop_delay: int | None
) -> list[str]:
    """Put a Delay into every loop without one, where its spikes leave the neuron. Returns the names of the delays."""
    inserted: dict[str, str] = {}
    while (loop := _loop(nodes, edges, source)) is not None:
        if loop_delay is None:
            raise tree.fail(
                f"the nodes {' -> '.join([*loop, loop[0]])} form a loop without a delay; frameworks mean one step: say so with "
                "loop_delay=1 (on the command line: --loop-delay 1)"
            )
        at = len(loop) - 1  # the edge back into the first node; rather the one before, behind the last spiking neuron
        while at > 0 and not isinstance(nodes[loop[at]], SPIKING) and _only_between(edges, loop[at]):
            at -= 1
        before, behind = loop[at], loop[(at + 1) % len(loop)]
        if before not in inserted:
            inserted[before] = next(
                n for n in (f"{before}.delay{'_' * i}" for i in range(len(nodes) + 1)) if n not in nodes
            )
            nodes[inserted[before]] = Delay(loop_delay)
            edges.append((before, inserted[before]))
        edges[edges.index((before, behind))] = (inserted[before], behind)
    return list(inserted.values())


def _only_between(edges: list[tuple[str, str]], name: str) -> bool:
    """True for a node with one input and one output: a delay before it is a delay behind it."""
    return sum(a == name for a, _ in edges) == 1 and sum(b == name for _, b in edges) == 1


def _loop(nodes: dict[str, Node], edges: list[tuple[str, str]], source: str) -> list[str] | None:
    """The nodes of one loop without a delay, from the one nearest to the input on; None where there is none."""
    followers: dict[str, list[str]] = {name: [] for name in nodes}
    for a, b in edges:
        node = nodes[a]
        if not (isinstance(node, Delay) and node.steps >= 1):
            followers[a].append(b)
    waiting = {name: 0 for name in nodes}
    for targets in followers.values():
        for b in targets:
            waiting[b] += 1
    ready = [name for name, number in waiting.items() if number == 0]
    for name in ready:  # grows: whatever waits for no loop drops out
        for b in followers[name]:
            waiting[b] -= 1
            if waiting[b] == 0:
                ready.append(b)
    behind = set(nodes) - set(ready)
    if not behind:
        return None
    reached = list(_paths(followers, [source]))
    for first in [name for name in dict.fromkeys([*reached, *nodes]) if name in behind]:
        came = _paths(followers, followers[first])
        if first in came:
            path = [first]
            while (before := came[path[-1]]) is not None:
                path.append(before)
            return [first, *path[:0:-1]]
    return None


def _paths(followers: dict[str, list[str]], start: list[str]) -> dict[str, str | None]:
    """Where breadth-first search from ``start`` came from, by node."""
    came: dict[str, str | None] = dict.fromkeys(start)
    queue = list(came)
    for name in queue:
        for b in followers[name]:
            if b not in came:
                came[b] = name
                queue.append(b)
    return came


def _settle(tree: Tree, nodes: dict[str, Node], edges: list[tuple[str, str]], source: str, target: str) -> list[str]:
    """Infer every shape, check what depends on it and set the output's; returns what was taken differently than written."""
    notes = []
    given = nodes[source]
    assert isinstance(given, Input)
    tries = [given.shape]
    if given.shape[0] == 1 and len(given.shape) > 1:
        tries = [given.shape[1:]] if len(given.shape) > 3 else [given.shape, given.shape[1:]]
    shapes: dict[str, Shape] = {}
    problem: NetworkError | None = None
    for shape in tries:
        nodes[source] = replace(given, shape=shape)
        kept = {name: node for name, node in nodes.items() if name != target}
        try:
            shapes = Network(kept, tuple(e for e in edges if target not in e), tree.path.stem).shapes()
        except NetworkError as error:
            problem = problem or error
            continue
        if shape != given.shape:
            notes.append(f"the input shape {list(given.shape)} was read without its first axis")
        break
    if not shapes:
        flattened = [name for name, node in nodes.items() if isinstance(node, Flatten)]
        hint = f" (Flatten {', '.join(flattened)} was taken to flatten the whole map)" if flattened else ""
        raise tree.fail(f"{problem}{hint}") from problem
    for name, shape in shapes.items():
        if math.prod(shape) > _MAX_MAP or len(shape) > 3:
            raise tree.fail(
                f"node '{name}' ({type(nodes[name]).__name__}) has a map of {list(shape)}, expected [C, H, W] or fewer axes"
            )
    for name, part in tree.parts.items():
        feeding = [a for a, b in edges if b == name or b == f"{name}.scale"]
        if name == source or not feeding:
            continue
        if part.kind == "Flatten":
            if check_flatten(part, shapes[feeding[0]]):
                notes.append(f"start_dim 1 of Flatten '{name}' was taken to count a batch axis")
        elif name != target:
            check_map(part, shapes[feeding[0]])
    nodes[target] = Output(_output_shape(tree, nodes[target], target, [shapes[a] for a, b in edges if b == target]))
    return notes


def _output_shape(tree: Tree, node: Node, name: str, arriving: list[Shape]) -> Shape:
    assert isinstance(node, Output)
    if not arriving or any(shape != arriving[0] for shape in arriving):
        raise tree.fail(f"node '{name}' (Output) gets {[list(shape) for shape in arriving]}, expected one shape")
    if node.shape and squeezed_shape(node.shape) != squeezed_shape(arriving[0]):
        raise tree.fail(
            f"node '{name}' (Output) states the shape {list(node.shape)}, but {list(arriving[0])} arrives; correct one"
        )
    return arriving[0]
