"""Networks: order, shapes and neighbours of layers, and an id that changes with everything that is computed."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from spikeloom.core.network import Network, chain
from spikeloom.core.nodes import (
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
    Node,
    Output,
    ReLU,
    Scale,
    Shape,
    SumPool2d,
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


def loop(*between: str, **more: Node) -> Network:
    """in -> fc -> if -> `between` -> back -> if, and a tail behind the neuron, nodes in no order."""
    nodes: dict[str, Node] = {
        "tail": Flatten(), "back": Linear(4, 4), "if": IF(), "fc": Linear(4, 4), "in": Input((4,)), "out": Output((4,)), **more
    }  # fmt: skip
    way = ("if", *between, "back", "if")
    edges = (("in", "fc"), ("fc", "if"), *zip(way, way[1:], strict=False), ("if", "tail"), ("tail", "out"))
    return Network(nodes, edges)


@pytest.mark.parametrize("between", [("scale",), ("scale", "late")])
def test_a_loop_without_a_delay_is_named_in_order(between: tuple[str, ...]) -> None:
    """A delay of no steps is none, one behind the loop does not help."""
    network = loop(*between, scale=Scale(np.ones(1)), late=Delay(0))
    behind = Network({"after": Delay(), **network.nodes}, (*network.edges, ("tail", "after")))
    way = ["back", "if", *between]
    for net in (network, behind):
        with pytest.raises(NetworkError, match=r"loop without a delay through \[.*put a Delay into the loop") as caught:
            net.order()
        named = json.loads(str(caught.value).split("through ")[1].split(";")[0].replace("'", '"'))
        assert named in [way[k:] + way[:k] for k in range(len(way))]


def test_a_loop_is_entered_at_its_delay() -> None:
    network = loop("late", late=Delay(2))
    assert network.recurrent
    order = network.order()
    assert sorted(order) == sorted(network.nodes)
    assert all(order.index(a) < order.index(b) for a, b in network.edges if b != "late")
    assert order.index("late") < order.index("back") < order.index("if")
    assert network.shapes() == dict.fromkeys(network.nodes, (4,))
    assert not residual().recurrent
    assert not chain("line", {"in": Input((4,)), "late": Delay(), "out": Output((4,))}).recurrent


def test_a_delay_behind_a_loop_is_no_way_into_it() -> None:
    """Named before everything else, so that it is the first delay that is found."""
    network = loop("late", late=Delay(), after=Delay(3))
    edges = [edge for edge in network.edges if edge != ("tail", "out")]
    network = Network({"after": Delay(3), **network.nodes}, (*edges, ("tail", "after"), ("after", "out")))
    order = network.order()
    assert sorted(order) == sorted(network.nodes)
    assert all(order.index(a) < order.index(b) for a, b in network.edges if b not in ("late", "after"))
    assert network.shapes()["out"] == (4,)


def test_shapes_in_loops_are_checked_like_all_others() -> None:
    with pytest.raises(NetworkError, match=r"node 'back' \(Linear\) got an input of shape \[4\], expected \[3\]"):
        loop("late", late=Delay(), back=Linear(3, 4)).shapes()
    with pytest.raises(NetworkError, match=r"node 'if' gets inputs of different shapes \[\[4\], \[3\]\]"):
        loop("late", late=Delay(), back=Linear(4, 3)).shapes()
    island = loop("late", late=Delay())
    island = Network(island.nodes, tuple(edge for edge in island.edges if edge != ("fc", "if")))
    with pytest.raises(NetworkError, match=r"loop that no input reaches, through \['"):
        island.shapes()
    with pytest.raises(NetworkError, match="node 'late' \\(Delay\\) has -1 steps, expected at least 0"):
        chain("early", {"in": Input((4,)), "late": Delay(-1)}).shapes()


def test_layers_that_hear_themselves() -> None:
    """Directly, through others, or not at all."""
    network = loop("late", late=Delay())
    assert network.layer_inputs("back") == ("fc", "back")
    assert [network.recurs(name) for name in ("fc", "back")] == [False, True]
    nodes: dict[str, Node] = {
        "in": Input((4,)), "a": Linear(4, 4), "na": IF(), "b": Linear(4, 4), "nb": IF(), "late": Delay(), "c": Linear(4, 4),
        "d": Linear(4, 4),
    }  # fmt: skip
    edges = (
        ("in", "a"), ("a", "na"), ("na", "b"), ("b", "nb"), ("nb", "late"), ("late", "c"), ("c", "na"), ("nb", "d"),
    )  # fmt: skip
    found = Network(nodes, edges)
    assert {name: found.recurs(name) for name in found.layers()} == {"a": False, "b": True, "c": True, "d": False}
    assert not any(residual().recurs(name) for name in residual().layers())


def test_neurons_that_hear_themselves_without_a_layer_between() -> None:
    """One to one, through a Scale: their layer recurs, the one behind does not."""
    network = loop("late", late=Delay(), back=Scale(np.ones(1)), fc2=Linear(4, 2))
    network = Network(network.nodes, (*network.edges, ("tail", "fc2")))
    assert {name: network.recurs(name) for name in network.layers()} == {"fc": True, "fc2": False}


def test_a_self_loop_is_no_cycle() -> None:
    nodes: dict[str, Node] = {"in": Input((4,)), "fc": Linear(4, 4), "if": IF()}
    network = Network(nodes, (("in", "fc"), ("fc", "fc"), ("fc", "if")))
    assert network.order() == ("in", "fc", "if")
    assert network.shapes()["if"] == (4,)
    assert network.layer_inputs("fc") == ("fc",)
    assert network.recurs("fc")


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


def test_of_layers_that_meet_in_one_neuron_the_last_has_it() -> None:
    nodes: dict[str, Node] = {"in": Input((4,)), "a": Linear(4, 3), "b": Linear(4, 3), "n": IF(), "out": Output((3,))}
    network = Network(nodes, (("in", "a"), ("in", "b"), ("a", "n"), ("b", "n"), ("n", "out")))
    assert [network.layer_neuron(name) for name in ("a", "b")] == [None, "n"]


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
            return {"spikes": "levels", "hard": "soft", "saturate": "wrap"}[value]
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
            others: dict[str, list[Any]] = {
                "levels": [3], "leak": [Leak(shift=1), Leak(factor=np.array([0.5])), Leak(factor=np.array([0.25, 0.5]))],
                "membrane_bits": [8, 16], "bias_bits": [8, 16],
            }  # fmt: skip
            kinds = others.get(item.name, arrays)
        if item.name in ("v_threshold", "v_init", "v_reset"):
            kinds += [np.ones(2), np.array([1, 2])]
        if item.name in ("leak", "syn_leak") and value is not None:
            kinds += [Leak(factor=np.array([0.5, 0.5])), Leak(factor=np.array([0.5, 0.25]))]
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


def test_leaks_are_equal_by_what_they_keep() -> None:
    one, two = Leak(factor=np.array([0.5, 0.25], np.float32)), Leak(factor=np.array([0.5, 0.25]))
    assert one == two and hash(one) == hash(two)
    assert one not in (Leak(factor=np.array([0.5, 0.5])), Leak(factor=0.5), Leak(shift=1), 0.5)
    assert Leak(shift=1) != Leak(factor=0.5)
    with pytest.raises(NetworkError, match=r"^leak factor must be 0..1, got 0.5..1.5"):
        Leak(factor=np.array([0.5, 1.5]))


@pytest.mark.parametrize("key", ["v_threshold", "v_init", "v_reset", "leak", "syn_leak"])
def test_one_value_for_each_neuron_fits_its_map(key: str) -> None:
    def shape_of(array: np.ndarray) -> tuple[int, ...]:
        value = Leak(factor=array) if "leak" in key else array
        values: dict[str, Any] = {"leak": Leak(shift=1), "syn_leak": Leak(shift=1), key: value}
        return node_out_shape("here", CubaLIF(**values), (3, 4, 5))

    for shape in ((), (1,), (5,), (3, 1, 1), (4, 1), (3, 4, 5)):
        assert shape_of(np.full(shape, 0.5)) == (3, 4, 5)
    for shape in ((3,), (4,), (3, 1), (5, 4, 3), (1, 3, 4, 5)):
        with pytest.raises(NetworkError, match=rf"^node 'here' \(CubaLIF\) has a {key} of shape .*its map \[3, 4, 5\]"):
            shape_of(np.full(shape, 0.5))


@pytest.mark.parametrize(
    ("node", "shape", "out"),
    [(Conv2d(1, 2, (2, 2)), (1, 4, 3), (2, 3, 2)), (Conv1d(1, 2, 2), (1, 4), (2, 3)), (Linear(4, 2), (4,), (2,))],
    ids=lambda value: type(value).__name__,
)
def test_a_bias_is_one_for_each_channel_or_one_for_each_neuron(node: Any, shape: Shape, out: Shape) -> None:
    for fits in {out[:1], out}:
        assert node_out_shape("here", replace(node, has_bias=True, bias=np.ones(fits)), shape) == out
    expected = " or ".join(str(list(fits)) for fits in dict.fromkeys((out[:1], out)))
    for wrong in ((3,), (2, 1), (*out, 1), (1, *out[1:])):
        with pytest.raises(NetworkError) as caught:
            node_out_shape("here", replace(node, has_bias=True, bias=np.ones(wrong)), shape)
        kind = type(node).__name__
        assert str(caught.value) == f"node 'here' ({kind}) has a bias of shape {list(wrong)}, expected {expected}"


def test_what_a_leak_keeps() -> None:
    assert Leak(shift=2).kept == 0.75
    assert Leak(factor=0.9).kept == 0.9
    assert Leak(factor=0.0).kept == 0.0


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (IF(float("nan")), "v_threshold of nan, expected numbers above 0"),
        (IF(0.0), "v_threshold of 0.0, expected numbers above 0"),
        (LIF(Leak(shift=1), -1.0), "v_threshold of -1.0, expected numbers above 0"),
        (IF(float("inf")), "v_threshold of inf, expected finite numbers"),
        (IF(np.array([1.0, 0.0])), "v_threshold of 0.0..1.0, expected numbers above 0"),
        (IF(v_reset=float("inf")), "v_reset of inf, expected finite numbers"),
        (IF(v_init=np.array([0, np.nan])), "v_init of shape [2] with NaN or infinity"),
        (ClippedReLU(float("nan")), "ceiling of nan"),
        (Scale(np.array([np.inf, 1])), "scale of shape [2] with NaN or infinity"),
        (Linear(2, 2, weight=np.full((2, 2), np.nan)), "weight of shape [2, 2] with NaN or infinity"),
        (Linear(2, 2, True, bias=np.array([0, np.inf])), "bias of shape [2] with NaN or infinity"),
        (BatchNorm(2, mean=np.ones(3)), "mean of shape [3], expected [2]"),
        (BatchNorm(2, var=np.ones((2, 1))), "var of shape [2, 1], expected [2]"),
        (BatchNorm(2, gamma=np.array([1, np.nan])), "gamma of shape [2] with NaN or infinity"),
    ],
)
def test_values_that_cannot_be_are_refused_by_name(node: Node, expected: str) -> None:
    with pytest.raises(NetworkError) as caught:
        chain("n", {"in": Input((2,)), "x": node}).shapes()
    assert str(caught.value).startswith(f"node 'x' ({type(node).__name__}) has a {expected}")


def test_a_threshold_may_be_unknown() -> None:
    assert chain("n", {"in": Input((2,)), "x": IF(None)}).shapes()["x"] == (2,)


@pytest.mark.parametrize("bits", [-3, 0, 2.5, 65, float("nan")])
def test_a_width_is_a_whole_number_of_bits(bits: float) -> None:
    nodes: dict[str, Node] = {"in": Input((3,)), "fc": Linear(3, 2, weight_bits=bits), "out": Output((2,))}  # type: ignore[arg-type]
    with pytest.raises(NetworkError, match=f"node 'fc': weight_bits: got {bits}, expected 1..64"):
        chain("n", nodes)


@pytest.mark.parametrize("dt_s", [0.0, -1e-3, float("nan"), float("inf")])
def test_a_step_is_a_positive_time(dt_s: float) -> None:
    with pytest.raises(NetworkError, match=f"network 'n' has a dt_s of {dt_s}, expected a positive"):
        chain("n", {"in": Input((2,))}, dt_s=dt_s)


def test_words_for_membranes_need_integer_weights() -> None:
    def network(weight: np.ndarray | None) -> Network:
        fc = Linear(2, 2, weight=weight)
        return chain("n", {"in": Input((2,)), "fc": fc, "if": IF(membrane_bits=8), "out": Output((2,))})

    for fits in (None, np.ones((2, 2), np.int8)):
        assert network(fits).checked().nodes
    with pytest.raises(NetworkError, match=r"^node 'if' \(IF\) has membrane_bits 8, but weights are no integers"):
        network(np.ones((2, 2))).checked()
