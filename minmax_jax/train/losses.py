"""Losses by name: what a step lowers, and what is said of the validation set.

"sigmoid" is for images of any number of labels: each label is a yes or no of its own, and the loss
their mean cross-entropy. "softmax" is for images of one label: the cross-entropy of the labels'
probabilities, which sum to 1. Of an image with several labels each is as likely.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minmax_jax.predict import cross_entropy, sigmoid, softmax


class Loss(NamedTuple):
    """One loss; labels are `(b c)` bool.

    Attributes:
      of_logits: `(logits (b c), labels)` of JAX to the scalar mean.
      in_float64: the same of numpy, in float64.
      probabilities: numpy logits `(b c)` to float64 probabilities.
      needs_label: whether each image must have a label.
    """

    of_logits: Callable[[jax.Array, jax.Array], jax.Array]
    in_float64: Callable[[np.ndarray, np.ndarray], float]
    probabilities: Callable[[np.ndarray], np.ndarray]
    needs_label: bool

    def of_classifiers(self, logits: jax.Array, labels: jax.Array) -> jax.Array:
        """The loss of logits `(b c)`, or of `(b r c)` the sum of the r classifiers' losses."""
        if logits.ndim == 2:
            return self.of_logits(logits, labels)
        return jax.vmap(self.of_logits, in_axes=(1, None))(logits, labels).sum()

    def check_labels(self, labels: np.ndarray) -> None:
        """Raises `ValueError` for an image without a label, where each needs one."""
        if self.needs_label and not labels.any(axis=1).all():
            raise ValueError("the softmax loss needs at least one label an image; one has none")


def get_loss(name: str) -> Loss:
    """The loss of this name; raises `ValueError`, naming the valid ones, if there is none."""
    if name not in LOSSES:
        raise ValueError(f"unknown loss {name!r}, valid: {', '.join(LOSSES)}")
    return LOSSES[name]


def _sigmoid_of_logits(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.sigmoid_binary_cross_entropy(logits, labels.astype(logits.dtype)).mean()


def _softmax_of_logits(logits: jax.Array, labels: jax.Array) -> jax.Array:
    labels = labels.astype(logits.dtype)
    targets = labels / jnp.sum(labels, axis=1, keepdims=True)
    return optax.softmax_cross_entropy(logits, targets).mean()


def _softmax_in_float64(logits: np.ndarray, labels: np.ndarray) -> float:
    logits = np.asarray(logits, np.float64)
    # No product with the targets: it would be NaN where the logit of another label is infinite.
    wanted = np.where(labels, logits, 0).sum(axis=1) / labels.sum(axis=1)
    with np.errstate(invalid="ignore"):  # inf - inf: the caller sees NaN
        return float((np.logaddexp.reduce(logits, axis=1) - wanted).mean())


LOSSES = {
    "sigmoid": Loss(_sigmoid_of_logits, cross_entropy, sigmoid, needs_label=False),
    "softmax": Loss(_softmax_of_logits, _softmax_in_float64, softmax, needs_label=True),
}
