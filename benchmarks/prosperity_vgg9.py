"""The real VGG-9 / CIFAR-10 trace of the Prosperity artifact (MIT licence) in our trace format.

    python -m benchmarks.prosperity_vgg9 OUT.npz

Reads ``traces/prosperity_vgg9_cifar10.npz`` under SPIKELOOM_DATA. The artifact keeps the spikes that arrived at each
layer for one image over T = 4 steps. Three things it does not keep are stated in the trace's source line: the pixels of
the first, direct-coded layer (ones in the artifact; written as the highest 8-bit level, the most its bit-serial input
can cost), the neurons' leak and reset, and the outputs of layers that a pool follows. The last linear layer was recorded
with a single step and is left out; ``arrays`` still returns it for the speed benchmark.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

from spikeloom.core.network import Network
from spikeloom.core.nodes import IF, Conv2d, Input, Linear, Node, Output
from spikeloom.core.trace import Levels, Spikes, SpikeTrace
from spikeloom.files.store import write_trace

CHANNELS = (64, 64, 128, 128, 256, 256)
FEATURES = (1024, 1024, 10)
SOURCE = (
    "Prosperity artifact (github.com/dubcyfor3/Prosperity, MIT), VGG-9 on CIFAR-10, one image, T=4; "
    "first-layer pixels not kept there, taken as full-scale 8-bit levels; IF neurons with hard reset assumed"
)


def arrays(data_dir: str | Path | None = None) -> dict[str, np.ndarray]:
    """Unpacked uint8 spikes by layer name, shape (T, 1, C, H, W) or (T, 1, C); ``conv0`` is the analog input's mask."""
    file = Path(data_dir or os.environ.get("SPIKELOOM_DATA", "")) / "traces" / "prosperity_vgg9_cifar10.npz"
    if not file.exists():
        sys.exit(f"{file}: no such file; set SPIKELOOM_DATA to the folder that holds traces/")
    with np.load(file, allow_pickle=False) as archive:
        found = {}
        for key in archive.files:
            if key.endswith("__bits"):
                shape = archive[key.replace("__bits", "__shape")]
                bits = np.unpackbits(archive[key].ravel(), count=int(np.prod(shape)))
                name = key.removesuffix("__bits").replace("conv2d_", "conv").replace("fc_", "fc")
                found[name] = bits.reshape(shape)[:, None]
    return found


def trace(data_dir: str | Path | None = None) -> tuple[Network, SpikeTrace]:
    """Network (without weights) and trace of the six convolutions and the first two linear layers."""
    spikes = arrays(data_dir)
    nodes: dict[str, Node] = {}
    edges: list[tuple[str, str]] = []
    arrivals: dict[str, Spikes | Levels] = {}
    before: tuple[str, tuple[int, ...]] | None = None
    for k, out_channels in enumerate((*CHANNELS, *FEATURES[:2])):
        name = f"conv{k}" if k < len(CHANNELS) else f"fc{k - len(CHANNELS)}"
        values = spikes[name]
        shape = values.shape[2:]
        if before is not None and before[1] == shape:
            edges.append((before[0], name))
        else:  # the input, or behind a pool whose inputs the artifact does not keep
            nodes[f"{name}.input"] = Input(shape, "analog" if k == 0 else "spikes")
            edges.append((f"{name}.input", name))
        if name.startswith("conv"):
            nodes[name] = Conv2d(shape[0], out_channels, (3, 3), padding=(1, 1))
            before = (f"{name}.neuron", (out_channels, *shape[1:]))
        else:
            nodes[name] = Linear(shape[0], out_channels)
            before = (f"{name}.neuron", (out_channels,))
        nodes[f"{name}.neuron"] = IF(None)
        edges.append((name, f"{name}.neuron"))
        arrivals[name] = Levels(values * np.uint8(255), 8, analog=True) if k == 0 else Spikes.pack(values)
    nodes["output"] = Output((FEATURES[1],))
    edges.append(("fc1.neuron", "output"))
    return Network(nodes, tuple(edges), "vgg9"), SpikeTrace(4, 1, arrivals, source=SOURCE)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: SPIKELOOM_DATA=... python -m benchmarks.prosperity_vgg9 OUT.npz")
    write_trace(sys.argv[1], *trace())
    print(f"wrote {sys.argv[1]}")
