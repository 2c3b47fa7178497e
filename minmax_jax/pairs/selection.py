"""Which classes a class is compared with: its representative classes, by one of several modes.

    cluster-K       of each cluster the K-th most similar class, the last one where it has fewer
    rank-P,P,...    the classes at these positions, from 1, of the others by falling similarity
    rank-a, rank-b  positions 3, 9, 14, 17 and 3, 8, 13, 18, made for 20 classes: for n classes
                    position P is P (n - 1) / 19 rounded, at least 1, and each comes once
    random-K        K others by chance; random is random-4
    all             all others
    top-K           the K others with the highest scores, the highest first

Similarity to class i is row i of the matrix. The lower index is first among equals.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import jax
import numpy as np

from .clustering import generator
from .similarity import check_similarity

_VALID = "cluster-K, rank-a, rank-b, rank-P,P,..., random, random-K, all, top-K"
_PUBLISHED = {"rank-a": (3, 9, 14, 17), "rank-b": (3, 8, 13, 18)}


def select_classes(
    similarity: np.ndarray,
    *,
    mode: str = "cluster-1",
    clusters: np.ndarray | None = None,
    key: jax.Array | None = None,
    scores: Sequence[Sequence[float | None]] | np.ndarray | None = None,
) -> list[list[int]]:
    """The representative classes of each class.

    Args:
      similarity: `(n n)` as from `similarity_matrix`, the diagonal unused.
      mode: see the module's docstring.
      clusters: `(n,)` as from `cluster_classes`, for `cluster-K`.
      key: for `random` and `random-K`; a class's choice depends on the key and its index.
      scores: `(n n)` for `top-K`: `scores[s, i]` of class i compared with class s; None or NaN are
        never chosen.

    Returns:
      For each class the others it is compared with, each once; with `cluster-K` in the order of the
      clusters, without those that are empty but for the class; with `rank` as the positions are
      named; with `all` by their index. With `top-K` they are fewer than K where scores are missing.

    Raises:
      ValueError: for an unknown mode, numbers that do not exist among n classes, an option that
        the mode needs and is None, or arrays of other shapes.
    """
    similarity = check_similarity(similarity)
    n = len(similarity)
    kind, numbers = parse_mode(mode, n)
    needed = {"cluster": ("clusters", clusters), "random": ("key", key), "top": ("scores", scores)}
    if kind in needed and needed[kind][1] is None:
        raise ValueError(f"mode {mode!r} needs {needed[kind][0]}")
    if kind == "all":
        return [[other for other in range(n) if other != index] for index in range(n)]
    if kind == "random":
        return [_random(key, index, n, numbers[0]) for index in range(n)]
    if kind == "top":
        return _top(_as_shape("scores", np.array(scores, np.float64), (n, n)), numbers[0])
    ranked = rank_classes(similarity)
    if kind == "rank":
        return ranked[:, np.array(numbers) - 1].tolist()
    return _of_clusters(ranked, _as_shape("clusters", np.asarray(clusters), (n,)), numbers[0])


def rank_classes(similarity: np.ndarray) -> np.ndarray:
    """The other classes of each class by falling similarity: `(n n-1)` int64.

    Raises:
      ValueError: if `similarity` is not square or not finite.
    """
    similarity = check_similarity(similarity)
    np.fill_diagonal(similarity, -np.inf)  # the class itself comes last
    return np.argsort(-similarity, axis=1, kind="stable")[:, :-1]


def parse_mode(mode: str, num_classes: int) -> tuple[str, tuple[int, ...]]:
    """What a mode means for a number of classes, before anything is computed.

    Returns:
      "cluster", "rank", "random", "all" or "top", and its numbers: K, or the positions.

    Raises:
      ValueError: for an unknown mode, or numbers that do not exist among `num_classes`.
    """
    if mode == "all":
        return "all", ()
    if mode in _PUBLISHED:
        scaled = (max(1, round(p * (num_classes - 1) / 19)) for p in _PUBLISHED[mode])
        return "rank", tuple(dict.fromkeys(scaled))
    text = "random-4" if mode == "random" else str(mode)
    match = re.fullmatch(r"(cluster|random|top)-([0-9]+)|(rank)-([0-9]+(?:,[0-9]+)*)", text)
    if not match:
        raise ValueError(f"unknown mode: {mode!r}, valid: {_VALID}")
    kind = match[1] or match[3]
    numbers = tuple(int(number) for number in (match[2] or match[4]).split(","))
    others = num_classes - 1
    for number in numbers:
        if number < 1 or (kind != "cluster" and number > others):
            most = "" if kind == "cluster" else f" and at most {others}, of {num_classes} classes"
            raise ValueError(f"mode {mode!r}: {number} must be at least 1{most}")
    if len(set(numbers)) != len(numbers):
        raise ValueError(f"mode {mode!r} names a position twice")
    return kind, numbers


def _random(key, index, n, number) -> list[int]:
    others = generator(key, index).permutation(n - 1)[:number].tolist()
    return [other + (other >= index) for other in others]


def _top(scores, number) -> list[list[int]]:
    """NaN comes last in a sorted order, and is then left out."""
    np.fill_diagonal(scores, np.nan)
    chosen = np.argsort(-scores, axis=0, kind="stable")[:number].T.tolist()
    return [
        [other for other in others if not np.isnan(scores[other, index])]
        for index, others in enumerate(chosen)
    ]


def _of_clusters(ranked, clusters, number) -> list[list[int]]:
    chosen = []
    for others in ranked:
        members = (others[clusters[others] == cluster] for cluster in np.unique(clusters))
        chosen.append([int(each[:number][-1]) for each in members if each.size])
    return chosen


def _as_shape(name, array, shape) -> np.ndarray:
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, not {array.shape}")
    return array
