"""SpikeX-class time-batched systolic array, with PTB and the step-by-step SNN array as presets.

Sources: SpikeX (Xu, Boone, Li; arXiv 2505.12292; IEEE TCAD 2025) and PTB (HPCA 2022). The cycle law, the counts and
every choice where the papers are silent are in docs/models/spikex.md.
"""

from __future__ import annotations

import functools
import math
import os
from collections import abc
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, ClassVar, Unpack, final

import numpy as np

from spikeloom.core.arch import (
    AbstractArch,
    Charge,
    Component,
    Joint,
    LayerMapping,
    Mapping,
    Part,
    PerLayer,
    check_knobs,
    knob,
    of_layer,
    values_of,
)
from spikeloom.core.counts import Counts
from spikeloom.core.trace import Levels, Spikes
from spikeloom.core.workload import WEIGHTED, Layer, Workload
from spikeloom.errors import ConfigError, MappingError
from spikeloom.hw import dispatch as tiles
from spikeloom.hw.base import (
    FORM_LEVELS,
    SUMMING_POOLS,
    AbstractMachine,
    CountCache,
    Effort,
    check_joins,
    check_layer_tables,
    fold_pools,
    refuse_layer,
    refuse_shapes_only,
    without,
)
from spikeloom.hw.closed_form import ACTIONS, JOIN_ACTIONS, Actions, ArrayCounts, transfer_cycles
from spikeloom.hw.memory import PRUNED, storage_note, zero_share
from spikeloom.hw.schedule import Rules, Schedule, ScheduleKey, groups_of, schedules
from spikeloom.units import exact_si, from_si

DISPATCHES = {"agile": tiles.AGILE, "temporal": tiles.TEMPORAL, "ptb": tiles.PTB, "dense": tiles.DENSE}
ORDERS = ("raster", "interleave")
DECAYS = {"step": tiles.DECAY_STEP, "table": tiles.DECAY_TABLE, "free": tiles.DECAY_FREE}
MAX_WINDOW = 64
MAX_COLS = 64


@final
@dataclass(frozen=True)
class SpikexArch(AbstractArch):
    """Fields of the array. Quantities are SI: bits, hertz, bit/s."""

    model: ClassVar[str] = "spikex"
    joints: ClassVar[abc.Mapping[str, Joint]] = {
        "shape": Joint(("rows", "cols"), "x", total=64),
        "buffers": Joint(("lbuf_kib", "glb_kib"), "+", total=56, parts=28),
    }

    rows: int = knob(8, "PE rows: output channels computed side by side", low=1, high=4096, search=(4, 8, 16, 32))
    cols: int = knob(
        8, "PE columns: time windows or positions side by side", low=1, high=MAX_COLS, search=(2, 4, 8, 16)
    )
    window: PerLayer[int] = knob(
        4, "time steps per window L", low=1, high=MAX_WINDOW, per_layer=True, search=(1, 2, 4, 8, 16, 32)
    )
    dispatch: PerLayer[str] = knob(
        "agile",
        "how windows become tiles",
        choices=tuple(DISPATCHES),
        per_layer=True,
        search=("agile", "temporal", "ptb"),
    )
    order: PerLayer[str] = knob(
        "raster",
        "order of mode A tiles",
        choices=ORDERS,
        per_layer=True,
        search=("raster", "interleave"),
    )
    merge: PerLayer[int] = knob(
        1,
        "most synapses merged into one step (StSAP), 1 = off, dense never merges",
        low=1,
        high=64,
        per_layer=True,
        search=(1, 2, 8),
    )
    step: str = knob("serial", "cost of a step: every time step, or only spikes", choices=("serial", "zskip"))
    adders: int = knob(1, "levels added per PE and cycle", low=1, high=64, search=(1, 2, 4))
    decay: str = knob(
        "auto",
        "leak of a skipped gap: step = one cycle a step, table = one cycle a gap, free = none; "
        "auto = step for leaky neurons, free for IF",
        choices=("auto", *DECAYS),
    )
    tag_width: int = knob(64, "activity tags scanned per cycle", low=1, high=65536, search=(32, 64, 128))
    tailoring: bool = knob(True, "fetch only the weights of input channels that spike in the sample")
    weight_skip: str = knob(
        "off", "drop synapses whose weights are zero for a whole filter group", choices=("off", "group")
    )
    join: str = knob(
        "layer",
        "how long sums wait that meet those of another layer: all steps, or those of a window",
        choices=("layer", "tile"),
    )
    fold_pool: bool = knob(True, "fold sum and average pools into the next layer; otherwise it adds graded levels")
    psum_bit: int = knob(16, "width of partial sums", suffix="bit", low=4, high=32)
    membrane_bit: int = knob(16, "width of membranes", suffix="bit", low=4, high=32)
    lbuf: float = knob(
        2 * 8192.0,
        "L1 buffer, half weights, half activations, double-buffered",
        suffix="kib",
        low=0.001,
        high=1e6,
        search=(2.0, 4.0, 8.0, 16.0),
    )
    glb: float = knob(
        54 * 8192.0, "global buffer, split likewise", suffix="kib", low=0.001, high=1e6, search=(16.0, 32.0, 48.0, 54.0)
    )
    dram_bandwidth: float = knob(2.4e11, "DRAM bandwidth", suffix="gb_s", low=1e-6, high=1e6)
    clock: float = knob(5e8, "clock (assumed; the paper does not say)", suffix="mhz", low=1e-3, high=1e5)
    table: str = knob("cacti32-hp", "component table that prices the counts")

    def __post_init__(self) -> None:
        check_knobs(self)
        if "dense" in values_of(self.dispatch) and self.step == "zskip":
            raise ConfigError(
                "step = 'zskip' does not go with dispatch = 'dense', which adds every step; use step = 'serial'"
            )

    @property
    def usable_lbuf(self) -> float:
        """Bits of each part of the L1 buffer: a quarter (split in two, double-buffered)."""
        return self.lbuf / 4

    @property
    def usable_glb(self) -> float:
        """Bits of each part of the global buffer: a quarter."""
        return self.glb / 4

    def _parts(self) -> dict[str, Component]:
        return {
            "psum_adder": Component("adder", width_bit=self.psum_bit),
            "membrane_adder": Component("adder", width_bit=self.membrane_bit),
            "comparator": Component("comparator", width_bit=self.membrane_bit),
            "psum_register": Component("register", width_bit=self.psum_bit),
            "vmem": Component("register", width_bit=self.membrane_bit),
            "lbuf": Component("sram", width_bit=64, size_bit=self.lbuf),
            "glb": Component("sram", width_bit=64, size_bit=self.glb),
            "dram": Component("dram", width_bit=1),
        }

    def inventory(self) -> tuple[Part, ...]:
        """PEs with one accumulator, one comparator, psum registers of the longest window and Vmem; two buffers; DRAM."""
        part = self._parts()
        pes = self.rows * self.cols
        return (
            Part("pe", part["psum_adder"], pes * self.adders),
            Part("pe", part["comparator"], pes),
            Part("pe", part["psum_register"], pes * max(values_of(self.window))),
            Part("vmem", part["vmem"], pes),
            Part("lbuf", part["lbuf"]),
            Part("glb", part["glb"]),
            Part("dram", part["dram"]),
        )

    def charges(self) -> abc.Mapping[tuple[str, str], tuple[Charge, ...]]:
        """Prices by action: see the table in docs/models/spikex.md."""
        part = self._parts()
        psum_pass = (Charge(part["psum_register"], "read"), Charge(part["psum_register"], "write"))
        charges: dict[tuple[str, str], tuple[Charge, ...]] = {
            ("array", "cycles"): (),
            ("dram", "cycles"): (),
            ("pe", "add"): (Charge(part["psum_adder"], "add"), *psum_pass),
            # v = u - (u >> k) + psum is a three-input add, charged as two; then the comparison with theta
            ("pe", "update"): (
                Charge(part["membrane_adder"], "add", times=2),
                Charge(part["comparator"], "compare"),
                Charge(part["psum_register"], "read"),
            ),
            ("pe", "leak"): (Charge(part["membrane_adder"], "add"),),
            ("pe", "join"): (Charge(part["psum_adder"], "add"),),
        }
        for action in ("read", "write"):
            charges["vmem", action] = (Charge(part["vmem"], action, per_bit=True),)
            for half in ("weight", "act"):
                charges[f"lbuf_{half}", action] = (Charge(part["lbuf"], action, per_bit=True),)
                charges[f"glb_{half}", action] = (Charge(part["glb"], action, per_bit=True),)
            charges["glb_psum", action] = (Charge(part["glb"], action, per_bit=True),)
            charges["dram_psum", action] = (Charge(part["dram"], action, per_bit=True),)
        charges["dram_weight", "read"] = (Charge(part["dram"], "read", per_bit=True),)
        charges["dram_act", "read"] = (Charge(part["dram"], "read", per_bit=True),)
        charges["dram_out", "write"] = (Charge(part["dram"], "write", per_bit=True),)
        return charges

    def notes(self) -> tuple[str, ...]:
        """The step-cost choice, which public models of this array do not agree on."""
        cost = (
            "L cycles a step (serial)" if self.step == "serial" else "one cycle per spike of the busiest column (zskip)"
        )
        return (f"step cost: {cost}, {self.adders} level(s) added per cycle",)


@final
class Spikex(AbstractMachine[SpikexArch]):
    """Counts of the time-batched array; integers that a nested-loop reference reproduces."""

    arch_type = SpikexArch
    presets: ClassVar[abc.Mapping[str, abc.Mapping[str, Any]]] = {
        "spikex": {},
        "ptb": {"dispatch": "ptb", "merge": 2},
        "snn-dense": {"dispatch": "dense", "window": 1},
    }

    def runs(self, workload: Workload, arch: SpikexArch) -> Workload:
        """Pools folded into the layer behind (``fold_pool``); pools that stay only form levels at a neuron's output."""
        folded = fold_pools(workload) if arch.fold_pool else workload
        plain = [x.name for x in folded.layers if x.kind in SUMMING_POOLS and x.neuron.kind == "none" and not x.joins]
        return without(folded, plain, FORM_LEVELS.format(", ".join(plain)))

    def map(self, workload: Workload, arch: SpikexArch) -> Mapping:
        """Give every layer its window, dispatch, order and merging; refuse what the array cannot run."""
        layers = self.runs(workload, arch).layers
        if not layers:
            raise MappingError("spikex found no convolution and no linear layer to run in this workload")
        refuse_shapes_only(workload, "record a trace, or give a workload of firing rates")
        for layer in layers:
            _refuse_unsupported(layer)
        check_joins(layers)
        names = [layer.name for layer in layers]
        check_layer_tables(arch, names)
        if arch.join == "tile":
            _check_windows(layers, arch)
        return Mapping("spikex", {name: _layer_mapping(arch, name) for name in names})

    def count(self, workload: Workload, arch: SpikexArch, mapping: Mapping, **effort: Unpack[Effort]) -> Counts:
        """Count every layer of every sample; samples run in parallel over ``threads`` (default: all cores)."""
        run = self.runs(workload, arch)
        total = Counts(warnings=(*run.warnings, *_warnings(run, arch, mapping)))
        for layer in run.layers:
            choice = mapping.layers[layer.name]
            for counts in self.scheduled(layer, arch, (choice,), **effort):
                total = total.then(_counts(counts, arch))
        if parked := [x.name for x in run.layers if (x.name, "dram_psum", "write") in total.actions]:
            what = f"sums of {', '.join(parked)} do not fit the global buffer (join = '{arch.join}'): they wait in DRAM"
            total = replace(total, warnings=(*total.warnings, what))
        return total

    def scheduled(
        self,
        layer: Layer,
        arch: SpikexArch,
        choices: abc.Sequence[LayerMapping],
        *,
        threads: int | None = None,
        cache: CountCache | None = None,
    ) -> tuple[ArrayCounts, ...]:
        """One layer of ``runs`` scheduled under each of ``choices``, group by group of a grouped convolution.

        cache: schedules are taken from it and put into it by `ScheduleKey`.
        """
        threads = threads or os.cpu_count() or 1
        found = []
        for group, part in enumerate(groups_of(layer)):
            rules = [_rules(part, arch, choice) for choice in choices]
            known: dict[Rules, Schedule] = {}
            if cache is not None:
                kept = {each: cache.get(ScheduleKey(layer.id, group, each)) for each in rules}
                known = {each: one for each, one in kept.items() if one is not None}
            if missing := [each for each in dict.fromkeys(rules) if each not in known]:
                for each, one in zip(missing, schedules(part, missing, threads), strict=True):
                    known[each] = one
                    if cache is not None:
                        cache[ScheduleKey(layer.id, group, each)] = one
            found.append(
                ArrayCounts(part, choices, [known[each] for each in rules], arch.rows, arch.tailoring, layer.groups)
            )
        return tuple(found)

    def utilisation(self, counts: Counts, arch: SpikexArch, layer: str) -> dict[str, float]:
        """column_sharing: mean share of a tile's columns that use a fetched synapse; spike_slot_use: additions per
        slot of integration; row_use: rows with a filter; pe_use: additions per PE adder and array cycle."""

        def ratio(top: int, bottom: int) -> float:
            return top / bottom if bottom else 0.0

        stat = {name: value for (where, name), value in counts.statistics.items() if where == layer}
        adds = counts.actions[layer, "pe", "add"]
        cycles = counts.actions[layer, "array", "cycles"]
        return {
            "column_sharing": ratio(stat["tags"], stat["slots"]),
            "spike_slot_use": ratio(adds, stat["busy_row_slots"] * arch.adders),
            "row_use": ratio(stat["filters"], stat["filter_slots"]),
            "pe_use": ratio(adds, cycles * arch.rows * arch.cols * arch.adders),
        }


def _layer_mapping(arch: SpikexArch, layer: str) -> LayerMapping:
    dispatch = of_layer(arch.dispatch, layer)
    return LayerMapping(
        of_layer(arch.window, layer),
        dispatch,
        of_layer(arch.order, layer),
        1 if dispatch == "dense" else of_layer(arch.merge, layer),
    )


def _check_windows(layers: abc.Iterable[Layer], arch: SpikexArch) -> None:
    for branch in layers:
        got, expected = (of_layer(arch.window, name) for name in (branch.name, branch.joins or branch.name))
        if got != expected:
            raise MappingError(
                f"layer '{branch.name}': its sums meet in the neurons of '{branch.joins}', and join = 'tile' takes the same "
                f"window for both; got {got} and {expected}; give both one window, or take join = 'layer'"
            )


def _refuse_unsupported(layer: Layer) -> None:
    where, pools = "", " and foldable sum or average pools"
    if layer.joins:
        where, pools = f" whose sums meet in the neurons of '{layer.joins}'", ""
    refuse_layer(
        layer,
        WEIGHTED,
        f"spikex cannot run a {layer.kind} layer{where}, only {', '.join(WEIGHTED)}{pools}; replace it before recording or choose "
        "another machine",
        "this machine batches time steps and cannot run a recurrent layer",
        "spikex neurons hold one state (IF, LIF, LI), a CubaLIF also needs a synaptic current",
    )


def _fires_silently(layer: Layer) -> bool:
    """Soft reset (or none) may leave a residue above the threshold that fires in a silent window."""
    return not layer.joins and layer.neuron.kind in ("if", "lif") and layer.neuron.reset != "hard"


def _every_window(layer: Layer) -> bool:
    return layer.biased or (_fires_silently(layer) and layer.out is None)


def _warnings(workload: Workload, arch: SpikexArch, mapping: Mapping) -> abc.Iterator[str]:
    def named(layers: abc.Iterable[Layer]) -> str:
        return ", ".join(layer.name for layer in layers)

    dense = [layer for layer in workload.layers if mapping.layers[layer.name].dispatch == "dense"]
    skipping = [layer for layer in workload.layers if layer not in dense]
    biased = [layer for layer in skipping if layer.biased]
    residue = [layer for layer in skipping if not layer.biased and _every_window(layer)]
    if biased:
        yield f"no silent window is skipped in {named(biased)}: a bias acts in every step"
    if residue:
        yield f"no silent window is skipped in {named(residue)}: soft reset and unknown output spikes"
    unmerged = [layer for layer in dense if of_layer(arch.merge, layer.name) > 1]
    if unmerged:
        where = "" if len(unmerged) == len(workload.layers) else f" of {named(unmerged)}"
        merges = ", ".join(str(merge) for merge in sorted({of_layer(arch.merge, layer.name) for layer in unmerged}))
        yield f"merge = {merges} does not apply to dispatch = 'dense'{where}"
    leaky = [layer for layer in workload.layers if layer.neuron.leaky]
    if arch.decay == "free" and leaky:
        yield f"decay = 'free' leaves the leak of {named(leaky)} uncounted"
    factor = [layer for layer in leaky if layer.neuron.leak and layer.neuron.leak.shift is None]
    if factor:
        yield f"the leak of {named(factor)} is no power of two; the array computes v - (v >> k)"
    narrow = [layer for layer in workload.layers if _worst_psum_bits(layer) > arch.psum_bit]
    if narrow:
        need = max(_worst_psum_bits(layer) for layer in narrow)
        yield f"psum_bit = {arch.psum_bit} saturates in the worst case of {named(narrow)} ({need} bits would not)"
    analog = [layer for layer in workload.layers if isinstance(layer.arrival, Levels) and layer.arrival.analog]
    if analog:
        yield f"analog input of {named(analog)} is added bit-serially from quantised pixels"
    signed = [layer for layer in workload.layers if isinstance(layer.arrival, Levels) and layer.arrival.signed]
    if signed:
        yield f"signed levels reach {named(signed)}: a sign is one more bit to store and move, a subtraction costs an addition"
    yield from _weight_warnings(workload, arch)


def _weight_warnings(workload: Workload, arch: SpikexArch) -> abc.Iterator[str]:
    """What becomes of zero weights."""
    if arch.weight_skip == "group":
        known = [layer for layer in workload.layers if layer.weight is not None]
        if known:
            yield storage_note((part for layer in known for part in groups_of(layer)), arch.rows)
        unknown = [layer.name for layer in workload.layers if layer.weight is None]
        if unknown:
            yield f"weight_skip = 'group' skips nothing in {', '.join(unknown)}: the trace holds no weights"
        return
    pruned = [f"{x.name} ({zero_share(x):.0%})" for x in workload.layers if zero_share(x) >= PRUNED]
    if pruned:
        yield (
            f"zero weights of {', '.join(pruned)} are stored, fetched and stepped through like others, only their "
            "additions do not count; weight_skip = 'group' skips what is zero in a whole filter group"
        )


def _worst_psum_bits(layer: Layer) -> int:
    """Bits of the largest possible sum of one step: every input, of branches too, at its highest level meets the largest weight."""
    largest = 0
    for part in (layer, *layer.branches):
        level = 1 if isinstance(part.arrival, Spikes) else 2**part.arrival.bits - 1
        largest += part.C // part.groups * part.R * part.S * level * 2 ** (part.weight_bits - 1)
    return math.ceil(math.log2(largest + 1)) + 1


def _rules(layer: Layer, arch: SpikexArch, choice: LayerMapping) -> Rules:
    decay = arch.decay if arch.decay != "auto" else "step" if layer.neuron.leaky else "free"
    if layer.joins:  # no membrane
        decay = "free"
    skip_weights = arch.weight_skip == "group" and layer.weight is not None
    return Rules(
        rows=arch.rows if skip_weights else 0,
        cols=arch.cols,
        window=choice.window,
        dispatch=DISPATCHES[choice.dispatch],
        interleave=choice.order == "interleave",
        merge=choice.merge,
        zskip=arch.step == "zskip",
        adders=arch.adders,
        decay=DECAYS[decay],
        tag_width=arch.tag_width,
        skip_weights=skip_weights,
        fires_silently=_fires_silently(layer),
        every_window=_every_window(layer),
    )


@functools.lru_cache(maxsize=64)
def cycles_per_bit(clock: float, bandwidth: float) -> Fraction:
    """Cycles per DRAM bit, exact in the decimals of the machine file."""
    return exact_si(from_si(clock, "mhz"), "mhz") / exact_si(from_si(bandwidth, "gb_s"), "gb_s")


def action_counts(found: ArrayCounts, arch: SpikexArch) -> tuple[Actions, np.ndarray]:
    """Everything in ACTIONS and JOIN_ACTIONS over all samples, int64 (O,) each, and the cycles of the layer by sample, int64 (O, N).

    found: scheduled for this machine. In each sample array and memory work side by side.
    """
    per_bit = cycles_per_bit(arch.clock, arch.dram_bandwidth)
    sums = found.of_joins(arch.psum_bit, arch.usable_glb, arch.join == "tile")
    dram_ON = transfer_cycles(found.dram_bits_ON(arch.usable_glb, sums), per_bit)
    counts = sums | found.of_rows() | found.of_lbuf(arch.usable_lbuf) | found.of_glb(arch.usable_glb)
    counts["dram", "cycles"] = dram_ON.sum(axis=1)
    for action in ("read", "write"):
        counts["vmem", action] = counts["vmem", action] * arch.membrane_bit
    return {pair: counts[pair] for pair in (*ACTIONS, *JOIN_ACTIONS)}, np.maximum(found.array_ON, dram_ON)


def _counts(found: ArrayCounts, arch: SpikexArch) -> Counts:
    """Counts of one layer under its one choice, summed over samples."""
    actions, cycles_ON = action_counts(found, arch)
    counted = {pair: int(count[0]) for pair, count in actions.items() if pair in ACTIONS or count[0]}
    statistics = {key: int(value[0]) for key, value in found.statistics().items()}
    return Counts.of_layer(found.layer.name, counted, tuple(cycles_ON[0].tolist()), **statistics)
