"""Machines in a search: which of their fields may be chosen, and the Arch that a choice makes.

Nothing here knows a machine. A field brings its candidates along (``knob(..., search=...)``), two fields that share a budget
are a `spikeloom.core.arch.Joint`, and a field that may differ from layer to layer takes its layer behind a further dot.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from spikeloom.codesign.space import Choice, Params, Value, shapes, splits
from spikeloom.components import load_table
from spikeloom.core.arch import AbstractArch, Joint
from spikeloom.errors import ConfigError, CostError, MappingError, SearchError
from spikeloom.evaluate import ARCH_TYPES, PRESETS
from spikeloom.files.config import machine_from, machine_keys
from spikeloom.files.schema import file_key, nearest

#: What names of a machine's choices begin with.
PREFIX = "arch."


@dataclass(frozen=True)
class Family:
    """One machine of which a search changes some fields.

    base: what is not chosen stays as it is here.
    layers: names of the layers that run, for fields that differ from layer to layer.
    """

    base: AbstractArch
    layers: tuple[str, ...] = ()

    @property
    def keys(self) -> dict[str, Any]:
        """Fields by their key in a machine file, in the order of the machine."""
        return {file_key(item): item for item in fields(self.base)}  # type: ignore[arg-type]  # final Archs are dataclasses

    @property
    def per_layer(self) -> tuple[str, ...]:
        """Fields that may differ from layer to layer: what a mapping decides."""
        return tuple(key for key, item in self.keys.items() if item.metadata["per_layer"])

    def check(self, choice: Choice) -> None:
        """Raise SearchError unless every value of ``choice``, named ``arch.<field>``, is one the machine can have."""
        name = choice.name.removeprefix(PREFIX)
        key, _, layer = name.partition(".")
        if key in self.base.joints and not layer:
            for value in choice.values:
                _pair(choice.name, self.base.joints[key], value)
        elif key not in self.keys or (layer and key not in self.per_layer):
            known = [*self.base.joints, *self.keys]
            if key in self.keys:
                raise SearchError(f"choice '{choice.name}': {key} is the same in every layer; name it '{PREFIX}{key}'")
            raise SearchError(
                f"choice '{choice.name}': {self.base.model} has no field '{key}'{nearest(key, known)}; it has {', '.join(known)}"
            )
        elif layer and layer not in self.layers:
            raise SearchError(
                f"choice '{choice.name}': no layer '{layer}'{nearest(layer, self.layers)}; expected one of "
                f"{', '.join(self.layers) or 'none, as the layers are not known yet'}"
            )
        for value in choice.values:
            try:
                self._check_entry(self._keys_of(name, value))
                if key == "table":
                    load_table(str(value))
            except (ConfigError, CostError) as error:
                raise SearchError(f"choice '{choice.name}': {str(error).removeprefix('space: ')}") from None

    def _check_entry(self, entry: Mapping[str, Any]) -> None:
        """Raise ConfigError unless ``entry`` goes with the base or, as other fields may be chosen too, with the defaults or a preset."""
        model = {"model": self.base.model}
        starts = (machine_keys(self.base), model, *(model | {"preset": name} for name in PRESETS[self.base.model]))
        errors = []
        for start in starts:
            try:
                machine_from({**start, **entry}, ARCH_TYPES, PRESETS, "space")
            except ConfigError as error:
                errors.append(error)
            else:
                return
        raise errors[0]

    def at(self, params: Params) -> AbstractArch:
        """The machine of one point of the space; names that do not begin with ``arch.`` are passed over.

        Raises:
            MappingError: chosen values that do not go together.
        """
        raw = machine_keys(self.base)
        for name, value in params.items():
            if name.startswith(PREFIX):
                for key, entry in self._keys_of(name.removeprefix(PREFIX), value).items():
                    raw[key] = self._in_table(raw[key], entry) if isinstance(entry, Mapping) else entry
        try:
            return machine_from(raw, ARCH_TYPES, PRESETS, "this design")
        except ConfigError as error:
            raise MappingError(str(error)) from None

    def _keys_of(self, name: str, value: Value) -> dict[str, Any]:
        """File keys that a choice decides; of one layer as a table with that layer alone."""
        if name in self.base.joints:
            joint = self.base.joints[name]
            return dict(zip(joint.keys, _pair(PREFIX + name, joint, value), strict=True))
        key, _, layer = name.partition(".")
        return {key: {layer: value} if layer else value}

    def _in_table(self, before: Any, entry: Mapping[str, Any]) -> dict[str, Any]:
        """A per-layer table with the entries of ``entry``, those of ``before`` elsewhere."""
        return {**(before if isinstance(before, Mapping) else dict.fromkeys(self.layers, before)), **entry}

    def chosen_mapping(self, names: Iterable[str]) -> tuple[str, ...]:
        """Those of ``names`` that choose what a mapping decides: ``arch.window``, ``arch.merge.fc1``."""
        return tuple(
            name
            for name in names
            if name.startswith(PREFIX) and name.removeprefix(PREFIX).partition(".")[0] in self.per_layer
        )

    def candidates(self, name: str, total: float | None = None, parts: int | None = None) -> tuple[Value, ...]:
        """What the machine itself would try of ``arch.<field>`` or of a joint.

        total, parts: another budget of a joint.

        Raises:
            SearchError: a field without candidates.
        """
        key = name.removeprefix(PREFIX)
        if key in self.base.joints:
            return self._joint_values(self.base.joints[key], total, parts)
        item = self.keys.get(key.partition(".")[0])
        if item is None or not item.metadata["search"]:
            known = [*self.base.joints, *(k for k, x in self.keys.items() if x.metadata["search"])]
            raise SearchError(
                f"choice '{name}': {self.base.model} brings no candidates for it{nearest(key, known)}; list its values, or take "
                f"one of {', '.join(known)}"
            )
        return tuple(item.metadata["search"])

    def default_choices(self) -> tuple[Choice, ...]:
        """The machine's own space: every joint, and every field with candidates that no joint holds and no mapping decides."""
        joined = {key for joint in self.base.joints.values() for key in joint.keys}
        plain = [
            key
            for key, item in self.keys.items()
            if item.metadata["search"] and key not in joined and not item.metadata["per_layer"]
        ]
        return tuple(Choice(PREFIX + name, self.candidates(name)) for name in (*self.base.joints, *plain))

    def _joint_values(self, joint: Joint, total: float | None, parts: int | None) -> tuple[str, ...]:
        budget = joint.total if total is None else total
        first, second = (self.keys[key].metadata for key in joint.keys)
        if joint.sign == "x":
            if not (math.isfinite(budget) and budget >= 1 and budget == int(budget)):
                raise SearchError(f"a product of {budget:g}: expected a whole number of at least 1")
            reachable = budget <= first["high"] * second["high"]  # factors of anything larger need not be looked for
            pairs: Sequence[tuple[float, float]] = shapes(int(budget)) if reachable else ()
        else:
            pairs = splits(budget, joint.parts if parts is None else parts)
        kept = [
            f"{a:.12g}{joint.sign}{b:.12g}"
            for a, b in pairs
            if first["low"] <= a <= first["high"] and second["low"] <= b <= second["high"]
        ]
        if not kept:
            raise SearchError(
                f"a budget of {budget:g} for {joint.keys[0]} {joint.sign} {joint.keys[1]}: no pair lies in "
                f"{first['low']:g}..{first['high']:g} and {second['low']:g}..{second['high']:g}; choose another budget"
            )
        return tuple(kept)


def _pair(name: str, joint: Joint, value: Value) -> tuple[float, float]:
    """``"8x8"`` as (8, 8)."""
    halves = value.split(joint.sign) if isinstance(value, str) else ()
    try:
        a, b = (float(half) if "." in half or "e" in half else int(half) for half in halves)
    except ValueError:
        a_key, b_key = joint.keys
        raise SearchError(
            f'choice \'{name}\': got {value!r}, expected "{a_key}{joint.sign}{b_key}" such as "8{joint.sign}8"'
        ) from None
    return a, b
