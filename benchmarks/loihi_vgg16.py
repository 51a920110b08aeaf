"""Speed of counting a VGG-16 on the many-core machine: one thread, CPU time, per image and per synapse event.

    [SPIKELOOM_DATA=...] python -m benchmarks.loihi_vgg16

Two networks of VGG-16 size (CIFAR-10, T = 4), on `loihi` with as many chips as they need and limits = "warn" (a 3x3 convolution of 512
channels has 4,608 sources a neuron and fits no core):

- drawn: 13 convolutions with average pools, one linear layer, spikes drawn at 15 % in the first layer down to 10 % in the last;
- prosperity: the real spikes of the Prosperity artifact (MIT). It keeps what arrived behind each pool, so the five pooled convolutions run
  with a stride of 2 here: one chain in which every recorded spike is one that a neuron sent.

Counting is `Loihi.count` of spikes that are packed already; what depends on the placement alone (fans and tables) is built once and timed
apart. The synapse events are checked against the closed form of each layer. Neurons updated: as recorded (drawn at random here), and without a record, found from what arrives. Memory is the peak of NumPy's allocations in a
first count, the building included. The forward pass is our own of the same size: the float network in torch, and an integer one that `emulate` runs event by event.
"""

from __future__ import annotations

import os
import statistics
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.timing import cpu_seconds, forward_seconds
from spikeloom.core.network import chain
from spikeloom.core.nodes import IF, Conv2d, Flatten, Input, Linear, Node, Output, SumPool2d
from spikeloom.core.trace import Spikes
from spikeloom.core.workload import Layer, NeuronRule, Workload
from spikeloom.emulate import emulate
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
#: CPU nanoseconds a synapse event of SANA-FE 2.2.9 (`simple` timing, one thread), the least and the most that was measured: 600 x 600
#: neurons all to all on the machine of docs/benchmarks.md, and the DVS-gesture network on an older one.
SANAFE_NS = (38.0, 146.0)


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
        ratios = " to ".join(f"{sanafe / each:,.0f}" for sanafe in SANAFE_NS)
        print(f"  count an image, {what}: {shown(times)}; {each:.4f} ns an event, SANA-FE's {ratios} times")
        median = median or statistics.median(times)
    built, peak = building(workload)
    print(f"  built once for a placement (fans, tables, limits): {shown(built)}")
    print(
        f"  most memory of building and a count: {peak / 1e6:.1f} MB, {peak / synapses(workload):.3f} bytes a synapse"
    )
    return median


def main() -> None:
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


if __name__ == "__main__":
    main()
