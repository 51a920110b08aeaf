"""Reading data files so that whatever is wrong with them becomes one clear line."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from spikeloom.errors import DataError


def dataset_folder(root: Path | None, name: str) -> Path:
    """The folder of data set ``name`` under ``root``.

    Raises:
        DataError: there is no root, or no such folder in it.
    """
    if root is None:
        raise DataError(
            f"data set '{name}' needs a folder: set the environment variable SPIKELOOM_DATA or pass data_dir (--data-dir), "
            f"to a folder that holds '{name}/'"
        )
    folder = root / name
    if not folder.is_dir():
        raise DataError(
            f"data set '{name}' not found: no folder {folder}; SPIKELOOM_DATA or data_dir must hold '{name}/'"
        )
    return folder


def read_arrays(path: Path, keys: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Arrays of an .npz file, never pickled ones.

    Args:
        path: the file.
        keys: name -> number of axes expected.

    Raises:
        DataError: the file is damaged, a key is absent or has another number of axes.
    """
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path} cannot be read as .npz: it is no zip archive; it may be truncated")
    try:
        # Opened here, for numpy leaves the file open when it turns out not to be an archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            missing = [key for key in keys if key not in archive.files]
            if missing:
                raise DataError(
                    f"{path} has no key {', '.join(missing)}; it holds {', '.join(archive.files) or 'nothing'}"
                )
            arrays = {key: np.asarray(archive[key]) for key in keys}
    except (zipfile.BadZipFile, EOFError, OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} cannot be read as .npz: {str(error).splitlines()[0]}; it may be truncated") from error
    for key, axes in keys.items():
        if arrays[key].ndim != axes:
            raise DataError(f"{path}: key '{key}' has shape {list(arrays[key].shape)}, expected {axes} axes")
    return arrays


def check_labels(where: str, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """``labels`` as int64. Raises DataError unless all are in 0..num_classes-1."""
    if labels.size == 0:
        raise DataError(f"{where} holds no sample")
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= num_classes:
        raise DataError(
            f"{where}: labels are {labels.dtype} from {labels.min()} to {labels.max()}, expected integers 0..{num_classes - 1}"
        )
    return labels.astype(np.int64)
