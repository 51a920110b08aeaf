"""Layers and functions of plain torch as nodes; always as they compute in evaluation mode.

Source: the documentation of torch.nn and torch.nn.functional.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from spikeloom.core.nodes import (
    AvgPool2d,
    BatchNorm,
    ClippedReLU,
    Conv1d,
    Conv2d,
    Flatten,
    Linear,
    MaxPool2d,
    ReLU,
    SumPool2d,
)
from spikeloom.snn.importers.assembly import SAMPLES, STEPS, Handler, Part, Site


def linear(module: Any, site: Site) -> Part:
    """nn.Linear, which acts on the last dimension: the only one that a node's map may have."""
    weight, bias = _weights(module, site)
    return Part({"": Linear(weight.shape[1], weight.shape[0], bias is not None, weight=weight, bias=bias)})


def conv2d(module: Any, site: Site) -> Part:
    """nn.Conv2d with zero padding, as many on either side."""
    weight, bias = _weights(module, site)
    (r, s), padding = module.kernel_size, _padding(module, site)
    node = Conv2d(
        module.in_channels, module.out_channels, (r, s), _pair(site, module.stride), (padding[0], padding[1]),
        _pair(site, module.dilation), module.groups, bias is not None, weight=weight, bias=bias,
    )  # fmt: skip
    return Part({"": node})


def conv1d(module: Any, site: Site) -> Part:
    """nn.Conv1d with zero padding, as many on either side."""
    weight, bias = _weights(module, site)
    node = Conv1d(
        module.in_channels, module.out_channels, module.kernel_size[0], module.stride[0], _padding(module, site)[0],
        module.dilation[0], module.groups, bias is not None, weight=weight, bias=bias,
    )  # fmt: skip
    return Part({"": node})


def batch_norm(module: Any, site: Site) -> Part:
    """nn.BatchNorm1d/2d with running statistics, with or without scale and shift."""
    site.need(
        module.running_mean is not None and module.running_var is not None,
        "has no running statistics (track_running_stats=False); what it computes depends on the batch",
    )
    ones = np.ones(module.num_features, np.float32)
    node = BatchNorm(
        module.num_features,
        module.eps,
        ones if module.weight is None else site.array("weight", module.weight),
        ones * 0 if module.bias is None else site.array("bias", module.bias),
        site.array("running_mean", module.running_mean),
        site.array("running_var", module.running_var),
    )
    return Part({"": node})


def relu(site: Site, inplace: bool = False) -> Part:
    """``max(x, 0)``."""
    return Part({"": ReLU()}, in_place=inplace)


def relu6(site: Site, inplace: bool = False) -> Part:
    """``clip(x, 0, 6)``."""
    return Part({"": ClippedReLU(6.0)}, in_place=inplace)


def hardtanh(site: Site, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Part:
    """``clip(x, 0, max_val)``; no other lower end."""
    site.need(
        min_val == 0 and max_val > 0, f"clips to {min_val}..{max_val}, expected 0..ceiling; use ReLU6 or Hardtanh(0, c)"
    )
    return Part({"": ClippedReLU(float(max_val))}, in_place=inplace)


def clamp(site: Site, min: float | None = None, max: float | None = None) -> Part:
    """``clip(x, 0, max)``, or a ReLU where there is no upper end."""
    site.need(isinstance(min, int | float) and min == 0, f"clamps from {min}, expected 0")
    return relu(site) if max is None else hardtanh(site, 0.0, max)


def avg_pool2d(
    site: Site,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Part:
    """Mean over windows, zeros of the padding counted; a divisor of 1 makes it a sum."""
    kernel, steps, pad = _window(site, kernel_size, stride, padding, 1, ceil_mode)
    site.need(
        count_include_pad or pad == (0, 0),
        "leaves the padding out of its mean (count_include_pad=False), expected True",
    )
    if divisor_override == 1:
        return Part({"": SumPool2d(kernel, steps, pad)})
    site.need(
        divisor_override in (None, prod(kernel)),
        f"divides by {divisor_override}, expected 1 or the {prod(kernel)} positions of its window",
    )
    return Part({"": AvgPool2d(kernel, steps, pad)})


def adaptive_avg_pool2d(site: Site, output_size: Any) -> Part:
    """Mean over windows that tile the map evenly."""
    site.need(len(site.shape) == 3, f"gets a map of shape {list(site.shape)}, expected [C, H, W]")
    wanted = output_size if isinstance(output_size, Sequence) else (output_size, output_size)
    height, width = site.shape[1:]
    rows, columns = (have if want is None else int(want) for want, have in zip(wanted, (height, width), strict=True))
    site.need(
        rows > 0 and columns > 0 and height % rows == 0 and width % columns == 0,
        f"averages a map of {height}x{width} to {rows}x{columns}, which do not divide it evenly; choose another size",
    )
    kernel = (height // rows, width // columns)
    return Part({"": AvgPool2d(kernel, kernel)})


def max_pool2d(
    site: Site,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Part:
    """Maximum over windows."""
    site.need(not return_indices, "returns indices (return_indices=True), expected the maxima alone")
    return Part({"": MaxPool2d(*_window(site, kernel_size, stride, padding, dilation, ceil_mode))})


def flatten(site: Site, start_dim: int = 0, end_dim: int = -1) -> Part:
    """All dimensions of the map into one."""
    rank = len(site.sizes)
    start, end = (dim + rank if dim < 0 else dim for dim in (start_dim, end_dim))
    site.need(
        start == site.leading and end == rank - 1,
        f"flattens dimensions {start_dim}..{end_dim} of {_shown(site)}, expected all of the map and no others",
    )
    return Part({"": Flatten()} if len(site.shape) > 1 else {})


def view(site: Site, *shape: Any) -> Part:
    """``x.view(N, -1)`` and its kin: a flatten, or nothing at all."""
    sizes = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], Sequence) else shape
    front, back = sizes[: site.leading], sizes[site.leading :]
    fits = all(a in (b, -1) for a, b in zip(front, site.sizes, strict=False)) and sizes.count(-1) <= 1
    if fits and len(back) == len(site.shape) and all(a in (b, -1) for a, b in zip(back, site.shape, strict=True)):
        return Part()
    words = ", ".join({SAMPLES: "N", STEPS: "T"}.get(size, str(size)) for size in sizes)
    site.need(
        fits and len(back) == 1 and back[0] in (-1, prod(site.shape)),
        f"makes ({words}) of {_shown(site)}, expected a flatten such as x.flatten({site.leading})",
    )
    return Part({"": Flatten()})


def mean(site: Site, dim: Any = None, keepdim: bool = False) -> Part:
    """Mean over the whole map of each channel; over time only at the end, where it is left out."""
    rank = len(site.sizes)
    dims = dim if isinstance(dim, Sequence) else () if dim is None else (dim,)
    found = sorted(d + rank if d < 0 else d for d in dims)
    if site.time == "sequence" and found == [0]:
        return Part(last=True, over_time=not keepdim, ending=lambda y: y.mean(0, keepdim))
    site.need(
        len(site.shape) == 3 and found == [rank - 2, rank - 1],
        f"averages dimensions {dim} of {_shown(site)}, expected height and width of a map",
    )
    kernel = (site.shape[1], site.shape[2])
    pooled = {"pool" if not keepdim else "": AvgPool2d(kernel, kernel)}
    return Part(pooled if keepdim else {**pooled, "": Flatten()})


def total(site: Site, dim: Any = None, keepdim: bool = False) -> Part:
    """Sum over time, only at the end, where it is left out."""
    site.need(site.time == "sequence" and dim in (0, (0,), [0]), f"sums dimension {dim}, which no node does")
    return Part(last=True, over_time=not keepdim, ending=lambda y: y.sum(0, keepdim))


def passed(site: Site, *_: Any, **__: Any) -> Part:
    """Nothing in evaluation mode."""
    return Part()


def dropout(site: Site, p: float = 0.5, training: bool = True, inplace: bool = False) -> Part:
    """Nothing, unless it is told to go on at random in evaluation too: the default of F.dropout."""
    site.need(not training, "drops at random in evaluation too (training=True); pass training=self.training")
    return Part()


def softmax(site: Site, dim: Any = None) -> Part:
    """Left out at the end of a network: over the classes it keeps their order."""
    rank = len(site.sizes)
    axis = (0 if rank in (1, 3) else 1) if dim is None else dim  # torch's own choice
    site.need(
        axis in (site.leading, site.leading - rank) and prod(site.shape[1:]) == 1,
        f"acts along dimension {axis} of {_shown(site)}, expected the classes of (N, K) and nothing else; leave it out",
    )
    function, classes = torch.log_softmax if "log" in site.kind.lower() else torch.softmax, -len(site.shape)
    return Part(last=True, ending=lambda y: function(y, classes))


def _weights(module: Any, site: Site) -> tuple[np.ndarray, np.ndarray | None]:
    return site.array("weight", module.weight), None if module.bias is None else site.array("bias", module.bias)


def _padding(module: Any, site: Site) -> tuple[int, ...]:
    """Zeros on either side, for each dimension of the map."""
    site.need(module.padding_mode == "zeros", f"pads with '{module.padding_mode}', expected zeros")
    if module.padding == "valid":
        return (0,) * len(module.kernel_size)
    if module.padding != "same":
        return tuple(module.padding)
    sums = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    site.need(
        all(total % 2 == 0 for total in sums),
        f"has padding 'same' with a kernel of {list(module.kernel_size)}, which pads one side more; use an odd kernel",
    )
    return tuple(total // 2 for total in sums)


def _pair(site: Site, value: Any) -> tuple[int, int]:
    values = tuple(value) if isinstance(value, Sequence) else (value, value)
    values = values * 2 if len(values) == 1 else values
    site.need(len(values) == 2 and all(isinstance(v, int) for v in values), f"has sizes {value}, expected two numbers")
    return values[0], values[1]


def _window(
    site: Site, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Kernel, stride and padding of a pool."""
    kernel, pad = _pair(site, kernel_size), _pair(site, padding)
    steps = kernel if stride is None or stride == [] else _pair(site, stride)
    site.need(_pair(site, dilation) == (1, 1), f"has dilation {dilation}, expected 1")
    if ceil_mode and len(site.shape) == 3:
        rest = [(site.shape[a + 1] + 2 * pad[a] - kernel[a]) % steps[a] for a in (0, 1)]
        site.need(
            rest == [0, 0],
            f"rounds its size up (ceil_mode=True) on a map of {list(site.shape)}; expected windows that fit",
        )
    return kernel, steps, pad


def _shown(site: Site) -> str:
    """The framework's tensor for a message."""
    return f"({', '.join([*('T', 'N')[-site.leading :], *(str(size) for size in site.shape)])})"


def _whole_map(handler: Handler) -> Handler:
    """Layers that take (N, C, H, W) or (N, C) only: between layers that take all steps at once they stand in a container."""

    def checked(module: Any, site: Site) -> Part:
        site.need(
            site.time != "sequence", "takes one step, but gets (T, N, ...); use the framework's layer for all steps"
        )
        return handler(module, site)

    return checked


#: torch.nn classes by name.
LAYERS: dict[str, Handler] = {
    "Linear": linear,
    "Conv1d": _whole_map(conv1d),
    "Conv2d": _whole_map(conv2d),
    "BatchNorm1d": _whole_map(batch_norm),
    "BatchNorm2d": _whole_map(batch_norm),
    "ReLU": lambda m, site: relu(site, m.inplace),
    "ReLU6": lambda m, site: relu6(site, m.inplace),
    "Hardtanh": lambda m, site: hardtanh(site, m.min_val, m.max_val, m.inplace),
    "AvgPool2d": _whole_map(
        lambda m, site: avg_pool2d(
            site, m.kernel_size, m.stride, m.padding, m.ceil_mode, m.count_include_pad, m.divisor_override
        )
    ),
    "AdaptiveAvgPool2d": _whole_map(lambda m, site: adaptive_avg_pool2d(site, m.output_size)),
    "MaxPool2d": _whole_map(
        lambda m, site: max_pool2d(site, m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode, m.return_indices)
    ),
    "Flatten": lambda m, site: flatten(site, m.start_dim, m.end_dim),
    **dict.fromkeys(("Identity", "Dropout", "Dropout1d", "Dropout2d"), lambda m, site: Part()),
    **dict.fromkeys(("Softmax", "LogSoftmax"), lambda m, site: softmax(site, m.dim)),
}

#: Functions and, by name, methods of a tensor: what they become.
FUNCTIONS: dict[Callable[..., Any] | str, Callable[..., Part]] = {
    **dict.fromkeys((F.relu, torch.relu, "relu", torch.relu_, "relu_"), relu),
    **dict.fromkeys((torch.clamp, torch.clip, "clamp", "clip", torch.clamp_, "clamp_", torch.clip_, "clip_"), clamp),
    F.relu6: relu6, F.hardtanh: hardtanh, F.hardtanh_: hardtanh,
    F.avg_pool2d: avg_pool2d, F.adaptive_avg_pool2d: adaptive_avg_pool2d, F.max_pool2d: max_pool2d, torch.max_pool2d: max_pool2d,
    torch.flatten: flatten, "flatten": flatten, torch.reshape: view, "view": view, "reshape": view,
    torch.mean: mean, "mean": mean, torch.sum: total, "sum": total,
    F.dropout: dropout, F.dropout1d: dropout, F.dropout2d: dropout,
    **dict.fromkeys(("contiguous", "detach", "detach_", "requires_grad_", "float"), passed),
    **dict.fromkeys((F.softmax, torch.softmax, "softmax"), softmax),
    **dict.fromkeys((F.log_softmax, torch.log_softmax, "log_softmax"), softmax),
}  # fmt: skip
#: Sums of two maps.
SUMS: set[Callable[..., Any] | str] = {operator.add, operator.iadd, torch.add, "add", "add_"}
