"""``.npz`` archives with a JSON string ``meta`` and one array per key; every failure is one line naming file and key."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spikeloom.errors import FileError
from spikeloom.files.atomic import replacing


class Archive:
    """An open archive; ``error`` is the class of what it raises."""

    def __init__(self, path: str | Path, error: type[FileError]) -> None:
        self.path, self.error = Path(path), error
        if self.path.is_dir():
            raise error(f"{path}: is a folder, expected a .npz file")
        try:
            loaded = np.load(self.path, allow_pickle=False)
        except FileNotFoundError:
            raise error(f"{path}: no such file; expected a .npz file") from None
        except (zipfile.BadZipFile, EOFError, ValueError, OSError) as cause:
            raise error(f"{path}: not a readable .npz file ({cause}); it may be truncated, write it again") from cause
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise error(f"{path}: holds a single array, expected a .npz archive with a 'meta' entry")
        self.arrays = loaded

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *exc: object) -> None:
        self.arrays.close()

    def fail(self, key: str, text: str) -> FileError:
        """The error to raise about ``key``."""
        return self.error(f"{self.path}: {key}: {text}")

    def read(self, key: str) -> np.ndarray:
        """One array; refuses pickled objects, NaN and infinity."""
        try:
            array: np.ndarray = self.arrays[key]
        except KeyError:
            raise self.fail(key, "missing array; add it or remove what refers to it") from None
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError) as cause:
            raise self.fail(key, f"unreadable ({cause}); the file may be truncated or hold pickled objects") from cause
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise self.fail(key, "holds NaN or infinity, expected finite numbers")
        return array

    def meta(self, format_: str, version: int) -> dict[str, Any]:
        """The JSON header of a known format, not from the future."""
        text = self.read("meta")
        if text.dtype.kind != "U" or text.size != 1:
            raise self.fail(
                "meta", f"expected one JSON string, got an array of {text.dtype} and shape {list(text.shape)}"
            )
        try:
            meta = json.loads(str(text.reshape(())))
        except json.JSONDecodeError as cause:
            raise self.fail("meta", f"not JSON ({cause})") from cause
        if not isinstance(meta, dict) or meta.get("format") != format_:
            got = meta.get("format") if isinstance(meta, dict) else meta
            raise self.fail("meta.format", f"got {got!r}, expected '{format_}'")
        if not isinstance(meta.get("version"), int) or not 1 <= meta["version"] <= version:
            raise self.fail(
                "meta.version",
                f"got {meta.get('version')!r}, this version reads 1..{version}; update spikeloom or the file",
            )
        return meta


def write_archive(path: str | Path, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write header and arrays, compressed, whole or not at all."""
    with replacing(path) as temporary, open(temporary, "wb") as stream:
        np.savez_compressed(stream, meta=np.array(json.dumps(meta)), **arrays)  # type: ignore[arg-type]
