"""What the builders share: features and examples made of a source that has masks."""

from __future__ import annotations

import abc
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from minmax_jax.data import pipeline

Examples = Iterator[tuple[int, dict[str, Any]]]


class FromFolder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Builder that reads a folder by the package's own source, in the source's order."""

    VERSION = tfds.core.Version("1.0.0")
    DESCRIPTION: str
    HOMEPAGE: str

    @abc.abstractmethod
    def list_paths(self, root: pathlib.Path) -> dict[str, pathlib.Path]:
        """The file that lists the examples of each split."""

    @abc.abstractmethod
    def make_source(self, split: str, root: str) -> pipeline.Source:
        """A source that has masks and `image_paths`."""

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(encoding_format="jpeg"),
                    "labels": tfds.features.Sequence(tfds.features.ClassLabel()),
                    "segmentation_mask": tfds.features.Image(
                        shape=(None, None, 1), encoding_format="png"
                    ),
                }
            ),
            disable_shuffling=True,
            description=self.DESCRIPTION,
            homepage=self.HOMEPAGE,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Examples]:
        """Of the splits, those whose lists are there."""
        root = dl_manager.manual_dir
        lists = self.list_paths(root)
        # Without any list, the source of the first says what is missing.
        splits = [split for split, path in lists.items() if path.is_file()] or list(lists)[:1]
        sources = {split: self.make_source(split, str(root)) for split in splits}
        for source in sources.values():
            self.info.features["labels"].feature.names = list(source.label_names)
        return {split: self._generate_examples(source) for split, source in sources.items()}

    def _generate_examples(self, source: pipeline.Source) -> Examples:
        for index in range(len(source)):
            example = source[index]
            features = {
                "image": source.image_paths[index],
                "labels": np.flatnonzero(example["labels"]).tolist(),
                # Not as an array: those TFDS encodes by TensorFlow.
                "segmentation_mask": Image.fromarray(example["mask"]),
            }
            yield index, features
