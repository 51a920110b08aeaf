"""Machine and workload files: every knob survives, and a bad key gets one line that names it and what is known."""

from __future__ import annotations

import json
import math
import tomllib
from collections import abc
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloom.core.arch import AbstractArch, Charge, Part, PerLayer, check_knobs, knob
from spikeloom.core.workload import RateLayer
from spikeloom.errors import ConfigError
from spikeloom.evaluate import ARCH_TYPES, PRESET_MODELS, PRESETS, load_machine, load_workload
from spikeloom.files.config import machine_from, machine_keys, read_topology, read_workload
from spikeloom.files.schema import file_key, read_toml, toml_value
from spikeloom.hw import HARDWARE
from spikeloom.hw.spikex import SpikexArch
from spikeloom.units import to_si
from tests.files.cases import complaint


@dataclass(frozen=True)
class ToyArch(AbstractArch):
    """A machine with a knob of every sort."""

    model: ClassVar[str] = "toy"
    count: int = knob(3, "how many", low=1, high=9)
    share: float = knob(0.5, "how much", low=0, high=1)
    window: PerLayer[int] = knob(4, "steps", low=1, high=64, per_layer=True)
    way: PerLayer[str] = knob("x", "how", choices=("x", "y"), per_layer=True)
    word: str = knob("a", "which", choices=("a", "b"))
    fast: bool = knob(True, "whether")
    psum_bit: int = knob(16, "width", suffix="bit", low=4, high=32)
    buffer: float = knob(8192.0, "size", suffix="kib", low=0.5, high=64)
    bandwidth: float = knob(8e9, "speed", suffix="gb_s", low=0.1, high=100)
    clock: float = knob(5e8, "clock", suffix="mhz", low=1, high=1000)
    table: str = knob("cacti32", "prices")

    def __post_init__(self) -> None:
        check_knobs(self)

    def inventory(self) -> tuple[Part, ...]:
        return ()

    def charges(self) -> abc.Mapping[tuple[str, str], tuple[Charge, ...]]:
        return {}

    def notes(self) -> tuple[str, ...]:
        return ()


TOYS: dict[str, type[AbstractArch]] = {"toy": ToyArch, **ARCH_TYPES}
TOY_PRESETS: dict[str, dict[str, dict[str, Any]]] = {"toy": {"toy": {}, "small": {"count": 1, "buffer_kib": 1}}}

MACHINES = [("toy", ToyArch), *ARCH_TYPES.items()]


@st.composite
def machine_files(draw: st.DrawFn, arch_type: type[Any]) -> dict[str, Any]:
    """Some keys of a machine file, each with a value that its knob allows."""
    hints = get_type_hints(arch_type)
    keys: dict[str, Any] = {"model": arch_type.model}
    for item in fields(arch_type):
        meta, kind = item.metadata, hints[item.name]
        if draw(st.booleans()):
            continue
        low, high = meta["low"] or 0, meta["high"] if meta["high"] is not None else 10**6
        values: st.SearchStrategy[Any]
        if meta["per_layer"]:
            kind = type(item.default)
        if meta["choices"]:
            values = st.sampled_from(meta["choices"])
        elif kind is bool:
            values = st.booleans()
        elif kind is int:
            values = st.integers(int(low), int(high))
        elif kind is float:
            values = st.floats(low, high) | st.integers(math.ceil(low), int(high))
        else:
            values = st.text()
        if meta["per_layer"]:
            values |= st.dictionaries(st.text(max_size=5), values, min_size=1)
        keys[file_key(item)] = draw(values)
    return keys


def built(keys: abc.Mapping[str, Any]) -> AbstractArch | None:
    """The machine, or None where its own rules refuse the combination."""
    try:
        return machine_from(keys, TOYS, PRESETS, "file")
    except ConfigError:
        return None


@pytest.mark.parametrize(("model", "arch_type"), MACHINES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_knob_round_trips(model: str, arch_type: type[Any], data: st.DataObject) -> None:
    keys = data.draw(machine_files(arch_type))
    arch = built(keys)
    if arch is None:
        assert model != "toy"
        return
    for item in fields(arch_type):
        value, suffix = getattr(arch, item.name), item.metadata["suffix"]
        if file_key(item) in keys:
            said = keys[file_key(item)]
            assert value == (to_si(said, suffix) if suffix else said)
        else:
            assert value == item.default
    effective = machine_keys(arch)
    assert list(effective) == ["model", *(file_key(item) for item in fields(arch_type))]
    assert built(effective) == arch
    assert built(json.loads(json.dumps(effective))) == arch
    as_toml = "\n".join(f"{key} = {toml_value(value)}" for key, value in effective.items())
    assert built(tomllib.loads(as_toml)) == arch


@pytest.mark.parametrize(("model", "arch_type"), MACHINES)
def test_every_knob_says_what_it_is_and_its_default_is_in_range(model: str, arch_type: type[Any]) -> None:
    for item in fields(arch_type):
        assert item.metadata["meaning"]
        assert "\n" not in item.metadata["meaning"]
    assert arch_type.model == model
    assert built(machine_keys(arch_type())) == arch_type()


@pytest.mark.parametrize("model", HARDWARE)
def test_every_preset_is_a_machine_that_differs_from_the_others(model: str) -> None:
    archs = [machine_from({"model": model, "preset": name}, ARCH_TYPES, PRESETS, "file") for name in PRESETS[model]]
    assert archs
    assert len({repr(arch) for arch in archs}) == len(archs)
    for name, arch in zip(PRESETS[model], archs, strict=True):
        assert load_machine(name) == (name, arch)


def test_units_and_defaults_of_the_array() -> None:
    arch = machine_from({"model": "spikex", "lbuf_kib": 4, "clock_mhz": 250}, ARCH_TYPES, PRESETS, "file")
    assert arch == SpikexArch(lbuf=4 * 8192, clock=2.5e8)
    keys = machine_keys(arch)
    assert (keys["lbuf_kib"], keys["glb_kib"], keys["dram_bandwidth_gb_s"], keys["clock_mhz"]) == (4, 54, 30, 250)


def test_a_preset_is_changed_by_the_keys_beside_it() -> None:
    keys = {"model": "toy", "preset": "small", "buffer_kib": 2}
    arch = machine_from(keys, TOYS, TOY_PRESETS, "file")
    assert arch == ToyArch(count=1, buffer=2 * 8192)


def toml_file(folder: Path, text: str) -> Path:
    path = folder / "machine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def read_toy(path: Path) -> AbstractArch:
    return machine_from(read_toml(path), TOYS, TOY_PRESETS, str(path))


def test_a_table_by_layer_is_read_from_a_file(tmp_path: Path) -> None:
    text = 'model = "toy"\nclock_mhz = 2\n[window]\nconv1 = 8\n"a b" = 1\n'
    assert read_toy(toml_file(tmp_path, text)) == ToyArch(clock=2e6, window={"conv1": 8, "a b": 1})
    text = 'model = "toy"\nway = {conv1 = "y", fc1 = "x"}\n'
    assert read_toy(toml_file(tmp_path, text)) == ToyArch(way={"conv1": "y", "fc1": "x"})


@pytest.mark.parametrize(
    ("text", "complains"),
    [
        ("", f": model: missing key; expected one of {', '.join(TOYS)}"),
        ("model = 3", ": model: got 3, expected one of toy"),
        ('model = "toi"', f": model: got 'toi', expected one of {', '.join(TOYS)} (did you mean 'toy'?)"),
        ("model = ['toy']", ": model: got ['toy']"),
        ('preset = "smal"', ": preset: got 'smal', expected one of toy, small (did you mean 'small'?)"),
        ('preset = ""', ": preset: got ''"),
        ("preset = 3", ": preset: got 3"),
        ("preset = ['small']", ": preset: got ['small']"),
        ("preset = {}", ": preset: got {}"),
        ("counts = 3", ": counts: unknown key (did you mean 'count'?); known keys: count, share, window, way"),
        ("buffer = 3", ": buffer: unknown key (did you mean 'buffer_kib'?)"),
        ("buffer_mib = 3", ": buffer_mib: unknown key (did you mean 'buffer_kib'?)"),
        ("clock_ghz = 3", ": clock_ghz: unknown key (did you mean 'clock_mhz'?)"),
        ("psum = 3", ": psum: unknown key (did you mean 'psum_bit'?)"),
        ("xyzzy = 3\ncount = 99", ": xyzzy: unknown key; known keys:"),
        ("count = 0", ": count: got 0, expected: "),
        ("count = 10", ": count: got 10, expected: "),
        ("count = 3.0", ": count: got 3.0, expected: "),
        ("count = true", ": count: got True, expected: "),
        ('count = "3"', ": count: got '3', expected: "),
        ("count = [3]", ": count: got [3], expected: "),
        ("count = inf", ": count: got inf, expected: "),
        ("count = 2024-01-01", ": count: got '2024-01-01', expected: "),
        ("share = 1.5", ": share: got 1.5, expected: "),
        ("share = nan", ": share: got nan, expected: "),
        ("share = -inf", ": share: got -inf, expected: "),
        ("share = false", ": share: got False, expected: "),
        ("fast = 1", ": fast: got 1, expected: "),
        ('fast = "yes"', ": fast: got 'yes', expected: "),
        ('word = "c"', ": word: got 'c', expected: 'a' or 'b'"),
        ("word = 1", ": word: got 1, expected: "),
        ("window = 2.5", ": window: got 2.5, expected: "),
        ("window = true", ": window: got True, expected: "),
        ("window = {conv1 = true}", ": window.conv1: got True, expected: "),
        ("window = {conv1 = 'x'}", ": window.conv1: got 'x', expected: "),
        ("window = {conv1 = {a = 1}}", ": window.conv1: got {'a': 1}, expected: "),
        ("window = {conv1 = 65}", ": window.conv1: got 65, expected: less than or equal to 64"),
        ("window = {}", ": window: got an empty table, expected one value or an entry for every layer"),
        ("way = 3", ": way: got 3, expected: 'x' or 'y'"),
        ("way = {conv1 = 'z'}", ": way.conv1: got 'z', expected: 'x' or 'y'"),
        ("way = {conv1 = 'x', fc1 = ['y']}", ": way.fc1: got ['y'], expected: 'x' or 'y'"),
        ("word = {conv1 = 'a'}", ": word: got {'conv1': 'a'}, expected: 'a' or 'b'"),
        ("count = {conv1 = 3}", ": count: got {'conv1': 3}, expected: "),
        ("psum_bit = 3", ": psum_bit: got 3, expected: "),
        ("psum_bit = 8.5", ": psum_bit: got 8.5, expected: "),
        ("buffer_kib = 0.4", ": buffer_kib: got 0.4, expected: greater than or equal to 0.5"),
        ("buffer_kib = 65", ": buffer_kib: got 65, expected: less than or equal to 64"),
        ("bandwidth_gb_s = nan", ": bandwidth_gb_s: got nan, expected: "),
        ("clock_mhz = inf", ": clock_mhz: got inf, expected: "),
        ('table = ["cacti32"]', ": table: got ['cacti32'], expected: "),
        ("count = ", ": not TOML ("),
        ("count = 1\ncount = 2", ": not TOML ("),
        ("count = " + "9" * 5000, ": not TOML ("),
        ("window = " + "[" * 5000, ": not TOML ("),
    ],
    ids=lambda text: text[:30],
)
def test_a_bad_machine_file_is_refused_by_file_and_key(tmp_path: Path, text: str, complains: str) -> None:
    if text and not text.startswith("model"):
        text = f'model = "toy"\n{text}'
    assert complaint(toml_file(tmp_path, text), read_toy, ConfigError).startswith(complains)


def test_what_the_machine_itself_refuses_names_the_file(tmp_path: Path) -> None:
    path = toml_file(tmp_path, 'model = "spikex"\ndispatch = "dense"\nstep = "zskip"')
    assert "zskip" in complaint(
        path, lambda path: machine_from(read_toml(path), ARCH_TYPES, PRESETS, str(path)), ConfigError
    )
    path = toml_file(tmp_path, 'model = "spikex"\nstep = "zskip"\ndispatch = {a = "agile", b = "dense"}')
    assert "zskip" in complaint(
        path, lambda path: machine_from(read_toml(path), ARCH_TYPES, PRESETS, str(path)), ConfigError
    )


def test_what_is_no_toml_file(tmp_path: Path) -> None:
    assert "no such file" in complaint(tmp_path / "none.toml", read_toml, ConfigError)
    assert "cannot be read" in complaint(tmp_path, read_toml, ConfigError)
    (tmp_path / "bad.toml").write_bytes(b"a = '\xff'")
    assert "not TOML" in complaint(tmp_path / "bad.toml", read_toml, ConfigError)


@pytest.mark.parametrize(
    ("spec", "arch"),
    [
        ("spikex", SpikexArch()),
        ("ptb", SpikexArch(dispatch="ptb", merge=2)),
        ("spikex:", SpikexArch()),
        ("spikex:window=8", SpikexArch(window=8)),
        ("spikex: window = 8 , order = interleave", SpikexArch(window=8, order="interleave")),
        ('spikex:order="interleave",tailoring=false,lbuf_kib=4', SpikexArch(order="interleave", tailoring=False, lbuf=32768)),
        ("ptb:merge=3,clock_mhz=1e3", SpikexArch(dispatch="ptb", merge=3, clock=1e9)),
        ("spikex:preset=ptb", SpikexArch(dispatch="ptb", merge=2)),
        ("spikex:window={a=1,b=2},rows=4", SpikexArch(window={"a": 1, "b": 2}, rows=4)),
        ('spikex:dispatch={conv1="agile",fc1="ptb"},merge={conv1=1,fc1=8},order={conv1="interleave",fc1="raster"}',
         SpikexArch(dispatch={"conv1": "agile", "fc1": "ptb"}, merge={"conv1": 1, "fc1": 8},
                    order={"conv1": "interleave", "fc1": "raster"})),
    ],
)  # fmt: skip
def test_a_machine_on_the_command_line(spec: str, arch: SpikexArch) -> None:
    assert load_machine(spec) == (spec, arch)


def test_a_machine_file_on_the_command_line(tmp_path: Path) -> None:
    path = toml_file(tmp_path, 'model = "spikex"\npreset = "ptb"\nmerge = 4\n')
    assert load_machine(str(path))[1] == SpikexArch(dispatch="ptb", merge=4)
    assert load_machine(f"{path}:merge=5,rows=4")[1] == SpikexArch(dispatch="ptb", merge=5, rows=4)
    own = toml_file(tmp_path, 'model = "spikex"\ntable = "mine.toml"\n')  # found beside the machine file
    assert load_machine(str(own))[1] == SpikexArch(table=str(tmp_path / "mine.toml"))
    path.write_text('model = "spikex"\npreset = "ptb"\nmerge = 4\n', encoding="utf-8")
    bare = path.rename(tmp_path / "machine")
    assert load_machine(str(bare))[1] == SpikexArch(dispatch="ptb", merge=4)


@pytest.mark.parametrize(
    ("spec", "complains"),
    [
        (
            "spikey",
            f"spikey: no such machine (did you mean 'spikex'?); expected a preset ({', '.join(PRESET_MODELS)}) or",
        ),
        ("x" * 5000, "x" * 5000 + ": no such machine; expected a preset"),
        ("none.toml", "none.toml: no such file"),
        ("spikex:window", "spikex:window: got 'window' behind the colon, expected field=value"),
        ("spikex:window=65", "spikex:window=65: window: got 65, expected: less than or equal to 64"),
        ("spikex:windw=8", "spikex:windw=8: windw: unknown key (did you mean 'window'?)"),
        ("spikex:window=eight", "spikex:window=eight: window: got 'eight'"),
        ("spikex:window=8=9", "spikex:window=8=9: window: got '8=9'"),
        ("spikex:=8", "spikex:=8: : unknown key"),
        ("spikex:model=nope", "spikex:model=nope: model: got 'nope'"),
        ("spikex:window={a=1,b=99}", "spikex:window={a=1,b=99}: window.b: got 99, expected: less than or equal to 64"),
        ('spikex:dispatch={a="agle"}', "spikex:dispatch={a=\"agle\"}: dispatch.a: got 'agle', expected: "),
        ("spikex:window={a=1,b=2", "spikex:window={a=1,b=2: window: got '{a=1,b=2'"),
    ],
    ids=lambda text: text[:30],
)
def test_a_bad_machine_on_the_command_line(spec: str, complains: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_machine(spec)
    assert str(caught.value).startswith(complains)
    assert "\n" not in str(caught.value)


# --- workloads without a trace -----------------------------------------------------------------------------------

WORKLOAD = """
num_steps = 4
num_samples = 2
seed = 7
[[layer]]
name = "conv1"
kind = "conv2d"
in_shape = [2, 8, 8]
out_channels = 4
kernel = [3, 3]
stride = [2, 2]
padding = [1, 1]
groups = 2
weight_bits = 4
firing_rate = 0.25
weight_density = 0.5
[[layer]]
name = "line"
kind = "conv1d"
in_shape = [2, 8]
out_channels = 4
kernel = [1, 3]
firing_rate = 1
[[layer]]
name = "fc"
kind = "linear"
in_shape = [64]
out_channels = 10
firing_rate = 0
"""


def test_a_workload_file_round_trips_into_layers(tmp_path: Path) -> None:
    path = toml_file(tmp_path, WORKLOAD)
    rates = read_workload(path)
    assert (rates.num_steps, rates.num_samples, rates.seed, rates.source) == (4, 2, 7, str(path))
    assert rates.layers == (
        RateLayer("conv1", "conv2d", (2, 8, 8), 4, 0.25, (3, 3), (2, 2), (1, 1), 2, 4, 0.5),
        RateLayer("line", "conv1d", (2, 8), 4, 1.0, (1, 3)),
        RateLayer("fc", "linear", (64,), 10, 0.0),
    )
    assert [(layer.P, layer.Q) for layer in load_workload(path).layers] == [(4, 4), (1, 6), (1, 1)]


@pytest.mark.parametrize(
    ("change", "to", "complains"),
    [
        ("num_steps = 4", "", ": num_steps: "),
        ("num_steps = 4", "num_steps = 0", ": num_steps: got 0"),
        ("num_steps = 4", "num_steps = 4.5", ": num_steps: got 4.5"),
        ("num_steps = 4", "num_step = 4", ": num_step: unknown key (did you mean 'num_steps'?)"),
        ("seed = 7", "seed = -1", ": seed: got -1"),
        ("num_samples = 2", 'num_samples = "2"', ": num_samples: got '2'"),
        ('name = "fc"', 'name = "line"', ": layer[2].name: 'line' is used twice"),
        ('name = "fc"', 'name = ""', ": layer[2].name: got ''"),
        ('kind = "linear"', 'kind = "dense"', ": layer[2].kind: got 'dense'"),
        ("in_shape = [64]", "in_shape = [0]", ": layer[2].in_shape[0]: got 0"),
        ("in_shape = [64]", "in_shape = []", ": layer[2].in_shape: got []"),
        ("in_shape = [64]", "in_shape = [4, 4, 4]", ": node 'fc' (Linear) got an input of shape [4, 4, 4]"),
        ("out_channels = 10", "out_channel = 10", ": layer[2].out_channel: unknown key (did you mean 'out_channels'?)"),
        ("firing_rate = 0.25", "firing_rate = 1.5", ": layer[0].firing_rate: got 1.5"),
        ("firing_rate = 0.25", "firing_rate = nan", ": layer[0].firing_rate: got nan"),
        ("firing_rate = 0.25", "", ": layer[0].firing_rate: "),
        ("weight_density = 0.5", "weight_density = -0.5", ": layer[0].weight_density: got -0.5"),
        ("weight_bits = 4", "weight_bits = 65", ": layer[0].weight_bits: got 65"),
        ("groups = 2", "groups = 3", ": node 'conv1' (Conv2d) got"),
        ("kernel = [3, 3]", "kernel = 3", ": layer[0].kernel: got 3"),
        ("kernel = [3, 3]", "kernel = [3]", ": layer[0].kernel[1]: "),
        ("kernel = [3, 3]", "kernel = [30, 30]", ": node 'conv1' (Conv2d) got"),
        ("kernel = [1, 3]", "kernel = [3, 1]", ": layer[1].kernel: got [3, 1]"),
        ("kernel = [1, 3]", "stride = [2, 1]", ": layer[1].stride: got [2, 1]"),
        ("kernel = [1, 3]", "padding = [1, 0]", ": layer[1].padding: got [1, 0]"),
        ("in_shape = [64]", "in_shape = [64]\nkernel = [1, 2]", ": layer[2].kernel: got [1, 2]"),
        ("in_shape = [64]", "in_shape = [64]\ngroups = 2", ": layer[2].groups: got 2"),
        ("num_steps = 4", "num_steps = 4000000000000", ": num_steps: got 4000000000000, expected"),
        ("[[layer]]", "[layer]", ": "),
    ],
)
def test_a_bad_workload_file_is_refused_by_file_and_key(tmp_path: Path, change: str, to: str, complains: str) -> None:
    assert change in WORKLOAD
    path = toml_file(tmp_path, WORKLOAD.replace(change, to))
    assert complaint(path, load_workload, ConfigError).startswith(complains)


def test_a_workload_without_layers_is_refused(tmp_path: Path) -> None:
    assert complaint(toml_file(tmp_path, "num_steps = 4"), read_workload, ConfigError).startswith(": layer: ")
    path = toml_file(tmp_path, "num_steps = 4\nlayer = []")
    assert complaint(path, read_workload, ConfigError).startswith(": layer: got []")


# --- SCALE-Sim topologies ----------------------------------------------------------------------------------------

HEADER = "Layer name, IFMAP Height, IFMAP Width, Filter Height, Filter Width, Channels, Num Filter, Strides,\n"


def csv_file(folder: Path, text: str) -> Path:
    path = folder / "net.csv"
    path.write_text(text, encoding="utf-8")
    return path


def read_csv(path: Path) -> Any:
    return read_topology(path, rate=0.5, num_steps=3)


def test_rows_of_convolutions_and_of_matrix_products(tmp_path: Path) -> None:
    text = HEADER + "Conv1, 9, 8, 3, 2, 4, 5, 2,\n\n  ,\nFC, 6, 7, 32\n"
    path = csv_file(tmp_path, text)
    rates = read_csv(path)
    assert (rates.num_steps, rates.num_samples, rates.source) == (3, 1, str(path))
    assert rates.layers == (
        RateLayer("Conv1", "conv2d", (4, 9, 8), 5, 0.5, (3, 2), (2, 2), overhang=True),
        RateLayer("FC", "conv2d", (32, 6, 1), 7, 0.5),
    )
    conv, gemm = load_workload(path, rate=1.0, num_steps=3).layers
    assert (conv.P, conv.Q) == (4, 4)
    assert gemm.dense_synops() == 3 * 6 * 7 * 32 == gemm.synops


def test_dp_in_the_name_of_a_convolution_marks_a_depthwise_layer(tmp_path: Path) -> None:
    rows = (
        "Conv2DP, 9, 8, 3, 2, 4, 1, 2,\nmany_DP_3, 9, 8, 3, 2, 4, 5, 2,\nDepth, 9, 8, 3, 2, 4, 5, 2,\nDP, 6, 7, 32,\n"
    )
    one, many, dense, gemm = load_workload(csv_file(tmp_path, HEADER + rows), rate=1.0, num_steps=1).layers
    assert [(layer.groups, layer.C, layer.K) for layer in (one, many, dense)] == [(4, 4, 4), (4, 4, 20), (1, 4, 5)]
    assert (gemm.groups, gemm.K, gemm.synops) == (1, 7, 6 * 7 * 32)


@pytest.mark.parametrize(
    ("text", "complains"),
    [
        ("", ": holds no layer"),
        (HEADER, ": holds no layer"),
        ("Conv1, 9, 8, 3, 2, 4, 5, 2\nConv2, 9, 8, 3, 2, 4, 5, 2", ": line 1: got ['Conv1', '9',"),
        (HEADER + "Conv1, 9, 8, 3, 2, 4, 5", ": line 2: got 7 columns, expected name, H, W, R, S, C, K, stride"),
        (HEADER + "Conv1", ": line 2: got 1 columns"),
        (HEADER + "\nConv1, 9, 8, 3, x, 4, 5, 2", ": line 3: got ['9', '8', '3', 'x', '4', '5', '2'], expected whole"),
        (HEADER + "Conv1, 9, 8, 3, 2.0, 4, 5, 2", ": line 2: got ["),
        (HEADER + "Conv1, 9, 8, 3, 2, 0, 5, 2", ": line 2: got 0, expected sizes of at least 1"),
        (HEADER + "FC, 6, -7, 32", ": line 2: got -7, expected sizes"),
        (HEADER + "A, 6, 7, 32\nA, 6, 7, 32", ": line 3: 'A' is used twice"),
        (HEADER + '"' + "x" * 200_000 + '"', ": cannot be read as CSV"),
    ],
    ids=range(11),
)
def test_a_bad_topology_is_refused_by_file_and_line(tmp_path: Path, text: str, complains: str) -> None:
    assert complaint(csv_file(tmp_path, text), read_csv, ConfigError).startswith(complains)


def test_a_filter_larger_than_its_map_is_refused(tmp_path: Path) -> None:
    path = csv_file(tmp_path, HEADER + "Conv1, 2, 8, 3, 2, 4, 5, 2")
    said = complaint(path, lambda path: load_workload(path, rate=0.1, num_steps=1), ConfigError)
    assert said.startswith(": node 'Conv1'")


def test_what_is_no_topology(tmp_path: Path) -> None:
    assert "cannot be read as CSV" in complaint(tmp_path / "none.csv", read_csv, ConfigError)
    assert "cannot be read as CSV" in complaint(tmp_path, read_csv, ConfigError)
    (tmp_path / "bad.csv").write_bytes(b"\xff\xfe")
    assert "cannot be read as CSV" in complaint(tmp_path / "bad.csv", read_csv, ConfigError)


@pytest.mark.parametrize(
    ("rate", "num_steps", "says"),
    [
        (None, 4, "give --rate and --steps"),
        (0.5, None, "give --rate and --steps"),
        (1.5, 4, "expected a rate of 0..1"),
        (float("nan"), 4, "expected a rate of 0..1"),
        (0.5, 0, "at least one step"),
    ],
)
def test_a_topology_needs_a_rate_and_steps(
    tmp_path: Path, rate: float | None, num_steps: int | None, says: str
) -> None:
    path = csv_file(tmp_path, HEADER + "FC, 6, 7, 32")
    with pytest.raises(ConfigError, match=says):
        load_workload(path, rate=rate, num_steps=num_steps)


def test_replaced_fields_are_checked_as_well() -> None:
    with pytest.raises(ConfigError, match=r"window: got 0, expected 1\.\.64"):
        replace(SpikexArch(), window=0)
