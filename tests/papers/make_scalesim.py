"""Run SCALE-Sim over layer shapes and keep what it reports: how scalesim.json of the package was made.

Runs in the tool's own environment, not in that of the package::

    python -m venv scalesim && scalesim/bin/pip install scalesim==2.0.2 "numpy<2.4"
    scalesim/bin/python tests/papers/make_scalesim.py

The tool knows no padding and takes P = ceil((H - R + stride) / stride), so it is given the padded map, cut to the rows and
columns that the kernel reaches. Its "Total Cycles" is the number of its last line counted from 0.
"""

from __future__ import annotations

import csv
import json
import tempfile
from importlib.metadata import version
from pathlib import Path

FILE = Path(__file__).parents[2] / "src" / "spikeloom" / "studies" / "published" / "scalesim.json"
FIELDS = ("name", "rows", "cols", "H", "W", "R", "S", "C", "K", "stride", "padding")
LAYERS = (
    ("vgg conv1", 16, 8, 32, 32, 3, 3, 3, 64, 1, 1),
    ("vgg conv2", 16, 8, 16, 16, 3, 3, 64, 32, 1, 1),
    ("resnet stem", 16, 8, 32, 32, 7, 7, 3, 16, 2, 3),
    ("resnet downsample", 16, 8, 16, 16, 1, 1, 64, 128, 2, 0),
    ("resnet strided", 16, 8, 16, 16, 3, 3, 32, 64, 2, 1),
    ("lenet conv1", 16, 8, 28, 28, 5, 5, 1, 6, 1, 0),
    ("lenet conv2", 16, 8, 14, 14, 5, 5, 6, 16, 1, 0),
    ("alexnet conv1", 16, 8, 35, 35, 11, 11, 3, 24, 4, 2),
    ("pointwise", 16, 8, 8, 8, 1, 1, 96, 80, 1, 0),
    ("depthwise channel", 16, 8, 14, 14, 3, 3, 1, 1, 1, 1),
    ("n-mnist conv", 16, 8, 34, 34, 5, 5, 2, 12, 2, 2),
    ("event strip", 16, 8, 1, 100, 1, 9, 4, 20, 1, 0),
    ("tall kernel", 16, 8, 20, 9, 5, 2, 7, 11, 1, 0),
    ("linear", 16, 8, 1, 1, 1, 1, 512, 10, 1, 0),
    ("linear wide", 16, 8, 1, 1, 1, 1, 100, 250, 1, 0),
    ("one product", 16, 8, 1, 1, 1, 1, 1, 1, 1, 0),
    ("exact folds", 16, 8, 8, 8, 1, 1, 32, 16, 1, 0),
    ("square array", 8, 8, 14, 14, 3, 3, 8, 20, 1, 1),
    ("large array", 32, 32, 14, 14, 3, 3, 16, 70, 1, 1),
    ("odd array", 5, 7, 13, 11, 3, 3, 5, 17, 2, 1),
)
CONFIG = """[general]
run_name = run
[architecture_presets]
ArrayHeight: {rows}
ArrayWidth: {cols}
IfmapSramSzkB: 4096
FilterSramSzkB: 4096
OfmapSramSzkB: 4096
IfmapOffset: 0
FilterOffset: 10000000
OfmapOffset: 20000000
Dataflow: {dataflow}
Bandwidth: 10
MemoryBanks: 1
[run_presets]
InterfaceBandwidth: CALC
"""
HEADER = "Layer name, IFMAP Height, IFMAP Width, Filter Height, Filter Width, Channels, Num Filter, Strides,\n"


def reached(size: int, kernel: int, stride: int, padding: int) -> int:
    """Rows of the padded map that some position of the kernel covers."""
    return (size + 2 * padding - kernel) // stride * stride + kernel


def run(layer: tuple[str, int, int, int, int, int, int, int, int, int, int], dataflow: str) -> dict[str, int]:
    """What the tool reports for one layer."""
    from scalesim.scale_sim import scalesim  # type: ignore[import-not-found]  # in the tool's environment only

    _, rows, cols, H, W, R, S, C, K, stride, padding = layer
    with tempfile.TemporaryDirectory() as folder:
        config, topology = Path(folder) / "run.cfg", Path(folder) / "layer.csv"
        config.write_text(CONFIG.format(rows=rows, cols=cols, dataflow=dataflow), encoding="utf-8")
        shape = (reached(H, R, stride, padding), reached(W, S, stride, padding), R, S, C, K, stride)
        topology.write_text(f"{HEADER}layer, {', '.join(map(str, shape))},\n", encoding="utf-8")
        tool = scalesim(save_disk_space=True, verbose=False, config=str(config), topology=str(topology))
        tool.run_scale(top_path=folder)
        with (Path(folder) / "run" / "COMPUTE_REPORT.csv").open(encoding="utf-8") as stream:
            compute = next(csv.DictReader(stream, skipinitialspace=True))
        with (Path(folder) / "run" / "DETAILED_ACCESS_REPORT.csv").open(encoding="utf-8") as stream:
            access = next(csv.DictReader(stream, skipinitialspace=True))
    return {
        "total_cycles": int(float(compute["Total Cycles"])),
        "stall_cycles": int(float(compute["Stall Cycles"])),
        "ifmap_sram_reads": int(float(access["SRAM IFMAP Reads"])),
        "filter_sram_reads": int(float(access["SRAM Filter Reads"])),
        "ofmap_sram_writes": int(float(access["SRAM OFMAP Writes"])),
    }


def main() -> None:
    """Replace the file."""
    document = {
        "tool": f"scalesim {version('scalesim')} (PyPI) with numpy {version('numpy')}",
        "source": "SCALE-Sim v2: A. Samajdar et al., ISPASS 2020; github.com/scalesim-project/scale-sim-v2, MIT",
        "settings": "buffers of 4 MiB, InterfaceBandwidth CALC (no stalls), one layer per run",
        "layers": [
            dict(zip(FIELDS, layer, strict=True)) | {flow: run(layer, flow) for flow in ("ws", "os", "is")}
            for layer in LAYERS
        ],
    }
    FILE.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
