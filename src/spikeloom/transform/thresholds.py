"""What an activation's largest value is taken to be: its threshold, chosen from its values on calibration samples.

An activation a becomes spikes of size ``threshold``: after T steps it can say 0, threshold/T, ..., threshold. A large threshold
rounds coarsely, a small one clips. Letters: N samples, C channels, T time steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from spikeloom.core.network import Network
from spikeloom.core.nodes import ClippedReLU, shown
from spikeloom.core.ranges import PERCENTILE, check_range
from spikeloom.errors import NetworkError
from spikeloom.snn.build import SpikingModule, Watch, input_frames
from spikeloom.snn.encode import Encoded
from spikeloom.snn.execute import Execution, Source, encoded_batches, runnable
from spikeloom.transform.prepare import activations

Method = Literal["max", "percentile", "mse"]
#: Most values of one activation from which percentiles and errors are taken; the maximum is of all.
MOST_VALUES = 1 << 20
_GRID = 80
_MSE_VALUES = 1 << 16


@dataclass(frozen=True, eq=False)
class Values:
    """What arrives at an activation.

    drawn: values drawn evenly from all samples and positions; float32, shape (C, n). largest: of all values, shape (C,).
    """

    drawn: np.ndarray
    largest: np.ndarray


def run_ann(module: SpikingModule, encoded: Encoded, num_frames: int = 1, watch: Watch | None = None) -> torch.Tensor:
    """What an ANN says of a batch, shape (F, N, *out_shape), summed over frames behind an LI.

    An image is one frame. What arrives step by step is cut into ``num_frames`` equal parts (at most T), of each of which the ANN
    sees the mean over time; ``watch`` gets maps of shape (F, N, *shape).
    """
    frames = input_frames(module, encoded)
    if encoded.constant:
        said: torch.Tensor = module(frames, 1, False, watch)
        return said
    parts = frames.reshape(encoded.num_steps, -1, *frames.shape[1:]).tensor_split(min(num_frames, encoded.num_steps))
    shown = torch.stack([part.mean(0) for part in parts])
    said = module(shown.flatten(0, 1), len(parts), False, watch)
    return said


def collect(
    ann: Network, source: Source, execution: Execution, generator: np.random.Generator, num_frames: int = 1
) -> dict[str, Values]:
    """The values that arrive at every activation of ``ann`` on ``source``; frames as `run_ann` cuts them."""
    module = runnable(ann)
    names = activations(ann)
    share = MOST_VALUES / max(1, len(source))
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in names}
    largest: dict[str, np.ndarray] = {}

    def watch(name: str, arrived: torch.Tensor, _: torch.Tensor) -> None:
        if name not in drawn:
            return
        values = arrived.flatten(0, 1).transpose(0, 1).flatten(1).numpy()  # (C, F * N * positions)
        found = values.max(1)
        largest[name] = np.maximum(largest.get(name, found), found)
        number = max(1, min(values.shape[1], round(share * arrived.shape[1] / len(values))))
        if number < values.shape[1]:
            values = values[:, generator.integers(values.shape[1], size=number)]
        drawn[name].append(values.copy())

    with torch.no_grad():
        for _, encoded in encoded_batches(source, execution, module.input_node):
            run_ann(module, encoded, num_frames, watch)
    return {name: Values(np.concatenate(drawn[name], axis=1), largest[name]) for name in names}


def choose(
    ann: Network,
    values: Mapping[str, Values],
    method: Method,
    *,
    percentile: float = 99.9,
    by_channel: bool = False,
    num_steps: int = 16,
    v_init: float = 0.5,
    max_level: int = 1,
) -> dict[str, np.ndarray]:
    """A threshold for every activation, float64 of shape (C,), all the same unless ``by_channel``: the most that it will say.

    max: the largest value. percentile: that percentile of the values above 0. mse: the one with the least squared error
    ``(size/T * clip(floor(a*T/size + v_init), 0, T*max_level) - a)**2`` of a at constant drive, ``size = threshold/max_level`` being
    that of one level. A ClippedReLU is never given more than its ceiling, and with levels exactly that, for it was trained with
    it. A silent channel gets the layer's.

    Raises:
        NetworkError: an activation that is silent on all samples.
    """
    check_range(NetworkError, PERCENTILE, percentile=percentile)
    found = {}
    for name, at in values.items():
        rows = at.drawn if by_channel else at.drawn.reshape(1, -1)
        tops = at.largest.astype(np.float64) if by_channel else np.array([at.largest.max()], np.float64)
        if not tops.max() > 0:
            raise NetworkError(f"activation '{name}' is 0 for every calibration sample; it cannot be given a threshold")
        node = ann.nodes[name]
        if isinstance(node, ClippedReLU) and not np.all(np.asarray(node.ceiling) > 0):
            raise NetworkError(f"activation '{name}' has a ceiling of {shown(node.ceiling)}, expected a positive one")
        if isinstance(node, ClippedReLU) and node.levels is not None:
            found[name] = np.broadcast_to(np.ravel(node.ceiling), len(at.largest)).astype(np.float64)
            continue
        if method == "max":
            chosen = tops
        elif method == "percentile":
            chosen = np.array([np.percentile(row[row > 0], percentile) if (row > 0).any() else 0.0 for row in rows])
        else:
            chosen = np.array(
                [_least_error(row, top, num_steps, v_init, max_level) for row, top in zip(rows, tops, strict=True)]
            )
        chosen = np.where(chosen > 0, chosen, chosen.max())
        if isinstance(node, ClippedReLU):
            chosen = np.minimum(chosen, np.ravel(node.ceiling))
        found[name] = np.broadcast_to(chosen, len(at.largest)).astype(np.float64)
    return found


def _least_error(values: np.ndarray, top: float, num_steps: int, v_init: float, max_level: int) -> float:
    """The threshold in (0, top] at which constant drive is told best."""
    if not top > 0:
        return 0.0
    positive = values[values > 0].astype(np.float64)
    if len(positive) > _MSE_VALUES:
        positive = positive[:: -(-len(positive) // _MSE_VALUES)]
    grid = top * np.geomspace(1 / 50, 1, _GRID)
    sizes = grid / max_level
    errors = [np.mean((constant_drive(positive, one, num_steps, v_init, max_level) - positive) ** 2) for one in sizes]
    return float(grid[int(np.argmin(errors))])


def constant_drive(
    values: np.ndarray, threshold: np.ndarray | float, num_steps: int, v_init: float, max_level: int = 1
) -> np.ndarray:
    """What a soft-reset IF says of a constant input: ``threshold/T * clip(floor(x*T/threshold + v_init), 0, T*max_level)``."""
    said: np.ndarray = np.clip(np.floor(values * num_steps / threshold + v_init), 0, num_steps * max_level)
    return said * threshold / num_steps
