"""Where bfloat16 and channels-last pay, decided from capability flags and shapes alone, so that a run can be repeated.

Rule for bfloat16 ("auto"): the processor multiplies bfloat16 faster than float32, and one sample needs at least 10 million
multiplications a step; below, converting weights and maps costs more than is saved. Faster are: CPUs with the flag amx_bf16; CPUs
with avx512_bf16 that are not Intel's (AMD Zen 5: convolutions 2 to 3 times the rate of float32; an Intel Xeon with that flag
and no AMX: 0.3 to 1.2 times, since it issues the instruction at half the rate of a float32 FMA); CUDA devices that say so.
Elsewhere oneDNN emulates bfloat16 slower than float32. Master weights, membranes, losses and
optimiser state are float32 either way, and recording and evaluation always run in float32.

Rule for channels-last ("auto"): some Conv2d has at least 16 input channels, the width of one vector of float32.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from spikeloom.core.network import Network
from spikeloom.core.nodes import Conv1d, Conv2d, Linear
from spikeloom.errors import NetworkError

Precision = Literal["fp32", "bf16", "auto"]

_BF16_MACS = 10_000_000
_VECTOR_CHANNELS = 16


def resolve_device(name: str) -> torch.device:
    """The device called ``name``; "auto" is CUDA where there is one, else the CPU.

    Raises:
        NetworkError: CUDA was asked for and is absent, or the name is unknown.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.split(":")[0] not in ("cpu", "cuda"):
        raise NetworkError(f"unknown device '{name}', expected auto, cpu or cuda")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise NetworkError(f"device '{name}' asked for, but torch sees no CUDA device; use 'auto' or 'cpu'")
    return torch.device(name)


def has_fast_bf16(device: torch.device) -> bool:
    """True where bfloat16 multiplies faster than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # torch before 2.10 cannot say; then float32 is the safe answer.
    capabilities = torch.cpu.get_capabilities() if "get_capabilities" in torch.cpu.__all__ else {}
    intel = "intel" in str(capabilities.get("cpu_name", "")).lower()
    return bool(capabilities.get("amx_bf16")) or (bool(capabilities.get("avx512_bf16")) and not intel)


def uses_bf16(precision: Precision, network: Network, device: torch.device) -> bool:
    """True when a run shall multiply in bfloat16; the rule is in the module's docstring.

    Raises:
        NetworkError: unknown precision.
    """
    if precision not in ("fp32", "bf16", "auto"):
        raise NetworkError(f"unknown precision '{precision}', expected fp32, bf16 or auto")
    if precision == "auto":
        return has_fast_bf16(device) and macs_per_step(network) >= _BF16_MACS
    return precision == "bf16"


def uses_channels_last(channels_last: bool | None, network: Network) -> bool:
    """True when maps shall be stored channels-last; None means the rule in the module's docstring."""
    if channels_last is not None:
        return channels_last
    return any(isinstance(n, Conv2d) and n.in_channels >= _VECTOR_CHANNELS for n in network.nodes.values())


def macs_per_step(network: Network) -> int:
    """Multiplications one sample needs in one step if no zero is skipped."""
    shapes = network.shapes()
    total = 0
    for name, node in network.nodes.items():
        match node:
            case Conv2d():
                total += math.prod(shapes[name]) * node.in_channels // node.groups * math.prod(node.kernel)
            case Conv1d():
                total += math.prod(shapes[name]) * node.in_channels // node.groups * node.kernel
            case Linear():
                total += node.in_features * node.out_features
    return total


def autocast(bf16: bool, device: torch.device) -> AbstractContextManager[object]:
    """A context in which synapses multiply in bfloat16, or one that changes nothing."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if bf16 else nullcontext()
