"""What each priced instance of a machine is for, and from that what a bill holds. Every instance is listed; none is guessed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, get_args

Purpose = Literal[
    "compute", "neuron", "on-chip memory", "off-chip memory", "link", "clock and leakage", "host", "training",
    "whole board measured", "whole board described",
]  # fmt: skip
#: Purposes of what is no part of a chip: what it draws when idle is for the same.
WHOLE: tuple[Purpose, ...] = ("whole board measured", "whole board described")

#: Model -> purpose -> instances, or ``instance.action`` where an instance does several things.
_LISTED: Mapping[str, Mapping[Purpose, tuple[str, ...]]] = {
    "spikex": {
        "compute": ("array", "pe"),
        "neuron": ("pe.update", "pe.leak", "vmem"),
        "on-chip memory": ("lbuf_weight", "lbuf_act", "glb_weight", "glb_act", "glb_psum"),
        "off-chip memory": ("dram", "dram_weight", "dram_act", "dram_out", "dram_psum"),
    },
    "sata": {
        "compute": ("mac", "spad"),
        "neuron": ("lif",),
        "on-chip memory": ("glb_ifmap", "glb_weight", "glb_ofmap", "glb_psum"),
        "off-chip memory": ("dram_ifmap", "dram_weight", "dram_ofmap", "dram_psum"),
    },
    "systolic": {  # an ANN's "neuron" is what rescales, rounds and rectifies; a cycle of the array is its clock
        "compute": ("pe", "vector", "out.join"),
        "neuron": ("out",),
        "on-chip memory": ("glb_ifmap", "glb_weight", "glb_ofmap"),
        "off-chip memory": ("dram", "dram_ifmap", "dram_weight", "dram_ofmap", "dram_psum", "dram_membrane"),
        "clock and leakage": ("array",),
    },
    "spikesim": {  # weights never move
        "compute": ("crossbar", "adc", "mux", "subtractor", "neuron.join"),
        "neuron": ("neuron",),
        "on-chip memory": ("temp_buffer", "tile_buffer", "memory"),
        "link": ("htree", "mesh"),
    },
    "loihi": {  # weights never move
        "compute": ("synapse",),
        "neuron": ("soma",),
        "link": ("axon", "router", "link"),
        "host": ("host",),
    },
    "edge": {"whole board measured": ("device",)},  # what the parts of a stick draw was not measured
    "sata-training": {
        "compute": ("forward.ac",),
        "neuron": ("forward.lif",),
        "on-chip memory": ("forward.glb", "forward.spad"),
        "off-chip memory": ("forward.dram",),
        "training": ("backward", "update"),
    },
}
#: Model -> instance, or ``instance.action`` -> purpose.
PURPOSES: Mapping[str, Mapping[str, Purpose]] = {
    model: {name: purpose for purpose, names in listed.items() for name in names} for model, listed in _LISTED.items()
}


def holds(purposes: Mapping[str, Purpose], paid: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Kinds of cost that a bill holds, in the order of `Purpose`; () where nothing says what the instances are for.

    paid: (instance, action) of all that is priced, ``leakage`` among the actions. What is always on (``clock``, ``leakage``) is
    one kind, whatever part it is of; a host's and a whole board's stay what they are.
    """
    found = set()
    for instance, action in paid:
        purpose = purposes.get(f"{instance}.{action}") or purposes.get(instance)
        if action in ("clock", "leakage") and purposes and purpose not in ("host", *WHOLE):
            purpose = "clock and leakage"
        found.add(purpose)
    return tuple(purpose for purpose in get_args(Purpose) if purpose in found)
