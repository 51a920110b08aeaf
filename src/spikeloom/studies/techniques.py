"""The knobs of a deployment: the plain conversion of the published tool chain, what each technique changes of it, and the network
that a setting makes.

Plain is what SNN toolbox and NxTF do for Loihi (Rueckauer et al., arXiv 2101.04261) where accuracy matters: reset by subtraction with a
threshold of once the 99.999 percentile of each layer's input, membranes that start at 0, 8-bit weights and 12-bit biases on one step
for each layer, biases at every step, pixels as bias currents of neurons on the chip. Their other mode, reset to zero with a threshold
of 8 times the input, is one of the techniques. Letters: T time steps, C channels.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from spikeloom.core.network import Network
from spikeloom.core.nodes import IF, LI, Firing, Synapse
from spikeloom.core.signals import received_signals
from spikeloom.data import Samples
from spikeloom.errors import ConfigError, FileError
from spikeloom.files.network import read_network, write_network
from spikeloom.studies.convert import Splits, fit_and_held
from spikeloom.studies.experiment import Experiment, augmentation, train_config

if TYPE_CHECKING:
    from torch import Tensor

    from spikeloom.snn.execute import Execution, Progress
    from spikeloom.transform.thresholds import Method, Values

#: Bits of a bias and of a membrane on Loihi (Davies et al., IEEE Micro 2018; NxTF).
BIAS_BITS = 12
MEMBRANE_BITS = 24
#: Steps of the staircase of fine-tuning, its peak learning rate, and what all activations at their ceilings would cost in its loss.
LEVELS = 8
LEARNING_RATE = 5e-4
RATE_PRICE = 4.0
#: Largest start of a membrane whose biases are aligned, in thresholds: it must not fire before it has heard anything.
MOST_START = 0.99
#: Name of the technique that only a chip needs on which a layer adds a step.
ALIGNED = "biases aligned"
#: Weights of -1, 0 and 1 are stored in so many bits.
TERNARY = 2


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How a trained ANN becomes a network on the chip; the defaults are the plain conversion.

    reset, v_init, method, percentile, by_channel, bias: as in `spikeloom.transform.convert.Conversion`; v_init in thresholds; bias
        "aligned" also acts at every step, but what it adds before the first spike can arrive is taken off the start (`aligned`).
    ratio: threshold to input, a factor on all thresholds. input_ratio: another factor, on those of the input neurons alone.
    bits: of a weight; 2 is ternary. exits: samples stop once their class leads by a margin.
    tuned: the ANN is fine-tuned with staircases and a price on rates first. cores: "" places as the machine does by itself,
    "mapped" asks the mapper.
    """

    reset: Literal["hard", "soft"] = "soft"
    v_init: float = 0.0
    ratio: float = 1.0
    input_ratio: float = 1.0
    method: Method = "percentile"
    percentile: float = 99.999
    by_channel: bool = False
    bias: Literal["steps", "start", "aligned"] = "steps"
    bits: int = 8
    exits: bool = False
    tuned: bool = False
    cores: str = ""


@dataclass(frozen=True)
class Technique:
    """A changed knob. group: techniques that exclude one another. changes: fields of `Setting`."""

    group: str
    name: str
    changes: Mapping[str, Any]

    def of(self, setting: Setting) -> Setting:
        """``setting`` with this technique."""
        return replace(setting, **self.changes)


#: In the order in which they are tried together: those first that others depend on.
TECHNIQUES: tuple[Technique, ...] = (
    Technique("reset", "v0 = theta/2", {"v_init": 0.5}),
    Technique("reset", "hard reset, x8", {"reset": "hard", "ratio": 8.0}),
    Technique("bias", ALIGNED, {"bias": "aligned"}),
    Technique("bias", "biases in v0", {"bias": "start"}),
    Technique("threshold", "percentile 99.9", {"percentile": 99.9}),
    Technique("threshold", "MSE by layer", {"method": "mse"}),
    Technique("threshold", "MSE by channel", {"method": "mse", "by_channel": True}),
    Technique("training", "fine-tuned", {"tuned": True}),
    Technique("ratio", "thresholds x2", {"ratio": 2.0}),
    Technique("rates", "input rates / 2", {"input_ratio": 2.0}),
    Technique("rates", "input rates / 4", {"input_ratio": 4.0}),
    Technique("weights", "4-bit weights", {"bits": 4}),
    Technique("weights", "ternary weights", {"bits": TERNARY}),
    Technique("exit", "early exit", {"exits": True}),
    Technique("cores", "mapped cores", {"cores": "mapped"}),
)


def names_of(setting: Setting) -> tuple[str, ...]:
    """The techniques that a setting is made of: of each group the one with the most fields that it has."""
    found: dict[str, Technique] = {}
    for one in sorted(TECHNIQUES, key=lambda one: len(one.changes)):
        if all(getattr(setting, key) == value for key, value in one.changes.items()):
            found[one.group] = one
    return tuple(one.name for one in TECHNIQUES if one in found.values())


class Kit:
    """Networks of settings, from one ANN. Values of activations on the calibration samples are collected once for each ANN.

    tuned: the fine-tuned ANN, for settings that ask for it; None where there is none.
    """

    def __init__(self, ann: Network, tuned: Network | None, parts: Splits, execution: Execution) -> None:
        from spikeloom.transform.input_neurons import with_input_neurons
        from spikeloom.transform.prepare import prepare

        self.parts, self.execution = parts, execution
        self.ready, self.pixels, self.neurons = with_input_neurons(prepare(ann))
        self.tuned = None if tuned is None else with_input_neurons(prepare(tuned))[0]
        self._values: dict[bool, dict[str, Values]] = {}

    def ann_of(self, setting: Setting) -> Network:
        """The prepared ANN that a setting converts, input neurons included."""
        if not setting.tuned:
            return self.ready
        if self.tuned is None:
            raise ConfigError("this setting asks for a fine-tuned ANN; give the number of epochs with --tune")
        return self.tuned

    def network(self, setting: Setting, num_steps: int) -> Network:
        """The integer network of a setting, made for T = ``num_steps``."""
        from spikeloom.transform.convert import Conversion, spiking
        from spikeloom.transform.quantize import Widths, quantize
        from spikeloom.transform.thresholds import choose, collect

        ann = self.ann_of(setting)
        if setting.tuned not in self._values:
            rng = np.random.default_rng(0)
            self._values[setting.tuned] = collect(ann, self.parts.calibration, self.execution, rng)
        thresholds = choose(
            ann,
            self._values[setting.tuned],
            setting.method,
            percentile=setting.percentile,
            by_channel=setting.by_channel,
            num_steps=max(1, num_steps // 2),
            v_init=setting.v_init,
        )
        scaled = {name: setting.ratio * threshold for name, threshold in thresholds.items()}
        # brightest pixel: 1
        scaled[self.neurons] = np.full_like(scaled[self.neurons], setting.ratio * setting.input_ratio)
        conversion = Conversion(
            num_steps=num_steps,
            method=setting.method,
            percentile=setting.percentile,
            by_channel=setting.by_channel,
            reset=setting.reset,
            v_init=setting.v_init,
            threshold_to_input=setting.ratio,
            bias="start" if setting.bias == "start" else "steps",
        )
        widths = Widths(
            weight_bits=setting.bits,
            ternary=setting.bits == TERNARY,
            layer_bits={self.pixels: TERNARY},  # a pixel arrives as it is: its weight is 1
            per="tensor",
            bias_bits=BIAS_BITS,
            bias_fit=True,
            membrane_bits=MEMBRANE_BITS,
            scale="max" if setting.bits == 8 else "mse",
        )
        network = spiking(ann, scaled, conversion)
        return quantize(aligned(network, num_steps) if setting.bias == "aligned" else network, widths)


def described(setting: Setting) -> str:
    """What differs from the plain conversion, for one line."""
    plain, told = asdict(Setting()), asdict(setting)
    return ", ".join(f"{key} {told[key]}" for key in told if told[key] != plain[key]) or "plain"


def aligned(network: Network, num_steps: int) -> Network:
    """``network`` with biases that count from the step on in which the first spike can arrive, on a chip where each layer adds a step.

    A layer behind d layers of neurons gets d steps of bias alone, which its rates then say too much. Its membranes start at
    ``v_init - d * bias``, at most `MOST_START` of a threshold, so that after these steps they are where they would have started. A read-out
    starts at 0; its biases are made smaller by ``(T - d) / T``.
    """
    from spikeloom.transform.prepare import PASSING, feeding

    depth: dict[str, int] = {}
    for name in network.order():
        behind = max((depth[source] for source in network.inputs_of(name)), default=0)
        depth[name] = behind + isinstance(network.nodes[name], Firing)
    nodes, shapes = dict(network.nodes), network.shapes()
    for name, node in network.nodes.items():
        if not isinstance(node, IF | LI):
            continue
        late = depth[name] - isinstance(node, Firing)
        if any(isinstance(network.nodes[source], PASSING) for source in network.inputs_of(name)):
            raise ConfigError(
                f"the sums of node '{name}' come through {list(network.inputs_of(name))}; biases cannot be aligned there"
            )
        start = np.zeros((1,) * len(shapes[name]))
        for synapse in feeding(network, name):
            layer = network.nodes[synapse]
            if not isinstance(layer, Synapse) or layer.bias is None:
                continue
            if isinstance(node, LI):
                less = (layer.bias * max(0, num_steps - late) / num_steps).astype(np.float32)
                nodes[synapse] = replace(layer, bias=less)
                continue
            bias = layer.bias.astype(np.float64)
            start = start + late * bias.reshape(*bias.shape, *([1] * (len(shapes[name]) - bias.ndim)))
        if isinstance(node, IF):
            nodes[name] = replace(node, v_init=np.minimum(node.v_init - start, MOST_START).astype(np.float32))
    return replace(network, nodes=nodes)


class RatePrice:
    """RATE_PRICE times the synaptic events of a sample, as a fraction of those of every activation at its ceiling.

    A penalty for `spikeloom.snn.train.train`. A level of a staircase stands for one spike of `LEVELS` steps, and meets as many
    synapses as its layer has multiplications for one input. Pixels, which stay as they are, cost nothing.
    """

    def __init__(self, network: Network) -> None:
        shapes = network.shapes()
        signals = received_signals(network)
        self.fan: dict[str, float] = {}
        self.most = 0.0
        for name, node in network.nodes.items():
            if isinstance(node, Synapse) and node.weight is not None and signals[name].kind == "levels":
                places = math.prod(shapes[name][1:])  # of the output map, at each of which every weight acts once
                inputs = math.prod(shapes[network.inputs_of(name)[0]])
                self.fan[name] = node.weight.size * places / inputs
                self.most += self.fan[name] * inputs * signals[name].max_level

    def __call__(self, arrived: Mapping[str, Tensor]) -> Tensor:
        parts = [fan * arrived[name].sum() / arrived[name].shape[1] for name, fan in self.fan.items()]
        total: Tensor = RATE_PRICE / self.most * sum(parts[1:], parts[0])
        return total


def fine_tuned(
    ann: Network,
    experiment: Experiment,
    parts: Splits,
    execution: Execution,
    epochs: int,
    file: Path,
    *,
    data_dir: Path | None = None,
    progress: Progress | None = None,
) -> Network:
    """``ann`` trained for some epochs with QCFS staircases and a price on its rates; kept in ``file`` with all that it depends on, an
    interrupted run goes on.

    Staircases (Bu et al., ICLR 2022) make rates of few steps exact, the price makes them small. One ceiling for each layer.
    """
    from spikeloom.snn.train import train
    from spikeloom.transform.prepare import prepare
    from spikeloom.transform.qcfs import staircase
    from spikeloom.transform.thresholds import choose, collect

    if experiment.encoding != "direct":
        raise ConfigError(
            f"fine-tuning trains an ANN on images; experiment '{experiment.name}' shows '{experiment.encoding}'"
        )
    config = replace(
        train_config(experiment), num_steps=1, epochs=epochs, learning_rate=LEARNING_RATE, initial_rate=None
    )
    fit, _ = fit_and_held(experiment, data_dir)
    depends = {
        "ann": ann.id, "levels": LEVELS, "price": RATE_PRICE, "train": asdict(config), "shift": experiment.shift,
        "flip": experiment.flip, "trained_on": contents(fit), "calibrated_on": contents(parts.calibration),
    }  # fmt: skip
    made = json.loads(json.dumps(depends))  # as a file gives it back
    kept = _kept(file)
    if kept is not None and kept.metadata.get("tuned") == made:
        return kept
    ready = prepare(ann)
    values = collect(ready, parts.calibration, execution, np.random.default_rng(0))
    start = staircase(ready, choose(ready, values, "mse", num_steps=LEVELS), LEVELS)
    key = hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()
    checkpoint = file.with_suffix(f".{key[:12]}.checkpoint.pt")  # one of other data is not gone on with
    trained = train(
        start,
        fit,
        config,
        penalty=RatePrice(start),
        augment=augmentation(experiment),
        checkpoint=checkpoint,
        progress=progress,
    )
    tuned = replace(trained.network, metadata={**ann.metadata, "tuned": made})
    write_network(file, tuned)
    checkpoint.unlink(missing_ok=True)
    return tuned


def _kept(file: Path) -> Network | None:
    """The network in ``file``, or None where there is none that can be read."""
    try:
        return read_network(file) if file.exists() else None
    except FileError:
        return None


def contents(source: Samples) -> str:
    """Content id of samples: of every pixel or event, label and number."""
    digest = hashlib.sha256(repr((len(source), source.in_shape, source.num_classes)).encode())
    for values in (source.labels, source.ids):
        digest.update(np.ascontiguousarray(values).tobytes())
    for start in range(0, len(source), 1024):
        digest.update(source.batch(np.arange(start, min(start + 1024, len(source)))).tobytes())
    return digest.hexdigest()
