"""The five masking metrics of multi-label maps and their harmonic means.

How far does the network's confidence move when it sees only what a map shows, and when it sees
everything else? (MinMax-CAM, section 4.3.)
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from . import sums
from .sums import Score, Sums

METRICS = (
    "increase_in_confidence",
    "average_drop",
    "average_drop_of_others",
    "average_retention",
    "average_retention_of_others",
)
F1 = {
    "f1_minus": ("average_drop", "average_retention_of_others"),
    "f1_plus": ("average_retention", "average_drop_of_others"),
}
OTHERS = ("zero", "skip")
F1_MODES = ("per_label", "averages")


def pair_scores(
    original: jax.Array,
    kept: jax.Array,
    dropped: jax.Array,
    label: jax.Array,
    present: jax.Array,
    *,
    others: str = "zero",
) -> dict[str, Score]:
    """The five scores of one pair (image, label) (Eq. 10 to 14).

    Args:
      original: `(c,)` probabilities `Y` of the whole image.
      kept: `(c,)` probabilities `O` of the image seen through the label's map.
      dropped: `(c,)` probabilities `Obar` of the image seen through the map's complement.
      label: scalar int, the label whose map it is.
      present: `(c,)` bool, all labels of the image.
      others: what an image without other labels gives to the two metrics "of others": "zero" adds 0
        and counts the pair, as the published tables do; "skip" leaves the pair out.

    Returns:
      `{metric: Score}` of scalars; a drop from probability 0 is 0.
    """
    drop, retention = _relative_drop(original, kept), _relative_drop(original, dropped)
    rest = present & (jnp.arange(len(present)) != label)
    number = rest.sum()
    always = jnp.array(True)
    if_others = number > 0 if others == "skip" else always

    def of_others(drops):
        return jnp.where(rest, drops, 0).sum() / jnp.maximum(number, 1)

    return {
        "increase_in_confidence": Score(
            (original[label] < kept[label]).astype(original.dtype), always
        ),
        "average_drop": Score(drop[label], always),
        "average_drop_of_others": Score(of_others(drop), if_others),
        "average_retention": Score(retention[label], always),
        "average_retention_of_others": Score(of_others(retention), if_others),
    }


def _relative_drop(original, masked):
    positive = original > 0
    return jnp.where(positive, jax.nn.relu(original - masked) / jnp.where(positive, original, 1), 0)


def result(state: dict[str, Sums], *, f1: str = "per_label") -> dict[str, dict]:
    """Turns sums into scores.

    Args:
      state: `{metric: Sums}` of arrays `(c,)`, of host memory.
      f1: "per_label" averages the labels' harmonic means, as the published tables do; "averages"
        takes the harmonic mean of the averaged metrics.

    Returns:
      `{"per_label": {metric: (c,)}, "macro": {metric: float}, "micro": {metric: float}}` with
      `f1_minus` and `f1_plus` among the metrics; float64, NaN where no pair defines a score.
    """
    per_label = {name: sums.per_row(state[name]) for name in METRICS}
    macro = {name: sums.mean_defined(values) for name, values in per_label.items()}
    micro = {
        name: float(sums.ratio(np.sum(state[name].total), np.sum(state[name].count)))
        for name in METRICS
    }
    for name, (first, second) in F1.items():
        per_label[name] = harmonic_mean(per_label[first], per_label[second])
        micro[name] = float(harmonic_mean(micro[first], micro[second]))
        macro[name] = (
            sums.mean_defined(per_label[name])
            if f1 == "per_label"
            else float(harmonic_mean(macro[first], macro[second]))
        )
    return {"per_label": per_label, "macro": macro, "micro": micro}


def harmonic_mean(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """`2 a b / (a + b)`, 0 where both are 0, NaN where either is NaN; float64."""
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    total = first + second
    return 2 * first * second / np.where(total == 0, 1, total)
