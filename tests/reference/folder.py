"""Where reference cases lie: the folder SPIKELOOM_REFERENCE, by default the one beside the data."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def reference_file(name: str) -> Path:
    """The file ``name`` of the folder of reference cases, whether or not it is there."""
    data = os.environ.get("SPIKELOOM_DATA", "")
    folder = os.environ.get("SPIKELOOM_REFERENCE", "") or (Path(data).parent / "reference" if data else "absent")
    return Path(folder) / name


def cases_of(name: str, shipped: dict[str, Any]) -> list[dict[str, Any]]:
    """Every case of a reference file, whatever its number; where there is no such folder those that the package ships."""
    file = reference_file(name)
    found: list[dict[str, Any]] = (json.loads(file.read_text(encoding="utf-8")) if file.is_file() else shipped)["cases"]
    return found
