"""Data sets prepared by TensorFlow Datasets, read without TensorFlow: the data set `tfds`.

    data_dir/voc/2007/5.0.0/features.json                                   names of the labels
                            dataset_info.json                               splits and their sizes
                            voc-train.array_record-00000-of-00004           the examples

An example holds "image" (an encoded file) and either "labels" (as in `voc`: the classes of all
objects, difficult ones included) or "objects/label" (as in `coco`: a label an object), and maybe
"segmentation_mask" (a PNG file: 0 background, 1 + label index, 255 void), upright as the image is
after its EXIF orientation.

`builders` holds two more builders, with masks. Each is prepared by one command of TFDS:

    tfds build voc/2007 --file_format=array_record
"""

from __future__ import annotations

import io
import os
import re
from typing import Any

import numpy as np

from minmax_jax.data import folder
from minmax_jax.data import images as images_lib

# Data sets whose test images come without labels: these are not public.
UNLABELLED_TESTS = ("voc/2012", "coco/2014", "coco/2017")
# Of the package's own builders, which TFDS has to be told of.
OWN_BUILDERS = ("voc_segmentation", "coco_segmentation")

_NAME = re.compile(r"\w+(/[\w.-]+)?(:[\d.*]+)?")


class Tfds:
    """Random access to the examples of one split.

    Args:
      split: "train", "validation" or "test".
      name: the name that TFDS knows the data set by, with its config: "voc/2007", "voc/2012",
        "coco/2017", "voc_segmentation/2012", "voc_segmentation/2012_aug",
        "coco_segmentation/2017", or any other with the features above. A version may follow:
        "voc/2007:5.0.0"; without, the highest that is found counts.
      data_dir: the folder of prepared data sets; "" takes TFDS' own, `TFDS_DATA_DIR` or
        ~/tensorflow_datasets.

    Raises:
      ValueError: for a data set that is not prepared (with the command that prepares it) or has
        other features, and for a split that is missing or has no labels. An example's own error,
        naming data set, split and index, comes up when it is read.
    """

    splits = ("train", "validation", "test")
    skipped = ()

    def __init__(self, split: str, *, name: str = "voc/2007", data_dir: str = ""):
        # Imported here, as it takes a while.
        from array_record.python import array_record_data_source

        info = _load(name, data_dir)
        sizes = {key: part.num_examples for key, part in info.splits.items()}
        data_set = info.full_name.rpartition("/")[0]  # without the version
        if split == "test" and data_set in UNLABELLED_TESTS:
            raise ValueError(f"the test images of {data_set} have no public labels")
        if not sizes.get(split):
            valid = ", ".join(key for key, size in sizes.items() if size)
            raise ValueError(
                f"{info.data_dir} has no examples of the split {split!r}, only: {valid}"
            )
        self._key, label = _find_label(info.features, info.data_dir)
        self.label_names = tuple(label.names)
        self.has_masks = "segmentation_mask" in info.features
        if self.has_masks and len(self.label_names) >= images_lib.VOID:
            raise ValueError(
                f"masks hold at most {images_lib.VOID - 1} labels, {info.data_dir} has "
                f"{len(self.label_names)}"
            )
        files = info.splits[split].file_instructions
        for file in files:
            if not os.path.isfile(file.filename):
                raise ValueError(f"{info.data_dir} is incomplete: no file {file.filename}")
        # Opens each file at its first use, once a process, for all threads.
        self._records = array_record_data_source.ArrayRecordDataSource(files)
        self._name = f"{info.data_dir}, {split}"

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        if not 0 <= index < len(self):
            raise IndexError(f"{self._name}: example {index} of {len(self)}")
        name = f"{self._name} {index}"
        features = self._read(index, name)
        file = io.BytesIO(_only(features, "image", name))
        image = images_lib.decode_image(file, name=name)
        example = {"image": image, "labels": self._labels(features, name)}
        if self.has_masks:
            file = io.BytesIO(_only(features, "segmentation_mask", name))
            example["mask"] = images_lib.decode_mask(file, name=name)
            folder.check_mask(example["mask"], name, image.shape[:2], len(self.label_names))
        return example

    def _read(self, index: int, name: str) -> Any:
        """The example's features by name, as protocol buffers."""
        from tensorflow_datasets.proto import tf_example_pb2

        try:
            return tf_example_pb2.Example.FromString(self._records[index]).features.feature
        except Exception as error:  # Neither array_record nor protobuf says what it may raise.
            raise ValueError(f"cannot read {name}: {_one_line(error)}") from error

    def _labels(self, features: Any, name: str) -> np.ndarray:
        labels = np.zeros(len(self.label_names), bool)
        found = np.array(features[self._key].int64_list.value, np.int64)
        if ((found < 0) | (found >= len(labels))).any():
            raise ValueError(
                f"{name}: {self._key} {found.tolist()}, valid are 0 to {len(labels) - 1}"
            )
        labels[found] = True
        return labels


def _load(name: str, data_dir: str) -> Any:
    """What TFDS knows of a prepared data set, from its files alone: no builder's code is needed."""
    from tensorflow_datasets import core
    from tensorflow_datasets.core import read_only_builder
    from tensorflow_datasets.core.utils import file_utils

    if not _NAME.fullmatch(name):
        raise ValueError(f"wrong name of a data set: {name!r}, wanted NAME/CONFIG, maybe :VERSION")
    folders = [str(path) for path in file_utils.list_data_dirs(os.path.expanduser(data_dir))]
    wanted = core.FileFormat.ARRAY_RECORD
    try:
        info = read_only_builder.builder_from_files(name, data_dir=folders).info
        formats = info.available_file_formats()
        if wanted in formats:
            info.set_file_format(wanted, override=True, override_if_initialized=True)
            return info
    except core.DatasetNotFoundError as error:
        raise ValueError(
            f"no prepared data set {name!r} in {' or '.join(folders)}. "
            f"Prepare it with: {_command(name, folders[0])}"
        ) from error
    except Exception as error:  # Damaged files of the data set raise all sorts.
        raise ValueError(
            f"cannot read the data set {name!r} in {' or '.join(folders)}: {_one_line(error)}"
        ) from error
    raise ValueError(
        f"{info.data_dir} holds {', '.join(sorted(f.value for f in formats))}, wanted "
        f"{wanted.value}: tfds convert_format --dataset_version_dir={info.data_dir} "
        f"--out_file_format={wanted.value}"
    )


def _command(name: str, data_dir: str) -> str:
    own = re.split("[/:]", name)[0] in OWN_BUILDERS
    more = " --imports=minmax_jax.data.builders --manual_dir=FOLDER" if own else ""
    return f"tfds build {name} --file_format=array_record --data_dir={data_dir}{more}"


def _find_label(features: Any, data_dir: str) -> tuple[str, Any]:
    """Key of the labels in an example, and their `ClassLabel`."""
    from tensorflow_datasets.core import features as kinds

    inner = {key: getattr(features[key], "feature", None) for key in features}
    objects = inner.get("objects")
    found = {"labels": inner.get("labels")}
    if isinstance(objects, kinds.FeaturesDict) and "label" in objects:
        found["objects/label"] = objects["label"]
    for key, feature in found.items():
        if "image" in features and isinstance(feature, kinds.ClassLabel):
            return key, feature
    raise ValueError(
        f"{data_dir} has the features {', '.join(sorted(features))}; "
        "wanted are image, and class labels in labels or objects/label"
    )


def _only(features: Any, key: str, name: str) -> bytes:
    values = features[key].bytes_list.value
    if len(values) != 1:
        raise ValueError(f"{name}: {len(values)} values of {key!r}, wanted 1")
    return values[0]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
