"""What conversion must not change: one small torch module for each case, converted by Spikeloom and by SpikingJelly's ann2snn.

    python -m benchmarks.preservation [--steps 256] [--images 64]

Weights, biases and normalisation statistics are drawn with a fixed seed, images too. Both converters see the same calibration images
and run the same T on the same other images. Shown is the root mean square error of the mean output over T, in percent of the ANN's
root mean square output, and how many of the activations became spiking neurons: a ReLU that is left as it is has no error, but
the network is no SNN then.

Spikeloom: `import_module`, then `convert` as it comes (one threshold for each channel, by least squared error), no calibration.
SpikingJelly 2.0.0: ``Converter(RateCodingRecipe(images))``, all as it comes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from spikeloom.core.network import Network
from spikeloom.core.nodes import IF, BatchNorm, ClippedReLU, ReLU
from spikeloom.errors import NetworkError
from spikeloom.snn.execute import Execution, runnable
from spikeloom.snn.importers import import_module
from spikeloom.transform.convert import Conversion, convert

IN_SHAPE = (3, 8, 8)
#: Images that both are calibrated on: what ``spikeloom convert`` takes unless it is told otherwise.
CALIBRATION = 256
STEPS, IMAGES = 256, 64
#: Above this, in percent, the output is called wrong.
WRONG = 3.0


class Net(nn.Module):
    """Layers and what is done with them."""

    def __init__(self, steps: Callable[[Any, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.steps = steps
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.steps(self, x)


def conv(channels: int = 3, out: int = 6, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 3, padding=1, **options)


def head(channels: int = 6, side: int = 8) -> list[nn.Module]:
    return [nn.Flatten(), nn.Linear(channels * side * side, 10)]


def with_activation(activation: Callable[[Tensor], Tensor]) -> nn.Module:
    """Two convolutions with an activation behind each that is no module."""
    return Net(
        lambda net, x: net.head(activation(net.conv2(activation(net.conv1(x))))),
        conv1=conv(), conv2=conv(6), head=nn.Sequential(*head()),
    )  # fmt: skip


def stretched(module: nn.Module, factor: float = 8.0) -> nn.Module:
    """Its first convolution ``factor`` times as strong, so that ceilings are reached."""
    first = next(layer for layer in module.modules() if isinstance(layer, nn.Conv2d))
    with torch.no_grad():
        first.weight *= factor
    return module


def residual(projection: bool) -> nn.Module:
    """A post-activation block behind a stem."""
    layers: dict[str, nn.Module] = {
        "stem": nn.Sequential(conv(), nn.BatchNorm2d(6), nn.ReLU()),
        "conv1": conv(6, 6, stride=2 if projection else 1), "norm1": nn.BatchNorm2d(6), "relu1": nn.ReLU(),
        "conv2": conv(6), "norm2": nn.BatchNorm2d(6), "relu2": nn.ReLU(),
        "down": nn.Sequential(nn.Conv2d(6, 6, 1, 2), nn.BatchNorm2d(6)) if projection else nn.Identity(),
        "head": nn.Sequential(*head(6, 4 if projection else 8)),
    }  # fmt: skip

    def steps(net: Any, x: Tensor) -> Tensor:
        x = net.stem(x)
        out = net.norm2(net.conv2(net.relu1(net.norm1(net.conv1(x)))))
        found: Tensor = net.head(net.relu2(out + net.down(x)))
        return found

    return Net(steps, **layers)


def reused() -> nn.Module:
    """One ReLU module behind both convolutions, as in torchvision's blocks."""
    return Net(
        lambda net, x: net.head(net.relu(net.conv2(net.relu(net.conv1(x))))),
        conv1=conv(), conv2=conv(6), relu=nn.ReLU(), head=nn.Sequential(*head()),
    )  # fmt: skip


@dataclass(frozen=True)
class Case:
    """make: the module. activations: how many neurons it must have. refused: what Spikeloom says instead of converting it."""

    make: Callable[[], nn.Module]
    activations: int
    refused: str | None = None


CASES: dict[str, Case] = {
    "Conv-BN": Case(lambda: nn.Sequential(conv(), nn.BatchNorm2d(6), nn.ReLU(), *head()), 1),
    "BN-Conv, padded": Case(lambda: nn.Sequential(conv(), nn.ReLU(), nn.BatchNorm2d(6), conv(6), nn.ReLU(), *head()), 2),
    "BN on the input": Case(lambda: nn.Sequential(nn.BatchNorm2d(3), conv(), nn.ReLU(), *head()), 1),
    "Linear-BN": Case(lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 30), nn.BatchNorm1d(30), nn.ReLU(), nn.Linear(30, 10)), 1),
    "BN-Linear": Case(lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 30), nn.ReLU(), nn.BatchNorm1d(30), nn.Linear(30, 10)), 1),
    "residual add, identity": Case(lambda: residual(False), 3),
    "residual add, projection": Case(lambda: residual(True), 3),
    "average pooling": Case(lambda: nn.Sequential(conv(), nn.ReLU(), nn.AvgPool2d(2), conv(6), nn.ReLU(), nn.AvgPool2d(4), *head(6, 1)), 2),
    "strided convolution": Case(lambda: nn.Sequential(conv(3, 6, stride=2), nn.ReLU(), conv(6, 6, stride=2), nn.ReLU(), *head(6, 2)), 2),
    "nn.ReLU": Case(lambda: nn.Sequential(conv(), nn.ReLU(), conv(6), nn.ReLU(), *head()), 2),
    "nn.ReLU, one for two": Case(reused, 2),
    "F.relu": Case(lambda: with_activation(F.relu), 2),
    "torch.relu": Case(lambda: with_activation(torch.relu), 2),
    "Tensor.relu": Case(lambda: with_activation(lambda x: x.relu()), 2),
    "nn.ReLU6": Case(lambda: stretched(nn.Sequential(conv(), nn.ReLU6(), conv(6), nn.ReLU6(), *head()), 20), 2),
    "nn.Hardtanh(0, 1)": Case(lambda: stretched(nn.Sequential(conv(), nn.Hardtanh(0, 1), conv(6), nn.Hardtanh(0, 1), *head())), 2),
    "max pooling": Case(
        lambda: nn.Sequential(conv(), nn.ReLU(), nn.MaxPool2d(2), conv(6), nn.ReLU(), *head(6, 4)), 2, "has no exact counterpart on spikes"
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """error_percent: of the mean output, None where there is none. spiking: activations that became neurons. norms: normalisation layers
    that are left. said: a refusal."""

    error_percent: float | None
    spiking: int
    norms: int
    said: str = ""

    def verdict(self, case: Case) -> str:
        """In a word or two."""
        if self.error_percent is None:
            return "refused"
        found = []
        if self.spiking < case.activations:
            found.append("skipped silently")
        if self.error_percent > WRONG:
            found.append("wrong")
        if self.norms:
            found.append("norm left")
        return ", ".join(found) or "ok"


@dataclass(frozen=True, eq=False)
class Pixels:
    """Images without labels, as a source of samples."""

    samples: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        return np.zeros(len(self.samples), np.int64)

    def __len__(self) -> int:
        return len(self.samples)

    def batch(self, indices: np.ndarray) -> np.ndarray:
        found: np.ndarray = self.samples[indices]
        return found


def images(number: int, seed: int) -> Pixels:
    return Pixels(np.random.default_rng(seed).integers(0, 256, (number, *IN_SHAPE)).astype(np.uint8))


def shown(source: Pixels) -> Tensor:
    return torch.from_numpy(source.samples).float() / 255


def drawn(name: str) -> nn.Module:
    """The module of case ``name`` with weights, biases and statistics of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(sorted(CASES).index(name))
        module = CASES[name].make()
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                with torch.no_grad():
                    layer.weight.uniform_(0.5, 1.5)
                    layer.bias.normal_(0, 0.3)
                    layer.running_mean.normal_(0, 0.3)  # type: ignore[union-attr]
                    layer.running_var.uniform_(0.3, 2)  # type: ignore[union-attr]
    return module.eval()


def relative(found: Tensor, expected: Tensor) -> float:
    return 100 * float(((found - expected).square().mean() / expected.square().mean()).sqrt())


def ours(name: str, num_steps: int = STEPS, number: int = IMAGES) -> tuple[Outcome, Network | None]:
    """Case ``name`` by Spikeloom, and the SNN."""
    module, x = drawn(name), shown(images(number, 1))
    network = import_module(module, IN_SHAPE, encoding="analog")
    try:
        snn = convert(network, images(CALIBRATION, 0), Execution(num_steps), Conversion(num_steps=num_steps)).network
    except NetworkError as error:
        return Outcome(None, 0, 0, str(error)), None
    with torch.no_grad():
        found = runnable(snn)(x, num_steps, True)[-1] / num_steps
        error_percent = relative(found, module(x))
    nodes = list(snn.nodes.values())
    left = sum(isinstance(node, ReLU | ClippedReLU) for node in nodes)
    spiking = sum(isinstance(node, IF) for node in nodes) if not left else 0
    return Outcome(error_percent, spiking, sum(isinstance(node, BatchNorm) for node in nodes)), snn


def theirs(name: str, num_steps: int = STEPS, number: int = IMAGES) -> Outcome:
    """Case ``name`` by SpikingJelly."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):  # it shows bars and logs
        warnings.simplefilter("ignore")
        from spikingjelly.activation_based import ann2snn, functional, neuron

        module, x = drawn(name), shown(images(number, 1))
        with torch.no_grad():
            expected = module(x)
        recipe = ann2snn.RateCodingRecipe(dataloader=[shown(images(CALIBRATION, 0))])
        try:
            snn: Any = ann2snn.Converter(recipe=recipe, device="cpu").convert(module).eval()
        except ValueError as error:
            return Outcome(None, 0, 0, str(error))
        functional.reset_net(snn)
        with torch.no_grad():
            found = torch.stack([snn(x) for _ in range(num_steps)]).mean(0)
    layers = list(snn.modules())
    return Outcome(
        relative(found, expected),
        sum(isinstance(layer, neuron.BaseNode) for layer in layers),
        sum(isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) for layer in layers),
    )


def told(outcome: Outcome, case: Case) -> tuple[str, str, str]:
    """(error, neurons, verdict) for the table."""
    error = "-" if outcome.error_percent is None else f"{outcome.error_percent:.2f} %"
    neurons = "-" if outcome.error_percent is None else f"{outcome.spiking} of {case.activations}"
    return error, neurons, outcome.verdict(case)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=STEPS, help=f"T [{STEPS}]")
    parser.add_argument("--images", type=int, default=IMAGES, help=f"to measure on [{IMAGES}]")
    options = parser.parse_args()
    table = Table(
        title=f"Function preservation, T = {options.steps}, {options.images} random images, {CALIBRATION} others to calibrate"
    )
    for heading in ("case", "Spikeloom", "neurons", "", "SpikingJelly", "neurons", ""):
        table.add_column(heading, no_wrap=True)
    for name, case in CASES.items():
        mine = told(ours(name, options.steps, options.images)[0], case)
        try:
            other = told(theirs(name, options.steps, options.images), case)
        except ModuleNotFoundError as error:
            print(f"SpikingJelly is left out: {error}; scripts/frameworks installs it", file=sys.stderr)
            other = ("-", "-", "not installed")
        table.add_row(name, *mine, *other)
    Console(width=110, highlight=False).print(table)


if __name__ == "__main__":
    main()
