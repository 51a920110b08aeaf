"""Training checkpoints: torch files that hold tensors and plain values only, never code.

torch is imported inside the functions, so that the hardware wing runs without it.
"""

from __future__ import annotations

import os
import pickle
import tempfile
from pathlib import Path
from typing import Any

from spikeloom.errors import NetworkFileError

FORMAT = "spikeloom-checkpoint"
VERSION = 1


def write_checkpoint(path: Path | str, state: dict[str, Any]) -> None:
    """Write ``state`` (tensors, numbers, strings, lists, dicts) to ``path``; a reader never sees half a file.

    Raises:
        NetworkFileError: the folder is missing or cannot be written.
    """
    import torch

    path = Path(path)
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise NetworkFileError(f"cannot write checkpoint {path}: {error.strerror}; does the folder exist?") from error
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save({"format": FORMAT, "version": VERSION, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise NetworkFileError(f"cannot write checkpoint {path}: {error.strerror}") from error
    except BaseException:  # an interrupt, too, must not leave the temporary file behind
        Path(temporary).unlink(missing_ok=True)
        raise


def read_checkpoint(path: Path | str) -> dict[str, Any]:
    """What `write_checkpoint` wrote, on the CPU.

    Raises:
        NetworkFileError: the file is missing, truncated, holds pickled code, or is no checkpoint of this version.
    """
    import torch

    path = Path(path)
    if not path.is_file():
        raise NetworkFileError(f"no checkpoint at {path}; expected a file written by 'train'")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise NetworkFileError(
            f"checkpoint {path} holds pickled code or is damaged; only tensors and plain values are read"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise NetworkFileError(
            f"checkpoint {path} is truncated or no torch file; delete it or restore a copy"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise NetworkFileError(f"{path} is a torch file but no Spikeloom checkpoint: key 'format' is not '{FORMAT}'")
    if state.get("version") != VERSION:
        raise NetworkFileError(
            f"checkpoint {path} has version {state.get('version')}, expected {VERSION}; use the Spikeloom that wrote it"
        )
    return state
