"""Reading component tables: TOML to `Table`, every key checked."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from importlib import resources
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError

from spikeloom.components.table import NOT_ACTIONS, Entry, Point, Rule, Table
from spikeloom.errors import ConfigError
from spikeloom.files.schema import nearest, read_toml
from spikeloom.units import SUFFIXES, suffix_of, to_si

#: Shipped tables: the first two complete for adder, multiplier, comparator, register, sram and dram, the others for one machine each.
TABLES = (
    "cacti32",
    "cacti32-hp",
    "loihi-davies2018",
    "loihi-sanafe",
    "ncs",
    "ncs2",
    "sata-training",
    "sata28",
    "spikesim65",
    "systolic28",
)
#: Shipped sets of entries that tables include.
PARTS = ("aladdin32", "prosperity-dram", "horowitz45", "loihi-common")

_Number = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
_Text = Annotated[str, Field(min_length=1)]
_Unstated = Literal["not stated"]
_UNITS = {"area": "m2", "leakage": "W"}


class _Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _ExcludedSchema(_Schema):
    area: _Text | None = None
    leakage: _Text | None = None


class _EntrySchema(_Schema):
    kind: _Text
    source: _Text
    node_nm: _Number | None = None
    node: _Unstated | None = None
    voltage_v: _Number | None = None
    voltage: _Unstated | None = None
    voltage_source: _Text
    rule: Rule
    width_bit: tuple[StrictInt, StrictInt]
    size_kib: tuple[_Number, _Number] | None = None
    points: tuple[dict[str, Any], ...] = Field(min_length=1)
    excluded: _ExcludedSchema = _ExcludedSchema()
    notes: tuple[str, ...] = ()


class _TableSchema(_Schema):
    title: _Text
    notes: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    entry: tuple[_EntrySchema, ...] = ()


def load_table(name_or_path: str | Path) -> Table:
    """Load a shipped table or part by name, or your own TOML file by path.

    Args:
        name_or_path: one of `TABLES` or `PARTS`, or a path (anything that ends in ``.toml`` or names a file).

    Raises:
        ConfigError: no such table, unreadable file, unknown or missing key, a value or a range that makes no sense;
            names the file, the key and the nearest known key.
    """
    name = str(name_or_path)
    if name in (*TABLES, *PARTS):
        return _shipped(name)
    path = Path(name_or_path)
    if path.suffix != ".toml" and not path.is_file():
        raise ConfigError(
            f"no component table '{name}'{nearest(name, (*TABLES, *PARTS))}; shipped are {', '.join(TABLES)} "
            f"(parts: {', '.join(PARTS)}); give one of these or the path of a .toml file"
        )
    return _parse(read_toml(path), known_actions(), name=path.stem, file=str(path))


@cache
def known_actions() -> Mapping[str, tuple[str, ...]]:
    """What the shipped tables price besides area and leakage, by kind: no machine asks more of these kinds."""
    found: dict[str, dict[str, None]] = {}
    for entry in (entry for name in (*TABLES, *PARTS) for entry in _shipped(name).entries):
        found.setdefault(entry.kind, {}).update(dict.fromkeys(what for what in entry.priced if what not in NOT_ACTIONS))
    return {kind: tuple(actions) for kind, actions in found.items()}


@cache
def _shipped(name: str) -> Table:
    file = resources.files("spikeloom.components") / "tables" / f"{name}.toml"
    return _parse(tomllib.loads(file.read_text(encoding="utf-8")), {}, name=name, file=f"{name}.toml")


def _parse(raw: dict[str, Any], known: Mapping[str, tuple[str, ...]], *, name: str, file: str) -> Table:
    """known: the actions that an entry of a kind may price; any of a kind that is not there."""
    try:
        schema = _TableSchema.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(_first_error(error, file)) from None
    entries: tuple[Entry, ...] = ()
    notes: tuple[str, ...] = ()
    for i, included in enumerate(schema.include):
        if included not in (*TABLES, *PARTS):
            raise ConfigError(
                f"{file}: key 'include[{i}]' is '{included}'{nearest(included, (*TABLES, *PARTS))}, expected one of "
                f"{', '.join((*TABLES, *PARTS))}"
            )
        entries += _shipped(included).entries
        notes += _shipped(included).notes
    entries += tuple(_entry(each, f"{file}: entry[{i}]") for i, each in enumerate(schema.entry))
    _check_settled(entries, file)
    for i, each in enumerate(schema.entry):
        if each.kind in known:
            _check_actions(each, known[each.kind], f"{file}: entry[{i}]")
    return Table(name, schema.title, entries, tuple(dict.fromkeys(notes + schema.notes)))


def _entry(schema: _EntrySchema, where: str) -> Entry:
    for quantity, known, unstated in (
        ("node_nm", schema.node_nm, schema.node),
        ("voltage_v", schema.voltage_v, schema.voltage),
    ):
        if (known is None) == (unstated is None):
            word = quantity.split("_")[0]
            got = "neither" if known is None else "both"
            raise ConfigError(f"{where} has {got} of '{quantity}' and '{word} = \"not stated\"'; give exactly one")
    sizes = schema.size_kib
    if (sizes is not None) != schema.rule.sized:
        need = "needs the key 'size_kib'" if schema.rule.sized else "must not have the key 'size_kib'"
        raise ConfigError(f"{where}: the rule '{schema.rule}' {need}")
    entry = Entry(
        kind=schema.kind,
        source=schema.source,
        node=None if schema.node_nm is None else to_si(schema.node_nm, "nm"),
        voltage=schema.voltage_v,
        voltage_source=schema.voltage_source,
        rule=schema.rule,
        widths=schema.width_bit,
        sizes=None if sizes is None else (to_si(sizes[0], "kib"), to_si(sizes[1], "kib")),
        points=tuple(_point(each, schema.rule.sized, f"{where}.points[{i}]") for i, each in enumerate(schema.points)),
        excluded=schema.excluded.model_dump(exclude_none=True),
        notes=schema.notes,
    )
    _check_points(entry, where)
    return entry


def _check_actions(schema: _EntrySchema, known: tuple[str, ...], where: str) -> None:
    for key in schema.points[0]:  # all points have the same
        stem, _, suffix = key.rpartition("_")
        if key not in ("width_bit", "size_kib") and stem not in (*known, *NOT_ACTIONS):
            near = _closest(key, [f"{action}_{suffix}" for action in known] + ["area_um2", "leakage_mw"])
            said = f"actions of {schema.kind}: {', '.join(known) or 'none'}"
            raise ConfigError(f"{where}: unknown key '{key}'; the nearest known key is '{near}' ({said})")


def _point(raw: dict[str, Any], sized: bool, where: str) -> Point:
    coordinates = ("width_bit", "size_kib") if sized else ("width_bit",)
    for key in coordinates:
        if key not in raw:
            raise ConfigError(f"{where} lacks the key '{key}'")
    values: dict[str, float] = {}
    for key, value in raw.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or value <= 0:
            raise ConfigError(
                f"{where}: key '{key}' is {value!r}, expected a positive number; a quantity without a price is listed under [entry.excluded]"
            )
        if key not in coordinates:
            stem, suffix = _stem_and_suffix(key, sized, where)
            if stem in values:
                raise ConfigError(f"{where}: key '{key}' prices {stem} a second time; keep one")
            values[stem] = to_si(value, suffix)
    if not isinstance(raw["width_bit"], int):
        raise ConfigError(f"{where}: key 'width_bit' is {raw['width_bit']!r}, expected an integer")
    if not values:
        raise ConfigError(f"{where} prices nothing; add keys such as 'read_pj', 'area_um2' or 'leakage_uw'")
    return Point(raw["width_bit"], to_si(raw["size_kib"], "kib") if sized else 0, values)


def _stem_and_suffix(key: str, sized: bool, where: str) -> tuple[str, str]:
    """``read_pj`` -> ``read``, ``pj``, checked: an action in joules, an area in square metres or a leakage in watts."""
    suffix = suffix_of(key)
    stem = key[: -len(suffix) - 1] if suffix else ""
    unit = _UNITS.get(stem, "J")
    if suffix is None or not stem or SUFFIXES[suffix][1] != unit:
        head = stem or key.rpartition("_")[0] or key
        unit = _UNITS.get(head, "J")
        endings = [name for name, (_, si) in SUFFIXES.items() if si == unit]
        known = [f"{head}_{ending}" for ending in endings] + ["width_bit", *(["size_kib"] if sized else [])]
        raise ConfigError(
            f"{where}: unknown key '{key}'; the nearest known key is '{_closest(key, known)}' (actions end in a unit of "
            f"energy, area and leakage in theirs: '{head}_' takes {', '.join(endings)})"
        )
    return stem, suffix


def _check_points(entry: Entry, where: str) -> None:
    """Refuse ranges wider than the points, repeated points and points with different keys."""
    keys = set(entry.priced)
    for i, point in enumerate(entry.points):
        if odd := keys ^ set(point.values):
            raise ConfigError(f"{where}.points[{i}] and points[0] do not price the same: {', '.join(sorted(odd))}")
    if both := keys & set(entry.excluded):
        raise ConfigError(f"{where} both prices and excludes {', '.join(sorted(both))}; keep one")
    places = [(point.width_bit, point.size_bit) for point in entry.points]
    if len(set(places)) < len(places):
        raise ConfigError(f"{where} has two points at the same place; keep one")
    if entry.widths[0] > entry.widths[1] or entry.widths[0] < 1:
        raise ConfigError(f"{where}: key 'width_bit' is {list(entry.widths)}, expected [lowest, highest] from 1")
    if entry.sizes and entry.sizes[0] > entry.sizes[1]:
        raise ConfigError(f"{where}: key 'size_kib' is out of order, expected [smallest, largest]")
    widths = sorted({point.width_bit for point in entry.points})
    if entry.rule is Rule.PROPORTIONAL:
        if len(entry.points) != 1:
            raise ConfigError(f"{where}: the rule '{entry.rule}' takes one point, got {len(entry.points)}")
        return
    if entry.widths[0] < widths[0] or entry.widths[1] > widths[-1]:
        raise ConfigError(
            f"{where}: key 'width_bit' claims {list(entry.widths)}, the points cover [{widths[0]}, {widths[-1]}]; "
            "nothing is extrapolated"
        )
    for width in widths if entry.sizes else ():
        sizes = [size for each, size in places if each == width]
        assert entry.sizes is not None
        if entry.sizes[0] < min(sizes) or entry.sizes[1] > max(sizes):
            raise ConfigError(
                f"{where}: key 'size_kib' claims more than the points at width_bit = {width} cover; "
                "nothing is extrapolated"
            )


def _check_settled(entries: tuple[Entry, ...], file: str) -> None:
    """Each action, area and leakage of a kind by exactly one entry; area and leakage of every kind by some entry."""
    settled: set[tuple[str, str]] = set()
    for entry in entries:
        for what in (*entry.priced, *entry.excluded):
            if (entry.kind, what) in settled:
                raise ConfigError(f"{file}: the {what} of {entry.kind} is settled by two entries; keep one source")
            settled.add((entry.kind, what))
    for kind in dict.fromkeys(entry.kind for entry in entries):
        for what in NOT_ACTIONS:
            if (kind, what) not in settled:
                raise ConfigError(
                    f"{file}: nothing is said about the {what} of {kind}; give it in the points or say under "
                    "[entry.excluded] why it is not priced"
                )


def _first_error(error: ValidationError, file: str) -> str:
    errors = error.errors()
    first = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])  # a typo before its absence
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
    if first["type"] == "extra_forbidden":
        model: type[_Schema] = _TableSchema
        if "entry" in first["loc"][:1]:
            model = _ExcludedSchema if "excluded" in first["loc"] else _EntrySchema
        close = _closest(str(first["loc"][-1]), list(model.model_fields))
        return f"{file}: unknown key '{key}'; the nearest known key is '{close}'"
    if first["type"] == "missing":
        return f"{file}: the key '{key}' is missing"
    return f"{file}: key '{key}' is {first['input']!r}: {first['msg']}"


def _closest(word: str, known: list[str]) -> str:
    return get_close_matches(word, known, n=1, cutoff=0.0)[0]
