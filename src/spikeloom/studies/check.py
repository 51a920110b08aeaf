"""What a file is, and whether it is well formed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from spikeloom.components import load_table
from spikeloom.errors import ConfigError, FileError, NetworkFileError
from spikeloom.evaluate import load_machine, load_workload
from spikeloom.files.archive import Archive
from spikeloom.files.checkpoint import read_state_dict
from spikeloom.files.network import NETWORK_FORMAT, read_network
from spikeloom.files.placement import read_placement
from spikeloom.files.results import read_reports, read_trials
from spikeloom.files.schema import read_toml
from spikeloom.files.store import read_trace
from spikeloom.lower import lower
from spikeloom.studies.convert import read_conversion
from spikeloom.studies.experiment import read_experiment
from spikeloom.studies.search_file import describe_search, read_search
from spikeloom.studies.thinning import firing_rate, sent_spikes


def describe_file(path: Path) -> str:
    """Read a file of any of our formats and say what it holds. Raises FileError where it does not follow its format."""
    match path.suffix.lower():
        case ".npz":
            return _archive(path)
        case ".toml":
            return _toml(path)
        case ".json":
            if (points := read_conversion(path)) is not None:
                return f"conversion at {points} numbers of time steps"
            reports = read_reports(path)
            return f"report of {len(reports)} machine(s), {len(reports[0].layers) if reports else 0} layers"
        case ".jsonl":
            log = read_trials(path)
            if log.torn and not log.trials:
                raise FileError(f"{path}: holds no whole trial, expected one JSON object a line")
            return f"{len(log.trials)} trials{', and a torn line that a stopped writer left' if log.torn else ''}"
        case ".csv":
            workload = load_workload(path, rate=0.0, num_steps=1)
            return f"topology of {len(workload.layers)} layers"
        case ".nir":
            return _nir(path)
        case ".pth" | ".pt":
            arrays = read_state_dict(path)
            return f"state dict of {len(arrays)} arrays, {sum(array.size for array in arrays.values()):,} values"
    raise FileError(f"{path}: cannot tell what this is; expected .npz, .toml, .json, .jsonl, .csv, .nir, .pth or .pt")


def _nir(path: Path) -> str:
    """A NIR graph as it stands, and what `import` has to be told besides."""
    from spikeloom.files.nir_nodes import check_fields, holds_times
    from spikeloom.files.nir_tree import read_tree

    tree = read_tree(path)
    for part in tree.parts.values():
        check_fields(part)
    kinds = ", ".join(f"{number} {kind}" for kind, number in Counter(part.kind for part in tree.parts.values()).items())
    needs = tree.stated.get("dt_s") is None and any(holds_times(part) for part in tree.parts.values())
    return f"NIR graph of {len(tree.parts)} nodes ({kinds}), needs --dt-ms: {'yes' if needs else 'no'}"


def _archive(path: Path) -> str:
    if _is_network(path):
        network = read_network(path)
        if not network.nodes:
            raise NetworkFileError(f"{path}: meta.nodes: got none, expected at least an Input")
        shapes = network.shapes()
        held = [getattr(node, "weight", None) for node in network.nodes.values()]
        weights = sum(weight.size for weight in held if weight is not None)
        return f"network '{network.name}' of {len(network.nodes)} nodes, {weights} {network.arithmetic} weights, output {list(shapes[network.order()[-1]])}"
    network, trace = read_trace(path)
    workload = lower(network, trace)
    spikes = sent_spikes(network, trace)
    rate = (
        f", {100 * firing_rate(network, trace):.3g} % mean firing rate of {len(spikes)} binary inputs" if spikes else ""
    )
    extra = trace.extra
    recorded = ("sample_ids", "arithmetic", "matched_steps", "test_accuracy")  # what our own recorder and ANNs add
    unknown = [key for key in (*extra.get("meta", {}), *extra.get("arrays", {})) if key not in recorded]
    unknown += [f"{name}.{key}" for name, keys in extra.get("layers", {}).items() for key in keys]
    arithmetic = extra.get("meta", {}).get("arithmetic", "float32")
    made = "" if arithmetic == "float32" else f"; {arithmetic}"
    kept = f"; keys this version does not know: {', '.join(unknown)}" if unknown else ""
    return f"trace of {len(workload.layers)} layers, {trace.num_samples} samples, {trace.num_steps} steps{rate}{made}{kept}"


def _is_network(path: Path) -> bool:
    """Whether the header says network; anything unreadable is left to the trace reader's own complaint."""
    try:
        with Archive(path, FileError) as archive:
            return bool(archive.header().get("format") == NETWORK_FORMAT)
    except FileError:
        return False


def _toml(path: Path) -> str:
    raw = read_toml(path)
    if "model" in raw:
        _, arch = load_machine(str(path))
        try:
            load_table(arch.table)
        except ConfigError as error:
            raise ConfigError(f"{path}: table: {error}") from None
        if placement_file := getattr(arch, "placement", ""):
            try:
                read_placement(placement_file)
            except ConfigError as error:
                raise ConfigError(f"{path}: placement: {error}") from None
        return f"machine of model '{arch.model}'"
    if "entry" in raw or "include" in raw:
        return f"component table '{load_table(path).name}'"
    if "search" in raw and "space" in raw:
        return describe_search(*read_search(path))
    if "data" in raw and "network" in raw:
        if "cotrain" in raw:
            from spikeloom.studies.cotrain_sweep import read_sweep

            experiment, sweep = read_sweep(path)
            betas = ", ".join(f"{beta:g}" for beta in sweep.betas)
            return (
                f"co-training of {experiment.network} on {experiment.data}, {experiment.num_steps} steps, beta {betas}"
            )
        experiment = read_experiment(path)
        return f"experiment: {experiment.network} on {experiment.data}, {experiment.num_steps} steps"
    if "in_shape" in raw and "node" in raw:
        from spikeloom.snn.importers.description import describe_description

        return describe_description(path)
    if "place" in raw:
        placement = read_placement(path)
        cores = {(place.tile, place.core) for place in placement.places}
        numbers = {
            "layer": len(placement.layers),
            "place": len(placement.places),
            "core": len(cores),
            "tile": len({tile for tile, _ in cores}),
        }
        layers, places, on, of = (f"{number} {what}{'s' * (number != 1)}" for what, number in numbers.items())
        return f"placement of {layers} in {places} on {on} of {of}"
    if "layer" not in raw:
        raise ConfigError(
            f"{path}: cannot tell what this is from its keys {list(raw)}; expected 'model' (a machine), 'layer' (a "
            "workload), 'data' and 'network' (an experiment), 'search' and 'space' (a search), 'in_shape' and 'node' (the network of a state dict), 'place' (a placement "
            "on cores) or 'entry' (a component table)"
        )
    workload = load_workload(path)
    return f"workload of {len(workload.layers)} layers, {workload.num_steps} steps"
