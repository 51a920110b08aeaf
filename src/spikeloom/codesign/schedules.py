"""Schedules are counted once: a cache in memory, and in a folder that several processes may share.

A schedule is what the spikes of one layer do under one window, dispatch, order, merging and number of columns; everything
else follows in closed form (`spikeloom.hw.closed_form`). It is kept under a key that names all it depends on, so that a
search which comes by the same choice again, today or tomorrow, does not count again.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from threading import Lock

import numpy as np

from spikeloom.errors import FileError
from spikeloom.files.archive import Archive, write_archive
from spikeloom.files.atomic import make_folder
from spikeloom.hw.schedule import CodedWeights, Schedule, ScheduleKey

_FORMAT, _VERSION = "spikeloom-schedule", 1


class ScheduleCache:
    """Schedules by key; pass it to ``evaluate`` or to anything in this room that takes a ``cache``.

    folder: where schedules are kept as well, one file each, written whole or not at all; None for memory only. A file that
    is damaged or does not hold what its name says is listed in ``damaged``, counted again and replaced.
    counted: how many schedules had to be counted since this cache was made.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = None if folder is None else Path(folder)
        self.counted = 0
        self.damaged: list[str] = []
        self._found: dict[ScheduleKey, Schedule] = {}
        self._lock = Lock()  # two threads of one process would write the same temporary file
        if self.folder is not None:
            make_folder(self.folder)

    def __len__(self) -> int:
        return len(self._found)

    def get(self, key: ScheduleKey, /) -> Schedule | None:
        """The schedule, or None where neither memory nor folder has it."""
        found = self._found.get(key)
        if found is None and self.folder is not None and (path := self.path(key)).exists():
            try:
                found = _read(path, key)
            except FileError as error:
                self.damaged.append(str(error))
            else:
                self._found[key] = found
        return found

    def __setitem__(self, key: ScheduleKey, found: Schedule, /) -> None:
        self.counted += 1
        self._found[key] = found
        if self.folder is not None:
            with self._lock:
                _write(self.path(key), key, found)

    def path(self, key: ScheduleKey) -> Path:
        """The file of a key; in memory-only caches there is none."""
        assert self.folder is not None
        return self.folder / f"{hashlib.sha256(repr(key).encode()).hexdigest()[:32]}.npz"


def _write(path: Path, key: ScheduleKey, found: Schedule) -> None:
    arrays = {"totals": found.totals, "filled": found.filled, "channels": found.channels}
    if found.filled_out is not None:
        arrays["filled_out"] = found.filled_out
    if found.coded is not None:
        arrays |= {"stored": found.coded.stored, "fetched": found.coded.fetched}
    meta = {
        "format": _FORMAT,
        "version": _VERSION,
        "key": repr(key),
        "steps": found.steps,
        "level_bits": found.level_bits,
        "additions": found.additions,
        "arrays": sorted(arrays),
    }
    write_archive(path, meta, arrays)


def _read(path: Path, key: ScheduleKey) -> Schedule:
    """Raises FileError for anything but the schedule of ``key``."""
    with Archive(path, FileError) as archive:
        meta = archive.meta(_FORMAT, _VERSION)
        if meta.get("key") != repr(key):
            raise archive.fail("meta.key", "is another schedule's; delete the file")
        steps, level_bits, additions = (meta.get(name) for name in ("steps", "level_bits", "additions"))
        names = meta.get("arrays")
        if not isinstance(steps, int) or not isinstance(level_bits, int) or not isinstance(additions, int):
            raise archive.fail(
                "meta", f"got {steps!r}, {level_bits!r}, {additions!r}, expected numbers; delete the file"
            )
        if not isinstance(names, list) or not {"totals", "filled", "channels"} <= set(names):
            raise archive.fail("meta.arrays", f"got {names!r}, expected the arrays of a schedule; delete the file")
        arrays = {str(name): archive.read(str(name)) for name in names}
        for name, array in arrays.items():
            if array.dtype != np.int64:
                raise archive.fail(name, f"got {array.dtype}, expected int64; delete the file")
        coded = CodedWeights(arrays["stored"], arrays["fetched"]) if {"stored", "fetched"} <= set(arrays) else None
        totals, filled, channels = (arrays[name] for name in ("totals", "filled", "channels"))
        return Schedule(totals, filled, channels, arrays.get("filled_out"), steps, level_bits, additions, coded)
