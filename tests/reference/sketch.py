"""What generators of random networks have in common: nodes one behind the other, and synapses of any geometry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from hypothesis import strategies as st

from spikeloom.core.nodes import Conv1d, Conv2d, Input, Linear, Node, Shape, node_out_shape


class Sketch(ABC):
    """A random network in the making."""

    def __init__(self, draw: st.DrawFn, shape: Shape, encoding: Any) -> None:
        self.draw, self.rng = draw, np.random.default_rng(draw(st.integers(0, 2**16)))
        self.nodes: dict[str, Node] = {"in": Input(shape, encoding)}
        self.shapes: dict[str, Shape] = {"in": shape}
        self.edges: list[tuple[str, str]] = []
        self.last = "in"

    @abstractmethod
    def weights(self, shape: Shape, out: Shape) -> dict[str, Any]:
        """Weights of ``shape``, and perhaps biases of channels or of neurons of ``out``."""

    def add(self, node: Node, *sources: str) -> str:
        """A node behind ``sources``, or behind the last one."""
        name = f"{type(node).__name__}{len(self.nodes)}"
        sources = sources or (self.last,)
        self.nodes[name] = node
        self.shapes[name] = node_out_shape(name, node, self.shapes[sources[0]])
        self.edges += [(source, name) for source in sources]
        self.last = name
        return name

    def synapse(self, source: str, out: Shape | None = None) -> str:
        """A convolution or, on a vector, a linear layer; of any geometry, or of one that leaves the map ``out`` as it is."""
        draw, shape = self.draw, self.shapes[source]
        if len(shape) == 1:
            K = draw(st.integers(1, 3)) if out is None else out[0]
            return self.add(Linear(shape[0], K, **self.weights((K, shape[0]), (K,))), source)
        groups = draw(st.sampled_from([g for g in (1, 2, 3) if shape[0] % g == 0 and (out is None or out[0] % g == 0)]))
        K = groups * draw(st.integers(1, 2)) if out is None else out[0]
        sides = []
        for extent in shape[1:]:
            dilation, kernel = draw(st.integers(1, 2)), draw(st.integers(1, 3))
            padding = dilation * (kernel - 1) / 2 if out is not None else draw(st.integers(0, 2))
            if padding % 1 or extent + 2 * padding < dilation * (kernel - 1) + 1:
                kernel, dilation, padding = 1, 1, 0
            sides.append((kernel, 1 if out is not None else draw(st.integers(1, 2)), int(padding), dilation))
        kernel, stride, padding, dilation = zip(*sides, strict=True)
        kind, geometry = (
            (Conv2d, (kernel, stride, padding, dilation))
            if len(shape) == 3
            else (Conv1d, (kernel[0], stride[0], padding[0], dilation[0]))
        )
        bare = kind(shape[0], K, *geometry, groups)
        weights = self.weights((K, shape[0] // groups, *kernel), node_out_shape("", bare, shape))
        return self.add(kind(shape[0], K, *geometry, groups, **weights), source)
