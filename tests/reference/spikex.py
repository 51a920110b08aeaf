"""Slow reference of the exact SpikeX count: nested loops over tiles, columns, synapses and cycles, and nothing else.

It follows the specification sentence by sentence and shares no code with the package. Every filter group of every
tile is simulated with absolute start times; nothing is multiplied out. Readings chosen where the text leaves room:

1.  `L` in the tagged forms is the window knob also when it exceeds T, for a short last window, and for constant analog
    input (a filled word always occupies L levels); only `L_o` shrinks.
2.  `scan` delays every dispatch, `dense` included.
3.  `weight_skip = "group"` removes synapses from U for every dispatch, `dense` included; it never changes which windows
    are active, so a tile may be left with an empty U (T_int = 0). Without known weights it changes nothing.
4.  `|A_j|` of the utilisation counts the tagged synapses that are in U.
5.  `fits` is `<=`, against an exact fraction of a bit; the test of the unskipped weights uses Rr rows even if K < Rr.
6.  C_active looks at the whole input map, also at pixels that no kernel position reads.
7.  The serial step cost takes the longest window among all columns of a tile, silent members included.
8.  A bias makes every window active whatever the reset is; reset "none" is treated as "hard".
9.  A layer without tiles still moves its weights, tags and outputs as the count table says.
10. Utilisation keys are sums over the tiles of all filter groups, `tile.count` too.
11. `adders` divides the popcount of a graded word (zskip) or the bits of its window (serial): one rounding per step.
12. `membrane final` means the end of the neuron's latest update so far: the last column of an A tile.
13. Re-tagging is free: the known output map is tagged with the window of this layer. The input of the constant analog
    case is a T=1 map, its output a map of `constant_steps` steps.
14. Stored weight bits choose the code once per filter group and channel set (not per row).
15. The sign of a signed level is one more bit wherever a level is stored or moved; adding and subtracting cost the same.

Sums that meet: a *branch* (`LayerCase.joined`) has no neurons; its sums wait for the layer that has them (`branches`).
The keys of JOIN_KEYS appear in the counts of such layers alone, and only where they are not 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

Levels = list[list[list[list[int]]]]
Word = tuple[int, ...]

COUNT_KEYS = (
    "array.cycles",
    "dram.cycles",
    "cycles",
    "pe.add",
    "pe.update",
    "pe.leak",
    "lbuf_weight.read",
    "lbuf_weight.write",
    "lbuf_act.read",
    "lbuf_act.write",
    "vmem.read",
    "vmem.write",
    "glb_weight.read",
    "glb_weight.write",
    "glb_act.read",
    "glb_act.write",
    "dram_weight.read",
    "dram_act.read",
    "dram_out.write",
    "tile.count",
    "tile.synapses",
    "tile.steps",
    "tile.tags",
    "tile.slots",
)

JOIN_KEYS = ("pe.join", "glb_psum.read", "glb_psum.write", "dram_psum.read", "dram_psum.write")


@dataclass(frozen=True)
class Knobs:
    """Fields of the machine file that the count depends on, with the `spikex` defaults."""

    rows: int = 8
    cols: int = 8
    window: int = 4
    dispatch: str = "agile"
    order: str = "raster"
    merge: int = 1
    step: str = "serial"
    adders: int = 1
    decay: str = "step"
    tag_width: int = 64
    tailoring: bool = True
    membrane_bit: int = 16
    lbuf_kib: float = 2
    glb_kib: float = 54
    dram_bandwidth_gb_s: float = 30.0
    clock_mhz: float = 500.0
    weight_skip: str = "off"
    psum_bit: int = 16
    join: str = "layer"


@dataclass(frozen=True)
class LayerCase:
    """One sample of one layer: its input levels and its shape."""

    levels: Levels  # [T][C][H][W]
    out_channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    level_bits: int = 1
    signed: bool = False
    weight_bits: int = 8
    reset: str = "hard"
    has_bias: bool = False
    weights: Levels | None = None  # [K][C/groups][R][S]
    out: Levels | None = None  # [T][K][P][Q]
    constant_steps: int | None = None
    joined: bool = False  # a branch: the neurons are another layer's
    branches: tuple[LayerCase, ...] = ()  # whole, also in a part of a grouped convolution
    filters_before: int = 0  # of a part: filters of the whole layer in front of its own
    whole_filters: int | None = None  # of a part: filters of the whole layer


@dataclass(frozen=True)
class Tile:
    """One entry of the schedule: a mode and its columns, each a (position, window) pair."""

    mode: str  # "A" or "B"
    columns: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class TileRun:
    """One tile as one filter group executed it; offsets are those of row 0, relative to `start`."""

    group: int
    rows: int
    tile: Tile
    synapses: tuple[int, ...]  # U, in index order
    steps: tuple[tuple[int, ...], ...]  # U after merging
    step_costs: tuple[int, ...]
    update_steps: tuple[int, ...]  # per column: L_o (or the constant steps)
    leaks: tuple[int, ...]  # per column
    update_offsets: tuple[int, ...]  # b_j
    start: int

    @property
    def integrate_cycles(self) -> int:
        """T_int of the tile."""
        return sum(self.step_costs)

    def update_end(self, column: int) -> int:
        """Absolute cycle at which row 0 has finished the update of one column."""
        return self.start + self.update_offsets[column] + self.update_steps[column] + self.leaks[column]


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def _exact(value: float) -> Fraction:
    """Return the decimal value of a knob as it is printed."""
    return Fraction(str(value))


def _popcount(value: int) -> int:
    return bin(abs(value)).count("1")


class _Convolution:
    """One ungrouped convolution of one sample on one machine, with the symbols of the specification."""

    def __init__(self, case: LayerCase, knobs: Knobs) -> None:
        if case.groups != 1:
            raise ValueError("a convolution group must be split off first")
        self.case = case
        self.knobs = knobs
        self.T = len(case.levels)
        self.C = len(case.levels[0])
        self.H = len(case.levels[0][0])
        self.W = len(case.levels[0][0][0])
        self.K = case.out_channels
        self.R, self.S = case.kernel
        self.P = (self.H + 2 * case.padding[0] - case.dilation[0] * (self.R - 1) - 1) // case.stride[0] + 1
        self.Q = (self.W + 2 * case.padding[1] - case.dilation[1] * (self.S - 1) - 1) // case.stride[1] + 1
        if self.P < 1 or self.Q < 1:
            raise ValueError("the kernel does not fit the input map")
        self.X = self.P * self.Q
        self.I = self.C * self.R * self.S
        self.L = knobs.window
        self.N = _ceil_div(self.T, self.L)
        self.KT = _ceil_div(self.K, knobs.rows)
        # T of the output map
        self.T_out = self.T if case.constant_steps is None else case.constant_steps
        self.dense = knobs.dispatch == "dense"
        self.words = self._words()
        self.active = self._active()
        self.schedule = self._schedule()

    # ---- section 2: symbols

    def rows_of(self, group: int) -> list[int]:
        """Return the output channels that filter group `group` holds, one per row."""
        return list(range(group * self.knobs.rows, min((group + 1) * self.knobs.rows, self.K)))

    def window_steps(self, o: int) -> int:
        """L_o."""
        return min(self.L, self.T - o * self.L)

    def input_word(self, c: int, h: int, w: int, o: int) -> Word:
        """Return the L levels (magnitudes) of one input pixel in window o, zero outside the map and beyond T."""
        word = []
        for local in range(self.L):
            t = o * self.L + local
            if 0 <= h < self.H and 0 <= w < self.W and t < self.T:
                word.append(abs(self.case.levels[t][c][h][w]))
            else:
                word.append(0)
        return tuple(word)

    def _words(self) -> list[list[list[Word]]]:
        """word(i, x, o) as [x][i][o]."""
        words = []
        for p in range(self.P):
            for q in range(self.Q):
                of_position = []
                for c in range(self.C):
                    for r in range(self.R):
                        for s in range(self.S):
                            h = p * self.case.stride[0] - self.case.padding[0] + r * self.case.dilation[0]
                            w = q * self.case.stride[1] - self.case.padding[1] + s * self.case.dilation[1]
                            of_position.append([self.input_word(c, h, w, o) for o in range(self.N)])
                words.append(of_position)
        return words

    def tag(self, x: int, i: int, o: int) -> bool:
        """A[x, i, o]."""
        return any(level != 0 for level in self.words[x][i][o])

    def _fires(self, x: int, o: int) -> bool:
        """Whether any neuron at x fires in window o; the constant analog window covers all steps."""
        assert self.case.out is not None
        p, q = divmod(x, self.Q)
        if self.case.constant_steps is None:
            steps = range(o * self.L, min((o + 1) * self.L, self.T))
        else:
            steps = range(self.case.constant_steps)
        return any(self.case.out[t][k][p][q] != 0 for t in steps for k in range(self.K))

    def output_steps(self, o: int) -> list[int]:
        """The time steps of window o; those of constant analog input are all."""
        if self.case.constant_steps is not None:
            return list(range(self.case.constant_steps))
        return list(range(o * self.L, min((o + 1) * self.L, self.T)))

    def _branch_holds(self, branch: LayerCase, x: int, o: int) -> bool:
        """Whether a branch holds a level that is not zero at output position x in a step of our window o.

        Of a grouped branch the groups count that share a filter with ours.
        """
        p, q = divmod(x, self.Q)
        c_each = len(branch.levels[0]) // branch.groups
        k_each = branch.out_channels // branch.groups
        for k in range(self.case.filters_before, self.case.filters_before + self.K):
            for c in range(k // k_each * c_each, (k // k_each + 1) * c_each):
                for r in range(branch.kernel[0]):
                    for s in range(branch.kernel[1]):
                        h = p * branch.stride[0] - branch.padding[0] + r * branch.dilation[0]
                        w = q * branch.stride[1] - branch.padding[1] + s * branch.dilation[1]
                        if not (0 <= h < len(branch.levels[0][0]) and 0 <= w < len(branch.levels[0][0][0])):
                            continue
                        for t in self.output_steps(o):
                            at = 0 if branch.constant_steps is not None else t  # constant pixels hold in every step
                            if branch.levels[at][c][h][w] != 0:
                                return True
        return False

    def _active(self) -> list[list[bool]]:
        """act[x, o], with the additions of section 5 for a bias and for soft reset."""
        active = []
        for x in range(self.X):
            of_position = []
            for o in range(self.N):
                act = any(self.tag(x, i, o) for i in range(self.I))
                act = act or any(self._branch_holds(branch, x, o) for branch in self.case.branches)
                if self.case.has_bias or any(branch.has_bias for branch in self.case.branches):
                    act = True
                if self.case.joined:  # what acts on the neurons is the owner's business
                    act = any(self.tag(x, i, o) for i in range(self.I))
                elif self.case.reset == "soft":
                    act = act or self.case.out is None or self._fires(x, o)
                of_position.append(act)
            active.append(of_position)
        return active

    # ---- section 3: dispatch

    def _schedule(self) -> list[Tile]:
        """Tiles in the order in which every filter group runs them."""
        cols = self.knobs.cols
        a_tiles: list[tuple[int, int, Tile]] = []  # (rank of the tile among those of its x, x, tile)
        b_tiles: list[Tile] = []
        if self.knobs.dispatch in ("agile", "temporal"):
            waves: list[list[tuple[int, int]]] = []
            for x in range(self.X):
                om = [o for o in range(self.N) if self.active[x][o]]
                for_a = len(om) // cols * cols if self.knobs.dispatch == "agile" else len(om)
                for first in range(0, for_a, cols):
                    chunk = om[first : min(first + cols, for_a)]
                    a_tiles.append((first // cols, x, Tile("A", tuple((x, o) for o in chunk))))
                for q, o in enumerate(om[for_a:]):
                    if len(waves) == q:
                        waves.append([])
                    waves[q].append((x, o))
            for wave in waves:
                for first in range(0, len(wave), cols):
                    b_tiles.append(Tile("B", tuple(wave[first : first + cols])))
        elif self.knobs.dispatch in ("ptb", "dense"):
            for x in range(self.X):
                rank = 0
                for first in range(0, self.N, cols):
                    members = range(first, min(first + cols, self.N))
                    if self.dense or any(self.active[x][o] for o in members):
                        a_tiles.append((rank, x, Tile("A", tuple((x, o) for o in members))))
                        rank += 1
        else:
            raise ValueError(f"unknown dispatch {self.knobs.dispatch!r}")
        if self.knobs.order == "interleave":
            a_tiles.sort(key=lambda entry: (entry[0], entry[1]))
        elif self.knobs.order != "raster":
            raise ValueError(f"unknown order {self.knobs.order!r}")
        return [tile for _, _, tile in a_tiles] + b_tiles

    def non_zero_rows(self, group: int, i: int) -> int:
        """Count the rows of a filter group whose weight at synapse i is not zero (all of them when unknown)."""
        rows = self.rows_of(group)
        if self.case.weights is None:
            return len(rows)
        c, rest = divmod(i, self.R * self.S)
        r, s = divmod(rest, self.S)
        return sum(1 for k in rows if self.case.weights[k][c][r][s] != 0)

    def synapses(self, tile: Tile, group: int) -> list[int]:
        """Return U of a tile in one filter group, in index order."""
        kept = []
        for i in range(self.I):
            needed = self.dense or any(self.tag(x, i, o) for x, o in tile.columns)
            if self.knobs.weight_skip == "group" and self.non_zero_rows(group, i) == 0:
                needed = False
            if needed:
                kept.append(i)
        return kept

    def merge(self, tile: Tile, synapses: list[int]) -> list[list[int]]:
        """First-fit merging of the synapses of a tile into steps of at most G."""
        width = 1 if self.dense else self.knobs.merge
        steps: list[list[int]] = []
        tags: list[list[bool]] = []  # column-tag vector of each open step
        for i in synapses:
            mine = [self.tag(x, i, o) for x, o in tile.columns]
            for e in range(len(steps)):
                disjoint = not any(a and b for a, b in zip(tags[e], mine, strict=True))
                if disjoint and len(steps[e]) < width:
                    steps[e].append(i)
                    tags[e] = [a or b for a, b in zip(tags[e], mine, strict=True)]
                    break
            else:
                steps.append([i])
                tags.append(mine)
        return steps

    # ---- section 4: cycles

    def step_cost(self, tile: Tile, step: list[int]) -> int:
        """d_e of one (possibly merged) step."""
        if self.knobs.step == "serial":
            work = max(self.window_steps(o) * self.case.level_bits for _, o in tile.columns)
        elif self.knobs.step == "zskip" and not self.dense:
            work = 0
            for x, o in tile.columns:
                merged = [0] * self.L
                for i in step:
                    merged = [a | b for a, b in zip(merged, self.words[x][i][o], strict=True)]
                work = max(work, sum(_popcount(level) for level in merged))
        else:
            raise ValueError(f"step {self.knobs.step!r} with dispatch {self.knobs.dispatch!r}")
        return _ceil_div(work, self.knobs.adders)

    def leak(self, skipped: int) -> int:
        """leak_j after `skipped` windows; what has no membrane does not leak."""
        if self.case.joined:
            return 0
        if self.knobs.decay == "step":
            return skipped * self.L
        if self.knobs.decay == "table":
            return 1 if skipped > 0 else 0
        if self.knobs.decay == "free":
            return 0
        raise ValueError(f"unknown decay {self.knobs.decay!r}")

    def simulate(self) -> list[TileRun]:
        """Run the schedule in every filter group, with absolute start times."""
        scan = _ceil_div(self.I, self.knobs.tag_width)
        runs: list[TileRun] = []
        earliest = 0  # start of the next tile as far as the tile before allows it
        for group in range(self.KT):
            processed: dict[int, int] = {}  # x -> its previous processed window
            final: dict[int, int] = {}  # x -> absolute end of its latest update, row 0
            for tile in self.schedule:
                synapses = self.synapses(tile, group)
                steps = self.merge(tile, synapses)
                costs = [self.step_cost(tile, step) for step in steps]
                t_int = sum(costs)
                updates: list[int] = []
                leaks: list[int] = []
                for x, o in tile.columns:
                    updates.append(self.window_steps(o) if self.case.constant_steps is None else self.T_out)
                    leaks.append(self.leak(o - processed[x] - 1 if x in processed else 0))
                    processed[x] = o
                m = len(tile.columns)
                durations = [updates[j] + leaks[j] for j in range(m)]
                if tile.mode == "A":
                    offsets = [t_int + sum(durations[:j]) for j in range(m)]
                    advance = t_int + sum(durations) - (m - 1)
                else:
                    offsets = [j + t_int for j in range(m)]
                    advance = t_int + max(durations)
                start = earliest
                if tile.mode == "A":
                    x = tile.columns[0][0]
                    if x in final:
                        start = max(start, final[x] - offsets[0])
                else:
                    for j, (x, _) in enumerate(tile.columns):
                        if x in final:
                            start = max(start, final[x] - offsets[j])
                run = TileRun(
                    group=group,
                    rows=len(self.rows_of(group)),
                    tile=tile,
                    synapses=tuple(synapses),
                    steps=tuple(tuple(step) for step in steps),
                    step_costs=tuple(costs),
                    update_steps=tuple(updates),
                    leaks=tuple(leaks),
                    update_offsets=tuple(offsets),
                    start=start,
                )
                for j, (x, _) in enumerate(tile.columns):
                    final[x] = run.update_end(j)
                runs.append(run)
                earliest = start + max(advance, scan)
        return runs

    # ---- section 6: counts

    def active_channels(self) -> list[int]:
        """Return the channels whose weights are fetched."""
        if self.dense or not self.knobs.tailoring:
            return list(range(self.C))
        return [
            c
            for c in range(self.C)
            if any(
                self.case.levels[t][c][h][w] != 0 for t in range(self.T) for h in range(self.H) for w in range(self.W)
            )
        ]

    def stored_bits(self, group: int, channels: list[int]) -> int:
        """Return the stored weight bits of a filter group: the smaller of bitmask and run-length code."""
        assert self.case.weights is not None
        positions = 0
        non_zero = 0
        padding_entries = 0
        for k in self.rows_of(group):
            run = 0
            for c in channels:
                for r in range(self.R):
                    for s in range(self.S):
                        positions += 1
                        if self.case.weights[k][c][r][s] == 0:
                            run += 1
                        else:
                            padding_entries += run // 16
                            non_zero += 1
                            run = 0
        bitmask = positions + non_zero * self.case.weight_bits
        run_length = (non_zero + padding_entries) * (self.case.weight_bits + 4)
        return min(bitmask, run_length)

    def weight_traffic(self, part_bits: Fraction, lbuf_weight_reads: list[int]) -> int:
        """Weight bits fetched into a buffer part, given the lbuf_weight reads of each filter group."""
        bw = self.case.weight_bits
        channels = self.active_channels()
        if self.knobs.weight_skip == "group" and self.case.weights is not None:
            total = 0
            for group in range(self.KT):
                if self.stored_bits(group, list(range(self.C))) <= part_bits:
                    total += self.stored_bits(group, channels)
                else:
                    total += lbuf_weight_reads[group]
            return total
        if self.knobs.rows * self.I * bw <= part_bits:
            return bw * self.R * self.S * len(channels) * self.K
        return sum(lbuf_weight_reads)

    def stored_level_bits(self) -> int:
        """Bits of one input level where it is stored or moved: its magnitude and, where it may be negative, a sign."""
        return self.case.level_bits + (1 if self.case.signed else 0)

    def input_map_bits(self) -> int:
        """Return the size of the input map as the array machine moves it."""
        b = self.stored_level_bits()
        if self.dense:
            return self.T * self.C * self.H * self.W * b
        filled = 0
        for o in range(self.N):
            for c in range(self.C):
                for h in range(self.H):
                    for w in range(self.W):
                        if any(level != 0 for level in self.input_word(c, h, w, o)):
                            filled += 1
        return self.N * self.C * self.H * self.W + filled * self.L * b

    def output_map_bits(self) -> int:
        """Return the size of the output map: tagged when its spikes are known and the dispatch uses tags."""
        if self.case.joined:
            return 0  # its output is the owner's
        if self.dense or self.case.out is None:
            return self.T_out * self.K * self.P * self.Q
        windows = _ceil_div(self.T_out, self.L)
        filled = 0
        for o in range(windows):
            steps = range(o * self.L, min((o + 1) * self.L, self.T_out))
            for k in range(self.K):
                for p in range(self.P):
                    for q in range(self.Q):
                        if any(self.case.out[t][k][p][q] != 0 for t in steps):
                            filled += 1
        return windows * self.K * self.P * self.Q + filled * self.L

    def sums_that_meet(self, glb_part: Fraction) -> dict[str, int]:
        """What a branch writes and its owner reads and adds: one sum of `psum_bit` bits a neuron and step."""
        n: dict[str, int] = {}

        def happens(key: str, times: int) -> None:
            n[key] = n.get(key, 0) + times

        b = self.knobs.psum_bit
        filters = self.K if self.case.whole_filters is None else self.case.whole_filters
        steps = self.T_out if self.knobs.join == "layer" else min(self.T_out, self.L)
        fits = b * filters * self.P * self.Q * steps <= glb_part
        for _t in range(self.T_out):
            for _neuron in range(self.K * self.P * self.Q):
                if self.case.joined:
                    happens("glb_psum.write", b)
                    if not fits:
                        happens("glb_psum.read", b)
                        happens("dram_psum.write", b)
                for _branch in self.case.branches:
                    if not fits:
                        happens("dram_psum.read", b)
                        happens("glb_psum.write", b)
                    happens("glb_psum.read", b)
                    happens("pe.join", 1)
        return n

    def counts(self) -> dict[str, int]:
        """Return every count of the table for this convolution and sample."""
        knobs = self.knobs
        n = dict.fromkeys(COUNT_KEYS, 0)
        lbuf_weight_reads = [0] * self.KT
        for run in self.simulate():
            m = len(run.tile.columns)
            last_end = max(run.update_end(j) for j in range(m))
            n["array.cycles"] = max(n["array.cycles"], last_end + (run.rows - 1))
            window_sum = 0
            for x, o in run.tile.columns:
                window_sum += self.window_steps(o)
                for i in run.synapses:
                    spikes = sum(_popcount(level) for level in self.words[x][i][o])
                    n["pe.add"] += spikes * self.non_zero_rows(run.group, i)
                    n["tile.tags"] += 1 if self.tag(x, i, o) else 0
            if not self.case.joined:
                n["pe.update"] += sum(run.update_steps) * run.rows
                n["pe.leak"] += sum(run.leaks) * run.rows
            lbuf_weight_reads[run.group] += len(run.synapses) * run.rows * self.case.weight_bits
            n["lbuf_act.read"] += len(run.steps) * window_sum * self.stored_level_bits()
            membranes = 1 if run.tile.mode == "A" else m
            if self.case.joined:
                membranes = 0
            n["vmem.read"] += membranes * run.rows * knobs.membrane_bit
            n["vmem.write"] += membranes * run.rows * knobs.membrane_bit
            n["tile.count"] += 1
            n["tile.synapses"] += len(run.synapses)
            n["tile.steps"] += len(run.steps)
            n["tile.slots"] += m * len(run.synapses)
        n["lbuf_weight.read"] = sum(lbuf_weight_reads)
        lbuf_part = _exact(knobs.lbuf_kib) * 8192 / 4
        glb_part = _exact(knobs.glb_kib) * 8192 / 4
        n["glb_weight.read"] = self.weight_traffic(lbuf_part, lbuf_weight_reads)
        n["dram_weight.read"] = self.weight_traffic(glb_part, lbuf_weight_reads)
        map_bits = self.input_map_bits()
        for _ in range(self.KT):
            n["glb_act.read"] += map_bits
        if map_bits <= glb_part:
            n["dram_act.read"] = map_bits
        else:
            for _ in range(self.KT):
                n["dram_act.read"] += map_bits
        n["dram_out.write"] = self.output_map_bits()
        n["glb_weight.write"] = n["dram_weight.read"]
        n["glb_act.write"] = n["dram_act.read"]
        n["lbuf_weight.write"] = n["glb_weight.read"]
        n["lbuf_act.write"] = n["glb_act.read"]
        sums = self.sums_that_meet(glb_part)
        n.update(sums)
        dram_bits = n["dram_weight.read"] + n["dram_act.read"] + n["dram_out.write"]
        dram_bits += sums.get("dram_psum.read", 0) + sums.get("dram_psum.write", 0)
        exact_cycles = dram_bits * (_exact(knobs.clock_mhz) * 10**6) / (_exact(knobs.dram_bandwidth_gb_s) * 10**9 * 8)
        n["dram.cycles"] = _ceil_div(exact_cycles.numerator, exact_cycles.denominator)
        n["cycles"] = max(n["array.cycles"], n["dram.cycles"])
        return n


def _split(case: LayerCase) -> list[LayerCase]:
    """Cut a grouped convolution into the convolutions it consists of."""
    channels = len(case.levels[0])
    if channels % case.groups or case.out_channels % case.groups:
        raise ValueError("channels do not divide into the groups")
    c_each = channels // case.groups
    k_each = case.out_channels // case.groups
    parts = []
    for group in range(case.groups):
        c0, k0 = group * c_each, group * k_each
        parts.append(
            LayerCase(
                levels=[step[c0 : c0 + c_each] for step in case.levels],
                out_channels=k_each,
                kernel=case.kernel,
                stride=case.stride,
                padding=case.padding,
                dilation=case.dilation,
                groups=1,
                level_bits=case.level_bits,
                signed=case.signed,
                weight_bits=case.weight_bits,
                reset=case.reset,
                has_bias=case.has_bias,
                weights=None if case.weights is None else case.weights[k0 : k0 + k_each],
                out=None if case.out is None else [step[k0 : k0 + k_each] for step in case.out],
                constant_steps=case.constant_steps,
                joined=case.joined,
                branches=case.branches,
                filters_before=k0,
                whole_filters=case.out_channels,
            )
        )
    return parts


def _convolutions(case: LayerCase, knobs: Knobs) -> list[_Convolution]:
    if not 1 <= knobs.window <= 64 or not 1 <= knobs.cols <= 64:
        raise ValueError("window and cols must be 1..64")
    if knobs.step == "zskip" and knobs.dispatch == "dense":
        raise ValueError("dense dispatch is serial only")
    if case.constant_steps is not None and len(case.levels) != 1:
        raise ValueError("constant analog input has one step of levels")
    return [_Convolution(part, knobs) for part in _split(case)]


def simulate(case: LayerCase, knobs: Knobs) -> list[list[TileRun]]:
    """Return the tile runs of each convolution group, in execution order; each group starts at cycle 0 again."""
    return [convolution.simulate() for convolution in _convolutions(case, knobs)]


def count(case: LayerCase, knobs: Knobs) -> dict[str, int]:
    """Return the counts of one sample of one layer; convolution groups run one after another."""
    totals = dict.fromkeys(COUNT_KEYS, 0)
    for convolution in _convolutions(case, knobs):
        for key, value in convolution.counts().items():
            totals[key] = totals.get(key, 0) + value
    return totals
