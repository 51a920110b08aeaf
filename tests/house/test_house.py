"""Rules of the house that no linter checks."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import spikeloom

SOURCE = Path(spikeloom.__file__).parent
MODULES = sorted(SOURCE.rglob("*.py"))
MAX_NAMES, MAX_MODULE_LINES, MAX_PACKAGE_LINES = 60, 500, 42_000


def test_public_names_are_sorted_few_and_there() -> None:
    names = [name for name in spikeloom.__all__ if not name.startswith("__")]
    assert names == sorted(names)
    assert len(names) == len(set(names)) <= MAX_NAMES
    missing = [name for name in spikeloom.__all__ if not hasattr(spikeloom, name)]
    assert not missing


def test_every_public_thing_says_what_it_is() -> None:
    for name in spikeloom.__all__:
        thing = getattr(spikeloom, name)
        if callable(thing):
            assert (thing.__doc__ or "").strip(), name
            assert not (thing.__doc__ or "").startswith(f"{name}("), f"{name} has only the docstring dataclass makes"


def test_importing_the_package_does_not_change_what_is_imported_by_name() -> None:
    """A public name is the very thing of the module it is documented in, not a copy."""
    for name in spikeloom.__all__:
        module = getattr(getattr(spikeloom, name), "__module__", "")
        if module.startswith("spikeloom."):
            assert getattr(importlib.import_module(module), name) is getattr(spikeloom, name)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_every_module_says_what_it_is_and_stays_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    docstring = ast.get_docstring(ast.parse(text))
    assert docstring and docstring.strip()
    assert len(text.splitlines()) <= MAX_MODULE_LINES


def test_the_package_stays_small() -> None:
    assert len(MODULES) > 40
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES) <= MAX_PACKAGE_LINES


def test_no_file_of_the_package_knows_the_folder_the_project_was_made_in() -> None:
    files = [path for path in SOURCE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {".py", ".toml"} <= {path.suffix for path in files}
    knowing = [str(path) for path in files if b"shared/" in path.read_bytes()]
    assert not knowing
