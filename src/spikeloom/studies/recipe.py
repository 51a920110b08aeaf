"""The making of one network in stages: training, training with the price of its spikes, pruning, quantising.

Every stage has a section of its own, a table of fields; a search changes single fields by their dotted names
(``train.num_steps``, ``net.width``, ``prune.sparsity``, ``quantize.bits.conv1``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from spikeloom.codesign.space import Choice, Params, Value
from spikeloom.core.ranges import check_range
from spikeloom.data import DATASETS
from spikeloom.errors import ConfigError, SearchError, SpikeloomError
from spikeloom.files.schema import dataclass_from, nearest
from spikeloom.nets import NetOptions
from spikeloom.studies.experiment import GENTLE, Experiment, train_config
from spikeloom.studies.prune import Pruning

if TYPE_CHECKING:
    from spikeloom.studies.cotrain import CotrainOptions
    from spikeloom.transform.quantize import Widths

#: Sections of a recipe, and what their fields are fields of.
SECTIONS: Mapping[str, str] = {
    "train": "the training",
    "net": "the network",
    "data": "the data set",
    "cotrain": "hardware-aware training",
    "prune": "pruning",
    "quantize": "quantising",
}
#: What the design decides, not the recipe.
_OF_THE_MACHINE = ("machine", "windows", "dispatches", "orders", "merges")


@dataclass(frozen=True, kw_only=True)
class PruningStage:
    """As `spikeloom.studies.prune.Pruning`; learning_rate: of the fine-tuning, None for GENTLE times the training's."""

    sparsity: float = 0.0
    channels: bool = False
    scope: Literal["global", "layer"] = "global"
    criterion: Literal["l1", "l2"] = "l1"
    keep: tuple[str, ...] = ()
    stages: int = 1
    epochs: int = 0
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        check_range(ConfigError, "positive and finite", learning_rate=self.learning_rate)
        self.plan()

    def plan(self) -> Pruning:
        """What is cut, and when."""
        plain = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "learning_rate"}
        return Pruning(**plain)


@dataclass(frozen=True, kw_only=True)
class QuantizingStage:
    """Widths of the integers and training on their grid.

    bits: of a weight, 2..8, "ternary", or "float" for none of all this. layers: of the weights of single layers.
    epochs: of training on the grid, 0 to round the weights as they are. learning_rate: as in `PruningStage`.
    Others as in `spikeloom.transform.quantize.Widths`.
    """

    bits: int | Literal["ternary", "float"] = 8
    layers: Mapping[str, int | Literal["ternary"]] = field(default_factory=dict)
    per: Literal["tensor", "channel"] = "channel"
    bias_bits: int = 16
    bias_fit: bool = False
    membrane_bits: int = 24
    readout_bits: int = 32
    overflow: Literal["saturate", "wrap"] = "saturate"
    scale: Literal["max", "mse"] = "mse"
    epochs: int = 0
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        check_range(ConfigError, "positive and finite", learning_rate=self.learning_rate)
        check_range(ConfigError, "at least 0", epochs=self.epochs)
        if self.bits == "float" and self.layers:
            raise ConfigError(
                "bits = 'float' leaves all weights as they are; give 2..8 or 'ternary', or no single layers"
            )
        self.widths()

    def widths(self) -> Widths | None:
        """None for "float"."""
        from spikeloom.transform.quantize import Widths

        if self.bits == "float":
            return None
        apart = ("bits", "layers", "epochs", "learning_rate")
        rest = {item.name: getattr(self, item.name) for item in fields(self) if item.name not in apart}
        return Widths(
            weight_bits=2 if self.bits == "ternary" else self.bits,
            ternary=self.bits == "ternary",
            layer_bits={name: 2 if bits == "ternary" else bits for name, bits in self.layers.items()},
            **rest,
        )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is made.

    experiment: data, network and training. network: file of a trained network that takes the place of the first stage.
    cotrain, prune, quantize: fields of these stages; None where there is none.
    """

    experiment: Experiment
    network: str | None = None
    cotrain: Mapping[str, Any] | None = None
    prune: Mapping[str, Any] | None = None
    quantize: Mapping[str, Any] | None = None

    def check(self, where: str) -> None:
        """Raise ConfigError naming the key of what cannot be."""
        train_config(self.experiment, where)
        dataclass_from(NetOptions, dict(self.experiment.network_options), f"{where}: network_options")
        for stage in ("cotrain", "prune", "quantize"):
            section = getattr(self, stage)
            if section is not None:
                reserved = sorted(set(section) & set(_OF_THE_MACHINE)) if stage == "cotrain" else []
                if reserved:
                    raise ConfigError(
                        f"{where}: cotrain.{reserved[0]}: follows from the machine and [mapping]; leave it out"
                    )
                dataclass_from(_stage_type(stage), section, f"{where}: {stage}")

    def known(self, section: str) -> tuple[str, ...]:
        """Fields of a section that may be chosen."""
        if section == "train":
            from spikeloom.snn.train import TrainConfig

            return tuple(item.name for item in fields(TrainConfig))
        if section == "net":
            return tuple(item.name for item in fields(NetOptions))
        if section == "data":
            from inspect import signature

            options = signature(DATASETS[self.experiment.data]).parameters
            return tuple(name for name in options if name not in ("split", "data_dir"))
        kept = (item.name for item in fields(_stage_type(section)))
        return tuple(name for name in kept if name not in (*_OF_THE_MACHINE, "keep", "layers"))

    def check_choice(self, choice: Choice, layers: tuple[str, ...]) -> None:
        """Raise SearchError unless every value of ``choice`` is one that its section can have.

        layers: names of the synapses, for what may differ from layer to layer.
        """
        section, _, rest = choice.name.partition(".")
        name, _, layer = rest.partition(".")
        if section not in SECTIONS:
            known = ("arch", *SECTIONS)
            raise SearchError(
                f"choice '{choice.name}': no section '{section}'{nearest(section, known)}; expected {', '.join(known)}"
            )
        fields_there = self.known(section)
        if name not in fields_there:
            raise SearchError(
                f"choice '{choice.name}': {SECTIONS[section]} has no field '{name}'{nearest(name, fields_there)}; it has "
                f"{', '.join(fields_there) or 'none'}"
            )
        if layer and (section, name) != ("quantize", "bits"):
            raise SearchError(f"choice '{choice.name}': {name} is the same in every layer; name it '{section}.{name}'")
        if layer and layer not in layers:
            raise SearchError(
                f"choice '{choice.name}': no layer '{layer}'{nearest(layer, layers)}; expected one of {', '.join(layers)}"
            )
        if section == "net" and self.network is not None:
            raise SearchError(
                f"choice '{choice.name}': the search starts from the trained network {self.network}, which is as wide as it is; "
                "take the choice out, or name an experiment to train from scratch"
            )
        for value in choice.values:
            try:
                self.at({choice.name: value}).check("space")
            except SpikeloomError as error:
                raise SearchError(f"choice '{choice.name}': {str(error).removeprefix('space: ')}") from None

    def at(self, params: Params) -> Recipe:
        """The recipe of one point of the space; names of other sections are passed over.

        With another number of steps, recordings cut into frames of equal length are cut finer or coarser: the time that
        all frames cover stays the same, unless ``data.dt_us`` is chosen as well.
        """
        by_section: dict[str, dict[str, Value]] = {section: {} for section in SECTIONS}
        for name, value in params.items():
            section, _, rest = name.partition(".")
            if section in by_section:
                by_section[section][rest] = value
        base = self.experiment
        data_options = {**base.data_options, **by_section["data"]}
        steps = by_section["train"].get("num_steps")
        dt_us = base.data_options.get("dt_us")
        if isinstance(steps, int) and dt_us and "dt_us" not in by_section["data"]:
            data_options["dt_us"] = max(1, round(base.num_steps * dt_us / steps))
        experiment = replace(
            base,
            train={**base.train, **by_section["train"]},
            network_options={**base.network_options, **by_section["net"]},
            data_options=data_options,
        )
        return replace(
            self,
            experiment=experiment,
            cotrain=_changed(self.cotrain, by_section["cotrain"]),
            prune=_changed(self.prune, by_section["prune"]),
            quantize=_changed(self.quantize, _with_layers(self.quantize, by_section["quantize"])),
        )

    def cotraining(self, machine: str, mapping: Mapping[str, Any]) -> CotrainOptions | None:
        """Options of hardware-aware training for a machine file and what its mapping may be."""
        if self.cotrain is None:
            return None
        options: CotrainOptions = _stage("cotrain", {**self.cotrain, "machine": machine, **mapping})
        return options

    def pruning(self) -> PruningStage | None:
        """None where nothing is cut."""
        stage = None if self.prune is None else _stage("prune", self.prune)
        return stage if stage is not None and stage.sparsity > 0 else None

    def quantizing(self) -> QuantizingStage | None:
        """None where weights stay floats."""
        stage = None if self.quantize is None else _stage("quantize", self.quantize)
        return stage if stage is not None and stage.bits != "float" else None

    def tuning_rate(self, stage: PruningStage | QuantizingStage) -> float:
        """Peak learning rate of the training after a cut or on a grid."""
        own = stage.learning_rate
        return GENTLE * train_config(self.experiment).learning_rate if own is None else own

    def described(self) -> dict[str, Any]:
        """Everything that matters to the network that comes out, as plain JSON values."""
        stages = {
            "cotrain": None if self.cotrain is None else asdict(_stage("cotrain", self.cotrain)),
            "prune": None if (cut := self.pruning()) is None else asdict(cut),
            "quantize": None if (grid := self.quantizing()) is None else asdict(grid),
        }
        if stages["cotrain"] is not None:
            stages["cotrain"] = {k: v for k, v in stages["cotrain"].items() if k not in _OF_THE_MACHINE}
        told = {key: value for key, value in asdict(self.experiment).items() if key not in ("name", "validation")}
        plain: dict[str, Any] = json.loads(json.dumps({"experiment": told, **stages}))
        return plain


def _stage_type(stage: str) -> type[Any]:
    if stage == "cotrain":
        from spikeloom.studies.cotrain import CotrainOptions

        return CotrainOptions
    return PruningStage if stage == "prune" else QuantizingStage


def _stage(stage: str, section: Mapping[str, Any]) -> Any:
    return dataclass_from(_stage_type(stage), section, f"this design: {stage}")


def _changed(section: Mapping[str, Any] | None, changes: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return {**(section or {}), **changes} if section is not None or changes else None


def _with_layers(section: Mapping[str, Any] | None, changes: Mapping[str, Value]) -> dict[str, Any]:
    """Choices ``bits.<layer>`` gathered in the table ``layers``."""
    single = {name.removeprefix("bits."): value for name, value in changes.items() if name.startswith("bits.")}
    plain: dict[str, Any] = {name: value for name, value in changes.items() if not name.startswith("bits.")}
    if single:
        plain["layers"] = {**(section or {}).get("layers", {}), **single}
    return plain
