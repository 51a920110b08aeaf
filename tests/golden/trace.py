"""The trace behind the golden breakdowns: made from integers only, so that it is the same on every machine and NumPy."""

from __future__ import annotations

import numpy as np

from spikeloom.core.network import chain
from spikeloom.core.nodes import IF, LI, LIF, Conv2d, Flatten, Input, Leak, Linear, Node, SumPool2d
from spikeloom.core.trace import Levels, Spikes, SpikeTrace
from spikeloom.core.workload import Workload
from spikeloom.lower import lower

T, N = 12, 3
#: Sum of events of every layer's input: says at once whether the trace itself has changed.
EVENTS = {"conv1": 358, "conv2": 806, "pool": 623, "fc": 447}


def hashed(shape: tuple[int, ...], salt: int) -> np.ndarray:
    """Well mixed uint32, one per position: a multiplicative hash, because NumPy may change what its generators draw."""
    x = np.arange(int(np.prod(shape)), dtype=np.uint64) + np.uint64(salt << 32)
    for shift, factor in ((33, 0xFF51AFD7ED558CCD), (33, 0xC4CEB9FE1A85EC53)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)  # wraps around, as it should
    mixed: np.ndarray = ((x ^ (x >> np.uint64(33))) >> np.uint64(32)).astype(np.uint32).reshape(shape)
    return mixed


def spikes(shape: tuple[int, ...], salt: int, percent: int) -> np.ndarray:
    """Spikes at about ``percent``, bool (T, N, *shape)."""
    drawn: np.ndarray = hashed((T, N, *shape), salt) % np.uint32(100) < percent
    return drawn


def weights(shape: tuple[int, ...], salt: int) -> np.ndarray:
    """Integers -7..7, about two in five of them zero."""
    drawn = hashed(shape, salt)
    found: np.ndarray = np.where(drawn % 3 == 0, 0, (drawn // 3 % 15).astype(np.int64) - 7)
    return found


def workload() -> Workload:
    """conv1 (2x8x8 -> 10x8x8, LIF) -> conv2 (-> 12x7x7, IF, soft) -> pool (-> 12x3x3) -> fc (108 -> 10), T = 12, 3 samples."""
    nodes: dict[str, Node] = {
        "in": Input((2, 8, 8)),
        "conv1": Conv2d(2, 10, (3, 3), padding=(1, 1), weight=weights((10, 2, 3, 3), 1)),
        "lif1": LIF(Leak(shift=2)),
        "conv2": Conv2d(10, 12, (2, 2), weight=weights((12, 10, 2, 2), 2)),
        "if2": IF(1.0, "soft"),
        "pool": SumPool2d((2, 2), (2, 2)),
        "flatten": Flatten(),
        "fc": Linear(108, 10, weight=weights((10, 108), 3)),
        "readout": LI(Leak(shift=3)),
    }
    first, second, third = spikes((2, 8, 8), 4, 10), spikes((10, 8, 8), 5, 4), spikes((12, 7, 7), 6, 3)
    first[:, 1] &= hashed((T, 2, 8, 8), 7) % 4 == 0  # a quiet sample
    second[4:8, 2] = False  # a gap in time
    sums = third[..., :6, :6].reshape(T, N, 12, 3, 2, 3, 2).sum(axis=(4, 6)).astype(np.uint8)
    trace = SpikeTrace(
        T,
        N,
        {
            "conv1": Spikes.pack(first),
            "conv2": Spikes.pack(second),
            "pool": Spikes.pack(third),
            "fc": Levels(sums.reshape(T, N, 108), 3),
        },
    )
    return lower(chain("golden", nodes), trace)
