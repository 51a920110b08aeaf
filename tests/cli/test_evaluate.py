"""``spikeloom eval``: the same reports as the library gives, as tables for people or as JSON and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spikeloom.evaluate import evaluate, load_machine, load_workload
from spikeloom.files.results import read_reports
from spikeloom.files.store import read_trace, write_trace
from tests.cli.command import spikeloom

MACHINES = ("spikex", "ptb", "snn-dense", "spikex:window=8")


def expected(path: Path, *machines: str) -> list[object]:
    return [evaluate(load_workload(path), arch, label=label) for label, arch in map(load_machine, machines)]


def test_a_table_of_all_machines_and_a_sentence(files: Path) -> None:
    run = spikeloom("eval", files / "trace.npz", *MACHINES)
    assert run.code == 0
    assert "per inference" in run.out
    assert all(machine in run.out.replace("\n", " ") for machine in MACHINES)
    assert "lowest EDP per inference" in " ".join(run.out.split())
    assert "Energy per inference" not in " ".join(run.out.split())


@pytest.mark.parametrize(("by", "row"), [("layer", "conv"), ("component", "dram_act"), ("action", "dram_act.read")])
def test_a_breakdown_by_each(files: Path, by: str, row: str) -> None:
    run = spikeloom("eval", files / "trace.npz", "spikex", "--by", by)
    assert run.code == 0
    assert f"Energy per inference by {by}" in " ".join(run.out.split())
    rows = [line.split()[0] for line in run.out.splitlines() if line.split()]
    assert row in rows


def test_json_on_standard_output_is_json_and_nothing_else(files: Path, tmp_path: Path) -> None:
    run = spikeloom("eval", files / "trace.npz", *MACHINES, "--json", "-")
    assert run.code == 0
    assert len(json.loads(run.out)["machines"]) == len(MACHINES)
    (tmp_path / "report.json").write_text(run.out)
    assert list(read_reports(tmp_path / "report.json")) == expected(files / "trace.npz", *MACHINES)


def test_json_in_a_file_goes_with_the_table(files: Path, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "report.json"
    run = spikeloom("eval", files / "trace.npz", "ptb", "--json", path)
    assert run.code == 0
    assert "ptb" in run.out and "{" not in run.out
    assert list(read_reports(path)) == expected(files / "trace.npz", "ptb")


def test_a_machine_that_refuses_leaves_the_others_their_bill(files: Path, tmp_path: Path) -> None:
    tiny = "loihi:columns=1,rows=1,cores_per_tile=1,compartments=1"
    path = tmp_path / "report.json"
    run = spikeloom("eval", files / "trace.npz", tiny, "spikex", "ptb", "--json", path)
    assert run.code == 1
    assert list(read_reports(path)) == expected(files / "trace.npz", "spikex", "ptb")
    assert "ptb" in run.out
    last = run.err.strip().splitlines()[-1]
    assert last.startswith(f"error: {tiny} cannot run it: ") and "cores" in last
    both = spikeloom("eval", files / "trace.npz", tiny, tiny, "--json", tmp_path / "none.json")
    assert both.code == 1 and both.complaint and not (tmp_path / "none.json").exists()


def test_the_number_of_threads_changes_nothing(files: Path) -> None:
    one, two = (spikeloom("eval", files / "trace.npz", "spikex", "--json", "-", "--threads", n) for n in (1, 2))
    assert one.out == two.out


def test_a_machine_file_with_changed_fields(files: Path) -> None:
    spec = f"{files / 'machine.toml'}:merge=2,order=interleave"
    run = spikeloom("eval", files / "trace.npz", spec, "--json", "-")
    (machine,) = json.loads(run.out)["machines"]
    assert machine["label"] == spec
    assert {key: machine["arch"][key] for key in ("window", "merge", "order", "rows")} == {
        "window": 2, "merge": 2, "order": "interleave", "rows": 8
    }  # fmt: skip


def test_a_machine_file_in_a_folder_that_looks_like_markup(files: Path, tmp_path: Path) -> None:
    path = tmp_path / "[red]" / "[" / "b].toml"
    path.parent.mkdir(parents=True)
    path.write_text((files / "machine.toml").read_text())
    for words in (("eval", files / "trace.npz", path, "--by", "layer"), ("show", "hardware", path), ("check", path)):
        run = spikeloom(*words)
        assert run.code == 0 and run.complaint is None


def test_workloads_without_a_trace_say_so(files: Path) -> None:
    for words in (("workload.toml",), ("topology.csv", "--rate", 0.1, "--steps", 4)):
        run = spikeloom("eval", files / words[0], "spikex", *words[1:])
        assert run.code == 0
        assert "note: synthetic trace" in " ".join(run.err.split())
    document = json.loads(spikeloom("eval", files / "workload.toml", "spikex", "--json", "-").out)
    assert any("synthetic trace" in warning for warning in document["machines"][0]["warnings"])


def test_a_topology_takes_its_rate_and_steps_from_the_command_line(files: Path) -> None:
    def synops(rate: float, steps: int) -> int:
        run = spikeloom("eval", files / "topology.csv", "spikex", "--rate", rate, "--steps", steps, "--json", "-")
        found: int = json.loads(run.out)["machines"][0]["total"]["synops"]
        return found

    assert synops(0, 4) == 0
    assert synops(1, 4) == 2 * synops(1, 2) == 4 * (7 * 7 * 3 * 3 * 2 * 4 + 10 * 64)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("none.npz", "spikex"), "no such file"),
        (("trace.npz", "spikey"), "did you mean 'spikex'?"),
        (("trace.npz", "none.toml"), "no such file"),
        (("trace.npz", "spikex:window=0"), "window: got 0, expected: greater than or equal to 1"),
        (("trace.npz", "spikex:window={conv=2}"), "missing ['fc']"),
        (("trace.npz", "spikex:lbuf_kib=0.5"), "no read"),
        (("trace.npz", "spikex:table=nope"), "nope"),
        (("network.npz", "spikex"), "expected 'spikeloom-trace'"),
        (("topology.csv", "spikex"), "give --rate and --steps"),
        (("topology.csv", "spikex", "--rate", "2", "--steps", "4"), "expected a rate of 0..1"),
        (("report.json", "spikex"), "cannot tell what this is"),
        (("machine.toml", "spikex"), "model: unknown key"),
        (("trace.npz", "spikex", "--json", "."), "is a folder"),
        (("trace.npz", "spikex", "--json", ""), "is a folder"),
        (("trace.npz", "spikex", "--json", "trace.npz/x.json"), "cannot be written"),
    ],
)
def test_bad_input_is_one_line(files: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], says: str) -> None:
    monkeypatch.chdir(files)
    run = spikeloom("eval", *words)
    assert run.code == 1
    assert run.complaint is not None and says in run.complaint
    assert run.out == "" or "--json" in words


@pytest.mark.parametrize(
    "words",
    [(), ("trace.npz",), ("trace.npz", "spikex", "--by", "colour"), ("trace.npz", "spikex", "--threads", "0"),
     ("trace.npz", "spikex", "--rate", "often"), ("trace.npz", "spikex", "--nope")],
)  # fmt: skip
def test_wrong_usage_is_code_2(files: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]) -> None:
    monkeypatch.chdir(files)
    run = spikeloom("eval", *words)
    assert (run.code, run.out) == (2, "")
    assert "Usage: " in run.err


def test_reports_do_not_replace_a_file_of_the_machine(files: Path, tmp_path: Path) -> None:
    machine = tmp_path / "my.toml"
    machine.write_text('model = "spikex"\n')
    run = spikeloom("eval", files / "trace.npz", f"{machine}:window=2", "--json", machine)
    assert run.code == 1 and str(machine) in str(run.complaint)
    assert machine.read_text() == 'model = "spikex"\n'


def test_real_time_bills_the_wait_beside_the_work(files: Path, tmp_path: Path) -> None:
    """104 mW of an idle chip over 2 samples of 6 steps of 1 ms; what leaks nothing has a dash."""
    network, trace = read_trace(files / "trace.npz")
    timed = tmp_path / "timed.npz"
    write_trace(timed, network, replace(trace, dt_s=0.001))
    chips = ("loihi", "loihi:static=frady2020")
    run = spikeloom("eval", timed, *chips, "--real-time", "--json", tmp_path / "r.json")
    assert run.code == 0
    assert "real time" in run.out and "energy in it" in run.out and "6 ms" in run.out
    assert "note: loihi: nothing that leaks on loihi is priced" in run.err
    assert max(map(len, run.out.splitlines())) <= 80
    bare, leaking = json.loads((tmp_path / "r.json").read_text())["machines"]
    assert "real_time" not in bare
    expected_j = bare["total"]["energy_j"] + 0.104 * 2 * 0.006
    assert leaking["real_time"]["energy_j"] == pytest.approx(expected_j)
    assert leaking["real_time"]["per_inference"] == pytest.approx({"latency_s": 0.006, "energy_j": expected_j / 2})
    assert read_reports(tmp_path / "r.json")[1].real_time is not None
    run = spikeloom("eval", timed, "loihi:static=frady2020")
    assert "note: idle time is not billed: a sample lasts 6 ms (T dt_s); --real-time bills leakage over it" in run.err
    assert "idle time" not in spikeloom("eval", timed, "loihi").err


def test_real_time_of_machines_that_leak_nothing_is_refused(files: Path, tmp_path: Path) -> None:
    network, trace = read_trace(files / "trace.npz")
    write_trace(tmp_path / "timed.npz", network, replace(trace, dt_s=0.001))
    run = spikeloom("eval", tmp_path / "timed.npz", "loihi", "--real-time", "--json", tmp_path / "r.json")
    assert (run.code, run.complaint) == (
        1, "--real-time: has no effect, as nothing that leaks is priced on the machines named; leave it out"
    )  # fmt: skip
    assert not (tmp_path / "r.json").exists()


@pytest.mark.parametrize("source", ["trace.npz", "workload.toml"])
def test_real_time_needs_the_length_of_a_step(files: Path, source: str) -> None:
    run = spikeloom("eval", files / source, "spikex", "--real-time")
    assert run.complaint is not None and "dt_s" in run.complaint


def test_the_width_of_weights_is_asked_for_and_told_first(files: Path, tmp_path: Path) -> None:
    arrays = dict(np.load(files / "trace.npz"))
    meta = json.loads(str(arrays["meta"]))
    synapses = [layer for layer in meta["layers"] if layer["kind"] in ("conv2d", "linear")]
    for name, arithmetic, bits in (("floats", "float32", 8), ("wide", "float32", 32), ("integer", "integer: 8 bit", 8)):
        for layer in synapses:
            layer["weight_bits"] = bits
        told = json.dumps(meta | {"arithmetic": arithmetic})
        np.savez_compressed(tmp_path / f"{name}.npz", **(arrays | {"meta": np.array(told)}))

    def machine(*words: object) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(spikeloom("eval", *words, "spikex", "--json", "-").out)["machines"][0]
        return found

    plain, wide = machine(tmp_path / "floats.npz"), machine(tmp_path / "wide.npz")
    asked = machine(tmp_path / "floats.npz", "--weight-bits", 32)
    assert "as if quantised to 8 bits" in plain["warnings"][0] and plain["weight_bits"]["assumed"]
    assert asked["total"] == wide["total"] != plain["total"] and asked["workload_id"] == wide["workload_id"]
    assert asked["warnings"][0].startswith("weights are charged with 32 bits, as --weight-bits asks")
    assert "weight_bits" not in wide and "weight_bits" not in machine(tmp_path / "integer.npz")
    run = spikeloom("eval", tmp_path / "floats.npz", "spikex", "ptb")
    assert run.err.splitlines()[0].startswith("note: weights are float32, charged as if quantised to 8 bits")
    for verb in (("eval", "spikex"), ("map", "loihi"), ("study", "spikex")):
        words = [verb[0], tmp_path / "integer.npz", verb[1]]
        if verb[0] == "study":
            words = ["study", "truly-efficient", tmp_path / "integer.npz", "--machines", "spikex"]
        run = spikeloom(*words, "--weight-bits", 4)
        assert run.complaint is not None and "says how wide its weights are" in run.complaint
    for words in (["eval", tmp_path / "floats.npz", "ncs2"], ["map", tmp_path / "floats.npz", "loihi:synapse_bit=4"]):
        run = spikeloom(*words, "--weight-bits", 4)
        assert run.complaint is not None and "no machine named charges" in run.complaint
    study = ("study", "truly-efficient", tmp_path / "floats.npz", "--machines", "spikex", "--json", "-", "--threads", 1)
    bills = [json.loads(spikeloom(*study, *more).out)["machines"][0] for more in ((), ("--weight-bits", 32))]
    assert [bill["warnings"][0][:19] for bill in bills] == ["weights are float32", "weights are charged"]
    per_inference = asked["total"]["per_inference"]["energy_j"]
    assert bills[1]["snn"]["energy"] == pytest.approx(per_inference, rel=1e-12)
    assert bills[1]["ann"]["energy"] > bills[0]["ann"]["energy"]
