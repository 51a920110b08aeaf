"""What crossbars of resistive cells make of the weights of a network.

A weight of q levels is stored in cells of conductances, driven by voltages on rows, read as currents of columns. Letters: K C output and
input channels, Q kernel positions, S slices of a weight, X size of a crossbar. Conductances are counted in those of one level,
``1 / lsb_ohm``, so an ideal cell is worth exactly its level. The circuit is linear: everything up to the currents folds into effective
weights; converters (ADCs) do not and act when the network runs (`spikeloom.transform.reading`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np

from spikeloom.core.network import Network
from spikeloom.core.nodes import Linear, Membrane, Node, Synapse
from spikeloom.core.signals import LEVEL_MAX, received_signals
from spikeloom.errors import NetworkError
from spikeloom.snn.fake_quant import chosen_step, is_whole
from spikeloom.transform.circuit import approximate_conductances, effective_conductances

#: Resistance of a cell that holds one level in the release of SpikeSim (hw_inference.py; Moitra et al., arXiv:2210.12899).
LSB_OHM = 19_139.0
#: Conductances solved at a time.
_SOLVED = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Crossbars:
    """Crossbars and what is wrong with them; the defaults are ideal.

    size: X, rows and columns of a crossbar; it holds one position of a kernel for X input and X output channels.
    cell_bits: bits of a cell; wider weights are cut into slices, each on crossbars of its own.
    cell: "binary" cells are resistors in parallel, one per bit, that of bit i of ``lsb_ohm / 2**i`` when on and ``off_ohm`` when off
        (the release of SpikeSim); "analog" cells are one device of ``1 / off_ohm + level / lsb_ohm``.
    pairs: "differential": positive and negative weights on cells of their own, whose currents are subtracted before they are
        converted; "offset": all weights of b bits are stored as ``q + 2**(b-1)``, subtracted in digital from what is read; "negative": only
        negative ones are (the release of SpikeSim).
    lsb_ohm: resistance of one level. off_ohm: of a resistor that is off; infinite where nothing leaks.
    variation: standard deviation of a device's conductance over its mean, normal, cut at 0.
    stuck_on, stuck_off: probabilities that a device is stuck at its largest or its off conductance.
    row_wire_ohm, column_wire_ohm: of the wire between two cells. driver_ohm: of what drives a row.
    solve: the wires exactly, or "fast" (see `spikeloom.transform.circuit`).
    adc_bits: of the converter that reads a column (of a pair, the sign counts); None for an ideal one.
    adc_range: levels at full scale; None for the largest sum that calibration meets in the layer.
    """

    size: int = 64
    cell_bits: int = 4
    cell: Literal["binary", "analog"] = "binary"
    pairs: Literal["differential", "offset", "negative"] = "differential"
    lsb_ohm: float = LSB_OHM
    off_ohm: float = float("inf")
    variation: float = 0.0
    stuck_on: float = 0.0
    stuck_off: float = 0.0
    row_wire_ohm: float = 0.0
    column_wire_ohm: float = 0.0
    driver_ohm: float = 0.0
    solve: Literal["exact", "fast"] = "exact"
    adc_bits: int | None = None
    adc_range: float | None = None

    def __post_init__(self) -> None:
        for name, known in (
            ("cell", ("binary", "analog")),
            ("pairs", ("differential", "offset", "negative")),
            ("solve", ("exact", "fast")),
        ):
            if getattr(self, name) not in known:
                raise NetworkError(f"{name} must be {' or '.join(known)}, got '{getattr(self, name)}'")
        for name, least, most in (("size", 1, 4096), ("cell_bits", 1, 8), ("adc_bits", 2, 16)):
            if getattr(self, name) is not None and not least <= getattr(self, name) <= most:
                raise NetworkError(f"{name} must be {least}..{most}, got {getattr(self, name)}")
        for name in ("variation", "row_wire_ohm", "column_wire_ohm", "driver_ohm"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise NetworkError(f"{name} must be 0 or more and finite, got {getattr(self, name)}")
        if not 0 < self.lsb_ohm < float("inf") or not self.off_ohm > self.lsb_ohm:
            raise NetworkError(
                f"lsb_ohm and off_ohm are {self.lsb_ohm} and {self.off_ohm}, expected a finite lsb_ohm above 0 and below off_ohm"
            )
        if self.stuck_on < 0 or self.stuck_off < 0 or not self.stuck_on + self.stuck_off <= 1:
            raise NetworkError(
                f"stuck_on and stuck_off are {self.stuck_on} and {self.stuck_off}, expected probabilities that sum to at most 1"
            )
        if self.adc_range is not None and not 0 < self.adc_range < float("inf"):
            raise NetworkError(f"adc_range must be a positive number of levels, got {self.adc_range}")
        if self.adc_range is not None and self.adc_bits is None:
            raise NetworkError("adc_range has no effect without adc_bits; leave it out")

    @property
    def wired(self) -> bool:
        """True where some resistance stands in series with the cells."""
        return max(self.row_wire_ohm, self.column_wire_ohm, self.driver_ohm) > 0

    @property
    def random(self) -> bool:
        """True where two chips differ."""
        return max(self.variation, self.stuck_on, self.stuck_off) > 0


#: What can be wrong, by the name a table uses: the fields that say how much.
NON_IDEALITIES: Mapping[str, tuple[str, ...]] = {
    "off-state leakage": ("off_ohm",),
    "variation": ("variation",),
    "stuck cells": ("stuck_on", "stuck_off"),
    "wire resistance": ("row_wire_ohm", "column_wire_ohm", "driver_ohm"),
    "ADC": ("adc_bits", "adc_range"),
}
_IDEAL = {item.name: item.default for item in fields(Crossbars)}


def only(crossbars: Crossbars, *kept: str) -> Crossbars:
    """``crossbars`` with no other non-idealities than those of the names ``kept``, keys of NON_IDEALITIES."""
    cured = [field for name, parts in NON_IDEALITIES.items() if name not in kept for field in parts]
    return replace(crossbars, **{field: _IDEAL[field] for field in cured})  # type: ignore[arg-type]


def present(crossbars: Crossbars) -> tuple[str, ...]:
    """The non-idealities that are not of zero strength."""
    ideal = only(crossbars)
    return tuple(name for name in NON_IDEALITIES if only(crossbars, name) != ideal)


@dataclass(frozen=True, eq=False)
class Programmed:
    """The weights of one synapse on one chip, in levels.

    levels: as meant; float64, shape (K, C/groups, ...). slices: (factor, what each slice reads as), the pair subtracted; the same shape.
    correction: what is added in digital, or None. Effective levels are the sum of all.
    """

    levels: np.ndarray
    slices: tuple[tuple[int, np.ndarray], ...]
    correction: np.ndarray | None

    @property
    def error(self) -> np.ndarray:
        """Effective levels minus those meant; exactly 0 on ideal crossbars."""
        total = sum((factor * part for factor, part in self.slices), np.zeros_like(self.levels))
        return np.asarray(total + (0 if self.correction is None else self.correction) - self.levels)


def program(
    levels: np.ndarray, bits: int, crossbars: Crossbars, rng: np.random.Generator, groups: int = 1
) -> Programmed:
    """Write one synapse's weights to crossbars and read them back.

    Args:
        levels: whole numbers -2**(bits-1)..2**(bits-1) - 1 (differential: symmetric); shape (K, C/groups, ...).
        bits: of a weight, the sign counts.
        crossbars: where they go.
        rng: draws the chip; not drawn from where nothing is random.
        groups: of the convolution; groups do not share crossbars.
    """
    levels = np.asarray(levels, np.float64)
    offset = 2.0 ** (bits - 1)
    correction = None
    if crossbars.pairs == "differential":
        width = bits - 1
        planes = [(1, np.maximum(levels, 0)), (-1, np.maximum(-levels, 0))]
    else:
        width = bits
        shift = np.full_like(levels, offset) if crossbars.pairs == "offset" else np.where(levels < 0, offset, 0.0)
        planes, correction = [(1, levels + shift)], -shift
    slices = []
    for low in range(0, width, crossbars.cell_bits):
        cell_bits = min(crossbars.cell_bits, width - low)
        total = np.zeros_like(levels)
        for sign, plane in planes:
            stored = plane.astype(np.int64) >> low & (1 << cell_bits) - 1
            cells = _conductances(stored, cell_bits, crossbars, rng)
            if crossbars.wired:
                cells = _through_wires(cells, cell_bits, crossbars, groups)
            total += sign * cells
        slices.append((1 << low, total))
    return Programmed(levels, tuple(slices), correction)


def _devices(stored: np.ndarray, bits: int, crossbars: Crossbars) -> Iterator[tuple[np.ndarray, float]]:
    """(conductance, largest conductance) of each device of cells that hold ``stored``, in levels."""
    off = crossbars.lsb_ohm / crossbars.off_ohm
    if crossbars.cell == "analog":
        yield off + stored, off + 2**bits - 1
        return
    for bit in range(bits):
        yield np.where(stored >> bit & 1, float(1 << bit), off), float(1 << bit)


def _conductances(stored: np.ndarray, bits: int, crossbars: Crossbars, rng: np.random.Generator) -> np.ndarray:
    """Conductances of the cells of one chip, in levels; the shape of ``stored``."""
    off = crossbars.lsb_ohm / crossbars.off_ohm
    total = np.zeros(stored.shape)
    for conductance, most in _devices(stored, bits, crossbars):
        if crossbars.stuck_on or crossbars.stuck_off:
            fate = rng.random(stored.shape)
            conductance = np.where(fate < crossbars.stuck_on, most, conductance)
            conductance = np.where(fate >= 1 - crossbars.stuck_off, off, conductance)
        if crossbars.variation:
            conductance = conductance * np.maximum(0, 1 + crossbars.variation * rng.standard_normal(stored.shape))
        total += conductance
    return total


def _through_wires(cells: np.ndarray, bits: int, crossbars: Crossbars, groups: int) -> np.ndarray:
    """Effective conductances of cells behind wires and drivers, in levels; cells without a weight are off."""
    devices = 1 if crossbars.cell == "analog" else bits
    tiles, back = _tiled(cells, crossbars.size, groups, devices * crossbars.lsb_ohm / crossbars.off_ohm)
    resistances = {key: getattr(crossbars, key) for key in ("row_wire_ohm", "column_wire_ohm", "driver_ohm")}
    solve = effective_conductances if crossbars.solve == "exact" else approximate_conductances
    solved = np.empty_like(tiles)
    at_once = max(1, _SOLVED // crossbars.size**2)
    for start in range(0, len(tiles), at_once):
        some = tiles[start : start + at_once]
        solved[start : start + at_once] = solve(some / crossbars.lsb_ohm, **resistances) * crossbars.lsb_ohm
    return back(solved)


def _tiled(
    cells: np.ndarray, size: int, groups: int, empty: float
) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """Crossbars of cells, and the way back.

    Args:
        cells: shape (K, C/groups, ...). size: X. groups: of the convolution. empty: conductance of a cell without a weight.

    Returns:
        (groups * Q * ceil(C/groups/X) * ceil(K/groups/X), X rows, X columns), rows are input channels; and the inverse.
    """
    rows, columns = cells.shape[1], len(cells) // groups
    flat = cells.reshape(groups, columns, rows, -1)
    places = flat.shape[3]
    tall, wide = -(-rows // size), -(-columns // size)
    padded = np.full((groups, wide * size, tall * size, places), empty)
    padded[:, :columns, :rows] = flat
    split = (groups, wide, size, tall, size, places)
    tiles = padded.reshape(split).transpose(0, 5, 3, 1, 4, 2)

    def back(solved: np.ndarray) -> np.ndarray:
        whole = solved.reshape(tiles.shape).transpose(0, 3, 5, 2, 4, 1).reshape(padded.shape)
        return whole[:, :columns, :rows].reshape(cells.shape)

    return np.ascontiguousarray(tiles).reshape(-1, size, size), back


def on_levels(name: str, node: Synapse, pairs: str = "offset") -> tuple[np.ndarray, np.ndarray]:
    """(levels, step) of a synapse's weights: ``weight = levels * step``; float64, step of shape (K, 1, ...).

    Raises:
        NetworkError: no weights, or weights that are no whole steps of ``weight_bits`` bits, or one too large for ``pairs`` of cells.
    """
    if node.weight is None:
        raise NetworkError(f"layer '{name}' has no weights; train it or read them first")
    rows = node.weight.astype(np.float64).reshape(len(node.weight), -1)
    largest = 2 ** (node.weight_bits - 1) - 1
    step = chosen_step(rows, largest, "max")
    exact = rows / step[:, None]
    if pairs == "differential" and np.rint(exact).min(initial=0) == -largest - 1 and is_whole(exact).all():
        raise NetworkError(
            f"layer '{name}' has weights of {-largest - 1}, for which a differential pair of {node.weight_bits - 1} bits each has no "
            f"cells; take pairs = 'offset' or 'negative'"
        )
    if (
        not is_whole(exact).all()
        or np.rint(exact).min(initial=0) < -largest - 1
        or np.rint(exact).max(initial=0) > largest
    ):
        raise NetworkError(
            f"layer '{name}' has weights that are no {2 * largest + 1} levels of {node.weight_bits} bits (weight_bits); quantise the "
            f"network first (spikeloom.transform.quantize)"
        )
    return np.rint(exact).reshape(node.weight.shape), step.reshape(-1, *([1] * (node.weight.ndim - 1)))


def crossbar(network: Network, crossbars: Crossbars, rng: np.random.Generator) -> Network:
    """``network`` with the weights that one chip of ``crossbars`` makes of its own; biases and neurons are digital and stay.

    Where nothing changes, the result is ``network`` itself, also one of integers; otherwise a network of integers comes back in floats,
    its membranes without a word.

    Args:
        network: weights on a grid of ``weight_bits`` bits: of integers, or in floats (`spikeloom.transform.quantize.on_grid`).
        crossbars: without an ADC.
        rng: draws the chip.

    Raises:
        NetworkError: weights off the grid, or an ADC, which no weight can stand for.
    """
    if crossbars.adc_bits is not None:
        raise NetworkError(
            f"adc_bits is {crossbars.adc_bits}, but a converter acts on sums and is no part of weights; expected None, and a Reading "
            f"(spikeloom.transform.reading) where the network runs"
        )
    floats = in_floats(network)
    nodes = dict(floats.nodes)
    for name, node in floats.nodes.items():
        if isinstance(node, Synapse):
            levels, step = on_levels(name, node, crossbars.pairs)
            groups = 1 if isinstance(node, Linear) else node.groups
            error = program(levels, node.weight_bits, crossbars, rng, groups).error
            if error.any():
                assert node.weight is not None
                nodes[name] = replace(node, weight=(node.weight + step * error).astype(np.float32))
    if all(nodes[name] is floats.nodes[name] for name in nodes):
        return network
    told = {"crossbars": {key: _plain(getattr(crossbars, key)) for key in _IDEAL}, "parent": network.id}
    return replace(floats, nodes=nodes, metadata={**network.metadata, "crossbar": told})


def number_of_crossbars(network: Network, crossbars: Crossbars) -> int:
    """Crossbars on one chip: kernel positions x ceil(C/X) x ceil(K/X) of every synapse and group, times slices, twice for pairs."""
    total = 0
    for node in network.nodes.values():
        if isinstance(node, Synapse) and node.weight is not None:
            width = node.weight_bits - 1 if crossbars.pairs == "differential" else node.weight_bits
            sides = 2 if crossbars.pairs == "differential" else 1
            groups = 1 if isinstance(node, Linear) else node.groups
            out, rows, *kernel = node.weight.shape
            tiles = groups * -(-rows // crossbars.size) * -(-(out // groups) // crossbars.size) * math.prod(kernel)
            total += tiles * -(-width // crossbars.cell_bits) * sides
    return total


def in_floats(network: Network) -> Network:
    """A network of integers in floats: the same weights, thresholds and biases, no words; pixels count 1/255 there. Others as they are."""
    if network.arithmetic == "float32":
        return network
    received = received_signals(network)
    nodes: dict[str, Node] = {}
    for name, node in network.nodes.items():
        if isinstance(node, Synapse):
            unit = LEVEL_MAX if received[name].kind == "analog" else 1
            assert node.weight is not None
            changed: dict[str, Any] = {"weight": (node.weight.astype(np.float64) * unit).astype(np.float32)}
            if node.bias is not None:
                changed["bias"] = node.bias.astype(np.float32)
            nodes[name] = replace(node, **changed)
        elif isinstance(node, Membrane):
            nodes[name] = replace(node, membrane_bits=None)
        else:
            nodes[name] = node
    return replace(network, nodes=nodes)


def _plain(value: Any) -> Any:
    """A JSON value: what is infinite is None."""
    return None if value == float("inf") else value
