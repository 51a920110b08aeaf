"""SATA-class training by walking: every spike, every synapse, every neuron and step, one event at a time.

Shares no code with the package. Integers of one sample; gradient sparsities of zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Case:
    """levels[t][c][h][w] with the bits of a level (1: spikes); weights[k][c][r][s] over the channels of a group."""

    levels: list[list[list[list[int]]]]
    weights: list[list[list[list[int]]]]
    out: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    groups: int = 1
    bits: int = 1


def count(case: Case, fwd_bit: int) -> dict[str, int]:
    """Trace fidelity: what one training step of one sample does in one layer."""
    found = dict.fromkeys(
        (f"{stage}.{what}" for stage in ("forward", "backward", "update") for what in ("dram", "glb", "spad")), 0
    )
    found |= {"forward.ac": 0, "forward.lif": 0, "backward.product": 0, "backward.gradient": 0, "update.accumulate": 0}
    channels, height, width = len(case.levels[0]), len(case.levels[0][0]), len(case.levels[0][0][0])
    per_group = len(case.weights) // case.groups
    for step in case.levels:
        for k, kernel in enumerate(case.weights):
            for p in range(case.out[0]):
                for q in range(case.out[1]):
                    _neuron(found)
                    for c, plane in enumerate(kernel):
                        channel = (k // per_group) * (channels // case.groups) + c
                        for r, row in enumerate(plane):
                            for s, _ in enumerate(row):  # a weight of zero is no different
                                h = p * case.stride[0] + r - case.padding[0]
                                w = q * case.stride[1] + s - case.padding[1]
                                if not (0 <= h < height and 0 <= w < width):
                                    continue
                                found["backward.product"] += 1
                                for bit in bin(step[channel][h][w])[2:]:  # a spike is the level 1
                                    found["forward.ac"] += bit == "1"
                                    found["update.accumulate"] += bit == "1"
        _words(found, channels * height * width * case.bits, fwd_bit)
    weights = sum(len(row) for kernel in case.weights for plane in kernel for row in plane)
    for _ in range(weights):
        _weight(found, len(case.levels))
    return found


def _neuron(found: dict[str, int]) -> None:
    """One neuron in one step: integrates, keeps its membrane for the way back, gets a gradient."""
    found["forward.lif"] += 1
    found["backward.gradient"] += 1
    found["forward.dram"] += 1  # membrane out
    found["forward.glb"] += 2
    found["backward.dram"] += 1
    found["backward.glb"] += 7
    found["backward.spad"] += 1
    found["update.glb"] += 1  # its gradient
    found["update.spad"] += 1


def _words(found: dict[str, int], bits: int, fwd_bit: int) -> None:
    """The input of one step, packed into words that are moved whole."""
    for _ in range(0, bits, fwd_bit):
        found["forward.dram"] += 1
        found["forward.glb"] += 2
        found["forward.spad"] += 2
    for _ in range(0, bits, 16):
        found["backward.dram"] += 1
        found["backward.glb"] += 2
        found["update.glb"] += 1
        found["update.spad"] += 1


def _weight(found: dict[str, int], steps: int) -> None:
    """One weight: fetched forward and backward; fetched, updated and stored again in the update."""
    found["forward.dram"] += 1
    found["forward.glb"] += 2
    found["forward.spad"] += 2
    found["backward.glb"] += 1
    found["backward.spad"] += 1
    found["update.dram"] += 2
    for _ in range(steps):  # the gradient of every step is added to
        found["update.glb"] += 2
        found["update.spad"] += 4
    found["update.glb"] += 2
    found["update.spad"] += 2


def tool(layers: list[tuple], steps: int, fwd_bit: int, s: Fraction, du: Fraction) -> dict[str, Fraction]:  # type: ignore[type-arg]
    """The tool's totals, in exact fractions: one pass over its layer file, assignments where it assigns."""
    total = {name: Fraction(0) for name in (
        "lif", "mac_fwd", "pgu", "mac_bwd", "mac_wup", "dram_fwd", "glb_fwd", "spad_fwd", "dram_bwd", "glb_bwd",
        "spad_bwd", "dram_wup", "glb_wup", "spad_wup",
    )}  # fmt: skip
    for kind, inputs, outputs, *rest in layers:
        if kind == "out_linear":
            continue
        kernel, side_in, side_out = rest if kind == "conv" else (1, 1, 1)
        weights, i, o = inputs * outputs * kernel**2, inputs * side_in**2, outputs * side_out**2
        total["lif"] += o * steps
        total["pgu"] += o * steps
        if kind == "conv":
            total["mac_fwd"] += weights * side_out**2 * steps * (1 - s)
            total["mac_bwd"] += weights * side_in**2 * steps * (1 - du)
            total["mac_wup"] += weights * side_out**2 * steps * (1 - s)
        else:
            total["mac_fwd"] = Fraction(weights * steps)
            total["mac_bwd"] += weights * steps
            total["mac_wup"] += weights * steps
        packed = Fraction(i * steps, fwd_bit)
        total["dram_fwd"] += weights + o * steps + packed
        total["glb_fwd"] += 2 * (weights + o * steps + packed)
        total["spad_fwd"] += 2 * weights + 2 * packed
        total["dram_bwd"] += o * steps + packed
        total["glb_bwd"] += 7 * o * steps + 2 * packed + weights
        total["spad_bwd"] += weights + o * steps
        total["dram_wup"] += 2 * weights
        total["glb_wup"] += 2 * (1 + steps) * weights + packed + o * steps
        total["spad_wup"] += 2 * (1 + steps) * weights + packed + o * steps + 2 * steps * weights
    return total
