"""Index masks in the layout of VOC, at the own resolution of the images that they were made of.

As VOC's do they lie over the pixels as these are stored, whatever EXIF data say about turning them.

FOLDER/SegmentationClass/NAME.png         0 background, 1 + label, 255 void, VOC's palette
       ImageSets/Segmentation/train.txt   names, one a line; val.txt of the validation split
       classes.txt                        names of the labels, one a line
"""

from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import ExifTags, Image, ImageOps

from minmax_jax import data, files
from minmax_jax.data.images import seen_box
from minmax_jax.data.voc import LISTS

MASKS, CLASSES = "SegmentationClass", "classes.txt"
_ORIENTATION = ExifTags.Base.Orientation
_TURNED_BACK = {6: 8, 8: 6}  # quarters of a turn; all other orientations undo themselves


def example_names(source: data.Source) -> list[str]:
    """A name for each example: its file's without extension, or its number.

    Sources are numbered from 0 on that have no `image_paths`, or several files of one name.
    """
    names = [pathlib.PurePath(path).stem for path in getattr(source, "image_paths", ())]
    if len(set(names)) == len(source):
        return names
    width = max(6, len(str(len(source) - 1)))
    return [f"{index:0{width}}" for index in range(len(source))]


def restore_maps(
    maps: np.ndarray, height: int, width: int, *, resize: str
) -> tuple[tuple[slice, slice], np.ndarray]:
    """Brings maps of what `resize_image` made of an image back onto the image.

    Args:
      maps: `(n S S)`.
      height, width: of the image, in pixels.
      resize: "crop" or "letterbox".

    Returns:
      The rows and columns of the image that the network saw, those whose pixels' centres it did,
      and the maps there `(n h w)` float32, bilinear with half-pixel centres.
    """
    size = maps.shape[-1]
    maps = np.asarray(maps, np.float32)
    top, left, bottom, right = seen_box(height, width, size, resize)
    rows, maps = _stretch(maps, -2, top, bottom, height)
    columns, maps = _stretch(maps, -1, left, right, width)
    return (rows, columns), maps


def write_mask(folder: str | os.PathLike, name: str, mask: np.ndarray) -> None:
    """Writes an index mask uint8 `(H W)` to `SegmentationClass/NAME.png`, whole or not at all."""
    picture = Image.fromarray(mask)
    picture.putpalette(voc_palette().tobytes())
    path = pathlib.Path(folder) / MASKS / f"{name}.png"
    files.write_atomically(path, lambda file: picture.save(file, "PNG"))


def write_lists(
    folder: str | os.PathLike, split: str, names: Sequence[str], label_names: Sequence[str]
) -> None:
    """Writes the names of the masks of a split, and those of the labels."""
    folder = pathlib.Path(folder)
    _write_lines(folder / "ImageSets" / "Segmentation" / f"{LISTS[split]}.txt", names)
    _write_lines(folder / CLASSES, label_names)


def over_stored_pixels(mask: np.ndarray, photo: str | os.PathLike) -> np.ndarray:
    """Turns a mask uint8 `(H W)` over a photo that was read upright to the pixels of its file."""
    with Image.open(photo) as stored:
        orientation = stored.getexif().get(_ORIENTATION, 1)
    turned = Image.fromarray(mask)
    turned.getexif()[_ORIENTATION] = _TURNED_BACK.get(orientation, orientation)
    return np.array(ImageOps.exif_transpose(turned))


@functools.cache
def voc_palette() -> np.ndarray:
    """Colours of VOC's index masks, uint8 `(256 3)`.

    Red, green and blue take turns at the bits of the index, the lowest first, and fill their own
    from the highest on.
    """
    index, palette = np.arange(256), np.zeros((256, 3), int)
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= ((index >> (3 * bit + channel)) & 1) << (7 - bit)
    return palette.astype(np.uint8)


def _stretch(maps, axis, start, stop, pixels):
    """Which of the pixels have their centres between the edges of the maps, and the maps there."""
    cells = maps.shape[axis]
    first, last = (int(np.ceil(edge - 0.5)) for edge in (start, stop))
    inside = slice(max(0, first), min(pixels, last))
    centres = np.arange(inside.start, inside.stop) + 0.5
    at = np.clip((centres - start) * cells / (stop - start) - 0.5, 0, cells - 1)
    before = np.floor(at).astype(int)
    share = np.expand_dims((at - before).astype(np.float32), -1 if axis == -2 else 0)
    after = maps.take(np.minimum(before + 1, cells - 1), axis)
    return inside, maps.take(before, axis) * (1 - share) + after * share


def _write_lines(path, lines):
    text = "".join(f"{line}\n" for line in lines)
    files.write_atomically(path, lambda file: file.write(text.encode()))
