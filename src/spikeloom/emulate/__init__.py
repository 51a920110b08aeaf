"""Emulation: run a network without torch, event by event, in the time of a chip; see `run`."""

from spikeloom.emulate.run import emulate

__all__ = ["emulate"]
