"""Trace files of sums that meet, and biases that a network holds and does not use: what the file says is what was meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spikeloom.core.network import Network
from spikeloom.core.nodes import IF, LIF, Add, Conv2d, Input, Leak, MaxPool2d, Node, Output, SumPool2d
from spikeloom.core.trace import Spikes, SpikeTrace
from spikeloom.core.workload import Workload
from spikeloom.files.store import read_trace, write_trace
from spikeloom.lower import lower

T = 5
CHAIN = (("in", "first"), ("first", "if"), ("if", "own"), ("own", "lif"), ("lif", "reader"), ("reader", "out"))


def joined() -> tuple[Network, SpikeTrace]:
    """A spiking layer, a layer behind it with two branches, and a reader of its neurons."""
    nodes: Any = {
        "in": Input((2, 4, 4)),
        "first": Conv2d(2, 3, (1, 1)),
        "if": IF(1.0),
        "one": Conv2d(3, 3, (1, 1)),
        "two": Conv2d(2, 3, (1, 1)),
        "own": Conv2d(3, 3, (3, 3), padding=(1, 1)),
        "lif": LIF(Leak(shift=1), 1.0),
        "reader": Conv2d(3, 2, (1, 1)),
        "out": Output((2, 4, 4)),
    }
    edges = (*CHAIN, ("if", "one"), ("one", "lif"), ("in", "two"), ("two", "lif"))
    rng = np.random.default_rng(0)
    frames, hidden, sent = (Spikes.pack(rng.random((T, 1, channels, 4, 4)) < 0.3) for channels in (2, 3, 3))
    arrivals = {"first": frames, "one": hidden, "two": frames, "own": hidden, "reader": sent}
    return Network(nodes, edges), SpikeTrace(T, 1, arrivals)


def heard_as(path: Path, names: list[str]) -> Workload:
    """The file again, with other inputs of the reader in its header."""
    with np.load(path) as archive:
        arrays = dict(archive)
    meta = json.loads(str(arrays["meta"]))
    meta["layers"][-1]["inputs"] = names
    np.savez(path, **{**arrays, "meta": np.array(json.dumps(meta))})
    return lower(*read_trace(path))


@pytest.mark.parametrize("names", [["own"], ["one"], ["two"], ["two", "one"], ["own", "two"], ["one", "two", "own"]])
def test_spikes_come_from_the_neurons_in_which_sums_meet_whichever_layer_a_file_names(
    tmp_path: Path, names: list[str]
) -> None:
    network, trace = joined()
    write_trace(tmp_path / "t.npz", network, trace)
    live, read = lower(network, trace), heard_as(tmp_path / "t.npz", names)
    assert [layer.id for layer in read.layers] == [layer.id for layer in live.layers]
    assert read["reader"].inputs == ("own",)
    assert np.array_equal(read["own"].out.packed, trace.arrivals["reader"].packed)  # type: ignore[union-attr]


@pytest.mark.parametrize("branch", [Add(), MaxPool2d((1, 1), (1, 1)), SumPool2d((1, 1), (1, 1))])
def test_a_branch_that_sends_spikes_of_its_own_is_heard_itself(tmp_path: Path, branch: Node) -> None:
    network, trace = joined()
    nodes = {**network.nodes, "one": branch, "beside": Conv2d(3, 2, (1, 1)), "if2": IF(1.0)}
    edges = (*network.edges, ("one", "beside"), ("beside", "if2"), ("if2", "out"))
    network = Network({**{n: x for n, x in nodes.items() if n != "out"}, "out": nodes["out"]}, edges)
    trace = SpikeTrace(T, 1, {**trace.arrivals, "beside": trace.arrivals["one"]})
    write_trace(tmp_path / "t.npz", network, trace)
    live, read = lower(network, trace), lower(*read_trace(tmp_path / "t.npz"))
    assert live["beside"].inputs == read["beside"].inputs == ("one",)
    assert live["reader"].inputs == read["reader"].inputs == ("own",)


def test_a_bias_that_the_network_does_not_use_is_none_in_its_trace(tmp_path: Path) -> None:
    weight = np.ones((3, 2, 1, 1), np.int8)
    for used in (False, True):
        node = Conv2d(2, 3, (1, 1), weight=weight, bias=np.ones(3, np.int8), has_bias=used)
        nodes: Any = {"in": Input((2, 4, 4)), "first": node, "if": IF(1.0), "out": Output((3, 4, 4))}
        network = Network(nodes, (("in", "first"), ("first", "if"), ("if", "out")))
        trace = SpikeTrace(T, 1, {"first": Spikes.pack(np.zeros((T, 1, 2, 4, 4)))})
        write_trace(tmp_path / "t.npz", network, trace, weights=True)
        assert (
            lower(*read_trace(tmp_path / "t.npz"))["first"].has_bias is used is lower(network, trace)["first"].has_bias
        )
