"""Networks: order, shapes and neighbours of layers, and an id that changes with everything that is computed."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from spikeloom.core.network import (
    IF,
    LAYERS,
    LI,
    LIF,
    NODE_TYPES,
    Add,
    AvgPool2d,
    BatchNorm,
    ClippedReLU,
    Conv1d,
    Conv2d,
    CubaLIF,
    Delay,
    Flatten,
    Input,
    Leak,
    Linear,
    MaxPool2d,
    Network,
    Node,
    Output,
    ReLU,
    Scale,
    SumPool2d,
    chain,
    node_out_shape,
)
from spikeloom.errors import NetworkError


def residual() -> Network:
    """input -> conv1 -> if1 -> conv2 -> if2 -> add (with if1) -> if3 -> flatten -> fc -> output, nodes in no order."""
    nodes: dict[str, Node] = {
        "output": Output((5,)),
        "fc": Linear(32, 5),
        "flatten": Flatten(),
        "if3": IF(),
        "add": Add(),
        "if2": IF(),
        "conv2": Conv2d(2, 2, (3, 3), padding=(1, 1)),
        "if1": IF(),
        "conv1": Conv2d(1, 2, (3, 3)),
        "input": Input((1, 6, 6)),
    }
    edges = (
        ("input", "conv1"), ("conv1", "if1"), ("if1", "conv2"), ("conv2", "if2"), ("if2", "add"), ("if1", "add"),
        ("add", "if3"), ("if3", "flatten"), ("flatten", "fc"), ("fc", "output"),
    )  # fmt: skip
    return Network(nodes, edges)


def test_order_puts_every_node_behind_its_inputs() -> None:
    network = residual()
    order = network.order()
    assert sorted(order) == sorted(network.nodes)
    assert all(order.index(a) < order.index(b) for a, b in network.edges)


def test_order_breaks_ties_by_the_order_of_the_nodes() -> None:
    nodes: dict[str, Node] = {"b": Input((1,)), "a": Input((1,)), "c": Add()}
    assert Network(nodes, (("a", "c"), ("b", "c"))).order() == ("b", "a", "c")


def test_a_cycle_is_named() -> None:
    nodes: dict[str, Node] = {"in": Input((4,)), "fc": Linear(4, 4), "if": IF(), "tail": Flatten()}
    network = Network(nodes, (("in", "fc"), ("fc", "if"), ("if", "fc"), ("if", "tail")))
    with pytest.raises(NetworkError, match=r"cycle through \['fc', 'if', 'tail'\]"):
        network.order()


def test_a_self_loop_is_no_cycle() -> None:
    nodes: dict[str, Node] = {"in": Input((4,)), "fc": Linear(4, 4), "if": IF()}
    network = Network(nodes, (("in", "fc"), ("fc", "fc"), ("fc", "if")))
    assert network.order() == ("in", "fc", "if")
    assert network.shapes()["if"] == (4,)
    assert network.layer_inputs("fc") == ("fc",)


@pytest.mark.parametrize("looped", ["neuron", "flatten"])
def test_a_self_loop_of_another_node_does_not_trap_the_search(looped: str) -> None:
    nodes: dict[str, Node] = {
        "in": Input((4,)), "fc1": Linear(4, 4), "flatten": Flatten(), "neuron": IF(), "fc2": Linear(4, 2)
    }  # fmt: skip
    edges = tuple(zip(nodes, list(nodes)[1:], strict=False))
    network = Network(nodes, (*edges, (looped, looped)))
    assert network.layer_inputs("fc2") == ("fc1",)
    assert network.layer_neuron("fc1") == "neuron"


def test_an_edge_to_nowhere_is_refused_by_name() -> None:
    with pytest.raises(NetworkError, match="names 'fc2', which is no node"):
        Network({"in": Input((1,))}, (("in", "fc2"),))


def test_shapes_follow_the_graph() -> None:
    shapes = residual().shapes()
    assert shapes["conv1"] == shapes["conv2"] == shapes["add"] == (2, 4, 4)
    assert shapes["flatten"] == (32,)
    assert shapes["output"] == (5,)


def test_layers_and_their_neighbours() -> None:
    network = residual()
    assert network.layers() == ("conv1", "conv2", "add", "fc")
    assert [network.layer_inputs(name) for name in network.layers()] == [
        (), ("conv1",), ("conv2", "conv1"), ("add",)
    ]  # fmt: skip
    assert [network.layer_neuron(name) for name in network.layers()] == ["if1", "if2", "if3", None]


def test_the_neuron_of_a_layer_is_not_that_of_the_next() -> None:
    nodes: dict[str, Node] = {
        "in": Input((1, 4, 4)), "conv": Conv2d(1, 1, (1, 1)), "pool": SumPool2d((2, 2), (2, 2)), "if": IF()
    }  # fmt: skip
    network = chain("n", nodes)
    assert network.layer_neuron("conv") is None
    assert network.layer_neuron("pool") == "if"


def test_a_neuron_is_found_behind_what_is_neither_layer_nor_neuron() -> None:
    nodes: dict[str, Node] = {
        "in": Input((2, 4, 4)), "conv": Conv2d(2, 2, (1, 1)), "norm": BatchNorm(2), "scale": Scale(np.ones(1)),
        "relu": ReLU(), "flatten": Flatten(), "fc": Linear(32, 2),
    }  # fmt: skip
    network = chain("n", nodes)
    assert network.layer_neuron("conv") == "relu"
    assert network.layer_inputs("fc") == ("conv",)


CONV2D = Conv2d(4, 6, (3, 2), (2, 1), (1, 0), (1, 2), 2)


@pytest.mark.parametrize(
    ("node", "shape", "expected"),
    [
        (Input((2, 3)), (2, 3), (2, 3)),
        (CONV2D, (4, 7, 5), (6, 4, 3)),
        (Conv1d(3, 2, 3, 2, 1, 2), (3, 9), (2, 4)),
        (Linear(12, 3), (12,), (3,)),
        (SumPool2d((2, 3), (2, 3)), (5, 5, 7), (5, 2, 2)),
        (AvgPool2d((3, 3), (2, 2), (1, 1)), (5, 5, 7), (5, 3, 4)),
        (MaxPool2d((2, 2), (1, 1)), (5, 5, 7), (5, 4, 6)),
        (Flatten(), (2, 3, 4), (24,)),
        (BatchNorm(3), (3, 4, 4), (3, 4, 4)),
        (LIF(Leak(shift=2)), (3, 4), (3, 4)),
        (Delay(2), (3, 4), (3, 4)),
        (Add(), (7,), (7,)),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_out_shape_of_every_kind(node: Node, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert node_out_shape("x", node, shape) == expected


@pytest.mark.parametrize(
    ("node", "shape"),
    [
        (Output((3,)), (4,)),
        (CONV2D, (4, 7)),
        (CONV2D, (3, 7, 5)),
        (CONV2D, (4, 0, 5)),
        (Conv2d(4, 6, (3, 3), groups=3), (4, 7, 5)),
        (Conv2d(4, 6, (3, 3), groups=4), (4, 7, 5)),
        (Conv2d(4, 6, (3, 3)), (4, 2, 5)),
        (Conv2d(1, 1, (3, 3), stride=(0, 1)), (1, 7, 5)),
        (Conv2d(1, 1, (0, 3)), (1, 7, 5)),
        (Conv2d(1, 1, (1, 1), groups=0), (1, 7, 5)),
        (Conv2d(1, 2, (1, 1), weight=np.ones((2, 1, 1))), (1, 7, 5)),
        (Conv2d(1, 2, (1, 1), bias=np.ones(3)), (1, 7, 5)),
        (Conv1d(3, 2, 3), (3, 2)),
        (Conv1d(3, 2, 3), (3, 2, 9)),
        (Conv1d(3, 2, 3, weight=np.ones((2, 3, 1, 3))), (3, 9)),
        (Linear(12, 3), (3, 4)),
        (Linear(12, 3), (11,)),
        (Linear(12, 3, weight=np.ones((12, 3))), (12,)),
        (BatchNorm(3), (4, 2, 2)),
        (SumPool2d((2, 2), (2, 2)), (3, 4)),
        (SumPool2d((3, 3), (2, 2)), (3, 2, 4)),
        (AvgPool2d((2, 2), (0, 2)), (3, 4, 4)),
    ],
)
def test_shapes_that_do_not_fit_name_the_node(node: Node, shape: tuple[int, ...]) -> None:
    with pytest.raises(NetworkError, match=r"^node 'here'"):
        node_out_shape("here", node, shape)


def test_a_node_without_input_and_inputs_that_differ_are_named() -> None:
    with pytest.raises(NetworkError, match=r"node 'fc' \(Linear\) has no input"):
        Network({"fc": Linear(2, 2)}, ()).shapes()
    nodes: dict[str, Node] = {"a": Input((2,)), "b": Input((3,)), "add": Add()}
    with pytest.raises(NetworkError, match=r"node 'add' gets inputs of different shapes \[\[2\], \[3\]\]"):
        Network(nodes, (("a", "add"), ("b", "add"))).shapes()


def test_node_types_hold_every_kind_by_its_name() -> None:
    assert all(NODE_TYPES[cls.__name__] is cls for cls in NODE_TYPES.values())
    assert set(LAYERS) <= set(NODE_TYPES.values())
    assert len(NODE_TYPES) == 19


FULL: dict[str, Node] = {
    "input": Input((2, 4, 4)), "conv1d": Conv1d(2, 2, 3), "conv": Conv2d(2, 2, (3, 3)), "fc": Linear(4, 2),
    "scale": Scale(np.ones(3)), "norm": BatchNorm(2), "if": IF(), "lif": LIF(Leak(shift=2)),
    "cuba": CubaLIF(Leak(shift=2), Leak(shift=3)), "li": LI(), "relu": ReLU(), "clip": ClippedReLU(1.0),
    "sum": SumPool2d((2, 2), (2, 2)), "avg": AvgPool2d((2, 2), (2, 2)), "max": MaxPool2d((2, 2), (2, 2)),
    "flatten": Flatten(), "delay": Delay(), "add": Add(), "output": Output((2,)),
}  # fmt: skip


def another(value: Any) -> Any:
    """A value of a field that is not ``value``."""
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return {"spikes": "levels", "hard": "soft"}[value]
        case tuple():
            return (*value[:-1], value[-1] + 1)
        case np.ndarray():
            return value + 1
        case Leak():
            return Leak(factor=0.5)
    return None


@pytest.mark.parametrize("name", FULL)
def test_a_network_id_changes_with_every_field_of_every_node(name: str) -> None:
    assert set(map(type, FULL.values())) == set(NODE_TYPES.values())
    ids = {Network(FULL, ()).id}
    node = FULL[name]
    changed = 0
    for item in fields(node):
        value = getattr(node, item.name)
        kinds: list[Any] = [another(value)]
        if value is None:
            arrays = [np.ones(2), np.zeros(2), np.ones(2, int)]
            others: dict[str, list[Any]] = {"levels": [3], "leak": [Leak(shift=1)]}
            kinds = others.get(item.name, arrays)
        for kind in kinds:
            ids.add(Network({**FULL, name: replace(node, **{item.name: kind})}, ()).id)
            changed += 1
    assert len(ids) == 1 + changed


def test_a_network_id_changes_with_names_kinds_edges_and_dt_but_not_with_what_is_said_about_it() -> None:
    network = residual()
    nodes = dict(network.nodes)
    others = [
        replace(network, edges=network.edges[:-1]),
        replace(network, edges=network.edges[::-1]),
        replace(network, dt_s=1e-3),
        replace(network, nodes={**nodes, "more": Flatten()}),
        replace(network, nodes={**nodes, "if3": LI()}),
    ]
    assert len({network.id, *(other.id for other in others)}) == 6
    assert replace(network, name="x", metadata={"a": 1}).id == network.id == residual().id


@pytest.mark.parametrize(
    "values",
    [{}, {"shift": 2, "factor": 0.5}, {"shift": 0}, {"shift": 32}, {"factor": -0.1}, {"factor": 1.5},
     {"factor": float("nan")}],
)  # fmt: skip
def test_impossible_leaks_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(NetworkError, match=r"^leak"):
        Leak(**values)


def test_what_a_leak_keeps() -> None:
    assert Leak(shift=2).kept == 0.75
    assert Leak(factor=0.9).kept == 0.9
    assert Leak(factor=0.0).kept == 0.0
