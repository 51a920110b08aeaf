"""A row of convolutions in SANA-FE, run by `benchmarks.loihi_dvs` and `loihi_vgg16` with the Python of an environment that has the wheel.

    PYTHON benchmarks/loihi_dvs_sanafe.py NETWORK.npz STEPS CORES,OF,EACH,LAYER

NETWORK.npz: thresholds of the input and of every layer, inputs (what each input neuron adds to itself in a step), kernels conv1, conv2, ...
[row, column, input channel, output channel] without padding, dense1 where a dense layer ends the row; in_shape and strides where they are not
those of the DVS-gesture network. Prints one line of JSON: what the simulation returns and the CPU seconds of building and simulating.
It uses the wheel's public calls only and nothing of this package.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np

IN_SHAPE, STRIDES = (1, 32, 32), (2, 1, 1, 1)


def main(path: str, steps: int, cores: list[int]) -> None:
    """Build the network, put its neurons on cores in order, simulate."""
    import sanafe  # in its own environment, never in this project's

    start = time.process_time()
    arrays = np.load(path)
    kernels = sorted(name for name in arrays if name.startswith("conv"))
    convolutions = list(zip(kernels, arrays.get("strides", STRIDES), strict=True))
    thresholds = [float(theta) for theta in arrays["thresholds"]]
    chip_plan, net = sanafe.load_loihi(), sanafe.Network()
    shapes = [tuple(map(int, arrays.get("in_shape", IN_SHAPE)))]
    for name, stride in convolutions:
        _, height, width = shapes[-1]
        shapes.append((arrays[name].shape[3], (height - 3) // int(stride) + 1, (width - 3) // int(stride) + 1))
    if "dense1" in arrays:
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
    for n, (name, stride) in enumerate(convolutions):
        channels, height, width = shapes[n]
        weights = [float(w) for w in arrays[name].ravel()]
        groups[n].connect_neurons_conv2d(
            groups[n + 1],
            {"weight": weights},
            width,
            height,
            channels,
            3,
            3,
            shapes[n + 1][0],
            int(stride),
            int(stride),
        )
    if "dense1" in arrays:
        groups[-2].connect_neurons_dense(groups[-1], {"weight": [float(w) for w in arrays["dense1"].ravel()]})
    chip = sanafe.SpikingChip(chip_plan)
    chip.load(net)
    built = time.process_time()
    found = chip.sim(steps, timing_model="simple", processing_threads=1)
    seconds = {"build": built - start, "simulate": time.process_time() - built}
    keys = ("sim_time", "spikes", "packets_sent", "neurons_updated", "neurons_fired")
    print(json.dumps({**{key: found[key] for key in keys}, "energy": found["energy"], "cpu_s": seconds}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), [int(count) for count in sys.argv[3].split(",")])
