"""Networks from live modules: plain torch, snnTorch, SpikingJelly and Norse, and from weights beside a description.

The frameworks are known by the names of their classes and never imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
from torch import nn

from spikeloom.core.network import Network
from spikeloom.core.nodes import Shape
from spikeloom.errors import NetworkError
from spikeloom.snn.importers.assembly import Assembly, Place, Time, every
from spikeloom.snn.importers.copies import working_copy
from spikeloom.snn.importers.description import import_checkpoint
from spikeloom.snn.importers.trace import FRAMEWORKS, Walk, framework_of, takes_sequences
from spikeloom.snn.importers.verify import verified

__all__ = ["FRAMEWORKS", "import_checkpoint", "import_module"]

Encoding = Literal["spikes", "levels", "analog"]


def import_module(
    module: nn.Module,
    in_shape: Shape,
    *,
    encoding: Encoding = "spikes",
    name: str = "network",
    dt_s: float | None = None,
    verify: bool = True,
) -> Network:
    """The network that a live module computes in evaluation mode, its weights copied as float32.

    Containers are opened, a forward of one's own is followed by torch.fx; it must be that of one time step, or of all of them at
    once where the framework's layers take (T, N, ...). Neurons start from what a reset leaves. A copy is followed and run: the module,
    its attributes and the random states are not changed.

    Args:
        module: layers of torch.nn, snnTorch, SpikingJelly or Norse in any nesting.
        in_shape: of the input map, [C, H, W], [C, L] or [C], without T and N.
        encoding: what arrives there; pixels p/255 of an ANN are "analog".
        name: of the network.
        dt_s: length of a step in seconds; None takes what the framework says, if it does.
        verify: run the module and the network side by side on drawn input, and refuse what differs.

    Returns:
        A network with the modules' paths as names. metadata: ``imported_from``, the frameworks met; ``dropped``, what was left out at
        the end (a softmax, a mean over time); ``verified``, what was compared, or "no".

    Raises:
        NetworkError: a layer, a function, a state or an option that no node says, a forward that cannot be followed, shapes that do not
            fit, a layer that computes something else than what was read.
    """
    if not isinstance(module, nn.Module):
        raise NetworkError(f"got {type(module).__name__}, expected a torch.nn.Module; call the class to make one")
    inside = list(module.modules())
    time: Time = "sequence" if any(map(takes_sequences, inside)) else "step"
    if encoding not in get_args(Encoding):
        raise NetworkError(f"got the encoding {encoding!r}, expected one of {', '.join(get_args(Encoding))}")
    assembly = Assembly(_shape(in_shape), encoding, {path for path, _ in module.named_modules()})
    frameworks = sorted({framework_of(m) for m in inside} - {"user", "torch"})
    untouched = working_copy(module)
    walk = Walk(assembly, untouched)
    returned = walk.module(untouched, "", assembly.start, time)
    place = _output(returned, assembly)
    network = assembly.finished(place, name, dt_s, ", ".join(frameworks) or "torch")
    report = verified(network, untouched, walk, returned, time) if verify else "no"
    return replace(network, metadata={**network.metadata, "verified": report})


def _shape(in_shape: Any) -> Shape:
    """The shape of a map. Raises NetworkError for anything else."""
    sizes = tuple(in_shape) if isinstance(in_shape, Sequence) and not isinstance(in_shape, str) else ()
    whole = all(isinstance(size, int | np.integer) and not isinstance(size, bool) and size >= 1 for size in sizes)
    if not 1 <= len(sizes) <= 3 or not whole:
        raise NetworkError(
            f"got the in_shape {in_shape!r}, expected whole numbers of at least 1: (C, H, W), (C, L) or (C,)"
        )
    return tuple(int(size) for size in sizes)


def _output(returned: Any, assembly: Assembly) -> Place:
    """The one place whose spikes a forward returns; others that lie on the way to it do not count."""
    found = {place.name: place for place in every(Place, returned)}
    if not found:
        raise NetworkError("the module returns no spikes or sums, only states; return what its last layer sends")
    ends = [name for name in found if not any(_leads(assembly, name, other) for other in found if other != name)]
    if len(ends) > 1:
        raise NetworkError(f"the module returns {len(ends)} outputs {ends}, expected one; return the last one only")
    return found[ends[0]] if ends else next(reversed(found.values()))


def _leads(assembly: Assembly, name: str, other: str) -> bool:
    """True if a way leads from node ``name`` to node ``other``."""
    reached = {name}
    for a, b in assembly.edges:  # what leads to a node was added before it
        if a in reached:
            reached.add(b)
    return other in reached
