"""The experiment that a network remembers is checked like one from a file."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from spikeloom.core.network import Network, chain
from spikeloom.core.nodes import Input
from spikeloom.errors import ConfigError
from spikeloom.files.schema import toml_value
from spikeloom.studies.experiment import experiment_of, read_experiment

GOOD: dict[str, Any] = {"data": "digits", "network": "lenet", "train": {"num_steps": 3}}


def remembering(experiment: Any) -> Network:
    network = chain("n", {"in": Input((3,))})
    return Network(network.nodes, network.edges, metadata=json.loads(json.dumps({"experiment": experiment})))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"train": {"num_steps": "x"}}, "train: num_steps: got 'x', expected: a valid integer"),
        ({"train": {"num_steps": 0}}, "train: num_steps must be at least 1, got 0"),
        ({"train": {"num_steps": 10**9}}, "train: num_steps must be at most 1048576, got 1000000000"),
        ({"train": {"num_steps": 3, "seed": "a"}}, "train: seed: got 'a'"),
        ({"train": {"num_steps": 3, "seed": -1}}, "train: seed must be at least 0, got -1"),
        ({"train": {}}, "train: num_steps: is missing; add it"),
        ({"data": "nope"}, "data: got 'nope', expected one of"),
        ({"network": "lnet"}, r"network: got 'lnet' \(did you mean 'lenet'\?\), expected one of"),
        ({"validation": 1.0}, "validation: got 1.0"),
        ({"shift": -1}, "shift: got -1"),
        ({"network_options": {"width": 0.0}}, "network_options: width must be positive"),
    ],
)
def test_from_a_file_and_from_a_network_alike(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    said = GOOD | changes
    with pytest.raises(ConfigError, match=f"^n.npz: metadata.experiment: {expected}"):
        experiment_of(remembering(said), "n.npz")
    path = tmp_path / "e.toml"
    path.write_text("".join(f"{key} = {toml_value(value)}\n" for key, value in said.items()))
    with pytest.raises(ConfigError, match=f"e.toml: {expected}"):
        read_experiment(path)


def test_a_good_one_comes_back() -> None:
    assert experiment_of(remembering(GOOD), "n.npz").num_steps == 3
    with pytest.raises(ConfigError, match="does not say what it was trained on"):
        experiment_of(remembering("digits"), "n.npz")


@pytest.mark.parametrize("module", ["prune", "quantize", "crossbar", "convert", "techniques"])
def test_every_study_fine_tunes_on_what_the_experiment_trained_on(module: str) -> None:
    """`split` knows no split_seed; `training_samples` does."""
    source = importlib.import_module(f"spikeloom.studies.{module}")
    assert not hasattr(source, "split")
