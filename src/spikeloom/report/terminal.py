"""Rich tables that compare machines, and the sentence that says what they show."""

from __future__ import annotations

from collections.abc import Sequence
from math import isclose
from typing import Literal

from rich.table import Table
from rich.text import Text

from spikeloom.core.purposes import PURPOSES, WHOLE
from spikeloom.core.report import Report
from spikeloom.report.tables import plain_table
from spikeloom.units import format_si, from_si

#: Utilisation names -> heading of the comparison; a machine's other ratios are in its JSON report.
_USES = {"column_sharing": "sharing", "spike_slot_use": "slots", "pe_use": "PEs"}


def comparison_table(reports: Sequence[Report]) -> Table:
    """One row per machine: latency, energy and EDP of one inference, area, utilisation.

    Utilisation is the mean over layers weighted by their cycles. The synaptic operations, which no machine changes,
    are the caption. An empty line parts what is not ranked together (`groups`). Where real time was asked for, time and energy of
    that bill stand in the place of utilisation: a dash where nothing leaks. The table fits 80 columns.
    """
    _some(reports)
    present = {name for report in reports for layer in report.layers for name in layer.utilisation}
    waiting = any(report.real_time for report in reports)
    uses = [name for name in _USES if name in present and not waiting]
    headings = ["latency", "energy", "EDP", "area", *(_USES[name] for name in uses)]
    headings += ["real time", "energy in it"] * waiting
    title = "Machines on the same spikes, per inference"
    table = plain_table(title, "machine", *headings, caption=_synops(reports))
    names, parts = labels(reports), groups(reports)
    ends = {part[-1] for part in parts[:-1]}
    for i in (i for part in parts for i in part):
        report = reports[i]
        area = report.area_m2
        table.add_row(
            Text(names[i]),
            format_si(report.latency_per_inference_s, "s"),
            format_si(report.energy_per_inference_j, "J"),
            format_si(report.edp_js, "Js"),
            "not priced" if area is None else f"{from_si(area, 'mm2'):.3g} mm2",
            *(_brief_percent(_mean_use(report, name)) for name in uses),
            *(_real_time(report) if waiting else ()),
            end_section=i in ends,
        )
    return table


def _real_time(report: Report) -> tuple[str, str]:
    """Time and energy of an inference in real time."""
    if report.real_time is None:
        return "-", "-"
    time, energy = report.real_time.latency_s, report.real_time.energy_j
    return format_si(time / report.num_samples, "s"), format_si(energy / report.num_samples, "J")


def breakdown_table(reports: Sequence[Report], by: Literal["layer", "component", "action"] = "component") -> Table:
    """Joules per inference and percent of each machine's total, one row per layer, component or action.

    Layers keep their order of execution; components and actions are sorted by the most any machine spends on them.
    A dash means that the machine has no such row, which is not the same as spending nothing on it. Rows on which no
    machine spends anything are left out.
    """
    _some(reports)
    spent = [{name: joules / r.num_samples for name, joules in r.by(by).items()} for r in reports]
    names = [name for name in dict.fromkeys(n for each in spent for n in each) if any(each.get(name) for each in spent)]
    if by != "layer":
        names.sort(key=lambda name: -max(each.get(name, 0.0) for each in spent))
    table = plain_table(f"Energy per inference by {by}", "")
    table.show_footer = True
    table.add_column(by, "total", no_wrap=True)
    for label, report in zip(labels(reports), reports, strict=True):
        table.add_column(Text(label), format_si(report.energy_per_inference_j, "J"), justify="right")
        table.add_column("%", _percent(1.0 if report.energy_j else None), justify="right")
    for name in names:
        cells: list[str] = []
        for report, each in zip(reports, spent, strict=True):
            if name in each:
                cells += [format_si(each[name], "J"), _percent(_share(each[name], report.energy_per_inference_j))]
            else:
                cells += ["-", "-"]
        table.add_row(Text(name), *cells)
    return table


def summary_sentence(reports: Sequence[Report]) -> str:
    """What the comparison shows, a line for each group: the lowest EDP, by what factor against each other machine, where its
    energy goes. A line for each of the `caveats` follows."""
    _some(reports)
    names = labels(reports)
    ranked = [_ranked([(names[i], reports[i]) for i in part]) for part in groups(reports)]
    return "\n".join([*ranked, *(f"caution: {caveat}." for caveat in caveats(reports))])


def groups(reports: Sequence[Report]) -> tuple[tuple[int, ...], ...]:
    """Positions of reports that may be ranked with one another, in order of appearance.

    They are of one workload, all counted or all what another tool prints, and their bills hold the same kinds of cost.
    """
    found: dict[object, list[int]] = {}
    for i, report in enumerate(reports):
        found.setdefault((report.workload_id, *kind(report)), []).append(i)
    return tuple(map(tuple, found.values()))


def kind(report: Report) -> tuple[str, ...]:
    """What two bills must have in common to be ranked: who counted (``trace`` or ``tool``), the kinds of cost inside, leaking memory."""
    memories = {name.split("_")[0] for name, of in PURPOSES.get(report.model, {}).items() if of == "on-chip memory"}
    leaking = {key.removesuffix(".leakage").split("_")[0] for key in report.sources if key.endswith(".leakage")}
    held = report.holds if not memories & leaking else (*report.holds, "leakage of on-chip memory")
    return (str(report.arch.get("fidelity", "trace")), *held)


def caveats(reports: Sequence[Report], names: Sequence[str] | None = None) -> tuple[str, ...]:
    """All that a comparison of these bills must say, one sentence each without its full stop.

    names: what to call the machines; `labels` by default.
    """
    named = list(zip(names or labels(reports), reports, strict=True))
    other = "these machines did not run the same workload"
    said = [other] if len({report.workload_id for report in reports}) > 1 else []
    tools = [name for name, report in named if kind(report)[0] == "tool"]
    if 0 < len(tools) < len(named):
        said.append(f"{_listed(tools)}: what another tool prints, not a count of these spikes")
    said += [*_contents(named), *_leaks(named)]
    tables = [(str(report.arch.get("table")), name) for name, report in named]
    clocked = [(name, report.arch) for name, report in named if not report.whole and "clock_mhz" in report.arch]
    clocks = [(f"{arch['clock_mhz']:g} MHz", name) for name, arch in clocked]
    for words, pairs in (("priced from different tables", tables), ("clocked differently", clocks)):
        if len(values := dict.fromkeys(value for value, _ in pairs)) > 1:
            each = (f"{value} ({_listed([name for v, name in pairs if v == value])})" for value in values)
            said.append(f"these machines are {words}: {', '.join(each)}")
    if len(reports) > 1 and any(report.whole for report in reports):
        said += [f"{name}: {limit}" for name, report in named for limit in report.limits]
    return tuple(dict.fromkeys(said))


def _contents(named: Sequence[tuple[str, Report]]) -> list[str]:
    """What one bill holds and another does not."""
    parts: dict[tuple[str, ...], list[str]] = {}
    for name, report in named:
        parts.setdefault(report.holds, []).append(name)
    counted = {report.holds for _, report in named if report.holds and not report.whole}
    held = dict.fromkeys(what for holds in parts if holds in counted for what in holds)
    said = []
    for holds, who in parts.items() if len(parts) > 1 else ():
        missing = [f"no {what}" for what in held if what not in holds]
        if not holds:
            said.append(f"{_listed(who)}: what is in the bill is not known")
        elif holds not in counted:
            how = "as measured" if WHOLE[0] in holds else "as its user described it, not as measured"
            said.append(
                f"{_listed(who)}: a whole device {how}{', the others are summed up from parts' if counted else ''}"
            )
        elif missing:
            said.append(f"{_listed(who)}: {_listed(missing)} in the bill")
    return said


def _leaks(named: Sequence[tuple[str, Report]]) -> list[str]:
    """Parts whose leakage one bill of a model holds and another, priced from another table, does not."""
    leaking = [{key[:-8] for key in report.sources if key.endswith(".leakage")} for _, report in named]
    said = []
    for (name, report), own in zip(named, leaking, strict=True):
        same = (parts for (_, other), parts in zip(named, leaking, strict=True) if other.model == report.model)
        if own and (missing := sorted(set().union(*same) - own)):
            said.append(f"{name}: no leakage of {_listed(missing)} in the bill")
    return said


def _ranked(reports: Sequence[tuple[str, Report]]) -> str:
    """The sentence of one group."""
    named = sorted(reports, key=lambda pair: pair[1].edp_js)
    label, best = named[0]
    if len(named) == 1:
        sentence = (
            f"{label} spends {format_si(best.energy_per_inference_j, 'J')} and takes "
            f"{format_si(best.latency_per_inference_s, 's')} per inference (EDP {format_si(best.edp_js, 'Js')})"
        )
        return f"{sentence}; {_where('its', best)}."
    level = [pair for pair in named if isclose(pair[1].edp_js, best.edp_js, rel_tol=1e-9)]
    others = [pair for pair in named if pair not in level]
    factors = [f"{_factor(report.edp_js, best.edp_js)} {name}" for name, report in others]
    if len(level) > 1:
        sentence = f"{_listed([name for name, _ in level])} tie for the lowest EDP per inference"
        whose = f"{label}'s"
    else:
        sentence = f"{label} has the lowest EDP per inference"
        whose = "its"
    sentence += f" ({format_si(best.edp_js, 'Js')}{', ' if factors else ''}{_listed(factors)})"
    return f"{sentence}; {_where(whose, best)}."


def labels(reports: Sequence[Report]) -> tuple[str, ...]:
    """A name per machine: its label or model, and where that is not enough the fields in which it differs or a number.

    What another tool would print, and not a count of events, is marked ``(tool)`` wherever it is named.
    """
    names = [report.label or report.model for report in reports]
    for model in {name for name in names if names.count(name) > 1}:
        same = [i for i, name in enumerate(names) if name == model]
        fields = dict.fromkeys(key for i in same for key in reports[i].arch)
        differ = [key for key in fields if any(_of(reports[i], key) != _of(reports[same[0]], key) for i in same)]
        for i in same:
            names[i] = f"{model} ({', '.join(f'{key}={_of(reports[i], key)}' for key in differ)})" if differ else model
    told = ["" if report.arch.get("fidelity") != "tool" else " (tool)" for report in reports]
    return tuple(
        f"{name} #{names[: i + 1].count(name)}{tool}" if names.count(name) > 1 else f"{name}{tool}"
        for i, (name, tool) in enumerate(zip(names, told, strict=True))
    )


def _of(report: Report, key: str) -> str:
    return str(report.arch.get(key, "-"))


def _some(reports: Sequence[Report]) -> None:
    if not reports:
        raise ValueError("got no reports, expected at least one; evaluate a machine first")


def _synops(reports: Sequence[Report]) -> str | None:
    """``4.66 M synops``, where all machines see the same (a folded pool passes spikes on, an unfolded one levels)."""
    per_inference = {report.synops / report.num_samples for report in reports}
    return f"{format_si(per_inference.pop(), '').strip()} synops" if len(per_inference) == 1 else None


def _percent(share: float | None) -> str:
    if share is None:
        return "-"
    return f"{100 * share:.1f} %"


def _brief_percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.3g} %" if share < 0.1 else f"{100 * share:.0f} %"


def _share(joules: float, total: float) -> float | None:
    return joules / total if total else None


def _mean_use(report: Report, name: str) -> float | None:
    weighted = [(layer.utilisation[name], layer.cycles) for layer in report.layers if name in layer.utilisation]
    cycles = sum(weight for _, weight in weighted)
    return sum(use * weight for use, weight in weighted) / cycles if cycles else None


def _factor(edp: float, best: float) -> str:
    """``2.31 times lower than``; close machines in percent, because ``1 times lower`` says nothing."""
    if best == 0:
        return f"against {format_si(edp, 'Js')} of"
    factor = edp / best
    if factor < 1.01:
        return f"{100 * (factor - 1):.2g} % lower than"
    return f"{factor:,.0f} times lower than" if factor >= 1000 else f"{factor:.3g} times lower than"


def _where(whose: str, report: Report) -> str:
    """``71 % of its energy goes to dram, 20 % to glb; leakage is 12 % of the total``."""
    total = report.energy_j
    if not total:
        return f"{whose} energy is zero"
    shares = sorted(((joules / total, name) for name, joules in report.by("component").items()), key=lambda s: -s[0])
    first, *rest = [(share, name) for i, (share, name) in enumerate(shares[:3]) if i == 0 or share >= 0.1]
    text = f"{100 * first[0]:.0f} % of {whose} energy goes to {first[1]}"
    text += "".join(f", {100 * share:.0f} % to {name}" for share, name in rest)
    leakage = sum(joules for key, joules in report.by("action").items() if key.endswith(".leakage")) / total
    if leakage >= 0.1:
        text += f"; leakage is {100 * leakage:.0f} % of the total"
    return text


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
