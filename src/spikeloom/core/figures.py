"""What a network comes to: the figures that a transform changes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Figures:
    """One network in figures.

    accuracy: fraction right, or None without samples. spikes, synops: per sample, None for an ANN or without samples.
    weights: number of them. zeros: fraction of weights that are 0. weight_kib: their size at their bit widths, zeros included.
    """

    name: str
    arithmetic: str
    num_steps: int | None
    accuracy: float | None
    spikes: float | None
    synops: float | None
    weights: int
    zeros: float
    weight_kib: float


@dataclass(frozen=True)
class Point:
    """An SNN at one T. spikes, synops, energy_j, latency_s: per inference; None where no machine or no such data.

    warnings: of the bill; no figure.
    """

    num_steps: int
    calibration: str
    accuracy: float
    spikes: float
    synops: float
    energy_j: float | None
    latency_s: float | None
    warnings: tuple[str, ...] = field(default=(), compare=False)

    @property
    def edp_js(self) -> float | None:
        """Energy times latency."""
        return None if self.energy_j is None or self.latency_s is None else self.energy_j * self.latency_s


@dataclass(frozen=True)
class LayerError:
    """Root mean square error of a layer's rates against the ANN's activations, in percent of their root mean square.

    The parts add up, sign by sign, to the total: clipping (activations above the threshold), quantisation (rates have T + 1
    values), inherited (other inputs than the ANN's, from layers before), unevenness (spikes that come early or late; with hard
    reset also what it throws away).
    """

    name: str
    clipping: float
    quantisation: float
    inherited: float
    unevenness: float
    total: float


@dataclass(frozen=True)
class Spread:
    """Accuracies over chips, fractions right; one for each seed, or a single one where all chips are alike."""

    accuracies: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Their mean."""
        return sum(self.accuracies) / len(self.accuracies)

    @property
    def deviation(self) -> float:
        """Their standard deviation (n - 1); 0 of a single one."""
        if len(self.accuracies) < 2:
            return 0.0
        return math.sqrt(sum((one - self.mean) ** 2 for one in self.accuracies) / (len(self.accuracies) - 1))


@dataclass(frozen=True)
class CrossbarRow:
    """A network on crossbars of one size under one non-ideality, or under all.

    plain: as programmed. adapted: with digital scale and shift of every channel. tuned: after training that knew of the non-ideality.
    both: tuned, then adapted. None where no such training was asked for. crossbars: on one chip. seconds: wall time of the row.
    """

    size: int
    name: str
    crossbars: int
    plain: Spread
    adapted: Spread
    tuned: Spread | None
    both: Spread | None
    seconds: float


@dataclass(frozen=True)
class MappedLayer:
    """A layer on the cores of a many-core machine.

    neurons: of the layer. split: in words. messages: that lead to it, over all samples; None where nothing on the machine does. by: what
    they would be if it were split evenly by "neurons", "channels" or "rows" over as many cores, None where it cannot be.
    """

    name: str
    neurons: int
    cores: int
    split: str
    messages: int | None
    by: Mapping[str, int | None]
