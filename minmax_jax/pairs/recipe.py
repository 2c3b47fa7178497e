"""The experiments of the representative-class paper (section 4), by data set and network.

All networks start from torchvision's ImageNet weights and see the centred square of 224 px. The
network of all classes is trained on images with a single label (batches of 24, Adam, learning rate
1e-4, halved after 5 epochs without a lower validation loss, 200 epochs), each pair of classes until
its accuracy exceeds 0.95 or 10 epochs have passed. The similarity comes from vgg19, which must
therefore have been trained in the same workdir, unless it is the network itself.

  vgg19 resnet18 resnet50 resnet101 resnet152 mobilenet_v2   Tables 2 and 4
  vgg19-acol, resnet50-cbam                                  rows of Table 5: all classes only

The paper names neither the optimizer nor the loss.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from minmax_jax.config import pairs_config

# Files of https://download.pytorch.org/models, with ImageNet weights.
WEIGHTS = {
    "vgg19": "vgg19-dcbb9e9d.pth",
    "resnet18": "resnet18-f37072fd.pth",
    "resnet50": "resnet50-0676ba61.pth",
    "resnet101": "resnet101-63fe2227.pth",
    "resnet152": "resnet152-394f9c45.pth",
    "mobilenet_v2": "mobilenet_v2-b0353104.pth",
}
SIMILARITY = "vgg19"
# Of all classes alone: the baselines of Table 5.
_BASELINES = {
    "vgg19-acol": ("vgg19", {"head": "acol"}, ("acol_cam",)),
    "resnet50-cbam": ("resnet50", {"attention": "cbam"}, ("grad_cam",)),
}
VARIANTS = (*WEIGHTS, *_BASELINES)


@dataclasses.dataclass(frozen=True)
class _DataSet:
    title: str
    source: str
    options: Mapping[str, Any]
    validation: Mapping[str, Any]
    min_size: int


_DATA_SETS = {
    "voc12": _DataSet(
        "Pascal VOC 2012",
        "voc",
        {"root": "data", "year": "2012"},
        {"masks": "SegmentationClass"},
        min_size=4,
    ),
    "coco17": _DataSet("COCO 2017", "coco", {"root": "data"}, {"masks": True}, min_size=1),
}


def paper_config(data_set: str, variant: str | None = None) -> ConfigDict:
    """The config of one of the paper's data sets.

    Args:
      data_set: "voc12" or "coco17".
      variant: one of `VARIANTS`; None is the network that tells the similarity, and ResNet101.
        With another network, vgg19 is in the config too.

    Returns:
      The config, locked.

    Raises:
      ValueError: for an unknown data set or variant, naming the valid ones.
    """
    if data_set not in _DATA_SETS:
        raise ValueError(f"unknown data set {data_set!r}; data sets: {', '.join(_DATA_SETS)}")
    if variant is not None and variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; variants: {', '.join(VARIANTS)}")
    chosen = _DATA_SETS[data_set]
    config = pairs_config()
    config.title = f"Representative classes on {chosen.title}"
    config.data.source = chosen.source
    config.data.options = ConfigDict(chosen.options)
    config.data.validation = ConfigDict(chosen.validation)
    config.network.style = "torchvision"
    config.pairs.min_size = chosen.min_size
    config.pairs.similarity_from = SIMILARITY
    wanted = [variant] if variant else ["resnet101"]
    if wanted[0] not in _BASELINES:
        wanted = list(dict.fromkeys([SIMILARITY, *wanted]))
    config.variants = {name: _fields(name) for name in wanted}
    config.lock()
    return config


def _fields(variant: str) -> dict[str, dict[str, Any]]:
    """What a variant has of its own."""
    name, options, methods = _BASELINES.get(variant, (variant, {}, None))
    network = {"name": name, "weights": f"weights/{WEIGHTS[name]}"} | options
    if methods is None:
        return {"network": network}
    return {"network": network, "pairs": {"modes": ()}, "evaluate": {"methods": methods}}
