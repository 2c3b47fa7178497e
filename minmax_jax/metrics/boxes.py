"""Boxes of maps and objects, and how often they meet: MaxBoxAcc and MaxBoxAccV2.

Boxes are int64 rows `y0 x0 y1 x1`, in pixels, the ends not included. A component is a set of pixels
that touch, by an edge or a corner. Segmentations are as in `localization`, and so are the pairs
(image, label): one without a pixel of the label in the segmentation is not scored.

MaxBoxAcc (Choe et al., CVPR 2020) is the share of pairs in which the box of the map's largest
component overlaps a true box by an IoU of at least 0.5, at the threshold of the map that is best
for the whole data set. MaxBoxAccV2 asks for any of the map's components, and is the mean over an
IoU of at least 0.3, 0.5 and 0.7, each at its own best threshold. The thresholds are
0.00, 0.05, ..., 0.95; a pixel belongs to the map where it is above the threshold.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from . import sums as sums_lib

THRESHOLDS = (np.arange(20) / 20).astype(np.float32)
IOUS = (0.3, 0.5, 0.7)
_V1 = IOUS.index(0.5)
_TOUCHING = np.ones((3, 3), bool)


class BoxSums(NamedTuple):
    """Numbers of pairs, by row, in which a box of the map meets a true box; int64.

    Attributes:
      largest, any: `(rows, IOUS, THRESHOLDS)`, by the box of the largest component, and by that of
        any.
      pairs: `(rows,)`, all that were scored.
    """

    largest: np.ndarray
    any: np.ndarray
    pairs: np.ndarray


def map_boxes(mask: np.ndarray, threshold: float, *, largest: bool = True) -> np.ndarray:
    """Boxes of the components of a map.

    Args:
      mask: `(H W)` normalised map, 0..1.
      threshold: pixels above it are in a component.
      largest: whether only the component of the most pixels counts.

    Returns:
      `(m 4)`, of the largest component first; `m` is 0 where no pixel is above the threshold.

    Raises:
      ValueError: for a map that is not `(H W)`.
    """
    boxes = _component_boxes(_checked(mask, "mask") > threshold)
    return boxes[:1] if largest else boxes


def segmentation_boxes(segmentation: np.ndarray, label: int) -> np.ndarray:
    """True boxes `(m 4)` of a label: those of the components of its pixels, the largest first.

    Objects that touch share a box, and one that is seen in parts has several.

    Args:
      segmentation: `(H W)` integers.
      label: its index.

    Raises:
      ValueError: for a segmentation that is not `(H W)`.
    """
    return _component_boxes(_checked(segmentation, "segmentation") == label + 1)


def box_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of each of `m` boxes with each of `n`, `(m n)` float64.

    Args:
      first: `(m 4)`.
      second: `(n 4)`.

    Raises:
      ValueError: for boxes of another shape.
    """
    # Floating point: differences of unsigned integers would wrap, and areas of small ones overflow.
    first, second = (np.asarray(boxes, float) for boxes in (first, second))
    for boxes in (first, second):
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise ValueError(f"boxes must be (m 4), not {boxes.shape}")
    first, second = first[:, None], second[None]
    start = np.maximum(first[..., :2], second[..., :2])
    stop = np.minimum(first[..., 2:], second[..., 2:])
    intersection = np.maximum(stop - start, 0).prod(axis=-1)
    union = _area(first) + _area(second) - intersection
    return intersection / union


def pair_ious(mask: np.ndarray, segmentation: np.ndarray, label: int) -> np.ndarray | None:
    """How well the boxes of one map meet the true ones, at each of `THRESHOLDS`.

    Args:
      mask: `(H W)` normalised map, 0..1.
      segmentation: `(H W)` integers.
      label: its index.

    Returns:
      `(2 THRESHOLDS)`, the highest IoU with a true box: of the largest component, and of any; 0
      where there is no component. None for a pair that is not scored.

    Raises:
      ValueError: for a map or segmentation that is not `(H W)`, or two of different sizes.
    """
    true = segmentation_boxes(segmentation, label)
    if _checked(mask, "mask").shape != np.shape(segmentation):
        raise ValueError(f"mask is {np.shape(mask)}, the segmentation {np.shape(segmentation)}")
    if not len(true):
        return None
    found = np.zeros((2, len(THRESHOLDS)))
    for column, threshold in enumerate(THRESHOLDS):
        boxes = map_boxes(mask, threshold, largest=False)
        if len(boxes):
            best = box_iou(boxes, true).max(axis=1)
            found[:, column] = best[0], best.max()
    return found


def zero(num_rows: int) -> BoxSums:
    """Empty sums."""
    shape = (num_rows, len(IOUS), len(THRESHOLDS))
    return BoxSums(np.zeros(shape, int), np.zeros(shape, int), np.zeros(num_rows, int))


def add(sums: BoxSums, ious: np.ndarray, rows: np.ndarray) -> BoxSums:
    """Adds `n` pairs to their rows.

    Args:
      sums: from `zero`.
      ious: `(n 2 THRESHOLDS)`, of `pair_ious`.
      rows: `(n,)` int, the row of each pair.

    Returns:
      The new sums.
    """
    met = np.asarray(ious)[:, :, None] >= np.array(IOUS)[None, None, :, None]
    total = BoxSums(*(array.copy() for array in sums))
    for array, value in zip(total, (met[:, 0], met[:, 1], 1), strict=True):
        np.add.at(array, np.asarray(rows, int), value)
    return total


def max_box_accuracy(sums: BoxSums) -> dict[str, dict[str, Any]]:
    """Turns sums whose rows are labels into scores.

    Args:
      sums: of `c` rows.

    Returns:
      `v1` and `v2`, each with plain numbers, None where no pair was scored: `micro`, over all pairs
      at the thresholds that are best for all of them; `thresholds`, the lowest such, one an IoU;
      and at these `per_label` (`c` of them) and `macro`, their mean over the labels with pairs.
    """
    pairs = sums.pairs.sum()
    forms = {"v1": sums.largest[:, _V1 : _V1 + 1], "v2": sums.any}
    if not pairs:
        nothing = {"micro": None, "thresholds": None, "macro": None}
        return {form: nothing | {"per_label": [None] * len(sums.pairs)} for form in forms}
    scores = {}
    for form, met in forms.items():
        curves = met.sum(axis=0) / pairs  # (IOUS, THRESHOLDS)
        best = curves.argmax(axis=1)
        at_best = np.take_along_axis(met, best[None, :, None], axis=2)[..., 0].mean(axis=1)
        per_label = sums_lib.ratio(at_best, sums.pairs)
        scores[form] = {
            "micro": float(curves.max(axis=1).mean()),
            "thresholds": [float(number) / len(THRESHOLDS) for number in best],
            "macro": sums_lib.mean_defined(per_label),
            "per_label": [None if np.isnan(value) else float(value) for value in per_label],
        }
    return scores


def _checked(array, name):
    array = np.asarray(array)
    if array.ndim != 2:
        raise ValueError(f"{name} must be (H W), not {array.shape}")
    return array


def _component_boxes(pixels):
    """Boxes of the components of a bool `(H W)`, the largest first, of equals the upper first."""
    components, number = ndimage.label(pixels, _TOUCHING)
    sizes = np.bincount(components.ravel(), minlength=1 + number)[1:]
    slices = ndimage.find_objects(components)
    boxes = np.array([(y.start, x.start, y.stop, x.stop) for y, x in slices], int).reshape(-1, 4)
    return boxes[np.argsort(-sizes, kind="stable")]


def _area(boxes):
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
