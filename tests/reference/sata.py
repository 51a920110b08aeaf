"""Slow reference of the sata count in trace fidelity: nested loops over folds, steps, synapses and elements.

It shares no code with the package. The array is output-stationary: rows hold output positions, columns hold filters. For
every fold (first over groups, then over filters, then over positions) all time steps follow one another; in each step the
im2col columns that hold a non-zero level in any row of the fold stream in, `bits` passes each, and the wave through the
array takes rows + cols - 2 cycles more. Readings:

1.  A column outside the map is a zero; padding is neither fetched nor counted as spikes.
2.  One tag bit per synapse, fold and step says whether a column is silent; it is read whatever it says.
3.  A weight is read from the buffer once per fold in which its column is active in any step, for all steps together.
4.  The input buffer holds words (all steps of one pixel and channel); a word asked for that is not there is fetched; a full
    buffer is emptied. Words are asked for in the skewed order of a fold without regard to silence. Each group of a
    convolution finds the buffer empty.
5.  A processing element adds wherever a one arrives, also when its weight is zero.
6.  Sums that meet in the neurons of another layer have the 16 bits of the accumulator and lie in DRAM, a whole map without tags:
    every position, filter and step, silent ones too. Each is written once through the output buffer. The layer with the neurons
    fetches and adds those of its own folds; it owns the biases.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .spikex import LayerCase

ACCUMULATOR = 16


@dataclass(frozen=True)
class Array:
    """The machine's shape."""

    rows: int
    cols: int
    skip: bool
    ifmap_bits: float


def count(
    case: LayerCase, array: Array, *, weighted: bool = True, leaky: bool = True, out_bits: int = 1
) -> dict[str, int]:
    """Every count of one sample, keyed ``instance.action``, and the cycles."""
    levels = case.levels if case.constant_steps is None else case.levels * case.constant_steps
    T, C, H, W = len(levels), len(levels[0]), len(levels[0][0]), len(levels[0][0][0])
    R, S = case.kernel
    P, Q = _out(H, case, 0), _out(W, case, 1)
    binary = case.level_bits == 1 and not case.signed and case.constant_steps is None
    passes = 1 if binary else case.level_bits
    bits = 1 if binary else case.level_bits + case.signed
    inner, outer = C // case.groups, case.out_channels // case.groups
    synapses = [(r, s, c) for r in range(R) for s in range(S) for c in range(inner)]
    positions = [(p, q) for p in range(P) for q in range(Q)]
    capacity = max(1, int(array.ifmap_bits / 2) // (T * bits))

    def pixel(position: tuple[int, int], synapse: tuple[int, int, int], group: int) -> tuple[int, int, int] | None:
        y = position[0] * case.stride[0] + synapse[0] * case.dilation[0] - case.padding[0]
        x = position[1] * case.stride[1] + synapse[1] * case.dilation[1] - case.padding[1]
        return (group * inner + synapse[2], y, x) if 0 <= y < H and 0 <= x < W else None

    n = dict.fromkeys(("cycles", "add", "ifmap_read", "weight_read", "fetched"), 0)
    for group in range(case.groups):
        buffer: set[tuple[int, int, int]] = set()
        for first_filter in range(0, outer, array.cols):
            filters = range(first_filter, min(first_filter + array.cols, outer))
            for first in range(0, len(positions), array.rows):
                fold = positions[first : first + array.rows]
                for cycle in range(len(synapses) + len(fold)):
                    for row, position in enumerate(fold):
                        if 0 <= cycle - row < len(synapses):
                            word = pixel(position, synapses[cycle - row], group)
                            if word is not None and word not in buffer:
                                n["fetched"] += 1
                                buffer.add(word)
                                if len(buffer) == capacity:
                                    buffer.clear()
                used = set()
                for t in range(T):
                    n["cycles"] += array.rows + array.cols - 2
                    for synapse in synapses:
                        column = [pixel(position, synapse, group) for position in fold]
                        values = [0 if at is None else abs(levels[t][at[0]][at[1]][at[2]]) for at in column]
                        n["ifmap_read"] += array.skip  # its tag
                        if array.skip and not any(values):
                            continue
                        used.add(synapse)
                        n["cycles"] += passes
                        n["ifmap_read"] += len(fold) * bits
                        for value in values:
                            for _ in filters:
                                n["add"] += bin(value).count("1")
                n["weight_read"] += len(used) * len(filters) * case.weight_bits
    outputs = case.out_channels * P * Q * T
    weights = case.out_channels * inner * R * S * case.weight_bits if weighted else 0
    clock = n["cycles"] * array.rows * array.cols
    inputs = n["fetched"] * T * bits
    return {
        "mac.add": n["add"], "mac.clock": clock, "spad.access": n["add"], "spad.clock": clock,
        "lif.update": outputs, "lif.clock": clock, "lif.decay": outputs if leaky else 0,
        "lif.bias": outputs if case.has_bias else 0,
        "glb_ifmap.read": n["ifmap_read"], "glb_ifmap.write": inputs,
        "glb_weight.read": n["weight_read"] if weighted else 0, "glb_weight.write": weights,
        "glb_ofmap.read": outputs * out_bits, "glb_ofmap.write": outputs * out_bits,
        "dram_ifmap.read": inputs, "dram_weight.read": weights, "dram_ofmap.write": outputs * out_bits,
        "cycles": n["cycles"],
    }  # fmt: skip


def _in_folds(case: LayerCase, array: Array) -> Iterator[tuple[int, int, int, int]]:
    """(step, filter, row, column) of every output of one sample in the order in which the array finishes them."""
    levels = case.levels if case.constant_steps is None else case.levels * case.constant_steps
    P, Q = _out(len(levels[0][0]), case, 0), _out(len(levels[0][0][0]), case, 1)
    positions = [(p, q) for p in range(P) for q in range(Q)]
    each = case.out_channels // case.groups
    for group in range(case.groups):
        for first_filter in range(0, each, array.cols):
            for first in range(0, len(positions), array.rows):
                for t in range(len(levels)):
                    for k in range(first_filter, min(first_filter + array.cols, each)):
                        for p, q in positions[first : first + array.rows]:
                            yield t, group * each + k, p, q


def count_joined(
    owner: LayerCase, branches: list[LayerCase], array: Array, *, leaky: bool = True, out_bits: int = 1
) -> list[dict[str, int]]:
    """Counts of one sample of an owner and of the branches whose sums meet in its neurons, the owner first.

    A branch without stored weights (a pool, a sum of maps) has ``weight_bits`` = 0.
    """
    found = [count(owner, array, leaky=leaky, out_bits=out_bits)]
    parked: set[tuple[int, ...]] = set()
    for number, branch in enumerate(branches):
        n = count(branch, array, weighted=branch.weight_bits > 0)
        n |= dict.fromkeys(("lif.update", "lif.decay", "lif.bias"), 0)
        n |= dict.fromkeys(("glb_ofmap.write", "glb_ofmap.read", "dram_ofmap.write"), 0)
        for at in _in_folds(branch, array):
            assert (number, *at) not in parked
            parked.add((number, *at))
            for memory in ("glb_ofmap.write", "glb_ofmap.read", "dram_ofmap.write"):
                n[memory] += ACCUMULATOR
        found.append(n)
    n = found[0]
    n["lif.bias"] = 0
    n |= dict.fromkeys(("dram_psum.read", "glb_psum.write", "glb_psum.read", "mac.join") if branches else (), 0)
    for at in _in_folds(owner, array):
        n["lif.bias"] += any(part.has_bias for part in (owner, *branches))
        for number in range(len(branches)):
            parked.remove((number, *at))
            for memory in ("dram_psum.read", "glb_psum.write", "glb_psum.read"):
                n[memory] += ACCUMULATOR
            n["mac.join"] += 1
    assert not parked  # every sum found its neuron
    return found


def _out(size: int, case: LayerCase, axis: int) -> int:
    reach = case.dilation[axis] * (case.kernel[axis] - 1) + 1
    return (size + 2 * case.padding[axis] - reach) // case.stride[axis] + 1
