"""The embedded digits: a fixed, stratified split."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest

from spikeloom.data import Images, load
from spikeloom.errors import DataError


def test_split_is_stratified_disjoint_and_whole() -> None:
    train, test = load("digits", "train"), load("digits", "test")
    assert isinstance(train, Images)
    assert (train.in_shape, train.num_classes) == ((1, 8, 8), 10)
    assert sorted([*train.ids, *test.ids]) == list(range(1797))
    shares = np.bincount(test.labels) / (np.bincount(test.labels) + np.bincount(train.labels))
    assert (abs(shares - 0.25) < 0.005).all()


def test_pixels_use_all_levels() -> None:
    pixels = load("digits", "train").batch(range(100))
    assert pixels.max() == 255
    assert len(np.unique(pixels)) == 17


def test_without_sklearn(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real_import(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DataError, match=r"pip install spikeloom\[train\]"):
        load("digits", "train")
