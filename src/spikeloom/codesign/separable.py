"""Exact minima of sums that separate by layer: one option per layer, energy and delay add up.

The least product (EDP) lies on a vertex of the lower left convex hull of all sums: a sum that does not is beaten in both by
some mixture of two vertices, and along the line between two points the product is concave, so that it is least at one of
them. The vertices are the minima of sum(E + mu * D) over all mu > 0; each is a sum of vertices of the layers' own hulls, and
lowering mu from infinity exchanges one option of one layer after another, the steepest exchange first. That scan is all the
work. The Pareto front has points off the hull and takes a dynamic programme over the layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Front:
    """Sums that no other sum beats in both energy and delay, by ascending delay.

    energy, delay: float64 (F,). option: int64 (F, layers), the option of every layer.
    """

    energy: np.ndarray
    delay: np.ndarray
    option: np.ndarray


def not_dominated(energy: np.ndarray, delay: np.ndarray) -> np.ndarray:
    """Indices of the entries that no other beats, by ascending delay; the first of equal entries."""
    order = np.lexsort((energy, delay))
    sorted_energy = energy[order]
    keep = np.ones(len(order), dtype=bool)
    keep[1:] = sorted_energy[1:] < np.minimum.accumulate(sorted_energy)[:-1]
    return np.asarray(order[keep])


def pareto_front(energy: Sequence[np.ndarray], delay: Sequence[np.ndarray]) -> Front:
    """All sums that are not dominated: partial sums over ever more layers, those that another one beats dropped.

    energy, delay: per layer, one entry an option.
    """
    sums_E, sums_D = np.zeros(1), np.zeros(1)
    option = np.empty((1, 0), dtype=np.int64)
    for layer_E, layer_D in zip(energy, delay, strict=True):
        useful = not_dominated(layer_E, layer_D)
        all_E = (sums_E[:, None] + layer_E[useful]).reshape(-1)
        all_D = (sums_D[:, None] + layer_D[useful]).reshape(-1)
        kept = not_dominated(all_E, all_D)
        sums_E, sums_D = all_E[kept], all_D[kept]
        option = np.column_stack([option[kept // len(useful)], useful[kept % len(useful)]])
    return Front(sums_E, sums_D, option)


def least_product(energy: Sequence[np.ndarray], delay: Sequence[np.ndarray]) -> np.ndarray:
    """The option of every layer with the least product of the sums, the fastest of equals; int64 (layers,).

    energy, delay: per layer, one entry an option, all >= 0.
    """
    hulls = [_lower_hull(E, D) for E, D in zip(energy, delay, strict=True)]
    option = np.array([hull[0] for hull in hulls], dtype=np.int64)
    e = float(sum(E[k] for E, k in zip(energy, option, strict=True)))
    d = float(sum(D[k] for D, k in zip(delay, option, strict=True)))
    exchanges: list[tuple[float, int, int, int]] = []  # -mu, layer, position on its hull, the option to take
    for layer, (hull, layer_E, layer_D) in enumerate(zip(hulls, energy, delay, strict=True)):
        slopes = np.diff(layer_E[hull]) / np.diff(layer_D[hull])
        exchanges += [(slope, layer, k, hull[k + 1]) for k, slope in enumerate(slopes.tolist())]
    least, best = e * d, option.copy()
    for _, layer, _, taken in sorted(exchanges):
        left = option[layer]
        e += float(energy[layer][taken] - energy[layer][left])
        d += float(delay[layer][taken] - delay[layer][left])
        option[layer] = taken
        if e * d < least:
            least, best = e * d, option.copy()
    return best


def _lower_hull(energy: np.ndarray, delay: np.ndarray) -> list[int]:
    """Vertices of the lower left convex hull, by ascending delay."""
    hull: list[int] = []
    for k in not_dominated(energy, delay).tolist():
        while len(hull) > 1:
            a, b = hull[-2], hull[-1]
            # b lies below the line from a to k
            if (energy[b] - energy[a]) * (delay[k] - delay[a]) < (energy[k] - energy[a]) * (delay[b] - delay[a]):
                break
            hull.pop()
        hull.append(k)
    return hull
