"""From raw maps to masks: normalisation and resizing, over any leading axes."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def normalize_maps(maps: jax.Array) -> jax.Array:
    """Min-max normalisation of each map to 0..1; a constant map becomes 0.

    Args:
      maps: `(... h w)`, floating point.

    Returns:
      `(... h w)` in 0..1.
    """
    lowest = maps.min(axis=(-2, -1), keepdims=True)
    span = maps.max(axis=(-2, -1), keepdims=True) - lowest
    live = span > 0
    return jnp.where(live, (maps - lowest) / jnp.where(live, span, 1), 0)


def resize_maps(maps: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Bilinear resize with half-pixel centres and no antialiasing.

    Args:
      maps: `(... h w)`.
      size: `(H, W)` in pixels.

    Returns:
      `(... H W)`.
    """
    return jax.image.resize(maps, (*maps.shape[:-2], *size), method="linear", antialias=False)


def is_flat(maps: jax.Array) -> jax.Array:
    """Whether a map has the same value everywhere.

    Args:
      maps: `(... h w)`.

    Returns:
      `(...)` bool.
    """
    return maps.max(axis=(-2, -1)) == maps.min(axis=(-2, -1))
