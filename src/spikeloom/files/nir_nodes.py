"""NIR nodes in our words and back: the equations, one node at a time.

NIR states continuous time, a network runs in steps of ``dt``. With ``u = v - v_leak`` and share ``a = dt / tau`` (Euler) or
``a = 1 - exp(-dt / tau)`` (exponential), ``tau dv/dt = (v_leak - v) + r I`` becomes ``u' = (1 - a) u + g I`` with gain
``g = r a``. The gain is folded into the unit of the membrane: ``v_threshold' = (v_threshold - v_leak) / g``, likewise v_reset.
CubaLIF has ``g = w_in a_syn r a_mem``. IF (``dv/dt = r I``) has ``g = r`` per step or ``g = r dt``: sinabs, Norse and snnTorch write
or expect r = 1 and mean one step, SpikingJelly 2.0 writes r = 1 / dt; both give g = 1 (sources: sinabs 3.1.3 nir.py, norse 1.1.0
export_nir.py, snntorch 1.0.0 import_nir.py, spikingjelly 2.0.0 nir_exchange/to_nir.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from spikeloom.core.nodes import (
    IF,
    LI,
    LIF,
    AvgPool2d,
    Conv1d,
    Conv2d,
    CubaLIF,
    Delay,
    Flatten,
    Input,
    Leak,
    Linear,
    Node,
    Output,
    Reset,
    Scale,
    Shape,
    SumPool2d,
    Value,
)
from spikeloom.errors import NetworkFileError

Discretisation = Literal["euler", "exponential"]
Encoding = Literal["spikes", "levels", "analog"]
IfGain = Literal["auto", "per_step", "per_second"]

#: Largest kernel, stride, padding, delay in steps; beyond is damage.
_MAX_SIZE = 1 << 20

_CONV = (("weight", "stride", "padding", "dilation", "groups"), ("bias", "input_shape"))
_POOL: tuple[tuple[str, ...], tuple[str, ...]] = (("kernel_size", "stride", "padding"), ())
#: Fields that a node type needs, and others that it may have.
FIELDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "Input": (("shape",), ()),
    "Output": ((), ("shape",)),
    "Affine": (("weight",), ("bias",)),
    "Linear": (("weight",), ()),
    "Scale": (("scale",), ()),
    "Conv1d": _CONV,
    "Conv2d": _CONV,
    "SumPool2d": _POOL,
    "AvgPool2d": _POOL,
    "Flatten": ((), ("start_dim", "end_dim")),
    "Delay": (("delay",), ()),
    "I": (("r",), ()),
    "IF": (("r", "v_threshold"), ("v_reset",)),
    "LI": (("tau", "r", "v_leak"), ()),
    "LIF": (("tau", "r", "v_leak", "v_threshold"), ("v_reset",)),
    "CubaLIF": (("tau_syn", "tau_mem", "r", "v_leak", "v_threshold"), ("v_reset", "w_in")),
}
#: Fields that some writers add and that say nothing we do not infer.
_IDLE = {"input_type", "output_type", "name"}
#: Fields with one number for each neuron, or one for all.
_PER_NEURON = {"scale", "r", "tau", "tau_syn", "tau_mem", "w_in", "v_leak", "v_threshold", "v_reset"}


@dataclass(frozen=True)
class Choices:
    """What NIR leaves open; `spikeloom.files.nir.read_nir` says what each means."""

    dt_s: float | None = None
    reset: Reset = "hard"
    strict: bool = False
    discretisation: Discretisation = "euler"
    loop_delay: int | None = None
    encoding: Encoding = "spikes"
    if_gain: IfGain = "auto"

    def __post_init__(self) -> None:
        if self.dt_s is not None and not (math.isfinite(self.dt_s) and self.dt_s > 0):
            raise NetworkFileError(f"dt_s got {self.dt_s}, expected a positive number of seconds")
        if self.loop_delay is not None and not 1 <= self.loop_delay <= _MAX_SIZE:
            raise NetworkFileError(
                f"loop_delay got {self.loop_delay}, expected a whole number of steps of 1 to {_MAX_SIZE}"
            )
        for key, kind in (
            ("reset", Reset),
            ("discretisation", Discretisation),
            ("encoding", Encoding),
            ("if_gain", IfGain),
        ):
            if getattr(self, key) not in get_args(kind):
                raise NetworkFileError(f"{key} got {getattr(self, key)!r}, expected one of {list(get_args(kind))}")


@dataclass(frozen=True, eq=False)
class Part:
    """A node as a file has it.

    where: file, name and type for messages. values: its datasets. stated: what a network of ours wrote beside them.
    """

    where: str
    kind: str
    values: Mapping[str, np.ndarray | str]
    stated: Mapping[str, Any] = field(default_factory=dict)

    def fail(self, text: str) -> NetworkFileError:
        """The error to raise about this node."""
        return NetworkFileError(f"{self.where}: {text}")

    def numbers(self, key: str, default: float | None = None) -> np.ndarray:
        """Field ``key`` as float64 without leading axes of size 1, 0-d for a single number; ``default`` where it is absent."""
        value = self.values.get(key)
        if value is None and default is not None:
            return np.array(default)
        if not isinstance(value, np.ndarray):
            raise self.fail(f"got {value!r} for {key}, expected numbers")
        if value.size == 0:
            raise self.fail(f"{key} is empty, expected one number or one for each neuron")
        return squeezed(value.astype(np.float64))

    def positive(self, key: str, default: float | None = None) -> np.ndarray:
        """As `numbers`, all above 0."""
        value = self.numbers(key, default)
        if not (value > 0).all():
            raise self.fail(f"got {key} {value.min():.6g}, expected positive numbers")
        return value

    def whole(self, key: str, length: int, low: int, default: int | None = None) -> tuple[int, ...]:
        """Field ``key`` as ``length`` whole numbers of at least ``low``; a single one stands for all."""
        value = self.values.get(key)
        if value is None and default is not None:
            return (default,) * length
        if not isinstance(value, np.ndarray) or value.size not in (1, length) or not (value == np.rint(value)).all():
            shown = value.ravel()[:8].tolist() if isinstance(value, np.ndarray) else repr(value)
            raise self.fail(f"got {key} {shown}, expected {length} whole number{'s' * (length > 1)}")
        found = [int(v) for v in value.ravel()]
        if not all(low <= v <= _MAX_SIZE for v in found):
            raise self.fail(f"got {key} {found}, expected numbers of {low} to {_MAX_SIZE}")
        return tuple(found * length if len(found) == 1 else found)


def squeezed(array: np.ndarray) -> np.ndarray:
    """Without leading axes of size 1 (a batch axis, a scalar kept as [1]); 0-d for a single number."""
    return array.reshape(squeezed_shape(array.shape))


def squeezed_shape(shape: Shape) -> Shape:
    """Without leading axes of size 1."""
    while shape and shape[0] == 1:
        shape = shape[1:]
    return shape


def check_fields(part: Part) -> None:
    """Raise NetworkFileError for a type that we do not read, a field that is absent or one that we do not know."""
    if part.kind not in FIELDS:
        raise part.fail(f"this type is not read; expected one of {', '.join(FIELDS)}")
    needed, optional = FIELDS[part.kind]
    for key in needed:
        if key not in part.values:
            raise part.fail(f"has no {key}; expected the fields {', '.join(needed)}")
    unknown = sorted(set(part.values) - {*needed, *optional} - _IDLE)
    if unknown:
        raise part.fail(f"has the unknown field '{unknown[0]}', expected {', '.join((*needed, *optional))}")


def holds_times(part: Part) -> bool:
    """True for a node that has no meaning without a time step."""
    return part.kind in ("LI", "LIF", "CubaLIF") or (part.kind == "Delay" and bool(part.numbers("delay").any()))


def check_map(part: Part, shape: Shape) -> None:
    """Raise NetworkFileError where values of one for each neuron do not fit the map that arrives."""
    keys = _PER_NEURON | ({"delay"} if part.kind == "Delay" else set())
    for key in sorted(keys & set(part.values)):
        value = part.values[key]
        assert isinstance(value, np.ndarray)
        got, expected = squeezed(value).shape, squeezed_shape(shape)
        if got and (len(got) != len(expected) or any(a not in (1, b) for a, b in zip(got, expected, strict=True))):
            raise part.fail(f"got {key} of shape {list(value.shape)}, expected one number or its map {list(shape)}")


def read_nodes(name: str, part: Part, choices: Choices) -> dict[str, Node]:
    """Our nodes for node ``name``, in the order in which data passes them.

    Raises:
        NetworkFileError: naming the node: what it states cannot be said in our words, or not without a time step.
    """
    check_fields(part)
    match part.kind:
        case "Input":
            return {name: Input(shape_of(part), _stated_word(part, "encoding", Encoding, choices.encoding))}
        case "Output":
            return {name: Output(shape_of(part) if "shape" in part.values else ())}
        case "Affine" | "Linear":
            return {name: _linear(part)}
        case "Conv1d" | "Conv2d":
            return {name: _conv(part)}
        case "SumPool2d" | "AvgPool2d":
            return {name: _pool(part)}
        case "Scale":
            part.numbers("scale")
            return {name: Scale(squeezed(_floats(part, "scale")))}
        case "Flatten":
            return {name: Flatten()}  # its axes are checked when the map is known, see `check_flatten`
        case "Delay":
            return {name: _delay(part, choices)}
        case "I" | "LI":
            return _integrator(name, part, choices)
        case "IF":
            return {name: IF(**_firing(part, choices, _if_gain(part, choices), np.array(0.0)))}
        case "LIF":
            share, kept = _step(part, choices, "tau")
            _one_shape(part, "tau", "r", "v_leak", "v_threshold", "v_reset")
            gain = _one(part.positive("r") * share, part, "tau", "r")
            return {name: LIF(_leak(part, "leak", kept), **_firing(part, choices, gain, part.numbers("v_leak")))}
    share, kept = _step(part, choices, "tau_mem")
    syn_share, syn_kept = _step(part, choices, "tau_syn")
    _one_shape(part, "tau_mem", "tau_syn", "r", "w_in", "v_leak", "v_threshold", "v_reset")
    gain = part.positive("w_in", 1.0) * syn_share * part.positive("r") * share
    gain = _one(gain, part, "tau_mem", "tau_syn", "r", "w_in")
    firing = _firing(part, choices, gain, part.numbers("v_leak"))
    return {name: CubaLIF(_leak(part, "leak", kept), _leak(part, "syn_leak", syn_kept), **firing)}


def shape_of(part: Part) -> Shape:
    """The shape that an Input or Output states."""
    value = part.values["shape"]
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iu" or value.ndim > 1 or not 1 <= value.size <= 5:
        raise part.fail(f"got shape {value!r}, expected whole numbers [C, H, W] or [C]")
    shape = tuple(int(v) for v in np.atleast_1d(value))
    if min(shape) < 1:
        raise part.fail(f"got shape {list(shape)}, expected sizes of at least 1")
    return shape


def check_flatten(part: Part, shape: Shape) -> bool:
    """Raise NetworkFileError unless the whole map ``shape`` is flattened.

    NIR counts axes without the batch, but its default start_dim=1 and some writers count one.

    Returns:
        True when start_dim=1 was read so: as the first axis of the map.
    """
    limits = []
    for key, default in (("start_dim", 1), ("end_dim", -1)):
        (value,) = part.whole(key, 1, -_MAX_SIZE, default)
        limits.append(value)
    start, end = limits
    rank = len(shape)
    if start in (0, -rank) and end in (-1, rank - 1):
        return False
    if start == 1 and end in (-1, rank):
        return rank > 1
    raise part.fail(
        f"flattens axes {start} to {end} of a map {list(shape)}; only all of it can be flattened (start_dim 0, end_dim -1)"
    )


def _floats(part: Part, key: str) -> np.ndarray:
    """Field ``key`` in float32 or float64, as the file has it; anything else becomes float32."""
    value = part.values[key]
    if not isinstance(value, np.ndarray):
        raise part.fail(f"got {value!r} for {key}, expected numbers")
    return np.ascontiguousarray(
        value, np.float64 if value.dtype.kind == "f" and value.dtype.itemsize >= 8 else np.float32
    )


def _weights(part: Part, rank: int, shape: str) -> dict[str, Any]:
    """weight, bias and bit widths of a synapse. A bias that is 0 everywhere is none: NIR's convolutions cannot be without."""
    weight = _floats(part, "weight")
    if weight.ndim != rank or weight.size == 0:
        raise part.fail(f"got a weight of shape {list(weight.shape)}, expected {shape}")
    found: dict[str, Any] = {"weight": weight}
    if "bias" in part.values:
        bias = _floats(part, "bias")
        if bias.size != 1 and bias.shape != weight.shape[:1]:
            raise part.fail(f"got a bias of shape {list(bias.shape)}, expected [{weight.shape[0]}]")
        if bias.any() or part.stated.get("has_bias") is True:
            found |= {
                "bias": np.ascontiguousarray(np.broadcast_to(bias.reshape(-1), weight.shape[:1])),
                "has_bias": True,
            }
    for key in ("weight_bits", "bias_bits"):
        bits = part.stated.get(key)
        if bits is not None:
            if type(bits) is not int or not 1 <= bits <= 64:
                raise part.fail(f"got {key} {bits!r}, expected 1..64")
            found[key] = bits
    return found


def _linear(part: Part) -> Linear:
    found = _weights(part, 2, "[K, C]")
    out_features, in_features = found["weight"].shape
    return Linear(in_features, out_features, **found)


def _conv(part: Part) -> Conv1d | Conv2d:
    rank = 1 if part.kind == "Conv1d" else 2
    found = _weights(part, rank + 2, "[K, C, S]" if rank == 1 else "[K, C, R, S]")
    out_channels, channels, *kernel = found["weight"].shape
    stride, dilation = (part.whole(key, rank, 1) for key in ("stride", "dilation"))
    (groups,) = part.whole("groups", 1, 1)
    found |= {"in_channels": channels * groups, "out_channels": out_channels, "groups": groups}
    sizes: dict[str, Any] = {
        "kernel": tuple(kernel),
        "stride": stride,
        "padding": _padding(part, kernel, stride, dilation),
        "dilation": dilation,
    }
    if rank == 1:
        return Conv1d(**found, **{key: value[0] for key, value in sizes.items()})
    return Conv2d(**found, **sizes)


def _padding(part: Part, kernel: list[int], stride: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[int, ...]:
    padding = part.values["padding"]
    if not isinstance(padding, str):
        return part.whole("padding", len(kernel), 0)
    spans = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    if padding == "valid":
        return (0,) * len(kernel)
    if padding == "same" and all(s == 1 for s in stride) and not any(span % 2 for span in spans):
        return tuple(span // 2 for span in spans)
    raise part.fail(
        f"got padding '{padding}' with kernel {kernel} and stride {list(stride)}, expected numbers, 'valid', or 'same' with stride "
        "1 and odd kernels"
    )


def _pool(part: Part) -> SumPool2d | AvgPool2d:
    kernel, stride = ((a, b) for a, b in (part.whole(key, 2, 1) for key in ("kernel_size", "stride")))
    up, left = part.whole("padding", 2, 0)
    if up > kernel[0] // 2 or left > kernel[1] // 2:
        raise part.fail(f"got padding {[up, left]} for a window of {list(kernel)}, expected at most half the window")
    return (SumPool2d if part.kind == "SumPool2d" else AvgPool2d)(kernel, stride, (up, left))


def _needed_step(part: Part, choices: Choices) -> float:
    if choices.dt_s is None:
        raise part.fail(
            "holds times in seconds and NIR states no time step; give one: dt_s (on the command line: --dt-ms)"
        )
    return choices.dt_s


def _delay(part: Part, choices: Choices) -> Delay:
    delay = part.numbers("delay")
    if (delay != delay.flat[0]).any():
        raise part.fail(
            f"delays of {delay.min():.6g} to {delay.max():.6g} s differ between neurons, expected one for all"
        )
    seconds = float(delay.flat[0])
    if seconds == 0:
        return Delay(0)
    dt_s = _needed_step(part, choices)
    steps = seconds / dt_s
    if not 0 <= steps <= _MAX_SIZE or abs(steps - round(steps)) > 1e-6 * max(1.0, steps):
        raise part.fail(
            f"a delay of {seconds:.6g} s is {steps:.6g} steps of {dt_s:.6g} s, expected a whole number; change dt_s"
        )
    return Delay(round(steps))


def _step(part: Part, choices: Choices, key: str) -> tuple[np.ndarray, np.ndarray]:
    """What one step adds of the input, and what it keeps, for time constant ``key``; see the equations above."""
    dt_s = _needed_step(part, choices)
    tau = part.positive(key)
    if choices.discretisation == "exponential":
        return -np.expm1(-dt_s / tau), np.exp(-dt_s / tau)
    if dt_s > tau.min() * (1 + 1e-6):  # a time constant in float32 may be a little less than meant
        raise part.fail(
            f"a step of {dt_s:.6g} s is longer than {key} {tau.min():.6g} s; expected a shorter step (or discretisation='exponential')"
        )
    share = np.minimum(dt_s / tau, 1.0)
    return share, 1 - share


def _one_shape(part: Part, *keys: str) -> None:
    shapes = {key: part.numbers(key).shape for key in keys if key in part.values}
    try:
        np.broadcast_shapes(*shapes.values())
    except ValueError:
        listed = ", ".join(f"{key} {list(shape)}" for key, shape in shapes.items())
        raise part.fail(f"has values of different shapes ({listed}), expected one shape") from None


def _one(gain: np.ndarray, part: Part, *keys: str) -> np.ndarray:
    """``gain``, or 1 where it differs from 1 by no more than the rounding of the fields it comes from."""
    stored = [part.values[key] for key in keys if key in part.values]
    floats = [v.dtype for v in stored if isinstance(v, np.ndarray) and v.dtype.kind == "f"]
    rounding = max((float(np.finfo(dtype).eps) for dtype in floats), default=0.0)
    return np.array(1.0) if (np.abs(gain - 1) <= 16 * rounding).all() else gain


def _if_gain(part: Part, choices: Choices) -> np.ndarray:
    """How much of what arrives one step adds to the membrane of an IF or I."""
    r = part.positive("r")
    if choices.if_gain == "per_step":
        return r
    if choices.if_gain == "per_second":
        return _one(r * _needed_step(part, choices), part, "r")
    for gain in (r, r * (choices.dt_s or 0.0)):
        if np.allclose(gain, 1.0, rtol=1e-5, atol=0):
            return np.array(1.0)
    step = "no step was given" if choices.dt_s is None else f"the step is {choices.dt_s:.6g} s"
    raise part.fail(
        f"got r {r.min():.6g} and {step}; writers mean one step with r = 1 or r = 1/dt, so give the dt_s it was written with, or say "
        "if_gain='per_step' (v += r*I) or 'per_second' (v += r*dt*I)"
    )


def _integrator(name: str, part: Part, choices: Choices) -> dict[str, Node]:
    """LI and I are read-outs whose values matter: their gain stands before them as a Scale."""
    if part.kind == "I":
        gain, leak = _if_gain(part, choices), None
    else:
        share, kept = _step(part, choices, "tau")
        _one_shape(part, "tau", "r", "v_leak")
        gain, leak = _one(part.positive("r") * share, part, "tau", "r"), _leak(part, "leak", kept)
        if part.numbers("v_leak").any():
            raise part.fail("has a v_leak other than 0, which would add to every output; set it to 0")
    found: dict[str, Node] = {} if (gain == 1).all() else {f"{name}.scale": Scale(gain.astype(np.float32))}
    return {**found, name: LI(leak)}


def compact(array: np.ndarray) -> Value:
    """One number where all are equal."""
    return float(array.flat[0]) if (array == array.flat[0]).all() else array


def _leak(part: Part, key: str, kept: np.ndarray) -> Leak:
    """The leak that keeps ``kept``; as our writer stated it, as long as the time constant beside it still says the same."""
    stated = part.stated.get(key)
    if stated is not None:
        leak = None
        if isinstance(stated, np.ndarray) and stated.dtype.kind == "f" and ((stated >= 0) & (stated <= 1)).all():
            leak = Leak(factor=stated)
        elif isinstance(stated, dict) and type(stated.get("shift")) is int and 1 <= stated["shift"] <= 31:
            leak = Leak(shift=stated["shift"])
        elif isinstance(stated, dict) and type(stated.get("factor")) in (int, float) and 0 <= stated["factor"] <= 1:
            leak = Leak(factor=float(stated["factor"]))
        if leak is None:
            raise part.fail(f"states the {key} {stated!r}, expected a shift of 1..31 or a factor of 0..1")
        given = squeezed(np.asarray(leak.kept))
        fits = given.ndim <= kept.ndim and all(
            a in (1, b) for a, b in zip(given.shape[::-1], kept.shape[::-1], strict=False)
        )
        if fits and np.allclose(given, kept, rtol=0, atol=1e-9):
            return leak
    return Leak(factor=compact(kept))


def _stated_word(part: Part, key: str, kind: Any, default: Any) -> Any:
    """What our writer stated for ``key``, one of the words of the literal type ``kind``."""
    value = part.stated.get(key, default)
    if value not in get_args(kind):
        raise part.fail(f"states {key} {value!r}, expected one of {list(get_args(kind))}")
    return value


def _firing(part: Part, choices: Choices, gain: np.ndarray, v_leak: np.ndarray) -> dict[str, Any]:
    """Threshold, reset and start of a spiking neuron, in units of the gain and measured from v_leak."""
    _one_shape(part, "r", "v_threshold", "v_reset")
    with np.errstate(over="ignore"):
        threshold = np.asarray((part.numbers("v_threshold") - v_leak) / gain)
        v_reset = np.asarray((part.numbers("v_reset", 0.0) - v_leak) / gain)
    if not ((threshold > 0) & np.isfinite(threshold)).all():
        raise part.fail(f"its v_threshold lies {threshold.min():.6g} above v_leak, expected a positive distance")
    if not np.isfinite(v_reset).all():
        raise part.fail(
            f"its v_reset {part.numbers('v_reset', 0.0).min():.6g} is too large for its gain; expected a number near the threshold"
        )
    reset = _stated_word(part, "reset", Reset, choices.reset)
    if reset == "soft" and v_leak.any():
        raise part.fail(
            "has a v_leak other than 0; a soft reset would subtract the threshold measured from 0, which we cannot say"
        )
    strict = part.stated.get("strict", choices.strict)
    v_init = part.stated.get("v_init", 0.0)
    if not isinstance(strict, bool) or not isinstance(v_init, (int, float, np.ndarray)):
        raise part.fail(f"states strict {strict!r} and v_init {v_init!r}, expected true or false, and a number")
    return {
        "v_threshold": compact(threshold), "v_reset": compact(v_reset), "reset": reset, "strict": strict,
        "v_init": v_init if isinstance(v_init, np.ndarray) else float(v_init),
    }  # fmt: skip
