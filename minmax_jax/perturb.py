"""What stands in for the pixels that a mask takes away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import ImageColor

FILLS = ("zero", "blur")

# Standard deviation of the blur, as a share of the side: wide enough to hide a part of an object.
_BLUR = 0.05


def make_fill(
    fill: str, preprocess: Callable[[Any], Any] | None
) -> Callable[[jax.Array], jax.Array]:
    """Chooses the filling of masked images.

    Args:
      fill: "zero", 0 after preprocessing (grey, the data set's mean or black, by network); "blur",
        the image under a Gaussian of 5 % of its side; or a colour, as "#rrggbb" or by CSS name.
      preprocess: the network's; a colour is taken as 0..255 where there is none.

    Returns:
      A function of images `(b H W 3)` to fillings of the same shape.

    Raises:
      ValueError: for any other `fill`.
    """
    if fill == "zero":
        return jnp.zeros_like
    if fill == "blur":
        return blur
    try:
        colour = np.array(ImageColor.getrgb(fill)[:3], np.uint8)[None, None, None]
    except (AttributeError, TypeError, ValueError):
        raise ValueError(
            f"fill must be {', '.join(FILLS)} or a colour such as #7f7f7f, not {fill!r}"
        ) from None
    colour = colour if preprocess is None else preprocess(colour)
    return lambda images: jnp.broadcast_to(jnp.asarray(colour, images.dtype), images.shape)


def blur(images: jax.Array) -> jax.Array:
    """Gaussian blur of images `(b H W 3)`; the edge's weights are renormalised."""
    rows, columns = (_blur_matrix(size) for size in images.shape[1:3])
    return jnp.einsum("Hh,bhwc,Ww->bHWc", rows, images, columns, precision="highest")


def _blur_matrix(size: int) -> jax.Array:
    position = jnp.arange(size, dtype=jnp.float32)
    distance = (position[:, None] - position[None]) / (_BLUR * size)
    weights = jnp.exp(-(distance**2) / 2)
    return weights / weights.sum(axis=1, keepdims=True)
