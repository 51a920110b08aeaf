"""A `Network` as a NIR graph: every neuron with a value of its own, every field that any reader asks for.

Inverse of `spikeloom.files.nir_nodes` at gain 1: ``tau = dt / (1 - kept)``, ``r = tau / dt``, for CubaLIF also ``w_in = tau_syn / dt``.
What NIR has no word for but does not change the graph (reset, strictness, start, shift of a leak, bit widths, encoding, time step) goes
to the nodes' metadata under "spikeloom", which other readers pass over; what would change it is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import nir
import numpy as np

from spikeloom.core.network import Network
from spikeloom.core.nodes import (
    IF,
    LI,
    LIF,
    Add,
    AvgPool2d,
    Conv1d,
    Conv2d,
    CubaLIF,
    Delay,
    Flatten,
    Input,
    Leak,
    Linear,
    Node,
    Output,
    Scale,
    Shape,
    SumPool2d,
    Value,
)
from spikeloom.errors import NetworkError, NetworkFileError
from spikeloom.files.atomic import replacing
from spikeloom.files.nir_tree import STATED


def write_nir(
    path: str | Path,
    network: Network,
    *,
    dt_s: float | None = None,
    if_gain: Literal["per_step", "per_second"] = "per_step",
) -> None:
    """Write a network as a NIR file, whole or not at all.

    Args:
        path: the file.
        network: with weights and floating-point membranes; an Add is written as several edges into the nodes behind it.
        dt_s: time step in seconds, ``network.dt_s`` where it is None; needed as soon as a node leaks or delays.
        if_gain: r of an IF: 1 ("per_step", what Norse, sinabs and snnTorch expect) or 1/dt ("per_second", SpikingJelly).

    Raises:
        NetworkFileError: naming the node and its type: something that NIR cannot say, or that does not fit the nodes before it.
        FileError: the file cannot be written.
    """
    dt_s = network.dt_s if dt_s is None else dt_s
    if dt_s is not None and not (math.isfinite(dt_s) and dt_s > 0):
        raise NetworkFileError(f"{path}: dt_s got {dt_s}, expected a positive number of seconds")
    if if_gain not in ("per_step", "per_second"):
        raise NetworkFileError(f"{path}: if_gain got {if_gain!r}, expected 'per_step' or 'per_second'")
    try:
        shapes = network.shapes()
    except NetworkError as error:
        raise NetworkFileError(f"{path}: {error}") from None
    kept, edges = _without_adds(path, network)
    nodes = {}
    for name, node in kept.items():
        where = f"{path}: node '{name}' ({type(node).__name__})"
        if not name or "/" in name or "\0" in name or name == ".":
            raise NetworkFileError(f"{where}: HDF5 cannot hold this name; rename it")
        arriving = next((shapes[s] for s in network.inputs_of(name)), shapes[name])
        nodes[name] = _Writer(where, dt_s, if_gain, arriving).node(node)
    for kind in (nir.Input, nir.Output):
        found = [name for name, node in nodes.items() if isinstance(node, kind)]
        if len(found) != 1:
            raise NetworkFileError(f"{path}: the network has {len(found)} {kind.__name__} nodes {found}, expected one")
    stated = {
        "name": network.name,
        "dt_s": dt_s,
        "metadata": {key: value for key, value in network.metadata.items() if key != "nir"},
    }
    # nir's own check takes every kernel for a square one and every convolution for ungrouped, hence none here
    graph = nir.NIRGraph(nodes, edges, metadata={STATED: json.dumps(stated)}, type_check=False)
    with replacing(path) as temporary:
        nir.write(temporary, graph)


def _without_adds(path: str | Path, network: Network) -> tuple[dict[str, Node], list[tuple[str, str]]]:
    """Nodes and edges with every Add replaced by edges from what it sums to what it feeds."""
    edges = list(network.edges)
    adds = [name for name, node in network.nodes.items() if isinstance(node, Add)]
    for name in adds:
        before = [a for a, b in edges if b == name]
        behind = [b for a, b in edges if a == name]
        edges = [edge for edge in edges if name not in edge] + [(a, b) for a in before for b in behind]
    for a, b in edges:
        if edges.count((a, b)) > 1:
            raise NetworkFileError(
                f"{path}: two edges lead from '{a}' to '{b}', which NIR cannot say; scale the weights instead"
            )
        if a == b:
            raise NetworkFileError(f"{path}: an edge leads from '{a}' to itself without a delay; put a Delay between")
    return {name: node for name, node in network.nodes.items() if name not in adds}, edges


class _Writer:
    """Writes one node, at which maps of shape ``arriving`` arrive."""

    def __init__(self, where: str, dt_s: float | None, if_gain: str, arriving: Shape) -> None:
        self.where, self.dt_s, self.if_gain, self.arriving = where, dt_s, if_gain, arriving

    def fail(self, text: str) -> NetworkFileError:
        return NetworkFileError(f"{self.where}: {text}")

    def node(self, node: Node) -> nir.NIRNode:
        match node:
            case Input():
                return nir.Input(np.array(node.shape), metadata=_metadata({"encoding": node.encoding}))
            case Output():
                return nir.Output(np.array(node.shape))
            case Linear() | Conv1d() | Conv2d():
                return self.synapse(node)
            case SumPool2d() | AvgPool2d():
                sizes = [np.array(size) for size in (node.kernel, node.stride, node.padding)]
                return (nir.SumPool2d if isinstance(node, SumPool2d) else nir.AvgPool2d)(*sizes)
            case Scale():
                return nir.Scale(self.full(node.scale))
            case Flatten():
                return nir.Flatten({"input": np.array(self.arriving)}, 0, -1)
            case Delay():
                seconds = node.steps * self.step() if node.steps else 0.0
                return nir.Delay(self.full(seconds))
            case IF() | LIF() | CubaLIF():
                return self.firing(node)
            case LI():
                return self.integrator(node)
        raise self.fail("NIR has no such node; fold or replace it first")

    def step(self) -> float:
        if self.dt_s is None:
            raise self.fail("NIR states times in seconds and the network no time step; give one: dt_s")
        return self.dt_s

    def full(self, value: Value) -> np.ndarray:
        """One value for each neuron of the map."""
        array = np.asarray(value)
        if array.dtype.kind != "f":
            array = array.astype(np.float64)
        if not np.isfinite(array).all():
            raise self.fail("holds NaN or infinity, expected finite numbers")
        return np.ascontiguousarray(np.broadcast_to(array, self.arriving))

    def synapse(self, node: Linear | Conv1d | Conv2d) -> nir.NIRNode:
        weight, bias = node.weight, node.bias if node.has_bias else None
        if weight is None or (node.has_bias and bias is None):
            raise self.fail("has no weights; train the network or read them first")
        for array in (weight, bias):
            if array is not None and (array.dtype.kind != "f" or not np.isfinite(array).all()):
                raise self.fail(
                    f"holds {array.dtype} weights, expected finite floating-point ones; write the network before quantising it"
                )
        if bias is not None and bias.ndim > 1:
            raise self.fail(f"has a bias of shape {list(bias.shape)}, NIR has one for each output channel")
        stated: dict[str, Any] = {} if node.weight_bits == 8 else {"weight_bits": node.weight_bits}
        stated |= {} if node.bias_bits is None else {"bias_bits": node.bias_bits}
        stated |= {"has_bias": True} if node.has_bias else {}
        metadata = _metadata(stated)
        if isinstance(node, Linear):
            if bias is None:
                return nir.Linear(weight, metadata=metadata)
            return nir.Affine(weight, bias, metadata=metadata)
        bias = np.zeros(node.out_channels, weight.dtype) if bias is None else bias
        rest = {"groups": node.groups, "bias": bias, "metadata": metadata}
        if isinstance(node, Conv1d):
            return nir.Conv1d(self.arriving[1], weight, node.stride, node.padding, node.dilation, **rest)
        return nir.Conv2d(self.arriving[1:], weight, node.stride, node.padding, node.dilation, **rest)

    def kept(self, leak: Leak | None) -> np.ndarray:
        """Fraction of a membrane that a step keeps, for every neuron, float64."""
        if leak is None:
            raise self.fail("does not state its leak; set one")
        kept = self.full(leak.kept).astype(np.float64)
        if (kept >= 1).any():
            raise self.fail(
                "has neurons that do not leak, whose time constant would be infinite; use an IF, or an LI without leak"
            )
        return kept

    def firing(self, node: IF | LIF | CubaLIF) -> nir.NIRNode:
        if node.membrane_bits is not None:
            raise self.fail("has integer membranes, which NIR cannot say; write the network before quantising it")
        if node.late_reset or node.signed or node.max_level != 1:
            raise self.fail("has late resets, signed or graded spikes, which NIR cannot say")
        if node.v_threshold is None:
            raise self.fail("has no threshold; set one")
        stated: dict[str, Any] = {"reset": node.reset, "strict": node.strict, "v_init": node.v_init}
        common = {"v_threshold": self.full(node.v_threshold), "v_reset": self.full(node.v_reset)}
        if isinstance(node, IF):
            r = 1.0 if self.if_gain == "per_step" else 1 / self.step()
            return nir.IF(r=self.full(r), **common, metadata=_metadata(stated))
        stated |= {"leak": node.leak}
        tau, ones = self.step() / (1 - self.kept(node.leak)), self.full(1.0)
        common |= {"r": tau / self.step(), "v_leak": 0 * ones}
        if isinstance(node, LIF):
            return nir.LIF(tau=tau, **common, metadata=_metadata(stated))
        tau_syn = self.step() / (1 - self.kept(node.syn_leak))
        stated |= {"syn_leak": node.syn_leak}
        return nir.CubaLIF(
            tau_syn=tau_syn, tau_mem=tau, w_in=tau_syn / self.step(), **common, metadata=_metadata(stated)
        )

    def integrator(self, node: LI) -> nir.NIRNode:
        if node.membrane_bits is not None:
            raise self.fail("has integer membranes, which NIR cannot say; write the network before quantising it")
        if node.leak is None:
            r = 1.0 if self.if_gain == "per_step" else 1 / self.step()
            return nir.I(self.full(r))
        tau = self.step() / (1 - self.kept(node.leak))
        return nir.LI(tau, tau / self.step(), np.zeros(self.arriving), metadata=_metadata({"leak": node.leak}))


def _metadata(stated: Mapping[str, Any]) -> dict[str, Any]:
    """NIR metadata that states these things to our reader: a JSON object, and arrays beside it."""
    plain, arrays = {}, {}
    for key, value in stated.items():
        if isinstance(value, Leak):
            if isinstance(value.factor, np.ndarray):
                value = value.factor
            else:
                value = {"shift": value.shift} if value.shift is not None else {"factor": value.factor}
        if isinstance(value, np.ndarray):
            arrays[f"{STATED}.{key}"] = np.atleast_1d(value)
        else:
            plain[key] = value
    return {STATED: json.dumps(plain), **arrays} if plain or arrays else {}
