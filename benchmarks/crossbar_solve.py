"""Time and memory of programming and exactly solving every crossbar of VGG-9, and the error of the fast approximation.

    python -m benchmarks.crossbar_solve [THREADS [SIZE ...]]

VGG-9 at 32x32 (convolutions 3-64-64-128-128-256-256, linear 4096-1024-1024-10), 4-bit weights as differential pairs of cells with
1, 2 or 3 bits (3, 2 or 1 slices of the three magnitude bits), one crossbar per kernel position and block of rows, outputs of a slice and its two
signs in the columns. Conductances 1/100 kohm on, 1/1 Mohm off, of 5 % spread; wires 1 ohm a segment, drivers 100 ohm. Every
crossbar is drawn and solved; each size runs in a process of its own, whose peak memory is printed.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time

import numpy as np

from spikeloom.transform.circuit import (
    approximate_conductances,
    approximation_error,
    effective_conductances,
    fitted_exponents,
)

#: Input channels, output channels, kernel positions.
LAYERS = (
    (3, 64, 9),
    (64, 64, 9),
    (64, 128, 9),
    (128, 128, 9),
    (128, 256, 9),
    (256, 256, 9),
    (4096, 1024, 1),
    (1024, 1024, 1),
    (1024, 10, 1),
)
ON, OFF, SPREAD = 1e-5, 1e-6, 0.05
WIRES = {"row_wire_ohm": 1.0, "column_wire_ohm": 1.0, "driver_ohm": 100.0}
#: Crossbars programmed at a time.
PART = 64


def crossbars(size: int, slices: int) -> list[tuple[int, int, int]]:
    """How many crossbars with which used rows and columns: [(number, rows, columns)]; only used lines are wired."""
    found = []
    for C, K, positions in LAYERS:
        columns = 2 * slices * K
        for rows, of_rows in ((size, C // size), (C % size, 1)):
            for used, of_columns in ((size, columns // size), (columns % size, 1)):
                if rows and used and of_rows and of_columns:
                    found.append((positions * of_rows * of_columns, rows, used))
    return found


def programmed(draw: np.random.Generator, number: int, rows: int, columns: int, bits: int) -> np.ndarray:
    """Random levels as conductances with device variation."""
    level = draw.integers(0, 2**bits, (number, rows, columns)) / (2**bits - 1)
    return (OFF + (ON - OFF) * level) * (1 + SPREAD * draw.standard_normal(level.shape)).clip(0.5, 1.5)


def run(size: int, bits: int, threads: int) -> None:
    draw = np.random.default_rng(1)
    slices = -(-3 // bits)
    small = programmed(draw, 1, 4, 4, bits)
    effective_conductances(small, **WIRES)  # kernels compiled or loaded
    start, cpu, total = time.perf_counter(), time.process_time(), 0
    for number, rows, columns in crossbars(size, slices):
        for first in range(0, number, PART):
            cells = programmed(draw, min(PART, number - first), rows, columns, bits)
            exact = effective_conductances(cells, **WIRES, threads=threads)
        total += number
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    cells = programmed(draw, 16, size, size, bits)
    exact = effective_conductances(cells, **WIRES)
    plain = approximation_error(exact[4:], approximate_conductances(cells[4:], **WIRES))
    exponents = fitted_exponents(cells[:4], exact[:4], **WIRES)
    fitted = approximation_error(exact[4:], approximate_conductances(cells[4:], **WIRES, exponents=exponents))
    loss = approximation_error(exact, cells)
    print(
        f"{size:4} {bits:4} {total:9} {wall:7.1f} {cpu:7.1f} {peak:9.0f}    "
        f"{loss.rms:.1e} {plain.rms:.1e} {fitted.rms:.1e}    {loss.column:.1e} {plain.column:.1e} {fitted.column:.1e}",
        flush=True,
    )


def main() -> None:
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    print(f"{threads} thread(s); errors of ideal cells, of the approximation and of the fitted one, relative")
    print(f"size bits crossbars  wall s   CPU s  peak MiB    {'rms of conductances':23}    column currents")
    spawn = multiprocessing.get_context("spawn")
    for size in map(int, sys.argv[2:] or ("32", "64", "128")):
        for bits in (3, 2, 1):
            work = spawn.Process(target=run, args=(size, bits, threads))
            work.start()
            work.join()
            if work.exitcode:
                raise SystemExit(work.exitcode)


if __name__ == "__main__":
    main()
