"""Placement files (TOML): which core of a many-core machine holds which neurons.

A list of ``[[place]]``, each with ``layer``, ``tile`` and ``core`` and either ``neurons`` with ``order``, or ``channels`` and ``rows``, of which one
or both may be left out for all. Whether every neuron has one core is known where the layer's map is (`Placement.owners`); what the
file alone contradicts is refused here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from spikeloom.core.placement import Place, Placement
from spikeloom.errors import ConfigError, MappingError
from spikeloom.files.atomic import write_text
from spikeloom.files.schema import read_toml, toml_value, validated

_MOST_CELLS = 2**24  # of a map that is laid out to find gaps
_Number = Annotated[int, Field(ge=0, le=2**24)]
_Pair = tuple[_Number, _Number]


class _PlaceFile(BaseModel):
    model_config = ConfigDict(extra="forbid")
    layer: Annotated[str, Field(min_length=1)]
    tile: _Number
    core: _Number
    neurons: _Pair | None = None
    order: Literal["chw", "hwc"] | None = None
    channels: _Pair | None = None
    rows: _Pair | None = None


class _PlacementFile(BaseModel):
    model_config = ConfigDict(extra="forbid")
    place: Annotated[tuple[_PlaceFile, ...], Field(min_length=1)]


def read_placement(path: str | Path) -> Placement:
    """Read a placement file.

    Raises:
        ConfigError: names file, place and key; or two places that overlap, or leave a gap, whatever the map they belong to.
    """
    known = [*_PlacementFile.model_fields, *_PlaceFile.model_fields]
    found = validated(TypeAdapter(_PlacementFile), read_toml(path), str(path), known)
    places = []
    for n, entry in enumerate(found.place):
        if entry.order is not None and entry.neurons is None:
            raise ConfigError(f"{path}: place[{n}].order: goes with neurons only; give neurons, or leave it out")
        try:
            place = Place(entry.layer, entry.tile, entry.core, entry.neurons, entry.channels, entry.rows)
            places.append(replace(place, order=entry.order or "chw"))
        except MappingError as error:
            raise ConfigError(f"{path}: place[{n}]: {error}") from None
    placement = Placement(tuple(places), str(path))
    for layer in placement.layers:
        _check_layer(path, placement.of(layer))
    return placement


def write_placement(path: str | Path, placement: Placement) -> None:
    """Write a placement so that it reads back to the same. Raises FileError."""
    blocks = []
    for place in placement.places:
        entry = {"layer": place.layer, "tile": place.tile, "core": place.core}
        entry |= {
            key: list(pair) for key in ("neurons", "channels", "rows") if (pair := getattr(place, key)) is not None
        }
        if place.neurons is not None and place.order != "chw":
            entry["order"] = place.order
        blocks.append("[[place]]\n" + "".join(f"{key} = {toml_value(value)}\n" for key, value in entry.items()))
    write_text(path, "\n".join(blocks))


def _check_layer(path: str | Path, places: Sequence[Place]) -> None:
    """Refuse places of a layer that overlap or leave a gap on the smallest map that holds them; ways of writing that are mixed wait for it."""
    runs = [place for place in places if place.neurons is not None]
    if runs and (len(runs) < len(places) or len({place.order for place in runs}) > 1):
        return
    ends = [[(getattr(place, key) or (0, 1))[1] for place in places] for key in ("neurons", "channels", "rows")]
    shape = (max(ends[0]), 1, 1) if runs else (max(ends[1]), max(ends[2]), 1)
    if shape[0] * shape[1] > _MOST_CELLS:
        return
    try:
        Placement(tuple(places)).owners(places[0].layer, shape, max(place.core for place in places) + 1)
    except MappingError as error:
        name = places[0].layer
        if "have no core" in str(error):
            raise ConfigError(
                f"{path}: layer '{name}': its places leave a gap; some neurons have no core, place every neuron once"
            ) from None
        raise ConfigError(f"{path}: {error}") from None
