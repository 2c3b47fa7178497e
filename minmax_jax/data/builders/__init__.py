"""Builders for TensorFlow Datasets of the two sets of masks that it does not ship.

    tfds build voc_segmentation/2012 --imports=minmax_jax.data.builders \
        --manual_dir=FOLDER --file_format=array_record

They turn the official folders into files that `tfds.Tfds` reads. Examples have "image" (the file as
it is), "labels" and "segmentation_mask" (0 background, 1 + label index, 255 void; upright as the
image is after its EXIF orientation), in the order of the folder's source. Of the splits train and
validation those are built whose lists are there.

Importing this package registers the builders. They do not need TensorFlow themselves, only the
command `tfds` does.
"""

from minmax_jax.data.builders.coco_segmentation import CocoSegmentation
from minmax_jax.data.builders.voc_segmentation import VocSegmentation

__all__ = ["CocoSegmentation", "VocSegmentation"]
