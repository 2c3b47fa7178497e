"""Insertion and deletion curves: does the map name the pixels that the network needs?

Pixels are taken in the order of the map, highest first, those of equal value by position. Deletion
replaces them step by step by a filling, insertion reveals them on a blurred image; at each step the
label's probability is taken (Petsiuk, Das and Saenko, RISE, BMVC 2018). A good map makes the
deletion curve fall early and the insertion curve rise early, so the score is the area under each.

Scores of pairs are the probabilities at steps 0, 1/T, ..., 1 of the pixels, which add up like any
other score; the area is linear in them, so it is that of the mean curve.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from minmax_jax import perturb

from . import sums
from .sums import Score, Sums

METRICS = ("insertion", "deletion")


def sum_names(steps: int) -> tuple[str, ...]:
    """Names of the sums that `result` needs: a curve's value at each of `steps + 1` steps."""
    return tuple(_name(metric, step) for metric in METRICS for step in range(steps + 1))


def _name(metric: str, step: int) -> str:
    return f"{metric}_{step}"


def pair_scores(
    probabilities_of: Callable[[jax.Array], jax.Array],
    images: jax.Array,
    fillings: jax.Array,
    masks: jax.Array,
    labels: jax.Array,
    original: jax.Array,
    *,
    steps: int,
) -> dict[str, Score]:
    """Both curves of each pair.

    Memory does not grow with the steps: one after the other is forwarded, `2 n` images each.

    Args:
      probabilities_of: images `(2n H W 3)` to probabilities `(2n c)`.
      images: `(n H W 3)`, preprocessed.
      fillings: `(n H W 3)`, what deleted pixels become.
      masks: `(n H W)`; only the order of its values counts.
      labels: `(n,)` int.
      original: `(n c)`, probabilities of the whole images.
      steps: T, at least 1.

    Returns:
      `{name: Score}` of `(n,)` by `sum_names`.
    """
    n, height, width = masks.shape
    ranks = jax.vmap(_ranks)(masks.reshape(n, -1)).reshape(masks.shape)
    counts = np.arange(steps + 1) * (height * width) // steps
    blurred = perturb.blur(images)

    def at_step(pixels):
        """Insertion of so many pixels, and deletion of so many: one step further."""
        inserted, deleted = ((ranks < number)[..., None] for number in pixels)
        changed = jnp.concatenate(
            [jnp.where(inserted, images, blurred), jnp.where(deleted, fillings, images)]
        )
        of_label = jnp.take_along_axis(probabilities_of(changed), jnp.tile(labels, 2)[:, None], 1)
        return of_label.reshape(2, n)

    pixels = np.stack([counts[:-1], counts[1:]], axis=1).astype(np.int32)
    inserted, deleted = jnp.moveaxis(jax.lax.map(at_step, pixels), 1, 0)  # (T n) each
    whole = jnp.take_along_axis(original, labels[:, None], 1).T  # (1 n): all inserted, none deleted
    curves = {
        "insertion": jnp.concatenate([inserted, whole]),
        "deletion": jnp.concatenate([whole, deleted]),
    }
    defined = jnp.ones(n, bool)
    return {
        _name(metric, step): Score(curves[metric][step], defined)
        for metric in METRICS
        for step in range(steps + 1)
    }


def _ranks(values: jax.Array) -> jax.Array:
    """The place of each of the values `(p,)` in their falling order, equal ones by position."""
    order = jnp.argsort(-values, stable=True)
    places = jnp.arange(len(values), dtype=jnp.int32)
    return jnp.zeros_like(places).at[order].set(places)


def result(state: dict[str, Sums], *, steps: int) -> tuple[dict[str, dict], dict[str, np.ndarray]]:
    """Turns sums into scores and curves.

    Args:
      state: `{name: Sums}` of arrays `(c,)`, of host memory.
      steps: T.

    Returns:
      As `masking.result`, for the areas `insertion` and `deletion`; and their curves `(T + 1,)`,
      means over the labels that have pairs. NaN where there is no pair.
    """
    scores = {"per_label": {}, "macro": {}, "micro": {}}
    curves = {}
    for metric in METRICS:
        own = [state[_name(metric, step)] for step in range(steps + 1)]
        by_label = np.stack([sums.per_row(at_step) for at_step in own])  # (T + 1, c)
        pooled = np.array([sums.ratio(np.sum(s.total), np.sum(s.count)) for s in own])
        areas = np.trapezoid(by_label, dx=1 / steps, axis=0)
        scores["per_label"][metric] = areas
        scores["macro"][metric] = sums.mean_defined(areas)
        scores["micro"][metric] = float(np.trapezoid(pooled, dx=1 / steps))
        curves[metric] = np.array([sums.mean_defined(values) for values in by_label])
    return scores, curves
