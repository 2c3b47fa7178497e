"""The experiments of the MinMax-CAM paper (section 4) as configs, by data set and variant.

A variant is NETWORK[-kur][-official][-tfds]:

  NETWORK    resnet101 (Keras' ResNet101V2, as the author trained it) at 512 px; on VOC 2007 also
             vgg16 (pooled globally) at 224 px and efficientnet_b6 at 512 px. Planet's images stay
             at their 256 px.
  -kur       the regularised head (Eq. 15) with alpha 1.
  -official  what the author's notebooks do in place of what the paper says; see below.
  -tfds      data prepared by TensorFlow Datasets in place of the official folders.

All are trained as section 4.2 says: from ImageNet weights, the head alone for 30 epochs (learning
rate 0.1), then with the upper 60 % of the layers for 80 (0.01); after 3 epochs without a lower
validation loss the rate is halved and the best weights are restored, after 20 the stage ends. The
paper does not say the size of a batch; the notebooks' were 16 to 32.

  paper      shortest side to size, centred crop; no augmentation, no dropout
  -official  longest side to size, zero padding (letterbox); flips both ways, random contrast and
             saturation; dropout of a half before the head on VOC 2007

The published tables were made with the notebooks' letterbox.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from minmax_jax.config import default_config

METHODS = ("cam", "grad_cam_plus_plus", "score_cam", "minmax_cam", "d_minmax_cam")


@dataclasses.dataclass(frozen=True)
class PaperNetwork:
    """A network of the paper.

    Attributes:
      name: in `minmax_jax.models.NETWORKS`.
      image_size: in pixels.
      weights: address of Keras' ImageNet weights without a head; its last part is the file's name.
    """

    name: str
    image_size: int
    weights: str


_KERAS = "https://storage.googleapis.com"
NETWORKS = {
    "resnet101": PaperNetwork(
        "resnet101v2",
        512,
        f"{_KERAS}/tensorflow/keras-applications/resnet/"
        "resnet101v2_weights_tf_dim_ordering_tf_kernels_notop.h5",
    ),
    "vgg16": PaperNetwork(
        "vgg16",
        224,
        f"{_KERAS}/tensorflow/keras-applications/vgg16/"
        "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
    ),
    "efficientnet_b6": PaperNetwork(
        "efficientnet_b6", 512, f"{_KERAS}/keras-applications/efficientnetb6_notop.h5"
    ),
}


@dataclasses.dataclass(frozen=True)
class _DataSet:
    title: str
    source: str
    options: Mapping[str, Any]
    tfds: str = ""  # its name there; "" if it is not
    networks: tuple[str, ...] = ("resnet101",)
    image_size: int = 0  # 0 for that of the network
    dropout: float = 0.0  # of the notebooks


_DATA_SETS = {
    "voc07": _DataSet(
        "Pascal VOC 2007",
        "voc",
        {"root": "data", "year": "2007"},
        tfds="voc/2007",
        networks=("resnet101", "vgg16", "efficientnet_b6"),
        dropout=0.5,
    ),
    "voc12": _DataSet("Pascal VOC 2012", "voc", {"root": "data", "year": "2012"}, tfds="voc/2012"),
    "coco17": _DataSet("COCO 2017", "coco", {"root": "data"}, tfds="coco/2017"),
    "planet": _DataSet(
        "Planet: Amazon from Space", "planet", {"root": "data/planet"}, image_size=256
    ),
}


def paper_config(data_set: str, variant: str | None = None) -> ConfigDict:
    """The config of one of the paper's data sets.

    Args:
      data_set: "voc07", "voc12", "coco17" or "planet".
      variant: as above. None is every network with the paper's settings, plain and regularised;
        the config's fields are then those of resnet101, and `variants` holds where others differ.

    Returns:
      The config, locked.

    Raises:
      ValueError: for an unknown data set or variant, naming the valid ones.
    """
    if data_set not in _DATA_SETS:
        raise ValueError(f"unknown data set {data_set!r}; data sets: {', '.join(_DATA_SETS)}")
    chosen = _DATA_SETS[data_set]
    modifiers = ("kur", "official", *(["tfds"] if chosen.tfds else []))
    valid = {
        "-".join([network, *itertools.compress(modifiers, wanted)])
        for network in chosen.networks
        for wanted in itertools.product((False, True), repeat=len(modifiers))
    }
    if variant is not None and variant not in valid:
        raise ValueError(
            f"unknown variant {variant!r} of {data_set}; variants: {', '.join(chosen.networks)}, "
            f"each with any of {', '.join(f'-{modifier}' for modifier in modifiers)} after it, in "
            "this order"
        )
    names = [variant] if variant else [n + m for n in chosen.networks for m in ("", "-kur")]
    fields = {name: _fields(chosen, *name.split("-")) for name in names}
    first = fields[names[0]]
    config = default_config()
    config.title = f"MinMax-CAM on {chosen.title}"
    config.update(first)
    config.variants = {name: _changes(first, fields[name]) for name in names}
    config.lock()
    return config


def _fields(data_set: _DataSet, network: str, *modifiers: str) -> dict[str, dict[str, Any]]:
    """Fields of one variant, by section, in which it may differ from `default_config`."""
    official = "official" in modifiers
    chosen = NETWORKS[network]
    image_size = data_set.image_size or chosen.image_size
    batch = 16 if image_size == 512 else 32
    source, options = data_set.source, dict(data_set.options)
    if "tfds" in modifiers:
        source, options = "tfds", {"name": data_set.tfds, "data_dir": ""}
    return {
        "network": {
            "name": chosen.name,
            "head": "kur" if "kur" in modifiers else "dense",
            "dropout": data_set.dropout if official else 0.0,
            "weights": f"weights/{chosen.weights.rpartition('/')[2]}",
            "style": "keras",
        },
        "data": {
            "source": source,
            "options": options,
            "image_size": image_size,
            "resize": "letterbox" if official else "crop",
        },
        "augment": dict.fromkeys(
            ("horizontal_flip", "vertical_flip", "contrast", "saturation"), official
        ),
        "train": {
            "batch_size": batch,
            "cache_features": not official,  # Without augmentation all epochs see the same images.
        },
        "evaluate": {
            "methods": METHODS,
            "batch_size": batch,
        },
    }


def _changes(first: dict[str, dict[str, Any]], other: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Sections and fields of `other` that differ from `first`."""
    changes = {
        section: {key: value for key, value in other[section].items() if value != fields[key]}
        for section, fields in first.items()
    }
    return {section: fields for section, fields in changes.items() if fields}
