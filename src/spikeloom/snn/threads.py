"""How many threads multiply. Waiting OpenMP threads spin: where the work between two waits is short, a second thread gains
nothing on a quiet machine and can make a run ten times slower on a busy one.

Rule: one thread for batches below a billion multiplications, otherwise as many as torch is set to.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from spikeloom.core.network import Network
from spikeloom.snn.precision import macs_per_step

_WORTH_SHARING = 1_000_000_000


def threads_for(network: Network, num_frames: int) -> int:
    """Threads for batches of ``num_frames`` = T * N frames, by the rule in the module's docstring."""
    return torch.get_num_threads() if macs_per_step(network) * num_frames >= _WORTH_SHARING else 1


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Inside, torch and the neuron kernels use ``number`` threads; afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
