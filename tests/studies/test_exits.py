"""When a sample may stop: a network whose scores are known step by step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from spikeloom.core.network import chain
from spikeloom.core.nodes import LI, Input, Linear, Node, Output


@dataclass(frozen=True)
class Frames:
    """0/1 frames (T, N, C) with labels."""

    frames: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: np.ndarray) -> np.ndarray:
        return self.frames[:, indices]


def test_a_sample_stops_at_the_step_that_leads_by_the_margin_of_the_other_half() -> None:
    pytest.importorskip("torch")
    from spikeloom.snn.execute import Execution
    from spikeloom.studies.remedies import exits_of

    nodes: dict[str, Node] = {
        "in": Input((2,)),
        "fc": Linear(2, 2, weight=np.eye(2, dtype=np.float32)),
        "readout": LI(),
        "out": Output((2,)),
    }
    # three kinds of samples of class 1 in each half: right at once; silent, then right; silent, wrong, a tie, right
    one, two, none = [0, 1], [1, 0], [0, 0]
    kinds = np.array([[one, one, one, one], [none, one, one, one], [none, two, one, one]])
    frames = np.concatenate([kinds, kinds]).transpose(1, 0, 2).astype(np.uint8)
    source = Frames(frames, np.ones(6, np.int64))
    found = exits_of(chain("sums", nodes), source, Execution(4, "events"), 3)
    # leads per step: 1 1 1 1; 0 1/2 2/3 3/4; 0 1/2 (wrong) 0 1/4: up to a margin of 1/2 the third kind stops wrong
    assert found.accuracy == (1.0, 1.0) and found.tested == 3
    assert found.steps.tolist() == [1, 3, 4]
    assert found.mean == pytest.approx(8 / 3)
