"""What ``check`` says of the files that ``import`` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spikeloom.core.network import Network, chain
from spikeloom.core.nodes import IF, LIF, Delay, Input, Leak, Linear, Output
from spikeloom.errors import ConfigError, FileError, NetworkFileError
from spikeloom.files.nir import write_nir
from spikeloom.studies.check import describe_file

DESCRIPTION = (
    'in_shape = [1, 8, 8]\n[[node]]\nname = "flat"\ntype = "Flatten"\n[[node]]\nname = "fc"\ntype = "Linear"\n'
)


def spiking(neuron: Any) -> Network:
    weight = np.ones((3, 4), np.float32)
    return chain("n", {"in": Input((4,)), "fc": Linear(4, 3, weight=weight), "n": neuron, "out": Output((3,))})


@pytest.mark.parametrize(("neuron", "needs"), [(IF(), "no"), (LIF(Leak(shift=2)), "yes"), (Delay(2), "yes")])
def test_a_nir_graph_and_what_it_leaves_open(tmp_path: Path, neuron: Any, needs: str) -> None:
    import h5py

    path = tmp_path / "n.NIR"
    write_nir(path, spiking(neuron), dt_s=1e-3)
    assert describe_file(path).startswith("NIR graph of 4 nodes (") and describe_file(path).endswith("--dt-ms: no")
    with h5py.File(path, "r+") as file:
        del file["node/metadata"]  # others do not state the step
    assert describe_file(path).endswith(f"needs --dt-ms: {needs}")
    with h5py.File(path, "r+") as file:
        del file["node/nodes/fc/weight"]
    with pytest.raises(NetworkFileError, match=r"node 'fc' .* has no weight"):
        describe_file(path)


@pytest.mark.parametrize("suffix", ["pth", "pt"])
def test_a_state_dict(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w.{suffix}"
    torch.save({"a.weight": torch.ones(30, 50), "a.bias": torch.ones(30)}, path)
    assert describe_file(path) == "state dict of 2 arrays, 1,530 values"
    torch.save({}, path)
    with pytest.raises(NetworkFileError, match="is empty"):
        describe_file(path)


def test_a_description(tmp_path: Path) -> None:
    path = tmp_path / "net.toml"
    path.write_text(DESCRIPTION)
    assert describe_file(path) == "network description of 2 nodes, input [1, 8, 8]"
    path.write_text(DESCRIPTION.replace("Flatten", "Flaten"))
    with pytest.raises(ConfigError, match=r"net.toml: node 'flat': type: got 'Flaten' \(did you mean 'Flatten'\?\)"):
        describe_file(path)


def test_what_it_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"expected .npz, .toml, .json, .jsonl, .csv, .nir, .pth or .pt"):
        describe_file(tmp_path / "a.onnx")
