"""Scores of maps, class by class, at the size of the images.

With a directory for its state, a run that was killed goes on behind the last class it finished.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm.auto import tqdm

from minmax_jax import files, parallel
from minmax_jax.cams.maps import normalize_maps
from minmax_jax.metrics import iou_curve
from minmax_jax.metrics.iou_curve import Counts, CurveSums
from minmax_jax.metrics.localization import IOU_MODES
from minmax_jax.pairs.maps import Maps

Results = dict[str, dict[str, dict[str, Any]]]
Take = Callable[[np.ndarray], np.ndarray]
# Photos, labels and masks of a batch to `Counts (r b ...)` of all rows, and a tree of the logits
# that were explained.
Count = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[Counts, Any]]


def score_classes(
    rows: Sequence[str],
    scored: np.ndarray,
    prepare: Callable[[int], Count],
    take: Take,
    labels: np.ndarray,
    masks: np.ndarray,
    *,
    identities: Sequence[Any],
    batch_size: int,
    threshold: float,
    state_directory: str | os.PathLike | None,
    progress: bool,
) -> Results:
    """Scores of classes in the images that are annotated with them, in full batches.

    Args:
      rows: names of the results.
      scored: `(n r)` bool, which rows each class has.
      prepare: a class to the function that makes its counts; called when there is something to do.
      take, labels, masks, batch_size, threshold, progress: see `evaluate.evaluate_pairs`.
      identities: JSON values that, with the rows and the images, tell each class's saved sums from
        others.
      state_directory: of a file for each finished class, or None.

    Returns:
      `{row: {"pooled": scores, "per_image": scores}}`.

    Raises:
      ValueError: for labels, masks and options that do not fit, and logits that are not finite.
    """
    iou_curve.threshold_index(threshold)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    _check_masks(masks, take, labels)
    by_class = []
    total = int(labels.sum())
    with tqdm(total=total, desc="evaluate", unit="map", leave=False, disable=not progress) as bar:
        for label, identity in enumerate(identities):
            found = np.flatnonzero(labels[:, label])

            def make_sums(label=label, found=found):
                sums = iou_curve.zero(len(rows))
                if not len(found) or not scored[label].any():
                    return sums
                batches = _batches(found, batch_size, take, labels, masks)
                return _counted(sums, label, scored[label], prepare(label), batches, bar)

            if state_directory is None:
                by_class.append(make_sums())
            else:
                path = pathlib.Path(state_directory) / f"{label:03}.npz"
                digest = hashlib.sha256(found.tobytes()).hexdigest()
                by_class.append(_kept(path, json.dumps([list(rows), identity, digest]), make_sums))
            bar.update(int(labels[:, : label + 1].sum()) - bar.n)
    sums = CurveSums(*(np.stack(arrays) for arrays in zip(*by_class, strict=True)))
    results = {}
    for number, row in enumerate(rows):
        of_row = CurveSums(*(array[:, number] for array in sums))
        results[row] = {
            iou: iou_curve.result(of_row, threshold=threshold, iou=iou) for iou in IOU_MODES
        }
    return results


def _batches(found, batch_size, take, labels, masks):
    """How many photos count, and the arrays of a full batch, its rest from the start again."""
    for start in range(0, len(found), batch_size):
        rows = found[np.arange(start, start + batch_size) % len(found)]
        yield min(batch_size, len(found) - start), (take(rows), labels[rows], masks[rows])


def _counted(sums, label, scored, count, batches, bar):
    """The sums of one class, each batch looked at when the next one is queued."""
    queued = ((number, *count(*arrays)) for number, arrays in batches)
    for number, counts, logits in parallel.ahead(queued):
        if not all(np.isfinite(each).all() for each in jax.tree.leaves(logits)):
            raise ValueError(f"the logits that explain class {label} are not finite")
        counts = Counts(*(np.asarray(array)[scored, :number] for array in counts))
        flat = Counts(*(array.reshape(-1, *array.shape[2:]) for array in counts))
        sums = iou_curve.add(sums, flat, np.flatnonzero(scored).repeat(number))
        bar.update(number)
    return sums


def _kept(path: pathlib.Path, identity: str, sums_fn: Callable[[], CurveSums]) -> CurveSums:
    """The sums in the file; if they are others, or there are none, they are made and written."""
    if path.exists():
        with np.load(path, allow_pickle=False) as saved:
            if str(saved["identity"]) == identity:
                return CurveSums(*(saved[name] for name in CurveSums._fields))
    sums = sums_fn()
    files.write_atomically(
        path, lambda file: np.savez(file, identity=np.array(identity), **sums._asdict())
    )
    return sums


def checked_labels(labels: np.ndarray) -> np.ndarray:
    """Labels as bool `(m n)`; `ValueError` for another shape."""
    labels = np.asarray(labels, bool)
    if labels.ndim != 2 or not labels.shape[1]:
        raise ValueError(f"labels must have shape (m n), got {labels.shape}")
    return labels


def _check_masks(masks, take, labels):
    if masks is None:
        raise ValueError("IoU needs masks, and the data has none")
    images = len(labels), *(np.shape(take(np.zeros(1, np.int64)))[1:3] if len(labels) else ())
    if np.shape(masks)[: len(images)] != images or np.ndim(masks) != 3:
        raise ValueError(f"masks have shape {np.shape(masks)}, the images need {images}")


@jax.jit
def fused_counts(maps: Maps, shares: jax.Array, masks: jax.Array, label: jax.Array) -> Counts:
    """Counts `(r b ...)` of maps fused by `shares (k u)`, of the last tap and then multi-layer."""

    def count(maps):
        def fused_counts(share):
            fused = normalize_maps(jnp.tensordot(share, maps, axes=1, precision="highest"))
            return jax.vmap(iou_curve.iou_counts, in_axes=(0, 0, None))(fused, masks, label)

        # One by one: of many combinations the maps would be the most that there is.
        return jax.lax.map(fused_counts, shares)

    return joined([count(each) for each in (maps.last, maps.multi) if each is not None])


@jax.jit
def joined(counts: Sequence[Counts]) -> Counts:
    """One behind the other, along their first axis."""
    return jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *counts)
