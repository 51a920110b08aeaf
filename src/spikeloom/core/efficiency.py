"""What a study of an SNN's efficiency finds: the SNN beside its ANN on many machines. Letters: T time steps, N samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

Share = Literal["neuron", "dram", "sram", "compute", "leakage"]
SHARES: tuple[Share, ...] = ("neuron", "dram", "sram", "compute", "leakage")

#: Remedies in the order in which they are shown: name -> what is done.
REMEDIES: Mapping[str, str] = {
    "batching": "weights are fetched once for all time steps (tick batching, weight stationary over time)",
    "sharing": "4 neurons share the logic of one neuron module; their states and the latency stay",
    "early exit": "a sample stops as soon as its class is sure, by a margin that loses nothing where it was chosen",
    "half steps": "half of the time steps; what accuracy that costs is not known here",
    "4 bit": "weights of 4 bits; what accuracy that costs is not known here",
    "2 bit": "weights of 2 bits; what accuracy that costs is not known here",
}
#: Those meant to change no prediction for the worse.
KEEP_ACCURACY = ("batching", "sharing", "early exit")


@dataclass(frozen=True)
class BreakEven:
    """Where an SNN costs what an ANN costs.

    case: "thinned" (break-even at ``rate``, below the real rate), "denser" (it wins up to ``rate``, above the real one), "never"
    (even silent it costs more), "always" (it costs less with every neuron firing at every step). strength: of `resampled`.
    """

    case: str
    rate: float | None
    strength: float | None


@dataclass(frozen=True)
class Saving:
    """One remedy on one machine. energy, edp: fractions saved, below 0 where it costs more; area: fraction saved, or None.

    how: "counted" again exactly, or "bound": what it saves at most. refused: why it does not apply, and then the rest is None.
    """

    remedy: str
    how: str = "counted"
    energy: float | None = None
    edp: float | None = None
    area: float | None = None
    refused: str = ""


@dataclass(frozen=True, eq=False)
class Exits:
    """When samples may stop. steps: of each sample of the trace, int64 (N,). mean: steps on average over all of ``tested`` samples.

    accuracy: fraction right of the tested samples as (with all steps, when they stop).
    """

    steps: np.ndarray
    mean: float
    accuracy: tuple[float, float]
    tested: int


@dataclass(frozen=True)
class Estimate:
    """What counting operations says, per inference.

    additions: of the SNN, one per spike and synapse it meets (a sum of pooled spikes counts as its spikes). snn_macs: of layers that
    get pixels: once if they are the same at every step. ann_macs: of the ANN, every input. snn, ann: joules. same: where both cost the same, None where it was not asked.
    """

    prices: str
    additions: float
    snn_macs: float
    ann_macs: float
    snn: float
    ann: float
    addition: float
    source: str
    same: BreakEven | None = None

    @property
    def ratio(self) -> float:
        """SNN / ANN."""
        return self.snn / self.ann


@dataclass(frozen=True)
class Bill:
    """One inference on one machine; shares: fractions of the energy. refused: why the machine cannot run it, and then 0."""

    energy: float = 0.0
    latency: float = 0.0
    shares: Mapping[Share, float] | None = None
    refused: str = ""

    @property
    def edp(self) -> float:
        """Joules times seconds."""
        return self.energy * self.latency


@dataclass(frozen=True)
class OnMachine:
    """The SNN and its ANN on one machine.

    lengths: (steps, joules, seconds) of the first so many steps. same, cheapest: where the SNN costs what the ANN costs on this
    machine, and on the machine of the same prices where the ANN costs least (``cheapest_ann``).
    kind: what machines must have in common to be ranked: who counted, and the kinds of cost in the bill.
    """

    label: str
    table: str
    snn: Bill
    ann: Bill
    lengths: tuple[tuple[int, float, float], ...] = ()
    same: BreakEven | None = None
    cheapest: BreakEven | None = None
    cheapest_ann: str = ""
    savings: tuple[Saving, ...] = ()
    warnings: tuple[str, ...] = ()
    kind: tuple[str, ...] = ()

    @property
    def ratio(self) -> float | None:
        """Energy SNN / ANN, or None where one of them does not run."""
        return None if self.snn.refused or self.ann.refused else self.snn.energy / self.ann.energy

    @property
    def later_steps(self) -> float | None:
        """Fraction of the energy that steps 2..T take."""
        return None if self.snn.refused or not self.snn.energy else 1 - self.lengths[0][1] / self.snn.energy


@dataclass(frozen=True, eq=False)
class TrulyEfficient:
    """What the study found. rate: spikes per neuron and step. accuracy: fraction right of (SNN, ANN), None where unknown."""

    source: str
    num_steps: int
    num_samples: int
    rate: float
    ann_bits: int
    ann_zeros: float
    assumption: str
    accuracy: tuple[float | None, float | None]
    estimates: tuple[Estimate, ...]
    machines: tuple[OnMachine, ...]
    exits: Exits | None = None
