"""How wide the weights of a network are charged, and whether anybody said so."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from spikeloom.core.network import Network
from spikeloom.core.nodes import Synapse
from spikeloom.errors import ConfigError

#: Keys of a network's metadata: "arithmetic" as a trace states it ("" where it does not), synapses of whose width a trace is silent,
#: and the width a user asked for.
SAID, SILENT, ASKED = "arithmetic", "unstated_widths", "weight_bits_asked"


@dataclass(frozen=True)
class Width:
    """A width that the weights themselves do not have. note: in words. charged: bits. assumed: nobody asked for them."""

    note: str
    charged: tuple[int, ...]
    assumed: bool


def made_with(network: Network) -> str:
    """What computed the spikes: "float32", "integer" and more words, or nothing where neither weights nor a trace say it."""
    if said := network.metadata.get(SAID):
        return str(said)
    held = any(isinstance(node, Synapse) and node.weight is not None for node in network.nodes.values())
    return network.arithmetic if held else ""


def open_widths(network: Network) -> tuple[str, ...]:
    """The synapses whose width nobody settled: those of a float network that are no integers, else those of which a trace is silent."""
    held = {name: node.weight for name, node in network.nodes.items() if isinstance(node, Synapse)}
    told, silent = "float" in made_with(network), network.metadata.get(SILENT, ())
    return tuple(n for n, w in held.items() if n in silent or (told and (w is None or w.dtype.kind == "f")))


def width_of(network: Network) -> Width | None:
    """What a bill of the network has to say of its widths; None where they are those of its weights."""
    bits = {name: network.nodes[name].weight_bits for name in open_widths(network)}  # type: ignore[union-attr]
    return told_width(bits, made_with(network), network.metadata.get(ASKED))


def told_width(bits: Mapping[str, int], made: str, asked: int | None = None) -> Width | None:
    """As `width_of`, of layers with open widths ``bits``; ``made``: as `made_with`."""
    charged = tuple(sorted(set(bits.values())))
    words, real = f"{'/'.join(map(str, charged))} bits", re.search(r"float(\d+)", made)
    if asked is not None:
        floats = f"; they are {real[0]}" if real else ""
        return Width(f"weights are charged with {asked} bits, as --weight-bits asks{floats}", (asked,), False)
    if not charged or (real and charged == (int(real[1]),)):
        return None
    note = f"nothing says how wide the weights of {', '.join(bits)} are: charged with {words}"
    if "float" in made:
        note = f"weights are {real[0] if real else made}, charged as if quantised to {words}"
    return Width(f"{note}; --weight-bits charges another width", charged, True)


def with_weight_bits(network: Network, bits: int | None, where: str) -> Network:
    """The network with weights of ``bits`` wherever their width is open; as it is where ``bits`` is None.

    Raises:
        ConfigError: no width is open, or no such width.
    """
    if bits is None:
        return network
    found = open_widths(network)
    check_asked(bits, found, where)
    nodes = {
        n: replace(x, weight_bits=bits) if isinstance(x, Synapse) and n in found else x
        for n, x in network.nodes.items()
    }
    return replace(network, nodes=nodes, metadata={**network.metadata, ASKED: bits})


def check_asked(bits: int, found: Iterable[str], where: str) -> None:
    """Raises ConfigError where a width is asked for that no header could state, or where no layer of ``found`` can have another."""
    if not 1 <= bits <= 64:
        raise ConfigError(f"--weight-bits {bits}: expected 1..64")
    if not tuple(found):
        raise ConfigError(
            f"--weight-bits {bits}: {where} says how wide its weights are, and they are no floats; leave the option out, or quantise "
            "the network to another width"
        )
