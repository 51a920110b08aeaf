"""Writing that is whole or not at all: a temporary file beside the target, renamed when complete."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from spikeloom.errors import FileError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the target's folder and rename it to ``path`` when the block ends without error.

    Raises FileError where the folder is missing or cannot be written.
    """
    check_target(path)
    target, temporary = _places(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, target)
    except OSError as error:
        raise _unwritable(target, error) from error
    finally:
        with suppress(OSError):  # the folder itself may be what is wrong, and that error is on its way
            temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file whole or not at all. Raises FileError as `replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_target(path: str | Path, *sources: str | Path) -> None:
    """Find out before the work whether its result can be written to ``path``; nothing is left behind.

    Missing folders are not created: the nearest one that is there must be one to write into.

    Raises:
        FileError: as `replacing`: a folder, no regular file, a place where nothing can be written; one of the ``sources``, files
            that are read.
    """
    target, temporary = _places(path)
    try:
        if target.is_dir():
            raise FileError(f"{target}: is a folder, expected a file to write; name a file")
        if target.exists() and not target.is_file():
            raise FileError(f"{target}: is no regular file and would be replaced by one; name a file")
        probe = next(folder for folder in target.parents if folder.exists()) / temporary.name
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise _unwritable(target, error) from error
    keep_sources(path, *sources)


def _places(path: str | Path) -> tuple[Path, Path]:
    """The file that ``path`` is or points to, and the temporary one beside it."""
    target = Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)
    if target.name in ("", ".."):
        raise FileError(f"{target}: is a folder, expected a file to write; name a file")
    return target, target.with_name(f".{target.name}.{os.getpid()}.part")


def _unwritable(target: Path, error: OSError) -> FileError:
    return FileError(f"{target}: cannot be written ({error.strerror or error}); choose a folder you may write to")


def keep_sources(target: str | Path, *sources: str | Path) -> None:
    """Raise FileError when ``target`` is one of the files that are read."""
    for source in sources:
        if os.path.realpath(target) == os.path.realpath(source) or (
            os.path.exists(target) and os.path.exists(source) and os.path.samefile(target, source)
        ):
            raise FileError(f"{target}: is read here and would be replaced; name another file to write")


def make_folder(path: str | Path) -> None:
    """Create a folder, its parents included. Raises FileError where that cannot be done."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(
            f"{path}: cannot be created ({error.strerror or error}); choose a folder you may write to"
        ) from error
