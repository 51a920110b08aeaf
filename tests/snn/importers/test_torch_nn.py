"""Plain torch: every layer and function, outputs equal to torch's own within rounding."""

from __future__ import annotations

import ast
import operator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from spikeloom.core.network import Network
from spikeloom.core.nodes import Add, AvgPool2d, ClippedReLU, MaxPool2d, ReLU, SumPool2d
from spikeloom.errors import NetworkError
from spikeloom.files.network import read_network, write_network
from spikeloom.snn import importers
from spikeloom.snn.importers import import_module

from .runs import ours


class Called(nn.Module):
    """A forward made of one function."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """Statistics and weights that no layer starts with."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is not None:
                part.running_mean.normal_(generator=generator)
                assert part.running_var is not None
                part.running_var.uniform_(0.5, 2, generator=generator)
        for parameter in module.parameters():
            parameter.normal_(0, 0.4, generator=generator)
    return module


def same_output(module: nn.Module, in_shape: tuple[int, ...], seed: int = 0) -> Network:
    """Import, run both on random real input, compare; the network for further questions."""
    randomised(module, seed)
    x = torch.randn(5, *in_shape, generator=torch.Generator().manual_seed(seed))
    network = import_module(module, in_shape, encoding="analog")
    assert all(m.training for m in module.modules()), "importing must not change the module"
    module.eval()
    with torch.no_grad():
        expected = module(x)
    torch.testing.assert_close(ours(network, x[None])[0], expected, rtol=1e-5, atol=1e-5)
    return network


LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(7, 4), (7,)),
    "linear without bias": (lambda: nn.Linear(7, 4, bias=False), (7,)),
    "conv": (lambda: nn.Conv2d(3, 4, 3), (3, 8, 7)),
    "conv strided": (lambda: nn.Conv2d(4, 6, (3, 2), stride=(2, 3), padding=(1, 2), dilation=(2, 1), groups=2, bias=False), (4, 9, 10)),
    "conv same": (lambda: nn.Conv2d(2, 3, (3, 5), padding="same", dilation=(2, 1)), (2, 8, 8)),
    "conv valid": (lambda: nn.Conv2d(2, 3, 3, padding="valid"), (2, 8, 8)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2), (4, 15)),
    "conv1d same": (lambda: nn.Conv1d(4, 6, 3, padding="same"), (4, 15)),
    "norm": (lambda: nn.BatchNorm2d(3, eps=0.01), (3, 4, 4)),
    "norm without scale": (lambda: nn.BatchNorm2d(3, affine=False), (3, 4, 4)),
    "norm 1d": (lambda: nn.BatchNorm1d(6), (6,)),
    "norm 1d map": (lambda: nn.Sequential(nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3)), (2, 9)),
    "norm before and behind": (lambda: nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)), (2, 5, 5)),
    "relu": (nn.ReLU, (6,)),
    "relu6": (lambda: nn.Sequential(nn.Linear(6, 9), nn.ReLU6(inplace=True)), (6,)),
    "hardtanh": (lambda: nn.Hardtanh(0, 0.7), (6,)),
    "avg pool": (lambda: nn.AvgPool2d(2), (2, 7, 6)),
    "avg pool padded": (lambda: nn.AvgPool2d(3, stride=2, padding=1), (2, 7, 7)),
    "avg pool rounded up, but even": (lambda: nn.AvgPool2d(2, ceil_mode=True), (2, 6, 6)),
    "avg pool unpadded": (lambda: nn.AvgPool2d((2, 3), (1, 2), count_include_pad=False), (2, 6, 7)),
    "avg pool divided": (lambda: nn.AvgPool2d(2, divisor_override=4), (2, 6, 6)),
    "sum pool": (lambda: nn.AvgPool2d(2, divisor_override=1), (2, 6, 6)),
    "adaptive pool": (lambda: nn.AdaptiveAvgPool2d((2, 3)), (2, 8, 6)),
    "adaptive pool of a side": (lambda: nn.AdaptiveAvgPool2d((None, 2)), (2, 5, 6)),
    "adaptive pool to one": (lambda: nn.AdaptiveAvgPool2d(1), (2, 5, 6)),
    "max pool": (lambda: nn.MaxPool2d(3, stride=2, padding=1), (2, 8, 8)),
    "flatten": (nn.Flatten, (2, 3, 4)),
    "flatten nothing": (nn.Flatten, (5,)),
    "dropped": (lambda: nn.Sequential(nn.Dropout(), nn.Identity(), nn.Linear(5, 3)), (5,)),
    "F.relu": (lambda: Called(F.relu), (5,)),
    "torch.relu": (lambda: Called(torch.relu), (5,)),
    "relu()": (lambda: Called(lambda x: x.relu()), (5,)),
    "F.relu6": (lambda: Called(lambda x: F.relu6(x)), (5,)),
    "F.hardtanh": (lambda: Called(lambda x: F.hardtanh(x, 0.0, 0.5)), (5,)),
    "clamp": (lambda: Called(lambda x: torch.clamp(x, 0, 0.5)), (5,)),
    "clamp()": (lambda: Called(lambda x: x.clamp(min=0, max=0.5)), (5,)),
    "clip without end": (lambda: Called(lambda x: x.clip(min=0)), (5,)),
    "F.avg_pool2d": (lambda: Called(lambda x: F.avg_pool2d(x, 3, 2, padding=1)), (2, 7, 7)),
    "F.adaptive_avg_pool2d": (lambda: Called(lambda x: F.adaptive_avg_pool2d(x, (2, 1))), (2, 4, 6)),
    "F.max_pool2d": (lambda: Called(lambda x: F.max_pool2d(x, 2)), (2, 7, 6)),
    "torch.flatten": (lambda: Called(lambda x: torch.flatten(x, 1)), (2, 3, 4)),
    "flatten()": (lambda: Called(lambda x: x.flatten(start_dim=-3)), (2, 3, 4)),
    "view": (lambda: Called(lambda x: x.view(x.size(0), -1)), (2, 3, 4)),
    "view of shape": (lambda: Called(lambda x: x.view(x.shape[0], x.shape[1] * x.shape[2] * x.shape[3])), (2, 3, 4)),
    "view -1": (lambda: Called(lambda x: x.view(-1, 24)), (2, 3, 4)),
    "reshape": (lambda: Called(lambda x: x.reshape((len_of(x), -1))), (2, 3, 4)),
    "torch.reshape": (lambda: Called(lambda x: torch.reshape(x, (-1, 24))), (2, 3, 4)),
    "view as it is": (lambda: Called(lambda x: x.view(x.size())), (2, 3, 4)),
    "mean": (lambda: Called(lambda x: x.mean((2, 3))), (2, 3, 4)),
    "mean kept": (lambda: Called(lambda x: x.mean(dim=[-1, -2], keepdim=True)), (2, 3, 4)),
    "torch.mean": (lambda: Called(lambda x: torch.mean(x, (2, 3))), (2, 3, 4)),
    "F.dropout": (lambda: Called(lambda x: F.dropout(x, training=False).contiguous()), (5,)),
    "dead code": (lambda: Called(lambda x: (torch.sigmoid(x), x.relu())[1]), (5,)),
    "in place, elsewhere": (lambda: Called(lambda x: (F.relu(x, inplace=True), x)[1]), (5,)),
    "relu_, elsewhere": (lambda: Called(lambda x: (x.relu_(), x + x.flatten(1))[1]), (5,)),
    "in place, but a copy": (lambda: Called(lambda x: (lambda y: y.relu_() + x)(x.clone())), (5,)),
    "add_": (lambda: Called(lambda x: (lambda y: (y.add_(x.flatten(1)), y)[1])(x.clone())), (5,)),
    "in place in a container": (lambda: Preactivated(False), (5,)),
    "in place, result unused": (lambda: Preactivated(True), (5,)),
    "add": (lambda: Called(lambda x: x + x.relu()), (5,)),
    "add itself": (lambda: Called(lambda x: x + x), (5,)),
    "torch.add": (lambda: Called(lambda x: torch.add(x, x.relu())), (5,)),
    "iadd": (lambda: Called(lambda x: operator.iadd(x.relu(), x)), (5,)),
    "sum from 0": (lambda: Called(lambda x: sum([x, x.relu()])), (5,)),
    "nothing": (nn.Identity, (5,)),
}  # fmt: skip


class Preactivated(nn.Module):
    """Its first layer overwrites what the sum then adds."""

    def __init__(self, alone: bool) -> None:
        super().__init__()
        self.layers, self.alone = nn.Sequential(nn.Identity(), nn.ReLU(inplace=True), nn.Linear(5, 5)), alone

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone()
        y = self.layers(x)
        return x if self.alone else x + y


def len_of(x: Tensor) -> int:
    return x.size()[0]


@pytest.mark.parametrize("case", LAYERS)
@pytest.mark.parametrize("seed", [0, 1])
def test_one_layer(case: str, seed: int) -> None:
    make, in_shape = LAYERS[case]
    same_output(make(), in_shape, seed)


class Block(nn.Module):
    """A residual block as torchvision writes it; one ReLU module for both."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.down = nn.Sequential(nn.Conv2d(channels, out, 1, stride), nn.BatchNorm2d(out)) if stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.down is None else self.down(x)
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += identity
        return self.relu(out)  # type: ignore[no-any-return]


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU6(), nn.MaxPool2d(2))
        self.layers = nn.ModuleList([Block(4, 4, 1), Block(4, 8, 2)])
        self.input = nn.Identity()
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor, softmax: bool = True) -> Tensor:
        x = self.stem(self.input(x))
        for layer in self.layers:
            x = layer(x)
        x = self.fc(F.dropout(x.mean((2, 3)), training=self.training))
        return F.log_softmax(x, dim=1) if softmax else x


def test_a_residual_network(tmp_path: Path) -> None:
    module = randomised(Residual())
    network = import_module(module, (3, 8, 8), encoding="analog")
    assert network.metadata["dropped"] == ["log_softmax (log_softmax)"]
    x = torch.randn(5, 3, 8, 8)
    with torch.no_grad():
        expected = module.eval()(x, softmax=False)
    torch.testing.assert_close(ours(network, x[None])[0], expected, rtol=1e-5, atol=1e-5)
    names = list(network.nodes)
    assert names[:4] == ["input_1", "stem.0", "stem.1", "stem.2"]
    assert {"layers.0.conv1", "layers.0.relu", "layers.0.relu_1", "layers.1.down.0"} < set(names)
    assert sum(isinstance(node, Add) for node in network.nodes.values()) == 2
    write_network(tmp_path / "net.npz", network)
    assert read_network(tmp_path / "net.npz").id == network.id


def test_a_layer_that_stands_twice_in_a_row_is_there_twice() -> None:
    shared = nn.Linear(5, 5)
    network = same_output(nn.Sequential(shared, nn.ReLU(), shared), (5,))
    assert list(network.nodes) == ["input", "0", "1", "2", "output"]


def test_what_the_nodes_are() -> None:
    module = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AvgPool2d(2, divisor_override=1), nn.Hardtanh(0, 2), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1)
    )  # fmt: skip
    nodes = import_module(module, (1, 10, 10), encoding="analog", name="kinds", dt_s=0.5)
    assert (nodes.name, nodes.dt_s, nodes.nodes["input"].encoding) == ("kinds", 0.5, "analog")  # type: ignore[union-attr]
    kinds = [type(node) for node in nodes.nodes.values()]
    assert kinds[2:7] == [ReLU, SumPool2d, ClippedReLU, MaxPool2d, AvgPool2d]
    assert nodes.nodes["3"].ceiling == 2.0  # type: ignore[union-attr]


def test_weights_are_copies() -> None:
    module = nn.Linear(3, 2).double()
    node = import_module(module, (3,)).nodes["linear"]
    kept = module.weight.detach().float().numpy().copy()
    with torch.no_grad():
        module.weight.zero_()
    assert node.weight.dtype == np.float32 and np.array_equal(node.weight, kept)  # type: ignore[union-attr]


def test_softmax_only_at_the_end() -> None:
    network = import_module(nn.Sequential(nn.Linear(3, 2), nn.Softmax(1)), (3,))
    assert network.metadata["dropped"] == ["1 (Softmax)"] and network.inputs_of("output") == ("0",)
    with pytest.raises(
        NetworkError, match=r"^node '1' \(Softmax\) .* only be left out at the very end, but '2' follows"
    ):
        import_module(nn.Sequential(nn.Linear(3, 2), nn.Softmax(1), nn.Linear(2, 2)), (3,))


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_random_convolutional_chains(data: st.DataObject) -> None:
    """Windows of every size, stride and padding: the same map, or a map that vanishes and is refused."""
    channels, layers = 2, []
    for _ in range(data.draw(st.integers(1, 4))):
        kernel, stride = (data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3))) for _ in range(2))
        padding = tuple(data.draw(st.integers(0, k // 2)) for k in kernel)
        match data.draw(st.sampled_from(["conv", "avg", "max", "norm", "relu"])):
            case "conv":
                out = data.draw(st.integers(1, 4))
                layers.append(nn.Conv2d(channels, out, kernel, stride, padding))
                channels = out
            case "avg":
                layers.append(nn.AvgPool2d(kernel, stride, padding))
            case "max":
                layers.append(nn.MaxPool2d(kernel, stride, padding))
            case "norm":
                layers.append(nn.BatchNorm2d(channels))
            case _:
                layers.append(nn.ReLU())
    module = nn.Sequential(*layers, nn.Flatten())
    try:
        module.eval()(torch.zeros(1, 2, 9, 8))
    except RuntimeError:
        with pytest.raises(NetworkError, match="expected a map of at least the kernel"):
            import_module(module, (2, 9, 8))
        return
    same_output(module.train(), (2, 9, 8))


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Several(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return {"a": x.relu(), "b": [x.flatten(1), F.relu6(x)]}


class Biased(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


class Model(nn.Module):
    """A layer by the name of ``layer``, so that refusals name it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Any:
        return self.layer(x)


def with_nan() -> nn.Module:
    module = nn.Conv2d(4, 2, 3)
    with torch.no_grad():
        module.weight[0] = float("nan")
    return module


MODULES: dict[str, tuple[Any, str]] = {
    "Sigmoid": (nn.Sigmoid, "is a layer of torch that has no node here; known are Adaptive"),
    "LeakyReLU": (nn.LeakyReLU, "is a layer of torch"),
    "Upsample": (lambda: nn.Upsample(scale_factor=2), "is a layer of torch"),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 2, 3), "is a layer of torch"),
    "Conv3d": (lambda: nn.Conv3d(4, 2, 3), "is a layer of torch"),
    "MultiheadAttention": (lambda: nn.MultiheadAttention(4, 2), "is a layer of torch"),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), "is a layer of torch"),
    "AvgPool1d": (lambda: nn.AvgPool1d(2), "is a layer of torch"),
    "Conv2d reflect": (lambda: nn.Conv2d(4, 2, 3, padding=1, padding_mode="reflect"), "pads with 'reflect', expected zeros"),
    "Conv2d same even": (lambda: nn.Conv2d(4, 2, 2, padding="same"), "has padding 'same' with a kernel of [2, 2]"),
    "Conv2d channels": (lambda: nn.Conv2d(3, 2, 2), "got an input of shape [4, 6, 6], expected [3, H, W]"),
    "Conv2d NaN": (with_nan, "has a weight with NaN"),
    "Linear meta": (lambda: nn.Linear(6, 2, device="meta"), "has a weight that is not a dense real tensor"),
    "Linear map": (lambda: nn.Linear(6, 2), "got an input of shape [4, 6, 6], expected [6]"),
    "BatchNorm2d batch": (lambda: nn.BatchNorm2d(4, track_running_stats=False), "has no running statistics"),
    "Hardtanh": (nn.Hardtanh, "clips to -1.0..1.0, expected 0..ceiling"),
    "AvgPool2d pad": (lambda: nn.AvgPool2d(2, padding=1, count_include_pad=False), "leaves the padding out of its mean"),
    "AvgPool2d ceil": (lambda: nn.AvgPool2d(4, ceil_mode=True), "rounds its size up (ceil_mode=True) on a map of [4, 6, 6]"),
    "AvgPool2d divisor": (lambda: nn.AvgPool2d(2, divisor_override=3), "divides by 3, expected 1 or the 4 positions"),
    "AdaptiveAvgPool2d": (lambda: nn.AdaptiveAvgPool2d(4), "averages a map of 6x6 to 4x4"),
    "MaxPool2d dilated": (lambda: nn.MaxPool2d(2, dilation=2), "has dilation 2, expected 1"),
    "MaxPool2d indices": (lambda: nn.MaxPool2d(2, return_indices=True), "returns indices"),
    "MaxPool2d ceil": (lambda: nn.MaxPool2d(4, ceil_mode=True), "rounds its size up"),
    "Flatten all": (lambda: nn.Flatten(0), "flattens dimensions 0..-1 of (N, 4, 6, 6)"),
    "Flatten some": (lambda: nn.Flatten(2), "flattens dimensions 2..-1 of (N, 4, 6, 6)"),
    "parametrized": (lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 2, 3)), "is a layer of torch"),
}  # fmt: skip
FUNCTIONS: dict[str, tuple[Any, str]] = {
    "cat": (lambda x: torch.cat([x, x], 1), "node 'cat' (cat) is a function that has no node here"),
    "mul": (lambda x: x * 2, "node 'mul' (mul) is a function that has no node here; known are ReLUs"),
    "matmul": (lambda x: x @ x, "node 'matmul' (matmul) is a function"),
    "sigmoid": (torch.sigmoid, "node 'sigmoid' (sigmoid) is a function"),
    "sub": (lambda x: x - x.relu(), "node 'sub' (sub) is a function"),
    "interpolate": (lambda x: F.interpolate(x, scale_factor=2), "node 'interpolate' (interpolate) is a function"),
    "leaky": (lambda x: F.leaky_relu(x), "node 'leaky_relu' (leaky_relu) is a function"),
    "conv2d": (lambda x: F.conv2d(x, torch.ones(1, 4, 3, 3)), "node 'conv2d' (conv2d) is a function"),
    "permute": (lambda x: x.permute(0, 2, 3, 1), "node 'permute' (permute) is a function"),
    "slice": (lambda x: x[:, :2], "node 'getitem' (getitem) is a function"),
    "add a number": (lambda x: x + 1, "node 'add' (add) adds something other than two maps"),
    "add scaled": (lambda x: torch.add(x, x.relu(), alpha=2), "node 'add' (add) adds something other than two maps"),
    "add shapes": (lambda x: x + x.mean((2, 3), keepdim=True), "node 'add' (add) adds maps of different shapes [[4, 6, 6], [4, 1, 1]]"),
    "clamp": (lambda x: x.clamp(-1, 1), "node 'clamp' (clamp) clamps from -1, expected 0"),
    "clamp without start": (lambda x: torch.clamp(x, max=1), "node 'clamp' (clamp) clamps from None"),
    "hardtanh": (F.hardtanh, "node 'hardtanh' (hardtanh) clips to -1.0..1.0"),
    "ceil": (lambda x: F.max_pool2d(x, 4, ceil_mode=True), "node 'max_pool2d' (max_pool2d) rounds its size up"),
    "odd call": (lambda x: x.mean((2, 3), False, torch.float), "way not known here"),
    "dropout": (lambda x: F.dropout(x), "node 'dropout' (dropout) drops at random in evaluation too"),
    "flatten": (lambda x: torch.flatten(x), "node 'flatten' (flatten) flattens dimensions 0..-1"),
    "view": (lambda x: x.view(-1, 8), "node 'view' (view) makes (-1, 8) of (N, 4, 6, 6), expected a flatten such as x.flatten(1)"),
    "view rows": (lambda x: x.view(x.size(0), 4, 36), "node 'view' (view) makes (N, 4, 36)"),
    "mean": (lambda x: x.mean(1), "node 'mean' (mean) averages dimensions 1"),
    "mean of all": (lambda x: x.mean(), "node 'mean' (mean) averages dimensions None"),
    "sum": (lambda x: x.sum(0), "(sum) sums dimension 0"),
    "relu in the middle": (lambda x: F.softmax(x, 1).relu(), "node 'softmax' (softmax) acts along dimension 1 of (N, 4, 6, 6)"),
    "constant": (lambda x: torch.ones(3), "returns no spikes or sums"),
}  # fmt: skip


@pytest.mark.parametrize("case", MODULES)
def test_layers_that_no_node_says_are_refused_in_one_line(case: str) -> None:
    make, expected = MODULES[case]
    layer = make()
    with pytest.raises(NetworkError) as raised:
        import_module(Model(layer), (4, 6, 6))
    assert str(raised.value).startswith(f"node 'layer' ({type(layer).__name__}) {expected}")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("case", FUNCTIONS)
def test_functions_that_no_node_says_are_refused_in_one_line(case: str) -> None:
    function, expected = FUNCTIONS[case]
    with pytest.raises(NetworkError) as raised:
        import_module(Called(function), (4, 6, 6))
    assert expected in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (Branching(), r"^node 'branching' \(Branching\) cannot be followed \(symbolically traced .*single|one step"),
        (Several(), r"^the module returns 3 outputs \['relu', 'flatten', 'relu6'\], expected one"),
        (Biased(), r"^node 'add' \(add\) adds something other than two maps"),
        (nn.ModuleList([nn.Linear(4, 4)]), r"^node 'modulelist' \(ModuleList\) is a layer of torch"),
        (nn.Linear, "^got type, expected a torch.nn.Module"),
    ],
)
def test_modules_that_cannot_be_followed(module: Any, expected: str) -> None:
    with pytest.raises(NetworkError, match=expected) as raised:
        import_module(module, (4, 6, 6))
    assert "\n" not in str(raised.value)
    if isinstance(module, nn.Module):
        assert module.training


@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook"])
@pytest.mark.parametrize("where", ["", "0", "1", "2"])
def test_hooks_are_refused_by_the_name_of_their_module(kind: str, where: str) -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU()), Called(lambda x: x.relu()))
    hooked = module.get_submodule(where)
    handle = getattr(hooked, kind)(lambda *args: None)
    with pytest.raises(NetworkError, match=f"^node '{where or 'sequential'}' .* has a forward hook"):
        import_module(module, (4,))
    handle.remove()
    assert len(import_module(module, (4,)).nodes) == 5


@pytest.mark.parametrize(("dim", "kept"), [(0, False), (1, True), (-1, True), (-2, False), (None, True)])
def test_only_a_softmax_over_the_classes_is_left_out(dim: int | None, kept: bool) -> None:
    for module in (nn.Sequential(nn.Linear(4, 3), nn.Softmax(dim)), nn.Sequential(nn.Linear(4, 3), nn.LogSoftmax(dim))):
        if kept:
            assert import_module(module, (4,)).metadata["dropped"] == [f"1 ({type(module[1]).__name__})"]
            continue
        with pytest.raises(NetworkError, match=f"^node '1' .* acts along dimension {dim} of \\(N, 3\\)"):
            import_module(module, (4,))


@pytest.mark.parametrize("shape", [5, None, "4", ("x",), (4.0,), (0,), (), (1, 1, 1, 4), (True,)])
def test_shapes_of_no_map_are_refused(shape: Any) -> None:
    with pytest.raises(NetworkError, match=r"^got the in_shape .*, expected whole numbers of at least 1") as raised:
        import_module(nn.Linear(4, 3), shape)
    assert "\n" not in str(raised.value)


def test_an_unknown_encoding_is_refused() -> None:
    with pytest.raises(NetworkError, match=r"^got the encoding 'foo', expected one of spikes, levels, analog"):
        import_module(nn.Linear(4, 3), (4,), encoding="foo")  # type: ignore[arg-type]


def test_no_framework_is_imported() -> None:
    """They are known by the names of their classes; their licences and dependencies stay with who uses them."""
    folder = Path(importers.__file__).parent
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & {"snntorch", "spikingjelly", "norse"}, path.name
