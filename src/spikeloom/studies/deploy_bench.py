"""Where the settings of a deployment are measured: the smallest T that is good enough, early exit, spikes, and what a machine charges.

What is found is kept in a folder, keyed by all that it depends on, so that an interrupted study goes on. Letters: T time steps, N
samples, K classes.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from spikeloom.components import load_table
from spikeloom.core.arch import AbstractArch
from spikeloom.core.arch import Mapping as MachineMapping
from spikeloom.core.deployment import Bill, Confirmed, Deployed
from spikeloom.core.network import Network
from spikeloom.core.nodes import LI, Linear, Output
from spikeloom.core.placement import Place, Placement
from spikeloom.core.report import Report
from spikeloom.core.trace import Spikes, SpikeTrace
from spikeloom.core.workload import Workload
from spikeloom.data import Samples
from spikeloom.emulate import emulate
from spikeloom.errors import ConfigError
from spikeloom.evaluate import evaluate
from spikeloom.files.atomic import make_folder, write_text
from spikeloom.files.config import machine_keys
from spikeloom.files.placement import read_placement
from spikeloom.lower import lower
from spikeloom.studies.ann import taken
from spikeloom.studies.convert import Splits, ann_accuracy
from spikeloom.studies.deploy_cores import place
from spikeloom.studies.techniques import Kit, Setting, contents
from spikeloom.studies.thinning import first_steps

if TYPE_CHECKING:
    from spikeloom.snn.execute import Progress

Objective = Literal["energy", "edp", "power", "latency"]
#: Changes of this file that make kept rows worthless.
VERSION = 1
#: Folder of kept rows.
ROWS = "rows"
#: T that is tried first, and then doubled.
FIRST_STEPS = 8
#: Margins that are tried for early exit, and different last steps of a bill, each rounded up.
MARGINS = 64
GROUPS = 8
#: Samples that say first whether a T is worth the others, and samples that run at once.
SCREENED = 100
AT_ONCE = 16
#: Samples whose read-out is held at once when all are confirmed.
CONFIRMED = 512
#: What a measured board draws beyond the chip's work, where a machine has these fields.
BOARD = {"static": "blouw2018", "host": "blouw2018"}


@dataclass(frozen=True, kw_only=True)
class DeployOptions:
    """What is asked for.

    machine: preset, machine file, or either with changed fields. max_loss: percentage points below the ANN that are allowed.
    objective: what is made small. samples: for calibration. limit: held-out samples to choose on, and test samples.
    counted: of either, the first whose every spike is priced. most_steps: T beyond which nothing is tried. tune: epochs of
    fine-tuning, 0 leaves that technique out. alone: whether each technique is tried alone. confirm: measure the chosen
    network on all test samples.
    """

    machine: str = "loihi"
    max_loss: float = 1.0
    objective: Objective = "energy"
    samples: int = 256
    limit: int = 500
    counted: int = 20
    most_steps: int = 256
    tune: int = 2
    alone: bool = True
    confirm: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.max_loss < math.inf:
            raise ConfigError(f"--max-loss: got {self.max_loss}, expected 0 or more percentage points")
        for name in ("samples", "limit", "counted", "most_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')}: got {getattr(self, name)}, expected at least 1")


@dataclass(frozen=True)
class Fit:
    """A setting at the smallest T that is good enough on held-out samples.

    made_for: T that the network is made for, the first of the doubled numbers that is good enough. num_steps: the fewest steps
    after which, up to ``made_for``, accuracy never again falls below what is allowed. held: accuracy then. margin: of early exit.
    cost: energy and latency of the counted held-out samples. within: False where no T is good enough, and then the last is kept.
    """

    made_for: int
    num_steps: int
    held: float
    margin: float | None
    within: bool
    energy_j: float
    latency_s: float

    def cost(self, objective: Objective) -> tuple[float, float]:
        """What is made small, infinite where the accuracy is not good enough; and among such, the accuracy that is missing."""
        if not self.within:
            return math.inf, 1 - self.held
        bill = Bill(self.energy_j, self.latency_s)
        costs = {"energy": bill.energy_j, "edp": bill.edp_js, "power": bill.power_w, "latency": bill.latency_s}
        return costs[objective], 0.0


@dataclass(frozen=True)
class Paid:
    """Of one inference: joules, those of them that are standby, seconds, spikes sent, synaptic events, joules of looking at and
    updating neurons; cores in use."""

    energy_j: float
    standby_j: float
    latency_s: float
    spikes: float
    events: float
    soma_j: float
    cores: int | None


@dataclass
class Bench:
    """Where settings are measured: samples, machine, and the folder that keeps what was found, keyed by all that matters."""

    kit: Kit
    parts: Splits
    arch: AbstractArch
    options: DeployOptions
    folder: Path
    held: float
    progress: Progress | None = None

    def fit(self, setting: Setting, most_steps: int | None = None) -> Fit:
        """The smallest T for a setting, not beyond ``most_steps``; found again in the folder if it was found before."""
        most = min(most_steps or self.options.most_steps, self.options.most_steps)
        key = self._key("fit", setting, most_steps=most)
        kept = self._kept(key)
        if kept is not None:
            return Fit(**kept)
        found = self._fit(setting, most)
        self._keep(key, asdict(found))
        return found

    def _fit(self, setting: Setting, most: int) -> Fit:
        source, least = self.parts.choosing, self.held - self.options.max_loss / 100 - 1e-9
        steps = min(FIRST_STEPS, most)
        while True:
            network = self.kit.network(setting, steps)
            said_TNK = self._screened(network, source, steps, least)
            right_T = (said_TNK.argmax(2) == source.labels[: said_TNK.shape[1]]).mean(1)
            if (right_T[-1] >= least and said_TNK.shape[1] == len(source)) or steps >= most:
                break
            steps = min(2 * steps, most)
        within = bool(right_T[-1] >= least) and said_TNK.shape[1] == len(source)
        short = np.flatnonzero(right_T < least)
        fewest = (int(short[-1]) + 2 if short.size else 1) if within else steps
        ends, margin, held = None, None, float(right_T[fewest - 1])
        if setting.exits and within:
            margin, fewest, held = best_margin(said_TNK, source.labels, fewest, least)
            ends = exit_steps(said_TNK[:fewest], margin)
        if not within:  # what it would cost is of no use, and may take long to count
            return Fit(steps, fewest, held, margin, within, math.inf, math.inf)
        trace = self.recorded(network, source, fewest)
        paid = self.paid(setting, network, trace, self.arch, None if ends is None else ends[: trace.num_samples])
        return Fit(steps, fewest, held, margin, within, paid.energy_j, paid.latency_s)

    def _screened(self, network: Network, source: Samples, steps: int, least: float) -> np.ndarray:
        """Read-out of all of ``source``, or of its first samples alone where these say that the rest is not worth it."""
        few = min(SCREENED, len(source))
        first_TNK = read_out(network, source.take(np.arange(few)), steps, self.delay, self.progress)
        right = float((first_TNK[-1].argmax(1) == source.labels[:few]).mean())
        if few == len(source) or right < least - 2 * math.sqrt(max(right * (1 - right), 1 / few) / few):
            return first_TNK
        rest = source.take(np.arange(few, len(source)))
        return np.concatenate([first_TNK, read_out(network, rest, steps, self.delay, self.progress)], axis=1)

    def row(self, name: str, setting: Setting, fit: Fit, num_steps: int | None = None) -> Deployed:
        """A setting on the test samples, at the T that was chosen for it or at ``num_steps``."""
        steps = num_steps or fit.num_steps
        key = self._key("row", setting, steps=steps, fit=[fit.made_for, fit.num_steps, fit.held, fit.margin])
        kept = self._kept(key)
        if kept is not None:
            bills = {view: Bill(**bill) for view, bill in kept.pop("bills").items()}
            return Deployed(**{**kept, "name": name, "bills": bills})
        found = self._row(name, setting, fit, steps)
        self._keep(key, asdict(found))
        return found

    def _row(self, name: str, setting: Setting, fit: Fit, steps: int) -> Deployed:
        source = self.parts.test
        network = self.kit.network(setting, fit.made_for)
        said_TNK = read_out(network, source, steps, self.delay, self.progress)
        ends = np.full(len(source), steps)
        if fit.margin is not None:
            ends = exit_steps(said_TNK, fit.margin)
        said_NK = said_TNK[ends - 1, np.arange(len(source))]
        trace = self.recorded(network, source, steps)
        paid = {
            view: self.paid(setting, network, trace, arch, ends[: trace.num_samples])
            for view, arch in views(self.arch).items()
        }
        first = paid["given"]
        bills = {view: Bill(one.energy_j, one.latency_s) for view, one in paid.items()}
        bills["dynamic"] = Bill(first.energy_j - first.standby_j, first.latency_s)
        return Deployed(
            name,
            asdict(setting),
            fit.within,
            fit.held,
            float((said_NK.argmax(1) == source.labels).mean()),
            steps,
            float(ends.mean()),
            fit.margin,
            first.spikes,
            first.events,
            first.cores,
            bills,
            first.soma_j if setting.reset == "soft" and first.soma_j else None,
        )

    @property
    def delay(self) -> int:
        """1 where the machine lets a spike act in the step behind the one it is sent in."""
        return int(hasattr(self.arch, "delay"))

    def confirm(self, setting: Setting, fit: Fit, source: Samples, ann: Network) -> Confirmed:
        """The chosen network and the ANN on all of ``source``."""
        key = self._key("confirm", setting, fit=[fit.made_for, fit.num_steps, fit.margin], source=contents(source))
        kept = self._kept(key)
        if kept is not None:
            return Confirmed(**kept)
        right = steps = 0
        network = self.kit.network(setting, fit.made_for)
        for start in range(0, len(source), CONFIRMED):
            part = source.take(np.arange(start, min(start + CONFIRMED, len(source))))
            said_TNK = read_out(network, part, fit.num_steps, self.delay)
            ends = np.full(len(part), fit.num_steps) if fit.margin is None else exit_steps(said_TNK, fit.margin)
            said_NK = said_TNK[ends - 1, np.arange(len(part))]
            right, steps = right + int((said_NK.argmax(1) == part.labels).sum()), steps + int(ends.sum())
            if self.progress is not None:
                self.progress("confirm", start + len(part), len(source), {"accuracy": right / (start + len(part))})
        said = ann_accuracy(ann, source, self.kit.execution)
        found = Confirmed(right / len(source), said, steps / len(source), len(source))
        self._keep(key, asdict(found))
        return found

    def recorded(self, network: Network, source: Samples, steps: int) -> SpikeTrace:
        """Every spike of the counted samples, and where neurons have work."""
        number = min(self.options.counted, len(source))
        frames, origin = source.batch(np.arange(number)), f"{source.name}/{source.split}, T={steps}"
        return emulate(network, frames, steps, delay=self.delay, origin=origin, labels=source.labels[:number])

    def paid(
        self, setting: Setting, network: Network, trace: SpikeTrace, arch: AbstractArch, ends: np.ndarray | None
    ) -> Paid:
        """What an inference pays on average, samples counted each up to its own last step."""
        totals = np.zeros(6)
        mapping = self.mapping(setting, lower(network, trace))
        for end, part in groups(trace, ends):
            workload = lower(network, first_steps(part, end))
            report = evaluate(workload, arch, mapping=mapping)
            fired = sum(int(layer.out.events().sum()) for layer in workload.layers if layer.out is not None)
            totals += [
                report.energy_j, standby(report), report.latency_s, fired, events_of(report), soma_energy(report),
            ]  # fmt: skip
        energy, idle, latency, sent, events, soma = (totals / trace.num_samples).tolist()
        return Paid(energy, idle, latency, sent, events, soma, cores_of(mapping))

    def mapping(self, setting: Setting, workload: Workload) -> MachineMapping | None:
        """Where a setting's neurons stand, the same for held-out and test samples; None on a machine that has no cores."""
        key = self._key("cores", replace(setting, exits=False))
        kept = self._kept(key)
        if kept is not None:
            return _mapping_from(self.arch.model, kept["places"])
        placement = place(workload, self.arch, setting.cores, self.options.objective)
        places = None if placement is None else [asdict(one) for one in placement.places]
        self._keep(key, {"places": places})
        return _mapping_from(self.arch.model, places)

    def _key(self, kind: str, setting: Setting, **more: Any) -> str:
        """A hash of everything that a figure depends on."""
        options = asdict(self.options)
        for name in ("machine", "objective", "alone", "confirm"):
            if name != "objective" or not setting.cores:  # the mapper makes it small
                del options[name]
        counted, files = self._sources
        ann = self.kit.ann_of(setting).id
        content = [VERSION, kind, asdict(setting), ann, options, counted, files, self.held, more]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @cached_property
    def _sources(self) -> tuple[list[Any], list[str]]:
        """The machine's fields in all views, and the contents of its table and placement, and of the samples."""
        placement = getattr(self.arch, "placement", "")
        files = [repr(load_table(self.arch.table)), repr(read_placement(placement)) if placement else ""]
        files += [contents(source) for source in (self.parts.calibration, self.parts.choosing, self.parts.test)]
        return [machine_keys(arch) for arch in views(self.arch).values()], files

    def _kept(self, key: str) -> dict[str, Any] | None:
        path = self.folder / ROWS / f"{key[:24]}.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if (
            not isinstance(content, dict)
            or content.get("key") != key
            or content.get("sum") != _sum(content.get("found"))
        ):
            return None  # damaged, or of another row
        found: dict[str, Any] = content["found"]
        return found

    def _keep(self, key: str, found: Mapping[str, Any]) -> None:
        make_folder(self.folder / ROWS)
        write_text(
            self.folder / ROWS / f"{key[:24]}.json", json.dumps({"key": key, "sum": _sum(found), "found": found}) + "\n"
        )


def _sum(found: object) -> str:
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def read_out(network: Network, source: Samples, steps: int, delay: int, progress: Progress | None = None) -> np.ndarray:
    """What the read-out says after every step of every sample; float64, shape (T, N, K), exact for integer networks."""
    output = next(name for name, node in network.nodes.items() if isinstance(node, Output))
    neuron = network.inputs_of(output)[0]
    synapses = network.inputs_of(neuron)
    if not isinstance(network.nodes[neuron], LI) or not all(isinstance(network.nodes[n], Linear) for n in synapses):
        raise ConfigError(
            f"the output of network '{network.name}' hangs on {list(synapses)}, expected fully connected layers in front of a read-out; "
            "put pools before the last layer"
        )
    parts = []
    for start in range(0, len(source), AT_ONCE):
        indices = np.arange(start, min(start + AT_ONCE, len(source)))
        trace = emulate(network, source.batch(indices), steps, delay=delay)
        total: Any = 0.0
        for name in synapses:
            node, arrival = network.nodes[name], trace.arrivals[name]
            assert isinstance(node, Linear) and node.weight is not None
            sent_TNC = arrival.unpack() if isinstance(arrival, Spikes) else arrival.values
            sums_TNK = sent_TNC.astype(np.float64) @ node.weight.T.astype(np.float64)
            if delay:  # a spike of the last step is paid, but no longer read
                sums_TNK = np.concatenate([np.zeros_like(sums_TNK[:1]), sums_TNK[:-1]])
            total = total + sums_TNK + (0 if node.bias is None else node.bias.astype(np.float64))
        parts.append(total.cumsum(axis=0))
        if progress is not None:
            progress(f"T = {steps}", int(indices[-1]) + 1, len(source), {})
    return np.concatenate(parts, axis=1)


def leads(said_TNK: np.ndarray) -> np.ndarray:
    """By how much the best class leads the second, in membrane levels a step; shape (T, N)."""
    best = np.partition(said_TNK, -2, axis=2)[..., -2:]
    return np.asarray((best[..., 1] - best[..., 0]) / np.arange(1, len(said_TNK) + 1)[:, None])


def exit_steps(said_TNK: np.ndarray, margin: float) -> np.ndarray:
    """The first step at which each sample's lead reaches ``margin``, or the last; int64, 1..T, shape (N,)."""
    sure = leads(said_TNK) >= margin
    sure[-1] = True
    return np.asarray(sure.argmax(axis=0) + 1)


def best_margin(said_TNK: np.ndarray, labels: np.ndarray, fewest: int, least: float) -> tuple[float, int, float]:
    """The margin, and T, with the fewest steps on average at which the accuracy is at least ``least``; and that accuracy.

    Tried are 64 quantiles of the leads, with all T steps allowed or only the ``fewest`` that are good enough for all samples.
    """
    found = (math.inf, math.inf, fewest, 0.0)
    samples = np.arange(said_TNK.shape[1])
    for steps in {fewest, len(said_TNK)}:
        said = said_TNK[:steps]
        right_TN = said.argmax(2) == labels
        for margin in [*np.quantile(leads(said), np.linspace(0, 1, MARGINS)), np.inf]:
            ends = exit_steps(said, margin)
            right = float(right_TN[ends - 1, samples].mean())
            if right >= least and ends.mean() < found[0]:
                found = (float(ends.mean()), float(margin), steps, right)
    return found[1], found[2], found[3]


def groups(trace: SpikeTrace, ends: np.ndarray | None) -> Iterator[tuple[int, SpikeTrace]]:
    """(last step, samples) of a trace whose samples stop at ``ends``; more than 8 different ends are grouped, each rounded up."""
    if ends is None:
        yield trace.num_steps, trace
        return
    last = np.unique(ends)
    if len(last) > GROUPS:
        last = np.unique(np.quantile(ends, np.linspace(0, 1, GROUPS + 1)[1:], method="higher"))
    group = last[np.searchsorted(last, ends)]
    for end in np.unique(group):
        members = np.flatnonzero(group == end)
        yield int(end), trace if len(members) == trace.num_samples else taken(trace, members)


def views(arch: AbstractArch) -> dict[str, AbstractArch]:
    """The machine as it was named, and with the power of a measured board where it has fields for that."""
    found = {"given": arch}
    if all(hasattr(arch, name) for name in BOARD):
        found["board"] = replace(arch, **BOARD)  # type: ignore[type-var]
    return found


def events_of(report: Report) -> float:
    """Synaptic events: those that the machine counts, else synaptic operations."""
    counted = [n for x in report.layers for key, n in x.counts.items() if re.fullmatch(r"synapse\w*\.event", key)]
    return float(sum(counted)) if counted else float(report.synops)


def standby(report: Report) -> float:
    """Joules of leakage and of all that is drawn whether or not there is work."""
    return sum(joules for x in report.layers for key, joules in x.energy.items() if key.endswith(".leakage"))


def soma_energy(report: Report) -> float:
    """Joules of looking at and updating neurons, where a machine counts that."""
    return sum(layer.energy.get(key, 0.0) for layer in report.layers for key in ("soma.access", "soma.update"))


def cores_of(mapping: MachineMapping | None) -> int | None:
    """Cores that hold neurons, or None on a machine without."""
    if mapping is None or mapping.placement is None:
        return None
    return len({(place.tile, place.core) for place in mapping.placement.places})


def _mapping_from(model: str, places: list[dict[str, Any]] | None) -> MachineMapping | None:
    """A mapping of kept places, in which JSON made lists of pairs."""
    if places is None:
        return None
    pairs = ("neurons", "channels", "rows")
    found: list[Place] = []
    for one in places:
        keys: dict[str, Any] = {k: tuple(v) if k in pairs and v is not None else v for k, v in one.items()}
        found.append(Place(**keys))
    return MachineMapping(model, placement=Placement(tuple(found)))
