"""Write the golden breakdowns anew: ``python -m tests.golden.make``. A changed number needs an entry in the changelog."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from spikeloom.evaluate import evaluate, load_machine
from tests.golden.trace import workload

FILE = Path(__file__).parent / "breakdowns.json"
MACHINES = (
    "spikex",
    "ptb",
    "snn-dense",
    "spikex:window=2,order=interleave,merge=2",
    "ptb:step=zskip,merge=3",
    "sata",
    "sata:skip=false,fold_pool=false,cols=4",
    "sata-tool",
    "spikesim",
    "spikesim:size=32,cell_bit=2,skip=false,share_tiles=true,adc_bit=6",
    "systolic",
    "systolic-gated:dataflow=ws,rows=3,cols=5,weight_kib=8,ifmap_kib=8,ofmap_kib=8,fold_pool=true",
    "systolic-8x8:dataflow=is,gating=true",
    "sata-training:fwd_bit=8",
    "loihi",
    "loihi:cores=2,split=channels,zero_weights=skipped,synapse_class=conv,input_on_chip=true,static=frady2020,limits=warn",
    "loihi-davies2018:chips=3,rows=1,columns=1,cores_per_tile=1,delay=recorded,host=blouw2018",
    "ncs2",
    "ncs",
)


def breakdown(spec: str) -> dict[str, Any]:
    """Every count, cycle and joule of a machine on the golden trace."""
    label, arch = load_machine(spec)
    report = evaluate(workload(), arch, label=label, threads=1)
    return {
        "cycles": report.cycles,
        "area_m2": dict(report.area or {}),
        "layers": {
            layer.name: {
                "cycles": layer.cycles,
                "synops": layer.synops,
                "counts": dict(layer.counts),
                "energy_j": dict(layer.energy),
            }
            for layer in report.layers
        },
    }


def main() -> None:
    """Replace the file."""
    document = {spec: breakdown(spec) for spec in MACHINES}
    FILE.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
