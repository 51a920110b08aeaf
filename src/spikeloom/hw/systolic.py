"""Dense systolic array for ANNs and quantised ANNs; it runs spiking layers too, step after step on 1-bit operands.

Sources: SCALE-Sim (Samajdar et al., ISPASS 2020; version 2.0.2 of its code) for the folds of the three dataflows. The cycle
law, the traffic of every level and every choice are in docs/models/systolic.md.
"""

from __future__ import annotations

import math
from collections import abc
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, ClassVar, Unpack, final

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
)
from spikeloom.core.counts import Counts
from spikeloom.core.trace import Levels
from spikeloom.core.workload import POOLS, WEIGHTED, Layer, Workload
from spikeloom.errors import MappingError
from spikeloom.hw.base import (
    AbstractMachine,
    Effort,
    check_joins,
    check_layer_tables,
    fold_pools,
    refuse_layer,
    refuse_shapes_only,
)
from spikeloom.hw.memory import PRUNED, zero_share
from spikeloom.hw.systolic_folds import Folds
from spikeloom.units import exact_si, from_si

DATAFLOWS = ("ws", "os", "is")
#: Neurons with a membrane that lives from step to step.
STATEFUL = ("if", "lif", "li")
#: Operands of the PE of SATA_Sim's ANN configuration, and the narrowest multiplier that both default tables price.
EYERISS_BIT, NARROWEST_BIT = 8, 4
#: Widest multiplier of the tables.
WIDEST_BIT = 32
_Actions = dict[tuple[str, str], int]


@final
@dataclass(frozen=True)
class SystolicArch(AbstractArch):
    """Fields of the array. Quantities are SI: bits, hertz, bit/s."""

    model: ClassVar[str] = "systolic"
    joints: ClassVar[abc.Mapping[str, Joint]] = {"shape": Joint(("rows", "cols"), "x", total=128)}

    rows: int = knob(16, "PE rows", low=1, high=4096, search=(4, 8, 16, 32))
    cols: int = knob(8, "PE columns", low=1, high=4096, search=(4, 8, 16, 32))
    dataflow: PerLayer[str] = knob(
        "os",
        "what stays in the PEs: weights (ws), outputs (os) or inputs (is)",
        choices=DATAFLOWS,
        per_layer=True,
        search=DATAFLOWS,
    )
    gating: bool = knob(False, "a MAC whose activation is zero costs no arithmetic energy; it still takes its cycle")
    fold_pool: bool = knob(False, "fold sum and average pools into the next layer; otherwise the vector unit adds")
    join: str = knob(
        "layer",
        "sums wait for the layer with their neurons: all steps (layer) or one (tile)",
        choices=("layer", "tile"),
    )
    pe: str = knob(
        "kernels",
        "prices of a MAC: kernels and aladdin = multiplier, adder, register (written; read and written), any width; "
        "eyeriss = SATA_Sim's 8-bit MAC with its scratchpads",
        choices=("kernels", "aladdin", "eyeriss"),
    )
    mac_bit: int = knob(
        16, "widest weight and activation a PE takes, without a sign", suffix="bit", low=4, high=WIDEST_BIT
    )
    psum_bit: int = knob(24, "width of partial sums", suffix="bit", low=4, high=32)
    membrane_bit: int = knob(16, "width of membranes", suffix="bit", low=4, high=32)
    out_bit: int = knob(8, "width of outputs that no layer of the trace receives", suffix="bit", low=1, high=32)
    ifmap: float = knob(32 * 8192.0, "input buffer, double-buffered", suffix="kib", low=0.001, high=1e6)
    weight: float = knob(144 * 8192.0, "weight buffer, double-buffered", suffix="kib", low=0.001, high=1e6)
    ofmap: float = knob(32 * 8192.0, "buffer of outputs, sums and membranes", suffix="kib", low=0.001, high=1e6)
    port_bit: int = knob(8, "bits of one access to a buffer", suffix="bit", low=1, high=1024)
    banks: int = knob(2, "banks of each buffer, as the table prices one", low=1, high=64)
    dram_bandwidth: float = knob(2.4e11, "DRAM bandwidth (assumed)", suffix="gb_s", low=1e-6, high=1e6)
    clock: float = knob(4e8, "clock", suffix="mhz", low=1e-3, high=1e5)
    table: str = knob("systolic28", "component table that prices the counts")

    def __post_init__(self) -> None:
        check_knobs(self)

    def _buffers(self) -> dict[str, Component]:
        sizes = {"ifmap": self.ifmap, "weight": self.weight, "ofmap": self.ofmap}
        return {name: Component("sram", width_bit=self.port_bit, size_bit=size) for name, size in sizes.items()}

    def inventory(self) -> tuple[Part, ...]:
        """PEs; per column an output stage; three buffers; DRAM."""
        pes = self.rows * self.cols
        if self.pe == "eyeriss":
            kinds = ("mac8", "relu8", "spad_ann")
            array = tuple(Part("pe", Component(kind, width_bit=EYERISS_BIT), pes) for kind in kinds)
        else:
            array = (
                Part("pe", Component("multiplier", width_bit=self.mac_bit), pes),
                Part("pe", Component("adder", width_bit=self.psum_bit), pes),
                Part("pe", Component("register", width_bit=self.psum_bit), pes),
                Part("pe", Component("register", width_bit=self.mac_bit), 2 * pes),
            )
        return (
            *array,
            Part("out", Component("multiplier", width_bit=self.psum_bit), self.cols),
            Part("out", Component("adder", width_bit=self.psum_bit), self.cols),
            Part("out", Component("comparator", width_bit=self.psum_bit), self.cols),
            *(Part(f"glb_{name}", part, self.banks) for name, part in self._buffers().items()),
            Part("dram", Component("dram", width_bit=8)),
        )

    def charges(self) -> abc.Mapping[tuple[str, str], tuple[Charge, ...]]:
        """Prices by action: see the table in docs/models/systolic.md."""
        add, compare = (Component(kind, width_bit=self.psum_bit) for kind in ("adder", "comparator"))
        membrane, threshold = (Component(kind, width_bit=self.membrane_bit) for kind in ("adder", "comparator"))
        rescale = Component("multiplier", width_bit=self.psum_bit)
        psum = Component("register", width_bit=self.psum_bit)
        accumulate: tuple[Charge, ...] = (Charge(add, "add"), Charge(psum, "write"))
        always_on: tuple[Charge, ...] = ()
        if self.pe == "aladdin":
            accumulate += (Charge(psum, "read"),)
        elif self.pe == "eyeriss":
            mac, relu, spad = (Component(kind, width_bit=EYERISS_BIT) for kind in ("mac8", "relu8", "spad_ann"))
            accumulate = (Charge(mac, "op"), Charge(spad, "op"))
            always_on = tuple(Charge(part, "clock", times=self.rows * self.cols) for part in (mac, relu, spad))
        charges: dict[tuple[str, str], tuple[Charge, ...]] = {
            ("array", "cycles"): always_on,
            ("dram", "cycles"): (),
            ("pe", "mac"): accumulate,
            ("pe", "ac"): accumulate,
            ("pe", "zero"): () if self.gating else accumulate,
            ("out", "quantise"): (Charge(rescale, "multiply"), Charge(add, "add"), Charge(compare, "compare")),
            ("out", "join"): (Charge(add, "add"),),
            ("out", "update"): (Charge(membrane, "add", times=2), Charge(threshold, "compare")),
            ("vector", "accumulate"): (Charge(add, "add"),),
            ("vector", "compare"): (Charge(compare, "compare"),),
        }
        for width in range(NARROWEST_BIT, WIDEST_BIT + 1):
            product = Charge(Component("multiplier", width_bit=width), "multiply")
            charges["pe", f"multiply_{width}"] = () if self.pe == "eyeriss" else (product,)
        for name, part in self._buffers().items():
            for action in ("read", "write"):
                charges[f"glb_{name}", action] = (Charge(part, action, per_bit=True),)
        reads, writes = ("ifmap", "weight", "psum", "membrane"), ("ofmap", "psum", "membrane")
        for action, names in (("read", reads), ("write", writes)):
            for name in names:
                charges[f"dram_{name}", action] = (Charge(Component("dram", width_bit=8), action, per_bit=True),)
        return charges

    def notes(self) -> tuple[str, ...]:
        """What zeros cost, and what stands for a MAC."""
        zeros = "gated: they cost cycles and memory traffic, no arithmetic" if self.gating else "computed like others"
        return (f"dense array: MACs with a zero activation are {zeros}",)


@final
class Systolic(AbstractMachine[SystolicArch]):
    """Counts of the dense array: closed forms that a walk through folds and cycles reproduces."""

    arch_type = SystolicArch
    presets: ClassVar[abc.Mapping[str, abc.Mapping[str, Any]]] = {
        "systolic": {},
        "systolic-gated": {"gating": True},
        "systolic-eyeriss": {"pe": "eyeriss", "gating": True},
        "systolic-8x8": {
            "rows": 8,
            "ifmap_kib": 13.5,
            "weight_kib": 27.0,
            "ofmap_kib": 13.5,
            "port_bit": 64,
            "banks": 1,
            "clock_mhz": 500.0,
            "pe": "aladdin",
            "table": "cacti32-hp",
        },
    }

    def runs(self, workload: Workload, arch: SystolicArch) -> Workload:
        """Sum and average pools folded into the layer behind with ``fold_pool``, else every layer as it is."""
        return fold_pools(workload) if arch.fold_pool else workload

    def map(self, workload: Workload, arch: SystolicArch) -> Mapping:
        """Give every layer its dataflow; refuse what the array cannot run."""
        layers = self.runs(workload, arch).layers
        if not layers:
            raise MappingError("systolic found no layer to run in this workload")
        if arch.gating:  # only then zeros are cheaper
            refuse_shapes_only(workload, "record a trace, or set gating = false")
        for layer in layers:
            _refuse_unsupported(layer, arch)
        check_joins(layers)
        check_layer_tables(arch, [layer.name for layer in layers])
        flows = {layer.name: of_layer(arch.dataflow, layer.name) for layer in layers}
        return Mapping("systolic", {name: LayerMapping(dispatch=flow) for name, flow in flows.items()})

    def count(self, workload: Workload, arch: SystolicArch, mapping: Mapping, **effort: Unpack[Effort]) -> Counts:
        """Count every layer of every sample. Only the number of zeros depends on the spikes; threads and cache are not needed."""
        run = self.runs(workload, arch)
        total = Counts(warnings=(*run.warnings, *_warnings(run, arch)))
        for layer in run.layers:
            bits = _out_bits(run, layer, arch)
            if layer.kind in WEIGHTED:
                total = total.then(_synapses(layer, arch, mapping.layers[layer.name].dispatch, bits))
            else:
                total = total.then(_vector(layer, arch, bits))
        return total

    def utilisation(self, counts: Counts, arch: SystolicArch, layer: str) -> dict[str, float]:
        """pe_use: MACs per PE and array cycle; pe_mapping: PEs of the folds that hold anything; nonzero: MACs whose
        activation is not zero. Pools and sums use no PE and have none of them."""
        stat = {name: value for (where, name), value in counts.statistics.items() if where == layer}
        if not stat:
            return {}
        slots = counts.actions[layer, "array", "cycles"] * arch.rows * arch.cols
        return {
            "pe_use": stat["macs"] / slots,
            "pe_mapping": stat["mapped"] / stat["fold_pes"],
            "nonzero": 1 - counts.actions[layer, "pe", "zero"] / stat["macs"],
        }


def _refuse_unsupported(layer: Layer, arch: SystolicArch) -> None:
    kinds = (*WEIGHTED, *POOLS, "add")
    refuse_layer(
        layer,
        kinds,
        f"systolic cannot run a {layer.kind} layer, only {', '.join(kinds)}; replace it before recording or choose another machine",
        "systolic runs a network layer by layer and cannot run a recurrent layer",
        "the output stage of systolic holds one state (IF, LIF, LI), a CubaLIF also needs a synaptic current",
    )
    if layer.kind in WEIGHTED:
        widest = EYERISS_BIT if arch.pe == "eyeriss" else arch.mac_bit
        for what, bits in (("weights", layer.weight_bits), ("activations", _magnitude_bits(layer))):
            if bits > widest:
                raise MappingError(
                    f"layer '{layer.name}': its {what} have {bits} bits, the PEs of this machine take {widest}; "
                    "quantise the layer or set mac_bit (with pe = 'kernels' or 'aladdin')"
                )


def _warnings(workload: Workload, arch: SystolicArch) -> abc.Iterator[str]:
    layers = [layer for layer in workload.layers if layer.kind in WEIGHTED]
    need = {layer.name: _worst_psum_bits(layer) for layer in workload.layers if layer in layers or layer.branches}
    narrow = [name for name, bits in need.items() if bits > arch.psum_bit]
    if narrow:
        bits = max(need[name] for name in narrow)
        yield f"psum_bit = {arch.psum_bit} saturates in the worst case of {', '.join(narrow)} ({bits} bits would not)"
    analog = [layer.name for layer in layers if isinstance(layer.arrival, Levels) and layer.arrival.analog]
    if analog:
        yield f"analog input of {', '.join(analog)} is multiplied as quantised pixels"
    pruned = [f"{layer.name} ({zero_share(layer):.0%})" for layer in layers if zero_share(layer) >= PRUNED]
    if pruned:
        yield f"zero weights of {', '.join(pruned)} are stored, moved and multiplied like others"


def _worst_psum_bits(layer: Layer) -> int:
    """Bits of the largest possible sum, branches included: every input at its highest level meets the largest weight."""
    worst = 0
    for part in (layer, *layer.branches):
        weight = 2 ** (part.weight_bits - 1) if part.kind in WEIGHTED else 1
        worst += part.C // part.groups * part.R * part.S * (2 ** _magnitude_bits(part) - 1) * weight
    return int(worst).bit_length() + 1


def _magnitude_bits(layer: Layer) -> int:
    return layer.arrival.bits if isinstance(layer.arrival, Levels) else 1


def _level_bits(layer: Layer) -> int:
    """Bits of one activation where it is stored, moved or multiplied: its magnitude and, where it may be negative, a sign."""
    return _magnitude_bits(layer) + (isinstance(layer.arrival, Levels) and layer.arrival.signed)


def _out_bits(workload: Workload, layer: Layer, arch: SystolicArch) -> int:
    """Bits of one output: what a layer behind receives, else 1 of a spiking neuron and ``out_bit`` of another."""
    received = [_level_bits(other) for other in workload.layers if layer.name in other.inputs]
    if received:
        return max(received)
    return 1 if layer.neuron.kind in ("if", "lif") else arch.out_bit


def multiplier_bit(level_bits: int, weight_bits: int) -> int:
    """Width w of the square multiplier with at least as many cells as one of level_bits x weight_bits: ceil(sqrt(a b))."""
    cells = level_bits * weight_bits
    return max(NARROWEST_BIT, math.isqrt(cells - 1) + 1)


def folds(layer: Layer, arch: SystolicArch, dataflow: str) -> Folds:
    """The product of one group and step, on the padded map."""
    synapses = layer.C // layer.groups * layer.R * layer.S
    return Folds(layer.P * layer.Q, synapses, layer.K // layer.groups, arch.rows, arch.cols, dataflow)


def _weight_passes(layer: Layer, arch: SystolicArch, fold: Folds) -> int:
    """How often a sample reads the weights from DRAM."""
    kernel_rows, kernel_cols = layer.stored_extent
    per_filter = layer.C // layer.groups * kernel_rows * kernel_cols * layer.weight_bits
    usable = arch.weight / 2
    if layer.K * per_filter <= usable:
        return 1
    if fold.dataflow == "os":
        kept = min(fold.cols, fold.N) * per_filter <= usable  # the filters of an outer fold
        return layer.num_steps * (1 if kept else fold.inner)
    return layer.num_steps * (fold.outer if fold.dataflow == "is" else 1)


def _synapses(layer: Layer, arch: SystolicArch, dataflow: str, out_bits: int) -> Counts:
    """Counts of a convolution or linear layer over all steps and samples."""
    fold = folds(layer, arch, dataflow)
    times = layer.num_steps * layer.num_samples * layer.groups
    level_bits, outputs = _level_bits(layer), layer.K * layer.P * layer.Q
    macs = fold.M * fold.V * fold.N * times
    nonzero = replace(layer, weight=None).synops  # whatever the weights are
    counts: _Actions = {
        ("pe", "mac" if isinstance(layer.arrival, Levels) else "ac"): nonzero,
        ("pe", "zero"): macs - nonzero,
    }
    if isinstance(layer.arrival, Levels):
        width = multiplier_bit(level_bits, layer.weight_bits)
        counts["pe", f"multiply_{width}"] = nonzero if arch.gating else macs

    ifmap_words, weight_words = (words * times for words in fold.streamed)
    rows, cols = layer.framed_extent
    padded = layer.C * rows * cols * level_bits
    fits = padded // layer.groups <= arch.ifmap / 2  # groups run one after another
    map_passes = (1 if fits or dataflow == "is" else fold.outer) * layer.num_steps * layer.num_samples
    kernel_rows, kernel_cols = layer.stored_extent
    stored = layer.K * (layer.C // layer.groups) * kernel_rows * kernel_cols * layer.weight_bits
    weight_bits = stored * _weight_passes(layer, arch, fold) * layer.num_samples
    counts |= {
        ("glb_ifmap", "read"): ifmap_words * level_bits,
        ("glb_ifmap", "write"): padded * map_passes,
        ("glb_weight", "read"): weight_words * layer.weight_bits,
        ("glb_weight", "write"): weight_bits,
        ("dram_ifmap", "read"): layer.C * layer.H * layer.W * level_bits * map_passes,
        ("dram_weight", "read"): weight_bits,
    }
    sums = fold.revisits * outputs * arch.psum_bit * layer.num_steps * layer.num_samples
    open_bits = fold.open_sums * arch.psum_bit
    counts |= _outputs(layer, arch, out_bits, sums, open_bits)
    cells = fold.extent[0] * fold.extent[1]
    statistics = {"macs": macs, "mapped": cells, "fold_pes": fold.inner * fold.outer * fold.rows * fold.cols}
    return _timed(layer, arch, fold.cycles * times, counts, statistics)


def _outputs(layer: Layer, arch: SystolicArch, out_bits: int, sums: int, open_bits: int) -> _Actions:
    """The output stage and everything that passes the ofmap buffer.

    sums: bits of unfinished sums that leave the array, over all steps and samples. open_bits: those that wait at a time.
    A branch leaves its finished sums to the layer that has the neurons; if those that wait do not fit, all go to DRAM on the way.
    """
    outputs, repeats = layer.K * layer.P * layer.Q, layer.num_steps * layer.num_samples
    results = 0 if layer.joins else outputs * out_bits * repeats
    usable = arch.ofmap / 2
    stateful = layer.neuron.kind in STATEFUL
    membranes = outputs * arch.membrane_bit
    kept = membranes * (layer.num_steps - 1) * layer.num_samples if stateful else 0
    spilled_sums = sums if open_bits > usable else 0
    spilled_membranes = kept if open_bits + membranes > usable else 0
    through = sums + kept + spilled_sums + spilled_membranes + results
    met = outputs * arch.psum_bit
    away = met * repeats if met * (layer.num_steps if arch.join == "layer" else 1) > usable else 0
    left, taken = bool(layer.joins), len(layer.branches)
    counts = {
        ("glb_ofmap", "read"): through + left * away + taken * met * repeats,
        ("glb_ofmap", "write"): through + left * met * repeats + taken * away,
        ("dram_ofmap", "write"): results,
        ("dram_psum", "read"): spilled_sums + taken * away,
        ("dram_psum", "write"): spilled_sums + left * away,
        ("dram_membrane", "read"): spilled_membranes,
        ("dram_membrane", "write"): spilled_membranes,
    }
    if taken:
        counts["out", "join"] = taken * outputs * repeats
    if stateful:
        counts["out", "update"] = outputs * repeats
    elif not left and (layer.kind not in POOLS or layer.neuron.kind != "none"):
        counts["out", "quantise"] = outputs * repeats
    return counts


def _vector(layer: Layer, arch: SystolicArch, out_bits: int) -> Counts:
    """Counts of a pool or a sum of maps: ``cols`` elements enter the vector unit in a cycle."""
    repeats, outputs = layer.num_steps * layer.num_samples, layer.K * layer.P * layer.Q
    maps = max(2, len(layer.inputs)) if layer.kind == "add" else 1
    taps = maps if layer.kind == "add" else layer.R * layer.S
    moved = maps * layer.C * layer.H * layer.W * _level_bits(layer) * repeats
    operation = "compare" if layer.kind == "maxpool2d" else "accumulate"
    counts: _Actions = {
        ("vector", operation): (taps - 1) * outputs * repeats,
        ("glb_ifmap", "read"): taps * outputs * _level_bits(layer) * repeats,
        ("glb_ifmap", "write"): moved,
        ("dram_ifmap", "read"): moved,
    } | _outputs(layer, arch, out_bits, 0, 0)
    return _timed(layer, arch, -(-taps * outputs // arch.cols) * repeats, counts, {})


def _timed(layer: Layer, arch: SystolicArch, busy: int, counts: _Actions, statistics: dict[str, int]) -> Counts:
    """Counts of a layer that keeps the array ``busy`` cycles; in each sample array and DRAM work side by side."""
    bits = sum(n for (instance, _), n in counts.items() if instance.startswith("dram_"))
    per_bit = exact_si(from_si(arch.clock, "mhz"), "mhz") / exact_si(from_si(arch.dram_bandwidth, "gb_s"), "gb_s")
    transfer = math.ceil(Fraction(bits, layer.num_samples) * per_bit) * layer.num_samples
    counts |= {("array", "cycles"): busy, ("dram", "cycles"): transfer}
    return Counts.of_layer(layer.name, counts, max(busy, transfer), **statistics)
