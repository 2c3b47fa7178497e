"""Which files are explained, and the folder that each of them gets."""

from __future__ import annotations

import functools
import glob
import hashlib
import os
import pathlib
import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from PIL import Image

MAPS = "maps.npz"  # written last into a photo's folder
_NAME_BYTES = 80


def find_photos(patterns: str) -> list[str]:
    """Paths of photos, sorted, each once.

    Args:
      patterns: a file, a folder (the images in it), or a glob pattern (`**` for folders in
        folders); or several of them separated by commas, if the whole is not itself one.

    Raises:
      ValueError: if a part matches nothing.
    """
    if not patterns.strip():
        raise ValueError("no photos named: give a file, a folder or a pattern such as 'trip/*.jpg'")
    found = _matches(patterns)
    if not found:
        parts = [part.strip() for part in patterns.split(",") if part.strip()]
        for part in parts:
            matches = _matches(part)
            if not matches:
                raise ValueError(f"no photo matches {part!r}")
            found += matches
    unique = {os.path.abspath(path): path for path in reversed(found)}
    return sorted(unique.values())


def _matches(pattern: str) -> list[str]:
    pattern = os.path.expanduser(pattern.strip())
    if os.path.isfile(pattern):
        return [pattern]
    if os.path.isdir(pattern):
        known = _extensions()
        inside = (os.path.join(pattern, name) for name in os.listdir(pattern))
        return [path for path in inside if os.path.splitext(path)[1].lower() in known]
    return [path for path in glob.glob(pattern, recursive=True) if not os.path.isdir(path)]


@functools.cache
def _extensions() -> frozenset[str]:
    return frozenset(Image.registered_extensions())


def printable(path: str) -> str:
    """A path as text that any file can hold: bytes that are no UTF-8 become `\\udc..` escapes."""
    return path.encode("utf-8", "backslashreplace").decode()


def safe_name(text: str, *, limit: int = _NAME_BYTES) -> str:
    """A part of a path that every system takes: letters, digits, `-`, `_` and inner dots.

    Letters of all scripts stay. At most `limit` bytes of UTF-8; "_" if nothing is left.
    """
    text = unicodedata.normalize("NFC", printable(text))
    text = re.sub(r"_*[^\w.-]+_*", "_", text).strip("._-")
    return text.encode()[:limit].decode(errors="ignore").rstrip("._-") or "_"


def assign_folders(paths: Sequence[str], directory: pathlib.Path) -> dict[str, pathlib.Path]:
    """A folder for each photo, named after its file.

    Where two files have one name, or a former run gave the name to another file, a short hash of
    the path makes the difference. So a photo keeps its folder when more photos come.
    """
    folders, taken = {}, set()
    for path in paths:
        name = safe_name(pathlib.PurePath(path).stem)
        owner = owner_of(directory / name)
        # Some systems take "A" and "a" for one name.
        if name.casefold() in taken or owner not in (None, printable(path)):
            digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:10]
            name = f"{name}-{digest}"
        taken.add(name.casefold())
        folders[path] = directory / name
    return folders


def owner_of(folder: pathlib.Path) -> str | None:
    """The path of the photo whose results `folder` holds whole, None without them."""
    if not (folder / MAPS).is_file():
        return None
    with np.load(folder / MAPS) as arrays:
        return str(arrays["photo"])
