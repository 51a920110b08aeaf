"""The folder of a study: who it is, its finished trials, and the storage of the sampler.

    study.json     what the study searches and how; made once, compared on every resumption
    results.jsonl  one line for each finished trial, the only result (see ``spikeloom.files.results``)
    study.db       Optuna's storage, unless a URL names another one
    claims/        one locked file for each trial being computed; a lock ends with the process that holds it

A trial is finished when its line stands in ``results.jsonl``. Optuna's storage knows which parameters were asked for;
what it lost or never heard of is told again from the results.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikeloom.core.report import Trial
from spikeloom.errors import SearchError
from spikeloom.files.atomic import make_folder, write_text
from spikeloom.files.results import append_trial, read_trials

if TYPE_CHECKING:
    from optuna.storages import BaseStorage, RDBStorage

STUDY_FORMAT = "spikeloom-study"
VERSION = 1


@dataclass(frozen=True)
class StudyFolder:
    """A folder that holds the study ``uid``; small enough to send to a worker, which may or may not see the folder."""

    path: Path
    uid: str

    @property
    def results(self) -> Path:
        return self.path / "results.jsonl"

    def is_here(self) -> bool:
        """Whether this machine sees the folder, and in it the same study."""
        try:
            document = json.loads((self.path / "study.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return isinstance(document, dict) and document.get("uid") == self.uid

    def find(self, trial_id: str) -> Trial | None:
        """The finished trial of this id, if any. Reads only what was appended since the last call."""
        if trial_id not in _index(self.results).refreshed():
            return None
        return next(trial for trial in read_trials(self.results).trials if trial.id == trial_id)

    def finished(self) -> dict[str, Trial]:
        """Every finished trial by its id. Raises FileError on a line that is neither a trial nor torn."""
        return {trial.id: trial for trial in read_trials(self.results).trials} if self.results.exists() else {}

    def append(self, trial: Trial) -> None:
        append_trial(self.results, trial)

    @contextlib.contextmanager
    def claim(self, trial_id: str) -> Iterator[None]:
        """Hold a trial while it is computed; wait where another process, perhaps one given up for lost, holds it."""
        folder = self.path / "claims"
        folder.mkdir(exist_ok=True)
        with locked(folder / trial_id, wait=True):
            yield

    @contextlib.contextmanager
    def sole(self) -> Iterator[None]:
        """Keep every other search out of this folder. Raises SearchError where one is running."""
        with locked(self.path / "search.lock", wait=False) as held:
            if not held:
                raise SearchError(
                    f"{self.path}: another search is running in this folder; wait for it, stop it or choose another"
                )
            yield


def open_folder(path: str | Path, description: Mapping[str, Any], *, resume: bool) -> StudyFolder:
    """The folder of a study: a fresh one with a new uid, or the one that is there if it holds the same study.

    Args:
        path: made where it is missing.
        description: what the study searches and how, in JSON's types; the key names what differs in an error.
        resume: whether a study that is there may be continued.

    Raises:
        SearchError: the folder holds another study, or any while ``resume`` is off.
        FileError: the folder cannot be read or written.
    """
    folder = Path(path)
    make_folder(folder)
    file = folder / "study.json"
    wanted = json.loads(json.dumps(description))
    if not file.exists():
        if (folder / "results.jsonl").exists():
            raise SearchError(f"{folder}: holds results.jsonl but no study.json; choose an empty folder")
        uid = uuid.uuid4().hex
        document = {"format": STUDY_FORMAT, "version": VERSION, "uid": uid, **wanted}
        write_text(file, json.dumps(document, indent=2, ensure_ascii=False) + "\n")
        return StudyFolder(folder.resolve(), uid)
    if not resume:
        raise SearchError(f"{folder}: holds a study already; resume it or choose another folder")
    found = _read_study(file)
    for key, value in wanted.items():
        if found.get(key) != value:
            raise SearchError(
                f"{folder}: holds a study with another {_difference(key, found.get(key), value)}; "
                "go on with the old setting or choose another folder"
            )
    return StudyFolder(folder.resolve(), found["uid"])


def _read_study(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SearchError(f"{file}: cannot read the study ({error}); choose another folder") from None
    if not isinstance(document, dict) or document.get("format") != STUDY_FORMAT or "uid" not in document:
        raise SearchError(f"{file}: is no study of Spikeloom; choose another folder")
    if document.get("version") != VERSION:
        raise SearchError(
            f"{file}: key 'version' is {document.get('version')!r}, this Spikeloom reads {VERSION}; update Spikeloom"
        )
    return document


def _difference(key: str, old: Any, new: Any) -> str:
    """``'seed': 0 there, 1 here``, going down to the innermost key that differs."""
    while isinstance(old, dict) and isinstance(new, dict):
        inner = next(name for name in [*old, *new] if old.get(name) != new.get(name))
        key, old, new = f"{key}.{inner}", old.get(inner), new.get(inner)
    return f"'{key}': {_short(old)} there, {_short(new)} here"


def _short(value: Any) -> str:
    if value is None:
        return "none"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


class _ResultIndex:
    """The ids in a results file, followed as it grows. A line counts once its end has been written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0
        self.ids: set[str] = set()
        self.lock = threading.Lock()

    def refreshed(self) -> set[str]:
        with self.lock:
            try:
                with self.path.open("rb") as file:
                    file.seek(self.offset)
                    fresh = file.read()
            except FileNotFoundError:
                return self.ids
            whole = fresh[: fresh.rfind(b"\n") + 1]
            for line in whole.splitlines():
                with contextlib.suppress(ValueError):  # a torn line is no trial; read_trials reports it
                    record = json.loads(line) if line.strip() else None
                    if isinstance(record, dict) and isinstance(record.get("id"), str):
                        self.ids.add(record["id"])
            self.offset += len(whole)
            return self.ids


_INDICES: dict[Path, _ResultIndex] = {}


def _index(path: Path) -> _ResultIndex:
    index = _INDICES.get(path)
    if index is None or not path.exists() or path.stat().st_size < index.offset:  # another file by the same name
        index = _INDICES[path] = _ResultIndex(path)
    return index


@contextlib.contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold an advisory lock on a file that is removed afterwards; yields whether it is held.

    The system releases it when the process ends, however it ends. Where there are no such locks (Windows), nothing is
    held: two processes may then compute the same trial, and the later line wins.
    """
    if os.name != "posix":
        yield True
        return
    import fcntl

    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(descriptor)
            yield False
            return
        try:
            fresh = os.stat(path).st_ino == os.fstat(descriptor).st_ino
        except FileNotFoundError:
            fresh = False
        if fresh:
            break
        os.close(descriptor)  # its holder removed the file while we waited: lock the one that is there now
    try:
        yield True
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


@contextlib.contextmanager
def opened_storage(spec: str | None, folder: Path) -> Iterator[BaseStorage]:
    """Optuna's storage, closed at the end; what a connection complains of then stands in an error already."""
    import sqlalchemy

    storage = open_storage(spec, folder)
    logger = logging.getLogger("sqlalchemy.pool")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield storage
    finally:
        if hasattr(storage, "engine"):  # a database
            with contextlib.suppress(sqlalchemy.exc.SQLAlchemyError):  # the database may be what is wrong
                storage.remove_session()
            storage.engine.dispose()
        logger.setLevel(before)


def open_storage(spec: str | None, folder: Path) -> BaseStorage:
    """Optuna's storage.

    Args:
        spec: None: SQLite in the study's folder. ``memory``: nowhere; a resumption then asks again from the first trial
            and reads what is finished. A name that ends in ``.journal``: a journal file, for file systems without
            SQLite's locks. Else the URL of a database as SQLAlchemy has it, say ``postgresql://user@host/name``.
        folder: of the study.

    Raises:
        SearchError: the database cannot be reached or its driver is missing.
    """
    from optuna.storages import InMemoryStorage, JournalStorage
    from optuna.storages import RDBStorage as Database
    from optuna.storages.journal import JournalFileBackend

    if spec == "memory":
        return InMemoryStorage()
    if spec is not None and spec.endswith(".journal"):
        return JournalStorage(JournalFileBackend(spec))
    url = f"sqlite:///{folder / 'study.db'}" if spec is None else spec
    import sqlalchemy

    try:
        parsed = sqlalchemy.make_url(url)
    except sqlalchemy.exc.ArgumentError:
        raise SearchError(
            "storage: expected a URL such as postgresql://user@host/name or sqlite:///file.db, 'memory' or a file "
            "name that ends in .journal"
        ) from None
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+pg8000")
    shown = parsed.render_as_string(hide_password=True)
    try:
        storage = Database(parsed.render_as_string(hide_password=False))
    except (ImportError, sqlalchemy.exc.NoSuchModuleError) as error:
        raise SearchError(
            f"storage {shown}: its driver is missing ({error}); for PostgreSQL run: pip install 'spikeloom[cluster]'"
        ) from None
    except Exception as error:  # noqa: BLE001 - drivers raise what they like; the cause stands in the message
        cause = getattr(error, "orig", None) or error.__cause__ or error
        raise SearchError(f"storage {shown}: cannot be opened ({cause}); check the address and the rights") from None
    if parsed.get_backend_name() == "sqlite":
        _without_waiting(storage)
    return storage


def _without_waiting(storage: RDBStorage) -> None:
    """SQLite with a write-ahead log, which does not wait for the disk at every step: ten times faster, never corrupt.

    What a power cut may take are the last steps, and those are asked and told again.
    """
    import sqlalchemy

    @sqlalchemy.event.listens_for(storage.engine, "connect")
    def _set(connection: Any, record: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    storage.engine.dispose()


@contextlib.contextmanager
def storage_errors() -> Iterator[None]:
    """A database that goes away is the user's to mend, in one line."""
    import sqlalchemy
    from optuna.exceptions import StorageInternalError

    try:
        yield
    except (StorageInternalError, sqlalchemy.exc.SQLAlchemyError, ConnectionError) as error:  # a driver's own, too
        cause = getattr(error, "orig", None) or error.__cause__ or error
        raise SearchError(
            f"storage: the database failed ({cause}); finished trials are kept, see that it runs and resume"
        ) from error
