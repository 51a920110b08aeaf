"""Running a module over samples batch by batch, always in float32: predictions and accuracy.

Letters: T time steps, N samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from spikeloom.core.network import Network
from spikeloom.core.nodes import Input, Output, Synapse
from spikeloom.errors import NetworkError
from spikeloom.snn.build import SpikingModule, build, input_frames
from spikeloom.snn.encode import Encoded, encode
from spikeloom.snn.precision import uses_channels_last
from spikeloom.snn.threads import threads, threads_for

#: Frames (T * N) of a batch when the caller does not say: enough to fill the vector units, few enough for the caches.
_BATCH_FRAMES = 512
#: Most time steps of a run; more is a mistyped number.
MAX_STEPS = 1 << 20


class Source(Protocol):
    """Samples with labels, as `spikeloom.data` loads them; anything with these three members will do."""

    @property
    def labels(self) -> np.ndarray:
        """Class of every sample; dtype int64, shape (N,)."""

    def __len__(self) -> int: ...

    def batch(self, indices: np.ndarray) -> np.ndarray:
        """Samples ``indices``; uint8 pixels (N, *shape), or 0/1 frames (T, N, *shape) of recordings."""


class Progress(Protocol):
    """Told how far long work is: the stage, steps done and in all, and figures worth showing."""

    def __call__(self, stage: str, done: int, total: int, figures: Mapping[str, float]) -> None: ...


@dataclass(frozen=True)
class Execution:
    """How samples are shown to a network.

    num_steps: T. encoding: a key of ENCODINGS. batch_size: samples at once, None for about 512 frames. seed: of random codes.
    """

    num_steps: int
    encoding: str = "direct"
    batch_size: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_steps > MAX_STEPS:
            raise NetworkError(f"num_steps must be at most {MAX_STEPS}, got {self.num_steps}")
        if self.num_steps < 1 or (self.batch_size is not None and self.batch_size < 1):
            raise NetworkError(
                f"num_steps and batch_size must be at least 1, got {self.num_steps} and {self.batch_size}"
            )

    @property
    def samples_at_once(self) -> int:
        """Samples in a batch."""
        return self.batch_size or max(1, _BATCH_FRAMES // self.num_steps)


def encoded_batches(source: Source, execution: Execution, node: Input) -> Iterator[tuple[np.ndarray, Encoded]]:
    """(indices, what arrives at the input) of every sample once, in order.

    Raises:
        NetworkError: the source is empty, or its samples do not fit the input.
    """
    if len(source) == 0:
        raise NetworkError("the data set holds no sample; nothing can be run")
    generator = np.random.default_rng(execution.seed)
    for start in range(0, len(source), execution.samples_at_once):
        indices = np.arange(start, min(start + execution.samples_at_once, len(source)))
        samples = source.batch(indices)
        yield indices, encode(execution.encoding, samples, execution.num_steps, generator, node)


def runnable(network: Network) -> SpikingModule:
    """A module in evaluation mode with the memory order that suits its maps.

    Raises:
        NetworkError: a layer has no weights.
    """
    for name, node in network.nodes.items():
        if isinstance(node, Synapse) and node.weight is None:
            raise NetworkError(
                f"layer '{name}' of network '{network.name}' has no weights; train it or read them first"
            )
    module = build(network).arranged(torch.device("cpu"), uses_channels_last(None, network))
    module.eval()
    return module


def check_classes(network: Network, source: Source) -> None:
    """Raise NetworkError unless the network's output is one score for each class of ``source``."""
    name, shape = next((name, node.shape) for name, node in network.nodes.items() if isinstance(node, Output))
    if len(shape) != 1:
        raise NetworkError(
            f"output '{name}' of network '{network.name}' is a map of shape {list(shape)}, expected one score for each class [K]; put "
            f"a Flatten and a Linear before it"
        )
    largest = int(np.max(source.labels, initial=0))
    if largest >= shape[0]:
        raise NetworkError(
            f"output '{name}' of network '{network.name}' has {shape[0]} scores, but the samples have the class {largest}; show it the "
            f"data it was trained for"
        )


def predict(
    module: SpikingModule, source: Source, execution: Execution, progress: Progress | None = None
) -> np.ndarray:
    """The class with the highest score of every sample; int64, shape (N,). Runs in evaluation mode, on the module's device."""
    check_classes(module.network, source)
    was_training = module.training
    module.eval()
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    predictions = np.empty(len(source), np.int64)
    try:
        with torch.no_grad(), threads(threads_for(module.network, execution.samples_at_once * execution.num_steps)):
            for indices, encoded in encoded_batches(source, execution, module.input_node):
                trajectory = module(input_frames(module, encoded, device), execution.num_steps, encoded.constant)
                predictions[indices] = module.scores(trajectory).argmax(1).cpu().numpy()
                if progress is not None:
                    progress("evaluate", int(indices[-1]) + 1, len(source), {})
    finally:
        module.train(was_training)
    return predictions


def evaluate(network: Network, source: Source, execution: Execution, progress: Progress | None = None) -> float:
    """Fraction of ``source`` that ``network`` classifies as labelled, in float32; normalisation may still be unfolded."""
    predictions = predict(runnable(network), source, execution, progress)
    return float(np.mean(predictions == source.labels))
