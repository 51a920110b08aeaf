"""Spikeloom: one trace of real spikes, many machines, one bill."""

from spikeloom.components import load_table
from spikeloom.core.arch import AbstractArch, LayerMapping, Mapping
from spikeloom.core.counts import Counts
from spikeloom.core.network import Network
from spikeloom.core.nodes import Leak
from spikeloom.core.report import LayerReport, Report, Trial
from spikeloom.core.trace import Levels, Spikes, SpikeTrace
from spikeloom.core.workload import Layer, NeuronRule, RateLayer, RateWorkload, Workload
from spikeloom.cost import price
from spikeloom.errors import (
    ConfigError,
    CostError,
    DataError,
    FileError,
    MappingError,
    NetworkError,
    NetworkFileError,
    SpikeloomError,
    TraceError,
)
from spikeloom.evaluate import evaluate, load_machine, load_workload
from spikeloom.files.network import read_network, write_network
from spikeloom.files.results import read_reports, write_reports
from spikeloom.files.store import read_trace, write_trace
from spikeloom.hw import HARDWARE
from spikeloom.hw.spikex import SpikexArch
from spikeloom.lower import draw, lower

__version__ = "0.1.0"

__all__ = [
    "AbstractArch",
    "ConfigError",
    "CostError",
    "Counts",
    "DataError",
    "FileError",
    "HARDWARE",
    "Layer",
    "LayerMapping",
    "LayerReport",
    "Leak",
    "Levels",
    "Mapping",
    "MappingError",
    "Network",
    "NetworkError",
    "NetworkFileError",
    "NeuronRule",
    "RateLayer",
    "RateWorkload",
    "Report",
    "SpikeTrace",
    "SpikeloomError",
    "Spikes",
    "SpikexArch",
    "TraceError",
    "Trial",
    "Workload",
    "draw",
    "evaluate",
    "load_machine",
    "load_table",
    "load_workload",
    "lower",
    "price",
    "read_network",
    "read_reports",
    "read_trace",
    "write_network",
    "write_reports",
    "write_trace",
]
