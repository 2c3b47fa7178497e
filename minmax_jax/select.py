"""Which labels of an image are explained, and which count as present in it.

A policy is a hashable function of the logits `(b c)` that is traced into the program of an
explanation, so its labels come from the same forward pass as their maps. Networks with a sigmoid
detect labels one by one (`DetectedLabels`); those with a softmax rank them (`TopLabels`), and what
they rank highest is what MinMax methods contrast.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np


class Selection(NamedTuple):
    """Labels of a batch of images.

    Attributes:
      labels: `(b n)` int32, the labels to explain.
      chosen: `(b n)` bool, False for labels that only fill up a row.
      present: `(b c)` bool, the labels taken to be in each image.
    """

    labels: jax.Array
    chosen: jax.Array
    present: jax.Array


class Policy(Protocol):
    """A hashable function from logits to labels."""

    def __call__(self, logits: jax.Array) -> Selection: ...


@dataclasses.dataclass(frozen=True)
class AllLabels:
    """Every label in its order; present are those with a sigmoid above 0.5."""

    def __call__(self, logits: jax.Array) -> Selection:
        labels = jnp.broadcast_to(jnp.arange(logits.shape[1], dtype=jnp.int32)[None], logits.shape)
        return Selection(labels, jnp.ones(logits.shape, bool), logits > 0)


@dataclasses.dataclass(frozen=True)
class TopLabels:
    """The `n` labels with the highest logits, the highest first; they are the present ones.

    Raises:
      ValueError: if `n` is below 1 or, when called, above the number of labels.
    """

    n: int

    def __post_init__(self):
        _check_number(self.n)

    def __call__(self, logits: jax.Array) -> Selection:
        _, labels = _top(logits, self.n)
        return Selection(labels, jnp.ones(labels.shape, bool), _members(labels, logits.shape[1]))


@dataclasses.dataclass(frozen=True)
class DetectedLabels:
    """The labels with a sigmoid above `threshold`, the highest first, at most `n` of them.

    All detected labels are present, also those beyond the first `n`.

    Raises:
      ValueError: if `n` is below 1 or, when called, above the number of labels, or `threshold` is
        not in (0, 1).
    """

    n: int
    threshold: float = 0.5

    def __post_init__(self):
        _check_number(self.n)
        check_threshold(self.threshold)

    def __call__(self, logits: jax.Array) -> Selection:
        values, labels = _top(logits, self.n)
        least = logit(self.threshold)
        return Selection(labels, values > least, logits > least)


@dataclasses.dataclass(frozen=True)
class NamedLabels:
    """The same labels in every image.

    Attributes:
      indices: of the labels, in the order wanted.
      threshold: present are the labels with a sigmoid above it; None, for networks with a softmax,
        makes the named labels the present ones.

    Raises:
      ValueError: if no label is named, one is named twice, or, when called, one does not exist;
        for a `threshold` outside (0, 1).
    """

    indices: tuple[int, ...]
    threshold: float | None = None

    def __post_init__(self):
        if not self.indices or len(set(self.indices)) != len(self.indices):
            raise ValueError(f"indices must name labels, each once, not {self.indices}")
        if self.threshold is not None:
            check_threshold(self.threshold)

    def __call__(self, logits: jax.Array) -> Selection:
        size, number = logits.shape
        if not all(0 <= index < number for index in self.indices):
            raise ValueError(f"indices {self.indices} do not all exist among {number} labels")
        own = np.asarray(self.indices, np.int32)[None]
        labels = jnp.broadcast_to(own, (size, own.shape[1]))
        if self.threshold is None:
            present = _members(labels, number)
        else:
            present = logits > logit(self.threshold)
        return Selection(labels, jnp.ones(labels.shape, bool), present)


def logit(probability: float) -> float:
    """The logit whose sigmoid is `probability`, in (0, 1)."""
    return math.log(probability) - math.log1p(-probability)


def check_threshold(threshold: float) -> None:
    """Raises `ValueError` unless `threshold` is a probability between 0 and 1."""
    if not 0 < threshold < 1:
        raise ValueError(f"threshold must be in (0, 1), not {threshold}")


def _check_number(n: int) -> None:
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"the number of labels must be at least 1, not {n!r}")


def _top(logits: jax.Array, n: int) -> tuple[jax.Array, jax.Array]:
    if n > logits.shape[1]:
        raise ValueError(f"{n} labels wanted of a network with {logits.shape[1]}")
    return jax.lax.top_k(logits, n)


def _members(labels: jax.Array, number: int) -> jax.Array:
    """`(b c)` bool, True at each row's labels `(b n)`."""
    return jax.nn.one_hot(labels, number, dtype=jnp.bool_).any(axis=1)
