"""A state dict beside a description: the same network as the live module, and every mistake in one line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from spikeloom.core.nodes import LIF, CubaLIF, MaxPool2d
from spikeloom.errors import ConfigError, NetworkFileError, SpikeloomError
from spikeloom.files.checkpoint import read_state_dict
from spikeloom.snn.importers import import_checkpoint, import_module
from spikeloom.snn.importers.description import describe_description

from .runs import ours, spikes


class Residual(nn.Module):
    """What HEAD and NODES describe."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.ModuleList(
            [nn.Conv2d(2, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1, groups=2)]
        )
        self.norm = nn.BatchNorm1d(16, affine=False)
        self.fc = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        conv, norm, again = self.features
        x = norm(conv(x)).relu()
        x = (again(x) + x).clamp(0, 2)
        out: torch.Tensor = self.fc(self.norm(F.avg_pool2d(x, 2).flatten(1)))
        return out


HEAD = 'in_shape = [2, 8, 8]\nencoding = "analog"\nname = "small"\ndt_s = 0.001\n'
NODES = {
    "conv": 'type = "Conv2d"\nweights = "features.0"\nstride = [2, 2]\npadding = 1',
    "bn": 'type = "BatchNorm"\nweights = "features.1"',
    "relu": 'type = "ReLU"',
    "again": 'type = "Conv2d"\nweights = "features.2"\npadding = 1\ngroups = 2',
    "add": 'type = "Add"\ninputs = ["again", "relu"]',
    "clip": 'type = "ClippedReLU"\nceiling = 2.0',
    "pool": 'type = "AvgPool2d"\nkernel = 2',
    "flat": 'type = "Flatten"',
    "norm": 'type = "BatchNorm"',
    "fc": 'type = "Linear"',
}


def described(folder: Path, nodes: dict[str, str], head: str = HEAD) -> Path:
    path = folder / "net.toml"
    path.write_text(head + "".join(f'[[node]]\nname = "{name}"\n{text}\n' for name, text in nodes.items()))
    return path


def saved(folder: Path, state: Any) -> Path:
    path = folder / "weights.pth"
    torch.save(state, path)
    return path


def trained() -> Residual:
    torch.manual_seed(0)
    module = Residual()
    module(torch.randn(9, 2, 8, 8) + 1)
    return module.eval()


def test_the_described_network_is_the_live_one(tmp_path: Path) -> None:
    module = trained()
    network = import_checkpoint(saved(tmp_path, module.state_dict()), str(described(tmp_path, NODES)))
    assert (network.name, network.dt_s) == ("small", 0.001)
    assert list(network.nodes) == ["input", *NODES, "output"]
    x = torch.randn(5, 2, 8, 8)
    with torch.no_grad():
        expected = module(x)
    torch.testing.assert_close(ours(network, x[None])[0], expected, rtol=1e-5, atol=1e-5)
    live = import_module(module, (2, 8, 8), encoding="analog")
    assert torch.equal(ours(network, x[None]), ours(live, x[None]))


def test_neurons_and_their_settings(tmp_path: Path) -> None:
    state = nn.Sequential(nn.Conv1d(2, 3, 3)).state_dict()
    nodes = {
        "0": 'type = "Conv1d"\nstride = 2',
        "late": 'type = "Delay"\nsteps = 2',
        "lif": 'type = "LIF"\nleak = { shift = 4 }\nv_threshold = 2\nreset = "soft"\nlate_reset = true\nstrict = true',
        "cuba": 'type = "CubaLIF"\nleak = { factor = 0.9 }\nsyn_leak = { factor = 0.5 }\nv_reset = -0.5',
    }
    network = import_checkpoint(saved(tmp_path, state), described(tmp_path, nodes, "in_shape = [2, 9]\n"))
    lif, cuba = network.nodes["lif"], network.nodes["cuba"]
    assert isinstance(lif, LIF) and lif.leak is not None and lif.leak.shift == 4
    assert (lif.v_threshold, lif.reset, lif.late_reset, lif.strict) == (2.0, "soft", True, True)
    assert isinstance(cuba, CubaLIF) and cuba.syn_leak is not None and cuba.syn_leak.factor == 0.5
    assert network.shapes()["output"] == (3, 4) and network.dt_s is None
    pooled = {"a": 'type = "MaxPool2d"\nkernel = [2, 1]\nstride = 1', "0": 'type = "Linear"'}
    with pytest.raises(NetworkFileError, match=r"net.toml: node 'a' \(MaxPool2d\) got an input of shape \[2, 9\]"):
        import_checkpoint(
            saved(tmp_path, nn.Sequential(nn.Linear(9, 2)).state_dict()),
            described(tmp_path, pooled, "in_shape = [2, 9]\n"),
        )
    flat = {"0": 'type = "Conv2d"', "a": 'type = "MaxPool2d"\nkernel = [2, 1]\nstride = 1'}
    network = import_checkpoint(
        saved(tmp_path, nn.Sequential(nn.Conv2d(2, 3, 3)).state_dict()), described(tmp_path, flat)
    )
    node = network.nodes["a"]
    assert isinstance(node, MaxPool2d) and (node.kernel, node.stride) == ((2, 1), (1, 1))


def test_the_published_weights() -> None:
    """nets/pretrained_ann_weights.pth against torch itself."""
    folder = os.environ.get("SPIKELOOM_DATA")
    if folder is None:
        pytest.skip("SPIKELOOM_DATA is not set; it names the folder with nets/pretrained_ann_weights.pth")
    path = Path(folder) / "nets" / "pretrained_ann_weights.pth"
    if not path.is_file():
        pytest.skip(f"no {path}")
    network = import_checkpoint(path, Path(__file__).parent / "pretrained_ann.toml")
    module = nn.Sequential(
        nn.Conv2d(2, 16, 5, 2, 1, bias=False), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.ReLU(),
        nn.AvgPool2d(2, divisor_override=1), nn.Conv2d(16, 8, 3, padding=1, bias=False), nn.ReLU(),
        nn.AvgPool2d(2, divisor_override=1), nn.Flatten(), nn.Linear(128, 256, bias=False), nn.ReLU(), nn.Linear(256, 10, bias=False),
    )  # fmt: skip
    module.load_state_dict(torch.load(path, weights_only=True))
    frames = spikes(1, 5, (2, 34, 34), 0)
    with torch.no_grad():
        expected = module(frames[0])
    sent = ours(network, frames)[0]
    torch.testing.assert_close(sent, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    live = import_module(module, (2, 34, 34))
    assert torch.equal(ours(live, frames)[0], sent)


def changed(**texts: str | None) -> dict[str, str]:
    """NODES with some of them changed or, for None, left out."""
    return {name: text for name, text in {**NODES, **texts}.items() if text is not None}


DESCRIPTIONS: dict[str, tuple[Any, str]] = {
    "type": (changed(again='type = "Conv2D"'), r"net.toml: node 'again': type: got 'Conv2D' \(did you mean 'Conv2d'\?\), expected one of"),
    "no type": (changed(relu=""), "net.toml: node 'relu': type: got None, expected one of"),
    "key": (changed(pool='type = "AvgPool2d"\nkernle = 2'), r"node 'pool': kernle: unknown key \(did you mean 'kernel'\?\); known"),
    "sizes": (changed(fc='type = "Linear"\nin_features = 3'), "node 'fc': in_features: unknown key; known keys: name, type"),
    "value": (changed(pool='type = "AvgPool2d"\nkernel = "2"'), "node 'pool': kernel: got '2', expected"),
    "three": (changed(pool='type = "AvgPool2d"\nkernel = [1, 2, 3]'), "node 'pool': kernel: got"),
    "kernel": (changed(pool='type = "AvgPool2d"'), "node 'pool': expected a value for kernel"),
    "ceiling": (changed(clip='type = "ClippedReLU"'), "node 'clip': expected a value for ceiling"),
    "reset": (changed(relu='type = "IF"\nreset = "sfot"'), "node 'relu': reset: got 'sfot', expected"),
    "leak": (changed(relu='type = "LIF"\nleak = { shift = 40 }'), "node 'relu': leak: leak shift must be 1..31"),
    "leak key": (changed(relu='type = "LIF"\nleak = { tau = 2.0 }'), "node 'relu': leak: got"),
    "no leak": (changed(relu='type = "LIF"'), "node 'relu': expected a value for leak"),
    "input": ({"input": 'type = "ReLU"'}, r"node\[0\]: name: got 'input', expected a word that no other node has"),
    "inputs": (changed(add='type = "Add"\ninputs = ["again", "rleu"]'), r"node 'add': inputs: no node is named 'rleu' \(did you mean 'relu'\?\)"),
    "inputs word": (changed(add='type = "Add"\ninputs = "again"'), "node 'add': inputs: got 'again', expected a list"),
    "weights": (changed(relu='type = "ReLU"\nweights = "fc"'), "node 'relu': weights: got 'fc', expected the prefix"),
    "scale": (changed(relu='type = "Scale"'), "node 'relu': type: got 'Scale'"),
}  # fmt: skip
WEIGHTS: dict[str, tuple[Any, str]] = {
    "prefix": (changed(fc='type = "Linear"\nweights = "fd"'), r"node 'fc' needs 'fd.weight', which weights file .* lacks \(did you mean 'fc.weight'\?\)"),
    "statistics": (changed(norm='type = "BatchNorm"\nweights = "nrm"'), r"node 'norm' needs 'nrm.running_mean', .* \(did you mean 'norm.running_mean'"),
    "unused": (changed(norm=None), r"weights.pth: no node of .*net.toml uses 'norm.running_mean'"),
    "unused near": (changed(norm='type = "BatchNorm"\nweights = "features.1"', bn=None), "no node of .* uses 'norm.running_mean'"),
    "dimensions": (changed(fc='type = "Linear"\nweights = "features.2"'), r"needs 'features.2.weight' with 2 dimensions, .* shape \[4, 2, 3, 3\]"),
}  # fmt: skip


@pytest.mark.parametrize("case", DESCRIPTIONS)
def test_mistakes_in_a_description(case: str, tmp_path: Path) -> None:
    nodes, expected = DESCRIPTIONS[case]
    refused(tmp_path, saved(tmp_path, trained().state_dict()), described(tmp_path, nodes), ConfigError, expected)


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights_and_nodes_that_do_not_meet(case: str, tmp_path: Path) -> None:
    nodes, expected = WEIGHTS[case]
    refused(tmp_path, saved(tmp_path, trained().state_dict()), described(tmp_path, nodes), NetworkFileError, expected)


def refused(folder: Path, weights: Path, description: Path, error: type[SpikeloomError], expected: str) -> None:
    with pytest.raises(error, match=expected) as raised:
        import_checkpoint(weights, description)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("", "in_shape"),
        ("in_shape = [2, 0]\n", r"in_shape"),
        ("in_shape = [2, 8, 8]\nencodign = 'spikes'\n", r"encodign: unknown key \(did you mean 'encoding'\?\)"),
        ("in_shape = [2, 8, 8]\nencoding = 'pixels'\n", "encoding: got 'pixels', expected"),
        ("in_shape = [\n", "not TOML"),
        ("", "in_shape: is missing; add it"),
        ("in_shape = []\n", r"in_shape: got \[\], expected: at least 1 value$"),
        ("in_shape = [1, 2, 8, 8]\n", r"in_shape: got \[1, 2, 8, 8\], expected: at most 3 values"),
        ("in_shape = [2, 8, 8]\ndt_s = -1.0\n", "dt_s: got -1.0, expected: greater than 0"),
        ("in_shape = [2, 8, 8]\ndt_s = nan\n", "dt_s: got nan, expected: a finite number"),
    ],
)
def test_mistakes_in_the_head(head: str, expected: str, tmp_path: Path) -> None:
    refused(tmp_path, saved(tmp_path, trained().state_dict()), described(tmp_path, NODES, head), ConfigError, expected)


def test_no_nodes_or_no_description(tmp_path: Path) -> None:
    weights = saved(tmp_path, trained().state_dict())
    refused(tmp_path, weights, described(tmp_path, {}), ConfigError, "node")
    refused(tmp_path, weights, tmp_path / "absent.toml", ConfigError, "absent.toml: no such file")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("v_threshold = nan", "has a v_threshold of nan, expected numbers above 0"),
        ("v_threshold = inf", "has a v_threshold of inf, expected finite"),
        ("v_threshold = 0", "has a v_threshold of 0.0, expected numbers above 0"),
        ("v_threshold = -1.5", "has a v_threshold of -1.5, expected numbers above 0"),
        ("v_reset = -inf", "has a v_reset of -inf, expected finite"),
        ("v_init = nan", "has a v_init of nan, expected finite"),
        ("membrane_bits = 8", "has membrane_bits 8, but weights are no integers"),
    ],
)
def test_neurons_that_cannot_be(text: str, expected: str, tmp_path: Path) -> None:
    nodes = changed(relu=f'type = "IF"\n{text}')
    weights = saved(tmp_path, trained().state_dict())
    refused(
        tmp_path, weights, described(tmp_path, nodes), NetworkFileError, f"net.toml: node 'relu' \\(IF\\) {expected}"
    )


def test_only_what_a_node_could_take_is_suggested(tmp_path: Path) -> None:
    state = trained().state_dict()
    nodes = changed(fc='type = "Linear"', relu='type = "IF"')
    state["relu.running_max"] = torch.ones(3)  # a neuron takes no array
    with pytest.raises(NetworkFileError, match=r"uses 'relu\.running_max'; add a node"):
        import_checkpoint(saved(tmp_path, state), described(tmp_path, nodes))
    state = trained().state_dict() | {"features.0.bais": torch.ones(4)}
    with pytest.raises(NetworkFileError, match=r"did you mean 'features.0.bias'\?"):
        import_checkpoint(saved(tmp_path, state), described(tmp_path, nodes))


def test_a_description_is_read_without_weights(tmp_path: Path) -> None:
    assert describe_description(described(tmp_path, NODES)) == "network description of 10 nodes, input [2, 8, 8]"
    for case in ("type", "key", "leak", "input"):
        nodes, expected = DESCRIPTIONS[case]
        with pytest.raises(ConfigError, match=expected):
            describe_description(described(tmp_path, nodes))


def test_shapes_that_do_not_fit(tmp_path: Path) -> None:
    nodes = changed(pool='type = "AvgPool2d"\nkernel = 4')
    weights = saved(tmp_path, trained().state_dict())
    refused(tmp_path, weights, described(tmp_path, nodes), NetworkFileError, "net.toml: node 'norm' ")
    state = trained().state_dict()
    state["norm.running_var"] = torch.ones(3)
    refused(
        tmp_path, saved(tmp_path, state), described(tmp_path, NODES), NetworkFileError,
        r"'norm.running_var' has shape \[3\], 'norm.running_mean' has \[16\]",
    )  # fmt: skip


def not_weights(kind: str, folder: Path) -> Path:
    path = folder / "weights.pth"
    module = nn.Linear(2, 2)
    match kind:
        case "missing":
            path.unlink(missing_ok=True)
        case "module":
            torch.save(module, path)
        case "truncated":
            torch.save(module.state_dict(), path)
            path.write_bytes(path.read_bytes()[:-300])
        case "empty file":
            path.write_bytes(b"")
        case "text":
            path.write_text("weights")
        case "folder":
            path.mkdir()
        case "list":
            torch.save([torch.ones(2)], path)
        case "no weights":
            torch.save({}, path)
        case "nested":
            torch.save({"state_dict": module.state_dict(), "epoch": 3}, path)
        case "number":
            torch.save({1: torch.ones(2)}, path)
        case "NaN":
            torch.save({"w": torch.tensor([1.0, float("nan")])}, path)
        case "sparse":
            torch.save({"w": torch.eye(2).to_sparse()}, path)
        case "complex":
            torch.save({"w": torch.ones(2, dtype=torch.complex64)}, path)
    return path


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("missing", "no weights at .*; expected a file of torch.save"),
        ("module", "holds pickled code or is damaged"),
        ("truncated", "is truncated or no torch file"),
        ("empty file", "is truncated or no torch file"),
        ("text", "holds pickled code or is damaged"),
        ("folder", "no weights at .*, which is a folder; expected a file"),
        ("list", "holds list instead of a dict of tensors; save module.state_dict"),
        ("no weights", "is empty, expected a dict of tensors"),
        ("nested", "'state_dict' holds (Ordered)?[dD]ict instead of a tensor; save module.state_dict\\(\\) alone"),
        ("number", "got the key 1, expected a word"),
        ("NaN", "'w' holds NaN or infinite values"),
        ("sparse", "'w' is no dense real tensor"),
        ("complex", "'w' is no dense real tensor"),
    ],
)
def test_files_that_hold_no_state_dict(kind: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(NetworkFileError, match=expected) as raised:
        read_state_dict(not_weights(kind, tmp_path))
    assert "\n" not in str(raised.value)


def test_a_state_dict_of_any_precision(tmp_path: Path) -> None:
    state = {
        "a": torch.ones(2, dtype=torch.bfloat16),
        "b": torch.arange(3),
        "c": torch.tensor(1.5, dtype=torch.float64),
    }
    read = read_state_dict(str(saved(tmp_path, state)))
    assert {key: (array.dtype.name, array.tolist()) for key, array in read.items()} == {
        "a": ("float32", [1, 1]), "b": ("float32", [0, 1, 2]), "c": ("float32", 1.5),
    }  # fmt: skip
