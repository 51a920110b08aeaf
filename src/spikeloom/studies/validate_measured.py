"""Measured devices beside ours: Loihi by Blouw et al. 2018 with what its events explain, and the sticks of the machine `edge`."""

from __future__ import annotations

from collections.abc import Iterator

from spikeloom.hw.loihi_arch import LOIHI_PRESETS
from spikeloom.studies import measured, sticks
from spikeloom.studies.agreement import Figure, figure, published

Section = tuple[str, tuple[Figure, ...]]
#: Digits to which a measurement is shown as published.
DIGITS = 4


def measured_sections() -> Iterator[Section]:
    """Loihi's power fitted and predicted, what its events explain, then times and powers of the sticks."""
    yield "Loihi measured: idle, host and event energy, fitted to 1, 4, 8 copies", tuple(_loihi())
    yield "Loihi measured: what counted events explain of it", tuple(_events())
    yield "NCS2 measured: time of an inference", tuple(_ncs2())
    yield "NCS measured: time of an inference and power", tuple(_ncs())


def _row(what: str, theirs: float, ours: float, source: str, conditions: str, why: str = "") -> Figure:
    """A measurement beside ours."""
    printed = f"{theirs:#.{DIGITS}g}".rstrip(".")
    return figure({"what": what, "published": printed, "source": source, "conditions": conditions, "why": why}, ours)


def _copies(number: int) -> str:
    return "1 copy" if number == 1 else f"{number} copies"


def _loihi() -> Iterator[Figure]:
    why = {
        "fitted": "fitted, and what three copies leave over",
        "predicted": "predicted from 1, 4 and 8 copies",
        "another network": "not fitted: without the copies the chip runs 126 inferences a second and not 114, and the constant is not quite constant",
    }
    for what, copies, theirs, ours in measured.errors():
        how = "fitted" if copies in measured.FITTED else "predicted" if copies else "another network"
        unit = "mW" if what == "power" else "mJ an inference"
        rate = measured.scaled()[copies].rate
        said = f"{how}; at the measured {rate:.1f} inferences/s"
        yield _row(f"{what}, {_copies(copies)}, {unit}", 1e3 * theirs, 1e3 * ours, "loihi-logs", said, why[how])
    found, run = measured.fit(), measured.keyword()
    said = f"static and host term alone, no event; at the measured {run.rate:.1f} inferences/s"
    told = "not fitted: the host term of the scaled network alone, at 2.6 times its rate; events and all that grows with the rate of inputs are left over"
    for what, theirs, ours in (
        ("power, keyword network, mW", run.running_w, found.power_w(0, run.rate)),
        ("dynamic energy, keyword network, mJ an inference", run.dynamic_j, found.dynamic_j(0, run.rate)),
        ("total energy, keyword network, mJ an inference", run.total_j, found.total_j(0, run.rate)),
    ):
        yield _row(what, 1e3 * theirs, 1e3 * ours, "loihi-logs", said, told)


def _events() -> Iterator[Figure]:
    intercept, slope = measured.energy_line()
    host = measured.fit().host_w
    run = measured.keyword()
    for units in LOIHI_PRESETS:
        name = "loihi-sanafe" if units == "loihi" else units
        copy, word = measured.copy_events(units), measured.keyword_events(units)
        rate = copy.rate_of(slope)
        said = f"{name}; 10 x 256 neurons, 256 x 256 synapses each, 10 steps"
        why = f"without a spike; with spikes the measured energy is met at a firing rate of {100 * rate:.1f} %, an ordinary one; the real rate is not published"
        yield _row("a ten-layer copy, accesses and updates alone, uJ", 1e6 * slope, 1e6 * copy.fixed, "loihi-logs", said, why)  # fmt: skip
        said = f"{name}; 541 neurons, 172,800 synapses, 10 steps"
        why = (
            f"events explain {100 * word.at(rate) / run.dynamic_j:.1f} % of the measured energy at the rate that the copies imply, and "
            f"{100 * word.at(1) / run.dynamic_j:.0f} % if every neuron fired in every step; the rest is the running host ({1e3 * host:.1f} mW for "
            "as long as the inference takes) and what feeds the inputs"
        )
        for how, at in ((f"firing rate {100 * rate:.1f} %", rate), ("every neuron fires in every step", 1.0)):
            what = f"dynamic energy of the keyword network, events alone, {how}, uJ"
            yield _row(what, 1e6 * run.dynamic_j, 1e6 * word.at(at), "loihi-logs", said, why)
        why = (
            f"the intercept of the scaled network hides {1 - word.at(rate) / intercept:.1%} that is no event at that rate, "
            f"{1 - word.at(1) / intercept:.1%} if all fired; taking it for network energy would be wrong by as much"
        )
        what = "intercept of the scaled network, its events alone, every neuron fires in every step, uJ"
        yield _row(what, 1e6 * intercept, 1e6 * word.at(1), "loihi-logs", said, why)


def _ncs2() -> Iterator[Figure]:
    found = sticks.calibrate()["ncs2"]
    run = sticks.keyword_run("ncs2")
    said = "keyword network 390-256-256-29; the overhead is what is left of it"
    yield _row("keyword network, ms", 1e3 * run.seconds, 1e3 * found.seconds(run), "stick-logs", said)
    for row, run in sticks.prg_runs():
        what = f"{row['channels']} x {row['size']} x {row['size']}, filters {', '.join(map(str, row['filters']))}, ms"
        said = f"{run.total.macs / 1e6:,.0f} million MACs; fitted, link and map bandwidth free"
        why = "two constants for ten networks; the overhead is that of another measurement"
        yield _row(what, 1e3 * run.seconds, 1e3 * found.seconds(run), "prg", said, why)


def _ncs() -> Iterator[Figure]:
    found = sticks.calibrate()["ncs"]
    watts = {row["copies"]: row["running_w"] for row in published("edge.json")["scaled_ncs"]}
    for copies, run in sticks.scaled_runs().items():
        how = "fitted" if copies in sticks.FITTED else "predicted"
        said = f"{run.total.macs / 1e6:.3g} million MACs, fully connected; {how}"
        why = f"{how}; the same network was measured 15 % apart on two days"
        yield _row(f"{_copies(copies)}, ms", 1e3 * run.seconds, 1e3 * found.seconds(run), "stick-logs", said, why)
        why = f"{how}; readings are steps of 50 mW"
        yield _row(f"{_copies(copies)}, W", watts[copies], found.power(run), "stick-logs", said, why)
    run = sticks.keyword_run("ncs")
    said = "the network of 0 copies, measured 15 % faster six weeks before"
    why = "the measurements disagree with each other by as much"
    yield _row("keyword network, ms", 1e3 * run.seconds, 1e3 * found.seconds(run), "stick-logs", said, why)
    power = published("edge.json")["keyword"]["ncs"]["running_w"]
    yield _row("keyword network, W", power, found.power(run), "stick-logs", said, why)
