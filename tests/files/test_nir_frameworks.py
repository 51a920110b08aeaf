"""NIR files of frameworks whose neurons the file does not state: read as theirs, as exact ones with a note, or refused by name."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest

from spikeloom.core.network import Network
from spikeloom.core.nodes import IF, LIF, CubaLIF, Leak, Linear, Output
from spikeloom.core.nodes import Input as In
from spikeloom.core.trace import Spikes, SpikeTrace
from spikeloom.errors import NetworkFileError
from spikeloom.evaluate import PRESET_MODELS, evaluate, load_machine
from spikeloom.files.network import read_network, write_network
from spikeloom.files.nir import read_nir, write_nir
from spikeloom.files.store import read_trace, write_trace
from spikeloom.lower import lower

torch = pytest.importorskip("torch")
snn = pytest.importorskip("snntorch")
export = pytest.importorskip("snntorch.export_nir")

T, N = 60, 6
NETS = Path(os.environ.get("SPIKELOOM_DATA", "absent")) / "nets"
NOTE = "does not say whose neurons it means"


def spikes(inputs: int, seed: int = 0) -> Any:
    return (torch.rand(T, N, inputs, generator=torch.Generator().manual_seed(seed)) < 0.35).float()


def ours(network: Network, x: Any) -> Any:
    from spikeloom.snn.build import build

    with torch.no_grad():
        return build(network).eval()(x.flatten(0, 1), T)


def theirs(module: Any, x: Any) -> Any:
    with torch.no_grad():
        return torch.stack([module(frame) for frame in x])


def many(value: Any, count: int) -> Any:
    """A parameter for each neuron: with one for all the exporter's own type check fails."""
    return torch.full((count,), float(value))


def exported(module: Any, inputs: int, path: Path) -> Path:
    with torch.no_grad():  # so that all layers are alive
        for part in module:
            if isinstance(part, torch.nn.Linear):
                part.weight *= 4
    with warnings.catch_warnings():  # the exporter calls what nirtorch is about to drop
        warnings.simplefilter("ignore", DeprecationWarning)
        nir.write(path, export.export_to_nir(module, torch.zeros(inputs)))
    for part in module:
        if hasattr(part, "reset_mem"):
            part.reset_mem()
    return path


@pytest.mark.parametrize("beta", [0.37, 0.5001, 0.9, 0.95, 0.99871])
@pytest.mark.parametrize("mechanism", ["subtract", "zero", "none"])
@pytest.mark.parametrize("kind", ["Leaky", "Synaptic"])
def test_the_spikes_of_the_module_that_was_exported(tmp_path: Path, kind: str, mechanism: str, beta: float) -> None:
    torch.manual_seed(1)

    def neuron(count: int) -> Any:
        common: Any = {"beta": many(beta, count), "threshold": many(0.8, count), "reset_mechanism": mechanism}
        common |= {"alpha": many(0.61, count)} if kind == "Synaptic" else {}
        return getattr(snn, kind)(init_hidden=True, **common)

    first = torch.nn.Linear(9, 20)
    module = torch.nn.Sequential(first, neuron(20), torch.nn.Linear(20, 5, bias=False), neuron(5))
    path = exported(module, 9, tmp_path / "m.nir")
    reset: Any = None if mechanism == "subtract" else {"zero": "hard", "none": "none"}[mechanism]
    network = read_nir(path, neurons="snntorch", reset=reset)
    x = spikes(9)
    expected = theirs(module, x)
    assert 0 < expected.sum() < expected.numel()
    assert torch.equal(ours(network, x), expected)
    assert network.metadata["nir"]["neurons"] == "snntorch" and "notes" not in network.metadata
    node = next(node for node in network.nodes.values() if isinstance(node, LIF | CubaLIF))
    if beta >= 0.5:  # below, the exporter's own float32 time constant is coarser than the decay
        assert node.leak is not None and np.all(np.asarray(node.leak.kept) == np.float32(beta))


@pytest.mark.parametrize("mechanism", ["subtract", "zero"])
@pytest.mark.parametrize("kind", ["RLeaky", "RSynaptic"])
@pytest.mark.parametrize("dense", [True, False])
def test_recurrent_cells_too(tmp_path: Path, kind: str, mechanism: str, dense: bool) -> None:
    torch.manual_seed(2)
    cell: Any = {"beta": 0.9, "all_to_all": dense, "init_hidden": True, "reset_mechanism": mechanism}
    cell |= {"linear_features": 12} if dense else {"V": torch.linspace(-1, 1, 12)}
    cell |= {"alpha": 0.7} if kind == "RSynaptic" else {}
    leaky = snn.Leaky(beta=many(0.8, 4), threshold=many(1, 4), init_hidden=True, reset_mechanism=mechanism)
    module = torch.nn.Sequential(torch.nn.Linear(9, 12), getattr(snn, kind)(**cell), torch.nn.Linear(12, 4), leaky)
    path = exported(module, 9, tmp_path / "m.nir")
    network = read_nir(path, neurons="snntorch", reset="hard" if mechanism == "zero" else None)
    x = spikes(9)
    expected = theirs(module, x)
    assert 0 < expected.sum() < expected.numel()
    assert torch.equal(ours(network, x), expected)


def graph(path: Path, node: Any, metadata: Any = None, inputs: int = 3) -> Path:
    weight = np.random.default_rng(0).normal(size=(2, inputs)).astype(np.float32)
    ends = {"input": nir.Input({"input": np.array([inputs])}), "output": nir.Output({"output": np.array([2])})}
    nodes = {**ends, "fc": nir.Linear(weight), "n": node}
    edges = [("input", "fc"), ("fc", "n"), ("n", "output")]
    nir.write(path, nir.NIRGraph(nodes, edges, metadata=metadata or {}))
    return path


def leaky() -> Any:
    ones = np.ones(2, np.float32)
    return nir.LIF(tau=1e-3 * ones, r=10 * ones, v_leak=0 * ones, v_threshold=ones)


def integrating() -> Any:
    return nir.IF(r=np.ones(2), v_threshold=np.ones(2))


def test_without_a_word_it_is_exact_and_network_trace_and_every_report_say_so(tmp_path: Path) -> None:
    network = read_nir(graph(tmp_path / "g.nir", integrating()))
    node = network.nodes["n"]
    assert isinstance(node, IF) and (node.reset, node.late_reset, node.strict) == ("hard", False, False)
    assert network.metadata["nir"]["neurons"] == "exact"
    (note,) = network.metadata["notes"]
    assert note.startswith("g.nir") and NOTE in note and "--neurons" in note
    write_network(tmp_path / "n.npz", network)
    network = read_network(tmp_path / "n.npz")
    from spikeloom.emulate import emulate

    arriving = np.random.default_rng(0).random((4, 3, 3)) < 0.5
    for trace in (
        emulate(network, arriving, 4),
        SpikeTrace(4, 3, {"fc": Spikes.pack(arriving)}, notes=(note,)),
    ):
        assert trace.notes == (note,)
        write_trace(tmp_path / "t.npz", network, trace)
        assert read_trace(tmp_path / "t.npz")[1].notes == (note,)
        workload = lower(*read_trace(tmp_path / "t.npz"))
        for preset in PRESET_MODELS:
            if "spikesim" not in preset and "sata-t" not in preset:
                assert note in evaluate(workload, load_machine(preset)[1]).warnings
    again = tmp_path / "again.nir"
    write_nir(again, network)  # states resets, but the note still holds
    assert read_nir(again).metadata["notes"] == [note]


def test_what_is_said_needs_no_note(tmp_path: Path) -> None:
    path = graph(tmp_path / "g.nir", leaky())
    assert "notes" not in read_nir(path, neurons="exact", dt_s=1e-4).metadata
    write_nir(tmp_path / "own.nir", Network(
        {"in": In((3,)), "fc": Linear(3, 2, weight=np.ones((2, 3), np.float32)), "n": LIF(Leak(factor=0.5)), "out": Output((2,))},
        (("in", "fc"), ("fc", "n"), ("n", "out")),
    ), dt_s=1e-3)  # fmt: skip
    own = read_nir(tmp_path / "own.nir")
    assert "notes" not in own.metadata and "neurons" not in own.metadata["nir"]
    for neurons in ("snntorch", "sinabs", "lava"):
        stated = read_nir(
            tmp_path / "own.nir", neurons=neurons, **({"dt_s": 1e-4} if neurons == "snntorch" else {})
        ).nodes["n"]  # type: ignore[arg-type]
        assert isinstance(stated, LIF) and not stated.late_reset


@pytest.mark.parametrize(
    ("text", "late"), [("snnTorch 1.0.0", True), ("snntorch", True), ("Norse 1.1", False), ("like snntorch", False)]
)
def test_the_file_may_say_it_itself(tmp_path: Path, text: str, late: bool) -> None:
    path = graph(tmp_path / "g.nir", leaky(), {"framework": text})
    network = read_nir(path, dt_s=None if late else 1e-4)
    node = network.nodes["n"]
    assert isinstance(node, LIF) and node.late_reset is late
    assert ("notes" in network.metadata) is not late
    other = read_nir(path, dt_s=1e-4, neurons="exact").nodes["n"]
    assert (
        isinstance(other, LIF)
        and not other.late_reset
        and "notes" not in read_nir(path, dt_s=1e-4, neurons="exact").metadata
    )


@pytest.mark.parametrize(("neurons", "words"), [("sinabs", "several spikes a step.*floor"), ("lava", "integers")])
def test_neurons_that_are_none_of_ours_are_refused_by_name(tmp_path: Path, neurons: Any, words: str) -> None:
    for node in (integrating(), leaky()):
        with pytest.raises(NetworkFileError, match=rf"g\.nir: node 'n' .*{neurons} .*{words}.*'exact'"):
            read_nir(graph(tmp_path / "g.nir", node), neurons=neurons, dt_s=1e-4)
    with pytest.raises(NetworkFileError, match=r"sinabs .*floor"):
        read_nir(graph(tmp_path / "g.nir", integrating(), {"exporter": "sinabs 3.1.3"}))


def test_what_contradicts_snntorch_is_refused(tmp_path: Path) -> None:
    path = graph(tmp_path / "g.nir", leaky())
    for options in ({"dt_s": 1e-3}, {"discretisation": "exponential"}):
        with pytest.raises(NetworkFileError, match=r"snnTorch writes every network with a step of 0\.0001 s"):
            read_nir(path, neurons="snntorch", **options)  # type: ignore[arg-type]
    with pytest.raises(NetworkFileError, match=r"node 'n' \(IF\): snnTorch writes no neurons without a leak"):
        read_nir(graph(path, integrating()), neurons="snntorch")
    with pytest.raises(NetworkFileError, match=r"neurons got 'norse', expected one of"):
        read_nir(path, neurons="norse")  # type: ignore[arg-type]


@pytest.mark.skipif(not NETS.is_dir(), reason="needs SPIKELOOM_DATA with nets/")
def test_the_network_of_sinabs_keeps_its_exact_reading_and_has_no_other() -> None:
    quiet, noted = (read_nir(NETS / "cnn_sinabs.nir", neurons=neurons) for neurons in ("exact", None))  # type: ignore[arg-type]
    assert quiet.id == noted.id and NOTE in noted.metadata["notes"][0]
    with pytest.raises(NetworkFileError, match="sinabs sends several spikes a step"):
        read_nir(NETS / "cnn_sinabs.nir", neurons="sinabs")
