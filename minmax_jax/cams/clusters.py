"""Channels of alike activation maps, grouped by k-means: no key, static shapes, any batch.

Maps are compared after min-max normalisation at activation resolution, by their squared distance.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from . import maps

# From well spread initial centres little moves after a few rounds.
_ROUNDS = 10


def cluster_channels(activations: jax.Array, n: int) -> tuple[jax.Array, jax.Array]:
    """Groups the channels of each image by k-means.

    The first centre is the channel with the highest standard deviation, each next one the channel
    farthest from the nearest centre so far; then ten rounds of Lloyd's algorithm. Flat channels
    take no part. Clusters are empty where there are fewer distinct channels than clusters.

    Args:
      activations: `(b h w k)`, floating point.
      n: clusters of an image; more than `k` are `k`.

    Returns:
      Mean normalised map of each cluster's members `(b h w n)`, 0 for empty clusters; and the
      cluster of each channel `(b k)` int32, `n` for flat channels.
    """
    return jax.vmap(functools.partial(_cluster, n=min(n, activations.shape[-1])))(activations)


def spread(channels: jax.Array) -> jax.Array:
    """Standard deviation over space of channels `(... h w)`: `(...)`, -1 for flat ones."""
    return jnp.where(maps.is_flat(channels), -1, channels.std(axis=(-2, -1)))


def _cluster(activations, n):
    h, w, k = activations.shape
    channels = jnp.moveaxis(activations, -1, 0)
    spreads = spread(channels)
    live = spreads >= 0
    points = maps.normalize_maps(channels).reshape(k, h * w)
    centres = _distant_points(points, jnp.argmax(spreads), live, n)

    def regroup(_, state):
        centres, _, _ = state
        # Squared distances, less what is the same for all centres.
        products = jnp.einsum("kp,np->kn", points, centres, precision="highest")
        distances = jnp.square(centres).sum(axis=1)[None] - 2 * products
        index = jnp.where(live, jnp.argmin(distances, axis=1), n).astype(jnp.int32)
        members = jax.nn.one_hot(index, n, dtype=points.dtype)
        count = members.sum(axis=0)[:, None]
        means = jnp.einsum("kn,kp->np", members, points, precision="highest")
        means = means / jnp.maximum(count, 1)
        return jnp.where(count > 0, means, centres), means, index

    start = centres, jnp.zeros_like(centres), jnp.zeros(k, jnp.int32)
    _, means, index = jax.lax.fori_loop(0, _ROUNDS, regroup, start)
    return jnp.moveaxis(means.reshape(n, h, w), 0, -1), index


def _distant_points(points, first, live, n):
    """`n` points, each the farthest from all before it.

    Where all live points are among them already, others repeat them or are flat: such centres are
    never the first nearest one, so their clusters stay empty.
    """

    def pick(state, _):
        chosen, nearest = state
        squares = jnp.square(points - points[chosen][None]).sum(axis=1)
        closer = jnp.minimum(nearest, squares)
        return (jnp.argmax(closer), closer), chosen

    start = first, jnp.where(live, jnp.inf, 0).astype(points.dtype)
    _, chosen = jax.lax.scan(pick, start, length=n)
    return points[chosen]
