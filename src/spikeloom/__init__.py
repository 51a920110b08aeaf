"""Spikeloom: one trace of real spikes, many machines, one bill."""

__version__ = "0.1.0"
