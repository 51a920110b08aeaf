"""``spikeloom show``"""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.table import Table

from spikeloom.cli.console import out
from spikeloom.cli.options import refuse_idle
from spikeloom.components import TABLES, load_table
from spikeloom.data import DATASETS
from spikeloom.errors import ConfigError
from spikeloom.evaluate import ARCH_TYPES, PRESETS, load_machine
from spikeloom.files.config import machine_keys
from spikeloom.files.schema import file_key, nearest, toml_value
from spikeloom.nets import NETWORKS
from spikeloom.studies.experiment import EXPERIMENTS, experiment_title
from spikeloom.studies.search_file import SEARCHES, search_text, search_title

#: What can be shown.
Kind = Literal["hardware", "table", "network", "dataset", "experiment", "search"]


def show(
    context: typer.Context,
    kind: Annotated[Kind, typer.Argument(help="what to show")],
    name: Annotated[str | None, typer.Argument(help="one of them; without a name, the list")] = None,
    toml: Annotated[bool, typer.Option("--toml", help="print a machine or search file to start from")] = False,
) -> None:
    """Show machines, component tables, networks, data sets, experiments and searches."""
    files = name is not None and kind in ("hardware", "search")
    refuse_idle(context, not files, "but on one machine or one search", "toml")
    if kind == "search" and name in SEARCHES and toml:
        out.out(search_text(name), end="")
    elif kind == "hardware" and name is not None:
        _show_machine(name, toml)
    elif kind == "table" and name is not None:
        out.print(str(load_table(name)), markup=False, soft_wrap=True)
    else:
        _show_list(kind, name)


def _show_list(kind: Kind, name: str | None) -> None:
    """The names of a kind with the first line of what each is."""
    entries: dict[str, Any] = {}
    if kind == "hardware":
        for model, presets in PRESETS.items():
            entries |= {
                preset: f"{model} with {dict(changed) or 'its defaults'}" for preset, changed in presets.items()
            }
    elif kind == "table":
        entries = {table: load_table(table).title for table in TABLES}
    elif kind == "experiment":
        entries = {key: experiment_title(key) for key in EXPERIMENTS}
    elif kind == "search":
        entries = {key: search_title(key) for key in SEARCHES}
    else:
        registry: dict[str, Any] = dict(NETWORKS) if kind == "network" else dict(DATASETS)
        entries = {key: (entry.__doc__ or "").strip().splitlines()[0] for key, entry in registry.items()}
    if name is not None and name not in entries:
        raise ConfigError(f"no {kind} '{name}'{nearest(name, entries)}; known: {', '.join(entries)}")
    table = Table(title=kind)
    table.add_column("name", no_wrap=True)
    table.add_column("what it is")
    for key, text in entries.items():
        if name in (None, key):
            table.add_row(key, text)
    out.print(table)


def _show_machine(name: str, toml: bool) -> None:
    """Every field with default, unit, range and meaning, or a machine file."""
    _, arch = load_machine(name if name not in ARCH_TYPES else next(iter(PRESETS[name])))
    keys = machine_keys(arch)
    if toml:
        out.out(f'model = "{arch.model}"')
        for item in fields(arch):  # type: ignore[arg-type]
            out.out(f"{file_key(item)} = {toml_value(keys[file_key(item)])}  # {item.metadata['meaning']}")
        return
    table = Table(title=escape(f"{name}: fields of a machine file with model = '{arch.model}'"))
    for heading in ("field", "value", "unit", "range", "meaning"):
        table.add_column(heading, no_wrap=heading == "field")
    for item in fields(arch):  # type: ignore[arg-type]
        meta = item.metadata
        span = " | ".join(meta["choices"])
        if meta["low"] is not None:
            span = f"{meta['low']:g} .. {meta['high']:g}"
        table.add_row(file_key(item), escape(str(keys[file_key(item)])), meta["suffix"], span, meta["meaning"])
    out.print(table)
    presets = ", ".join(f"{preset} {dict(changed)}" for preset, changed in PRESETS[arch.model].items())
    out.print(f"presets: {presets}", markup=False, soft_wrap=True)
