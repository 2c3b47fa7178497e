"""What has been counted of pseudo-masks: their scores, and where a killed run goes on."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from minmax_jax import files
from minmax_jax.metrics import boxes, segmentation
from minmax_jax.metrics import sums as sums_lib
from minmax_jax.metrics.boxes import BoxSums
from minmax_jax.metrics.sums import Score, Sums


class Image(NamedTuple):
    """What is counted of one image.

    Attributes:
      pairs: labels whose maps were made.
      pixels, seen: of the image, and of what the network saw of it.
      confusions: `(thresholds, 1 + c, 1 + c)`, None without a true mask.
      ious: by label, `boxes.pair_ious`.
    """

    pairs: int
    pixels: int
    seen: int
    confusions: np.ndarray | None
    ious: Mapping[int, np.ndarray]


class Counts(NamedTuple):
    """Sums over the images of the first `batches`; fields as those of `Image`, rows are labels."""

    batches: Any
    images: Any
    pairs: Any
    pixels: Any
    seen: Any
    confusions: np.ndarray
    boxes: BoxSums
    pointing: Sums


def zero(num_thresholds: int, num_labels: int) -> Counts:
    """Counts of nothing."""
    matrices = np.zeros((num_thresholds, 1 + num_labels, 1 + num_labels), int)
    pointing = Sums(np.zeros(num_labels), np.zeros(num_labels))
    return Counts(0, 0, 0, 0, 0, matrices, boxes.zero(num_labels), pointing)


def add(counts: Counts, images: Sequence[Image]) -> Counts:
    """Adds the images of the next batch."""
    matrices = [image.confusions for image in images if image.confusions is not None]
    pairs = [pair for image in images for pair in image.ious.items()]
    box_sums = counts.boxes
    if pairs:
        labels, ious = zip(*pairs, strict=True)
        box_sums = boxes.add(box_sums, np.stack(ious), np.array(labels))
    return counts._replace(
        batches=counts.batches + 1,
        images=counts.images + len(images),
        **{
            field: getattr(counts, field) + sum(getattr(image, field) for image in images)
            for field in ("pairs", "pixels", "seen")
        },
        confusions=sum(matrices, counts.confusions),
        boxes=box_sums,
    )


def add_pointing(counts: Counts, score: Score, labels: np.ndarray) -> Counts:
    """Adds scores `(n,)` of the pointing game to their labels `(n,)`."""
    sums = sums_lib.add({"pointing": counts.pointing}, {"pointing": score}, labels)
    return counts._replace(pointing=sums["pointing"])


def scores(counts: Counts, thresholds: Sequence[float], threshold: float) -> dict[str, Any]:
    """The scores of `write_pseudo_masks`, from counts at `thresholds`, `threshold` among them."""
    at_each = [segmentation.result(matrix) for matrix in counts.confusions]
    best = int(np.argmax([of["mean"] or 0 for of in at_each]))
    total, count = counts.pointing
    per_label = sums_lib.per_row(counts.pointing)
    return {
        "iou": at_each[thresholds.index(threshold)],
        "best_threshold": thresholds[best],
        "best_iou": at_each[best],
        "boxes": boxes.max_box_accuracy(counts.boxes),
        "pointing_game": {
            "micro": _or_none(sums_lib.ratio(total.sum(), count.sum())),
            "macro": _or_none(sums_lib.mean_defined(per_label)),
            "per_label": [_or_none(value) for value in per_label],
        },
        "unseen": 1 - int(counts.seen) / int(counts.pixels),
    }


def save(path: pathlib.Path, identity: str, counts: Counts) -> None:
    """Writes counts, whole or not at all."""
    arrays = {f"leaf{number}": leaf for number, leaf in enumerate(jax.tree.leaves(counts))}
    arrays["identity"] = np.array(identity)
    files.write_atomically(path, lambda file: np.savez(file, **arrays))


def load(path: pathlib.Path, identity: str) -> Counts | None:
    """The saved counts; None if there are none, or if they were saved under another identity."""
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as saved:
        if str(saved["identity"]) != identity:
            return None
        leaves = [saved[f"leaf{number}"] for number in range(len(saved.files) - 1)]
    return jax.tree.unflatten(jax.tree.structure(zero(0, 0)), leaves)


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
