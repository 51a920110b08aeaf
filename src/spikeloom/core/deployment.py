"""What deploying a converted network on a machine comes to: one row for each setting. Letters: T time steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Bill:
    """One inference: joules and seconds, means over the counted samples."""

    energy_j: float
    latency_s: float

    @property
    def power_w(self) -> float:
        """Energy over latency: the mean power while inferences follow one another."""
        return self.energy_j / self.latency_s if self.latency_s else 0.0

    @property
    def edp_js(self) -> float:
        """Energy times latency."""
        return self.energy_j * self.latency_s


@dataclass(frozen=True)
class Deployed:
    """A network on a machine under one setting.

    name: of the row. setting: the knobs, as JSON holds them. within: whether held-out samples lose no more than was allowed.
    held, accuracy: fraction right of the held-out samples, on which the setting was chosen, and of the test samples.
    num_steps: T, the most steps a sample gets. mean_steps: what samples got on average, below T with early exit.
    margin: by which a sample's best class must lead to stop early, or None.
    spikes, events: spikes sent, and synaptic events paid for, by an inference. cores: that hold neurons, or None.
    bills: "given" is the machine as it was named, "dynamic" the same without standby, "board" with what a measured board draws, where
        the machine knows that.
    extra_energy_j: what a second compartment for each neuron with soft reset would add, not in any bill; None where it does not apply.
    """

    name: str
    setting: Mapping[str, Any]
    within: bool
    held: float
    accuracy: float
    num_steps: int
    mean_steps: float
    margin: float | None
    spikes: float
    events: float
    cores: int | None
    bills: Mapping[str, Bill]
    extra_energy_j: float | None = None

    @property
    def bill(self) -> Bill:
        """As the machine was named."""
        return self.bills["given"]


@dataclass(frozen=True)
class Rival:
    """The same task on another machine, as the ANN. accuracy: of the ANN on the test samples.

    bills: "board" of a whole device alone. fixed: what of them is overhead of the device, whatever the network; {} of other machines.
    """

    machine: str
    accuracy: float
    bills: Mapping[str, Bill]
    notes: tuple[str, ...] = ()
    fixed: Mapping[str, Bill] = field(default_factory=dict)


@dataclass(frozen=True)
class Confirmed:
    """Accuracy of the chosen network and of the ANN on all test samples. mean_steps: what samples got on average."""

    accuracy: float
    ann_accuracy: float
    mean_steps: float
    tested: int


@dataclass(frozen=True)
class Deployment:
    """All rows of a deployment study.

    ann_accuracy, ann_held: fraction right of the ANN on test and held-out samples. objective: what was made small.
    rows: plain, the fewest steps, each technique alone. chosen: all together. tested: test samples. counted: of them, those priced.
    notes: of the machine's reports. rival, confirmed: None where none was asked for.
    no_exit: what was chosen but for early exit, at its own smallest T; None where samples do not stop early. written: bill of the trace
        that is written, which holds all steps. held_samples: on which settings were chosen. techniques: names of those chosen.
    caveats: what limits the comparison with the rival.
    """

    machine: str
    objective: str
    max_loss: float
    ann_accuracy: float
    ann_held: float
    tested: int
    counted: int
    rows: tuple[Deployed, ...]
    chosen: Deployed
    rival: Rival | None = None
    notes: tuple[str, ...] = field(default_factory=tuple)
    confirmed: Confirmed | None = None
    no_exit: Deployed | None = None
    written: Bill | None = None
    held_samples: int = 0
    techniques: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()

    @property
    def plain(self) -> Deployed:
        """The plain conversion, against which the rest is held."""
        return self.rows[0]

    def loss(self, row: Deployed) -> float:
        """Percentage points of test accuracy below the ANN."""
        return 100 * (self.ann_accuracy - row.accuracy)
