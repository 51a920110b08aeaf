"""pydantic at the border: what it says, in our words, and building a dataclass of knobs from a file's keys."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, create_model

from spikeloom.errors import ConfigError, SpikeloomError
from spikeloom.units import from_si, to_si

T = TypeVar("T")
#: How pydantic names the types of a union in the place of an error.
_TYPE_TAG = re.compile(r"int|float|bool|str|(dict|list|tuple)\[.*\]")


def first_problem(error: ValidationError) -> tuple[str, str]:
    """(key, text) of the first complaint of pydantic, in our words."""

    def rank(problem: Any) -> tuple[bool, bool, int]:
        # a misspelt key before the key it left missing; where a number or a table may stand, what is wrong in the table
        no_table = problem["type"].endswith("_type") and isinstance(problem.get("input"), Mapping)
        return problem["type"] != "extra_forbidden", no_table, -len(problem["loc"]) if no_table else 0

    problem = min(error.errors(), key=rank)
    key = ""
    for part in problem["loc"]:
        if isinstance(part, str) and _TYPE_TAG.fullmatch(part):
            continue
        key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else str(part)
    if problem["type"] == "missing" and not isinstance(problem["loc"][-1], int):
        return key, "is missing; add it"
    got = repr(problem.get("input"))
    got = got if len(got) <= 80 else got[:77] + "..."
    text = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if problem["type"] == "missing":  # a further value of a tuple
        text = "one more value"
    elif problem["type"] in ("too_short", "too_long"):
        low, high = problem["ctx"].get("min_length"), problem["ctx"].get("max_length")
        number = high if low is None else low
        text = f"at {'most' if low is None else 'least'} {number} value{'s' * (number != 1)}"
    return key, f"got {got}, expected: {text}" if key or problem["type"] != "value_error" else text


def nearest(key: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` or nothing."""
    close = difflib.get_close_matches(key, list(known), n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def read_toml(path: str | Path) -> dict[str, Any]:
    """A TOML file as a dict. Raises ConfigError for a missing, unreadable or malformed file."""
    try:
        with open(path, "rb") as stream:
            return tomllib.load(stream)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; expected a .toml file") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: cannot be read, it is a folder; expected a .toml file") from None
    except (ValueError, RecursionError) as cause:  # TOMLDecodeError, but also numbers too long and tables too deep
        raise ConfigError(f"{path}: not TOML ({cause})") from cause
    except OSError as cause:
        raise ConfigError(f"{path}: cannot be read ({cause.strerror or cause})") from cause


def validated(adapter: TypeAdapter[T], raw: Mapping[str, Any], where: str, known: Iterable[str] = ()) -> T:
    """Check a mapping that came from TOML. Raises ConfigError naming file and key."""
    try:
        text = json.dumps(raw, default=str)
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, tables of thousands of levels
        raise ConfigError(f"{where}: cannot be checked ({error}); expected plain numbers and flat tables") from None
    try:
        return adapter.validate_json(text, strict=True)
    except ValidationError as error:
        key, problem_text = first_problem(error)
        if any(problem["type"] == "extra_forbidden" for problem in error.errors()):
            last = key.rsplit(".", 1)[-1]
            raise ConfigError(
                f"{where}: {key}: unknown key{nearest(last, known)}; known keys: {', '.join(known)}"
            ) from None
        raise ConfigError(f"{where}: {key}: {problem_text}" if key else f"{where}: {problem_text}") from None


def dataclass_from(cls: type[T], raw: Mapping[str, Any], where: str) -> T:
    """Build a plain dataclass from a mapping. Raises ConfigError naming the key, also for what its own checks refuse."""
    known = [item.name for item in fields(cls)]  # type: ignore[arg-type]
    for key in raw:
        if key not in known:
            raise ConfigError(f"{where}: {key}: unknown key{nearest(key, known)}; known keys: {', '.join(known)}")
    try:
        return validated(TypeAdapter(cls), raw, where, known)
    except SpikeloomError as error:
        raise ConfigError(str(error) if str(error).startswith(where) else f"{where}: {error}") from None


def file_key(item: Any) -> str:
    """The key of a knob in a file: its name with the unit suffix."""
    suffix = item.metadata.get("suffix", "")
    return item.name if not suffix or item.name.endswith("_" + suffix) else f"{item.name}_{suffix}"


@cache
def _knob_adapter(cls: type, tables: frozenset[str]) -> TypeAdapter[Any]:
    """Checks the file keys of a dataclass of knobs; ``tables`` are the per-layer keys that hold a table.

    Not a union of value and table for every per-layer knob: a wrong value would draw two complaints.
    """
    hints = get_type_hints(cls)
    schema: dict[str, Any] = {}
    for item in fields(cls):
        meta, key = item.metadata, file_key(item)
        kind: Any = type(item.default) if meta.get("per_layer") else hints[item.name]
        if meta.get("choices"):
            kind = Literal[meta["choices"]]
        elif kind in (int, float):
            kind = Annotated[kind, Field(ge=meta.get("low"), le=meta.get("high"), allow_inf_nan=False)]
        schema[key] = (dict[str, kind] if key in tables else kind, None)
    return TypeAdapter(create_model(cls.__name__, __config__=ConfigDict(extra="forbid", strict=True), **schema))


def knobs_from(cls: type[T], raw: Mapping[str, Any], where: str) -> T:
    """Build a dataclass of ``core.arch.knob`` fields from file keys with units. Raises ConfigError naming the key."""
    items = {file_key(item): item for item in fields(cls)}  # type: ignore[arg-type]
    tables = frozenset(
        key
        for key, value in raw.items()
        if isinstance(value, Mapping) and key in items and items[key].metadata.get("per_layer")
    )
    found = validated(_knob_adapter(cls, tables), raw, where, items)  # type: ignore[arg-type]  # a type is hashable
    values: dict[str, Any] = {}
    for key in raw:
        value, suffix = getattr(found, key), items[key].metadata.get("suffix", "")
        values[items[key].name] = to_si(value, suffix) if suffix and suffix != "bit" else value
    try:
        return cls(**values)
    except SpikeloomError as error:
        raise ConfigError(f"{where}: {error}") from None


def knobs_to(arch: Any) -> dict[str, Any]:
    """The fields of a dataclass of knobs as file keys with units, plain JSON values."""
    values: dict[str, Any] = {}
    for item in fields(arch):
        value, suffix = getattr(arch, item.name), item.metadata.get("suffix", "")
        if suffix and suffix != "bit":
            value = from_si(value, suffix)
        values[file_key(item)] = dict(value) if isinstance(value, Mapping) else value
    return values


def toml_value(value: Any) -> str:
    """A JSON value as TOML writes it."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{toml_value(key)} = {toml_value(item)}" for key, item in value.items()) + " }"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return f"{value:.1f}"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # TOML has no surrogate pairs
