"""A deployment for people: what each setting spends and does, and the comparison with another machine."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from spikeloom.core.deployment import Bill, Deployed, Deployment, Rival
from spikeloom.report.change import short_count
from spikeloom.report.tables import plain_table
from spikeloom.units import format_si

#: What arXiv 2210.05006 says of Loihi against the NCS2, "up to".
CLAIMS = {"power": 27.0, "energy": 5.0}
_VIEWS = {"dynamic": "work alone", "board": "whole boards"}


def spending_table(done: Deployment) -> Table:
    """One row for each setting: accuracy and the bill of an inference. Fits 80 columns."""
    title = f"One inference on {done.machine} (ANN {100 * done.ann_accuracy:.2f} %)"
    caption = "gain: energy of the plain conversion over this; power is energy over latency"
    headings = ("right", "loss", "T", "latency", "power", "energy", "EDP", "gain")
    table = plain_table(title, "setting", *headings, caption=caption)
    for row in (*done.rows, done.chosen, *_patient(done)):
        bill = row.bill
        table.add_row(
            _name(row),
            f"{100 * row.accuracy:.1f}",
            f"{done.loss(row):.1f}",
            _steps(row),
            format_si(bill.latency_s, "s"),
            format_si(bill.power_w, "W"),
            format_si(bill.energy_j, "J"),
            format_si(bill.edp_js, "Js"),
            _times(done.plain.bill.energy_j, bill.energy_j),
            end_section=row in (done.rows[1], done.rows[-1]),
        )
    return table


def activity_table(done: Deployment) -> Table:
    """One row for each setting: what the network does, and gains of time, power and EDP over the plain conversion."""
    headings = ("held out", "spikes", "events", "cores", "latency", "power", "EDP")
    table = plain_table("What it does, and how many times less than the plain conversion", "setting", *headings)
    plain = done.plain.bill
    for row in (*done.rows, done.chosen):
        table.add_row(
            _name(row),
            f"{100 * row.held:.1f}",
            short_count(row.spikes),
            short_count(row.events),
            "-" if row.cores is None else str(row.cores),
            _times(plain.latency_s, row.bill.latency_s),
            _times(plain.power_w, row.bill.power_w),
            _times(plain.edp_js, row.bill.edp_js),
            end_section=row in (done.rows[1], done.rows[-1]),
        )
    return table


def rival_table(done: Deployment) -> Table:
    """The chosen and the plain network against the ANN on another machine, of work alone and of whole boards."""
    assert done.rival is not None
    title = f"Against {done.rival.machine}, which runs the ANN ({100 * done.rival.accuracy:.2f} %)"
    table = plain_table(title, "setting", "latency", "power", "energy", "x power", "x energy", "x latency")
    for view, words in _VIEWS.items():
        if view not in done.chosen.bills or view not in done.rival.bills:
            continue
        theirs, overhead = done.rival.bills[view], done.rival.fixed.get(view)
        for name, bill in (
            (f"{done.rival.machine}, {words}", theirs),
            *(() if overhead is None else (("  fixed overhead", overhead),)),
            (f"plain, {words}", done.plain.bills[view]),
            (f"together, {words}", done.chosen.bills[view]),
            *((f"{row.name}, {words}", row.bills[view]) for row in _patient(done)),
        ):
            table.add_row(
                Text(name),
                format_si(bill.latency_s, "s"),
                format_si(bill.power_w, "W"),
                format_si(bill.energy_j, "J"),
                *(
                    ("-", "-", "-")
                    if bill is theirs or bill is overhead
                    else (
                        _times(theirs.power_w, bill.power_w),
                        _times(theirs.energy_j, bill.energy_j),
                        _times(theirs.latency_s, bill.latency_s),
                    )
                ),
            )
        table.add_section()
    if _claimed(done.rival):
        table.add_row("arXiv 2210.05006", "", "", "", f"{CLAIMS['power']:g}", f"{CLAIMS['energy']:g}", "")
    return table


def verdict(done: Deployment) -> Iterator[str]:
    """Sentences that say plainly whether the published claim is reached (of the device that it is about), and under which assumptions; then what limits the comparison."""
    assert done.rival is not None
    for view, words in _VIEWS.items():
        if view not in done.chosen.bills or view not in done.rival.bills:
            continue
        ours, theirs = done.chosen.bills[view], done.rival.bills[view]
        found = {"power": theirs.power_w / ours.power_w, "energy": theirs.energy_j / ours.energy_j}
        told = [
            f"{_times(value, 1)} times less {what}{_paper(done.rival, what, value)}" for what, value in found.items()
        ]
        yield f"{words}: {' and '.join(told)}{_why(ours, theirs, done.chosen.bills['dynamic'])}"
    yield from (f"caution: {caveat}" for caveat in done.caveats)


def _claimed(rival: Rival) -> bool:
    """Whether the paper speaks of this device, as it is."""
    return rival.machine == "ncs2"


def _paper(rival: Rival, what: str, value: float) -> str:
    how = "at least" if value >= CLAIMS[what] else "not"
    return f" ({how} the {CLAIMS[what]:g} of the paper)" if _claimed(rival) else ""


def _why(ours: Bill, theirs: Bill, dynamic: Bill) -> str:
    """What stands behind the ratios: time, and what is drawn whether or not there is work."""
    ratio = ours.latency_s / theirs.latency_s
    words = f"; an inference takes {_times(ratio, 1)} times as long"
    standby = 1 - dynamic.power_w / ours.power_w if ours.power_w else 0.0
    return words if standby < 0.005 else f"{words}, and {100 * standby:.0f} % of the power is drawn without any work"


def lines(done: Deployment) -> Iterator[str]:
    """What the tables do not say."""
    if any(not row.within for row in done.rows):
        yield f"* on held-out samples loses more than {done.max_loss:g} points at up to twice the T of plain, which is shown"
    yield f"together: {', '.join(done.techniques) or 'plain'}, at its smallest T"
    yield (
        f"it is the least {done.objective} within {done.max_loss:g} points on {done.held_samples} held-out samples (loses "
        f"{100 * (done.ann_held - done.chosen.held):.2f} there, {done.loss(done.chosen):.2f} on the test set)"
    )
    if done.loss(done.chosen) > done.max_loss:
        yield f"caution: on these test samples it loses more than the {done.max_loss:g} points it was chosen for; give more samples with --limit"
    if done.no_exit is not None and done.written is not None:
        yield (
            f"comparing the classes at every step and stopping the chip are not priced; the trace that is written holds all steps, so `eval` says "
            f"{format_si(done.written.energy_j, 'J')} and {format_si(done.written.latency_s, 's')}"
        )
    error = 100 * math.sqrt(done.chosen.accuracy * (1 - done.chosen.accuracy) / done.tested)
    yield (
        f"accuracy is that of {done.tested} test samples (one standard error: {error:.1f} points), spikes and bills are means over the "
        f"first {done.counted}"
    )
    if done.confirmed is not None:
        found = done.confirmed
        yield (
            f"on all {found.tested} test samples together gets {100 * found.accuracy:.2f} % right, the ANN {100 * found.ann_accuracy:.2f} %: "
            f"it loses {100 * (found.ann_accuracy - found.accuracy):.2f} points in {found.mean_steps:.2f} steps on average"
        )
    if done.chosen.extra_energy_j is not None:
        yield (
            f"soft reset takes a second compartment of each neuron on Loihi, which no table prices: if it cost as much as the first, an "
            f"inference would take {format_si(done.chosen.extra_energy_j, 'J')} more"
        )


def _patient(done: Deployment) -> tuple[Deployed, ...]:
    """What was chosen but for early exit, where samples stop early."""
    return () if done.no_exit is None else (done.no_exit,)


def _name(row: Deployed) -> Text:
    return Text(row.name if row.within else f"{row.name} *")


def _steps(row: Deployed) -> str:
    return str(row.num_steps) if row.margin is None else f"{row.mean_steps:.1f}/{row.num_steps}"


def _times(before: float, after: float) -> str:
    """How many times less, three digits at most."""
    if not after:
        return "-"
    ratio = before / after
    return f"{ratio:.0f}" if ratio >= 100 else f"{ratio:.3g}"
