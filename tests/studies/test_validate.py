"""Comparisons with published and tool figures: what counts as equal, and that nothing that should be there is missing."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from spikeloom.hw.sata_works import WORKS
from spikeloom.studies.agreement import Figure, figure, published, tally
from spikeloom.studies.validate import Validation, to_json, to_markdown, validate

PAGE = Path(__file__).parents[2] / "docs" / "validation.md"


@pytest.fixture(scope="module")
def found() -> Validation:
    return validate()


def test_the_page_is_what_the_verb_prints(found: Validation) -> None:
    assert PAGE.read_text(encoding="utf-8") == to_markdown(found), (
        "run 'spikeloom validate -o docs/validation.md', look at the diff and say in CHANGELOG.md which numbers changed and why"
    )


def test_every_run_of_a_tool_is_reproduced(found: Validation) -> None:
    assert [(t.what, t.misses) for t in found.tallies if t.misses] == []
    for tool, runs in (("SATA_Sim inference", 17), ("SATA_Sim training", 4), ("SCALE-Sim", 3), ("SpikeSim ELA", 11)):
        assert sum(t.what.startswith(tool) for t in found.tallies) == runs
    assert all(t.integers + t.reals >= 11 for t in found.tallies)


def test_table_two_stands_there_with_sign_and_size_of_each_deviation(found: Validation) -> None:
    columns = {title: figures for title, figures in found.sections if title.startswith("Table II")}
    assert all([f.what for f in figures] == [work.title for work in WORKS] for figures in columns.values())
    archived, head = (
        next(figures for title, figures in columns.items() if word in title) for word in ("archived", "head")
    )
    assert [f.ours for f in archived] == pytest.approx([4.565, 2.900, 2.289, 4.881, 1.320, 6.776], abs=6e-4)
    assert [round(f.error, 3) for f in archived] == [0.014, 0.036, -0.005, -0.004, 0.015, -0.003]
    assert [f.ours for f in columns["Table II, SpikeSim: energy ratios by the script"]] == pytest.approx(
        [5.2, 4, 4, 16, 2, 25]
    )
    assert head[-1].ours == pytest.approx(12.8, abs=0.1)
    assert head[-1].verdict == "miss"


def test_known_misses_stay_in_sight(found: Validation) -> None:
    text = to_markdown(found)
    for f in found.figures:
        if f.verdict == "miss":
            assert f.why
            assert f"{f.what}: {f.published} published, {f.shown} here ({100 * f.error:+.1f} %)" in text
    assert [f.ours for f in found.figures if "without sparsity" in f.what] == pytest.approx([3.89], abs=5e-3)
    assert [f.ours for f in found.figures if f.what.startswith("EDP at T = 4")] == pytest.approx([16])
    assert {each.source for each in (*found.figures, *found.tallies)} <= found.sources.keys()
    assert {claim["source"] for claim in found.unchecked} <= found.sources.keys()


def test_every_published_figure_of_the_file_is_compared(found: Validation) -> None:
    said = published("figures.toml")
    assert {entry["what"] for entry in said["figure"].values()} <= {f.what for f in found.figures}


@pytest.mark.parametrize(
    ("printed", "ours", "error", "verdict"),
    [
        ("4.5", 4.5499, 0.0499 / 4.5, "equal"),
        ("4.5", 4.565, 0.065 / 4.5, "close"),
        ("4.5", 4.5 * 1.06, 0.06, "miss"),
        ("4.5", 4.5 * 0.94, -0.06, "miss"),
        ("61.6 %", 0.6164, 0.0004 / 0.616, "equal"),
        ("78 %", 0.711, 0.711 / 0.78 - 1, "miss"),
        ([2, 4], 2.5, 0.0, "equal"),
        ([2, 4], 4.1, 0.025, "close"),
        ("> 11 %", 0.9, 0.0, "equal"),
        ("> 11 %", 0.055, -0.5, "miss"),
    ],
)  # fmt: skip
def test_verdicts(printed: str | list[int], ours: float, error: float, verdict: str) -> None:
    made = figure({"what": "x", "published": printed, "low": 0.11, "source": "s"}, ours)
    assert made.error == pytest.approx(error)
    assert made.verdict == verdict


def test_whole_numbers_must_be_equal_and_others_within_the_tolerance() -> None:
    found = tally("x", "s", "", [(3, 3.0), (3, 4.0), (1.5, 1.5 * (1 + 1e-10)), (1.5, 1.6), (0, 0), (0.0, 0.0)])
    assert (found.integers, found.equal, found.reals, found.within, found.misses) == (3, 2, 3, 2, 2)
    assert found.verdict == "miss"
    assert found.worst == pytest.approx(1 / 16)
    assert tally("x", "s", "", [(2, 2.0)]).worst is None
    page = Validation((found,), (), (), {})
    assert "**2 of 3** | **2 of 3**" in to_markdown(page)
    assert "- **x**, : 2 numbers differ" in to_markdown(page)


def test_the_document_for_programs_holds_the_same(found: Validation) -> None:
    document = json.loads(to_json(found), parse_constant=lambda word: pytest.fail(word))
    assert (document["format"], document["version"]) == ("spikeloom-validation", 1)
    assert [entry["ours"] for entry in document["figures"]] == [f.ours for f in found.figures]
    assert [entry["verdict"] for entry in document["figures"]] == [f.verdict for f in found.figures]
    assert [entry["equal"] for entry in document["tools"]] == [t.equal for t in found.tallies]
    assert Figure("x", "> 1", 1, math.inf, 2, "s").error == 0
