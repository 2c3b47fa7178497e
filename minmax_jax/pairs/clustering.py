"""Clusters of alike classes: k-means in which the mean similarity to a cluster is its distance.

Each class in turn moves to the cluster with whose members, itself left out, it has the largest
mean similarity. Of the matrix `B` that is the class's own row, `B[i, .]`: how alike others are to
it, not it to others. A class whose row is 0 (it has no image) is equally unlike all, so it stays
where chance put it; among the restarts, one that put it where others find it alike wins.

Ties: the class stays, else it moves to the cluster whose lowest class at the round's start is the
lowest. A class that may not leave its cluster, because that would become too small, stays.
"""

from __future__ import annotations

import jax
import numpy as np

from .similarity import check_similarity

# Of asymmetric noise the moves may go on almost for ever: its cycles grow exponentially with n.
_ROUNDS = 100


def cluster_classes(
    key: jax.Array,
    similarity: np.ndarray,
    *,
    num_clusters: int = 4,
    min_size: int = 1,
    restarts: int = 32,
) -> np.ndarray:
    """Groups classes by their similarity.

    A restart is a random partition whose classes move until none does in a whole round. Where a
    partition comes again, all partitions of that cycle are candidates; after 100 rounds without
    either, all so far are. Of all restarts the candidate with the highest similarity within
    clusters wins, the first one of equals. That is the mean over classes of the mean similarity to
    the others of their cluster, which is 0 for a class alone.

    Args:
      key: of the random partitions; restart r is the same whatever the number of restarts.
      similarity: `(n n)` as from `similarity_matrix`, the diagonal unused; it may be asymmetric.
      num_clusters: none of them is empty.
      min_size: classes in a cluster, at least.
      restarts: number of random partitions.

    Returns:
      The cluster of each class `(n,)` int64; clusters are numbered by their lowest class.

    Raises:
      ValueError: if `similarity` is not square or not finite, an option is below 1, or there are
        fewer classes than the clusters need.
    """
    similarity = check_similarity(similarity)
    options = {"num_clusters": num_clusters, "min_size": min_size, "restarts": restarts}
    for name, value in options.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be at least 1, not {value!r}")
    if (least := num_clusters * min_size) > len(similarity):
        raise ValueError(
            f"num_clusters {num_clusters} with min_size {min_size} needs at least {least} classes, "
            f"there are {len(similarity)}"
        )
    rngs = (generator(key, restart) for restart in range(restarts))
    starts = (_random_partition(rng, len(similarity), num_clusters, min_size) for rng in rngs)
    settled = (each for start in starts for each in _settle(similarity, start, min_size))
    return max(settled, key=lambda clusters: _within_similarity(similarity, clusters))


def generator(key: jax.Array, number: int) -> np.random.Generator:
    """Random numbers of the host from `fold_in(key, number)`: no program for each shape drawn."""
    return np.random.default_rng(np.asarray(jax.random.key_data(jax.random.fold_in(key, number))))


def _random_partition(rng, n, num_clusters, min_size) -> np.ndarray:
    """`(n,)`; the clusters get `min_size` classes each, and the others by chance."""
    clusters = rng.integers(0, num_clusters, n)
    clusters[: num_clusters * min_size] = np.repeat(np.arange(num_clusters), min_size)
    return rng.permutation(clusters)


def _settle(similarity, clusters, min_size) -> list[np.ndarray]:
    """The partition at which moves end, those of their cycle, or all where there is no end."""
    seen = {}  # rounds before each partition
    while (partition := _number(clusters)) not in seen and len(seen) < _ROUNDS:
        seen[partition] = len(seen)
        clusters = _move(similarity, np.array(partition), min_size)
    return [np.array(each, np.int64) for each in list(seen)[seen.get(partition, 0) :]]


def _number(clusters: np.ndarray) -> tuple[int, ...]:
    """Clusters numbered by their lowest class, so that one partition has one form."""
    numbers = {}
    return tuple(numbers.setdefault(cluster, len(numbers)) for cluster in clusters.tolist())


def _move(similarity, clusters, min_size) -> np.ndarray:
    """One round over the classes."""
    clusters = clusters.copy()
    sizes = np.bincount(clusters)
    for index, row in enumerate(similarity):
        own = clusters[index]
        if sizes[own] == min_size:
            continue
        sizes[own] -= 1
        # With 0 on the diagonal, the class itself adds nothing to its own cluster.
        means = np.bincount(clusters, weights=row) / sizes
        best = means.argmax()
        clusters[index] = best if means[best] > means[own] else own
        sizes[clusters[index]] += 1
    return clusters


def _within_similarity(similarity, clusters) -> float:
    together = clusters[:, None] == clusters[None]
    sums = np.where(together, similarity, 0).sum(axis=1)
    return (sums / np.maximum(together.sum(axis=1) - 1, 1)).mean()
