"""Speed of the exact count on the real VGG-9 trace: one thread, CPU time, against the clear NumPy version.

    SPIKELOOM_DATA=... python -m benchmarks.speed_vgg9

Work: five binary convolutions and three linear layers, L in {1, 2, 4} x {ptb with merge 2, agile}: six exact
evaluations of the network, from unpacked uint8 arrays, packing included. The spikes that leave a layer are known: they are
what arrives at the next, and in front of a pool, where the artifact has none, one of the four neurons behind each pooled spike,
drawn. Both versions give the same integers, which is checked. The kernels are warm (one run before); the cold start of a new process is measured apart, with and without
cached kernels. Ratios are of medians taken in the same run.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

from benchmarks.clear_numpy import count_layer
from benchmarks.prosperity_vgg9 import CHANNELS, FEATURES, arrays
from benchmarks.timing import cpu_seconds, forward_seconds
from spikeloom.core.trace import Spikes
from spikeloom.core.workload import Layer, Workload
from spikeloom.hw.spikex import Spikex, SpikexArch

WINDOWS = (1, 2, 4)
DISPATCHES = (("ptb", 2), ("agile", 1))
COLD = "import benchmarks.speed_vgg9 as b; x = b.inputs(); b.fast(x, b.outputs(x))"


def inputs() -> dict[str, np.ndarray]:
    """Unpacked binary spikes (T, 1, C, H, W) of every layer behind the first."""
    return {
        name: values.reshape(*values.shape[:3], *(values.shape[3:] or (1, 1)))
        for name, values in arrays().items()
        if name != "conv0"
    }


def outputs(spikes: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Unpacked binary spikes (T, 1, K, P, Q) that leave each layer but the last two."""
    rng, names, found = np.random.default_rng(0), list(spikes), {}
    for name, following in zip(names[:-2], names[1:-1], strict=True):
        side = spikes[name].shape[-1]
        sent = spikes[following].reshape(*spikes[following].shape[:2], out_channels(name), -1)
        small = int(np.sqrt(sent.shape[-1]))
        sent = sent.reshape(*sent.shape[:3], small, small)
        if side > small:  # a pool of 2 x 2 between
            which = rng.integers(0, 4, sent.shape)
            whole = np.zeros((*sent.shape[:3], small, 2, small, 2), np.uint8)
            for n in range(4):
                whole[..., n // 2, :, n % 2] = sent * (which == n)
            sent = whole.reshape(*sent.shape[:3], side, side)
        found[name] = sent
    return found


def out_channels(name: str) -> int:
    return CHANNELS[int(name[4:])] if name.startswith("conv") else FEATURES[int(name[2:])]


def layers_of(spikes: dict[str, np.ndarray], sent: dict[str, np.ndarray]) -> list[Layer]:
    """Layers with their spikes packed, in and out."""
    layers = []
    for name, values in spikes.items():
        _, _, C, H, W = values.shape
        kernel, padding = (3, 1) if name.startswith("conv") else (1, 0)
        kind = "conv2d" if name.startswith("conv") else "linear"
        layers.append(
            Layer(
                name,
                kind,
                C,
                out_channels(name),
                H,
                W,
                kernel,
                kernel,
                H,
                W,
                Spikes.pack(values),
                padding=(padding,) * 2,
                out=Spikes.pack(sent[name]) if name in sent else None,
            )
        )
    return layers


def fast(spikes: dict[str, np.ndarray], sent: dict[str, np.ndarray]) -> list[dict[str, int]]:
    """Six evaluations: the product's own path."""
    workload, machine, found = Workload(tuple(layers_of(spikes, sent)), 4, 1), Spikex(), []
    for window in WINDOWS:
        for dispatch, merge in DISPATCHES:
            arch = SpikexArch(window=window, dispatch=dispatch, merge=merge)
            counts = machine.count(workload, arch, machine.map(workload, arch), threads=1)
            found += [{**counts.of(name), "cycles": counts.layer_cycles[name]} for name in spikes]
    return found


def clear(spikes: dict[str, np.ndarray], sent: dict[str, np.ndarray]) -> list[dict[str, int]]:
    """The same six evaluations in plain NumPy."""
    found = []
    for window in WINDOWS:
        for dispatch, merge in DISPATCHES:
            for name, values in spikes.items():
                kernel, padding = ((3, 3), (1, 1)) if name.startswith("conv") else ((1, 1), (0, 0))
                found.append(
                    count_layer(
                        values[:, 0], out_channels(name), kernel, (1, 1), padding,
                        window=window, dispatch=dispatch, merge=merge, decay="free",
                        out_spikes=sent[name][:, 0] if name in sent else None,
                    )
                )  # fmt: skip
    return found


def cold_start(cache_dir: str) -> float:
    """Wall seconds of a new process that imports, compiles or loads the kernels, and evaluates once."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", COLD], check=True, env={**os.environ, "NUMBA_CACHE_DIR": cache_dir})
    return time.perf_counter() - start


def vgg9_seconds(samples: int) -> float:
    """CPU seconds per image of the same network's forward pass, T = 4, as recording runs it: float32, one thread."""
    from spikeloom.nets import create
    from spikeloom.snn.build import build
    from spikeloom.snn.execute import runnable

    module = runnable(build(create("vgg9", (3, 32, 32), 10, batch_norm=False), seed=0).to_network())
    return forward_seconds(module, samples, 4)


def pack_and_count_seconds(spikes: dict[str, np.ndarray], sent: dict[str, np.ndarray], samples: int) -> float:
    """CPU seconds per image of packing the trace and one agile count at L = T = 4; the last layer has one step."""
    batch, out = (
        {name: np.repeat(values, samples, axis=1) for name, values in maps.items() if values.shape[0] == 4}
        for maps in (spikes, sent)
    )
    machine, arch = Spikex(), SpikexArch(window=4)

    def work() -> None:
        workload = Workload(tuple(layers_of(batch, out)), 4, samples)
        machine.count(workload, arch, machine.map(workload, arch), threads=1)

    work()
    return statistics.median(cpu_seconds(work, 15)) / samples


def main() -> None:
    spikes = inputs()
    sent = outputs(spikes)
    for ours, theirs in zip(fast(spikes, sent), clear(spikes, sent), strict=True):
        different = {key: (ours[key], theirs[key]) for key in ours.keys() & theirs.keys() if ours[key] != theirs[key]}
        if different or "array.cycles" not in theirs:
            sys.exit(f"the two versions differ: {different}")
    quick = cpu_seconds(lambda: fast(spikes, sent), 25)
    slow = cpu_seconds(lambda: clear(spikes, sent), 5)
    with tempfile.TemporaryDirectory() as cache_dir:
        compiling, cached = cold_start(cache_dir), cold_start(cache_dir)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    median, slow_median = statistics.median(quick), statistics.median(slow)
    print(f"six exact evaluations: {1e3 * median:.1f} ms CPU (min {1e3 * min(quick):.1f}, max {1e3 * max(quick):.1f})")
    print(
        f"clear NumPy version:   {1e3 * slow_median:.0f} ms CPU (min {1e3 * min(slow):.0f}, max {1e3 * max(slow):.0f}), {slow_median / median:.0f}x slower"
    )
    print(f"cold start:            {cached:.1f} s wall with cached kernels, {compiling:.1f} s when they are compiled")
    print(f"peak memory:           {peak:.0f} MB")
    samples = 16
    counting, forward = pack_and_count_seconds(spikes, sent, samples), vgg9_seconds(samples)
    print(
        f"per image, batch {samples}: packing and one agile count {1e3 * counting:.2f} ms, forward {1e3 * forward:.2f} ms: "
        f"{100 * counting / forward:.1f} % on top"
    )


if __name__ == "__main__":
    main()
