"""A folder of images with CSV files of labels: the data set `csv`, for data of one's own.

    root/train.csv      image,labels          (or image_name,tags, as in Planet)
                        a.jpg,sky tree        labels separated by spaces; none is allowed
    root/images/a.jpg   any file that Pillow reads; see `images.decode_image`
    root/masks/a.png    optional index masks: 0 background, 1 + label index, 255 void
    root/classes.txt    optional: the label names, one a line, in the order of the label index

An image may be named with its extension or without; then .jpg, .jpeg, .png and .tif are tried.
"""

from __future__ import annotations

import csv
import os
import pathlib
from collections.abc import Sequence
from concurrent import futures
from typing import NamedTuple

import numpy as np
import tqdm
from PIL import ExifTags, Image, ImageOps

from minmax_jax.data import images as images_lib

HEADERS = (("image", "labels"), ("image_name", "tags"))
EXTENSIONS = (".jpg", ".jpeg", ".png", ".tif")
ON_ERROR = ("raise", "skip")

_ORIENTATION = ExifTags.Base.Orientation


class Row(NamedTuple):
    """One row of a CSV file: `line` counts from 1, the header's line included."""

    line: int
    image: str
    labels: tuple[str, ...]


class CsvFolder:
    """Random access to the images of one split.

    Args:
      split: "train", "validation" or "test".
      root: the folder that the other paths are relative to.
      train_csv: the split's CSV file; one is needed for each split that is asked for.
      validation_csv: likewise.
      test_csv: likewise.
      images: the folder of images.
      masks: the folder of index masks, "" if there are none. The mask of `images/a.jpg` is
        `masks/a.png`, upright, as large as the image after its EXIF orientation.
      classes: the file of label names. "" takes the labels found in all the CSV files that are
        given, sorted, so give every split the same options.
      on_error: "raise" stops at the first image that cannot be decoded, when it is read. "skip"
        decodes all images at the start and leaves those out; `skipped` holds their paths. A
        missing file, a damaged or wrong mask and a wrong label raise in either case.

    Raises:
      ValueError: naming file, line and culprit.
    """

    splits = ("train", "validation", "test")

    def __init__(
        self,
        split: str,
        *,
        root: str = ".",
        train_csv: str = "",
        validation_csv: str = "",
        test_csv: str = "",
        images: str = "images",
        masks: str = "",
        classes: str = "",
        on_error: str = "raise",
    ):
        if on_error not in ON_ERROR:
            raise ValueError(f"unknown on_error {on_error!r}, valid: {', '.join(ON_ERROR)}")
        folder = pathlib.Path(root).expanduser()
        names = dict(zip(self.splits, (train_csv, validation_csv, test_csv), strict=True))
        if not names[split]:
            raise ValueError(f"option {split}_csv is empty: no CSV file for the split {split!r}")
        tables = {key: read_rows(folder / name) for key, name in names.items() if name}
        if classes:
            self.label_names = read_names(folder / classes)
        else:
            found = {label for rows in tables.values() for row in rows for label in row.labels}
            self.label_names = tuple(sorted(found))
        if not self.label_names:
            raise ValueError(f"{folder / (classes or names[split])}: no labels")
        self.has_masks = bool(masks)
        if masks and len(self.label_names) >= images_lib.VOID:
            raise ValueError(
                f"masks hold at most {images_lib.VOID - 1} labels, here are {len(self.label_names)}"
            )

        path, rows = folder / names[split], tables[split]
        self._labels = multi_hot(rows, self.label_names, path)
        files = [_find_image(str(folder / images), row, path) for row in rows]
        self.image_paths = [os.path.join(folder, images, file) for file in files]
        self._masks = []
        if masks:
            self._masks = [
                os.path.join(folder, masks, os.path.splitext(file)[0] + ".png") for file in files
            ]
            for row, mask in zip(rows, self._masks, strict=True):
                if not os.path.isfile(mask):
                    raise ValueError(f"{path}, line {row.line}: no mask {mask}")
        self.skipped = ()
        if on_error == "skip":
            self._skip_damaged()
            if not self.image_paths:
                raise ValueError(f"{path}: none of its {len(rows)} images can be decoded")

    def __len__(self) -> int:
        return len(self.image_paths)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        image = images_lib.decode_image(self.image_paths[index])
        example = {"image": image, "labels": self._labels[index].copy()}
        if self.has_masks:
            path = self._masks[index]
            example["mask"] = images_lib.decode_mask(path)
            check_mask(example["mask"], path, image.shape[:2], len(self.label_names))
        return example

    def _skip_damaged(self) -> None:
        with futures.ThreadPoolExecutor() as pool:
            whole = list(
                tqdm.tqdm(
                    pool.map(_is_whole, self.image_paths),
                    total=len(self.image_paths),
                    desc="checking images",
                    unit="image",
                )
            )
        kept = np.flatnonzero(whole)
        paths = zip(self.image_paths, whole, strict=True)
        self.skipped = tuple(path for path, ok in paths if not ok)
        self.image_paths = [self.image_paths[i] for i in kept]
        self._masks = [self._masks[i] for i in kept] if self.has_masks else []
        self._labels = self._labels[kept]


def read_rows(path: str | os.PathLike) -> list[Row]:
    """Reads a CSV file with one row an image.

    Raises:
      ValueError: naming `path` and, where there is one, the line: no such file, another header,
        no rows, a row of another length, no image name, an image that stands there twice.
    """
    rows, lines = [], {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = tuple(cell.strip() for cell in next(reader, ()))
            if header not in HEADERS:
                wanted = " or ".join(repr(",".join(names)) for names in HEADERS)
                raise ValueError(
                    f"{path}, line 1: the header is {','.join(header)!r}, wanted {wanted}"
                )
            for cells in reader:
                line = reader.line_num
                if not cells:
                    continue
                if len(cells) != 2:
                    raise ValueError(
                        f"{path}, line {line}: {len(cells)} cells, wanted 2: {','.join(cells)!r}"
                    )
                image = cells[0].strip()
                if not image:
                    raise ValueError(f"{path}, line {line}: no image name")
                if image in lines:
                    raise ValueError(
                        f"{path}, line {line}: image {image!r} is in line {lines[image]} too"
                    )
                lines[image] = line
                rows.append(Row(line, image, tuple(cells[1].split())))
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from error
    if not rows:
        raise ValueError(f"{path}: no rows under the header")
    return rows


def read_names(path: str | os.PathLike) -> tuple[str, ...]:
    """Reads names, one a line; blank lines do not count.

    Raises:
      ValueError: naming `path`: no such file, or a name that stands there twice.
    """
    try:
        lines = pathlib.Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    first = {}
    for number, line in enumerate(lines, start=1):
        name = line.strip()
        if name in first:
            raise ValueError(f"{path}, line {number}: {name!r} is in line {first[name]} too")
        if name:
            first[name] = number
    return tuple(first)


def multi_hot(rows: list[Row], names: tuple[str, ...], path: pathlib.Path) -> np.ndarray:
    """The rows' labels as bool (n c).

    Raises:
      ValueError: naming `path` and the line, for a label that is not among the c `names`.
    """
    positions = {name: i for i, name in enumerate(names)}
    labels = np.zeros((len(rows), len(names)), bool)
    for row, hot in zip(rows, labels, strict=True):
        for label in row.labels:
            if label not in positions:
                raise ValueError(
                    f"{path}, line {row.line}: unknown label {label!r}, valid: {', '.join(names)}"
                )
            hot[positions[label]] = True
    return labels


def find_files(
    folder: str | os.PathLike, names: Sequence[str], *, what: str, advice: str
) -> list[str]:
    """Paths of the named files of one folder.

    The folder is listed once: asking for thousands of files one by one is slow on network disks.

    Args:
      folder: where they are.
      names: file names.
      what: "image", "mask", ... for the error.
      advice: how to get them, for the error.

    Raises:
      ValueError: for a folder that cannot be read, or missing files, naming the first.
    """
    try:
        present = set(os.listdir(folder))
    except OSError as error:
        raise ValueError(f"cannot read folder {folder}: {error.strerror}. {advice}") from error
    missing = [name for name in names if name not in present]
    if missing:
        raise ValueError(
            f"no {what} {os.path.join(folder, missing[0])} "
            f"({len(missing)} of {len(names)} are missing). {advice}"
        )
    return [os.path.join(folder, name) for name in names]


def turn_mask(mask: np.ndarray, image: str | os.PathLike) -> np.ndarray:
    """Turns a mask (H W) drawn over the stored pixels of an image file as `decode_image` does.

    Masks that come without EXIF data of their own lie over the pixels as they are stored.
    """
    turned = Image.fromarray(mask)
    with Image.open(image) as stored:
        turned.getexif()[_ORIENTATION] = stored.getexif().get(_ORIENTATION, 1)
    return np.array(ImageOps.exif_transpose(turned))


def check_mask(mask: np.ndarray, path: str, shape: tuple[int, int], count: int) -> None:
    """Checks a mask uint8 (H W) of `count` labels against its image's height and width.

    Raises:
      ValueError: naming `path`, for another shape, or a value that is neither 0 to `count` nor 255.
    """
    if mask.shape != shape:
        raise ValueError(
            f"mask {path} is {mask.shape[1]}x{mask.shape[0]} pixels, "
            f"its image {shape[1]}x{shape[0]} (width x height, upright)"
        )
    highest = int(np.where(mask == images_lib.VOID, 0, mask).max())
    if highest > count:
        raise ValueError(
            f"mask {path} holds the value {highest}: valid are 0, 1 to "
            f"{count} (1 + label index) and {images_lib.VOID}"
        )


def _find_image(folder: str, row: Row, path: pathlib.Path) -> str:
    """The row's file name inside `folder`, with its extension."""
    for extension in ("", *EXTENSIONS):
        if os.path.isfile(os.path.join(folder, row.image + extension)):
            return row.image + extension
    raise ValueError(
        f"{path}, line {row.line}: no image {os.path.join(folder, row.image)} "
        f"(with or without {', '.join(EXTENSIONS)})"
    )


def _is_whole(path: str) -> bool:
    try:
        images_lib.decode_image(path)
    except ValueError:
        return False
    return True
