"""SpikingJelly's layers and neurons as nodes, as SpikingJelly 2.0.0 computes them; the package itself is never imported.

Equations, ``spk = h >= v_threshold``, ``v0 = v_reset`` or 0 where that is None (a soft reset)::

    IFNode                    h = v + x
    LIFNode, decay_input      h = v + (x - (v - v0)) / tau
    LIFNode, not decay_input  h = v - (v - v0) / tau + x
    ParametricLIFNode         the same with sigmoid(w) for 1/tau

A leak of ours pulls towards 0 and takes its input whole, so a leaky membrane is counted from v0 and, with decay_input, in units of
1/tau: ``u = (v - v0) * tau``, the threshold and the v of a ``reset``, from which it starts, likewise. Its sums are then rounded otherwise in the last bit, which decides only where
a membrane meets its threshold exactly, as round inputs and weights can make it.

Source: spikingjelly/_ops/{if_,lif,plif}/reference.py and activation_based/layer of release 2.0.0.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from spikeloom.core.nodes import IF, LIF, Leak, Node, Reset, Value
from spikeloom.snn.importers import torch_nn
from spikeloom.snn.importers.assembly import Handler, Part, Site, Time, rounded, steps


def integrate_and_fire(module: Any, site: Site) -> Part:
    """IFNode."""
    threshold, v_reset = _limits(module, site)
    start = site.value("v", module.v)
    if v_reset is None:
        return _neuron(IF(threshold, "soft", v_init=start))
    return _neuron(IF(threshold, "hard", v_init=start, v_reset=v_reset))


def leaky(module: Any, site: Site) -> Part:
    """LIFNode."""
    site.need(module.tau >= 1, f"has tau {module.tau}, expected at least 1")
    return _leaky(module, site, 1 / float(module.tau))


def parametric(module: Any, site: Site) -> Part:
    """ParametricLIFNode."""
    share = site.value("w", module.w.detach().sigmoid())
    site.need(isinstance(share, float), "has a w for each neuron, expected one number")
    return _leaky(module, site, float(np.asarray(share)))


def _leaky(module: Any, site: Site, share: float) -> Part:
    """A leaky neuron that takes ``share`` of the way to its rest in a step."""
    threshold, v_reset = _limits(module, site)
    above = np.asarray(threshold) - (v_reset or 0.0)
    above = np.asarray(
        site.positive("threshold above v_reset", rounded(above / share if module.decay_input else above))
    )
    start = np.asarray(site.value("v", module.v)) - (v_reset or 0.0)
    v_init = rounded(start / share if module.decay_input else start)
    reset: Reset = "soft" if v_reset is None else "hard"
    return _neuron(LIF(Leak(factor=1 - share), rounded(above), reset, v_init=v_init))


def _limits(module: Any, site: Site) -> tuple[Value, float | None]:
    """Threshold and reset. Raises NetworkError for what no node says."""
    _in_step_mode(module, site)
    precision = getattr(module, "_neuron_precision", None)
    site.need(precision is None, f"computes its membrane in {precision}, expected float32")
    site.need(
        steps(module.surrogate_function, [0, 0, 1, 1, 1]),
        "has a surrogate_function that is no step function (1 from 0 on); use one of spikingjelly's with spiking=True",
    )
    threshold = site.value("v_threshold", module.v_threshold)
    v_reset = None if module.v_reset is None else float(module.v_reset)
    return site.positive("v_threshold", threshold), v_reset


def _in_step_mode(module: Any, site: Site, single: tuple[Time, ...] = ("step",)) -> None:
    mode = getattr(module, "step_mode", "m")  # layers for sequences alone have no other
    site.need(
        site.time in (("sequence",) if mode == "m" else single),
        f"has step_mode '{mode}' where the layers around it take "
        f"{'all steps at once' if site.time == 'sequence' else 'one step at a time'}; set one step_mode for the whole network",
    )


def _neuron(node: Node) -> Part:
    return Part({"": node}, stateful=True)


def _each_step(handler: Handler) -> Handler:
    """A layer of torch that takes one step, or all of them folded into the batch, by its step_mode."""

    def wrapped(module: Any, site: Site) -> Part:
        _in_step_mode(module, site, ("step", "folded"))
        return handler(module, Site(site.name, site.kind, site.shape, "folded"))

    return wrapped


#: SpikingJelly classes by name.
LAYERS: dict[str, Handler] = {
    "IFNode": integrate_and_fire,
    "LIFNode": leaky,
    "ParametricLIFNode": parametric,
    "Linear": torch_nn.linear,
    "Dropout": torch_nn.LAYERS["Dropout"],
    "Dropout2d": torch_nn.LAYERS["Dropout"],
    "ThresholdDependentBatchNorm1d": _each_step(torch_nn.batch_norm),
    "ThresholdDependentBatchNorm2d": _each_step(torch_nn.batch_norm),
    **{
        name: _each_step(torch_nn.LAYERS[name])
        for name in (
            "Conv1d", "Conv2d", "BatchNorm1d", "BatchNorm2d", "AvgPool2d", "AdaptiveAvgPool2d", "MaxPool2d", "Flatten",
        )
    },
}  # fmt: skip


def inner_time(module: Any, time: Time) -> Time | None:
    """How the layers inside a container see time; None for what is no container."""
    match type(module).__name__:
        case "SeqToANNContainer":
            return "folded"
        case "MultiStepContainer":
            return "step"
        case "StepModeContainer":
            return time if module.step_mode == "s" else "step" if module.stateful else "folded"
    return None


def takes_sequences(module: Any) -> bool:
    """True for a module that takes all steps at once."""
    only = ("SeqToANNContainer", "MultiStepContainer")
    return type(module).__name__ in only or getattr(module, "_step_mode", "s") == "m"
