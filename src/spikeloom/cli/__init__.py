"""The command line: one file per verb, no logic."""

from __future__ import annotations

import sys

import typer

from spikeloom import __version__
from spikeloom.cli import (
    ann,
    check,
    convert,
    cotrain,
    crossbar,
    demo,
    deploy,
    evaluate,
    import_,
    map,
    prune,
    quantize,
    record,
    search,
    show,
    study,
    train,
    validate,
)
from spikeloom.cli.console import complain, log
from spikeloom.errors import SpikeloomError

#: Packages of the optional extras, by import name.
EXTRAS = {"torch": "train", "sklearn": "train", "PIL": "train", "plotly": "figures"}

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    result_callback=lambda *_, **__: log.show(),  # behind what a verb printed
    rich_markup_mode=None,  # or rich would read the [defaults] of the help texts as markup
    help="One trace of real spikes, many machines, one bill.",
)
app.command("train")(train.train)
app.command("record")(record.record)
app.command("eval")(evaluate.evaluate)
app.command("show")(show.show)
app.command("import")(import_.import_network)
app.command("convert")(convert.convert)
app.command("deploy")(deploy.deploy)
app.command("ann")(ann.ann)
app.command("quantize")(quantize.quantize)
app.command("prune")(prune.prune)
app.command("crossbar")(crossbar.crossbar)
app.command("cotrain")(cotrain.cotrain)
app.command("map")(map.map_network)
app.command("search")(search.search)
app.command("study")(study.study)
app.command("check")(check.check)
app.command("validate")(validate.validate)
app.command("demo")(demo.demo)


def _version(value: bool) -> None:
    if value:
        print(f"spikeloom {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """One trace of real spikes, many machines, one bill."""
    log.lines.clear()


def main() -> None:
    """Run the command line. Exit code 0: done, 1: bad input in one line, 2: usage, 130: interrupted."""
    try:
        app()
    except SpikeloomError as error:
        complain(str(error))
        sys.exit(1)
    except MemoryError as error:
        complain(f"out of memory ({error}); the layers or samples of this input are too large for this machine")
        sys.exit(1)
    except (OSError, UnicodeError, RecursionError) as error:
        # a closed pipe, a full disk, a terminal without the letters
        complain(f"{type(error).__name__}: {error}")
        sys.exit(1)
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        complain(
            f"this verb needs the package '{error.name}'; install it with: pip install -c constraints.txt '.[{EXTRAS[error.name]}]'"
        )
        sys.exit(1)
