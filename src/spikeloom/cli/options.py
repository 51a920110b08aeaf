"""One rule for options that do nothing: whichever verb it is, one that is given without effect in this call is refused."""

from __future__ import annotations

import typer

from spikeloom.errors import ConfigError


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
