"""Time of VGG-9's layers read through ADCs, against torch's dense float32 layers and a plain tensor version.

    python -m benchmarks.crossbar_forward [THREADS]

Every layer of VGG-9 at 32x32 on crossbars of 64 rows, spikes at a tenth of the inputs or levels 1..3 at all of them, 4-bit weights as
three magnitude slices, read either as
the signed difference of a pair (one conversion per bit slice) or each sign by its own converter (two). Times are process CPU
time, least of repeats, all in this process with the same threads; the table is made three times, and what is shown are medians, with the least
and the most for the whole network. Ratios are per bit slice, to torch's conv2d or linear of the layer (the
faster of its two memory layouts). The plain version does the same with tensor operations; its results are compared.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from spikeloom.transform.adc import Adc, adc_conv2d, laid_out

ROWS = 64
ROUNDS = 3
SLICES = (1.0, 2.0, 4.0)
#: name, samples, C, size, K, kernel: samples fill about as much work in every layer.
LAYERS = (
    ("conv0", 8, 3, 32, 64, 3),
    ("conv1", 8, 64, 32, 64, 3),
    ("conv2", 16, 64, 16, 128, 3),
    ("conv3", 16, 128, 16, 128, 3),
    ("conv4", 32, 128, 8, 256, 3),
    ("conv5", 32, 256, 8, 256, 3),
    ("fc0", 256, 4096, 1, 1024, 1),
    ("fc1", 256, 1024, 1, 1024, 1),
    ("fc2", 256, 1024, 1, 10, 1),
)


def plain(x: Tensor, weights: Tensor, factors: tuple[float, ...], adc: Adc, padding: int) -> Tensor:
    """One convolution, clamp, rounding and sum per slice and crossbar, all tensor operations."""
    R, S = weights.shape[3:]
    padded = functional.pad(x, (padding,) * 4)
    P, Q = padded.shape[2] - R + 1, padded.shape[3] - S + 1
    out: Tensor | float = 0.0
    for factor, weight in zip(factors, weights, strict=True):
        for r in range(R):
            for s in range(S):
                for first in range(0, x.shape[1], ROWS):
                    block = slice(first, first + ROWS)
                    partial = functional.conv2d(
                        padded[:, block, r : r + P, s : s + Q], weight[:, block, r : r + 1, s : s + 1]
                    )
                    out = out + factor * torch.round(torch.clamp(partial / adc.step, adc.low, adc.high))
    return out * adc.step  # type: ignore[return-value]


def least(work: Callable[[], object], repeats: int) -> float:
    work()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def ratios(dense_inputs: bool, N: int, C: int, size: int, K: int, kernel: int) -> tuple[float, ...]:
    """CPU seconds of the dense layer, of ours with one and two conversions per slice, and of the plain version with one."""
    draw = torch.Generator().manual_seed(1)
    x = (torch.rand(N, C, size, size, generator=draw) < 0.1).float()
    if dense_inputs:
        x = torch.randint(1, 4, x.shape, generator=draw).float()
    signed = torch.randint(-1, 2, (len(SLICES), K, C, kernel, kernel), generator=draw).float()
    apart = laid_out(torch.cat([signed.clamp(min=0), (-signed).clamp(min=0)]))
    padding = kernel // 2
    pair, single = Adc(step=1.0, low=-15, high=15), Adc(step=1.0, low=0, high=15)
    both = (*SLICES, *(-factor for factor in SLICES))
    whole = sum(factor * weight for factor, weight in zip(SLICES, signed, strict=True))
    if kernel == 1:
        dense = least(lambda: functional.linear(x[:, :, 0, 0], whole[:, :, 0, 0]), 15)
    else:
        last = (x.contiguous(memory_format=torch.channels_last), whole.contiguous(memory_format=torch.channels_last))
        dense = min(
            least(lambda: functional.conv2d(x, whole, padding=padding), 15),
            least(lambda: functional.conv2d(*last, padding=padding), 15),
        )
    stored = laid_out(signed)
    place = {"rows": ROWS, "padding": (padding, padding)}
    assert torch.equal(adc_conv2d(x, stored, SLICES, adc=pair, **place), plain(x, signed, SLICES, pair, padding))
    return (
        dense,
        least(lambda: adc_conv2d(x, stored, SLICES, adc=pair, **place), 7),
        least(lambda: adc_conv2d(x, apart, both, adc=single, **place), 5),
        least(lambda: plain(x, signed, SLICES, pair, padding), 3),
    )


def main() -> None:
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
    for dense_inputs in (False, True):
        inputs = "levels at all inputs" if dense_inputs else "spikes at a tenth of the inputs"
        print(
            f"{torch.get_num_threads()} thread(s), {inputs}; CPU time per bit slice over that of the dense float32 layer"
        )
        print(f"{'layer':6} {'dense ms':>9} {'pair':>6} {'signs apart':>12} {'plain, pair':>12}")
        rounds: dict[str, list[tuple[float, ...]]] = {}
        with torch.no_grad():
            for _ in range(ROUNDS):
                whole = [0.0] * 4
                for name, *layer in LAYERS:
                    # the work of one sample: totals are those of one image and step
                    times = ratios(dense_inputs, *layer)
                    whole = [total + seconds / layer[0] for total, seconds in zip(whole, times, strict=True)]
                    rounds.setdefault(name, []).append(shares(times))
                rounds.setdefault("all", []).append(shares(whole))
        for name, found in rounds.items():
            dense, *each = (statistics.median(column) for column in zip(*found, strict=True))
            print(f"{name:6} {1e3 * dense:9.3f} {each[0]:6.2f} {each[1]:12.2f} {each[2]:12.2f}")
        spread = (f"{min(column):.2f} to {max(column):.2f}" for column in list(zip(*rounds["all"], strict=True))[1:])
        print(f"all, least to most: {', '.join(spread)}")


def shares(times: tuple[float, ...] | list[float]) -> tuple[float, ...]:
    """Seconds of the dense layer, and what the others take for a bit slice in parts of that."""
    return times[0], *(seconds / len(SLICES) / times[0] for seconds in times[1:])


if __name__ == "__main__":
    main()
