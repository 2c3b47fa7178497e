"""Photos of a run over pair classifiers: rows of pictures, for the page and as figures.

A gallery holds, for p photos of side S, k comparison classes and t taps: images uint8 (p S S 3),
labels (p,) the class explained, objects uint8 (p S S) 1 where it is and 255 where nobody knows,
classes (p k) the comparison classes (below 0: none), and maps in 0..1: pair_maps (p k S S), fused,
baseline, adding and multi (p S S), layers (p t S S) with the taps' names in taps (t,).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from minmax_jax.report import figures
from minmax_jax.report.figures import INK, MUTED
from minmax_jax.report.overlay import overlay_map, to_grey
from minmax_jax.report.pictures import PALETTE, color_mask, draw_contour, fit


@dataclasses.dataclass(frozen=True)
class Strip:
    """A photo and maps of one class in it.

    Attributes:
      name: the class's name.
      pictures: `(what it is, uint8 (h w 3))` in order.
    """

    name: str
    pictures: tuple[tuple[str, np.ndarray], ...]


def class_strips(gallery: Mapping[str, np.ndarray], label_names: Sequence[str]) -> list[Strip]:
    """For each photo: true mask, a map for each comparison class, their fusion, the baseline."""
    result = []
    for index, classes in enumerate(gallery["classes"]):
        pairs = zip(classes, gallery["pair_maps"][index], strict=True)
        maps = [(f"against {label_names[other]}", map_) for other, map_ in pairs if other >= 0]
        maps.append(("fused", gallery["fused"][index]))
        maps.append(("Grad-CAM, all classes", gallery["baseline"][index]))
        result.append(_strip(gallery, index, label_names, maps))
    return result


def layer_strips(gallery: Mapping[str, np.ndarray], label_names: Sequence[str]) -> list[Strip]:
    """For each photo: true mask, the map of each tap against its first class, sum, multi-layer."""
    result = []
    for index, layers in enumerate(gallery["layers"]):
        maps = list(zip(map(str, gallery["taps"]), layers, strict=True))
        maps.append(("sum", gallery["adding"][index]))
        maps.append(("multi-layer", gallery["multi"][index]))
        result.append(_strip(gallery, index, label_names, maps))
    return result


def strips_figure(strips: Sequence[Strip]) -> Figure:
    """Strips below one another, pictures pixel for pixel, what each is above it."""
    margin, gap, head, left = 16, 6, 26, 150
    heights = [strip.pictures[0][1].shape[0] for strip in strips]
    widest = max(sum(p.shape[1] + gap for _, p in strip.pictures) for strip in strips)
    width = 2 * margin + left + widest
    height = 2 * margin + sum(heights) + len(strips) * (head + gap)
    figure = Figure(figsize=(width / 100, height / 100), dpi=100, facecolor="white")

    def write(x, y, text, **style):
        figure.text(x / width, 1 - y / height, text, fontsize=12, parse_math=False, **style)

    y = margin
    for number, (strip, tall) in enumerate(zip(strips, heights, strict=True), 1):
        write(margin, y + head, f"Photo {number}", color=MUTED, va="top")
        name = figures.shorten(strip.name, 15)
        write(margin, y + head + 24, name, color=INK, va="top", weight="bold")
        x = margin + left
        for text, picture in strip.pictures:
            write(x, y + head - 6, figures.shorten(text, 21), color=INK, va="bottom")
            figure.figimage(picture, x, height - y - head - tall, origin="upper")
            x += picture.shape[1] + gap
        y += head + tall + gap
    return figure


def _strip(gallery, index: int, label_names: Sequence[str], maps) -> Strip:
    image, label = gallery["images"][index], int(gallery["labels"][index])
    grey, objects = to_grey(image), gallery["objects"][index]
    inside = fit((objects == 1).astype(np.uint8), smooth=False) > 0
    mask = np.where(objects == 1, label + 1, 0)
    pictures = [
        ("photo", fit(image)),
        ("true mask", fit(color_mask(image, mask, {label: PALETTE[0]}, label))),
    ]
    for text, map_ in maps:
        picture = fit(overlay_map(grey, np.asarray(map_, np.float32)))
        pictures.append((text, draw_contour(picture, inside)))
    return Strip(label_names[label], tuple(pictures))
