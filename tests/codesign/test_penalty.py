"""The price of spikes in the loss: tags, channels, tables, and a state that survives an interruption."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from spikeloom.codesign.curves import Curve, draw_curves, fills, predicted
from spikeloom.codesign.penalty import HardwarePenalty, fills_of
from spikeloom.core.network import Network
from spikeloom.core.trace import Spikes
from spikeloom.core.workload import Workload
from spikeloom.evaluate import evaluate, load_machine
from spikeloom.snn.train import TrainConfig, train
from spikeloom.transform import fold
from tests.codesign.spiking import T, event_net, events, spikes_of

CONFIG = TrainConfig(num_steps=T, encoding="events", epochs=6, batch_size=8, learning_rate=1e-2)


def arrivals(workload: Workload, network: Network) -> dict[str, Tensor]:
    """What a penalty would see."""
    shapes = network.shapes()
    found = {}
    for layer in workload.layers:
        values = layer.arrival.unpack() if isinstance(layer.arrival, Spikes) else layer.arrival.values
        shape = shapes[network.inputs_of(layer.name)[0]]
        found[layer.name] = torch.tensor(values.reshape(*values.shape[:2], *shape), dtype=torch.float32)
    return found


@pytest.mark.parametrize("window", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("channels_last", [False, True])
def test_fill_is_that_of_the_product_in_value_and_gradient(window: int, channels_last: bool) -> None:
    generator = torch.Generator().manual_seed(window)
    spikes = (torch.rand(8 * 3, 4, 5, 6, generator=generator) < 0.25).float()
    ours, theirs = spikes.clone().requires_grad_(), spikes.clone().requires_grad_()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    seen = (ours * 1.0).contiguous(memory_format=layout).reshape(8, 3, 4, 5, 6)
    found = fills_of(seen, (4, window))[1] * 3
    words = theirs.reshape(8, 3, 4, 5, 6).split(window)
    product = torch.stack([1 - (1 - part).prod(0) for part in words]).mean() * 3
    assert float(found.detach()) == pytest.approx(float(product.detach()), rel=1e-6)
    found.backward()
    product.backward()
    assert ours.grad is not None and theirs.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert bool((ours.grad == 0).any()) == (window > 1)


@pytest.mark.parametrize("spec", ["spikex:window={conv1=1,conv2=3,fc=4}", "ptb:window=2", "spikex:fold_pool=false"])
def test_the_cost_of_a_batch_is_what_the_tables_predict(spec: str) -> None:
    network, arch = event_net(), load_machine(spec)[1]
    workload = spikes_of(network, events(6))
    curves = draw_curves(workload, arch)
    other = spikes_of(network, events(5, rate=0.1, seed=9))
    energy, latency = HardwarePenalty(curves, beta=1.0).cost(arrivals(other, network))
    expected = predicted(curves, fills(other, arch, curves))
    assert float(energy) == pytest.approx(expected[0], rel=1e-5)
    assert float(latency) == pytest.approx(expected[1], rel=1e-5)


def test_the_gradient_is_the_slope_of_the_table() -> None:
    curve = Curve(
        "fc", "fc", None, 1, 1, np.array([0.0, 0.5, 1.0]), np.array([1.0, 2.0, 6.0]), np.array([1.0, 1.0, 1.0])
    )
    spikes = torch.zeros(4, 2, 5)
    spikes[:3] = 1  # fill 0.75, on the second line
    spikes.requires_grad_()
    energy, latency = HardwarePenalty({"fc": curve}, beta=1.0).cost({"fc": spikes})
    assert float(energy.detach()) == pytest.approx(4.0)
    (energy + latency).backward()
    assert spikes.grad is not None
    assert torch.allclose(spikes.grad, torch.full_like(spikes, 8 / spikes.numel()))


def test_channels_that_spike_count_exactly_and_pass_no_gradient() -> None:
    curve = Curve("fc", "fc", None, 1, 1, np.array([0.0, 1.0]), np.array([0.0, 0.0]), np.array([1.0, 1.0]), 2.0)
    spikes = torch.zeros(10, 1, 3)
    spikes[:, :, 0] = 1  # ten spikes, one, none
    spikes[0, :, 1] = 1
    spikes.requires_grad_()
    energy, _ = HardwarePenalty({"fc": curve}, beta=1.0).cost({"fc": spikes})
    assert float(energy.detach()) == pytest.approx(2.0 * 2 / 3)
    energy.backward()
    assert spikes.grad is not None
    assert not spikes.grad.any()


def test_bit_synops_are_those_of_the_trace() -> None:
    network = event_net()
    workload = spikes_of(network, events(4))
    shapes = network.shapes()
    fanout = {
        layer.name: (layer.fanout_CHW() * layer.weight_bits).reshape(shapes[network.inputs_of(layer.name)[0]])
        for layer in workload.layers
        if layer.kind != "sumpool2d"
    }
    penalty = HardwarePenalty({}, beta=0.0, bit_synops=1.0, fanout=fanout)
    spent = float(penalty.spent_bit_synops(arrivals(workload, network)))
    exact = 0
    for layer in workload.layers:
        if layer.kind == "sumpool2d":
            continue
        values = layer.arrival.unpack() if isinstance(layer.arrival, Spikes) else layer.arrival.values
        exact += 8 * layer.met(values.sum(axis=(0, 1), dtype=np.int64))
    assert spent == pytest.approx(exact / 4)
    assert float(penalty(arrivals(workload, network))) == pytest.approx(1.0)  # relative to the first batch


def _redraw_for(network: Network, spec: str) -> tuple[Workload, dict[str, Curve]]:
    workload = spikes_of(network, events(16))
    return workload, draw_curves(workload, load_machine(spec)[1])


def test_training_with_the_price_lowers_the_exact_edp() -> None:
    spec = "spikex:window={conv1=1,conv2=2,fc=2}"
    network = fold(train(event_net(), events(48), CONFIG).network)
    workload, curves = _redraw_for(network, spec)
    before = evaluate(workload, load_machine(spec)[1]).edp_js
    free = train(network, events(48), CONFIG).network
    priced = train(network, events(48), CONFIG, penalty=HardwarePenalty(curves, beta=2.0)).network
    costs = [evaluate(spikes_of(net, events(16)), load_machine(spec)[1]).edp_js for net in (free, priced)]
    assert costs[1] < 0.8 * min(costs[0], before)


@pytest.mark.parametrize("regulariser", [{"rate": 20.0}, {"bit_synops": 5.0}])
def test_other_regularisers_silence_too(regulariser: dict[str, float]) -> None:
    network = fold(train(event_net(), events(48), CONFIG).network)
    workload, curves = _redraw_for(network, "spikex")
    shapes = network.shapes()
    fanout = {
        layer.name: layer.fanout_CHW().reshape(shapes[network.inputs_of(layer.name)[0]])
        for layer in workload.layers
        if layer.kind != "sumpool2d" and layer.inputs
    }
    penalty = HardwarePenalty(curves, beta=0.0, fanout=fanout, **regulariser)
    quiet = train(network, events(48), CONFIG, penalty=penalty).network
    density = [spikes_of(net, events(16))["pool1"].arrival.density() for net in (network, quiet)]
    assert density[1] < 0.8 * density[0]


def test_a_resumed_run_equals_one_that_was_not_stopped(tmp_path: Path) -> None:
    network = event_net()
    _, curves = _redraw_for(network, "spikex:window=2")

    def redraw(arrived: Mapping[str, Tensor]) -> tuple[dict[str, float], dict[str, Curve]]:
        fill = float((arrived["fc"] != 0).float().mean())
        return {"drawn": fill}, {
            name: Curve(
                name, c.arrival, c.departure, c.window, c.out_window, c.fill, c.energy_j * (1 + fill), c.latency_s,
                c.channel_energy_j, c.out_energy_j,
            )
            for name, c in curves.items()
        }  # fmt: skip

    def penalty() -> HardwarePenalty:
        return HardwarePenalty(curves, beta=1.0, redraw=redraw, refresh=5)

    whole = train(network, events(24), CONFIG, penalty=penalty()).network
    checkpoint = tmp_path / "checkpoint.pt"

    class Stopped(Exception):
        pass

    def stop(stage: str, done: int, total: int, figures: Mapping[str, float]) -> None:
        if stage == "epoch" and done == 2:
            raise Stopped

    with pytest.raises(Stopped):
        train(network, events(24), CONFIG, penalty=penalty(), checkpoint=checkpoint, progress=stop)
    resumed = train(network, events(24), CONFIG, penalty=penalty(), checkpoint=checkpoint).network
    for name in ("conv1", "conv2", "fc"):
        np.testing.assert_array_equal(resumed.nodes[name].weight, whole.nodes[name].weight)  # type: ignore[union-attr]
