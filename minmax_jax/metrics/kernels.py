"""What the units of a linear head make of its kernels: weights, correlations, shared kernels.

A head's kernel `(k c)` holds a column of weights for each of `c` units, one weight for each of the
`k` kernels (channels of the last activations).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

_BINS = 40


def weight_statistics(kernel: np.ndarray) -> dict[str, Any]:
    """Histograms of the units' weights and what they look like.

    Args:
      kernel: `(k c)`.

    Returns:
      `edges [bins + 1]` shared by all units, of which one is 0; `counts [c][bins]`, each bin with
      its upper edge, so that the weights above 0 are those of the bins above it; `positive [c]`,
      their share; `mass [c]`, their part of the sum of magnitudes; `skewness [c]`. A unit whose
      weights are all equal has skewness 0, one of zeros mass 0.

    Raises:
      ValueError: for a kernel that is not of rank 2, is empty, or has values that are not finite.
    """
    kernel = check_kernel(kernel)
    edges = _edges(min(kernel.min(), 0), max(kernel.max(), 0))
    # numpy's bins have their lower edges: the signs are turned.
    counts = [np.histogram(-weights, -edges[::-1])[0][::-1].tolist() for weights in kernel.T]
    centred = _centred(kernel)
    spread = np.mean(centred**2, axis=0)
    magnitude = np.abs(kernel).sum(axis=0)
    return {
        "edges": edges.tolist(),
        "counts": counts,
        "positive": (kernel > 0).mean(axis=0).tolist(),
        "mass": _divide(np.maximum(kernel, 0).sum(axis=0), magnitude).tolist(),
        "skewness": _divide(np.mean(centred**3, axis=0), spread**1.5).tolist(),
    }


def unit_correlations(kernel: np.ndarray) -> np.ndarray:
    """Pearson correlations of the units' weights `(k c)`, float64 `(c c)`.

    A unit whose weights are all equal correlates with no other.

    Raises:
      ValueError: as in `weight_statistics`.
    """
    centred = _centred(check_kernel(kernel))
    unit = _divide(centred, np.linalg.norm(centred, axis=0))
    correlations = np.clip(unit.T @ unit, -1, 1)
    np.fill_diagonal(correlations, 1)
    return correlations


def chance_correlation(kernels: int) -> float:
    """Mean magnitude of the correlation of two vectors of so many independent normal numbers."""
    if kernels < 2:
        return 0.0  # as of weights that are all equal
    return math.exp(math.lgamma((kernels - 1) / 2) - math.lgamma(kernels / 2)) / math.sqrt(math.pi)


def cluster_order(correlations: np.ndarray) -> np.ndarray:
    """An order of the units, int `(c,)`, that has correlated ones side by side.

    Average linkage over the distances `1 - correlation`, its leaves turned so that neighbours are
    close.
    """
    if len(correlations) < 2:
        return np.arange(len(correlations))
    distances = squareform(1 - correlations, checks=False)
    tree = hierarchy.linkage(distances, "average", optimal_ordering=True)
    return hierarchy.leaves_list(tree)


def top_kernels(weights: np.ndarray, top: int) -> list[list[int]]:
    """The kernels that each unit weighs most: at most `top`, by falling weight.

    Args:
      weights: `(k c)`, weights or contributions; one that is not above 0 does not count.
      top: 1 or more.

    Raises:
      ValueError: as in `weight_statistics`, and for a `top` below 1.
    """
    weights = check_kernel(weights)
    if top < 1:
        raise ValueError(f"top must be at least 1, got {top}")
    order = np.argsort(-weights, axis=0, kind="stable")[:top]
    return [
        [int(index) for index in indices if column[index] > 0]
        for indices, column in zip(order.T, weights.T, strict=True)
    ]


def shared_kernels(tops: Sequence[Sequence[int]]) -> np.ndarray:
    """How many of their top kernels two units have in common, int `(c c)`; of one unit, all."""
    sets = [set(indices) for indices in tops]
    return np.array([[len(first & second) for second in sets] for first in sets], int)


def check_kernel(kernel: np.ndarray) -> np.ndarray:
    """The kernel in float64, or `ValueError` as in `weight_statistics`."""
    kernel = np.asarray(kernel, np.float64)
    if kernel.ndim != 2 or not kernel.size:
        raise ValueError(f"a head's kernel must have shape (k c), got {kernel.shape}")
    if not np.isfinite(kernel).all():
        raise ValueError("the head's kernel has values that are not finite")
    return kernel


def _centred(kernel):
    """Columns less their means, exactly 0 where a column is constant."""
    return np.where(np.ptp(kernel, axis=0) > 0, kernel - kernel.mean(axis=0), 0)


def _divide(numbers, by):
    return np.divide(numbers, by, out=np.zeros_like(numbers), where=by > 0)


def _edges(low, high):
    """Bin edges over a range that holds 0, of which 0 is one."""
    width = (high - low) / _BINS or 1
    first, last = min(np.floor(low / width), -1), max(np.ceil(high / width), 1)
    edges = width * np.arange(first, last + 1)
    edges[0], edges[-1] = min(edges[0], low), max(edges[-1], high)  # whatever was rounded
    return edges


def mean_of_pairs(matrix: np.ndarray) -> float | None:
    """Mean over the pairs of different units; None if there is none."""
    pairs = matrix[np.triu_indices(len(matrix), 1)]
    return float(pairs.mean()) if pairs.size else None
