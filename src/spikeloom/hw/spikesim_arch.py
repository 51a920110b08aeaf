"""SpikesimArch: the fields, parts and prices of the spikesim machine."""

from __future__ import annotations

from collections import abc
from dataclasses import dataclass
from typing import ClassVar, final

from spikeloom.core.arch import AbstractArch, Charge, Component, Part, check_fidelity, check_knobs, knob, quirk, quirks
from spikeloom.errors import ConfigError

#: Columns that take turns at one ADC.
PHASES = 8
#: Side of the crossbar that the tool's constants are of.
SIDE = 64


@final
@dataclass(frozen=True)
class SpikesimArch(AbstractArch):
    """Fields of the tiles of crossbars. Quantities are SI: bits, hertz. Quirks act in tool fidelity only."""

    model: ClassVar[str] = "spikesim"

    fidelity: str = knob(
        "trace",
        "trace = recorded spikes, corrected; tool = what SpikeSim's ELA script prints",
        choices=("trace", "tool"),
    )
    size: int = knob(SIDE, "rows and columns of a crossbar, a multiple of 8", low=8, high=1024, search=(32, 64, 128))
    pes_per_tile: int = knob(8, "PEs of a tile", low=1, high=4096, search=(4, 8, 16))
    crossbars: int = knob(9, "crossbars of a PE (tool: as many as a kernel has positions)", low=1, high=1024)
    device: str = knob("rram", "cells of the crossbars", choices=("rram", "sram"))
    cell_bit: int = knob(
        4, "bits of a cell; wider weights take columns side by side", suffix="bit", low=1, high=8, fidelity="trace"
    )
    adc_bit: int = knob(
        0,
        "precision of the ADCs, 4 to 8; 0 = the tool's ADC of unstated precision",
        suffix="bit",
        low=0,
        high=8,
        fidelity="trace",
    )
    psum_bit: int = knob(8, "partial sums that cross the mesh", suffix="bit", low=1, high=32, fidelity="trace")
    skip: bool = knob(True, "an input vector without a spike is not read", fidelity="trace")
    share_tiles: bool = knob(False, "layers share tiles", fidelity="trace")
    handover: int = knob(75, "percent of a layer's step after which the next layer begins", low=0, high=100)
    pe_clocks: int = knob(26, "clock cycles of a PE cycle: all columns of a PE, read and converted", low=1, high=10_000)
    pooled_maps: bool = quirk("the positions of a convolution are those behind its pool")
    neuron_cycles: bool = quirk("latency counts output neurons instead of PE cycles")
    tiles_shared: bool = quirk("layers share tiles")
    five_layers: bool = quirk("membranes of the first five layers only have a memory")
    size_blind: bool = quirk(
        "a crossbar costs the same at any size, and turns at an ADC are taken as size / 8 instead of 8"
    )
    stops: bool = knob(
        False, "a network on which the script ends in an error, or never, is refused instead of noted", fidelity="tool"
    )
    tiles: int = knob(0, "tiles of the chip, 0 = as many as the network needs", low=0, high=10**9)
    words: int = knob(0, "words of the memory of inputs, 0 = as many as the network needs", low=0, high=10**12)
    membranes: int = knob(0, "words of the memory of membranes, 0 = as many as the network needs", low=0, high=10**12)
    clock: float = knob(2.5e8, "clock", suffix="mhz", low=1e-3, high=1e5)
    table: str = knob("spikesim65", "component table that prices the counts")

    def __post_init__(self) -> None:
        check_knobs(self)
        if self.size % PHASES:
            raise ConfigError(
                f"size: got {self.size}, expected a multiple of {PHASES}, as {PHASES} columns share an ADC"
            )
        if 0 < self.adc_bit < 4:
            raise ConfigError(f"adc_bit: got {self.adc_bit}, expected 4..8, or 0 for the tool's ADC")
        check_fidelity(self)

    @property
    def tool(self) -> bool:
        """Whether this is the tool's estimate."""
        return self.fidelity == "tool"

    @property
    def adcs(self) -> int:
        """ADCs of a PE."""
        return self.size // PHASES

    def _parts(self) -> dict[str, Component]:
        blind = self.tool and self.size_blind
        rows = SIDE if blind else self.size
        return {
            "crossbar": Component(f"crossbar_{self.device}", width_bit=rows * rows),
            "adc": Component("adc_scaled", width_bit=self.adc_bit) if self.adc_bit else Component("adc", width_bit=4),
            "mux": Component("mux", width_bit=PHASES),
            "subtractor": Component("subtractor", width_bit=8),
            "temp_buffer": Component("temp_buffer", width_bit=8),
            "tile_buffer": Component("tile_buffer", width_bit=rows),
            "htree": Component("htree", width_bit=rows),
            "memory": Component("word", width_bit=22),
            "membranes": Component("word", width_bit=22),
            "neuron": Component("neuron", width_bit=SIDE),
        }

    def inventory(self) -> tuple[Part, ...]:
        """What the tiles and memories hold; `Spikesim.sized` fills in their numbers where they are 0."""
        pes = self.tiles * self.pes_per_tile
        copies = {
            "crossbar": pes * self.crossbars,
            "adc": pes * self.adcs,
            "mux": pes * self.adcs,
            "subtractor": self.tiles * self.adcs,
            "temp_buffer": self.tiles,
            "tile_buffer": self.tiles,
            "htree": self.tiles,
            "memory": self.words,
            "membranes": self.membranes,
            "neuron": self.tiles,
        }
        part = self._parts()
        return tuple(Part(instance, part[instance], n) for instance, n in copies.items())

    def charges(self) -> abc.Mapping[tuple[str, str], tuple[Charge, ...]]:
        """Prices by action: see the table in docs/models/spikesim.md."""
        part = self._parts()
        actions = {
            "crossbar": "read", "adc": "convert", "mux": "select", "subtractor": "subtract", "temp_buffer": "access",
            "tile_buffer": "read", "htree": "transfer", "memory": "fetch", "neuron": "update",
        }  # fmt: skip
        charges: dict[tuple[str, str], tuple[Charge, ...]] = {
            (instance, action): (Charge(part[instance], action),) for instance, action in actions.items()
        }
        # a sum of a branch is added to its owner's: one adder of the same width
        join = (Charge(part["subtractor"], "subtract"),)
        return charges | {("crossbar", "synop"): (), ("mesh", "bit_hop"): (), ("neuron", "join"): join}

    def notes(self) -> tuple[str, ...]:
        """Which model speaks, and what it assumes."""
        if self.tool:
            corrected = [name for name in QUIRKS if not getattr(self, name)]
            said = f"with {', '.join(corrected)} corrected" if corrected else "with all its quirks"
            return (f"tool fidelity: an estimate of SpikeSim's ELA script {said}, not a count of events",)
        notes = ["no source prices the mesh between tiles: its bits times hops are counted and free"]
        if self.size != SIDE:
            notes.append(
                f"the constants are those of a {SIDE}x{SIDE} crossbar: that reads grow with its cells and buffers and wires with "
                "its rows is an assumption"
            )
        if self.device == "sram":
            notes.append(
                "the energy of an SRAM crossbar is the script's, which repeats its area: one of the two is a slip"
            )
        if self.adc_bit:
            notes.append("ADCs are those of a regression over published converters, not the tool's")
        return tuple(notes)


#: Fields that correct one habit of the tool each.
QUIRKS = quirks(SpikesimArch)
