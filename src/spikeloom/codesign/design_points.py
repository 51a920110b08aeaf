"""Very many machines on the same spikes, exactly: every figure ``evaluate`` gives, a million times a second on one core.

A design point is one value of every knob of the array and one option (window, dispatch, order, merging) of every layer. Knobs
come from lists, so what a layer counts under each combination that matters to it is tabulated once, by the closed form the
machine itself uses; a point then adds up rows of tables and multiplies them with prices.

    E = sum over columns of (sum over layers of count) * price + leakage power * latency,    latency = cycles / clock

Tables by axes: L layers, C cols, R rows, B sizes of the L1 buffer, G sizes of the global buffer, Q cycles per DRAM bit,
O options, A columns of counts, P widths of partial sums, M widths of membranes, W windows, F what a global buffer has to hold: each of
its sizes, where sums of several layers meet in it with each of their widths.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np
from numba import njit

from spikeloom.codesign.mapping import mapped, refuse_shared_windows, time_batched
from spikeloom.components import load_table
from spikeloom.core.arch import AbstractArch, Charge, LayerMapping
from spikeloom.core.workload import Layer, Workload
from spikeloom.cost import standing, unit_prices
from spikeloom.errors import ConfigError
from spikeloom.files.schema import nearest
from spikeloom.hw.base import CountCache
from spikeloom.hw.closed_form import ACTIONS, JOIN_ACTIONS, Actions, transfer_cycles
from spikeloom.hw.spikex import Spikex, SpikexArch, cycles_per_bit

#: Fields of the machine that differ from point to point, in the order of `DesignPoints.knobs`.
KNOBS = ("rows", "cols", "lbuf", "glb", "clock", "dram_bandwidth", "psum_bit", "membrane_bit")
_ROWS, _COLS, _LBUF, _GLB, _CLOCK, _BANDWIDTH, _PSUM, _MEMBRANE = range(len(KNOBS))
_MOST_VALUES = np.iinfo(np.int16).max


@dataclass(frozen=True, eq=False)
class DesignPoints:
    """Design points as indices into the values and options of a `DesignTables`.

    knobs: int16 (n, knobs), in the order of KNOBS. option: int16 (n, layers).
    """

    knobs: np.ndarray
    option: np.ndarray

    def __len__(self) -> int:
        return len(self.knobs)


@dataclass(frozen=True, eq=False)
class DesignFigures:
    """What every point spends: means per inference, SI; cycles (int64) over all samples. Each of shape (n,).

    area_m2: None where the table prices no area.
    """

    energy_j: np.ndarray
    latency_s: np.ndarray
    area_m2: np.ndarray | None
    cycles: np.ndarray

    @property
    def edp_js(self) -> np.ndarray:
        """Energy-delay product of one inference."""
        return np.asarray(self.energy_j * self.latency_s)


@dataclass(frozen=True, eq=False)
class _Columns:
    """Counts that one set of knobs decides: int64 table (..., A), and by column the actions that share it."""

    table: np.ndarray
    actions: tuple[tuple[tuple[str, str], ...], ...]


@dataclass(frozen=True, eq=False)
class DesignTables:
    """What one workload counts on every combination of knobs; made by `design_tables`.

    values: by knob, what it may be, SI. Layers and options in the order of `DesignPoints.option`.
    """

    arch: SpikexArch
    layers: tuple[str, ...]
    options: tuple[LayerMapping, ...]
    values: Mapping[str, tuple[Any, ...]]
    num_samples: int
    of_rows: _Columns = field(repr=False)  # L C R O A
    of_lbuf: _Columns = field(repr=False)  # L C R B O A
    of_glb: _Columns = field(repr=False)  # L C R F O A
    cycles: np.ndarray = field(repr=False)  # int64 L C R F Q O
    fit: np.ndarray = field(repr=False)  # psum_bit, glb -> F
    ratio: np.ndarray = field(repr=False)  # clock, bandwidth -> Q
    prices: np.ndarray = field(repr=False)  # joules P M B G A, all columns
    watts: _Standing = field(repr=False)
    area: _Standing | None = field(repr=False)

    def points(self, option: np.ndarray, **knobs: Any) -> DesignPoints:
        """Points from values: one array (n,) or one value a knob; a knob left out has its first value.

        option: indices into ``options``, shape (n, layers). Raises ConfigError for a value that was not tabulated.
        """
        option = np.asarray(option)
        if option.ndim != 2 or option.shape[1] != len(self.layers):
            raise ConfigError(f"option: got shape {list(option.shape)}, expected [points, {len(self.layers)} layers]")
        chosen = np.zeros((len(option), len(KNOBS)), np.int16)
        for name, wanted in knobs.items():
            if name not in KNOBS:
                raise ConfigError(f"{name}: unknown knob{nearest(name, KNOBS)}; known are {', '.join(KNOBS)}")
            known = np.array(self.values[name], dtype=np.float64)
            order = np.argsort(known)
            values = np.asarray(wanted, dtype=np.float64)
            at = order[np.minimum(np.searchsorted(known[order], values), len(known) - 1)]
            if not (known[at] == values).all():
                strange = values[known[at] != values].reshape(-1)[0]
                raise ConfigError(f"{name}: got {strange:g}, expected one of {list(self.values[name])}")
            chosen[:, KNOBS.index(name)] = at
        return self._checked(DesignPoints(chosen, option))

    def random(self, number: int, rng: np.random.Generator) -> DesignPoints:
        """Points drawn evenly from all."""
        sizes = [len(self.values[name]) for name in KNOBS]
        return DesignPoints(
            np.column_stack([rng.integers(0, size, number, dtype=np.int16) for size in sizes]),
            rng.integers(0, len(self.options), (number, len(self.layers)), dtype=np.int16),
        )

    def machine(self, points: DesignPoints, index: int) -> SpikexArch:
        """One point as a machine, for ``evaluate`` or a file."""
        chosen: dict[str, Any] = {
            name: self.values[name][k] for name, k in zip(KNOBS, points.knobs[index].tolist(), strict=True)
        }
        layers = {name: self.options[k] for name, k in zip(self.layers, points.option[index].tolist(), strict=True)}
        return mapped(replace(self.arch, **chosen), layers)

    def evaluate(self, points: DesignPoints) -> DesignFigures:
        """What every point spends; equal to ``evaluate`` of each ``machine`` up to the rounding of sums."""
        points = self._checked(points)
        cycles = np.empty(len(points), np.int64)
        joules = np.empty(len(points))
        watts, area = np.empty(len(points)), np.empty(len(points))
        hertz = np.array(self.values["clock"], dtype=np.float64)
        windows = np.array([option.window for option in self.options])
        rank_O = np.searchsorted(np.unique(windows), windows)
        tables = (
            self.of_rows.table,
            self.of_lbuf.table,
            self.of_glb.table,
            self.cycles,
            self.fit,
            self.ratio,
            self.prices,
        )
        standing_area = self.area or self.watts  # one signature for the kernel; the result is not used without area
        standing_of = (self.watts.pe, self.watts.lbuf, self.watts.glb)
        area_of = (standing_area.pe, standing_area.lbuf, standing_area.glb)
        _add_up(points.knobs, points.option, *tables, rank_O, standing_of, area_of, joules, cycles, watts, area)
        latency = cycles / hertz[points.knobs[:, _CLOCK]]
        return DesignFigures(
            (joules + watts * latency) / self.num_samples,
            latency / self.num_samples,
            None if self.area is None else area,
            cycles,
        )

    def _checked(self, points: DesignPoints) -> DesignPoints:
        """Contiguous int16 within the tables, for the kernel does not look."""
        knobs = np.ascontiguousarray(points.knobs, dtype=np.int16)
        option = np.ascontiguousarray(points.option, dtype=np.int16)
        if knobs.shape != (len(option), len(KNOBS)) or option.shape != (len(option), len(self.layers)):
            raise ConfigError(
                f"design points: got shapes {list(knobs.shape)} and {list(option.shape)}, "
                f"expected [points, {len(KNOBS)}] and [points, {len(self.layers)}]"
            )
        sizes = [len(self.values[name]) for name in KNOBS]
        for name, indices, size in [
            *zip(KNOBS, knobs.T, sizes, strict=True),
            ("option", option, len(self.options)),
        ]:
            if indices.size and not 0 <= indices.min() <= indices.max() < size:
                raise ConfigError(f"{name}: got index {indices.min()}..{indices.max()}, expected 0..{size - 1}")
        return DesignPoints(knobs, option)


@dataclass(frozen=True, eq=False)
class _Standing:
    """Watts of leakage, or square metres: of the array R C P M W, of the L1 buffer (B,), of the global buffer (G,)."""

    pe: np.ndarray
    lbuf: np.ndarray
    glb: np.ndarray


def design_tables(
    workload: Workload,
    arch: AbstractArch,
    options: Iterable[LayerMapping],
    values: Mapping[str, Sequence[Any]] | None = None,
    *,
    cache: CountCache | None = None,
    threads: int | None = None,
) -> DesignTables:
    """Tabulate a workload over options of its layers and values of knobs.

    Args:
        workload: from ``load_workload`` or ``lower``.
        arch: a `SpikexArch`; what is not in ``values`` stays as it is there, its mapping does not matter.
        options: what a layer may choose, e.g. ``MappingChoices().options()``.
        values: by knob of KNOBS, the values (SI) it may take.
        cache: schedules counted before.
        threads: samples counted in parallel; by default all cores.

    Raises:
        ConfigError: an unknown knob, or a value no machine may have.
        MappingError: the machine cannot run a layer, or does not let the layers choose their options one by one.
        CostError: a part outside the range of its price table.
    """
    arch, options = time_batched(arch), tuple(dict.fromkeys(options))
    chosen = _values(arch, values or {})
    if not options or len(options) > _MOST_VALUES:
        raise ConfigError(f"options: got {len(options)}, expected 1..{_MOST_VALUES}")
    run = Spikex().runs(workload, arch).layers
    refuse_shared_windows(run, arch)
    layers = tuple(layer.name for layer in run)
    for option in options:
        Spikex().map(workload, mapped(arch, dict.fromkeys(layers or ("",), option)))
    ratios = [[cycles_per_bit(f, b) for b in chosen["dram_bandwidth"]] for f in chosen["clock"]]
    distinct = sorted({ratio for row in ratios for ratio in row})
    widths = chosen["psum_bit"] if any(layer.branches for layer in run) else ()
    counted = _count(run, arch, options, chosen, distinct, widths, {} if cache is None else cache, threads)
    number = len(chosen["glb"])
    fit = np.arange(max(1, len(widths)) * number).reshape(-1, number)
    by_rows, by_lbuf, by_glb = (_columns(table, actions) for table, actions in counted[:3])
    windows = sorted({option.window for option in options})
    return DesignTables(
        arch, layers, options, chosen, workload.num_samples,
        by_rows, by_lbuf, by_glb, counted[3], np.broadcast_to(fit, (len(chosen["psum_bit"]), number)).copy(),
        np.array([[distinct.index(ratio) for ratio in row] for row in ratios]),
        _prices(arch, chosen, [*by_rows.actions, *by_lbuf.actions, *by_glb.actions]),
        *_standing(arch, chosen, windows),
    )  # fmt: skip


def _values(arch: SpikexArch, values: Mapping[str, Sequence[Any]]) -> dict[str, tuple[Any, ...]]:
    chosen = {}
    for name in values:
        if name not in KNOBS:
            raise ConfigError(f"{name}: unknown knob{nearest(name, KNOBS)}; known are {', '.join(KNOBS)}")
    for name in KNOBS:
        chosen[name] = tuple(dict.fromkeys(values.get(name, (getattr(arch, name),))))
        if not 0 < len(chosen[name]) <= _MOST_VALUES:
            raise ConfigError(f"{name}: got {len(chosen[name])} values, expected 1..{_MOST_VALUES}")
        for value in chosen[name]:
            knob: dict[str, Any] = {name: value}
            replace(arch, **knob)  # refuses what no machine may have
    return chosen


def _count(
    layers: tuple[Layer, ...],
    arch: SpikexArch,
    options: tuple[LayerMapping, ...],
    values: Mapping[str, tuple[Any, ...]],
    ratios: Sequence[Fraction],
    widths: Sequence[int],
    cache: CountCache,
    threads: int | None,
) -> tuple[Any, ...]:
    """Tables of the counts that rows, L1 buffer and global buffer decide, each with its actions, and the cycles.

    widths: of partial sums, where those of several layers meet; else none.
    """
    machines = [[replace(arch, rows=r, cols=c) for r in values["rows"]] for c in values["cols"]]
    lbufs, glbs = (values[name] for name in ("lbuf", "glb"))
    fits = [(width, replace(arch, glb=size).usable_glb) for width in widths or (0,) for size in glbs]
    shape = (len(layers), len(values["cols"]), len(values["rows"]))
    by_rows: list[Actions] = []
    by_lbuf: list[Actions] = []
    by_glb: list[Actions] = []
    cycles = np.zeros((*shape, len(fits), len(ratios), len(options)), np.int64)
    for at in np.ndindex(shape):
        k, c, r = at
        parts = Spikex().scheduled(layers[k], machines[c][r], options, threads=threads, cache=cache)
        by_rows.append(_added(part.of_rows() for part in parts))
        by_lbuf += [_added(part.of_lbuf(replace(arch, lbuf=x).usable_lbuf) for part in parts) for x in lbufs]
        for f, (width, usable) in enumerate(fits):
            sums = [part.of_joins(width, usable, False) for part in parts]
            by_glb.append(
                _added(part.of_glb(usable) | (each if widths else {}) for part, each in zip(parts, sums, strict=True))
            )
            for part, each in zip(parts, sums, strict=True):
                bits_ON = part.dram_bits_ON(usable, each)
                for q, ratio in enumerate(ratios):
                    cycles[at][f, q] += np.maximum(part.array_ON, transfer_cycles(bits_ON, ratio)).sum(axis=1)
    return (_table(by_rows, shape), _table(by_lbuf, (*shape, len(lbufs))), _table(by_glb, (*shape, len(fits))), cycles)


def _added(parts: Iterable[Actions]) -> Actions:
    """Groups of a grouped convolution run one after another."""
    return functools.reduce(lambda a, b: {pair: a[pair] + b[pair] for pair in a}, parts)


def _table(counts: Sequence[Actions], shape: tuple[int, ...]) -> tuple[np.ndarray, tuple[tuple[str, str], ...]]:
    """int64 (*shape, O, A) and the action of each column."""
    actions = tuple(counts[0])
    rows = np.stack([np.stack([each[pair] for pair in actions], axis=1) for each in counts])
    return rows.reshape(*shape, *rows.shape[1:]), actions


def _columns(table: np.ndarray, actions: Sequence[tuple[str, str]]) -> _Columns:
    """Columns that are paid for, equal ones once."""
    shared: list[tuple[np.ndarray, list[tuple[str, str]]]] = []
    for a, pair in enumerate(actions):
        column = table[..., a]
        for known, pairs in shared:
            if np.array_equal(known, column):
                pairs.append(pair)
                break
        else:
            shared.append((column, [pair]))
    return _Columns(
        np.ascontiguousarray(np.stack([column for column, _ in shared], axis=-1)),
        tuple(tuple(pairs) for _, pairs in shared),
    )


def _prices(
    arch: SpikexArch, values: Mapping[str, tuple[Any, ...]], columns: Sequence[Sequence[tuple[str, str]]]
) -> np.ndarray:
    """Joules of one count of each column; float64 (P, M, B, G, A). Membranes are counted in words, and priced as such."""
    table = load_table(arch.table)
    known: dict[tuple[tuple[str, str], tuple[Charge, ...]], float] = {}
    knobs = ("psum_bit", "membrane_bit", "lbuf", "glb")
    sizes = [len(values[name]) for name in knobs]
    prices = np.empty((*sizes, len(columns)))
    for at in np.ndindex(*sizes):
        chosen: dict[str, Any] = {name: values[name][k] for name, k in zip(knobs, at, strict=True)}
        machine = replace(arch, **chosen)
        charges = machine.charges()
        for pair in (*ACTIONS, *JOIN_ACTIONS):
            if (pair, charges[pair]) not in known:
                known[pair, charges[pair]] = unit_prices([pair], machine, table)[0][pair]
        for a, pairs in enumerate(columns):
            prices[at][a] = sum(
                known[pair, charges[pair]] * (machine.membrane_bit if pair[0] == "vmem" else 1) for pair in pairs
            )
    return prices


def _standing(
    arch: SpikexArch, values: Mapping[str, tuple[Any, ...]], windows: Sequence[int]
) -> tuple[_Standing, _Standing | None]:
    """Leakage and area: the buffers depend on their own size only, everything else on the array and its registers."""
    table = load_table(arch.table)
    buffers = ("lbuf", "glb")
    knobs = ("rows", "cols", "psum_bit", "membrane_bit")
    found = []
    for ask, what in ((functools.cache(table.leakage), "leakage"), (functools.cache(table.area), "area")):

        def by_instance(machine: SpikexArch, ask: Any = ask, what: str = what) -> dict[str, float]:
            return standing(machine.inventory(), ask, what)[0]

        sizes = [len(values[name]) for name in knobs]
        pe = np.empty((*sizes, len(windows)))
        for at in np.ndindex(*sizes):
            chosen: dict[str, Any] = {name: values[name][k] for name, k in zip(knobs, at, strict=True)}
            machine = replace(arch, **chosen)
            for w, window in enumerate(windows):
                totals = by_instance(replace(machine, window=window))
                pe[at][w] = sum(total for instance, total in totals.items() if instance not in buffers)
        memories = []
        for name in buffers:
            machines = [replace(arch, **{name: size}) for size in values[name]]
            memories.append(np.array([by_instance(machine).get(name, 0.0) for machine in machines]))
        found.append((_Standing(pe, *memories), bool(by_instance(arch))))
    (watts, _), (area, has_area) = found
    return watts, area if has_area else None


@njit(cache=True, nogil=True)
def _add_up(
    knobs: np.ndarray,  # int16 (n, 8)
    option: np.ndarray,  # int16 (n, L)
    of_rows: np.ndarray,  # int64 L C R O A
    of_lbuf: np.ndarray,  # int64 L C R B O A
    of_glb: np.ndarray,  # int64 L C R F O A
    layer_cycles: np.ndarray,  # int64 L C R F Q O
    fit: np.ndarray,  # int64, psum_bit glb
    ratio: np.ndarray,  # int64, clock bandwidth
    prices: np.ndarray,  # float64 P M B G A
    rank: np.ndarray,  # int64 (O,): of the window among all
    watts_of: tuple[np.ndarray, np.ndarray, np.ndarray],
    area_of: tuple[np.ndarray, np.ndarray, np.ndarray],
    joules: np.ndarray,
    cycles: np.ndarray,
    watts: np.ndarray,
    area: np.ndarray,
) -> None:
    """Joules without leakage, cycles, leakage and area of every point."""
    num_rows, num_lbuf, num_glb = of_rows.shape[4], of_lbuf.shape[5], of_glb.shape[5]
    counts = np.empty(num_rows + num_lbuf + num_glb, np.int64)
    for n in range(knobs.shape[0]):
        r, c, b, g = knobs[n, 0], knobs[n, 1], knobs[n, 2], knobs[n, 3]
        q = ratio[knobs[n, 4], knobs[n, 5]]
        p, m = knobs[n, 6], knobs[n, 7]
        f = fit[p, g]
        counts[:] = 0
        total = 0
        widest = 0
        for k in range(option.shape[1]):
            o = option[n, k]
            for a in range(num_rows):
                counts[a] += of_rows[k, c, r, o, a]
            for a in range(num_lbuf):
                counts[num_rows + a] += of_lbuf[k, c, r, b, o, a]
            for a in range(num_glb):
                counts[num_rows + num_lbuf + a] += of_glb[k, c, r, f, o, a]
            total += layer_cycles[k, c, r, f, q, o]
            widest = max(widest, rank[o])
        energy = 0.0
        for a in range(counts.shape[0]):
            energy += counts[a] * prices[p, m, b, g, a]
        joules[n] = energy
        cycles[n] = total
        watts[n] = watts_of[0][r, c, p, m, widest] + watts_of[1][b] + watts_of[2][g]
        area[n] = area_of[0][r, c, p, m, widest] + area_of[1][b] + area_of[2][g]
