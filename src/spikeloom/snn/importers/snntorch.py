"""snnTorch's neurons as nodes, as snnTorch 1.0.0 computes them; the package itself is never imported.

Equations, ``r[t] = mem[t-1] > threshold``, ``spk[t] = mem[t] > threshold``, beta and alpha clipped to 0..1::

    Leaky      mem[t] = beta*mem[t-1] + x[t] - r[t]*threshold              subtract: a late soft reset
               mem[t] = beta*(1 - r[t])*mem[t-1] + x[t]                    zero: a hard reset, x[t] is kept
    Synaptic   syn[t] = alpha*syn[t-1] + x[t]
               mem[t] = beta*mem[t-1] + syn[t] - r[t]*threshold            subtract
               mem[t] = (1 - r[t]) * (beta*mem[t-1] + syn[t])              zero: a late hard reset, the step's input is lost
    Lapicque   mem[t] = (1 - dt/RC)*mem[t-1] + x[t]*dt/C - r[t]*threshold  and a late hard reset for zero
    RLeaky, RSynaptic   as Leaky (but with a late hard reset for zero) and Synaptic with x[t] + V(spk[t-1])

Source: snntorch/_neurons of release 1.0.0. Sums may be rounded in another order where a recurrent input joins in.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from torch import nn

from spikeloom.core.nodes import LIF, CubaLIF, Delay, Leak, Node, Scale, Value
from spikeloom.snn.importers import torch_nn
from spikeloom.snn.importers.assembly import Handler, Part, Site, rounded, steps, timed

_RESETS: dict[str, Literal["soft", "hard", "none"]] = {"subtract": "soft", "zero": "hard", "none": "none"}
_METHODS = {"subtract": "_base_sub", "zero": "_base_zero", "none": "_base_int"}


def leaky(module: Any, site: Site) -> Part:
    """Leaky."""
    rule = _firing(module, site)
    rule["late_reset"] = rule["reset"] == "soft"
    return _part(module, LIF(Leak(factor=_kept(module.beta, "membrane", site)), **rule))


def synaptic(module: Any, site: Site) -> Part:
    """Synaptic."""
    return _part(module, _current_based(module, site))


def lapicque(module: Any, site: Site) -> Part:
    """Lapicque; the membrane is counted in units of dt/C, so that the input needs no factor."""
    R, C, dt = (getattr(module, key, None) for key in ("R", "C", "time_step"))
    site.need(R is not None and C is not None, "has neither beta nor R and C; state beta, or R and C")
    R, C, dt = (np.asarray(site.value(key, tensor)) for key, tensor in (("R", R), ("C", C), ("time_step", dt)))
    kept = site.fraction("a share of the membrane", rounded(1 - np.float32(dt) / np.float32(R * C)))
    gain = np.asarray(site.positive("dt/C", rounded(dt / C)))
    rule = _firing(module, site)
    rule["v_threshold"] = rounded(np.asarray(rule["v_threshold"]) / gain)
    return _part(module, LIF(Leak(factor=kept), **rule))


def recurrent_leaky(module: Any, site: Site) -> Part:
    """RLeaky, a loop through a delay of one step."""
    node = LIF(Leak(factor=_kept(module.beta, "membrane", site)), **_firing(module, site))
    return _part(module, node, _feedback(module, site))


def recurrent_synaptic(module: Any, site: Site) -> Part:
    """RSynaptic, a loop through a delay of one step."""
    site.need(module.reset_delay, "has reset_delay=False, with which RSynaptic fails or resets nothing; set it to True")
    return _part(module, _current_based(module, site), _feedback(module, site))


def _current_based(module: Any, site: Site) -> CubaLIF:
    membrane = Leak(factor=_kept(module.beta, "membrane", site))
    return CubaLIF(membrane, Leak(factor=_kept(module.alpha, "synaptic current", site)), **_firing(module, site))


def _kept(tensor: Any, what: str, site: Site) -> Value:
    """A decay clipped to 0..1, as the forward does."""
    return rounded(np.clip(np.asarray(site.value(f"{what} decay", tensor)), 0, 1))


def _firing(module: Any, site: Site) -> dict[str, Any]:
    """Threshold and reset of a neuron. Raises NetworkError for what no node says."""
    mechanism = module.reset_mechanism
    site.need(not module.inhibition, "has inhibition=True, where neurons silence one another; set it to False")
    site.need(
        not module.state_quant, "has state_quant, which rounds its state; set it to False and quantize the network"
    )
    graded = site.value("graded_spikes_factor", module.graded_spikes_factor)
    site.need(bool(np.all(np.asarray(graded) == 1)), f"has graded_spikes_factor {graded}, expected 1")
    site.need(
        module.state_function.__name__ == _METHODS[mechanism],
        f"was made with another reset_mechanism than '{mechanism}' and still resets that way; make it anew",
    )
    delayed = getattr(module, "reset_delay", True)
    site.need(
        delayed or mechanism != "subtract",
        "has reset_delay=False with reset_mechanism 'subtract': a membrane left above its threshold then fires at twice the "
        "threshold, which no node says; use reset_delay=True or 'zero'",
    )
    site.need(
        steps(module.spike_grad, [0, 0, 0, 1, 1]),
        "has a spike_grad that is no step function (1 above 0, else 0); use one of snntorch.surrogate",
    )
    threshold = site.positive("threshold", site.value("threshold", module.threshold))
    late = delayed and mechanism != "none"
    return {"v_threshold": threshold, "reset": _RESETS[mechanism], "strict": True, "late_reset": late}


def _part(module: Any, node: Node, feedback: dict[str, Node] | None = None) -> Part:
    """The neuron, which returns its states besides unless they are hidden."""
    returned = int(module.output or not module.init_hidden)
    return Part({"": node}, feedback or {}, states=returned, stateful=True)


def _feedback(module: Any, site: Site) -> dict[str, Node]:
    """From the spikes of the last step back to the neuron: a factor, or weights."""
    inner = module.recurrent
    if isinstance(inner, nn.Linear | nn.Conv2d):
        handler = torch_nn.LAYERS[type(inner).__name__]
        weights = handler(inner, Site(f"{site.name}.recurrent", type(inner).__name__, site.shape, site.time)).nodes[""]
        return {"delay": Delay(1), "recurrent": weights}
    factor = np.atleast_1d(np.asarray(site.value("V", inner.V), np.float32))
    return {"delay": Delay(1), "recurrent": Scale(factor)}


#: snnTorch classes by name.
LAYERS: dict[str, Handler] = {
    "Leaky": timed("step", leaky),
    "Synaptic": timed("step", synaptic),
    "Lapicque": timed("step", lapicque),
    "RLeaky": timed("step", recurrent_leaky),
    "RSynaptic": timed("step", recurrent_synaptic),
}
