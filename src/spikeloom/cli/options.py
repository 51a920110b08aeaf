"""One rule for options that do nothing: whichever verb it is, one that is given without effect in this call is refused."""

from __future__ import annotations

from typing import Annotated

import typer

from spikeloom.errors import ConfigError

#: Options of every verb that prices a network.
WeightBits = Annotated[
    int | None, typer.Option(min=1, max=64, help="charged for a weight that is a float, or of unknown width [8]")
]
#: Options of every verb that takes a trace or a network.
NetworkData = Annotated[
    str | None, typer.Option(help="a network: another experiment's data [the one it was trained on]")
]
#: Of every verb that trains a network on.
TuningRate = Annotated[float | None, typer.Option(help="peak of fine-tuning [a tenth of the experiment's]")]


def refuse_idle(context: typer.Context, idle: bool, why: str, *names: str) -> None:
    """Where ``idle`` holds, refuse options that were given, whatever their value.

    why: in what call they do nothing, behind "has no effect". names: parameters of the verb.

    Raises:
        ConfigError: naming the first that was given.
    """
    for parameter in context.command.params if idle else ():
        source = context.get_parameter_source(str(parameter.name))
        if parameter.name in names and source is not None and source.name == "COMMANDLINE":
            raise ConfigError(f"{max(parameter.opts, key=len)}: has no effect {why}; leave it out")
