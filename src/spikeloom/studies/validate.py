"""Every published or tool figure that can be checked, beside what this package says: docs/validation.md."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from spikeloom.studies.agreement import CLOSE, EXACT, Figure, Tally, published
from spikeloom.studies.validate_figures import sections
from spikeloom.studies.validate_tools import tallies


@dataclass(frozen=True)
class Validation:
    """All comparisons: tools number by number, published figures by section, claims that are not checked."""

    tallies: tuple[Tally, ...]
    sections: tuple[tuple[str, tuple[Figure, ...]], ...]
    unchecked: tuple[dict[str, str], ...]
    sources: dict[str, str]

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Of all sections."""
        return tuple(each for _, figures in self.sections for each in figures)


def validate() -> Validation:
    """Run every comparison; needs no data beyond the package."""
    said = published("figures.toml")
    return Validation(tuple(tallies()), tuple(sections(said)), tuple(said["unchecked"]), said["sources"])


def to_json(found: Validation) -> str:
    """One document with everything docs/validation.md shows."""
    document = {
        "format": "spikeloom-validation",
        "version": 1,
        "tools": [{**asdict(each), "verdict": each.verdict} for each in found.tallies],
        "figures": [{"section": title, **_figure_json(each)} for title, figures in found.sections for each in figures],
        "unchecked": found.unchecked,
        "sources": found.sources,
    }
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def _figure_json(each: Figure) -> dict[str, Any]:
    high = None if math.isinf(each.high) else each.high
    return {**asdict(each), "high": high, "error": each.error, "verdict": each.verdict}


def to_markdown(found: Validation) -> str:
    """docs/validation.md."""
    lines = [
        "# Validation",
        "",
        "Written by `spikeloom validate -o docs/validation.md`; a test holds it to what that prints. Every figure of a paper or a tool",
        "that this package can be asked for, and what it says. A miss stays a miss.",
        "",
        *_summary(found),
        "",
        "## Tools, number by number",
        "",
        "Whole numbers (counts, cycles) are equal or not; energies and expected counts have a tolerance, relative.",
        "",
        *_table(
            ("run", "conditions", "whole numbers equal", "others within tolerance", "tolerance", "source"),
            [
                (t.what, t.conditions, _of(t.equal, t.integers), _of(t.within, t.reals), f"{t.tolerance:g}", t.source)
                for t in found.tallies
            ],
        ),
    ]
    for title, figures in found.sections:
        rows = [
            (f.what, f.published, f.shown, f"{100 * f.error:+.1f} %" if abs(f.error) > EXACT else "0", _marked(f.verdict, f.verdict), f.conditions, f.source)
            for f in figures
        ]  # fmt: skip
        lines += [
            "",
            f"## {title}",
            "",
            *_table(("figure", "published", "ours", "error", "", "conditions", "source"), rows),
        ]
    lines += ["", "## Misses and deviations, and what is known about them", "", *_deviations(found)]
    lines += ["", "## Claims that are not checked", "", *_table(
        ("claim", "why not", "source"), [(c["claim"], c["reason"], c["source"]) for c in found.unchecked]
    )]  # fmt: skip
    lines += ["", "## Sources", "", *(f"- `{key}`: {text}" for key, text in found.sources.items())]
    return "\n".join(lines) + "\n"


def _summary(found: Validation) -> list[str]:
    numbers = sum(t.integers + t.reals for t in found.tallies)
    missed = sum(t.misses for t in found.tallies)
    verdicts = [f.verdict for f in found.figures]
    counted = ", ".join(f"{verdicts.count(word)} {word}" for word in ("equal", "close", "miss"))
    return [
        f"Tools: {numbers - missed:,} of {numbers:,} numbers reproduced in {len(found.tallies)} runs. Published figures: {counted}",
        f"(equal: to the printed digits; close: within {100 * CLOSE:.0f} %). {len(found.unchecked)} claims are not checked, each "
        "with its reason.",
    ]


def _deviations(found: Validation) -> list[str]:
    """Misses, then what is close, by section and reason."""
    lines = [f"- **{t.what}**, {t.conditions}: {t.misses} numbers differ" for t in found.tallies if t.misses]
    for word in ("miss", "close"):
        for title, figures in found.sections:
            told = [f for f in figures if f.verdict == word]
            for why in dict.fromkeys(f.why for f in told):
                which = "; ".join(
                    f"{f.what}: {f.published} published, {f.shown} here ({100 * f.error:+.1f} %)"
                    for f in told
                    if f.why == why
                )
                lines.append(f"- {word}, {title}. {which}. {_sentence(why)}")
    return lines


def _of(number: int, of: int) -> str:
    return _marked(f"{number:,} of {of:,}", "equal" if number == of else "miss") if of else "-"


def _marked(text: str, verdict: str) -> str:
    return f"**{text}**" if verdict == "miss" else text


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else "No reason is known."


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows)]
