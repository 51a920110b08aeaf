"""What can be converted is made ready without changing what it computes; what cannot is refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from spikeloom.core.network import Network, chain
from spikeloom.core.nodes import (
    IF,
    LI,
    Add,
    AvgPool2d,
    BatchNorm,
    ClippedReLU,
    Conv1d,
    Conv2d,
    Delay,
    Flatten,
    Input,
    Leak,
    Linear,
    MaxPool2d,
    Output,
    ReLU,
    Scale,
    SumPool2d,
    Synapse,
)
from spikeloom.errors import NetworkError
from spikeloom.snn.execute import Execution, runnable
from spikeloom.transform.convert import Conversion, convert
from spikeloom.transform.prepare import activations, feeding, prepare
from tests.snn.toys import Pixels
from tests.transform.test_fold import norm, with_weights

SHAPE = (3, 6, 6)


def graph(nodes: dict[str, Any], edges: Any = None, out: tuple[int, ...] = (4,)) -> Network:
    """Nodes between an analog input and an output; without edges a row."""
    nodes = {"in": Input(SHAPE, "analog"), **nodes, "out": Output(out)}
    return with_weights(chain("net", nodes) if edges is None else Network(nodes, tuple(edges)))


def conv(channels: int = 3, out: int = 3, **options: Any) -> Conv2d:
    return Conv2d(channels, out, (3, 3), padding=(1, 1), has_bias=True, **options)


def images(number: int = 24) -> Pixels:
    rng = np.random.default_rng(0)
    return Pixels(rng.integers(0, 256, (number, *SHAPE)).astype(np.uint8), np.zeros(number, np.int64))


def said(network: Network, num_steps: int = 1) -> np.ndarray:
    """Mean output on some images: the read-out membrane over T, or what an ANN says."""
    x = torch.from_numpy(images().samples).float() / 255
    with torch.no_grad():
        found: np.ndarray = runnable(network)(x, num_steps, True)[-1].numpy()
    return found / num_steps


def same_function(network: Network, **options: Any) -> Network:
    ready = prepare(network, **options)
    expected = said(network)
    np.testing.assert_allclose(said(ready), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    read_out = [name for name, node in ready.nodes.items() if isinstance(node, LI)]
    assert len(read_out) == 1 and ready.outputs_of(read_out[0]) == ("out",) and ready.inputs_of("out") == (read_out[0],)
    for (
        name,
        node,
    ) in ready.nodes.items():  # every sum comes from synapses, every synapse gets one activation or the input
        if isinstance(node, ReLU | ClippedReLU | LI):
            assert all(isinstance(ready.nodes[source], Synapse) for source in feeding(ready, name))
        if isinstance(node, Synapse):
            (source,) = feeding(ready, name)
            assert isinstance(ready.nodes[source], Input | ReLU | ClippedReLU)
    return ready


HEAD: dict[str, Any] = {"flatten": Flatten(), "fc": Linear(108, 4, has_bias=True)}


def test_a_row_of_layers_only_gets_its_read_out() -> None:
    ready = same_function(graph({"conv": conv(), "relu": ReLU(), "pool": AvgPool2d((1, 1), (1, 1)), **HEAD}))
    assert list(ready.nodes) == ["in", "conv", "relu", "pool", "flatten", "fc", "out", "readout"]


def test_a_name_that_is_taken_gets_a_number() -> None:
    ready = same_function(graph({"readout": conv(), "relu": ReLU(), **HEAD}))
    assert ready.inputs_of("out") == ("readout.2",)


def test_a_read_out_that_is_there_stays_without_its_leak() -> None:
    """An ANN runs for one step, in which nothing leaks; over T steps a leak would change what is added up."""
    ready = same_function(graph({"conv": conv(), "relu": ReLU(), **HEAD, "li": LI(Leak(shift=1))}))
    assert ready.nodes["li"].leak is None and "readout" not in ready.nodes  # type: ignore[union-attr]


@pytest.mark.parametrize("activation", [ReLU(), ClippedReLU(0.4)])
def test_norms_scales_and_clips(activation: Any) -> None:
    ready = same_function(
        graph({"norm0": norm(3), "conv": conv(), "norm": norm(3, 1), "act": activation,
               "scale": Scale(np.array([[[2.0]], [[0.5]], [[1.5]]])), "norm2": norm(3, 2), **HEAD})
    )  # fmt: skip
    assert not any(isinstance(node, BatchNorm | Scale) for node in ready.nodes.values())
    assert activations(ready) == ("act",)


def test_flatten_moves_behind_its_activation() -> None:
    ready = same_function(graph({"conv": conv(), "flatten": Flatten(), "relu": ReLU(), "fc": Linear(108, 4)}))
    assert {("conv", "relu"), ("relu", "flatten"), ("flatten", "fc")} <= set(ready.edges)
    assert ready.shapes()["relu"] == SHAPE


def test_flatten_moves_in_front_of_all_that_the_activation_feeds() -> None:
    nodes: dict[str, Any] = {
        "conv": conv(),
        "flatten": Flatten(),
        "relu": ReLU(),
        "a": Linear(108, 4),
        "b": Linear(108, 4),
        "add": Add(),
    }
    edges = [("in", "conv"), ("conv", "flatten"), ("flatten", "relu"), ("relu", "a"), ("relu", "b"), ("a", "add"), ("b", "add"), ("add", "out")]  # fmt: skip
    assert same_function(graph(nodes, edges)).outputs_of("flatten") == ("a", "b")


def block(shortcut: str, *, pooled: bool = False) -> Network:
    """A post-activation residual block between a stem and a mean over the map; ``pooled``: the stem ends in a pool."""
    nodes: dict[str, Any] = {
        "stem": conv(3, 4), "relu0": ReLU(), "conv1": conv(4, 4), "norm1": norm(4), "relu1": ReLU(),
        "conv2": conv(4, 4), "norm2": norm(4, 1), "add": Add(), "relu2": ReLU(), "mean": AvgPool2d((3, 3), (3, 3)),
        "flatten": Flatten(), "fc": Linear(4 if pooled else 16, 4, has_bias=True),
    }  # fmt: skip
    start = "relu0"
    edges = [("in", "stem"), ("stem", "relu0")]
    if pooled:
        nodes["pool0"], start = AvgPool2d((2, 2), (2, 2)), "pool0"
        edges.append(("relu0", "pool0"))
    edges += [
        (start, "conv1"),
        ("conv1", "norm1"),
        ("norm1", "relu1"),
        ("relu1", "conv2"),
        ("conv2", "norm2"),
        ("norm2", "add"),
    ]
    if shortcut == "identity":
        edges.append((start, "add"))
    else:
        nodes |= {"down": Conv2d(4, 4, (1, 1)), "normd": norm(4, 2)}
        edges += [(start, "down"), ("down", "normd"), ("normd", "add")]
    edges += [("add", "relu2"), ("relu2", "mean"), ("mean", "flatten"), ("flatten", "fc"), ("fc", "out")]
    return graph(nodes, edges)


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("shortcut", ["identity", "projection"])
def test_residual_blocks_get_close_to_their_ann_as_t_grows(shortcut: str, pooled: bool) -> None:
    """Also behind a pool whose spikes the block's first layer gets as well."""
    ann = block(shortcut, pooled=pooled)
    ready = same_function(ann)
    inserted = [name for name in ready.nodes if ".from." in name]
    assert inserted == ([f"add.from.{'pool0' if pooled else 'relu0'}"] if shortcut == "identity" else [])
    for name in inserted:
        node: Any = ready.nodes[name]
        assert node.groups == 4 and node.kernel == (1, 1) and np.all(node.weight == 1) and not node.has_bias
    expected = said(ann)
    errors = []
    for num_steps in (8, 64, 512):
        execution = Execution(num_steps)
        snn = convert(ann, images(), execution, Conversion(num_steps=num_steps, method="max")).network
        assert sum(isinstance(node, IF) for node in snn.nodes.values()) == 3
        error = said(snn, num_steps) - expected
        errors.append(np.sqrt(np.mean(error**2) / np.mean(expected**2)))
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.02


@pytest.mark.parametrize(
    ("nodes", "edges", "inserted"),
    [
        ({"relu": ReLU(), **HEAD}, None, "relu.from.in"),
        ({"conv": conv(), "relu": ReLU(), "twice": ClippedReLU(0.5), **HEAD}, None, "twice.from.relu"),
        ({"conv": conv(out=4), "relu": ReLU(), "mean": AvgPool2d((6, 6), (6, 6)), "flatten": Flatten()}, None, "mean.from.relu"),
        ({"conv": conv(), "add": Add(), "relu": ReLU(), **HEAD},
         [("in", "conv"), ("conv", "add"), ("in", "add"), ("add", "relu"), ("relu", "flatten"), ("flatten", "fc"), ("fc", "out")],
         "add.from.in"),
    ],
)  # fmt: skip
def test_ways_without_a_layer_get_one(nodes: Any, edges: Any, inserted: str) -> None:
    """From the input, between activations, to the output, and around a layer."""
    assert [name for name in same_function(graph(nodes, edges)).nodes if ".from." in name] == [inserted]


def test_the_sum_of_two_activations_at_the_output() -> None:
    nodes: dict[str, Any] = {"a": conv(), "b": conv(), "ra": ReLU(), "rb": ReLU(), "add": Add(), "flatten": Flatten()}
    edges = [
        ("in", "a"),
        ("in", "b"),
        ("a", "ra"),
        ("b", "rb"),
        ("ra", "add"),
        ("rb", "add"),
        ("add", "flatten"),
        ("flatten", "out"),
    ]
    ready = same_function(graph(nodes, edges, (108,)))
    assert {"add.from.ra", "add.from.rb"} < set(ready.nodes)


def test_layers_in_one_dimension() -> None:
    nodes: dict[str, Any] = {
        "in": Input((2, 9), "analog"), "norm": norm(2), "conv": Conv1d(2, 4, 3, padding=1, has_bias=True), "relu": ReLU(),
        "flatten": Flatten(), "fc": Linear(36, 3), "out": Output((3,)),
    }  # fmt: skip
    network = with_weights(chain("net", nodes))
    ready = prepare(network)
    assert [type(node).__name__ for node in ready.nodes.values()] == [
        "Input",
        "Conv1d",
        "ReLU",
        "Flatten",
        "Linear",
        "Output",
        "LI",
    ]
    assert ready.nodes["conv"].bias.shape == (4, 9)  # type: ignore[union-attr]


MAX: dict[str, Any] = {
    "conv": conv(),
    "relu": ReLU(),
    "max": MaxPool2d((2, 2), (2, 2)),
    "flatten": Flatten(),
    "fc": Linear(27, 4),
}


def test_max_pools_are_refused_averaged_or_kept_as_asked() -> None:
    with pytest.raises(
        NetworkError, match=r"^node 'max' \(MaxPool2d\) has no exact counterpart on spikes; train with"
    ) as raised:
        prepare(graph(MAX))
    assert "'average'" in str(raised.value) and "'or'" in str(raised.value)
    averaged = prepare(graph(MAX), "average")
    assert averaged.nodes["max"] == averaged.nodes["max"] and isinstance(averaged.nodes["max"], AvgPool2d)
    assert averaged.nodes["max"].kernel == averaged.nodes["max"].stride == (2, 2)
    kept = prepare(graph(MAX), "or")
    assert isinstance(kept.nodes["max"], MaxPool2d)


def test_the_or_of_spikes_is_never_below_any_of_them() -> None:
    """Why 'or' is a choice: it says more than the largest rate as soon as spikes do not come at the same steps."""
    ann = graph({"conv": conv(), "relu": ReLU(), "max": MaxPool2d((2, 2), (2, 2)), "flatten": Flatten()}, out=(27,))
    snn = convert(ann, images(), Execution(64), Conversion(num_steps=64, method="max", max_pool="or")).network
    above = said(snn, 64) - said(ann)
    assert above.min() > -0.05 and above.mean() > 0.02


@pytest.mark.parametrize(
    ("nodes", "edges", "words"),
    [
        ({"conv": conv(), "neuron": IF(), **HEAD}, None, r"^node 'neuron' \(IF\) cannot be converted; expected synapses"),
        ({"conv": conv(), "relu": ReLU(), "delay": Delay(1), **HEAD}, None, r"^node 'delay' \(Delay\) cannot be converted"),
        ({"conv": conv(), "s": Scale(np.arange(108.0).reshape(SHAPE)), "relu": ReLU(), **HEAD}, None, r"^node 's' \(Scale\)"),
        ({"conv": conv(), "li": LI(), "relu": ReLU(), **HEAD}, None, r"^node 'li' \(LI\) .* a read-out stands before the output only"),
        ({"conv": conv(), **HEAD}, None, "^network 'net' has no ReLU or ClippedReLU; there is nothing to convert"),
        ({"conv": conv(), "conv2": conv(), "relu": ReLU(), **HEAD}, None, "^layer 'conv2' gets the sums of 'conv' without an activation"),
        ({"conv": conv(), "pool": SumPool2d((1, 1), (1, 1)), "conv2": conv(), "relu": ReLU(), **HEAD}, None,
         "^layer 'conv2' gets the sums of 'conv'"),
        ({"conv": conv(), "pool": MaxPool2d((2, 2), (2, 2)), "norm": norm(3), "relu": ReLU(), "flatten": Flatten(),
          "fc": Linear(27, 4)}, None, r"^node 'pool' \(MaxPool2d\)"),
        ({"a": conv(), "b": conv(), "ra": ReLU(), "rb": ReLU(), "add": Add(), **HEAD},
         [("in", "a"), ("in", "b"), ("a", "ra"), ("b", "rb"), ("ra", "add"), ("rb", "add"), ("add", "flatten"), ("flatten", "fc"), ("fc", "out")],
         r"^layer 'fc' gets the sum of \['ra', 'rb'\], whose spikes stand for different values; put a ReLU behind"),
        ({"conv": conv(), "relu": ReLU(), "flatten": Flatten(), "a": Linear(108, 4), "b": Linear(108, 4), "la": LI(), "lb": LI()},
         [("in", "conv"), ("conv", "relu"), ("relu", "flatten"), ("flatten", "a"), ("flatten", "b"), ("a", "la"), ("b", "lb"), ("la", "out"), ("lb", "out")],
         r"^the output gets \['la', 'lb'\]; expected one read-out"),
        ({"conv": conv(), "relu": ReLU(), "delay": Delay(1), "add": Add(), **HEAD},
         [("in", "conv"), ("conv", "add"), ("delay", "add"), ("add", "relu"), ("relu", "delay"), ("relu", "flatten"), ("flatten", "fc"), ("fc", "out")],
         "^network 'network' has loops; only feed-forward ANNs"),
    ],
)  # fmt: skip
def test_what_cannot_be_converted_is_named(nodes: Any, edges: Any, words: str) -> None:
    with pytest.raises(NetworkError, match=words) as raised:
        prepare(graph(nodes, edges))
    assert "\n" not in str(raised.value)


def test_a_norm_between_max_pool_and_activation_is_no_layer_of_its_own() -> None:
    """It would get the sums of the layer before the pool."""
    nodes = {
        "conv": conv(),
        "pool": MaxPool2d((2, 2), (2, 2)),
        "norm": norm(3),
        "relu": ReLU(),
        "flatten": Flatten(),
        "fc": Linear(27, 4),
    }
    with pytest.raises(NetworkError, match=r"^layer 'norm' gets the sums of 'conv' without"):
        prepare(graph(nodes), "or")


def test_the_network_that_is_prepared_stays_as_it_is() -> None:
    ann = block("identity")
    before = ann.id
    prepare(ann)
    assert ann.id == before
