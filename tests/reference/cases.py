"""Hypothesis strategies for tiny layers and for every knob of the machine."""

from __future__ import annotations

import random

from hypothesis import strategies as st

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
