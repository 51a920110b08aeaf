"""Counts that follow in closed form once the schedules of a layer are known: section 6 of docs/models/spikex.md.

What the spikes decide is in a `Schedule`; rows, buffer sizes, clock, bandwidth and widths only scale, compare and divide.
Several schedules of one layer stand side by side, so that a search pays numpy's overhead once for all of them. Axes:
O schedules, N samples, S schedules of filter groups (one that serves all of them, or one per group), X totals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np

from spikeloom.core.arch import LayerMapping
from spikeloom.core.workload import Layer
from spikeloom.hw import dispatch as tiles
from spikeloom.hw.schedule import Schedule

#: What is counted, in the order of reports.
ACTIONS = (
    ("array", "cycles"),
    ("dram", "cycles"),
    ("pe", "add"),
    ("pe", "update"),
    ("pe", "leak"),
    ("vmem", "read"),
    ("vmem", "write"),
    ("lbuf_weight", "read"),
    ("lbuf_weight", "write"),
    ("lbuf_act", "read"),
    ("lbuf_act", "write"),
    ("glb_weight", "read"),
    ("glb_weight", "write"),
    ("glb_act", "read"),
    ("glb_act", "write"),
    ("dram_weight", "read"),
    ("dram_act", "read"),
    ("dram_out", "write"),
)
#: What is counted besides where sums of several layers meet, of those layers alone.
JOIN_ACTIONS = (
    ("pe", "join"),
    ("glb_psum", "read"),
    ("glb_psum", "write"),
    ("dram_psum", "read"),
    ("dram_psum", "write"),
)
#: Joint counts by (instance, action); each int64, shape (O,).
Actions = dict[tuple[str, str], np.ndarray]
_INT64_SAFE = 2**62


@dataclass(frozen=True, eq=False)
class ArrayCounts:
    """A layer under several choices on an array of ``rows`` rows; each method adds what one more knob decides.

    layer: without groups. choices, found: O of each. tailoring: fetch only weights of channels that spike.
    parts: layers like this one that a grouped convolution was cut into.
    """

    layer: Layer
    choices: Sequence[LayerMapping]
    found: Sequence[Schedule]
    rows: int
    tailoring: bool
    parts: int = 1

    @cached_property
    def _totals_ONSX(self) -> np.ndarray:
        return np.stack([one.totals for one in self.found])

    @cached_property
    def _rows_G(self) -> np.ndarray:
        """Rows that each filter group uses; int64 (G,)."""
        return np.array([min(self.rows, self.layer.K - k) for k in range(0, self.layer.K, self.rows)], dtype=np.int64)

    @property
    def groups(self) -> int:
        """Filter groups G."""
        return -(-self.layer.K // self.rows)

    @cached_property
    def _sums(self) -> tuple[np.ndarray, np.ndarray]:
        """Totals over samples and filter groups, plain and times the rows in use; int64 (O, X) each."""
        sums_OSX = self._totals_ONSX.sum(axis=1)
        if sums_OSX.shape[1] == 1:
            return sums_OSX[:, 0] * self.groups, sums_OSX[:, 0] * self.layer.K
        return sums_OSX.sum(axis=1), (sums_OSX * self._rows_G[:, None]).sum(axis=1)

    @cached_property
    def array_ON(self) -> np.ndarray:
        """Array cycles: filter groups follow one another, row r ends r cycles after row 0."""
        period_ONS, makespan_ONS = self._totals_ONSX[..., tiles.PERIOD], self._totals_ONSX[..., tiles.MAKESPAN]
        if period_ONS.shape[2] == 1:  # equal groups: the last ends last, or the one before it, which may use more rows
            period, makespan, last = period_ONS[..., 0], makespan_ONS[..., 0], self.groups - 1
            ends = last * period + makespan + self._rows_G[-1] - 1
            if last:
                ends = np.maximum(ends, (last - 1) * period + makespan + self.rows - 1)
            return np.asarray(np.where(makespan >= 0, ends, 0))
        start = np.cumsum(period_ONS, axis=2) - period_ONS
        return np.asarray(np.where(makespan_ONS >= 0, start + makespan_ONS + self._rows_G - 1, 0).max(axis=2))

    @cached_property
    def _dense_O1(self) -> np.ndarray:
        return np.array([[choice.dispatch == "dense"] for choice in self.choices])

    @cached_property
    def _window_O1(self) -> np.ndarray:
        return np.array([[choice.window] for choice in self.choices], dtype=np.int64)

    @cached_property
    def _map_bits_ON(self) -> np.ndarray:
        """Bits of the input map: tags of every word and the levels of the filled ones, or all levels untagged."""
        one = self.found[0]
        pixels = self.layer.C * self.layer.H * self.layer.W
        filled_ON = np.stack([found.filled for found in self.found])
        tagged_ON = -(-one.steps // self._window_O1) * pixels + filled_ON * self._window_O1 * one.level_bits
        return np.asarray(np.where(self._dense_O1, one.steps * pixels * one.level_bits, tagged_ON))

    @cached_property
    def _out_bits_ON(self) -> np.ndarray:
        """Bits of the output map in the same form where its spikes are known, else one a neuron and step; a branch has none."""
        steps = self.layer.num_steps
        outputs = 0 if self.layer.joins else self.layer.K * self.layer.P * self.layer.Q
        untagged_ON = np.full((len(self.found), self.layer.num_samples), steps * outputs, dtype=np.int64)
        if self.layer.out is None:
            return untagged_ON
        filled_ON = np.stack([found.filled_out for found in self.found if found.filled_out is not None])
        tagged_ON = -(-steps // self._window_O1) * outputs + filled_ON * self._window_O1
        return np.asarray(np.where(self._dense_O1, untagged_ON, tagged_ON))

    @cached_property
    def _weight_reads_ONS(self) -> np.ndarray:
        """Weight bits the array reads from the L1 buffer."""
        synapses_ONS = self._totals_ONSX[..., tiles.SYNAPSES]
        rows_S = self._rows_G if synapses_ONS.shape[2] > 1 else np.array([self.layer.K])
        return np.asarray(synapses_ONS * rows_S * self.layer.weight_bits)

    def _weight_traffic_ON(self, usable: float) -> np.ndarray:
        """Weight bits read into the buffer whose usable part is ``usable``: each once if a filter group fits, else per use."""
        tailored_O1 = ~self._dense_O1 & self.tailoring
        layer, first = self.layer, self.found[0]
        if first.coded is not None:
            fetched_ONG = np.where(tailored_O1[..., None], first.coded.fetched, first.coded.stored)
            fits_G = first.coded.stored <= usable
            return np.asarray(np.where(fits_G, fetched_ONG, self._weight_reads_ONS).sum(axis=2))
        kernel_rows, kernel_cols = layer.stored_extent
        per_channel = kernel_rows * kernel_cols * layer.weight_bits
        if self.rows * layer.C * per_channel > usable:
            return np.asarray(self._weight_reads_ONS.sum(axis=2))
        channels_ON = np.stack([found.channels for found in self.found])
        return np.asarray(per_channel * layer.K * np.where(tailored_O1, channels_ON, layer.C))

    def of_rows(self) -> Actions:
        """What the rows alone decide, over all samples; ``vmem`` in words of one membrane."""
        sums, by_rows = self._sums
        first = self.found[0]
        neurons = 0 if self.layer.joins else 1  # a branch has none
        membranes = (by_rows[:, tiles.TILES_A] + by_rows[:, tiles.COLUMNS_B]) * neurons
        maps = self._map_bits_ON.sum(axis=1) * self.groups
        return {
            ("array", "cycles"): self.array_ON.sum(axis=1),
            ("pe", "add"): np.full(len(self.found), first.additions, dtype=np.int64),
            ("pe", "update"): by_rows[:, tiles.UPDATES] * neurons,
            ("pe", "leak"): by_rows[:, tiles.LEAKS] * neurons,
            ("vmem", "read"): membranes,
            ("vmem", "write"): membranes,
            ("lbuf_weight", "read"): self._weight_reads_ONS.sum(axis=(1, 2)),
            ("lbuf_act", "read"): sums[:, tiles.STEP_LEVELS] * first.level_bits,
            ("lbuf_act", "write"): maps,
            ("glb_act", "read"): maps,
            ("dram_out", "write"): self._out_bits_ON.sum(axis=1),
        }

    def of_lbuf(self, usable: float) -> Actions:
        """What the usable bits of an L1 buffer part decide as well."""
        bits = self._weight_traffic_ON(usable).sum(axis=1)
        return {("lbuf_weight", "write"): bits, ("glb_weight", "read"): bits}

    def of_glb(self, usable: float) -> Actions:
        """What the usable bits of a global buffer part decide as well."""
        weight, act = self._weight_traffic_ON(usable).sum(axis=1), self._act_traffic_ON(usable).sum(axis=1)
        return {
            ("glb_weight", "write"): weight,
            ("glb_act", "write"): act,
            ("dram_weight", "read"): weight,
            ("dram_act", "read"): act,
        }

    def of_joins(self, psum_bit: int, usable: float, per_window: bool) -> Actions:
        """Sums of ``psum_bit`` bits that meet those of other layers, over all samples; 0 where none do.

        usable: bits of the global buffer in which those of all steps wait, or of a window's; if too few, they pass through DRAM.
        """
        layer, none = self.layer, np.zeros(len(self.found), dtype=np.int64)
        waiting_O = np.minimum(self._window_O1[:, 0], layer.num_steps) if per_window else none + layer.num_steps
        kept_O = psum_bit * layer.K * self.parts * layer.P * layer.Q * waiting_O
        sums = none + layer.num_sums * layer.num_samples
        written, read = sums * bool(layer.joins), sums * len(layer.branches)
        parked = kept_O > usable
        return {
            ("pe", "join"): read,
            ("glb_psum", "read"): psum_bit * (read + written * parked),
            ("glb_psum", "write"): psum_bit * (written + read * parked),
            ("dram_psum", "read"): psum_bit * read * parked,
            ("dram_psum", "write"): psum_bit * written * parked,
        }

    def _act_traffic_ON(self, usable: float) -> np.ndarray:
        """Bits of the input map read from DRAM: once if the whole map fits, else once per filter group."""
        return np.asarray(self._map_bits_ON * np.where(self._map_bits_ON <= usable, 1, self.groups))

    def dram_bits_ON(self, usable_glb: float, sums: Actions) -> np.ndarray:
        """All bits to and from DRAM; those of ``sums``, made by `of_joins`, are as many in every sample."""
        sums_O = (sums["dram_psum", "read"] + sums["dram_psum", "write"]) // self.layer.num_samples
        maps_ON = self._act_traffic_ON(usable_glb) + self._out_bits_ON
        return np.asarray(self._weight_traffic_ON(usable_glb) + maps_ON + sums_O[:, None])

    def statistics(self) -> dict[str, np.ndarray]:
        """What utilisation is made of; int64 (O,) each."""
        sums, by_rows = self._sums
        constant = np.ones(len(self.found), dtype=np.int64)
        return {
            "tiles": sums[:, tiles.TILES],
            "synapses": sums[:, tiles.SYNAPSES],
            "steps": sums[:, tiles.STEPS],
            "tags": sums[:, tiles.TAGS],
            "slots": sums[:, tiles.SLOTS],
            "busy_row_slots": by_rows[:, tiles.BUSY],
            "filters": constant * self.layer.K,
            "filter_slots": constant * self.groups * self.rows,
        }


def transfer_cycles(bits: np.ndarray, cycles_per_bit: Fraction) -> np.ndarray:
    """ceil(bits * cycles_per_bit), exact: in int64 where the product fits, else in Python's integers."""
    up, down = cycles_per_bit.numerator, cycles_per_bit.denominator
    if max(up, 1) * int(bits.max(initial=0)) < _INT64_SAFE and down < _INT64_SAFE:
        return np.asarray(-(-bits * up // down))
    exact = [-(-n * up // down) for n in bits.reshape(-1).tolist()]
    return np.array(exact, dtype=np.int64).reshape(bits.shape)
