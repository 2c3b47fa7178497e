"""Planet: Understanding the Amazon from Space, in the folder of its Kaggle contest: `planet`.

    root/train_v2.csv              image_name,tags
                                   train_0,haze primary
    root/train-jpg/train_0.jpg     256x256 pixels

The table has 40,479 rows and 17 labels; some copies name it `train_classes.csv`. The labels of the
test images are not public.
"""

from __future__ import annotations

import pathlib

import numpy as np

from minmax_jax.data import folder
from minmax_jax.data import images as images_lib

TABLES = ("train_v2.csv", "train_classes.csv")


class Planet:
    """Random access to the images of one split; there are no masks.

    Validation is the first 30 % of the table's rows, rounded down, training the rest. The labels
    are those of the whole table, sorted.

    Args:
      split: "train" or "validation".
      root: the folder that the other paths are relative to.
      csv: the table; "" takes `train_v2.csv`, or `train_classes.csv` if there is no such file.
      images: the folder of images.

    Attributes:
      image_paths: the path of each image.

    Raises:
      ValueError: naming the file that is missing or wrong, and how to get it.
    """

    splits = ("train", "validation")
    has_masks = False
    skipped = ()

    def __init__(self, split: str, *, root: str = ".", csv: str = "", images: str = "train-jpg"):
        home = pathlib.Path(root).expanduser()
        advice = (
            "Unpack train_v2.csv.zip and train-jpg.tar.7z of "
            f"https://www.kaggle.com/c/planet-understanding-the-amazon-from-space in {home}"
        )
        tables = [home / name for name in ([csv] if csv else TABLES)]
        table = next((path for path in tables if path.is_file()), None)
        if table is None:
            raise ValueError(f"no table {' or '.join(map(str, tables))}. {advice}")
        rows = folder.read_rows(table)
        self.label_names = tuple(sorted({label for row in rows for label in row.labels}))
        if not self.label_names:
            raise ValueError(f"{table}: no labels")
        rows = split_rows(rows, split)
        if not rows:
            raise ValueError(f"{table}: too few rows for the split {split!r}")
        self._labels = folder.multi_hot(rows, self.label_names, table)
        self.image_paths = folder.find_files(
            home / images, [f"{row.image}.jpg" for row in rows], what="image", advice=advice
        )

    def __len__(self) -> int:
        return len(self.image_paths)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        image = images_lib.decode_image(self.image_paths[index])
        return {"image": image, "labels": self._labels[index].copy()}


def split_rows(rows: list[folder.Row], split: str) -> list[folder.Row]:
    """The rows of "validation", the first 30 %, rounded down, or of "train", the rest."""
    first = len(rows) * 3 // 10
    return rows[:first] if split == "validation" else rows[first:]
