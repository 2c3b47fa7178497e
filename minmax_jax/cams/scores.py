"""Scores: what a map explains, as cotangents over the labels.

Every score is linear in the logits, so it is a row of weights over the labels, and its gradient is
one pullback of that row. Rows are made for the labels that are asked for and for no others, so
those of a few among many labels stay few. Nothing divides by zero: an empty set of labels has
divisor one and an empty sum.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def one_label(present: jax.Array, labels: jax.Array) -> jax.Array:
    """Cotangents of the labels' own logits `S_l`, whatever else is in the image.

    Args:
      present: `(c,)` bool; only its length matters.
      labels: `(n,)` integers, the labels wanted.

    Returns:
      `(n c)` float32, a row for each of `labels`.
    """
    return jax.nn.one_hot(labels, present.shape[0], dtype=jnp.float32)


def minmax(present: jax.Array, labels: jax.Array) -> jax.Array:
    """Cotangents of `J_l = S_l - (1 / max(|N|, 1)) sum_{n in N} S_n` (MinMax-CAM, Eq. 3).

    `N` are the present labels other than `l`, so a label that is not present is minimised against
    all present ones.

    Args:
      present: `(c,)` bool.
      labels: `(n,)` integers, the labels wanted.

    Returns:
      `(n c)` float32, a row for each of `labels`.
    """
    own, others, _ = jnp.moveaxis(decomposed(present, labels), 1, 0)
    return own - others


def one_versus_rest(present: jax.Array, labels: jax.Array) -> jax.Array:
    """Rows with 1 for the label and `-1 / (c - 1)` for every other, present or not.

    The relevance that Relevance-CAM starts from (Lee et al. 2021), less a factor, the label's own
    logit, which vanishes in the normalisation up to its sign. (The released code, written for
    ImageNet, has -1/1000.)

    Args:
      present: `(c,)` bool; only its length matters.
      labels: `(n,)` integers, the labels wanted.

    Returns:
      `(n c)` float32, a row for each of `labels`.
    """
    own = one_label(present, labels)
    return own - _mean_row(1 - own)


def decomposed(present: jax.Array, labels: jax.Array) -> jax.Array:
    """Cotangents of the three terms of D-MinMax (MinMax-CAM, Eq. 8 and 9).

    Args:
      present: `(c,)` bool.
      labels: `(n,)` integers, the labels wanted.

    Returns:
      `(n 3 c)` float32: for each of `labels` the rows of `S_l`, of the mean over the other present
      labels and of the mean over all present labels.
    """
    own = one_label(present, labels)
    everybody = jnp.broadcast_to(present[None].astype(own.dtype), own.shape)
    others = everybody * (1 - own)
    return jnp.stack([own, _mean_row(others), _mean_row(everybody)], axis=1)


def recombine(terms: jax.Array) -> jax.Array:
    """`relu(own) - relu(others) + min(0, present)`: the sum in Eq. 8 and 9.

    Args:
      terms: `(3 ...)`, what the rows of `decomposed` were pulled back to: gradients or kernels.

    Returns:
      `(...)`, the dtype of `terms`.
    """
    own, others, everybody = terms
    return jax.nn.relu(own) - jax.nn.relu(others) + jnp.minimum(everybody, 0)


def _mean_row(rows: jax.Array) -> jax.Array:
    return rows / jnp.maximum(rows.sum(axis=-1, keepdims=True), 1)
