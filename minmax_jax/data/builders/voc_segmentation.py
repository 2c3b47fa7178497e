"""Builder of the masks of Pascal VOC 2012."""

from __future__ import annotations

import pathlib

import tensorflow_datasets as tfds

from minmax_jax.data import pipeline, voc
from minmax_jax.data.builders import from_folder

FOLDERS = {"2012": "SegmentationClass", "2012_aug": "SegmentationClassAug"}
LISTS = {
    "2012": {"train": "train", "validation": "val"},
    "2012_aug": {"train": "trainaug", "validation": "val"},
}


class VocSegmentation(from_folder.FromFolder):
    """Photos of VOC 2012 with masks of 20 classes."""

    DESCRIPTION = "Pascal VOC 2012 with masks: 0 background, 1 + label index, 255 void."
    HOMEPAGE = "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/"
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(
            name="2012", description="The official masks: 1,464 for training, 1,449 for validation."
        ),
        tfds.core.BuilderConfig(
            name="2012_aug",
            description="More photos for training, with masks of the Semantic Boundaries Dataset.",
        ),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
    Unpack http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar there, such
    that VOCdevkit/VOC2012 exists. 2012_aug reads VOC2012/SegmentationClassAug instead of
    VOC2012/SegmentationClass, and for training the list ImageSets/Segmentation/trainaug.txt.
    """

    def list_paths(self, root: pathlib.Path) -> dict[str, pathlib.Path]:
        folder = root / "VOCdevkit/VOC2012/ImageSets/Segmentation"
        names = LISTS[self.builder_config.name]
        return {split: folder / f"{name}.txt" for split, name in names.items()}

    def make_source(self, split: str, root: str) -> pipeline.Source:
        config = self.builder_config.name
        image_set = LISTS[config][split]
        return voc.Voc(split, root=root, year="2012", image_set=image_set, masks=FOLDERS[config])
