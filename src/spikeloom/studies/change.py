"""What a transform did to a network: accuracy, spikes, synaptic operations and size before and after, on the same samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spikeloom.core.figures import Figures
from spikeloom.core.network import Network
from spikeloom.core.nodes import Firing, Synapse
from spikeloom.lower import lower

if TYPE_CHECKING:
    from spikeloom.snn.execute import Execution, Progress, Source

#: Samples whose every spike is counted; accuracy is measured on all.
COUNTED_SAMPLES = 100


def figures(
    name: str,
    network: Network,
    source: Source | None = None,
    execution: Execution | None = None,
    progress: Progress | None = None,
) -> Figures:
    """Measure ``network``; without a source only its size."""
    nodes = [n for n in network.nodes.values() if isinstance(n, Synapse) and n.weight is not None]
    counts = [0 if n.weight is None else n.weight.size for n in nodes]
    zeros = sum(0 if n.weight is None else int((n.weight == 0).sum()) for n in nodes)
    float_bits = 32 if network.arithmetic == "float32" else None
    size_bits = sum(count * (float_bits or n.weight_bits) for n, count in zip(nodes, counts, strict=True))
    accuracy = spikes = synops = None
    if source is not None and execution is not None:
        from spikeloom.snn.execute import evaluate

        accuracy = evaluate(network, source, execution, progress)
        spikes, synops = activity(network, source, execution)
    return Figures(
        name,
        network.arithmetic,
        None if execution is None else execution.num_steps,
        accuracy,
        spikes,
        synops,
        sum(counts),
        zeros / max(1, sum(counts)),
        size_bits / 8 / 1024,
    )


def activity(network: Network, source: Source, execution: Execution) -> tuple[float | None, float | None]:
    """Spikes and synaptic operations per sample, over the first COUNTED_SAMPLES; None for an ANN."""
    from spikeloom.snn.record import record

    if not any(isinstance(node, Firing) for node in network.nodes.values()):
        return None, None
    first = _First(source, min(COUNTED_SAMPLES, len(source)))
    workload = lower(network, record(network, first, execution))
    return spikes_sent(network, first, execution), sum(workload.synops.values()) / len(first)


def spikes_sent(network: Network, source: Source, execution: Execution) -> float:
    """Spikes of all neurons per sample; a graded or negative one counts once. (A trace shows what arrives, after pools.)"""
    import torch

    from spikeloom.snn.build import input_frames
    from spikeloom.snn.execute import encoded_batches, runnable

    module = runnable(network)
    total = 0

    def count(name: str, _: torch.Tensor, sent: torch.Tensor) -> None:
        nonlocal total
        if isinstance(network.nodes[name], Firing):
            total += int(torch.count_nonzero(sent))

    with torch.no_grad():
        for _, encoded in encoded_batches(source, execution, module.input_node):
            module(input_frames(module, encoded), execution.num_steps, encoded.constant, count)
    return total / len(source)


@dataclass(frozen=True)
class _First:
    """The first samples of a source."""

    source: Source
    number: int

    @property
    def labels(self) -> np.ndarray:
        return np.asarray(self.source.labels)[: self.number]

    def __len__(self) -> int:
        return self.number

    def batch(self, indices: np.ndarray) -> np.ndarray:
        return self.source.batch(indices)
