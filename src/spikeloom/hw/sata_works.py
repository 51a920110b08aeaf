"""The six works of Table II of "Are SNNs truly energy-efficient?" (arXiv 2309.03388) as SATA_Sim was given them.

Layer lists, time steps and sparsities: the workload files and archived results shipped with SATA_Sim. A baseline is the
same network with the time steps of the work it improves on, at a sparsity of 0.5; its steps follow from the cycles of the
archived results. The published ratios were read second hand.
"""

from __future__ import annotations

from dataclasses import dataclass

from spikeloom.hw.sata_tool import ToolLayer


@dataclass(frozen=True)
class Work:
    """One row of the table. published_ratio: energy of the baseline over energy of the work, as printed for SATA."""

    name: str
    title: str
    network: str
    num_steps: int
    sparsity: float
    baseline_steps: int
    published_ratio: float
    baseline_sparsity: float = 0.5

    @property
    def layers(self) -> tuple[ToolLayer, ...]:
        """Its layer list."""
        return LAYER_LISTS[self.network]


def _convs(*shapes: tuple[int, int, int, int], repeat: tuple[int, ...] = ()) -> tuple[ToolLayer, ...]:
    """Convolutions of 3x3 from (map, channels, filters, stride), each as often as ``repeat`` says."""
    times = repeat or (1,) * len(shapes)
    listed = [shape for shape, n in zip(shapes, times, strict=True) for _ in range(n)]
    return tuple(ToolLayer(f"Conv{i}", x, x, 3, 3, c, k, s) for i, (x, c, k, s) in enumerate(listed, 1))


def _linears(*shapes: tuple[int, int]) -> tuple[ToolLayer, ...]:
    return tuple(ToolLayer(f"FC{i}", 1, 1, 1, 1, c, k) for i, (c, k) in enumerate(shapes, 1))


LAYER_LISTS: dict[str, tuple[ToolLayer, ...]] = {
    "vgg9": _convs((32, 3, 64, 1), (32, 64, 64, 1), (16, 64, 128, 1), (8, 128, 128, 1), (4, 128, 256, 1),
                   (4, 256, 256, 1), repeat=(1, 1, 1, 1, 1, 2)) + _linears((1024, 1024), (1024, 512)),
    "cifarnet": _convs((32, 3, 128, 1), (32, 128, 256, 1), (16, 256, 512, 1), (8, 512, 1024, 1), (4, 1024, 512, 1))
                + _linears((8192, 1024), (1024, 512)),
    "resnet19": _convs((32, 3, 128, 1), (32, 128, 128, 1), (32, 128, 256, 2), (16, 256, 256, 1), (16, 256, 512, 2),
                       (8, 512, 512, 1), repeat=(1, 6, 1, 5, 1, 3)) + _linears((8192, 256)),
}  # fmt: skip

WORKS: tuple[Work, ...] = (
    Work("sbp", "S-BP", "vgg9", 50, 0.9, 260, 4.5),
    Work("bntt", "BNTT", "vgg9", 20, 0.91, 80, 2.8),
    Work("direct", "Direct", "cifarnet", 10, 0.9, 40, 2.3),
    Work("tssl", "TSSL", "cifarnet", 5, 0.9, 80, 4.9),
    Work("lth", "LTH", "resnet19", 5, 0.98, 10, 1.3),
    Work("tdbn", "TDBN", "resnet19", 4, 0.85, 100, 6.8),
)
