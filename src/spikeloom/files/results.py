"""Result files: reports as one JSON document, trials as an append-only ``results.jsonl``.

Floats are written so that they read back to the same bits. Quantities are SI and say so in their key (``latency_s``,
``energy_j``, ``area_m2``), except ``area_mm2`` of the total, which is for people.

A trial is one line. A writer that is killed leaves at most one torn line at the end of the file; `read_trials` leaves it
out and says so in ``TrialLog.torn``, and the next `append_trial` closes it with an empty line instead of changing what
is there. Any other line that is not a trial is a FileError. Lines with the same id are one trial: the last line wins.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isclose, isfinite
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationError

from spikeloom.core.purposes import PURPOSES, holds
from spikeloom.core.report import LayerReport, RealTime, Report, Trial
from spikeloom.errors import FileError
from spikeloom.files.atomic import write_text
from spikeloom.files.schema import first_problem
from spikeloom.units import from_si

REPORT_FORMAT = "spikeloom-report"
TRIAL_FORMAT = "spikeloom-trial"
VERSION = 1

_Real = Annotated[float, Field(strict=True, allow_inf_nan=False)]
_Count = StrictInt | _Real  # a rate-driven model returns expected, fractional counts


class _Schema(BaseModel):
    """Unknown keys are allowed: keys are stable within a version, but files may say more."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class _PerInference(_Schema):
    latency_s: _Real
    energy_j: _Real
    edp_js: _Real


class _Total(_Schema):
    cycles: _Count
    latency_s: _Real
    energy_j: _Real
    area_mm2: _Real | None
    synops: _Count
    per_inference: _PerInference


class _Layer(_Schema):
    """In the order in which a layer is written."""

    name: StrictStr
    cycles: _Count
    latency_s: _Real
    energy_j: _Real
    synops: _Count
    counts: dict[str, _Count]
    energy: dict[str, _Real]
    utilisation: dict[str, _Real] = {}


class _Machine(_Schema):
    model: StrictStr
    arch: dict[str, Any]
    num_samples: Annotated[StrictInt, Field(ge=1)]
    total: _Total
    layers: tuple[_Layer, ...]
    sources: dict[str, StrictStr]
    warnings: tuple[StrictStr, ...]
    area_m2: dict[str, _Real] | None = None
    workload_id: StrictStr = ""
    label: StrictStr = ""
    holds: tuple[StrictStr, ...] | None = None
    limits: tuple[StrictStr, ...] = ()
    real_time: RealTime | None = None
    weight_bits: dict[str, Any] | None = None


class _Reports(_Schema):
    format: Literal["spikeloom-report"]
    version: StrictInt
    machines: tuple[_Machine, ...]


class _Trial(_Schema):
    format: Literal["spikeloom-trial"]
    version: StrictInt
    id: StrictStr
    config: dict[str, Any]
    arch: dict[str, Any]
    seed: StrictInt
    workload_id: StrictStr
    accuracy: _Real | None
    report: _Machine | None


_SchemaT = TypeVar("_SchemaT", _Reports, _Trial)
#: What a trial and its line in the file call the same, in the order in which it is written.
_OF_TRIAL = ("config", "arch", "seed", "workload_id", "accuracy")


@dataclass(frozen=True)
class TrialLog:
    """The trials of a results file, one per id in order of first appearance, and what had to be left out."""

    trials: tuple[Trial, ...]
    torn: tuple[str, ...] = ()


def reports_to_json(reports: Sequence[Report]) -> str:
    """The result document, indented, with a final newline.

    Raises:
        FileError: a figure is not finite or a value has no JSON form; names the key.
    """
    document = {"format": REPORT_FORMAT, "version": VERSION, "machines": [_machine(report) for report in reports]}
    return json.dumps(_plain(document, ""), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_reports(path: str | Path, reports: Sequence[Report]) -> None:
    """Write the result document under a temporary name, then rename it. Raises FileError."""
    text = reports_to_json(reports)
    write_text(path, text)


def read_reports(path: str | Path) -> tuple[Report, ...]:
    """Read a result document.

    Raises:
        FileError: not readable, not this format, a version of the future, a missing or malformed key, or layers that
            do not add up to the total; names the file and the key.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(
            f"{path}: cannot read the reports ({error}); give a file written by 'spikeloom eval --json'"
        ) from None
    parsed = _validated(_Reports, text, str(path), REPORT_FORMAT)
    return tuple(_report(machine, f"{path}: machines[{i}]") for i, machine in enumerate(parsed.machines))


def append_trial(path: str | Path, trial: Trial) -> None:
    """Append one line in a single write, so that several processes may append to the same file. Raises FileError."""
    record = {
        "format": TRIAL_FORMAT,
        "version": VERSION,
        "id": trial.id,
        **{key: getattr(trial, key) for key in _OF_TRIAL},
        "report": None if trial.report is None else _machine(trial.report),
    }
    line = json.dumps(_plain(record, ""), ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            data = (_closing(descriptor) + line).encode()
            written = os.write(descriptor, data)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise FileError(
            f"{path}: cannot append the trial ({error}); choose a folder that exists and can be written"
        ) from None
    if written < len(data):
        raise FileError(f"{path}: only {written} of {len(data)} bytes of the trial were written; is the disk full?")


def read_trials(path: str | Path) -> TrialLog:
    """Read a results file; trials with the same id are one, the last line wins.

    Raises:
        FileError: not readable, or a line other than a torn one is not a trial; names the file, the line and the key.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8", errors="surrogateescape")
    except OSError as error:
        raise FileError(f"{path}: cannot read the trials ({error}); give a results.jsonl file") from None
    lines = text.split("\n")
    trials: dict[str, Trial] = {}
    torn: list[str] = []
    for i, line in enumerate(lines):
        where = f"{path}: line {i + 1}"
        if not line.strip():
            continue
        last = i == len(lines) - 1
        closed = i + 2 < len(lines) and not lines[i + 1].strip()
        if (last or closed) and not _is_json(line):
            torn.append(f"{where} is torn ({len(line)} characters of a trial whose writer was stopped); it is left out")
            continue
        parsed = _validated(_Trial, line, where, TRIAL_FORMAT)
        report = None if parsed.report is None else _report(parsed.report, f"{where}: report")
        trial = Trial(**{key: getattr(parsed, key) for key in _OF_TRIAL}, report=report)
        if trial.id != parsed.id:
            raise FileError(
                f"{where}: key 'id' is {parsed.id!r}, but its config, arch, seed and workload hash to {trial.id!r}; "
                "the line was edited, remove it and run the trial again"
            )
        trials[trial.id] = trial
    return TrialLog(tuple(trials.values()), tuple(torn))


def _machine(report: Report) -> dict[str, Any]:
    area = report.area_m2
    return {
        "model": report.model,
        "arch": report.arch,
        "num_samples": report.num_samples,
        "total": {
            "cycles": report.cycles,
            "latency_s": report.latency_s,
            "energy_j": report.energy_j,
            "area_mm2": None if area is None else from_si(area, "mm2"),
            "synops": report.synops,
            "per_inference": {
                "latency_s": report.latency_per_inference_s,
                "energy_j": report.energy_per_inference_j,
                "edp_js": report.edp_js,
            },
        },
        "layers": [{key: getattr(layer, key) for key in _Layer.model_fields} for layer in report.layers],
        "sources": report.sources,
        "warnings": report.warnings,
        "area_m2": report.area,
        **{key: getattr(report, key) for key in ("workload_id", "label", "holds", "limits")},
        **({} if report.real_time is None else _real_time(report.real_time, report.num_samples)),
        **({} if report.weight_bits is None else {"weight_bits": report.weight_bits}),
    }


def _real_time(found: RealTime, num_samples: int) -> dict[str, Any]:
    mean = {"latency_s": found.latency_s / num_samples, "energy_j": found.energy_j / num_samples}
    return {"real_time": {**asdict(found), "per_inference": mean}}


def _report(machine: _Machine, where: str) -> Report:
    elsewhere = {
        "layers": tuple(LayerReport(**{k: v for k, v in layer if k != "energy_j"}) for layer in machine.layers),
        "cycles": machine.total.cycles,  # fractional when expected
        "latency_s": machine.total.latency_s,
        "area": machine.area_m2,
        "holds": _earlier(machine) if machine.holds is None else machine.holds,
    }
    same: dict[str, Any] = {key: value for key, value in machine if key not in ("total", "area_m2")}
    report = Report(**same | elsewhere)
    sums = [
        ("total.energy_j", machine.total.energy_j, report.energy_j),
        ("total.synops", machine.total.synops, report.synops),
        *(
            (f"layers[{i}].energy_j", a.energy_j, b.energy_j)
            for i, (a, b) in enumerate(zip(machine.layers, report.layers, strict=True))
        ),
    ]
    for key, stated, summed in sums:
        if not isclose(stated, summed, rel_tol=1e-9):
            raise FileError(
                f"{where}: key '{key}' is {stated!r}, but its parts add up to {summed!r}; write the file again"
            )
    return report


def _earlier(machine: _Machine) -> tuple[str, ...]:
    """What a bill holds that an earlier version wrote, by the sources of its prices; a device's that it was described is not known."""
    purposes = {} if machine.model == "edge" else PURPOSES.get(machine.model, {})
    paid = [key.partition(".")[::2] for key, source in machine.sources.items() if not source.startswith("free: ")]
    return holds(purposes, [key for key in paid if key[1] != "area"])


def _plain(value: Any, key: str) -> Any:
    """The value in JSON's types, NumPy scalars included; refuses numbers that are not finite."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not isfinite(value):
        raise FileError(f"result key '{key.lstrip('.')}' is {value}, expected a finite number")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise FileError(f"result key '{key.lstrip('.')}' has the key {name!r}, expected a string")
        return {name: _plain(item, f"{key}.{name}") for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{key}[{i}]") for i, item in enumerate(value)]
    raise FileError(f"result key '{key.lstrip('.')}' is a {type(value).__name__}, expected what JSON can hold")


def _validated(schema: type[_SchemaT], document: str, where: str, wanted: str) -> _SchemaT:
    try:
        raw = json.loads(document, parse_constant=_refuse_constant)
        _plain(raw, "")  # 1e999 reads as infinity
    except (ValueError, RecursionError) as error:
        raise FileError(f"{where}: not valid JSON: {error}") from None
    if not isinstance(raw, dict):
        raise FileError(f"{where}: holds a {type(raw).__name__}, expected an object with the key 'format'")
    if raw.get("format") != wanted:
        raise FileError(f"{where}: key 'format' is {raw.get('format')!r}, expected '{wanted}'")
    version = raw.get("version")
    if isinstance(version, int) and version > VERSION:
        raise FileError(f"{where}: key 'version' is {version}, this Spikeloom reads up to {VERSION}; update Spikeloom")
    if version != VERSION or isinstance(version, bool):
        raise FileError(f"{where}: key 'version' is {version!r}, expected {VERSION}")
    try:
        return schema.model_validate(raw)
    except ValidationError as error:
        key, text = first_problem(error)
        if error.errors()[0]["type"] == "missing":
            raise FileError(f"{where}: the key '{key}' is missing") from None
        raise FileError(f"{where}: key '{key}': {text}") from None


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a finite number")


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _closing(descriptor: int) -> str:
    """What must come before a new line: nothing, or the end of a line that a stopped writer left torn."""
    size = os.fstat(descriptor).st_size
    if size == 0:
        return ""
    os.lseek(descriptor, size - 1, os.SEEK_SET)
    return "" if os.read(descriptor, 1) == b"\n" else "\n\n"
