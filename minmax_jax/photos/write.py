"""What is written of one photo: overlays, a contact sheet, the raw maps; whole or not at all."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shutil
from collections.abc import Mapping

import numpy as np

from minmax_jax.photos.listing import MAPS, printable, safe_name
from minmax_jax.report.names import method_title
from minmax_jax.report.overlay import Box, overlay_map, to_grey, to_show
from minmax_jax.report.png import encode_png
from minmax_jax.report.sheet import Row, draw_sheet

SHEET = "contact_sheet.jpg"
_ASIDE = ".partial"


@dataclasses.dataclass(frozen=True, eq=False)
class Photo:
    """What is kept of a photo while it is explained: less than the photo.

    Attributes:
      path: of its file.
      grey: uint8 `(H W)`, luminance at the photo's own resolution.
      thumbnail: uint8 `(h w 3)`, for the contact sheet.
      image: float32 `(S S 3)`, what the network sees.
      box: top, left, bottom and right of that in pixels of the photo.
    """

    path: str
    grey: np.ndarray
    thumbnail: np.ndarray
    image: np.ndarray
    box: Box


@dataclasses.dataclass(frozen=True, eq=False)
class Explanation:
    """The explained labels of one photo, in the order of their selection, and their maps.

    Attributes:
      labels: int32 `(n,)`, indices.
      names: the labels' names.
      probabilities: float32 `(n,)`.
      maps: by method, float32 `(n h w)`, raw.
      masks: by method, float32 `(n h w)`, normalised to 0..1.
      note: what there is to say of the photo as a whole, "" for nothing.
    """

    labels: np.ndarray
    names: tuple[str, ...]
    probabilities: np.ndarray
    maps: Mapping[str, np.ndarray]
    masks: Mapping[str, np.ndarray]
    note: str


def write_photo(folder: pathlib.Path, photo: Photo, explanation: Explanation) -> None:
    """Writes the results of a photo aside, then renames them to `folder`.

    `RANK_LABEL_METHOD.png` are overlays at the photo's resolution, `contact_sheet.jpg` shows them
    all, and `maps.npz` holds `photo` (its path), `size (2,)` (height and width), `box (4,)` (top,
    left, bottom, right of the maps in pixels of the photo), `labels (n,)`, `names (n,)`,
    `probabilities (n,)`, `note` and for each method `maps/METHOD (n h w)`, raw.
    """
    aside = folder.with_name(f".{folder.name}{_ASIDE}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for method, masks in explanation.masks.items():
        for number, (name, mask) in enumerate(zip(explanation.names, masks, strict=True), 1):
            picture = overlay_map(photo.grey, to_show(method, mask), photo.box)
            (aside / overlay_file(number, name, method)).write_bytes(encode_png(picture))
    _draw(photo, explanation).save(aside / SHEET, quality=88)
    np.savez(
        aside / MAPS,
        photo=printable(photo.path),
        size=np.array(photo.grey.shape),
        box=np.array(photo.box),
        labels=explanation.labels,
        names=np.array(explanation.names, np.str_),
        probabilities=explanation.probabilities,
        note=explanation.note,
        **{f"maps/{method}": maps for method, maps in explanation.maps.items()},
    )
    shutil.rmtree(folder, ignore_errors=True)  # not whole, or it would not be written again
    os.rename(aside, folder)


def overlay_file(rank: int, label: str, method: str) -> str:
    """Name of the file that holds an overlay."""
    return f"{rank}_{safe_name(label)}_{method}.png"


def remove_partial(directory: pathlib.Path) -> None:
    """Removes what a killed run left unfinished."""
    for aside in directory.glob(f".*{_ASIDE}"):
        shutil.rmtree(aside)


def percent(probability: float) -> str:
    """A probability as people read it: `97.3 %`, `< 0.1 %`."""
    return f"{100 * probability:.1f} %" if probability >= 0.0005 else "< 0.1 %"


def _draw(photo, explanation):
    height, width = photo.grey.shape
    small_height, small_width = photo.thumbnail.shape[:2]
    grey = to_grey(photo.thumbnail)
    scale = np.array([small_height / height, small_width / width] * 2)
    box = tuple(float(edge) for edge in np.array(photo.box) * scale)
    rows = [
        Row(
            name,
            percent(probability),
            [
                overlay_map(grey, to_show(method, masks[number]), box)
                for method, masks in explanation.masks.items()
            ],
        )
        for number, (name, probability) in enumerate(
            zip(explanation.names, explanation.probabilities, strict=True)
        )
    ]
    return draw_sheet(
        photo.thumbnail,
        title=pathlib.PurePath(printable(photo.path)).name,
        note=explanation.note or f"{width} × {height}",
        columns=[method_title(method) for method in explanation.masks],
        rows=rows,
    )
