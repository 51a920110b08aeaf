"""Whose neurons a NIR graph means: exporters write the same nodes for neurons that fire and reset differently.

snnTorch 1.0.0 (export_nir.py): ``tau = dt / (1 - beta)`` with a dt of 1e-4 s in float32 (float64 in recurrent cells), for neurons that
fire above the threshold and reset one step late unless told otherwise. sinabs 3.1.3 (nir.py, layers/iaf.py): IAF sends
``floor(v / v_threshold)`` spikes a step and, read back, never falls below -v_threshold.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from spikeloom.core.nodes import IF, LIF, CubaLIF, Leak, Node
from spikeloom.errors import NetworkFileError
from spikeloom.files.nir_nodes import Choices, Part, compact, squeezed
from spikeloom.files.nir_tree import Neurons

SNNTORCH_DT_S = 1e-4
#: Frameworks whose neurons are no nodes of ours, and what these do.
_ABSENT = {
    "sinabs": "sends several spikes a step and stops the membrane of its IAF at a floor",
    "lava": "rounds its state to integers in a way of its own",
}


def choices_for(neurons: Neurons, reset: Any, **others: Any) -> Choices:
    """The choices of a reading; what a framework always means goes before defaults, and against it nothing is accepted."""
    if neurons != "snntorch":
        return Choices(reset=reset or "hard", **others)
    if others["dt_s"] not in (None, SNNTORCH_DT_S) or others["discretisation"] != "euler":
        raise NetworkFileError(
            f"got dt_s {others['dt_s']} and discretisation '{others['discretisation']}', but snnTorch writes every network with a step "
            f"of {SNNTORCH_DT_S} s and 'euler'; leave both out under neurons='snntorch'"
        )
    always = {"dt_s": SNNTORCH_DT_S, "strict": True, "loop_delay": others["loop_delay"] or 1}
    return Choices(reset=reset or "soft", **{**others, **always})


def meant(neurons: Neurons, part: Part, node: Node) -> Node:
    """The node that a framework's neuron is; what our own writer stated stays.

    Raises:
        NetworkFileError: naming the node: the framework's neuron is none of ours.
    """
    if neurons == "exact" or not isinstance(node, IF | LIF | CubaLIF) or "reset" in part.stated:
        return node
    if neurons in _ABSENT:
        raise part.fail(
            f"{neurons} {_ABSENT[neurons]}, and no neuron here does so; read it as 'exact', whose spikes differ"
        )
    if isinstance(node, IF):
        raise part.fail("snnTorch writes no neurons without a leak; say whose it is, or 'exact' (--neurons)")
    if isinstance(node, LIF):
        return replace(node, leak=_decay(part, "tau"), late_reset=node.reset == "soft")
    late = node.reset != "none"
    return replace(node, leak=_decay(part, "tau_mem"), syn_leak=_decay(part, "tau_syn"), late_reset=late)


def _decay(part: Part, key: str) -> Leak:
    """The float32 decay that a time constant was made of."""
    tau = part.values[key]
    assert isinstance(tau, np.ndarray)
    step = np.float64(tau.dtype.type(SNNTORCH_DT_S)) if tau.dtype.kind == "f" else SNNTORCH_DT_S
    kept = 1 - step / squeezed(tau.astype(np.float64))
    return Leak(factor=compact(np.maximum(kept, 0).astype(np.float32)))
