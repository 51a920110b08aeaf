"""Networks from files of other tools, measured on an experiment's data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from torch import nn

from spikeloom.core.network import chain
from spikeloom.core.nodes import IF, LI, LIF, Flatten, Input, Leak, Linear, Output, ReLU
from spikeloom.errors import ConfigError, FileError, NetworkError, SpikeloomError
from spikeloom.files.nir import write_nir
from spikeloom.snn.execute import Execution, evaluate
from spikeloom.studies.bring import NirChoices, bring
from spikeloom.studies.convert import ann_accuracy
from spikeloom.studies.experiment import experiment_of, read_experiment, samples

EXPERIMENT = """
data = "digits"
network = "mlp"
[network_options]
neuron = "relu"
[train]
num_steps = {steps}
epochs = 1
"""
DESCRIPTION = """
in_shape = [1, 8, 8]
encoding = "analog"

[[node]]
name = "0"
type = "Flatten"

[[node]]
name = "1"
type = "Linear"

[[node]]
name = "2"
type = "ReLU"

[[node]]
name = "3"
type = "Linear"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Experiments of 1 and 5 steps, an ANN as a state dict with its description, and a NIR graph that spikes."""
    for steps in (1, 5):
        (tmp_path / f"digits-{steps}.toml").write_text(EXPERIMENT.format(steps=steps))
    (tmp_path / "ann.toml").write_text(DESCRIPTION)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10))
    torch.save(module.state_dict(), tmp_path / "ann.pth")
    rng = np.random.default_rng(0)
    nodes: dict[str, Any] = {
        "in": Input((1, 8, 8), "analog"), "f": Flatten(), "fc": Linear(64, 20, weight=rng.normal(0, 0.3, (20, 64)).astype(np.float32)),
        "lif": LIF(Leak(factor=0.9)), "fc2": Linear(20, 10, weight=rng.normal(size=(10, 20)).astype(np.float32)), "li": LI(),
        "out": Output((10,)),
    }  # fmt: skip
    write_nir(tmp_path / "snn.nir", chain("snn", nodes), dt_s=1e-3)
    ones = np.ones(3)
    graph = {
        "in": nir.Input({"input": np.array([3])}),
        "n": nir.LIF(ones * 0.01, ones, ones * 0, ones),
        "out": nir.Output({"output": np.array([3])}),
    }
    nir.write(tmp_path / "lif.nir", nir.NIRGraph(graph, [("in", "n"), ("n", "out")]))
    return tmp_path


def test_an_ann_from_a_state_dict_is_measured_at_its_one_step(folder: Path) -> None:
    network, found = bring(
        folder / "ann.pth", folder / "ann.toml", NirChoices(), experiment=str(folder / "digits-1.toml")
    )
    test = samples(read_experiment(folder / "digits-1.toml"), "test")
    assert [type(node) for node in network.nodes.values()] == [Input, Flatten, Linear, ReLU, Linear, Output]
    assert found.accuracy == ann_accuracy(network, test, Execution(1)) and found.spikes is None
    assert found.weights == 64 * 20 + 20 * 10 and found.name == "ann.pth"


def test_a_nir_graph_is_measured_over_the_experiments_steps(folder: Path) -> None:
    experiment = folder / "digits-5.toml"
    network, found = bring(folder / "snn.nir", None, NirChoices(dt_s=1e-3), experiment=str(experiment), limit=30)
    test = samples(read_experiment(experiment), "test").take(np.arange(30))
    assert found.accuracy == evaluate(network, test, Execution(5)) and found.num_steps == 5
    assert found.spikes is not None and found.spikes > 0 and found.synops is not None and found.synops > found.spikes
    again = experiment_of(network, "here")
    assert (again.data, again.num_steps) == ("digits", 5)


def test_without_an_experiment_it_is_only_read(folder: Path) -> None:
    network, found = bring(folder / "snn.nir", None, NirChoices(dt_s=1e-3))
    assert found.accuracy is None and found.weights == 64 * 20 + 20 * 10
    assert "experiment" not in network.metadata


def test_suffixes_may_be_written_large(folder: Path) -> None:
    (folder / "ann.pth").rename(folder / "ANN.PT")
    assert len(bring(folder / "ANN.PT", folder / "ann.toml", NirChoices())[0].nodes) == 6


def test_choices_reach_the_reader(folder: Path) -> None:
    rng = np.random.default_rng(0)
    nodes: dict[str, Any] = {
        "in": Input((4,)), "fc": Linear(4, 3, weight=rng.normal(size=(3, 4)).astype(np.float32)), "if": IF(), "out": Output((3,)),
    }  # fmt: skip
    graph = nir.NIRGraph(
        {"in": nir.Input({"input": np.array([4])}), "fc": nir.Linear(nodes["fc"].weight), "if": nir.IF(np.ones(3), np.ones(3)),
         "out": nir.Output({"output": np.array([3])})},
        [("in", "fc"), ("fc", "if"), ("if", "out")],
    )  # fmt: skip
    nir.write(folder / "if.nir", graph)
    network, _ = bring(folder / "if.nir", None, NirChoices(reset="soft", strict=True, encoding="levels"))
    neuron: Any = next(node for node in network.nodes.values() if isinstance(node, IF))
    source: Any = next(node for node in network.nodes.values() if isinstance(node, Input))
    assert (neuron.reset, neuron.strict, source.encoding) == ("soft", True, "levels")


@pytest.mark.parametrize(
    ("file", "description", "choices", "error", "words"),
    [
        (
            "snn.nir",
            "ann.toml",
            NirChoices(dt_s=1e-3),
            ConfigError,
            "a NIR graph describes itself; leave out --network",
        ),
        ("lif.nir", None, NirChoices(), SpikeloomError, "dt"),
        (
            "ann.pth",
            None,
            NirChoices(),
            ConfigError,
            "holds weights but no structure; describe the network with --network",
        ),
        ("none.nir", None, NirChoices(), SpikeloomError, "none.nir"),
        ("none.pth", "ann.toml", NirChoices(), SpikeloomError, "no weights at"),
        ("ann.pth", "none.toml", NirChoices(), SpikeloomError, "none.toml"),
        ("ann.toml", None, NirChoices(), FileError, "cannot tell what this is; expected a NIR graph .nir or a PyTorch"),
        ("ann.onnx", None, NirChoices(), FileError, "cannot tell what this is"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(
    folder: Path, file: str, description: str | None, choices: NirChoices, error: Any, words: str
) -> None:
    with pytest.raises(error, match=words) as raised:
        bring(folder / file, None if description is None else folder / description, choices)
    assert "\n" not in str(raised.value)


def test_data_that_do_not_fit_are_refused(folder: Path) -> None:
    with pytest.raises(NetworkError, match=r"expected the network's input shape \[1, 8, 8\]|does not fit"):
        bring(folder / "snn.nir", None, NirChoices(dt_s=1e-3), experiment=str(_bars(folder)))
    with pytest.raises(ConfigError, match="no such experiment"):
        bring(folder / "snn.nir", None, NirChoices(dt_s=1e-3), experiment="digit")


def _bars(folder: Path) -> Path:
    path = folder / "bars.toml"
    path.write_text(
        'data = "moving-bar"\nnetwork = "mlp"\n[data_options]\nnum_samples = 8\n[train]\nnum_steps = 3\nencoding = "events"\n'
    )
    return path
