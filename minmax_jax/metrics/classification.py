"""Classification scores of multi-label networks."""

from __future__ import annotations

from typing import Any

import numpy as np


def classification_scores(
    probabilities: np.ndarray, labels: np.ndarray, *, threshold: float = 0.5
) -> dict[str, dict[str, Any]]:
    """F1, F2 and mean average precision.

    Args:
      probabilities: `(n c)` in 0..1.
      labels: `(n c)` bool.
      threshold: probabilities above it are detections.

    Returns:
      `{"f1": {"macro", "micro", "weighted", "per_label"}, "f2": {...}, "map": {"macro",
      "per_label"}}`: floats and lists of floats. "weighted" weighs labels by their number of
      annotated images. A label that is neither annotated nor detected has F = 0; the average
      precision of a label without an annotated image is not defined: None, and left out of the
      mean, which is None where no label has one.
    """
    # Its import takes as long as that of JAX, so only those who score pay.
    from sklearn.metrics import average_precision_score

    detected = probabilities > threshold
    hits = (detected & labels).sum(axis=0)
    wrong = (detected & ~labels).sum(axis=0)
    missed = (~detected & labels).sum(axis=0)
    support = labels.sum(axis=0)
    scores: dict[str, dict[str, Any]] = {}
    for beta in (1, 2):
        per_label = _f_score(hits, wrong, missed, beta)
        scores[f"f{beta}"] = {
            "macro": float(per_label.mean()),
            "micro": float(_f_score(hits.sum(), wrong.sum(), missed.sum(), beta)),
            "weighted": float((per_label * support).sum() / max(support.sum(), 1)),
            "per_label": per_label.tolist(),
        }
    precisions = [
        float(average_precision_score(truth, probability)) if truth.any() else None
        for truth, probability in zip(labels.T, probabilities.T, strict=True)
    ]
    defined = [value for value in precisions if value is not None]
    scores["map"] = {
        "macro": float(np.mean(defined)) if defined else None,
        "per_label": precisions,
    }
    return scores


def _f_score(hits, wrong, missed, beta):
    """F-beta from counts, 0 where there is nothing to find and nothing found."""
    weight = beta**2
    return (1 + weight) * hits / np.maximum((1 + weight) * hits + weight * missed + wrong, 1)
