"""Spike traces as ``.npz``, the open door for networks that live elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ValidationError

from spikeloom.core.network import Network
from spikeloom.core.nodes import (
    IF,
    LI,
    LIF,
    POOLS,
    Add,
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
    Pool,
    ReLU,
    Shape,
    Synapse,
    node_out_shape,
)
from spikeloom.core.trace import Arrival, Levels, Spikes, SpikeTrace
from spikeloom.core.widths import SAID, SILENT, open_widths
from spikeloom.core.workload import neuron_rule
from spikeloom.errors import NetworkError, TraceError
from spikeloom.files.archive import Archive, write_archive
from spikeloom.files.schema import first_problem
from spikeloom.files.trace_header import LayerMeta, NeuronMeta, TraceMeta

TRACE_FORMAT, TRACE_VERSION = "spikeloom-trace", 1
#: Array groups of a trace; ``spikes/conv1`` is group ``spikes``, layer ``conv1``.
ARRAY_GROUPS = ("spikes", "packed", "levels", "updates", "updates_packed", "weights", "bias", "out")

_POOLS: dict[str, type[Pool]] = {kind.__name__.lower(): kind for kind in POOLS}


def read_trace(path: str | Path) -> tuple[Network, SpikeTrace]:
    """Read a trace file as a network without thresholds (weights only where the file has them) and its spikes.

    Raises TraceError naming the key for a missing array, a wrong shape, spikes that are not binary, NaN, a truncated
    archive or a version from the future. Unknown keys are kept in ``SpikeTrace.extra``.
    """
    with Archive(path, TraceError) as archive:
        raw = archive.meta(TRACE_FORMAT, TRACE_VERSION)
        meta = _checked_header(path, raw)
        names = [layer.name for layer in meta.layers]
        for k, name in enumerate(names):
            if name in names[:k]:
                raise archive.fail(f"meta.layers[{k}].name", f"'{name}' is used twice, expected distinct names")
        arrivals: dict[str, Arrival] = {}
        outputs: dict[str, Spikes] = {}
        updates: dict[str, Spikes] = {}
        arrays: dict[str, np.ndarray] = {}
        for layer in meta.layers:
            steps = layer.num_steps or meta.num_steps
            lead = (steps, meta.num_samples)
            arrivals[layer.name] = _read_arrival(archive, layer, lead)
            out = _read_spikes(archive, "out", "out_packed", layer.name, lead, layer.out_shape)
            if out is not None:
                outputs[layer.name] = out
            update = _read_spikes(archive, "updates", "updates_packed", layer.name, lead, layer.out_shape)
            if update is not None:
                updates[layer.name] = update
            for group in ("weights", "bias"):
                if f"{group}/{layer.name}" in archive.arrays.files:
                    arrays[f"{group}/{layer.name}"] = archive.read(f"{group}/{layer.name}")
        network = _trace_network(archive, meta, arrays)
        labels, predictions = (_read_classes(archive, key, meta.num_samples) for key in ("labels", "predictions"))
        extra = _extras(archive, meta, names)
    return network, SpikeTrace(
        meta.num_steps,
        meta.num_samples,
        arrivals,
        outputs,
        updates,
        meta.dt_s,
        meta.source,
        labels,
        predictions,
        extra,
        meta.delay,
        meta.network_notes,
    )


def _extras(archive: Archive, meta: TraceMeta, names: list[str]) -> dict[str, Any]:
    known = {f"{group}/{name}" for group in (*ARRAY_GROUPS, "out_packed") for name in names}
    known |= {"meta", "labels", "predictions"}
    extra: dict[str, Any] = {
        "meta": meta.model_extra or {},
        "layers": {layer.name: found for layer in meta.layers if (found := _unknown(layer))},
        "arrays": {key: archive.read(key) for key in archive.arrays.files if key not in known},
    }
    return {key: value for key, value in extra.items() if value}


def _unknown(model: BaseModel) -> dict[str, Any]:
    """The unknown keys of a layer, also those inside ``neuron`` and ``leak``."""
    inner = {key: _unknown(value) for key, value in model if isinstance(value, BaseModel)}
    return {**(model.model_extra or {}), **{key: value for key, value in inner.items() if value}}


def _joined(entry: dict[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """``entry`` with the unknown keys that were read beside its own."""
    both = {
        key: _joined(entry[key], value)
        for key, value in extra.items()
        if isinstance(value, Mapping) and isinstance(entry.get(key), dict)
    }
    return {**extra, **entry, **both}


def _checked_header(path: str | Path, raw: Mapping[str, Any]) -> TraceMeta:
    """The header as a file may have it, read or to be written."""
    try:
        # JSON mode: lists become tuples, but no number becomes another type
        return TraceMeta.model_validate_json(json.dumps(raw))
    except ValidationError as error:
        key, text = first_problem(error)
        raise TraceError(f"{path}: meta.{key}: {text}") from None
    except (RecursionError, TypeError, ValueError) as error:  # only to be written: what JSON does not know
        raise TraceError(f"{path}: meta: {error}, expected plain Python values") from None


def _checked_classes(path: str | Path, key: str, array: np.ndarray, samples: int) -> np.ndarray:
    """Labels or predictions as a file may have them, read or to be written."""
    if array.shape != (samples,) or array.dtype.kind not in "iu":
        raise TraceError(
            f"{path}: {key}: got {array.dtype} of shape {list(array.shape)}, expected integers of shape [{samples}]"
        )
    return array.astype(np.int64)


def _read_classes(archive: Archive, key: str, samples: int) -> np.ndarray | None:
    if key not in archive.arrays.files:
        return None
    return _checked_classes(archive.path, key, archive.read(key), samples)


def _read_spikes(
    archive: Archive, plain: str, packed: str, name: str, lead: tuple[int, int], shape: tuple[int, ...]
) -> Spikes | None:
    """Binary map under ``plain/name`` or ``packed/name``; None when neither is there."""
    have = [f"{group}/{name}" for group in (plain, packed) if f"{group}/{name}" in archive.arrays.files]
    if not have:
        return None
    if len(have) > 1:
        raise archive.fail(have[0], f"stands beside {have[1]}, expected one of the two")
    array = archive.read(have[0])
    steps, samples = lead
    is_packed = have[0].startswith(f"{packed}/")
    expected = (-(-steps // 8) if is_packed else steps, samples, *shape)
    if array.shape != expected:
        raise archive.fail(have[0], f"got shape {list(array.shape)}, expected {list(expected)} (T N map)")
    if array.dtype != np.uint8 and (is_packed or array.dtype != np.bool_):
        raise archive.fail(have[0], f"got dtype {array.dtype}, expected uint8{'' if is_packed else ' or bool'}")
    if not is_packed:
        if array.dtype == np.uint8 and array.max(initial=0) > 1:
            raise archive.fail(
                have[0], f"got a value of {array.max()}, expected 0 and 1; store levels under levels/{name}"
            )
        return Spikes.pack(array)
    unused = expected[0] * 8 - steps
    if unused and (array[-1] >> np.uint8(8 - unused)).any():
        raise archive.fail(have[0], f"has spikes beyond step {steps}, expected zero bits there (little bit order)")
    return Spikes(array, steps)


def _read_arrival(archive: Archive, layer: LayerMeta, lead: tuple[int, int]) -> Arrival:
    if layer.input == "spikes":
        spikes = _read_spikes(archive, "spikes", "packed", layer.name, lead, layer.in_shape)
        if spikes is None:
            raise archive.fail(
                f"spikes/{layer.name}", "missing array (or packed/ of that name), the layer's input is 'spikes'"
            )
        return spikes
    key = f"levels/{layer.name}"
    values = archive.read(key)
    expected = (*lead, *layer.in_shape)
    if values.shape != expected:
        raise archive.fail(key, f"got shape {list(values.shape)}, expected {list(expected)} (T N map)")
    if values.dtype not in (np.uint8, np.uint16, np.int16):
        raise archive.fail(key, f"got dtype {values.dtype}, expected uint8, uint16 or int16")
    lowest, highest = int(values.min(initial=0)), int(values.max(initial=0))
    if lowest < 0 and not layer.signed:
        raise archive.fail(key, f"got a level of {lowest}, expected none below zero; set signed in meta")
    if max(-lowest, highest) >= 2**layer.level_bits:
        raise archive.fail(
            key, f"got levels {lowest}..{highest}, expected magnitudes below 2**level_bits = {2**layer.level_bits}"
        )
    return Levels(values, layer.level_bits, layer.signed, layer.input == "analog")


def _pair(values: tuple[int, ...], fill: int) -> tuple[int, int]:
    return (values[0], values[1]) if len(values) == 2 else (fill, values[0])


def _layer_node(archive: Archive, layer: LayerMeta, arrays: Mapping[str, np.ndarray], where: str) -> Node:
    """The synapse, pool or add node of one layer, weights included."""
    two = layer.kind != "conv1d"
    kernel, stride, dilation = (_pair(v, v[0] if two else 1) for v in (layer.kernel, layer.stride, layer.dilation))
    padding = _pair(layer.padding, layer.padding[0] if two else 0)
    if layer.kind == "add":
        return Add()
    if layer.kind in _POOLS:
        return _POOLS[layer.kind](kernel, stride, padding)
    C, K = layer.in_shape[0], layer.out_shape[0]
    if layer.kind == "linear":
        C = int(np.prod(layer.in_shape))
        if layer.groups != 1:
            raise archive.fail(f"{where}.groups", f"got {layer.groups}, a linear layer has no groups")
    if layer.kind == "conv1d" and (kernel[0] != 1 or padding[0] != 0):
        raise archive.fail(
            f"{where}.kernel",
            f"got kernel {list(kernel)} and padding {list(padding)}, a conv1d layer slides along one axis; "
            "expected kernel [1, S] and padding [0, b]",
        )
    if C % layer.groups or K % layer.groups:
        raise archive.fail(f"{where}.groups", f"got {layer.groups}, expected a divisor of {C} and {K} channels")
    shape: tuple[int, ...] = (K, C // layer.groups)
    shape += {"linear": (), "conv1d": (kernel[1],)}.get(layer.kind, kernel)
    weight = arrays.get(f"weights/{layer.name}")
    if weight is not None and (weight.shape != shape or weight.dtype.kind not in "iuf"):
        raise archive.fail(
            f"weights/{layer.name}", f"got {weight.dtype} {list(weight.shape)}, expected numbers of shape {list(shape)}"
        )
    bias = arrays.get(f"bias/{layer.name}")
    if bias is not None and (bias.shape not in ((K,), tuple(layer.out_shape)) or bias.dtype.kind not in "iuf"):
        raise archive.fail(
            f"bias/{layer.name}",
            f"got {bias.dtype} {list(bias.shape)}, expected numbers of shape [{K}] or {list(layer.out_shape)}",
        )
    rest = (layer.has_bias or bias is not None, layer.weight_bits, weight, bias)
    if layer.kind == "linear":
        return Linear(C, K, *rest)
    if layer.kind == "conv1d":
        return Conv1d(C, K, kernel[1], stride[1], padding[1], dilation[1], layer.groups, *rest)
    return Conv2d(C, K, kernel, stride, padding, dilation, layer.groups, *rest)


def _written(kind: str, shape: Shape) -> tuple[Shape, ...]:
    """The ways a file may write an output shape: also with the extents of 1 that the kind leaves out."""
    if kind == "conv1d":
        return shape, (shape[0], 1, shape[1])
    if kind == "linear":
        return shape, (*shape, 1), (*shape, 1, 1)
    return (shape,)


def _neuron_node(meta: NeuronMeta) -> Node | None:
    leak = None if meta.leak is None else Leak(meta.leak.shift, meta.leak.factor)
    match meta.kind:
        case "if":
            return IF(None, meta.reset, membrane_bits=meta.membrane_bits)
        case "lif":
            return LIF(leak, None, meta.reset, membrane_bits=meta.membrane_bits)
        case "cubalif":
            return CubaLIF(leak, None, None, meta.reset, membrane_bits=meta.membrane_bits)
        case "li":
            return LI(leak, membrane_bits=meta.membrane_bits)
        case "relu":
            return ReLU()
        case _:
            return None


def _trace_network(archive: Archive, meta: TraceMeta, arrays: Mapping[str, np.ndarray]) -> Network:
    """The layers as a graph: an Input where no layer is named, a Flatten where a map becomes a vector."""
    nodes: dict[str, Node] = {}
    edges: list[tuple[str, str]] = []
    out_of: dict[str, tuple[str, tuple[int, ...]]] = {}  # layer -> (last node, out_shape)
    heard: list[tuple[str, str, tuple[int, ...]]] = []  # later layer, who hears it, its in_shape
    names = {layer.name for layer in meta.layers}
    joins = {layer.name: layer.joins for layer in meta.layers if layer.joins}
    levels_behind = {layer.inputs[0] for layer in meta.layers if layer.input != "spikes" and len(layer.inputs) == 1}

    def beside(name: str) -> str:
        """A name for a node that is no layer."""
        while name in names:
            name += "_"
        return name

    def need_fit(where: str, source: str, in_shape: tuple[int, ...]) -> None:
        shape = out_of[source][1]
        if shape != in_shape and (len(in_shape) > 1 or int(np.prod(shape)) != in_shape[0]):
            raise archive.fail(where, f"'{source}' puts out {list(shape)}, this layer takes in {list(in_shape)}")

    def neurons_of(layer: LayerMeta, name: str) -> str:
        """The layer that has the neurons which ``layer`` hears where it names ``name``: sums of synapses are no spikes."""
        owner = joins.get(name, name)
        sums = owner in out_of and layer.input == "spikes" and isinstance(nodes.get(name), Synapse)
        return owner if not layer.recurrent and (owner in layer.inputs or sums) else name

    for k, layer in enumerate(meta.layers):
        where = f"meta.layers[{k}]"
        node = _layer_node(archive, layer, arrays, where)
        in_shape = layer.in_shape
        if isinstance(node, Conv1d) and len(in_shape) == 3:  # [C, 1, W] is [C, W]
            if in_shape[1] != 1:
                raise archive.fail(
                    f"{where}.in_shape", f"got {list(in_shape)}, expected [C, W] or [C, 1, W] for conv1d"
                )
            in_shape = (in_shape[0], in_shape[2])
        if isinstance(node, Linear) and len(in_shape) > 1:
            in_shape = (node.in_features,)
        try:
            out_shape = node_out_shape(layer.name, node, in_shape)
        except NetworkError as error:
            raise archive.fail(where, str(error)) from None
        if layer.out_shape not in _written(layer.kind, out_shape):
            raise archive.fail(
                f"{where}.out_shape", f"got {list(layer.out_shape)}, expected {list(out_shape)} from the geometry"
            )
        sources = []
        for name in dict.fromkeys(neurons_of(layer, name) for name in layer.inputs):
            if name == layer.name:
                sources.append(name)
                continue
            if name not in out_of and name in names and layer.recurrent:
                heard.append((name, layer.name, in_shape))
                continue
            if name not in out_of:
                raise archive.fail(
                    f"{where}.inputs", f"names '{name}', expected one of the layers before: {list(out_of)}"
                )
            source, shape = out_of[name]
            need_fit(f"{where}.inputs", name, in_shape)
            if shape != in_shape:
                flatten = beside(f"{layer.name}.flatten")
                nodes[flatten] = Flatten()
                edges.append((source, flatten))
                source = flatten
            sources.append(source)
        hears = any(listener == layer.name for _, listener, _ in heard)
        if not hears and not [source for source in sources if source != layer.name]:
            entry = beside(f"{layer.name}.input")
            nodes[entry] = Input(in_shape, layer.input)
            sources.insert(0, entry)
        nodes[layer.name] = node
        edges += [(source, layer.name) for source in dict.fromkeys(sources)]
        last = layer.name
        neuron = _neuron_node(layer.neuron)
        lost = layer.name in levels_behind and not isinstance(neuron, ReLU)
        if isinstance(node, POOLS) and ("neuron" not in layer.model_fields_set or lost):
            neuron = None  # a pool has neurons only where the file says so, and none that spike where levels leave it
        if neuron is not None:
            last = beside(f"{layer.name}.neuron")
            nodes[last] = neuron
            edges.append((layer.name, last))
        out_of[layer.name] = (last, out_shape)
    for source, listener, in_shape in heard:  # a step late
        last, shape = out_of[source]
        need_fit(f"layer '{listener}'.inputs", source, in_shape)
        way: dict[str, Node] = {beside(f"{listener}.delay.{source}"): Delay()}
        way |= {beside(f"{listener}.flatten.{source}"): Flatten()} if shape != in_shape else {}
        nodes |= way
        edges += zip((last, *way), (*way, listener), strict=True)
    for k, layer in enumerate(meta.layers):
        if not layer.joins:
            continue
        last, shape = out_of[layer.name]
        later = next((other for other in meta.layers[k + 1 :] if other.name == layer.joins), None)
        if later is None or out_of[later.name][0] == later.name or out_of[later.name][1] != shape or last != layer.name:
            raise archive.fail(
                f"meta.layers[{k}].joins",
                f"got '{layer.joins}', expected a later layer with neurons and a map {list(shape)}, and no neurons of its own",
            )
        neurons = out_of[later.name][0]
        edges.insert(edges.index((later.name, neurons)), (layer.name, neurons))
    last, out_shape = out_of[meta.layers[-1].name]
    output = beside("output")
    nodes[output] = Output(out_shape)
    edges.append((last, output))
    silent = [
        x.name for x in meta.layers if isinstance(nodes[x.name], Synapse) and "weight_bits" not in x.model_fields_set
    ]
    told = {SAID: str((meta.model_extra or {}).get(SAID, "")), **({SILENT: silent} if silent else {})}
    network = Network(nodes, tuple(edges), archive.path.stem, meta.dt_s, told)
    alone = [layer.name for layer in meta.layers if layer.recurrent and not network.recurs(layer.name)]
    return replace(network, edges=(*network.edges, *((name, name) for name in alone)))


def write_trace(path: str | Path, network: Network, trace: SpikeTrace, *, weights: bool = False) -> None:
    """Write a trace; weights and biases of the network go along on request.

    Raises TraceError for a layer without arrival, and for a header, labels or predictions that `read_trace` would refuse; FileError.
    """
    shapes = network.shapes()
    extra = trace.extra
    arrays: dict[str, np.ndarray] = dict(extra.get("arrays", {}))
    layers = []
    for name in network.layers():
        try:
            arrival = trace.arrival(name)
        except TraceError as error:
            raise TraceError(f"{path}: {error}") from None
        entry = _layer_entry(network, trace, name, arrival, shapes[name])
        layers.append(_joined(entry, extra.get("layers", {}).get(name, {})))
        if isinstance(arrival, Spikes):
            arrays[f"packed/{name}"] = arrival.packed
        else:
            arrays[f"levels/{name}"] = arrival.values
        if name in trace.outputs:
            arrays[f"out/{name}"] = trace.outputs[name].reshape(shapes[name]).unpack()
        if name in trace.updates:
            arrays[f"updates_packed/{name}"] = trace.updates[name].reshape(shapes[name]).packed
        node = network.nodes[name]
        if weights and isinstance(node, Conv1d | Conv2d | Linear):
            held = {f"weights/{name}": node.weight, f"bias/{name}": node.bias if node.has_bias else None}
            arrays |= {key: array for key, array in held.items() if array is not None}
    meta = {
        "format": TRACE_FORMAT,
        "version": TRACE_VERSION,
        "num_steps": trace.num_steps,
        "num_samples": trace.num_samples,
        "dt_s": trace.dt_s,
        "source": trace.source,
        **({"delay": trace.delay} if trace.delay != 0 else {}),
        **({"network_notes": list(trace.notes)} if trace.notes else {}),
        "layers": layers,
        **extra.get("meta", {}),
    }
    for key, array in (("labels", trace.labels), ("predictions", trace.predictions)):
        if array is not None:
            arrays[key] = _checked_classes(path, key, np.asarray(array), trace.num_samples)
    _checked_header(path, meta)
    write_archive(path, meta, arrays)


def _layer_entry(
    network: Network, trace: SpikeTrace, name: str, arrival: Arrival, out_shape: tuple[int, ...]
) -> dict[str, Any]:
    node = network.nodes[name]
    rule = neuron_rule(network, name)
    leak, bits = rule.leak, rule.membrane_bits
    entry: dict[str, Any] = {"name": name, "kind": type(node).__name__.lower()}
    entry |= {"in_shape": list(arrival.shape), "out_shape": list(out_shape)}
    for field in ("kernel", "stride", "padding", "dilation"):
        value = getattr(node, field, 0 if field == "padding" else 1)
        one, two = (0, value) if field == "padding" else (1, value)
        entry[field] = (
            list(value) if isinstance(value, tuple) else [one, two] if isinstance(node, Conv1d) else [value, value]
        )
    # the header's default is no statement: what a trace does not call floats would else read as weights of 8 bits
    silent = (
        getattr(node, "weight_bits", 0) == 8
        and SAID not in trace.extra.get("meta", {})
        and name in open_widths(network)
    )
    return entry | {
        "groups": getattr(node, "groups", 1),
        **({} if silent else {"weight_bits": getattr(node, "weight_bits", 8)}),
        "has_bias": getattr(node, "has_bias", False),
        "recurrent": network.recurs(name),
        "num_steps": None if arrival.num_steps == trace.num_steps else arrival.num_steps,
        "neuron": {
            "kind": rule.kind,
            "leak": None
            if leak is None
            else {"shift": leak.shift}
            if leak.shift is not None
            else {"factor": float(np.mean(leak.kept))},  # the format knows one; machines bill a leak, not its size
            "reset": rule.reset,
            **({} if bits is None else {"membrane_bits": bits}),
        },
        "input": "spikes" if isinstance(arrival, Spikes) else "analog" if arrival.analog else "levels",
        "level_bits": 1 if isinstance(arrival, Spikes) else arrival.bits,
        "signed": not isinstance(arrival, Spikes) and arrival.signed,
        "inputs": list(network.layer_inputs(name)),
        **({"joins": network.joins(name)} if network.joins(name) else {}),
    }
