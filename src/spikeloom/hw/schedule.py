"""From a layer to the totals of its tile schedule, sample by sample: sets up the kernels of ``dispatch`` and ``bits``."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from spikeloom.core.trace import Levels, Spikes
from spikeloom.core.workload import Layer
from spikeloom.hw import dispatch as tiles
from spikeloom.hw.bits import (
    count_ones,
    filled_words,
    fired_windows,
    summarise_tags,
    tag_groups,
    tag_levels,
    tag_spikes,
)
from spikeloom.hw.memory import active_channels, stored_weight_bits
from spikeloom.hw.merge import COMPATIBLE

#: Part of every `ScheduleKey`; goes up when a kernel counts differently, so that kept schedules are not taken for current.
SCHEDULE_VERSION = 1


@dataclass(frozen=True)
class Rules:
    """How a time-batched array schedules one layer; integers are those of ``dispatch``.

    rows: PE rows where weights are skipped, which makes filter groups differ; else 0, for any number of them.
    fires_silently: silent windows of the layer may fire. every_window: no window may be skipped.
    """

    rows: int
    cols: int
    window: int
    dispatch: int
    interleave: bool
    merge: int
    zskip: bool
    adders: int
    decay: int
    tag_width: int
    skip_weights: bool
    fires_silently: bool
    every_window: bool


@dataclass(frozen=True, eq=False)
class _Geometry:
    """Index arrays of one layer on a map with its zero halo."""

    num_pixels: int
    padded_width: int
    corner: int
    first_pixel: np.ndarray
    offsets: np.ndarray
    num_words: int


def _geometry(layer: Layer) -> _Geometry:
    """The indices of a layer; the same for every sample and window."""
    extents = (*layer.framed_extent, layer.R, layer.S, layer.P, layer.Q)
    return _indices(layer.C, extents, layer.stride, layer.padding, layer.dilation)


@functools.lru_cache(maxsize=1024)
def _indices(
    C: int,
    extents: tuple[int, int, int, int, int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> _Geometry:
    """Indices for C channels and extents (rows, columns, R, S, P, Q), the framed map's; the same for every sample and window."""
    height, width, R, S, P, Q = extents
    p, q = np.divmod(np.arange(P * Q, dtype=np.int64), Q)
    r, s = np.divmod(np.arange(R * S, dtype=np.int64), S)
    return _Geometry(
        height * width,
        width,
        padding[0] * width + padding[1],
        p * stride[0] * width + q * stride[1],
        r * dilation[0] * width + s * dilation[1],
        -(-C // 64),
    )


@dataclass(frozen=True)
class ScheduleKey:
    """What a schedule depends on: the content of a layer, which of its convolution groups, and the rules."""

    layer_id: str
    group: int
    rules: Rules
    version: int = SCHEDULE_VERSION


@dataclass(frozen=True, eq=False)
class CodedWeights:
    """Bits of coded weights by filter group G: all of them, int64 (G,), and those of a sample's active channels, int64 (N, G)."""

    stored: np.ndarray
    fetched: np.ndarray


@dataclass(frozen=True, eq=False)
class Schedule:
    """Everything the spikes decide about one layer; int64 arrays over samples (and filter-group schedules).

    filled, filled_out: non-zero words of the input and, where it is known, of the output. channels: that spike at all.
    steps: integrated (one for a constant input). level_bits: of one stored level, with its sign.
    additions: of single ones, over all samples. coded: None where weights are not skipped.
    """

    totals: np.ndarray  # (N, schedules, NUM_TOTALS)
    filled: np.ndarray  # (N,)
    channels: np.ndarray  # (N,)
    filled_out: np.ndarray | None  # (N,)
    steps: int
    level_bits: int
    additions: int
    coded: CodedWeights | None = None


def groups_of(layer: Layer) -> Iterator[Layer]:
    """Each group of a grouped convolution as a convolution of its own, under the layer's name, with what its neurons hear of branches."""
    each = layer.K // layer.groups
    for first in range(0, layer.K, each):
        yield layer if layer.groups == 1 else _filters_of(layer, first, first + each)


def _filters_of(layer: Layer, first: int, stop: int) -> Layer:
    """The filters first..stop of a layer and the channels of all groups that share one with them, as one group."""
    inner, outer = layer.C // layer.groups, layer.K // layer.groups
    channels, filters = slice(first // outer * inner, -(-stop // outer) * inner), slice(first, stop)
    if isinstance(layer.arrival, Spikes):
        arrival: Spikes | Levels = replace(layer.arrival, packed=layer.arrival.packed[:, :, channels])
    else:
        arrival = replace(layer.arrival, values=layer.arrival.values[:, :, channels])
    return replace(
        layer,
        C=channels.stop - channels.start,
        K=stop - first,
        groups=1,
        arrival=arrival,
        out=None if layer.out is None else replace(layer.out, packed=layer.out.packed[:, :, filters]),
        weight=None if layer.weight is None else layer.weight[filters],
        branches=tuple(_filters_of(branch, first, stop) for branch in layer.branches),
    )


def integrated_once(layer: Layer) -> bool:
    """A constant direct-coded input is integrated in one step and its sum reused."""
    return isinstance(layer.arrival, Levels) and layer.arrival.analog and layer.arrival.constant()


def _window_tags(layer: Layer, n: int, window: int, pad: tuple[int, int]) -> np.ndarray:
    """Bit o where any channel of a pixel holds a level in window o of sample n; uint64 (pixels with their halo, ceil(N/64))."""
    if isinstance(layer.arrival, Spikes):
        channels = np.bitwise_or.reduce(layer.arrival.packed[:, n], axis=1)
        held_THW = np.unpackbits(channels, axis=0, count=layer.num_steps, bitorder="little")
    else:
        held_THW = (layer.arrival.values[:, n] != 0).any(axis=1)
    tags_OHW = np.logical_or.reduceat(held_THW, np.arange(0, layer.num_steps, window), axis=0)
    tags_OHW = np.pad(tags_OHW, ((0, -len(tags_OHW) % 64), (pad[0],) * 2, (pad[1],) * 2))
    packed = np.packbits(tags_OHW.reshape(len(tags_OHW), -1).T, axis=1, bitorder="little")
    return np.ascontiguousarray(packed).view(np.uint64)


def _coded_weights(layer: Layer, rows: int) -> CodedWeights:
    seen, which = np.unique(active_channels(layer), axis=0, return_inverse=True)
    fetched = np.stack([stored_weight_bits(layer, rows, channels) for channels in seen])[which.reshape(-1)]
    return CodedWeights(stored_weight_bits(layer, rows), fetched)


def _masks(layer: Layer, rows: int, num_words: int) -> np.ndarray:
    """Per filter group, the synapses with a non-zero weight in some row; uint64 (groups, R*S, words)."""
    assert layer.weight is not None
    masks = []
    for k in range(0, layer.K, rows):
        kept = (layer.weight[k : k + rows] != 0).any(axis=0).reshape(layer.C, -1).T  # R*S C
        padded = np.zeros((kept.shape[0], num_words * 64), dtype=bool)
        padded[:, : layer.C] = kept
        masks.append(np.packbits(padded, axis=1, bitorder="little").view(np.uint64))
    return np.stack(masks)


@dataclass(frozen=True, eq=False)
class _Family:
    """Rules that differ in dispatch, order and merging only, and where their schedules go: tags are made once for all.

    found: by dispatch, then by merge, then by order (interleaved or not), int64 (N, schedules, NUM_TOTALS).
    """

    rules: Rules
    filled: np.ndarray
    channels: np.ndarray
    filled_out: np.ndarray | None
    found: dict[int, dict[int, dict[bool, np.ndarray]]]


class _Sampler:
    """Scratch memory of one thread and the run of one sample through it."""

    def __init__(self, layer: Layer, family: _Family, geometry: _Geometry, masks: np.ndarray) -> None:
        self.layer, self.family, self.geometry, self.masks = layer, family, geometry, masks
        self.rules = rules = family.rules
        once = integrated_once(layer)
        self.steps = 1 if once else layer.num_steps
        starts = np.arange(0, self.steps, rules.window, dtype=np.int64)
        self.levels_of = np.minimum(rules.window, self.steps - starts)
        self.updates_of = np.array([layer.num_steps], dtype=np.int64) if once else self.levels_of
        # a constant input has one window that covers every step, also for the outputs that fire and the sums that meet in it
        self.fired_window = layer.num_steps if once else rules.window
        windows, pixels = len(starts), geometry.num_pixels
        self.tags = np.empty((windows, geometry.num_words, pixels), np.uint64)
        self.ones = np.empty((windows, pixels, layer.C) if rules.zskip else (0, 0, 0), np.uint16)
        # ptb takes its columns as consecutive windows, so their tags can lie side by side
        grouped = max(family.found.get(tiles.PTB, {1: {}})) > 1 and 2 < rules.cols <= 8
        grouped = grouped and not rules.zskip and masks.size == 0
        self.groups = np.empty((-(-windows // rules.cols) if grouped else 0, layer.C, pixels), np.uint8)
        self.no_groups = np.empty((0, layer.C, pixels), np.uint8)
        self.any_tag = np.empty((pixels, -(-windows // 64)), np.uint64)
        self.active = np.empty((len(geometry.first_pixel), -(-windows // 64)), np.uint64)
        self.last = np.empty(layer.K * layer.P * layer.Q, np.int64)

    def tag(self, n: int) -> None:
        """The tag maps of sample n, its filled words and its active channels."""
        layer, window, family = self.layer, self.rules.window, self.family
        place = (window, layer.H, layer.W, self.geometry.corner, self.geometry.padded_width)
        self.tags.fill(0)
        self.any_tag.fill(0)
        packed, values = np.empty((0, 0), np.uint8), np.empty((0, 0), np.int32)
        if isinstance(layer.arrival, Spikes):
            packed = np.ascontiguousarray(layer.arrival.packed[:, n]).reshape(layer.arrival.packed.shape[0], -1)
            family.channels[n] = tag_spikes(packed, self.steps, *place, self.tags)
        else:
            values = layer.arrival.values[: self.steps, n].reshape(self.steps, -1).astype(np.int32)
            family.channels[n] = tag_levels(values, *place, self.tags)
        family.filled[n] = summarise_tags(self.tags, self.any_tag)
        if self.rules.zskip:
            self.ones.fill(0)
            count_ones(packed, values, *place, self.ones)
        if self.groups.size:
            self.groups.fill(0)
            tag_groups(self.tags, self.rules.cols, self.groups)

    def activate(self, n: int) -> None:
        """The windows of every position that must be processed."""
        rules, family = self.rules, self.family
        self.active.fill(0)
        if self.layer.out is not None and family.filled_out is not None:
            out = np.ascontiguousarray(self.layer.out.packed[:, n]).reshape(self.layer.out.packed.shape[0], -1)
            family.filled_out[n] = filled_words(out, rules.window, self.last)
            if rules.fires_silently:
                fired_windows(out, len(self.active), self.fired_window, self.active)
        if rules.every_window:
            for o in range(len(self.levels_of)):
                self.active[:, o >> 6] |= np.uint64(1 << (o & 63))
        else:
            tiles.active_windows(self.any_tag, self.geometry.first_pixel, self.geometry.offsets, self.active)
            for branch in self.layer.branches:  # in windows of these neurons, whatever those of the branch are
                tags, where = _window_tags(branch, n, self.fired_window, branch.padding), _geometry(branch)
                tiles.active_windows(tags, where.first_pixel, where.offsets, self.active)

    def run(self, n: int) -> None:
        """Schedule sample n by every rule of the family."""
        self.tag(n)
        self.activate(n)
        for dispatch, by_merge in self.family.found.items():
            self.dispatch(n, dispatch, by_merge)

    def dispatch(self, n: int, dispatch: int, by_merge: dict[int, dict[bool, np.ndarray]]) -> None:
        """Run the tiles of one dispatch; one schedule serves all filter groups unless masks make them differ."""
        rules, layer, geometry = self.rules, self.layer, self.geometry
        column_x, column_o, tile_start, rank = tiles.list_tiles(self.active, len(self.levels_of), rules.cols, dispatch)
        num_tiles = len(tile_start) - 1
        interleaved = tiles.interleaved(rank, num_tiles)
        every_synapse = layer.C * layer.R * layer.S
        merges = np.array(list(by_merge), dtype=np.int64)
        for g in range(max(1, self.masks.shape[0])):
            mask = self.masks[g] if self.masks.size else np.empty((0, 0), np.uint64)
            integration = np.empty((len(merges), num_tiles), np.int64)
            totals = np.zeros((len(merges), tiles.NUM_TOTALS), np.int64)
            tiles.integrate_tiles(
                self.tags.reshape(-1),
                (geometry.num_pixels, geometry.num_words),
                self.ones,
                mask,
                geometry.first_pixel,
                geometry.offsets,
                column_x,
                column_o,
                tile_start,
                len(rank),
                int(np.bitwise_count(mask).sum()) if mask.size else every_synapse,
                self.groups if dispatch == tiles.PTB else self.no_groups,
                rules.cols,
                dispatch == tiles.DENSE,
                merges,
                rules.adders,
                1 if isinstance(layer.arrival, Spikes) else layer.arrival.bits,
                self.levels_of,
                COMPATIBLE,
                integration,
                totals,
            )
            for k, by_order in enumerate(by_merge.values()):
                for interleave, found in by_order.items():
                    found[n, g] = totals[k]
                    tiles.time_tiles(
                        column_x,
                        column_o,
                        tile_start,
                        len(rank),
                        interleaved if interleave else interleaved[:0],
                        len(geometry.first_pixel),
                        integration[k],
                        self.updates_of,
                        rules.window,
                        rules.decay,
                        -(-every_synapse // rules.tag_width),
                        found[n, g],
                    )


def schedules(layer: Layer, rules: Sequence[Rules], threads: int) -> list[Schedule]:
    """The tile schedules of a layer under each of ``rules``, all with the same weights skipped or not.

    Rules that share a window share its tags. Samples run in parallel, each thread with memory of its own.
    """
    geometry = _geometry(layer)
    first = rules[0]
    masks = _masks(layer, first.rows, geometry.num_words) if first.skip_weights else np.empty((0, 0, 0), np.uint64)
    arrival, steps = layer.arrival, 1 if integrated_once(layer) else layer.num_steps
    level_bits = 1 if isinstance(arrival, Spikes) else arrival.bits + int(arrival.signed)
    additions = layer.synops
    if isinstance(arrival, Levels):
        additions = layer.met(replace(arrival, values=arrival.values[:steps]).ones().sum(axis=0))
    coded = _coded_weights(layer, first.rows) if first.skip_weights else None
    num_samples = layer.num_samples
    families: dict[Rules, _Family] = {}
    found = []
    for one in rules:
        shared = replace(one, dispatch=0, interleave=False, merge=1)
        assert (one.rows, one.skip_weights) == (first.rows, first.skip_weights)
        if shared not in families:
            arrays = [np.zeros(num_samples, np.int64) for _ in range(3)]
            families[shared] = _Family(shared, arrays[0], arrays[1], None if layer.out is None else arrays[2], {})
        family = families[shared]
        totals = np.zeros((num_samples, max(1, masks.shape[0]), tiles.NUM_TOTALS), np.int64)
        by_order = family.found.setdefault(one.dispatch, {}).setdefault(one.merge, {})
        totals = by_order.setdefault(one.interleave, totals)
        found.append(
            Schedule(totals, family.filled, family.channels, family.filled_out, steps, level_bits, additions, coded)
        )

    workers = min(threads, num_samples)
    for family in families.values():

        def run(samples: range, family: _Family = family) -> None:
            sampler = _Sampler(layer, family, geometry, masks)
            for n in samples:
                sampler.run(n)

        if workers == 1:
            run(range(num_samples))
        else:
            with ThreadPoolExecutor(workers) as pool:
                list(pool.map(run, [range(k, num_samples, workers) for k in range(workers)]))
    return found
