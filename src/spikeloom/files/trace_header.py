"""The header of a trace file, checked key by key; unknown keys are kept."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

#: Larger extents are a mistake or an attack, and their products would not fit 64-bit indices.
_Size = Annotated[int, Field(ge=1, le=2**24)]
_Count = Annotated[int, Field(ge=0, le=2**24)]
_Pair = Annotated[tuple[_Size, ...], Field(min_length=1, max_length=2)]
_Pad = Annotated[tuple[_Count, ...], Field(min_length=1, max_length=2)]
_Kind = Literal["conv1d", "conv2d", "linear", "sumpool2d", "avgpool2d", "maxpool2d", "add"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, arbitrary_types_allowed=True)


class LeakMeta(_Model):
    """Exactly one of shift and factor."""

    shift: Annotated[int, Field(ge=1, le=31)] | None = None
    factor: Annotated[float, Field(ge=0, le=1)] | None = None

    @model_validator(mode="after")
    def _one(self) -> LeakMeta:
        if (self.shift is None) == (self.factor is None):
            raise ValueError("needs exactly one of shift and factor")
        return self


class NeuronMeta(_Model):
    """What stands behind a layer."""

    kind: Literal["if", "lif", "cubalif", "li", "relu", "none"] = "if"
    leak: LeakMeta | None = None
    reset: Literal["hard", "soft", "none"] = "hard"
    membrane_bits: Annotated[int, Field(ge=2, le=64)] | None = None


class LayerMeta(_Model):
    """One layer."""

    name: Annotated[str, Field(min_length=1)]
    kind: _Kind
    in_shape: Annotated[tuple[_Size, ...], Field(min_length=1, max_length=3)]
    out_shape: Annotated[tuple[_Size, ...], Field(min_length=1, max_length=3)]
    kernel: _Pair = (1, 1)
    stride: _Pair = (1, 1)
    padding: _Pad = (0, 0)
    dilation: _Pair = (1, 1)
    groups: _Size = 1
    weight_bits: Annotated[int, Field(ge=1, le=64)] = 8
    has_bias: bool = False
    recurrent: bool = False
    num_steps: _Size | None = None
    neuron: NeuronMeta = NeuronMeta()
    input: Literal["spikes", "levels", "analog"] = "spikes"
    level_bits: Annotated[int, Field(ge=1, le=16)] = 1
    signed: bool = False
    inputs: tuple[str, ...] = ()
    joins: str = ""


class TraceMeta(_Model):
    """The header."""

    format: str
    version: int
    num_steps: _Size
    num_samples: _Size
    dt_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    source: str = ""
    delay: Annotated[int, Field(ge=0, le=1)] = 0
    network_notes: tuple[str, ...] = ()
    layers: Annotated[tuple[LayerMeta, ...], Field(min_length=1)]
