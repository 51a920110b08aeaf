"""The network wing's engine: build, train, run and record spiking networks. The only rooms with torch are this and `transform`."""

from __future__ import annotations

from spikeloom.snn.build import SpikingModule, build, input_frames
from spikeloom.snn.encode import ENCODINGS, Encoded, encode
from spikeloom.snn.execute import Execution, Progress, Source, evaluate, predict
from spikeloom.snn.loss import LOSSES
from spikeloom.snn.neurons import Dynamics, spike_loop
from spikeloom.snn.record import record
from spikeloom.snn.surrogate import SURROGATES, Surrogate
from spikeloom.snn.train import Augment, Epoch, Penalty, TrainConfig, Trained, train

__all__ = [
    "ENCODINGS",
    "LOSSES",
    "SURROGATES",
    "Augment",
    "Dynamics",
    "Encoded",
    "Epoch",
    "Execution",
    "Penalty",
    "Progress",
    "Source",
    "SpikingModule",
    "Surrogate",
    "TrainConfig",
    "Trained",
    "build",
    "encode",
    "evaluate",
    "input_frames",
    "predict",
    "record",
    "spike_loop",
    "train",
]
