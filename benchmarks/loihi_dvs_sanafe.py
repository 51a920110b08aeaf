"""The DVS-gesture network in SANA-FE, run by `benchmarks.loihi_dvs` with the Python of an environment that has the sanafe wheel.

    PYTHON benchmarks/loihi_dvs_sanafe.py NETWORK.npz STEPS CORES,OF,EACH,LAYER

Prints one line of JSON: what the simulation returns. It uses the wheel's public calls only and nothing of this package.
"""

from __future__ import annotations

import json
import sys

import numpy as np

CONVOLUTIONS = (("conv1", 2), ("conv2", 1), ("conv3", 1), ("conv4", 1))


def main(path: str, steps: int, cores: list[int]) -> None:
    """Build the network, put its neurons on cores in order, simulate."""
    import sanafe  # in its own environment, never in this project's

    arrays = np.load(path)
    thresholds = [float(theta) for theta in arrays["thresholds"]]
    chip_plan, net = sanafe.load_loihi(), sanafe.Network()
    shapes = [(1, 32, 32)]
    for name, stride in CONVOLUTIONS:
        _, height, width = shapes[-1]
        shapes.append((arrays[name].shape[3], (height - 3) // stride + 1, (width - 3) // stride + 1))
    shapes.append((arrays["dense1"].shape[1], 1, 1))
    groups, core = [], 0
    for n, (shape, count) in enumerate(zip(shapes, cores, strict=True)):
        size = int(np.prod(shape))
        attributes = {"threshold": thresholds[n], "leak_decay": 1.0, "reset": 0.0}
        group = net.create_neuron_group(f"layer{n}", size, model_attributes=attributes)
        for i in range(size):
            k = core + min(i // (size // count), count - 1)
            group[i].map_to_core(chip_plan.tiles[k // 4].cores[k % 4])
        groups.append(group)
        core += count
    for i, pixel in enumerate(arrays["inputs"]):
        groups[0][i].set_attributes(model_attributes={"bias": float(pixel)})
    for n, (name, stride) in enumerate(CONVOLUTIONS):
        channels, height, width = shapes[n]
        weights = [float(w) for w in arrays[name].ravel()]
        groups[n].connect_neurons_conv2d(
            groups[n + 1], {"weight": weights}, width, height, channels, 3, 3, shapes[n + 1][0], stride, stride
        )
    weights = [float(w) for w in arrays["dense1"].ravel()]
    groups[-2].connect_neurons_dense(groups[-1], {"weight": weights})
    chip = sanafe.SpikingChip(chip_plan)
    chip.load(net)
    found = chip.sim(steps, timing_model="simple", processing_threads=1)
    keys = ("sim_time", "spikes", "packets_sent", "neurons_updated", "neurons_fired")
    print(json.dumps({**{key: found[key] for key in keys}, "energy": found["energy"]}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), [int(count) for count in sys.argv[3].split(",")])
