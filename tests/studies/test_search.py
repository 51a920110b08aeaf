"""Searches as a user writes them: what files may say, joint search in stages, designs that evaluate again to the digit."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from spikeloom.codesign.search import SearchSettings
from spikeloom.core.network import Network, chain
from spikeloom.core.nodes import IF, Conv2d, Flatten, Input, Linear, Synapse
from spikeloom.core.trace import Spikes, SpikeTrace
from spikeloom.errors import ConfigError, SpikeloomError
from spikeloom.evaluate import evaluate, load_machine, load_workload
from spikeloom.files.network import read_network
from spikeloom.files.nir import read_nir
from spikeloom.files.results import read_reports, reports_to_json
from spikeloom.files.store import write_trace
from spikeloom.hw.spikex import SpikexArch
from spikeloom.report.front import front_table
from spikeloom.studies import train_search
from spikeloom.studies.export import export_design
from spikeloom.studies.search import Searched, chosen, draw_front, hidden_rate, network_of, run_search
from spikeloom.studies.search_file import SEARCHES, Plan, plan_search, read_search, search_title
from spikeloom.studies.train_search import TrainObjective
from spikeloom.units import format_si

EXPERIMENT = """
data = "moving-bar"
network = "mlp"
[data_options]
num_samples = 16
[network_options]
width = 0.05
batch_norm = false
[train]
num_steps = 4
encoding = "events"
epochs = 2
batch_size = 8
initial_rate = 0.2
"""
TRACE_SEARCH = """
machine = "spikex"
trace = "trace.npz"
[search]
objectives = ["energy", "latency"]
sampler = "exhaustive"
trials = 100
[constraints]
area = { at_most = "ptb" }
[mapping]
windows = [1, 2, 4]
merges = [1, 2]
[space]
arch.shape = { total = 16 }
arch.dispatch = ["agile", "ptb"]
arch.weight_skip = { values = ["off", "group"], when = { arch.dispatch = "agile" } }
[baselines]
machines = ["ptb", "snn-dense"]
windows = [1, 4]
"""
JOINT_SEARCH = """
machine = "spikex"
experiment = "experiment.toml"
held_out = 0.25
[search]
objectives = ["accuracy", "edp"]
sampler = "grid"
trials = 50
[prune]
epochs = 1
[quantize]
epochs = 1
[space]
net.width = [0.05, 0.1]
prune.sparsity = [0.0, 0.6]
quantize.bits = ["float", 3]
arch.shape = ["8x8", "4x16"]
[baselines]
machines = ["ptb"]
windows = [1, 4]
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    weight = rng.normal(size=(3, 2, 3, 3)) * (rng.random((3, 2, 3, 3)) < 0.5)
    nodes = {
        "in": Input((2, 6, 6)),
        "conv": Conv2d(2, 3, (3, 3), weight=weight.astype(np.float32)),
        "if": IF(1.0),
        "fl": Flatten(),
        "fc": Linear(48, 5, weight=rng.normal(size=(5, 48)).astype(np.float32)),
    }
    network = chain("net", nodes)  # type: ignore[arg-type]  # mypy takes the values for objects
    shapes = (("conv", (2, 6, 6)), ("fc", (48,)))
    spikes = {name: Spikes.pack(rng.random((6, 3, *shape)) < 0.2) for name, shape in shapes}
    trace = SpikeTrace(6, 3, spikes, labels=np.array([0, 1, 2]), predictions=np.array([0, 1, 0]))
    write_trace(tmp_path / "trace.npz", network, trace, weights=True)
    (tmp_path / "experiment.toml").write_text(EXPERIMENT)
    (tmp_path / "on-trace.toml").write_text(TRACE_SEARCH)
    (tmp_path / "joint.toml").write_text(JOINT_SEARCH)
    return tmp_path


def planned(path: Path, folder: Path, **changes: Any) -> Plan:
    file, name = read_search(path, changes=changes)
    return plan_search(file, name, folder, threads=1)


def searched(plan: Plan, folder: Path, **options: Any) -> Searched:
    return run_search(plan, folder, **options)


def test_a_trace_search_evaluates_every_design_at_its_best_mapping(files: Path) -> None:
    plan = planned(files / "on-trace.toml", files / "study")
    assert plan.space.size == 5 * 3
    assert plan.space.choice("arch.shape").values == ("1x16", "2x8", "4x4", "8x2", "16x1")
    found = searched(plan, files / "study")
    workload = load_workload(files / "trace.npz")
    assert len(found.result.trials) == 15 and all(
        trial.accuracy == pytest.approx(2 / 3) for trial in found.result.trials
    )
    for trial in found.result.trials:
        report = trial.report
        assert (
            report is not None
            and f"{report.arch['rows']}x{report.arch['cols']}" == trial.config["params"]["arch.shape"]
        )
        # the search outside chose the dispatch, the one inside the windows
        assert report.arch["dispatch"] == trial.config["params"]["arch.dispatch"]
        for window in (1, 2, 4):
            plain = load_machine(f"spikex:rows={report.arch['rows']},cols={report.arch['cols']},window={window},"
                                 f"dispatch={report.arch['dispatch']},weight_skip={report.arch['weight_skip']}")[1]  # fmt: skip
            assert report.edp_js <= evaluate(workload, plain, threads=1).edp_js * (1 + 1e-12)
    assert [row.label for row in found.baselines] == ["ptb", "snn-dense"]
    assert found.baselines[0].hidden_rate == found.front[0].hidden_rate == hidden_rate(workload)
    ptb = load_machine("ptb")[1]
    windows = [evaluate(workload, type(ptb)(**{**vars(ptb), "window": w}), threads=1).edp_js for w in (1, 4)]  # type: ignore[call-arg]
    assert found.baselines[0].report.edp_js == min(windows)


def test_a_joint_search_makes_each_stage_once_and_never_opens_the_test_set(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    real = train_search.samples

    def watched(experiment: Any, split: str, data_dir: Path | None = None) -> Any:
        opened.append(split)
        return real(experiment, split, data_dir)

    monkeypatch.setattr(train_search, "samples", watched)
    monkeypatch.setattr("spikeloom.studies.experiment.samples", _refused)
    train_search._loaded.cache_clear()
    plan = planned(files / "joint.toml", files / "study")
    found = searched(plan, files / "study")
    assert opened and set(opened) == {"train"}
    assert len(found.result.trials) == found.result.computed == 16
    # two widths; each plain and pruned; each of the four with float weights or three bits; the baseline's is one of them
    assert len(list((files / "study" / "networks").glob("*.npz"))) == 2 + 2 + 4
    by_params = {tuple(trial.config["params"].values()): trial for trial in found.result.trials}
    for (width, sparsity, bits, _), trial in by_params.items():
        network = network_of(plan, trial)
        weights = [n.weight for n in network.nodes.values() if isinstance(n, Synapse) and n.weight is not None]
        assert sum(int((w == 0).sum()) for w in weights) >= int(sparsity * sum(w.size for w in weights))
        assert network.arithmetic == ("float32" if bits == "float" else "integer")
        assert trial.accuracy is not None and round(trial.accuracy * 4) == trial.accuracy * 4  # 4 held-out recordings
        assert trial.report is not None and trial.report.num_samples == 4
        assert (width, trial.report.arch["rows"]) in {(w, r) for w in (0.05, 0.1) for r in (8, 4)}
    again = searched(planned(files / "joint.toml", files / "study"), files / "study")
    assert again.result.computed == 0 and [t.id for t in again.result.front] == [t.id for t in found.result.front]


def _refused(*_: Any) -> Any:
    raise AssertionError("the search opened a data set behind the back of its objective")


def test_exported_designs_evaluate_again_to_the_digit(files: Path) -> None:
    for name in ("joint.toml", "on-trace.toml"):
        folder = files / f"study-{name}"
        plan = planned(files / name, folder, **({"trials": 2, "sampler": "random"} if name == "joint.toml" else {}))
        found = searched(plan, folder)
        for trial in chosen(found.result, ["all"]):
            # a trial of an earlier version did not say what its bill holds
            earlier = None if trial.report is None else replace(trial.report, holds=(), limits=())
            target = export_design(plan, replace(trial, report=earlier), folder)
            arch = load_machine(str(target / "arch.toml"))[1]
            report = evaluate(load_workload(target / "trace.npz"), arch, label="arch.toml")
            assert reports_to_json([report]) == (target / "report.json").read_text()
            (read,) = read_reports(target / "report.json")
            assert trial.report is not None and read.edp_js == trial.report.edp_js
            assert (target / "network.npz").exists() == (name == "joint.toml")
            if name == "joint.toml":
                same_weights(read_network(target / "network.npz"), read_nir(target / "network.nir"))


def same_weights(network: Network, other: Network) -> None:
    for name, node in network.nodes.items():
        if isinstance(node, Synapse) and node.weight is not None:
            twin = other.nodes[name]
            assert isinstance(twin, Synapse) and twin.weight is not None
            np.testing.assert_array_equal(twin.weight, node.weight.astype(np.float32))


def test_a_design_whose_files_changed_since_is_not_exported(files: Path) -> None:
    plan = planned(files / "joint.toml", files / "study", trials=1, sampler="random")
    found = searched(plan, files / "study")
    (trial,) = found.result.trials
    network_file = train_search.network_file(files / "study", trial.id)
    other = network_of(plan, trial)
    nodes = {
        name: (type(node)(**{**vars(node), "weight": node.weight * 0}) if isinstance(node, Synapse) else node)  # type: ignore[operator]
        for name, node in other.nodes.items()
    }
    train_search.write_network(network_file, Network(nodes, other.edges, other.name, other.dt_s, other.metadata))
    with pytest.raises(SpikeloomError, match="than its trial has"):
        export_design(plan, trial, files / "study")


def test_a_network_that_is_lost_is_made_again(files: Path) -> None:
    plan = planned(files / "joint.toml", files / "study", trials=1, sampler="random")
    (trial,) = searched(plan, files / "study").result.trials
    before = network_of(plan, trial)
    train_search.network_file(files / "study", trial.id).unlink()
    for left in (files / "study" / "networks").glob("*.npz"):
        left.unlink()
    assert network_of(plan, trial).id == before.id
    export_design(plan, trial, files / "study")


def test_a_search_from_a_trained_network_with_the_price_of_spikes(files: Path) -> None:
    plan = planned(files / "joint.toml", files / "first", trials=1, sampler="random")
    (trial,) = searched(plan, files / "first").result.trials
    network = plan.objective.network({"quantize.bits": "float", "prune.sparsity": 0.0})  # type: ignore[union-attr]
    train_search.write_network(files / "network.npz", network)
    (files / "priced.toml").write_text(
        JOINT_SEARCH.replace('experiment = "experiment.toml"', 'network = "network.npz"')
        .replace("net.width = [0.05, 0.1]", "cotrain.beta = [0.0, 1.0]\ntrain.num_steps = [2, 4]")
        .replace("[prune]", "[cotrain]\nepochs = 1\nsamples = 4\n[prune]")
        .replace("prune.sparsity = [0.0, 0.6]\nquantize.bits = [\"float\", 3]\n", "")
        .replace("[quantize]\nepochs = 1\n", "").replace("[prune]\nepochs = 1\n", "")
    )  # fmt: skip
    plan = planned(files / "priced.toml", files / "study", trials=4, sampler="random")
    found = searched(plan, files / "study")
    assert {trial.config["cotrain"]["beta"] for trial in found.result.trials} <= {0.0, 1.0}
    for trial in found.result.trials:
        assert trial.config["network"] == network.id
        assert network_of(plan, trial).metadata["history"]
    text = (files / "priced.toml").read_text().replace("cotrain.beta = [0.0, 1.0]", "net.width = [0.5]")
    (files / "wider.toml").write_text(text)
    with pytest.raises(ConfigError, match="starts from the trained network"):
        planned(files / "wider.toml", files / "other")


def test_reports_come_after_every_epoch_also_of_a_stage_that_was_found(files: Path) -> None:
    plan = planned(files / "joint.toml", files / "study")
    objective = plan.objective
    assert isinstance(objective, TrainObjective)
    (files / "study").mkdir()
    params = {"net.width": 0.05, "prune.sparsity": 0.6, "quantize.bits": 3, "arch.shape": "8x8"}
    told: list[list[tuple[int, float]]] = []

    def report(step: int, values: Mapping[str, float]) -> bool:
        told[-1].append((step, values["accuracy"]))
        return False

    for _ in range(2):
        told.append([])
        trial = objective(params, report)
        assert trial is not None and trial.id == objective.identity(params).id
    assert told[0] == told[1] and [step for step, _ in told[0]] == [1, 2, 3]  # two epochs of training, one on the grid
    assert objective({**params, "net.width": 0.1}, lambda step, values: step == 2) is None
    # what was stopped goes on from its checkpoint when another design needs the same stage
    told.append([])
    assert objective({**params, "net.width": 0.1}, report) is not None and told[-1][-1][0] == 3


def test_objectives_travel_light_and_know_the_same_designs(files: Path) -> None:
    for name in ("joint.toml", "on-trace.toml"):
        plan = planned(files / name, files / "study")
        params = next(iter(plan.space.grid()))
        trial = plan.objective.identity(params)
        data = pickle.dumps(plan.objective)
        assert len(data) < 10_000 and pickle.loads(data).identity(params).id == trial.id
        assert plan.objective.identity({**params, "arch.shape": "2x8"}).id != trial.id


def test_local_processes_find_the_same_front(files: Path) -> None:
    alone = searched(planned(files / "on-trace.toml", files / "alone"), files / "alone")
    both = searched(planned(files / "on-trace.toml", files / "both"), files / "both", workers=2)
    assert [trial.id for trial in both.result.front] == [trial.id for trial in alone.result.front]


def test_a_figure_shows_every_design(files: Path) -> None:
    pytest.importorskip("plotly")
    plan = planned(files / "on-trace.toml", files / "study")
    found = searched(plan, files / "study")
    draw_front(plan, found, files / "front.html")
    text = (files / "front.html").read_text()
    assert "latency per inference (s)" in text and "arch.shape=4x4" in text and "snn-dense" in text


@pytest.mark.parametrize("name", SEARCHES)
def test_shipped_searches_can_be_planned(name: str, files: Path) -> None:
    pytest.importorskip("sklearn")
    inputs = {"trace": str(files / "trace.npz")} if name == "array" else {}
    file, found = read_search(name, inputs=inputs)
    plan = plan_search(file, found, files / "study")
    assert found == name and plan.space.size > 100 and isinstance(plan.settings, SearchSettings)
    assert len(search_title(name)) > 10


@pytest.mark.parametrize(
    ("key", "value", "si"),
    [
        ("edp_pjs", 11, 11e-12),
        ("edp_js", 2, 2.0),
        ("energy_uj", 1.5, 1.5e-6),
        ("latency_s", 1, 1.0),
        ("area_m2", 1, 1.0),
    ],
)
def test_limits_are_read_in_their_unit(files: Path, key: str, value: float, si: float) -> None:
    (files / "limit.toml").write_text(
        TRACE_SEARCH.replace('area = { at_most = "ptb" }', f"{key} = {{ at_most = {value} }}")
    )
    (limit,) = planned(files / "limit.toml", files / "study").settings.constraints
    assert limit.at_most == si


PRICED = """
machine = "{machine}"
trace = "trace.npz"
[search]
objectives = ["{objective}"]
sampler = "exhaustive"
trials = 10
[space]
{choice}
[mapping]
windows = [1, 4]
[baselines]
machines = ["ptb", "sata"]
windows = [1, 4]
"""


def priced(files: Path, machine: str, objective: str, choice: str) -> Searched:
    (files / "priced.toml").write_text(PRICED.format(machine=machine, objective=objective, choice=choice))
    return searched(planned(files / "priced.toml", files / "priced"), files / "priced")


def edp_of_ptb(files: Path, changes: str) -> float:
    """The least EDP of the baseline over its windows, by evaluating it at each."""
    workload = load_workload(files / "trace.npz")
    return min(evaluate(workload, load_machine(f"ptb:window={w},{changes}")[1], threads=1).edp_js for w in (1, 4))


def rows_of(found: Searched) -> dict[str, list[str]]:
    console = Console(width=100, file=io.StringIO())
    console.print(front_table(found.front, found.baselines))
    lines = [line.split() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    return {line[0]: line for line in lines if line}


@pytest.mark.parametrize(
    ("machine", "choice", "changes"),
    [
        ("spikex:table=cacti32", "arch.adders = [1, 2]", "table=cacti32"),
        ("spikex:clock_mhz=250", "arch.adders = [1, 2]", "clock_mhz=250"),
        ("spikex", "arch.clock_mhz = [500, 1000]", "clock_mhz=1000"),
    ],
)
def test_a_ratio_is_that_of_two_bills_at_one_table_and_clock(
    files: Path, machine: str, choice: str, changes: str
) -> None:
    found = priced(files, machine, "edp", choice)
    (best,) = found.front
    assert best.report.arch["clock_mhz"] == float(changes.rpartition("clock_mhz=")[2] if "clock" in changes else 500)
    expected = edp_of_ptb(files, changes)
    row = rows_of(found)["1"]
    assert row[-2:] == [f"{expected / best.report.edp_js:.3g}x", "-"], "sata has a table of its own"
    notes = {note for _, notes in found.notes() for note in notes}
    assert any("these machines are priced from different tables" in note for note in notes)
    sata = evaluate(load_workload(files / "trace.npz"), load_machine("sata")[1], threads=1)
    assert found.baselines[-1].report.edp_js == sata.edp_js


def test_a_table_that_prices_less_does_not_win(files: Path) -> None:
    found = priced(files, "spikex", "energy", 'arch.table = ["cacti32-hp", "cacti32"]\narch.adders = [1, 2]')
    assert [row.report.arch["table"] for row in found.front] == ["cacti32-hp", "cacti32"]
    assert any("each kind has its own front" in note for note in found.notes()[0][1])
    for k, row in enumerate(found.front, 1):
        table = row.report.arch["table"]
        others = [t.report for t in found.result.trials if t.report and t.report.arch["table"] == table]
        assert row.report.energy_j == min(report.energy_j for report in others) and len(others) == 2
        assert rows_of(found)[str(k)][-2] == f"{edp_of_ptb(files, f'table={table}') / row.report.edp_js:.3g}x"


def test_a_named_area_is_that_at_the_table_of_the_designs(files: Path) -> None:
    text = TRACE_SEARCH.replace('"spikex"', '"spikex:table=cacti32"')
    (files / "area.toml").write_text(text)
    (limit,) = planned(files / "area.toml", files / "study").settings.constraints
    assert limit.at_most == evaluate(load_workload(files / "trace.npz"), load_machine("ptb:table=cacti32")[1]).area_m2


def test_designs_that_each_break_a_limit_of_their_own(files: Path) -> None:
    text = TRACE_SEARCH.replace(
        'area = { at_most = "ptb" }', "edp_fjs = { at_most = LOW }\nlatency_ns = { at_most = FAST }"
    )
    (files / "free.toml").write_text(TRACE_SEARCH.replace('area = { at_most = "ptb" }', ""))
    free = searched(planned(files / "free.toml", files / "free"), files / "free").result.trials
    reports = [trial.report for trial in free if trial.report]
    edp, latency = min(r.edp_js for r in reports), min(r.latency_per_inference_s for r in reports)
    text = text.replace("LOW", repr(edp * 0.5e15)).replace("FAST", repr(latency * 2e9))
    (files / "never.toml").write_text(text)
    plan = planned(files / "never.toml", files / "never")
    found = searched(plan, files / "never")
    assert not found.front
    assert found.shortfall(plan.settings) == (
        f"no design has edp of at most {format_si(edp / 2, 'Js')}; the nearest has {format_si(edp, 'Js')}"
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("trace =", "trcae =", "trcae: unknown key (did you mean 'trace'?)"),
        ('trace = "trace.npz"', "", "names no spikes to search with"),
        ("[search]", 'experiment = "digits"\n[search]', "trace and experiment"),
        ('"exhaustive"', '"exhaust"', "search: sampler: got 'exhaust'"),
        ("trials = 100", "trial = 100", "search: trial: unknown key (did you mean 'trials'?)"),
        ('"energy", "latency"', '"energie"', "metric 'energie': unknown (did you mean 'energy'?)"),
        ("area = {", "are_mm2 = {", "constraints: got 'are_mm2' (did you mean 'area'?)"),
        ('area = { at_most = "ptb"', "area = { at_most = 1", "lacks its unit; name it area_um2 or _mm2"),
        (
            'area = { at_most = "ptb"',
            'area = { at_least = 0.1, at_most = "ptb"',
            "lacks its unit; name it area_um2 or _mm2",
        ),
        (
            'area = { at_most = "ptb"',
            "area_uj = { at_most = 1",
            "got the unit 'uj', expected um2 or mm2 or m2 for area",
        ),
        (
            'area = { at_most = "ptb"',
            "edp = { at_most = 11",
            "constraints.edp: lacks its unit; name it edp_fjs or _pjs",
        ),
        (
            'area = { at_most = "ptb"',
            "latency = { at_most = 1",
            "constraints.latency: lacks its unit; name it latency_ns or",
        ),
        (
            'area = { at_most = "ptb"',
            "energy = { at_most = 1",
            "constraints.energy: lacks its unit; name it energy_fj or",
        ),
        ('area = { at_most = "ptb"', "edp_pj = { at_most = 1", "got the unit 'pj', expected fjs or pjs"),
        ('area = { at_most = "ptb"', "accuracy = { at_least = 90", "at_least: got 90, expected a fraction of 0..1"),
        ('area = { at_most = "ptb"', "energy_uj = { at_most = -1", "expected 0 or more J"),
        ('area = { at_most = "ptb"', 'area = { at_most = "ptp"', "ptp: no such machine (did you mean 'ptb'?)"),
        ('area = { at_most = "ptb"', "area_mm2 = { below = 1", "expected { at_most = ... } or { at_least = ... }"),
        ('area = { at_most = "ptb"', "area_mm2 = { at_most = 1, at_least = 2", "no design can meet both"),
        ("windows = [1, 2, 4]", "window = [1, 2, 4]", "mapping.window: unknown key (did you mean 'windows'?)"),
        ("windows = [1, 2, 4]", "windows = [0]", "window: got 0, expected 1..64"),
        ("merges = [1, 2]", 'objective = "area"', "mapping.objective: got 'area', expected edp, energy or latency"),
        ("merges = [1, 2]", 'search = "no"', "mapping.search: got 'no', expected true or false"),
        ("arch.shape = {", "arch.shpae = {", "total and parts share a budget out"),
        ("{ total = 16 }", "[16]", 'got 16, expected "rowsxcols" such as "8x8"'),
        ("{ total = 16 }", '["8x128"]', "cols: got 128"),
        ("{ total = 16 }", "{ total = 4099 }", "no pair lies in"),
        (
            "arch.shape = { total = 16 }",
            "arch.buffers = { total = 56, parts = 7.5 }",
            "parts: got 7.5, expected a whole number",
        ),
        (
            "arch.shape = { total = 16 }",
            "arch.buffers = { total = 56, parts = inf }",
            "parts: got inf, expected a whole number",
        ),
        ("arch.shape = { total = 16 }", "arch.shape = { total = 16 }\narch.rows = [8]", "both decide rows; keep one"),
        ("arch.dispatch =", "arch.dispach =", "has no field 'dispach' (did you mean 'dispatch'?)"),
        ('["agile", "ptb"]', '["agile", "pbt"]', "dispatch: got 'pbt'"),
        ('["agile", "ptb"]', "8", 'got 8, expected a list of values, "default" or a table'),
        ("when = { arch.dispatch", "when = { arch.dispatches", "names 'arch.dispatches', which is no earlier choice"),
        ('"agile" } }', '"dense" } }', "got 'dense', expected one of agile, ptb"),
        ("arch.shape =", "train.num_steps =", "total and parts share a budget out"),
        ("arch.shape = { total = 16 }", "train.num_steps = [4]", "the spikes of a trace are fixed"),
        ("arch.shape =", "arch.window.conf = [1]\narch.shape =", "no layer 'conf' (did you mean 'conv'?)"),
        ("arch.shape =", "arch.rows.conv = [1]\narch.shape =", "rows is the same in every layer"),
        ('["ptb", "snn-dense"]', '["ptp"]', "ptp: no such machine"),
        ("windows = [1, 4]", "windows = 4", "baselines.windows"),
        ('machine = "spikex"', 'machine = "spikx"', "spikx: no such machine"),
        (
            'machine = "spikex"',
            'machine = "spikex"\nheld_out = 0.3',
            "trace and held_out: the spikes of a trace are fixed",
        ),
        (
            'machine = "spikex"',
            'machine = "spikex"\nrecorded = 7',
            "trace and recorded: the spikes of a trace are fixed",
        ),
        ("[search]", "[train]\nepochs = 2\n[search]", "trace and train: the spikes of a trace are fixed"),
        ("trials = 100", "trials = 100\nprune_by = 'edp'", "search.prune_by: has no effect without a pruner"),
        ("trials = 100", "trials = 100\nprune_after = 3", "search.prune_after: has no effect without a pruner"),
        (
            'objectives = ["energy", "latency"]',
            'objectives = ["edp"]\npruner = "median"',
            "search.pruner: has no effect on a trace",
        ),
        ("merges = [1, 2]", "search = false", "mapping.windows: has no effect without a search of mappings"),
        ('machine = "spikex"', 'machine = "sata"', "mapping.windows: has no effect without a search of mappings"),
        ('machines = ["ptb", "snn-dense"]', "", "baselines.windows: has no effect without machines"),
        ("windows = [1, 4]", "windows = [0]", "expected: window: got 0, expected 1..64"),
        ('["ptb", "snn-dense"]', '["sata"]', "baselines.windows: has no effect without machines that have windows"),
        (
            "arch.shape =",
            "arch.merge = [1, 2]\narch.shape =",
            "mapping.merges: has no effect without a merge that",
        ),
        ('{ at_most = "ptb"', '{ at_most = "ptb", at_least = 1e-9', "constraints.area: lacks its unit"),
        ('trace = "trace.npz"', 'trace = "none.npz"', "none.npz"),
    ],
)
def test_what_a_search_file_may_not_say(files: Path, old: str, new: str, message: str) -> None:
    assert old in TRACE_SEARCH
    _refuses(files, TRACE_SEARCH.replace(old, new), message)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("net.width = [0.05, 0.1]", "net.widht = [0.05]", "the network has no field 'widht' (did you mean 'width'?)"),
        ("net.width = [0.05, 0.1]", "net.width = [0.0]", "width must be positive"),
        ("net.width = [0.05, 0.1]", "nets.width = [0.05]", "no section 'nets' (did you mean 'net'?)"),
        ("prune.sparsity = [0.0, 0.6]", "prune.sparsity = [1.5]", "sparsity: got 1.5, expected a fraction of 0..1"),
        ("prune.sparsity = [0.0, 0.6]", "train.num_steps = [0]", "num_steps must be at least 1"),
        ('["float", 3]', "[9]", "must be 2..8, got 9"),
        ('["float", 3]', '["terniary"]', "quantize: bits"),
        ('quantize.bits = ["float", 3]', "quantize.bits.fc9 = [2, 4]", "no layer 'fc9' (did you mean"),
        ('quantize.bits = ["float", 3]', "data.limit = [2]", "the data set has no field 'limit'"),
        ("[quantize]\nepochs = 1", "[quantize]\nepoch = 1", "quantize: epoch: unknown key (did you mean 'epochs'?)"),
        ("[prune]", "[cotrain]\nmachine = 'ptb'\n[prune]", "cotrain.machine: follows from the machine"),
        ("held_out = 0.25", "held_out = 0.0", "held_out: got 0.0, expected a fraction between 0 and 1"),
        ("held_out = 0.25", "recorded = 0", "recorded: got 0, expected at least 1 sample"),
        ("held_out = 0.25", "[train]\nepoch = 2", "epoch: unknown key (did you mean 'epochs'?)"),
        ('"experiment.toml"', '"digitz"', "digitz: no such experiment (did you mean 'digits'?)"),
    ],
)  # fmt: skip
def test_what_a_joint_search_may_not_say(files: Path, old: str, new: str, message: str) -> None:
    assert old in JOINT_SEARCH
    text = JOINT_SEARCH.replace(old, new)
    if new.startswith("[train]"):  # keys of the file itself end where its first table begins
        text = JOINT_SEARCH + new
    _refuses(files, text, message)


def _refuses(files: Path, text: str, message: str) -> None:
    (files / "odd.toml").write_text(text)
    with pytest.raises(SpikeloomError) as caught:
        planned(files / "odd.toml", files / "study")
    assert message in str(caught.value) and len(str(caught.value).splitlines()) == 1
    assert not (files / "study" / "study.json").exists()


def test_files_lie_beside_the_search(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (files / "mine.toml").write_text('model = "spikex"\nrows = 2\n')
    text = TRACE_SEARCH.replace('"spikex"', '"mine.toml:cols=4"').replace(
        '["ptb", "snn-dense"]', '["mine.toml", "ptb"]'
    )
    (files / "on-mine.toml").write_text(text)
    (files / "elsewhere").mkdir()
    monkeypatch.chdir(files / "elsewhere")
    plan = planned(Path("..") / "on-mine.toml", files / "study")
    base = plan.objective.family.base
    assert isinstance(base, SpikexArch) and (base.rows, base.cols) == (2, 4)
    assert [arch.rows for _, arch in plan.baselines if isinstance(arch, SpikexArch)] == [2, 8]


def test_steps_may_change_while_the_time_stays_the_same(files: Path) -> None:
    from spikeloom.studies.experiment import Experiment
    from spikeloom.studies.recipe import Recipe

    recipe = Recipe(experiment=Experiment("nmnist", "nmnist-cnn", {"num_steps": 30}, {"dt_us": 10_000}))
    assert recipe.at({"train.num_steps": 300}).experiment.data_options == {"dt_us": 1000}
    assert recipe.at({"train.num_steps": 3, "data.dt_us": 7}).experiment.data_options == {"dt_us": 7}
    assert recipe.at({"arch.rows": 3}).experiment == recipe.experiment


def test_names_of_designs(files: Path) -> None:
    plan = planned(files / "on-trace.toml", files / "study")
    result = searched(plan, files / "study").result
    assert chosen(result, ["all"]) == result.front and chosen(result, ["1"]) == result.front[:1]
    assert chosen(result, [result.trials[3].id[:20]]) == (result.trials[3],)
    for word, message in (("0", "give 1.."), ("zz", "no design has that name"), ("", "15 designs have that name")):
        with pytest.raises(SpikeloomError, match=message):
            chosen(result, [word])
