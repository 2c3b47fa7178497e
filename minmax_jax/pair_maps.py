"""Maps of chosen pairs of an image and a label, where a map of every label would cost too much.

A map at the image itself takes a way back through the whole network, or many of them, so methods of
these families are asked for one label of one image at a time, in chunks of one size.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from minmax_jax import parallel
from minmax_jax.methods import METHODS
from minmax_jax.models.network import Network, Variables

FAMILIES = ("saliency",)


def split_methods(methods: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Methods whose maps are made of all labels at once, and those made pair by pair."""
    by_pair = tuple(name for name in methods if METHODS[name].family in FAMILIES)
    return tuple(name for name in methods if name not in by_pair), by_pair


def chunk_size(images_at_once: int, rows: int, mesh: jax.sharding.Mesh | None) -> int:
    """Pairs in a chunk.

    Args:
      images_at_once: what each device forwards at once (`memory.images_at_once`); a way back holds
        the activations of all layers, so it takes fewer.
      rows: images among which the pairs are; a multiple of the devices.
      mesh: devices over which a chunk is split.
    """
    return min((1 if mesh is None else mesh.size) * max(1, images_at_once // 4), rows)


def chunks(number: int, size: int, *, skip: int = 0) -> Iterator[np.ndarray]:
    """Numbers of pairs, chunk by chunk; those that hold only the first `skip` are left out."""
    for start in range(skip // size * size, number, size):
        yield np.arange(start, min(start + size, number))


def explain_pairs(
    explain_fn: Callable[..., tuple[Any, ...]],
    variables: Variables,
    images: Any,
    present: Any,
    pairs: np.ndarray,
    *,
    size: int,
    mesh: jax.sharding.Mesh | None = None,
) -> jax.Array:
    """Maps of a chunk of pairs.

    Args:
      explain_fn: of one method (`make_explain_fn`), with the same mesh.
      variables: as in `explain`.
      images: `(r H W 3)`.
      present: `(r c)` bool.
      pairs: `(m 2)` int, rows of both and labels; at least one.
      size: pairs in a chunk, `m` or more.
      mesh: devices over which a chunk is split.

    Returns:
      Raw maps `(size H W)`; those after the first `m` mean nothing.
    """
    rows, labels = np.resize(pairs, (size, 2)).astype(np.int32).T
    chosen = _take_fn(mesh)((images, present), rows)
    maps, _ = explain_fn(variables, *chosen, np.arange(size) < len(pairs), labels[:, None])
    return maps[:, 0]


@functools.lru_cache(maxsize=16)
def logits_fn(network: Network) -> Callable[[Variables, jax.Array], jax.Array]:
    """Jitted: variables and images to logits, where no method makes them beside its maps."""
    return jax.jit(lambda variables, images: network.apply(variables, images)[0])


@functools.lru_cache(maxsize=16)
def _take_fn(mesh):
    """Jitted: some rows of a tree of arrays."""

    def take(arrays, rows):
        return jax.tree.map(lambda array: array[rows], arrays)

    return jax.jit(take, out_shardings=parallel.by_rows(mesh))
