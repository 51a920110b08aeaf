"""Digits: 1797 handwritten digits of 8x8 pixels that scikit-learn brings along (UCI Optical Recognition of Handwritten Digits)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spikeloom.data.base import Images, check_split
from spikeloom.errors import DataError

_TEST_FRACTION = 0.25
_SPLIT_SEED = 1797
_PIXEL_MAX = 16


def digits(split: str, data_dir: Path | None = None) -> Images:
    """1 x 8 x 8 images, 10 classes, about 1350 for training and 450 for testing; needs no folder.

    The split is a fixed, stratified one: a quarter of every class is for testing. Pixels 0..16 are stretched to 0..255.
    """
    check_split("digits", split)
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(
            "data set 'digits' comes with scikit-learn, which is not installed: pip install spikeloom[train]"
        ) from error
    found = load_digits()
    labels = found.target.astype(np.int64)
    generator = np.random.default_rng(_SPLIT_SEED)
    testing = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        testing[members[: round(len(members) * _TEST_FRACTION)]] = True
    ids = np.flatnonzero(testing if split == "test" else ~testing).astype(np.int64)
    pixels = np.rint(found.images[ids] * (255 / _PIXEL_MAX)).astype(np.uint8)[:, None]
    return Images("digits", split, pixels, labels[ids], ids, 10)
