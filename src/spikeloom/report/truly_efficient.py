"""The tables of ``spikeloom study truly-efficient`` and the sentences that say what they show. Each table fits 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from spikeloom.core.efficiency import (
    KEEP_ACCURACY,
    REMEDIES,
    SHARES,
    Bill,
    BreakEven,
    OnMachine,
    Saving,
    TrulyEfficient,
)
from spikeloom.core.purposes import WHOLE
from spikeloom.report.tables import plain_table
from spikeloom.units import format_si


def tables(study: TrulyEfficient) -> tuple[Table, ...]:
    """Costs, where they go, where they would be even, what remedies save."""
    running = [one for one in study.machines if not one.snn.refused]
    found = [_costs(study)]
    if running:
        found += [_where(running), _even(study, running), _remedies(running)]
    return tuple(found)


def _costs(study: TrulyEfficient) -> Table:
    title = f"The SNN (T = {study.num_steps}) and its ANN ({study.ann_bits}-bit activations), per inference"
    table = plain_table(title, "counted by", "SNN", "ANN", "SNN/ANN", "latency", "ANN", "EDP ratio")
    for one in study.estimates:
        table.add_row(
            Text(f"{one.prices} operations"),
            format_si(one.snn, "J"),
            format_si(one.ann, "J"),
            _times(one.ratio),
            *("-", "-", "-"),
        )
    for at in study.machines:
        edp = at.snn.edp / at.ann.edp if at.ratio is not None and at.ann.edp else None
        table.add_row(
            Text(at.label),
            *_energy(at.snn),
            *_energy(at.ann),
            _times(at.ratio),
            *_latency(at.snn),
            *_latency(at.ann),
            _times(edp),
        )
    return table


def _energy(bill: Bill) -> tuple[str]:
    return ("refused" if bill.refused else format_si(bill.energy, "J"),)


def _latency(bill: Bill) -> tuple[str]:
    return ("-" if bill.refused else format_si(bill.latency, "s"),)


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.3g}"


def _where(running: Sequence[OnMachine]) -> Table:
    table = plain_table("Where the energy of the SNN goes", "machine", "step 1", "2..T", *SHARES)
    for one in running:
        assert one.snn.shares is not None and one.later_steps is not None
        table.add_row(
            Text(one.label),
            _percent(1 - one.later_steps),
            _percent(one.later_steps),
            *(_percent(one.snn.shares[s]) for s in SHARES),
        )
    return table


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _even(study: TrulyEfficient, running: Sequence[OnMachine]) -> Table:
    title = f"Firing rate at which SNN and ANN cost the same (now {_rate(study.rate)})"
    table = plain_table(title, "counted by", "same machine", "cheapest ANN", "which")
    for each in study.estimates:
        table.add_row(Text(f"{each.prices} operations"), _case(each.same), "-", "-")
    for one in running:
        table.add_row(Text(one.label), _case(one.same), _case(one.cheapest), one.cheapest_ann or "-")
    return table


def _rate(rate: float) -> str:
    return "none" if rate < 0 else "above 100 %" if rate > 1 else f"{100 * rate:.3g} %"


def _case(even: BreakEven | None) -> str:
    if even is None:
        return "-"
    if even.case in ("never", "always"):
        return "none" if even.case == "never" else "above 100 %"
    assert even.rate is not None
    return _rate(even.rate)


def _remedies(running: Sequence[OnMachine]) -> Table:
    table = plain_table("Energy that a remedy would save (* at most)", "machine", *REMEDIES)
    for one in running:
        table.add_row(Text(one.label), *(_saving(each) for each in one.savings))
    return table


def _saving(saving: Saving) -> str:
    if saving.energy is None:
        return "-"
    return f"{100 * saving.energy:.1f} %{'*' if saving.how == 'bound' else ''}"


def sentences(study: TrulyEfficient) -> list[str]:
    """What the tables show."""
    compared = [one for one in study.machines if one.ratio is not None]
    right = [
        f"{who} {100 * part:.2f} %"
        for who, part in zip(("SNN", "ANN"), study.accuracy, strict=True)
        if part is not None
    ]
    lines = [
        f"{study.num_samples} sample{'s' if study.num_samples > 1 else ''}{', right: ' if right else ''}{', '.join(right)}; {_percent(study.ann_zeros)} of what "
        "arrives at the ANN's synapses is zero."
    ]
    if study.exits is not None:
        whole, early = (f"{100 * part:.2f} %" for part in study.exits.accuracy)
        lines.append(
            f"Early exit: {study.exits.mean:.2f} of {study.num_steps} steps on average of {study.exits.tested} samples, right: "
            f"{early} instead of {whole}."
        )
    if compared:
        ranked = sorted(compared, key=lambda one: one.ratio or 0.0)
        lines.append(
            f"Counting operations, the SNN costs {study.estimates[0].ratio:.3g} of its ANN; counted on machines, "
            + " to ".join(f"{one.ratio:.3g} ({one.label})" for one in (ranked[0], *ranked[1:][-1:]))
            + "."
        )
        same = [one.label for one in compared if one.ratio is not None and one.ratio < 1]
        best = [one.label for one in compared if one.cheapest is not None and one.cheapest.case in ("denser", "always")]
        lines.append(
            f"It is cheaper than its ANN on the same machine on {', '.join(same) or 'none'}; than the cheapest ANN at the same prices on "
            f"{', '.join(best) or 'none'}."
        )
    running = [one for one in study.machines if not one.snn.refused]
    for key in dict.fromkeys((one.table, one.kind) for one in running):
        alike = [one for one in running if (one.table, one.kind) == key]
        every = all(one.kind == key[1] for one in running if one.table == key[0])
        who = "the machines" if every else ", ".join(one.label for one in alike)
        lines.append(_bottleneck(min(alike, key=lambda one: one.snn.edp), who))
    return lines


def _bottleneck(one: OnMachine, who: str) -> str:
    assert one.snn.shares is not None
    spent = one.snn.shares
    largest = max(SHARES, key=lambda share: spent[share])
    words = f"Of {who} priced from {one.table} the EDP of the SNN is lowest on {one.label}"
    if not {*WHOLE} & {*one.kind}:  # nobody knows what the parts of a whole device draw
        words += f"; there most goes to {largest} ({_percent(spent[largest])})"
    kept = [("of those meant to keep accuracy", KEEP_ACCURACY), ("of all", tuple(REMEDIES))]
    for which, remedies in kept:
        helpful = [(each.energy, each.remedy) for each in one.savings if each.energy and each.remedy in remedies]
        if helpful and max(helpful)[0] >= 0.0005:  # less would be shown as nothing
            saved, remedy = max(helpful)
            words += f"; {which} '{remedy}' saves most, {_percent(saved)}"
    return f"{words}."


def notes(study: TrulyEfficient) -> list[tuple[str, tuple[str, ...]]]:
    """(machine, what it refuses or warns about), and what the comparison assumes."""
    said = [(one.label, (*_refusals(one), *one.warnings)) for one in study.machines]
    return [*said, ("comparison", (study.assumption,))]


def _refusals(one: OnMachine) -> tuple[str, ...]:
    refused = [(what, bill.refused) for what, bill in (("SNN", one.snn), ("ANN", one.ann)) if bill.refused]
    return tuple(f"refuses the {what}: {why}" for what, why in refused)
