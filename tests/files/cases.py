"""Random networks with random traces, and what every complaint about a file has in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from spikeloom.core.network import Network
from spikeloom.core.nodes import (
    IF,
    LI,
    LIF,
    Add,
    AvgPool2d,
    ClippedReLU,
    Conv1d,
    Conv2d,
    CubaLIF,
    Flatten,
    Input,
    Leak,
    Linear,
    MaxPool2d,
    Node,
    Output,
    ReLU,
    Shape,
    SumPool2d,
)
from spikeloom.core.trace import Arrival, Levels, Spikes, SpikeTrace
from spikeloom.errors import FileError

#: Names a careless reader trips over: those of its own nodes, of groups of arrays, with separators and without ASCII.
NAMES = st.sampled_from(
    ("output", "input", "conv", "conv.neuron", "conv.input", "conv.flatten", "fc", "fc.flatten", "fc.flatten_", "meta",
     "labels", "packed", "a/b", "/", "..", "a b", "Schicht-ä", "層", "file", "[0]")
) | st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=6)  # fmt: skip
LEAKS = st.sampled_from((Leak(shift=2), Leak(shift=31), Leak(factor=0.9), Leak(factor=0.0)))
RESETS: Any = st.sampled_from(("hard", "soft", "none"))


def complaint(path: Path, read: Callable[[Path], object], kind: type[FileError]) -> str:
    """What ``read`` says about a bad file: one line of the file's own kind of error that names it."""
    with pytest.raises(FileError) as caught:
        read(path)
    text = str(caught.value)
    assert type(caught.value) is kind
    assert len(text.splitlines()) == 1
    assert text.startswith(str(path))
    return text.removeprefix(str(path))


@st.composite
def neurons(draw: st.DrawFn) -> Node | None:
    """Any neuron as a trace tells it, that is without a threshold, or none."""
    match draw(st.integers(0, 6)):
        case 0:
            return LIF(draw(st.none() | LEAKS), None, draw(RESETS))
        case 1:
            return CubaLIF(draw(st.none() | LEAKS), None, None, draw(RESETS))
        case 2:
            return LI(draw(st.none() | LEAKS))
        case 3:
            return ReLU() if draw(st.booleans()) else ClippedReLU(1.0, 4)
        case 4:
            return None
        case _:
            return IF(None, draw(RESETS))


class Builder:
    """A network in the making: nodes in a row, with a way to record at each layer."""

    def __init__(self, draw: st.DrawFn, shape: Shape, encoding: Any) -> None:
        self.draw = draw
        self.rng = np.random.default_rng(draw(st.integers(0, 2**16)))
        self.num_steps, self.num_samples = draw(st.integers(1, 20)), draw(st.integers(1, 3))
        self.names = iter(draw(st.lists(NAMES, min_size=8, max_size=8, unique=True)))
        self.shape, self.last = shape, "the input"
        self.nodes: dict[str, Node] = {self.last: Input(shape, encoding)}
        self.edges: list[tuple[str, str]] = []
        self.signal = encoding
        self.arrivals: dict[str, Arrival] = {}
        self.outputs: dict[str, Spikes] = {}
        self.updates: dict[str, Spikes] = {}

    def add(self, name: str, node: Node, shape: Shape) -> None:
        """Append a node."""
        self.nodes[name] = node
        self.edges.append((self.last, name))
        self.last, self.shape = name, shape

    def weights(self, *shape: int) -> dict[str, Any]:
        """Weights and bias, each there or not."""
        draw, dtype = self.draw, self.draw(st.sampled_from((np.int8, np.float32)))
        weight = self.rng.integers(-3, 4, shape).astype(dtype) if draw(st.booleans()) else None
        bias = self.rng.integers(-3, 4, shape[:1]).astype(dtype) if draw(st.booleans()) else None
        has_bias = bias is not None or draw(st.booleans())
        return dict(has_bias=has_bias, weight=weight, bias=bias, weight_bits=draw(st.sampled_from((1, 8, 16))))

    def layer(self, node: Node, shape: Shape, neuron: Node | None, *, recurrent: bool = False) -> str:
        """Append a layer and its neuron, with what arrived at it and perhaps what left it."""
        draw, name = self.draw, next(self.names)
        steps = draw(st.sampled_from((self.num_steps,) * 3 + (1, 9)))
        self.arrivals[name] = self.arrival((steps, self.num_samples, *self.shape))
        for record in (self.outputs, self.updates):
            if draw(st.sampled_from((False, False, True))):
                record[name] = Spikes.pack(self.rng.random((steps, self.num_samples, *shape)) < 0.4)
        self.add(name, node, shape)
        if recurrent:
            self.edges.append((name, name))
        self.signal = "levels"
        if neuron is not None:
            self.add(f"neuron of {name}", neuron, shape)
            self.signal = "spikes" if isinstance(neuron, IF | LIF | CubaLIF) else "levels"
        return name

    def arrival(self, shape: Shape) -> Arrival:
        """Spikes or levels of any dtype."""
        if self.signal == "spikes":
            return Spikes.pack(self.rng.random(shape) < self.draw(st.sampled_from((0.0, 0.3, 1.0))))
        bits = self.draw(st.integers(1, 15))
        dtype = self.draw(st.sampled_from([np.uint16, np.int16] + [np.uint8] * (bits <= 8)))
        signed = dtype is np.int16 and self.draw(st.booleans())
        values = self.rng.integers(-(2**bits) + 1 if signed else 0, 2**bits, shape).astype(dtype)
        return Levels(values, bits, signed, self.signal == "analog")

    def conv2d(self) -> None:
        """A convolution of any geometry that leaves a map."""
        draw, (C, H, W) = self.draw, self.shape
        groups = draw(st.sampled_from([g for g in (1, 2, 3) if C % g == 0]))
        K = groups * draw(st.integers(1, 2))
        kernel, padding = ((draw(st.integers(1, 2)), draw(st.integers(1, 2))) for _ in range(2))
        stride, dilation = (draw(st.integers(1, 2)), draw(st.integers(1, 2))), (draw(st.integers(1, 2)), 1)
        node = Conv2d(
            C, K, kernel, stride, padding, dilation, groups, **self.weights(K, C // groups, *kernel)
        )  # fmt: skip
        out = tuple(
            (n + 2 * padding[a] - dilation[a] * (kernel[a] - 1) - 1) // stride[a] + 1 for a, n in enumerate((H, W))
        )
        self.layer(node, (K, *out), draw(neurons()), recurrent=draw(st.sampled_from((False, False, True))))

    def conv1d(self) -> None:
        """A convolution along one axis."""
        draw, (C, W) = self.draw, self.shape
        K, kernel, padding, stride = (draw(st.integers(1, 2)) for _ in range(4))
        node = Conv1d(C, K, kernel, stride, padding, 1, 1, **self.weights(K, C, kernel))
        self.layer(node, (K, (W + 2 * padding - kernel) // stride + 1), draw(neurons()))

    def pool(self) -> None:
        """A pool with or without neurons behind it."""
        draw, (C, H, W) = self.draw, self.shape
        kind: Any = draw(st.sampled_from((SumPool2d, AvgPool2d, MaxPool2d)))
        size = (min(2, H), min(2, W))
        spiking = draw(st.sampled_from((None, None, IF(None, "soft"))))
        self.layer(kind(size, size), (C, H // size[0], W // size[1]), spiking)

    def residual(self) -> None:
        """A 1x1 convolution beside which the map passes to a sum."""
        C, before = self.shape[0], self.last
        node = Conv2d(C, C, (1, 1), **self.weights(C, C, 1, 1))
        self.layer(node, self.shape, IF(None))
        self.signal = "levels"
        name = self.layer(Add(), self.shape, IF(None, "soft"))
        if len(self.nodes) > 4:  # the network's input is no layer that a trace can name
            self.edges.append((before, name))

    def linear(self) -> None:
        """A fully connected layer, behind a flatten where that is needed."""
        if len(self.shape) > 1:
            self.add(f"flatten {len(self.nodes)}", Flatten(), (int(np.prod(self.shape)),))
        C, K = self.shape[0], self.draw(st.integers(1, 4))
        recurrent = self.draw(st.booleans())
        self.layer(Linear(C, K, **self.weights(K, C)), (K,), self.draw(neurons()), recurrent=recurrent)

    def finished(self, dt_s: float | None) -> Network:
        """The network with its output."""
        self.add("the output", Output(self.shape), self.shape)
        return Network(self.nodes, tuple(self.edges), "net", dt_s)


@st.composite
def recordings(draw: st.DrawFn) -> tuple[Network, SpikeTrace]:
    """A network of one to five layers of any kind and a trace of everything a trace can hold."""
    encoding = draw(st.sampled_from(("spikes", "levels", "analog")))
    if draw(st.sampled_from((False, False, True))):
        made = Builder(draw, (draw(st.integers(1, 3)), draw(st.integers(2, 6))), encoding)
        kinds = [made.conv1d]
    else:
        made = Builder(draw, (draw(st.integers(1, 3)), draw(st.integers(2, 5)), draw(st.integers(2, 5))), encoding)
        kinds = [made.conv2d, made.conv2d, made.pool, made.residual]
    for kind in draw(st.lists(st.sampled_from(kinds), max_size=3)):
        kind()
    for _ in range(draw(st.integers(0, 2)) or not made.arrivals):
        made.linear()
    dt_s = draw(st.none() | st.floats(1e-6, 1))
    network = made.finished(dt_s)
    classes = [None, made.rng.integers(0, 10, made.num_samples)]
    arrays = {"sample_names": np.array(["ä", "b"]), "file": np.eye(2), "weights/nobody": np.zeros(3, np.complex64)}
    layers = {
        name: {"colour": "red", "neuron": {"v_threshold": 1.5, "leak": {"note": None}}}
        for name in made.arrivals
        if draw(st.booleans())
    }
    for name in layers:  # a leak's own unknown keys need a leak
        neuron = network.layer_neuron(name)
        if neuron is None or getattr(network.nodes[neuron], "leak", None) is None:
            layers[name] = {"neuron": {"v_threshold": [1, 2]}}
    extra = {"meta": {"sample_ids": [3, 1], "more": {"a": [1.5, None]}}, "layers": layers, "arrays": arrays}
    return network, SpikeTrace(
        made.num_steps,
        made.num_samples,
        made.arrivals,
        made.outputs,
        made.updates,
        dt_s,
        draw(st.text(max_size=5)),
        draw(st.sampled_from(classes)),
        draw(st.sampled_from(classes)),
        {key: value for key, value in extra.items() if value and draw(st.booleans())},
    )
