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
    target = Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)
    if not target.name:
        raise FileError(f"{target}: is a folder, expected a file to write; name a file")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            raise FileError(f"{target}: is a folder, expected a file to write; name a file")
        if target.exists() and not target.is_file():
            raise FileError(f"{target}: is no regular file and would be replaced by one; name a file")
        yield temporary
        os.replace(temporary, target)
    except OSError as error:
        raise FileError(
            f"{target}: cannot be written ({error.strerror or error}); choose a folder you may write to"
        ) from error
    finally:
        with suppress(OSError):  # the folder itself may be what is wrong, and that error is on its way
            temporary.unlink(missing_ok=True)


def make_folder(path: str | Path) -> None:
    """Create a folder, its parents included. Raises FileError where that cannot be done."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(
            f"{path}: cannot be created ({error.strerror or error}); choose a folder you may write to"
        ) from error
