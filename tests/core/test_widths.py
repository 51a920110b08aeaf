"""A float network is charged as if quantised, and every bill of it says so first; a user may ask for another width."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spikeloom.core.network import Network, chain
from spikeloom.core.nodes import IF, Conv2d, Flatten, Input, Linear, Node, Output, SumPool2d, Synapse
from spikeloom.core.trace import SpikeTrace
from spikeloom.core.workload import Workload
from spikeloom.emulate import emulate
from spikeloom.errors import ConfigError
from spikeloom.evaluate import PRESET_MODELS, evaluate, load_machine, load_workload
from spikeloom.files.results import read_reports, reports_to_json, write_reports
from spikeloom.files.store import read_trace, write_trace
from spikeloom.hw import HARDWARE
from spikeloom.lower import lower
from spikeloom.studies.ann import matched_ann, taken
from spikeloom.studies.thinning import first_steps, resampled
from spikeloom.transform.quantize import Widths, quantize

T, N = 4, 2


def network(bits: int = 8) -> Network:
    rng = np.random.default_rng(0)

    def drawn(*shape: int) -> np.ndarray:
        return rng.normal(0, 0.4, shape).astype(np.float32)

    nodes: dict[str, Node] = {
        "in": Input((2, 6, 6)),
        "conv": Conv2d(2, 4, (3, 3), padding=(1, 1), weight=drawn(4, 2, 3, 3), weight_bits=bits),
        "n1": IF(1.0),
        "pool": SumPool2d((2, 2), (2, 2)),
        "flat": Flatten(),
        "fc": Linear(36, 5, weight=drawn(5, 36), weight_bits=bits),
        "n2": IF(1.0),
        "out": Output((5,)),
    }
    return chain("net", nodes)


def spikes(of: Network) -> SpikeTrace:
    frames = (np.random.default_rng(1).random((T, N, 2, 6, 6)) < 0.4).astype(np.uint8)
    return emulate(of, frames, T)


def on_disk(path: Path, of: Network, trace: SpikeTrace | None = None, **layer_keys: Any) -> Path:
    """A trace file; layer_keys replace those of every layer with weights in its header, None takes one away."""
    write_trace(path, of, spikes(of) if trace is None else trace)
    arrays = dict(np.load(path))
    meta = json.loads(str(arrays["meta"]))
    for layer in meta["layers"]:
        if layer["kind"] in ("conv2d", "linear"):
            layer.update({key: value for key, value in layer_keys.items() if value is not None})
            for key in (key for key, value in layer_keys.items() if value is None):
                layer.pop(key, None)
    np.savez_compressed(path, **(arrays | {"meta": np.array(json.dumps(meta))}))  # type: ignore[arg-type]
    return path


def bill(workload: Workload, machine: str = "systolic") -> Any:
    return evaluate(workload, load_machine(machine)[1])


def moved(report: Any) -> int:
    return sum(layer.counts.get("dram_weight.read", 0) for layer in report.layers)


def test_a_float_network_is_told_first_and_charged_as_asked(tmp_path: Path) -> None:
    path = on_disk(tmp_path / "f.npz", network())
    plain, asked = bill(load_workload(path)), bill(load_workload(path, weight_bits=16))
    assert plain.warnings[0].startswith("weights are float32, charged as if quantised to 8 bits")
    assert plain.weight_bits == {"charged": [8], "assumed": True}
    # a dense array that holds all weights moves each once for a sample: by hand, weights * bits * N
    weights = 4 * 2 * 3 * 3 + 36 * 5
    assert (moved(plain), moved(asked)) == (weights * 8 * N, weights * 16 * N)
    assert "16 bits" in asked.warnings[0] and asked.weight_bits == {"charged": [16], "assumed": False}
    for machine in ("spikex", "ptb", "snn-dense", "sata", "spikesim", "loihi"):
        stated = bill(load_workload(on_disk(tmp_path / "s.npz", network(), weight_bits=32)), machine)
        wide = bill(load_workload(path, weight_bits=32), machine)
        assert (wide.energy_j, wide.cycles, wide.workload_id) == (stated.energy_j, stated.cycles, stated.workload_id)
        assert stated.weight_bits is None and wide.warnings[1:] == stated.warnings  # 32 bits are its own


def test_other_paths_of_the_same_network_say_it_too(tmp_path: Path) -> None:
    live, path = network(), on_disk(tmp_path / "f.npz", network())
    read, trace = read_trace(path)
    ann = matched_ann(read, taken(trace, np.array([0])))
    write_trace(tmp_path / "ann.npz", ann.network, ann.trace)
    cut = [first_steps(trace, 2), resampled(read, trace, -0.5), taken(trace, np.array([1]))]
    works = [lower(live, spikes(live)), *(lower(read, one) for one in cut), load_workload(tmp_path / "ann.npz")]
    for work in works:
        assert "float32" in bill(work).warnings[0]


def test_who_writes_by_hand_is_not_taken_for_integers(tmp_path: Path) -> None:
    trace = spikes(network())
    path = tmp_path / "hand.npz"
    write_trace(path, network(), replace(trace, extra={}))
    again, silent = read_trace(path)
    assert (
        bill(lower(again, silent))
        .warnings[0]
        .startswith("nothing says how wide the weights of conv, fc are: charged with 8")
    )
    write_trace(path, again, silent)
    assert load_workload(path).width == lower(again, silent).width is not None
    write_trace(path, network(4), replace(trace, extra={}))  # a width of a node's own is a statement
    assert load_workload(path).width is None


def test_a_trace_that_states_its_width_rests_on_no_assumption(tmp_path: Path) -> None:
    integers = quantize(network(), Widths(weight_bits=8))
    path = on_disk(tmp_path / "i.npz", integers)
    report = bill(load_workload(path))
    assert report.weight_bits is None and not any("quantised" in warning for warning in report.warnings)
    assert "weight_bits" not in json.loads(reports_to_json([report]))["machines"][0]
    with pytest.raises(ConfigError, match=r"--weight-bits 4: .*i.npz says how wide its weights are"):
        load_workload(path, weight_bits=4)
    silent = on_disk(tmp_path / "silent.npz", integers, weight_bits=None)  # "integer", but of how many bits?
    assert "nothing says" in bill(load_workload(silent)).warnings[0]
    assert moved(bill(load_workload(silent, weight_bits=16))) == 2 * moved(bill(load_workload(silent)))


@pytest.mark.parametrize("bits", [0, -1, 65])
def test_widths_out_of_range_are_refused(tmp_path: Path, bits: int) -> None:
    with pytest.raises(ConfigError, match=rf"--weight-bits {bits}: expected 1..64"):
        load_workload(on_disk(tmp_path / "f.npz", network()), weight_bits=bits)


def test_layer_lists_that_are_silent_say_so(tmp_path: Path) -> None:
    topology = tmp_path / "t.csv"
    topology.write_text("name,H,W,R,S,C,K,stride\nconv,6,6,3,3,2,4,1\n")
    plain = load_workload(topology, rate=0.5, num_steps=2)
    wide = load_workload(topology, rate=0.5, num_steps=2, weight_bits=16)
    assert "nothing says" in bill(plain).warnings[0] and moved(bill(wide)) == 2 * moved(bill(plain))
    for line, told in (("", True), ("weight_bits = 8\n", False)):
        file = tmp_path / "w.toml"
        file.write_text(
            'num_steps = 2\n[[layer]]\nname = "fc"\nkind = "linear"\nin_shape = [8]\nout_channels = 4\nfiring_rate = 0.5\n'
            + line
        )
        assert (load_workload(file).width is not None) == told
    with pytest.raises(ConfigError, match="says how wide"):
        load_workload(file, weight_bits=4)


@pytest.mark.parametrize("preset", sorted(PRESET_MODELS))
def test_a_machine_without_the_note_charges_no_width(preset: str, tmp_path: Path) -> None:
    """Machines that keep quiet cost the same whatever the width; those that speak do so first."""
    machine, arch = HARDWARE[PRESET_MODELS[preset]], load_machine(preset)[1]
    path = on_disk(tmp_path / "f.npz", network())
    narrow, wide = (evaluate(load_workload(path, weight_bits=bits), arch) for bits in (2, 8))
    if machine.charges_width(arch):
        assert "as --weight-bits asks" in narrow.warnings[0]
    else:
        assert narrow.weight_bits is None and not any("--weight-bits" in warning for warning in narrow.warnings)
        assert (narrow.energy_j, narrow.cycles) == (wide.energy_j, wide.cycles)


def test_reports_keep_it(tmp_path: Path) -> None:
    report = bill(load_workload(on_disk(tmp_path / "f.npz", network())))
    write_reports(tmp_path / "r.json", (report,))
    (again,) = read_reports(tmp_path / "r.json")
    assert again.weight_bits == report.weight_bits and again.warnings[0] == report.warnings[0]


def test_the_weights_themselves_stay() -> None:
    work = lower(network(), spikes(network()))
    nodes = [node for node in network().nodes.values() if isinstance(node, Synapse)]
    held = [layer.weight for layer in work.layers if layer.weight is not None]
    assert [w.ravel().tolist() for w in held] == [n.weight.ravel().tolist() for n in nodes if n.weight is not None]


@pytest.mark.parametrize("bits", [8, 4])
def test_floats_that_a_trace_holds_are_named_also_where_it_does_not_say_what_computed_it(
    tmp_path: Path, bits: int
) -> None:
    net, path = network(bits), tmp_path / "t.npz"
    trace = replace(spikes(net), extra={})
    write_trace(path, net, trace, weights=True)
    workload = load_workload(path)
    assert workload.width is not None and workload.width == lower(net, trace).width
    assert workload.width.note.startswith(f"weights are float32, charged as if quantised to {bits} bits")
    assert {layer.weight_bits for layer in load_workload(path, weight_bits=16).layers if layer.weight is not None} == {
        16
    }


def test_integers_among_floats_keep_their_width(tmp_path: Path) -> None:
    net = network()
    whole = Conv2d(2, 4, (3, 3), padding=(1, 1), weight=np.ones((4, 2, 3, 3), np.int8), weight_bits=3)
    net, path = replace(net, nodes={**net.nodes, "conv": whole}), tmp_path / "t.npz"
    trace = spikes(network())
    write_trace(path, net, trace, weights=True)
    workload = load_workload(path, weight_bits=16)
    assert [workload[name].weight_bits for name in ("conv", "fc")] == [3, 16]
    assert lower(net, trace).width.charged == (8,)  # type: ignore[union-attr]
