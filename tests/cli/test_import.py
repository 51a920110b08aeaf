"""``spikeloom import``: networks from NIR graphs and state dicts, and one line for what cannot be read."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from torch import nn

from spikeloom.core.network import chain
from spikeloom.core.nodes import IF, LI, LIF, Delay, Flatten, Input, Leak, Linear, Output, ReLU
from spikeloom.files.network import read_network
from spikeloom.files.nir import write_nir
from tests.cli.command import spikeloom

EXPERIMENT = (
    'data = "digits"\nnetwork = "mlp"\n[network_options]\nneuron = "relu"\n[train]\nnum_steps = {}\nepochs = 1\n'
)
DESCRIPTION = """
in_shape = [1, 8, 8]
encoding = "analog"
[[node]]
name = "0"
type = "Flatten"
[[node]]
name = "1"
type = "Linear"
[[node]]
name = "2"
type = "ReLU"
[[node]]
name = "3"
type = "Linear"
"""


class Opened:
    """Pickled, it would write a file when it is read."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("opened"),)


def graph(nodes: dict[str, Any], edges: list[tuple[str, str]]) -> Any:
    ends = {"in": nir.Input({"input": np.array([3])}), "out": nir.Output({"output": np.array([3])})}
    return nir.NIRGraph({**ends, **nodes}, edges)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Good and bad files of both kinds; tests run beside them."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for steps in (1, 4):
        Path(f"digits-{steps}.toml").write_text(EXPERIMENT.format(steps))
    Path("bars.toml").write_text(
        'data = "moving-bar"\nnetwork = "mlp"\n[data_options]\nnum_samples = 8\n[train]\nnum_steps = 3\nencoding = "events"\n'
    )
    Path("ann.toml").write_text(DESCRIPTION)
    Path("other.toml").write_text(DESCRIPTION.replace('"1"', '"7"'))
    Path("broken.toml").write_text("in_shape = [1, 8")
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10))
    torch.save(module.state_dict(), "ann.pth")
    torch.save(module, "module.pth")
    torch.save({"1.weight": torch.full((20, 64), float("nan"))}, "nan.pth")
    Path("code.pth").write_bytes(pickle.dumps(Opened(), protocol=2))
    Path("text.pth").write_text("no weights")
    Path("text.nir").write_text("no graph")
    Path("ann.onnx").write_bytes(b"onnx")
    nodes: dict[str, Any] = {
        "in": Input((1, 8, 8), "analog"), "f": Flatten(), "fc": Linear(64, 20, weight=rng.normal(0, 0.3, (20, 64)).astype(np.float32)),
        "lif": LIF(Leak(factor=0.9)), "fc2": Linear(20, 10, weight=rng.normal(size=(10, 20)).astype(np.float32)), "li": LI(),
        "out": Output((10,)),
    }  # fmt: skip
    write_nir("snn.nir", chain("snn", nodes), dt_s=1e-3)
    ones = np.ones(3)
    lif = nir.LIF(ones * 0.01, ones, ones * 0, ones)
    nir.write("lif.nir", graph({"n": lif}, [("in", "n"), ("n", "out")]))
    nir.write(
        "loop.nir", graph({"n": lif, "w": nir.Linear(np.eye(3))}, [("in", "n"), ("n", "w"), ("w", "n"), ("n", "out")])
    )
    nir.write("threshold.nir", graph({"t": nir.Threshold(ones)}, [("in", "t"), ("t", "out")]))
    nir.write("if.nir", graph({"n": nir.IF(ones, ones)}, [("in", "n"), ("n", "out")]))
    return tmp_path


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_state_dict_is_read_measured_converted_and_recorded(folder: Path) -> None:
    run = spikeloom(
        "import",
        "ann.pth",
        "--network",
        "ann.toml",
        "--experiment",
        "digits-1.toml",
        "--limit",
        30,
        "--out",
        "deep/ann.npz",
    )
    assert run.code == 0, run.complaint
    said = " ".join(run.out.split())
    assert "6 nodes from ann.pth" in said and "ann.pth float32 - " in said and "wrote deep/ann.npz" in said
    network = read_network("deep/ann.npz")
    assert [type(node) for node in network.nodes.values()] == [Input, Flatten, Linear, ReLU, Linear, Output]
    assert spikeloom("convert", "deep/ann.npz", "--steps", "4", "--limit", 10, "--samples", 16).code == 0
    assert spikeloom("record", "deep/snn.npz", "--limit", 2).code == 0
    assert spikeloom("eval", "deep/trace.npz", "spikex").code == 0


def test_a_nir_graph_is_read_and_measured(folder: Path) -> None:
    run = spikeloom("import", "snn.nir", "--experiment", "digits-4.toml", "--limit", 12)
    assert run.code == 0, run.complaint
    said = " ".join(run.out.split())
    assert "snn.nir float32 4 " in said and "wrote snn.npz" in said
    network = read_network("snn.npz")
    assert network.dt_s == 1e-3 and network.metadata["experiment"]["data"] == "digits"
    assert spikeloom("record", "snn.npz", "--limit", 2).code == 0


def test_options_of_reading(folder: Path) -> None:
    run = spikeloom(
        "import",
        "lif.nir",
        "--dt-ms",
        2,
        "--reset",
        "soft",
        "--strict",
        "--discretisation",
        "exponential",
        "--encoding",
        "levels",
    )
    assert run.code == 0, run.complaint
    network = read_network("lif.npz")
    node: Any = next(node for node in network.nodes.values() if isinstance(node, LIF))
    assert (node.reset, node.strict, network.dt_s) == ("soft", True, 0.002)
    assert np.allclose(node.leak.kept, np.exp(-0.2))
    source: Any = next(node for node in network.nodes.values() if isinstance(node, Input))
    assert source.encoding == "levels"
    assert spikeloom("import", "loop.nir", "--dt-ms", 1, "--loop-delay", 2).code == 0
    (delay,) = (node for node in read_network("loop.npz").nodes.values() if isinstance(node, Delay))
    assert delay.steps == 2
    assert spikeloom("import", "if.nir").code == 0
    assert any(isinstance(node, IF) for node in read_network("if.npz").nodes.values())


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (("none.nir",), "none.nir"),
        (("none.pth", "--network", "ann.toml"), "no weights at none.pth"),
        (("ann.pth",), "ann.pth: a state dict holds weights but no structure; describe the network with --network"),
        (("ann.pth", "--network", "none.toml"), "none.toml"),
        (("ann.pth", "--network", "broken.toml"), "broken.toml"),
        (("ann.pth", "--network", "other.toml"), "other.toml"),
        (("snn.nir", "--network", "ann.toml"), "snn.nir: a NIR graph describes itself; leave out --network"),
        (
            ("ann.onnx",),
            "ann.onnx: cannot tell what this is; expected a NIR graph .nir or a PyTorch state dict .pth or .pt",
        ),
        ((".",), "cannot tell what this is"),
        (("code.pth", "--network", "ann.toml"), "code.pth holds pickled code or is damaged"),
        (("module.pth", "--network", "ann.toml"), "module.pth holds pickled code or is damaged"),
        (("nan.pth", "--network", "ann.toml"), "'1.weight' holds NaN"),
        (("text.pth", "--network", "ann.toml"), "text.pth"),
        (("text.nir",), "text.nir"),
        (("lif.nir",), "dt"),
        (("lif.nir", "--dt-ms", "0"), "dt_s got 0.0, expected a positive number of seconds"),
        (("lif.nir", "--dt-ms", "nan"), "dt_s got nan, expected"),
        (("lif.nir", "--dt-ms", "20"), "'n'"),
        (("loop.nir", "--dt-ms", "1"), "loop"),
        (("threshold.nir",), "Threshold"),
        (("snn.nir", "--experiment", "digit"), "digit: no such experiment"),
        (("snn.nir", "--experiment", "bars.toml"), "network's input"),
        (("snn.nir", "--out", "."), ". is a folder|.: is a folder"),
        (("snn.nir", "--out", "snn.nir"), "snn.nir: is read here and would be replaced"),
        (("ann.pth", "--network", "ann.toml", "--out", "ann.toml"), "ann.toml: is read here and would be replaced"),
        (("ann.pth", "--network", "ann.toml", "--reset", "soft"), "ann.pth: is no NIR graph; --dt-ms, --reset"),
        (("snn.nir", "--limit", "3"), "--limit: there are no samples to limit"),
    ],
    ids=str,
)
def test_bad_input_is_one_line_and_leaves_nothing(folder: Path, line: tuple[str, ...], said: str) -> None:
    before = files(folder)
    run = spikeloom("import", *line)
    assert (run.code, run.out) == (1, ""), run.out
    assert run.complaint is not None and any(one in run.complaint for one in said.split("|")), run.complaint
    assert files(folder) == before and not (folder / "opened").exists()


@pytest.mark.parametrize(
    "line", [(), ("snn.nir", "--reset", "often"), ("snn.nir", "--loop-delay", "0"), ("snn.nir", "--encoding", "rate")]
)
def test_bad_usage_is_code_2(folder: Path, line: tuple[str, ...]) -> None:
    run = spikeloom("import", *line)
    assert (run.code, run.out, run.complaint) == (2, "", None)


def test_a_file_that_nobody_named_is_not_replaced(folder: Path) -> None:
    assert spikeloom("import", "if.nir").code == 0
    run = spikeloom("import", "if.nir")
    assert run.code == 1 and run.complaint == "if.npz: is there already; say --out if.npz to replace it"
    assert spikeloom("import", "if.nir", "--out", "if.npz").code == 0
