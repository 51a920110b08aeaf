"""Starting weights at which every layer fires: a network without normalisation or bias is otherwise easily born silent.

Layer by layer, the weights drawn for a synapse are scaled until the neurons behind it spike at a chosen rate on one batch (after
the layer-sequential initialisation of Mishkin and Matas, ICLR 2016, with the spike rate in place of the variance).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from spikeloom.core.network import Network
from spikeloom.core.nodes import IF, LIF, CubaLIF, Synapse
from spikeloom.snn.build import SpikingModule
from spikeloom.snn.modules import SpikingNeuron, SynapseModule

_HALVINGS = 12
_WIDEST = 64.0  # a scale beyond 1/64..64 would mean that nothing arrives


def balance(
    module: SpikingModule, network: Network, frames: Tensor, num_steps: int, constant: bool, rate: float
) -> None:
    """Scale drawn weights so that the neurons directly behind them spike at ``rate``.

    Args:
        module: changed in place.
        network: what the module was built from; weights present there are left alone.
        frames, num_steps, constant: one batch, as `SpikingModule.forward` takes it.
        rate: spikes per neuron and step, 0..1; a layer that cannot reach it gets as near as it can.
    """
    statistics = {name: buffer.clone() for name, buffer in module.named_buffers()}
    for name in network.order():
        node = network.nodes[name]
        sources = network.inputs_of(name)
        if not isinstance(node, IF | LIF | CubaLIF) or len(sources) != 1:
            continue
        before = network.nodes[sources[0]]
        if not isinstance(before, Synapse) or before.weight is not None:
            continue
        synapse, neuron = module.module_of(sources[0]), module.module_of(name)
        assert isinstance(synapse, SynapseModule) and isinstance(neuron, SpikingNeuron)
        with torch.no_grad():
            synapse.weight.mul_(_scale(neuron, _arriving(module, name, frames, num_steps, constant), rate))
    for name, buffer in module.named_buffers():
        buffer.copy_(statistics[name])  # running averages of a normalisation elsewhere have not begun yet


def _arriving(module: SpikingModule, name: str, frames: Tensor, num_steps: int, constant: bool) -> Tensor:
    """The sums that reach neuron ``name``, shape (T, N, *shape)."""
    found: list[Tensor] = []
    module(frames, num_steps, constant, lambda at, arrived, _: found.append(arrived) if at == name else None)
    return found[0]


def _scale(neuron: SpikingNeuron, psum: Tensor, rate: float) -> float:
    """The factor on ``psum`` at which ``neuron`` spikes at ``rate``, by bisection in the logarithm."""
    low, high = 1 / _WIDEST, _WIDEST
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        if neuron.rate(psum * middle) < rate:
            low = middle
        else:
            high = middle
    return math.sqrt(low * high)
