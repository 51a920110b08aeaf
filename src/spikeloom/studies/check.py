"""What a file is, and whether it is well formed."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np

from spikeloom.components import load_table
from spikeloom.core.trace import Spikes
from spikeloom.errors import FileError
from spikeloom.evaluate import ARCH_TYPES, PRESETS, load_workload
from spikeloom.files.config import read_machine
from spikeloom.files.network import NETWORK_FORMAT, read_network
from spikeloom.files.results import read_reports, read_trials
from spikeloom.files.schema import read_toml
from spikeloom.files.store import read_trace
from spikeloom.lower import lower


def describe_file(path: Path) -> str:
    """Read a file of any of our formats and say what it holds. Raises FileError where it does not follow its format."""
    match path.suffix.lower():
        case ".npz":
            return _archive(path)
        case ".toml":
            return _toml(path)
        case ".json":
            reports = read_reports(path)
            return f"report of {len(reports)} machine(s), {len(reports[0].layers) if reports else 0} layers"
        case ".jsonl":
            return f"{len(read_trials(path).trials)} trials"
        case ".csv":
            workload = load_workload(path, rate=0.0, num_steps=1)
            return f"topology of {len(workload.layers)} layers"
    raise FileError(f"{path}: cannot tell what this is; expected .npz, .toml, .json, .jsonl or .csv")


def _archive(path: Path) -> str:
    if _is_network(path):
        network = read_network(path)
        shapes = network.shapes()
        held = [getattr(node, "weight", None) for node in network.nodes.values()]
        weights = sum(weight.size for weight in held if weight is not None)
        return f"network '{network.name}' of {len(network.nodes)} nodes, {weights} weights, output {list(shapes[network.order()[-1]])}"
    network, trace = read_trace(path)
    workload = lower(network, trace)
    spikes = [layer.arrival.density() for layer in workload.layers if isinstance(layer.arrival, Spikes)]
    rate = (
        f", {100 * sum(spikes) / len(spikes):.3g} % mean firing rate of {len(spikes)} binary inputs" if spikes else ""
    )
    return f"trace of {len(workload.layers)} layers, {trace.num_samples} samples, {trace.num_steps} steps{rate}"


def _is_network(path: Path) -> bool:
    """Whether the header says network; anything unreadable is left to the trace reader's own complaint."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return bool(json.loads(str(archive["meta"])).get("format") == NETWORK_FORMAT)
    except (OSError, ValueError, KeyError, EOFError, AttributeError, zipfile.BadZipFile):
        return False


def _toml(path: Path) -> str:
    raw = read_toml(path)
    if "model" in raw:
        return f"machine of model '{read_machine(path, ARCH_TYPES, PRESETS).model}'"
    if "entry" in raw:
        return f"component table '{load_table(path).name}'"
    workload = load_workload(path)
    return f"workload of {len(workload.layers)} layers, {workload.num_steps} steps"
