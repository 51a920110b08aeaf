"""Training speed and memory on a small VGG: Spikeloom beside snnTorch and SpikingJelly, one thread, CPU time.

    python -m benchmarks.training_speed [equal] [speed] [direct] [accuracy] [--steps 4,16] [--rounds 3] [--quick]

Network: conv 64, 64, pool, 128, 128, pool, 256, pool (3x3, average pools), fc 10, on 3 x 32 x 32; LIF ``v = v/2 + x`` with
threshold 1 and hard reset, ATan surrogate; cross-entropy of the mean output; AdamW; batches of 32. Everybody has the same weights,
batches, loss and optimiser. Parts, all unless some are named:

    equal     in float32 everybody has the same loss and the same gradients
    speed     one training step and the memory it needs, on frames that differ from step to step
    direct    the same on images that are the same at every step (direct coding), and an MLP 784-512-10
    accuracy  of a narrow version on the digits of scikit-learn after training, three seeds

Each figure of speed and memory comes from a process of its own with one thread, and each round goes through all contestants. Time is
CPU time of the process (``time.process_time``) of one step: forward, backward, update. Extra memory is the peak of the resident set
during the steps less what was resident after imports, model, optimiser and data; for Spikeloom about 60 MB of it are numba, which
loads kernels when they are first called. Contestants:

    snntorch             Leaky in a loop over time, as it comes: a reset one step late and out of the gradient, which is less work
    snntorch-at-once     the same with reset_delay=False, which computes what the others do
    spikingjelly-s       LIFNode step by step
    spikingjelly-m       LIFNode over all steps, torch backend, synapses on T*N frames
    ...-bf16             the same under torch's bfloat16 autocast and in channels-last order, set by hand
    spikeloom-fp32       channels-last, fused neurons
    spikeloom-bf16       what ``TrainConfig`` chooses where the processor multiplies bfloat16 faster
    spikeloom-...-copies the same, told nothing of inputs that are the same at every step

Needs Linux (/proc) and the frameworks (scripts/frameworks).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from spikeloom.core.network import Network, chain
from spikeloom.core.nodes import LI, LIF, AvgPool2d, Conv2d, Flatten, Input, Leak, Linear, Node, Output
from spikeloom.data import load
from spikeloom.snn.build import build
from spikeloom.snn.precision import autocast, has_fast_bf16, uses_channels_last

STAGES = ((64, 64), (128, 128), (256,))
CPU = torch.device("cpu")
BATCH = 32
FRAMEWORKS = ("snntorch", "spikingjelly-s", "spikingjelly-m")
OURS = ("spikeloom-fp32", "spikeloom-bf16")
BY_HAND = ("snntorch-bf16", "spikingjelly-m-bf16")
#: What is asked of the last row against the best framework as it comes: (times as fast, share of the extra memory).
GOALS: Mapping[int, tuple[float, float]] = {4: (1.8, 0.45), 16: (1.5, 0.33)}
SEEDS, EPOCHS, ACCURACY_STEPS, WIDTH = (0, 1, 2), 12, 4, 0.25

#: What a contestant makes of a batch: frames (T, N, C, H, W), or (N, C, H, W) when the same at every step, and T -> scores (N, K).
Scores = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True, eq=False)
class Contestant:
    """Something that learns: its weights in the order of the layers, and its scores."""

    weights: list[nn.Parameter]
    scores: Scores


# --- the networks --------------------------------------------------------------------------------------------------


def small_vgg(shape: tuple[int, int, int] = (3, 32, 32), width: float = 1.0, seed: int = 0) -> Network:
    """The network without biases, ``width`` a factor on all channels; weights are drawn such that a fifth of the neurons fires."""
    nodes: dict[str, Node] = {"input": Input(shape, "analog")}
    channels, side, number = shape[0], shape[1], 0
    for stage, widths in enumerate(STAGES, start=1):
        for plain in widths:
            number, wide = number + 1, round(plain * width)
            nodes[f"conv{number}"] = Conv2d(channels, wide, (3, 3), padding=(1, 1))
            nodes[f"neuron{number}"] = LIF(Leak(shift=1), 1.0, "hard")
            channels = wide
        nodes[f"pool{stage}"] = AvgPool2d((2, 2), (2, 2))
        side //= 2
    nodes |= {"flatten": Flatten(), "fc": Linear(channels * side * side, 10), "readout": LI(), "output": Output((10,))}
    module = build(chain("small-vgg", nodes), seed=seed)
    with torch.no_grad():
        for weight in module.parameters():
            if weight.dim() == 4:
                weight.mul_(2)  # a deep network without normalisation starts silent otherwise
    return module.to_network()


def mlp(seed: int = 0) -> Network:
    """784, 512, 10 with one hidden layer of neurons."""
    nodes: dict[str, Node] = {"input": Input((1, 28, 28), "analog"), "flatten": Flatten(), "fc1": Linear(784, 512)}
    nodes |= {
        "neuron1": LIF(Leak(shift=1), 1.0, "hard"),
        "fc2": Linear(512, 10),
        "readout": LI(),
        "output": Output((10,)),
    }
    return build(chain("mlp", nodes), seed=seed).to_network()


NETWORKS: Mapping[str, Callable[[], Network]] = {"vgg": small_vgg, "narrow": lambda: small_vgg(width=WIDTH), "mlp": mlp}


def spikeloom(network: Network, bf16: bool, copies: bool) -> Contestant:
    """Frames folded into the batch, an LI read-out whose last membrane is the sum over steps."""
    module = build(network).arranged(CPU, uses_channels_last(None, network))

    def scores(frames: Tensor, num_steps: int) -> Tensor:
        constant = frames.dim() == 4
        if constant and copies:
            constant, frames = False, frames.expand(num_steps, *frames.shape)
        with autocast(bf16, CPU):
            trajectory = module(frames if constant else frames.flatten(0, 1), num_steps, constant)
        return module.scores(trajectory) / num_steps

    return Contestant(list(module.parameters()), scores)


def snntorch(network: Network, bf16: bool, late: bool = True) -> Contestant:
    """A loop over time, states held by the neurons, as in its tutorials."""
    import snntorch as snn
    from snntorch import surrogate

    layers: list[nn.Module] = []
    for node in network.nodes.values():
        if isinstance(node, LIF):
            layers.append(
                snn.Leaky(
                    0.5, spike_grad=surrogate.atan(2.0), init_hidden=True, reset_mechanism="zero", reset_delay=late
                )
            )
        elif (layer := _plain(node)) is not None:
            layers.append(layer)
    net = _arranged(nn.Sequential(*layers), bf16)

    def scores(frames: Tensor, num_steps: int) -> Tensor:
        for layer in layers:
            if isinstance(layer, snn.Leaky):
                layer.reset_mem()
        with autocast(bf16, CPU):
            outputs = [net(frames if frames.dim() == 4 else frames[t]) for t in range(num_steps)]
            return torch.stack(outputs).float().mean(0)

    return Contestant(list(net.parameters()), scores)


def spikingjelly(network: Network, bf16: bool, multi: bool) -> Contestant:
    """Step by step, or all steps at once with synapses on T*N frames."""
    from spikingjelly.activation_based import functional, layer, neuron, surrogate

    layers: list[nn.Module] = []
    for node in network.nodes.values():
        if isinstance(node, LIF):
            lif = neuron.LIFNode(
                tau=2.0, decay_input=False, v_reset=0.0, surrogate_function=surrogate.ATan(), detach_reset=False,
                step_mode="m" if multi else "s",
            )  # fmt: skip
            layers.append(lif)
        elif (plain := _plain(node)) is not None:
            layers.append(layer.SeqToANNContainer(plain) if multi else plain)
    net = _arranged(nn.Sequential(*layers), bf16)

    def scores(frames: Tensor, num_steps: int) -> Tensor:
        functional.reset_net(net)
        with autocast(bf16, CPU):
            if multi:
                outputs_TN: Tensor = net(frames.expand(num_steps, *frames.shape) if frames.dim() == 4 else frames)
                return outputs_TN.float().mean(0)
            outputs = [net(frames if frames.dim() == 4 else frames[t]) for t in range(num_steps)]
            return torch.stack(outputs).float().mean(0)

    return Contestant(list(net.parameters()), scores)


def _plain(node: Node) -> nn.Module | None:
    """torch's module for a node without state; None for the ends and the read-out."""
    layer: nn.Conv2d | nn.Linear
    match node:
        case Conv2d():
            layer = nn.Conv2d(node.in_channels, node.out_channels, node.kernel, padding=node.padding, bias=False)
        case Linear():
            layer = nn.Linear(node.in_features, node.out_features, bias=False)
        case AvgPool2d():
            return nn.AvgPool2d(node.kernel, node.stride)
        case Flatten():
            return nn.Flatten()
        case _:
            return None
    assert node.weight is not None
    layer.weight.data = torch.from_numpy(node.weight.copy())
    return layer


def _arranged(net: nn.Module, channels_last: bool) -> nn.Module:
    return net.to(memory_format=torch.channels_last) if channels_last else net  # type: ignore[call-overload]


def contestant(name: str, network: Network) -> Contestant:
    """The contestant of that name with the weights of ``network``."""
    bf16 = "-bf16" in name
    match name.removesuffix("-copies").removesuffix("-bf16").removesuffix("-fp32"):
        case "spikeloom":
            return spikeloom(network, bf16, name.endswith("-copies"))
        case "snntorch":
            return snntorch(network, bf16)
        case "snntorch-at-once":
            return snntorch(network, bf16, late=False)
        case "spikingjelly-s" | "spikingjelly-m" as kind:
            return spikingjelly(network, bf16, kind.endswith("m"))
    raise ValueError(f"no contestant '{name}'")


# --- figures, each in a process of its own -------------------------------------------------------------------------


def training_step(
    model: Contestant, optimiser: torch.optim.Optimizer, frames: Tensor, num_steps: int, labels: Tensor
) -> float:
    """Forward, backward, update; the loss."""
    loss = F.cross_entropy(model.scores(frames, num_steps), labels)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    return float(loss.detach())


def drawn_batch(network: Network, num_steps: int, batch: int, direct: bool) -> tuple[Tensor, Tensor]:
    """Random images (N, C, H, W), or Bernoulli spikes (T, N, C, H, W) of rate 0.25, and labels."""
    generator = torch.Generator().manual_seed(1)
    node = network.nodes["input"]
    assert isinstance(node, Input)
    labels = torch.randint(10, (batch,), generator=generator)
    if direct:
        return torch.rand(batch, *node.shape, generator=generator), labels
    return (torch.rand(num_steps, batch, *node.shape, generator=generator) < 0.25).float(), labels


def step_figures(name: str, net: str, num_steps: int, batch: int, direct: bool, repeats: int) -> dict[str, Any]:
    """Median CPU seconds of ``repeats`` training steps after a warm one, and the extra memory in MB."""
    network = NETWORKS[net]()
    model = contestant(name, network)
    optimiser = torch.optim.AdamW(model.weights, lr=1e-3)
    frames, labels = drawn_batch(network, num_steps, batch, direct)
    resident = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak that the imports reached
    training_step(model, optimiser, frames, num_steps, labels)
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        training_step(model, optimiser, frames, num_steps, labels)
        seconds.append(time.process_time() - start)
    return {"seconds": statistics.median(seconds), "extra_mb": _status("VmHWM") - resident}


def gradients(name: str, batch: int) -> dict[str, Any]:
    """Loss and gradients of one batch on the narrow network, flattened one after the other."""
    network = NETWORKS["narrow"]()
    model = contestant(name, network)
    frames, labels = drawn_batch(network, 4, batch, False)
    loss = F.cross_entropy(model.scores(frames, 4), labels)
    grads = torch.autograd.grad(loss, model.weights)
    return {"loss": float(loss.detach()), "gradients": torch.cat([grad.flatten() for grad in grads]).tolist()}


def accuracy(name: str, seed: int, epochs: int) -> dict[str, Any]:
    """Fraction of the digits' test set that is right after training."""
    train, test = load("digits", "train"), load("digits", "test")
    model = contestant(name, small_vgg((1, 8, 8), WIDTH, seed))
    optimiser = torch.optim.AdamW(model.weights, lr=5e-3)
    updates = -(-len(train) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * updates)
    generator = np.random.default_rng(seed)
    for _ in range(epochs):
        order = generator.permutation(len(train))
        for start in range(0, len(order), BATCH):
            indices = order[start : start + BATCH]
            images, labels = torch.from_numpy(train.batch(indices)) / 255, torch.from_numpy(train.labels[indices])
            training_step(model, optimiser, images, ACCURACY_STEPS, labels)
            schedule.step()
    with torch.no_grad():
        scores = model.scores(torch.from_numpy(test.batch(np.arange(len(test)))) / 255, ACCURACY_STEPS)
    return {"accuracy": float(np.mean(scores.argmax(1).numpy() == test.labels))}


def _status(key: str) -> float:
    """A figure of /proc/self/status in MB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


FIGURES: Mapping[str, Callable[..., dict[str, Any]]] = {
    "step": step_figures,
    "gradients": gradients,
    "accuracy": accuracy,
}


def measured(figure: str, **options: Any) -> dict[str, Any]:
    """A figure of `FIGURES` from a new process with one thread."""
    single = {key: "1" for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")}
    command = [sys.executable, "-m", "benchmarks.training_speed", "--figure", figure, json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **single})
    if done.returncode:
        sys.exit(f"{figure} of {options} failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


# --- the parts -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Effort:
    """How much is measured. net, batch: of the speed part. repeats: updates that a process is measured for."""

    steps: Sequence[int]
    rounds: int
    net: str = "vgg"
    batch: int = BATCH
    repeats: int = 3
    seeds: Sequence[int] = SEEDS
    epochs: int = EPOCHS


def show_equal(effort: Effort, console: Console) -> None:
    """Losses and gradients side by side; ends the benchmark if they are not the same."""
    table = Table("", "loss", "gradients differ by", title="One batch of the narrow network, T = 4, float32")
    ours = measured("gradients", name="spikeloom-fp32", batch=8)
    expected = np.array(ours["gradients"])
    table.add_row("spikeloom-fp32", f"{ours['loss']:.6f}", "")
    for name in ("snntorch-at-once", *FRAMEWORKS[1:]):
        theirs = measured("gradients", name=name, batch=8)
        apart = float(np.linalg.norm(np.array(theirs["gradients"]) - expected) / np.linalg.norm(expected))
        table.add_row(name, f"{theirs['loss']:.6f}", f"{apart:.1e} of their length")
        # one spike of many that rounding tips the other way is 0.1 %
        if abs(theirs["loss"] - ours["loss"]) > 1e-3 or apart > 1e-2:
            sys.exit(
                f"{name} computes something else: loss {theirs['loss']}, ours {ours['loss']}, gradients {apart} apart"
            )
    console.print(table)


@dataclass(frozen=True)
class Row:
    """What the rounds of one contestant came to."""

    seconds: Sequence[float]
    extra_mb: Sequence[float]

    @property
    def time(self) -> float:
        return statistics.median(self.seconds)

    @property
    def memory(self) -> float:
        return statistics.median(self.extra_mb)


def rows_of(names: Sequence[str], rounds: int, **options: Any) -> dict[str, Row]:
    """Rounds through all contestants in turn, so that what else the machine does meets everybody."""
    found = [{name: measured("step", name=name, **options) for name in names} for _ in range(rounds)]
    return {name: Row([f[name]["seconds"] for f in found], [f[name]["extra_mb"] for f in found]) for name in names}


def show_steps(title: str, rows: Mapping[str, Row], console: Console) -> tuple[float, float]:
    """A table of contestants; how the last compares with the best framework as it comes: (times as fast, share of memory)."""
    fastest = min((name for name in FRAMEWORKS if name in rows), key=lambda name: rows[name].time)
    leanest = min((name for name in FRAMEWORKS if name in rows), key=lambda name: rows[name].memory)
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    for heading in ("ms a step", "least..most", "speed", "extra MB", "share"):
        table.add_column(heading, justify="right")
    for name, row in rows.items():
        table.add_row(
            name, _ms(row.time), f"{_ms(min(row.seconds))}..{_ms(max(row.seconds))}",
            f"{rows[fastest].time / row.time:.2f}", f"{row.memory:.0f}", f"{row.memory / rows[leanest].memory:.2f}",
        )  # fmt: skip
    console.print(table)
    last = list(rows)[-1]
    by_round = [theirs / ours for theirs, ours in zip(rows[fastest].seconds, rows[last].seconds, strict=True)]
    speed, memory = rows[fastest].time / rows[last].time, rows[last].memory / rows[leanest].memory
    console.print(
        f"{last}: {speed:.2f} times as fast as {fastest} ({min(by_round):.2f} to {max(by_round):.2f} by round), "
        f"{memory:.2f} of the extra memory of {leanest}"
    )
    return speed, memory


def _ms(seconds: float) -> str:
    """Milliseconds with at least three digits."""
    return f"{1e3 * seconds:.{0 if seconds >= 0.1 else 2}f}"


def show_speed(effort: Effort, console: Console) -> None:
    for num_steps in effort.steps:
        names = (*FRAMEWORKS, *BY_HAND, *OURS)
        rows = rows_of(
            names,
            effort.rounds,
            net=effort.net,
            num_steps=num_steps,
            batch=effort.batch,
            direct=False,
            repeats=effort.repeats,
        )
        speed, memory = show_steps(f"Small VGG, T = {num_steps}, batch {effort.batch}", rows, console)
        if num_steps in GOALS and effort.net == "vgg":
            fast, lean = GOALS[num_steps]
            met = speed >= fast and memory <= lean
            console.print(f"asked: at least {fast} times and at most {lean}: {'met' if met else 'MISSED'}")


def show_direct(effort: Effort, console: Console) -> None:
    for num_steps in effort.steps:
        options = {"num_steps": num_steps, "batch": effort.batch, "direct": True}
        names = (*FRAMEWORKS, "spikeloom-bf16-copies", "spikeloom-bf16")
        rows = rows_of(names, effort.rounds, net=effort.net, repeats=effort.repeats, **options)
        show_steps(f"Small VGG, the same image at every step, T = {num_steps}", rows, console)
        names = (*FRAMEWORKS, "spikeloom-fp32-copies", "spikeloom-fp32")
        rows = rows_of(names, effort.rounds, net="mlp", repeats=20 * effort.repeats, **options)
        show_steps(f"MLP 784-512-10, the same image at every step, T = {num_steps}", rows, console)


def show_accuracy(effort: Effort, console: Console) -> None:
    table = Table("", *(f"seed {seed}" for seed in effort.seeds), "mean", "least..most")
    table.title = f"Per cent right of the digits' test set, narrow VGG, T = {ACCURACY_STEPS}, {effort.epochs} epochs"
    for name in ("snntorch-at-once", "spikingjelly-m", *OURS):
        right = [
            100 * measured("accuracy", name=name, seed=seed, epochs=effort.epochs)["accuracy"] for seed in effort.seeds
        ]
        spread = f"{min(right):.1f}..{max(right):.1f}"
        table.add_row(name, *(f"{value:.1f}" for value in right), f"{statistics.mean(right):.2f}", spread)
    console.print(table)


PARTS: Mapping[str, Callable[[Effort, Console], None]] = {
    "equal": show_equal,
    "speed": show_speed,
    "direct": show_direct,
    "accuracy": show_accuracy,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all unless some are named")
    parser.add_argument("--steps", default="4,16", help="T, one or more")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a tiny network, to see that everything runs")
    parser.add_argument("--figure", nargs=2, metavar=("FIGURE", "OPTIONS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.figure is not None:
        torch.set_num_threads(1)
        print(json.dumps(FIGURES[options.figure[0]](**json.loads(options.figure[1]))))
        return
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        parser.error(f"no part {', '.join(unknown)}; expected some of {', '.join(PARTS)}")
    effort = Effort([int(number) for number in options.steps.split(",")], options.rounds)
    if options.quick:
        effort = Effort([2], 1, net="narrow", batch=4, repeats=1, seeds=(0,), epochs=1)
    console = Console()
    console.print(f"this processor multiplies bfloat16 faster than float32: {'yes' if has_fast_bf16(CPU) else 'no'}")
    for part in options.parts or PARTS:
        PARTS[part](effort, console)


if __name__ == "__main__":
    main()
