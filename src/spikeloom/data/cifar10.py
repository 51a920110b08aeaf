"""CIFAR-10 (Krizhevsky, 2009) as image files: 60,000 colour images of 32x32 pixels in folders named after their classes."""

from __future__ import annotations

import io
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np

from spikeloom.data.base import Images, check_split
from spikeloom.data.files import dataset_folder
from spikeloom.errors import DataError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_SUFFIXES = (".jpg", ".jpeg", ".png")
_ARCHIVES = ("*.tar.gz", "*.tgz", "*.tar", "*.zip")
_SHAPE = (32, 32, 3)


def cifar10(split: str, data_dir: Path | None = None, *, limit: int | None = None) -> Images:
    """3 x 32 x 32 images, 10 classes, 50,000 for training and 10,000 for testing.

    Read from ``cifar10/<split>/<class>/*`` or from one archive of such folders in ``cifar10/`` (.tar, .tar.gz, .zip). Decoded
    images stay in memory for the next call; nothing is written. Training images are in the order of classes and names, which their
    ids count, test images in a fixed order that mixes classes.

    Args:
        split: "train" or "test".
        data_dir: folder that holds ``cifar10/``.
        limit: decode only so many images, as many of each class as divides, the first by name.

    Raises:
        DataError: the files are absent, damaged, no images or not 32x32.
    """
    check_split("cifar10", split)
    if limit is not None and limit < 1:
        raise DataError(f"data set 'cifar10' got limit={limit}, expected at least 1")
    folder = dataset_folder(data_dir, "cifar10")
    origin = folder if (folder / split).is_dir() else _archive(folder, split)
    pixels, labels = _decoded(origin, origin.stat().st_mtime_ns, split, limit)
    return Images("cifar10", split, pixels, labels, _order(split, len(labels)), len(CLASSES))


@lru_cache(maxsize=4)
def _decoded(origin: Path, changed_ns: int, split: str, limit: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, 3, 32, 32) and labels of all images, as `_order` says; ``changed_ns`` makes a changed file another key."""
    per_class = None if limit is None else [limit // 10 + (c < limit % 10) for c in range(10)]
    wanted: dict[str, int] = {}
    for label, name in enumerate(CLASSES):
        members = sorted(m for m in _names(origin, changed_ns) if _is_image_of(m, split, name))
        if not members:
            raise DataError(
                f"{origin} holds no image of class '{name}' for split '{split}'; expected {split}/{name}/*.jpg"
            )
        wanted |= dict.fromkeys(members if per_class is None else members[: per_class[label]], label)
    pixels = np.empty((len(wanted), 3, 32, 32), np.uint8)
    position = {name: n for n, name in enumerate(wanted)}
    for name, raw in _contents(origin, set(wanted)):
        pixels[position[name]] = decode_image(f"{origin}: {name}", raw).transpose(2, 0, 1)
    order = _order(split, len(wanted))
    pixels = pixels if split == "train" else pixels[order]
    pixels.setflags(write=False)  # shared by all callers
    return pixels, np.array(list(wanted.values()), np.int64)[order]


def _order(split: str, number: int) -> np.ndarray:
    """Which image, counted by class and name, stands where: training shuffles, so only test images are mixed here."""
    ids = np.arange(number, dtype=np.int64)
    return np.random.default_rng(0).permutation(ids) if split == "test" else ids


def decode_image(where: str, raw: bytes) -> np.ndarray:
    """RGB pixels of an image file; uint8, shape (32, 32, 3). Raises DataError naming ``where``."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise DataError(
            "data set 'cifar10' needs Pillow, which is not installed: pip install spikeloom[train]"
        ) from error
    try:
        with Image.open(io.BytesIO(raw)) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise DataError(f"{where} is no readable image: {str(error).splitlines()[0]}") from error
    if pixels.shape != _SHAPE:
        raise DataError(f"{where} is {pixels.shape[1]}x{pixels.shape[0]} pixels, expected 32x32")
    return pixels


def _archive(folder: Path, split: str) -> Path:
    found = sorted({path for pattern in _ARCHIVES for path in folder.glob(pattern)})
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise DataError(
            f"{folder} holds no folder '{split}' and not exactly one archive (found: {names}); put CIFAR-10 there"
        )
    return found[0]


def _is_image_of(member: str, split: str, name: str) -> bool:
    """True for ``[...]/split/class/file.jpg``."""
    path = PurePosixPath(member)
    return path.suffix.lower() in _SUFFIXES and path.parts[-3:-1] == (split, name)


@lru_cache(maxsize=4)
def _names(origin: Path, changed_ns: int) -> tuple[str, ...]:
    """Names of all files in a folder or archive."""
    if origin.is_dir():
        return tuple(path.relative_to(origin).as_posix() for path in origin.rglob("*") if path.is_file())
    try:
        if origin.suffix == ".zip":
            with zipfile.ZipFile(origin) as archive:
                return tuple(archive.namelist())
        with tarfile.open(origin) as tar:
            return tuple(member.name for member in tar if member.isfile())
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, zlib.error) as error:
        raise DataError(f"{origin} cannot be read: {error}; it may be truncated") from error


def _contents(origin: Path, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of the wanted files, in the order they lie in."""
    if origin.is_dir():
        for name in sorted(wanted):
            yield name, (origin / name).read_bytes()
        return
    try:
        if origin.suffix == ".zip":
            with zipfile.ZipFile(origin) as archive:
                for name in sorted(wanted):
                    yield name, archive.read(name)
            return
        with tarfile.open(origin) as tar:
            left = len(wanted)
            for member in tar:
                file = tar.extractfile(member) if member.name in wanted else None
                if file is not None:
                    yield member.name, file.read()
                    left -= 1
                if left == 0:
                    return
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, zlib.error) as error:
        raise DataError(f"{origin} cannot be read: {error}; it may be truncated") from error
