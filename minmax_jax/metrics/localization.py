"""How well a map finds its object, where the pixels of the object are known.

Segmentations are `(H W)` integers: 0 background, 1 + label index, 255 void. Void pixels do not
count. A pair (image, label) without a pixel of the label in the segmentation is not scored: what
the network imagined says nothing about how well a map points.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from . import sums
from .sums import Score, Sums

METRICS = ("iou", "pointing_game", "energy_on_object")
SUMS = ("intersection", "union", *METRICS)
IOU_MODES = ("pooled", "per_image")
VOID = 255


def pair_scores(
    mask: jax.Array, segmentation: jax.Array, label: jax.Array, *, threshold: float
) -> dict[str, Score]:
    """Scores of one map against its object.

    Args:
      mask: `(H W)` normalised map, 0..1.
      segmentation: `(H W)` integers.
      label: scalar int.
      threshold: pixels above it are the predicted object.

    Returns:
      `{name: Score}` of scalars: `intersection` and `union` in pixels, their `iou`,
      `pointing_game` (1 where the map's highest pixel is on the object) and `energy_on_object`
      (the share of the map's sum that is on it). A map that is 0 everywhere scores 0.
    """
    counted = segmentation != VOID
    on_object = segmentation == label + 1
    predicted = (mask > threshold) & counted
    intersection = (predicted & on_object).sum().astype(jnp.float32)
    union = (predicted | on_object).sum().astype(jnp.float32)
    seen = jnp.where(counted, mask, 0)
    energy = seen.sum()
    defined = on_object.any()
    return {
        "intersection": Score(intersection, defined),
        "union": Score(union, defined),
        "iou": Score(intersection / jnp.maximum(union, 1), defined),
        "pointing_game": Score(
            (on_object.ravel()[seen.argmax()] & (energy > 0)).astype(jnp.float32), defined
        ),
        "energy_on_object": Score(
            jnp.where(on_object, seen, 0).sum() / jnp.where(energy > 0, energy, 1), defined
        ),
    }


def result(state: dict[str, Sums], *, iou: str = "pooled") -> dict[str, dict]:
    """Turns sums into scores.

    Args:
      state: `{name: Sums}` of arrays `(c,)`, of host memory.
      iou: "pooled" divides each label's intersections over all images by its unions; "per_image"
        takes the mean of the images' IoU.

    Returns:
      As `masking.result`, for `iou`, `pointing_game` and `energy_on_object`.
    """
    per_label = {name: sums.per_row(state[name]) for name in METRICS}
    micro = {
        name: float(sums.ratio(np.sum(state[name].total), np.sum(state[name].count)))
        for name in METRICS
    }
    if iou == "pooled":
        intersection, union = state["intersection"].total, state["union"].total
        per_label["iou"] = sums.ratio(intersection, union)
        micro["iou"] = float(sums.ratio(np.sum(intersection), np.sum(union)))
    macro = {name: sums.mean_defined(values) for name, values in per_label.items()}
    return {"per_label": per_label, "macro": macro, "micro": micro}
