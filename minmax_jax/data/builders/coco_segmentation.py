"""Builder of the masks of COCO 2017, drawn from its instances."""

from __future__ import annotations

import pathlib

import tensorflow_datasets as tfds

from minmax_jax.data import coco, pipeline
from minmax_jax.data.builders import from_folder


class CocoSegmentation(from_folder.FromFolder):
    """Photos of COCO 2017 with masks of 80 classes."""

    DESCRIPTION = "COCO 2017 with masks: 0 background, 1 + label index, 255 void."
    HOMEPAGE = "https://cocodataset.org"
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(
            name="2017",
            description="Instances drawn into one mask, small ones on top, crowds as void.",
        ),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
    Unpack train2017.zip and val2017.zip of http://images.cocodataset.org/zips and
    http://images.cocodataset.org/annotations/annotations_trainval2017.zip there. Drawing needs
    pycocotools.
    """

    def list_paths(self, root: pathlib.Path) -> dict[str, pathlib.Path]:
        folder = root / "annotations"
        return {split: folder / f"instances_{part}.json" for split, part in coco.PARTS.items()}

    def make_source(self, split: str, root: str) -> pipeline.Source:
        return coco.Coco(split, root=root, masks=True)
