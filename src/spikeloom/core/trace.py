"""SpikeTrace: what arrived at each node, step by step, bit-packed over time; float membranes are never kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from spikeloom.core.nodes import Shape
from spikeloom.errors import TraceError

_PACK_BLOCK = 1 << 15


@dataclass(frozen=True, eq=False)
class Spikes:
    """Binary map over time.

    packed: dtype uint8, shape (ceil(T/8), N, *shape); bit t & 7 of byte t >> 3 is step t (little bit order).
        Bits beyond num_steps are zero.
    """

    packed: np.ndarray
    num_steps: int

    def __post_init__(self) -> None:
        if self.packed.dtype != np.uint8 or self.packed.shape[:1] != (-(-self.num_steps // 8),) or self.num_steps < 1:
            raise TraceError(
                f"packed spikes: got {self.packed.dtype} of shape {list(self.packed.shape)} for {self.num_steps} steps, "
                "expected uint8 of shape [ceil(T/8), N, ...] and at least one step"
            )
        unused = -self.num_steps % 8
        if unused and (self.packed[-1] >> np.uint8(8 - unused)).any():
            raise TraceError(f"packed spikes: bits beyond step {self.num_steps} are set, expected zeros there")

    @staticmethod
    def pack(values: np.ndarray) -> Spikes:
        """Pack a bool or 0/1 array of shape (T, N, *shape)."""
        values = np.asarray(values)
        packed = np.zeros((-(-values.shape[0] // 8), *values.shape[1:]), np.uint8)
        source = values.reshape(values.shape[0], -1)
        target = packed.reshape(packed.shape[0], -1)
        # blocks that stay in the cache, one pass per step: several times faster than packbits along axis 0
        for start in range(0, source.shape[1], _PACK_BLOCK):
            block = slice(start, start + _PACK_BLOCK)
            for t, step in enumerate(source[:, block]):
                spiked = (step != 0).view(np.uint8)
                np.multiply(spiked, np.uint8(1 << (t & 7)), out=spiked)  # numpy's shift of bytes is ten times slower
                np.bitwise_or(target[t >> 3, block], spiked, out=target[t >> 3, block])
        return Spikes(packed, values.shape[0])

    def unpack(self) -> np.ndarray:
        """Bool array of shape (T, N, *shape)."""
        return np.unpackbits(self.packed, axis=0, count=self.num_steps, bitorder="little").astype(bool)

    def reshape(self, shape: Shape) -> Spikes:
        """The same spikes with another map shape (row-major)."""
        return Spikes(self.packed.reshape(self.packed.shape[:2] + shape), self.num_steps)

    @property
    def num_samples(self) -> int:
        return int(self.packed.shape[1])

    @property
    def shape(self) -> Shape:
        """Map shape without T and N."""
        return tuple(self.packed.shape[2:])

    def events(self) -> np.ndarray:
        """Spikes per neuron summed over steps and samples; dtype int64, shape (*shape)."""
        return np.asarray(np.bitwise_count(self.packed).sum(axis=(0, 1), dtype=np.int64))

    def ones(self) -> np.ndarray:
        """Ones of a neuron's spikes summed over steps; int64, shape (N, *shape)."""
        return np.asarray(np.bitwise_count(self.packed).sum(axis=0, dtype=np.int64))

    def density(self) -> float:
        """Fraction of (step, sample, neuron) that spiked."""
        return float(self.events().sum()) / max(1, self.num_steps * int(np.prod(self.packed.shape[1:])))


@dataclass(frozen=True, eq=False)
class Levels:
    """Integer map over time: sums of pooled spikes, graded spikes, or pixels of a direct-coded input.

    values: dtype uint8, uint16 or int16, shape (T, N, *shape).
    bits: bits of one level (magnitude; a sign comes on top). analog: real-valued pixels quantised to ``bits``.
    """

    values: np.ndarray
    bits: int
    signed: bool = False
    analog: bool = False

    def __post_init__(self) -> None:
        if self.values.dtype not in (np.uint8, np.uint16, np.int16):
            raise TraceError(f"levels: got dtype {self.values.dtype}, expected uint8, uint16 or int16")

    def reshape(self, shape: Shape) -> Levels:
        """The same levels with another map shape (row-major)."""
        return Levels(self.values.reshape(self.values.shape[:2] + shape), self.bits, self.signed, self.analog)

    @property
    def num_steps(self) -> int:
        return int(self.values.shape[0])

    @property
    def num_samples(self) -> int:
        return int(self.values.shape[1])

    @property
    def shape(self) -> Shape:
        """Map shape without T and N."""
        return tuple(self.values.shape[2:])

    def constant(self) -> bool:
        """True when every step of every sample shows the same map (direct coding)."""
        return bool((self.values == self.values[:1]).all())

    def events(self) -> np.ndarray:
        """Non-zero levels per neuron summed over steps and samples; dtype int64, shape (*shape)."""
        return np.asarray(np.count_nonzero(self.values, axis=(0, 1)).astype(np.int64))

    def ones(self) -> np.ndarray:
        """Ones among the bits of a neuron's magnitudes summed over steps; int64, shape (N, *shape)."""
        magnitudes = np.abs(self.values.astype(np.int32))
        return np.asarray(np.bitwise_count(magnitudes).sum(axis=0, dtype=np.int64))

    def density(self) -> float:
        """Fraction of (step, sample, neuron) with a non-zero level."""
        return float(self.events().sum()) / max(1, self.values.size)


Arrival = Spikes | Levels


@dataclass(frozen=True, eq=False)
class SpikeTrace:
    """What arrived at each synapse, pool and add node of a network, by node name.

    num_steps: T of the trace; an arrival may have its own (a read-out layer with one step).
    outputs: output spikes of a layer where no other layer's arrival already holds them.
    updates: true where the membrane before the leak was non-zero, a spike arrived or a bias acts (T N *out_shape).
    labels, predictions: int64, shape (N,), or None.
    extra: keys this version does not know, kept on a round trip ("meta", "layers", "arrays").
    delay: 0 where a spike acts in the step it is sent in, 1 where it acts in the next one, as on Loihi. Either way an arrival stands
        at the step in which it was sent.
    notes: what every report on the trace must repeat.
    """

    num_steps: int
    num_samples: int
    arrivals: Mapping[str, Arrival]
    outputs: Mapping[str, Spikes] = field(default_factory=dict)
    updates: Mapping[str, Spikes] = field(default_factory=dict)
    dt_s: float | None = None
    source: str = ""
    labels: np.ndarray | None = None
    predictions: np.ndarray | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    delay: int = 0
    notes: tuple[str, ...] = ()

    def arrival(self, layer: str) -> Arrival:
        """What arrived at a layer. Raises TraceError where the trace does not hold it."""
        if layer not in self.arrivals:
            raise TraceError(
                f"layer '{layer}': the trace holds no spikes for it; layers in the trace: {list(self.arrivals)}"
            )
        return self.arrivals[layer]

    @property
    def accuracy(self) -> float | None:
        """Fraction of samples whose prediction equals the label, or None when either is unknown."""
        if self.labels is None or self.predictions is None:
            return None
        return float(np.mean(self.labels == self.predictions))
