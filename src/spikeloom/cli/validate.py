"""``spikeloom validate``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spikeloom.cli.console import out
from spikeloom.files.atomic import write_text


def validate(
    output: Annotated[Path | None, typer.Option("-o", "--output", help="write here instead of to the terminal")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of Markdown")] = False,
) -> None:
    """Published and tool figures beside ours: the page docs/validation.md."""
    from spikeloom.studies.validate import to_json, to_markdown, validate

    found = validate()
    text = to_json(found) if as_json else to_markdown(found)
    if output is None:
        out.out(text, end="")
        return
    write_text(output, text)
    verdicts = [each.verdict for each in found.figures] + [each.verdict for each in found.tallies]
    out.print(
        f"{output}: {len(found.tallies)} runs of tools, {len(found.figures)} published figures, {verdicts.count('miss')} missed",
        markup=False,
        soft_wrap=True,
    )
