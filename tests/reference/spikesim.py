"""Slow reference of the spikesim count in trace fidelity: nested loops over positions, steps, bit planes and row groups.

It shares no code with the package. A row group is up to `size` channels of one group of the convolution at one kernel
position: the rows of one crossbar. Row groups, ordered (channel block, kernel row, kernel column), fill PEs of `crossbars`
each; PEs are repeated for every `size` columns. Readings:

1.  A row group is read in a step if any of its inputs is not zero in the bit plane (and sign) at hand; padding is zero.
2.  A PE cycle takes place if any row group of the PE is read; all PEs of a layer work at the same time.
3.  Bit planes, output positions and steps of a layer follow one another.
4.  Neurons work in every (position, step) that read anything, or in all where `always`.
5.  Step t of a layer begins when its step t - 1 has ended and a share of step t of the layer before has passed; it does not
    end before that one does.
6.  Groups of a convolution share crossbars along the diagonal, as many as fit with all their rows and all their columns.
7.  An input vector (channels of a block at an input pixel, one step and plane) crosses the mesh once to each tile that holds
    any of its row groups; partial sums go from the tile of a later chunk to that of the first.
8.  A layer that `meets` another has no neurons: in every (position, step) in which any of its PEs works, each filter sends one sum
    from the tile of its columns, first chunk, to that of the same filter of the owner, whose neurons work there as well. Step t of the
    owner does not end before step t of its branches.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil


@dataclass(frozen=True)
class Chip:
    """The machine's shape; `handover` in percent."""

    size: int
    crossbars: int
    pes_per_tile: int
    skip: bool
    share: bool
    handover: int
    psum_bits: int = 8
    clocks: int = 26


@dataclass(frozen=True)
class Conv:
    """One layer and its samples: levels[t][n][c][h][w]; `bits` None for spikes.

    hears: number of the layer it hears, -1 for the network's input. meets: number of the layer whose neurons its sums reach.
    always: its own neurons work everywhere.
    """

    levels: list[list[list[list[list[int]]]]]
    bits: int | None
    signed: bool
    K: int
    P: int
    Q: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    slices: int
    always: bool
    hears: int = -1
    meets: int | None = None


def planes(layer: Conv) -> list[tuple[int, int]]:
    """(sign, bit) of every plane."""
    if layer.bits is None:
        return [(1, 0)]
    return [(sign, bit) for sign in ((1, -1) if layer.signed else (1,)) for bit in range(layer.bits)]


def lit(level: int, plane: tuple[int, int]) -> bool:
    sign, bit = plane
    return level * sign > 0 and (abs(level) >> bit) & 1 == 1


def row_groups(layer: Conv, chip: Chip) -> list[tuple[list[int], int, int, int]]:
    """(channels within a group, kernel row, kernel column, number of the block) in the order in which they fill PEs."""
    inner = len(channels_of(layer, chip)[0])
    found = []
    for block, start in enumerate(range(0, inner, chip.size)):
        for r in range(layer.kernel[0]):
            for s in range(layer.kernel[1]):
                found.append((list(range(start, min(inner, start + chip.size))), r, s, block))
    return found


def channels_of(layer: Conv, chip: Chip) -> list[list[int]]:
    """Input channels of each set of groups that shares crossbars."""
    C = len(layer.levels[0][0])
    rows, columns = C // layer.groups, layer.K // layer.groups * layer.slices
    sets: list[list[int]] = []
    held = 0
    for g in range(layer.groups):
        if not sets or (held + 1) * rows > chip.size or (held + 1) * columns > chip.size:
            sets.append([])
            held = 0
        held += 1
        sets[-1] += range(g * rows, (g + 1) * rows)
    return sets


def columns_of(layer: Conv, chip: Chip) -> int:
    """Blocks of columns of the fullest set."""
    rows = len(layer.levels[0][0]) // layer.groups
    return ceil(len(channels_of(layer, chip)[0]) // rows * (layer.K // layer.groups) * layer.slices / chip.size)


def count(chain: list[Conv], chip: Chip) -> tuple[list[dict[str, int]], int]:
    """Counts per layer, and the cycles of all of them."""
    samples = len(chain[0].levels[0])
    counts: list[dict[str, int]] = []
    spans: list[list[list[int]]] = []  # layer, sample, step
    hop_bits = []
    places: list[set[tuple[int, int, int, int]]] = []  # where and when any PE of a layer works
    for layer in chain:
        places.append(set())
        T = len(layer.levels)
        H, W = len(layer.levels[0][0][0]), len(layer.levels[0][0][0][0])
        sets, groups = channels_of(layer, chip), row_groups(layer, chip)
        inner, col_blocks = len(sets[0]), columns_of(layer, chip)
        chunks = ceil(len(groups) / chip.crossbars)
        found = dict.fromkeys(("reads", "pe_cycles"), 0)
        span = [[0] * T for _ in range(samples)]
        chunk_cycles: dict[tuple[int, int], int] = {}
        vectors: dict[tuple[int, int], int] = {}
        for n in range(samples):
            for t in range(T):
                maps = layer.levels[t][n]
                for plane in planes(layer):
                    for g in range(len(sets)):
                        for block, start in enumerate(range(0, inner, chip.size)):
                            for h in range(H):
                                for w in range(W):
                                    channels = range(start, min(inner, start + chip.size))
                                    if any(lit(maps[sets[g][c]][h][w], plane) for c in channels if c < len(sets[g])):
                                        vectors[g, block] = vectors.get((g, block), 0) + 1
                    for p in range(layer.P):
                        for q in range(layer.Q):
                            worked = False
                            for g in range(len(sets)):
                                for chunk in range(chunks):
                                    any_read = False
                                    for channels, r, s, _ in groups[
                                        chunk * chip.crossbars : (chunk + 1) * chip.crossbars
                                    ]:
                                        h = p * layer.stride[0] + r * layer.dilation[0] - layer.padding[0]
                                        w = q * layer.stride[1] + s * layer.dilation[1] - layer.padding[1]
                                        inside = 0 <= h < H and 0 <= w < W
                                        read = inside and any(
                                            lit(maps[sets[g][c]][h][w], plane) for c in channels if c < len(sets[g])
                                        )
                                        if read or not chip.skip:
                                            found["reads"] += col_blocks
                                            any_read = True
                                    if any_read:
                                        found["pe_cycles"] += col_blocks
                                        chunk_cycles[g, chunk] = chunk_cycles.get((g, chunk), 0) + 1
                                        worked = True
                            if worked:
                                span[n][t] += chip.clocks
                                places[-1].add((n, t, p, q))
        counts.append({**found, "cycles": sum(map(sum, span))})
        spans.append(span)
        hop_bits.append((vectors, chunk_cycles))
    sums = [len(each) if layer.meets is not None else 0 for layer, each in zip(chain, places, strict=True)]
    for number, (layer, hops) in enumerate(zip(chain, mesh(chain, chip, hop_bits, sums), strict=True)):
        counts[number]["bit_hops"] = hops
        branches = [other for other, one in enumerate(chain) if one.meets == number]
        working = places[number].union(*(places[other] for other in branches))
        pairs = layer.P * layer.Q * len(layer.levels) * samples if layer.always else len(working)
        words = columns_of(layer, chip) * len(channels_of(layer, chip))
        counts[number]["updates"] = 0 if layer.meets is not None else pairs * words
        counts[number]["joins"] = sum(chain[other].K * sums[other] for other in branches)
    return counts, sum(makespan(chain, [span[n] for span in spans], chip.handover) for n in range(samples))


def makespan(chain: list[Conv], spans: list[list[int]], handover: int) -> int:
    """End of one sample in layers with equal steps."""
    times: list[list[tuple[int, int, int]]] = []  # of each layer begin, span, end of every step
    for number, span in enumerate(spans):
        own: list[tuple[int, int, int]] = []
        free, hears = 0, chain[number].hears
        for t, length in enumerate(span):
            begin, took, end = times[hears][t] if hears >= 0 else (0, 0, 0)
            start = max(free, begin + ceil(took * handover / 100))
            free = max(start + length, end)
            for other in range(number):
                if chain[other].meets == number:
                    free = max(free, times[other][t][2])
            own.append((start, length, free))
        times.append(own)
    return max(own[-1][2] for own in times)


def mesh(
    chain: list[Conv],
    chip: Chip,
    traffic: list[tuple[dict[tuple[int, int], int], dict[tuple[int, int], int]]],
    sums: list[int],
) -> list[int]:
    """Bits times hops per layer; tiles lie row by row on the smallest square."""
    tile_of: list[dict[tuple[int, int, int], int]] = []
    used = 0
    for layer in chain:
        where = {}
        for g in range(len(channels_of(layer, chip))):
            for chunk in range(ceil(len(row_groups(layer, chip)) / chip.crossbars)):
                for col in range(columns_of(layer, chip)):
                    where[g, chunk, col] = used // chip.pes_per_tile
                    used += 1
        if not chip.share:
            used = ceil(used / chip.pes_per_tile) * chip.pes_per_tile
        tile_of.append(where)
    tiles = 1 + max(max(where.values()) for where in tile_of)
    side = 1
    while side * side < tiles:
        side += 1

    def distance(a: int, b: int) -> int:
        return abs(a % side - b % side) + abs(a // side - b // side)

    def sender(number: int, part: int, parts: int) -> int:
        where = tile_of[number]
        columns = [(group, col) for group, chunk, col in sorted(where) if chunk == 0]
        group, col = columns[part * len(columns) // parts]
        return where[group, 0, col]

    answers = []
    for number, layer in enumerate(chain):
        vectors, chunk_cycles = traffic[number]
        C = len(layer.levels[0][0])
        sets, where, total = channels_of(layer, chip), tile_of[number], 0
        cols = sorted({col for _, _, col in where})
        for (g, block), times in vectors.items():
            inner = len(sets[0])
            width = min(chip.size, len(sets[g]) - block * chip.size)
            origin = sender(layer.hears, g * inner + block * chip.size, C) if layer.hears >= 0 else 0
            reached = set()
            for index, (_, _, _, of_block) in enumerate(row_groups(layer, chip)):
                if of_block == block:
                    reached |= {where[g, index // chip.crossbars, col] for col in cols}
            total += sum(width * times * distance(origin, tile) for tile in reached)
        for (g, chunk), times in chunk_cycles.items():
            for col in cols:
                total += times * chip.size * chip.psum_bits * distance(where[g, chunk, col], where[g, 0, col])
        if layer.meets is not None:
            for k in range(layer.K):
                total += (
                    sums[number]
                    * chip.psum_bits
                    * distance(sender(number, k, layer.K), sender(layer.meets, k, layer.K))
                )
        answers.append(total)
    return answers
