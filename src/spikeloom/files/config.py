"""Machine and workload files (TOML) and SCALE-Sim topologies (CSV); no arithmetic."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from spikeloom.core.arch import AbstractArch
from spikeloom.core.workload import RateLayer, RateWorkload
from spikeloom.errors import ConfigError
from spikeloom.files.atomic import write_text
from spikeloom.files.schema import knobs_from, knobs_to, nearest, read_toml, toml_value, validated

ArchTypes = Mapping[str, type[AbstractArch]]
Presets = Mapping[str, Mapping[str, Mapping[str, Any]]]

_Size = Annotated[int, Field(ge=1, le=2**24)]
_Pair = tuple[_Size, _Size]


def machine_from(raw: Mapping[str, Any], types: ArchTypes, presets: Presets, where: str) -> AbstractArch:
    """Build a machine from the keys of a machine file: ``model``, optionally ``preset``, and fields of that model.

    types: model -> Arch dataclass. presets: model -> preset -> fields. where: the file, for errors. Raises ConfigError
    naming file and key.
    """
    keys = dict(raw)
    if "model" not in keys:
        raise ConfigError(f"{where}: model: missing key; expected one of {', '.join(types)}")
    model, preset = keys.pop("model"), keys.pop("preset", None)
    if not isinstance(model, str) or model not in types:
        raise ConfigError(
            f"{where}: model: got {model!r}, expected one of {', '.join(types)}{nearest(str(model), types)}"
        )
    known = presets.get(model, {})
    if preset is not None and (not isinstance(preset, str) or preset not in known):
        raise ConfigError(
            f"{where}: preset: got {preset!r}, expected one of {', '.join(known)}{nearest(str(preset), known)}"
        )
    return knobs_from(types[model], {**known.get(preset or "", {}), **keys}, where)


def machine_keys(arch: AbstractArch) -> dict[str, Any]:
    """The effective machine as a machine file would say it."""
    return {"model": arch.model, **knobs_to(arch)}


def write_machine(path: str | Path, arch: AbstractArch) -> None:
    """Write every field as a machine file that reads back to the same machine. Raises FileError."""
    lines = "".join(f"{key} = {toml_value(value)}\n" for key, value in machine_keys(arch).items())
    write_text(path, lines)


class _RateLayerFile(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: Annotated[str, Field(min_length=1)]
    kind: Literal["conv1d", "conv2d", "linear"]
    in_shape: Annotated[tuple[_Size, ...], Field(min_length=1, max_length=3)]
    out_channels: _Size
    firing_rate: Annotated[float, Field(ge=0, le=1)]
    kernel: _Pair = (1, 1)
    stride: _Pair = (1, 1)
    padding: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] = (0, 0)
    groups: _Size = 1
    weight_bits: Annotated[int, Field(ge=1, le=64)] = 8
    weight_density: Annotated[float, Field(ge=0, le=1)] | None = None


class _RateFile(BaseModel):
    model_config = ConfigDict(extra="forbid")
    num_steps: _Size
    num_samples: _Size = 1
    seed: Annotated[int, Field(ge=0)] = 0
    layer: Annotated[tuple[_RateLayerFile, ...], Field(min_length=1)]


def read_workload(path: str | Path) -> RateWorkload:
    """Read a workload file: layer shapes and firing rates. Raises ConfigError naming file and key."""
    known = [*_RateFile.model_fields, *_RateLayerFile.model_fields]
    found = validated(TypeAdapter(_RateFile), read_toml(path), str(path), known)
    names = [layer.name for layer in found.layer]
    for k, name in enumerate(names):
        if name in names[:k]:
            raise ConfigError(f"{path}: layer[{k}].name: '{name}' is used twice, expected distinct names")
    for k, layer in enumerate(found.layer):
        for key, one in (("kernel", 1), ("stride", 1), ("padding", 0)):
            pair, free = getattr(layer, key), {"conv2d": 2, "conv1d": 1, "linear": 0}[layer.kind]
            if pair[: 2 - free] != (one,) * (2 - free):
                raise ConfigError(
                    f"{path}: layer[{k}].{key}: got {list(pair)}, a {layer.kind} layer has {free} extents to slide along; "
                    f"expected {one} in the first {2 - free}"
                )
        if layer.kind == "linear" and layer.groups != 1:
            raise ConfigError(f"{path}: layer[{k}].groups: got {layer.groups}, a linear layer has no groups")
    layers = tuple(RateLayer(**dict(layer)) for layer in found.layer)
    silent = tuple(layer.name for layer in found.layer if "weight_bits" not in layer.model_fields_set)
    return RateWorkload(layers, found.num_steps, found.num_samples, found.seed, str(path), silent)


_CONV_COLUMNS = ("name", "H", "W", "R", "S", "C", "K", "stride")


def read_topology(path: str | Path, *, rate: float, num_steps: int) -> RateWorkload:
    """Read a SCALE-Sim topology: rows ``name, H, W, R, S, C, K, stride`` (convolutions) or ``name, M, N, K`` (GEMM).

    rate: firing rate of every input, which the format lacks. A GEMM row is a linear layer of K inputs and N outputs
    applied at M positions, that is a 1x1 convolution on an M x 1 map. Windows hang over the far border as the tool's do
    (``RateLayer.overhang``), and a convolution with DP in its name is depthwise: K filters for every channel, each on that
    channel alone. Raises ConfigError naming file and line.
    """
    layers: list[RateLayer] = []
    try:
        with open(path, newline="", encoding="utf-8") as stream:
            rows = [[cell.strip() for cell in ",".join(row).rstrip(", \t").split(",")] for row in csv.reader(stream)]
            rows = [row if any(row) else [] for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as cause:
        raise ConfigError(f"{path}: cannot be read as CSV ({cause})") from cause
    if rows and len(rows[0]) > 1 and all(cell.isdecimal() for cell in rows[0][1:]):
        raise ConfigError(f"{path}: line 1: got {rows[0]}, expected a header line; it is skipped when read")
    for line, row in enumerate(rows[1:], start=2):
        if not row:
            continue
        where = f"{path}: line {line}"
        if row[0] in {layer.name for layer in layers}:
            raise ConfigError(f"{where}: '{row[0]}' is used twice, expected distinct names")
        if len(row) not in (4, len(_CONV_COLUMNS)):
            raise ConfigError(f"{where}: got {len(row)} columns, expected {', '.join(_CONV_COLUMNS)} or name, M, N, K")
        try:
            numbers = [int(cell) for cell in row[1:]]
        except ValueError:
            raise ConfigError(f"{where}: got {row[1:]}, expected whole numbers") from None
        if min(numbers) < 1:
            raise ConfigError(f"{where}: got {min(numbers)}, expected sizes of at least 1")
        if len(row) == 4:
            M, N, K = numbers
            layers.append(RateLayer(row[0], "conv2d", (K, M, 1), N, rate))
        else:
            H, W, R, S, C, K, stride = numbers
            groups = C if "DP" in row[0] else 1  # the tool's mark
            conv = RateLayer(row[0], "conv2d", (C, H, W), groups * K, rate, (R, S), (stride, stride), groups=groups)
            layers.append(replace(conv, overhang=True))
    if not layers:
        raise ConfigError(f"{path}: holds no layer; expected a header line and a row per layer")
    return RateWorkload(tuple(layers), num_steps, source=str(path), silent=tuple(layer.name for layer in layers))
