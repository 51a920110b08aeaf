"""The bit-matched ANN of a spiking network: the same layers in one step, with activations of ceil(log2(T+1)) bits.

T steps of spikes tell T + 1 values apart, and so do ceil(log2(T+1)) bits: that is the ANN to judge an SNN by (Yan, Bai, Wong,
"Reconsidering the energy efficiency of spiking neural networks", arXiv 2409.08290). Letters: T time steps, N samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spikeloom.core.network import Network
from spikeloom.core.nodes import (
    LI,
    SPIKING,
    SYNAPSES,
    AvgPool2d,
    ClippedReLU,
    Delay,
    Firing,
    Node,
    ReLU,
    SumPool2d,
)
from spikeloom.core.trace import Levels, Spikes, SpikeTrace
from spikeloom.core.widths import SAID, made_with
from spikeloom.data import first
from spikeloom.errors import ConfigError, FileError, NetworkError
from spikeloom.files.archive import Archive
from spikeloom.files.network import read_network
from spikeloom.files.store import TRACE_FORMAT, read_trace
from spikeloom.studies.experiment import Experiment, experiment_of, read_experiment, record_network, samples, shown_to

if TYPE_CHECKING:
    from spikeloom.snn.execute import Progress
    from spikeloom.transform.thresholds import Method

COUNTED = (
    "the ANN's activations are assumed, not measured: each is the number of spikes its neuron sent over all steps, so that what is "
    "zero is what never spiked"
)
MEASURED = "the ANN's activations are measured: its own, rounded to levels"
_MAX_BITS = 16


@dataclass(frozen=True, eq=False)
class Ann:
    """An ANN with the levels that arrive at its layers, at T = 1.

    steps: T of the SNN that it matches. bits: of its activations, ceil(log2(T+1)). assumption: where the levels come from.
    accuracy: fraction right of all test samples as (with real activations, with levels), or None where no ANN was run.
    """

    network: Network
    trace: SpikeTrace
    steps: int
    bits: int
    assumption: str
    accuracy: tuple[float, float] | None = None

    @property
    def zeros(self) -> float:
        """Fraction of the levels arriving at synapses that are 0; direct-coded pixels, which are no activations, left out."""
        nodes = self.network.nodes
        activations = [
            a
            for name, a in self.trace.arrivals.items()
            if isinstance(nodes[name], SYNAPSES) and not (isinstance(a, Levels) and a.analog)
        ]
        size = sum(a.num_samples * math.prod(a.shape) for a in activations)
        return 1 - sum(int(a.events().sum()) for a in activations) / max(1, size)


def matched_bits(steps: int) -> int:
    """ceil(log2(T+1)): the fewest bits that hold the spike counts 0..T."""
    return max(1, steps.bit_length())


def is_trace(path: str | Path) -> bool:
    """Whether an ``.npz`` file says that it is a trace; anything else is left to the reader of networks."""
    with Archive(path, FileError) as archive:
        return bool(archive.header().get("format") == TRACE_FORMAT)


def has_spikes(network: Network) -> bool:
    """Whether a neuron of the network spikes."""
    return any(isinstance(node, SPIKING) for node in network.nodes.values())


def spikes_of(
    path: str | Path,
    *,
    experiment: str | None = None,
    steps: int | None = None,
    limit: int | None = None,
    data_dir: Path | None = None,
    progress: Progress | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> tuple[Network, SpikeTrace, Experiment | None]:
    """A trace file, or a spiking network recorded on the test set of its experiment (T as `shown_to` finds it, which ``tell`` hears); the first ``limit``
    samples of either.

    Raises:
        ConfigError: an experiment is named for a trace, or the network does not say what it was trained on.
    """
    if is_trace(path):
        for option, given in (("experiment", experiment), ("steps", steps)):
            if given is not None:
                raise ConfigError(f"{path}: is a trace, which holds its spikes already; leave out --{option} {given}")
        network, trace = read_trace(path)
        return network, trace if limit is None else taken(trace, np.arange(min(limit, trace.num_samples))), None
    network, chosen, said = shown_to(read_network(path), str(path), experiment, steps)
    tell(said)
    return network, record_network(network, chosen, limit=limit, data_dir=data_dir, progress=progress), chosen


def taken(trace: SpikeTrace, indices: np.ndarray) -> SpikeTrace:
    """Samples ``indices`` of a trace."""

    def cut(arrivals: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: replace(a, packed=a.packed[:, indices])
            if isinstance(a, Spikes)
            else replace(a, values=a.values[:, indices])
            for name, a in arrivals.items()
        }

    return replace(
        trace,
        num_samples=len(indices),
        arrivals=cut(trace.arrivals),
        outputs=cut(trace.outputs),
        updates=cut(trace.updates),
        labels=None if trace.labels is None else trace.labels[indices],
        predictions=None if trace.predictions is None else trace.predictions[indices],
        extra={},
    )


def matched_ann(network: Network, trace: SpikeTrace) -> Ann:
    """The ANN of an SNN of which only spikes are known.

    Layers and geometry stay, spiking neurons become ReLU, read-outs add up without a leak. A level is the number of spikes that
    arrived over the T steps, 0..T; sums of pooled spikes get the bits that their largest count needs; direct-coded pixels, the
    same at every step, stay what they are.

    Raises:
        NetworkError: nothing spikes, a loop or a delay (an ANN in one step has none), or levels of more than 16 bits.
    """
    if not has_spikes(network) and not any(isinstance(a, Spikes) for a in trace.arrivals.values()):
        raise NetworkError(f"network '{network.name}' has no spikes; expected a spiking network or its trace")
    for name, node in network.nodes.items():
        if isinstance(node, Delay) or (name in trace.arrivals and network.recurs(name)):
            raise NetworkError(
                f"node '{name}' ({type(node).__name__}): what comes back or late has no counterpart in an ANN that runs in one step"
            )
    nodes: dict[str, Node] = {name: _without_steps(node) for name, node in network.nodes.items()}
    largest = _largest(network, trace)
    arrivals = {name: _counted(name, a, largest[name]) for name, a in trace.arrivals.items()}
    steps, made = trace.num_steps, made_with(network)
    ann = SpikeTrace(
        1,
        trace.num_samples,
        arrivals,
        dt_s=None if trace.dt_s is None else trace.dt_s * steps,
        source=f"bit-matched ANN of {trace.source or network.name} (T = {steps}); {COUNTED}",
        labels=trace.labels,
        extra={"meta": {**({SAID: made} if made else {}), "matched_steps": steps}},
        notes=trace.notes,
    )
    return Ann(replace(network, nodes=nodes, name=f"{network.name}-ann"), ann, steps, matched_bits(steps), COUNTED)


def _without_steps(node: Node) -> Node:
    if isinstance(node, SPIKING):
        return ReLU()
    return LI() if isinstance(node, LI) else node


def _largest(network: Network, trace: SpikeTrace) -> dict[str, int]:
    """The largest level that can arrive at each layer in one step, from the structure where it explains the bits."""
    sent: dict[str, int] = {}
    found: dict[str, int] = {}
    for name in network.order():
        node = network.nodes[name]
        bound = sum(sent.get(source, 0) for source in network.inputs_of(name) if source != name)
        if name in trace.arrivals:
            arrival = trace.arrivals[name]
            bits = 1 if isinstance(arrival, Spikes) else arrival.bits
            bound = bound if bound.bit_length() == bits else 2**bits - 1
            found[name] = bound
        if isinstance(node, Firing):
            bound = node.max_level
        elif isinstance(node, SumPool2d | AvgPool2d):
            bound *= math.prod(node.kernel)
        sent[name] = bound
    return found


def _counted(name: str, arrival: Spikes | Levels, largest: int) -> Levels:
    """What arrived over all steps as one step of levels."""
    if isinstance(arrival, Levels) and arrival.analog and arrival.constant():
        return replace(arrival, values=arrival.values[:1])
    bits = max(1, (largest * arrival.num_steps).bit_length())
    signed = isinstance(arrival, Levels) and arrival.signed
    if bits > _MAX_BITS - signed:
        raise NetworkError(
            f"layer '{name}': counts over {arrival.num_steps} steps need {bits} bits, levels have at most {_MAX_BITS - signed}; "
            "record fewer steps"
        )
    if isinstance(arrival, Spikes):
        counts = np.bitwise_count(arrival.packed).sum(axis=0, dtype=np.int64)
    else:
        counts = arrival.values.sum(axis=0, dtype=np.int64)
    kind = np.int16 if signed else np.uint8 if bits <= 8 else np.uint16
    return Levels(counts[None].astype(kind), bits, signed, isinstance(arrival, Levels) and arrival.analog)


def measured_ann(
    network: Network,
    experiment: Experiment,
    steps: int,
    *,
    method: Method = "mse",
    percentile: float = 99.9,
    calibration: int = 256,
    limit: int | None = None,
    data_dir: Path | None = None,
    progress: Progress | None = None,
) -> Ann:
    """An ANN run on its data with activations of ceil(log2(T+1)) bits.

    Every ReLU becomes the staircase ``ceiling * clip(floor(z*L/ceiling + 1/2) / L, 0, 1)`` (QCFS, Bu et al., ICLR 2022) of
    L = 2**bits - 1 levels; its ceiling is chosen on calibration samples of the training set. A ClippedReLU that has levels, having
    been trained with them, keeps them.
    ``steps`` is T of the SNN that it is to match; ``limit`` samples of the test set are recorded, accuracy is that of all.

    Raises:
        ConfigError: recordings, of which an ANN in one step would have to see counts.
        NetworkError: a node that no ANN in one step can have.
    """
    from spikeloom.snn.execute import Execution, evaluate
    from spikeloom.snn.record import record
    from spikeloom.transform.prepare import prepare
    from spikeloom.transform.qcfs import staircase
    from spikeloom.transform.thresholds import choose, collect

    if experiment.encoding != "direct":
        raise ConfigError(
            f"experiment '{experiment.name or experiment.data}' shows '{experiment.encoding}'; an ANN is measured on images shown "
            "directly; give the trace of the spiking network instead, whose counts are taken as activations"
        )
    bits, execution = matched_bits(steps), Execution(1, "direct")
    levels = 2**bits - 1
    ready = prepare(network, "or")  # the maximum of levels is a level
    train, test = samples(experiment, "train", data_dir), samples(experiment, "test", data_dir)
    generator = np.random.default_rng(0)
    chosen = train.take(np.sort(generator.permutation(len(train))[:calibration]))
    ceilings = choose(
        ready, collect(ready, chosen, execution, generator), method, percentile=percentile, num_steps=levels
    )
    trained = {
        name: node for name, node in ready.nodes.items() if isinstance(node, ClippedReLU) and node.levels is not None
    }
    rounded = staircase(ready, ceilings, levels)
    rounded = replace(rounded, nodes={**rounded.nodes, **trained}, name=f"{network.name}-{bits}bit")
    accuracy = (evaluate(network, test, execution), evaluate(rounded, test, execution, progress))
    kept = first(test, limit)
    source = f"{experiment.data}/test, ANN with activations of {bits} bits (T = {steps}); {MEASURED}"
    trace = record(rounded, kept, execution, origin=source, sample_ids=kept.ids, progress=progress)
    meta = {**trace.extra.get("meta", {}), "matched_steps": steps, "test_accuracy": accuracy[1]}
    return Ann(rounded, replace(trace, extra={"meta": meta}), steps, bits, MEASURED, accuracy)


def ann_of(
    path: str | Path,
    *,
    experiment: str | None = None,
    steps: int | None = None,
    limit: int | None = None,
    data_dir: Path | None = None,
    progress: Progress | None = None,
    **choices: Any,
) -> Ann:
    """The ANN that belongs to a file: of a trace or a spiking network its counts, of an ANN its own activations.

    steps: T of the SNN that an ANN is to match, 4 by default.

    Raises:
        ConfigError: steps beside spikes, which have their own.
    """
    if not is_trace(path):
        network = read_network(path)
        if not has_spikes(network) and any(isinstance(n, ReLU | ClippedReLU) for n in network.nodes.values()):
            chosen = read_experiment(experiment) if experiment else experiment_of(network, str(path))
            return measured_ann(
                network, chosen, steps or 4, limit=limit, data_dir=data_dir, progress=progress, **choices
            )
    if steps is not None:
        raise ConfigError(f"{path}: --steps {steps} is for an ANN; spikes have steps of their own, leave it out")
    network, trace, _ = spikes_of(path, experiment=experiment, limit=limit, data_dir=data_dir, progress=progress)
    return matched_ann(network, trace)
