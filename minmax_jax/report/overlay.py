"""Maps laid over photos: what a map leaves out is dim and grey, what it shows glows.

A pixel of an overlay depends on the photo's grey level and the map's level there, 256 each, so
all colours stand in one table and an overlay is one look-up a pixel.
"""

from __future__ import annotations

import functools
import math

import matplotlib
import numpy as np
from PIL import Image

from minmax_jax.methods import METHODS

COLORMAP = matplotlib.colormaps["inferno"]
Box = tuple[float, float, float, float]
_UNSEEN = 0.25  # brightness of what the network did not see


def overlay_map(grey: np.ndarray, map_: np.ndarray, box: Box | None = None) -> np.ndarray:
    """Lays a map over a photo.

    Args:
      grey: uint8 `(H W)`, the photo's luminance.
      map_: `(h w)` in 0..1; resized bicubically, with half-pixel centres: unlike the bilinear masks
        of the metrics it has no creases, and in the middle of its cells it is the same.
      box: top, left, bottom and right of the map in pixels of the photo; it may reach beyond it.
        By default the map covers the photo. Pixels that do not lie in the box whole are dim.

    Returns:
      uint8 `(H W 3)`.
    """
    height, width = grey.shape
    top, left, bottom, right = (0, 0, height, width) if box is None else box
    rows, columns = _inside(top, bottom, height), _inside(left, right, width)
    y = _in_map(rows, top, bottom, map_.shape[0])
    x = _in_map(columns, left, right, map_.shape[1])
    size = (columns.stop - columns.start, rows.stop - rows.start)
    part = grey[rows, columns]
    levels = Image.fromarray(np.asarray(map_, np.float32) * 255)
    levels = levels.resize(size, Image.Resampling.BICUBIC, box=(x[0], y[0], x[1], y[1]))
    index = np.rint(np.clip(levels, 0, 255)).astype(np.uint16) << 8
    index |= part
    colors = np.take(_table(), index, axis=0, mode="clip")
    if part.shape == grey.shape:
        return colors
    picture = np.repeat(_dim()[grey][..., None], 3, axis=2)
    picture[rows, columns] = colors
    return picture


def brighten(map_: np.ndarray) -> np.ndarray:
    """A map in 0..1 up to its 99th percentile: a few bright pixels leave the others dark."""
    return np.clip(map_ / max(np.percentile(map_, 99), 1e-6), 0, 1)


def to_show(method: str, map_: np.ndarray) -> np.ndarray:
    """A map in 0..1 as pictures show it: those of the image's own pixels are brightened."""
    known = METHODS.get(method)
    return brighten(map_) if known is not None and known.family == "saliency" else map_


def to_grey(image: np.ndarray) -> np.ndarray:
    """Luminance uint8 `(H W)` of an image uint8 `(H W 3)`."""
    return np.asarray(Image.fromarray(image).convert("L"))


def _inside(start: float, stop: float, size: int) -> slice:
    """The whole pixels between two edges; at least one."""
    first = min(max(0, math.ceil(start)), size - 1)
    return slice(first, max(first + 1, min(size, math.floor(stop))))


def _in_map(pixels: slice, start: float, stop: float, cells: int) -> tuple[float, float]:
    """Edges of pixels in cells of a map that lies between two edges."""
    edges = np.array([pixels.start - start, pixels.stop - start]) * cells / (stop - start)
    return tuple(np.clip(edges, 0, cells).tolist())


@functools.cache
def _table() -> np.ndarray:
    """Colours by `256 level + grey`: uint8 `(65536 3)`."""
    heat = np.arange(256)[:, None] / 255
    grey = np.arange(256)[None, :, None]
    opacity = 0.2 + 0.55 * heat[..., None]
    color = 255 * COLORMAP(heat)[..., :3]  # (256 1 3)
    table = np.rint((1 - opacity) * 0.6 * grey + opacity * color)
    return table.astype(np.uint8).reshape(-1, 3)


@functools.cache
def _dim() -> np.ndarray:
    return np.rint(_UNSEEN * np.arange(256)).astype(np.uint8)
