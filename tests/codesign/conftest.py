"""Fixtures of the co-design tests."""

from __future__ import annotations

import pytest

from tests.codesign.cases import leaking_registers


@pytest.fixture(scope="session")
def leaky_table(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A component table whose registers leak, which no shipped one prices."""
    return leaking_registers(tmp_path_factory.mktemp("tables"))
