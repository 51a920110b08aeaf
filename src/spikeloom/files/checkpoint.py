"""Training checkpoints: torch files that hold tensors and plain values only, never code.

torch is imported inside the functions, so that the hardware wing runs without it.
"""

from __future__ import annotations

import os
import pickle
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

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
    path = Path(path)
    if not path.is_file():
        raise NetworkFileError(f"no checkpoint at {path}; expected a file written by 'train'")
    state = _loaded(path, "checkpoint")
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise NetworkFileError(f"{path} is a torch file but no Spikeloom checkpoint: key 'format' is not '{FORMAT}'")
    if state.get("version") != VERSION:
        raise NetworkFileError(
            f"checkpoint {path} has version {state.get('version')}, expected {VERSION}; use the Spikeloom that wrote it"
        )
    return state


def read_state_dict(path: Path | str) -> dict[str, np.ndarray]:
    """Parameters that ``torch.save(module.state_dict(), path)`` wrote, as float32 NumPy arrays by their names.

    Raises:
        NetworkFileError: the file is missing, truncated, holds pickled code (a whole module), or is no dict of dense, real and finite
            tensors.
    """
    import torch

    path = Path(path)
    if path.is_dir():
        raise NetworkFileError(
            f"no weights at {path}, which is a folder; expected a file of torch.save(module.state_dict(), ...)"
        )
    if not path.is_file():
        raise NetworkFileError(f"no weights at {path}; expected a file of torch.save(module.state_dict(), ...)")
    state = _loaded(path, "weights file")
    if not isinstance(state, dict):
        raise NetworkFileError(
            f"weights file {path} holds {type(state).__name__} instead of a dict of tensors; save module.state_dict()"
        )
    if not state:
        raise NetworkFileError(f"weights file {path} is empty, expected a dict of tensors; save module.state_dict()")
    arrays: dict[str, np.ndarray] = {}
    for key, value in state.items():
        if not isinstance(key, str):
            raise NetworkFileError(
                f"weights file {path}: got the key {key!r}, expected a word; save module.state_dict()"
            )
        if not isinstance(value, torch.Tensor):
            raise NetworkFileError(
                f"weights file {path}: {key!r} holds {type(value).__name__} instead of a tensor; save module.state_dict() alone"
            )
        if value.layout != torch.strided or value.is_quantized or value.is_complex() or value.is_meta:
            raise NetworkFileError(f"weights file {path}: '{key}' is no dense real tensor; save the weights as floats")
        arrays[key] = value.detach().float().numpy().copy()
        if not np.isfinite(arrays[key]).all():
            raise NetworkFileError(
                f"weights file {path}: '{key}' holds NaN or infinite values; restore an earlier copy"
            )
    return arrays


def _loaded(path: Path, what: str) -> Any:
    """What a torch file holds, read without running any code of it."""
    import torch

    try:
        with warnings.catch_warnings():  # torch's own, about the quantised tensors that a caller refuses
            for words in ("TypedStorage is deprecated", "torch.quantize_per_tensor"):
                warnings.filterwarnings("ignore", message=words, category=UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise NetworkFileError(
            f"{what} {path} holds pickled code or is damaged; only tensors and plain values are read"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise NetworkFileError(f"{what} {path} is truncated or no torch file; delete it or restore a copy") from error
