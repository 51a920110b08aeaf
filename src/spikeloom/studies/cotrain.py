"""Hardware-aware training: a trained network goes on learning while its spikes cost what the machine would charge for them.

Two stages, as published (SpikeX, arXiv:2505.12292): plain training to the best accuracy, then training with
``task + beta * log(EDP / EDP_0)``. Between updates the exact model is asked again, every ``refresh`` epochs: the best mapping for
the spikes of the batch at hand, and new tables for it. That alternation is first-order bi-level: weights move by gradient, the
architecture by exact optimum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spikeloom.codesign.curves import Curve, Thinning, draw_curves, fills, predicted
from spikeloom.codesign.mapping import MappingChoices, best_mapping, time_batched
from spikeloom.core.arch import AbstractArch
from spikeloom.core.network import Network
from spikeloom.core.trace import Levels, Spikes, SpikeTrace
from spikeloom.core.workload import WEIGHTED, Workload
from spikeloom.data import Samples, first
from spikeloom.errors import ConfigError
from spikeloom.evaluate import ARCH_TYPES, PRESETS, evaluate, load_machine
from spikeloom.files.config import machine_from, machine_keys
from spikeloom.hw.spikex import SpikexArch
from spikeloom.lower import lower
from spikeloom.studies.experiment import Experiment, augmentation, execution_of, train_config
from spikeloom.transform.fold import fold

if TYPE_CHECKING:
    from torch import Tensor

    from spikeloom.snn.execute import Progress
    from spikeloom.snn.train import Epoch


#: A machine with its mapping, and the curves of its layers under it.
Tables = tuple[AbstractArch, Mapping[str, Curve]]


@dataclass(frozen=True, kw_only=True)
class CotrainOptions:
    """What hardware-aware training needs beside the experiment.

    machine: preset, machine file, or either with changed fields (``spikex:rows=4``).
    beta: weight of log(EDP / EDP_0). rate: of the mean firing rate. bit_synops: of the Bit-SynOps relative to the start.
    epochs, learning_rate, weight_decay: of the second stage; None for the experiment's. Weight decay keeps membranes near the
        threshold, where the surrogate gradient can still take a spike away.
    refresh: epochs between two drawings of the tables (and searches of the mapping); 0 keeps the first ones.
    windows, dispatches, orders, merges: among which each layer's mapping is chosen.
    samples: recordings from which tables and mapping are drawn at the start; later those of one batch.
    thinning: see `spikeloom.codesign.curves.Thinning`.
    """

    machine: str = "spikex"
    beta: float = 1.0
    rate: float = 0.0
    bit_synops: float = 0.0
    epochs: int = 30
    learning_rate: float | None = None
    weight_decay: float | None = None
    refresh: int = 2
    windows: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    dispatches: tuple[str, ...] = ("agile", "temporal", "ptb")
    orders: tuple[str, ...] = ("raster", "interleave")
    merges: tuple[int, ...] = (1, 2, 8)
    samples: int = 32
    thinning: Thinning = "spike"

    def __post_init__(self) -> None:
        for name in ("beta", "rate", "bit_synops", "weight_decay"):
            if not 0 <= (getattr(self, name) or 0) < float("inf"):
                raise ConfigError(f"{name}: got {getattr(self, name)}, expected a weight of 0 or more")
        if self.learning_rate is not None and not 0 < self.learning_rate < float("inf"):
            raise ConfigError(f"learning_rate: got {self.learning_rate}, expected a rate above 0")
        for name, low in (("epochs", 1), ("samples", 1), ("refresh", 0)):
            if getattr(self, name) < low:
                raise ConfigError(f"{name}: got {getattr(self, name)}, expected at least {low}")
        _ = self.choices  # refused now, not after the first stage

    @property
    def choices(self) -> MappingChoices:
        """What a layer's mapping may be."""
        return MappingChoices(self.windows, self.dispatches, self.orders, self.merges)


@dataclass(frozen=True, eq=False)
class Prediction:
    """Tables held against the exact model, on recordings that were used neither for training nor for the tables.

    predicted, exact: (energy_j, latency_s) per inference under the tables' own mapping.
    """

    predicted: tuple[float, float]
    exact: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Cotrained:
    """A network and the machine it was trained for.

    network: normalisation folded. arch: the best mapping on training recordings. tables: (machine, curves) in use at the end.
    """

    network: Network
    arch: AbstractArch
    history: tuple[Epoch, ...]
    tables: Tables


def cotrain_network(
    network: Network,
    experiment: Experiment,
    options: CotrainOptions,
    fit: Samples,
    held: Samples | None = None,
    *,
    seed: int | None = None,
    checkpoint: Path | None = None,
    resume: bool = True,
    progress: Progress | None = None,
) -> Cotrained:
    """Train ``network`` on with the price of its spikes in the loss.

    Args:
        network: trained plainly, with weights.
        experiment: data, encoding and training of the first stage; epochs and peak rate come from ``options``.
        options: see `CotrainOptions`.
        fit: what is trained on and what tables and mappings are drawn from.
        held: scored after every epoch.
        seed: instead of the experiment's.
        checkpoint: state after the last finished epoch.
        resume: go on from ``checkpoint`` if it is there.
        progress: told after every batch and epoch.

    Raises:
        ConfigError: options or machine that cannot be.
        MappingError: a layer that the machine cannot run.
        NetworkError, NetworkFileError: as `spikeloom.snn.train.train`.
    """
    from spikeloom.codesign.penalty import HardwarePenalty
    from spikeloom.snn.train import train

    arch = time_batched(load_machine(options.machine)[1])
    check_float(network)
    changes: dict[str, Any] = {"epochs": options.epochs, "initial_rate": None}
    for key in ("learning_rate", "weight_decay"):
        if getattr(options, key) is not None:
            changes[key] = getattr(options, key)
    if seed is not None:
        changes["seed"] = seed
    config = replace(train_config(experiment), **changes)
    start = recorded(network, experiment, fit, options.samples)
    tables = tables_for(start, arch, options)

    def redraw(arrived: Mapping[str, Tensor]) -> tuple[dict[str, Any], Mapping[str, Curve]]:
        chosen, curves = tables_for(_workload(network, experiment.num_steps, arrived), arch, options)
        return machine_keys(chosen), curves

    updates = -(-len(fit) // config.batch_size)
    penalty = HardwarePenalty(
        tables[1],
        beta=options.beta,
        machine=machine_keys(tables[0]),
        rate=options.rate,
        bit_synops=options.bit_synops,
        fanout=_fanout(start, network) if options.bit_synops else None,
        redraw=redraw if options.refresh else None,
        refresh=options.refresh * updates,
    )
    trained = train(
        network,
        fit,
        config,
        validation=held,
        penalty=penalty,
        augment=augmentation(experiment),
        checkpoint=checkpoint,
        resume=resume,
        progress=progress,
    )
    folded = fold(trained.network)
    done = recorded(folded, experiment, fit, options.samples)
    return Cotrained(
        folded,
        best_mapping(done, arch, options.choices).arch,
        trained.history,
        (machine_from(penalty.machine, ARCH_TYPES, PRESETS, "checkpoint"), penalty.curves),
    )


def check_float(network: Network) -> None:
    if network.arithmetic == "integer":
        raise ConfigError(
            f"network '{network.name}' computes with integers, which have no gradients; start from the float one"
        )


def predict_cost(tables: Tables, workload: Workload) -> Prediction:
    """What tables say about spikes they were not drawn from, and the exact cost on the same mapping."""
    arch, curves = tables
    report = evaluate(workload, arch)
    exact = (report.energy_per_inference_j, report.latency_per_inference_s)
    return Prediction(predicted(curves, fills(workload, arch, curves)), exact)


def recorded(network: Network, experiment: Experiment, source: Samples, limit: int | None = None) -> Workload:
    """The spikes of ``network`` on the first ``limit`` samples of ``source``, as a workload."""
    from spikeloom.snn.record import record

    return lower(network, record(network, first(source, limit), execution_of(experiment)))


def tables_for(workload: Workload, arch: SpikexArch, options: CotrainOptions) -> Tables:
    """The machine with its best mapping for these spikes, and the curves under it."""
    chosen = best_mapping(workload, arch, options.choices).arch
    return chosen, draw_curves(workload, chosen, thinning=options.thinning)


def _workload(network: Network, num_steps: int, arrived: Mapping[str, Tensor]) -> Workload:
    """A batch's arrivals, as they come to a penalty, as a workload."""
    from spikeloom.core.signals import received_signals

    signals = received_signals(network)
    arrivals: dict[str, Spikes | Levels] = {}
    num_samples = 0
    for name, x in arrived.items():
        values = x.detach().float().round().to("cpu").numpy()
        num_samples = values.shape[1]
        signal = signals[name]
        if signal.kind == "spikes":
            arrivals[name] = Spikes.pack(values != 0)
        else:
            kind = np.int16 if signal.signed else np.uint16
            arrivals[name] = Levels(
                values.astype(kind), max(1, int(signal.max_level).bit_length()), signal.signed, signal.kind == "analog"
            )
    return lower(network, SpikeTrace(num_steps, num_samples, arrivals))


def _fanout(workload: Workload, network: Network) -> dict[str, np.ndarray]:
    """Bit-SynOps of one spike: (output, weight) pairs it meets times the bits of the weight; by synapse, the shape of its input."""
    shapes = network.shapes()
    found = {}
    for layer in workload.layers:
        if layer.inputs and layer.kind in WEIGHTED:
            shape = shapes[network.inputs_of(layer.name)[0]]
            found[layer.name] = (layer.fanout_CHW() * layer.weight_bits).reshape(shape)
    return found
