"""Outputs of a network over a data set."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from tqdm.auto import tqdm

from minmax_jax import parallel, preemption
from minmax_jax.models.network import Network, Variables


def predict(
    network: Network,
    variables: Variables,
    batches: Iterable[Mapping[str, np.ndarray]],
    *,
    mesh: jax.sharding.Mesh | None = None,
    progress: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Runs a network over annotated batches.

    Args:
      network, variables: as in `explain`.
      batches: dicts with `image (b H W 3)` preprocessed and `labels (b c)` bool; a smaller last
        batch is filled up, so that the network is compiled once. Of several processes each gives
        its own rows.
      mesh: devices over which batches are split.
      progress: whether to show a progress bar.

    Returns:
      Logits `(n c)` float32 and labels `(n c)` bool, of all processes' rows.

    Raises:
      ValueError: if there is no batch, or a label vector of another length than the logits.
      preemption.Preempted: when SIGTERM came.
    """
    logits, labels = forward(
        _logits(network), variables, batches, mesh=mesh, progress=progress, desc="predict"
    )
    if labels.shape != logits.shape:
        raise ValueError(f"labels have shape {labels.shape}, the logits have {logits.shape}")
    return logits, labels


def forward(
    function: Callable[[Variables, jax.Array], jax.Array],
    variables: Variables,
    batches: Iterable[Mapping[str, np.ndarray]],
    *,
    mesh: jax.sharding.Mesh | None,
    progress: bool,
    desc: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Outputs `(n ...)` of a function of variables and images, and labels, as in `predict`."""
    outputs, labels, size = [], [], None
    total = len(batches) if hasattr(batches, "__len__") else None
    apply_fn = _apply_fn(function, mesh)
    for batch in tqdm(
        batches, total=total, desc=desc, unit="batch", leave=False, disable=not progress
    ):
        preemption.check()
        number = len(batch["image"])
        size = parallel.even_rows(mesh, number) if size is None else size
        if number > size:
            raise ValueError(f"a batch has {number} images, the first had {size}")
        rows = batch["image"], np.asarray(batch["labels"], bool), np.ones(number, bool)
        rows = parallel.put(mesh, tuple(fill_up(x, size) for x in rows))
        batch_outputs, batch_labels, valid = map(np.asarray, apply_fn(variables, *rows))
        outputs.append(batch_outputs[valid])
        labels.append(batch_labels[valid])
    if not outputs:
        raise ValueError("there is nothing to predict: no batch was given")
    return np.concatenate(outputs), np.concatenate(labels)


@functools.lru_cache(maxsize=16)
def _apply_fn(function, mesh):
    """The function jitted; what it returns lies on all devices, and so on all processes."""

    def apply_fn(variables, images, labels, valid):
        return function(variables, images), labels, valid

    return jax.jit(apply_fn, out_shardings=parallel.everywhere(mesh))


@functools.lru_cache(maxsize=16)
def _logits(network: Network) -> Callable[[Variables, jax.Array], jax.Array]:
    return lambda variables, images: network.apply(variables, images)[0]


@functools.lru_cache(maxsize=16)
def pooled_features(network: Network) -> Callable[[Variables, jax.Array], jax.Array]:
    """`(variables, images) -> (b k)` float32: the last tap's mean over the pixels."""

    def features(variables, images):
        activations = network.apply(variables, images)[1][network.taps[-1]]
        return jnp.mean(activations.astype(jnp.float32), axis=(1, 2))

    return features


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
    """Mean sigmoid cross-entropy over images and labels, in float64; infinite logits give NaN."""
    logits = np.asarray(logits, np.float64)
    with np.errstate(invalid="ignore", over="ignore"):  # inf - inf: the caller sees NaN
        return float((np.logaddexp(0, logits) - logits * labels).mean())
