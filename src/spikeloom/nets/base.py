"""What the networks of this room have in common: their options and the row of nodes they are put together from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from spikeloom.core.network import Network, chain
from spikeloom.core.nodes import (
    IF,
    LI,
    LIF,
    AvgPool2d,
    BatchNorm,
    Conv2d,
    Flatten,
    Input,
    Leak,
    Linear,
    Node,
    Output,
    ReLU,
    Reset,
    Shape,
    SumPool2d,
    node_out_shape,
)
from spikeloom.core.ranges import check_range
from spikeloom.errors import NetworkError


@dataclass(frozen=True, kw_only=True)
class NetOptions:
    """Choices every network of this room understands.

    encoding: what arrives at the input: "analog" for direct-coded pixels, "spikes" for rate or latency codes and events.
    neuron: "if", "lif" with the leak ``v - (v >> leak_shift)``, or "relu" for an ANN (run at T = 1).
    batch_norm: BatchNorm between synapse and neuron. Folded, it acts as a bias at every step, so a machine that skips silent
        windows has none left to skip; without it synapses have no bias either.
    width: factor on all hidden channels and features, rounded, at least 1.
    dt_s: length of a step in seconds, if it has one.
    """

    encoding: Literal["spikes", "levels", "analog"] = "analog"
    neuron: Literal["if", "lif", "relu"] = "lif"
    leak_shift: int = 2
    reset: Reset = "hard"
    strict: bool = False
    v_threshold: float = 1.0
    batch_norm: bool = True
    width: float = 1.0
    weight_bits: int = 8
    dt_s: float | None = None

    def __post_init__(self) -> None:
        if self.neuron not in ("if", "lif", "relu"):
            raise NetworkError(f"unknown neuron '{self.neuron}', expected if, lif or relu")
        positive = {"width": self.width, "v_threshold": self.v_threshold, "dt_s": self.dt_s}
        check_range(NetworkError, "positive and finite", **positive)

    def widened(self, channels: int) -> int:
        """``channels`` times the width factor."""
        return max(1, round(channels * self.width))


@dataclass
class Row:
    """A network in the making: nodes one after the other, the shape behind the last, the options of all."""

    options: NetOptions
    shape: Shape
    nodes: dict[str, Node] = field(default_factory=dict)

    @staticmethod
    def start(in_shape: Shape, options: NetOptions) -> Row:
        """A row that begins with its input."""
        return Row(options, tuple(in_shape)).then("input", Input(tuple(in_shape), options.encoding))

    def then(self, name: str, node: Node) -> Row:
        """Append ``node``. Raises NetworkError when it does not fit."""
        self.shape = node_out_shape(name, node, self.shape)
        self.nodes[name] = node
        return self

    def conv(self, number: int, channels: int, kernel: int, *, stride: int = 1, padding: int = 0) -> Row:
        """conv<number> with ``channels`` (times width) outputs, its normalisation and its neuron."""
        if len(self.shape) != 3:
            raise NetworkError(f"node 'conv{number}' got an input of shape {list(self.shape)}, expected [C, H, W]")
        out = self.options.widened(channels)
        conv = Conv2d(
            self.shape[0],
            out,
            (kernel, kernel),
            (stride, stride),
            (padding, padding),
            weight_bits=self.options.weight_bits,
        )
        return self.then(f"conv{number}", conv)._fire(f"_conv{number}", out)

    def linear(self, number: int, features: int) -> Row:
        """fc<number> with ``features`` (times width) outputs, its normalisation and its neuron."""
        out = self.options.widened(features)
        linear = Linear(self.shape[0], out, weight_bits=self.options.weight_bits)
        return self.then(f"fc{number}", linear)._fire(f"_fc{number}", out)

    def pool(self, number: int, kind: type[AvgPool2d] | type[SumPool2d]) -> Row:
        """pool<number>: kernel = stride = 2, so that array machines can fold it exactly into the next synapse."""
        return self.then(f"pool{number}", kind((2, 2), (2, 2)))

    def flatten(self) -> Row:
        """[C, H, W] to [C*H*W]; nothing where the map is flat already."""
        return self.then("flatten", Flatten()) if len(self.shape) > 1 else self

    def read_out(self, number: int, num_classes: int, name: str) -> Network:
        """fc<number>, a read-out that adds up without spiking, and the finished network."""
        linear = Linear(self.shape[0], num_classes, weight_bits=self.options.weight_bits)
        self.then(f"fc{number}", linear).then("readout", LI()).then("output", Output((num_classes,)))
        return chain(name, self.nodes, dt_s=self.options.dt_s)

    def _fire(self, suffix: str, channels: int) -> Row:
        options = self.options
        if options.batch_norm:
            self.then(f"norm{suffix}", BatchNorm(channels))
        neuron: Node
        if options.neuron == "relu":
            neuron = ReLU()
        elif options.neuron == "if":
            neuron = IF(options.v_threshold, options.reset, options.strict)
        else:
            neuron = LIF(Leak(shift=options.leak_shift), options.v_threshold, options.reset, options.strict)
        return self.then(f"neuron{suffix}", neuron)
