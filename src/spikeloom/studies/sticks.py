"""Calibration of the machine `edge`: its constants from the measurements in ``published/edge.json``, nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spikeloom.studies.agreement import published

#: Copies of the scaled network from which the constants of `ncs` are fitted; the others are predicted.
FITTED = (0, 4, 10)
#: Bytes of a value, a weight, a bias.
FP16_BYTES = 2
#: Passes of the two fits, each of which needs a little of the other; they settle to 12 digits in six.
PASSES = 8


@dataclass(frozen=True)
class Work:
    """What a layer, or a whole network, does in one pass: MACs, weights with biases, values of maps read and written."""

    macs: int
    weights: int
    map_values: int


@dataclass(frozen=True)
class Run:
    """One measured network: its layers, values over the link, seconds an inference."""

    layers: tuple[Work, ...]
    link_values: int
    seconds: float

    @property
    def total(self) -> Work:
        """Sums over the layers."""
        rows = np.array([(x.macs, x.weights, x.map_values) for x in self.layers], dtype=np.int64).sum(axis=0)
        return Work(*map(int, rows))


@dataclass(frozen=True)
class Constants:
    """Constants of one device in SI: s, byte/s, MAC/s, W. wait_w, run_w: above idle, outside and inside the layers."""

    overhead_s: float
    link: float
    macs: float
    weight_bandwidth: float
    map_bandwidth: float
    idle_w: float
    wait_w: float
    run_w: float

    def run_seconds(self, layers: Sequence[Work]) -> float:
        """Sum over layers of the roofline."""
        moving = (FP16_BYTES * (x.weights / self.weight_bandwidth + x.map_values / self.map_bandwidth) for x in layers)
        return sum(max(x.macs / self.macs, bytes_) for x, bytes_ in zip(layers, moving, strict=True))

    def seconds(self, run: Run) -> float:
        """Time of an inference."""
        return self.overhead_s + FP16_BYTES * run.link_values / self.link + self.run_seconds(run.layers)

    def power(self, run: Run) -> float:
        """Mean watts while it runs one inference after another."""
        share = self.run_seconds(run.layers) / self.seconds(run)
        return self.idle_w + self.wait_w * (1 - share) + self.run_w * share


def linear(inputs: int, outputs: int) -> Work:
    """A fully connected layer with biases."""
    return Work(inputs * outputs, (inputs + 1) * outputs, inputs + outputs)


def scaled_layers(copies: int) -> tuple[Work, ...]:
    """The keyword network with ``copies`` stacks of ten layers between its first two; 0: the network itself."""
    stack = (linear(256, 256),) * (10 * copies)
    return (linear(390, 256), *stack, linear(256 * max(copies, 1), 256), linear(256, 29))


def prg_layers(size: int, channels: int, filters: Sequence[int]) -> tuple[Work, ...]:
    """The network of prg: per block 3x3, 3x3, 1x1 on the shortcut if channels change, sum, pool; then transposed; then 3x3."""
    found: list[Work] = []

    def conv(inputs: int, outputs: int, kernel: int, side: int, stride: int = 1) -> None:
        """``stride`` > 1: transposed, every input value meets the whole kernel."""
        taps = inputs * outputs * kernel**2
        maps = inputs * side**2 + outputs * (stride * side) ** 2
        found.append(Work(taps * side**2, taps + outputs, maps))

    for width in filters:
        conv(channels, width, 3, size)
        conv(width, width, 3, size)
        if channels != width:
            conv(channels, width, 1, size)
        found.append(Work(0, 0, 3 * width * size**2))
        found.append(Work(0, 0, width * (size**2 + (size // 2) ** 2)))
        channels, size = width, size // 2
    for width in reversed(filters):
        conv(channels, width, 3, size, stride=2)
        channels, size = width, 2 * size
        conv(channels, channels, 3, size)
    conv(channels, 4, 3, size)
    return tuple(found)


def keyword_run(device: str) -> Run:
    """The keyword network on a device."""
    said = published("edge.json")["keyword"][device]
    return Run(scaled_layers(0), 390 + 29, said["seconds"] / said["inferences"])


def scaled_runs() -> dict[int, Run]:
    """The scaled network on `ncs`, by copies."""
    return {
        row["copies"]: Run(scaled_layers(row["copies"]), 390 + 29, row["seconds"] / row["inferences"])
        for row in published("edge.json")["scaled_ncs"]
    }


def prg_runs() -> list[tuple[dict[str, Any], Run]]:
    """Rows of prg with what they are runs of; their input and four maps of output cross the link."""
    rows = published("edge.json")["prg_ncs2"]
    return [
        (
            row,
            Run(
                prg_layers(row["size"], row["channels"], row["filters"]),
                (row["channels"] + 4) * row["size"] ** 2,
                1 / row["fps"],
            ),
        )
        for row in rows
    ]


def calibrate() -> dict[str, Constants]:
    """Constants of `ncs2` and `ncs` by least squares of relative errors.

    ncs2: link and map bandwidth from the ten rows of prg; the overhead is what is left of the keyword network, which is so
    met exactly. Weight bandwidth is that of ncs (assumed).
    ncs: overhead and weight bandwidth from `FITTED`; link from USB 2 against USB 3 with MobileNet SSD; map bandwidth that of
    ncs2 over the ratio of the two sticks there (assumed: no convolution of known size was measured).
    The MAC rates are the vendor's peaks: no measured network is bound by them.
    """
    said = published("edge.json")
    peak = {device: operations / 2 for device, operations in said["peak_ops"].items()}  # a MAC is two
    ssd = said["ssd_ms"]
    ratio = float(np.prod([a / b for a, b in zip(ssd["ncs"]["usb3"], ssd["ncs2"]["usb3"], strict=True)]) ** 0.5)
    saved = [a - b for a, b in zip(ssd["ncs"]["usb2"], ssd["ncs"]["usb3"], strict=True)]
    ncs_link = FP16_BYTES * ssd["image_values"] / (1e-3 * sum(saved) / len(saved))
    weights, maps, link, overhead, ncs_overhead = 1e9, 1e9, 1e9, 0.0, 0.0
    for _ in range(PASSES):
        maps, link, overhead = _fit_ncs2(weights)
        weights, ncs_overhead = _fit_ncs(maps / ratio, ncs_link)
    power = said["keyword"]["ncs2"]
    above = power["running_w"] - power["idle_w"]
    ncs2 = Constants(overhead, link, peak["ncs2"], weights, maps, power["idle_w"], above, above)
    idle = said["keyword"]["ncs"]["idle_w"]
    ncs = Constants(ncs_overhead, ncs_link, peak["ncs"], weights, maps / ratio, idle, 0.0, 0.0)
    wait, run = _fit_power(ncs)
    return {"ncs2": ncs2, "ncs": Constants(*(*_times(ncs), idle, wait, run))}


def _times(found: Constants) -> tuple[float, float, float, float, float]:
    return (found.overhead_s, found.link, found.macs, found.weight_bandwidth, found.map_bandwidth)


def _fit_ncs2(weight_bandwidth: float) -> tuple[float, float, float]:
    """(map bandwidth, link, overhead): two unknown slopes against the keyword network, whose time is met exactly."""
    base = keyword_run("ncs2")
    runs = [run for _, run in prg_runs()]
    seconds = np.array([run.seconds for run in runs])
    more = FP16_BYTES * np.array([(run.total.map_values - base.total.map_values, run.link_values - base.link_values) for run in runs])  # fmt: skip
    weights = FP16_BYTES * np.array([run.total.weights - base.total.weights for run in runs]) / weight_bandwidth
    target = seconds - base.seconds - weights
    per_map, per_link = np.linalg.lstsq(more / seconds[:, None], target / seconds, rcond=None)[0]
    used = (
        base.total.weights / weight_bandwidth + base.total.map_values * per_map + base.link_values * per_link
    ) * FP16_BYTES
    return float(1 / per_map), float(1 / per_link), float(base.seconds - used)


def _fit_ncs(map_bandwidth: float, link: float) -> tuple[float, float]:
    """(weight bandwidth, overhead) from the fitted copies."""
    runs = [scaled_runs()[copies] for copies in FITTED]
    seconds = np.array([run.seconds for run in runs])
    known = FP16_BYTES * np.array([run.total.map_values / map_bandwidth + run.link_values / link for run in runs])
    columns = np.array([(FP16_BYTES * run.total.weights, 1.0) for run in runs])
    per_weight, overhead = np.linalg.lstsq(columns / seconds[:, None], (seconds - known) / seconds, rcond=None)[0]
    return float(1 / per_weight), float(overhead)


def _fit_power(found: Constants) -> tuple[float, float]:
    """Watts above idle outside and inside the layers, from the fitted copies."""
    rows = {row["copies"]: row["running_w"] for row in published("edge.json")["scaled_ncs"]}
    shares = [found.run_seconds(run.layers) / found.seconds(run) for run in (scaled_runs()[c] for c in FITTED)]
    watts = np.array([rows[copies] - found.idle_w for copies in FITTED])
    columns = np.array([(1 - share, share) for share in shares])
    wait, run = np.linalg.lstsq(columns / watts[:, None], np.ones(len(FITTED)), rcond=None)[0]
    return float(wait), float(run)
