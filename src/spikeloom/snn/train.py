"""Training by backpropagation through time: AdamW, cosine schedule, a checkpoint after every epoch.

Every random stream is derived from (seed, epoch), and a checkpoint holds all other state, so that a run that was interrupted and
resumed ends with the weights, bit for bit, of one that was not. Letters: T time steps, N samples, K classes.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from spikeloom.core.network import Network
from spikeloom.core.ranges import check_range
from spikeloom.core.signals import received_signals
from spikeloom.errors import NetworkError, NetworkFileError
from spikeloom.files.checkpoint import read_checkpoint, write_checkpoint
from spikeloom.snn.balance import balance
from spikeloom.snn.build import SpikingModule, Watch, build, input_frames
from spikeloom.snn.encode import encode
from spikeloom.snn.execute import Execution, Progress, Source, predict
from spikeloom.snn.loss import loss_named
from spikeloom.snn.modules import SynapseModule
from spikeloom.snn.precision import Precision, autocast, resolve_device, uses_bf16, uses_channels_last
from spikeloom.snn.threads import threads, threads_for

#: What arrives at each synapse, pool and add node (levels as integers), (T, N, *shape) with gradients -> a scalar to add to the loss.
Penalty = Callable[[Mapping[str, Tensor]], Tensor]
#: (node name, weights) -> the weights that are used: a mask, a grid; gradients pass through it (see ``SynapseModule.rule``).
WeightRule = Callable[[str, Tensor], Tensor]
#: (batch as its source gave it, generator) -> a changed batch of the same shape and dtype.
Augment = Callable[[np.ndarray, np.random.Generator], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything about a training run that is not the network or the data.

    num_steps: T.
    encoding: a key of ENCODINGS; "events" for recordings.
    learning_rate: peak of the cosine schedule, reached after ``warmup`` (a fraction of all updates), 0 at the end.
    weight_decay: of weights, not of biases and normalisation.
    loss: a key of LOSSES.
    label_smoothing: of the cross-entropy, 0..1.
    surrogate, sharpness: surrogate gradient; sharpness None for the surrogate's own.
    detach_reset: keep the gradient out of the reset.
    initial_rate: spikes per neuron and step to which drawn weights directly before a neuron are scaled on the first batch; helps
        networks without normalisation, which may start silent. None leaves weights as they are drawn.
    max_grad_norm: longer gradients are scaled to this length; None for never.
    precision: of the synapses' multiplications; the rule of "auto" is in `spikeloom.snn.precision`.
    channels_last: memory order of maps; None for the rule in `spikeloom.snn.precision`.
    device: "auto", "cpu" or "cuda".
    threads: on the CPU; None for the rule in `spikeloom.snn.threads`. Another number may change the last bits of a sum.
    """

    num_steps: int
    encoding: str = "direct"
    epochs: int = 20
    batch_size: int = 32
    learning_rate: float = 5e-3
    weight_decay: float = 1e-2
    warmup: float = 0.05
    loss: Literal["final", "running"] = "final"
    label_smoothing: float = 0.0
    surrogate: str = "atan"
    sharpness: float | None = None
    detach_reset: bool = False
    initial_rate: float | None = None
    max_grad_norm: float | None = None
    seed: int = 0
    precision: Precision = "auto"
    channels_last: bool | None = None
    device: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        least_one = {key: getattr(self, key) for key in ("num_steps", "epochs", "batch_size", "threads")}
        positive = {key: getattr(self, key) for key in ("learning_rate", "sharpness", "max_grad_norm")}
        check_range(NetworkError, "at least 1", **least_one)
        check_range(NetworkError, "positive and finite", **positive)
        check_range(NetworkError, "at least 0", seed=self.seed, weight_decay=self.weight_decay)
        check_range(NetworkError, "between 0 and 1", initial_rate=self.initial_rate)
        check_range(NetworkError, "in 0..1 (1 excluded)", warmup=self.warmup, label_smoothing=self.label_smoothing)


@dataclass(frozen=True)
class Epoch:
    """What an epoch came to: mean loss and accuracy on the training batches as they were seen, and on the validation set."""

    number: int
    loss: float
    accuracy: float
    validation_accuracy: float | None
    seconds: float


@dataclass(frozen=True, eq=False)
class Trained:
    """A network with its learned weights (normalisation not folded yet) and how it came to them."""

    network: Network
    history: tuple[Epoch, ...]

    @property
    def validation_accuracy(self) -> float | None:
        """On the validation set after the last epoch."""
        return self.history[-1].validation_accuracy


def train(
    network: Network,
    source: Source,
    config: TrainConfig,
    *,
    validation: Source | None = None,
    penalty: Penalty | None = None,
    augment: Augment | None = None,
    weight_rule: WeightRule | None = None,
    prepare: Callable[[SpikingModule], None] | None = None,
    checkpoint: Path | str | None = None,
    resume: bool = True,
    progress: Progress | None = None,
) -> Trained:
    """Train ``network`` on ``source``.

    Args:
        network: weights that are present are where training starts; absent ones are drawn with the seed.
        source: training samples.
        config: see `TrainConfig`; T, encoding, seed and the last validation accuracy go into the metadata of the result.
        validation: samples on which accuracy is measured after every epoch; never trained on.
        penalty: what is added to the loss, e.g. a price for spikes; the state of one that is a module goes into the checkpoint.
        augment: random change of every batch.
        weight_rule: what becomes of each synapse's weights before they are used; the result has the weights that were used.
        prepare: called once with the module before it learns, e.g. to change how synapses add up.
        checkpoint: file that holds the state after the last finished epoch.
        resume: continue from ``checkpoint`` if it exists; False overwrites it.
        progress: told after every batch and every epoch.

    Raises:
        NetworkError: a configuration, network and samples that do not fit together, or a loss that is not finite.
        NetworkFileError: a checkpoint that is damaged or was made by another configuration or network.
    """
    run = _Run(network, source, config, penalty, augment, weight_rule, progress)
    if prepare is not None:
        prepare(run.module)
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None and resume and path.exists():
        run.restore(path)
    number = config.threads or threads_for(network, config.num_steps * config.batch_size)
    while len(run.history) < config.epochs:
        started = time.perf_counter()
        with threads(number):
            loss, accuracy = run.epoch(len(run.history))
            scored = None if validation is None else run.accuracy(validation)
        run.history.append(Epoch(len(run.history) + 1, loss, accuracy, scored, time.perf_counter() - started))
        if path is not None:
            run.save(path)
        if progress is not None:
            figures = {"loss": loss, "accuracy": accuracy} | ({} if scored is None else {"validation": scored})
            progress("epoch", len(run.history), config.epochs, figures)
    last = run.history[-1].validation_accuracy
    learned = {"num_steps": config.num_steps, "encoding": config.encoding, "seed": config.seed}
    return Trained(run.module.to_network(**learned, validation_accuracy=last), tuple(run.history))


class _Run:
    """The state of one training run: module, optimiser, schedule, history."""

    def __init__(
        self,
        network: Network,
        source: Source,
        config: TrainConfig,
        penalty: Penalty | None,
        augment: Augment | None,
        weight_rule: WeightRule | None,
        progress: Progress | None,
    ) -> None:
        if len(source) == 0:
            raise NetworkError("the training set holds no sample")
        if network.arithmetic == "integer":
            raise NetworkError(
                f"network '{network.name}' computes with integers, which have no gradients; train the float network it was made from"
            )
        self.source, self.config, self.penalty, self.augment, self.progress = source, config, penalty, augment, progress
        self.device = resolve_device(config.device)
        self.bf16 = uses_bf16(config.precision, network, self.device)
        module = build(
            network,
            surrogate_name=config.surrogate,
            sharpness=config.sharpness,
            detach_reset=config.detach_reset,
            seed=config.seed,
        )
        self.module = module.arranged(self.device, uses_channels_last(config.channels_last, network))
        if weight_rule is not None:
            for name in network.nodes:
                synapse = self.module.module_of(name)
                if isinstance(synapse, SynapseModule):
                    synapse.rule = partial(weight_rule, name)
        self.identity = {"network": network.id, "config": json.dumps(asdict(config), sort_keys=True)}
        self.loss = loss_named(config.loss)
        self.signals = received_signals(network)
        self.updates_per_epoch = math.ceil(len(source) / config.batch_size)
        self.optimiser = torch.optim.AdamW(_decayed(self.module, config.weight_decay), lr=config.learning_rate)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, self._rate)
        self.history: list[Epoch] = []
        if config.initial_rate is not None:
            self._balance(network, config.initial_rate)

    def _balance(self, network: Network, rate: float) -> None:
        """Let drawn weights start at ``rate`` on the first samples."""
        config = self.config
        samples = self.source.batch(np.arange(min(config.batch_size, len(self.source))))
        generator = np.random.default_rng(config.seed)
        encoded = encode(config.encoding, samples, config.num_steps, generator, self.module.input_node)
        balance(
            self.module,
            network,
            input_frames(self.module, encoded, self.device),
            config.num_steps,
            encoded.constant,
            rate,
        )

    def _rate(self, update: int) -> float:
        """Fraction of the peak learning rate: linear warm-up, then half a cosine to 0."""
        total = self.updates_per_epoch * self.config.epochs
        warm = max(1, round(total * self.config.warmup))
        if update < warm:
            return (update + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (update - warm) / max(1, total - warm)))

    def epoch(self, number: int) -> tuple[float, float]:
        """One pass over the training set in an order of its own; mean loss and accuracy."""
        generator = np.random.default_rng([self.config.seed, number])
        order = generator.permutation(len(self.source))
        self.module.train()
        total_loss, total_right = 0.0, 0
        for update in range(self.updates_per_epoch):
            indices = order[update * self.config.batch_size : (update + 1) * self.config.batch_size]
            loss, right = self._update(indices, generator)
            total_loss += loss * len(indices)
            total_right += right
            if self.progress is not None:
                done = number * self.updates_per_epoch + update + 1
                self.progress("train", done, self.updates_per_epoch * self.config.epochs, {"loss": loss})
        return total_loss / len(order), total_right / len(order)

    def _update(self, indices: np.ndarray, generator: np.random.Generator) -> tuple[float, int]:
        """One gradient step; loss and number of right answers of the batch."""
        config = self.config
        samples = self.source.batch(indices)
        if self.augment is not None:
            samples = self.augment(samples, generator)
        encoded = encode(config.encoding, samples, config.num_steps, generator, self.module.input_node)
        frames = input_frames(self.module, encoded, self.device)
        labels = torch.from_numpy(np.asarray(self.source.labels)[indices].astype(np.int64)).to(self.device)
        arrived: dict[str, Tensor] = {}
        with autocast(self.bf16, self.device):
            trajectory = self.module(frames, config.num_steps, encoded.constant, self._watch(arrived))
        scores = self.module.scores(trajectory).float()
        loss = self.loss(scores, trajectory.float(), labels, config.label_smoothing)
        if self.penalty is not None:
            loss = loss + self.penalty(arrived)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise NetworkError(
                f"the loss became {value} in epoch {len(self.history) + 1}; lower learning_rate "
                f"({config.learning_rate}) or set max_grad_norm"
            )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if config.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.module.parameters(), config.max_grad_norm)
        self.optimiser.step()
        self.schedule.step()
        return value, int((scores.argmax(1) == labels).sum())

    def _watch(self, arrived: dict[str, Tensor]) -> Watch | None:
        """Collects for the penalty what a trace would record."""
        if self.penalty is None:
            return None

        def collect(name: str, values: Tensor, _: Tensor) -> None:
            signal = self.signals.get(name)
            if signal is not None and signal.kind != "real":
                arrived[name] = values if signal.unit == 1 else values / signal.unit

        return collect

    def accuracy(self, source: Source) -> float:
        """Float32 accuracy on ``source``."""
        execution = Execution(self.config.num_steps, self.config.encoding, seed=self.config.seed)
        return float(np.mean(predict(self.module, source, execution, self.progress) == source.labels))

    def save(self, path: Path) -> None:
        """Write everything the next epoch depends on."""
        write_checkpoint(
            path,
            {
                **self.identity,
                "module": self.module.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "schedule": {"last_epoch": self.schedule.last_epoch},
                "torch_rng": torch.get_rng_state(),  # a penalty may draw from it
                "penalty": self.penalty.state_dict() if isinstance(self.penalty, nn.Module) else {},
                "history": json.dumps([asdict(epoch) for epoch in self.history]),
            },
        )

    def restore(self, path: Path) -> None:
        """Continue where ``path`` stopped."""
        state = read_checkpoint(path)
        for key, name in (("config", "configuration"), ("network", "network")):
            if state.get(key) != self.identity[key]:
                raise NetworkFileError(
                    f"checkpoint {path} was made by another {name}{_difference(state.get(key), self.identity[key])}; "
                    f"name another file, or pass resume=False (on the command line: --fresh) to overwrite it"
                )
        try:
            self.module.load_state_dict(state["module"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.schedule.load_state_dict(self.schedule.state_dict() | state["schedule"])
            torch.set_rng_state(state["torch_rng"])
            if isinstance(self.penalty, nn.Module):
                self.penalty.load_state_dict(state["penalty"])
            self.history = [Epoch(**epoch) for epoch in json.loads(state["history"])]
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise NetworkFileError(f"checkpoint {path} is incomplete: {error}".splitlines()[0]) from error


def _decayed(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups: weights of synapses decay, vectors (bias, gamma, beta) do not."""
    weights = [p for p in module.parameters() if p.dim() > 1]
    vectors = [p for p in module.parameters() if p.dim() <= 1]
    return [{"params": weights, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def _difference(got: object, expected: str) -> str:
    """The fields of two JSON objects that differ, for an error message; empty when they are no JSON objects."""
    if not isinstance(got, str) or not got.startswith("{") or not expected.startswith("{"):
        return ""
    old, new = json.loads(got), json.loads(expected)
    fields = [f"{k}: {old.get(k)} there, {new.get(k)} here" for k in sorted(old | new) if old.get(k) != new.get(k)]
    return f" ({'; '.join(fields)})"
