"""Running networks over samples: what does not fit is refused before it runs."""

from __future__ import annotations

import numpy as np
import pytest

from spikeloom.core.network import chain
from spikeloom.core.nodes import IF, Conv2d, Flatten, Input, Linear, Output
from spikeloom.errors import NetworkError
from spikeloom.snn import Execution, evaluate, record

from .toys import Pixels

SOURCE = Pixels(np.zeros((3, 1, 2, 2), np.uint8), np.array([0, 4, 1]))
CONV = Conv2d(1, 2, (1, 1), weight=np.ones((2, 1, 1, 1), np.float32))


@pytest.mark.parametrize("run", [evaluate, record])
def test_an_output_is_one_score_for_each_class(run: object) -> None:
    assert callable(run)
    a_map = chain("maps", {"in": Input((1, 2, 2), "analog"), "c": CONV, "n": IF(), "out": Output((2, 2, 2))})
    with pytest.raises(NetworkError, match=r"output 'out' of network 'maps' is a map of shape \[2, 2, 2\]"):
        run(a_map, SOURCE, Execution(2))
    fc = Linear(4, 3, weight=np.ones((3, 4), np.float32))
    nodes = {"in": Input((1, 2, 2), "analog"), "f": Flatten(), "fc": fc, "n": IF(), "out": Output((3,))}
    with pytest.raises(NetworkError, match="'out' of network 'few' has 3 scores, but the samples have the class 4"):
        run(chain("few", nodes), SOURCE, Execution(2))
