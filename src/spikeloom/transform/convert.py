"""ANN to SNN: activations become integrate-and-fire neurons whose spike rates say the same.

A neuron that gets ``x`` at every step, starts at ``v_init`` of its threshold and resets by subtraction sends, after T steps,
``clip(floor(x*T/threshold + v_init), 0, T)`` spikes, so its rate times its threshold is ``clip(x, 0, threshold)`` up to
``threshold/(2T)`` (``v_init`` 1/2). Thresholds go into the weights (Diehl et al., IJCNN 2015; Rueckauer et al., Frontiers in
Neuroscience 2017): ``W <- W * threshold_before / threshold``, ``b <- b / threshold``, so that every neuron fires at 1 and spikes are 0 or 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from spikeloom.core.network import Network
from spikeloom.core.nodes import IF, Flatten, Input, Linear, Node, Synapse
from spikeloom.core.ranges import PERCENTILE, check_range
from spikeloom.errors import NetworkError
from spikeloom.snn.execute import Execution, Source
from spikeloom.transform.prepare import PASSING, MaxPool, activations, feeding, prepare
from spikeloom.transform.prune import still_true
from spikeloom.transform.thresholds import Method, choose, collect


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """How an ANN becomes an SNN.

    num_steps: T that thresholds by "mse" and calibration are made for; the SNN runs at any T. Thresholds by "mse" are those of T/2:
        behind the first layer spikes come unevenly and tell rates only about that finely.
    method, percentile, by_channel: how thresholds are chosen, see `spikeloom.transform.thresholds.choose`.
    reset: "soft" (exact, needs a subtraction) or "hard" (cheaper; what a spike leaves over is lost).
    v_init: membrane at the start as a fraction of the threshold.
    threshold_to_input: factor on all thresholds: above 1 rates are finer and slower (Loihi's DThIR; 8 is usual with hard reset),
        below 1 neurons fire more and clip more.
    signed: also negative spikes, which take back what was sent too early. max_level: largest graded spike.
    max_pool: what becomes of max pools.
    bias: "steps" adds biases at every step; "start" puts T of them into the initial membrane, right only at ``num_steps``.
    ann_frames: of inputs that change from step to step, into how many frames they are cut for the ANN, which adds up what it says.
    seed: of the draw of values for percentiles and errors.
    """

    num_steps: int = 16
    method: Method = "mse"
    percentile: float = 99.9
    by_channel: bool = True
    reset: Literal["soft", "hard"] = "soft"
    v_init: float = 0.5
    threshold_to_input: float = 1.0
    signed: bool = False
    max_level: int = 1
    max_pool: MaxPool = "refuse"
    bias: Literal["steps", "start"] = "steps"
    ann_frames: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        choices: dict[str, tuple[str, ...]] = {
            "method": ("max", "percentile", "mse"),
            "reset": ("soft", "hard"),
            "max_pool": ("refuse", "average", "or"),
            "bias": ("steps", "start"),
        }
        for key, known in choices.items():
            if getattr(self, key) not in known:
                raise NetworkError(f"{key} must be one of {', '.join(known)}, got '{getattr(self, key)}'")
        least_one = {key: getattr(self, key) for key in ("num_steps", "max_level", "ann_frames")}
        check_range(NetworkError, "at least 1", **least_one)
        check_range(NetworkError, PERCENTILE, percentile=self.percentile)
        check_range(NetworkError, "positive and finite", threshold_to_input=self.threshold_to_input)
        if not 0 <= self.v_init < 1:
            raise NetworkError(f"v_init must be from 0 up to 1 (excluded), got {self.v_init}")


@dataclass(frozen=True, eq=False)
class Converted:
    """An SNN and the ANN it says the same as.

    ann: the prepared ANN; its activations have the names of the SNN's neurons.
    thresholds: what one spike (one level) of a neuron stands for, by channel; float64, shape (C,).
    """

    network: Network
    ann: Network
    thresholds: Mapping[str, np.ndarray]
    conversion: Conversion


def convert(ann: Network, source: Source, execution: Execution, conversion: Conversion) -> Converted:
    """Convert ``ann`` with thresholds from its activations on ``source``.

    Args:
        ann: feed-forward, of synapses, ReLU or ClippedReLU, pools, normalisation, Add; weights present.
        source: calibration samples, not those that accuracy is measured on.
        execution: how they are shown; of step-by-step inputs the ANN sees the mean over time.
        conversion: the choices.

    Raises:
        NetworkError: a node that cannot be converted, or an activation that never is above 0.
    """
    ready = prepare(ann, conversion.max_pool)
    values = collect(ready, source, execution, np.random.default_rng(conversion.seed), conversion.ann_frames)
    thresholds = choose(
        ready,
        values,
        conversion.method,
        percentile=conversion.percentile,
        by_channel=conversion.by_channel,
        num_steps=max(1, conversion.num_steps // 2),  # spikes come unevenly, and rates are as coarse as half the steps
        v_init=conversion.v_init,
        max_level=conversion.max_level,
    )
    factor = conversion.threshold_to_input / conversion.max_level
    scaled = {name: factor * threshold for name, threshold in thresholds.items()}
    return Converted(spiking(ready, scaled, conversion), ready, scaled, conversion)


def spiking(ready: Network, thresholds: Mapping[str, np.ndarray], conversion: Conversion) -> Network:
    """The SNN of a prepared ANN with the given size of a spike for each neuron and channel."""
    nodes: dict[str, Node] = dict(ready.nodes)
    shapes = ready.shapes()
    for name, node in ready.nodes.items():
        if isinstance(node, Synapse):
            behind = _behind(ready, name, thresholds)
            if len(behind) not in (1, shapes[name][0]):
                raise NetworkError(
                    f"the sums of layer '{name}' are flattened and added before they reach an activation; flatten behind it, or take "
                    f"one threshold for each layer"
                )
            nodes[name] = _scaled(node, 1 / behind, _before(ready, name, thresholds))
        elif name in thresholds:
            nodes[name] = IF(
                1.0,
                conversion.reset,
                v_init=conversion.v_init,
                max_level=conversion.max_level,
                signed=conversion.signed,
            )
    made = {**asdict(conversion), "ann": ready.id, "thresholds": {n: _brief(t) for n, t in thresholds.items()}}
    network = replace(ready, nodes=nodes, metadata={**still_true(ready), "conversion": made})
    return bias_at_start(network, conversion.num_steps) if conversion.bias == "start" else network


def bias_at_start(network: Network, num_steps: int) -> Network:
    """``num_steps`` times every bias in front of a neuron put into its initial membrane, and none left at the steps."""
    nodes = dict(network.nodes)
    shapes = network.shapes()
    for name, node in network.nodes.items():
        if not isinstance(node, IF):
            continue
        start: Any = np.full((1,) * len(shapes[name]), node.v_init)
        for synapse in feeding(network, name):
            layer = nodes[synapse]
            if not isinstance(layer, Synapse) or layer.bias is None:
                continue
            if network.inputs_of(name) != (synapse,):
                raise NetworkError(
                    f"the bias of layer '{synapse}' reaches '{name}' through other nodes; keep bias 'steps'"
                )
            bias = layer.bias.astype(np.float64)
            start = start + num_steps * bias.reshape(*bias.shape, *([1] * (len(shapes[name]) - bias.ndim)))
            nodes[synapse] = replace(layer, bias=None, has_bias=False)
        nodes[name] = replace(node, v_init=start.astype(np.float32))
    return replace(network, nodes=nodes)


def _behind(network: Network, name: str, thresholds: Mapping[str, np.ndarray]) -> np.ndarray:
    """Threshold of the neurons that the sums of synapse ``name`` reach, by channel, or (1,) where all share it; 1 at the read-out."""
    found: dict[str, np.ndarray] = {}
    waiting = list(network.outputs_of(name))
    while waiting:
        follower = waiting.pop()
        if isinstance(network.nodes[follower], PASSING):
            waiting += network.outputs_of(follower)
        else:
            found[follower] = thresholds.get(follower, np.ones(1))
    several = list(found.values()) or [np.ones(1)]
    if any(not np.array_equal(one, several[0]) for one in several):
        raise NetworkError(
            f"the sums of layer '{name}' reach {sorted(found)} with different thresholds; give each a layer of its own"
        )
    return several[0][:1] if (several[0] == several[0][0]).all() else several[0]


def _before(network: Network, name: str, thresholds: Mapping[str, np.ndarray]) -> np.ndarray:
    """What one unit of each input channel of synapse ``name`` stands for, shape (C,) or (1,); 1 at the input."""
    source = network.inputs_of(name)
    if len(source) != 1:
        raise NetworkError(f"layer '{name}' gets {list(source)}; put an activation behind their sum")
    node = network.nodes[source[0]]
    if isinstance(node, Input):
        return np.ones(1)
    if source[0] in thresholds:
        return thresholds[source[0]]
    inner = _before(network, source[0], thresholds)
    if isinstance(node, Flatten) and len(inner) > 1:
        return np.repeat(inner, int(np.prod(network.shapes()[network.inputs_of(source[0])[0]][1:])))
    return inner


def _scaled(node: Any, rows: np.ndarray, columns: np.ndarray) -> Any:
    """A synapse with its outputs times ``rows`` and its inputs times ``columns``, by channel."""
    weight = node.weight.astype(np.float64)
    if isinstance(node, Linear):
        weight = weight * columns
    else:
        grouped = weight.reshape(node.groups, -1, *weight.shape[1:])
        by_group = np.broadcast_to(columns, node.in_channels).reshape(node.groups, 1, -1, *([1] * (weight.ndim - 2)))
        weight = (grouped * by_group).reshape(weight.shape)
    weight = weight * rows.reshape(-1, *([1] * (weight.ndim - 1)))
    bias = None
    if node.bias is not None:
        bias = (node.bias * rows.reshape(-1, *([1] * (node.bias.ndim - 1)))).astype(np.float32)
    return replace(node, weight=weight.astype(np.float32), bias=bias)


def _brief(threshold: np.ndarray) -> float | list[float]:
    """One number where all channels share it."""
    return float(threshold[0]) if (threshold == threshold[0]).all() else [float(value) for value in threshold]


__all__ = ["Conversion", "Converted", "activations", "bias_at_start", "convert", "prepare", "spiking"]
