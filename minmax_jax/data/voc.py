"""Pascal VOC 2007 and 2012 in their official folders: the data set `voc`.

    root/VOCdevkit/VOC2007/ImageSets/Main/train.txt           names of images, one a line
                           ImageSets/Segmentation/train.txt   names of those with masks
                           JPEGImages/000012.jpg
                           Annotations/000012.xml             objects: name and box
                           SegmentationClass/000032.png       0 background, 1 + class, 255 void

The lists in `Main` hold 2,501 train, 2,510 validation and 4,952 test images of 2007, 5,717 train
and 5,823 validation images of 2012; those in `Segmentation` 1,464 and 1,449 of 2012. The objects
and masks of the test images of 2012 are not public.
"""

from __future__ import annotations

import os
import pathlib
from concurrent import futures
from xml.etree import ElementTree

import numpy as np

from minmax_jax.data import folder
from minmax_jax.data import images as images_lib

LABELS = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
LISTS = {"train": "train", "validation": "val", "test": "test"}

_SERVER = "http://host.robots.ox.ac.uk/pascal/VOC"
ARCHIVES = {
    "2007": (
        f"{_SERVER}/voc2007/VOCtrainval_06-Nov-2007.tar",
        f"{_SERVER}/voc2007/VOCtest_06-Nov-2007.tar",
    ),
    "2012": (f"{_SERVER}/voc2012/VOCtrainval_11-May-2012.tar",),
}


class Voc:
    """Random access to the images of one split.

    Without masks, an image's labels are the names of the objects in its XML file, the difficult
    ones included. With masks, they are the classes that have pixels in its mask, and the XML files
    are not needed: other masks of the same photos may come without.

    Masks lie over the photo's stored pixels: where its EXIF data turn the photo, they are turned
    with it.

    Args:
      split: "train", "validation" or "test".
      root: the folder that holds VOCdevkit, or VOCdevkit, or the folder of the year in it.
      year: "2007" or "2012".
      image_set: another list than the split's "train", "val" or "test", such as "trainval". It
        holds for every split that it is given to.
      masks: the folder of index masks, "SegmentationClass" or that of an augmented set; "" if none
        are wanted. The list is then that in `ImageSets/Segmentation`.

    Attributes:
      image_paths: the path of each image.

    Raises:
      ValueError: naming the file that is missing or wrong, and what is to be unpacked where.
    """

    splits = tuple(LISTS)
    label_names = LABELS
    skipped = ()

    def __init__(
        self,
        split: str,
        *,
        root: str = ".",
        year: str = "2007",
        image_set: str = "",
        masks: str = "",
    ):
        if year not in ARCHIVES:
            raise ValueError(f"unknown year {year!r}, valid: {', '.join(map(repr, ARCHIVES))}")
        image_set = image_set or LISTS[split]
        if (year, image_set) == ("2012", "test"):
            raise ValueError("the test images of VOC 2012 have no public annotations")
        home = _find_home(pathlib.Path(root).expanduser(), year)
        advice = _advice(home.parent, year)
        kind = "Segmentation" if masks else "Main"
        names = _read_image_set(home / "ImageSets" / kind / f"{image_set}.txt", advice)

        self.has_masks = bool(masks)
        self.image_paths = folder.find_files(
            home / "JPEGImages", [f"{name}.jpg" for name in names], what="image", advice=advice
        )
        if masks:
            self._masks = folder.find_files(
                home / masks, [f"{name}.png" for name in names], what="mask", advice=advice
            )
        else:
            files = folder.find_files(
                home / "Annotations",
                [f"{name}.xml" for name in names],
                what="annotation",
                advice=advice,
            )
            with futures.ThreadPoolExecutor() as pool:
                self._labels = np.stack(list(pool.map(read_labels, files)))

    def __len__(self) -> int:
        return len(self.image_paths)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        path = self.image_paths[index]
        image = images_lib.decode_image(path)
        if not self.has_masks:
            return {"image": image, "labels": self._labels[index].copy()}
        mask = folder.turn_mask(images_lib.decode_mask(self._masks[index]), path)
        folder.check_mask(mask, self._masks[index], image.shape[:2], len(LABELS))
        pixels = np.bincount(mask.ravel(), minlength=1 + len(LABELS))
        return {"image": image, "labels": pixels[1 : 1 + len(LABELS)] > 0, "mask": mask}


def _find_home(root: pathlib.Path, year: str) -> pathlib.Path:
    """The folder of the year, where `root` is that folder or one above it."""
    root = pathlib.Path(os.path.abspath(root))
    name = f"VOC{year}"
    for home in (root / "VOCdevkit" / name, root / name, root):
        if home.name == name and home.is_dir():
            return home
    raise ValueError(f"no folder {root / 'VOCdevkit' / name}. {_advice(root / 'VOCdevkit', year)}")


def _advice(devkit: pathlib.Path, year: str) -> str:
    archives = " and ".join(ARCHIVES[year])
    return f"The official files are in {archives}: unpack such that {devkit / f'VOC{year}'} exists"


def _read_image_set(path: pathlib.Path, advice: str) -> tuple[str, ...]:
    if not path.is_file():
        raise ValueError(f"no list of images {path}. {advice}")
    names = folder.read_names(path)
    if not names:
        raise ValueError(f"{path}: no names of images")
    for name in names:
        if len(name.split()) > 1:
            raise ValueError(f"{path}: wanted one image name a line, found {name!r}")
    return names


class _TreeBuilder(ElementTree.TreeBuilder):
    """Refuses what could declare entities that grow without end or name other files."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("it declares a document type, which annotations do not have")


def read_labels(path: str | os.PathLike) -> np.ndarray:
    """Which classes the objects of an XML file have, bool (20,).

    Raises:
      ValueError: naming `path`: not to be read, no XML, a document type declaration, another root
        element, or an unknown object.
    """
    parser = ElementTree.XMLParser(target=_TreeBuilder())
    try:
        root = ElementTree.parse(path, parser).getroot()
    except (OSError, ElementTree.ParseError, LookupError, ValueError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    if root.tag != "annotation":
        raise ValueError(f"{path}: the root is <{root.tag}>, wanted <annotation>")
    labels = np.zeros(len(LABELS), bool)
    for item in root.iterfind("object"):
        name = item.findtext("name", "").strip()
        if name not in LABELS:
            raise ValueError(f"{path}: unknown object {name!r}, valid: {', '.join(LABELS)}")
        labels[LABELS.index(name)] = True
    return labels
