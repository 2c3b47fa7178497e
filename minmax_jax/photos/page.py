"""The page that shows all explained photos, and the summary as a table."""

from __future__ import annotations

import csv
import dataclasses
import io
import pathlib
import re
from collections.abc import Sequence
from urllib.parse import quote

import numpy as np
from PIL import Image

from minmax_jax import files
from minmax_jax.photos.listing import MAPS
from minmax_jax.photos.write import SHEET, overlay_file, percent
from minmax_jax.report import templates

PER_PAGE = 100  # photos, so that a phone can open a page
_COLUMNS = ("photo", "folder", "rank", "label", "name", "probability")


@dataclasses.dataclass(frozen=True)
class Entry:
    """What the page says of one photo.

    Attributes:
      photo: path of its file.
      folder: name of its folder.
      note: of the photo as a whole, "" for none.
      labels: index, name and probability of each explained label.
      sheet_size: width and height of the contact sheet in pixels.
    """

    photo: str
    folder: str
    note: str
    labels: tuple[tuple[int, str, float], ...]
    sheet_size: tuple[int, int]

    @property
    def title(self) -> str:
        return pathlib.PurePath(self.photo).name


def write_page(workdir: pathlib.Path, *, title: str) -> pathlib.Path:
    """Writes `report/index.html`, with `index-2.html` and so on for many photos, and `summary.csv`.

    Pictures are not embedded: the pages link to the photos' folders beside them.

    Args:
      workdir: a folder with `config.json`, `skipped.json` and `photos/*/maps.npz`.
      title: the page's title.

    Returns:
      Path of the first page.
    """
    config = files.read_json(workdir / "config.json")
    entries = read_entries(workdir / "photos")
    _write_summary(workdir / "summary.csv", entries)
    parts = [entries[i : i + PER_PAGE] for i in range(0, len(entries), PER_PAGE)] or [[]]
    pages = ["index.html"] + [f"index-{number}.html" for number in range(2, len(parts) + 1)]
    report = workdir / "report"
    filters = {"percent": percent, "overlay_url": _overlay_url, "sheet_url": _sheet_url}
    template = templates.template("photos.html", filters)
    for number, part in enumerate(parts):
        html = template.render(
            title=title,
            photos=part,
            number=len(entries),
            pages=pages,
            current=number,
            methods=list(dict.fromkeys(config["methods"])),
            skipped=files.read_json(workdir / "skipped.json"),
            config=dict(templates.flat(config)),
            scale=templates.scale(),
        )
        content = html.encode("utf-8", "backslashreplace")
        files.write_atomically(report / pages[number], lambda file, text=content: file.write(text))
    for stale in set(report.glob("index-*.html")) - {report / page for page in pages}:
        stale.unlink()
    return report / "index.html"


def read_entries(directory: pathlib.Path) -> list[Entry]:
    """What is known of the photos in `directory`, in the order of their paths, numbers as such."""
    entries = []
    for path in directory.glob(f"*/{MAPS}"):
        if path.parent.name.startswith("."):
            continue  # being written
        with np.load(path) as arrays:
            labels = zip(
                arrays["labels"].tolist(),
                arrays["names"].tolist(),
                arrays["probabilities"].tolist(),
                strict=True,
            )
            photo, note = str(arrays["photo"]), str(arrays["note"])
        with Image.open(path.with_name(SHEET)) as sheet:
            size = sheet.size
        entries.append(Entry(photo, path.parent.name, note, tuple(labels), size))
    return sorted(entries, key=lambda entry: _natural(entry.photo))


def _natural(text: str) -> list[tuple[bool, int | str]]:
    parts = re.split(r"(\d+)", text.casefold())
    return [(not part.isdecimal(), int(part) if part.isdecimal() else part) for part in parts]


def _write_summary(path: pathlib.Path, entries: Sequence[Entry]) -> None:
    """A row for each explained label; a photo without one has a row with its name only."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(_COLUMNS)
    for entry in entries:
        for rank, (index, name, probability) in enumerate(entry.labels, 1):
            writer.writerow([entry.photo, entry.folder, rank, index, name, f"{probability:.6g}"])
        if not entry.labels:
            writer.writerow([entry.photo, entry.folder, "", "", "", ""])
    files.write_atomically(path, lambda file: file.write(text.getvalue().encode()))


def _sheet_url(entry: Entry) -> str:
    return f"../photos/{quote(entry.folder)}/{SHEET}"


def _overlay_url(entry: Entry, rank: int, method: str) -> str:
    name = entry.labels[rank - 1][1]
    return f"../photos/{quote(entry.folder)}/{quote(overlay_file(rank, name, method))}"
