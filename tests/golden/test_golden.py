"""Golden breakdowns: no number changes unnoticed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.golden.make import FILE, MACHINES, breakdown
from tests.golden.trace import EVENTS, workload

WHAT_TO_DO = (
    "numbers changed. If that is meant: run 'python -m tests.golden.make', look at the diff of tests/golden/breakdowns.json, "
    "and say in CHANGELOG.md under 'Numbers changed' which ones and why"
)


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def flat(tree: dict[str, Any], path: str = "") -> Iterator[tuple[str, int | float]]:
    """(path, number) of every leaf."""
    for key, value in tree.items():
        where = f"{path} / {key}" if path else key
        if isinstance(value, dict):
            yield from flat(value, where)
        else:
            yield where, value


def unchanged(where: str, expected: float, number: float) -> bool:
    """Joules and square metres to the last digits but two, everything else exactly and whole."""
    if " / energy_j / " in where or where.startswith("area_m2"):
        return number == pytest.approx(expected, rel=1e-12, abs=0)
    return type(number) is int and number == expected


def test_the_trace_is_the_one_the_numbers_were_made_with() -> None:
    assert {layer.name: int(layer.arrival.events().sum()) for layer in workload().layers} == EVENTS


def test_every_machine_has_its_numbers(golden: dict[str, Any]) -> None:
    assert tuple(golden) == MACHINES


@pytest.mark.parametrize("spec", MACHINES)
def test_no_number_changed(golden: dict[str, Any], spec: str) -> None:
    expected, found = dict(flat(golden[spec])), dict(flat(breakdown(spec)))
    assert found.keys() == expected.keys(), f"{spec}: what is counted changed, and so the {WHAT_TO_DO}"
    wrong = [
        f"{where}: {expected[where]!r} -> {number!r}"
        for where, number in found.items()
        if not unchanged(where, expected[where], number)
    ]
    if wrong:
        more = f" and {len(wrong) - 20} more" if len(wrong) > 20 else ""
        pytest.fail(f"{spec}: {WHAT_TO_DO}.\n" + "\n".join(wrong[:20]) + more)
