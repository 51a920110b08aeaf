"""Machines. Only this room counts."""

from __future__ import annotations

from typing import Any

from spikeloom.hw.base import AbstractMachine as AbstractMachine
from spikeloom.hw.edge import Edge
from spikeloom.hw.loihi import Loihi
from spikeloom.hw.sata import Sata
from spikeloom.hw.sata_training import SataTraining
from spikeloom.hw.spikesim import Spikesim
from spikeloom.hw.spikex import Spikex
from spikeloom.hw.systolic import Systolic

#: Machine models by the word a machine file uses for ``model``.
HARDWARE: dict[str, AbstractMachine[Any]] = {
    "spikex": Spikex(),
    "sata": Sata(),
    "sata-training": SataTraining(),
    "systolic": Systolic(),
    "spikesim": Spikesim(),
    "edge": Edge(),
    "loihi": Loihi(),
}
