"""Pictures of maps on photos, as arrays: what the gallery's figures and the page both show.

Pictures are uint8 `(H W 3)`, RGB. Maps are float `(h w)` in 0..1, as large as activations or as the
photo, one for each explained pair of a photo and a label. Masks are uint8 `(H W)`: 0 background,
1 + label index, 255 void.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from minmax_jax.report.overlay import overlay_map, to_grey, to_show

SIDE = 176  # pixels of a shown picture's longer side
PALETTE = ("#e8a33d", "#4cb2e6", "#2fb57c", "#e0607e", "#a58be8", "#d8cf4a", "#5f86d6", "#d9773b")
CONTOUR = np.array([90, 255, 255], np.uint8)  # cyan: inferno has nothing like it


@dataclasses.dataclass(frozen=True)
class Row:
    """One explained label of one variant: its probability and a picture for each method."""

    variant: str
    probability: float
    pictures: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class LabelRows:
    """A label of a photo and the rows of the variants that explain it.

    Attributes:
      name: the label's name.
      color: its colour in `mask`, "#rrggbb".
      annotated: whether the photo is annotated with it.
      mask: picture of the true mask with this label standing out, or None.
      rows: one for each variant that explains it.
    """

    name: str
    color: str
    annotated: bool
    mask: np.ndarray | None
    rows: tuple[Row, ...]


@dataclasses.dataclass(frozen=True)
class Photo:
    """All that the gallery shows of one photo.

    Attributes:
      picture: the photo.
      annotated: names of the labels that it is annotated with.
      methods: names of the methods, one column each.
      labels: the explained labels.
      missed: `(variant, names)` of the annotated labels that a variant does not explain.
    """

    picture: np.ndarray
    annotated: tuple[str, ...]
    methods: tuple[str, ...]
    labels: tuple[LabelRows, ...]
    missed: tuple[tuple[str, tuple[str, ...]], ...]


def _rgb(color: str) -> np.ndarray:
    return np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)], np.float32)


def fit(picture: np.ndarray, *, smooth: bool = True) -> np.ndarray:
    """Enlarges or shrinks `(H W ...)` uint8 until its longer side has `SIDE` pixels."""
    height, width = picture.shape[:2]
    scale = SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    resampling = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(picture).resize(size, resampling))


def color_mask(
    image: np.ndarray, mask: np.ndarray, colors: Mapping[int, str], label: int
) -> np.ndarray:
    """Paints a mask over the greyed photo, `label` strongly and the other labels faintly.

    Args:
      image: uint8 `(H W 3)`.
      mask: uint8 `(H W)`.
      colors: `{label index: "#rrggbb"}`; other labels, background and void stay grey.
      label: index of the label that stands out.

    Returns:
      uint8 `(H W 3)`.
    """
    grey = 0.45 * to_grey(image)[..., None]
    painted = np.repeat(grey, 3, axis=-1)
    for index, color in colors.items():
        opacity = 0.85 if index == label else 0.3
        painted = np.where(
            (mask == index + 1)[..., None], (1 - opacity) * grey + opacity * _rgb(color), painted
        )
    return np.rint(painted).astype(np.uint8)


def draw_contour(picture: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Draws the outline of `inside`, bool `(H W)`, on a picture: one pixel, within the object."""
    padded = np.pad(inside, 1, mode="edge")
    surrounded = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.where((inside & ~surrounded)[..., None], CONTOUR, picture)


def compose_photo(
    galleries: Mapping[str, Mapping[str, np.ndarray]],
    index: int,
    *,
    label_names: Sequence[str],
    methods: Sequence[str],
) -> Photo:
    """Makes the pictures of one photo.

    Args:
      galleries: `{variant: arrays of its gallery.npz}`, all of the same photos.
      index: which photo.
      label_names: names of the labels.
      methods: names of the methods to show; one that a variant lacks has no picture there.

    Returns:
      The photo; rows are ordered by label, then by variant.
    """
    first = next(iter(galleries.values()))
    image, annotated = first["images"][index], first["labels"][index]
    grey = to_grey(image)
    mask = first["masks"][index] if "masks" in first else None
    explained = {variant: gallery["present"][index] for variant, gallery in galleries.items()}
    shown = np.logical_or.reduce(list(explained.values()))
    in_mask = np.isin(np.arange(len(label_names)) + 1, mask) if mask is not None else False
    colored = np.flatnonzero(shown | annotated | in_mask)
    colors = {int(label): PALETTE[i % len(PALETTE)] for i, label in enumerate(colored)}

    labels = []
    for label in map(int, np.flatnonzero(shown)):
        inside = None if mask is None else fit((mask == label + 1).astype(np.uint8), smooth=False)
        rows = []
        for variant, gallery in galleries.items():
            if not explained[variant][label]:
                continue
            (pair,) = np.flatnonzero((gallery["pairs"] == (index, label)).all(axis=1))
            pictures = {}
            for method in methods:
                if f"maps/{method}" in gallery:
                    map_ = to_show(method, gallery[f"maps/{method}"][pair])
                    picture = fit(overlay_map(grey, map_))
                    if inside is not None:
                        picture = draw_contour(picture, inside > 0)
                    pictures[method] = picture
            rows.append(Row(variant, float(gallery["probabilities"][index, label]), pictures))
        shown_mask = None if mask is None else fit(color_mask(image, mask, colors, label))
        labels.append(
            LabelRows(
                label_names[label], colors[label], bool(annotated[label]), shown_mask, tuple(rows)
            )
        )
    missed = tuple(
        (variant, _names(annotated & ~present, label_names))
        for variant, present in explained.items()
        if (annotated & ~present).any()
    )
    return Photo(fit(image), _names(annotated, label_names), tuple(methods), tuple(labels), missed)


def _names(chosen: np.ndarray, label_names: Sequence[str]) -> tuple[str, ...]:
    return tuple(label_names[label] for label in np.flatnonzero(chosen))
