"""NIR files made by hand, field by field as exporters write them, and random networks that NIR can say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from hypothesis import strategies as st

from spikeloom.core.network import Network, chain
from spikeloom.core.nodes import (
    IF,
    LI,
    LIF,
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
    window_out,
)

DT_S = 1e-3
Fields = Mapping[str, Any]


def write_raw(
    path: Path, nodes: Mapping[str, Fields], edges: list[tuple[str, str]], version: str = "1.0.4", **more: Fields
) -> Path:
    """A NIR file with exactly these fields; a field that is None becomes an empty dataset. more: groups beside the nodes."""
    with h5py.File(path, "w") as file:
        file["version"] = version
        _graph(file.create_group("node"), nodes, edges)
        for key, fields in more.items():
            _fill(file["node"].create_group(key), fields)
    return path


def _graph(group: h5py.Group, nodes: Mapping[str, Fields], edges: list[tuple[str, str]]) -> None:
    group["type"] = "NIRGraph"
    group["edges"] = np.array(edges, h5py.string_dtype()) if edges else np.zeros((0,))
    inside = group.create_group("nodes")
    for name, fields in nodes.items():
        node = inside.create_group(name)
        if fields["type"] == "NIRGraph":
            _graph(node, fields["nodes"], fields["edges"])
        else:
            _fill(node, fields)


def _fill(group: h5py.Group, fields: Fields) -> None:
    for key, value in fields.items():
        if isinstance(value, Mapping):
            _fill(group.create_group(key), value)
        elif value is None:
            group[key] = h5py.Empty("f4")
        else:
            group[key] = value


def raw_chain(path: Path, *nodes: Fields, shape: Any = (2,), **more: Fields) -> Path:
    """Input, the nodes "0", "1", ... in a row, and an Output that states no shape."""
    named = {"input": {"type": "Input", "shape": np.array(shape)}}
    named |= {str(i): node for i, node in enumerate(nodes)}
    named |= {"output": {"type": "Output"}}
    names = list(named)
    return write_raw(path, named, list(zip(names, names[1:], strict=False)), **more)


def lif(**changes: Any) -> dict[str, Any]:
    """A LIF of nir 1.0.8 with scalars; None drops a field."""
    fields = {"type": "LIF", "tau": 0.004, "r": 4.0, "v_leak": 0.0, "v_threshold": 1.0, "v_reset": 0.0} | changes
    return {key: value for key, value in fields.items() if value is not None}


def cuba(**changes: Any) -> dict[str, Any]:
    """A CubaLIF with gain 1 in both halves at 1 ms."""
    return lif(type="CubaLIF", tau=None, tau_mem=0.004, tau_syn=0.002, w_in=2.0) | changes


def conv2d(**changes: Any) -> dict[str, Any]:
    """A 3x3 convolution 2 -> 3 as sinabs and snnTorch write it: without input shape."""
    weight = np.arange(54, dtype=np.float32).reshape(3, 2, 3, 3) / 54
    fields = {
        "type": "Conv2d", "input_shape": None, "weight": weight, "stride": (1, 1), "padding": (1, 1), "dilation": (1, 1),
        "groups": 1, "bias": np.zeros(3, np.float32),
    }  # fmt: skip
    return fields | changes


def affine(weight: Any, bias: Any = None) -> dict[str, Any]:
    """An Affine, or a Linear without bias."""
    found = {"type": "Linear" if bias is None else "Affine", "weight": np.asarray(weight, np.float32)}
    return found if bias is None else {**found, "bias": np.asarray(bias, np.float32)}


def recurrent(loop: list[tuple[str, str]], **cell: Fields) -> dict[str, Fields]:
    """Input -> cell -> Output for `write_raw`, with the edges ``loop`` within the cell."""
    inside = {"input": {"type": "Input", "shape": [2]}, **cell, "output": {"type": "Output", "shape": [2]}}
    return {
        "input": {"type": "Input", "shape": [2]},
        "rnn": {"type": "NIRGraph", "nodes": inside, "edges": [("input", "lif"), *loop, ("lif", "output")]},
        "output": {"type": "Output", "shape": [2]},
    }


def nodes_equal(a: Node, b: Node, shape: Shape) -> bool:
    """Same type and fields, arrays compared as they lie on the map."""
    return type(a) is type(b) and all(_same(getattr(a, key), getattr(b, key), shape) for key in vars(a))


def _same(a: Any, b: Any, shape: Shape) -> bool:
    if isinstance(a, Leak) and isinstance(b, Leak):
        return a.shift == b.shift and _same(a.kept, b.kept, shape)
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        if a is None or b is None:
            return False
        if np.shape(a) != np.shape(b):
            a, b = np.broadcast_to(a, shape), np.broadcast_to(b, shape)
        return np.array_equal(a, b)
    return bool(a == b)


class Maker:
    """Draws a feed-forward network node by node."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.rng = np.random.default_rng(draw(st.integers(0, 2**16)))
        C, H, W = (draw(st.integers(1, 4)) for _ in range(3))
        self.shape: Shape = draw(st.sampled_from(((C, H + 2, W + 2), (C, H + 3, W + 1), (C, W + 3), (C,))))
        self.nodes: dict[str, Node] = {"in": Input(self.shape, draw(st.sampled_from(("spikes", "levels", "analog"))))}

    def weights(self, *shape: int) -> dict[str, Any]:
        """Weights of either precision, with or without a bias."""
        dtype = self.draw(st.sampled_from((np.float32, np.float64)))
        found: dict[str, Any] = {"weight": self.rng.normal(size=shape).astype(dtype)}
        if self.draw(st.booleans()):
            found |= {
                "has_bias": True,
                "bias": self.rng.normal(size=shape[0]).astype(dtype) * self.draw(st.integers(0, 1)),
            }
        return found | self.draw(st.sampled_from(({}, {"weight_bits": 4}, {"weight_bits": 16, "bias_bits": 12})))

    def value(self, low: float, high: float) -> Value:
        """One for all, one for each channel or one for each neuron."""
        which = self.draw(st.integers(0, 2))
        if which == 0:
            return float(self.rng.uniform(low, high))
        shape = (self.shape[0],) + (1,) * (len(self.shape) - 1) if which == 1 else self.shape
        dtype = self.draw(st.sampled_from((np.float32, np.float64)))
        return self.rng.uniform(low, high, shape).astype(dtype)

    def leak(self) -> Leak:
        """A leak of either kind."""
        if self.draw(st.booleans()):
            return Leak(shift=self.draw(st.integers(1, 12)))
        return Leak(factor=self.value(0.0, 0.999))

    def neuron(self) -> Node:
        """Any neuron NIR has."""
        draw = self.draw
        if draw(st.integers(0, 3)) == 0:
            return LI(self.leak() if draw(st.booleans()) else None)
        firing: dict[str, Any] = {
            "v_threshold": self.value(0.1, 3.0), "v_reset": self.value(-1.0, 0.05) if draw(st.booleans()) else 0.0,
            "reset": draw(st.sampled_from(("hard", "soft", "none"))), "strict": draw(st.booleans()),
            "v_init": self.value(-0.5, 0.5) if draw(st.booleans()) else 0.0,
        }  # fmt: skip
        match draw(st.integers(0, 2)):
            case 0:
                return IF(**firing)
            case 1:
                return LIF(self.leak(), **firing)
        return CubaLIF(self.leak(), self.leak(), **firing)

    def layer(self) -> tuple[Node, Shape]:
        """Anything else NIR has, and the map behind it."""
        draw, shape = self.draw, self.shape
        kind = draw(st.sampled_from(("scale", "delay", "layer", "layer", "flatten")))
        if kind == "scale":
            return Scale(np.atleast_1d(self.value(0.5, 2.0))), shape
        if kind == "delay":
            return Delay(draw(st.integers(0, 5))), shape
        if kind == "flatten":
            return Flatten(), (int(np.prod(shape)),)
        if len(shape) == 1:
            K = draw(st.integers(1, 4))
            return Linear(shape[0], K, **self.weights(K, shape[0])), (K,)
        pad, step, dilation = draw(st.integers(0, 1)), draw(st.integers(1, 2)), draw(st.integers(1, 2))
        groups = draw(st.sampled_from([g for g in (1, 2) if shape[0] % g == 0]))
        K = groups * draw(st.integers(1, 2))
        if len(shape) == 2:
            out = window_out(shape[1], 2, step, 1, dilation)
            return Conv1d(shape[0], K, 2, step, 1, dilation, groups, **self.weights(K, shape[0] // groups, 2)), (K, out)
        pool: Any = draw(st.sampled_from((None, SumPool2d, AvgPool2d)))
        if pool is not None:
            return pool((2, 1), (step, 1), (pad, 0)), (shape[0], window_out(shape[1], 2, step, pad), shape[2])
        kernel = (2, draw(st.integers(1, 2)))
        node = Conv2d(
            shape[0],
            K,
            kernel,
            (step, 1),
            (1, pad),
            (dilation, 1),
            groups,
            **self.weights(K, shape[0] // groups, *kernel),
        )
        return node, (K, window_out(shape[1], 2, step, 1, dilation), window_out(shape[2], kernel[1], 1, pad))


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """A row of up to eight nodes, all of which NIR can say."""
    maker = Maker(draw)
    for number in range(draw(st.integers(1, 8))):
        if draw(st.booleans()):
            maker.nodes[f"n{number}"] = maker.neuron()
        elif min(maker.shape[1:], default=2) >= 2:
            maker.nodes[f"n{number}"], maker.shape = maker.layer()
    maker.nodes["out"] = Output(maker.shape)
    return chain("drawn", maker.nodes, dt_s=DT_S, metadata={"seed": 3, "data": "none"})
