"""Mean IoU of segmentations, background included, from a confusion matrix.

Segmentations are `(H W)` integers: 0 background, 1 + label index, 255 void. Pixels that are void in
the truth or in the prediction do not count. Matrices `(1 + c, 1 + c)` int64 hold pixels by their
true class (row) and predicted class (column), 0 for the background; those of several images are
added.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import sums as sums_lib
from .localization import VOID


def confusion(segmentation: np.ndarray, predicted: np.ndarray, num_labels: int) -> np.ndarray:
    """The confusion matrix `(1 + c, 1 + c)` of an image, or of several of one shape.

    Args:
      segmentation: `(... H W)`, the truth.
      predicted: the same shape.
      num_labels: `c`, background not counted.

    Raises:
      ValueError: for two shapes, and a value that is neither 0 to `c` nor 255.
    """
    segmentation, predicted = np.asarray(segmentation), np.asarray(predicted)
    if segmentation.shape != predicted.shape:
        raise ValueError(f"segmentation is {segmentation.shape}, predicted {predicted.shape}")
    counted = (segmentation != VOID) & (predicted != VOID)
    true, found = segmentation[counted].astype(int), predicted[counted].astype(int)
    classes = 1 + num_labels
    for name, values in (("segmentation", true), ("predicted", found)):
        wrong = values[(values < 0) | (values >= classes)]
        if wrong.size:
            raise ValueError(
                f"{name} holds the value {wrong[0]}: valid are 0, 1 to {num_labels} "
                f"(1 + label index) and {VOID}"
            )
    pixels = np.bincount(true * classes + found, minlength=classes**2)
    return pixels.reshape(classes, classes)


def result(matrix: np.ndarray) -> dict[str, Any]:
    """Turns a confusion matrix into scores.

    Args:
      matrix: `(1 + c, 1 + c)`, of `confusion`, summed over images.

    Returns:
      Plain numbers: the IoU of the `background` and `per_label` (`c` of them), None for a class
      without a pixel in truth and prediction; and the `mean` over the others.
    """
    intersection = np.diag(matrix)
    union = matrix.sum(axis=0) + matrix.sum(axis=1) - intersection
    ious = sums_lib.ratio(intersection, union)
    mean = sums_lib.mean_defined(ious)
    background, *per_label = [None if np.isnan(iou) else float(iou) for iou in ious]
    return {
        "mean": None if np.isnan(mean) else mean,
        "background": background,
        "per_label": per_label,
    }
