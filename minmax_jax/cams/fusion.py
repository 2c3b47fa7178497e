"""One map of several: over the layers of a network, and over comparison classes.

Maps are `(... H W)` in 0..1 and of one size, as `maps.normalize_maps` and `maps.resize_maps` leave
them.
"""

from __future__ import annotations

import jax

from .maps import normalize_maps


def multi_layer(maps: jax.Array) -> jax.Array:
    """The sum over the layers, multiplied by the last layer's map, normalised.

    The last layer says where the object is, the sum draws its outline.

    Args:
      maps: `(... t H W)`, of t layers, shallow to deep.

    Returns:
      `(... H W)` in 0..1; 0 where the last layer's map is 0.
    """
    return normalize_maps(maps.sum(axis=-3) * maps[..., -1, :, :])


def fuse(maps: jax.Array) -> jax.Array:
    """The mean over maps of the same object, normalised.

    Args:
      maps: `(... n H W)`, of n comparison classes.

    Returns:
      `(... H W)` in 0..1.
    """
    return normalize_maps(maps.mean(axis=-3))
