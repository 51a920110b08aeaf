"""Hypothesis strategy for layers whose sums meet in the neurons of another layer."""

from __future__ import annotations

import random
from dataclasses import dataclass

from hypothesis import strategies as st

from .cases import _random_levels, _random_signs, layer_cases
from .spikex import LayerCase

SYNAPSES, POOLS = ("conv2d",), ("sumpool2d", "avgpool2d", "maxpool2d")


@dataclass(frozen=True)
class Branch:
    """A layer without neurons and one sample of it; a pool or a sum of maps is a depthwise convolution without stored weights."""

    kind: str
    case: LayerCase


def extents(case: LayerCase) -> tuple[int, int, int, int]:
    """K, P, Q and T of a case."""
    sides = (len(case.levels[0][0]), len(case.levels[0][0][0]))
    p, q = (
        (side + 2 * case.padding[d] - case.dilation[d] * (case.kernel[d] - 1) - 1) // case.stride[d] + 1
        for d, side in enumerate(sides)
    )
    return case.out_channels, p, q, case.constant_steps or len(case.levels)


@st.composite
def branches_of(draw: st.DrawFn, owner: LayerCase) -> Branch:
    """A branch of any kind with as many sums as ``owner``: its own kernel, stride, padding, dilation, groups, levels and bias."""
    K, P, Q, T = extents(owner)
    kind = draw(st.sampled_from((*SYNAPSES * 3, *POOLS, "add")))
    one = kind == "add"
    kernel = (1, 1) if one else (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    stride = (1, 1) if one else (draw(st.integers(1, 3)), draw(st.integers(1, 2)))
    dilation = (draw(st.integers(1, 2)), draw(st.integers(1, 2))) if kind in SYNAPSES else (1, 1)
    padding, sides = [], []
    for d, out in enumerate((P, Q)):
        reach = (out - 1) * stride[d] + dilation[d] * (kernel[d] - 1) + 1
        padding.append(0 if one else draw(st.integers(0, min(2, (reach - 1) // 2))))
        sides.append(reach - 2 * padding[d] + draw(st.integers(0, stride[d] - 1)))
    groups = draw(st.sampled_from([g for g in range(1, K + 1) if K % g == 0])) if kind in SYNAPSES else K
    channels = groups * draw(st.integers(1, 3)) if kind in SYNAPSES else K
    bits = 1 if kind == "maxpool2d" else draw(st.integers(1, 4))
    constant = kind in SYNAPSES and draw(st.sampled_from((False, False, True)))
    rng = random.Random(draw(st.integers(0, 2**16)))
    density = draw(st.sampled_from((0.0, 0.1, 0.4, 1.0)))
    levels = _random_levels(rng, (1 if constant else T, channels, sides[0], sides[1]), density, bits)
    signed = kind != "maxpool2d" and draw(st.booleans())
    return Branch(
        kind,
        LayerCase(
            _random_signs(rng, levels) if signed else levels, K, kernel, stride, (padding[0], padding[1]), dilation, groups, bits,
            signed, draw(st.sampled_from((8, 3))) if kind in SYNAPSES else 0, has_bias=kind in SYNAPSES and draw(st.booleans()),
            constant_steps=T if constant else None,
        ),
    )  # fmt: skip


@st.composite
def joined_cases(draw: st.DrawFn, *, max_steps: int = 8) -> tuple[LayerCase, list[Branch]]:
    """An owner, and one or two branches whose sums meet in its neurons."""
    owner = draw(layer_cases(max_steps=max_steps))
    if owner.constant_steps is not None and owner.constant_steps > max_steps:
        owner = LayerCase(**{**vars(owner), "constant_steps": max_steps, "out": None})
    return owner, draw(st.lists(branches_of(owner), min_size=1, max_size=2))
