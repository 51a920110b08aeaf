"""Time to put the weights of a VGG-9 on crossbars with wires and to solve every crossbar exactly.

    python -m benchmarks.crossbar_program [SIZE]

Random 4-bit weights, all nine layers at 32x32, cells that leak and vary, wires of 5 ohm: from levels to effective weights, by
``spikeloom.transform.crossbar``, with one set of crossbars (negative weights stored with an offset) and with two (pairs). Median of
three rounds, with the least and the most.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import replace

import numpy as np

from spikeloom.core.nodes import Node, Synapse
from spikeloom.nets import create
from spikeloom.snn.build import synapse_shape
from spikeloom.transform.crossbar import Crossbars, crossbar, number_of_crossbars

ROUNDS = 3


def main(size: int) -> None:
    """Print crossbars, wall and CPU time of both kinds of pairs."""
    rng = np.random.default_rng(0)
    network = create("vgg9", (3, 32, 32), 10, batch_norm=False, weight_bits=4)
    nodes: dict[str, Node] = dict(network.nodes)
    for name, node in network.nodes.items():
        if isinstance(node, Synapse):
            nodes[name] = replace(node, weight=rng.integers(-7, 8, synapse_shape(node)).astype(np.float32))
    network = replace(network, nodes=nodes)
    chips = Crossbars(size=size, off_ohm=200_000.0, variation=0.3, row_wire_ohm=5.0, column_wire_ohm=5.0)
    kinds = (replace(chips, pairs="negative"), chips)
    took: dict[str, list[tuple[float, float]]] = {one.pairs: [] for one in kinds}
    for _ in range(ROUNDS):
        for one in kinds:
            wall, cpu = time.perf_counter(), time.process_time()
            crossbar(network, one, rng)
            took[one.pairs].append((time.perf_counter() - wall, time.process_time() - cpu))
    for one in kinds:
        walls, cpus = (
            f"{statistics.median(each):.1f} s ({min(each):.1f} to {max(each):.1f})"
            for each in zip(*took[one.pairs], strict=True)
        )
        print(f"{one.pairs:>12}: {number_of_crossbars(network, one)} crossbars, {walls} wall, {cpus} CPU")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 64)
