"""Files of every kind that the command line reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spikeloom.core.network import Network, chain
from spikeloom.core.nodes import IF, LI, Conv2d, Flatten, Input, Linear, Output
from spikeloom.core.report import Trial
from spikeloom.core.trace import Spikes, SpikeTrace
from spikeloom.evaluate import evaluate, load_machine
from spikeloom.files.network import write_network
from spikeloom.files.results import append_trial, write_reports
from spikeloom.files.store import write_trace
from spikeloom.lower import lower

WORKLOAD = """
num_steps = 6
[[layer]]
name = "conv"
kind = "conv2d"
in_shape = [2, 6, 6]
out_channels = 3
kernel = [3, 3]
firing_rate = 0.2
"""
TOPOLOGY = "name, H, W, R, S, C, K, stride\nconv, 9, 9, 3, 3, 2, 4, 1\nfc, 1, 10, 64\n"
EXPERIMENT = """
data = "moving-bar"
network = "mlp"
[data_options]
num_samples = 12
[network_options]
width = 0.02
[train]
num_steps = 5
encoding = "events"
epochs = 2
"""
TABLE = 'include = ["aladdin32", "prosperity-dram"]\ntitle = "arithmetic alone"\n'


def small_network() -> Network:
    """What runs on 8 x 8 digits, with weights and the experiment it comes from."""
    rng = np.random.default_rng(0)
    network = chain(
        "tiny",
        {
            "in": Input((1, 8, 8), "analog"),
            "conv": Conv2d(1, 2, (3, 3), weight=rng.normal(size=(2, 1, 3, 3)).astype(np.float32)),
            "if": IF(0.5),
            "flatten": Flatten(),
            "fc": Linear(72, 10, weight=rng.normal(size=(10, 72)).astype(np.float32)),
            "readout": LI(),
            "out": Output((10,)),
        },
    )
    experiment = {"data": "digits", "network": "lenet", "train": {"num_steps": 3}}
    return Network(network.nodes, network.edges, "tiny", None, {"experiment": experiment})


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a good file of every kind; tests do not write into it."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(1)
    nodes = {"in": Input((2, 6, 6)), "conv": Conv2d(2, 3, (3, 3)), "if": IF(None), "fl": Flatten(), "fc": Linear(48, 5)}
    network = chain("net", nodes)  # type: ignore[arg-type]  # mypy takes the values for objects
    spikes = {
        name: Spikes.pack(rng.random((6, 2, *shape)) < 0.2) for name, shape in (("conv", (2, 6, 6)), ("fc", (48,)))
    }
    trace = SpikeTrace(6, 2, spikes, labels=np.array([0, 1]), predictions=np.array([0, 0]))
    write_trace(folder / "trace.npz", network, trace)
    write_network(folder / "network.npz", small_network())
    (folder / "machine.toml").write_text('model = "spikex"\nwindow = 2\n')
    (folder / "workload.toml").write_text(WORKLOAD)
    (folder / "experiment.toml").write_text(EXPERIMENT)
    (folder / "table.toml").write_text(TABLE)
    (folder / "topology.csv").write_text(TOPOLOGY)
    label, arch = load_machine("spikex")
    report = evaluate(lower(network, trace), arch, label=label)
    write_reports(folder / "report.json", [report])
    append_trial(folder / "trials.jsonl", Trial({"lr": 0.1}, report.arch, 0, report.workload_id, 0.5, report))
    return folder
