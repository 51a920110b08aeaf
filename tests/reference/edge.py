"""Slow reference of the measured devices: every MAC, weight and value of a map counted in loops; shares nothing with the package."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from .spikex import LayerCase


@dataclass(frozen=True)
class Device:
    """Constants as decimals: microseconds, billions a second."""

    overhead_us: str
    link_gb_s: str
    macs_ghz: str
    weight_gb_s: str
    map_gb_s: str


def _up(seconds: Fraction) -> int:
    """Nanoseconds, a begun one whole."""
    whole = 0
    nanoseconds = seconds * 10**9
    whole = nanoseconds.numerator // nanoseconds.denominator
    return whole if whole == nanoseconds else whole + 1


def layer_counts(case: LayerCase, device: Device) -> dict[str, int]:
    """MACs and nanoseconds of the layer as a whole network, one inference."""
    channels, height, width = len(case.levels[0]), len(case.levels[0][0]), len(case.levels[0][0][0])
    group_in, group_out = channels // case.groups, case.out_channels // case.groups
    rows = range(0, height + 2 * case.padding[0] - (case.kernel[0] - 1) * case.dilation[0], case.stride[0])
    cols = range(0, width + 2 * case.padding[1] - (case.kernel[1] - 1) * case.dilation[1], case.stride[1])
    macs, stored, made = 0, set(), 0
    for k in range(case.out_channels):
        if case.has_bias:
            stored.add((k, "bias"))
        for _row in rows:
            for _col in cols:
                made += 1
                for c in range(group_in):
                    for r in range(case.kernel[0]):
                        for s in range(case.kernel[1]):
                            macs += 1
                            stored.add((k // group_out, k, c, r, s))
    read = 0
    for _c in range(channels):
        for _h in range(height):
            for _w in range(width):
                read += 1
    gigabyte = 10**9
    computing = macs / (Fraction(device.macs_ghz) * 10**9)
    moving = 2 * len(stored) / (Fraction(device.weight_gb_s) * gigabyte)
    moving += 2 * (read + made) / (Fraction(device.map_gb_s) * gigabyte)
    return {
        "mac": macs,
        "overhead": _up(Fraction(device.overhead_us) / 10**6),
        "transfer": _up(2 * (read + made) / (Fraction(device.link_gb_s) * gigabyte)),
        "run": _up(max(computing, moving)),
    }
