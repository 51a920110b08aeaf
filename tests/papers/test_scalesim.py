"""Cycles and buffer traffic of the dense array against SCALE-Sim, which ran once (make_scalesim.py) over twenty layers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloom.core.network import chain
from spikeloom.core.nodes import Conv2d, Input, ReLU
from spikeloom.core.trace import Levels, SpikeTrace
from spikeloom.core.workload import Layer, Workload
from spikeloom.evaluate import load_workload
from spikeloom.hw.systolic import Systolic, SystolicArch
from spikeloom.lower import lower
from spikeloom.studies.agreement import published
from spikeloom.units import to_si

DOCUMENT: dict[str, Any] = published("scalesim.json")
DATAFLOWS = ("ws", "os", "is")
RUNS = [pytest.param(shape, flow, id=f"{shape['name']}-{flow}") for shape in DOCUMENT["layers"] for flow in DATAFLOWS]


def layer_of(shape: dict[str, Any]) -> Layer:
    """The layer as a network has it, with its padding, on one image of 8-bit pixels."""
    size = (shape["C"], shape["H"], shape["W"])
    node = Conv2d(
        shape["C"], shape["K"], (shape["R"], shape["S"]), (shape["stride"],) * 2, (shape["padding"],) * 2
    )  # fmt: skip
    image = Levels(np.full((1, 1, *size), 3, np.uint8), 8)
    return lower(
        chain("one", {"in": Input(size), "layer": node, "relu": ReLU()}), SpikeTrace(1, 1, {"layer": image})
    ).layers[0]


def test_there_are_twenty_layers_in_three_dataflows_without_stalls() -> None:
    assert len(RUNS) == 60
    assert all(shape[flow]["stall_cycles"] == 0 for shape in DOCUMENT["layers"] for flow in DATAFLOWS)
    assert "2.0.2" in DOCUMENT["tool"]


@pytest.mark.parametrize(("shape", "flow"), RUNS)
def test_cycles_and_words_are_those_of_scale_sim(shape: dict[str, Any], flow: str) -> None:
    """The tool's total is the number of its last cycle counted from 0; its output writes hold rows + cols more a fold.

    (Output stationary only, ``this_fold_demand.shape[0] + this_fold_demand.shape[1]`` in systolic_compute_os.py.)
    """
    layer, machine = layer_of(shape), Systolic()
    arch = SystolicArch(
        rows=shape["rows"], cols=shape["cols"], dataflow=flow, dram_bandwidth=8e15, ofmap=to_si(4096, "kib")
    )
    work = Workload((layer,), 1, 1)
    counts = machine.count(work, arch, machine.map(work, arch))
    tool = shape[flow]
    assert counts.cycles == counts.actions["layer", "array", "cycles"] == tool["total_cycles"] + 1
    assert counts.actions["layer", "glb_ifmap", "read"] == tool["ifmap_sram_reads"] * 8
    assert counts.actions["layer", "glb_weight", "read"] == tool["filter_sram_reads"] * layer.weight_bits
    outputs = layer.K * layer.P * layer.Q
    sums = counts.actions["layer", "glb_ofmap", "write"] - 8 * outputs  # without the results
    over = 0
    if flow == "os":
        folds = -(-layer.P * layer.Q // arch.rows) * -(-layer.K // arch.cols)
        over = folds * (arch.rows + arch.cols)
    assert sums // arch.psum_bit + outputs == tool["ofmap_sram_writes"] - over


HEADER = "Layer name, IFMAP Height, IFMAP Width, Filter Height, Filter Width, Channels, Num Filter, Strides,\n"


@st.composite
def rows(draw: st.DrawFn) -> tuple[int, ...]:
    """H, W, R, S, C, K and a stride that need not divide."""
    R, S = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    H, W = R + draw(st.integers(0, 12)), S + draw(st.integers(0, 12))
    return H, W, R, S, draw(st.integers(1, 6)), draw(st.integers(1, 20)), draw(st.integers(1, 6))


def tool(row: tuple[int, ...], flow: str, rows: int, cols: int) -> tuple[int, int]:
    """(MACs, cycles counted from 1) by the tool's own arithmetic: topology_utils.py, systolic_compute_os.py and its siblings."""
    H, W, R, S, C, K, stride = row
    pixels = math.ceil((H - R + stride) / stride) * math.ceil((W - S + stride) / stride)
    window = R * S * C
    along, across, time = {"os": (pixels, K, window), "ws": (window, K, pixels), "is": (window, pixels, K)}[flow]
    fold = time + rows + cols - 2 if flow == "os" else rows + time + rows + cols - 2
    return pixels * window * K, math.ceil(along / rows) * math.ceil(across / cols) * fold


@given(row=rows(), depthwise=st.booleans(), flow=st.sampled_from(DATAFLOWS), array=st.sampled_from([(16, 8), (5, 7)]))
@settings(max_examples=80, deadline=None)
def test_rows_of_a_topology_have_the_macs_and_cycles_of_the_tool(
    tmp_path_factory: pytest.TempPathFactory, row: tuple[int, ...], depthwise: bool, flow: str, array: tuple[int, int]
) -> None:
    """Also where the stride leaves a rest; a row with DP in its name is one layer of one channel after the other."""
    path = tmp_path_factory.mktemp("topology") / "net.csv"
    name = "conv2_DP" if depthwise else "conv2"
    path.write_text(f"{HEADER}{name}, {', '.join(map(str, row))},\n", encoding="utf-8")
    work, machine = load_workload(path, rate=1.0, num_steps=1), Systolic()
    arch = SystolicArch(rows=array[0], cols=array[1], dataflow=flow, dram_bandwidth=8e15)
    counts = machine.count(work, arch, machine.map(work, arch))
    times = row[4] if depthwise else 1
    macs, cycles = tool((*row[:4], 1, *row[5:]) if depthwise else row, flow, *array)
    assert counts.statistics[name, "macs"] == macs * times
    assert counts.actions[name, "array", "cycles"] == cycles * times
