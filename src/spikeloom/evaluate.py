"""The whole flow on one page: a workload and a machine in, a report out."""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from spikeloom.components import load_table
from spikeloom.core.arch import AbstractArch, Mapping
from spikeloom.core.report import Report
from spikeloom.core.widths import check_asked, with_weight_bits
from spikeloom.core.workload import Workload
from spikeloom.cost import price
from spikeloom.errors import ConfigError, FileError, NetworkError
from spikeloom.files.config import machine_from, machine_keys, read_topology, read_workload
from spikeloom.files.placement import read_placement
from spikeloom.files.schema import nearest, read_toml
from spikeloom.files.store import read_trace
from spikeloom.hw import HARDWARE
from spikeloom.hw.base import CountCache
from spikeloom.lower import draw, lower

ARCH_TYPES: dict[str, type[AbstractArch]] = {name: machine.arch_type for name, machine in HARDWARE.items()}
PRESETS = {name: machine.presets for name, machine in HARDWARE.items()}
#: Preset name -> model, for machines named on a command line.
PRESET_MODELS = {preset: model for model, presets in PRESETS.items() for preset in presets}


def load_workload(
    path: str | Path, *, rate: float | None = None, num_steps: int | None = None, weight_bits: int | None = None
) -> Workload:
    """Read a trace (.npz), a workload of firing rates (.toml) or a SCALE-Sim topology (.csv).

    rate, num_steps: what a topology lacks. A workload without a trace is drawn and says so in its warnings.
    weight_bits: charged for weights that are floats, or of which the file does not say how wide they are.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".npz":
        network, trace = read_trace(path)
        return lower(with_weight_bits(network, weight_bits, str(path)), trace)
    if suffix == ".toml":
        rates = read_workload(path)
    elif suffix == ".csv":
        if rate is None or num_steps is None:
            raise ConfigError(f"{path}: a topology has no firing rate and no time steps; give --rate and --steps")
        if not 0 <= rate <= 1 or num_steps < 1:
            raise ConfigError(f"--rate {rate} --steps {num_steps}: expected a rate of 0..1 and at least one step")
        rates = read_topology(path, rate=rate, num_steps=num_steps)
    else:
        raise FileError(f"{path}: cannot tell what this is; expected a trace .npz, a workload .toml or a topology .csv")
    if weight_bits is not None:
        check_asked(weight_bits, rates.silent, str(path))
        layers = (replace(x, weight_bits=weight_bits) if x.name in rates.silent else x for x in rates.layers)
        rates = replace(rates, layers=tuple(layers), asked=weight_bits)
    try:
        return draw(rates)
    except NetworkError as error:
        raise ConfigError(f"{path}: {error}") from None
    except (MemoryError, ValueError) as error:
        if isinstance(error, FileError):
            raise
        raise ConfigError(
            f"{path}: too large to draw spikes for ({error}); take fewer steps, samples or layers"
        ) from None


def load_machine(spec: str) -> tuple[str, AbstractArch]:
    """(label, machine) from a preset name or a machine file, with changed fields behind a colon.

    ``ptb``, ``my.toml``, ``spikex:window=8,order=interleave``. Raises ConfigError naming the key.
    """
    name, _, changes = (spec, "", "") if os.path.exists(spec) else spec.partition(":")
    keys: dict[str, Any] = {}
    for change in filter(None, _split_outside_brackets(changes)):
        key, equals, value = change.partition("=")
        if not equals:
            raise ConfigError(f"{spec}: got '{change}' behind the colon, expected field=value")
        keys[key.strip()] = _toml_value(value.strip())
    if name in PRESET_MODELS:
        raw: dict[str, Any] = {"model": PRESET_MODELS[name], "preset": name}
    elif name.endswith(".toml") or os.path.exists(name):  # unlike Path.exists, no error for names that cannot be
        raw = read_toml(name)
        for key in ("table", "placement"):  # files that are named in a machine file are found beside it
            if isinstance(raw.get(key), str) and raw[key].endswith(".toml"):
                raw[key] = str(Path(name).parent / raw[key])
    else:
        known = ", ".join(PRESET_MODELS)
        raise ConfigError(
            f"{name}: no such machine{nearest(name, PRESET_MODELS)}; expected a preset ({known}) or a .toml file"
        )
    return spec, machine_from({**raw, **keys}, ARCH_TYPES, PRESETS, spec)


def machine_files(spec: str, arch: AbstractArch) -> tuple[str, ...]:
    """Files that the machine of a spec is read from: its own, its placement and its tables."""
    own = spec if os.path.exists(spec) else spec.partition(":")[0]
    named = [getattr(arch, key, "") for key in ("placement", "table")]
    return tuple(path for path in (own, *named) if isinstance(path, str) and os.path.isfile(path))


def _split_outside_brackets(text: str) -> list[str]:
    """``a=1,b={c=2,d=3}`` -> ``a=1`` and ``b={c=2,d=3}``."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "{[") - (character in "}]")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def check_width(weight_bits: int | None, machines: Iterable[AbstractArch]) -> None:
    """Raises ConfigError where a width is asked for and none of the machines charges one."""
    if weight_bits is not None and not any(HARDWARE[arch.model].charges_width(arch) for arch in machines):
        raise ConfigError(
            f"--weight-bits {weight_bits}: no machine named charges what a trace says of widths; leave it out"
        )


def decide(workload: Workload, arch: AbstractArch) -> Mapping:
    """The machine's own mapping, or the placement of neurons on cores that its file names, where it names one.

    Raises:
        MappingError: the machine cannot run a layer.
        ConfigError: the placement file does not follow its format.
    """
    if path := getattr(arch, "placement", ""):  # a machine's own mapping may break limits that the file's keeps
        return Mapping(arch.model, placement=read_placement(path))
    return HARDWARE[arch.model].map(workload, arch)


def _narrow_membranes(run: Workload, arch: AbstractArch) -> tuple[str, ...]:
    """What to say where the network's integer membranes are wider than the machine's."""
    width = getattr(arch, "membrane_bit", math.inf)
    wide = {x.name: x.neuron.membrane_bits for x in run.layers if (x.neuron.membrane_bits or 0) > width}
    if not wide:
        return ()
    bits = "/".join(str(n) for n in sorted({n for n in wide.values() if n}))
    return (f"membranes of {', '.join(wide)} have {bits} bits in the network and membrane_bit = {width} here",)


def evaluate(
    workload: Workload,
    arch: AbstractArch,
    *,
    label: str = "",
    mapping: Mapping | None = None,
    threads: int | None = None,
    cache: CountCache | None = None,
    real_time: bool = False,
) -> Report:
    """Map, count and price a workload on a machine.

    Args:
        workload: from ``load_workload`` or ``lower``.
        arch: from ``load_machine`` or an Arch dataclass.
        label: what tables call this machine.
        mapping: decisions made elsewhere; by default `decide`.
        threads: samples in parallel; by default all cores.
        cache: what counting may take over from earlier counts of the same spikes, e.g. a dict; the report is the same.
        real_time: also bill samples that last T dt_s at least (``Report.real_time``); needs a workload with a dt_s.

    Raises:
        MappingError: the machine cannot run a layer.
        CostError: a counted action has no sourced price.
        ConfigError: real time without a dt_s.
    """
    if real_time and workload.dt_s is None:
        raise ConfigError(
            "real time needs the length of a step (dt_s), and these spikes have none; leave --real-time out"
        )
    machine = HARDWARE[arch.model]
    run = machine.runs(workload, arch)
    counts = machine.count(workload, arch, mapping or decide(workload, arch), threads=threads, cache=cache)
    report = price(
        replace(counts, warnings=(*counts.warnings, *_narrow_membranes(run, arch))),
        machine.sized(workload, arch),
        load_table(arch.table),
        num_samples=workload.num_samples,
        arch_fields=machine_keys(arch),
        layer_synops=run.synops,
        utilisation={layer.name: machine.utilisation(counts, arch, layer.name) for layer in run.layers},
        workload_id=workload.id,
        label=label,
        sample_s=None if workload.dt_s is None else workload.num_steps * workload.dt_s,
        real_time=real_time,
    )
    width = workload.width
    if width is None or not machine.charges_width(arch):
        return report
    told = {"charged": list(width.charged), "assumed": width.assumed}
    return replace(report, warnings=(width.note, *report.warnings), weight_bits=told)
