"""How alike classes are to a classifier: `(n n)`, row i the class that is confused, with column j.

`B[i, j]` is the sum, over the images of class i, of the softmax probability of class j. Rows grow
with the number of images of their class, and `B[i, j]` is not `B[j, i]`. The diagonal is what the
classifier gets right; it is as summed, and nothing uses it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from tqdm.auto import tqdm

from minmax_jax import parallel, preemption
from minmax_jax.models.network import Network, Variables
from minmax_jax.predict import fill_up


def similarity_matrix(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Similarity of classes from the outputs of a softmax classifier.

    Args:
      probabilities: `(m n)` of m images with one class each.
      labels: `(m,)` integers, the class of each image.

    Returns:
      `(n n)` float64; the row of a class without images is 0.

    Raises:
      ValueError: for other shapes, a label that is no class, or what is no probability.
    """
    probabilities, labels = np.asarray(probabilities, np.float64), np.asarray(labels)
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1]:
        raise ValueError(
            "probabilities must be (m n) with labels (m,), "
            f"not {probabilities.shape} with {labels.shape}"
        )
    n = probabilities.shape[1]
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels must be integers, not {labels.dtype}")
    if (wrong := np.flatnonzero((labels < 0) | (labels >= n))).size:
        raise ValueError(f"labels[{wrong[0]}] is {labels[wrong[0]]}, valid are 0 to {n - 1}")
    possible = (probabilities >= 0) & (probabilities <= 1)
    if (wrong := np.argwhere(~possible)).size:
        row, column = wrong[0]
        raise ValueError(
            f"probabilities[{row}, {column}] is {probabilities[row, column]}, not in [0, 1]"
        )
    similarity = np.zeros((n, n))
    np.add.at(similarity, labels, probabilities)
    return similarity


def network_similarity(
    network: Network,
    variables: Variables,
    batches: Iterable[Mapping[str, np.ndarray]],
    *,
    mesh: jax.sharding.Mesh | None = None,
    progress: bool = True,
) -> np.ndarray:
    """The same, of a network's softmax over batches of images.

    No output of a single image is kept: devices sum those of a batch, the host adds the batches.

    Args:
      network, variables: as in `explain`.
      batches: dicts with `image (b H W 3)` preprocessed and `labels (b n)` bool, exactly one label
        in each row; a smaller last batch is filled up, so that the network is compiled once. Of
        several processes each gives its own rows.
      mesh: devices over which batches are split.
      progress: whether to show a progress bar.

    Returns:
      `(n n)` float64, of all processes' rows; the row of a class without images is 0.

    Raises:
      ValueError: if there is no batch, an image has not exactly one label, a label vector has
        another length than the logits, or the logits of a class's images are not finite.
      preemption.Preempted: when SIGTERM came.
    """
    variables = parallel.replicate(mesh, variables)
    similarity = None
    # The device runs the next batch while the host waits for the sums of the last.
    for sums in parallel.ahead(_batch_sums(network, variables, batches, mesh, progress)):
        sums = np.asarray(sums, np.float64)
        similarity = sums if similarity is None else similarity + sums
    if similarity is None:
        raise ValueError("there is nothing to compare: no batch was given")
    if (wrong := np.flatnonzero(~np.isfinite(similarity).all(axis=1))).size:
        raise ValueError(f"the network's outputs for images of class {wrong[0]} are not finite")
    return similarity


def check_similarity(similarity: np.ndarray) -> np.ndarray:
    """A float64 copy of a similarity matrix `(n n)`, with 0 on the diagonal.

    Raises:
      ValueError: unless it is square, of two classes at least, and finite beside the diagonal.
    """
    similarity = np.array(similarity, np.float64)
    if similarity.ndim != 2 or similarity.shape[0] != similarity.shape[1] or len(similarity) < 2:
        raise ValueError(f"similarity must be (n n), n at least 2, not {similarity.shape}")
    np.fill_diagonal(similarity, 0)
    if (wrong := np.argwhere(~np.isfinite(similarity))).size:
        row, column = wrong[0]
        raise ValueError(f"similarity[{row}, {column}] is {similarity[row, column]}, not finite")
    return similarity


def _batch_sums(network, variables, batches, mesh, progress) -> Iterator[jax.Array]:
    """The sums `(n n)` of each batch, float32 on the device."""
    total = len(batches) if hasattr(batches, "__len__") else None
    sum_fn, size = _sum_fn(network, mesh), None
    bar = tqdm(
        batches, total=total, desc="similarity", unit="batch", leave=False, disable=not progress
    )
    for index, batch in enumerate(bar):
        preemption.check()
        labels, number = np.asarray(batch["labels"], bool), len(batch["image"])
        if labels.ndim != 2 or len(labels) != number:
            raise ValueError(f"batch {index}: labels have shape {labels.shape}, of {number} images")
        counts = labels.sum(axis=1)
        if (wrong := np.flatnonzero(counts != 1)).size:
            raise ValueError(
                f"batch {index}: row {wrong[0]} has {counts[wrong[0]]} labels, not exactly one"
            )
        size = parallel.even_rows(mesh, number) if size is None else size
        if number > size:
            raise ValueError(f"batch {index}: there are {number} images, the first had {size}")
        rows = tuple(fill_up(each, size) for each in (batch["image"], labels))
        yield sum_fn(variables, *parallel.put(mesh, rows))


@functools.lru_cache(maxsize=16)
def _sum_fn(network: Network, mesh: jax.sharding.Mesh | None):
    """A row that only fills up has no label, so it is in no sum."""

    def sum_fn(variables, images, labels):
        logits = network.apply(variables, images)[0].astype(jnp.float32)
        if labels.shape != logits.shape:
            raise ValueError(f"labels have shape {labels.shape}, the logits have {logits.shape}")
        probabilities = jax.nn.softmax(logits)
        # A sum and no product of matrices: full precision everywhere, and a NaN stays in its row.
        return jnp.where(labels[:, :, None], probabilities[:, None, :], 0).sum(axis=0)

    return jax.jit(sum_fn, out_shardings=parallel.everywhere(mesh))
