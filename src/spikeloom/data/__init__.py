"""Data sets by name. They are read from a folder that the user names; nothing is fetched and nothing is written."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from inspect import signature
from pathlib import Path
from typing import Any

from spikeloom.data.augment import Augmentation, random_flip, random_shift
from spikeloom.data.base import Images, Recordings, Samples, first
from spikeloom.data.cifar10 import cifar10
from spikeloom.data.digits import digits
from spikeloom.data.mnist import mnist
from spikeloom.data.moving_bar import moving_bar
from spikeloom.data.nmnist import nmnist
from spikeloom.errors import DataError
from spikeloom.files.schema import nearest

#: Environment variable that names the folder of data sets.
DATA_VARIABLE = "SPIKELOOM_DATA"

#: Every data set by the name a configuration uses: (split, data_dir, options) -> Samples.
DATASETS: Mapping[str, Callable[..., Samples]] = {
    "cifar10": cifar10,
    "digits": digits,
    "mnist": mnist,
    "moving-bar": moving_bar,
    "nmnist": nmnist,
}


#: What an option annotated so may be.
_OPTION_TYPES: Mapping[str, tuple[type, ...]] = {
    "int": (int,), "int | None": (int, type(None)), "float": (int, float), "str": (str,),
}  # fmt: skip


def load(name: str, split: str, *, data_dir: Path | str | None = None, **options: Any) -> Samples:
    """Samples of data set ``name``.

    Args:
        name: a key of DATASETS.
        split: "train" or "test".
        data_dir: folder that holds a folder for each data set; without it the environment variable SPIKELOOM_DATA names one.
            "digits" and "moving-bar" need none.
        **options: of the data set, e.g. ``num_steps`` and ``dt_us`` of recordings, ``limit`` of cifar10.

    Raises:
        DataError: unknown data set, split or option, files that are absent or malformed, or recordings without any event in
            a frame. What the frames leave out of recordings is logged.
    """
    if name not in DATASETS:
        raise DataError(f"unknown data set '{name}', expected one of {', '.join(DATASETS)}")
    check_options(name, options)
    root = data_dir if data_dir is not None else os.environ.get(DATA_VARIABLE) or None
    found = DATASETS[name](split, None if root is None else Path(root), **options)
    if isinstance(found, Recordings) and (note := found.note()):
        logging.getLogger(__name__).warning(note)
    return found


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Raise DataError for an option that data set ``name`` does not have, or of another type."""
    known = [key for key in signature(DATASETS[name]).parameters if key not in ("split", "data_dir")]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise DataError(
            f"data set '{name}' has no option {', '.join(unknown)}{nearest(unknown[0], known)}; it has {', '.join(known) or 'none'}"
        )
    for key, value in options.items():
        expected = signature(DATASETS[name]).parameters[key].annotation
        if isinstance(value, bool) or not isinstance(value, _OPTION_TYPES[expected]):
            raise DataError(f"data set '{name}': option {key}: got {value!r}, expected {expected}")


__all__ = [
    "DATASETS",
    "DATA_VARIABLE",
    "Augmentation",
    "Images",
    "Recordings",
    "Samples",
    "check_options",
    "first",
    "load",
    "random_flip",
    "random_shift",
]
