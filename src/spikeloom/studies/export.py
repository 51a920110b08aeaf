"""Chosen designs as files that stand for themselves: whoever has them can evaluate the design again."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from spikeloom.codesign.inner import machine_of
from spikeloom.codesign.trace_search import TraceObjective
from spikeloom.core.network import Network
from spikeloom.core.nodes import Membrane, Node, Synapse
from spikeloom.core.report import Report, Trial
from spikeloom.errors import NetworkFileError, SearchError
from spikeloom.evaluate import evaluate, load_machine, load_workload
from spikeloom.files.atomic import make_folder, write_text
from spikeloom.files.config import machine_keys, write_machine
from spikeloom.files.network import write_network
from spikeloom.files.nir import write_nir
from spikeloom.files.results import write_reports
from spikeloom.files.store import read_trace, write_trace
from spikeloom.studies.search import compared, network_of
from spikeloom.studies.search_file import Plan

#: Time step that a NIR file states for a network without one, which cannot do without.
NOMINAL_STEP_S = 1e-3


def export_design(plan: Plan, trial: Trial, folder: Path) -> Path:
    """Write a design as files, into ``folder/designs/<id>``, which is returned.

    arch.toml: the machine with its mapping. trace.npz: the spikes (a workload of rates as it was given). report.json: the bill;
    ``spikeloom eval trace.npz arch.toml --json report.json`` in that folder writes the same file again. network.npz and
    network.nir: of a joint search, the network. design.json: what was chosen, and how the NIR file differs.

    Raises:
        SearchError: the design does not fit its machine, or its files would not give its figures again.
        FileError: the folder cannot be written.
    """
    if trial.report is None:
        raise SearchError(f"design {trial.id[:12]}: does not fit the machine and has no files; choose another")
    target = folder / "designs" / trial.id
    make_folder(target)
    told: dict[str, Any] = {"id": trial.id, "accuracy": trial.accuracy, "params": dict(trial.config["params"])}
    if (plain := compared(plan, trial, "").plain) is not None:
        energy, latency = plain.energy_per_inference_j, plain.latency_per_inference_s
        told["plain"] = {"energy_j": energy, "latency_s": latency, "edp_js": plain.edp_js}
    spikes = target / "trace.npz"
    if isinstance(plan.objective, TraceObjective):
        source = plan.objective.trace
        if source.suffix.lower() == ".npz":
            network, trace = read_trace(source)
            write_trace(spikes, network, trace, weights=_has_weights(network))
        else:
            spikes = target / f"trace{source.suffix.lower()}"
            shutil.copyfile(source, spikes)
    else:
        network = network_of(plan, trial)
        _, trace = plan.objective.tried(network, trial.config["params"])
        write_network(target / "network.npz", network)
        write_trace(spikes, network, trace, weights=True)
        told["nir"] = _write_nir(target / "network.nir", network)
    report = _reproduced(trial, target, spikes)
    write_reports(target / "report.json", (report,))
    write_text(target / "design.json", json.dumps(told, indent=2) + "\n")
    return target


def _has_weights(network: Network) -> bool:
    synapses = [node for node in network.nodes.values() if isinstance(node, Synapse)]
    return bool(synapses) and all(node.weight is not None for node in synapses)


def _write_nir(path: Path, network: Network) -> str:
    """What a reader of the NIR file must know, or why there is none."""
    step = None if network.dt_s is not None else NOMINAL_STEP_S
    notes = [] if step is None else [f"states a nominal time step of {step:g} s; the network has none"]
    if network.arithmetic == "integer":
        notes.append("integer weights and thresholds as floats; membranes neither round nor saturate")
    try:
        write_nir(path, in_floats(network), dt_s=step)
    except NetworkFileError as error:
        return f"none: {str(error).removeprefix(f'{path}: ')}"
    return "; ".join(notes) or "the same network"


def in_floats(network: Network) -> Network:
    """The same weights and thresholds as floating-point numbers, membranes without a word to keep within."""
    nodes: dict[str, Node] = {}
    for name, node in network.nodes.items():
        if isinstance(node, Synapse):
            arrays = {
                key: array.astype(np.float32)
                for key in ("weight", "bias")
                if (array := getattr(node, key)) is not None and array.dtype.kind != "f"
            }
            nodes[name] = replace(node, **arrays)
        elif isinstance(node, Membrane):
            nodes[name] = replace(node, membrane_bits=None)
        else:
            nodes[name] = node
    return replace(network, nodes=nodes)


def _reproduced(trial: Trial, folder: Path, spikes: Path) -> Report:
    """The bill of the written files, checked against the trial's."""
    assert trial.report is not None
    arch = machine_of(trial.report)
    table = Path(arch.table)
    if table.suffix == ".toml":  # a price table is found beside the machine file
        if table.resolve() != (folder / table.name).resolve():
            shutil.copyfile(table, folder / table.name)
        arch = replace(arch, table=table.name)  # type: ignore[type-var]  # final Archs are dataclasses
    write_machine(folder / "arch.toml", arch)
    report = evaluate(load_workload(spikes), load_machine(str(folder / "arch.toml"))[1], label="arch.toml")
    report = replace(report, arch=machine_keys(arch))
    # an earlier version wrote neither of the last two, which are words about the machine
    told = replace(trial.report, label="arch.toml", arch=report.arch, holds=report.holds, limits=report.limits)
    if asdict(report) != asdict(told):
        key = next(key for key, value in asdict(told).items() if asdict(report)[key] != value)
        raise SearchError(
            f"{folder}: the files of design {trial.id[:12]} give another {key} than its trial has; the trace, the network or the "
            "data set changed since; search again in another folder"
        )
    return report
