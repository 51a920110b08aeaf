"""Hypothesis strategies for tiny layers, for tiny networks with their inputs, and for every knob of the machine."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from spikeloom.core.network import Network
from spikeloom.core.nodes import (
    IF,
    LI,
    LIF,
    Add,
    AvgPool2d,
    CubaLIF,
    Delay,
    Flatten,
    Leak,
    MaxPool2d,
    Node,
    Output,
    Shape,
    SumPool2d,
)

from .sketch import Sketch
from .spikex import Knobs, LayerCase, Levels

_MOSTLY_NONE = (None,) * 8


def _random_levels(rng: random.Random, shape: tuple[int, int, int, int], density: float, bits: int) -> Levels:
    """Magnitudes of `bits` bits at the given density; density 0 and 1 are exact."""
    a, b, c, d = shape
    return [
        [
            [[rng.randint(1, 2**bits - 1) if rng.random() < density else 0 for _ in range(d)] for _ in range(c)]
            for _ in range(b)
        ]
        for _ in range(a)
    ]


def _random_signs(rng: random.Random, levels: Levels) -> Levels:
    """Give each entry a random sign."""
    return [[[[rng.choice((-1, 1)) * v for v in row] for row in plane] for plane in step] for step in levels]


def _silence(levels: Levels, channels: set[int], steps: set[int]) -> Levels:
    """Clear whole channels and whole time steps."""
    return [
        [[[0 if t in steps or c in channels else v for v in row] for row in plane] for c, plane in enumerate(step)]
        for t, step in enumerate(levels)
    ]


@st.composite
def layer_cases(
    draw: st.DrawFn, *, binary: bool = False, grouped: bool = True, constant: bool = True, max_steps: int = 16
) -> LayerCase:
    """One tiny layer and one sample of it.

    `binary` draws 0/1 spikes only, `grouped=False` only groups = 1, `constant=False` no constant analog input.
    """
    groups = draw(st.sampled_from((1, 1, 2, 3))) if grouped else 1
    c_each = draw(st.sampled_from((1, 2, 3, 4, 6)))
    k_each = draw(st.integers(1, 5))
    kernel = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    dilation = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    padding = (draw(st.sampled_from((0, 0, 1, 2))), draw(st.sampled_from((0, 0, 1, 2))))
    stride = (draw(st.sampled_from((1, 1, 2, 3))), draw(st.sampled_from((1, 1, 2, 3))))
    h, w = (max(1, (kernel[d] - 1) * dilation[d] + 1 - 2 * padding[d] + draw(st.integers(0, 4))) for d in range(2))
    p, q = ((n + 2 * padding[d] - dilation[d] * (kernel[d] - 1) - 1) // stride[d] + 1 for d, n in enumerate((h, w)))
    constant_steps = draw(st.sampled_from((*_MOSTLY_NONE, 1, 3, 12))) if constant and not binary else None
    if constant_steps is None:
        steps = draw(st.integers(1, max_steps))
        out_steps = steps
    else:
        steps, out_steps = 1, constant_steps
    bits = 1 if binary else draw(st.integers(1, 4))
    channels = groups * c_each
    out_channels = groups * k_each

    density = draw(st.sampled_from((0.0, 1.0, 0.04, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.8)))
    rng = random.Random(draw(st.integers(0, 2**16)))
    levels = _random_levels(rng, (steps, channels, h, w), density, bits)
    signed = not binary and draw(st.booleans())
    if signed:
        levels = _random_signs(rng, levels)
    if density not in (0.0, 1.0):
        levels = _silence(
            levels,
            draw(st.sets(st.integers(0, channels - 1), max_size=channels // 3)),
            draw(st.sets(st.integers(0, steps - 1), max_size=steps // 2)),
        )

    weights = None
    keep = draw(st.sampled_from((None, 1.0, 0.7, 0.4, 0.2, 0.1, 0.02, 0.0)))
    if keep is not None:
        weights = _random_signs(rng, _random_levels(rng, (out_channels, c_each, *kernel), keep, 7))
    out = None
    out_density = draw(st.sampled_from((None, 0.0, 0.05, 0.3, 1.0)))
    if out_density is not None:
        out = _random_levels(rng, (out_steps, out_channels, p, q), out_density, 1)
    return LayerCase(
        levels=levels,
        out_channels=out_channels,
        kernel=kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        level_bits=bits,
        signed=signed,
        weight_bits=draw(st.sampled_from((8, 1, 3, 16))),
        reset=draw(st.sampled_from(("hard", "hard", "soft", "none"))),
        has_bias=draw(st.sampled_from((False,) * 7 + (True,))),
        weights=weights,
        out=out,
        constant_steps=constant_steps,
    )


@st.composite
def branch_cases(draw: st.DrawFn, owner: LayerCase) -> LayerCase:
    """A layer without neurons whose sums are as many as those of ``owner``: its own kernel, stride, padding, dilation, groups, input."""
    p, q = extents_of(owner)
    steps = len(owner.levels) if owner.constant_steps is None else owner.constant_steps
    groups = draw(st.sampled_from([g for g in (1, 1, 2, 3, owner.out_channels) if owner.out_channels % g == 0]))
    c_each = draw(st.sampled_from((1, 2, 3)))
    kernel, dilation, stride, padding, size = [], [], [], [], []
    for extent in (p, q):
        kernel.append(draw(st.integers(1, 3)))
        dilation.append(draw(st.integers(1, 2)))
        stride.append(draw(st.sampled_from((1, 1, 2, 3))))
        spare = draw(st.integers(0, stride[-1] - 1))  # rows behind the last window that no kernel position reads
        reach = (extent - 1) * stride[-1] + dilation[-1] * (kernel[-1] - 1) + 1 + spare
        padding.append(draw(st.sampled_from([pad for pad in (0, 0, 1, 2) if reach - 2 * pad >= 1])))
        size.append(reach - 2 * padding[-1])
    constant = draw(st.sampled_from((False, False, False, True)))
    bits = draw(st.sampled_from((1, 1, 2, 4)))
    rng = random.Random(draw(st.integers(0, 2**16)))
    density = draw(st.sampled_from((0.0, 0.02, 0.05, 0.1, 0.3, 1.0)))
    shape = (1 if constant else steps, groups * c_each, size[0], size[1])
    levels = _random_levels(rng, shape, density, bits)
    signed = draw(st.booleans())
    if signed:
        levels = _random_signs(rng, levels)
    weights = None
    keep = draw(st.sampled_from((None, 1.0, 0.4, 0.0)))
    if keep is not None:
        weights = _random_signs(rng, _random_levels(rng, (owner.out_channels, c_each, *kernel), keep, 7))
    return LayerCase(
        levels=levels,
        out_channels=owner.out_channels,
        kernel=(kernel[0], kernel[1]),
        stride=(stride[0], stride[1]),
        padding=(padding[0], padding[1]),
        dilation=(dilation[0], dilation[1]),
        groups=groups,
        level_bits=bits,
        signed=signed,
        weight_bits=draw(st.sampled_from((8, 1, 3))),
        reset="none",
        has_bias=draw(st.sampled_from((False,) * 7 + (True,))),
        weights=weights,
        constant_steps=steps if constant else None,
        joined=True,
    )


def extents_of(case: LayerCase) -> tuple[int, int]:
    """Rows and columns of the output map."""
    sizes = (len(case.levels[0][0]), len(case.levels[0][0][0]))
    found = [
        (sizes[a] + 2 * case.padding[a] - case.dilation[a] * (case.kernel[a] - 1) - 1) // case.stride[a] + 1
        for a in (0, 1)
    ]
    return found[0], found[1]


@st.composite
def joined_cases(draw: st.DrawFn, **fields: Any) -> LayerCase:
    """A layer with one or two branches."""
    owner = draw(layer_cases(**fields))
    number = draw(st.sampled_from((1, 1, 2)))
    return replace(owner, branches=tuple(draw(branch_cases(owner)) for _ in range(number)))


@st.composite
def membrane_cases(draw: st.DrawFn) -> LayerCase:
    """A pointwise binary layer of long, busy time and little to integrate: its tiles wait for membranes."""
    steps = draw(st.integers(5, 40))
    width = draw(st.integers(1, 6))
    channels = draw(st.integers(1, 2))
    density = draw(st.sampled_from((0.4, 0.6, 0.8, 0.95, 1.0)))
    rng = random.Random(draw(st.integers(0, 2**16)))
    return LayerCase(
        levels=_random_levels(rng, (steps, channels, 1, width), density, 1),
        out_channels=draw(st.integers(1, 5)),
        kernel=(1, 1),
        stride=(1, 1),
        padding=(0, 0),
    )


@st.composite
def knob_sets(draw: st.DrawFn, *, dispatches: tuple[str, ...] = ("agile", "temporal", "ptb", "dense")) -> Knobs:
    """One machine; buffers and bandwidth are drawn so small that every limit is met on both sides."""
    dispatch = draw(st.sampled_from(dispatches + dispatches[:1]))
    return Knobs(
        rows=draw(st.integers(1, 5) | st.just(8)),
        cols=draw(st.sampled_from((1, 2, 3, 4, 5, 6, 8, 13, 64))),
        window=draw(st.sampled_from((1, 1, 2, 3, 4, 5, 8, 18, 33, 64)) | st.integers(1, 18)),
        dispatch=dispatch,
        order=draw(st.sampled_from(("raster", "interleave"))),
        merge=draw(st.sampled_from((1, 2, 2, 3, 4))),
        step="serial" if dispatch == "dense" else draw(st.sampled_from(("serial", "zskip"))),
        adders=draw(st.integers(1, 3)),
        decay=draw(st.sampled_from(("step", "table", "free"))),
        tag_width=draw(st.sampled_from((64, 1, 5, 20))),
        tailoring=draw(st.booleans()),
        membrane_bit=draw(st.sampled_from((16, 12))),
        lbuf_kib=draw(st.sampled_from((2, 0.01, 0.1, 0.125, 0.3))),
        glb_kib=draw(st.sampled_from((54, 0.01, 0.1, 0.125, 0.5))),
        dram_bandwidth_gb_s=draw(st.sampled_from((30.0, 0.7, 0.1, 0.03))),
        clock_mhz=draw(st.sampled_from((500.0, 333.3, 1000.0))),
        weight_skip=draw(st.sampled_from(("off", "group"))),
    )


@dataclass
class NetworkCase:
    """A network and what it is shown; samples: pixels (N, *shape) of an analog input, else frames (T, N, *shape)."""

    network: Network
    samples: np.ndarray
    num_steps: int

    def frames(self, sample: int) -> np.ndarray:
        """What one sample shows at every step; (T, *shape)."""
        if len(self.samples.shape) == len(self.network.shapes()["in"]) + 2:
            return self.samples[:, sample]
        return np.broadcast_to(self.samples[sample], (self.num_steps, *self.samples.shape[1:]))


class NetworkBuilder(Sketch):
    """A random network in the making. ``whole``: of integers; else all numbers are small multiples of 1/8, so that sums are exact."""

    def __init__(self, draw: st.DrawFn, shape: Shape, encoding: Any, whole: bool) -> None:
        super().__init__(draw, shape, encoding)
        self.whole = whole
        self.largest, self.bits = (
            draw(st.sampled_from(((2, 8), (60, 14), (2**20, 30), (2**26, 48)))) if whole else (12, 0)
        )

    def rarely(self) -> bool:
        return self.draw(st.sampled_from((False, False, True)))

    def numbers(self, lowest: int, highest: int, shape: Shape) -> Any:
        """One number, one for each channel, or one for each neuron."""
        extents = self.draw(st.sampled_from(((), (shape[0], *[1] * (len(shape) - 1)), shape)))
        found = self.rng.integers(lowest, highest + 1, extents)
        if not self.whole:
            found = found / 8
        return found if extents else found.item() if isinstance(found, np.ndarray) else found

    def leak(self, shape: Shape) -> Leak:
        if self.draw(st.booleans()):
            return Leak(shift=self.draw(st.sampled_from((1, 2, 5, 31) if self.whole else (1, 2))))
        if self.whole:
            extents = self.draw(st.sampled_from(((), shape)))
            return Leak(factor=self.rng.integers(0, 11, extents) / 10)
        return Leak(factor=self.draw(st.sampled_from((0.0, 0.25, 0.5, 0.75, 1.0))))

    def word(self) -> dict[str, Any]:
        """The word of a membrane."""
        if not self.whole:
            return {}
        bits = self.draw(st.integers(4, self.bits))
        return {"membrane_bits": bits, "overflow": self.draw(st.sampled_from(("saturate", "wrap")))}

    def neuron(self, shape: Shape) -> Node:
        """Any spiking neuron with any options; thresholds that a membrane can reach."""
        draw, word = self.draw, self.word()
        half = 2 ** (word["membrane_bits"] - 1) if self.whole else 16
        more: dict[str, Any] = word | {
            "v_threshold": self.numbers(1, max(1, half // draw(st.sampled_from((2, 16)))), shape),
            "reset": draw(st.sampled_from(("hard", "soft", "none"))),
            "strict": draw(st.booleans()),
            "v_init": self.numbers(-half, half - 1, shape) if self.rarely() else 0,
            "v_reset": self.numbers(-half, half - 1, shape) if self.rarely() else 0,
            "late_reset": self.rarely(),
            "max_level": draw(st.sampled_from((1, 1, 1, 2, 15))),
            "signed": draw(st.sampled_from((False, False, False, True))),
        }
        match draw(st.integers(0, 2)):
            case 0:
                return IF(**more)
            case 1:
                return LIF(self.leak(shape), **more)
        return CubaLIF(self.leak(shape), self.leak(shape), **more)

    def weights(self, shape: Shape, out: Shape) -> dict[str, Any]:
        """Weights, some of them 0, and perhaps biases of channels or of neurons."""
        weight = self.rng.integers(-self.largest, self.largest + 1, shape)
        weight[self.rng.random(shape) < self.draw(st.sampled_from((0.0, 0.5)))] = 0
        extents = self.draw(st.sampled_from((None, None, out[:1], out)))
        found: dict[str, Any] = {"weight": weight if self.whole else (weight / 8).astype(np.float32)}
        if extents is not None:
            bias = self.rng.integers(-self.largest, self.largest + 1, extents)
            bias[self.rng.random(extents) < 0.5] = 0
            found |= {"has_bias": True, "bias": bias if self.whole else (bias / 8).astype(np.float32)}
        return found

    def pool(self) -> None:
        """A pool behind the last node, whose maps have three extents."""
        kernel, stride = ((self.draw(st.integers(1, 2)), self.draw(st.integers(1, 2))) for _ in range(2))
        kernel = (min(kernel[0], self.shapes[self.last][1]), min(kernel[1], self.shapes[self.last][2]))
        padding = (kernel[0] // 2, self.draw(st.integers(0, kernel[1] // 2)))
        kinds = (SumPool2d, MaxPool2d) if self.whole else (SumPool2d, MaxPool2d, AvgPool2d)
        self.add(self.draw(st.sampled_from(kinds))(kernel, stride, padding))

    def block(self) -> None:
        """A layer or two and their neuron, with what may come between and beside them."""
        before = self.last
        pixels = before == "in" and self.nodes["in"].encoding == "analog"  # type: ignore[union-attr]
        flat = len(self.shapes[before]) == 1
        if not flat and len(self.shapes[before]) == 3 and self.rarely():
            self.pool()
        source = self.last
        if source != before and not pixels and self.rarely():
            sums = [source]  # neurons of a pool
        else:
            sums = [self.synapse(source)]
            if self.rarely():  # a second synapse into the same neuron
                first: Any = self.nodes[sums[0]]
                sums.append(self.add(replace(first, **self.weights(first.weight.shape, self.shapes[sums[0]])), source))
        if len(self.shapes[sums[0]]) > 1 and len(sums) == 1 and self.rarely():
            sums = [self.add(Flatten(), *sums)]
        neuron = self.add(self.neuron(self.shapes[sums[0]]), *sums)
        if self.draw(st.booleans()):  # its spikes come back to it
            late = self.add(Delay(self.draw(st.integers(1, 3))))
            self.edges.append((self.synapse(late, self.shapes[neuron]), neuron))
        self.last = neuron
        if self.shapes[neuron] == self.shapes[before] and before != "in" and self.draw(st.booleans()):
            self.add(Add(), neuron, before)
        elif self.rarely():
            self.add(Delay(self.draw(st.integers(0, 2))))


@st.composite
def network_cases(draw: st.DrawFn, *, whole: bool) -> NetworkCase:
    """A network of one to three blocks and a read-out, with one or two samples."""
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    encoding = draw(st.sampled_from(("spikes", "analog", "levels")))
    made = NetworkBuilder(draw, shape, encoding, whole)
    for _ in range(draw(st.integers(1, 3))):
        made.block()
    if len(made.shapes[made.last]) > 1:
        made.add(Flatten())
    made.synapse(made.last)
    end = made.shapes[made.last]
    made.add(LI(draw(st.none() | st.just(made.leak(end))), **made.word()) if draw(st.booleans()) else made.neuron(end))
    made.add(Output(end))
    number, num_steps, rate = draw(st.integers(1, 2)), draw(st.integers(1, 10)), draw(st.sampled_from((0.2, 0.8)))
    if encoding == "analog":
        pixels = (
            made.rng.integers(0, 256, (number, *shape)) if whole else 255 * made.rng.integers(0, 2, (number, *shape))
        )
        samples = pixels.astype(np.uint8)
    else:
        samples = (made.rng.random((num_steps, number, *shape)) < rate).astype(np.uint8)
        if encoding == "levels":
            samples *= made.rng.integers(1, 4, samples.shape).astype(np.uint8)
    return NetworkCase(Network(made.nodes, tuple(made.edges), "drawn"), samples, num_steps)
