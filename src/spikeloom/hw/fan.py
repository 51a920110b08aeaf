"""Fan of a layer over cores: how many synapses on which core a spike at each input position meets.

Nothing here grows with the number of synapses: with all weights stored, the synapses of input (a, y, x) on core m are
``targets[m, a] = reach_HP . occupancy_PQ(m, a) . reach_QW``, where occupancy counts the neurons of core m at an output position in
the channels that input class a feeds, and reach is 1 where a kernel at an output position covers an input row (column).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numba import njit

from spikeloom.core.workload import Layer, reach
from spikeloom.errors import MappingError

#: Layers whose synapses are no weights: each of them counts as one that is not 0.
_WITHOUT_WEIGHTS = ("sumpool2d", "avgpool2d", "maxpool2d", "add")


@dataclass(frozen=True, eq=False)
class Fan:
    """Synapses on core ``cores_M[m]`` of an input of channel class a at (y, x): ``targets_MAHW[m, a, y, x]``.

    cores_M: int32, ascending, every core with a neuron of the layer. class_C: int32, the class of each input channel; the
    channels of a class are alike. targets_MAHW: int32. Zero padding makes no synapse.
    """

    cores_M: np.ndarray
    class_C: np.ndarray
    targets_MAHW: np.ndarray

    @cached_property
    def destinations_AHW(self) -> np.ndarray:
        """Cores with at least one target of an input: the messages that its spike costs; int32."""
        return np.asarray(np.count_nonzero(self.targets_MAHW, axis=0).astype(np.int32))

    def destinations_CHW(self) -> np.ndarray:
        """As `destinations_AHW`, for every input neuron."""
        return np.asarray(self.destinations_AHW[self.class_C])

    @cached_property
    def synapses_M(self) -> np.ndarray:
        """Synapses on each core; int64."""
        channels_A = np.bincount(self.class_C, minlength=self.targets_MAHW.shape[1])
        per_class_MA = self.targets_MAHW.sum(axis=(2, 3), dtype=np.int64)
        return np.asarray(per_class_MA @ channels_A)

    @cached_property
    def inputs_M(self) -> np.ndarray:
        """Distinct input neurons with a synapse on each core: its in-axons; int64."""
        channels_A = np.bincount(self.class_C, minlength=self.targets_MAHW.shape[1])
        return np.asarray(np.count_nonzero(self.targets_MAHW, axis=(2, 3)) @ channels_A)


def source_owners(layer: Layer, owner_KPQ: np.ndarray) -> np.ndarray:
    """Cores of the neurons that feed ``layer``, as its input map (C, H, W).

    owner_KPQ: of the layer in front. The map is flattened in front of a linear layer; a folded pool may leave rows and columns out.

    Raises:
        MappingError: neither is so.
    """
    if owner_KPQ.size == layer.C * layer.H * layer.W:
        return owner_KPQ.reshape(layer.C, layer.H, layer.W)
    K, P, Q = owner_KPQ.shape
    if layer.C != K or layer.H > P or layer.W > Q:
        raise MappingError(
            f"layer '{layer.name}': takes a map of {layer.C} x {layer.H} x {layer.W}, the layer in front of it has {K} x {P} x {Q} "
            "neurons; a placement needs one neuron for each input"
        )
    return owner_KPQ[:, : layer.H, : layer.W]


def fan(layer: Layer, owner_KPQ: np.ndarray, *, zero_weights: str) -> Fan:
    """How the synapses of a layer spread over the cores of its neurons.

    Args:
        layer: convolution (grouped, strided, padded, dilated, 1-D), linear layer, pool, folded pool.
        owner_KPQ: core of every neuron, from `Placement.owners`.
        zero_weights: "stored": a weight of 0 is a synapse like any other; "skipped": it is none.

    Raises:
        MappingError: an owner map of another shape; "skipped" without weights.
    """
    if owner_KPQ.shape != (layer.K, layer.P, layer.Q):
        raise MappingError(
            f"layer '{layer.name}': got cores for a map of {owner_KPQ.shape}, expected {(layer.K, layer.P, layer.Q)}"
        )
    cores_M, index = np.unique(owner_KPQ, return_inverse=True)
    index_KPQ = index.reshape(owner_KPQ.shape).astype(np.int32)
    if zero_weights == "stored" or layer.kind in _WITHOUT_WEIGHTS:
        targets_MAHW = _stored(layer, index_KPQ, cores_M.size)
        class_C = np.arange(layer.C, dtype=np.int32) // np.int32(layer.C // layer.groups)
    elif layer.weight is None:
        raise MappingError(
            f"layer '{layer.name}': zero_weights = 'skipped' needs its weights and there are none; take a trace recorded with weights or "
            "zero_weights = 'stored'"
        )
    else:
        targets_MAHW, class_C = _skipped(layer, layer.weight, index_KPQ, cores_M.size)
    return Fan(cores_M.astype(np.int32), class_C, targets_MAHW)


def _stored(layer: Layer, index_KPQ: np.ndarray, num_cores: int) -> np.ndarray:
    """Synapses per core (M) and group (A) with every weight a synapse; int32, shape (M, A, H, W)."""
    A, P, Q = layer.groups, layer.P, layer.Q
    group_K = np.arange(layer.K) // (layer.K // A)
    place_KPQ = (index_KPQ.astype(np.int64) * A + group_K[:, None, None]) * (P * Q) + np.arange(P * Q).reshape(P, Q)
    occupancy = np.bincount(place_KPQ.ravel(), minlength=num_cores * A * P * Q).astype(np.int32)
    return _spread(layer, occupancy.reshape(num_cores, A, P, Q))


def stored_targets(layer: Layer, held_KPQ: np.ndarray) -> np.ndarray:
    """Synapses, every weight one, from each input position to the neurons in ``held_KPQ`` (bool), by group; int32, (A, H, W)."""
    held_AKPQ = held_KPQ.reshape(layer.groups, -1, layer.P, layer.Q)
    return _spread(layer, np.add.reduce(held_AKPQ, axis=1, dtype=np.int32))


def _spread(layer: Layer, occupancy_XPQ: np.ndarray) -> np.ndarray:
    """Synapses from every input position to the neurons at output positions; int32, (..., P, Q) to (..., H, W)."""
    # a kernel of P positions that is applied R times: the same sums, so the same function gives (H, P)
    reach_HP = reach(layer.H, layer.R, layer.P, layer.dilation[0], layer.padding[0], layer.stride[0]).astype(np.int32)
    reach_WQ = reach(layer.W, layer.S, layer.Q, layer.dilation[1], layer.padding[1], layer.stride[1]).astype(np.int32)
    return np.asarray(reach_HP @ occupancy_XPQ @ reach_WQ.T)


def _skipped(layer: Layer, weight: np.ndarray, index_KPQ: np.ndarray, num_cores: int) -> tuple[np.ndarray, np.ndarray]:
    """(targets_MAHW, class_C) with synapses where the weight is not 0. Channels of a group with the same zeros are a class.

    Output channels whose neurons lie on the same cores, position by position (a plane U), are counted together: their number
    with a non-zero weight at (r, s) lands on the core of each position. So the work grows with planes, not with channels.
    """
    inner, outer = layer.C // layer.groups, layer.K // layer.groups
    nonzero_GKCRS = (weight != 0).reshape(layer.groups, outer, inner, layer.R, layer.S)
    class_C = np.empty(layer.C, np.int32)
    first: list[tuple[int, int]] = []  # group and channel that stands for a class
    planes_GK: list[np.ndarray] = []
    planes: dict[bytes, int] = {}
    for g in range(layer.groups):
        seen: dict[bytes, int] = {}
        patterns = np.packbits(nonzero_GKCRS[g].transpose(1, 0, 2, 3).reshape(inner, -1), axis=1)
        for c in range(inner):
            key = patterns[c].tobytes()
            if key not in seen:
                seen[key] = len(first)
                first.append((g, c))
            class_C[g * inner + c] = seen[key]
        rows = index_KPQ[g * outer : (g + 1) * outer].reshape(outer, -1)
        planes_GK.append(np.array([planes.setdefault(row.tobytes(), len(planes)) for row in rows]))
    plane_UPQ = np.frombuffer(b"".join(planes), np.int32).reshape(len(planes), layer.P, layer.Q)
    targets = np.zeros((num_cores, len(first), layer.H, layer.W), np.int32)
    for a, (g, c) in enumerate(first):
        used, where = np.unique(planes_GK[g], return_inverse=True)
        count_URS = np.zeros((used.size, layer.R, layer.S), np.int32)
        np.add.at(count_URS, where, nonzero_GKCRS[g, :, c])
        _scatter(count_URS, plane_UPQ[used], *layer.stride, *layer.dilation, *layer.padding, targets[:, a])
    return targets, class_C


@njit(cache=True)
def _scatter(
    count_URS: np.ndarray,
    plane_UPQ: np.ndarray,
    stride_h: int,
    stride_w: int,
    dilation_h: int,
    dilation_w: int,
    padding_h: int,
    padding_w: int,
    targets_MHW: np.ndarray,
) -> None:
    """Add to each input position the synapses that the planes have for it, kernel position by kernel position."""
    planes, R, S = count_URS.shape
    _, P, Q = plane_UPQ.shape
    _, H, W = targets_MHW.shape
    for u in range(planes):
        for r in range(R):
            for s in range(S):
                count = count_URS[u, r, s]
                if count == 0:
                    continue
                for p in range(P):
                    h = p * stride_h + r * dilation_h - padding_h
                    if h < 0 or h >= H:
                        continue
                    for q in range(Q):
                        w = q * stride_w + s * dilation_w - padding_w
                        if 0 <= w < W:
                            targets_MHW[plane_UPQ[u, p, q], h, w] += count
