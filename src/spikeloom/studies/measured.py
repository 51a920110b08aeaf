"""Loihi as measured (Blouw et al. 2018): power as idle, host and events, and how much of the energy counted events can explain."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from spikeloom.components import load_table
from spikeloom.cost import unit_prices
from spikeloom.hw.loihi_arch import LOIHI_PRESETS, LoihiArch
from spikeloom.studies.agreement import published

#: Copies of the scaled network from which the model is fitted; 2, 6 and 10 are predicted.
FITTED = (1, 4, 8)


@dataclass(frozen=True)
class Measurement:
    """One network as measured: inferences a second, watts, joules an inference; the means over its runs."""

    copies: int
    rate: float
    idle_w: float
    running_w: float
    dynamic_j: float
    total_j: float


@dataclass(frozen=True)
class LoihiPower:
    """Power of a running chip: static (idle) + host (constant while a network runs) + event energy x copies x inferences/s.

    static_w, host_w: watts. copy_j: joules of one ten-layer copy in one inference.
    """

    static_w: float
    host_w: float
    copy_j: float

    def dynamic_w(self, copies: int, rate: float) -> float:
        """Watts above idle."""
        return self.host_w + self.copy_j * copies * rate

    def power_w(self, copies: int, rate: float) -> float:
        """Watts in all."""
        return self.static_w + self.dynamic_w(copies, rate)

    def dynamic_j(self, copies: int, rate: float) -> float:
        """Joules of an inference above idle."""
        return self.dynamic_w(copies, rate) / rate

    def total_j(self, copies: int, rate: float) -> float:
        """Joules of an inference."""
        return self.power_w(copies, rate) / rate


@dataclass(frozen=True)
class EventEnergy:
    """Joules of an inference that the events of a network account for, by the unit energies of machine `loihi`.

    fixed: accesses and updates of every neuron in every step. at_rate_1: synapse events, spikes and one message each if every
    neuron fires in every step; at a firing rate r its share is r.
    """

    fixed: float
    at_rate_1: float

    def at(self, rate: float) -> float:
        """At a firing rate, 0..1."""
        return self.fixed + rate * self.at_rate_1

    def rate_of(self, joules: float) -> float:
        """The firing rate at which the events cost as much."""
        return (joules - self.fixed) / self.at_rate_1


def scaled() -> dict[int, Measurement]:
    """The scaled network, by copies."""
    return {row["copies"]: _measurement(row) for row in published("loihi_measured.json")["scaled"]}


def keyword() -> Measurement:
    """The keyword network."""
    return _measurement({**published("loihi_measured.json")["keyword"], "copies": 0})


def _measurement(row: dict[str, Any]) -> Measurement:
    watts = (row["idle_w"], row["running_w"])
    return Measurement(row["copies"], row["inferences_per_s"], *watts, 1e-3 * row["dynamic_mj"], 1e-3 * row["total_mj"])


def fit() -> LoihiPower:
    """Least squares over `FITTED`: idle power is its mean, host and event energy a straight line over copies x inferences/s."""
    runs = [scaled()[copies] for copies in FITTED]
    columns = np.array([(1.0, run.copies * run.rate) for run in runs])
    watts = np.array([run.running_w - run.idle_w for run in runs])
    host, copy = np.linalg.lstsq(columns, watts, rcond=None)[0]
    return LoihiPower(float(np.mean([run.idle_w for run in runs])), float(host), float(copy))


def energy_line() -> tuple[float, float]:
    """(intercept, slope) of dynamic joules an inference over copies 1 to 10, as the measurement itself is summed up."""
    runs = [run for copies, run in scaled().items() if copies]
    slope, intercept = np.polyfit([run.copies for run in runs], [run.dynamic_j for run in runs], 1)
    return float(intercept), float(slope)


def events(preset: str, neurons: int, synapses: int, steps: int) -> EventEnergy:
    """Events of a network whose neurons each send one message a spike.

    Hops are left out: some pJ of a message whose 256 synapse events cost nJ. preset: of machine `loihi`, which names the unit
    energies. synapses: at a firing rate r a share r of them has an event in each step.
    """
    arch = LoihiArch(**LOIHI_PRESETS[preset])  # type: ignore[arg-type]
    access, update, spike, message, event = (
        ("soma", "access"), ("soma", "update"), ("soma", "spike_out"), ("axon", "out"), ("synapse", "event"),
    )  # fmt: skip
    joules, _ = unit_prices((access, update, spike, message, event), arch, load_table(arch.table))
    fixed = neurons * steps * (joules[access] + joules[update])
    firing = neurons * steps * (joules[spike] + joules[message]) + synapses * steps * joules[event]
    return EventEnergy(fixed, firing)


def copy_events(preset: str) -> EventEnergy:
    """Events of one ten-layer copy."""
    said = published("loihi_measured.json")
    neurons = said["layers_per_copy"] * said["width"]
    return events(preset, neurons, neurons * said["width"], said["steps"])


def keyword_events(preset: str) -> EventEnergy:
    """Events of the keyword network."""
    said = published("loihi_measured.json")
    return events(preset, said["keyword_neurons"], said["keyword_synapses"], said["steps"])


def errors() -> Iterator[tuple[str, int, float, float]]:
    """(quantity, copies, measured, modelled) of power, dynamic and total energy of every measured size."""
    found = fit()
    for copies, run in scaled().items():
        yield "power", copies, run.running_w, found.power_w(copies, run.rate)
        yield "dynamic energy", copies, run.dynamic_j, found.dynamic_j(copies, run.rate)
        yield "total energy", copies, run.total_j, found.total_j(copies, run.rate)
