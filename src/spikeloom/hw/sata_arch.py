"""SataArch: the fields, parts and prices of the sata machine."""

from __future__ import annotations

from collections import abc
from dataclasses import dataclass, replace
from typing import ClassVar, final

from spikeloom.core.arch import AbstractArch, Charge, Component, Part, check_fidelity, check_knobs, knob, quirk, quirks
from spikeloom.errors import ConfigError

BANKS = 2
WIDE_BIT, NARROW_BIT = 256, 8
#: Knob pe -> component kinds of the accumulator, the neuron and the scratchpads.
ELEMENTS = {
    "spike": ("spike_mac", "lif", "spad"),
    "spike-288": ("spike_mac", "lif", "spad288"),
    "mac8": ("mac8", "relu8", "spad_ann"),
    "mac8-dvs": ("mac8", "relu8", "spad_dvs"),
}


@final
@dataclass(frozen=True)
class SataArch(AbstractArch):
    """Fields of the array. Quantities are SI: bits, hertz. Quirks act in tool fidelity only."""

    model: ClassVar[str] = "sata"

    fidelity: str = knob(
        "trace", "trace = recorded spikes, corrected; tool = what SATA_Sim prints", choices=("trace", "tool")
    )
    rules: str = knob(
        "head",
        "its code at head, or the older one behind its archived results (all operands 8 bit, linear layers "
        "as padded 3x3 maps, output writes not times T)",
        choices=("head", "archived"),
        fidelity="tool",
    )
    rows: int = knob(16, "PE rows: output positions side by side", low=1, high=4096, search=(8, 16, 32))
    cols: int = knob(8, "PE columns: filters side by side", low=1, high=4096, search=(4, 8, 16))
    skip: bool = knob(
        True, "an im2col column silent in all rows of a fold takes no cycle and no read", fidelity="trace"
    )
    fold_pool: bool = knob(True, "fold sum and average pools into the next layer, else run them", fidelity="trace")
    pe: str = knob(
        "spike",
        "processing element: AND and accumulator, the same with 288 B for weights, or the tool's 8-bit MAC of ANNs (tool "
        "fidelity only)",
        choices=tuple(ELEMENTS),
    )
    sparsity: float = knob(-1.0, "one for all layers, -1 = measured from the trace", low=-1, high=1, fidelity="tool")
    act_bit: int = knob(0, "bits of an input, 0 = by the rules (1 or 8)", suffix="bit", low=0, high=32, fidelity="tool")
    weight_bit: int = knob(0, "bits of a weight, 0 = 8", suffix="bit", low=0, high=32, fidelity="tool")
    out_bit: int = knob(
        0, "bits of an output, 0 = by the rules (1 or 8)", suffix="bit", low=0, high=32, fidelity="tool"
    )
    ofmap_steps: str = knob(
        "rules", "outputs reach the buffer once or in every step", choices=("rules", "once", "every"), fidelity="tool"
    )
    unpadded_maps: bool = quirk("cycles and traffic of maps without padding, work of maps padded by one")
    filter_pass: bool = quirk("a whole weight-stationary pass is added as the time to load weights")
    over_count: bool = quirk("output writes hold rows + cols extra ones a fold, and a last line of DRAM writes")
    ifmap_once: bool = quirk("input traffic is that of one time step")
    ofmap_dram_once: bool = quirk("outputs reach DRAM in one time step only")
    byte_spikes: bool = quirk("a spike takes a byte of the input buffer")
    wide_access: bool = quirk("every 8 bits of a buffer cost an access of 256 bits")
    one_bank: bool = quirk("one of the two banks of each buffer leaks")
    write_as_read: bool = quirk("a DRAM write costs what a read costs")
    no_decay: bool = quirk("the leak of the membrane is not priced")
    one_sparsity: bool = quirk("one sparsity for all layers")
    glb_weight: float = knob(144 * 8192.0, "weight buffer", suffix="kib", low=0.001, high=1e6)
    glb_ifmap: float = knob(
        32 * 8192.0, "input buffer; half of it holds what is in use", suffix="kib", low=0.001, high=1e6
    )
    glb_ofmap: float = knob(32 * 8192.0, "output buffer", suffix="kib", low=0.001, high=1e6)
    clock: float = knob(4e8, "clock", suffix="mhz", low=1e-3, high=1e5)
    table: str = knob("sata28", "component table that prices the counts")

    def __post_init__(self) -> None:
        check_knobs(self)
        if -1 < self.sparsity < 0:
            raise ConfigError(f"sparsity: got {self.sparsity:g}, expected 0..1, or -1 to measure it")
        check_fidelity(self)
        if self.pe.startswith("mac8") and not self.tool:
            raise ConfigError(
                f"pe: got '{self.pe}', which acts in tool fidelity only; set fidelity = 'tool' or leave it out"
            )

    @property
    def tool(self) -> bool:
        """Whether this is the tool's estimate."""
        return self.fidelity == "tool"

    @property
    def archived(self) -> bool:
        """Whether the rules of the archived results hold."""
        return self.rules == "archived"

    @property
    def act_bits(self) -> int:
        """Bits of an input in tool fidelity."""
        return self.act_bit or (8 if self.archived else 1)

    @property
    def weight_bits(self) -> int:
        """Bits of a weight in tool fidelity."""
        return self.weight_bit or 8

    @property
    def out_bits(self) -> int:
        """Bits of an output in tool fidelity."""
        return self.out_bit or (8 if self.archived else 1)

    @property
    def fc_padded(self) -> bool:
        """Whether linear layers are counted as padded 3x3 maps."""
        return self.archived

    @property
    def ofmap_every_step(self) -> bool:
        """Whether outputs are written to the buffer in every step."""
        return self.ofmap_steps == "every" or (self.ofmap_steps == "rules" and not self.archived)

    def _wide(self) -> bool:
        return self.tool and self.wide_access

    def _sram(self, size: float) -> Component:
        return Component("sram", width_bit=WIDE_BIT if self._wide() else NARROW_BIT, size_bit=size)

    def _buffers(self) -> dict[str, float]:
        return {"glb_ifmap": self.glb_ifmap, "glb_weight": self.glb_weight, "glb_ofmap": self.glb_ofmap}

    def inventory(self) -> tuple[Part, ...]:
        """Elements with accumulator, neuron and scratchpads; three buffers of two banks; DRAM."""
        mac, neuron, spad = ELEMENTS[self.pe]
        elements = self.rows * self.cols
        parts = [
            Part(instance, Component(kind, width_bit=8), elements)
            for instance, kind in (("mac", mac), ("spad", spad), ("lif", neuron))
        ]
        leaking = 1 if self.tool and self.one_bank else BANKS
        for instance, size in self._buffers().items():
            parts.append(Part(instance, self._sram(size), leaking))
            if leaking < BANKS:
                parts.append(Part(instance, replace(self._sram(size), kind="quiet_bank"), BANKS - leaking))
        return (*parts, Part("dram", Component("dram", width_bit=8)))

    def charges(self) -> abc.Mapping[tuple[str, str], tuple[Charge, ...]]:
        """Prices by action: see the table in docs/models/sata.md."""
        mac, neuron, spad = (Component(kind, width_bit=8) for kind in ELEMENTS[self.pe])
        dram = Component("dram", width_bit=8)
        charges: dict[tuple[str, str], tuple[Charge, ...]] = {
            ("mac", "add"): (Charge(mac, "op"),),
            ("mac", "clock"): (Charge(mac, "clock"),),
            ("spad", "access"): (Charge(spad, "op"),),
            ("spad", "clock"): (Charge(spad, "clock"),),
            ("lif", "update"): () if neuron.kind == "relu8" else (Charge(neuron, "op"),),
            ("lif", "clock"): (Charge(neuron, "clock"),),
            # v - (v >> k): one pass more through the 16-bit subtractor and the 8-bit membrane register
            ("lif", "decay"): (
                Charge(Component("adder", width_bit=16), "add"),
                Charge(Component("register", width_bit=8), "write"),
            ),
            **dict.fromkeys((("lif", "bias"), ("mac", "join")), (Charge(Component("adder", width_bit=16), "add"),)),
        }
        for instance, size in (*self._buffers().items(), ("glb_psum", self.glb_ofmap)):  # sums pass the output buffer
            for action in ("read", "write"):
                # the tool charges a whole access of 32 bytes for every byte
                wide = Charge(self._sram(size), action, times=1 / 8)
                charges[instance, action] = (wide if self._wide() else replace(wide, times=1.0, per_bit=True),)
        for instance in ("dram_ifmap", "dram_weight", "dram_psum"):
            charges[instance, "read"] = (Charge(dram, "read", per_bit=True),)
        write = "read" if self.tool and self.write_as_read else "write"
        charges["dram_ofmap", "write"] = (Charge(dram, write, per_bit=True),)
        return charges

    def notes(self) -> tuple[str, ...]:
        """Which model speaks, and what neither of the two prices."""
        if not self.tool:
            return (
                "DRAM is priced per byte as SATA_Sim prices it, without bandwidth, latency or standby",
                "weights are fetched once for all time steps: the steps of a fold follow one another before the next fold",
            )
        corrected = [name for name in QUIRKS if not getattr(self, name)]
        said = f"with {', '.join(corrected)} corrected" if corrected else "with all its quirks"
        return (f"tool fidelity: an estimate of SATA_Sim ({self.rules} rules) {said}, not a count of events",)


#: Fields that correct one habit of the tool each.
QUIRKS = quirks(SataArch)
