"""Accelerators of which only measurements exist: a roofline with a fixed overhead and a link, calibrated on them.

The law, the calibration and where it ends are in docs/models/edge.md; `spikeloom.studies.sticks` derives every constant
from the measurements and a test holds the fields and tables to it.
"""

from __future__ import annotations

import math
from collections import abc
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any, ClassVar, Unpack, final

import numpy as np

from spikeloom.core.arch import AbstractArch, Charge, Component, LayerMapping, Mapping, Part, check_knobs, knob
from spikeloom.core.counts import Counts
from spikeloom.core.purposes import Purpose
from spikeloom.core.report import Report
from spikeloom.core.trace import Arrival, Spikes
from spikeloom.core.workload import POOLS, WEIGHTED, Layer, Workload
from spikeloom.errors import ConfigError, MappingError
from spikeloom.hw.base import AbstractMachine, Effort, refuse_layer
from spikeloom.units import exact_si, format_si, from_si, to_si

#: Bits of a weight and of a value: the sticks compute in half precision.
FP16 = 16
#: Values of a map are bytes in pairs.
VALUE_BYTES = FP16 // 8


@dataclass(frozen=True)
class Measured:
    """What the networks of a device's measurements span, smallest to largest an inference; outside it is extrapolation.

    macs: multiply-accumulates. weight_bytes: weights and biases in fp16. link_values: inputs and outputs. kinds: of layers.
    gap: MACs between which none was measured, where that is a leap of orders.
    """

    macs: tuple[int, int]
    weight_bytes: tuple[int, int]
    link_values: tuple[int, int]
    kinds: tuple[str, ...]
    gap: tuple[int, int] | None = None


#: Device -> what was measured of it.
MEASURED: abc.Mapping[str, Measured] = {
    "ncs2": Measured(
        (172_800, 7_088_373_760),
        (346_682, 1_834_066),
        (419, 1_310_720),
        ("conv2d", "linear", "maxpool2d", "add"),
        gap=(172_800, 407_332_864),
    ),
    "ncs": Measured((172_800, 7_316_224), (346_682, 14_684_730), (419, 419), ("linear",)),
}


@final
@dataclass(frozen=True)
class EdgeArch(AbstractArch):
    """Fields of the device. Quantities are SI: seconds, hertz (of MACs: MACs a second), bit/s."""

    model: ClassVar[str] = "edge"

    device: str = knob("ncs2", "whose measurements the constants are from", choices=("ncs2", "ncs"))
    overhead: float = knob(1.863e-3, "time of an inference before and after its layers", suffix="us", low=0, high=1e6)
    link: float = knob(1.4112e8, "link to the host, inputs and outputs as fp16", suffix="gb_s", low=1e-6, high=1e4)
    macs: float = knob(5e11, "MACs a second, the peak of the vendor", suffix="ghz", low=1e-3, high=1e6)
    weight_bandwidth: float = knob(1.1688e10, "memory bandwidth of weights", suffix="gb_s", low=1e-6, high=1e4)
    map_bandwidth: float = knob(4.4296e9, "memory bandwidth of maps", suffix="gb_s", low=1e-6, high=1e4)
    clock: float = knob(1e9, "ticks in which time is counted, of 1 ns", suffix="mhz", low=1000, high=1000)
    table: str = knob("ncs2", "component table that prices the time")

    def __post_init__(self) -> None:
        check_knobs(self)
        if self.table != self.device and not self.table.endswith(".toml"):
            raise ConfigError(
                f"table: got '{self.table}' with device = '{self.device}'; constants and powers of two devices are never mixed: take the "
                f"preset {self.device}, or a table file of your own"
            )

    def inventory(self) -> tuple[Part, ...]:
        """The stick as it hangs on its connector; its standby is what it draws when idle."""
        return (Part("device", Component("stick", width_bit=FP16)),)

    def charges(self) -> abc.Mapping[tuple[str, str], tuple[Charge, ...]]:
        """A tick of work costs what the stick draws above idle; a MAC by itself nothing."""
        stick = Component("stick", width_bit=FP16)
        wait, run = (Charge(stick, "wait"),), (Charge(stick, "run"),)
        return {
            ("device", "overhead"): wait,
            ("device", "transfer"): wait,
            ("device", "run"): run,
            ("device", "mac"): (),
        }

    @property
    def described(self) -> tuple[str, ...]:
        """Fields that are no longer those of the measured device, in words; () for a device as measured."""
        fitted = _FITTED[self.device]
        names = [item.name for item in fields(self) if getattr(self, item.name) != fitted.get(item.name, item.default)]
        return tuple(name for name in names if name != "device" and (name != "table" or self.table != self.device))

    def purposes(self) -> abc.Mapping[str, Purpose]:
        """One whole board: measured, or described by its user."""
        return {"device": "whole board described" if self.described else "whole board measured"}

    def beside_measured(self, report: Report) -> tuple[str, ...]:
        """How much of an inference is overhead."""
        seconds, _, joules = fixed(report)
        whole, spent = report.latency_per_inference_s, report.energy_per_inference_j
        share = f" and {100 * joules / spent:.3g} % of its energy" if spent else ""
        said = f"{format_si(seconds, 's')} of {format_si(whole, 's')}{share} are a fixed overhead, whatever the network"
        return (f"{said}{' (of a device as described)' if self.described else ''}",)

    def notes(self) -> tuple[str, ...]:
        """What it runs, whatever the trace holds, and which constants are no longer those of the measurements."""
        changed = [name for name in self.described if name != "table"]
        return (
            "runs the ANN of the same layers once an inference, dense and in fp16, whatever steps, spikes and "
            "bits the trace has; an SNN and its matched ANN cost the same here",
            "time and power are those of a device as it was described, not as measured"
            if self.described
            else "time and power are fits to a whole stick on USB 2.0, not counts of its parts",
            *(
                [f"{', '.join(changed)}: changed from what was fitted to the measurements of {self.device}"]
                * bool(changed)
            ),
            *((f"powers of a table of your own, {self.table}",) if self.table.endswith(".toml") else ()),
        )


#: Preset of the first stick, in units of a machine file.
_NCS: abc.Mapping[str, Any] = {
    "device": "ncs",
    "overhead_us": 3533.0,
    "link_gb_s": 0.01949,
    "macs_ghz": 75.0,
    "weight_bandwidth_gb_s": 1.461,
    "map_bandwidth_gb_s": 0.2889,
    "table": "ncs",
}
#: Device -> constants in SI that differ from the defaults, which are those of ncs2.
_FITTED: abc.Mapping[str, abc.Mapping[str, float]] = {
    "ncs2": {},
    "ncs": {
        item.name: to_si(_NCS[f"{item.name}_{item.metadata['suffix']}"], item.metadata["suffix"])
        for item in fields(EdgeArch)
        if f"{item.name}_{item.metadata['suffix']}" in _NCS
    },
}


@final
class Edge(AbstractMachine[EdgeArch]):
    """Time of a measured device in whole nanoseconds."""

    arch_type = EdgeArch
    presets: ClassVar[abc.Mapping[str, abc.Mapping[str, Any]]] = {"ncs2": {}, "ncs": _NCS}

    def runs(self, workload: Workload, arch: EdgeArch) -> Workload:
        """Every layer as it is."""
        return workload

    def map(self, workload: Workload, arch: EdgeArch) -> Mapping:
        """Nothing to decide; refuses what has no count of MACs or no single pass."""
        if not workload.layers:
            raise MappingError("edge found no layer to run in this workload")
        for layer in workload.layers:
            _refuse_unsupported(layer)
        return Mapping("edge", {layer.name: LayerMapping() for layer in workload.layers})

    def count(self, workload: Workload, arch: EdgeArch, mapping: Mapping, **effort: Unpack[Effort]) -> Counts:
        """Ticks of one inference times the samples; no spike is looked at."""
        entering, leaving = _ends(workload)
        total = Counts(warnings=(*workload.warnings, *_extrapolated(workload, arch)))
        for index, layer in enumerate(workload.layers):
            ends = layer.C * layer.H * layer.W * (layer.name in entering)
            ends += layer.K * layer.P * layer.Q * (layer.name in leaving)
            ticks = {
                "overhead": _ticks(_seconds(arch.overhead, "us")) if index == 0 else 0,
                "transfer": _ticks(ends * FP16 / _rate(arch.link)),
                "run": _ticks(layer_seconds(macs(layer), weights(layer), map_values(layer), arch)),
            }
            done = {**ticks, "mac": macs(layer)}
            actions = {("device", name): n * workload.num_samples for name, n in done.items()}
            total = total.then(Counts.of_layer(layer.name, actions, sum(ticks.values()) * workload.num_samples))
        return total

    def charges_width(self, arch: EdgeArch) -> bool:
        return False

    def utilisation(self, counts: Counts, arch: EdgeArch, layer: str) -> dict[str, float]:
        """mac_use: MACs of a layer over those the device could have done while it ran; none of a layer without MACs."""
        done, run = counts.actions[layer, "device", "mac"], counts.actions[layer, "device", "run"]
        return {"mac_use": done * arch.clock / (arch.macs * run)} if done else {}


def fixed(report: Report) -> tuple[float, float, float]:
    """Overhead of an inference: seconds, joules above idle, joules with what the device draws when idle meanwhile."""
    seconds = sum(layer.counts.get("device.overhead", 0) for layer in report.layers) / report.cycles * report.latency_s
    spent = report.by("action")
    above = spent.get("device.overhead", 0.0)
    whole = above + spent.get("device.leakage", 0.0) * seconds / report.latency_s
    return seconds / report.num_samples, above / report.num_samples, whole / report.num_samples


def macs(layer: Layer) -> int:
    """Multiply-accumulates of one pass, padding among them: K (C / groups) R S P Q; 0 of pools and sums."""
    return layer.num_weights * layer.P * layer.Q if layer.kind in WEIGHTED else 0


def weights(layer: Layer) -> int:
    """Weights and biases of a layer."""
    return layer.num_weights + layer.K * layer.has_bias if layer.kind in WEIGHTED else 0


def map_values(layer: Layer) -> int:
    """Values that a layer reads and writes."""
    maps = max(2, len(layer.inputs)) if layer.kind == "add" else 1
    return maps * layer.C * layer.H * layer.W + layer.K * layer.P * layer.Q


def layer_seconds(macs: int, weights: int, map_values: int, arch: EdgeArch) -> Fraction:
    """Roofline of one layer, s: max(MACs / rate, weight bits / weight bandwidth + map bits / map bandwidth), exact."""
    computing = macs / exact_si(from_si(arch.macs, "ghz"), "ghz")
    moving = weights * FP16 / _rate(arch.weight_bandwidth) + map_values * FP16 / _rate(arch.map_bandwidth)
    return max(computing, moving)


def _rate(bits: float) -> Fraction:
    """Bit/s, exact in the decimals of the machine file."""
    return exact_si(from_si(bits, "gb_s"), "gb_s")


def _seconds(value: float, suffix: str) -> Fraction:
    return exact_si(from_si(value, suffix), suffix)


def _ticks(seconds: Fraction) -> int:
    """Whole nanoseconds, begun ones included."""
    return math.ceil(seconds * 10**9)


def _ends(workload: Workload) -> tuple[set[str], set[str]]:
    """Layers that the input crosses the link to, and those whose outputs cross it back.

    What several layers hear crosses once, and sums on their way to the neurons of another layer do not cross. A layer list names no
    sources; its first and last layer are taken.
    """
    layers = workload.layers
    read = {source for layer in layers for source in layer.inputs}
    if not read and not any(layer.joins for layer in layers):
        return {layers[0].name}, {layers[-1].name}
    entering: list[Layer] = []
    for layer in layers:
        if not layer.inputs and not any(_same(layer.arrival, other.arrival) for other in entering):
            entering.append(layer)
    return {x.name for x in entering}, {x.name for x in layers if x.name not in read and not x.joins}


def _same(one: Arrival, other: Arrival) -> bool:
    """Whether two layers hear the same map, flattened or not."""
    a, b = (x.packed if isinstance(x, Spikes) else x.values for x in (one, other))
    return type(one) is type(other) and a.size == b.size and np.array_equal(a.reshape(b.shape), b)


def _refuse_unsupported(layer: Layer) -> None:
    kinds = (*WEIGHTED, *POOLS, "add")
    refuse_layer(
        layer,
        kinds,
        f"edge has no count of MACs for a {layer.kind} layer, only for {', '.join(kinds)}; replace it before recording or choose "
        "another machine",
        "edge runs a network in one pass and cannot run a recurrent layer; choose another machine",
    )


def _extrapolated(workload: Workload, arch: EdgeArch) -> abc.Iterator[str]:
    """One warning for every quantity outside what was measured, with how far outside it is."""
    measured, layers = MEASURED[arch.device], workload.layers
    entering, leaving = _ends(workload)
    values = sum(x.C * x.H * x.W for x in layers if x.name in entering)
    values += sum(x.K * x.P * x.Q for x in layers if x.name in leaving)
    for what, n, (low, high) in (
        ("MACs", sum(map(macs, layers)), measured.macs),
        ("bytes of weights", VALUE_BYTES * sum(map(weights, layers)), measured.weight_bytes),
        ("values over the link", values, measured.link_values),
    ):
        if n > high:
            yield f"extrapolated: {n:,} {what} an inference, {n / high:.3g} times the most measured ({high:,})"
        elif n < low:
            share = f"{n / low:.3g} of" if n else "none against"
            yield f"extrapolated: {n:,} {what} an inference, {share} the least measured ({low:,})"
    total = sum(map(macs, layers))
    if measured.gap and measured.gap[0] < total < measured.gap[1]:
        low, high = measured.gap
        yield f"interpolated: {total:,} MACs an inference, none measured between {low:,} and {high:,}"
    odd: dict[str, list[str]] = {}
    for layer in layers:
        kind = f"grouped {layer.kind}" if layer.groups > 1 and layer.kind in WEIGHTED else layer.kind
        if kind not in measured.kinds:
            odd.setdefault(kind, []).append(layer.name)
    for kind, names in odd.items():
        yield (f"extrapolated: no {kind} layer was measured ({', '.join(names)}), only {', '.join(measured.kinds)}")
