"""Logits of a network over a data set."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping

import jax
import numpy as np
from tqdm.auto import tqdm

from minmax_jax.models.network import Network, Variables


def predict(
    network: Network,
    variables: Variables,
    batches: Iterable[Mapping[str, np.ndarray]],
    *,
    progress: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Runs a network over annotated batches.

    Args:
      network, variables: as in `explain`.
      batches: dicts with `image (b H W 3)` preprocessed and `labels (b c)` bool; a smaller last
        batch is filled up, so that the network is compiled once.
      progress: whether to show a progress bar.

    Returns:
      Logits `(n c)` float32 and labels `(n c)` bool.

    Raises:
      ValueError: if there is no batch, or a label vector of another length than the logits.
    """
    logits, labels = [], []
    total = len(batches) if hasattr(batches, "__len__") else None
    for batch in tqdm(
        batches, total=total, desc="predict", unit="batch", leave=False, disable=not progress
    ):
        images = batch["image"]
        size = len(images) if not logits else max(len(images), len(logits[0]))
        batch_logits = _apply_fn(network)(variables, fill_up(images, size))
        logits.append(np.asarray(batch_logits)[: len(images)])
        labels.append(np.asarray(batch["labels"], bool))
        if labels[-1].shape != logits[-1].shape:
            raise ValueError(
                f"labels have shape {labels[-1].shape}, the logits have {logits[-1].shape}"
            )
    if not logits:
        raise ValueError("there is nothing to predict: no batch was given")
    return np.concatenate(logits), np.concatenate(labels)


@functools.lru_cache(maxsize=16)
def _apply_fn(network: Network):
    return jax.jit(lambda variables, images: network.apply(variables, images)[0])


def fill_up(array: np.ndarray, size: int) -> np.ndarray:
    """Appends zeros to a smaller last batch, so that it runs in the program of the others."""
    array = np.asarray(array)
    return np.pad(array, ((0, size - len(array)),) + ((0, 0),) * (array.ndim - 1))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probabilities in float64, without overflow for large logits."""
    return np.exp(-np.logaddexp(0, -np.asarray(logits, np.float64)))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities `(n c)` in float64, without overflow for large logits."""
    logits = np.asarray(logits, np.float64)
    return np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean sigmoid cross-entropy over images and labels, in float64."""
    logits = np.asarray(logits, np.float64)
    return float((np.logaddexp(0, logits) - logits * labels).mean())
