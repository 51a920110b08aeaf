"""Report: what the counts cost; Trial: one evaluated design with everything needed to repeat it."""

from __future__ import annotations

import hashlib
import json
from collections import abc
from dataclasses import dataclass, field
from typing import Any, Literal

from spikeloom.core.purposes import WHOLE


@dataclass(frozen=True)
class LayerReport:
    """One layer over all samples of the trace. energy: joules keyed ``instance.action`` (``instance.leakage`` included)."""

    name: str
    cycles: int
    latency_s: float
    synops: int
    counts: abc.Mapping[str, int]
    energy: abc.Mapping[str, float]
    utilisation: abc.Mapping[str, float] = field(default_factory=dict)

    @property
    def energy_j(self) -> float:
        return sum(self.energy.values())


@dataclass(frozen=True)
class RealTime:
    """A bill in which each sample lasts at least ``sample_s`` = T dt, sums over the samples.

    latency_s: of each sample the longer of its latency and sample_s. energy_j: the work, and leakage over all of latency_s.
    """

    sample_s: float
    latency_s: float
    energy_j: float


@dataclass(frozen=True)
class Report:
    """What one machine spent on one workload. All figures are sums over the samples; ``per_inference`` holds means.

    area: square metres keyed by instance, or None when no part has a sourced area.
    sources: where each price came from, keyed like the energies.
    label: what the user called the machine.
    holds: kinds of cost inside the bill (`core.purposes`), () where not known. limits: what limits a ratio with a measured device.
    real_time: the bill with waiting, where it was asked for and something leaks.
    weight_bits: where the width of weights is not their own: {"charged": bits of all layers that do, "assumed": nobody asked for it}.
    """

    model: str
    arch: abc.Mapping[str, Any]
    num_samples: int
    layers: tuple[LayerReport, ...]
    cycles: int
    latency_s: float
    area: abc.Mapping[str, float] | None
    sources: abc.Mapping[str, str]
    warnings: tuple[str, ...] = ()
    workload_id: str = ""
    label: str = ""
    holds: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    real_time: RealTime | None = None
    weight_bits: abc.Mapping[str, Any] | None = None

    @property
    def energy_j(self) -> float:
        """Sum over layers."""
        return sum(layer.energy_j for layer in self.layers)

    @property
    def whole(self) -> bool:
        """Whether it is the bill of a whole device, of whose parts nothing is known."""
        return bool(set(self.holds) & set(WHOLE))

    @property
    def area_m2(self) -> float | None:
        """Sum over parts, or None."""
        return None if self.area is None else sum(self.area.values())

    @property
    def synops(self) -> int:
        """Synaptic operations over all layers and samples."""
        return sum(layer.synops for layer in self.layers)

    @property
    def latency_per_inference_s(self) -> float:
        return self.latency_s / self.num_samples

    @property
    def energy_per_inference_j(self) -> float:
        return self.energy_j / self.num_samples

    @property
    def edp_js(self) -> float:
        """Energy-delay product of one inference: the product of the two means."""
        return self.energy_per_inference_j * self.latency_per_inference_s

    def by(self, what: Literal["layer", "component", "action"]) -> dict[str, float]:
        """Joules grouped by layer, by component or by action (``instance.action``); each sums to the total.

        A component is an instance; what it leaks is a row of its own (``glb leakage``).
        """
        grouped: dict[str, float] = {}
        for layer in self.layers:
            for key, joules in layer.energy.items():
                instance, action = key.split(".")
                component = f"{instance} leakage" if action == "leakage" else instance
                name = {"layer": layer.name, "component": component, "action": key}[what]
                grouped[name] = grouped.get(name, 0.0) + joules
        return grouped


@dataclass(frozen=True)
class Trial:
    """A design and its outcome; the only thing in result files. ``id`` hashes everything that affects the result."""

    config: abc.Mapping[str, Any]
    arch: abc.Mapping[str, Any]
    seed: int
    workload_id: str
    accuracy: float | None
    report: Report | None

    @property
    def id(self) -> str:
        """SHA-256 over config, arch, seed and workload."""
        canonical = json.dumps(
            [self.config, self.arch, self.seed, self.workload_id], sort_keys=True, separators=(",", ":")
        )
        return hashlib.sha256(canonical.encode()).hexdigest()
