"""Norse's neurons as nodes, as Norse 1.1.0 computes them; the package itself is never imported.

Equations, ``a = dt*tau_mem_inv``, ``b = dt*tau_syn_inv``, ``z = v > v_th``::

    LIFBoxCell       v = v + a*(v_leak - v + x)
    LIFCell, LIF     i' = i + x,  v = v + a*(v_leak - v + i'),  i = (1 - b)*i'
    LIFRecurrent..   the same with x = W_in*x + W_rec*z of the last step
    IAFCell, IAF     v = v + x
    LIBoxCell, LICell, LI, LILinearCell   the same without a spike; what they send is v

then ``v = v_reset`` after a spike, or ``v - v_th`` with reset_subtract. A leak of ours pulls towards 0 and takes its input whole,
so a spiking membrane is counted from v_leak and in units of a, ``u = (v - v_leak) / a``, threshold and reset likewise. Its sums are
then rounded otherwise in the last bit, which decides only where a membrane meets its threshold exactly.

Source: norse/torch/functional/{lif,lif_box,iaf,leaky_integrator,leaky_integrator_box}.py of release 1.1.0.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from spikeloom.core.nodes import IF, LI, LIF, CubaLIF, Delay, Leak, Linear, Node, Scale, Value
from spikeloom.snn.importers.assembly import Handler, Part, Site, Time, rounded, timed

_STEPS = ("heaviside", "super", "triangle", "tanh", "circ", "heavi_erfc")
_SEQUENCES = ("LIF", "LIFRecurrent", "IAF", "LI", "Lift")


def box(module: Any, site: Site) -> Part:
    """LIFBoxCell."""
    p = module.p
    share = _share(module, site, "tau_mem_inv")
    rule = _firing(module, site, np.asarray(site.value("v_leak", p.v_leak)), share)
    subtracts = getattr(p.reset_method, "__name__", "") == "reset_subtract"
    site.need(
        subtracts or getattr(p.reset_method, "__name__", "") == "reset_value",
        f"has reset_method {p.reset_method}, expected reset_value or reset_subtract of norse",
    )
    if subtracts:
        leak = site.value("v_leak", p.v_leak)
        site.need(bool(np.all(np.asarray(leak) == 0)), f"has reset_subtract with v_leak {leak}, expected v_leak 0")
        rule |= {"reset": "soft", "v_reset": 0.0}
    return _part(module, {"": LIF(_leak(site, share, "the membrane"), **rule)})


def current_based(module: Any, site: Site) -> Part:
    """LIFCell and LIF."""
    return _part(module, {"": _current_based(module, site)})


def recurrent(module: Any, site: Site) -> Part:
    """LIFRecurrentCell and LIFRecurrent, a loop through a delay of one step."""
    nodes: dict[str, Node] = {"input": _matrix(site, "input_weights", module), "": _current_based(module, site)}
    return _part(module, nodes, {"delay": Delay(1), "recurrent": _matrix(site, "recurrent_weights", module)})


def integrate_and_fire(module: Any, site: Site) -> Part:
    """IAFCell and IAF; start at v_reset."""
    rule = _firing(module, site, np.asarray(0.0), np.asarray(1.0))
    return _part(module, {"": IF(v_init=rule["v_reset"], **rule)})


def integrator_box(module: Any, site: Site) -> Part:
    """LIBoxCell."""
    return _part(module, _integrator(module, site))


def integrator(module: Any, site: Site) -> Part:
    """LICell and LI: the synaptic current is an integrator of its own."""
    synapse = LI(_leak(site, _share(module, site, "tau_syn_inv"), "the synaptic current"))
    return _part(module, {"synapse": synapse, **_integrator(module, site)})


def linear_integrator(module: Any, site: Site) -> Part:
    """LILinearCell."""
    weights = _matrix(site, "input_weights", module)
    return _part(module, {"input": weights, **integrator(module, site).nodes})


def _integrator(module: Any, site: Site) -> dict[str, Node]:
    leak = site.value("v_leak", module.p.v_leak)
    site.need(bool(np.all(np.asarray(leak) == 0)), f"has v_leak {leak}, expected 0; add it to what reads the membrane")
    share = _share(module, site, "tau_mem_inv")
    return {"scale": Scale(np.atleast_1d(share).astype(np.float32)), "": LI(_leak(site, share, "the membrane"))}


def _current_based(module: Any, site: Site) -> CubaLIF:
    share = _share(module, site, "tau_mem_inv")
    rule = _firing(module, site, np.asarray(site.value("v_leak", module.p.v_leak)), share)
    current = _leak(site, _share(module, site, "tau_syn_inv"), "the synaptic current")
    return CubaLIF(_leak(site, share, "the membrane"), current, **rule)


def _share(module: Any, site: Site, key: str) -> np.ndarray:
    """``dt`` times an inverse time constant, rounded to float32 as Norse does."""
    inverse = np.asarray(site.value(key, getattr(module.p, key)), np.float32)
    return np.asarray(site.positive(f"dt*{key}", rounded(np.float32(module.dt) * inverse)))


def _leak(site: Site, share: np.ndarray, what: str) -> Leak:
    return Leak(factor=site.fraction(what, rounded(1 - share)))


def _firing(module: Any, site: Site, zero: np.ndarray, unit: np.ndarray) -> dict[str, Any]:
    """Threshold and reset of a membrane counted from ``zero`` in ``unit``. Raises NetworkError for what no node says."""
    p = module.p
    site.need(p.method in _STEPS, f"has method '{p.method}', expected one of {', '.join(_STEPS)}")

    def counted(key: str) -> Value:
        return rounded((np.asarray(site.value(key, getattr(p, key))) - zero) / unit)

    threshold = site.positive("v_th above v_leak", counted("v_th"))
    return {"v_threshold": threshold, "reset": "hard", "strict": True, "v_reset": counted("v_reset")}


def _matrix(site: Site, what: str, module: Any) -> Linear:
    weight = site.array(what, getattr(module, what))
    return Linear(weight.shape[1], weight.shape[0], weight=weight)


def _part(module: Any, nodes: dict[str, Node], feedback: dict[str, Node] | None = None) -> Part:
    return Part(nodes, feedback or {}, states=1, stateful=True, dt_s=float(module.dt))


#: Norse classes by name.
LAYERS: dict[str, Handler] = {
    "LIFBoxCell": timed("step", box),
    "LIFCell": timed("step", current_based),
    "LIFRecurrentCell": timed("step", recurrent),
    "IAFCell": timed("step", integrate_and_fire),
    "LIBoxCell": timed("step", integrator_box),
    "LICell": timed("step", integrator),
    "LILinearCell": timed("step", linear_integrator),
    "LIF": timed("sequence", current_based),
    "LIFRecurrent": timed("sequence", recurrent),
    "IAF": timed("sequence", integrate_and_fire),
    "LI": timed("sequence", integrator),
}


def inner_time(module: Any, time: Time) -> Time | None:
    """How the modules inside a container see time; None for what is no container."""
    match type(module).__name__:
        case "SequentialState":
            return time
        case "Lift":
            return "step"
    return None


def takes_sequences(module: Any) -> bool:
    """True for a module that takes all steps at once."""
    return type(module).__name__ in _SEQUENCES
