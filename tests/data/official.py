"""Data sets in their official layouts, made of noise: what the experiments are tried on.

Image i of a split bears the labels i and i + 1 (of c, round and round).
"""

from __future__ import annotations

import json
import pathlib

import numpy as np
from PIL import Image

from minmax_jax.data import voc


def positives(number: int, num_labels: int) -> list[tuple[int, int]]:
    """The two labels of each image."""
    return [(i % num_labels, (i + 1) % num_labels) for i in range(number)]


def write_voc(root: pathlib.Path, *, year: str, train: int, validation: int, test: int = 0) -> None:
    """`root/VOCdevkit/VOC{year}` with so many images of each split."""
    home = root / f"VOCdevkit/VOC{year}"
    for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (home / name).mkdir(parents=True)
    for split, number in (("train", train), ("val", validation), ("test", test)):
        names = [f"{split}_{i}" for i in range(number)]
        (home / f"ImageSets/Main/{split}.txt").write_text("\n".join(names))
        for i, labels in enumerate(positives(number, len(voc.LABELS))):
            _write_image(home / f"JPEGImages/{names[i]}.jpg", seed=i)
            objects = (f"<object><name>{voc.LABELS[label]}</name></object>" for label in labels)
            (home / f"Annotations/{names[i]}.xml").write_text(
                f"<annotation>{''.join(objects)}</annotation>"
            )


def write_coco(root: pathlib.Path, *, train: int, validation: int, num_labels: int = 80) -> None:
    """`root/annotations`, `root/train2017` and `root/val2017`."""
    (root / "annotations").mkdir(parents=True)
    for part, number in (("train2017", train), ("val2017", validation)):
        (root / part).mkdir()
        names = [f"{i:012}.jpg" for i in range(number)]
        for i, name in enumerate(names):
            _write_image(root / part / name, seed=i)
        pairs = [(i, k) for i, labels in enumerate(positives(number, num_labels)) for k in labels]
        content = {
            "images": [{"id": i, "file_name": name} for i, name in enumerate(names)],
            "categories": [{"id": k + 1, "name": f"thing {k:02}"} for k in range(num_labels)],
            "annotations": [
                {"id": number, "image_id": i, "category_id": k + 1}
                for number, (i, k) in enumerate(pairs)
            ],
        }
        (root / f"annotations/instances_{part}.json").write_text(json.dumps(content))


def write_planet(root: pathlib.Path, *, number: int, num_labels: int = 17) -> None:
    """`root/train_v2.csv` and `root/train-jpg`; the first 30 % are for validation.

    The last image bears all labels: they are those of the table.
    """
    (root / "train-jpg").mkdir(parents=True)
    rows = ["image_name,tags"]
    for i, labels in enumerate([*positives(number - 1, num_labels), range(num_labels)]):
        _write_image(root / f"train-jpg/train_{i}.jpg", seed=i)
        rows.append(f"train_{i},{' '.join(f'tag_{label:02}' for label in labels)}")
    (root / "train_v2.csv").write_text("\n".join(rows))


def _write_image(path: pathlib.Path, *, seed: int) -> None:
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 256, (70, 90, 3), np.uint8)).save(path)
