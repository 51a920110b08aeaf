"""LoihiArch: the fields, parts and prices of the loihi machine, and its two sets of units."""

from __future__ import annotations

from collections import abc
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import cached_property
from typing import ClassVar, final

from spikeloom.core.arch import AbstractArch, Charge, Component, Part, PerLayer, check_knobs, knob, of_layer, values_of
from spikeloom.core.report import Report
from spikeloom.errors import ConfigError
from spikeloom.hw.mesh import Mesh

#: Ticks of 0.1 ns in a second: what a cycle is on a chip without a clock.
TICKS_PER_S = 1e10
SANAFE, DAVIES = "loihi-sanafe", "loihi-davies2018"
#: Latency of every action in nanoseconds by set of units. Sources: the tables of the same names.
LATENCIES_NS: abc.Mapping[str, abc.Mapping[str, float]] = {
    SANAFE: {
        "access": 6.0, "update": 3.7, "spike_out": 30.0, "axon_out": 5.1, "axon_in": 16.0, "hop_x": 4.1, "hop_y": 6.5,
    },
    DAVIES: {
        "access": 5.3, "update": 3.1, "spike_out": 0.0, "axon_out": 2.1, "axon_in": 0.0, "hop_x": 4.1, "hop_y": 6.5,
    },
}  # fmt: skip
#: The network of the contention timing in nanoseconds: measured on SANA-FE 2.2.9's cycle-accurate one, docs/models/loihi-contention.md.
NETWORK_NS: abc.Mapping[str, float] = {"router": 4.0, "link": 1.0, "noc_cycle": 1.0}
#: Latency of a synapse event in nanoseconds by set of units and class.
SYNAPSES_NS: abc.Mapping[str, abc.Mapping[str, float]] = {
    SANAFE: {"dense": 3.8, "sparse": 4.7, "conv": 3.1},
    DAVIES: {"dense": 3.5},
}
#: Barrier of SANA-FE's calibration: (tiles in use, at least; ticks).
STAIRCASE = ((1, 6000), (2, 10000), (4, 14000), (29, 18000))
#: Barrier of Davies et al. 2018: ticks at 1 tile and at 32.
SLOPE = (1130, 4650)
#: Tiles of the largest barrier that the sources give.
BARRIER_TILES = 32
#: Share of the dynamic energy of a measured keyword network that its counted events explain: docs/models/loihi-measured.md.
EXPLAINED = 0.016
#: Classes of synapses.
CLASSES = ("dense", "sparse", "conv")


def _latency(name: str, meaning: str) -> float:
    made: float = knob(LATENCIES_NS[SANAFE][name], f"ns: {meaning}", low=0, high=1e5)
    return made


def _network(name: str, meaning: str) -> float:
    made: float = knob(NETWORK_NS[name], f"ns: {meaning} (contention)", low=0, high=1e3)
    return made


@final
@dataclass(frozen=True)
class LoihiArch(AbstractArch):
    """Fields of the chip. Latencies stay in nanoseconds and the memory in KiB, as machine files give them: whole ticks of 0.1 ns."""

    model: ClassVar[str] = "loihi"

    units: str = knob(
        SANAFE, "whose unit energies, latencies and barrier; goes with the table of that name", choices=(SANAFE, DAVIES)
    )
    table: str = knob(SANAFE, "component table that prices the counts: that of the units, or a file of your own")
    timing: str = knob(
        "simple",
        "simple = a step lasts as long as its busiest core; contention = also links and receivers bound it",
        choices=("simple", "contention"),
    )
    cores: PerLayer[int] = knob(
        0, "cores, 0 = as few as the compartments allow", low=0, high=10**6, per_layer=True, search=(1, 2, 4, 8, 16)
    )
    split: PerLayer[str] = knob(
        "neurons",
        "what a layer is split by over its cores: neurons (channel by channel), channels or rows of its map",
        choices=("neurons", "channels", "rows"),
        per_layer=True,
        search=("neurons", "channels", "rows"),
    )
    placement: str = knob("", "placement file; empty = layer after layer on cores 0, 1, 2, ...")
    synapse_class: PerLayer[str] = knob(
        "dense", "class of the synapses that lead to a layer", choices=CLASSES, per_layer=True
    )
    zero_weights: str = knob(
        "stored", "a weight of 0 is a synapse (stored) or none (skipped)", choices=("stored", "skipped")
    )
    delay: str = knob(
        "auto",
        "shift = layer after layer works a step later, for traces without that delay; recorded = steps as recorded; auto = as the "
        "trace says",
        choices=("auto", "recorded", "shift"),
    )
    input_on_chip: bool = knob(False, "input spikes come from neurons on cores, else from a port at tile 0")
    analog_input: str = knob(
        "refuse",
        "a first layer of many synapses on pixels: refuse, or take its sums for biases computed elsewhere",
        choices=("refuse", "bias"),
    )
    static: str = knob(
        "none",
        "power of an idle chip: none, 104 mW (Frady et al. 2020) or 29.6 mW (logs of Blouw et al. 2018)",
        choices=("none", "frady2020", "blouw2018"),
    )
    host: str = knob(
        "none", "power of the running host: none or 76.2 mW (logs of Blouw et al. 2018)", choices=("none", "blouw2018")
    )
    limits: str = knob(
        "refuse", "a core that holds more than it can: refuse, or warn and go on", choices=("refuse", "warn")
    )
    compartments: int = knob(1024, "neurons of a core", low=1, high=2**20, search=(128, 256, 512, 1024))
    synapse_memory_kib: float = knob(128.0, "KiB of synapse memory of a core", low=0.001, high=1e6)
    in_axons: int = knob(4096, "source neurons that a core can hear", low=1, high=2**30)
    out_axons: int = knob(4096, "pairs of neuron and destination core that a core can send", low=1, high=2**30)
    synapse_storage: str = knob(
        "shared",
        "kernels of convolutions stored once a core, or a word for every synapse",
        choices=("shared", "unrolled"),
    )
    synapse_bit: int = knob(0, "bits of a stored synapse, 0 = the layer's weight bits", low=0, high=64)
    rows: int = knob(4, "tiles of a column of the mesh", low=1, high=1024)
    columns: int = knob(8, "columns of tiles of a chip", low=1, high=1024)
    cores_per_tile: int = knob(4, "cores of a tile", low=1, high=1024)
    chips: int = knob(1, "chips, side by side in x", low=1, high=4096)
    message_bit: int = knob(32, "bits of a message on the link between chips", low=1, high=4096)
    access_ns: float = _latency("access", "looking at a neuron")
    update_ns: float = _latency("update", "updating it")
    spike_out_ns: float = _latency("spike_out", "its spike")
    axon_out_ns: float = _latency("axon_out", "sending a message")
    axon_in_ns: float = _latency("axon_in", "receiving one")
    synapse_ns: float = knob(-1.0, "ns: a synapse event, -1 = as its class", low=-1, high=1e5)
    hop_x_ns: float = _latency("hop_x", "a hop east or west (contention, with router_ns = 0)")
    hop_y_ns: float = _latency("hop_y", "a hop north or south (contention, with router_ns = 0)")
    router_ns: float = _network(
        "router", "a message in each router on its way, its own and its target's too; 0 = hop_x_ns and hop_y_ns instead"
    )
    link_ns: float = _network("link", "a link between routers for one message")
    noc_cycle_ns: float = _network(
        "noc_cycle", "delays of the cores come in whole cycles of this length, 0 = as they are"
    )
    clock: float = knob(
        TICKS_PER_S, "ticks of 0.1 ns, in which a chip without a clock is timed", suffix="ghz", low=10, high=10
    )

    def __post_init__(self) -> None:
        check_knobs(self)
        if self.table != self.units and not self.table.endswith(".toml"):
            raise ConfigError(
                f"table: got '{self.table}' with units = '{self.units}'; the two sets of units are never mixed: take the preset of "
                "the other, or a .toml file of your own"
            )
        if -1 < self.synapse_ns < 0:
            raise ConfigError(f"synapse_ns: got {self.synapse_ns:g}, expected at least 0, or -1 for that of its class")
        unknown = [name for name in values_of(self.synapse_class) if name not in SYNAPSES_NS[self.units]]
        if unknown:
            raise ConfigError(
                f"synapse_class: got '{unknown[0]}', {self.units} knows {', '.join(SYNAPSES_NS[self.units])} only"
            )
        if self.table == self.units:  # of a table of one's own the latencies are one's own as well
            self._refuse_mixed_latencies()
        _whole_ticks("synapse_ns", self.synapse_ns)
        self.ticks, self.network_ticks  # noqa: B018  # refuses latencies that are no whole ticks

    def _refuse_mixed_latencies(self) -> None:
        other = DAVIES if self.units == SANAFE else SANAFE
        for name, own in LATENCIES_NS[self.units].items():
            value = getattr(self, f"{name}_ns")
            # 0 is nobody's, an action that takes no time
            if value not in (own, 0) and value == LATENCIES_NS[other][name]:
                raise ConfigError(
                    f"{name}_ns: got {value:g}, which is that of {other}, with units = '{self.units}' ({own:g}); the two sets of "
                    f"units are never mixed: take the preset of {other}"
                )

    @cached_property
    def ticks(self) -> abc.Mapping[str, int]:
        """Ticks of every action but synapse events: access, update, spike_out, axon_out, axon_in, hop_x, hop_y."""
        return {name: _whole_ticks(f"{name}_ns", getattr(self, f"{name}_ns")) for name in LATENCIES_NS[SANAFE]}

    @cached_property
    def network_ticks(self) -> abc.Mapping[str, int]:
        """Ticks of the network in the contention timing: router, link, noc_cycle."""
        return {name: _whole_ticks(f"{name}_ns", getattr(self, f"{name}_ns")) for name in NETWORK_NS}

    def synapse_ticks(self, layer: str) -> int:
        """Ticks of a synapse event of a layer."""
        if self.synapse_ns >= 0:
            return _whole_ticks("synapse_ns", self.synapse_ns)
        return _whole_ticks("synapse_ns", SYNAPSES_NS[self.units][of_layer(self.synapse_class, layer)])

    def synapse_action(self, layer: str) -> str:
        """What the synapse events of a layer are counted as: ``event`` where they are dense, ``sparse_event``, ``conv_event``."""
        return _event(of_layer(self.synapse_class, layer))

    def barrier_ticks(self, tiles: int) -> int:
        """Ticks of the barrier that ends a step, by the number of tiles with a neuron (more than 32: as 32)."""
        tiles = min(tiles, BARRIER_TILES)
        if self.units == SANAFE:
            return max(ticks for least, ticks in STAIRCASE if tiles >= least)
        low, high = SLOPE
        return low + round(Fraction((high - low) * (tiles - 1), BARRIER_TILES - 1))

    @cached_property
    def mesh(self) -> Mesh:
        """Where the cores stand."""
        return Mesh(self.rows, self.columns, self.cores_per_tile, self.chips)

    def inventory(self) -> tuple[Part, ...]:
        """The chips, with the power of an idle one where that is asked for, and the host."""
        chip = Component("chip" if self.static == "none" else f"chip_{self.static}", width_bit=1)
        host = () if self.host == "none" else (Part("host", Component(f"host_{self.host}", width_bit=1)),)
        return (Part("chip", chip, self.chips), *host)

    def charges(self) -> abc.Mapping[tuple[str, str], tuple[Charge, ...]]:
        """Prices by action: see the table in docs/models/loihi.md."""
        soma, router = Component("soma", width_bit=1), Component("router", width_bit=1)
        axon = Component("axon", width_bit=1)
        charges: dict[tuple[str, str], tuple[Charge, ...]] = {
            ("soma", "access"): (Charge(soma, "access"),),
            ("soma", "update"): (Charge(soma, "update"),),
            # Davies et al. give one figure for an active neuron, its spike included
            ("soma", "spike_out"): (Charge(soma, "spike_out"),) if self.units == SANAFE else (),
            ("axon", "out"): (Charge(axon, "out"),),
            ("axon", "in"): (),
            ("router", "hop_x"): (Charge(router, "hop_x"),),
            ("router", "hop_y"): (Charge(router, "hop_y"),),
            ("link", "message"): (Charge(Component("link", width_bit=self.message_bit), "transfer"),),
        }
        synapse = Component("synapse", width_bit=1)
        for name in SYNAPSES_NS[self.units]:
            charges["synapse", _event(name)] = (Charge(synapse, _event(name)),)
        return charges

    def notes(self) -> tuple[str, ...]:
        """What the units are, and what the model leaves out."""
        said = [
            "units loihi-sanafe: the calibration that SANA-FE ships for Loihi, not measured by us"
            if self.units == SANAFE
            else "units loihi-davies2018: pre-silicon simulation, read second hand; access and update are its inactive and active "
            "neuron, a message within a tile stands for sending, and receiving is free",
            *(
                []
                if self.table == self.units
                else [f"of {self.units} are latencies and barrier alone, the energies are those of {self.table}"]
            ),
            "every sample begins at rest; resetting the membranes between samples is not priced",
        ]
        own = LATENCIES_NS[self.units]
        changed = [name for name, ns in own.items() if getattr(self, f"{name}_ns") != ns]
        if self.synapse_ns >= 0:
            changed.append("synapse")
        if changed:
            said.append(f"latencies that are not those of {self.units}: {', '.join(f'{name}_ns' for name in changed)}")
        if self.chips > 1:
            said.append(
                f"the link between chips is not published: a message of {self.message_bit} bits pays an off-package link of another "
                "design for each boundary it crosses, and no time"
            )
        return tuple(said)

    def beside_measured(self, report: Report) -> tuple[str, ...]:
        """What counted events leave out of a measured Loihi, and what stands for it."""
        share = f"counted events explain {100 * EXPLAINED:.1f} % of the energy of a measured Loihi keyword network"
        if "none" in (self.static, self.host):
            return (f"{share}; static=blouw2018,host=blouw2018 add what that board drew",)
        return (f"{share}; idle chip and host are constants of a measured board",)


def _event(synapse_class: str) -> str:
    return "event" if synapse_class == "dense" else f"{synapse_class}_event"


def _whole_ticks(key: str, nanoseconds: float) -> int:
    ticks = Fraction(str(nanoseconds)) * 10
    if ticks.denominator != 1:
        raise ConfigError(f"{key}: got {nanoseconds:g} ns, expected whole ticks of 0.1 ns")
    return int(ticks)


#: Preset -> fields, for `Loihi.presets`.
LOIHI_PRESETS: abc.Mapping[str, abc.Mapping[str, object]] = {
    "loihi": {},
    # its own hops instead of the routers of another network
    DAVIES: {
        "units": DAVIES, "table": DAVIES, **{f"{name}_ns": ns for name, ns in LATENCIES_NS[DAVIES].items()},
        "router_ns": 0.0, "noc_cycle_ns": 0.0,
    },
}  # fmt: skip
assert {f"{name}_ns" for name in LATENCIES_NS[DAVIES]} <= {item.name for item in fields(LoihiArch)}
