"""Balanced starting weights: a network without normalisation fires from the start."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from spikeloom.core.network import Network
from spikeloom.core.nodes import SPIKING
from spikeloom.errors import NetworkError
from spikeloom.snn import TrainConfig, build
from spikeloom.snn.balance import balance

from .toys import spiking_frames, tiny_cnn


def rates(network: Network, frames: torch.Tensor) -> dict[str, float]:
    found: dict[str, float] = {}
    followers = {network.outputs_of(name)[0]: name for name, node in network.nodes.items() if isinstance(node, SPIKING)}

    def watch(name: str, arrived: torch.Tensor, sent: torch.Tensor) -> None:
        if name in followers:
            found[followers[name]] = float((arrived != 0).float().mean())

    with torch.no_grad():
        build(network).eval()(frames.flatten(0, 1), frames.shape[0], False, watch)
    return found


def test_layers_fire_at_the_rate_asked_for() -> None:
    network = tiny_cnn("spikes", norm=False)
    frames = torch.from_numpy(spiking_frames(8, 16, (1, 6, 6), 0.1)).float()
    module = build(network, seed=2)
    assert max(rates(module.to_network(), frames).values()) < 0.03
    balance(module, network, frames.flatten(0, 1), 8, False, 0.05)
    found = rates(module.to_network(), frames)
    assert len(found) == 2
    assert all(rate == pytest.approx(0.05, abs=0.005) for rate in found.values())


def test_weights_and_statistics_that_are_there_stay() -> None:
    network = build(tiny_cnn("spikes"), seed=2).to_network()
    frames = torch.from_numpy(spiking_frames(8, 4, (1, 6, 6), 0.1)).float().flatten(0, 1)
    for start in (network, tiny_cnn("spikes")):  # given weights, and drawn ones in front of a normalisation
        module = build(start, seed=2)
        balance(module, start, frames, 8, False, 0.4)
        assert module.to_network().id == network.id


def test_a_silent_input_ends_at_the_widest_scale() -> None:
    network = tiny_cnn("spikes", norm=False)
    module = build(network)
    balance(module, network, torch.zeros(8, 1, 6, 6), 8, False, 0.05)
    assert all(np.isfinite(p.detach().numpy()).all() for p in module.parameters())


def test_impossible_rate() -> None:
    with pytest.raises(NetworkError, match="initial_rate must be between 0 and 1"):
        replace(TrainConfig(num_steps=4), initial_rate=1.5)
