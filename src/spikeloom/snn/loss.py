"""Task losses on what reaches the output. Letters: T time steps, N samples, K classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch.nn.functional as F
from torch import Tensor

from spikeloom.errors import NetworkError

#: (scores (N, K), trajectory (T, N, K), labels (N,), label smoothing) -> scalar.
Loss = Callable[[Tensor, Tensor, Tensor, float], Tensor]


def final_cross_entropy(scores_NK: Tensor, trajectory_TNK: Tensor, labels_N: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy of the final scores per step, ``scores / T``: the read-out decides once, after the last step."""
    return F.cross_entropy(scores_NK / trajectory_TNK.shape[0], labels_N, label_smoothing=smoothing)


def running_cross_entropy(scores_NK: Tensor, trajectory_TNK: Tensor, labels_N: Tensor, smoothing: float) -> Tensor:
    """Mean over t of the cross-entropy of the membrane at t over t + 1: rewards an early decision (needs an LI read-out)."""
    num_steps, num_samples, _ = trajectory_TNK.shape
    elapsed = trajectory_TNK.new_tensor(range(1, num_steps + 1)).view(-1, 1, 1)
    running = (trajectory_TNK / elapsed).flatten(0, 1)
    return F.cross_entropy(running, labels_N.expand(num_steps, num_samples).flatten(), label_smoothing=smoothing)


#: Every loss by the name a configuration uses.
LOSSES: Mapping[str, Loss] = {"final": final_cross_entropy, "running": running_cross_entropy}


def loss_named(name: str) -> Loss:
    """The loss called ``name``.

    Raises:
        NetworkError: unknown name.
    """
    if name not in LOSSES:
        raise NetworkError(f"unknown loss '{name}', expected one of {', '.join(LOSSES)}")
    return LOSSES[name]
