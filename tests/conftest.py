"""What every test gets."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture(autouse=True)
def same_draws_in_any_order() -> None:
    """The global generators start alike in every test, so that none depends on which tests its worker ran before."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
