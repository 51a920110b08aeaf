"""Slow reference of SATA_Sim's two passes: every address of every cycle, as SCALE-Sim v2 asks for it.

Output-stationary: rows hold output positions of the map without padding, columns hold filters; in each fold row r reads
its im2col entry t - r in cycle t, a fold lasts V + R + C - 2 cycles, and element (r, c) is done when it has added its last
entry, r + c cycles after row 0 read it. Weight-stationary: rows hold synapses, columns filters; a tile of weights is
loaded row by row from the first cycle on, then all positions stream through. An address beyond the map (the last window of a
strided layer) is a slot of the stream without a read of the buffer.
"""

from __future__ import annotations


def passes(
    H: int, W: int, R: int, S: int, channels: int, filters: int, stride: int, rows: int, cols: int, words: int
) -> dict[str, int]:
    """The tool's counts of one layer and the cycles of both passes; ``words`` is what the input buffer holds."""
    P = [(y, x) for y in range(0, H - R + stride, stride) for x in range(0, W - S + stride, stride)]
    entries = [(r, s, c) for r in range(R) for s in range(S) for c in range(channels)]
    V = len(entries)
    n = dict.fromkeys(("dram_ifmap_reads", "sram_ifmap_reads", "ifmap_cycles", "sram_filter_reads"), 0)
    buffer: set[tuple[int, int, int]] = set()
    start, first_output, last_output = 0, None, 0
    for first_filter in range(0, filters, cols):
        for first in range(0, len(P), rows):
            fold = P[first : first + rows]
            for t in range(V + rows + cols - 2):
                for r, (y, x) in enumerate(fold):
                    if not 0 <= t - r < V:
                        continue
                    n["sram_ifmap_reads"] += 1
                    dy, dx, c = entries[t - r]
                    word = (y + dy, x + dx, c)
                    if word[0] >= H or word[1] >= W:
                        continue
                    n["ifmap_cycles"] = start + t
                    if word not in buffer:
                        n["dram_ifmap_reads"] += 1
                        buffer.add(word)
                        if len(buffer) == words:
                            buffer.clear()
            used = min(cols, filters - first_filter)
            # results leave through the bottom row, the last of them from the first position of the fold
            last_output = start + V - 1 + (rows - 1) + (used - 1)
            leaves = start + V - 1 + rows - len(fold)
            first_output = leaves if first_output is None else first_output
            start += V + rows + cols - 2
    assert first_output is not None
    loaded, ws = 0, 0
    for first_filter in range(0, filters, cols):
        for first in range(0, V, rows):
            loaded = ws + rows - 1
            n["sram_filter_reads"] += min(rows, V - first) * min(cols, filters - first_filter)
            ws += 2 * rows + cols + len(P) - 2
    return n | {
        "dram_filter_reads": n["sram_filter_reads"],
        "filter_cycles": loaded,
        "start_cycle": first_output,
        "ofmap_cycles": last_output - first_output,
    }
