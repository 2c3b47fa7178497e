"""Decoding images and masks, and bringing both to one square size by the same geometry.

Images are uint8 (H W 3) RGB, masks uint8 (H W): 0 background, 1 + label index, 255 void.

`crop` takes the centred square of the shortest side. `letterbox` keeps the whole image, its longest
side filling the square, and pads evenly on both sides with black (0) and, in masks, with void.
"""

from __future__ import annotations

import os
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

VOID = 255
RESIZES = ("crop", "letterbox")


def decode_image(file: str | os.PathLike | BinaryIO, *, name: str = "") -> np.ndarray:
    """Reads an image file of any mode as uint8 (H W 3), upright.

    EXIF orientation is applied, transparent pixels are laid over white, 16-bit grey is scaled to
    8 bits, and of several frames the first counts.

    Args:
      file: its path, or an open binary file.
      name: what errors call it; "" calls it by its path.

    Raises:
      ValueError: naming it, if the file is missing, damaged, truncated or in a floating-point or
        32-bit mode, which has no agreed range.
    """
    try:
        with Image.open(file) as image:
            ImageOps.exif_transpose(image, in_place=True)
            if image.mode.startswith("I;16"):
                wide = np.asarray(image).astype(np.float32)
                return np.repeat(np.rint(wide / 257).astype(np.uint8)[:, :, None], 3, axis=2)
            if image.mode in ("I", "F"):
                raise ValueError(f"mode {image.mode} has no agreed range")
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            return np.array(image if image.mode == "RGB" else image.convert("RGB"))
    except Exception as error:  # Decoders raise OSError, SyntaxError, struct.error, zlib.error, ...
        raise ValueError(f"cannot decode image {name or file}: {error}") from error


def decode_mask(file: str | os.PathLike | BinaryIO, *, name: str = "") -> np.ndarray:
    """Reads an index mask as uint8 (H W): grey values or palette indices, as they are stored.

    Args:
      file: its path, or an open binary file.
      name: what errors call it; "" calls it by its path.

    Raises:
      ValueError: naming it, if the file is missing, damaged or has more than one channel.
    """
    try:
        with Image.open(file) as image:
            if image.mode not in ("L", "P", "1"):
                raise ValueError(f"mode {image.mode}, wanted 8-bit grey or palette indices")
            return np.array(image).astype(np.uint8)
    except Exception as error:
        raise ValueError(f"cannot decode mask {name or file}: {error}") from error


def resize_image(image: np.ndarray, size: int, resize: str) -> np.ndarray:
    """Brings an image uint8 (H W 3) to (size size 3), bilinear with antialiasing.

    Args:
      resize: "crop" or "letterbox", see above.
    """
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    pil = Image.fromarray(image)
    if resize == "crop":
        top, left, side = _crop_box(height, width)
        box = (left, top, left + side, top + side)
        return np.array(pil.resize((size, size), Image.Resampling.BILINEAR, box=box))
    top, left, inner_height, inner_width = _letterbox_inset(height, width, size)
    out = np.zeros((size, size, 3), np.uint8)
    out[top : top + inner_height, left : left + inner_width] = np.asarray(
        pil.resize((inner_width, inner_height), Image.Resampling.BILINEAR)
    )
    return out


def resize_mask(mask: np.ndarray, size: int, resize: str) -> np.ndarray:
    """Brings a mask uint8 (H W) to (size size) by nearest neighbour; padding becomes void."""
    height, width = mask.shape
    if (height, width) == (size, size):
        return mask
    if resize == "crop":
        top, left, side = _crop_box(height, width)
        return mask[np.ix_(_nearest(top, side, size), _nearest(left, side, size))]
    top, left, inner_height, inner_width = _letterbox_inset(height, width, size)
    out = np.full((size, size), VOID, np.uint8)
    out[top : top + inner_height, left : left + inner_width] = mask[
        np.ix_(_nearest(0, height, inner_height), _nearest(0, width, inner_width))
    ]
    return out


def seen_box(height: int, width: int, size: int, resize: str) -> tuple[float, float, float, float]:
    """Top, left, bottom and right of what `resize_image` shows, in pixels of the image.

    With "letterbox" the box reaches beyond the image: into the padding.
    """
    if resize == "crop":
        top, left, side = _crop_box(height, width)
        return top, left, top + side, left + side
    top, left, inner_height, inner_width = _letterbox_inset(height, width, size)
    y, x = height / inner_height, width / inner_width  # a rounding apart
    return -top * y, -left * x, (size - top) * y, (size - left) * x


def check_resize(resize: str) -> None:
    """Raises `ValueError` unless `resize` is a known way to resize."""
    if resize not in RESIZES:
        raise ValueError(f"unknown resize {resize!r}, valid: {', '.join(RESIZES)}")


def _crop_box(height: int, width: int) -> tuple[float, float, int]:
    """Top, left and side of the centred square; half pixels keep it exactly centred."""
    side = min(height, width)
    return (height - side) / 2, (width - side) / 2, side


def _letterbox_inset(height: int, width: int, size: int) -> tuple[int, int, int, int]:
    """Top, left, height and width of the scaled image inside the square."""
    longest = max(height, width)
    inner_height = max(1, round(height * size / longest))
    inner_width = max(1, round(width * size / longest))
    return (size - inner_height) // 2, (size - inner_width) // 2, inner_height, inner_width


def _nearest(start: float, extent: int, count: int) -> np.ndarray:
    """Source indices under the centres of `count` samples spread over `extent` from `start`."""
    return np.floor(start + (np.arange(count) + 0.5) * extent / count).astype(int)
