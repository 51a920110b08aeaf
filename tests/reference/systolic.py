"""Slow reference of the dense array: a walk through steps, groups, folds and cycles, one PE and one word at a time.

It shares no code with the package. Buffers are walked as well: what a fold needs is looked up in what the buffer holds,
and fetched if it is not there. Half of a buffer is usable (the other half is being filled).

A branch is a layer whose sums meet in the neurons of another, its owner. Each of its sums, finished, is written to the ofmap buffer as
a sum and read there when the owner finishes the sum of the same neuron and step; no result leaves. ``join`` says when the owner runs:
behind the whole branch ("layer"), or step by step with it ("tile"). If more sums wait at a time than half of the buffer holds, all of
them go to DRAM on the way.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from .spikex import LayerCase

Map = list[list[list[int]]]  # [C][rows][columns], padded
Levels = list[list[list[list[int]]]]  # [T][C][H][W]


@dataclass(frozen=True)
class Knobs:
    """Fields of the machine file that the count depends on, and what follows the layer."""

    rows: int = 3
    cols: int = 2
    dataflow: str = "ws"
    gating: bool = False
    ifmap_kib: float = 32
    weight_kib: float = 144
    ofmap_kib: float = 32
    psum_bit: int = 24
    membrane_bit: int = 16
    dram_bandwidth_gb_s: float = 30.0
    clock_mhz: float = 400.0
    stateful: bool = True
    result_bit: int = 1
    join: str = "layer"


def _half(kib: float) -> Fraction:
    return Fraction(str(kib)) * 8192 / 2


class _Sample:
    def __init__(self, case: LayerCase, knobs: Knobs, is_branch: bool, branches: int) -> None:
        self.case, self.knobs, self.is_branch, self.branches = case, knobs, is_branch, branches
        self.steps: Levels = case.levels if case.constant_steps is None else case.levels * case.constant_steps
        self.level_bits = case.level_bits + (1 if case.signed else 0)
        self.channels, self.height, self.width = len(case.levels[0]), len(case.levels[0][0]), len(case.levels[0][0][0])
        self.rows_of_map = self.height + 2 * case.padding[0]
        self.cols_of_map = self.width + 2 * case.padding[1]
        self.group_channels = self.channels // case.groups
        self.group_filters = case.out_channels // case.groups
        self.pixels = [
            (p, q)
            for p in range(0, self.rows_of_map - (case.kernel[0] - 1) * case.dilation[0], case.stride[0])
            for q in range(0, self.cols_of_map - (case.kernel[1] - 1) * case.dilation[1], case.stride[1])
        ]
        self.synapses = [
            (c, r * case.dilation[0], s * case.dilation[1])
            for c in range(self.group_channels)
            for r in range(case.kernel[0])
            for s in range(case.kernel[1])
        ]
        self.n: dict[str, int] = {}
        self.cycles = 0
        self.resident: set[tuple[int, ...]] = set()  # weights that stay over all steps
        self.latest: tuple[int, ...] = ()  # filters of the outer fold held last
        self.most_open = 0

    def add(self, key: str, amount: int) -> None:
        self.n[key] = self.n.get(key, 0) + amount

    def padded(self, step: int, group: int) -> Map:
        top, left = self.case.padding
        found: Map = []
        for c in range(group * self.group_channels, (group + 1) * self.group_channels):
            plane = [[0] * self.cols_of_map for _ in range(self.rows_of_map)]
            for h in range(self.height):
                for w in range(self.width):
                    plane[h + top][w + left] = self.steps[step][c][h][w]
            found.append(plane)
        return found

    # ---- what is fetched before a fold runs

    def fetch_map(self, outer: int, inner: int) -> None:
        stored = self.group_channels * self.rows_of_map * self.cols_of_map * self.level_bits
        first = outer == 0 and inner == 0
        if stored > _half(self.knobs.ifmap_kib) and self.knobs.dataflow != "is":
            first = inner == 0
        if first:
            self.add("glb_ifmap.write", stored)
            self.add("dram_ifmap.read", self.group_channels * self.height * self.width * self.level_bits)

    def fetch_weights(self, step: int, group: int, tile: list[tuple[int, int]], outer: int, inner: int) -> None:
        bits = len(tile) * self.case.weight_bits
        half = _half(self.knobs.weight_kib)
        all_bits = self.case.out_channels * len(self.synapses) * self.case.weight_bits
        if all_bits <= half:
            missing = [(group, v, n) for v, n in tile if (group, v, n) not in self.resident]
            self.resident.update(missing)
            bits = len(missing) * self.case.weight_bits
        elif self.knobs.dataflow == "os":
            largest = min(self.knobs.cols, self.group_filters) * len(self.synapses) * self.case.weight_bits
            if largest <= half:
                if self.latest == (step, group, outer):
                    bits = 0
                self.latest = (step, group, outer)
        self.add("glb_weight.write", bits)
        self.add("dram_weight.read", bits)

    # ---- one fold, cycle by cycle

    def value(self, image: Map, pixel: int, synapse: int) -> int:
        (p, q), (c, r, s) = self.pixels[pixel], self.synapses[synapse]
        return image[c][p + r][q + s]

    def operate(self, level: int) -> None:
        self.add("nonzero" if level else "pe.zero", 1)
        if level or not self.knobs.gating:
            self.add("multiply", 1)

    def fold(self, image: Map, along_rows: list[int], along_cols: list[int], streamed: int) -> None:
        """Run every cycle of a fold on the whole array; rows and columns beyond the lists hold nothing."""
        flow = self.knobs.dataflow
        if flow != "os":
            for _ in range(self.knobs.rows):  # one row of what stays is pushed in per cycle
                self.cycles += 1
            self.add("weight words" if flow == "ws" else "ifmap words", len(along_rows) * len(along_cols))
        cycle = 0
        while True:
            busy = False
            for r in range(self.knobs.rows):
                k = cycle - r
                if 0 <= k < streamed and r < len(along_rows):
                    self.add("weight words" if flow == "is" else "ifmap words", 1)
                for c in range(self.knobs.cols):
                    k = cycle - r - c
                    if not 0 <= k < streamed:
                        continue
                    busy = True
                    if flow == "os" and r == 0 and c < len(along_cols):
                        self.add("weight words", 1)
                    if r >= len(along_rows) or c >= len(along_cols):
                        continue
                    if flow == "os":
                        self.operate(self.value(image, along_rows[r], k))
                    elif flow == "ws":
                        self.operate(self.value(image, k, along_rows[r]))
                    else:
                        self.operate(self.value(image, along_cols[c], along_rows[r]))
            if not busy:
                break
            self.cycles += 1
            cycle += 1

    def product(self, step: int, group: int) -> None:
        """All folds of one step and group."""
        flow, knobs = self.knobs.dataflow, self.knobs
        M, V, N = len(self.pixels), len(self.synapses), self.group_filters
        length, width = {"os": (M, N), "ws": (V, N), "is": (V, M)}[flow]
        streamed = {"os": V, "ws": M, "is": N}[flow]
        image = self.padded(step, group)
        unfinished: dict[tuple[int, int], int] = {}  # (pixel, filter) -> synapses done
        for outer, left in enumerate(range(0, width, knobs.cols)):
            along_cols = list(range(left, min(left + knobs.cols, width)))
            for inner, top in enumerate(range(0, length, knobs.rows)):
                along_rows = list(range(top, min(top + knobs.rows, length)))
                self.fetch_map(outer, inner)
                synapses = list(range(V)) if flow == "os" else along_rows
                filters = list(range(N)) if flow == "is" else along_cols
                pixels = {"os": along_rows, "ws": list(range(M)), "is": along_cols}[flow]
                self.fetch_weights(step, group, [(v, n) for v in synapses for n in filters], outer, inner)
                self.fold(image, along_rows, along_cols, streamed)
                for m in pixels:
                    for n in filters:
                        if (m, n) in unfinished:
                            self.add("sums read", 1)
                        done = unfinished.pop((m, n), 0) + len(synapses)
                        if done < V:
                            unfinished[m, n] = done
                            self.add("sums written", 1)
                        else:
                            self.add("finished", 1)
                self.most_open = max(self.most_open, len(unfinished))
        assert not unfinished

    # ---- everything

    def counts(self) -> dict[str, int]:
        knobs, n = self.knobs, self.n
        for step in range(len(self.steps)):
            for group in range(self.case.groups):
                self.product(step, group)
        n["glb_ifmap.read"] = n.pop("ifmap words") * self.level_bits
        n["glb_weight.read"] = n.pop("weight words") * self.case.weight_bits
        outputs = self.case.out_channels * len(self.pixels)
        assert n["finished"] == outputs * len(self.steps)
        stateful = knobs.stateful and not self.is_branch
        if self.is_branch:
            del n["finished"]
        else:
            n["out.update" if stateful else "out.quantise"] = n.pop("finished")
        half = _half(knobs.ofmap_kib)
        open_bits = self.most_open * knobs.psum_bit
        sums_leave = open_bits > half
        membranes_leave = open_bits + outputs * knobs.membrane_bit > half
        reads = n.pop("sums read", 0) * knobs.psum_bit
        writes = n.pop("sums written", 0) * knobs.psum_bit
        n["dram_psum.read"], n["dram_psum.write"] = (reads, writes) if sums_leave else (0, 0)
        n["dram_membrane.read"] = n["dram_membrane.write"] = 0
        n["dram_ofmap.write"] = 0
        for step in range(len(self.steps)):
            if stateful and step > 0:  # what the step before left behind
                reads += outputs * knobs.membrane_bit
                n["dram_membrane.read"] += outputs * knobs.membrane_bit if membranes_leave else 0
            if stateful and step < len(self.steps) - 1:
                writes += outputs * knobs.membrane_bit
                n["dram_membrane.write"] += outputs * knobs.membrane_bit if membranes_leave else 0
            if not self.is_branch:
                n["dram_ofmap.write"] += outputs * knobs.result_bit
                writes += outputs * knobs.result_bit
        # what goes to DRAM is read from the buffer, what comes back is written to it
        n["glb_ofmap.read"] = reads + n["dram_psum.write"] + n["dram_membrane.write"] + n["dram_ofmap.write"]
        n["glb_ofmap.write"] = writes + n["dram_psum.read"] + n["dram_membrane.read"]
        meet(n, len(self.steps), outputs, knobs, self.is_branch, self.branches)
        return finish(n, self.cycles, knobs)


def most_waiting(steps: int, outputs: int, join: str) -> int:
    """Sums of a branch that wait at a time for the layer that has the neurons."""
    waiting = most = 0
    for _ in range(steps):
        for _ in range(outputs):
            waiting += 1
            most = max(most, waiting)
        if join == "tile":
            waiting = 0  # the owner takes this step's before the next begins
    return most


def meet(n: dict[str, int], steps: int, outputs: int, knobs: Knobs, is_branch: bool, branches: int) -> None:
    """Add the sums that a branch leaves and those that an owner reads and adds, one by one."""
    away = most_waiting(steps, outputs, knobs.join) * knobs.psum_bit > _half(knobs.ofmap_kib)
    if branches:
        n["out.join"] = 0
    for _ in range(steps * outputs):
        if is_branch:
            n["glb_ofmap.write"] += knobs.psum_bit
            if away:  # from the buffer to DRAM
                n["glb_ofmap.read"] += knobs.psum_bit
                n["dram_psum.write"] += knobs.psum_bit
        for _ in range(branches):
            if away:  # from DRAM to the buffer
                n["dram_psum.read"] += knobs.psum_bit
                n["glb_ofmap.write"] += knobs.psum_bit
            n["glb_ofmap.read"] += knobs.psum_bit
            n["out.join"] += 1


def finish(n: dict[str, int], busy: int, knobs: Knobs) -> dict[str, int]:
    """Add cycles: array and DRAM side by side."""
    bits = sum(amount for key, amount in n.items() if key.startswith("dram_"))
    exact = bits * (Fraction(str(knobs.clock_mhz)) * 10**6) / (Fraction(str(knobs.dram_bandwidth_gb_s)) * 8 * 10**9)
    n["array.cycles"] = busy
    n["dram.cycles"] = -(-exact.numerator // exact.denominator)
    n["cycles"] = max(busy, n["dram.cycles"])
    return n


def count(case: LayerCase, knobs: Knobs, *, is_branch: bool = False, branches: int = 0) -> dict[str, int]:
    """Counts of one sample of a convolution; ``nonzero`` and ``multiply`` are MACs, ``pe.zero`` those with a zero activation.

    branches: layers whose sums meet in the neurons of this one. Each has as many sums.
    """
    found = dict.fromkeys(("nonzero", "multiply", "pe.zero"), 0)
    return found | _Sample(case, knobs, is_branch, branches).counts()


def vector(
    kind: str, shape: tuple[int, int, int], kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int],
    steps: int, maps: int, level_bits: int, knobs: Knobs, *, is_branch: bool = False,
) -> dict[str, int]:  # fmt: skip
    """Counts of one sample of a pool or of a sum of ``maps`` maps: every element enters the vector unit once per use."""
    channels, height, width = shape
    n: dict[str, int] = {}
    operation = "vector.compare" if kind == "maxpool2d" else "vector.accumulate"
    busy = outputs = 0
    n[operation] = 0
    entered = 0
    for _ in range(steps):
        waiting = 0
        for _c in range(channels):
            for top in range(-padding[0], height + padding[0] - kernel[0] + 1, stride[0]):
                for left in range(-padding[1], width + padding[1] - kernel[1] + 1, stride[1]):
                    taps = [(top + r, left + s) for r in range(kernel[0]) for s in range(kernel[1])] * maps
                    outputs += 1
                    waiting += len(taps)
                    n[operation] += len(taps) - 1
        entered += waiting
        while waiting > 0:
            waiting -= knobs.cols
            busy += 1
    moved = steps * maps * channels * height * width * level_bits
    n |= {"glb_ifmap.read": entered * level_bits, "glb_ifmap.write": moved, "dram_ifmap.read": moved}
    results = 0 if is_branch else outputs * knobs.result_bit
    n |= {"glb_ofmap.read": results, "glb_ofmap.write": results, "dram_ofmap.write": results}
    n |= dict.fromkeys(("dram_psum.read", "dram_psum.write", "dram_membrane.read", "dram_membrane.write"), 0)
    if is_branch:
        meet(n, steps, outputs // steps, knobs, True, 0)
    elif kind == "add":
        n["out.quantise"] = outputs
    return finish(n, busy, knobs)
