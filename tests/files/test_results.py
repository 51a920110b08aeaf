"""Result files: exact round trips, finite numbers only, and every malformed file refused by file and key."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikeloom.core.report import LayerReport, Report, Trial
from spikeloom.errors import FileError
from spikeloom.files.results import append_trial, read_reports, read_trials, reports_to_json, write_reports

_real = st.floats(0, 1e12, allow_subnormal=False)
_name = st.text('aZ0_. "\\\n\u2028\x00µ漢', min_size=1, max_size=8)
_plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _name,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_name, inner, max_size=3),
    max_leaves=6,
)
_config = st.dictionaries(_name, _plain, max_size=3)


@st.composite
def _reports(draw: st.DrawFn) -> Report:
    layers = tuple(
        LayerReport(
            name=f"layer{i}",
            cycles=draw(st.integers(0, 2**60)),
            latency_s=draw(_real),
            synops=draw(st.integers(0, 2**60)),
            counts={"pe.add": draw(st.integers(0, 2**60)), "pe.expected": draw(_real)},  # type: ignore[dict-item]
            energy={"pe.add": draw(_real), "glb.leakage": draw(_real)},
            utilisation={"row_use": draw(st.floats(0, 1))},
        )
        for i in range(draw(st.integers(0, 3)))
    )
    return Report(
        model="spikex",
        arch=draw(_config),
        num_samples=draw(st.integers(1, 1000)),
        layers=layers,
        cycles=draw(st.integers(0, 2**60)),
        latency_s=draw(_real),
        area=draw(st.none() | st.fixed_dictionaries({"pe": st.floats(0, 1), "glb": st.floats(0, 1)})),
        sources={"pe.add": "somewhere"},
        warnings=tuple(draw(st.lists(_name, max_size=2))),
        workload_id=draw(_name),
        label=draw(_name),
    )


def _report(**changes: Any) -> Report:
    layer = LayerReport("conv1", 10, 1e-8, 40, {"pe.add": 40}, {"pe.add": 4e-12, "pe.leakage": 1e-13}, {"row_use": 0.5})
    report = Report(
        "spikex",
        {"rows": 8},
        2,
        (layer,),
        10,
        1e-8,
        {"pe": 3e-9},
        {"pe.add": "Aladdin"},
        ("assumed clock",),
        "id",
        "spikex:rows=8",
    )
    return replace(report, **changes)


def _trial(seed: int = 0, accuracy: float | None = 0.9, report: Report | None = None) -> Trial:
    return Trial({"lr": 0.1, "sizes": [1, 2]}, {"rows": 8}, seed, "workload", accuracy, report)


@given(st.lists(_reports(), max_size=3))
def test_reports_round_trip_to_the_bit(tmp_path_factory: pytest.TempPathFactory, reports: list[Report]) -> None:
    path = tmp_path_factory.mktemp("out") / "r.json"
    write_reports(path, reports)
    assert read_reports(path) == tuple(reports)
    assert os.listdir(path.parent) == ["r.json"]


@given(_reports(), _config, _config, st.integers(), st.none() | st.floats(0, 1))
def test_trials_round_trip_to_the_bit(
    tmp_path_factory: pytest.TempPathFactory,
    report: Report,
    config: dict[str, Any],
    arch: dict[str, Any],
    seed: int,
    accuracy: float | None,
) -> None:
    path = tmp_path_factory.mktemp("out") / "results.jsonl"
    trials = tuple(Trial(config, arch, s, "w", accuracy, r) for s, r in ((seed, report), (seed + 1, None)))
    for trial in trials:
        append_trial(path, trial)
    log = read_trials(path)
    assert log.trials == trials and log.torn == ()
    assert [trial.id for trial in log.trials] == [trial.id for trial in trials]


def test_the_document_is_the_one_of_the_specification() -> None:
    document = json.loads(reports_to_json([_report()]))
    assert document == {
        "format": "spikeloom-report",
        "version": 1,
        "machines": [
            {
                "model": "spikex",
                "arch": {"rows": 8},
                "num_samples": 2,
                "total": {
                    "cycles": 10,
                    "latency_s": 1e-8,
                    "energy_j": 4e-12 + 1e-13,
                    "area_mm2": 0.003,
                    "synops": 40,
                    "per_inference": {
                        "latency_s": 5e-9,
                        "energy_j": (4e-12 + 1e-13) / 2,
                        "edp_js": (4e-12 + 1e-13) / 2 * 5e-9,
                    },
                },
                "layers": [
                    {
                        "name": "conv1",
                        "cycles": 10,
                        "latency_s": 1e-8,
                        "energy_j": 4e-12 + 1e-13,
                        "synops": 40,
                        "counts": {"pe.add": 40},
                        "energy": {"pe.add": 4e-12, "pe.leakage": 1e-13},
                        "utilisation": {"row_use": 0.5},
                    }
                ],
                "sources": {"pe.add": "Aladdin"},
                "warnings": ["assumed clock"],
                "area_m2": {"pe": 3e-9},
                "workload_id": "id",
                "label": "spikex:rows=8",
                "holds": [],
                "limits": [],
            }
        ],
    }
    assert json.loads(reports_to_json([_report(area=None)]))["machines"][0]["total"]["area_mm2"] is None


def test_numpy_scalars_and_tuples_become_plain_json() -> None:
    report = _report(cycles=np.int64(10), arch={"shape": (np.int32(8), np.float32(0.5)), "on": np.bool_(True)})
    machine = json.loads(reports_to_json([report]))["machines"][0]
    assert machine["total"]["cycles"] == 10
    assert machine["arch"] == {"shape": [8, 0.5], "on": True}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"latency_s": math.nan}, r"machines\[0\]\.total\.latency_s' is nan, expected a finite number"),
        ({"arch": {"a": [1, math.inf]}}, r"machines\[0\]\.arch\.a\[1\]' is inf"),
        ({"arch": {"a": {1, 2}}}, r"machines\[0\]\.arch\.a' is a set"),
        ({"arch": {"a": {1: 2}}}, r"arch\.a' has the key 1, expected a string"),
    ],
)
def test_what_json_cannot_hold_is_refused_by_key(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(FileError, match=words):
        write_reports(tmp_path / "r.json", [_report(**changes)])
    assert not list(tmp_path.iterdir())


def test_an_existing_file_survives_a_report_that_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    write_reports(path, [_report()])
    with pytest.raises(FileError):
        write_reports(path, [_report(latency_s=math.inf)])
    assert read_reports(path) == (_report(),)
    with pytest.raises(FileError, match="is a folder"):
        write_reports(tmp_path, [_report()])


def _drop(*keys: Any) -> Callable[[Any], None]:
    def drop(document: Any) -> None:
        for key in keys[:-1]:
            document = document[key]
        del document[keys[-1]]

    return drop


def _put(value: Any, *keys: Any) -> Callable[[Any], None]:
    def put(document: Any) -> None:
        for key in keys[:-1]:
            document = document[key]
        document[keys[-1]] = value

    return put


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_put(2, "version"), r"key 'version' is 2, this Spikeloom reads up to 1"),
        (_put("1", "version"), r"key 'version' is '1', expected 1"),
        (_drop("version"), r"key 'version' is None"),
        (_put("else", "format"), r"key 'format' is 'else', expected 'spikeloom-report'"),
        (_drop("machines"), r"the key 'machines' is missing"),
        (_drop("machines", 0, "sources"), r"the key 'machines\[0\]\.sources' is missing"),
        (_drop("machines", 0, "layers", 0, "cycles"), r"the key 'machines\[0\]\.layers\[0\]\.cycles' is missing"),
        (_put("8", "machines", 0, "total", "latency_s"), r"key 'machines\[0\]\.total\.latency_s': got '8'"),
        (_put(0, "machines", 0, "num_samples"), r"key 'machines\[0\]\.num_samples': got 0"),
        (_put(True, "machines", 0, "num_samples"), r"num_samples': got True"),
        (_put(9.0, "machines", 0, "total", "energy_j"), r"machines\[0\]: key 'total\.energy_j' is 9\.0, but its parts"),
        (_put(41, "machines", 0, "total", "synops"), r"key 'total\.synops' is 41, but its parts add up to 40"),
        (_put(9.0, "machines", 0, "layers", 0, "energy_j"), r"key 'layers\[0\]\.energy_j' is 9\.0"),
    ],
)
def test_a_malformed_report_file_is_refused_by_key(tmp_path: Path, spoil: Callable[[Any], None], words: str) -> None:
    document = json.loads(reports_to_json([_report()]))
    spoil(document)
    path = tmp_path / "spoilt.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(FileError, match=rf"spoilt\.json: .*{words}"):
        read_reports(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not valid JSON"),
        ("[]", "holds a list"),
        ('{"a": NaN}', "NaN is not a finite"),
        ('{"a": 1e999}', "'a' is inf"),
    ],
)
def test_what_is_no_report_file_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(FileError, match=rf"r\.json: .*{words}"):
        read_reports(path)


def test_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name in ("absent", "binary"):
        with pytest.raises(FileError, match=f"{name}: cannot read"):
            read_reports(tmp_path / name)
    with pytest.raises(FileError, match="absent: cannot read"):
        read_trials(tmp_path / "absent")
    with pytest.raises(FileError, match="cannot append"):
        append_trial(tmp_path / "absent" / "results.jsonl", _trial())


def test_unknown_keys_are_allowed(tmp_path: Path) -> None:
    document = json.loads(reports_to_json([_report()]))
    document["machines"][0]["layers"][0]["comment"] = document["author"] = "someone"
    path = tmp_path / "r.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    assert read_reports(path) == (_report(),)


def test_the_same_trial_again_replaces_the_first(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    for trial in (_trial(0, None), _trial(1), _trial(0, 0.5, _report())):
        append_trial(path, trial)
    assert len(path.read_text(encoding="utf-8").splitlines()) == 3
    assert read_trials(path).trials == (_trial(0, 0.5, _report()), _trial(1))


@pytest.mark.parametrize("kept", [1, 20, 200])
def test_a_torn_last_line_is_left_out_said_and_survived(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "results.jsonl"
    for seed in (0, 1):
        append_trial(path, _trial(seed, report=_report()))
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second[:kept])
    log = read_trials(path)
    assert [trial.seed for trial in log.trials] == [0]
    assert len(log.torn) == 1 and "results.jsonl: line 2 is torn" in log.torn[0]
    append_trial(path, _trial(2))
    assert path.read_bytes().startswith(first + second[:kept] + b"\n\n")
    again = read_trials(path)
    assert [trial.seed for trial in again.trials] == [0, 2]
    assert again.torn == log.torn


def test_a_line_that_only_lacks_its_end_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    append_trial(path, _trial())
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    append_trial(path, _trial(1))
    assert read_trials(path).trials == (_trial(), _trial(1)) and not read_trials(path).torn


def test_a_line_torn_inside_a_character(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    append_trial(path, replace(_trial(), config={"name": "µ"}))
    data = path.read_bytes()
    path.write_bytes(data[: data.index("µ".encode()) + 1])
    assert read_trials(path).trials == () and len(read_trials(path).torn) == 1


def test_damage_in_the_middle_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    append_trial(path, _trial())
    line = path.read_text(encoding="utf-8")
    for text, words in [
        (line[:40] + "\n" + line, "line 1: not valid JSON"),
        (line.replace('"seed":0', '"seed":5'), "line 1: key 'id' is .* hash to"),
        (line.replace('"version":1', '"version":9'), "line 1: key 'version' is 9"),
        (line.replace('"seed":0,', ""), "line 1: the key 'seed' is missing"),
        (line.replace("-trial", "-report"), "expected 'spikeloom-trial'"),
        (line.replace("0.9", "NaN"), "NaN is not a finite number"),
    ]:
        path.write_text(text, encoding="utf-8")
        with pytest.raises(FileError, match=rf"results\.jsonl: {words}" if words.startswith("line") else words):
            read_trials(path)


def test_many_writers_append_to_one_file(tmp_path: Path) -> None:

    path = tmp_path / "results.jsonl"
    trials = [_trial(seed, report=_report()) for seed in range(64)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda trial: append_trial(path, trial), trials))
    log = read_trials(path)
    assert {trial.seed for trial in log.trials} == set(range(64)) and not log.torn
