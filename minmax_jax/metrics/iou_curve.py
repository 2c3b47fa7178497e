"""Intersection over union of maps and their objects, at every threshold at once.

A pixel is predicted where the map is above the threshold. Segmentations are as in `localization`;
a map whose object has no pixel that counts is not scored. Counts are made on devices, exactly;
their sums are kept on the host.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from . import sums as sums_lib
from .localization import IOU_MODES, VOID

# 0.00, 0.01, ..., 0.99
THRESHOLDS = (np.arange(100) / 100).astype(np.float32)


class Counts(NamedTuple):
    """Pixels of one map, or of `n` of them, that are not void; int32.

    Attributes:
      intersection: `(T,)`, on the object and predicted, for each of `THRESHOLDS`.
      predicted: `(T,)`.
      object: `()`, on the object.
    """

    intersection: jax.Array
    predicted: jax.Array
    object: jax.Array


class CurveSums(NamedTuple):
    """Sums over the maps of each row.

    Attributes:
      intersection, union: `(rows, T)` int64, pixels.
      iou: `(rows, T)` float64, the sum of the maps' own IoU.
      images: `(rows,)` int64, maps that were scored.
    """

    intersection: np.ndarray
    union: np.ndarray
    iou: np.ndarray
    images: np.ndarray


def iou_counts(mask: jax.Array, segmentation: jax.Array, label: jax.Array) -> Counts:
    """Counts of one map and its object at all thresholds.

    Args:
      mask: `(H W)` normalised map, 0..1.
      segmentation: `(H W)` integers.
      label: scalar int.
    """
    counted = segmentation != VOID
    on_object = segmentation == label + 1
    bins = len(THRESHOLDS) + 1
    index = _thresholds_below(mask.astype(jnp.float32)) + bins * on_object
    histogram = jnp.zeros(2 * bins, jnp.int32).at[index].add(counted.astype(jnp.int32))
    beside, on = histogram.reshape(2, bins)

    def above_each(pixels):
        return jnp.cumsum(pixels[:0:-1])[::-1]

    return Counts(above_each(on), above_each(beside + on), on.sum())


def _thresholds_below(values: jax.Array) -> jax.Array:
    """How many thresholds each value is above; they are the lowest ones."""
    # The product may be off by a rounding, so by one threshold: compare with the two beside it.
    guess = jnp.clip(jnp.ceil(values * len(THRESHOLDS)), 1, len(THRESHOLDS)).astype(jnp.int32)
    edges = jnp.append(THRESHOLDS, jnp.inf)
    return guess + (values > edges[guess]) - (values <= edges[guess - 1])


def zero(num_rows: int) -> CurveSums:
    """Empty sums."""
    shape = (num_rows, len(THRESHOLDS))
    return CurveSums(
        np.zeros(shape, np.int64),
        np.zeros(shape, np.int64),
        np.zeros(shape),
        np.zeros(num_rows, np.int64),
    )


def add(sums: CurveSums, counts: Counts, rows: np.ndarray) -> CurveSums:
    """Adds the counts of `n` maps to their rows.

    Args:
      sums: from `zero`.
      counts: arrays `(n, T)`, `(n, T)` and `(n,)`.
      rows: `(n,)` int, the row of each map.

    Returns:
      The new sums.
    """
    intersection, predicted, objects = (np.asarray(array, np.int64) for array in counts)
    scored = objects > 0
    intersection, predicted, rows = intersection[scored], predicted[scored], rows[scored]
    union = predicted + objects[scored, None] - intersection
    total = CurveSums(*(array.copy() for array in sums))
    values = intersection, union, intersection / union, np.ones(len(rows), np.int64)
    for array, value in zip(total, values, strict=True):
        np.add.at(array, rows, value)
    return total


def result(sums: CurveSums, *, threshold: float = 0.15, iou: str = "pooled") -> dict[str, Any]:
    """Turns sums whose rows are labels into scores.

    Args:
      sums: of `c` rows.
      threshold: one of `THRESHOLDS`.
      iou: "pooled" divides each label's intersections over all images by its unions; "per_image"
        takes the mean of the images' IoU.

    Returns:
      Plain numbers, None where no image was scored: `per_label` (`c` of them) and their `mean`
      over the labels with images, at the threshold; `curve`, the mean at each of `THRESHOLDS`;
      `best`, the highest of these, and the lowest `best_threshold` that reaches it.

    Raises:
      ValueError: for another threshold or way.
    """
    at = threshold_index(threshold)
    if iou not in IOU_MODES:
        raise ValueError(f"unknown iou {iou!r}; valid: {', '.join(IOU_MODES)}")
    if iou == "pooled":
        values = sums_lib.ratio(sums.intersection, sums.union)
    else:
        values = sums_lib.ratio(sums.iou, np.broadcast_to(sums.images[:, None], sums.iou.shape))
    scored = sums.images > 0
    per_label = [float(row[at]) if ok else None for row, ok in zip(values, scored, strict=True)]
    if not scored.any():
        nothing = dict.fromkeys(("mean", "best_threshold", "best"))
        return {"per_label": per_label, "curve": [None] * len(THRESHOLDS), **nothing}
    curve = values[scored].mean(axis=0)
    best = int(curve.argmax())
    return {
        "per_label": per_label,
        "mean": float(curve[at]),
        "curve": curve.tolist(),
        "best_threshold": best / len(THRESHOLDS),
        "best": float(curve[best]),
    }


def threshold_index(threshold: float) -> int:
    """Where in `THRESHOLDS` a threshold stands.

    Raises:
      ValueError: if it is none of them.
    """
    (found,) = np.nonzero(np.float32(threshold) == THRESHOLDS)
    if not len(found):
        raise ValueError(f"threshold must be one of 0.00, 0.01, ..., 0.99, not {threshold}")
    return int(found[0])
