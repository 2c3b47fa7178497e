"""Sums per label: the state that all scores of pairs (image, label) share.

Scores are made on devices in float32; their sums are kept on the host in float64, so that millions
of pairs lose nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np


class Score(NamedTuple):
    """One number about a pair, and whether it is defined there (both scalars, or `(n,)`)."""

    value: jax.Array
    defined: jax.Array


class Sums(NamedTuple):
    """Total and number of defined scores for each row, `(rows,)` float64 each."""

    total: np.ndarray
    count: np.ndarray


def zero(names: Sequence[str], num_rows: int) -> dict[str, Sums]:
    """Empty sums: `{name: Sums}` of zeros `(num_rows,)`."""
    return {name: Sums(np.zeros(num_rows), np.zeros(num_rows)) for name in names}


def add(sums: dict[str, Sums], scores: dict[str, Score], rows: np.ndarray) -> dict[str, Sums]:
    """Adds the scores of `n` pairs to their rows.

    Args:
      sums: state, from `zero`.
      scores: `{name: Score}` of arrays `(n,)`.
      rows: `(n,)` int, the row of each pair.

    Returns:
      The new state.
    """

    def one(name):
        value, defined = (np.asarray(array, np.float64) for array in scores[name])
        total, count = sums[name]
        weights = np.where(defined > 0, value, 0)
        return Sums(
            total + np.bincount(rows, weights, minlength=len(total)),
            count + np.bincount(rows, defined, minlength=len(count)),
        )

    return {name: one(name) for name in sums}


def merge(first: dict[str, Sums], second: dict[str, Sums]) -> dict[str, Sums]:
    """The sums of two disjoint sets of pairs."""
    return jax.tree.map(lambda a, b: a + b, first, second)


def per_row(sums: Sums) -> np.ndarray:
    """Mean of each row, `(rows,)` float64, NaN where nothing was defined."""
    return ratio(sums.total, sums.count)


def ratio(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """`total / count` in float64, NaN where `count` is 0."""
    total, count = np.asarray(total, np.float64), np.asarray(count, np.float64)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def mean_defined(values: np.ndarray) -> float:
    """Mean over the entries that are not NaN; NaN where there are none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")
