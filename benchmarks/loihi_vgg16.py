"""Speed of counting a VGG-16 on the many-core machine: one thread, CPU time, per image and per synapse event.

    [SPIKELOOM_DATA=...] python -m benchmarks.loihi_vgg16 [--sanafe PYTHON] [--runs 5]

Two networks of VGG-16 size (CIFAR-10, T = 4), on `loihi` with as many chips as they need and limits = "warn" (a 3x3 convolution of 512
channels has 4,608 sources a neuron and fits no core):

- drawn: 13 convolutions with average pools, one linear layer, spikes drawn at 15 % in the first layer down to 10 % in the last;
- prosperity: the real spikes of the Prosperity artifact (MIT). It keeps what arrived behind each pool, so the five pooled convolutions run
  with a stride of 2 here: one chain in which every recorded spike is one that a neuron sent.

Counting is `Loihi.count` of spikes that are packed already; what depends on the placement alone (fans and tables) is built once and timed
apart. The synapse events are checked against the closed form of each layer. Neurons updated: as recorded (drawn at random here), and without a record, found from what arrives. Memory is the peak of NumPy's allocations in a
first count, the building included. PYTHON, of an environment with the wheel sanafe 2.2.9, simulates one convolution of that network that fits its memory (64 channels, 12x12
to 10x10, 3.7 M synapses, 32 steps, a process for each run), and beside each run the same layer is built, emulated and counted here: both sides compute the spikes,
and energy and events must be equal. The forward pass is our own of the same size: the float network in torch, and an integer one that `emulate` runs event by event.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import tracemalloc
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.loihi_dvs import placed
from benchmarks.timing import cpu_seconds, forward_seconds
from spikeloom.core.network import chain
from spikeloom.core.nodes import IF, Conv2d, Flatten, Input, Linear, Node, Output, SumPool2d
from spikeloom.core.trace import Spikes
from spikeloom.core.workload import Layer, NeuronRule, Workload
from spikeloom.emulate import emulate
from spikeloom.evaluate import evaluate
from spikeloom.hw.base import fold_pools
from spikeloom.hw.loihi import Loihi
from spikeloom.hw.loihi_arch import LoihiArch
from spikeloom.lower import lower

#: Output channels of the convolutions; True where a pool of 2 x 2 follows.
CONVOLUTIONS = (
    (64, False), (64, True), (128, False), (128, True), (256, False), (256, False), (256, True), (512, False), (512, False),
    (512, True), (512, False), (512, False), (512, True),
)  # fmt: skip
STEPS = 4
REPEATS = 25
#: The convolution that is run in SANA-FE, too: channels, rows and columns in, steps, share of inputs that fire, cores of input and outputs.
CHANNELS, SIDE, BLOCK_STEPS, BLOCK_RATE, CORES = 64, 12, 32, 0.14, (16, 8)


def _spikes(rng: np.random.Generator, rate: float, shape: tuple[int, ...]) -> Spikes:
    return Spikes.pack(rng.random((STEPS, 1, *shape)) < rate)


def drawn(seed: int = 0) -> Workload:
    """VGG-16 with average pools folded into the convolution behind, its spikes drawn."""
    rng = np.random.default_rng(seed)
    layers: list[Layer] = []
    channels, size, pool, name = 3, 32, 1, ""
    arrival = _spikes(rng, 0.15, (3, 32, 32))
    for k, (out_channels, pooled) in enumerate((*CONVOLUTIONS, (10, False))):
        linear = k == len(CONVOLUTIONS)
        kernel, side = (size // pool, 1) if linear else (3, size // pool)
        layer = Layer(
            "fc" if linear else f"conv{k}", "linear" if linear else "conv2d", channels, out_channels, size, size, kernel * pool,
            kernel * pool, side, side, arrival, stride=(pool * (kernel if linear else 1),) * 2, padding=(0 if linear else pool,) * 2,
            inputs=(name,) if name else (), neuron=NeuronRule("if", None, "soft"), stored_kernel=(kernel, kernel),
        )  # fmt: skip
        out = _spikes(rng, 0.15 - 0.05 * k / len(CONVOLUTIONS), (out_channels, side, side))
        updates = _spikes(rng, 0.8, (out_channels, side, side))
        layers.append(replace(layer, out=out, updates=updates))
        name, channels, size, pool, arrival = layer.name, out_channels, side, 1 + pooled, out
    return Workload(tuple(layers), STEPS, 1, "drawn")


def prosperity(data_dir: str) -> Workload | None:
    """The real spikes as one chain: convolutions in front of a pool with stride 2. None where the file is not there."""
    file = Path(data_dir) / "traces" / "prosperity_vgg16_cifar10_loas.npz"
    if not data_dir or not file.exists():
        return None
    with np.load(file, allow_pickle=False) as archive:

        def bits(key: str) -> Spikes:
            shape = archive[f"{key}__shape"]
            return Spikes.pack(
                np.unpackbits(archive[f"{key}__bits"].ravel(), count=int(np.prod(shape))).reshape(shape)[:, None]
            )

        found = [bits(f"Conv2d_{k}") for k in range(1, len(CONVOLUTIONS))] + [bits("Linear_0")]
    layers: list[Layer] = []
    for k, arrival in enumerate(found):
        linear = k == len(CONVOLUTIONS) - 1
        C, H, W = (*arrival.shape, 1, 1)[:3]
        out = None if linear else found[k + 1]
        K, P, Q = (10, 1, 1) if out is None else (*out.shape, 1, 1)[:3]
        layers.append(
            Layer(
                "fc" if linear else f"conv{k + 1}", "linear" if linear else "conv2d", C, K, H, W, 1 if linear else 3, 1 if linear else 3,
                P, Q, arrival.reshape((C, H, W)), stride=(1, 1) if linear else (H // P, W // Q), padding=(0, 0) if linear else (1, 1),
                inputs=(layers[-1].name,) if layers else (), neuron=NeuronRule("if", None, "soft"),
                out=None if out is None else out.reshape((K, P, Q)),
            )
        )  # fmt: skip
    return Workload(tuple(layers), STEPS, 1, "Prosperity artifact, VGG-16 on CIFAR-10")


def synapses(workload: Workload) -> int:
    """Synapses of the network, pools folded: one for each pair of neurons that a weight joins."""
    return sum(layer.dense_synops() // layer.num_steps for layer in workload.layers)


def machine_for(workload: Workload, compartments: int = 1024) -> LoihiArch:
    """As many chips as the neurons need."""
    cores = sum(-(-layer.K * layer.P * layer.Q // compartments) + 1 for layer in workload.layers)
    return LoihiArch(limits="warn", compartments=compartments, chips=-(-cores // 128))


def shown(times: list[float]) -> str:
    """Median and range in milliseconds."""
    return f"{1e3 * statistics.median(times):.2f} ms CPU ({1e3 * min(times):.2f} to {1e3 * max(times):.2f})"


def without_updates(workload: Workload) -> Workload:
    """The same without a record of which neurons were updated."""
    return replace(workload, layers=tuple(replace(layer, updates=None) for layer in workload.layers))


def building(workload: Workload) -> tuple[list[float], float]:
    """(CPU seconds of a placement, its tables and its limits, five times; bytes that a building and one count hold at most)."""
    machine, times, arch = Loihi(), [], machine_for(workload)
    for columns in (9, 10, 11, 12, 13):  # on another mesh nothing is known yet
        other = replace(arch, columns=columns)
        times += cpu_seconds(lambda other=other: machine.map(workload, other), 1)  # type: ignore[misc]
    arch = replace(arch, columns=14)
    tracemalloc.start()
    machine.count(workload, arch, machine.map(workload, arch), threads=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return times, peak


def vgg16_seconds(images: int = 8) -> float:
    """CPU seconds per image of our own VGG-16 with random weights: float32, T = 4, one thread, as recording runs it."""
    from spikeloom.core.nodes import AvgPool2d
    from spikeloom.nets.base import NetOptions, Row
    from spikeloom.snn.build import build
    from spikeloom.snn.execute import runnable

    row = Row.start((3, 32, 32), NetOptions(neuron="if", batch_norm=False))
    for k, (channels, pooled) in enumerate(CONVOLUTIONS):
        row.conv(k, channels, 3, padding=1)
        if pooled:
            row.pool(k, AvgPool2d)
    module = runnable(build(row.flatten().read_out(1, 10, "vgg16"), seed=0).to_network())
    return forward_seconds(module, images, STEPS)


def emulated(seed: int = 0) -> tuple[list[float], int]:
    """(CPU seconds, synapse events) of `emulate` on one image: VGG-16 with sum pools and integer weights of 4 bits at random."""
    rng = np.random.default_rng(seed)
    nodes: dict[str, Node] = {"input": Input((3, 32, 32), "spikes")}
    channels = 3
    for k, (out_channels, pooled) in enumerate(CONVOLUTIONS):
        weight = rng.integers(-7, 8, (out_channels, channels, 3, 3)).astype(np.float32)
        nodes[f"conv{k}"] = Conv2d(channels, out_channels, (3, 3), padding=(1, 1), weight=weight)
        # about the deviation of the sum of a step at 14 % firing, so that spikes neither die nor fill the map
        nodes[f"if{k}"] = IF(v_threshold=float(4.3 * np.sqrt(0.14 * 9 * channels)), reset="hard")
        if pooled:
            nodes[f"pool{k}"] = SumPool2d((2, 2), (2, 2))
        channels = out_channels
    nodes |= {"flatten": Flatten(), "fc": Linear(512, 10, weight=rng.integers(-7, 8, (10, 512)).astype(np.float32))}
    network = chain("vgg16", {**nodes, "if_fc": IF(), "output": Output((10,))})
    frames = (rng.random((STEPS, 1, 3, 32, 32)) < 0.15).astype(np.uint8)
    trace = emulate(network, frames, STEPS, delay=0)
    layers = fold_pools(lower(network, trace)).layers
    return cpu_seconds(lambda: emulate(network, frames, STEPS, delay=0), 5), sum(layer.synops for layer in layers)


def report(workload: Workload) -> float:
    """Print what one network takes; median CPU seconds of a count."""
    machine, arch = Loihi(), machine_for(workload)
    mapping = machine.map(workload, arch)
    counts = machine.count(workload, arch, mapping, threads=1)
    events = sum(number for (_, _, action), number in counts.actions.items() if action == "event")
    if events != sum(layer.synops for layer in workload.layers):
        sys.exit("the events are not those of the layers' closed form")
    messages = sum(
        number for (_, instance, action), number in counts.actions.items() if (instance, action) == ("axon", "out")
    )
    spikes = sum(layer.arrival.events().sum() for layer in workload.layers)
    sources = sum(layer.C * layer.H * layer.W for layer in workload.layers)
    print(
        f"{workload.source}: T = {STEPS}, {sources:,} neurons that send, {100 * spikes / sources / STEPS:.1f} % firing, {arch.chips} chips"
    )
    print(f"  {spikes:,} spikes, {messages:,} messages, {events:,} synapse events, {synapses(workload):,} synapses")
    median = 0.0
    for what, kept in (("updates as recorded", workload), ("updates from what arrives", without_updates(workload))):
        if what == "updates as recorded" and kept.layers[0].updates is None:
            continue
        machine.count(kept, arch, mapping, threads=1)
        times = cpu_seconds(lambda kept=kept: machine.count(kept, arch, mapping, threads=1), REPEATS)  # type: ignore[misc]
        each = 1e9 * statistics.median(times) / events
        print(f"  count an image, {what}: {shown(times)}; {each:.4f} ns an event")
        median = median or statistics.median(times)
    built, peak = building(workload)
    print(f"  built once for a placement (fans, tables, limits): {shown(built)}")
    print(
        f"  most memory of building and a count: {peak / 1e6:.1f} MB, {peak / synapses(workload):.3f} bytes a synapse"
    )
    return median


def beside_sanafe(python: str, runs: int) -> None:
    """One convolution simulated and counted by both, in turns; CPU nanoseconds a synapse event of each part."""
    rng = np.random.default_rng(0)
    kernel = rng.integers(-7, 8, (3, 3, CHANNELS, CHANNELS)).astype(np.int16)
    pixels = (rng.random((1, CHANNELS, SIDE, SIDE)) < BLOCK_RATE).astype(np.int16)
    thresholds = (0.5, 400.0)
    ones = np.ones((CHANNELS, 1, 1, 1), np.int16)
    nodes: dict[str, Node] = {
        "pixels": Input((CHANNELS, SIDE, SIDE), "analog"), "input": Conv2d(CHANNELS, CHANNELS, (1, 1), groups=CHANNELS, weight=ones),
        "if0": IF(v_threshold=thresholds[0], strict=True), "conv1": Conv2d(CHANNELS, CHANNELS, (3, 3), weight=kernel.transpose(3, 2, 0, 1)),
        "if1": IF(v_threshold=thresholds[1], strict=True), "output": Output((CHANNELS, SIDE - 2, SIDE - 2)),
    }  # fmt: skip
    network, machine, arch = chain("block", nodes), Loihi(), LoihiArch(limits="warn")
    ours: dict[str, list[float]] = {"build": [], "simulate": [], "count": []}
    theirs: dict[str, list[float]] = {"build": [], "simulate": []}
    script = str(Path(__file__).with_name("loihi_dvs_sanafe.py"))
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/block.npz"
        arrays = {"thresholds": np.array(thresholds), "inputs": pixels.ravel().astype(float), "conv1": kernel}
        np.savez(file, in_shape=np.array([CHANNELS, SIDE, SIDE]), strides=np.array([1]), **arrays)
        for run in range(runs + 1):
            made: list[Workload] = []
            simulate = cpu_seconds(
                partial(lambda to: to.append(lower(network, emulate(network, pixels, BLOCK_STEPS))), made), 1
            )
            workload, mapping = made[0], placed(made[0], CORES)
            fresh = replace(arch, columns=8 + run)  # on another mesh nothing is known yet
            counting = partial(machine.count, workload, fresh, mapping, threads=1)
            build, count = cpu_seconds(counting, 1), cpu_seconds(counting, 1)
            command = [python, script, file, str(BLOCK_STEPS), ",".join(map(str, CORES))]
            said = subprocess.run(
                command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True, check=True
            )
            peer = json.loads(said.stdout.splitlines()[-1])
            report = evaluate(workload, arch, mapping=mapping, threads=1)
            events = sum(
                n for layer in report.layers for action, n in layer.counts.items() if action.endswith(".event")
            )
            if peer["spikes"] != events or abs(peer["energy"]["total"] / report.energy_j - 1) > 1e-9:
                sys.exit(f"SANA-FE found {peer}, we {events} events and {report.energy_j} J")
            if run:  # the first compiles
                for what, seconds in (("build", build[0] - count[0]), ("simulate", simulate[0]), ("count", count[0])):
                    ours[what].append(seconds)
                for what, seconds in peer["cpu_s"].items():
                    theirs[what].append(seconds)
    print(
        f"one convolution, {CHANNELS} channels on {SIDE} x {SIDE}, {BLOCK_STEPS} steps, {events:,} synapse events, beside SANA-FE; CPU, {runs} runs:"
    )
    for who, times in (("spikeloom", ours), ("SANA-FE", theirs)):
        print(f"  {who}: " + "; ".join(f"{what} {shown(each)}" for what, each in times.items()))
    ratios = [a / (b + c) for a, b, c in zip(theirs["simulate"], ours["simulate"], ours["count"], strict=True)]
    whole = [
        sum(a) / sum(b)
        for a, b in zip(zip(*theirs.values(), strict=True), zip(*ours.values(), strict=True), strict=True)
    ]
    for what, each in (("simulating and counting", ratios), ("with building", whole)):
        print(
            f"  {what}: SANA-FE takes {statistics.median(each):.0f} times as long ({min(each):.0f} to {max(each):.0f})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sanafe", metavar="PYTHON", help="the python of an environment with the wheel sanafe 2.2.9")
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    workload = drawn()
    median = report(workload)
    if real := prosperity(os.environ.get("SPIKELOOM_DATA", "")):
        report(real)
    else:
        print("the real trace: not there; set SPIKELOOM_DATA to the folder that holds traces/")
    times, events = emulated()
    each = 1e9 * statistics.median(times) / events
    print(
        f"emulating a VGG-16 of random integer weights: {shown(times)} an image, {events:,} synapse events, {each:.2f} ns an event"
    )
    forward = vgg16_seconds()
    print(
        f"forward pass of a VGG-16 of ours (torch, float32, T = {STEPS}, batch of 8): {1e3 * forward:.0f} ms CPU an image"
    )
    print(f"  counting is {100 * median / forward:.1f} % on top")
    if given.sanafe:
        beside_sanafe(given.sanafe, given.runs)


if __name__ == "__main__":
    main()
