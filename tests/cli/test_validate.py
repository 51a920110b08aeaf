"""``spikeloom validate``: to the terminal, to a file, as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spikeloom.studies import validate as study
from tests.cli.command import spikeloom

PAGE = Path(__file__).parents[2] / "docs" / "validation.md"


@pytest.fixture(autouse=True)
def _found_once(monkeypatch: pytest.MonkeyPatch, found: study.Validation) -> None:
    monkeypatch.setattr(study, "validate", lambda: found)


@pytest.fixture(scope="module")
def found() -> study.Validation:
    return study.validate()


def test_the_page_to_the_terminal_and_to_a_file(tmp_path: Path, found: study.Validation) -> None:
    assert spikeloom("validate").out == PAGE.read_text(encoding="utf-8")
    run = spikeloom("validate", "-o", tmp_path / "page.md")
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == PAGE.read_text(encoding="utf-8")
    misses = sum(each.verdict == "miss" for each in found.figures)
    assert run.out.endswith(
        f"{len(found.tallies)} runs of tools, {len(found.figures)} published figures, {misses} missed\n"
    )


def test_json(tmp_path: Path, found: study.Validation) -> None:
    assert spikeloom("validate", "--json").out == study.to_json(found)
    spikeloom("validate", "--json", "-o", tmp_path / "page.json")
    assert json.loads((tmp_path / "page.json").read_text(encoding="utf-8"))["format"] == "spikeloom-validation"


def test_a_folder_that_cannot_be_made_is_a_complaint(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert spikeloom("validate", "-o", tmp_path / "file" / "page.md").complaint
