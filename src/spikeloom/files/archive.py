"""``.npz`` archives with a JSON string ``meta`` and one array per key; every failure is one line naming file and key."""

from __future__ import annotations

import json
import lzma
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spikeloom.errors import FileError
from spikeloom.files.atomic import replacing

#: What zipfile, its decompressors and NumPy's reader of array headers raise on damaged or hostile files.
_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    tokenize.TokenError,
    EOFError,
    MemoryError,
    OSError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)


class Archive:
    """An open archive; ``error`` is the class of what it raises."""

    def __init__(self, path: str | Path, error: type[FileError]) -> None:
        self.path, self.error = Path(path), error
        try:
            self._stream = open(self.path, "rb")  # noqa: SIM115  # stays open as long as the archive
        except FileNotFoundError:
            raise error(f"{path}: no such file; expected a .npz file") from None
        except IsADirectoryError:
            raise error(f"{path}: is a folder, expected a .npz file") from None
        except OSError as cause:
            raise error(f"{path}: cannot be read ({cause.strerror or cause})") from cause
        try:
            loaded = np.load(self._stream, allow_pickle=False)
            if not isinstance(loaded, np.lib.npyio.NpzFile):
                raise error(f"{path}: holds a single array, expected a .npz archive with a 'meta' entry")
        except _UNREADABLE as cause:
            self._stream.close()
            if isinstance(cause, FileError):
                raise
            what = "not a zip archive" if "pickle" in str(cause) else cause  # NumPy takes anything unknown for a pickle
            raise error(f"{path}: not a readable .npz file ({what}); it may be truncated, write it again") from cause
        self.arrays = loaded

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *exc: object) -> None:
        self.arrays.close()
        self._stream.close()

    def fail(self, key: str, text: str) -> FileError:
        """The error to raise about ``key``."""
        return self.error(f"{self.path}: {key}: {text}")

    def read(self, key: str) -> np.ndarray:
        """One array; refuses pickled objects, NaN and infinity."""
        member = f"{key}.npy"  # by its own name: NumPy would take the key 'x.npy' for the member of 'x'
        assert self.arrays.zip is not None  # open until __exit__
        members = self.arrays.zip.namelist()
        if member not in members:
            if key in members:
                raise self.fail(key, "is no .npy array; remove it from the archive")
            raise self.fail(key, "missing array; add it or remove what refers to it")
        try:
            array: np.ndarray = self.arrays[member]
        except _UNREADABLE as cause:
            raise self.fail(key, f"unreadable ({cause}); the file may be truncated or hold pickled objects") from cause
        if not isinstance(array, np.ndarray):  # NumPy hands out other members of the zip as bytes
            raise self.fail(key, "is no .npy array; remove it from the archive")
        if array.dtype.kind in "fc" and not np.isfinite(array).all():
            raise self.fail(key, "holds NaN or infinity, expected finite numbers")
        return array

    def header(self) -> dict[str, Any]:
        """The JSON header."""
        text = self.read("meta")
        if text.dtype.kind != "U" or text.size != 1:
            raise self.fail(
                "meta", f"expected one JSON string, got an array of {text.dtype} and shape {list(text.shape)}"
            )
        try:
            meta = json.loads(str(text.reshape(())))
        except (ValueError, RecursionError) as cause:  # JSONDecodeError, but also numbers too long and lists too deep
            raise self.fail("meta", f"not JSON ({cause})") from cause
        if not isinstance(meta, dict):
            raise self.fail("meta", f"got a JSON {type(meta).__name__}, expected an object with the key 'format'")
        return meta

    def meta(self, format_: str, version: int) -> dict[str, Any]:
        """The JSON header of a known format, not from the future."""
        meta = self.header()
        if meta.get("format") != format_:
            advice = (
                "; record the network first"
                if format_ == "spikeloom-trace" and meta.get("format") == "spikeloom-network"
                else ""
            )
            raise self.fail("meta.format", f"got {meta.get('format')!r}, expected '{format_}'{advice}")
        got = meta.get("version")
        if not isinstance(got, int) or isinstance(got, bool) or not 1 <= got <= version:
            raise self.fail(
                "meta.version",
                f"got {got!r}, this version reads 1..{version}; update spikeloom or the file",
            )
        return meta


def write_archive(path: str | Path, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write header and arrays, compressed, whole or not at all."""
    with replacing(path) as temporary, open(temporary, "wb") as stream:
        header = {"meta": np.array(json.dumps(meta))}
        # as np.savez_compressed, which cannot write arrays named like its own parameters
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for key, array in (header | dict(arrays)).items():
                with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
