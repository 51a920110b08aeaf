"""Every case of function preservation: ours, and what SpikingJelly 2.0.0 does today, as the table of the guide says it."""

from __future__ import annotations

import contextlib
import io
import re
from functools import cache
from pathlib import Path

import pytest
import torch
from benchmarks import preservation
from benchmarks.preservation import CASES, IN_SHAPE, STEPS, WRONG, Outcome, Pixels, drawn, images, shown, theirs

from spikeloom.core.nodes import IF, BatchNorm, ClippedReLU, MaxPool2d, ReLU, Scale
from spikeloom.errors import NetworkError
from spikeloom.snn.execute import Execution, runnable
from spikeloom.snn.importers import import_module
from spikeloom.transform.convert import Conversion, convert
from tests.snn.importers.runs import installed

ours = cache(preservation.ours)
CONVERTED = [name for name, case in CASES.items() if case.refused is None]
PAGE = Path(__file__).resolve().parents[2] / "docs" / "guide" / "convert.md"
#: What SpikingJelly 2.0.0 does.
THEIRS = {
    "Conv-BN": "ok",
    "BN-Conv, padded": "norm left",
    "BN on the input": "norm left",
    "Linear-BN": "norm left",
    "BN-Linear": "norm left",
    "residual add, identity": "ok",
    "residual add, projection": "ok",
    "average pooling": "ok",
    "strided convolution": "ok",
    "nn.ReLU": "ok",
    "nn.ReLU, one for two": "ok",
    "F.relu": "refused",
    "torch.relu": "refused",
    "Tensor.relu": "refused",
    "nn.ReLU6": "refused",
    "nn.Hardtanh(0, 1)": "refused",
    "max pooling": "wrong",
}


@pytest.mark.parametrize("name", CONVERTED)
def test_what_the_module_computes_is_kept(name: str) -> None:
    outcome, snn = ours(name)
    assert snn is not None and outcome.error_percent is not None
    assert outcome.error_percent < WRONG / 1.5
    kinds = [type(node) for node in snn.nodes.values()]
    assert kinds.count(IF) == outcome.spiking == CASES[name].activations
    assert not set(kinds) & {ReLU, ClippedReLU, BatchNorm, Scale}
    assert outcome.verdict(CASES[name]) == "ok"


@pytest.mark.parametrize("name", CONVERTED)
def test_the_error_is_that_of_finite_t(name: str) -> None:
    """It shrinks with T, so nothing of the function is lost; and a module that is a little different is told apart."""
    few, many = (ours(name, t)[0].error_percent for t in (8, STEPS))
    assert few is not None and many is not None and many < 0.5 * few
    module, x = drawn(name), shown(images(64, 1))
    snn = ours(name)[1]
    assert snn is not None
    with torch.no_grad():
        for layer in module.modules():
            if (
                isinstance(layer, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d | torch.nn.Conv2d)
                and layer.bias is not None
            ):
                layer.bias += 0.2
        changed = module(x)
        found = runnable(snn)(x, STEPS, True)[-1] / STEPS
    assert 100 * float(((found - changed).square().mean() / changed.square().mean()).sqrt()) > WRONG


def test_max_pooling_is_refused_in_one_line_and_replaced_only_by_name() -> None:
    outcome, snn = ours("max pooling")
    assert snn is None and outcome.error_percent is None and outcome.verdict(CASES["max pooling"]) == "refused"
    assert (
        outcome.said.startswith("node '2' (MaxPool2d) has no exact counterpart on spikes") and "\n" not in outcome.said
    )
    network = import_module(drawn("max pooling"), IN_SHAPE, encoding="analog")
    for option, kept in (("average", False), ("or", True)):
        made = convert(network, images(16, 0), Execution(8), Conversion(num_steps=8, max_pool=option))  # type: ignore[arg-type]
        assert any(isinstance(node, MaxPool2d) for node in made.network.nodes.values()) == kept
        assert made.network.metadata["conversion"]["max_pool"] == option


def test_an_activation_that_no_node_says_is_refused_too() -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.GELU(), torch.nn.Flatten(), torch.nn.Linear(144, 2))
    with pytest.raises(NetworkError, match=r"^node '1' \(GELU\) is a layer of torch that has no node here"):
        import_module(module, IN_SHAPE, encoding="analog")


def test_modules_are_drawn_the_same_every_time() -> None:
    state = torch.random.get_rng_state()
    one, other = (drawn("Conv-BN").state_dict() for _ in range(2))
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert isinstance(images(2, 0), Pixels) and len(images(2, 0)) == 2


def test_verdicts() -> None:
    case = CASES["nn.ReLU"]
    assert Outcome(0.0, 2, 0).verdict(case) == "ok"
    assert Outcome(0.0, 0, 0).verdict(case) == "skipped silently"
    assert Outcome(WRONG + 1, 1, 1).verdict(case) == "skipped silently, wrong, norm left"
    assert Outcome(None, 0, 0, "why").verdict(case) == "refused"


def rows() -> dict[str, list[str]]:
    """The table of the guide: case -> cells."""
    text = PAGE.read_text(encoding="utf-8")
    table = text[text.index("| case | Spikeloom |") :].split("\n\n")[0]
    cells = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return {row[0]: row[1:] for row in cells}


def figure(cell: str) -> float:
    return float(re.sub(r" %$", "", cell))


def test_the_guide_shows_every_case() -> None:
    found = rows()
    assert list(found) == list(CASES) == list(THEIRS)
    for name, (error, verdict, _, other) in found.items():
        outcome, _ = ours(name)
        assert verdict == outcome.verdict(CASES[name])
        assert other == THEIRS[name]
        if outcome.error_percent is not None:  # sums in another order may move a spike or two
            assert figure(error) == pytest.approx(outcome.error_percent, rel=0.3, abs=0.05)


@pytest.fixture(scope="module")
def framework() -> None:
    with contextlib.redirect_stderr(io.StringIO()):
        installed("requests")  # which ann2snn needs and SpikingJelly does not state
        installed("spikingjelly.activation_based.ann2snn")


@pytest.mark.usefixtures("framework")
@pytest.mark.parametrize("name", CASES)
def test_what_spikingjelly_does_with_it(name: str) -> None:
    """The day this fails the table of the guide has to be made again: python -m benchmarks.preservation."""
    outcome = theirs(name)
    assert outcome.verdict(CASES[name]) == THEIRS[name]
    if outcome.error_percent is None:
        assert "does not support" in outcome.said
    else:
        assert figure(rows()[name][2]) == pytest.approx(outcome.error_percent, rel=0.3, abs=0.05)
