"""Real photos of VOC 2012 and COCO 2017 in their official folders, trained on and explained."""

from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from minmax_jax.config import default_config
from minmax_jax.run import run

pytestmark = pytest.mark.slow

WEIGHTS = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224.h5"


def train_and_score(real_data, workdir, source, options, validation):
    """The head alone, on few photos, which are validated on as well."""
    config = default_config()
    config.network.name = "mobilenet_v2"
    config.network.weights = str(real_data / "weights" / WEIGHTS)
    config.data.source = source
    config.data.options = options
    config.data.validation = validation
    config.train.batch_size = 16
    config.train.stages = [{"epochs": 12, "learning_rate": 0.3, "unfrozen": 0.0}]
    config.train.cache_features = True
    config.evaluate.methods = ("cam", "minmax_cam")
    config.evaluate.batch_size = 16
    config.evaluate.present = "annotated"
    config.report.photos = 2
    folder = run(config, workdir) / "default"
    with open(folder / "metrics.csv", newline="") as file:
        losses = [float(row["validation_loss"]) for row in csv.DictReader(file)]
    classification = json.loads((folder / "classification.json").read_text())
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert losses[-1] < losses[0] / 2 and classification["map"]["macro"] > 0.9
    assert (workdir / "report" / "index.html").exists()
    return classification["label_names"], evaluation["methods"]


def test_voc_with_masks(real_data, tmp_path):
    names, methods = train_and_score(
        real_data,
        tmp_path,
        "voc",
        {"root": str(real_data), "year": "2012", "masks": "SegmentationClass"},
        {"image_set": "train"},
    )
    official = real_data / "VOCdevkit" / "VOC2012"
    listed = (official / "ImageSets" / "Segmentation" / "train.txt").read_text().split()
    masks = [np.array(Image.open(official / "SegmentationClass" / f"{n}.png")) for n in listed]
    objects = ElementTree.parse(official / "Annotations" / f"{listed[0]}.xml").iter("object")
    drawn = {names[value - 1] for value in np.unique(masks[0]) if value not in (0, 255)}
    assert drawn <= {element.findtext("name") for element in objects}
    counts = [sum((mask == 1 + label).any() for mask in masks) for label in range(20)]
    assert methods["cam"]["pairs"] == counts
    # More of the map is on the object than of the image.
    share = np.mean([(mask == v).mean() for mask in masks for v in np.unique(mask)[1:] if v < 255])
    for name in ("cam", "minmax_cam"):
        assert methods[name]["micro"]["energy_on_object"] > share + 0.05


def test_coco_with_masks(real_data, tmp_path):
    official = real_data / "coco"
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        (root / split).symlink_to(official / "train2017")
        instances = official / "annotations" / "instances_train2017.json"
        (root / "annotations" / f"instances_{split}.json").symlink_to(instances)
    names, methods = train_and_score(
        real_data, tmp_path / "run", "coco", {"root": str(root), "masks": True}, {}
    )
    annotated = json.loads(instances.read_text())
    labels = {entry["id"]: entry["name"] for entry in annotated["categories"]}
    pairs = {
        (entry["image_id"], labels[entry["category_id"]]) for entry in annotated["annotations"]
    }
    assert methods["cam"]["pairs"] == [sum(label == name for _, label in pairs) for name in names]
    area = {entry["id"]: entry["height"] * entry["width"] for entry in annotated["images"]}
    shares = [
        sum(
            entry["area"]
            for entry in annotated["annotations"]
            if (entry["image_id"], labels[entry["category_id"]]) == pair
        )
        / area[pair[0]]
        for pair in pairs
    ]
    for name in ("cam", "minmax_cam"):
        assert methods[name]["micro"]["energy_on_object"] > np.mean(shares) + 0.02
