"""Training on a SATA-class array: forward, backward and weight update of one sample, as SATA_Sim estimates them or corrected.

Source: SATA_Sim (R. Yin et al., arXiv 2204.05422), directory training_energy_cal. Counting rules, the tool's quirks and
what trace fidelity changes are in docs/models/sata-training.md.
"""

from __future__ import annotations

import math
from collections import abc
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Unpack, final

import numpy as np

from spikeloom.core.arch import (
    AbstractArch,
    Charge,
    Component,
    LayerMapping,
    Mapping,
    Part,
    PerLayer,
    check_fidelity,
    check_knobs,
    knob,
    of_layer,
    quirk,
    values_of,
)
from spikeloom.core.counts import Counts
from spikeloom.core.trace import Spikes
from spikeloom.core.workload import POOLS, WEIGHTED, Layer, NeuronRule, Workload
from spikeloom.errors import ConfigError, MappingError
from spikeloom.hw.base import (
    SHAPES_ONLY,
    AbstractMachine,
    Effort,
    check_layer_tables,
    joined_notes,
    refuse_layer,
    refuse_shapes_only,
    without,
)

#: Width that the tool prices backward pass and weight update at.
FULL_BIT = 16
STAGES = ("forward", "backward", "update")
MEMORIES = ("dram", "glb", "spad")
#: What is counted, and the elementary operations (kind, action, times) it is made of.
OPERATIONS: dict[tuple[str, str], tuple[tuple[str, str, int], ...]] = {
    ("forward", "ac"): (("accumulator", "accumulate", 1), ("and_gate", "mask", 1)),
    ("forward", "lif"): (("adder", "add", 1), ("comparator", "compare", 1), ("multiplexer", "select", 2),
                         ("register", "access", 3), ("shifter", "shift", 1)),
    ("backward", "product"): (("multiplier", "multiply", 1), ("accumulator", "accumulate", 1)),
    ("backward", "gradient"): (("multiplier", "multiply", 1), ("adder", "add", 2), ("multiplexer", "select", 1),
                               ("shifter", "shift", 2)),
    ("update", "accumulate"): (("accumulator", "accumulate", 1), ("and_gate", "mask", 1)),
    **{(stage, memory): ((memory, "access", 1),) for stage in STAGES for memory in MEMORIES},
}  # fmt: skip


@final
@dataclass(frozen=True)
class SataTrainingArch(AbstractArch):
    """Fields of the estimator. Quantities are SI."""

    model: ClassVar[str] = "sata-training"

    fidelity: str = knob(
        "trace", "tool: as SATA_Sim estimates; trace: corrected, real spikes", choices=("trace", "tool")
    )
    fwd_bit: int = knob(16, "bits of weights and membranes in the forward pass", suffix="bit", low=1, high=FULL_BIT)
    sp_s: float = knob(
        -1.0, "spike sparsity of all layers; negative = mean of the trace", low=-1, high=1, fidelity="tool"
    )
    sp_du: PerLayer[float] = knob(
        0.0, "share of membrane gradients that are zero and skipped, given", low=0, high=1, per_layer=True
    )
    sp_df: PerLayer[float] = knob(
        0.0, "share of surrogate derivatives that are zero: no gradient is formed; given", low=0, high=1, per_layer=True
    )
    lost_macs: bool = quirk("only the last linear layer's forward accumulations are kept")
    dense_linear: bool = quirk("no sparsity in linear layers")
    skipped_output: bool = quirk("a linear read-out is not counted at all")
    ignored_sp_df: bool = quirk("sp_df has no effect")
    forward_packing: bool = quirk("backward and update pack fwd_bit spikes into a 16-bit word instead of 16")
    input_map: bool = quirk("backward products run over the input map, not the output map")
    pes: int = knob(128, "processing elements, for the bound on latency", low=1, high=1_000_000, search=(64, 128, 256))
    clock: float = knob(4e8, "clock, for the bound on latency", suffix="mhz", low=1e-3, high=1e5)
    table: str = knob("sata-training", "component table that prices the counts")

    def __post_init__(self) -> None:
        check_knobs(self)
        check_fidelity(self)

    def inventory(self) -> tuple[Part, ...]:
        """PEs and memories; the source states neither area nor leakage of any of them."""
        return (
            Part("pe", Component("accumulator", FULL_BIT), self.pes),
            Part("pe", Component("multiplier", FULL_BIT), self.pes),
            Part("spad", Component("spad", FULL_BIT), self.pes),
            Part("glb", Component("glb", FULL_BIT)),
            Part("dram", Component("dram", FULL_BIT)),
        )

    def charges(self) -> abc.Mapping[tuple[str, str], tuple[Charge, ...]]:
        """Composite operations of the tool; forward at ``fwd_bit``, the other stages at 16 bits."""
        return {
            key: tuple(
                Charge(Component(kind, self.fwd_bit if key[0] == "forward" else FULL_BIT), action, times)
                for kind, action, times in parts
            )
            for key, parts in OPERATIONS.items()
        }

    def notes(self) -> tuple[str, ...]:
        """What every figure of this machine rests on."""
        latency = (
            f"latency is a lower bound, all products and accumulations over {self.pes} PEs, as the tool states no time, and a "
            "sample is a training step: do not rank it beside inference"
        )
        unit = "the tool states no unit of its energies; pJ is presumed"
        given = f"gradient sparsities are given, not measured: sp_du = {self.sp_du}, sp_df = {self.sp_df}"
        if self.fidelity == "tool":
            return (
                "fidelity = 'tool': SATA_Sim's training estimate with its quirks, not these spikes",
                given,
                latency,
                unit,
            )
        return (
            "a training step of batch size one, not an inference: weights are read and written for every sample",
            given,
            latency,
            unit,
        )


@final
class SataTraining(AbstractMachine[SataTrainingArch]):
    """Counts of one training step per sample; closed forms over layer extents and real synaptic operations."""

    arch_type = SataTrainingArch
    presets: ClassVar[abc.Mapping[str, abc.Mapping[str, Any]]] = {"sata-training": {}}

    def runs(self, workload: Workload, arch: SataTrainingArch) -> Workload:
        """Without pools that have no neurons: what leaves them arrives at the layer behind; they are not priced."""
        pools = [x.name for x in workload.layers if x.kind in POOLS and x.neuron.kind == "none"]
        return without(workload, pools, f"pools {', '.join(pools)} are neither priced forward nor backward")

    def map(self, workload: Workload, arch: SataTrainingArch) -> Mapping:
        """Nothing to decide; refuse what the estimator has no rule for."""
        layers = self.runs(workload, arch).layers
        if not layers:
            raise MappingError("sata-training found no convolution and no linear layer to train in this workload")
        if arch.sp_s < 0:
            refuse_shapes_only(workload, "set fidelity = 'tool' and sp_s")
        for layer in layers:
            _refuse_unsupported(layer)
        check_layer_tables(arch, [layer.name for layer in layers])
        return Mapping("sata-training", {layer.name: LayerMapping() for layer in layers})

    def count(self, workload: Workload, arch: SataTrainingArch, mapping: Mapping, **effort: Unpack[Effort]) -> Counts:
        """Closed forms; ``threads`` and ``cache`` change nothing."""
        run = self.runs(workload, arch)
        tool = arch.fidelity == "tool"
        found = _tool_counts(run.layers, arch) if tool else [_trace_counts(layer, arch) for layer in run.layers]
        total = Counts(
            warnings=(*run.warnings, *_warnings(run)),
            expected=tool or any((*values_of(arch.sp_du), *values_of(arch.sp_df))),
        )
        for layer, actions in zip(run.layers, found, strict=True):
            total = total.then(Counts.of_layer(layer.name, actions, _cycles(layer, actions, arch)))
        return total

    def charges_width(self, arch: SataTrainingArch) -> bool:
        return False

    def utilisation(self, counts: Counts, arch: SataTrainingArch, layer: str) -> dict[str, float]:
        """None: the latency is a bound, so how well the PEs are used is not known."""
        return {}


def _refuse_unsupported(layer: Layer) -> None:
    refuse_layer(
        layer,
        WEIGHTED,
        f"sata-training has no rule for a {layer.kind} layer, only for {', '.join(WEIGHTED)} and pools without neurons; replace it "
        "before recording or choose another machine",
        "sata-training has no rule for recurrent connections; choose another machine",
        "sata-training trains neurons of one state (IF, LIF, LI), not CubaLIF; choose another machine",
    )


def _warnings(workload: Workload) -> abc.Iterator[str]:
    yield from joined_notes(workload.layers)
    biased = [layer.name for layer in workload.layers if layer.has_bias]
    if biased:
        yield f"the biases of {', '.join(biased)} are neither added nor trained in these counts"
    levels = [layer.name for layer in workload.layers if not isinstance(layer.arrival, Spikes)]
    if levels:
        yield f"levels that reach {', '.join(levels)} cost an accumulation for every bit that is set: the array has no multiplier forward"


_Actions = dict[tuple[str, str], int]


def _memories(weights: int, outputs: int, fwd_words: Any, words: Any, num_steps: int) -> _Actions:
    """Accesses of one sample. outputs: neurons times steps; words of input spikes of all steps, forward and otherwise."""
    dram = weights + outputs + fwd_words
    held = 2 * (1 + num_steps) * weights + words + outputs
    return {
        ("forward", "dram"): dram,
        ("forward", "glb"): 2 * dram,
        ("forward", "spad"): 2 * (weights + fwd_words),
        ("backward", "dram"): outputs + words,
        ("backward", "glb"): 7 * outputs + 2 * words + weights,
        ("backward", "spad"): weights + outputs,
        ("update", "dram"): 2 * weights,
        ("update", "glb"): held,
        ("update", "spad"): held + 2 * num_steps * weights,
    }


def _trace_counts(layer: Layer, arch: SataTrainingArch) -> _Actions:
    """Corrected counts of a layer from its spikes, over all samples.

    Integers unless a gradient sparsity is given. Input words are whole: ceil(C H W bits / word bits) in every step.
    """
    T, N = layer.num_steps, layer.num_samples
    neurons = layer.K * layer.P * layer.Q
    # a weight that is zero is added and updated like others
    arrival, dense = layer.arrival, replace(layer, weight=None)
    bits = 1 if isinstance(arrival, Spikes) else arrival.bits + arrival.signed
    accumulations = dense.met(arrival.ones().sum(axis=0))
    input_bits = layer.C * layer.H * layer.W * bits
    fwd_words, words = (T * -(-input_bits // width) for width in (arch.fwd_bit, FULL_BIT))
    memories = _memories(layer.num_weights, neurons * T, fwd_words, words, T)
    return {
        ("forward", "ac"): accumulations,
        ("forward", "lif"): neurons * T * N,
        ("backward", "product"): _kept(layer.dense_synops() * N, of_layer(arch.sp_du, layer.name)),
        ("backward", "gradient"): _kept(neurons * T * N, of_layer(arch.sp_df, layer.name)),
        ("update", "accumulate"): accumulations,
        **{pair: n * N for pair, n in memories.items()},
    }


def _cycles(layer: Layer, actions: _Actions, arch: SataTrainingArch) -> tuple[int, ...]:
    """Lower bound of a layer's cycles by sample: each sample is a step of its own, its operations over all PEs, rounded up."""
    N, accumulations = layer.num_samples, actions["forward", "ac"] + actions["update", "accumulate"]
    products = actions["backward", "product"] / N
    if arch.fidelity == "tool":
        return (math.ceil((accumulations / N + products) / arch.pes),) * N
    dense = replace(layer, weight=None)
    met = (2 * dense.met(ones_CHW) for ones_CHW in layer.arrival.ones())
    return tuple(math.ceil((work + products) / arch.pes) for work in met)


def _kept(count: int, sparsity: float) -> int:
    """What a sparsity leaves of a count: the integer itself at 0, else the (fractional) expectation."""
    return count if sparsity == 0 else (1 - sparsity) * count  # type: ignore[return-value]  # Counts.expected


def _tool_counts(layers: abc.Sequence[Layer], arch: SataTrainingArch) -> list[_Actions]:
    """What SATA_Sim counts, layer by layer, times the samples; a quirk that is off is corrected."""
    counted = [layer for layer in layers if not (arch.skipped_output and _is_output(layer))]
    linear = [index for index, layer in enumerate(layers) if layer.kind == "linear" and layer in counted]
    kept_from = linear[-1] if arch.lost_macs and linear else 0
    sparsity = arch.sp_s if arch.sp_s >= 0 else _mean_sparsity(layers)
    found = []
    for index, layer in enumerate(layers):
        T, N = layer.num_steps, layer.num_samples
        neurons, inputs = layer.K * layer.P * layer.Q, layer.C * layer.H * layer.W
        dense = arch.dense_linear and layer.kind == "linear"
        s, du = (0.0, 0.0) if dense else (sparsity, of_layer(arch.sp_du, layer.name))
        macs = layer.num_weights * layer.P * layer.Q * T
        products = layer.num_weights * layer.H * layer.W * T if arch.input_map else macs
        pack = arch.fwd_bit if arch.forward_packing else FULL_BIT
        memories = _memories(layer.num_weights, neurons * T, T * inputs / arch.fwd_bit, T * inputs / pack, T)
        actions: _Actions = {
            ("forward", "ac"): _kept(macs, s) if index >= kept_from else 0,
            ("forward", "lif"): neurons * T,
            ("backward", "product"): _kept(products, du),
            ("backward", "gradient"): _kept(
                neurons * T, 0.0 if arch.ignored_sp_df else of_layer(arch.sp_df, layer.name)
            ),
            ("update", "accumulate"): _kept(macs, s),
            **memories,
        }
        found.append({pair: n * N if layer in counted else 0 for pair, n in actions.items()})
    return found


def _is_output(layer: Layer) -> bool:
    """The read-out that the tool's layer files call out_linear: a linear layer whose neurons do not spike."""
    return layer.kind == "linear" and layer.neuron.kind in ("li", "none")


def _mean_sparsity(layers: abc.Sequence[Layer]) -> float:
    """1 - spikes (non-zero levels) per input and step, over all layers: the one number that the tool takes."""
    events = sum(int(layer.arrival.events().sum()) for layer in layers)
    places = sum(layer.C * layer.H * layer.W * layer.num_steps * layer.num_samples for layer in layers)
    return 1 - events / places


@dataclass(frozen=True)
class TrainingLayer:
    """A layer as the tool's files describe it: conv with C, K, R, H, E, or (out_)linear with in and out features.

    C, K: input and output channels (or features). R: kernel. H, E: side of the input and the output map.
    """

    kind: Literal["conv", "linear", "out_linear"]
    C: int
    K: int
    R: int = 1
    H: int = 1
    E: int = 1


def tool_workload(layers: abc.Iterable[TrainingLayer], num_steps: int) -> Workload:
    """The workload of the tool's own layer description, one silent sample: give the machine ``sp_s``.

    Names are ``conv1``, ``linear4``, ... by kind and position. The tool never says how a map is padded: H and E stand
    as given.

    Raises:
        ConfigError: an unknown kind, or an extent below one.
    """
    made = []
    for number, layer in enumerate(layers, 1):
        extents = (layer.C, layer.K, layer.R, layer.H, layer.E)
        if layer.kind not in ("conv", "linear", "out_linear") or min(*extents, num_steps) < 1:
            raise ConfigError(
                f"layer {number}: got {layer} with {num_steps} steps, expected conv, linear or out_linear with extents "
                "and steps of at least 1"
            )
        side = layer.H
        made.append(
            Layer(
                f"{layer.kind}{number}",
                "conv2d" if layer.kind == "conv" else "linear",
                *(layer.C, layer.K, side, side, layer.R, layer.R, layer.E, layer.E),
                arrival=Spikes.pack(np.zeros((num_steps, 1, layer.C, side, side), dtype=bool)),
                neuron=NeuronRule("li" if layer.kind == "out_linear" else "lif"),
            )
        )
    return Workload(
        tuple(made), num_steps, 1, "layer list of SATA_Sim's training estimator", (SHAPES_ONLY,), shapes_only=True
    )
