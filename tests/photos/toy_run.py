"""A folder of photos and the toy network; as a program, explains them slowly (to be killed)."""

from __future__ import annotations

import functools
import pathlib
import sys
import time

import numpy as np
from PIL import Image

from minmax_jax.photos import write
from minmax_jax.photos.stream import explain_photos
from minmax_jax.select import TopLabels
from tests import toys

SIZE = 12
NAMES = ("a/b, c", "<b>evil</b>", "日本", "x" * 300)
METHODS = ("cam", "d_minmax_grad_cam")


def preprocess(images):
    return images.astype("float32") / 64 - 2


@functools.cache
def network(**fields):
    return toys.toy_network(preprocess=preprocess, image_size=SIZE, **fields)


def make_photos(folder: pathlib.Path, number: int) -> list[str]:
    """PNG files of patches, of many shapes."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index in range(number):
        rng = np.random.default_rng(index)
        patches = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8))
        size = tuple(int(side) for side in rng.integers(20, 60, 2))
        paths.append(str(folder / f"{index:03d}.png"))
        patches.resize(size, Image.Resampling.BICUBIC).save(paths[-1])
    return paths


def explain(paths, directory, **options):
    """`explain_photos` with the toy and few options."""
    settings = {
        "methods": METHODS,
        "select": TopLabels(2),
        "label_names": NAMES,
        "batch_size": 4,
        "progress": False,
    }
    return explain_photos(
        options.pop("network", None) or network(),
        toys.toy_variables(),
        paths,
        directory,
        **(settings | options),
    )


def slowly(function):
    def slow(*arguments):
        time.sleep(0.05)
        return function(*arguments)

    return slow


if __name__ == "__main__":
    write.encode_png = slowly(write.encode_png)  # thus a photo is killed between its files
    explain(sorted(map(str, pathlib.Path(sys.argv[1]).iterdir())), sys.argv[2])
