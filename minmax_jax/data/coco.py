"""COCO 2017 in its official folders: the data set `coco`.

    root/annotations/instances_train2017.json   118,287 images, 80 categories, polygons
                     instances_val2017.json     5,000 images
    root/train2017/000000000009.jpg
    root/val2017/000000000139.jpg

The annotations of the test images are not public.
"""

from __future__ import annotations

import json
import pathlib
import pickle
from typing import Any

import numpy as np
from PIL import Image

from minmax_jax.data import folder
from minmax_jax.data import images as images_lib

PARTS = {"train": "train2017", "validation": "val2017"}

_SERVER = "http://images.cocodataset.org"
_UNUSED = ("bbox", "license", "coco_url", "flickr_url", "date_captured")


class Coco:
    """Random access to the images of one split, in ascending order of their ids.

    An image's labels are the categories of its annotations, crowds included; images without
    annotations have none. The label names are sorted by the category's id.

    Masks lie over the photo's stored pixels: where its EXIF data turn the photo, they are turned
    with it. They need pycocotools, and memory for all polygons: about 0.4 GB for train2017.

    Args:
      split: "train" or "validation".
      root: the folder that holds `annotations` and the folders of images.
      masks: whether to draw index masks. The smaller of two objects lies on top (of equal areas,
        that with the higher id), and crowds are void.

    Attributes:
      image_paths: the path of each image.

    Raises:
      ValueError: naming the file that is missing and what is to be unpacked where, or the file and
        the entry that is wrong. A wrong segmentation raises when its image is read.
    """

    splits = tuple(PARTS)
    skipped = ()

    def __init__(self, split: str, *, root: str = ".", masks: bool = False):
        if masks:
            _import_pycocotools()
        home, part = pathlib.Path(root).expanduser(), PARTS[split]
        self._path = home / "annotations" / f"instances_{part}.json"
        content = _read_instances(self._path, home, keep_segmentation=masks)

        categories = _index(content, "categories", {"id": int, "name": str}, self._path)
        self.label_names = tuple(name for (name,) in categories.values())
        if len(set(self.label_names)) < len(self.label_names):
            raise ValueError(f"{self._path}: two categories have the same name")
        if masks and len(self.label_names) >= images_lib.VOID:
            raise ValueError(
                f"masks hold at most {images_lib.VOID - 1} labels, {self._path} has "
                f"{len(self.label_names)}"
            )
        types = {"id": int, "file_name": str}
        if masks:
            types |= {"height": int, "width": int}
        images = _index(content, "images", types, self._path)
        self.image_paths = folder.find_files(
            home / part,
            [name for name, *_ in images.values()],
            what="image",
            advice=f"Unpack {_SERVER}/zips/{part}.zip in {home}",
        )

        types = {"id": int, "image_id": int, "category_id": int}
        if masks:
            types |= {"area": (int, float), "iscrowd": int, "segmentation": bytes}
        annotations = _index(content, "annotations", types, self._path)
        rows, columns = _positions(images), _positions(categories)
        self._labels = np.zeros((len(images), len(categories)), bool)
        for annotation, (image, category, *_) in annotations.items():
            for what, id_, valid in (("image", image, rows), ("category", category, columns)):
                if id_ not in valid:
                    raise ValueError(
                        f"{self._path}: annotation {annotation} has the unknown {what} {id_}"
                    )
            self._labels[rows[image], columns[category]] = True

        self.has_masks = masks
        if masks:
            self._sizes = np.array([size for _, *size in images.values()], np.int64)
            self._keep_segmentations(annotations, list(images), columns)

    def _keep_segmentations(
        self, annotations: dict[int, tuple], images: list[int], columns: dict[int, int]
    ) -> None:
        """Lays all images' annotations one after the other, each image's in the order of drawing.

        Args:
          annotations: by id: image, category, area, crowd, segmentation.
          images: their ids, ascending.
          columns: the label index of each category.
        """
        order = sorted(annotations, key=lambda id_: (annotations[id_][0], -annotations[id_][2]))
        image, category, _, crowd, self._segmentations = zip(
            *(annotations[id_] for id_ in order), strict=True
        )
        self._ids = np.array(order, np.int64)
        values = np.array([1 + columns[id_] for id_ in category], np.uint8)
        self._values = np.where(crowd, np.uint8(images_lib.VOID), values)
        self._starts = np.append(np.searchsorted(image, images), len(order))

    def __len__(self) -> int:
        return len(self.image_paths)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        path = self.image_paths[index]
        image = images_lib.decode_image(path)
        example = {"image": image, "labels": self._labels[index].copy()}
        if self.has_masks:
            # A negative index counts from the end.
            example["mask"] = folder.turn_mask(self._draw(range(len(self))[index]), path)
        return example

    def _draw(self, index: int) -> np.ndarray:
        """The mask uint8 (H W) over the stored pixels."""
        path, (height, width) = self.image_paths[index], self._sizes[index].tolist()
        with Image.open(path) as photo:
            if photo.size != (width, height):
                raise ValueError(
                    f"{path} is stored as {photo.width}x{photo.height} pixels, "
                    f"{self._path} says {width}x{height} (width x height)"
                )
        mask = np.zeros((height, width), np.uint8)
        for i in range(self._starts[index], self._starts[index + 1]):
            try:
                inside = rasterize(pickle.loads(self._segmentations[i]), height, width)
            except ValueError as error:
                raise ValueError(f"{self._path}: annotation {self._ids[i]}: {error}") from error
            mask[inside] = self._values[i]
        return mask


def rasterize(segmentation: Any, height: int, width: int) -> np.ndarray:
    """Draws one segmentation as COCO writes it.

    Args:
      segmentation: polygons, each a list `[x0, y0, x1, y1, ...]`, or a run-length encoding
        `{"size": [height, width], "counts": counts}`, its counts a list or a compressed string.
      height: of the image in pixels.
      width: likewise.

    Returns:
      What it covers, bool (H W). Polygons of fewer than three points cover nothing.

    Raises:
      ValueError: for anything else, a size that is not the image's, points far outside it, or
        counts that do not add up to it.
    """
    if isinstance(segmentation, dict):
        size, counts = segmentation.get("size"), segmentation.get("counts")
        if size != [height, width]:
            raise ValueError(f"its size is {size}, that of its image {[height, width]}")
        if isinstance(counts, str):
            counts = _decompress(counts.encode())
        runs = [_check_counts(counts, height * width)]
    else:
        polygons = _polygons(segmentation, height, width)
        from_polygons = _import_pycocotools().frPyObjects
        encoded = from_polygons(polygons, height, width) if polygons else []
        runs = [_decompress(each["counts"]) for each in encoded]
    inside = np.zeros(height * width, bool)
    for counts in runs:
        inside |= np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return inside.reshape(width, height).T  # The runs go down the columns.


def _check_counts(counts: Any, pixels: int) -> list[int]:
    if not isinstance(counts, list):
        raise ValueError("its counts are neither a list nor a string")
    if not all(isinstance(count, int) and count >= 0 for count in counts):
        raise ValueError("its counts are not integers >= 0")
    if sum(counts) != pixels:
        raise ValueError(f"its counts add up to {sum(counts)}, not {pixels}")
    return counts


def _decompress(text: bytes) -> list[int]:
    """The counts of a compressed run-length encoding.

    A character less 48 holds five bits, the lowest first, and 32 if more follow; 16 in the last is
    the sign. From the fourth on, a count is the difference to the last but one.
    """
    # Not `pycocotools.mask.decode`: that warns under numpy 2, and does not notice missing counts.
    counts, count, shift = [], 0, 0
    for code in text:
        bits = code - 48
        if not 0 <= bits < 64:
            raise ValueError(f"its counts hold the character {chr(code)!r}")
        count |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                count -= 1 << shift
            counts.append(count + counts[-2] if len(counts) > 2 else count)
            count, shift = 0, 0
    if shift:
        raise ValueError("its counts end within a number")
    return counts


def _polygons(segmentation: Any, height: int, width: int) -> list[list[float]]:
    """Those with an area."""
    try:
        arrays = [np.array(polygon, np.float64) for polygon in segmentation]
    except (TypeError, ValueError):
        arrays = None
    if arrays is None or any(a.ndim != 1 or a.size % 2 for a in arrays):
        raise ValueError("its segmentation is no list of polygons [x0, y0, x1, y1, ...]")
    farthest = 2 * max(height, width)
    if not all((np.abs(a) <= farthest).all() for a in arrays):
        raise ValueError("its polygons reach far out of the image")
    return [a.tolist() for a in arrays if a.size >= 6]


def _import_pycocotools() -> Any:
    try:
        from pycocotools import mask
    except ImportError as error:
        raise ValueError("masks of COCO need pycocotools: pip install pycocotools") from error
    return mask


def _read_instances(path: pathlib.Path, home: pathlib.Path, keep_segmentation: bool) -> dict:
    """The file's content without what is not needed; segmentations are pickled here."""

    def shrink(item: dict) -> dict:
        for key in _UNUSED:
            item.pop(key, None)
        if "segmentation" in item:
            # Bytes at once: as Python's numbers, all segmentations take gigabytes.
            segmentation = item.pop("segmentation")
            if keep_segmentation:
                item["segmentation"] = pickle.dumps(segmentation)
        return item

    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file, object_hook=shrink)
    except FileNotFoundError as error:
        raise ValueError(
            f"no file {path}. Unpack {_SERVER}/annotations/annotations_trainval2017.zip in {home}"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object")
    return content


def _index(
    content: dict, key: str, types: dict[str, type | tuple[type, ...]], path: pathlib.Path
) -> dict[int, tuple]:
    """The entries of a list by their ids, ascending: tuples of the fields other than "id"."""
    entries = content.get(key)
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path}: no list {key!r}, or an empty one")
    found = {}
    for i, entry in enumerate(entries):
        for name, wanted in types.items():
            if not isinstance(entry, dict) or not isinstance(entry.get(name), wanted):
                raise ValueError(f"{path}: {key}[{i}] has no valid {name!r}")
        id_, *fields = (entry[name] for name in types)
        if id_ in found:
            raise ValueError(f"{path}: {key}[{i}] has the same id as another, {id_}")
        found[id_] = tuple(fields)
    return dict(sorted(found.items()))


def _positions(found: dict[int, tuple]) -> dict[int, int]:
    return {id_: i for i, id_ in enumerate(found)}
