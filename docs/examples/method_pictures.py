r"""Draws the pictures of docs/methods: the same photos by all methods of a family.

    python -m docs.examples.method_pictures runs/scenes/plain chelsea.png mobilenet_v2.h5 \
        imagenet_labels.txt docs/images

The first rows are the labels of a scene, explained by the network of `experiments/scenes.py`; the
last is a photo by ImageNet's weights, explained for the label that they find likeliest.
"""

from __future__ import annotations

import pathlib
import sys
import textwrap
from collections.abc import Iterator

import jax
import numpy as np
from matplotlib.figure import Figure

import minmax_jax as mj
from minmax_jax import data, files
from minmax_jax.data.images import decode_image, resize_image
from minmax_jax.methods import supported_methods
from minmax_jax.pretrained import load_network
from minmax_jax.report.names import method_title
from minmax_jax.report.overlay import overlay_map, to_grey, to_show

# Families of each page; a method that is added is drawn with its own.
PAGES = {
    "kernel": ("kernel",),
    "gradient": ("gradient",),
    "forward": ("masking", "ablation", "activation"),
    "saliency": ("saliency",),
}
ACROSS = 6  # methods beside one another
SCENE = 1  # of the validation scenes, one with three digits


def rows_of(loaded, photo: np.ndarray, labels: np.ndarray, names, method: str) -> Iterator:
    """An overlay for each of the labels `(n,)` of a photo uint8 `(H W 3)`."""
    images = loaded.network.preprocess(photo[None]).astype(np.float32)
    maps, logits = mj.explain(
        loaded.network,
        loaded.variables,
        images,
        method=method,
        labels=labels[None],
        present=np.isin(np.arange(len(names)), labels)[None],
        activation=loaded.activation,
    )
    for label, map_ in zip(labels, np.asarray(mj.normalize_maps(maps[0])), strict=True):
        yield names[label], overlay_map(to_grey(photo), to_show(method, map_))


def draw(photos: list, columns: dict[str, list], path: pathlib.Path) -> None:
    """A column for each method, a row for each label; the photos stand left of each block."""
    titles = list(columns)
    blocks = [titles[start : start + ACROSS] for start in range(0, len(titles), ACROSS)]
    width, height = 1 + min(ACROSS, len(titles)), len(blocks) * len(photos)
    figure = Figure(figsize=(1.5 * width + 0.2, 1.5 * height + 0.5 * len(blocks)), dpi=120)
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    for block, part in zip(blocks, figure.subfigures(len(blocks), squeeze=False).flat, strict=True):
        axes = part.subplots(len(photos), width, squeeze=False)
        for place in axes.flat:
            place.set_axis_off()
        for column, title in enumerate(["photo", *block]):
            axes[0, column].set_title(textwrap.fill(title, 13, break_long_words=False), size=9)
            for row, (_, picture) in enumerate(columns.get(title, photos)):
                axes[row, column].imshow(picture)
        for place, (label, _) in zip(axes[:, 0], photos, strict=True):
            place.text(
                -0.08, 0.5, label, size=9, rotation=90, va="center", transform=place.transAxes
            )
    files.write_atomically(path, lambda file: figure.savefig(file, format="jpg", dpi="figure"))


def main() -> None:
    run, photo_file, weights, names_file, directory = sys.argv[1:]
    scenes = load_network(run, key=jax.random.key(0))
    scene = data.create_source("scenes", "validation")[SCENE]
    digits = np.flatnonzero(scene["labels"])
    imagenet = load_network(weights, name="mobilenet_v2", key=jax.random.key(0))
    photo = resize_image(decode_image(photo_file), 224, "crop").astype(np.uint8)
    seen = imagenet.network.preprocess(photo[None]).astype(np.float32)
    top = np.asarray(mj.explain(imagenet.network, imagenet.variables, seen, method="cam")[1])
    label = np.argmax(top, axis=1)
    imagenet_names = pathlib.Path(names_file).read_text(encoding="utf-8").splitlines()
    photos = [(scenes.label_names[digit], scene["image"]) for digit in digits]
    photos.append((imagenet_names[label[0]].split(",")[0], photo))
    for page, families in PAGES.items():
        columns = {
            method_title(method): [
                *rows_of(scenes, scene["image"], digits, scenes.label_names, method),
                *rows_of(imagenet, photo, label, imagenet_names, method),
            ]
            for method in supported_methods(scenes.network)
            if mj.METHODS[method].family in families
        }
        path = pathlib.Path(directory) / f"methods_{page}.jpg"
        draw(photos, columns, path)
        print(path)


if __name__ == "__main__":
    main()
