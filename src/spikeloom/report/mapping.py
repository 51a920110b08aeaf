"""Tables of a mapping: what the given one and the one found spend, and how each layer is split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table

from spikeloom.core.figures import MappedLayer
from spikeloom.core.report import Report
from spikeloom.report.tables import plain_table
from spikeloom.units import format_si

#: Splits that a machine makes on its own; what each would cost in messages is shown beside the chosen one.
COMPARED = ("neurons", "channels", "rows")


def mapping_table(
    given: Report, mapped: Report, used: tuple[tuple[int, int], tuple[int, int]], *, fits: bool, objective: str
) -> Table:
    """The given mapping beside the one found: cost, energy by part, messages, cores and tiles. Fits 80 columns.

    used: cores and tiles of both. fits: whether the given mapping keeps the limits of its cores.
    """
    table = plain_table("Mapping, per inference", "")
    table.add_column("", no_wrap=True)
    for heading in ("given" if fits else "given (does not fit)", "mapped", "change"):
        table.add_column(heading, justify="right", no_wrap=True)
    costs = (
        ("energy", "J", given.energy_per_inference_j, mapped.energy_per_inference_j),
        ("latency", "s", given.latency_per_inference_s, mapped.latency_per_inference_s),
        ("edp", "Js", given.edp_js, mapped.edp_js),
    )
    for name, unit, before, after in costs:
        shown = f"{name if name != 'edp' else 'EDP'}{' *' if name == objective else ''}"
        table.add_row(shown, format_si(before, unit, 4), format_si(after, unit, 4), _change(before, after))
    table.add_section()
    parts = (_energies(given), _energies(mapped))
    for name in dict.fromkeys((*parts[0], *parts[1])):
        before, after = (each.get(name, 0.0) for each in parts)
        table.add_row(f"{name} energy", format_si(before, "J", 4), format_si(after, "J", 4), _change(before, after))
    table.add_section()
    counts = (
        ("messages", ("axon.out",)),
        ("hops E-W", ("router.hop_x",)),
        ("hops N-S", ("router.hop_y",)),
        ("crossings between chips", ("link.message",)),
    )
    for name, keys in counts:
        before, after = (_count(report, keys) for report in (given, mapped))
        if before or after or name == "messages":
            table.add_row(name, f"{before:,.4g}", f"{after:,.4g}", _change(before, after))
    for name, before, after in zip(("cores", "tiles"), *used, strict=True):
        table.add_row(name, str(before), str(after), _change(before, after))
    table.caption = "* what was to be least"
    return table


def layer_table(layers: Sequence[MappedLayer]) -> Table:
    """One row per layer: neurons, cores, split, the messages that lead to it, and those of other splits on as many cores. Fits 80 columns."""
    title = "Messages to each layer, all samples, as it is split"
    caption = "- cannot be split so over as many cores, or hears nobody"
    table = plain_table(title, "layer", "size", "cores", caption=caption, least=8)
    table.add_column("split", no_wrap=True)
    for heading in ("messages", "by neurons", *COMPARED[1:]):
        table.add_column(heading, justify="right", no_wrap=True)
    for layer in layers:
        others = (layer.by.get(name) for name in COMPARED)
        table.add_row(
            layer.name, f"{layer.neurons:,}", str(layer.cores), layer.split, *map(_number, (layer.messages, *others))
        )
    return table


def _energies(report: Report) -> dict[str, float]:
    """Joules per inference of network (messages, hops, links), soma, synapse and what leaks; what is zero is left out."""
    grouped = {"network": 0.0, "soma": 0.0, "synapse": 0.0}
    for action, joules in report.by("action").items():
        instance, _, what = action.partition(".")
        name = "network" if instance in ("axon", "router", "link") else instance.partition("_")[0]
        name = f"{name} leakage" if what == "leakage" else name
        grouped[name] = grouped.get(name, 0.0) + joules / report.num_samples
    return {name: joules for name, joules in grouped.items() if joules}


def _count(report: Report, keys: Sequence[str]) -> float:
    """Per inference."""
    return sum(layer.counts.get(key, 0) for layer in report.layers for key in keys) / report.num_samples


def _number(count: int | None) -> str:
    return "-" if count is None else f"{count:,}"


def _change(before: float, after: float) -> str:
    if before == after:
        return ""
    return f"{100 * (after / before - 1):+.1f} %" if before else "new"


#: Model -> (verb that looks for a better mapping than that of a machine's fields, the fields that a found one stands in).
_SEARCHED = {"spikex": ("search", ("window", "dispatch", "order", "merge")), "loihi": ("map", ("placement",))}


def mapping_note(report: Report) -> tuple[str, ...]:
    """That the mapping is the one of the machine's fields, where a verb would look for a better one and none was found yet."""
    verb, keys = _SEARCHED.get(report.model, ("", ()))
    found = report.arch.get("placement") or any(isinstance(report.arch.get(key), Mapping) for key in keys)
    if not verb or found:
        return ()
    what = "cores and places" if verb == "map" else f"{', '.join(keys[:-1])} and {keys[-1]} of each layer"
    return (f"mapped as the machine's fields say; `{verb}` looks for the best {what}",)
