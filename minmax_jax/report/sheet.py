"""Contact sheets: a photo beside a grid of its overlays, a row a label and a column a method."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Sequence

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE = 300  # pixels of a picture's longer side
_MARGIN, _GAP = 18, 10
_LINE = 30  # height of a line of text
_LEAST_WIDTH = 176  # of a column, for the methods' names
_PAPER, _INK, _MUTED = "#16181c", "#e9ebee", "#a3acb8"  # dark: maps glow, on any page


@dataclasses.dataclass(frozen=True)
class Row:
    """One explained label.

    Attributes:
      name: the label's name.
      value: its probability as text.
      pictures: uint8 `(h w 3)`, one for each column, as large as the photo.
    """

    name: str
    value: str
    pictures: Sequence[np.ndarray]


def draw_sheet(
    photo: np.ndarray, *, title: str, note: str, columns: Sequence[str], rows: Sequence[Row]
) -> Image.Image:
    """Draws a contact sheet.

    Args:
      photo: uint8 `(h w 3)`, at the size at which it is shown.
      title: stands over the photo; texts that are too long end in "…".
      note: stands under the photo.
      columns: headings of the columns.
      rows: as many pictures each as there are columns.
    """
    height, width = photo.shape[:2]
    column = max(width, _LEAST_WIDTH)
    step_x, step_y = column + _GAP, height + _LINE + _GAP
    sheet_width = 2 * _MARGIN + step_x * (len(columns) + 1) - _GAP
    sheet_height = 2 * _MARGIN + _LINE + step_y * max(1, len(rows)) + (0 if len(rows) > 1 else 20)
    sheet = Image.new("RGB", (sheet_width, sheet_height), _PAPER)
    draw = ImageDraw.Draw(sheet)

    def write(text, x, y, room, *, bold=False, color=_INK):
        font = _font(bold)
        draw.text((x, y + _LINE / 2), _elide(text, font, room), color, font, anchor="lm")

    first = _MARGIN + step_x
    top = _MARGIN + _LINE
    write(title, _MARGIN, top, column, bold=True)
    sheet.paste(Image.fromarray(photo), (_MARGIN, top + _LINE))
    write(note, _MARGIN, top + _LINE + height, column, color=_MUTED)
    for number, text in enumerate(columns if rows else ()):
        write(text, first + number * step_x, _MARGIN, column, color=_MUTED)
    for number, row in enumerate(rows):
        y = top + number * step_y
        value = f"{row.value}  "
        indent = _font(True).getlength(value)
        write(value, first, y, indent + 1, bold=True)
        write(row.name, first + indent, y, sheet_width - _MARGIN - first - indent)
        for place, picture in enumerate(row.pictures):
            sheet.paste(Image.fromarray(picture), (first + place * step_x, y + _LINE))
    return sheet


def fit(image: np.ndarray) -> np.ndarray:
    """Brings a photo, uint8 `(H W 3)`, to the size at which a sheet shows it."""
    height, width = image.shape[:2]
    scale = SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    pil = Image.fromarray(image)
    # Halved and halved again first, by means over blocks: for a picture this small that will do.
    return np.asarray(pil.resize(size, Image.Resampling.BILINEAR, reducing_gap=1.0))


def _elide(text: str, font: ImageFont.FreeTypeFont, room: float) -> str:
    """The text in one line of printable characters, cut where `room` pixels end."""
    text = "".join(char if char.isprintable() else " " for char in text[:200])
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(f"{text}…") > room:
        text = text[:-1]
    return f"{text}…"


@functools.cache
def _font(bold: bool) -> ImageFont.FreeTypeFont:
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    folder = pathlib.Path(matplotlib.get_data_path(), "fonts", "ttf")
    return ImageFont.truetype(folder / name, 15, layout_engine=ImageFont.Layout.BASIC)
