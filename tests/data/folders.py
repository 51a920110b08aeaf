"""Data folders made up for tests."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def write_mnist_npz(root: Path, **changes: np.ndarray) -> Path:
    generator = np.random.default_rng(0)
    arrays = {
        "x_train": generator.integers(0, 256, (20, 28, 28)).astype(np.uint8),
        "y_train": (np.arange(20) % 10).astype(np.uint8),
        "x_test": generator.integers(0, 256, (10, 28, 28)).astype(np.uint8),
        "y_test": np.arange(10).astype(np.uint8),
    }
    folder = root / "mnist"
    folder.mkdir(parents=True)
    np.savez(folder / "mnist.npz", **(arrays | changes))  # type: ignore[arg-type]
    return folder / "mnist.npz"


def idx(values: np.ndarray) -> bytes:
    return b"\x00\x00\x08" + bytes([values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def write_mnist_idx(root: Path, *, packed: bool) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(1)
    pixels = generator.integers(0, 256, (12, 28, 28)).astype(np.uint8)
    labels = (np.arange(12) % 10).astype(np.uint8)
    folder = root / "mnist"
    folder.mkdir(parents=True)
    for stem, values in (("t10k-images-idx3-ubyte", pixels), ("t10k-labels-idx1-ubyte", labels)):
        if packed:
            (folder / f"{stem}.gz").write_bytes(gzip.compress(idx(values)))
        else:
            (folder / stem).write_bytes(idx(values))
    return pixels, labels


def events(number: int, seed: int = 0) -> np.ndarray:
    """x, y, p, t_us in order of time; int64, shape (4, E)."""
    generator = np.random.default_rng(seed)
    drawn = generator.integers(0, [[34], [34], [2], [310_000]], (4, number))
    ordered: np.ndarray = drawn[:, np.argsort(drawn[3], kind="stable")]
    return ordered


def five_bytes(found: np.ndarray) -> bytes:
    x, y, p, t = found
    return np.stack([x, y, p << 7 | t >> 16, t >> 8 & 255, t & 255], axis=1).astype(np.uint8).tobytes()


def nmnist_arrays(split: str, number: int) -> dict[str, np.ndarray]:
    recordings = [events(50 + i, i) for i in range(number)]
    x, y, p, t = np.concatenate(recordings, axis=1)
    return {
        f"{split}_x": x.astype(np.uint8), f"{split}_y": y.astype(np.uint8), f"{split}_p": p.astype(np.uint8),
        f"{split}_t_us": t.astype(np.uint32),
        f"{split}_offset": np.concatenate([[0], np.cumsum([r.shape[1] for r in recordings])]),
        f"{split}_label": (np.arange(number) % 10).astype(np.uint8), f"{split}_id": np.arange(number) + 1,
    }  # fmt: skip


def write_nmnist_npz(root: Path, **changes: np.ndarray) -> Path:
    folder = root / "nmnist"
    folder.mkdir(parents=True)
    arrays = {**nmnist_arrays("train", 11), **nmnist_arrays("test", 5), **changes}
    np.savez(folder / "nmnist_800_100.npz", **arrays)  # type: ignore[arg-type]
    return folder / "nmnist_800_100.npz"


def write_nmnist_bins(root: Path, number: int = 11) -> None:
    """The recordings of `nmnist_arrays`, label by label, in the original layout."""
    for i in range(number):
        folder = root / "nmnist" / "Train" / str(i % 10)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i + 1:05d}.bin").write_bytes(five_bytes(events(50 + i, i)))


def image_bytes(colour: tuple[int, int, int], size: tuple[int, int] = (32, 32), kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind)
    return buffer.getvalue()


def cifar10_members(per_class: int = 3) -> dict[str, bytes]:
    """Name -> bytes: images whose red is the class and whose green is the number."""
    return {
        f"test/{name}/{i:04d}.png": image_bytes((label * 20, i, 7))
        for label, name in enumerate(CLASSES)
        for i in range(per_class)
    }


def write_cifar10(root: Path, kind: str, members: dict[str, bytes] | None = None) -> Path:
    """A folder, a .tar.gz or a .zip; returns what was written."""
    members = cifar10_members() if members is None else members
    folder = root / "cifar10"
    folder.mkdir(parents=True)
    if kind == "folder":
        for name, raw in members.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(raw)
        return folder
    path = folder / f"images.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, raw in members.items():
                archive.writestr(name, raw)
    else:
        with tarfile.open(path, "w:gz") as tar:
            for name, raw in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(raw)
                tar.addfile(info, io.BytesIO(raw))
    return path
